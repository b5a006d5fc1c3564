//! The workload, its resources and its state: plain types without I/O.
//!
//! Every isolation reads the same description of a workload, the OCI runtime specification's `config.json`
//! ([`runtime`]), and reports the same [`state::State`]. Types here are what the wire formats say and nothing more;
//! whether a value makes sense on this host is decided where it is used.

pub mod capability;
pub mod quantity;
pub mod runtime;
pub mod state;
