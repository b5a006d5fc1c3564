//! Bundles, and commands on them. Everything lies in one temporary directory, which is removed at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

/// A bundle and a state root.
pub struct Scene {
    pub dir: PathBuf,
    pub config: Value,
    /// Set for every command.
    pub env: Vec<(&'static str, String)>,
}

/// What a command did.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    /// Its output, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {} stderr: {}", self.out, self.err);
        self.out
    }

    /// Its complaint, if it failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "it succeeded: {}", self.out);
        self.err
    }
}

impl From<Output> for Done {
    fn from(o: Output) -> Done {
        use std::os::unix::process::ExitStatusExt;
        Done {
            code: o.status.code().unwrap_or_else(|| 1000 + o.status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&o.stdout).trim_end().to_owned(),
            err: String::from_utf8_lossy(&o.stderr).trim_end().to_owned(),
        }
    }
}

impl Scene {
    /// A bundle as `runc spec` makes it, whose program is `probe ARGUMENT…`.
    pub fn new(args: &[&str]) -> Scene {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("strata-container-{}-{n}", std::process::id()));
        std::fs::create_dir_all(dir.join("rootfs/bin")).expect("make the bundle");
        let own = std::env::current_exe().expect("own path");
        let probe = dir.join("rootfs/bin/probe");
        if std::fs::hard_link(&own, &probe).is_err() {
            std::fs::copy(&own, &probe).expect("copy the probe");
        }
        let plain = ["nosuid", "noexec", "nodev"];
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "hostname": "probe-host",
            "process": {"args": [], "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true,
                "user": {"uid": 0, "gid": 0},
                "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SYS_ADMIN"], "effective": ["CAP_KILL", "CAP_CHOWN"],
                    "permitted": ["CAP_KILL", "CAP_CHOWN"]}},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/keys", "/sys/firmware", "/proc/acpi"],
                "readonlyPaths": ["/proc/sys"]
            }
        });
        let mut scene = Scene { dir, config, env: Vec::new() };
        scene.args(args);
        scene
    }

    pub fn args(&mut self, args: &[&str]) {
        let list: Vec<&str> = std::iter::once("probe").chain(args.iter().copied()).collect();
        self.config["process"]["args"] = json!(list);
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A namespace added, or replaced.
    pub fn namespace(&mut self, kind: &str, path: Option<String>) {
        let list = self.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        list.retain(|n| n["type"] != kind);
        let mut namespace = json!({"type": kind});
        if let Some(path) = path {
            namespace["path"] = json!(path);
        }
        list.push(namespace);
    }

    pub fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().expect("mounts").push(mount);
    }

    /// An unstarted command `VERB ID ARGUMENT…`; the bundle is given to those who want one.
    pub fn command(&self, verb: &str, id: &str, args: &[&str]) -> Command {
        // Others may be reading it at this moment.
        std::fs::write(self.dir.join("new.json"), self.config.to_string()).expect("write config.json");
        std::fs::rename(self.dir.join("new.json"), self.dir.join("config.json")).expect("write config.json");
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command.arg("runtime").arg(self.root()).arg(verb).arg(id);
        if matches!(verb, "create" | "run") {
            command.arg(&self.dir);
        }
        command.args(args).envs(self.env.iter().map(|(k, v)| (*k, v.as_str())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end. Its output goes to files: a container that it creates keeps them open.
    pub fn act(&self, verb: &str, id: &str, args: &[&str]) -> Done {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let files = [self.dir.join(format!("out-{n}")), self.dir.join(format!("err-{n}"))];
        let create = |p: &Path| std::fs::File::create(p).expect("make an output file");
        let status = self
            .command(verb, id, args)
            .stdout(create(&files[0]))
            .stderr(create(&files[1]))
            .status()
            .expect("run the command");
        let read = |p: &Path| std::fs::read(p).unwrap_or_default();
        Output { status, stdout: read(&files[0]), stderr: read(&files[1]) }.into()
    }

    pub fn run(&self, id: &str) -> Done {
        self.act("run", id, &[])
    }

    pub fn status(&self, id: &str) -> String {
        let text = self.act("state", id, &[]).ok();
        let state: Value = serde_json::from_str(&text).expect("state is JSON");
        state["status"].as_str().expect("status").to_owned()
    }

    pub fn pid(&self, id: &str) -> i32 {
        let state: Value = serde_json::from_str(&self.act("state", id, &[]).ok()).expect("state is JSON");
        state["pid"].as_i64().expect("pid") as i32
    }

    /// Waits, boundedly, until a container has a status.
    #[track_caller]
    pub fn wait(&self, id: &str, status: &str) {
        for _ in 0..500 {
            if self.status(id) == status {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{id} is {} and not {status}", self.status(id));
    }

    /// Nothing of any container of this scene is left: no record, no cgroup.
    #[track_caller]
    pub fn nothing_left(&self, ids: &[&str]) {
        let left: Vec<_> = std::fs::read_dir(self.root())
            .map(|d| d.filter_map(|e| Some(e.ok()?.file_name())).filter(|n| n != ".,spare").collect())
            .unwrap_or_default();
        assert!(left.is_empty(), "records are left: {left:?}");
        for id in ids {
            let found = cgroups(Path::new("/sys/fs/cgroup"), &format!("strata-{id}"), 5);
            assert!(found.is_empty(), "cgroups are left: {found:?}");
        }
    }
}

/// Directories of this name below.
fn cgroups(dir: &Path, name: &str, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if depth == 0 {
        return found;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if entry.file_name() == name {
                found.push(entry.path());
            }
            found.extend(cgroups(&entry.path(), name, depth - 1));
        }
    }
    found
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Ok(entries) = std::fs::read_dir(self.root()) {
            for id in entries.filter_map(|e| e.ok()?.file_name().into_string().ok()) {
                let _ = self.act("delete", &id, &["force"]);
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
