//! The PCI transport (4.1): a modern device with its registers in BAR 0 and MSI-X, one message a queue.
//!
//! A function has 256 bytes of configuration space here (no legacy registers, no I/O ports): header, BAR 0 with 64 bits, the five
//! vendor capabilities that say where the registers are, and the MSI-X capability. What a hypervisor must
//! connect a message to is decided by the guest at run time, so interrupts are sent through a [`MessageSender`].
//!
//! BAR 0 is 32 KiB: common registers, interrupt status, device configuration, queue notification (a 4-byte slot for
//! each queue, so that each has an ioeventfd of its own), MSI-X table and pending bits, 4 KiB each.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{BusDevice, read_unmapped, read_window};
use crate::event_loop::EventLoop;
use crate::memory::Memory;
use crate::virtio::device::DeviceType;
use crate::virtio::fault::DeviceError;
use crate::virtio::transport::{
    InterruptRoute, Observer, QueuePart, Registers, SharedDevice, Transport, TransportState,
};

/// Bytes of BAR 0; it is aligned to as many.
pub const BAR_SIZE: u64 = 0x8000;

/// Where in BAR 0 the notification slots begin; queue *n* has 4 bytes at `NOTIFY + 4 * n`.
pub const NOTIFY: u64 = 0x3000;

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const AREA: u64 = 0x1000;

/// No vector.
const NO_VECTOR: u16 = 0xffff;

const MSIX_CAPABILITY: usize = 0x40;
const FIRST_VIRTIO_CAPABILITY: usize = 0x50;
/// Window to the BAR for firmware (4.1.4.9): its capability and the data register.
const WINDOW: usize = 0xa0;

/// Sends interrupt messages. With KVM a call that looks up or makes a route, with a software interrupt controller a
/// write to it.
pub trait MessageSender: Send + Sync {
    /// Sends the message `data` to `address`.
    fn send(&self, address: u64, data: u32) -> io::Result<()>;

    /// The guest changed the message of `vector` (or masked it: `None`), so a prepared route is no longer right.
    fn changed(&self, _vector: u16, _message: Option<(u64, u32)>) {}
}

/// What a PCI transport remembers besides the common state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PciState {
    /// The configuration space.
    pub config: Vec<u8>,
    /// The MSI-X table: address, data, vector control of each entry.
    pub msix: Vec<(u64, u32, u32)>,
    /// Messages that wait for their vector to be unmasked.
    pub pending: Vec<bool>,
    /// Vector of configuration changes.
    pub config_vector: u16,
    /// Vectors of the queues.
    pub queue_vectors: Vec<u16>,
}

/// A device behind PCI registers. Its two faces on the machine's buses are [`PciTransport::config_read`] with
/// [`PciTransport::config_write`], and BAR 0, for which it is a [`BusDevice`].
pub struct PciTransport {
    transport: Transport,
    messages: Arc<Messages>,
    config: [u8; 256],
}

/// The MSI-X state, which the event loop's side uses.
struct Messages {
    registers: Arc<Registers>,
    sender: Arc<dyn MessageSender>,
    state: Mutex<MessageState>,
}

struct MessageState {
    enabled: bool,
    masked: bool,
    table: Vec<Entry>,
    config_vector: u16,
    queue_vectors: Vec<u16>,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
}

impl Messages {
    fn lock(&self) -> MutexGuard<'_, MessageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self, pick: impl FnOnce(&MessageState) -> u16, isr: u32) -> io::Result<()> {
        let mut state = self.lock();
        let vector = pick(&state);
        if !state.enabled {
            // Without MSI-X there is no line either: the driver polls the status.
            self.registers.interrupt_status.fetch_or(isr, Ordering::SeqCst);
            return Ok(());
        }
        let masked = state.masked;
        let Some(entry) = state.table.get_mut(usize::from(vector)) else { return Ok(()) };
        if masked || entry.control & 1 != 0 {
            entry.pending = true;
            return Ok(());
        }
        let (address, data) = (entry.address, entry.data);
        drop(state);
        self.sender.send(address, data)
    }

    /// Sends what waited and is no longer masked.
    fn send_pending(&self) {
        let mut state = self.lock();
        if !state.enabled || state.masked {
            return;
        }
        let ready: Vec<_> = state
            .table
            .iter_mut()
            .filter(|entry| entry.control & 1 == 0 && entry.pending)
            .map(|entry| {
                entry.pending = false;
                (entry.address, entry.data)
            })
            .collect();
        drop(state);
        for (address, data) in ready {
            // As a device's write that the chipset drops.
            let _ = self.sender.send(address, data);
        }
    }

    fn tell_changed(&self, vector: usize) {
        let state = self.lock();
        let Some(entry) = state.table.get(vector) else { return };
        let usable = state.enabled && !state.masked && entry.control & 1 == 0;
        let message = usable.then_some((entry.address, entry.data));
        drop(state);
        self.sender.changed(vector as u16, message);
    }
}

