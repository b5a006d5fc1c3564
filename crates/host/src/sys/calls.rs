//! System calls asked whether they exist and may be used. Most are called with arguments that the kernel must refuse
//! (`EINVAL`, `EFAULT`, `EBADF`): any refusal but `ENOSYS`, and `EPERM` where the call itself needs no privilege,
//! proves the call is there.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// The kernel's answer: a value or an error number.
pub type Answer = Result<i64, i32>;

fn answer(value: i64) -> Answer {
    if value >= 0 { Ok(value) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
}

/// As [`answer`] for a call that makes a descriptor, which is closed.
fn descriptor(value: i64) -> Answer {
    answer(value)?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(value as RawFd) });
    Ok(0)
}

fn present_if_refused_with(answer: Answer, expected: &[i32]) -> Answer {
    match answer {
        Err(e) if expected.contains(&e) => Ok(0),
        other => other,
    }
}

/// `openat2(2)`, Linux 5.6.
pub fn openat2() -> Answer {
    // SAFETY: a size of zero makes the kernel refuse before it reads the structure.
    let value = unsafe { libc::syscall(libc::SYS_openat2, -1, c"".as_ptr(), 0usize, 0usize) };
    present_if_refused_with(answer(value), &[libc::EINVAL])
}

/// `clone3(2)`, Linux 5.3.
pub fn clone3() -> Answer {
    // SAFETY: a size of zero makes the kernel refuse before it reads the structure; no process is made.
    let value = unsafe { libc::syscall(libc::SYS_clone3, 0usize, 0usize) };
    present_if_refused_with(answer(value), &[libc::EINVAL])
}

/// `pidfd_open(2)`, Linux 5.3, on this process.
pub fn pidfd_open() -> Answer {
    // SAFETY: takes numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) })
}

/// `close_range(2)`, Linux 5.9, on a range that no process has open.
pub fn close_range() -> Answer {
    // SAFETY: descriptor 2^32-1 is beyond every limit, so nothing is closed.
    answer(unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) })
}

/// The mount API of Linux 5.2 and `mount_setattr(2)` of 5.12: `fsopen`, then `mount_setattr` on no descriptor.
pub fn new_mount_api() -> Answer {
    // SAFETY: the name is a C string; flag 1 is FSOPEN_CLOEXEC; nothing is mounted.
    let value = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1) };
    present_if_refused_with(descriptor(value), &[libc::EPERM])?;
    // SAFETY: a size of zero makes the kernel refuse before it reads the structure.
    let value = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, 0usize, 0usize) };
    present_if_refused_with(answer(value), &[libc::EINVAL])
}

/// `memfd_create(2)` with seals, and a mapping of it that may be executed.
pub fn memfd() -> Answer {
    // SAFETY: the name is a C string.
    let fd = answer(unsafe {
        libc::syscall(libc::SYS_memfd_create, c"strata-doctor".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
    })? as RawFd;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: changes the size of our own file.
    answer(unsafe { libc::ftruncate(fd.as_raw_fd(), 4096) }.into())?;
    // SAFETY: a new mapping at an address the kernel picks; it is unmapped below and never read.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED, fd.as_raw_fd(), 0)
    };
    if page == libc::MAP_FAILED {
        return answer(-1);
    }
    // SAFETY: exactly the mapping made above.
    unsafe { libc::munmap(page, 4096) };
    // SAFETY: F_ADD_SEALS takes a number.
    answer(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) }.into())
}

/// `userfaultfd(2)`; with `user_only`, faults of user mode alone, which needs no privilege since Linux 5.11.
pub fn userfaultfd(user_only: bool) -> Answer {
    let flags = libc::O_CLOEXEC | if user_only { 1 } else { 0 };
    // SAFETY: takes numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
}

