//! `strata list`: the containers of the state directory, in runc's forms.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde::Serialize;
use strata_container::Container;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// Absolute path of the container's root on the host.
fn rootfs(container: &Container) -> String {
    let root = container.spec().ok().and_then(|spec| spec.root).map(|root| root.path).unwrap_or_default();
    container.bundle().join(root).display().to_string()
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The name of a user, or the number where there is none.
fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut entries = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entries
        .find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(uid))
        .map_or_else(|| uid.to_string(), |fields| fields[0].to_string())
}

impl List {
    /// Prints the list.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let mut entries = Vec::new();
        for container in context.runtime()?.list()? {
            let state = container.state();
            entries.push(Entry {
                oci_version: state.oci_version,
                id: state.id,
                pid: state.pid.unwrap_or(0),
                status: state.status.as_str(),
                bundle: state.bundle.display().to_string(),
                rootfs: rootfs(&container),
                created: rfc3339(container.created()),
                annotations: state.annotations,
                owner: user_name(container.owner()),
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
                table.row([
                    entry.id,
                    entry.pid.to_string(),
                    entry.status.into(),
                    entry.bundle,
                    entry.created,
                    entry.owner,
                ]);
            }
            table.print()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
