//! Writing `linux.resources` into the interface files, whichever version a controller has here.
//!
//! One function a group of settings; in each, the version 1 files first, then those of version 2. What the two
//! versions call differently is converted in [`crate::convert`]. The order of writes matters where the kernel checks
//! one value against another (memory against memory with swap, quota against period): the comments say which.
//! Sources: `admin-guide/cgroup-v1/*.rst`, `admin-guide/cgroup-v2.rst`, `config-linux.md#control-groups`.

use crate::cgroup::{Cgroup, ControllerDir};
use crate::convert::{cpu_weight, io_weight, or_max, swap_max};
use crate::devices::{Policy, Rule};
use crate::dir::Dir;
use crate::{Error, bpf};
use rustix::io::Errno;
use std::cell::OnceCell;
use strata_spec::runtime::{BlockIo, Cpu, HugepageLimit, Memory, Network, Pids, Resources, ThrottleDevice};

/// Where a controller's files are.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    V1(&'a Dir),
    V2(&'a Dir),
}

/// The cgroup's directories, each opened when first needed.
pub(crate) struct Dirs<'a> {
    cgroup: &'a Cgroup,
    v1: Vec<OnceCell<Dir>>,
    v2: OnceCell<Dir>,
}

fn open<'d>(cell: &'d OnceCell<Dir>, place: &ControllerDir) -> Result<&'d Dir, Error> {
    if let Some(dir) = cell.get() {
        return Ok(dir);
    }
    let dir = Dir::open(place.dir())?;
    Ok(cell.get_or_init(|| dir))
}

impl<'a> Dirs<'a> {
    pub fn new(cgroup: &'a Cgroup) -> Dirs<'a> {
        Dirs { cgroup, v1: cgroup.v1.iter().map(|_| OnceCell::new()).collect(), v2: OnceCell::new() }
    }

    /// Where `controller` is; `io` and `blkio` are two names of one.
    pub fn find(&self, controller: &str) -> Result<Option<Place<'_>>, Error> {
        let v1_name = if controller == "io" { "blkio" } else { controller };
        if let Some(at) = self.cgroup.v1.iter().position(|p| p.has(v1_name)) {
            return Ok(Some(Place::V1(open(&self.v1[at], &self.cgroup.v1[at])?)));
        }
        match &self.cgroup.v2 {
            Some(place) if place.has(controller) => Ok(Some(Place::V2(open(&self.v2, place)?))),
            _ => Ok(None),
        }
    }

    /// The version 2 directory.
    pub fn v2(&self) -> Result<Option<&Dir>, Error> {
        self.cgroup.v2.as_ref().map(|place| open(&self.v2, place)).transpose()
    }

