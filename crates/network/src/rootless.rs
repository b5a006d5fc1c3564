//! Networks without root: another program copies packets between the instance's namespace and ordinary sockets.
//!
//! pasta(1) of passt is preferred: it gives the instance the host's own addresses and copies least. slirp4netns(1) makes
//! an address translation of its own (10.0.2.0/24).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;

use crate::error::Error;
use crate::model::{Protocol, PublishedPort};

/// How long the program may take until the instance is connected.
const LIMIT: Duration = Duration::from_secs(5);

/// A program that connects without root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootlessProgram {
    /// `pasta`, of Debian's package passt.
    Pasta,
    /// `slirp4netns`.
    Slirp4netns,
}

impl RootlessProgram {
    fn name(self) -> &'static str {
        match self {
            RootlessProgram::Pasta => "pasta",
            RootlessProgram::Slirp4netns => "slirp4netns",
        }
    }

    /// Where it is in `PATH`.
    pub fn find(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join(self.name())).find(|file| file.is_file())
    }

    /// The one to use: pasta if it is installed.
    pub fn choose() -> Result<RootlessProgram, Error> {
        let both = [RootlessProgram::Pasta, RootlessProgram::Slirp4netns];
        both.into_iter().find(|program| program.find().is_some()).ok_or(Error::NoRootlessProgram)
    }
}

/// A running connection. It ends when this is dropped; slirp4netns ends even if this process is killed.
#[derive(Debug)]
pub struct Rootless {
    program: RootlessProgram,
    child: Child,
    directory: PathBuf,
    _alive: Option<OwnedFd>,
}

impl Rootless {
    /// Connects the network namespace of process `pid` and publishes ports; returns when it is connected. `directory` is
    /// the caller's own, for a socket or a file.
    pub fn start(
        program: RootlessProgram,
        pid: i32,
        ports: &[PublishedPort],
        directory: &Path,
    ) -> Result<Rootless, Error> {
        let path = program.find().ok_or(Error::NoRootlessProgram)?;
        if let Some(port) = ports.iter().find(|port| port.host_port == 0) {
            let expected = "a port of the host before the colon: without root none is chosen";
            return Err(Error::invalid("published port", port.to_string(), expected));
        }
        match program {
            RootlessProgram::Pasta => pasta(&path, pid, ports, directory),
            RootlessProgram::Slirp4netns => slirp4netns(&path, pid, ports, directory),
        }
    }

    /// Which program runs.
    pub fn program(&self) -> RootlessProgram {
        self.program
    }

    /// Its process id, for the record of the instance: `gc` ends what outlives its supervisor.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program said when it ended.
    fn ended(mut self, what: &str) -> Error {
        let _ = self.child.kill();
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(4096).read_to_string(&mut said);
        }
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let reason = if lines.is_empty() { what.to_string() } else { lines.join("; ") };
        Error::Rootless { program: self.program.name().into(), reason }
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for name in ["pasta.pid", "slirp4netns.sock"] {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}

fn spawn(
    program: RootlessProgram,
    command: &mut Command,
    directory: &Path,
    alive: Option<OwnedFd>,
) -> Result<Rootless, Error> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| Error::Rootless {
        program: program.name().into(),
        reason: format!("cannot be started: {error}"),
    })?;
    Ok(Rootless { program, child, directory: directory.to_path_buf(), _alive: alive })
}

fn pasta(path: &Path, pid: i32, ports: &[PublishedPort], directory: &Path) -> Result<Rootless, Error> {
    let ready = directory.join("pasta.pid");
    let _ = fs::remove_file(&ready);
    let mut command = Command::new(path);
    command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw", "--pid"]).arg(&ready);
    for (protocol, option) in [(Protocol::Tcp, "--tcp-ports"), (Protocol::Udp, "--udp-ports")] {
        let mut given = false;
        for port in ports.iter().filter(|port| port.protocol == protocol) {
            let range = |first: u16| match port.count {
                1 => first.to_string(),
                n => format!("{first}-{}", first.saturating_add(n - 1)),
            };
            let address = port.host_address.map(|address| format!("{address}/")).unwrap_or_default();
            command.arg(option).arg(format!("{address}{}:{}", range(port.host_port), range(port.port)));
            given = true;
        }
        if !given {
            command.args([option, "none"]);
        }
    }
    // Nothing of the host's loopback for the instance.
    command.args(["--tcp-ns", "none", "--udp-ns", "none"]).arg(pid.to_string());
    let mut running = spawn(RootlessProgram::Pasta, &mut command, directory, None)?;
    let started = Instant::now();
    // It writes the file when everything is set up.
    while fs::metadata(&ready).map_or(0, |metadata| metadata.len()) == 0 {
        if started.elapsed() > LIMIT || !matches!(running.child.try_wait(), Ok(None)) {
            return Err(running.ended("it was not ready in time"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(running)
}

fn slirp4netns(path: &Path, pid: i32, ports: &[PublishedPort], directory: &Path) -> Result<Rootless, Error> {
    let broken = |error: &dyn std::fmt::Display| Error::Rootless {
        program: RootlessProgram::Slirp4netns.name().into(),
        reason: error.to_string(),
    };
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| broken(&error));
    let (ready, ready_end) = pipe()?;
    let (exit_end, alive) = pipe()?;
    let socket = directory.join("slirp4netns.sock");
    let _ = fs::remove_file(&socket);
    let mut command = Command::new(path);
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--api-socket"]).arg(&socket);
    for (option, end) in [("--ready-fd", &ready_end), ("--exit-fd", &exit_end)] {
        command.arg(format!("{option}={}", end.as_raw_fd()));
        rustix::io::fcntl_setfd(end, FdFlags::empty()).map_err(|error| broken(&error))?;
    }
    command.arg(pid.to_string()).arg("tap0");
    let running = spawn(RootlessProgram::Slirp4netns, &mut command, directory, Some(alive))?;
    drop((ready_end, exit_end));
    let limit = rustix::event::Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut wait = [rustix::event::PollFd::new(&ready, rustix::event::PollFlags::IN)];
    let told = rustix::event::poll(&mut wait, Some(&limit)).is_ok_and(|n| n > 0);
    let mut byte = [0];
    if !told || rustix::io::read(&ready, &mut byte) != Ok(1) {
        return Err(running.ended("it was not ready in time"));
    }
    for port in ports {
        for (outside, inside) in port.pairs() {
            let host = port.host_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            if let Err(reason) = forward(&socket, port.protocol, host, outside, inside) {
                let reason = format!("host port {outside}/{} cannot be published: {reason}", port.protocol);
                return Err(broken(&reason));
            }
        }
    }
    Ok(running)
}

/// Asks slirp4netns over its socket, JSON in one line each way, to publish a port.
fn forward(socket: &Path, protocol: Protocol, host: IpAddr, outside: u16, inside: u16) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(socket).map_err(text)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(text)?;
    let request = json!({ "execute": "add_hostfwd", "arguments": {
        "proto": protocol, "host_addr": host, "host_port": outside, "guest_port": inside } });
    stream.write_all(request.to_string().as_bytes()).map_err(text)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(text)?;
    let mut answer = String::new();
    BufReader::new(stream.take(4096)).read_line(&mut answer).map_err(text)?;
    let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    match answer.get("error") {
        None => Ok(()),
        Some(error) => Err(error["desc"].as_str().unwrap_or("refused").to_string()),
    }
}
