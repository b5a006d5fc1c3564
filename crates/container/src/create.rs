//! The runtime's side of making a container: everything is judged and prepared, then put on record, then made; the
//! child is forked and attended to until its program waits for `start` or runs. Whatever fails, what was made is undone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode as FileMode, OFlags};
use serde::Serialize;
use strata_cgroup::{Cgroup, Layout, Making};
use strata_spec::runtime::{DeviceRule, Linux, Mount, NamespaceKind, Resources, Spec};
use strata_spec::state::{State, Status};

use crate::config::{self, Namespaces};
use crate::console::Destination;
use crate::error::{Context, Error};
use crate::init::{self, Init};
use crate::mount_options::{self, IdMap};
use crate::procfs::{self, Proc};
use crate::record::{self, Locked, Phase, Record};
use crate::rootfs::Entrance;
use crate::runtime::CreateOptions;
use crate::sync::{self, Tag};
use crate::{console, hooks, inject, mounts, namespaces, netdev, paths, process, rdt, sys};

/// What the caller wants of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It waits for `start`, and the terminal goes to the console socket.
    Create,
    /// It runs at once. `ephemeral`: the caller stays and deletes it. `terminal`: the caller relays the terminal.
    Run { ephemeral: bool, terminal: bool },
}

/// A container whose program waits or runs.
pub(crate) struct Made {
    pub record: Record,
    pub dir: Locked,
    pub spec: Spec,
    pub pidfd: OwnedFd,
    /// The terminal to relay.
    pub master: Option<OwnedFd>,
}

/// Makes a container.
pub(crate) fn make(root: &Path, id: &str, bundle: &Path, options: &CreateOptions, mode: Mode) -> Result<Made, Error> {
    config::validate_id(id)?;
    let listen_fds = listen_fds();
    let preserve_fds = options.preserve_fds + listen_fds;
    check_preserved(preserve_fds)?;
    let bundle = paths::real(bundle).on_path("find the bundle", bundle)?;
    let (mut spec, text) = match &options.spec {
        Some(spec) => {
            let text = serde_json::to_vec(spec).map_err(|e| Error::invalid("config.json", e.to_string()))?;
            (spec.clone(), text)
        }
        None => config::read_spec(&bundle)?,
    };
    config::validate(&spec)?;
    let terminal = spec.process.as_ref().is_some_and(|p| p.terminal);
    check_console(terminal, options, mode)?;
    let linux = spec.linux.take().unwrap_or_default();
    spec.linux = Some(linux.clone());
    let path = spec.root.as_ref().map(|r| bundle.join(&r.path)).unwrap_or_default();
    let rootfs = paths::real(&path).on_path("find the root file system", &path)?;
    let namespaces = namespaces::Plan::new(&spec, &linux)?;

    let mut record = Record {
        version: record::RECORD_VERSION,
        id: id.to_owned(),
        oci_version: spec.oci_version.clone(),
        bundle,
        rootfs,
        created: SystemTime::now(),
        owner: rustix::process::getuid().as_raw(),
        phase: Phase::Creating,
        pid: 0,
        start_time: 0,
        cgroup: None,
        annotations: spec.annotations.clone(),
        origin: options.origin.clone(),
        warnings: Vec::new(),
        ephemeral: matches!(mode, Mode::Run { ephemeral: true, .. }),
        rdt_group: None,
    };
    let init = prepare(&spec, &linux, namespaces, options, mode, listen_fds, &mut record)?;
    let rdt = linux.intel_rdt.as_ref().map(|r| rdt::plan(r, id)).transpose()?;
    record.rdt_group = rdt.as_ref().and_then(rdt::Plan::own_group);
    plan_cgroup(&linux, id, options, &mut record)?;

    let dir = Locked::create(root, &record, &text)?;
    inject::at("parent-record");
    let mut undo = Undo { made: Some((dir, record)), pidfd: None, spec: &spec };
    let master = undo.attempt(|dir, record, pidfd| {
        if let Some(rdt) = &rdt {
            rdt.make()?;
        }
        let mut attendant = Attendant { spec: &spec, linux: &linux, dir, record, options, mode, pidfd };
        attendant.run(init, rdt.as_ref())
    })?;
    let disarmed = undo.disarm();
    drop(undo);
    let Some(((dir, record), pidfd)) = disarmed else {
        return Err(Error::InitDied("it never came to be".into()));
    };
    Ok(Made { record, dir, spec, pidfd, master })
}

