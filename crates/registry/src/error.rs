//! What can go wrong between Strata and a registry; which of it may pass by itself.

use std::path::PathBuf;
use std::time::Duration;

/// An error of the registry client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image store refused.
    #[error(transparent)]
    Image(#[from] strata_image::Error),
    /// A name that leads to no registry.
    #[error("`{text}` names no image of a registry: {reason}")]
    Name {
        /// The text as given.
        text: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A configuration file is not acceptable.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The registry cannot be reached, or the connection broke.
    #[error("cannot reach {host}: {reason}")]
    Connection {
        /// The host and port.
        host: String,
        /// What the system, TLS or HTTP said.
        reason: String,
        /// Whether a further attempt may succeed.
        transient: bool,
    },
    /// TLS was refused.
    #[error("{host}: {reason}")]
    Tls {
        /// The host and port.
        host: String,
        /// What is wrong, and where certificates are given.
        reason: String,
    },
    /// The registry answered with an error.
    #[error("{host}: {action}: {reason}")]
    Status {
        /// The host and port.
        host: String,
        /// What was asked for: "GET /v2/…".
        action: String,
        /// The HTTP status.
        status: u16,
        /// The registry's words, or the status's.
        reason: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// What was asked for is not there.
    #[error("{host} has no {what}")]
    NotFound {
        /// The host and port.
        host: String,
        /// "manifest team/app:latest", "blob sha256:…".
        what: String,
    },
    /// The registry wants credentials, or others.
    #[error("{host} refuses access to {what}: {reason}; try `strata login {host}`")]
    Unauthorized {
        /// The host and port.
        host: String,
        /// What was asked for.
        what: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry's answer is not what the protocol, or it itself, promises.
    #[error("{host} answers wrongly: {reason}")]
    Protocol {
        /// The host and port.
        host: String,
        /// What was promised and what came.
        reason: String,
    },
    /// A credential helper failed.
    #[error("credential helper docker-credential-{helper}: {reason}")]
    Helper {
        /// The helper's name without prefix.
        helper: String,
        /// Its words.
        reason: String,
    },
    /// Something on this machine failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was done, as the start of a sentence: "cannot open".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// None of several places had the image.
    #[error("no registry gave `{name}`: {reasons}")]
    Nowhere {
        /// The image.
        name: String,
        /// Each place's error.
        reasons: String,
    },
    /// `--pull never`, and it is not in the store.
    #[error("no image `{0}` in the store, and pulling it is not wished")]
    NotPulled(String),
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Error::Connection { transient, .. } => *transient,
            Error::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// How long the registry asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }
}
