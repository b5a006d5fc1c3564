//! The only unsafe code of this crate: throw-away children, system calls that no library wraps, CPUID and the memory
//! of the test guest. Every function here is safe to call and changes nothing in the calling process.

pub mod calls;
pub mod child;
pub mod cpuid;
#[cfg(target_arch = "x86_64")]
pub mod guest;
