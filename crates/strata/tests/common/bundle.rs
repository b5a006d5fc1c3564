//! OCI bundles made on the spot: a root file system of one static busybox and a `config.json` to be varied.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

/// The programs of busybox, in the order it lists them.
fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let busybox = super::which("busybox").expect("busybox is installed");
        let list = Command::new(busybox).arg("--list").output().expect("busybox runs");
        String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox").map(str::to_owned).collect()
    })
}

/// Fills `directory` with a root file system: busybox and its names in `/bin`, the users root and guest (1000).
pub fn fill_rootfs(directory: &Path) {
    for name in ["bin", "dev", "etc", "home/guest", "proc", "root", "sys", "tmp", "var"] {
        fs::create_dir_all(directory.join(name)).expect("a directory of the rootfs can be made");
    }
    fs::set_permissions(directory.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("a mode can be set");
    let busybox = super::which("busybox").expect("busybox is installed");
    fs::copy(busybox, directory.join("bin/busybox")).expect("busybox can be copied");
    for applet in applets() {
        symlink("busybox", directory.join("bin").join(applet)).expect("a link of the rootfs can be made");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n";
    let group = "root:x:0:\nguest:x:1000:\naudio:x:29:guest\n";
    fs::write(directory.join("etc/passwd"), passwd).expect("passwd can be written");
    fs::write(directory.join("etc/group"), group).expect("group can be written");
}

/// An archive of such a root file system, for `podman import` and the like.
pub fn rootfs_archive(scratch: &super::Scratch) -> PathBuf {
    let directory = scratch.dir("image-rootfs");
    fill_rootfs(&directory);
    let archive = scratch.join("rootfs.tar");
    super::run(Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&archive).arg(".")).ok();
    archive
}

/// An image archive as `docker save` writes it (one layer, no compression), named `name`, made by hand: the tests of
/// one peer must not depend on another.
pub fn image_archive(scratch: &super::Scratch, name: &str) -> PathBuf {
    let layer = rootfs_archive(scratch);
    let digest = super::run(Command::new("sha256sum").arg(&layer)).ok().text()[..64].to_owned();
    let directory = scratch.dir("image");
    fs::rename(layer, directory.join("layer.tar")).expect("the layer can be moved");
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["sh"], "Env": ["PATH=/usr/bin:/bin", "FROM=image"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] }
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    fs::write(directory.join("config.json"), config.to_string()).expect("the image's configuration can be written");
    fs::write(directory.join("manifest.json"), manifest.to_string()).expect("the image's manifest can be written");
    let archive = scratch.join("image.tar");
    let files = ["manifest.json", "config.json", "layer.tar"];
    super::run(Command::new("tar").arg("-C").arg(&directory).arg("-cf").arg(&archive).args(files)).ok();
    archive
}

pub struct Bundle {
    directory: PathBuf,
    pub config: Value,
}

impl Bundle {
    /// The shape of `runc spec`'s configuration, without a terminal, the root writable, the program `sleep 1000`.
    pub fn create(directory: &Path, cgroup: &str) -> Bundle {
        fill_rootfs(&directory.join("rootfs"));
        let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": 0, "gid": 0 },
                "args": ["sleep", "1000"],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities
                },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
                "noNewPrivileges": true
            },
            "root": { "path": "rootfs", "readonly": false },
            "hostname": "e2e",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                  "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                  "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                  "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }
            ],
            "linux": {
                "cgroupsPath": cgroup,
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                    { "type": "mount" }
                ],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            }
        });
        Bundle { directory: directory.to_owned(), config }
    }

    pub fn path(&self) -> &str {
        self.directory.to_str().expect("scratch paths are UTF-8")
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn rootfs(&self) -> PathBuf {
        self.join("rootfs")
    }

    pub fn args(&mut self, arguments: &[&str]) -> &mut Bundle {
        self.set("process.args", json!(arguments))
    }

    fn at(&mut self, path: &str) -> &mut Value {
        path.split('.').fold(&mut self.config, |value, key| &mut value[key])
    }

    /// Sets the value at a dotted path, making the objects on the way.
    pub fn set(&mut self, path: &str, value: Value) -> &mut Bundle {
        *self.at(path) = value;
        self
    }

    /// Appends to the array at a dotted path, making it if missing.
    pub fn push(&mut self, path: &str, value: Value) -> &mut Bundle {
        let place = self.at(path);
        if place.is_null() {
            *place = json!([]);
        }
        place.as_array_mut().expect("an array stands there").push(value);
        self
    }

    /// Takes a member out of the object at a dotted path.
    pub fn unset(&mut self, path: &str, key: &str) -> &mut Bundle {
        self.at(path).as_object_mut().expect("an object stands there").remove(key);
        self
    }

    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Bundle {
        let mount = json!({ "destination": destination, "type": kind, "source": source, "options": options });
        self.push("mounts", mount)
    }

    pub fn without_namespace(&mut self, kind: &str) -> &mut Bundle {
        self.at("linux.namespaces").as_array_mut().expect("namespaces is an array").retain(|n| n["type"] != kind);
        self
    }

    /// The user namespace of the usual rootful kind: container root is host user 100000.
    pub fn user_namespace(&mut self) -> &mut Bundle {
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        self.push("linux.namespaces", json!({ "type": "user" }));
        self.set("linux.uidMappings", map.clone()).set("linux.gidMappings", map);
        for path in walk(&self.rootfs()) {
            std::os::unix::fs::lchown(&path, Some(100_000), Some(100_000)).expect("the rootfs can be given away");
        }
        self
    }

    pub fn cgroup(&self) -> &str {
        self.config["linux"]["cgroupsPath"].as_str().expect("cgroupsPath is set")
    }

    pub fn save(&self) {
        let text = serde_json::to_vec_pretty(&self.config).expect("the configuration is JSON");
        fs::write(self.join("config.json"), text).expect("config.json can be written");
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut paths = vec![directory.to_owned()];
    for entry in fs::read_dir(directory).expect("the rootfs can be read").flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            paths.extend(walk(&entry.path()));
        } else {
            paths.push(entry.path());
        }
    }
    paths
}
