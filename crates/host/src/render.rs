//! The report for people: sections of aligned lines, a mark before each, and one line of advice below each problem.

use std::path::Path;

use strata_spec::quantity::format_bytes as bytes;

use crate::Report;
use crate::cgroup::Hierarchy;
use crate::cpu::Virtualization;
use crate::isolation::{self, Verdict};
use crate::support::Support;

/// How a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Present, as wished.
    Good,
    /// Missing, and something needs it.
    Bad,
    /// Works, but worth knowing.
    Warn,
    /// A fact.
    Fact,
    /// Not known.
    Unknown,
}

struct Line {
    mark: Mark,
    label: String,
    value: String,
    fix: Option<String>,
}

/// A heading and its lines.
struct Section {
    title: &'static str,
    lines: Vec<Line>,
}

impl Section {
    fn new(title: &'static str) -> Section {
        Section { title, lines: Vec::new() }
    }

    fn add(&mut self, mark: Mark, label: impl Into<String>, value: impl Into<String>) -> &mut Line {
        self.lines.push(Line { mark, label: label.into(), value: value.into(), fix: None });
        let last = self.lines.len() - 1;
        &mut self.lines[last]
    }

    fn fact(&mut self, label: &str, value: impl Into<String>) {
        self.add(Mark::Fact, label, value);
    }

    /// A line for `support`: `missing` marks a "no"; `yes` is the text of a "yes".
    fn support(&mut self, label: &str, support: &Support, yes: &str, missing: Mark) -> &mut Line {
        match support {
            Support::Yes => self.add(Mark::Good, label, yes),
            Support::No { reason } => self.add(missing, label, reason.clone()),
            Support::Unknown { reason } => self.add(Mark::Unknown, label, reason.clone()),
        }
    }
}

impl Line {
    fn fix(&mut self, fix: impl Into<String>) {
        if matches!(self.mark, Mark::Bad | Mark::Warn) {
            self.fix = Some(fix.into());
        }
    }
}

/// How the text is written.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Columns of the terminal; longer values are wrapped. At least 40 is used.
    pub width: usize,
    /// Colour by ANSI escape sequences.
    pub color: bool,
    /// Only ASCII characters.
    pub ascii: bool,
}

/// The report as text for a terminal of `width` columns. Marks are plain ASCII unless the locale is UTF-8.
pub fn render(report: &Report, width: usize, color: bool) -> String {
    let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let utf8 = locale.to_ascii_lowercase().replace('-', "").contains("utf8");
    render_as(report, Style { width, color, ascii: !utf8 })
}

/// The report as text in the given style.
pub fn render_as(report: &Report, style: Style) -> String {
    let mut text = String::new();
    for section in sections(report).iter().filter(|s| !s.lines.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&paint(style, "1", section.title));
        text.push('\n');
        let label_width = section.lines.iter().map(|l| l.label.chars().count()).max().unwrap_or(0);
        for line in &section.lines {
            write_line(&mut text, style, line, label_width);
        }
    }
    if style.ascii {
        text = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    }
    text
}

fn paint(style: Style, code: &str, text: &str) -> String {
    if style.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

fn write_line(text: &mut String, style: Style, line: &Line, label_width: usize) {
    let (symbol, plain, code) = match line.mark {
        Mark::Good => ("✓", "+", "32"),
        Mark::Bad => ("✗", "x", "31"),
        Mark::Warn => ("!", "!", "33"),
        Mark::Fact => (" ", " ", "0"),
        Mark::Unknown => ("?", "?", "36"),
    };
    let mark = if style.ascii { plain } else { symbol };
    let indent = 2 + 2 + label_width + 2;
    let room = style.width.max(40).saturating_sub(indent).max(20);
    text.push_str(&format!("  {} {:label_width$}  ", paint(style, code, mark), line.label));
    push_wrapped(text, &line.value, indent, room);
    if let Some(fix) = &line.fix {
        let arrow = if style.ascii { "-> " } else { "→ " };
        text.push_str(&" ".repeat(indent));
        push_wrapped(text, &format!("{arrow}{fix}"), indent + 3, room.saturating_sub(3).max(20));
    }
}

/// Appends `value` broken at spaces into lines of at most `room` characters, all but the first indented.
fn push_wrapped(text: &mut String, value: &str, indent: usize, room: usize) {
    let mut used = 0;
    for word in value.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            used = 0;
        } else if used > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += length;
    }
    text.push('\n');
}

