//! An initial file system for a guest, in the `newc` format (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// An archive being written.
pub(super) struct Archive {
    out: BufWriter<File>,
    written: u64,
    inode: u32,
}

struct Entry<'a> {
    name: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    /// A new, empty archive.
    pub fn create(path: &Path) -> io::Result<Archive> {
        Ok(Archive { out: BufWriter::new(File::create(path)?), written: 0, inode: 1 })
    }

    /// Everything below `root`, with owners and modes. Each hard link becomes a file of its own.
    pub fn tree(&mut self, root: &Path) -> io::Result<()> {
        let mut pending = vec![root.to_path_buf()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                let meta = fs::symlink_metadata(&path)?;
                let name = path.strip_prefix(root).map_err(io::Error::other)?.as_os_str().as_bytes();
                let (kind, data) = if meta.is_dir() {
                    pending.push(path.clone());
                    (libc::S_IFDIR, Vec::new())
                } else if meta.is_symlink() {
                    (libc::S_IFLNK, fs::read_link(&path)?.as_os_str().as_bytes().to_vec())
                } else if meta.is_file() {
                    (libc::S_IFREG, fs::read(&path)?)
                } else if meta.file_type().is_socket() {
                    continue;
                } else {
                    (meta.mode() & libc::S_IFMT, Vec::new())
                };
                let device = if matches!(kind, libc::S_IFCHR | libc::S_IFBLK) {
                    (libc::major(meta.rdev()), libc::minor(meta.rdev()))
                } else {
                    (0, 0)
                };
                let mode = kind | (meta.mode() & 0o7777);
                self.entry(&Entry { name, mode, owner: (meta.uid(), meta.gid()), device, data: &data })?;
            }
        }
        Ok(())
    }

    /// A directory of root's.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(&Entry {
            name: name.as_bytes(),
            mode: libc::S_IFDIR | 0o755,
            owner: (0, 0),
            device: (0, 0),
            data: &[],
        })
    }

    /// A file of root's.
    pub fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entry(&Entry { name: name.as_bytes(), mode: libc::S_IFREG | mode, owner: (0, 0), device: (0, 0), data })
    }

    /// `/dev/console`: the kernel opens it for the first process before anything is mounted.
    pub fn console(&mut self) -> io::Result<()> {
        self.directory("dev")?;
        self.entry(&Entry {
            name: b"dev/console",
            mode: libc::S_IFCHR | 0o600,
            owner: (0, 0),
            device: (5, 1),
            data: &[],
        })
    }

    /// Ends the archive; its size in bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        self.entry(&Entry { name: b"TRAILER!!!", mode: 0, owner: (0, 0), device: (0, 0), data: &[] })?;
        self.out.flush()?;
        Ok(self.written)
    }

    fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let size = u32::try_from(entry.data.len())
            .map_err(|_| io::Error::other(format!("{}: larger than 4 GiB", String::from_utf8_lossy(entry.name))))?;
        let inode = self.inode;
        self.inode += 1;
        let links = if entry.mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 };
        let (major, minor) = entry.device;
        let fields = [
            inode,
            entry.mode,
            entry.owner.0,
            entry.owner.1,
            links,
            0,
            size,
            0,
            0,
            major,
            minor,
            entry.name.len() as u32 + 1,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.write(header.as_bytes())?;
        self.write(entry.name)?;
        self.write(&[0])?;
        self.pad()?;
        self.write(entry.data)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_files_links_and_the_trailer_aligned() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/a"), b"hello").unwrap();
        std::os::unix::fs::symlink("a", root.join("bin/b")).unwrap();
        let path = directory.path().join("x.cpio");
        let mut archive = Archive::create(&path).unwrap();
        archive.tree(&root).unwrap();
        archive.console().unwrap();
        let size = archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len() as u64, size % 4), (size, 0));

        let mut at = 0;
        let mut found = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let start = at + 6 + 8 * n;
                usize::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6), field(11));
            let text = String::from_utf8_lossy(&bytes[at + 110..at + 110 + name - 1]).into_owned();
            let data = (at + 110 + name).next_multiple_of(4);
            found.push((text, mode, bytes[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
        let get = |name: &str| found.iter().find(|(n, _, _)| n == name).unwrap();
        assert_eq!(get("bin/a").2, b"hello");
        assert_eq!((get("bin/b").1 & 0o170000, get("bin/b").2.as_slice()), (0o120000, &b"a"[..]));
        assert_eq!(get("dev/console").1, 0o020600);
        assert_eq!(found.last().unwrap().0, "TRAILER!!!");
    }
}
