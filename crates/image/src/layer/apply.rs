//! Writes a layer's entries into a directory that overlayfs stacks over the layers below.
//!
//! The archive is hostile: it may name `../x`, absolute paths, and paths through symbolic links it made itself. No path
//! is ever handed to the kernel whole. Each is walked component by component from the layer's root by directory
//! descriptors that do not follow links; a symbolic link met on the way is resolved here, inside the root, as the
//! finished image's programs would see it. So there is no path that leads outside, whatever the archive does.
//!
//! The layer is applied *over* the layers below, which matters where it does not list everything itself:
//! - A directory the archive passes through without listing it takes owner, mode and attributes from below.
//! - A link on the way may lie in a layer below.
//! - A hard link to a file below copies that file up first.
//! - `.wh.NAME` (a *whiteout*) becomes a character device 0:0, `.wh..wh..opq` the attribute `trusted.overlay.opaque`;
//!   where neither can be made (without root), the `user.overlay` attributes stand in (kernel documentation,
//!   `filesystems/overlayfs.rst`, "whiteouts and opaque directories").
//!
//! Set-user-ID bits and file capabilities are set after the owner, which clears them; times of directories last.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::Path,
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Limits,
    archive::{Archive, ArchiveError, Entry, Kind},
    merge::{DIRECTORY, Place, copy_entry, copy_xattrs, is_whiteout},
};

