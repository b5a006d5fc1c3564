//! A container's cgroup: its directory in each hierarchy, from creation to removal.

use crate::Error;
use crate::apply;
use crate::dir::{Dir, children};
use crate::layout::{Hierarchy, Layout, clean};
use crate::oom::OomWatch;
use crate::stats::{self, Stats};
use crate::systemd::Unit;
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use strata_spec::runtime::Resources;

/// How long [`Cgroup::remove`] waits for processes that are just ending.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);
/// Cgroups nested deeper than this below a container's are not followed.
const MAX_DEPTH: usize = 64;

/// A container's cgroup: one directory in each hierarchy of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The version 1 directories.
    pub(crate) v1: Vec<ControllerDir>,
    /// The version 2 directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) v2: Option<ControllerDir>,
    /// The systemd scope that holds the cgroup, if systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Unit>,
}

/// A cgroup in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerDir {
    /// The hierarchy's controllers; `name=NAME` for a named version 1 hierarchy. For version 2 those of its root.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount_point: PathBuf,
    /// The cgroup's path below the mount point, absolute.
    pub path: String,
}

impl ControllerDir {
    /// The directory.
    pub fn dir(&self) -> PathBuf {
        join(&self.mount_point, &self.path)
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// Descriptors by which a process puts itself into a cgroup.
///
/// Opened by the parent before it forks, because the child must not allocate or look up paths. Prefer
/// `clone3(CLONE_INTO_CGROUP)` with [`v2_dir`](JoinHandles::v2_dir) and then drop [`v2_procs`](JoinHandles::v2_procs):
/// writing `cgroup.procs` stops every fork of the host for milliseconds, being born in the cgroup costs nothing.
#[derive(Debug)]
pub struct JoinHandles {
    /// `tasks` of each version 1 hierarchy, for writing.
    pub v1_tasks: Vec<OwnedFd>,
    /// The version 2 directory (`O_PATH`).
    pub v2_dir: Option<OwnedFd>,
    /// `cgroup.procs` of the version 2 directory, for writing.
    pub v2_procs: Option<OwnedFd>,
}

impl JoinHandles {
    /// Moves the calling thread into the cgroup. The process must be single-threaded: version 1 `tasks` files move one
    /// thread. Async-signal-safe: system calls only.
    pub fn join_current(&self) -> io::Result<()> {
        for fd in self.v1_tasks.iter().chain(&self.v2_procs) {
            rustix::io::retry_on_intr(|| rustix::io::write(fd, b"0"))?;
        }
        Ok(())
    }
}

/// What a `cgroup` mount inside the container shows for one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountView {
    /// The directory's name below `/sys/fs/cgroup` on the host: `cpu,cpuacct`, `systemd`, `unified`; empty for version 2 alone.
    pub name: String,
    /// The hierarchy's controllers.
    pub controllers: Vec<String>,
    /// The container's own cgroup on the host: bind it for version 1, or without a cgroup namespace.
    pub source: PathBuf,
    /// Whether this is the version 2 hierarchy: mount a `cgroup2` file system instead, given a cgroup namespace.
    pub v2: bool,
}

impl Cgroup {
    /// Makes the cgroup of container `id` in every hierarchy and applies `resources`.
    ///
    /// `path` is `linux.cgroupsPath`. An absolute one counts from the root of each hierarchy. A relative one counts
    /// from the caller's own cgroup in version 1 and from that cgroup's parent in version 2, where a cgroup with
    /// processes cannot give controllers to cgroups inside it. Absent, it is the relative `strata-ID`.
    ///
    /// An existing cgroup is taken if it is empty and thawed. After an error, what this call made is gone.
    pub fn create(layout: &Layout, path: Option<&str>, id: &str, resources: &Resources) -> Result<Cgroup, Error> {
        let cgroup = Cgroup::plan(layout, path, id)?;
        cgroup.make(resources)?;
        Ok(cgroup)
    }

