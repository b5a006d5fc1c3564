//! seccomp(2).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use crate::SockFilter;

const NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
const TSYNC_ESRCH: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH as u32;

/// The kernel's `struct sock_fprog`.
#[repr(C)]
struct SockFprog {
    len: libc::c_ushort,
    filter: *const SockFilter,
}

pub fn load(instructions: &[SockFilter], mut flags: u32, notify: bool) -> io::Result<Option<OwnedFd>> {
    if notify {
        flags |= NEW_LISTENER;
    }
    if flags & TSYNC != 0 {
        // Else a thread that cannot be synchronised is reported as a positive number, which a listener is too.
        flags |= TSYNC_ESRCH;
    }
    let len = libc::c_ushort::try_from(instructions.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = SockFprog { len, filter: instructions.as_ptr() };
    // SAFETY: the kernel copies `len` instructions from a slice that lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match libc::c_int::try_from(result) {
        Ok(fd) if fd >= 0 && notify => {
            // SAFETY: with NEW_LISTENER the result is a new descriptor that nothing else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        Ok(0) => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn action_available(action: u32) -> bool {
    // SAFETY: the kernel reads one word.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// The kernel checks the flags before it reads the program, so a null program tells `EINVAL` from `EFAULT`.
pub fn flag_available(mut flag: u32) -> bool {
    if flag == libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32 {
        flag |= NEW_LISTENER;
    }
    let no_program = ptr::null::<SockFprog>();
    // SAFETY: a null program is never installed: the call fails with EFAULT at the latest.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, no_program) };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use strata_spec::runtime::Seccomp;

    /// Loads the filter in a forked child and returns the exit status of `then`.
    fn in_child(profile: &str, then: impl FnOnce(Option<i32>) -> i32) -> libc::c_int {
        let profile: Seccomp = serde_json::from_str(profile).unwrap();
        let program = crate::compile(&profile).unwrap();
        // SAFETY: the child only makes system calls, and ends with _exit.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                let code = match program.load() {
                    Ok(listener) => then(listener.as_ref().map(|fd| fd.as_raw_fd())),
                    Err(_) => 99,
                };
                libc::_exit(code);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        }
    }

    fn getppid_errno() -> i32 {
        // SAFETY: a call without arguments.
        if unsafe { libc::syscall(libc::SYS_getppid) } == -1 {
            std::io::Error::last_os_error().raw_os_error().unwrap_or(-1)
        } else {
            0
        }
    }

    #[test]
    fn the_kernel_obeys_a_loaded_filter() {
        let profile = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
        let errno = profile(r#"{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":77}"#);
        let status = in_child(&errno, |listener| if listener.is_none() { getppid_errno() } else { 98 });
        assert_eq!(libc::WEXITSTATUS(status), 77);
        assert!(libc::WIFEXITED(status));

        let kill = profile(r#"{"names":["getppid"],"action":"SCMP_ACT_KILL_PROCESS"}"#);
        let status = in_child(&kill, |_| getppid_errno());
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:x}");
    }

    #[test]
    fn a_notifying_filter_has_a_listener() {
        for flags in ["", r#""SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV""#] {
            let profile = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":[{flags}],
                    "syscalls":[{{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}}]}}"#
            );
            let status = in_child(&profile, |listener| {
                // SAFETY: asks for the flags of a descriptor.
                let flags = unsafe { libc::fcntl(listener.unwrap_or(-1), libc::F_GETFD) };
                if flags == libc::FD_CLOEXEC { 0 } else { 1 }
            });
            assert_eq!(status, 0);
        }
    }
}
