//! DNS messages (RFC 1035, section 4.1): as much of them as answering about addresses and names takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;
const INTERNET: u16 = 1;
const HEADER: usize = 12;
/// Seconds that an answer about an instance may be kept.
const TIME_TO_LIVE: u32 = 5;
const RESPONSE: u8 = 0x80;

/// An outcome, as the header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Fine = 0,
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
}

/// A message that asks one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    bytes: &'a [u8],
    /// Where the question ends.
    end: usize,
    /// The name in lower case, without the final dot.
    pub(crate) name: String,
    /// What is asked for.
    pub(crate) kind: u16,
}

/// What an answer holds.
#[derive(Debug, Clone)]
pub(crate) enum Record {
    Address(IpAddr),
    Name(String),
}

impl<'a> Query<'a> {
    /// Reads a query; an error is what to answer, unless the message is none at all or itself an answer.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Query<'a>, Option<Code>> {
        if bytes.len() < HEADER || bytes[2] & RESPONSE != 0 {
            return Err(None);
        }
        if bytes[2] & 0x78 != 0 {
            return Err(Some(Code::NotImplemented));
        }
        if bytes[4..6] != [0, 1] {
            return Err(Some(Code::FormatError));
        }
        let malformed = Some(Code::FormatError);
        let mut name = String::new();
        let mut at = HEADER;
        loop {
            let length = usize::from(*bytes.get(at).ok_or(malformed)?);
            at += 1;
            if length == 0 {
                break;
            }
            // A question has nothing before it to point to.
            if length > 63 || at - HEADER + length > 254 {
                return Err(malformed);
            }
            if !name.is_empty() {
                name.push('.');
            }
            let label = bytes.get(at..at + length).ok_or(malformed)?;
            // What is no plain text is no name of an instance: the character keeps it from being one.
            name.extend(
                label
                    .iter()
                    .map(|b| if b.is_ascii_graphic() && *b != b'.' { b.to_ascii_lowercase() as char } else { '?' }),
            );
            at += length;
        }
        let &[a, b, c, d] = bytes.get(at..at + 4).and_then(|rest| rest.first_chunk()).ok_or(malformed)?;
        let (kind, class) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        if class != INTERNET {
            return Err(Some(Code::NotImplemented));
        }
        Ok(Query { bytes, end: at + 4, name, kind })
    }

    /// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
    pub(crate) fn reverse(&self) -> Option<IpAddr> {
        if let Some(name) = self.name.strip_suffix(".in-addr.arpa") {
            let mut octets = [0; 4];
            let mut parts = name.rsplit('.');
            for octet in &mut octets {
                *octet = parts.next()?.parse().ok()?;
            }
            return parts.next().is_none().then_some(Ipv4Addr::from(octets).into());
        }
        let mut bits = 0u128;
        let mut digits = 0;
        for part in self.name.strip_suffix(".ip6.arpa")?.rsplit('.') {
            let digit = u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 1)?;
            bits = bits << 4 | u128::from(digit);
            digits += 1;
        }
        (digits == 32).then_some(Ipv6Addr::from_bits(bits).into())
    }

    /// The answer, in at most `limit` bytes: records that do not fit are left out, and the message says so.
    pub(crate) fn answer(&self, records: &[Record], code: Code, limit: usize) -> Vec<u8> {
        let mut text = reply(self.bytes, code);
        text.extend(&self.bytes[HEADER..self.end]);
        text[5] = 1;
        let mut count = 0u16;
        for record in records {
            let (kind, data) = match record {
                Record::Address(IpAddr::V4(address)) => (A, address.octets().to_vec()),
                Record::Address(IpAddr::V6(address)) => (AAAA, address.octets().to_vec()),
                Record::Name(name) => (PTR, encode(name)),
            };
            if text.len() + 12 + data.len() > limit {
                text[2] |= 2;
                break;
            }
            // The name is the question's, at the end of the header.
            text.extend([0xc0, HEADER as u8]);
            text.extend(kind.to_be_bytes());
            text.extend(INTERNET.to_be_bytes());
            text.extend(TIME_TO_LIVE.to_be_bytes());
            text.extend((data.len() as u16).to_be_bytes());
            text.extend(data);
            count += 1;
        }
        text[6..8].copy_from_slice(&count.to_be_bytes());
        text
    }

    /// Whether these bytes answer this question, asked under another number.
    pub(crate) fn is_answered_by(&self, reply: &[u8], number: u16) -> bool {
        let question = self.bytes.get(HEADER..self.end).zip(reply.get(HEADER..self.end));
        reply.get(..2) == Some(&number.to_be_bytes())
            && reply.get(2).is_some_and(|flags| flags & RESPONSE != 0)
            // A server that failed may leave the question out.
            && (question.is_some_and(|(a, b)| a.eq_ignore_ascii_case(b)) || reply.get(4..6) == Some(&[0, 0]))
    }
}

