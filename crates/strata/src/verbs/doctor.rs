//! `strata doctor`: what this host offers.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Examines the host and prints what was found.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let report = strata_host::examine(&context.store_root());
        if self.json {
            print_json(&report)?;
        } else {
            let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let width =
                rustix::termios::tcgetwinsize(std::io::stdout()).map_or(100, |size| usize::from(size.ws_col.max(60)));
            print(&strata_host::render(&report, width, color))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
