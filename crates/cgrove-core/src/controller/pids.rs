//! The `pids` controller: how many tasks a subtree may hold.
//!
//! RLIMIT_NPROC counts per user and so cannot bound one command. `pids` counts
//! per subtree: a fork adds one to every css from the forker's up to below the
//! root, and is refused with EAGAIN if any level would pass its limit. What is
//! charged is the task until it is *reaped*: zombies count, threads count.
//!
//! The count can lie above the limit: lowering the limit and moving tasks in
//! are never refused (`cgroup-v2.rst`, "PID Interface Files").
//!
//! Each level is charged before it is compared, and a refusal undoes all that
//! were charged, so two forks racing for the last place may both be refused for
//! an instant but never both admitted.

use super::{Controller, CssState, Hooks, NewCss, TaskSet};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::event::EventFile;
use crate::id::{CgroupId, TaskId};
use crate::sync::mutant::{Mutant, broken};
use crate::sync::{AtomicBool, AtomicU64, Ordering, barrier, invariant};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use once_cell::race::OnceBox;

/// Index of `pids.events` in [`PidsCss::files`].
const EVENTS: usize = 0;
/// Index of `pids.events.local` in [`PidsCss::files`].
const EVENTS_LOCAL: usize = 1;

/// The largest number a `pids.max` may hold, Linux's `PID_MAX_LIMIT` on 64 bits.
pub const PID_MAX_LIMIT: u64 = 4 * 1024 * 1024;

/// A limit that may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// No limit.
    Max,
    /// At most this many.
    N(u64),
}

impl Limit {
    const MAX: u64 = u64::MAX;

    fn to_raw(self) -> u64 {
        match self {
            Self::Max => Self::MAX,
            Self::N(n) => n,
        }
    }

    fn from_raw(raw: u64) -> Self {
        if raw == Self::MAX { Self::Max } else { Self::N(raw) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::N(n) => n.fmt(f),
        }
    }
}

/// The controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pids {
    local_events: bool,
}

impl Pids {
    /// With the events of Linux's default mount: `pids.events` counts limits
    /// hit in the subtree, `pids.events.local` those hit at this very cgroup.
    #[must_use]
    pub const fn new() -> Self {
        Self { local_events: false }
    }

    /// With the events of the mount option `pids_localevents`: both files
    /// count the forks refused to tasks of this very cgroup.
    #[must_use]
    pub const fn with_local_events() -> Self {
        Self { local_events: true }
    }

    /// The `pids` state of a cgroup. `None` for the root, which has no files,
    /// and where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<PidsCss>> {
        cgroup
            .states()
            .find_map(|state| state.downcast::<PidsCss>().ok())
            .filter(|css| css.parent.is_some())
    }
}

/// `pids` on one cgroup.
#[derive(Debug)]
pub struct PidsCss {
    /// `None` at the root, which is never charged.
    parent: Option<Arc<PidsCss>>,
    current: AtomicU64,
    limit: AtomicU64,
    peak: AtomicU64,
    /// Limits hit here or below (what a reader of `pids.events` sees).
    subtree_max: AtomicU64,
    /// Limits hit at this css.
    local_max: AtomicU64,
    /// Forks refused to tasks of this css, whoever's limit it was.
    local_forkfail: AtomicU64,
    /// `pids.events` and `pids.events.local`, made by the first refusal: most
    /// cgroups never see one.
    files: OnceBox<[Arc<EventFile>; 2]>,
    /// The files are gone from their directory.
    killed: AtomicBool,
    cgroup: CgroupId,
    local_events: bool,
}

impl PidsCss {
    /// `pids.current`: tasks charged, those being born and zombies included.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// `pids.peak`: the highest `pids.current` there has been.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// `pids.max`.
    #[must_use]
    pub fn max(&self) -> Limit {
        Limit::from_raw(self.limit.load(Ordering::Relaxed))
    }

    /// Writes `pids.max`. It may be below [`current`](Self::current) and holds
    /// from the next fork on.
    ///
    /// # Errors
    /// * ENODEV once the file is gone, by rmdir or by switching `pids` off;
    /// * EINVAL above [`PID_MAX_LIMIT`].
    pub fn set_max(&self, limit: Limit) -> Result<(), Errno> {
        if self.killed.load(Ordering::Acquire) {
            return Err(Errno::ENODEV);
        }
        if matches!(limit, Limit::N(n) if n > PID_MAX_LIMIT) {
            return Err(Errno::EINVAL);
        }
        self.limit.store(limit.to_raw(), Ordering::Relaxed);
        Ok(())
    }

    /// `max` in `pids.events`.
    #[must_use]
    pub fn events(&self) -> u64 {
        let count = if self.local_events { &self.local_forkfail } else { &self.subtree_max };
        count.load(Ordering::Relaxed)
    }

    /// `max` in `pids.events.local`.
    #[must_use]
    pub fn events_local(&self) -> u64 {
        let count = if self.local_events { &self.local_forkfail } else { &self.local_max };
        count.load(Ordering::Relaxed)
    }

    /// Whether `n` more tasks would be admitted now, here and at every level
    /// above. Counts no event: for an embedder that can make room first.
    #[must_use]
    pub fn fits(&self, n: u64) -> bool {
        self.levels()
            .all(|css| css.current().saturating_add(n) <= css.limit.load(Ordering::Relaxed))
    }

