//! Birth: a place is taken before the child exists, and kept or given back.
//!
//! A fork can fail long after the controllers agreed, so it is two steps.
//! Preparing takes a reference on the css_set, marks a place in it and asks the
//! controllers; publishing links the child. In between the caller holds a
//! [`Fork`]; dropping it gives everything back.
//!
//! Linux holds a lock from one step to the other, against `cgroup.kill` and
//! against everything that moves tasks. Here that time belongs to the embedder
//! and may be long, so a fork in flight
//!
//! * does not escape a kill: the kill sequence number is sampled when the fork
//!   is prepared and compared after the child is linked. `kill.rs` tells why one
//!   of the two sides always sees the other;
//! * follows a change of controllers: its place moves to the set that the tasks
//!   beside it move to, with its charge ([`Places`]);
//! * follows its process: a thread that is born after its process was moved as a
//!   whole takes its place where the process is. The group's lock orders the two:
//!   the mover marks the group before it lists the threads, the newborn is linked
//!   and listed under the same lock or waits. That there was a move is known by
//!   the number of them, sampled when the fork was prepared. (A thread that is
//!   moved alone leaves the forks that it had in flight behind, as it does those
//!   that it had made.)

use crate::cgroup::{Cgroup, CgroupFlags};
use crate::css_set::{CsetTasks, CssSet, Places};
use crate::delegate::Opener;
use crate::effect::{Effect, Effects};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::id::TaskId;
use crate::migrate::Scope;
use crate::sync::Ordering;
use crate::sync::mutant::Mutant;
use crate::task::{Group, Membership, Stage, Task};
use alloc::sync::Arc;
use core::fmt;

