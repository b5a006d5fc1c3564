//! The test guest: 2 MiB of memory, four-level page tables and a short 64-bit program that starts directly in long mode
//! (AMD APM volume 2, chapter 14; Linux `Documentation/virt/kvm/api.rst`). It asks what an ordinary kernel needs
//! first: arithmetic, port output, `cpuid`, `cmpxchg16b` and `hlt`. What a substitute for KVM is likeliest to lack comes
//! last, so that the rest is known.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

/// Bytes of guest memory: one large page, mapped one to one.
pub const MEMORY: usize = 2 << 20;
/// Guest address of the program.
pub const CODE: u64 = 0x4000;
/// Guest address of the results: 16 bytes for `cmpxchg16b`, the sum, the CPU vendor's first four letters.
pub const RESULTS: u64 = 0x5000;
/// Port on which the program reports the stage it enters.
pub const STAGE_PORT: u16 = 0x10;
/// Port written in a loop to time an exit.
pub const TICK_PORT: u16 = 0x11;
/// Turns of the arithmetic loop, three instructions each.
pub const TURNS: u64 = 20_000;
/// Writes to [`TICK_PORT`].
pub const TICKS: u64 = 2_000;
/// What `cmpxchg16b` stores.
pub const STORED: [u64; 2] = [0x1234, 0x5678];

core::arch::global_asm!(
    ".pushsection .rodata.strata_test_guest, \"a\"",
    ".code64",
    ".global strata_test_guest_start",
    ".global strata_test_guest_end",
    "strata_test_guest_start:",
    "mov al, 1",
    "out {stage}, al",
    "xor eax, eax",
    "mov ecx, {turns}",
    "2:",
    "add rax, rcx",
    "dec rcx",
    "jnz 2b",
    "mov esi, {results}",
    "mov [rsi + 16], rax",
    "mov al, 2",
    "out {stage}, al",
    "mov ecx, {ticks}",
    "2:",
    "out {tick}, al",
    "dec ecx",
    "jnz 2b",
    "mov al, 3",
    "out {stage}, al",
    "xor eax, eax",
    "xor ecx, ecx",
    "cpuid",
    "mov [rsi + 24], rbx",
    "mov al, 4",
    "out {stage}, al",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, {low}",
    "mov ecx, {high}",
    "lock cmpxchg16b [rsi]",
    "mov al, 5",
    "out {stage}, al",
    "hlt",
    "strata_test_guest_end:",
    ".popsection",
    stage = const STAGE_PORT,
    tick = const TICK_PORT,
    turns = const TURNS,
    ticks = const TICKS,
    results = const RESULTS,
    low = const STORED[0],
    high = const STORED[1],
);

unsafe extern "C" {
    static strata_test_guest_start: u8;
    static strata_test_guest_end: u8;
}

fn program() -> &'static [u8] {
    let (start, end) = (&raw const strata_test_guest_start, &raw const strata_test_guest_end);
    // SAFETY: both symbols bound one run of bytes in a read-only section, assembled above.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The guest's memory; unmapped when dropped, which must be after the machine (see [`GuestMemory::give_to`]).
pub struct GuestMemory(NonNull<AtomicU64>);

impl GuestMemory {
    /// Memory with page tables at 0x1000 and the program at [`CODE`].
    pub fn with_program() -> std::io::Result<GuestMemory> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address the kernel picks.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), MEMORY, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let memory = GuestMemory(NonNull::new(start.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?);
        memory.write(0x1000, 0x2000 | 0x3); // PML4[0] -> the page directory pointers: present, writable
        memory.write(0x2000, 0x3000 | 0x3); // PDPT[0] -> the page directory
        memory.write(0x3000, 0x83); // PD[0]: one large page at address 0
        for (i, chunk) in program().chunks(8).enumerate() {
            let mut word = [0xf4; 8]; // the tail of the last word is `hlt`
            word[..chunk.len()].copy_from_slice(chunk);
            memory.write(CODE + 8 * i as u64, u64::from_le_bytes(word));
        }
        Ok(memory)
    }

    fn word(&self, address: u64) -> &AtomicU64 {
        let index = (address as usize % MEMORY) / 8;
        // SAFETY: the index is below MEMORY / 8, the mapping is aligned and lives as long as `self`, and every access,
        // the guest's included, is one that atomics permit.
        unsafe { self.0.add(index).as_ref() }
    }

    fn write(&self, address: u64, value: u64) {
        self.word(address).store(value, Ordering::Relaxed);
    }

    /// The word at a guest address; addresses wrap at [`MEMORY`].
    pub fn read(&self, address: u64) -> u64 {
        self.word(address).load(Ordering::Relaxed)
    }

    /// Makes this the machine's memory at guest address 0. The borrow keeps it mapped while the machine lives.
    pub fn give_to<'m>(&'m self, machine: &'m VmFd) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: self.0.as_ptr() as u64,
        };
        // SAFETY: the region is exactly our mapping. Should the mapping end before the machine, KVM finds no page and
        // reports a fault; no memory of this program is reachable.
        unsafe { machine.set_user_memory_region(region) }
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `with_program`; no reference into it outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), MEMORY) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_fits_between_its_start_and_the_results() {
        assert!(program().len() > 40 && (program().len() as u64) < RESULTS - CODE, "{}", program().len());
        assert_eq!(program().last(), Some(&0xf4), "ends with hlt");
    }
}
