//! The packet filter: one table of nf_tables, whose rules are few and fixed; what changes are the elements of its sets.
//!
//! Two hundred instances with published ports are two hundred elements of a hash table and not one rule more. The table
//! is always replaced as a whole, in one transaction, from what is on disk, so that making it, repairing it after
//! somebody flushed the rules, and removing a network are one function. Published ports are added and removed as
//! elements.
//!
//! In the language of nft(8), with `strata` for the table's name:
//!
//! ```text
//! table inet strata {
//!   set bridges   { type ifname }                    every network's bridge
//!   set internal  { type ifname }                    those without a way out
//!   set same      { type ifname . ifname }           bridge . bridge where instances may reach each other
//!   set subnets4  { type ipv4_addr; flags interval }
//!   set subnets6  { type ipv6_addr; flags interval }
//!   map any4      { type inet_proto . inet_service : ipv4_addr . inet_service }
//!   map bound4    { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!   map any6, bound6 likewise
//!   chain publish {
//!     dnat ip to ip daddr . meta l4proto . th dport map @bound4
//!     fib daddr type local dnat ip to meta l4proto . th dport map @any4          and the same for IPv6
//!   }
//!   chain guard    { type filter hook prerouting priority raw;      iifname @bridges ip daddr 127.0.0.0/8 drop }
//!   chain inbound  { type nat hook prerouting priority dstnat;      jump publish }
//!   chain local    { type nat hook output priority dstnat;          jump publish }
//!   chain outbound { type nat hook postrouting priority srcnat;
//!     ip saddr @subnets4 oifname != @bridges masquerade                          and the same for IPv6
//!     ct status dnat oifname @bridges ip saddr @subnets4 masquerade              and the same for IPv6
//!     ip saddr 127.0.0.0/8 oifname @bridges masquerade
//!   }
//!   chain between  { type filter hook forward priority filter;
//!     ct state established,related accept
//!     iifname . oifname @same accept
//!     iifname @internal drop
//!     oifname @internal drop
//!     ct status dnat accept
//!     oifname @bridges drop
//!   }
//! }
//! ```
//!
//! `guard` is what makes `route_localnet` harmless, which the host's own 127.0.0.1 needs to reach published ports: no
//! instance can send to the host's loopback addresses. A packet that an instance sends to its own published port, or to
//! a neighbour's, gets the host's address as its source, so that the answer comes back the same way.

use std::io;
use std::net::IpAddr;

use crate::error::{Error, Part};
use crate::model::{Attachment, Network, octets};
use crate::netlink::{ACK, APPEND, Batch, CREATE, EXCL, Socket};

pub(crate) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
pub(crate) const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const NFPROTO_INET: u8 = 1;
pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const NFPROTO_IPV6: u8 = 10;
const LIST_ELEM: u16 = 1;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const INTERVAL_END: u32 = 1;
/// Elements in one message: an attribute has at most 64 KiB.
const ELEMENTS: usize = 500;

// Types as nft(8) numbers them, so that it can list the sets.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
const IFNAME: u32 = 41;

const fn types(all: &[u32]) -> u32 {
    let (mut sum, mut i) = (0, 0);
    while i < all.len() {
        sum = sum << 6 | all[i];
        i += 1;
    }
    sum
}

/// `struct nfgenmsg`.
pub(crate) fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

pub(crate) fn transaction(fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::default();
    let body = [0, 0, 0, SUBSYSTEM as u8];
    batch.message(BATCH_BEGIN, 0, &body);
    fill(&mut batch);
    batch.message(BATCH_END, 0, &body);
    batch
}

fn start(batch: &mut Batch, kind: u16, flags: u16) -> &mut Batch {
    batch.message(SUBSYSTEM << 8 | kind, flags, &header(NFPROTO_INET))
}

/// A rule's expressions, one after another.
pub(crate) struct Rule<'a>(pub(crate) &'a mut Batch);

pub(crate) const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
/// Slots of four bytes; register 1 begins at the first.
const SLOT: u32 = 8;
pub(crate) const META_IIFNAME: u32 = 6;
pub(crate) const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const STATUS_DNAT: u32 = 1 << 5;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const DROP: i32 = 0;
pub(crate) const ACCEPT: i32 = 1;
const JUMP: i32 = -3;

