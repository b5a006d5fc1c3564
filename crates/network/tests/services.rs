//! Names, the host's other firewalls, and networks without root.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Host, Namespace, PATIENCE, SILENCE, ask_tcp, ip, on, publishing, skipped, v4, v6};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, MountPropagationFlags};
use strata_network::{AttachRequest, CreateNetwork, DEFAULT_NETWORK, DnsServer, Rootless, RootlessProgram};

/// Serves until told to stop.
fn serve(mut server: DnsServer, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let short = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let _ = poll(&mut [PollFd::new(&server, PollFlags::IN)], Some(&short));
        server.on_ready();
    }
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, kind as u8, 0, 1]);
    bytes
}

/// Error code, number of answers, and the last bytes of an answer; nothing if there is none.
fn ask(inside: &Namespace, name: &str, kind: u16) -> Option<(u8, u8, Vec<u8>)> {
    let message = query(name, kind);
    inside.run(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect("127.0.0.11:53").unwrap();
        socket.send(&message).unwrap();
        let mut buffer = [0; 512];
        let n = socket.recv(&mut buffer).ok()?;
        assert_eq!(buffer[..2], message[..2]);
        Some((buffer[3] & 15, buffer[7], buffer[message.len()..n].to_vec()))
    })
}

fn ask_over_tcp(inside: &Namespace, name: &str) -> Vec<u8> {
    use std::io::{Read, Write};
    let message = query(name, 1);
    inside.run(move || {
        let mut stream = std::net::TcpStream::connect("127.0.0.11:53").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&(message.len() as u16).to_be_bytes()).unwrap();
        stream.write_all(&message).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        answer
    })
}

#[test]
fn names_of_shared_networks_are_answered_and_others_passed_on() {
    let Some(host) = Host::new("services::names_of_shared_networks_are_answered_and_others_passed_on") else { return };
    let outside = host.outside();
    // A resolver beyond the host: every name is 192.0.2.99, over UDP and TCP.
    outside.run(|| {
        let answer = |question: &[u8]| {
            let mut answer = question.to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 99]);
            answer
        };
        let udp = UdpSocket::bind("192.0.2.2:53").unwrap();
        let tcp = std::net::TcpListener::bind("192.0.2.2:53").unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((n, caller)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&answer(&buffer[..n]), caller);
            }
        });
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut question).unwrap();
                let answer = answer(&question);
                stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).unwrap();
            }
        });
    });
    host.networks.create(&CreateNetwork { name: "other".into(), ..Default::default() }).unwrap();
    let aliases = vec!["Web".to_string()];
    let (a, _at_a) = host.connect("a", &on(DEFAULT_NETWORK));
    let (_b, at_b) = host.connect("b", &AttachRequest { aliases: aliases.clone(), ..on(DEFAULT_NETWORK) });
    let (_c, _) = host.connect("c", &on("other"));
    // The first resolver is dead: the second is asked.
    let resolvers: Vec<SocketAddr> = vec!["127.0.0.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
    let server = DnsServer::start(&host.networks, "a", a.as_fd(), resolvers).unwrap();
    assert_eq!(server.timeout(), None);
    let stop = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let stop = stop.clone();
        move || serve(server, stop)
    });
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    for name in ["b", "B", "web", "web.bridge"] {
        let (code, count, records) = ask(&a, name, 1).unwrap();
        assert_eq!((code, count), (0, 1), "{name}");
        assert!(records.ends_with(&octets(v4(&at_b))), "{name}");
        assert!(ask(&a, name, 28).unwrap().2.ends_with(&octets(v6(&at_b))), "{name}");
    }
    assert_eq!(ask(&a, "b", 15).unwrap().1, 0, "a name that is known has no other records");
    let [w, x, y, z] = at_b.ipv4.unwrap().0.octets();
    let reverse = ask(&a, &format!("{z}.{y}.{x}.{w}.in-addr.arpa"), 12).unwrap();
    assert!(reverse.2.ends_with(b"\x03Web\0"), "{reverse:?}");
    for name in ["example.org", "c", "c.other"] {
        assert!(ask(&a, name, 1).unwrap().2.ends_with(&[192, 0, 2, 99]), "{name} is passed on");
    }
    assert!(ask_over_tcp(&a, "b").ends_with(&octets(v4(&at_b))));
    assert_eq!(ask_over_tcp(&a, "b")[3] & 15, 0);
    // Hostile callers: nonsense, and more questions than are kept; the server goes on.
    a.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for i in 0..200u8 {
            let _ = socket.send_to(&vec![i; usize::from(i)], "127.0.0.11:53");
        }
        for _ in 0..10 {
            drop(std::net::TcpStream::connect("127.0.0.11:53"));
        }
    });
    assert_eq!(ask(&a, "b", 1).unwrap().1, 1);
    // A new instance is known at once, one that is gone is not.
    let (_d, _) = host.connect("d", &on(DEFAULT_NETWORK));
    assert_eq!(ask(&a, "d", 1).unwrap().1, 1);
    host.networks.disconnect("b").unwrap();
    assert!(ask(&a, "b", 1).unwrap().2.ends_with(&[192, 0, 2, 99]));
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}

