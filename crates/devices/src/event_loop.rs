//! The loop that drives devices: one thread waits with epoll(7) for kicks, sockets, tap interfaces and completions,
//! and hands each to its [`Subscriber`]. No other thread of the machine does device work, except the workers of the
//! block device.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::epoll;

/// Something that is told when a descriptor it registered is ready.
pub trait Subscriber: Send + Sync {
    /// `token` is what the descriptor was registered with. Called from the thread of the loop, one call at a time.
    fn ready(&self, token: u32, readiness: Readiness);
}

/// What to wait for on a descriptor. Level-triggered, but for [`Interest::ReadEdge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Only errors and hang-up.
    None,
    /// Data to read.
    Read,
    /// Data to read, told once for each arrival: the subscriber reads until nothing is left.
    ReadEdge,
    /// Room to write.
    Write,
    /// Either.
    ReadWrite,
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Data to read, or the end of it.
    pub read: bool,
    /// Room to write.
    pub write: bool,
    /// The other side hung up, or the descriptor is in error.
    pub hang_up: bool,
}

/// Waits for many descriptors.
pub struct EventLoop {
    shared: Arc<Shared>,
}

struct Shared {
    epoll: OwnedFd,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    last: u32,
    by_id: BTreeMap<u32, Arc<dyn Subscriber>>,
}

/// Events taken from the kernel in one call.
const BATCH: usize = 32;

impl EventLoop {
    /// An empty loop.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { shared: Arc::new(Shared { epoll, subscribers: Mutex::default() }) })
    }

    /// Makes room for a subscriber: the registrar with which it adds its descriptors, of which it may already be built.
    pub fn registrar(&self) -> Registrar {
        let mut subscribers = self.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.last += 1;
        Registrar { shared: self.shared.clone(), id: subscribers.last }
    }

    /// Adds a subscriber; its descriptors are registered with the result.
    pub fn subscribe(&self, subscriber: Arc<dyn Subscriber>) -> Registrar {
        let registrar = self.registrar();
        registrar.subscribe(subscriber);
        registrar
    }

    /// Waits until something is ready or `timeout` has passed (`None`: for ever), and calls the subscribers. Returns
    /// how many events there were.
    pub fn run_once(&self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|t| rustix::event::Timespec {
            tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; BATCH];
        let count = match epoll::wait(&self.shared.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let (flags, data) = (event.flags, event.data.u64());
            let id = (data >> 32) as u32;
            let subscriber = {
                let subscribers = self.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
                subscribers.by_id.get(&id).cloned()
            };
            // It may have been removed by an earlier event of this batch.
            let Some(subscriber) = subscriber else { continue };
            let readiness = Readiness {
                read: flags.contains(epoll::EventFlags::IN),
                write: flags.contains(epoll::EventFlags::OUT),
                hang_up: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
            };
            subscriber.ready(data as u32, readiness);
        }
        Ok(count)
    }
}

/// Adds and removes the descriptors of one subscriber, from any thread.
#[derive(Clone)]
pub struct Registrar {
    shared: Arc<Shared>,
    id: u32,
}

impl Registrar {
    /// Says who is told. Without a subscriber events are dropped.
    pub fn subscribe(&self, subscriber: Arc<dyn Subscriber>) {
        let mut subscribers = self.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.by_id.insert(self.id, subscriber);
    }

    /// Removes the subscriber. Its descriptors leave the loop as they are closed.
    pub fn unsubscribe(&self) {
        let mut subscribers = self.shared.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.by_id.remove(&self.id);
    }

    /// Waits for `source`; the subscriber gets `token`.
    pub fn add(&self, source: impl AsFd, token: u32, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.shared.epoll, source, self.data(token), interest.flags())?)
    }

    /// Changes what `source` is waited for.
    pub fn modify(&self, source: impl AsFd, token: u32, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.shared.epoll, source, self.data(token), interest.flags())?)
    }

    /// Waits no more for `source`.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.shared.epoll, source)?)
    }

    fn data(&self, token: u32) -> epoll::EventData {
        epoll::EventData::new_u64(u64::from(self.id) << 32 | u64::from(token))
    }
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Interest::None => epoll::EventFlags::empty(),
            Interest::Read => epoll::EventFlags::IN,
            Interest::ReadEdge => epoll::EventFlags::IN | epoll::EventFlags::ET,
            Interest::Write => epoll::EventFlags::OUT,
            Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[derive(Default)]
    struct Seen(Mutex<Vec<(u32, Readiness)>>);

    impl Subscriber for Seen {
        fn ready(&self, token: u32, readiness: Readiness) {
            self.0.lock().unwrap().push((token, readiness));
        }
    }

    #[test]
    fn events_reach_their_subscriber_until_it_leaves() {
        let events = EventLoop::new().unwrap();
        let seen = Arc::new(Seen::default());
        let registrar = events.subscribe(seen.clone());
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        registrar.add(&far, 7, Interest::Read).unwrap();
        assert_eq!(events.run_once(Some(Duration::ZERO)).unwrap(), 0);
        near.write_all(b"x").unwrap();
        assert_eq!(events.run_once(Some(Duration::from_secs(5))).unwrap(), 1);
        assert_eq!(seen.0.lock().unwrap()[..], [(7, Readiness { read: true, ..Readiness::default() })]);
        registrar.unsubscribe();
        events.run_once(Some(Duration::ZERO)).unwrap();
        assert_eq!(seen.0.lock().unwrap().len(), 1);
    }
}
