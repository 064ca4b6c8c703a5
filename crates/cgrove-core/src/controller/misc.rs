//! The `misc` controller: things that a machine has so many of and no more.
//!
//! What they are is the embedder's to say (Linux has encryption contexts:
//! `sev`, `sev_es`, `tdx`). Each has a *capacity* for the whole machine, in
//! `misc.capacity` at the root, and each cgroup may limit its subtree to fewer.
//! A charge is refused with EBUSY where either would be passed. A resource
//! without capacity is not there: it has no lines, no limit and no charges.

use super::event_files::EventFiles;
use super::pids::Limit;
use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::event::EventFile;
use crate::sync::{AtomicU64, Ordering, invariant};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

const EVENTS: usize = 0;
const EVENTS_LOCAL: usize = 1;

/// `max` as a number, which is what it is when written as one.
const MAX: u64 = u64::MAX;

/// What the machine has.
#[derive(Debug)]
struct Machine {
    names: Box<[&'static str]>,
    /// By resource; 0 where there is none.
    capacity: Box<[AtomicU64]>,
}

/// The controller. A clone is a handle on the same capacities.
#[derive(Clone, Debug)]
pub struct Misc {
    machine: Arc<Machine>,
}

impl Misc {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "misc";

    /// With these resources, which keep this order in every file. None has a
    /// capacity yet.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        let capacity = names.iter().map(|_| AtomicU64::new(0)).collect();
        Self { machine: Arc::new(Machine { names: names.into(), capacity }) }
    }

    /// Says how much of a resource there is (`misc_cg_set_capacity`).
    ///
    /// # Errors
    /// EINVAL for a resource that was not named.
    pub fn set_capacity(&self, name: &str, capacity: u64) -> Result<(), Errno> {
        let index = self.machine.find(name)?;
        self.machine.capacity[index].store(capacity, Ordering::Relaxed);
        Ok(())
    }

    /// `misc.capacity`, on the root only: the resources there are.
    #[must_use]
    pub fn capacity(&self) -> Vec<(&'static str, u64)> {
        self.machine.lines(|index| self.machine.capacity(index)).filter(|line| line.1 > 0).collect()
    }

    /// The state behind the files of a cgroup. On the root only `misc.current`
    /// and `misc.peak` exist of these; `None` where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<MiscCss>> {
        lookup::own(cgroup, Self::NAME)
    }

    /// The state that tasks of a cgroup charge: its own or that of the nearest
    /// cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<MiscCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

impl Machine {
    fn find(&self, name: &str) -> Result<usize, Errno> {
        self.names.iter().position(|known| *known == name).ok_or(Errno::EINVAL)
    }

    fn capacity(&self, index: usize) -> u64 {
        self.capacity[index].load(Ordering::Relaxed)
    }

    fn lines<T>(&self, value: impl Fn(usize) -> T) -> impl Iterator<Item = (&'static str, T)> {
        self.names.iter().enumerate().map(move |(index, name)| (*name, value(index)))
    }
}

/// `misc` on one cgroup.
#[derive(Debug)]
pub struct MiscCss {
    parent: Option<Arc<MiscCss>>,
    machine: Arc<Machine>,
    /// By resource.
    resources: Box<[Resource]>,
    files: EventFiles<2>,
}

#[derive(Debug)]
struct Resource {
    usage: AtomicU64,
    max: AtomicU64,
    peak: AtomicU64,
    /// Limits hit here or below.
    events: AtomicU64,
    /// Limits hit at this very css.
    events_local: AtomicU64,
}

impl MiscCss {
    /// `misc.capacity`, as [`Misc::capacity`].
    #[must_use]
    pub fn capacity(&self) -> Vec<(&'static str, u64)> {
        self.machine.lines(|index| self.machine.capacity(index)).filter(|line| line.1 > 0).collect()
    }

    /// `misc.current`: by resource, those that are there or still charged.
    #[must_use]
    pub fn current(&self) -> Vec<(&'static str, u64)> {
        self.counts(|resource| &resource.usage)
    }

    /// `misc.peak`: by resource, those that are there or were charged.
    #[must_use]
    pub fn peak(&self) -> Vec<(&'static str, u64)> {
        self.counts(|resource| &resource.peak)
    }

    /// `misc.events`, whose keys are the names with `.max` behind them.
    #[must_use]
    pub fn events(&self) -> Vec<(&'static str, u64)> {
        self.counts(|resource| &resource.events)
    }

    /// `misc.events.local`, likewise.
    #[must_use]
    pub fn events_local(&self) -> Vec<(&'static str, u64)> {
        self.counts(|resource| &resource.events_local)
    }

