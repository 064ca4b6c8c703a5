//! The freezer: bringing a subtree to a halt, and knowing when it has come.
//!
//! Two states per cgroup. *Desired*: `cgroup.freeze` here or above asks for it
//! (FREEZE). *Reached*: every task has stopped (FROZEN, `frozen` in
//! `cgroup.events`). The core turns a change of the former into
//! [`Effect::Freeze`] and [`Effect::Unfreeze`] per task, and learns from the
//! embedder when a task has come to a halt ([`Hierarchy::enter_frozen`]) or
//! runs again ([`Hierarchy::leave_frozen`]). A task that is stopped or traced
//! for another reason counts as frozen too, as in Linux.
//!
//! FROZEN holds where FREEZE does, as many linked tasks are frozen as there are,
//! and as many live cgroups below are FROZEN as there are. A birth does not
//! change it: the newborn freezes before it does anything.
//!
//! # Where Linux errs
//!
//! * Linux 7.2 lets a cgroup be removed while its last task, hidden, has not
//!   switched out. When it does, the dead cgroup turns FROZEN and counts for its
//!   ancestors, which have stopped counting it as a descendant: they never read
//!   as frozen again. Here a dead cgroup never counts, and its ancestors are
//!   looked at again when it is removed, since it may be what they waited for.
//! * Linux looks at a cgroup's own tasks when one of them changes, and at those
//!   below when one of those does, so it can read as frozen while some have not
//!   stopped. Here it reads so once all have, as `cgroup-v2.rst` says.

use crate::cgroup::{Cgroup, CgroupFlags};
use crate::effect::{Effect, Effects};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::id::Time;
use crate::sync::lock::SetGuard;
use crate::sync::mutant::{Mutant, broken};
use crate::sync::{Ordering, invariant};
use crate::task::{Stage, Task};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// The content of `cgroup.events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// A task that is not dead is here or below.
    pub populated: bool,
    /// Every task here and below has come to a halt, as asked.
    pub frozen: bool,
}

impl Hierarchy {
    /// Reads `cgroup.events`.
    #[must_use]
    pub fn events(&self, cgroup: &Cgroup) -> Events {
        Events { populated: cgroup.populated(), frozen: cgroup.frozen() }
    }

    /// Reads `cgroup.freeze`: what was asked for at this cgroup, whatever is
    /// asked for above.
    #[must_use]
    pub fn freeze(&self, cgroup: &Cgroup) -> bool {
        cgroup.tree.get(&self.inner.tree_lock.lock()).freeze
    }

    /// Writes `cgroup.freeze`. Asking for what was asked for before does
    /// nothing; asking for what a cgroup above decides anyway notifies
    /// `cgroup.events`, so that nobody waits for a change that will not come.
    ///
    /// # Errors
    /// ENOENT on a removed cgroup and on the root, which has no such file.
    pub fn set_freeze(
        &self,
        cgroup: &Arc<Cgroup>,
        freeze: bool,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let inner = &*self.inner;
        let tree = &mut inner.tree_lock.lock();
        if cgroup.is_dead() || cgroup.parent.is_none() {
            return Err(Errno::ENOENT);
        }
        let own = cgroup.tree.get_mut(tree);
        if core::mem::replace(&mut own.freeze, freeze) == freeze {
            return Ok(());
        }
        let mut applied = false;
        let mut todo = alloc::vec![Arc::clone(cgroup)];
        while let Some(at) = todo.pop() {
            let above = at.parent.as_ref().is_some_and(|above| above.tree.get(tree).e_freeze)
                && !broken(Mutant::AncestorFreezeIgnored);
            let it = at.tree.get_mut(tree);
            let wanted = it.freeze || above;
            // Below one that does not change nothing does.
            if core::mem::replace(&mut it.e_freeze, wanted) != wanted {
                inner.freeze_cgroup(&at, wanted, fx);
                applied = true;
                todo.extend(at.tree.get(tree).children.values().rev().cloned());
            }
        }
        if !applied {
            cgroup.events.changed(fx);
        }
        Ok(())
    }

    /// How long tasks of this cgroup have been meant to be frozen, until `now`:
    /// `frozen_usec` in `cgroup.stat.local`. Counts from the request, here or
    /// above, and not from when it was reached.
    #[must_use]
    pub fn frozen_time(&self, cgroup: &Cgroup, now: Time) -> Duration {
        let set = self.inner.set_lock.lock();
        let freezer = &cgroup.set.get(&set).freezer;
        let running = if cgroup.freezing() { now.since(freezer.since) } else { Duration::ZERO };
        freezer.total + running
    }

    /// The task has come to a halt: by the freezer, a stop signal or a tracer
    /// (`cgroup_enter_frozen`). Nothing happens if it was told so before, or if
    /// the task is on its way out.
    pub fn enter_frozen(&self, task: &Arc<Task>, fx: &mut Effects) {
        let set = &mut self.inner.set_lock.lock();
        let cgroup = {
            let at = task.cset.lock();
            let Some(cset) = at.as_ref() else { return };
            if task.is(Stage::FROZEN | Stage::EXITING) {
                return;
            }
            task.mark(Stage::FROZEN, true);
            Arc::clone(&cset.cgroup)
        };
        cgroup.set.get_mut(set).freezer.nr_frozen_tasks += 1;
        self.inner.update_frozen(&cgroup, set, fx);
    }

