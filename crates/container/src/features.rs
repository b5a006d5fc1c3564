//! What this runtime supports, as the specification's `features.md` has it.

use std::collections::BTreeMap;

use serde::Serialize;

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
    pub mount_options: Vec<&'static str>,
    /// Annotations about the implementation.
    pub annotations: BTreeMap<&'static str, String>,
}

/// What this runtime supports on any host.
pub fn features() -> Features {
    Features {
        oci_version_min: strata_spec::runtime::VERSION_MIN,
        oci_version_max: strata_spec::runtime::VERSION,
        hooks: vec!["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: Vec::new(),
        annotations: BTreeMap::new(),
    }
}
