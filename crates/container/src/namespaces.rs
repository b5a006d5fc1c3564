//! Namespaces (namespaces(7)): which are new, which are joined, and in what order.
//!
//! In the common case one `clone3(2)` makes nearly all new ones at once. An intermediate process is needed where the kernel
//! wants a fork after a step: a joined process-id namespace takes effect for children only, clock offsets must be
//! written between the time namespace's making and its first process, and namespaces that are new must belong to a user
//! namespace that is joined. The intermediate forks the container's first process as its sibling (`CLONE_PARENT`), so
//! that the runtime remains its parent, and ends.

use std::ffi::c_int;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use strata_spec::runtime::{IdMapping, Linux, NamespaceKind, Spec};

use crate::config::{self, Namespaces};
use crate::error::{Context, Error};
use crate::procfs::Proc;
use crate::sys;

/// Kind, flag and name below `/proc/PID/ns`.
const ALL: [(NamespaceKind, c_int, &str); 8] = [
    (NamespaceKind::User, libc::CLONE_NEWUSER, "user"),
    (NamespaceKind::Ipc, libc::CLONE_NEWIPC, "ipc"),
    (NamespaceKind::Uts, libc::CLONE_NEWUTS, "uts"),
    (NamespaceKind::Network, libc::CLONE_NEWNET, "net"),
    (NamespaceKind::Pid, libc::CLONE_NEWPID, "pid"),
    (NamespaceKind::Cgroup, libc::CLONE_NEWCGROUP, "cgroup"),
    (NamespaceKind::Time, libc::CLONE_NEWTIME, "time"),
    (NamespaceKind::Mount, libc::CLONE_NEWNS, "mnt"),
];

/// The `CLONE_NEW*` flag of a kind.
pub(crate) fn flag(kind: NamespaceKind) -> c_int {
    ALL.iter().find(|(k, ..)| *k == kind).map_or(0, |(_, flag, _)| *flag)
}

/// The flags of all namespaces that a container does not share with the host.
pub(crate) fn flags(namespaces: &Namespaces) -> c_int {
    ALL.iter().filter(|(kind, ..)| namespaces.has(*kind)).fold(0, |all, (_, flag, _)| all | flag)
}

/// What is made and joined when.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The container's own ones: a namespace that is joined by path may turn out to be the host's.
    pub own: Namespaces,
    /// New ones for the fork of the container's first process.
    pub clone: c_int,
    /// Joined: descriptor and kind, mount namespace last.
    pub join: Vec<(OwnedFd, NamespaceKind)>,
    /// An intermediate process is needed; it makes these before it forks.
    pub intermediate: Option<c_int>,
    /// The cgroup namespace is new: it is unshared once the process is in its cgroup.
    pub cgroup: bool,
    /// The network namespace is new: the process makes it itself, as the kernel takes long for that, and takes its
    /// loopback interface up.
    pub network: bool,
    /// The user namespace is new and needs mappings.
    pub user: bool,
    /// The contents of `timens_offsets`.
    pub offsets: Option<String>,
}

impl Plan {
    /// Opens the namespaces to join. Those that this process is in already are as if they were not listed, so whatever
    /// the configuration wants confined by them is refused.
    pub(crate) fn new(spec: &Spec, linux: &Linux) -> Result<Plan, Error> {
        let listed = Namespaces::of(spec);
        let (mut join, mut hosts) = (Vec::new(), Vec::new());
        for (kind, _, name) in ALL {
            let Some((_, path)) = listed.joined().find(|(k, _)| *k == kind) else { continue };
            let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .on_path("open the namespace", path)?;
            if is_hosts(&fd, name).on_path("examine the namespace", path)? {
                hosts.push(kind);
            } else {
                join.push((fd, kind));
            }
        }
        let own = listed.without(&hosts);
        if !hosts.is_empty() {
            config::validate_confined(spec, linux, &own)?;
        }
        Ok(Plan::of(own, linux, join))
    }