/// How many sockets the service manager passed (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let pid = std::env::var("LISTEN_PID").ok().and_then(|p| p.parse::<u32>().ok());
    if pid.is_some_and(|pid| pid != std::process::id()) {
        return 0;
    }
    std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// What the program is to inherit must be there before the runtime opens anything: a number that is free now would
/// later be one of the runtime's own.
pub(crate) fn check_preserved(count: u32) -> Result<(), Error> {
    match (3..3 + count as i32).find(|fd| !sys::is_inheritable(*fd)) {
        Some(fd) => Err(Error::Options(format!("descriptor {fd} is to be preserved, but it is not open"))),
        None => Ok(()),
    }
}

fn check_console(terminal: bool, options: &CreateOptions, mode: Mode) -> Result<(), Error> {
    let relayed = matches!(mode, Mode::Run { terminal: true, .. });
    match (terminal, &options.console_socket) {
        (true, None) if !relayed => Err(Error::Options(
            "process.terminal is set, so a console socket is needed unless it runs in the foreground".into(),
        )),
        (false, Some(_)) => Err(Error::Options("a console socket is given, but process.terminal is not set".into())),
        _ => Ok(()),
    }
}

/// Everything the child needs, made of the configuration.
fn prepare(
    spec: &Spec,
    linux: &Linux,
    plan: namespaces::Plan,
    options: &CreateOptions,
    mode: Mode,
    listen_fds: u32,
    record: &mut Record,
) -> Result<Init, Error> {
    let namespaces = &plan.own.clone();
    let proc = Proc::open()?;
    let seccomp = linux.seccomp.as_ref().map(strata_seccomp::compile).transpose();
    let around = process::Surroundings {
        memory_policy: linux.memory_policy.as_ref(),
        personality: linux.personality.as_ref(),
        keyring: (!options.no_new_keyring).then(|| format!("_ses.{}", record.id)),
        preserve_fds: options.preserve_fds + listen_fds,
        seccomp: seccomp.map_err(|e| Error::Seccomp(e.to_string()))?,
        ignored_signals: process::ignored_signals(),
    };
    let process = spec.process.as_ref().map(|p| {
        let mut p = p.clone();
        if listen_fds > 0 {
            p.env.push(format!("LISTEN_FDS={listen_fds}"));
            p.env.push("LISTEN_PID=1".into());
            p.env.extend(std::env::var("LISTEN_FDNAMES").ok().map(|names| format!("LISTEN_FDNAMES={names}")));
        }
        process::Plan::new(&p, around, &mut record.warnings)
    });
    let process = process.transpose()?;
    if process.is_none() && matches!(mode, Mode::Run { .. }) {
        return Err(Error::invalid("process", "there is none, so there is nothing to run"));
    }
    let own_mounts = namespaces.has(NamespaceKind::Mount);
    let entrance = match (namespaces.new_one(NamespaceKind::Mount), options.no_pivot) {
        (false, _) => Entrance::Chroot,
        (true, true) => Entrance::Move,
        (true, false) => Entrance::Pivot,
    };
    // In a user namespace the child may not see, or not be allowed to map, what the runtime may.
    let open_here = own_mounts && namespaces.has(NamespaceKind::User) && namespaces::privileged();
    let root_tree = open_here.then(|| mounts::clone_tree(&record.rootfs, true)).transpose();
    let root_tree = root_tree.on_path("bind the root file system", &record.rootfs)?;
    let mut trees = Vec::new();
    for (i, mount) in spec.mounts.iter().enumerate() {
        trees.push(source_tree(&proc, mount, i, linux, namespaces, &record.bundle, open_here)?);
    }
    let console = match (&process, &options.console_socket) {
        (Some(p), Some(path)) if p.process().terminal => Some(Destination::connect(path)?),
        (Some(p), None) if p.process().terminal => Some(Destination::Runtime),
        _ => None,
    };
    let devices = netdev::plan(&linux.net_devices)?;
    Ok(Init {
        spec: spec.clone(),
        linux: linux.clone(),
        namespaces: plan,
        own_mounts,
        user_namespace: namespaces.has(NamespaceKind::User),
        cgroup_namespace: namespaces.has(NamespaceKind::Cgroup),
        process,
        proc,
        rootfs: record.rootfs.clone(),
        bundle: record.bundle.clone(),
        root_tree,
        trees,
        entrance,
        console,
        attended: !hooks::of(spec, "prestart").is_empty()
            || !hooks::of(spec, "createRuntime").is_empty()
            || !devices.is_empty(),
        devices,
        state: state_of(record, Status::Creating, None),
        cgroup: None,
        awaits_cgroup: false,
        listen: None,
    })
}

