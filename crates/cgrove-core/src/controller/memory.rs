//! The `memory` controller: a ledger of pages with limits and protections.
//!
//! A page is charged to the css of whoever touched it first and to every css
//! above, and stays charged there however the task moves. Two limits act on
//! it. Over `memory.high` a charge succeeds, but the charger is made to reclaim
//! and then to wait. Over `memory.max` it fails unless reclaim or, in the end,
//! the OOM killer makes room. The other two files, `memory.min` and
//! `memory.low`, say what reclaim should leave alone.
//!
//! This file holds the counts and settings. What only the embedder can do,
//! reclaiming and killing, is asked for step by step and reported back:
//! [`Charging`] for a charge, [`Shrink`] for a lowered limit, [`Proactive`]
//! for `memory.reclaim`. What may be reclaimed is in `protection.rs`, the peak
//! of one open file in `peak.rs`.
//!
//! # The end of a css
//!
//! Charges outlive their cgroup. At `css_offline` the css gives up its limits
//! and protections, so what is still charged through it is bound only by those
//! above, which are charged already: this is what reparenting comes to in a
//! ledger that is hierarchical. [`MemoryCss::home`] names the css a remaining
//! charge should be filed under from then on; uncharging through either gives
//! the same counts everywhere above.

mod charge;
mod peak;
mod protection;
mod shrink;

pub use charge::{ChargeStep, Charged, Charging, Effort, high_delay};
pub use peak::Peak;
pub use protection::Protection;
pub use shrink::{Proactive, ProactiveStep, Shrink, ShrinkStep, Swappiness};

use super::event_files::EventFiles;
use super::page_counter::{PAGE_SIZE, PAGES_MAX, PageCounter, limit_to_pages, pages_to_limit};
use super::pids::Limit;
use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::event::EventFile;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::array;
use core::time::Duration;

/// How often reclaim may come back empty-handed (`MAX_RECLAIM_RETRIES`).
pub const MAX_RECLAIM_RETRIES: u32 = 16;

/// What `memory.events` and `memory.swap.events` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryEvent {
    /// `low`: reclaimed although usage was within the effective low boundary.
    Low,
    /// `high`: throttled for being over `memory.high`.
    High,
    /// `max`: about to go over `memory.max`.
    Max,
    /// `oom`: at the limit, and a charge was about to fail.
    Oom,
    /// `oom_kill`: a process of the cgroup was killed by any OOM killer.
    OomKill,
    /// `oom_group_kill`: the whole cgroup was killed.
    OomGroupKill,
    /// `sock_throttled`: a socket of the cgroup was throttled.
    SockThrottled,
    /// `high` of `memory.swap.events`.
    SwapHigh,
    /// `max` of `memory.swap.events`.
    SwapMax,
    /// `fail` of `memory.swap.events`.
    SwapFail,
}

impl MemoryEvent {
    const COUNT: usize = 10;

    /// The keys of `memory.events` and `memory.events.local`, in their order.
    pub const MEMORY: [Self; 7] = [
        Self::Low,
        Self::High,
        Self::Max,
        Self::Oom,
        Self::OomKill,
        Self::OomGroupKill,
        Self::SockThrottled,
    ];

    /// The keys of `memory.swap.events`, in their order.
    pub const SWAP: [Self; 3] = [Self::SwapHigh, Self::SwapMax, Self::SwapFail];

    /// The key in its file.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::High | Self::SwapHigh => "high",
            Self::Max | Self::SwapMax => "max",
            Self::Oom => "oom",
            Self::OomKill => "oom_kill",
            Self::OomGroupKill => "oom_group_kill",
            Self::SockThrottled => "sock_throttled",
            Self::SwapFail => "fail",
        }
    }

    const fn is_swap(self) -> bool {
        matches!(self, Self::SwapHigh | Self::SwapMax | Self::SwapFail)
    }
}

/// The event files of a css.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFile {
    /// `memory.events`.
    Events,
    /// `memory.events.local`.
    EventsLocal,
    /// `memory.swap.events`.
    SwapEvents,
}

