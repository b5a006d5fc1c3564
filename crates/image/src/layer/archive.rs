//! Reads a tar stream entry by entry, in bounded memory (POSIX.1-2008 `pax`, "ustar Interchange Format"; GNU tar manual,
//! "Basic Tar Format" and "Storing Sparse Files").
//!
//! The field encodings are the `tar` crate's. Its entry iterator is not used: it keeps extended headers of any
//! size in memory and does not know the PAX sparse formats.

use std::io::{self, BufRead, Read as _};

use tar::{EntryType, Header};

use super::Limits;

const BLOCK: usize = 512;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The stream could not be read (or decompressed).
    #[error("{0}")]
    Read(#[from] io::Error),
    /// The stream ends inside an entry.
    #[error("the archive ends in the middle of an entry; it is truncated")]
    Truncated,
    /// A header is malformed.
    #[error("{0}")]
    Malformed(String),
    /// A limit was reached.
    #[error("more than {limit} {unit}")]
    Limit {
        /// The limit.
        limit: u64,
        /// What it counts.
        unit: &'static str,
    },
}

fn malformed(text: impl Into<String>) -> ArchiveError {
    ArchiveError::Malformed(text.into())
}

/// What kind of file an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its content follows.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// Another name of the file [`Entry::link`].
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A type this does not know; the byte of the header.
    Other(u8),
}

/// One entry's header, extended headers applied.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path as the archive has it.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Bytes of the file, holes included; 0 for other kinds.
    pub size: u64,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes: full name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Where the content lies in a sparse file: offset and length, ascending; `None` for all of it.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// What PAX records say of the next entry (or, from a global header, of all).
#[derive(Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_map: Vec<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_version: (u64, u64),
    sparse_seen: bool,
}

/// A tar stream.
pub struct Archive<R> {
    input: R,
    limits: Limits,
    /// Bytes of the current entry's content that are not read yet, and of the padding after them.
    content: u64,
    padding: u64,
    entries: u64,
    global: Pax,
    done: bool,
}

impl<R: BufRead> Archive<R> {
    /// Starts at the first header.
    pub fn new(input: R, limits: Limits) -> Archive<R> {
        Archive { input, limits, content: 0, padding: 0, entries: 0, global: Pax::default(), done: false }
    }

