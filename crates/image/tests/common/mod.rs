//! Hand-made layers and archives, and descriptions of trees.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panic and says what it skips")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use strata_image::{
    Digest,
    layer::{
        archive::{Entry, Kind},
        pack::Writer,
    },
};

pub fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Notes a test that cannot run here.
pub fn skip(name: &str, reason: &str) {
    eprintln!("skipped {name}: {reason}");
    if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{name}: {reason}").unwrap();
    }
}

#[track_caller]
pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory that is unmounted and removed at the end, also of a test that fails.
pub struct Temp(tempfile::TempDir);

impl Temp {
    pub fn new() -> Temp {
        Temp(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(self.0.path()));
        let mounts: Vec<&str> = text.lines().filter(below).collect();
        for line in mounts.iter().rev() {
            let at = line.split(' ').nth(4).unwrap_or_default();
            // Spaces, commas and the like are octal there; the names here have only a backslash.
            let _ = strata_image::unmount_rootfs(Path::new(&at.replace("\\134", "\\")));
        }
    }
}

/// A tar stream of entries with content.
pub fn layer(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    for (entry, content) in entries {
        let entry = Entry { size: content.len() as u64, ..entry.clone() };
        tar.entry(&entry, *content).unwrap();
    }
    tar.finish().unwrap()
}

pub fn dir(path: &str) -> (Entry, &'static [u8]) {
    (Entry { mtime: (1_000_000, 5), ..Entry::new(path, Kind::Directory, 0o755) }, b"")
}

pub fn file<'a>(path: &str, content: &'a str) -> (Entry, &'a [u8]) {
    (Entry { mtime: (2_000_000, 123_456_789), ..Entry::new(path, Kind::File, 0o644) }, content.as_bytes())
}

pub fn link(path: &str, to: &str, kind: Kind) -> (Entry, &'static [u8]) {
    (Entry { link: to.into(), mtime: (3, 0), ..Entry::new(path, kind, 0o777) }, b"")
}

pub fn base_layer() -> Vec<u8> {
    let owned = |(entry, content): (Entry, &'static [u8])| (Entry { uid: 3_000_000, gid: 70_000, ..entry }, content);
    layer(&[
        dir("./"),
        dir("etc/"),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/:/bin/sh\n"),
        file("etc/group", "root:x:0:\nwww:x:34:\nextra:x:50:www,other\n"),
        dir("bin/"),
        (Entry { mode: 0o4755, ..file("bin/tool", "#!tool").0 }, b"#!tool"),
        link("bin/again", "bin/tool", Kind::HardLink),
        link("sbin", "bin", Kind::Symlink),
        dir("lower/"),
        dir("lower/sub/"),
        file("lower/sub/one", "1"),
        file("lower/gone", "x"),
        (Entry { mode: 0o1777, ..dir("tmp/").0 }, b""),
        owned(file("tmp/owned", "o")),
        (Entry::new("pipe", Kind::Fifo, 0o600), b""),
        dir("opaque/"),
        file("opaque/hidden", "h"),
        dir("replaced/"),
        file("replaced/inside", "r"),
    ])
}

pub fn second_layer() -> Vec<u8> {
    layer(&[
        dir("lower/"),
        file("lower/.wh.gone", ""),
        file("lower/sub/two", "2"),
        dir("opaque/"),
        file("opaque/.wh..wh..opq", ""),
        file("opaque/shown", "s"),
        file("replaced", "a file now"),
        link("lower/passwd", "etc/passwd", Kind::HardLink),
    ])
}

/// An archive as `docker save` writes, of uncompressed layers.
pub fn docker_archive(dir: &Path, name: &str, layers: &[Vec<u8>]) -> PathBuf {
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    docker_archive_with(dir, name, layers, &ids)
}

/// The same with these diff ids, which may be wrong.
pub fn docker_archive_with(dir: &Path, name: &str, layers: &[Vec<u8>], ids: &[String]) -> PathBuf {
    let architecture = strata_image::Platform::host().architecture;
    let config =
        json!({ "architecture": architecture, "os": "linux", "config": { "Env": ["A=b"], "Cmd": ["/bin/tool"] },
        "rootfs": { "type": "layers", "diff_ids": ids } })
        .to_string();
    let members: Vec<String> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": members }]).to_string();
    let mut entries = vec![file("manifest.json", &manifest), file("config.json", &config)];
    for (member, bytes) in members.iter().zip(layers) {
        entries.push((Entry::new(&member[..], Kind::File, 0o644), bytes));
    }
    let path = dir.join("archive.tar");
    fs::write(&path, layer(&entries)).unwrap();
    path
}

/// Everything an image keeps of a tree, by path.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let (mut found, mut links) = (BTreeMap::new(), BTreeMap::new());
    let mut left = vec![root.to_owned()];
    let mut all = Vec::new();
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push(path);
    }
    all.sort();
    for path in all {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let content = if meta.is_file() {
            let first = links.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
            format!("{} {first}", Digest::of(&fs::read(&path).unwrap()).short())
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else {
            format!("{:x}", meta.rdev())
        };
        let mut xattrs = String::new();
        let mut buffer = vec![0; 4096];
        if let Ok(length) = rustix::fs::llistxattr(&path, &mut buffer[..]) {
            for name in buffer[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
                let name = String::from_utf8_lossy(name).into_owned();
                let mut value = vec![0; 4096];
                let length = rustix::fs::lgetxattr(&path, &name, &mut value[..]).unwrap();
                xattrs += &format!(" {name}={}", value[..length].escape_ascii());
            }
        }
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        // A whiteout was made when it was unpacked.
        let whiteout = mode & 0o170_000 == 0o020_000 && meta.rdev() == 0;
        let time = if whiteout { String::new() } else { format!("{}.{}", meta.mtime(), meta.mtime_nsec()) };
        found.insert(name, format!("{mode:o} {uid}:{gid} {time} {content}{xattrs}"));
    }
    found
}

pub fn differences(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    keys.into_iter()
        .filter(|key| one.get(*key) != other.get(*key))
        .map(|key| format!("{key}: {:?} / {:?}", one.get(key), other.get(key)))
        .collect()
}