/// Which of the two counters is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Pages in memory.
    Memory,
    /// Pages of swap space.
    Swap,
}

/// The controller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    options: Options,
}

/// Mount options of cgroup2 that concern `memory`.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    local_events: bool,
    recursive_protection: bool,
}

impl Memory {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "memory";

    /// As after a mount without options.
    #[must_use]
    pub const fn new() -> Self {
        Self { options: Options { local_events: false, recursive_protection: false } }
    }

    /// With the mount option `memory_localevents`: `memory.events` counts what
    /// happened at this very cgroup only.
    #[must_use]
    pub const fn with_local_events(mut self) -> Self {
        self.options.local_events = true;
        self
    }

    /// With the mount option `memory_recursiveprot`: protection that children
    /// do not claim is shared out among them by their use.
    #[must_use]
    pub const fn with_recursive_protection(mut self) -> Self {
        self.options.recursive_protection = true;
        self
    }

    /// The state behind the files of a cgroup. `None` for the root, which has
    /// no such files, and where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<MemoryCss>> {
        lookup::own::<MemoryCss>(cgroup, Self::NAME).filter(|css| css.parent.is_some())
    }

    /// The state that tasks of a cgroup charge: its own or that of the nearest
    /// cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<MemoryCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

/// `memory` on one cgroup.
#[derive(Debug)]
pub struct MemoryCss {
    /// `None` at the root, which has no limits and no files.
    parent: Option<Arc<MemoryCss>>,
    memory: PageCounter,
    swap: PageCounter,
    high: AtomicU64,
    swap_high: AtomicU64,
    protected: protection::Settings,
    oom_group: AtomicBool,
    /// `css_offline` has run.
    offline: AtomicBool,
    /// Events here and below, by [`MemoryEvent`].
    events: [AtomicU64; MemoryEvent::COUNT],
    /// Events at this very css.
    events_local: [AtomicU64; MemoryEvent::COUNT],
    memory_peaks: peak::Watchers,
    swap_peaks: peak::Watchers,
    /// By [`MemoryFile`].
    files: EventFiles<3>,
    options: Options,
}

