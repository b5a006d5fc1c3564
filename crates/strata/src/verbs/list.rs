//! `strata list`: the containers of the state directory, in runc's forms.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Table, print, print_json};

/// Options of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Form of the list
    #[arg(short, long, default_value = "table")]
    format: Format,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// One container, with runc's names of the fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    oci_version: String,
    id: String,
    pid: i32,
    status: &'static str,
    bundle: String,
    rootfs: String,
    created: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
    owner: String,
}

impl List {
    /// Prints the list.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let mut entries = Vec::new();
        for container in context.runtime()?.list()? {
            // A container can be deleted between the listing and the look at it.
            let Ok(state) = container.state() else { continue };
            entries.push(Entry {
                oci_version: state.oci_version,
                id: state.id,
                pid: state.pid.unwrap_or(0),
                status: state.status.as_str(),
                bundle: state.bundle.display().to_string(),
                rootfs: container.rootfs().display().to_string(),
                created: container.created(),
                annotations: state.annotations,
                owner: container.owner(),
            });
        }
        if self.quiet {
            for entry in &entries {
                print(&format!("{}\n", entry.id))?;
            }
        } else if self.format == Format::Json {
            print_json(&entries)?;
        } else {
            let mut table = Table::new(&["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
            for entry in entries {
                table.row([entry.id, entry.pid.to_string(), entry.status.into(), entry.bundle, entry.created, entry.owner]);
            }
            table.print()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
