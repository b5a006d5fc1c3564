//! Reads `config.json` (OCI runtime-spec, `config.md`) and judges it before anything is made.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use strata_spec::runtime::{IdMapping, Linux, Namespace, NamespaceKind, Process, Spec};

use crate::error::Error;
use crate::{mount_options, process};

/// Reads a bundle's `config.json`. An error says file, line, column and field.
pub fn load_spec(bundle: &Path) -> Result<Spec, Error> {
    read_spec(bundle).map(|(spec, _)| spec)
}

/// The configuration and its text.
pub(crate) fn read_spec(bundle: &Path) -> Result<(Spec, Vec<u8>), Error> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|source| Error::ConfigUnreadable { path: path.clone(), source })?;
    let spec = parse_spec(&path, &text)?;
    Ok((spec, text))
}

/// Parses a configuration that was read from `path`.
pub fn parse_spec(path: &Path, text: &[u8]) -> Result<Spec, Error> {
    serde_json::from_slice(text).map_err(|e| {
        let field = field_at(text, e.line(), e.column());
        let message = e.to_string();
        // The position is said before the message already.
        let message = message.split(" at line ").next().unwrap_or_default();
        let message = if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") };
        Error::ConfigMalformed { path: path.to_owned(), line: e.line(), column: e.column(), message }
    })
}

/// The path (`linux.mounts[2].type`) of the JSON value that surrounds a position: a scan that only keeps track of
/// strings, keys and depth, so that it works on what is not JSON from there on.
fn field_at(text: &[u8], line: usize, column: usize) -> String {
    enum Level {
        Object(String),
        Array(usize),
    }
    let start = text.split_inclusive(|&b| b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let end = (start + column).min(text.len());
    let mut levels = Vec::new();
    let mut string: Option<Vec<u8>> = None;
    let mut last_string = String::new();
    let mut position = 0;
    while position < end {
        let byte = text[position];
        position += 1;
        if let Some(current) = &mut string {
            match byte {
                b'\\' => {
                    current.extend(text.get(position));
                    position += 1;
                }
                b'"' => last_string = String::from_utf8_lossy(&string.take().unwrap_or_default()).into_owned(),
                _ => current.push(byte),
            }
            continue;
        }
        match byte {
            b'"' => string = Some(Vec::new()),
            b'{' => levels.push(Level::Object(String::new())),
            b'[' => levels.push(Level::Array(0)),
            // The closing byte itself is where an error in the value before it is reported.
            b'}' | b']' if position < end => {
                levels.pop();
            }
            b':' => {
                if let Some(Level::Object(key)) = levels.last_mut() {
                    key.clone_from(&last_string);
                }
            }
            b',' if position < end => {
                if let Some(Level::Array(index)) = levels.last_mut() {
                    *index += 1;
                }
            }
            _ => {}
        }
    }
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object(key) if key.is_empty() => {}
            Level::Object(key) if path.is_empty() => path = key,
            Level::Object(key) => path = format!("{path}.{key}"),
            Level::Array(index) => path = format!("{path}[{index}]"),
        }
    }
    path
}

/// What a validated configuration says of namespaces, for quick questions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces(Vec<Namespace>);

impl Namespaces {
    pub(crate) fn of(spec: &Spec) -> Namespaces {
        Namespaces(spec.linux.as_ref().map(|l| l.namespaces.clone()).unwrap_or_default())
    }

    /// Whether the container has its own namespace of this kind, new or joined.
    pub(crate) fn has(&self, kind: NamespaceKind) -> bool {
        self.0.iter().any(|n| n.kind == kind)
    }

    /// Whether a new one is made.
    pub(crate) fn new_one(&self, kind: NamespaceKind) -> bool {
        self.0.iter().any(|n| n.kind == kind && n.path.is_none())
    }

    /// Without those of these kinds.
    pub(crate) fn without(&self, kinds: &[NamespaceKind]) -> Namespaces {
        Namespaces(self.0.iter().filter(|n| !kinds.contains(&n.kind)).cloned().collect())
    }

