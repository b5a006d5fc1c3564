//! `strata state`: the OCI state document.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print_json;

/// Options of `state`.
#[derive(Debug, Args)]
pub struct State {
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

impl State {
    /// Prints the state.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        print_json(&context.container(&self.id)?.state())?;
        Ok(ExitCode::SUCCESS)
    }
}
