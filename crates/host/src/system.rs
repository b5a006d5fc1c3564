//! The kernel, the distribution, and where and as whom this process runs.

use serde::{Deserialize, Serialize};

use crate::files::Files;

/// Kernel and surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Kernel release, such as `6.1.0-31-amd64`.
    pub release: String,
    /// Kernel version: major and minor number; zeros if the release does not say.
    pub version: (u32, u32),
    /// Architecture as of `uname -m`.
    pub arch: String,
    /// Name of the distribution.
    pub distribution: String,
    /// Effective user id of this process.
    pub uid: u32,
    /// The container engine this process runs in, as far as it leaves traces: `docker`, `podman`, `lxc`, …
    pub container: Option<String>,
}

impl System {
    /// From `/proc` and `/etc`. `arch` is that of `uname(2)`.
    pub fn read(files: &Files, arch: &str, uid: u32) -> System {
        let release = files.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        let os = files.text("/etc/os-release").unwrap_or_default();
        System {
            version: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
            release,
            arch: arch.to_string(),
            distribution: Files::field(&os, "PRETTY_NAME", '=').unwrap_or_default().trim_matches('"').to_string(),
            uid,
            container: container(files),
        }
    }
}

fn container(files: &Files) -> Option<String> {
    if let Some(environment) = files.text("/proc/1/environ") {
        let named = environment.split('\0').find_map(|e| e.strip_prefix("container="));
        if let Some(name) = named.filter(|n| !n.is_empty()) {
            return Some(name.chars().filter(char::is_ascii_graphic).take(40).collect());
        }
    }
    // A root file system that came out of an image keeps the marks of its engine, so they count for nothing in the
    // initial PID namespace, whose number is fixed (PROC_PID_INIT_INO).
    if std::fs::read_link(files.path("/proc/self/ns/pid")).is_ok_and(|l| l.as_os_str() == "pid:[4026531836]") {
        return None;
    }
    if files.exists("/run/.containerenv") {
        return Some("podman".into());
    }
    if files.exists("/.dockerenv") {
        return Some("docker".into());
    }
    let groups = files.text("/proc/1/cgroup").unwrap_or_default();
    ["docker", "kubepods", "libpod", "lxc", "containerd"]
        .into_iter()
        .find(|name| groups.lines().any(|l| l.splitn(3, ':').nth(2).is_some_and(|path| path.contains(name))))
        .map(String::from)
}