    /// Those joined by path.
    pub(crate) fn joined(&self) -> impl Iterator<Item = (NamespaceKind, &Path)> {
        self.0.iter().filter_map(|n| Some((n.kind, n.path.as_deref()?)))
    }
}

/// Judges a configuration as far as that is possible without making anything.
pub fn validate(spec: &Spec) -> Result<(), Error> {
    version(&spec.oci_version)?;
    let root = spec.root.as_ref().ok_or_else(|| Error::invalid("root", "it is required on Linux"))?;
    if root.path.as_os_str().is_empty() {
        return Err(Error::invalid("root.path", "it is empty; name the directory of the root file system"));
    }
    if let Some(p) = &spec.process {
        validate_process(p, "process")?;
    }
    let default = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&default);
    validate_namespaces(spec, linux)?;
    for (i, mount) in spec.mounts.iter().enumerate() {
        if mount.destination.as_os_str().is_empty() {
            return Err(Error::invalid(
                format!("mounts[{i}].destination"),
                "it is empty; name a path in the container",
            ));
        }
        if mount.uid_mappings.is_empty() != mount.gid_mappings.is_empty() {
            let message = "uidMappings and gidMappings must be given together";
            return Err(Error::invalid(format!("mounts[{i}]"), message));
        }
        mount_options::parse(mount).map_err(|message| Error::invalid(format!("mounts[{i}].options"), message))?;
    }
    for (i, device) in linux.devices.iter().enumerate() {
        let field = |name: &str| format!("linux.devices[{i}].{name}");
        if !device.path.is_absolute() {
            return Err(Error::invalid(field("path"), format!("{} must be absolute", device.path.display())));
        }
        if !matches!(device.kind.as_str(), "c" | "b" | "u" | "p") {
            return Err(Error::invalid(field("type"), format!("{:?} must be c, b, u or p", device.kind)));
        }
    }
    for (name, device) in &linux.net_devices {
        for name in [Some(name), device.name.as_ref()].into_iter().flatten() {
            let bad = name.is_empty()
                || name.len() > 15
                || name == "."
                || name == ".."
                || name.bytes().any(|b| matches!(b, b'/' | b':') || b.is_ascii_whitespace());
            if bad {
                let message = format!("{name:?} is not an interface name (1 to 15 bytes without '/', ':' or blanks)");
                return Err(Error::invalid("linux.netDevices", message));
            }
        }
    }
    for (kind, hooks) in crate::hooks::all(spec) {
        for (i, hook) in hooks.iter().enumerate() {
            let field = |name: &str| format!("hooks.{kind}[{i}].{name}");
            if !hook.path.is_absolute() {
                return Err(Error::invalid(field("path"), format!("{} must be absolute", hook.path.display())));
            }
            if hook.timeout.is_some_and(|t| t <= 0) {
                return Err(Error::invalid(field("timeout"), "it must be greater than zero seconds"));
            }
        }
    }
    if let Some(propagation) = &linux.rootfs_propagation {
        mount_options::propagation(propagation).ok_or_else(|| {
            let message =
                format!("{propagation:?} must be shared, slave, private or unbindable, or one of them with r");
            Error::invalid("linux.rootfsPropagation", message)
        })?;
    }
    if let Some(seccomp) = &linux.seccomp {
        let notify = |action: &str| action == "SCMP_ACT_NOTIFY";
        let used = notify(&seccomp.default_action) || seccomp.syscalls.iter().any(|r| notify(&r.action));
        if used && seccomp.listener_path.is_none() {
            return Err(Error::invalid("linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY needs it"));
        }
        if notify(&seccomp.default_action) {
            let message = "SCMP_ACT_NOTIFY cannot be the default: the runtime's own calls would wait for the listener";
            return Err(Error::invalid("linux.seccomp.defaultAction", message));
        }
        let own = seccomp.syscalls.iter().filter(|r| notify(&r.action)).flat_map(|r| &r.names);
        if let Some(name) = own.into_iter().find(|n| matches!(n.as_str(), "sendmsg" | "execve")) {
            let message =
                format!("{name} cannot be SCMP_ACT_NOTIFY: the runtime itself needs it to hand over the listener");
            return Err(Error::invalid("linux.seccomp.syscalls", message));
        }
    }
    Ok(())
}

