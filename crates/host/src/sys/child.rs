//! Probes that change the process that makes them (`unshare(2)`, a mount, a system-call filter) run in a forked child,
//! which sends back its answer through a pipe and ends. The parent bounds the wait and reaps the child.

use std::fs::File;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a child gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pipe or the process could not be made.
    #[error("a child process could not be started: {0}")]
    Start(#[source] io::Error),
    /// The child was killed for taking too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The child ended without answering, killed by a signal or a seccomp filter.
    #[error("the probing process died (wait status {0:#x})")]
    Died(i32),
    /// The answer could not be read.
    #[error("the answer could not be read: {0}")]
    Answer(#[source] io::Error),
}

/// A running probe. Dropping it kills and reaps the child.
pub struct Child<T> {
    pid: libc::pid_t,
    answer: File,
    reaped: bool,
    kind: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> Child<T> {
    /// Runs `probe` in a forked child. The answer should be shorter than a pipe's buffer (64 KiB).
    pub fn spawn(probe: impl FnOnce() -> T) -> Result<Child<T>, Error> {
        let (read, write) = pipe().map_err(Error::Start)?;
        // SAFETY: the child runs only `probe` and leaves by `_exit`; fork of musl (1.2.2 on) and glibc leaves malloc usable in the
        // child even when other threads exist, and no lock of this crate is held here.
        match unsafe { libc::fork() } {
            -1 => Err(Error::Start(io::Error::last_os_error())),
            0 => {
                drop(read);
                let code = std::panic::catch_unwind(AssertUnwindSafe(move || {
                    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
                    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                    let text = serde_json::to_vec(&probe()).ok()?;
                    File::from(write).write_all(&text).ok()
                }));
                // SAFETY: `_exit` ends the child without running the parent's exit handlers.
                unsafe { libc::_exit(if matches!(code, Ok(Some(()))) { 0 } else { 1 }) }
            }
            pid => {
                drop(write);
                Ok(Child { pid, answer: File::from(read), reaped: false, kind: PhantomData })
            }
        }
    }

    /// Waits for the answer for at most `timeout`.
    pub fn wait(mut self, timeout: Duration) -> Result<T, Error> {
        let deadline = Instant::now() + timeout;
        let mut text = Vec::new();
        let mut chunk = [0u8; 4096];
        loop {
            if !readable(&self.answer, deadline).map_err(Error::Answer)? {
                return Err(Error::Timeout(timeout));
            }
            match self.answer.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Answer(e)),
            }
        }
        let status = self.reap();
        serde_json::from_slice(&text).map_err(|_| Error::Died(status))
    }
}

impl<T> Child<T> {
    fn reap(&mut self) -> i32 {
        self.reaped = true;
        wait_for(self.pid)
    }
}

impl<T> Drop for Child<T> {
    fn drop(&mut self) {
        if !self.reaped {
            kill_and_reap(self.pid);
        }
    }
}

/// Runs `probe` in a child and waits for it.
pub fn ask<T: Serialize + DeserializeOwned>(timeout: Duration, probe: impl FnOnce() -> T) -> Result<T, Error> {
    Child::spawn(probe)?.wait(timeout)
}

/// A process that entered a new user namespace and sleeps in it, so that the namespace can be opened.
pub struct UserNamespaceHolder(libc::pid_t);

impl UserNamespaceHolder {
    /// Forks the process and waits until it is in its namespace.
    pub fn start() -> io::Result<UserNamespaceHolder> {
        let (read, write) = pipe()?;
        // SAFETY: as in `Child::spawn`; the child calls only async-signal-safe functions.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: plain system calls on this process and on descriptors it owns; it never returns.
            0 => unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::unshare(libc::CLONE_NEWUSER) != 0 {
                    libc::_exit(*libc::__errno_location());
                }
                let _ = rustix::io::write(&write, b"1");
                loop {
                    libc::pause();
                }
            },
            pid => {
                drop(write);
                let mut byte = [0u8; 1];
                match File::from(read).read(&mut byte) {
                    Ok(1) => Ok(UserNamespaceHolder(pid)),
                    _ => {
                        let status = wait_for(pid);
                        Err(io::Error::from_raw_os_error((status >> 8) & 0xff))
                    }
                }
            }
        }
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.0
    }
}

impl Drop for UserNamespaceHolder {
    fn drop(&mut self) {
        kill_and_reap(self.0);
    }
}

fn kill_and_reap(pid: libc::pid_t) {
    // SAFETY: `pid` is our own child and not yet reaped, so the number cannot belong to another process.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait_for(pid);
}

fn wait_for(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` lives across the call; a child that is not ours gives ECHILD.
    while unsafe { libc::waitpid(pid, &mut status, 0) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    status
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors were just made and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn readable(file: &impl AsFd, deadline: Instant) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout)) {
            Ok(n) => return Ok(n > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_back() {
        assert_eq!(ask(Duration::from_secs(2), || vec![1, 2, 3]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_child_that_hangs_is_killed_in_time() {
        let start = Instant::now();
        let answer: Result<(), Error> = ask(Duration::from_millis(50), || std::thread::sleep(Duration::from_secs(30)));
        assert!(matches!(answer, Err(Error::Timeout(_))), "{answer:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_child_that_dies_is_an_error() {
        let answer: Result<(), Error> = ask(Duration::from_secs(2), || std::process::abort());
        assert!(matches!(answer, Err(Error::Died(_))), "{answer:?}");
    }
}