/// Opens the source of a bind mount here, where that is needed: see `prepare`, and only here may ids be mapped.
fn source_tree(
    proc: &Proc,
    mount: &Mount,
    index: usize,
    linux: &Linux,
    namespaces: &Namespaces,
    bundle: &Path,
    open_here: bool,
) -> Result<Option<OwnedFd>, Error> {
    let options = mount_options::parse(mount).map_err(|m| Error::invalid(format!("mounts[{index}].options"), m))?;
    if !options.bind || options.remount || (options.id_map == IdMap::No && !open_here) {
        return Ok(None);
    }
    let source = bundle.join(mount.source.as_deref().unwrap_or(Path::new("")));
    let tree = mounts::clone_tree(&source, options.recursive_bind).on_path("bind", &source)?;
    if options.id_map != IdMap::No {
        let joined = namespaces.joined().find(|(kind, _)| *kind == NamespaceKind::User).map(|(_, path)| path);
        let namespace = if !mount.uid_mappings.is_empty() {
            let mapped = Linux {
                uid_mappings: mount.uid_mappings.clone(),
                gid_mappings: mount.gid_mappings.clone(),
                ..Linux::default()
            };
            namespaces::user_namespace(proc, &mapped)?
        } else if let Some(path) = joined {
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty()).on_path("open", path)?
        } else if namespaces.new_one(NamespaceKind::User) {
            namespaces::user_namespace(proc, linux)?
        } else {
            let message = "idmap without uidMappings and gidMappings needs a user namespace";
            return Err(Error::invalid(format!("mounts[{index}].options"), message));
        };
        mounts::set_id_map(tree.as_fd(), options.id_map == IdMap::Recursive, namespace.as_fd())
            .on_path("map the ids (does its file system support idmapped mounts?) of", &source)?;
    }
    Ok(Some(tree))
}

fn cgroup_error(e: strata_cgroup::Error) -> Error {
    Error::Cgroup(e.to_string())
}

/// Decides where the cgroup will be, for the record.
fn plan_cgroup(linux: &Linux, id: &str, options: &CreateOptions, record: &mut Record) -> Result<(), Error> {
    let plan = Layout::detect().and_then(|layout| {
        let path = linux.cgroups_path.as_deref();
        if options.systemd_cgroup { Cgroup::plan_systemd(&layout, path, id) } else { Cgroup::plan(&layout, path, id) }
    });
    match plan {
        Ok(cgroup) => record.cgroup = Some(cgroup),
        Err(e) if tolerated(linux, &e) => record.warnings.push(format!("no cgroup: {e}")),
        Err(e) => return Err(cgroup_error(e)),
    }
    Ok(())
}