    /// Says where [`Cgroup::create`] would make the cgroup, and makes nothing: what is to be removed after a crash can
    /// be put on record first.
    pub fn plan(layout: &Layout, path: Option<&str>, id: &str) -> Result<Cgroup, Error> {
        let default;
        let path = match path.filter(|p| !p.is_empty()) {
            Some(path) => path,
            None => {
                if id.is_empty() || id.contains('/') {
                    let why = "a container id is not empty and has no slash";
                    return Err(Error::Name { what: "container id", value: id.to_owned(), why });
                }
                default = format!("strata-{id}");
                &default
            }
        };
        if path.contains(['\0', '\n']) || clean(path) == "/" {
            let why = "it must name a cgroup below the root, without NUL or newline";
            return Err(Error::Name { what: "linux.cgroupsPath", value: path.to_owned(), why });
        }
        let place = |h: &Hierarchy, base: &str| ControllerDir {
            controllers: h.controllers.clone(),
            mount_point: h.mount_point.clone(),
            path: if path.starts_with('/') { clean(path) } else { clean(&format!("{base}/{}", clean(path))) },
        };
        let v1 = layout.v1().iter().map(|h| place(h, &h.own)).collect();
        let v2 = layout.v2().map(|h| {
            let parent = h.own.rsplit_once('/').map_or("", |(parent, _)| parent);
            place(h, if matches!(layout, Layout::V2(_)) { parent } else { &h.own })
        });
        Ok(Cgroup { v1, v2, scope: None })
    }

    /// Makes the directories and applies `resources` to them, all or nothing.
    pub fn make(&self, resources: &Resources) -> Result<(), Error> {
        self.begin(resources)?.finish()
    }

    /// The first half of [`make`](Cgroup::make): the version 2 directory, in which a process is born, while the version 1
    /// ones, which it joins later, can be made beside it.
    pub fn begin<'a>(&'a self, resources: &'a Resources) -> Result<Making<'a>, Error> {
        let mut made = Made(Vec::new());
        let mut fresh = true;
        let needed = apply::controllers_of(resources);
        if let Some(place) = &self.v2 {
            // With version 2 alone everything is accounted. In a hybrid the machine's own root is left as it is but
            // for what a limit asks.
            let wanted = place.controllers.iter().filter(|c| self.v1.is_empty() || needed.contains(&c.as_str()));
            enable(place, &wanted.map(String::as_str).collect::<Vec<_>>(), &mut made)?;
            fresh = made.directory(place)?;
            if !fresh {
                self.check_empty([place])?;
            }
        }
        Ok(Making { cgroup: self, resources, made, fresh })
    }

    /// Changes the settings that `resources` name; the others stay as they are.
    pub fn apply(&self, resources: &Resources) -> Result<(), Error> {
        self.apply_systemd(resources)?;
        apply::apply(self, resources, false)
    }

    /// What the cgroup and those below it have used.
    pub fn stats(&self) -> Result<Stats, Error> {
        stats::read(self)
    }

    /// Begins to watch for processes killed for want of memory.
    pub fn oom_events(&self) -> Result<OomWatch, Error> {
        OomWatch::new(self)
    }

    /// An existing cgroup may be taken over only when nothing runs in it and whatever joins will run.
    fn check_empty<'a>(&self, places: impl IntoIterator<Item = &'a ControllerDir>) -> Result<(), Error> {
        // systemd has put the first process in already.
        if self.scope.is_some() {
            return Ok(());
        }
        for place in places {
            let path = place.dir();
            let count = pids_below(&path, MAX_DEPTH)?.len();
            if count > 0 {
                return Err(Error::Occupied { path, count });
            }
        }
        if let (Ok(true), Some(place)) = (self.is_frozen(), self.process_dir()) {
            return Err(Error::Frozen { path: place.dir() });
        }
        Ok(())
    }

    /// Opens all files through which a child can join. See [`JoinHandles`].
    pub fn join_handles(&self) -> Result<JoinHandles, Error> {
        Ok(JoinHandles { v1_tasks: self.v1_tasks()?, v2_dir: self.v2_directory()?, v2_procs: self.v2_procs()? })
    }

