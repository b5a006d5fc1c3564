//! The usual host, cgroup v2 alone under systemd: `scripts/vm-check.sh` in a virtual machine made for it before.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_host_with_cgroup_v2_and_systemd() {
    let test = "a_host_with_cgroup_v2_and_systemd";
    let vm = std::env::var_os("STRATA_VM").map_or_else(|| PathBuf::from("/var/lib/strata/vm"), PathBuf::from);
    if common::which("qemu-system-x86_64").is_none() {
        return common::skip(test, "qemu-system-x86_64 is not installed");
    }
    if !vm.join("disk.img").is_file() {
        let reason = format!("no virtual machine in {}; scripts/vm-check.sh build makes it", vm.display());
        return common::skip(test, &reason);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/vm-check.sh");
    let output = Command::new(script).arg(common::program()).env("STRATA_VM", &vm).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.lines().filter(|line| line.starts_with("ok ")).count() > 60, "{out}");
}