    /// Runs `write` where the controller is; `setting` names in words what needs it.
    fn with(
        &self,
        controller: &'static str,
        setting: &'static str,
        write: impl FnOnce(Place<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(place) = self.find(controller)? else {
            return Err(self.missing(controller, setting));
        };
        let Err(error) = write(place) else { return Ok(()) };
        if let Place::V2(dir) = place
            && error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
        {
            return Err(not_enabled(dir, controller, setting).unwrap_or(error));
        }
        Err(error)
    }

    pub fn missing(&self, controller: &'static str, setting: &'static str) -> Error {
        let remedy = "boot with it or leave the setting out";
        let place = match (self.cgroup.v1.is_empty(), &self.cgroup.v2) {
            (true, None) => {
                "has no directory here: this user may not make cgroups; delegate some or run as root".into()
            }
            (true, Some(place)) => {
                format!("is not in cgroup.controllers of {}; {remedy}", place.mount_point.display())
            }
            (false, None) => format!("this host's cgroup v1 layout does not mount; mount it, {remedy}"),
            (false, Some(_)) => format!("this host's hybrid cgroup layout has in neither version; {remedy}"),
        };
        let controller = if controller == "io" && !self.cgroup.v1.is_empty() { "blkio" } else { controller };
        Error::Controller { setting, controller: controller.to_owned(), place }
    }
}

/// The reason for a missing version 2 file, if it is that the controller was not handed down.
fn not_enabled(dir: &Dir, controller: &str, setting: &'static str) -> Option<Error> {
    let enabled = dir.read("cgroup.controllers").ok()?;
    if enabled.split_whitespace().any(|c| c == controller) {
        return None;
    }
    let place = format!(
        "is not enabled in {}: cgroup.subtree_control of its parent lacks it, because the parent holds processes or is not writable here; \
         use another linux.cgroupsPath, or delegate the controller (systemd: Delegate=yes)",
        dir.path.display()
    );
    Some(Error::Controller { setting, controller: controller.to_owned(), place })
}

/// A setting that only version 1 has.
fn only_v1(setting: &'static str, value: impl ToString, instead: &str) -> Error {
    Error::Value { setting, value: value.to_string(), why: format!("cgroup v2 has no such setting; {instead}") }
}

/// The controllers that `resources` need in a version 2 hierarchy, were they there.
pub(crate) fn controllers_of(r: &Resources) -> Vec<&str> {
    let mut list = Vec::new();
    let cpu = r.cpu.as_ref();
    list.extend(cpu.filter(|c| has_time(c)).map(|_| "cpu"));
    list.extend(cpu.filter(|c| has_set(c)).map(|_| "cpuset"));
    list.extend(r.memory.as_ref().filter(|m| has_memory(m)).map(|_| "memory"));
    list.extend(r.pids.and_then(|p| p.limit).map(|_| "pids"));
    list.extend(r.block_io.as_ref().filter(|b| **b != BlockIo::default()).map(|_| "io"));
    list.extend(r.hugepage_limits.first().map(|_| "hugetlb"));
    list.extend(r.rdma.first_key_value().map(|_| "rdma"));
    list.extend(r.unified.keys().filter_map(|k| k.split_once('.')).map(|(controller, _)| controller));
    list
}

/// Applies all of `r`. `fresh` promises that the cgroup still has the values of a new one, which saves reading them.
pub(crate) fn apply(cgroup: &Cgroup, r: &Resources, fresh: bool) -> Result<(), Error> {
    let dirs = Dirs::new(cgroup);
    if let Some(c) = r.cpu.as_ref().filter(|c| has_set(c)) {
        dirs.with("cpuset", "a CPU or memory-node list", |place| cpuset(place, c))?;
    }
    if !r.devices.is_empty() {
        devices(&dirs, r, fresh)?;
    }
    if let Some(m) = r.memory.as_ref().filter(|m| has_memory(m)) {
        dirs.with("memory", "a memory limit", |place| match place {
            Place::V1(dir) => memory_v1(dir, m, fresh),
            Place::V2(dir) => memory_v2(dir, m, fresh),
        })?;
    }
    if let Some(c) = r.cpu.as_ref().filter(|c| has_time(c)) {
        dirs.with("cpu", "a CPU weight or quota", |place| match place {
            Place::V1(dir) => cpu_v1(dir, c),
            Place::V2(dir) => cpu_v2(dir, c, fresh),
        })?;
    }
    if let Some(Pids { limit: Some(limit) }) = r.pids {
        dirs.with("pids", "a limit on tasks", |place| {
            let (Place::V1(dir) | Place::V2(dir)) = place;
            dir.write("pids.max", &or_max(if limit > 0 { limit } else { -1 }))
        })?;
    }
    if let Some(b) = r.block_io.as_ref().filter(|b| **b != BlockIo::default()) {
        dirs.with("io", "a block I/O weight or rate", |place| match place {
            Place::V1(dir) => block_io_v1(dir, b),
            Place::V2(dir) => block_io_v2(dir, b),
        })?;
    }
    for limit in &r.hugepage_limits {
        dirs.with("hugetlb", "a limit on huge pages", |place| hugetlb(place, limit))?;
    }
    if let Some(network) = &r.network {
        network_v1(&dirs, network)?;
    }
    for (device, limits) in &r.rdma {
        check_word("RDMA device", device)?;
        let mut line = device.clone();
        line.extend(limits.hca_handles.map(|n| format!(" hca_handle={n}")));
        line.extend(limits.hca_objects.map(|n| format!(" hca_object={n}")));
        if line.len() > device.len() {
            dirs.with("rdma", "a limit on RDMA handles", |place| {
                let (Place::V1(dir) | Place::V2(dir)) = place;
                dir.write("rdma.max", &line)
            })?;
        }
    }
    unified(&dirs, r)
}

/// A word that goes into a line of an interface file.
fn check_word(what: &'static str, value: &str) -> Result<(), Error> {
    if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::Name { what, value: value.to_owned(), why: "it is one word" });
    }
    Ok(())
}

