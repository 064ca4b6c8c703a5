//! Every task of the tree as a task of the core, without ever counting too few.
//!
//! **Problem.** The gate knows that a fork is about to happen, not which pid comes of it, nor
//! whether it succeeds, nor when the child dies. `/proc` knows who exists, but late.
//!
//! **Mechanism.** An allowed fork is a *nameless charge*: the core's own reservation, held open.
//! A reconcile reads the tree and
//!
//! - gives names: a task that `/proc` shows and the ledger does not know takes over a nameless
//!   charge, no matter which, for nobody can tell whose child it is;
//! - retires known tasks that a complete census does not show;
//! - after a complete census, cancels nameless charges until there is one for each fork that is
//!   not *proven finished*: the children of the others have a name now or are gone.
//!
//! Charges are counted, not matched to forks. To give the charge of one unfinished fork to the
//! child of another, and then cancel the other's when that one is proven finished, would leave the
//! child that is still to come without any.
//!
//! A fork by thread X is proven finished when X asks for another, when X is gone, or when X, looked
//! at after our answer, sleeps or is stopped in any state but D: the kernel's fork path sleeps
//! uninterruptibly only. (Its one exception needs the caller's `CLONE_PIDFD` pointer to lie in
//! memory that a FUSE server pages in.) A running X proves nothing, unless it has burnt two clock
//! ticks of user time since. The proof is taken *before* the census it is used with.
//!
//! A child of a process that `/proc` hides has no name and no proof of its end. So the charges of
//! such *blind* forks are kept apart, and cancelled when a complete census finds nobody hidden any
//! more; whenever somebody new is hidden, every nameless charge may be for a child of his.
//!
//! So `current` is at least the number of tasks that exist, at all times. Kernel threads that
//! io_uring adds to a process do not pass the gate; the next census takes them in.

mod ancestry;
mod files;
mod freeze;
mod groups;
mod members;
mod snapshot;

pub use groups::{Figures, GroupId, MAX_GROUPS};

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::{
    Effect, Effects, Errno as CoreErrno, Fork, Hierarchy, Limit, Membership, Pids, SsMask, Task,
    TaskId, Time,
};

use cgrove_files::Tree;

use self::groups::Group;
use crate::mutant::{self, Mutant};
use crate::scan::{Census, Scanner, Seen};
use crate::sys::{self, RawPid};

/// Nameless charges that are always tolerated before a census.
const MIN_PENDING: usize = 64;
/// Time that censuses may take for the sake of an exact peak, whatever the run's length …
const FREE_CENSUS_TIME: Duration = Duration::from_millis(1);
/// … and as a share of the run.
const CENSUS_SHARE: u32 = 400;
/// A running forker proves nothing before this much time …
const RUNNING_PROOF_AGE: Duration = Duration::from_millis(50);
/// … and this many ticks of CPU time.
const RUNNING_PROOF_TICKS: u64 = 2;
/// At the limit with nothing pending, a full census at most this often.
const FULL_RECOUNT_INTERVAL: Duration = Duration::from_millis(10);
/// At the limit, how long one fork may wait for a census that is complete. Nobody else is answered
/// meanwhile, so the tree comes to rest.
const SETTLING_TIME: Duration = Duration::from_millis(20);

/// A task with a name.
struct Known {
    task: Arc<Task>,
    group: GroupId,
    tgid: RawPid,
    /// On a leader: threads were named below it.
    has_threads: bool,
}

/// The latest fork of a thread, not proven finished.
struct Unproven {
    group: GroupId,
    since: Instant,
    /// The thread's CPU ticks when it was first seen running.
    ticks: Option<u64>,
}

