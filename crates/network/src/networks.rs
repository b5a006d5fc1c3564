//! The networks of a host, and the instances attached to them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::error::{Error, Part};
use crate::model::{
    AttachRequest, Attachment, Driver, Mac, Network, Protocol, PublishedPort, Range, Subnet, check_alias,
    check_interface, check_network_name,
};
use crate::netlink::Socket;
use crate::nft::Table;
use crate::state::Files;
use crate::{firewall, link, sysctl};

/// The network that is made when it is first used.
pub const DEFAULT_NETWORK: &str = "bridge";

/// What a new network shall be. What is absent is chosen.
#[derive(Debug, Clone, Default)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// Subnets, at most one of IPv4 and one of IPv6. If there is none, free ones are chosen.
    pub subnets: Vec<Subnet>,
    /// Addresses of the bridge in these subnets; the second address of each if absent.
    pub gateways: Vec<IpAddr>,
    /// No IPv6.
    pub ipv4_only: bool,
    /// VLAN id, 1 to 4094.
    pub vlan: Option<u16>,
    /// An interface of the host that carries the network on.
    pub uplink: Option<String>,
    /// Largest packet, bytes, 1280 to 65535 (68 without IPv6).
    pub mtu: Option<u32>,
    /// No way to the outside.
    pub internal: bool,
    /// Instances do not reach each other.
    pub isolate: bool,
}

/// Whether a network works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No instance uses it, and nothing of it is in the kernel.
    Idle,
    /// Bridge and filter are there.
    Up,
    /// Instances use it, but its bridge is gone: they reach nobody. [`Networks::repair`] and the next connection make it again.
    BridgeMissing,
    /// Its bridge is there, but the filter's table is gone: no translation, no published ports, no isolation.
    FilterMissing,
}

/// A network, its state and its instances.
#[derive(Debug, Serialize)]
pub struct NetworkInfo {
    /// Its definition.
    #[serde(flatten)]
    pub network: Network,
    /// Whether it works.
    pub health: Health,
    /// Who is attached.
    pub attachments: Vec<Attachment>,
}

/// A connected instance.
#[derive(Debug)]
pub struct Connection {
    /// Where it is on the network.
    pub attachment: Attachment,
    /// What the user should know of.
    pub warnings: Vec<String>,
}

/// What a sweep removed.
#[derive(Debug, Default, Serialize)]
pub struct GcReport {
    /// Ids of instances that were gone.
    pub instances: Vec<String>,
    /// Leases and names of instances that were gone and had no record any more.
    pub leases: usize,
    /// Bridges that nobody used.
    pub bridges: Vec<String>,
}

/// The networks of one store and the attachments of one state directory.
#[derive(Debug)]
pub struct Networks {
    files: Files,
    /// Name of the filter's table.
    table: String,
    /// Distinguishes interfaces of several state directories on one host.
    salt: String,
}

impl Networks {
    /// Opens the networks, making the directories if need be.
    pub fn open(store_root: &Path, state_root: &Path) -> Result<Networks, Error> {
        let files = Files::open(store_root, state_root)?;
        let salt = state_root.display().to_string();
        let table = match salt.as_str() {
            "/run/strata" => "strata".to_string(),
            _ => format!("strata-{:08x}", hash(&[&salt]) as u32),
        };
        Ok(Networks { files, table, salt })
    }

    /// Makes a network. Nothing of it is in the kernel until an instance uses it.
    pub fn create(&self, request: &CreateNetwork) -> Result<Network, Error> {
        let _lock = self.files.lock()?;
        self.define(request)
    }

    /// All networks, by name.
    pub fn list(&self) -> Result<Vec<Network>, Error> {
        self.files.networks()
    }

    /// A network, its state and its instances.
    pub fn inspect(&self, name: &str) -> Result<NetworkInfo, Error> {
        let network = self.network(name)?;
        let mut attachments = self.files.all_attachments()?;
        attachments.retain(|attachment| attachment.network == name);
        let health = self.health(&network, !attachments.is_empty())?;
        Ok(NetworkInfo { network, health, attachments })
    }

