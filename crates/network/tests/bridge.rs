//! Bridges, translation, published ports, isolation, clean-up; each test on a host of its own, which is a network
//! namespace.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::fd::AsFd;

use common::{Host, Namespace, PATIENCE, SILENCE, ask_tcp, ask_udp, at, ip, on, publishing, skipped, v4, v6};
use strata_network::{AttachRequest, CreateNetwork, DEFAULT_NETWORK, Error, Health};

fn any4(port: u16) -> std::net::SocketAddr {
    ([0, 0, 0, 0], port).into()
}

fn any6(port: u16) -> std::net::SocketAddr {
    ([0u16; 8], port).into()
}

#[test]
fn instances_reach_each_other_and_the_gateway() {
    let Some(host) = Host::new("bridge::instances_reach_each_other_and_the_gateway") else { return };
    let (a, at_a) = host.connect("a", &on(DEFAULT_NETWORK));
    let (b, at_b) = host.connect("b", &on(DEFAULT_NETWORK));
    a.serve_tcp(any6(80));
    assert_eq!(b.ask_tcp(&at(v4(&at_a), 80), PATIENCE).map(|a| a.to_canonical()), Some(v4(&at_b)));
    assert_eq!(b.ask_tcp(&at(v6(&at_a), 80), PATIENCE), Some(v6(&at_b)));
    assert!(b.ask_tcp("127.0.0.1:1", SILENCE).is_none());
    // The host itself reaches them too.
    let gateway = host.networks.inspect(DEFAULT_NETWORK).unwrap().network.ipv4.unwrap().gateway;
    assert_eq!(ask_tcp(at(v4(&at_a), 80).parse().unwrap(), PATIENCE).map(|a| a.to_canonical()), Some(gateway));
    let info = host.networks.inspect(DEFAULT_NETWORK).unwrap();
    assert_eq!((info.health, info.attachments.len()), (Health::Up, 2));
}

#[test]
fn the_outside_is_reached_by_translation_and_reaches_only_what_is_published() {
    let Some(host) = Host::new("bridge::the_outside_is_reached_by_translation_and_reaches_only_what_is_published")
    else {
        return;
    };
    let outside = host.outside();
    outside.serve_tcp(any6(80));
    let (a, at_a) = host.connect("a", &publishing(DEFAULT_NETWORK, &["8080:80", "8053:53/udp", "9000-9002:7000-7002"]));
    let first = a.ask_tcp("192.0.2.2:80", PATIENCE).map(|a| a.to_canonical());
    assert_eq!(first, Some("192.0.2.1".parse().unwrap()), "translated");
    assert_eq!(a.ask_tcp("[2001:db8::2]:80", PATIENCE), Some("2001:db8::1".parse().unwrap()), "translated");
    a.serve_tcp(any6(80));
    a.serve_tcp(any6(7002));
    a.serve_udp(any4(53));
    let seen = outside.ask_tcp("192.0.2.1:8080", PATIENCE).map(|a| a.to_canonical());
    assert_eq!(seen, Some("192.0.2.2".parse().unwrap()), "the caller's own address is seen");
    assert_eq!(outside.ask_tcp("[2001:db8::1]:8080", PATIENCE), Some("2001:db8::2".parse().unwrap()));
    assert!(outside.ask_tcp("192.0.2.1:9002", PATIENCE).is_some(), "the last of a range");
    assert!(outside.ask_udp("192.0.2.1:8053", PATIENCE).is_some());
    assert!(outside.ask_tcp("192.0.2.1:80", SILENCE).is_none(), "not published");
    // A neighbour of the host that knows the way does not get in either.
    let route = format!("route add {} via 192.0.2.1", v4(&at_a));
    outside.run(move || ip(&route));
    assert!(outside.ask_tcp(&at(v4(&at_a), 80), SILENCE).is_none());
    // From the host: its addresses, and its loopback.
    assert!(ask_tcp("192.0.2.1:8080".parse().unwrap(), PATIENCE).is_some());
    assert!(ask_tcp("127.0.0.1:8080".parse().unwrap(), PATIENCE).is_some());
    assert!(ask_udp("127.0.0.1:8053".parse().unwrap(), PATIENCE).is_some());
    // From itself and a neighbour, through the host's address.
    assert!(a.ask_tcp("192.0.2.1:8080", PATIENCE).is_some(), "itself");
    let (b, _) = host.connect("b", &on(DEFAULT_NETWORK));
    assert!(b.ask_tcp("192.0.2.1:8080", PATIENCE).is_some(), "a neighbour");
    host.networks.disconnect("a").unwrap();
    assert!(outside.ask_tcp("192.0.2.1:8080", SILENCE).is_none(), "no longer published");
    drop(a);
}

