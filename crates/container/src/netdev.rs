//! Network interfaces moved into the container (OCI runtime-spec 1.3, `config-linux.md`, "Network Devices"), over
//! rtnetlink(7). A move loses the interface's addresses and takes it down, so the permanent global addresses are read
//! before and set again inside.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use strata_spec::runtime::NetDevice;

use crate::error::{Context, Error};
use crate::sys;

/// An interface to move.
#[derive(Debug)]
pub(crate) struct Device {
    host_name: String,
    name: String,
    index: u32,
    addresses: Vec<Address>,
}

/// An address as `struct ifaddrmsg` and its attributes have it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    local: Vec<u8>,
    peer: Vec<u8>,
    broadcast: Option<Vec<u8>>,
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFF_UP: u32 = 1;
const HEADER: usize = 16;

/// Finds the interfaces and reads their addresses.
pub(crate) fn plan(devices: &BTreeMap<String, NetDevice>) -> Result<Vec<Device>, Error> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let socket = open()?;
    let dump = message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &[0; 8], &[]);
    let answers = exchange(&socket, &dump).context(|| "list the host's addresses".into())?;
    let mut plan = Vec::new();
    for (host_name, device) in devices {
        let index = rustix::net::netdevice::name_to_index(&socket, host_name)
            .context(|| format!("find the interface {host_name:?} of linux.netDevices"))?;
        plan.push(Device {
            host_name: host_name.clone(),
            name: device.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| host_name.clone()),
            index,
            addresses: answers.iter().filter_map(|(kind, body)| address(*kind, body, index)).collect(),
        });
    }
    Ok(plan)
}

/// Moves all into a network namespace, renaming them on the way.
pub(crate) fn move_all(devices: &[Device], namespace: BorrowedFd<'_>) -> Result<(), Error> {
    let socket = open()?;
    for device in devices {
        let attributes = [
            (IFLA_NET_NS_FD, (namespace.as_raw_fd() as u32).to_ne_bytes().to_vec()),
            (IFLA_IFNAME, format!("{}\0", device.name).into_bytes()),
        ];
        let request = message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &link(device.index, 0), &attributes);
        exchange(&socket, &request)
            .context(|| format!("move the interface {} into the container as {}", device.host_name, device.name))?;
    }
    Ok(())
}

/// In the container's namespace: sets the addresses again and the interfaces up.
pub(crate) fn configure_all(devices: &[Device]) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let socket = open()?;
    for device in devices {
        let what = || format!("configure the interface {}", device.name);
        let index = rustix::net::netdevice::name_to_index(&socket, &device.name).context(what)?;
        for a in &device.addresses {
            let mut body = vec![a.family, a.prefix, IFA_F_PERMANENT as u8, 0];
            body.extend(index.to_ne_bytes());
            let mut attributes = vec![(IFA_LOCAL, a.local.clone()), (IFA_ADDRESS, a.peer.clone())];
            attributes.extend(a.broadcast.clone().map(|b| (IFA_BROADCAST, b)));
            let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            exchange(&socket, &message(RTM_NEWADDR, flags, &body, &attributes)).context(what)?;
        }
        let up = message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &link(index, IFF_UP), &[]);
        exchange(&socket, &up).context(what)?;
    }
    Ok(())
}

/// In a new network namespace, where it is down: takes `lo` up, which gives it its addresses.
pub(crate) fn loopback_up() -> Result<(), Error> {
    // Any socket tells the kernel the namespace; this kind is made fastest and exists without IPv4.
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)
        .and_then(|socket| sys::loopback_up(socket.as_fd()))
        .context(|| "take the interface lo of the new network namespace up".into())
}

