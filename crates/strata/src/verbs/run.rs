//! `strata run`: a command in a new instance.
//!
//! Two forms. For people: `strata run [IMAGE | --rootfs DIR] [-- COMMAND ARG…]`, which makes everything itself. For
//! callers of OCI runtimes: `strata run [--bundle DIR] ID`, which runs a ready bundle. A run is of the second form when
//! `--bundle` or another option of bundles is given, or when its single argument names no image and the working
//! directory holds a config.json.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use strata_container::RunOptions;
use strata_spec::quantity::parse_bytes;
use strata_spec::runtime::{BlockIo, Cpu, Memory, Mount, Pids, Resources, Rlimit, ThrottleDevice};
use strata_supervise::workload::{
    CPUS_PERIOD, Isolation, NetworkMode, SeccompChoice, Source, Workload, parse_cpus, parse_throttle, parse_tmpfs,
    parse_ulimit, parse_volume,
};
use strata_supervise::{Lifetime, Request};

use super::create::BundleOptions;
use crate::context::Context;
use crate::failure::{Failure, RUN_FAILED};
use crate::output::print;

/// Options of `run`.
#[derive(Debug, Default, Args)]
#[command(after_help = "Examples:
  strata run                               a shell in the embedded image
  strata run -- uname -a                   one command in the embedded image
  strata run --rootfs ./tree -- /bin/sh    a plain directory as root
  strata run -m 256m --cpus 0.5 debian:bookworm -- apt list
  strata run --bundle ./bundle web         an OCI bundle, as other runtimes do

The exit code is the command's; 125 if the instance could not be made, 126 if the command cannot be executed,
127 if it is not found, 128 + N if signal N ended it.")]
pub struct Run {
    #[command(flatten)]
    form: BundleRun,
    /// Remove a background instance after its command has ended
    #[arg(long, conflicts_with = "keep")]
    rm: bool,
    /// Command and arguments [default: the image's]
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
    #[command(flatten)]
    instance: InstanceOptions,
    #[command(flatten)]
    limits: LimitOptions,
}

/// Those that a run of a ready bundle can have.
#[derive(Debug, Default, Args)]
pub struct BundleRun {
    /// Run in the background; print the id
    #[arg(short, long)]
    detach: bool,
    /// Keep the instance after its command has ended
    #[arg(long)]
    keep: bool,
    /// Accepted for callers that pass it
    #[arg(long, hide = true)]
    no_subreaper: bool,
    /// Image, or the container's id with --bundle [default: the embedded image]
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    bundle: BundleOptions,
}

impl BundleRun {
    /// The run, if it certainly is one of a bundle.
    pub fn into_run(self) -> Option<Run> {
        self.bundle.bundle.is_some().then(|| Run { form: self, ..Run::default() })
    }

    fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let id = self.image.ok_or_else(|| {
            Failure::new("a bundle needs an id")
                .hint("write `strata run --bundle DIR ID`")
                .code(crate::failure::OCI_FAILED)
        })?;
        let notes = |note| context.log.note(note);
        let options = RunOptions { detach: self.detach, keep: self.keep, started: None, notes: Some(&notes) };
        let create = self.bundle.create_options(context);
        let code = context.runtime()?.run(&id, self.bundle.bundle(), &create, options)?;
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
    }
}

