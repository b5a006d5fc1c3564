//! A host directory shared with the guest (5.11): FUSE (kernel `uapi/linux/fuse.h`, protocol 7.38) over queues, served
//! in the process.
//!
//! The guest names files by node numbers and by single names within a node; there are no paths. A node is an `O_PATH`
//! descriptor, so a name is looked up with one `openat` that follows no symbolic link, and nothing outside of the
//! directory can ever be named: not by `..`, not by a link, not by a race with a rename. Only regular files and
//! directories are opened; device nodes cannot be made.
//!
//! *What is not here.* File locks stay within the guest, whose kernel keeps them when the server offers none. Mapping
//! of file pages into the guest (DAX) is what [`crate::pmem`] is for.

mod device;
mod node;
mod protocol;
mod server;
mod state;
#[cfg(test)]
mod tests;

pub use device::Fs;
pub use server::{CachePolicy, FsOptions};
pub use state::FsState;
