//! Other isolation tools in `PATH`, which `strata compare` can measure beside Strata.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::files::Files;

/// A tool, the names its program goes by, and the argument that makes it print its version.
const PEERS: [(&str, &[&str], &str); 9] = [
    ("runc", &["runc"], "--version"),
    ("crun", &["crun"], "--version"),
    ("youki", &["youki"], "--version"),
    ("gVisor", &["runsc"], "--version"),
    ("podman", &["podman"], "--version"),
    ("docker", &["docker"], "--version"),
    ("QEMU", &["qemu-system-x86_64", "qemu-kvm"], "--version"),
    ("User Mode Linux", &["linux.uml", "linux"], "--version"),
    ("Firecracker", &["firecracker"], "--version"),
];

/// One tool found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its usual name.
    pub name: String,
    /// Its program.
    pub path: PathBuf,
    /// Its version; absent if it did not say so in time.
    pub version: Option<String>,
}

/// The first of `names` in the directories of `path` that can be executed.
pub fn find_program(files: &Files, path: &str, names: &[&str]) -> Option<PathBuf> {
    let directories = || path.split(':').filter(|d| d.starts_with('/'));
    let candidates = names.iter().flat_map(|name| directories().map(move |d| PathBuf::from(d).join(name)));
    candidates.into_iter().find(|candidate| {
        std::fs::metadata(files.path(candidate)).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Looks for every peer, and with `live` asks each for its version, all at once and for at most `timeout`.
pub fn find(files: &Files, path: &str, live: bool, timeout: Duration) -> Vec<Peer> {
    let deadline = Instant::now() + timeout;
    let started: Vec<_> = PEERS
        .iter()
        .filter_map(|&(name, programs, argument)| {
            let path = find_program(files, path, programs)?;
            let child = live.then(|| {
                let mut command = Command::new(files.path(&path));
                command.arg(argument).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
                command.spawn()
            });
            Some((Peer { name: name.into(), path, version: None }, child))
        })
        .collect();
    let finish = |(mut peer, child): (Peer, Option<std::io::Result<std::process::Child>>)| {
        if let Some(Ok(child)) = child {
            peer.version = output(child, deadline).and_then(|text| version(&text));
        }
        peer
    };
    started.into_iter().map(finish).collect()
}

/// The child's output if it ends in time; it is killed otherwise.
fn output(mut child: std::process::Child, deadline: Instant) -> Option<String> {
    let stdout = child.stdout.take()?;
    let text = read_until(stdout, deadline);
    let ended = text.is_some() && {
        // The pipe is closed, so the program is about to end.
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        matches!(child.try_wait(), Ok(Some(_)))
    };
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    text
}

fn read_until(mut stdout: std::process::ChildStdout, deadline: Instant) -> Option<String> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::Read;
    let mut text = Vec::new();
    let mut chunk = [0u8; 4096];
    while text.len() < 64 << 10 {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        if poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout)).ok()? == 0 {
            return None;
        }
        match stdout.read(&mut chunk).ok()? {
            0 => break,
            n => text.extend_from_slice(&chunk[..n]),
        }
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The first word of the first lines that looks like a version: it starts with a digit (or `v` and one) and has a dot;
/// gVisor's `release-20240729.0` counts.
fn version(text: &str) -> Option<String> {
    let words = text.lines().take(3).flat_map(str::split_whitespace);
    let trimmed = words.map(|w| w.trim_matches([',', ';', '(', ')']));
    let looks = |w: &&str| {
        let number = w.trim_start_matches("release-").trim_start_matches('v');
        number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.')
    };
    let word = trimmed.into_iter().find(looks)?;
    Some(word.trim_start_matches('v').chars().filter(char::is_ascii_graphic).take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_tools_print() {
        for (text, expected) in [
            ("runc version 1.1.5+ds1\ncommit: 1.1\n", "1.1.5+ds1"),
            ("Docker version 28.2.2, build e6534b4\n", "28.2.2"),
            ("QEMU emulator version 7.2.22 (Debian 1:7.2)\n", "7.2.22"),
            ("runsc version release-20240729.0\nspec: 1.1.0\n", "release-20240729.0"),
            ("Firecracker v1.7.0\n", "1.7.0"),
            ("6.1.0\n", "6.1.0"),
        ] {
            assert_eq!(version(text).as_deref(), Some(expected));
        }
        assert_eq!(version("usage: nothing\n"), None);
    }

    #[test]
    fn a_tool_that_hangs_costs_the_timeout_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("runc");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 30\n").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let start = Instant::now();
        let files = Files::new(std::path::Path::new("/"));
        let peers = find(&files, &directory.path().display().to_string(), true, Duration::from_millis(100));
        assert_eq!((peers.len(), peers[0].version.as_deref()), (1, None));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
