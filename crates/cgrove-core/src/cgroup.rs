//! A cgroup: a node of the tree.
//!
//! The node owns its *self* css and publishes one css per controller. Down
//! links (children, published csses) are under locks; up links are immutable.
//! A removed cgroup stays in memory, unreachable by name, until the last css
//! and task that points at it is gone.

use crate::controller::CssState;
use crate::css::{Css, Flags};
use crate::css_set::CssSet;
use crate::event::EventFile;
use crate::id::CgroupId;
use crate::sync::lock::{Leaf, Ranked, Set, Tree};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

/// What the tree lock protects in a cgroup.
#[derive(Debug, Default)]
pub(crate) struct CgroupTree {
    /// Live children by name. A removed child leaves at once.
    pub(crate) children: BTreeMap<Box<str>, Arc<Cgroup>>,
    /// `cgroup.max.depth`; `usize::MAX` is `max`.
    pub(crate) max_depth: usize,
    /// `cgroup.max.descendants`; `usize::MAX` is `max`.
    pub(crate) max_descendants: usize,
}

/// What the set lock protects in a cgroup.
#[derive(Debug, Default)]
pub(crate) struct CgroupSet {
    /// The css_sets linked to this cgroup. A set unlinks itself with its last
    /// reference, so an upgrade fails only between the two.
    pub(crate) csets: Vec<Weak<CssSet>>,
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
    /// Live cgroups below. Written under the tree lock.
    pub(crate) nr_descendants: AtomicUsize,
    /// Removed cgroups below that are not released yet. Under the tree lock.
    pub(crate) nr_dying_descendants: AtomicUsize,
    /// Dying csses here and below, by controller. Under the tree lock.
    pub(crate) nr_dying_subsys: Box<[AtomicUsize]>,
    /// Odd while a `cgroup.kill` looks for tasks, and never the same again. A
    /// fork compares it after it has linked the child: see `kill.rs`.
    pub(crate) kill_seq: AtomicU64,
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

impl fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cgroup")
            .field("id", &self.id)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
