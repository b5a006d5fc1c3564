//! What a network interface remembers.

use serde::{Deserialize, Serialize};

/// Version 1. Packets in the backend's hands are lost, as packets may be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetState {
    /// The features that were agreed on.
    pub features: u64,
    /// The guest's address. A copy of a machine may be given another, with which it behaves like a replaced cable.
    pub mac: [u8; 6],
    /// The cable is plugged in.
    pub link_up: bool,
}
