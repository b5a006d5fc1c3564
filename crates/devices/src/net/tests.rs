use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use super::config::{F_MRG_RXBUF, HEADER};
use super::*;
use crate::rate_limiter::Limit;
use crate::virtio::testing::Driver;

fn tap() -> (UnixDatagram, Box<dyn Backend>) {
    let (far, near) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (far, Box::new(Tap::of_datagrams(File::from(OwnedFd::from(near)))))
}

fn frame(length: usize, fill: u8) -> Vec<u8> {
    [vec![0; HEADER], vec![fill; length]].concat()
}

#[test]
fn packets_pass_whole() {
    let (far, backend) = tap();
    let mut driver = Driver::new(Net::new(backend, NetOptions::default()).unwrap());
    assert_eq!(driver.config::<12>(0), [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5]);
    driver.request(1, &[&[0; HEADER], &[1; 100], &[2; 60]], &[]);
    let mut packet = [0; 300];
    assert_eq!(far.recv(&mut packet).unwrap(), HEADER + 160);
    assert_eq!((packet[HEADER], packet[HEADER + 100]), (1, 2));

    for _ in 0..4 {
        driver.submit(0, &[], &[2000]);
    }
    driver.kick(0);
    far.send(&frame(500, 9)).unwrap();
    driver.run();
    let got = driver.completed(0).unwrap();
    assert_eq!((got.written, got.data[10], got.data[HEADER]), (HEADER + 500, 1, 9));
    assert!(driver.completed(0).is_none());
}

#[test]
fn large_packet_fills_several_buffers() {
    let (far, backend) = tap();
    let mut driver = Driver::new(Net::new(backend, NetOptions::default()).unwrap());
    for _ in 0..40 {
        driver.submit(0, &[], &[1536]);
    }
    driver.kick(0);
    far.send(&frame(20_000, 7)).unwrap();
    driver.run();
    let first = driver.completed(0).unwrap();
    let buffers = usize::from(first.data[10]);
    assert_eq!((buffers, first.written), (20_012usize.div_ceil(1536), 1536));
    let rest: usize = (1..buffers).map(|_| driver.completed(0).unwrap().written).sum();
    assert_eq!(rest + 1536, 20_012);
    assert!(driver.completed(0).is_none());
}

#[test]
fn packet_beyond_a_single_buffer_is_cut_without_merging() {
    let (far, backend) = tap();
    let mut driver = Driver::with_features(Net::new(backend, NetOptions::default()).unwrap(), !F_MRG_RXBUF);
    driver.submit(0, &[], &[100]);
    driver.submit(0, &[], &[100]);
    driver.kick(0);
    far.send(&frame(500, 1)).unwrap();
    driver.run();
    assert!(driver.completed(0).unwrap().written <= 100);
}

#[test]
fn full_network_keeps_packets_in_the_guest() {
    let (far, backend) = tap();
    let mut driver = Driver::new(Net::new(backend, NetOptions::default()).unwrap());
    for _ in 0..60 {
        driver.submit(1, &[&frame(20_000, 3)], &[]);
    }
    driver.kick(1);
    let (mut sent, mut received) = (0, 0);
    let mut packet = vec![0; 30_000];
    driver.run_until(|driver| {
        while driver.completed(1).is_some() {
            sent += 1;
        }
        while far.recv(&mut packet).is_ok() {
            received += 1;
        }
        received == 60
    });
    driver.run();
    while driver.completed(1).is_some() {
        sent += 1;
    }
    assert_eq!(sent, 60);
}

