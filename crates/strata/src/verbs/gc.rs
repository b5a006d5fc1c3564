//! `strata gc`: removes what killed processes left behind.

use std::process::ExitCode;

use clap::Args;
use strata_spec::quantity::format_bytes;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_json};

/// Options of `gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Gc {
    /// Sweeps containers, instances and the image store.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let report = context.supervisor()?.gc()?;
        if self.json {
            print_json(&report)?;
        } else {
            for id in report.containers.iter().chain(&report.instances) {
                print(&format!("removed {id}\n"))?;
            }
            print(&format!(
                "{} half-made containers, {} instances, {} of image data removed\n",
                report.containers.len(),
                report.instances.len(),
                format_bytes(report.image_bytes)
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
