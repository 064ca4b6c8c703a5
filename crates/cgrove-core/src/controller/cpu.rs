//! The `cpu` controller: shares of CPU time, and how much of it a group may
//! have per period.
//!
//! Weights say how siblings divide a CPU that both want; the core only keeps
//! them. Bandwidth is a limit, and its arithmetic is done here: the embedder
//! reports the time that tasks have run ([`CpuCss::run`]), is told which
//! groups have used theirs up and must stop, and asks again when the period is
//! over ([`CpuCss::tick`]). The rules are in `bandwidth.rs`.
//!
//! How much time was used is not this controller's to count: `cpu.stat` shows
//! it on every cgroup, with the controller on or off. `usage.rs` has the
//! counters for that.

mod bandwidth;
mod usage;

pub use bandwidth::{BandwidthStat, Change};
pub use usage::{CpuTimes, CpuUsage};

use super::pids::Limit;
use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::id::{CgroupId, Time};
use crate::sync::lock::Leaf;
use crate::sync::{AtomicBool, Ordering};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bandwidth::Bandwidth;
use core::time::Duration;

/// The default `cpu.weight`, and the smallest and largest
/// (`CGROUP_WEIGHT_DFL`, `_MIN`, `_MAX`).
pub const WEIGHT_DEFAULT: u64 = 100;
/// The smallest weight.
pub const WEIGHT_MIN: u64 = 1;
/// The largest weight.
pub const WEIGHT_MAX: u64 = 10_000;

/// The scheduler's shares of a group of nice 0.
const SHARES_DEFAULT: u64 = 1024;
/// The shares of a group with `cpu.idle` set.
const SHARES_IDLE: u64 = 3;

/// The scheduler's shares by nice value, -20 to 19: each step is worth about
/// a tenth of the CPU (`sched_prio_to_weight`).
const SHARES_OF_NICE: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87,
    70, 56, 45, 36, 29, 23, 18, 15,
];

/// `n / d`, to the nearest.
const fn div_round(n: u64, d: u64) -> u64 {
    (n + d / 2) / d
}

/// The controller. Threaded: threads of one process may differ in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Cpu {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "cpu";

    /// The state behind the files of a cgroup. `None` for the root, which has
    /// no such files, and where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<CpuCss>> {
        lookup::own::<CpuCss>(cgroup, Self::NAME).filter(|css| css.parent.is_some())
    }

    /// The state that tasks of a cgroup run on: its own or that of the nearest
    /// cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<CpuCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

/// `cpu` on one cgroup.
#[derive(Debug)]
pub struct CpuCss {
    cgroup: CgroupId,
    /// `None` at the root, which has neither weight nor limit.
    parent: Option<Arc<CpuCss>>,
    weight: Leaf<Weight>,
    bandwidth: Leaf<Bandwidth>,
    /// The files are gone from their directory.
    killed: AtomicBool,
}

#[derive(Debug)]
struct Weight {
    shares: u64,
    idle: bool,
}

