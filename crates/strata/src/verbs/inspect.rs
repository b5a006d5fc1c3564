//! `strata inspect`: everything known of instances or images, as JSON.

use std::process::ExitCode;

use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print_json;

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Accepted for symmetry: the output is JSON
    #[arg(long, hide = true)]
    json: bool,
    /// Names or ids of instances, or references of images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Inspect {
    /// Prints an array with one object a name.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let supervisor = context.supervisor()?;
        let store = context.store()?;
        let mut found = Vec::new();
        for name in &self.names {
            if let Some(instance) = supervisor.inspect(name)? {
                found.push(instance);
            } else if store.resolve(name)?.is_some() {
                found.push(serde_json::to_value(store.inspect(name)?)?);
            } else {
                return Err(Failure::new(format!("no instance and no image named '{name}'"))
                    .hint("`strata ps --all` and `strata image ls` list them"));
            }
        }
        print_json(&found)?;
        Ok(ExitCode::SUCCESS)
    }
}
