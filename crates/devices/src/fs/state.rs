//! What a shared directory remembers.

use serde::{Deserialize, Serialize};

/// Version 1. Files are found again by their place in the tree; what was removed meanwhile answers `ESTALE`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FsState {
    /// The features that were agreed on.
    pub features: u64,
    /// The guest has mounted it.
    pub initialised: bool,
    /// Nodes but the root, parents before children where the tree has them.
    pub nodes: Vec<NodeState>,
    /// Open files and directories.
    pub handles: Vec<HandleState>,
}

/// A node the guest knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its number.
    pub node: u64,
    /// The directory it was last found in.
    pub parent: u64,
    /// Its name there, as bytes.
    pub name: Vec<u8>,
    /// How often the guest looked it up.
    pub lookups: u64,
}

/// An open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleState {
    /// Its number.
    pub handle: u64,
    /// The node.
    pub node: u64,
    /// The flags it was opened with.
    pub flags: u32,
}