impl MemoryCss {
    /// `memory.current`, in bytes: this cgroup and those below.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.memory.usage() * PAGE_SIZE
    }

    /// `memory.swap.current`, in bytes.
    #[must_use]
    pub fn swap_current(&self) -> u64 {
        self.swap.usage() * PAGE_SIZE
    }

    /// `memory.max`, in bytes.
    #[must_use]
    pub fn max(&self) -> Limit {
        pages_to_limit(self.memory.max(), PAGES_MAX)
    }

    /// Writes `memory.max`. It holds at once; what is charged above it is
    /// brought down by running the [`Shrink`], which a file opened with
    /// O_NONBLOCK leaves out.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup, here and in every other setter.
    pub fn set_max(self: &Arc<Self>, max: Limit) -> Result<Shrink, Errno> {
        self.files.check()?;
        let max = limit_to_pages(max);
        self.memory.set_max(max);
        Ok(Shrink::to_max(self, max))
    }

    /// `memory.high`, in bytes.
    #[must_use]
    pub fn high(&self) -> Limit {
        pages_to_limit(self.high.load(Ordering::Relaxed), PAGES_MAX)
    }

    /// Writes `memory.high`. As [`set_max`](Self::set_max), but nobody is
    /// ever killed for it.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn set_high(self: &Arc<Self>, high: Limit) -> Result<Shrink, Errno> {
        self.files.check()?;
        let high = limit_to_pages(high);
        self.high.store(high, Ordering::Relaxed);
        Ok(Shrink::to_high(self, high))
    }

    /// `memory.min`, in bytes.
    #[must_use]
    pub fn min(&self) -> Limit {
        pages_to_limit(self.protected.min(), PAGES_MAX)
    }

    /// Writes `memory.min`.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn set_min(&self, min: Limit) -> Result<(), Errno> {
        self.files.check()?;
        self.protected.set_min(limit_to_pages(min));
        self.propagate_protection();
        Ok(())
    }

    /// `memory.low`, in bytes.
    #[must_use]
    pub fn low(&self) -> Limit {
        pages_to_limit(self.protected.low(), PAGES_MAX)
    }

    /// Writes `memory.low`.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn set_low(&self, low: Limit) -> Result<(), Errno> {
        self.files.check()?;
        self.protected.set_low(limit_to_pages(low));
        self.propagate_protection();
        Ok(())
    }

    /// `memory.swap.max`, in bytes.
    #[must_use]
    pub fn swap_max(&self) -> Limit {
        pages_to_limit(self.swap.max(), PAGES_MAX)
    }

    /// Writes `memory.swap.max`. Swap in use above it stays.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn set_swap_max(&self, max: Limit) -> Result<(), Errno> {
        self.files.check()?;
        self.swap.set_max(limit_to_pages(max));
        Ok(())
    }

    /// `memory.swap.high`, in bytes.
    #[must_use]
    pub fn swap_high(&self) -> Limit {
        pages_to_limit(self.swap_high.load(Ordering::Relaxed), PAGES_MAX)
    }

    /// Writes `memory.swap.high`.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn set_swap_high(&self, high: Limit) -> Result<(), Errno> {
        self.files.check()?;
        self.swap_high.store(limit_to_pages(high), Ordering::Relaxed);
        Ok(())
    }

    /// `memory.oom.group`.
    #[must_use]
    pub fn oom_group(&self) -> bool {
        self.oom_group.load(Ordering::Relaxed)
    }

    /// Writes `memory.oom.group`.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; EINVAL for anything but 0 and 1.
    pub fn set_oom_group(&self, group: i64) -> Result<(), Errno> {
        self.files.check()?;
        let group = match group {
            0 => false,
            1 => true,
            _ => return Err(Errno::EINVAL),
        };
        self.oom_group.store(group, Ordering::Relaxed);
        Ok(())
    }

    /// One count of `memory.events` or `memory.swap.events`.
    #[must_use]
    pub fn events(&self, event: MemoryEvent) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    /// One count of `memory.events.local`.
    #[must_use]
    pub fn events_local(&self, event: MemoryEvent) -> u64 {
        self.events_local[event as usize].load(Ordering::Relaxed)
    }

    /// An event file, for those who match it against effects; `None` once the
    /// files are gone.
    #[must_use]
    pub fn file(&self, file: MemoryFile) -> Option<Arc<EventFile>> {
        self.files.file(file as usize)
    }

    /// Counts an event here and, unless the hierarchy has local events, at
    /// every level above but the root (`memcg_memory_event`). Charging and
    /// shrinking do this themselves; what the embedder alone can see is
    /// reported with it: [`Low`](MemoryEvent::Low), one
    /// [`OomKill`](MemoryEvent::OomKill) per killed process, one
    /// [`OomGroupKill`](MemoryEvent::OomGroupKill) per
    /// [`oom_group_of`](Self::oom_group_of), and throttled sockets.
    pub fn event(&self, event: MemoryEvent, fx: &mut Effects) {
        self.events_local[event as usize].fetch_add(1, Ordering::Relaxed);
        if !event.is_swap() {
            self.files.changed(MemoryFile::EventsLocal as usize, fx);
        }
        let file = if event.is_swap() { MemoryFile::SwapEvents } else { MemoryFile::Events };
        let levels = if self.options.local_events { 1 } else { usize::MAX };
        for css in self.levels().filter(|css| css.parent.is_some()).take(levels) {
            css.events[event as usize].fetch_add(1, Ordering::Relaxed);
            css.files.changed(file as usize, fx);
        }
    }

    /// The largest group that has to die with a victim: the highest cgroup with
    /// `memory.oom.group` from the victim's (`self`) up to the one whose limit
    /// was hit. `None` if only the victim has to, and if it is not below
    /// `domain` any more (`mem_cgroup_get_oom_group`).
    #[must_use]
    pub fn oom_group_of(self: &Arc<Self>, domain: &Arc<Self>) -> Option<Arc<Self>> {
        self.parent.as_ref()?;
        let mut group = None;
        for css in self.arc_levels() {
            if css.oom_group() {
                group = Some(css);
            }
            if Arc::ptr_eq(css, domain) {
                return group.cloned();
            }
        }
        None
    }

    /// Charges pages, or refuses with one `max` event at the full level.
    /// For chargers who can neither reclaim nor wait; others use
    /// [`charging`](Self::charging).
    ///
    /// # Errors
    /// ENOMEM at a limit.
    pub fn try_charge(self: &Arc<Self>, pages: u64, fx: &mut Effects) -> Result<Charged, Errno> {
        self.try_charge_pages(pages).map_err(|full| {
            full.event(MemoryEvent::Max, fx);
            Errno::ENOMEM
        })
    }

    /// Charges pages whatever the limits are, with a `max` event if one is
    /// passed: for what has happened already or must not fail.
    pub fn charge(self: &Arc<Self>, pages: u64, fx: &mut Effects) -> Charged {
        self.try_charge_pages(pages).unwrap_or_else(|full| {
            full.event(MemoryEvent::Max, fx);
            self.charge_pages(pages)
        })
    }

    /// A charge that may reclaim and kill, run step by step.
    #[must_use]
    pub fn charging(self: &Arc<Self>, pages: u64, effort: Effort) -> Charging {
        Charging::new(self, pages, effort)
    }

    /// Takes pages off again.
    pub fn uncharge(&self, pages: u64) {
        PageCounter::uncharge(self.levels().map(|css| &css.memory), pages);
        self.propagate_protection();
    }

    /// Charges swap space for pages that leave memory.
    ///
    /// # Errors
    /// ENOMEM at a limit, with `max` and `fail` events at this css.
    pub fn try_charge_swap(&self, pages: u64, fx: &mut Effects) -> Result<(), Errno> {
        PageCounter::try_charge(self.levels().map(|css| &css.swap), pages).map_err(|_| {
            self.event(MemoryEvent::SwapMax, fx);
            self.event(MemoryEvent::SwapFail, fx);
            Errno::ENOMEM
        })
    }

    /// Frees swap space.
    pub fn uncharge_swap(&self, pages: u64) {
        PageCounter::uncharge(self.levels().map(|css| &css.swap), pages);
    }

    /// How many pages more could be swapped out, as far as limits go
    /// (`mem_cgroup_get_nr_swap_pages`).
    #[must_use]
    pub fn swap_room(&self) -> u64 {
        self.levels().map(|css| css.swap.margin()).min().unwrap_or(0)
    }

    /// First part of what a charger over `high` has to do: the levels to
    /// reclaim from, each counted as a `high` event (`reclaim_high`).
    pub fn reclaim_high(self: &Arc<Self>, pages: u64, fx: &mut Effects) -> Vec<Reclaim> {
        let mut todo = Vec::new();
        for css in self.arc_levels().filter(|css| css.parent.is_some()) {
            if css.memory.usage() > css.high.load(Ordering::Relaxed) {
                css.event(MemoryEvent::High, fx);
                todo.push(Reclaim { from: Arc::clone(css), pages });
            }
        }
        todo
    }

    /// Second part, if reclaim did not get it below: how long the charger of
    /// `pages` is to be held, at most 2 seconds; 10 milliseconds and less are
    /// waived. Counts a `high` event of swap where swap is over.
    pub fn throttle_high(&self, pages: u64, fx: &mut Effects) -> Duration {
        let mut memory = Duration::ZERO;
        let mut swap = Duration::ZERO;
        for css in self.levels().filter(|css| css.parent.is_some()) {
            let high = css.high.load(Ordering::Relaxed);
            memory = memory.max(high_delay(css.memory.usage(), high, pages));
            let swap_high = css.swap_high.load(Ordering::Relaxed);
            if css.swap.usage() > swap_high {
                css.event(MemoryEvent::SwapHigh, fx);
            }
            swap = swap.max(high_delay(css.swap.usage(), swap_high, pages));
        }
        charge::clamp_delay(memory + swap)
    }

    /// Opens `memory.peak` or `memory.swap.peak`.
    #[must_use]
    pub fn open_peak(self: &Arc<Self>, resource: Resource) -> Peak {
        Peak::new(self, resource)
    }

    /// Where a charge made through this css belongs now: the nearest css that
    /// is not offline (`memcg_reparent_objcgs`).
    #[must_use]
    pub fn home(self: &Arc<Self>) -> Arc<Self> {
        let mut home = self;
        while let (true, Some(parent)) = (home.offline.load(Ordering::Acquire), &home.parent) {
            home = parent;
        }
        Arc::clone(home)
    }

    /// No limits and no protection (`mem_cgroup_css_reset`). `oom.group` and
    /// the counts stay.
    fn reset(&self) {
        self.memory.set_max(PAGES_MAX);
        self.swap.set_max(PAGES_MAX);
        self.protected.set_min(0);
        self.protected.set_low(0);
        self.propagate_protection();
        self.high.store(PAGES_MAX, Ordering::Relaxed);
        self.swap_high.store(PAGES_MAX, Ordering::Relaxed);
    }

    /// This css and those above it, the root included.
    fn levels(&self) -> impl Iterator<Item = &Self> + Clone {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
    }

    fn arc_levels(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> + Clone {
        core::iter::successors(Some(self), |css| css.parent.as_ref())
    }

    fn counter(&self, resource: Resource) -> &PageCounter {
        match resource {
            Resource::Memory => &self.memory,
            Resource::Swap => &self.swap,
        }
    }

    /// Charges every level, or none and names the full one.
    fn try_charge_pages(self: &Arc<Self>, pages: u64) -> Result<Charged, &Arc<Self>> {
        match PageCounter::try_charge(self.levels().map(|css| &css.memory), pages) {
            Ok(()) => Ok(self.charged()),
            Err(depth) => Err(self.arc_levels().nth(depth).unwrap_or(self)),
        }
    }

    fn charge_pages(&self, pages: u64) -> Charged {
        PageCounter::charge(self.levels().map(|css| &css.memory), pages);
        self.charged()
    }

    fn charged(&self) -> Charged {
        self.propagate_protection();
        let over_high = self.levels().any(|css| {
            css.memory.usage() > css.high.load(Ordering::Relaxed)
                || css.swap.usage() > css.swap_high.load(Ordering::Relaxed)
        });
        Charged { over_high }
    }
}

