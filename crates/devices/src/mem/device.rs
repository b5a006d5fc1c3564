//! The memory device.

use std::io;
use std::ops::Range;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::state::MemState;
use crate::bus::read_window;
use crate::memory::{GuestRange, Memory};
use crate::sys;
use crate::virtio::device::{Activation, DeviceState, DeviceType, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::queue::push_slices;
use crate::virtio::{GuestFault, feature};

/// Bytes of a block, also the alignment of the region: what a guest without huge pages of its own can plug.
pub const BLOCK: u64 = 2 << 20;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u16 = 0;
const NACK: u16 = 1;
const ERROR: u16 = 3;

const STATE_PLUGGED: u16 = 0;
const STATE_UNPLUGGED: u16 = 1;
const STATE_MIXED: u16 = 2;

/// The memory device.
pub struct Mem {
    start: u64,
    plugged: Vec<bool>,
    requested: u64,
    features: u64,
    active: Option<Activation>,
}

impl Mem {
    /// A device for the `length` bytes of guest memory at `start`, both multiples of [`BLOCK`], nothing plugged.
    pub fn new(start: u64, length: u64) -> io::Result<Self> {
        let fits = start.is_multiple_of(BLOCK) && length.is_multiple_of(BLOCK) && length > 0;
        if !fits || start.checked_add(length).is_none() || length / BLOCK > u64::from(u32::MAX) {
            let problem =
                format!("A region of {length} bytes at {start:#x} for memory hotplug is not made of 2 MiB blocks");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let plugged = vec![false; (length / BLOCK) as usize];
        Ok(Self { start, plugged, requested: 0, features: 0, active: None })
    }

    /// Asks the guest to have `bytes` plugged; rounded down to blocks, at most the region.
    pub fn set_requested(&mut self, bytes: u64) -> Result<(), DeviceError> {
        self.requested = (bytes / BLOCK).min(self.plugged.len() as u64) * BLOCK;
        match &self.active {
            Some(active) => Ok(active.interrupt.config()?),
            None => Ok(()),
        }
    }

    /// Bytes that are plugged.
    pub fn plugged(&self) -> u64 {
        self.plugged.iter().filter(|&&plugged| plugged).count() as u64 * BLOCK
    }

    /// The blocks a request names, if they are blocks of the region.
    fn blocks(&self, address: u64, count: u16) -> Option<Range<usize>> {
        let offset = address.checked_sub(self.start)?;
        let first = usize::try_from(offset / BLOCK).ok()?;
        let end = first.checked_add(usize::from(count))?;
        (offset.is_multiple_of(BLOCK) && count > 0 && end <= self.plugged.len()).then_some(first..end)
    }

    /// Answers a request: its type and, for a question, the state.
    fn answer(&mut self, memory: &Memory, kind: u16, address: u64, count: u16) -> (u16, u16) {
        if kind == UNPLUG_ALL {
            self.give_back(memory, 0..self.plugged.len());
            return (ACK, 0);
        }
        let Some(blocks) = self.blocks(address, count) else { return (ERROR, 0) };
        let plugged = self.plugged[blocks.clone()].iter().filter(|&&plugged| plugged).count();
        match kind {
            PLUG if plugged > 0 => (ERROR, 0),
            PLUG if self.plugged() + u64::from(count) * BLOCK > self.requested => (NACK, 0),
            PLUG => {
                self.plugged[blocks].fill(true);
                (ACK, 0)
            }
            UNPLUG if plugged < blocks.len() => (ERROR, 0),
            UNPLUG => {
                self.give_back(memory, blocks);
                (ACK, 0)
            }
            STATE if plugged == blocks.len() => (ACK, STATE_PLUGGED),
            STATE if plugged == 0 => (ACK, STATE_UNPLUGGED),
            STATE => (ACK, STATE_MIXED),
            _ => (ERROR, 0),
        }
    }

    fn give_back(&mut self, memory: &Memory, blocks: Range<usize>) {
        for block in blocks {
            if !std::mem::take(&mut self.plugged[block]) {
                continue;
            }
            let Some(range) = GuestRange::new(memory, self.start + block as u64 * BLOCK, BLOCK as u32) else {
                continue;
            };
            let mut slices = Vec::new();
            push_slices(memory, range, &mut slices);
            // A host that cannot keeps the pages; the guest does not notice.
            slices.iter().for_each(|slice| drop(sys::give_back(slice)));
        }
    }
}

impl VirtioDevice for Mem {
    fn device_type(&self) -> DeviceType {
        DeviceType::Mem
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        feature::COMMON
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let region = self.plugged.len() as u64 * BLOCK;
        // Block size, node, address, region, its usable part, plugged, requested.
        let fields = [BLOCK, 0, self.start, region, region, self.plugged(), self.requested];
        let mut space = [0; 56];
        for (place, field) in space.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        read_window(&space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        let length = self.plugged.len() * BLOCK as usize;
        if !activation.memory.check_range(GuestAddress(self.start), length) {
            let problem = format!("The {length} bytes at {:#x} for memory hotplug are not guest memory", self.start);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem).into());
        }
        self.active = Some(activation);
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    /// Memory stays plugged over a reset of the device: the guest may be running from it, and says itself when not
    /// (5.15.6).
    fn reset(&mut self) {
        self.features = 0;
        self.active = None;
    }

    fn queue_ready(&mut self, _queue: u16) -> Result<(), DeviceError> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        let result = self.serve(&mut active);
        self.active = Some(active);
        result
    }

    fn save(&self) -> DeviceState {
        let plugged = (0..).zip(&self.plugged).filter_map(|(number, &plugged)| plugged.then_some(number)).collect();
        DeviceState::Mem(MemState { features: self.features, requested: self.requested, plugged })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Mem(saved) if saved.plugged.iter().all(|&n| (n as usize) < self.plugged.len()) => {
                self.plugged.fill(false);
                saved.plugged.iter().for_each(|&number| self.plugged[number as usize] = true);
                self.requested = saved.requested;
                Ok(())
            }
            other => Err(other.mismatch("a memory region of the same size")),
        }
    }
}

impl Mem {
    fn serve(&mut self, active: &mut Activation) -> Result<(), DeviceError> {
        let Some(Some(queue)) = active.queues.first_mut() else { return Ok(()) };
        loop {
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let raw: [u8; 24] = chain.reader(&active.memory).read_array()?;
            let word = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
            let address = raw[8..16].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            // Room for the answer first: a change that cannot be told of must not happen.
            if chain.writable_len() < 10 {
                let found = chain.writable_len();
                return Err(GuestFault::ShortBuffer { part: "answer", needed: 10, found }.into());
            }
            let (kind, state) = self.answer(&active.memory, word(0), address, word(16));
            let mut answer = [0; 10];
            answer[..2].copy_from_slice(&kind.to_le_bytes());
            answer[8..].copy_from_slice(&state.to_le_bytes());
            chain.writer(&active.memory).write(&answer)?;
            queue.complete(&active.memory, chain, 10)?;
        }
        active.notify(0)
    }
}