impl InterruptRoute for Messages {
    fn queue(&self, queue: u16) -> io::Result<()> {
        self.raise(|state| state.queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR), 1)
    }

    fn config(&self) -> io::Result<()> {
        self.registers.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(|state| state.config_vector, 2)
    }
}

impl PciTransport {
    /// Puts `device` behind PCI registers.
    pub fn new(
        memory: Memory,
        device: SharedDevice,
        sender: Arc<dyn MessageSender>,
        events: &EventLoop,
        observer: Option<Arc<dyn Observer>>,
    ) -> io::Result<Self> {
        let registers = Arc::new(Registers::default());
        let queues = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.queue_sizes().len()
        };
        // One vector each, and one for the configuration.
        let entry = Entry { address: 0, data: 0, control: 1, pending: false };
        let messages = Arc::new(Messages {
            registers: registers.clone(),
            sender,
            state: Mutex::new(MessageState {
                enabled: false,
                masked: false,
                table: vec![entry; queues + 1],
                config_vector: NO_VECTOR,
                queue_vectors: vec![NO_VECTOR; queues],
            }),
        });
        let transport = Transport::new(memory, device, registers, messages.clone(), events, observer)?;
        let config = config_space(transport.device_type(), queues);
        Ok(Self { transport, messages, config })
    }

    /// An event descriptor for each queue, to be written when the driver writes to its slot at [`NOTIFY`].
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        self.transport.kicks()
    }

    /// Where the guest put BAR 0, if it answers there.
    pub fn bar(&self) -> Option<u64> {
        let enabled = self.config[4] & 2 != 0;
        let address = u64::from_le_bytes(self.config[0x10..0x18].try_into().unwrap_or_default()) & !15;
        (enabled && address != 0).then_some(address)
    }

    /// Puts BAR 0 somewhere, as firmware does.
    pub fn set_bar(&mut self, address: u64) {
        let value = address & !(BAR_SIZE - 1) | 0b0100;
        self.config[0x10..0x18].copy_from_slice(&value.to_le_bytes());
    }

    /// Reads the configuration space; what is beyond its 256 bytes reads as zero.
    pub fn config_read(&mut self, offset: u64, data: &mut [u8]) {
        read_window(&self.config, offset, data);
    }

    /// Writes the configuration space. Only command, BAR 0, the interrupt line and MSI-X control change.
    pub fn config_write(&mut self, offset: u64, data: &[u8]) {
        for (at, &byte) in data.iter().enumerate() {
            let Some(at) = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(at)) else { return };
            match at {
                // Memory space, bus master, interrupts off.
                0x04 => self.config[at] = byte & 0x06,
                0x05 => self.config[at] = byte & 0x04,
                0x10 => {}
                // The bits below the size read as zero, by which the guest finds the size.
                0x11 => self.config[at] = byte & !((BAR_SIZE - 1) >> 8) as u8,
                0x12..0x18 | 0x3c => self.config[at] = byte,
                // Enable and mask of MSI-X.
                0x43 => {
                    self.config[at] = self.config[at] & 0x3f | byte & 0xc0;
                    let mut state = self.messages.lock();
                    (state.enabled, state.masked) = (byte & 0x80 != 0, byte & 0x40 != 0);
                    let vectors = state.table.len();
                    drop(state);
                    (0..vectors).for_each(|vector| self.messages.tell_changed(vector));
                    self.messages.send_pending();
                }
                _ => {}
            }
        }
    }

    /// Completes what is in flight and returns the state of transport and device.
    pub fn save(&mut self) -> Result<TransportState, DeviceError> {
        let mut saved = self.transport.save()?;
        let state = self.messages.lock();
        saved.pci = Some(PciState {
            config: self.config.to_vec(),
            msix: state.table.iter().map(|entry| (entry.address, entry.data, entry.control)).collect(),
            pending: state.table.iter().map(|entry| entry.pending).collect(),
            config_vector: state.config_vector,
            queue_vectors: state.queue_vectors.clone(),
        });
        Ok(saved)
    }

    /// Takes up a saved state.
    pub fn restore(&mut self, saved: &TransportState) -> Result<(), DeviceError> {
        let mismatch = || DeviceError::State { found: "another transport".into(), expected: "a PCI device" };
        let pci = saved.pci.as_ref().ok_or_else(mismatch)?;
        let config: [u8; 256] = pci.config[..].try_into().map_err(|_| mismatch())?;
        {
            let mut state = self.messages.lock();
            let fits = pci.msix.len() == state.table.len()
                && pci.pending.len() == state.table.len()
                && pci.queue_vectors.len() == state.queue_vectors.len();
            if !fits {
                return Err(mismatch());
            }
            for ((entry, saved), pending) in state.table.iter_mut().zip(&pci.msix).zip(&pci.pending) {
                *entry = Entry { address: saved.0, data: saved.1, control: saved.2, pending: *pending };
            }
            (state.config_vector, state.queue_vectors) = (pci.config_vector, pci.queue_vectors.clone());
        }
        // As if the guest wrote it: only what is writable is taken.
        for range in [0x04..0x06, 0x10..0x18, 0x3c..0x3d, 0x43..0x44] {
            self.config_write(range.start as u64, &config[range]);
        }
        self.transport.restore(saved)
    }

    fn read_common(&self, offset: u64, length: usize) -> Option<u64> {
        let t = &self.transport;
        let state = self.messages.lock();
        let address = |part, at| t.queue_address(part) >> (8 * (offset - at));
        let value = match (offset, length) {
            (0x00, 4) => u64::from(t.device_features_select),
            (0x04, 4) => u64::from(t.device_features()),
            (0x08, 4) => u64::from(t.driver_features_select),
            (0x0c, 4) => u64::from(t.driver_features()),
            (0x10, 2) => u64::from(state.config_vector),
            (0x12, 2) => t.queue_count() as u64,
            (0x14, 1) => u64::from(t.status()),
            (0x15, 1) => u64::from(t.registers.generation.load(Ordering::SeqCst) & 0xff),
            (0x16, 2) => u64::from(t.queue_select),
            (0x18, 2) => u64::from(t.queue_size()),
            (0x1a, 2) => u64::from(*state.queue_vectors.get(t.queue_select as usize).unwrap_or(&NO_VECTOR)),
            (0x1c, 2) => u64::from(t.queue_enabled()),
            (0x1e, 2) => u64::from(t.queue_select),
            (0x20 | 0x24, 4 | 8) => address(QueuePart::Descriptors, 0x20),
            (0x28 | 0x2c, 4 | 8) => address(QueuePart::Available, 0x28),
            (0x30 | 0x34, 4 | 8) => address(QueuePart::Used, 0x30),
            _ => return None,
        };
        Some(value)
    }

    fn write_common(&mut self, offset: u64, value: u64, length: usize) {
        let t = &mut self.transport;
        let word = value as u32;
        match (offset, length) {
            (0x00, 4) => t.device_features_select = word,
            (0x08, 4) => t.driver_features_select = word,
            (0x0c, 4) => t.set_driver_features(word),
            (0x10, 2) => self.messages.lock().set_vector(None, word as u16),
            (0x14, 1) if t.set_status(word) => {
                let mut state = self.messages.lock();
                state.config_vector = NO_VECTOR;
                state.queue_vectors.fill(NO_VECTOR);
            }
            (0x16, 2) => t.queue_select = word,
            (0x18, 2) => t.set_queue_size(word),
            (0x1a, 2) => self.messages.lock().set_vector(Some(t.queue_select as usize), word as u16),
            // A queue is enabled by 1 and disabled by reset only.
            (0x1c, 2) if word == 1 => t.set_queue_enabled(true),
            (0x20 | 0x28 | 0x30, 8) => {
                self.write_common(offset, value & 0xffff_ffff, 4);
                self.write_common(offset + 4, value >> 32, 4);
            }
            (0x20 | 0x24, 4) => t.set_queue_address(QueuePart::Descriptors, offset == 0x24, word),
            (0x28 | 0x2c, 4) => t.set_queue_address(QueuePart::Available, offset == 0x2c, word),
            (0x30 | 0x34, 4) => t.set_queue_address(QueuePart::Used, offset == 0x34, word),
            _ => {}
        }
    }

    fn table_bytes(&self) -> Vec<u8> {
        let state = self.messages.lock();
        let bytes = state.table.iter().flat_map(|entry| {
            let raw = u128::from(entry.address) | u128::from(entry.data) << 64 | u128::from(entry.control) << 96;
            raw.to_le_bytes()
        });
        bytes.collect()
    }

    fn write_table(&self, offset: u64, data: &[u8]) {
        // The specification allows 4 and 8 aligned bytes.
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let (vector, within) = ((offset / 16) as usize, (offset % 16) as usize);
        {
            let mut state = self.messages.lock();
            let Some(entry) = state.table.get_mut(vector) else { return };
            let raw = u128::from(entry.address) | u128::from(entry.data) << 64 | u128::from(entry.control) << 96;
            let mut raw = raw.to_le_bytes();
            raw[within..within + data.len()].copy_from_slice(data);
            let raw = u128::from_le_bytes(raw);
            (entry.address, entry.data, entry.control) = (raw as u64 & !3, (raw >> 64) as u32, (raw >> 96) as u32 & 1);
        }
        self.messages.tell_changed(vector);
        self.messages.send_pending();
    }
}

