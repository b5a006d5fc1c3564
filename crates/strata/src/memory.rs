//! Gives back the memory of code that has done its work.
//!
//! What a runtime weighs while it starts a container is mostly its own code: the kernel maps sixteen pages around each
//! one that is touched. Parsing a command line touches a third of it and is over before the container is made.

use std::ffi::c_void;

unsafe extern "C" {
    /// First byte of the program in memory; the linker's name for it.
    static __executable_start: u8;
    /// First byte behind the code; the linker's name for it.
    static etext: u8;
}

/// Takes the program's code out of this process's memory. What is needed again is mapped again from the page cache.
pub fn release_code() {
    const PAGE: usize = 4096;
    let start = (&raw const __executable_start).cast_mut();
    let length = (&raw const etext).addr().saturating_sub(start.addr()) & !(PAGE - 1);
    // SAFETY: the range is the program's headers and code, mapped privately from its file and never written, so that
    // every page dropped is read back as it was. A failure leaves everything as it is.
    unsafe { libc::madvise(start.cast::<c_void>(), length, libc::MADV_DONTNEED) };
}
