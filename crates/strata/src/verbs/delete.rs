//! `strata delete`: removes a stopped container and all that was made for it.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;

/// Options of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container first if it runs; an unknown id is no error
    #[arg(short, long)]
    force: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl Delete {
    /// Deletes the container.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        for warning in context.runtime()?.delete(&self.id, self.force)? {
            context.log.warning(&warning);
        }
        Ok(ExitCode::SUCCESS)
    }
}
