//! Virtio (1.3): devices and drivers that talk over queues in the guest's memory.
//!
//! [`device`] is what a device implements, [`queue`] the split virtqueue with its validation, [`mmio`] and [`pci`]
//! the transports over the common [`transport`] state machine.

pub mod device;
pub mod fault;
pub mod mmio;
pub mod pci;
pub mod queue;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod transport;

pub use device::{Activation, DeviceState, DeviceType, VirtioDevice, VirtioInterrupt};
pub use fault::{DeviceError, GuestFault};
pub use queue::{Chain, Queue, QueueState};

/// Feature bits that belong to no device type (6).
pub mod feature {
    /// Chains may be tables elsewhere in memory.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are suppressed by index instead of a flag.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device follows version 1 of the specification; always offered, and demanded.
    pub const VERSION_1: u64 = 1 << 32;
    /// What every device here offers.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// Bits of the device status register (2.1).
pub mod status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u32 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed.
    pub const FEATURES_OK: u32 = 8;
    /// The device met an error it cannot continue from.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;
}
