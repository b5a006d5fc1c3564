//! Images from and to registries: the client side of the OCI distribution specification 1.1, which is Docker's
//! registry protocol, version 2.
//!
//! A registry is a web server with three kinds of things below `/v2/NAME/`: *manifests*, found by tag or digest, the
//! *blobs* they name, found by digest, and *uploads* under way. Everything a registry says is checked against digests
//! and bounds: who holds the digest of an image can take it from a mirror that nobody trusts.
//!
//! The walk of a pull through this crate:
//! 1. [`name`] says which registry and repository a name means, [`config`] where else it may be and in which order.
//! 2. `client` talks to one host: it finds out whether it has TLS (`agent`), answers its [`challenge`] with
//!    [`credentials`], follows redirects, waits and tries again.
//! 3. `pull` gets the manifest, chooses by platform, fetches the layers in parallel into the store, each resumed where it
//!    broke off, and unpacks the lower ones while the upper are on their way.
//!
//! `push` is the way back: blobs that the registry lacks, then the manifest, byte for byte.
#![forbid(unsafe_code)]

mod agent;
pub mod challenge;
mod client;
pub mod config;
pub mod credentials;
mod error;
pub mod name;
mod pull;
mod push;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use agent::{Patience, Trust};
pub use client::{Client, Options};
pub use config::Config;
pub use credentials::Credentials;
pub use error::Error;
pub use name::Remote;
pub use pull::{PullOptions, PullPolicy, Pulled, ensure, pull};
pub use push::{PushOptions, Pushed, push};

/// The user's directory of configuration.
pub(crate) fn user_config() -> Option<PathBuf> {
    match std::env::var_os("XDG_CONFIG_HOME") {
        Some(dir) if !dir.is_empty() => Some(dir.into()),
        _ => home().map(|home| home.join(".config")),
    }
}

pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// A whole file; `None` if there is none. One longer than `limit` bytes is refused.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)) {
        Ok(_) if bytes.len() as u64 > limit => {
            let reason = format!("it is longer than {limit} bytes");
            Err(Error::Config { path: path.to_owned(), reason })
        }
        Ok(_) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("cannot read", path)(error)),
    }
}

/// What a stranger says, fit for a line on a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if text.chars().nth(300).is_some() {
        line.push('…');
    }
    line
}
