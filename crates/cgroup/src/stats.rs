//! What a cgroup has used: one shape for both versions.
//!
//! Times are nanoseconds and sizes bytes in both, whatever the kernel's files count in. A value that a version or a
//! kernel does not have is zero, empty or `None`. The fields are those of `runc events --stats`, so that its JSON can
//! be made from them. Parsers skip what they do not understand: kernels add lines.

use crate::Error;
use crate::apply::{Dirs, Place, parse_or_zero};
use crate::cgroup::Cgroup;
use crate::dir::Dir;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// Everything that is accounted for a cgroup, with the cgroups below it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: CpuStats,
    /// CPUs and memory nodes that may be used.
    pub cpuset: CpusetStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block I/O.
    pub blkio: BlkioStats,
    /// Huge pages by size, `2MB`.
    pub hugetlb: BTreeMap<String, Usage>,
    /// Remote direct memory access by device.
    pub rdma: BTreeMap<String, RdmaStats>,
    /// Pressure: the time lost waiting. From the version 2 hierarchy, so also in a hybrid layout.
    pub psi: Psi,
}

/// CPU time, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpuStats {
    /// In all.
    pub usage_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// By CPU (version 1).
    pub per_cpu: Vec<CpuTime>,
    /// Held back by the quota.
    pub throttling: Throttling,
}

/// Time on one CPU, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CpuTime {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

/// What the CPU quota did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_ns: u64,
    /// Periods in which saved quota was used.
    pub burst_periods: u64,
    /// Time run on saved quota.
    pub burst_ns: u64,
}

/// Where the cgroup may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpusetStats {
    /// CPU numbers.
    pub cpus: Vec<u32>,
    /// Memory node numbers.
    pub mems: Vec<u32>,
}

/// A measured quantity with its limit, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Now.
    pub usage: u64,
    /// The most so far.
    pub max_usage: u64,
    /// `None` is no limit.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStats {
    /// Now, page cache included.
    pub usage: u64,
    /// The most so far.
    pub max_usage: u64,
    /// `None` is no limit.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// Memory and swap together, in both versions.
    pub swap: Usage,
    /// Swap alone.
    pub swap_only: Usage,
    /// Of the kernel for this cgroup.
    pub kernel: Usage,
    /// Of TCP buffers (version 1).
    pub kernel_tcp: Usage,
    /// Page cache.
    pub cache: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// `memory.stat` as the kernel gives it.
    pub raw: BTreeMap<String, u64>,
}

/// Tasks (threads).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// `None` is no limit.
    pub limit: Option<u64>,
}

/// One count of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`; empty where the count has no kinds.
    pub op: String,
    /// The count.
    pub value: u64,
}

/// Block I/O by device and operation. Version 2 has bytes and operations only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlkioStats {
    /// Bytes transferred.
    pub service_bytes: Vec<BlkioEntry>,
    /// Operations done.
    pub serviced: Vec<BlkioEntry>,
    /// Operations waiting.
    pub queued: Vec<BlkioEntry>,
    /// Nanoseconds from dispatch to completion.
    pub service_time: Vec<BlkioEntry>,
    /// Nanoseconds in the scheduler's queues.
    pub wait_time: Vec<BlkioEntry>,
    /// Operations merged with another.
    pub merged: Vec<BlkioEntry>,
    /// Milliseconds of device time.
    pub time: Vec<BlkioEntry>,
    /// Sectors transferred.
    pub sectors: Vec<BlkioEntry>,
}

/// Handles and objects of one RDMA device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RdmaStats {
    /// Handles in use.
    pub hca_handles: u64,
    /// Objects in use.
    pub hca_objects: u64,
    /// `None` is no limit.
    pub max_handles: Option<u64>,
    /// `None` is no limit.
    pub max_objects: Option<u64>,
}

/// Pressure stall information (`Documentation/accounting/psi.rst`); `None` where the kernel does not measure it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Psi {
    /// Waiting for a CPU.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for I/O.
    pub io: Option<Pressure>,
}

/// Pressure of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// Shares of time lost, percent over the last seconds, and the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Over 10 seconds, percent.
    pub avg10: f64,
    /// Over 60 seconds, percent.
    pub avg60: f64,
    /// Over 300 seconds, percent.
    pub avg300: f64,
    /// In all, microseconds.
    pub total_us: u64,
}

/// A limit of this many bytes or more is none: version 1 reports the largest number of pages it can count.
const V1_NO_LIMIT: u64 = (i64::MAX as u64) & !0xffff;