    /// `misc.max`: by resource, those that are there.
    #[must_use]
    pub fn max(&self) -> Vec<(&'static str, Limit)> {
        let limit = |index: usize| match self.resources[index].max.load(Ordering::Relaxed) {
            MAX => Limit::Max,
            n => Limit::N(n),
        };
        let there = |index: usize| self.machine.capacity(index) > 0;
        let lines = self.machine.lines(|index| there(index).then(|| limit(index)));
        lines.filter_map(|(name, limit)| Some((name, limit?))).collect()
    }

    /// What a write to `misc.max` meets before its number is looked at.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; EINVAL for a resource of no known name.
    pub fn check_name(&self, name: &str) -> Result<(), Errno> {
        self.files.check()?;
        self.machine.find(name).map(drop)
    }

    /// Writes a line of `misc.max`. It may lie above the capacity and below
    /// the usage.
    ///
    /// # Errors
    /// As [`check_name`](Self::check_name), then EINVAL for a resource that
    /// is not there.
    pub fn set_max(&self, name: &str, max: Limit) -> Result<(), Errno> {
        self.check_name(name)?;
        let index = self.machine.find(name)?;
        if self.machine.capacity(index) == 0 {
            return Err(Errno::EINVAL);
        }
        let max = match max {
            Limit::Max => MAX,
            Limit::N(n) => n,
        };
        self.resources[index].max.store(max, Ordering::Relaxed);
        Ok(())
    }

    /// Charges every level up to the root, or none.
    ///
    /// # Errors
    /// EINVAL for a resource that is not there; EBUSY if a limit or the
    /// capacity would be passed, with an event at that level.
    pub fn try_charge(&self, name: &str, amount: u64, fx: &mut Effects) -> Result<(), Errno> {
        let index = self.machine.find(name)?;
        if self.machine.capacity(index) == 0 {
            return Err(Errno::EINVAL);
        }
        if amount == 0 {
            return Ok(());
        }
        for (depth, css) in self.levels().enumerate() {
            let resource = &css.resources[index];
            let max = resource.max.load(Ordering::Relaxed).min(self.machine.capacity(index));
            let add = |usage: u64| usage.checked_add(amount);
            let old = resource.usage.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
            match old.map(|old| old + amount) {
                Ok(now) if now <= max => {
                    resource.peak.fetch_max(now, Ordering::Relaxed);
                }
                added => {
                    css.event(index, fx);
                    let undo = depth + usize::from(added.is_ok());
                    self.levels().take(undo).for_each(|css| css.cancel(index, amount));
                    return Err(Errno::EBUSY);
                }
            }
        }
        Ok(())
    }

    /// Takes it off again, whether the resource is still there or not.
    pub fn uncharge(&self, name: &str, amount: u64) {
        if let Ok(index) = self.machine.find(name) {
            self.levels().for_each(|css| css.cancel(index, amount));
        }
    }

    /// `misc.events` or `misc.events.local`, for those who match them against
    /// effects; `None` once the files are gone.
    #[must_use]
    pub fn file(&self, local: bool) -> Option<Arc<EventFile>> {
        self.files.file(if local { EVENTS_LOCAL } else { EVENTS })
    }

    /// A charge was refused at this level (`misc_cg_event`).
    fn event(&self, index: usize, fx: &mut Effects) {
        self.resources[index].events_local.fetch_add(1, Ordering::Relaxed);
        if self.parent.is_some() {
            self.files.changed(EVENTS_LOCAL, fx);
        }
        for css in self.levels().filter(|css| css.parent.is_some()) {
            css.resources[index].events.fetch_add(1, Ordering::Relaxed);
            css.files.changed(EVENTS, fx);
        }
    }

    fn cancel(&self, index: usize, amount: u64) {
        let old = self.resources[index].usage.fetch_sub(amount, Ordering::Relaxed);
        invariant!(old.checked_sub(amount).is_some(), "misc count below zero");
    }

    fn counts(&self, which: impl Fn(&Resource) -> &AtomicU64) -> Vec<(&'static str, u64)> {
        let value = |index: usize| which(&self.resources[index]).load(Ordering::Relaxed);
        let lines = self.machine.lines(|index| (self.machine.capacity(index), value(index)));
        lines
            .filter(|(_, (capacity, value))| *capacity > 0 || *value > 0)
            .map(|(name, (_, value))| (name, value))
            .collect()
    }

    fn levels(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
    }
}

impl Drop for MiscCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Misc {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<MiscCss>()?;
        let resource = |_: &&str| Resource {
            usage: AtomicU64::new(0),
            max: AtomicU64::new(MAX),
            peak: AtomicU64::new(0),
            events: AtomicU64::new(0),
            events_local: AtomicU64::new(0),
        };
        Ok(Arc::new(MiscCss {
            parent,
            machine: Arc::clone(&self.machine),
            resources: self.machine.names.iter().map(resource).collect(),
            files: EventFiles::new(new.cgroup, ["misc.events", "misc.events.local"]),
        }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(misc) = css.state::<MiscCss>() {
            misc.files.remove();
        }
    }
}
