//! What is known of a container between commands: a directory below the state root, holding
//!
//! - `state.json`: the [`Record`], which names every resource before the resource is made, and the configuration as it
//!   was at creation;
//! - `start.sock`, the socket at which a created container waits for `start`; it is gone once the program runs.
//!
//! Changes of the life cycle hold an exclusive lock on the directory. The kernel drops it when the holder dies, however
//! that happens, so a record that is still `creating` and not locked was left by a killed process.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use strata_cgroup::Cgroup;
use strata_spec::runtime::Spec;

use crate::error::{Context, Error};
use crate::procfs;

/// How far the making of a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Creating,
    Made,
}

/// The contents of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Version of this format.
    pub version: u32,
    pub id: String,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// UTC.
    pub created: SystemTime,
    pub owner: u32,
    pub phase: Phase,
    /// 0 as long as there is no first process.
    pub pid: i32,
    /// With `pid`, names the first process for good.
    pub start_time: u64,
    /// Absent if none could be made (rootless).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub origin: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Deleted by the process that runs it in the foreground, or by `gc` if that was killed.
    #[serde(default)]
    pub ephemeral: bool,
    /// Directory of a resource director group that was made for the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt_group: Option<PathBuf>,
}

pub(crate) const RECORD_VERSION: u32 = 1;
const STATE: &str = "state.json";
const NEW: &str = "new";
const SOCKET: &str = "start.sock";
/// The directory of a deleted container, kept for the next.
pub(crate) const SPARE: &str = ".,spare";

/// `state.json` is `{"state":RECORD…,"config":CONFIG}`. Blanks after the record leave it room to grow, so that it can be
/// changed in place: making another file costs more than everything else about the record. Readers and the writer lock
/// the file for the moment of reading and writing.
const HEAD: &[u8] = b"{\"state\":";
const ROOM: usize = 256;

impl Record {
    /// Whether the first process still runs: the id may have been given to another process since.
    pub(crate) fn alive(&self) -> bool {
        self.pid > 0 && procfs::process_stat(self.pid).is_some_and(|s| s.alive() && s.start_time == self.start_time)
    }

    /// Reads a container's record.
    pub(crate) fn read(dir: &Path) -> Result<Option<Record>, Error> {
        #[derive(Deserialize)]
        struct File {
            state: Record,
        }
        let path = dir.join(STATE);
        let Some(text) = read_file(&path)? else { return Ok(None) };
        let file: File =
            serde_json::from_slice(&text).map_err(|e| Error::Record { path: path.clone(), message: e.to_string() })?;
        if file.state.version != RECORD_VERSION {
            let message = format!("version {} is not {RECORD_VERSION}", file.state.version);
            return Err(Error::Record { path, message });
        }
        Ok(Some(file.state))
    }
}

/// The configuration as it was at creation.
pub(crate) fn read_config(dir: &Path) -> Result<Spec, Error> {
    #[derive(Deserialize)]
    struct File {
        config: Spec,
    }
    let path = dir.join(STATE);
    let message = || format!("the record {} is gone", path.display());
    let text = read_file(&path)?.ok_or_else(|| Error::system(message(), ErrorKind::NotFound))?;
    let file: File =
        serde_json::from_slice(&text).map_err(|e| Error::Record { path: path.clone(), message: e.to_string() })?;
    Ok(file.config)
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockShared))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound || e.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(e) => Err(Error::system(format!("read {}", path.display()), e)),
    }
}

fn render(record: &Record) -> std::io::Result<Vec<u8>> {
    let mut text = HEAD.to_vec();
    serde_json::to_writer(&mut text, record)?;
    Ok(text)
}

/// A container's directory, locked by this process.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    fd: OwnedFd,
    /// `state.json` of a container made by this process, and how long its head may become.
    state: Option<(OwnedFd, usize)>,
}

