//! The `cgroup` mount of a container: version 2 is one file system; version 1 is a tmpfs with a directory for each
//! hierarchy, showing the container's own cgroup as the root, and a link for each controller that shares one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error};
use crate::mount_options::{Attributes, Options};
use crate::mounts::{self, Surroundings};

/// Mounts the cgroup view. The options' attributes apply to every part of it.
pub(crate) fn make(around: &Surroundings<'_>, destination: &Path, options: &Options) -> Result<(), Error> {
    let target = around.root.make_dir_all(destination, 0o755).on_path("make the mount point", destination)?;
    // The attributes are all that makes sense of the options; version 1's controller names are the host's business.
    let plain =
        Options { attributes: options.attributes, propagation: options.propagation.clone(), ..Options::default() };
    let views = around.cgroup.map(strata_cgroup::Cgroup::mounts_view).unwrap_or_default();
    let made = match views.as_slice() {
        // Without a cgroup of its own (rootless) the container may look at the host's.
        [] => bind(Path::new("/sys/fs/cgroup"), true, target.as_fd(), &plain),
        [only] if only.v2 && only.name.is_empty() => unified(around, &only.source, target.as_fd(), &plain),
        several => hierarchies(several, target.as_fd(), &plain),
    };
    made.on_path("mount the cgroups on", destination)
}

fn unified(around: &Surroundings<'_>, own: &Path, target: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    if !around.cgroup_namespace {
        return bind(own, false, target, options);
    }
    match mounts::new_file_system("cgroup2", Path::new("cgroup"), options) {
        Ok(mount) => {
            mounts::attach(mount.as_fd(), target)?;
            options.propagation.iter().try_for_each(|flags| mounts::set_propagation(mount.as_fd(), *flags))
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EBUSY)) => bind(own, false, target, options),
        Err(e) => Err(e),
    }
}

fn bind(source: &Path, recursive: bool, target: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    mounts::finish(mounts::clone_tree(source, recursive)?.as_fd(), target, options)
}

fn hierarchies(views: &[strata_cgroup::MountView], target: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    let attributes = Attributes { set: options.attributes.set & !READ_ONLY, ..options.attributes };
    let data = vec![("mode".to_owned(), Some("755".to_owned()))];
    let top = Options { attributes, data, propagation: options.propagation.clone(), ..Options::default() };
    let tmpfs = mounts::new_file_system("tmpfs", Path::new("tmpfs"), &top)?;
    mounts::attach(tmpfs.as_fd(), target)?;
    for view in views {
        rustix::fs::mkdirat(&tmpfs, &view.name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&tmpfs, &view.name, flags, Mode::empty())?;
        bind(&view.source, false, directory.as_fd(), options)?;
        for name in view.name.split(',').filter(|n| *n != view.name) {
            match rustix::fs::symlinkat(&view.name, &tmpfs, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    let read_only = Attributes { set: options.attributes.set & READ_ONLY, clear: 0 };
    mounts::set_attributes(tmpfs.as_fd(), false, read_only)?;
    options.propagation.iter().try_for_each(|flags| mounts::set_propagation(tmpfs.as_fd(), *flags))
}
