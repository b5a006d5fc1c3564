//! `exec`: another process in a living container. It joins the cgroup, then all namespaces of the first process in one
//! step through its pidfd (`setns(2)`), and then goes through the same steps as a first process.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use strata_cgroup::{Cgroup, ControllerDir, JoinHandles};
use strata_spec::runtime::{NamespaceKind, Process, Spec};
use strata_spec::state::Status;

use crate::config;
use crate::console::{self, Destination};
use crate::create;
use crate::error::{Context, Error};
use crate::paths::Root;
use crate::procfs::Proc;
use crate::record::{self, Record};
use crate::runtime::{ExecOptions, ExecOutcome, Note};
use crate::sync::{self, Tag};
use crate::{inject, namespaces, process, sys};

/// What the child is to do.
struct Join {
    process: process::Plan,
    proc: Proc,
    init: OwnedFd,
    flags: i32,
    cgroup: Option<JoinHandles>,
    initial_affinity: Option<Vec<u64>>,
    console: Option<Destination>,
    /// A container without a mount namespace is entered by `chroot(2)`.
    chroot: Option<PathBuf>,
}

/// Starts a process in the container of this record.
pub(crate) fn exec(
    record: &Record,
    dir: &Path,
    status: Status,
    options: &ExecOptions,
    notes: &dyn Fn(Note),
) -> Result<ExecOutcome, Error> {
    let allowed =
        matches!(status, Status::Running | Status::Created) || (status == Status::Paused && options.ignore_paused);
    if !allowed {
        let wanted = "running (or, with ignore_paused, paused)";
        return Err(Error::WrongStatus { verb: "exec in", id: record.id.clone(), status, wanted });
    }
    create::check_preserved(options.preserve_fds)?;
    let spec = record::read_config(dir)?;
    let process = inherit(&options.process, &spec);
    config::validate_process(&process, "process")?;
    if options.console_socket.is_some() && !process.terminal {
        return Err(Error::Options("a console socket is given, but process.terminal is not set".into()));
    }
    if process.terminal && options.detach && options.console_socket.is_none() {
        return Err(Error::Options("a detached process with a terminal needs a console socket".into()));
    }
    let mut warnings = Vec::new();
    let join = prepare(record, &spec, process, options, &mut warnings)?;
    warnings.into_iter().for_each(|text| notes(Note::Warning(text)));
    if let Some(mask) = &join.initial_affinity {
        notes(Note::Debug(format!("affinity: 0x{}", hexadecimal(mask))));
    }

    let signals = (!options.detach).then(|| sys::SignalFd::all_but(&[])).transpose();
    let signals = signals.context(|| "take over signals".into())?;
    let started = start(record, &spec, join, options, notes)?;
    let Some(signals) = signals else {
        return Ok(ExecOutcome::Detached { pid: started.pid });
    };
    console::accompany(started.pidfd.as_fd(), &signals, started.master).map(ExecOutcome::Exited)
}

/// What the caller leaves open is as the container's own process has it.
fn inherit(process: &Process, spec: &Spec) -> Process {
    let mut process = process.clone();
    let Some(own) = &spec.process else { return process };
    if process.env.is_empty() {
        process.env.clone_from(&own.env);
    }
    if process.cwd.is_empty() {
        process.cwd.clone_from(&own.cwd);
    }
    if process.capabilities.is_none() {
        process.capabilities.clone_from(&own.capabilities);
    }
    process.apparmor_profile = process.apparmor_profile.or_else(|| own.apparmor_profile.clone());
    process.selinux_label = process.selinux_label.or_else(|| own.selinux_label.clone());
    process.oom_score_adj = process.oom_score_adj.or(own.oom_score_adj);
    process.scheduler = process.scheduler.or_else(|| own.scheduler.clone());
    process.io_priority = process.io_priority.or_else(|| own.io_priority.clone());
    process.exec_cpu_affinity = process.exec_cpu_affinity.or_else(|| own.exec_cpu_affinity.clone());
    if process.rlimits.is_empty() {
        process.rlimits.clone_from(&own.rlimits);
    }
    process.no_new_privileges |= own.no_new_privileges;
    process
}

