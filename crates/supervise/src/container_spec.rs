//! From a workload to the OCI configuration of a container.
//!
//! The defaults are those that users of Docker and Podman know: fourteen capabilities, masked and read-only paths of
//! `/proc`, a seccomp allow list, private namespaces of every kind but user and time.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use strata_image::RunConfig;
use strata_spec::runtime::{
    Capabilities, Device, DeviceRule, IdMapping, Linux, Mount, Namespace, NamespaceKind, Process, Resources, Root,
    Seccomp, Spec, User, VERSION,
};

use crate::Error;
use crate::profile::default_profile;
use crate::workload::{NetworkMode, SeccompChoice, Workload, capability_name};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Capabilities that a container's root keeps.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The configuration for `workload` named `id` on the root file system at `root`.
///
/// `image` is what the image says (the default for a plain directory), `user` the ids that the user's name has there.
pub fn build(id: &str, workload: &Workload, root: &Path, image: &RunConfig, user: User) -> Result<Spec, Error> {
    build_for(id, workload, root, image, user, !rustix::process::geteuid().is_root())
}

/// The same for a user without privileges, or for root.
pub fn build_for(
    id: &str,
    workload: &Workload,
    root: &Path,
    image: &RunConfig,
    user: User,
    rootless: bool,
) -> Result<Spec, Error> {
    let bounding = capabilities(workload)?;
    let seccomp = seccomp(workload, &bounding)?;
    let mut linux = Linux {
        namespaces: namespaces(workload, rootless),
        resources: Some(with_swap_limit(workload.resources.clone(), accounts_swap)),
        cgroups_path: match (workload.systemd_cgroup, rootless) {
            (true, false) => Some(format!("machine.slice:strata:{}", unit_name(id))),
            (true, true) => Some(format!(":strata:{}", unit_name(id))),
            // One level, so that no empty parent stays.
            (false, false) => Some(format!("/strata-{id}")),
            (false, true) => None,
        },
        sysctl: workload.sysctls.clone(),
        seccomp,
        ..Linux::default()
    };
    if rootless {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        linux.uid_mappings = vec![IdMapping { container_id: 0, host_id: uid, size: 1 }];
        linux.gid_mappings = vec![IdMapping { container_id: 0, host_id: gid, size: 1 }];
    }
    let resources = linux.resources.get_or_insert_default();
    if workload.privileged {
        resources.devices.push(DeviceRule { allow: true, ..DeviceRule::default() });
        linux.devices = host_devices(Path::new("/dev"));
    } else {
        resources.devices.insert(0, DeviceRule { allow: false, access: Some("rwm".into()), ..DeviceRule::default() });
        linux.masked_paths = MASKED_PATHS.iter().map(|path| path.to_string()).collect();
        linux.readonly_paths = READONLY_PATHS.iter().map(|path| path.to_string()).collect();
    }
    for path in &workload.devices {
        let device = host_device(path)
            .ok_or_else(|| Error::option(format!("device {}: not a character or block device", path.display())))?;
        resources.devices.push(DeviceRule {
            allow: true,
            kind: Some(device.kind.clone()),
            major: Some(device.major),
            minor: Some(device.minor),
            access: Some("rwm".into()),
        });
        linux.devices.push(device);
    }
    let shares_uts = workload.host_namespaces.iter().any(|kind| kind == "uts");
    Ok(Spec {
        oci_version: VERSION.into(),
        process: Some(process(workload, image, user, bounding)?),
        root: Some(Root { path: root.to_path_buf(), readonly: workload.read_only }),
        hostname: (!shares_uts).then(|| workload.hostname.clone().unwrap_or_else(|| host_name(id))),
        mounts: mounts(workload, rootless),
        linux: Some(linux),
        ..Spec::default()
    })
}

/// A limit on memory alone would let a workload take all swap instead. Docker's rule: as much swap as memory.
fn with_swap_limit(mut resources: Resources, accounts_swap: impl Fn() -> bool) -> Resources {
    if let Some(memory) = &mut resources.memory
        && memory.swap.is_none()
        && let Some(limit) = memory.limit.filter(|&limit| limit > 0)
        && accounts_swap()
    {
        memory.swap = Some(limit.saturating_mul(2));
    }
    resources
}

/// A kernel that does not account swap refuses a limit on it.
fn accounts_swap() -> bool {
    strata_cgroup::Layout::detect().is_ok_and(|layout| layout.accounts_swap())
}

/// An id may hold a character that units escape, systemd.unit(5).
fn unit_name(id: &str) -> String {
    id.replace('+', r"\x2b")
}

/// A host name may hold 64 bytes.
fn host_name(id: &str) -> String {
    id.chars().take(63).collect()
}

