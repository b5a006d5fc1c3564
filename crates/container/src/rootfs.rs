//! The container's root file system, seen from inside the new mount namespace: it becomes a mount of its own, gets its
//! mounts, devices and restrictions, and then replaces the host's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags as Propagation, UnmountFlags};
use strata_spec::runtime::{Linux, Spec};

use crate::error::{Context, Error};
use crate::mount_options::{self, Attributes, Options};
use crate::mounts::{self, Surroundings};
use crate::paths::{self, Root};
use crate::{devices, process};

/// The root, and what is left to do before it is entered.
pub(crate) struct Rootfs {
    pub root: Root,
    path: PathBuf,
    own_namespace: bool,
}

/// How the root is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    Pivot,
    /// `MS_MOVE` and `chroot(2)`, for an initial ramdisk, whose root cannot be pivoted away from.
    Move,
    /// `chroot(2)`, for a container without a mount namespace or in somebody's, whose root is not to be taken away.
    Chroot,
}

const READ_ONLY: Attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };
const MASK: Attributes =
    Attributes { set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC, clear: 0 };

impl Rootfs {
    /// Cuts the namespace off from the host's mount events and makes the root a mount. `tree` is the root, if the
    /// parent had to open it. `entrance` into a namespace that is not the host's by `chroot(2)` means that it is
    /// somebody's: what is there stays as it is, and the mounts made here remain below `path` as long as it lives.
    pub(crate) fn open(
        path: &Path,
        linux: &Linux,
        own_namespace: bool,
        entrance: Entrance,
        tree: Option<OwnedFd>,
    ) -> Result<Rootfs, Error> {
        if !own_namespace {
            let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            let root = Root::new(fd.on_path("open the root file system", path)?);
            return Ok(Rootfs { root, path: path.to_owned(), own_namespace });
        }
        let joined = entrance == Entrance::Chroot;
        let configured = linux.rootfs_propagation.as_deref().and_then(mount_options::propagation);
        let propagation = match configured {
            // What is unbindable cannot be cloned below; it becomes that when it is entered.
            Some(wish) if wish.contains(Propagation::UNBINDABLE) => Propagation::PRIVATE | Propagation::REC,
            Some(wish) => wish,
            // As runc does: without a wish the host's mounts go on to appear in what the container shares of it, and
            // nothing comes back.
            None => Propagation::DOWNSTREAM | Propagation::REC,
        };
        if !joined {
            rustix::mount::mount_change("/", propagation).context(|| "set the propagation of /".into())?;
        }
        if joined || propagation.contains(Propagation::SHARED) {
            parent_private(path)?;
        }
        let theirs = joined || tree.is_some();
        let tree = match tree {
            Some(tree) => tree,
            None => mounts::clone_tree(path, true).on_path("bind the root file system", path)?,
        };
        if theirs {
            // It is not of what has just been cut off: what is mounted on it would appear there as well.
            let private = propagation.contains(Propagation::PRIVATE);
            let cut = if private { Propagation::PRIVATE } else { Propagation::DOWNSTREAM };
            mounts::set_propagation(tree.as_fd(), cut | Propagation::REC)
                .on_path("cut off the root file system", path)?;
        }
        let target = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .on_path("open the root file system", path)?;
        mounts::attach(tree.as_fd(), target.as_fd()).on_path("mount the root file system", path)?;
        Ok(Rootfs { root: Root::new(tree), path: path.to_owned(), own_namespace })
    }

