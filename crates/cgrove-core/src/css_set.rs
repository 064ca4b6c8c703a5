//! css_sets: what tasks of equal membership share.
//!
//! A task does not point at one css per controller but at one set that does,
//! shared by all tasks with the same cgroup and the same effective csses. So
//! a fork takes one reference, and "which tasks pin this css" has one answer
//! per set instead of one per task.
//!
//! The task list has a lock of its own. Fork and exit in a set that stays
//! populated take only that; the two transitions that others can see, empty to
//! populated and back, take the set lock first.
//!
//! A set never changes. When a controller is switched on or off its tasks move
//! to another set of the same cgroup, and so do the places of forks in flight:
//! the old set says where they went ([`Places`]) and is found by nobody any
//! more. What stays behind in it are tasks on their way out.

use crate::cgroup::Cgroup;
use crate::css::CssRef;
use crate::hierarchy::Inner;
use crate::sync::lock::{Leaf, SetGuard, TreeGuard};
use crate::sync::{AtomicUsize, Ordering, invariant};
use crate::task::Task;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// What the lock of one set protects.
#[derive(Debug, Default)]
pub(crate) struct CsetTasks {
    /// Tasks that are not dead, in no particular order; `Task::slot` is each
    /// one's index. The set is populated iff this is not empty.
    pub(crate) tasks: Vec<Arc<Task>>,
    /// Dead tasks that are not freed, likewise indexed by `Task::slot`. Not
    /// population, but each holds the set, and with it every css.
    pub(crate) unfreed: Vec<Arc<Task>>,
    /// Forks prepared and not yet published. They keep the cgroup from being
    /// removed: the child has a place in it.
    pub(crate) reserved: usize,
    /// The cgroup was removed; nothing can join.
    pub(crate) dead: bool,
    /// Where the reserved places are.
    pub(crate) places: Places,
}

/// Where the places that forks have reserved in a set are now.
#[derive(Debug, Default)]
pub(crate) enum Places {
    /// Here.
    #[default]
    Here,
    /// About to move or not: to be known once the tree lock can be had.
    Unsettled,
    /// In that set, and its reference with them. Written once, so following is
    /// finite; the set that holds it is no longer found by anyone.
    MovedTo(Arc<CssSet>),
    /// Nowhere: there were none when everybody moved out, and who is left is on
    /// the way out and forks no more. No way is kept for nobody to follow: a
    /// zombie would hold every set and css that came after its own.
    Gone,
}

impl Places {
    /// Everybody has moved out: the set is for those who are left in it only.
    pub(crate) fn have_moved(&self) -> bool {
        matches!(self, Self::MovedTo(_) | Self::Gone)
    }
}

#[derive(Debug)]
pub(crate) struct CssSet {
    /// In order of creation, and never used again.
    number: u64,
    pub(crate) cgroup: Arc<Cgroup>,
    /// The cgroup itself or, for a threaded one, its domain. The memory is held
    /// by the cgroup, which is below it.
    pub(crate) domain: Arc<Cgroup>,
    /// The effective css of each controller.
    pub(crate) csses: Box<[CssRef]>,
    /// Tasks (until freed) and forks in flight. Zero is reached under the set
    /// lock only, so a set found under it can be referenced.
    refs: AtomicUsize,
    pub(crate) list: Leaf<CsetTasks>,
}

impl CssSet {
    /// A reference for one who holds none, unless there is none left. Zero is
    /// reached under the set lock, so it cannot be while the guard lives.
    pub(crate) fn try_get(&self, _set: &SetGuard<'_>) -> bool {
        let alive = self.refs.load(Ordering::Relaxed) > 0;
        if alive {
            self.get();
        }
        alive
    }

    pub(crate) fn get_many(&self, n: usize) {
        self.refs.fetch_add(n, Ordering::Relaxed);
    }

    /// Drops references of which the caller's is not the last.
    pub(crate) fn put_shared(&self, n: usize) {
        let old = self.refs.fetch_sub(n, Ordering::Release);
        invariant!(old > n, "the last reference on a css_set dropped unseen");
    }

    /// Another reference for one who already holds one, or who found the set
    /// among its cgroup's and still has the set lock.
    pub(crate) fn get(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for CssSet {
    /// A place that moved often has a long way behind it, which would be dropped
    /// by as deep a recursion: taken apart set by set.
    fn drop(&mut self) {
        let mut places = core::mem::take(&mut self.list.get_mut().places);
        while let Places::MovedTo(next) = places {
            let next = Arc::into_inner(next);
            places = next
                .map_or(Places::Gone, |mut next| core::mem::take(&mut next.list.get_mut().places));
        }
    }
}

/// Adds a task, which is in no list, to one.
fn push(list: &mut Vec<Arc<Task>>, task: Arc<Task>) {
    task.slot.store(list.len(), Ordering::Relaxed);
    list.push(task);
}

/// Removes a task from the list that it is in.
fn remove(list: &mut Vec<Arc<Task>>, task: &Arc<Task>) {
    let slot = task.slot.load(Ordering::Relaxed);
    invariant!(
        list.get(slot).is_some_and(|at| Arc::ptr_eq(at, task)),
        "removing a task from a list that it is not in"
    );
    list.swap_remove(slot);
    if let Some(moved) = list.get(slot) {
        moved.slot.store(slot, Ordering::Relaxed);
    }
}

impl CsetTasks {
    pub(crate) fn link(&mut self, task: Arc<Task>) {
        push(&mut self.tasks, task);
    }

    /// The task moves to another set.
    pub(crate) fn take(&mut self, task: &Arc<Task>) {
        remove(&mut self.tasks, task);
    }

    /// The task is dead: from now on it only holds the set.
    pub(crate) fn unlink(&mut self, task: &Arc<Task>) {
        remove(&mut self.tasks, task);
        push(&mut self.unfreed, Arc::clone(task));
    }

    /// The task is freed.
    pub(crate) fn forget(&mut self, task: &Arc<Task>) {
        remove(&mut self.unfreed, task);
    }

    /// Leaders that are dead while threads of theirs live: the process exists
    /// under their id (`dying_tasks` of a Linux css_set).
    pub(crate) fn dead_leaders(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.unfreed.iter().filter(|task| task.is_leader() && task.group_live() > 0)
    }

    /// What the thread listing shows: every task but those exiting in a group
    /// that has no live task left (`css_task_iter`, default filter).
    pub(crate) fn visible(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.iter().filter(|task| !task.is_hidden())
    }
}

impl Cgroup {
    /// The sets linked here that anyone still uses.
    pub(crate) fn csets<'a>(
        &'a self,
        set: &'a SetGuard<'_>,
    ) -> impl Iterator<Item = Arc<CssSet>> + 'a {
        self.set.get(set).csets.iter().filter_map(Weak::upgrade)
    }