    /// Removes a network that no instance uses.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let _lock = self.files.lock()?;
        let network = self.network(name)?;
        let mut users: Vec<String> = Vec::new();
        for attachment in self.files.all_attachments()? {
            if attachment.network == name {
                users.push(attachment.instance);
            }
        }
        if !users.is_empty() {
            return Err(Error::InUse { network: name.to_string(), instances: users.join(", ") });
        }
        self.take_down(&[network])?;
        self.files.remove_network(name)
    }

    /// Removes every network that no instance uses, but for the default one, whose bridge alone goes; returns the names.
    pub fn prune(&self) -> Result<Vec<String>, Error> {
        let _lock = self.files.lock()?;
        let used = self.files.all_attachments()?;
        let mut unused = self.files.networks()?;
        unused.retain(|network| used.iter().all(|attachment| attachment.network != network.name));
        self.take_down(&unused)?;
        unused.retain(|network| network.name != DEFAULT_NETWORK);
        for network in &unused {
            self.files.remove_network(&network.name)?;
        }
        Ok(unused.into_iter().map(|network| network.name).collect())
    }

    /// Attaches an instance, whose network namespace is given, to a network: `eth0` for the first, `eth1` for the second.
    ///
    /// The calling thread enters the namespace for the time of one system call. If this fails, nothing is left.
    pub fn connect(
        &self,
        instance: &str,
        namespace: BorrowedFd<'_>,
        request: &AttachRequest,
    ) -> Result<Connection, Error> {
        self.check_request(instance, request)?;
        let lock = self.files.lock()?;
        let network = match self.files.network(&request.network)? {
            Some(network) => network,
            None if request.network == DEFAULT_NETWORK => {
                self.define(&CreateNetwork { name: DEFAULT_NETWORK.into(), ..CreateNetwork::default() })?
            }
            None => return Err(Error::NotFound(request.network.clone())),
        };
        let mut attachments = self.files.attachments(instance)?;
        if attachments.iter().any(|attachment| attachment.network == network.name) {
            return Err(Error::Attached { instance: instance.into(), network: network.name });
        }
        let host = route_socket()?;
        let filter = filter_socket()?;
        let mut warnings = Vec::new();
        let bridge = self.ensure(&host, &filter, &network, &mut warnings)?;
        let attachment = self.plan(instance, &network, request, &attachments)?;
        attachments.push(attachment.clone());
        let undo = |error| {
            self.files.release(&attachment);
            let _ = self.files.write_attachments(instance, &attachments[..attachments.len() - 1]);
            error
        };
        self.files.write_attachments(instance, &attachments).map_err(undo)?;
        self.files.announce(&attachment).map_err(undo)?;
        let table = Table::new(&self.table);
        if !attachment.ports.is_empty() {
            table.publish(&filter, &attachment).map_err(|refusal| undo(self.refused(&attachment, refusal)))?;
        }
        // What follows touches only what is this instance's own.
        drop(lock);
        let made = self.join(&host, namespace, &network, bridge, &attachment);
        if let Err(error) = made {
            let _lock = self.files.lock();
            let _ = table.withdraw(&filter, std::slice::from_ref(&attachment));
            let _ = link::delete(&host, std::slice::from_ref(&attachment.host_interface));
            return Err(undo(error));
        }
        Ok(Connection { attachment, warnings })
    }

    /// The networks that an instance is attached to.
    pub fn attachments(&self, instance: &str) -> Result<Vec<Attachment>, Error> {
        self.files.attachments(instance)
    }

    /// Takes an instance off all its networks. Interfaces whose namespace is gone go without waiting.
    pub fn disconnect(&self, instance: &str) -> Result<(), Error> {
        let lock = self.files.lock()?;
        let attachments = self.files.attachments(instance)?;
        let links = self.forget(instance, &attachments)?;
        drop(lock);
        match links.is_empty() {
            true => Ok(()),
            false => link::delete(&route_socket()?, &links),
        }
    }

    /// Takes an instance off one network.
    pub fn disconnect_from(&self, instance: &str, network: &str) -> Result<(), Error> {
        let _lock = self.files.lock()?;
        let attachments = self.files.attachments(instance)?;
        let (gone, kept): (Vec<_>, Vec<_>) = attachments.into_iter().partition(|a| a.network == network);
        let Some(attachment) = gone.first() else {
            return Err(Error::invalid("network", network, format!("one that {instance} is attached to")));
        };
        Table::new(&self.table).withdraw(&filter_socket()?, &gone)?;
        link::delete(&route_socket()?, std::slice::from_ref(&attachment.host_interface))?;
        self.files.release(attachment);
        self.files.write_attachments(instance, &kept)
    }

    /// Makes again what somebody removed of a network that instances use, and reconnects them.
    pub fn repair(&self, name: &str) -> Result<Vec<String>, Error> {
        let _lock = self.files.lock()?;
        let network = self.network(name)?;
        let mut warnings = Vec::new();
        self.ensure(&route_socket()?, &filter_socket()?, &network, &mut warnings)?;
        Ok(warnings)
    }

    /// Removes everything of instances that are gone, and bridges that nobody uses.
    ///
    /// `alive` must be true of an instance that is being made.
    pub fn gc(&self, alive: &dyn Fn(&str) -> bool) -> Result<GcReport, Error> {
        let _lock = self.files.lock()?;
        let mut report = GcReport::default();
        let mut links = Vec::new();
        for instance in self.files.instances()? {
            if alive(&instance) {
                continue;
            }
            // A record that cannot be read names nothing: what it stood for is found by its leases.
            match self.files.attachments(&instance) {
                Ok(attachments) => links.extend(self.forget(&instance, &attachments)?),
                Err(_) => self.files.write_attachments(&instance, &[])?,
            }
            report.instances.push(instance);
        }
        if !links.is_empty() {
            link::delete(&route_socket()?, &links)?;
        }
        report.leases = self.files.sweep(alive)?;
        let used = self.files.all_attachments()?;
        let mut unused = self.files.networks()?;
        unused.retain(|network| used.iter().all(|attachment| attachment.network != network.name));
        report.bridges = self.take_down(&unused)?;
        Ok(report)
    }

    /// What answers names for an instance.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    fn network(&self, name: &str) -> Result<Network, Error> {
        check_network_name(name)?;
        self.files.network(name)?.ok_or_else(|| Error::NotFound(name.to_string()))
    }

    fn health(&self, network: &Network, used: bool) -> Result<Health, Error> {
        let bridge = link::find(&route_socket()?, &network.bridge)?.is_some();
        Ok(match bridge {
            false if used => Health::BridgeMissing,
            false => Health::Idle,
            true if Table::new(&self.table).knows(&filter_socket()?, &network.bridge)? => Health::Up,
            true => Health::FilterMissing,
        })
    }

    fn define(&self, request: &CreateNetwork) -> Result<Network, Error> {
        let name = &request.name;
        check_network_name(name)?;
        if self.files.network(name)?.is_some() {
            return Err(Error::Exists(name.clone()));
        }
        if let Some(vlan) = request.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
            return Err(Error::invalid("VLAN id", vlan.to_string(), "a number from 1 to 4094"));
        }
        if let Some(uplink) = &request.uplink {
            check_interface(uplink)?;
        }
        let mut taken: Vec<(Subnet, String)> = Vec::new();
        for network in self.files.networks()? {
            let ranges = [network.ipv4, network.ipv6].into_iter().flatten();
            taken.extend(ranges.map(|range| (range.subnet, format!("the network {:?}", network.name))));
        }
        for subnet in link::routed(&route_socket()?)? {
            taken.push((subnet, format!("the host's route to {subnet}")));
        }
        let clash = |subnet: &Subnet| taken.iter().find(|(other, _)| other.overlaps(subnet));
        let mut subnets = request.subnets.clone();
        for subnet in &subnets {
            if let Some((_, other)) = clash(subnet) {
                return Err(Error::Overlap { subnet: subnet.to_string(), other: other.clone() });
            }
            let same = subnets.iter().filter(|s| s.address().is_ipv4() == subnet.address().is_ipv4());
            if same.count() > 1 || subnet.usable() < 3 {
                let expected =
                    "one subnet of IPv4 and one of IPv6, with room for more than a gateway (/30 or /126 at least)";
                return Err(Error::invalid("subnet", subnet.to_string(), expected));
            }
        }
        if subnets.is_empty() {
            // 128 subnets of 4,094 addresses from 10.200.0.0 on.
            let free = (0..128u32).find_map(|i| {
                let [a, b, c, d] = (0x0ac8_0000u32 + (i << 12)).to_be_bytes();
                Subnet::new(IpAddr::from([a, b, c, d]), 20).filter(|subnet| clash(subnet).is_none())
            });
            let none = || Error::invalid("subnet", "", "give one: all of 10.200.0.0/13 are taken");
            subnets.push(free.ok_or_else(none)?);
            if !request.ipv4_only && sysctl::has_ipv6() {
                subnets.extend(Subnet::new(unique_local_address()?, 64));
            }
        }
        let mut gateways = request.gateways.clone();
        let mut range = |ipv4: bool| -> Result<Option<Range>, Error> {
            let Some(&subnet) = subnets.iter().find(|subnet| subnet.address().is_ipv4() == ipv4) else {
                return Ok(None);
            };
            let chosen = gateways.iter().position(|gateway| subnet.is_usable(*gateway));
            let gateway = chosen.map_or_else(|| subnet.nth(1), |i| gateways.swap_remove(i));
            Ok(Some(Range { subnet, gateway }))
        };
        let (ipv4, ipv6) = (range(true)?, range(false)?);
        if let Some(gateway) = gateways.first() {
            return Err(Error::invalid("gateway", gateway.to_string(), "an address of one of the network's subnets"));
        }
        let least = if ipv6.is_some() { 1280 } else { 68 };
        if let Some(mtu) = request.mtu.filter(|mtu| !(least..=65535).contains(mtu)) {
            return Err(Error::invalid("mtu", mtu.to_string(), format!("bytes, {least} to 65535")));
        }
        let bridge = match name.len() {
            ..=12 if self.table == "strata" && check_interface(name).is_ok() => format!("st-{name}"),
            _ => format!("st-{:012x}", hash(&[&self.salt, name]) & 0xffff_ffff_ffff),
        };
        let network = Network {
            name: name.clone(),
            driver: Driver::Bridge,
            bridge,
            ipv4,
            ipv6,
            vlan: request.vlan,
            uplink: request.uplink.clone(),
            mtu: request.mtu,
            internal: request.internal,
            isolate: request.isolate,
        };
        self.files.write_network(&network)?;
        Ok(network)
    }

    /// Makes what the network lacks in the kernel; returns the bridge's number.
    fn ensure(
        &self,
        host: &Socket,
        filter: &Socket,
        network: &Network,
        warnings: &mut Vec<String>,
    ) -> Result<u32, Error> {
        let table = Table::new(&self.table);
        let found = link::find(host, &network.bridge)?;
        let bridge = match found {
            Some(index) => index,
            None => {
                let mut here = self.files.all_attachments()?;
                here.retain(|attachment| attachment.network == network.name);
                let mac = network.ipv4.map_or(Ok(None), |range| Ok(Some(mac_of(range.gateway))))?;
                let mac = mac.map_or_else(random_mac, Ok)?;
                let index = link::make_bridge(host, network, mac).inspect_err(|_| {
                    let _ = link::delete(host, std::slice::from_ref(&network.bridge));
                })?;
                sysctl::prepare(&self.files, network)?;
                if !here.is_empty() {
                    link::join_bridge(host, network, index, &here);
                    warnings.push(format!(
                        "the bridge {} of the network {:?} was gone; it has been made again and its {} instances are connected",
                        network.bridge,
                        network.name,
                        here.len()
                    ));
                }
                index
            }
        };
        if found.is_none() || !table.knows(filter, &network.bridge)? {
            let mut networks = self.files.networks()?;
            let mut failed = None;
            networks.retain(|other| match link::find(host, &other.bridge) {
                Ok(index) => index.is_some(),
                Err(error) => failed.replace(error).is_some(),
            });
            failed.map_or(Ok(()), Err)?;
            table.replace(filter, &networks, &self.files.all_attachments()?)?;
        }
        if !network.internal {
            warnings.extend(firewall::open(filter)?);
        }
        Ok(bridge)
    }

    /// Removes bridges, and the table with the last one; returns the bridges that were there.
    fn take_down(&self, networks: &[Network]) -> Result<Vec<String>, Error> {
        if networks.is_empty() {
            return Ok(Vec::new());
        }
        let host = route_socket()?;
        let mut there = Vec::new();
        for network in networks {
            if link::find(&host, &network.bridge)?.is_some() {
                there.push(network.bridge.clone());
            }
        }
        if there.is_empty() {
            return Ok(there);
        }
        link::delete(&host, &there)?;
        let mut rest = Vec::new();
        for network in self.files.networks()? {
            if link::find(&host, &network.bridge)?.is_some() {
                rest.push(network);
            }
        }
        let filter = filter_socket()?;
        let table = Table::new(&self.table);
        if rest.is_empty() {
            table.remove(&filter)?;
            firewall::close(&filter)?;
        } else {
            table.replace(&filter, &rest, &self.files.all_attachments()?)?;
        }
        Ok(there)
    }

    /// Withdraws ports and removes all files of an instance; returns its interfaces on the host, to be deleted.
    fn forget(&self, instance: &str, attachments: &[Attachment]) -> Result<Vec<String>, Error> {
        if attachments.iter().any(|attachment| !attachment.ports.is_empty()) {
            Table::new(&self.table).withdraw(&filter_socket()?, attachments)?;
        }
        for attachment in attachments {
            self.files.release(attachment);
        }
        self.files.write_attachments(instance, &[])?;
        Ok(attachments.iter().map(|attachment| attachment.host_interface.clone()).collect())
    }

    fn check_request(&self, instance: &str, request: &AttachRequest) -> Result<(), Error> {
        check_network_name(&request.network)?;
        check_alias(instance)?;
        request.aliases.iter().try_for_each(|alias| check_alias(alias))?;
        request.interface.as_deref().map_or(Ok(()), check_interface)
    }

    /// Leases addresses and decides everything about an attachment.
    fn plan(
        &self,
        instance: &str,
        network: &Network,
        request: &AttachRequest,
        others: &[Attachment],
    ) -> Result<Attachment, Error> {
        let interface = request.interface.clone().unwrap_or_else(|| {
            let free = |name: &String| others.iter().all(|other| other.interface != *name);
            (0..).map(|i| format!("eth{i}")).find(free).unwrap_or_default()
        });
        if others.iter().any(|other| other.interface == interface) {
            return Err(Error::invalid("interface name", interface, "one that the instance does not have yet"));
        }
        let mut attachment = Attachment {
            instance: instance.to_string(),
            network: network.name.clone(),
            interface,
            host_interface: format!("sv{:012x}", hash(&[&self.salt, instance, &network.name]) & 0xffff_ffff_ffff),
            mac: Mac([0; 6]),
            ipv4: None,
            ipv6: None,
            aliases: request.aliases.clone(),
            ports: Vec::new(),
            default_route: !network.internal && others.iter().all(|other| !other.default_route),
        };
        let result = self.fill(&mut attachment, network, request);
        if let Err(error) = result {
            self.files.release(&attachment);
            return Err(error);
        }
        Ok(attachment)
    }

    fn fill(&self, attachment: &mut Attachment, network: &Network, request: &AttachRequest) -> Result<(), Error> {
        let instance = attachment.instance.clone();
        let v4 = request.ipv4.map(IpAddr::from);
        if let Some(IpAddr::V4(address)) = self.lease(network, network.ipv4, v4, "IPv4", &instance, None)? {
            attachment.ipv4 = network.ipv4.map(|range| (address, range.subnet.prefix()));
        }
        // The same place in both subnets, so that people recognise it.
        let like = attachment.ipv4.zip(network.ipv4).map(|((address, _), range)| range.subnet.offset(address.into()));
        let v6 = request.ipv6.map(IpAddr::from);
        if let Some(IpAddr::V6(address)) = self.lease(network, network.ipv6, v6, "IPv6", &instance, like)? {
            attachment.ipv6 = network.ipv6.map(|range| (address, range.subnet.prefix()));
        }
        // From the address: whoever gets the address next has what the neighbours remember for it.
        attachment.mac = match (request.mac, attachment.ipv4) {
            (Some(mac), _) => mac,
            (None, Some((address, _))) => mac_of(address.into()),
            (None, None) => random_mac()?,
        };
        attachment.ports = request.ports.iter().map(host_ports).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn lease(
        &self,
        network: &Network,
        range: Option<Range>,
        wanted: Option<IpAddr>,
        family: &str,
        instance: &str,
        like: Option<u128>,
    ) -> Result<Option<IpAddr>, Error> {
        let Some(Range { subnet, gateway }) = range else {
            return match wanted {
                None => Ok(None),
                Some(address) => {
                    let expected = format!("none: the network {:?} has no {family}", network.name);
                    Err(Error::invalid("address", address.to_string(), expected))
                }
            };
        };
        if let Some(address) = wanted {
            if !subnet.is_usable(address) {
                return Err(Error::invalid(
                    "address",
                    address.to_string(),
                    format!("an instance's address in {subnet}"),
                ));
            }
            let holder = match address == gateway {
                true => Some("the network's gateway".to_string()),
                false if self.files.lease(address, instance)? => return Ok(Some(address)),
                false => self.files.holder(address).map(|id| format!("the instance {id:?}")),
            };
            let holder = holder.unwrap_or_else(|| "another instance".to_string());
            return Err(Error::AddressTaken { address: address.to_string(), holder });
        }
        let usable = subnet.usable();
        let first = like.unwrap_or_else(|| self.files.next(&network.name));
        // After the address given last, so that a released one rests for a while.
        for i in 0..usable {
            let offset = (first + i) % (usable + 1);
            let address = subnet.nth(offset);
            if subnet.is_usable(address) && address != gateway && self.files.lease(address, instance)? {
                if like.is_none() {
                    self.files.set_next(&network.name, offset + 1);
                }
                return Ok(Some(address));
            }
        }
        Err(Error::NoAddress { network: network.name.clone(), subnet: subnet.to_string() })
    }

    /// Joins the namespace to the bridge.
    fn join(
        &self,
        host: &Socket,
        namespace: BorrowedFd<'_>,
        network: &Network,
        bridge: u32,
        attachment: &Attachment,
    ) -> Result<(), Error> {
        let inside = socket_inside(namespace)?;
        let made = match link::make_pair(host, network, bridge, attachment, namespace) {
            // An earlier life of the instance, whose namespace the kernel has not finished yet.
            Err(refusal) if refusal.raw_os_error() == Some(libc::EEXIST) => {
                link::delete(host, std::slice::from_ref(&attachment.host_interface))?;
                link::make_pair(host, network, bridge, attachment, namespace)
            }
            other => other,
        };
        let what = || format!("attach {} to the network {:?}", attachment.instance, network.name);
        made.map_err(|refusal| match refusal.raw_os_error() {
            Some(libc::EEXIST) => Error::invalid("interface name", &attachment.interface, "one that is not there yet"),
            _ => Error::kernel(what(), Part::Veth, refusal),
        })?;
        link::configure_inside(&inside, network, attachment)
    }

    /// Why a port could not be published.
    fn refused(&self, attachment: &Attachment, source: io::Error) -> Error {
        if source.raw_os_error() != Some(libc::EEXIST) {
            return Table::new(&self.table).failed("publish ports in", source);
        }
        let overlap = |a: &PublishedPort, b: &PublishedPort| {
            let ends = |p: &PublishedPort| u32::from(p.host_port) + u32::from(p.count);
            let (from, to) = (u32::from(a.host_port.max(b.host_port)), ends(a).min(ends(b)));
            a.protocol == b.protocol && a.host_address == b.host_address && from < to
        };
        let others = self.files.all_attachments().unwrap_or_default();
        let taken = others.iter().filter(|other| other.instance != attachment.instance).find_map(|other| {
            let port = attachment.ports.iter().find(|port| other.ports.iter().any(|taken| overlap(port, taken)))?;
            Some((port.to_string(), format!("the instance {:?} publishes it", other.instance)))
        });
        let (port, reason) = taken.unwrap_or_else(|| {
            let all: Vec<String> = attachment.ports.iter().map(PublishedPort::to_string).collect();
            (all.join(", "), "it is published already".to_string())
        });
        Error::PortTaken { port, reason }
    }
}

