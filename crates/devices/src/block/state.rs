//! What a block device remembers.

use serde::{Deserialize, Serialize};

/// Version 1. Nothing is in flight: the device was drained. The disk's content is the image's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockState {
    /// The features that were agreed on.
    pub features: u64,
    /// Bytes of the disk: a restored device must have one as large.
    pub disk_bytes: u64,
}
