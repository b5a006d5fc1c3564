//! Buffered output, whole-file and line input, and the few helpers for byte strings every applet needs. Names of
//! files and lines of text are bytes here, as they are to the kernel.

use crate::sys::{self, Errno, Fd};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether a write to standard output has failed; an applet that succeeded otherwise then exits with 1.
pub fn output_failed() -> bool {
    FAILED.swap(false, Relaxed)
}

/// A buffered writer, flushed when dropped. A failed write is reported once, on standard error.
pub struct Out {
    fd: Fd,
    buffer: Vec<u8>,
    broken: bool,
}

impl Out {
    /// A writer to `fd`, which stays open.
    pub fn new(fd: Fd) -> Self {
        Self { fd, buffer: Vec::new(), broken: false }
    }

    /// Adds bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 32 << 10 {
            self.flush();
        }
    }

    /// Adds bytes and a newline.
    pub fn line(&mut self, bytes: &[u8]) {
        self.put(bytes);
        self.put(b"\n");
    }

    /// Adds formatted text.
    pub fn fmt(&mut self, args: fmt::Arguments<'_>) {
        let _ = self.write_fmt(args);
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) {
        if !self.broken
            && let Err(error) = sys::write_all(self.fd, &self.buffer)
        {
            self.broken = true;
            if self.fd == 1 {
                FAILED.store(true, Relaxed);
                complain(b"write error", &error);
            }
        }
        self.buffer.clear();
    }

    /// Whether a write has failed.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
}

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Formats into an [`Out`].
#[macro_export]
macro_rules! out {
    ($out:expr, $($arg:tt)*) => { $out.fmt(format_args!($($arg)*)) };
}

/// Writes a formatted line to standard error.
#[macro_export]
macro_rules! err {
    ($($arg:tt)*) => { $crate::io::Out::new(2).fmt(format_args!("{}\n", format_args!($($arg)*))) };
}

/// Bytes shown as text, what is not UTF-8 replaced.
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(text) = core::str::from_utf8(self.0) {
            return f.pad(text);
        }
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// Reports `what: error` on standard error.
pub fn complain(what: &[u8], error: &dyn fmt::Display) {
    err!("{}: {error}", Text(what));
}

/// Reads until the end.
pub fn read_to_end(fd: Fd) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    let mut buffer = [0u8; 16 << 10];
    loop {
        match sys::read(fd, &mut buffer)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Reads a whole file; `-` is standard input.
pub fn read_file(name: &[u8]) -> Result<Vec<u8>, Errno> {
    if name == b"-" {
        return read_to_end(0);
    }
    let fd = sys::open(name, libc::O_RDONLY, 0)?;
    let all = read_to_end(fd);
    sys::close(fd);
    all
}

/// Creates or overwrites a file.
pub fn write_file(name: &[u8], bytes: &[u8]) -> Result<(), Errno> {
    let fd = sys::open(name, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o666)?;
    let result = sys::write_all(fd, bytes);
    sys::close(fd);
    result
}

/// Opens an operand for reading; `-` is standard input.
pub fn open_input(name: &[u8]) -> Result<Fd, Errno> {
    if name == b"-" { Ok(0) } else { sys::open(name, libc::O_RDONLY, 0) }
}

/// Lines of a descriptor, without their newline, read as they come.
pub struct Lines {
    fd: Fd,
    buffer: Vec<u8>,
    start: usize,
    ended: bool,
}

impl Lines {
    /// The lines of `fd`, which stays open.
    pub fn new(fd: Fd) -> Self {
        Self { fd, buffer: Vec::new(), start: 0, ended: false }
    }
}

impl Iterator for Lines {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut searched = self.start;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer[self.start..searched + at].to_vec();
                self.start = searched + at + 1;
                return Some(line);
            }
            if self.ended {
                let rest = self.buffer.split_off(self.start);
                self.buffer.clear();
                self.start = 0;
                return (!rest.is_empty()).then_some(rest);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            searched = self.buffer.len();
            let mut chunk = [0u8; 16 << 10];
            match sys::read(self.fd, &mut chunk) {
                Ok(0) | Err(_) => self.ended = true,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

/// A decimal number, perhaps signed, with nothing around it.
pub fn number(text: &[u8]) -> Option<i64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// A number with an optional suffix of powers of 1024: `4k`, `2M`, `1GiB`.
pub fn size(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let number: u64 = core::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    let shift = match text[digits..].to_ascii_lowercase().as_slice() {
        b"" | b"c" | b"b" => 0,
        b"k" | b"kb" | b"kib" => 10,
        b"m" | b"mb" | b"mib" => 20,
        b"g" | b"gb" | b"gib" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Bytes as people read them: `999`, `1.5K`, `23M`.
pub fn human(bytes: u64) -> alloc::string::String {
    if bytes < 1024 {
        return alloc::format!("{bytes}");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit < 6 {
        value /= 1024.0;
        unit += 1;
    }
    let unit = ['?', 'K', 'M', 'G', 'T', 'P', 'E'][unit];
    if value < 9.95 { alloc::format!("{value:.1}{unit}") } else { alloc::format!("{value:.0}{unit}") }
}

/// Joins a directory and a name with one slash.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut all = directory.to_vec();
    if !all.is_empty() && !all.ends_with(b"/") {
        all.push(b'/');
    }
    all.extend_from_slice(name);
    all
}

/// The last component of a path, trailing slashes removed; `/` for the root.
pub fn base_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(usize::from(!path.is_empty()), |at| at + 1);
    let start = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    if path[..end] == *b"/" { b"/" } else { &path[start..end] }
}

/// Words separated by blanks.
pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty())
}

/// Whether `text` contains `part`.
pub fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|w| w == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_newline_and_the_last_may_lack_it() {
        let [read, write] = sys::pipe().unwrap();
        sys::write_all(write, b"one\n\nthree").unwrap();
        sys::close(write);
        assert_eq!(Lines::new(read).collect::<Vec<_>>(), [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
        sys::close(read);
    }

    #[test]
    fn base_name_ignores_trailing_slashes() {
        for (path, base) in [("a/b", "b"), ("a/b//", "b"), ("/", "/"), ("///", "/"), ("", ""), ("x", "x")] {
            assert_eq!(base_name(path.as_bytes()), base.as_bytes(), "{path}");
        }
    }

    #[test]
    fn human_sizes_have_at_most_three_digits() {
        for (bytes, text) in [(0, "0"), (1023, "1023"), (1536, "1.5K"), (10 << 20, "10M"), (1 << 30, "1.0G")] {
            assert_eq!(human(bytes), text);
        }
    }
}
