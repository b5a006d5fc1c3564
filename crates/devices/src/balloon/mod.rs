//! Memory balloon (5.5): gets memory back from a guest that does not need it.
//!
//! Two ways. *Inflating* ([`Balloon::set_target`]) makes the guest allocate pages and name them, which takes them from
//! it until the balloon deflates. *Free page reporting* lets the guest tell which pages are free anyway; it may use them
//! again at once. Reporting is the one to leave on: it costs the guest nothing and lies to nobody about free memory.
//! Statistics of the guest come on a queue of their own.

mod config;
mod device;
mod state;
#[cfg(test)]
mod tests;

pub use device::{Balloon, BalloonOptions, Statistics};
pub use state::BalloonState;
