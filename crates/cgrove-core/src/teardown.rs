//! The end of a cgroup and of its csses: from rmdir to the last free.
//!
//! # Constraints
//!
//! * Removal succeeds as soon as no visible task and no live child is left. It
//!   never waits for tasks: the process that removes may be the one that has
//!   to reap them.
//! * `css_offline` does not run while a task in the css's subtree can still do
//!   work. Tasks hidden from the listings can.
//! * By the time `css_offline` runs, `try_get_online` fails for good, and
//!   whoever got a css in a read section before has left it.
//! * A child goes offline before its parent.
//! * A dying css is killed exactly once, and always, once its subtree drained.
//!
//! # Protocol
//!
//! `kill_sync` does what users see at once: DYING, files gone, dying counters
//! up. `kill_finish` kills the reference count, which starts the rest. Between
//! the two the css waits until it is unpopulated. If it is so already,
//! whoever called `kill_sync` calls `kill_finish`; otherwise the populated
//! walk queues it when the last task leaves. The two sides may cross: the
//! fence pair of `sync/barrier.rs` makes sure at least one acts, and
//! `kill_finish` acts only once.
//!
//! From there: a grace period and all children offline → `css_offline` → the
//! last reference → `css_released` → a grace period → `css_free`. Each step is
//! work on a queue, see [`Queue`].

use crate::cgroup::Cgroup;
use crate::css::{CssRef, Flags, Phase};
use crate::effect::{Effect, Effects, Queue};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::sync::grace::Ticket;
use crate::sync::lock::TreeGuard;
use crate::sync::mutant::Mutant;
use crate::sync::{barrier, invariant};
use alloc::collections::VecDeque;
use alloc::sync::Arc;

/// One item on a queue.
#[derive(Debug)]
pub(crate) enum Work {
    /// The second half of a kill, queued by the walker, which pinned the css.
    KillFinish(CssRef),
    /// `css_offline`, once the period has passed. Holds the offline reference.
    Offline { css: CssRef, after: Ticket },
    /// The count reached zero.
    Release(CssRef),
    /// `css_free`, once the period has passed.
    Free { css: CssRef, after: Ticket },
}

impl Hierarchy {
    /// Removes a cgroup (`rmdir`). The name is free and the dying counters are
    /// up when this returns; the rest follows as tasks and references go.
    ///
    /// # Errors
    /// EBUSY while a visible task, a fork in flight or a live child is there,
    /// and for the root. A cgroup that is dead already gives `Ok`, as in Linux.
    pub fn remove(&self, cgroup: &Arc<Cgroup>, fx: &mut Effects) -> Result<(), Errno> {
        let inner = &*self.inner;
        let mut tree = inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Ok(());
        }
        if cgroup.parent.is_none() {
            return Err(Errno::EBUSY);
        }
        inner.check_removable(cgroup, &tree)?;
        inner.destroy_locked(cgroup, &mut tree, fx);
        Ok(())
    }

    /// Runs the queues until nothing is ready. Returns how many items still
    /// wait for readers to leave; pump again after they have. An item that
    /// another thread's pump has in hand is in that one's result.
    pub fn pump(&self, fx: &mut Effects) -> usize {
        loop {
            let mut ran = false;
            for queue in Queue::ALL {
                ran |= self.pump_queue(queue, fx);
            }
            if !ran {
                break;
            }
        }
        self.inner.queues.iter().map(|queue| queue.lock().len()).sum()
    }

    /// Runs what is ready on one queue. True if anything was.
    pub fn pump_queue(&self, queue: Queue, fx: &mut Effects) -> bool {
        let inner = &*self.inner;
        let mut waiting = VecDeque::new();
        let mut ran = false;
        loop {
            // Popped in a statement of its own: the queue's lock is a leaf and
            // must not be held while the work runs.
            let next = inner.queues[queue as usize].lock().pop_front();
            let Some(work) = next else { break };
            if inner.is_ready(&work) {
                inner.run(work, fx);
                ran = true;
            } else {
                waiting.push_back(work);
            }
        }
        if !waiting.is_empty() {
            let mut list = inner.queues[queue as usize].lock();
            waiting.append(&mut list);
            *list = waiting;
        }
        ran
    }
}

