//! The container's side of making a container: the child, from the fork to the program. It is a copy of the
//! single-threaded runtime, so everything prepared there is at hand here. It dies with the runtime until it is told that
//! the record is written.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use rustix::net::SocketFlags;
use rustix::process::Signal;
use strata_cgroup::Cgroup;
use strata_spec::runtime::{Linux, Spec};
use strata_spec::state::{State, Status};

use crate::config;
use crate::console::{self, Destination};
use crate::error::{Context, Error};
use crate::mounts::Surroundings;
use crate::procfs::Proc;
use crate::rootfs::{Entrance, Rootfs};
use crate::sync::{self, Tag};
use crate::{create, hooks, inject, namespaces, netdev, process, sys};

/// More than any container takes to be set up, bytes.
const SET_UP_MEMORY: i64 = 16 << 20;

/// What the child is to do.
pub(crate) struct Init {
    pub spec: Spec,
    pub linux: Linux,
    pub namespaces: namespaces::Plan,
    pub own_mounts: bool,
    pub user_namespace: bool,
    pub cgroup_namespace: bool,
    pub process: Option<process::Plan>,
    pub proc: Proc,
    pub rootfs: PathBuf,
    pub bundle: PathBuf,
    pub root_tree: Option<OwnedFd>,
    pub trees: Vec<Option<OwnedFd>>,
    pub entrance: Entrance,
    pub console: Option<Destination>,
    /// The runtime has something to do before the root is entered.
    pub attended: bool,
    pub devices: Vec<netdev::Device>,
    pub state: State,
    pub cgroup: Option<Cgroup>,
    /// The cgroup, or its version 1 part, is made beside or after this process, which then has to join it.
    pub awaits_cgroup: bool,
    /// `create`: where `start` will be heard. `run`: none.
    pub listen: Option<OwnedFd>,
}

/// The child's whole life. `others` and `lock` are the runtime's.
pub(crate) fn run(init: Init, sync: OwnedFd, others: OwnedFd, lock: BorrowedFd<'_>) -> ! {
    inject::at("child-cloned");
    drop(others);
    sys::close_inherited(lock);
    // On an error the values in it are not dropped: the descriptors that they name may be closed, see `build`.
    let mut init = std::mem::ManuallyDrop::new(init);
    // A panic must not unwind into the runtime's own frames, of which this process has a copy.
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| live(&mut init, &sync)));
    sync::send_last_words(&sync, ended);
    sys::exit_now(1)
}

fn live(init: &mut Init, sync: &OwnedFd) -> Result<Infallible, Error> {
    // What the caller left open is not for hooks, and what it wants preserved is for the program only.
    sys::close_on_exec_from(3).context(|| "mark descriptors close-on-exec".into())?;
    die_with_runtime(sync)?;
    // The children that follow are born in it.
    if init.namespaces.intermediate.is_some() {
        join_cgroup(&mut init.awaits_cgroup, sync)?;
    }
    init.enter_namespaces(sync)?;
    init.build(sync)
}

/// Joins the cgroup if that was `awaited`. This process is single-threaded and moves only itself, which spares the whole
/// host a pause. The files were opened by the runtime, whose privileges count.
fn join_cgroup(awaited: &mut bool, sync: &OwnedFd) -> Result<(), Error> {
    if std::mem::take(awaited) {
        for file in sync::expect(sync, Tag::Cgroup)?.fds {
            rustix::io::write(&file, b"0").context(|| "join the cgroup".into())?;
        }
    }
    Ok(())
}

/// Joins the cgroup and then makes the `wanted` namespace, whose root is where this process is. Making the cgroup takes
/// the runtime about as long as the first mounts take this process, so this comes as late as it can: before the first
/// mount, hook or program that shows or needs it.
fn enter_cgroup(awaited: &mut bool, wanted: &mut bool, sync: &OwnedFd) -> Result<(), Error> {
    join_cgroup(awaited, sync)?;
    if std::mem::take(wanted) {
        sys::unshare(libc::CLONE_NEWCGROUP).context(|| "make the cgroup namespace".into())?;
    }
    inject::at("child-joined");
    Ok(())
}

/// Gives the filter's notifications to whoever may pass them on.
fn hand_over(channel: &OwnedFd, listener: OwnedFd) -> Result<(), Error> {
    sync::send_with(channel, Tag::SeccompFd, b"", &[listener.as_fd()]).context(|| "hand over the listener".into())
}

/// From here on this process is killed if the runtime dies. Changes of credentials undo this.
fn die_with_runtime(sync: &OwnedFd) -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context(|| "tie to the runtime".into())?;
    // It may have died before.
    let mut fds = [PollFd::new(sync, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) if fds[0].revents().contains(PollFlags::HUP) => sys::exit_now(1),
        _ => Ok(()),
    }
}