fn given<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

fn has_set(c: &Cpu) -> bool {
    let named = |list: &Option<String>| list.as_ref().is_some_and(|l| !l.is_empty());
    named(&c.cpus) || named(&c.mems)
}

fn has_time(c: &Cpu) -> bool {
    let rt = given(c.realtime_runtime).is_some() || given(c.realtime_period).is_some();
    let cfs = given(c.shares).is_some() || given(c.quota).is_some() || given(c.period).is_some();
    rt || cfs || c.burst.is_some() || c.idle.is_some()
}

fn has_memory(m: &Memory) -> bool {
    // Kernel memory is not limited apart since Linux 5.4, and hierarchical accounting cannot be turned off.
    let ignored = Memory {
        kernel: m.kernel,
        use_hierarchy: m.use_hierarchy,
        check_before_update: m.check_before_update,
        ..Memory::default()
    };
    *m != ignored
}

fn cpuset(place: Place<'_>, c: &Cpu) -> Result<(), Error> {
    let (Place::V1(dir) | Place::V2(dir)) = place;
    for (file, list) in [("cpuset.cpus", &c.cpus), ("cpuset.mems", &c.mems)] {
        if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
            dir.write(file, list)?;
        }
    }
    Ok(())
}

/// Writes values whose kernel check looks at a quota that is about to change. One that is refused as it stands
/// (EINVAL) is tried again after the quota.
fn around_quota(dir: &Dir, quota: Option<(&str, String)>, others: &[(&str, Option<String>)]) -> Result<(), Error> {
    let mut again = Vec::new();
    for (file, value) in others {
        let Some(value) = value else { continue };
        match dir.write(file, value) {
            Err(e) if quota.is_some() && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                again.push((file, value));
            }
            done => done?,
        }
    }
    if let Some((file, value)) = quota {
        dir.write(file, &value)?;
    }
    for (file, value) in again {
        dir.write(file, value)?;
    }
    Ok(())
}

/// Weight and idle: the kernel refuses a weight while the cgroup is idle, so leaving idle comes before it and
/// becoming idle after.
fn weight_and_idle(dir: &Dir, file: &str, weight: Option<u64>, idle: Option<i64>) -> Result<(), Error> {
    if idle == Some(0) {
        dir.write("cpu.idle", "0")?;
    }
    if let Some(weight) = weight {
        dir.write(file, &weight.to_string())?;
    }
    match idle {
        Some(idle) if idle != 0 => dir.write("cpu.idle", &idle.to_string()),
        _ => Ok(()),
    }
}

/// Drops `burst` where the kernel (before 5.14) has no file for it, as runc does.
fn burst(dir: &Dir, file: &str, c: &Cpu) -> Option<String> {
    c.burst.filter(|_| dir.exists(file)).map(|b| b.to_string())
}

fn cpu_v1(dir: &Dir, c: &Cpu) -> Result<(), Error> {
    let shares = given(c.shares);
    if let Some(shares) = shares.filter(|s| !(2..=262_144).contains(s)) {
        let why = "shares are 2 to 262144, 1024 being the default".to_owned();
        return Err(Error::Value { setting: "cpu.shares", value: shares.to_string(), why });
    }
    weight_and_idle(dir, "cpu.shares", shares, c.idle)?;
    let text = |n: Option<u64>| given(n).map(|n| n.to_string());
    let quota = given(c.quota).map(|q| ("cpu.cfs_quota_us", q.to_string()));
    let burst = burst(dir, "cpu.cfs_burst_us", c);
    around_quota(dir, quota, &[("cpu.cfs_period_us", text(c.period)), ("cpu.cfs_burst_us", burst)])?;
    let runtime = given(c.realtime_runtime).map(|r| ("cpu.rt_runtime_us", r.to_string()));
    around_quota(dir, runtime, &[("cpu.rt_period_us", text(c.realtime_period))])
}

