//! The server: one descriptor to wait on, one function to call when it is ready.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::ADDRESS;
use super::message::{A, AAAA, Code, PTR, Query, Record, reply};
use crate::error::{Error, Part};
use crate::model::check_alias;
use crate::networks::{Networks, in_namespace};
use crate::state::Files;

/// Questions under way to resolvers, and callers over TCP; the oldest gives way to a further one.
const QUESTIONS: usize = 32;
const CALLERS: usize = 4;
/// How long one resolver has; then the next one is asked, each twice.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a caller over TCP may take.
const TCP_PATIENCE: Duration = Duration::from_secs(10);
/// What an answer over UDP may have without further agreement (RFC 1035, section 4.2.1).
const UDP_LIMIT: usize = 512;
const LONGEST: usize = 65535;

const UDP: u64 = 0;
const TCP: u64 = 1;
/// Tokens of questions and callers are the slot's number above these.
const QUESTION: u64 = 1 << 32;
const CALLER: u64 = 2 << 32;

/// The name server of one instance. The supervisor waits until the descriptor ([`AsFd`]) is readable or
/// [`timeout`](DnsServer::timeout) has passed, and calls [`on_ready`](DnsServer::on_ready). It makes no thread, and
/// keeps at most 32 questions and 4 connections, whatever the instance sends.
#[derive(Debug)]
pub struct DnsServer {
    poll: OwnedFd,
    udp: UdpSocket,
    tcp: TcpListener,
    names: Names,
    resolvers: Vec<SocketAddr>,
    questions: Vec<Option<Question>>,
    callers: Vec<Option<Caller>>,
}

/// A question passed on over UDP, from a socket of its own: its port is as hard to guess as its number.
#[derive(Debug)]
struct Question {
    socket: UdpSocket,
    caller: SocketAddr,
    message: Vec<u8>,
    number: u16,
    tries: usize,
    deadline: Instant,
}

/// A connection over TCP.
#[derive(Debug)]
struct Caller {
    stream: TcpStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
    ended: bool,
    resolver: Option<Relay>,
    deadline: Instant,
}

/// The connection to a resolver on a caller's behalf.
#[derive(Debug)]
struct Relay {
    stream: TcpStream,
    received: Vec<u8>,
    to_send: Vec<u8>,
}

impl DnsServer {
    /// Binds the sockets in the instance's network namespace, whose `lo` must be up. `resolvers` are reached from the
    /// namespace of the calling thread.
    pub fn start(
        networks: &Networks,
        instance: &str,
        namespace: BorrowedFd<'_>,
        resolvers: Vec<SocketAddr>,
    ) -> Result<DnsServer, Error> {
        let (udp, tcp) = in_namespace(namespace, || {
            let udp = UdpSocket::bind((ADDRESS, 53))?;
            let tcp = TcpListener::bind((ADDRESS, 53))?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        })?;
        let failed = |error: rustix::io::Errno| Error::kernel("prepare the name server", Part::Routing, error.into());
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        epoll::add(&poll, &udp, epoll::EventData::new_u64(UDP), epoll::EventFlags::IN).map_err(failed)?;
        epoll::add(&poll, &tcp, epoll::EventData::new_u64(TCP), epoll::EventFlags::IN).map_err(failed)?;
        let names =
            Names { files: networks.files().clone(), instance: instance.into(), networks: Vec::new(), read: None };
        Ok(DnsServer { poll, udp, tcp, names, resolvers, questions: Vec::new(), callers: Vec::new() })
    }

    /// How long to wait at most before the next call of [`on_ready`](DnsServer::on_ready); forever if absent.
    pub fn timeout(&self) -> Option<Duration> {
        let questions = self.questions.iter().flatten().map(|question| question.deadline);
        let callers = self.callers.iter().flatten().map(|caller| caller.deadline);
        Some(questions.chain(callers).min()?.saturating_duration_since(Instant::now()))
    }