fn prepare(
    record: &Record,
    spec: &Spec,
    process: Process,
    options: &ExecOptions,
    warnings: &mut Vec<String>,
) -> Result<Join, Error> {
    let proc = Proc::open()?;
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = namespaces::of_process(spec, record.pid)?;
    let seccomp = linux.seccomp.as_ref().map(strata_seccomp::compile).transpose();
    let initial = process.exec_cpu_affinity.as_ref().and_then(|a| a.initial.as_deref()).map(process::bit_list);
    let initial_affinity = initial.transpose().map_err(|m| Error::invalid("process.execCPUAffinity.initial", m))?;
    let console = match (process.terminal, &options.console_socket) {
        (true, Some(path)) => Some(Destination::connect(path)?),
        (true, None) => Some(Destination::Runtime),
        (false, _) => None,
    };
    let around = process::Surroundings {
        memory_policy: linux.memory_policy.as_ref(),
        personality: linux.personality.as_ref(),
        keyring: Some(format!("_ses.{}", record.id)),
        preserve_fds: options.preserve_fds,
        seccomp: seccomp.map_err(|e| Error::Seccomp(e.to_string()))?,
        ignored_signals: process::ignored_signals(),
    };
    let process = process::Plan::new(&process, around, warnings)?;
    let init = create_pidfd(record)?;
    let cgroup = match &record.cgroup {
        None if options.cgroup.is_empty() => None,
        None => return Err(Error::Unsupported(format!("container {:?} has no cgroup to join one below", record.id))),
        Some(cgroup) => Some(join_handles(cgroup, &options.cgroup)?),
    };
    Ok(Join {
        process,
        proc,
        init,
        flags: namespaces::flags(&namespaces),
        cgroup,
        initial_affinity,
        console,
        chroot: (!namespaces.new_one(NamespaceKind::Mount)).then(|| record.rootfs.clone()),
    })
}

/// A bit mask, lowest first, as one number.
fn hexadecimal(mask: &[u64]) -> String {
    let digits = mask.iter().rev().map(|word| format!("{word:016x}")).collect::<String>();
    digits.trim_start_matches('0').to_owned()
}

/// A pidfd of the first process that is certainly the first process.
fn create_pidfd(record: &Record) -> Result<OwnedFd, Error> {
    let pidfd = create::open_pidfd(record.pid)?;
    if record.alive() {
        return Ok(pidfd);
    }
    let (verb, wanted) = ("exec in", "running");
    Err(Error::WrongStatus { verb, id: record.id.clone(), status: Status::Stopped, wanted })
}

/// The container's cgroup, or in some hierarchies one below it. In that of version 2 the process is born.
fn join_handles(cgroup: &Cgroup, below: &[String]) -> Result<JoinHandles, Error> {
    if below.is_empty() {
        let v1_tasks = cgroup.v1_tasks();
        let handles =
            v1_tasks.and_then(|v1_tasks| Ok(JoinHandles { v1_tasks, v2_dir: cgroup.v2_directory()?, v2_procs: None }));
        return handles.map_err(|e| Error::Cgroup(e.to_string()));
    }
    let below = below.iter().map(|text| Below::parse(text, cgroup)).collect::<Result<Vec<_>, _>>()?;
    let open = |path: PathBuf, flags: OFlags| {
        rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).on_path("open the cgroup", &path)
    };
    let directory = |place: &ControllerDir| {
        let below = below.iter().rev().find(|b| b.concerns(place));
        (place.dir().join(below.map_or("", |b| b.path)), below.is_some_and(|b| b.controllers.is_empty()))
    };
    let tasks = |place: &ControllerDir| open(directory(place).0.join("tasks"), OFlags::WRONLY);
    let v1_tasks = cgroup.v1().iter().map(tasks).collect::<Result<Vec<_>, _>>()?;
    let v2_dir = cgroup.v2().map(|place| {
        let (path, for_all) = directory(place);
        // Beside version 1 it has nearly no controllers, and who makes cgroups for those does not think of it.
        let path = if for_all && !v1_tasks.is_empty() && !path.is_dir() { place.dir() } else { path };
        open(path, OFlags::PATH | OFlags::DIRECTORY)
    });
    Ok(JoinHandles { v2_dir: v2_dir.transpose()?, v2_procs: None, v1_tasks })
}

/// One of [`ExecOptions::cgroup`].
#[derive(Debug)]
struct Below<'a> {
    /// Empty: all hierarchies.
    controllers: Vec<&'a str>,
    /// Relative.
    path: &'a str,
}

