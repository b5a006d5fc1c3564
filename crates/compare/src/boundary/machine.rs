//! Whole machines, booted from an initial file system that holds the workload: User Mode Linux and QEMU.
//!
//! A boot costs seconds, so all commands of a job run in one. `/init` is a script for busybox: it frames each command's
//! output on the console (see [`crate::console`]), and powers off. The workload lives in the guest's memory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Boundary, Job, Output, Reason, Sample, Workload, executable, initramfs, peer, unique_name, version_line};
use crate::console::Markers;
use crate::process::{Finished, Invocation, find_program, run};

/// Which machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    UserModeLinux,
    QemuTcg,
    QemuKvm,
}

/// One kind of machine.
pub(super) struct Machine {
    kind: Kind,
    program: Option<PathBuf>,
    kernel: Option<PathBuf>,
    workload: Option<Workload>,
    scratch: PathBuf,
    rootfs_bytes: u64,
}

impl Machine {
    pub(super) fn new(kind: Kind, peers_dir: &Path) -> Machine {
        let (program, kernel) = match kind {
            Kind::UserModeLinux => (peer(peers_dir, "linux.uml"), None),
            Kind::QemuTcg | Kind::QemuKvm => {
                (peer(peers_dir, "qemu-system-x86_64"), newest_kernel(&peers_dir.join("kernel/boot")))
            }
        };
        Machine { kind, program, kernel, workload: None, scratch: PathBuf::new(), rootfs_bytes: 0 }
    }

    /// Guest memory in MiB: the archive and its unpacked copy exist at once.
    fn memory_mib(&self) -> u64 {
        512 + 2 * self.rootfs_bytes.div_ceil(1 << 20)
    }

    fn arguments(&self, initrd: &Path) -> Vec<String> {
        let program = self.program.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let initrd = initrd.to_string_lossy();
        let memory = self.memory_mib();
        let init = "rdinit=/.strata/init quiet loglevel=0 panic=-1";
        if self.kind == Kind::UserModeLinux {
            let mut argv = vec![program, format!("mem={memory}M"), format!("initrd={initrd}")];
            argv.extend(init.split(' ').map(String::from));
            argv.extend(["con=null", "con0=null,fd:1", "ssl=null"].map(String::from));
            return argv;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4).to_string();
        let kernel = self.kernel.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let (accel, cpu) = if self.kind == Kind::QemuKvm { ("kvm", "host") } else { ("tcg", "max") };
        [
            &program,
            "-machine",
            "q35",
            "-accel",
            accel,
            "-cpu",
            cpu,
            "-smp",
            &cores,
            "-m",
            &memory.to_string(),
            "-kernel",
            &kernel,
            "-initrd",
            &initrd,
            "-append",
            &format!("console=ttyS0 {init}"),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-nic",
            "none",
            "-no-reboot",
        ]
        .map(String::from)
        .into()
    }
}

impl Boundary for Machine {
    fn id(&self) -> &str {
        match self.kind {
            Kind::UserModeLinux => "uml",
            Kind::QemuTcg => "qemu-tcg",
            Kind::QemuKvm => "qemu-kvm",
        }
    }

    fn title(&self) -> &str {
        match self.kind {
            Kind::UserModeLinux => "User Mode Linux",
            Kind::QemuTcg => "QEMU TCG",
            Kind::QemuKvm => "QEMU KVM",
        }
    }

