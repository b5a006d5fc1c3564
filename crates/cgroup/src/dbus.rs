//! As much of D-Bus as talking to systemd takes: a connection over a Unix socket, method calls, signals.
//!
//! The bus is a stream of messages, each a header and a body of typed values in a binary form where everything lies at
//! a multiple of its own size (D-Bus Specification 0.43, "Message Protocol"). What arrives is not trusted: lengths and
//! nesting are bounded, and every wait has an end.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

/// Messages longer than this are refused, bytes. systemd's are a few hundred.
const MAX_MESSAGE: usize = 1 << 20;
/// Arrays and variants inside each other, as the specification limits them together.
const MAX_DEPTH: usize = 64;
/// Signals kept while a reply is awaited.
const MAX_QUEUE: usize = 4096;
/// How long one call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A typed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Str(String),
    ObjectPath(String),
    Signature(String),
    /// The signature of an element, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub fn str(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    pub fn variant(value: Value) -> Value {
        Value::Variant(Box::new(value))
    }

    /// Bytes as `ay`.
    pub fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".to_owned(), bytes.iter().map(|&b| Value::Byte(b)).collect())
    }

    /// The text of a string, an object path or a signature.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Str(s) | Value::ObjectPath(s) | Value::Signature(s) => Some(s),
            Value::Variant(inner) => inner.text(),
            _ => None,
        }
    }

    pub fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Str(_) => "s".into(),
            Value::ObjectPath(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", signature(fields)),
            Value::Variant(_) => "v".into(),
        }
    }
}

fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// The alignment of a type, by the first letter of its signature.
fn alignment(letter: u8) -> usize {
    match letter {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// Appends a value; `out` begins at a multiple of eight of the message.
fn marshal(out: &mut Vec<u8>, value: &Value) {
    let text = |out: &mut Vec<u8>, s: &str| {
        pad(out, 4);
        out.extend((s.len() as u32).to_le_bytes());
        out.extend(s.as_bytes());
        out.push(0);
    };
    match value {
        Value::Byte(b) => out.push(*b),
        Value::Bool(b) => marshal(out, &Value::U32((*b).into())),
        Value::I32(n) => marshal(out, &Value::U32(*n as u32)),
        Value::U32(n) => {
            pad(out, 4);
            out.extend(n.to_le_bytes());
        }
        Value::I64(n) => marshal(out, &Value::U64(*n as u64)),
        Value::U64(n) => {
            pad(out, 8);
            out.extend(n.to_le_bytes());
        }
        Value::Str(s) | Value::ObjectPath(s) => text(out, s),
        Value::Signature(s) => {
            out.push(s.len() as u8);
            out.extend(s.as_bytes());
            out.push(0);
        }
        Value::Array(element, items) => {
            pad(out, 4);
            let at = out.len();
            out.extend([0; 4]);
            // The padding before the first element does not count.
            pad(out, alignment(element.bytes().next().unwrap_or(b'y')));
            let start = out.len();
            items.iter().for_each(|item| marshal(out, item));
            let length = (out.len() - start) as u32;
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Struct(fields) => {
            pad(out, 8);
            fields.iter().for_each(|field| marshal(out, field));
        }
        Value::Variant(inner) => {
            marshal(out, &Value::Signature(inner.signature()));
            marshal(out, inner);
        }
    }
}

/// The length of the first complete type of a signature.
fn first_type(signature: &[u8], depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    let close = match signature.first()? {
        b'a' => return Some(1 + first_type(&signature[1..], depth + 1)?),
        b'(' => b')',
        b'{' => b'}',
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b'h' | b's' | b'o' | b'g' | b'v' => {
            return Some(1);
        }
        _ => return None,
    };
    let mut at = 1;
    while *signature.get(at)? != close {
        at += first_type(&signature[at..], depth + 1)?;
    }
    (at > 1).then_some(at + 1)
}

/// Reads values; every access is checked against the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let slice = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(slice)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let at = self.at.next_multiple_of(to);
        (at <= self.bytes.len()).then(|| self.at = at)
    }

    fn u16(&mut self) -> Option<u16> {
        self.align(2)?;
        let big = self.big_endian;
        let bytes = self.take(2)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let big = self.big_endian;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> Option<u64> {
        self.align(8)?;
        let big = self.big_endian;
        let bytes = self.take(8)?.try_into().ok()?;
        Some(if big { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.take(1)? == [0]).then_some(text)
    }

    /// The values of a whole signature.
    fn values(&mut self, mut signature: &[u8], depth: usize) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = signature.split_at(first_type(signature, depth)?);
            values.push(self.value(first, depth)?);
            signature = rest;
        }
        Some(values)
    }

    fn value(&mut self, signature: &[u8], depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match *signature.first()? {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.u32()? != 0),
            // 16-bit numbers, doubles and descriptors are not used by systemd's answers; they keep their bits.
            b'n' | b'q' => Value::U32(self.u16()?.into()),
            b'i' => Value::I32(self.u32()? as i32),
            b'u' | b'h' => Value::U32(self.u32()?),
            b'x' => Value::I64(self.u64()? as i64),
            b't' | b'd' => Value::U64(self.u64()?),
            letter @ (b's' | b'o') => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if letter == b's' { Value::Str(text) } else { Value::ObjectPath(text) }
            }
            b'g' => {
                let length = self.take(1)?[0];
                Value::Signature(self.text(length.into())?)
            }
            b'v' => {
                let length = self.take(1)?[0];
                let inner = self.text(length.into())?;
                // Exactly one complete type.
                if first_type(inner.as_bytes(), depth + 1)? != inner.len() {
                    return None;
                }
                Value::variant(self.value(inner.as_bytes(), depth + 1)?)
            }
            b'a' => {
                let element = &signature[1..];
                let length = self.u32()? as usize;
                self.align(alignment(*element.first()?))?;
                let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len())?;
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(element, depth + 1)?);
                }
                if self.at != end {
                    return None;
                }
                Value::Array(String::from_utf8_lossy(element).into_owned(), items)
            }
            b'(' | b'{' => {
                self.align(8)?;
                Value::Struct(self.values(signature.get(1..signature.len() - 1)?, depth + 1)?)
            }
            _ => return None,
        })
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// A message of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub kind: Kind,
    pub serial: u32,
    pub path: Option<String>,
    pub interface: Option<String>,
    pub member: Option<String>,
    pub error_name: Option<String>,
    pub reply_to: Option<u32>,
    pub destination: Option<String>,
    pub body: Vec<Value>,
}

