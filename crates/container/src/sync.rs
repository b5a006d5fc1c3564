//! What parent and child say to each other while a container is made: packets on one socket pair, a tag byte and a
//! payload. The end of the stream means that the child has executed the program, or died.

use std::convert::Infallible;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use crate::error::Error;

/// What a packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Tag {
    /// Child: the user namespace exists; please write its mappings. Parent: written.
    Mappings = b'm',
    /// Intermediate child: the process id of the container's first process.
    Pid = b'p',
    /// Child: the namespaces and mounts are there, please run the hooks. Parent: done, go on.
    Hooks = b'h',
    /// Child, with a descriptor: the system-call filter's notifications.
    SeccompFd = b'n',
    /// Child, with a descriptor: the terminal's master.
    Console = b'c',
    /// Child: something was ignored; the text says what.
    Warning = b'w',
    /// Parent, with descriptors: the cgroup is made; the files to write "0" to.
    Cgroup = b'k',
    /// Child: everything is made. The payload is empty.
    Ready = b'r',
    /// Parent: the record is written, go on to the program.
    Go = b'g',
    /// Child: failed; a byte of kind and a text.
    Error = b'e',
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Tag> {
        use Tag::*;
        [Mappings, Pid, Hooks, Cgroup, SeccompFd, Console, Warning, Ready, Go, Error]
            .into_iter()
            .find(|t| *t as u8 == byte)
    }
}

/// A received packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub tag: Tag,
    pub payload: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// The descriptor of a packet that has one.
    pub(crate) fn fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop()
    }
}

/// Longest payload; longer texts are cut.
const MAX: usize = 4096;

/// Most descriptors of a packet: one for each cgroup hierarchy, of which no host has as many.
const MAX_FDS: usize = 32;

/// A connected pair of packet sockets.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

pub(crate) fn send(socket: impl AsFd, tag: Tag, payload: &[u8]) -> io::Result<()> {
    send_with(socket, tag, payload, &[])
}

pub(crate) fn send_with(socket: impl AsFd, tag: Tag, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let payload = &payload[..payload.len().min(MAX)];
    send_fds(socket, &[IoSlice::new(&[tag as u8]), IoSlice::new(payload)], fds)
}

/// Sends bytes and descriptors (`SCM_RIGHTS`), at most [`MAX_FDS`], over any Unix socket.
pub(crate) fn send_fds(socket: impl AsFd, data: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} descriptors in one packet", fds.len())));
    }
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, data, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next packet, or `None` at the end of the stream.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let mut data = vec![0u8; MAX + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut receive = || {
        rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut data)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })
    };
    let message = match receive() {
        // The other side is gone and left something unread. What it said before is still there.
        Err(rustix::io::Errno::CONNRESET) => receive(),
        other => other,
    }?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    let tag = Tag::from_byte(data[0])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("unknown message {:#x}", data[0])))?;
    data.truncate(message.bytes);
    data.remove(0);
    Ok(Some(Packet { tag, payload: data, fds }))
}

/// Waits for a packet of this tag; an error packet or the end of the stream is an error.
pub(crate) fn expect(socket: impl AsFd, tag: Tag) -> Result<Packet, Error> {
    match receive(socket) {
        Ok(Some(packet)) if packet.tag == tag => Ok(packet),
        Ok(Some(packet)) if packet.tag == Tag::Error => Err(decode_error(&packet.payload)),
        Ok(Some(packet)) => Err(Error::InitDied(format!("unexpected message {:?}", packet.tag))),
        Ok(None) => Err(Error::InitDied("the other side is gone".into())),
        Err(e) => Err(Error::system("receive from the container's first process", e)),
    }
}

/// Tells the other side of a failure. Nothing can be done if that fails too.
pub(crate) fn send_error(socket: impl AsFd, error: &Error) {
    let kind = match error {
        Error::ProgramNotFound(_) => b'f',
        Error::ProgramNotExecutable(_) => b'x',
        Error::Unsupported(_) => b'u',
        _ => b's',
    };
    let mut payload = vec![kind];
    payload.extend_from_slice(error.to_string().as_bytes());
    let _ = send(socket, Tag::Error, &payload);
}

/// Tells the other side how the child's life ended, if not by executing the program.
pub(crate) fn send_last_words(socket: impl AsFd, ended: std::thread::Result<Result<Infallible, Error>>) {
    match ended {
        Ok(Ok(never)) => match never {},
        Ok(Err(error)) => send_error(socket, &error),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref().cloned());
            send_error(socket, &Error::Setup(format!("a fault of the runtime: {}", text.unwrap_or_default())));
        }
    }
}

/// The failure that [`send_error`] wrote.
pub(crate) fn decode_error(payload: &[u8]) -> Error {
    let text = String::from_utf8_lossy(payload.get(1..).unwrap_or_default()).into_owned();
    match payload.first() {
        Some(b'f') => Error::ProgramNotFound(text),
        Some(b'x') => Error::ProgramNotExecutable(text),
        Some(b'u') => Error::Unsupported(text),
        _ => Error::Setup(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_text_and_descriptors() {
        let (a, b) = pair().unwrap();
        let file = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        send_with(&a, Tag::Console, b"hello", &[file.as_fd(); 2]).unwrap();
        let mut packet = receive(&b).unwrap().unwrap();
        assert_eq!((packet.tag, packet.payload.as_slice()), (Tag::Console, &b"hello"[..]));
        assert!(packet.fd().is_some() && packet.fd().is_some() && packet.fd().is_none());
        assert!(send_with(&a, Tag::Console, b"", &[file.as_fd(); 2 * MAX_FDS]).is_err());
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn last_words_are_heard_though_the_speaker_left_something_unread() {
        let (a, b) = pair().unwrap();
        send(&b, Tag::Go, b"").unwrap();
        send_error(&a, &Error::Setup("last words".into()));
        drop(a);
        assert_eq!(expect(&b, Tag::Ready).unwrap_err().to_string(), "last words");
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn errors_keep_their_exit_code() {
        let (a, b) = pair().unwrap();
        send_error(&a, &Error::ProgramNotFound("no such thing".into()));
        let error = expect(&b, Tag::Ready).unwrap_err();
        assert_eq!(error.exit_code(), 127);
        assert_eq!(error.to_string(), "no such thing");
    }
}
