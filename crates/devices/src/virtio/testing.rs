//! The driver's side in software: negotiates with a device through [`MmioTransport`], fills queues, kicks and reads the
//! results. What a guest's kernel does, and what a hostile one may do.
//!
//! For tests: it panics where the device does not do what a driver may expect.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::event_loop::EventLoop;
use crate::memory::{Memory, anonymous};
use crate::virtio::device::VirtioDevice;
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::queue::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, QueueState};
use crate::virtio::status;

/// Bytes of the guest memory: two regions with a hole between, as in a real machine.
const LOW: usize = 8 << 20;
const HIGH_BASE: u64 = 1 << 32;

/// The longest a device may take for one request.
const PATIENCE: Duration = Duration::from_secs(20);

/// A device together with everything it needs to run, and the driver that talks to it.
pub struct Driver<D> {
    /// The guest's memory.
    pub memory: Memory,
    /// The loop that drives the device.
    pub events: EventLoop,
    /// The transport.
    pub transport: MmioTransport,
    /// The device itself.
    pub device: Arc<Mutex<D>>,
    /// The interrupt line.
    pub interrupt: Arc<EventFd>,
    /// The features that were agreed on.
    pub features: u64,
    /// The queues that were set up.
    pub queues: Vec<DriverQueue>,
    /// Chains are put into indirect tables.
    pub indirect: bool,
    next_free: u64,
    /// Where memory was free before the oldest request in flight.
    idle_mark: u64,
}

/// The driver's view of a queue.
pub struct DriverQueue {
    /// Where it lies.
    pub layout: QueueState,
    available_index: u16,
    used_index: u16,
    free: Vec<u16>,
    /// Descriptors and writable buffers of what is in flight, by head.
    in_flight: HashMap<u16, InFlight>,
}

struct InFlight {
    descriptors: Vec<u16>,
    writable: Vec<(u64, usize)>,
}

/// A completed chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Its name.
    pub head: u16,
    /// Bytes the device claims to have written.
    pub written: usize,
    /// The content of all writable buffers, written or not.
    pub data: Vec<u8>,
}

