//! Terminals: a pseudo-terminal of the container's own devpts is its console, and its master side goes to whoever asked
//! for the terminal, over a Unix socket or, in the foreground, to this process, which relays it to its own terminal.

use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};
use rustix::termios::{OptionalActions, Termios, Winsize};
use strata_spec::runtime::ConsoleSize;

use crate::error::{Context, Error};
use crate::paths::Root;
use crate::procfs::Proc;
use crate::sync::{self, Tag};
use crate::{mounts, process, sys};

const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Where the master side goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A connected Unix socket of `--console-socket`.
    Socket(OwnedFd),
    /// The runtime itself, over the socket pair.
    Runtime,
}

impl Destination {
    pub(crate) fn connect(path: &Path) -> Result<Destination, Error> {
        let socket = UnixStream::connect(path).on_path("connect to the console socket", path)?;
        Ok(Destination::Socket(socket.into()))
    }
}

/// Opens a pseudo-terminal in the container's `/dev/pts`, sends its master away and returns its slave.
pub(crate) fn open(
    root: &Root,
    proc: &Proc,
    size: Option<ConsoleSize>,
    destination: &Destination,
    runtime: BorrowedFd<'_>,
) -> Result<OwnedFd, Error> {
    let what = || "open /dev/pts/ptmx in the container (is devpts mounted on /dev/pts?)".into();
    let node = root.resolve(Path::new("/dev/pts/ptmx")).or_else(|_| root.resolve(Path::new("/dev/ptmx")));
    let node = node.context(what)?;
    // Opening another device of the image's might already do something.
    if !process::is_device(&node, 5, 2) {
        return Err(Error::Setup("/dev/ptmx in the container is not the pseudo-terminal multiplexer".into()));
    }
    let master = proc.reopen(node.as_fd(), OFlags::RDWR | OFlags::NOCTTY).context(what)?;
    rustix::pty::unlockpt(&master).context(|| "unlock the pseudo-terminal".into())?;
    // Not by the name: what is at /dev/pts/N in the container may be something else.
    let slave = sys::pty_peer(master.as_fd()).context(|| "open the pseudo-terminal's other side".into())?;
    let kind = rustix::fs::fstatfs(&slave).context(|| "examine the pseudo-terminal".into())?.f_type as u64;
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(Error::Setup("the container's pseudo-terminal is not of devpts".into()));
    }
    let size = size.filter(|s| s.width != 0 || s.height != 0);
    let size = size.map(|s| Winsize { ws_row: s.height, ws_col: s.width, ws_xpixel: 0, ws_ypixel: 0 });
    // A relayed terminal is as large as the caller's, which is still the standard input here, from the start.
    let size = match destination {
        Destination::Runtime => size.or_else(|| rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()),
        Destination::Socket(_) => size,
    };
    if let Some(size) = size {
        rustix::termios::tcsetwinsize(&master, size).context(|| "set the terminal's size".into())?;
    }
    match destination {
        Destination::Socket(socket) => {
            let name = rustix::pty::ptsname(&master, Vec::new()).context(|| "name the pseudo-terminal".into())?;
            sync::send_fds(socket, &[IoSlice::new(name.as_bytes())], &[master.as_fd()])
        }
        Destination::Runtime => sync::send_with(runtime, Tag::Console, b"", &[master.as_fd()]),
    }
    .context(|| "send the terminal to the console socket".into())?;
    Ok(slave)
}

/// Binds the slave on `/dev/console`. The target is never looked up through a link (CVE-2025-52565).
pub(crate) fn bind(root: &Root, slave: BorrowedFd<'_>) -> Result<(), Error> {
    let make = || -> std::io::Result<()> {
        let dev = root.make_dir_all(Path::new("/dev"), 0o755)?;
        let kind = rustix::fs::FileType::RegularFile;
        match rustix::fs::mknodat(&dev, c"console", kind, Mode::from_raw_mode(0o620), 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let target =
            rustix::fs::openat(&dev, c"console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode) == rustix::fs::FileType::Symlink {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is a symbolic link"));
        }
        mounts::attach(mounts::clone_tree_of(slave, false)?.as_fd(), target.as_fd())
    };
    make().context(|| "bind the terminal to /dev/console".into())
}