impl<'a> Below<'a> {
    fn parse(text: &'a str, cgroup: &Cgroup) -> Result<Below<'a>, Error> {
        let invalid = |why: String| Err(Error::Options(format!("cgroup {text:?}: {why}")));
        let (controllers, path) = text.split_once(':').unwrap_or(("", text));
        let controllers: Vec<&str> = if text.contains(':') { controllers.split(',').collect() } else { Vec::new() };
        for name in &controllers {
            let known = |place: &ControllerDir| place.controllers.iter().any(|c| c == name);
            if !cgroup.v1().iter().chain(cgroup.v2()).any(known) {
                return invalid(format!("the container has no cgroup of controller {name:?}"));
            }
        }
        if Path::new(path).components().any(|c| c == std::path::Component::ParentDir) {
            return invalid("it must be below the container's own, without \"..\"".into());
        }
        Ok(Below { controllers, path: path.trim_start_matches('/') })
    }

    fn concerns(&self, place: &ControllerDir) -> bool {
        self.controllers.is_empty() || self.controllers.iter().any(|name| place.controllers.iter().any(|c| c == name))
    }
}

struct Started {
    pid: i32,
    pidfd: OwnedFd,
    master: Option<OwnedFd>,
}

/// Kills the process again unless it got as far as its program.
struct Kill(Option<OwnedFd>);

impl Drop for Kill {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = console::exit_code(pidfd.as_fd());
        }
    }
}

fn start(
    record: &Record,
    spec: &Spec,
    mut join: Join,
    options: &ExecOptions,
    notes: &dyn Fn(Note),
) -> Result<Started, Error> {
    let into = join.cgroup.as_mut().and_then(|j| j.v2_dir.take());
    let (ours, theirs) = sync::pair().context(|| "make a socket pair".into())?;
    let cloned = sys::clone3(0, into.as_ref().map(|fd| fd.as_fd())).context(|| "fork".into())?;
    let (mut pid, pidfd) = match cloned {
        sys::Cloned::Child => {
            drop(ours);
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&join, &theirs)));
            sync::send_last_words(&theirs, ended);
            sys::exit_now(1)
        }
        sys::Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((theirs, into));
    let mut kill = Kill(Some(pidfd));
    inject::at("exec-parent-cloned");
    let (mut master, mut ready) = (None, false);
    let score = join.process.process().oom_score_adj;
    let adopt = |pid: i32| match score {
        None => Ok(()),
        Some(score) => match join.proc.write(&format!("{pid}/oom_score_adj"), score.to_string().as_bytes()) {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !namespaces::privileged() => Ok(()),
            other => other.context(|| format!("set process.oomScoreAdj to {score}")),
        },
    };
    let forks = join.flags & libc::CLONE_NEWPID != 0;
    if !forks {
        adopt(pid)?;
    }
    loop {
        let Some(mut packet) = sync::receive(&ours).context(|| "listen to the process".into())? else {
            let pidfd = kill.0.take().ok_or_else(|| Error::InitDied("it has no pidfd".into()))?;
            if !ready {
                let linux = spec.linux.clone().unwrap_or_default();
                return Err(Error::ProcessDied(create::fate(pidfd.as_fd(), &linux)));
            }
            // The program was executed. (Or the process was killed at the last moment; then that is its exit code.)
            return Ok(Started { pid, pidfd, master });
        };
        match packet.tag {
            Tag::Pid => {
                pid = i32::from_ne_bytes(packet.payload.try_into().unwrap_or_default());
                let intermediate = kill.0.replace(create::open_pidfd(pid)?);
                if let Some(intermediate) = intermediate {
                    console::exit_code(intermediate.as_fd())?;
                }
                adopt(pid)?;
            }
            Tag::Console => master = packet.fd(),
            Tag::SeccompFd => {
                if let (Some(fd), Some(seccomp)) = (&packet.fd(), spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()))
                {
                    let state = create::state_of(record, Status::Running, Some(record.pid));
                    create::send_listener(seccomp, fd, pid, state)?;
                }
            }
            Tag::Ready => {
                if join.flags & libc::CLONE_NEWUSER != 0 {
                    join.process.limits().apply_to(pid)?;
                }
                if let Some(path) = &options.pid_file {
                    record::write_pid_file(path, pid)?;
                }
                if let (Some(path), Some(pidfd)) = (&options.pidfd_socket, &kill.0) {
                    create::send_pidfd(path, pidfd)?;
                }
                create::answer(&ours, Tag::Go)?;
                ready = true;
            }
            Tag::Warning => notes(Note::Warning(String::from_utf8_lossy(&packet.payload).into_owned())),
            Tag::Error => return Err(sync::decode_error(&packet.payload)),
            _ => {}
        }
    }
}

