//! KVM: whether `/dev/kvm` is there, may be used, and *really runs ordinary guests*.
//!
//! The device alone proves little. PVM (module `kvm_pvm`) offers the same interface on hosts without hardware
//! assistance, but runs at speed only guest kernels built for it; other code it interprets one instruction at a time,
//! and not every instruction. So a small guest is started and its answers are checked and timed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cpu::{Cpu, Virtualization};
use crate::files::Files;
use crate::support::Support;
use crate::sys::child;

/// The version of the interface that every KVM since Linux 2.6.22 reports.
const API_VERSION: i32 = 12;
/// Above this the guest's instructions are interpreted, not executed. Hardware needs less than 1 ns, a KVM whose
/// hardware is itself emulated (QEMU's translator) below 20 ns; PVM's interpreter takes several hundred.
const INTERPRETED_NS: f64 = 60.0;

/// What was found of KVM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kvm {
    /// Whether there is a `/dev/kvm`.
    pub device_exists: bool,
    /// Whether `/dev/kvm` can be opened for reading and writing.
    pub device: Support,
    /// What drives it.
    pub backend: Backend,
    /// Modules loaded or built in: `kvm`, `kvm_intel`, `kvm_amd`, `kvm_pvm`.
    pub modules: Vec<String>,
    /// Whether guests may themselves use hardware assistance: the module's `nested` parameter.
    pub nested: Option<bool>,
    /// The test guest; absent if it was not started.
    pub guest: Option<GuestRun>,
    /// Whether ordinary guests run.
    pub ordinary_guests: Support,
    /// Whether guests built for PVM run.
    pub pvm_guests: bool,
}

/// What executes KVM's guests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// VT-x.
    Intel,
    /// AMD-V.
    Amd,
    /// PVM: no hardware assistance.
    Pvm,
    /// A KVM that is neither, such as another architecture's.
    Other,
    /// No KVM in this kernel.
    #[default]
    None,
}

/// How the test guest went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestRun {
    /// `KVM_GET_API_VERSION`; 12 is the only one in use.
    pub api_version: i32,
    /// Extensions a machine monitor needs that are missing.
    pub missing_extensions: Vec<String>,
    /// Steps that gave the right answer, in order: `arithmetic`, `port output`, `cpuid`, `cmpxchg16b`, `hlt`.
    pub passed: Vec<String>,
    /// The step that did not, and how.
    pub failure: Option<String>,
    /// Nanoseconds an instruction of a tight loop.
    pub ns_per_instruction: Option<f64>,
    /// Nanoseconds from one port write to the next: exit to this program and entry again.
    pub ns_per_exit: Option<f64>,
}

impl Kvm {
    /// What files say; nothing is opened.
    pub fn read(files: &Files) -> Kvm {
        let loaded = files.text("/proc/modules").unwrap_or_default();
        let present = |name: &&str| {
            files.exists(format!("/sys/module/{name}")) || loaded.lines().any(|l| l.split(' ').next() == Some(name))
        };
        let modules: Vec<String> =
            ["kvm", "kvm_intel", "kvm_amd", "kvm_pvm"].iter().filter(|n| present(n)).map(|n| n.to_string()).collect();
        let has = |name: &str| modules.iter().any(|m| m == name);
        let backend = match () {
            () if has("kvm_pvm") && !has("kvm_intel") && !has("kvm_amd") => Backend::Pvm,
            () if has("kvm_intel") => Backend::Intel,
            () if has("kvm_amd") => Backend::Amd,
            () if files.exists("/dev/kvm") => Backend::Other,
            () => Backend::None,
        };
        let nested =
            ["kvm_intel", "kvm_amd"].iter().find_map(|m| files.flag(format!("/sys/module/{m}/parameters/nested")));
        let device = match files.exists("/dev/kvm") {
            true => Support::unknown("not opened"),
            false => Support::no("/dev/kvm does not exist"),
        };
        Kvm {
            device_exists: files.exists("/dev/kvm"),
            device,
            backend,
            modules,
            nested,
            guest: None,
            ordinary_guests: Support::unknown("no guest was started"),
            pvm_guests: false,
        }
    }

