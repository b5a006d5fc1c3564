//! `strata rm`: removes instances and what they hold on disk.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;

/// Options of `rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// Kill running instances first
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

impl Rm {
    /// Removes each instance; one that fails does not keep the others.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let supervisor = context.supervisor()?;
        let mut failures = Vec::new();
        for id in &self.ids {
            match supervisor.remove(id, self.force) {
                Ok(()) => print(&format!("{id}\n"))?,
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        let last = failures.pop();
        failures.iter().for_each(|failure| context.log.failure(failure));
        last.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}