/// Reads everything.
pub(crate) fn read(cgroup: &Cgroup) -> Result<Stats, Error> {
    let dirs = Dirs::new(cgroup);
    let mut stats = Stats::default();
    match dirs.find("cpuacct")? {
        Some(Place::V1(dir) | Place::V2(dir)) => cpu_usage_v1(dir, &mut stats.cpu)?,
        // Version 2 accounts CPU time whether or not the controller is enabled.
        None => dirs.v2()?.map_or(Ok(()), |dir| cpu_stat(dir, &mut stats.cpu))?,
    }
    if let Some(Place::V1(dir)) = dirs.find("cpu")? {
        cpu_stat(dir, &mut stats.cpu)?;
    }
    if let Some(place) = dirs.find("cpuset")? {
        stats.cpuset = cpuset(place)?;
    }
    match dirs.find("memory")? {
        Some(Place::V1(dir)) => stats.memory = memory_v1(dir)?,
        Some(Place::V2(dir)) => stats.memory = memory_v2(dir)?,
        None => {}
    }
    if let Some(Place::V1(dir) | Place::V2(dir)) = dirs.find("pids")? {
        let current = number(dir, "pids.current")?;
        stats.pids = PidsStats { current, limit: limit(dir, "pids.max")? };
    }
    match dirs.find("io")? {
        Some(Place::V1(dir)) => stats.blkio = blkio_v1(dir)?,
        Some(Place::V2(dir)) => stats.blkio = parse_io_stat(&text(dir, "io.stat")?),
        None => {}
    }
    if let Some(place) = dirs.find("hugetlb")? {
        stats.hugetlb = hugetlb(place)?;
    }
    if let Some(Place::V1(dir) | Place::V2(dir)) = dirs.find("rdma")? {
        stats.rdma = parse_rdma(&text(dir, "rdma.current")?, &text(dir, "rdma.max")?);
    }
    if let Some(dir) = dirs.v2()? {
        let pressure = |file: &str| Ok::<_, Error>(dir.read_if_present(file)?.as_deref().and_then(parse_pressure));
        stats.psi =
            Psi { cpu: pressure("cpu.pressure")?, memory: pressure("memory.pressure")?, io: pressure("io.pressure")? };
    }
    Ok(stats)
}

/// A file that may be missing as text.
fn text(dir: &Dir, file: &str) -> Result<String, Error> {
    Ok(dir.read_if_present(file)?.unwrap_or_default())
}

fn number(dir: &Dir, file: &str) -> Result<u64, Error> {
    Ok(parse_or_zero(&text(dir, file)?))
}

fn limit(dir: &Dir, file: &str) -> Result<Option<u64>, Error> {
    Ok(parse_limit(&text(dir, file)?))
}

/// A number; `max`, the largest of version 1 or anything else is no limit.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&n| n < V1_NO_LIMIT)
}

/// Lines of a name and a number.
pub(crate) fn keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

pub(crate) fn key(text: &str, wanted: &str) -> u64 {
    keyed(text).find(|(key, _)| *key == wanted).map_or(0, |(_, value)| value)
}

/// `cpu.stat` of either version. Version 2 counts microseconds and includes the usage.
fn cpu_stat(dir: &Dir, cpu: &mut CpuStats) -> Result<(), Error> {
    parse_cpu_stat(&text(dir, "cpu.stat")?, cpu);
    Ok(())
}

fn parse_cpu_stat(text: &str, cpu: &mut CpuStats) {
    for (key, value) in keyed(text) {
        let micros = value.saturating_mul(1000);
        match key {
            "usage_usec" => cpu.usage_ns = micros,
            "user_usec" => cpu.user_ns = micros,
            "system_usec" => cpu.system_ns = micros,
            "nr_periods" => cpu.throttling.periods = value,
            "nr_throttled" => cpu.throttling.throttled_periods = value,
            "throttled_usec" => cpu.throttling.throttled_ns = micros,
            "throttled_time" => cpu.throttling.throttled_ns = value,
            "nr_bursts" => cpu.throttling.burst_periods = value,
            "burst_usec" => cpu.throttling.burst_ns = micros,
            "burst_time" => cpu.throttling.burst_ns = value,
            _ => {}
        }
    }
}

