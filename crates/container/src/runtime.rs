//! The public face: a state root, the containers in it and their life cycle (OCI runtime-spec, `runtime.md`).

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use strata_spec::runtime::{NamespaceKind, Process, Spec};
use strata_spec::state::{State, Status};

pub use strata_spec::runtime::Resources;

use crate::config::{self, Namespaces};
use crate::create::{self, Made, Mode};
use crate::error::{Context, Error};
use crate::procfs;
use crate::record::{self, Locked, Phase, Record};
use crate::sync::{self, Tag};
use crate::{console, exec, hooks, inject, rdt, sys};

/// A state root and the containers recorded in it.
#[derive(Debug, Clone)]
pub struct Runtime {
    root: PathBuf,
}

/// How [`Runtime::create`] and [`Runtime::run`] make a container.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Unix socket that receives the terminal's master descriptor. Required by `create` of a configuration with
    /// `process.terminal`, refused otherwise.
    pub console_socket: Option<PathBuf>,
    /// File that receives the first process's id, as the host sees it, before `create` returns.
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the first process.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program inherits, besides `LISTEN_FDS`.
    pub preserve_fds: u32,
    /// Enter the root by moving it over `/` and `chroot` instead of `pivot_root` (initial ramdisks).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Read `linux.cgroupsPath` as `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// The configuration, instead of the bundle's `config.json`.
    pub spec: Option<Spec>,
    /// Kept in the record for the front end.
    pub origin: BTreeMap<String, String>,
}

/// How [`Runtime::run`] accompanies the program.
#[derive(Clone, Copy, Default)]
pub struct RunOptions<'a> {
    /// Return once the program runs.
    pub detach: bool,
    /// Do not delete the container when the program ends.
    pub keep: bool,
    /// Called once the program runs.
    pub started: Option<&'a dyn Fn()>,
    /// Called with everything that the user should know, when it happens.
    pub notes: Option<&'a dyn Fn(Note)>,
}

/// Something that the user should know and that ends nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Something asked for was ignored, or failed, as the specification allows or demands.
    Warning(String),
    /// For those who look into a problem.
    Debug(String),
}

/// What [`Container::exec`] starts, and how.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The process. Absent capabilities, AppArmor profile, SELinux label are the container's (an empty `user`
    /// is root); an absent environment is the container's as configured.
    pub process: Process,
    /// Return once the program runs.
    pub detach: bool,
    /// Unix socket that receives the terminal's master descriptor; without one a terminal is relayed to the caller's.
    pub console_socket: Option<PathBuf>,
    /// File that receives the process's id.
    pub pid_file: Option<PathBuf>,
    /// Unix socket that receives a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// How many descriptors from 3 on the program inherits.
    pub preserve_fds: u32,
    /// Cgroups below the container's, each `[CONTROLLER[,CONTROLLER…]:]PATH`, such as `child` for all hierarchies or
    /// `cpu,cpuacct:child` for those of these controllers. Of several for one hierarchy the last holds.
    pub cgroup: Vec<String>,
    /// Allow it in a paused container: the process waits until it is resumed.
    pub ignore_paused: bool,
}

/// What became of [`Container::exec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecOutcome {
    /// It runs on; its process id as the host sees it.
    Detached {
        /// Process id.
        pid: i32,
    },
    /// It ended with this code; 128 + n for signal n.
    Exited(i32),
}

/// What [`Runtime::gc`] found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Ids of containers that were half made, or half deleted, or whose foreground `run` was killed and that have ended.
    pub removed: Vec<String>,
    /// Ids that could not be removed, and why.
    pub failed: Vec<(String, String)>,
    /// poststop hooks that failed, in words.
    pub warnings: Vec<String>,
}

/// One container of a [`Runtime`].
#[derive(Debug, Clone)]
pub struct Container {
    root: PathBuf,
    record: Record,
}

