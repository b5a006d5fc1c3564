//! Running instances, listing them and removing them.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strata_container::{CreateOptions, Error as ContainerError, Note, RunOptions, Runtime};
use strata_image::{RunConfig, Store};
use strata_spec::runtime::User;
use strata_spec::state::Status;

use crate::container_spec::build;
use crate::instance::{Files, Info, Record, now, process_start, seconds};
use crate::workload::{Isolation, Source, Workload};
use crate::{Error, sys};

/// A workload to run, and how.
#[derive(Debug)]
pub struct Request {
    /// The instance's name; a random id if absent.
    pub name: Option<String>,
    /// What remains when the command has ended.
    pub lifetime: Lifetime,
    /// Whether to return as soon as the command has started.
    pub detach: bool,
    /// The workload.
    pub workload: Workload,
}

/// What remains when the command has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Nothing.
    RemovedAtEnd,
    /// The record, the exit code and the writable layer, until `rm`.
    Kept,
}

/// A run that worked.
#[derive(Debug)]
pub struct Outcome {
    /// The instance's id.
    pub id: String,
    /// The command's exit code; 128 + N if signal N ended it; 0 for a run in the background.
    pub exit_code: u8,
    /// What the user should know of.
    pub warnings: Vec<String>,
}

/// What a sweep removed.
#[derive(Debug, Default, Serialize)]
pub struct SweepReport {
    /// Ids of containers that were half made or whose runtime was killed.
    pub containers: Vec<String>,
    /// Ids of instances whose supervisor was killed.
    pub instances: Vec<String>,
    /// Bytes of unreferenced image data.
    pub image_bytes: u64,
}

/// How long a supervisor may take to notice that its container is gone.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(5);

/// What the background supervisor tells the command that started it.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Started,
    Failed { message: String, code: i32 },
}

/// The instances of one state directory and one store.
#[derive(Debug)]
pub struct Supervisor {
    state_root: PathBuf,
    store_root: PathBuf,
}

impl Supervisor {
    /// The instances whose containers are below `state_root` and whose files are below `store_root`.
    pub fn new(state_root: PathBuf, store_root: PathBuf) -> Supervisor {
        Supervisor { state_root, store_root }
    }

    fn instances(&self) -> PathBuf {
        self.store_root.join("instances")
    }

    fn files(&self, id: &str) -> Files {
        Files::new(&self.instances(), id)
    }

    fn runtime(&self) -> Result<Runtime, Error> {
        Ok(Runtime::open(&self.state_root)?)
    }

    /// Runs a workload: in the foreground until its command ends, in the background until it has started.
    pub fn run(&self, request: Request) -> Result<Outcome, Error> {
        let id = match request.name {
            Some(name) => name,
            None => random_id()?,
        };
        strata_container::validate_id(&id)?;
        let files = self.claim(&id)?;
        let pid = std::process::id() as i32;
        let record = Record {
            id: id.clone(),
            created: now(),
            workload: request.workload,
            command: Vec::new(),
            image_digest: None,
            removed_at_end: request.lifetime == Lifetime::RemovedAtEnd,
            supervisor: (pid, process_start(pid).unwrap_or(0)),
        };
        let result = files.write_record(&record).and_then(|()| match request.detach {
            true => self.run_in_background(&files, &id),
            false => self.supervise(&files, record.clone(), None),
        });
        match result {
            Ok((exit_code, warnings)) => Ok(Outcome { id, exit_code, warnings }),
            Err(error) => {
                // Nothing ran: an instance that never started is not kept.
                let _ = self.remove_files(&id, &files);
                Err(error)
            }
        }
    }