/// The run's tasks in the core, in one group or several.
pub struct Ledger {
    hierarchy: Hierarchy,
    /// The hierarchy's interface files, made for the first who asks for them.
    tree: OnceCell<Tree>,
    /// Who reads a long file from outside: the latest of them.
    reading: Option<files::Reading>,
    /// Who reads a long snapshot: what is left to read of it is in here, and which group it is of.
    snapshot: Option<(GroupId, Vec<u8>)>,
    /// The run's own first; those that were removed leave their place to others.
    groups: Vec<Option<Group>>,
    /// How many there are below the run's own.
    nested: usize,
    /// The groups' reapers by pid.
    reapers: HashMap<RawPid, GroupId>,
    /// Groups that were made (`true`) and removed since somebody asked, by path.
    news: Vec<(String, bool)>,
    fx: Effects,
    /// Whom the core wants frozen or thawed, not carried out yet.
    orders: Vec<(TaskId, bool)>,
    started: Instant,
    next_id: u64,
    known: HashMap<RawPid, Known>,
    /// Who was hidden in the last complete census.
    hidden: Vec<RawPid>,
    /// Whoever asked for the latest charge is, or is below one that nobody can find.
    asker_hidden: bool,
    /// Who asked last, and for which group.
    asking: (RawPid, GroupId),
    /// The first that ever was.
    first_hidden: Option<RawPid>,
    /// By thread. Never more to come than these, and so never more charges needed for them.
    unproven: HashMap<RawPid, Unproven>,
    /// A complete census was taken for the question that is being answered.
    all_seen: bool,
    census_time: Duration,
    last_recount: Option<Instant>,
}

impl Ledger {
    /// A hierarchy with the one group `name`.
    pub fn new(name: &str, limit: Option<u64>, started: Instant) -> Result<Ledger, CoreErrno> {
        let hierarchy = members::hierarchy();
        let mut fx = Effects::at(Time(0));
        let enable = hierarchy.mask(&members::CONTROLLERS)?;
        // Nothing dies in a hierarchy that is new, so there is nothing to wait for.
        hierarchy
            .write_subtree_control(hierarchy.root(), enable, SsMask::NONE, &mut fx)
            .map_err(|refused| refused.errno().unwrap_or(CoreErrno::EBUSY))?;
        let group = hierarchy.create(hierarchy.root(), name, &mut fx)?;
        let pids = Pids::css(&group).ok_or(CoreErrno::ENODEV)?;
        if let Some(limit) = limit {
            pids.set_max(Limit::N(limit))?;
        }
        let mut ledger = Ledger {
            tree: OnceCell::new(),
            reading: None,
            snapshot: None,
            hierarchy,
            groups: vec![Some(Group::new(group, pids, None, None))],
            nested: 0,
            reapers: HashMap::new(),
            news: Vec::new(),
            fx,
            orders: Vec::new(),
            started,
            next_id: 1,
            known: HashMap::new(),
            hidden: Vec::new(),
            asker_hidden: false,
            asking: (0, GroupId::RUN),
            first_hidden: None,
            unproven: HashMap::new(),
            all_seen: false,
            census_time: Duration::ZERO,
            last_recount: None,
        };
        ledger.perform();
        Ok(ledger)
    }

    /// Takes in a process that exists already: the command, or what the reaper backend finds.
    pub fn adopt(&mut self, pid: RawPid) -> Result<(), CoreErrno> {
        let id = self.fresh_id();
        let run = GroupId::RUN;
        let cgroup = Arc::clone(&self.group(run).cgroup);
        let task = self.hierarchy.adopt(&cgroup, id, Membership::Process, &mut self.fx)?;
        self.know(pid, Known { task, group: run, tgid: pid, has_threads: false });
        self.saw(run, self.known.len() as u64);
        self.perform();
        Ok(())
    }

    /// Whether one more task, forked by thread `tid`, would be within the limits, as far as the
    /// ledger knows.
    pub fn fits(&mut self, tid: RawPid, scanner: &mut Scanner) -> bool {
        self.asking = (tid, self.find_asker(tid, scanner));
        self.group(self.asking.1).pids.fits(1)
    }

    /// Thread `tid` asks for a new task: charges it, or refuses at the limit. Before it refuses it
    /// recounts the tree; the caller has collected what ended ([`Ledger::fits`] told it to).
    ///
    /// The charge is the caller's until [`Ledger::forked`]; dropping it undoes it.
    pub fn charge(&mut self, tid: RawPid, scanner: &mut Scanner) -> Result<Fork, CoreErrno> {
        self.fx.set_now(self.now());
        self.unproven.remove(&tid);
        self.all_seen = false;
        let (asked, mut group) = self.asking;
        if asked != tid || !self.exists(group) {
            group = self.find_asker(tid, scanner);
        }
        self.asking = (tid, group);
        if self.is_nested() && self.is_shut(group) {
            self.count_refusal(group);
            return Err(CoreErrno::EAGAIN);
        }
        let trusting = mutant::is(Mutant::DeadCounted);
        let pending = self.pending(group);
        let unsure = pending > 0 || (self.known.len() > 1 && !trusting);
        if !self.group(group).pids.fits(1) {
            if !mutant::is(Mutant::NoRecount) {
                self.make_room(group, scanner);
            }
        } else if pending >= MIN_PENDING.max(2 * self.known.len())
            || (unsure && self.is_at_peak(group) && self.may_look())
        {
            self.reconcile(scanner);
        }
        self.asker_hidden = !self.hidden.is_empty() && !scanner.finds(tid, &self.hidden);
        if !self.exists(group) {
            // It has ended while it was counted.
            return Err(CoreErrno::EAGAIN);
        }
        let fork = self.take_charge(group);
        self.perform();
        fork
    }