/// Where a new task's membership comes from.
#[derive(Clone, Copy, Debug)]
pub enum ForkFrom<'a> {
    /// The task that forks.
    Task(&'a Arc<Task>),
    /// A cgroup named by the embedder, for a task that comes from outside.
    Cgroup(&'a Arc<Cgroup>),
    /// A cgroup named by the task that forks (`CLONE_INTO_CGROUP`).
    Into {
        /// The task that forks.
        forker: &'a Arc<Task>,
        /// Where the child is to be.
        cgroup: &'a Arc<Cgroup>,
        /// What the child is to be: a thread must stay in its domain.
        scope: Scope,
        /// The forker's own rights.
        opener: Opener<'a>,
    },
}

/// A place for a child that does not exist yet. Dropping it cancels the fork.
#[must_use = "dropping it cancels the fork"]
pub struct Fork {
    inner: Arc<Inner>,
    /// `None` once published. The place may have moved on from there.
    cset: Option<Arc<CssSet>>,
    sampled: Sampled,
}

/// What a fork compares when it is published with how it was when it was
/// prepared.
#[derive(Clone, Copy)]
struct Sampled {
    /// Of the cgroup that the child will be in.
    kill_seq: u64,
    /// How often the forking process had been moved; `None` for a task that
    /// comes from outside.
    moves: Option<u64>,
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
    /// * ESRCH: the forking task has begun to exit or has been killed;
    /// * ENODEV: the cgroup has been removed;
    /// * with [`ForkFrom::Into`], EACCES or what [`Opener::may_write`] gave for
    ///   the cgroup itself, then as in [`attach`](Self::attach);
    /// * with [`ForkFrom::Cgroup`], EOPNOTSUPP and EBUSY where no tasks may be,
    ///   as in [`attach`](Self::attach);
    /// * what a controller refused with: EAGAIN at `pids.max`. The refusal is
    ///   counted and its effects are on the list.
    pub fn fork(&self, from: ForkFrom<'_>, fx: &mut Effects) -> Result<Fork, Errno> {
        let inner = &self.inner;
        let (cset, sampled) = match from {
            ForkFrom::Task(parent) => inner.reserve_beside(parent, fx)?,
            ForkFrom::Cgroup(cgroup) => inner.reserve_in(cgroup, None, fx)?,
            ForkFrom::Into { forker, cgroup, scope, opener } => {
                inner.reserve_in(cgroup, Some((forker, scope, opener)), fx)?
            }
        };
        Ok(Fork { inner: Arc::clone(inner), cset: Some(cset), sampled })
    }

    /// Takes in a task that exists already. Controllers charge it whatever
    /// their limits, as they do when a task is moved.
    ///
    /// # Errors
    /// In order:
    /// * ENODEV: the cgroup has been removed;
    /// * EOPNOTSUPP, EBUSY: no tasks may be there, as in
    ///   [`attach`](Self::attach);
    /// * EOPNOTSUPP: it is a thread of a process in another domain.
    pub fn adopt(
        &self,
        cgroup: &Arc<Cgroup>,
        id: TaskId,
        membership: Membership<'_>,
        fx: &mut Effects,
    ) -> Result<Arc<Task>, Errno> {
        let inner = &*self.inner;
        let tree = &inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENODEV);
        }
        inner.may_host(cgroup, tree, &inner.set_lock.lock())?;
        if let Membership::ThreadOf(task) = membership {
            let at = Inner::whereabouts(task, &task.leader().group.lock());
            if at.is_some_and(|at| !Arc::ptr_eq(&at.domain, cgroup.domain(tree))) {
                return Err(Errno::EOPNOTSUPP);
            }
        }
        let mut cset = {
            let set = &mut inner.set_lock.lock();
            let cset = inner.find_css_set(cgroup, tree, set);
            cset.list.lock().reserved += 1;
            cset
        };
        for &ssid in &inner.hooked.attach {
            inner.controllers[ssid].attach(id, &cset.csses[ssid], None, fx);
        }
        let task = Task::new(id, membership, Arc::clone(&cset));
        // Nobody moves while the tree is locked, so this is settled.
        inner.try_link(&mut cset, &task, false, fx);
        if cgroup.freezing() {
            // Unlike a newborn it runs already.
            inner.update_frozen(cgroup, &mut inner.set_lock.lock(), fx);
        }
        if !task.is_leader() {
            task.join_group(&mut task.leader().group.lock());
        }
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
    /// killed since the fork was prepared, the child is to be killed too; if the
    /// cgroup is to be frozen, so is the child.
    pub fn publish(
        mut self,
        id: TaskId,
        membership: Membership<'_>,
        fx: &mut Effects,
    ) -> Arc<Task> {
        let Some(cset) = self.cset.take() else {
            unreachable!("a fork is published once: publish takes it")
        };
        let inner = &*self.inner;
        let task = Task::new(id, membership, Arc::clone(&cset));
        let (cset, followed) = match membership {
            Membership::Process => (inner.link(cset, &task, fx), false),
            Membership::ThreadOf(sibling) => {
                inner.link_thread(cset, &task, sibling, self.sampled.moves, fx)
            }
        };
        // Odd: a kill was under way when this fork was prepared.
        let kill_seq = self.sampled.kill_seq;
        let killed = kill_seq % 2 == 1 || cset.cgroup.kill_seq.load(Ordering::Acquire) != kill_seq;
        // A thread that followed its process elsewhere was not there to be killed.
        if killed
            && !followed
            && !inner.mutation.is(Mutant::ForkIgnoresKill)
            && task.leader().advance(Stage::KILLED, Stage::empty())
        {
            fx.push(Effect::Kill(task.leader().id));
        }
        task
    }

    /// The fork failed, or its child is gone already: gives the place back
    /// (`cgroup_cancel_fork`). Dropping does the same.
    pub fn cancel(mut self, fx: &mut Effects) {
        self.give_back(fx);
    }

    fn give_back(&mut self, fx: &mut Effects) {
        if let Some(cset) = self.cset.take() {
            self.inner.unreserve(cset, fx);
        }
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        // No effect is lost with this list: see `unreserve`.
        let mut fx = Effects::at(crate::Time::default());
        self.give_back(&mut fx);
    }
}

/// Who forks into a cgroup, what, and with which rights.
type Forker<'a> = (&'a Arc<Task>, Scope, Opener<'a>);

impl Inner {
    /// Marks a place in the set of a task that forks, samples the kill sequence
    /// number and asks the controllers.
    fn reserve_beside(
        &self,
        parent: &Arc<Task>,
        fx: &mut Effects,
    ) -> Result<(Arc<CssSet>, Sampled), Errno> {
        loop {
            // Held until the charge is made: a parent that is not held still by a
            // mover keeps its set, and a place with it, from being moved.
            let at = parent.cset.lock();
            if parent.is(Stage::MOVING) {
                drop(at);
                self.wait_for_mover();
                continue;
            }
            let cset = at.as_ref().ok_or(Errno::ESRCH)?;
            let kill_seq = {
                let mut list = cset.list.lock();
                // Under the list's lock, see `kill.rs`.
                if parent.is(Stage::EXITING) || parent.leader().is(Stage::KILLED) {
                    return Err(Errno::ESRCH);
                }
                if list.dead {
                    return Err(Errno::ENODEV);
                }
                list.reserved += 1;
                cset.get();
                cset.cgroup.kill_seq.load(Ordering::Acquire)
            };
            if let Err(errno) = self.ask_to_fork(cset, fx) {
                // The parent has a reference as long as its lock is held.
                cset.put_shared(1);
                cset.list.lock().reserved -= 1;
                return Err(errno);
            }
            let sampled = Sampled { kill_seq, moves: Some(parent.leader().moves()) };
            return Ok((Arc::clone(cset), sampled));
        }
    }

