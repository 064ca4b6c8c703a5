//! Bringing usage down without a charge: after a limit was lowered, and on
//! request.
//!
//! Writing `memory.max` or `memory.high` below the usage does not return until
//! the usage is down or nothing helps any more, unless the file was opened
//! with O_NONBLOCK. As with a charge, the work is the embedder's: each step
//! says what to do next. Dropping the object ends it, as a signal would.

use super::{MAX_RECLAIM_RETRIES, MemoryCss, MemoryEvent, Reclaim, Report};
use crate::controller::page_counter::PAGE_SIZE;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::sync::Ordering;
use alloc::sync::Arc;

/// What a lowered limit wants next.
#[derive(Clone, Debug)]
pub enum ShrinkStep {
    /// Nothing more. The end.
    Done,
    /// Reclaim, then report [`Report::Reclaimed`].
    Reclaim(Reclaim),
    /// Kill somebody in the subtree of `domain`, then report
    /// [`Report::Killed`]. Only for `memory.max`.
    Oom {
        /// The css whose limit was lowered.
        domain: Arc<MemoryCss>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Max,
    High,
}

/// The rest of a write to `memory.max` or `memory.high`.
#[derive(Debug)]
pub struct Shrink {
    css: Arc<MemoryCss>,
    kind: Kind,
    /// The limit that was written, in pages.
    target: u64,
    retries: u32,
}

impl Shrink {
    pub(super) fn to_max(css: &Arc<MemoryCss>, target: u64) -> Self {
        Self { css: Arc::clone(css), kind: Kind::Max, target, retries: MAX_RECLAIM_RETRIES }
    }

    pub(super) fn to_high(css: &Arc<MemoryCss>, target: u64) -> Self {
        // One empty-handed return more than for `max`, as in Linux.
        Self { css: Arc::clone(css), kind: Kind::High, target, retries: MAX_RECLAIM_RETRIES + 1 }
    }

    /// Goes on, given what came of the last wish. Done at once if the usage is
    /// within the limit, and once another write has changed it.
    pub fn next(&mut self, report: Report, fx: &mut Effects) -> ShrinkStep {
        match report {
            Report::Reclaimed(0) => self.retries = self.retries.saturating_sub(1),
            Report::Killed(false) => return ShrinkStep::Done,
            Report::Start | Report::Reclaimed(_) | Report::Killed(true) => {}
        }
        let limit = match self.kind {
            Kind::Max => self.css.memory.max(),
            Kind::High => self.css.high.load(Ordering::Relaxed),
        };
        let usage = self.css.memory.usage();
        if limit != self.target || usage <= limit {
            return ShrinkStep::Done;
        }
        match (self.retries, self.kind) {
            (0, Kind::High) => ShrinkStep::Done,
            (0, Kind::Max) => {
                self.css.event(MemoryEvent::Oom, fx);
                ShrinkStep::Oom { domain: Arc::clone(&self.css) }
            }
            _ => {
                let pages = usage - limit;
                ShrinkStep::Reclaim(Reclaim { from: Arc::clone(&self.css), pages })
            }
        }
    }
}

/// `swappiness=` of a write to `memory.reclaim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swappiness {
    /// As configured.
    Default,
    /// 0 to 200, as `vm.swappiness`.
    N(u8),
    /// `max`: anonymous memory only.
    AnonOnly,
}

impl Swappiness {
    /// A number that was written.
    ///
    /// # Errors
    /// EINVAL outside of 0 to 200.
    pub fn from_number(n: i64) -> Result<Self, Errno> {
        match u8::try_from(n) {
            Ok(n) if n <= 200 => Ok(Self::N(n)),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What a write to `memory.reclaim` wants next.
#[derive(Clone, Debug)]
pub enum ProactiveStep {
    /// As much as asked for has been reclaimed. The end.
    Done,
    /// Reclaim, then report how many pages came of it.
    Reclaim(Reclaim),
    /// Reclaim came back empty-handed too often: EAGAIN. The end.
    Failed(Errno),
}

/// A write to `memory.reclaim`, which exists on the root too.
#[derive(Debug)]
pub struct Proactive {
    css: Arc<MemoryCss>,
    /// Handed through to who reclaims.
    pub swappiness: Swappiness,
    wanted: u64,
    reclaimed: u64,
    retries: u32,
}

impl MemoryCss {
    /// Writes `memory.reclaim`: so many bytes, rounded down to pages.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn reclaim(
        self: &Arc<Self>,
        bytes: u64,
        swappiness: Swappiness,
    ) -> Result<Proactive, Errno> {
        self.files.check()?;
        Ok(Proactive {
            css: Arc::clone(self),
            swappiness,
            wanted: bytes / PAGE_SIZE,
            reclaimed: 0,
            retries: MAX_RECLAIM_RETRIES,
        })
    }
}

impl Proactive {
    /// Goes on; `reclaimed` is what came of the last wish, `None` at the start.
    /// Pages are wished for a quarter of the rest at a time, at least one.
    pub fn next(&mut self, reclaimed: Option<u64>) -> ProactiveStep {
        match reclaimed {
            Some(0) if self.retries == 0 => return ProactiveStep::Failed(Errno::EAGAIN),
            Some(0) => self.retries -= 1,
            Some(pages) => self.reclaimed = self.reclaimed.saturating_add(pages),
            None => {}
        }
        if self.reclaimed >= self.wanted {
            return ProactiveStep::Done;
        }
        let pages = ((self.wanted - self.reclaimed) / 4).max(1);
        ProactiveStep::Reclaim(Reclaim { from: Arc::clone(&self.css), pages })
    }
}
