//! The `rdma` controller: handles and objects of each RDMA device.
//!
//! A device exists once the embedder has registered it. Each resource is
//! charged one by one, at every level up to the root, and refused with EAGAIN
//! where a limit would be passed. Limits and counts are 32-bit numbers, of
//! which the largest means `max`.
//!
//! A refusal is two events: `max` at the level that was full and above, and
//! `alloc_fail` at the cgroup that asked and above (`rdmacg_event_locked`).
//! The files of both exist since Linux 7.2, as does `rdma.peak`.
//!
//! One lock per hierarchy covers devices and counts, as `rdmacg_mutex` does:
//! RDMA objects are made rarely.

use super::event_files::EventFiles;
use super::pids::Limit;
use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::event::EventFile;
use crate::sync::invariant;
use crate::sync::lock::{RankGuard, RankLock, Ranked};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

const EVENTS: usize = 0;
const EVENTS_LOCAL: usize = 1;

/// The number that means `max` (`S32_MAX`).
const MAX: u32 = i32::MAX as u32;

/// A resource of an RDMA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RdmaResource {
    /// `hca_handle`.
    HcaHandle,
    /// `hca_object`.
    HcaObject,
}

impl RdmaResource {
    /// Both, in the order of every file.
    pub const ALL: [Self; 2] = [Self::HcaHandle, Self::HcaObject];

    /// The key in every file.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::HcaHandle => "hca_handle",
            Self::HcaObject => "hca_object",
        }
    }
}

/// What one cgroup's files say about one resource of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RdmaCounts {
    /// In `rdma.max`.
    pub max: Limit,
    /// In `rdma.current`.
    pub current: u64,
    /// In `rdma.peak`: the most there has been. A refused charge leaves no
    /// trace in it.
    pub peak: u64,
    /// In `rdma.events`: limits hit here or below.
    pub events_max: u64,
    /// In `rdma.events`: charges from here or below that failed.
    pub events_alloc_fail: u64,
    /// In `rdma.events.local`: hits of this very limit.
    pub local_max: u64,
    /// In `rdma.events.local`: charges of this very cgroup that failed.
    pub local_alloc_fail: u64,
}

impl RdmaCounts {
    const NEW: Self = Self {
        max: Limit::Max,
        current: 0,
        peak: 0,
        events_max: 0,
        events_alloc_fail: 0,
        local_max: 0,
        local_alloc_fail: 0,
    };
}

/// By [`RdmaResource`].
type Counts = [RdmaCounts; 2];

/// Rank of all rdma csses of one controller.
#[derive(Debug)]
enum Rdmas {}

type Guard<'a> = RankGuard<'a, Rdmas>;

struct Shared {
    lock: RankLock<Rdmas>,
    /// In the order in which they were registered.
    devices: Ranked<Rdmas, Vec<Box<str>>>,
}

/// The controller. A clone is a handle on the same devices.
#[derive(Clone)]
pub struct Rdma {
    shared: Arc<Shared>,
}

impl fmt::Debug for Rdma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rdma")
    }
}

impl Default for Rdma {
    fn default() -> Self {
        Self::new()
    }
}

impl Rdma {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "rdma";

    /// With no devices yet.
    #[must_use]
    pub fn new() -> Self {
        let lock = RankLock::new();
        let devices = lock.cell(Vec::new());
        Self { shared: Arc::new(Shared { lock, devices }) }
    }

    /// A device is there. Registering a name again changes nothing.
    pub fn add_device(&self, name: &str) {
        let guard = &mut self.shared.lock.lock();
        let devices = self.shared.devices.get_mut(guard);
        if !devices.iter().any(|device| **device == *name) {
            devices.push(name.into());
        }
    }

    /// A device is gone, with nothing charged for it any more. Should one of
    /// the name come back, it finds old limits where the cgroup still is.
    pub fn remove_device(&self, name: &str) {
        let guard = &mut self.shared.lock.lock();
        self.shared.devices.get_mut(guard).retain(|device| **device != *name);
    }

    /// The state behind the files of a cgroup. `None` for the root, which has
    /// no such files, and where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<RdmaCss>> {
        lookup::own::<RdmaCss>(cgroup, Self::NAME).filter(|css| css.parent.is_some())
    }

    /// The state that tasks of a cgroup charge: its own or that of the nearest
    /// cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<RdmaCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

/// `rdma` on one cgroup.
pub struct RdmaCss {
    parent: Option<Arc<RdmaCss>>,
    shared: Arc<Shared>,
    /// By device; those that were never charged or limited are not in it.
    pools: Ranked<Rdmas, BTreeMap<Box<str>, Counts>>,
    files: EventFiles<2>,
}

impl fmt::Debug for RdmaCss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaCss").field("files", &self.files).finish_non_exhaustive()
    }
}

