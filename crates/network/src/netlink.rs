//! Messages to the kernel over netlink(7): a header, a fixed body, and attributes that may hold attributes.
//!
//! Several messages travel in one send; the kernel answers each by its number. What they mean is said in `link.rs`
//! (rtnetlink(7)) and `nft.rs` (nf_tables). An own encoder, because this is all of it: the libraries that know every
//! attribute of every family cost more to build and to load than the whole of this crate.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;

/// Messages to be sent together. Each has a number, counted from 1.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    start: usize,
    count: u32,
}

impl Batch {
    /// Starts a message; the one before ends.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: &[u8]) -> &mut Batch {
        self.end();
        self.start = self.bytes.len();
        self.count += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.pad();
        self
    }

    fn end(&mut self) {
        if self.count > 0 {
            let length = (self.bytes.len() - self.start) as u32;
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute to the message. Values here are far below the 65,531 bytes that fit.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Batch {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// A number in the host's order, as rtnetlink has them.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Batch {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in the network's order, as nf_tables has them.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Batch {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// A text with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Batch {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// An attribute that holds attributes.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Batch)) -> &mut Batch {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes that belong to a structure inside a nested attribute, before its attributes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Batch {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// Whether no message was started.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A message from the kernel.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its type.
    pub(crate) kind: u16,
    /// What follows the header.
    pub(crate) body: Vec<u8>,
}

/// A netlink socket. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> io::Result<Socket> {
        // NETLINK_ROUTE is protocol 0, the default.
        Socket::open(None)
    }

    /// For nf_tables.
    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Socket> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        Ok(Socket(fd))
    }

    fn send(&self, batch: &mut Batch) -> io::Result<()> {
        batch.end();
        // The kernel copies the whole batch; its default allows 200 KiB.
        if batch.bytes.len() > 100 << 10 {
            sockopt::set_socket_send_buffer_size_force(&self.0, 2 * batch.bytes.len())?;
        }
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &batch.bytes, SendFlags::empty()))?;
        Ok(())
    }

    /// Sends messages of which each has `ACK` set, and returns what came back before the acknowledgements. All
    /// messages are carried out, whatever becomes of the others; the first refusal is the error.
    pub(crate) fn request(&self, batch: &mut Batch) -> io::Result<Vec<Answer>> {
        self.send(batch)?;
        let (mut answers, mut acknowledged, mut refusal) = (Vec::new(), 0, None);
        while acknowledged < batch.count {
            self.receive(RecvFlags::empty(), |answer| match answer.error() {
                None => answers.push(answer),
                Some(0) => acknowledged += 1,
                Some(code) => {
                    acknowledged += 1;
                    refusal.get_or_insert(io::Error::from_raw_os_error(code));
                }
            })?;
        }
        refusal.map_or(Ok(answers), Err)
    }

    /// Sends one request for a list and returns its parts.
    pub(crate) fn dump(&self, batch: &mut Batch) -> io::Result<Vec<Answer>> {
        self.send(batch)?;
        let (mut answers, mut done, mut refusal) = (Vec::new(), false, None);
        while !done && refusal.is_none() {
            self.receive(RecvFlags::empty(), |answer| match answer.error() {
                Some(0) => {}
                Some(code) => refusal = Some(io::Error::from_raw_os_error(code)),
                None if answer.kind == NLMSG_DONE => done = true,
                None => answers.push(answer),
            })?;
        }
        refusal.map_or(Ok(answers), Err)
    }

    /// Sends a transaction whose messages need no acknowledgement: the kernel has done all of it, or nothing, when the
    /// send returns, and refusals are waiting.
    pub(crate) fn transact(&self, batch: &mut Batch) -> io::Result<()> {
        self.send(batch)?;
        let mut refusal: Option<io::Error> = None;
        loop {
            let received = self.receive(RecvFlags::DONTWAIT, |answer| {
                if let Some(code) = answer.error().filter(|code| *code != 0) {
                    refusal.get_or_insert(io::Error::from_raw_os_error(code));
                }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Too many refusals to keep: there is at least one.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && refusal.is_some() => {}
                Err(error) => return Err(error),
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn receive(&self, flags: RecvFlags, mut take: impl FnMut(Answer)) -> io::Result<()> {
        // The kernel makes the parts of a list no longer than what was asked to be received.
        let mut buffer = [0u8; 8 << 10];
        let (_, n) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut buffer[..], flags))?;
        let mut rest = &buffer[..n];
        while rest.len() >= HEADER {
            let length = number::<4>(rest, 0).map_or(0, u32::from_ne_bytes) as usize;
            if length < HEADER || length > rest.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            take(Answer {
                kind: number::<2>(rest, 4).map_or(0, u16::from_ne_bytes),
                body: rest[HEADER..length].to_vec(),
            });
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}

impl Answer {
    /// The error number of an acknowledgement, 0 for success; nothing if this is another message.
    fn error(&self) -> Option<i32> {
        (self.kind == NLMSG_ERROR).then(|| -number::<4>(&self.body, 0).map_or(-libc::EIO, i32::from_ne_bytes))
    }

    /// Attributes after a body of this size.
    pub(crate) fn attributes(&self, body: usize) -> Attributes<'_> {
        Attributes(self.body.get(body.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// Attributes in the order in which they stand: kind and value.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(k, value)| (k == kind).then_some(value))
    }

    /// The text of an attribute, without its final zero.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.find(kind)?).ok().map(|text| text.trim_end_matches('\0'))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(number::<2>(self.0, 0).map(u16::from_ne_bytes)?);
        let kind = number::<2>(self.0, 2).map(u16::from_ne_bytes)?;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits say how the value is encoded.
        Some((kind & 0x3fff, value))
    }
}

/// The bytes of a number in a message.
pub(crate) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_aligned_and_counted() {
        let mut batch = Batch::default();
        batch.message(16, ACK, &[1, 2, 3, 4]).text(3, "lo").nested(18, |b| {
            b.text(1, "veth").raw(&[9; 3]);
        });
        batch.message(17, 0, &[]);
        batch.end();
        assert_eq!(batch.count, 2);
        assert_eq!(batch.bytes.len() % 4, 0);
        let first = u32::from_ne_bytes(number(&batch.bytes, 0).unwrap()) as usize;
        assert_eq!(batch.bytes.len() - first, HEADER);
        let answer = Answer { kind: 16, body: batch.bytes[HEADER..first].to_vec() };
        assert_eq!(answer.attributes(4).text(3), Some("lo"));
        let inner = Attributes(answer.attributes(4).find(18).unwrap());
        assert_eq!(inner.text(1), Some("veth"));
    }

    #[test]
    fn damaged_attributes_end_the_list() {
        for bytes in [&[][..], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 0], &[4, 0]] {
            assert_eq!(Attributes(bytes).next(), None, "{bytes:?}");
        }
    }

    #[test]
    fn the_kernel_tells_the_loopback_interface() {
        let mut batch = Batch::default();
        let mut body = [0; 16];
        body[4] = 1;
        batch.message(18, ACK, &body);
        let answers = Socket::route().unwrap().request(&mut batch).unwrap();
        assert_eq!(answers[0].attributes(16).text(3), Some("lo"));
    }
}