/// The limits that the cgroup gets. Whatever the configuration says, what every container has is usable.
fn cgroup_resources(linux: &Linux) -> Resources {
    let mut resources = linux.resources.clone().unwrap_or_default();
    if resources.devices.is_empty() {
        resources.devices.push(DeviceRule { allow: false, ..DeviceRule::default() });
    }
    resources.devices.extend(strata_cgroup::DEFAULT_DEVICE_RULES.iter().cloned());
    resources
}

/// An unprivileged user often cannot make cgroups. That is no failure unless limits were asked for, as with runc.
fn tolerated(linux: &Linux, _e: &strata_cgroup::Error) -> bool {
    let unlimited = linux.resources.as_ref().is_none_or(|r| {
        let devices_only = Resources { devices: Vec::new(), ..r.clone() };
        devices_only == Resources::default()
    });
    !namespaces::privileged() && unlimited && linux.cgroups_path.is_none()
}

/// The specification's state of a record.
pub(crate) fn state_of(record: &Record, status: Status, pid: Option<i32>) -> State {
    State {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        status,
        pid,
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

/// Removes everything again unless disarmed.
struct Undo<'a> {
    made: Option<(Locked, Record)>,
    pidfd: Option<OwnedFd>,
    spec: &'a Spec,
}

impl Undo<'_> {
    fn attempt<T>(
        &mut self,
        action: impl FnOnce(&Locked, &mut Record, &mut Option<OwnedFd>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &mut self.made {
            Some((dir, record)) => action(dir, record, &mut self.pidfd),
            None => Err(Error::InitDied("it never came to be".into())),
        }
    }

    fn disarm(&mut self) -> Option<((Locked, Record), OwnedFd)> {
        self.made.take().zip(self.pidfd.take())
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = console::exit_code(pidfd.as_fd());
        }
        let Some((dir, record)) = self.made.take() else { return };
        if let Some(cgroup) = &record.cgroup {
            if self.pidfd.is_some() {
                let _ = cgroup.kill_all(libc::SIGKILL);
            }
            let _ = cgroup.remove();
        }
        rdt::remove(record.rdt_group.as_deref());
        let _ = dir.remove();
        // Whatever failed once there was a process: the specification goes on with what follows the end.
        if self.pidfd.is_some() {
            let state = state_of(&record, Status::Stopped, None);
            hooks::run_all("poststop", hooks::of(self.spec, "poststop"), &state);
        }
    }
}

/// Forks the child and does for it what only the runtime can.
struct Attendant<'a> {
    spec: &'a Spec,
    linux: &'a Linux,
    dir: &'a Locked,
    record: &'a mut Record,
    options: &'a CreateOptions,
    mode: Mode,
    pidfd: &'a mut Option<OwnedFd>,
}