    /// The same, and those of the threaded cgroups whose domain this is.
    pub(crate) fn domain_csets<'a>(
        &'a self,
        set: &'a SetGuard<'_>,
    ) -> impl Iterator<Item = Arc<CssSet>> + 'a {
        let threaded = &self.set.get(set).threaded_csets;
        self.csets(set).chain(threaded.values().filter_map(Weak::upgrade))
    }
}

impl Inner {
    /// The set for tasks of `cgroup` itself, with a reference for the caller.
    pub(crate) fn find_css_set(
        &self,
        cgroup: &Arc<Cgroup>,
        tree: &TreeGuard<'_>,
        set: &mut SetGuard<'_>,
    ) -> Arc<CssSet> {
        let csses: Box<[CssRef]> = (0..self.controllers.len())
            .map(|ssid| self.effective_css(cgroup, ssid, tree))
            .collect();
        let domain = cgroup.domain(tree);
        let found = cgroup.csets(set).find(|cset| {
            Arc::ptr_eq(&cset.domain, domain)
                && cset.csses.iter().zip(&csses).all(|(a, b)| a.id == b.id)
                && !cset.list.lock().places.have_moved()
        });
        if let Some(cset) = found {
            cset.get();
            return cset;
        }
        for css in &csses {
            css.get();
        }
        cgroup.self_css.get();
        let cset = Arc::new(CssSet {
            number: self.next_css_set.fetch_add(1, Ordering::Relaxed),
            cgroup: Arc::clone(cgroup),
            domain: Arc::clone(domain),
            csses,
            refs: AtomicUsize::new(1),
            list: Leaf::new(CsetTasks::default()),
        });
        cgroup.set.get_mut(set).csets.push(Arc::downgrade(&cset));
        if !Arc::ptr_eq(domain, cgroup) {
            let sets = &mut domain.set.get_mut(set).threaded_csets;
            sets.insert(cset.number, Arc::downgrade(&cset));
        }
        cset
    }

    /// The css of a controller at the nearest cgroup, from `cgroup` up, that is
    /// to have one (`cgroup_e_css_by_mask`). By the masks and not by what is
    /// published: while a controller is switched off the old css still is.
    pub(crate) fn effective_css(
        &self,
        cgroup: &Arc<Cgroup>,
        ssid: usize,
        tree: &TreeGuard<'_>,
    ) -> CssRef {
        let leaving = self.binding.get(tree).leaving.contains(ssid);
        let mut at = cgroup;
        while let Some(parent) = &at.parent {
            if !leaving && self.ss_mask(at, tree).contains(ssid) {
                break;
            }
            at = parent;
        }
        match &at.subsys.lock()[ssid] {
            Some(css) => CssRef::Of(Arc::clone(css)),
            None => unreachable!("a cgroup without the css that its mask promises"),
        }
    }

    /// Drops a reference on a set (`put_css_set`).
    pub(crate) fn put_css_set(&self, cset: &Arc<CssSet>, fx: &mut crate::Effects) {
        let mut refs = cset.refs.load(Ordering::Relaxed);
        while refs > 1 {
            // Release, and acquire for the last one below: what each task did
            // with the csses happens before they are put.
            match cset.refs.compare_exchange_weak(
                refs,
                refs - 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => refs = seen,
            }
        }
        self.put_css_set_locked(cset, &mut self.set_lock.lock(), fx);
    }

    /// The same with the set lock held (`put_css_set_locked`).
    pub(crate) fn put_css_set_locked(
        &self,
        cset: &Arc<CssSet>,
        set: &mut SetGuard<'_>,
        fx: &mut crate::Effects,
    ) {
        let old = cset.refs.fetch_sub(1, Ordering::AcqRel);
        invariant!(old > 0, "put on a css_set without references");
        if old != 1 {
            return;
        }
        let others = |other: &Weak<CssSet>| !core::ptr::eq(other.as_ptr(), Arc::as_ptr(cset));
        cset.cgroup.set.get_mut(set).csets.retain(others);
        if !Arc::ptr_eq(&cset.domain, &cset.cgroup) {
            cset.domain.set.get_mut(set).threaded_csets.remove(&cset.number);
        }
        for css in &cset.csses {
            self.put(css, fx);
        }
        self.put(&CssRef::SelfOf(Arc::clone(&cset.cgroup)), fx);
    }
}