    /// Does what can be done without waiting. What an instance sends, however malformed, is no error.
    pub fn on_ready(&mut self) {
        let mut events = Vec::with_capacity(16);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let waited = epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&now));
        if waited.is_ok() {
            for event in &events {
                match event.data.u64() {
                    UDP => self.receive(),
                    TCP => self.accept(),
                    token if token & CALLER != 0 => self.converse((token & !CALLER) as usize),
                    token => self.hear((token & !QUESTION) as usize),
                }
            }
        }
        self.expire();
    }

    /// Takes questions, at most a few at a time, so that one caller does not hold up everything else.
    fn receive(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            let Ok((n, caller)) = self.udp.recv_from(&mut buffer) else { return };
            match self.names.answer(&buffer[..n], UDP_LIMIT) {
                Outcome::Answer(answer) => drop(self.udp.send_to(&answer, caller)),
                Outcome::Ask => self.ask(caller, buffer[..n].to_vec()),
                Outcome::Silence => {}
            }
        }
    }

    fn ask(&mut self, caller: SocketAddr, message: Vec<u8>) {
        let slot = slot(&mut self.questions, QUESTIONS, |question| question.deadline);
        match self.pass_on(slot, caller, message, 0) {
            Ok(question) => self.questions[slot] = Some(question),
            Err(message) => self.give_up(caller, &message),
        }
    }

    /// Sends a question to the next resolver; gives the message back if none can be reached.
    fn pass_on(&self, slot: usize, caller: SocketAddr, message: Vec<u8>, tries: usize) -> Result<Question, Vec<u8>> {
        for tries in tries..2 * self.resolvers.len() {
            let resolver = self.resolvers[tries % self.resolvers.len()];
            let attempt = || -> std::io::Result<(UdpSocket, u16)> {
                let any: IpAddr = if resolver.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(resolver)?;
                socket.set_nonblocking(true)?;
                let mut number = [0; 2];
                rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
                socket.send(&[&number, &message[2..]].concat())?;
                let token = epoll::EventData::new_u64(QUESTION | slot as u64);
                epoll::add(&self.poll, &socket, token, epoll::EventFlags::IN)?;
                Ok((socket, u16::from_be_bytes(number)))
            };
            if let Ok((socket, number)) = attempt() {
                let deadline = Instant::now() + PATIENCE;
                return Ok(Question { socket, caller, message, number, tries: tries + 1, deadline });
            }
        }
        Err(message)
    }

    fn give_up(&self, caller: SocketAddr, message: &[u8]) {
        if let Ok(query) = Query::parse(message) {
            let _ = self.udp.send_to(&query.answer(&[], Code::ServerFailure, UDP_LIMIT), caller);
        }
    }

    /// Takes a resolver's answer.
    fn hear(&mut self, slot: usize) {
        let Some(Some(question)) = self.questions.get(slot) else { return };
        let mut buffer = [0; 4096];
        match question.socket.recv(&mut buffer) {
            Ok(n) => {
                let reply = &mut buffer[..n];
                let fits = Query::parse(&question.message).is_ok_and(|q| q.is_answered_by(reply, question.number));
                if fits {
                    reply[..2].copy_from_slice(&question.message[..2]);
                    let _ = self.udp.send_to(reply, question.caller);
                    self.questions[slot] = None;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Nobody listens there: the next one need not wait.
            Err(_) => self.ask_again(slot),
        }
    }

    fn ask_again(&mut self, slot: usize) {
        let Some(question) = self.questions[slot].take() else { return };
        let (caller, tries) = (question.caller, question.tries);
        match self.pass_on(slot, caller, question.message, tries) {
            Ok(question) => self.questions[slot] = Some(question),
            Err(message) => self.give_up(caller, &message),
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.tcp.accept() else { return };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let slot = slot(&mut self.callers, CALLERS, |caller| caller.deadline);
        if watch(&self.poll, &stream, slot) {
            let deadline = Instant::now() + TCP_PATIENCE;
            let (received, to_send) = (Vec::new(), Vec::new());
            self.callers[slot] = Some(Caller { stream, received, to_send, ended: false, resolver: None, deadline });
            self.converse(slot);
        }
    }

    /// Moves everything of a connection that can be moved. Each message has its length before it.
    fn converse(&mut self, slot: usize) {
        let Some(Some(caller)) = self.callers.get_mut(slot) else { return };
        let mut open = true;
        loop {
            open &= flush(&mut caller.stream, &mut caller.to_send);
            caller.ended |= !fill(&mut caller.stream, &mut caller.received);
            if let Some(relay) = &mut caller.resolver {
                let alive = flush(&mut relay.stream, &mut relay.to_send);
                let more = fill(&mut relay.stream, &mut relay.received);
                if let Some(answer) = take(&mut relay.received) {
                    caller.to_send.extend(framed(&answer));
                    caller.resolver = None;
                    continue;
                }
                open &= alive && more;
                break;
            }
            // An answer at a time: who does not read does not fill memory.
            if !caller.to_send.is_empty() {
                break;
            }
            let Some(message) = take(&mut caller.received) else { break };
            match self.names.answer(&message, LONGEST) {
                Outcome::Answer(answer) => caller.to_send.extend(framed(&answer)),
                Outcome::Ask => match connect(&self.resolvers).filter(|stream| watch(&self.poll, stream, slot)) {
                    Some(stream) => {
                        caller.resolver = Some(Relay { stream, received: Vec::new(), to_send: framed(&message) });
                    }
                    None => open = false,
                },
                Outcome::Silence => open = false,
            }
            if !open {
                break;
            }
        }
        if !open || caller.ended && caller.to_send.is_empty() && caller.resolver.is_none() {
            self.callers[slot] = None;
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for slot in 0..self.questions.len() {
            if self.questions[slot].as_ref().is_some_and(|question| question.deadline <= now) {
                self.ask_again(slot);
            }
        }
        for caller in &mut self.callers {
            if caller.as_ref().is_some_and(|caller| caller.deadline <= now) {
                *caller = None;
            }
        }
    }
}

impl AsFd for DnsServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

/// A free slot, or that of the oldest.
fn slot<T>(slots: &mut Vec<Option<T>>, most: usize, deadline: impl Fn(&T) -> Instant) -> usize {
    if let Some(free) = slots.iter().position(Option::is_none) {
        return free;
    }
    if slots.len() < most {
        slots.push(None);
        return slots.len() - 1;
    }
    let oldest = (0..slots.len()).min_by_key(|i| slots[*i].as_ref().map(&deadline)).unwrap_or(0);
    slots[oldest] = None;
    oldest
}

/// Waits for changes only: every call of `converse` moves all there is.
fn watch(poll: &OwnedFd, stream: &TcpStream, slot: usize) -> bool {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    epoll::add(poll, stream, epoll::EventData::new_u64(CALLER | slot as u64), flags).is_ok()
}

fn connect(resolvers: &[SocketAddr]) -> Option<TcpStream> {
    resolvers.iter().find_map(|resolver| {
        let family = if resolver.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
        match rustix::net::connect(&socket, resolver) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Some(TcpStream::from(socket)),
            Err(_) => None,
        }
    })
}

/// Sends what can be sent; `false` if the other end is gone.
fn flush(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => drop(bytes.drain(..n)),
            // A connection under way is not connected yet.
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected),
        }
    }
    true
}

