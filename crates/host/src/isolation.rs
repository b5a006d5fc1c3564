//! The verdict: which isolation boundaries this host offers, and which of them this build of Strata has.

use serde::{Deserialize, Serialize};

use crate::Report;
use crate::cpu::Virtualization;
use crate::kvm::Backend;
use crate::support::Support;

/// The values of `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The host's kernel, partitioned.
    Container,
    /// Strata's own kernel in user space.
    Userkernel,
    /// A guest kernel on hardware assistance.
    Vm,
    /// A guest kernel that knows it is one.
    Paravirt,
    /// A guest kernel on a CPU made of software.
    Emulated,
}

impl Isolation {
    /// Every isolation, weakest boundary first.
    pub const ALL: [Isolation; 5] =
        [Isolation::Container, Isolation::Userkernel, Isolation::Vm, Isolation::Paravirt, Isolation::Emulated];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isolation::Container => "container",
            Isolation::Userkernel => "userkernel",
            Isolation::Vm => "vm",
            Isolation::Paravirt => "paravirt",
            Isolation::Emulated => "emulated",
        }
    }

    /// Whether this build of Strata has it, whatever the host offers.
    pub fn in_this_build(self) -> bool {
        matches!(self, Isolation::Container)
    }
}

/// One isolation on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which.
    pub isolation: Isolation,
    /// Whether the host offers what it needs.
    pub host: Verdict,
    /// Whether this build of Strata has it.
    pub in_this_build: bool,
    /// Both together: whether `strata run --isolation …` can work here.
    pub availability: Verdict,
}

/// Available or not, why, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Verdict {
    /// Everything it needs is there.
    Available,
    /// Something is missing.
    Unavailable {
        /// What is missing.
        reason: String,
        /// What to do about it.
        fix: String,
    },
}

impl Verdict {
    /// Whether it is available.
    pub fn is_available(&self) -> bool {
        matches!(self, Verdict::Available)
    }

    fn missing(reason: impl Into<String>, fix: impl Into<String>) -> Verdict {
        Verdict::Unavailable { reason: reason.into(), fix: fix.into() }
    }
}

/// The verdict on every isolation.
pub fn offers(report: &Report) -> Vec<Offer> {
    let offer = |isolation: Isolation| {
        let host = match isolation {
            Isolation::Container => container(report),
            Isolation::Userkernel => userkernel(report),
            Isolation::Vm => vm(report),
            Isolation::Paravirt => paravirt(report),
            Isolation::Emulated => emulated(report),
        };
        let in_this_build = isolation.in_this_build();
        let availability = match (&host, in_this_build) {
            (_, true) => host.clone(),
            (Verdict::Available, false) => Verdict::missing(
                "this host offers what it needs; this build of Strata has it not",
                "use --isolation container, or a build of Strata that has it",
            ),
            (Verdict::Unavailable { reason, fix }, false) => {
                Verdict::missing(format!("{reason}; nor has this build of Strata it"), fix.clone())
            }
        };
        Offer { isolation, host, in_this_build, availability }
    };
    Isolation::ALL.into_iter().map(offer).collect()
}

fn container(report: &Report) -> Verdict {
    if report.cgroups.layout == "none" {
        return Verdict::missing(
            "no control group hierarchy is mounted",
            "mount -t cgroup2 none /sys/fs/cgroup, or start the outer container with its cgroups mounted",
        );
    }
    let root = report.system.uid == 0;
    for namespace in &report.namespaces {
        let needed =
            ["mnt", "pid", "ipc", "uts", "net"].contains(&namespace.kind.as_str()) || !root && namespace.kind == "user";
        let answer = match &namespace.create_in_user_namespace {
            Some(inside) if !root => inside,
            _ => &namespace.create,
        };
        if let (true, Support::No { reason }) = (needed, answer) {
            let fix = match root {
                true => "run as root with CAP_SYS_ADMIN; inside a container, start that one privileged",
                false => user_namespace_fix(report),
            };
            return Verdict::missing(format!("a {} namespace cannot be made: {reason}", namespace.kind), fix);
        }
    }
    Verdict::Available
}