fn cpu_v2(dir: &Dir, c: &Cpu, fresh: bool) -> Result<(), Error> {
    if let Some(runtime) = given(c.realtime_runtime) {
        return Err(only_v1("real-time CPU runtime", runtime, "leave realtimeRuntime out"));
    }
    if let Some(period) = given(c.realtime_period) {
        return Err(only_v1("real-time CPU period", period, "leave realtimePeriod out"));
    }
    weight_and_idle(dir, "cpu.weight", given(c.shares).map(cpu_weight), c.idle)?;
    let max = match (given(c.quota), given(c.period)) {
        (None, None) => None,
        (Some(quota), None) => Some(or_max(quota)),
        (Some(quota), Some(period)) => Some(format!("{} {period}", or_max(quota))),
        (None, Some(period)) if fresh => Some(format!("max {period}")),
        // A period is written with a quota or not at all.
        (None, Some(period)) => {
            let now = dir.read("cpu.max")?;
            Some(format!("{} {period}", now.split_whitespace().next().unwrap_or("max")))
        }
    };
    let burst = burst(dir, "cpu.max.burst", c);
    around_quota(dir, max.map(|m| ("cpu.max", m)), &[("cpu.max.burst", burst)])
}

const V1_LIMIT: &str = "memory.limit_in_bytes";
const V1_SWAP: &str = "memory.memsw.limit_in_bytes";

fn memory_v1(dir: &Dir, m: &Memory, fresh: bool) -> Result<(), Error> {
    let limit = given(m.limit);
    // No limit on memory is none on memory with swap either, which must not be below it.
    let swap = given(m.swap).or_else(|| limit.filter(|&l| l == -1 && !fresh && dir.exists(V1_SWAP)));
    let write_limit = || match limit {
        None => Ok(()),
        Some(limit) => match dir.write(V1_LIMIT, &limit.to_string()) {
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                let usage = parse_or_zero(&dir.read("memory.usage_in_bytes")?);
                Err(Error::BelowUsage { setting: "memory limit", limit, usage })
            }
            Err(e) if swap.is_none() && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                match dir.read(V1_SWAP).ok().map(|text| parse_or_zero(&text)) {
                    Some(both) if i128::from(both) < i128::from(limit) => Err(Error::Value {
                        setting: "memory limit",
                        value: limit.to_string(),
                        why: format!("it cannot be above the limit on memory and swap, {both}: raise that with it"),
                    }),
                    _ => Err(e),
                }
            }
            done => done,
        },
    };
    let write_swap = || match swap {
        None => Ok(()),
        Some(swap) if dir.write_if_present(V1_SWAP, &swap.to_string())? || swap < 0 => Ok(()),
        Some(swap) => Err(Error::Value {
            setting: "memory and swap limit",
            value: swap.to_string(),
            why: "this kernel does not account swap; boot with swapaccount=1 or leave the limit out".to_owned(),
        }),
    };
    // The kernel refuses a limit on memory above that on memory with swap, at every moment. A new cgroup has no
    // limits, so memory goes down first; later, whichever makes room goes first.
    let swap_first = match (limit, swap) {
        (Some(_), Some(-1)) => true,
        (Some(_), Some(swap)) if !fresh => i128::from(parse_or_zero(&dir.read(V1_LIMIT)?)) < i128::from(swap),
        _ => false,
    };
    if swap_first {
        write_swap()?;
        write_limit()?;
    } else {
        write_limit()?;
        write_swap()?;
    }
    if let Some(reservation) = given(m.reservation) {
        dir.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(tcp) = given(m.kernel_tcp) {
        dir.write("memory.kmem.tcp.limit_in_bytes", &tcp.to_string())?;
    }
    match m.disable_oom_killer {
        Some(true) => dir.write("memory.oom_control", "1")?,
        Some(false) if !fresh => dir.write("memory.oom_control", "0")?,
        _ => {}
    }
    match m.swappiness {
        Some(swappiness @ 0..=100) => dir.write("memory.swappiness", &swappiness.to_string()),
        // -1 from tools that have no other word for "unset".
        None | Some(u64::MAX) => Ok(()),
        Some(swappiness) => Err(Error::Value {
            setting: "memory swappiness",
            value: swappiness.to_string(),
            why: "it is 0 to 100".to_owned(),
        }),
    }
}