    /// Likewise in a cgroup that is named. The kill sequence number is that of
    /// the cgroup the child will be in. (Linux before 7.2.13 sampled the
    /// parent's and killed children for nothing.)
    fn reserve_in(
        &self,
        cgroup: &Arc<Cgroup>,
        forker: Option<Forker<'_>>,
        fx: &mut Effects,
    ) -> Result<(Arc<CssSet>, Sampled), Errno> {
        let tree = &self.tree_lock.lock();
        let source = match forker {
            Some((task, ..)) => {
                let at = task.cset.lock();
                if task.is(Stage::EXITING) || task.leader().is(Stage::KILLED) {
                    return Err(Errno::ESRCH);
                }
                Some(at.clone().ok_or(Errno::ESRCH)?)
            }
            None => None,
        };
        if cgroup.is_dead() {
            return Err(Errno::ENODEV);
        }
        match (forker, source) {
            (Some((_, scope, opener)), Some(source)) => {
                (opener.may_write)(cgroup)?;
                self.may_attach(&source.cgroup, cgroup, scope, &opener, tree)?;
            }
            _ => self.may_host(cgroup, tree, &self.set_lock.lock())?,
        }
        let cset = {
            let set = &mut self.set_lock.lock();
            let cset = self.find_css_set(cgroup, tree, set);
            cset.list.lock().reserved += 1;
            cset
        };
        let kill_seq = cgroup.kill_seq.load(Ordering::Acquire);
        if let Err(errno) = self.ask_to_fork(&cset, fx) {
            let set = &mut self.set_lock.lock();
            self.put_css_set_locked(&cset, set, fx);
            cset.list.lock().reserved -= 1;
            return Err(errno);
        }
        let moves = forker.map(|(task, ..)| task.leader().moves());
        Ok((cset, Sampled { kill_seq, moves }))
    }