    /// The charged fork was let through. Returns the group of it.
    pub fn forked(&mut self, tid: RawPid, fork: Fork) -> GroupId {
        // If everyone has a name and was there a moment ago, or asks, so many exist once the fork
        // succeeds.
        let all_there = self.all_seen || self.known.len() == 1 || mutant::is(Mutant::DeadCounted);
        let (_, group) = self.asking;
        for id in self.chain(group).collect::<Vec<_>>() {
            self.group_mut(id).forks += 1;
            if all_there && self.pending(id) == 0 {
                self.saw(id, self.tasks_within(id) + 1);
            }
        }
        let hidden = self.asker_hidden;
        let of = self.group_mut(group);
        if hidden {
            of.blind.push(fork);
        } else {
            of.nameless.push(fork);
        }
        self.unproven.insert(tid, Unproven { group, since: Instant::now(), ticks: None });
        group
    }

    /// The latest fork that thread `tid` was let make did not happen: a signal took it out of the
    /// call, which begins anew.
    pub fn failed(&mut self, tid: RawPid, group: GroupId) {
        let to_come = self.unproven.remove(&tid).is_some();
        if !self.exists(group) {
            return;
        }
        for id in self.chain(group).collect::<Vec<_>>() {
            let of = self.group_mut(id);
            of.forks = of.forks.saturating_sub(1);
        }
        // No matter which: there is one more than there are children to come. Had a census proven
        // the fork finished, it would have cancelled one.
        if to_come && let Some(charge) = self.group_mut(group).nameless.pop() {
            self.fx.set_now(self.now());
            charge.cancel(&mut self.fx);
            self.perform();
        }
    }

    /// The reaper collected this process: all its threads are gone with it.
    pub fn reaped(&mut self, pid: RawPid) {
        self.fx.set_now(self.now());
        if let Some(group) = self.reaps(pid) {
            self.lose(group);
        }
        let threads = self.known.get(&pid).is_some_and(|leader| leader.has_threads);
        self.forget(pid);
        if threads {
            let tids: Vec<RawPid> =
                self.known.iter().filter(|(_, k)| k.tgid == pid).map(|(tid, _)| *tid).collect();
            tids.into_iter().for_each(|tid| self.forget(tid));
        }
        self.perform();
    }

    /// Brings names and charges in line with `/proc`. Returns the census.
    pub fn reconcile(&mut self, scanner: &mut Scanner) -> Census {
        let begun = Instant::now();
        self.prove(scanner);
        let census = scanner.census();
        self.name_newcomers(&census, scanner, true);
        if census.complete {
            self.set_hidden(&census);
            self.cancel_the_finished();
            let unseen = self.known.iter().filter(|(tid, _)| census.get(**tid).is_none());
            // What is below the hidden may still be there.
            let gone = unseen.filter(|(tid, known)| {
                self.hidden.is_empty() || !sys::thread_exists(known.tgid, **tid)
            });
            let gone: Vec<RawPid> = gone.map(|(tid, _)| *tid).collect();
            gone.into_iter().for_each(|tid| self.forget(tid));
            self.saw_all();
            self.all_seen = self.hidden.is_empty();
        }
        self.perform();
        self.census_time += begun.elapsed();
        census
    }

