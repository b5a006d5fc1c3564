//! What a user asks to run: the same description for every isolation.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strata_spec::quantity::parse_bytes;
use strata_spec::runtime::{Mount, Resources, Rlimit, ThrottleDevice};

/// The boundary between a workload and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The host's kernel answers system calls; namespaces, cgroups and filters keep the workload apart.
    Container,
}

impl Isolation {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::Container => "container",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An image of the store, by reference. Its layers are shared and read-only; changes go to the instance.
    Image(String),
    /// A plain directory, used in place: changes go there.
    Directory(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Image(reference) => f.pad(reference),
            Source::Directory(path) => f.pad(&path.display().to_string()),
        }
    }
}

/// Whose network the workload sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A loopback device and nothing else.
    #[default]
    None,
    /// The host's.
    Host,
}

/// A workload and its surroundings. Fields that are `None` or empty follow the image, then the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Which boundary.
    pub isolation: Isolation,
    /// The root file system.
    pub source: Source,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=value`, over the image's.
    pub env: Vec<String>,
    /// `NAME[:GROUP]` or ids.
    pub user: Option<String>,
    /// Absolute working directory.
    pub workdir: Option<String>,
    /// Host name.
    pub hostname: Option<String>,
    /// Whether standard streams are a terminal.
    pub terminal: bool,
    /// Binds and tmpfs, after the standard mounts.
    pub mounts: Vec<Mount>,
    /// Host device nodes to show.
    pub devices: Vec<PathBuf>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Network.
    pub network: NetworkMode,
    /// Namespaces shared with the host, beside the network's: `pid`, `ipc`, `uts`.
    pub host_namespaces: Vec<String>,
    /// Capabilities added to the default set (`CAP_NET_ADMIN`, or `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities taken from it.
    pub cap_drop: Vec<String>,
    /// Everything the host's root may do: all capabilities and devices, no masks, no filter.
    pub privileged: bool,
    /// Set-user-ID programs do not raise privileges.
    pub no_new_privileges: bool,
    /// A seccomp profile instead of the default; `None` inside for no filter.
    pub seccomp: SeccompChoice,
    /// Limits of the cgroup.
    pub resources: Resources,
    /// Limits of `setrlimit(2)`.
    pub rlimits: Vec<Rlimit>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Whether systemd makes the cgroup, as a scope in `machine.slice`, or in the user's `user.slice`.
    #[serde(default)]
    pub systemd_cgroup: bool,
}

/// Which seccomp filter a container gets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompChoice {
    /// The built-in profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// This file, in the form of the OCI specification's `linux.seccomp`.
    File(PathBuf),
}

impl Workload {
    /// `command` in `source`, everything else by default.
    pub fn new(source: Source, command: Vec<String>) -> Workload {
        Workload {
            isolation: Isolation::Container,
            source,
            command,
            entrypoint: None,
            env: Vec::new(),
            user: None,
            workdir: None,
            hostname: None,
            terminal: false,
            mounts: Vec::new(),
            devices: Vec::new(),
            read_only: false,
            network: NetworkMode::None,
            host_namespaces: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            no_new_privileges: false,
            seccomp: SeccompChoice::Default,
            resources: Resources::default(),
            rlimits: Vec::new(),
            sysctls: BTreeMap::new(),
            oom_score_adj: None,
            systemd_cgroup: false,
        }
    }
}

/// Why an option's text has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' {problem}")]
pub struct OptionError {
    text: String,
    problem: String,
}

fn bad(text: &str, problem: impl Into<String>) -> OptionError {
    OptionError { text: text.to_string(), problem: problem.into() }
}

/// `SOURCE:TARGET[:OPTION,…]`: a host file or directory shown inside, as Docker's `--volume`.
pub fn parse_volume(text: &str) -> Result<Mount, OptionError> {
    let mut parts = text.split(':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if !source.is_empty() => (source, target),
        _ => return Err(bad(text, "is no volume: write SOURCE:TARGET or SOURCE:TARGET:ro")),
    };
    if !target.starts_with('/') {
        return Err(bad(text, "is no volume: the target must be an absolute path inside"));
    }
    let source = std::path::absolute(source).map_err(|error| bad(text, format!("has no usable source: {error}")))?;
    let mut options = vec!["rbind".to_string(), "rprivate".to_string()];
    for option in parts.next().unwrap_or("").split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" | "z" | "Z" => {}
            "ro" => options.extend(["ro".to_string(), "rro".to_string()]),
            other => options.push(other.to_string()),
        }
    }
    if parts.next().is_some() {
        return Err(bad(text, "has too many colons: write SOURCE:TARGET[:OPTIONS]"));
    }
    let kind = Some("bind".to_string());
    Ok(Mount { destination: target.into(), kind, source: Some(source), options, ..Mount::default() })
}