    /// This css and those above it, without the root.
    fn levels(&self) -> impl Iterator<Item = &PidsCss> {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
            .filter(|css| css.parent.is_some())
    }

    fn charge(&self, n: u64) {
        for css in self.levels() {
            let now = css.current.fetch_add(n, Ordering::Relaxed) + n;
            css.peak.fetch_max(now, Ordering::Relaxed);
        }
    }

    fn uncharge(&self, n: u64) {
        for css in self.levels() {
            let old = css.current.fetch_sub(n, Ordering::Relaxed);
            invariant!(old >= n, "pids count below zero");
        }
    }

    /// Charges every level, or none and says which one is full.
    fn try_charge(&self) -> Result<(), &PidsCss> {
        for (depth, css) in self.levels().enumerate() {
            let now = css.current.fetch_add(1, Ordering::Relaxed) + 1;
            let limit = css.limit.load(Ordering::Relaxed);
            if now > limit || broken(Mutant::PidsOffByOne) && now == limit {
                for undo in self.levels().take(depth + 1) {
                    undo.current.fetch_sub(1, Ordering::Relaxed);
                }
                return Err(css);
            }
            // Raised level by level: a refusal further up does not take it
            // back, as in Linux.
            css.peak.fetch_max(now, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A fork on this css was refused at `full`.
    fn refused(&self, full: &PidsCss, fx: &mut Effects) {
        self.local_forkfail.fetch_add(1, Ordering::Relaxed);
        if self.local_events {
            self.changed(EVENTS_LOCAL, fx);
            self.changed(EVENTS, fx);
            return;
        }
        full.local_max.fetch_add(1, Ordering::Relaxed);
        full.changed(EVENTS_LOCAL, fx);
        for css in full.levels() {
            css.subtree_max.fetch_add(1, Ordering::Relaxed);
            css.changed(EVENTS, fx);
        }
    }

    fn changed(&self, file: usize, fx: &mut Effects) {
        let files = self.files.get_or_init(|| {
            let file = |name| EventFile::new(self.cgroup, name);
            Box::new([file("pids.events"), file("pids.events.local")])
        });
        // Pairs with the fence in `css_killed`: either the kill is seen here, or
        // it finds the files made above and silences them.
        barrier::store_then_load();
        if !self.killed.load(Ordering::Acquire) {
            files[file].changed(fx);
        }
    }
}

/// Moves charges, whatever the limit: a move is never refused. The new levels
/// first, so that those above both do not drop in between.
fn recharge(to: &Css, from: &Css, n: u64) {
    if to.id() == from.id() {
        return;
    }
    if let (Some(to), Some(from)) = (state(to), state(from)) {
        to.charge(n);
        from.uncharge(n);
    }
}

/// The state this controller made in `css_alloc`.
fn state(css: &Css) -> Option<&PidsCss> {
    let state = css.state::<PidsCss>();
    invariant!(state.is_some(), "a pids css without pids state");
    state
}

impl Drop for PidsCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Pids {
    fn name(&self) -> &'static str {
        "pids"
    }

    fn threaded(&self) -> bool {
        true
    }

    fn hooks(&self) -> Hooks {
        Hooks::FORK | Hooks::RELEASE | Hooks::ATTACH
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<PidsCss>()?;
        Ok(Arc::new(PidsCss {
            parent,
            current: AtomicU64::new(0),
            limit: AtomicU64::new(Limit::MAX),
            peak: AtomicU64::new(0),
            subtree_max: AtomicU64::new(0),
            local_max: AtomicU64::new(0),
            local_forkfail: AtomicU64::new(0),
            files: OnceBox::new(),
            killed: AtomicBool::new(false),
            cgroup: new.cgroup,
            local_events: self.local_events,
        }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(pids) = state(css) {
            pids.killed.store(true, Ordering::Release);
            // Pairs with the fence in `changed`.
            barrier::store_then_load();
            for file in pids.files.get().into_iter().flatten() {
                file.remove();
            }
        }
    }

    fn can_attach(&self, tasks: &TaskSet<'_>, _fx: &mut Effects) -> Result<(), Errno> {
        for task in tasks.iter() {
            recharge(task.to, task.from, 1);
        }
        Ok(())
    }

    fn cancel_attach(&self, tasks: &TaskSet<'_>, _fx: &mut Effects) {
        for task in tasks.iter() {
            recharge(task.from, task.to, 1);
        }
    }

    fn attach(&self, _task: TaskId, to: &Css, from: Option<&Css>, _fx: &mut Effects) {
        // Who moved was charged in `can_attach`.
        if let (Some(to), None) = (state(to), from) {
            to.charge(1);
        }
    }

    fn move_forks(&self, n: usize, to: &Css, from: &Css, _fx: &mut Effects) {
        recharge(to, from, n as u64);
    }

    fn can_fork(&self, css: &Css, fx: &mut Effects) -> Result<(), Errno> {
        let Some(pids) = state(css) else { return Ok(()) };
        pids.try_charge().map_err(|full| {
            pids.refused(full, fx);
            Errno::EAGAIN
        })
    }

    fn cancel_fork(&self, css: &Css) {
        if let Some(pids) = state(css) {
            pids.uncharge(1);
        }
    }

    fn release(&self, _task: TaskId, css: &Css) {
        if let Some(pids) = state(css) {
            pids.uncharge(1);
        }
    }
}
