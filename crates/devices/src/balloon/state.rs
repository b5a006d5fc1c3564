//! What a balloon remembers.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BalloonState {
    /// The features that were agreed on.
    pub features: u64,
    /// Pages of 4 KiB the guest should give.
    pub target: u32,
    /// Pages the guest gave.
    pub actual: u32,
}
