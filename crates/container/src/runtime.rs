//! The public face: a state root, the containers in it and their life cycle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use strata_spec::runtime::{Process, Spec};
use strata_spec::state::{State, Status};

pub use strata_spec::runtime::Resources;

use crate::error::Error;

/// A state root and the containers recorded in it.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
}

/// How [`Runtime::create`] and [`Runtime::run`] make a container.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Unix socket that receives the terminal's master descriptor. Required by `create` of a configuration with
    /// `process.terminal`, refused otherwise.
    pub console_socket: Option<PathBuf>,
    /// File that receives the first process's id, as the host sees it, before `create` returns.
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the first process.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program inherits, besides `LISTEN_FDS`.
    pub preserve_fds: u32,
    /// Enter the root by moving it over `/` and `chroot` instead of `pivot_root` (initial ramdisks).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Read `linux.cgroupsPath` as `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// The configuration, instead of the bundle's `config.json`.
    pub spec: Option<Spec>,
    /// Kept in the record for the front end.
    pub origin: BTreeMap<String, String>,
}

/// How [`Runtime::run`] accompanies the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Return once the program runs.
    pub detach: bool,
    /// Do not delete the container when the program ends.
    pub keep: bool,
}

/// What [`Container::exec`] starts, and how.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The process. Absent capabilities, AppArmor profile, SELinux label are the container's (an empty `user`
    /// is root); an absent environment is the container's as configured.
    pub process: Process,
    /// Return once the program runs.
    pub detach: bool,
    /// Unix socket that receives the terminal's master descriptor; without one a terminal is relayed to the caller's.
    pub console_socket: Option<PathBuf>,
    /// File that receives the process's id.
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program inherits.
    pub preserve_fds: u32,
    /// Cgroup below the container's, such as `/child`.
    pub cgroup: Option<PathBuf>,
    /// Allow it in a paused container: the process waits until it is resumed.
    pub ignore_paused: bool,
}

/// What became of [`Container::exec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecOutcome {
    /// It runs on; its process id as the host sees it.
    Detached {
        /// Process id.
        pid: i32,
    },
    /// It ended with this code; 128 + n for signal n.
    Exited(i32),
}

/// What [`Runtime::gc`] found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Ids of containers that were half made, or half deleted, or whose foreground `run` was killed and that have ended.
    pub removed: Vec<String>,
    /// Ids that could not be removed, and why.
    pub failed: Vec<(String, String)>,
}

/// One container of a [`Runtime`].
#[derive(Debug, Clone)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    spec: Spec,
}

fn not_yet<T>() -> Result<T, Error> {
    Err(Error::Unsupported("under construction".into()))
}

impl Runtime {
    /// Opens a state root, making the directory if need be (mode 0711).
    pub fn open(root: &Path) -> Result<Runtime, Error> {
        Ok(Runtime { root: root.to_owned() })
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// OCI `create`: namespaces, mounts, devices and hooks are done, the program waits for [`Container::start`].
    pub fn create(&self, _id: &str, _bundle: &Path, _options: &CreateOptions) -> Result<Container, Error> {
        not_yet()
    }

    /// Creates and starts. In the foreground it forwards signals, relays the terminal, waits and deletes; the value is
    /// the program's exit code, 128 + n for signal n. Detached it is 0.
    pub fn run(&self, _id: &str, _bundle: &Path, _o: &CreateOptions, _run: RunOptions) -> Result<i32, Error> {
        not_yet()
    }

    /// The container of this id.
    pub fn get(&self, _id: &str) -> Result<Container, Error> {
        not_yet()
    }

    /// All containers, by id.
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        not_yet()
    }

    /// Removes what killed Strata processes left half made.
    pub fn gc(&self) -> Result<GcReport, Error> {
        not_yet()
    }
}

impl Container {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Absolute path of the bundle.
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// When it was created: seconds since 1970 and nanoseconds, UTC.
    pub fn created(&self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH
    }

    /// The configuration it was created with.
    pub fn spec(&self) -> Result<Spec, Error> {
        Ok(self.spec.clone())
    }

    /// User id of who created it.
    pub fn owner(&self) -> u32 {
        0
    }

    /// What the front end had kept.
    pub fn origin(&self) -> &BTreeMap<String, String> {
        &self.spec.annotations
    }

    /// Things the configuration asked for that were ignored as the specification demands (unknown capabilities, failed
    /// poststart hooks…), in words; what the command should print as warnings.
    pub fn warnings(&self) -> &[String] {
        &[]
    }

    /// Process id of the first process as the host sees it, if it lives.
    pub fn pid(&self) -> Option<i32> {
        None
    }

    /// Where in its life the container is, now.
    pub fn status(&self) -> Status {
        Status::Stopped
    }

    /// The specification's state document, now.
    pub fn state(&self) -> State {
        State {
            oci_version: strata_spec::runtime::VERSION.into(),
            id: self.id.clone(),
            status: self.status(),
            pid: self.pid(),
            bundle: self.bundle.clone(),
            annotations: BTreeMap::new(),
        }
    }

    /// OCI `start`: runs the waiting program.
    pub fn start(&mut self) -> Result<(), Error> {
        not_yet()
    }

    /// OCI `kill`: `signal` to the first process, or to all. `signal` is a number; [`crate::signal_from_name`] reads names.
    pub fn kill(&self, _signal: i32, _all: bool) -> Result<(), Error> {
        not_yet()
    }

    /// OCI `delete`. With `force` a living container is killed first.
    pub fn delete(&mut self, _force: bool) -> Result<(), Error> {
        not_yet()
    }

    /// Starts another process in it.
    pub fn exec(&self, _options: &ExecOptions) -> Result<ExecOutcome, Error> {
        not_yet()
    }

    /// Freezes all its processes.
    pub fn pause(&mut self) -> Result<(), Error> {
        not_yet()
    }

    /// Thaws them.
    pub fn resume(&mut self) -> Result<(), Error> {
        not_yet()
    }

    /// Changes limits while it exists.
    pub fn update(&mut self, _resources: &Resources) -> Result<(), Error> {
        not_yet()
    }

    /// Ids of all its processes as the host sees them.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        not_yet()
    }
}
