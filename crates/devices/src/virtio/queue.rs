//! The split virtqueue (2.7), seen from the device.
//!
//! Three tables in guest memory: *descriptors* (buffers, linked into chains), the *available ring* (heads of chains
//! that the driver offers) and the *used ring* (heads that the device is done with, and how many bytes it wrote).
//! Everything in the first two is an allegation of the guest. [`Queue::pop`] is the one place where it is
//! checked; the [`Chain`] it returns consists of proved [`GuestRange`]s and must be given back with
//! [`Queue::complete`], once, as it is consumed by that.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::memory::{GuestRange, Memory, MemorySlice};
use crate::virtio::fault::GuestFault;
use crate::virtio::feature;

/// The most descriptors a chain may have, also by an indirect table.
const MAX_CHAIN: u16 = 1024;

/// The descriptor continues at `next`.
pub(crate) const DESC_NEXT: u16 = 1;
/// The device writes the buffer.
pub(crate) const DESC_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(crate) const DESC_INDIRECT: u16 = 4;

const AVAIL_NO_INTERRUPT: u16 = 1;
const USED_NO_NOTIFY: u16 = 1;

/// Where a queue lies and how far it is: all that has to be remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueState {
    /// Entries.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
    /// Next entry of the available ring to take.
    pub next_available: u16,
    /// Next entry of the used ring to fill.
    pub next_used: u16,
    /// The used index at the last interrupt decision.
    pub notified_used: u16,
}

/// A queue whose tables were proved to lie in guest memory.
#[derive(Debug)]
pub struct Queue {
    size: u16,
    descriptors: GuestAddress,
    available: GuestAddress,
    used: GuestAddress,
    next_available: Wrapping<u16>,
    next_used: Wrapping<u16>,
    notified_used: Wrapping<u16>,
    event_index: bool,
    indirect: bool,
    /// Vectors of completed chains, to be used again.
    spare: Vec<Vec<GuestRange>>,
}

/// A chain of buffers that the driver offers: first those to read, then those to write.
#[derive(Debug)]
#[must_use = "a chain that is not completed is lost to the driver"]
pub struct Chain {
    head: u16,
    readable: Vec<GuestRange>,
    writable: Vec<GuestRange>,
}

impl Queue {
    /// Takes up a queue as the driver (or a snapshot) describes it. `number` is for messages, `max` the device's limit.
    pub fn new(memory: &Memory, number: u16, max: u16, state: &QueueState, features: u64) -> Result<Self, GuestFault> {
        let QueueState { size, descriptors, available, used, .. } = *state;
        if !size.is_power_of_two() || size > max {
            return Err(GuestFault::QueueSize { queue: number, size, max });
        }
        // Each ring is followed by the 16-bit event index.
        let entries = u32::from(size);
        for (part, address, align, length) in [
            ("descriptor table", descriptors, 16, entries * 16),
            ("available ring", available, 2, entries * 2 + 6),
            ("used ring", used, 4, entries * 8 + 6),
        ] {
            if address % align != 0 || GuestRange::new(memory, address, length).is_none() {
                return Err(GuestFault::QueueAddress { queue: number, part, address });
            }
        }
        Ok(Self {
            size,
            descriptors: GuestAddress(descriptors),
            available: GuestAddress(available),
            used: GuestAddress(used),
            next_available: Wrapping(state.next_available),
            next_used: Wrapping(state.next_used),
            notified_used: Wrapping(state.notified_used),
            event_index: features & feature::EVENT_IDX != 0,
            indirect: features & feature::INDIRECT_DESC != 0,
            spare: Vec::new(),
        })
    }

    /// Where it lies and how far it is. Chains that were popped and not completed are not in it: drain first.
    pub fn state(&self) -> QueueState {
        QueueState {
            size: self.size,
            descriptors: self.descriptors.0,
            available: self.available.0,
            used: self.used.0,
            next_available: self.next_available.0,
            next_used: self.next_used.0,
            notified_used: self.notified_used.0,
        }
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The next chain the driver offers, validated.
    pub fn pop(&mut self, memory: &Memory) -> Result<Option<Chain>, GuestFault> {
        if self.waiting(memory)? == 0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_available.0 % self.size);
        let head: u16 = u16::from_le(
            memory.load(GuestAddress(self.available.0 + 4 + slot * 2), Ordering::Relaxed).map_err(mapped)?,
        );
        let mut chain = Chain {
            head,
            readable: self.spare.pop().unwrap_or_default(),
            writable: self.spare.pop().unwrap_or_default(),
        };
        self.walk(memory, &mut chain)?;
        self.next_available += 1;
        Ok(Some(chain))
    }