    /// The task is about to run again (`cgroup_leave_frozen`). Unless it must
    /// (`always`: SIGKILL, its tracer), it is not let go while its cgroup is to
    /// be frozen: it still counts as frozen then, and is to be frozen again.
    /// Nothing happens if it was not frozen.
    pub fn leave_frozen(&self, task: &Arc<Task>, always: bool, fx: &mut Effects) {
        let set = &mut self.inner.set_lock.lock();
        let cgroup = {
            let at = task.cset.lock();
            let Some(cset) = at.as_ref() else { return };
            if !task.is(Stage::FROZEN) {
                return;
            }
            if !always && cset.cgroup.freezing() {
                fx.push(Effect::Freeze(task.id));
                return;
            }
            task.mark(Stage::FROZEN, false);
            Arc::clone(&cset.cgroup)
        };
        self.inner.count_frozen(&cgroup, false, set);
        self.inner.update_frozen(&cgroup, set, fx);
    }
}

impl Inner {
    /// `cgroup_do_freeze`.
    fn freeze_cgroup(&self, cgroup: &Arc<Cgroup>, freeze: bool, fx: &mut Effects) {
        let set = &mut self.set_lock.lock();
        // Before the lists are read: see `fork.rs` and `exit.rs`.
        cgroup.mark(CgroupFlags::FREEZE, freeze);
        let freezer = &mut cgroup.set.get_mut(set).freezer;
        if freeze {
            freezer.since = fx.now();
        } else {
            freezer.total += fx.now().since(freezer.since);
        }
        for cset in cgroup.csets(set).collect::<Vec<_>>() {
            for task in cset.list.lock().visible() {
                fx.push(freeze_effect(task, freeze));
            }
        }
        self.update_frozen(cgroup, set, fx);
    }

    /// A task has moved (`cgroup_freezer_migrate_task`).
    pub(crate) fn freezer_moved(
        &self,
        task: &Task,
        from: &Arc<Cgroup>,
        to: &Arc<Cgroup>,
        set: &mut SetGuard<'_>,
        fx: &mut Effects,
    ) {
        let frozen = task.is(Stage::FROZEN);
        if !from.freezing() && !to.freezing() && !frozen {
            return;
        }
        if frozen {
            self.count_frozen(to, true, set);
            self.count_frozen(from, false, set);
        }
        self.update_frozen(to, set, fx);
        self.update_frozen(from, set, fx);
        fx.push(freeze_effect(task, to.freezing()));
    }

    fn count_frozen(&self, cgroup: &Cgroup, up: bool, set: &mut SetGuard<'_>) {
        let count = &mut cgroup.set.get_mut(set).freezer.nr_frozen_tasks;
        invariant!(up || *count > 0, "fewer frozen tasks than none");
        *count = if up { *count + 1 } else { *count - 1 };
    }

    /// A cgroup that is about to be made below `parent` is to be frozen from the
    /// start if the parent is; having no tasks, it is so at once.
    pub(crate) fn freezer_born(&self, cgroup: &Arc<Cgroup>, set: &mut SetGuard<'_>, now: Time) {
        cgroup.mark(CgroupFlags::FREEZE, true);
        cgroup.mark(CgroupFlags::FROZEN, true);
        cgroup.set.get_mut(set).freezer.since = now;
        for above in cgroup.ancestors() {
            above.set.get_mut(set).freezer.nr_frozen_descendants += 1;
        }
    }

    /// A cgroup was removed and its ancestors count one live descendant less.
    pub(crate) fn freezer_removed(
        &self,
        cgroup: &Arc<Cgroup>,
        set: &mut SetGuard<'_>,
        fx: &mut Effects,
    ) {
        if cgroup.frozen() {
            for above in cgroup.ancestors() {
                above.set.get_mut(set).freezer.nr_frozen_descendants -= 1;
            }
        }
        if let Some(parent) = &cgroup.parent {
            self.update_frozen(parent, set, fx);
        }
    }

    /// Decides anew whether a cgroup is FROZEN, and climbs while that changes
    /// something (`cgroup_update_frozen`, `cgroup_propagate_frozen`).
    pub(crate) fn update_frozen(
        &self,
        cgroup: &Arc<Cgroup>,
        set: &mut SetGuard<'_>,
        fx: &mut Effects,
    ) {
        if cgroup.is_dead() && !self.mutation.is(Mutant::DeadFreezes) {
            return;
        }
        let (mut more, mut fewer) = (0, 0);
        let mut at = Some(cgroup);
        while let Some(it) = at {
            let below = &mut it.set.get_mut(set).freezer.nr_frozen_descendants;
            *below = *below + more - fewer;
            let frozen = it.freezing() && self.all_frozen(it, set);
            if frozen != it.frozen() {
                it.mark(CgroupFlags::FROZEN, frozen);
                it.events.changed(fx);
                if frozen { more += 1 } else { fewer += 1 }
            } else if more == fewer {
                break;
            }
            at = it.parent.as_ref();
        }
    }

    fn all_frozen(&self, cgroup: &Arc<Cgroup>, set: &SetGuard<'_>) -> bool {
        let freezer = &cgroup.set.get(set).freezer;
        freezer.nr_frozen_descendants == cgroup.nr_descendants.load(Ordering::Relaxed)
            && freezer.nr_frozen_tasks
                == cgroup.csets(set).map(|cset| cset.list.lock().tasks.len()).sum::<usize>()
    }
}

fn freeze_effect(task: &Task, freeze: bool) -> Effect {
    if freeze { Effect::Freeze(task.id) } else { Effect::Unfreeze(task.id) }
}
