//! Memory that grows and shrinks while the guest runs (5.15, virtio-mem): a region of guest physical addresses in blocks,
//! of which the guest plugs as many as the host asks for ([`Mem::set_requested`]).
//!
//! The region is part of the machine's memory from the start, reserved and untouched: a block that is not plugged costs
//! nothing, and one that is unplugged is given back at once.

mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::{BLOCK, Mem};
pub use state::MemState;
