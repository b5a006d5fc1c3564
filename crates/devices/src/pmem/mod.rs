//! Persistent memory (5.19): a file that the guest maps as memory and mounts without a page cache of its own. The
//! read-only layers of an image, shared by all machines that use it, are best served so: one copy in the host's page
//! cache is the copy of all guests.
//!
//! The machine maps the file at a guest physical address; the device says where, and flushes.

mod device;
#[cfg(test)]
mod tests;

pub use device::{ALIGNMENT, Pmem};
