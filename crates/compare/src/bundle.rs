//! An OCI bundle as `runc spec` writes it, made here so that every runtime gets the same (OCI runtime-spec, `config.md`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The capabilities `runc spec` grants.
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// A configuration: five namespaces, seven mounts, masked and read-only paths, no terminal.
pub(crate) fn config(rootfs: &Path, argv: &[String], env: &[String], cwd: &str, seccomp: Option<Value>) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": env,
            "cwd": cwd,
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES, "ambient": CAPABILITIES,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": false},
        "hostname": "compare",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    if let Some(seccomp) = seccomp {
        config["linux"]["seccomp"] = seccomp;
    }
    config
}

/// The filter that container engines of this host apply by default, if their profile is installed.
pub(crate) fn default_seccomp() -> Option<Value> {
    let text = ["/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())?;
    resolve_seccomp(&serde_json::from_str(&text).ok()?)
}

/// Turns an engine's profile, with its conditions on architecture and capabilities, into the `seccomp` object of a
/// configuration for amd64 and [`CAPABILITIES`].
fn resolve_seccomp(profile: &Value) -> Option<Value> {
    let strings = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(String::from)).collect()
    };
    let ours: BTreeSet<String> = CAPABILITIES.map(String::from).into();
    let mut rules = Vec::new();
    for rule in profile.get("syscalls")?.as_array()? {
        let arches = |side: &str| strings(&rule[side]["arches"]);
        let caps = |side: &str| strings(&rule[side]["caps"]);
        let includes = arches("includes");
        let excluded =
            arches("excludes").iter().any(|a| a == "amd64" || a == "x86_64") || !caps("excludes").is_disjoint(&ours);
        let included = (includes.is_empty() || includes.contains("amd64") || includes.contains("x86_64"))
            && caps("includes").is_subset(&ours);
        let names: Vec<String> = match &rule["names"] {
            Value::Array(_) => strings(&rule["names"]).into_iter().collect(),
            _ => strings(&json!([rule["name"]])).into_iter().collect(),
        };
        if !included || excluded || names.is_empty() {
            continue;
        }
        let mut resolved = json!({"names": names, "action": rule["action"]});
        if rule["errnoRet"].is_u64() {
            resolved["errnoRet"] = rule["errnoRet"].clone();
        }
        if rule["args"].as_array().is_some_and(|args| !args.is_empty()) {
            resolved["args"] = rule["args"].clone();
        }
        rules.push(resolved);
    }
    let mut seccomp = json!({
        "defaultAction": profile.get("defaultAction")?,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    });
    if profile["defaultErrnoRet"].is_u64() {
        seccomp["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    Some(seccomp)
}

/// Where the unified hierarchy is mounted beside version 1, which some runtimes refuse.
pub(crate) fn unified_beside_v1() -> Option<PathBuf> {
    unified_in(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

fn unified_in(mountinfo: &str) -> Option<PathBuf> {
    let mut unified = None;
    let mut v1 = false;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        match after.split(' ').next() {
            Some("cgroup2") => unified = before.split(' ').nth(4).map(PathBuf::from),
            Some("cgroup") => v1 = true,
            _ => {}
        }
    }
    unified.filter(|_| v1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_every_runtime_type_reads() {
        let value = config(Path::new("/r"), &["true".into()], &["A=1".into()], "/", None);
        let spec: strata_spec::runtime::Spec = serde_json::from_value(value).unwrap();
        assert_eq!(spec.process.unwrap().args, ["true"]);
        assert_eq!(spec.mounts.len(), 7);
        assert_eq!(spec.linux.unwrap().namespaces.len(), 5);
    }

    #[test]
    fn conditions_of_a_profile_are_resolved() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arm_fadvise64_64"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_MASKED_EQ"}], "excludes": {"arches": ["s390"]}},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_KILL"]}},
        ]});
        let got = resolve_seccomp(&profile).unwrap();
        let names: Vec<_> =
            got["syscalls"].as_array().unwrap().iter().map(|r| r["names"][0].as_str().unwrap()).collect();
        assert_eq!(names, ["read", "bpf", "arch_prctl", "clone"]);
        assert_eq!(got["syscalls"][1]["errnoRet"], 1);
        assert!(got["syscalls"][0].get("args").is_none());
        assert_eq!(got["defaultErrnoRet"], 38);
        let _: strata_spec::runtime::Seccomp = serde_json::from_value(got).unwrap();
    }

    #[test]
    fn a_profile_of_another_shape_is_none() {
        assert_eq!(resolve_seccomp(&json!({"syscalls": 3})), None);
        assert_eq!(resolve_seccomp(&json!([])), None);
    }

    #[test]
    fn the_hybrid_layout_is_recognised() {
        let v1 = "30 20 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let v2 = "31 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_in(&format!("{v1}{v2}")), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(unified_in(v2), None);
        assert_eq!(unified_in(v1), None);
        assert_eq!(unified_in("garbage"), None);
    }
}
