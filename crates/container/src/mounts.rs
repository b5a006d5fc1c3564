//! Mounts (OCI runtime-spec, `config.md`, "Mounts"), made with the descriptor-based interface of Linux 5.2: a mount
//! comes into being detached (`fsmount(2)`, `open_tree(2)`), gets its attributes, and is then attached to a descriptor
//! of its target, which [`Root`] resolved inside the container's root. Attributes need `mount_setattr(2)`, Linux 5.12.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use strata_spec::runtime::{Mount, NamespaceKind};

use crate::config::Namespaces;
use crate::error::{Context, Error};
use crate::mount_options::{self, Attributes, Options};
use crate::paths::{self, Root};
use crate::procfs::{PROC_ROOT_INO, PROC_SUPER_MAGIC};
use crate::{cgroup_mount, copy_up, sys};

/// What mounting depends on besides the mount.
pub(crate) struct Surroundings<'a> {
    pub root: &'a Root,
    /// Directory that relative sources start from.
    pub bundle: &'a Path,
    /// SELinux label of file systems.
    pub label: Option<&'a str>,
    /// The container has a user namespace, so some file systems may be refused and are then bound from the host.
    pub user_namespace: bool,
    /// The namespaces that are not the host's.
    pub own: &'a Namespaces,
    /// The container's cgroup.
    pub cgroup: Option<&'a strata_cgroup::Cgroup>,
    pub cgroup_namespace: bool,
}

/// Makes one mount. `tree` is its source, if the parent had to open it. Returns the mount if it has to become
/// read-only only after everything below is made.
pub(crate) fn make(around: &Surroundings<'_>, mount: &Mount, tree: Option<OwnedFd>) -> Result<Option<OwnedFd>, Error> {
    let destination = paths::clean(&mount.destination);
    let options = mount_options::parse(mount).map_err(|message| Error::invalid("mounts", message))?;
    let kind = mount.kind.as_deref().unwrap_or_default();
    refuse_below_proc(&destination, kind, &options)?;
    if options.remount {
        return remount(around.root, &destination, &options).map(|()| None);
    }
    if options.bind {
        return bind(around, mount, &destination, &options, tree).map(|()| None);
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return cgroup_mount::make(around, &destination, &options).map(|()| None);
    }
    file_system(around, mount, kind, &destination, options)
}

/// Nothing but procfs is mounted on `/proc`, and nothing below it but a few files that tell of resources: a mount there
/// could disguise what the runtime and security modules rely on.
fn refuse_below_proc(destination: &Path, kind: &str, options: &Options) -> Result<(), Error> {
    const ALLOWED: [&str; 11] = [
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/crypto/fips_enabled",
        "sys/kernel/ns_last_pid",
        "uptime",
    ];
    let Ok(below) = destination.strip_prefix("/proc") else { return Ok(()) };
    let refuse = |message: &str| Err(Error::invalid(format!("mounts: {}", destination.display()), message));
    if below.as_os_str().is_empty() {
        if kind == "proc" || options.bind || options.remount {
            return Ok(());
        }
        return refuse("only a file system of type proc, or a bind of one, can be mounted on /proc");
    }
    if ALLOWED.iter().any(|a| below == Path::new(a)) || options.remount {
        return Ok(());
    }
    refuse("it is inside /proc, where only a few files of statistics may be replaced")
}

/// The same for where a destination really led, whatever links were on the way.
fn refuse_proc_target(target: BorrowedFd<'_>, destination: &Path) -> Result<(), Error> {
    let stat = rustix::fs::fstatfs(target).on_path("examine", destination)?;
    if stat.f_type as u64 != PROC_SUPER_MAGIC || destination.starts_with("/proc") {
        return Ok(());
    }
    Err(Error::invalid(format!("mounts: {}", destination.display()), "it leads into /proc through a symbolic link"))
}

/// A detached copy of what is mounted at a path of this mount namespace.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(CWD, path, clone_flags(recursive))?)
}

/// A detached copy of the mount that a descriptor leads to, from the descriptor's directory or file down.
pub(crate) fn clone_tree_of(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(fd, c"", clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)?)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let base = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { base | OpenTreeFlags::AT_RECURSIVE } else { base }
}

/// Attaches a detached mount.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// Changes a mount's attributes, and if `recursive` those of all below.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, change: Attributes) -> io::Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    let attr = libc::mount_attr { attr_set: change.set, attr_clr: change.clear, propagation: 0, userns_fd: 0 };
    sys::mount_setattr(mount, recursive, &attr)
}

/// Shows the ids of a detached mount as the user namespace maps them.
pub(crate) fn set_id_map(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    sys::mount_setattr(mount, recursive, &attr)
}

