//! The one way to read and write `/proc`: a handle that is known to be procfs's root, and paths below it that neither
//! cross a mount nor a magic link, so that nothing an image or a container mounts there is ever written instead
//! (CVE-2019-16884, CVE-2025-52881).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{Context, Error};

/// procfs of the namespace in which the runtime was started. `self` in it is this process, even in a child that is in
/// another process-id namespace, and `sys` shows this process's own namespaces.
#[derive(Debug)]
pub(crate) struct Proc {
    fd: OwnedFd,
}

pub(crate) const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Inode number of procfs's root directory.
pub(crate) const PROC_ROOT_INO: u64 = 1;

impl Proc {
    pub(crate) fn open() -> Result<Proc, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc", flags, Mode::empty()).context(|| "open /proc".into())?;
        let kind = rustix::fs::fstatfs(&fd).context(|| "examine /proc".into())?.f_type as u64;
        let inode = rustix::fs::fstat(&fd).context(|| "examine /proc".into())?.st_ino;
        if kind != PROC_SUPER_MAGIC || inode != PROC_ROOT_INO {
            return Err(Error::Unsupported("/proc is not procfs: mount it first".into()));
        }
        Ok(Proc { fd })
    }

    /// Opens a file below, such as `self/attr/exec`.
    pub(crate) fn open_file(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Opens what an `O_PATH` descriptor of this process stands for.
    pub(crate) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let own = self.open_file("self/fd", OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(rustix::fs::openat(&own, fd.as_raw_fd().to_string(), flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Writes a value in one call, as procfs demands.
    pub(crate) fn write(&self, path: &str, value: &[u8]) -> io::Result<()> {
        let file = self.open_file(path, OFlags::WRONLY)?;
        rustix::io::write(&file, value)?;
        Ok(())
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// `R`, `S`, `Z`, …
    pub state: u8,
    /// When it started, clock ticks since boot: with the id this names a process for good.
    pub start_time: u64,
}

impl ProcessStat {
    /// Whether it still runs: a zombie is an exit status and nothing else.
    pub(crate) fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads `/proc/PID/stat`; `None` if there is no such process.
pub(crate) fn process_stat(pid: i32) -> Option<ProcessStat> {
    let file = rustix::fs::open(format!("/proc/{pid}/stat"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // A command's name is at most 64 bytes, the numbers before the start time at most 20 each.
    let mut text = [0u8; 1024];
    let n = rustix::io::read(&file, &mut text).ok()?;
    parse_stat(&text[..n])
}

/// The command's name, the second field, may itself hold blanks and parentheses.
fn parse_stat(text: &[u8]) -> Option<ProcessStat> {
    let end = text.iter().rposition(|&b| b == b')')?;
    let fields = std::str::from_utf8(&text[end + 1..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(ProcessStat { state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_confuse() {
        let text = b"12 (a) Z (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(text), Some(ProcessStat { state: b'S', start_time: 777 }));
        assert_eq!(parse_stat(b"12 (a"), None);
    }

    #[test]
    fn this_process_lives() {
        assert!(process_stat(std::process::id() as i32).unwrap().alive());
        let proc = Proc::open().unwrap();
        let mut text = String::new();
        let file = proc.open_file("self/stat", OFlags::RDONLY).unwrap();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).unwrap();
        assert!(text.starts_with(&std::process::id().to_string()));
        assert!(proc.open_file("self/exe", OFlags::RDONLY).is_err(), "magic links are not followed");
    }
}
