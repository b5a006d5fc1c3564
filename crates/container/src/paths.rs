//! Paths inside the container's root, resolved by the kernel as if the root were `/` (`openat2(2)`,
//! `RESOLVE_IN_ROOT`), so that no symbolic link of an image leads out. What is resolved is a descriptor, and what is
//! mounted or made is mounted on or made below that descriptor; a path string is never walked twice.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A directory that paths are resolved in.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// How often a missing path may lead through a dangling symbolic link.
const MAX_LINKS: u32 = 40;

impl Root {
    /// `fd`: a directory, an `O_PATH` descriptor suffices.
    pub(crate) fn new(fd: OwnedFd) -> Root {
        Root { fd }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens an existing path; following links inside the root only, and no magic ones.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = inside(path);
        for _ in 0..64 {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename raced with `..`: the kernel asks to try again.
                Err(Errno::AGAIN) => continue,
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// An `O_PATH` descriptor of an existing path.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH)
    }

    /// The directory, made with its parents if missing.
    pub(crate) fn make_dir_all(&self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        self.make_dir_limited(path, mode, MAX_LINKS)
    }

    fn make_dir_limited(&self, path: &Path, mode: u32, links: u32) -> io::Result<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (parent, name) = self.parent(path, mode, links)?;
        let Some(name) = name else { return Ok(parent) };
        match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(mode)) {
            // Either somebody else made it, or it is a link to something missing.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && links > 0 => {
                self.make_dir_limited(&link_target(&parent, path, &name)?, mode, links - 1)
            }
            other => other,
        }
    }

    /// The parent directory, made if missing, and the last name; none if the path ends in `..` or is the root.
    fn parent(&self, path: &Path, mode: u32, links: u32) -> io::Result<(OwnedFd, Option<PathBuf>)> {
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Ok((self.open(path, OFlags::PATH | OFlags::DIRECTORY)?, None));
        };
        let parent = self.make_dir_limited(path.parent().unwrap_or(Path::new("/")), mode, links)?;
        Ok((parent, Some(name.into())))
    }

    /// The parent directory of a path, made if missing, and the path's last name, for making things in.
    pub(crate) fn parent_of(&self, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        match self.parent(path, 0o755, MAX_LINKS)? {
            (parent, Some(name)) => Ok((parent, name)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} has no name", path.display()))),
        }
    }

    /// An `O_PATH` descriptor of the path; if missing, an empty regular file is made, with its parents.
    pub(crate) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.resolve(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
            let (parent, name) = self.parent_of(&path)?;
            match rustix::fs::mknodat(&parent, &name, FileType::RegularFile, Mode::from_raw_mode(0o755), 0) {
                Ok(()) => {}
                Err(Errno::EXIST) => path = link_target(&parent, &path, &name)?,
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::LOOP.into())
    }
}

/// A path for `openat2`: an empty one is the root itself.
fn inside(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new("/") } else { path }
}

/// Where the symbolic link `name` in `parent`, at `path`, leads, as a path from the root.
fn link_target(parent: &OwnedFd, path: &Path, name: &Path) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
    let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
    Ok(path.parent().unwrap_or(Path::new("/")).join(target))
}

/// The absolute path of something, without links. The kernel knows it once it has found the thing; to read every part of
/// the path, as `realpath(3)` does, takes several times as long.
pub(crate) fn real(path: &Path) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let real = PathBuf::from(std::ffi::OsString::from_vec(rustix::fs::readlink(link, Vec::new())?.into_bytes()));
    // What is outside of this process's root has no path.
    if real.is_absolute() { Ok(real) } else { Err(Errno::NOENT.into()) }
}

/// Whether a descriptor is a directory.
pub(crate) fn is_dir(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// Removes `.` and `..` and doubled slashes by text; the result is absolute.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            _ => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (PathBuf, Root) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("strata-paths-{}-{n}", std::process::id()));
        std::fs::create_dir_all(dir.join("root")).unwrap();
        let fd = rustix::fs::open(dir.join("root"), OFlags::PATH, Mode::empty()).unwrap();
        (dir, Root::new(fd))
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let (dir, root) = root();
        std::fs::create_dir(dir.join("outside")).unwrap();
        symlink("../../../outside", dir.join("root/relative")).unwrap();
        symlink(dir.join("outside"), dir.join("root/absolute")).unwrap();
        root.make_dir_all(Path::new("/relative/made"), 0o755).unwrap();
        root.make_file(Path::new("/absolute/file")).unwrap();
        assert_eq!(std::fs::read_dir(dir.join("outside")).unwrap().count(), 0);
        assert!(dir.join("root/outside/made").is_dir());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn missing_directories_are_made_through_dangling_links() {
        let (dir, root) = root();
        std::fs::create_dir(dir.join("root/var")).unwrap();
        symlink("/run", dir.join("root/var/run")).unwrap();
        root.make_dir_all(Path::new("/var/run/secrets"), 0o755).unwrap();
        assert!(dir.join("root/run/secrets").is_dir());
        symlink("loop", dir.join("root/loop")).unwrap();
        assert!(root.make_dir_all(Path::new("/loop/x"), 0o755).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn paths_are_cleaned_by_text() {
        assert_eq!(clean(Path::new("/a/../../b//./c/")), Path::new("/b/c"));
        assert_eq!(clean(Path::new("a/b")), Path::new("/a/b"));
    }
}
