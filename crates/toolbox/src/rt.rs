//! What a program without a C library must bring itself: the memory functions the compiler calls by name, and an
//! allocator. The program is single threaded by design (it forks where it needs company), and the allocator
//! depends on that.

use crate::sys;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

// memcpy, memmove, memset, memcmp, bcmp and strlen in assembly: written in Rust, the optimiser would recognise the
// loops and replace them by calls to themselves.
#[cfg(freestanding)]
core::arch::global_asm!(
    ".section .text.mem,\"ax\",@progbits",
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "sub rax, rsi",
    "cmp rax, rdx",
    "jae memcpy",
    // The destination overlaps the end of the source: backwards.
    "mov rax, rdi",
    "mov rcx, rdx",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "cmp rdx, 16",
    "ja 4f",
    "cmp rdx, 8",
    "jae 3f",
    "cmp rdx, 4",
    "jae 2f",
    "test rdx, rdx",
    "je 1f",
    // One to three bytes: first, middle and last, all loaded before any is stored.
    "movzx ecx, byte ptr [rsi]",
    "movzx r8d, byte ptr [rsi + rdx - 1]",
    "mov r9, rdx",
    "shr r9, 1",
    "movzx r10d, byte ptr [rsi + r9]",
    "mov byte ptr [rdi], cl",
    "mov byte ptr [rdi + r9], r10b",
    "mov byte ptr [rdi + rdx - 1], r8b",
    "1: ret",
    "2: mov ecx, dword ptr [rsi]",
    "mov r8d, dword ptr [rsi + rdx - 4]",
    "mov dword ptr [rdi], ecx",
    "mov dword ptr [rdi + rdx - 4], r8d",
    "ret",
    "3: mov rcx, qword ptr [rsi]",
    "mov r8, qword ptr [rsi + rdx - 8]",
    "mov qword ptr [rdi], rcx",
    "mov qword ptr [rdi + rdx - 8], r8",
    "ret",
    "4: cmp rdx, 32",
    "ja 5f",
    "movups xmm0, xmmword ptr [rsi]",
    "movups xmm1, xmmword ptr [rsi + rdx - 16]",
    "movups xmmword ptr [rdi], xmm0",
    "movups xmmword ptr [rdi + rdx - 16], xmm1",
    "ret",
    "5: mov rcx, rdx",
    "rep movsb",
    "ret",
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".globl bcmp",
    ".globl memcmp",
    "bcmp:",
    "memcmp:",
    "1: cmp rdx, 8",
    "jb 2f",
    "mov rax, qword ptr [rdi]",
    "mov rcx, qword ptr [rsi]",
    "cmp rax, rcx",
    "jne 3f",
    "add rdi, 8",
    "add rsi, 8",
    "sub rdx, 8",
    "jmp 1b",
    "2: test rdx, rdx",
    "je 4f",
    "movzx eax, byte ptr [rdi]",
    "movzx ecx, byte ptr [rsi]",
    "sub eax, ecx",
    "jne 5f",
    "inc rdi",
    "inc rsi",
    "dec rdx",
    "jmp 2b",
    "3: bswap rax",
    "bswap rcx",
    "cmp rax, rcx",
    "sbb eax, eax",
    "or eax, 1",
    "ret",
    "4: xor eax, eax",
    "5: ret",
    ".globl strlen",
    "strlen:",
    "xor eax, eax",
    "1: cmp byte ptr [rdi + rax], 0",
    "je 2f",
    "inc rax",
    "jmp 1b",
    "2: ret",
    // The precompiled core library names the unwinder's hooks; with aborting panics nothing ever calls them.
    ".globl rust_eh_personality",
    ".globl _Unwind_Resume",
    "rust_eh_personality:",
    "_Unwind_Resume: ud2",
);

/// Blocks up to this size come from free lists, one a power of two; larger ones are mappings of their own.
const LARGEST_CLASS: usize = 64 << 10;
const SMALLEST_CLASS: usize = 16;
const CLASSES: usize = 13;
const CHUNK: usize = 256 << 10;

/// The first chunk lies in .bss, so that a short run allocates without a system call.
#[repr(align(4096))]
struct First(UnsafeCell<[u8; 64 << 10]>);
// SAFETY: only the allocator touches it, and the program has one thread.
unsafe impl Sync for First {}
static FIRST_TAKEN: AtomicBool = AtomicBool::new(false);
static FIRST: First = First(UnsafeCell::new([0; 64 << 10]));

struct State {
    free: [*mut u8; CLASSES],
    next: *mut u8,
    left: usize,
}