impl CpuCss {
    /// Whose css it is.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.cgroup
    }

    /// `cpu.weight`, 1 to 10000. An idle group reads as 1, the smallest, and
    /// not as the 0 of `cgroup-v2.rst`: so does Linux 7.2.
    #[must_use]
    pub fn weight(&self) -> u64 {
        div_round(self.weight.lock().shares * WEIGHT_DEFAULT, SHARES_DEFAULT)
            .clamp(WEIGHT_MIN, WEIGHT_MAX)
    }

    /// Writes `cpu.weight`.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup, here and in every other setter; ERANGE
    /// outside of 1 to 10000; EINVAL while the group is idle.
    pub fn set_weight(&self, weight: u64) -> Result<(), Errno> {
        self.check()?;
        if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
            return Err(Errno::ERANGE);
        }
        self.set_shares(div_round(weight * SHARES_DEFAULT, WEIGHT_DEFAULT))
    }

    /// `cpu.weight.nice`: the nice value whose weight comes closest, -20 to 19.
    #[must_use]
    pub fn weight_nice(&self) -> i64 {
        let shares = self.weight.lock().shares;
        // Falling, so the distance falls and then grows; of two equal ones the
        // first is taken.
        let closest = (0i64..).zip(SHARES_OF_NICE).min_by_key(|(_, of)| of.abs_diff(shares));
        closest.map_or(0, |(index, _)| index - 20)
    }

    /// Writes `cpu.weight.nice`.
    ///
    /// # Errors
    /// ENODEV; ERANGE outside of -20 to 19; EINVAL while the group is idle.
    pub fn set_weight_nice(&self, nice: i64) -> Result<(), Errno> {
        self.check()?;
        let shares = nice
            .checked_add(20)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| SHARES_OF_NICE.get(index))
            .ok_or(Errno::ERANGE)?;
        self.set_shares(*shares)
    }

    fn set_shares(&self, shares: u64) -> Result<(), Errno> {
        let mut weight = self.weight.lock();
        if weight.idle {
            return Err(Errno::EINVAL);
        }
        weight.shares = shares;
        Ok(())
    }

    /// `cpu.idle`.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.weight.lock().idle
    }

    /// Writes `cpu.idle`. A change sets the weight: the least there is for an
    /// idle group, the default for one that is not idle any more.
    ///
    /// # Errors
    /// ENODEV; EINVAL for anything but 0 and 1.
    pub fn set_idle(&self, idle: i64) -> Result<(), Errno> {
        self.check()?;
        let idle = match idle {
            0 => false,
            1 => true,
            _ => return Err(Errno::EINVAL),
        };
        let mut weight = self.weight.lock();
        if weight.idle != idle {
            weight.idle = idle;
            weight.shares = if idle { SHARES_IDLE } else { SHARES_DEFAULT };
        }
        Ok(())
    }

    /// `cpu.max`: quota and period in microseconds.
    #[must_use]
    pub fn max(&self) -> (Limit, u64) {
        let bandwidth = self.bandwidth.lock();
        (bandwidth.quota_usec(), bandwidth.period_usec())
    }

    /// Writes `cpu.max`, in microseconds; without a period the old one stays.
    /// The group starts on a fresh quota: [`Change::Unthrottled`] if it was
    /// throttled.
    ///
    /// # Errors
    /// ENODEV; EINVAL if quota or period is under 1 ms, the period over 1 s,
    /// the quota over 2^44 - 1 us, the burst of `cpu.max.burst` above the
    /// quota, or both together over 2^44 - 1 us.
    pub fn set_max(&self, quota: Limit, period: Option<u64>, now: Time) -> Result<Change, Errno> {
        self.check()?;
        let mut bandwidth = self.bandwidth.lock();
        let (period, burst) = (period.unwrap_or(bandwidth.period_usec()), bandwidth.burst_usec());
        bandwidth.set(quota, period, burst, now)
    }

    /// `cpu.max.burst`, in microseconds.
    #[must_use]
    pub fn max_burst(&self) -> u64 {
        self.bandwidth.lock().burst_usec()
    }

    /// Writes `cpu.max.burst`, in microseconds.
    ///
    /// # Errors
    /// ENODEV; EINVAL above the quota, or if both together are over
    /// 2^44 - 1 us. Without a quota only what does not survive as nanoseconds
    /// is refused.
    pub fn set_max_burst(&self, burst: u64, now: Time) -> Result<Change, Errno> {
        self.check()?;
        let mut bandwidth = self.bandwidth.lock();
        let (quota, period) = (bandwidth.quota_usec(), bandwidth.period_usec());
        bandwidth.set(quota, period, burst, now)
    }

    /// The part of `cpu.stat` that is about bandwidth.
    #[must_use]
    pub fn stat(&self) -> BandwidthStat {
        self.bandwidth.lock().stat()
    }

    /// Tasks on this css ran for `time`, between `since` and `now`:
    /// [`run_all`](Self::run_all) of one.
    #[must_use]
    pub fn run(
        self: &Arc<Self>,
        time: Duration,
        since: Time,
        now: Time,
    ) -> Vec<(Arc<Self>, Change)> {
        Self::run_all([(Arc::clone(self), time)], since, now)
    }

    /// Tasks on each of these csses ran for so long, between `since` and `now`.
    /// Charged at every level; returns the levels whose subtree must stop, or
    /// may go on again because a period ended unnoticed.
    ///
    /// `since` is when it was reported last, and what is reported at once is to
    /// come in one call: a period is over once something later was charged.
    #[must_use]
    pub fn run_all(
        ran: impl IntoIterator<Item = (Arc<Self>, Duration)>,
        since: Time,
        now: Time,
    ) -> Vec<(Arc<Self>, Change)> {
        let mut levels: Vec<(Arc<Self>, u64)> = Vec::new();
        for (css, time) in ran {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            for css in core::iter::successors(Some(&css), |css| css.parent.as_ref()) {
                match levels.iter_mut().find(|(known, _)| Arc::ptr_eq(known, css)) {
                    Some((_, sum)) => *sum = sum.saturating_add(nanos),
                    None => levels.push((Arc::clone(css), nanos)),
                }
            }
        }
        levels
            .into_iter()
            .filter_map(|(css, nanos)| {
                let change = css.bandwidth.lock().consume(nanos, since.min(now), now);
                (change != Change::None).then_some((css, change))
            })
            .collect()
    }

    /// The period timer of this css: refills the quota if a period is over.
    pub fn tick(&self, now: Time) -> Change {
        self.bandwidth.lock().tick(now)
    }

    /// When to call [`tick`](Self::tick) next. `None` while the css has no
    /// limit or has been idle for a period.
    #[must_use]
    pub fn next_tick(&self) -> Option<Time> {
        self.bandwidth.lock().next_tick()
    }

    /// How much time may still be run in this period. `None` without a limit.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.bandwidth.lock().left().map(Duration::from_nanos)
    }

    /// Whether this very css has used up its quota.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.bandwidth.lock().is_throttled()
    }

    /// Whether tasks on this css must not run: it or one above is throttled.
    #[must_use]
    pub fn must_stop(&self) -> bool {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
            .any(|css| css.is_throttled())
    }

    fn check(&self) -> Result<(), Errno> {
        if self.killed.load(Ordering::Relaxed) { Err(Errno::ENODEV) } else { Ok(()) }
    }
}

impl Drop for CpuCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Cpu {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn threaded(&self) -> bool {
        true
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<CpuCss>()?;
        Ok(Arc::new(CpuCss {
            cgroup: new.cgroup,
            parent,
            weight: Leaf::new(Weight { shares: SHARES_DEFAULT, idle: false }),
            bandwidth: Leaf::new(Bandwidth::new()),
            killed: AtomicBool::new(false),
        }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(cpu) = css.state::<CpuCss>() {
            cpu.killed.store(true, Ordering::Relaxed);
        }
    }
}
