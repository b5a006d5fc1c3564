//! Memory, load and clock: what a measurement on this host is worth.

use serde::{Deserialize, Serialize};

use crate::files::Files;

/// Memory of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that can be had without swapping.
    pub available: u64,
    /// Bytes of swap in all.
    pub swap_total: u64,
    /// Bytes of swap unused.
    pub swap_free: u64,
    /// Reserved huge pages by size.
    pub huge_pages: Vec<HugePages>,
    /// Transparent huge pages: `always`, `madvise`, `never`; absent where the kernel has none.
    pub transparent_huge_pages: Option<String>,
    /// NUMA nodes; at least 1.
    pub numa_nodes: u32,
    /// `vm.overcommit_memory`: 0 heuristic, 1 always, 2 never.
    pub overcommit: Option<u32>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Bytes of one page.
    pub size: u64,
    /// Pages reserved.
    pub total: u64,
    /// Pages of those unused.
    pub free: u64,
}

impl Memory {
    /// From `/proc/meminfo` and `/sys`.
    pub fn read(files: &Files) -> Memory {
        let meminfo = files.text("/proc/meminfo").unwrap_or_default();
        let bytes = |key| {
            let kib = Files::field(&meminfo, key, ':').and_then(|v| v.split(' ').next()?.parse::<u64>().ok());
            kib.unwrap_or(0).saturating_mul(1024)
        };
        const HUGE: &str = "/sys/kernel/mm/hugepages";
        let huge_pages = files.names(HUGE).into_iter().filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(HugePages {
                size: kib.checked_mul(1024)?,
                total: files.value(format!("{HUGE}/{name}/nr_hugepages"))?,
                free: files.value(format!("{HUGE}/{name}/free_hugepages"))?,
            })
        });
        let thp = files.text("/sys/kernel/mm/transparent_hugepage/enabled");
        let nodes = files.names("/sys/devices/system/node");
        let is_node = |n: &&String| n.strip_prefix("node").is_some_and(|id| id.parse::<u32>().is_ok());
        Memory {
            total: bytes("MemTotal"),
            available: bytes("MemAvailable"),
            swap_total: bytes("SwapTotal"),
            swap_free: bytes("SwapFree"),
            huge_pages: huge_pages.collect(),
            transparent_huge_pages: thp.and_then(|t| Some(t.split_once('[')?.1.split_once(']')?.0.to_string())),
            numa_nodes: (nodes.iter().filter(is_node).count() as u32).max(1),
            overcommit: files.value("/proc/sys/vm/overcommit_memory"),
        }
    }
}

/// How busy the host is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Load averages over 1, 5 and 15 minutes: tasks running or waiting for disk.
    pub average: [f64; 3],
    /// Tasks runnable at this moment, this process included.
    pub runnable: Option<u32>,
    /// Percent of the last 10 seconds in which some task waited for a CPU; absent without PSI.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
    /// The same for block I/O.
    pub io_pressure: Option<f64>,
    /// Measurements made now will be noisy.
    pub busy: bool,
    /// Why `busy` is set.
    pub reasons: Vec<String>,
}

impl Load {
    /// From `/proc/loadavg`, `/proc/stat` and `/proc/pressure`.
    pub fn read(files: &Files, cpus: u32) -> Load {
        let loadavg = files.text("/proc/loadavg").unwrap_or_default();
        let mut values = loadavg.split_whitespace().map(|v| v.parse().unwrap_or(0.0));
        let pressure = |name: &str| {
            let text = files.text(format!("/proc/pressure/{name}"))?;
            let some = text.lines().find(|l| l.starts_with("some "))?;
            some.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
        };
        let runnable = loadavg.split_whitespace().nth(3).and_then(|r| r.split_once('/')?.0.parse().ok());
        let mut load = Load {
            average: std::array::from_fn(|_| values.next().unwrap_or(0.0)),
            runnable,
            cpu_pressure: pressure("cpu"),
            memory_pressure: pressure("memory"),
            io_pressure: pressure("io"),
            busy: false,
            reasons: Vec::new(),
        };
        let cores = f64::from(cpus.max(1));
        if load.average[0] > 0.7 * cores {
            load.reasons.push(format!("load {:.1} on {cpus} CPUs", load.average[0]));
        }
        if load.runnable.is_some_and(|r| r > cpus + 1) {
            load.reasons.push(format!("{} tasks want {cpus} CPUs now", load.runnable.unwrap_or(0)));
        }
        for (name, value, most) in [
            ("a CPU", load.cpu_pressure, 15.0),
            ("memory", load.memory_pressure, 2.0),
            ("block I/O", load.io_pressure, 15.0),
        ] {
            if let Some(value) = value.filter(|v| *v > most) {
                load.reasons.push(format!("tasks waited for {name} {value:.0} % of the last 10 s"));
            }
        }
        load.busy = !load.reasons.is_empty();
        load
    }
}

/// What the kernel keeps time with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The source in use: `tsc`, `kvm-clock`, `hpet`, …
    pub source: String,
    /// Sources that could be used.
    pub available: Vec<String>,
    /// Programs read this clock without a system call, so that reading it takes tens of nanoseconds.
    pub fast: bool,
}

impl Clock {
    /// From `/sys/devices/system/clocksource`.
    pub fn read(files: &Files) -> Clock {
        const DIRECTORY: &str = "/sys/devices/system/clocksource/clocksource0";
        let source = files.text(format!("{DIRECTORY}/current_clocksource")).unwrap_or_default();
        let available = files.text(format!("{DIRECTORY}/available_clocksource")).unwrap_or_default();
        let fast = matches!(source.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter") || source.starts_with("hyperv");
        Clock { fast, available: available.split_whitespace().map(String::from).collect(), source }
    }
}