    /// The main function of a background supervisor: runs the instance and reports on standard output, as JSON in one
    /// line, once the command has started or could not be.
    pub fn supervise_in_background(&self, id: &str) -> Result<(), Error> {
        // A session of its own: the terminal's signals are not for the instance.
        let _ = rustix::process::setsid();
        let host = |source| Error::Host { what: "prepare the supervisor's output", source };
        let files = self.files(id);
        let mut record = files.read_record()?;
        let pid = std::process::id() as i32;
        record.supervisor = (pid, process_start(pid).unwrap_or(0));
        // Output is the command's from the first byte on. What is reported goes over a copy of the pipe, which closes
        // with its last word: that is what the command at the other end waits for.
        let pipe = RefCell::new(Some(File::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(host)?)));
        let output = files.output();
        let log = File::options().create(true).append(true).open(&output).map_err(|e| Error::io("open", &output, e))?;
        rustix::stdio::dup2_stdout(&log).and_then(|()| rustix::stdio::dup2_stderr(&log)).map_err(|e| host(e.into()))?;
        let report = |report: Report| {
            if let (Some(mut pipe), Ok(text)) = (pipe.take(), serde_json::to_vec(&report)) {
                // If nobody listens any more, nobody is interested.
                let _ = pipe.write_all(&text);
            }
        };
        let started = || report(Report::Started);
        let done = files.write_record(&record).and_then(|()| self.supervise(&files, record, Some(&started)));
        if let Err(error) = done {
            report(Report::Failed { message: error.to_string(), code: error.exit_code() });
        }
        Ok(())
    }

    /// Makes the instance's directory; its existence is the claim on the name.
    fn claim(&self, id: &str) -> Result<Files, Error> {
        let instances = self.instances();
        std::fs::create_dir_all(&instances).map_err(|error| Error::io("make", &instances, error))?;
        let files = self.files(id);
        match std::fs::create_dir(&files.directory) {
            Ok(()) => Ok(files),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists(id.to_string())),
            Err(error) => Err(Error::io("make", &files.directory, error)),
        }
    }

    fn run_in_background(&self, files: &Files, id: &str) -> Result<(u8, Vec<String>), Error> {
        let program = "/proc/self/exe";
        let mut child = Command::new(program)
            .arg0("strata")
            .arg("--root")
            .arg(&self.state_root)
            .arg("--store")
            .arg(&self.store_root)
            .args(["supervise", id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|source| Error::Host { what: "start the supervisor", source })?;
        let mut line = String::new();
        if let Some(mut pipe) = child.stdout.take() {
            // The supervisor closes its end after its one line; one that dies closes it as well.
            pipe.read_to_string(&mut line)
                .map_err(|source| Error::Host { what: "hear from the supervisor", source })?;
        }
        match serde_json::from_str(&line) {
            Ok(Report::Started) => Ok((0, Vec::new())),
            Ok(Report::Failed { message, code }) => {
                // What it mounted ends with it, and then its files can be removed.
                let _ = child.wait();
                Err(Error::Background { message, code })
            }
            Err(_) => {
                let _ = child.wait();
                let message = format!("the supervisor of {} ended without a word", files.directory.display());
                Err(Error::Background { message, code: 125 })
            }
        }
    }

    /// Runs the instance in this process until its command ends.
    fn supervise(
        &self,
        files: &Files,
        mut record: Record,
        started: Option<&dyn Fn()>,
    ) -> Result<(u8, Vec<String>), Error> {
        let id = record.id.clone();
        let mut warnings = Vec::new();
        let (root, image) = match &record.workload.source {
            Source::Directory(path) => (directory_root(path)?, RunConfig::default()),
            Source::Image(reference) => {
                let store = Store::open(&self.store_root)?;
                let image = store.image(reference)?;
                // Before the ids of other users are out of reach, and while threads may still help.
                store.unpack(&image, &())?;
                private_mounts()?;
                record.image_digest = Some(image.digest().to_string());
                let rootfs = store.prepare_rootfs(&image, &files.directory, &id)?;
                warnings.extend(rootfs.notice().map(str::to_string));
                (rootfs.path().to_path_buf(), image.run_config())
            }
        };
        let user = match record.workload.user.as_deref().unwrap_or(&image.user) {
            "" => User::default(),
            name => strata_image::user::resolve_user(&root, name)?,
        };
        let spec = build(&id, &record.workload, &root, &image, user)?;
        record.command = spec.process.as_ref().map(|process| process.args.clone()).unwrap_or_default();
        files.write_record(&record)?;
        let systemd_cgroup = record.workload.systemd_cgroup;
        let create = CreateOptions { spec: Some(spec), systemd_cgroup, ..CreateOptions::default() };
        let told = RefCell::new(Vec::new());
        let notes = |note| match note {
            Note::Warning(text) => told.borrow_mut().push(text),
            Note::Debug(_) => {}
        };
        let options = RunOptions { started, notes: Some(&notes), ..RunOptions::default() };
        let code = match record.workload.isolation {
            Isolation::Container => self.runtime()?.run(&id, &files.directory, &create, options)?,
        };
        warnings.extend(told.into_inner());
        if record.removed_at_end {
            self.remove_files(&id, files)?;
        } else {
            files.write_exit_code(code)?;
        }
        Ok((u8::try_from(code).unwrap_or(u8::MAX), warnings))
    }

    /// Every instance, and every container that was made from a bundle, oldest first.
    pub fn list(&self) -> Result<Vec<Info>, Error> {
        let runtime = self.runtime()?;
        let mut all = Vec::new();
        for id in self.ids()? {
            // One that is being made or removed at this moment has no readable record.
            if let Ok(record) = self.files(&id).read_record() {
                all.push(self.info(&runtime, &record));
            }
        }
        for container in runtime.list()? {
            if all.iter().any(|info| info.id == container.id()) {
                continue;
            }
            let state = container.state();
            let command = container.spec().ok().and_then(|spec| spec.process).map(|process| process.args);
            all.push(Info {
                id: state.id,
                isolation: Isolation::Container.as_str(),
                source: state.bundle.display().to_string(),
                command: command.unwrap_or_default(),
                status: state.status,
                exit_code: None,
                pid: state.pid,
                created: seconds(container.created()),
                directory: state.bundle,
            });
        }
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(all)
    }

    fn ids(&self) -> Result<Vec<String>, Error> {
        let instances = self.instances();
        let entries = match std::fs::read_dir(&instances) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::read(&instances, error)),
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn info(&self, runtime: &Runtime, record: &Record) -> Info {
        let files = self.files(&record.id);
        let state = runtime.get(&record.id).map(|container| container.state()).ok();
        let supervised = process_start(record.supervisor.0) == Some(record.supervisor.1);
        Info {
            id: record.id.clone(),
            isolation: record.workload.isolation.as_str(),
            source: record.workload.source.to_string(),
            command: record.command.clone(),
            status: match &state {
                Some(state) => state.status,
                None if supervised && files.exit_code().is_none() => Status::Creating,
                None => Status::Stopped,
            },
            exit_code: files.exit_code(),
            pid: state.and_then(|state| state.pid),
            created: record.created,
            directory: files.directory,
        }
    }

    /// Everything known of the instance or container, or `None` if there is none of this name.
    pub fn inspect(&self, id: &str) -> Result<Option<Value>, Error> {
        if strata_container::validate_id(id).is_err() {
            return Ok(None);
        }
        let runtime = self.runtime()?;
        let container = runtime.get(id).ok();
        let record = self.files(id).read_record().ok();
        if container.is_none() && record.is_none() {
            return Ok(None);
        }
        let info = self.list()?.into_iter().find(|info| info.id == id);
        Ok(Some(json!({
            "instance": info,
            "request": record,
            "state": container.as_ref().map(|container| container.state()),
            "spec": container.as_ref().and_then(|container| container.spec().ok()),
            "output": self.files(id).output().exists().then(|| self.files(id).output()),
        })))
    }

    /// Removes an instance or container. A running one only when `force` is set: it is killed.
    pub fn remove(&self, id: &str, force: bool) -> Result<(), Error> {
        strata_container::validate_id(id)?;
        let runtime = self.runtime()?;
        let files = self.files(id);
        let instance = files.directory.exists();
        match runtime.get(id) {
            Ok(mut container) => {
                if !force && container.status() != Status::Stopped {
                    return Err(Error::Running(id.to_string()));
                }
                container.delete(force)?;
            }
            Err(ContainerError::NotFound(_)) if instance => {
                let record = files.read_record().ok();
                let alive =
                    record.is_some_and(|record| process_start(record.supervisor.0) == Some(record.supervisor.1));
                if alive && files.exit_code().is_none() && !force {
                    return Err(Error::Running(id.to_string()));
                }
            }
            Err(ContainerError::NotFound(_)) => return Err(Error::NotFound(id.to_string())),
            Err(error) => return Err(error.into()),
        }
        if !instance {
            return Ok(());
        }
        if let Ok(record) = files.read_record() {
            await_supervisor(&record)?;
        }
        self.remove_files(id, &files)
    }

    fn remove_files(&self, id: &str, files: &Files) -> Result<(), Error> {
        Store::open(&self.store_root)?.release_rootfs(&files.directory, id)?;
        remove_directory(&files.directory)
    }

    /// Removes what killed processes left: half-made containers, instances without a supervisor that nobody asked to
    /// keep, unreferenced image data.
    pub fn gc(&self) -> Result<SweepReport, Error> {
        let runtime = self.runtime()?;
        let mut report = SweepReport { containers: runtime.gc()?.removed, ..SweepReport::default() };
        for id in self.ids()? {
            let files = self.files(&id);
            let abandoned = match files.read_record() {
                Ok(record) => {
                    let alive = process_start(record.supervisor.0) == Some(record.supervisor.1);
                    let orphan = !alive && files.exit_code().is_none();
                    orphan && (record.removed_at_end || record.command.is_empty())
                }
                Err(_) => true,
            };
            if !abandoned {
                continue;
            }
            match runtime.get(&id) {
                Ok(mut container) => container.delete(true).map(drop)?,
                Err(ContainerError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.remove_files(&id, &files)?;
            report.instances.push(id);
        }
        report.image_bytes = Store::open(&self.store_root)?.gc(false)?.bytes_freed;
        Ok(report)
    }
}

/// Waits until the supervisor, whose container is gone, has written its last and ended. One that does not is killed.
fn await_supervisor(record: &Record) -> Result<(), Error> {
    let (pid, start) = record.supervisor;
    let Some(process) = Pid::from_raw(pid).filter(|_| process_start(pid) == Some(start)) else { return Ok(()) };
    // Between the look and the opening it may end and its id be used again; then there is nothing to wait for.
    let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { return Ok(()) };
    if process_start(pid) != Some(start) {
        return Ok(());
    }
    for limit in [SUPERVISOR_LIMIT, Duration::from_secs(1)] {
        let limit = Timespec::try_from(limit).ok();
        let ended = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], limit.as_ref()));
        if ended.map_err(|error| Error::Host { what: "wait for the supervisor", source: error.into() })? > 0 {
            return Ok(());
        }
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    Ok(())
}

