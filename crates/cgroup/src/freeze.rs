//! Stopping all processes of a cgroup at once, and signalling them all.
//!
//! Version 1 has the freezer controller, a state machine that can stick in `FREEZING` while processes keep appearing
//! (`admin-guide/cgroup-v1/freezer-subsystem.rst`); version 2 has `cgroup.freeze`, and tells in `cgroup.events` when
//! the last task has stopped.

use crate::Error;
use crate::apply::{Dirs, Place};
use crate::cgroup::Cgroup;
use crate::dir::Dir;
use crate::stats::key;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long all tasks may take to stop.
const LIMIT: Duration = Duration::from_secs(10);
/// The same before a signal, which does not need it.
const KILL_LIMIT: Duration = Duration::from_millis(500);
/// Rounds of signalling where processes cannot be stopped first and may fork meanwhile.
const KILL_ROUNDS: usize = 100;

impl Cgroup {
    /// Stops all processes in the cgroup and below; returns when the last has stopped. On failure they run on.
    pub fn freeze(&self) -> Result<(), Error> {
        self.freeze_within(LIMIT)
    }

    fn freeze_within(&self, limit: Duration) -> Result<(), Error> {
        let dirs = Dirs::new(self);
        let frozen = match place(&dirs)? {
            Place::V1(dir) => freeze_v1(dir, limit),
            Place::V2(dir) => dir.write("cgroup.freeze", "1").and_then(|()| wait_frozen_v2(dir, limit)),
        };
        if frozen.is_err() {
            // The first error is the one to report.
            let _ = self.thaw();
        }
        frozen
    }

    /// Lets them run on.
    pub fn thaw(&self) -> Result<(), Error> {
        match place(&Dirs::new(self))? {
            Place::V1(dir) => dir.write("freezer.state", "THAWED"),
            Place::V2(dir) => dir.write("cgroup.freeze", "0"),
        }
    }

    /// Whether the processes are stopped, or being stopped, by this cgroup or one above it.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match place(&Dirs::new(self))? {
            Place::V1(dir) => Ok(dir.read("freezer.state")?.trim() != "THAWED"),
            Place::V2(dir) => {
                Ok(dir.read("cgroup.freeze")?.trim() == "1" || key(&dir.read("cgroup.events")?, "frozen") == 1)
            }
        }
    }

    /// Sends `signal` to every process in the cgroup and below. None escapes by forking: they are killed by the kernel
    /// in one step where it can (SIGKILL, version 2 of Linux 5.14), else stopped before and let go after. A cgroup
    /// frozen before stays so, except for SIGKILL, which would not end what is frozen. Those that have ended since are
    /// no error.
    pub fn kill_all(&self, signal: i32) -> Result<(), Error> {
        let deadly = signal == libc::SIGKILL;
        if deadly
            && let Some(dir) = Dirs::new(self).v2()?
            && dir.write_if_present("cgroup.kill", "1")?
            && self.v1.is_empty()
        {
            return Ok(());
        }
        let frozen_before = self.is_frozen().ok();
        // A task in state D cannot be stopped, but it can be signalled, so failing to freeze spares no one.
        let frozen =
            frozen_before == Some(true) || frozen_before == Some(false) && self.freeze_within(KILL_LIMIT).is_ok();
        let sent = self.signal_until_no_new(signal, if frozen { 1 } else { KILL_ROUNDS });
        if frozen && (deadly || frozen_before == Some(false)) {
            self.thaw()?;
        }
        sent
    }

    /// Signals every process once, looking for new ones up to `rounds` times.
    fn signal_until_no_new(&self, signal: i32, rounds: usize) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for _ in 0..rounds {
            let new: Vec<i32> = self.pids()?.into_iter().filter(|&pid| seen.insert(pid)).collect();
            for &pid in &new {
                match sys::kill(pid, signal) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(e) => return Err(Error::io("signal process", format!("/proc/{pid}"))(e.into())),
                }
            }
            if new.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// Where freezing happens: the freezer controller, or any version 2 cgroup.
fn place<'d>(dirs: &'d Dirs<'_>) -> Result<Place<'d>, Error> {
    if let Some(place) = dirs.find("freezer")? {
        return Ok(place);
    }
    let why = "pausing needs the freezer controller of cgroup v1, or cgroup v2; this host mounts neither here";
    dirs.v2()?.map(Place::V2).ok_or_else(|| Error::Unsupported(why.to_owned()))
}

fn timeout(dir: &Dir, limit: Duration) -> Error {
    Error::FreezeTimeout { path: dir.path.clone(), wanted: "frozen", seconds: limit.as_secs() }
}

fn freeze_v1(dir: &Dir, limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    for round in 1u32.. {
        // A process that forks or arrives during the freeze can leave the state at FREEZING. Writing FROZEN again
        // catches it; now and then thawing everything for a moment resolves what blocks itself. The intervals are
        // runc's, found by trial.
        if round % 50 == 0 {
            dir.write("freezer.state", "THAWED")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN")?;
        if round % 25 == 0 {
            std::thread::sleep(Duration::from_micros(10));
        }
        if dir.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(timeout(dir, limit))
}

fn wait_frozen_v2(dir: &Dir, limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    let events = dir.open_read("cgroup.events")?;
    let failed = |e: Errno| Error::io("wait for", dir.path.join("cgroup.events"))(e.into());
    let mut text = [0u8; 256];
    loop {
        // Reading also arms the notification, so no change between it and the poll is lost.
        let n = rustix::io::pread(&events, &mut text, 0).map_err(failed)?;
        if key(&String::from_utf8_lossy(&text[..n]), "frozen") == 1 {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timeout(dir, limit));
        }
        let left = Timespec::try_from(left.min(Duration::from_millis(200))).unwrap_or_default();
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// kill(2) with any signal number: rustix knows only the named ones, and a container may use real-time signals.
mod sys {
    use rustix::io::Errno;

    pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
        // 0, -1 and below would address whole groups.
        if pid <= 0 {
            return Err(Errno::SRCH);
        }
        // SAFETY: no memory is involved.
        if unsafe { libc::kill(pid, signal) } == 0 {
            return Ok(());
        }
        // SAFETY: errno of this thread.
        Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
    }
}