fn process(workload: &Workload, image: &RunConfig, user: User, bounding: Vec<String>) -> Result<Process, Error> {
    let args = image.command(workload.entrypoint.as_deref(), &workload.command);
    if args.is_empty() {
        return Err(Error::option("no command: the image names none, so give one after `--`"));
    }
    let mut env = vec![DEFAULT_PATH.to_string()];
    if workload.terminal {
        env.push("TERM=xterm".into());
    }
    for entry in image.env.iter().chain(&workload.env) {
        set_env(&mut env, entry);
    }
    let root = user.uid == 0;
    Ok(Process {
        terminal: workload.terminal,
        user,
        args,
        env,
        cwd: match &workload.workdir {
            Some(directory) => directory.clone(),
            None if image.working_dir.is_empty() => "/".into(),
            None => image.working_dir.clone(),
        },
        // A process that is not root gains nothing by holding capabilities that it cannot use.
        capabilities: Some(Capabilities {
            effective: if root { bounding.clone() } else { vec![] },
            permitted: if root { bounding.clone() } else { vec![] },
            bounding,
            ..Capabilities::default()
        }),
        rlimits: workload.rlimits.clone(),
        no_new_privileges: workload.no_new_privileges,
        oom_score_adj: workload.oom_score_adj,
        ..Process::default()
    })
}

/// Adds `NAME=value`, replacing an earlier value. A bare `NAME` takes the value of this process, as Docker does.
fn set_env(env: &mut Vec<String>, entry: &str) {
    let (name, entry) = match entry.split_once('=') {
        Some((name, _)) => (name, entry.to_string()),
        None => match std::env::var(entry) {
            Ok(value) => (entry, format!("{entry}={value}")),
            Err(_) => return,
        },
    };
    env.retain(|old| old.split_once('=').is_none_or(|(held, _)| held != name));
    env.push(entry);
}

fn capabilities(workload: &Workload) -> Result<Vec<String>, Error> {
    let all = strata_container::capability_names();
    let mut held: Vec<String> = if workload.privileged {
        all.clone()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|name| name.to_string()).collect()
    };
    let known = |name: &String| name == "ALL" || all.contains(name);
    let named: Vec<(bool, String)> = workload
        .cap_drop
        .iter()
        .map(|name| (false, capability_name(name)))
        .chain(workload.cap_add.iter().map(|name| (true, capability_name(name))))
        .collect();
    if let Some((_, name)) = named.iter().find(|(_, name)| !known(name)) {
        return Err(Error::option(format!("capability {name} is not known: see capabilities(7) for the names")));
    }
    // ALL first, so that `--cap-drop ALL --cap-add NET_RAW` and `--cap-add ALL --cap-drop SYS_ADMIN` both say what they mean.
    for (add, _) in named.iter().filter(|(_, name)| name == "ALL") {
        held = if *add { all.clone() } else { vec![] };
    }
    for (add, name) in named.into_iter().filter(|(_, name)| name != "ALL") {
        held.retain(|old| *old != name);
        if add {
            held.push(name);
        }
    }
    Ok(held)
}

fn seccomp(workload: &Workload, bounding: &[String]) -> Result<Option<Seccomp>, Error> {
    match &workload.seccomp {
        _ if workload.privileged => Ok(None),
        SeccompChoice::Default => Ok(Some(default_profile(bounding))),
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::File(path) => {
            let text = std::fs::read(path).map_err(|error| Error::read(path, error))?;
            let profile =
                serde_json::from_slice(&text).map_err(|error| Error::option(format!("{}: {error}", path.display())))?;
            Ok(Some(profile))
        }
    }
}

fn namespaces(workload: &Workload, rootless: bool) -> Vec<Namespace> {
    let shared = |name: &str| workload.host_namespaces.iter().any(|kind| kind == name);
    let mut kinds = vec![NamespaceKind::Mount, NamespaceKind::Cgroup];
    if rootless {
        kinds.push(NamespaceKind::User);
    }
    if workload.network == NetworkMode::None {
        kinds.push(NamespaceKind::Network);
    }
    for (name, kind) in [("pid", NamespaceKind::Pid), ("ipc", NamespaceKind::Ipc), ("uts", NamespaceKind::Uts)] {
        if !shared(name) {
            kinds.push(kind);
        }
    }
    kinds.into_iter().map(|kind| Namespace { kind, path: None }).collect()
}

