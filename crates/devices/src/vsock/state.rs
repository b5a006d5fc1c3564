//! What a vsock device remembers.

use serde::{Deserialize, Serialize};

/// Version 1. Connections do not survive a snapshot: the guest is told to reset them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VsockState {
    /// The features that were agreed on.
    pub features: u64,
    /// The guest's context id. A copy of a machine may be given another.
    pub cid: u64,
    /// The guest was not yet told of an earlier reset.
    pub reset_pending: bool,
}
