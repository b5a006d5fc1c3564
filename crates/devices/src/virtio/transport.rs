//! What the transports share: the initialisation sequence (3.1), queues under construction, activation, reset, and the
//! way events reach the device.
//!
//! The driver walks ACKNOWLEDGE, DRIVER, features, FEATURES_OK, queues, DRIVER_OK. Each register is writable only in its
//! step; a write outside of it is ignored, so that a queue can never move under a running device.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::event_loop::{EventLoop, Interest, Readiness, Registrar, Subscriber};
use crate::memory::Memory;
use crate::virtio::device::{Activation, DeviceState, DeviceType, FIRST_OWN_TOKEN, VirtioDevice, VirtioInterrupt};
use crate::virtio::fault::DeviceError;
use crate::virtio::queue::{Queue, QueueState};
use crate::virtio::{feature, status};

/// A device as its transport, the event loop and the machine hold it.
pub type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// How a transport delivers interrupts.
pub trait InterruptRoute: Send + Sync {
    /// Chains of this queue were completed.
    fn queue(&self, queue: u16) -> io::Result<()>;
    /// The configuration space or the status changed.
    fn config(&self) -> io::Result<()>;
}

/// Hears of devices that stopped. Called at most once a second for a device, however often the guest provokes it.
pub trait Observer: Send + Sync {
    /// The device stopped for `error` and waits for its driver's reset.
    fn device_stopped(&self, device: DeviceType, error: &DeviceError);
}

/// The version of [`TransportState`].
pub const TRANSPORT_STATE_VERSION: u32 = 1;

/// All that a transport and its device remember across a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransportState {
    /// [`TRANSPORT_STATE_VERSION`].
    pub version: u32,
    /// The status register.
    pub status: u32,
    /// The features the driver accepted.
    pub driver_features: u64,
    /// The interrupt status register.
    pub interrupt_status: u32,
    /// The configuration space's generation.
    pub generation: u32,
    /// The selector registers: device features, driver features, queue.
    pub selectors: [u32; 3],
    /// The queues, and whether each is enabled.
    pub queues: Vec<(QueueState, bool)>,
    /// The device's own.
    pub device: DeviceState,
    /// What only a PCI transport has; empty for MMIO.
    pub pci: Option<crate::virtio::pci::PciState>,
}

/// The registers that the event loop's side changes too.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    pub status: AtomicU32,
    pub interrupt_status: AtomicU32,
    pub generation: AtomicU32,
}

/// The part of a transport that does not depend on how its registers are reached.
pub(crate) struct Transport {
    pub registers: Arc<Registers>,
    pub device_features_select: u32,
    pub driver_features_select: u32,
    pub queue_select: u32,
    driver_features: u64,
    queues: Vec<QueueSetup>,
    memory: Memory,
    device: SharedDevice,
    device_type: DeviceType,
    offered: u64,
    events: Registrar,
    shared: Arc<Events>,
}

struct QueueSetup {
    max: u16,
    state: QueueState,
    enabled: bool,
}

/// The event loop's side.
struct Events {
    device: SharedDevice,
    device_type: DeviceType,
    kicks: Vec<Arc<EventFd>>,
    registers: Arc<Registers>,
    route: Arc<dyn InterruptRoute>,
    observer: Option<Arc<dyn Observer>>,
    reported: Mutex<Option<Instant>>,
}