fn mounts(workload: &Workload, rootless: bool) -> Vec<Mount> {
    let mount = |destination: &str, kind: &str, source: &str, options: &str| Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: options.split(',').map(str::to_string).collect(),
        ..Mount::default()
    };
    let access = if workload.privileged { "rw" } else { "ro" };
    // A network namespace that is not the container's own forbids a new sysfs to a user namespace.
    let sys = match rootless && workload.network == NetworkMode::Host {
        true => mount("/sys", "bind", "/sys", "rbind,nosuid,noexec,nodev,ro"),
        false => mount("/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{access}")),
    };
    let pts = if rootless { "" } else { ",gid=5" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "devpts", &format!("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620{pts}")),
        mount("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        sys,
    ];
    // Without privileges version 1 can only be bound, and what is there is not the container's own.
    if !rootless || strata_cgroup::Layout::detect().is_ok_and(|layout| layout.v1().is_empty()) {
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &format!("nosuid,noexec,nodev,relatime,{access}")));
    }
    if workload.network == NetworkMode::Host {
        // The host's names belong to the host's network. A bind of an absent file would fail the start.
        for path in ["/etc/resolv.conf", "/etc/hosts"] {
            if Path::new(path).exists() {
                mounts.push(mount(path, "bind", path, "rbind,ro,nosuid,nodev"));
            }
        }
    }
    mounts.extend(workload.mounts.iter().cloned());
    mounts
}

fn host_device(path: &Path) -> Option<Device> {
    let metadata = path.metadata().ok()?;
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        "c"
    } else if kind.is_block_device() {
        "b"
    } else {
        return None;
    };
    let number = metadata.rdev();
    Some(Device {
        kind: kind.into(),
        path: path.to_path_buf(),
        major: libc::major(number).into(),
        minor: libc::minor(number).into(),
        file_mode: Some(metadata.mode() & 0o7777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    })
}

/// Every device node below `directory`, without the parts that a container has of its own.
fn host_devices(directory: &Path) -> Vec<Device> {
    const OWN: &[&str] = &["pts", "shm", "mqueue", "console", "fd", "stdin", "stdout", "stderr", "ptmx", "core"];
    let mut devices = Vec::new();
    let mut pending: Vec<PathBuf> = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if OWN.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                pending.push(entry.path());
            } else if !kind.is_symlink() {
                devices.extend(host_device(&entry.path()));
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Source;

    fn workload() -> Workload {
        Workload::new(Source::Directory("/root-fs".into()), vec!["true".into()])
    }

    fn built(workload: &Workload) -> Spec {
        build("id", workload, Path::new("/root-fs"), &RunConfig::default(), User::default()).unwrap()
    }

    #[test]
    fn the_users_environment_wins_over_the_images() {
        let mut workload = workload();
        workload.env = vec!["A=user".into()];
        let image = RunConfig { env: vec!["A=image".into(), "B=image".into()], ..RunConfig::default() };
        let spec = build("id", &workload, Path::new("/r"), &image, User::default()).unwrap();
        assert_eq!(spec.process.unwrap().env[1..], ["B=image", "A=user"]);
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let mut workload = workload();
        workload.cap_drop = vec!["all".into()];
        workload.cap_add = vec!["net_raw".into()];
        assert_eq!(built(&workload).process.unwrap().capabilities.unwrap().bounding, ["CAP_NET_RAW"]);
        workload.cap_add = vec!["nonsense".into()];
        assert!(build("id", &workload, Path::new("/r"), &RunConfig::default(), User::default()).is_err());
    }

    #[test]
    fn an_image_without_command_needs_one() {
        let mut workload = workload();
        workload.command.clear();
        let error = build("id", &workload, Path::new("/r"), &RunConfig::default(), User::default()).unwrap_err();
        assert!(error.to_string().contains("no command"), "{error}");
    }

    #[test]
    fn a_memory_limit_alone_brings_one_on_swap() {
        use strata_spec::runtime::Memory;
        let both = |limit, swap, accounts| {
            let memory = Some(Memory { limit, swap, ..Memory::default() });
            with_swap_limit(Resources { memory, ..Resources::default() }, || accounts).memory.unwrap().swap
        };
        assert_eq!(both(Some(100), None, true), Some(200));
        assert_eq!(both(Some(100), None, false), None);
        assert_eq!(both(Some(100), Some(100), true), Some(100));
        assert_eq!(both(Some(100), Some(-1), true), Some(-1));
        assert_eq!(both(None, None, true), None);
        assert_eq!(both(Some(i64::MAX), None, true), Some(i64::MAX));
    }

    #[test]
    fn the_hosts_network_is_no_new_namespace() {
        let mut workload = workload();
        workload.network = NetworkMode::Host;
        let linux = built(&workload).linux.unwrap();
        assert!(linux.namespaces.iter().all(|namespace| namespace.kind != NamespaceKind::Network));
    }

    #[test]
    fn privileged_means_no_masks_and_no_filter() {
        let mut workload = workload();
        workload.privileged = true;
        let linux = built(&workload).linux.unwrap();
        assert!(linux.masked_paths.is_empty() && linux.seccomp.is_none());
        assert!(linux.devices.iter().any(|device| device.path == Path::new("/dev/null")));
    }
}
