//! The system calls that take addresses of guest memory. The only `unsafe` of the crate.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use vm_memory::bitmap::Bitmap;

use crate::memory::MemorySlice;

/// The kernel takes at most this many pieces in one call (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// Reads from `file` at `offset` (`None`: a stream, from where it is) into guest memory. Returns the bytes read, which may be fewer than there is room for.
pub fn read_into_guest(file: &impl AsRawFd, slices: &[MemorySlice<'_>], offset: Option<u64>) -> io::Result<usize> {
    let fd = file.as_raw_fd();
    fill(slices, |pieces| {
        // SAFETY: each piece is a mapped, writable range that outlives the call, see `fill`. The guest may write there at
        // the same time, which to the kernel is user memory like any other.
        unsafe {
            match offset {
                Some(offset) => {
                    libc::preadv(fd, pieces.as_ptr(), pieces.len() as libc::c_int, offset.min(i64::MAX as u64) as i64)
                }
                None => libc::readv(fd, pieces.as_ptr(), pieces.len() as libc::c_int),
            }
        }
    })
}

/// Writes guest memory to `file` at `offset` (`None`: a stream, where it is). Returns the bytes written.
pub fn write_from_guest(file: &impl AsRawFd, slices: &[MemorySlice<'_>], offset: Option<u64>) -> io::Result<usize> {
    let fd = file.as_raw_fd();
    drain(slices, |pieces| {
        // SAFETY: as above; the kernel only reads from the pieces.
        unsafe {
            match offset {
                Some(offset) => {
                    libc::pwritev(fd, pieces.as_ptr(), pieces.len() as libc::c_int, offset.min(i64::MAX as u64) as i64)
                }
                None => libc::writev(fd, pieces.as_ptr(), pieces.len() as libc::c_int),
            }
        }
    })
}

/// As [`read_into_guest`], but only from the page cache: fails where a disk would have to be waited for.
pub fn read_into_guest_now(file: &impl AsRawFd, slices: &[MemorySlice<'_>], offset: u64) -> io::Result<usize> {
    let fd = file.as_raw_fd();
    fill(slices, |pieces| {
        // SAFETY: as in `read_into_guest`. The offset is one 64-bit argument and a high half that counts for nothing.
        unsafe {
            libc::syscall(libc::SYS_preadv2, fd, pieces.as_ptr(), pieces.len(), offset, 0, libc::RWF_NOWAIT) as isize
        }
    })
}

/// As [`write_from_guest`], but only into the page cache: fails where a disk or a lock would have to be waited for.
pub fn write_from_guest_now(file: &impl AsRawFd, slices: &[MemorySlice<'_>], offset: u64) -> io::Result<usize> {
    let fd = file.as_raw_fd();
    drain(slices, |pieces| {
        // SAFETY: as in `read_into_guest_now`; the kernel only reads from the pieces.
        unsafe {
            libc::syscall(libc::SYS_pwritev2, fd, pieces.as_ptr(), pieces.len(), offset, 0, libc::RWF_NOWAIT) as isize
        }
    })
}

/// Lets `call` write to the slices as pieces of memory, which live as long as it takes: the guards borrow the slices. What
/// it says it has written is marked as such.
fn fill(slices: &[MemorySlice<'_>], call: impl Fn(&[libc::iovec]) -> isize) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().take(MAX_PIECES).map(MemorySlice::ptr_guard_mut).collect();
    let pieces: Vec<libc::iovec> =
        guards.iter().map(|g| libc::iovec { iov_base: g.as_ptr().cast(), iov_len: g.len() }).collect();
    let written = retry(|| call(&pieces))?;
    let mut rest = written;
    for slice in slices {
        let length = rest.min(slice.len());
        slice.bitmap().mark_dirty(0, length);
        rest -= length;
    }
    Ok(written)
}

/// Lets `call` read from the slices as pieces of memory.
fn drain(slices: &[MemorySlice<'_>], call: impl Fn(&[libc::iovec]) -> isize) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().take(MAX_PIECES).map(MemorySlice::ptr_guard).collect();
    let pieces: Vec<libc::iovec> =
        guards.iter().map(|g| libc::iovec { iov_base: g.as_ptr().cast_mut().cast(), iov_len: g.len() }).collect();
    retry(|| call(&pieces))
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Tells a tap interface how long the header of its packets is, and which offloads the other side does (`TUN_F_*`).
pub fn configure_tap(tap: &impl AsRawFd, header: libc::c_int, offload: libc::c_uint) -> io::Result<()> {
    const TUNSETOFFLOAD: u32 = 0x4004_54d0;
    const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
    let fd = tap.as_raw_fd();
    retry(|| {
        // SAFETY: this request reads one int, which lives through the call.
        unsafe { libc::ioctl(fd, TUNSETVNETHDRSZ as _, &raw const header) as isize }
    })?;
    retry(|| {
        // SAFETY: this request takes its argument by value.
        unsafe { libc::ioctl(fd, TUNSETOFFLOAD as _, libc::c_ulong::from(offload)) as isize }
    })?;
    Ok(())
}

/// Gives the whole pages of guest memory back to the host. They read as zeroes, or as the file that is mapped there.
pub fn give_back(slice: &MemorySlice<'_>) -> io::Result<()> {
    const PAGE: usize = 4096;
    let guard = slice.ptr_guard_mut();
    let skip = guard.as_ptr().align_offset(PAGE);
    let length = guard.len().saturating_sub(skip) & !(PAGE - 1);
    if length == 0 {
        return Ok(());
    }
    retry(|| {
        // SAFETY: the pages lie within mapped guest memory, of which no references exist, only volatile accesses; the
        // guest gave them up.
        unsafe { libc::madvise(guard.as_ptr().add(skip).cast(), length, libc::MADV_DONTNEED) as isize }
    })?;
    slice.bitmap().mark_dirty(skip, length);
    Ok(())
}

/// A buffer of one's own, as if it were guest memory.
pub fn own_slice(buffer: &mut [u8]) -> MemorySlice<'_> {
    // SAFETY: the buffer is valid for its length, and borrowed for as long as the slice lives.
    unsafe { MemorySlice::with_bitmap(buffer.as_mut_ptr(), buffer.len(), None, None) }
}

/// `EventFd` lends its descriptor only as a number.
pub fn borrow(event: &vmm_sys_util::eventfd::EventFd) -> std::os::fd::BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as its owner, which the result borrows.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
