use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use super::packet::*;
use super::*;
use crate::virtio::testing::Driver;

const CID: u64 = 3;
const BUFFER: usize = 4096 + HEADER;

struct Setup {
    driver: Driver<Vsock>,
    directory: tempfile::TempDir,
}

fn setup() -> Setup {
    let directory = tempfile::tempdir().unwrap();
    let driver = Driver::new(device(directory.path()));
    let mut setup = Setup { driver, directory };
    setup.offer(16);
    setup
}

fn device(directory: &std::path::Path) -> Vsock {
    let _ = std::fs::remove_file(directory.join("vsock"));
    let listener = UnixListener::bind(directory.join("vsock")).unwrap();
    Vsock::new(CID, Some(listener), Box::new(PathConnector(directory.join("vsock")))).unwrap()
}

impl Setup {
    fn offer(&mut self, buffers: usize) {
        for _ in 0..buffers {
            self.driver.submit(0, &[], &[BUFFER]);
        }
        self.driver.kick(0);
    }

    fn client(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("vsock")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        self.driver.run();
        let packet = self.driver.completed(0)?;
        let header = Header::decode(packet.data[..HEADER].try_into().unwrap());
        assert_eq!(packet.written, HEADER + header.length as usize);
        Some((header, packet.data[HEADER..packet.written].to_vec()))
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        self.driver.request(1, &[&header.encode(), data], &[]);
        self.driver.run();
    }
}

fn from_guest(operation: u16, host_port: u32, guest_port: u32) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: guest_port,
        destination_port: host_port,
        kind: TYPE_STREAM,
        operation,
        buffer: 8192,
        ..Header::default()
    }
}

fn data(length: usize, host_port: u32, guest_port: u32) -> Header {
    Header { length: length as u32, ..from_guest(OP_DATA, host_port, guest_port) }
}

fn connect_from_host(setup: &mut Setup) -> (UnixStream, u32) {
    let mut client = setup.client();
    client.write_all(b"CONNECT 52\nearly").unwrap();
    let (request, _) = setup.next().unwrap();
    assert_eq!((request.operation, request.destination_port, request.destination_cid), (OP_REQUEST, 52, CID));
    setup.send(from_guest(OP_RESPONSE, request.source_port, 52), &[]);
    let mut answer = [0; 32];
    let count = client.read(&mut answer).unwrap();
    assert_eq!(answer[..count], *format!("OK {}\n", request.source_port).as_bytes());
    (client, request.source_port)
}

#[test]
fn host_connects_and_data_flows_both_ways() {
    let mut setup = setup();
    let (mut client, port) = connect_from_host(&mut setup);
    assert_eq!(setup.next().unwrap().1, b"early", "what came with the greeting belongs to the guest");
    setup.send(data(5, port, 52), b"hello");
    let mut text = [0; 16];
    assert_eq!(client.read(&mut text).unwrap(), 5);
    assert_eq!(&text[..5], b"hello");
    drop(client);
    assert_eq!(setup.next().unwrap().0.operation, OP_SHUTDOWN);
    let both = Header { flags: 3, ..from_guest(OP_SHUTDOWN, port, 52) };
    setup.send(both, &[]);
    assert_eq!(setup.next().unwrap().0.operation, OP_RESET);
    assert_eq!(setup.driver.device().connections(), 0);
}

#[test]
fn guest_connects_to_a_listener_or_is_reset() {
    let mut setup = setup();
    setup.send(from_guest(OP_REQUEST, 1024, 77), &[]);
    assert_eq!(setup.next().unwrap().0.operation, OP_RESET);
    let listener = UnixListener::bind(setup.directory.path().join("vsock_1024")).unwrap();
    setup.send(from_guest(OP_REQUEST, 1024, 77), &[]);
    let (response, _) = setup.next().unwrap();
    assert_eq!((response.operation, response.buffer), (OP_RESPONSE, RECEIVE_BUFFER));
    let (mut server, _) = listener.accept().unwrap();
    setup.send(data(3, 1024, 77), b"abc");
    let mut text = [0; 3];
    server.read_exact(&mut text).unwrap();
    // Half-close: the guest sends no more and still receives.
    setup.send(Header { flags: 2, ..from_guest(OP_SHUTDOWN, 1024, 77) }, &[]);
    assert_eq!(server.read(&mut text).unwrap(), 0);
    server.write_all(b"reply").unwrap();
    assert_eq!(setup.next().unwrap().1, b"reply");
}

