//! The requests.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::node::{Nodes, os};
use super::protocol::*;
use super::state::FsState;
use crate::sys;
use crate::virtio::GuestFault;
use crate::virtio::queue::Cursor;

/// How long the guest may rely on what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePolicy {
    /// Not at all: every access asks.
    Never,
    /// A second, and as long as times and sizes say that nothing changed. For directories that others change too.
    Auto,
    /// For ever: for what never changes, as the layers of an image.
    Always,
}

/// How a directory is shared.
#[derive(Debug, Clone)]
pub struct FsOptions {
    /// The name by which the guest mounts it, at most 36 bytes.
    pub tag: String,
    /// The guest cannot change anything.
    pub read_only: bool,
    /// What the guest may keep.
    pub cache: CachePolicy,
    /// Files the guest makes belong to who made them there. Needs the privilege to change owners; otherwise they belong
    /// to this process.
    pub keep_owner: bool,
}

/// The greatest read or write.
pub const MAX_TRANSFER: u32 = 1 << 20;

/// The greatest value of an extended attribute, or list of them (`XATTR_SIZE_MAX`).
const MAX_XATTR: usize = 64 << 10;

/// What is answered.
pub enum Reply {
    /// To a request that has no answer.
    None,
    /// Bytes after the header.
    Bytes(Vec<u8>),
    /// So many bytes that are already in their place.
    InPlace(usize),
}

/// The server of one directory.
pub struct Server {
    nodes: Nodes,
    options: FsOptions,
    initialised: bool,
}

type Answer = Result<Reply, Errno>;

fn bytes(body: Body) -> Answer {
    Ok(Reply::Bytes(body.0))
}

fn empty(result: Result<(), Errno>) -> Answer {
    result.map(|()| Reply::Bytes(Vec::new()))
}

impl Server {
    pub fn new(root: OwnedFd, proc_fd: OwnedFd, options: FsOptions) -> Result<Self, Errno> {
        Ok(Self { nodes: Nodes::new(root, proc_fd)?, options, initialised: false })
    }

    pub fn reset(&mut self) {
        self.nodes.clear();
        self.initialised = false;
    }

    pub fn save(&self, features: u64) -> FsState {
        let (nodes, handles) = self.nodes.save();
        FsState { features, initialised: self.initialised, nodes, handles }
    }

    pub fn restore(&mut self, state: &FsState) {
        self.initialised = state.initialised;
        self.nodes.restore(&state.nodes, &state.handles);
    }

    fn seconds(&self) -> u64 {
        match self.options.cache {
            CachePolicy::Never => 0,
            CachePolicy::Auto => 1,
            CachePolicy::Always => 86_400,
        }
    }

    /// Answers one request: `arguments` follow its header, `room` is where the answer's body goes.
    pub fn request(
        &mut self,
        header: &InHeader,
        mut arguments: Cursor<'_>,
        room: &mut Cursor<'_>,
    ) -> Result<Answer, GuestFault> {
        if !self.initialised && header.opcode != INIT {
            return Ok(Err(Errno::IO));
        }
        if header.opcode == WRITE {
            return self.write(header, arguments);
        }
        // Everything but data is small: names, a path, the value of an attribute, a batch of forgotten nodes.
        let mut raw = vec![0; arguments.left().min(MAX_XATTR + 4096)];
        arguments.read(&mut raw)?;
        let fields = Fields(&raw);
        Ok(match header.opcode {
            READ => return self.read(fields, room),
            READDIR => self.read_directory(header, fields, room, false)?,
            READDIRPLUS => self.read_directory(header, fields, room, true)?,
            _ => self.small_request(header, fields),
        })
    }