/// Receives what is there, up to one message and a bit; `false` if there is nothing more to come.
fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    while bytes.len() < LONGEST + 2 {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => bytes.extend(&buffer[..n]),
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected),
        }
    }
    true
}

/// The first whole message.
fn take(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
    let message = bytes.get(2..2 + length)?.to_vec();
    bytes.drain(..2 + length);
    Some(message)
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// What becomes of a message.
enum Outcome {
    Answer(Vec<u8>),
    Ask,
    Silence,
}

/// What this instance may know of others.
#[derive(Debug)]
struct Names {
    files: Files,
    instance: String,
    networks: Vec<String>,
    /// Which version of the instance's record the list is from.
    read: Option<SystemTime>,
}

impl Names {
    fn answer(&mut self, message: &[u8], limit: usize) -> Outcome {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Some(code)) => return Outcome::Answer(reply(message, code)),
            Err(None) => return Outcome::Silence,
        };
        self.refresh();
        if query.kind == PTR
            && let Some(address) = query.reverse()
            && let Some(found) = self.name_of(address)
        {
            return Outcome::Answer(query.answer(&[Record::Name(found)], Code::Fine, limit));
        }
        let Some(addresses) = self.addresses_of(&query.name) else {
            return Outcome::Ask;
        };
        let wanted = |address: &IpAddr| match query.kind {
            A => address.is_ipv4(),
            AAAA => address.is_ipv6(),
            _ => false,
        };
        let records: Vec<Record> = addresses.into_iter().filter(wanted).map(Record::Address).collect();
        Outcome::Answer(query.answer(&records, Code::Fine, limit))
    }

    fn refresh(&mut self) {
        let path = self.files.attachments_path(&self.instance);
        let changed = path.metadata().and_then(|metadata| metadata.modified()).ok();
        if changed != self.read || changed.is_none() {
            let attachments = self.files.attachments(&self.instance).unwrap_or_default();
            self.networks = attachments.into_iter().map(|attachment| attachment.network).collect();
            self.read = changed;
        }
    }

    /// Addresses of a name, alone or followed by its network's name; nothing if nobody has it.
    fn addresses_of(&self, name: &str) -> Option<Vec<IpAddr>> {
        check_alias(name).ok()?;
        let mut found: Option<Vec<IpAddr>> = None;
        for network in &self.networks {
            let short = name.strip_suffix(&network.to_ascii_lowercase()).and_then(|name| name.strip_suffix('.'));
            let both = [Some(name), short].into_iter().flatten();
            for addresses in both.filter_map(|name| self.files.lookup(network, name)) {
                found.get_or_insert_default().extend(addresses);
            }
        }
        found
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let holder = self.files.holder(address)?;
        let attachments = self.files.attachments(&holder).ok()?;
        let shared = attachments.into_iter().find(|attachment| {
            let v4 = attachment.ipv4.is_some_and(|(own, _)| IpAddr::from(own) == address);
            let v6 = attachment.ipv6.is_some_and(|(own, _)| IpAddr::from(own) == address);
            (v4 || v6) && self.networks.contains(&attachment.network)
        })?;
        Some(shared.aliases.first().unwrap_or(&shared.instance).clone())
    }
}
