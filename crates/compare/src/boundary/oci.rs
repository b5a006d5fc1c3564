//! Runtimes of the Open Container Initiative: runc, crun and gVisor's runsc, given a bundle (OCI runtime-spec, `bundle.md`).
//!
//! The configuration is what `runc spec` writes, with the system-call filter that container engines add.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Boundary, Job, Reason, Sample, Watch, Workload, executable, peer, single, unique_name, version_line};
use crate::bundle;
use crate::process::{Invocation, run};

/// What sets one runtime apart from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Runc,
    Crun,
    /// gVisor with its platform, `ptrace` or `systrap`.
    Runsc(&'static str),
}

/// One OCI runtime.
pub(super) struct Oci {
    kind: Kind,
    program: Option<PathBuf>,
    workload: Option<Workload>,
    scratch: PathBuf,
    failed: Vec<String>,
}

impl Oci {
    pub(super) fn new(kind: Kind, peers_dir: &Path) -> Oci {
        let program = match kind {
            Kind::Runc => peer(peers_dir, "runc"),
            Kind::Crun => peer(peers_dir, "crun"),
            Kind::Runsc(_) => peer(peers_dir, "runsc"),
        };
        Oci { kind, program, workload: None, scratch: PathBuf::new(), failed: Vec::new() }
    }

    /// The runtime with its global options; its state stays in the scratch directory.
    fn runtime(&self) -> Vec<String> {
        let program = self.program.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let mut argv = vec![program, "--root".into(), self.scratch.join("state").to_string_lossy().into_owned()];
        if let Kind::Runsc(platform) = self.kind {
            argv.push(format!("--platform={platform}"));
            // Loopback inside, as for the others; cgroups of this hybrid kind are not known to it.
            argv.extend(["--network=none", "--ignore-cgroups"].map(String::from));
        }
        argv
    }

    fn invocation(&self, verb: &[&str]) -> Invocation {
        let mut argv = self.runtime();
        argv.extend(verb.iter().map(ToString::to_string));
        let mut invocation = Invocation::of(argv);
        // crun refuses a host that has both kinds of cgroups; all runtimes get the same view.
        invocation.hide = bundle::unified_beside_v1();
        invocation
    }
}

impl Boundary for Oci {
    fn id(&self) -> &str {
        match self.kind {
            Kind::Runc => "runc",
            Kind::Crun => "crun",
            Kind::Runsc("ptrace") => "runsc-ptrace",
            Kind::Runsc(_) => "runsc-systrap",
        }
    }

    fn title(&self) -> &str {
        match self.kind {
            Kind::Runc => "runc",
            Kind::Crun => "crun",
            Kind::Runsc("ptrace") => "gVisor ptrace",
            Kind::Runsc(_) => "gVisor systrap",
        }
    }

    fn mechanism(&self) -> &'static str {
        match self.kind {
            Kind::Runc | Kind::Crun => {
                "OS-level isolation: namespaces, cgroups, capabilities and a system-call filter. The host's kernel \
                 answers, the processor executes."
            }
            Kind::Runsc("ptrace") => {
                "A kernel in user space: gVisor's kernel answers system calls caught with ptrace, two switches of \
                 process each; the processor executes. Its file tree is an overlay of its own."
            }
            Kind::Runsc(_) => {
                "A kernel in user space: gVisor's kernel answers system calls caught by seccomp's signal or a patched \
                 jump; the processor executes. Its file tree is an overlay of its own."
            }
        }
    }

    fn available(&self) -> Result<(), Reason> {
        let name = match self.kind {
            Kind::Runc => "runc",
            Kind::Crun => "crun",
            Kind::Runsc(_) => "runsc",
        };
        let program = self.program.as_deref().ok_or_else(|| Reason(format!("{name} is not installed")))?;
        executable(program)?;
        if self.kind == Kind::Runsc("systrap")
            && let Some(version) = self.version()
            && release_date(&version).is_some_and(|date| date < 20_230_401)
        {
            return Err(Reason(format!("{version} has no systrap; it came in April 2023")));
        }
        Ok(())
    }

    fn version(&self) -> Option<String> {
        version_line(self.program.as_deref()?, "--version")
    }

    fn prepare(&mut self, workload: &Workload, scratch: &Path) -> Result<(), Reason> {
        self.workload = Some(workload.clone());
        self.scratch = scratch.to_path_buf();
        fs::create_dir_all(scratch.join("bundle")).map_err(|e| Reason(format!("cannot make a bundle: {e}")))
    }

    fn run_once(&mut self, job: &Job<'_>) -> Result<Sample, Reason> {
        let workload = self.workload.as_ref().ok_or_else(|| Reason::new("not prepared"))?;
        let directory = self.scratch.join("bundle");
        // gVisor filters by itself: the container's calls never reach the host.
        let seccomp = if matches!(self.kind, Kind::Runsc(_)) { None } else { bundle::default_seccomp() };
        let config = bundle::config(workload.rootfs(), &job.commands[0], &workload.env(), workload.cwd(), seccomp);
        fs::write(directory.join("config.json"), config.to_string())
            .map_err(|e| Reason(format!("cannot write a bundle: {e}")))?;
        let name = unique_name();
        let sample = single(&self.invocation(&["run", "--bundle", &directory.to_string_lossy(), &name]), job);
        if sample.is_err() {
            self.failed.push(name);
        }
        sample
    }

    fn clean_up(&mut self) {
        for name in std::mem::take(&mut self.failed) {
            // It is gone unless the runtime was killed; then this removes its state and cgroups.
            let _ = run(
                &self.invocation(&["delete", "--force", &name]),
                Watch::Nothing,
                Duration::from_secs(10),
                &AtomicBool::new(false),
            );
        }
    }
}

/// The date in a Debian version of gVisor, `0.0~20240729.0`, as a number.
fn release_date(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).find(|part| part.len() == 8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let oci = |kind| Oci {
            kind,
            program: Some("/usr/bin/x".into()),
            workload: None,
            scratch: "/s".into(),
            failed: vec![],
        };
        assert_eq!(oci(Kind::Runc).invocation(&["run"]).steps, [["/usr/bin/x", "--root", "/s/state", "run"]]);
        let runsc = oci(Kind::Runsc("ptrace")).invocation(&["run"]).steps.remove(0).join(" ");
        assert_eq!(runsc, "/usr/bin/x --root /s/state --platform=ptrace --network=none --ignore-cgroups run");
    }

    #[test]
    fn dates_of_releases() {
        assert_eq!(release_date("runsc version 0.0~20221219.0"), Some(20_221_219));
        assert_eq!(release_date("runsc version release-1"), None);
    }
}
