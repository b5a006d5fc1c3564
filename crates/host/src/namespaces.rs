//! Namespaces (namespaces(7)) and the rules for user namespaces (user_namespaces(7), subuid(5)).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::support::Support;
use crate::sys::calls::{self, Answer};
use crate::sys::child::{self, Child};

/// Every kind: its name below `/proc/self/ns`, its `CLONE_NEW*` flag, its limit below `/proc/sys/user`.
const KINDS: [(&str, i32, &str); 8] = [
    ("cgroup", libc::CLONE_NEWCGROUP, "max_cgroup_namespaces"),
    ("ipc", libc::CLONE_NEWIPC, "max_ipc_namespaces"),
    ("mnt", libc::CLONE_NEWNS, "max_mnt_namespaces"),
    ("net", libc::CLONE_NEWNET, "max_net_namespaces"),
    ("pid", libc::CLONE_NEWPID, "max_pid_namespaces"),
    ("time", 0x80, "max_time_namespaces"), // CLONE_NEWTIME
    ("user", libc::CLONE_NEWUSER, "max_user_namespaces"),
    ("uts", libc::CLONE_NEWUTS, "max_uts_namespaces"),
];

/// One kind of namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Name below `/proc/self/ns`.
    pub kind: String,
    /// Whether the kernel has it.
    pub exists: bool,
    /// Most namespaces of this kind a user may have.
    pub limit: Option<u64>,
    /// Whether this process can make one with the privileges it has.
    pub create: Support,
    /// Whether it can make one inside a new user namespace, as an unprivileged user does; absent for `user` itself.
    pub create_in_user_namespace: Option<Support>,
}

/// Rules for user namespaces, and the ids this user may map into one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespaces {
    /// `kernel.unprivileged_userns_clone` (Debian, Arch), where there is one.
    pub unprivileged_clone: Option<bool>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu), where there is one.
    pub apparmor_restricted: Option<bool>,
    /// This user's ranges of `/etc/subuid`.
    pub subuid: Vec<IdRange>,
    /// This user's ranges of `/etc/subgid`.
    pub subgid: Vec<IdRange>,
    /// Whether `newuidmap` and `newgidmap` are in `PATH` and may set ids (set-user-ID or file capability).
    pub newuidmap: Support,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id on the host.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Default for Support {
    fn default() -> Support {
        Support::unknown("not asked")
    }
}

/// Asks for every kind. Children are started together and answer within `timeout`.
pub fn namespaces(files: &Files, live: bool, timeout: Duration) -> Vec<Namespace> {
    let spawn = |flags: i32| live.then(|| Child::spawn(move || calls::unshare(flags)));
    let started: Vec<_> = KINDS
        .iter()
        .map(|&(name, flag, _)| {
            (spawn(flag), if name == "user" { None } else { Some(spawn(flag | libc::CLONE_NEWUSER)) })
        })
        .collect();
    KINDS
        .iter()
        .zip(started)
        .map(|(&(name, _, limit), (alone, with_user))| Namespace {
            kind: name.into(),
            exists: files.exists(format!("/proc/self/ns/{name}")),
            limit: files.value(format!("/proc/sys/user/{limit}")),
            create: outcome(alone, timeout),
            create_in_user_namespace: with_user.map(|child| outcome(child, timeout)),
        })
        .collect()
}

fn outcome(child: Option<Result<Child<Answer>, child::Error>>, timeout: Duration) -> Support {
    match child {
        None => Support::unknown("recorded host"),
        Some(child) => Support::of_child(child.and_then(|c| c.wait(timeout))),
    }
}

impl UserNamespaces {
    /// For the user `uid`; programs are looked for in `path`.
    pub fn read(files: &Files, uid: u32, path: &str) -> UserNamespaces {
        let passwd = files.text("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            (id.parse() == Ok(uid)).then(|| name.to_string())
        });
        let ranges = |file| ranges(&files.text(file).unwrap_or_default(), uid, name.as_deref());
        UserNamespaces {
            unprivileged_clone: files.flag("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricted: files.flag("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            subuid: ranges("/etc/subuid"),
            subgid: ranges("/etc/subgid"),
            newuidmap: newuidmap(files, path),
        }
    }
}

fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<IdRange> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let mine = Some(owner) == name || owner.parse() == Ok(uid);
        let range = IdRange { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
        mine.then_some(range)
    };
    text.lines().filter_map(line).collect()
}

fn newuidmap(files: &Files, path: &str) -> Support {
    use std::os::unix::fs::MetadataExt;
    for program in ["newuidmap", "newgidmap"] {
        let found = path.split(':').map(|dir| files.path(format!("{dir}/{program}"))).find(|p| p.is_file());
        let Some(found) = found else { return Support::no(format!("{program} is not in PATH")) };
        let set_id = std::fs::metadata(&found).is_ok_and(|m| m.mode() & 0o6000 != 0);
        let mut value = [0u8; 64];
        let capable = rustix::fs::getxattr(&found, "security.capability", &mut value[..]).is_ok();
        if !set_id && !capable {
            return Support::no(format!("{} is neither set-user-ID nor has file capabilities", found.display()));
        }
    }
    Support::Yes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "root:100000:65536\nann:165536:65536\n1000:300000:10\nbroken\nann:x:1\n";
        assert_eq!(ranges(text, 1000, Some("ann")).len(), 2);
        assert_eq!(ranges(text, 0, Some("root")), [IdRange { first: 100_000, count: 65_536 }]);
        assert!(ranges(text, 7, None).is_empty());
    }
}
