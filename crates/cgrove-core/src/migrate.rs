//! Moving tasks from one css_set to another, all of them or none.
//!
//! A move has a plan that can be refused and a commit that cannot
//! (`cgroup_migrate_execute`): find the destination sets, mark the tasks, ask
//! the controllers, switch the tasks over, tell the controllers. Two callers:
//! a write to `cgroup.procs` or `cgroup.threads` moves a process or a thread to
//! another cgroup, and a change of controllers moves everybody to other sets of
//! the cgroup they are in.
//!
//! Three rules:
//!
//! * tasks on their way out are left where they are, in silence;
//! * the destination is populated before the source is emptied, so what is
//!   above both never reads as empty and notifies nobody;
//! * from the plan to the commit the tasks hold still (`task.rs`), and so do
//!   the places of forks in flight where they move too ([`Places`]): what the
//!   controllers were asked about is what is committed.

use crate::cgroup::Cgroup;
use crate::css::Css;
use crate::css_set::{CssSet, Places};
use crate::delegate::Opener;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::id::TaskId;
use crate::mask::SsMask;
use crate::sync::lock::{SetGuard, TreeGuard};
use crate::sync::mutant::{Mutant, broken};
use crate::sync::{Ordering, invariant};
use crate::task::{Stage, Task};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How much of a process a write moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All its threads, whichever of them was named (`cgroup.procs`).
    Process,
    /// The one thread that was named (`cgroup.threads`).
    Thread,
}

/// The tasks of a move, for one controller to judge.
#[derive(Debug)]
pub struct TaskSet<'a> {
    moves: &'a [Moving],
    ssid: usize,
}

/// One task of a move.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// The task.
    pub task: TaskId,
    /// The leader of its process.
    pub leader: TaskId,
    /// The controller's css that it leaves.
    pub from: &'a Css,
    /// The one that it comes to; may be the same.
    pub to: &'a Css,
}

impl TaskSet<'_> {
    /// The tasks; the leader of a process that moves comes first.
    pub fn iter(&self) -> impl Iterator<Item = Move<'_>> {
        self.moves.iter().map(|it| Move {
            task: it.task.id,
            leader: it.task.leader().id,
            from: &it.from.csses[self.ssid],
            to: &it.to.csses[self.ssid],
        })
    }

    /// How many there are; never none.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.moves.len()
    }
}

#[derive(Debug)]
struct Moving {
    task: Arc<Task>,
    from: Arc<CssSet>,
    to: Arc<CssSet>,
}

/// A set and the one that its tasks go to, both referenced by the mover.
type Pair = (Arc<CssSet>, Arc<CssSet>);

/// Whom a move takes along.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    /// Everyone in the source sets, and the places of forks in flight.
    Everyone,
    /// This one, if it is in one.
    Thread(&'a Arc<Task>),
    /// These, as far as they are in one: a leader and its threads.
    Process(&'a Arc<Task>, &'a [Arc<Task>]),
}

impl Who<'_> {
    fn count_move(self) {
        if let Self::Process(leader, _) = self {
            leader.moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Hierarchy {
    /// Writes a task to `cgroup.procs` or `cgroup.threads`. `who` finds the task
    /// that the written number means, once the cgroup is known to live; its
    /// error (EINVAL for what is no number, ESRCH for what is no task) is
    /// returned.
    ///
    /// A task that has begun to exit is left where it is, and a process of such
    /// tasks alone is moved with success and without effect.
    ///
    /// # Errors
    /// Nobody has moved then. In order:
    /// * ENODEV: the cgroup has been removed;
    /// * what `who` gave; ESRCH for a task that is freed; EINVAL for one that is
    ///   [bound](Task::bind);
    /// * EACCES, or what [`Opener::may_write`] gave for the nearest cgroup above
    ///   source and destination;
    /// * ENOENT: the opener's namespace does not hold both;
    /// * EOPNOTSUPP: no tasks may be there, a `domain invalid`;
    /// * EBUSY: domain controllers are on for its children;
    /// * EOPNOTSUPP: a thread would leave its domain;
    /// * what a controller refused with.
    pub fn attach(
        &self,
        cgroup: &Arc<Cgroup>,
        scope: Scope,
        who: impl FnOnce() -> Result<Arc<Task>, Errno>,
        opener: &Opener<'_>,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let inner = &*self.inner;
        let tree = &mut inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENODEV);
        }
        let named = who()?;
        let task = match scope {
            Scope::Process => named.leader(),
            Scope::Thread => &named,
        };
        // A leader can be freed before its threads where the embedder lets it.
        let others = || {
            let members = task.members(&task.group.lock());
            members.iter().find_map(|it| it.cset.lock().clone()).filter(|_| task.is_leader())
        };
        let own = task.cset.lock().clone();
        let source = own.or_else(others).ok_or(Errno::ESRCH)?;
        if task.is(Stage::BOUND) {
            return Err(Errno::EINVAL);
        }
        inner.may_attach(&source.cgroup, cgroup, scope, opener, tree)?;

        let tasks = match scope {
            Scope::Process => {
                let mut group = task.group.lock();
                // A thread that is born from now on is not in the list, and
                // waits until it can follow: see `fork.rs`.
                group.moving = true;
                task.members(&group)
            }
            Scope::Thread => alloc::vec![Arc::clone(task)],
        };
        let who = match scope {
            Scope::Process => Who::Process(task, &tasks),
            Scope::Thread => Who::Thread(task),
        };
        // The threads of one process can be in as many sets.
        let mut known = BTreeSet::new();
        let mut sources = Vec::new();
        for from in tasks.iter().filter_map(|task| task.cset.lock().clone()) {
            if known.insert(Arc::as_ptr(&from)) {
                sources.push((from, Arc::clone(cgroup)));
            }
        }
        let moved = inner.migrate(sources, who, tree, fx);
        if scope == Scope::Process {
            task.group.lock().moving = false;
        }
        moved
    }
}

