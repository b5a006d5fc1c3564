//! Who is to blame: a guest that broke the rules, or the host that failed.

use std::io;

/// The guest broke a rule of the specification. The device stops, tells the driver so (`DEVICE_NEEDS_RESET`, 2.1.2) and
/// works again after a reset; nothing else of the machine notices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestFault {
    /// Queue size.
    #[error("Queue {queue} has {size} entries; a power of two up to {max} is right")]
    QueueSize {
        /// Queue number.
        queue: u16,
        /// Entries asked for.
        size: u16,
        /// Entries the device allows.
        max: u16,
    },
    /// A part of a queue lies outside memory or is not aligned.
    #[error("Queue {queue} has its {part} at {address:#x}, which is not aligned or not in guest memory")]
    QueueAddress {
        /// Queue number.
        queue: u16,
        /// Descriptor table, available ring or used ring.
        part: &'static str,
        /// Guest physical address.
        address: u64,
    },
    /// A queue that the device cannot do without was not set up.
    #[error("Queue {queue} was not enabled before the driver said it is ready")]
    QueueMissing {
        /// Queue number.
        queue: u16,
    },
    /// More chains are offered than the queue holds.
    #[error("The available index {index} is more than the queue's {size} entries ahead of {next}")]
    AvailableIndex {
        /// The guest's index.
        index: u16,
        /// The device's index.
        next: u16,
        /// Entries of the queue.
        size: u16,
    },
    /// A descriptor index outside the table.
    #[error("Descriptor {index} is outside its table of {size}")]
    DescriptorIndex {
        /// Index.
        index: u16,
        /// Entries of the table.
        size: u16,
    },
    /// A chain of descriptors that does not end.
    #[error("The chain at descriptor {head} has more than {limit} descriptors")]
    ChainLength {
        /// First descriptor.
        head: u16,
        /// Descriptors that are allowed.
        limit: u16,
    },
    /// A descriptor's buffer is not memory.
    #[error("A descriptor names {length} bytes at {address:#x}, which is not guest memory")]
    Buffer {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// The buffers of a chain exceed what the specification allows in all.
    #[error("The buffers of the chain at descriptor {head} exceed 4 GiB in all")]
    ChainBytes {
        /// First descriptor.
        head: u16,
    },
    /// Buffers to read come after buffers to write.
    #[error("The chain at descriptor {head} has a buffer to read after one to write")]
    Order {
        /// First descriptor.
        head: u16,
    },
    /// A malformed indirect table.
    #[error("The chain at descriptor {head} has an indirect table that is nested, chained, empty or of {length} bytes")]
    Indirect {
        /// First descriptor.
        head: u16,
        /// Bytes of the table.
        length: u32,
    },
    /// A request lacks a part, or a part has no room.
    #[error("A request's {part} needs {needed} bytes and has {found}")]
    ShortBuffer {
        /// Which part.
        part: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A request the device cannot answer in any way the protocol has.
    #[error("{0}")]
    Protocol(&'static str),
}

/// Why a device stopped.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The guest is to blame.
    #[error(transparent)]
    Guest(#[from] GuestFault),
    /// The host is to blame.
    #[error("The host failed the device: {0}")]
    Host(#[from] io::Error),
    /// A saved state that does not fit the device.
    #[error("The saved state is of {found}, not of {expected}, or of another version")]
    State {
        /// What it is of.
        found: String,
        /// What it has to be of.
        expected: &'static str,
    },
}
