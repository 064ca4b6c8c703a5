//! Death in its separate steps; `task.rs` says what each means.

use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
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
        if !task.advance(Stage::EXITING, Stage::empty()) {
            return Err(Errno::ESRCH);
        }
        // Release: whoever sees the group at zero sees its last task exiting.
        let old = task.leader().live.fetch_sub(1, Ordering::AcqRel);
        invariant!(old > 0, "more exits than tasks in a group");
        if !self.inner.hooked.exit.is_empty()
            && let Some(cset) = task.cset.lock().clone()
        {
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
        if !task.advance(Stage::DEAD, Stage::EXITING) {
            return Err(Errno::ESRCH);
        }
        self.inner.unlink(task, fx);
        Ok(())
    }

    /// The task's parent has collected it: charges end (`cgroup_task_release`).
    /// May come before [`dead`](Self::dead).
    ///
    /// # Errors
    /// ESRCH if it is not exiting, or reaped already.
    pub fn reap(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        let _ = fx;
        if !task.advance(Stage::REAPED, Stage::EXITING) {
            return Err(Errno::ESRCH);
        }
        self.inner.uncharge(task);
        Ok(())
    }

    /// Nothing refers to the task any more: its css_set loses a reference
    /// (`cgroup_task_free`).
    ///
    /// # Errors
    /// ESRCH unless it is dead and reaped, or if it is freed already.
    pub fn free(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<(), Errno> {
        if !task.advance(Stage::FREED, Stage::DEAD | Stage::REAPED) {
            return Err(Errno::ESRCH);
        }
        let Some(cset) = task.cset.lock().take() else { return Ok(()) };
        if task.is_leader() {
            cset.list.lock().dying.retain(|other| !Arc::ptr_eq(other, task));
        }
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
    fn uncharge(&self, task: &Task) {
        if self.hooked.release.is_empty() {
            return;
        }
        let cset = task.cset.lock();
        if let Some(cset) = cset.as_ref() {
            for &ssid in &self.hooked.release {
                self.controllers[ssid].release(task.id, &cset.csses[ssid]);
            }
        }
    }

    /// The mirror of `link`: the last task out takes the set lock first.
    fn unlink(&self, task: &Arc<Task>, fx: &mut Effects) {
        let keep_leader = task.is_leader() && task.group_live() > 0;
        {
            let cset = task.cset.lock();
            let Some(cset) = cset.as_ref() else { return };
            let mut list = cset.list.lock();
            if list.tasks.len() > 1 {
                list.unlink(task);
                if keep_leader {
                    list.dying.push(Arc::clone(task));
                }
                return;
            }
        }
        let set = self.set_lock.lock();
        let Some(cset) = task.cset.lock().clone() else { return };
        let last = {
            let mut list = cset.list.lock();
            list.unlink(task);
            if keep_leader {
                list.dying.push(Arc::clone(task));
            }
            list.tasks.is_empty()
        };
        if last {
            self.update_populated(&cset, false, &set, fx);
        }
    }
}
