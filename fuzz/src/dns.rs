//! DNS messages, which anybody inside an instance sends to its name server, and what people write of networks.

use strata_network::{Mac, PublishedPort, Subnet, fuzz_message, resolv_conf, resolvers};

pub fn fuzz_one(data: &[u8]) {
    fuzz_message(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(port) = text.parse::<PublishedPort>() {
        assert_eq!(port.to_string().parse().ok(), Some(port), "a published port survives being written");
    }
    if let Ok(subnet) = text.parse::<Subnet>() {
        assert!(subnet.contains(subnet.last()));
        assert_eq!(subnet.to_string().parse().ok(), Some(subnet));
    }
    if let Ok(mac) = text.parse::<Mac>() {
        assert_eq!(mac.to_string().parse().ok(), Some(mac));
    }
    assert!(resolvers(&resolv_conf(text)).len() == 1, "inside there is one resolver");
}
