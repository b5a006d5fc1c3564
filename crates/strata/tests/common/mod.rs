//! What the end-to-end tests share: scratch directories that leave nothing behind, bundles built from a static
//! busybox, commands with a time limit, and the reporting of tests that this host cannot run.
//!
//! The program under test is the `strata` of this build. The environment variable `STRATA_BIN` names another
//! runtime with the same command line (runc, for instance): that is how the tests themselves are tested.

#![allow(dead_code)] // Each test program uses its own part of this module.

pub mod agent;
pub mod bundle;
pub mod leftovers;
pub mod terminal;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

pub use bundle::Bundle;

/// How long one command may take before the test calls it hung. Generous: the machine may be busy with other work.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The runtime under test.
pub fn program() -> PathBuf {
    std::env::var_os("STRATA_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_strata")), PathBuf::from)
}

/// Whether the program under test is Strata itself and not a stand-in with the same command line.
pub fn is_strata() -> bool {
    std::env::var_os("STRATA_BIN").is_none_or(|p| Path::new(&p).file_name().is_some_and(|n| n == "strata"))
}

/// Says that a test did not run, on stderr and in the file named by `STRATA_TEST_SKIPS`.
#[expect(clippy::print_stderr, reason = "a skip must be seen")]
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = fs::File::options().create(true).append(true).open(path).expect("the skip file opens");
        writeln!(file, "{test}: {reason}").expect("the skip file takes a line");
    }
}

/// The path of a program in `PATH` or the system's usual directories.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/libexec/podman"])
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.is_file())
}

/// Why this host cannot run tests that start containers and need `programs`; `None` if it can.
pub fn obstacle(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    for name in ["busybox"].iter().chain(programs) {
        if which(name).is_none() {
            return Some(format!("needs the program {name}"));
        }
    }
    None
}

/// Leaves the test, reporting it as skipped, if the host lacks root or one of the programs.
#[macro_export]
macro_rules! require {
    ($test:expr $(, $program:expr)*) => {
        if let Some(reason) = $crate::common::obstacle(&[$($program),*]) {
            $crate::common::skip($test, &reason);
            return;
        }
    };
}

/// A directory of one test. Its name (`tag`) also marks everything the test makes elsewhere, its cgroups above all,
/// so that dropping it can find and remove what a failed test left: processes, cgroups, mounts, files.
pub struct Scratch {
    path: PathBuf,
    tag: String,
}

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Short, because socket paths are limited to 108 bytes.
        let tag = format!("se{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(&tag);
        fs::create_dir(&path).expect("a scratch directory can be made");
        Scratch { path, tag }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file below the scratch directory and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).expect("a scratch file can be written");
        path
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("a scratch directory can be made");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        leftovers::sweep(&self.tag, &self.path);
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Out {
    pub command: String,
    /// The exit code; 128 + the signal's number if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    /// Asserts success.
    #[track_caller]
    pub fn ok(&self) -> &Out {
        self.code_is(0)
    }

    #[track_caller]
    pub fn code_is(&self, code: i32) -> &Out {
        assert!(self.code == code, "expected exit code {code}: {self:#?}");
        self
    }

    #[track_caller]
    pub fn fails(&self) -> &Out {
        assert!(self.code != 0, "expected a failure: {self:#?}");
        self
    }

    /// Asserts that stderr names `text`, without regard to case.
    #[track_caller]
    pub fn err_has(&self, text: &str) -> &Out {
        assert!(self.stderr.to_lowercase().contains(&text.to_lowercase()), "expected {text:?} in stderr: {self:#?}");
        self
    }

    #[track_caller]
    pub fn out_has(&self, text: &str) -> &Out {
        assert!(self.stdout.contains(text), "expected {text:?} in stdout: {self:#?}");
        self
    }

    #[track_caller]
    pub fn out_lacks(&self, text: &str) -> &Out {
        assert!(!self.stdout.contains(text), "expected no {text:?} in stdout: {self:#?}");
        self
    }

    /// Asserts that the whole of stdout, without the white space around it, is `text`.
    #[track_caller]
    pub fn out_is(&self, text: &str) -> &Out {
        assert!(self.text() == text, "expected stdout {text:?}: {self:#?}");
        self
    }

    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("stdout is not JSON ({e}): {self:#?}"))
    }
}

/// A command under way. Its output goes to memory files, not pipes: a container left running in the background
/// keeps the descriptors open, and a pipe's end of file would never come.
pub struct Running {
    child: Child,
    command: String,
    stdout: fs::File,
    stderr: fs::File,
}

