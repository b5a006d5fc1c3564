//! A raw image: a file or block device whose bytes are the disk's.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};

use super::{Image, Pieces, transfer};
use crate::sys;

/// How a raw image is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawOptions {
    /// The file was opened with `O_DIRECT` and wants addresses, offsets and lengths in multiples of this many bytes (a
    /// power of two; less than 512 counts as 512). `None`: through the page cache.
    pub direct: Option<u32>,
}

/// A raw image.
pub struct RawImage {
    file: File,
    size: u64,
    direct: Option<usize>,
    /// Held while a part of a block is read, changed and written back.
    unaligned: Mutex<()>,
    /// The file system knows no write that does not wait.
    never_at_once: AtomicBool,
}

/// A bounce buffer holds this much of a request.
const BOUNCE: usize = 1 << 20;

/// Punches a hole: the space is given back, reads give zeroes.
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
/// Zeroes that keep their space.
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

impl RawImage {
    /// The image in `file`; a block device or a regular file. A size that is not whole sectors is cut.
    pub fn new(file: File, options: RawOptions) -> io::Result<Self> {
        use std::io::Seek;
        let size = (&file).seek(io::SeekFrom::End(0))?;
        let direct = options.direct.map(|alignment| alignment.clamp(512, 1 << 16).next_power_of_two() as usize);
        Ok(Self { file, size: size & !511, direct, unaligned: Mutex::new(()), never_at_once: AtomicBool::new(false) })
    }

    fn aligned(&self, offset: u64, data: &Pieces<'_>) -> bool {
        let Some(alignment) = self.direct else { return true };
        let whole = |value: usize| value.is_multiple_of(alignment);
        whole(offset as usize)
            && data.slices().iter().all(|slice| whole(slice.ptr_guard().as_ptr().addr()) && whole(slice.len()))
    }

    /// Works through `length` bytes from `offset` in whole blocks that a bounce buffer holds: `each` gets the
    /// buffer's place on the disk, the buffer, which part of it belongs to the request, and where in the request that is.
    fn bounced(
        &self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, &mut [u8], Range<usize>, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let alignment = self.direct.unwrap_or(512);
        let room = length.min(BOUNCE as u64) as usize + 2 * alignment;
        let mut buffer = vec![0; room + alignment];
        let start = buffer.as_ptr().align_offset(alignment);
        let mut done = 0;
        while done < length {
            let here = (length - done).min(BOUNCE as u64) as usize;
            let at = offset + done;
            let first = at & !(alignment as u64 - 1);
            let skip = (at - first) as usize;
            let whole = (skip + here).next_multiple_of(alignment);
            each(first, &mut buffer[start..start + whole], skip..skip + here, done as usize)?;
            done += here as u64;
        }
        Ok(())
    }

    fn read_block(&self, at: u64, block: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < block.len() {
            match self.file.read_at(&mut block[done..], at + done as u64) {
                // The last block of a file may be cut.
                Ok(0) => {
                    block[done..].fill(0);
                    break;
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Changes part of each block by `change`, which gets the part and its place in the request.
    fn change(&self, offset: u64, length: u64, change: impl Fn(&mut [u8], usize)) -> io::Result<()> {
        let _one_at_a_time = self.unaligned.lock().unwrap_or_else(PoisonError::into_inner);
        self.bounced(offset, length, |at, block, part, done| {
            if part.len() < block.len() {
                self.read_block(at, block)?;
            }
            change(&mut block[part], done);
            self.file.write_all_at(block, at)
        })
    }
}

impl Image for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.direct.unwrap_or(512) as u32
    }

    fn read_now(&self, offset: u64, data: &Pieces<'_>) -> bool {
        self.direct.is_none()
            && sys::read_into_guest_now(&self.file, data.slices(), offset).is_ok_and(|count| count == data.len())
    }

    fn write_now(&self, offset: u64, data: &Pieces<'_>) -> bool {
        if self.direct.is_some() || self.never_at_once.load(Ordering::Relaxed) {
            return false;
        }
        match sys::write_from_guest_now(&self.file, data.slices(), offset) {
            Ok(count) => count == data.len(),
            Err(error) => {
                // Few file systems can; one that cannot is not asked again.
                let never = error.kind() != io::ErrorKind::WouldBlock;
                self.never_at_once.fetch_or(never, Ordering::Relaxed);
                false
            }
        }
    }

    fn read(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        if !self.aligned(offset, data) {
            return self.bounced(offset, data.len() as u64, |at, block, part, done| {
                self.read_block(at, block)?;
                data.part(done, part.len()).copy_from(&block[part]);
                Ok(())
            });
        }
        transfer(data, |slices, done| sys::read_into_guest(&self.file, slices, Some(offset + done)))
    }

    fn write(&self, offset: u64, data: &Pieces<'_>) -> io::Result<()> {
        if !self.aligned(offset, data) {
            return self.change(offset, data.len() as u64, |part, done| data.part(done, part.len()).copy_to(part));
        }
        transfer(data, |slices, done| sys::write_from_guest(&self.file, slices, Some(offset + done)))
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        // Where there are no holes the content stays, which is allowed.
        match fallocate(&self.file, PUNCH, offset, length) {
            Err(error @ (rustix::io::Errno::IO | rustix::io::Errno::NOSPC)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let ways = if unmap { &[PUNCH, ZERO][..] } else { &[ZERO][..] };
        if ways.iter().any(|&way| fallocate(&self.file, way, offset, length).is_ok()) {
            return Ok(());
        }
        self.change(offset, length, |part, _| part.fill(0))
    }
}
