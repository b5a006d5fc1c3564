//! The bare host: the yardstick.

use std::path::Path;

use super::{Boundary, Job, Reason, Sample, Workload, single};
use crate::process::Invocation;
use crate::run::FILES;

/// No boundary at all.
#[derive(Default)]
pub(super) struct Bare {
    workload: Option<Workload>,
}

impl Boundary for Bare {
    fn id(&self) -> &str {
        "bare"
    }

    fn title(&self) -> &str {
        "Bare host"
    }

    fn mechanism(&self) -> &'static str {
        "No boundary. The host's kernel answers system calls, the processor executes the program. A command from an \
         image only gets the image as its root directory."
    }

    fn available(&self) -> Result<(), Reason> {
        Ok(())
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn prepare(&mut self, workload: &Workload, _scratch: &Path) -> Result<(), Reason> {
        self.workload = Some(workload.clone());
        Ok(())
    }

    fn run_once(&mut self, job: &Job<'_>) -> Result<Sample, Reason> {
        let workload = self.workload.as_ref().ok_or_else(|| Reason::new("not prepared"))?;
        single(&invocation(workload, &job.commands[0]), job)
    }

    fn clean_up(&mut self) {}
}

/// The suite's program runs from where it lies; an image's needs the image around it.
fn invocation(workload: &Workload, command: &[String]) -> Invocation {
    let mut invocation = Invocation::of(command.to_vec());
    invocation.env = workload.env();
    match workload {
        Workload::Suite { rootfs, program } => {
            // The same files on the same file system as everywhere else.
            invocation.cwd = rootfs.clone();
            for word in invocation.steps[0].iter_mut().filter(|word| *word == FILES) {
                *word = rootfs.to_string_lossy().into_owned();
            }
            if let Some(first) = invocation.steps[0].first_mut().filter(|first| *first == program) {
                *first = rootfs.join(program.trim_start_matches('/')).to_string_lossy().into_owned();
            }
        }
        Workload::Command { rootfs, cwd, .. } => {
            invocation.root = Some(rootfs.clone());
            invocation.cwd = cwd.into();
        }
    }
    invocation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_runs_in_place_and_an_image_in_its_own_root() {
        let suite = Workload::Suite { rootfs: "/srv/root".into(), program: "/bin/toolbox".into() };
        let got = invocation(&suite, &["/bin/toolbox", "bench", "file", "--dir", FILES].map(String::from));
        assert_eq!(got.steps, [["/srv/root/bin/toolbox", "bench", "file", "--dir", "/srv/root"]]);
        assert_eq!((got.root, got.cwd), (None, "/srv/root".into()));

        let command =
            Workload::Command { rootfs: "/srv/root".into(), argv: vec![], env: vec!["A=1".into()], cwd: "/w".into() };
        let got = invocation(&command, &["ls".into()]);
        assert_eq!(
            (got.root, got.cwd, got.steps),
            (Some("/srv/root".into()), "/w".into(), vec![vec!["ls".to_string()]])
        );
        assert!(got.env.contains(&"A=1".into()) && got.env.iter().any(|e| e.starts_with("PATH=")));
    }
}
