//! Interfaces, addresses and routes over rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::{Error, Part};
use crate::model::{Attachment, Mac, Network, Range, Subnet, octets};
use crate::netlink::{ACK, Batch, CREATE, DUMP, EXCL, REPLACE, Socket, number};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;
const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;

/// `struct ifinfomsg` that sets these flags.
fn link(family: u8, index: u32, up: bool) -> [u8; 16] {
    let mut body = [0; 16];
    body[0] = family;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    body
}

/// Takes an interface up that is only switched. IPv6 shall not give it an address of its own making, which the kernel
/// accepts for an interface that exists, but not in the message that makes it.
fn up(batch: &mut Batch, network: &Network, name: &str) {
    batch.message(RTM_NEWLINK, ACK, &link(0, 0, true)).text(IFLA_IFNAME, name);
    if network.ipv6.is_some() {
        batch.nested(IFLA_AF_SPEC, |b| {
            b.nested(u16::from(AF_INET6), |b| {
                b.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
    }
}

fn add_address(batch: &mut Batch, index: u32, address: IpAddr, subnet: Subnet) {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    // Leases make addresses unique: asking the neighbours for a second would only delay the first packet.
    let flags = if address.is_ipv4() { 0 } else { IFA_F_NODAD };
    let mut body = vec![family, subnet.prefix(), flags, 0];
    body.extend(index.to_ne_bytes());
    batch.message(RTM_NEWADDR, ACK | CREATE | REPLACE, &body);
    batch.attribute(IFA_LOCAL, &octets(address)).attribute(IFA_ADDRESS, &octets(address));
    if address.is_ipv4() && subnet.prefix() < 31 {
        batch.attribute(IFA_BROADCAST, &octets(subnet.last()));
    }
}

fn add_default_route(batch: &mut Batch, gateway: IpAddr) {
    let family = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    let body = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
    batch.message(RTM_NEWROUTE, ACK | CREATE | REPLACE, &body).attribute(RTA_GATEWAY, &octets(gateway));
}

/// The interface's number, if it exists.
pub(crate) fn find(socket: &Socket, name: &str) -> Result<Option<u32>, Error> {
    let mut batch = Batch::default();
    batch.message(RTM_GETLINK, ACK, &link(0, 0, false)).text(IFLA_IFNAME, name);
    match socket.request(&mut batch) {
        Ok(answers) => Ok(answers.first().and_then(|a| number(&a.body, 4)).map(u32::from_ne_bytes)),
        Err(refusal) if refusal.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(refusal) => Err(Error::kernel(format!("find the interface {name}"), Part::Routing, refusal)),
    }
}

/// Makes the network's bridge with its addresses, and takes it up.
pub(crate) fn make_bridge(socket: &Socket, network: &Network, mac: Mac) -> Result<u32, Error> {
    let name = &network.bridge;
    let part = if network.vlan.is_some() { Part::VlanFilter } else { Part::Bridge };
    let what = || format!("make the bridge {name} of the network {:?}", network.name);
    let mut batch = Batch::default();
    // A bridge without an address of its own takes the lowest of its ports', which changes as they come and go.
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &link(0, 0, false)).text(IFLA_IFNAME, name);
    batch.attribute(IFLA_ADDRESS, &mac.0);
    if let Some(mtu) = network.mtu {
        batch.u32(IFLA_MTU, mtu);
    }
    batch.nested(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "bridge");
        b.nested(IFLA_INFO_DATA, |b| {
            // Nobody here asks who listens to which group, so that snooping would lose neighbour discovery.
            b.attribute(IFLA_BR_MCAST_SNOOPING, &[0]);
            if let Some(vlan) = network.vlan {
                b.attribute(IFLA_BR_VLAN_FILTERING, &[1]);
                b.attribute(IFLA_BR_VLAN_DEFAULT_PVID, &vlan.to_ne_bytes());
            }
        });
    });
    up(&mut batch, network, name);
    socket.request(&mut batch).map_err(|r| Error::kernel(what(), part, r))?;
    let index = find(socket, name)?.ok_or_else(|| Error::kernel(what(), part, io::ErrorKind::NotFound.into()))?;
    let mut batch = Batch::default();
    for Range { subnet, gateway } in [network.ipv4, network.ipv6].into_iter().flatten() {
        add_address(&mut batch, index, gateway, subnet);
    }
    if !batch.is_empty() {
        socket.request(&mut batch).map_err(|r| Error::kernel(what(), Part::Routing, r))?;
    }
    if let Some(uplink) = &network.uplink {
        add_uplink(socket, network, index, uplink)?;
    }
    Ok(index)
}

/// Makes an interface of the host a port of the bridge.
fn add_uplink(socket: &Socket, network: &Network, bridge: u32, uplink: &str) -> Result<(), Error> {
    let what = format!("connect the network {:?} with the interface {uplink}", network.name);
    let Some(index) = find(socket, uplink)? else {
        return Err(Error::invalid("uplink", uplink, "the name of an interface of the host"));
    };
    let mut batch = Batch::default();
    batch.message(RTM_NEWLINK, ACK, &link(0, index, true)).u32(IFLA_MASTER, bridge);
    if let Some(vlan) = network.vlan {
        // Joining made it an untagged member, as every port; without flags it is a tagged one.
        batch.message(RTM_NEWLINK, ACK, &link(AF_BRIDGE, index, false)).nested(IFLA_AF_SPEC, |b| {
            b.attribute(IFLA_BRIDGE_VLAN_INFO, &[[0; 2], vlan.to_ne_bytes()].concat());
        });
    }
    socket.request(&mut batch).map_err(|r| Error::kernel(what, Part::Bridge, r))?;
    Ok(())
}

/// Makes a pair of interfaces: one end a port of the bridge, the other born inside a namespace.
pub(crate) fn make_pair(
    socket: &Socket,
    network: &Network,
    bridge: u32,
    attachment: &Attachment,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.message(RTM_NEWLINK, ACK | CREATE | EXCL, &link(0, 0, false));
    batch.text(IFLA_IFNAME, &attachment.host_interface).u32(IFLA_MASTER, bridge);
    if let Some(mtu) = network.mtu {
        batch.u32(IFLA_MTU, mtu);
    }
    batch.nested(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_KIND, "veth");
        b.nested(IFLA_INFO_DATA, |b| {
            b.nested(VETH_INFO_PEER, |b| {
                // Down: an end cannot go up before the other one exists.
                b.raw(&link(0, 0, false)).text(IFLA_IFNAME, &attachment.interface);
                b.attribute(IFLA_ADDRESS, &attachment.mac.0);
                b.u32(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                if let Some(mtu) = network.mtu {
                    b.u32(IFLA_MTU, mtu);
                }
            });
        });
    });
    up(&mut batch, network, &attachment.host_interface);
    port_options(&mut batch, network, attachment);
    socket.request(&mut batch).map(drop)
}

