//! A boundary: something that runs a command at a distance from the host.
//!
//! Each runner is one file beside this one. It turns a command line into the host process that runs the command
//! behind that boundary ([`crate::process`] starts, measures and ends it), and says in words what its mechanism is.

mod bare;
mod initramfs;
mod machine;
mod oci;
mod strata;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::process::{Invocation, find_program, run};

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
    /// From the start of the program on the host to its end; what it leaves behind is awaited, but not in this.
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

impl Setup {
    /// `$STRATA_PEERS`, else the directory `scripts/peers.sh` uses.
    pub fn default_peers_dir() -> PathBuf {
        std::env::var_os("STRATA_PEERS")
            .filter(|v| !v.is_empty())
            .map_or_else(|| "/var/lib/strata/peers".into(), PathBuf::from)
    }

    /// Every boundary of the comparison, available or not; the bare host first.
    pub fn boundaries(&self) -> Vec<Box<dyn Boundary>> {
        let mut all: Vec<Box<dyn Boundary>> = vec![Box::new(bare::Bare::default())];
        for isolation in &self.isolations {
            all.push(Box::new(strata::Strata::new(self.strata.clone(), isolation)));
        }
        if self.peers {
            for kind in [oci::Kind::Runc, oci::Kind::Crun, oci::Kind::Runsc("systrap"), oci::Kind::Runsc("ptrace")] {
                all.push(Box::new(oci::Oci::new(kind, &self.peers_dir)));
            }
            for kind in [machine::Kind::UserModeLinux, machine::Kind::QemuKvm, machine::Kind::QemuTcg] {
                all.push(Box::new(machine::Machine::new(kind, &self.peers_dir)));
            }
        }
        all
    }
}

/// Runs the one command of a job whose output is the host process's own.
fn single(invocation: &Invocation, job: &Job<'_>) -> Result<Sample, Reason> {
    let finished = run(invocation, job.watch, job.timeout, job.cancel)?;
    Ok(Sample {
        wall: finished.wall,
        cpu: finished.cpu,
        peak_memory: finished.peak.max(finished.max_rss),
        resident: finished.resident,
        outputs: vec![Output { stdout: finished.output, exit: finished.exit }],
    })
}

/// A peer's program: the newer one in the peers directory, else the host's.
fn peer(peers_dir: &Path, name: &str) -> Option<PathBuf> {
    let newer = peers_dir.join("newer/usr/bin").join(name);
    if newer.is_file() { Some(newer) } else { find_program(name, None, &Invocation::of(vec![]).env) }
}

/// Whether this can be executed at all.
fn executable(path: &Path) -> Result<(), Reason> {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).map_err(|e| Reason(format!("{}: {e}", path.display())))
}

/// The first line a program prints about its version, without its own name.
pub(crate) fn version_line(program: &Path, option: &str) -> Option<String> {
    let argv = vec![program.to_string_lossy().into_owned(), option.into()];
    let finished = run(&Invocation::of(argv), Watch::Nothing, Duration::from_secs(10), &AtomicBool::new(false)).ok()?;
    let text = String::from_utf8_lossy(&finished.output).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let line = line.rsplit_once("version ").map_or(line, |(_, version)| version);
    let line = line.split(" (").next().unwrap_or(line);
    Some(line.chars().filter(|c| !c.is_control()).take(60).collect())
}

/// A name for a container that nobody else uses.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("compare-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
