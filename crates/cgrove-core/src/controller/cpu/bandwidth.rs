//! CFS bandwidth: a quota of run time per period, with bursts and debts.
//!
//! A group has a *pool* that running takes from. Each period adds the quota to
//! it, up to quota plus burst, so time not used in quiet periods can be spent
//! in a busy one. When the pool is empty the group is throttled.
//!
//! Time is known only after it was used, so a group can take more than there
//! was. That is its *debt*; it stays throttled until refills have paid it.
//! Linux has the same as the negative runtime of a CPU's run queue. It hands
//! the pool out to the CPUs in slices and throttles them one by one; here the
//! group is one, so `throttled_usec` counts a throttled group once where Linux
//! counts every CPU it would have run on.
//!
//! The period timer runs on a fixed grid while the group is in use. A period
//! in which nothing ran stops it, and the next run starts it again on the same
//! grid, without counting the periods between (`do_sched_cfs_period_timer`).

use crate::controller::pids::Limit;
use crate::errno::Errno;
use crate::id::Time;
use core::time::Duration;

const NANOS_PER_USEC: u64 = 1000;

/// The default period, 100 ms (`default_bw_period_us`).
const PERIOD_DEFAULT: u64 = 100_000;
/// The shortest quota and period, and the longest period, in microseconds.
const USEC_MIN: u64 = 1_000;
const PERIOD_MAX: u64 = 1_000_000;
/// The longest quota, alone and with its burst, in microseconds: what is left
/// of 64 bits for a ratio with 20 fractional ones (`MAX_BW`).
const QUOTA_MAX: u64 = (1 << 44) - 1;

/// What an operation did to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a group that is throttled must stop, one that is not may go on"]
pub enum Change {
    /// As before.
    None,
    /// It has to stop now.
    Throttled,
    /// It may go on.
    Unthrottled,
}

/// What `cpu.stat` shows of it. Of this very cgroup, not of those below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BandwidthStat {
    /// `nr_periods`: periods that ended while the group was in use.
    pub nr_periods: u64,
    /// `nr_throttled`: those of them in which it was throttled.
    pub nr_throttled: u64,
    /// `throttled_usec`, without a throttling that still lasts.
    pub throttled_usec: u64,
    /// `nr_bursts`: periods in which it used more than its quota.
    pub nr_bursts: u64,
    /// `burst_usec`: how much more.
    pub burst_usec: u64,
}

/// The bandwidth of one group. Times are in nanoseconds inside.
#[derive(Debug)]
pub(super) struct Bandwidth {
    /// `None` for `max`.
    quota: Option<u64>,
    period: u64,
    burst: u64,
    pool: u64,
    /// The pool right after the last refill.
    snapshot: u64,
    debt: u64,
    /// The next point of the grid that is known; due only while `active`.
    expires: Time,
    active: bool,
    /// Nothing has run since the last point of the grid.
    idle: bool,
    throttled_since: Option<Time>,
    nr_periods: u64,
    nr_throttled: u64,
    throttled: u64,
    nr_bursts: u64,
    burst_time: u64,
}

impl Bandwidth {
    pub(super) fn new() -> Self {
        Self {
            quota: None,
            period: PERIOD_DEFAULT * NANOS_PER_USEC,
            burst: 0,
            pool: 0,
            snapshot: 0,
            debt: 0,
            expires: Time(0),
            active: false,
            idle: false,
            throttled_since: None,
            nr_periods: 0,
            nr_throttled: 0,
            throttled: 0,
            nr_bursts: 0,
            burst_time: 0,
        }
    }

    pub(super) fn quota_usec(&self) -> Limit {
        self.quota.map_or(Limit::Max, |quota| Limit::N(quota / NANOS_PER_USEC))
    }

    pub(super) fn period_usec(&self) -> u64 {
        self.period / NANOS_PER_USEC
    }

    pub(super) fn burst_usec(&self) -> u64 {
        self.burst / NANOS_PER_USEC
    }

    pub(super) fn is_throttled(&self) -> bool {
        self.throttled_since.is_some()
    }

    pub(super) fn left(&self) -> Option<u64> {
        self.quota.map(|_| if self.is_throttled() { 0 } else { self.pool })
    }

    pub(super) fn next_tick(&self) -> Option<Time> {
        self.active.then_some(self.expires)
    }