    fn small_request(&mut self, header: &InHeader, mut fields: Fields<'_>) -> Answer {
        let node = header.node;
        let modifies = matches!(
            header.opcode,
            SETATTR
                | SYMLINK
                | MKNOD
                | MKDIR
                | UNLINK
                | RMDIR
                | RENAME
                | RENAME2
                | LINK
                | CREATE
                | SETXATTR
                | REMOVEXATTR
                | FALLOCATE
                | COPY_FILE_RANGE
        );
        if modifies && self.options.read_only {
            return Err(Errno::ROFS);
        }
        match header.opcode {
            INIT => self.init(fields),
            DESTROY => {
                self.reset();
                empty(Ok(()))
            }
            FORGET => {
                if let Ok(count) = fields.u64() {
                    self.nodes.forget(node, count);
                }
                Ok(Reply::None)
            }
            BATCH_FORGET => {
                let count = fields.u32().unwrap_or(0);
                let _padding = fields.u32();
                for _ in 0..count {
                    let (Ok(node), Ok(lookups)) = (fields.u64(), fields.u64()) else { break };
                    self.nodes.forget(node, lookups);
                }
                Ok(Reply::None)
            }
            // Nothing waits long enough to be interrupted.
            INTERRUPT => Ok(Reply::None),
            LOOKUP => {
                let name = fields.name()?;
                self.entry(node, name)
            }
            GETATTR => self.attributes(node),
            SETATTR => self.set_attributes(node, fields),
            READLINK => {
                let target = fs::readlinkat(self.nodes.descriptor(node)?, "", Vec::new())?;
                Ok(Reply::Bytes(target.into_bytes()))
            }
            SYMLINK => {
                let name = fields.name()?;
                let target = fields.text()?;
                fs::symlinkat(os(target), self.nodes.descriptor(node)?, os(name))?;
                self.made(header, name, None)
            }
            MKNOD => {
                let (mode, device, _umask, _padding) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
                let name = fields.name()?;
                self.make_node(header, name, mode, device)
            }
            MKDIR => {
                let (mode, _umask) = (fields.u32()?, fields.u32()?);
                let name = fields.name()?;
                let mode = Mode::from_raw_mode(mode);
                fs::mkdirat(self.nodes.descriptor(node)?, os(name), mode)?;
                self.made(header, name, Some(mode))
            }
            UNLINK => empty(fs::unlinkat(self.nodes.descriptor(node)?, os(fields.name()?), AtFlags::empty())),
            RMDIR => empty(fs::unlinkat(self.nodes.descriptor(node)?, os(fields.name()?), AtFlags::REMOVEDIR)),
            RENAME => {
                let to = fields.u64()?;
                self.rename(node, to, 0, fields)
            }
            RENAME2 => {
                let (to, flags, _padding) = (fields.u64()?, fields.u32()?, fields.u32()?);
                self.rename(node, to, flags, fields)
            }
            LINK => {
                let old = fields.u64()?;
                let name = fields.name()?;
                let (proc_fd, link) = self.nodes.magic_link(old)?;
                fs::linkat(proc_fd, link, self.nodes.descriptor(node)?, os(name), AtFlags::SYMLINK_FOLLOW)?;
                self.entry(node, name)
            }
            OPEN => {
                let flags = fields.u32()?;
                self.open(node, flags, false)
            }
            OPENDIR => self.open(node, 0, true),
            CREATE => {
                let (flags, mode, _umask, _open_flags) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
                let name = fields.name()?;
                self.create(header, name, flags, mode)
            }
            RELEASE | RELEASEDIR => {
                self.nodes.handles.remove(&fields.u64()?);
                empty(Ok(()))
            }
            FLUSH => {
                self.nodes.handle(fields.u64()?)?;
                // What close(2) would report: an error of the file system behind.
                empty(Ok(()))
            }
            FSYNC | FSYNCDIR => {
                let (handle, flags) = (fields.u64()?, fields.u32()?);
                let file = &self.nodes.handle(handle)?.file;
                empty(if flags & 1 != 0 { fs::fdatasync(file) } else { fs::fsync(file) })
            }
            SYNCFS => empty(fs::syncfs(self.nodes.reopen(super::node::ROOT, OFlags::RDONLY)?)),
            STATFS => self.statistics(node),
            SETXATTR => {
                let (size, flags) = (fields.u32()? as usize, fields.u32()?);
                let name = attribute_name(fields.text()?)?;
                let value = fields.0.get(..size).ok_or(Errno::INVAL)?;
                let file = self.nodes.reopen(node, OFlags::RDONLY)?;
                empty(fs::fsetxattr(file, name, value, XattrFlags::from_bits_retain(flags & 3)))
            }
            GETXATTR => {
                let (size, _padding) = (fields.u32()? as usize, fields.u32()?);
                let name = attribute_name(fields.text()?)?;
                let file = self.nodes.reopen(node, OFlags::RDONLY)?;
                let mut value = vec![0; size.min(MAX_XATTR)];
                let length = match size {
                    0 => fs::fgetxattr_query(file, name)?,
                    _ => fs::fgetxattr(file, name, &mut value)?,
                };
                sized(size, length, value)
            }
            LISTXATTR => {
                let size = fields.u32()? as usize;
                let file = self.nodes.reopen(node, OFlags::RDONLY)?;
                let mut names = vec![0; size.min(MAX_XATTR)];
                let length = match size {
                    0 => fs::flistxattr_query(file)?,
                    _ => fs::flistxattr(file, &mut names)?,
                };
                sized(size, length, names)
            }
            REMOVEXATTR => {
                let name = attribute_name(fields.text()?)?;
                empty(fs::fremovexattr(self.nodes.reopen(node, OFlags::RDONLY)?, name))
            }
            FALLOCATE => {
                let (handle, offset, length, mode) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
                let file = &self.nodes.handle(handle)?.file;
                empty(fs::fallocate(file, FallocateFlags::from_bits_retain(mode), offset, length))
            }
            LSEEK => {
                let (handle, offset, whence) = (fields.u64()?, fields.u64()?, fields.u32()?);
                let position = match whence {
                    3 => SeekFrom::Data(offset),
                    4 => SeekFrom::Hole(offset),
                    // The guest's kernel knows the others by itself.
                    _ => return Err(Errno::INVAL),
                };
                bytes(Body::default().u64(fs::seek(&self.nodes.handle(handle)?.file, position)?))
            }
            COPY_FILE_RANGE => {
                let (from, mut from_offset, _node) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let (to, mut to_offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
                let (from, to) = (&self.nodes.handle(from)?.file, &self.nodes.handle(to)?.file);
                // The event loop serves other devices too: a piece at a time, the guest asks for the rest.
                let length = length.min(64 << 20) as usize;
                let done = fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length)?;
                bytes(Body::default().u32(done as u32).u32(0))
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn init(&mut self, mut fields: Fields<'_>) -> Answer {
        let (major, minor, readahead, flags) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        if major != MAJOR || minor < OLDEST_MINOR {
            return Err(Errno::PROTO);
        }
        let cache = match self.options.cache {
            CachePolicy::Always => init::CACHE_SYMLINKS,
            _ => init::AUTO_INVAL_DATA,
        };
        self.nodes.clear();
        self.initialised = true;
        let pages = MAX_TRANSFER / 4096;
        bytes(
            Body::default()
                .u32(MAJOR)
                .u32(MINOR.min(minor))
                .u32(readahead.min(MAX_TRANSFER))
                .u32(flags & (init::WANTED | cache))
                // Requests in the background, and where congestion begins.
                .u32(64 | 48 << 16)
                .u32(MAX_TRANSFER)
                .u32(1)
                .u32(pages)
                .zeroes(32),
        )
    }

    fn entry(&mut self, parent: u64, name: &[u8]) -> Answer {
        let seconds = self.seconds();
        match self.nodes.lookup(parent, name) {
            Ok((node, stat)) => bytes(Body::default().entry(node, seconds, &stat)),
            // Node 0: the name is known not to exist, for as long.
            Err(Errno::NOENT) if self.options.cache == CachePolicy::Always => {
                bytes(Body::default().u64(0).u64(0).u64(seconds).zeroes(104))
            }
            Err(error) => Err(error),
        }
    }

    fn attributes(&self, node: u64) -> Answer {
        let stat = self.nodes.stat(node)?;
        bytes(Body::default().u64(self.seconds()).u64(0).attributes(&stat))
    }

    /// Gives something new its owner and mode, and answers with it.
    fn made(&mut self, header: &InHeader, name: &[u8], mode: Option<Mode>) -> Answer {
        let (node, stat) = self.nodes.lookup(header.node, name)?;
        if self.options.keep_owner && (stat.st_uid, stat.st_gid) != (header.uid, header.gid) {
            let (uid, gid) = owner(header.uid, header.gid);
            fs::chownat(self.nodes.descriptor(node)?, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        // This process's umask is not the guest's, and a change of owner takes the set-id bits.
        let stat = self.nodes.stat(node)?;
        if let Some(mode) = mode
            && Mode::from_raw_mode(stat.st_mode) != mode
            && FileType::from_raw_mode(stat.st_mode) != FileType::Symlink
        {
            let (proc_fd, link) = self.nodes.magic_link(node)?;
            fs::chmodat(proc_fd, link, mode, AtFlags::empty())?;
        }
        let stat = self.nodes.stat(node)?;
        bytes(Body::default().entry(node, self.seconds(), &stat))
    }

    fn make_node(&mut self, header: &InHeader, name: &[u8], mode: u32, device: u32) -> Answer {
        let kind = FileType::from_raw_mode(mode);
        // A device node is a door to the host. The one that is none is overlayfs's mark of a removed file.
        let allowed = match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => true,
            FileType::CharacterDevice => device == 0,
            _ => false,
        };
        if !allowed {
            return Err(Errno::PERM);
        }
        let mode = Mode::from_raw_mode(mode);
        fs::mknodat(self.nodes.descriptor(header.node)?, os(name), kind, mode, 0)?;
        self.made(header, name, Some(mode))
    }

    fn rename(&mut self, from: u64, to: u64, flags: u32, mut fields: Fields<'_>) -> Answer {
        let (old, new) = (fields.name()?, fields.name()?);
        let (from_fd, to_fd) = (self.nodes.descriptor(from)?, self.nodes.descriptor(to)?);
        fs::renameat_with(from_fd, os(old), to_fd, os(new), RenameFlags::from_bits_retain(flags))?;
        self.nodes.renamed((from, old), (to, new));
        empty(Ok(()))
    }

    fn open_flags(&self, flags: u32) -> Result<OFlags, Errno> {
        let kept = OFlags::RWMODE | OFlags::APPEND | OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME;
        let flags = OFlags::from_bits_retain(flags) & kept;
        let writes = (flags & OFlags::RWMODE) != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if writes && self.options.read_only { Err(Errno::ROFS) } else { Ok(flags - OFlags::NOATIME) }
    }

    fn open(&mut self, node: u64, flags: u32, directory: bool) -> Answer {
        let flags = match directory {
            true => OFlags::RDONLY | OFlags::DIRECTORY,
            false => self.open_flags(flags)?,
        };
        let file = self.nodes.reopen(node, flags)?;
        let handle = self.nodes.add_handle(node, flags.bits(), file)?;
        bytes(Body::default().u64(handle).u32(self.cache_flags(directory)).u32(0))
    }

    fn cache_flags(&self, directory: bool) -> u32 {
        match (self.options.cache, directory) {
            (CachePolicy::Never, false) => FOPEN_DIRECT_IO,
            (CachePolicy::Always, false) => FOPEN_KEEP_CACHE,
            (CachePolicy::Always, true) => FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR,
            _ => 0,
        }
    }

    fn create(&mut self, header: &InHeader, name: &[u8], flags: u32, mode: u32) -> Answer {
        let excl = OFlags::from_bits_retain(flags) & OFlags::EXCL;
        let mode = Mode::from_raw_mode(mode);
        let flags = self.open_flags(flags)?;
        // Always exclusive: what exists may be a pipe or a link, and is opened like any other node.
        let how = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut answer = match fs::openat(self.nodes.descriptor(header.node)?, os(name), flags | how, mode) {
            Ok(_) => self.made(header, name, Some(mode))?,
            Err(Errno::EXIST) if excl.is_empty() => self.entry(header.node, name)?,
            Err(error) => return Err(error),
        };
        let Reply::Bytes(body) = &mut answer else { return Ok(answer) };
        let node = Fields(body).u64()?;
        let opened = self.nodes.reopen(node, flags).and_then(|file| self.nodes.add_handle(node, flags.bits(), file));
        match opened {
            Ok(handle) => {
                body.extend(Body::default().u64(handle).u32(self.cache_flags(false)).u32(0).0);
                Ok(answer)
            }
            Err(error) => {
                self.nodes.forget(node, 1);
                Err(error)
            }
        }
    }

    fn set_attributes(&mut self, node: u64, mut fields: Fields<'_>) -> Answer {
        let (valid, _padding, handle, size) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?);
        let (_lock, atime, mtime, _ctime) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        let (atime_nsec, mtime_nsec, _ctime_nsec) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (mode, _unused, uid, gid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let has = |bits: u32| valid & bits != 0;

        if has(FATTR_MODE) {
            if self.nodes.node(node)?.kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            let (proc_fd, link) = self.nodes.magic_link(node)?;
            fs::chmodat(proc_fd, link, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if has(FATTR_UID | FATTR_GID) {
            let keep = u32::MAX;
            let (uid, gid) = owner(if has(FATTR_UID) { uid } else { keep }, if has(FATTR_GID) { gid } else { keep });
            fs::chownat(self.nodes.descriptor(node)?, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if has(FATTR_SIZE) {
            match has(FATTR_FH) {
                true => fs::ftruncate(&self.nodes.handle(handle)?.file, size)?,
                false => fs::ftruncate(self.nodes.reopen(node, OFlags::WRONLY)?, size)?,
            }
        }
        if has(FATTR_ATIME | FATTR_MTIME) {
            let time = |set: bool, now: bool, seconds: u64, nanos: u32| match (set, now) {
                (false, _) => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
                (true, true) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW as _ },
                (true, false) => Timespec { tv_sec: seconds as i64, tv_nsec: nanos.min(999_999_999).into() },
            };
            let times = Timestamps {
                last_access: time(has(FATTR_ATIME), has(FATTR_ATIME_NOW), atime, atime_nsec),
                last_modification: time(has(FATTR_MTIME), has(FATTR_MTIME_NOW), mtime, mtime_nsec),
            };
            let (proc_fd, link) = self.nodes.magic_link(node)?;
            fs::utimensat(proc_fd, link, &times, AtFlags::empty())?;
        }
        self.attributes(node)
    }

    fn statistics(&self, node: u64) -> Answer {
        let s = fs::fstatvfs(self.nodes.descriptor(node)?)?;
        bytes(
            Body::default()
                .u64(s.f_blocks)
                .u64(s.f_bfree)
                .u64(s.f_bavail)
                .u64(s.f_files)
                .u64(s.f_ffree)
                .u32(s.f_bsize as u32)
                .u32(s.f_namemax as u32)
                .u32(s.f_frsize as u32)
                .zeroes(28),
        )
    }

    /// Data goes from the file into the guest's buffers without a copy here.
    fn read(&self, mut fields: Fields<'_>, room: &mut Cursor<'_>) -> Result<Answer, GuestFault> {
        let arguments = (|| Ok::<_, Errno>((fields.u64()?, fields.u64()?, fields.u32()?)))();
        let (handle, offset, size) = match arguments {
            Ok(arguments) => arguments,
            Err(error) => return Ok(Err(error)),
        };
        let file = match self.nodes.handle(handle) {
            Ok(handle) => &handle.file,
            Err(error) => return Ok(Err(error)),
        };
        let slices = room.take_slices(room.left().min(size.min(MAX_TRANSFER) as usize))?;
        Ok(sys::read_into_guest(file, &slices, Some(offset)).map(Reply::InPlace).map_err(errno))
    }

    fn write(&self, _header: &InHeader, mut arguments: Cursor<'_>) -> Result<Answer, GuestFault> {
        let raw: [u8; 40] = arguments.read_array()?;
        let mut fields = Fields(&raw);
        let parsed = (|| Ok::<_, Errno>((fields.u64()?, fields.u64()?, fields.u32()? as usize)))();
        let (handle, offset, size) = match parsed {
            Ok(parsed) if parsed.2 <= arguments.left().min(MAX_TRANSFER as usize) => parsed,
            _ => return Ok(Err(Errno::INVAL)),
        };
        if self.options.read_only {
            return Ok(Err(Errno::ROFS));
        }
        let file = match self.nodes.handle(handle) {
            Ok(handle) => &handle.file,
            Err(error) => return Ok(Err(error)),
        };
        let slices = arguments.take_slices(size)?;
        let written = sys::write_from_guest(file, &slices, Some(offset)).map_err(errno);
        Ok(written.and_then(|count| bytes(Body::default().u32(count as u32).u32(0))))
    }

    fn read_directory(
        &mut self,
        header: &InHeader,
        mut fields: Fields<'_>,
        room: &Cursor<'_>,
        plus: bool,
    ) -> Result<Answer, GuestFault> {
        let arguments = (|| Ok::<_, Errno>((fields.u64()?, fields.u64()?, fields.u32()?)))();
        Ok(arguments.and_then(|(handle, offset, size)| {
            let size = room.left().min(size.min(MAX_TRANSFER) as usize);
            self.list(header.node, handle, offset, size, plus)
        }))
    }

    fn list(&mut self, node: u64, handle: u64, offset: u64, size: usize, plus: bool) -> Answer {
        let directory = self.nodes.handle(handle)?.file.as_fd().try_clone_to_owned().map_err(errno)?;
        fs::seek(&directory, SeekFrom::Start(offset))?;
        let mut buffer = Vec::with_capacity(16 << 10);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut list = Body(Vec::with_capacity(size.min(64 << 10)));
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let length = (24 + name.len()).next_multiple_of(8) + if plus { 128 } else { 0 };
            if list.0.len() + length > size {
                break;
            }
            if plus {
                // Node 0 for what is not looked up: the guest asks when it needs it.
                let found = match name {
                    b"." | b".." => None,
                    _ => self.nodes.lookup(node, name).ok(),
                };
                list = match found {
                    Some((node, stat)) => list.entry(node, self.seconds(), &stat),
                    None => list.zeroes(128),
                };
            }
            list = list.u64(entry.ino()).u64(entry.next_entry_cookie());
            list = list.u32(name.len() as u32).u32(directory_type(entry.file_type()));
            list.0.extend_from_slice(name);
            let padded = list.0.len().next_multiple_of(8);
            list.0.resize(padded, 0);
        }
        bytes(list)
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    ((uid != u32::MAX).then(|| Uid::from_raw(uid)), (gid != u32::MAX).then(|| Gid::from_raw(gid)))
}

/// The attributes that are the guest's to have; others mean something to the host.
fn attribute_name(name: &[u8]) -> Result<&std::ffi::OsStr, Errno> {
    let allowed =
        name.starts_with(b"user.") || name == b"security.capability" || name.starts_with(b"system.posix_acl_");
    if allowed { Ok(os(name)) } else { Err(Errno::OPNOTSUPP) }
}

/// The answer to a question for an attribute: its size, or itself.
fn sized(asked: usize, length: usize, mut value: Vec<u8>) -> Answer {
    if asked == 0 {
        return bytes(Body::default().u32(length as u32).u32(0));
    }
    value.truncate(length);
    Ok(Reply::Bytes(value))
}

/// `DT_*` of a type.
fn directory_type(kind: FileType) -> u32 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}