    /// Opens [`JoinHandles::v1_tasks`].
    pub fn v1_tasks(&self) -> Result<Vec<OwnedFd>, Error> {
        self.v1.iter().map(|place| open_to_join(place, "tasks")).collect()
    }

    /// Opens [`JoinHandles::v2_dir`].
    pub fn v2_directory(&self) -> Result<Option<OwnedFd>, Error> {
        Ok(self.v2.as_ref().map(|place| Dir::open(place.dir())).transpose()?.map(Dir::into_fd))
    }

    /// Opens [`JoinHandles::v2_procs`].
    pub fn v2_procs(&self) -> Result<Option<OwnedFd>, Error> {
        self.v2.as_ref().map(|place| open_to_join(place, "cgroup.procs")).transpose()
    }

    /// All processes in the cgroup and in those below it, in no order.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        match self.process_dir() {
            Some(place) => pids_below(&place.dir(), MAX_DEPTH),
            None => Ok(Vec::new()),
        }
    }

    /// The hierarchy whose process list is taken: in version 1 the one that can also stop the processes.
    fn process_dir(&self) -> Option<&ControllerDir> {
        let by = |controller: &str| self.v1.iter().find(|p| p.has(controller));
        by("freezer").or_else(|| by("devices")).or(self.v2.as_ref()).or(self.v1.first())
    }

    /// The container's cgroup in each hierarchy, for a mount of type `cgroup` inside it.
    pub fn mounts_view(&self) -> Vec<MountView> {
        let alone = self.v1.is_empty();
        let view = |place: &ControllerDir, v2: bool| MountView {
            name: match place.mount_point.file_name() {
                Some(name) if !(v2 && alone) => name.to_string_lossy().into_owned(),
                _ => String::new(),
            },
            controllers: place.controllers.clone(),
            source: place.dir(),
            v2,
        };
        self.v1.iter().map(|p| view(p, false)).chain(self.v2.iter().map(|p| view(p, true))).collect()
    }

    /// The version 1 directories.
    pub fn v1(&self) -> &[ControllerDir] {
        &self.v1
    }

    /// The version 2 directory.
    pub fn v2(&self) -> Option<&ControllerDir> {
        self.v2.as_ref()
    }

    /// Removes the cgroup and those below it. What is gone already is fine; processes that are just ending are waited
    /// for, five seconds at most.
    pub fn remove(&self) -> Result<(), Error> {
        // Also when systemd cannot be asked, the directories go.
        let mut first = self.stop_systemd();
        let deadline = Instant::now() + REMOVE_LIMIT;
        for place in self.v1.iter().chain(&self.v2) {
            let removed = remove_dir(&place.dir(), deadline);
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }
}

/// Opens a file to which a process writes itself.
fn open_to_join(place: &ControllerDir, file: &str) -> Result<OwnedFd, Error> {
    let path = place.dir().join(file);
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| Error::io("open", path)(e.into()))
}

/// A cgroup that is being made. What was made is removed when this is dropped unfinished, as far as no process is in it.
#[derive(Debug)]
pub struct Making<'a> {
    cgroup: &'a Cgroup,
    resources: &'a Resources,
    made: Made,
    fresh: bool,
}

impl Making<'_> {
    /// The second half: the version 1 directories, and all settings. After an error there is only dropping it.
    pub fn finish(&mut self) -> Result<(), Error> {
        let mut new = true;
        for place in &self.cgroup.v1 {
            let made = self.made.directory(place)?;
            if place.has("cpuset") {
                fill_cpuset(place, made)?;
            }
            new &= made;
        }
        if !new {
            self.cgroup.check_empty(&self.cgroup.v1)?;
        }
        apply::apply(self.cgroup, self.resources, self.fresh && new)?;
        self.made.0.clear();
        Ok(())
    }
}

/// Directories made so far; removed again, deepest first, unless cleared.
#[derive(Debug)]
struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // The error that led here is the one to report.
            let _ = rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR);
        }
    }
}