impl MessageState {
    /// What is not a vector reads back as "none", by which the driver sees the refusal.
    fn set_vector(&mut self, queue: Option<usize>, vector: u16) {
        let vector = if usize::from(vector) < self.table.len() { vector } else { NO_VECTOR };
        match queue {
            None => self.config_vector = vector,
            Some(queue) => {
                if let Some(slot) = self.queue_vectors.get_mut(queue) {
                    *slot = vector;
                }
            }
        }
    }
}

/// Accesses to BAR 0.
impl BusDevice for PciTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let within = offset % AREA;
        match offset - within {
            COMMON => match self.read_common(within, data.len()) {
                Some(value) => {
                    let length = data.len();
                    data.copy_from_slice(&value.to_le_bytes()[..length]);
                }
                None => read_unmapped(data),
            },
            // Reading the status takes it.
            ISR if within == 0 && data.len() == 1 => {
                data[0] = self.transport.registers.interrupt_status.swap(0, Ordering::SeqCst) as u8;
            }
            DEVICE => self.transport.read_config(within, data),
            TABLE => read_window(&self.table_bytes(), within, data),
            PENDING => {
                let state = self.messages.lock();
                let mut bits = [0; 32];
                for (vector, entry) in state.table.iter().take(256).enumerate() {
                    bits[vector / 8] |= u8::from(entry.pending) << (vector % 8);
                }
                read_window(&bits, within, data);
            }
            _ => read_unmapped(data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let within = offset % AREA;
        match offset - within {
            COMMON => {
                let mut value = [0; 8];
                if let Some(value) = value.get_mut(..data.len()) {
                    value.copy_from_slice(data);
                } else {
                    return;
                }
                self.write_common(within, u64::from_le_bytes(value), data.len());
            }
            DEVICE => self.transport.write_config(within, data),
            NOTIFY if within.is_multiple_of(4) => self.transport.kick((within / 4) as u32),
            TABLE => self.write_table(within, data),
            _ => {}
        }
    }
}

