//! Networking: what connects a container or a machine to the outside.

use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::peers::find_program;
use crate::support::Support;
use crate::sys::calls;

/// Networking of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// `/dev/net/tun` can be opened: TAP devices for machines, tunnels for user-space networks.
    pub tun: Support,
    /// `/dev/vhost-net` can be opened: packets of machines moved by the host kernel.
    pub vhost_net: Support,
    /// Sockets of family `AF_VSOCK` between host and guests.
    pub vsock: Support,
    /// `/dev/vhost-vsock` can be opened: vsock moved by the host kernel.
    pub vhost_vsock: Support,
    /// Where `nft` is; absent if not in `PATH`.
    pub nft: Option<String>,
    /// Where `iptables` is; absent if not in `PATH`.
    pub iptables: Option<String>,
    /// `net.ipv4.ip_forward`, which routed networks need.
    pub ip_forward: Option<bool>,
    /// IPv6 is built in.
    pub ipv6: bool,
}

impl Network {
    /// From files; the devices are opened only with `live`.
    pub fn read(files: &Files, path: &str, live: bool) -> Network {
        let program = |name| find_program(files, path, &[name]).map(|p| p.display().to_string());
        Network {
            tun: device(files, "/dev/net/tun", live),
            vhost_net: device(files, "/dev/vhost-net", live),
            vsock: if live { Support::of(calls::vsock()) } else { Support::unknown("recorded host") },
            vhost_vsock: device(files, "/dev/vhost-vsock", live),
            nft: program("nft"),
            iptables: program("iptables"),
            ip_forward: files.flag("/proc/sys/net/ipv4/ip_forward"),
            ipv6: files.exists("/proc/net/if_inet6"),
        }
    }
}

fn device(files: &Files, path: &str, live: bool) -> Support {
    use rustix::fs::{Mode, OFlags, open};
    if !files.exists(path) {
        return Support::no(format!("{path} does not exist"));
    }
    if !live {
        return Support::unknown("recorded host");
    }
    match open(files.path(path), OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Ok(_) => Support::Yes,
        Err(e) => Support::no(format!("{path}: {}", std::io::Error::from(e))),
    }
}