impl<D: VirtioDevice + 'static> Driver<D> {
    /// Negotiates everything the device offers and sets up all queues.
    pub fn new(device: D) -> Self {
        Self::with_features(device, u64::MAX)
    }

    /// Negotiates what the device offers within `mask`.
    pub fn with_features(device: D, mask: u64) -> Self {
        let mut driver = Self::detached(device);
        driver.negotiate(mask);
        driver
    }

    /// A driver that has not done anything yet.
    pub fn detached(device: D) -> Self {
        let memory = anonymous(&[(0, LOW), (HIGH_BASE, LOW)], false).expect("guest memory");
        Self::on_memory(device, memory)
    }

    /// The same on memory of one's own, as after a snapshot.
    pub fn on_memory(device: D, memory: Memory) -> Self {
        let events = EventLoop::new().expect("epoll");
        let device = Arc::new(Mutex::new(device));
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK).expect("eventfd"));
        let transport = MmioTransport::new(memory.clone(), device.clone(), interrupt.clone(), &events, None);
        Self {
            memory,
            events,
            transport: transport.expect("transport"),
            device,
            interrupt,
            features: 0,
            queues: Vec::new(),
            indirect: false,
            next_free: 0x1000,
            idle_mark: 0x1000,
        }
    }

    /// A second machine that continues from a snapshot of this one: same memory, same driver, new device.
    pub fn migrate(mut self, device: D) -> Self {
        let state = self.transport.save().expect("save");
        let json = serde_json_roundtrip(&state);
        let mut next = Self::on_memory(device, self.memory.clone());
        next.transport.restore(&json).expect("restore");
        next.features = self.features;
        next.queues = std::mem::take(&mut self.queues);
        next.indirect = self.indirect;
        (next.next_free, next.idle_mark) = (self.next_free, self.idle_mark);
        next
    }

    /// Walks the initialisation sequence.
    pub fn negotiate(&mut self, mask: u64) {
        self.write_register(0x70, 0);
        self.write_register(0x70, status::ACKNOWLEDGE);
        self.write_register(0x70, status::ACKNOWLEDGE | status::DRIVER);
        self.features = 0;
        for select in 0..2 {
            self.write_register(0x14, select);
            self.features |= u64::from(self.read_register(0x10)) << (32 * select);
        }
        self.features &= mask | crate::virtio::feature::VERSION_1;
        for select in 0..2 {
            self.write_register(0x24, select);
            self.write_register(0x20, (self.features >> (32 * select)) as u32);
        }
        self.write_register(0x70, 0xb);
        assert_ne!(self.status() & status::FEATURES_OK, 0, "the device refused its own features");
        self.next_free = 0x1000;
        self.queues.clear();
        loop {
            let number = self.queues.len() as u32;
            self.write_register(0x30, number);
            let max = self.read_register(0x34);
            if max == 0 {
                break;
            }
            let layout = self.new_queue(max.min(256) as u16);
            for (register, address) in [(0x80, layout.descriptors), (0x90, layout.available), (0xa0, layout.used)] {
                self.write_register(register, address as u32);
                self.write_register(register + 4, (address >> 32) as u32);
            }
            self.write_register(0x38, u32::from(layout.size));
            self.write_register(0x44, 1);
        }
        self.write_register(0x70, 0xf);
    }

    fn new_queue(&mut self, size: u16) -> QueueState {
        let entries = u64::from(size);
        let layout = QueueState {
            size,
            descriptors: self.allocate(entries * 16),
            available: self.allocate(entries * 2 + 6),
            used: self.allocate(entries * 8 + 6),
            ..QueueState::default()
        };
        self.queues.push(DriverQueue {
            layout,
            available_index: 0,
            used_index: 0,
            free: (0..size).rev().collect(),
            in_flight: HashMap::new(),
        });
        layout
    }

    /// Guest memory that nothing else uses, zeroed.
    pub fn allocate(&mut self, length: u64) -> u64 {
        let at = self.next_free;
        self.next_free = (at + length + 15) & !15;
        assert!(self.next_free <= LOW as u64, "the test driver is out of memory");
        self.memory.write_slice(&vec![0; length as usize], GuestAddress(at)).expect("memory");
        at
    }

    fn is_idle(&self) -> bool {
        self.queues.iter().all(|queue| queue.in_flight.is_empty())
    }

    /// The status register.
    pub fn status(&mut self) -> u32 {
        self.read_register(0x70)
    }

    /// Whether the device stopped.
    pub fn needs_reset(&mut self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Reads a 32-bit register.
    pub fn read_register(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a 32-bit register.
    pub fn write_register(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Reads from the configuration space.
    pub fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(0x100 + offset, &mut data);
        data
    }

    /// The device, for a look inside.
    pub fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().expect("the device panicked")
    }

    /// Offers a chain of `readable` buffers with content and `writable` buffers with room. Returns its head.
    pub fn submit(&mut self, queue: usize, readable: &[&[u8]], writable: &[usize]) -> u16 {
        if self.is_idle() {
            self.idle_mark = self.next_free;
        }
        let mut buffers = Vec::new();
        for data in readable {
            let at = self.allocate(data.len() as u64);
            self.memory.write_slice(data, GuestAddress(at)).expect("memory");
            buffers.push((at, data.len(), 0));
        }
        let mut room = Vec::new();
        for &length in writable {
            let at = self.allocate(length as u64);
            buffers.push((at, length, DESC_WRITE));
            room.push((at, length));
        }
        let table = self.indirect.then(|| self.allocate(buffers.len() as u64 * 16));
        let count = if self.indirect { 1 } else { buffers.len() };
        let q = &mut self.queues[queue];
        let descriptors: Vec<u16> = (0..count).map(|_| q.free.pop().expect("the queue is full")).collect();
        let head = descriptors[0];
        q.in_flight.insert(head, InFlight { descriptors: descriptors.clone(), writable: room });
        let last = buffers.len() - 1;
        if let Some(table) = table {
            for (index, &(at, length, flags)) in buffers.iter().enumerate() {
                let next = if index < last { DESC_NEXT } else { 0 };
                self.write_descriptor(table, index as u16, at, length as u32, flags | next, index as u16 + 1);
            }
            self.set_descriptor(queue, head, table, buffers.len() as u32 * 16, DESC_INDIRECT, 0);
        } else {
            for (index, &(at, length, flags)) in buffers.iter().enumerate() {
                let (more, next) = match descriptors.get(index + 1) {
                    Some(&next) => (DESC_NEXT, next),
                    None => (0, 0),
                };
                self.set_descriptor(queue, descriptors[index], at, length as u32, flags | more, next);
            }
        }
        self.offer(queue, head);
        head
    }

    /// Writes a descriptor as it is, right or wrong.
    pub fn set_descriptor(&mut self, queue: usize, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let table = self.queues[queue].layout.descriptors;
        self.write_descriptor(table, index, address, length, flags, next);
    }

    fn write_descriptor(&mut self, table: u64, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&length.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&raw, GuestAddress(table + u64::from(index) * 16)).expect("memory");
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let q = &mut self.queues[queue];
        let slot = u64::from(q.available_index % q.layout.size);
        q.available_index = q.available_index.wrapping_add(1);
        let (ring, index) = (q.layout.available, q.available_index);
        self.memory.write_obj(head, GuestAddress(ring + 4 + slot * 2)).expect("memory");
        self.memory.write_obj(index, GuestAddress(ring + 2)).expect("memory");
    }

    /// Kicks a queue and lets the device work until it has nothing more to do.
    pub fn kick(&mut self, queue: usize) {
        self.write_register(QUEUE_NOTIFY, queue as u32);
        self.run();
    }

    /// Lets the device work until it has nothing more to do.
    pub fn run(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.events.run_once(Some(Duration::ZERO)).expect("event loop") > 0 {
            assert!(Instant::now() < end, "the device never rests");
        }
    }

    /// Lets the device work until `done` says so.
    pub fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.run();
            if done(self) {
                return;
            }
            assert!(Instant::now() < end, "the device does not do what the test waits for");
            self.events.run_once(Some(Duration::from_millis(10))).expect("event loop");
        }
    }

    /// The next completed chain of a queue.
    pub fn completed(&mut self, queue: usize) -> Option<Completed> {
        let q = &mut self.queues[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(q.layout.used + 2)).expect("memory");
        if index == q.used_index {
            return None;
        }
        let slot = u64::from(q.used_index % q.layout.size);
        q.used_index = q.used_index.wrapping_add(1);
        let element: u64 = self.memory.read_obj(GuestAddress(q.layout.used + 4 + slot * 8)).expect("memory");
        let (head, written) = (element as u16, (element >> 32) as usize);
        let chain = q.in_flight.remove(&head).expect("the device completed a chain that is not in flight");
        q.free.extend(chain.descriptors);
        if self.is_idle() {
            self.next_free = self.idle_mark;
        }
        let mut data = Vec::new();
        for (at, length) in chain.writable {
            let start = data.len();
            data.resize(start + length, 0);
            self.memory.read_slice(&mut data[start..], GuestAddress(at)).expect("memory");
        }
        assert!(written <= data.len(), "the device claims {written} bytes in buffers of {}", data.len());
        Some(Completed { head, written, data })
    }

    /// Submits, kicks and waits for the answer.
    pub fn request(&mut self, queue: usize, readable: &[&[u8]], writable: &[usize]) -> Completed {
        let head = self.submit(queue, readable, writable);
        self.write_register(QUEUE_NOTIFY, queue as u32);
        let mut answer = None;
        self.run_until(|driver| {
            assert!(!driver.needs_reset(), "the device stopped");
            answer = driver.completed(queue);
            answer.is_some()
        });
        let answer = answer.expect("an answer");
        assert_eq!(answer.head, head);
        answer
    }

    /// Takes the pending interrupts: how many there were.
    pub fn interrupts(&mut self) -> u64 {
        self.interrupt.read().unwrap_or(0)
    }
}

/// A state must survive its own serialisation.
fn serde_json_roundtrip<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_slice(&serde_json::to_vec(value).expect("serialise")).expect("deserialise")
}