    fn mechanism(&self) -> &'static str {
        match self.kind {
            Kind::UserModeLinux => {
                "A kernel in user space: Linux itself, built as a host process, answers system calls caught with \
                 ptrace and builds each address space by mapping calls; the processor executes. One processor; files \
                 are in its memory."
            }
            Kind::QemuTcg => {
                "Hosted hypervisor in software: a guest's Linux answers; QEMU translates every instruction and looks \
                 every address up in software. Files are in the guest's memory."
            }
            Kind::QemuKvm => {
                "Hardware-assisted hypervisor: a guest's Linux answers; the processor executes it through KVM with \
                 nested page tables. Files are in the guest's memory."
            }
        }
    }

    fn is_machine(&self) -> bool {
        true
    }

    fn available(&self) -> Result<(), Reason> {
        let package = if self.kind == Kind::UserModeLinux { "linux.uml" } else { "qemu-system-x86_64" };
        let program = self.program.as_deref().ok_or_else(|| Reason(format!("{package} is not installed")))?;
        executable(program)?;
        if self.kind != Kind::UserModeLinux && self.kernel.is_none() {
            return Err(Reason::new("no guest kernel in the peers directory; `make peers` unpacks Debian's"));
        }
        if self.kind == Kind::QemuKvm {
            kvm_works(
                &fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
                Path::new("/sys/module/kvm_pvm").exists(),
            )?;
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map_err(|e| Reason(format!("/dev/kvm: {e}")))?;
        }
        static_busybox().map(|_| ())
    }

    fn version(&self) -> Option<String> {
        let version = version_line(self.program.as_deref()?, "--version")?;
        let kernel = self.kernel.as_deref().and_then(|k| k.file_name()?.to_str()?.strip_prefix("vmlinuz-"));
        Some(match kernel {
            Some(kernel) => format!("{version}, Linux {kernel}"),
            None => version,
        })
    }

    fn prepare(&mut self, workload: &Workload, scratch: &Path) -> Result<(), Reason> {
        self.workload = Some(workload.clone());
        self.scratch = scratch.to_path_buf();
        let busybox = static_busybox()?;
        let archive = |e: std::io::Error| Reason(format!("cannot archive {}: {e}", workload.rootfs().display()));
        let mut base = initramfs::Archive::create(&scratch.join("base.cpio")).map_err(archive)?;
        base.tree(workload.rootfs()).map_err(archive)?;
        base.directory(".strata").map_err(archive)?;
        base.file(".strata/busybox", 0o755, &fs::read(&busybox).map_err(archive)?).map_err(archive)?;
        base.console().map_err(archive)?;
        self.rootfs_bytes = base.finish().map_err(archive)?;
        Ok(())
    }

    fn run_once(&mut self, job: &Job<'_>) -> Result<Sample, Reason> {
        let workload = self.workload.as_ref().ok_or_else(|| Reason::new("not prepared"))?;
        let markers = Markers::new(random_word());
        let script = init_script(job.commands, &workload.env(), workload.cwd(), &markers);
        // The kernel unpacks archives one after the other, so the large one is made once and the script follows it.
        let initrd = self.scratch.join("initrd.cpio");
        let io = |e: std::io::Error| Reason(format!("cannot write {}: {e}", initrd.display()));
        fs::copy(self.scratch.join("base.cpio"), &initrd).map_err(io)?;
        let mut tail = initramfs::Archive::create(&self.scratch.join("init.cpio")).map_err(io)?;
        tail.file(".strata/init", 0o755, script.as_bytes()).map_err(io)?;
        tail.finish().map_err(io)?;
        let tail = fs::read(self.scratch.join("init.cpio")).map_err(io)?;
        fs::OpenOptions::new().append(true).open(&initrd).and_then(|mut f| f.write_all(&tail)).map_err(io)?;

        let mut invocation = Invocation::of(self.arguments(&initrd));
        invocation.cwd.clone_from(&self.scratch);
        // User Mode Linux keeps its sockets below HOME and its memory in TMPDIR, which must allow execution.
        invocation.env.push(format!("HOME={}", self.scratch.display()));
        invocation.env.retain(|e| e != "HOME=/root");
        invocation.ready = Some(markers.begin(0));
        let finished = run(&invocation, job.watch, job.timeout, job.cancel)?;
        sample(finished, &markers, job.commands.len())
    }

    fn clean_up(&mut self) {}
}

fn sample(finished: Finished, markers: &Markers, count: usize) -> Result<Sample, Reason> {
    let outputs: Vec<Output> = markers.parse(&finished.output, count);
    if outputs.is_empty() {
        let said = crate::console::last_line(&finished.output).map(|l| format!(": {l}")).unwrap_or_default();
        return Err(Reason(format!("the guest did not run the workload (status {}){said}", finished.exit)));
    }
    Ok(Sample {
        wall: finished.wall,
        cpu: finished.cpu,
        peak_memory: finished.peak.max(finished.max_rss),
        resident: finished.resident,
        outputs,
    })
}

/// The script that is the guest's first process.
fn init_script(commands: &[Vec<String>], env: &[String], cwd: &str, markers: &Markers) -> String {
    let b = "/.strata/busybox";
    let mut script = format!(
        "#!{b} sh\n\
         {b} mkdir -p /proc /sys /dev /tmp\n\
         {b} mount -t proc proc /proc\n{b} mount -t sysfs sysfs /sys\n{b} mount -t devtmpfs devtmpfs /dev\n\
         {b} mkdir -p /dev/shm\n{b} mount -t tmpfs tmpfs /dev/shm\n{b} mount -t tmpfs tmpfs /tmp\n\
         {b} ip link set lo up\n"
    );
    for (index, command) in commands.iter().enumerate() {
        let words: Vec<String> = env.iter().chain(command).map(|word| quoted(word)).collect();
        script.push_str(&format!(
            "echo {}\n(cd {} && exec {b} env -i {}) </dev/null\necho {} $?\n",
            quoted(&markers.begin(index)),
            quoted(cwd),
            words.join(" "),
            quoted(&markers.end(index)),
        ));
    }
    script.push_str(&format!("{b} poweroff -f\n"));
    script
}

