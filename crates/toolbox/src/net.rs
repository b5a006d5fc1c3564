//! `ip` over rtnetlink (rtnetlink(7), RFC 3549) and a small `nc`.

use crate::io::{self, Out, Text};
use crate::sys::{self, Errno, Fd};
use crate::{err, options, out};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A netlink message to be: header, a family's structure, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let mut bytes = Vec::from([0u8; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Sends the message and collects what the kernel answers, as type and payload.
    fn ask(mut self) -> sys::Result<Vec<(u16, Vec<u8>)>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        let result = Self::exchange(fd, &self.0);
        sys::close(fd);
        result
    }

    fn exchange(fd: Fd, request: &[u8]) -> sys::Result<Vec<(u16, Vec<u8>)>> {
        sys::send(fd, request)?;
        let mut answers = Vec::new();
        let mut buffer = alloc::vec![0u8; 64 << 10];
        loop {
            let n = sys::receive(fd, &mut buffer)?;
            if n == 0 {
                return Ok(answers);
            }
            let mut rest = &buffer[..n];
            while rest.len() >= 16 {
                let length = (word(rest, 0) as usize).clamp(16, rest.len());
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let payload = &rest[16..length];
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => {
                        return match word(payload, 0) as i32 {
                            0 => Ok(answers),
                            error => Err(Errno(-error)),
                        };
                    }
                    _ => answers.push((kind, payload.to_vec())),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// A native word at an offset; zero beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// An attribute's value after a fixed structure of `skip` bytes.
fn attribute(payload: &[u8], skip: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = payload.get(skip..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if length < 4 || length > rest.len() {
            return None;
        }
        if u16::from_ne_bytes([rest[2], rest[3]]) & 0x3fff == wanted {
            return Some(&rest[4..length]);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    None
}

fn address_text(bytes: &[u8]) -> String {
    match bytes {
        [a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
        _ => match <[u8; 16]>::try_from(bytes) {
            Ok(bytes) => core::net::Ipv6Addr::from(bytes).to_string(),
            Err(_) => "?".to_string(),
        },
    }
}

/// `10.0.0.1/24` or `fe80::1`; `default` and a missing length are the caller's.
fn parse_address(text: &[u8]) -> Option<(Vec<u8>, Option<u8>)> {
    let text = core::str::from_utf8(text).ok()?;
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let bytes = match address.parse().ok()? {
        core::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        core::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    (length.unwrap_or(0) as usize <= bytes.len() * 8).then_some((bytes, length))
}

struct Link {
    index: u32,
    flags: u32,
    name: Vec<u8>,
    payload: Vec<u8>,
}

fn links() -> sys::Result<Vec<Link>> {
    let answers = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16]).ask()?;
    let link = |payload: Vec<u8>| {
        let name = attribute(&payload, 16, libc::IFLA_IFNAME).unwrap_or_default();
        let name = name.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        Link { index: word(&payload, 4), flags: word(&payload, 8), name, payload }
    };
    Ok(answers.into_iter().map(|(_, payload)| link(payload)).collect())
}

fn index_of(name: &[u8]) -> sys::Result<u32> {
    links()?.iter().find(|l| l.name == name).map(|l| l.index).ok_or(Errno(libc::ENODEV))
}

/// Switches an interface on or off.
pub fn set_up(name: &[u8], up: bool) -> sys::Result<()> {
    let mut body = [0u8; 16];
    body[4..8].copy_from_slice(&index_of(name)?.to_ne_bytes());
    let flag = libc::IFF_UP as u32;
    body[8..12].copy_from_slice(&(if up { flag } else { 0 }).to_ne_bytes());
    body[12..16].copy_from_slice(&flag.to_ne_bytes());
    Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body).ask().map(drop)
}

pub fn ip(args: &[&[u8]]) -> i32 {
    let mut words = args[1..].to_vec();
    let (mut brief, mut family) = (false, 0);
    while let Some(option) = words.first().filter(|w| w.starts_with(b"-")) {
        match *option {
            b"-br" | b"-brief" => brief = true,
            b"-4" => family = libc::AF_INET as u8,
            b"-6" => family = libc::AF_INET6 as u8,
            b"-o" | b"-c" | b"-color" => {}
            other => {
                err!("ip: unknown option {}", Text(other));
                return 1;
            }
        }
        words.remove(0);
    }
    let object = words.first().copied().unwrap_or_default();
    let command = words.get(1).copied().unwrap_or(b"show");
    let rest = words.get(2..).unwrap_or_default();
    let is = |full: &[u8]| !object.is_empty() && full.starts_with(object);
    let result = if is(b"address") {
        match command {
            _ if b"show".starts_with(command) || command == b"list" => show_links(true, brief, family, rest),
            b"add" | b"a" | b"del" | b"delete" => change_address(command.starts_with(b"a"), rest),
            _ => usage(),
        }
    } else if is(b"link") {
        match command {
            b"set" => change_link(rest),
            _ if b"show".starts_with(command) || command == b"list" => show_links(false, brief, family, rest),
            _ => usage(),
        }
    } else if is(b"route") {
        match command {
            b"add" | b"a" | b"del" | b"delete" => change_route(command.starts_with(b"a"), rest),
            _ if b"show".starts_with(command) || command == b"list" => show_routes(family),
            _ => usage(),
        }
    } else {
        usage()
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            err!("ip: {message}");
            2
        }
    }
}

type Outcome = core::result::Result<(), String>;

fn usage() -> Outcome {
    Err("usage: ip [-br] [-4|-6] addr|link|route [show | add ... | del ... | set DEV up|down]".to_string())
}

fn show_links(addresses: bool, brief: bool, family: u8, rest: &[&[u8]]) -> Outcome {
    let only = rest.iter().rev().find(|w| **w != b"dev").copied();
    let mut list = links().map_err(|e| format!("links: {e}"))?;
    if let Some(name) = only {
        list.retain(|link| link.name == name);
        if list.is_empty() {
            return Err(format!("{}: no such interface", Text(name)));
        }
    }
    let mut request = [0u8; 8];
    request[0] = family;
    let known = if addresses {
        Message::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &request).ask().map_err(|e| format!("addresses: {e}"))?
    } else {
        Vec::new()
    };
    let mut out = Out::new(1);
    for link in &list {
        let states = ["UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"];
        let state = attribute(&link.payload, 16, libc::IFLA_OPERSTATE).and_then(|v| v.first()).copied().unwrap_or(0);
        let state = states.get(usize::from(state)).unwrap_or(&"UNKNOWN");
        let hardware = attribute(&link.payload, 16, libc::IFLA_ADDRESS).unwrap_or_default();
        let hardware: Vec<String> = hardware.iter().map(|b| format!("{b:02x}")).collect();
        let hardware = hardware.join(":");
        let mine = known.iter().filter(|(_, p)| word(p, 4) == link.index);
        let mine: Vec<(String, bool, u8)> = mine
            .filter_map(|(_, p)| {
                let value = attribute(p, 8, libc::IFA_LOCAL).or(attribute(p, 8, libc::IFA_ADDRESS))?;
                Some((format!("{}/{}", address_text(value), p[1]), p[0] == libc::AF_INET6 as u8, p[3]))
            })
            .collect();
        if brief {
            out!(out, "{:<16} {state:<14} ", Text(&link.name));
            let shown = if addresses { mine.into_iter().map(|m| m.0).collect::<Vec<_>>().join(" ") } else { hardware };
            out!(out, "{shown}\n");
            continue;
        }
        let flags = [
            (libc::IFF_LOOPBACK, "LOOPBACK"),
            (libc::IFF_BROADCAST, "BROADCAST"),
            (libc::IFF_POINTOPOINT, "POINTOPOINT"),
            (libc::IFF_NOARP, "NOARP"),
            (libc::IFF_MULTICAST, "MULTICAST"),
            (libc::IFF_UP, "UP"),
            (0x10000, "LOWER_UP"),
        ];
        let flags: Vec<&str> = flags.iter().filter(|(f, _)| link.flags & *f as u32 != 0).map(|(_, n)| *n).collect();
        let mtu = attribute(&link.payload, 16, libc::IFLA_MTU).map_or(0, |v| word(v, 0));
        out!(out, "{}: {}: <{}> mtu {mtu} state {state}\n", link.index, Text(&link.name), flags.join(","));
        let kind = if link.flags & libc::IFF_LOOPBACK as u32 != 0 { "loopback" } else { "ether" };
        out!(out, "    link/{kind} {hardware}\n");
        for (address, six, scope) in mine {
            let scope = match scope {
                0 => "global",
                253 => "link",
                254 => "host",
                _ => "site",
            };
            out!(out, "    {} {address} scope {scope} {}\n", if six { "inet6" } else { "inet" }, Text(&link.name));
        }
    }
    Ok(())
}

fn change_link(rest: &[&[u8]]) -> Outcome {
    let rest = if rest.first() == Some(&&b"dev"[..]) { &rest[1..] } else { rest };
    let Some((name, words)) = rest.split_first().filter(|(_, w)| !w.is_empty()) else { return usage() };
    let failed = |e: Errno| format!("{}: {e}", Text(name));
    let mut words = words.iter();
    while let Some(setting) = words.next() {
        match *setting {
            b"up" => set_up(name, true).map_err(failed)?,
            b"down" => set_up(name, false).map_err(failed)?,
            b"mtu" | b"name" => {
                let Some(value) = words.next() else { return usage() };
                let mut body = [0u8; 16];
                body[4..8].copy_from_slice(&index_of(name).map_err(failed)?.to_ne_bytes());
                let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &body);
                if *setting == b"name" {
                    message.attribute(libc::IFLA_IFNAME, &[value, &b"\0"[..]].concat());
                } else {
                    let mtu = io::number(value).and_then(|n| u32::try_from(n).ok()).ok_or("mtu: not a number")?;
                    message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
                }
                message.ask().map_err(failed)?;
            }
            other => return Err(format!("{}: unknown setting; up, down, mtu and name are known", Text(other))),
        }
    }
    Ok(())
}

fn change_address(add: bool, rest: &[&[u8]]) -> Outcome {
    let [text, b"dev", name, ..] = rest else { return Err("usage: ip addr add ADDRESS/LENGTH dev DEV".to_string()) };
    let (address, length) = parse_address(text).ok_or_else(|| format!("{}: not an address", Text(text)))?;
    let length = length.unwrap_or(address.len() as u8 * 8);
    let family = if address.len() == 4 { libc::AF_INET } else { libc::AF_INET6 };
    let index = index_of(name).map_err(|e| format!("{}: {e}", Text(name)))?;
    let scope = if address.first() == Some(&127) && address.len() == 4 { 254 } else { 0 };
    let mut body = Vec::from([family as u8, length, 0, scope]);
    body.extend(index.to_ne_bytes());
    let (kind, flags) =
        if add { (libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL) } else { (libc::RTM_DELADDR, 0) };
    let mut message = Message::new(kind, flags | libc::NLM_F_ACK, &body);
    message.attribute(libc::IFA_LOCAL, &address);
    message.attribute(libc::IFA_ADDRESS, &address);
    message.ask().map(drop).map_err(|e| format!("{}: {e}", Text(text)))
}

fn show_routes(family: u8) -> Outcome {
    let mut body = [0u8; 12];
    body[0] = if family == 0 { libc::AF_INET as u8 } else { family };
    let routes = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body).ask().map_err(|e| format!("routes: {e}"))?;
    let links = links().map_err(|e| format!("links: {e}"))?;
    let mut out = Out::new(1);
    for (_, route) in &routes {
        if route.len() < 12 || route[4] != libc::RT_TABLE_MAIN || route[0] != body[0] {
            continue;
        }
        match attribute(route, 12, libc::RTA_DST) {
            Some(value) if usize::from(route[1]) == value.len() * 8 => out!(out, "{}", address_text(value)),
            Some(value) => out!(out, "{}/{}", address_text(value), route[1]),
            None => out!(out, "default"),
        }
        if let Some(gateway) = attribute(route, 12, libc::RTA_GATEWAY) {
            out!(out, " via {}", address_text(gateway));
        }
        let index = attribute(route, 12, libc::RTA_OIF).map_or(0, |v| word(v, 0));
        if let Some(link) = links.iter().find(|l| l.index == index) {
            out!(out, " dev {}", Text(&link.name));
        }
        if route[6] == 253 {
            out!(out, " scope link");
        }
        if let Some(source) = attribute(route, 12, libc::RTA_PREFSRC) {
            out!(out, " src {}", address_text(source));
        }
        if let Some(metric) = attribute(route, 12, libc::RTA_PRIORITY) {
            out!(out, " metric {}", word(metric, 0));
        }
        out.put(b"\n");
    }
    Ok(())
}