fn lock(device: &SharedDevice) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transport {
    pub fn new(
        memory: Memory,
        device: SharedDevice,
        registers: Arc<Registers>,
        route: Arc<dyn InterruptRoute>,
        events: &EventLoop,
        observer: Option<Arc<dyn Observer>>,
    ) -> io::Result<Self> {
        let (device_type, offered, sizes) = {
            let device = lock(&device);
            (device.device_type(), device.features() | feature::VERSION_1, device.queue_sizes().to_vec())
        };
        let kicks = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new));
        let kicks = kicks.collect::<io::Result<Vec<_>>>()?;
        let queues = sizes.iter().map(|&max| QueueSetup {
            max,
            state: QueueState { size: max, ..QueueState::default() },
            enabled: false,
        });
        let shared = Arc::new(Events {
            device: device.clone(),
            device_type,
            kicks,
            registers: registers.clone(),
            route,
            observer,
            reported: Mutex::new(None),
        });
        let events = events.subscribe(shared.clone());
        for (token, kick) in shared.kicks.iter().enumerate() {
            events.add(Kick(kick), token as u32, Interest::Read)?;
        }
        Ok(Self {
            registers,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            driver_features: 0,
            queues: queues.collect(),
            memory,
            device,
            device_type,
            offered,
            events,
            shared,
        })
    }

    pub fn device(&self) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
        lock(&self.device)
    }

    pub fn device_type(&self) -> DeviceType {
        self.device_type
    }

    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.shared.kicks
    }

    /// Does what an ioeventfd would.
    pub fn kick(&self, queue: u32) {
        if let Some(kick) = self.shared.kicks.get(queue as usize) {
            // It can only fail when 2^64 - 2 kicks wait.
            let _ = kick.write(1);
        }
    }

    pub fn status(&self) -> u32 {
        self.registers.status.load(Ordering::SeqCst)
    }

    fn in_step(&self, has: u32, lacks: u32) -> bool {
        let status = self.status();
        status & has == has && status & (lacks | status::FAILED | status::NEEDS_RESET) == 0
    }

    /// The selected half of the offered features.
    pub fn device_features(&self) -> u32 {
        half(self.offered, self.device_features_select)
    }

    /// The selected half of the accepted features.
    pub fn driver_features(&self) -> u32 {
        half(self.driver_features, self.driver_features_select)
    }

    pub fn set_driver_features(&mut self, value: u32) {
        if self.in_step(status::DRIVER, status::FEATURES_OK) {
            match self.driver_features_select {
                0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
                1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            }
        }
    }

    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(self.queue_select as usize)
    }

    pub fn queue_max(&self) -> u16 {
        self.selected().map_or(0, |queue| queue.max)
    }

    pub fn queue_size(&self) -> u16 {
        self.selected().map_or(0, |queue| queue.state.size)
    }

    pub fn queue_enabled(&self) -> bool {
        self.selected().is_some_and(|queue| queue.enabled)
    }

    pub fn queue_address(&self, part: QueuePart) -> u64 {
        self.selected().map_or(0, |queue| match part {
            QueuePart::Descriptors => queue.state.descriptors,
            QueuePart::Available => queue.state.available,
            QueuePart::Used => queue.state.used,
        })
    }

    /// The selected queue, if now is the time to set it up.
    fn queue_to_set_up(&mut self) -> Option<&mut QueueSetup> {
        if !self.in_step(status::FEATURES_OK, status::DRIVER_OK) {
            return None;
        }
        self.queues.get_mut(self.queue_select as usize)
    }

    pub fn set_queue_size(&mut self, size: u32) {
        if let Some(queue) = self.queue_to_set_up()
            && !queue.enabled
        {
            // Anything that does not fit is kept as zero, which activation refuses.
            queue.state.size = u16::try_from(size).unwrap_or(0);
        }
    }

    pub fn set_queue_enabled(&mut self, enabled: bool) {
        if let Some(queue) = self.queue_to_set_up() {
            queue.enabled = enabled;
        }
    }

    /// Sets the low or high 32 bits of an address of the selected queue.
    pub fn set_queue_address(&mut self, part: QueuePart, high: bool, value: u32) {
        if let Some(queue) = self.queue_to_set_up()
            && !queue.enabled
        {
            let address = match part {
                QueuePart::Descriptors => &mut queue.state.descriptors,
                QueuePart::Available => &mut queue.state.available,
                QueuePart::Used => &mut queue.state.used,
            };
            *address = match high {
                false => *address & !0xffff_ffff | u64::from(value),
                true => *address & 0xffff_ffff | u64::from(value) << 32,
            };
        }
    }

    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device().read_config(offset, data);
    }

    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.in_step(status::DRIVER, 0) {
            self.device().write_config(offset, data);
        }
    }

    /// A write to the status register. Bits can only be added, in order; zero resets. Returns true on a reset.
    pub fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let old = self.status();
        let added = value & !old;
        let set = |bits: u32| {
            self.registers.status.fetch_or(bits, Ordering::SeqCst);
        };
        if added & status::FAILED != 0 {
            set(status::FAILED);
            return false;
        }
        if old & (status::FAILED | status::NEEDS_RESET) != 0 {
            return false;
        }
        set(added & status::ACKNOWLEDGE);
        if self.in_step(status::ACKNOWLEDGE, 0) && added & status::DRIVER != 0 {
            self.registers.status.fetch_or(status::DRIVER, Ordering::SeqCst);
        }
        if added & status::FEATURES_OK != 0 && self.in_step(status::ACKNOWLEDGE | status::DRIVER, status::DRIVER_OK) {
            let accepted = self.driver_features;
            // Otherwise the bit stays clear, which is how the driver is told (3.1.1).
            if accepted & !self.offered == 0 && accepted & feature::VERSION_1 != 0 {
                self.device().ack_features(accepted);
                self.registers.status.fetch_or(status::FEATURES_OK, Ordering::SeqCst);
            }
        }
        if added & status::DRIVER_OK != 0 && self.in_step(status::FEATURES_OK, status::DRIVER_OK) {
            self.registers.status.fetch_or(status::DRIVER_OK, Ordering::SeqCst);
            if let Err(error) = self.activate() {
                self.shared.fail(&mut *lock(&self.device), &error);
            }
        }
        false
    }

    fn activate(&mut self) -> Result<(), DeviceError> {
        let mut queues = Vec::with_capacity(self.queues.len());
        for (number, setup) in self.queues.iter().enumerate() {
            let queue = match setup.enabled {
                true => Some(Queue::new(&self.memory, number as u16, setup.max, &setup.state, self.driver_features)?),
                false => None,
            };
            queues.push(queue);
        }
        let activation = Activation {
            memory: self.memory.clone(),
            queues,
            interrupt: VirtioInterrupt(self.shared.route.clone()),
            events: self.events.clone(),
        };
        self.device().activate(activation)?;
        // Chains may wait already: of a driver that kicked too early, or of one that a snapshot caught.
        for queue in 0..self.queues.len() as u32 {
            self.kick(queue);
        }
        Ok(())
    }

    pub fn reset(&mut self) {
        let mut device = self.device();
        device.reset();
        self.registers.status.store(0, Ordering::SeqCst);
        self.registers.interrupt_status.store(0, Ordering::SeqCst);
        drop(device);
        self.driver_features = 0;
        (self.device_features_select, self.driver_features_select, self.queue_select) = (0, 0, 0);
        for queue in &mut self.queues {
            queue.state = QueueState { size: queue.max, ..QueueState::default() };
            queue.enabled = false;
        }
    }

    /// The state, with nothing in flight.
    pub fn save(&mut self) -> Result<TransportState, DeviceError> {
        let mut device = lock(&self.device);
        device.drain()?;
        let running = device.active().map(Activation::queue_states).unwrap_or_default();
        let queues = self.queues.iter().enumerate().map(|(number, setup)| {
            let state = running.get(number).copied().flatten().unwrap_or(setup.state);
            (state, setup.enabled)
        });
        // What the device gave back for the snapshot it takes again, should it go on here.
        for kick in self.kicks() {
            let _ = kick.write(1);
        }
        Ok(TransportState {
            version: TRANSPORT_STATE_VERSION,
            status: self.status(),
            driver_features: self.driver_features,
            interrupt_status: self.registers.interrupt_status.load(Ordering::SeqCst),
            generation: self.registers.generation.load(Ordering::SeqCst),
            selectors: [self.device_features_select, self.driver_features_select, self.queue_select],
            queues: queues.collect(),
            device: device.save(),
            pci: None,
        })
    }

    /// Takes up a saved state, which is not trusted more than a guest is.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), DeviceError> {
        let mismatch = |found: String| DeviceError::State { found, expected: "this device" };
        if state.version != TRANSPORT_STATE_VERSION {
            return Err(mismatch(format!("version {}", state.version)));
        }
        if state.queues.len() != self.queues.len() {
            return Err(mismatch(format!("a device with {} queues", state.queues.len())));
        }
        if state.driver_features & !self.offered != 0 {
            return Err(mismatch(format!("a device with features {:#x}", state.driver_features)));
        }
        self.reset();
        self.driver_features = state.driver_features;
        [self.device_features_select, self.driver_features_select, self.queue_select] = state.selectors;
        for (setup, (queue, enabled)) in self.queues.iter_mut().zip(&state.queues) {
            (setup.state, setup.enabled) = (*queue, *enabled);
        }
        self.registers.status.store(state.status, Ordering::SeqCst);
        self.registers.interrupt_status.store(state.interrupt_status, Ordering::SeqCst);
        self.registers.generation.store(state.generation, Ordering::SeqCst);
        if state.status & status::FEATURES_OK != 0 {
            self.device().ack_features(state.driver_features);
        }
        self.device().restore(&state.device)?;
        if self.in_step(status::FEATURES_OK | status::DRIVER_OK, 0) {
            self.activate()?;
        }
        Ok(())
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.events.unsubscribe();
        lock(&self.device).reset();
    }
}