/// `io_uring_setup(2)` for a ring of one entry, closed again.
pub fn io_uring() -> Answer {
    let mut parameters = [0u8; 120];
    // SAFETY: `struct io_uring_params` is 120 bytes, zero means defaults, and the kernel writes within it.
    descriptor(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
}

/// `perf_event_open(2)` for this process's own task clock, user mode only.
pub fn perf_event() -> Answer {
    let mut attributes = [0u8; 64];
    attributes[0..4].copy_from_slice(&1u32.to_ne_bytes()); // PERF_TYPE_SOFTWARE
    attributes[4..8].copy_from_slice(&64u32.to_ne_bytes()); // PERF_ATTR_SIZE_VER0
    attributes[8..16].copy_from_slice(&1u64.to_ne_bytes()); // PERF_COUNT_SW_TASK_CLOCK
    attributes[40..48].copy_from_slice(&0b110_0000u64.to_ne_bytes()); // exclude_kernel, exclude_hv
    // SAFETY: the attributes are the 64 bytes their size field says; 8 is PERF_FLAG_FD_CLOEXEC.
    descriptor(unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 8usize) })
}

/// Version of the Landlock ABI.
pub fn landlock() -> Answer {
    // SAFETY: flag 1 asks for the version; attribute and size must be null and zero.
    answer(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, 1) })
}

/// Whether seccomp filters may be installed: a null program must give `EFAULT`.
pub fn seccomp_filter() -> Answer {
    // SAFETY: the kernel refuses the null program with EFAULT; no filter is installed.
    let value = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, 0usize, 0, 0) };
    present_if_refused_with(answer(value.into()), &[libc::EFAULT])
}

/// Whether seccomp knows the action `SECCOMP_RET_*`.
pub fn seccomp_action(action: u32) -> Answer {
    // SAFETY: operation 2 (SECCOMP_GET_ACTION_AVAIL) reads the four bytes of `action`.
    answer(unsafe { libc::syscall(libc::SYS_seccomp, 2, 0, &action as *const u32) })
}

/// Whether a filter's calls can be answered by another process (`SECCOMP_GET_NOTIF_SIZES`).
pub fn seccomp_notify() -> Answer {
    let mut sizes = [0u16; 3];
    // SAFETY: operation 3 writes `struct seccomp_notif_sizes`, three u16.
    answer(unsafe { libc::syscall(libc::SYS_seccomp, 3, 0, sizes.as_mut_ptr()) })
}

/// Syscall user dispatch, Linux 5.11, switched on with a selector that lets every call through. For a child.
pub fn syscall_user_dispatch() -> Answer {
    static ALLOW: u8 = 0;
    // SAFETY: PR_SET_SYSCALL_USER_DISPATCH (59), PR_SYS_DISPATCH_ON (1), no exempt range, and a selector byte that
    // lives as long as the process and always says SYSCALL_DISPATCH_FILTER_ALLOW.
    answer(unsafe { libc::prctl(59, 1usize, 0usize, 0usize, &ALLOW as *const u8) }.into())
}

/// `ptrace(PTRACE_TRACEME)`. For a child.
pub fn ptrace_traceme() -> Answer {
    // SAFETY: PTRACE_TRACEME ignores its other arguments.
    answer(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0usize, 0usize) })
}

/// A stream socket of family `AF_VSOCK`.
pub fn vsock() -> Answer {
    // SAFETY: takes numbers only.
    descriptor(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) }.into())
}

/// `unshare(2)` of the namespaces `flags` (`CLONE_NEW*`). For a child.
pub fn unshare(flags: i32) -> Answer {
    // SAFETY: takes a number; the caller is a throw-away child with one thread.
    answer(unsafe { libc::unshare(flags) }.into())
}

/// `mount(2)`. For a child in its own mount namespace.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, data: &CStr) -> Answer {
    // SAFETY: all four are C strings that live across the call.
    let value = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast::<libc::c_void>())
    };
    answer(value.into())
}

/// Makes a detached copy of the mount at `path` whose ids are mapped by the user namespace `namespace`
/// (`MOUNT_ATTR_IDMAP`, Linux 5.12). Nothing is attached; the copy is dropped.
pub fn idmapped_copy(path: &Path, namespace: RawFd) -> Answer {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return Err(libc::EINVAL) };
    let clone = 1 | libc::O_CLOEXEC; // OPEN_TREE_CLONE
    // SAFETY: the path is a C string; a detached tree belongs to the descriptor alone.
    let tree = answer(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), clone) })?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as RawFd) };
    let attributes: [u64; 4] = [0x0010_0000, 0, 0, namespace as u64]; // set MOUNT_ATTR_IDMAP, clear, propagation, fd
    // SAFETY: `struct mount_attr` is four u64, 32 bytes, and lives across the call.
    answer(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            32usize,
        )
    })
}