impl Inner {
    /// Linux's test: the listing that `cgroup.threads` would print is empty and
    /// no child is online. A fork in flight counts as a task; Linux makes the
    /// remover wait on a lock for it.
    ///
    /// It closes the sets as it passes: with no visible task there is nobody
    /// who could fork, and joining from outside takes the set lock.
    fn check_removable(&self, cgroup: &Arc<Cgroup>, tree: &TreeGuard<'_>) -> Result<(), Errno> {
        let set = self.set_lock.lock();
        let busy = cgroup.csets(&set).any(|cset| {
            let list = cset.list.lock();
            list.reserved > 0 || list.visible().next().is_some()
        });
        if busy || !cgroup.tree.get(tree).children.is_empty() {
            return Err(Errno::EBUSY);
        }
        for cset in cgroup.csets(&set) {
            cset.list.lock().dead = true;
        }
        // Under the set lock, so that a join that comes later sees it.
        cgroup.self_css.clear(Flags::ONLINE);
        Ok(())
    }

    /// `cgroup_destroy_locked`, after its tests. From `kill_sync` on it takes no
    /// lock that the populated walk holds, so nothing but the fence orders the
    /// two.
    pub(crate) fn destroy_locked(
        &self,
        cgroup: &Arc<Cgroup>,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) {
        cgroup.self_css.clear(Flags::ONLINE);
        cgroup.events.remove();
        if let Some(parent) = &cgroup.parent {
            parent.tree.get_mut(tree).children.remove(&cgroup.name);
        }
        if let Some(parent) = &cgroup.parent
            && cgroup.is_threaded(tree)
        {
            parent.tree.get_mut(tree).nr_threaded_children -= 1;
        }
        {
            let set = &mut self.set_lock.lock();
            for ancestor in cgroup.ancestors() {
                Cgroup::bump(&ancestor.nr_descendants, -1);
                Cgroup::bump(&ancestor.nr_dying_descendants, 1);
            }
            self.freezer_removed(cgroup, set, fx);
        }
        let csses: alloc::vec::Vec<_> = cgroup.csses().map(CssRef::Of).collect();
        for css in &csses {
            self.kill_sync(css, tree, fx);
        }
        // The base reference of self is not deferred: self has no css_offline
        // to protect, and tasks hold references of their own.
        self.enter(&CssRef::SelfOf(Arc::clone(cgroup)), Phase::Killed, tree, fx);
        if cgroup.self_css.refs.kill(self.mutation) == Some(true) {
            self.queue(Queue::Release, Work::Release(CssRef::SelfOf(Arc::clone(cgroup))), fx);
        }
        for css in &csses {
            self.finish_if_drained(css, tree, fx);
        }
    }

    /// First half of a kill: everything that is visible at once.
    pub(crate) fn kill_sync(&self, css: &CssRef, tree: &mut TreeGuard<'_>, fx: &mut Effects) {
        let Some(ss) = &css.ss else { return };
        if css.has(Flags::DYING) {
            return;
        }
        ss.controller.css_killed(css, fx);
        css.set(Flags::DYING);
        if !self.mutation.is(Mutant::NoKillerFence) {
            // Pairs with the fence in `populated::walk`: either the counters
            // read by `finish_if_drained` show the last task gone, or the
            // walker sees DYING and queues the kill.
            barrier::store_then_load();
        }
        self.enter(css, Phase::Dying, tree, fx);
        for cgroup in ss.cgroup.ancestors_and_self() {
            Cgroup::bump(&cgroup.nr_dying_subsys[ss.ssid], 1);
        }
        for above in css.ancestors() {
            Cgroup::bump(&above.nr_descendants, -1);
        }
    }

    /// The caller's side of the pair, after `kill_sync`.
    pub(crate) fn finish_if_drained(
        &self,
        css: &CssRef,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) {
        if !css.is_populated() {
            self.kill_finish(css, tree, fx);
        }
    }

    /// The walker's side of the pair. Set lock held by the caller.
    pub(crate) fn queue_kill_finish(&self, css: &CssRef, fx: &mut Effects) {
        if !self.mutation.is(Mutant::NoQueuePin) {
            // The killer may finish first and the css be released and freed
            // before this item runs; it must not run on a released css.
            css.get();
        }
        self.queue(Queue::Offline, Work::KillFinish(css.clone()), fx);
    }

