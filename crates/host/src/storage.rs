//! File systems: what the store's own file system allows. Mounts are made in a child's private mount namespace and
//! vanish with it; the directories they need are made beside the store and removed.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::support::Support;
use crate::sys::calls::{self, Answer};
use crate::sys::child::{self, UserNamespaceHolder};

/// The store's file system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    /// Directory of images and instances.
    pub store: PathBuf,
    /// The nearest directory that exists: the store or one above it.
    pub examined: PathBuf,
    /// Name of its file system, such as `ext4`.
    pub file_system: String,
    /// Bytes an unprivileged user may still write.
    pub free: Option<u64>,
    /// Bytes in all.
    pub size: Option<u64>,
    /// File nodes still free; absent where the file system has no fixed number.
    pub free_inodes: Option<u64>,
    /// Overlay mounts with upper and work directory on this file system (privileged).
    pub overlay: Support,
    /// The same inside a user namespace, as an unprivileged user does it.
    pub overlay_in_user_namespace: Support,
    /// Mounts whose ids are shifted (`MOUNT_ATTR_IDMAP`).
    pub idmapped_mounts: Support,
    /// File systems this kernel has now, of those that Strata can use; modules not yet loaded are not listed.
    pub known: Vec<String>,
}

impl Storage {
    /// What files say of the store's file system.
    pub fn read(files: &Files, store: &Path) -> Storage {
        let examined = store.ancestors().find(|p| files.path(p).is_dir()).unwrap_or(Path::new("/")).to_path_buf();
        let filesystems = files.text("/proc/filesystems").unwrap_or_default();
        let used = ["overlay", "tmpfs", "fuse", "erofs", "squashfs", "ext4", "xfs", "btrfs", "virtiofs", "9p"];
        let known = |name: &&str| filesystems.lines().any(|l| l.split_whitespace().last() == Some(name));
        let mountinfo = files.text("/proc/self/mountinfo").unwrap_or_default();
        Storage {
            store: store.to_path_buf(),
            file_system: file_system_of(&mountinfo, &examined).unwrap_or_else(|| "unknown".into()),
            examined,
            free: None,
            size: None,
            free_inodes: None,
            overlay: Support::unknown("not tried"),
            overlay_in_user_namespace: Support::unknown("not tried"),
            idmapped_mounts: Support::unknown("not tried"),
            known: used.iter().filter(|n| known(n)).map(|n| n.to_string()).collect(),
        }
    }

    /// Asks the kernel for space, and tries the mounts.
    pub fn probe(&mut self, files: &Files, uid: u32, gid: u32, timeout: Duration) {
        let directory = files.path(&self.examined);
        if let Ok(stat) = rustix::fs::statvfs(&directory) {
            self.free = Some(stat.f_bavail.saturating_mul(stat.f_frsize));
            self.size = Some(stat.f_blocks.saturating_mul(stat.f_frsize));
            self.free_inodes = (stat.f_files > 0).then_some(stat.f_favail);
        }
        let scratch = match Scratch::make(&directory) {
            Ok(scratch) => scratch,
            Err(error) => {
                let why = format!("{} is not writable ({error}); ask as its owner", directory.display());
                self.overlay = Support::unknown(&why);
                self.overlay_in_user_namespace = Support::unknown(&why);
                self.idmapped_mounts = Support::unknown(&why);
                return;
            }
        };
        self.overlay = if uid == 0 {
            Support::of_child(child::ask(timeout, || overlay(&scratch, None)))
        } else {
            Support::unknown("needs root")
        };
        self.overlay_in_user_namespace = Support::of_child(child::ask(timeout, || overlay(&scratch, Some((uid, gid)))));
        self.idmapped_mounts = if uid == 0 {
            Support::of_child(child::ask(timeout, || idmapped(&scratch.0)))
        } else {
            Support::unknown("needs root")
        };
    }
}

/// The type of the file system that `path` is on: the last mount whose mount point holds it.
fn file_system_of(mountinfo: &str, path: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((Path::new(before.split(' ').nth(4)?), after.split(' ').next()?))
    });
    let holding = mounts.filter(|(point, _)| path.starts_with(point));
    // Later mounts cover earlier ones of the same length; max_by_key keeps the last of equals.
    holding.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind.to_string())
}

/// Directories for a trial, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(directory: &Path) -> std::io::Result<Scratch> {
        let mut attempt = 0;
        let scratch = loop {
            let path = directory.join(format!(".strata-doctor-{}-{attempt}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => break Scratch(path),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
                Err(e) => return Err(e),
            }
        };
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(scratch.0.join(name))?;
        }
        std::fs::write(scratch.0.join("lower/file"), "lower")?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The kernel leaves `work/work` behind with mode 0: root's removal or the owner's rmdir of an empty one works.
        let _ = std::fs::remove_dir_all(&self.0);
        if self.0.exists() {
            let _ = std::fs::remove_dir(self.0.join("work/work"));
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Mounts an overlay in this child's own mount namespace and replaces a file of the lower layer through it. With
/// `ids`, in a user namespace whose root is this user.
fn overlay(scratch: &Scratch, ids: Option<(u32, u32)>) -> Answer {
    let user = if ids.is_some() { libc::CLONE_NEWUSER } else { 0 };
    calls::unshare(user | libc::CLONE_NEWNS)?;
    if let Some((uid, gid)) = ids {
        let write = |file: &str, text: String| std::fs::write(file, text).map_err(number);
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    calls::mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")?;
    let at = |name: &str| scratch.0.join(name).as_os_str().as_bytes().to_vec();
    let mut options = [b"lowerdir=".to_vec(), at("lower"), b",upperdir=".to_vec(), at("upper")].concat();
    options.extend([b",workdir=".to_vec(), at("work")].concat());
    if ids.is_some() {
        options.extend(b",userxattr");
    }
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|_| libc::EINVAL);
    calls::mount(c"overlay", &text(at("merged"))?, c"overlay", 0, &text(options)?)?;
    let file = scratch.0.join("merged/file");
    std::fs::write(&file, "upper").map_err(number)?;
    std::fs::remove_file(&file).map_err(number)?;
    Ok(0)
}

fn idmapped(directory: &Path) -> Answer {
    let holder = UserNamespaceHolder::start().map_err(number)?;
    let process = format!("/proc/{}", holder.pid());
    std::fs::write(format!("{process}/uid_map"), "0 100000 65536").map_err(number)?;
    std::fs::write(format!("{process}/gid_map"), "0 100000 65536").map_err(number)?;
    let namespace = std::fs::File::open(format!("{process}/ns/user")).map_err(number)?;
    calls::unshare(libc::CLONE_NEWNS)?;
    calls::idmapped_copy(directory, std::os::fd::AsRawFd::as_raw_fd(&namespace))
}

fn number(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_decides_the_file_system() {
        let mounts = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:5 / /var rw - xfs /dev/sdb rw\n\
                      22 20 0:6 / /var/lib2 rw - tmpfs tmpfs rw";
        assert_eq!(file_system_of(mounts, Path::new("/var/lib/strata")).as_deref(), Some("xfs"));
        assert_eq!(file_system_of(mounts, Path::new("/srv")).as_deref(), Some("ext4"));
    }

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = Storage::read(&Files::new(Path::new("/")), directory.path());
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        storage.probe(&Files::new(Path::new("/")), uid, gid, Duration::from_secs(5));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{storage:?}");
        assert!(storage.free.is_some());
    }
}
