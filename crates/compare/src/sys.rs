//! The one place with `unsafe`: a small process, the *watcher*, forked for each run.
//!
//! It becomes a subreaper (`prctl(2)`, `PR_SET_CHILD_SUBREAPER`), so that whatever a runtime leaves behind, double-forked
//! supervisors included, becomes its child: their processor time is counted and none escapes when a run must be
//! ended. It starts the program with `posix_spawn`, which does not copy page tables, and takes the times itself,
//! so that nothing of this process's work is in them. If this process dies, it kills its process group.

use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// A file system view of the run, made in a mount namespace of the watcher's own.
#[derive(Debug)]
pub(crate) enum View {
    /// The host's.
    Host,
    /// The host's, without what is mounted at this path.
    Without(CString),
    /// Another root, with the host's directories (source, target) bound into it first.
    Root { root: CString, binds: Vec<(CString, CString)> },
}

/// One program of a run.
#[derive(Debug)]
pub(crate) struct Step {
    /// Absolute path, as seen in the [`View`].
    pub program: CString,
    pub argv: Vec<CString>,
    /// Whether to wait for all orphans of the run after this program, as the shim of a container engine does.
    pub reap_orphans: bool,
}

/// What a watcher runs.
#[derive(Debug)]
pub(crate) struct Script {
    pub steps: Vec<Step>,
    pub env: Vec<CString>,
    /// In the [`View`].
    pub cwd: CString,
    pub view: View,
}

/// What a watcher writes to its report pipe: one for each step, then one when no descendant is left.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Note {
    /// [`Note::STEP`], [`Note::DONE`] or [`Note::FAILED`].
    pub kind: u32,
    /// Wait status of the step's program; error number if failed.
    pub status: i32,
    /// Monotonic clock, nanoseconds.
    pub begin_ns: u64,
    pub end_ns: u64,
    /// User and system time of everything reaped during the step, nanoseconds.
    pub cpu_ns: u64,
    /// Largest resident set of one process, bytes.
    pub max_rss: u64,
}

impl Note {
    pub const STEP: u32 = 1;
    pub const DONE: u32 = 2;
    pub const FAILED: u32 = 3;
    /// Bytes of one note in the pipe.
    pub const SIZE: usize = mem::size_of::<Note>();

    /// The note in the first bytes of a full record.
    pub fn from_bytes(bytes: &[u8; Note::SIZE]) -> Note {
        // SAFETY: Note is repr(C), of integers only, so every bit pattern of its size is a value; read unaligned.
        unsafe { ptr::read_unaligned(bytes.as_ptr().cast()) }
    }
}

/// A pipe whose ends close on exec: (read, write).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just opened and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Forks a watcher for `script` with its standard output and error at `output` and notes at `report`; returns its process id.
pub(crate) fn start_watcher(script: &Script, output: BorrowedFd<'_>, report: BorrowedFd<'_>) -> io::Result<i32> {
    // The child allocates nothing, so all pointers are laid out here.
    let argvs: Vec<Vec<*const c_char>> = script.steps.iter().map(|s| pointers(&s.argv)).collect();
    let env = pointers(&script.env);
    let null = std::fs::File::open("/dev/null")?;
    // SAFETY: getpid has no preconditions; after fork the child only makes system calls and calls functions that are
    // async-signal-safe (posix_spawn is so in glibc: it allocates its stack by mmap and takes no lock), never returns,
    // and everything it reads was allocated before.
    unsafe {
        let parent = libc::getpid();
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => watch(script, &argvs, &env, parent, null.as_raw_fd(), output.as_raw_fd(), report.as_raw_fd()),
            pid => Ok(pid),
        }
    }
}

/// Reaps the watcher once it has ended, without waiting; whether it has ended.
pub(crate) fn reap(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: the status is a valid out pointer.
    unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) != 0 }
}