    /// Keeps, in each group, as many charges without a name as there are forks that are not proven
    /// finished.
    fn cancel_the_finished(&mut self) {
        for id in self.ids().collect::<Vec<_>>() {
            let unfinished = if mutant::is(Mutant::ToComeForgotten) {
                0
            } else if self.is_nested() {
                self.unproven.values().filter(|fork| fork.group == id).count()
            } else {
                self.unproven.len()
            };
            let group = self.group_mut(id);
            let to_come = group.nameless.len().min(unfinished);
            let finished: Vec<Fork> = group.nameless.drain(to_come..).collect();
            finished.into_iter().for_each(|fork| fork.cancel(&mut self.fx));
        }
    }

    /// Moves charges between those that a census can settle and those that it cannot.
    fn set_hidden(&mut self, census: &Census) {
        if mutant::is(Mutant::HiddenForgotten) {
            return;
        }
        let new = census.hidden.iter().any(|pid| !self.hidden.contains(pid));
        for group in self.groups.iter_mut().flatten() {
            if census.hidden.is_empty() {
                group.nameless.append(&mut group.blind);
            } else if new {
                group.blind.append(&mut group.nameless);
            }
        }
        self.hidden.clone_from(&census.hidden);
        self.first_hidden = self.first_hidden.or(self.hidden.first().copied());
    }

    /// Follows a glance of the reaper backend, where forks do not ask: newcomers are charged by
    /// force and what is not seen is gone. Returns how many processes were new.
    pub fn follow(&mut self, census: &Census, scanner: &mut Scanner) -> u64 {
        self.fx.set_now(self.now());
        let known = &self.known;
        let new = census.members().filter(|s| s.is_leader() && !known.contains_key(&s.tid));
        let new = new.count() as u64;
        let gone: Vec<RawPid> =
            self.known.keys().copied().filter(|tid| census.get(*tid).is_none()).collect();
        gone.into_iter().for_each(|tid| self.forget(tid));
        self.name_newcomers(census, scanner, false);
        self.saw_all();
        self.perform();
        new
    }

    /// `cgroup.kill`: nothing that is named from now on is meant to live. Sending the signals is
    /// left to the caller's sweep, which finds the nameless as well.
    pub fn kill(&mut self) {
        self.fx.set_now(self.now());
        let run = Arc::clone(&self.group(GroupId::RUN).cgroup);
        // Fails only on a removed group, which has nobody to kill.
        let _ = self.hierarchy.kill(&run, &mut self.fx);
        self.perform();
    }

    /// Whether this thread id is known to belong to the group.
    pub fn knows(&self, tid: RawPid) -> bool {
        self.known.contains_key(&tid)
    }

    /// Tasks charged now: at least as many as exist.
    pub fn current(&self) -> u64 {
        self.group(GroupId::RUN).pids.current()
    }

    /// Groups whose task limit is exceeded by what is charged, and by how much.
    pub fn excess(&self) -> Vec<(GroupId, u64)> {
        let over = |id: GroupId| {
            let pids = &self.group(id).pids;
            match pids.max() {
                Limit::N(max) => (id, pids.current().saturating_sub(max)),
                Limit::Max => (id, 0),
            }
        };
        self.ids().map(over).filter(|(_, excess)| *excess > 0).collect()
    }

    /// So many were killed for the limit of a group, where forks cannot be refused.
    pub fn killed_for(&mut self, id: GroupId, killed: u64) {
        self.note_kills(id, killed);
    }

    /// Whether a known process is of the group, or of one below.
    pub fn is_member(&self, pid: RawPid, id: GroupId) -> bool {
        self.known.get(&pid).is_some_and(|known| self.is_within(known.group, id))
    }

    /// The first process that `/proc` did not let us look into.
    pub fn hidden(&self) -> Option<RawPid> {
        self.first_hidden
    }

    /// The tree is empty: retires everyone, removes the group and runs its teardown to the end.
    pub fn close(&mut self) {
        self.fx.set_now(self.now());
        let tids: Vec<RawPid> = self.known.keys().copied().collect();
        tids.into_iter().for_each(|tid| self.forget(tid));
        for id in self.ids().skip(1).collect::<Vec<_>>() {
            if self.exists(id) {
                let _ = self.remove(id);
            }
        }
        let run = self.group_mut(GroupId::RUN);
        let places: Vec<Fork> = run.nameless.drain(..).chain(run.blind.drain(..)).collect();
        let cgroup = Arc::clone(&run.cgroup);
        places.into_iter().for_each(|fork| fork.cancel(&mut self.fx));
        let removed = self.hierarchy.remove(&cgroup, &mut self.fx);
        debug_assert_eq!(removed, Ok(()));
        self.perform();
    }