fn cpu_usage_v1(dir: &Dir, cpu: &mut CpuStats) -> Result<(), Error> {
    cpu.usage_ns = number(dir, "cpuacct.usage")?;
    let ticks = text(dir, "cpuacct.stat")?;
    // In units of USER_HZ, which is 100 on every architecture this runs on (x86-64, arm64).
    cpu.user_ns = key(&ticks, "user").saturating_mul(10_000_000);
    cpu.system_ns = key(&ticks, "system").saturating_mul(10_000_000);
    cpu.per_cpu = parse_usage_all(&text(dir, "cpuacct.usage_all")?);
    Ok(())
}

/// `cpuacct.usage_all`: a heading, then CPU, user and system nanoseconds.
fn parse_usage_all(text: &str) -> Vec<CpuTime> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().ok());
        let (_, user, system) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(CpuTime { user_ns: user, system_ns: system })
    };
    text.lines().skip(1).filter_map(line).collect()
}

fn cpuset(place: Place<'_>) -> Result<CpusetStats, Error> {
    let (dir, cpus, mems) = match place {
        Place::V1(dir) => (dir, "cpuset.cpus", "cpuset.mems"),
        Place::V2(dir) => (dir, "cpuset.cpus.effective", "cpuset.mems.effective"),
    };
    Ok(CpusetStats { cpus: parse_list(&text(dir, cpus)?), mems: parse_list(&text(dir, mems)?) })
}

/// More CPUs than any machine has; a range in a file cannot ask for more memory than this.
const MAX_CPUS: u32 = 1 << 16;

/// `0-3,7` as numbers.
fn parse_list(text: &str) -> Vec<u32> {
    let mut list = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            list.extend(first..=last.min(MAX_CPUS));
            list.truncate(MAX_CPUS as usize);
        }
    }
    list
}

fn usage_v1(dir: &Dir, prefix: &str) -> Result<Usage, Error> {
    let file = |name: &str| format!("{prefix}.{name}");
    let Some(usage) = dir.read_if_present(&file("usage_in_bytes"))? else { return Ok(Usage::default()) };
    Ok(Usage {
        usage: parse_or_zero(&usage),
        max_usage: number(dir, &file("max_usage_in_bytes"))?,
        limit: limit(dir, &file("limit_in_bytes"))?,
        failures: number(dir, &file("failcnt"))?,
    })
}

fn memory_v1(dir: &Dir) -> Result<MemoryStats, Error> {
    let usage = usage_v1(dir, "memory")?;
    let swap = usage_v1(dir, "memory.memsw")?;
    let raw: BTreeMap<String, u64> = keyed(&text(dir, "memory.stat")?).map(|(k, v)| (k.to_owned(), v)).collect();
    Ok(MemoryStats {
        usage: usage.usage,
        max_usage: usage.max_usage,
        limit: usage.limit,
        failures: usage.failures,
        swap_only: Usage { usage: swap.usage.saturating_sub(usage.usage), ..Usage::default() },
        swap,
        kernel: usage_v1(dir, "memory.kmem")?,
        kernel_tcp: usage_v1(dir, "memory.kmem.tcp")?,
        cache: raw.get("total_cache").or(raw.get("cache")).copied().unwrap_or(0),
        oom_kills: key(&text(dir, "memory.oom_control")?, "oom_kill"),
        raw,
    })
}

fn memory_v2(dir: &Dir) -> Result<MemoryStats, Error> {
    let raw: BTreeMap<String, u64> = keyed(&text(dir, "memory.stat")?).map(|(k, v)| (k.to_owned(), v)).collect();
    let events = text(dir, "memory.events")?;
    let (usage, memory_limit) = (number(dir, "memory.current")?, limit(dir, "memory.max")?);
    let swap_only = Usage {
        usage: number(dir, "memory.swap.current")?,
        max_usage: number(dir, "memory.swap.peak")?,
        limit: limit(dir, "memory.swap.max")?,
        failures: key(&text(dir, "memory.swap.events")?, "fail"),
    };
    let swap = Usage {
        usage: usage.saturating_add(swap_only.usage),
        max_usage: 0,
        limit: memory_limit.zip(swap_only.limit).map(|(memory, swap)| memory.saturating_add(swap)),
        failures: swap_only.failures,
    };
    let of = |name: &str| raw.get(name).copied().unwrap_or(0);
    Ok(MemoryStats {
        usage,
        max_usage: number(dir, "memory.peak")?,
        limit: memory_limit,
        failures: key(&events, "max"),
        swap,
        swap_only,
        kernel: Usage { usage: of("kernel"), ..Usage::default() },
        kernel_tcp: Usage::default(),
        cache: of("file"),
        oom_kills: key(&events, "oom_kill"),
        raw,
    })
}