    /// Second half of a kill. Acts once, whoever comes first.
    fn kill_finish(&self, css: &CssRef, tree: &mut TreeGuard<'_>, fx: &mut Effects) {
        invariant!(!css.has(Flags::RELEASED), "kill_finish on a released css");
        if css.refs.is_killed() && !self.mutation.is(Mutant::KillTwice) {
            return;
        }
        invariant!(css.has(Flags::DYING), "kill_finish before kill_sync");
        // The offline reference: held until css_offline has run.
        css.get();
        css.refs.kill(self.mutation);
        self.enter(css, Phase::Killed, tree, fx);
        let after = self.grace.start();
        let state = css.tree.get_mut(tree);
        state.offline_after = Some(after);
        invariant!(state.online_cnt > 0, "a css killed twice");
        state.online_cnt -= 1;
        if state.online_cnt == 0 || self.mutation.is(Mutant::ParentFirst) {
            self.queue(Queue::Offline, Work::Offline { css: css.clone(), after }, fx);
        }
    }

    fn is_ready(&self, work: &Work) -> bool {
        match work {
            Work::KillFinish(_) | Work::Release(_) => true,
            Work::Offline { after, .. } | Work::Free { after, .. } => {
                self.mutation.is(Mutant::NoGrace) || self.grace.elapsed(*after)
            }
        }
    }

    fn run(&self, work: Work, fx: &mut Effects) {
        match work {
            Work::KillFinish(css) => {
                self.kill_finish(&css, &mut self.tree_lock.lock(), fx);
                if !self.mutation.is(Mutant::NoQueuePin) {
                    self.put(&css, fx);
                }
            }
            Work::Offline { css, .. } => self.offline(&css, fx),
            Work::Release(css) => self.release(&css, fx),
            Work::Free { css, .. } => self.free(&css, fx),
        }
    }

    fn offline(&self, css: &CssRef, fx: &mut Effects) {
        {
            let tree = &mut self.tree_lock.lock();
            let Some(ss) = &css.ss else { return };
            invariant!(
                css.tree.get(tree).online_cnt == 0,
                "css_offline before a child's, or twice"
            );
            ss.controller.css_offline(css, fx);
            css.clear(Flags::ONLINE);
            self.enter(css, Phase::Offline, tree, fx);
            ss.cgroup.subsys.lock()[ss.ssid].take_if(|at| at.id == css.id);
            if css.tree.get(tree).awaited {
                fx.push(Effect::Offline(css.id));
            }
            if let Some(parent) = &css.parent {
                let state = parent.tree.get_mut(tree);
                state.online_cnt -= 1;
                if let (0, Some(after)) = (state.online_cnt, state.offline_after) {
                    self.queue(Queue::Offline, Work::Offline { css: parent.clone(), after }, fx);
                }
            }
        }
        self.put(css, fx);
    }

    fn release(&self, css: &CssRef, fx: &mut Effects) {
        let tree = &mut self.tree_lock.lock();
        invariant!(!css.has(Flags::RELEASED), "a css released twice");
        css.set(Flags::RELEASED);
        self.enter(css, Phase::Released, tree, fx);
        if let Some(parent) = &css.parent {
            parent.tree.get_mut(tree).children.remove(&css.id);
        }
        match &css.ss {
            Some(ss) => {
                invariant!(!css.has(Flags::ONLINE), "a css released while online");
                ss.controller.css_released(css);
                for cgroup in ss.cgroup.ancestors_and_self() {
                    Cgroup::bump(&cgroup.nr_dying_subsys[ss.ssid], -1);
                }
            }
            None => {
                for ancestor in css.cgroup().ancestors() {
                    Cgroup::bump(&ancestor.nr_dying_descendants, -1);
                }
            }
        }
        let after = self.grace.start();
        self.queue(Queue::Free, Work::Free { css: css.clone(), after }, fx);
    }

    fn free(&self, css: &CssRef, fx: &mut Effects) {
        self.enter(css, Phase::Freed, &mut self.tree_lock.lock(), fx);
        if let Some(ss) = &css.ss {
            ss.controller.css_free(css);
            self.put(&CssRef::SelfOf(Arc::clone(&ss.cgroup)), fx);
        }
        if let Some(parent) = &css.parent {
            self.put(parent, fx);
        }
    }

    fn enter(&self, css: &CssRef, phase: Phase, tree: &mut TreeGuard<'_>, fx: &Effects) {
        let state = css.tree.get_mut(tree);
        invariant!(phase > state.phase, "css went from {:?} to {phase:?}", state.phase);
        state.phase = phase;
        state.since = fx.now();
    }
}
