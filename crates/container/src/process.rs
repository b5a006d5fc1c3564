//! What a process is before it executes the program: identity, limits, scheduling, capabilities, filter (OCI
//! runtime-spec, `config.md`, "Process"). Prepared by the parent as numbers ([`Plan`]), applied by the child in an
//! order that matters: each step may need a privilege that a later one gives up. The first process of a container and
//! one that joins it later go through the same steps.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{Gid, Uid};
use strata_seccomp::Program;
use strata_spec::runtime::{self, IoPriority, MemoryPolicy, Process, Scheduler};

use crate::capabilities::Sets;
use crate::error::{Context, Error};
use crate::paths::Root;
use crate::procfs::Proc;
use crate::sys::{self, CStrings, SchedAttr};

/// Resource limits, by kernel number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits(Vec<(Resource, Rlimit)>);

const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

impl Limits {
    pub(crate) fn parse(list: &[runtime::Rlimit]) -> Result<Limits, String> {
        let mut limits: Vec<(Resource, Rlimit)> = Vec::new();
        for limit in list {
            let Some((_, resource)) = LIMITS.iter().find(|(n, _)| *n == limit.kind) else {
                return Err(format!("unknown limit {:?}", limit.kind));
            };
            if limits.iter().any(|(r, _)| r == resource) {
                return Err(format!("{} is listed twice", limit.kind));
            }
            if limit.soft > limit.hard {
                return Err(format!("{}: soft {} is above hard {}", limit.kind, limit.soft, limit.hard));
            }
            let number = |n: u64| (n != u64::MAX).then_some(n);
            limits.push((*resource, Rlimit { current: number(limit.soft), maximum: number(limit.hard) }));
        }
        Ok(Limits(limits))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the limits of another process, or with 0 of this one. The caller's privileges decide whether a hard limit may be raised.
    pub(crate) fn apply_to(&self, pid: i32) -> Result<(), Error> {
        for (resource, limit) in &self.0 {
            rustix::process::prlimit(rustix::process::Pid::from_raw(pid), *resource, *limit).context(|| {
                let name = LIMITS.iter().find(|(_, r)| r == resource).map_or("a limit", |(n, _)| n);
                format!("set {name} to {limit:?} (raising a hard limit needs CAP_SYS_RESOURCE)")
            })?;
        }
        Ok(())
    }
}

/// `linux.process.scheduler` as `sched_setattr(2)` takes it.
pub(crate) fn scheduler(s: &Scheduler) -> Result<SchedAttr, String> {
    const POLICIES: [(&str, i32); 6] = [
        ("SCHED_OTHER", libc::SCHED_OTHER),
        ("SCHED_FIFO", libc::SCHED_FIFO),
        ("SCHED_RR", libc::SCHED_RR),
        ("SCHED_BATCH", libc::SCHED_BATCH),
        ("SCHED_IDLE", libc::SCHED_IDLE),
        ("SCHED_DEADLINE", libc::SCHED_DEADLINE),
    ];
    const FLAGS: [(&str, u64); 7] = [
        ("SCHED_FLAG_RESET_ON_FORK", 0x01),
        ("SCHED_FLAG_RECLAIM", 0x02),
        ("SCHED_FLAG_DL_OVERRUN", 0x04),
        ("SCHED_FLAG_KEEP_POLICY", 0x08),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let (_, policy) = POLICIES.iter().find(|(n, _)| *n == s.policy).ok_or_else(|| {
        format!("unknown policy {:?}; known are SCHED_OTHER, FIFO, RR, BATCH, IDLE, DEADLINE", s.policy)
    })?;
    let mut flags = 0;
    for name in &s.flags {
        flags |= FLAGS.iter().find(|(n, _)| n == name).ok_or_else(|| format!("unknown flag {name:?}"))?.1;
    }
    if !(-20..=19).contains(&s.nice) {
        return Err(format!("nice {} must be -20 to 19", s.nice));
    }
    let real_time = matches!(*policy, libc::SCHED_FIFO | libc::SCHED_RR);
    if s.priority != 0 && !real_time {
        return Err(format!("priority {} needs SCHED_FIFO or SCHED_RR", s.priority));
    }
    if *policy != libc::SCHED_DEADLINE && (s.runtime, s.deadline, s.period) != (0, 0, 0) {
        return Err("runtime, deadline and period need SCHED_DEADLINE".into());
    }
    Ok(SchedAttr {
        size: 0,
        policy: *policy as u32,
        flags,
        nice: s.nice,
        priority: u32::try_from(s.priority).map_err(|_| format!("priority {} is negative", s.priority))?,
        runtime: s.runtime,
        deadline: s.deadline,
        period: s.period,
    })
}

/// `process.ioPriority` as `ioprio_set(2)` takes it.
pub(crate) fn io_priority(p: &IoPriority) -> Result<u32, String> {
    let class = match p.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(format!("class {other:?} must be IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE")),
    };
    match u32::try_from(p.priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(format!("priority {} must be 0 to 7", p.priority)),
    }
}

pub(crate) const MEMORY_MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
pub(crate) const MEMORY_FLAGS: [(&str, i32); 3] =
    [("MPOL_F_STATIC_NODES", 1 << 15), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_NUMA_BALANCING", 1 << 13)];

/// `linux.memoryPolicy` as `set_mempolicy(2)` takes it.
pub(crate) fn memory_policy(p: &MemoryPolicy) -> Result<(i32, Vec<u64>), String> {
    let mut mode =
        MEMORY_MODES.iter().find(|(n, _)| *n == p.mode).ok_or_else(|| format!("unknown mode {:?}", p.mode))?.1;
    for name in &p.flags {
        mode |= MEMORY_FLAGS.iter().find(|(n, _)| n == name).ok_or_else(|| format!("unknown flag {name:?}"))?.1;
    }
    let nodes = if p.nodes.is_empty() { Vec::new() } else { bit_list(&p.nodes)? };
    Ok((mode, nodes))
}

/// A list such as `0-3,7` as a bit mask, lowest number first.
pub(crate) fn bit_list(text: &str) -> Result<Vec<u64>, String> {
    const HIGHEST: usize = 8191;
    let mut mask = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let number = |s: &str| s.trim().parse::<usize>().ok().filter(|n| *n <= HIGHEST);
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(format!("{part:?} in {text:?} is not a number or a range such as 0-3"));
        };
        if first > last {
            return Err(format!("range {part:?} in {text:?} runs backwards"));
        }
        mask.resize(mask.len().max(last / 64 + 1), 0u64);
        (first..=last).for_each(|n| mask[n / 64] |= 1 << (n % 64));
    }
    if mask.is_empty() { Err(format!("the list {text:?} is empty")) } else { Ok(mask) }
}

