//! The PCI transport (4.1).

use serde::{Deserialize, Serialize};

/// What a PCI transport remembers besides the common state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PciState {
    /// The writable part of the configuration space.
    pub config: Vec<u8>,
    /// The MSI-X table: address, data, vector control of each entry.
    pub msix: Vec<(u64, u32, u32)>,
    /// Vector of configuration changes.
    pub config_vector: u16,
    /// Vectors of the queues.
    pub queue_vectors: Vec<u16>,
}