/// Links followed on one path; the kernel's own limit.
const LINKS_MAX: usize = 40;
/// Directory descriptors kept open.
const CACHE_MAX: usize = 64;
/// From this size on, blocks of zeros become holes.
const SPARSE_FROM: u64 = 64 << 10;
/// The unit of holes.
const HOLE: usize = 4096;

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The archive is broken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An entry is not acceptable.
    #[error("entry `{entry}`: {reason}")]
    Entry {
        /// Its path.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// The system refused an operation.
    #[error("entry `{entry}`: cannot {action}: {source}")]
    System {
        /// The entry's path.
        entry: String,
        /// What was tried.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// How removals are recorded for overlayfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Device nodes and `trusted.overlay.*`: needs CAP_SYS_ADMIN in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounted with the option `userxattr`.
    User,
}

impl Marks {
    /// The name of the attribute `suffix` ("opaque", "whiteout").
    pub fn attribute(self, suffix: &str) -> String {
        match self {
            Marks::Trusted => format!("trusted.overlay.{suffix}"),
            Marks::User => format!("user.overlay.{suffix}"),
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content, holes not counted.
    pub bytes: u64,
}

/// Applies the archive `input` to the directory `root`, which must be empty. `lowers` are the directories of the layers
/// below, the nearest first. Reads `input` to its end.
pub fn apply<R: BufRead>(
    input: R,
    root: OwnedFd,
    lowers: Vec<OwnedFd>,
    marks: Marks,
    limits: Limits,
) -> Result<Applied, ApplyError> {
    let mut archive = Archive::new(input, limits);
    let mut applier = Applier {
        top: Rc::new(Dir { fd: root, path: Vec::new(), lowers: (0..lowers.len()).collect() }),
        lowers,
        marks,
        limits,
        privileged: rustix::process::geteuid().is_root(),
        owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        cache: HashMap::new(),
        finish: BTreeMap::new(),
        entry: String::new(),
        applied: Applied::default(),
    };
    applier.start()?;
    while let Some(entry) = archive.next_entry()? {
        applier.applied.entries += 1;
        applier.apply(&entry, &mut archive)?;
    }
    archive.drain()?;
    applier.finish()?;
    Ok(applier.applied)
}

/// A directory of the layer, open.
struct Dir {
    fd: OwnedFd,
    /// From the root, components joined by `/`, no symbolic link on it; empty for the root.
    path: Vec<u8>,
    /// Indices into `Applier::lowers` of the layers that have this directory and show through.
    lowers: Vec<usize>,
}

impl Dir {
    fn child_path(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() }
    }
}

struct Applier {
    top: Rc<Dir>,
    lowers: Vec<OwnedFd>,
    marks: Marks,
    limits: Limits,
    privileged: bool,
    owner: (u32, u32),
    /// Directories by the path under which an archive asked for them; links may lead several paths to one.
    cache: HashMap<Vec<u8>, Rc<Dir>>,
    /// Modes and times that directories get at the end, by path.
    finish: BTreeMap<Vec<u8>, (Mode, Timestamps)>,
    /// The entry being applied, for errors.
    entry: String,
    applied: Applied,
}

/// What the layers below have under a name.
enum Lower {
    Nothing,
    Directory(usize),
    Link(usize),
    Other(usize),
}

impl Applier {
    fn bad(&self, reason: impl Into<String>) -> ApplyError {
        ApplyError::Entry { entry: self.entry.clone(), reason: reason.into() }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> ApplyError {
        move |source| ApplyError::System { entry: self.entry.clone(), action, source: source.into() }
    }

    /// The root looks as it does below until the archive says otherwise.
    fn start(&mut self) -> Result<(), ApplyError> {
        self.entry = "/".to_owned();
        if self.lowers.is_empty() {
            let times = Timestamps { last_access: omit(), last_modification: at((0, 0)) };
            self.finish.insert(Vec::new(), (Mode::from_raw_mode(0o755), times));
            return Ok(());
        }
        let top = Rc::clone(&self.top);
        self.copy_attributes_up(0, &top)
    }

    fn apply<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), ApplyError> {
        self.entry = String::from_utf8_lossy(&entry.path).chars().take(200).collect();
        if entry.path.len() > self.limits.path {
            return Err(self.bad(format!(
                "the path has {} bytes, the limit is {}",
                entry.path.len(),
                self.limits.path
            )));
        }
        let components = self.components(&entry.path)?;
        let Some((&name, parents)) = components.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(self.bad("the root can only be a directory"));
            }
            let top = Rc::clone(&self.top);
            return self.directory_attributes(entry, &top);
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            // The remaining `.wh..wh.` names are AUFS's own files.
            if hidden.starts_with(b".wh.") && hidden != b".wh..opq" {
                return Ok(());
            }
            if hidden.is_empty() || hidden == b"." || hidden == b".." {
                return Err(self.bad("this whiteout hides no file (want .wh. and a name)"));
            }
            // What is not there below needs no hiding.
            let Some(parent) = self.directory(parents, false)? else { return Ok(()) };
            return match hidden {
                b".wh..opq" => self.set_opaque(&parent),
                _ => self.whiteout(&parent, hidden),
            };
        }
        let parent = self.parent(parents)?;
        match entry.kind {
            Kind::File => self.file(entry, &parent, name, archive),
            Kind::Directory => self.make_directory(entry, &parent, name),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(self.bad("the symbolic link has no target"));
                }
                self.replacing(&parent, name, "make the symbolic link", |fd| {
                    fs::symlinkat(bytes_path(&entry.link), fd, bytes_path(name))
                })?;
                self.attributes_by_name(entry, &parent, name)
            }
            Kind::HardLink => self.hard_link(entry, &parent, name),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.node(entry, &parent, name),
            Kind::Other(byte) => Err(self.bad(format!("its type `{}` is not known", byte.escape_ascii()))),
        }
    }

    /// The components of a path of the archive: leading `/` and `.` dropped, `..` refused.
    fn components<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, ApplyError> {
        let mut components = Vec::new();
        for component in path.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(self.bad("the path contains `..`; it would leave the layer")),
                name if name.len() > 255 => return Err(self.bad("a name on the path has more than 255 bytes")),
                name => components.push(name),
            }
        }
        if components.len() > self.limits.depth {
            let (depth, limit) = (components.len(), self.limits.depth);
            return Err(self.bad(format!("the path is {depth} directories deep, the limit is {limit}")));
        }
        Ok(components)
    }

    fn parent(&mut self, parents: &[&[u8]]) -> Result<Rc<Dir>, ApplyError> {
        match self.directory(parents, true)? {
            Some(dir) => Ok(dir),
            None => Err(self.bad("its directory does not exist")),
        }
    }

    /// The directory at `components` in the image as this layer makes it. A missing one is made when `create`; one that only
    /// lies below is made here in its likeness.
    fn directory(&mut self, components: &[&[u8]], create: bool) -> Result<Option<Rc<Dir>>, ApplyError> {
        if components.is_empty() {
            return Ok(Some(Rc::clone(&self.top)));
        }
        let key = components.join(&b'/');
        if let Some(dir) = self.cache.get(&key) {
            return Ok(Some(Rc::clone(dir)));
        }
        // Most paths have their directory's own directory in the cache.
        let known = (1..components.len())
            .rev()
            .find_map(|count| Some((count, Rc::clone(self.cache.get(&components[..count].join(&b'/'))?))));
        let (done, start) = known.unwrap_or_else(|| (0, Rc::clone(&self.top)));
        // What is left to walk, the next component last; links put their targets here.
        let mut left: Vec<Vec<u8>> = components[done..].iter().rev().map(|name| name.to_vec()).collect();
        // The way back for `..` in a link's target: ancestors are walked anew from the root.
        let mut dir = start;
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                let up: Vec<Vec<u8>> = dir.path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect();
                let count = up.len().saturating_sub(1);
                left.extend(up.into_iter().take(count).rev());
                dir = Rc::clone(&self.top);
                continue;
            }
            match self.step(&dir, &name, create)? {
                Step::Directory(next) => dir = Rc::new(next),
                Step::Missing => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(self.bad("too many symbolic links on the path"));
                    }
                    if target.first() == Some(&b'/') {
                        dir = Rc::clone(&self.top);
                    }
                    let parts = target.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
                    left.extend(parts.map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter().rev());
                    if left.len() > self.limits.depth {
                        return Err(self.bad("symbolic links make the path too deep"));
                    }
                }
            }
        }
        if self.cache.len() >= CACHE_MAX {
            self.cache.clear();
        }
        self.cache.insert(key, Rc::clone(&dir));
        Ok(Some(dir))
    }

    /// One component down from `dir`.
    fn step(&mut self, dir: &Dir, name: &[u8], create: bool) -> Result<Step, ApplyError> {
        match open_directory(dir.fd.as_fd(), name) {
            Ok(fd) => return Ok(Step::Directory(self.opened(dir, name, fd)?)),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = fs::statat(&dir.fd, bytes_path(name), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(self.failed("look at a part of the path"))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    return self.link_target(&dir.fd, name).map(Step::Link);
                }
                if !create {
                    return Ok(Step::Missing);
                }
                if !self.is_whiteout(&dir.fd, bytes_path(name), &stat) {
                    return Err(self.bad(format!("`{}` on its path is no directory", name.escape_ascii())));
                }
                // Removed and made again: nothing below shows through.
                fs::unlinkat(&dir.fd, bytes_path(name), AtFlags::empty()).map_err(self.failed("replace a whiteout"))?;
                let mut made = self.make_implicit(dir, name)?;
                self.set_opaque(&made)?;
                made.lowers.clear();
                return Ok(Step::Directory(made));
            }
            Err(error) => return Err(self.failed("open a directory on the path")(error)),
        }
        match self.lower(dir, name)? {
            Lower::Directory(index) => {
                let path = dir.child_path(name);
                fs::mkdirat(&dir.fd, bytes_path(name), Mode::RWXU).map_err(self.failed("make a directory"))?;
                let fd = open_directory(dir.fd.as_fd(), name).map_err(self.failed("open a directory"))?;
                let made = Dir { fd, path, lowers: self.lowers_of(dir, name)? };
                self.copy_attributes_up(index, &made)?;
                Ok(Step::Directory(made))
            }
            Lower::Link(index) => {
                let target = fs::readlinkat(&self.lowers[index], bytes_path(&dir.child_path(name)), Vec::new())
                    .map_err(self.failed("read a symbolic link on the path"))?;
                Ok(Step::Link(target.into_bytes()))
            }
            Lower::Nothing | Lower::Other(_) if !create => Ok(Step::Missing),
            Lower::Other(_) => Err(self.bad(format!("`{}` on its path is no directory", name.escape_ascii()))),
            Lower::Nothing => Ok(Step::Directory(self.make_implicit(dir, name)?)),
        }
    }

    /// A directory the archive never lists: 0755, root's, at the start of time, so that the result does not depend on now.
    fn make_implicit(&mut self, dir: &Dir, name: &[u8]) -> Result<Dir, ApplyError> {
        let path = dir.child_path(name);
        fs::mkdirat(&dir.fd, bytes_path(name), Mode::RWXU).map_err(self.failed("make a directory"))?;
        let fd = open_directory(dir.fd.as_fd(), name).map_err(self.failed("open a directory"))?;
        let times = Timestamps { last_access: omit(), last_modification: at((0, 0)) };
        self.finish.insert(path.clone(), (Mode::from_raw_mode(0o755), times));
        Ok(Dir { fd, path, lowers: Vec::new() })
    }

    fn opened(&self, dir: &Dir, name: &[u8], fd: OwnedFd) -> Result<Dir, ApplyError> {
        let opaque = dir.lowers.is_empty() || self.is_opaque(&fd);
        let lowers = if opaque { Vec::new() } else { self.lowers_of(dir, name)? };
        Ok(Dir { fd, path: dir.child_path(name), lowers })
    }

    fn link_target(&self, fd: &OwnedFd, name: &[u8]) -> Result<Vec<u8>, ApplyError> {
        let target = fs::readlinkat(fd, bytes_path(name), Vec::new());
        Ok(target.map_err(self.failed("read a symbolic link on the path"))?.into_bytes())
    }

    /// What shows through from below at `name` in `dir`.
    fn lower(&self, dir: &Dir, name: &[u8]) -> Result<Lower, ApplyError> {
        let path = dir.child_path(name);
        for &index in &dir.lowers {
            let fd = &self.lowers[index];
            let stat = match fs::statat(fd, bytes_path(&path), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => return Err(self.failed("look at a layer below")(error)),
            };
            return Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Lower::Directory(index),
                FileType::Symlink => Lower::Link(index),
                _ if self.is_whiteout(fd, bytes_path(&path), &stat) => Lower::Nothing,
                _ => Lower::Other(index),
            });
        }
        Ok(Lower::Nothing)
    }

    /// The layers whose directory `name` in `dir` shows through.
    fn lowers_of(&self, dir: &Dir, name: &[u8]) -> Result<Vec<usize>, ApplyError> {
        let path = dir.child_path(name);
        let mut shown = Vec::new();
        for &index in &dir.lowers {
            match fs::openat(&self.lowers[index], bytes_path(&path), DIRECTORY, Mode::empty()) {
                Ok(fd) => {
                    shown.push(index);
                    if self.is_opaque(&fd) {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // A file or whiteout there hides all that is further below.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(error) => return Err(self.failed("look at a layer below")(error)),
            }
        }
        Ok(shown)
    }

    fn is_opaque(&self, fd: &OwnedFd) -> bool {
        let mut value = [0; 1];
        fs::fgetxattr(fd, self.marks.attribute("opaque"), &mut value) == Ok(1) && value == *b"y"
    }

    fn is_whiteout(&self, fd: &OwnedFd, path: &Path, stat: &fs::Stat) -> bool {
        is_whiteout(self.marks, Place { dir: fd.as_fd(), name: path }, stat)
    }

    /// Hides everything below in `dir`.
    fn set_opaque(&mut self, dir: &Dir) -> Result<(), ApplyError> {
        if self.lowers.is_empty() || dir.path.is_empty() && self.top.lowers.is_empty() {
            return Ok(());
        }
        fs::fsetxattr(&dir.fd, self.marks.attribute("opaque"), b"y", XattrFlags::empty())
            .map_err(self.failed("mark the directory opaque"))?;
        if dir.path.is_empty() {
            // Overlayfs does not look at the root's mark: whoever mounts leaves the layers below out.
            self.top = Rc::new(Dir {
                fd: rustix::io::fcntl_dupfd_cloexec(&self.top.fd, 0).map_err(self.failed("open the root"))?,
                path: Vec::new(),
                lowers: Vec::new(),
            });
        }
        self.cache.clear();
        Ok(())
    }

    fn whiteout(&mut self, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        match open_directory(dir.fd.as_fd(), name) {
            // The layer has a directory of this name itself: it stays, what is below it goes.
            Ok(fd) => {
                let own = self.opened(dir, name, fd)?;
                return self.set_opaque(&own);
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(self.failed("look at what the whiteout hides")(error)),
        }
        if matches!(self.lower(dir, name)?, Lower::Nothing) {
            return Ok(());
        }
        match fs::mknodat(&dir.fd, bytes_path(name), FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::PERM) if self.marks == Marks::User => {
                let fd = fs::openat(&dir.fd, bytes_path(name), NEW_FILE, Mode::RUSR | Mode::WUSR)
                    .map_err(self.failed("make the whiteout"))?;
                fs::fsetxattr(&fd, "user.overlay.whiteout", b"y", XattrFlags::empty())
                    .and_then(|()| fs::fsetxattr(&dir.fd, "user.overlay.opaque", b"x", XattrFlags::CREATE))
                    .or_else(|error| if error == Errno::EXIST { Ok(()) } else { Err(error) })
                    .map_err(self.failed("mark the whiteout"))
            }
            Err(error) => Err(self.failed("make the whiteout")(error)),
        }
    }

    /// Runs `make`, which makes `name` in `dir`; what the layer had there before is removed first.
    /// Returns whether something was.
    fn replacing<T>(
        &mut self,
        dir: &Dir,
        name: &[u8],
        action: &'static str,
        mut make: impl FnMut(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<(T, bool), ApplyError> {
        match make(&dir.fd) {
            Ok(made) => Ok((made, false)),
            Err(Errno::EXIST) => {
                let path = dir.child_path(name);
                remove_tree(dir.fd.as_fd(), name).map_err(self.failed("remove what was there before"))?;
                let below = [&path, &b"/"[..]].concat();
                self.finish.retain(|known, _| *known != path && !known.starts_with(&below));
                self.cache.clear();
                make(&dir.fd).map(|made| (made, true)).map_err(self.failed(action))
            }
            Err(error) => Err(self.failed(action)(error)),
        }
    }

    fn make_directory(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        let made = match open_directory(dir.fd.as_fd(), name) {
            Ok(fd) => self.opened(dir, name, fd)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let ((), replaced) = self
                    .replacing(dir, name, "make the directory", |fd| fs::mkdirat(fd, bytes_path(name), Mode::RWXU))?;
                let fd = open_directory(dir.fd.as_fd(), name).map_err(self.failed("open the directory"))?;
                let made = Dir { fd, path: dir.child_path(name), lowers: Vec::new() };
                if replaced && !dir.lowers.is_empty() {
                    // The whiteout or file that was here hid what is below; the directory must go on hiding it.
                    self.set_opaque(&made)?;
                }
                made
            }
            Err(error) => return Err(self.failed("open the directory")(error)),
        };
        self.directory_attributes(entry, &made)
    }

    fn directory_attributes(&mut self, entry: &Entry, dir: &Dir) -> Result<(), ApplyError> {
        let (uid, gid) = self.ids(entry)?;
        self.change_owner(&dir.fd, uid, gid)?;
        self.xattrs(entry, |name, value| fs::fsetxattr(&dir.fd, name, value, XattrFlags::empty()))?;
        let times = Timestamps { last_access: omit(), last_modification: at(entry.mtime) };
        self.finish.insert(dir.path.clone(), (Mode::from_raw_mode(entry.mode), times));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        entry: &Entry,
        dir: &Dir,
        name: &[u8],
        archive: &mut Archive<R>,
    ) -> Result<(), ApplyError> {
        let (fd, _) = self.replacing(dir, name, "make the file", |fd| {
            fs::openat(fd, bytes_path(name), NEW_FILE, Mode::RUSR | Mode::WUSR)
        })?;
        let mut file = File::from(fd);
        let shown = &self.entry;
        let failed = |source| ApplyError::System { entry: shown.clone(), action: "write the file", source };
        let mut written = 0;
        if entry.sparse.is_none() && entry.size < SPARSE_FROM {
            archive.content(entry, |_, bytes| {
                written += bytes.len() as u64;
                file.write_all(bytes).map_err(failed)
            })?;
        } else {
            archive.content(entry, |offset, bytes| {
                written += write_sparse(&file, offset, bytes).map_err(failed)?;
                Ok::<_, ApplyError>(())
            })?;
            // The end may be a hole.
            file.set_len(entry.size).map_err(failed)?;
        }
        self.applied.bytes += written;
        let fd = OwnedFd::from(file);
        let (uid, gid) = self.ids(entry)?;
        self.change_owner(&fd, uid, gid)?;
        fs::fchmod(&fd, Mode::from_raw_mode(entry.mode)).map_err(self.failed("set the mode"))?;
        self.xattrs(entry, |name, value| fs::fsetxattr(&fd, name, value, XattrFlags::empty()))?;
        let times = Timestamps { last_access: at(entry.mtime), last_modification: at(entry.mtime) };
        fs::futimens(&fd, &times).map_err(self.failed("set the time"))
    }

    fn node(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        let kind = match entry.kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = match kind {
            FileType::Fifo => 0,
            _ => fs::makedev(entry.device.0, entry.device.1),
        };
        if kind == FileType::CharacterDevice && device == 0 {
            return Err(self.bad("the character device 0:0 is overlayfs's mark for a removed file, not a device"));
        }
        let mode = Mode::from_raw_mode(entry.mode);
        let privileged = self.privileged;
        self.replacing(dir, name, "make the device", |fd| {
            match fs::mknodat(fd, bytes_path(name), kind, mode, device) {
                // Without root an empty file keeps the name.
                Err(Errno::PERM) if !privileged => fs::openat(fd, bytes_path(name), NEW_FILE, mode).map(drop),
                result => result,
            }
        })?;
        self.attributes_by_name(entry, dir, name)
    }

    /// Owner, mode, attributes and time of something that cannot be opened.
    fn attributes_by_name(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        let (uid, gid) = self.ids(entry)?;
        if (uid, gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            match fs::chownat(&dir.fd, bytes_path(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::PERM) if !self.privileged => {}
                result => result.map_err(self.failed("set the owner"))?,
            }
        }
        if entry.kind != Kind::Symlink {
            // chmodat follows links, which this is not: it was made a moment ago in a directory only this process writes.
            fs::chmodat(&dir.fd, bytes_path(name), Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(self.failed("set the mode"))?;
        }
        if !entry.xattrs.is_empty() {
            let by_fd = format!("/proc/self/fd/{}", dir.fd.as_raw_fd());
            let path = Path::new(&by_fd).join(bytes_path(name));
            self.xattrs(entry, |name, value| fs::lsetxattr(&path, name, value, XattrFlags::empty()))?;
        }
        let times = Timestamps { last_access: at(entry.mtime), last_modification: at(entry.mtime) };
        fs::utimensat(&dir.fd, bytes_path(name), &times, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("set the time"))
    }

    fn hard_link(&mut self, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        let components = self.components(&entry.link)?;
        let shown = entry.link.escape_ascii().to_string();
        let missing = format!("the hard link's target `{shown}` does not exist in the image");
        let Some((&target, parents)) = components.split_last() else {
            return Err(self.bad(format!("the hard link's target `{shown}` is no file")));
        };
        let Some(target_dir) = self.directory(parents, false)? else { return Err(self.bad(missing)) };
        let look = |fd: &OwnedFd, name: &[u8]| fs::statat(fd, bytes_path(name), AtFlags::SYMLINK_NOFOLLOW);
        let stat = match look(&target_dir.fd, target) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                let index = match self.lower(&target_dir, target)? {
                    Lower::Nothing => return Err(self.bad(missing)),
                    Lower::Directory(_) => {
                        return Err(self.bad(format!("the hard link's target `{shown}` is a directory")));
                    }
                    Lower::Link(index) | Lower::Other(index) => index,
                };
                self.copy_file_up(index, &target_dir, target)?;
                look(&target_dir.fd, target).map_err(self.failed("look at the hard link's target"))?
            }
            Err(error) => return Err(self.failed("look at the hard link's target")(error)),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(self.bad(format!("the hard link's target `{shown}` is a directory")));
        }
        if self.is_whiteout(&target_dir.fd, bytes_path(target), &stat) {
            return Err(self.bad(missing));
        }
        if let Ok(own) = look(&dir.fd, name)
            && (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        self.replacing(dir, name, "make the hard link", |fd| {
            fs::linkat(&target_dir.fd, bytes_path(target), fd, bytes_path(name), AtFlags::empty())
        })?;
        Ok(())
    }

    /// Copies a file that lies below, so that this layer can link to it.
    fn copy_file_up(&mut self, index: usize, dir: &Dir, name: &[u8]) -> Result<(), ApplyError> {
        let path = dir.child_path(name);
        let source = Place { dir: self.lowers[index].as_fd(), name: bytes_path(&path) };
        copy_entry(source, Place { dir: dir.fd.as_fd(), name: bytes_path(name) }).map_err(|source| ApplyError::System {
            entry: self.entry.clone(),
            action: "copy the link's target up",
            source,
        })
    }

    /// Gives `dir` the attributes it has in layer `index`.
    fn copy_attributes_up(&mut self, index: usize, dir: &Dir) -> Result<(), ApplyError> {
        let path = if dir.path.is_empty() { b"." } else { &dir.path[..] };
        let below = fs::openat(&self.lowers[index], bytes_path(path), DIRECTORY, Mode::empty())
            .map_err(self.failed("open a directory below"))?;
        let stat = fs::fstat(&below).map_err(self.failed("look at a directory below"))?;
        self.change_owner(&dir.fd, stat.st_uid, stat.st_gid)?;
        copy_xattrs(&below, &dir.fd).map_err(|source| ApplyError::System {
            entry: self.entry.clone(),
            action: "copy a directory's attributes",
            source,
        })?;
        let mtime = at((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)));
        let times = Timestamps { last_access: omit(), last_modification: mtime };
        self.finish.insert(dir.path.clone(), (Mode::from_raw_mode(stat.st_mode & 0o7777), times));
        Ok(())
    }

    fn ids(&self, entry: &Entry) -> Result<(u32, u32), ApplyError> {
        // -1 means "unchanged" to chown and is no id.
        let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok((uid, gid)),
            _ => Err(self.bad(format!("owner {}:{} is out of range (32 bits)", entry.uid, entry.gid))),
        }
    }

    fn change_owner(&self, fd: &OwnedFd, uid: u32, gid: u32) -> Result<(), ApplyError> {
        if (uid, gid) == self.owner {
            return Ok(());
        }
        match fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            Err(Errno::PERM) if !self.privileged => Ok(()),
            result => result.map_err(self.failed("set the owner")),
        }
    }

    fn xattrs(
        &self,
        entry: &Entry,
        mut set: impl FnMut(&Path, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), ApplyError> {
        for (name, value) in &entry.xattrs {
            // Overlayfs's own marks would let an archive reach what other layers hide.
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                continue;
            }
            match set(bytes_path(name), value) {
                // The file system has no such attributes, or only root may set them: the file is of use without.
                Err(Errno::OPNOTSUPP) => {}
                Err(Errno::PERM) if !self.privileged || !name.starts_with(b"security.capability") => {}
                result => result.map_err(self.failed("set an extended attribute"))?,
            }
        }
        Ok(())
    }

    /// Sets what writing into directories would have changed, the deepest first.
    fn finish(&mut self) -> Result<(), ApplyError> {
        self.cache.clear();
        for (path, (mode, times)) in std::mem::take(&mut self.finish).into_iter().rev() {
            self.entry = String::from_utf8_lossy(&path).into_owned();
            let path = if path.is_empty() { b"." } else { &path[..] };
            // The path has no links: each part of it was a directory, and one that is replaced is forgotten.
            let fd = fs::openat(&self.top.fd, bytes_path(path), DIRECTORY, Mode::empty())
                .map_err(self.failed("open the directory again"))?;
            fs::fchmod(&fd, mode).map_err(self.failed("set the mode"))?;
            fs::futimens(&fd, &times).map_err(self.failed("set the time"))?;
        }
        Ok(())
    }
}