    /// The next entry, after what is left of the one before; `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                // An extended header belongs to an entry.
                return if extended { Err(ArchiveError::Truncated) } else { Ok(None) };
            };
            let size = header.entry_size().map_err(|_| malformed("a header's size is no number"))?;
            let kind = header.entry_type();
            extended = matches!(kind, EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink);
            match kind {
                EntryType::XHeader => pax.records(&self.extension(size)?)?,
                EntryType::XGlobalHeader => {
                    let text = self.extension(size)?;
                    self.global.records(&text)?;
                    pax.records(&text)?;
                }
                EntryType::GNULongName => long_name = Some(until_nul(self.extension(size)?)),
                EntryType::GNULongLink => long_link = Some(until_nul(self.extension(size)?)),
                // A volume label names the archive, not a file.
                _ if kind.as_byte() == b'V' => self.set_content(size),
                _ => return self.entry(&header, size, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// Passes the current entry's content to `sink` as (offset in the file, bytes), holes left out.
    pub fn content<E: From<ArchiveError>>(
        &mut self,
        entry: &Entry,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let whole = [(0, entry.size)];
        for &(start, length) in entry.sparse.as_deref().unwrap_or(&whole) {
            let mut at = 0;
            while at < length {
                let bytes = self.input.fill_buf().map_err(ArchiveError::from)?;
                if bytes.is_empty() {
                    return Err(ArchiveError::Truncated.into());
                }
                let count = usize::try_from(length - at).unwrap_or(usize::MAX).min(bytes.len());
                sink(start + at, &bytes[..count])?;
                self.input.consume(count);
                self.content -= count as u64;
                at += count as u64;
            }
        }
        Ok(())
    }

    /// Reads the content of the current entry, which is not sparse.
    pub fn reader(&mut self) -> ContentReader<'_, R> {
        ContentReader { archive: self }
    }

    /// Reads what follows the archive's end: the digest covers it.
    pub fn drain(&mut self) -> Result<(), ArchiveError> {
        loop {
            let count = self.input.fill_buf()?.len();
            if count == 0 {
                return Ok(());
            }
            self.input.consume(count);
        }
    }

    fn set_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_content(&mut self) -> Result<(), ArchiveError> {
        let mut left = self.content.saturating_add(self.padding);
        while left > 0 {
            let available = self.input.fill_buf()?.len();
            if available == 0 {
                // Some writers leave out the last padding.
                if left <= self.padding {
                    break;
                }
                return Err(ArchiveError::Truncated);
            }
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.input.consume(count);
            left -= count as u64;
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block, or `None` after the last.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        if self.done {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                if filled == 0 {
                    self.done = true;
                    return Ok(None);
                }
                return Err(ArchiveError::Truncated);
            }
            let count = bytes.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.input.consume(count);
            filled += count;
        }
        if block.iter().all(|&byte| byte == 0) {
            self.done = true;
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ArchiveError::Limit { limit: self.limits.entries, unit: "entries" });
        }
        // The checksum field itself counts as spaces. Some old writers summed signed bytes.
        let wanted = header.cksum().map_err(|_| malformed("a header has no checksum; this is no tar archive"))?;
        let block = header.as_bytes();
        let around = || block[..148].iter().chain(&block[156..]);
        let unsigned = around().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
        let signed = around().map(|&byte| i64::from(byte as i8)).sum::<i64>() + 8 * 32;
        if wanted != unsigned && i64::from(wanted) != signed {
            return Err(malformed("a header's checksum is wrong; the archive is damaged or no tar archive"));
        }
        Ok(Some(header))
    }

    /// The content of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > self.limits.header {
            return Err(ArchiveError::Limit { limit: self.limits.header, unit: "bytes in an extended header" });
        }
        self.set_content(size);
        self.take(size)
    }

    /// `size` bytes of the current content; the caller bounds `size`.
    fn take(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut all = Vec::new();
        while (all.len() as u64) < size {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                return Err(ArchiveError::Truncated);
            }
            let count = bytes.len().min(size as usize - all.len());
            all.extend_from_slice(&bytes[..count]);
            self.input.consume(count);
        }
        self.content -= size;
        Ok(all)
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, ArchiveError> {
        let number = |field: &'static str| move |_| malformed(format!("a header's {field} is no number"));
        let size = pax.size.unwrap_or(size);
        let path = pax.path.or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax.link.or(long_link).unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let kind = match header.entry_type() {
            // Before POSIX, a directory was a file whose name ends in a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Fifo => Kind::Fifo,
            other => match other.as_byte() {
                0 => Kind::File,
                // A GNU directory with a list of its files as content.
                b'D' => Kind::Directory,
                byte => Kind::Other(byte),
            },
        };
        let mut entry = Entry {
            path,
            kind,
            size: if kind == Kind::File { size } else { 0 },
            mode: header.mode().map_err(number("mode"))? & 0o7777,
            uid: pax.uid.map_or_else(|| header.uid(), Ok).map_err(number("owner"))?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok).map_err(number("group"))?,
            mtime: match pax.mtime {
                Some(time) => time,
                None => (i64::try_from(header.mtime().map_err(number("time"))?).unwrap_or(i64::MAX), 0),
            },
            xattrs: pax.xattrs,
            link,
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            sparse: None,
        };
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(malformed("a name contains a NUL byte"));
        }
        // Only regular files have content; a link's size field may repeat its target's (POSIX leaves it open, GNU and
        // Go tar take it as no content for links, devices and directories).
        let has_content = match kind {
            Kind::File | Kind::Other(_) => true,
            Kind::Directory => header.entry_type().as_byte() == b'D',
            _ => false,
        };
        self.set_content(if has_content { size } else { 0 });
        if kind == Kind::File {
            let segments = if header.entry_type() == EntryType::GNUSparse {
                Some(self.old_sparse(header)?)
            } else if pax.sparse_version.0 >= 1 {
                Some((self.sparse_1_0()?, pax.sparse_size.unwrap_or(size)))
            } else if pax.sparse_seen {
                let pairs = pax.sparse_map.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                Some((pairs, pax.sparse_size.unwrap_or(size)))
            } else {
                None
            };
            if let Some((segments, real)) = segments {
                if let Some(name) = pax.sparse_name {
                    entry.path = name;
                }
                check_sparse(&segments, real, self.content)?;
                (entry.sparse, entry.size) = (Some(segments), real);
            }
            if entry.size > self.limits.bytes {
                return Err(ArchiveError::Limit { limit: self.limits.bytes, unit: "bytes in one file" });
            }
        }
        Ok(entry)
    }

    /// The segments of a GNU sparse entry: four in the header, more in blocks after it that its size does not count.
    fn old_sparse(&mut self, header: &Header) -> Result<(Vec<(u64, u64)>, u64), ArchiveError> {
        let bad = |_| malformed("a sparse file's map is malformed");
        let gnu = header.as_gnu().ok_or_else(|| malformed("a sparse entry has no GNU header"))?;
        let mut segments = Vec::new();
        let mut add = |sparse: &tar::GnuSparseHeader| -> Result<(), ArchiveError> {
            if !sparse.is_empty() {
                segments.push((sparse.offset().map_err(bad)?, sparse.length().map_err(bad)?));
            }
            Ok(())
        };
        gnu.sparse.iter().try_for_each(&mut add)?;
        let real = gnu.real_size().map_err(bad)?;
        let mut more = gnu.is_extended();
        let (content, padding) = (self.content, self.padding);
        let mut blocks = 0;
        while more {
            blocks += BLOCK as u64;
            if blocks > self.limits.header {
                return Err(ArchiveError::Limit { limit: self.limits.header, unit: "bytes in a sparse file's map" });
            }
            self.content = BLOCK as u64;
            let mut block = tar::GnuExtSparseHeader::new();
            block.as_mut_bytes().copy_from_slice(&self.take(BLOCK as u64)?);
            block.sparse().iter().try_for_each(&mut add)?;
            more = block.is_extended();
        }
        (self.content, self.padding) = (content, padding);
        Ok((segments, real))
    }

    /// The map of PAX sparse format 1.0: decimal lines at the start of the content, padded to a block.
    fn sparse_1_0(&mut self) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut parsed = 0;
        loop {
            if let Some(&count) = numbers.first()
                && numbers.len() as u64 > count.saturating_mul(2)
            {
                return Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
            }
            match text[parsed..].iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    numbers.push(decimal(&text[parsed..parsed + end])?);
                    parsed += end + 1;
                }
                None => {
                    if text.len() as u64 >= self.limits.header {
                        let unit = "bytes in a sparse file's map";
                        return Err(ArchiveError::Limit { limit: self.limits.header, unit });
                    }
                    if self.content < BLOCK as u64 {
                        return Err(malformed("a sparse file's map is longer than its entry"));
                    }
                    text.extend(self.take(BLOCK as u64)?);
                }
            }
        }
    }
}