impl Init {
    fn enter_namespaces(&mut self, sync: &OwnedFd) -> Result<(), Error> {
        match self.namespaces.intermediate {
            None => {
                if self.namespaces.user {
                    sync::expect(sync, Tag::Mappings)?;
                    namespaces::become_root();
                }
                process::undumpable()?;
                self.namespaces.join()?;
            }
            Some(early) => {
                self.namespaces.join()?;
                if early & libc::CLONE_NEWUSER != 0 {
                    sys::unshare(libc::CLONE_NEWUSER).context(|| "make the user namespace".into())?;
                    sync::send(sync, Tag::Mappings, b"u").context(|| "ask for mappings".into())?;
                    sync::expect(sync, Tag::Mappings)?;
                    namespaces::become_root();
                }
                if early & libc::CLONE_NEWTIME != 0 {
                    sys::unshare(libc::CLONE_NEWTIME).context(|| "make the time namespace".into())?;
                    if self.namespaces.offsets.is_some() {
                        sync::send(sync, Tag::Mappings, b"t").context(|| "ask for clock offsets".into())?;
                        sync::expect(sync, Tag::Mappings)?;
                    }
                }
                let flags = self.namespaces.clone as u64 | libc::CLONE_PARENT as u64;
                match sys::clone3(flags, None).context(|| "fork into the namespaces".into())? {
                    sys::Cloned::Parent { pid, .. } => {
                        let _ = sync::send(sync, Tag::Pid, &pid.to_ne_bytes());
                        sys::exit_now(0);
                    }
                    sys::Cloned::Child => process::undumpable()?,
                }
            }
        }
        die_with_runtime(sync)?;
        if self.namespaces.network {
            sys::unshare(libc::CLONE_NEWNET)
                .context(|| "make the network namespace (a limit in /proc/sys/user may be reached)".into())?;
            netdev::loopback_up()?;
        }
        self.namespaces.join.clear();
        Ok(())
    }

    fn build(&mut self, sync: &OwnedFd) -> Result<Infallible, Error> {
        // Also leaves the caller's terminal.
        let _ = rustix::process::setsid();
        rustix::process::umask(rustix::fs::Mode::empty());
        if let Some(name) = self.spec.hostname.as_deref().filter(|n| !n.is_empty()) {
            rustix::system::sethostname(name.as_bytes()).context(|| format!("set the host name {name:?}"))?;
        }
        if let Some(name) = self.spec.domainname.as_deref().filter(|n| !n.is_empty()) {
            rustix::system::setdomainname(name.as_bytes()).context(|| format!("set the domain name {name:?}"))?;
        }
        let labels = self.process.as_ref().map(|p| p.open_labels(&self.proc)).transpose()?.unwrap_or_default();

        let rootfs = Rootfs::open(&self.rootfs, &self.linux, self.own_mounts, self.entrance, self.root_tree.take())?;
        inject::at("child-rootfs");
        let trees = std::mem::take(&mut self.trees);
        let around = Surroundings {
            root: &rootfs.root,
            bundle: &self.bundle,
            label: self.linux.mount_label.as_deref(),
            user_namespace: self.user_namespace,
            own: &self.namespaces.own,
            cgroup: self.cgroup.as_ref(),
            cgroup_namespace: self.cgroup_namespace,
        };
        let (awaited, wanted) = (&mut self.awaits_cgroup, &mut self.namespaces.cgroup);
        let mut enter_cgroup = || enter_cgroup(awaited, wanted, sync);
        let late = Rootfs::fill(&around, &self.spec, &self.linux, trees, &mut enter_cgroup)?;
        enter_cgroup()?;
        let terminal = match (&self.console, &self.process) {
            (Some(destination), Some(process)) => {
                let size = process.process().console_size;
                let slave = console::open(&rootfs.root, &self.proc, size, destination, sync.as_fd())?;
                if self.own_mounts {
                    console::bind(&rootfs.root, slave.as_fd())?;
                }
                Some(slave)
            }
            _ => None,
        };
        self.console = None;
        inject::at("child-mounted");
        if self.attended {
            sync::send(sync, Tag::Hooks, b"").context(|| "ask for the hooks".into())?;
            sync::expect(sync, Tag::Hooks)?;
            netdev::configure_all(&self.devices)?;
        }
        // Hooks in the container's namespaces see the container's ids.
        let state = |status| State { status, pid: Some(rustix::process::getpid().as_raw_pid()), ..self.state.clone() };
        hooks::run("createContainer", hooks::of(&self.spec, "createContainer"), &state(Status::Creating))?;

        for (key, value) in &self.linux.sysctl {
            let path = format!("sys/{}", config::sysctl_path(key));
            self.proc.write(&path, value.as_bytes()).context(|| format!("set linux.sysctl {key} to {value:?}"))?;
        }
        rootfs.restrict(&self.spec, &self.linux, late)?;
        rootfs.enter(self.entrance, &self.linux)?;
        inject::at("child-pivoted");
        if let Some(slave) = terminal {
            console::adopt(&slave)?;
        }
        let Some(process) = &self.process else {
            sys::close_from(3, &self.sockets(sync)).context(|| "close descriptors".into())?;
            return self.wait_without_program(sync);
        };
        if !self.user_namespace {
            process.limits().apply_to(0)?;
        }
        process.with_privileges(labels)?;
        process.close_descriptors(&self.sockets(sync))?;
        process.become_user()?;
        die_with_runtime(sync)?;
        let mut settled = process.settle()?;
        if let Some(listener) = settled.listener.take() {
            hand_over(sync, listener)?;
        }
        if let Some(warning) = &settled.warning {
            let _ = sync::send(sync, Tag::Warning, warning.as_bytes());
        }
        inject::at("child-ready");

        let starter = self.await_start(sync)?;
        let channel = starter.as_ref().unwrap_or(sync);
        inject::at("child-starting");
        let run = hooks::run_inside(hooks::of(&self.spec, "startContainer"), &state(Status::Created), settled.env());
        let error = match run {
            Err(e) => e,
            Ok(()) => process.execute(&settled, |listener| hand_over(channel, listener)),
        };
        sync::send_error(channel, &error);
        sys::exit_now(1)
    }

