//! Feature bits and units (5.5.3, 5.5.4).

pub const F_STATS: u64 = 1 << 1;
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;
pub const F_REPORTING: u64 = 1 << 5;

/// Pages are of this many bytes, whatever the guest's own are.
pub const PAGE: u64 = 4096;

/// Bytes of page numbers in one request, at most: Linux sends 1 KiB.
pub const MAX_PAGE_LIST: usize = 1 << 20;

/// Statistics in one buffer, at most; 16 are defined.
pub const MAX_STATISTICS: usize = 64;