/// The persona of `linux.personality`.
pub(crate) fn personality(p: &runtime::Personality) -> Result<u64, String> {
    if let Some(flag) = p.flags.first() {
        return Err(format!("unknown flag {flag:?}: none is defined"));
    }
    match p.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(format!("domain {other:?} must be LINUX or LINUX32")),
    }
}

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Security module label for the next execution: which file below `self/attr`, and what to write.
#[derive(Debug)]
struct Label {
    file: &'static str,
    value: String,
}

/// Everything the child needs to become the process.
#[derive(Debug)]
pub(crate) struct Plan {
    process: Process,
    capabilities: Sets,
    limits: Limits,
    scheduler: Option<SchedAttr>,
    io_priority: Option<u32>,
    memory_policy: Option<(i32, Vec<u64>)>,
    personality: Option<u64>,
    seccomp: Option<Program>,
    labels: Vec<Label>,
    keyring: Option<CString>,
    preserve_fds: u32,
    affinity: Option<Vec<u64>>,
    ignored_signals: u64,
}

/// A process that has only to execute its program.
#[derive(Debug)]
pub(crate) struct Settled {
    program: CString,
    env: Vec<Vec<u8>>,
    /// The filter's notifications, if it is loaded and has any.
    pub listener: Option<OwnedFd>,
    /// Capabilities that were left out, in words.
    pub warning: Option<String>,
}

impl Settled {
    /// The program's environment, `NAME=value`.
    pub(crate) fn env(&self) -> &[Vec<u8>] {
        &self.env
    }
}

