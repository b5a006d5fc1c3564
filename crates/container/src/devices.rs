//! Device nodes: those the specification always provides (`config-linux.md`, "Default Devices") and those configured.
//! Where nodes cannot be made, in a user namespace, the host's are bound instead.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;
use strata_spec::runtime::{Device, Mount};

use crate::error::{Context, Error};
use crate::mount_options::Attributes;
use crate::mounts;
use crate::paths::{self, Root};

const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

struct Node<'a> {
    path: &'a Path,
    kind: FileType,
    mode: u32,
    major: u32,
    minor: u32,
    owner: Option<(u32, u32)>,
}

/// Makes all nodes and links. `bind`: bind the host's nodes, because this process may not make any. A default device's
/// place may hold what one of `mounts` has put there.
pub(crate) fn make_all(root: &Root, configured: &[Device], mounts: &[Mount], bind: bool) -> Result<(), Error> {
    let dev = root.make_dir_all(Path::new("/dev"), 0o755).on_path("make the directory", Path::new("/dev"))?;
    for (path, major, minor) in DEFAULTS {
        if !configured.iter().any(|d| d.path == Path::new(path)) {
            let kind = FileType::CharacterDevice;
            let node = Node { path: Path::new(path), kind, mode: 0o666, major, minor, owner: None };
            // `/dev` is open already, and all of these are right in it.
            let made = make(root, &node, bind, Some(&dev));
            if made.is_err() && mounts.iter().any(|m| paths::clean(&m.destination) == Path::new(path)) {
                continue;
            }
            made?;
        }
    }
    for device in configured {
        make(root, &node(device)?, bind, None)?;
    }
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&dev, "core", "/proc/kcore")?;
    }
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // Somebody's bind mount; it stays.
        Err(Errno::BUSY) => return Ok(()),
        Err(e) => return Err(Error::system("replace /dev/ptmx", e)),
    }
    link(&dev, "ptmx", "pts/ptmx")
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> Result<(), Error> {
    match rustix::fs::symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::system(format!("link /dev/{name} to {target}"), e)),
    }
}

fn node(device: &Device) -> Result<Node<'_>, Error> {
    let number =
        |n: i64| u32::try_from(n).map_err(|_| Error::invalid("linux.devices", format!("{n} is no device number")));
    let kind = match device.kind.as_str() {
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let fifo = kind == FileType::Fifo;
    Ok(Node {
        path: &device.path,
        kind,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        major: if fifo { 0 } else { number(device.major)? },
        minor: if fifo { 0 } else { number(device.minor)? },
        owner: Some((device.uid.unwrap_or(0), device.gid.unwrap_or(0))),
    })
}

fn make(root: &Root, node: &Node<'_>, bind: bool, dev: Option<&OwnedFd>) -> Result<(), Error> {
    if bind && node.kind != FileType::Fifo {
        return bind_host(root, node.path);
    }
    let opened;
    let (parent, name) = match (dev, node.path.file_name()) {
        (Some(dev), Some(name)) => (dev, PathBuf::from(name)),
        _ => {
            let (parent, name) = root.parent_of(node.path).on_path("make the parent directory of", node.path)?;
            opened = parent;
            (&opened, name)
        }
    };
    let number = rustix::fs::makedev(node.major, node.minor);
    match rustix::fs::mknodat(parent, &name, node.kind, Mode::from_raw_mode(node.mode), number) {
        Ok(()) => {}
        // An image or a mount brought its own.
        Err(Errno::EXIST) => return is_this(parent, &name, node),
        // No CAP_MKNOD here, or a device cgroup above the container's forbids it.
        Err(Errno::PERM) => {
            return bind_host(root, node.path).map_err(|e| match e {
                Error::System { source, .. } => Error::system(
                    format!(
                        "make the device {} ({}:{}), for want of CAP_MKNOD or by a device cgroup above, nor bind the host's",
                        node.path.display(),
                        node.major,
                        node.minor
                    ),
                    source,
                ),
                other => other,
            });
        }
        Err(e) => return Err(Error::system(format!("make the device {}", node.path.display()), e)),
    }
    match node.owner {
        None | Some((0, 0)) => Ok(()),
        Some((uid, gid)) => {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(parent, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .on_path("set the owner of", node.path)
        }
    }
}

/// A file that is there already must be the device. It is examined only: opening it might do something.
fn is_this(parent: &OwnedFd, name: &Path, node: &Node<'_>) -> Result<(), Error> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).on_path("examine", node.path)?;
    let number = rustix::fs::makedev(node.major, node.minor);
    let fifo = node.kind == FileType::Fifo;
    if FileType::from_raw_mode(stat.st_mode) == node.kind && (fifo || stat.st_rdev == number) {
        return Ok(());
    }
    let letter = match node.kind {
        FileType::Fifo => "a FIFO".to_owned(),
        FileType::BlockDevice => format!("the block device {}:{}", node.major, node.minor),
        _ => format!("the character device {}:{}", node.major, node.minor),
    };
    let message = format!("{} exists in the root file system and is not {letter}", node.path.display());
    Err(Error::invalid("linux.devices", message))
}

/// The mount is read-only, so that the host's node keeps its mode, owner and times; the device can be written.
fn bind_host(root: &Root, path: &Path) -> Result<(), Error> {
    const NODE_KEPT: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, clear: 0 };
    let source = mounts::clone_tree(path, false).on_path("bind the host's device", path)?;
    mounts::set_attributes(source.as_fd(), false, NODE_KEPT).on_path("protect the host's device", path)?;
    let target = root.make_file(path).on_path("make the mount point", path)?;
    mounts::attach(source.as_fd(), target.as_fd()).on_path("bind the host's device to", path)
}
