//! What a network costs: time to connect and disconnect, throughput and round trip over bridge and veth beside those of a
//! bare veth pair, in interleaved rounds of one run. Needs root; makes its own network namespaces.
//!
//! ```text
//! cargo run --release -p strata-network --example bench
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use common::{Host, Namespace, ip, on, publishing, v4};
use strata_network::DEFAULT_NETWORK;

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A server that swallows, or echoes one byte at a time.
fn serve(namespace: &Namespace) {
    namespace.run(|| {
        let listener = TcpListener::bind("0.0.0.0:90").unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 256 << 10];
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        if n == 1 && stream.write_all(&buffer[..1]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
    });
}

/// Gigabits a second, and microseconds of a round trip.
fn measure(from: &Namespace, to: SocketAddr) -> (f64, f64) {
    from.run(move || {
        let mut stream = TcpStream::connect(to).unwrap();
        let block = vec![0; 256 << 10];
        let (start, mut bytes) = (Instant::now(), 0usize);
        while start.elapsed() < Duration::from_millis(300) {
            stream.write_all(&block).unwrap();
            bytes += block.len();
        }
        let throughput = bytes as f64 * 8e-9 / start.elapsed().as_secs_f64();
        drop(stream);
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        let (rounds, start) = (2000, Instant::now());
        for _ in 0..rounds {
            stream.write_all(&[1]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        (throughput, start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds))
    })
}

fn main() {
    let Some(host) = Host::new("bench") else { return };
    let first = Instant::now();
    let (_keep, _) = host.connect("keep", &on(DEFAULT_NETWORK));
    println!("first connect, network made: {:.2} ms", first.elapsed().as_secs_f64() * 1e3);
    for (what, ports) in [("no port", &[][..]), ("one port", &["127.0.0.1:7000:80"][..])] {
        let (mut connects, mut disconnects, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..100 {
            let namespace = Namespace::new();
            let (id, request) = (format!("b{i}"), publishing(DEFAULT_NETWORK, ports));
            let start = Instant::now();
            host.networks.connect(&id, namespace.as_fd(), &request).unwrap();
            connects.push(start.elapsed().as_secs_f64() * 1e3);
            // With the namespace still there, and a moment after its end.
            let gone = i % 2 == 1;
            if gone {
                drop(namespace);
                std::thread::sleep(Duration::from_millis(100));
            }
            let start = Instant::now();
            host.networks.disconnect(&id).unwrap();
            if gone { &mut after } else { &mut disconnects }.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let (connect, disconnect, after) = (median(connects), median(disconnects), median(after));
        println!("{what}: connect {connect:.2} ms, disconnect {disconnect:.2} ms, after its end {after:.2} ms");
    }

    let (a, b) = (Namespace::new(), Namespace::new());
    ip(&format!("link add t0 type veth peer name v1 netns {}", b.tid));
    ip(&format!("link set t0 name v0 netns {}", a.tid));
    for (namespace, name, address) in [(&a, "v0", "10.1.0.1/24"), (&b, "v1", "10.1.0.2/24")] {
        namespace.run(move || {
            ip(&format!("addr add {address} dev {name}"));
            ip(&format!("link set {name} up"));
        });
    }
    serve(&b);
    let (c, _) = host.connect("c", &on(DEFAULT_NETWORK));
    let (d, at_d) = host.connect("d", &publishing(DEFAULT_NETWORK, &["9090:90"]));
    serve(&d);
    let outside = host.outside();
    let targets: [(&str, &Namespace, SocketAddr); 3] = [
        ("bare veth pair", &a, "10.1.0.2:90".parse().unwrap()),
        ("veth, bridge, veth", &c, SocketAddr::new(v4(&at_d), 90)),
        ("published port, from outside", &outside, "192.0.2.1:9090".parse().unwrap()),
    ];
    for filtered in ["1", "0"] {
        let path = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if std::fs::write(path, filtered).is_err() {
            println!("without br_netfilter:");
        } else {
            println!("bridge-nf-call-iptables = {filtered}:");
        }
        let mut results = vec![(Vec::new(), Vec::new()); targets.len()];
        for _ in 0..7 {
            for ((_, from, to), (throughput, round_trip)) in targets.iter().zip(&mut results) {
                let (t, r) = measure(from, *to);
                throughput.push(t);
                round_trip.push(r);
            }
        }
        for ((what, ..), (throughput, round_trip)) in targets.iter().zip(results) {
            println!("  {what}: {:.2} Gbit/s, {:.1} µs round trip", median(throughput), median(round_trip));
        }
    }
}
