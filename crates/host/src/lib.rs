//! What this host offers for running other people's code, and why the rest is missing: the answers of `strata doctor`.
//!
//! [`examine`] reads `/proc` and `/sys`, and *tries* what files cannot tell: it makes namespaces, mounts and system calls
//! in throw-away children and starts a small guest on `/dev/kvm`. Nothing outlives the examination, nothing needs root
//! (answers that would say so), and whatever fails becomes an answer, never a panic. [`render`] writes it for people.
//!
//! # The document
//!
//! [`Report`] serialises to one JSON object. `schema` is [`SCHEMA`]: its number grows when a field changes its meaning
//! or goes away; new fields come without notice, and a reader must ignore those it does not know. Sizes are bytes,
//! durations carry their unit in the field's name, pressure is percent. Three shapes recur:
//!
//! - support: `{"status": "yes"}`, `{"status": "no", "reason": …}` or `{"status": "unknown", "reason": …}`;
//! - verdict: `{"status": "available"}` or `{"status": "unavailable", "reason": …, "fix": …}`;
//! - an absent answer is `null`.
//!
//! `docs/doctor.md` explains every field.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub mod cgroup;
pub mod cpu;
mod files;
pub mod interfaces;
pub mod isolation;
pub mod kvm;
pub mod namespaces;
pub mod network;
pub mod peers;
mod render;
pub mod resources;
pub mod security;
pub mod storage;
mod support;
mod sys;
pub mod system;

pub use isolation::{Isolation, Offer, Verdict};
pub use render::{Style, render, render_as};
pub use support::Support;
pub use sys::cpuid::CpuidFacts;

use files::Files;

/// Version of the JSON document.
pub const SCHEMA: &str = "strata.doctor/1";

/// Everything found out about a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The verdict on each isolation; see [`Report::isolations`].
    pub isolations: Vec<Offer>,
    /// Kernel, distribution, user.
    pub system: system::System,
    /// Processor.
    pub cpu: cpu::Cpu,
    /// KVM.
    pub kvm: kvm::Kvm,
    /// Control groups.
    pub cgroups: cgroup::Cgroups,
    /// The eight kinds of namespaces.
    pub namespaces: Vec<namespaces::Namespace>,
    /// Rules for user namespaces.
    pub user_namespaces: namespaces::UserNamespaces,
    /// The store's file system.
    pub storage: storage::Storage,
    /// System calls.
    pub interfaces: interfaces::Interfaces,
    /// Security modules, privileges, CPU vulnerabilities.
    pub security: security::Security,
    /// Networking.
    pub network: network::Network,
    /// Memory.
    pub memory: resources::Memory,
    /// How busy the host is.
    pub load: resources::Load,
    /// Clock source.
    pub clock: resources::Clock,
    /// Other tools in `PATH`.
    pub peers: Vec<peers::Peer>,
    /// What the examination itself took.
    pub timing: Timing,
}

/// Microseconds that the parts of the examination took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Reading files and trying system calls, namespaces and mounts.
    pub checks_us: u64,
    /// The test guest.
    pub kvm_us: u64,
    /// Asking other tools for their versions.
    pub peers_us: u64,
}

/// What to examine, and how long to wait.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of images and instances; need not exist.
    pub store: PathBuf,
    /// Longest time for the test guest. It is killed then.
    pub kvm_timeout: Duration,
    /// Longest time for any other trial.
    pub trial_timeout: Duration,
    /// Longest time for all peers together to print their versions; zero asks none.
    pub peer_timeout: Duration,
}

impl Options {
    /// The usual bounds, with images at `store`.
    pub fn new(store: &Path) -> Options {
        Options {
            store: store.to_path_buf(),
            kvm_timeout: Duration::from_secs(2),
            trial_timeout: Duration::from_secs(1),
            peer_timeout: Duration::from_secs(5),
        }
    }
}

/// What only a running kernel tells, supplied when a recorded host is examined.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// As of `uname -m`.
    pub arch: String,
    /// Effective user and group.
    pub uid: u32,
    /// CPUID.
    pub cpuid: Option<CpuidFacts>,
    /// Whether `/dev/kvm` opened, and how the test guest went.
    pub kvm: Option<(Support, Option<kvm::GuestRun>)>,
}

