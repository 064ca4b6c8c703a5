//! A hierarchy: the façade, and the owner of the locks and queues.
//!
//! There are no statics: an embedder makes as many hierarchies as it likes and
//! they know nothing of each other. The operations live in the file of the
//! concept they belong to; this file holds what they share.

use crate::cgroup::{Cgroup, CgroupSet, CgroupTree};
use crate::control::Traits;
use crate::controller::cpu::CpuUsage;
use crate::controller::{Controller, Hooks, NewCss};
use crate::css::{Css, CssRef, Flags, SsBinding};
use crate::effect::{Effect, Effects, Queue};
use crate::event::EventFile;
use crate::id::{CgroupId, CssId, Time};
use crate::mask::SsMask;
use crate::sync::grace::{Grace, ReadSection, Reader};
use crate::sync::lock::{Leaf, RankLock, Ranked, Set, Tree, TreeGuard};
use crate::sync::mutant::Mutation;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::teardown::Work;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// One cgroup tree with its controllers. A clone is another handle on it.
#[derive(Clone)]
pub struct Hierarchy {
    pub(crate) inner: Arc<Inner>,
}

/// What a hierarchy is made of.
pub(crate) struct Inner {
    pub(crate) tree_lock: RankLock<Tree>,
    pub(crate) set_lock: RankLock<Set>,
    pub(crate) controllers: Box<[Arc<dyn Controller>]>,
    /// For each kind of per-task verb, the controllers that have it.
    pub(crate) hooked: Hooked,
    /// Which controllers are threaded, implicit, or need others.
    pub(crate) traits: Traits,
    pub(crate) binding: Ranked<Tree, Binding>,
    pub(crate) root: Arc<Cgroup>,
    pub(crate) grace: Grace,
    pub(crate) queues: [Leaf<VecDeque<Work>>; 3],
    next_cgroup: AtomicU64,
    next_css: AtomicU64,
    pub(crate) next_css_set: AtomicU64,
    pub(crate) mutation: Mutation,
}

/// Which controllers the hierarchy has for itself.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) bound: SsMask,
    /// Being given up: wherever their csses are, tasks go to the root css.
    pub(crate) leaving: SsMask,
}

/// Controllers by the per-task verbs they have, ascending.
#[derive(Debug, Default)]
pub(crate) struct Hooked {
    pub(crate) fork: Vec<usize>,
    pub(crate) exit: Vec<usize>,
    pub(crate) release: Vec<usize>,
    pub(crate) attach: Vec<usize>,
}

impl Hooked {
    fn of(controllers: &[Arc<dyn Controller>]) -> Self {
        let with = |hook| {
            (0..controllers.len())
                .filter(|&ssid| controllers[ssid].hooks().contains(hook))
                .collect()
        };
        Self {
            fork: with(Hooks::FORK),
            exit: with(Hooks::EXIT),
            release: with(Hooks::RELEASE),
            attach: with(Hooks::ATTACH),
        }
    }
}

/// Collects the controllers of a hierarchy to be.
#[derive(Default)]
pub struct Builder {
    controllers: Vec<Arc<dyn Controller>>,
    mixable: bool,
    mutation: Mutation,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.controllers.iter().map(|c| c.name())).finish()
    }
}

impl Builder {
    /// Adds a controller. The order of the calls is the order in which
    /// controllers are asked, and undone in reverse of.
    #[must_use]
    pub fn controller(mut self, controller: Arc<dyn Controller>) -> Self {
        self.controllers.push(controller);
        self
    }

    /// Lets every cgroup hold tasks and hand controllers to its children at the
    /// same time, which Linux allows its root only (`cgroup_is_mixable`). For an
    /// embedder whose controllers limit and count: those need no rule for how
    /// tasks share with cgroups beside them.
    #[must_use]
    pub fn internal_tasks(mut self) -> Self {
        self.mixable = true;
        self
    }

    /// Builds with a known-wrong protocol, for the tests that must see it.
    #[cfg(any(loom, shuttle, test))]
    #[doc(hidden)]
    #[must_use]
    pub fn mutant(mut self, mutant: Option<crate::sync::mutant::Mutant>) -> Self {
        self.mutation.on = mutant;
        self
    }

