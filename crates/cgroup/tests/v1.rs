//! The version 1 controllers of the host that runs the tests, for real. Each test has cgroups of its own and removes
//! them; what a host lacks is reported by name, not passed over.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Child, skipped};
use std::time::Duration;
use strata_cgroup::{Cgroup, DEFAULT_DEVICE_RULES, Error, Layout, OomEvent};
use strata_spec::runtime::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, Memory, Network, Pids, Resources, ThrottleDevice, WeightDevice,
};

/// The host's layout and a cgroup path of this test; `None`, and said so, without root or a version 1 controller.
fn host(test: &str, controllers: &[&str]) -> Option<(Layout, String)> {
    let layout = Layout::detect().unwrap();
    let missing = controllers.iter().find(|c| layout.v1().iter().all(|h| h.controllers.iter().all(|have| have != *c)));
    if let Some(missing) = missing {
        skipped(test, &format!("this host has no cgroup v1 {missing} controller"));
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        skipped(test, "making cgroups needs root");
        return None;
    }
    Some((layout, format!("/strata-test-{}-{test}", std::process::id())))
}

/// A cgroup removed when the test ends, however it ends.
struct Own(Cgroup);

impl std::ops::Deref for Own {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill_all(libc::SIGKILL);
        let removed = self.0.remove();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn create(layout: &Layout, path: &str, r: &Resources) -> Own {
    Own(Cgroup::create(layout, Some(path), "test", r).unwrap())
}

fn read(cgroup: &Cgroup, controller: &str, file: &str) -> String {
    let place = cgroup.v1().iter().find(|p| p.controllers.iter().any(|c| c == controller)).unwrap();
    std::fs::read_to_string(place.dir().join(file)).unwrap().trim().to_owned()
}

const MIB: i64 = 1 << 20;

#[test]
fn memory_limits_move_up_and_down_with_swap_beside_them() {
    let Some((layout, path)) = host("memory", &["memory"]) else { return };
    let memory = |limit: i64, swap: i64| Resources {
        memory: Some(Memory { limit: Some(limit * MIB), swap: Some(swap * MIB), ..Memory::default() }),
        ..Resources::default()
    };
    let cgroup = create(&layout, &path, &memory(64, 128));
    let values = |cgroup: &Cgroup| {
        let value = |file: &str| read(cgroup, "memory", file).parse::<i64>().unwrap() / MIB;
        (value("memory.limit_in_bytes"), value("memory.memsw.limit_in_bytes"))
    };
    assert_eq!(values(&cgroup), (64, 128));
    for (limit, swap) in [(16, 32), (256, 512), (256, 256), (100, 300), (40, 40), (41, 41)] {
        cgroup.apply(&memory(limit, swap)).unwrap();
        assert_eq!(values(&cgroup), (limit, swap));
    }
    let none = Memory { limit: Some(-1), ..Memory::default() };
    cgroup.apply(&Resources { memory: Some(none), ..Resources::default() }).unwrap();
    assert!(values(&cgroup).0 > 1 << 40 && values(&cgroup).1 > 1 << 40);
    let stats = cgroup.stats().unwrap().memory;
    assert_eq!((stats.limit, stats.swap.limit), (None, None));
}

#[test]
fn the_other_memory_settings_reach_their_files() {
    let Some((layout, path)) = host("memory_other", &["memory"]) else { return };
    let memory = Memory {
        limit: Some(64 * MIB),
        reservation: Some(32 * MIB),
        kernel: Some(MIB),
        kernel_tcp: Some(8 * MIB),
        swappiness: Some(17),
        disable_oom_killer: Some(true),
        ..Memory::default()
    };
    let cgroup = create(&layout, &path, &Resources { memory: Some(memory), ..Resources::default() });
    assert_eq!(read(&cgroup, "memory", "memory.soft_limit_in_bytes"), (32 * MIB).to_string());
    assert_eq!(read(&cgroup, "memory", "memory.kmem.tcp.limit_in_bytes"), (8 * MIB).to_string());
    assert_eq!(read(&cgroup, "memory", "memory.swappiness"), "17");
    assert!(read(&cgroup, "memory", "memory.oom_control").starts_with("oom_kill_disable 1"));
    let stats = cgroup.stats().unwrap().memory;
    assert_eq!((stats.limit, stats.kernel_tcp.limit), (Some(64 << 20), Some(8 << 20)));
    let bad = Memory { swappiness: Some(101), ..Memory::default() };
    let error = cgroup.apply(&Resources { memory: Some(bad), ..Resources::default() }).unwrap_err();
    assert!(error.to_string().contains("101"), "{error}");
}

#[test]
fn a_limit_below_use_is_refused_with_the_use() {
    let Some((layout, path)) = host("below_use", &["memory"]) else { return };
    let cgroup = create(&layout, &path, &Resources::default());
    // Memory that cannot be reclaimed without swap: a process that holds 64 MiB, written.
    let _child = Child::shell(&cgroup, "x=$(head -c 50000000 /dev/zero | tr '\\0' 'a'); echo ready; sleep 60");
    let usage = cgroup.stats().unwrap().memory.usage;
    assert!(usage > 32 << 20, "{usage}");
    let limit = Memory { limit: Some(MIB), ..Memory::default() };
    match cgroup.apply(&Resources { memory: Some(limit), ..Resources::default() }) {
        Err(Error::BelowUsage { limit, usage, .. }) => assert!(limit == MIB && usage > 32 << 20),
        // With swap the kernel may move enough of it out.
        Ok(()) => assert!(cgroup.stats().unwrap().memory.swap_only.usage > 0),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn cpu_time_settings_reach_their_files_and_change_in_any_order() {
    let Some((layout, path)) = host("cpu", &["cpu"]) else { return };
    let cpu = |cpu: Cpu| Resources { cpu: Some(cpu), ..Resources::default() };
    let first =
        Cpu { shares: Some(512), quota: Some(50_000), period: Some(100_000), burst: Some(20_000), ..Cpu::default() };
    let cgroup = create(&layout, &path, &cpu(first));
    let values = |cgroup: &Cgroup| {
        ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"].map(|f| read(cgroup, "cpu", f))
    };
    assert_eq!(values(&cgroup), ["512", "50000", "100000", "20000"]);
    // A burst above the present quota is only possible after the new quota.
    let larger = Cpu { quota: Some(90_000), period: Some(100_000), burst: Some(80_000), ..Cpu::default() };
    cgroup.apply(&cpu(larger)).unwrap();
    assert_eq!(values(&cgroup), ["512", "90000", "100000", "80000"]);
    cgroup.apply(&cpu(Cpu { quota: Some(-1), burst: Some(0), ..Cpu::default() })).unwrap();
    assert_eq!(values(&cgroup)[1], "-1");
    cgroup.apply(&cpu(Cpu { idle: Some(1), ..Cpu::default() })).unwrap();
    assert_eq!(read(&cgroup, "cpu", "cpu.idle"), "1");
    cgroup.apply(&cpu(Cpu { idle: Some(0), shares: Some(700), ..Cpu::default() })).unwrap();
    assert_eq!((read(&cgroup, "cpu", "cpu.idle").as_str(), values(&cgroup)[0].as_str()), ("0", "700"));
    let error = cgroup.apply(&cpu(Cpu { shares: Some(1), ..Cpu::default() })).unwrap_err();
    assert!(error.to_string().contains("2 to 262144"), "{error}");
}

#[test]
fn a_quota_that_the_parent_bounds_is_raised_with_its_period() {
    let Some((layout, path)) = host("cpu_nested", &["cpu"]) else { return };
    let cpu = |quota: i64, period: u64| Resources {
        cpu: Some(Cpu { quota: Some(quota), period: Some(period), ..Cpu::default() }),
        ..Resources::default()
    };
    let parent = create(&layout, &path, &cpu(50_000, 100_000));
    let child = create(&layout, &format!("{path}/child"), &cpu(50_000, 100_000));
    // With the old quota the shorter period would be more than the parent's half.
    child.apply(&cpu(20_000, 50_000)).unwrap();
    assert_eq!(read(&child, "cpu", "cpu.cfs_period_us"), "50000");
    drop(child);
    drop(parent);
}

#[test]
fn a_cpuset_is_filled_from_its_parents_and_narrowed() {
    let Some((layout, path)) = host("cpuset", &["cpuset"]) else { return };
    let nested = format!("{path}/a/b");
    let outer = create(&layout, &path, &Resources::default());
    let cgroup = create(&layout, &nested, &Resources::default());
    assert_eq!(read(&cgroup, "cpuset", "cpuset.cpus"), read(&outer, "cpuset", "cpuset.cpus"));
    assert!(!read(&cgroup, "cpuset", "cpuset.mems").is_empty());
    let one = Cpu { cpus: Some("0".into()), mems: Some("0".into()), ..Cpu::default() };
    cgroup.apply(&Resources { cpu: Some(one), ..Resources::default() }).unwrap();
    assert_eq!(read(&cgroup, "cpuset", "cpuset.cpus"), "0");
    assert_eq!(cgroup.stats().unwrap().cpuset.cpus, [0]);
    let bad = Cpu { cpus: Some("0-9999".into()), ..Cpu::default() };
    let error = cgroup.apply(&Resources { cpu: Some(bad), ..Resources::default() }).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
}

#[test]
fn tasks_are_limited_and_counted() {
    let Some((layout, path)) = host("pids", &["pids"]) else { return };
    let pids = |limit: i64| Resources { pids: Some(Pids { limit: Some(limit) }), ..Resources::default() };
    let cgroup = create(&layout, &path, &pids(5));
    let _child = Child::shell(&cgroup, "sleep 60 & echo ready; wait");
    let stats = cgroup.stats().unwrap().pids;
    assert_eq!((stats.current, stats.limit), (2, Some(5)));
    assert_eq!(cgroup.pids().unwrap().len(), 2);
    cgroup.apply(&pids(-1)).unwrap();
    assert_eq!(cgroup.stats().unwrap().pids.limit, None);
}

#[test]
fn block_weights_and_rates_reach_their_files() {
    let Some((layout, path)) = host("blkio", &["blkio"]) else { return };
    let disk = std::fs::read_dir("/sys/block").ok().and_then(|mut d| d.next()).and_then(Result::ok);
    let Some(disk) = disk else { return skipped("blkio", "this host has no block device") };
    let number = std::fs::read_to_string(disk.path().join("dev")).unwrap();
    let (major, minor) = number.trim().split_once(':').map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap();
    let rate = |rate: u64| vec![ThrottleDevice { major, minor, rate }];
    let block_io = BlockIo {
        throttle_read_bps_device: rate(1 << 20),
        throttle_write_bps_device: rate(2 << 20),
        throttle_read_iops_device: rate(100),
        throttle_write_iops_device: rate(200),
        ..BlockIo::default()
    };
    let cgroup = create(&layout, &path, &Resources { block_io: Some(block_io), ..Resources::default() });
    for (file, rate) in [("read_bps", 1 << 20), ("write_bps", 2 << 20), ("read_iops", 100), ("write_iops", 200)] {
        let text = read(&cgroup, "blkio", &format!("blkio.throttle.{file}_device"));
        assert_eq!(text, format!("{major}:{minor} {rate}"));
    }
    let blkio = |block_io: BlockIo| Resources { block_io: Some(block_io), ..Resources::default() };
    cgroup.apply(&blkio(BlockIo { throttle_read_bps_device: rate(0), ..BlockIo::default() })).unwrap();
    assert_eq!(read(&cgroup, "blkio", "blkio.throttle.read_bps_device"), "");
    let dir = cgroup.v1().iter().find(|p| p.controllers.contains(&"blkio".to_owned())).unwrap().dir();
    let weighted = cgroup.apply(&blkio(BlockIo { weight: Some(300), ..BlockIo::default() }));
    if dir.join("blkio.bfq.weight").exists() {
        weighted.unwrap();
        assert!(read(&cgroup, "blkio", "blkio.bfq.weight").contains("300"));
    } else if !dir.join("blkio.weight").exists() {
        assert!(weighted.unwrap_err().to_string().contains("BFQ"));
    }
    for bad in
        [BlockIo { weight: Some(5), ..BlockIo::default() }, BlockIo { leaf_weight: Some(5), ..BlockIo::default() }]
    {
        assert!(cgroup.apply(&blkio(bad)).is_err());
    }
    let device = WeightDevice { major: 4000, minor: 1, weight: Some(100), leaf_weight: None };
    assert!(cgroup.apply(&blkio(BlockIo { weight_device: vec![device], ..BlockIo::default() })).is_err());
}

#[test]
fn device_rules_deny_allow_and_change_while_processes_run() {
    let Some((layout, path)) = host("devices", &["devices"]) else { return };
    let deny = DeviceRule { allow: false, access: Some("rwm".into()), ..DeviceRule::default() };
    let mut devices = vec![deny.clone()];
    devices.extend(DEFAULT_DEVICE_RULES.iter().cloned());
    let cgroup = create(&layout, &path, &Resources { devices: devices.clone(), ..Resources::default() });
    let kmsg = "if (: </dev/kmsg) 2>/dev/null; then echo open; else echo refused; fi";
    let null = "if (: </dev/null) 2>/dev/null; then echo open; else echo refused; fi";
    assert_eq!(Child::output(&cgroup, kmsg), "refused\n");
    assert_eq!(Child::output(&cgroup, null), "open\n");
    let extra = DeviceRule { allow: true, kind: Some("c".into()), major: Some(1), minor: Some(11), access: None };
    let more: Vec<_> = devices.iter().cloned().chain([extra]).collect();
    cgroup.apply(&Resources { devices: more, ..Resources::default() }).unwrap();
    assert_eq!(Child::output(&cgroup, kmsg), "open\n");
    cgroup.apply(&Resources { devices, ..Resources::default() }).unwrap();
    assert_eq!(Child::output(&cgroup, kmsg), "refused\n");
    assert_eq!(read(&cgroup, "devices", "devices.list").lines().count(), DEFAULT_DEVICE_RULES.len());
}

#[test]
fn frozen_processes_stand_still_and_are_killed_all_the_same() {
    let Some((layout, path)) = host("freezer", &["freezer", "cpuacct"]) else { return };
    let cgroup = create(&layout, &path, &Resources::default());
    let mut child = Child::shell(&cgroup, "echo ready; while :; do :; done");
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let before = cgroup.stats().unwrap().cpu.usage_ns;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(cgroup.stats().unwrap().cpu.usage_ns, before);
    assert!(before > 0);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    cgroup.kill_all(libc::SIGKILL).unwrap();
    assert_eq!(child.wait(), Some(libc::SIGKILL));
    assert!(!cgroup.is_frozen().unwrap());
}

#[test]
fn a_signal_reaches_processes_in_cgroups_below() {
    let Some((layout, path)) = host("kill", &["freezer"]) else { return };
    let cgroup = create(&layout, &path, &Resources::default());
    let inner = Own(Cgroup::create(&layout, Some(&format!("{path}/inner")), "test", &Resources::default()).unwrap());
    let (mut a, mut b) = (Child::shell(&cgroup, "echo ready; sleep 60"), Child::shell(&inner, "echo ready; sleep 60"));
    assert_eq!(cgroup.pids().unwrap().len(), 4);
    cgroup.kill_all(libc::SIGTERM).unwrap();
    assert_eq!((a.wait(), b.wait()), (Some(libc::SIGTERM), Some(libc::SIGTERM)));
    // The outer one takes the inner with it.
    cgroup.remove().unwrap();
    assert!(inner.v1().iter().chain(inner.v2()).all(|p| !p.dir().exists()));
}

#[test]
fn a_cgroup_in_use_is_refused_and_left_alone() {
    let Some((layout, path)) = host("occupied", &["freezer"]) else { return };
    let cgroup = create(&layout, &path, &Resources::default());
    let _child = Child::shell(&cgroup, "echo ready; sleep 60");
    let error = Cgroup::create(&layout, Some(&path), "test", &Resources::default()).unwrap_err();
    assert!(matches!(error, Error::Occupied { count: 2, .. }), "{error}");
    assert_eq!(cgroup.pids().unwrap().len(), 2);
}

#[test]
fn nothing_is_left_of_a_failed_creation() {
    let Some((layout, path)) = host("failed", &["memory", "pids"]) else { return };
    let memory = Memory { limit: Some(64 * MIB), swap: Some(MIB), ..Memory::default() };
    let r = Resources { memory: Some(memory), ..Resources::default() };
    let error = Cgroup::create(&layout, Some(&format!("{path}/deep/er")), "test", &r).unwrap_err();
    assert!(error.to_string().contains("memory.memsw.limit_in_bytes"), "{error}");
    for hierarchy in layout.v1().iter().chain(layout.v2()) {
        assert!(!hierarchy.mount_point.join(&path[1..]).exists());
    }
}

#[test]
fn a_missing_controller_is_named_with_the_setting() {
    let Some((layout, path)) = host("missing", &["memory"]) else { return };
    let network =
        Resources { network: Some(Network { class_id: Some(7), ..Network::default() }), ..Resources::default() };
    if layout.controllers().iter().any(|c| c == "net_cls") {
        return skipped("missing", "this host has every controller");
    }
    let error = Cgroup::create(&layout, Some(&path), "test", &network).unwrap_err().to_string();
    assert!(error.starts_with("a network class needs the net_cls controller, which this host's"), "{error}");
    let unified = Resources { unified: [("memory.high".to_owned(), "1".to_owned())].into(), ..Resources::default() };
    let error = Cgroup::create(&layout, Some(&path), "test", &unified).unwrap_err().to_string();
    assert!(error.contains("cgroup v2"), "{error}");
}

#[test]
fn an_out_of_memory_kill_is_seen_and_then_the_end() {
    let Some((layout, path)) = host("oom", &["memory"]) else { return };
    let memory = Memory { limit: Some(16 * MIB), swap: Some(16 * MIB), ..Memory::default() };
    let cgroup = create(&layout, &path, &Resources { memory: Some(memory), ..Resources::default() });
    let mut watch = cgroup.oom_events().unwrap();
    assert_eq!(watch.next(Some(Duration::ZERO)).unwrap(), None);
    let mut child = Child::shell(&cgroup, "echo ready; x=$(head -c 50000000 /dev/zero | tr '\\0' 'a')");
    assert_eq!(watch.next(Some(Duration::from_secs(20))).unwrap(), Some(OomEvent::OutOfMemory));
    assert_eq!(child.wait(), Some(libc::SIGKILL));
    assert!(cgroup.stats().unwrap().memory.oom_kills >= 1);
    cgroup.remove().unwrap();
    let mut event = watch.next(Some(Duration::from_secs(20))).unwrap();
    if event == Some(OomEvent::OutOfMemory) {
        event = watch.next(Some(Duration::from_secs(20))).unwrap();
    }
    assert_eq!(event, Some(OomEvent::Gone));
}

#[test]
fn cpu_time_is_accounted_in_nanoseconds() {
    let Some((layout, path)) = host("cpuacct", &["cpuacct"]) else { return };
    let cgroup = create(&layout, &path, &Resources::default());
    Child::output(&cgroup, "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done");
    let stats = cgroup.stats().unwrap();
    let sum: u64 = stats.cpu.per_cpu.iter().map(|c| c.user_ns + c.system_ns).sum();
    assert!(stats.cpu.usage_ns > 1_000_000 && sum > 1_000_000, "{:?}", stats.cpu);
    serde_json::to_string(&stats).unwrap();
}

#[test]
fn the_record_of_a_cgroup_is_read_back() {
    let Some((layout, path)) = host("record", &["memory"]) else { return };
    let cgroup = create(&layout, &path, &Resources::default());
    let text = serde_json::to_string(&*cgroup).unwrap();
    assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), *cgroup);
    let views = cgroup.mounts_view();
    assert_eq!(views.len(), layout.v1().len() + usize::from(layout.v2().is_some()));
    assert!(views.iter().all(|v| v.source.is_dir() && !v.name.is_empty()));
}

#[test]
fn a_page_size_that_the_host_lacks_is_refused_or_the_controller_named() {
    let Some((layout, path)) = host("hugetlb", &["memory"]) else { return };
    for size in ["../x", "2", "MB", "2MB/", "2XB"] {
        let hugepage_limits = vec![HugepageLimit { page_size: size.into(), limit: 0 }];
        let r = Resources { hugepage_limits, ..Resources::default() };
        // Enabling hugetlb would change the machine's own v2 root: only v1 is tried here.
        let layout = Layout::V1(layout.v1().to_vec());
        let error = Cgroup::create(&layout, Some(&path), "test", &r).unwrap_err().to_string();
        assert!(error.contains("huge page"), "{error}");
    }
}