/// Checks that nothing on the host listens on the ports, and chooses free ones where that was asked for.
///
/// Packets would be redirected before they reach a program of the host: it would be cut off without a word.
fn host_ports(port: &PublishedPort) -> Result<PublishedPort, Error> {
    let any: [IpAddr; 2] = [[0u8; 4].into(), [0u16; 8].into()];
    let addresses = match port.host_address {
        Some(address) => vec![address],
        None if sysctl::has_ipv6() => any.to_vec(),
        None => vec![any[0]],
    };
    let bind = |address: IpAddr, number: u16| -> io::Result<(u16, Box<dyn std::any::Any>)> {
        let address = SocketAddr::new(address, number);
        Ok(match port.protocol {
            Protocol::Tcp => {
                let socket = TcpListener::bind(address)?;
                (socket.local_addr()?.port(), Box::new(socket))
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address)?;
                (socket.local_addr()?.port(), Box::new(socket))
            }
        })
    };
    // Both families on one number, one after the other: a listener on [::] takes IPv4's place too.
    let try_all = |first: u16| -> Result<(), (u16, io::Error)> {
        for number in (0..port.count).map(|i| first.saturating_add(i)) {
            for address in &addresses {
                match bind(*address, number) {
                    Ok(_) => {}
                    Err(error) => return Err((number, error)),
                }
            }
        }
        Ok(())
    };
    let taken = |number: u16, error: io::Error| {
        let host_address = port.host_address;
        let shown = PublishedPort { host_address, host_port: number, count: 1, ..port.clone() };
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "a program on the host listens on it; stop it or choose another port".into(),
            io::ErrorKind::AddrNotAvailable => "the address is none of the host's".into(),
            _ => error.to_string(),
        };
        Error::PortTaken { port: shown.to_string(), reason }
    };
    if port.host_port != 0 {
        if u32::from(port.host_port) + u32::from(port.count) > 65536 {
            return Err(Error::invalid("published port", port.to_string(), "ports up to 65535"));
        }
        try_all(port.host_port).map_err(|(number, error)| taken(number, error))?;
        return Ok(port.clone());
    }
    let mut last = None;
    for _ in 0..64 {
        let (number, _) = bind(addresses[0], 0).map_err(|error| taken(0, error))?;
        match try_all(number) {
            Ok(()) if u32::from(number) + u32::from(port.count) <= 65536 => {
                return Ok(PublishedPort { host_port: number, ..port.clone() });
            }
            Ok(()) => {}
            Err(refused) => last = Some(refused),
        }
    }
    let (number, error) = last.unwrap_or((0, io::ErrorKind::AddrInUse.into()));
    Err(taken(number, error))
}

