//! The one system call that the standard wrappers mark unsafe.

use std::io;

/// Moves this process into a mount namespace of its own.
///
/// Mounts made afterwards are seen by this process and its children alone, and end with the last of them.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: leaving the shared mount namespace changes only how paths resolve from here on; no memory or descriptor
    // of this process is affected, and the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    Ok(())
}
