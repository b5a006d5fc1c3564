//! Console (5.3): a terminal, or several named ports, between guest and host. Replaces the serial port, at one exit
//! a write instead of one a byte.
//!
//! Port 0 has the queues 0 (host to guest) and 1; 2 and 3 are the control queues, on which the device announces ports
//! and sizes and the driver says which are open; port *n* from 1 on has the queues `2n + 2` and `2n + 3`. A port's
//! host side is a [`Port`]: descriptors for input and output, which are never waited for with blocking calls.
//!
//! Output that the host does not take is kept in the guest's own buffers, so that a guest that floods its console waits
//! and costs no memory here.

mod config;
mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::{Console, Port};
pub use state::{ConsoleState, PortState};
