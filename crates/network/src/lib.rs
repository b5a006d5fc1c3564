//! Networks of instances, without a daemon: bridges, addresses, address translation, published ports, names.
//!
//! A network is a bridge on the host. An instance is attached by a pair of virtual interfaces (veth(4)): one end is a port
//! of the bridge, the other lies in the instance's network namespace. The host forwards, translates addresses and
//! publishes ports by a table of nf_tables. Everything is set up over netlink(7), in a few messages; no program is
//! called. What is there is written to files before it is made, so that [`Networks::gc`] finds what a killed process
//! left. Names are answered by a small server that the supervisor of each instance runs ([`DnsServer`]).
//!
//! Without root an instance is connected through another program ([`Rootless`]).

#![forbid(unsafe_code)]

mod dns;
mod error;
mod files;
mod firewall;
mod link;
mod model;
mod netlink;
mod networks;
mod nft;
mod rootless;
mod state;
mod sysctl;

pub use dns::{DnsServer, fuzz_message};
pub use error::Error;
pub use files::{hostname_file, hosts_file, resolv_conf, resolvers};
pub use model::{AttachRequest, Attachment, Driver, Mac, Network, Protocol, PublishedPort, Range, Subnet};
pub use networks::{Connection, CreateNetwork, DEFAULT_NETWORK, GcReport, Health, NetworkInfo, Networks};
pub use rootless::{Rootless, RootlessProgram};
