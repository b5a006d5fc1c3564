//! Threads that do what may have to wait for a disk.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::image::{Image, Pieces};
use super::request::{Request, Status};
use crate::memory::Memory;

/// A request under way. `tag` is the device's.
pub struct Job {
    pub tag: usize,
    pub request: Request,
    pub memory: Memory,
    /// Without a write-back cache every write is made durable (5.2.6.2).
    pub durable: bool,
}

/// A request that is done.
pub type Done = (usize, Status);

/// The workers of one device.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    wanted: usize,
}

struct Shared {
    image: Arc<dyn Image>,
    state: Mutex<State>,
    work: Condvar,
    idle: Condvar,
    done_event: EventFd,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<Done>,
    busy: usize,
    waiting: usize,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workers {
    /// Up to `count` threads, which are started as they are needed.
    pub fn new(image: Arc<dyn Image>, count: usize) -> io::Result<Self> {
        let shared = Shared {
            image,
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            done_event: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        };
        Ok(Self { shared: Arc::new(shared), threads: Vec::new(), wanted: count.max(1) })
    }

    /// Readable when something is done.
    pub fn event(&self) -> &EventFd {
        &self.shared.done_event
    }

    /// Hands over a job.
    pub fn submit(&mut self, job: Job) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        let spare = state.waiting >= state.jobs.len();
        drop(state);
        if !spare && self.threads.len() < self.wanted {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("block".into()).stack_size(128 << 10);
            match thread.spawn(move || run(&shared)) {
                Ok(thread) => self.threads.push(thread),
                // The others will do it, if there is one.
                Err(_) if !self.threads.is_empty() => {}
                Err(error) => {
                    self.shared.lock().jobs.pop_back();
                    return Err(error);
                }
            }
        }
        self.shared.work.notify_one();
        Ok(())
    }

    /// Takes what is done.
    pub fn take_done(&self) -> Vec<Done> {
        // Fails when nothing was signalled, which is no matter.
        let _ = self.shared.done_event.read();
        std::mem::take(&mut self.shared.lock().done)
    }

    /// Waits until nothing is under way.
    pub fn wait(&self) {
        let mut state = self.shared.lock();
        while state.busy > 0 || !state.jobs.is_empty() {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A worker does not panic; if it did, there is nothing to clean up.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            state.busy += 1;
            drop(state);
            let status = match perform(&*shared.image, &job) {
                Ok(()) => Status::Ok,
                Err(_) => Status::IoError,
            };
            let tag = job.tag;
            drop(job);
            state = shared.lock();
            state.busy -= 1;
            state.done.push((tag, status));
            // The counter would have to overflow for this to fail.
            let _ = shared.done_event.write(1);
            if state.busy == 0 && state.jobs.is_empty() {
                shared.idle.notify_all();
            }
        } else if state.stop {
            return;
        } else {
            state.waiting += 1;
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }
}

fn perform(image: &dyn Image, job: &Job) -> io::Result<()> {
    match &job.request {
        Request::Read { offset, ranges } => image.read(*offset, &Pieces::new(&job.memory, ranges)?),
        Request::Write { offset, ranges } => {
            image.write(*offset, &Pieces::new(&job.memory, ranges)?)?;
            if job.durable { image.flush() } else { Ok(()) }
        }
        Request::Flush => image.flush(),
        Request::GetId => Ok(()),
        Request::Discard(extents) => extents.iter().try_for_each(|e| image.discard(e.offset, e.length)),
        Request::WriteZeroes(extents) => {
            extents.iter().try_for_each(|e| image.write_zeroes(e.offset, e.length, e.unmap))?;
            if job.durable { image.flush() } else { Ok(()) }
        }
    }
}
