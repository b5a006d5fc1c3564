//! What is behind a disk: bytes at offsets.

pub mod qcow2;
mod raw;

use std::io;

use vm_memory::Bytes;

use crate::memory::{GuestRange, Memory, MemorySlice};
use crate::virtio::queue::push_slices;

pub use raw::{RawImage, RawOptions};

/// A disk image. Several threads work on it at once. Offsets and lengths are bytes, multiples of 512 and within the
/// size; the device checked that.
pub trait Image: Send + Sync {
    /// Bytes of the disk, a multiple of 512.
    fn size(&self) -> u64;

    /// Bytes of the disk's own blocks, for which it works best; a power of two from 512 on.
    fn block_size(&self) -> u32 {
        512
    }

    /// Reads without waiting for a disk; false if that is not possible.
    fn read_now(&self, _offset: u64, _data: &Pieces<'_>) -> bool {
        false
    }

    /// Writes without waiting for a disk; false if that is not possible, then part of it may have been written.
    fn write_now(&self, _offset: u64, _data: &Pieces<'_>) -> bool {
        false
    }

    /// Fills all of `data`.
    fn read(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()>;

    /// Writes all of `data`.
    fn write(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()>;

    /// Makes what was written durable.
    fn flush(&self) -> io::Result<()>;

    /// The content is no longer needed; reads give anything. An image that cannot give space back does nothing.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes the content zeroes; `unmap` allows to give the space back.
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// The guest's buffers of one request: memory that is not contiguous.
pub struct Pieces<'a> {
    pieces: Vec<MemorySlice<'a>>,
}

impl<'a> Pieces<'a> {
    /// The memory of the ranges.
    pub fn new(memory: &'a Memory, ranges: &[GuestRange]) -> io::Result<Self> {
        let mut pieces = Vec::with_capacity(ranges.len());
        for range in ranges {
            if !push_slices(memory, *range, &mut pieces) {
                return Err(io::Error::other("A buffer is no longer in guest memory"));
            }
        }
        Ok(Self { pieces })
    }

    /// A buffer of one's own instead of a guest's.
    pub fn own(buffer: &'a mut [u8]) -> Self {
        Self { pieces: vec![crate::sys::own_slice(buffer)] }
    }

    /// As slices.
    pub fn slices(&self) -> &[MemorySlice<'a>] {
        &self.pieces
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(MemorySlice::len).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `length` bytes from `start` on; less where it ends before.
    pub fn part(&self, mut start: usize, mut length: usize) -> Pieces<'a> {
        let mut pieces = Vec::new();
        for piece in &self.pieces {
            if length == 0 {
                break;
            }
            if start >= piece.len() {
                start -= piece.len();
                continue;
            }
            let here = length.min(piece.len() - start);
            pieces.extend(piece.subslice(start, here));
            start = 0;
            length -= here;
        }
        Pieces { pieces }
    }

    /// Copies `bytes` to the beginning.
    pub fn copy_from(&self, mut bytes: &[u8]) {
        for piece in &self.pieces {
            let (here, rest) = bytes.split_at(bytes.len().min(piece.len()));
            piece.copy_from(here);
            bytes = rest;
        }
    }

    /// Copies the beginning to `bytes`.
    pub fn copy_to(&self, mut bytes: &mut [u8]) {
        for piece in &self.pieces {
            let (here, rest) = bytes.split_at_mut(piece.len().min(bytes.len()));
            piece.copy_to(here);
            bytes = rest;
        }
    }

    /// Makes all of it zeroes.
    pub fn zero(&self) {
        const ZEROES: [u8; 4096] = [0; 4096];
        for piece in &self.pieces {
            let mut done = 0;
            while done < piece.len() {
                let here = ZEROES.len().min(piece.len() - done);
                // Within the piece, so it cannot fail.
                let _ = piece.write(&ZEROES[..here], done);
                done += here;
            }
        }
    }
}

/// Repeats a call that may do less than all.
fn transfer(data: &Pieces<'_>, mut call: impl FnMut(&[MemorySlice<'_>], u64) -> io::Result<usize>) -> io::Result<()> {
    let length = data.len();
    if length == 0 {
        return Ok(());
    }
    let mut done = call(data.slices(), 0)?;
    while done < length {
        let rest = data.part(done, length - done);
        match call(rest.slices(), done as u64)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "The image is shorter than the disk")),
            count => done += count,
        }
    }
    Ok(())
}
