//! The heap.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::{Allocator, Dlmalloc};

/// The allocator. musl's maps and unmaps memory for every few allocations; on the path that starts a container that was a
/// fifth of all system calls. What it takes from the kernel is there at once: a page fault costs more than the page.
pub struct Heap(Mutex<Dlmalloc<Pages>>);

impl Heap {
    /// An empty heap.
    pub const fn new() -> Heap {
        Heap(Mutex::new(Dlmalloc::new_with_allocator(Pages)))
    }

    fn lock(&self) -> MutexGuard<'_, Dlmalloc<Pages>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: every call is passed on to dlmalloc, which keeps this contract, one at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { self.lock().free(pointer, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.lock().calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { self.lock().realloc(pointer, layout.size(), layout.align(), size) }
    }
}

/// Memory of the kernel, for [`Heap`].
pub struct Pages;

/// dlmalloc grows by this much, bytes; whatever is larger is a large allocation, which need not be used whole.
const GROWTH: usize = 64 << 10;

// SAFETY: fresh anonymous mappings belong to nobody else, are zero, and may be remapped and unmapped in parts.
unsafe impl Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let populate = if size == GROWTH { libc::MAP_POPULATE } else { 0 };
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | populate);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        match unsafe { libc::mmap(ptr::null_mut(), size, access, flags, -1, 0) } {
            libc::MAP_FAILED => (ptr::null_mut(), 0, 0),
            start => (start.cast(), size, 0),
        }
    }

    fn remap(&self, start: *mut u8, old: usize, new: usize, can_move: bool) -> *mut u8 {
        let flags = if can_move { libc::MREMAP_MAYMOVE } else { 0 };
        // SAFETY: a mapping of `alloc`'s, whose addresses the allocator knows to change.
        match unsafe { libc::mremap(start.cast(), old, new, flags) } {
            libc::MAP_FAILED => ptr::null_mut(),
            start => start.cast(),
        }
    }

    fn free_part(&self, start: *mut u8, old: usize, new: usize) -> bool {
        self.free(start.wrapping_add(new), old - new)
    }

    fn free(&self, start: *mut u8, size: usize) -> bool {
        // SAFETY: the allocator uses nothing of it any more.
        unsafe { libc::munmap(start.cast(), size) == 0 }
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}