#[test]
fn frames_of_a_stream_survive_any_cut() {
    let (mut far, near) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut driver = Driver::new(Net::new(Box::new(StreamSocket::new(near).unwrap()), NetOptions::default()).unwrap());
    for _ in 0..8 {
        driver.submit(0, &[], &[2000]);
    }
    driver.kick(0);
    let mut bytes = Vec::new();
    for (length, fill) in [(60u32, 1u8), (1500, 2), (0, 3), (64, 4)] {
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![fill; length as usize]);
    }
    for piece in bytes.chunks(7) {
        far.write_all(piece).unwrap();
        driver.run();
    }
    let lengths: Vec<usize> = std::iter::from_fn(|| driver.completed(0)).map(|packet| packet.written).collect();
    assert_eq!(lengths, [72, 1512, 12, 76]);

    driver.request(1, &[&frame(60, 5)], &[]);
    let mut got = [0; 100];
    assert_eq!(far.read(&mut got).unwrap(), 64);
    assert_eq!((&got[..4], got[4]), (&[0, 0, 0, 60][..], 5));
    // A peer that sends nonsense or goes is a network without packets.
    far.write_all(&[0xff; 8]).unwrap();
    driver.run();
    drop(far);
    driver.request(1, &[&frame(60, 5)], &[]);
    assert!(!driver.needs_reset());
}

#[test]
fn nonsense_lengths() {
    let (_far, backend) = tap();
    let mut driver = Driver::new(Net::new(backend, NetOptions::default()).unwrap());
    driver.request(1, &[&vec![0; 100_000]], &[]);
    assert!(!driver.needs_reset(), "too long is dropped");
    driver.submit(1, &[&[0; 11]], &[]);
    driver.kick(1);
    assert!(driver.needs_reset());
    driver.negotiate(u64::MAX);
    driver.submit(0, &[], &[11]);
    driver.kick(0);
    assert!(driver.needs_reset());
}

#[test]
fn snapshot_keeps_buffers_and_limits_hold() {
    let (_old, backend) = tap();
    let mut driver = Driver::new(Net::new(backend, NetOptions::default()).unwrap());
    for _ in 0..20 {
        driver.submit(0, &[], &[2000]);
    }
    driver.kick(0);
    let (far, backend) = tap();
    let receive = (None, Some(Limit { rate: 50, burst: 5 }));
    let mut driver = driver.migrate(Net::new(backend, NetOptions { receive, ..NetOptions::default() }).unwrap());
    let started = Instant::now();
    for _ in 0..15 {
        far.send(&frame(100, 1)).unwrap();
    }
    let mut received = 0;
    driver.run_until(|driver| {
        while driver.completed(0).is_some() {
            received += 1;
        }
        received == 15
    });
    assert!(started.elapsed() > Duration::from_millis(150), "{:?}", started.elapsed());
}

/// A tap interface in a network namespace of the calling thread; `None` where that is not allowed.
#[allow(unsafe_code)]
fn real_tap() -> Option<File> {
    // SAFETY: only this thread, which ends with the test, gets the new namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return None;
    }
    let file = File::options().read(true).write(true).open("/dev/net/tun").ok()?;
    // struct ifreq: name, flags IFF_TAP | IFF_NO_PI | IFF_VNET_HDR.
    let mut request = [0u8; 40];
    request[..4].copy_from_slice(b"test");
    request[16..18].copy_from_slice(&0x5002u16.to_le_bytes());
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, which lives through the call.
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), 0x4004_54ca, request.as_mut_ptr()) };
    (done == 0).then_some(file)
}

#[test]
#[allow(clippy::print_stderr, reason = "a skip must be seen")]
fn tap_of_the_kernel_takes_header_size_and_offloads() {
    let Some(file) = real_tap() else {
        let line = "tap_of_the_kernel_takes_header_size_and_offloads: no privilege for a network namespace and a tap";
        if let Some(path) = std::env::var_os("STRATA_TEST_SKIPS") {
            writeln!(File::options().append(true).create(true).open(path).unwrap(), "{line}").unwrap();
        }
        eprintln!("SKIPPED {line}");
        return;
    };
    let mut driver = Driver::new(Net::new(Box::new(Tap::new(file).unwrap()), NetOptions::default()).unwrap());
    assert_eq!(driver.features & super::config::OFFLOADS, super::config::OFFLOADS);
    // The interface is down: the packet is lost, and the guest goes on.
    driver.request(1, &[&frame(60, 1)], &[]);
    assert!(!driver.needs_reset());
}
