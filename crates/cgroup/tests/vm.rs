//! Version 2 for real, device program included, and version 1 controllers that few hosts mount, whatever the host has:
//! a small virtual machine boots a kernel with this very test program as its init.
//!
//! It runs where `qemu-system-x86_64` is installed and a kernel is named by `STRATA_TEST_KERNEL` or lies in `/boot`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::skipped;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use strata_cgroup::{Cgroup, DEFAULT_DEVICE_RULES, Error, Layout, OomEvent};
use strata_spec::runtime::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, InterfacePriority, Memory, Network, Pids, Resources,
};

const PASSED: &str = "strata-vm: all checks passed";
const ROLE: &str = "STRATA_VM_ROLE";
/// Long enough for an emulated processor on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_kernel_takes_version_2_settings() {
    in_machine("the_kernel_takes_version_2_settings", "cgroup_no_v1=all", guest_v2);
}

#[test]
fn the_kernel_takes_settings_of_rare_version_1_controllers() {
    in_machine("the_kernel_takes_settings_of_rare_version_1_controllers", "", guest_v1);
}

/// Runs `guest` in a virtual machine whose init is this program, told to run the same test.
fn in_machine(test: &str, kernel_arguments: &str, guest: fn()) {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    if std::process::id() == 1 {
        guest();
        // The kernel's own messages must not cut the line.
        println!("\n{PASSED}");
        return;
    }
    let Some(kernel) = kernel() else {
        return skipped(test, "no kernel image: name one by STRATA_TEST_KERNEL, or install one into /boot");
    };
    if Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skipped(test, "qemu-system-x86_64 is not installed");
    }
    let output = boot(&kernel, test, kernel_arguments);
    assert!(output.contains(PASSED), "{output}");
}

fn kernel() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("STRATA_TEST_KERNEL") {
        return Some(path.into());
    }
    let mut found: Vec<PathBuf> = fs::read_dir("/boot").ok()?.flatten().map(|e| e.path()).collect();
    found.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")));
    found.sort();
    found.pop()
}

/// One entry of a cpio archive in the form "newc" (the kernel's `initramfs-buffer-format.rst`).
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let mut header = String::from("070701");
    let fields = [0, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
    fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
    archive.extend(header.bytes().chain(name.bytes()).chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Boots the machine; what it wrote to its serial console.
fn boot(kernel: &PathBuf, test: &str, kernel_arguments: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("initrd");
    let mut archive = Vec::new();
    for name in ["dev", "proc", "sys"] {
        entry(&mut archive, name, 0o040_755, (0, 0), &[]);
    }
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    let me = fs::read(std::env::current_exe().unwrap()).unwrap();
    entry(&mut archive, "init", 0o100_755, (0, 0), &me);
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    fs::write(&initrd, archive).unwrap();
    // What follows `--` are init's arguments; when init ends the kernel panics, and QEMU with it.
    let arguments = format!(
        "console=ttyS0 quiet panic=-1 swapaccount=1 hugepages=4 RUST_BACKTRACE=0 {kernel_arguments} \
         -- {test} --exact --nocapture"
    );
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "768", "-nographic", "-no-reboot", "-nic", "none"])
        .args(["-append", &arguments])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut console = qemu.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = console.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let start = Instant::now();
    while qemu.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            qemu.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    reader.join().unwrap()
}

/// What a process in a cgroup of the guest does.
fn play(role: &str) {
    match role {
        "spin" => loop {
            std::hint::spin_loop();
        },
        "sleep" => std::thread::sleep(Duration::from_secs(600)),
        "hog" => {
            let mut memory = Vec::new();
            for _ in 0..200 {
                memory.push(vec![1u8; 1 << 20]);
                std::hint::black_box(&memory);
            }
            std::process::exit(0);
        }
        device => match fs::File::open(device) {
            Ok(_) => std::process::exit(10),
            Err(e) => std::process::exit(if e.raw_os_error() == Some(libc::EPERM) { 11 } else { 12 }),
        },
    }
}