/// What stands in the way of user namespaces for an ordinary user.
pub(crate) fn user_namespace_fix(report: &Report) -> &'static str {
    let limit = report.namespaces.iter().find(|n| n.kind == "user").and_then(|n| n.limit);
    match &report.user_namespaces {
        u if u.unprivileged_clone == Some(false) => "as root: sysctl kernel.unprivileged_userns_clone=1",
        u if u.apparmor_restricted == Some(true) => {
            "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give strata an AppArmor profile with userns"
        }
        _ if limit == Some(0) => "as root: sysctl user.max_user_namespaces=15000",
        _ => "run as root, or leave the sandbox (seccomp filter) that forbids it",
    }
}

fn userkernel(report: &Report) -> Verdict {
    let i = &report.interfaces;
    if report.system.arch != "x86_64" {
        return Verdict::missing(format!("the CPU is {}, not x86_64", report.system.arch), "use an x86_64 host");
    }
    if i.syscall_user_dispatch.is_no() && i.seccomp_filter.is_no() {
        return Verdict::missing(
            "neither syscall user dispatch nor seccomp filters work, so system calls cannot be caught",
            "use Linux 5.11 or later, or a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    executable_memory(&i.memfd).unwrap_or(Verdict::Available)
}

fn executable_memory(memfd: &Support) -> Option<Verdict> {
    let Support::No { reason } = memfd else { return None };
    Some(Verdict::missing(
        format!("memory files that may be executed cannot be had: {reason}"),
        "allow memfd_create and executable mappings: see vm.memfd_noexec, SELinux execmem, the outer seccomp filter",
    ))
}

fn vm(report: &Report) -> Verdict {
    match &report.kvm.ordinary_guests {
        Support::Yes => Verdict::Available,
        Support::No { reason } | Support::Unknown { reason } => Verdict::missing(reason.clone(), kvm_fix(report)),
    }
}

/// What makes `/dev/kvm` open.
pub(crate) fn device_fix(report: &Report) -> String {
    match report.kvm.device_exists {
        true => "as root: usermod -aG kvm USER, then log in again; or run as root".into(),
        false => kvm_fix(report),
    }
}

/// What makes ordinary guests run.
pub(crate) fn kvm_fix(report: &Report) -> String {
    let kvm = &report.kvm;
    let hidden = "use a bare-metal host, or one with nested virtualisation (outer KVM: kvm_intel/kvm_amd nested=1, CPU model host)";
    match report.cpu.virtualization {
        _ if kvm.backend == Backend::Pvm => hidden.into(),
        Virtualization::DisabledByFirmware => {
            "switch on VT-x (\"Intel Virtualization Technology\") or SVM mode in the firmware setup, and restart".into()
        }
        Virtualization::HiddenByHypervisor => hidden.into(),
        Virtualization::Absent => {
            "this CPU shows no VT-x or AMD-V: look in the firmware setup, or use --isolation emulated".into()
        }
        Virtualization::VtX if !has_module(report, "kvm_intel") => "as root: modprobe kvm_intel".into(),
        Virtualization::AmdV if !has_module(report, "kvm_amd") => "as root: modprobe kvm_amd".into(),
        _ if kvm.device_exists && kvm.device.is_no() => device_fix(report),
        _ if kvm.device.is_no() => "give this container /dev/kvm (docker: --device /dev/kvm)".into(),
        _ => "see the kernel log (dmesg | grep -i kvm)".into(),
    }
}

fn has_module(report: &Report, name: &str) -> bool {
    report.kvm.modules.iter().any(|m| m == name)
}

fn paravirt(report: &Report) -> Verdict {
    if report.kvm.pvm_guests || report.kvm.ordinary_guests.is_yes() {
        return Verdict::Available;
    }
    if let (Backend::Pvm, true, Support::No { reason }) =
        (report.kvm.backend, report.kvm.device_exists, &report.kvm.device)
    {
        return Verdict::missing(format!("kvm_pvm is loaded, but {reason}"), device_fix(report));
    }
    Verdict::missing(
        "neither hardware-assisted KVM nor PVM runs guests here",
        "load kvm_pvm on a kernel that has it, or see the fix for vm",
    )
}

fn emulated(report: &Report) -> Verdict {
    executable_memory(&report.interfaces.memfd).unwrap_or(Verdict::Available)
}
