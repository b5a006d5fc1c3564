//! The CPUID instruction (Intel SDM volume 2A; AMD APM volume 3, appendix E). Unlike the flags of `/proc/cpuinfo`, it
//! still shows a feature that the kernel gave up because the firmware locked it.

use serde::{Deserialize, Serialize};

/// What CPUID says and `/proc/cpuinfo` does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidFacts {
    /// Signature of the hypervisor below (leaf 0x4000_0000), such as `KVMKVMKVM`; absent on bare metal.
    pub hypervisor_signature: Option<String>,
    /// VMX (leaf 1, ECX bit 5).
    pub vmx: bool,
    /// SVM (leaf 0x8000_0001, ECX bit 2).
    pub svm: bool,
}

/// Reads CPUID; `None` where there is no such instruction.
#[cfg(target_arch = "x86_64")]
pub fn read() -> Option<CpuidFacts> {
    use core::arch::x86_64::__cpuid;
    // CPUID is safe to call from Rust 1.94 on and was not before.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 CPU has the instruction.
    let __cpuid = |leaf| unsafe { __cpuid(leaf) };
    let one = __cpuid(1);
    let extended = __cpuid(0x8000_0000).eax;
    let svm = extended >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & (1 << 2) != 0;
    let hypervisor_signature = (one.ecx & (1 << 31) != 0).then(|| {
        let leaf = __cpuid(0x4000_0000);
        let bytes: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].iter().flat_map(|r| r.to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_string()
    });
    Some(CpuidFacts { hypervisor_signature, vmx: one.ecx & (1 << 5) != 0, svm })
}

/// Reads CPUID; `None` where there is no such instruction.
#[cfg(not(target_arch = "x86_64"))]
pub fn read() -> Option<CpuidFacts> {
    None
}
