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
        if self.exists {
            // It is others' too, so it is taken as it is or not at all.
            let text = std::fs::read_to_string(&schemata).on_path("read", &schemata)?;
            return match self.schemata.iter().flat_map(|s| s.lines()).find(|line| !holds(&text, line)) {
                Some(line) => {
                    let message = format!("the existing group {} has not {line:?}", self.group.display());
                    Err(Error::invalid("linux.intelRdt", message))
                }
                None => Ok(()),
            };
        }
        for line in &self.schemata {
            append(&schemata, line).context(|| format!("write {line:?} to {}", schemata.display()))?;
        }
        Ok(())
    }

    pub(crate) fn add(&self, pid: i32) -> Result<(), Error> {
        // A monitoring group takes only tasks of the group that it is in.
        for directory in [Some(&self.group), self.monitoring.as_ref()].into_iter().flatten() {
            append(&directory.join("tasks"), &pid.to_string()).on_path("join the resource group", directory)?;
        }
        Ok(())
    }
}

/// Whether `schemata` as the kernel writes it has what a line such as `L3:0=ff;1=f` asks for. Numbers are hexadecimal
/// for caches and decimal for bandwidth; either way leading zeros mean nothing.
fn holds(schemata: &str, line: &str) -> bool {
    let parse = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let number = |text: &str| match text.trim().trim_start_matches("0x").trim_start_matches('0') {
            "" => "0".to_owned(),
            digits => digits.to_ascii_lowercase(),
        };
        let (resource, domains) = line.split_once(':')?;
        let domains = domains.split(';').map(|d| d.split_once('=').map(|(id, value)| (number(id), number(value))));
        Some((resource.trim().to_owned(), domains.collect::<Option<Vec<_>>>()?))
    };
    let Some((resource, wanted)) = parse(line) else { return line.trim().is_empty() };
    let found = schemata.lines().filter_map(parse).find(|(name, _)| *name == resource);
    found.is_some_and(|(_, found)| wanted.iter().all(|domain| found.contains(domain)))
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

    fn lines(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_task_joins_the_group_before_its_monitoring_group() {
        // Ordinary files stand in for the kernel's.
        let dir = std::env::temp_dir().join(format!("strata-rdt-{}", std::process::id()));
        let monitoring = dir.join("mon_groups/x");
        std::fs::create_dir_all(&monitoring).unwrap();
        let mut plan =
            Plan { group: dir.clone(), exists: true, monitoring: Some(monitoring.clone()), schemata: vec![] };
        for (directory, text) in [(&dir, ""), (&monitoring, "")] {
            std::fs::write(directory.join("tasks"), text).unwrap();
        }
        plan.add(42).unwrap();
        assert_eq!((lines(&dir.join("tasks")), lines(&monitoring.join("tasks"))), ("42\n".into(), "42\n".into()));
        // An existing group's schema is compared and not written.
        let text = "    MB:0= 70;1= 70\n    L3:0=0000f;1=fffff\n";
        std::fs::write(dir.join("schemata"), text).unwrap();
        plan.schemata = vec!["L3:0=f;1=fffff".into(), "MB:0=70".into()];
        plan.make().unwrap();
        plan.schemata = vec!["L3:0=ff".into()];
        assert!(plan.make().unwrap_err().to_string().contains("L3:0=ff"));
        plan.schemata = vec!["L2:0=f".into()];
        assert!(plan.make().is_err());
        assert_eq!(lines(&dir.join("schemata")), text);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn only_groups_are_removed() {
        remove(Some(Path::new("/tmp")));
        assert!(Path::new("/tmp").exists());
    }
}
