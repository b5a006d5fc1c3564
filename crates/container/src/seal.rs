//! Keeps the running binary out of the container's reach (CVE-2019-5736): a process that enters a container can be made
//! to execute `/proc/self/exe`, and through that link others could write the host's binary.
//!
//! The binary therefore runs from a mount of its own: a read-only copy of the mount it lies on (`open_tree(2)`), from
//! which it executes itself again. Once the descriptor is closed the mount belongs to no mount namespace, so nobody can
//! make it writable, and it lasts as long as something runs from it. Where a user cannot write the binary at all, there
//! is nothing to do; where the kernel refuses the mount, a sealed copy in memory takes its place.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::mount_options::Attributes;
use crate::mounts;
use crate::sys::{self, CStrings};

/// How the binary is protected, as [`protect_self`] found or made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// This user cannot write the binary, so neither can the container.
    NotWritable,
    /// It runs from a read-only mount that belongs to no namespace, or from a read-only file system.
    ReadOnlyMount,
    /// It runs from a sealed copy in memory.
    SealedCopy,
}

const SELF: &str = "/proc/self/exe";

/// Makes the running binary unwritable through `/proc/self/exe`, by executing it again from a read-only detached mount,
/// with the same arguments and environment; the second execution returns. To be called first in `main` by every verb
/// that enters containers.
pub fn protect_self() -> io::Result<Protection> {
    // As execution does not ask for write permission, this asks about the file and its mount only.
    let access = rustix::fs::accessat(CWD, SELF, rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS);
    let read_only = match access {
        Ok(()) => false,
        Err(Errno::ROFS) => true,
        // Whatever else it is comes first, and says nothing of the mount.
        Err(_) => rustix::fs::statvfs(SELF)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    };
    if read_only {
        return Ok(Protection::ReadOnlyMount);
    }
    let exe = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(Protection::SealedCopy);
    }
    // The owner could make it writable.
    let stat = rustix::fs::fstat(&exe)?;
    let user = rustix::process::geteuid();
    if !user.is_root() && stat.st_uid != user.as_raw() && access == Err(Errno::ACCESS) {
        return Ok(Protection::NotWritable);
    }
    let sealed = read_only_mount().or_else(|_| sealed_copy(&exe))?;
    let args = std::env::args_os().collect::<Vec<_>>();
    let args = CStrings::new(args.iter().map(|a| a.as_bytes()))?;
    let env = std::env::vars_os()
        .map(|(name, value)| [name.as_os_str(), OsStr::new("="), value.as_os_str()].map(OsStr::as_bytes).concat());
    let env = CStrings::new(env)?;
    Err(sys::fexecve(sealed.as_fd(), &args, &env))
}

fn read_only_mount() -> io::Result<OwnedFd> {
    let mount = mounts::clone_tree(std::path::Path::new(SELF), false)?;
    mounts::set_attributes(mount.as_fd(), false, Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 })?;
    Ok(mount)
}

fn sealed_copy(exe: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels since 6.3 can forbid executable memory files unless they are asked for.
    let copy = rustix::fs::memfd_create("strata", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("strata", flags))?;
    let length = rustix::fs::fstat(exe)?.st_size as u64;
    let mut done = 0;
    while done < length {
        match rustix::fs::sendfile(&copy, exe, None, (length - done) as usize)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n as u64,
        }
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o500))?;
    // Executing a file that is open for writing is refused; a second, read-only descriptor takes over.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