    fn of(own: Namespaces, linux: &Linux, join: Vec<(OwnedFd, NamespaceKind)>) -> Plan {
        let fresh = |kind| own.new_one(kind);
        let mut clone = 0;
        for (kind, flag, _) in ALL {
            if fresh(kind) && !matches!(kind, NamespaceKind::Cgroup | NamespaceKind::Network) {
                clone |= flag;
            }
        }
        let mut offsets = String::new();
        for (clock, offset) in &linux.time_offsets {
            let _ = writeln!(offsets, "{clock} {} {}", offset.secs, offset.nanosecs);
        }
        let offsets = (!offsets.is_empty()).then_some(offsets);
        let joins = |kind| join.iter().any(|(_, k)| *k == kind);
        let user = fresh(NamespaceKind::User);
        let needed =
            joins(NamespaceKind::User) || joins(NamespaceKind::Pid) || offsets.is_some() || (user && !join.is_empty());
        let intermediate = needed.then(|| {
            let early = clone & (libc::CLONE_NEWUSER | libc::CLONE_NEWTIME);
            clone &= !early;
            early
        });
        let (cgroup, network) = (fresh(NamespaceKind::Cgroup), fresh(NamespaceKind::Network));
        Plan { own, clone, join, intermediate, cgroup, network, user, offsets }
    }

    /// Joins. A namespace that belongs to a joined user namespace can be joined only from within that one, one that
    /// belongs to the host's only from without: whichever is refused at first is tried again inside.
    pub(crate) fn join(&self) -> Result<(), Error> {
        let enter = |(fd, kind): &(OwnedFd, NamespaceKind)| sys::setns(fd.as_fd(), flag(*kind));
        let failed = |kind: NamespaceKind, e| Error::system(format!("join the {kind:?} namespace").to_lowercase(), e);
        let mut refused = Vec::new();
        for entry in self.join.iter().filter(|(_, kind)| *kind != NamespaceKind::User) {
            match enter(entry) {
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => refused.push(entry),
                other => other.map_err(|e| failed(entry.1, e))?,
            }
        }
        for entry in self.join.iter().filter(|(_, kind)| *kind == NamespaceKind::User) {
            enter(entry).map_err(|e| failed(entry.1, e))?;
            become_root();
        }
        refused.into_iter().try_for_each(|entry| enter(entry).map_err(|e| failed(entry.1, e)))
    }
}

/// The namespaces that a container's first process has to itself.
pub(crate) fn of_process(spec: &Spec, pid: i32) -> Result<Namespaces, Error> {
    let listed = Namespaces::of(spec);
    let mut hosts = Vec::new();
    for (kind, _) in listed.joined() {
        let Some((.., name)) = ALL.iter().find(|(k, ..)| *k == kind) else { continue };
        let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if is_hosts(&fd.on_path("open", &path)?, name).on_path("examine", &path)? {
            hosts.push(kind);
        }
    }
    Ok(listed.without(&hosts))
}

/// Whether a namespace is the one that this process, and for the container the host, is in. It is examined as a
/// descriptor, since a path may lead elsewhere the next time.
fn is_hosts(namespace: &OwnedFd, name: &str) -> std::io::Result<bool> {
    let own = rustix::fs::stat(format!("/proc/self/ns/{name}"))?;
    let other = rustix::fs::fstat(namespace)?;
    Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
}

/// Becomes root of the user namespace just entered, if it has one.
pub(crate) fn become_root() {
    let (uid, gid) = (rustix::thread::Uid::ROOT, rustix::thread::Gid::ROOT);
    // Without a mapping of 0 this process stays who it is, with all capabilities in the namespace.
    let _ = rustix::thread::set_thread_res_gid(gid, gid, gid);
    let _ = rustix::thread::set_thread_res_uid(uid, uid, uid);
}

/// Whether this process may map any id, or only itself.
pub(crate) fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes the mappings of a process's new user namespace. Returns whether `setgroups(2)` had to be denied in it.
pub(crate) fn write_mappings(proc: &Proc, pid: i32, linux: &Linux) -> Result<(), Error> {
    let maps = [("uid_map", "newuidmap", &linux.uid_mappings), ("gid_map", "newgidmap", &linux.gid_mappings)];
    if setgroups_denied(linux) {
        proc.write(&format!("{pid}/setgroups"), b"deny").context(|| "deny setgroups in the user namespace".into())?;
    }
    for (file, helper, mappings) in maps {
        if privileged() || single_self(mappings) {
            let text = render(mappings);
            proc.write(&format!("{pid}/{file}"), text.as_bytes()).context(|| {
                format!("map the ids of the user namespace ({file}: {})", text.trim().replace('\n', ", "))
            })?;
        } else {
            run_helper(helper, pid, mappings)?;
        }
    }
    Ok(())
}

/// An unprivileged process that maps only its own group must deny `setgroups(2)` first; with `newgidmap` the helper
/// decides.
pub(crate) fn setgroups_denied(linux: &Linux) -> bool {
    !privileged() && !linux.gid_mappings.is_empty() && single_self(&linux.gid_mappings)
}

fn single_self(mappings: &[IdMapping]) -> bool {
    matches!(mappings, [one] if one.size == 1)
}

