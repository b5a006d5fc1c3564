//! Root file systems of instances: shared read-only layers below, a writable top of the instance's own.
//!
//! Overlayfs stacks them (kernel documentation, `filesystems/overlayfs.rst`). The mount is made with the calls that take
//! one layer at a time (`fsconfig` with `lowerdir+`, Linux 6.8), so neither the number of layers nor the length of
//! paths is bound by a page of options; older kernels are given one list. Where overlayfs is not to be had the layers are copied, which the caller
//! learns by a notice.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{FlockOperation, Gid, Mode, OFlags, Uid, flock, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    Digest, Error, Image, Progress, Store,
    gc::remove_path,
    layer::{
        apply::{self, ApplyError, Marks},
        archive::ArchiveError,
        decode,
        merge::{DIRECTORY, copy_merged, copy_xattrs, times},
    },
    store::{Layer, Use, read_json, to_json},
};

/// Overlayfs takes at most this many lower layers (`OVL_MAX_STACK`).
const OVERLAY_LAYERS_MAX: usize = 500;

/// A root file system that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    path: PathBuf,
    notice: Option<String>,
}

impl Rootfs {
    /// The directory to use as root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the user should know: that the layers were copied, and why.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
}

/// What is known of an unpacked layer.
#[derive(Debug, Serialize, Deserialize)]
struct LayerFile {
    /// Removals are marked by `user.overlay` attributes.
    userxattr: bool,
    /// The layer hides all that is below it.
    opaque: bool,
    /// The boot in which it was written. Its files are not synced: that would make every first run wait for the disk,
    /// and the blob, which is, has all of them. After another boot the layer may have lost some to a power failure
    /// and is unpacked again.
    boot: String,
}

/// A stack of layer directories, the uppermost first.
struct Stack {
    dirs: Vec<PathBuf>,
    marks: Marks,
}

impl Store {
    /// Where the layer is unpacked, if it is.
    pub(crate) fn unpacked(&self, chain: &Digest) -> Option<PathBuf> {
        let dir = self.path("layers").join(chain.hex());
        let file = read_json::<LayerFile>(&dir.join("layer.json"), "layer").ok().flatten()?;
        (!file.boot.is_empty() && file.boot == boot_id()).then(|| dir.join("fs"))
    }

    /// Unpacks the layers that are not yet unpacked. Returns their directories, the lowest first.
    pub fn unpack(&self, image: &Image, progress: &dyn Progress) -> Result<Vec<PathBuf>, Error> {
        let _lock = self.lock_shared()?;
        self.unpack_layers(image, progress)
    }

    fn unpack_layers(&self, image: &Image, progress: &dyn Progress) -> Result<Vec<PathBuf>, Error> {
        self.unpack_as_they_come(image, progress, |_| Ok::<(), Error>(()))
    }

    /// Unpacks the layers from the lowest up; before each that is not yet unpacked, `arrived` waits until its blob is in
    /// the store.
    pub(crate) fn unpack_as_they_come<E: From<Error>>(
        &self,
        image: &Image,
        progress: &dyn Progress,
        mut arrived: impl FnMut(&Layer) -> Result<(), E>,
    ) -> Result<Vec<PathBuf>, E> {
        let layers = image.layers()?;
        let mut dirs: Vec<PathBuf> = Vec::with_capacity(layers.len());
        for layer in &layers {
            let dir = match self.unpacked(&layer.chain_id) {
                Some(dir) => dir,
                None => {
                    arrived(layer)?;
                    self.unpack_layer(layer, &dirs, progress)?
                }
            };
            dirs.push(dir);
        }
        Ok(dirs)
    }