    pub(super) fn stat(&self) -> BandwidthStat {
        BandwidthStat {
            nr_periods: self.nr_periods,
            nr_throttled: self.nr_throttled,
            throttled_usec: self.throttled / NANOS_PER_USEC,
            nr_bursts: self.nr_bursts,
            burst_usec: self.burst_time / NANOS_PER_USEC,
        }
    }

    /// Sets all three, in microseconds, or none (`tg_set_bandwidth`).
    pub(super) fn set(
        &mut self,
        quota: Limit,
        period: u64,
        burst: u64,
        now: Time,
    ) -> Result<Change, Errno> {
        let quota = match quota {
            // The number that means `max` inside Linux means it here too.
            Limit::Max | Limit::N(u64::MAX) => None,
            Limit::N(quota) => Some(quota),
        };
        if !(USEC_MIN..=PERIOD_MAX).contains(&period) {
            return Err(Errno::EINVAL);
        }
        match quota {
            Some(quota) => {
                let total = quota.checked_add(burst).ok_or(Errno::EINVAL)?;
                if quota < USEC_MIN || burst > quota || total > QUOTA_MAX {
                    return Err(Errno::EINVAL);
                }
            }
            None if burst > u64::MAX / NANOS_PER_USEC => return Err(Errno::EINVAL),
            None => {}
        }
        self.period = period * NANOS_PER_USEC;
        self.quota = quota.map(|quota| quota * NANOS_PER_USEC);
        self.burst = burst * NANOS_PER_USEC;
        self.refill();
        if self.quota.is_some() {
            self.start(now);
        } else {
            self.active = false;
        }
        self.debt = 0;
        Ok(self.unthrottle(now))
    }

    /// `used` more nanoseconds were run, evenly between `since` and `now`.
    ///
    /// What was run before a point of the grid is taken from the period that
    /// ended there. All of it taken from the last one would be a debt where
    /// there was none, for the pool keeps no more than quota and burst.
    pub(super) fn consume(&mut self, used: u64, since: Time, now: Time) -> Change {
        if self.quota.is_none() {
            return Change::None;
        }
        let before = self.is_throttled();
        let (mut rest, mut from) = (used, since);
        if used > 0 {
            let _ = self.tick(since);
            self.start(since);
            while self.expires <= now {
                let (part, of) = (self.expires.0 - from.0, now.0 - from.0);
                let share = u128::from(rest) * u128::from(part) / u128::from(of);
                let share = u64::try_from(share).unwrap_or(rest);
                self.take(share, self.expires);
                rest -= share;
                from = self.expires;
                let _ = self.tick(from);
                // What is still to be charged will be.
                self.start(from);
            }
            self.take(rest, now);
        } else {
            let _ = self.tick(now);
        }
        match (before, self.is_throttled()) {
            (false, true) => Change::Throttled,
            (true, false) => Change::Unthrottled,
            _ => Change::None,
        }
    }

    /// `used` is gone at `now`. A pool that is empty at the end of its period
    /// throttles nobody.
    fn take(&mut self, used: u64, now: Time) {
        if used == 0 {
            return;
        }
        self.idle = false;
        let taken = used.min(self.pool);
        self.pool -= taken;
        self.debt = self.debt.saturating_add(used - taken);
        let over = now == self.expires && self.debt == 0;
        if self.pool == 0 && !over && !self.is_throttled() {
            self.throttled_since = Some(now);
        }
    }

    /// The timer: deals with every point of the grid up to `now` at once, as
    /// Linux does when its timer is late. The quota is refilled once.
    pub(super) fn tick(&mut self, now: Time) -> Change {
        if !self.active || now < self.expires {
            return Change::None;
        }
        let overrun = self.forward(now);
        self.nr_periods += overrun;
        self.refill();
        if !self.is_throttled() {
            if self.idle {
                self.active = false;
            }
            self.idle = true;
            return Change::None;
        }
        self.nr_throttled += overrun;
        let paid = self.debt.min(self.pool);
        self.pool -= paid;
        self.debt -= paid;
        self.idle = false;
        if self.pool > 0 { self.unthrottle(now) } else { Change::None }
    }

    fn refill(&mut self) {
        let Some(quota) = self.quota else { return };
        self.pool = self.pool.saturating_add(quota);
        let beyond = self.snapshot.saturating_sub(self.pool);
        if beyond > 0 {
            self.burst_time += beyond;
            self.nr_bursts += 1;
        }
        self.pool = self.pool.min(quota + self.burst);
        self.snapshot = self.pool;
    }