impl Rule<'_> {
    fn expression(self, name: &str, fill: impl FnOnce(&mut Batch)) -> Self {
        self.0.nested(LIST_ELEM, |b| {
            b.text(1, name).nested(2, fill);
        });
        self
    }

    pub(crate) fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |b| {
            b.be32(1, register).be32(2, key);
        })
    }

    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |b| {
            b.be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
        })
    }

    pub(crate) fn equals(self, register: u32, value: &[u8]) -> Self {
        self.compare(register, 0, value)
    }

    fn compare(self, register: u32, operation: u32, value: &[u8]) -> Self {
        self.expression("cmp", |b| {
            b.be32(1, register).be32(2, operation).nested(3, |b| {
                b.attribute(1, value);
            });
        })
    }

    fn mask(self, mask: &[u8]) -> Self {
        self.expression("bitwise", |b| {
            b.be32(1, REGISTER_1).be32(2, REGISTER_1).be32(3, mask.len() as u32);
            b.nested(4, |b| {
                b.attribute(1, mask);
            });
            b.nested(5, |b| {
                b.attribute(1, &vec![0; mask.len()]);
            });
        })
    }

    fn lookup(self, set: &str, register: u32, inverted: bool) -> Self {
        self.expression("lookup", |b| {
            b.text(1, set).be32(2, register).be32(5, u32::from(inverted));
        })
    }

    fn map(self, map: &str, register: u32) -> Self {
        self.expression("lookup", |b| {
            b.text(1, map).be32(2, register).be32(3, REGISTER_1);
        })
    }

    fn family(self, family: u8) -> Self {
        self.meta(META_NFPROTO, REGISTER_1).equals(REGISTER_1, &[family])
    }

    fn address_in(self, family: u8, destination: bool, set: &str) -> Self {
        let (offset, length) = address_at(family, destination);
        self.family(family).payload(NETWORK_HEADER, offset, length, REGISTER_1).lookup(set, REGISTER_1, false)
    }

    fn loopback_address(self, destination: bool) -> Self {
        let (offset, length) = address_at(NFPROTO_IPV4, destination);
        let rule = self.family(NFPROTO_IPV4).payload(NETWORK_HEADER, offset, length, REGISTER_1);
        rule.mask(&[255, 0, 0, 0]).equals(REGISTER_1, &[127, 0, 0, 0])
    }

    fn interface_in(self, key: u32, set: &str, inverted: bool) -> Self {
        self.meta(key, REGISTER_1).lookup(set, REGISTER_1, inverted)
    }

    fn connection_has(self, key: u32, bits: u32) -> Self {
        let rule = self.expression("ct", |b| {
            b.be32(1, REGISTER_1).be32(2, key);
        });
        rule.mask(&bits.to_ne_bytes()).compare(REGISTER_1, 1, &[0; 4])
    }

    fn destination_is_local(self) -> Self {
        const RTN_LOCAL: u32 = 2;
        let rule = self.expression("fib", |b| {
            b.be32(1, REGISTER_1).be32(2, 3).be32(3, 2);
        });
        rule.equals(REGISTER_1, &RTN_LOCAL.to_ne_bytes())
    }

    fn translate(self, family: u8) -> Self {
        // The address fills one slot or four, the port is in the next.
        let port = if family == NFPROTO_IPV4 { SLOT + 1 } else { SLOT + 4 };
        self.expression("nat", |b| {
            b.be32(1, 1).be32(2, u32::from(family)).be32(3, REGISTER_1).be32(5, port);
        })
    }

    pub(crate) fn counter(self) -> Self {
        self.expression("counter", |b| {
            b.attribute(1, &[0; 8]).attribute(2, &[0; 8]);
        })
    }

    fn masquerade(self) {
        self.expression("masq", |_| {});
    }

    pub(crate) fn verdict(self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |b| {
            b.be32(1, 0).nested(2, |b| {
                b.nested(2, |b| {
                    b.be32(1, code as u32);
                    if let Some(chain) = chain {
                        b.text(2, chain);
                    }
                });
            });
        });
    }
}