/// Examines this host, with images at `store`.
pub fn examine(store: &Path) -> Report {
    examine_with(&Options::new(store))
}

/// Examines this host.
pub fn examine_with(options: &Options) -> Report {
    let files = Files::new(Path::new("/"));
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let uname = rustix::system::uname();
    let arch = uname.machine().to_string_lossy();
    let cpuid = sys::cpuid::read();

    // The guest is timed, so it has the host to itself.
    let begin = Instant::now();
    let mut kvm = kvm::Kvm::read(&files);
    kvm.probe(&files, options.kvm_timeout);
    let kvm_us = begin.elapsed().as_micros() as u64;

    let begin = Instant::now();
    let mut report = assemble(&files, &options.store, &arch, uid, cpuid.as_ref(), kvm, Some(options.trial_timeout));
    report.storage.probe(&files, uid, gid, options.trial_timeout);
    report.interfaces.probe(options.trial_timeout);
    report.security.landlock_abi = sys::calls::landlock().ok();
    report.isolations = isolation::offers(&report);
    let checks_us = begin.elapsed().as_micros() as u64;

    let begin = Instant::now();
    report.peers = peers::find(&files, &search_path(), !options.peer_timeout.is_zero(), options.peer_timeout);
    report.timing = Timing { checks_us, kvm_us, peers_us: begin.elapsed().as_micros() as u64 };
    report
}

/// Examines a recorded host: the files of its `/proc`, `/sys` and `/etc` are below `root`. Nothing is tried; answers
/// that need it are unknown.
pub fn examine_recorded(root: &Path, store: &Path, recorded: &Recorded) -> Report {
    let files = Files::new(root);
    let mut kvm = kvm::Kvm::read(&files);
    if let Some((device, guest)) = &recorded.kvm {
        kvm.device = device.clone();
        kvm.guest = guest.clone();
    }
    let mut report = assemble(&files, store, &recorded.arch, recorded.uid, recorded.cpuid.as_ref(), kvm, None);
    report.isolations = isolation::offers(&report);
    report
}

/// All that files tell; with `trial`, also what namespaces and devices answer within that time.
fn assemble(
    files: &Files,
    store: &Path,
    arch: &str,
    uid: u32,
    cpuid: Option<&CpuidFacts>,
    mut kvm: kvm::Kvm,
    trial: Option<Duration>,
) -> Report {
    let live = trial.is_some();
    // The load is read first: the examination itself must not be in it.
    let cpu = cpu::Cpu::read(files, arch, cpuid);
    let load = resources::Load::read(files, cpu.logical);
    kvm.conclude(&cpu);
    let path = search_path();
    Report {
        schema: SCHEMA.into(),
        isolations: Vec::new(),
        system: system::System::read(files, arch, uid),
        cpu,
        kvm,
        cgroups: cgroup::Cgroups::read(files, live),
        namespaces: namespaces::namespaces(files, live, trial.unwrap_or_default()),
        user_namespaces: namespaces::UserNamespaces::read(files, uid, &path),
        storage: storage::Storage::read(files, store),
        interfaces: interfaces::Interfaces::read(files),
        security: security::Security::read(files),
        network: network::Network::read(files, &path, live),
        memory: resources::Memory::read(files),
        load,
        clock: resources::Clock::read(files),
        peers: peers::find(files, &path, false, Duration::ZERO),
        timing: Timing::default(),
    }
}

/// `PATH`, and the directories of administration tools that an ordinary user's lacks.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
}

impl Report {
    /// The verdict on each isolation, weakest boundary first: whether the host offers it, whether this build has it.
    pub fn isolations(&self) -> &[Offer] {
        &self.isolations
    }

    /// The verdict on one isolation.
    pub fn offer(&self, isolation: Isolation) -> Option<&Offer> {
        self.isolations.iter().find(|o| o.isolation == isolation)
    }
}

#[cfg(test)]
mod tests;