/// The directory by its real, absolute path.
fn directory_root(path: &Path) -> Result<PathBuf, Error> {
    let problem = |problem: &str| Error::Rootfs { path: path.to_path_buf(), problem: problem.into() };
    let metadata = path.metadata().map_err(|error| problem(&error.to_string()))?;
    if !metadata.is_dir() {
        return Err(problem("not a directory"));
    }
    path.canonicalize().map_err(|error| problem(&error.to_string()))
}

/// Twelve hexadecimal digits.
fn random_id() -> Result<String, Error> {
    let mut bytes = [0u8; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::Host { what: "draw a random id", source: error.into() })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A mount namespace of this process's own: what it mounts is seen by nobody else and ends with it. A user without
/// privileges gets a user namespace around it, in which overlayfs may be mounted since Linux 5.11 and this user stays who
/// it is. Where that is forbidden nothing is mounted: the store copies the layers, and says so.
fn private_mounts() -> Result<(), Error> {
    let failed = |source| Error::Host { what: "make a mount namespace", source };
    match sys::unshare_mounts() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            if sys::unshare_user_and_mounts().is_err() {
                return Ok(());
            }
            let write = |file: &str, text: String| std::fs::write(format!("/proc/self/{file}"), text);
            write("setgroups", "deny".into())
                .and_then(|()| write("uid_map", format!("{uid} {uid} 1")))
                .and_then(|()| write("gid_map", format!("{gid} {gid} 1")))
                .map_err(|source| Error::Host { what: "map this user into a user namespace", source })?;
        }
        unshared => unshared.map_err(failed)?,
    }
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|error| failed(error.into()))
}

fn remove_directory(directory: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", directory, error)),
        _ => Ok(()),
    }
}
