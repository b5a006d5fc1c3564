//! The processor: what it is, and what it offers a hypervisor.
//!
//! An x86 CPU has four privilege rings, of which Linux uses two: 0 for the kernel, 3 for programs. A guest kernel
//! expects ring 0 for itself. Hardware assistance (Intel VT-x, AMD-V) adds a second dimension: *root* mode for the
//! hypervisor, often called ring -1, and *guest* mode with its own rings 0 to 3. See Intel SDM volume 3, chapter 25;
//! AMD APM volume 2, chapter 15. Without it a guest kernel must be adapted (paravirtualisation) or translated.

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::sys::cpuid::CpuidFacts;

/// The processor as the kernel and CPUID show it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// `GenuineIntel`, `AuthenticAMD`, …; empty where the kernel does not say.
    pub vendor: String,
    /// Marketing name.
    pub model: String,
    /// Processors the kernel schedules on.
    pub logical: u32,
    /// Physical cores, all sockets together; equals `logical` where the kernel does not say.
    pub cores: u32,
    /// Sockets.
    pub sockets: u32,
    /// Hardware assistance for virtualisation.
    pub virtualization: Virtualization,
    /// Second-level address translation: EPT (Intel), NPT/RVI (AMD). `None` without hardware assistance.
    pub nested_paging: Option<bool>,
    /// Name of the hypervisor this kernel runs on; absent on bare metal.
    pub hypervisor: Option<String>,
    /// Privilege levels.
    pub rings: Rings,
    /// Pages can be marked not executable (NX, XD).
    pub nx: bool,
    /// LAHF and SAHF work in long mode.
    pub lahf_lm: bool,
    /// Ring 0 cannot execute pages of ring 3.
    pub smep: bool,
    /// Ring 0 cannot touch pages of ring 3 by accident.
    pub smap: bool,
    /// The interrupt controller is driven by registers instead of memory (x2APIC).
    pub x2apic: bool,
    /// `cmpxchg16b`, which 64-bit kernels need.
    pub cx16: bool,
    /// The time-stamp counter has a constant rate and does not stop.
    pub constant_tsc: bool,
    /// Memory protection keys for user pages.
    pub pku: bool,
    /// Programs may read and write the FS and GS bases (FSGSBASE).
    pub fsgsbase: bool,
    /// Highest vector extension: `sse2`, `avx`, `avx2`, `avx512`; empty on other architectures.
    pub vector: String,
    /// Level of the x86-64 psABI, 1 to 4; 0 on other architectures.
    pub psabi_level: u32,
}

/// Hardware assistance for virtualisation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Virtualization {
    /// Intel VT-x is offered.
    VtX,
    /// AMD-V (SVM) is offered.
    AmdV,
    /// The CPU has it; the firmware (BIOS, UEFI) has switched it off.
    DisabledByFirmware,
    /// This kernel is a guest and its hypervisor does not pass it on.
    HiddenByHypervisor,
    /// The CPU has none, as far as the kernel shows.
    #[default]
    Absent,
    /// Not an x86 CPU: the presence of `/dev/kvm` decides.
    OtherArchitecture,
}

/// Privilege levels that this kernel and its programs run at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Root mode ("ring -1") is offered to this kernel: it can be a hypervisor with hardware assistance.
    pub root_mode: bool,
    /// In one sentence.
    pub explanation: String,
}

