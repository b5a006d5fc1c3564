//! What can go wrong, said so that the reader knows what to change.

use std::io;
use std::path::PathBuf;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host mounts no cgroup file system at all.
    #[error(
        "no cgroup hierarchy is mounted: /proc/self/mountinfo names no cgroup or cgroup2 file system; mount one below /sys/fs/cgroup"
    )]
    NotMounted,
    /// A file operation that is not the write of a setting.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, an infinitive.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the value of a setting.
    #[error("cannot write {value:?} to {}: {source}{}", path.display(), hint(source))]
    Write {
        /// The interface file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cgroup holds processes already.
    #[error("cgroup {} holds {count} process(es) already; choose another linux.cgroupsPath or end them", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// How many processes were found.
        count: usize,
    },
    /// An existing cgroup was found frozen: what joins it would never run.
    #[error("cgroup {} is frozen; thaw or remove it first", path.display())]
    Frozen {
        /// The directory.
        path: PathBuf,
    },
    /// A name or path that cannot be used.
    #[error("{what} {value:?} cannot be used: {why}")]
    Name {
        /// Which name.
        what: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        why: &'static str,
    },
    /// A setting needs a controller that this host does not offer.
    #[error("{setting} needs the {controller} controller, which {place}")]
    Controller {
        /// The setting, in words.
        setting: &'static str,
        /// The controller.
        controller: String,
        /// Where it is missing and what to do.
        place: String,
    },
    /// A value outside of what the setting accepts.
    #[error("{setting}: {value} is not possible; {why}")]
    Value {
        /// The setting, in words.
        setting: &'static str,
        /// The value given.
        value: String,
        /// What would be right.
        why: String,
    },
    /// A limit below what is used now.
    #[error(
        "{setting} of {limit} bytes is refused: {usage} bytes are in use; free memory first or give a higher limit"
    )]
    BelowUsage {
        /// The setting, in words.
        setting: &'static str,
        /// The limit asked, bytes.
        limit: i64,
        /// Current use, bytes.
        usage: u64,
    },
    /// The tasks would not stop, or start, within the time allowed.
    #[error("cgroup {} did not become {wanted} within {seconds} s: a task is probably waiting for a device (state D)", path.display())]
    FreezeTimeout {
        /// The directory.
        path: PathBuf,
        /// `frozen` or `thawed`.
        wanted: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The cgroup could not be removed in the time allowed.
    #[error("cgroup {} cannot be removed: it still holds processes after {seconds} s; end them and remove it again", path.display())]
    RemoveTimeout {
        /// The directory.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// systemd refused or failed a request.
    #[error("systemd: {call} failed: {reason}")]
    Systemd {
        /// The method called.
        call: String,
        /// What systemd or the bus said.
        reason: String,
    },
    /// This operation has no means on this host.
    #[error("{0}")]
    Unsupported(String),
}

/// What the commonest error numbers mean for a cgroup file, which their own texts do not say.
fn hint(e: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match e.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ROFS) => " (the cgroup file system is mounted read-only here)",
        Some(Errno::ACCESS | Errno::PERM) => " (this needs root or a cgroup delegated to this user)",
        Some(Errno::BUSY) => " (the cgroup or its parent holds processes, or the limit is below current use)",
        Some(Errno::INVAL) => " (the kernel does not accept this value here; a parent's limit may be tighter)",
        _ => "",
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }

    /// The kernel's error number, if this error carries one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } | Error::Write { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
