//! Device models of a machine: what stands behind the registers and queues that a guest's drivers talk to.
//!
//! A device here is *transport-independent* (it knows virtqueues and a configuration space, not whether they are
//! reached by MMIO or PCI), *hypervisor-independent* (it raises an [`Interrupt`] and is woken by an event descriptor;
//! what those are connected to is the machine's business) and *opens nothing by itself*: files, sockets and tap
//! interfaces are handed to it. The specification is *Virtual I/O Device (VIRTIO) Version 1.3*; section numbers in
//! this crate are of that document.
//!
//! The life of one:
//!
//! 1. The machine builds a device and puts it behind a transport ([`virtio::mmio::MmioTransport`]), which it maps
//!    on its bus as a [`BusDevice`].
//! 2. The guest's driver negotiates features and queues; the transport enforces the order of that, and activates the
//!    device with validated [`virtio::Queue`]s.
//! 3. A kick is an event descriptor that the [`EventLoop`] watches; the device pops chains, does its work, completes
//!    them and interrupts.
//! 4. [`virtio::VirtioDevice::drain`] and `save` give a versioned state, from which `restore` continues elsewhere.
//!
//! *Invariants.* Everything the guest writes is an allegation: [`virtio::queue`] and [`memory`] turn it into types
//! that prove it, or into a [`virtio::GuestFault`], which stops the device and never the process. `unsafe` is confined
//! to `sys`. Nothing here knows KVM.

#![deny(unsafe_code)]

pub mod balloon;
pub mod block;
pub mod bus;
pub mod console;
pub mod event_loop;
pub mod fs;
pub mod interrupt;
pub mod mem;
pub mod memory;
pub mod net;
pub mod pmem;
pub mod rate_limiter;
pub mod rng;
mod sys;
pub mod virtio;
pub mod vsock;

pub use bus::BusDevice;
pub use event_loop::{EventLoop, Interest, Readiness, Registrar, Subscriber};
pub use interrupt::Interrupt;
pub use memory::Memory;
pub use vmm_sys_util::eventfd::EventFd;