/// What of the surroundings a [`Plan`] depends on.
#[derive(Debug, Default)]
pub(crate) struct Surroundings<'a> {
    pub memory_policy: Option<&'a MemoryPolicy>,
    pub personality: Option<&'a runtime::Personality>,
    /// Name of the session keyring to join.
    pub keyring: Option<String>,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: u32,
    pub seccomp: Option<Program>,
    /// What [`ignored_signals`] found.
    pub ignored_signals: u64,
}

/// The signals that this process ignores, bit n - 1 for signal n: a program would inherit that (`nohup`, background jobs
/// of shells; the Rust runtime itself ignores SIGPIPE). Handlers need no care, they end with the execution.
pub(crate) fn ignored_signals() -> u64 {
    let ignored = sys::ignored_signals();
    // Who ignores this one is not told how a child ended.
    sys::default_signals(ignored & sys::signal_bit(libc::SIGCHLD));
    ignored
}

impl Plan {
    /// Turns a process into numbers. Ignored things are named in `warnings`.
    pub(crate) fn new(process: &Process, around: Surroundings<'_>, warnings: &mut Vec<String>) -> Result<Plan, Error> {
        let invalid = |field: &'static str| move |message: String| Error::invalid(field, message);
        let affinity = process.exec_cpu_affinity.as_ref().and_then(|a| a.last.as_deref());
        Ok(Plan {
            // Without any the program has none. (runc leaves the runtime's, which nobody can mean.)
            capabilities: process.capabilities.as_ref().map(|c| Sets::parse(c, warnings)).unwrap_or_default(),
            limits: Limits::parse(&process.rlimits).map_err(invalid("process.rlimits"))?,
            scheduler: process.scheduler.as_ref().map(scheduler).transpose().map_err(invalid("process.scheduler"))?,
            io_priority: process
                .io_priority
                .as_ref()
                .map(io_priority)
                .transpose()
                .map_err(invalid("process.ioPriority"))?,
            memory_policy: around
                .memory_policy
                .map(memory_policy)
                .transpose()
                .map_err(invalid("linux.memoryPolicy"))?,
            personality: around.personality.map(personality).transpose().map_err(invalid("linux.personality"))?,
            labels: labels(process, around.keyring.is_some(), Modules::found)?,
            seccomp: around.seccomp,
            keyring: around.keyring.and_then(|name| CString::new(name).ok()),
            preserve_fds: around.preserve_fds,
            ignored_signals: around.ignored_signals,
            affinity: affinity.map(bit_list).transpose().map_err(invalid("process.execCPUAffinity.final"))?,
            process: process.clone(),
        })
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Step 1, while `/proc` of the host is at hand and this process still counts as its owner: opens what only a
    /// process itself may write.
    pub(crate) fn open_labels(&self, proc: &Proc) -> Result<Vec<OwnedFd>, Error> {
        let open = |label: &Label| {
            proc.open_file(&format!("self/attr/{}", label.file), OFlags::WRONLY)
                .context(|| format!("open /proc/self/attr/{}", label.file))
        };
        self.labels.iter().map(open).collect()
    }

    /// Step 2, inside the root, with all capabilities still there.
    pub(crate) fn with_privileges(&self, labels: Vec<OwnedFd>) -> Result<(), Error> {
        for (label, file) in self.labels.iter().zip(labels) {
            rustix::io::write(&file, label.value.as_bytes())
                .context(|| format!("set the label {:?} of the program", label.value))?;
        }
        if let Some(name) = &self.keyring {
            match sys::join_session_keyring(name) {
                // A kernel without keyrings has none to leak.
                Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {}
                other => other.context(|| format!("join the session keyring {name:?}"))?,
            }
        }
        if let Some(attr) = &self.scheduler {
            sys::sched_setattr(attr).context(|| format!("set process.scheduler {attr:?}"))?;
        }
        if let Some(priority) = self.io_priority {
            sys::ioprio_set(priority).context(|| "set process.ioPriority".into())?;
        }
        if let Some((mode, nodes)) = &self.memory_policy {
            sys::set_mempolicy(*mode, nodes).context(|| "set linux.memoryPolicy".into())?;
        }
        if let Some(affinity) = &self.affinity {
            sys::set_affinity(affinity).context(|| "set process.execCPUAffinity".into())?;
        }
        if let Some(persona) = self.personality {
            sys::personality(persona).context(|| "set linux.personality".into())?;
        }
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs".into())?;
        }
        Ok(())
    }

