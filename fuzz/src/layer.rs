//! A layer's archive, plain or compressed, applied over a layer below that is full of links. Nothing outside the
//! layer's own directory may change.
//!
//! The work is done by a thread that has first moved to a root of its own, so that a mistake found here harms nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::LazyLock;

use rustix::fs::{Mode, OFlags};
use strata_image::layer::Limits;
use strata_image::layer::apply::{Marks, apply};
use strata_image::layer::decode::decoder;
use tempfile::TempDir;

const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 2000, ratio: 2000, path: 4096, depth: 256, header: 64 << 10 };

/// `lower`: the layer below. `outside`: what must not change. `layer`: made anew for each input.
static BASE: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let base = tempfile::tempdir_in(place).expect("a scratch directory can be made");
    for name in ["lower/dir/sub", "outside/dir"] {
        fs::create_dir_all(base.path().join(name)).expect("a directory can be made");
    }
    for name in ["lower/file", "lower/dir/file", "outside/file", "outside/dir/file"] {
        fs::write(base.path().join(name), name).expect("a file can be written");
    }
    for (target, name) in [
        ("/outside", "lower/absolute"),
        ("../outside", "lower/up"),
        ("../../../../outside/file", "lower/dir/upfile"),
        ("loop", "lower/loop"),
        ("/proc/self/root/outside", "lower/magic"),
        ("dir", "lower/inside"),
    ] {
        symlink(target, base.path().join(name)).expect("a link can be made");
    }
    base
});

pub fn fuzz_one(data: &[u8]) {
    let base = BASE.path();
    let layer = base.join("layer");
    let _ = fs::remove_dir_all(&layer);
    fs::create_dir(&layer).expect("a directory can be made");
    let before = [snapshot(&base.join("lower")), snapshot(&base.join("outside")), names(base)];
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                // SAFETY: only this thread's root and working directory become its own; no descriptor is touched.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.expect("CLONE_FS works");
                rustix::process::chroot(base).expect("root may change its root");
                rustix::process::chdir("/").expect("the root can be entered");
                unpack(data, Path::new("/"));
            } else {
                unpack(data, base);
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
    let after = [snapshot(&base.join("lower")), snapshot(&base.join("outside")), names(base)];
    assert_eq!(before, after, "something outside of the layer changed");
}

fn unpack(data: &[u8], base: &Path) {
    let open = |name: &str| -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(base.join(name), flags, Mode::empty()).expect("the directory is there")
    };
    let Ok((plain, _)) = decoder(data) else { return };
    let input = std::io::BufReader::new(plain);
    let marks = if rustix::process::geteuid().is_root() { Marks::Trusted } else { Marks::User };
    if let Ok(applied) = apply(input, open("layer"), vec![open("lower")], marks, LIMITS) {
        assert!(applied.entries <= LIMITS.entries && applied.bytes <= LIMITS.bytes, "{applied:?} within {LIMITS:?}");
    }
}

/// Everything about the files below a directory that a layer could change.
fn snapshot(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("the directory can be read").flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("the entry is there"));
        let content = match meta.file_type() {
            t if t.is_dir() => {
                found.extend(snapshot(&path));
                String::new()
            }
            t if t.is_symlink() => fs::read_link(&path).expect("a link can be read").display().to_string(),
            _ => fs::read_to_string(&path).unwrap_or_else(|e| e.to_string()),
        };
        let facts = format!("{:o} {} {} {} {}", meta.mode(), meta.uid(), meta.gid(), meta.mtime_nsec(), meta.nlink());
        found.insert(path.display().to_string(), format!("{facts} {content}"));
    }
    found
}

fn names(directory: &Path) -> BTreeMap<String, String> {
    let list = fs::read_dir(directory).expect("the directory can be read").flatten();
    list.map(|e| (e.path().display().to_string(), String::new())).collect()
}
