//! The block device.

use std::sync::Arc;

use super::config::{
    F_BLOCK_SIZE, F_DISCARD, F_FLUSH, F_MULTI_QUEUE, F_READ_ONLY, F_SEG_MAX, F_WRITE_ZEROES, QUEUE_SIZE, SECTOR,
    config_space,
};
use super::image::{Image, Pieces};
use super::request::{ID_BYTES, Request, Status, parse};
use super::state::BlockState;
use super::worker::{Job, Workers};
use crate::bus::read_window;
use crate::event_loop::{Interest, Readiness};
use crate::rate_limiter::{Limit, RateLimiter};
use crate::virtio::device::{Activation, DeviceState, DeviceType, FIRST_OWN_TOKEN, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::queue::Chain;
use crate::virtio::transport::Kick;
use crate::virtio::{GuestFault, feature};

/// How a disk is presented.
#[derive(Debug, Clone)]
pub struct BlockOptions {
    /// What the guest reads as the disk's serial number; at most 20 bytes.
    pub id: String,
    /// Writes are refused.
    pub read_only: bool,
    /// Request queues: one a vCPU serves best.
    pub queues: u16,
    /// Worker threads, at most.
    pub workers: usize,
    /// Bytes a second.
    pub bytes: Option<Limit>,
    /// Requests a second.
    pub operations: Option<Limit>,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self { id: String::new(), read_only: false, queues: 1, workers: 4, bytes: None, operations: None }
    }
}

/// The block device.
pub struct Block {
    image: Arc<dyn Image>,
    options: BlockOptions,
    queue_sizes: Vec<u16>,
    size: u64,
    limiter: Option<RateLimiter>,
    workers: Workers,
    /// Chains under way, by tag. Not by head: a hostile driver offers one twice.
    in_flight: Vec<Option<(u16, Chain)>>,
    features: u64,
    active: Option<Activation>,
}

const WORKERS: u32 = FIRST_OWN_TOKEN;
const LIMITER: u32 = FIRST_OWN_TOKEN + 1;

impl Block {
    /// A disk with the content of `image`.
    pub fn new(image: Arc<dyn Image>, options: BlockOptions) -> std::io::Result<Self> {
        let limited = options.bytes.is_some() || options.operations.is_some();
        Ok(Self {
            size: image.size(),
            limiter: limited.then(|| RateLimiter::new(options.bytes, options.operations)).transpose()?,
            workers: Workers::new(image.clone(), options.workers)?,
            queue_sizes: vec![QUEUE_SIZE; usize::from(options.queues.clamp(1, 64))],
            image,
            options,
            in_flight: Vec::new(),
            features: 0,
            active: None,
        })
    }

    /// Changes the limits while it runs.
    pub fn set_limits(&mut self, bytes: Option<Limit>, operations: Option<Limit>) -> Result<(), DeviceError> {
        let limiter = (bytes.is_some() || operations.is_some()).then(|| RateLimiter::new(bytes, operations));
        // The old timer leaves the event loop as it is closed.
        self.limiter = limiter.transpose()?;
        if let (Some(active), Some(limiter)) = (&self.active, &self.limiter) {
            active.events.add(limiter, LIMITER, Interest::Read)?;
        }
        self.all_queues()
    }

    fn all_queues(&mut self) -> Result<(), DeviceError> {
        (0..self.queue_sizes.len() as u16).try_for_each(|queue| self.take_requests(queue))
    }

    fn take_requests(&mut self, number: u16) -> Result<(), DeviceError> {
        loop {
            let Some(active) = &mut self.active else { return Ok(()) };
            let Some(Some(queue)) = active.queues.get_mut(usize::from(number)) else { return Ok(()) };
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let request = match parse(&chain, &active.memory, self.size)? {
                Ok(request) if request.modifies() && self.options.read_only => Err(Status::IoError),
                other => other,
            };
            if let (Ok(request), Some(limiter)) = (&request, &mut self.limiter)
                && !limiter.admit(request.bytes())?
            {
                queue.undo_pop(chain);
                break;
            }
            match request {
                Err(status) => self.complete(number, chain, status)?,
                Ok(Request::GetId) => {
                    let mut id = [0; ID_BYTES];
                    let text = self.options.id.as_bytes();
                    let length = text.len().min(ID_BYTES);
                    id[..length].copy_from_slice(&text[..length]);
                    chain.writer(&active.memory).write(&id)?;
                    self.complete(number, chain, Status::Ok)?;
                }
                Ok(request) => self.start(number, chain, request)?,
            }
        }
        match &mut self.active {
            Some(active) => active.notify(number),
            None => Ok(()),
        }
    }

