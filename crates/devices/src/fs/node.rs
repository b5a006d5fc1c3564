//! The nodes the guest knows, and its open files.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use super::state::{HandleState, NodeState};

/// The number of the directory itself.
pub const ROOT: u64 = 1;

/// A file, directory, link or whatever else.
pub struct Node {
    /// `O_PATH`; `None` for one that was not found again after a snapshot.
    descriptor: Option<OwnedFd>,
    identity: (u64, u64),
    pub kind: FileType,
    parent: u64,
    name: Vec<u8>,
    lookups: u64,
}

/// An open file or directory.
pub struct Handle {
    pub file: File,
    pub node: u64,
    pub flags: u32,
}

/// The tables.
pub struct Nodes {
    /// `/proc/self/fd`, through which an `O_PATH` descriptor is opened for reading or writing.
    proc_fd: OwnedFd,
    nodes: HashMap<u64, Node>,
    by_identity: HashMap<(u64, u64), u64>,
    next_node: u64,
    pub handles: BTreeMap<u64, Handle>,
    next_handle: u64,
}

/// Open files at once.
const MAX_HANDLES: usize = 1 << 16;

pub fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Nodes {
    pub fn new(root: OwnedFd, proc_fd: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&root)?;
        let identity = (stat.st_dev, stat.st_ino);
        let root = Node {
            descriptor: Some(root),
            identity,
            kind: FileType::from_raw_mode(stat.st_mode),
            parent: ROOT,
            name: Vec::new(),
            lookups: 1,
        };
        Ok(Self {
            proc_fd,
            nodes: HashMap::from([(ROOT, root)]),
            by_identity: HashMap::from([(identity, ROOT)]),
            next_node: ROOT + 1,
            handles: BTreeMap::new(),
            next_handle: 1,
        })
    }

    /// Forgets everything but the root.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.nodes.retain(|&number, _| number == ROOT);
        self.by_identity.retain(|_, number| *number == ROOT);
    }

    pub fn node(&self, number: u64) -> Result<&Node, Errno> {
        self.nodes.get(&number).ok_or(Errno::NOENT)
    }

    pub fn descriptor(&self, number: u64) -> Result<BorrowedFd<'_>, Errno> {
        self.node(number)?.descriptor.as_ref().map(AsFd::as_fd).ok_or(Errno::STALE)
    }

    pub fn stat(&self, number: u64) -> Result<Stat, Errno> {
        fstat(self.descriptor(number)?)
    }

    /// `/proc/self/fd` and the name in it that leads to the node itself, whatever it is.
    pub fn magic_link(&self, number: u64) -> Result<(BorrowedFd<'_>, String), Errno> {
        Ok((self.proc_fd.as_fd(), self.descriptor(number)?.as_raw_fd().to_string()))
    }

    /// Finds `name` in the directory `parent` and counts the lookup.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Result<(u64, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(self.descriptor(parent)?, os(name), flags, Mode::empty())?;
        let stat = fstat(&found)?;
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(&number) = self.by_identity.get(&identity)
            && let Some(node) = self.nodes.get_mut(&number)
        {
            node.lookups = node.lookups.saturating_add(1);
            if number != ROOT {
                (node.parent, node.name) = (parent, name.to_vec());
            }
            return Ok((number, stat));
        }
        let number = self.next_node;
        self.next_node += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let node = Node { descriptor: Some(found), identity, kind, parent, name: name.to_vec(), lookups: 1 };
        self.nodes.insert(number, node);
        self.by_identity.insert(identity, number);
        Ok((number, stat))
    }

    /// What a rename does to the place of a node that is known.
    pub fn renamed(&mut self, from: (u64, &[u8]), to: (u64, &[u8])) {
        let found = self.descriptor(to.0).and_then(|d| statat(d, os(to.1), AtFlags::SYMLINK_NOFOLLOW));
        let Ok(stat) = found else { return };
        if let Some(node) = self.by_identity.get(&(stat.st_dev, stat.st_ino)).and_then(|n| self.nodes.get_mut(n))
            && (node.parent, &node.name[..]) == from
        {
            (node.parent, node.name) = (to.0, to.1.to_vec());
        }
    }

    /// The guest forgets `count` lookups.
    pub fn forget(&mut self, number: u64, count: u64) {
        if number == ROOT {
            return;
        }
        let Some(node) = self.nodes.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 {
            self.by_identity.remove(&node.identity);
            self.nodes.remove(&number);
        }
    }

    /// Opens a regular file or directory for use. Nothing else: a pipe would block, a device is the host's.
    pub fn reopen(&self, number: u64, flags: OFlags) -> Result<File, Errno> {
        match self.node(number)?.kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::OPNOTSUPP),
        }
        let (proc_fd, name) = self.magic_link(number)?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(openat(proc_fd, name, flags, Mode::empty())?.into())
    }

    pub fn add_handle(&mut self, node: u64, flags: u32, file: File) -> Result<u64, Errno> {
        if self.handles.len() >= MAX_HANDLES {
            return Err(Errno::NFILE);
        }
        let number = self.next_handle;
        self.next_handle += 1;
        self.handles.insert(number, Handle { file, node, flags });
        Ok(number)
    }

    pub fn handle(&self, number: u64) -> Result<&Handle, Errno> {
        self.handles.get(&number).ok_or(Errno::BADF)
    }

    pub fn save(&self) -> (Vec<NodeState>, Vec<HandleState>) {
        let mut nodes: Vec<_> = self.nodes.iter().filter(|(number, _)| **number != ROOT).collect();
        nodes.sort_by_key(|(number, _)| **number);
        let nodes = nodes.into_iter().map(|(&node, n)| NodeState {
            node,
            parent: n.parent,
            name: n.name.clone(),
            lookups: n.lookups,
        });
        let handles = self.handles.iter().map(|(&handle, h)| HandleState { handle, node: h.node, flags: h.flags });
        (nodes.collect(), handles.collect())
    }

    /// Finds the nodes again. One that is not there stays known, as stale.
    pub fn restore(&mut self, nodes: &[NodeState], handles: &[HandleState]) {
        self.clear();
        let mut left: Vec<&NodeState> = nodes.iter().filter(|saved| saved.node > ROOT).collect();
        // A rename may have put a node below one with a greater number: repeat while there is progress.
        loop {
            let before = left.len();
            left.retain(|saved| {
                if !self.nodes.contains_key(&saved.parent) {
                    return true;
                }
                self.restore_node(saved);
                false
            });
            if left.len() == before || left.is_empty() {
                break;
            }
        }
        for saved in left {
            self.insert_stale(saved);
        }
        for saved in handles {
            let flags = OFlags::from_bits_retain(saved.flags) - (OFlags::TRUNC | OFlags::CREATE | OFlags::EXCL);
            if let Ok(file) = self.reopen(saved.node, flags) {
                self.handles.insert(saved.handle, Handle { file, node: saved.node, flags: saved.flags });
            }
            self.next_handle = self.next_handle.max(saved.handle.saturating_add(1));
        }
    }

    fn restore_node(&mut self, saved: &NodeState) {
        // The state file is not trusted more than the guest: the name has to be one.
        let valid = !saved.name.contains(&b'/') && !matches!(&saved.name[..], b"" | b"." | b"..");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = self
            .descriptor(saved.parent)
            .and_then(|parent| if valid { Ok(parent) } else { Err(Errno::INVAL) })
            .and_then(|parent| openat(parent, os(&saved.name), flags, Mode::empty()))
            .and_then(|found| Ok((fstat(&found)?, found)));
        let Ok((stat, found)) = found else { return self.insert_stale(saved) };
        let identity = (stat.st_dev, stat.st_ino);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (parent, name) = (saved.parent, saved.name.clone());
        let node = Node { descriptor: Some(found), identity, kind, parent, name, lookups: saved.lookups };
        self.nodes.insert(saved.node, node);
        self.by_identity.insert(identity, saved.node);
        self.next_node = self.next_node.max(saved.node.saturating_add(1));
    }

    fn insert_stale(&mut self, saved: &NodeState) {
        let node = Node {
            descriptor: None,
            identity: (u64::MAX, saved.node),
            kind: FileType::Unknown,
            parent: saved.parent,
            name: saved.name.clone(),
            lookups: saved.lookups,
        };
        self.nodes.insert(saved.node, node);
        self.next_node = self.next_node.max(saved.node.saturating_add(1));
    }
}
