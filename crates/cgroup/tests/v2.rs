//! The version 2 interface against a directory tree that looks like one: what is written, to which file, in which
//! unit. (How the kernel takes it is tested in `vm.rs`.) Files of the tree are ordinary, so several writes to one
//! lie one after the other.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use strata_cgroup::{Cgroup, Error, Layout};
use strata_spec::runtime::{
    BlockIo, Cpu, HugepageLimit, Memory, Network, Pids, Rdma, Resources, ThrottleDevice, WeightDevice,
};

const CONTROLLERS: &str = "cpuset cpu io memory hugetlb pids rdma";

/// A version 2 hierarchy with the cgroup `/box`, whose interface files are empty.
struct Tree {
    root: tempfile::TempDir,
    layout: Layout,
}

impl Tree {
    fn new(files: &[&str]) -> Tree {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("cgroup.controllers"), CONTROLLERS).unwrap();
        std::fs::write(root.path().join("cgroup.subtree_control"), "cpuset cpu io memory hugetlb pids rdma").unwrap();
        std::fs::create_dir(root.path().join("box")).unwrap();
        let mountinfo = format!("30 1 0:26 / {} rw - cgroup2 cgroup2 rw\n", root.path().display());
        let layout = Layout::detect_from(&mountinfo, "0::/user/session\n").unwrap();
        let tree = Tree { root, layout };
        for file in files {
            tree.put(file, "");
        }
        tree.put("cgroup.procs", "");
        tree.put("cgroup.freeze", "0\n");
        tree.put("cgroup.events", "populated 0\nfrozen 0\n");
        tree
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join("box").join(file)
    }

    fn put(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).unwrap();
    }

    fn get(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    fn create(&self, r: &Resources) -> Result<Cgroup, Error> {
        Cgroup::create(&self.layout, Some("/box"), "id", r)
    }

    fn refused(&self, r: &Resources) -> String {
        self.create(r).unwrap_err().to_string()
    }
}

fn memory(memory: Memory) -> Resources {
    Resources { memory: Some(memory), ..Resources::default() }
}

fn cpu(cpu: Cpu) -> Resources {
    Resources { cpu: Some(cpu), ..Resources::default() }
}

fn block_io(block_io: BlockIo) -> Resources {
    Resources { block_io: Some(block_io), ..Resources::default() }
}

#[test]
fn memory_with_swap_becomes_two_limits() {
    let tree = Tree::new(&["memory.max", "memory.swap.max", "memory.low"]);
    let limits = Memory { limit: Some(1000), swap: Some(1500), reservation: Some(700), ..Memory::default() };
    tree.create(&memory(limits)).unwrap();
    let values = ["memory.max", "memory.swap.max", "memory.low"].map(|f| tree.get(f));
    assert_eq!(values, ["1000", "500", "700"]);
}

#[test]
fn equal_limits_turn_swap_off_and_minus_one_is_max() {
    let tree = Tree::new(&["memory.max", "memory.swap.max"]);
    tree.create(&memory(Memory { limit: Some(1000), swap: Some(1000), ..Memory::default() })).unwrap();
    assert_eq!(tree.get("memory.swap.max"), "0");
    let tree = Tree::new(&["memory.max", "memory.swap.max"]);
    tree.create(&memory(Memory { limit: Some(-1), ..Memory::default() })).unwrap();
    assert_eq!((tree.get("memory.max"), tree.get("memory.swap.max")), ("max".into(), "max".into()));
}

#[test]
fn a_kernel_without_swap_accounting_has_no_swap_file_and_needs_none() {
    let tree = Tree::new(&["memory.max"]);
    tree.create(&memory(Memory { limit: Some(10), swap: Some(10), ..Memory::default() })).unwrap();
    tree.create(&memory(Memory { limit: Some(10), swap: Some(-1), ..Memory::default() })).unwrap();
    let error = tree.refused(&memory(Memory { limit: Some(10), swap: Some(20), ..Memory::default() }));
    assert!(error.contains("swapaccount=1"), "{error}");
}

#[test]
fn an_update_of_swap_alone_counts_from_the_limit_in_force() {
    let tree = Tree::new(&["memory.swap.max"]);
    tree.put("memory.max", "1000\n");
    let cgroup = tree.create(&Resources::default()).unwrap();
    cgroup.apply(&memory(Memory { swap: Some(1600), ..Memory::default() })).unwrap();
    assert_eq!((tree.get("memory.swap.max"), tree.get("memory.max")), ("600".into(), "1000\n".into()));
}