    /// Takes back the chain popped last, which is offered again by the next `pop`.
    pub fn undo_pop(&mut self, chain: Chain) {
        self.next_available -= 1;
        self.recycle(chain);
    }

    /// How many chains wait.
    pub fn waiting(&self, memory: &Memory) -> Result<u16, GuestFault> {
        let index: u16 =
            u16::from_le(memory.load(GuestAddress(self.available.0 + 2), Ordering::Acquire).map_err(mapped)?);
        let waiting = (Wrapping(index) - self.next_available).0;
        if waiting > self.size {
            return Err(GuestFault::AvailableIndex { index, next: self.next_available.0, size: self.size });
        }
        Ok(waiting)
    }

    /// Gives a chain back to the driver, with the number of bytes written into its writable buffers.
    pub fn complete(&mut self, memory: &Memory, chain: Chain, written: usize) -> Result<(), GuestFault> {
        self.fill_used(memory, 0, &chain, written)?;
        self.publish_used(memory, 1)?;
        self.recycle(chain);
        Ok(())
    }

    /// Gives several chains back at once: the driver sees all or none (as mergeable receive buffers need it).
    pub fn complete_all(&mut self, memory: &Memory, chains: &mut Vec<(Chain, usize)>) -> Result<(), GuestFault> {
        let count = chains.len() as u16;
        for (ahead, (chain, written)) in chains.drain(..).enumerate() {
            self.fill_used(memory, ahead as u16, &chain, written)?;
            self.recycle(chain);
        }
        self.publish_used(memory, count)
    }

    /// Whether the driver wants an interrupt for what was completed since the last call (2.7.7, 2.7.10).
    pub fn needs_notification(&mut self, memory: &Memory) -> Result<bool, GuestFault> {
        // What was completed must be visible before the driver's wish is read, or both sides wait for each other.
        fence(Ordering::SeqCst);
        let (old, new) = (self.notified_used, self.next_used);
        if !self.event_index {
            self.notified_used = new;
            let flags: u16 = u16::from_le(memory.load(self.available, Ordering::Relaxed).map_err(mapped)?);
            return Ok(old != new && flags & AVAIL_NO_INTERRUPT == 0);
        }
        let at = GuestAddress(self.available.0 + 4 + u64::from(self.size) * 2);
        let event = Wrapping(u16::from_le(memory.load(at, Ordering::Relaxed).map_err(mapped)?));
        self.notified_used = new;
        Ok((new - event - Wrapping(1)).0 < (new - old).0)
    }

    /// Asks the driver for no kicks, while the device polls the queue anyway.
    pub fn disable_kicks(&mut self, memory: &Memory) -> Result<(), GuestFault> {
        if self.event_index {
            // An old index: the driver's next ones do not pass it.
            return Ok(());
        }
        memory.store(USED_NO_NOTIFY.to_le(), self.used, Ordering::Relaxed).map_err(mapped)
    }

    /// Asks the driver for a kick at the next chain. Returns whether chains came meanwhile, for which there is none.
    pub fn enable_kicks(&mut self, memory: &Memory) -> Result<bool, GuestFault> {
        if self.event_index {
            let at = GuestAddress(self.used.0 + 4 + u64::from(self.size) * 8);
            memory.store(self.next_available.0.to_le(), at, Ordering::Relaxed).map_err(mapped)?;
        } else {
            memory.store(0u16, self.used, Ordering::Relaxed).map_err(mapped)?;
        }
        // The wish must be visible before the index is read again.
        fence(Ordering::SeqCst);
        Ok(self.waiting(memory)? != 0)
    }