impl Inner {
    /// `cgroup_attach_permissions`.
    pub(crate) fn may_attach(
        &self,
        from: &Arc<Cgroup>,
        to: &Arc<Cgroup>,
        scope: Scope,
        opener: &Opener<'_>,
        tree: &TreeGuard<'_>,
    ) -> Result<(), Errno> {
        opener.may_move(from, to)?;
        self.may_host(to, tree, &self.set_lock.lock())?;
        if scope == Scope::Thread
            && !Arc::ptr_eq(from.domain(tree), to.domain(tree))
            && !broken(Mutant::ThreadLeavesDomain)
        {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(())
    }

    /// Whether tasks may be in a cgroup (`cgroup_migrate_vet_dst`).
    pub(crate) fn may_host(
        &self,
        cgroup: &Arc<Cgroup>,
        tree: &TreeGuard<'_>,
        set: &SetGuard<'_>,
    ) -> Result<(), Errno> {
        if !self.is_valid_domain(cgroup.domain(tree), tree, set) {
            return Err(Errno::EOPNOTSUPP);
        }
        let internal = !self.traits.mixable
            && !cgroup.tree.get(tree).subtree_control.is_empty()
            && !cgroup.is_threaded(tree)
            && !self.can_be_thread_root(cgroup, tree, set);
        if internal { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Moves tasks out of each source set to the set of the cgroup beside it.
    pub(crate) fn migrate(
        &self,
        sources: Vec<(Arc<CssSet>, Arc<Cgroup>)>,
        who: Who<'_>,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let (pairs, mask) = self.prepare(sources, tree, fx);
        let early = self.mutation.is(Mutant::MoveCountedEarly);
        if early {
            who.count_move();
        }
        let moves = self.hold(&pairs, who);
        let moved = self.ask(&moves, mask, fx);
        if moved.is_ok() {
            if !early {
                // After their last fork from the old place and before their first
                // from the new one: see `fork.rs`.
                who.count_move();
            }
            self.commit(&pairs, &moves, who, fx);
            for it in &moves {
                for &ssid in self.hooked.attach.iter().filter(|&&ssid| mask.contains(ssid)) {
                    let (from, to) = (&it.from.csses[ssid], &it.to.csses[ssid]);
                    if from.id != to.id {
                        self.controllers[ssid].attach(it.task.id, to, Some(from), fx);
                    }
                }
            }
        } else {
            self.settle(&pairs);
        }
        // Only now: a task that ends sooner would be uncharged before `attach`
        // has charged it.
        for it in &moves {
            it.task.mark(Stage::MOVING, false);
        }
        let set = &mut self.set_lock.lock();
        for (from, to) in &pairs {
            self.put_css_set_locked(from, set, fx);
            self.put_css_set_locked(to, set, fx);
        }
        moved
    }

    /// Finds the destination of each source, none of which is there twice, and
    /// references both. Leaves out
    /// sets of removed cgroups, which hold nobody that can move, those that were
    /// moved out of before, and those that are right as they are.
    fn prepare(
        &self,
        sources: Vec<(Arc<CssSet>, Arc<Cgroup>)>,
        tree: &TreeGuard<'_>,
        fx: &mut Effects,
    ) -> (Vec<Pair>, SsMask) {
        let set = &mut self.set_lock.lock();
        let mut pairs: Vec<Pair> = Vec::new();
        let mut mask = SsMask::NONE;
        for (from, cgroup) in sources {
            {
                let list = from.list.lock();
                if list.dead || list.places.have_moved() {
                    continue;
                }
            }
            // Found without the set lock: its last task may be freed since.
            if !from.try_get(set) {
                continue;
            }
            let to = self.find_css_set(&cgroup, tree, set);
            if Arc::ptr_eq(&from, &to) {
                self.put_css_set_locked(&to, set, fx);
                self.put_css_set_locked(&from, set, fx);
                continue;
            }
            let differs = |&ssid: &usize| from.csses[ssid].id != to.csses[ssid].id;
            mask |= (0..self.controllers.len()).filter(differs).collect();
            pairs.push((from, to));
        }
        (pairs, mask)
    }

    /// Marks whoever moves, so that nothing happens to it meanwhile.
    fn hold(&self, pairs: &[Pair], who: Who<'_>) -> Vec<Moving> {
        let mut moves = Vec::new();
        let mut hold = |task: &Arc<Task>, pair: &dyn Fn(&Arc<CssSet>) -> Option<usize>| {
            let at = task.cset.lock();
            let Some(found) = at.as_ref().and_then(pair) else { return };
            if !task.is(Stage::EXITING) {
                task.mark(Stage::MOVING, true);
                let (from, to) = &pairs[found];
                let (task, from, to) = (Arc::clone(task), Arc::clone(from), Arc::clone(to));
                moves.push(Moving { task, from, to });
            }
        };
        match who {
            Who::Thread(_) | Who::Process(..) => {
                let tasks = match who {
                    Who::Process(_, tasks) => tasks,
                    Who::Thread(task) => core::slice::from_ref(task),
                    Who::Everyone => &[],
                };
                let index: BTreeMap<_, _> = pairs
                    .iter()
                    .enumerate()
                    .map(|(at, (from, _))| (Arc::as_ptr(from), at))
                    .collect();
                let pair = |at: &Arc<CssSet>| index.get(&Arc::as_ptr(at)).copied();
                tasks.iter().for_each(|task| hold(task, &pair));
            }
            Who::Everyone => {
                // Under the set lock, as cancelled forks expect.
                let _set = self.set_lock.lock();
                for (at, (from, _)) in pairs.iter().enumerate() {
                    let tasks = {
                        let mut list = from.list.lock();
                        // Nobody is published here until it is known where.
                        list.places = Places::Unsettled;
                        list.tasks.clone()
                    };
                    tasks.iter().for_each(|task| hold(task, &|_| Some(at)));
                }
            }
        }
        moves
    }

    /// Asks each controller that has a css changing; takes back what was granted
    /// if one refuses.
    fn ask(&self, moves: &[Moving], mask: SsMask, fx: &mut Effects) -> Result<(), Errno> {
        if moves.is_empty() {
            return Ok(());
        }
        let concerned = || self.hooked.attach.iter().filter(|&&ssid| mask.contains(ssid));
        for &ssid in concerned() {
            if let Err(errno) = self.controllers[ssid].can_attach(&TaskSet { moves, ssid }, fx) {
                for &undo in concerned().take_while(|&&other| other != ssid) {
                    self.controllers[undo].cancel_attach(&TaskSet { moves, ssid: undo }, fx);
                }
                return Err(errno);
            }
        }
        Ok(())
    }

    /// No place moves after all.
    fn settle(&self, pairs: &[Pair]) {
        let _set = self.set_lock.lock();
        for (from, _) in pairs {
            let mut list = from.list.lock();
            if matches!(list.places, Places::Unsettled) {
                list.places = Places::Here;
            }
        }
    }

    /// The point of no return: everyone is in the new set.
    fn commit(&self, pairs: &[Pair], moves: &[Moving], who: Who<'_>, fx: &mut Effects) {
        let set = &mut self.set_lock.lock();
        for Moving { task, from, to } in moves {
            let mut at = task.cset.lock();
            // The destination first. Nobody else can fill or empty a set now:
            // that takes the set lock.
            if to.list.lock().tasks.is_empty() {
                self.update_populated(to, true, set, fx);
            }
            let emptied = {
                let mut list = from.list.lock();
                list.take(task);
                list.tasks.is_empty()
            };
            to.get();
            to.list.lock().link(Arc::clone(task));
            *at = Some(Arc::clone(to));
            drop(at);
            if emptied {
                self.update_populated(from, false, set, fx);
            }
            if !Arc::ptr_eq(&from.cgroup, &to.cgroup) {
                self.freezer_moved(task, &from.cgroup, &to.cgroup, set, fx);
            }
            // The pair holds one more.
            from.put_shared(1);
        }
        if matches!(who, Who::Everyone) {
            for (from, to) in pairs {
                let places = core::mem::take(&mut from.list.lock().reserved);
                self.move_places(places, from, to, fx);
                // Only now may anyone look for his place there.
                from.list.lock().places = match places {
                    0 => Places::Gone,
                    _ => Places::MovedTo(Arc::clone(to)),
                };
            }
        }
    }

    /// Places of forks in flight, already taken out of `from`, go to `to` with
    /// their references and charges. Set lock held by the caller, who holds a
    /// reference of its own on both.
    pub(crate) fn move_places(
        &self,
        places: usize,
        from: &Arc<CssSet>,
        to: &Arc<CssSet>,
        fx: &mut Effects,
    ) {
        if places == 0 {
            return;
        }
        invariant!(!Arc::ptr_eq(from, to), "places move to where they are");
        to.get_many(places);
        from.put_shared(places);
        // Under the list's lock: whoever cancels a place does so under it too.
        let mut list = to.list.lock();
        list.reserved += places;
        for &ssid in &self.hooked.fork {
            let (old, new) = (&from.csses[ssid], &to.csses[ssid]);
            if old.id != new.id {
                self.controllers[ssid].move_forks(places, new, old, fx);
            }
        }
    }
}
