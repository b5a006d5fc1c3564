//! Control groups: which layout, which controllers where, and whether this user may make groups of their own.
//! See cgroups(7) and the kernel's `Documentation/admin-guide/cgroup-v2.rst`, section "Delegation".

use serde::{Deserialize, Serialize};
use strata_cgroup::Layout;

use crate::files::Files;
use crate::support::Support;

/// Controllers without which a limit of Strata's would have no effect.
pub const NEEDED: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

/// Control groups as this process sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroups {
    /// `v1`, `v2`, `hybrid`, or `none` where nothing is mounted.
    pub layout: String,
    /// Every hierarchy, version 1 before version 2.
    pub hierarchies: Vec<Hierarchy>,
    /// Controllers of [`NEEDED`] and block I/O (`io` or `blkio`) that no hierarchy has.
    pub missing: Vec<String>,
    /// Why the layout could not be read.
    pub error: Option<String>,
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// 1 or 2.
    pub version: u8,
    /// Where it is mounted.
    pub mount_point: String,
    /// Its controllers; `name=…` for a named one.
    pub controllers: Vec<String>,
    /// This process's group in it.
    pub own: String,
    /// Whether this user may make groups below its own one (on version 2: was delegated its group).
    pub writable: Support,
}

impl Cgroups {
    /// From `/proc/self/mountinfo`, `/proc/self/cgroup` and, on version 2, `cgroup.controllers`. Writability is asked
    /// only with `live`.
    pub fn read(files: &Files, live: bool) -> Cgroups {
        let mountinfo = files.text("/proc/self/mountinfo").unwrap_or_default();
        let own = files.text("/proc/self/cgroup").unwrap_or_default();
        let layout = match Layout::detect_from(&mountinfo, &own) {
            Ok(layout) => layout,
            Err(error) => {
                let missing = NEEDED.iter().copied().chain(["io"]).map(String::from).collect();
                return Cgroups {
                    layout: "none".into(),
                    error: Some(error.to_string()),
                    missing,
                    ..Cgroups::default()
                };
            }
        };
        let v1 = layout.v1().iter().map(|h| (1, h));
        let v2 = layout.v2().map(|h| (2, h));
        let hierarchies: Vec<Hierarchy> = v1
            .chain(v2)
            .map(|(version, h)| {
                let controllers = match version {
                    1 => h.controllers.clone(),
                    _ => {
                        let list = files.text(h.mount_point.join("cgroup.controllers")).unwrap_or_default();
                        list.split_whitespace().map(String::from).collect()
                    }
                };
                let directory = h.mount_point.join(h.own.trim_start_matches('/'));
                Hierarchy {
                    version,
                    mount_point: h.mount_point.display().to_string(),
                    controllers,
                    own: h.own.clone(),
                    writable: match live {
                        true => writable(&files.path(directory), version),
                        false => Support::unknown("recorded host"),
                    },
                }
            })
            .collect();
        let has = |name: &str| hierarchies.iter().any(|h| h.controllers.iter().any(|c| c == name));
        let mut missing: Vec<String> = NEEDED.iter().filter(|n| !has(n)).map(|n| n.to_string()).collect();
        if !has("io") && !has("blkio") {
            missing.push("io".into());
        }
        Cgroups { layout: layout.name().into(), hierarchies, missing, error: None }
    }

    /// Whether groups can be made in every hierarchy that carries a controller.
    pub fn writable(&self) -> bool {
        let carrying = || self.hierarchies.iter().filter(|h| h.controllers.iter().any(|c| !c.starts_with("name=")));
        carrying().next().is_some() && carrying().all(|h| h.writable.is_yes())
    }
}

fn writable(directory: &std::path::Path, version: u8) -> Support {
    use rustix::fs::{Access, access};
    // A delegated version 2 group has its directory, cgroup.procs and cgroup.subtree_control given to the user.
    let files: &[&str] = if version == 2 { &["", "cgroup.procs"] } else { &[""] };
    for file in files {
        if let Err(e) = access(directory.join(file), Access::WRITE_OK) {
            return Support::no(format!("{}: {}", directory.join(file).display(), std::io::Error::from(e)));
        }
    }
    Support::Yes
}