fn spawn(cgroup: &Cgroup, role: &str) -> Child {
    let handles = cgroup.join_handles().unwrap();
    let mut command = Command::new("/init");
    command.args(std::env::args_os().skip(1)).env(ROLE, role).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: join_current makes system calls only.
    unsafe { command.pre_exec(move || handles.join_current()) };
    command.spawn().unwrap()
}

/// Whether a process in the cgroup may open a device.
fn opens(cgroup: &Cgroup, device: &str) -> bool {
    let code = spawn(cgroup, device).wait().unwrap().code();
    assert!(matches!(code, Some(10 | 11)), "{device}: {code:?}");
    code == Some(10)
}

fn step(what: &str) {
    println!("strata-vm: {what}");
    std::io::stdout().flush().unwrap();
}

fn guest_v2() {
    use rustix::mount::{MountFlags, mount};
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("cgroup2", "/sys/fs/cgroup")] {
        mount(kind, at, kind, MountFlags::empty(), None).unwrap();
    }
    step("layout");
    let layout = Layout::detect().unwrap();
    assert_eq!(layout.name(), "v2");
    for controller in ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"] {
        assert!(layout.controllers().iter().any(|c| c == controller), "{controller}");
    }

    step("every setting");
    let mut devices = vec![DeviceRule { allow: false, ..DeviceRule::default() }];
    devices.extend(DEFAULT_DEVICE_RULES.iter().cloned());
    let mib = 1 << 20;
    let resources = Resources {
        devices: devices.clone(),
        memory: Some(Memory {
            limit: Some(64 * mib),
            swap: Some(96 * mib),
            reservation: Some(16 * mib),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: Some(2048),
            quota: Some(50_000),
            period: Some(100_000),
            burst: Some(10_000),
            cpus: Some("1".into()),
            mems: Some("0".into()),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: Some(20) }),
        block_io: Some(BlockIo { weight: Some(1000), ..BlockIo::default() }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 * mib as u64 }],
        unified: [("memory.high".to_owned(), (60 * mib).to_string())].into(),
        ..Resources::default()
    };
    let cgroup = Cgroup::create(&layout, Some("/strata/box"), "box", &resources).unwrap();
    let dir = cgroup.v2().unwrap().dir();
    let get = |file: &str| fs::read_to_string(dir.join(file)).unwrap().trim().to_owned();
    for (file, expected) in [
        ("memory.max", (64 * mib).to_string()),
        ("memory.swap.max", (32 * mib).to_string()),
        ("memory.low", (16 * mib).to_string()),
        ("memory.high", (60 * mib).to_string()),
        ("cpu.weight", strata_cgroup::convert::cpu_weight(2048).to_string()),
        ("cpu.max", "50000 100000".to_owned()),
        ("cpu.max.burst", "10000".to_owned()),
        ("cpuset.cpus", "1".to_owned()),
        ("cpuset.mems", "0".to_owned()),
        ("pids.max", "20".to_owned()),
        ("io.weight", "default 10000".to_owned()),
        ("hugetlb.2MB.max", (4 * mib).to_string()),
        ("hugetlb.2MB.rsvd.max", (4 * mib).to_string()),
    ] {
        assert_eq!(get(file), expected, "{file}");
    }

    step("the device program and its replacement");
    assert!(opens(&cgroup, "/dev/null"));
    assert!(!opens(&cgroup, "/dev/kmsg"));
    let kmsg = DeviceRule { allow: true, kind: Some("c".into()), major: Some(1), minor: Some(11), access: None };
    let update = |list: Vec<DeviceRule>| cgroup.apply(&Resources { devices: list, ..Resources::default() }).unwrap();
    update(devices.iter().cloned().chain([kmsg]).collect());
    assert!(opens(&cgroup, "/dev/kmsg"));
    update(devices);
    assert!(!opens(&cgroup, "/dev/kmsg"));

    step("updates");
    let change = |cpu: Cpu| cgroup.apply(&Resources { cpu: Some(cpu), ..Resources::default() }).unwrap();
    change(Cpu { period: Some(50_000), quota: Some(45_000), burst: Some(40_000), ..Cpu::default() });
    assert_eq!((get("cpu.max").as_str(), get("cpu.max.burst").as_str()), ("45000 50000", "40000"));
    change(Cpu { burst: Some(0), ..Cpu::default() });
    change(Cpu { quota: Some(-1), ..Cpu::default() });
    assert_eq!(get("cpu.max"), "max 50000");
    change(Cpu { idle: Some(1), ..Cpu::default() });
    change(Cpu { idle: Some(0), shares: Some(1024), ..Cpu::default() });
    assert_eq!((get("cpu.idle").as_str(), get("cpu.weight").as_str()), ("0", "100"));
    let none = Memory { limit: Some(-1), ..Memory::default() };
    cgroup.apply(&Resources { memory: Some(none), ..Resources::default() }).unwrap();
    assert_eq!((get("memory.max").as_str(), get("memory.swap.max").as_str()), ("max", "max"));

    step("freezing and killing");
    let mut spin = spawn(&cgroup, "spin");
    std::thread::sleep(Duration::from_millis(500));
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    let stats = cgroup.stats().unwrap();
    assert!(stats.cpu.usage_ns > 10_000_000 && stats.memory.usage > 0 && stats.pids.current >= 1, "{stats:?}");
    assert!(stats.psi.cpu.is_some() && stats.hugetlb.contains_key("2MB") && !stats.memory.raw.is_empty());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(cgroup.stats().unwrap().cpu.usage_ns, stats.cpu.usage_ns);
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    assert!(matches!(
        Cgroup::create(&layout, Some("/strata/box"), "box", &Resources::default()),
        Err(Error::Occupied { count: 1, .. })
    ));
    cgroup.freeze().unwrap();
    cgroup.kill_all(libc::SIGKILL).unwrap();
    assert_eq!(spin.wait().unwrap().signal(), Some(libc::SIGKILL));
    cgroup.thaw().unwrap();
    let mut sleep = spawn(&cgroup, "sleep");
    std::thread::sleep(Duration::from_millis(300));
    cgroup.kill_all(libc::SIGTERM).unwrap();
    assert_eq!(sleep.wait().unwrap().signal(), Some(libc::SIGTERM));

    step("out of memory");
    let small = Memory { limit: Some(32 * mib), swap: Some(32 * mib), ..Memory::default() };
    let high = [("memory.high".to_owned(), "max".to_owned())].into();
    cgroup.apply(&Resources { memory: Some(small), unified: high, ..Resources::default() }).unwrap();
    let mut watch = cgroup.oom_events().unwrap();
    assert_eq!(watch.next(Some(Duration::ZERO)).unwrap(), None);
    let mut hog = spawn(&cgroup, "hog");
    assert_eq!(watch.next(Some(Duration::from_secs(60))).unwrap(), Some(OomEvent::OutOfMemory));
    assert_eq!(hog.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(watch.next(Some(Duration::from_secs(60))).unwrap(), Some(OomEvent::Gone));
    assert!(cgroup.stats().unwrap().memory.oom_kills >= 1);

    step("a parent with processes");
    let parent = Cgroup::create(&layout, Some("/strata/full"), "full", &Resources::default()).unwrap();
    let mut sleep = spawn(&parent, "sleep");
    let pids = Resources { pids: Some(Pids { limit: Some(3) }), ..Resources::default() };
    let error = Cgroup::create(&layout, Some("/strata/full/inner"), "inner", &pids).unwrap_err().to_string();
    assert!(error.contains("pids controller, which is not enabled in /sys/fs/cgroup/strata/full/inner"), "{error}");
    assert!(!parent.v2().unwrap().dir().join("inner").exists());
    parent.kill_all(libc::SIGKILL).unwrap();
    sleep.wait().unwrap();

    step("removal");
    let inner = Cgroup::create(&layout, Some("/strata/box/inner"), "inner", &Resources::default());
    assert!(inner.is_ok(), "{inner:?}");
    parent.remove().unwrap();
    cgroup.remove().unwrap();
    assert!(!dir.exists());
}