/// A wish to the embedder: free some pages charged to a css or below it.
#[derive(Clone, Debug)]
pub struct Reclaim {
    /// Whose subtree.
    pub from: Arc<MemoryCss>,
    /// How many pages would be enough.
    pub pages: u64,
}

/// What came of the last step's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing was asked for yet: the first step.
    Start,
    /// So many pages were reclaimed.
    Reclaimed(u64),
    /// The OOM killer killed somebody, or could not.
    Killed(bool),
}

impl Drop for MemoryCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Memory {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<MemoryCss>()?;
        let names = ["memory.events", "memory.events.local", "memory.swap.events"];
        Ok(Arc::new(MemoryCss {
            parent,
            memory: PageCounter::new(PAGES_MAX),
            swap: PageCounter::new(PAGES_MAX),
            high: AtomicU64::new(PAGES_MAX),
            swap_high: AtomicU64::new(PAGES_MAX),
            protected: protection::Settings::new(),
            oom_group: AtomicBool::new(false),
            offline: AtomicBool::new(false),
            events: array::from_fn(|_| AtomicU64::new(0)),
            events_local: array::from_fn(|_| AtomicU64::new(0)),
            memory_peaks: peak::Watchers::new(),
            swap_peaks: peak::Watchers::new(),
            files: EventFiles::new(new.cgroup, names),
            options: self.options,
        }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(memory) = css.state::<MemoryCss>() {
            memory.files.remove();
        }
    }

    fn css_reset(&self, css: &Css, _fx: &mut Effects) {
        if let Some(memory) = css.state::<MemoryCss>() {
            memory.files.hide();
            memory.reset();
        }
    }

    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        if let Some(memory) = css.state::<MemoryCss>() {
            // Limits of the dead bind nobody: what is charged through this css
            // from now on belongs to `home`.
            memory.reset();
            memory.offline.store(true, Ordering::Release);
        }
    }
}
