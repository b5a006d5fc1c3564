//! Instances: a workload, its root file system and its container, from `run` to `rm`.
//!
//! One instance is one directory below the store (`instances/ID`) with a record of what was asked ([`Record`]), the
//! writable layer, and the exit code once there is one. The process that runs an instance is its supervisor: the
//! command itself for a run in the foreground, a child of it for one in the background. The supervisor has a mount
//! namespace of its own, so whatever it mounts ends with it, however it ends.

pub mod container_spec;
mod instance;
mod profile;
mod supervisor;
mod sys;
pub mod workload;

use std::path::{Path, PathBuf};

pub use instance::{Info, Record};
pub use supervisor::{Lifetime, Outcome, Request, Supervisor, SweepReport};

/// Why an instance could not be made, run or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Option(String),
    /// A name that is taken.
    #[error("an instance named '{0}' exists: remove it with `strata rm {0}` or choose another name")]
    Exists(String),
    /// No such instance.
    #[error("no instance named '{0}': `strata ps --all` lists them")]
    NotFound(String),
    /// The instance runs.
    #[error("instance '{0}' is running: stop it first, or remove it with --force")]
    Running(String),
    /// A root file system that cannot be used.
    #[error("root directory {path}: {problem}")]
    Rootfs {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file operation failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: std::io::Error,
    },
    /// A system call of the supervisor failed.
    #[error("cannot {what}: {source}")]
    Host {
        /// What it was for.
        what: &'static str,
        /// The host's reason.
        source: std::io::Error,
    },
    /// The background supervisor reported a failure.
    #[error("{message}")]
    Background {
        /// Its message.
        message: String,
        /// Its exit code.
        code: i32,
    },
    /// The container could not be made or run.
    #[error(transparent)]
    Container(#[from] strata_container::Error),
    /// The image could not be used.
    #[error(transparent)]
    Image(#[from] strata_image::Error),
}

impl Error {
    pub(crate) fn option(text: impl Into<String>) -> Error {
        Error::Option(text.into())
    }

    pub(crate) fn read(path: &Path, source: std::io::Error) -> Error {
        Error::io("read", path, source)
    }

    pub(crate) fn io(what: &'static str, path: &Path, source: std::io::Error) -> Error {
        Error::Io { what, path: path.to_path_buf(), source }
    }

    /// The exit code of `run`: 126 and 127 as shells have them for a command that cannot be executed or is not there,
    /// 125 for everything else.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Container(error) => match error.exit_code() {
                code @ (126 | 127) => code,
                _ => 125,
            },
            Error::Background { code, .. } => *code,
            _ => 125,
        }
    }
}
