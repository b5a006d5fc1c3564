//! Names inside an instance: a small DNS server (RFC 1035) that its supervisor runs.
//!
//! The sockets are bound in the instance's network namespace, at 127.0.0.11 as Docker does, and served by a process
//! outside. It answers for names and addresses of instances that share a network, from the files that connections
//! leave, and passes everything else on to the host's resolvers, which need not be reachable from inside.

mod message;
mod server;

pub use message::fuzz_message;
pub use server::DnsServer;

/// Where the server listens inside.
pub(crate) const ADDRESS: &str = "127.0.0.11";