impl Locked {
    /// Makes a new container's directory, already locked and with its record: it appears complete or not at all.
    pub(crate) fn create(root: &Path, record: &Record, config: &[u8]) -> Result<Locked, Error> {
        let path = root.join(&record.id);
        // Ids never begin so, as no id holds a comma.
        let hidden = root.join(format!(",{}", std::process::id()));
        let made = fill(root, &hidden, record, config).on_path("make the record in", root);
        let named = made.and_then(|(fd, state)| {
            let cwd = rustix::fs::CWD;
            match rustix::fs::renameat_with(cwd, &hidden, cwd, &path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(Locked { path, fd, state: Some(state) }),
                Err(Errno::EXIST | Errno::NOTEMPTY) => Err(Error::Exists(record.id.clone())),
                Err(e) => Err(Error::system(format!("make {}", path.display()), e)),
            }
        });
        if named.is_err() {
            let _ = std::fs::remove_dir_all(&hidden);
        }
        named
    }

    /// Locks an existing container's directory, waiting for whoever holds the lock.
    pub(crate) fn lock(root: &Path, id: &str) -> Result<Locked, Error> {
        Locked::lock_with(root, id, FlockOperation::LockExclusive)?.ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// The same without waiting: `None` if somebody holds the lock.
    pub(crate) fn try_lock(root: &Path, id: &str) -> Result<Option<Locked>, Error> {
        Locked::lock_with(root, id, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_with(root: &Path, id: &str, operation: FlockOperation) -> Result<Option<Locked>, Error> {
        let path = root.join(id);
        let fd = match open_dir(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(Error::NotFound(id.to_owned())),
            other => other.on_path("open", &path)?,
        };
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, operation)) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.on_path("lock", &path)?,
        }
        // It may have been deleted, and even made again, while this process waited.
        let same = |a: &rustix::fs::Stat, b: &rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        let held = rustix::fs::fstat(&fd).on_path("examine", &path)?;
        match rustix::fs::stat(&path) {
            Ok(now) if same(&held, &now) => Ok(Some(Locked { path, fd, state: None })),
            _ => Err(Error::NotFound(id.to_owned())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the record: in place if this process made it and there is room, else by a new file.
    pub(crate) fn write(&self, record: &Record) -> Result<(), Error> {
        let write = || -> std::io::Result<()> {
            let mut head = render(record)?;
            match &self.state {
                Some((state, room)) if head.len() <= *room => {
                    head.resize(*room, b' ');
                    rustix::fs::flock(state, FlockOperation::LockExclusive)?;
                    let written = rustix::io::pwrite(state, &head, 0);
                    rustix::fs::flock(state, FlockOperation::Unlock)?;
                    if written? == head.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
                }
                _ => {
                    let old = read_file(&self.path.join(STATE)).map_err(std::io::Error::other)?.unwrap_or_default();
                    let tail = config_at(&old).and_then(|at| old.get(at..)).unwrap_or(b"}");
                    head.extend_from_slice(tail);
                    write_file(self.fd.as_fd(), NEW, &head)?;
                    Ok(rustix::fs::renameat(&self.fd, NEW, &self.fd, STATE)?)
                }
            }
        };
        write().on_path("write the record in", &self.path)
    }

    /// The socket at which the container waits for `start`. The name is short whatever the directory's is: socket
    /// addresses hold 108 bytes.
    pub(crate) fn listen(&self) -> Result<OwnedFd, Error> {
        let listen = || std::os::unix::net::UnixListener::bind(self.socket_path());
        listen().map(OwnedFd::from).on_path("make the start socket in", &self.path)
    }

    pub(crate) fn connect(&self) -> std::io::Result<std::os::unix::net::UnixStream> {
        std::os::unix::net::UnixStream::connect(self.socket_path())
    }

    fn socket_path(&self) -> String {
        format!("/proc/self/fd/{}/{SOCKET}", self.fd.as_raw_fd())
    }

    /// Notes that the program runs.
    pub(crate) fn forget_socket(&self) {
        let _ = rustix::fs::unlinkat(&self.fd, SOCKET, rustix::fs::AtFlags::empty());
    }

    /// Removes the directory, or keeps it as the spare one. Either way it disappears at once.
    pub(crate) fn remove(self) -> Result<(), Error> {
        let removed = || -> std::io::Result<()> {
            self.forget_socket();
            let root = self.path.parent().unwrap_or(Path::new("/"));
            if self.holds_only_state()? && self.rename(&root.join(SPARE)).is_ok() {
                // Nobody fills it as long as this process holds its lock.
                return self.scrub();
            }
            // Something that is not the runtime's own may be in there: the front end's, perhaps.
            let hidden = root.join(format!(",{}", std::process::id()));
            match self.rename(&hidden) {
                Ok(()) => std::fs::remove_dir_all(&hidden),
                Err(Errno::NOENT) => Ok(()),
                Err(_) => std::fs::remove_dir_all(&self.path),
            }
        };
        removed().on_path("remove", &self.path)
    }

    fn rename(&self, to: &Path) -> rustix::io::Result<()> {
        rustix::fs::renameat_with(rustix::fs::CWD, &self.path, rustix::fs::CWD, to, RenameFlags::NOREPLACE)
    }

    fn holds_only_state(&self) -> std::io::Result<bool> {
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b".." | b"state.json") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A configuration may hold secrets, which are not kept.
    fn scrub(&self) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, STATE, flags, Mode::empty())?;
        let length = rustix::fs::fstat(&file)?.st_size as usize;
        std::fs::File::from(file).write_all(&vec![b' '; length])
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes the directory `hidden`, locks it and writes its record. Making files is by far the dearest part of keeping
/// records on a disk's file system, so the directory of a deleted container is used again.
fn fill(root: &Path, hidden: &Path, record: &Record, config: &[u8]) -> std::io::Result<(OwnedFd, (OwnedFd, usize))> {
    let cwd = rustix::fs::CWD;
    let spare = rustix::fs::renameat_with(cwd, root.join(SPARE), cwd, hidden, RenameFlags::NOREPLACE).is_ok();
    if !spare {
        match std::fs::DirBuilder::new().mode(0o700).create(hidden) {
            // Left by a killed process of the same id.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    let fd = open_dir(hidden)?;
    // Whoever waited for the lock when it was still another container's finds that out and lets go.
    rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive))?;
    let mut text = render(record)?;
    let room = text.len() + ROOM;
    text.resize(room, b' ');
    text.extend_from_slice(b",\"config\":");
    text.extend_from_slice(config);
    text.push(b'}');
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&fd, STATE, flags, Mode::from_raw_mode(0o600))?;
    let old = rustix::fs::fstat(&file)?.st_size as usize;
    if old > 4 * text.len() {
        rustix::fs::ftruncate(&file, 0)?;
    } else {
        // Blanks after a document are part of it, and cheaper than cutting the file.
        text.resize(text.len().max(old), b' ');
    }
    let mut file = std::fs::File::from(file);
    file.write_all(&text)?;
    Ok((fd, (file.into(), room)))
}

/// Whether a created container still waits for `start`.
pub(crate) fn waits(dir: &Path) -> bool {
    if !dir.join(SOCKET).exists() {
        return false;
    }
    // The socket outlives its listener if `start` was killed between telling it to go on and removing the name.
    let Ok(fd) = open_dir(dir) else { return false };
    let path = format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd());
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

fn open_dir(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Where the configuration's member begins in `state.json`, comma included: after the record, which ends where its
/// braces balance.
fn config_at(text: &[u8]) -> Option<usize> {
    let mut stream = serde_json::Deserializer::from_slice(text.get(HEAD.len()..)?).into_iter::<serde::de::IgnoredAny>();
    stream.next()?.ok()?;
    let end = HEAD.len() + stream.byte_offset();
    Some(end + text.get(end..)?.iter().position(|&b| b == b',')?)
}

fn write_file(dir: BorrowedFd<'_>, name: &str, text: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    std::fs::File::from(fd).write_all(text)
}

/// Writes a process id where the caller wants it, atomically. The temporary file is new: in a directory that others
/// write to as well, a link of its name must not be followed.
pub(crate) fn write_pid_file(path: &Path, pid: i32) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.{pid}"));
    let write = || {
        let open = || std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&hidden);
        let mut file = match open() {
            // What a runtime that was killed left, or a trap.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&hidden).and_then(|()| open())
            }
            other => other,
        }?;
        file.write_all(pid.to_string().as_bytes())?;
        std::fs::rename(&hidden, path)
    };
    write().on_path("write the process id to", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            id: id.into(),
            oci_version: "1.2.0".into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: SystemTime::now(),
            owner: 0,
            phase: Phase::Creating,
            pid: 0,
            start_time: 0,
            cgroup: None,
            annotations: BTreeMap::new(),
            origin: BTreeMap::new(),
            warnings: Vec::new(),
            ephemeral: false,
            rdt_group: None,
        }
    }

    #[test]
    fn a_record_is_locked_written_found_and_removed() {
        let root = std::env::temp_dir().join(format!("strata-record-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let mut r = record("one");
        let locked = Locked::create(&root, &r, br#"{"ociVersion":"1.2.0","hostname":"a}b"}"#).unwrap();
        assert!(matches!(Locked::create(&root, &r, b"{}"), Err(Error::Exists(_))));
        assert!(Locked::try_lock(&root, "one").unwrap().is_none());
        r.pid = std::process::id() as i32;
        locked.write(&r).unwrap();
        assert_eq!(Record::read(&root.join("one")).unwrap().unwrap().pid, r.pid);
        // Too long for its place.
        r.warnings = vec!["w}".repeat(500)];
        locked.write(&r).unwrap();
        drop(locked);
        let again = Locked::lock(&root, "one").unwrap();
        r.warnings.clear();
        again.write(&r).unwrap();
        drop(again);
        assert_eq!(read_config(&root.join("one")).unwrap().hostname.as_deref(), Some("a}b"));
        assert_eq!(Record::read(&root.join("one")).unwrap().unwrap().pid, r.pid);
        assert!(!Record::read(&root.join("one")).unwrap().unwrap().alive(), "another start time is another process");
        Locked::try_lock(&root, "one").unwrap().unwrap().remove().unwrap();
        assert!(matches!(Locked::lock(&root, "one"), Err(Error::NotFound(_))));
        let names: Vec<_> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [SPARE]);
        let left = std::fs::read_to_string(root.join(SPARE).join(STATE)).unwrap();
        assert_eq!(left.trim(), "", "secrets are not kept");
        // The spare directory serves another container, and has nothing of the first.
        r.id = "two".into();
        let locked = Locked::create(&root, &r, b"{\"ociVersion\":\"1.2.0\"}").unwrap();
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
        assert_eq!(Record::read(&root.join("two")).unwrap().unwrap().id, "two");
        assert_eq!(read_config(&root.join("two")).unwrap().hostname, None);
        // What a front end put there goes with it.
        std::fs::write(root.join("two/other"), "x").unwrap();
        locked.remove().unwrap();
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_pid_file_is_not_written_through_a_link() {
        let dir = std::env::temp_dir().join(format!("strata-pidfile-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("victim"), "precious").unwrap();
        std::os::unix::fs::symlink("victim", dir.join(".pid.7")).unwrap();
        write_pid_file(&dir.join("pid"), 7).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("victim")).unwrap(), "precious");
        assert!(dir.join("pid").symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read_to_string(dir.join("pid")).unwrap(), "7");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_socket_tells_whether_the_container_waits() {
        let root = std::env::temp_dir().join(format!("strata-socket-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let locked = Locked::create(&root, &record(&"x".repeat(200)), b"{}").unwrap();
        let listener = locked.listen().unwrap();
        assert!(waits(locked.path()));
        drop(listener);
        assert!(!waits(locked.path()));
        locked.remove().unwrap();
        std::fs::remove_dir_all(&root).unwrap();
    }
}
