//! Facts about the host that a figure is worth nothing without.

use std::fs;

use serde::{Deserialize, Serialize};

/// The host a comparison ran on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub cpu: String,
    /// Processors this process may run on.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Load averages over 1, 5 and 15 minutes before the first run.
    pub load_before: [f64; 3],
    /// Name of the distribution.
    pub os: String,
    /// Whether the host is itself a virtual machine, as its processor says.
    pub virtual_machine: bool,
}

impl Host {
    /// Reads the facts now. What cannot be read stays empty.
    pub fn read() -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        Host {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            cpu: field(&cpuinfo, "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: field(&read("/proc/meminfo"), "MemTotal", ':')
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .map_or(0, |kib| kib.saturating_mul(1024)),
            load_before: load(&read("/proc/loadavg")),
            os: field(&read("/etc/os-release"), "PRETTY_NAME", '=').trim_matches('"').to_string(),
            virtual_machine: field(&cpuinfo, "flags", ':').split_whitespace().any(|flag| flag == "hypervisor"),
        }
    }
}

fn load(loadavg: &str) -> [f64; 3] {
    let mut values = loadavg.split_whitespace().map(|v| v.parse().unwrap_or(0.0));
    std::array::from_fn(|_| values.next().unwrap_or(0.0))
}

/// The value of the first line `key SEPARATOR value`.
fn field(text: &str, key: &str, separator: char) -> String {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_load() {
        let text = "processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu vme\n";
        assert_eq!(field(text, "model name", ':'), "A CPU: fast");
        assert_eq!(field(text, "absent", ':'), "");
        assert_eq!(load("0.50 1.25 2.00 1/99 42"), [0.5, 1.25, 2.0]);
        assert_eq!(load("garbage"), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn this_host_has_a_kernel_and_memory() {
        let host = Host::read();
        assert!(!host.kernel.is_empty() && host.memory > 1 << 20 && host.cores > 0);
    }
}