    fn now(&self) -> Time {
        Time(crate::report::nanos(self.started.elapsed()))
    }

    fn fresh_id(&mut self) -> TaskId {
        let id = TaskId(self.next_id);
        self.next_id += 1;
        id
    }

    fn saw(&mut self, id: GroupId, tasks: u64) {
        let group = self.group_mut(id);
        group.peak_seen = group.peak_seen.max(tasks);
    }

    /// Everyone who is known exists.
    fn saw_all(&mut self) {
        for id in self.ids().collect::<Vec<_>>() {
            self.saw(id, self.tasks_within(id));
        }
    }

    /// Charges without a name, in the group and below.
    fn pending(&self, id: GroupId) -> usize {
        let count = |group: &Group| group.nameless.len();
        if self.is_nested() {
            self.within(id).into_iter().map(|id| count(self.group(id))).sum()
        } else {
            count(self.group(id))
        }
    }

    /// Whether one more task could be the most that there have been, at some level.
    fn is_at_peak(&self, id: GroupId) -> bool {
        self.chain(id).any(|id| {
            let group = self.group(id);
            group.pids.current() >= group.peak_seen
        })
    }

    fn know(&mut self, tid: RawPid, known: Known) {
        self.group_mut(known.group).tasks += 1;
        self.known.insert(tid, known);
    }

    /// Whether a census for no better reason than an exact peak is affordable.
    fn may_look(&self) -> bool {
        self.census_time < FREE_CENSUS_TIME + self.started.elapsed() / CENSUS_SHARE
    }

    fn forget(&mut self, tid: RawPid) {
        if let Some(known) = self.known.remove(&tid) {
            self.group_mut(known.group).tasks -= 1;
            let retired = self.hierarchy.retire(&known.task, &mut self.fx);
            debug_assert_eq!(retired, Ok(()));
        }
    }

    /// A limit is reached, as far as the ledger knows. Looks for someone who is gone: a signal 0
    /// to each known task is cheap, a census settles the nameless charges, and now and then it
    /// also finds a known pid that came back as somebody else's.
    ///
    /// A tree that moves can spoil a census. Then there are others, until one is complete or
    /// [`SETTLING_TIME`] is over.
    fn make_room(&mut self, asking: GroupId, scanner: &mut Scanner) {
        let begun = Instant::now();
        let due = self.last_recount.is_none_or(|at| at.elapsed() >= FULL_RECOUNT_INTERVAL);
        while let Some(full) = self.full_level(asking) {
            let here = |known: &Known| !self.is_nested() || self.is_within(known.group, full);
            let mut known = self.known.iter().filter(|(_, known)| here(known));
            let gone = known.find(|(tid, known)| !sys::thread_exists(known.tgid, **tid));
            if let Some(tid) = gone.map(|(tid, _)| *tid) {
                self.forget(tid);
                continue;
            }
            if self.pending(full) == 0 && !due {
                return;
            }
            let complete = self.reconcile(scanner).complete;
            self.last_recount = Some(Instant::now());
            // A census can end a group, and with it the question.
            if !self.exists(asking) || self.full_level(asking) == Some(full) && complete {
                return;
            }
            if begun.elapsed() >= SETTLING_TIME {
                return;
            }
        }
    }

    /// Forgets the forks whose thread has evidently moved on.
    fn prove(&mut self, scanner: &mut Scanner) {
        self.unproven.retain(|&tid, unproven| match scanner.proc.thread_stat(tid) {
            Ok(stat) => match stat.state {
                b'D' => true,
                b'R' => {
                    // User time alone: a fork of a large process runs in the kernel for long.
                    let system = mutant::is(Mutant::SystemTimeProves).then_some(stat.own.1);
                    let ticks = stat.own.0 + system.unwrap_or(0);
                    let first = *unproven.ticks.get_or_insert(ticks);
                    ticks < first + RUNNING_PROOF_TICKS
                        || unproven.since.elapsed() < RUNNING_PROOF_AGE
                }
                _ => false,
            },
            Err(_) => sys::thread_exists_anywhere(tid),
        });
    }

