//! `strata start`: runs a created container's program.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;

/// Options of `start`.
#[derive(Debug, Args)]
pub struct Start {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Start {
    /// Starts the program.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        for warning in context.container(&self.id)?.start()? {
            context.log.warning(&warning);
        }
        Ok(ExitCode::SUCCESS)
    }
}
