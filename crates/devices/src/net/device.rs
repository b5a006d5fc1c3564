//! The network device.

use std::collections::VecDeque;
use std::io::ErrorKind;

use super::backend::Backend;
use super::config::{F_MAC, F_MRG_RXBUF, F_MTU, F_STATUS, HEADER, MAX_FRAME, NUM_BUFFERS, OFFLOADS, config_space};
use super::state::NetState;
use crate::block::Pieces;
use crate::bus::read_window;
use crate::event_loop::{Interest, Readiness};
use crate::rate_limiter::{Limit, RateLimiter};
use crate::virtio::device::{Activation, DeviceState, DeviceType, FIRST_OWN_TOKEN, VirtioDevice};
use crate::virtio::fault::DeviceError;
use crate::virtio::queue::Chain;
use crate::virtio::{GuestFault, feature};

/// How an interface is presented.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// The guest's address.
    pub mac: [u8; 6],
    /// The greatest IP packet, in bytes.
    pub mtu: u16,
    /// Bytes and packets a second to the guest.
    pub receive: (Option<Limit>, Option<Limit>),
    /// Bytes and packets a second from the guest.
    pub transmit: (Option<Limit>, Option<Limit>),
}

impl Default for NetOptions {
    fn default() -> Self {
        Self { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, receive: (None, None), transmit: (None, None) }
    }
}

/// The network device.
pub struct Net {
    backend: Box<dyn Backend>,
    options: NetOptions,
    link_up: bool,
    receive_limiter: Option<RateLimiter>,
    transmit_limiter: Option<RateLimiter>,
    /// Chains of the receive queue that wait for packets, so that one packet may fill several.
    room: VecDeque<Chain>,
    room_bytes: usize,
    /// Completed chains of one packet.
    filled: Vec<(Chain, usize)>,
    registered: Option<Interest>,
    read_wanted: bool,
    write_wanted: bool,
    features: u64,
    active: Option<Activation>,
}

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

const BACKEND: u32 = FIRST_OWN_TOKEN;
const RECEIVE_LIMITER: u32 = FIRST_OWN_TOKEN + 1;
const TRANSMIT_LIMITER: u32 = FIRST_OWN_TOKEN + 2;

/// Packets handled before other devices get their turn.
const BUDGET: usize = 256;

impl Net {
    /// An interface with its network.
    pub fn new(backend: Box<dyn Backend>, options: NetOptions) -> std::io::Result<Self> {
        let limiter = |(bytes, packets): (Option<Limit>, Option<Limit>)| {
            (bytes.is_some() || packets.is_some()).then(|| RateLimiter::new(bytes, packets)).transpose()
        };
        Ok(Self {
            receive_limiter: limiter(options.receive)?,
            transmit_limiter: limiter(options.transmit)?,
            backend,
            options,
            link_up: true,
            room: VecDeque::new(),
            room_bytes: 0,
            filled: Vec::new(),
            registered: None,
            read_wanted: false,
            write_wanted: false,
            features: 0,
            active: None,
        })
    }

    /// Plugs the cable in or out, as the guest sees it.
    pub fn set_link(&mut self, up: bool) -> Result<(), DeviceError> {
        self.link_up = up;
        match &self.active {
            Some(active) => Ok(active.interrupt.config()?),
            None => Ok(()),
        }
    }

    fn mergeable(&self) -> bool {
        self.features & F_MRG_RXBUF != 0
    }