fn sections(report: &Report) -> Vec<Section> {
    vec![
        isolations(report),
        system(report),
        cpu(report),
        kvm(report),
        cgroups(report),
        namespaces(report),
        storage(report),
        interfaces(report),
        security(report),
        network(report),
        resources(report),
        peers(report),
    ]
}

fn isolations(report: &Report) -> Section {
    let mut section = Section::new("Isolation boundaries");
    for offer in &report.isolations {
        let name = offer.isolation.name();
        match &offer.availability {
            Verdict::Available => {
                section.add(Mark::Good, name, "available");
            }
            Verdict::Unavailable { reason, fix } => {
                let mark = if offer.host.is_available() { Mark::Warn } else { Mark::Bad };
                section.add(mark, name, reason.clone()).fix(fix.clone());
            }
        }
    }
    section
}

fn system(report: &Report) -> Section {
    let mut section = Section::new("System");
    let s = &report.system;
    let old = s.version < (5, 4);
    let line = section.add(if old { Mark::Warn } else { Mark::Good }, "kernel", format!("{} ({})", s.release, s.arch));
    line.fix("use Linux 5.4 or later: older ones lack clone3, openat2 or pidfds");
    section.fact("distribution", if s.distribution.is_empty() { "unknown" } else { &s.distribution });
    let user = if s.uid == 0 { "root".into() } else { format!("user {}: answers that need root say so", s.uid) };
    section.fact("running as", user);
    if let Some(engine) = &s.container {
        let line =
            section.add(Mark::Warn, "inside", format!("a container ({engine}): limits below may be that container's"));
        line.fix("examine the host outside for the full picture");
    }
    section
}

fn cpu(report: &Report) -> Section {
    let mut section = Section::new("Processor");
    let c = &report.cpu;
    let name = if c.model.is_empty() { "unknown" } else { &c.model };
    section.fact("model", format!("{name} {}", c.vendor));
    section.fact("CPUs", format!("{} on {} cores, {} socket(s)", c.logical, c.cores, c.sockets));
    let hypervisor = match &c.hypervisor {
        Some(name) => format!("this host is itself a guest of {name}"),
        None => "none: bare metal".into(),
    };
    section.fact("hypervisor", hypervisor);
    let (mark, text) = match c.virtualization {
        Virtualization::VtX => (Mark::Good, "VT-x (vmx)"),
        Virtualization::AmdV => (Mark::Good, "AMD-V (svm)"),
        Virtualization::DisabledByFirmware => (Mark::Bad, "the CPU has it, the firmware switched it off"),
        Virtualization::HiddenByHypervisor => {
            (Mark::Bad, "no vmx or svm flag: the hypervisor below does not pass it on")
        }
        Virtualization::Absent => (Mark::Bad, "no vmx or svm flag"),
        Virtualization::OtherArchitecture => (Mark::Fact, "not an x86 CPU"),
    };
    section.add(mark, "hardware assistance", text).fix(isolation::kvm_fix(report));
    if let Some(nested) = c.nested_paging {
        let (mark, text) = if nested {
            let name = if c.virtualization == Virtualization::AmdV { "yes (NPT)" } else { "yes (EPT)" };
            (Mark::Good, name)
        } else {
            (Mark::Warn, "no: guests' page tables are shadowed, slowly")
        };
        section.add(mark, "nested paging", text).fix("a CPU since about 2009 has it; look in the firmware setup");
    }
    section.fact("rings", c.rings.explanation.clone());
    if report.system.arch == "x86_64" {
        let features = [
            ("nx", c.nx),
            ("lahf_lm", c.lahf_lm),
            ("cx16", c.cx16),
            ("smep", c.smep),
            ("smap", c.smap),
            ("x2apic", c.x2apic),
            ("fsgsbase", c.fsgsbase),
            ("constant_tsc", c.constant_tsc),
            ("pku", c.pku),
        ];
        let list = |there: bool| features.iter().filter(|f| f.1 == there).map(|f| f.0).collect::<Vec<_>>().join(" ");
        section.fact("has", list(true));
        if !list(false).is_empty() {
            section.fact("lacks", list(false));
        }
        section.fact("level", format!("x86-64-v{}, vectors up to {}", c.psabi_level, c.vector));
        if !(c.nx && c.lahf_lm && c.cx16) {
            section.add(Mark::Warn, "guests", "a 64-bit guest needs nx, lahf_lm and cx16").fix("use another CPU model");
        }
    }
    section
}

