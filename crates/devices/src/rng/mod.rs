//! Entropy (5.4): one queue of buffers, which the device fills with random bytes of the host's kernel.
//!
//! The guest chooses the size of the buffers, so a request is filled up to [`MAX_REQUEST`] bytes; the used length tells
//! the driver how many it got.

mod device;
#[cfg(test)]
mod tests;

pub use device::{MAX_REQUEST, Rng};