#[test]
fn the_hosts_loopback_is_not_reached_from_inside() {
    let Some(host) = Host::new("bridge::the_hosts_loopback_is_not_reached_from_inside") else { return };
    let (a, _) = host.connect("a", &on(DEFAULT_NETWORK));
    let gateway = host.networks.inspect(DEFAULT_NETWORK).unwrap().network.ipv4.unwrap().gateway;
    let listener = std::net::UdpSocket::bind("127.0.0.1:5300").unwrap();
    listener.set_read_timeout(Some(SILENCE)).unwrap();
    a.run(move || {
        // What an attacker inside can do: send the host's loopback address over the wire.
        ip("addr flush dev lo");
        ip("link set lo down");
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
        ip("route flush table local");
        ip(&format!("route add 127.0.0.1 via {gateway} dev eth0"));
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let _ = socket.send_to(b"ping", "127.0.0.1:5300");
    });
    assert!(listener.recv(&mut [0; 4]).is_err(), "nothing arrives");
}

#[test]
fn networks_are_apart_and_internal_ones_closed() {
    let Some(host) = Host::new("bridge::networks_are_apart_and_internal_ones_closed") else { return };
    let outside = host.outside();
    outside.serve_tcp(any4(80));
    for (name, internal, isolate) in
        [("one", false, false), ("two", false, false), ("shut", true, false), ("each", false, true)]
    {
        host.networks.create(&CreateNetwork { name: name.into(), internal, isolate, ..Default::default() }).unwrap();
    }
    let (one, at_one) = host.connect("one", &on("one"));
    let (two, _) = host.connect("two", &on("two"));
    let (shut, at_shut) = host.connect("shut", &on("shut"));
    let (shut2, _) = host.connect("shut2", &on("shut"));
    let (each, at_each) = host.connect("each", &publishing("each", &["8088:80"]));
    let (each2, _) = host.connect("each2", &on("each"));
    for server in [&one, &shut, &each] {
        server.serve_tcp(any4(80));
    }
    assert!(two.ask_tcp(&at(v4(&at_one), 80), SILENCE).is_none(), "another network");
    assert!(shut2.ask_tcp(&at(v4(&at_shut), 80), PATIENCE).is_some(), "the same internal network");
    assert!(shut.ask_tcp("192.0.2.2:80", SILENCE).is_none(), "outside of an internal network");
    assert!(one.ask_tcp("192.0.2.2:80", PATIENCE).is_some());
    assert!(each2.ask_tcp(&at(v4(&at_each), 80), SILENCE).is_none(), "isolated from each other");
    assert!(each2.ask_tcp("192.0.2.2:80", PATIENCE).is_some());
    assert!(outside.ask_tcp("192.0.2.1:8088", PATIENCE).is_some(), "published on an isolated network");
    // An instance on two networks reaches both, and goes out by the first.
    let second = host.networks.connect("two", two.as_fd(), &on("one")).unwrap().attachment;
    assert_eq!((second.interface.as_str(), second.default_route), ("eth1", false));
    assert!(two.ask_tcp(&at(v4(&at_one), 80), PATIENCE).is_some());
    host.networks.disconnect_from("two", "one").unwrap();
    assert!(two.ask_tcp(&at(v4(&at_one), 80), SILENCE).is_none());
}