fn blkio_v1(dir: &Dir) -> Result<BlkioStats, Error> {
    let list = |file: &str| Ok::<_, Error>(parse_blkio(&text(dir, file)?));
    // The scheduler's own counts if it has any, else those of the throttle layer, which sees every request.
    let either = |name: &str| {
        let scheduler = list(&format!("blkio.bfq.{name}"))?;
        if scheduler.is_empty() { list(&format!("blkio.throttle.{name}")) } else { Ok(scheduler) }
    };
    Ok(BlkioStats {
        service_bytes: either("io_service_bytes_recursive")?,
        serviced: either("io_serviced_recursive")?,
        queued: list("blkio.bfq.io_queued_recursive")?,
        service_time: list("blkio.bfq.io_service_time_recursive")?,
        wait_time: list("blkio.bfq.io_wait_time_recursive")?,
        merged: list("blkio.bfq.io_merged_recursive")?,
        time: list("blkio.bfq.time_recursive")?,
        sectors: list("blkio.bfq.sectors_recursive")?,
    })
}

/// `8:0 Read 4096` or `8:0 4096`; the line that sums all devices (`Total 8192`) is left out.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let (op, value) = match (fields.next()?, fields.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn parse_io_stat(text: &str) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let Some((Ok(major), Ok(minor))) =
            fields.next().and_then(|f| f.split_once(':')).map(|(a, b)| (a.parse(), b.parse()))
        else {
            continue;
        };
        for (key, value) in fields.filter_map(|f| f.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut stats.service_bytes, "Read"),
                "wbytes" => (&mut stats.service_bytes, "Write"),
                "dbytes" => (&mut stats.service_bytes, "Discard"),
                "rios" => (&mut stats.serviced, "Read"),
                "wios" => (&mut stats.serviced, "Write"),
                "dios" => (&mut stats.serviced, "Discard"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
    stats
}

/// The huge page sizes of this host, from the names of the cgroup's files: `hugetlb.2MB.max`.
pub(crate) fn hugetlb_sizes(dir: &Dir) -> Vec<String> {
    let mut sizes: Vec<String> = Vec::new();
    let Ok(listing) = rustix::fs::openat(
        dir.fd(),
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) else {
        return sizes;
    };
    let Ok(entries) = rustix::fs::Dir::read_from(listing.as_fd()) else { return sizes };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        let parts = name.strip_prefix("hugetlb.").and_then(|rest| rest.split_once('.'));
        if let Some((size, "max" | "limit_in_bytes")) = parts {
            sizes.push(size.to_owned());
        }
    }
    sizes.sort();
    sizes
}

fn hugetlb(place: Place<'_>) -> Result<BTreeMap<String, Usage>, Error> {
    let (Place::V1(dir) | Place::V2(dir)) = place;
    let mut map = BTreeMap::new();
    for size in hugetlb_sizes(dir) {
        let prefix = format!("hugetlb.{size}");
        let usage = match place {
            Place::V1(_) => usage_v1(dir, &prefix)?,
            Place::V2(_) => Usage {
                usage: number(dir, &format!("{prefix}.current"))?,
                max_usage: 0,
                limit: limit(dir, &format!("{prefix}.max"))?,
                failures: key(&text(dir, &format!("{prefix}.events"))?, "max"),
            },
        };
        map.insert(size, usage);
    }
    Ok(map)
}

/// `mlx5_0 hca_handle=2 hca_object=max`, once with the use and once with the limits.
fn parse_rdma(current: &str, max: &str) -> BTreeMap<String, RdmaStats> {
    let mut map: BTreeMap<String, RdmaStats> = BTreeMap::new();
    for (text, is_limit) in [(current, false), (max, true)] {
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            let Some(device) = fields.next() else { continue };
            let stats = map.entry(device.to_owned()).or_default();
            for (key, value) in fields.filter_map(|f| f.split_once('=')) {
                let value: Option<u64> = value.parse().ok();
                match (key, is_limit) {
                    ("hca_handle", false) => stats.hca_handles = value.unwrap_or(0),
                    ("hca_object", false) => stats.hca_objects = value.unwrap_or(0),
                    ("hca_handle", true) => stats.max_handles = value,
                    ("hca_object", true) => stats.max_objects = value,
                    _ => {}
                }
            }
        }
    }
    map
}

