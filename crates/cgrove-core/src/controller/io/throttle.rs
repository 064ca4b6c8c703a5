//! One rate limit: how soon the next operation may go out.
//!
//! An operation of `n` units takes `n / rate` seconds of the limit's time, and
//! the bucket remembers until when that time is taken. An operation may go as
//! long as not more than a slice is taken in advance. So over any stretch of
//! time there goes out what the rate allows, plus what fits into a slice, plus
//! the rest of one operation. Linux allows a slice in advance too
//! (`throtl_slice`), but holds a large operation before it goes instead of
//! those behind it.
//!
//! The time is that of the limit under which it was taken. A higher limit makes
//! it shorter, so that whoever raises a limit that was too low is not held up by
//! it for hours; a lower one leaves it as it is.

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
    /// The rate that `taken` was worked out with.
    taken_at: u64,
}

impl Bucket {
    pub(super) fn with_rate(self, rate: u64) -> Self {
        Self { rate, ..self }
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Makes `taken` fit the rate. Not done when the rate is set: that needs no
    /// clock.
    fn settle(&mut self, now: Time) {
        if self.taken_at < self.rate {
            let ahead = self.taken.since(now).as_nanos();
            let shorter = ahead * u128::from(self.taken_at) / u128::from(self.rate);
            let shorter = Duration::from_nanos(u64::try_from(shorter).unwrap_or(u64::MAX));
            self.taken = self.taken.min(now.after(shorter));
        }
        self.taken_at = self.rate;
    }

    fn cost(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * NANOS_PER_SEC / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// When the next operation may go; `None` for now.
    pub(super) fn due(&mut self, now: Time) -> Option<Time> {
        self.settle(now);
        let ahead = self.taken.since(now);
        let wait = ahead.saturating_sub(THROTTLE_SLICE);
        (!wait.is_zero()).then(|| now.after(wait))
    }

    pub(super) fn take(&mut self, n: u64, now: Time) {
        self.settle(now);
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
    fn a_raised_limit_shortens_what_is_taken_and_a_lowered_one_does_not_lengthen_it() {
        let mut bucket = Bucket::default().with_rate(1);
        bucket.take(1_000, Time(0));
        let mut bucket = bucket.with_rate(1_000);
        assert_eq!(bucket.due(Time(0)), Some(Time(900 * MS)), "1,000 units are a second now");
        let mut bucket = bucket.with_rate(1).with_rate(2_000);
        assert_eq!(bucket.due(Time(500 * MS)), Some(Time(650 * MS)), "of 500 units left");
        let mut bucket = bucket.with_rate(1);
        assert_eq!(bucket.due(Time(500 * MS)), Some(Time(650 * MS)));
        let mut most = Bucket::default().with_rate(u64::MAX - 1);
        most.take(u64::MAX, Time(u64::MAX));
        assert_eq!(most.with_rate(u64::MAX).due(Time(0)), Some(Time(u64::MAX - 1 - 100 * MS)));
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