/// Offset and length of an address in the header.
fn address_at(family: u8, destination: bool) -> (u32, u32) {
    match (family, destination) {
        (NFPROTO_IPV4, false) => (12, 4),
        (NFPROTO_IPV4, true) => (16, 4),
        (_, false) => (8, 16),
        (_, true) => (24, 16),
    }
}

/// A table of this name, in whose rules instances of one state directory are.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    name: &'a str,
}

impl<'a> Table<'a> {
    pub(crate) fn new(name: &'a str) -> Table<'a> {
        Table { name }
    }

    /// Whether the table is there and knows the bridge.
    pub(crate) fn knows(&self, socket: &Socket, bridge: &str) -> Result<bool, Error> {
        let mut batch = Batch::default();
        start(&mut batch, GETSETELEM, ACK);
        self.elements(&mut batch, "bridges", &[Element::key(interface(bridge))]);
        match socket.request(&mut batch) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(refusal) => Err(self.failed("look into", refusal)),
        }
    }

    /// Replaces the table.
    pub(crate) fn replace(
        &self,
        socket: &Socket,
        networks: &[Network],
        attachments: &[Attachment],
    ) -> Result<(), Error> {
        let mut batch = transaction(|b| {
            start(b, NEWTABLE, CREATE).text(1, self.name).be32(2, 0);
            start(b, DELTABLE, 0).text(1, self.name);
            start(b, NEWTABLE, CREATE).text(1, self.name).be32(2, 0);
            self.sets(b);
            self.chains(b);
            self.members(b, networks);
            self.ports(b, NEWSETELEM, CREATE, attachments);
        });
        socket.transact(&mut batch).map_err(|r| self.failed("fill", r))
    }

    /// Removes the table.
    pub(crate) fn remove(&self, socket: &Socket) -> Result<(), Error> {
        let mut batch = transaction(|b| {
            start(b, NEWTABLE, CREATE).text(1, self.name).be32(2, 0);
            start(b, DELTABLE, 0).text(1, self.name);
        });
        socket.transact(&mut batch).map_err(|r| self.failed("remove", r))
    }

    /// Publishes the ports of an attachment, all or none.
    pub(crate) fn publish(&self, socket: &Socket, attachment: &Attachment) -> io::Result<()> {
        let one = std::slice::from_ref(attachment);
        socket.transact(&mut transaction(|b| self.ports(b, NEWSETELEM, CREATE | EXCL, one)))
    }

