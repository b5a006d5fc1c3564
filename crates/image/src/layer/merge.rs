//! Copies files with everything that belongs to them, and stacks of layers into one plain tree.
//!
//! The plain tree is what overlayfs would show, for where overlayfs is not to be had: names of upper layers
//! hide those below, directories merge, marks of removal hide.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::apply::Marks;

/// Opens a directory and nothing else.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in an open directory.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The directory.
    pub dir: BorrowedFd<'a>,
    /// The name; a path is allowed where no part of it is a symbolic link.
    pub name: &'a Path,
}

impl Place<'_> {
    /// A path for calls that have no form with a descriptor. The last component is not followed by `l…` calls.
    fn by_proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd())).join(self.name)
    }
}

/// The names in an open directory without `.` and `..`, in the file system's order.
pub(crate) fn names(fd: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    fs::seek(fd, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = fs::RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// Calls a system call that fills a buffer with a growing one.
fn grown(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's limit for a value and a list.
            Err(Errno::RANGE) if buffer.len() < 128 << 10 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// The attributes of an open file, overlayfs's own left out; none where the file system has none.
pub(crate) fn xattrs(fd: impl AsFd) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let fd = fd.as_fd();
    collect(grown(|buffer| fs::flistxattr(fd, buffer)), |name| grown(|buffer| fs::fgetxattr(fd, name, buffer)))
}

/// The same of a file that cannot be opened (link, device).
pub(crate) fn xattrs_of(place: Place<'_>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let path = place.by_proc();
    collect(grown(|buffer| fs::llistxattr(&path, buffer)), |name| grown(|buffer| fs::lgetxattr(&path, name, buffer)))
}

fn collect(
    list: rustix::io::Result<Vec<u8>>,
    get: impl Fn(&std::ffi::OsStr) -> rustix::io::Result<Vec<u8>>,
) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let list = match list {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in list.split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let name = std::ffi::OsStr::from_bytes(name);
        match get(name) {
            Ok(value) => found.push((name.to_owned(), value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found)
}

/// Errors that leave the copy usable: an attribute the target cannot hold, an owner only root can give.
fn tolerate(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) if !rustix::process::geteuid().is_root() => Ok(()),
        result => result.map_err(io::Error::from),
    }
}

/// Copies the extended attributes of one open file to another, overlayfs's own left out.
pub(crate) fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for (name, value) in xattrs(from)? {
        tolerate(fs::fsetxattr(to, &name, &value, XattrFlags::empty()))?;
    }
    Ok(())
}

pub(crate) fn times(stat: &fs::Stat) -> Timestamps {
    let at = |seconds, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Owner, mode, attributes and times, in the order in which none undoes another.
fn copy_attributes(from: &OwnedFd, stat: &fs::Stat, to: &OwnedFd) -> io::Result<()> {
    tolerate(fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))))?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(from, to)?;
    Ok(fs::futimens(to, &times(stat))?)
}

