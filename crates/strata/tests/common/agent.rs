//! A seccomp agent: the process at the other end of `linux.seccomp.listenerPath`, which decides system calls in place
//! of the kernel. seccomp_unotify(2).

use std::os::fd::{AsRawFd, OwnedFd};

// _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp).
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as _;
const SEND: libc::Ioctl = 0xc018_2101_u32 as _;

/// Answers `count` notifications with the error `errno`; returns the numbers of the calls.
pub fn refuse(listener: &OwnedFd, count: usize, errno: i32) -> Vec<i32> {
    let mut calls = Vec::new();
    for _ in 0..count {
        // SAFETY: seccomp_notif is plain numbers, for which zero is valid; the kernel demands zeros on entry.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is a seccomp listener and the argument the structure that RECEIVE fills.
        let got = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut asked) };
        assert_eq!(got, 0, "a notification arrives: {}", std::io::Error::last_os_error());
        calls.push(asked.data.nr);
        let mut answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -errno, flags: 0 };
        // SAFETY: the argument is the structure that SEND reads.
        let sent = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer) };
        assert_eq!(sent, 0, "the answer is taken: {}", std::io::Error::last_os_error());
    }
    calls
}
