//! Network namespaces for tests: every test has a host of its own.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::UnshareFlags;
use strata_network::{AttachRequest, Attachment, Networks};

/// How long an answer may take, or the absence of one is believed.
pub const PATIENCE: Duration = Duration::from_secs(5);
pub const SILENCE: Duration = Duration::from_millis(300);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with a thread inside, which does what it is told.
pub struct Namespace {
    pub fd: File,
    pub tid: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new() -> Namespace {
        let (jobs, inbox) = channel::<Job>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            unshare(UnshareFlags::NEWNET);
            let fd = File::open("/proc/thread-self/ns/net").unwrap();
            tell.send((fd, rustix::thread::gettid().as_raw_nonzero().get())).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        let (fd, tid) = told.recv().unwrap();
        Namespace { fd, tid, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs something inside.
    pub fn run<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs.as_ref().unwrap().send(Box::new(move || drop(tell.send(action())))).unwrap();
        told.recv().expect("the action inside the namespace ends")
    }

    /// A TCP server inside that sends the caller's address and what it got.
    pub fn serve_tcp(&self, address: SocketAddr) {
        self.run(move || {
            let listener = TcpListener::bind(address).unwrap();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let mut word = [0; 4];
                    if stream.read_exact(&mut word).is_ok() {
                        let peer = stream.peer_addr().unwrap().ip();
                        let _ = stream.write_all(format!("{} {peer}", String::from_utf8_lossy(&word)).as_bytes());
                    }
                }
            });
        });
    }

    /// The same of UDP.
    pub fn serve_udp(&self, address: SocketAddr) {
        self.run(move || {
            let socket = UdpSocket::bind(address).unwrap();
            std::thread::spawn(move || {
                let mut word = [0; 4];
                while let Ok((4, peer)) = socket.recv_from(&mut word) {
                    let text = format!("{} {}", String::from_utf8_lossy(&word), peer.ip());
                    let _ = socket.send_to(text.as_bytes(), peer);
                }
            });
        });
    }

    /// Asks a server; the address that it saw, or nothing.
    pub fn ask_tcp(&self, address: &str, patience: Duration) -> Option<IpAddr> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || ask_tcp(address, patience))
    }

    pub fn ask_udp(&self, address: &str, patience: Duration) -> Option<IpAddr> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(move || ask_udp(address, patience))
    }
}

pub fn ask_tcp(address: SocketAddr, patience: Duration) -> Option<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"ping").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.strip_prefix("ping ")?.parse().ok()
}

pub fn ask_udp(address: SocketAddr, patience: Duration) -> Option<IpAddr> {
    let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.connect(address).ok()?;
    socket.send(b"ping").ok()?;
    let mut buffer = [0; 100];
    let n = socket.recv(&mut buffer).ok()?;
    std::str::from_utf8(&buffer[..n]).ok()?.strip_prefix("ping ")?.parse().ok()
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// A host: the test's thread moves into a network namespace of its own.
pub struct Host {
    pub networks: Networks,
    pub scratch: tempfile::TempDir,
}

impl Host {
    /// Nothing if the test cannot run here, which has been said then.
    pub fn new(test: &str) -> Option<Host> {
        if !rustix::process::geteuid().is_root() {
            skipped(test, "network namespaces with addresses need root");
            return None;
        }
        unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS);
        ip("link set lo up");
        // In memory, as the state of the usual host is.
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let networks = Networks::open(&scratch.path().join("store"), &scratch.path().join("state")).unwrap();
        Some(Host { networks, scratch })
    }

    pub fn connect(&self, id: &str, request: &AttachRequest) -> (Namespace, Attachment) {
        let namespace = Namespace::new();
        let connection = self.networks.connect(id, namespace.as_fd(), request).unwrap();
        assert_eq!(connection.warnings, Vec::<String>::new());
        (namespace, connection.attachment)
    }

    /// A namespace beyond the host: 192.0.2.2 and 2001:db8::2, the host is .1.
    pub fn outside(&self) -> Namespace {
        let outside = Namespace::new();
        ip(&format!("link add up0 type veth peer name eth0 netns {}", outside.tid));
        ip("addr add 192.0.2.1/24 dev up0");
        ip("addr add 2001:db8::1/64 dev up0 nodad");
        ip("link set up0 up");
        outside.run(|| {
            ip("link set lo up");
            ip("addr add 192.0.2.2/24 dev eth0");
            ip("addr add 2001:db8::2/64 dev eth0 nodad");
            ip("link set eth0 up");
        });
        outside
    }

    pub fn links(&self) -> String {
        let output = Command::new("ip").args(["-o", "link"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

fn unshare(flags: UnshareFlags) {
    // SAFETY: only a table of descriptors made this thread's own could break what others rely on; none is.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
}

/// Runs ip(8) in the namespace of this thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn on(network: &str) -> AttachRequest {
    AttachRequest { network: network.into(), ..AttachRequest::default() }
}

pub fn publishing(network: &str, ports: &[&str]) -> AttachRequest {
    AttachRequest { ports: ports.iter().map(|port| port.parse().unwrap()).collect(), ..on(network) }
}

pub fn v4(attachment: &Attachment) -> IpAddr {
    attachment.ipv4.unwrap().0.into()
}

pub fn v6(attachment: &Attachment) -> IpAddr {
    attachment.ipv6.unwrap().0.into()
}

pub fn at(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Says that a test could not run here, and why: to the file named by `STRATA_TEST_SKIPS`, and on the terminal.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(file) = std::env::var_os("STRATA_TEST_SKIPS") {
        let mut file = File::options().create(true).append(true).open(file).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}