/// Copies one file that is no directory, with owner, mode, attributes, times and holes. The target must not exist.
pub fn copy_entry(from: Place<'_>, to: Place<'_>) -> io::Result<()> {
    let stat = fs::statat(from.dir, from.name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::RegularFile {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = fs::openat(from.dir, from.name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = fs::openat(to.dir, to.name, flags, Mode::RUSR | Mode::WUSR)?;
        copy_content(&source, &target, u64::try_from(stat.st_size).unwrap_or(0))?;
        return copy_attributes(&source, &stat, &target);
    }
    match kind {
        FileType::Symlink => fs::symlinkat(fs::readlinkat(from.dir, from.name, Vec::new())?, to.dir, to.name)?,
        _ => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            fs::mknodat(to.dir, to.name, kind, mode, stat.st_rdev)?;
        }
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    tolerate(fs::chownat(to.dir, to.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    if kind != FileType::Symlink {
        fs::chmodat(to.dir, to.name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let target = to.by_proc();
    for (name, value) in xattrs_of(from)? {
        tolerate(fs::lsetxattr(&target, &name, &value, XattrFlags::empty()))?;
    }
    Ok(fs::utimensat(to.dir, to.name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Shares the content where the file system can (reflink), copies its data and keeps its holes otherwise.
fn copy_content(source: &OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    if fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        // A file system that does not know holes says that all is data.
        let start = match fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = fs::seek(source, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        let (mut from, mut to) = (start, start);
        while from < end {
            let length = usize::try_from(end - from).unwrap_or(usize::MAX);
            match fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    from = copy_by_hand(source, target, from, end)?;
                    to = from;
                }
                Err(error) => return Err(error.into()),
            }
        }
        at = end.max(start + 1);
    }
    Ok(fs::ftruncate(target, size)?)
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let (source, target) = (File::from(source.try_clone()?), File::from(target.try_clone()?));
    let mut buffer = vec![0; 128 << 10];
    let mut at = from;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = source.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(at)
}

/// Copies what a stack of layers shows, the uppermost first, into the empty directory `to`.
pub fn copy_merged(layers: &[OwnedFd], marks: Marks, to: &OwnedFd) -> io::Result<()> {
    let layers = layers.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
    let root = to.try_clone()?;
    Merge { marks, root: to, links: HashMap::new() }.directory(layers, root, Path::new(""), 0)
}

struct Merge<'a> {
    marks: Marks,
    root: &'a OwnedFd,
    /// Where the first name of a file with several was copied to, from the root, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Merge<'_> {
    fn directory(&mut self, layers: Vec<OwnedFd>, to: OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        // The unpacked layers were bounded; this bounds the recursion whatever they are.
        if depth > 2048 {
            return Err(io::Error::other("directories nest too deep"));
        }
        // Each name and the uppermost layer that has it.
        let mut shown: BTreeMap<OsString, usize> = BTreeMap::new();
        for (index, layer) in layers.iter().enumerate() {
            for name in names(layer)? {
                shown.entry(name).or_insert(index);
            }
        }
        for (name, index) in shown {
            let place = Place { dir: layers[index].as_fd(), name: Path::new(&name) };
            let stat = fs::statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW)?;
            let child_path = path.join(&name);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let below = self.merged(&layers[index..], Path::new(&name))?;
                fs::mkdirat(&to, &name, Mode::RWXU)?;
                let made = fs::openat(&to, &name, DIRECTORY, Mode::empty())?;
                self.directory(below, made, &child_path, depth + 1)?;
                continue;
            }
            if is_whiteout(self.marks, place, &stat) {
                continue;
            }
            let inode = (stat.st_dev, stat.st_ino);
            if stat.st_nlink > 1
                && let Some(first) = self.links.get(&inode)
            {
                fs::linkat(self.root, first, &to, &name, AtFlags::empty())?;
                continue;
            }
            copy_entry(place, Place { dir: to.as_fd(), name: Path::new(&name) })?;
            if stat.st_nlink > 1 {
                self.links.insert(inode, child_path);
            }
        }
        let stat = fs::fstat(&layers[0])?;
        copy_attributes(&layers[0], &stat, &to)
    }

    /// The directories `name` of `layers` that show through one another; the first layer has one.
    fn merged(&self, layers: &[OwnedFd], name: &Path) -> io::Result<Vec<OwnedFd>> {
        let mut merged = Vec::new();
        for layer in layers {
            match fs::openat(layer, name, DIRECTORY, Mode::empty()) {
                Ok(fd) => {
                    let mut value = [0; 1];
                    let opaque =
                        fs::fgetxattr(&fd, self.marks.attribute("opaque"), &mut value) == Ok(1) && value == *b"y";
                    merged.push(fd);
                    if opaque {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(merged)
    }
}

/// Whether this file is overlayfs's mark for a removed one.
pub(crate) fn is_whiteout(marks: Marks, place: Place<'_>, stat: &fs::Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::RegularFile if marks == Marks::User && stat.st_size == 0 => {
            let mut value = [0; 1];
            fs::lgetxattr(place.by_proc(), "user.overlay.whiteout", &mut value).is_ok()
        }
        _ => false,
    }
}