fn die_with_runtime() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context(|| "tie to the runtime".into())
}

fn live(join: &Join, sync: &OwnedFd) -> Result<Infallible, Error> {
    die_with_runtime()?;
    process::undumpable()?;
    // The preserved ones too, until the program is executed.
    sys::close_on_exec_from(3).context(|| "mark descriptors close-on-exec".into())?;
    if let Some(mask) = &join.initial_affinity {
        sys::set_affinity(mask).context(|| "set process.execCPUAffinity.initial".into())?;
    }
    if let Some(cgroup) = &join.cgroup {
        cgroup.join_current().context(|| "join the cgroup".into())?;
    }
    sys::setns(join.init.as_fd(), join.flags).context(|| "join the container's namespaces".into())?;
    if join.flags & libc::CLONE_NEWUSER != 0 {
        namespaces::become_root();
        process::undumpable()?;
    }
    inject::at("exec-child-joined");
    // A process-id namespace is joined by children only.
    if join.flags & libc::CLONE_NEWPID != 0
        && let sys::Cloned::Parent { pid, .. } =
            sys::clone3(libc::CLONE_PARENT as u64, None).context(|| "fork into the container".into())?
    {
        let _ = sync::send(sync, Tag::Pid, &pid.to_ne_bytes());
        sys::exit_now(0);
    }
    die_with_runtime()?;
    let labels = join.process.open_labels(&join.proc)?;
    let _ = rustix::process::setsid();
    if let Some(root) = &join.chroot {
        rustix::process::chroot(root).on_path("enter", root)?;
    }
    rustix::process::chdir("/").context(|| "enter the container's root".into())?;
    if let Some(destination) = &join.console {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = Root::new(root.context(|| "open the container's root".into())?);
        let size = join.process.process().console_size;
        console::adopt(&console::open(&root, &join.proc, size, destination, sync.as_fd())?)?;
    }
    if join.flags & libc::CLONE_NEWUSER == 0 {
        join.process.limits().apply_to(0)?;
    }
    join.process.with_privileges(labels)?;
    // Nothing of `join` that is a descriptor is used, or dropped, after this.
    join.process.close_descriptors(&[sync.as_fd()])?;
    join.process.become_user()?;
    die_with_runtime()?;
    let mut settled = join.process.settle()?;
    let hand_over = |listener: OwnedFd| {
        sync::send_with(sync, Tag::SeccompFd, b"", &[listener.as_fd()]).context(|| "hand over the listener".into())
    };
    settled.listener.take().map_or(Ok(()), hand_over)?;
    if let Some(warning) = &settled.warning {
        let _ = sync::send(sync, Tag::Warning, warning.as_bytes());
    }
    inject::at("exec-child-ready");
    sync::send(sync, Tag::Ready, b"").context(|| "report to the runtime".into())?;
    sync::expect(sync, Tag::Go)?;
    rustix::process::set_parent_process_death_signal(None).context(|| "untie from the runtime".into())?;
    Err(join.process.execute(&settled, hand_over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_numbers() {
        assert_eq!(hexadecimal(&process::bit_list("0-1,4").unwrap()), "13");
        assert_eq!(hexadecimal(&process::bit_list("1,64").unwrap()), "10000000000000002");
    }

    #[test]
    fn cgroups_below_are_of_known_controllers_and_really_below() {
        let place = |controllers: &str| serde_json::json!({"controllers": controllers.split(',').collect::<Vec<_>>(), "mount_point": "/c", "path": "/p"});
        let cgroup = serde_json::json!({"v1": [place("cpu,cpuacct"), place("pids")], "v2": place("hugetlb")});
        let cgroup: Cgroup = serde_json::from_value(cgroup).unwrap();
        let below = Below::parse("cpuacct:/sub/x", &cgroup).unwrap();
        assert_eq!(
            (below.path, below.concerns(&cgroup.v1()[0]), below.concerns(&cgroup.v1()[1])),
            ("sub/x", true, false)
        );
        assert!(Below::parse("a", &cgroup).unwrap().concerns(cgroup.v2().unwrap()));
        for bad in ["..", "a/../..", "pids:../x", "what:/", ":/", "pids,what:x"] {
            assert!(matches!(Below::parse(bad, &cgroup), Err(Error::Options(_))), "{bad}");
        }
    }
}