/// How long a killed container may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Opens a state root, making the directory if need be (mode 0711).
    pub fn open(root: &Path) -> Result<Runtime, Error> {
        let root = std::path::absolute(root).on_path("find the state root", root)?;
        if !root.is_dir() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&root)
                .on_path("make the state root", &root)?;
        }
        Ok(Runtime { root })
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// OCI `create`: namespaces, mounts, devices and hooks are done, the program waits for [`Container::start`].
    pub fn create(&self, id: &str, bundle: &Path, options: &CreateOptions) -> Result<Container, Error> {
        let made = create::make(&self.root, id, bundle, options, Mode::Create)?;
        Ok(self.container(made.record))
    }

    /// Creates and starts. In the foreground it forwards signals, relays the terminal, waits and deletes; the value is
    /// the program's exit code, 128 + n for signal n. Detached it is 0.
    pub fn run(&self, id: &str, bundle: &Path, options: &CreateOptions, run: RunOptions<'_>) -> Result<i32, Error> {
        // Before the child exists, so that no signal and no end of it is missed.
        let signals = (!run.detach).then(|| sys::SignalFd::all_but(&[])).transpose();
        let signals = signals.context(|| "take over signals".into())?;
        let ephemeral = !run.detach && !run.keep;
        let mode = Mode::Run { ephemeral, terminal: !run.detach };
        let Made { mut record, dir, spec, pidfd, master } = create::make(&self.root, id, bundle, options, mode)?;
        let warn = |text: String| run.notes.iter().for_each(|note| note(Note::Warning(text.clone())));
        record.warnings.iter().cloned().for_each(warn);
        match poststart(&record, &spec) {
            Ok(failures) if failures.is_empty() => {}
            Ok(failures) => {
                failures.iter().cloned().for_each(warn);
                record.warnings.extend(failures);
                dir.write(&record)?;
            }
            Err(failure) => {
                end(&record)?;
                console::exit_code(pidfd.as_fd())?;
                remove(dir, &record, &spec)?.into_iter().for_each(warn);
                return Err(failure);
            }
        }
        // Others may pause, update or delete it from now on.
        drop(dir);
        if let Some(started) = run.started {
            started();
        }
        let Some(signals) = signals else { return Ok(0) };
        let code = console::accompany(pidfd.as_fd(), &signals, master)?;
        if ephemeral {
            match Locked::lock(&self.root, id) {
                Ok(dir) => remove(dir, &record, &spec)?.into_iter().for_each(warn),
                // `delete --force` was faster.
                Err(Error::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(code)
    }

    /// The container of this id.
    pub fn get(&self, id: &str) -> Result<Container, Error> {
        config::validate_id(id)?;
        match Record::read(&self.root.join(id))? {
            Some(record) => Ok(self.container(record)),
            None => Err(Error::NotFound(id.to_owned())),
        }
    }

    /// OCI `delete`, see [`Container::delete`]. With `force` a missing one is fine, too, and a damaged record goes.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<String>, Error> {
        match self.get(id) {
            Ok(mut container) => container.delete(force),
            Err(Error::NotFound(_)) if force => Ok(Vec::new()),
            Err(Error::Record { .. }) if force => Locked::lock(&self.root, id)?.remove().map(|()| Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// All containers, by id. Those with a damaged record are left out; [`Runtime::delete`] with force removes them.
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        Ok(self.ids()?.iter().filter_map(|id| self.get(id).ok()).collect())
    }

    fn ids(&self) -> Result<Vec<String>, Error> {
        let entries = std::fs::read_dir(&self.root).on_path("list", &self.root)?;
        let mut ids: Vec<String> = entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| config::validate_id(name).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn container(&self, record: Record) -> Container {
        Container { root: self.root.clone(), record }
    }

    /// Removes what killed Strata processes left half made. A stopped container that was created and not deleted is
    /// not garbage: its owner has yet to see its state.
    pub fn gc(&self) -> Result<GcReport, Error> {
        let mut report = GcReport::default();
        for id in self.ids()? {
            match self.collect(&id) {
                Ok(Some(warnings)) => {
                    report.removed.push(id);
                    report.warnings.extend(warnings);
                }
                Ok(None) | Err(Error::NotFound(_)) => {}
                Err(e) => report.failed.push((id, e.to_string())),
            }
        }
        let _ = std::fs::remove_dir_all(self.root.join(record::SPARE));
        // Directories of records that never got their name.
        let entries = std::fs::read_dir(&self.root).on_path("list", &self.root)?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.strip_prefix(',')).and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            if procfs::process_stat(pid).is_none() {
                std::fs::remove_dir_all(entry.path()).on_path("remove", &entry.path())?;
            }
        }
        Ok(report)
    }

    /// The warnings, if it was garbage.
    fn collect(&self, id: &str) -> Result<Option<Vec<String>>, Error> {
        if !self.root.join(id).is_dir() {
            return Ok(None);
        }
        // Somebody is at work on it.
        let Some(dir) = Locked::try_lock(&self.root, id)? else { return Ok(None) };
        // Records appear and disappear in one step, so a directory without one is not a container's, and not garbage.
        let Some(record) = Record::read(dir.path())? else { return Ok(None) };
        let abandoned = record.phase == Phase::Creating || (record.ephemeral && !record.alive());
        if !abandoned {
            return Ok(None);
        }
        let spec = record::read_config(dir.path()).unwrap_or_default();
        end(&record)?;
        remove(dir, &record, &spec).map(Some)
    }
}

/// Kills whatever still runs of a container and waits for its end.
fn end(record: &Record) -> Result<(), Error> {
    if record.alive()
        && let Ok(pidfd) = create::open_pidfd(record.pid)
        // The pidfd is of the process that the record means only if that still lived after it was opened.
        && record.alive()
    {
        match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                return Err(Error::system(format!("kill process {}", record.pid), e));
            }
            _ => {}
        }
        if let Some(cgroup) = record.cgroup.as_ref().filter(|c| c.is_frozen().unwrap_or(false)) {
            // A frozen process dies only when it is thawed.
            let _ = cgroup.thaw();
        }
        let limit = Timespec { tv_sec: KILL_LIMIT.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit)));
        if ended.context(|| "wait for the container's end".into())? == 0 {
            let message =
                format!("process {} did not end within {} s of being killed", record.pid, KILL_LIMIT.as_secs());
            return Err(Error::Setup(message));
        }
    }
    Ok(())
}

