//! What a network and an attachment are: plain values, as they stand on disk.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How a network is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host, with address translation to the outside.
    Bridge,
}

/// A network, as `networks/NAME.json` below the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// How it is built.
    pub driver: Driver,
    /// Name of the bridge interface.
    pub bridge: String,
    /// IPv4 addresses.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipv4: Option<Range>,
    /// IPv6 addresses.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipv6: Option<Range>,
    /// VLAN id, 1 to 4094: the bridge filters VLANs, and its instances are untagged members of this one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vlan: Option<u16>,
    /// An interface of the host that carries the network on; frames on it are tagged if there is a VLAN id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uplink: Option<String>,
    /// Largest packet in bytes; the kernel's default (1500) if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtu: Option<u32>,
    /// No way to the outside.
    #[serde(default)]
    pub internal: bool,
    /// Instances of the network do not reach each other.
    #[serde(default)]
    pub isolate: bool,
}

/// Addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// All of them.
    pub subnet: Subnet,
    /// The bridge's own.
    pub gateway: IpAddr,
}

/// An address and a prefix length: `10.200.0.0/20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that this address lies in.
    pub(crate) fn new(address: IpAddr, prefix: u8) -> Option<Subnet> {
        if prefix > width(address) {
            return None;
        }
        let mut subnet = Subnet { address, prefix };
        subnet.address = from_number(number(address) & !subnet.host_mask(), address);
        Some(subnet)
    }

    /// Length of the prefix in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The lowest address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    fn host_mask(&self) -> u128 {
        u128::MAX.checked_shl(u32::from(width(self.address) - self.prefix)).map_or(u128::MAX, |mask| !mask)
    }

    /// Whether the address lies in the subnet.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && number(address) & !self.host_mask() == number(self.address)
    }

    /// Whether the two share addresses.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        from_number(number(self.address) | self.host_mask(), self.address)
    }

    /// How many addresses an instance or the gateway may have, counted from the second one; of IPv6 at most 2^32.
    pub(crate) fn usable(&self) -> u128 {
        let reserved = if self.address.is_ipv4() { 1 } else { 0 };
        self.host_mask().saturating_sub(reserved).min(1 << 32)
    }

    /// The address this far from the lowest.
    pub(crate) fn nth(&self, offset: u128) -> IpAddr {
        from_number(number(self.address) + (offset & self.host_mask()), self.address)
    }

    /// How far the address is from the lowest.
    pub(crate) fn offset(&self, address: IpAddr) -> u128 {
        number(address) & self.host_mask()
    }

    /// Whether an instance may have this address.
    pub(crate) fn is_usable(&self, address: IpAddr) -> bool {
        let edge = self.address.is_ipv4() && address == self.last();
        self.contains(address) && address != self.address && !edge
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Subnet, Error> {
        let bad = || Error::invalid("subnet", text, "write ADDRESS/BITS with no bits set after the first BITS");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address = address.parse().map_err(|_| bad())?;
        let subnet = Subnet::new(address, prefix.parse().map_err(|_| bad())?).ok_or_else(bad)?;
        if subnet.address != address {
            return Err(bad());
        }
        Ok(subnet)
    }
}

/// The hardware address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mac, Error> {
        let bad =
            || Error::invalid("hardware address", text, "write six bytes as 02:42:ac:11:00:02, not a multicast one");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() || bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(bad());
        }
        Ok(Mac(bytes))
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in IP headers.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// Ports of an instance that the host answers for: `[ADDRESS:][HOST[-HOST]:]PORT[-PORT][/tcp|udp]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the host; every address of it if absent. A specific address goes before every address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_address: Option<IpAddr>,
    /// First port of the host; 0 asks for free ones.
    pub host_port: u16,
    /// First port of the instance.
    pub port: u16,
    /// How many, in a row.
    pub count: u16,
}

impl PublishedPort {
    /// Every port of the range: the host's and the instance's.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        (0..self.count).map(|i| (self.host_port.saturating_add(i), self.port.saturating_add(i)))
    }
}

impl FromStr for PublishedPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<PublishedPort, Error> {
        let bad = |why: &str| {
            let form = "[ADDRESS:][HOST[-HOST]:]PORT[-PORT][/tcp|udp], an IPv6 address in brackets";
            Error::invalid("published port", text, format!("{why}; write {form}"))
        };
        let (rest, protocol) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
            Some((rest, "udp")) => (rest, Protocol::Udp),
            Some(_) => return Err(bad("the protocol is neither tcp nor udp")),
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let port = |text: &str| text.parse::<u16>().map_err(|_| bad("a port is a number from 1 to 65535"));
            let (first, last) = (port(first)?, port(last)?);
            if last < first || last - first == u16::MAX {
                return Err(bad("a range goes up"));
            }
            Ok((first, last - first + 1))
        };
        let (rest, inside) = rest.rsplit_once(':').map_or(("", rest), |(rest, inside)| (rest, inside));
        let (port, count) = range(inside)?;
        if port == 0 {
            return Err(bad("an instance's port is a number from 1 to 65535"));
        }
        let (address, outside) = match rest.rsplit_once(':') {
            // "[::1]:8080:80" and "[::1]::80"; but not the brackets' own colons.
            Some((address, outside)) if !outside.ends_with(']') => (address, outside),
            _ if rest.starts_with('[') || rest.contains('.') => (rest, ""),
            _ => ("", rest),
        };
        let host_address = match address {
            "" => None,
            _ => Some(
                address
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .parse::<IpAddr>()
                    .map_err(|_| bad("the address is none"))?,
            ),
        };
        let host_port = match outside {
            "" => 0,
            _ => match range(outside)? {
                (first, n) if n == count => first,
                _ => return Err(bad("both ranges have the same length")),
            },
        };
        // `-p 0.0.0.0:80:80` means every address of its family; only IPv6's own wildcard would be another one.
        Ok(PublishedPort { protocol, host_address, host_port, port, count })
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        let range = |first: u16| match self.count {
            1 => first.to_string(),
            n => format!("{first}-{}", first.saturating_add(n - 1)),
        };
        if self.host_port != 0 {
            write!(f, "{}:", range(self.host_port))?;
        } else if self.host_address.is_some() {
            f.write_str(":")?;
        }
        write!(f, "{}/{}", range(self.port), self.protocol)
    }
}

