//! Death in its separate steps; `task.rs` says what each means.
//!
//! Being reaped and switching out for the last time happen on different CPUs,
//! in either order or at once, and whichever comes second may free the task. So
//! both are taken under the task's lock and are done, not only begun, by the
//! time `free` takes the css_set away under the same lock.

use crate::cgroup::CgroupFlags;
use crate::css_set::CsetTasks;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::sync::mutant::Mutant;
use crate::sync::{Ordering, invariant};
use crate::task::{Stage, Task};
use alloc::sync::Arc;

impl Hierarchy {
    /// The task begins to exit: it will not run user code again and leaves its
    /// group's count of live tasks (`exit_signals`, `cgroup_task_exit`). It is
    /// still linked and still populates its cgroup.
    ///
    /// # Errors
    /// ESRCH if this step was taken before.
    pub fn exit(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        let cset = loop {
            // From here on the task stays in its set: a mover looks for EXITING
            // under the same lock.
            let at = task.cset.lock();
            if task.is(Stage::MOVING) && !self.inner.mutation.is(Mutant::ExitIgnoresMove) {
                drop(at);
                self.inner.wait_for_mover();
            } else if task.is(Stage::FROZEN) {
                // Whatever ends it has let it run.
                drop(at);
                self.leave_frozen(task, true, fx);
            } else if !task.advance(Stage::EXITING, Stage::empty()) {
                return Err(Errno::ESRCH);
            } else if self.inner.hooked.exit.is_empty() {
                break None;
            } else {
                break at.clone();
            }
        };
        // Release: whoever sees the group at zero sees its last task exiting.
        let old = task.leader().live.fetch_sub(1, Ordering::AcqRel);
        invariant!(old > 0, "more exits than tasks in a group");
        if let Some(cset) = cset {
            for &ssid in &self.inner.hooked.exit {
                self.inner.controllers[ssid].exit(task.id, &cset.csses[ssid], fx);
            }
        }
        Ok(())
    }

    /// The task has switched out for the last time: it is unlinked and no
    /// longer populates its cgroup (`cgroup_task_dead`). A leader whose group
    /// has live threads stays listed in `cgroup.procs` until it is freed.
    ///
    /// # Errors
    /// ESRCH if it is not exiting, or dead already.
    pub fn dead(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        if self.inner.mutation.is(Mutant::DeadBeforeUnlink) {
            task.advance(Stage::DEAD, Stage::EXITING);
        }
        self.inner.unlink(task, fx)
    }

    /// The task's parent has collected it: charges end (`cgroup_task_release`).
    /// May come before [`dead`](Self::dead).
    ///
    /// # Errors
    /// ESRCH if it is not exiting, or reaped already.
    pub fn reap(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        let _ = fx;
        let cset = task.cset.lock();
        if !task.advance(Stage::REAPED, Stage::EXITING) {
            return Err(Errno::ESRCH);
        }
        if let Some(cset) = cset.as_ref() {
            for &ssid in &self.inner.hooked.release {
                self.inner.controllers[ssid].release(task.id, &cset.csses[ssid]);
            }
        }
        Ok(())
    }

    /// Nothing refers to the task any more: its css_set loses a reference
    /// (`cgroup_task_free`).
    ///
    /// # Errors
    /// ESRCH unless it is dead and reaped, or if it is freed already.
    pub fn free(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        let cset = {
            let mut cset = task.cset.lock();
            if !task.advance(Stage::FREED, Stage::DEAD | Stage::REAPED) {
                return Err(Errno::ESRCH);
            }
            cset.take()
        };
        let Some(cset) = cset else { return Ok(()) };
        cset.list.lock().forget(task);
        task.leave_group();
        self.inner.put_css_set(&cset, fx);
        Ok(())
    }

    /// All steps at once, for an embedder that learns of all of them together.
    ///
    /// # Errors
    /// ESRCH if any step was taken before.
    pub fn retire(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        self.exit(task, fx)?;
        self.dead(task, fx)?;
        self.reap(task, fx)?;
        self.free(task, fx)
    }
}

impl Inner {
    /// The mirror of `link`: the last task out takes the set lock first.
    fn unlink(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        {
            let cset = task.cset.lock();
            let Some(cset) = cset.as_ref() else { return Err(Errno::ESRCH) };
            let mut list = cset.list.lock();
            // Whoever freezes the cgroup counts the list after setting the flag.
            if list.tasks.len() > 1 && !cset.cgroup.is(CgroupFlags::FREEZE) {
                return self.take_out(task, &mut list);
            }
        }
        let set = &mut self.set_lock.lock();
        let (cset, last) = {
            let cset = task.cset.lock();
            let Some(cset) = cset.as_ref() else { return Err(Errno::ESRCH) };
            let mut list = cset.list.lock();
            self.take_out(task, &mut list)?;
            (Arc::clone(cset), list.tasks.is_empty())
        };
        if last {
            // The task may be freed by now. If it was the set's last user, the
            // set still keeps its csses: they are put under the set lock.
            self.update_populated(&cset, false, set, fx);
        }
        self.update_frozen(&cset.cgroup, set, fx);
        Ok(())
    }

    fn take_out(&self, task: &Arc<Task>, list: &mut CsetTasks) -> Result<(), Errno> {
        let begun = self.mutation.is(Mutant::DeadBeforeUnlink);
        if !begun && !task.advance(Stage::DEAD, Stage::EXITING) {
            return Err(Errno::ESRCH);
        }
        list.unlink(task);
        Ok(())
    }
}