    /// Makes the hierarchy, its root and the root's csses. Nothing is switched
    /// on below the root but what is implicit.
    ///
    /// # Panics
    /// If a controller refuses to make a root css or is implicit and not
    /// threaded, or if there are more than [`SsMask::CAPACITY`]: faults of the
    /// embedder and not of any input.
    #[must_use]
    pub fn build(self, now: Time) -> Hierarchy {
        let tree_lock = RankLock::new();
        let set_lock = RankLock::new();
        let controllers = self.controllers.into_boxed_slice();
        let mut traits = Traits::of(&controllers);
        traits.mixable = self.mixable;
        let bound = SsMask::first(controllers.len());
        let root = Arc::new(Cgroup::raw(
            Locks { tree: &tree_lock, set: &set_lock },
            CgroupId(1),
            "",
            None,
            controllers.len(),
            CssId(1),
            now,
        ));
        root.self_css.set(Flags::ONLINE);
        let mut inner = Inner {
            hooked: Hooked::of(&controllers),
            traits,
            binding: tree_lock.cell(Binding { bound, leaving: SsMask::NONE }),
            tree_lock,
            set_lock,
            controllers,
            root,
            grace: Grace::new(),
            queues: [const { VecDeque::new() }; 3].map(Leaf::new),
            next_cgroup: AtomicU64::new(2),
            next_css: AtomicU64::new(2),
            next_css_set: AtomicU64::new(0),
            mutation: self.mutation,
        };
        inner.make_root_csses(now);
        inner.propagate(core::slice::from_ref(&inner.root), &mut inner.tree_lock.lock());
        Hierarchy { inner: Arc::new(inner) }
    }
}

/// The locks whose cells a cgroup is made of.
#[derive(Clone, Copy)]
pub(crate) struct Locks<'a> {
    tree: &'a RankLock<Tree>,
    set: &'a RankLock<Set>,
}

impl Cgroup {
    pub(crate) fn raw(
        locks: Locks<'_>,
        id: CgroupId,
        name: &str,
        parent: Option<&Arc<Cgroup>>,
        controllers: usize,
        self_id: CssId,
        now: Time,
    ) -> Self {
        let parent_self = parent.map(|parent| CssRef::SelfOf(Arc::clone(parent)));
        Self {
            id,
            name: Box::from(name),
            level: parent.map_or(0, |parent| parent.level + 1),
            parent: parent.cloned(),
            self_css: Css::new(locks.tree, self_id, None, parent_self, now),
            events: EventFile::new(id, "cgroup.events"),
            subsys: Leaf::new(core::iter::repeat_with(|| None).take(controllers).collect()),
            nr_descendants: AtomicUsize::new(0),
            nr_dying_descendants: AtomicUsize::new(0),
            nr_dying_subsys: core::iter::repeat_with(|| AtomicUsize::new(0))
                .take(controllers)
                .collect(),
            kill_seq: AtomicU64::new(0),
            flags: AtomicU32::new(0),
            usage: CpuUsage::new(),
            tree: locks.tree.cell(CgroupTree {
                max_depth: usize::MAX,
                max_descendants: usize::MAX,
                ..CgroupTree::default()
            }),
            set: locks.set.cell(CgroupSet::default()),
        }
    }
}

impl Hierarchy {
    /// Starts a hierarchy with no controllers.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The cgroup everything hangs from. It cannot be removed or limited.
    #[must_use]
    pub fn root(&self) -> &Arc<Cgroup> {
        &self.inner.root
    }

    /// Registers the calling thread as one that looks csses up.
    #[must_use]
    pub fn register_reader(&self) -> Reader {
        self.inner.grace.register()
    }

    /// Opens a read section: `css_offline` and `css_free` of what is found
    /// inside wait until it closes (`rcu_read_lock`).
    pub fn read<'r>(&self, reader: &'r Reader) -> ReadSection<'r> {
        reader.enter(&self.inner.grace, self.inner.mutation)
    }

    /// Drops a reference that [`Css::try_get`] or [`Css::try_get_online`] gave.
    #[inline]
    pub fn put(&self, css: &CssRef, reader: &Reader, fx: &mut Effects) {
        if css.refs.put_at(reader) {
            self.inner.queue(Queue::Release, Work::Release(css.clone()), fx);
        }
    }

    /// A timer asked for by [`Effect::Timer`] came due.
    pub fn timer(&self, file: &Arc<EventFile>, fx: &mut Effects) {
        file.timer(fx);
    }
}