    /// Gives every task of the census a name, leaders before their threads. `asks`: every fork
    /// has a charge.
    fn name_newcomers(&mut self, census: &Census, scanner: &mut Scanner, asks: bool) {
        // A thread id that came back in another process is another task: the old one's charge goes
        // with the name, and the new one has a charge of its own.
        let mistaken =
            |seen: &&Seen| self.known.get(&seen.tid).is_some_and(|k| k.tgid != seen.tgid);
        let mistaken: Vec<RawPid> = census.members().filter(mistaken).map(|s| s.tid).collect();
        mistaken.into_iter().for_each(|tid| self.forget(tid));
        let (mut orphanages, mut without) = (Vec::new(), Vec::new());
        if self.is_nested() {
            without = self.look_for_reapers(scanner);
            orphanages = self.orphanages(asks);
        }
        let (leaders, threads): (Vec<&Seen>, Vec<&Seen>) = census
            .members()
            .filter(|seen| !self.known.contains_key(&seen.tid))
            .partition(|seen| seen.is_leader());
        // All are placed before any is named: whose name is new says nothing about its parent's.
        let home = |seen: &&Seen| match self.is_nested() {
            true => self.place(seen, census, &orphanages, scanner),
            false => GroupId::RUN,
        };
        let homes: Vec<GroupId> = leaders.iter().map(home).collect();
        self.forget_reapers(without);
        let placed = leaders.into_iter().zip(homes.into_iter().map(Some));
        for (seen, home) in placed.chain(threads.into_iter().map(|seen| (seen, None))) {
            let leader = match self.known.get(&seen.tgid) {
                Some(leader) if !seen.is_leader() => Some((Arc::clone(&leader.task), leader.group)),
                _ => None,
            };
            let group = leader.as_ref().map(|(_, group)| *group).or(home).unwrap_or(GroupId::RUN);
            let leader = leader.map(|(task, _)| task);
            let membership = leader.as_ref().map_or(Membership::Process, Membership::ThreadOf);
            let id = self.fresh_id();
            let task = match self.group_mut(group).take_place() {
                Some(fork) => fork.publish(id, membership, &mut self.fx),
                None => {
                    let cgroup = Arc::clone(&self.group(group).cgroup);
                    match self.hierarchy.adopt(&cgroup, id, membership, &mut self.fx) {
                        Ok(task) => task,
                        Err(_) => continue,
                    }
                }
            };
            if let Some(leader) = self.known.get_mut(&seen.tgid) {
                leader.has_threads = true;
            }
            self.know(seen.tid, Known { task, group, tgid: seen.tgid, has_threads: false });
        }
    }

    /// Performs what the core asks for. Nobody watches the interface files of this group, so
    /// notifications and their timers have no one to reach; whoever is to be killed is found by
    /// the sweep that follows every [`Ledger::kill`]; who is to freeze or thaw is kept for
    /// [`Ledger::orders`].
    fn perform(&mut self) {
        let mut work = true;
        while work {
            work = false;
            for effect in self.fx.drain() {
                match effect {
                    Effect::Work(_) => work = true,
                    Effect::Freeze(id) => self.orders.push((id, true)),
                    Effect::Unfreeze(id) => self.orders.push((id, false)),
                    _ => {}
                }
            }
            if work {
                self.hierarchy.pump(&mut self.fx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tid: RawPid, tgid: RawPid) -> Seen {
        Seen { tid, tgid, zombie: false, spared: false, stat: None }
    }

    fn census(tasks: &[Seen]) -> Census {
        Census { tasks: tasks.to_vec(), complete: true, hidden: Vec::new() }
    }

    /// A thread of process 10 ended, and its id came back as process 11: the end of process 10
    /// must not take 11's place away.
    #[test]
    fn a_thread_id_that_comes_back_is_another_task() {
        let mut ledger = Ledger::new("t", Some(9), Instant::now()).unwrap();
        ledger.adopt(10).unwrap();
        let scanner = &mut Scanner::open(std::process::id() as RawPid).unwrap();
        ledger.name_newcomers(&census(&[seen(10, 10), seen(11, 10)]), scanner, true);
        assert_eq!(ledger.current(), 2);
        ledger.name_newcomers(&census(&[seen(10, 10), seen(11, 11)]), scanner, true);
        assert_eq!(ledger.current(), 2);
        ledger.reaped(10);
        assert_eq!(ledger.current(), 1);
        ledger.close();
    }
}
