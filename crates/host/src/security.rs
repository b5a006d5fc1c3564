//! Security modules, this process's privileges, and the CPU's known vulnerabilities.

use serde::{Deserialize, Serialize};
use strata_spec::capability::NAMES;

use crate::files::Files;

/// What confines this process, and what protects the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Active Linux security modules, in order.
    pub lsm: Vec<String>,
    /// Where `lsm` was read: `securityfs`, or `traces` where that is not mounted and the list may lack some.
    pub lsm_source: String,
    /// Version of the Landlock ABI; absent without Landlock.
    pub landlock_abi: Option<i64>,
    /// Effective capabilities of this process.
    pub capabilities: Vec<String>,
    /// Capabilities this kernel has that this process's bounding set lacks: not even root can gain them here.
    pub out_of_bounds: Vec<String>,
    /// `no_new_privs` is set: programs such as `newuidmap` cannot raise privileges.
    pub no_new_privs: bool,
    /// Seccomp mode of this process: 0 none, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// `none`, `integrity` or `confidentiality`; absent where unknown.
    pub lockdown: Option<String>,
    /// The CPU's vulnerabilities.
    pub vulnerabilities: Vulnerabilities,
}

/// Summary of `/sys/devices/system/cpu/vulnerabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vulnerabilities {
    /// Names and texts of those the kernel calls vulnerable.
    pub vulnerable: Vec<String>,
    /// How many are mitigated.
    pub mitigated: u32,
    /// How many do not affect this CPU.
    pub not_affected: u32,
    /// Simultaneous multi-threading: two guests may share a core and its secrets.
    pub smt: Option<bool>,
}

impl Security {
    /// From `/proc/self/status`, `/proc/sys/kernel/cap_last_cap`, `/sys/kernel/security` and the CPU's directory.
    pub fn read(files: &Files) -> Security {
        let status = files.text("/proc/self/status").unwrap_or_default();
        let mask = |key| Files::field(&status, key, ':').and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let last: u32 = files.value("/proc/sys/kernel/cap_last_cap").unwrap_or(NAMES.len() as u32 - 1);
        let all = if last >= 63 { u64::MAX } else { (1 << (last + 1)) - 1 };
        let (lsm, lsm_source) = lsm(files);
        let lockdown = files.text("/sys/kernel/security/lockdown");
        Security {
            lsm,
            lsm_source,
            landlock_abi: None,
            capabilities: names(mask("CapEff")),
            out_of_bounds: names(all & !mask("CapBnd")),
            no_new_privs: Files::field(&status, "NoNewPrivs", ':') == Some("1"),
            seccomp_mode: Files::field(&status, "Seccomp", ':').and_then(|v| v.parse().ok()).unwrap_or(0),
            lockdown: lockdown.and_then(|t| Some(t.split_once('[')?.1.split_once(']')?.0.to_string())),
            vulnerabilities: Vulnerabilities::read(files),
        }
    }

    /// Whether this process has the capability, by its name without `CAP_`.
    pub fn has(&self, name: &str) -> bool {
        self.capabilities.iter().any(|c| c.strip_prefix("CAP_") == Some(name))
    }
}

fn names(mask: u64) -> Vec<String> {
    let name = |bit: usize| match NAMES.get(bit) {
        Some(name) => format!("CAP_{name}"),
        None => format!("CAP_{bit}"),
    };
    (0..64).filter(|bit| mask & (1 << bit) != 0).map(name).collect()
}

fn lsm(files: &Files) -> (Vec<String>, String) {
    if let Some(list) = files.text("/sys/kernel/security/lsm") {
        return (list.split(',').filter(|n| !n.is_empty()).map(String::from).collect(), "securityfs".into());
    }
    let traces = [
        ("apparmor", files.flag("/sys/module/apparmor/parameters/enabled") == Some(true)),
        ("selinux", files.exists("/sys/fs/selinux/enforce")),
        ("smack", files.exists("/sys/fs/smackfs/load2")),
        ("yama", files.exists("/proc/sys/kernel/yama")),
    ];
    (traces.iter().filter(|(_, there)| *there).map(|(name, _)| name.to_string()).collect(), "traces".into())
}

impl Vulnerabilities {
    fn read(files: &Files) -> Vulnerabilities {
        const DIRECTORY: &str = "/sys/devices/system/cpu/vulnerabilities";
        let mut found = Vulnerabilities { smt: files.flag("/sys/devices/system/cpu/smt/active"), ..Default::default() };
        for name in files.names(DIRECTORY) {
            let text = files.text(format!("{DIRECTORY}/{name}")).unwrap_or_default();
            match text.split([':', ';', ' ']).next() {
                Some("Not") => found.not_affected += 1,
                Some("Mitigation") => found.mitigated += 1,
                // "KVM: Mitigation: …" (itlb_multihit) and anything else that does not call itself vulnerable.
                _ if !text.starts_with("Vulnerable") && !text.contains(": Vulnerable") => found.mitigated += 1,
                _ => {
                    found.vulnerable.push(match text.trim_start_matches("Vulnerable").trim_start_matches([':', ' ']) {
                        "" => name,
                        detail => format!("{name} ({detail})"),
                    })
                }
            }
        }
        found
    }
}
