//! Sockets between guest and host (5.10), without a network: streams named by a context id and a port.
//!
//! On the host each stream is a Unix stream socket. A client connects to the device's listening socket, writes `CONNECT
//! PORT\n` and gets `OK PORT\n` when the guest accepted (the protocol Firecracker introduced). A guest that connects to
//! context 2 is connected through a [`Connector`], usually to the socket `PATH_PORT`.
//!
//! Flow control is by credit: each side says how much it can keep ([`RECEIVE_BUFFER`] here) and how much it has
//! passed on. Data to the guest is read from the socket straight into the guest's buffers, data from the guest is kept
//! only when the socket is full, never beyond the credit.

mod connection;
mod device;
mod packet;
mod state;
#[cfg(test)]
mod tests;

pub use connection::RECEIVE_BUFFER;
pub use device::{Connector, HOST_CID, MAX_CONNECTIONS, PathConnector, Vsock};
pub use state::VsockState;
