//! The balloon device.

use std::collections::BTreeMap;

use super::config::{F_DEFLATE_ON_OOM, F_REPORTING, F_STATS, MAX_PAGE_LIST, MAX_STATISTICS, PAGE};
use super::state::BalloonState;
use crate::bus::read_window;
use crate::memory::{GuestRange, Memory};
use crate::sys;
use crate::virtio::device::{Activation, DeviceState, DeviceType, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::queue::{Chain, push_slices};
use crate::virtio::{GuestFault, feature};

/// How a balloon is presented.
#[derive(Debug, Clone, Copy)]
pub struct BalloonOptions {
    /// The guest takes pages back by itself before it kills a process.
    pub deflate_on_oom: bool,
    /// The guest reports free pages.
    pub reporting: bool,
}

impl Default for BalloonOptions {
    fn default() -> Self {
        Self { deflate_on_oom: true, reporting: true }
    }
}

/// What the guest said of its memory: values by tag (5.5.6.3): 4 free, 5 total, 6 available, 7 caches, in bytes, 0 to 3
/// swap and faults.
pub type Statistics = BTreeMap<u16, u64>;

/// What a queue is for. Queues of features that were not agreed on do not exist, and the others move up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

/// The balloon device.
pub struct Balloon {
    options: BalloonOptions,
    target: u32,
    actual: u32,
    statistics: Statistics,
    /// The buffer that goes back to the guest when news are wanted.
    statistics_chain: Option<Chain>,
    features: u64,
    active: Option<Activation>,
}

impl Balloon {
    /// A balloon without air.
    pub fn new(options: BalloonOptions) -> Self {
        Self {
            options,
            target: 0,
            actual: 0,
            statistics: Statistics::new(),
            statistics_chain: None,
            features: 0,
            active: None,
        }
    }

    /// Asks the guest to give up `bytes`, in all; rounded down to pages.
    pub fn set_target(&mut self, bytes: u64) -> Result<(), DeviceError> {
        self.target = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        match &self.active {
            Some(active) => Ok(active.interrupt.config()?),
            None => Ok(()),
        }
    }

    /// Bytes the guest says it gave.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual) * PAGE
    }

    /// The statistics that came last; empty before the first.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Asks the guest for new statistics; they come when it answers.
    pub fn request_statistics(&mut self) -> Result<(), DeviceError> {
        let Some(number) = self.queue_of(Role::Statistics) else { return Ok(()) };
        let Some(active) = &mut self.active else { return Ok(()) };
        if let (Some(Some(queue)), Some(chain)) =
            (active.queues.get_mut(usize::from(number)), self.statistics_chain.take())
        {
            queue.complete(&active.memory, chain, 0)?;
        }
        active.notify(number)
    }

    fn roles(&self) -> impl Iterator<Item = Role> {
        let features = self.features;
        [
            (Role::Inflate, true),
            (Role::Deflate, true),
            (Role::Statistics, features & F_STATS != 0),
            (Role::Reporting, features & F_REPORTING != 0),
        ]
        .into_iter()
        .filter_map(|(role, exists)| exists.then_some(role))
    }

    fn queue_of(&self, role: Role) -> Option<u16> {
        self.roles().position(|other| other == role).map(|number| number as u16)
    }
}

/// Gives back the pages whose numbers the chain lists.
fn inflate(memory: &Memory, chain: &Chain) -> Result<(), DeviceError> {
    let mut reader = chain.reader(memory);
    if reader.left() > MAX_PAGE_LIST {
        return Err(GuestFault::Protocol("A balloon request lists more than 262144 pages").into());
    }
    // Runs of pages, in either direction, are given back at once.
    let mut run: Option<(u64, u64)> = None;
    while reader.left() >= 4 {
        let page = u64::from(u32::from_le_bytes(reader.read_array()?));
        run = match run {
            Some((first, end)) if page == end && end - first < 1 << 18 => Some((first, page + 1)),
            Some((first, end)) if page + 1 == first && end - first < 1 << 18 => Some((page, end)),
            other => {
                give_back_run(memory, other)?;
                Some((page, page + 1))
            }
        };
    }
    give_back_run(memory, run)
}

