//! The files in `/etc` by which programs inside find the network: hosts(5), resolv.conf(5), hostname(5).

use std::fmt::Write;
use std::net::IpAddr;

use crate::dns::ADDRESS;
use crate::model::Attachment;

/// Content of `/etc/hosts`. `extra` are further lines of the user (`--add-host`): name and address.
pub fn hosts_file(hostname: &str, attachments: &[Attachment], extra: &[(String, IpAddr)]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str("ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n");
    let own = attachments.iter().flat_map(|a| {
        [a.ipv4.map(|(address, _)| IpAddr::from(address)), a.ipv6.map(|(address, _)| IpAddr::from(address))]
    });
    for address in own.flatten() {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    if attachments.is_empty() {
        let _ = writeln!(text, "127.0.1.1\t{hostname}");
    }
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// Content of `/etc/hostname`.
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// Content of `/etc/resolv.conf` for an instance whose supervisor runs a [`DnsServer`](crate::DnsServer): that server, and
/// the search domains and options of the host's file.
pub fn resolv_conf(host: &str) -> String {
    let mut text = format!("nameserver {ADDRESS}\n");
    for line in host.lines().map(str::trim) {
        if matches!(line.split_whitespace().next(), Some("search" | "domain" | "options")) {
            let _ = writeln!(text, "{line}");
        }
    }
    // Names of instances have no dot: they are to be asked for as they are, before any search domain.
    text.push_str("options ndots:0\n");
    text
}

/// The name servers that a `resolv.conf` names, at most three, as the C library reads it.
pub fn resolvers(resolv_conf: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            // An interface after a percent sign is of no use elsewhere.
            found.extend(words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok()));
        }
    }
    found.truncate(3);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_search_domains_are_kept_and_its_servers_are_not() {
        let host = "# comment\nnameserver 192.0.2.1\nsearch example.org\nnameserver fe80::1%eth0\noptions edns0\n";
        let inside = resolv_conf(host);
        assert_eq!(inside, "nameserver 127.0.0.11\nsearch example.org\noptions edns0\noptions ndots:0\n");
        assert_eq!(resolvers(host), ["192.0.2.1".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }
}