fn kvm(report: &Report) -> Section {
    let mut section = Section::new("KVM");
    let k = &report.kvm;
    section.support("/dev/kvm", &k.device, "opens", Mark::Bad).fix(isolation::device_fix(report));
    let modules = if k.modules.is_empty() { "none".into() } else { k.modules.join(", ") };
    section.fact("modules", modules);
    if let Some(nested) = k.nested {
        section.fact("nested", if nested { "guests may use hardware assistance" } else { "off: guests get none" });
    }
    if let Some(run) = &k.guest {
        let passed = if run.passed.is_empty() { "nothing".into() } else { run.passed.join(", ") };
        match &run.failure {
            Some(failure) => section.add(Mark::Bad, "test guest", format!("did {passed}; failed at {failure}")),
            None => section.add(Mark::Good, "test guest", format!("did {passed}")),
        };
        if let Some(ns) = run.ns_per_instruction {
            section.fact("one instruction", format!("{ns:.2} ns"));
        }
        if let Some(ns) = run.ns_per_exit {
            section.fact("one exit", format!("{:.2} us", ns / 1000.0));
        }
        if !run.missing_extensions.is_empty() {
            section.add(Mark::Warn, "lacks", run.missing_extensions.join(", ")).fix("use a newer kernel");
        }
    }
    section.support("ordinary guests", &k.ordinary_guests, "run", Mark::Bad).fix(isolation::kvm_fix(report));
    section
}

fn cgroups(report: &Report) -> Section {
    let mut section = Section::new("Control groups");
    let c = &report.cgroups;
    match &c.error {
        Some(error) => section.add(Mark::Bad, "layout", error.clone()).fix("mount -t cgroup2 none /sys/fs/cgroup"),
        None => section.fact("layout", c.layout.clone()),
    }
    // One line for hierarchies that stand alike: version 1 has a dozen.
    let alike = |h: &Hierarchy| (h.version, std::mem::discriminant(&h.writable));
    for group in c.hierarchies.chunk_by(|a, b| alike(a) == alike(b)) {
        let controllers: Vec<String> =
            group.iter().map(|h| h.controllers.join(" ")).filter(|c| !c.is_empty()).collect();
        let controllers = if controllers.is_empty() { "no controllers".into() } else { controllers.join(" ") };
        let place = match group {
            [one] => one.mount_point.clone(),
            [first, ..] => Path::new(&first.mount_point).parent().unwrap_or(Path::new("/")).display().to_string(),
            [] => continue,
        };
        let (mark, suffix) = match &group[0].writable {
            Support::Yes => (Mark::Good, ""),
            Support::No { .. } => (Mark::Warn, ", not writable for this user"),
            Support::Unknown { .. } => (Mark::Unknown, ""),
        };
        let at = if group.len() == 1 { "at" } else { "below" };
        let line = section.add(mark, format!("v{}", group[0].version), format!("{controllers} {at} {place}{suffix}"));
        line.fix("run as root, or have the group delegated: systemd-run --user --scope -p Delegate=yes COMMAND");
    }
    if !c.missing.is_empty() {
        let line = section.add(Mark::Warn, "missing", format!("{}: their limits have no effect", c.missing.join(" ")));
        line.fix("boot with the controllers enabled (no cgroup_disable= on the kernel command line)");
    }
    section
}

fn namespaces(report: &Report) -> Section {
    let mut section = Section::new("Namespaces");
    let root = report.system.uid == 0;
    let mut fine = Vec::new();
    for n in &report.namespaces {
        let mine = match &n.create_in_user_namespace {
            Some(inside) if !root => inside,
            _ => &n.create,
        };
        match mine {
            Support::Yes => fine.push(n.kind.as_str()),
            _ if !n.exists => {
                section.add(Mark::Warn, &n.kind, "this kernel has none").fix("use a newer kernel");
            }
            other => {
                let fix =
                    if root { "start the outer container privileged" } else { isolation::user_namespace_fix(report) };
                section.support(&n.kind, other, "", Mark::Bad).fix(fix);
            }
        }
    }
    if !fine.is_empty() {
        let how = if root { "" } else { ", inside a user namespace" };
        section.add(Mark::Good, "can be made", format!("{}{how}", fine.join(" ")));
    }
    let unprivileged = report.namespaces.iter().filter_map(|n| n.create_in_user_namespace.as_ref());
    if root && unprivileged.clone().any(Support::is_no) {
        section.add(Mark::Warn, "user namespaces", "not for everything").fix(isolation::user_namespace_fix(report));
    }
    let u = &report.user_namespaces;
    let count = |ranges: &[crate::namespaces::IdRange]| ranges.iter().map(|r| r.count).sum::<u64>();
    let text = format!("{} user ids, {} group ids", count(&u.subuid), count(&u.subgid));
    let enough = count(&u.subuid) >= 65_536 && count(&u.subgid) >= 65_536;
    let mark = if enough {
        Mark::Good
    } else if root {
        Mark::Fact
    } else {
        Mark::Warn
    };
    section
        .add(mark, "subordinate ids", text)
        .fix("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER");
    let mark = if root { Mark::Fact } else { Mark::Warn };
    section.support("newuidmap", &u.newuidmap, "works", mark).fix("install uidmap (Debian) or shadow-utils");
    section
}