/// The three parts of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum QueuePart {
    Descriptors,
    Available,
    Used,
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

impl Subscriber for Events {
    fn ready(&self, token: u32, readiness: Readiness) {
        let mut device = lock(&self.device);
        let result = if token < FIRST_OWN_TOKEN {
            let Some(kick) = self.kicks.get(token as usize) else { return };
            // Fails only when another took the kick, then there is nothing to do but look.
            let _ = kick.read();
            let status = self.registers.status.load(Ordering::SeqCst);
            if status & status::DRIVER_OK == 0 || status & (status::NEEDS_RESET | status::FAILED) != 0 {
                return;
            }
            device.queue_ready(token as u16)
        } else {
            device.source_ready(token, readiness)
        };
        if let Err(error) = result {
            self.fail(&mut *device, &error);
        }
    }
}

impl Events {
    /// Stops the device and tells the driver and the observer.
    fn fail(&self, device: &mut dyn VirtioDevice, error: &DeviceError) {
        device.reset();
        self.registers.status.fetch_or(status::NEEDS_RESET, Ordering::SeqCst);
        // If even this fails the driver will find out by its own timeout.
        let _ = self.route.config();
        let Some(observer) = &self.observer else { return };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *reported = Some(Instant::now());
            observer.device_stopped(self.device_type, error);
        }
    }
}

/// Lends an event descriptor to the event loop.
pub(crate) struct Kick<'a>(pub &'a EventFd);

impl std::os::fd::AsFd for Kick<'_> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        crate::sys::borrow(self.0)
    }
}