/// The hooks after the start. A failure is a warning for documents of the specification up to 1.1; since 1.2 it is an
/// error, on which the container is to be stopped and removed (`runtime.md`, "Lifecycle", step 9).
fn poststart(record: &Record, spec: &Spec) -> Result<Vec<String>, Error> {
    let programs = hooks::of(spec, "poststart");
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    let state = create::state_of(record, Status::Running, Some(record.pid));
    let mut version = record.oci_version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (version.next(), version.next()) >= (Some(1), Some(2)) {
        return hooks::run("poststart", programs, &state).map(|()| Vec::new());
    }
    Ok(hooks::run_all("poststart", programs, &state))
}

/// Removes everything of a container whose first process has ended. Each step can be repeated, and the record goes last.
/// Failures of poststop hooks are nobody's to act on; they are returned for the log.
fn remove(dir: Locked, record: &Record, spec: &Spec) -> Result<Vec<String>, Error> {
    inject::at("parent-killed");
    if let Some(cgroup) = &record.cgroup {
        // Without a namespace of process ids its other processes live on after the first. Without a first process this
        // may be somebody else's cgroup, which the container was not given.
        if record.pid != 0 && !Namespaces::of(spec).new_one(NamespaceKind::Pid) {
            let _ = cgroup.kill_all(libc::SIGKILL);
        }
        cgroup.remove().map_err(|e| Error::Cgroup(e.to_string()))?;
    }
    rdt::remove(record.rdt_group.as_deref());
    inject::at("parent-cgroup-removed");
    dir.remove()?;
    inject::at("parent-record-removed");
    let poststop = hooks::of(spec, "poststop");
    Ok(hooks::run_all("poststop", poststop, &create::state_of(record, Status::Stopped, None)))
}

impl Container {
    /// The container's id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Absolute path of the bundle.
    pub fn bundle(&self) -> &Path {
        &self.record.bundle
    }

    /// Absolute path of the root file system.
    pub fn rootfs(&self) -> &Path {
        &self.record.rootfs
    }

    /// When it was created.
    pub fn created(&self) -> SystemTime {
        self.record.created
    }

    /// The configuration it was created with.
    pub fn spec(&self) -> Result<Spec, Error> {
        record::read_config(&self.dir())
    }

    /// User id of who created it.
    pub fn owner(&self) -> u32 {
        self.record.owner
    }

    /// What the front end had kept.
    pub fn origin(&self) -> &BTreeMap<String, String> {
        &self.record.origin
    }

    /// The container's cgroup; none if a rootless one could not be made.
    pub fn cgroup(&self) -> Option<&strata_cgroup::Cgroup> {
        self.record.cgroup.as_ref()
    }

