//! `strata features`: what the container runtime supports (OCI runtime-spec, features.md).

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print_json;

/// `features` has no options.
#[derive(Debug, Args)]
pub struct Features {}

impl Features {
    /// Prints the document.
    pub fn execute(self, _: &Context) -> Result<ExitCode, Failure> {
        print_json(&strata_container::features())?;
        Ok(ExitCode::SUCCESS)
    }
}