#[test]
fn a_checked_update_below_use_is_refused() {
    let tree = Tree::new(&["memory.max"]);
    tree.put("memory.current", "5000\n");
    let cgroup = tree.create(&Resources::default()).unwrap();
    let update = |check| memory(Memory { limit: Some(4000), check_before_update: Some(check), ..Memory::default() });
    let error = cgroup.apply(&update(true)).unwrap_err();
    assert!(matches!(error, Error::BelowUsage { limit: 4000, usage: 5000, .. }), "{error}");
    assert_eq!(tree.get("memory.max"), "");
    cgroup.apply(&update(false)).unwrap();
    assert_eq!(tree.get("memory.max"), "4000");
}

#[test]
fn what_version_2_cannot_do_is_an_error_that_names_the_setting() {
    let tree = Tree::new(&[]);
    let network = Network { class_id: Some(1), ..Network::default() };
    for (r, word) in [
        (memory(Memory { swappiness: Some(1), ..Memory::default() }), "swappiness"),
        (memory(Memory { disable_oom_killer: Some(true), ..Memory::default() }), "disableOOMKiller"),
        (memory(Memory { kernel_tcp: Some(1), ..Memory::default() }), "TCP"),
        (cpu(Cpu { realtime_runtime: Some(1), ..Cpu::default() }), "real-time"),
        (block_io(BlockIo { leaf_weight: Some(10), ..BlockIo::default() }), "leaf weight"),
        (Resources { network: Some(network), ..Resources::default() }, "network class"),
    ] {
        let error = tree.refused(&r);
        assert!(error.contains(word), "{error}");
    }
    // Kernel memory is ignored by the kernels themselves, and an OOM killer left on is the rule.
    let harmless = Memory { kernel: Some(1), disable_oom_killer: Some(false), ..Memory::default() };
    tree.create(&memory(harmless)).unwrap();
}

