//! Notice that the kernel ended processes of a cgroup for want of memory.
//!
//! Version 1 signals an eventfd registered in `cgroup.event_control` (`admin-guide/cgroup-v1/memory.rst`, section 10);
//! version 2 changes `memory.events`, which inotify sees. Both also tell when the cgroup is done with.

use crate::Error;
use crate::apply::{Dirs, Place};
use crate::cgroup::Cgroup;
use crate::dir::Dir;
use crate::stats::key;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomEvent {
    /// The memory limit was hit and nothing could be reclaimed.
    OutOfMemory,
    /// The cgroup was removed, or in version 2 its last process ended: nothing more will happen.
    Gone,
}

/// A watch on one cgroup, see [`Cgroup::oom_events`]. Its descriptor becomes readable when [`next`](OomWatch::next)
/// should be called.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    dir: Dir,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// `memory.oom_control`, which must stay open as long as the registration.
    V1 { _control: OwnedFd },
    /// The count of kills seen so far.
    V2 { kills: u64 },
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomWatch {
    pub(crate) fn new(cgroup: &Cgroup) -> Result<OomWatch, Error> {
        let dirs = Dirs::new(cgroup);
        let Some(place) = dirs.find("memory")? else {
            return Err(dirs.missing("memory", "a watch for out-of-memory events"));
        };
        match place {
            Place::V1(dir) => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let fd = eventfd(0, flags).map_err(|e| Error::io("make an eventfd for", &dir.path)(e.into()))?;
                let control = dir.open_read("memory.oom_control")?;
                dir.write("cgroup.event_control", &format!("{} {}", fd.as_raw_fd(), control.as_raw_fd()))?;
                let dir = Dir::open(&dir.path)?;
                Ok(OomWatch { fd, dir, source: Source::V1 { _control: control } })
            }
            Place::V2(dir) => {
                let watching = || {
                    let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
                    for file in ["memory.events", "cgroup.events"] {
                        add_watch(&fd, dir.path.join(file), WatchFlags::MODIFY)?;
                    }
                    Ok::<_, Errno>(fd)
                };
                let fd = watching().map_err(|e| Error::io("watch memory.events of", &dir.path)(e.into()))?;
                // After the watch is on, so that no kill falls between.
                let kills = key(&dir.read("memory.events")?, "oom_kill");
                Ok(OomWatch { fd, dir: Dir::open(&dir.path)?, source: Source::V2 { kills } })
            }
        }
    }

    /// Waits for the next event; `None` when `timeout` passes first. Without one it waits for ever.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<OomEvent>, Error> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let spec = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], spec.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(Error::io("wait for events of", &self.dir.path)(e.into())),
            }
            let gone = match self.drain() {
                Ok(gone) => gone,
                // Another reader of the same descriptor was faster.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(e) => return Err(Error::io("read events of", &self.dir.path)(e.into())),
            };
            if let Some(event) = self.look(gone)? {
                return Ok(Some(event));
            }
        }
    }

    /// Reads what made the descriptor readable; whether a watched file was removed.
    fn drain(&self) -> Result<bool, Errno> {
        let mut buffer = [0u8; 4096];
        match &self.source {
            Source::V1 { .. } => {
                let _ = rustix::io::read(&self.fd, &mut buffer[..8])?;
                Ok(false)
            }
            Source::V2 { .. } => {
                let mut space = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
                let mut reader = rustix::fs::inotify::Reader::new(&self.fd, &mut space);
                let mut gone = false;
                loop {
                    match reader.next() {
                        Ok(event) => gone |= event.events().contains(ReadFlags::IGNORED),
                        Err(Errno::AGAIN) => return Ok(gone),
                        Err(e) => return Err(e),
                    }
                }
            }
        }
    }

    fn look(&mut self, gone: bool) -> Result<Option<OomEvent>, Error> {
        match &mut self.source {
            // The eventfd is signalled a last time when the cgroup is removed.
            Source::V1 { .. } if self.dir.exists("memory.oom_control") => Ok(Some(OomEvent::OutOfMemory)),
            Source::V1 { .. } => Ok(Some(OomEvent::Gone)),
            Source::V2 { kills } => {
                let read = |file: &str| match self.dir.read_errno(file) {
                    Ok(text) => Ok(Some(text)),
                    Err(Errno::NOENT | Errno::NODEV) => Ok(None),
                    Err(e) => Err(Error::io("read", self.dir.path.join(file))(e.into())),
                };
                let (Some(memory), Some(events)) = (read("memory.events")?, read("cgroup.events")?) else {
                    return Ok(Some(OomEvent::Gone));
                };
                let now = key(&memory, "oom_kill");
                if now > std::mem::replace(kills, now) {
                    return Ok(Some(OomEvent::OutOfMemory));
                }
                let empty = gone || key(&events, "populated") == 0 && events.contains("populated");
                Ok(empty.then_some(OomEvent::Gone))
            }
        }
    }
}