#[test]
fn guests_credit_is_respected() {
    let mut setup = setup();
    let (mut client, port) = connect_from_host(&mut setup);
    client.write_all(&[7; 40_000]).unwrap();
    let mut received = 0;
    let mut asked = false;
    while let Some((header, bytes)) = setup.next() {
        received += bytes.len();
        asked |= header.operation == OP_CREDIT_REQUEST;
    }
    assert!(received <= 8192 && asked, "{received} bytes, asked {asked}");
    for _ in 0..20 {
        let update = Header { forwarded: received as u32, ..from_guest(OP_CREDIT_UPDATE, port, 52) };
        setup.offer(4);
        setup.send(update, &[]);
        while let Some((_, bytes)) = setup.next() {
            received += bytes.len();
        }
    }
    assert_eq!(received, 40_005);
}

#[test]
fn guest_that_exceeds_its_credit_is_reset() {
    let mut setup = setup();
    let (mut client, port) = connect_from_host(&mut setup);
    setup.next().unwrap();
    // The client does not read: socket buffer first, then our own, then no more.
    let block = vec![1; 60_000];
    let mut reset = false;
    for _ in 0..40 {
        setup.send(data(block.len(), port, 52), &block);
        while let Some((header, _)) = setup.next() {
            reset |= header.operation == OP_RESET;
        }
        if reset {
            break;
        }
    }
    assert!(reset);
    assert_eq!(setup.driver.device().connections(), 0);
    let mut sink = Vec::new();
    client.set_nonblocking(false).unwrap();
    client.read_to_end(&mut sink).unwrap();
}

#[test]
fn nonsense_is_refused_and_the_device_goes_on() {
    let mut setup = setup();
    setup.send(from_guest(OP_DATA, 5, 6), &[]);
    assert_eq!(setup.next().unwrap().0.operation, OP_RESET);
    setup.send(Header { kind: 9, ..from_guest(OP_REQUEST, 5, 6) }, &[]);
    assert_eq!(setup.next().unwrap().0.operation, OP_RESET);
    setup.send(Header { source_cid: 99, ..from_guest(OP_REQUEST, 5, 6) }, &[]);
    setup.send(Header { destination_cid: 99, ..from_guest(OP_REQUEST, 5, 6) }, &[]);
    setup.send(from_guest(OP_RESET, 5, 6), &[]);
    assert!(setup.next().is_none());
    for greeting in ["CONNECT x\n", "HELLO\n", "CONNECT 99999999999\n", &"x".repeat(100)] {
        let mut client = setup.client();
        client.write_all(greeting.as_bytes()).unwrap();
        setup.driver.run();
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        setup.driver.run();
    }
    assert_eq!(setup.driver.device().connections(), 0);
    connect_from_host(&mut setup);
    // A length that the chain does not have.
    let header = data(5000, 1, 2);
    setup.driver.submit(1, &[&header.encode(), b"short"], &[]);
    setup.driver.kick(1);
    assert!(setup.driver.needs_reset());
}

#[test]
fn flood_of_packets_without_receive_buffers_is_left_in_the_queue() {
    let directory = tempfile::tempdir().unwrap();
    let mut driver = Driver::new(device(directory.path()));
    let mut answered = 0;
    for _ in 0..1000 {
        if driver.queues[1].layout.size as usize <= answered + 2000 {
            driver.submit(1, &[&from_guest(OP_DATA, 1, 2).encode()], &[]);
            driver.kick(1);
            answered += usize::from(driver.completed(1).is_some());
        }
        if answered >= 256 {
            break;
        }
    }
    assert_eq!(answered, 256, "then it waits");
    driver.submit(1, &[&from_guest(OP_DATA, 1, 2).encode()], &[]);
    driver.kick(1);
    assert!(driver.completed(1).is_none());
}

#[test]
fn restored_guest_is_told_to_reset_before_anyone_connects() {
    let mut setup = setup();
    let (client, _) = connect_from_host(&mut setup);
    let device = device(setup.directory.path());
    let mut driver = setup.driver.migrate(device);
    drop(client);
    let directory = setup.directory;
    let mut early = UnixStream::connect(directory.path().join("vsock")).unwrap();
    early.write_all(b"CONNECT 1\n").unwrap();
    driver.run();
    assert_eq!(driver.device().connections(), 0);
    driver.submit(2, &[], &[4]);
    driver.kick(2);
    assert_eq!(driver.completed(2).unwrap().data, [0; 4]);
    driver.run();
    assert_eq!(driver.device().connections(), 1);
}