    fn fill_used(&self, memory: &Memory, ahead: u16, chain: &Chain, written: usize) -> Result<(), GuestFault> {
        debug_assert!(written <= chain.writable_len());
        let slot = u64::from((self.next_used + Wrapping(ahead)).0 % self.size);
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(chain.head).to_le_bytes());
        element[4..].copy_from_slice(&(written.min(u32::MAX as usize) as u32).to_le_bytes());
        memory.write_slice(&element, GuestAddress(self.used.0 + 4 + slot * 8)).map_err(mapped)
    }

    fn publish_used(&mut self, memory: &Memory, count: u16) -> Result<(), GuestFault> {
        self.next_used += count;
        memory.store(self.next_used.0.to_le(), GuestAddress(self.used.0 + 2), Ordering::Release).map_err(mapped)
    }

    fn recycle(&mut self, chain: Chain) {
        for mut ranges in [chain.readable, chain.writable] {
            if self.spare.len() < 64 && ranges.capacity() > 0 {
                ranges.clear();
                self.spare.push(ranges);
            }
        }
    }

    fn walk(&self, memory: &Memory, chain: &mut Chain) -> Result<(), GuestFault> {
        let head = chain.head;
        let (mut table, mut size, mut index) = (self.descriptors, self.size, head);
        let mut limit = self.size;
        let mut in_indirect = false;
        let (mut seen, mut bytes) = (0, 0u64);
        loop {
            if index >= size {
                return Err(GuestFault::DescriptorIndex { index, size });
            }
            let at = GuestAddress(table.0 + u64::from(index) * 16);
            let raw: [u8; 16] = memory.read_obj(at).map_err(mapped)?;
            // Read once: the guest may change it meanwhile.
            let raw = u128::from_le_bytes(raw);
            let (address, length) = (raw as u64, (raw >> 64) as u32);
            let (flags, next) = ((raw >> 96) as u16, (raw >> 112) as u16);

            if flags & DESC_INDIRECT != 0 {
                let entries = length / 16;
                let malformed = in_indirect || !self.indirect || flags & DESC_NEXT != 0 || length % 16 != 0;
                if malformed || entries == 0 || entries > u32::from(MAX_CHAIN) {
                    return Err(GuestFault::Indirect { head, length });
                }
                table =
                    GuestRange::new(memory, address, length).ok_or(GuestFault::Buffer { address, length })?.address();
                (size, index, in_indirect) = (entries as u16, 0, true);
                limit = size;
                seen = 0;
                continue;
            }
            seen += 1;
            if seen > limit {
                return Err(GuestFault::ChainLength { head, limit });
            }
            let range = GuestRange::new(memory, address, length).ok_or(GuestFault::Buffer { address, length })?;
            bytes += u64::from(length);
            if bytes > u64::from(u32::MAX) {
                return Err(GuestFault::ChainBytes { head });
            }
            if flags & DESC_WRITE != 0 {
                chain.writable.push(range);
            } else if chain.writable.is_empty() {
                chain.readable.push(range);
            } else {
                return Err(GuestFault::Order { head });
            }
            if flags & DESC_NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
    }
}

/// The tables were proved to be in memory, which never shrinks; should it fail all the same, the guest is stopped.
fn mapped(_: GuestMemoryError) -> GuestFault {
    GuestFault::Protocol("A table of the queue is no longer in guest memory")
}

impl Chain {
    /// The index of its first descriptor, which is its name while it is in flight.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes in the buffers to read.
    pub fn readable_len(&self) -> usize {
        self.readable.iter().map(GuestRange::len).sum()
    }

    /// Bytes of room in the buffers to write.
    pub fn writable_len(&self) -> usize {
        self.writable.iter().map(GuestRange::len).sum()
    }

    /// Reads the readable buffers as one run of bytes.
    pub fn reader<'a>(&'a self, memory: &'a Memory) -> Cursor<'a> {
        Cursor::new(memory, &self.readable, "readable part")
    }

    /// Writes the writable buffers as one run of bytes.
    pub fn writer<'a>(&'a self, memory: &'a Memory) -> Cursor<'a> {
        Cursor::new(memory, &self.writable, "writable part")
    }

    /// The ranges to write, as the driver gave them.
    pub fn writable(&self) -> &[GuestRange] {
        &self.writable
    }

    /// The ranges to read, as the driver gave them.
    pub fn readable(&self) -> &[GuestRange] {
        &self.readable
    }
}