impl Made {
    /// Makes one cgroup with its missing parents; whether it is new.
    fn directory(&mut self, place: &ControllerDir) -> Result<bool, Error> {
        let path = place.dir();
        let new = match self.mkdir(&path) {
            Ok(new) => new,
            Err(Errno::NOENT) => {
                let mut parent = place.mount_point.clone();
                for part in place.path.split('/').filter(|p| !p.is_empty()) {
                    parent.push(part);
                    self.mkdir(&parent).map_err(|e| Error::io("make cgroup", &parent)(e.into()))?;
                }
                true
            }
            Err(e) => return Err(Error::io("make cgroup", path)(e.into())),
        };
        Ok(new)
    }

    fn mkdir(&mut self, path: &Path) -> Result<bool, Errno> {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.0.push(path.to_owned());
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

pub(crate) fn join(mount_point: &Path, path: &str) -> PathBuf {
    mount_point.join(path.trim_start_matches('/'))
}

/// Makes the parents of a version 2 cgroup and hands the wanted controllers down to it: each cgroup enables them for its
/// children (`cgroup.subtree_control`). A controller that cannot be handed down is missed only by a limit that needs it.
fn enable(place: &ControllerDir, wanted: &[&str], made: &mut Made) -> Result<(), Error> {
    let mut path = place.mount_point.clone();
    let parents = place.path.split('/').filter(|p| !p.is_empty());
    let mut levels = parents.clone().count();
    for part in parents {
        if !wanted.is_empty() {
            hand_down(&Dir::open(&path)?, wanted)?;
        }
        levels -= 1;
        if levels > 0 {
            path.push(part);
            made.mkdir(&path).map_err(|e| Error::io("make cgroup", &path)(e.into()))?;
        }
    }
    Ok(())
}

/// Enables controllers for the children of one cgroup, as far as it can.
fn hand_down(dir: &Dir, wanted: &[&str]) -> Result<(), Error> {
    let enabled = dir.read("cgroup.subtree_control")?;
    let missing: Vec<_> = wanted.iter().filter(|w| enabled.split_whitespace().all(|e| e != **w)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Below the root, which alone has no type, a cgroup with processes takes no controllers of memory or I/O. Those of
    // CPU and tasks it would take, but become a thread root by it, whose children no process can enter.
    if dir.exists("cgroup.type") && !dir.read("cgroup.procs").is_ok_and(|procs| procs.trim().is_empty()) {
        return Ok(());
    }
    let line: Vec<String> = missing.iter().map(|c| format!("+{c}")).collect();
    if dir.write("cgroup.subtree_control", &line.join(" ")).is_err() && line.len() > 1 {
        // One that is refused takes the others with it; one by one, the rest succeed.
        for controller in &line {
            let _ = dir.write("cgroup.subtree_control", controller);
        }
    }
    Ok(())
}

/// Gives a version 1 cpuset and its parents CPUs and memory nodes: a new one has none, and nothing can join it.
fn fill_cpuset(place: &ControllerDir, new: bool) -> Result<(), Error> {
    let mut path = place.mount_point.clone();
    let mut above = Dir::open(&path)?;
    let mut parts = place.path.split('/').filter(|p| !p.is_empty()).peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let known_empty = new && parts.peek().is_none();
        let dir = Dir::open(&path)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if known_empty || dir.read(file)?.trim().is_empty() {
                dir.write(file, above.read(file)?.trim())?;
            }
        }
        above = dir;
    }
    Ok(())
}

/// Processes of the cgroup at `path` and of those below.
pub(crate) fn pids_below(path: &Path, depth: usize) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    let dir = match Dir::open(path) {
        Ok(dir) => dir,
        Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => return Ok(pids),
        Err(e) => return Err(e),
    };
    match dir.read_errno("cgroup.procs") {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()).filter(|&pid| pid > 0)),
        // Removed meanwhile, or a threaded cgroup, whose processes are listed in the one above.
        Err(Errno::NODEV | Errno::NOENT | Errno::OPNOTSUPP) => return Ok(pids),
        Err(e) => return Err(Error::io("read", path.join("cgroup.procs"))(e.into())),
    }
    if depth > 0 {
        for name in children(path).unwrap_or_default() {
            pids.extend(pids_below(&path.join(name), depth - 1)?);
        }
    }
    Ok(pids)
}