/// The controllers that the usual host of these tests does not mount, and two in one hierarchy.
fn guest_v1() {
    use rustix::mount::{MountFlags, mount};
    let none = MountFlags::empty();
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/sys/fs/cgroup")] {
        mount(kind, at, kind, none, None).unwrap();
    }
    for controllers in ["cpu,cpuacct", "net_cls,net_prio", "hugetlb", "rdma", "memory", "freezer"] {
        let at = format!("/sys/fs/cgroup/{controllers}");
        fs::create_dir(&at).unwrap();
        let data = std::ffi::CString::new(controllers).unwrap();
        mount("cgroup", &at, "cgroup", none, Some(data.as_c_str())).unwrap();
    }
    let layout = Layout::detect().unwrap();
    assert_eq!((layout.name(), layout.v1().len()), ("v1", 6));
    assert_eq!(layout.controllers().len(), 8);

    step("settings");
    let priority = InterfacePriority { name: "lo".into(), priority: 5 };
    let resources = Resources {
        network: Some(Network { class_id: Some(0x10_0001), priorities: vec![priority] }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
        cpu: Some(Cpu { shares: Some(300), ..Cpu::default() }),
        memory: Some(Memory { limit: Some(64 << 20), swap: Some(64 << 20), ..Memory::default() }),
        ..Resources::default()
    };
    let cgroup = Cgroup::create(&layout, Some("/box"), "box", &resources).unwrap();
    let get = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).unwrap().trim().to_owned();
    assert_eq!(get("net_cls,net_prio/box/net_cls.classid"), "1048577");
    assert!(get("net_cls,net_prio/box/net_prio.ifpriomap").lines().any(|line| line == "lo 5"));
    assert_eq!(get("hugetlb/box/hugetlb.2MB.limit_in_bytes"), (4 << 20).to_string());
    assert_eq!(get("hugetlb/box/hugetlb.2MB.rsvd.limit_in_bytes"), (4 << 20).to_string());
    assert_eq!(get("cpu,cpuacct/box/cpu.shares"), "300");
    assert_eq!(get("memory/box/memory.memsw.limit_in_bytes"), (64 << 20).to_string());

    step("errors");
    let apply = |r: Resources| cgroup.apply(&r).unwrap_err().to_string();
    let wrong = vec![HugepageLimit { page_size: "3MB".into(), limit: 0 }];
    let error = apply(Resources { hugepage_limits: wrong, ..Resources::default() });
    assert!(error.contains("huge page sizes are") && error.contains("2MB"), "{error}");
    let error = apply(Resources { pids: Some(Pids { limit: Some(1) }), ..Resources::default() });
    assert!(error.contains("pids controller, which this host's cgroup v1 layout does not mount"), "{error}");
    let devices = vec![DeviceRule::default()];
    let error = apply(Resources { devices, ..Resources::default() });
    assert!(error.contains("devices controller"), "{error}");
    let unified = [("memory.high".to_owned(), "1".to_owned())].into();
    let error = apply(Resources { unified, ..Resources::default() });
    assert!(error.contains("is for cgroup v2"), "{error}");

    step("statistics, freezing, killing, removal");
    let mut spin = spawn(&cgroup, "spin");
    std::thread::sleep(Duration::from_millis(500));
    cgroup.freeze().unwrap();
    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.hugetlb["2MB"].limit, Some(4 << 20));
    assert!(stats.cpu.usage_ns > 10_000_000 && stats.cpu.per_cpu.len() == 2, "{:?}", stats.cpu);
    cgroup.kill_all(libc::SIGKILL).unwrap();
    assert_eq!(spin.wait().unwrap().signal(), Some(libc::SIGKILL));
    cgroup.remove().unwrap();
}