impl Attendant<'_> {
    /// Returns the terminal to relay, once the program waits (`create`) or runs (`run`).
    fn run(&mut self, mut init: Init, rdt: Option<&rdt::Plan>) -> Result<Option<OwnedFd>, Error> {
        let creating = self.mode == Mode::Create;
        if creating {
            init.listen = Some(self.dir.listen()?);
        }
        let planned = self.record.cgroup.clone();
        let resources = cgroup_resources(self.linux);
        let making = match &planned {
            Some(cgroup) if !self.options.systemd_cgroup => self.begin_cgroup(cgroup, &resources)?,
            _ => None,
        };
        init.cgroup = self.record.cgroup.clone();
        init.awaits_cgroup =
            self.options.systemd_cgroup || self.record.cgroup.as_ref().is_some_and(|c| !c.v1().is_empty());
        let born_in = self.record.cgroup.as_ref().filter(|_| !self.options.systemd_cgroup);
        let into = born_in.map(Cgroup::v2_directory).transpose().map_err(cgroup_error)?.flatten();
        let (ours, theirs) = sync::pair().context(|| "make a socket pair".into())?;
        let intermediate = init.namespaces.intermediate.is_some();
        let flags = if intermediate { 0 } else { init.namespaces.clone as u64 };
        let cloned = sys::clone3(flags, into.as_ref().map(|fd| fd.as_fd())).context(|| {
            "fork into the new namespaces (a limit in /proc/sys/user may be reached, or this user may not make them)".into()
        })?;
        let (mut pid, mut pidfd) = match cloned {
            sys::Cloned::Child => init::run(init, theirs, ours, self.dir.as_fd()),
            sys::Cloned::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((theirs, into));
        if !intermediate {
            *self.pidfd = Some(pidfd.try_clone().context(|| "keep the pidfd".into())?);
        }
        inject::at("parent-cloned");
        let proc = &init.proc;
        if init.namespaces.user && !intermediate {
            namespaces::write_mappings(proc, pid, self.linux)?;
            answer(&ours, Tag::Mappings)?;
        }
        self.finish_cgroup(making, &resources, pid, pidfd.as_fd())?;
        inject::at("parent-cgroup");
        if init.awaits_cgroup {
            self.send_cgroups(&ours)?;
        }
        let mut go_early = !creating && !init.reports();
        if !intermediate {
            self.adopt(proc, pid, rdt)?;
        }
        if go_early {
            self.commit(pid)?;
            answer(&ours, Tag::Go)?;
        }
        let mut master = None;
        loop {
            let packet = sync::receive(&ours).context(|| "listen to the container's first process".into())?;
            let Some(mut packet) = packet else {
                // The end: the program was executed, and with that every descriptor closed; or the child died.
                if go_early {
                    return Ok(master);
                }
                return Err(Error::InitDied(fate(pidfd.as_fd(), self.linux)));
            };
            match packet.tag {
                Tag::Mappings if packet.payload == b"t" => {
                    let offsets = init.namespaces.offsets.as_deref().unwrap_or_default();
                    proc.write(&format!("{pid}/timens_offsets"), offsets.as_bytes())
                        .context(|| format!("set linux.timeOffsets to {:?}", offsets.trim()))?;
                    answer(&ours, Tag::Mappings)?;
                }
                Tag::Mappings => {
                    namespaces::write_mappings(proc, pid, self.linux)?;
                    answer(&ours, Tag::Mappings)?;
                }
                Tag::Pid => {
                    pid = i32::from_ne_bytes(packet.payload.try_into().unwrap_or_default());
                    let intermediate = std::mem::replace(&mut pidfd, open_pidfd(pid)?);
                    *self.pidfd = Some(pidfd.try_clone().context(|| "keep the pidfd".into())?);
                    console::exit_code(intermediate.as_fd())?;
                    self.adopt(proc, pid, rdt)?;
                }
                Tag::Hooks => {
                    self.attend(pid, &init.devices)?;
                    answer(&ours, Tag::Hooks)?;
                }
                Tag::Console => master = packet.fd(),
                Tag::SeccompFd => self.hand_over_listener(pid, packet.fd())?,
                Tag::Warning => self.record.warnings.push(String::from_utf8_lossy(&packet.payload).into_owned()),
                Tag::Ready => {
                    inject::at("parent-ready");
                    if let Some(process) = init.process.as_ref().filter(|_| init.user_namespace) {
                        process.limits().apply_to(pid)?;
                    }
                    self.commit(pid)?;
                    let heard = answer(&ours, Tag::Go)?;
                    inject::at("parent-committed");
                    if creating && heard {
                        return Ok(None);
                    }
                    go_early = true;
                }
                Tag::Error => return Err(sync::decode_error(&packet.payload)),
                Tag::Go | Tag::Cgroup => return Err(Error::InitDied("unexpected message".into())),
            }
        }
    }

    /// Makes what of the cgroup must be there before a process is born in it. What is left to do, which can be done while
    /// that process is at work, is returned.
    fn begin_cgroup<'c>(&mut self, cgroup: &'c Cgroup, resources: &'c Resources) -> Result<Option<Making<'c>>, Error> {
        let begun = cgroup.begin(resources).and_then(|mut making| {
            // Without privileges it often fails, and the process is better made knowing that.
            if cgroup.v1().is_empty() || !namespaces::privileged() {
                return making.finish().map(|()| None);
            }
            Ok(Some(making))
        });
        match begun {
            Ok(making) => Ok(making),
            Err(e) => self.without_cgroup(e).map(|()| None),
        }
    }

    /// Makes the rest of it; with the systemd driver all of it, as systemd wants a living process to make it for.
    fn finish_cgroup(
        &mut self,
        making: Option<Making<'_>>,
        resources: &Resources,
        pid: i32,
        pidfd: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let made = match (making, &self.record.cgroup) {
            (Some(mut making), _) => making.finish().inspect_err(|_| {
                // What was made is removed, so nobody may be in there any more.
                let _ = sys::pidfd_send_signal(pidfd, libc::SIGKILL);
                let _ = console::exit_code(pidfd);
            }),
            (None, Some(cgroup)) if self.options.systemd_cgroup => cgroup.make_systemd(&self.record.id, resources, pid),
            _ => Ok(()),
        };
        made.or_else(|e| self.without_cgroup(e))
    }

    /// The cgroup could not be made. If it is not needed it is done without.
    fn without_cgroup(&mut self, e: strata_cgroup::Error) -> Result<(), Error> {
        // It is not this container's to remove.
        self.record.cgroup = None;
        if !tolerated(self.linux, &e) {
            return Err(cgroup_error(e));
        }
        self.record.warnings.push(format!("no cgroup: {e}"));
        Ok(())
    }

    /// Gives the child what it joins its cgroup by. It was born in that of version 2, unless systemd makes them, which
    /// puts it into some only.
    fn send_cgroups(&self, ours: &OwnedFd) -> Result<(), Error> {
        let mut files = Vec::new();
        if let Some(cgroup) = &self.record.cgroup {
            files = cgroup.v1_tasks().map_err(cgroup_error)?;
            if self.options.systemd_cgroup && !files.is_empty() {
                files.extend(cgroup.v2_procs().map_err(cgroup_error)?);
            }
        }
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        answer_with(ours, Tag::Cgroup, &files).map(drop)
    }

    /// What can be done as soon as the first process exists, while it is at work.
    fn adopt(&mut self, proc: &Proc, pid: i32, rdt: Option<&rdt::Plan>) -> Result<(), Error> {
        self.record.pid = pid;
        self.record.start_time = procfs::process_stat(pid).map_or(0, |s| s.start_time);
        if let Some(rdt) = rdt {
            rdt.add(pid)?;
        }
        if let Some(score) = self.spec.process.as_ref().and_then(|p| p.oom_score_adj) {
            match proc.write(&format!("{pid}/oom_score_adj"), score.to_string().as_bytes()) {
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !namespaces::privileged() => {
                    self.record.warnings.push(format!("process.oomScoreAdj {score} is ignored: {e}"));
                }
                other => other.context(|| {
                    format!("set process.oomScoreAdj to {score} (less than the caller's needs CAP_SYS_RESOURCE)")
                })?,
            }
        }
        Ok(())
    }

    /// Everything is made: the record says so, and the caller is told the process id.
    fn commit(&mut self, pid: i32) -> Result<(), Error> {
        self.record.phase = Phase::Made;
        self.dir.write(self.record)?;
        if let Some(path) = &self.options.pid_file {
            record::write_pid_file(path, pid)?;
        }
        if let Some(path) = &self.options.pidfd_socket
            && let Some(pidfd) = self.pidfd.as_ref()
        {
            send_pidfd(path, pidfd)?;
        }
        Ok(())
    }

    fn attend(&mut self, pid: i32, devices: &[netdev::Device]) -> Result<(), Error> {
        // `state`, called by a hook, shows the container and its process.
        self.dir.write(self.record)?;
        if !devices.is_empty() {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty());
            netdev::move_all(devices, namespace.on_path("open", &path)?.as_fd())?;
        }
        inject::at("parent-hooks");
        let state = state_of(self.record, Status::Creating, Some(pid));
        hooks::run("prestart", hooks::of(self.spec, "prestart"), &state)?;
        hooks::run("createRuntime", hooks::of(self.spec, "createRuntime"), &state)
    }

    fn hand_over_listener(&self, pid: i32, fd: Option<OwnedFd>) -> Result<(), Error> {
        let (Some(fd), Some(seccomp)) = (fd, &self.linux.seccomp) else { return Ok(()) };
        let state = state_of(self.record, Status::Creating, Some(pid));
        send_listener(seccomp, &fd, pid, state)
    }
}