fn config_space(device: DeviceType, queues: usize) -> [u8; 256] {
    let mut space = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &0x1af4u16.to_le_bytes());
    put(0x02, &(0x1040 + device as u16).to_le_bytes());
    // Status: there is a list of capabilities.
    put(0x06, &0x0010u16.to_le_bytes());
    // Revision 1 is a modern device; class by what it is, for guests that look.
    let class: [u8; 3] = match device {
        DeviceType::Net => [0, 0, 2],
        DeviceType::Block | DeviceType::Fs | DeviceType::Pmem => [0, 0x80, 1],
        DeviceType::Console => [0, 0x80, 7],
        _ => [0, 0, 0xff],
    };
    put(0x08, &[1]);
    put(0x09, &class);
    put(0x10, &[0b0100]);
    put(0x2c, &0x1af4u16.to_le_bytes());
    put(0x2e, &(0x1040 + device as u16).to_le_bytes());
    put(0x34, &[MSIX_CAPABILITY as u8]);

    put(MSIX_CAPABILITY, &[0x11, FIRST_VIRTIO_CAPABILITY as u8]);
    put(MSIX_CAPABILITY + 2, &(queues as u16).to_le_bytes());
    put(MSIX_CAPABILITY + 4, &(TABLE as u32).to_le_bytes());
    put(MSIX_CAPABILITY + 8, &(PENDING as u32).to_le_bytes());

    // Common, notify, ISR, device; then the window, which stays unconnected (no bytes).
    let areas = [(1u8, COMMON, 0x38u32), (3, ISR, 1), (4, DEVICE, AREA as u32), (2, NOTIFY, 4 * queues as u32)];
    let mut at = FIRST_VIRTIO_CAPABILITY;
    for (kind, offset, length) in areas {
        let size = if kind == 2 { 20 } else { 16 };
        let next = if kind == 2 { WINDOW } else { at + size };
        put(at, &[0x09, next as u8, size as u8, kind, 0]);
        put(at + 8, &(offset as u32).to_le_bytes());
        put(at + 12, &length.to_le_bytes());
        if kind == 2 {
            // Bytes between the slots of two queues.
            put(at + 16, &4u32.to_le_bytes());
        }
        at += size;
    }
    put(WINDOW, &[0x09, 0, 20, 5, 0]);
    space
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::anonymous;
    use crate::rng::Rng;
    use std::time::Duration;
    use vm_memory::{Bytes, GuestAddress};

    #[derive(Default)]
    struct Sent(Mutex<Vec<(u64, u32)>>);

    impl MessageSender for Sent {
        fn send(&self, address: u64, data: u32) -> io::Result<()> {
            self.0.lock().unwrap().push((address, data));
            Ok(())
        }
    }

    fn read<const N: usize>(device: &mut PciTransport, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        device.read(offset, &mut data);
        data
    }

    struct Guest {
        memory: Memory,
        events: EventLoop,
        sent: Arc<Sent>,
    }

    impl Guest {
        fn new() -> Self {
            let memory = anonymous(&[(0, 1 << 20)], false).unwrap();
            Self { memory, events: EventLoop::new().unwrap(), sent: Arc::default() }
        }

        fn device(&self) -> PciTransport {
            let rng = Arc::new(Mutex::new(Rng::new()));
            PciTransport::new(self.memory.clone(), rng, self.sent.clone(), &self.events, None).unwrap()
        }

        fn start(&self, device: &mut PciTransport) {
            // MSI-X on, vector 1 to the queue.
            device.config_write(0x42, &[0, 0x80]);
            device.write(TABLE + 16, &0xfee0_0000u64.to_le_bytes());
            device.write(TABLE + 24, &0x4041u32.to_le_bytes());
            device.write(TABLE + 28, &0u32.to_le_bytes());
            for status in [1u8, 3] {
                device.write(0x14, &[status]);
            }
            device.write(0x08, &1u32.to_le_bytes());
            device.write(0x0c, &1u32.to_le_bytes());
            device.write(0x14, &[0xb]);
            device.write(0x18, &8u16.to_le_bytes());
            device.write(0x1a, &1u16.to_le_bytes());
            device.write(0x20, &0x1000u64.to_le_bytes());
            device.write(0x28, &0x2000u64.to_le_bytes());
            device.write(0x30, &0x3000u64.to_le_bytes());
            device.write(0x1c, &1u16.to_le_bytes());
            device.write(0x14, &[0xf]);
            assert_eq!(read(device, 0x14), [0xf]);
        }

        fn request(&self, device: &mut PciTransport, number: u16) {
            let descriptor = 0x8000u128 | 16 << 64 | 2 << 96;
            self.memory.write_slice(&descriptor.to_le_bytes(), GuestAddress(0x1000)).unwrap();
            self.memory.write_obj(number, GuestAddress(0x2002)).unwrap();
            device.write(NOTIFY, &0u16.to_le_bytes());
            while self.events.run_once(Some(Duration::ZERO)).unwrap() > 0 {}
            assert_eq!(self.memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap(), number);
        }

        fn sent(&self) -> Vec<(u64, u32)> {
            std::mem::take(&mut self.sent.0.lock().unwrap())
        }
    }

    #[test]
    fn capabilities_lead_to_registers_within_the_bar() {
        let mut device = Guest::new().device();
        let mut config = [0; 256];
        device.config_read(0, &mut config);
        let (mut at, mut kinds) = (usize::from(config[0x34]), Vec::new());
        while at != 0 {
            assert!(kinds.len() < 10 && at % 4 == 0, "a list that ends");
            if config[at] == 9 {
                kinds.push(config[at + 3]);
                let word = |at: usize| u64::from(u32::from_le_bytes(config[at..at + 4].try_into().unwrap()));
                assert!(word(at + 8) + word(at + 12) <= BAR_SIZE);
            }
            at = usize::from(config[at + 1]);
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [1, 2, 3, 4, 5]);
        device.config_write(0x10, &[0xff; 8]);
        device.config_read(0x10, &mut config[..8]);
        assert_eq!(u64::from_le_bytes(config[..8].try_into().unwrap()) & !15, !(BAR_SIZE - 1));
        device.set_bar(0x4000_0000_0000);
        assert_eq!(device.bar(), None, "memory space is off");
        device.config_write(4, &[6, 0]);
        assert_eq!(device.bar(), Some(0x4000_0000_0000));
    }

    #[test]
    fn queue_interrupts_by_message_and_waits_while_masked() {
        let guest = Guest::new();
        let mut device = guest.device();
        guest.start(&mut device);
        guest.request(&mut device, 1);
        assert_eq!(guest.sent(), [(0xfee0_0000, 0x4041)]);
        device.write(TABLE + 28, &1u32.to_le_bytes());
        guest.request(&mut device, 2);
        assert_eq!(guest.sent(), []);
        assert_eq!(read(&mut device, PENDING), [2]);
        let mut next = guest.device();
        next.restore(&device.save().unwrap()).unwrap();
        drop(device);
        next.write(TABLE + 28, &0u32.to_le_bytes());
        assert_eq!(guest.sent(), [(0xfee0_0000, 0x4041)]);
        guest.request(&mut next, 3);
        assert_eq!(guest.sent(), [(0xfee0_0000, 0x4041)]);
    }

    #[test]
    fn odd_accesses_and_vectors() {
        let guest = Guest::new();
        let mut device = guest.device();
        guest.start(&mut device);
        for offset in (0..BAR_SIZE).step_by(61).chain([BAR_SIZE, u64::MAX, 0x12, 0x1f]) {
            for length in [0, 1, 2, 3, 4, 7, 8, 16] {
                device.read(offset, &mut vec![0; length]);
                if !(0x14..0x15).contains(&offset) {
                    device.write(offset, &vec![0xff; length]);
                }
                device.config_read(offset, &mut vec![0; length]);
                device.config_write(offset, &vec![0xff; length]);
            }
        }
        device.write(0x16, &0u16.to_le_bytes());
        device.write(0x1a, &7u16.to_le_bytes());
        assert_eq!(read(&mut device, 0x1a), [0xff; 2], "there is no vector 7");
        assert_eq!(read::<3>(&mut device, 0), [0xff; 3]);
    }
}