fn storage(report: &Report) -> Section {
    let mut section = Section::new("Storage");
    let s = &report.storage;
    section.fact("store", format!("{} ({})", s.store.display(), s.file_system));
    if let (Some(free), Some(size)) = (s.free, s.size) {
        let tight = free < 2 << 30 || s.free_inodes.is_some_and(|n| n < 50_000);
        let value = format!("{} of {} free", bytes(free), bytes(size));
        section
            .add(if tight { Mark::Warn } else { Mark::Good }, "space", value)
            .fix("free some, or choose another with --store");
    }
    let root = report.system.uid == 0;
    let (main, other) = if root { (Mark::Bad, Mark::Warn) } else { (Mark::Fact, Mark::Bad) };
    section
        .support("overlay", &s.overlay, "works", main)
        .fix("modprobe overlay; a store that is itself on overlayfs cannot carry one: choose another with --store");
    section
        .support("overlay, user namespace", &s.overlay_in_user_namespace, "works", other)
        .fix("use Linux 5.11 or later; until then layers are copied");
    section
        .support("idmapped mounts", &s.idmapped_mounts, "work", Mark::Warn)
        .fix("use Linux 5.12 or later and a file system that has them");
    section.fact("file systems", s.known.join(" "));
    section
}

fn interfaces(report: &Report) -> Section {
    let mut section = Section::new("Kernel interfaces");
    let i = &report.interfaces;
    let all = [
        ("openat2", &i.openat2, "Linux 5.6"),
        ("clone3", &i.clone3, "Linux 5.3"),
        ("pidfd", &i.pidfd, "Linux 5.3"),
        ("close_range", &i.close_range, "Linux 5.9"),
        ("mount API", &i.mount_api, "Linux 5.12"),
        ("memfd", &i.memfd, "Linux 3.17 and vm.memfd_noexec below 2"),
        ("seccomp filter", &i.seccomp_filter, "CONFIG_SECCOMP_FILTER"),
        ("seccomp notify", &i.seccomp_notify, "Linux 5.0"),
        ("user dispatch", &i.syscall_user_dispatch, "Linux 5.11 with CONFIG_GENERIC_ENTRY"),
        ("ptrace", &i.ptrace, "kernel.yama.ptrace_scope below 3"),
        ("userfaultfd", &i.userfaultfd, "root, or vm.unprivileged_userfaultfd=1"),
        ("userfaultfd (user)", &i.userfaultfd_user_mode, "Linux 5.11"),
        ("io_uring", &i.io_uring, "kernel.io_uring_disabled=0"),
        ("perf", &i.perf, "kernel.perf_event_paranoid below 3"),
    ];
    let fine: Vec<&str> = all.iter().filter(|(_, s, _)| s.is_yes()).map(|(name, ..)| *name).collect();
    if !fine.is_empty() {
        section.add(Mark::Good, "work", fine.join(", "));
    }
    for (name, support, needs) in all.iter().filter(|(_, s, _)| !s.is_yes()) {
        section.support(name, support, "", Mark::Warn).fix(format!("needs {needs}"));
    }
    section.fact(
        "seccomp actions",
        i.seccomp_actions
            .iter()
            .map(|a| a.trim_start_matches("SCMP_ACT_").to_lowercase())
            .collect::<Vec<_>>()
            .join(" "),
    );
    section
}