fn memory_v2(dir: &Dir, m: &Memory, fresh: bool) -> Result<(), Error> {
    if m.disable_oom_killer == Some(true) {
        return Err(only_v1("memory.disableOOMKiller", "true", "leave it out, or set memory.high through `unified`"));
    }
    if let Some(swappiness) = m.swappiness.filter(|&s| s != u64::MAX) {
        return Err(only_v1("memory swappiness", swappiness, "leave it out, or limit swap"));
    }
    if let Some(tcp) = m.kernel_tcp.filter(|&t| t > 0) {
        return Err(only_v1("kernel TCP memory limit", tcp, "it counts as memory; leave it out"));
    }
    let mut limit = given(m.limit);
    if m.check_before_update == Some(true)
        && let Some(usage) = dir.read_if_present("memory.current")?
    {
        let usage = parse_or_zero(&usage);
        for (setting, limit) in [("memory and swap limit", m.swap), ("memory limit", limit)] {
            if let Some(limit) = limit.filter(|&l| l > 0 && l.unsigned_abs() <= usage) {
                return Err(Error::BelowUsage { setting, limit, usage });
            }
        }
    }
    if !fresh && limit.is_none() && m.swap.is_some_and(|s| s > 0) {
        // An update of swap alone counts from the limit in force.
        limit = dir.read("memory.max")?.trim().parse().ok();
    }
    if let Some(swap) = swap_max(limit, m.swap)? {
        let done = dir.write_if_present("memory.swap.max", &or_max(swap))?;
        if !done && swap > 0 {
            return Err(Error::Value {
                setting: "memory and swap limit",
                value: m.swap.unwrap_or(swap).to_string(),
                why: "this kernel does not account swap; boot with swapaccount=1 or leave the limit out".to_owned(),
            });
        }
    }
    if let Some(limit) = given(m.limit) {
        dir.write("memory.max", &or_max(limit))?;
    }
    if let Some(low) = given(m.reservation) {
        dir.write("memory.low", &or_max(low))?;
    }
    Ok(())
}