/// `linux.resources.memory.limit`, bytes, if there is one.
pub(crate) fn memory_limit(linux: &Linux) -> Option<i64> {
    linux.resources.as_ref()?.memory.as_ref()?.limit.filter(|limit| *limit > 0)
}

/// Tells the child to go on; false if it is gone. Its last words are then still to be received.
pub(crate) fn answer(ours: &OwnedFd, tag: Tag) -> Result<bool, Error> {
    answer_with(ours, tag, &[])
}

fn answer_with(ours: &OwnedFd, tag: Tag, fds: &[BorrowedFd<'_>]) -> Result<bool, Error> {
    match sync::send_with(ours, tag, b"", fds) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Ok(false),
        Err(e) => Err(Error::system("answer the container's first process", e)),
    }
}

/// `ContainerProcessState` of the specification, with the listener's descriptor, to the configured socket.
pub(crate) fn send_listener(
    seccomp: &strata_spec::runtime::Seccomp,
    listener: &OwnedFd,
    pid: i32,
    state: State,
) -> Result<(), Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ContainerProcessState<'a> {
        oci_version: &'a str,
        fds: [&'static str; 1],
        pid: i32,
        #[serde(skip_serializing_if = "str::is_empty")]
        metadata: &'a str,
        state: &'a State,
    }
    let Some(path) = &seccomp.listener_path else { return Ok(()) };
    let message = ContainerProcessState {
        oci_version: &state.oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: seccomp.listener_metadata.as_deref().unwrap_or_default(),
        state: &state,
    };
    let text = serde_json::to_vec(&message).map_err(|e| Error::Seccomp(e.to_string()))?;
    let socket =
        std::os::unix::net::UnixStream::connect(path).on_path("connect to linux.seccomp.listenerPath", path)?;
    sync::send_fds(&socket, &[std::io::IoSlice::new(&text)], &[listener.as_fd()])
        .on_path("send the listener to linux.seccomp.listenerPath", path)
}