    /// Asks the controllers whether a child may be born in a set.
    fn ask_to_fork(&self, cset: &CssSet, fx: &mut Effects) -> Result<(), Errno> {
        for (done, &ssid) in self.hooked.fork.iter().enumerate() {
            if let Err(errno) = self.controllers[ssid].can_fork(&cset.csses[ssid], fx) {
                for &undo in self.hooked.fork[..done].iter().rev() {
                    self.controllers[undo].cancel_fork(&cset.csses[undo]);
                }
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Gives a marked place back, with its charge and its reference.
    ///
    /// In this order and under the set lock: as long as the place is marked the
    /// cgroup cannot be removed, so every css still has its base reference and
    /// none of the references put here is the last one. A set that the place
    /// was moved to is referenced there, and those before it no more.
    fn unreserve(&self, mut cset: Arc<CssSet>, fx: &mut Effects) {
        loop {
            let mut set = self.set_lock.lock();
            let list = cset.list.lock();
            let next = match &list.places {
                Places::Here => {
                    for &ssid in self.hooked.fork.iter().rev() {
                        self.controllers[ssid].cancel_fork(&cset.csses[ssid]);
                    }
                    drop(list);
                    self.put_css_set_locked(&cset, &mut set, fx);
                    cset.list.lock().reserved -= 1;
                    return;
                }
                Places::MovedTo(next) => Some(Arc::clone(next)),
                Places::Unsettled => None,
                Places::Gone => unreachable!("a place in a set that had none"),
            };
            drop((list, set));
            match next {
                Some(next) => cset = next,
                None => self.wait_for_mover(),
            }
        }
    }

    /// The set of one who stands for a process: of the thread named or, if that
    /// one is on its way out, of any that is not.
    fn whereabouts(task: &Arc<Task>, group: &Group) -> Option<Arc<CssSet>> {
        let lives = |task: &Arc<Task>| {
            let at = task.cset.lock();
            at.clone().filter(|_| !task.is(Stage::EXITING))
        };
        lives(task).or_else(|| task.leader().members(group).iter().find_map(lives))
    }

    /// Links a process. Returns in which set.
    fn link(&self, mut cset: Arc<CssSet>, task: &Arc<Task>, fx: &mut Effects) -> Arc<CssSet> {
        while !self.try_link(&mut cset, task, true, fx) {
            self.wait_for_mover();
        }
        cset
    }

    /// Links a new thread of the process that `sibling` belongs to and that had
    /// been moved `moves` times. Returns in which set, and whether it had to
    /// follow its process there.
    fn link_thread(
        &self,
        mut cset: Arc<CssSet>,
        task: &Arc<Task>,
        sibling: &Arc<Task>,
        moves: Option<u64>,
        fx: &mut Effects,
    ) -> (Arc<CssSet>, bool) {
        let mut followed = false;
        loop {
            let mut group = task.leader().group.lock();
            let moved = moves.is_some_and(|moves| moves != task.leader().moves());
            let elsewhere = |at: Arc<CssSet>| {
                !Arc::ptr_eq(&at.domain, &cset.domain)
                    || moved && !Arc::ptr_eq(&at.cgroup, &cset.cgroup)
            };
            let away = !self.mutation.is(Mutant::ThreadIgnoresMove)
                && Self::whereabouts(sibling, &group).is_some_and(elsewhere);
            let still = !group.moving || self.mutation.is(Mutant::ThreadIgnoresMove);
            if !away && still && self.try_link(&mut cset, task, true, fx) {
                task.join_group(&mut group);
                return (cset, followed);
            }
            let moving = group.moving;
            // The group's lock is inside the tree lock.
            drop(group);
            if away && !moving {
                cset = self.follow(cset, sibling, fx);
                *task.cset.lock() = Some(Arc::clone(&cset));
                followed = true;
            } else {
                self.wait_for_mover();
            }
        }
    }

    /// Moves the place of a thread to where its process has moved.
    fn follow(&self, mut cset: Arc<CssSet>, sibling: &Arc<Task>, fx: &mut Effects) -> Arc<CssSet> {
        let tree = &self.tree_lock.lock();
        // Settled, since the mover is the one who holds the tree lock.
        loop {
            let list = cset.list.lock();
            let Places::MovedTo(next) = &list.places else { break };
            let next = Arc::clone(next);
            drop(list);
            cset = next;
        }
        let Some(at) = Self::whereabouts(sibling, &sibling.leader().group.lock()) else {
            return cset;
        };
        let set = &mut self.set_lock.lock();
        let to = self.find_css_set(&at.cgroup, tree, set);
        if !Arc::ptr_eq(&to, &cset) {
            cset.get();
            cset.list.lock().reserved -= 1;
            self.move_places(1, &cset, &to, fx);
            self.put_css_set_locked(&cset, set, fx);
        }
        self.put_css_set_locked(&to, set, fx);
        to
    }

    /// Turns a marked place into a linked task. A set that has tasks needs no
    /// lock but its own; the first task is a change that others see. Returns
    /// false if it is not settled where the place is: the caller lets go of its
    /// locks and waits for the mover.
    fn try_link(
        &self,
        cset: &mut Arc<CssSet>,
        task: &Arc<Task>,
        forked: bool,
        fx: &mut Effects,
    ) -> bool {
        loop {
            let next = {
                let mut list = cset.list.lock();
                match &list.places {
                    Places::Here if list.tasks.is_empty() => None,
                    Places::Here => {
                        self.born(cset, task, &mut list, forked, fx);
                        return true;
                    }
                    Places::MovedTo(next) => Some(Arc::clone(next)),
                    Places::Unsettled if self.mutation.is(Mutant::PublishIgnoresMove) => {
                        self.born(cset, task, &mut list, forked, fx);
                        return true;
                    }
                    Places::Unsettled => return false,
                    Places::Gone => unreachable!("a place in a set that had none"),
                }
            };
            if let Some(next) = next {
                // Nobody knows the task yet, so nobody is in the way.
                *task.cset.lock() = Some(Arc::clone(&next));
                *cset = next;
                continue;
            }
            let set = self.set_lock.lock();
            let first = {
                let mut list = cset.list.lock();
                if !matches!(list.places, Places::Here) {
                    continue;
                }
                let first = list.tasks.is_empty();
                self.born(cset, task, &mut list, forked, fx);
                first
            };
            if first {
                self.update_populated(cset, true, &set, fx);
            }
            return true;
        }
    }

    /// Links a task in a set whose list is locked, and what it is owed there.
    /// Whoever freezes a cgroup reads the list after setting the flag.
    fn born(
        &self,
        cset: &CssSet,
        task: &Arc<Task>,
        list: &mut CsetTasks,
        forked: bool,
        fx: &mut Effects,
    ) {
        list.reserved -= 1;
        list.link(Arc::clone(task));
        if cset.cgroup.is(CgroupFlags::FREEZE) {
            fx.push(Effect::Freeze(task.id));
        }
        if forked {
            for &ssid in &self.hooked.fork {
                self.controllers[ssid].fork(task.id, &cset.csses[ssid], fx);
            }
        }
    }
}