    fn unthrottle(&mut self, now: Time) -> Change {
        let Some(since) = self.throttled_since.take() else { return Change::None };
        let nanos = now.since(since).as_nanos();
        self.throttled = self.throttled.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        Change::Unthrottled
    }

    fn start(&mut self, now: Time) {
        if !self.active {
            self.active = true;
            self.forward(now);
        }
    }

    /// Moves to the first point of the grid after `now`; returns how many
    /// points were passed.
    fn forward(&mut self, now: Time) -> u64 {
        if now < self.expires {
            return 0;
        }
        let late = now.0 - self.expires.0;
        let overrun = late / self.period + 1;
        let step = Duration::from_nanos(self.period.saturating_mul(overrun));
        self.expires = self.expires.after(step);
        overrun
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A quota of `quota` ms in 100 ms, with a burst, set at 0.
    fn limited(quota: u64, burst: u64) -> Bandwidth {
        let mut b = Bandwidth::new();
        let max = Limit::N(quota * 1000);
        assert_eq!(b.set(max, 100_000, 0, Time(0)), Ok(Change::None));
        assert_eq!(b.set(max, 100_000, burst * 1000, Time(0)), Ok(Change::None));
        b.pool = quota * MS;
        b.snapshot = b.pool;
        b
    }

    fn at(ms: u64) -> Time {
        Time(ms * MS)
    }

    #[test]
    fn a_group_is_throttled_when_the_pool_is_empty_until_the_period_ends() {
        let mut b = limited(20, 0);
        assert_eq!((Bandwidth::new().left(), b.left()), (None, Some(20 * MS)));
        assert_eq!(b.consume(19 * MS, at(30), at(30)), Change::None);
        assert_eq!(b.left(), Some(MS));
        assert_eq!(b.consume(MS, at(40), at(40)), Change::Throttled);
        assert_eq!(b.left(), Some(0));
        assert_eq!(b.next_tick(), Some(at(100)));
        assert_eq!(b.tick(at(99)), Change::None);
        assert_eq!(b.tick(at(100)), Change::Unthrottled);
        let stat = b.stat();
        assert_eq!((stat.nr_periods, stat.nr_throttled, stat.throttled_usec), (1, 1, 60_000));
        assert_eq!((stat.nr_bursts, stat.burst_usec), (0, 0));
    }

    #[test]
    fn a_debt_is_paid_before_the_group_goes_on() {
        let mut b = limited(20, 0);
        assert_eq!(b.consume(65 * MS, at(50), at(50)), Change::Throttled);
        assert_eq!(b.tick(at(100)), Change::None, "25 ms still owed");
        assert_eq!(b.tick(at(200)), Change::None, "5 ms still owed");
        assert_eq!(b.tick(at(300)), Change::Unthrottled);
        assert_eq!(b.pool, 15 * MS);
        let stat = b.stat();
        assert_eq!((stat.nr_periods, stat.nr_throttled, stat.throttled_usec), (3, 3, 250_000));
    }

    #[test]
    fn unused_quota_is_saved_up_to_the_burst() {
        let mut b = limited(20, 15);
        assert_eq!(b.consume(10 * MS, at(50), at(50)), Change::None);
        assert_eq!(b.tick(at(100)), Change::None);
        assert_eq!(b.pool, 30 * MS);
        assert_eq!(b.consume(MS, at(150), at(150)), Change::None);
        assert_eq!(b.tick(at(200)), Change::None);
        assert_eq!(b.pool, 35 * MS, "quota plus burst and no more");
        assert_eq!(b.consume(30 * MS, at(250), at(250)), Change::None);
        assert_eq!(b.tick(at(300)), Change::None);
        let stat = b.stat();
        assert_eq!((stat.nr_bursts, stat.burst_usec), (1, 10_000));
    }

    #[test]
    fn an_idle_group_stops_its_timer_and_keeps_its_grid() {
        let mut b = limited(20, 0);
        assert_eq!(b.consume(MS, at(50), at(50)), Change::None);
        assert_eq!((b.tick(at(100)), b.tick(at(200))), (Change::None, Change::None));
        assert_eq!(b.next_tick(), None);
        assert_eq!(b.consume(MS, at(1_234), at(1_234)), Change::None);
        assert_eq!(b.next_tick(), Some(at(1_300)));
        assert_eq!(b.stat().nr_periods, 2, "the quiet ones are not counted");
    }

    #[test]
    fn a_late_timer_counts_every_period_and_refills_once() {
        let mut b = limited(20, 0);
        assert_eq!(b.consume(50 * MS, at(50), at(50)), Change::Throttled);
        assert_eq!(b.tick(at(350)), Change::None);
        let stat = b.stat();
        assert_eq!((stat.nr_periods, stat.nr_throttled), (3, 3));
        assert_eq!((b.debt, b.next_tick()), (10 * MS, Some(at(400))));
    }

    #[test]
    fn a_new_limit_starts_afresh() {
        let mut b = limited(20, 0);
        assert_eq!(b.consume(500 * MS, at(50), at(50)), Change::Throttled);
        assert_eq!(b.set(Limit::N(30_000), 100_000, 0, at(60)), Ok(Change::Unthrottled));
        assert_eq!((b.debt, b.pool), (0, 30 * MS));
        assert_eq!(b.consume(500 * MS, at(70), at(70)), Change::Throttled);
        assert_eq!(b.set(Limit::Max, 100_000, 0, at(80)), Ok(Change::Unthrottled));
        assert_eq!(b.next_tick(), None);
        assert_eq!(b.consume(500 * MS, at(90), at(90)), Change::None);
    }

    #[test]
    fn a_report_that_comes_after_the_period_counts_in_the_next() {
        let mut b = limited(20, 0);
        assert_eq!(b.consume(20 * MS, at(50), at(50)), Change::Throttled);
        assert_eq!(
            b.consume(5 * MS, at(120), at(120)),
            Change::Unthrottled,
            "refilled, then charged"
        );
        assert_eq!(b.pool, 15 * MS);
        assert_eq!(b.consume(15 * MS, at(130), at(130)), Change::Throttled);
        assert_eq!(b.consume(30 * MS, at(220), at(220)), Change::None, "throttled again at once");
        assert!(b.is_throttled());
        assert_eq!(b.stat().throttled_usec, 70_000 + 90_000);
    }

    #[test]
    fn time_is_taken_from_the_period_in_which_it_was_used() {
        let mut b = limited(200, 0);
        // Two CPUs, busy all the time, and looked at across the ends of periods.
        for look in [70, 130, 260, 340, 400] {
            let since = [0, 70, 130, 260, 340].into_iter().rfind(|at| *at < look).unwrap();
            assert_eq!(b.consume(2 * (look - since) * MS, at(since), at(look)), Change::None);
        }
        assert_eq!((b.debt, b.stat().nr_throttled, b.stat().nr_periods), (0, 0, 4));
        // Three would have been too many.
        assert_eq!(b.consume(3 * 150 * MS, at(400), at(550)), Change::Throttled);
        assert_eq!((b.debt, b.stat().nr_throttled), (50 * MS, 1));
    }

    #[test]
    fn ranges_are_those_of_the_kernel() {
        let mut b = Bandwidth::new();
        let mut set = |quota, period, burst| b.set(quota, period, burst, Time(0)).err();
        let einval = Some(Errno::EINVAL);
        assert_eq!(set(Limit::Max, 999, 0), einval);
        assert_eq!(set(Limit::Max, 1_000, 0), None);
        assert_eq!(set(Limit::Max, 1_000_000, 0), None);
        assert_eq!(set(Limit::Max, 1_000_001, 0), einval);
        assert_eq!(set(Limit::N(999), 100_000, 0), einval);
        assert_eq!(set(Limit::N(1_000), 100_000, 0), None);
        assert_eq!(set(Limit::N(QUOTA_MAX), 100_000, 0), None);
        assert_eq!(set(Limit::N(QUOTA_MAX + 1), 100_000, 0), einval);
        assert_eq!(set(Limit::N(QUOTA_MAX), 100_000, 1), einval);
        assert_eq!(set(Limit::N(5_000), 100_000, 5_000), None);
        assert_eq!(set(Limit::N(5_000), 100_000, 5_001), einval);
        assert_eq!(set(Limit::N(u64::MAX - 1), 100_000, 0), einval);
        assert_eq!(set(Limit::N(u64::MAX), 100_000, 0), None);
        assert_eq!(set(Limit::Max, 100_000, u64::MAX / 1000), None);
        assert_eq!(set(Limit::Max, 100_000, u64::MAX / 1000 + 1), einval);
    }
}
