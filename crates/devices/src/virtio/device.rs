//! What a device model implements, and what it is given.

use std::sync::Arc;

use crate::event_loop::{Readiness, Registrar};
use crate::memory::Memory;
use crate::virtio::fault::DeviceError;
use crate::virtio::queue::{Queue, QueueState};
use crate::virtio::transport::InterruptRoute;
use serde::{Deserialize, Serialize};

/// Device types (5), by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum DeviceType {
    Net = 1,
    Block = 2,
    Console = 3,
    Rng = 4,
    Balloon = 5,
    Vsock = 19,
    Mem = 24,
    Fs = 26,
    Pmem = 27,
}

/// A device model, behind whichever transport.
///
/// Calls come from two threads, a vCPU's (configuration, activation, reset) and the event loop's (queues and other
/// sources); the transport's lock makes them one at a time.
pub trait VirtioDevice: Send {
    /// Its number in the specification.
    fn device_type(&self) -> DeviceType;

    /// The greatest size of each queue, in entries; the length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Feature bits it offers, [`crate::virtio::feature::COMMON`] among them.
    fn features(&self) -> u64;

    /// The features that were agreed on: a subset of [`VirtioDevice::features`].
    fn ack_features(&mut self, features: u64);

    /// Fills `data` (any length) from the configuration space at `offset`.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to the configuration space; what is not writable is ignored.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready. A queue that it did not enable is `None`.
    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError>;

    /// What `activate` gave, while it is active.
    fn active(&self) -> Option<&Activation>;

    /// Back to the state after construction: no queues, nothing in flight; the host's side stays connected.
    fn reset(&mut self);

    /// The guest kicked a queue.
    fn queue_ready(&mut self, queue: u16) -> Result<(), DeviceError>;

    /// A source that the device registered at [`Activation::events`] is ready. `token` is the device's own
    /// (below [`FIRST_OWN_TOKEN`] are the queues').
    fn source_ready(&mut self, _token: u32, _readiness: Readiness) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Completes what is in flight and starts nothing new that would need completing: after this, `save` sees all. The device
    /// continues with the next event.
    fn drain(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// What the device itself has to remember; its queues are saved by the transport.
    fn save(&self) -> DeviceState;

    /// Takes up a saved state, before activation.
    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError>;
}

/// Tokens of a device's own sources start here.
pub const FIRST_OWN_TOKEN: u32 = 0x1_0000;

/// What an active device works with.
pub struct Activation {
    /// The guest's memory.
    pub memory: Memory,
    /// The queues, by number.
    pub queues: Vec<Option<Queue>>,
    /// How it is heard.
    pub interrupt: VirtioInterrupt,
    /// Where it registers its own sources.
    pub events: Registrar,
}

impl Activation {
    /// The states of all queues.
    pub fn queue_states(&self) -> Vec<Option<QueueState>> {
        self.queues.iter().map(|queue| queue.as_ref().map(Queue::state)).collect()
    }

    /// Interrupts for the queue if the driver wants to know.
    pub fn notify(&mut self, queue: u16) -> Result<(), DeviceError> {
        if let Some(Some(q)) = self.queues.get_mut(usize::from(queue))
            && q.needs_notification(&self.memory)?
        {
            self.interrupt.queue(queue)?;
        }
        Ok(())
    }
}

/// Interrupts a device may raise, through the transport.
#[derive(Clone)]
pub struct VirtioInterrupt(pub(crate) Arc<dyn InterruptRoute>);

impl VirtioInterrupt {
    /// Chains of this queue were completed.
    pub fn queue(&self, queue: u16) -> std::io::Result<()> {
        self.0.queue(queue)
    }

    /// The configuration space changed.
    pub fn config(&self) -> std::io::Result<()> {
        self.0.config()
    }
}

/// What a device remembers across a snapshot. Each type's own struct is in its folder's `state.rs`, with its version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DeviceState {
    /// A device with nothing to remember but its queues.
    Stateless(DeviceType),
    /// [`crate::balloon`].
    Balloon(crate::balloon::BalloonState),
    /// [`crate::block`].
    Block(crate::block::BlockState),
    /// [`crate::console`].
    Console(crate::console::ConsoleState),
    /// [`crate::fs`].
    Fs(crate::fs::FsState),
    /// [`crate::mem`].
    Mem(crate::mem::MemState),
    /// [`crate::net`].
    Net(crate::net::NetState),
    /// [`crate::vsock`].
    Vsock(crate::vsock::VsockState),
}

impl DeviceState {
    /// The error of a state that belongs to another device.
    pub fn mismatch(&self, expected: &'static str) -> DeviceError {
        let found = format!("{self:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
        DeviceError::State { found, expected }
    }
}