    /// Closes every descriptor but the standard streams, the preserved ones and those `kept`, which must be sockets. Until
    /// here nothing was looked up that the image could turn into a magic link; from here on it is, and `/proc/self/fd/7` as
    /// the program, or a link to it, would lead through whatever directory the runtime or its caller has open
    /// (CVE-2024-21626).
    pub(crate) fn close_descriptors(&self, kept: &[BorrowedFd<'_>]) -> Result<(), Error> {
        sys::close_from(3 + self.preserve_fds as i32, kept).context(|| "close descriptors".into())
    }

    /// Step 3: user, groups, working directory, signals. Afterwards nothing ties this process to the runtime any more.
    pub(crate) fn become_user(&self) -> Result<(), Error> {
        let user = &self.process.user;
        self.capabilities.drop_bounding().context(|| "lower the capability bounding set".into())?;
        // Otherwise a change to another user clears the permitted set before it is trimmed.
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).context(|| "keep capabilities".into())?;
        self.fix_streams()?;
        let groups: Vec<Gid> = user.additional_gids.iter().map(|g| Gid::from_raw(*g)).collect();
        match rustix::thread::set_thread_groups(&groups) {
            // The user namespace, made by an unprivileged user, denies it, so there is nothing to lose either.
            Err(rustix::io::Errno::PERM) if groups.is_empty() => {}
            other => other.context(|| format!("set the groups {:?}", user.additional_gids))?,
        }
        let (gid, uid) = (Gid::from_raw(user.gid), Uid::from_raw(user.uid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .context(|| format!("become group {} (is it mapped in the user namespace?)", user.gid))?;
        // The working directory may be one that only the user, or only root, may enter: try as both.
        let entered_as_root = enter(&self.process.cwd);
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .context(|| format!("become user {} (is it mapped in the user namespace?)", user.uid))?;
        if entered_as_root.is_err() {
            enter(&self.process.cwd).context(|| format!("enter the working directory {:?}", self.process.cwd))?;
        }
        inside_root()?;
        // A change of credentials makes the process readable for others again where fs.suid_dumpable says so.
        undumpable()?;
        // The specification would keep the caller's; runc has this one, and images count on it.
        rustix::process::umask(Mode::from_raw_mode(user.umask.unwrap_or(0o022)));
        sys::default_signals(self.ignored_signals);
        sys::unblock_signals();
        Ok(())
    }

    /// Step 4: capabilities, and the filter if it has to be loaded with them, because without `no_new_privs` that takes
    /// CAP_SYS_ADMIN. Everything that a filter for the program may refuse is done before.
    pub(crate) fn settle(&self) -> Result<Settled, Error> {
        let env = self.environment();
        let grant = self.capabilities.grantable().context(|| "read the capabilities".into())?;
        let set = || "set the capabilities".into();
        let (program, listener) = match &self.seccomp {
            Some(filter) if !self.process.no_new_privileges => {
                grant.try_on().context(set)?;
                let program = self.find_program(&env)?;
                grant.regain().context(set)?;
                let listener = filter.load().context(|| "load the seccomp filter".into())?;
                grant.apply().context(set)?;
                (program, listener)
            }
            _ => {
                grant.apply().context(set)?;
                (self.find_program(&env)?, None)
            }
        };
        Ok(Settled { program, env, listener, warning: grant.warning })
    }

    /// The standard streams of another user's process belong to that user, so that `/dev/stdout` can be opened again.
    fn fix_streams(&self) -> Result<(), Error> {
        let uid = self.process.user.uid;
        if uid == 0 {
            return Ok(());
        }
        for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let Ok(stat) = rustix::fs::fstat(stream) else { continue };
            if stat.st_uid == uid || stat.st_rdev == rustix::fs::makedev(1, 3) {
                continue;
            }
            match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None) {
                // Not ours to change: an id that is not mapped, a read-only file system, an anonymous inode.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM | rustix::io::Errno::ROFS) => {}
                Err(e) => return Err(Error::system("give the standard streams to the user", e)),
            }
        }
        Ok(())
    }