/// A header that answers a message, which has one of its own.
pub(crate) fn reply(message: &[u8], code: Code) -> Vec<u8> {
    let mut text = vec![0; HEADER];
    text[..2].copy_from_slice(&message[..2]);
    // Whether recursion was wanted is repeated; it is available.
    text[2] = RESPONSE | (message[2] & 0x79);
    text[3] = 0x80 | code as u8;
    text
}

fn encode(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| (1..=63).contains(&label.len())) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// Reads any bytes as a query and answers it; for the fuzz target.
#[doc(hidden)]
pub fn fuzz_message(bytes: &[u8]) {
    match Query::parse(bytes) {
        Ok(query) => {
            let records = query.reverse().map(Record::Address).into_iter().chain([Record::Name(query.name.clone())]);
            let answer = query.answer(&records.collect::<Vec<_>>(), Code::Fine, 512);
            assert!(query.is_answered_by(&answer, u16::from_be_bytes([bytes[0], bytes[1]])));
            assert!(answer.len() <= 512.max(query.end), "an answer keeps to its limit");
        }
        Err(Some(code)) => assert_eq!(reply(bytes, code).len(), HEADER),
        Err(None) => {}
    }
}

/// A query of this name and kind; for tests.
#[cfg(test)]
pub(crate) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(encode(name));
    bytes.extend(kind.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_is_read_and_answered() {
        let bytes = query("WWW.Example.org", A);
        let query = Query::parse(&bytes).unwrap();
        assert_eq!((query.name.as_str(), query.kind), ("www.example.org", A));
        let answer = query.answer(&[Record::Address([10, 0, 0, 1].into())], Code::Fine, 512);
        assert_eq!(answer[..8], [0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(answer[answer.len() - 4..], [10, 0, 0, 1]);
        assert!(query.is_answered_by(&answer, 0x1234) && !query.is_answered_by(&answer, 0x1235));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let bytes = query("a", A);
        let query = Query::parse(&bytes).unwrap();
        let answer = query.answer(&vec![Record::Address([10, 0, 0, 1].into()); 100], Code::Fine, 512);
        assert!(answer.len() <= 512 && answer[2] & 2 != 0);
        assert_eq!(usize::from(answer[7]), (answer.len() - bytes.len()) / 16);
    }

    #[test]
    fn addresses_are_read_backwards() {
        let address = |name: &str| Query::parse(&query(name, PTR)).unwrap().reverse();
        assert_eq!(address("5.0.200.10.in-addr.arpa"), Some([10, 200, 0, 5].into()));
        let name = format!("1.{}d.f.ip6.arpa", "0.".repeat(29));
        assert_eq!(address(&name), Some("fd00::1".parse().unwrap()));
        for name in
            ["in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "300.2.3.4.in-addr.arpa", "1.ip6.arpa"]
        {
            assert_eq!(address(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_tolerated(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_message(&bytes);
            let mut framed = query("a.b", A);
            framed.truncate(12);
            framed.extend(bytes);
            fuzz_message(&framed);
        }
    }
}
