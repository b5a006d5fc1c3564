//! `strata kill`: sends a signal.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;

/// Options of `kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Send to every process of the container, not only the first
    #[arg(short, long)]
    all: bool,
    /// Signal, by name or number
    #[arg(short, long = "signal", value_name = "SIGNAL", conflicts_with = "signal")]
    signal_option: Option<String>,
    /// Name or id
    #[arg(value_name = "ID")]
    id: String,
    /// Signal, by name or number [default: SIGTERM]
    #[arg(value_name = "SIGNAL", allow_hyphen_values = true)]
    signal: Option<String>,
}

impl Kill {
    /// Sends the signal.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let signal = self.signal.or(self.signal_option).unwrap_or_else(|| "SIGTERM".into());
        let signal = strata_container::signal_from_name(&signal)
            .ok_or_else(|| Failure::new(format!("unknown signal '{signal}'")).hint("`kill -l` lists the names"))?;
        context.container(&self.id)?.kill(signal, self.all)?;
        Ok(ExitCode::SUCCESS)
    }
}