/// What the instance is and sees.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Instance")]
struct InstanceOptions {
    /// Boundary between the workload and the host
    #[arg(long, value_name = "KIND", default_value = "container")]
    isolation: Kind,
    /// Use this directory as the root file system, in place
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    rootfs: Option<PathBuf>,
    /// Name of the instance [default: a random id]
    #[arg(long)]
    name: Option<String>,
    /// Set an environment variable; NAME alone passes the caller's value
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// User and group, by name or id
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Replace the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Host name
    #[arg(long)]
    hostname: Option<String>,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Accepted for those used to it: standard input is always passed on
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// Show a host directory or file inside
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro]", value_parser = parse_volume)]
    volumes: Vec<Mount>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = parse_tmpfs)]
    tmpfs: Vec<Mount>,
    /// Show a host device inside
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,
    /// Make the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Network: none (loopback only) or the host's
    #[arg(long, value_name = "MODE", default_value = "none")]
    network: Network,
    /// Share these namespaces with the host: pid, ipc, uts
    #[arg(long = "host", value_name = "KIND", value_delimiter = ',', value_parser = ["pid", "ipc", "uts"])]
    host_namespaces: Vec<String>,
    /// Add a capability, or all
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away, or all
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// All capabilities and devices, nothing masked or filtered: no boundary against root
    #[arg(long)]
    privileged: bool,
    /// Let no program raise its privileges
    #[arg(long)]
    no_new_privileges: bool,
    /// System-call filter: a file in OCI form, or `unconfined`
    #[arg(long, value_name = "FILE")]
    seccomp: Option<String>,
    /// Set a kernel parameter of the instance's namespaces
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    sysctls: Vec<String>,
}

/// Limits, of the cgroup and of each process.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Limits")]
struct LimitOptions {
    /// Memory, bytes with suffix (512m)
    #[arg(short, long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Memory and swap together, bytes with suffix; -1 for no limit [default: twice the memory]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = super::update::parse_limit)]
    memory_swap: Option<i64>,
    /// Memory kept from reclaim, bytes with suffix
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_reservation: Option<u64>,
    /// CPU time, in CPUs (1.5)
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    cpus: Option<i64>,
    /// Relative CPU weight, 2 to 262144; 1024 is normal
    #[arg(long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// CPUs to run on (0-3,7)
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Number of processes and threads
    #[arg(long, value_name = "N")]
    pids_limit: Option<i64>,
    /// Relative block I/O weight, 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(10..=1000))]
    blkio_weight: Option<u16>,
    /// Bytes a second read from a device
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = parse_throttle)]
    device_read_bps: Vec<ThrottleDevice>,
    /// Bytes a second written to a device
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = parse_throttle)]
    device_write_bps: Vec<ThrottleDevice>,
    /// Reads a second from a device
    #[arg(long, value_name = "DEVICE:N", value_parser = parse_throttle)]
    device_read_iops: Vec<ThrottleDevice>,
    /// Writes a second to a device
    #[arg(long, value_name = "DEVICE:N", value_parser = parse_throttle)]
    device_write_iops: Vec<ThrottleDevice>,
    /// A limit of each process (nofile=1024:4096)
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    ulimits: Vec<Rlimit>,
    /// Preference of the out-of-memory killer, -1000 (never) to 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    oom_score_adj: Option<i32>,
}

/// Isolations that this build has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[default]
    Container,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    #[default]
    None,
    Host,
}

