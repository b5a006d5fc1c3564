//! The entropy device.

use crate::virtio::device::{Activation, DeviceState, DeviceType, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::feature;

/// Bytes given for one request, at most: what one call of getrandom(2) gives without being interruptible at length.
pub const MAX_REQUEST: usize = 64 << 10;

/// The entropy device.
#[derive(Default)]
pub struct Rng {
    active: Option<Activation>,
}

impl Rng {
    /// An inactive device.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        feature::COMMON
    }

    fn ack_features(&mut self, _features: u64) {}

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
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
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.first_mut() else { return Ok(()) };
        let mut bytes = [0; 4096];
        loop {
            while let Some(chain) = queue.pop(&active.memory)? {
                let wanted = chain.writable_len().min(MAX_REQUEST);
                let mut writer = chain.writer(&active.memory);
                while writer.passed() < wanted {
                    let piece = &mut bytes[..(wanted - writer.passed()).min(4096)];
                    let got = rustix::rand::getrandom(&mut *piece, rustix::rand::GetRandomFlags::empty())
                        .map_err(std::io::Error::from)?;
                    writer.write(&piece[..got])?;
                }
                queue.complete(&active.memory, chain, wanted)?;
            }
            if !queue.enable_kicks(&active.memory)? {
                break;
            }
        }
        active.notify(0)
    }

    fn save(&self) -> DeviceState {
        DeviceState::Stateless(DeviceType::Rng)
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Stateless(DeviceType::Rng) => Ok(()),
            other => Err(other.mismatch("an entropy device")),
        }
    }
}