fn give_back_run(memory: &Memory, run: Option<(u64, u64)>) -> Result<(), DeviceError> {
    let Some((first, end)) = run else { return Ok(()) };
    let (address, length) = (first * PAGE, ((end - first) * PAGE) as u32);
    let range = GuestRange::new(memory, address, length).ok_or(GuestFault::Buffer { address, length })?;
    give_back(memory, range)
}

fn give_back(memory: &Memory, range: GuestRange) -> Result<(), DeviceError> {
    let mut slices = Vec::new();
    push_slices(memory, range, &mut slices);
    // A host that cannot (locked memory) keeps the pages: the guest is not worse off.
    slices.iter().for_each(|slice| drop(sys::give_back(slice)));
    Ok(())
}

fn parse_statistics(memory: &Memory, chain: &Chain) -> Result<Statistics, GuestFault> {
    let mut reader = chain.reader(memory);
    let mut statistics = Statistics::new();
    while reader.left() >= 10 && statistics.len() < MAX_STATISTICS {
        let tag = u16::from_le_bytes(reader.read_array()?);
        statistics.insert(tag, u64::from_le_bytes(reader.read_array()?));
        if reader.passed() >= MAX_STATISTICS * 10 {
            break;
        }
    }
    Ok(statistics)
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        if self.options.reporting { &[128, 128, 16, 64] } else { &[128, 128, 16] }
    }

    fn features(&self) -> u64 {
        let oom = if self.options.deflate_on_oom { F_DEFLATE_ON_OOM } else { 0 };
        let reporting = if self.options.reporting { F_REPORTING } else { 0 };
        feature::COMMON | F_STATS | oom | reporting
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; 16];
        space[..4].copy_from_slice(&self.target.to_le_bytes());
        space[4..8].copy_from_slice(&self.actual.to_le_bytes());
        read_window(&space, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, <[u8; 4]>::try_from(data)) {
            self.actual = u32::from_le_bytes(actual);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.active = Some(activation);
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        self.statistics_chain = None;
        self.statistics.clear();
        (self.actual, self.features) = (0, 0);
        self.active = None;
    }

    fn queue_ready(&mut self, number: u16) -> Result<(), DeviceError> {
        let Some(role) = self.roles().nth(usize::from(number)) else { return Ok(()) };
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(number)) else { return Ok(()) };
        let memory = &active.memory;
        loop {
            let Some(chain) = queue.pop(memory)? else {
                if queue.enable_kicks(memory)? {
                    continue;
                }
                break;
            };
            match role {
                Role::Inflate => inflate(memory, &chain)?,
                Role::Deflate => {}
                Role::Reporting => {
                    chain.writable().iter().try_for_each(|range| give_back(memory, *range))?;
                }
                Role::Statistics => {
                    self.statistics = parse_statistics(memory, &chain)?;
                    // The driver has one buffer; a second one would be a mistake of its own.
                    if let Some(old) = self.statistics_chain.replace(chain) {
                        queue.complete(memory, old, 0)?;
                    }
                    continue;
                }
            }
            queue.complete(memory, chain, 0)?;
        }
        active.notify(number)
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        let number = self.queue_of(Role::Statistics);
        if let (Some(active), Some(number)) = (&mut self.active, number)
            && let (Some(Some(queue)), Some(chain)) =
                (active.queues.get_mut(usize::from(number)), self.statistics_chain.take())
        {
            queue.undo_pop(chain);
        }
        Ok(())
    }

    fn save(&self) -> DeviceState {
        let (features, target, actual) = (self.features, self.target, self.actual);
        DeviceState::Balloon(BalloonState { features, target, actual })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Balloon(saved) => {
                (self.target, self.actual) = (saved.target, saved.actual);
                Ok(())
            }
            other => Err(other.mismatch("a balloon")),
        }
    }
}