    /// Things the configuration asked for that were ignored as the specification demands (unknown capabilities, failed
    /// poststart hooks…), in words; what the command should print as warnings.
    pub fn warnings(&self) -> &[String] {
        &self.record.warnings
    }

    /// Process id of the first process as the host sees it, if it lives.
    pub fn pid(&self) -> Option<i32> {
        self.record.alive().then_some(self.record.pid)
    }

    /// Where in its life the container is, now.
    pub fn status(&self) -> Status {
        if self.record.phase == Phase::Creating {
            return Status::Creating;
        }
        if !self.record.alive() {
            return Status::Stopped;
        }
        if self.record.cgroup.as_ref().is_some_and(|c| c.is_frozen().unwrap_or(false)) {
            return Status::Paused;
        }
        if record::waits(&self.dir()) { Status::Created } else { Status::Running }
    }

    /// The specification's state document, now.
    pub fn state(&self) -> State {
        let status = self.status();
        let pid = if status == Status::Stopped { None } else { self.pid() };
        create::state_of(&self.record, status, pid)
    }

    fn dir(&self) -> PathBuf {
        self.root.join(&self.record.id)
    }

    fn refuse<T>(&self, verb: &'static str, wanted: &'static str) -> Result<T, Error> {
        Err(Error::WrongStatus { verb, id: self.record.id.clone(), status: self.status(), wanted })
    }

    /// Locks, and reads what happened since this value was made.
    fn lock(&mut self) -> Result<Locked, Error> {
        let dir = Locked::lock(&self.root, &self.record.id)?;
        if let Some(record) = Record::read(dir.path())? {
            self.record = record;
        }
        Ok(dir)
    }

