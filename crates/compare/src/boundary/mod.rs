//! A boundary: something that runs a command at a distance from the host.
//!
//! Each runner is one file beside this one. It turns a command line into the host process that runs the command
//! behind that boundary ([`crate::process`] starts, measures and ends it), and says in words what its mechanism is.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Why a boundary cannot be measured here, in one line for the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(pub String);

impl Reason {
    /// A reason from anything printable.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// What is run everywhere.
#[derive(Debug, Clone)]
pub enum Workload {
    /// The built-in measures: the multi-call program of the project, at `program` inside `rootfs`.
    Suite {
        /// Unpacked root file system, an absolute directory on the host.
        rootfs: PathBuf,
        /// The program inside it, absolute there, such as `/bin/toolbox`.
        program: String,
    },
    /// A command of the user's own.
    Command {
        /// Unpacked root file system, an absolute directory on the host.
        rootfs: PathBuf,
        /// Program and arguments, the program absolute or found in the usual directories of the root file system.
        argv: Vec<String>,
        /// `NAME=value` pairs, such as the image's.
        env: Vec<String>,
        /// Working directory inside the root file system.
        cwd: String,
    },
}

impl Workload {
    /// The root file system on the host.
    pub fn rootfs(&self) -> &Path {
        match self {
            Workload::Suite { rootfs, .. } | Workload::Command { rootfs, .. } => rootfs,
        }
    }

    /// Environment of every command, `NAME=value`.
    pub fn env(&self) -> Vec<String> {
        let mut env = match self {
            Workload::Suite { .. } => Vec::new(),
            Workload::Command { env, .. } => env.clone(),
        };
        if !env.iter().any(|e| e.starts_with("PATH=")) {
            env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        }
        env
    }

    /// Working directory inside the root file system.
    pub fn cwd(&self) -> &str {
        match self {
            Workload::Suite { .. } => "/",
            Workload::Command { cwd, .. } => cwd,
        }
    }
}

/// What is observed from outside while a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Nothing: the run is not disturbed.
    Nothing,
    /// The largest sum of proportional set sizes of all processes, sampled.
    Peak,
    /// The sum once it has settled; the job is ended then and need not end by itself.
    Resident,
}

/// One run behind a boundary.
#[derive(Debug)]
pub struct Job<'a> {
    /// Command lines inside the root file system. Machines run them all in one boot, the others take one a run.
    pub commands: &'a [Vec<String>],
    /// What to observe from outside.
    pub watch: Watch,
    /// After this the run is ended and counts as failed.
    pub timeout: Duration,
    /// Raised by the caller to end everything.
    pub cancel: &'a AtomicBool,
}

/// What one command printed and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output; for machines what stood on the console between the command's markers.
    pub stdout: Vec<u8>,
    /// Exit status, 128 + signal if a signal ended it.
    pub exit: i32,
}

/// One measured run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// From the start of the first host process to the end of it.
    pub wall: Duration,
    /// User and system time of every host process the boundary needed.
    pub cpu: Duration,
    /// Bytes: the largest sum of proportional set sizes seen, at least the largest resident set of one process.
    pub peak_memory: u64,
    /// Bytes: the settled sum of proportional set sizes ([`Watch::Resident`] only).
    pub resident: Option<u64>,
    /// One for each command of the job, in order.
    pub outputs: Vec<Output>,
}

/// Something a command runs behind.
pub trait Boundary {
    /// Short stable name, such as `container` or `runsc-systrap`; the key in the JSON.
    fn id(&self) -> &str;
    /// Name for headings.
    fn title(&self) -> &str;
    /// What answers system calls and what executes instructions: why it costs what it costs.
    fn mechanism(&self) -> &'static str;
    /// Whether a whole machine is booted, so that a job may hold many commands and starting costs seconds.
    fn is_machine(&self) -> bool {
        false
    }
    /// Whether it can run on this host, decided without running a workload.
    fn available(&self) -> Result<(), Reason>;
    /// Version, as the peer itself reports it.
    fn version(&self) -> Option<String>;
    /// Makes bundles, initial file systems and the like under `scratch`, an existing empty directory.
    fn prepare(&mut self, workload: &Workload, scratch: &Path) -> Result<(), Reason>;
    /// Runs the job once. All processes have ended when it returns.
    fn run_once(&mut self, job: &Job<'_>) -> Result<Sample, Reason>;
    /// Removes what `prepare` and failed runs left outside `scratch`.
    fn clean_up(&mut self);
}

/// Where things are on this host.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The strata executable (usually `/proc/self/exe`, resolved).
    pub strata: PathBuf,
    /// Isolations of Strata to include, such as `["container"]`.
    pub isolations: Vec<String>,
    /// Whether installed peers take part.
    pub peers: bool,
    /// Where `scripts/peers.sh` unpacks peers that are not installed (see [`Setup::default_peers_dir`]).
    pub peers_dir: PathBuf,
}