/// How an instance is to be attached to a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// Name of the network.
    pub network: String,
    /// This IPv4 address, not just any.
    pub ipv4: Option<Ipv4Addr>,
    /// This IPv6 address, not just any.
    pub ipv6: Option<Ipv6Addr>,
    /// This hardware address, not one made from the IPv4 address.
    pub mac: Option<Mac>,
    /// Names for it on this network, besides the instance's id. The first is the one addresses resolve to.
    pub aliases: Vec<String>,
    /// Ports of the host that lead to it.
    pub ports: Vec<PublishedPort>,
    /// Name of the interface inside; `eth0`, `eth1`, … if absent.
    pub interface: Option<String>,
}

/// An instance's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The instance's id.
    pub instance: String,
    /// The network's name.
    pub network: String,
    /// Name of the interface inside the instance.
    pub interface: String,
    /// Name of the interface's other end, on the host.
    pub host_interface: String,
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address and prefix length of the subnet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// IPv6 address and prefix length of the subnet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Names on this network, besides the id.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Published ports; `host_port` is the real one.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// Whether the default routes go through this network.
    #[serde(default)]
    pub default_route: bool,
}

macro_rules! as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
as_text!(Subnet, Mac);

/// Checks the name of a network.
pub(crate) fn check_network_name(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || name.len() > 63 || !name.chars().all(good) || ["none", "host", "container"].contains(&name) {
        let expected = "letters, digits, '_', '.' and '-', at most 63, first a letter or digit; none, host and container are taken";
        return Err(Error::invalid("network name", name, expected));
    }
    Ok(())
}

/// Checks a name that instances are found by.
pub(crate) fn check_alias(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
    if !labels || name.len() > 200 || !name.chars().all(good) {
        return Err(Error::invalid("host name", name, "letters, digits, '_' and '-', parts of 1 to 63 between dots"));
    }
    Ok(())
}

/// Checks the name of an interface.
pub(crate) fn check_interface(name: &str) -> Result<(), Error> {
    let good = |c: char| c.is_ascii_graphic() && !"/:".contains(c);
    if !(1..=15).contains(&name.len()) || !name.chars().all(good) || [".", "..", "lo"].contains(&name) {
        return Err(Error::invalid("interface name", name, "1 to 15 visible characters without '/' and ':'"));
    }
    Ok(())
}

/// An address as the kernel and DNS messages have it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_read_as_docker_writes_them() {
        let read = |text: &str| text.parse::<PublishedPort>().map(|port| port.to_string());
        for (text, shown) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
            ("8000-8010:90-100/tcp", "8000-8010:90-100/tcp"),
        ] {
            assert_eq!(read(text).unwrap(), shown);
        }
        for text in ["", "0", "a", "80/sctp", "1-2:1-3", "5-1:5-1", "1.2.3:1:1", "70000:80", "1:2:3:4", "0-65535"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn subnets_know_their_addresses() {
        let subnet: Subnet = "10.200.16.0/20".parse().unwrap();
        assert_eq!(
            (subnet.usable(), subnet.nth(1).to_string(), subnet.last().to_string()),
            (4094, "10.200.16.1".into(), "10.200.31.255".into())
        );
        assert!(subnet.contains("10.200.20.9".parse().unwrap()) && !subnet.contains("10.200.32.0".parse().unwrap()));
        assert!("10.0.0.1/8".parse::<Subnet>().is_err() && "10.0.0.0/33".parse::<Subnet>().is_err());
        let all: Subnet = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()) && !all.contains("1.1.1.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written(text in "[0-9a-f:.\\[\\]/-]{0,20}(/udp)?") {
            if let Ok(port) = text.parse::<PublishedPort>() {
                prop_assert_eq!(port.to_string().parse::<PublishedPort>().unwrap(), port);
            }
            if let Ok(subnet) = text.parse::<Subnet>() {
                prop_assert_eq!(subnet.to_string().parse::<Subnet>().unwrap(), subnet);
                prop_assert!(subnet.contains(subnet.last()));
            }
        }
    }
}
