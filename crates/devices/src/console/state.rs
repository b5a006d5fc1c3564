//! What a console remembers.

use serde::{Deserialize, Serialize};

/// Version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConsoleState {
    /// The features that were agreed on.
    pub features: u64,
    /// Columns and rows.
    pub size: (u16, u16),
    /// Control messages the driver has not yet given buffers for.
    pub control: Vec<Vec<u8>>,
    /// The ports.
    pub ports: Vec<PortState>,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortState {
    /// The guest has it open.
    pub open: bool,
    /// Bytes of the chain at the head of the output queue that the host has taken.
    pub output_done: usize,
}
