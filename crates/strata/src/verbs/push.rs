//! `strata push`: an image to a registry.

use std::process::ExitCode;

use clap::Args;
use strata_registry::PushOptions;
use strata_spec::quantity::parse_bytes;

use super::pull::RegistryOptions;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::progress::Bars;

/// Options of `push`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strata push registry.example:5000/team/app:v1            an image by the name it has
  strata push debian:bookworm localhost:5000/debian:12     another name there")]
pub struct Push {
    /// Send blobs in chunks of this size (32m), for what stands before a registry and takes no long ones
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    chunk_size: Option<u64>,
    /// Print the digest only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryOptions,
    /// Image of the store
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where to, if not by that name: [REGISTRY/]NAME[:TAG]
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
}

impl Push {
    /// Does it.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let store = context.store()?;
        let options = PushOptions { client: self.registry.client()?, chunk: self.chunk_size };
        let to = self.destination.as_deref().unwrap_or(&self.image);
        let pushed =
            Bars::during_unless(self.quiet, |told| strata_registry::push(&store, &self.image, to, &options, told))?;
        if self.quiet {
            print(&format!("{}\n", pushed.digest))?;
        } else {
            print(&format!("{} is there, {} ({} blobs sent)\n", pushed.to, pushed.digest, pushed.sent))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