fn open() -> Result<OwnedFd, Error> {
    // NETLINK_ROUTE is protocol 0, the default.
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .context(|| "open a netlink socket".into())
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn message(kind: u16, flags: u16, body: &[u8], attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut text = vec![0; 4];
    text.extend(kind.to_ne_bytes());
    text.extend(flags.to_ne_bytes());
    text.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    text.extend(body);
    for (kind, value) in attributes {
        text.resize(text.len().next_multiple_of(4), 0);
        text.extend((4 + value.len() as u16).to_ne_bytes());
        text.extend(kind.to_ne_bytes());
        text.extend(value);
    }
    let length = text.len() as u32;
    text[..4].copy_from_slice(&length.to_ne_bytes());
    text
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Sends a request and reads answers, kind and body, until the acknowledgement or the end of the list.
fn exchange(socket: &OwnedFd, request: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
    rustix::net::send(socket, request, SendFlags::empty())?;
    let mut answers = Vec::new();
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        let (_, n) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut buffer[..], RecvFlags::TRUNC))?;
        let mut rest = &buffer[..n.min(buffer.len())];
        while let (Some(length), Some(kind)) =
            (number(rest, 0).map(u32::from_ne_bytes), number(rest, 4).map(u16::from_ne_bytes))
        {
            let length = length as usize;
            if length < HEADER || length > rest.len() {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let body = &rest[HEADER..length];
            match kind {
                NLMSG_ERROR => match number(body, 0).map(i32::from_ne_bytes) {
                    Some(0) => return Ok(answers),
                    code => return Err(io::Error::from_raw_os_error(-code.unwrap_or(-libc::EIO))),
                },
                NLMSG_DONE => return Ok(answers),
                kind => answers.push((kind, body.to_vec())),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// A permanent address of global scope of this interface.
fn address(kind: u16, body: &[u8], index: u32) -> Option<Address> {
    let [family, prefix, flags, scope] = number(body, 0)?;
    if kind != RTM_NEWADDR || scope != 0 || number(body, 4).map(u32::from_ne_bytes)? != index {
        return None;
    }
    let mut flags = u32::from(flags);
    let (mut local, mut peer, mut broadcast) = (None, None, None);
    let mut at = 8;
    while let (Some(length), Some(kind)) =
        (number(body, at).map(u16::from_ne_bytes), number(body, at + 2).map(u16::from_ne_bytes))
    {
        let value = body.get(at + 4..at + usize::from(length))?;
        match kind {
            IFA_LOCAL => local = Some(value.to_vec()),
            IFA_ADDRESS => peer = Some(value.to_vec()),
            IFA_BROADCAST => broadcast = Some(value.to_vec()),
            IFA_FLAGS => flags = number(value, 0).map(u32::from_ne_bytes)?,
            _ => {}
        }
        at += usize::from(length).next_multiple_of(4).max(4);
    }
    // IPv6 names the address only once.
    let peer = peer.or_else(|| local.clone())?;
    let local = local.unwrap_or_else(|| peer.clone());
    (flags & IFA_F_PERMANENT != 0).then_some(Address { family, prefix, local, peer, broadcast })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_encoding() {
        let mut body = vec![2, 24, 0x80, 0];
        body.extend(7u32.to_ne_bytes());
        let text = message(RTM_NEWADDR, 0, &body, &[(IFA_LOCAL, vec![10, 0, 0, 1]), (IFA_ADDRESS, vec![10, 0, 0, 1])]);
        let found = address(RTM_NEWADDR, &text[HEADER..], 7).unwrap();
        assert_eq!((found.family, found.prefix, found.local), (2, 24, vec![10, 0, 0, 1]));
        assert!(address(RTM_NEWADDR, &text[HEADER..], 8).is_none());
        assert!(address(RTM_NEWADDR, &text[HEADER..20], 7).is_none());
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let plan = plan(&BTreeMap::from([("lo".to_owned(), NetDevice::default())])).unwrap();
        assert_eq!((plan[0].name.as_str(), plan[0].index), ("lo", 1));
        assert!(super::plan(&BTreeMap::from([("nosuch0".to_owned(), NetDevice::default())])).is_err());
    }
}