// Header field codes.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

impl Message {
    pub fn new(kind: Kind, serial: u32) -> Message {
        Message {
            kind,
            serial,
            path: None,
            interface: None,
            member: None,
            error_name: None,
            reply_to: None,
            destination: None,
            body: Vec::new(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.body.iter().for_each(|value| marshal(&mut body, value));
        let string = |s: &Option<String>| s.clone().map(Value::Str);
        let signature = Some(signature(&self.body)).filter(|s| !s.is_empty());
        let fields = [
            (PATH, self.path.clone().map(Value::ObjectPath)),
            (INTERFACE, string(&self.interface)),
            (MEMBER, string(&self.member)),
            (ERROR_NAME, string(&self.error_name)),
            (REPLY_SERIAL, self.reply_to.map(Value::U32)),
            (DESTINATION, string(&self.destination)),
            (SIGNATURE, signature.map(Value::Signature)),
        ];
        let fields = fields.into_iter().filter_map(|(code, value)| {
            value.map(|value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]))
        });
        let mut out = vec![b'l', self.kind as u8, 0, 1];
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(self.serial.to_le_bytes());
        marshal(&mut out, &Value::Array("(yv)".to_owned(), fields.collect()));
        pad(&mut out, 8);
        out.extend(body);
        out
    }

    /// The length of the whole message that begins with these sixteen bytes.
    fn length(start: &[u8; 16]) -> Option<usize> {
        let big_endian = match start[0] {
            b'l' => false,
            b'B' => true,
            _ => return None,
        };
        let mut reader = Reader { bytes: start, at: 4, big_endian };
        let body = reader.u32()? as usize;
        reader.u32()?;
        let fields = reader.u32()? as usize;
        let length = fields.checked_add(16)?.checked_next_multiple_of(8)?.checked_add(body)?;
        (length <= MAX_MESSAGE).then_some(length)
    }

