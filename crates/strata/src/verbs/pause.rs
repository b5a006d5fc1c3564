//! `strata pause` and `strata resume`: the freezer.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;

/// Options of `pause`.
#[derive(Debug, Args)]
pub struct Pause {
    /// Name or id
    #[arg(value_name = "ID")]
    id: String,
}

/// Options of `resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// Name or id
    #[arg(value_name = "ID")]
    id: String,
}

impl Pause {
    /// Freezes every process.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        context.container(&self.id)?.pause()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Resume {
    /// Lets every process go on.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        context.container(&self.id)?.resume()?;
        Ok(ExitCode::SUCCESS)
    }
}