    /// Unpacks one layer over `below` (the lowest first), unless another process was faster.
    fn unpack_layer(&self, layer: &Layer, below: &[PathBuf], progress: &dyn Progress) -> Result<PathBuf, Error> {
        let dir = self.path("layers").join(layer.chain_id.hex());
        let lock_path = dir.with_extension("lock");
        let lock = File::create(&lock_path).map_err(Error::io("cannot make", &lock_path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(Error::io("cannot lock", &lock_path))?;
        if let Some(ready) = self.unpacked(&layer.chain_id) {
            return Ok(ready);
        }
        let temporary = self.temporary();
        let result = self.unpack_into(layer, below, &temporary, progress).and_then(|()| {
            // What lies there is from before a power failure.
            remove_path(&dir)?;
            fs::rename(&temporary, &dir).map_err(Error::io("cannot place", &dir))
        });
        if let Err(error) = result {
            let _ = remove_path(&temporary);
            return Err(error);
        }
        Ok(dir.join("fs"))
    }

    fn unpack_into(&self, layer: &Layer, below: &[PathBuf], dir: &Path, progress: &dyn Progress) -> Result<(), Error> {
        let root = dir.join("fs");
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(Error::io("cannot make", &root))?;
        let root_fd = open_dir(&root)?;
        let marks = match below.first() {
            // One stack is mounted with one kind of marks.
            Some(lowest) => self.marks_of(lowest)?,
            None => probe_marks(&root_fd),
        };
        let lowers = self.visible(below)?.iter().map(|dir| open_dir(dir)).collect::<Result<Vec<_>, _>>()?;
        let blob = self.open_blob(&layer.digest)?;
        let item = layer.digest.short();
        let target = root_fd.try_clone().map_err(Error::io("cannot open", &root))?;
        let limits = self.limits();
        let (_, found) = decode::pipeline(blob, limits, &item, progress, |pieces| {
            apply::apply(pieces, target, lowers, marks, limits)
        })
        .map_err(|error| layer_error(&layer.digest, &root, error))?;
        if found != layer.diff_id {
            let (expected, found) = (layer.diff_id.to_string(), found.to_string());
            return Err(Error::DigestMismatch { what: "layer (diff id)", expected, found });
        }
        let mut value = [0; 1];
        let opaque = rustix::fs::fgetxattr(&root_fd, marks.attribute("opaque"), &mut value).is_ok();
        let file = LayerFile { userxattr: marks == Marks::User, opaque, boot: boot_id().to_owned() };
        let path = dir.join("layer.json");
        fs::write(&path, to_json(&file)?).map_err(Error::io("cannot write", &path))
    }

    fn layer_file(&self, fs_dir: &Path) -> Result<LayerFile, Error> {
        let path = fs_dir.with_file_name("layer.json");
        read_json(&path, "layer")?.ok_or_else(|| Error::Unsupported(format!("{} is missing", path.display())))
    }

    fn marks_of(&self, fs_dir: &Path) -> Result<Marks, Error> {
        Ok(if self.layer_file(fs_dir)?.userxattr { Marks::User } else { Marks::Trusted })
    }

    /// The layers of a stack (the lowest first) that show, the uppermost first.
    fn visible(&self, dirs: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
        let mut shown = Vec::with_capacity(dirs.len());
        for dir in dirs.iter().rev() {
            shown.push(dir.clone());
            if self.layer_file(dir)?.opaque {
                break;
            }
        }
        Ok(shown)
    }

    /// The layers as overlayfs takes them; an image without layers gets an empty one.
    fn stack(&self, image: &Image, progress: &dyn Progress) -> Result<Stack, Error> {
        let dirs = self.unpack_layers(image, progress)?;
        match dirs.first() {
            Some(lowest) => Ok(Stack { marks: self.marks_of(lowest)?, dirs: self.visible(&dirs)? }),
            None => {
                let empty = self.path("layers").join("empty");
                DirBuilder::new().recursive(true).create(&empty).map_err(Error::io("cannot make", &empty))?;
                Ok(Stack { marks: Marks::User, dirs: vec![empty] })
            }
        }
    }

    /// Makes the image the root file system of the instance `id` at `dir/rootfs`, writes going to `dir/upper`, and notes the
    /// use, so that the layers stay. Unpacks what is not yet unpacked. Mounts in the caller's mount namespace.
    pub fn prepare_rootfs(&self, image: &Image, dir: &Path, id: &str) -> Result<Rootfs, Error> {
        let dir = &std::path::absolute(dir).map_err(Error::io("find", dir))?;
        let _lock = self.lock_shared()?;
        let claim = Use {
            dir: dir.clone(),
            manifest: image.manifest_digest,
            layers: image.layers()?.iter().map(|layer| layer.chain_id).collect(),
        };
        let stack = self.stack(image, &())?;
        let use_path = self.use_path(id)?;
        self.write_file(&use_path, &to_json(&claim)?, false)?;
        self.prepare(&stack, dir).inspect_err(|_| {
            let _ = remove_rootfs(dir);
            let _ = fs::remove_file(&use_path);
        })
    }

    fn prepare(&self, stack: &Stack, dir: &Path) -> Result<Rootfs, Error> {
        let path = dir.join("rootfs");
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        // A tree that was copied before is the instance's own: its changes stay.
        if !upper.exists() && path.exists() && fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            return Ok(Rootfs { path, notice: None });
        }
        for made in [&path, &work] {
            DirBuilder::new().recursive(true).create(made).map_err(Error::io("cannot make", made))?;
        }
        if !upper.exists() {
            DirBuilder::new().create(&upper).map_err(Error::io("cannot make", &upper))?;
            // The merged root shows the attributes of the upper directory.
            like(&stack.dirs[0], &upper)?;
        }
        let reason = if stack.dirs.len() > OVERLAY_LAYERS_MAX {
            format!("the image has {} layers, overlayfs stacks {OVERLAY_LAYERS_MAX}", stack.dirs.len())
        } else {
            match overlay(stack, Some((&upper, &work)), &path) {
                Ok(()) => return Ok(Rootfs { path, notice: None }),
                // Not allowed, not known, or not over this file system.
                Err(
                    error @ (Errno::PERM
                    | Errno::ACCESS
                    | Errno::NODEV
                    | Errno::INVAL
                    | Errno::NOSYS
                    | Errno::OPNOTSUPP),
                ) => {
                    format!("overlayfs cannot be mounted here ({error})")
                }
                Err(error) => {
                    return Err(Error::Mount { action: "mount the layers at", path, source: error.into() });
                }
            }
        };
        remove_path(&upper)?;
        remove_path(&work)?;
        // Renamed when complete: a tree that is there is taken for the instance's own.
        let copy = dir.join("rootfs.new");
        remove_path(&copy)?;
        DirBuilder::new().create(&copy).map_err(Error::io("cannot make", &copy))?;
        copy_stack(stack, &copy)?;
        fs::rename(&copy, &path).map_err(Error::io("cannot place", &path))?;
        let notice = format!("{reason}; the layers were copied, which takes time and space for every instance");
        Ok(Rootfs { path, notice: Some(notice) })
    }

    /// Undoes [`Store::prepare_rootfs`]: unmounts, removes what the instance wrote, ends the use. Doing it twice is fine.
    pub fn release_rootfs(&self, dir: &Path, id: &str) -> Result<(), Error> {
        remove_rootfs(dir)?;
        let path = self.use_path(id)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("cannot remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Mounts the image read-only at the directory `at` (made if missing), for looking into it. [`unmount_rootfs`] undoes
    /// it. The layers must not be collected meanwhile: the caller keeps a name of the image.
    pub fn mount_read_only(&self, image: &Image, at: &Path, progress: &dyn Progress) -> Result<(), Error> {
        let _lock = self.lock_shared()?;
        let mut stack = self.stack(image, progress)?;
        DirBuilder::new().recursive(true).create(at).map_err(Error::io("cannot make", at))?;
        if stack.dirs.len() == 1 {
            // Without an upper layer overlayfs wants two lower ones.
            let empty = self.path("layers").join("empty");
            DirBuilder::new().recursive(true).create(&empty).map_err(Error::io("cannot make", &empty))?;
            stack.dirs.push(empty);
        }
        overlay(&stack, None, at).map_err(|error| Error::Mount {
            action: "mount the layers at",
            path: at.to_owned(),
            source: error.into(),
        })
    }

    /// Writes the whole file system of the image as a plain tree to `to`, which must be missing or empty.
    pub fn unpack_to(&self, image: &Image, to: &Path, progress: &dyn Progress) -> Result<(), Error> {
        let _lock = self.lock_shared()?;
        let stack = self.stack(image, progress)?;
        DirBuilder::new().recursive(true).create(to).map_err(Error::io("cannot make", to))?;
        if fs::read_dir(to).map_err(Error::io("cannot read", to))?.next().is_some() {
            return Err(Error::Unsupported(format!("{} is not empty", to.display())));
        }
        copy_stack(&stack, to)
    }
}

/// Unmounts what is mounted at `at`. Nothing mounted, or nothing there, is fine.
pub fn unmount_rootfs(at: &Path) -> Result<(), Error> {
    match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(()),
        // Without the right to unmount there can be no mount of ours.
        Err(Errno::PERM) => Ok(()),
        Err(error) => Err(Error::Mount { action: "unmount", path: at.to_owned(), source: error.into() }),
    }
}

fn remove_rootfs(dir: &Path) -> Result<(), Error> {
    unmount_rootfs(&dir.join("rootfs"))?;
    for name in ["rootfs", "rootfs.new", "upper", "work"] {
        remove_path(&dir.join(name))?;
    }
    Ok(())
}

fn copy_stack(stack: &Stack, to: &Path) -> Result<(), Error> {
    let layers = stack.dirs.iter().map(|dir| open_dir(dir)).collect::<Result<Vec<_>, _>>()?;
    copy_merged(&layers, stack.marks, &open_dir(to)?).map_err(Error::io("cannot copy the layers to", to))
}

fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    openat(rustix::fs::CWD, path, DIRECTORY, Mode::empty()).map_err(Error::io("cannot open", path))
}

/// Gives `to` owner, mode, attributes and times of `from`.
fn like(from: &Path, to: &Path) -> Result<(), Error> {
    let (source, target) = (open_dir(from)?, open_dir(to)?);
    let copy = || -> io::Result<()> {
        let stat = rustix::fs::fstat(&source)?;
        match rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))) {
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
            result => result?,
        }
        rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        copy_xattrs(&source, &target)?;
        Ok(rustix::fs::futimens(&target, &times(&stat))?)
    };
    copy().map_err(Error::io("cannot set the attributes of", to))
}

