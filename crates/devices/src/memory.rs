//! Guest memory, and ranges in it that were proved to exist.

use serde::{Deserialize, Serialize};
use vm_memory::bitmap::{AtomicBitmap, BS};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// The memory of a machine. The bitmap, where there is one, records the pages that *devices* wrote, for incremental
/// snapshots and migration; those that vCPUs write are in the hypervisor's log. Cloning shares the memory.
pub type Memory = GuestMemoryMmap<Option<AtomicBitmap>>;

/// A region of [`Memory`].
pub type MemoryRegion = vm_memory::GuestRegionMmap<Option<AtomicBitmap>>;

/// Bytes of guest memory, accessed as memory that changes under one's hands.
pub type MemorySlice<'a> = VolatileSlice<'a, BS<'a, Option<AtomicBitmap>>>;

/// An address range that lies in guest memory altogether.
///
/// Holding one proves that the range is backed by memory of the machine (which never shrinks), in one piece or in
/// adjoining regions. It does not prove that the guest leaves its content alone: read a value once, then check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRange {
    address: u64,
    length: u32,
}

impl GuestRange {
    /// The range of `length` bytes at the guest physical `address`, if all of it is memory.
    pub fn new(memory: &Memory, address: u64, length: u32) -> Option<Self> {
        // No bytes are nowhere: drivers may give them any address.
        if length == 0 {
            return Some(Self { address: 0, length });
        }
        address.checked_add(u64::from(length))?;
        memory.check_range(GuestAddress(address), length as usize).then_some(Self { address, length })
    }

    /// Guest physical address of the first byte.
    pub fn address(&self) -> GuestAddress {
        GuestAddress(self.address)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The range without its first `count` bytes; empty when it has no more.
    pub fn skip(&self, count: usize) -> Self {
        let count = count.min(self.len()) as u32;
        Self { address: self.address + u64::from(count), length: self.length - count }
    }

    /// The first `count` bytes, or all when it has no more.
    pub fn take(&self, count: usize) -> Self {
        Self { address: self.address, length: count.min(self.len()) as u32 }
    }
}

/// Makes anonymous private memory of the given regions (guest physical address and bytes, ascending).
/// `log_device_writes` adds the bitmap.
pub fn anonymous(regions: &[(u64, usize)], log_device_writes: bool) -> Result<Memory, MemoryError> {
    let regions = regions
        .iter()
        .map(|&(address, length)| {
            let bitmap = log_device_writes.then(|| <AtomicBitmap as vm_memory::bitmap::NewBitmap>::with_len(length));
            let mapping = vm_memory::mmap::MmapRegionBuilder::new_with_bitmap(length, bitmap)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
                .build()
                .map_err(|error| MemoryError::Map { address, length, error: error.to_string() })?;
            MemoryRegion::new(mapping, GuestAddress(address)).ok_or(MemoryError::Wraps { address, length })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Memory::from_regions(regions).map_err(|error| MemoryError::Regions { error: error.to_string() })
}

/// Guest memory that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused it.
    #[error("{length} bytes of guest memory at {address:#x} could not be mapped: {error}")]
    Map {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: usize,
        /// What the host said.
        error: String,
    },
    /// The range passes the end of the address space.
    #[error("{length} bytes of guest memory at {address:#x} pass the end of the 64-bit address space")]
    Wraps {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: usize,
    },
    /// Regions overlap, are unsorted, or there is none.
    #[error("The regions of guest memory do not fit together: {error}")]
    Regions {
        /// What is wrong with them.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_must_be_backed_altogether() {
        let memory = anonymous(&[(0, 0x1000), (0x1000, 0x1000), (0x4000, 0x1000)], false).unwrap();
        assert!(GuestRange::new(&memory, 0xf00, 0x200).is_some(), "adjoining regions are one piece");
        assert!(GuestRange::new(&memory, 0x1f00, 0x200).is_none());
        assert!(GuestRange::new(&memory, 0x3fff, 2).is_none());
        assert!(GuestRange::new(&memory, u64::MAX, 1).is_none());
        assert!(GuestRange::new(&memory, u64::MAX - 3, 8).is_none());
        let range = GuestRange::new(&memory, 0x4000, 0x1000).unwrap();
        assert_eq!((range.skip(0x2000).len(), range.take(5).len()), (0, 5));
    }

    #[test]
    fn device_writes_are_logged() {
        use vm_memory::bitmap::Bitmap;
        use vm_memory::{Bytes, GuestMemoryRegion};
        let memory = anonymous(&[(0, 0x4000)], true).unwrap();
        memory.write_slice(&[1; 8], GuestAddress(0x2ffc)).unwrap();
        let region = memory.iter().next().unwrap();
        let dirty: Vec<bool> = (0..4).map(|page| region.bitmap().dirty_at(page << 12)).collect();
        assert_eq!(dirty, [false, false, true, true]);
    }
}