/// Version 1.x.y, any suffix; a newer minor version only adds fields.
fn version(text: &str) -> Result<(), Error> {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = core.split('.').map(str::parse::<u32>).collect();
    match numbers.as_slice() {
        [Ok(1), Ok(_), Ok(_)] => Ok(()),
        [Ok(_), Ok(_), Ok(_)] => {
            let message = format!("version {text:?} is not supported: this runtime implements 1.0.0 to 1.3.0");
            Err(Error::invalid("ociVersion", message))
        }
        _ if text.is_empty() => Err(Error::invalid("ociVersion", "it is missing; 1.2.0 is a good one")),
        _ => Err(Error::invalid("ociVersion", format!("{text:?} is not a version such as 1.2.0"))),
    }
}

/// Judges a process, of a configuration or of `exec`.
pub(crate) fn validate_process(p: &Process, field: &str) -> Result<(), Error> {
    if p.args.is_empty() {
        return Err(Error::invalid(format!("{field}.args"), "it is empty; name the program to run"));
    }
    if p.args.iter().any(|a| a.contains('\0')) {
        return Err(Error::invalid(format!("{field}.args"), "an argument holds a NUL byte"));
    }
    if !p.cwd.starts_with('/') {
        return Err(Error::invalid(format!("{field}.cwd"), format!("{:?} must be an absolute path", p.cwd)));
    }
    if let Some(bad) = p.env.iter().find(|e| e.contains('\0')) {
        return Err(Error::invalid(format!("{field}.env"), format!("{bad:?} holds a NUL byte")));
    }
    if let Some(score) = p.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid(format!("{field}.oomScoreAdj"), format!("{score} must be -1000 to 1000")));
    }
    process::Limits::parse(&p.rlimits).map_err(|m| Error::invalid(format!("{field}.rlimits"), m))?;
    if let Some(scheduler) = &p.scheduler {
        process::scheduler(scheduler).map_err(|m| Error::invalid(format!("{field}.scheduler"), m))?;
    }
    if let Some(priority) = &p.io_priority {
        process::io_priority(priority).map_err(|m| Error::invalid(format!("{field}.ioPriority"), m))?;
    }
    if let Some(affinity) = &p.exec_cpu_affinity {
        for list in [&affinity.initial, &affinity.last].into_iter().flatten() {
            process::bit_list(list).map_err(|m| Error::invalid(format!("{field}.execCPUAffinity"), m))?;
        }
    }
    Ok(())
}

fn validate_namespaces(spec: &Spec, linux: &Linux) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for (i, namespace) in linux.namespaces.iter().enumerate() {
        if !seen.insert(namespace.kind) {
            let message = format!("a second {:?} namespace; each kind may be listed once", namespace.kind);
            return Err(Error::invalid(format!("linux.namespaces[{i}].type"), message.to_lowercase()));
        }
        if let Some(path) = &namespace.path
            && !path.is_absolute()
        {
            let message = format!("{} must be an absolute path", path.display());
            return Err(Error::invalid(format!("linux.namespaces[{i}].path"), message));
        }
    }
    let namespaces = Namespaces::of(spec);
    if namespaces.new_one(NamespaceKind::User) && (linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty()) {
        let message = "a new user namespace needs uidMappings and gidMappings";
        return Err(Error::invalid("linux.uidMappings", message));
    }
    for (field, mappings) in [("linux.uidMappings", &linux.uid_mappings), ("linux.gidMappings", &linux.gid_mappings)] {
        validate_mappings(field, mappings)?;
        if namespaces.new_one(NamespaceKind::User) && mappings.iter().all(|m| m.container_id != 0) {
            let message = "nothing maps the container's id 0, which mount points and devices are to belong to";
            return Err(Error::invalid(field, message));
        }
    }
    if !linux.time_offsets.is_empty() && !namespaces.new_one(NamespaceKind::Time) {
        return Err(Error::invalid("linux.timeOffsets", "offsets need a new time namespace in linux.namespaces"));
    }
    if let Some(clock) = linux.time_offsets.keys().find(|k| !matches!(k.as_str(), "monotonic" | "boottime")) {
        let message = format!("clock {clock:?} has no offset; monotonic and boottime do");
        return Err(Error::invalid("linux.timeOffsets", message));
    }
    validate_confined(spec, linux, &namespaces)
}

