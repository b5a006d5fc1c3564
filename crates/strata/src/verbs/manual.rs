//! `strata completions` and `strata manual`: made from the same definitions as the parser.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn execute(self, _: &Context) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "strata", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Options of `manual`.
#[derive(Debug, Args)]
pub struct Manual {
    /// Where the pages (`strata.1`, `strata-run.1`, …) go
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
}

impl Manual {
    /// Writes one page a verb.
    pub fn execute(self, _: &Context) -> Result<ExitCode, Failure> {
        std::fs::create_dir_all(&self.directory)
            .map_err(|error| Failure::new(format!("cannot make {}: {error}", self.directory.display())))?;
        clap_mangen::generate_to(Cli::command(), &self.directory).map_err(|error| {
            Failure::new(format!("cannot write manual pages to {}: {error}", self.directory.display()))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
