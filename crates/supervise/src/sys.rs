//! The system call that the standard wrappers mark unsafe.

use std::io;

use rustix::thread::UnshareFlags;

/// Moves this process into a mount namespace of its own.
///
/// Mounts made afterwards are seen by this process and its children alone, and end with the last of them.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWNS)
}

/// The same for a process without privileges: the mount namespace belongs to a new user namespace, in which this
/// process may mount. Until the ids are mapped it is nobody there.
pub(crate) fn unshare_user_and_mounts() -> io::Result<()> {
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
}

fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: leaving a mount or user namespace changes how paths resolve and what is permitted from here on; no memory
    // or descriptor of this process is affected, and the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }?;
    Ok(())
}
