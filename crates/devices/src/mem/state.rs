//! What a memory device remembers.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemState {
    /// The features that were agreed on.
    pub features: u64,
    /// Bytes the guest should have plugged.
    pub requested: u64,
    /// The blocks that are plugged, by number.
    pub plugged: Vec<u32>,
}
