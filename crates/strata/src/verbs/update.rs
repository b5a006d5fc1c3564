//! `strata update`: limits changed while the instance runs, with runc's flags.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use strata_spec::quantity::parse_bytes;
use strata_spec::runtime::{BlockIo, Cpu, Memory, Pids, Resources};
use strata_supervise::workload::{CPUS_PERIOD, parse_cpus};

use crate::context::Context;
use crate::failure::Failure;

/// Options of `update`.
#[derive(Debug, Args)]
pub struct Update {
    /// Resources in OCI form; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Relative block I/O weight, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// CPU time, in CPUs (1.5)
    #[arg(long, value_name = "N", value_parser = parse_cpus, conflicts_with_all = ["cpu_period", "cpu_quota"])]
    cpus: Option<i64>,
    /// Microseconds a period of CPU quota
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Microseconds of CPU time a period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Microseconds of saved quota that may be used at once
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// Relative CPU weight, 2 to 262144
    #[arg(long, visible_alias = "cpu-shares", value_name = "WEIGHT")]
    cpu_share: Option<u64>,
    /// Microseconds a real-time period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    /// Microseconds of real-time a period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// 1 to run only when the host is idle
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// CPUs to run on (0-3,7)
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Memory, bytes with suffix; -1 for no limit
    #[arg(short, long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_limit)]
    memory: Option<i64>,
    /// Memory kept from reclaim, bytes with suffix
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_limit)]
    memory_reservation: Option<i64>,
    /// Memory and swap together, bytes with suffix; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_limit)]
    memory_swap: Option<i64>,
    /// Obsolete: kernels since 5.4 ignore it
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_limit, hide = true)]
    kernel_memory: Option<i64>,
    /// Kernel TCP memory (v1), bytes with suffix
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_limit, hide = true)]
    kernel_memory_tcp: Option<i64>,
    /// Number of processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Name or id
    #[arg(value_name = "ID")]
    id: String,
}

/// Bytes with a suffix; -1 for none.
pub fn parse_limit(text: &str) -> Result<i64, String> {
    if text == "-1" || text == "unlimited" {
        return Ok(-1);
    }
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    i64::try_from(bytes).map_err(|_| format!("'{text}' is more than a limit can be"))
}

impl Update {
    /// Applies the limits.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let mut container = context.container(&self.id)?;
        container.update(&self.wanted()?)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The file's resources, with the flags over them.
    fn wanted(self) -> Result<Resources, Failure> {
        let mut wanted = match &self.resources {
            Some(path) => read_resources(path)?,
            None => Resources::default(),
        };
        let cpu = wanted.cpu.get_or_insert_with(Cpu::default);
        replace(&mut cpu.period, self.cpu_period.or(self.cpus.map(|_| CPUS_PERIOD)));
        replace(&mut cpu.quota, self.cpu_quota.or(self.cpus));
        replace(&mut cpu.burst, self.cpu_burst);
        replace(&mut cpu.shares, self.cpu_share);
        replace(&mut cpu.realtime_period, self.cpu_rt_period);
        replace(&mut cpu.realtime_runtime, self.cpu_rt_runtime);
        replace(&mut cpu.idle, self.cpu_idle);
        replace(&mut cpu.cpus, self.cpuset_cpus);
        replace(&mut cpu.mems, self.cpuset_mems);
        let memory = wanted.memory.get_or_insert_with(Memory::default);
        replace(&mut memory.limit, self.memory);
        replace(&mut memory.reservation, self.memory_reservation);
        replace(&mut memory.swap, self.memory_swap);
        replace(&mut memory.kernel, self.kernel_memory);
        replace(&mut memory.kernel_tcp, self.kernel_memory_tcp);
        replace(&mut wanted.pids.get_or_insert_with(Pids::default).limit, self.pids_limit);
        replace(&mut wanted.block_io.get_or_insert_with(BlockIo::default).weight, self.blkio_weight);
        Ok(wanted)
    }
}

fn replace<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

fn read_resources(path: &PathBuf) -> Result<Resources, Failure> {
    let mut text = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut text)?;
    } else {
        text = std::fs::read(path)
            .map_err(|error| Failure::new(format!("cannot read the resources {}: {error}", path.display())))?;
    }
    serde_json::from_slice(&text).map_err(|error| Failure::new(format!("resources {}: {error}", path.display())))
}