impl fmt::Debug for Hierarchy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hierarchy")
            .field(
                "controllers",
                &self.inner.controllers.iter().map(|c| c.name()).collect::<Vec<_>>(),
            )
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn locks(&self) -> Locks<'_> {
        Locks { tree: &self.tree_lock, set: &self.set_lock }
    }

    pub(crate) fn next_cgroup_id(&self) -> CgroupId {
        CgroupId(self.next_cgroup.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn next_css_id(&self) -> CssId {
        CssId(self.next_css.fetch_add(1, Ordering::Relaxed))
    }

    fn make_root_csses(&mut self, now: Time) {
        let mut tree = self.tree_lock.lock();
        for (ssid, controller) in self.controllers.iter().enumerate() {
            let new = NewCss { cgroup: self.root.id, parent: None };
            let Ok(state) = controller.css_alloc(new) else {
                panic!("controller {} refused a root css", controller.name());
            };
            let binding = SsBinding {
                ssid,
                controller: Arc::clone(controller),
                state,
                cgroup: Arc::clone(&self.root),
            };
            let css =
                Arc::new(Css::new(&self.tree_lock, self.next_css_id(), Some(binding), None, now));
            css.set(Flags::ONLINE | Flags::VISIBLE);
            css.tree.get_mut(&mut tree).online_cnt = 1;
            self.root.subsys.lock()[ssid] = Some(css);
        }
    }

    /// Drops a reference that is not on a reader's shard.
    pub(crate) fn put(&self, css: &CssRef, fx: &mut Effects) {
        if css.refs.put() {
            self.queue(Queue::Release, Work::Release(css.clone()), fx);
        }
    }

    pub(crate) fn queue(&self, queue: Queue, work: Work, fx: &mut Effects) {
        self.queues[queue as usize].lock().push_back(work);
        fx.push(Effect::Work(queue));
    }

    /// Waits for whoever holds the tree lock: the mover of a task or of a place.
    pub(crate) fn wait_for_mover(&self) {
        drop(self.tree_lock.lock());
    }

    /// Visits live cgroups from `top` down, parents first.
    pub(crate) fn live_preorder(top: &Arc<Cgroup>, tree: &TreeGuard<'_>) -> Vec<Arc<Cgroup>> {
        let mut order = Vec::new();
        let mut todo = alloc::vec![Arc::clone(top)];
        while let Some(cgroup) = todo.pop() {
            todo.extend(cgroup.tree.get(tree).children.values().rev().cloned());
            order.push(cgroup);
        }
        order
    }
}

impl Drop for Inner {
    /// Opens the cycles that a live tree consists of: a cgroup lists its
    /// children and publishes its csses, a set lists its tasks, and all of them
    /// point back.
    fn drop(&mut self) {
        let mut tree = self.tree_lock.lock();
        let set = self.set_lock.lock();
        let mut todo = alloc::vec![CssRef::SelfOf(Arc::clone(&self.root))];
        let mut found = Vec::new();
        while let Some(css) = todo.pop() {
            // Children of a self css are the cgroups below, dying ones too.
            todo.extend(css.tree.get(&tree).children.values().filter_map(|css| css.upgrade()));
            if let CssRef::SelfOf(cgroup) = &css {
                found.extend(cgroup.csses().map(CssRef::Of));
                cgroup.subsys.lock().fill(None);
                core::mem::take(&mut cgroup.tree.get_mut(&mut tree).children);
                for cset in cgroup.csets(&set) {
                    let mut list = cset.list.lock();
                    let tasks =
                        (core::mem::take(&mut list.tasks), core::mem::take(&mut list.unfreed));
                    drop(list);
                    drop(tasks);
                }
            }
            found.push(css);
        }
        for queue in &self.queues {
            queue.lock().clear();
        }
        // Found from the root down. Dropped the other way, each still finds its
        // parent held; else a deep tree would be dropped by as deep a recursion.
        while found.pop().is_some() {}
    }
}
