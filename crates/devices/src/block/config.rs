//! Feature bits and configuration space (5.2.3, 5.2.4).

pub const F_SEG_MAX: u64 = 1 << 2;
pub const F_READ_ONLY: u64 = 1 << 5;
pub const F_BLOCK_SIZE: u64 = 1 << 6;
pub const F_FLUSH: u64 = 1 << 9;
pub const F_MULTI_QUEUE: u64 = 1 << 12;
pub const F_DISCARD: u64 = 1 << 13;
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Bytes of a sector, the unit of every address in the protocol.
pub const SECTOR: u64 = 512;

/// The most sectors in one segment of a discard or write-zeroes request.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// The most segments of one such request.
pub const MAX_DISCARD_SEGMENTS: u32 = 32;

/// Entries of a queue.
pub const QUEUE_SIZE: u16 = 256;

/// The configuration space of a disk of `sectors`, with blocks of `block_size` bytes.
pub fn config_space(sectors: u64, block_size: u32, queues: u16) -> [u8; 60] {
    let mut space = [0; 60];
    let mut put = |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    // Header and status take a descriptor each.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &block_size.to_le_bytes());
    put(34, &queues.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
    put(44, &(block_size / SECTOR as u32).to_le_bytes());
    put(48, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(52, &MAX_DISCARD_SEGMENTS.to_le_bytes());
    put(56, &[1]);
    space
}
