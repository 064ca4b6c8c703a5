//! A cgroup: a node of the tree.
//!
//! The node owns its *self* css and publishes one css per controller. Down
//! links (children, published csses) are under locks; up links are immutable,
//! but for the domain of a cgroup that becomes threaded.
//! A removed cgroup stays in memory, unreachable by name, until the last css
//! and task that points at it is gone.

use crate::chain::drop_upwards;
use crate::controller::CssState;
use crate::controller::cpu::{CpuTimes, CpuUsage};
use crate::css::{Css, Flags};
use crate::css_set::CssSet;
use crate::event::EventFile;
use crate::id::{CgroupId, Time};
use crate::mask::SsMask;
use crate::sync::lock::{Leaf, Ranked, Set, Tree};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

bitflags::bitflags! {
    /// Written under the set lock, read anywhere.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct CgroupFlags: u32 {
        /// Its tasks are to be frozen (CGRP_FREEZE).
        const FREEZE = 1;
        /// They are (CGRP_FROZEN).
        const FROZEN = 2;
    }
}

/// What the tree lock protects in a cgroup.
#[derive(Debug, Default)]
pub(crate) struct CgroupTree {
    /// Live children by name. A removed child leaves at once.
    pub(crate) children: BTreeMap<Box<str>, Arc<Cgroup>>,
    /// `cgroup.max.depth`; `usize::MAX` is `max`.
    pub(crate) max_depth: usize,
    /// `cgroup.max.descendants`; `usize::MAX` is `max`.
    pub(crate) max_descendants: usize,
    /// `cgroup.subtree_control`: what was asked for.
    pub(crate) subtree_control: SsMask,
    /// What that comes to: with the implicit controllers and those depended
    /// upon, and without what is not to be had here.
    pub(crate) subtree_ss_mask: SsMask,
    /// The domain that a threaded cgroup is part of; `None` for a domain.
    pub(crate) domain: Option<Arc<Cgroup>>,
    /// Live children that are threaded.
    pub(crate) nr_threaded_children: usize,
    /// `cgroup.freeze`: what was asked for here.
    pub(crate) freeze: bool,
    /// Asked for here or above.
    pub(crate) e_freeze: bool,
}

/// What the set lock protects in a cgroup.
#[derive(Debug, Default)]
pub(crate) struct CgroupSet {
    /// The css_sets linked to this cgroup. A set unlinks itself with its last
    /// reference, so an upgrade fails only between the two.
    pub(crate) csets: Vec<Weak<CssSet>>,
    /// Likewise, the sets of the threaded cgroups whose domain this is, by number.
    /// There can be as many as there are threads.
    pub(crate) threaded_csets: BTreeMap<u64, Weak<CssSet>>,
    pub(crate) freezer: Freezer,
}

/// What the set lock protects in a cgroup for the freezer.
#[derive(Debug, Default)]
pub(crate) struct Freezer {
    /// Linked tasks that are frozen or stopped.
    pub(crate) nr_frozen_tasks: usize,
    /// Live cgroups below that are frozen.
    pub(crate) nr_frozen_descendants: usize,
    /// When FREEZE was last set.
    pub(crate) since: Time,
    /// How long FREEZE has been set, without the time since then.
    pub(crate) total: Duration,
}

/// A node of the hierarchy.
pub struct Cgroup {
    pub(crate) id: CgroupId,
    pub(crate) name: Box<str>,
    pub(crate) level: usize,
    pub(crate) parent: Option<Arc<Cgroup>>,
    pub(crate) self_css: Css,
    /// `cgroup.events`.
    pub(crate) events: Arc<EventFile>,
    /// Published csses by controller. Written under the tree lock plus this
    /// leaf, so either is enough to read.
    pub(crate) subsys: Leaf<Box<[Option<Arc<Css>>]>>,
    /// Live cgroups below. Written under the tree and the set lock, so either
    /// is enough to read.
    pub(crate) nr_descendants: AtomicUsize,
    /// Removed cgroups below that are not released yet. Under the tree lock.
    pub(crate) nr_dying_descendants: AtomicUsize,
    /// Dying csses here and below, by controller. Under the tree lock.
    pub(crate) nr_dying_subsys: Box<[AtomicUsize]>,
    /// Odd while a `cgroup.kill` looks for tasks, and never the same again. A
    /// fork compares it after it has linked the child: see `kill.rs`.
    pub(crate) kill_seq: AtomicU64,
    pub(crate) flags: AtomicU32,
    /// CPU time used here and below, whether or not `cpu` is on.
    pub(crate) usage: CpuUsage,
    pub(crate) tree: Ranked<Tree, CgroupTree>,
    pub(crate) set: Ranked<Set, CgroupSet>,
}