/// A place in the buffers of one direction of a chain.
#[derive(Clone)]
pub struct Cursor<'a> {
    memory: &'a Memory,
    ranges: &'a [GuestRange],
    part: &'static str,
    range: usize,
    offset: usize,
    passed: usize,
    left: usize,
}

impl<'a> Cursor<'a> {
    fn new(memory: &'a Memory, ranges: &'a [GuestRange], part: &'static str) -> Self {
        let left = ranges.iter().map(GuestRange::len).sum();
        Self { memory, ranges, part, range: 0, offset: 0, passed: 0, left }
    }

    /// Bytes from here to the end.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Bytes from the start to here.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Passes `count` bytes, which must be there, piece by piece.
    fn pass(&mut self, count: usize, mut piece: impl FnMut(GuestRange, usize)) -> Result<(), GuestFault> {
        if count > self.left {
            return Err(GuestFault::ShortBuffer { part: self.part, needed: count, found: self.left });
        }
        let mut done = 0;
        while done < count {
            let here = self.ranges[self.range].skip(self.offset);
            let here = here.take(count - done);
            if !here.is_empty() {
                piece(here, done);
            }
            done += here.len();
            self.offset += here.len();
            if self.offset == self.ranges[self.range].len() {
                self.range += 1;
                self.offset = 0;
            }
        }
        self.passed += count;
        self.left -= count;
        Ok(())
    }

    /// Reads exactly `data.len()` bytes.
    pub fn read(&mut self, data: &mut [u8]) -> Result<(), GuestFault> {
        let memory = self.memory;
        let mut result = Ok(());
        self.pass(data.len(), |range, at| {
            let piece = &mut data[at..at + range.len()];
            result = result.and(memory.read_slice(piece, range.address()).map_err(|_| ()));
        })?;
        result.map_err(|()| GuestFault::Protocol("A buffer is no longer in guest memory"))
    }

    /// Writes all of `data`.
    pub fn write(&mut self, data: &[u8]) -> Result<(), GuestFault> {
        let memory = self.memory;
        let mut result = Ok(());
        self.pass(data.len(), |range, at| {
            let piece = &data[at..at + range.len()];
            result = result.and(memory.write_slice(piece, range.address()).map_err(|_| ()));
        })?;
        result.map_err(|()| GuestFault::Protocol("A buffer is no longer in guest memory"))
    }

    /// Reads an array.
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N], GuestFault> {
        let mut value = [0; N];
        self.read(&mut value)?;
        Ok(value)
    }

    /// Passes `count` bytes without touching them.
    pub fn skip(&mut self, count: usize) -> Result<(), GuestFault> {
        self.pass(count, |_, _| {})
    }

    /// The next `count` bytes as ranges, for later work.
    pub fn take_ranges(&mut self, count: usize) -> Result<Vec<GuestRange>, GuestFault> {
        let mut ranges = Vec::new();
        self.pass(count, |range, _| ranges.push(range))?;
        Ok(ranges)
    }

    /// The next `count` bytes as memory that the kernel reads or writes in a system call.
    pub fn take_slices(&mut self, count: usize) -> Result<Vec<MemorySlice<'a>>, GuestFault> {
        let memory = self.memory;
        let mut slices = Vec::new();
        let mut whole = true;
        self.pass(count, |range, _| whole &= push_slices(memory, range, &mut slices))?;
        if whole { Ok(slices) } else { Err(GuestFault::Protocol("A buffer is no longer in guest memory")) }
    }

    /// The ranges in all, of the rest.
    pub fn rest_slices(&self) -> Result<Vec<MemorySlice<'a>>, GuestFault> {
        let mut rest = self.clone();
        rest.take_slices(rest.left)
    }
}

/// Adds the memory of `range` to `slices`; false if it is not there.
pub(crate) fn push_slices<'a>(memory: &'a Memory, range: GuestRange, slices: &mut Vec<MemorySlice<'a>>) -> bool {
    for slice in GuestMemoryBackend::get_slices(memory, range.address(), range.len()) {
        match slice {
            Ok(slice) => slices.push(slice),
            Err(_) => return false,
        }
    }
    true
}
