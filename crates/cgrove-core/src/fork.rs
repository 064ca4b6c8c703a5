//! Birth: a place is taken before the child exists, and kept or given back.
//!
//! A fork can fail long after the controllers agreed, so it is two steps.
//! Preparing takes a reference on the css_set, marks a place in it and asks the
//! controllers; publishing links the child. In between the caller holds a
//! [`Fork`]; dropping it gives everything back.
//!
//! A fork in flight must not escape `cgroup.kill`. Linux holds a lock from one
//! step to the other; here that time belongs to the embedder and may be long,
//! so the kill sequence number is sampled when the fork is prepared and
//! compared after the child is linked. `kill.rs` tells why one of the two
//! sides always sees the other.

use crate::cgroup::Cgroup;
use crate::css_set::CssSet;
use crate::effect::{Effect, Effects};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::id::TaskId;
use crate::sync::Ordering;
use crate::sync::mutant::Mutant;
use crate::task::{Membership, Stage, Task};
use alloc::sync::Arc;
use core::fmt;

/// Where a new task's membership comes from.
#[derive(Clone, Copy, Debug)]
pub enum ForkFrom<'a> {
    /// The task that forks.
    Task(&'a Arc<Task>),
    /// A cgroup named by the caller (`CLONE_INTO_CGROUP`, or the first task).
    Cgroup(&'a Arc<Cgroup>),
}

/// A place for a child that does not exist yet. Dropping it cancels the fork.
#[must_use = "dropping it cancels the fork"]
pub struct Fork {
    inner: Arc<Inner>,
    /// `None` once published.
    cset: Option<Arc<CssSet>>,
    kill_seq: u64,
}

impl fmt::Debug for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fork")
            .field("cgroup", &self.cset.as_ref().map(|cset| &cset.cgroup))
            .finish_non_exhaustive()
    }
}

impl Hierarchy {
    /// Takes a place for a child and asks the controllers (`cgroup_can_fork`).
    ///
    /// # Errors
    /// * ENODEV: the cgroup has been removed;
    /// * ESRCH: the forking task has begun to exit or has been killed;
    /// * what a controller refused with: EAGAIN at `pids.max`. The refusal is
    ///   counted and its effects are on the list.
    pub fn fork(&self, from: ForkFrom<'_>, fx: &mut Effects) -> Result<Fork, Errno> {
        let inner = &self.inner;
        let (cset, kill_seq) = inner.reserve(from, fx)?;
        for (done, &ssid) in inner.hooked.fork.iter().enumerate() {
            if let Err(errno) = inner.controllers[ssid].can_fork(&cset.csses[ssid], fx) {
                for &undo in inner.hooked.fork[..done].iter().rev() {
                    inner.controllers[undo].cancel_fork(&cset.csses[undo]);
                }
                inner.unreserve(&cset, fx);
                return Err(errno);
            }
        }
        Ok(Fork { inner: Arc::clone(inner), cset: Some(cset), kill_seq })
    }

    /// Takes in a task that exists already. Controllers charge it whatever
    /// their limits, as they do when a task is moved.
    ///
    /// # Errors
    /// ENODEV if the cgroup has been removed.
    pub fn adopt(
        &self,
        cgroup: &Arc<Cgroup>,
        id: TaskId,
        membership: Membership<'_>,
        fx: &mut Effects,
    ) -> Result<Arc<Task>, Errno> {
        let inner = &*self.inner;
        let (cset, _) = inner.reserve(ForkFrom::Cgroup(cgroup), fx)?;
        for &ssid in &inner.hooked.attach {
            inner.controllers[ssid].attach(id, &cset.csses[ssid], None, fx);
        }
        let task = Task::new(id, membership, Arc::clone(&cset));
        inner.link(&cset, &task, fx);
        Ok(task)
    }
}

