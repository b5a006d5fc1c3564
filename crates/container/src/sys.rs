//! Every system call that no safe wrapper offers, and nothing else: the only `unsafe` code of the crate.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// What [`clone3`] returned: this is the parent, or the child.
pub(crate) enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// libc's own does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks into new namespaces (`CLONE_NEW*` in `flags`) and, if given, straight into the v2 cgroup of that directory.
/// The child is a copy of a single-threaded process, so it may allocate.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        // A sibling inherits it.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is valid for its size; without CLONE_VM and a stack the call behaves as fork, and the caller is
    // single-threaded, so that the child's copy of the memory is consistent.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has stored a new descriptor in `pidfd`, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// Ends this process without running anything that the parent registered.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: no pointers; CLONE_FILES and CLONE_FS are never among the flags used here.
    check(unsafe { libc::unshare(flags) } as _).map(drop)
}

/// Joins the namespace of a namespace descriptor, or those in `flags` of a pidfd's process.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) } as _).map(drop)
}

/// `mount_setattr(2)` on the mount of a descriptor.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated string and `attr` is valid for its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Strings for `execve(2)`: the pointers live as long as the strings.
pub(crate) struct CStrings {
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// Fails on a string with a NUL byte.
    pub(crate) fn new<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> io::Result<CStrings> {
        let strings = strings.into_iter().map(|s| CString::new(s.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Ok(CStrings { _strings: strings, pointers })
    }
}

/// Executes a program; returns only on failure.
pub(crate) fn execve(path: &CStr, args: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: both arrays end with a null pointer and point to terminated strings that are alive.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes the file of a descriptor; returns only on failure.
pub(crate) fn fexecve(fd: BorrowedFd<'_>, args: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: as for `execve`; the path is a terminated string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(result).map(drop)
}

/// In a forked child that never returns: closes every descriptor from `first` on but those `kept`, whatever values still
/// name the others.
pub(crate) fn close_from(first: RawFd, kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut next = first;
    // After the last one kept everything goes.
    for (kept, after) in kept.iter().map(|fd| (*fd as u32, fd + 1)).chain([(u32::MAX, 0)]) {
        if kept > next as u32 {
            let last = if kept == u32::MAX { kept } else { kept - 1 };
            // SAFETY: no pointers; the child ends or executes without using or dropping what is closed here.
            check(unsafe { libc::syscall(libc::SYS_close_range, next, last, 0) })?;
        }
        next = after;
    }
    Ok(())
}

/// Replaces descriptor `number` (0, 1 or 2) by a copy of `fd`.
pub(crate) fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; standard streams are not owned by any value here.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) } as _).map(drop)
}

/// Clears close-on-exec of a descriptor that is known by its number only.
pub(crate) fn keep_on_exec(number: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, 0) } as _).map(drop)
}

pub(crate) fn prctl(option: c_int, a: u64, b: u64) -> io::Result<i64> {
    // SAFETY: used only with options whose arguments are numbers.
    check(unsafe { libc::prctl(option, a, b, 0u64, 0u64) } as _)
}

/// Takes the loopback interface of a network namespace up. `socket`: any socket made in it.
pub(crate) fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as c_char, b'o' as c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as _;
    // SAFETY: the kernel reads one `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } as _).map(drop)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the thread's effective, permitted and inheritable sets.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 of the interface reads one header and two data structures.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The thread's effective, permitted and inheritable sets.
pub(crate) fn capget() -> io::Result<(u64, u64, u64)> {
    let mut header = CapHeader { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 of the interface writes two data structures.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((
        join(data[0].effective, data[1].effective),
        join(data[0].permitted, data[1].permitted),
        join(data[0].inheritable, data[1].inheritable),
    ))
}

/// Joins, making it if need be, the session keyring of this name.
pub(crate) fn join_session_keyring(name: &CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: `name` is a terminated string.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

pub(crate) fn personality(persona: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::personality(persona) } as _).map(drop)
}

/// `struct sched_attr` of `sched_setattr(2)`, first published version.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

pub(crate) fn sched_setattr(attr: &SchedAttr) -> io::Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, ..*attr };
    // SAFETY: `attr` is valid for the size it names.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// `ioprio` is class << 13 | priority.