    /// Takes buffers until the greatest packet fits (mergeable), or one.
    fn gather_room(&mut self) -> Result<bool, DeviceError> {
        let wanted = if self.mergeable() { HEADER + MAX_FRAME } else { 1 };
        let Some(active) = &mut self.active else { return Ok(false) };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(RECEIVE)) else { return Ok(false) };
        while self.room_bytes < wanted {
            match queue.pop(&active.memory)? {
                Some(chain) => {
                    let length = chain.writable_len();
                    if length < HEADER {
                        return Err(GuestFault::ShortBuffer { part: "packet", needed: HEADER, found: length }.into());
                    }
                    self.room_bytes += length;
                    self.room.push_back(chain);
                }
                None if queue.enable_kicks(&active.memory)? => {}
                None => break,
            }
        }
        Ok(!self.room.is_empty())
    }

    /// Gives the buffers that wait back to the queue.
    fn return_room(&mut self) {
        self.room_bytes = 0;
        let Some(active) = &mut self.active else { return };
        let Some(Some(queue)) = active.queues.get_mut(usize::from(RECEIVE)) else { return };
        while let Some(chain) = self.room.pop_back() {
            queue.undo_pop(chain);
        }
    }

    fn receive(&mut self) -> Result<(), DeviceError> {
        let mut budget = BUDGET;
        self.read_wanted = loop {
            if budget == 0 {
                break true;
            }
            if !self.gather_room()? {
                break false;
            }
            if let Some(limiter) = &mut self.receive_limiter
                // What the packet will cost is not known before; it is charged with the next.
                && !limiter.admit(0)?
            {
                break false;
            }
            let Some(active) = &mut self.active else { return Ok(()) };
            let chains = if self.features & F_MRG_RXBUF != 0 { self.room.len() } else { 1 };
            let ranges: Vec<_> = self.room.iter().take(chains).flat_map(|chain| chain.writable()).copied().collect();
            let room = Pieces::new(&active.memory, &ranges)?;
            let length = match self.backend.receive(&room) {
                Ok(length) if length >= HEADER => length,
                // Shorter than its header: dropped.
                Ok(_) => {
                    budget -= 1;
                    continue;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break true,
                    ErrorKind::InvalidData => {
                        budget -= 1;
                        continue;
                    }
                    // The interface is down or gone: no packets, and no reason to stop the guest.
                    _ => break false,
                },
            };
            budget -= 1;
            let mut rest = length;
            while rest > 0 {
                let Some(chain) = self.room.pop_front() else { break };
                let room = chain.writable_len();
                self.room_bytes -= room;
                self.filled.push((chain, rest.min(room)));
                rest -= rest.min(room);
            }
            let count = self.filled.len() as u16;
            if let Some((first, _)) = self.filled.first() {
                let mut writer = first.writer(&active.memory);
                writer.skip(NUM_BUFFERS)?;
                writer.write(&count.to_le_bytes())?;
            }
            let Some(Some(queue)) = active.queues.get_mut(usize::from(RECEIVE)) else { return Ok(()) };
            queue.complete_all(&active.memory, &mut self.filled)?;
            if let Some(limiter) = &mut self.receive_limiter {
                limiter.charge(length as u64);
            }
        };
        if let Some(active) = &mut self.active {
            active.notify(RECEIVE)?;
        }
        self.update_interest()
    }

    fn transmit(&mut self) -> Result<(), DeviceError> {
        let mut budget = BUDGET;
        self.write_wanted = !self.backend.flush().unwrap_or(true);
        while !self.write_wanted {
            let Some(active) = &mut self.active else { return Ok(()) };
            let Some(Some(queue)) = active.queues.get_mut(usize::from(TRANSMIT)) else { return Ok(()) };
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_kicks(&active.memory)? {
                    continue;
                }
                break;
            };
            let length = chain.readable_len();
            if length < HEADER {
                return Err(GuestFault::ShortBuffer { part: "packet", needed: HEADER, found: length }.into());
            }
            if let Some(limiter) = &mut self.transmit_limiter
                && !limiter.admit(length as u64)?
            {
                queue.undo_pop(chain);
                break;
            }
            // Longer than any packet: dropped, as a network would.
            if length <= HEADER + MAX_FRAME {
                match self.backend.send(&Pieces::new(&active.memory, chain.readable())?) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        queue.undo_pop(chain);
                        self.write_wanted = true;
                        break;
                    }
                    // Refused (a header that makes no sense) or gone: the packet is lost.
                    _ => {}
                }
            }
            queue.complete(&active.memory, chain, 0)?;
            budget -= 1;
            if budget == 0 {
                // The rest after the others: the descriptor is writable at once.
                self.write_wanted = true;
            }
        }
        if let Some(active) = &mut self.active {
            active.notify(TRANSMIT)?;
        }
        self.update_interest()
    }

    fn update_interest(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &self.active else { return Ok(()) };
        let wanted = match (self.read_wanted, self.write_wanted) {
            (true, true) => Some(Interest::ReadWrite),
            (true, false) => Some(Interest::Read),
            (false, true) => Some(Interest::Write),
            (false, false) => None,
        };
        if wanted != self.registered {
            let fd = self.backend.as_fd();
            match (self.registered, wanted) {
                (None, Some(interest)) => active.events.add(fd, BACKEND, interest)?,
                (Some(_), Some(interest)) => active.events.modify(fd, BACKEND, interest)?,
                (_, None) => active.events.remove(fd)?,
            }
            self.registered = wanted;
        }
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256]
    }

    fn features(&self) -> u64 {
        feature::COMMON | F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF | (self.backend.features() & OFFLOADS)
    }

    fn ack_features(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_window(&config_space(self.options.mac, self.link_up, self.options.mtu), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), DeviceError> {
        self.backend.set_features(self.features)?;
        for (limiter, token) in [(&self.receive_limiter, RECEIVE_LIMITER), (&self.transmit_limiter, TRANSMIT_LIMITER)] {
            if let Some(limiter) = limiter {
                activation.events.add(limiter, token, Interest::Read)?;
            }
        }
        self.active = Some(activation);
        Ok(())
    }

    fn active(&self) -> Option<&Activation> {
        self.active.as_ref()
    }

    fn reset(&mut self) {
        (self.read_wanted, self.write_wanted) = (false, false);
        // Nothing can be done about a descriptor that cannot be removed; its events find no buffers.
        let _ = self.update_interest();
        if let Some(active) = &self.active {
            for limiter in [&self.receive_limiter, &self.transmit_limiter].into_iter().flatten() {
                let _ = active.events.remove(limiter);
            }
        }
        self.room.clear();
        self.filled.clear();
        (self.room_bytes, self.features, self.registered) = (0, 0, None);
        self.active = None;
    }

    fn queue_ready(&mut self, queue: u16) -> Result<(), DeviceError> {
        match queue {
            RECEIVE => self.receive(),
            _ => self.transmit(),
        }
    }

    fn source_ready(&mut self, token: u32, readiness: Readiness) -> Result<(), DeviceError> {
        match token {
            RECEIVE_LIMITER => {
                if let Some(limiter) = &mut self.receive_limiter {
                    limiter.timer_expired();
                }
                self.receive()
            }
            TRANSMIT_LIMITER => {
                if let Some(limiter) = &mut self.transmit_limiter {
                    limiter.timer_expired();
                }
                self.transmit()
            }
            _ => {
                if readiness.read || readiness.hang_up {
                    self.receive()?;
                }
                if readiness.write { self.transmit() } else { Ok(()) }
            }
        }
    }

    fn drain(&mut self) -> Result<(), DeviceError> {
        self.return_room();
        // Going on after a snapshot begins with the next packet or kick.
        Ok(())
    }

    fn save(&self) -> DeviceState {
        let (features, mac, link_up) = (self.features, self.options.mac, self.link_up);
        DeviceState::Net(NetState { features, mac, link_up })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), DeviceError> {
        match state {
            DeviceState::Net(saved) => {
                self.link_up = saved.link_up;
                Ok(())
            }
            other => Err(other.mismatch("a network interface")),
        }
    }
}