/// Sends a pidfd to a listening Unix socket.
pub(crate) fn send_pidfd(path: &Path, pidfd: &OwnedFd) -> Result<(), Error> {
    let socket = std::os::unix::net::UnixStream::connect(path).on_path("connect to the pidfd socket", path)?;
    sync::send_fds(&socket, &[std::io::IoSlice::new(b"pidfd")], &[pidfd.as_fd()]).on_path("send the pidfd to", path)
}

/// A pidfd of a child that has not been reaped, so the id is certain.
pub(crate) fn open_pidfd(pid: i32) -> Result<OwnedFd, Error> {
    let id = rustix::process::Pid::from_raw(pid).ok_or_else(|| Error::InitDied("no process id came".into()))?;
    rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()).context(|| format!("open a pidfd of {pid}"))
}

/// What became of a child that ended early.
pub(crate) fn fate(pidfd: BorrowedFd<'_>, linux: &Linux) -> String {
    match console::exit_code(pidfd) {
        Ok(code) if code == 128 + libc::SIGKILL => match memory_limit(linux) {
            Some(limit) => format!("it was killed; is linux.resources.memory.limit, {limit} bytes, too small?"),
            None => "it was killed; out of memory?".into(),
        },
        Ok(code) if code > 128 => format!("signal {}", code - 128),
        Ok(code) => format!("exit code {code}"),
        Err(e) => e.to_string(),
    }
}