    /// Opens the device and starts the test guest in a child, which is killed after `timeout`.
    pub fn probe(&mut self, files: &Files, timeout: Duration) {
        if self.device.is_no() {
            return;
        }
        let path = files.path("/dev/kvm");
        let opened =
            rustix::fs::open(&path, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
        self.device = match opened {
            Ok(_) => Support::Yes,
            Err(e) => Support::no(format!("/dev/kvm cannot be opened: {}", std::io::Error::from(e))),
        };
        if self.device.is_yes() {
            self.guest = Some(match child::ask(timeout, guest::run) {
                Ok(run) => run,
                Err(error) => GuestRun { failure: Some(error.to_string()), ..GuestRun::default() },
            });
        }
    }

    /// Draws the conclusions from what was found.
    pub fn conclude(&mut self, cpu: &Cpu) {
        let usable = self.device.is_yes();
        let hardware = match cpu.virtualization {
            Virtualization::VtX | Virtualization::AmdV => true,
            Virtualization::OtherArchitecture => self.backend != Backend::None,
            _ => false,
        };
        let run = self.guest.as_ref();
        let answered = run.is_some_and(|r| r.api_version == API_VERSION);
        self.pvm_guests = usable && self.backend == Backend::Pvm && (run.is_none() || answered);
        self.ordinary_guests = match (&self.device, run) {
            _ if self.backend == Backend::Pvm => {
                let proof = run.and_then(GuestRun::evidence).map_or(String::new(), |e| format!(" ({e})"));
                Support::no(format!("KVM here is PVM: it only runs guests built for it{proof}"))
            }
            (Support::No { reason }, _) => Support::no(reason.clone()),
            (_, None) => Support::unknown("no guest was started"),
            (_, Some(run)) => match run {
                _ if run.failure.is_some() || run.is_interpreted() => Support::no(format!(
                    "KVM answers, but does not run ordinary guest code: {}",
                    run.evidence().unwrap_or_default()
                )),
                _ if !answered => {
                    Support::no(format!("KVM speaks version {} of its interface, not 12", run.api_version))
                }
                _ if !hardware => Support::no(
                    "KVM answers although the CPU shows neither VT-x nor AMD-V: a substitute that cannot be trusted with an ordinary kernel",
                ),
                _ => Support::Yes,
            },
        };
    }
}

impl GuestRun {
    fn is_interpreted(&self) -> bool {
        self.ns_per_instruction.is_some_and(|ns| ns > INTERPRETED_NS)
    }