/// Sends a signal; a process that is gone is not an error.
pub(crate) fn kill(pid: i32, signal: i32) {
    if pid > 1 {
        // SAFETY: kill has no memory preconditions; a positive id names one process.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Where [`raise_on_interrupt`]'s handler finds its flag.
static INTERRUPTED: AtomicPtr<AtomicBool> = AtomicPtr::new(ptr::null_mut());

/// Lets SIGINT, SIGTERM and SIGHUP raise the flag.
pub(crate) fn raise_on_interrupt(flag: &'static AtomicBool) {
    INTERRUPTED.store(ptr::from_ref(flag).cast_mut(), Ordering::Release);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only loads and stores atomics, which is async-signal-safe.
        unsafe { libc::signal(signal, raise as extern "C" fn(c_int) as libc::sighandler_t) };
    }
}

extern "C" fn raise(_signal: c_int) {
    // SAFETY: null or the address of a static.
    if let Some(flag) = unsafe { INTERRUPTED.load(Ordering::Acquire).as_ref() } {
        flag.store(true, Ordering::Relaxed);
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// The watcher itself.
///
/// # Safety
/// Only in a forked child; `argvs` and `env` are null-terminated arrays of strings that `script` owns.
unsafe fn watch(
    script: &Script,
    argvs: &[Vec<*const c_char>],
    env: &[*const c_char],
    parent: c_int,
    null: c_int,
    output: c_int,
    report: c_int,
) -> ! {
    // SAFETY: system calls with pointers to live, initialised memory, as each needs.
    unsafe {
        libc::setsid();
        for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGCHLD] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGTERM, kill_group as extern "C" fn(c_int) as libc::sighandler_t);
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        if libc::getppid() != parent {
            libc::_exit(1);
        }
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if libc::dup2(null, 0) < 0
            || libc::dup2(output, 1) < 0
            || libc::dup2(output, 2) < 0
            || !enter(&script.view)
            || libc::chdir(script.cwd.as_ptr()) != 0
        {
            fail(report, *libc::__errno_location());
        }
        for (step, argv) in script.steps.iter().zip(argvs) {
            let mut note = Note { kind: Note::STEP, begin_ns: now(), ..Note::default() };
            let mut child = 0;
            let error = libc::posix_spawn(
                &raw mut child,
                step.program.as_ptr(),
                ptr::null(),
                ptr::null(),
                argv.as_ptr().cast(),
                env.as_ptr().cast(),
            );
            if error != 0 {
                fail(report, error);
            }
            while let Some((pid, status)) = reap_one(&mut note) {
                if pid == child {
                    note.status = status;
                    break;
                }
            }
            note.end_ns = now();
            if step.reap_orphans {
                while reap_one(&mut note).is_some() {}
            }
            send(report, &note);
        }
        let mut rest = Note { kind: Note::DONE, ..Note::default() };
        while reap_one(&mut rest).is_some() {}
        send(report, &rest);
        libc::_exit(0)
    }
}

extern "C" fn kill_group(_signal: c_int) {
    // SAFETY: kill is async-signal-safe; after setsid the group holds only this run.
    unsafe { libc::kill(0, libc::SIGKILL) };
}

/// # Safety
/// Only in the watcher.
unsafe fn enter(view: &View) -> bool {
    // SAFETY: system calls with pointers to strings that `view` owns.
    unsafe {
        if matches!(view, View::Host) {
            return true;
        }
        if libc::unshare(libc::CLONE_NEWNS) != 0 || !mount(None, c"/", libc::MS_REC | libc::MS_PRIVATE) {
            return false;
        }
        match view {
            View::Host => true,
            View::Without(path) => libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0,
            View::Root { root, binds } => {
                binds.iter().all(|(from, to)| mount(Some(from), to, libc::MS_BIND | libc::MS_REC))
                    && libc::chroot(root.as_ptr()) == 0
            }
        }
    }
}

/// # Safety
/// Only in the watcher.
unsafe fn mount(source: Option<&CStr>, target: &CStr, flags: libc::c_ulong) -> bool {
    let source = source.map_or(c"none".as_ptr(), CStr::as_ptr);
    // SAFETY: all pointers are to live C strings or null where mount(2) allows it.
    unsafe { libc::mount(source, target.as_ptr(), ptr::null(), flags, ptr::null()) == 0 }
}

/// Waits for any child and adds what it used; `None` when there is none left.
///
/// # Safety
/// Only in the watcher.
unsafe fn reap_one(note: &mut Note) -> Option<(c_int, c_int)> {
    // SAFETY: rusage is plain integers, so zero is a value; both out pointers are valid.
    unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        let mut status = 0;
        loop {
            let pid = libc::wait4(-1, &raw mut status, 0, &raw mut usage);
            if pid > 0 {
                let time = |t: libc::timeval| t.tv_sec as u64 * 1_000_000_000 + t.tv_usec as u64 * 1000;
                note.cpu_ns += time(usage.ru_utime) + time(usage.ru_stime);
                note.max_rss = note.max_rss.max(usage.ru_maxrss as u64 * 1024);
                return Some((pid, status));
            }
            if *libc::__errno_location() != libc::EINTR {
                return None;
            }
        }
    }
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid out pointer; the monotonic clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// # Safety
/// Only in the watcher.
unsafe fn send(report: c_int, note: &Note) {
    // SAFETY: the note is live and of that size; a record smaller than PIPE_BUF is written whole.
    unsafe { libc::write(report, ptr::from_ref(note).cast(), Note::SIZE) };
}

/// # Safety
/// Only in the watcher.
unsafe fn fail(report: c_int, error: c_int) -> ! {
    // SAFETY: as for `send`; _exit has no preconditions.
    unsafe {
        send(report, &Note { kind: Note::FAILED, status: error, ..Note::default() });
        libc::_exit(1)
    }
}
