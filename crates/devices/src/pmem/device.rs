//! The pmem device.

use std::fs::File;

use crate::bus::read_window;
use crate::virtio::device::{Activation, DeviceState, DeviceType, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::{GuestFault, feature};

/// Address and length of the memory are multiples of this many bytes: what Linux demands of persistent memory.
pub const ALIGNMENT: u64 = 2 << 20;

/// The only request.
const FLUSH: u32 = 0;

/// The pmem device.
pub struct Pmem {
    /// `None`: the file is read-only, there is nothing to flush.
    file: Option<File>,
    start: u64,
    length: u64,
    active: Option<Activation>,
}

impl Pmem {
    /// Says that `length` bytes of memory at the guest physical address `start` are a file's, which is flushed when the
    /// guest asks. Both are multiples of [`ALIGNMENT`]. A file that is not to be written must be mapped so that the
    /// guest cannot (privately, or read-only).
    pub fn new(file: Option<File>, start: u64, length: u64) -> Self {
        Self { file, start, length, active: None }
    }

    fn flush(&self) -> i32 {
        match &self.file {
            Some(file) if file.sync_data().is_err() => -1,
            _ => 0,
        }
    }
}

impl VirtioDevice for Pmem {
    fn device_type(&self) -> DeviceType {
        DeviceType::Pmem
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        feature::COMMON
    }

    fn ack_features(&mut self, _features: u64) {}

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = u128::from(self.start) | u128::from(self.length) << 64;
        read_window(&space.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.active = Some(activation);
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), DeviceError> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let result = self.answer(&mut active);
        self.active = Some(active);
        result
    }

    fn save(&self) -> DeviceState {
        DeviceState::Stateless(DeviceType::Pmem)
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Stateless(DeviceType::Pmem) => Ok(()),
            other => Err(other.mismatch("persistent memory")),
        }
    }
}

impl Pmem {
    fn answer(&self, active: &mut Activation) -> Result<(), DeviceError> {
        let Some(Some(queue)) = active.queues.first_mut() else { return Ok(()) };
        // One flush covers all that were asked for before it.
        let mut flushed = None;
        loop {
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    flushed = None;
                    continue;
                }
                break;
            };
            let request = u32::from_le_bytes(chain.reader(&active.memory).read_array()?);
            if request != FLUSH {
                return Err(GuestFault::Protocol("A pmem request is of a type other than flush").into());
            }
            let result = *flushed.get_or_insert_with(|| self.flush());
            chain.writer(&active.memory).write(&result.to_le_bytes())?;
            queue.complete(&active.memory, chain, 4)?;
        }
        active.notify(0)
    }
}