impl Run {
    /// Runs the workload.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        if self.is_bundle_form(context) {
            return self.form.execute(context);
        }
        let detach = self.form.detach;
        let lifetime = match (detach, self.form.keep, self.rm) {
            (_, true, _) | (true, _, false) => Lifetime::Kept,
            _ => Lifetime::RemovedAtEnd,
        };
        let request = Request { name: self.instance.name.clone(), lifetime, detach, workload: self.workload(context)? };
        let supervisor = context.supervisor()?;
        let outcome = supervisor.run(request).map_err(|error| {
            let code = u8::try_from(error.exit_code()).unwrap_or(RUN_FAILED);
            Failure::from(error).code(code)
        })?;
        for warning in &outcome.warnings {
            context.log.warning(warning);
        }
        if detach {
            print(&format!("{}\n", outcome.id))?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(ExitCode::from(outcome.exit_code))
    }

    fn is_bundle_form(&self, context: &Context) -> bool {
        let b = &self.form.bundle;
        if b.bundle.is_some() || b.console_socket.is_some() || b.pid_file.is_some() || b.pidfd_socket.is_some() {
            return true;
        }
        let Some(name) = &self.form.image else { return false };
        if !self.command.is_empty() || !std::path::Path::new("config.json").exists() {
            return false;
        }
        // A store that is not there, or not for this user, holds no image of that name.
        let image = match context.store_root().is_dir() {
            true => context.store().ok().and_then(|store| store.resolve(name).ok().flatten()),
            false => None,
        };
        image.is_none()
    }

    fn workload(self, context: &Context) -> Result<Workload, Failure> {
        let source = match (self.instance.rootfs, self.form.image) {
            (Some(directory), _) => Source::Directory(std::path::absolute(directory)?),
            (None, Some(image)) => Source::Image(image),
            (None, None) => Source::Image(strata_image::embedded::REFERENCE.into()),
        };
        let isolation = match self.instance.isolation {
            Kind::Container => Isolation::Container,
        };
        let mut sysctls = std::collections::BTreeMap::new();
        for entry in &self.instance.sysctls {
            let (name, value) = entry.split_once('=').ok_or_else(|| {
                Failure::new(format!("'{entry}' sets no kernel parameter: write NAME=VALUE")).code(RUN_FAILED)
            })?;
            sysctls.insert(name.to_string(), value.to_string());
        }
        Ok(Workload {
            isolation,
            entrypoint: self.instance.entrypoint.map(|program| vec![program]),
            env: self.instance.env,
            user: self.instance.user,
            workdir: self.instance.workdir,
            hostname: self.instance.hostname,
            terminal: self.instance.tty,
            mounts: self.instance.volumes.into_iter().chain(self.instance.tmpfs).collect(),
            devices: self.instance.devices,
            read_only: self.instance.read_only,
            network: match self.instance.network {
                Network::None => NetworkMode::None,
                Network::Host => NetworkMode::Host,
            },
            host_namespaces: self.instance.host_namespaces,
            cap_add: self.instance.cap_add,
            cap_drop: self.instance.cap_drop,
            privileged: self.instance.privileged,
            no_new_privileges: self.instance.no_new_privileges,
            seccomp: match self.instance.seccomp.as_deref() {
                None => SeccompChoice::Default,
                Some("unconfined") => SeccompChoice::Unconfined,
                Some(file) => SeccompChoice::File(file.into()),
            },
            resources: self.limits.resources(),
            rlimits: self.limits.ulimits,
            sysctls,
            oom_score_adj: self.limits.oom_score_adj,
            systemd_cgroup: context.global.systemd_cgroup.unwrap_or_else(strata_cgroup::systemd::preferred),
            ..Workload::new(source, self.command)
        })
    }
}

impl LimitOptions {
    fn resources(&self) -> Resources {
        let signed = |bytes: Option<u64>| bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let memory = Memory {
            limit: signed(self.memory),
            swap: self.memory_swap,
            reservation: signed(self.memory_reservation),
            ..Memory::default()
        };
        let cpu = Cpu {
            quota: self.cpus,
            period: self.cpus.map(|_| CPUS_PERIOD),
            shares: self.cpu_shares,
            cpus: self.cpuset_cpus.clone(),
            mems: self.cpuset_mems.clone(),
            ..Cpu::default()
        };
        let block_io = BlockIo {
            weight: self.blkio_weight,
            throttle_read_bps_device: self.device_read_bps.clone(),
            throttle_write_bps_device: self.device_write_bps.clone(),
            throttle_read_iops_device: self.device_read_iops.clone(),
            throttle_write_iops_device: self.device_write_iops.clone(),
            ..BlockIo::default()
        };
        Resources {
            memory: (memory != Memory::default()).then_some(memory),
            cpu: (cpu != Cpu::default()).then_some(cpu),
            block_io: (block_io != BlockIo::default()).then_some(block_io),
            pids: self.pids_limit.map(|limit| Pids { limit: Some(limit) }),
            ..Resources::default()
        }
    }
}
