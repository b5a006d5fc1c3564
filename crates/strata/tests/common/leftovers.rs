//! Finding, asserting the absence of, and removing what a test's containers may leave on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

/// The mount points of all cgroup hierarchies.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let field = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup").then(|| PathBuf::from(left.split(' ').nth(4).unwrap_or_default()))
    };
    mounts.lines().filter_map(field).collect()
}

fn find(directory: &Path, tag: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        find(&entry.path(), tag, found);
        if entry.path().to_string_lossy().contains(tag) {
            found.push(entry.path());
        }
    }
}

/// The cgroup directories whose path contains `tag` as a whole word, deepest first.
pub fn cgroups(tag: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        find(&hierarchy, tag, &mut found);
    }
    found.retain(|p| names(&p.to_string_lossy(), tag));
    found
}

/// Whether `text` contains `tag` not followed by another digit: `se7x1` is not `se7x12`.
fn names(text: &str, tag: &str) -> bool {
    text.match_indices(tag).any(|(at, _)| !text[at + tag.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// The processes that belong to `tag`: in its cgroups, or with the tag in their command line.
pub fn processes(tag: &str) -> Vec<i32> {
    let myself = std::process::id() as i32;
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != myself && super::process_exists(pid))
        .filter(|pid| {
            let text = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            ["cgroup", "cmdline"].iter().any(|f| names(&String::from_utf8_lossy(&text(f)), tag))
        })
        .collect()
}

/// The mount points below `path`, the latest first.
pub fn mounts(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|l| l.split(' ').nth(4)).map(|p| PathBuf::from(p.replace("\\040", " ")));
    let mut below: Vec<PathBuf> = points.filter(|p| p.starts_with(path)).collect();
    below.reverse();
    below
}

fn all(tag: &str, path: &Path) -> Vec<String> {
    let name = |what: &str, p: &Path| format!("{what} {}", p.display());
    let command = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
    };
    processes(tag)
        .iter()
        .map(command)
        .chain(cgroups(tag).iter().map(|p| name("cgroup", p)))
        .chain(mounts(path).iter().map(|p| name("mount", p)))
        .collect()
}

/// Asserts that no process, cgroup or mount bears the tag. Waits a moment: a killed process takes time to die.
#[track_caller]
pub fn assert_none(tag: &str, path: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let left = all(tag, path);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "left behind: {left:#?}");
        sleep(Duration::from_millis(20));
    }
}

/// Removes whatever bears the tag, then the directory. Never fails: it runs while failed tests unwind.
pub fn sweep(tag: &str, path: &Path) {
    for _ in 0..100 {
        let pids = processes(tag);
        for pid in &pids {
            let _ = Pid::from_raw(*pid).map(|p| kill_process(p, Signal::KILL));
        }
        for cgroup in cgroups(tag) {
            // A frozen process does not die before it is thawed.
            let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            let _ = fs::write(cgroup.join("cgroup.freeze"), "0");
            let _ = fs::remove_dir(&cgroup);
        }
        if pids.is_empty() && cgroups(tag).is_empty() {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    for mount in mounts(path) {
        let _ = rustix::mount::unmount(&mount, UnmountFlags::DETACH);
    }
    if mounts(path).is_empty() {
        let _ = fs::remove_dir_all(path);
    }
}
