//! `strata supervise`: the process behind an instance in the background. Started by `run --detach`, not by people.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;

/// Options of `supervise`.
#[derive(Debug, Args)]
pub struct Supervise {
    /// The instance's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Supervise {
    /// Runs the instance until its command ends.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        context.supervisor()?.supervise_in_background(&self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}
