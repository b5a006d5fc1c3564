//! Which cgroup hierarchies this host has, and where.
//!
//! Version 1 has many hierarchies, each mounted on its own and carrying some controllers (or none but a name, such as
//! `name=systemd`); version 2 has one, with all the others. A host may have both: a *hybrid*, where a controller
//! belongs to whichever hierarchy took it first. See cgroups(7), proc_pid_cgroup(5) and proc_pid_mountinfo(5).

use crate::Error;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The cgroup hierarchies of this host as the calling process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Version 1 hierarchies only.
    V1(Vec<Hierarchy>),
    /// The version 2 hierarchy only.
    V2(Hierarchy),
    /// Version 1 hierarchies and the version 2 hierarchy beside them.
    Hybrid(Vec<Hierarchy>, Hierarchy),
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers; for a named version 1 hierarchy, `name=NAME`; for version 2, those its root offers.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The calling process's cgroup in it, absolute, as seen from the mount point.
    pub own: String,
}

impl Layout {
    /// Reads the layout of this host: `/proc/self/mountinfo` and `/proc/self/cgroup`, each once.
    pub fn detect() -> Result<Layout, Error> {
        let read = |path: &str| {
            // These files do not tell their size, and reading them in small parts is dear.
            let mut text = Vec::with_capacity(8192);
            let read = std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text));
            read.map(|_| text).map_err(Error::io("read", path))
        };
        let mountinfo = read("/proc/self/mountinfo")?;
        let own = read("/proc/self/cgroup")?;
        Layout::detect_from(&String::from_utf8_lossy(&mountinfo), &String::from_utf8_lossy(&own))
    }

    /// The same from the texts of the two files. The version 2 root's `cgroup.controllers` is read from its mount point.
    pub fn detect_from(mountinfo: &str, self_cgroup: &str) -> Result<Layout, Error> {
        let own = parse_self_cgroup(self_cgroup);
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut v2: Option<Hierarchy> = None;
        for mount in mountinfo.lines().filter_map(parse_mount) {
            if mount.fs_type == "cgroup2" {
                // An ordinary system has one; where a container engine mounted another, the first is the host's.
                if v2.is_none() {
                    let path = own.iter().find(|(controllers, _)| controllers.is_empty()).map_or("/", |(_, path)| path);
                    let list = std::fs::read(mount.point.join("cgroup.controllers")).unwrap_or_default();
                    v2 = Some(Hierarchy {
                        controllers: String::from_utf8_lossy(&list).split_whitespace().map(String::from).collect(),
                        own: seen_from(&mount.root, path),
                        mount_point: mount.point,
                    });
                }
                continue;
            }
            // The super-block options hold the controllers among others; /proc/self/cgroup says which words are some.
            let Some((controllers, path)) = own.iter().find(|(controllers, _)| {
                !controllers.is_empty() && controllers.iter().all(|c| mount.options.iter().any(|o| o == c))
            }) else {
                continue;
            };
            if v1.iter().all(|h| &h.controllers != controllers) {
                v1.push(Hierarchy {
                    controllers: controllers.clone(),
                    own: seen_from(&mount.root, path),
                    mount_point: mount.point,
                });
            }
        }
        match (v1.is_empty(), v2) {
            (true, None) => Err(Error::NotMounted),
            (true, Some(v2)) => Ok(Layout::V2(v2)),
            (false, None) => Ok(Layout::V1(v1)),
            (false, Some(v2)) => Ok(Layout::Hybrid(v1, v2)),
        }
    }

    /// The controllers this host offers, in any hierarchy; named hierarchies are none.
    pub fn controllers(&self) -> Vec<String> {
        let all = self.v1().iter().chain(self.v2()).flat_map(|h| &h.controllers);
        let mut list: Vec<String> = all.filter(|c| !c.starts_with("name=")).cloned().collect();
        list.sort();
        list.dedup();
        list
    }

    /// Whether the kernel accounts swap, so that a limit on it can be set.
    pub fn accounts_swap(&self) -> bool {
        match self.v1().iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == "memory")) {
            Some(memory) => memory.mount_point.join("memory.memsw.limit_in_bytes").exists(),
            // The root cgroup of version 2 has no limits to look at. Kernels from 6.2 on ignore the parameter.
            None => {
                let off = |line: String| line.split_whitespace().any(|word| word == "swapaccount=0");
                Path::new("/proc/swaps").exists() && !std::fs::read_to_string("/proc/cmdline").is_ok_and(off)
            }
        }
    }

    /// `v1`, `v2` or `hybrid`.
    pub fn name(&self) -> &'static str {
        match self {
            Layout::V1(_) => "v1",
            Layout::V2(_) => "v2",
            Layout::Hybrid(..) => "hybrid",
        }
    }

    /// The version 1 hierarchies.
    pub fn v1(&self) -> &[Hierarchy] {
        match self {
            Layout::V1(list) | Layout::Hybrid(list, _) => list,
            Layout::V2(_) => &[],
        }
    }

    /// The version 2 hierarchy.
    pub fn v2(&self) -> Option<&Hierarchy> {
        match self {
            Layout::V1(_) => None,
            Layout::V2(h) | Layout::Hybrid(_, h) => Some(h),
        }
    }
}