fn render(mappings: &[IdMapping]) -> String {
    mappings.iter().fold(String::new(), |mut text, m| {
        let _ = writeln!(text, "{} {} {}", m.container_id, m.host_id, m.size);
        text
    })
}

fn run_helper(helper: &str, pid: i32, mappings: &[IdMapping]) -> Result<(), Error> {
    let numbers = mappings.iter().flat_map(|m| [m.container_id, m.host_id, m.size]).map(|n| n.to_string());
    let output =
        std::process::Command::new(helper).arg(pid.to_string()).args(numbers).output().context(|| {
            format!("run {helper} (package uidmap), which maps more than one id for an unprivileged user")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Setup(format!("{helper} failed: {said} (are the ids in /etc/subuid and /etc/subgid?)")))
}

/// A user namespace with these mappings that outlives its first process by this descriptor, for idmapped mounts.
pub(crate) fn user_namespace(proc: &Proc, linux: &Linux) -> Result<OwnedFd, Error> {
    match sys::clone3(libc::CLONE_NEWUSER as u64, None)
        .context(|| "make a user namespace for an idmapped mount".into())?
    {
        sys::Cloned::Child => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            loop {
                let _ = rustix::thread::nanosleep(&rustix::thread::Timespec { tv_sec: 60, tv_nsec: 0 });
            }
        }
        sys::Cloned::Parent { pid, pidfd } => {
            let namespace = write_mappings(proc, pid, linux).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .context(|| format!("open {path}"))
            });
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = crate::console::exit_code(pidfd.as_fd());
            namespace
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(linux: &str) -> (Spec, Linux) {
        let linux: Linux = serde_json::from_str(linux).unwrap();
        (Spec { linux: Some(linux.clone()), ..Spec::default() }, linux)
    }

    /// The plan, whatever is at the paths of joined namespaces.
    fn plan(linux: &str) -> Plan {
        let (spec, linux) = parse(linux);
        let own = Namespaces::of(&spec);
        let any = || std::fs::File::open("/dev/null").unwrap().into();
        let join = own.joined().map(|(kind, _)| (any(), kind)).collect();
        Plan::of(own, &linux, join)
    }

    #[test]
    fn the_hosts_namespace_confines_nothing() {
        let (spec, mut linux) = parse(r#"{"namespaces":[{"type":"network","path":"/proc/self/ns/net"}]}"#);
        let p = Plan::new(&spec, &linux).unwrap();
        assert!(p.join.is_empty() && p.clone == 0 && !p.own.has(NamespaceKind::Network));
        linux.sysctl.insert("net.ipv4.ip_forward".into(), "0".into());
        let said = Plan::new(&spec, &linux).unwrap_err().to_string();
        assert!(said.contains("network namespace in linux.namespaces that is not the host's"), "{said}");
        let (mut spec, linux) = parse(r#"{"namespaces":[{"type":"uts","path":"/proc/self/ns/uts"}]}"#);
        spec.hostname = Some("h".into());
        assert!(Plan::new(&spec, &linux).unwrap_err().to_string().contains("hostname"));
    }

    #[test]
    fn new_namespaces_are_made_by_one_clone() {
        let p = plan(r#"{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"cgroup"},{"type":"time"}]}"#);
        assert_eq!(p.clone, libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWTIME);
        assert!(p.cgroup && p.intermediate.is_none());
    }

    #[test]
    fn an_intermediate_is_used_only_where_a_fork_must_follow() {
        let p = plan(r#"{"namespaces":[{"type":"pid"},{"type":"network","path":"/proc/self/ns/net"}]}"#);
        assert!(p.intermediate.is_none());
        let p = plan(r#"{"namespaces":[{"type":"mount"},{"type":"pid","path":"/proc/self/ns/pid"}]}"#);
        assert_eq!((p.intermediate, p.clone), (Some(0), libc::CLONE_NEWNS));
        let p = plan(r#"{"namespaces":[{"type":"time"},{"type":"pid"}],"timeOffsets":{"boottime":{"secs":-5}}}"#);
        assert_eq!((p.intermediate, p.clone), (Some(libc::CLONE_NEWTIME), libc::CLONE_NEWPID));
        assert_eq!(p.offsets.as_deref(), Some("boottime -5 0\n"));
        let p = plan(r#"{"namespaces":[{"type":"user"},{"type":"network","path":"/proc/self/ns/net"}]}"#);
        assert_eq!(p.intermediate, Some(libc::CLONE_NEWUSER));
    }
}