    /// Makes mounts and devices. `trees`: for each mount its source, if the parent had to open it. `enter_cgroup` is called
    /// before mounts that show the cgroup. Returns mounts that are to become read-only once everything is made.
    pub(crate) fn fill(
        around: &Surroundings<'_>,
        spec: &Spec,
        linux: &Linux,
        mut trees: Vec<Option<OwnedFd>>,
        enter_cgroup: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Vec<OwnedFd>, Error> {
        let mut late = Vec::new();
        let own_dev = spec.mounts.iter().all(|m| {
            // Somebody's whole /dev comes with its own nodes.
            !(paths::clean(&m.destination) == Path::new("/dev") && mount_options::parse(m).is_ok_and(|o| o.bind))
        });
        for (i, mount) in spec.mounts.iter().enumerate() {
            let tree = trees.get_mut(i).and_then(Option::take);
            if matches!(mount.kind.as_deref(), Some("cgroup" | "cgroup2")) {
                enter_cgroup()?;
            }
            late.extend(mounts::make(around, mount, tree)?);
        }
        if own_dev {
            devices::make_all(around.root, &linux.devices, &spec.mounts, around.user_namespace)?;
        }
        Ok(late)
    }

    /// Hides and write-protects what the configuration says, and `late` mounts.
    pub(crate) fn restrict(&self, spec: &Spec, linux: &Linux, late: Vec<OwnedFd>) -> Result<(), Error> {
        if let Some(p) = &spec.process {
            let cwd = Path::new(&p.cwd);
            self.root.make_dir_all(cwd, 0o755).on_path("make the working directory", cwd)?;
        }
        if !self.own_namespace {
            return Ok(());
        }
        for path in &linux.readonly_paths {
            self.write_protect(Path::new(path)).on_path("make read-only", Path::new(path))?;
        }
        self.mask(&linux.masked_paths)?;
        for mount in late {
            mounts::set_attributes(mount.as_fd(), false, READ_ONLY).context(|| "make a mount read-only".into())?;
        }
        if spec.root.as_ref().is_some_and(|r| r.readonly) {
            mounts::set_attributes(self.root.as_fd(), false, READ_ONLY).context(|| "make the root read-only".into())?;
        }
        Ok(())
    }

    fn write_protect(&self, path: &Path) -> std::io::Result<()> {
        let target = match self.root.resolve(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let copy = mounts::clone_tree_of(target.as_fd(), true)?;
        mounts::set_attributes(copy.as_fd(), true, READ_ONLY)?;
        mounts::attach(copy.as_fd(), target.as_fd())
    }

    /// A masked file reads as the null device, a masked directory as an empty one. The null device is the host's, known
    /// to be it: the container's might have been replaced (CVE-2025-31133). What is mounted is read-only, so that the
    /// host's node keeps its mode, owner and times; a device can be written nevertheless.
    fn mask(&self, paths: &[String]) -> Result<(), Error> {
        let (mut null, mut empty): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
        for path in paths {
            let path = Path::new(path);
            let target = match self.root.resolve(path) {
                Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                    continue;
                }
                other => other.on_path("mask", path)?,
            };
            // All masked files show one mount's copies, so do all directories. Any kernel can copy an attached mount.
            let is_dir = paths::is_dir(&target).on_path("mask", path)?;
            let shown = if is_dir { &mut empty } else { &mut null };
            let mount = match shown {
                Some(first) => mounts::clone_tree_of(first.as_fd(), false).on_path("mask", path)?,
                None if is_dir => {
                    let options = Options { attributes: MASK, ..Options::default() };
                    mounts::new_file_system("tmpfs", Path::new("tmpfs"), &options).on_path("mask", path)?
                }
                None => {
                    let copy = mounts::clone_tree_of(null_device()?.as_fd(), false).on_path("mask", path)?;
                    mounts::set_attributes(copy.as_fd(), false, MASK).on_path("mask", path)?;
                    copy
                }
            };
            mounts::attach(mount.as_fd(), target.as_fd()).on_path("mask", path)?;
            shown.get_or_insert(mount);
        }
        Ok(())
    }

    /// Makes the root `/`, and leaves nothing of the host's mounts reachable.
    pub(crate) fn enter(self, entrance: Entrance, linux: &Linux) -> Result<(), Error> {
        let what = || format!("enter the root file system {}", self.path.display());
        match entrance {
            Entrance::Pivot => pivot(self.root.as_fd()).context(what)?,
            Entrance::Move => {
                unmount_rest(&self.path)?;
                rustix::process::fchdir(self.root.as_fd()).context(what)?;
                rustix::mount::mount_move(".", "/").context(what)?;
                rustix::process::chroot(".").context(what)?;
            }
            Entrance::Chroot => {
                rustix::process::fchdir(self.root.as_fd()).context(what)?;
                rustix::process::chroot(".").context(what)?;
            }
        }
        rustix::process::chdir("/").context(what)?;
        // Only now: a shared root cannot be pivoted.
        match linux.rootfs_propagation.as_deref().and_then(mount_options::propagation) {
            Some(flags) if self.own_namespace && !flags.contains(Propagation::PRIVATE) => {
                rustix::mount::mount_change("/", flags).context(|| "set the propagation of the root".into())
            }
            _ => Ok(()),
        }
    }
}

/// The host's null device, by its numbers.
fn null_device() -> Result<OwnedFd, Error> {
    let path = Path::new("/dev/null");
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let fd = fd.on_path("open", path)?;
    if process::is_device(&fd, 1, 3) {
        return Ok(fd);
    }
    Err(Error::Unsupported("/dev/null of the host is not the null device (character device 1:3)".into()))
}

/// `pivot_root(2)` of a directory onto itself stacks the old root on the new one, from where it is unmounted.
fn pivot(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::process::fchdir(&old)?;
    // The unmounting must not reach the host.
    rustix::mount::mount_change(".", Propagation::DOWNSTREAM | Propagation::REC)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
}

/// The kernel refuses to pivot below a shared mount.
fn parent_private(path: &Path) -> Result<(), Error> {
    for ancestor in path.ancestors() {
        match rustix::mount::mount_change(ancestor, Propagation::PRIVATE) {
            // Not a mount point.
            Err(Errno::INVAL) => {}
            other => return other.on_path("make private", ancestor),
        }
    }
    Ok(())
}

/// Without a pivot the host's other mounts stay below the moved root and could be uncovered: procfs and sysfs are
/// unmounted or, where that is refused, covered.
fn unmount_rest(root: &Path) -> Result<(), Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo".into())?;
    for line in table.lines() {
        let mut halves = line.splitn(2, " - ");
        let point = halves.next().and_then(|h| h.split(' ').nth(4)).map(unescape).unwrap_or_default();
        let kind = halves.next().and_then(|h| h.split(' ').next()).unwrap_or_default();
        if !matches!(kind, "proc" | "sysfs") || point.starts_with(root) {
            continue;
        }
        rustix::mount::mount_change(&point, Propagation::PRIVATE | Propagation::REC).on_path("make private", &point)?;
        match rustix::mount::unmount(&point, UnmountFlags::DETACH) {
            Err(Errno::INVAL | Errno::PERM) => {
                let target = rustix::fs::openat(CWD, &point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
                let target = target.on_path("open", &point)?;
                let cover = mounts::new_file_system("tmpfs", Path::new("tmpfs"), &Options::default());
                let cover = cover.on_path("cover", &point)?;
                mounts::attach(cover.as_fd(), target.as_fd()).on_path("cover", &point)?;
            }
            other => other.on_path("unmount", &point)?,
        }
    }
    Ok(())
}

/// A path of mountinfo: blanks, tabs, newlines and backslashes are octal escapes.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'\\')
            .then(|| bytes.get(i + 1..i + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        result.push(code.unwrap_or(bytes[i]));
        i += if code.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(result).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_paths_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/plain\\"), Path::new("/plain\\"));
    }
}