impl Fork {
    /// The cgroup the child will be in.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Arc<Cgroup>> {
        self.cset.as_ref().map(|cset| &cset.cgroup)
    }

    /// The child exists: links it (`cgroup_post_fork`). If the cgroup was
    /// killed since the fork was prepared, the child is to be killed too.
    pub fn publish(
        mut self,
        id: TaskId,
        membership: Membership<'_>,
        fx: &mut Effects,
    ) -> Arc<Task> {
        let Some(cset) = self.cset.take() else {
            unreachable!("a fork is published once: publish takes it")
        };
        let task = Task::new(id, membership, Arc::clone(&cset));
        self.inner.link(&cset, &task, fx);
        // Odd: a kill was under way when this fork was prepared.
        let killed =
            self.kill_seq % 2 == 1 || cset.cgroup.kill_seq.load(Ordering::Acquire) != self.kill_seq;
        if killed
            && !self.inner.mutation.is(Mutant::ForkIgnoresKill)
            && task.leader().advance(Stage::KILLED, Stage::empty())
        {
            fx.push(Effect::Kill(task.leader().id));
        }
        for &ssid in &self.inner.hooked.fork {
            self.inner.controllers[ssid].fork(id, &cset.csses[ssid], fx);
        }
        task
    }

    /// The fork failed, or its child is gone already: gives the place back
    /// (`cgroup_cancel_fork`). Dropping does the same.
    pub fn cancel(mut self, fx: &mut Effects) {
        self.give_back(fx);
    }

    fn give_back(&mut self, fx: &mut Effects) {
        let Some(cset) = self.cset.take() else { return };
        for &ssid in self.inner.hooked.fork.iter().rev() {
            self.inner.controllers[ssid].cancel_fork(&cset.csses[ssid]);
        }
        self.inner.unreserve(&cset, fx);
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        // No effect is lost with this list: see `unreserve`.
        let mut fx = Effects::at(crate::Time::default());
        self.give_back(&mut fx);
    }
}

impl Inner {
    /// Marks a place in the css_set that `from` leads to, and samples the kill
    /// sequence number of the cgroup the child will be in. (Linux before
    /// 7.2.13 sampled the parent's and killed children for nothing.)
    fn reserve(&self, from: ForkFrom<'_>, fx: &mut Effects) -> Result<(Arc<CssSet>, u64), Errno> {
        match from {
            ForkFrom::Task(parent) => {
                let cset = parent.cset.lock();
                let cset = cset.as_ref().ok_or(Errno::ESRCH)?;
                let mut list = cset.list.lock();
                // Under the list's lock, see `kill.rs`.
                if parent.stage().contains(Stage::EXITING)
                    || parent.leader().stage().contains(Stage::KILLED)
                {
                    return Err(Errno::ESRCH);
                }
                if list.dead {
                    return Err(Errno::ENODEV);
                }
                list.reserved += 1;
                cset.get();
                Ok((Arc::clone(cset), cset.cgroup.kill_seq.load(Ordering::Acquire)))
            }
            ForkFrom::Cgroup(cgroup) => {
                let mut set = self.set_lock.lock();
                // Cleared under the set lock, see `check_removable`.
                if cgroup.is_dead() {
                    return Err(Errno::ENODEV);
                }
                let cset = self.find_css_set(cgroup, &mut set);
                let mut list = cset.list.lock();
                if list.dead {
                    drop((list, set));
                    self.put_css_set(&cset, fx);
                    return Err(Errno::ENODEV);
                }
                list.reserved += 1;
                drop(list);
                let kill_seq = cgroup.kill_seq.load(Ordering::Acquire);
                drop(set);
                Ok((cset, kill_seq))
            }
        }
    }

    /// Gives a marked place back, and the reference that came with it.
    ///
    /// In this order and under the set lock: as long as the place is marked the
    /// cgroup cannot be removed, so every css still has its base reference and
    /// none of the references put here is the last one.
    fn unreserve(&self, cset: &Arc<CssSet>, fx: &mut Effects) {
        let mut set = self.set_lock.lock();
        self.put_css_set_locked(cset, &mut set, fx);
        cset.list.lock().reserved -= 1;
    }

    /// Turns a marked place into a linked task. A set that has tasks needs no
    /// lock but its own; the first task is a change that others see.
    fn link(&self, cset: &Arc<CssSet>, task: &Arc<Task>, fx: &mut Effects) {
        {
            let mut list = cset.list.lock();
            if !list.tasks.is_empty() {
                list.reserved -= 1;
                list.link(Arc::clone(task));
                return;
            }
        }
        let set = self.set_lock.lock();
        let first = {
            let mut list = cset.list.lock();
            let first = list.tasks.is_empty();
            list.reserved -= 1;
            list.link(Arc::clone(task));
            first
        };
        if first {
            self.update_populated(cset, true, &set, fx);
        }
    }
}
