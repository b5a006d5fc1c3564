//! One stream and its credit.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use super::packet::Header;
use crate::event_loop::Interest;

/// Bytes from the guest that are kept for a socket that is full: the credit the guest is given.
pub const RECEIVE_BUFFER: u32 = 256 << 10;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The host's client has not said its port yet.
    Handshake,
    /// The guest was asked.
    Requested,
    /// Data flows.
    Established,
    /// Both sides are told; what is kept is written, then it is gone.
    Closing,
}

/// One stream.
pub struct Connection {
    pub stream: UnixStream,
    pub phase: Phase,
    pub host_port: u32,
    pub guest_port: u32,
    /// The beginning of `CONNECT PORT\n`.
    pub greeting: Vec<u8>,
    /// Bytes from the guest that the socket did not take.
    kept: VecDeque<u8>,
    /// Bytes from the guest that the socket took.
    forwarded: Wrapping<u32>,
    /// What of that the guest was told.
    forwarded_told: Wrapping<u32>,
    /// Bytes sent to the guest.
    pub sent: Wrapping<u32>,
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    /// A place in the device's list of what is to be sent.
    pub queued: bool,
    /// The socket has no more to read.
    pub read_ended: bool,
    /// The guest receives no more, sends no more.
    pub guest_shut: u32,
    pub registered: Option<Interest>,
    /// The guest was asked for credit.
    pub credit_asked: bool,
}

impl Connection {
    pub fn new(stream: UnixStream, phase: Phase, host_port: u32, guest_port: u32) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            phase,
            host_port,
            guest_port,
            greeting: Vec::new(),
            kept: VecDeque::new(),
            forwarded: Wrapping(0),
            forwarded_told: Wrapping(0),
            sent: Wrapping(0),
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            queued: false,
            read_ended: false,
            guest_shut: 0,
            registered: None,
            credit_asked: false,
        })
    }

    /// Takes the credit that each packet of the guest carries.
    pub fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer;
        self.guest_forwarded = Wrapping(header.forwarded);
        self.credit_asked = false;
    }

    /// Bytes that may be sent to the guest.
    pub fn credit(&self) -> usize {
        // More in flight than there is room: a guest that shrank its buffer, or lies. Nothing is sent.
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0) as usize
    }

    /// Bytes the guest may still send.
    pub fn room(&self) -> usize {
        (RECEIVE_BUFFER as usize).saturating_sub(self.kept.len())
    }

    /// Writes data of the guest, and keeps what the socket does not take. The caller checked the room.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while self.kept.is_empty() && done < data.len() {
            match self.stream.write(&data[done..]) {
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.forwarded += done as u32;
        self.kept.extend(&data[done..]);
        Ok(())
    }

    /// Writes what is kept. Returns whether nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.kept.is_empty() {
            match self.stream.write(self.kept.as_slices().0) {
                Ok(count) => {
                    self.kept.drain(..count);
                    self.forwarded += count as u32;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.kept.shrink_to(4096);
        Ok(true)
    }

    /// Whether data of the guest waits for the socket.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether the guest should hear that its data was passed on: before it runs out of credit.
    pub fn should_tell_credit(&self) -> bool {
        (self.forwarded - self.forwarded_told).0 >= RECEIVE_BUFFER / 4
    }

    /// A header to the guest, with the credit of now.
    pub fn header(&mut self, guest_cid: u64, operation: u16, flags: u32, length: usize) -> Header {
        self.forwarded_told = self.forwarded;
        Header {
            source_cid: super::HOST_CID,
            destination_cid: guest_cid,
            source_port: self.host_port,
            destination_port: self.guest_port,
            length: length as u32,
            kind: super::packet::TYPE_STREAM,
            operation,
            flags,
            buffer: RECEIVE_BUFFER,
            forwarded: self.forwarded.0,
        }
    }
}
