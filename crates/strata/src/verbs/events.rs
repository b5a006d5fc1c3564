//! `strata events`: statistics and out-of-memory events, in the JSON that runc prints and containerd reads.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use strata_cgroup::OomEvent;
use strata_cgroup::stats::{BlkioEntry, Pressure, Stall, Stats, Usage};
use strata_spec::state::Status;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::print;

/// Options of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Print statistics once and return
    #[arg(long)]
    stats: bool,
    /// Time between statistics (5s, 500ms, 1m)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    interval: Duration,
    /// The container's id
    #[arg(value_name = "ID")]
    id: String,
}

/// A whole number with a unit, as Go programs write durations.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("'{text}' is no duration: write 5s, 500ms or 1m"))?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" | "" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(format!("'{text}' has an unknown unit: write ms, s or m")),
    };
    if duration.is_zero() {
        return Err("the interval must be more than nothing".into());
    }
    Ok(duration)
}

impl Events {
    /// Prints one JSON object a line until the container stops.
    pub fn execute(self, context: &Context) -> Result<ExitCode, Failure> {
        let container = context.container(&self.id)?;
        if container.status() == Status::Stopped {
            return Err(Failure::new(format!("container with id {} is not running", self.id)));
        }
        if self.stats {
            print_event("stats", &self.id, Some(stats_json(&container.stats()?)))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut watch = container.oom_events()?;
        let mut next = Instant::now();
        while container.status() != Status::Stopped {
            if next <= Instant::now() {
                // The cgroup may vanish between the look at the status and this one.
                let Ok(stats) = container.stats() else { break };
                print_event("stats", &self.id, Some(stats_json(&stats)))?;
                next += self.interval;
            }
            // Short waits, so that the end of the container is noticed soon.
            let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            match watch.next(Some(wait))? {
                Some(OomEvent::OutOfMemory) => print_event("oom", &self.id, None)?,
                Some(OomEvent::Gone) => break,
                None => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print_event(kind: &str, id: &str, data: Option<Value>) -> Result<(), Failure> {
    let event = match data {
        Some(data) => json!({ "type": kind, "id": id, "data": data }),
        None => json!({ "type": kind, "id": id }),
    };
    print(&format!("{event}\n"))
}

/// runc's names for what the cgroup counts.
fn stats_json(stats: &Stats) -> Value {
    let cpu = &stats.cpu;
    let memory = &stats.memory;
    let blkio = &stats.blkio;
    json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_ns,
                "percpu": cpu.per_cpu.iter().map(|time| time.user_ns + time.system_ns).collect::<Vec<_>>(),
                "percpu_kernel": cpu.per_cpu.iter().map(|time| time.system_ns).collect::<Vec<_>>(),
                "percpu_user": cpu.per_cpu.iter().map(|time| time.user_ns).collect::<Vec<_>>(),
                "kernel": cpu.system_ns,
                "user": cpu.user_ns,
            },
            "throttling": {
                "periods": cpu.throttling.periods,
                "throttledPeriods": cpu.throttling.throttled_periods,
                "throttledTime": cpu.throttling.throttled_ns,
            },
            "psi": stats.psi.cpu.as_ref().map(pressure),
        },
        "cpuset": { "cpus": stats.cpuset.cpus, "mems": stats.cpuset.mems },
        "memory": {
            "cache": memory.cache,
            "usage": {
                "limit": memory.limit.unwrap_or(u64::MAX),
                "usage": memory.usage,
                "max": memory.max_usage,
                "failcnt": memory.failures,
            },
            "swap": usage(&memory.swap),
            "kernel": usage(&memory.kernel),
            "kernelTCP": usage(&memory.kernel_tcp),
            "raw": memory.raw,
            "psi": stats.psi.memory.as_ref().map(pressure),
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": entries(&blkio.service_bytes),
            "ioServicedRecursive": entries(&blkio.serviced),
            "ioQueueRecursive": entries(&blkio.queued),
            "ioServiceTimeRecursive": entries(&blkio.service_time),
            "ioWaitTimeRecursive": entries(&blkio.wait_time),
            "ioMergedRecursive": entries(&blkio.merged),
            "ioTimeRecursive": entries(&blkio.time),
            "sectorsRecursive": entries(&blkio.sectors),
            "psi": stats.psi.io.as_ref().map(pressure),
        },
        "hugetlb": stats.hugetlb.iter().map(|(size, held)| (size.clone(), usage(held))).collect::<serde_json::Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn usage(usage: &Usage) -> Value {
    json!({
        "limit": usage.limit.unwrap_or(u64::MAX),
        "usage": usage.usage,
        "max": usage.max_usage,
        "failcnt": usage.failures,
    })
}

fn entries(entries: &[BlkioEntry]) -> Value {
    entries
        .iter()
        .map(|entry| json!({ "major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value }))
        .collect()
}

fn pressure(pressure: &Pressure) -> Value {
    let stall = |stall: &Stall| json!({ "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300, "total": stall.total_us });
    json!({ "some": stall(&pressure.some), "full": stall(&pressure.full) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_with_their_unit() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "s", "5h", "0s", "-1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_limit_is_the_largest_number_as_runc_prints_it() {
        let value = stats_json(&Stats::default());
        assert_eq!(value["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(value["cpu"]["usage"]["total"], 0);
    }
}
