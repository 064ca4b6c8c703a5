//! The `cpuset` controller: which CPUs and memory nodes tasks may use.
//!
//! A cgroup asks for CPUs and nodes (`cpuset.cpus`, `cpuset.mems`) and gets
//! those of them that its parent has; if it asks for none, or for none that
//! the parent has, it gets all the parent has. What it gets is its *effective*
//! set, worked out again from the top down whenever something above changes.
//! On Linux 7.2 the request itself is never refused for lying outside of the
//! parent's, only for naming what the machine can never have.
//!
//! `cpuset.cpus.exclusive` is a claim against siblings for partitions to come:
//! it may not overlap with a sibling's, nor take all of what a sibling asks
//! for. Partitions themselves (`cpuset.cpus.partition`) are not here, so an
//! exclusive claim takes nothing from anybody's effective set.
//!
//! # Lock
//!
//! One lock per hierarchy covers all sets of all its cpusets, as
//! `cpuset_mutex` does, since one write can change a whole subtree. Nothing
//! else is taken inside it.

use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::controller::id_mask::IdMask;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::id::CgroupId;
use crate::migrate::TaskSet;
use crate::sync::lock::{RankGuard, RankLock, Ranked};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

/// The numbers that a memory node can have end here (`MAX_NUMNODES`).
pub const MAX_NODES: u32 = 1024;

/// Rank of all cpusets of one controller.
#[derive(Debug)]
enum Cpusets {}

type Guard<'a> = RankGuard<'a, Cpusets>;

/// What the machine has.
#[derive(Clone, Debug, Default)]
struct Machine {
    possible_cpus: IdMask,
    possible_mems: IdMask,
    online_cpus: IdMask,
    online_mems: IdMask,
}

/// The lock and what it protects besides the cpusets.
struct Shared {
    lock: RankLock<Cpusets>,
    machine: Ranked<Cpusets, Machine>,
    root: Ranked<Cpusets, Weak<CpusetCss>>,
}

/// The controller. Threaded: threads of one process may differ in it. A clone
/// is a handle on the same machine; it serves one hierarchy.
#[derive(Clone)]
pub struct Cpuset {
    shared: Arc<Shared>,
}

impl fmt::Debug for Cpuset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cpuset")
    }
}

impl Cpuset {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "cpuset";

    /// For a machine that can have these CPUs and memory nodes, and has all of
    /// them now.
    #[must_use]
    pub fn new(cpus: IdMask, mems: IdMask) -> Self {
        let lock = RankLock::new();
        let machine = lock.cell(Machine {
            online_cpus: cpus.clone(),
            online_mems: mems.clone(),
            possible_cpus: cpus,
            possible_mems: mems,
        });
        let root = lock.cell(Weak::new());
        Self { shared: Arc::new(Shared { lock, machine, root }) }
    }

    /// CPUs or nodes came or went. Returns the cpusets whose effective sets
    /// changed, from the top down: their tasks are to be moved over.
    #[must_use = "tasks are to be moved over"]
    pub fn set_online(&self, cpus: &IdMask, mems: &IdMask) -> Vec<Arc<CpusetCss>> {
        let guard = &mut self.shared.lock.lock();
        let machine = self.shared.machine.get_mut(guard);
        machine.online_cpus = cpus.and(&machine.possible_cpus);
        machine.online_mems = mems.and(&machine.possible_mems);
        match self.shared.root.get(guard).upgrade() {
            Some(root) => root.update(guard),
            None => Vec::new(),
        }
    }

    /// The state behind the files of a cgroup. On the root only
    /// `cpuset.cpus.effective` and `cpuset.mems.effective` exist of these;
    /// `None` where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<CpusetCss>> {
        lookup::own(cgroup, Self::NAME)
    }

    /// The state that holds for tasks of a cgroup: its own or that of the
    /// nearest cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<CpusetCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

/// `cpuset` on one cgroup.
pub struct CpusetCss {
    cgroup: CgroupId,
    parent: Option<Arc<CpusetCss>>,
    shared: Arc<Shared>,
    sets: Ranked<Cpusets, Sets>,
}

/// What the lock protects in a cpuset.
#[derive(Debug, Default)]
struct Sets {
    cpus: IdMask,
    mems: IdMask,
    exclusive: IdMask,
    effective_cpus: IdMask,
    effective_mems: IdMask,
    effective_exclusive: IdMask,
    /// Online children, of which each cgroup has one; it leaves when it is killed.
    children: BTreeMap<CgroupId, Weak<CpusetCss>>,
    /// The files are gone from their directory.
    killed: bool,
}