#[test]
fn cpu_shares_become_a_weight_and_quota_and_period_one_line() {
    let tree = Tree::new(&["cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "cpuset.cpus", "cpuset.mems"]);
    let all = Cpu {
        shares: Some(1024),
        quota: Some(50_000),
        period: Some(200_000),
        burst: Some(10_000),
        cpus: Some("0-1".into()),
        mems: Some("0".into()),
        idle: Some(0),
        ..Cpu::default()
    };
    tree.create(&cpu(all)).unwrap();
    let files = ["cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "cpuset.cpus", "cpuset.mems"];
    assert_eq!(files.map(|f| tree.get(f)), ["100", "50000 200000", "10000", "0", "0-1", "0"]);
}

#[test]
fn a_period_alone_keeps_the_quota_and_a_quota_alone_the_period() {
    let tree = Tree::new(&[]);
    tree.put("cpu.max", "30000 100000\n");
    let cgroup = tree.create(&Resources::default()).unwrap();
    cgroup.apply(&cpu(Cpu { period: Some(50_000), ..Cpu::default() })).unwrap();
    assert!(tree.get("cpu.max").starts_with("30000 50000"));
    tree.put("cpu.max", "");
    cgroup.apply(&cpu(Cpu { quota: Some(-1), ..Cpu::default() })).unwrap();
    assert_eq!(tree.get("cpu.max"), "max");
}

#[test]
fn tasks_huge_pages_and_rdma_reach_their_files() {
    let tree = Tree::new(&["pids.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "rdma.max"]);
    let r = Resources {
        pids: Some(Pids { limit: Some(0) }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
        rdma: [("mlx5_1".to_owned(), Rdma { hca_handles: Some(3), hca_objects: Some(10_000) })].into(),
        ..Resources::default()
    };
    tree.create(&r).unwrap();
    let files = ["pids.max", "hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "rdma.max"];
    assert_eq!(files.map(|f| tree.get(f)), ["max", "4194304", "4194304", "mlx5_1 hca_handle=3 hca_object=10000"]);
    let wrong = vec![HugepageLimit { page_size: "3MB".into(), limit: 1 }];
    let error = tree.refused(&Resources { hugepage_limits: wrong, ..Resources::default() });
    assert!(error.contains("this host's huge page sizes are 2MB"), "{error}");
}

#[test]
fn block_io_weights_are_converted_unless_bfq_has_its_own_file() {
    let device = |major, weight| WeightDevice { major, minor: 0, weight: Some(weight), leaf_weight: None };
    let tree = Tree::new(&["io.weight"]);
    tree.create(&block_io(BlockIo { weight: Some(1000), ..BlockIo::default() })).unwrap();
    assert_eq!(tree.get("io.weight"), "10000");
    let tree = Tree::new(&["io.weight"]);
    tree.create(&block_io(BlockIo { weight_device: vec![device(8, 10)], ..BlockIo::default() })).unwrap();
    assert_eq!(tree.get("io.weight"), "8:0 1");
    let tree = Tree::new(&["io.weight", "io.bfq.weight"]);
    tree.create(&block_io(BlockIo { weight_device: vec![device(8, 500)], ..BlockIo::default() })).unwrap();
    assert_eq!((tree.get("io.bfq.weight"), tree.get("io.weight")), ("8:0 500".into(), String::new()));
}

#[test]
fn block_io_rates_become_lines_of_io_max() {
    let rate = |rate| vec![ThrottleDevice { major: 8, minor: 0, rate }];
    for (io, expected) in [
        (BlockIo { throttle_read_bps_device: rate(100), ..BlockIo::default() }, "8:0 rbps=100"),
        (BlockIo { throttle_write_bps_device: rate(0), ..BlockIo::default() }, "8:0 wbps=max"),
        (BlockIo { throttle_read_iops_device: rate(5), ..BlockIo::default() }, "8:0 riops=5"),
        (BlockIo { throttle_write_iops_device: rate(6), ..BlockIo::default() }, "8:0 wiops=6"),
    ] {
        let tree = Tree::new(&["io.max"]);
        tree.create(&block_io(io)).unwrap();
        assert_eq!(tree.get("io.max"), expected);
    }
}

#[test]
fn unified_files_are_written_line_by_line_and_only_inside_the_cgroup() {
    let tree = Tree::new(&["memory.high"]);
    let unified = |key: &str| Resources { unified: [(key.to_owned(), "7".to_owned())].into(), ..Resources::default() };
    tree.create(&unified("memory.high")).unwrap();
    assert_eq!(tree.get("memory.high"), "7");
    for bad in ["../memory.high", "/etc/passwd", "nodot", "a.b/c"] {
        assert!(tree.refused(&unified(bad)).contains("without slashes"));
    }
    tree.put("cgroup.controllers", "cpu io\n");
    let error = tree.refused(&unified("memory.low"));
    assert!(error.contains("memory controller, which is not enabled in"), "{error}");
}

#[test]
fn a_controller_not_handed_down_is_named_with_the_cause() {
    let tree = Tree::new(&[]);
    tree.put("cgroup.controllers", "cpu\n");
    let error = tree.refused(&Resources { pids: Some(Pids { limit: Some(3) }), ..Resources::default() });
    assert!(error.contains("a limit on tasks needs the pids controller, which is not enabled in"), "{error}");
    std::fs::write(tree.root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
    let mountinfo = format!("30 1 0:26 / {} rw - cgroup2 cgroup2 rw\n", tree.root.path().display());
    let layout = Layout::detect_from(&mountinfo, "0::/\n").unwrap();
    let r = Resources { pids: Some(Pids { limit: Some(3) }), ..Resources::default() };
    let error = Cgroup::create(&layout, Some("/box"), "id", &r).unwrap_err().to_string();
    assert!(error.contains("needs the pids controller, which is not in cgroup.controllers of"), "{error}");
}

#[test]
fn missing_controllers_are_enabled_in_every_parent() {
    let tree = Tree::new(&[]);
    let root = tree.root.path();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("cgroup.subtree_control"), "cpuset cpu io memory hugetlb").unwrap();
    std::fs::write(root.join("a/cgroup.subtree_control"), "").unwrap();
    std::fs::write(root.join("a/b/cgroup.procs"), "").unwrap();
    Cgroup::create(&tree.layout, Some("/a/b"), "id", &Resources::default()).unwrap();
    assert!(std::fs::read_to_string(root.join("cgroup.subtree_control")).unwrap().starts_with("+pids +rdma"));
    let all: String = CONTROLLERS.split(' ').map(|c| format!("+{c} ")).collect();
    assert_eq!(std::fs::read_to_string(root.join("a/cgroup.subtree_control")).unwrap(), all.trim());
}

#[test]
fn a_relative_path_lies_beside_the_callers_own_cgroup() {
    let tree = Tree::new(&[]);
    std::fs::create_dir(tree.root.path().join("user")).unwrap();
    std::fs::write(tree.root.path().join("user/cgroup.subtree_control"), CONTROLLERS).unwrap();
    let cgroup = Cgroup::create(&tree.layout, None, "c1", &Resources::default()).unwrap();
    assert_eq!(cgroup.v2().unwrap().dir(), tree.root.path().join("user/strata-c1"));
    for bad in ["", "a/b"] {
        assert!(Cgroup::create(&tree.layout, None, bad, &Resources::default()).is_err());
    }
    for bad in ["/", "/..", "/a\0b"] {
        assert!(Cgroup::create(&tree.layout, Some(bad), "c1", &Resources::default()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_frozen_or_used_cgroup_is_refused() {
    let tree = Tree::new(&[]);
    tree.put("cgroup.freeze", "1\n");
    assert!(matches!(tree.create(&Resources::default()), Err(Error::Frozen { .. })));
    tree.put("cgroup.procs", "12\n13\n");
    assert!(matches!(tree.create(&Resources::default()), Err(Error::Occupied { count: 2, .. })));
}

#[test]
fn a_hybrid_takes_each_controller_where_it_is() {
    let tree = Tree::new(&["hugetlb.2MB.max"]);
    let v1 = tempfile::tempdir().unwrap();
    std::fs::create_dir(v1.path().join("box")).unwrap();
    for file in ["pids.max", "cgroup.procs"] {
        std::fs::write(v1.path().join("box").join(file), "").unwrap();
    }
    let mountinfo = format!(
        "30 1 0:26 / {} rw - cgroup2 cgroup2 rw\n31 1 0:27 / {} rw - cgroup cgroup rw,pids\n",
        tree.root.path().display(),
        v1.path().display()
    );
    std::fs::write(tree.root.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
    std::fs::write(tree.root.path().join("cgroup.subtree_control"), "").unwrap();
    let layout = Layout::detect_from(&mountinfo, "1:pids:/\n0::/\n").unwrap();
    assert_eq!((layout.name(), layout.controllers()), ("hybrid", vec!["hugetlb".to_owned(), "pids".to_owned()]));
    let pids = Resources { pids: Some(Pids { limit: Some(8) }), ..Resources::default() };
    Cgroup::create(&layout, Some("/box"), "id", &pids).unwrap();
    assert_eq!(std::fs::read_to_string(v1.path().join("box/pids.max")).unwrap(), "8");
    // The root of the hierarchy is the machine's; it is changed only for a limit that needs it.
    let root = tree.root.path().join("cgroup.subtree_control");
    assert_eq!(std::fs::read_to_string(&root).unwrap(), "");
    let pages = vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }];
    let r = Resources { hugepage_limits: pages, ..Resources::default() };
    Cgroup::create(&layout, Some("/box"), "id", &r).unwrap();
    assert_eq!((std::fs::read_to_string(&root).unwrap(), tree.get("hugetlb.2MB.max")), ("+hugetlb".into(), "0".into()));
    let error = Cgroup::create(&layout, Some("/box"), "id", &memory(Memory { limit: Some(1), ..Memory::default() }));
    assert!(error.unwrap_err().to_string().contains("hybrid cgroup layout has in neither version"));
}

#[test]
fn statistics_are_gathered_from_what_is_there() {
    let tree = Tree::new(&[]);
    tree.put("cpu.stat", "usage_usec 10\nnr_throttled 2\n");
    tree.put("memory.current", "4096\n");
    tree.put("memory.max", "8192\n");
    tree.put("memory.swap.current", "100\n");
    tree.put("memory.swap.max", "200\n");
    tree.put("memory.stat", "anon 1\nfile 2\nkernel 3\n");
    tree.put("memory.events", "low 0\nmax 5\noom_kill 6\n");
    tree.put("pids.current", "3\n");
    tree.put("pids.max", "max\n");
    tree.put("io.stat", "8:0 rbytes=1 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n");
    tree.put("hugetlb.2MB.max", "max\n");
    tree.put("hugetlb.2MB.current", "2097152\n");
    tree.put("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\n");
    tree.put("cpuset.cpus.effective", "0-1\n");
    let stats = tree.create(&Resources::default()).unwrap().stats().unwrap();
    assert_eq!((stats.cpu.usage_ns, stats.cpu.throttling.throttled_periods), (10_000, 2));
    let m = &stats.memory;
    assert_eq!((m.usage, m.limit, m.cache, m.failures, m.oom_kills), (4096, Some(8192), 2, 5, 6));
    assert_eq!((m.swap.usage, m.swap.limit, m.swap_only.limit), (4196, Some(8392), Some(200)));
    assert_eq!((stats.pids.current, stats.pids.limit), (3, None));
    assert_eq!(stats.blkio.service_bytes[0].value, 1);
    assert_eq!(stats.hugetlb["2MB"].usage, 2 << 20);
    assert_eq!(stats.psi.cpu.unwrap().some.avg10, 1.5);
    assert_eq!(stats.cpuset.cpus, [0, 1]);
}