fn memory_file() -> fs::File {
    rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd_create works").into()
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin was piped")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the command is ours");
    }

    /// What the command wrote so far.
    pub fn so_far(&self) -> (String, String) {
        let text = |file: &fs::File| {
            // A private view: reading must not move the offset that the command writes at.
            let mut content = vec![0; file.metadata().map_or(0, |m| m.len()) as usize];
            let got = std::os::unix::fs::FileExt::read_at(file, &mut content, 0).unwrap_or(0);
            content.truncate(got);
            String::from_utf8_lossy(&content).into_owned()
        };
        (text(&self.stdout), text(&self.stderr))
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|s| s.is_some())
    }

    /// Waits for the end; a command that takes longer than `limit` is killed and fails the test.
    #[track_caller]
    pub fn finish_within(mut self, limit: Duration) -> Out {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let (stdout, stderr) = self.so_far();
                panic!("hung for {limit:?}: {}\nstdout: {stdout}\nstderr: {stderr}", self.command);
            }
            sleep(Duration::from_millis(2));
        };
        let (stdout, stderr) = self.so_far();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Out { command: std::mem::take(&mut self.command), code, stdout, stderr }
    }

    #[track_caller]
    pub fn finish(self) -> Out {
        self.finish_within(LIMIT)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts a command with stdout and stderr captured; stdin is empty unless the command says otherwise.
#[track_caller]
pub fn spawn(command: &mut Command) -> Running {
    let (stdout, stderr) = (memory_file(), memory_file());
    let text = format!("{command:?}");
    command.stdout(stdout.try_clone().expect("a descriptor can be copied"));
    command.stderr(stderr.try_clone().expect("a descriptor can be copied"));
    let child = command.spawn().unwrap_or_else(|e| panic!("{text} cannot start: {e}"));
    Running { child, command: text, stdout, stderr }
}

/// Runs a command to its end with empty stdin.
#[track_caller]
pub fn run(command: &mut Command) -> Out {
    spawn(command.stdin(Stdio::null())).finish()
}

/// Runs a command to its end with `input` on stdin.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &str) -> Out {
    let mut file = memory_file();
    file.write_all(input.as_bytes()).and_then(|()| file.seek(SeekFrom::Start(0))).expect("input can be kept");
    spawn(command.stdin(file)).finish()
}

/// Repeats `probe` until it is true; fails the test after [`LIMIT`].
#[track_caller]
pub fn wait_until(what: &str, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !probe() {
        assert!(Instant::now() < end, "waited {LIMIT:?} in vain: {what}");
        sleep(Duration::from_millis(5));
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|mut f| f.read_to_string(&mut text))
        .unwrap_or_else(|e| panic!("{} cannot be read: {e}", path.display()));
    text
}

pub fn process_exists(pid: i32) -> bool {
    // A zombie is no process any more: only its parent is late.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
}

/// The runtime under test with a state directory of its own; dropping it removes every container in it.
pub struct Runtime {
    pub scratch: Scratch,
    root: PathBuf,
    count: AtomicU32,
}

impl Runtime {
    pub fn new() -> Runtime {
        let scratch = Scratch::new();
        let root = scratch.join("state");
        Runtime { scratch, root, count: AtomicU32::new(0) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A container id that no other test uses.
    pub fn id(&self) -> String {
        format!("{}-{}", self.scratch.tag(), self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// A bundle whose program sleeps; its cgroup is named after the scratch directory.
    pub fn bundle(&self) -> Bundle {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        Bundle::create(&self.scratch.join(format!("bundle{n}")), &format!("/{}-b{n}", self.scratch.tag()))
    }

    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(&self.root).args(arguments).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Out {
        run(&mut self.command(arguments))
    }

    /// Runs the bundle in the foreground under a new id.
    #[track_caller]
    pub fn run_bundle(&self, bundle: &Bundle) -> Out {
        bundle.save();
        self.run(["run", "--bundle", bundle.path(), &self.id()])
    }

    /// Runs a shell script as the bundle's program, in the foreground.
    #[track_caller]
    pub fn sh(&self, bundle: &mut Bundle, script: &str) -> Out {
        bundle.args(&["sh", "-c", script]);
        self.run_bundle(bundle)
    }

    /// Starts the bundle in the background and returns its id.
    #[track_caller]
    pub fn detached(&self, bundle: &Bundle) -> String {
        bundle.save();
        let id = self.id();
        self.run(["run", "--detach", "--bundle", bundle.path(), &id]).ok();
        id
    }

    #[track_caller]
    pub fn exec(&self, id: &str, arguments: &[&str]) -> Out {
        self.run(["exec", id].iter().chain(arguments))
    }

    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        self.run(["state", id]).ok().json()
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().expect("status is a string").to_owned()
    }

    #[track_caller]
    pub fn pid(&self, id: &str) -> i32 {
        self.state(id)["pid"].as_i64().expect("pid is a number") as i32
    }

    #[track_caller]
    pub fn wait_status(&self, id: &str, status: &str) {
        wait_until(&format!("container {id} becomes {status}"), || self.status(id) == status);
    }

    /// Removes a container and asserts that nothing of it is left.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        self.run(["delete", "--force", id]).ok();
        self.run(["state", id]).fails();
    }

    /// Asserts that no container, process, cgroup or mount of this runtime is left.
    #[track_caller]
    pub fn nothing_left(&self) {
        self.run(["list", "--quiet"]).ok().out_is("");
        leftovers::assert_none(self.scratch.tag(), self.scratch.path());
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.root.exists() {
            return;
        }
        // No assertion here: this may run while a failed test unwinds. The scratch directory sweeps up the rest.
        let quiet = |arguments: &[&str]| self.command(arguments).stderr(Stdio::null()).output();
        if let Ok(list) = quiet(&["list", "--quiet"]) {
            for id in String::from_utf8_lossy(&list.stdout).lines() {
                let _ = quiet(&["delete", "--force", id]);
            }
        }
    }
}