/// Which marks this process may set and the file system keeps.
fn probe_marks(dir: &OwnedFd) -> Marks {
    let name = Marks::Trusted.attribute("strata");
    match rustix::fs::fsetxattr(dir, &name, b"y", rustix::fs::XattrFlags::empty()) {
        Ok(()) => {
            let _ = rustix::fs::fremovexattr(dir, &name);
            Marks::Trusted
        }
        Err(_) => Marks::User,
    }
}

/// Mounts the layers at `at`. Paths are passed by descriptor, `/proc/self/fd/N`, where `fsconfig`, which takes 255 bytes
/// of a path, would not take them.
fn overlay(stack: &Stack, writable: Option<(&Path, &Path)>, at: &Path) -> rustix::io::Result<()> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Up to Linux 6.4 overlayfs has the old interface behind the new calls: it takes any option, then refuses the mount.
    if fsconfig_set_flag(&fs, "strata").is_ok() {
        return overlay_by_list(stack, writable, at);
    }
    fsconfig_set_string(&fs, "source", "strata")?;
    let mut open = Vec::new();
    let mut set = |key: &str, path: &Path| -> rustix::io::Result<()> {
        let fd = open_path(path)?;
        let plain = path.as_os_str().len() < 200;
        let by_fd = path_of(&fd);
        open.push(fd);
        fsconfig_set_string(&fs, key, if plain { path } else { Path::new(&by_fd) })
    };
    for (index, dir) in stack.dirs.iter().enumerate() {
        match set("lowerdir+", dir) {
            // Linux before 6.8.
            Err(Errno::INVAL) if index == 0 => return overlay_by_list(stack, writable, at),
            result => result?,
        }
    }
    if let Some((upper, work)) = writable {
        set("upperdir", upper)?;
        set("workdir", work)?;
    }
    if stack.marks == Marks::User {
        fsconfig_set_flag(&fs, "userxattr")?;
    }
    fsconfig_create(fs.as_fd())?;
    let mount = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&mount, "", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The same with mount(2), for kernels that take the layers as one list. All paths go by descriptor: a page of options