    fn start(&mut self, number: u16, chain: Chain, request: Request) -> Result<(), DeviceError> {
        let Some(active) = &self.active else { return Ok(()) };
        let durable = self.features & F_FLUSH == 0;
        let at_once = match &request {
            Request::Read { offset, ranges } => self.image.read_now(*offset, &Pieces::new(&active.memory, ranges)?),
            Request::Write { offset, ranges } if !durable => {
                self.image.write_now(*offset, &Pieces::new(&active.memory, ranges)?)
            }
            _ => false,
        };
        if at_once {
            return self.complete(number, chain, Status::Ok);
        }
        let tag = match self.in_flight.iter().position(Option::is_none) {
            Some(tag) => tag,
            None => {
                self.in_flight.push(None);
                self.in_flight.len() - 1
            }
        };
        match self.workers.submit(Job { tag, request, memory: active.memory.clone(), durable }) {
            Ok(()) => {
                self.in_flight[tag] = Some((number, chain));
                Ok(())
            }
            Err(_) => self.complete(number, chain, Status::IoError),
        }
    }

    fn complete(&mut self, number: u16, chain: Chain, status: Status) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(number)) else { return Ok(()) };
        let room = chain.writable_len();
        let mut writer = chain.writer(&active.memory);
        writer.skip(room.checked_sub(1).ok_or(GuestFault::Protocol("A request lost its status byte"))?)?;
        writer.write(&[status as u8])?;
        Ok(queue.complete(&active.memory, chain, room)?)
    }

    fn collect(&mut self) -> Result<(), DeviceError> {
        let done = self.workers.take_done();
        if done.is_empty() {
            return Ok(());
        }
        for (tag, status) in done {
            if let Some((number, chain)) = self.in_flight.get_mut(tag).and_then(Option::take) {
                self.complete(number, chain, status)?;
            }
        }
        let Some(active) = &mut self.active else { return Ok(()) };
        (0..self.queue_sizes.len() as u16).try_for_each(|queue| active.notify(queue))
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let kind = match self.options.read_only {
            true => F_READ_ONLY,
            false => F_DISCARD | F_WRITE_ZEROES,
        };
        feature::COMMON | F_SEG_MAX | F_BLOCK_SIZE | F_FLUSH | F_MULTI_QUEUE | kind
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let queues = self.queue_sizes.len() as u16;
        read_window(&config_space(self.size / SECTOR, self.image.block_size(), queues), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        activation.events.add(Kick(self.workers.event()), WORKERS, Interest::Read)?;
        if let Some(limiter) = &self.limiter {
            activation.events.add(limiter, LIMITER, Interest::Read)?;
        }
        self.active = Some(activation);
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        // The workers write into the guest's memory: nothing may be under way when the driver takes its buffers back.
        self.workers.wait();
        self.workers.take_done();
        self.in_flight.clear();
        if let Some(active) = self.active.take() {
            let _ = active.events.remove(Kick(self.workers.event()));
            if let Some(limiter) = &self.limiter {
                let _ = active.events.remove(limiter);
            }
        }
        self.features = 0;
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), DeviceError> {
        self.take_requests(queue)
    }

    fn source_ready(&mut self, token: u32, _readiness: Readiness) -> Result<(), DeviceError> {
        match token {
            WORKERS => self.collect(),
            LIMITER => {
                if let Some(limiter) = &mut self.limiter {
                    limiter.timer_expired();
                }
                self.all_queues()
            }
            _ => Ok(()),
        }
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        self.workers.wait();
        self.collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Block(BlockState { features: self.features, disk_bytes: self.size })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Block(saved) if saved.disk_bytes == self.size => Ok(()),
            other => Err(other.mismatch("a disk of the same size")),
        }
    }
}
