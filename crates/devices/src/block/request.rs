//! Requests (5.2.6) as the guest makes them, and as they are found to be.

use super::config::{MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, SECTOR};
use crate::memory::{GuestRange, Memory};
use crate::virtio::GuestFault;
use crate::virtio::queue::Chain;

/// Bytes of the answer to a get-id request (5.2.6).
pub const ID_BYTES: usize = 20;

/// What the guest wants; addresses are bytes, within the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Read { offset: u64, ranges: Vec<GuestRange> },
    Write { offset: u64, ranges: Vec<GuestRange> },
    Flush,
    GetId,
    Discard(Vec<Extent>),
    WriteZeroes(Vec<Extent>),
}

/// A part of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
    /// The space may be given back.
    pub unmap: bool,
}

/// The status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Parses a chain. The inner error is answered by its status; the outer one is a chain that cannot even be answered.
pub fn parse(chain: &Chain, memory: &Memory, disk: u64) -> Result<Result<Request, Status>, GuestFault> {
    let Some(room) = chain.writable_len().checked_sub(1) else {
        return Err(GuestFault::ShortBuffer { part: "status", needed: 1, found: 0 });
    };
    let mut reader = chain.reader(memory);
    let header: [u8; 16] = reader.read_array()?;
    let header = u128::from_le_bytes(header);
    let (kind, sector) = (header as u32, (header >> 64) as u64);
    // The data lies within the disk and is whole sectors.
    let within = |length: usize| {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length as u64)?;
        (end <= disk && (length as u64).is_multiple_of(SECTOR)).then_some(offset)
    };
    Ok(match kind {
        READ => match within(room) {
            Some(offset) => Ok(Request::Read { offset, ranges: chain.writer(memory).take_ranges(room)? }),
            None => Err(Status::IoError),
        },
        WRITE => match within(reader.left()) {
            Some(offset) => Ok(Request::Write { offset, ranges: reader.take_ranges(reader.left())? }),
            None => Err(Status::IoError),
        },
        FLUSH => Ok(Request::Flush),
        GET_ID if room >= ID_BYTES => Ok(Request::GetId),
        GET_ID => Err(Status::IoError),
        DISCARD | WRITE_ZEROES => {
            let count = reader.left() / 16;
            if count == 0 || count > MAX_DISCARD_SEGMENTS as usize || !reader.left().is_multiple_of(16) {
                return Ok(Err(Status::IoError));
            }
            let mut extents = Vec::with_capacity(count);
            for _ in 0..count {
                let raw = u128::from_le_bytes(reader.read_array()?);
                match extent(raw, kind, disk) {
                    Ok(extent) => extents.push(extent),
                    Err(status) => return Ok(Err(status)),
                }
            }
            Ok(if kind == DISCARD { Request::Discard(extents) } else { Request::WriteZeroes(extents) })
        }
        _ => Err(Status::Unsupported),
    })
}

fn extent(raw: u128, kind: u32, disk: u64) -> Result<Extent, Status> {
    let (sector, sectors, flags) = (raw as u64, (raw >> 64) as u32, (raw >> 96) as u32);
    // Unknown flags, and unmap in a discard, must be refused so (5.2.6.2).
    if flags & !1 != 0 || (kind == DISCARD && flags != 0) {
        return Err(Status::Unsupported);
    }
    let length = u64::from(sectors) * SECTOR;
    let offset = sector.checked_mul(SECTOR).filter(|offset| offset.checked_add(length).is_some_and(|end| end <= disk));
    match offset {
        Some(offset) if sectors <= MAX_DISCARD_SECTORS => Ok(Extent { offset, length, unmap: flags & 1 != 0 }),
        _ => Err(Status::IoError),
    }
}

impl Request {
    /// Bytes that count against a rate limit.
    pub fn bytes(&self) -> u64 {
        match self {
            Request::Read { ranges, .. } | Request::Write { ranges, .. } => {
                ranges.iter().map(|range| range.len() as u64).sum()
            }
            _ => 0,
        }
    }

    /// Whether a read-only disk must refuse it.
    pub fn modifies(&self) -> bool {
        matches!(self, Request::Write { .. } | Request::Discard(_) | Request::WriteZeroes(_))
    }
}