    /// What the guest's run proves, if it went badly.
    fn evidence(&self) -> Option<String> {
        match (&self.failure, self.ns_per_instruction) {
            (Some(failure), _) => Some(format!("the test guest failed at {failure}")),
            (None, Some(ns)) if self.is_interpreted() => {
                Some(format!("the test guest's instructions are interpreted, {ns:.0} ns each"))
            }
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod guest {
    //! Starting the test guest. Runs in the child.

    use std::time::{Duration, Instant};

    use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment};
    use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};

    use super::GuestRun;
    use crate::sys::guest::{CODE, GuestMemory, RESULTS, STAGE_PORT, STORED, TICK_PORT, TURNS};

    /// The steps in the order of the program; a stage number counts those behind it.
    const STEPS: [&str; 5] = ["arithmetic", "port output", "cpuid", "cmpxchg16b", "hlt"];
    /// Instructions of one turn of the arithmetic loop.
    const LOOP_INSTRUCTIONS: u64 = 3;
    /// Time spent on timing exits; a slow KVM does not get to finish its loop.
    const TICK_BUDGET: Duration = Duration::from_millis(60);

    pub fn run() -> GuestRun {
        let mut run = GuestRun::default();
        if let Err(failure) = attempt(&mut run) {
            run.failure = Some(failure);
        }
        run
    }

    fn attempt(run: &mut GuestRun) -> Result<(), String> {
        let named = |what: &'static str| move |e: kvm_ioctls::Error| format!("{what}: {e}");
        let kvm = Kvm::new().map_err(named("opening /dev/kvm"))?;
        run.api_version = kvm.get_api_version();
        let needed = [
            ("KVM_CAP_USER_MEMORY", Cap::UserMemory),
            ("KVM_CAP_IRQCHIP", Cap::Irqchip),
            ("KVM_CAP_IOEVENTFD", Cap::Ioeventfd),
            ("KVM_CAP_IRQFD", Cap::Irqfd),
            ("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit),
            ("KVM_CAP_EXT_CPUID", Cap::ExtCpuid),
        ];
        let missing = needed.iter().filter(|(_, cap)| !kvm.check_extension(*cap));
        run.missing_extensions = missing.map(|(name, _)| name.to_string()).collect();

        let machine = kvm.create_vm().map_err(named("KVM_CREATE_VM"))?;
        let memory = GuestMemory::with_program().map_err(|e| format!("guest memory: {e}"))?;
        memory.give_to(&machine).map_err(named("KVM_SET_USER_MEMORY_REGION"))?;
        // Old Intel CPUs need a place for a task state segment in guest memory; others refuse or ignore it.
        let _ = machine.set_tss_address(0xfffb_d000);
        let mut vcpu = machine.create_vcpu(0).map_err(named("KVM_CREATE_VCPU"))?;
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(named("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(named("KVM_SET_CPUID2"))?;
        enter_long_mode(&vcpu).map_err(named("KVM_SET_SREGS"))?;

        let mut stage = 0usize;
        let mut ticks = 0u32;
        let mut mark = Instant::now();
        loop {
            let step = STEPS[stage.saturating_sub(1).min(STEPS.len() - 1)];
            match vcpu.run() {
                Ok(VcpuExit::IoOut(STAGE_PORT, &[next])) => {
                    let elapsed = mark.elapsed();
                    if usize::from(next) != stage + 1 || usize::from(next) > STEPS.len() {
                        return Err(format!("{step}: it reported step {next} after step {stage}"));
                    }
                    check(stage, &memory, &cpuid_vendor())?;
                    match stage {
                        1 => {
                            let instructions = (LOOP_INSTRUCTIONS * TURNS) as f64;
                            run.ns_per_instruction = Some(elapsed.as_nanos() as f64 / instructions);
                        }
                        2 => run.ns_per_exit = (ticks > 0).then(|| elapsed.as_nanos() as f64 / f64::from(ticks)),
                        _ => {}
                    }
                    if stage > 0 {
                        run.passed.push(step.to_string());
                    }
                    stage += 1;
                    mark = Instant::now();
                }
                Ok(VcpuExit::IoOut(TICK_PORT, _)) if stage == 2 => {
                    ticks += 1;
                    if ticks.is_multiple_of(100) && mark.elapsed() > TICK_BUDGET {
                        // One more turn ends the guest's loop.
                        let mut registers = vcpu.get_regs().map_err(named("KVM_GET_REGS"))?;
                        registers.rcx = 1;
                        vcpu.set_regs(&registers).map_err(named("KVM_SET_REGS"))?;
                    }
                }
                Ok(VcpuExit::Hlt) if stage == STEPS.len() => {
                    run.passed.push(step.to_string());
                    return Ok(());
                }
                Ok(VcpuExit::InternalError) => {
                    return Err(format!("{step}: KVM could not emulate the instruction (KVM_EXIT_INTERNAL_ERROR)"));
                }
                Ok(exit) => return Err(format!("{step}: unexpected exit {exit:?}")),
                Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {}
                Err(e) => return Err(format!("{step}: KVM_RUN: {e}")),
            }
        }
    }

    /// Whether the step that just ended left the right result.
    fn check(stage: usize, memory: &GuestMemory, vendor: &[u8; 4]) -> Result<(), String> {
        let right = match stage {
            1 => memory.read(RESULTS + 16) == TURNS * (TURNS + 1) / 2,
            4 => [memory.read(RESULTS), memory.read(RESULTS + 8)] == STORED,
            3 => memory.read(RESULTS + 24) as u32 == u32::from_le_bytes(*vendor),
            _ => true,
        };
        match right {
            true => Ok(()),
            false => Err(format!("{}: a wrong result", STEPS[stage - 1])),
        }
    }

    /// The vendor's first four letters, which KVM passes on to its guests.
    fn cpuid_vendor() -> [u8; 4] {
        #[allow(unused_unsafe)]
        // SAFETY: every x86-64 CPU has the instruction (safe to call from Rust 1.94 on).
        unsafe { core::arch::x86_64::__cpuid(0) }.ebx.to_le_bytes()
    }

    fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        let code = kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector: 0x8,
            type_: 0xb, // code, readable, accessed
            present: 1,
            s: 1,
            l: 1,
            g: 1,
            ..Default::default()
        };
        let data = kvm_segment { selector: 0x10, type_: 0x3, l: 0, db: 1, ..code };
        let mut sregs = vcpu.get_sregs()?;
        sregs.cs = code;
        (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
        sregs.cr3 = 0x1000;
        sregs.cr4 = 0x20; // PAE
        sregs.cr0 = 0x8000_0031; // PG, NE, ET, PE
        sregs.efer = 0x500; // LMA, LME
        vcpu.set_sregs(&sregs)?;
        vcpu.set_regs(&kvm_regs { rip: CODE, rsp: 0x8000, rflags: 0x2, ..Default::default() })
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod guest {
    //! There is no test guest for this architecture.

    pub fn run() -> super::GuestRun {
        super::GuestRun {
            failure: Some("start: there is no test guest for this architecture".into()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kvm(backend: Backend, guest: Option<GuestRun>) -> Kvm {
        Kvm {
            device_exists: true,
            device: Support::Yes,
            backend,
            modules: vec![],
            nested: None,
            guest,
            ordinary_guests: Support::unknown(""),
            pvm_guests: false,
        }
    }

    fn good() -> GuestRun {
        GuestRun {
            api_version: 12,
            ns_per_instruction: Some(0.4),
            ns_per_exit: Some(1500.0),
            passed: vec!["hlt".into()],
            ..GuestRun::default()
        }
    }

    #[test]
    fn hardware_and_a_good_guest_make_a_working_kvm() {
        let cpu = Cpu { virtualization: Virtualization::VtX, ..Cpu::default() };
        let mut kvm = kvm(Backend::Intel, Some(good()));
        kvm.conclude(&cpu);
        assert_eq!(kvm.ordinary_guests, Support::Yes);
        assert!(!kvm.pvm_guests);
    }

    #[test]
    fn pvm_is_recognised_even_if_the_test_guest_runs() {
        let cpu = Cpu { virtualization: Virtualization::HiddenByHypervisor, ..Cpu::default() };
        let mut kvm = kvm(Backend::Pvm, Some(good()));
        kvm.conclude(&cpu);
        assert!(kvm.ordinary_guests.reason().unwrap().contains("KVM here is PVM: it only runs guests built for it"));
        assert!(kvm.pvm_guests);
    }

    #[test]
    fn an_interpreter_is_recognised_without_its_module() {
        let cpu = Cpu { virtualization: Virtualization::Absent, ..Cpu::default() };
        let mut kvm = kvm(Backend::Other, Some(GuestRun { ns_per_instruction: Some(600.0), ..good() }));
        kvm.conclude(&cpu);
        assert!(kvm.ordinary_guests.reason().unwrap().contains("600 ns each"));
        let mut kvm = super::tests::kvm(Backend::Other, Some(good()));
        kvm.conclude(&cpu);
        assert!(kvm.ordinary_guests.reason().unwrap().contains("neither VT-x nor AMD-V"));
    }
}
