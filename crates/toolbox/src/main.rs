//! The entry point of the toolbox: from the stack the kernel prepared (System V psABI, AMD64, section 3.4.1) to
//! [`toolbox::run`]. Release builds are freestanding (see `build.rs`), so this is also where the allocator and the
//! panic handler are installed.
#![cfg_attr(freestanding, no_std)]
#![no_main]

#[cfg(freestanding)]
mod freestanding {
    use toolbox::{rt, sys};

    #[global_allocator]
    static ALLOCATOR: rt::Allocator = rt::Allocator::new();

    #[panic_handler]
    fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
        toolbox::io::Out::new(2).fmt(format_args!("toolbox: {info}\n"));
        sys::abort()
    }

    // The kernel enters here with rsp at argc and 16-byte aligned; `entry` never returns.
    core::arch::global_asm!(
        ".globl _start",
        "_start:",
        "xor ebp, ebp",
        "mov rdi, rsp",
        "and rsp, -16",
        "call {entry}",
        "ud2",
        entry = sym entry,
    );

    extern "C" fn entry(stack: *const usize) -> ! {
        // SAFETY: `_start` passes the initial stack pointer, at which the kernel has laid argc, argv, envp and auxv.
        unsafe { sys::start(stack) };
        sys::exit(toolbox::run())
    }
}

/// The entry point of debug builds, which start through the C library.
// SAFETY: the one definition of `main` in the program, with the type the C library calls it by.
#[cfg(not(freestanding))]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, argv: *const *const u8) -> i32 {
    // SAFETY: the C library passes the kernel's own argv, so the word below it is argc and envp and auxv follow it.
    unsafe { toolbox::sys::start(argv.cast::<usize>().wrapping_sub(1)) };
    toolbox::sys::exit(toolbox::run())
}