/// Judges what only a namespace that is not the host's confines. `namespaces`: as the configuration has them, or those
/// among them of which it is known.
pub(crate) fn validate_confined(spec: &Spec, linux: &Linux, namespaces: &Namespaces) -> Result<(), Error> {
    let user = namespaces.has(NamespaceKind::User);
    if !user && (!linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty()) {
        let message = "mappings need a user namespace in linux.namespaces that is not the host's";
        return Err(Error::invalid("linux.uidMappings", message));
    }
    for (field, value) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
        let Some(value) = value.as_ref().filter(|v| !v.is_empty()) else { continue };
        if !namespaces.has(NamespaceKind::Uts) {
            return Err(Error::invalid(field, "it needs a uts namespace in linux.namespaces that is not the host's"));
        }
        if value.len() > 64 {
            return Err(Error::invalid(field, format!("{value:?} is longer than 64 bytes")));
        }
    }
    if !namespaces.has(NamespaceKind::Mount) {
        let needing = [
            ("mounts", !spec.mounts.is_empty()),
            ("linux.maskedPaths", !linux.masked_paths.is_empty()),
            ("linux.readonlyPaths", !linux.readonly_paths.is_empty()),
            ("root.readonly", spec.root.as_ref().is_some_and(|r| r.readonly)),
        ];
        if let Some((field, _)) = needing.iter().find(|(_, asked)| *asked) {
            let message = "it needs a mount namespace in linux.namespaces that is not the host's";
            return Err(Error::invalid(*field, message));
        }
    }
    if !linux.net_devices.is_empty() && !namespaces.has(NamespaceKind::Network) {
        let message = "they need a network namespace in linux.namespaces that is not the host's";
        return Err(Error::invalid("linux.netDevices", message));
    }
    validate_sysctls(linux, namespaces)
}

fn validate_mappings(field: &str, mappings: &[IdMapping]) -> Result<(), Error> {
    for (i, a) in mappings.iter().enumerate() {
        if a.size == 0 {
            return Err(Error::invalid(format!("{field}[{i}].size"), "it must be at least 1"));
        }
        for b in &mappings[i + 1..] {
            let overlap = |x: u32, y: u32| {
                u64::from(x) < u64::from(y) + u64::from(b.size) && u64::from(y) < u64::from(x) + u64::from(a.size)
            };
            if overlap(a.container_id, b.container_id) || overlap(a.host_id, b.host_id) {
                return Err(Error::invalid(format!("{field}[{i}]"), "it overlaps another mapping"));
            }
        }
    }
    Ok(())
}

