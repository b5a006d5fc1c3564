//! What this runtime supports on any host (OCI runtime-spec, `features.md`, `features-linux.md`), whatever this host's
//! kernel makes of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{capabilities, mount_options};

/// The features document.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Oldest accepted specification version.
    pub oci_version_min: &'static str,
    /// Newest known specification version.
    pub oci_version_max: &'static str,
    /// Known hooks.
    pub hooks: Vec<&'static str>,
    /// Known mount options.
    pub mount_options: Vec<String>,
    /// What is Linux's.
    pub linux: LinuxFeatures,
    /// Annotations about the implementation.
    pub annotations: BTreeMap<&'static str, String>,
    /// Annotations that could change the runtime's behaviour against the configuration; there are none.
    pub potentially_unsafe_config_annotations: Vec<&'static str>,
}

/// A feature that is there or not.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Enabled {
    /// Whether it is supported.
    pub enabled: bool,
}

const YES: Enabled = Enabled { enabled: true };

/// What is Linux's of the features.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxFeatures {
    /// Known kinds of namespace.
    pub namespaces: Vec<&'static str>,
    /// Known capabilities.
    pub capabilities: Vec<String>,
    /// Cgroup interfaces and drivers.
    pub cgroup: CgroupFeatures,
    /// System-call filters.
    pub seccomp: SeccompFeatures,
    /// AppArmor profiles.
    pub apparmor: Enabled,
    /// SELinux labels.
    pub selinux: Enabled,
    /// Resource director technology.
    pub intel_rdt: IntelRdtFeatures,
    /// NUMA memory policies.
    pub memory_policy: MemoryPolicyFeatures,
    /// Extensions of mounts.
    pub mount_extensions: MountExtensions,
    /// Interfaces moved into the container.
    pub net_devices: Enabled,
}

/// Cgroup interfaces and drivers.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupFeatures {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Through the system's systemd.
    pub systemd: bool,
    /// Through the user's systemd.
    pub systemd_user: bool,
    /// Limits of remote direct memory access.
    pub rdma: bool,
}

/// System-call filters.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompFeatures {
    /// Whether they are supported.
    pub enabled: bool,
    /// Known actions.
    pub actions: Vec<&'static str>,
    /// Known comparisons.
    pub operators: Vec<&'static str>,
    /// Known architectures.
    pub archs: Vec<&'static str>,
    /// Known flags.
    pub known_flags: Vec<&'static str>,
    /// Flags that this kernel supports.
    pub supported_flags: Vec<&'static str>,
}

/// Resource director technology.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IntelRdtFeatures {
    /// Whether it is supported.
    pub enabled: bool,
    /// Whether `schemata` is.
    pub schemata: bool,
    /// Whether `enableMonitoring` is.
    pub monitoring: bool,
}

/// NUMA memory policies.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryPolicyFeatures {
    /// Known modes.
    pub modes: Vec<&'static str>,
    /// Known flags.
    pub flags: Vec<&'static str>,
}

/// Extensions of mounts.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MountExtensions {
    /// Idmapped mounts.
    pub idmap: Enabled,
}

/// What this runtime supports on any host.
pub fn features() -> Features {
    Features {
        oci_version_min: strata_spec::runtime::VERSION_MIN,
        oci_version_max: strata_spec::runtime::VERSION,
        hooks: vec!["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: mount_options::known(),
        linux: LinuxFeatures {
            namespaces: vec!["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            capabilities: capabilities::known(),
            cgroup: CgroupFeatures { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: SeccompFeatures {
                enabled: true,
                actions: strata_seccomp::known_actions(),
                operators: strata_seccomp::known_operators(),
                archs: strata_seccomp::known_archs(),
                known_flags: strata_seccomp::known_flags(),
                supported_flags: strata_seccomp::supported_flags(),
            },
            apparmor: YES,
            selinux: YES,
            intel_rdt: IntelRdtFeatures { enabled: true, schemata: true, monitoring: true },
            memory_policy: MemoryPolicyFeatures {
                modes: crate::process::MEMORY_MODES.iter().map(|(n, _)| *n).collect(),
                flags: crate::process::MEMORY_FLAGS.iter().map(|(n, _)| *n).collect(),
            },
            mount_extensions: MountExtensions { idmap: YES },
            net_devices: YES,
        },
        annotations: BTreeMap::from([("dev.strata.version", env!("CARGO_PKG_VERSION").to_owned())]),
        potentially_unsafe_config_annotations: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_has_the_specifications_names() {
        let text = serde_json::to_value(super::features()).unwrap();
        assert_eq!(text["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(text["linux"]["cgroup"]["systemdUser"], true);
        assert!(text["mountOptions"].as_array().unwrap().iter().any(|o| o == "rro"));
        assert!(text["ociVersionMin"].is_string() && text["linux"]["seccomp"]["knownFlags"].is_array());
    }
}