fn port_options(batch: &mut Batch, network: &Network, attachment: &Attachment) {
    if !network.isolate && attachment.ports.is_empty() {
        return;
    }
    batch.message(RTM_NEWLINK, ACK, &link(0, 0, false)).text(IFLA_IFNAME, &attachment.host_interface);
    batch.nested(IFLA_LINKINFO, |b| {
        b.text(IFLA_INFO_SLAVE_KIND, "bridge");
        b.nested(IFLA_INFO_SLAVE_DATA, |b| {
            // With br_netfilter an instance that calls its own published port is answered through its own port.
            b.attribute(IFLA_BRPORT_MODE, &[u8::from(!attachment.ports.is_empty())]);
            b.attribute(IFLA_BRPORT_ISOLATED, &[u8::from(network.isolate)]);
        });
    });
}

/// Makes existing ends ports of a bridge that was made again. Those that are gone are passed over.
pub(crate) fn join_bridge(socket: &Socket, network: &Network, bridge: u32, attachments: &[Attachment]) {
    for attachment in attachments {
        let mut batch = Batch::default();
        batch.message(RTM_NEWLINK, ACK, &link(0, 0, true)).text(IFLA_IFNAME, &attachment.host_interface);
        batch.u32(IFLA_MASTER, bridge);
        port_options(&mut batch, network, attachment);
        // An instance that has just ended has no end any more.
        let _ = socket.request(&mut batch);
    }
}

