//! Block device (5.2): reads, writes, flushes, discards on a disk image.
//!
//! A request is a chain: header, data, status byte. `request.rs` parses it, an [`Image`] (raw or
//! [qcow2](image::qcow2)) does the work. Reads and writes that the page cache can serve are answered at once by the
//! event loop's thread (measured: 5 µs against 60 by a worker, see the example `block_latency`); all else goes to worker
//! threads, so that a slow disk never stops the other devices. Rate limits apply before a chain is taken, so a
//! throttled guest waits in its own queue.

mod config;
mod device;
pub mod image;
mod request;
mod state;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{Block, BlockOptions};
pub use image::qcow2::{Qcow2Error, Qcow2Image};
pub use image::{Image, Pieces, RawImage};
pub use state::BlockState;