/// then has room for more than 200 layers, and no comma or colon of a path is taken for a separator.
fn overlay_by_list(stack: &Stack, writable: Option<(&Path, &Path)>, at: &Path) -> rustix::io::Result<()> {
    let layers = stack.dirs.iter().map(|dir| open_path(dir)).collect::<rustix::io::Result<Vec<_>>>()?;
    let list: Vec<String> = layers.iter().map(path_of).collect();
    let mut options = format!("lowerdir={}", list.join(":"));
    let mut open = Vec::new();
    if let Some((upper, work)) = writable {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            let fd = open_path(path)?;
            options.push_str(&format!(",{key}={}", path_of(&fd)));
            open.push(fd);
        }
    }
    if stack.marks == Marks::User {
        options.push_str(",userxattr");
    }
    // The kernel reads one page and cuts off the rest without a word.
    if options.len() >= 4096 {
        return Err(Errno::OPNOTSUPP);
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    mount("strata", at, "overlay", MountFlags::empty(), options.as_c_str())
}

/// `O_PATH` is enough for a mount, and gets by with search permission.
fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(rustix::fs::CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn boot_id() -> &'static str {
    // Asked for each layer of each image.
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}

/// Turns a failure to unpack into the store's error, which names the layer.
pub(crate) fn layer_error(digest: &Digest, path: &Path, error: ApplyError) -> Error {
    let layer = digest.to_string();
    match error {
        ApplyError::System { source, .. } | ApplyError::Archive(ArchiveError::Read(source))
            if source.raw_os_error().is_some_and(crate::error::is_full) =>
        {
            Error::DiskFull { what: format!("layer {layer}"), path: path.to_owned() }
        }
        ApplyError::Archive(ArchiveError::Limit { limit, unit }) => {
            Error::Limit { what: format!("layer {layer}"), limit, unit }
        }
        ApplyError::Archive(error) => Error::LayerStream { layer, reason: error.to_string() },
        ApplyError::Entry { entry, reason } => Error::Layer { layer, entry, reason },
        ApplyError::System { entry, action, source } => {
            Error::Layer { layer, entry, reason: format!("cannot {action}: {source}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever way this kernel takes, the list must give the same tree: also with many layers and with names that
    /// hold the separators of options.
    #[test]
    fn a_list_of_layers_is_mounted_like_single_ones() {
        if !rustix::process::geteuid().is_root() {
            let test = "a_list_of_layers_is_mounted_like_single_ones";
            eprintln!("skipped {test}: mounting needs root");
            if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
                use std::io::Write;
                let mut file = File::options().create(true).append(true).open(path).unwrap();
                writeln!(file, "{test}: mounting needs root").unwrap();
            }
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().join("a:b,c");
        let dirs: Vec<PathBuf> = (0..100).map(|n| base.join(format!("layer{n}"))).collect();
        for (n, dir) in dirs.iter().enumerate() {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join(format!("only{n}")), "").unwrap();
            fs::write(dir.join("common"), n.to_string()).unwrap();
        }
        let stack = Stack { marks: Marks::User, dirs };
        let [upper, work, at] = ["upper", "work", "at"].map(|name| base.join(name));
        for dir in [&upper, &work, &at] {
            fs::create_dir(dir).unwrap();
        }
        for by_list in [false, true] {
            let mounted = match by_list {
                true => overlay_by_list(&stack, Some((&upper, &work)), &at),
                false => overlay(&stack, Some((&upper, &work)), &at),
            };
            mounted.unwrap();
            let seen = fs::read_dir(&at).map(|entries| entries.count());
            let top = fs::read_to_string(at.join("common"));
            unmount(&at, UnmountFlags::DETACH).unwrap();
            assert_eq!((seen.unwrap(), top.unwrap().as_str()), (101, "0"), "by list: {by_list}");
        }
        let many = Stack { marks: Marks::User, dirs: vec![base; 300] };
        assert_eq!(overlay_by_list(&many, None, &at), Err(Errno::OPNOTSUPP));
    }
}