/// Makes the slave the controlling terminal and the standard streams of this process, a new session's leader.
pub(crate) fn adopt(slave: &OwnedFd) -> Result<(), Error> {
    rustix::process::ioctl_tiocsctty(slave).context(|| "make the terminal the controlling one".into())?;
    for number in 0..3 {
        sys::dup_to(slave.as_fd(), number).context(|| "make the terminal the standard streams".into())?;
    }
    Ok(())
}

/// Restores this process's terminal when dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Raw> {
        let stdin = rustix::stdio::stdin();
        let before = rustix::termios::tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn copy_size(master: BorrowedFd<'_>) {
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        let _ = rustix::termios::tcsetwinsize(master, size);
    }
}

/// Accompanies a process until it ends: forwards signals to it and, if it has a terminal, relays that to the standard
/// streams. Returns its exit code, 128 + n for signal n.
pub(crate) fn accompany(pidfd: BorrowedFd<'_>, signals: &sys::SignalFd, master: Option<OwnedFd>) -> Result<i32, Error> {
    let _raw = master.as_ref().and_then(|_| Raw::new());
    if let Some(master) = &master {
        copy_size(master.as_fd());
    }
    let mut relay = master.map(|master| Relay { master, stdin_open: true, pending: Vec::new() });
    loop {
        let mut fds = vec![
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        if let Some(relay) = &relay {
            let out = if relay.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::from_borrowed_fd(relay.master.as_fd(), PollFlags::IN | out));
            if relay.stdin_open && relay.pending.is_empty() {
                fds.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None)).context(|| "wait for the program".into())?;
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        while let Some(signal) = signals.next() {
            match (signal, &relay) {
                (libc::SIGWINCH, Some(relay)) => copy_size(relay.master.as_fd()),
                (libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG, _) => {}
                // It may just have ended.
                _ => drop(sys::pidfd_send_signal(pidfd, signal)),
            }
        }
        if let Some(active) = &mut relay {
            let (on_master, on_stdin) = (ready[2], ready.get(3).copied().unwrap_or(PollFlags::empty()));
            if !active.step(on_master, on_stdin) {
                relay = None;
            }
        }
        if !ready[0].is_empty() {
            if let Some(relay) = &mut relay {
                relay.drain();
            }
            return exit_code(pidfd);
        }
    }
}

struct Relay {
    master: OwnedFd,
    stdin_open: bool,
    /// Typed, and not yet taken by the terminal.
    pending: Vec<u8>,
}

impl Relay {
    /// Moves what can be moved; false once the terminal has no user any more.
    fn step(&mut self, on_master: PollFlags, on_stdin: PollFlags) -> bool {
        let mut buffer = [0u8; 8192];
        if !on_stdin.is_empty() {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) | Err(_) => self.stdin_open = false,
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
            }
        }
        if on_master.contains(PollFlags::OUT) && !self.pending.is_empty() {
            // A terminal takes at least one byte when it says that it is writable.
            let n = self.pending.len().min(256);
            match rustix::io::write(&self.master, &self.pending[..n]) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.pending.clear(),
            }
        }
        if on_master.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match rustix::io::read(&self.master, &mut buffer) {
                Ok(0) | Err(Errno::IO) => return false,
                Ok(n) => {
                    let mut stdout = std::io::stdout().lock();
                    let _ = stdout.write_all(&buffer[..n]).and_then(|()| stdout.flush());
                }
                Err(_) => {}
            }
        }
        true
    }

    /// Whatever the program wrote before it ended.
    fn drain(&mut self) {
        loop {
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match rustix::event::poll(&mut fds, Some(&now)) {
                Ok(n) if n > 0 && self.step(fds[0].revents(), PollFlags::empty()) => {}
                _ => return,
            }
        }
    }
}

/// Reaps a child and returns its exit code, 128 + n for signal n.
pub(crate) fn exit_code(pidfd: BorrowedFd<'_>) -> Result<i32, Error> {
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED))
        .context(|| "wait for the program".into())?;
    Ok(status.map_or(1, |s| s.exit_status().or_else(|| s.terminating_signal().map(|n| 128 + n)).unwrap_or(1)))
}
