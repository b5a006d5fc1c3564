//! Recorded hosts, and this one.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cgroup::NEEDED;
use crate::cpu::Virtualization;
use crate::kvm::{Backend, GuestRun};
use crate::*;

/// A host made of files in a temporary directory.
struct Fixture {
    root: tempfile::TempDir,
    recorded: Recorded,
}

const V2_MOUNT: &str = "24 20 0:22 / / rw - ext4 /dev/sda1 rw\n\
                        31 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

impl Fixture {
    /// A quiet bare-metal host with control groups version 2 and every namespace, without KVM.
    fn new(cpuinfo: &str) -> Fixture {
        let fixture = Fixture {
            root: tempfile::tempdir().unwrap(),
            recorded: Recorded { arch: "x86_64".into(), ..Recorded::default() },
        };
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            fixture.write(&format!("/proc/self/ns/{kind}"), "");
        }
        fixture
            .write("/proc/cpuinfo", cpuinfo)
            .write("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
            .write("/proc/loadavg", "0.10 0.20 0.30 1/312 4711\n")
            .write("/proc/meminfo", "MemTotal: 16384000 kB\nMemAvailable: 12000000 kB\nSwapTotal: 0 kB\n")
            .write("/proc/self/mountinfo", V2_MOUNT)
            .write("/proc/self/cgroup", "0::/user.slice/session-1.scope\n")
            .write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n")
            .write("/proc/self/status", "CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nSeccomp:\t0\n")
            .write("/proc/sys/kernel/cap_last_cap", "40\n")
            .write("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        fixture
    }

    fn write(&self, path: &str, text: &str) -> &Fixture {
        let path = self.root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn cpuid(mut self, hypervisor: Option<&str>, vmx: bool, svm: bool) -> Fixture {
        let hypervisor_signature = hypervisor.map(String::from);
        self.recorded.cpuid = Some(CpuidFacts { hypervisor_signature, vmx, svm });
        self
    }

    fn kvm(mut self, module: &str, device: Support, guest: Option<GuestRun>) -> Fixture {
        self.write("/dev/kvm", "").write(&format!("/sys/module/{module}/parameters/nested"), "Y\n");
        self.write("/sys/module/kvm/initstate", "live");
        self.recorded.kvm = Some((device, guest));
        self
    }

    fn report(&self) -> Report {
        examine_recorded(self.root.path(), Path::new("/var/lib/strata"), &self.recorded)
    }
}

fn cpuinfo(vendor: &str, flags: &str, vmx_flags: &str, cpus: u32) -> String {
    let block = |n: u32| {
        let vmx = if vmx_flags.is_empty() { String::new() } else { format!("vmx flags\t: {vmx_flags}\n") };
        format!(
            "processor\t: {n}\nvendor_id\t: {vendor}\nmodel name\t: Test CPU\nphysical id\t: 0\ncore id\t\t: {}\n\
             flags\t\t: {flags}\n{vmx}bugs\t\t:\n",
            n / 2
        )
    };
    (0..cpus).map(block).collect::<Vec<_>>().join("\n")
}

const COMMON: &str = "fpu nx lm cx16 lahf_lm popcnt pni sse2 sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe \
                      xsave smep smap x2apic constant_tsc nonstop_tsc fsgsbase";

fn good_guest() -> GuestRun {
    let passed = ["arithmetic", "port output", "cpuid", "cmpxchg16b", "hlt"].map(String::from).to_vec();
    GuestRun {
        api_version: 12,
        passed,
        ns_per_instruction: Some(0.3),
        ns_per_exit: Some(1200.0),
        ..GuestRun::default()
    }
}

#[test]
fn a_bare_metal_intel_host_with_kvm_offers_everything() {
    let cpuinfo = cpuinfo("GenuineIntel", &format!("{COMMON} vmx"), "vnmi ept vpid unrestricted_guest", 4);
    let report =
        Fixture::new(&cpuinfo).cpuid(None, true, false).kvm("kvm_intel", Support::Yes, Some(good_guest())).report();
    assert_eq!((report.cpu.logical, report.cpu.cores, report.cpu.sockets), (4, 2, 1));
    assert_eq!(report.cpu.virtualization, Virtualization::VtX);
    assert_eq!(report.cpu.nested_paging, Some(true));
    assert_eq!(report.cpu.psabi_level, 3);
    assert!(report.cpu.rings.root_mode && report.cpu.hypervisor.is_none());
    assert_eq!((report.kvm.backend, report.kvm.nested), (Backend::Intel, Some(true)));
    assert!(report.isolations().iter().all(|o| o.host.is_available()), "{:#?}", report.isolations());
    assert!(report.offer(Isolation::Container).unwrap().availability.is_available());
    let vm = report.offer(Isolation::Vm).unwrap();
    assert!(
        matches!(&vm.availability, Verdict::Unavailable { reason, .. } if reason.contains("this build of Strata has it not"))
    );
    assert!(render(&report, 100, false).contains("yes (EPT)"));
    assert!(!report.load.busy);
}

#[test]
fn an_amd_host_without_access_to_kvm_says_which_group_helps() {
    let cpuinfo = cpuinfo("AuthenticAMD", &format!("{COMMON} svm npt"), "", 2);
    let denied = Support::no("/dev/kvm cannot be opened: Permission denied (os error 13)");
    let mut fixture = Fixture::new(&cpuinfo).cpuid(None, false, true).kvm("kvm_amd", denied, None);
    fixture.recorded.uid = 1000;
    let report = fixture.report();
    assert_eq!((report.cpu.virtualization, report.cpu.nested_paging), (Virtualization::AmdV, Some(true)));
    assert!(render(&report, 100, false).contains("yes (NPT)"));
    let Verdict::Unavailable { reason, fix } = &report.offer(Isolation::Vm).unwrap().host else { panic!() };
    assert!(reason.contains("Permission denied") && fix.contains("usermod -aG kvm"), "{reason} / {fix}");
}

#[test]
fn a_pvm_host_runs_adapted_guests_only() {
    let cpuinfo = cpuinfo("AuthenticAMD", &format!("{COMMON} hypervisor"), "", 2);
    let failed = GuestRun { failure: Some("cmpxchg16b: KVM could not emulate it".into()), ..good_guest() };
    let fixture =
        Fixture::new(&cpuinfo).cpuid(Some("KVMKVMKVM"), false, false).kvm("kvm_pvm", Support::Yes, Some(failed));
    let report = fixture.report();
    assert_eq!(report.cpu.hypervisor.as_deref(), Some("KVM"));
    assert_eq!(report.cpu.virtualization, Virtualization::HiddenByHypervisor);
    assert_eq!(report.kvm.backend, Backend::Pvm);
    let Verdict::Unavailable { reason, fix } = &report.offer(Isolation::Vm).unwrap().host else { panic!() };
    assert!(reason.contains("KVM here is PVM: it only runs guests built for it"), "{reason}");
    assert!(reason.contains("cmpxchg16b") && fix.contains("nested virtualisation"), "{reason} / {fix}");
    assert!(report.offer(Isolation::Paravirt).unwrap().host.is_available());
}

#[test]
fn firmware_and_hypervisor_are_told_apart_when_the_flag_is_missing() {
    let info = cpuinfo("GenuineIntel", COMMON, "", 1);
    let locked = Fixture::new(&info).cpuid(None, true, false).report();
    assert_eq!(locked.cpu.virtualization, Virtualization::DisabledByFirmware);
    let Verdict::Unavailable { fix, .. } = &locked.offer(Isolation::Vm).unwrap().host else { panic!() };
    assert!(fix.contains("firmware setup"), "{fix}");
    let absent = Fixture::new(&info).cpuid(None, false, false).report();
    assert_eq!(absent.cpu.virtualization, Virtualization::Absent);
    let guest = Fixture::new(&info).cpuid(Some("Microsoft Hv"), false, false).report();
    assert_eq!(guest.cpu.virtualization, Virtualization::HiddenByHypervisor);
    assert_eq!(guest.cpu.hypervisor.as_deref(), Some("Hyper-V"));
}

#[test]
fn a_module_that_is_not_loaded_is_named() {
    let info = cpuinfo("GenuineIntel", &format!("{COMMON} vmx"), "ept", 1);
    let report = Fixture::new(&info).cpuid(None, true, false).report();
    let Verdict::Unavailable { reason, fix } = &report.offer(Isolation::Vm).unwrap().host else { panic!() };
    assert_eq!((reason.as_str(), fix.as_str()), ("/dev/kvm does not exist", "as root: modprobe kvm_intel"));
}

#[test]
fn control_groups_of_every_layout_are_read() {
    let info = cpuinfo("GenuineIntel", COMMON, "", 1);
    let v2 = Fixture::new(&info).report().cgroups;
    assert_eq!((v2.layout.as_str(), v2.missing.len()), ("v2", 0));
    assert_eq!(v2.hierarchies[0].own, "/user.slice/session-1.scope");

    let hybrid = Fixture::new(&info);
    hybrid
        .write(
            "/proc/self/mountinfo",
            "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
             33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )
        .write("/proc/self/cgroup", "2:memory:/a\n1:cpu:/\n0::/\n")
        .write("/sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n");
    let hybrid = hybrid.report().cgroups;
    assert_eq!(hybrid.layout, "hybrid");
    assert_eq!(hybrid.missing, ["pids", "cpuset", "io"]);
    assert_eq!(hybrid.hierarchies.last().unwrap().controllers, ["hugetlb"]);

    let none = Fixture::new(&info);
    none.write("/proc/self/mountinfo", "24 20 0:22 / / rw - ext4 /dev/sda1 rw\n").write("/proc/self/cgroup", "");
    let none = none.report();
    assert_eq!((none.cgroups.layout.as_str(), none.cgroups.missing.len()), ("none", NEEDED.len() + 1));
    let Verdict::Unavailable { fix, .. } = &none.offer(Isolation::Container).unwrap().host else { panic!() };
    assert!(fix.contains("mount -t cgroup2"));
}

#[test]
fn a_container_in_a_container_is_noticed() {
    let info = cpuinfo("GenuineIntel", &format!("{COMMON} hypervisor"), "", 2);
    let fixture = Fixture::new(&info);
    fixture.write("/.dockerenv", "").write(
        "/proc/self/status",
        "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\nNoNewPrivs:\t1\n",
    );
    let report = fixture.report();
    assert_eq!(report.system.container.as_deref(), Some("docker"));
    assert!(!report.security.has("SYS_ADMIN") && report.security.has("NET_BIND_SERVICE"));
    assert!(report.security.out_of_bounds.iter().any(|c| c == "CAP_SYS_ADMIN"));
    assert!(report.security.no_new_privs && report.security.seccomp_mode == 2);

    // The initial PID namespace is no container's, whatever files an image left behind.
    let pid = fixture.root.path().join("proc/self/ns/pid");
    std::fs::remove_file(&pid).unwrap();
    std::os::unix::fs::symlink("pid:[4026531836]", &pid).unwrap();
    assert_eq!(fixture.report().system.container, None);
}

#[test]
fn a_busy_host_is_called_busy() {
    let fixture = Fixture::new(&cpuinfo("GenuineIntel", COMMON, "", 2));
    fixture
        .write("/proc/loadavg", "3.90 2.0 1.0 5/312 4711\n")
        .write("/proc/pressure/cpu", "some avg10=41.00 avg60=0.76 avg300=0.66 total=10\n")
        .write("/proc/pressure/io", "some avg10=0.00 avg60=0 avg300=0 total=10\nfull avg10=0.00 total=0\n");
    let report = fixture.report();
    assert!(report.load.busy);
    assert_eq!(report.load.reasons.len(), 3, "{:?}", report.load.reasons);
    assert_eq!((report.load.cpu_pressure, report.load.memory_pressure), (Some(41.0), None));
    let style = Style { width: 300, color: false, ascii: true };
    assert!(render_as(&report, style).contains("this host is already busy: measurements will be noisy"));
}

#[test]
fn vulnerabilities_and_security_modules_are_summed_up() {
    let fixture = Fixture::new(&cpuinfo("GenuineIntel", COMMON, "", 2));
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    fixture
        .write(&format!("{directory}/meltdown"), "Not affected\n")
        .write(&format!("{directory}/spectre_v2"), "Mitigation: Retpolines\n")
        .write(&format!("{directory}/itlb_multihit"), "KVM: Mitigation: VMX disabled\n")
        .write(&format!("{directory}/mds"), "Vulnerable: Clear CPU buffers attempted, no microcode; SMT vulnerable\n")
        .write("/sys/kernel/security/lsm", "lockdown,capability,landlock,yama,apparmor\n")
        .write("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
    let security = fixture.report().security;
    let v = &security.vulnerabilities;
    assert_eq!((v.vulnerable.len(), v.mitigated, v.not_affected), (1, 2, 1));
    assert!(v.vulnerable[0].starts_with("mds (Clear CPU"), "{:?}", v.vulnerable);
    assert_eq!((security.lsm.len(), security.lockdown.as_deref()), (5, Some("integrity")));
}

#[test]
fn an_empty_host_gives_answers_and_no_panic() {
    let root = tempfile::tempdir().unwrap();
    for arch in ["x86_64", "aarch64", ""] {
        let recorded = Recorded { arch: arch.into(), ..Recorded::default() };
        let report = examine_recorded(root.path(), Path::new("relative/store"), &recorded);
        assert!(!render_as(&report, Style { width: 0, color: true, ascii: false }).is_empty());
    }
}

#[test]
fn garbage_in_every_file_gives_answers_and_no_panic() {
    let garbage =
        ["\u{0}\u{ff}\n\n::::: ", "18446744073709551616", "-1 -1 -1 -1/", "some avg10=x", "[[]", "a - b - c\n - \n"];
    let reader = Fixture::new("");
    let mut paths = Vec::new();
    collect(reader.root.path(), &mut paths);
    for text in garbage {
        for path in &paths {
            std::fs::write(path, text).unwrap();
        }
        render_as(&reader.report(), Style { width: 80, color: false, ascii: false });
    }

    fn collect(directory: &Path, paths: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            match entry.path().is_dir() {
                true => collect(&entry.path(), paths),
                false => paths.push(entry.path()),
            }
        }
    }
}

#[test]
fn text_is_plain_ascii_on_request_and_keeps_to_the_width() {
    let report = Fixture::new(&cpuinfo("GenuineIntel", COMMON, "", 2)).report();
    let text = render_as(&report, Style { width: 80, color: false, ascii: true });
    assert!(text.is_ascii());
    let long: Vec<&str> = text.lines().filter(|l| l.len() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");
    assert!(text.contains("\n  x vm") && text.contains("\n  + container"), "{text}");
    assert!(render_as(&report, Style { width: 80, color: true, ascii: true }).contains("\x1b[31mx\x1b[0m"));
}

#[test]
fn the_document_keeps_its_shape() {
    let report = Fixture::new(&cpuinfo("GenuineIntel", COMMON, "", 2)).report();
    let json = serde_json::to_value(&report).unwrap();
    let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(json["schema"], "strata.doctor/1");
    assert_eq!(
        fields,
        [
            "cgroups",
            "clock",
            "cpu",
            "interfaces",
            "isolations",
            "kvm",
            "load",
            "memory",
            "namespaces",
            "network",
            "peers",
            "schema",
            "security",
            "storage",
            "system",
            "timing",
            "user_namespaces"
        ]
    );
    assert_eq!(json["isolations"][0]["isolation"], "container");
    assert_eq!(json["isolations"][2]["host"]["status"], "unavailable");
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[test]
fn this_host_is_examined_and_nothing_is_left_behind() {
    let store = tempfile::tempdir().unwrap();
    let report = examine_with(&Options { peer_timeout: Duration::ZERO, ..Options::new(store.path()) });
    assert_eq!(std::fs::read_dir(store.path()).unwrap().count(), 0);
    assert!(!report.system.release.is_empty() && report.memory.total > 0 && report.cpu.logical > 0);
    assert_eq!(report.namespaces.len(), 8);
    assert!(report.interfaces.pidfd.is_yes() || report.interfaces.pidfd.reason().is_some());
    // PVM may never pass for a KVM that runs ordinary guests, and hardware must never be called PVM.
    let modules: BTreeMap<&str, bool> =
        ["kvm_pvm", "kvm_intel", "kvm_amd"].iter().map(|m| (*m, Path::new("/sys/module").join(m).exists())).collect();
    if modules["kvm_pvm"] && !modules["kvm_intel"] && !modules["kvm_amd"] && report.kvm.device.is_yes() {
        let reason = report.kvm.ordinary_guests.reason().unwrap();
        assert!(reason.contains("PVM"), "{reason}");
        assert!(
            report.kvm.guest.as_ref().unwrap().passed.contains(&"arithmetic".to_string()),
            "{:?}",
            report.kvm.guest
        );
    } else if report.kvm.device.is_yes() && report.cpu.rings.root_mode {
        assert_eq!(report.kvm.ordinary_guests, Support::Yes);
    } else {
        assert!(!report.kvm.ordinary_guests.is_yes());
    }
}
