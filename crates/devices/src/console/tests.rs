use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::virtio::testing::Driver;

fn pair() -> (UnixStream, File, File) {
    let (far, near) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    (far, File::from(OwnedFd::from(near.try_clone().unwrap())), File::from(OwnedFd::from(near)))
}

fn console(name: Option<&str>) -> (UnixStream, Port) {
    let (far, input, output) = pair();
    let port =
        Port { name: name.map(str::to_owned), console: name.is_none(), input: Some(input), output: Some(output) };
    (far, port)
}

#[test]
fn output_and_input_pass() {
    let (mut far, port) = console(None);
    let mut driver = Driver::new(Console::new(vec![port], (80, 25)));
    driver.request(1, &[b"hello, ", b"host\n"], &[]);
    let mut text = [0; 64];
    assert_eq!(far.read(&mut text).unwrap(), 12);
    assert_eq!(&text[..12], b"hello, host\n");

    driver.submit(0, &[], &[4, 12]);
    driver.kick(0);
    assert!(driver.completed(0).is_none());
    far.write_all(b"hello, guest").unwrap();
    driver.run();
    let got = driver.completed(0).unwrap();
    assert_eq!((got.written, &got.data[..12]), (12, &b"hello, guest"[..]));
    // No buffer, no busy loop: `run` returns.
    far.write_all(b"later").unwrap();
    driver.run();
    driver.submit(0, &[], &[16]);
    driver.kick(0);
    assert_eq!(driver.completed(0).unwrap().written, 5);
}

#[test]
fn flood_waits_in_the_guests_buffers_and_survives_a_snapshot() {
    let (mut far, port) = console(None);
    let mut driver = Driver::new(Console::new(vec![port], (80, 25)));
    let block = vec![b'x'; 100_000];
    for _ in 0..12 {
        driver.submit(1, &[&block], &[]);
    }
    driver.kick(1);
    let mut taken = 0;
    while driver.completed(1).is_some() {
        taken += 1;
    }
    assert!((1..12).contains(&taken), "{taken} blocks were taken");
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count) = far.read(&mut buffer) {
        received += count;
        if received > 150_000 {
            break;
        }
    }
    let partial = driver.device().ports_output(0);
    let mut driver = driver.migrate(Console::new(vec![partial], (80, 25)));
    driver.run_until(|driver| {
        while let Ok(count) = far.read(&mut buffer) {
            received += count;
        }
        while driver.completed(1).is_some() {
            taken += 1;
        }
        taken == 12
    });
    while let Ok(count) = far.read(&mut buffer) {
        received += count;
    }
    assert_eq!(received, 1_200_000, "nothing is lost or sent twice");
}

#[test]
fn ports_are_announced_with_names_and_sizes() {
    let (_far, first) = console(None);
    let (mut agent, second) = console(Some("strata.agent"));
    let mut driver = Driver::new(Console::new(vec![first, second], (132, 43)));
    assert_eq!(driver.config::<8>(0), [132, 0, 43, 0, 2, 0, 0, 0]);
    for _ in 0..16 {
        driver.submit(2, &[], &[64]);
    }
    let control = |port: u32, event: u16, value: u16| super::config::Control { port, event, value }.encode();
    driver.request(3, &[&control(u32::MAX, 0, 1)], &[]);
    driver.request(3, &[&control(0, 3, 1)], &[]);
    driver.request(3, &[&control(1, 3, 1)], &[]);
    let mut messages = Vec::new();
    while let Some(message) = driver.completed(2) {
        messages.push(message.data[..message.written].to_vec());
    }
    let with = |header: [u8; 8], text: &[u8]| [&header, text].concat();
    assert_eq!(
        messages,
        [
            with(control(0, 1, 0), &[]),
            with(control(1, 1, 0), &[]),
            with(control(0, 4, 1), &[]),
            with(control(0, 5, 0), &[43, 0, 132, 0]),
            with(control(0, 6, 1), &[]),
            with(control(1, 7, 1), b"strata.agent"),
            with(control(1, 6, 1), &[]),
        ]
    );
    driver.request(3, &[&control(0, 6, 1)], &[]);
    driver.device().resize(90, 30).unwrap();
    let resized = driver.completed(2).unwrap();
    assert_eq!(resized.data[..12], with(control(0, 5, 0), &[30, 0, 90, 0]));
    // Second port: queues 4 and 5.
    driver.request(5, &[b"ping"], &[]);
    let mut text = [0; 4];
    agent.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ping");
    // Ports and events that do not exist are no reason to stop.
    driver.request(3, &[&control(9999, 6, 1)], &[]);
    driver.request(3, &[&control(0, 77, 1)], &[]);
}

#[test]
fn short_control_message_stops_the_device_only() {
    let (_far, port) = console(None);
    let mut driver = Driver::new(Console::new(vec![port], (80, 25)));
    driver.submit(3, &[b"short"], &[]);
    driver.kick(3);
    assert!(driver.needs_reset());
    driver.negotiate(u64::MAX);
    driver.request(1, &[b"works again"], &[]);
}

#[test]
fn output_without_reader_is_discarded() {
    let (far, port) = console(None);
    drop(far);
    let mut driver = Driver::new(Console::new(vec![port], (80, 25)));
    driver.request(1, &[b"nobody listens"], &[]);
    driver.submit(0, &[], &[8]);
    driver.kick(0);
    assert!(driver.completed(0).is_none());
}
