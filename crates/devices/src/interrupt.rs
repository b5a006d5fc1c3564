//! How a device gets the attention of a vCPU.

use std::io;
use vmm_sys_util::eventfd::EventFd;

/// One interrupt line or message. With KVM an event descriptor that the kernel turns into an interrupt (irqfd), with a
/// software interrupt controller a call into that.
pub trait Interrupt: Send + Sync {
    /// Raises the interrupt: an edge, which needs no lowering.
    fn trigger(&self) -> io::Result<()>;
}

impl Interrupt for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}
