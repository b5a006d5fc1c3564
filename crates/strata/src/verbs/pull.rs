//! `strata pull`: images from registries, and the options that all verbs of registries share.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use strata_image::Platform;
use strata_registry::{Config, Credentials, Options, PullOptions};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::progress::Bars;

/// Options of `pull`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  strata pull debian:bookworm                     a short name: Docker's registry, or as registries.conf says
  strata pull registry.example:5000/team/app@sha256:…
  strata pull --platform linux/arm64 alpine

What breaks off is gone on with by the next pull. Mirrors, short names and insecure registries are set in
containers/registries.conf, certificates in containers/certs.d, as for Podman.")]
pub struct Pull {
    /// Platform to take from an image of several (linux/arm64) [default: the host's]
    #[arg(long, value_name = "OS/ARCHITECTURE", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Only fetch; the first run unpacks
    #[arg(long)]
    no_unpack: bool,
    /// Print the digest only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryOptions,
    /// Images: [REGISTRY/]NAME[:TAG][@DIGEST]
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// How to speak to a registry.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registry")]
pub struct RegistryOptions {
    /// Credentials to use instead of those of `strata login`
    #[arg(long, value_name = "USER:PASSWORD", value_parser = Secret::parse)]
    creds: Option<Secret>,
    /// File of credentials [default: those of Podman and Docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Whether certificates are verified and plain HTTP is refused [default: yes, but for loopback and where registries.conf
    /// says otherwise]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Directory of certificates: *.crt authorities, *.cert and *.key shown to the registry
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

/// A text that no message shows.
#[derive(Clone)]
pub struct Secret(pub String);

impl Secret {
    /// Takes any text.
    pub fn parse(text: &str) -> Result<Secret, std::convert::Infallible> {
        Ok(Secret(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl RegistryOptions {
    /// The client's options.
    pub fn client(&self) -> Result<Options, Failure> {
        let credentials = match &self.creds {
            Some(Secret(text)) => Some(
                Credentials::parse(text)
                    .ok_or_else(|| Failure::new("--creds holds no colon").hint("write --creds USER:PASSWORD"))?,
            ),
            None => None,
        };
        Ok(Options {
            config: Config::load(None)?,
            credentials,
            auth_file: self.authfile.clone(),
            tls_verify: self.tls_verify,
            certificates: self.cert_dir.clone(),
            ..Options::default()
        })
    }

    /// The file of credentials.
    pub fn auth_file(&self) -> Option<&std::path::Path> {
        self.authfile.as_deref()
    }
}

impl Pull {
    /// Does it.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let store = context.store()?;
        // Another machine's files need no directory here.
        let unpack = !self.no_unpack && self.platform.as_ref().is_none_or(|platform| *platform == Platform::host());
        let options = PullOptions { client: self.registry.client()?, platform: self.platform, unpack };
        for image in &self.images {
            let pulled = Bars::during_unless(self.quiet, |told| strata_registry::pull(&store, image, &options, told))?;
            if self.quiet {
                print(&format!("{}\n", pulled.digest))?;
            } else {
                let state = if pulled.unchanged { "is up to date" } else { "is here" };
                print(&format!("{} {state}, {}\n", pulled.name, pulled.digest))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