pub(crate) fn ioprio_set(ioprio: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, ioprio) }).map(drop)
}

/// `nodes` is a bit mask, lowest node first.
pub(crate) fn set_mempolicy(mode: c_int, nodes: &[u64]) -> io::Result<()> {
    let (mask, bits) = if nodes.is_empty() { (ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the kernel reads at most `bits - 1` bits of the mask.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// Sends any signal number, real-time ones too.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, ptr::null::<libc::siginfo_t>(), 0)
    })
    .map(drop)
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset makes it valid.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

/// An empty signal mask, as a program expects it.
pub(crate) fn unblock_signals() {
    let set = empty_set();
    // SAFETY: the set is valid.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) };
}

/// The bit of a signal in a mask such as `SigIgn` of `/proc/PID/status`.
pub(crate) const fn signal_bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals that this process ignores, see [`signal_bit`].
pub(crate) fn ignored_signals() -> u64 {
    let mut ignored = 0;
    for signal in 1..=64 {
        // The kernel's own form, as the C library does not tell of the signals that it keeps for itself. The handler is first.
        let mut action = [0u64; 4];
        let none = ptr::null::<u64>();
        // SAFETY: the kernel writes one structure of this size.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, none, action.as_mut_ptr(), size_of::<u64>()) };
        if action[0] == libc::SIG_IGN as u64 {
            ignored |= signal_bit(signal);
        }
    }
    ignored
}

/// Default dispositions of these signals, see [`signal_bit`].
pub(crate) fn default_signals(mask: u64) {
    // The kernel's own form, `struct sigaction` of all zeros: SIG_DFL, no flags, an empty mask. The C library refuses the
    // signals that it keeps for itself.
    let default = [0u64; 4];
    for signal in (1..=64).filter(|n| mask & signal_bit(*n) != 0) {
        let none = ptr::null_mut::<u64>();
        // SAFETY: the kernel reads one structure of at most this size; of KILL and STOP it refuses the change.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, size_of::<u64>()) };
    }
}

/// Signals read from a descriptor instead of being delivered; the mask is restored when dropped.
pub(crate) struct SignalFd {
    fd: OwnedFd,
    previous: libc::sigset_t,
}

impl SignalFd {
    /// Takes every signal but those that report the process's own faults, and `except`.
    pub(crate) fn all_but(except: &[i32]) -> io::Result<SignalFd> {
        let own = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];
        // SAFETY: sets are bit masks, so any bytes are valid; signalfd returns a new descriptor.
        unsafe {
            let mut set = empty_set();
            // Not sigfillset, which leaves out what the C library keeps for itself: those too end this process.
            ptr::write_bytes(&raw mut set, 0xff, 1);
            for signal in own.iter().chain(except) {
                libc::sigdelset(&raw mut set, *signal);
            }
            let mut previous = empty_set();
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut previous) as _)?;
            let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as _)?;
            Ok(SignalFd { fd: OwnedFd::from_raw_fd(fd as RawFd), previous })
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    /// The next pending signal, if any.
    pub(crate) fn next(&self) -> Option<i32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut info) {
            Ok(n) if n == info.len() => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
            _ => None,
        }
    }
}

impl Drop for SignalFd {
    fn drop(&mut self) {
        // SAFETY: the set was filled by sigprocmask.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.previous, ptr::null_mut()) };
    }
}

/// Whether a descriptor is open and without close-on-exec, as those are that a caller passed to this process.
pub(crate) fn is_inheritable(number: RawFd) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::fcntl(number, libc::F_GETFD) == 0 }
}

/// In a forked child that never returns: closes its copy of a descriptor that the parent's values still name.
pub(crate) fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: the child ends or executes without dropping the owner, so nothing uses the number again by mistake.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// A descriptor of the slave side of a pseudo-terminal's master, without a path in between.
pub(crate) fn pty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const TIOCGPTPEER: libc::Ioctl = 0x5441;
    // SAFETY: the argument is a number; the result is a new descriptor.
    unsafe {
        let fd =
            check(
                libc::ioctl(master.as_raw_fd(), TIOCGPTPEER as _, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as _
            )?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// The CPU affinity of this thread as a bit mask, lowest CPU first.
pub(crate) fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads the mask's bytes only.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) }).map(drop)
}