fn iptables(arguments: &str) -> String {
    let output = Command::new("iptables-nft").args(arguments.split(' ')).output().expect("iptables is installed");
    assert!(output.status.success(), "iptables {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dockers_forward_policy_does_not_shut_instances_in() {
    let Some(host) = Host::new("services::dockers_forward_policy_does_not_shut_instances_in") else { return };
    let outside = host.outside();
    outside.serve_tcp("0.0.0.0:80".parse().unwrap());
    // What dockerd sets up.
    for line in ["-P FORWARD DROP", "-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER"] {
        iptables(line);
    }
    let (a, _) = host.connect("a", &publishing(DEFAULT_NETWORK, &["8080:80"]));
    a.serve_tcp("0.0.0.0:80".parse().unwrap());
    assert!(a.ask_tcp("192.0.2.2:80", PATIENCE).is_some());
    assert!(outside.ask_tcp("192.0.2.1:8080", PATIENCE).is_some());
    let rules = iptables("-S DOCKER-USER");
    assert!(rules.contains("-i st-+") && rules.contains("-o st-+"), "{rules}");
    let (_b, _) = host.connect("b", &on(DEFAULT_NETWORK));
    assert_eq!(iptables("-S DOCKER-USER"), rules, "once is enough");
    host.networks.gc(&|_| false).unwrap();
    assert!(!iptables("-S DOCKER-USER").contains("st-"), "taken back with the last network");
}

/// What is common to both programs: a host with a way out, and a device for tunnels that everybody may open, as on the
/// usual host.
fn rootless_host(test: &str, program: RootlessProgram) -> Option<(Host, Namespace)> {
    let host = Host::new(test)?;
    if program.find().is_none() {
        skipped(test, "the program is not installed");
        return None;
    }
    let outside = host.outside();
    outside.serve_tcp("0.0.0.0:80".parse().unwrap());
    ip("route add default via 192.0.2.2");
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    rustix::mount::mount("none", "/dev/net", "tmpfs", MountFlags::empty(), None).unwrap();
    let (kind, device) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(10, 200));
    rustix::fs::mknodat(rustix::fs::CWD, "/dev/net/tun", kind, 0o666.into(), device).unwrap();
    rustix::fs::chmod("/dev/net/tun", 0o666.into()).unwrap();
    if let Err(error) = std::fs::File::open("/dev/net/tun") {
        skipped(test, &format!("/dev/net/tun: {error}"));
        return None;
    }
    std::fs::set_permissions(host.scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    Some((host, outside))
}

#[test]
fn slirp4netns_connects_and_publishes() {
    let test = "services::slirp4netns_connects_and_publishes";
    let Some((host, outside)) = rootless_host(test, RootlessProgram::Slirp4netns) else { return };
    let inside = Namespace::new();
    let ports = ["8080:80".parse().unwrap()];
    let running = Rootless::start(RootlessProgram::Slirp4netns, inside.tid, &ports, host.scratch.path()).unwrap();
    assert_eq!(inside.ask_tcp("192.0.2.2:80", PATIENCE), Some("192.0.2.1".parse().unwrap()));
    inside.serve_tcp("0.0.0.0:80".parse().unwrap());
    assert!(outside.ask_tcp("192.0.2.1:8080", PATIENCE).is_some());
    drop(running);
    assert!(ask_tcp("127.0.0.1:8080".parse().unwrap(), SILENCE).is_none(), "it is gone");
}

#[test]
fn pasta_connects_and_publishes_for_an_ordinary_user() {
    let test = "services::pasta_connects_and_publishes_for_an_ordinary_user";
    let Some((host, outside)) = rootless_host(test, RootlessProgram::Pasta) else { return };
    // This thread, and what it starts, becomes an ordinary user.
    let (uid, gid) = (rustix::process::Uid::from_raw(1000), rustix::process::Gid::from_raw(1000));
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    let server = r#"echo ready; exec busybox nc -ll -p 80 -e sh -c 'head -c 4; printf " 192.0.2.2"'"#;
    let mut instance = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", server])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(&mut instance.stdout.take().unwrap(), &mut [0; 6]).unwrap();
    let ports = ["8080:80".parse().unwrap()];
    let started = Rootless::start(RootlessProgram::Pasta, instance.id() as i32, &ports, host.scratch.path());
    // The server inside says that it begins to listen, not that it does.
    let ask = || {
        std::thread::sleep(Duration::from_millis(50));
        outside.ask_tcp("192.0.2.1:8080", PATIENCE)
    };
    let answered = started.as_ref().is_ok_and(|_| (0..40).find_map(|_| ask()).is_some());
    instance.kill().unwrap();
    instance.wait().unwrap();
    drop(started.unwrap());
    assert!(answered);
    assert!(outside.ask_tcp("192.0.2.1:8080", SILENCE).is_none(), "it is gone");
}
