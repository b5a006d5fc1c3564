//! `tmpcopyup`: a tmpfs that starts with what its mount point held.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

use crate::paths::Root;

/// Deeper directories are an attack on the stack.
const MAX_DEPTH: u32 = 128;

/// Copies the directory at `path` into the root of a detached mount.
pub(crate) fn copy(root: &Root, path: &Path, to: BorrowedFd<'_>) -> io::Result<()> {
    let from = root.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let to = rustix::fs::openat(to, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    copy_directory(&from, &to, MAX_DEPTH)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(rustix::io::Errno::LOOP.into());
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_directory(&below, &made, depth - 1)?;
            }
            FileType::RegularFile => copy_file(from, to, name, mode)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
                rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?;
            }
            // A socket without its server is nothing.
            _ => continue,
        }
        copy_attributes(to, name, &stat)?;
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, mode: Mode) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
    let target = rustix::fs::openat(to, name, flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)?;
    io::copy(&mut std::fs::File::from(source), &mut std::fs::File::from(target))?;
    Ok(())
}

fn copy_attributes(dir: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    // A change of owner clears set-user-ID bits, so the mode comes after.
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let time = |sec, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn files_directories_links_and_modes_are_copied() {
        let base = std::env::temp_dir().join(format!("strata-copy-{}", std::process::id()));
        let (from, to) = (base.join("from"), base.join("to"));
        std::fs::create_dir_all(from.join("d/e")).unwrap();
        std::fs::create_dir_all(&to).unwrap();
        std::fs::write(from.join("d/f"), b"text").unwrap();
        std::fs::set_permissions(from.join("d/f"), std::fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/nowhere", from.join("l")).unwrap();
        let root = Root::new(rustix::fs::open(&base, OFlags::PATH, Mode::empty()).unwrap());
        let target = rustix::fs::openat(rustix::fs::CWD, &to, OFlags::PATH, Mode::empty()).unwrap();
        copy(&root, Path::new("/from"), target.as_fd()).unwrap();
        assert_eq!(std::fs::read(to.join("d/f")).unwrap(), b"text");
        assert_eq!(std::fs::metadata(to.join("d/f")).unwrap().permissions().mode() & 0o7777, 0o4711);
        assert_eq!(std::fs::read_link(to.join("l")).unwrap(), Path::new("/nowhere"));
        assert!(to.join("d/e").is_dir());
        std::fs::remove_dir_all(base).unwrap();
    }
}