fn route_socket() -> Result<Socket, Error> {
    Socket::route().map_err(|error| Error::kernel("open a netlink socket", Part::Routing, error))
}

fn filter_socket() -> Result<Socket, Error> {
    Socket::netfilter().map_err(|error| Error::kernel("open a socket to the packet filter", Part::NfTables, error))
}

/// A socket of another network namespace: it stays there when the thread has come back.
fn socket_inside(namespace: BorrowedFd<'_>) -> Result<Socket, Error> {
    in_namespace(namespace, Socket::route)
}

/// Runs `action` in a network namespace.
pub(crate) fn in_namespace<T>(namespace: BorrowedFd<'_>, action: impl FnOnce() -> io::Result<T>) -> Result<T, Error> {
    let path = Path::new("/proc/thread-self/ns/net");
    let own = std::fs::File::open(path).map_err(|error| Error::file("open", path, error))?;
    let enter = |fd: BorrowedFd<'_>| move_into_link_name_space(fd, Some(LinkNameSpaceType::Network));
    let failed = |error| Error::kernel("enter the instance's network namespace", Part::Routing, error);
    enter(namespace).map_err(|error| failed(error.into()))?;
    let result = action();
    enter(own.as_fd()).map_err(|error| failed(error.into()))?;
    result.map_err(failed)
}

/// Locally administered, from an IPv4 address.
fn mac_of(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Mac([0x02, 0x5a, a, b, c, d])
        }
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            Mac([0x02, 0x5b, a, b, c, d])
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::Kernel { what: "get random bytes".into(), source: error.into() })?;
    Ok(bytes)
}

fn random_mac() -> Result<Mac, Error> {
    let [a, b, c, d] = random()?;
    Ok(Mac([0x02, 0x5c, a, b, c, d]))
}

/// An address of a random /64 (RFC 4193).
fn unique_local_address() -> Result<IpAddr, Error> {
    let [a, b, c, d, e, f, g] = random()?;
    Ok(IpAddr::from([0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0]))
}

/// FNV-1a; stable, so that names are the same in every build.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
