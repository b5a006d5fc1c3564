//! `strata spec`: a sample config.json, to start a bundle from.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use strata_image::RunConfig;
use strata_spec::runtime::User;
use strata_supervise::container_spec::build_for;
use strata_supervise::workload::{Source, Workload};

use crate::context::Context;
use crate::failure::Failure;

/// Options of `spec`.
#[derive(Debug, Args)]
pub struct Spec {
    /// Directory to write config.json to [default: the working directory]
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

impl Spec {
    /// Writes the sample; an existing file is kept.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let path = self.bundle.as_deref().unwrap_or(Path::new(".")).join("config.json");
        let mut workload = Workload::new(Source::Directory("rootfs".into()), vec!["sh".into()]);
        workload.terminal = true;
        workload.read_only = true;
        let rootless = context.global.rootless == "true";
        let mut spec =
            build_for("strata", &workload, Path::new("rootfs"), &RunConfig::default(), User::default(), rootless)?;
        // The lowest version that has all of the sample's fields, `defaultErrnoRet` being the newest: older runtimes refuse
        // newer documents.
        spec.oci_version = "1.1.0".into();
        if let Some(linux) = &mut spec.linux {
            // The runtime derives it from the container's id.
            linux.cgroups_path = None;
        }
        let text = serde_json::to_string_pretty(&spec)? + "\n";
        let mut file = std::fs::File::create_new(&path).map_err(|error| {
            Failure::new(format!("cannot write {}: {error}", path.display()))
                .hint("an existing config.json is kept: move it away first")
        })?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
