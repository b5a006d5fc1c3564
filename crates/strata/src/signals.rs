//! A flag that an interrupt raises.

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::failure::Failure;

static FLAG: AtomicPtr<AtomicBool> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn raise(_: libc::c_int) {
    // SAFETY: the pointer is null or came from a `&'static AtomicBool`; an atomic store is allowed in a signal handler.
    if let Some(flag) = unsafe { FLAG.load(Ordering::Relaxed).as_ref() } {
        flag.store(true, Ordering::Relaxed);
    }
}

/// Lets SIGINT, SIGTERM and SIGHUP raise `flag` instead of ending the process.
pub fn raise_on_interrupt(flag: &'static AtomicBool) -> Result<(), Failure> {
    FLAG.store(std::ptr::from_ref(flag).cast_mut(), Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does nothing but an atomic store, and the structure is fully initialised.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = raise as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(())
}