/// `some avg10=0.53 avg60=4.66 avg300=7.60 total=156155998`, and the same for `full`.
fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut any = false;
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let stall = match fields.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        any = true;
        for (key, value) in fields.filter_map(|f| f.split_once('=')) {
            // Only finite numbers: JSON has no others.
            let share = value.parse::<f64>().ok().filter(|v| v.is_finite()).unwrap_or(0.0);
            match key {
                "avg10" => stall.avg10 = share,
                "avg60" => stall.avg60 = share,
                "avg300" => stall.avg300 = share,
                "total" => stall.total_us = parse_or_zero(value),
                _ => {}
            }
        }
    }
    any.then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_stat_of_both_versions_is_in_nanoseconds() {
        let mut cpu = CpuStats::default();
        parse_cpu_stat(
            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nthrottled_usec 7\nnew 1\n",
            &mut cpu,
        );
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns), (30_000, 20_000, 10_000));
        assert_eq!((cpu.throttling.periods, cpu.throttling.throttled_ns), (4, 7_000));
        parse_cpu_stat("throttled_time 9\nburst_time 5", &mut cpu);
        assert_eq!((cpu.throttling.throttled_ns, cpu.throttling.burst_ns), (9, 5));
        let per_cpu = parse_usage_all("cpu user system\n0 5 6\n1 7 8\n");
        assert_eq!(per_cpu, [CpuTime { user_ns: 5, system_ns: 6 }, CpuTime { user_ns: 7, system_ns: 8 }]);
    }

    #[test]
    fn limits_without_a_number_are_none() {
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit("4096\n"), Some(4096));
    }

    #[test]
    fn block_counts_are_read_in_the_forms_of_both_versions() {
        let entry = |op: &str, value| BlkioEntry { major: 8, minor: 16, op: op.to_owned(), value };
        assert_eq!(parse_blkio("8:16 Read 1\n8:16 Total 3\nTotal 3\n"), [entry("Read", 1), entry("Total", 3)]);
        assert_eq!(parse_blkio("8:16 77\n"), [entry("", 77)]);
        let stats = parse_io_stat("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=9\n9:0\n");
        assert_eq!(stats.service_bytes, [entry("Read", 1), entry("Write", 2), entry("Discard", 5)]);
        assert_eq!(stats.serviced, [entry("Read", 3), entry("Write", 4), entry("Discard", 6)]);
    }

    #[test]
    fn pressure_and_rdma_are_read() {
        let text =
            "some avg10=0.53 avg60=4.66 avg300=7.60 total=156155998\nfull avg10=0.00 avg60=nan avg300=0.00 total=3\n";
        let pressure = parse_pressure(text).unwrap();
        assert_eq!((pressure.some.avg60, pressure.some.total_us, pressure.full.total_us), (4.66, 156_155_998, 3));
        assert_eq!(parse_pressure(""), None);
        let rdma = parse_rdma("mlx4_0 hca_handle=2 hca_object=20\n", "mlx4_0 hca_handle=max hca_object=99\n");
        let expected = RdmaStats { hca_handles: 2, hca_objects: 20, max_handles: None, max_objects: Some(99) };
        assert_eq!(rdma["mlx4_0"], expected);
    }

    #[test]
    fn lists_are_numbers_and_never_too_many() {
        assert_eq!(parse_list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(parse_list("\n"), [0u32; 0]);
        assert!(parse_list("0-4294967295,0-4294967295").len() <= MAX_CPUS as usize);
    }

    proptest! {
        #[test]
        fn any_content_of_kernel_files_is_read_without_panic(text in "([a-z0-9_.:=, -]{0,30}\n){0,6}|.{0,100}") {
            let mut cpu = CpuStats::default();
            parse_cpu_stat(&text, &mut cpu);
            let _ = (parse_usage_all(&text), parse_list(&text), parse_limit(&text), parse_blkio(&text));
            let _ = (parse_io_stat(&text), parse_rdma(&text, &text), parse_pressure(&text), key(&text, "a"));
        }

        #[test]
        fn flat_keyed_lines_are_read_back(pairs in proptest::collection::btree_map("[a-z_]{1,8}", any::<u64>(), 0..8)) {
            let text: String = pairs.iter().map(|(k, v)| format!("{k} {v}\n")).collect();
            let read: BTreeMap<String, u64> = keyed(&text).map(|(k, v)| (k.to_owned(), v)).collect();
            prop_assert_eq!(read, pairs);
        }
    }
}