/// Only kernel parameters that a namespace of the container's own confines may be set.
fn validate_sysctls(linux: &Linux, namespaces: &Namespaces) -> Result<(), Error> {
    const IPC: &[&str] = &[
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    for key in linux.sysctl.keys() {
        let refuse = |message: String| Err(Error::invalid(format!("linux.sysctl.{key}"), message));
        let path = sysctl_path(key);
        if Path::new(&path).components().any(|c| !matches!(c, Component::Normal(_))) {
            return refuse("it is not a parameter's name".into());
        }
        let kind = match path.as_str() {
            p if IPC.contains(&p) || p.starts_with("fs/mqueue/") => NamespaceKind::Ipc,
            p if p.starts_with("net/") => NamespaceKind::Network,
            "kernel/domainname" => NamespaceKind::Uts,
            "kernel/hostname" => return refuse("set hostname instead".into()),
            p if p.starts_with("user/") && namespaces.has(NamespaceKind::User) => continue,
            _ => return refuse("it is not confined by a namespace, so the whole host would change".into()),
        };
        if !namespaces.has(kind) {
            let name = format!("{kind:?}").to_lowercase();
            return refuse(format!(
                "it needs a {name} namespace in linux.namespaces that is not the host's, or the whole host would change"
            ));
        }
    }
    Ok(())
}

/// The path below `/proc/sys` of a parameter: in `net.ipv4.conf.eth0/1.forwarding`, if the first separator is a dot,
/// a slash stands for a dot in a name, as in sysctl(8).
pub(crate) fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']).map(|i| key.as_bytes()[i]) {
        Some(b'.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// Whether an id is acceptable as the name of a directory.
pub fn validate_id(id: &str) -> Result<(), Error> {
    let ok = (1..=1024).contains(&id.len())
        && id != "."
        && id != ".."
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.'));
    if ok { Ok(()) } else { Err(Error::InvalidId(id.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        serde_json::from_str(text).unwrap()
    }

    fn refusal(text: &str) -> String {
        validate(&spec(text)).unwrap_err().to_string()
    }

    #[test]
    fn a_malformed_configuration_is_located() {
        let text =
            b"{\n \"ociVersion\": \"1.2.0\",\n \"mounts\": [{\"destination\": \"/a\"},\n  {\"destination\": 7}]\n}";
        let error = parse_spec(Path::new("/b/config.json"), text).unwrap_err().to_string();
        assert!(error.starts_with("/b/config.json:4:"), "{error}");
        assert!(error.contains("mounts[1].destination: invalid type: integer `7`"), "{error}");
        let error = parse_spec(Path::new("c"), b"{\"linux\":{\"devices\":{}}}").unwrap_err().to_string();
        assert!(error.contains("linux.devices"), "{error}");
        assert!(parse_spec(Path::new("c"), b"{").is_err());
        assert!(parse_spec(Path::new("c"), b"").is_err());
    }

    #[test]
    fn contradictions_are_refused_with_the_field_named() {
        assert!(refusal(r#"{"ociVersion":"2.0.0","root":{"path":"r"}}"#).contains("ociVersion"));
        assert!(refusal(r#"{"ociVersion":"1.0.0"}"#).contains("root: it is required"));
        let with = |linux: &str| refusal(&format!(r#"{{"ociVersion":"1.2.0","root":{{"path":"r"}},"linux":{linux}}}"#));
        assert!(with(r#"{"namespaces":[{"type":"pid"},{"type":"pid"}]}"#).contains("namespaces[1].type"));
        assert!(with(r#"{"namespaces":[{"type":"user"}]}"#).contains("uidMappings"));
        let mapped = |id: u32| {
            let map = format!(r#"[{{"containerID":{id},"hostID":1000,"size":10}}]"#);
            with(&format!(r#"{{"namespaces":[{{"type":"user"}}],"uidMappings":{map},"gidMappings":{map}}}"#))
        };
        assert!(mapped(5).contains("linux.uidMappings: nothing maps the container's id 0"), "{}", mapped(5));
        let text = r#"{"ociVersion":"1.2.0","root":{"path":"r","readonly":true}}"#;
        assert!(refusal(text).contains("root.readonly: it needs a mount namespace"));
        assert!(with(r#"{"timeOffsets":{"monotonic":{"secs":1}}}"#).contains("time namespace"));
        assert!(with(r#"{"sysctl":{"kernel.shmmax":"1"}}"#).contains("ipc namespace"));
        assert!(with(r#"{"sysctl":{"vm.swappiness":"1"}}"#).contains("whole host"));
        assert!(
            with(r#"{"sysctl":{"net/../kernel/x":"1"},"namespaces":[{"type":"network"}]}"#).contains("not a param")
        );
        let text = r#"{"ociVersion":"1.2.0","root":{"path":"r"},"process":{"args":["x"],"cwd":"rel"}}"#;
        assert!(refusal(text).contains("process.cwd"));
    }

    #[test]
    fn ids_are_names() {
        assert!(validate_id("a_b+c-d.e").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(validate_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sysctl_names_read_as_sysctl_reads_them() {
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/ip_forward"), "net/ipv4/ip_forward");
    }
}