#[test]
fn clashes_are_refused_by_name_and_leave_nothing() {
    let Some(host) = Host::new("bridge::clashes_are_refused_by_name_and_leave_nothing") else { return };
    let subnet = "10.77.0.0/29".parse().unwrap();
    host.networks.create(&CreateNetwork { name: "small".into(), subnets: vec![subnet], ..Default::default() }).unwrap();
    let overlap =
        CreateNetwork { name: "o".into(), subnets: vec!["10.77.0.0/16".parse().unwrap()], ..Default::default() };
    assert!(matches!(host.networks.create(&overlap), Err(Error::Overlap { .. })));
    let fixed = AttachRequest {
        ipv4: Some("10.77.0.5".parse().unwrap()),
        mac: Some("02:00:00:00:00:05".parse().unwrap()),
        ..publishing("small", &["127.0.0.1:8080:80"])
    };
    let (_a, at_a) = host.connect("a", &fixed);
    assert_eq!((v4(&at_a).to_string(), at_a.mac.to_string()), ("10.77.0.5".into(), "02:00:00:00:00:05".into()));
    let other = Namespace::new();
    let error = |request: &AttachRequest| host.networks.connect("b", other.as_fd(), request).unwrap_err();
    match error(&fixed) {
        Error::AddressTaken { holder, .. } => assert!(holder.contains("\"a\""), "{holder}"),
        error => panic!("{error}"),
    }
    match error(&publishing("small", &["127.0.0.1:8080:81"])) {
        Error::PortTaken { reason, .. } => assert!(reason.contains("\"a\""), "{reason}"),
        error => panic!("{error}"),
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:8090").unwrap();
    assert!(matches!(error(&publishing("small", &["8090:80"])), Error::PortTaken { .. }));
    drop(listener);
    let outside = AttachRequest { ipv4: Some("10.78.0.5".parse().unwrap()), ..on("small") };
    assert!(matches!(error(&outside), Error::Invalid { .. }));
    assert!(matches!(error(&on("nosuch")), Error::NotFound(_)));
    assert!(matches!(error(&on("../x")), Error::Invalid { .. }));
    assert!(matches!(host.networks.remove("small"), Err(Error::InUse { .. })));
    // Five addresses are left of a /29 with a gateway and one instance; none was lost by what failed.
    let all: Vec<_> = (0..4).map(|i| host.connect(&format!("i{i}"), &on("small"))).collect();
    assert!(matches!(error(&on("small")), Error::NoAddress { .. }));
    drop(all);
    // A free port of the host is chosen.
    let (_d, at_d) = host.connect("d", &publishing(DEFAULT_NETWORK, &["80"]));
    assert_ne!(at_d.ports[0].host_port, 0);
}

#[test]
fn what_killed_processes_left_is_removed() {
    let Some(host) = Host::new("bridge::what_killed_processes_left_is_removed") else { return };
    let before = host.links();
    let all: Vec<_> = (0..5)
        .map(|i| host.connect(&format!("i{i}"), &publishing(DEFAULT_NETWORK, &[&format!("{}:80", 8000 + i)])))
        .collect();
    // A process killed between the lease and the record.
    let leases = host.scratch.path().join("state/network/leases");
    std::os::unix::fs::symlink("ghost", leases.join("10.200.9.9")).unwrap();
    std::fs::write(host.scratch.path().join("state/network/instances/half.json.new"), "{").unwrap();
    let report = host.networks.gc(&|id| id == "i0").unwrap();
    assert_eq!((report.instances.len(), report.leases, report.bridges.len()), (4, 1, 0));
    all[0].0.serve_tcp(any4(80));
    assert!(ask_tcp("127.0.0.1:8000".parse().unwrap(), PATIENCE).is_some(), "what lives is not touched");
    let report = host.networks.gc(&|_| false).unwrap();
    assert_eq!((report.instances.len(), report.bridges.len()), (1, 1));
    assert_eq!(host.links(), before, "no interface is left");
    assert_eq!(std::fs::read_dir(leases).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(host.scratch.path().join("state/network/instances")).unwrap().count(), 0);
    assert_eq!(host.networks.inspect(DEFAULT_NETWORK).unwrap().health, Health::Idle);
    host.networks.remove(DEFAULT_NETWORK).unwrap();
    assert!(host.networks.list().unwrap().is_empty());
    drop(all);
}

#[test]
fn a_bridge_removed_under_instances_is_noticed_and_repaired() {
    let Some(host) = Host::new("bridge::a_bridge_removed_under_instances_is_noticed_and_repaired") else { return };
    let (a, at_a) = host.connect("a", &publishing(DEFAULT_NETWORK, &["8080:80"]));
    a.serve_tcp(any4(80));
    let bridge = host.networks.inspect(DEFAULT_NETWORK).unwrap().network.bridge;
    ip(&format!("link del {bridge}"));
    assert_eq!(host.networks.inspect(DEFAULT_NETWORK).unwrap().health, Health::BridgeMissing);
    let b = Namespace::new();
    let warnings = host.networks.connect("b", b.as_fd(), &on(DEFAULT_NETWORK)).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains(&bridge)), "{warnings:?}");
    assert!(b.ask_tcp(&at(v4(&at_a), 80), PATIENCE).is_some());
    assert!(ask_tcp("127.0.0.1:8080".parse().unwrap(), PATIENCE).is_some());
    assert_eq!(host.networks.inspect(DEFAULT_NETWORK).unwrap().health, Health::Up);
    assert!(host.networks.repair(DEFAULT_NETWORK).unwrap().is_empty());
}

