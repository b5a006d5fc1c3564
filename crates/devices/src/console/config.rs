//! Configuration space and control messages (5.3.4, 5.3.6.2).

use crate::virtio::GuestFault;
use crate::virtio::queue::Cursor;

/// The terminal's size is in the configuration space.
pub const F_SIZE: u64 = 1;
/// Several ports, and control queues.
pub const F_MULTIPORT: u64 = 2;

/// Columns, rows, greatest number of ports, emergency write register.
pub fn config_space(size: (u16, u16), ports: u32) -> [u8; 12] {
    let mut space = [0; 12];
    space[..2].copy_from_slice(&size.0.to_le_bytes());
    space[2..4].copy_from_slice(&size.1.to_le_bytes());
    space[4..8].copy_from_slice(&ports.to_le_bytes());
    space
}

/// A message of a control queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    pub port: u32,
    pub event: u16,
    pub value: u16,
}

pub const DEVICE_READY: u16 = 0;
pub const PORT_ADD: u16 = 1;
pub const PORT_READY: u16 = 3;
pub const CONSOLE_PORT: u16 = 4;
pub const RESIZE: u16 = 5;
pub const PORT_OPEN: u16 = 6;
pub const PORT_NAME: u16 = 7;

impl Control {
    pub fn parse(reader: &mut Cursor<'_>) -> Result<Self, GuestFault> {
        let raw = u64::from_le_bytes(reader.read_array()?);
        Ok(Self { port: raw as u32, event: (raw >> 32) as u16, value: (raw >> 48) as u16 })
    }

    pub fn encode(self) -> [u8; 8] {
        (u64::from(self.port) | u64::from(self.event) << 32 | u64::from(self.value) << 48).to_le_bytes()
    }
}