/// rmdir, with the cgroups below first, again and again while the last processes leave.
fn remove_dir(path: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(200);
    loop {
        match remove_tree(path, MAX_DEPTH) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(Errno::BUSY) => {
                return Err(Error::RemoveTimeout { path: path.to_owned(), seconds: REMOVE_LIMIT.as_secs() });
            }
            Err(e) => return Err(Error::io("remove cgroup", path)(e.into())),
        }
    }
}

fn remove_tree(path: &Path, depth: usize) -> Result<(), Errno> {
    // The usual cgroup has none below and goes with one call.
    match rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Err(Errno::BUSY | Errno::NOTEMPTY) if depth > 0 => {}
        done => return done,
    }
    for name in children(path).unwrap_or_default() {
        match remove_tree(&path.join(name), depth - 1) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_joins_every_hierarchy_by_itself_and_the_cgroup_goes_away() {
        let layout = Layout::detect().unwrap();
        let path = format!("/strata-test-{}-join", std::process::id());
        let cgroup = Cgroup::create(&layout, Some(&path), "x", &Resources::default()).unwrap();
        let handles = cgroup.join_handles().unwrap();
        let mut child = {
            use std::os::unix::process::CommandExt;
            let mut command = std::process::Command::new("cat");
            command.arg("/proc/self/cgroup").stdout(std::process::Stdio::piped());
            // SAFETY: join_current makes system calls only.
            unsafe { command.pre_exec(move || handles.join_current()) };
            command.spawn().unwrap()
        };
        let mut text = String::new();
        std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut text).unwrap();
        child.wait().unwrap();
        assert!(text.lines().all(|line| line.ends_with(&path)), "{text}");
        assert_eq!(text.lines().count(), layout.v1().len() + usize::from(layout.v2().is_some()));
        cgroup.remove().unwrap();
        assert!(cgroup.v1.iter().chain(&cgroup.v2).all(|p| !p.dir().exists()));
        cgroup.remove().unwrap();
    }

    /// The way that costs nothing: to be born in the cgroup. Also shows that the directory's descriptor is of the kind
    /// that clone3(2) takes.
    #[test]
    fn a_child_is_born_in_the_version_2_cgroup() {
        use std::os::fd::AsRawFd;
        let test = "a_child_is_born_in_the_version_2_cgroup";
        let layout = Layout::detect().unwrap();
        if layout.v2().is_none() || !rustix::process::geteuid().is_root() {
            return crate::testing::skipped(test, "needs a cgroup v2 hierarchy and root");
        }
        let path = format!("/strata-test-{}-born", std::process::id());
        let cgroup = Cgroup::create(&layout, Some(&path), "x", &Resources::default()).unwrap();
        let handles = cgroup.join_handles().unwrap();
        // struct clone_args of clone3(2): flags CLONE_INTO_CGROUP, exit signal SIGCHLD, and the cgroup.
        let mut args = [0u64; 11];
        args[0] = 0x2_0000_0000;
        args[4] = libc::SIGCHLD as u64;
        args[10] = handles.v2_dir.as_ref().unwrap().as_raw_fd() as u64;
        // SAFETY: without CLONE_VM this is a fork; the child makes system calls only.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
        if pid == 0 {
            // SAFETY: as above.
            unsafe {
                libc::pause();
                libc::_exit(0);
            }
        }
        assert!(pid > 0, "{}", io::Error::last_os_error());
        let place = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        // SAFETY: pid is the child just made and not yet waited for.
        unsafe {
            libc::kill(pid as i32, libc::SIGKILL);
            libc::waitpid(pid as i32, std::ptr::null_mut(), 0);
        }
        cgroup.remove().unwrap();
        assert!(place.contains(&format!("0::{path}")), "{place}");
    }
}
