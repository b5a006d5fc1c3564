//! The vsock device and its multiplexer.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::connection::{Connection, Phase, RECEIVE_BUFFER};
use super::packet::{
    HEADER, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_DATA, OP_REQUEST, OP_RESET, OP_RESPONSE, OP_SHUTDOWN,
    SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use super::state::VsockState;
use crate::bus::read_window;
use crate::event_loop::{Interest, Readiness};
use crate::sys;
use crate::virtio::device::{Activation, DeviceState, DeviceType, FIRST_OWN_TOKEN, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::{GuestFault, feature};

/// The host's context id.
pub const HOST_CID: u64 = 2;

/// Connections at once; further ones are reset.
pub const MAX_CONNECTIONS: usize = 1023;

/// Packets that wait for the guest's buffers. With so many the guest's own packets are left where they are.
const MAX_WAITING: usize = 256;

/// The greatest data of one packet, as Linux has it.
const MAX_DATA: usize = 64 << 10;

/// The first port of the host's side of connections that the host makes.
const FIRST_HOST_PORT: u32 = 1 << 30;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;

const LISTENER: u32 = FIRST_OWN_TOKEN;
const FIRST_CONNECTION: u32 = FIRST_OWN_TOKEN + 16;

/// Finds what a guest's connection goes to.
pub trait Connector: Send {
    /// A stream for the guest's connection to `port` of the host. Must not block.
    fn connect(&self, port: u32) -> io::Result<UnixStream>;
}

/// Connects to the socket `PREFIX_PORT`.
#[derive(Debug, Clone)]
pub struct PathConnector(pub PathBuf);

impl Connector for PathConnector {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
        let mut path = self.0.clone().into_os_string();
        path.push(format!("_{port}"));
        // Non-blocking from the start: a listener whose backlog is full must not hold up the event loop.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(PathBuf::from(path))?)?;
        Ok(socket.into())
    }
}

/// What waits for a buffer of the guest.
enum Waiting {
    /// A packet without data.
    Packet(Header),
    /// Whatever the connection of this slot has to read.
    Data(usize),
}

/// The vsock device.
pub struct Vsock {
    cid: u64,
    listener: Option<UnixListener>,
    connector: Box<dyn Connector>,
    connections: Vec<Option<Connection>>,
    /// Slots by host port and guest port.
    by_ports: BTreeMap<(u32, u32), usize>,
    waiting: VecDeque<Waiting>,
    next_port: u32,
    reset_pending: bool,
    listening: bool,
    features: u64,
    active: Option<Activation>,
}

impl Vsock {
    /// A device for the guest with context id `cid` (3 or more). `listener` is where the host's clients connect.
    pub fn new(cid: u64, listener: Option<UnixListener>, connector: Box<dyn Connector>) -> io::Result<Self> {
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self {
            cid,
            listener,
            connector,
            connections: Vec::new(),
            by_ports: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_port: FIRST_HOST_PORT,
            reset_pending: false,
            listening: false,
            features: 0,
            active: None,
        })
    }

    /// Connections there are now.
    pub fn connections(&self) -> usize {
        self.connections.iter().flatten().count()
    }

    fn add(&mut self, connection: Connection) -> Option<usize> {
        let slot = match self.connections.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.connections.len() < MAX_CONNECTIONS => {
                self.connections.push(None);
                self.connections.len() - 1
            }
            None => return None,
        };
        self.connections[slot] = Some(connection);
        Some(slot)
    }

    /// Forgets a connection and closes its socket.
    fn remove(&mut self, slot: usize) {
        let Some(connection) = self.connections[slot].take() else { return };
        self.by_ports.remove(&(connection.host_port, connection.guest_port));
        self.waiting.retain(|waiting| !matches!(waiting, Waiting::Data(other) if *other == slot));
        // The socket leaves the event loop as it is closed.
    }

    /// Resets a connection on the guest's side too.
    fn abort(&mut self, slot: usize) {
        let cid = self.cid;
        if let Some(connection) = &mut self.connections[slot]
            && connection.phase != Phase::Handshake
        {
            let header = connection.header(cid, OP_RESET, 0, 0);
            self.waiting.push_back(Waiting::Packet(header));
        }
        self.remove(slot);
    }

    fn send(&mut self, slot: usize, operation: u16, flags: u32) {
        let cid = self.cid;
        if let Some(connection) = &mut self.connections[slot] {
            let header = connection.header(cid, operation, flags, 0);
            self.waiting.push_back(Waiting::Packet(header));
        }
    }

    /// Waits on the socket for what can be dealt with now, and for nothing else: events are level-triggered.
    fn update_interest(&mut self, slot: usize) {
        let (Some(active), Some(connection)) = (&self.active, &mut self.connections[slot]) else { return };
        let read = match connection.phase {
            Phase::Handshake => true,
            Phase::Requested | Phase::Closing => false,
            Phase::Established => {
                let receives = connection.guest_shut & SHUTDOWN_RECEIVE == 0;
                receives && !connection.queued && !connection.read_ended && connection.credit() > 0
            }
        };
        let wanted = match (read, connection.has_kept()) {
            (true, true) => Some(Interest::ReadWrite),
            (true, false) => Some(Interest::Read),
            (false, true) => Some(Interest::Write),
            (false, false) => None,
        };
        if wanted == connection.registered {
            return;
        }
        let token = FIRST_CONNECTION + slot as u32;
        let done = match (connection.registered, wanted) {
            (None, Some(interest)) => active.events.add(&connection.stream, token, interest),
            (Some(_), Some(interest)) => active.events.modify(&connection.stream, token, interest),
            (_, None) => active.events.remove(&connection.stream),
        };
        match done {
            Ok(()) => connection.registered = wanted,
            Err(_) => self.abort(slot),
        }
    }

    /// Everything that may have become possible: to the guest, from the guest.
    fn pump(&mut self) -> Result<(), DeviceError> {
        self.send_reset()?;
        self.receive()?;
        self.transmit()?;
        self.receive()
    }

    /// Tells the guest that all its connections are gone (5.10.6.7).
    fn send_reset(&mut self) -> Result<(), DeviceError> {
        if !self.reset_pending {
            return Ok(());
        }
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(EVENT)) else { return Ok(()) };
        let Some(chain) = queue.pop(&active.memory)? else {
            queue.enable_kicks(&active.memory)?;
            return Ok(());
        };
        chain.writer(&active.memory).write(&0u32.to_le_bytes())?;
        queue.complete(&active.memory, chain, 4)?;
        self.reset_pending = false;
        active.notify(EVENT)
    }

    /// Fills the guest's buffers with what waits.
    fn receive(&mut self) -> Result<(), DeviceError> {
        while let Some(first) = self.waiting.pop_front() {
            let Some(active) = &mut self.active else { return Ok(()) };
            let Some(Some(queue)) = active.queues.get_mut(usize::from(RECEIVE)) else { return Ok(()) };
            let Some(chain) = queue.pop(&active.memory)? else {
                self.waiting.push_front(first);
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let mut writer = chain.writer(&active.memory);
            let slot = match first {
                Waiting::Packet(header) => {
                    writer.write(&header.encode())?;
                    queue.complete(&active.memory, chain, HEADER)?;
                    continue;
                }
                Waiting::Data(slot) => slot,
            };
            let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
                queue.undo_pop(chain);
                continue;
            };
            let mut data = writer.clone();
            data.skip(HEADER)?;
            let room = data.left().min(connection.credit()).min(MAX_DATA);
            if room == 0 {
                connection.queued = false;
                let ask = connection.credit() == 0 && !std::mem::replace(&mut connection.credit_asked, true);
                if data.left() == 0 {
                    return Err(GuestFault::ShortBuffer { part: "packet", needed: HEADER + 1, found: HEADER }.into());
                }
                queue.undo_pop(chain);
                if ask {
                    self.send(slot, OP_CREDIT_REQUEST, 0);
                }
                self.update_interest(slot);
                continue;
            }
            match sys::read_into_guest(&connection.stream, &data.take_slices(room)?, None) {
                Ok(0) => {
                    queue.undo_pop(chain);
                    connection.queued = false;
                    connection.read_ended = true;
                    self.send(slot, OP_SHUTDOWN, SHUTDOWN_SEND);
                }
                Ok(count) => {
                    connection.sent += count as u32;
                    let header = connection.header(self.cid, OP_DATA, 0, count);
                    writer.write(&header.encode())?;
                    queue.complete(&active.memory, chain, HEADER + count)?;
                    // Others first, then there may be more.
                    self.waiting.push_back(Waiting::Data(slot));
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    queue.undo_pop(chain);
                    connection.queued = false;
                }
                Err(_) => {
                    queue.undo_pop(chain);
                    self.abort(slot);
                    continue;
                }
            }
            self.update_interest(slot);
        }
        match &mut self.active {
            Some(active) => active.notify(RECEIVE),
            None => Ok(()),
        }
    }

    /// Takes the guest's packets.
    fn transmit(&mut self) -> Result<(), DeviceError> {
        let mut data = Vec::new();
        while self.waiting.len() < MAX_WAITING {
            let Some(active) = &mut self.active else { return Ok(()) };
            let Some(Some(queue)) = active.queues.get_mut(usize::from(TRANSMIT)) else { return Ok(()) };
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let mut reader = chain.reader(&active.memory);
            let header = Header::decode(&reader.read_array()?);
            let length = header.length as usize;
            // Never more than the credit, whatever the guest claims.
            if length > reader.left() || length > RECEIVE_BUFFER as usize {
                return Err(GuestFault::ShortBuffer { part: "packet", needed: length, found: reader.left() }.into());
            }
            data.resize(length, 0);
            reader.read(&mut data)?;
            queue.complete(&active.memory, chain, 0)?;
            self.packet(header, &data);
        }
        match &mut self.active {
            Some(active) => active.notify(TRANSMIT),
            None => Ok(()),
        }
    }

    /// One packet of the guest.
    fn packet(&mut self, header: Header, data: &[u8]) {
        // Not from the guest, or not to the host: nobody to answer.
        if header.source_cid != self.cid || header.destination_cid != HOST_CID {
            return;
        }
        let ports = (header.destination_port, header.source_port);
        let slot = self.by_ports.get(&ports).copied();
        if header.kind != TYPE_STREAM {
            return self.refuse(&header);
        }
        let Some(slot) = slot else {
            match header.operation {
                OP_REQUEST => self.guest_connects(&header),
                OP_RESET => {}
                _ => self.refuse(&header),
            }
            return;
        };
        let Some(connection) = &mut self.connections[slot] else { return };
        connection.take_credit(&header);
        match (header.operation, connection.phase) {
            (OP_RESPONSE, Phase::Requested) => {
                connection.phase = Phase::Established;
                let answer = format!("OK {}\n", connection.host_port);
                // The socket of a client that has just connected is empty; if it fails, the client has gone.
                if connection.stream.write_all(answer.as_bytes()).is_err() {
                    self.abort(slot);
                    return;
                }
            }
            (OP_RESET, _) => return self.remove(slot),
            (OP_DATA, Phase::Established) if connection.guest_shut & SHUTDOWN_SEND == 0 => {
                if data.len() > connection.room() || connection.write(data).is_err() {
                    return self.abort(slot);
                }
                if connection.should_tell_credit() {
                    self.send(slot, OP_CREDIT_UPDATE, 0);
                }
            }
            (OP_SHUTDOWN, Phase::Established) => {
                connection.guest_shut |= header.flags & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
                self.close_by_guest(slot);
            }
            (OP_CREDIT_REQUEST, Phase::Established) => self.send(slot, OP_CREDIT_UPDATE, 0),
            (OP_CREDIT_UPDATE, _) => {}
            _ => return self.abort(slot),
        }
        if self.connections[slot].is_some() {
            self.update_interest(slot);
        }
    }

    /// Passes on what the guest closed, as far as its data is written.
    fn close_by_guest(&mut self, slot: usize) {
        let Some(connection) = &mut self.connections[slot] else { return };
        if connection.guest_shut == SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
            connection.phase = Phase::Closing;
        }
        if connection.has_kept() {
            return;
        }
        if connection.phase == Phase::Closing {
            return self.abort(slot);
        }
        // Fails when the other side has gone, which the next read or write finds.
        if connection.guest_shut & SHUTDOWN_SEND != 0 {
            let _ = connection.stream.shutdown(Shutdown::Write);
        }
    }

    fn refuse(&mut self, header: &Header) {
        self.waiting.push_back(Waiting::Packet(Header {
            source_cid: HOST_CID,
            destination_cid: self.cid,
            source_port: header.destination_port,
            destination_port: header.source_port,
            kind: header.kind,
            operation: OP_RESET,
            ..Header::default()
        }));
    }

    fn guest_connects(&mut self, header: &Header) {
        let (host_port, guest_port) = (header.destination_port, header.source_port);
        let connection = self
            .connector
            .connect(host_port)
            .and_then(|stream| Connection::new(stream, Phase::Established, host_port, guest_port));
        let Ok(mut connection) = connection else { return self.refuse(header) };
        connection.take_credit(header);
        let Some(slot) = self.add(connection) else { return self.refuse(header) };
        self.by_ports.insert((host_port, guest_port), slot);
        self.send(slot, OP_RESPONSE, 0);
        self.update_interest(slot);
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Ok((stream, _)) = listener.accept() else { return };
        // Beyond the limit the client sees its connection closed.
        if let Ok(connection) = Connection::new(stream, Phase::Handshake, 0, 0)
            && let Some(slot) = self.add(connection)
        {
            self.update_interest(slot);
        }
    }

    /// Reads `CONNECT PORT\n`, byte by byte as what follows belongs to the guest.
    fn greet(&mut self, slot: usize) {
        let Some(connection) = &mut self.connections[slot] else { return };
        let mut byte = [0];
        let line = loop {
            match connection.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break std::mem::take(&mut connection.greeting),
                Ok(1) if connection.greeting.len() < 32 => connection.greeting.push(byte[0]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return self.remove(slot),
            }
        };
        let port = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().strip_prefix("CONNECT "));
        let Some(guest_port) = port.and_then(|port| port.parse().ok()) else { return self.remove(slot) };
        // There are more ports than connections.
        let host_port = loop {
            self.next_port = self.next_port.wrapping_add(1) | FIRST_HOST_PORT;
            if !self.by_ports.contains_key(&(self.next_port, guest_port)) {
                break self.next_port;
            }
        };
        (connection.host_port, connection.guest_port) = (host_port, guest_port);
        connection.phase = Phase::Requested;
        self.by_ports.insert((host_port, guest_port), slot);
        self.send(slot, OP_REQUEST, 0);
        self.update_interest(slot);
    }

    fn socket_ready(&mut self, slot: usize, readiness: Readiness) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        if connection.phase == Phase::Handshake {
            return self.greet(slot);
        }
        if readiness.write || (readiness.hang_up && connection.has_kept()) {
            match connection.flush() {
                Ok(true) if connection.guest_shut != 0 => self.close_by_guest(slot),
                Ok(_) => {
                    if connection.should_tell_credit() {
                        self.send(slot, OP_CREDIT_UPDATE, 0);
                    }
                }
                Err(_) => return self.abort(slot),
            }
        }
        let Some(connection) = &mut self.connections[slot] else { return };
        let waits = matches!(connection.registered, Some(Interest::Read | Interest::ReadWrite));
        if (readiness.read || readiness.hang_up) && waits && !connection.queued {
            connection.queued = true;
            self.waiting.push_back(Waiting::Data(slot));
        }
        self.update_interest(slot);
    }

    fn listen(&mut self) -> Result<(), DeviceError> {
        // Connections made before the guest heard of the reset would fall to it.
        let wanted = !self.reset_pending && self.active.is_some();
        if let (Some(active), Some(listener)) = (&self.active, &self.listener)
            && wanted != self.listening
        {
            match wanted {
                true => active.events.add(listener, LISTENER, Interest::Read)?,
                false => active.events.remove(listener)?,
            }
            self.listening = wanted;
        }
        Ok(())
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256, 16]
    }

    fn features(&self) -> u64 {
        feature::COMMON
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_window(&self.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.active = Some(activation);
        self.listen()
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        if let (Some(active), Some(listener), true) = (&self.active, &self.listener, self.listening) {
            let _ = active.events.remove(listener);
        }
        self.connections.clear();
        self.by_ports.clear();
        self.waiting.clear();
        (self.listening, self.reset_pending, self.features) = (false, false, 0);
        self.active = None;
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), DeviceError> {
        self.pump()?;
        self.listen()
    }

    fn source_ready(&mut self, token: u32, readiness: Readiness) -> Result<(), DeviceError> {
        // An event of before a reset.
        if self.active.is_none() {
            return Ok(());
        }
        match token {
            LISTENER => self.accept(),
            _ => self.socket_ready(token.wrapping_sub(FIRST_CONNECTION) as usize, readiness),
        }
        self.pump()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Vsock(VsockState { features: self.features, cid: self.cid, reset_pending: self.reset_pending })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Vsock(_) => {
                self.reset_pending = true;
                Ok(())
            }
            other => Err(other.mismatch("a vsock device")),
        }
    }
}