/// `TARGET[:OPTION,…]`: an empty file system in memory.
pub fn parse_tmpfs(text: &str) -> Result<Mount, OptionError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(bad(text, "is no tmpfs: the target must be an absolute path inside"));
    }
    let mut all = vec!["nosuid".to_string(), "nodev".to_string()];
    all.extend(options.split(',').filter(|option| !option.is_empty()).map(str::to_string));
    let (kind, source) = (Some("tmpfs".to_string()), Some("tmpfs".into()));
    Ok(Mount { destination: target.into(), kind, source, options: all, ..Mount::default() })
}

/// `NAME=SOFT[:HARD]`, numbers or `unlimited`: `nofile=1024:4096`.
pub fn parse_ulimit(text: &str) -> Result<Rlimit, OptionError> {
    let problem = "is no limit: write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:4096";
    let (name, values) = text.split_once('=').ok_or_else(|| bad(text, problem))?;
    let number = |value: &str| match value {
        "unlimited" | "-1" => Ok(u64::MAX),
        _ => value.parse::<u64>().map_err(|_| bad(text, problem)),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(bad(text, "has a soft limit above its hard limit"));
    }
    let kind = name.to_ascii_uppercase();
    let kind = if kind.starts_with("RLIMIT_") { kind } else { format!("RLIMIT_{kind}") };
    Ok(Rlimit { kind, hard, soft })
}

/// `DEVICE:RATE`: a block device by path and bytes (with suffix) or operations a second.
pub fn parse_throttle(text: &str) -> Result<ThrottleDevice, OptionError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (device, rate) =
        text.rsplit_once(':').ok_or_else(|| bad(text, "is no throttle: write DEVICE:RATE, such as /dev/sda:10m"))?;
    let rate = parse_bytes(rate).map_err(|error| bad(text, error.to_string()))?;
    let metadata = Path::new(device).metadata().map_err(|error| bad(text, format!("names no device: {error}")))?;
    if !metadata.file_type().is_block_device() {
        return Err(bad(text, "does not name a block device"));
    }
    let number = metadata.rdev();
    Ok(ThrottleDevice { major: libc::major(number).into(), minor: libc::minor(number).into(), rate })
}

/// The period of the quota that [`parse_cpus`] gives, microseconds.
pub const CPUS_PERIOD: u64 = 100_000;

/// CPUs as a decimal (`1.5`) in microseconds of quota for a period of [`CPUS_PERIOD`].
pub fn parse_cpus(text: &str) -> Result<i64, OptionError> {
    match f64::from_str(text) {
        Ok(cpus) if (0.01..=8192.0).contains(&cpus) => Ok((cpus * CPUS_PERIOD as f64).round() as i64),
        _ => Err(bad(text, "is no number of CPUs: write one from 0.01 up, such as 1.5")),
    }
}

/// A capability as users write it (`net_admin`, `CAP_NET_ADMIN`, `all`) in the kernel's spelling.
pub fn capability_name(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_read_as_recursive_binds() {
        let mount = parse_volume("/data:/srv:ro").unwrap();
        assert_eq!(mount.source, Some("/data".into()));
        assert!(mount.options.contains(&"rro".to_string()));
        assert!(parse_volume("/data").is_err());
        assert!(parse_volume("/data:relative").is_err());
        assert!(parse_volume("/a:/b:ro:x").is_err());
    }

    #[test]
    fn limits_read_with_one_or_two_values() {
        let limit = parse_ulimit("nofile=10:20").unwrap();
        assert_eq!((limit.kind.as_str(), limit.soft, limit.hard), ("RLIMIT_NOFILE", 10, 20));
        assert_eq!(parse_ulimit("core=unlimited").unwrap().hard, u64::MAX);
        assert!(parse_ulimit("nofile=20:10").is_err());
        assert!(parse_ulimit("nofile").is_err());
    }

    #[test]
    fn cpus_are_quota_of_a_tenth_of_a_second() {
        assert_eq!(parse_cpus("1.5"), Ok(150_000));
        assert!(parse_cpus("0").is_err());
        assert!(parse_cpus("x").is_err());
    }

    #[test]
    fn throttles_need_a_block_device() {
        assert!(parse_throttle("/dev/null:1m").unwrap_err().to_string().contains("block device"));
        assert!(parse_throttle("/dev/null").is_err());
    }
}
