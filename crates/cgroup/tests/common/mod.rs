//! What the test programs share.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use strata_cgroup::Cgroup;

/// Says that a test could not run here, and why: to the file named by `STRATA_TEST_SKIPS`, and on the terminal.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(file) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

/// A shell that put itself into a cgroup. Killed when dropped.
pub struct Child(std::process::Child);

impl Child {
    fn spawn(cgroup: &Cgroup, script: &str) -> Child {
        let handles = cgroup.join_handles().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: join_current makes system calls only.
        unsafe { command.pre_exec(move || handles.join_current()) };
        Child(command.spawn().unwrap())
    }

    /// Runs a script that prints `ready`, and returns when it has.
    pub fn shell(cgroup: &Cgroup, script: &str) -> Child {
        let mut child = Child::spawn(cgroup, script);
        let mut line = String::new();
        BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        // The shell starts the next command after it has printed.
        std::thread::sleep(std::time::Duration::from_millis(50));
        child
    }

    /// Runs a script to its end; what it printed.
    pub fn output(cgroup: &Cgroup, script: &str) -> String {
        let mut child = Child::spawn(cgroup, script);
        let mut text = String::new();
        child.0.stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
        child.0.wait().unwrap();
        text
    }

    /// The signal that ended it.
    pub fn wait(&mut self) -> Option<i32> {
        self.0.wait().unwrap().signal()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