pub(crate) fn parse_or_zero(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn check_weight(weight: u16) -> Result<u16, Error> {
    if (10..=1000).contains(&weight) {
        return Ok(weight);
    }
    Err(Error::Value { setting: "block I/O weight", value: weight.to_string(), why: "weights are 10 to 1000".into() })
}

fn block_io_v1(dir: &Dir, b: &BlockIo) -> Result<(), Error> {
    // The BFQ scheduler has its own files; blkio.weight belonged to CFQ, gone since Linux 5.0.
    let weight = |bfq: &str, cfq: &str, line: String| {
        if dir.write_if_present(bfq, &line)? || dir.write_if_present(cfq, &line)? {
            return Ok(());
        }
        let why = format!("this kernel has neither {bfq} (scheduler BFQ) nor {cfq} (CFQ); leave the weight out");
        Err(Error::Value { setting: "block I/O weight", value: line, why })
    };
    let leaf = |file: &str, line: String| {
        if dir.write_if_present(file, &line)? {
            return Ok(());
        }
        let why = format!("this kernel has no {file}, which went with scheduler CFQ in Linux 5.0; leave it out");
        Err(Error::Value { setting: "block I/O leaf weight", value: line, why })
    };
    if let Some(w) = given(b.weight) {
        weight("blkio.bfq.weight", "blkio.weight", check_weight(w)?.to_string())?;
    }
    if let Some(w) = given(b.leaf_weight) {
        leaf("blkio.leaf_weight", check_weight(w)?.to_string())?;
    }
    for device in &b.weight_device {
        let line = |weight: u16| Ok(format!("{}:{} {}", device.major, device.minor, check_weight(weight)?));
        if let Some(w) = given(device.weight) {
            weight("blkio.bfq.weight_device", "blkio.weight_device", line(w)?)?;
        }
        if let Some(w) = given(device.leaf_weight) {
            leaf("blkio.leaf_weight_device", line(w)?)?;
        }
    }
    for (file, list) in [
        ("blkio.throttle.read_bps_device", &b.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &b.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &b.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &b.throttle_write_iops_device),
    ] {
        write_throttles(dir, file, list, |t| format!("{}:{} {}", t.major, t.minor, t.rate))?;
    }
    Ok(())
}

fn write_throttles(
    dir: &Dir,
    file: &str,
    list: &[ThrottleDevice],
    line: impl Fn(&ThrottleDevice) -> String,
) -> Result<(), Error> {
    if list.is_empty() {
        return Ok(());
    }
    let writer = dir.writer(file)?;
    list.iter().try_for_each(|throttle| writer.write(&line(throttle)))
}

fn block_io_v2(dir: &Dir, b: &BlockIo) -> Result<(), Error> {
    let leaf = given(b.leaf_weight).or_else(|| b.weight_device.iter().find_map(|d| given(d.leaf_weight)));
    if let Some(leaf) = leaf {
        return Err(only_v1("block I/O leaf weight", leaf, "weigh the child cgroups instead"));
    }
    // The BFQ scheduler keeps the version 1 scale in a file of its own; io.weight (io.cost) has another.
    let weight = |device: &str, weight: u16| {
        check_weight(weight)?;
        let bfq = dir.write_if_present("io.bfq.weight", &format!("{device}{weight}"));
        match bfq {
            Ok(true) => Ok(()),
            // BFQ before Linux 5.4 has no weights by device, nor has it any for a disk under another scheduler.
            Err(_) if !device.is_empty() => dir.write("io.weight", &format!("{device}{}", io_weight(weight))),
            Ok(false) => dir.write("io.weight", &format!("{device}{}", io_weight(weight))),
            Err(e) => Err(e),
        }
    };
    if let Some(w) = given(b.weight) {
        weight("", w)?;
    }
    for device in &b.weight_device {
        if let Some(w) = given(device.weight) {
            weight(&format!("{}:{} ", device.major, device.minor), w)?;
        }
    }
    for (key, list) in [
        ("rbps", &b.throttle_read_bps_device),
        ("wbps", &b.throttle_write_bps_device),
        ("riops", &b.throttle_read_iops_device),
        ("wiops", &b.throttle_write_iops_device),
    ] {
        // Zero takes a version 1 limit away; version 2 says so in words.
        let rate = |rate: u64| if rate == 0 { "max".to_owned() } else { rate.to_string() };
        write_throttles(dir, "io.max", list, |t| format!("{}:{} {key}={}", t.major, t.minor, rate(t.rate)))?;
    }
    Ok(())
}

fn hugetlb(place: Place<'_>, limit: &HugepageLimit) -> Result<(), Error> {
    let size = &limit.page_size;
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    if digits.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit())
        || !["KB", "MB", "GB"].contains(&&size[digits.len()..])
    {
        let why = "page sizes read like 64KB, 2MB or 1GB";
        return Err(Error::Name { what: "huge page size", value: size.clone(), why });
    }
    let (dir, suffix) = match place {
        Place::V1(dir) => (dir, "limit_in_bytes"),
        Place::V2(dir) => (dir, "max"),
    };
    let value = limit.limit.to_string();
    if !dir.write_if_present(&format!("hugetlb.{size}.{suffix}"), &value)? {
        let sizes = crate::stats::hugetlb_sizes(dir);
        if sizes.is_empty() {
            // No size at all: the files are not there, and the caller finds out why.
            return dir.write(&format!("hugetlb.{size}.{suffix}"), &value);
        }
        let why = format!("this host's huge page sizes are {}", sizes.join(", "));
        return Err(Error::Value { setting: "limit on huge pages", value: size.clone(), why });
    }
    // Reservations count since Linux 5.7; before, a process beyond the limit got SIGBUS instead of ENOMEM.
    dir.write_if_present(&format!("hugetlb.{size}.rsvd.{suffix}"), &value)?;
    Ok(())
}