/// What matters of one line of mountinfo.
struct Mount {
    root: String,
    point: PathBuf,
    fs_type: String,
    options: Vec<String>,
}

fn parse_mount(line: &str) -> Option<Mount> {
    // 41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let fs_type = after.next()?;
    if fs_type != "cgroup" && fs_type != "cgroup2" {
        return None;
    }
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let options = after.nth(1).unwrap_or_default();
    Some(Mount {
        root: unescape(root),
        point: PathBuf::from(unescape(point)),
        fs_type: fs_type.to_owned(),
        options: options.split(',').map(String::from).collect(),
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        let octal = bytes.get(i + 1..i + 4).filter(|d| b == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match octal {
            Some(d) => {
                out.push(d.iter().fold(0u8, |n, c| (n << 3) | (c - b'0')));
                i += 4;
            }
            None => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `(controllers, path)` of each line of `/proc/self/cgroup`; no controllers means version 2.
fn parse_self_cgroup(text: &str) -> Vec<(Vec<String>, String)> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some((controllers.split(',').filter(|c| !c.is_empty()).map(String::from).collect(), path.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// A path of the hierarchy as seen below a mount of the subtree `root`.
fn seen_from(root: &str, path: &str) -> String {
    let below = Path::new(path).strip_prefix(root).map_or(Path::new(""), |p| p);
    clean(&below.to_string_lossy())
}

/// Resolves `.`, `..` and doubled slashes by the letter; never leaves the root. The result is absolute.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let mut out = String::with_capacity(path.len() + 1);
    for part in &parts {
        out.push('/');
        out.push_str(part);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TMPFS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n";

    #[test]
    fn a_hybrid_host_with_joint_and_named_hierarchies() {
        let mountinfo = format!(
            "{TMPFS}32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct\n\
             33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             34 31 0:31 / /nonexistent/unified rw - cgroup2 cgroup2 rw\n"
        );
        let own = "3:cpu,cpuacct:/user\n2:name=systemd:/user/a:b\n1:pids:/not-mounted\n0::/user/x\n";
        let layout = Layout::detect_from(&mountinfo, own).unwrap();
        assert_eq!(layout.name(), "hybrid");
        assert_eq!(layout.controllers(), ["cpu", "cpuacct"]);
        assert_eq!(layout.v1()[0].mount_point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(layout.v1()[1].own, "/user/a:b");
        assert_eq!(layout.v2().unwrap().own, "/user/x");
    }

    #[test]
    fn inside_a_container_paths_count_from_what_is_mounted() {
        let mountinfo = "9 1 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let layout = Layout::detect_from(mountinfo, "4:memory:/docker/abc/inner (deleted)\n").unwrap();
        assert_eq!((layout.name(), layout.v1()[0].own.as_str()), ("v1", "/inner"));
        // With a cgroup namespace the own path may even point outside.
        let mountinfo = "9 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";
        let layout = Layout::detect_from(mountinfo, "0::/../x\n").unwrap();
        assert_eq!((layout.name(), layout.v2().unwrap().own.as_str()), ("v2", "/x"));
    }

    #[test]
    fn a_host_without_cgroups_is_an_error() {
        assert!(matches!(Layout::detect_from(TMPFS, "0::/\n"), Err(Error::NotMounted)));
        assert!(matches!(Layout::detect_from("", ""), Err(Error::NotMounted)));
    }

    #[test]
    fn escapes_in_mount_points_are_undone() {
        assert_eq!(unescape(r"/a\040b\011\134"), "/a b\t\\");
        assert_eq!(unescape(r"/a\04"), r"/a\04");
    }

    #[test]
    fn paths_never_leave_the_root() {
        for (path, expected) in [("/a/../../b", "/b"), ("..", "/"), ("a//./b/", "/a/b"), ("", "/")] {
            assert_eq!(clean(path), expected);
        }
    }

    proptest! {
        #[test]
        fn any_texts_are_read_without_panic(mountinfo in "([0-9/ \\\\a-]{0,30} - cgroup2? [a-z,=]{0,8}\n?){0,4}|.{0,60}",
                                            own in "([0-9]:[a-z,=]{0,6}:/[a-z.]{0,5}\n){0,3}|.{0,40}") {
            let _ = Layout::detect_from(&mountinfo, &own);
        }

        #[test]
        fn clean_paths_stay_clean(path in "[a./]{0,20}") {
            let once = clean(&path);
            prop_assert!(once.starts_with('/') && !once.split('/').any(|p| p == ".."));
            prop_assert_eq!(clean(&once), once);
        }
    }
}
