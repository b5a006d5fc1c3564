//! Network interface (5.1): one queue for packets to the guest, one for packets from it.
//!
//! Behind it is a [`Backend`]. [`Tap`] passes packets between guest memory and the kernel without a copy, with the
//! checksum and segmentation work left to whoever does it best: a TCP stream moves in packets of up to 64 KiB, of which one
//! fills several mergeable buffers. [`StreamSocket`] speaks the framing of QEMU's `-netdev stream` (a 32-bit big
//! endian length before each frame) to a user-mode network such as passt, which needs no privilege.

mod backend;
mod config;
mod device;
mod state;
#[cfg(test)]
mod tests;

pub use backend::{Backend, StreamSocket, Tap};
pub use device::{Net, NetOptions};
pub use state::NetState;