    /// The environment, with `HOME` from the container's `/etc/passwd` if it is not set.
    fn environment(&self) -> Vec<Vec<u8>> {
        let mut env: Vec<Vec<u8>> = unique(&self.process.env).into_iter().map(|e| e.as_bytes().to_vec()).collect();
        if !env.iter().any(|e| e.starts_with(b"HOME=") && e.len() > 5) {
            env.retain(|e| !e.starts_with(b"HOME="));
            let passwd = read_passwd().unwrap_or_default();
            env.push([b"HOME=", home(&passwd, self.process.user.uid)].concat());
        }
        env
    }

    /// Finds the program as the user will: by path, or in the container's `PATH`.
    fn find_program(&self, env: &[Vec<u8>]) -> Result<CString, Error> {
        let name = &self.process.args[0];
        let path = env.iter().rev().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
        let found = find_program(name, path)?;
        CString::new(found.as_os_str().as_bytes())
            .map_err(|_| Error::ProgramNotFound(format!("exec: {name:?}: NUL byte")))
    }

    /// Last step: loads the filter if that was not done, and executes. Returns only on failure. The listener, if any,
    /// is handed to `notify`.
    pub(crate) fn execute(&self, settled: &Settled, notify: impl FnOnce(OwnedFd) -> Result<(), Error>) -> Error {
        match self.try_execute(&settled.program, &settled.env, notify) {
            Ok(never) => match never {},
            Err(e) => e,
        }
    }

    fn try_execute(
        &self,
        program: &CString,
        env: &[Vec<u8>],
        notify: impl FnOnce(OwnedFd) -> Result<(), Error>,
    ) -> Result<std::convert::Infallible, Error> {
        let args = CStrings::new(&self.process.args).context(|| "prepare the arguments".into())?;
        let env = CStrings::new(env).context(|| "prepare the environment".into())?;
        for fd in 3..3 + self.preserve_fds as i32 {
            sys::keep_on_exec(fd).context(|| format!("preserve descriptor {fd}"))?;
        }
        if self.process.no_new_privileges
            && let Some(filter) = &self.seccomp
            && let Some(listener) = filter.load().context(|| "load the seccomp filter".into())?
        {
            notify(listener)?;
        }
        let e = sys::execve(program, &args, &env);
        let text = format!("exec {:?}: {}", program.to_string_lossy(), errno_text(&e));
        Err(match e.raw_os_error() {
            Some(libc::ENOENT) => Error::ProgramNotFound(format!("{text} (or its interpreter or loader)")),
            _ => Error::ProgramNotExecutable(text),
        })
    }
}

/// Keeps other processes from reading this one's memory and descriptors until the program is executed.
pub(crate) fn undumpable() -> Result<(), Error> {
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop).context(|| "become undumpable".into())
}

/// Enters a directory, making it if it is missing: below the root and nowhere else, though the path may name a descriptor
/// (`/proc/self/fd/7/made`) that leads outside.
fn enter(cwd: &str) -> io::Result<()> {
    match rustix::process::chdir(cwd) {
        Err(rustix::io::Errno::NOENT) => {
            let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            Ok(rustix::process::fchdir(Root::new(root).make_dir_all(Path::new(cwd), 0o755)?)?)
        }
        other => Ok(other?),
    }
}

/// The working directory must be below the root: a descriptor that was left open may lead outside (CVE-2024-21626).
fn inside_root() -> Result<(), Error> {
    let cwd = rustix::process::getcwd(Vec::new()).context(|| "find the working directory".into())?;
    if cwd.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Error::Setup("the working directory is outside the container's root".into()))
}

fn errno_text(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn find_program(name: &str, path: &[u8]) -> Result<PathBuf, Error> {
    use std::ffi::OsStr;
    if name.is_empty() {
        return Err(Error::ProgramNotFound("exec: \"\": executable file not found in $PATH".into()));
    }
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::ProgramNotFound(format!("exec: {name:?}: stat {name}: no such file or directory")))
            }
            Err(e) => Err(Error::ProgramNotExecutable(format!("exec: {name:?}: {}", errno_text(&e)))),
        };
    }
    let mut refused = None;
    for dir in path.split(|&b| b == b':') {
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        let candidate = dir.join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => refused = Some(e),
            Err(_) => {}
        }
    }
    match refused {
        Some(e) => Err(Error::ProgramNotExecutable(format!("exec: {name:?}: {}", errno_text(&e)))),
        None => Err(Error::ProgramNotFound(format!("exec: {name:?}: executable file not found in $PATH"))),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS)?;
    Ok(())
}

