//! Strata itself, one row for each isolation this build and host offer.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Boundary, Job, Reason, Sample, Watch, Workload, executable, single, version_line};
use crate::process::{Invocation, run};

/// `strata run --isolation KIND`.
pub(super) struct Strata {
    strata: PathBuf,
    isolation: String,
    title: String,
    workload: Option<Workload>,
    names: Vec<String>,
}

impl Strata {
    pub(super) fn new(strata: PathBuf, isolation: &str) -> Strata {
        Strata {
            strata,
            title: format!("Strata {isolation}"),
            isolation: isolation.into(),
            workload: None,
            names: Vec::new(),
        }
    }

    fn arguments(&self, workload: &Workload, command: &[String], name: &str) -> Vec<String> {
        let mut argv = vec![self.strata.to_string_lossy().into_owned(), "run".into()];
        argv.extend(["--isolation".into(), self.isolation.clone()]);
        argv.extend(["--name".into(), name.into()]);
        argv.extend(["--rootfs".into(), workload.rootfs().to_string_lossy().into_owned()]);
        argv.extend(["--workdir".into(), workload.cwd().into()]);
        for env in workload.env() {
            argv.extend(["--env".into(), env]);
        }
        argv.push("--".into());
        argv.extend(command.iter().cloned());
        argv
    }
}

impl Boundary for Strata {
    fn id(&self) -> &str {
        &self.isolation
    }

    fn title(&self) -> &str {
        &self.title
    }

    fn mechanism(&self) -> &'static str {
        match self.isolation.as_str() {
            "container" => {
                "OS-level isolation: namespaces, cgroups, capabilities and a system-call filter. The host's kernel \
                 answers, the processor executes."
            }
            "userkernel" => {
                "A kernel in user space: Strata's own kernel answers system calls caught in stub processes; the \
                 processor executes."
            }
            "vm" => "Hardware-assisted hypervisor: a guest kernel answers; the processor executes it through KVM.",
            "paravirt" => "Paravirtualisation: a guest kernel that knows it is one answers; the processor executes.",
            "emulated" => "Hosted hypervisor in software: a guest kernel answers; a translator executes instructions.",
            _ => "An isolation of Strata.",
        }
    }

    fn is_machine(&self) -> bool {
        false // A machine of Strata runs one command a start like every other isolation.
    }

    fn available(&self) -> Result<(), Reason> {
        executable(&self.strata)
    }

    fn version(&self) -> Option<String> {
        version_line(&self.strata, "--version")
    }

    fn prepare(&mut self, workload: &Workload, _scratch: &Path) -> Result<(), Reason> {
        self.workload = Some(workload.clone());
        Ok(())
    }

    fn run_once(&mut self, job: &Job<'_>) -> Result<Sample, Reason> {
        let workload = self.workload.as_ref().ok_or_else(|| Reason::new("not prepared"))?;
        let name = super::unique_name();
        let sample = single(&Invocation::of(self.arguments(workload, &job.commands[0], &name)), job);
        if sample.is_err() {
            self.names.push(name);
        }
        sample
    }

    fn clean_up(&mut self) {
        for name in self.names.drain(..) {
            let argv = [self.strata.to_string_lossy().as_ref(), "rm", "--force", &name].map(String::from);
            // It is usually gone already.
            let _ = run(&Invocation::of(argv.into()), Watch::Nothing, Duration::from_secs(10), &AtomicBool::new(false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line() {
        let workload =
            Workload::Command { rootfs: "/r".into(), argv: vec![], env: vec!["PATH=/bin".into()], cwd: "/w".into() };
        let strata = Strata::new("/usr/bin/strata".into(), "container");
        let argv = strata.arguments(&workload, &["sh".into(), "-c".into(), "exit 3".into()], "x");
        assert_eq!(
            argv.join("|"),
            "/usr/bin/strata|run|--isolation|container|--name|x|--rootfs|/r|--workdir|/w|--env|PATH=/bin|--|sh|-c|exit 3"
        );
    }
}
