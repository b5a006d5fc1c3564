//! The MMIO transport (4.2): one page of registers, one interrupt line. The smallest way to reach a device, and
//! the one that costs a booting guest the fewest exits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, read_unmapped};
use crate::event_loop::EventLoop;
use crate::interrupt::Interrupt;
use crate::memory::Memory;
use crate::virtio::fault::DeviceError;
use crate::virtio::transport::{
    InterruptRoute, Observer, QueuePart, Registers, SharedDevice, Transport, TransportState,
};

/// Bytes of the register page, configuration space included.
pub const MMIO_SIZE: u64 = 0x1000;

/// The register a driver writes a queue's number to (32 bits, little endian) to kick it: what an ioeventfd listens to.
pub const QUEUE_NOTIFY: u64 = 0x050;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VENDOR: u32 = u32::from_le_bytes(*b"STRA");
const CONFIG: u64 = 0x100;

const INTERRUPT_QUEUE: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

/// A device behind MMIO registers.
pub struct MmioTransport {
    transport: Transport,
}

struct Line {
    registers: Arc<Registers>,
    interrupt: Arc<dyn Interrupt>,
}

impl InterruptRoute for Line {
    fn queue(&self, _queue: u16) -> io::Result<()> {
        self.registers.interrupt_status.fetch_or(INTERRUPT_QUEUE, Ordering::SeqCst);
        self.interrupt.trigger()
    }

    fn config(&self) -> io::Result<()> {
        self.registers.generation.fetch_add(1, Ordering::SeqCst);
        self.registers.interrupt_status.fetch_or(INTERRUPT_CONFIG, Ordering::SeqCst);
        self.interrupt.trigger()
    }
}

impl MmioTransport {
    /// Puts `device` behind registers. Its events are handled by `events`.
    pub fn new(
        memory: Memory,
        device: SharedDevice,
        interrupt: Arc<dyn Interrupt>,
        events: &EventLoop,
        observer: Option<Arc<dyn Observer>>,
    ) -> io::Result<Self> {
        let registers = Arc::new(Registers::default());
        let route = Arc::new(Line { registers: registers.clone(), interrupt });
        Ok(Self { transport: Transport::new(memory, device, registers, route, events, observer)? })
    }

    /// An event descriptor for each queue, to be written when the driver writes the queue's number to
    /// [`QUEUE_NOTIFY`]. Where nothing else does, [`BusDevice::write`] does.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        self.transport.kicks()
    }

    /// Completes what is in flight and returns the state of transport and device.
    pub fn save(&mut self) -> Result<TransportState, DeviceError> {
        self.transport.save()
    }

    /// Takes up a saved state; the device runs on if it ran when it was saved.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError> {
        self.transport.restore(state)
    }

    /// Resets the device, as with the machine.
    pub fn reset(&mut self) {
        self.transport.reset();
    }

    fn read_register(&self, offset: u64) -> u32 {
        let t = &self.transport;
        match offset {
            0x000 => MAGIC,
            0x004 => 2,
            0x008 => t.device_type() as u32,
            0x00c => VENDOR,
            0x010 => t.device_features(),
            0x034 => u32::from(t.queue_max()),
            0x044 => u32::from(t.queue_enabled()),
            0x060 => t.registers.interrupt_status.load(Ordering::SeqCst),
            0x070 => t.status(),
            // No shared memory: length and base are all ones (4.2.2).
            0x0b0 | 0x0b4 | 0x0b8 | 0x0bc => u32::MAX,
            0x0fc => t.registers.generation.load(Ordering::SeqCst),
            // Write-only and unassigned registers below the configuration space.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let t = &mut self.transport;
        match offset {
            0x014 => t.device_features_select = value,
            0x020 => t.set_driver_features(value),
            0x024 => t.driver_features_select = value,
            0x030 => t.queue_select = value,
            0x038 => t.set_queue_size(value),
            0x044 => t.set_queue_enabled(value & 1 != 0),
            QUEUE_NOTIFY => t.kick(value),
            0x064 => {
                t.registers.interrupt_status.fetch_and(!value, Ordering::SeqCst);
            }
            0x070 => {
                t.set_status(value);
            }
            0x080 => t.set_queue_address(QueuePart::Descriptors, false, value),
            0x084 => t.set_queue_address(QueuePart::Descriptors, true, value),
            0x090 => t.set_queue_address(QueuePart::Available, false, value),
            0x094 => t.set_queue_address(QueuePart::Available, true, value),
            0x0a0 => t.set_queue_address(QueuePart::Used, false, value),
            0x0a4 => t.set_queue_address(QueuePart::Used, true, value),
            _ => {}
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if (CONFIG..MMIO_SIZE).contains(&offset) {
            return self.transport.read_config(offset - CONFIG, data);
        }
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(register) if offset < CONFIG && offset.is_multiple_of(4) => {
                *register = self.read_register(offset).to_le_bytes()
            }
            _ => read_unmapped(data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if (CONFIG..MMIO_SIZE).contains(&offset) {
            return self.transport.write_config(offset - CONFIG, data);
        }
        if let Ok(register) = <[u8; 4]>::try_from(data)
            && offset < CONFIG
        {
            self.write_register(offset, u32::from_le_bytes(register));
        }
    }
}