    /// Takes back the ports of attachments. Those that are not there any more are passed over.
    pub(crate) fn withdraw(&self, socket: &Socket, attachments: &[Attachment]) -> Result<(), Error> {
        for attachment in attachments.iter().filter(|attachment| !attachment.ports.is_empty()) {
            let one = std::slice::from_ref(attachment);
            match socket.transact(&mut transaction(|b| self.ports(b, DELSETELEM, 0, one))) {
                Err(refusal) if refusal.raw_os_error() != Some(libc::ENOENT) => {
                    return Err(self.failed("take ports out of", refusal));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn failed(&self, what: &str, source: io::Error) -> Error {
        Error::kernel(format!("{what} the packet filter's table {:?}", self.name), Part::NfTables, source)
    }

    fn sets(&self, batch: &mut Batch) {
        let mut id = 0;
        let mut set = |name: &str, flags: u32, key: (u32, u32), data: Option<(u32, u32)>| {
            id += 1;
            start(batch, NEWSET, CREATE).text(1, self.name).text(2, name);
            batch.be32(3, flags | data.map_or(0, |_| SET_MAP)).be32(4, key.0).be32(5, key.1);
            if let Some((kind, length)) = data {
                batch.be32(6, kind).be32(7, length);
            }
            batch.be32(10, id);
        };
        set("bridges", 0, (IFNAME, 16), None);
        set("internal", 0, (IFNAME, 16), None);
        set("same", 0, (types(&[IFNAME, IFNAME]), 32), None);
        set("subnets4", SET_INTERVAL, (IPV4_ADDR, 4), None);
        set("subnets6", SET_INTERVAL, (IPV6_ADDR, 16), None);
        let port = types(&[INET_PROTO, INET_SERVICE]);
        for (family, address, length) in [("4", IPV4_ADDR, 4), ("6", IPV6_ADDR, 16)] {
            let data = (types(&[address, INET_SERVICE]), length + 4);
            set(&format!("any{family}"), 0, (port, 8), Some(data));
            let bound = types(&[address, INET_PROTO, INET_SERVICE]);
            set(&format!("bound{family}"), 0, (bound, length + 8), Some(data));
        }
    }

    fn chains(&self, batch: &mut Batch) {
        // Number of the hook, priority.
        const PREROUTING: u32 = 0;
        const FORWARD: u32 = 2;
        const OUTPUT: u32 = 3;
        const POSTROUTING: u32 = 4;
        start(batch, NEWCHAIN, CREATE).text(1, self.name).text(3, "publish");
        for (name, kind, hook, priority) in [
            ("guard", "filter", PREROUTING, -300),
            ("inbound", "nat", PREROUTING, -100),
            ("local", "nat", OUTPUT, -100),
            ("outbound", "nat", POSTROUTING, 100),
            ("between", "filter", FORWARD, 0i32),
        ] {
            start(batch, NEWCHAIN, CREATE).text(1, self.name).text(3, name);
            batch.nested(4, |b| {
                b.be32(1, hook).be32(2, priority as u32);
            });
            batch.be32(5, ACCEPT as u32).text(7, kind);
        }

        for (family, bound, any) in [(NFPROTO_IPV4, "bound4", "any4"), (NFPROTO_IPV6, "bound6", "any6")] {
            self.rule(batch, "publish", |rule| {
                let (offset, length) = address_at(family, true);
                let next = SLOT + length / 4;
                let rule = rule.family(family).payload(NETWORK_HEADER, offset, length, REGISTER_1);
                let rule = rule.meta(META_L4PROTO, next).payload(TRANSPORT_HEADER, 2, 2, next + 1);
                rule.map(bound, REGISTER_1).translate(family);
            });
            self.rule(batch, "publish", |rule| {
                let rule = rule.family(family).destination_is_local().meta(META_L4PROTO, REGISTER_1);
                rule.payload(TRANSPORT_HEADER, 2, 2, SLOT + 1).map(any, REGISTER_1).translate(family);
            });
        }
        self.rule(batch, "guard", |rule| {
            rule.interface_in(META_IIFNAME, "bridges", false).loopback_address(true).verdict(DROP, None)
        });
        self.rule(batch, "inbound", |rule| rule.verdict(JUMP, Some("publish")));
        self.rule(batch, "local", |rule| rule.verdict(JUMP, Some("publish")));
        for (family, subnets) in [(NFPROTO_IPV4, "subnets4"), (NFPROTO_IPV6, "subnets6")] {
            self.rule(batch, "outbound", |rule| {
                rule.address_in(family, false, subnets).interface_in(META_OIFNAME, "bridges", true).masquerade()
            });
            self.rule(batch, "outbound", |rule| {
                let rule = rule.connection_has(CT_STATUS, STATUS_DNAT).interface_in(META_OIFNAME, "bridges", false);
                rule.address_in(family, false, subnets).masquerade()
            });
        }
        self.rule(batch, "outbound", |rule| {
            rule.loopback_address(false).interface_in(META_OIFNAME, "bridges", false).masquerade()
        });
        self.rule(batch, "between", |rule| rule.connection_has(CT_STATE, ESTABLISHED_OR_RELATED).verdict(ACCEPT, None));
        self.rule(batch, "between", |rule| {
            let rule = rule.meta(META_IIFNAME, REGISTER_1).meta(META_OIFNAME, REGISTER_2);
            rule.lookup("same", REGISTER_1, false).verdict(ACCEPT, None)
        });
        self.rule(batch, "between", |rule| rule.interface_in(META_IIFNAME, "internal", false).verdict(DROP, None));
        self.rule(batch, "between", |rule| rule.interface_in(META_OIFNAME, "internal", false).verdict(DROP, None));
        self.rule(batch, "between", |rule| rule.connection_has(CT_STATUS, STATUS_DNAT).verdict(ACCEPT, None));
        self.rule(batch, "between", |rule| rule.interface_in(META_OIFNAME, "bridges", false).verdict(DROP, None));
    }

    fn rule(&self, batch: &mut Batch, chain: &str, fill: impl FnOnce(Rule<'_>)) {
        start(batch, NEWRULE, CREATE | APPEND).text(1, self.name).text(2, chain);
        batch.nested(4, |b| fill(Rule(b)));
    }

    fn members(&self, batch: &mut Batch, networks: &[Network]) {
        let (mut bridges, mut internal, mut same) = (Vec::new(), Vec::new(), Vec::new());
        let (mut subnets4, mut subnets6) = (Vec::new(), Vec::new());
        for network in networks {
            let name = interface(&network.bridge);
            if network.internal {
                internal.push(Element::key(name.clone()));
            }
            if !network.isolate {
                same.push(Element::key([name.clone(), name.clone()].concat()));
            }
            bridges.push(Element::key(name));
            for (range, elements) in [(network.ipv4, &mut subnets4), (network.ipv6, &mut subnets6)] {
                if let Some(range) = range {
                    elements.push(Element::key(octets(range.subnet.address())));
                    // An interval ends before its end; the last subnet of all has none.
                    if let Some(end) = after(range.subnet.last()) {
                        elements.push(Element { end: true, ..Element::key(octets(end)) });
                    }
                }
            }
        }
        for (set, elements) in [
            ("bridges", bridges),
            ("internal", internal),
            ("same", same),
            ("subnets4", subnets4),
            ("subnets6", subnets6),
        ] {
            for elements in elements.chunks(ELEMENTS) {
                start(batch, NEWSETELEM, CREATE);
                self.elements(batch, set, elements);
            }
        }
    }

    fn ports(&self, batch: &mut Batch, kind: u16, flags: u16, attachments: &[Attachment]) {
        let mut maps: [(&str, Vec<Element>); 4] =
            [("any4", Vec::new()), ("bound4", Vec::new()), ("any6", Vec::new()), ("bound6", Vec::new())];
        for attachment in attachments {
            let to4 = attachment.ipv4.map(|(address, _)| IpAddr::from(address));
            let to6 = attachment.ipv6.map(|(address, _)| IpAddr::from(address));
            for published in &attachment.ports {
                for (i, to) in [to4, to6].into_iter().enumerate().filter_map(|(i, to)| Some((i, to?))) {
                    let (map, host) = match published.host_address {
                        None => (2 * i, Vec::new()),
                        Some(host) if host.is_unspecified() && host.is_ipv4() == (i == 0) => (2 * i, Vec::new()),
                        Some(host) if host.is_ipv4() == (i == 0) => (2 * i + 1, octets(host)),
                        Some(_) => continue,
                    };
                    for (outside, inside) in published.pairs() {
                        let mut key = host.clone();
                        key.extend([published.protocol.number(), 0, 0, 0]);
                        key.extend(slot(outside));
                        let mut data = octets(to);
                        data.extend(slot(inside));
                        maps[map].1.push(Element { data: (kind == NEWSETELEM).then_some(data), ..Element::key(key) });
                    }
                }
            }
        }
        for (map, elements) in &maps {
            for elements in elements.chunks(ELEMENTS) {
                start(batch, kind, flags);
                self.elements(batch, map, elements);
            }
        }
    }

    fn elements(&self, batch: &mut Batch, set: &str, elements: &[Element]) {
        batch.text(1, self.name).text(2, set).nested(3, |b| {
            for element in elements {
                b.nested(LIST_ELEM, |b| {
                    if element.end {
                        b.be32(3, INTERVAL_END);
                    }
                    b.nested(1, |b| {
                        b.attribute(1, &element.key);
                    });
                    if let Some(data) = &element.data {
                        b.nested(2, |b| {
                            b.attribute(1, data);
                        });
                    }
                });
            }
        });
    }
}

struct Element {
    key: Vec<u8>,
    data: Option<Vec<u8>>,
    end: bool,
}

impl Element {
    fn key(key: Vec<u8>) -> Element {
        Element { key, data: None, end: false }
    }
}

/// A port in a slot of four bytes.
fn slot(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The name of an interface in sixteen bytes.
fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn after(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(a) => std::net::Ipv4Addr::from_bits(a.to_bits().checked_add(1)?).into(),
        IpAddr::V6(a) => std::net::Ipv6Addr::from_bits(a.to_bits().checked_add(1)?).into(),
    })
}
