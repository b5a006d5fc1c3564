//! Intel resource director technology (OCI runtime-spec, `config-linux.md`, "IntelRdt"): cache and memory bandwidth by
//! groups of the `resctrl` file system.

use std::io::Write;
use std::path::{Path, PathBuf};

use strata_spec::runtime::IntelRdt;

use crate::error::{Context, Error};

const ROOT: &str = "/sys/fs/resctrl";
const RDTGROUP_SUPER_MAGIC: u64 = 0x0765_5821;

/// A group to make or to join.
#[derive(Debug)]
pub(crate) struct Plan {
    group: PathBuf,
    exists: bool,
    monitoring: Option<PathBuf>,
    schemata: Vec<String>,
}

/// Decides on the group; an error if the kernel has no `resctrl`.
pub(crate) fn plan(rdt: &IntelRdt, id: &str) -> Result<Plan, Error> {
    let mounted = rustix::fs::statfs(ROOT).is_ok_and(|s| s.f_type as u64 == RDTGROUP_SUPER_MAGIC);
    if !mounted {
        let message =
            format!("linux.intelRdt needs a CPU with resource director technology and resctrl mounted on {ROOT}");
        return Err(Error::Unsupported(message));
    }
    let name = rdt.clos_id.as_deref().unwrap_or(id);
    if name.is_empty() || name == "." || name == ".." || (name.contains('/') && name != "/") {
        return Err(Error::invalid("linux.intelRdt.closID", format!("{name:?} is not the name of a group")));
    }
    let group = if name == "/" { PathBuf::from(ROOT) } else { Path::new(ROOT).join(name) };
    let exists = group.is_dir();
    let schemata: Vec<String> =
        rdt.l3_cache_schema.iter().chain(&rdt.mem_bw_schema).chain(&rdt.schemata).cloned().collect();
    if rdt.clos_id.is_some() && schemata.is_empty() && !exists {
        let message = format!("the group {name:?} does not exist, and there is no schema to make it with");
        return Err(Error::invalid("linux.intelRdt.closID", message));
    }
    let monitoring = rdt.enable_monitoring.then(|| group.join("mon_groups").join(id));
    Ok(Plan { group, exists, monitoring, schemata })
}

impl Plan {
    /// The directory that is the container's own and goes with it.
    pub(crate) fn own_group(&self) -> Option<PathBuf> {
        if self.exists { self.monitoring.clone() } else { Some(self.group.clone()) }
    }

    pub(crate) fn make(&self) -> Result<(), Error> {
        for directory in [Some(&self.group), self.monitoring.as_ref()].into_iter().flatten() {
            match std::fs::create_dir(directory) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                other => other.on_path("make the resource group", directory)?,
            }
        }
        let schemata = self.group.join("schemata");
        for line in &self.schemata {
            append(&schemata, line).context(|| format!("write {line:?} to {}", schemata.display()))?;
        }
        Ok(())
    }

    pub(crate) fn add(&self, pid: i32) -> Result<(), Error> {
        let directory = self.monitoring.as_ref().unwrap_or(&self.group);
        append(&directory.join("tasks"), &pid.to_string()).on_path("join the resource group", directory)
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(path)?.write_all(format!("{line}\n").as_bytes())
}

/// Removes a container's own group; best effort, as its tasks are gone.
pub(crate) fn remove(group: Option<&Path>) {
    if let Some(group) = group.filter(|g| g.starts_with(ROOT) && *g != Path::new(ROOT)) {
        let _ = std::fs::remove_dir(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_it_is_named() {
        if !Path::new(ROOT).join("schemata").exists() {
            let error = plan(&IntelRdt::default(), "x").unwrap_err().to_string();
            assert!(error.contains("resctrl"), "{error}");
        }
    }

    #[test]
    fn only_groups_are_removed() {
        remove(Some(Path::new("/tmp")));
        assert!(Path::new("/tmp").exists());
    }
}