/// A size-class allocator for one thread.
pub struct Allocator(UnsafeCell<State>);
// SAFETY: the program never starts a second thread (see the module's text).
unsafe impl Sync for Allocator {}

impl Default for Allocator {
    fn default() -> Self {
        Self::new()
    }
}

impl Allocator {
    /// An allocator that has not handed out anything yet.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(State { free: [null_mut(); CLASSES], next: null_mut(), left: 0 }))
    }
}

fn class(size: usize) -> (usize, usize) {
    let size = size.max(SMALLEST_CLASS).next_power_of_two();
    ((size / SMALLEST_CLASS).trailing_zeros() as usize, size)
}

// SAFETY: blocks of a class are aligned to their own size (a power of two, at most 64 KiB, cut from chunks aligned so
// far as `carve` arranges), larger ones to a page; alignments above a page are refused with null.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let wanted = layout.size().max(layout.align());
        if wanted > LARGEST_CLASS {
            return if layout.align() > 4096 { null_mut() } else { sys::map_pages(wanted).unwrap_or(null_mut()) };
        }
        let (class, size) = class(wanted);
        // SAFETY: single thread, and no reference to the state outlives this call.
        let state = unsafe { &mut *self.0.get() };
        let head = state.free[class];
        if !head.is_null() {
            // SAFETY: a block on a free list holds the next one's address in its first word.
            state.free[class] = unsafe { head.cast::<*mut u8>().read() };
            return head;
        }
        carve(state, size)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let wanted = layout.size().max(layout.align());
        if wanted > LARGEST_CLASS {
            sys::unmap_pages(block, wanted);
            return;
        }
        let (class, _) = class(wanted);
        // SAFETY: single thread; the block is at least 16 bytes, aligned, and the caller gave it up.
        unsafe {
            let state = &mut *self.0.get();
            block.cast::<*mut u8>().write(state.free[class]);
            state.free[class] = block;
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old, new) = (layout.size().max(layout.align()), size.max(layout.align()));
        if old > LARGEST_CLASS && new > LARGEST_CLASS {
            return sys::remap_pages(block, old, new).unwrap_or(null_mut());
        }
        if old <= LARGEST_CLASS && new <= LARGEST_CLASS && class(old) == class(new) {
            return block;
        }
        // SAFETY: the caller's contract gives a live block of `layout`; the new one is distinct from it.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                core::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

fn carve(state: &mut State, size: usize) -> *mut u8 {
    // Alignment above a page is only promised up to a page; blocks of up to a page are aligned to their size.
    let align = size.min(4096);
    let skip = state.next.align_offset(align);
    if state.next.is_null() || skip + size > state.left {
        (state.next, state.left) = if size <= 32 << 10 && !FIRST_TAKEN.swap(true, Relaxed) {
            (FIRST.0.get().cast(), 64 << 10)
        } else {
            match sys::map_pages(CHUNK) {
                Ok(chunk) => (chunk, CHUNK),
                Err(_) => return null_mut(),
            }
        };
        return carve(state, size);
    }
    let block = state.next.wrapping_add(skip);
    state.next = block.wrapping_add(size);
    state.left -= skip + size;
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_distinct_and_reused() {
        let allocator = Allocator::new();
        let mut blocks = Vec::new();
        // SAFETY: every block is written within its size and freed once with its own layout.
        unsafe {
            for size in [1, 16, 17, 100, 4000, 5000, 70_000, 3 << 20] {
                let layout = Layout::from_size_align(size, 16).unwrap();
                let block = allocator.alloc(layout);
                assert!(!block.is_null());
                assert_eq!(block as usize % 16, 0);
                block.write_bytes(size as u8, size);
                blocks.push((block, layout));
            }
            for (block, layout) in &blocks {
                assert_eq!(block.add(layout.size() - 1).read(), layout.size() as u8);
            }
            let (block, layout) = blocks[3];
            allocator.dealloc(block, layout);
            assert_eq!(allocator.alloc(layout), block);
        }
    }

    #[test]
    fn growing_a_block_keeps_its_bytes() {
        let allocator = Allocator::new();
        // SAFETY: the block is only used through the pointer the last realloc returned.
        unsafe {
            let mut layout = Layout::from_size_align(10, 1).unwrap();
            let mut block = allocator.alloc(layout);
            block.write_bytes(7, 10);
            for size in [20, 5000, 100_000, 1 << 20, 50] {
                block = allocator.realloc(block, layout, size);
                layout = Layout::from_size_align(size, 1).unwrap();
                assert!((0..10).all(|i| block.add(i).read() == 7));
            }
        }
    }
}