impl Cgroup {
    /// Its name for life, which a later cgroup of the same path does not share.
    #[must_use]
    pub fn id(&self) -> CgroupId {
        self.id
    }

    /// The last part of its path; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Steps from the root, which is 0.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// The cgroup above.
    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Cgroup>> {
        self.parent.as_ref()
    }

    /// Whether it has been removed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        !self.self_css.has(Flags::ONLINE)
    }

    /// `populated` in `cgroup.events`: whether a task that is not dead is here
    /// or below, those hidden from `cgroup.procs` included.
    #[must_use]
    pub fn populated(&self) -> bool {
        self.self_css.is_populated()
    }

    /// `frozen` in `cgroup.events`: whether every task here and below has come
    /// to a halt because that was asked for.
    #[must_use]
    pub fn frozen(&self) -> bool {
        self.is(CgroupFlags::FROZEN)
    }

    /// Whether its tasks are to be frozen, because of itself or of a cgroup
    /// above it.
    #[must_use]
    pub fn freezing(&self) -> bool {
        self.is(CgroupFlags::FREEZE)
    }

    /// `cgroup.events`, for those who match it against effects.
    #[must_use]
    pub fn events_file(&self) -> &Arc<EventFile> {
        &self.events
    }

    /// The path from the root, with ` (deleted)` behind that of a dead cgroup,
    /// as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn path(&self) -> String {
        let mut names: Vec<&str> =
            self.ancestors_and_self().filter(|c| c.parent.is_some()).map(Cgroup::name).collect();
        names.reverse();
        let mut path = String::from("/");
        path.push_str(&names.join("/"));
        if self.is_dead() {
            path.push_str(" (deleted)");
        }
        path
    }

    /// Adds the CPU time that a task here has used, at every level.
    pub fn charge_cpu(&self, used: CpuTimes) {
        CpuUsage::charge(self.ancestors_and_self().map(|cgroup| &cgroup.usage), used);
    }

    /// The CPU time used here and below, removed cgroups included: the first
    /// lines of `cpu.stat`.
    #[must_use]
    pub fn cpu_times(&self) -> CpuTimes {
        self.usage.read()
    }

    /// The published css of the controller named `name`, dying ones included.
    #[must_use]
    pub fn css(&self, name: &str) -> Option<Arc<Css>> {
        self.subsys.lock().iter().flatten().find(|css| css.controller() == Some(name)).cloned()
    }

    /// The controllers' states on this cgroup.
    pub(crate) fn states(&self) -> impl Iterator<Item = CssState> {
        let csses: Vec<_> = self.csses().collect();
        csses.into_iter().filter_map(|css| css.ss.as_ref().map(|ss| Arc::clone(&ss.state)))
    }

    /// The published csses in controller order.
    pub(crate) fn csses(&self) -> impl Iterator<Item = Arc<Css>> {
        let csses: Vec<_> = self.subsys.lock().iter().flatten().cloned().collect();
        csses.into_iter()
    }

    #[inline]
    pub(crate) fn is(&self, flag: CgroupFlags) -> bool {
        self.flags.load(Ordering::Relaxed) & flag.bits() != 0
    }

    /// Set lock held by the caller.
    pub(crate) fn mark(&self, flag: CgroupFlags, on: bool) {
        if on {
            self.flags.fetch_or(flag.bits(), Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag.bits(), Ordering::Relaxed);
        }
    }

    /// Whether `self` is `top` or below it.
    pub(crate) fn is_within(&self, top: &Cgroup) -> bool {
        self.ancestors_and_self().any(|cgroup| core::ptr::eq(cgroup, top))
    }

    pub(crate) fn ancestors_and_self(&self) -> impl Iterator<Item = &Cgroup> {
        core::iter::successors(Some(self), |cgroup| cgroup.parent.as_deref())
    }

    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &Cgroup> {
        self.ancestors_and_self().skip(1)
    }

    /// Adds `by` to a counter that only holders of the tree lock write.
    pub(crate) fn bump(counter: &AtomicUsize, by: isize) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
    }
}

impl Cgroup {
    /// Takes the cgroup above out of one that is being dropped, which holds it
    /// twice.
    fn take_parent(&mut self) -> Option<Arc<Self>> {
        self.self_css.take_parent();
        self.parent.take()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop_upwards(self.take_parent(), Self::take_parent);
    }
}

impl fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cgroup")
            .field("id", &self.id)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