/// Reads one entry's content.
pub struct ContentReader<'a, R> {
    archive: &'a mut Archive<R>,
}

impl<R: BufRead> io::Read for ContentReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.archive.content == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.archive.input.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, ArchiveError::Truncated));
        }
        let count = usize::try_from(self.archive.content).unwrap_or(usize::MAX).min(bytes.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.archive.input.consume(count);
        self.archive.content -= count as u64;
        Ok(count)
    }
}

/// Whether segments ascend, do not overlap, end within the file and have as many bytes as the entry.
fn check_sparse(segments: &[(u64, u64)], size: u64, content: u64) -> Result<(), ArchiveError> {
    let (mut end, mut sum) = (0u64, 0u64);
    for &(offset, length) in segments {
        if offset < end {
            return Err(malformed("a sparse file's segments overlap"));
        }
        end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(|| {
            malformed(format!("a sparse file's segment {offset}+{length} ends after the file's {size} bytes"))
        })?;
        sum += length;
    }
    if sum > content {
        return Err(malformed(format!("a sparse file's segments have {sum} bytes, its entry {content}")));
    }
    Ok(())
}

impl Pax {
    /// Takes over the records `LENGTH KEYWORD=VALUE\n` of an extended header.
    fn records(&mut self, mut text: &[u8]) -> Result<(), ArchiveError> {
        let bad = || malformed("an extended header's record is malformed");
        while !text.is_empty() {
            // Some writers pad with NULs.
            if text.iter().all(|&byte| byte == 0) {
                break;
            }
            let space = text.iter().take(20).position(|&byte| byte == b' ').ok_or_else(bad)?;
            let length = usize::try_from(decimal(&text[..space])?).map_err(|_| bad())?;
            if length > text.len() || length < space + 3 || text[length - 1] != b'\n' {
                return Err(bad());
            }
            let record = &text[space + 1..length - 1];
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(bad)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            text = &text[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        // An empty value takes back what a global header said (POSIX).
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        let number = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some) };
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(time(value)?) },
            b"GNU.sparse.name" => self.sparse_name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_seen = true;
                self.sparse_size = number()?;
            }
            b"GNU.sparse.major" => self.sparse_version.0 = decimal(value)?,
            b"GNU.sparse.minor" => self.sparse_version.1 = decimal(value)?,
            b"GNU.sparse.map" => {
                self.sparse_seen = true;
                self.sparse_map = value.split(|&byte| byte == b',').map(decimal).collect::<Result<_, _>>()?;
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse_seen = true;
                self.sparse_map.push(decimal(value)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && !name.is_empty()
                {
                    if name.contains(&0) {
                        return Err(malformed("an attribute's name contains a NUL byte"));
                    }
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn decimal(digits: &[u8]) -> Result<u64, ArchiveError> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| malformed("an extended header's number is malformed"))
}

/// `[-]seconds[.fraction]`, rounded towards the past.
fn time(value: &[u8]) -> Result<(i64, u32), ArchiveError> {
    let bad = || malformed("an extended header's time is malformed");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).map_err(|_| bad())?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| bad())?;
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// Reads a whole archive, compressed or not, and drops what it says: an entry point for fuzzing, and for finding damage.
/// Returns the number of entries.
pub fn scan(input: impl io::Read + Send, limits: Limits) -> Result<u64, ArchiveError> {
    let (plain, _) = super::decode::decoder(input)?;
    let mut archive = Archive::new(io::BufReader::new(plain.take(limits.bytes)), limits);
    let mut entries = 0;
    while let Some(entry) = archive.next_entry()? {
        entries += 1;
        archive.content::<ArchiveError>(&entry, |_, _| Ok(()))?;
    }
    archive.drain()?;
    Ok(entries)
}