impl fmt::Debug for CpusetCss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpusetCss").field("cgroup", &self.cgroup).finish_non_exhaustive()
    }
}

impl CpusetCss {
    /// Whose css it is.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.cgroup
    }

    /// `cpuset.cpus`: what was asked for.
    #[must_use]
    pub fn cpus(&self) -> IdMask {
        self.read(|sets| &sets.cpus)
    }

    /// `cpuset.mems`: what was asked for.
    #[must_use]
    pub fn mems(&self) -> IdMask {
        self.read(|sets| &sets.mems)
    }

    /// `cpuset.cpus.effective`: what tasks may use.
    #[must_use]
    pub fn effective_cpus(&self) -> IdMask {
        self.read(|sets| &sets.effective_cpus)
    }

    /// `cpuset.mems.effective`: what tasks may use.
    #[must_use]
    pub fn effective_mems(&self) -> IdMask {
        self.read(|sets| &sets.effective_mems)
    }

    /// `cpuset.cpus.exclusive`: what was claimed.
    #[must_use]
    pub fn exclusive_cpus(&self) -> IdMask {
        self.read(|sets| &sets.exclusive)
    }

    /// `cpuset.cpus.exclusive.effective`: the part of the claim that lies
    /// within the parent's.
    #[must_use]
    pub fn effective_exclusive_cpus(&self) -> IdMask {
        self.read(|sets| &sets.effective_exclusive)
    }

    /// Writes `cpuset.cpus`. Returns the cpusets whose effective sets changed,
    /// from the top down: their tasks are to be moved over.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; ERANGE for a number from
    /// [`nr_cpu_ids`](Self::nr_cpu_ids) up; EINVAL for a CPU that the machine
    /// can never have.
    pub fn set_cpus(self: &Arc<Self>, cpus: IdMask) -> Result<Vec<Arc<Self>>, Errno> {
        let guard = &mut self.shared.lock.lock();
        self.check(guard)?;
        self.check_cpus(&cpus, guard)?;
        self.sets.get_mut(guard).cpus = cpus;
        Ok(self.update(guard))
    }

    /// Writes `cpuset.mems`, likewise.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; ERANGE for a number from [`MAX_NODES`] up;
    /// EINVAL for a node that the machine can never have.
    pub fn set_mems(self: &Arc<Self>, mems: IdMask) -> Result<Vec<Arc<Self>>, Errno> {
        let guard = &mut self.shared.lock.lock();
        self.check(guard)?;
        if mems.last().is_some_and(|last| last >= MAX_NODES) {
            return Err(Errno::ERANGE);
        }
        if !mems.is_subset(&self.shared.machine.get(guard).possible_mems) {
            return Err(Errno::EINVAL);
        }
        self.sets.get_mut(guard).mems = mems;
        Ok(self.update(guard))
    }

    /// Writes `cpuset.cpus.exclusive`. No task is affected: there are no
    /// partitions that would use it.
    ///
    /// # Errors
    /// As [`set_cpus`](Self::set_cpus), and EINVAL for a CPU that a sibling
    /// claims and for all of the CPUs that a sibling asks for.
    pub fn set_exclusive_cpus(self: &Arc<Self>, cpus: IdMask) -> Result<(), Errno> {
        let guard = &mut self.shared.lock.lock();
        self.check(guard)?;
        self.check_cpus(&cpus, guard)?;
        if self.sets.get(guard).exclusive == cpus {
            return Ok(());
        }
        let siblings = self.parent.iter().flat_map(|parent| parent.children(guard));
        for sibling in siblings.filter(|sibling| !Arc::ptr_eq(sibling, self)) {
            let other = sibling.sets.get(guard);
            let starved = !other.cpus.is_empty() && other.cpus.is_subset(&cpus);
            if starved || cpus.intersects(&other.exclusive) {
                return Err(Errno::EINVAL);
            }
        }
        self.sets.get_mut(guard).exclusive = cpus;
        let _ = self.update(guard);
        Ok(())
    }

    /// The first number that no CPU can have (`nr_cpu_ids`). Linux refuses it
    /// where it stands in a list, before what comes behind it.
    #[must_use]
    pub fn nr_cpu_ids(&self) -> u32 {
        let guard = self.shared.lock.lock();
        self.shared.machine.get(&guard).possible_cpus.last().map_or(0, |last| last + 1)
    }

    /// May a task that was elsewhere come here (`cpuset_can_attach_check`)?
    ///
    /// # Errors
    /// ENOSPC if there is no CPU to run on.
    pub fn can_attach(&self) -> Result<(), Errno> {
        let guard = self.shared.lock.lock();
        if self.sets.get(&guard).effective_cpus.is_empty() {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn read(&self, which: impl Fn(&Sets) -> &IdMask) -> IdMask {
        let guard = self.shared.lock.lock();
        which(self.sets.get(&guard)).clone()
    }

    fn check(&self, guard: &Guard<'_>) -> Result<(), Errno> {
        if self.sets.get(guard).killed { Err(Errno::ENODEV) } else { Ok(()) }
    }

    fn check_cpus(&self, cpus: &IdMask, guard: &Guard<'_>) -> Result<(), Errno> {
        let possible = &self.shared.machine.get(guard).possible_cpus;
        if cpus.last() > possible.last() {
            return Err(Errno::ERANGE);
        }
        if !cpus.is_subset(possible) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    fn children(&self, guard: &Guard<'_>) -> Vec<Arc<Self>> {
        self.sets.get(guard).children.values().filter_map(Weak::upgrade).collect()
    }

    /// Works out the effective sets of this cpuset and, where they changed, of
    /// those below; returns the ones whose tasks this concerns.
    fn update(self: &Arc<Self>, guard: &mut Guard<'_>) -> Vec<Arc<Self>> {
        let mut concerned = Vec::new();
        let mut todo = VecDeque::from([Arc::clone(self)]);
        while let Some(css) = todo.pop_front() {
            let (cpus, mems, exclusive) = css.compute(guard);
            let sets = css.sets.get_mut(guard);
            let moved = sets.effective_cpus != cpus || sets.effective_mems != mems;
            if !moved && sets.effective_exclusive == exclusive {
                continue;
            }
            sets.effective_cpus = cpus;
            sets.effective_mems = mems;
            sets.effective_exclusive = exclusive;
            todo.extend(css.children(guard));
            if moved {
                concerned.push(css);
            }
        }
        concerned
    }

    /// Effective CPUs, nodes and exclusive CPUs, given the parent's.
    fn compute(&self, guard: &Guard<'_>) -> (IdMask, IdMask, IdMask) {
        let Some(parent) = &self.parent else {
            let machine = self.shared.machine.get(guard);
            let (cpus, mems) = (machine.online_cpus.clone(), machine.online_mems.clone());
            return (cpus, mems, machine.possible_cpus.clone());
        };
        let (own, above) = (self.sets.get(guard), parent.sets.get(guard));
        let granted = |asked: &IdMask, had: &IdMask| match asked.and(had) {
            none if none.is_empty() => had.clone(),
            some => some,
        };
        (
            granted(&own.cpus, &above.effective_cpus),
            granted(&own.mems, &above.effective_mems),
            own.exclusive.and(&above.effective_exclusive),
        )
    }
}

impl Drop for CpusetCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Cpuset {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::ATTACH
    }

    fn threaded(&self) -> bool {
        true
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<CpusetCss>()?;
        let is_root = parent.is_none();
        let css = Arc::new(CpusetCss {
            cgroup: new.cgroup,
            parent,
            shared: Arc::clone(&self.shared),
            sets: self.shared.lock.cell(Sets::default()),
        });
        if is_root {
            // A root css is online from the start.
            let guard = &mut self.shared.lock.lock();
            *self.shared.root.get_mut(guard) = Arc::downgrade(&css);
            let _ = css.update(guard);
        }
        Ok(css)
    }

    fn css_online(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        if let Some(cpuset) = css.state_arc::<CpusetCss>() {
            let guard = &mut self.shared.lock.lock();
            if let Some(parent) = &cpuset.parent {
                let children = &mut parent.sets.get_mut(guard).children;
                children.insert(cpuset.cgroup, Arc::downgrade(&cpuset));
            }
            // Nobody is in it yet whom it could concern.
            let _ = cpuset.update(guard);
        }
        Ok(())
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(cpuset) = css.state::<CpusetCss>() {
            let guard = &mut self.shared.lock.lock();
            cpuset.sets.get_mut(guard).killed = true;
            // A dying cpuset claims nothing any more. Its last tasks keep the
            // CPUs they have (`is_cpuset_online` passes it over).
            if let Some(parent) = &cpuset.parent {
                parent.sets.get_mut(guard).children.remove(&cpuset.cgroup);
            }
        }
    }

    fn can_attach(&self, tasks: &TaskSet<'_>, _fx: &mut Effects) -> Result<(), Errno> {
        // The whole set is judged by where its first task goes, as in Linux.
        let to = tasks.iter().next().and_then(|moving| moving.to.state::<CpusetCss>());
        to.map_or(Ok(()), CpusetCss::can_attach)
    }
}
