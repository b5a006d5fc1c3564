//! The system calls the toolbox uses, made directly: no C library stands between. This is the only module besides
//! `rt` with `unsafe` code; every wrapper takes references and slices and keeps them alive across its call.
//!
//! Numbers and structures come from the `libc` crate, where the kernel's layout and the C library's agree; where
//! they differ (termios, sigaction, signal sets) the kernel's is declared here. See syscalls(2).

use alloc::vec::Vec;
use core::mem::{MaybeUninit, size_of, size_of_val};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

pub use libc::{dirent64, rusage, sockaddr_in, stat as Stat, statfs as Statfs, timespec, utsname};

/// A kernel error number, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

/// What a system call returns.
pub type Result<T> = core::result::Result<T, Errno>;

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = match self.0 {
            libc::EPERM => "Operation not permitted",
            libc::ENOENT => "No such file or directory",
            libc::ESRCH => "No such process",
            libc::EINTR => "Interrupted system call",
            libc::EIO => "Input/output error",
            libc::ENXIO => "No such device or address",
            libc::E2BIG => "Argument list too long",
            libc::ENOEXEC => "Exec format error",
            libc::EBADF => "Bad file descriptor",
            libc::ECHILD => "No child processes",
            libc::EAGAIN => "Resource temporarily unavailable",
            libc::ENOMEM => "Cannot allocate memory",
            libc::EACCES => "Permission denied",
            libc::EBUSY => "Device or resource busy",
            libc::EEXIST => "File exists",
            libc::EXDEV => "Invalid cross-device link",
            libc::ENODEV => "No such device",
            libc::ENOTDIR => "Not a directory",
            libc::EISDIR => "Is a directory",
            libc::EINVAL => "Invalid argument",
            libc::EMFILE => "Too many open files",
            libc::ENOTTY => "Inappropriate ioctl for device",
            libc::ETXTBSY => "Text file busy",
            libc::EFBIG => "File too large",
            libc::ENOSPC => "No space left on device",
            libc::ESPIPE => "Illegal seek",
            libc::EROFS => "Read-only file system",
            libc::EPIPE => "Broken pipe",
            libc::ENAMETOOLONG => "File name too long",
            libc::ENOSYS => "Function not implemented",
            libc::ENOTEMPTY => "Directory not empty",
            libc::ELOOP => "Too many levels of symbolic links",
            libc::EOPNOTSUPP => "Operation not supported",
            libc::EADDRINUSE => "Address already in use",
            libc::EADDRNOTAVAIL => "Cannot assign requested address",
            libc::ENETUNREACH => "Network is unreachable",
            libc::ECONNRESET => "Connection reset by peer",
            libc::ETIMEDOUT => "Connection timed out",
            libc::ECONNREFUSED => "Connection refused",
            libc::EHOSTUNREACH => "No route to host",
            libc::EAFNOSUPPORT => "Address family not supported by protocol",
            libc::EDQUOT => "Disk quota exceeded",
            other => return write!(f, "Error {other}"),
        };
        f.write_str(text)
    }
}

/// Makes one system call. Private on purpose: the wrappers below are its only callers.
///
/// # Safety
/// Pointers among `a` must be valid for what the call does with them.
#[inline]
unsafe fn raw(n: i64, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel preserves all registers but rax, rcx and r11; the caller vouches for the pointers.
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") n as isize => result, in("rdi") a[0], in("rsi") a[1],
            in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _,
            options(nostack));
    }
    result
}

fn check(result: isize) -> Result<usize> {
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

macro_rules! call {
    (@ $n:ident [$($done:expr),*] ) => { call!(@@ $n $($done,)* 0usize, 0usize, 0usize, 0usize, 0usize, 0usize) };
    (@@ $n:ident $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr $(, $rest:expr)*) => {
        // SAFETY: every wrapper of this module derives its pointers from references, slices or `path`s that live
        // until the call returns, and passes the length of the same object.
        check(unsafe { raw(libc::$n, [$a as usize, $b as usize, $c as usize, $d as usize, $e as usize, $f as usize]) })
    };
    ($n:ident $(, $arg:expr)*) => { call!(@ $n [$($arg),*]) };
}

/// Calls `f` with `path` as a C string.
fn path<T>(path: &[u8], f: impl FnOnce(*const u8) -> Result<T>) -> Result<T> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    if path.len() >= buffer.len() {
        return Err(Errno(libc::ENAMETOOLONG));
    }
    if path.contains(&0) {
        return Err(Errno(libc::EINVAL));
    }
    for (to, from) in buffer.iter_mut().zip(path.iter().chain(&[0])) {
        to.write(*from);
    }
    f(buffer.as_ptr().cast())
}

fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` types are valid with all bytes zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Types any byte pattern is valid for.
///
/// # Safety
/// Implemented only for integers and structures of integers.
pub unsafe trait Plain: Sized {}
macro_rules! plain { ($($t:ty),*) => { $(
    // SAFETY: a C structure of integers.
    unsafe impl Plain for $t {}
)* } }
plain!(
    libc::stat,
    libc::statfs,
    libc::rusage,
    libc::utsname,
    libc::timespec,
    Termios,
    libc::sockaddr_in,
    libc::winsize
);

// ---- start, arguments, environment ----

static STACK: AtomicUsize = AtomicUsize::new(0);

/// Remembers where the kernel laid the arguments, the environment and the auxiliary vector.
///
/// # Safety
/// `stack` must be the address of argc on the initial stack, which is never written to.
pub unsafe fn start(stack: *const usize) {
    STACK.store(stack as usize, Relaxed);
}

/// Reads word `index` of the initial stack; zero when `start` was never called (unit tests).
fn stack_word(index: usize) -> usize {
    let base = STACK.load(Relaxed) as *const usize;
    if base.is_null() {
        return 0;
    }
    // SAFETY: callers walk argc, argv, envp and auxv in order and stop at their terminators.
    unsafe { base.add(index).read() }
}

fn c_string(address: usize) -> &'static [u8] {
    // SAFETY: called with string addresses found on the initial stack, which lives as long as the program.
    unsafe {
        let start = address as *const u8;
        let mut length = 0;
        while start.add(length).read() != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(start, length)
    }
}

/// The arguments, the first being the program's name.
pub fn args() -> Vec<&'static [u8]> {
    (0..stack_word(0)).map(|i| c_string(stack_word(1 + i))).collect()
}

/// The environment the program was started with, as `NAME=value` strings.
pub fn environment() -> Vec<&'static [u8]> {
    let first = stack_word(0) + 2;
    let mut all = Vec::new();
    if STACK.load(Relaxed) != 0 {
        while stack_word(first + all.len()) != 0 {
            all.push(c_string(stack_word(first + all.len())));
        }
    }
    all
}

/// The value of an entry of the auxiliary vector (getauxval(3)), for example `libc::AT_SYSINFO_EHDR`.
fn auxiliary(kind: usize) -> Option<usize> {
    if STACK.load(Relaxed) == 0 {
        return None;
    }
    let mut at = stack_word(0) + 2;
    while stack_word(at) != 0 {
        at += 1;
    }
    at += 1;
    while stack_word(at) != 0 {
        if stack_word(at) == kind {
            return Some(stack_word(at + 1));
        }
        at += 2;
    }
    None
}

// ---- time ----

static CLOCK: AtomicUsize = AtomicUsize::new(0);

/// Finds `__vdso_clock_gettime` in the page the kernel maps into every program (vdso(7)); 1 when there is none.
fn find_vdso_clock() -> usize {
    let Some(base) = auxiliary(libc::AT_SYSINFO_EHDR as usize).filter(|b| *b != 0) else { return 1 };
    // SAFETY: the kernel maps a complete ELF64 image there; its own headers say where the tables are.
    unsafe {
        let word = |at: usize| (at as *const u64).read_unaligned() as usize;
        let half = |at: usize| (at as *const u16).read_unaligned() as usize;
        let (headers, count) = (base + word(base + 32), half(base + 56));
        let (mut dynamic, mut slide) = (0, None);
        for header in (0..count).map(|i| headers + i * 56) {
            match (header as *const u32).read_unaligned() {
                1 if slide.is_none() => {
                    slide = Some(base.wrapping_sub(word(header + 16)).wrapping_add(word(header + 8)))
                }
                2 => dynamic = base + word(header + 8),
                _ => {}
            }
        }
        let Some(slide) = slide.filter(|_| dynamic != 0) else { return 1 };
        let (mut strings, mut symbols, mut hash, mut gnu_hash) = (0, 0, 0, 0);
        let mut at = dynamic;
        while word(at) != 0 {
            let value = slide.wrapping_add(word(at + 8));
            match word(at) {
                4 => hash = value,
                5 => strings = value,
                6 => symbols = value,
                0x6fff_fef5 => gnu_hash = value,
                _ => {}
            }
            at += 16;
        }
        if strings == 0 || symbols == 0 {
            return 1;
        }
        // The symbol count: from DT_HASH if there, else from the end of the last chain of DT_GNU_HASH.
        let int = |at: usize| (at as *const u32).read_unaligned() as usize;
        let count = if hash != 0 {
            int(hash + 4)
        } else if gnu_hash != 0 {
            let (buckets, first, bloom) = (int(gnu_hash), int(gnu_hash + 4), int(gnu_hash + 8));
            let table = gnu_hash + 16 + bloom * 8;
            let last = (0..buckets).map(|i| int(table + i * 4)).max().unwrap_or(0);
            let mut last = last.max(first);
            while int(table + buckets * 4 + (last - first) * 4) & 1 == 0 {
                last += 1;
            }
            last + 1
        } else {
            0
        };
        for symbol in (0..count).map(|i| symbols + i * 24) {
            if c_string(strings + int(symbol)) == b"__vdso_clock_gettime" && word(symbol + 8) != 0 {
                return slide.wrapping_add(word(symbol + 8));
            }
        }
    }
    1
}

/// Reads a clock (clock_gettime(2)), through the vDSO where the kernel offers it.
pub fn clock(id: i32) -> timespec {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    let mut address = CLOCK.load(Relaxed);
    if address == 0 {
        address = find_vdso_clock();
        CLOCK.store(address, Relaxed);
    }
    if address != 1 {
        // SAFETY: the address of a function of this type in the kernel's own vDSO.
        let status = unsafe {
            let function: extern "C" fn(i32, *mut timespec) -> i32 = core::mem::transmute(address);
            function(id, &mut time)
        };
        if status == 0 {
            return time;
        }
    }
    let _ = call!(SYS_clock_gettime, id, &raw mut time);
    time
}

/// Whether [`clock`] needs no system call here.
pub fn clock_is_vdso() -> bool {
    clock(libc::CLOCK_MONOTONIC);
    CLOCK.load(Relaxed) > 1
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    let time = clock(libc::CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps for `nanoseconds` or until a signal handler has run.
pub fn sleep(nanoseconds: u64) -> Result<()> {
    let time = timespec { tv_sec: (nanoseconds / 1_000_000_000) as i64, tv_nsec: (nanoseconds % 1_000_000_000) as i64 };
    call!(SYS_nanosleep, &raw const time, 0).map(drop)
}

/// Sets the clock of the machine.
pub fn set_clock(seconds: i64) -> Result<()> {
    let time = timespec { tv_sec: seconds, tv_nsec: 0 };
    call!(SYS_clock_settime, libc::CLOCK_REALTIME, &raw const time).map(drop)
}

// ---- files ----

/// An open file descriptor.
pub type Fd = i32;

pub fn open(name: &[u8], flags: i32, mode: u32) -> Result<Fd> {
    path(name, |p| call!(SYS_openat, libc::AT_FDCWD, p, flags | libc::O_CLOEXEC, mode).map(|fd| fd as Fd))
}

pub fn close(fd: Fd) {
    let _ = call!(SYS_close, fd);
}

/// Reads once, again if a signal came first.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match read_once(fd, buffer) {
            Err(Errno(libc::EINTR)) => {}
            other => return other,
        }
    }
}

/// Reads once; `EINTR` if a signal came first.
pub fn read_once(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    call!(SYS_read, fd, buffer.as_mut_ptr(), buffer.len())
}

pub fn write(fd: Fd, bytes: &[u8]) -> Result<usize> {
    loop {
        match call!(SYS_write, fd, bytes.as_ptr(), bytes.len()) {
            Err(Errno(libc::EINTR)) => {}
            other => return other,
        }
    }
}

pub fn write_all(fd: Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = write(fd, bytes)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

pub fn pread(fd: Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    call!(SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), offset)
}

pub fn pwrite(fd: Fd, bytes: &[u8], offset: u64) -> Result<usize> {
    call!(SYS_pwrite64, fd, bytes.as_ptr(), bytes.len(), offset)
}

pub fn seek(fd: Fd, offset: i64, whence: i32) -> Result<u64> {
    call!(SYS_lseek, fd, offset, whence).map(|n| n as u64)
}

pub fn truncate(fd: Fd, length: u64) -> Result<()> {
    call!(SYS_ftruncate, fd, length).map(drop)
}

pub fn fsync(fd: Fd) -> Result<()> {
    call!(SYS_fsync, fd).map(drop)
}

pub fn sync() {
    let _ = call!(SYS_sync);
}

/// Tells the kernel that the cached pages of a file are not needed (posix_fadvise(2), POSIX_FADV_DONTNEED).
pub fn drop_cache(fd: Fd) {
    let _ = call!(SYS_fadvise64, fd, 0, 0, libc::POSIX_FADV_DONTNEED);
}

/// Copies up to `length` bytes between files inside the kernel.
pub fn sendfile(to: Fd, from: Fd, length: usize) -> Result<usize> {
    call!(SYS_sendfile, to, from, 0, length)
}

/// The metadata of `name`; of the link itself unless `follow`.
pub fn stat(name: &[u8], follow: bool) -> Result<Stat> {
    let mut stat: Stat = zeroed();
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    path(name, |p| call!(SYS_newfstatat, libc::AT_FDCWD, p, &raw mut stat, flags))?;
    Ok(stat)
}

pub fn fstat(fd: Fd) -> Result<Stat> {
    let mut stat: Stat = zeroed();
    call!(SYS_fstat, fd, &raw mut stat)?;
    Ok(stat)
}

pub fn statfs(name: &[u8]) -> Result<Statfs> {
    let mut statfs: Statfs = zeroed();
    path(name, |p| call!(SYS_statfs, p, &raw mut statfs))?;
    Ok(statfs)
}

/// Whether the effective user may access `name` so (`libc::R_OK` and others).
pub fn access(name: &[u8], mode: i32) -> Result<()> {
    path(name, |p| call!(SYS_faccessat2, libc::AT_FDCWD, p, mode, libc::AT_EACCESS)).map(drop).or_else(|e| {
        if e == Errno(libc::ENOSYS) { path(name, |p| call!(SYS_access, p, mode)).map(drop) } else { Err(e) }
    })
}

/// An entry of a directory: its name and its type (`libc::DT_DIR`, perhaps `DT_UNKNOWN`).
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
}

/// The entries of a directory without `.` and `..`, in the order of the file system.
pub fn read_dir(name: &[u8]) -> Result<Vec<Entry>> {
    let fd = open(name, libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut entries = Vec::new();
    let mut buffer = [0u8; 8192];
    let result = loop {
        let n = match call!(SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) {
            Ok(0) => break Ok(entries),
            Ok(n) => n,
            Err(e) => break Err(e),
        };
        let mut rest = &buffer[..n];
        while rest.len() > 19 {
            let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]])).clamp(19, rest.len());
            let name = rest[19..length].split(|b| *b == 0).next().unwrap_or(&[]);
            if name != b"." && name != b".." {
                entries.push(Entry { name: name.to_vec(), kind: rest[18] });
            }
            rest = &rest[length..];
        }
    };
    close(fd);
    result
}

pub fn mkdir(name: &[u8], mode: u32) -> Result<()> {
    path(name, |p| call!(SYS_mkdir, p, mode)).map(drop)
}

pub fn rmdir(name: &[u8]) -> Result<()> {
    path(name, |p| call!(SYS_rmdir, p)).map(drop)
}

pub fn unlink(name: &[u8]) -> Result<()> {
    path(name, |p| call!(SYS_unlink, p)).map(drop)
}

pub fn rename(from: &[u8], to: &[u8]) -> Result<()> {
    path(from, |from| path(to, |to| call!(SYS_rename, from, to))).map(drop)
}

pub fn link(from: &[u8], to: &[u8]) -> Result<()> {
    path(from, |from| path(to, |to| call!(SYS_link, from, to))).map(drop)
}

pub fn symlink(target: &[u8], name: &[u8]) -> Result<()> {
    path(target, |target| path(name, |name| call!(SYS_symlink, target, name))).map(drop)
}

pub fn readlink(name: &[u8]) -> Result<Vec<u8>> {
    let mut buffer = [0u8; 4096];
    let n = path(name, |p| call!(SYS_readlink, p, buffer.as_mut_ptr(), buffer.len()))?;
    Ok(buffer[..n].to_vec())
}

pub fn chmod(name: &[u8], mode: u32) -> Result<()> {
    path(name, |p| call!(SYS_chmod, p, mode)).map(drop)
}

/// Changes the owner; `u32::MAX` leaves one as it is.
pub fn chown(name: &[u8], user: u32, group: u32, follow: bool) -> Result<()> {
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    path(name, |p| call!(SYS_fchownat, libc::AT_FDCWD, p, user, group, flags)).map(drop)
}

pub fn mknod(name: &[u8], mode: u32, device: u64) -> Result<()> {
    path(name, |p| call!(SYS_mknod, p, mode, device)).map(drop)
}

/// Sets access and modification times; `None` is now.
pub fn set_times(name: &[u8], times: Option<[timespec; 2]>, follow: bool) -> Result<()> {
    let times = times.as_ref().map_or(null(), |t| t.as_ptr());
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    path(name, |p| call!(SYS_utimensat, libc::AT_FDCWD, p, times, flags)).map(drop)
}

pub fn umask(mask: u32) -> u32 {
    call!(SYS_umask, mask).map_or(0, |old| old as u32)
}

pub fn chdir(name: &[u8]) -> Result<()> {
    path(name, |p| call!(SYS_chdir, p)).map(drop)
}

pub fn getcwd() -> Result<Vec<u8>> {
    let mut buffer = [0u8; 4096];
    let n = call!(SYS_getcwd, buffer.as_mut_ptr(), buffer.len())?;
    Ok(buffer[..n.saturating_sub(1)].to_vec())
}

pub fn mount(source: &[u8], target: &[u8], kind: &[u8], flags: u64, data: &[u8]) -> Result<()> {
    path(source, |s| path(target, |t| path(kind, |k| path(data, |d| call!(SYS_mount, s, t, k, flags, d).map(drop)))))
}

pub fn umount(target: &[u8], flags: i32) -> Result<()> {
    path(target, |t| call!(SYS_umount2, t, flags)).map(drop)
}

pub fn dup2(from: Fd, to: Fd) -> Result<()> {
    // dup3 refuses equal descriptors; dup2 is wanted because it also clears close-on-exec.
    call!(SYS_dup2, from, to).map(drop)
}

/// Duplicates to the lowest free descriptor from `least` on, closed on exec.
pub fn dup_from(fd: Fd, least: Fd) -> Result<Fd> {
    call!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, least).map(|fd| fd as Fd)
}

/// A pipe: reading end, writing end, both closed on exec.
pub fn pipe() -> Result<[Fd; 2]> {
    let mut ends = [0i32; 2];
    call!(SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC)?;
    Ok(ends)
}

/// Waits until one of `fds` is readable (or at its end); the answer tells which, all false after the timeout.
pub fn poll_readable(fds: &[Fd], timeout_ms: i32) -> Result<Vec<bool>> {
    let mut polls: Vec<_> = fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    call!(SYS_poll, polls.as_mut_ptr(), polls.len(), timeout_ms)?;
    Ok(polls.iter().map(|p| p.revents != 0).collect())
}

// ---- terminal ----

/// The kernel's `struct termios`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; 19],
}

pub fn terminal(fd: Fd) -> Result<Termios> {
    let mut termios: Termios = zeroed();
    call!(SYS_ioctl, fd, libc::TCGETS, &raw mut termios)?;
    Ok(termios)
}

pub fn set_terminal(fd: Fd, termios: &Termios) -> Result<()> {
    call!(SYS_ioctl, fd, libc::TCSETS, core::ptr::from_ref(termios)).map(drop)
}

pub fn is_terminal(fd: Fd) -> bool {
    terminal(fd).is_ok()
}

/// Rows and columns of a terminal.
pub fn terminal_size(fd: Fd) -> Result<(u16, u16)> {
    let mut size: libc::winsize = zeroed();
    call!(SYS_ioctl, fd, libc::TIOCGWINSZ, &raw mut size)?;
    Ok((size.ws_row, size.ws_col))
}

pub fn set_terminal_size(fd: Fd, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    call!(SYS_ioctl, fd, libc::TIOCSWINSZ, &raw const size).map(drop)
}

/// Makes the process group the terminal's foreground one.
pub fn set_foreground(fd: Fd, group: i32) -> Result<()> {
    call!(SYS_ioctl, fd, libc::TIOCSPGRP, &raw const group).map(drop)
}

/// Makes the terminal the session's controlling one.
pub fn set_controlling_terminal(fd: Fd) -> Result<()> {
    call!(SYS_ioctl, fd, libc::TIOCSCTTY, 0).map(drop)
}

// ---- processes ----

/// A new process: `None` in the child.
#[inline]
pub fn fork() -> Result<Option<i32>> {
    call!(SYS_fork).map(|pid| if pid == 0 { None } else { Some(pid as i32) })
}

/// Replaces the program. Returns only on failure.
pub fn execve(name: &[u8], args: &[&[u8]], env: &[&[u8]]) -> Errno {
    let terminate = |list: &[&[u8]]| list.iter().map(|s| [s, &b"\0"[..]].concat()).collect::<Vec<_>>();
    let (args, env) = (terminate(args), terminate(env));
    let pointers = |list: &[Vec<u8>]| list.iter().map(|s| s.as_ptr()).chain([null()]).collect::<Vec<_>>();
    let (args, env) = (pointers(&args), pointers(&env));
    match path(name, |p| call!(SYS_execve, p, args.as_ptr(), env.as_ptr())) {
        Err(e) => e,
        Ok(_) => Errno(libc::EINVAL),
    }
}

pub fn exit(status: i32) -> ! {
    loop {
        let _ = call!(SYS_exit_group, status);
    }
}

pub fn abort() -> ! {
    let _ = kill(getpid(), libc::SIGABRT);
    exit(134)
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Exited(i32),
    Killed(i32),
}

impl End {
    /// As a shell reports it: 128 and the signal's number for a killed process.
    pub fn status(self) -> i32 {
        match self {
            End::Exited(code) => code,
            End::Killed(signal) => 128 + signal,
        }
    }
}

/// Waits for a child (any for -1). `None`: with `WNOHANG`, none has ended. `EINTR` if a signal handler ran.
pub fn wait(pid: i32, flags: i32) -> Result<Option<(i32, End)>> {
    let mut status = 0i32;
    let pid = call!(SYS_wait4, pid, &raw mut status, flags, 0)? as i32;
    Ok(decode(pid, status))
}

fn decode(pid: i32, status: i32) -> Option<(i32, End)> {
    let end = if status & 0x7f == 0 { End::Exited((status >> 8) & 0xff) } else { End::Killed(status & 0x7f) };
    (pid != 0).then_some((pid, end))
}

/// Waits for a child to end and also returns what it used.
pub fn wait_usage(pid: i32) -> Result<(i32, End, rusage)> {
    let (mut status, mut usage) = (0i32, zeroed::<rusage>());
    loop {
        match call!(SYS_wait4, pid, &raw mut status, 0, &raw mut usage) {
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
            Ok(pid) => {
                if let Some((pid, end)) = decode(pid as i32, status) {
                    return Ok((pid, end, usage));
                }
            }
        }
    }
}

/// Waits for this child to end; interruptions are ignored.
pub fn wait_for(pid: i32) -> End {
    loop {
        match wait(pid, 0) {
            Ok(Some((_, end))) => return end,
            Err(Errno(libc::EINTR)) | Ok(None) => {}
            Err(_) => return End::Exited(127),
        }
    }
}

pub fn kill(pid: i32, signal: i32) -> Result<()> {
    call!(SYS_kill, pid, signal).map(drop)
}

pub fn getpid() -> i32 {
    call!(SYS_getpid).map_or(0, |n| n as i32)
}

#[inline]
pub fn getppid() -> i32 {
    call!(SYS_getppid).map_or(0, |n| n as i32)
}

/// User, effective user, group, effective group.
pub fn ids() -> [u32; 4] {
    [call!(SYS_getuid), call!(SYS_geteuid), call!(SYS_getgid), call!(SYS_getegid)].map(|r| r.map_or(0, |n| n as u32))
}

pub fn groups() -> Vec<u32> {
    let mut groups = [0u32; 256];
    let n = call!(SYS_getgroups, groups.len(), groups.as_mut_ptr()).unwrap_or(0);
    groups[..n].to_vec()
}

pub fn setsid() -> Result<()> {
    call!(SYS_setsid).map(drop)
}

pub fn setpgid(pid: i32, group: i32) -> Result<()> {
    call!(SYS_setpgid, pid, group).map(drop)
}

/// Has this process adopt the orphans among its descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> Result<()> {
    call!(SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// Has the kernel kill this process when its parent ends.
pub fn die_with_parent() {
    let _ = call!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
}

pub fn unshare(flags: i32) -> Result<()> {
    call!(SYS_unshare, flags).map(drop)
}

/// The CPUs this process may run on, as a bit mask in words.
pub fn affinity() -> Result<Vec<u64>> {
    let mut mask = [0u64; 128];
    let n = call!(SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())?;
    Ok(mask[..n / 8].to_vec())
}

pub fn uname() -> utsname {
    let mut name: utsname = zeroed();
    let _ = call!(SYS_uname, &raw mut name);
    name
}

pub fn set_hostname(name: &[u8]) -> Result<()> {
    call!(SYS_sethostname, name.as_ptr(), name.len()).map(drop)
}

/// User and system time of this process and of its ended children, in microseconds.
pub fn times() -> [u64; 4] {
    let mut all = [0; 4];
    for (i, who) in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().enumerate() {
        let mut usage: rusage = zeroed();
        let _ = call!(SYS_getrusage, who, &raw mut usage);
        all[2 * i] = usage.ru_utime.tv_sec as u64 * 1_000_000 + usage.ru_utime.tv_usec as u64;
        all[2 * i + 1] = usage.ru_stime.tv_sec as u64 * 1_000_000 + usage.ru_stime.tv_usec as u64;
    }
    all
}

/// A resource limit, soft and hard (getrlimit(2)).
pub fn limit(resource: u32) -> Result<[u64; 2]> {
    let mut limit = [0u64; 2];
    call!(SYS_prlimit64, 0, resource, 0, limit.as_mut_ptr())?;
    Ok(limit)
}

pub fn set_limit(resource: u32, limit: [u64; 2]) -> Result<()> {
    call!(SYS_prlimit64, 0, resource, limit.as_ptr(), 0).map(drop)
}

// ---- signals ----

/// Bit `n` is set once signal `n` has arrived at the recording handler.
static PENDING: AtomicU64 = AtomicU64::new(0);

#[repr(C)]
struct KernelSigaction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// What a signal does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    Default,
    Ignore,
    /// The arrival is noted for [`take_signals`]; a waiting system call returns `EINTR`.
    Record,
}

extern "C" fn record(signal: i32) {
    PENDING.fetch_or(1 << (signal as u64 & 63), Relaxed);
}

core::arch::global_asm!(
    ".hidden toolbox_sigreturn",
    ".globl toolbox_sigreturn",
    "toolbox_sigreturn:",
    "mov eax, 15",
    "syscall"
);

// SAFETY: defined just above.
unsafe extern "C" {
    fn toolbox_sigreturn();
}

pub fn set_signal(signal: i32, disposition: Disposition) -> Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
        Disposition::Record => record as extern "C" fn(i32) as usize,
    };
    let restorer = toolbox_sigreturn as unsafe extern "C" fn() as usize;
    let action = KernelSigaction { handler, flags: 0x0400_0000, restorer, mask: 0 };
    call!(SYS_rt_sigaction, signal, &raw const action, 0, 8).map(drop)
}

/// Whether the signal is ignored.
pub fn is_ignored(signal: i32) -> bool {
    let mut action = KernelSigaction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    call!(SYS_rt_sigaction, signal, 0, &raw mut action, 8).is_ok() && action.handler == libc::SIG_IGN
}

/// The recorded signals since the last call, as a bit mask by number.
pub fn take_signals() -> u64 {
    if PENDING.load(Relaxed) == 0 { 0 } else { PENDING.swap(0, Relaxed) }
}

/// Blocks all signals, or unblocks all.
pub fn block_signals(block: bool) {
    let mask = if block { u64::MAX } else { 0 };
    let _ = call!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, 0, 8);
}

/// Waits for one of all signals, which must be blocked, at most so long; `EAGAIN` when none came.
pub fn wait_signal(nanoseconds: Option<u64>) -> Result<i32> {
    let mask = u64::MAX;
    let time =
        nanoseconds.map(|n| timespec { tv_sec: (n / 1_000_000_000) as i64, tv_nsec: (n % 1_000_000_000) as i64 });
    let time = time.as_ref().map_or(null(), core::ptr::from_ref);
    call!(SYS_rt_sigtimedwait, &raw const mask, 0, time, 8).map(|n| n as i32)
}

// ---- memory ----

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// New zeroed pages; a wrapper for the allocator and the benchmarks.
#[inline]
pub fn map_pages(length: usize) -> Result<*mut u8> {
    call!(SYS_mmap, 0, length, libc::PROT_READ | libc::PROT_WRITE, PRIVATE, -1isize, 0).map(|a| a as *mut u8)
}

pub(crate) fn unmap_pages(start: *mut u8, length: usize) {
    let _ = call!(SYS_munmap, start, length);
}

pub(crate) fn remap_pages(start: *mut u8, old: usize, new: usize) -> Result<*mut u8> {
    call!(SYS_mremap, start, old, new, libc::MREMAP_MAYMOVE).map(|a| a as *mut u8)
}

/// Maps `pages` pages, writes one byte to each and unmaps them: the work of the page fault benchmark.
#[inline]
pub fn touch_pages(pages: usize) -> Result<()> {
    let start = map_pages(pages * 4096)?;
    for page in 0..pages {
        // SAFETY: inside the fresh private mapping.
        unsafe { start.add(page * 4096).write_volatile(1) };
    }
    unmap_pages(start, pages * 4096);
    Ok(())
}

// ---- network ----

/// A socket, closed on exec.
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<Fd> {
    call!(SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol).map(|fd| fd as Fd)
}

/// An IPv4 address and port as the kernel takes it.
pub fn address_v4(address: [u8; 4], port: u16) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address) },
        sin_zero: [0; 8],
    }
}

pub fn bind(fd: Fd, address: &sockaddr_in) -> Result<()> {
    call!(SYS_bind, fd, core::ptr::from_ref(address), size_of::<sockaddr_in>()).map(drop)
}

pub fn connect(fd: Fd, address: &sockaddr_in) -> Result<()> {
    call!(SYS_connect, fd, core::ptr::from_ref(address), size_of::<sockaddr_in>()).map(drop)
}

pub fn listen(fd: Fd) -> Result<()> {
    call!(SYS_listen, fd, 8).map(drop)
}

pub fn accept(fd: Fd) -> Result<Fd> {
    call!(SYS_accept4, fd, null_mut::<u8>(), null_mut::<u8>(), libc::SOCK_CLOEXEC).map(|fd| fd as Fd)
}

/// The port a socket is bound to.
pub fn bound_port(fd: Fd) -> Result<u16> {
    let (mut address, mut length) = (zeroed::<sockaddr_in>(), size_of::<sockaddr_in>() as u32);
    call!(SYS_getsockname, fd, &raw mut address, &raw mut length)?;
    Ok(u16::from_be(address.sin_port))
}

pub fn set_socket_option(fd: Fd, level: i32, name: i32, value: i32) -> Result<()> {
    call!(SYS_setsockopt, fd, level, name, &raw const value, 4).map(drop)
}

pub fn shutdown(fd: Fd, how: i32) {
    let _ = call!(SYS_shutdown, fd, how);
}

/// Sends a whole netlink message to the kernel; the sender's address is assigned by it.
pub fn send(fd: Fd, bytes: &[u8]) -> Result<usize> {
    call!(SYS_sendto, fd, bytes.as_ptr(), bytes.len(), 0, 0, 0)
}

pub fn receive(fd: Fd, buffer: &mut [u8]) -> Result<usize> {
    call!(SYS_recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), 0, 0, 0)
}

// ---- the processor ----

/// Whether the processor and the kernel offer AVX2 (Intel SDM vol. 1, section 14.3).
pub fn has_avx2() -> bool {
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: called only where CPUID reports OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 processor has CPUID; leaf 7 is read only if it exists.
    unsafe {
        if __cpuid(0).eax < 7 {
            return false;
        }
        let one = __cpuid(1).ecx;
        let needed = 1 << 27 | 1 << 28;
        one & needed == needed && enabled() & 6 == 6 && __cpuid_count(7, 0).ebx & (1 << 5) != 0
    }
}

/// Runs `kernel`, its body compiled for AVX2, where the processor has that; whether it did.
pub fn with_avx2(kernel: impl FnOnce()) -> bool {
    #[target_feature(enable = "avx2")]
    fn run(kernel: impl FnOnce()) {
        kernel();
    }
    if !has_avx2() {
        return false;
    }
    // SAFETY: the processor has the feature.
    unsafe { run(kernel) };
    true
}

/// The path this program was started by (getauxval(3), AT_EXECFN).
pub fn executable() -> Option<&'static [u8]> {
    auxiliary(libc::AT_EXECFN as usize).map(c_string)
}