/// Changes a mount's propagation.
pub(crate) fn set_propagation(mount: BorrowedFd<'_>, flags: MountPropagationFlags) -> io::Result<()> {
    let recursive = flags.contains(MountPropagationFlags::REC);
    let kind = (flags - MountPropagationFlags::REC).bits();
    sys::mount_setattr(
        mount,
        recursive,
        &libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: u64::from(kind), userns_fd: 0 },
    )
}

fn bind(
    around: &Surroundings<'_>,
    mount: &Mount,
    destination: &Path,
    options: &Options,
    tree: Option<OwnedFd>,
) -> Result<(), Error> {
    let source = around.bundle.join(mount.source.as_deref().unwrap_or(Path::new("")));
    let tree = match tree {
        Some(tree) => {
            // The runtime has opened it on the host, where mounts below it would appear as well.
            let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            set_propagation(tree.as_fd(), downstream).on_path("cut off from the host", &source)?;
            tree
        }
        None => clone_tree(&source, options.recursive_bind).on_path("bind", &source)?,
    };
    let target = if paths::is_dir(&tree).on_path("examine", &source)? {
        around.root.make_dir_all(destination, 0o755)
    } else {
        around.root.make_file(destination)
    }
    .on_path("make the mount point", destination)?;
    refuse_proc_target(target.as_fd(), destination)?;
    if destination == Path::new("/proc") {
        let kind = rustix::fs::fstatfs(&tree).on_path("examine", &source)?.f_type as u64;
        let inode = rustix::fs::fstat(&tree).on_path("examine", &source)?.st_ino;
        if kind != PROC_SUPER_MAGIC || inode != PROC_ROOT_INO {
            let message = format!("the source {} is not the root of a procfs", source.display());
            return Err(Error::invalid("mounts: /proc", message));
        }
    }
    finish(tree.as_fd(), target.as_fd(), options)
        .context(|| format!("bind {} to {} with options {:?}", source.display(), destination.display(), mount.options))
}

/// Attributes, attachment and propagation of a detached mount.
pub(crate) fn finish(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    set_attributes(mount, true, options.recursive)?;
    set_attributes(mount, false, options.attributes)?;
    attach(mount, target)?;
    options.propagation.iter().try_for_each(|flags| set_propagation(mount, *flags))
}

fn remount(root: &Root, destination: &Path, options: &Options) -> Result<(), Error> {
    let change = || -> io::Result<()> {
        let target = root.resolve(destination)?;
        set_attributes(target.as_fd(), true, options.recursive)?;
        set_attributes(target.as_fd(), false, options.attributes)?;
        if !options.bind && (!options.data.is_empty() || !options.instance.is_empty()) {
            let context = rustix::mount::fspick(
                &target,
                c"",
                rustix::mount::FsPickFlags::FSPICK_EMPTY_PATH | rustix::mount::FsPickFlags::FSPICK_CLOEXEC,
            )?;
            configure(&context, options)?;
            rustix::mount::fsconfig_reconfigure(&context)?;
        }
        options.propagation.iter().try_for_each(|flags| set_propagation(target.as_fd(), *flags))
    };
    change().on_path("remount", destination)
}

fn configure(context: &OwnedFd, options: &Options) -> io::Result<()> {
    for flag in &options.instance {
        rustix::mount::fsconfig_set_flag(context, *flag)?;
    }
    for (key, value) in &options.data {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context, key.as_str(), value.as_str())?,
            None => rustix::mount::fsconfig_set_flag(context, key.as_str())?,
        }
    }
    Ok(())
}

/// A new, detached mount of a file system.
pub(crate) fn new_file_system(kind: &str, source: &Path, options: &Options) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let made = (|| {
        if !source.as_os_str().is_empty() {
            rustix::mount::fsconfig_set_string(&context, c"source", source)?;
        }
        // Instances of these are shared with the host's, whose state is not ours to change.
        let shared = matches!(kind, "proc" | "sysfs" | "mqueue" | "cgroup2" | "cgroup");
        if options.attributes.set & libc::MOUNT_ATTR_RDONLY != 0 && !shared && kind != "tmpfs" {
            rustix::mount::fsconfig_set_flag(&context, c"ro")?;
        }
        configure(&context, options)?;
        Ok(rustix::mount::fsconfig_create(&context)?)
    })();
    if let Err(e) = made {
        return Err(explain(&context, e));
    }
    let attributes = MountAttrFlags::from_bits_retain(options.attributes.set as u32);
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The kernel says in the context's log what it does not like about a file system's options.
fn explain(context: &OwnedFd, e: io::Error) -> io::Error {
    let mut log = [0u8; 512];
    match rustix::io::read(context, &mut log) {
        Ok(n) if n > 2 => {
            let text = String::from_utf8_lossy(&log[2..n]).trim().to_owned();
            // The number is what callers decide by.
            match e.raw_os_error() {
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EBUSY) | None => e,
                Some(_) => io::Error::new(e.kind(), format!("{text}: {e}")),
            }
        }
        _ => e,
    }
}