fn network_v1(dirs: &Dirs<'_>, n: &Network) -> Result<(), Error> {
    if let Some(class) = given(n.class_id) {
        dirs.with("net_cls", "a network class", |place| {
            let (Place::V1(dir) | Place::V2(dir)) = place;
            dir.write("net_cls.classid", &class.to_string())
        })?;
    }
    for interface in &n.priorities {
        check_word("network interface", &interface.name)?;
        dirs.with("net_prio", "a network priority", |place| {
            let (Place::V1(dir) | Place::V2(dir)) = place;
            dir.write("net_prio.ifpriomap", &format!("{} {}", interface.name, interface.priority))
        })?;
    }
    Ok(())
}

fn devices(dirs: &Dirs<'_>, r: &Resources, fresh: bool) -> Result<(), Error> {
    let rules = Rule::check_all(&r.devices)?;
    let done = match dirs.find("devices")? {
        Some(Place::V1(dir) | Place::V2(dir)) => devices_v1(dir, &rules, fresh),
        None => match dirs.v2()? {
            Some(dir) => bpf::attach(&dir.path, &rules, fresh),
            None => return Err(dirs.missing("devices", "a device access list")),
        },
    };
    match done {
        // Neither in a user namespace nor without root may one set device lists, nor make nodes, nor open those that
        // the host did not offer to this user.
        Err(e) if e.raw_os_error() == Some(Errno::PERM.raw_os_error()) && powerless() => Ok(()),
        done => done,
    }
}

fn devices_v1(dir: &Dir, rules: &[Rule], fresh: bool) -> Result<(), Error> {
    let policy = Policy::from_rules(rules)?;
    let current = if fresh { None } else { Policy::from_list(&dir.read("devices.list")?) };
    let (allow, deny) = (dir.writer("devices.allow")?, dir.writer("devices.deny")?);
    for (allowed, line) in policy.writes(current.as_ref()) {
        let file = if allowed { &allow } else { &deny };
        file.write(&line)?;
    }
    Ok(())
}

fn powerless() -> bool {
    !rustix::process::geteuid().is_root() || in_user_namespace()
}

/// Whether this process is in a user namespace other than the first, whose map is the identity.
pub(crate) fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

fn unified(dirs: &Dirs<'_>, r: &Resources) -> Result<(), Error> {
    for (file, value) in &r.unified {
        if file.contains('/') || !file.contains('.') || file.contains('\0') {
            let why = "it is the name of a file of the cgroup v2 directory, without slashes";
            return Err(Error::Name { what: "linux.resources.unified key", value: file.clone(), why });
        }
        let controller = file.split_once('.').map_or("", |(controller, _)| controller);
        let on_v1 = dirs.cgroup.v1.iter().any(|p| p.has(controller) || controller == "io" && p.has("blkio"));
        let Some(dir) = dirs.v2()?.filter(|_| !on_v1) else {
            let why = "linux.resources.unified is for cgroup v2, and here this controller is under v1 or missing; \
                       use the setting's own field"
                .to_owned();
            return Err(Error::Value { setting: "linux.resources.unified", value: format!("{file:?}"), why });
        };
        for line in value.lines() {
            dir.write(file, line).map_err(|e| {
                let absent = e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) && controller != "cgroup";
                let why = if absent { not_enabled(dir, controller, "linux.resources.unified") } else { None };
                why.unwrap_or(e)
            })?;
        }
    }
    Ok(())
}