impl Cpu {
    /// From `/proc/cpuinfo` and CPUID (`None` for a recorded host).
    pub fn read(files: &Files, arch: &str, cpuid: Option<&CpuidFacts>) -> Cpu {
        let text = files.text("/proc/cpuinfo").unwrap_or_default();
        let first = text.split("\n\n").next().unwrap_or_default();
        let field = |key| Files::field(first, key, ':').unwrap_or_default().to_string();
        let flags: Vec<&str> = Files::field(first, "flags", ':').unwrap_or_default().split_whitespace().collect();
        let has = |flag: &str| flags.contains(&flag);
        let vmx_flags = field("vmx flags");

        let logical = text.lines().filter(|l| l.starts_with("processor") && l.contains(':')).count().max(1) as u32;
        let distinct = |keys: &[&str]| {
            let blocks = text.split("\n\n").map(|b| keys.iter().map(|k| Files::field(b, k, ':')).collect::<Vec<_>>());
            let mut seen: Vec<_> = blocks.filter(|ids| ids.iter().all(Option::is_some)).collect();
            seen.sort();
            seen.dedup();
            seen.len() as u32
        };
        let cores = distinct(&["physical id", "core id"]);
        let sockets = distinct(&["physical id"]).max(1);

        let signature = cpuid.and_then(|c| c.hypervisor_signature.clone()).filter(|s| !s.is_empty());
        let hypervisor =
            (signature.is_some() || has("hypervisor")).then(|| hypervisor_name(files, signature.as_deref()));
        let x86 = arch == "x86_64" || arch.starts_with('i') && arch.ends_with("86");
        let virtualization = match () {
            () if !x86 => Virtualization::OtherArchitecture,
            () if has("vmx") => Virtualization::VtX,
            () if has("svm") => Virtualization::AmdV,
            () if cpuid.is_some_and(|c| c.vmx || c.svm) => Virtualization::DisabledByFirmware,
            () if hypervisor.is_some() => Virtualization::HiddenByHypervisor,
            () => Virtualization::Absent,
        };
        let root_mode = matches!(virtualization, Virtualization::VtX | Virtualization::AmdV);
        let nested = |flag: &str| has(flag) || vmx_flags.split_whitespace().any(|f| f == flag);
        Cpu {
            vendor: field("vendor_id"),
            model: field("model name"),
            logical,
            cores: if cores == 0 { logical } else { cores },
            sockets,
            virtualization,
            nested_paging: root_mode.then(|| nested("ept") || nested("npt")),
            rings: Rings { root_mode, explanation: rings(x86, virtualization, hypervisor.as_deref()) },
            hypervisor,
            nx: has("nx"),
            lahf_lm: has("lahf_lm"),
            smep: has("smep"),
            smap: has("smap"),
            x2apic: has("x2apic"),
            cx16: has("cx16"),
            constant_tsc: has("constant_tsc") && has("nonstop_tsc"),
            pku: has("ospke"),
            fsgsbase: has("fsgsbase"),
            vector: match () {
                () if has("avx512f") => "avx512",
                () if has("avx2") => "avx2",
                () if has("avx") => "avx",
                () if has("sse2") => "sse2",
                () => "",
            }
            .to_string(),
            psabi_level: if x86 { psabi_level(&has) } else { 0 },
        }
    }
}

fn rings(x86: bool, virtualization: Virtualization, hypervisor: Option<&str>) -> String {
    if !x86 {
        return "not an x86 CPU: the exception levels of this architecture are not examined".into();
    }
    let here = match hypervisor {
        Some(name) => format!("this kernel's ring 0 is a guest's, below it is {name}"),
        None => "this kernel's ring 0 is the machine's".into(),
    };
    match virtualization {
        Virtualization::VtX => format!("{here}; VMX root mode (\"ring -1\") is offered, so guests get a ring 0 each"),
        Virtualization::AmdV => format!("{here}; SVM host mode (\"ring -1\") is offered, so guests get a ring 0 each"),
        _ => format!(
            "{here}; root mode (\"ring -1\") is not offered, so a guest kernel must run in ring 3, adapted or translated"
        ),
    }
}

fn hypervisor_name(files: &Files, signature: Option<&str>) -> String {
    match signature {
        Some("KVMKVMKVM" | "Linux KVM Hv") => "KVM".into(),
        Some("Microsoft Hv") => "Hyper-V".into(),
        Some("VMwareVMware") => "VMware".into(),
        Some("XenVMMXenVMM") => "Xen".into(),
        Some("VBoxVBoxVBox") => "VirtualBox".into(),
        Some("TCGTCGTCGTCG") => "QEMU TCG".into(),
        Some("bhyve bhyve" | "BHyVE BHyVE") => "bhyve".into(),
        Some("ACRNACRNACRN") => "ACRN".into(),
        Some("prl hyperv" | "lrpepyh  vr") => "Parallels".into(),
        Some("HAXMHAXMHAXM") => "HAXM".into(),
        Some("QNXQVMBSQG") => "QNX".into(),
        Some(other) => format!("a hypervisor that calls itself '{}'", printable(other)),
        None => match files.text("/sys/hypervisor/type").as_deref() {
            Some("xen") => "Xen".into(),
            _ => "a hypervisor".into(),
        },
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// The micro-architecture levels of the System V psABI for x86-64, section 3.1.1, in the kernel's names of flags.
fn psabi_level(has: &dyn Fn(&str) -> bool) -> u32 {
    let levels: [&[&str]; 3] = [
        &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
        &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ];
    1 + levels.iter().take_while(|flags| flags.iter().all(|f| has(f))).count() as u32
}