/// Variables without those that are set again later: programs take the first of one name, users mean the last.
fn unique(env: &[String]) -> Vec<&str> {
    let mut seen = std::collections::BTreeSet::new();
    let name = |entry: &&str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<&str> = env.iter().rev().map(String::as_str).filter(|entry| seen.insert(name(entry))).collect();
    env.reverse();
    env
}

/// `/etc/passwd` of the container, which may have made anything of it: a pipe without a writer, a link to a descriptor, a
/// device without an end.
fn read_passwd() -> io::Result<Vec<u8>> {
    const MAX: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(rustix::fs::CWD, "/etc/passwd", flags, Mode::empty(), resolve)?;
    let mut text = Vec::new();
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile {
        std::fs::File::from(file).take(MAX).read_to_end(&mut text)?;
    }
    Ok(text)
}

/// The home directory of a user id, `/` if it has none.
fn home(passwd: &[u8], uid: u32) -> &[u8] {
    fn field(line: &[u8], n: usize) -> &[u8] {
        line.split(|b| *b == b':').nth(n).unwrap_or_default()
    }
    let is_users = |line: &&[u8]| std::str::from_utf8(field(line, 2)).ok().and_then(|n| n.parse().ok()) == Some(uid);
    let line = passwd.split(|b| *b == b'\n').find(is_users);
    line.map(|line| field(line, 5)).filter(|home| !home.is_empty()).unwrap_or(b"/")
}

/// The security modules of this kernel.
struct Modules {
    apparmor: bool,
    /// Its files are in a directory of their own, as other modules use those above as well.
    apparmor_own: bool,
    selinux: bool,
}