impl RdmaCss {
    /// What all five files say: every device there is, used here or not, with
    /// its resources by [`RdmaResource::ALL`].
    #[must_use]
    pub fn lines(&self) -> Vec<(String, [RdmaCounts; 2])> {
        let guard = &self.shared.lock.lock();
        let pools = self.pools.get(guard);
        let counts = |device: &str| pools.get(device).copied().unwrap_or([RdmaCounts::NEW; 2]);
        let devices = self.shared.devices.get(guard).iter();
        devices.map(|device| (String::from(&**device), counts(device))).collect()
    }

    /// Writes a line of `rdma.max`: all of the limits or none. Those that are
    /// not named stay; of one that is named twice the last counts.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; EINVAL for a limit above `i32::MAX`; ENODEV
    /// if there is no such device, in this order.
    pub fn set_max(&self, device: &str, limits: &[(RdmaResource, Limit)]) -> Result<(), Errno> {
        self.files.check()?;
        if limits.iter().any(|(_, limit)| matches!(limit, Limit::N(n) if *n > MAX.into())) {
            return Err(Errno::EINVAL);
        }
        let guard = &mut self.shared.lock.lock();
        self.check_device(device, guard, Errno::ENODEV)?;
        let pool = self.pool(device, guard);
        for &(resource, limit) in limits {
            let is_max = limit == Limit::N(MAX.into());
            pool[resource as usize].max = if is_max { Limit::Max } else { limit };
        }
        Ok(())
    }

    /// Charges one at every level, or nowhere.
    ///
    /// # Errors
    /// EINVAL if there is no such device; EAGAIN at a limit.
    pub fn try_charge(
        &self,
        device: &str,
        resource: RdmaResource,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let guard = &mut self.shared.lock.lock();
        self.check_device(device, guard, Errno::EINVAL)?;
        let full = self.levels().find(|css| {
            let counts = css.pool(device, guard)[resource as usize];
            let max = match counts.max {
                Limit::Max => MAX.into(),
                Limit::N(max) => max,
            };
            counts.current >= max
        });
        if let Some(full) = full {
            self.refused(full, device, resource, guard, fx);
            return Err(Errno::EAGAIN);
        }
        for css in self.levels() {
            let counts = &mut css.pool(device, guard)[resource as usize];
            counts.current += 1;
            counts.peak = counts.peak.max(counts.current);
        }
        Ok(())
    }

    /// Takes one off at every level.
    pub fn uncharge(&self, device: &str, resource: RdmaResource) {
        let guard = &mut self.shared.lock.lock();
        for css in self.levels() {
            let counts = &mut css.pool(device, guard)[resource as usize];
            invariant!(counts.current > 0, "rdma count below zero");
            counts.current = counts.current.saturating_sub(1);
        }
    }

    /// `rdma.events` or `rdma.events.local`, for those who match them against
    /// effects; `None` once the files are gone.
    #[must_use]
    pub fn file(&self, local: bool) -> Option<Arc<EventFile>> {
        self.files.file(if local { EVENTS_LOCAL } else { EVENTS })
    }

    fn refused(
        &self,
        full: &Self,
        device: &str,
        resource: RdmaResource,
        guard: &mut Guard<'_>,
        fx: &mut Effects,
    ) {
        let index = resource as usize;
        self.pool(device, guard)[index].local_alloc_fail += 1;
        self.notify(EVENTS_LOCAL, fx);
        full.pool(device, guard)[index].local_max += 1;
        full.notify(EVENTS_LOCAL, fx);
        for css in full.levels().filter(|css| css.parent.is_some()) {
            css.pool(device, guard)[index].events_max += 1;
            css.notify(EVENTS, fx);
        }
        for css in self.levels().filter(|css| css.parent.is_some()) {
            css.pool(device, guard)[index].events_alloc_fail += 1;
            css.notify(EVENTS, fx);
        }
    }

    fn notify(&self, file: usize, fx: &mut Effects) {
        if self.parent.is_some() {
            self.files.changed(file, fx);
        }
    }

    fn check_device(&self, name: &str, guard: &Guard<'_>, errno: Errno) -> Result<(), Errno> {
        let there = self.shared.devices.get(guard).iter().any(|device| **device == *name);
        if there { Ok(()) } else { Err(errno) }
    }

    fn pool<'a>(&'a self, device: &str, guard: &'a mut Guard<'_>) -> &'a mut Counts {
        self.pools.get_mut(guard).entry(device.into()).or_insert([RdmaCounts::NEW; 2])
    }

    fn levels(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
    }
}

impl Drop for RdmaCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Rdma {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<RdmaCss>()?;
        Ok(Arc::new(RdmaCss {
            parent,
            shared: Arc::clone(&self.shared),
            pools: self.shared.lock.cell(BTreeMap::new()),
            files: EventFiles::new(new.cgroup, ["rdma.events", "rdma.events.local"]),
        }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(rdma) = css.state::<RdmaCss>() {
            rdma.files.remove();
        }
    }

    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        if let Some(rdma) = css.state::<RdmaCss>() {
            let guard = &mut self.shared.lock.lock();
            for counts in rdma.pools.get_mut(guard).values_mut().flatten() {
                counts.max = Limit::Max;
            }
        }
    }
}