fn security(report: &Report) -> Section {
    let mut section = Section::new("Security");
    let s = &report.security;
    let list = if s.lsm.is_empty() { "none found".into() } else { s.lsm.join(" ") };
    let source = if s.lsm_source == "securityfs" { "" } else { " (securityfs is not mounted: the list may be short)" };
    section.fact("modules", format!("{list}{source}"));
    match s.landlock_abi {
        Some(abi) => section.add(Mark::Good, "landlock", format!("ABI {abi}")),
        None => section.add(Mark::Fact, "landlock", "none"),
    };
    if !s.out_of_bounds.is_empty() {
        let line = section.add(
            Mark::Warn,
            "capabilities",
            format!("out of reach, even for root: {}", s.out_of_bounds.join(" ")),
        );
        line.fix("the outer container or boot set-up dropped them; what needs them fails");
    }
    if s.seccomp_mode != 0 {
        section.add(Mark::Warn, "seccomp", "this process is itself confined by a filter").fix("examine outside it");
    }
    if s.no_new_privs {
        section
            .add(Mark::Warn, "no_new_privs", "set: newuidmap and sudo cannot work")
            .fix("start from a session without it");
    }
    if let Some(lockdown) = &s.lockdown {
        section.fact("lockdown", lockdown.clone());
    }
    let v = &s.vulnerabilities;
    if v.vulnerable.is_empty() {
        section.add(
            Mark::Good,
            "CPU flaws",
            format!("{} mitigated, {} not affecting this CPU", v.mitigated, v.not_affected),
        );
    } else {
        let line = section.add(Mark::Warn, "CPU flaws", format!("open: {}", v.vulnerable.join(", ")));
        line.fix("update microcode and kernel, remove mitigations=off; do not share this host with strangers");
    }
    if v.smt == Some(true) {
        section.fact("SMT", "on: two guests may share a core");
    }
    section
}

fn network(report: &Report) -> Section {
    let mut section = Section::new("Network");
    let n = &report.network;
    section.support("tun", &n.tun, "opens", Mark::Warn).fix("modprobe tun; as a user, be given access to /dev/net/tun");
    section.support("vsock", &n.vsock, "works", Mark::Warn).fix("modprobe vsock");
    section.support("vhost-net", &n.vhost_net, "opens", Mark::Fact);
    section.support("vhost-vsock", &n.vhost_vsock, "opens", Mark::Fact);
    let program = |p: &Option<String>| p.clone().unwrap_or_else(|| "not in PATH".into());
    section.fact("nft", program(&n.nft));
    section.fact("iptables", program(&n.iptables));
    section.fact("IP forwarding", if n.ip_forward == Some(true) { "on" } else { "off" });
    section.fact("IPv6", if n.ipv6 { "yes" } else { "no" });
    section
}

fn resources(report: &Report) -> Section {
    let mut section = Section::new("Memory, load, clock");
    let m = &report.memory;
    let scarce = m.available < 512 << 20;
    let value = format!("{} of {} available", bytes(m.available), bytes(m.total));
    section
        .add(if scarce { Mark::Warn } else { Mark::Good }, "memory", value)
        .fix("stop something, or give instances a memory limit");
    let swap = if m.swap_total == 0 {
        "none".into()
    } else {
        format!("{} of {} free", bytes(m.swap_free), bytes(m.swap_total))
    };
    section.fact("swap", swap);
    let huge = m.huge_pages.iter().map(|h| format!("{}: {} of {} free", bytes(h.size), h.free, h.total));
    section.fact("huge pages", huge.collect::<Vec<_>>().join(", "));
    section.fact("transparent huge pages", m.transparent_huge_pages.clone().unwrap_or_else(|| "none".into()));
    section.fact("NUMA nodes", m.numa_nodes.to_string());
    let l = &report.load;
    let averages = format!(
        "{:.2} {:.2} {:.2} over 1, 5 and 15 minutes, on {} CPUs",
        l.average[0], l.average[1], l.average[2], report.cpu.logical
    );
    if l.busy {
        let line = section.add(Mark::Warn, "load", format!("{averages}: {}", l.reasons.join("; ")));
        line.fix("this host is already busy: measurements will be noisy");
    } else {
        section.add(Mark::Good, "load", averages);
    }
    let clock = &report.clock;
    let mark = if clock.fast { Mark::Good } else { Mark::Warn };
    section
        .add(mark, "clock", clock.source.clone())
        .fix("every reading is a system call or slower: see why tsc was rejected (dmesg)");
    section
}

fn peers(report: &Report) -> Section {
    let mut section = Section::new("Peers in PATH");
    for peer in &report.peers {
        let version = peer.version.as_deref().unwrap_or("did not tell its version in time");
        section.fact(&peer.name, format!("{version} ({})", peer.path.display()));
    }
    if report.peers.is_empty() {
        section.fact("none", "strata compare has only bare metal to compare with");
    }
    section
}