impl Modules {
    fn found() -> Modules {
        Modules {
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y")),
            apparmor_own: Path::new("/proc/self/attr/apparmor/exec").exists(),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// Which labels to set; an error if one is asked for that this kernel does not know. `keyring`: one is to be made.
fn labels(process: &Process, keyring: bool, modules: impl FnOnce() -> Modules) -> Result<Vec<Label>, Error> {
    let mut labels = Vec::new();
    let profile = process.apparmor_profile.as_ref().filter(|p| !p.is_empty());
    let label = process.selinux_label.as_ref().filter(|l| !l.is_empty());
    if profile.is_none() && label.is_none() {
        return Ok(labels);
    }
    let modules = modules();
    if let Some(profile) = profile {
        if modules.apparmor {
            // `unconfined` too must be said: otherwise the profile that this process has would go on.
            let file = if modules.apparmor_own { "apparmor/exec" } else { "exec" };
            labels.push(Label { file, value: format!("exec {profile}") });
        } else if profile != "unconfined" {
            let message =
                format!("apparmor profile {profile:?} is asked for, but this kernel has apparmor not enabled");
            return Err(Error::Unsupported(message));
        }
    }
    if let Some(label) = label {
        if !modules.selinux {
            let message = format!("selinux label {label:?} is asked for, but this kernel has selinux not enabled");
            return Err(Error::Unsupported(message));
        }
        // The keyring is the program's, so it has the program's label. Executing resets this one.
        for file in [Some("exec"), keyring.then_some("keycreate")].into_iter().flatten() {
            labels.push(Label { file, value: label.clone() });
        }
    }
    Ok(labels)
}

/// Whether a descriptor is a character device of these numbers.
pub(crate) fn is_device(fd: impl AsFd, major: u32, minor: u32) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(major, minor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_masks() {
        assert_eq!(bit_list("0-2,65").unwrap(), [0b111, 0b10]);
        for bad in ["", "3-1", "a", "9999"] {
            assert!(bit_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_of_the_modules_that_there_are() {
        let process = |apparmor: &str, selinux: &str| Process {
            apparmor_profile: Some(apparmor.into()),
            selinux_label: Some(selinux.into()),
            ..Process::default()
        };
        let written = |process, keyring, modules| -> Result<Vec<(&str, String)>, String> {
            let labels = labels(&process, keyring, || modules).map_err(|e| e.to_string())?;
            Ok(labels.into_iter().map(|l| (l.file, l.value)).collect())
        };
        let none = || Modules { apparmor: false, apparmor_own: false, selinux: false };
        assert_eq!(written(process("unconfined", ""), true, none()), Ok(vec![]));
        assert!(written(process("profile", ""), true, none()).is_err_and(|e| e.contains("apparmor")));
        assert!(written(process("", "a:b:c"), true, none()).is_err_and(|e| e.contains("selinux")));
        let apparmor = || Modules { apparmor: true, apparmor_own: true, selinux: false };
        let expected = vec![("apparmor/exec", "exec unconfined".to_owned())];
        assert_eq!(written(process("unconfined", ""), true, apparmor()), Ok(expected));
        assert_eq!(written(process("", ""), true, apparmor()), Ok(vec![]));
        let selinux = || Modules { apparmor: false, apparmor_own: false, selinux: true };
        let label = || "a:b:c".to_owned();
        let both = vec![("exec", label()), ("keycreate", label())];
        assert_eq!(written(process("", "a:b:c"), true, selinux()), Ok(both));
        assert_eq!(written(process("", "a:b:c"), false, selinux()), Ok(vec![("exec", label())]));
    }

    #[test]
    fn limits_are_checked() {
        let limit = |kind: &str, soft, hard| runtime::Rlimit { kind: kind.into(), soft, hard };
        assert!(Limits::parse(&[limit("RLIMIT_NOFILE", 5, 4)]).unwrap_err().contains("above hard"));
        assert!(Limits::parse(&[limit("RLIMIT_X", 1, 1)]).unwrap_err().contains("unknown"));
        let twice = [limit("RLIMIT_CPU", 1, 1), limit("RLIMIT_CPU", 1, 1)];
        assert!(Limits::parse(&twice).unwrap_err().contains("twice"));
        let all = Limits::parse(&[limit("RLIMIT_CORE", 0, u64::MAX)]).unwrap();
        assert_eq!(all.0[0].1.maximum, None);
    }

    #[test]
    fn homes_are_found_by_user_id() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad\nu:x:7:7:\xff:/home/\xfe:/bin/sh\nv:x:8:8:::\n";
        let homes = [0, 7, 8, 9].map(|uid| home(passwd, uid));
        assert_eq!(homes, [b"/root".as_slice(), b"/home/\xfe", b"/", b"/"]);
    }

    #[test]
    fn the_last_variable_of_a_name_holds() {
        let env = ["PATH=/a", "X=1", "PATH=/b", "odd", "X"].map(str::to_owned);
        assert_eq!(unique(&env), ["PATH=/b", "odd", "X"]);
    }

    #[test]
    fn programs_are_found_or_the_reason_is_said() {
        assert_eq!(find_program("sh", b"/nowhere:/bin").unwrap(), Path::new("/bin/sh"));
        let error = find_program("foo", b"/bin").unwrap_err();
        assert_eq!(error.to_string(), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(error.exit_code(), 127);
        assert_eq!(find_program("/etc", b"").unwrap_err().exit_code(), 126);
        assert_eq!(find_program("/missing", b"").unwrap_err().exit_code(), 127);
    }

    #[test]
    fn schedulers_and_policies_are_numbers() {
        let fifo = Scheduler { policy: "SCHED_FIFO".into(), priority: 5, ..Scheduler::default() };
        assert_eq!(scheduler(&fifo).unwrap().priority, 5);
        let other = Scheduler { policy: "SCHED_OTHER".into(), priority: 5, ..Scheduler::default() };
        assert!(scheduler(&other).is_err());
        let io = IoPriority { class: "IOPRIO_CLASS_BE".into(), priority: 4 };
        assert_eq!(io_priority(&io).unwrap(), 2 << 13 | 4);
        let policy =
            MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "0".into(), flags: vec!["MPOL_F_STATIC_NODES".into()] };
        assert_eq!(memory_policy(&policy).unwrap(), (2 | 1 << 15, vec![1]));
    }
}
