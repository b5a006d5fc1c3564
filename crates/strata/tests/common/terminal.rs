//! Terminals: running a command on a pseudo-terminal as a user would, and receiving the one that a runtime sends
//! over `--console-socket` (one message whose ancillary data is the master's descriptor).

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{LIMIT, Scratch};

/// The master side of a terminal, with everything read from it so far.
pub struct Terminal {
    master: File,
    pub seen: String,
    child: Option<Child>,
}

impl Terminal {
    fn new(master: OwnedFd, child: Option<Child>) -> Terminal {
        Terminal { master: master.into(), seen: String::new(), child }
    }

    /// Runs a command in a session of its own whose controlling terminal is a new one of `rows` x `columns`.
    #[track_caller]
    pub fn spawn(command: &Command, rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal opens");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("the terminal unlocks");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("the terminal takes a size");
        let name = ptsname(&master, Vec::new()).expect("the terminal has a name").into_string().expect("it is UTF-8");
        let slave = || File::options().read(true).write(true).open(&name).expect("the slave side opens");
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => session.env(key, value),
                None => session.env_remove(key),
            };
        }
        let child = session.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("setsid starts");
        Terminal::new(master, Some(child))
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("the terminal takes a size");
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Reads what is there within `wait`; false at the end (every slave descriptor closed).
    fn read_some(&mut self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as _ };
        if poll(&mut fds, Some(&timeout)).unwrap_or(0) == 0 {
            return true;
        }
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
                true
            }
        }
    }

    /// Reads until `text` has appeared after everything matched before; forgets what came up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let open = self.read_some(Duration::from_millis(100));
            assert!(open || self.seen.contains(text), "the terminal ended without {text:?}: {:?}", self.seen);
            assert!(Instant::now() < end, "no {text:?} on the terminal: {:?}", self.seen);
        }
    }

    /// Reads to the end and returns the exit code of the command and the rest of what it wrote.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String) {
        let mut child = self.child.take().expect("a command was started here");
        let end = Instant::now() + LIMIT;
        loop {
            let status = child.try_wait().expect("a child can be waited for");
            while self.read_some(Duration::from_millis(1)) && status.is_none() && Instant::now() < end {}
            if let Some(status) = status {
                return (status.code().unwrap_or(-1), std::mem::take(&mut self.seen));
            }
            if Instant::now() >= end {
                let _ = child.kill();
                panic!("the command on the terminal hung; the rest: {:?}", self.seen);
            }
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A listening socket for `--console-socket`, `--pidfd-socket` or a seccomp agent.
pub struct FdSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl FdSocket {
    pub fn new(scratch: &Scratch, name: &str) -> FdSocket {
        let path = scratch.join(name);
        let listener = UnixListener::bind(&path).expect("a socket can be bound");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        FdSocket { listener, path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next message: its bytes and the first descriptor that came with it.
    #[track_caller]
    pub fn receive(&self) -> (Vec<u8>, OwnedFd) {
        let end = Instant::now() + LIMIT;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(2)),
                Err(e) => panic!("nobody connected to {}: {e}", self.path.display()),
            }
        };
        stream.set_nonblocking(false).expect("a socket can be made blocking");
        let mut bytes = vec![0; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .expect("a message arrives");
        bytes.truncate(got.bytes);
        let mut fds = ancillary.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
            _ => None,
        });
        let fd = fds.next().and_then(|f| f.into_iter().next()).expect("a descriptor comes with the message");
        (bytes, fd)
    }

    /// The terminal that a runtime sends.
    #[track_caller]
    pub fn terminal(&self) -> Terminal {
        Terminal::new(self.receive().1, None)
    }
}
