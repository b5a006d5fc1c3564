//! Limits of a device's I/O: token buckets for bytes and for operations, refilled by the clock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde::{Deserialize, Serialize};

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Tokens (bytes or operations) a second.
    pub rate: u64,
    /// Tokens that may be used at once after a pause. At least what a tenth of a second gives.
    pub burst: u64,
}

#[derive(Debug)]
struct Bucket {
    limit: Limit,
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        let limit = Limit { rate: limit.rate.max(1), burst: limit.burst.max(limit.rate / 10).max(1) };
        Self { limit, tokens: limit.burst, filled: Instant::now() }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let new = passed * u128::from(self.limit.rate) / 1_000_000_000;
        if new > 0 {
            self.tokens = u128::from(self.tokens).saturating_add(new).min(u128::from(self.limit.burst)) as u64;
            // What did not make a whole token is kept as time.
            let used = new * 1_000_000_000 / u128::from(self.limit.rate);
            self.filled += Duration::from_nanos(used.min(u128::from(u64::MAX)) as u64);
        }
    }

    /// How long until `count` tokens are there. A request greater than the burst needs a full bucket only, and empties it.
    fn wait(&mut self, count: u64, now: Instant) -> Option<Duration> {
        self.refill(now);
        let missing = count.clamp(1, self.limit.burst).checked_sub(self.tokens).filter(|&missing| missing > 0)?;
        let nanos = u128::from(missing) * 1_000_000_000 / u128::from(self.limit.rate) + 1;
        Some(Duration::from_nanos(nanos.min(u128::from(u64::MAX)) as u64))
    }
}

/// Bytes and operations a second, and the timer that says when to go on.
#[derive(Debug)]
pub struct RateLimiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    timer: OwnedFd,
    blocked: bool,
}

impl RateLimiter {
    /// Limits; `None` is no limit.
    pub fn new(bytes: Option<Limit>, operations: Option<Limit>) -> io::Result<Self> {
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { bytes: bytes.map(Bucket::new), operations: operations.map(Bucket::new), timer, blocked: false })
    }

    /// Takes the tokens for one operation of `bytes`, or arms the timer and returns false: nothing may be done until
    /// the timer is readable and [`RateLimiter::timer_expired`] was called.
    pub fn admit(&mut self, bytes: u64) -> io::Result<bool> {
        if self.blocked {
            return Ok(false);
        }
        let now = Instant::now();
        let wait = [(&mut self.bytes, bytes), (&mut self.operations, 1)]
            .into_iter()
            .filter_map(|(bucket, count)| bucket.as_mut()?.wait(count, now))
            .max();
        if let Some(wait) = wait {
            let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos().max(1)) };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
            self.blocked = true;
            return Ok(false);
        }
        for (bucket, count) in [(&mut self.bytes, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.tokens = bucket.tokens.saturating_sub(count);
            }
        }
        Ok(true)
    }

    /// Takes the tokens for bytes that were moved after [`RateLimiter::admit`] was asked for an operation of unknown size.
    pub fn charge(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.tokens = bucket.tokens.saturating_sub(bytes);
        }
    }

    /// The timer was readable: tokens are there again.
    pub fn timer_expired(&mut self) {
        // If it is not readable after all, nothing is lost: the next `admit` looks at the clock.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.blocked = false;
    }
}

impl AsFd for RateLimiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_with_time_and_never_exceed_the_burst() {
        let mut bucket = Bucket::new(Limit { rate: 1000, burst: 500 });
        let start = bucket.filled;
        assert_eq!(bucket.wait(500, start), None);
        bucket.tokens = 0;
        assert_eq!(bucket.wait(100, start).unwrap().as_millis(), 100);
        assert_eq!(bucket.wait(100, start + Duration::from_millis(101)), None);
        bucket.refill(start + Duration::from_secs(1000));
        assert_eq!(bucket.tokens, 500);
        // Greater than the burst: let through when the bucket is full.
        assert_eq!(bucket.wait(10_000, start + Duration::from_secs(1000)), None);
    }

    #[test]
    fn odd_limits_do_not_overflow_or_stall() {
        for rate in [0, 1, u64::MAX] {
            let mut bucket = Bucket::new(Limit { rate, burst: 0 });
            bucket.refill(bucket.filled + Duration::from_secs(1 << 33));
            assert!(bucket.tokens >= 1);
            bucket.tokens = 0;
            let now = bucket.filled;
            assert!(bucket.wait(u64::MAX, now).is_some());
        }
    }

    #[test]
    fn blocks_until_the_timer() {
        let mut limiter = RateLimiter::new(None, Some(Limit { rate: 100, burst: 10 })).unwrap();
        let admitted = (0..50).take_while(|_| limiter.admit(1).unwrap()).count();
        assert!((10..12).contains(&admitted), "{admitted}");
        std::thread::sleep(Duration::from_millis(30));
        assert!(!limiter.admit(1).unwrap(), "the timer has not been looked at");
        limiter.timer_expired();
        assert!(limiter.admit(1).unwrap());
    }
}
