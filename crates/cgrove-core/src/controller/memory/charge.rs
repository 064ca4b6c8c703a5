//! A charge that does not give up at the first full level.
//!
//! Linux loops inside the allocation: charge; at a limit reclaim from the
//! level that is full; when reclaim brings nothing often enough, kill; only
//! then refuse (`try_charge_memcg`). A library cannot reclaim or kill, so the
//! loop is turned inside out: each step says what to do, and the next step is
//! told what came of it.
//!
//! Every round that meets a full level counts one `max` event there, and every
//! call of the OOM killer one `oom` event.

use super::{MAX_RECLAIM_RETRIES, MemoryCss, MemoryEvent, Reclaim, Report};
use crate::effect::Effects;
use crate::errno::Errno;
use alloc::sync::Arc;
use core::time::Duration;

/// A charge of more pages than this is never worth a kill: 2 to the power of
/// `PAGE_ALLOC_COSTLY_ORDER`.
const COSTLY_PAGES: u64 = 8;

/// The nominal size of a charge, against which the wait over `memory.high` is
/// scaled (`MEMCG_CHARGE_BATCH`).
const BATCH_PAGES: u128 = 64;

/// The longest wait over `memory.high`.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// A wait up to this long is waived.
const WAIVED_DELAY: Duration = Duration::from_millis(10);

/// How far a charge may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// May not reclaim; a refusal counts no event (an atomic allocation).
    Atomic,
    /// Reclaims once, then fails.
    NoRetry,
    /// Reclaims as long as it helps, then fails; never kills.
    MayFail,
    /// Reclaims, then kills; fails only if nobody can be killed.
    Normal,
    /// As [`Normal`](Self::Normal), but goes over the limit rather than fail.
    NoFail,
}

/// A charge that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a charger over high is to be throttled"]
pub struct Charged {
    /// A level is over its `high`, of memory or swap: before the charger goes
    /// on it should do [`MemoryCss::reclaim_high`] and
    /// [`MemoryCss::throttle_high`].
    pub over_high: bool,
}

/// What a charge wants next.
#[derive(Clone, Debug)]
pub enum ChargeStep {
    /// It is charged. The end.
    Charged(Charged),
    /// Reclaim, then report [`Report::Reclaimed`].
    Reclaim(Reclaim),
    /// Kill somebody in the subtree of `domain`, then report
    /// [`Report::Killed`]. Those to be killed with the victim are given by
    /// [`MemoryCss::oom_group_of`].
    Oom {
        /// The css whose limit was hit.
        domain: Arc<MemoryCss>,
    },
    /// It is refused, with ENOMEM. The end; nothing is charged.
    Refused(Errno),
}

/// A charge on its way, see [`MemoryCss::charging`].
///
/// An embedder that keeps reporting progress that makes no room is asked for
/// ever, as Linux would try for ever; dropping the charge ends it.
#[derive(Debug)]
pub struct Charging {
    css: Arc<MemoryCss>,
    pages: u64,
    effort: Effort,
    retries: u32,
    /// The full level of the last round.
    full: Option<Arc<MemoryCss>>,
}

impl Charging {
    pub(super) fn new(css: &Arc<MemoryCss>, pages: u64, effort: Effort) -> Self {
        let retries = MAX_RECLAIM_RETRIES;
        Self { css: Arc::clone(css), pages, effort, retries, full: None }
    }

    /// Goes on, given what came of the last wish.
    pub fn next(&mut self, report: Report, fx: &mut Effects) -> ChargeStep {
        let Some(full) = self.full.take() else { return self.attempt(fx) };
        match report {
            Report::Start => self.attempt(fx),
            Report::Reclaimed(reclaimed) => {
                if self.worth_another_try(&full, reclaimed) {
                    return self.attempt(fx);
                }
                let kills = matches!(self.effort, Effort::Normal | Effort::NoFail);
                if !kills || self.pages > COSTLY_PAGES {
                    return self.give_up();
                }
                full.event(MemoryEvent::Oom, fx);
                if full.memory.margin() >= self.pages {
                    return self.attempt(fx);
                }
                self.full = Some(Arc::clone(&full));
                ChargeStep::Oom { domain: full }
            }
            Report::Killed(true) => {
                self.retries = MAX_RECLAIM_RETRIES;
                self.attempt(fx)
            }
            Report::Killed(false) => self.give_up(),
        }
    }

    fn worth_another_try(&mut self, full: &MemoryCss, reclaimed: u64) -> bool {
        if full.memory.margin() >= self.pages {
            return true;
        }
        if self.effort == Effort::NoRetry {
            return false;
        }
        if reclaimed > 0 && self.pages <= COSTLY_PAGES {
            return true;
        }
        if self.retries > 0 {
            self.retries -= 1;
            return true;
        }
        false
    }

    fn attempt(&mut self, fx: &mut Effects) -> ChargeStep {
        let full = match self.css.try_charge_pages(self.pages) {
            Ok(charged) => return ChargeStep::Charged(charged),
            Err(full) => Arc::clone(full),
        };
        if self.effort == Effort::Atomic {
            return ChargeStep::Refused(Errno::ENOMEM);
        }
        full.event(MemoryEvent::Max, fx);
        self.full = Some(Arc::clone(&full));
        ChargeStep::Reclaim(Reclaim { from: full, pages: self.pages })
    }

    fn give_up(&self) -> ChargeStep {
        if self.effort == Effort::NoFail {
            ChargeStep::Charged(self.css.charge_pages(self.pages))
        } else {
            ChargeStep::Refused(Errno::ENOMEM)
        }
    }
}

/// How long one level makes a charger of `pages` wait for being over its high
/// boundary, unclamped: 64 seconds times the square of the overage ratio, for
/// a batch of 64 pages (`calculate_high_delay`).
#[must_use]
pub fn high_delay(usage: u64, high: u64, pages: u64) -> Duration {
    if usage <= high {
        return Duration::ZERO;
    }
    // The ratio with 20 fractional bits; a boundary of 0 counts as one page, both
    // in what is over it and in what that is compared to.
    let high = high.max(1);
    let ratio = (u128::from(usage - high) << 20) / u128::from(high);
    // Bounded before it is squared: this is 2^20 times the boundary already.
    let ratio = ratio.min(1 << 40);
    let nanos = (ratio * ratio * 1_000_000_000) >> 34;
    let nanos = nanos.saturating_mul(u128::from(pages)) / BATCH_PAGES;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

pub(super) fn clamp_delay(delay: Duration) -> Duration {
    if delay <= WAIVED_DELAY { Duration::ZERO } else { delay.min(MAX_DELAY) }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_the_square_of_the_overage() {
        const MIB: u64 = 256;
        let ms = |over: u64| high_delay((100 + over) * MIB, 100 * MIB, 64).as_millis();
        assert_eq!([0, 1, 2, 5, 10, 17].map(ms), [0, 6, 25, 159, 639, 1849]);
        assert_eq!(high_delay(101 * MIB, 100 * MIB, 128).as_millis(), 12, "twice the charge");
        assert_eq!(high_delay(65, 0, 64).as_secs(), 64 * 64 * 64, "as if high were one page");
        assert_eq!(high_delay(1, 0, 64), Duration::ZERO, "and that page is not over it");
        assert_eq!(clamp_delay(Duration::from_millis(10)), Duration::ZERO);
        assert_eq!(clamp_delay(Duration::from_millis(11)), Duration::from_millis(11));
        assert_eq!(clamp_delay(high_delay(u64::MAX, 0, u64::MAX)), MAX_DELAY);
    }
}
