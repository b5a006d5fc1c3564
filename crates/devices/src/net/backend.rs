//! Where packets come from and go to.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::config::{F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, HEADER, MAX_FRAME, NUM_BUFFERS, OFFLOADS};
use crate::block::Pieces;
use crate::sys;

/// The network's side of an interface. Packets begin with a virtio header of 12 bytes. Nothing blocks.
pub trait Backend: Send + AsFd {
    /// Offload features (5.1.3) it can do.
    fn features(&self) -> u64;

    /// The features that were agreed on.
    fn set_features(&mut self, features: u64) -> io::Result<()>;

    /// Writes the next packet to the beginning of `room`; returns its length. `WouldBlock`: there is none now. A packet that does
    /// not fit is dropped (`InvalidData`).
    fn receive(&mut self, room: &Pieces<'_>) -> io::Result<usize>;

    /// Sends a packet. `WouldBlock`: try again when there is room to write.
    fn send(&mut self, packet: &Pieces<'_>) -> io::Result<()>;

    /// There is room to write. True when nothing is left to be written.
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// A tap interface of the host, opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR` and non-blocking.
pub struct Tap {
    file: File,
    offloads: u64,
}

impl Tap {
    /// Takes the opened interface.
    pub fn new(file: File) -> io::Result<Self> {
        sys::configure_tap(&file, HEADER as i32, 0)?;
        Ok(Self { file, offloads: OFFLOADS })
    }

    /// Any descriptor that keeps packets apart, as a datagram socket does.
    #[cfg(test)]
    pub fn of_datagrams(file: File) -> Self {
        Self { file, offloads: 0 }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Backend for Tap {
    fn features(&self) -> u64 {
        self.offloads
    }

    fn set_features(&mut self, features: u64) -> io::Result<()> {
        if self.offloads == 0 {
            return Ok(());
        }
        let bits = [(F_GUEST_CSUM, 1), (F_GUEST_TSO4, 2), (F_GUEST_TSO6, 4), (F_GUEST_ECN, 8)];
        let offload = bits.iter().filter(|(feature, _)| features & feature != 0).map(|(_, bit)| bit).sum();
        sys::configure_tap(&self.file, HEADER as i32, offload)
    }

    fn receive(&mut self, room: &Pieces<'_>) -> io::Result<usize> {
        sys::read_into_guest(&self.file, room.slices(), None)
    }

    fn send(&mut self, packet: &Pieces<'_>) -> io::Result<()> {
        sys::write_from_guest(&self.file, packet.slices(), None).map(|_| ())
    }
}

/// A stream socket with a length before each frame.
pub struct StreamSocket {
    stream: UnixStream,
    /// What was read and not yet taken, between `taken` and `filled`.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    /// What the socket did not take of the last frame.
    output: Vec<u8>,
    sent: usize,
}

const PREFIX: usize = 4;

impl StreamSocket {
    /// Takes the connected socket.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: vec![0; 2 * (PREFIX + MAX_FRAME)], taken: 0, filled: 0, output: Vec::new(), sent: 0 })
    }

    /// The length of the next frame, if it is there altogether.
    fn next_frame(&mut self) -> io::Result<Option<usize>> {
        let waiting = &self.input[self.taken..self.filled];
        let Some(prefix) = waiting.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            let problem = format!("The network sent a frame of {length} bytes, the greatest is {MAX_FRAME}");
            return Err(io::Error::new(ErrorKind::ConnectionAborted, problem));
        }
        Ok((waiting.len() >= PREFIX + length).then_some(length))
    }
}

impl AsFd for StreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Backend for StreamSocket {
    fn features(&self) -> u64 {
        0
    }

    fn set_features(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, room: &Pieces<'_>) -> io::Result<usize> {
        let length = loop {
            if let Some(length) = self.next_frame()? {
                break length;
            }
            self.input.copy_within(self.taken..self.filled, 0);
            (self.filled, self.taken) = (self.filled - self.taken, 0);
            match self.stream.read(&mut self.input[self.filled..])? {
                0 => return Err(io::Error::new(ErrorKind::ConnectionAborted, "The network has gone")),
                count => self.filled += count,
            }
        };
        let frame = &self.input[self.taken + PREFIX..self.taken + PREFIX + length];
        let fits = HEADER + length <= room.len();
        if fits {
            let mut header = [0; HEADER];
            header[NUM_BUFFERS] = 1;
            room.copy_from(&header);
            room.part(HEADER, length).copy_from(frame);
        }
        self.taken += PREFIX + length;
        if fits { Ok(HEADER + length) } else { Err(ErrorKind::InvalidData.into()) }
    }

    fn send(&mut self, packet: &Pieces<'_>) -> io::Result<()> {
        if !self.flush()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = packet.len().saturating_sub(HEADER);
        self.output.resize(PREFIX + length, 0);
        self.output[..PREFIX].copy_from_slice(&(length as u32).to_be_bytes());
        packet.part(HEADER, length).copy_to(&mut self.output[PREFIX..]);
        self.sent = 0;
        // What does not fit is kept: the packet counts as sent.
        self.flush().map(|_| ())
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