fn file_system(
    around: &Surroundings<'_>,
    mount: &Mount,
    kind: &str,
    destination: &Path,
    mut options: Options,
) -> Result<Option<OwnedFd>, Error> {
    let source = mount.source.clone().unwrap_or_else(|| PathBuf::from(kind));
    let special = matches!(kind, "proc" | "sysfs");
    let target = if special {
        real_directory(around.root, destination)?
    } else {
        around.root.make_dir_all(destination, 0o755).on_path("make the mount point", destination)?
    };
    refuse_proc_target(target.as_fd(), destination)?;
    if let Some(label) = around.label.filter(|l| !l.is_empty() && !special && kind != "mqueue") {
        options.data.push(("context".into(), Some(label.to_owned())));
    }
    let tmpfs = kind == "tmpfs";
    if tmpfs && !options.data.iter().any(|(k, _)| k == "mode") {
        let mode = rustix::fs::fstat(&target).on_path("examine", destination)?.st_mode & 0o7777;
        options.data.push(("mode".into(), Some(format!("{mode:o}"))));
    }
    // Mount points and device nodes are still to be made in there.
    let late = options.attributes.set & libc::MOUNT_ATTR_RDONLY != 0 && (tmpfs || destination == Path::new("/dev"));
    if late {
        options.attributes.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    let failed = |e: io::Error| {
        let what = format!("mount {kind} on {} with options {:?}", destination.display(), mount.options);
        Error::system(what, e)
    };
    let fd = match new_file_system(kind, &source, &options) {
        Err(e) if around.user_namespace => in_user_namespace(around, kind, &source, &mut options, e).map_err(failed)?,
        other => other.map_err(failed)?,
    };
    if options.copy_up {
        copy_up::copy(around.root, destination, fd.as_fd()).on_path("copy what was in", destination)?;
    }
    // `fsmount` has set those it knows; what is recursive or cleared makes no difference on a new mount.
    attach(fd.as_fd(), target.as_fd()).map_err(failed)?;
    for flags in &options.propagation {
        set_propagation(fd.as_fd(), *flags).map_err(failed)?;
    }
    Ok(late.then_some(fd))
}

/// A mount point that is a directory of the root itself: procfs and sysfs behind a symbolic link of the image would be
/// elsewhere than everybody thinks (CVE-2019-19921).
fn real_directory(root: &Root, destination: &Path) -> Result<OwnedFd, Error> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let open = || {
        rustix::fs::openat2(
            root.as_fd(),
            destination,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    };
    match open() {
        Err(Errno::NOENT) => {
            root.make_dir_all(destination, 0o755).on_path("make the mount point", destination)?;
            open().on_path("open the mount point", destination)
        }
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let message = "it must be an ordinary directory of the root file system, not a symbolic link";
            Err(Error::invalid(format!("mounts: {}", destination.display()), message))
        }
        other => other.on_path("open the mount point", destination),
    }
}

/// What a user namespace is not allowed to mount anew it may still see as the host has it, provided that it shares what
/// the file system shows with the host; and a group that is not mapped cannot own terminals.
fn in_user_namespace(
    around: &Surroundings<'_>,
    kind: &str,
    source: &Path,
    options: &mut Options,
    e: io::Error,
) -> io::Result<OwnedFd> {
    let (host, shows, what) = match (kind, e.raw_os_error()) {
        ("devpts", _) if options.data.iter().any(|(k, _)| k == "gid") => {
            options.data.retain(|(k, _)| k != "gid");
            return new_file_system(kind, source, options);
        }
        ("proc", Some(libc::EPERM)) => ("/proc", NamespaceKind::Pid, "processes"),
        ("sysfs", Some(libc::EPERM)) => ("/sys", NamespaceKind::Network, "network"),
        ("mqueue", Some(libc::EPERM)) => ("/dev/mqueue", NamespaceKind::Ipc, "message queues"),
        _ => return Err(e),
    };
    if around.own.has(shows) {
        let shows = format!("{shows:?}").to_lowercase();
        let message = format!(
            "{e}: the kernel refuses it to a user namespace that does not own its {shows} namespace, or where {host} \
             outside is partly covered (start an outer container with {host} unmasked); the host's would show its {what}"
        );
        return Err(io::Error::new(e.kind(), message));
    }
    let tree = clone_tree(Path::new(host), true)?;
    set_attributes(tree.as_fd(), false, options.attributes)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_not_disguised() {
        let options = Options::default();
        let check = |path: &str, kind: &str| refuse_below_proc(Path::new(path), kind, &options).is_ok();
        assert!(check("/proc", "proc") && check("/proc/meminfo", "bind") && check("/process", "tmpfs"));
        assert!(!check("/proc", "tmpfs") && !check("/proc/self/attr", "tmpfs") && !check("/proc/sys", "proc"));
    }
}