enum Step {
    Directory(Dir),
    Link(Vec<u8>),
    Missing,
}

const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_directory(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    fs::openat(dir, bytes_path(name), DIRECTORY, Mode::empty())
}

pub(crate) fn bytes_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

fn at((seconds, nanos): (i64, u32)) -> fs::Timespec {
    fs::Timespec { tv_sec: seconds, tv_nsec: nanos.into() }
}

fn omit() -> fs::Timespec {
    fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT }
}

/// Writes `bytes` at `offset`, blocks of zeros left out. Returns the bytes written.
fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> io::Result<u64> {
    // Blocks are those of the file, not of the buffer.
    let head = (offset.wrapping_neg() % HOLE as u64) as usize;
    let (mut start, mut at, mut written) = (0, head.min(bytes.len()), 0);
    while at < bytes.len() {
        let end = (at + HOLE).min(bytes.len());
        if bytes[at..end].iter().all(|&byte| byte == 0) {
            file.write_all_at(&bytes[start..at], offset + start as u64)?;
            written += at - start;
            start = end;
        }
        at = end;
    }
    file.write_all_at(&bytes[start..], offset + start as u64)?;
    Ok((written + bytes.len() - start) as u64)
}

/// Removes `name` in `dir` and, for a directory, all below it, without following links. A missing one is fine.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, bytes_path(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    // An explicit stack: archives may nest deeper than a thread's stack allows.
    let mut stack = vec![(open_to_empty(dir, name)?, name.to_vec())];
    while let Some((fd, name)) = stack.last() {
        let mut child = None;
        let mut buffer = Vec::with_capacity(32 << 10);
        fs::seek(fd, fs::SeekFrom::Start(0))?;
        let mut entries = fs::RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let entry_name = entry.file_name().to_bytes();
            if entry_name == b"." || entry_name == b".." {
                continue;
            }
            match fs::unlinkat(fd, bytes_path(entry_name), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    child = Some(entry_name.to_vec());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(child) = child {
            let opened = open_to_empty(fd.as_fd(), &child)?;
            stack.push((opened, child));
            continue;
        }
        let name = name.clone();
        stack.pop();
        let parent = stack.last().map_or(dir, |(fd, _)| fd.as_fd());
        fs::unlinkat(parent, bytes_path(&name), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Opens a directory to remove what is in it, whose mode may forbid that.
fn open_to_empty(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    match open_directory(dir, name) {
        Err(Errno::ACCESS) => {}
        Ok(fd) => {
            // Harmless as root; without, a directory without `w` cannot be emptied.
            if !rustix::process::geteuid().is_root() {
                fs::fchmod(&fd, Mode::RWXU)?;
            }
            return Ok(fd);
        }
        Err(error) => return Err(error),
    }
    fs::chmodat(dir, bytes_path(name), Mode::RWXU, AtFlags::empty())?;
    open_directory(dir, name)
}
