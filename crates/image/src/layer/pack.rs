//! Makes layers: writes tar streams (POSIX.1-2008 `pax`), and turns the writable top of an instance into one.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use tar::{EntryType, Header};

use super::{
    apply::{Marks, bytes_path},
    archive::{Entry, Kind},
    merge::{DIRECTORY, Place, is_whiteout, names, xattrs, xattrs_of},
};

/// The largest number of a seven-digit octal field.
const OCTAL_MAX: u64 = 0o7_777_777;

impl Entry {
    /// An entry of root's at the start of time.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind, mode: u32) -> Entry {
        Entry {
            path: path.into(),
            kind,
            size: 0,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
            link: Vec::new(),
            device: (0, 0),
            sparse: None,
        }
    }
}

/// Writes a tar stream entry by entry; the same entries give the same bytes.
pub struct Writer<W: Write> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Starts a stream.
    pub fn new(output: W) -> Writer<W> {
        Writer { output }
    }

    /// Writes one entry; `content` must give exactly `entry.size` bytes. `entry.sparse` is not written: holes become zeros.
    pub fn entry(&mut self, entry: &Entry, content: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut pax = Vec::new();
        let kind = match entry.kind {
            Kind::File => EntryType::Regular,
            Kind::Directory => EntryType::Directory,
            Kind::Symlink => EntryType::Symlink,
            Kind::HardLink => EntryType::Link,
            Kind::CharDevice => EntryType::Char,
            Kind::BlockDevice => EntryType::Block,
            Kind::Fifo => EntryType::Fifo,
            Kind::Other(byte) => return Err(io::Error::other(format!("type {byte} cannot be written"))),
        };
        header.set_entry_type(kind);
        header.set_mode(entry.mode & 0o7777);
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        if size > 0o77_777_777_777 {
            record(&mut pax, b"size", size.to_string().as_bytes());
            header.set_size(0);
        } else {
            header.set_size(size);
        }
        for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
            if id > OCTAL_MAX {
                record(&mut pax, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        header.set_uid(entry.uid.min(OCTAL_MAX));
        header.set_gid(entry.gid.min(OCTAL_MAX));
        let (seconds, nanos) = entry.mtime;
        if nanos != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
            record(&mut pax, b"mtime", decimal_time(seconds, nanos).as_bytes());
        }
        header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(0o77_777_777_777));
        // Bytes are kept as they are; what is longer than the field goes into a record.
        let fields = header.as_old_mut();
        for (key, text, field) in
            [("path", &entry.path, &mut fields.name), ("linkpath", &entry.link, &mut fields.linkname)]
        {
            let count = text.len().min(100);
            field[..count].copy_from_slice(&text[..count]);
            if text.len() > 100 {
                record(&mut pax, key.as_bytes(), text);
            }
        }
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            header.set_device_major(entry.device.0)?;
            header.set_device_minor(entry.device.1)?;
        }
        for (name, value) in &entry.xattrs {
            record(&mut pax, &[&b"SCHILY.xattr."[..], name].concat(), value);
        }
        if !pax.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.set_path("PaxHeaders/entry")?;
            extended.set_mode(0o644);
            extended.set_uid(0);
            extended.set_gid(0);
            extended.set_mtime(0);
            extended.set_size(pax.len() as u64);
            extended.set_cksum();
            self.output.write_all(extended.as_bytes())?;
            self.output.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        let copied = io::copy(&mut content.take(size), &mut self.output)?;
        if copied != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.output.write_all(&[0; 512][..(size.wrapping_neg() % 512) as usize])
    }

    /// Writes the end of the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 1024])?;
        Ok(self.output)
    }
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend(length.to_string().as_bytes());
    out.push(b' ');
    out.extend(key);
    out.push(b'=');
    out.extend(value);
    out.push(b'\n');
}

fn decimal_time(seconds: i64, nanos: u32) -> String {
    if seconds < 0 && nanos > 0 {
        // -1.25 is one second and a quarter before 1970: seconds -2, nanoseconds 750 million.
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// Writes the tree below `upper`, an overlay's upper directory or a layer, as the entries of a layer, sorted by name.
/// Overlayfs's marks become whiteouts, files with several names become hard links, sockets are left out.
pub fn pack<W: Write>(upper: &OwnedFd, marks: Marks, output: W) -> io::Result<W> {
    let mut packer = Packer { writer: Writer::new(output), marks, links: HashMap::new() };
    packer.directory(upper.try_clone()?, b"")?;
    packer.writer.finish()
}

struct Packer<W: Write> {
    writer: Writer<W>,
    marks: Marks,
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, fd: OwnedFd, path: &[u8]) -> io::Result<()> {
        let stat = fs::fstat(&fd)?;
        let mut own = entry([path, &b"/"[..]].concat(), Kind::Directory, &stat);
        if path.is_empty() {
            own.path = b"./".to_vec();
        }
        own.xattrs = attributes(xattrs(&fd)?);
        self.writer.entry(&own, io::empty())?;
        let mut value = [0; 1];
        if fs::fgetxattr(&fd, self.marks.attribute("opaque"), &mut value) == Ok(1) && value == *b"y" {
            let path = if path.is_empty() { b".wh..wh..opq".to_vec() } else { [path, b"/.wh..wh..opq"].concat() };
            self.writer.entry(&Entry::new(path, Kind::File, 0o600), io::empty())?;
        }
        let mut names = names(&fd)?;
        names.sort();
        for name in names {
            let child = if path.is_empty() { name.as_bytes().to_vec() } else { [path, b"/", name.as_bytes()].concat() };
            if child.len() > 4096 {
                return Err(io::Error::other("a path has more than 4096 bytes"));
            }
            let place = Place { dir: fd.as_fd(), name: Path::new(&name) };
            let stat = fs::statat(&fd, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.directory(fs::openat(&fd, &name, DIRECTORY, Mode::empty())?, &child)?;
            } else if is_whiteout(self.marks, place, &stat) {
                let hidden = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
                let path = [&hidden, &b".wh."[..], name.as_bytes()].concat();
                self.writer.entry(&Entry::new(path, Kind::File, 0o600), io::empty())?;
            } else {
                self.file(place, child, &stat)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, place: Place<'_>, path: Vec<u8>, stat: &fs::Stat) -> io::Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            // A socket means nothing without the process that listens on it.
            _ => return Ok(()),
        };
        let mut entry = entry(path, kind, stat);
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&inode) {
                (entry.kind, entry.link, entry.size) = (Kind::HardLink, first.clone(), 0);
                return self.writer.entry(&entry, io::empty());
            }
            self.links.insert(inode, entry.path.clone());
        }
        match kind {
            Kind::File => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = fs::openat(place.dir, place.name, flags, Mode::empty())?;
                entry.xattrs = attributes(xattrs(&fd)?);
                self.writer.entry(&entry, File::from(fd))
            }
            _ => {
                if kind == Kind::Symlink {
                    entry.link = fs::readlinkat(place.dir, place.name, Vec::new())?.into_bytes();
                }
                entry.xattrs = attributes(xattrs_of(place)?);
                self.writer.entry(&entry, io::empty())
            }
        }
    }
}

fn attributes(list: Vec<(std::ffi::OsString, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    list.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value)).collect()
}

fn entry(path: Vec<u8>, kind: Kind, stat: &fs::Stat) -> Entry {
    Entry {
        size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        device: (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
        ..Entry::new(path, kind, stat.st_mode & 0o7777)
    }
}

/// Opens the directory to be packed.
pub fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::openat(fs::CWD, bytes_path(path.as_os_str().as_bytes()), DIRECTORY, Mode::empty())?)
}