/// A word for a shell, whatever it contains.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A word no workload can guess.
fn random_word() -> String {
    let mut bytes = [0; 12];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => bytes.iter().map(|b| format!("{b:02x}")).collect(),
        Err(_) => unique_name().replace('-', ""),
    }
}

/// The busybox that becomes the guest's shell: it must need no libraries there.
fn static_busybox() -> Result<PathBuf, Reason> {
    let path = find_program("busybox", None, &Invocation::of(vec![]).env)
        .ok_or_else(|| Reason::new("busybox is not installed; the guest needs a static one for its start script"))?;
    let bytes = fs::read(&path).map_err(|e| Reason(format!("{}: {e}", path.display())))?;
    if has_interpreter(&bytes) {
        return Err(Reason(format!("{} is not static; the guest has no libraries for it", path.display())));
    }
    Ok(path)
}

/// Whether a 64-bit ELF file names a dynamic loader (System V ABI, program headers, `PT_INTERP`).
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))
    };
    let (Some(table), Some(size), Some(count)) = (number(0x20, 8), number(0x36, 2), number(0x38, 2)) else {
        return false;
    };
    (0..count).any(|i| number(table.saturating_add(i * size), 4) == Some(3))
}

/// KVM that runs ordinary guests: the processor's extensions are there, and it is not the kind without them.
fn kvm_works(cpuinfo: &str, pvm: bool) -> Result<(), Reason> {
    if pvm {
        return Err(Reason::new("/dev/kvm is PVM, which has no hardware assistance and cannot run an ordinary kernel"));
    }
    let flags = cpuinfo.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|f| f == "svm" || f == "vmx") {
        return Err(Reason::new("the processor shows no SVM or VMX here, so KVM has no hardware assistance"));
    }
    Ok(())
}

fn newest_kernel(boot: &Path) -> Option<PathBuf> {
    let kernels = fs::read_dir(boot).ok()?.flatten().map(|e| e.path());
    kernels.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-"))).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(kind: Kind) -> Machine {
        Machine {
            kind,
            program: Some("/p".into()),
            kernel: Some("/k/vmlinuz-6".into()),
            workload: None,
            scratch: "/s".into(),
            rootfs_bytes: 3 << 20,
        }
    }

    #[test]
    fn command_lines() {
        let uml = machine(Kind::UserModeLinux).arguments(Path::new("/i")).join(" ");
        assert!(uml.starts_with("/p mem=518M initrd=/i rdinit=/.strata/init"), "{uml}");
        let tcg = machine(Kind::QemuTcg).arguments(Path::new("/i")).join(" ");
        assert!(tcg.contains("-accel tcg -cpu max") && tcg.contains("-m 518 -kernel /k/vmlinuz-6 -initrd /i"), "{tcg}");
        assert!(machine(Kind::QemuKvm).arguments(Path::new("/i")).join(" ").contains("-accel kvm -cpu host"));
    }

    #[test]
    fn words_reach_the_guest_unchanged() {
        let script = init_script(
            &[vec!["sh".into(), "-c".into(), "echo 'a b' $HOME".into()]],
            &["A=it's".into()],
            "/w x",
            &Markers::new("m".into()),
        );
        assert!(
            script.contains(
                r"(cd '/w x' && exec /.strata/busybox env -i 'A=it'\''s' 'sh' '-c' 'echo '\''a b'\'' $HOME')"
            ),
            "{script}"
        );
        assert!(script.contains("echo '@@m begin 0'\n") && script.contains("echo '@@m end 0' $?\n"));
    }

    #[test]
    fn a_guest_that_panicked_says_its_last_words() {
        let finished = Finished { output: b"[1.0] Kernel panic - not syncing\r\n".to_vec(), ..Finished::default() };
        let reason = sample(finished, &Markers::new("m".into()), 1).unwrap_err();
        assert!(reason.0.contains("Kernel panic"), "{reason}");
    }

    #[test]
    fn kvm_without_hardware_is_recognised() {
        assert!(kvm_works("flags\t: fpu svm\n", false).is_ok());
        assert!(kvm_works("flags\t: fpu svm\n", true).is_err());
        assert!(kvm_works("flags\t: fpu\n", false).is_err());
    }

    #[test]
    fn hostile_elf_headers_are_no_interpreter() {
        assert!(!has_interpreter(b""));
        assert!(!has_interpreter(&[0xff; 64]));
        let mut elf = vec![0; 0x80];
        elf[0x20] = 0x40;
        elf[0x36] = 0x38;
        elf[0x38] = 1;
        elf[0x40] = 3;
        assert!(has_interpreter(&elf));
    }
}
