//! `strata stats`: what instances use.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use strata_cgroup::Stats as CgroupStats;
use strata_container::Container;
use strata_spec::quantity::format_bytes;
use strata_spec::state::Status;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Table, print_json};

/// Options of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Print JSON: counters in bytes and nanoseconds
    #[arg(long)]
    json: bool,
    /// Names or ids [default: every running instance]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
}

/// How long CPU use is observed.
const WINDOW: Duration = Duration::from_millis(500);

/// One instance in the JSON.
#[derive(Serialize)]
struct Entry {
    id: String,
    /// Share of one CPU over the last half second, percent.
    cpu_percent: f64,
    #[serde(flatten)]
    counters: CgroupStats,
}

impl Stats {
    /// Observes for half a second and prints.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let runtime = context.runtime()?;
        let containers: Vec<Container> = if self.ids.is_empty() {
            runtime.list()?.into_iter().filter(|container| container.status() != Status::Stopped).collect()
        } else {
            self.ids.iter().map(|id| runtime.get(id)).collect::<Result<_, _>>()?
        };
        let before: Vec<(Instant, u64)> =
            containers.iter().map(|c| Ok((Instant::now(), c.stats()?.cpu.usage_ns))).collect::<Result<_, Failure>>()?;
        if !containers.is_empty() {
            std::thread::sleep(WINDOW);
        }
        let mut entries = Vec::new();
        for (container, (start, used)) in containers.iter().zip(before) {
            // One that has ended meanwhile has nothing left to count.
            let Ok(counters) = container.stats() else { continue };
            let elapsed = start.elapsed().as_nanos().max(1) as f64;
            let cpu_percent = counters.cpu.usage_ns.saturating_sub(used) as f64 / elapsed * 100.0;
            entries.push(Entry { id: container.id().to_string(), cpu_percent, counters });
        }
        if self.json {
            print_json(&entries)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = Table::new(&["ID", "CPU", "MEMORY", "LIMIT", "PROCESSES", "READ", "WRITTEN"]);
        for Entry { id, cpu_percent, counters } in entries {
            let transferred = |op: &str| {
                let entries = counters.blkio.service_bytes.iter();
                entries.filter(|entry| entry.op.eq_ignore_ascii_case(op)).map(|entry| entry.value).sum()
            };
            table.row([
                id,
                format!("{cpu_percent:.1} %"),
                format_bytes(counters.memory.usage),
                counters.memory.limit.map_or_else(|| "-".into(), format_bytes),
                counters.pids.current.to_string(),
                format_bytes(transferred("Read")),
                format_bytes(transferred("Write")),
            ]);
        }
        table.print()?;
        Ok(ExitCode::SUCCESS)
    }
}