fn change_route(add: bool, rest: &[&[u8]]) -> Outcome {
    let Some((target, words)) = rest.split_first() else { return usage() };
    let (mut gateway, mut device) = (None, None);
    for pair in words.chunks(2) {
        match pair {
            [b"via", value] => {
                let parsed = parse_address(value).ok_or_else(|| format!("{}: not an address", Text(value)))?;
                gateway = Some(parsed.0);
            }
            [b"dev", name] => device = Some(index_of(name).map_err(|e| format!("{}: {e}", Text(name)))?),
            _ => return Err("usage: ip route add default|NET/LENGTH [via ADDRESS] [dev DEV]".to_string()),
        }
    }
    let destination = match *target {
        b"default" => None,
        text => Some(parse_address(text).ok_or_else(|| format!("{}: not a network", Text(text)))?),
    };
    let width = destination.as_ref().map(|(d, _)| d.len()).or(gateway.as_ref().map(Vec::len)).unwrap_or(4);
    let family = if width == 4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let length = destination.as_ref().map_or(0, |(d, l)| l.unwrap_or(d.len() as u8 * 8));
    let scope = if gateway.is_none() && add && width == 4 { 253 } else { 0 };
    let scope = if add { scope } else { 255 };
    let body = [family, length, 0, 0, libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    let (kind, flags) =
        if add { (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL) } else { (libc::RTM_DELROUTE, 0) };
    let mut message = Message::new(kind, flags | libc::NLM_F_ACK, &body);
    if let Some((destination, _)) = &destination {
        message.attribute(libc::RTA_DST, destination);
    }
    if let Some(gateway) = &gateway {
        message.attribute(libc::RTA_GATEWAY, gateway);
    }
    if let Some(device) = device {
        message.attribute(libc::RTA_OIF, &device.to_ne_bytes());
    }
    message.ask().map(drop).map_err(|e| format!("{}: {e}", Text(target)))
}

pub fn nc(args: &[&[u8]]) -> i32 {
    let o = options!(args, "lp:nvNw:q:");
    let port_text = o.value(b'p').or(o.operands.last().copied());
    let port = port_text.and_then(io::number).and_then(|n| u16::try_from(n).ok());
    let host = o.operands.first().copied().filter(|h| o.operands.len() > 1 || (o.has(b'p') && !h.is_empty()));
    let address = match host {
        None if o.has(b'l') => Some([0, 0, 0, 0]),
        None => None,
        Some(b"localhost") => Some([127, 0, 0, 1]),
        Some(text) => parse_address(text).and_then(|(bytes, _)| <[u8; 4]>::try_from(bytes).ok()),
    };
    let (Some(port), Some(address)) = (port, address) else {
        err!("usage: nc ADDRESS PORT, or nc -l -p PORT (numeric IPv4 addresses)");
        return 2;
    };
    let connection = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).and_then(|fd| {
        let address = sys::address_v4(address, port);
        if !o.has(b'l') {
            return sys::connect(fd, &address).map(|()| fd);
        }
        sys::set_socket_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        sys::bind(fd, &address)?;
        sys::listen(fd)?;
        let connection = sys::accept(fd);
        sys::close(fd);
        connection
    });
    let socket = match connection {
        Ok(fd) => fd,
        Err(error) => {
            err!("nc: port {port}: {error}");
            return 1;
        }
    };
    let mut buffer = alloc::vec![0u8; 32 << 10];
    let mut input = true;
    loop {
        let fds = if input { &[socket, 0][..] } else { &[socket] };
        let ready = match sys::poll_readable(fds, -1) {
            Ok(ready) => ready,
            Err(Errno(libc::EINTR)) => continue,
            Err(_) => return 1,
        };
        if ready[0] {
            match sys::read(socket, &mut buffer) {
                Ok(n @ 1..) if sys::write_all(1, &buffer[..n]).is_ok() => {}
                Ok(0) => return 0,
                _ => return 1,
            }
        }
        if ready.get(1) == Some(&true) {
            match sys::read(0, &mut buffer) {
                Ok(n @ 1..) => {
                    if sys::write_all(socket, &buffer[..n]).is_err() {
                        return 1;
                    }
                }
                _ => {
                    sys::shutdown(socket, libc::SHUT_WR);
                    input = false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_with_their_length() {
        assert_eq!(parse_address(b"10.0.0.1/24"), Some((vec![10, 0, 0, 1], Some(24))));
        assert_eq!(parse_address(b"::1").map(|a| a.0.len()), Some(16));
        assert_eq!(parse_address(b"10.0.0.1/33"), None);
        assert_eq!(parse_address(b"10.0.0"), None);
    }

    #[test]
    fn attributes_with_wrong_lengths_are_not_followed() {
        assert_eq!(attribute(&[8, 0, 1, 0, 1, 2, 3, 4], 0, 1), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&[200, 0, 1, 0, 1, 2], 0, 1), None);
        assert_eq!(attribute(&[0, 0, 1, 0], 0, 1), None);
    }
}