    /// Reads one whole message; `None` when it is malformed.
    pub fn from_bytes(bytes: &[u8]) -> Option<Message> {
        if Message::length(bytes.first_chunk()?)? != bytes.len() {
            return None;
        }
        let kind = match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return None,
        };
        let mut reader = Reader { bytes, at: 8, big_endian: bytes[0] == b'B' };
        let mut message = Message::new(kind, reader.u32()?);
        let Value::Array(_, fields) = reader.value(b"a(yv)", 0)? else { return None };
        let mut signature = String::new();
        for field in fields {
            let Value::Struct(pair) = field else { return None };
            let [Value::Byte(code), Value::Variant(value)] = &pair[..] else { return None };
            let text = value.text().map(String::from);
            match (*code, &**value) {
                (PATH, Value::ObjectPath(_)) => message.path = text,
                (INTERFACE, Value::Str(_)) => message.interface = text,
                (MEMBER, Value::Str(_)) => message.member = text,
                (ERROR_NAME, Value::Str(_)) => message.error_name = text,
                (REPLY_SERIAL, Value::U32(serial)) => message.reply_to = Some(*serial),
                (DESTINATION, Value::Str(_)) => message.destination = text,
                (SIGNATURE, Value::Signature(s)) => signature.clone_from(s),
                _ => {}
            }
        }
        reader.align(8)?;
        message.body = reader.values(signature.as_bytes(), 0)?;
        (reader.at == bytes.len()).then_some(message)
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The other side said so: the error's name and text.
    Refused { name: String, text: String },
    /// The connection failed, answered nonsense or not in time.
    Connection(io::Error),
}

impl From<io::Error> for CallError {
    fn from(e: io::Error) -> CallError {
        CallError::Connection(e)
    }
}

/// A connection to a bus.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
    signals: VecDeque<Message>,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Connects to the first usable of a list of addresses, `unix:path=/run/dbus/system_bus_socket;...`.
