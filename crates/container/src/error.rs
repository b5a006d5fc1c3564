//! What can go wrong, each message naming the thing, the value and what would be right.

use std::io;
use std::path::{Path, PathBuf};

use strata_spec::state::Status;

/// An error of the container runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `config.json` cannot be read.
    #[error("cannot read {path}: {source}")]
    ConfigUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `config.json` is not a configuration.
    #[error("{path}:{line}:{column}: {message}")]
    ConfigMalformed {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there, naming the field.
        message: String,
    },
    /// The configuration asks for what is contradictory or impossible.
    #[error("config.json: {field}: {message}")]
    Invalid {
        /// The field, as a path such as `linux.namespaces[2].type`.
        field: String,
        /// What is wrong with it and what would be right.
        message: String,
    },
    /// An option of the caller contradicts the configuration.
    #[error("{0}")]
    Options(String),
    /// Not an acceptable container id.
    #[error(
        "invalid container id {0:?}: it must be 1 to 1024 letters, digits, '_', '+', '-' or '.', and not '.' or '..'"
    )]
    InvalidId(String),
    /// A container of this id exists.
    #[error("container with given ID already exists: {0:?}")]
    Exists(String),
    /// No container of this id exists.
    #[error("container does not exist: {0:?}")]
    NotFound(String),
    /// The verb needs another status.
    #[error("cannot {verb} container {id:?} in status {status}: it must be {wanted}")]
    WrongStatus {
        /// What was asked.
        verb: &'static str,
        /// The container.
        id: String,
        /// Its status.
        status: Status,
        /// The statuses that would be right.
        wanted: &'static str,
    },
    /// There is no process to signal. Docker's and containerd's shims look for these words.
    #[error("cannot signal container {0:?}: container not running (it is stopped)")]
    NotRunning(String),
    /// The container's record is damaged.
    #[error("the record {path} is damaged: {message}; `delete --force` removes it")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A system call on the runtime's side failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was attempted, naming the object.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Setting the container up failed on the container's side.
    #[error("{0}")]
    Setup(String),
    /// The program was not found in the container.
    #[error("{0}")]
    ProgramNotFound(String),
    /// The program was found but cannot be executed.
    #[error("{0}")]
    ProgramNotExecutable(String),
    /// The process being set up ended without a word.
    #[error("the container's first process ended while it was being set up ({0})")]
    InitDied(String),
    /// A process that was to join a container ended without a word.
    #[error("the process ended while it was being set up ({0})")]
    ProcessDied(String),
    /// A hook failed or ran out of time.
    #[error("{kind} hook {path}: {message}")]
    Hook {
        /// `createRuntime`, …
        kind: &'static str,
        /// The program.
        path: PathBuf,
        /// Its fate.
        message: String,
    },
    /// The cgroup could not be made, changed or removed.
    #[error("cgroup: {0}")]
    Cgroup(String),
    /// The system-call filter could not be compiled.
    #[error("seccomp: {0}")]
    Seccomp(String),
    /// The kernel lacks something the configuration asks for.
    #[error("{0}")]
    Unsupported(String),
}

impl Error {
    /// The exit code that `run` and `exec` answer with: 127 when the program is missing, 126 when it cannot be
    /// executed, 1 otherwise.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::ProgramNotFound(_) => 127,
            Error::ProgramNotExecutable(_) => 126,
            _ => 1,
        }
    }

    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::System { what: what.into(), source: source.into() }
    }

    pub(crate) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), message: message.into() }
    }
}

/// Names what was attempted when a system call fails.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
    fn on_path(self, verb: &str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|e| Error::system(what(), e))
    }

    fn on_path(self, verb: &str, path: &Path) -> Result<T, Error> {
        self.map_err(|e| Error::system(format!("{verb} {}", path.display()), e))
    }
}