    /// What is still needed once the root is entered.
    fn sockets<'a>(&'a self, sync: &'a OwnedFd) -> Vec<BorrowedFd<'a>> {
        [sync].into_iter().chain(&self.listen).map(AsFd::as_fd).collect()
    }

    /// Whether the runtime has anything to do once everything is made here. In a user namespace it is the one that may
    /// raise limits.
    pub(crate) fn reports(&self) -> bool {
        let limits = self.user_namespace && self.process.as_ref().is_some_and(|p| !p.limits().is_empty());
        // The end of the stream is a program that runs, or a process that was killed while it was set up: what a limit may
        // be too small for must be told apart.
        let tight = create::memory_limit(&self.linux).is_some_and(|limit| limit < SET_UP_MEMORY);
        self.listen.is_some() || self.attended || self.namespaces.intermediate.is_some() || limits || tight
    }

    /// Waits until the program may run. Returns the connection of `start`, if that is who said so.
    fn await_start(&self, sync: &OwnedFd) -> Result<Option<OwnedFd>, Error> {
        let Some(listen) = &self.listen else {
            // `run` says go before it is asked, where it has nothing more to do.
            if self.reports() {
                sync::send(sync, Tag::Ready, b"").context(|| "report to the runtime".into())?;
            }
            sync::expect(sync, Tag::Go)?;
            rustix::process::set_parent_process_death_signal(None).context(|| "untie from the runtime".into())?;
            return Ok(None);
        };
        self.await_commit(sync)?;
        inject::at("child-waiting");
        loop {
            let starter = rustix::io::retry_on_intr(|| rustix::net::accept_with(listen, SocketFlags::CLOEXEC))
                .context(|| "wait for start".into())?;
            // Whoever only looks whether somebody waits hangs up again.
            if matches!(sync::receive(&starter), Ok(Some(packet)) if packet.tag == Tag::Go) {
                return Ok(Some(starter));
            }
        }
    }

    /// The runtime may end as soon as it has said go, so that it must be said good-bye to before; if it dies without
    /// having said so, the stream ends.
    fn await_commit(&self, sync: &OwnedFd) -> Result<(), Error> {
        rustix::process::set_parent_process_death_signal(None).context(|| "untie from the runtime".into())?;
        sync::send(sync, Tag::Ready, b"").context(|| "report to the runtime".into())?;
        sync::expect(sync, Tag::Go).map(drop)
    }

    /// A container without a program can be created and deleted, not started.
    fn wait_without_program(&self, sync: &OwnedFd) -> Result<Infallible, Error> {
        self.await_commit(sync)?;
        let Some(listen) = &self.listen else {
            return Err(Error::invalid("process", "there is none, so there is nothing to run"));
        };
        loop {
            let Ok(starter) = rustix::net::accept_with(listen, SocketFlags::CLOEXEC) else { continue };
            if matches!(sync::receive(&starter), Ok(Some(packet)) if packet.tag == Tag::Go) {
                let error = Error::invalid("process", "there is none, so the container cannot be started");
                sync::send_error(&starter, &error);
            }
        }
    }
}