pub(crate) fn connect_socket(addresses: &str) -> io::Result<UnixStream> {
    let mut last = malformed("the bus address names no Unix socket");
    for address in addresses.split(';') {
        for pair in address.strip_prefix("unix:").unwrap_or_default().split(',') {
            let Some((key, value)) = pair.split_once('=') else { continue };
            let value = unescape(value);
            let connected = match key {
                "path" => UnixStream::connect(&value),
                "abstract" => SocketAddr::from_abstract_name(&value).and_then(|a| UnixStream::connect_addr(&a)),
                _ => continue,
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
    }
    Err(last)
}

/// Undoes `%20` in an address.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&first, rest)) = bytes.split_first() {
        let hex = rest.get(..2).filter(|_| first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                bytes = &rest[2..];
            }
            None => {
                out.push(first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Connection {
    /// Authenticates as whom the kernel tells the bus that this process is (SASL EXTERNAL), and says hello. No user id is
    /// named: in a user namespace, where a rootless engine runs, this process knows itself by another than the bus does.
    pub fn open(stream: UnixStream) -> Result<Connection, CallError> {
        let mut connection = Connection { stream, serial: 0, signals: VecDeque::new() };
        let deadline = Instant::now() + CALL_TIMEOUT;
        connection.stream.set_write_timeout(Some(CALL_TIMEOUT))?;
        connection.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
        let mut line = connection.read_line(deadline)?;
        if line.starts_with(b"DATA") {
            line = connection.read_line(deadline)?;
        }
        if !line.starts_with(b"OK ") {
            let text = format!("the bus refuses this user: {}", String::from_utf8_lossy(&line).trim());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
        }
        connection.stream.write_all(b"BEGIN\r\n")?;
        let bus = "org.freedesktop.DBus";
        connection.call(bus, "/org/freedesktop/DBus", bus, "Hello", Vec::new())?;
        Ok(connection)
    }

    /// A line of the authentication, with its end.
    fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, CallError> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read_exact(&mut byte, deadline)?;
            line.extend(byte);
            if line.len() > 4096 {
                return Err(malformed("the bus answers the authentication without end").into());
            }
        }
        Ok(line)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<Message> {
        let mut start = [0u8; 16];
        self.read_exact(&mut start, deadline)?;
        let length = Message::length(&start).ok_or_else(|| malformed("the bus sent a malformed message"))?;
        let mut bytes = vec![0; length];
        bytes[..16].copy_from_slice(&start);
        self.read_exact(&mut bytes[16..], deadline)?;
        Message::from_bytes(&bytes).ok_or_else(|| malformed("the bus sent a malformed message"))
    }

    /// Calls a method and waits for what it returns.
    pub fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Result<Vec<Value>, CallError> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        self.serial += 1;
        let mut message = Message::new(Kind::Call, self.serial);
        message.destination = Some(destination.to_owned());
        message.path = Some(path.to_owned());
        message.interface = Some(interface.to_owned());
        message.member = Some(member.to_owned());
        message.body = body;
        self.stream.write_all(&message.to_bytes())?;
        loop {
            let reply = self.receive(deadline)?;
            match reply.kind {
                Kind::Return if reply.reply_to == Some(self.serial) => return Ok(reply.body),
                Kind::Error if reply.reply_to == Some(self.serial) => {
                    let text = reply.body.first().and_then(Value::text).unwrap_or_default().to_owned();
                    return Err(CallError::Refused { name: reply.error_name.unwrap_or_default(), text });
                }
                Kind::Signal if self.signals.len() < MAX_QUEUE => self.signals.push_back(reply),
                _ => {}
            }
        }
    }

    /// Waits for a signal that `wanted` accepts; the others are dropped.
    pub fn wait_signal<T>(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let message = match self.signals.pop_front() {
                Some(signal) => signal,
                None => self.receive(deadline)?,
            };
            if message.kind == Kind::Signal
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::Byte),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(Value::U64),
            "[a-z/]{0,12}".prop_map(Value::Str),
            "/[a-z]{0,12}".prop_map(Value::ObjectPath),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(Value::variant),
                proptest::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                (inner, 0usize..4).prop_map(|(v, n)| Value::Array(v.signature(), vec![v; n])),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_message_is_read_back_as_written(serial in 1u32.., body in proptest::collection::vec(any_value(), 0..4)) {
            let mut message = Message::new(Kind::Call, serial);
            message.path = Some("/org/freedesktop/systemd1".into());
            message.interface = Some("org.freedesktop.systemd1.Manager".into());
            message.member = Some("StartTransientUnit".into());
            message.destination = Some("org.freedesktop.systemd1".into());
            message.body = body;
            let bytes = message.to_bytes();
            prop_assert_eq!(Message::from_bytes(&bytes), Some(message));
        }

        #[test]
        fn damaged_messages_are_refused_or_read_but_never_panic(
            body in proptest::collection::vec(any_value(), 0..4), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            let mut message = Message::new(Kind::Signal, 7);
            message.body = body;
            let mut bytes = message.to_bytes();
            let index = at.index(bytes.len());
            bytes[index] = byte;
            let _ = Message::from_bytes(&bytes);
            let _ = Message::from_bytes(&bytes[..cut.index(bytes.len())]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::from_bytes(&bytes);
            let mut reader = Reader { bytes: &bytes, at: 0, big_endian: false };
            let _ = reader.values(b"a{sv}(ayv)", 0);
        }
    }

    /// The bytes of a call as libdbus puts them on the wire, so that both sides cannot be wrong alike.
    #[test]
    fn hello_has_the_bytes_of_the_specification() {
        let mut message = Message::new(Kind::Call, 1);
        message.path = Some("/org/freedesktop/DBus".into());
        message.member = Some("Hello".into());
        let mut expected = b"l\x01\0\x01\0\0\0\0\x01\0\0\0\x2e\0\0\0".to_vec();
        expected.extend(b"\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0");
        expected.extend(b"\x03\x01s\0\x05\0\0\0Hello\0\0\0");
        assert_eq!(message.to_bytes(), expected);
    }

    #[test]
    fn big_endian_messages_are_read() {
        let bytes = b"B\x04\0\x01\0\0\0\x04\0\0\0\x09\0\0\0\x07\x08\x01g\0\x01u\0\0\0\0\x01\x02";
        let message = Message::from_bytes(bytes).unwrap();
        assert_eq!((message.serial, message.body), (9, vec![Value::U32(258)]));
    }

    #[test]
    fn nesting_without_end_is_refused() {
        assert_eq!(first_type(&[b'a'; 100], 0), None);
        assert_eq!(first_type(b"()", 0), None);
        assert_eq!(first_type(b"(s", 0), None);
        // A variant in a variant in a variant...
        let bytes: Vec<u8> = std::iter::repeat_n(*b"\x01v\0", 200).flatten().collect();
        assert_eq!(Reader { bytes: &bytes, at: 0, big_endian: false }.value(b"v", 0), None);
    }

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(unescape("/run/a%20b%2"), "/run/a b%2");
        assert!(connect_socket("tcp:host=x;unix:path=/nonexistent/bus,guid=1").is_err());
    }
}