/// Inside: `lo` up, the addresses, the routes.
pub(crate) fn configure_inside(inside: &Socket, network: &Network, attachment: &Attachment) -> Result<(), Error> {
    let what = || format!("configure the interface {} of {}", attachment.interface, attachment.instance);
    let mut batch = Batch::default();
    batch.message(RTM_NEWLINK, ACK, &link(0, 1, true));
    batch.message(RTM_NEWLINK, ACK, &link(0, 0, true)).text(IFLA_IFNAME, &attachment.interface);
    batch.message(RTM_GETLINK, ACK, &link(0, 0, false)).text(IFLA_IFNAME, &attachment.interface);
    let answers = inside.request(&mut batch).map_err(|r| Error::kernel(what(), Part::Routing, r))?;
    let index = answers.first().and_then(|a| number(&a.body, 4)).map(u32::from_ne_bytes);
    let index = index.ok_or_else(|| Error::kernel(what(), Part::Routing, io::ErrorKind::NotFound.into()))?;
    let mut batch = Batch::default();
    let v4 = attachment.ipv4.map(|(address, _)| IpAddr::from(address)).zip(network.ipv4);
    let v6 = attachment.ipv6.map(|(address, _)| IpAddr::from(address)).zip(network.ipv6);
    for (address, range) in [v4, v6].into_iter().flatten() {
        add_address(&mut batch, index, address, range.subnet);
        if attachment.default_route {
            add_default_route(&mut batch, range.gateway);
        }
    }
    if !batch.is_empty() {
        inside.request(&mut batch).map_err(|r| Error::kernel(what(), Part::Routing, r))?;
    }
    Ok(())
}

/// Deletes interfaces; those that are gone already are passed over. Unregistering waits for the whole kernel to have
/// forgotten the interface (tens of milliseconds), so that several are made a group, which is deleted at once.
pub(crate) fn delete(socket: &Socket, names: &[String]) -> Result<(), Error> {
    let send = |batch: &mut Batch| match socket.request(batch) {
        Err(refusal) if refusal.raw_os_error() != Some(libc::ENODEV) => {
            Err(Error::kernel("delete interfaces", Part::Bridge, refusal))
        }
        _ => Ok(()),
    };
    let mut batch = Batch::default();
    if let [name] = names {
        batch.message(RTM_DELLINK, ACK, &link(0, 0, false)).text(IFLA_IFNAME, name);
        return send(&mut batch);
    }
    // A number that no administrator chose.
    let group = 0x5354_0000 | (std::process::id() & 0xffff);
    for names in names.chunks(100) {
        let mut batch = Batch::default();
        for name in names {
            batch.message(RTM_NEWLINK, ACK, &link(0, 0, false)).text(IFLA_IFNAME, name).u32(IFLA_GROUP, group);
        }
        send(&mut batch)?;
    }
    if names.is_empty() {
        return Ok(());
    }
    batch.message(RTM_DELLINK, ACK, &link(0, 0, false)).u32(IFLA_GROUP, group);
    send(&mut batch)
}

/// Subnets that the host has routes to, but for the default routes.
pub(crate) fn routed(socket: &Socket) -> Result<Vec<Subnet>, Error> {
    let mut subnets = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut batch = Batch::default();
        batch.message(RTM_GETROUTE, DUMP, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let answers = match socket.dump(&mut batch) {
            // A kernel without IPv6.
            Err(refusal) if refusal.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
            other => other.map_err(|r| Error::kernel("list the host's routes", Part::Routing, r))?,
        };
        for answer in answers {
            let prefix = answer.body.get(1).copied().unwrap_or(0);
            let table = answer.body.get(4).copied().unwrap_or(0);
            let destination = answer.attributes(12).find(RTA_DST);
            let address = match family {
                AF_INET => destination.and_then(|d| number::<4>(d, 0)).map(IpAddr::from),
                _ => destination.and_then(|d| number::<16>(d, 0)).map(IpAddr::from),
            };
            if table == RT_TABLE_MAIN && prefix > 0 {
                subnets.extend(address.and_then(|address| Subnet::new(address, prefix)));
            }
        }
    }
    Ok(subnets)
}
