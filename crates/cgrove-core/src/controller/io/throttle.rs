//! One rate limit: how soon the next operation may go out.
//!
//! An operation of `n` units takes `n / rate` seconds of the limit's time, and
//! the bucket remembers until when that time is taken. An operation may go as
//! long as not more than a slice is taken in advance. So over any stretch of
//! time there goes out what the rate allows, plus what fits into a slice, plus
//! the rest of one operation. Linux allows a slice in advance too
//! (`throtl_slice`), but holds a large operation before it goes instead of
//! those behind it.

use crate::id::Time;
use core::time::Duration;

/// How much of a limit's time may be used in advance.
pub const THROTTLE_SLICE: Duration = Duration::from_millis(100);

const NANOS_PER_SEC: u128 = 1_000_000_000;

/// The state of one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Units per second; never 0 once in use.
    rate: u64,
    /// Until when the limit's time is taken.
    taken: Time,
}

impl Bucket {
    pub(super) fn with_rate(self, rate: u64) -> Self {
        Self { rate, ..self }
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    fn cost(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * NANOS_PER_SEC / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When the next operation may go; `None` for now.
    pub(super) fn due(&self, now: Time) -> Option<Time> {
        let ahead = self.taken.since(now);
        let wait = ahead.saturating_sub(THROTTLE_SLICE);
        (!wait.is_zero()).then(|| now.after(wait))
    }

    pub(super) fn take(&mut self, n: u64, now: Time) {
        self.taken = self.taken.max(now).after(self.cost(n));
    }

    pub(super) fn give_back(&mut self, n: u64) {
        let cost = u64::try_from(self.cost(n).as_nanos()).unwrap_or(u64::MAX);
        self.taken = Time(self.taken.0.saturating_sub(cost));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_slice_may_be_used_in_advance_and_the_rest_waits() {
        let mut bucket = Bucket::default().with_rate(100);
        let start = Time(1_000 * MS);
        for _ in 0..10 {
            assert_eq!(bucket.due(start), None);
            bucket.take(1, start);
        }
        assert_eq!(bucket.due(start), None, "exactly a slice is taken");
        bucket.take(1, start);
        assert_eq!(bucket.due(start), Some(Time(1_010 * MS)));
        assert_eq!(bucket.due(Time(1_010 * MS)), None);
        bucket.give_back(1);
        assert_eq!(bucket.due(start), None);
    }

    #[test]
    fn a_large_operation_goes_whole_and_holds_up_those_behind() {
        let mut bucket = Bucket::default().with_rate(1000);
        bucket.take(5_000, Time(0));
        assert_eq!(bucket.due(Time(0)), Some(Time(4_900 * MS)));
        let mut slow = Bucket::default().with_rate(1);
        slow.take(u64::MAX, Time(0));
        assert_eq!(slow.due(Time(0)), Some(Time(u64::MAX - 100 * MS)));
    }
}