#[test]
fn a_vlan_is_tagged_on_the_uplink() {
    let test = "bridge::a_vlan_is_tagged_on_the_uplink";
    let Some(host) = Host::new(test) else { return };
    let outside = host.outside();
    ip("addr flush dev up0");
    let subnet = "10.88.0.0/24".parse().unwrap();
    let create = CreateNetwork {
        name: "v".into(),
        subnets: vec![subnet],
        vlan: Some(100),
        uplink: Some("up0".into()),
        ..Default::default()
    };
    host.networks.create(&create).unwrap();
    let a = Namespace::new();
    let at_a = match host.networks.connect("a", a.as_fd(), &on("v")) {
        Ok(connection) => connection.attachment,
        Err(error @ Error::Missing { .. }) => {
            assert!(!host.links().contains("st-"), "nothing is left");
            return skipped(test, &error.to_string());
        }
        Err(error) => panic!("{error}"),
    };
    a.serve_tcp(any4(80));
    outside.run(|| {
        ip("addr flush dev eth0");
        ip("link add link eth0 name eth0.100 type vlan id 100");
        ip("addr add 10.88.0.200/24 dev eth0.100");
        ip("link set eth0.100 up");
    });
    assert!(outside.ask_tcp(&at(v4(&at_a), 80), PATIENCE).is_some(), "tagged");
    outside.run(|| {
        ip("link del eth0.100");
        ip("addr add 10.88.0.200/24 dev eth0");
    });
    assert!(outside.ask_tcp(&at(v4(&at_a), 80), SILENCE).is_none(), "untagged");
}

#[test]
fn two_hundred_instances() {
    let Some(host) = Host::new("bridge::two_hundred_instances") else { return };
    let before = host.links();
    let all: Vec<_> = (0..200)
        .map(|i| {
            host.connect(&format!("i{i}"), &publishing(DEFAULT_NETWORK, &[&format!("127.0.0.1:{}:80", 10000 + i)]))
        })
        .collect();
    let mut addresses: Vec<_> = all.iter().map(|(_, attachment)| v4(attachment)).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 200);
    all[0].0.serve_tcp(any4(80));
    all[199].0.serve_tcp(any4(80));
    assert!(all[199].0.ask_tcp(&at(v4(&all[0].1), 80), PATIENCE).is_some());
    assert!(ask_tcp("127.0.0.1:10199".parse().unwrap(), PATIENCE).is_some());
    assert_eq!(host.networks.gc(&|_| false).unwrap().instances.len(), 200);
    assert_eq!(host.links(), before);
    drop(all);
}
