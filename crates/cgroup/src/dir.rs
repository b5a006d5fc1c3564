//! One cgroup directory and its interface files.

use crate::Error;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The longest interface file that is read, bytes: `cgroup.procs` of four million processes is 32 MiB.
const MAX_FILE: usize = 64 << 20;

/// An open cgroup directory: files are reached from its descriptor, so that each costs one short path walk and a
/// directory replaced meanwhile is not followed.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    pub path: PathBuf,
}

impl Dir {
    pub fn open(path: impl Into<PathBuf>) -> Result<Dir, Error> {
        let path = path.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Dir { fd, path }),
            Err(e) => Err(Error::Io { action: "open cgroup", path, source: e.into() }),
        }
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn openat(&self, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.fd, file, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    pub fn open_read(&self, file: &str) -> Result<OwnedFd, Error> {
        self.openat(file, OFlags::RDONLY).map_err(|e| Error::io("open", self.path.join(file))(e.into()))
    }

    pub fn open_write(&self, file: &str) -> Result<OwnedFd, Error> {
        self.openat(file, OFlags::WRONLY).map_err(|e| Error::io("open", self.path.join(file))(e.into()))
    }

    /// Opens a file for several writes; each is one setting.
    pub fn writer<'a>(&'a self, file: &'a str) -> Result<Writer<'a>, Error> {
        Ok(Writer { fd: self.open_write(file)?, dir: self, file })
    }

    /// Writes one value, which the kernel takes in one call.
    pub fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let written = self.openat(file, OFlags::WRONLY).and_then(|fd| write_retry(&fd, value.as_bytes()));
        written.map_err(|e| self.write_error(file, value, e))
    }

    fn write_error(&self, file: &str, value: &str, e: Errno) -> Error {
        Error::Write { path: self.path.join(file), value: value.to_owned(), source: e.into() }
    }

    /// Writes a value if the file exists; whether it did.
    pub fn write_if_present(&self, file: &str, value: &str) -> Result<bool, Error> {
        match self.write(file, value) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub fn read(&self, file: &str) -> Result<String, Error> {
        self.read_errno(file).map_err(|e| Error::io("read", self.path.join(file))(e.into()))
    }

    /// The content of a file that some kernels or configurations lack.
    pub fn read_if_present(&self, file: &str) -> Result<Option<String>, Error> {
        match self.read_errno(file) {
            Ok(text) => Ok(Some(text)),
            // A pressure file exists but cannot be read where the kernel was started with psi=0.
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => Ok(None),
            Err(e) => Err(Error::io("read", self.path.join(file))(e.into())),
        }
    }

    pub fn read_errno(&self, file: &str) -> Result<String, Errno> {
        let fd = self.openat(file, OFlags::RDONLY)?;
        read_to_string(&fd)
    }

    pub fn exists(&self, file: &str) -> bool {
        rustix::fs::statat(&self.fd, file, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

/// An interface file open for several writes.
pub(crate) struct Writer<'a> {
    fd: OwnedFd,
    dir: &'a Dir,
    file: &'a str,
}

impl Writer<'_> {
    pub fn write(&self, value: &str) -> Result<(), Error> {
        write_retry(&self.fd, value.as_bytes()).map_err(|e| self.dir.write_error(self.file, value, e))
    }
}

/// One write(2), repeated when a signal comes first. Settings are never split over calls.
fn write_retry(fd: &OwnedFd, value: &[u8]) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(fd, value)).map(|_| ())
}

/// The whole of a file. Strange bytes are replaced, and what is beyond [`MAX_FILE`] is left out.
fn read_to_string(fd: &OwnedFd) -> Result<String, Errno> {
    // Nearly every file is a line or two; these need no allocation but the result.
    let mut short = [0u8; 2048];
    let mut len = fill(fd, &mut short)?;
    if len < short.len() {
        return Ok(String::from_utf8_lossy(&short[..len]).into_owned());
    }
    let mut text = short.to_vec();
    while len == text.len() && len < MAX_FILE {
        text.resize(len * 4, 0);
        len += fill(fd, &mut text[len..])?;
    }
    text.truncate(len);
    Ok(String::from_utf8(text).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Reads until the buffer is full or the file ends. A short read is no end: the kernel returns a page at a time.
fn fill(fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut len = 0;
    while len < buffer.len() {
        match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer[len..]))? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}

/// The cgroups directly below, by name.
pub(crate) fn children(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_are_read_whole() {
        let place = tempfile::tempdir().unwrap();
        let dir = Dir::open(place.path()).unwrap();
        for length in [0, 1, 2047, 2048, 2049, 8192, 8193, 100_000] {
            let text: String = ('a'..='z').cycle().take(length).collect();
            std::fs::write(place.path().join("file"), &text).unwrap();
            assert_eq!(dir.read("file").unwrap(), text);
        }
        std::fs::write(place.path().join("file"), b"a\xffb").unwrap();
        assert_eq!(dir.read("file").unwrap(), "a\u{fffd}b");
        assert_eq!(dir.read_if_present("other").unwrap(), None);
        assert!(dir.read("other").unwrap_err().to_string().contains("other"));
    }
}