    /// OCI `start`: runs the waiting program. An error says why it could not be executed; the container is stopped then. If
    /// it is the failure of a poststart hook, which for documents of 1.2 and later is an error, the container is deleted.
    /// Returns warnings, in words.
    pub fn start(&mut self) -> Result<Vec<String>, Error> {
        let dir = self.lock()?;
        if self.record.phase == Phase::Creating || !self.record.alive() {
            return self.refuse("start", "created");
        }
        let Ok(starter) = dir.connect() else { return self.refuse("start", "created") };
        inject::at("parent-starting");
        sync::send(&starter, Tag::Go, b"").context(|| format!("start container {:?}", self.record.id))?;
        loop {
            let packet = sync::receive(&starter).context(|| "listen to the container's first process".into())?;
            // The program was executed, and with that the connection closed.
            let Some(mut packet) = packet else { break };
            match packet.tag {
                Tag::SeccompFd => {
                    let spec = self.spec()?;
                    if let (Some(fd), Some(seccomp)) =
                        (&packet.fd(), spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()))
                    {
                        let state = create::state_of(&self.record, Status::Created, Some(self.record.pid));
                        create::send_listener(seccomp, fd, self.record.pid, state)?;
                    }
                }
                Tag::Error => return Err(sync::decode_error(&packet.payload)),
                _ => {}
            }
        }
        dir.forget_socket();
        inject::at("parent-started");
        let spec = self.spec()?;
        match poststart(&self.record, &spec) {
            Ok(failures) => {
                if !failures.is_empty() {
                    self.record.warnings.extend(failures.iter().cloned());
                    dir.write(&self.record)?;
                }
                Ok(failures)
            }
            Err(failure) => {
                end(&self.record)?;
                self.record.warnings.extend(remove(dir, &self.record, &spec)?);
                Err(failure)
            }
        }
    }

    /// OCI `kill`: `signal` to the first process, or to all. [`crate::signal_from_name`] reads names.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), Error> {
        if !self.record.alive() {
            // What the first process left behind in a shared process-id namespace.
            let left = all && self.record.cgroup.as_ref().is_some_and(|c| c.pids().is_ok_and(|p| !p.is_empty()));
            if !left {
                return Err(Error::NotRunning(self.record.id.clone()));
            }
        }
        let signalled = match (&self.record.cgroup, all) {
            (Some(cgroup), true) => return cgroup.kill_all(signal).map_err(|e| Error::Cgroup(e.to_string())),
            _ => create::open_pidfd(self.record.pid).and_then(|pidfd| {
                if !self.record.alive() {
                    return Err(Error::NotRunning(self.record.id.clone()));
                }
                sys::pidfd_send_signal(pidfd.as_fd(), signal)
                    .context(|| format!("send signal {signal} to process {}", self.record.pid))
            }),
        };
        signalled?;
        if signal == libc::SIGKILL
            && let Some(cgroup) = &self.record.cgroup
            && cgroup.is_frozen().unwrap_or(false)
        {
            // A frozen process dies only when it is thawed.
            cgroup.thaw().map_err(|e| Error::Cgroup(e.to_string()))?;
        }
        Ok(())
    }

    /// OCI `delete`. With `force` a living container is killed first, and a missing one is fine. Returns warnings, in words:
    /// the poststop hooks that failed.
    ///
    /// A deviation from the specification: a created container, which is not stopped, is deleted without `force`, too.
    /// Podman and containerd delete what they created and did not start that way, as runc lets them.
    pub fn delete(&mut self, force: bool) -> Result<Vec<String>, Error> {
        let dir = match self.lock() {
            Err(Error::NotFound(_)) if force => return Ok(Vec::new()),
            other => other?,
        };
        // Nobody holds the lock, so a record that says `creating` was abandoned.
        if self.record.phase == Phase::Made && self.record.alive() {
            // A container that was never started has nothing to lose.
            if !force && !record::waits(dir.path()) {
                return self.refuse("delete", "stopped (or use force)");
            }
        }
        end(&self.record)?;
        let spec = record::read_config(dir.path()).unwrap_or_default();
        remove(dir, &self.record, &spec)
    }

    /// Waits until the first process has ended; false if that takes longer than `limit`.
    pub fn wait(&self, limit: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + limit;
        let Ok(pidfd) = create::open_pidfd(self.record.pid) else { return Ok(true) };
        if !self.record.alive() {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&left)));
        Ok(ended.context(|| "wait for the container's end".into())? > 0)
    }

    /// Starts another process in it. `notes` is called with everything that the user should know, when it happens.
    pub fn exec(&self, options: &ExecOptions, notes: &dyn Fn(Note)) -> Result<ExecOutcome, Error> {
        exec::exec(&self.record, &self.dir(), self.status(), options, notes)
    }

    fn with_cgroup<T>(
        &self,
        what: &str,
        action: impl FnOnce(&strata_cgroup::Cgroup) -> Result<T, strata_cgroup::Error>,
    ) -> Result<T, Error> {
        match &self.record.cgroup {
            Some(cgroup) => action(cgroup).map_err(|e| Error::Cgroup(e.to_string())),
            None => Err(Error::Unsupported(format!("container {:?} has no cgroup, so {what}", self.record.id))),
        }
    }

    /// Freezes all its processes.
    pub fn pause(&mut self) -> Result<(), Error> {
        let _dir = self.lock()?;
        if !matches!(self.status(), Status::Running | Status::Created) {
            return self.refuse("pause", "running");
        }
        self.with_cgroup("it cannot be paused", strata_cgroup::Cgroup::freeze)
    }

    /// Thaws them.
    pub fn resume(&mut self) -> Result<(), Error> {
        let _dir = self.lock()?;
        if self.status() != Status::Paused {
            return self.refuse("resume", "paused");
        }
        self.with_cgroup("it cannot be resumed", strata_cgroup::Cgroup::thaw)
    }

    /// Changes limits while it exists.
    pub fn update(&mut self, resources: &Resources) -> Result<(), Error> {
        let _dir = self.lock()?;
        if self.status() == Status::Stopped {
            return self.refuse("update", "created, running or paused");
        }
        self.with_cgroup("it has no limits to change", |c| c.apply(resources))
    }

    /// What it uses and used of its resources.
    pub fn stats(&self) -> Result<strata_cgroup::Stats, Error> {
        self.with_cgroup("nothing is measured", strata_cgroup::Cgroup::stats)
    }

    /// Tells when the kernel kills one of its processes for want of memory.
    pub fn oom_events(&self) -> Result<strata_cgroup::OomWatch, Error> {
        self.with_cgroup("out-of-memory events are not seen", strata_cgroup::Cgroup::oom_events)
    }

    /// Ids of all its processes as the host sees them.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        if self.record.cgroup.is_none() {
            return Ok(self.pid().into_iter().collect());
        }
        let mut pids = self.with_cgroup("it has no processes", strata_cgroup::Cgroup::pids)?;
        pids.sort_unstable();
        Ok(pids)
    }
}
