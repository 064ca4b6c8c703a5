//! The live processes of a run, with what each has used: the one table that the limits on memory
//! and CPU look at.
//!
//! **Problem.** To read a process's figures costs microseconds, and a run may have thousands of
//! processes that do nothing. To find them costs a walk over `/proc`.
//!
//! **Mechanism.** A process's CPU clock can be read for a third of a microsecond, by anybody. A
//! clock that stands still means a process that can neither have grown nor have forked, so only
//! those whose clock *moved* are read. A process that is gone was waited for, by which its time came
//! to be its parent's: what was charged for it is what the parent *owes*, and is taken off the time
//! that appears there. All clocks are read before any other figure, so that the time is there by
//! then; what a parent owes after that, but for what ticks do not show yet, the kernel has thrown
//! away (SIGCHLD ignored). Newcomers are found where the gate heard a fork, in the list
//! of the forker's children, and by every census that is taken for whatever reason.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::Cgroup;

use super::cpu::part;
use crate::ledger::Ledger;
use crate::mutant::{self, Mutant};
use crate::procfs::{Proc, Stat, Statm};
use crate::scan::{Census, Scanner};
use crate::sys::{self, RawPid};

/// For how long a fork that was let through may take to show its child.
const FORK_TAKES: Duration = Duration::from_millis(20);

/// What an exact measurement found in a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    /// Its share, with swap.
    pub proportional: u64,
    /// What was its alone.
    pub private: u64,
    /// RSS then.
    pub resident: u64,
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub group: Arc<Cgroup>,
    /// Names it for good, with its pid. 0 until it was read.
    pub start: u64,
    pub ppid: RawPid,
    pub threads: u64,
    pub zombie: bool,
    /// CPU time of its own that was charged, in nanoseconds.
    pub clock: u64,
    /// What its clock shows now.
    shown: u64,
    /// CPU time of children that it waited for and that was charged: user, system.
    pub children: [u64; 2],
    /// Charged on account of children that are gone, and not in its own figures yet.
    owed: u64,
    /// Whoever owes what was charged on its account has paid it, though it is still in the table.
    settled: bool,
    /// Its own CPU ticks: user, system. The clock does not tell them apart.
    pub ticks: (u64, u64),
    /// It used CPU time since the look before.
    pub moved: bool,
    /// A halt holds it.
    pub held: bool,
    /// The niceness that it has from its group's weight; not known of one that is new.
    pub nice: Option<i32>,
    /// The thread whose files show its memory: another than the leader, once that has ended.
    pub via: Option<RawPid>,
    /// In bytes, as of the last time that it moved.
    pub resident: u64,
    pub shared: u64,
    pub anchor: Option<Anchor>,
    /// `/proc` does not show its memory.
    pub unreadable: bool,
    /// The most that it was seen to have, in bytes.
    pub peak: u64,
}

impl Process {
    fn new(group: Arc<Cgroup>) -> Process {
        Process {
            group,
            start: 0,
            ppid: 0,
            threads: 1,
            zombie: false,
            clock: 0,
            shown: 0,
            children: [0; 2],
            owed: 0,
            settled: false,
            ticks: (0, 0),
            moved: false,
            held: false,
            nice: None,
            via: None,
            resident: 0,
            shared: 0,
            anchor: None,
            unreadable: false,
            peak: 0,
        }
    }

    /// CPU time that was charged on its account.
    fn charged(&self) -> u64 {
        self.clock + self.children[0] + self.children[1] + self.owed
    }

    /// The most memory that can be its doing since the last exact measurement: no less than what was
    /// its alone then, and everything it has got since.
    pub fn bound(&self) -> u64 {
        match self.anchor {
            Some(anchor) => anchor.private + self.resident.saturating_sub(anchor.resident),
            None => self.resident,
        }
    }

    /// The likely figure; `None` if it was never measured.
    pub fn estimate(&self) -> Option<u64> {
        let anchor = self.anchor?;
        Some((anchor.proportional + self.resident).saturating_sub(anchor.resident))
    }
}

/// New CPU time of a process: its own, and that of children it waited for, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ran {
    pub own: [u64; 2],
    pub children: [u64; 2],
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Processes {
    all: HashMap<RawPid, Process>,
    /// Threads that were let fork, and when.
    forkers: Vec<(RawPid, Instant)>,
    tick: u64,
    page: u64,
    scratch: Vec<RawPid>,
}

impl Processes {
    pub fn new() -> Processes {
        Processes {
            tick: 1_000_000_000 / sys::clock_ticks_per_second(),
            page: sys::page_size(),
            ..Processes::default()
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (RawPid, &Process)> {
        self.all.iter().map(|(pid, it)| (*pid, it))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (RawPid, &mut Process)> {
        self.all.iter_mut().map(|(pid, it)| (*pid, it))
    }

    pub fn get(&self, pid: RawPid) -> Option<&Process> {
        self.all.get(&pid)
    }

    /// The reaper collected this process. Returns what was charged on its account, and on that of
    /// children that it had waited for.
    pub fn collected(&mut self, pid: RawPid) -> (Option<Process>, u64) {
        let known = self.all.remove(&pid);
        let mut charged = known.as_ref().map_or(0, Process::charged);
        let mut parents = vec![pid];
        while let Some(parent) = parents.pop() {
            for (&child, it) in self.all.iter_mut().filter(|(_, it)| it.ppid == parent) {
                if !it.settled && sys::cpu_clock(child).is_err() {
                    it.settled = true;
                    charged += it.charged();
                    parents.push(child);
                }
            }
        }
        (known, charged)
    }

    /// Takes out those that are gone. Whoever waited for them owes what was charged for them: the
    /// parent, or the next above that is still there.
    fn bury(&mut self, pids: Vec<RawPid>, gone: &mut Vec<(RawPid, Process)>) {
        let buried = gone.len();
        gone.extend(pids.into_iter().filter_map(|pid| Some((pid, self.all.remove(&pid)?))));
        let buried = &gone[buried..];
        if buried.is_empty() {
            return;
        }
        let parents: HashMap<RawPid, RawPid> =
            buried.iter().map(|(pid, it)| (*pid, it.ppid)).collect();
        for (_, it) in buried.iter().filter(|(_, it)| !it.settled) {
            let mut heir = it.ppid;
            // Pids come back, so the way up need not end.
            for _ in 0..parents.len() {
                let Some(above) = parents.get(&heir) else { break };
                heir = *above;
            }
            if let Some(heir) = self.all.get_mut(&heir)
                && !mutant::is(Mutant::OwedForgotten)
            {
                heir.owed += it.charged();
            }
        }
    }

    pub fn add(&mut self, pid: RawPid, group: Arc<Cgroup>) {
        self.all.entry(pid).or_insert_with(|| Process::new(group));
    }

    /// The gate let this thread fork.
    pub fn forked(&mut self, tid: RawPid) {
        if self.forkers.len() < 4096 {
            self.forkers.push((tid, Instant::now()));
        }
    }

    /// Whether there may be processes that are not known.
    pub fn expects(&self) -> bool {
        !self.forkers.is_empty()
    }

    /// Takes in whom a census shows, and brings everybody's cgroup up to date.
    pub fn take_in(&mut self, census: &Census, ledger: &Ledger) {
        for seen in census.live_processes() {
            let group = ledger.cgroup_of(seen.tid);
            match (self.all.get_mut(&seen.tid), group) {
                (Some(known), Some(group)) if !Arc::ptr_eq(&known.group, &group) => {
                    known.group = group;
                }
                (None, group) => {
                    self.add(seen.tid, group.unwrap_or_else(|| Arc::clone(ledger.root())));
                }
                _ => {}
            }
        }
    }

    /// Finds the children of those that forked.
    pub fn discover(&mut self, scanner: &mut Scanner, ledger: &Ledger) {
        if self.forkers.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut found = std::mem::take(&mut self.scratch);
        let mut lost = false;
        let mut forkers = std::mem::take(&mut self.forkers);
        forkers.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        forkers.dedup_by_key(|forker| forker.0);
        for &(tid, _) in &forkers {
            let parent = if self.all.contains_key(&tid) {
                Some(tid)
            } else {
                // A thread, or a child that nobody has seen yet and that has children already.
                scanner.proc.process_of(tid)
            };
            let Some(parent) = parent else {
                lost = true;
                continue;
            };
            let mut group = self.group(parent, ledger, None);
            if !scanner.is_spared(parent) {
                self.add(parent, Arc::clone(&group));
            }
            if let Some(below) = ledger.reaped_by(parent) {
                group = Arc::clone(below);
            }
            found.clear();
            lost |= scanner.proc.children(tid, tid, &mut found).is_err();
            for &pid in &found {
                if !self.all.contains_key(&pid) {
                    let group = self.group(pid, ledger, Some(&group));
                    self.add(pid, group);
                }
            }
        }
        if lost {
            // What it left is ours, if not somebody else's who set himself up for it.
            found.clear();
            scanner.orphans(&mut found);
            for pid in &found {
                // A reaper that the supervisor forked for a group is no member of it.
                if !self.all.contains_key(pid) && !scanner.is_spared(*pid) {
                    let group = self.group(*pid, ledger, None);
                    self.add(*pid, group);
                }
            }
        }
        forkers.retain(|(_, since)| now.duration_since(*since) < FORK_TAKES);
        self.forkers = forkers;
        self.scratch = found;
    }

    /// A child is born into its parent's cgroup.
    fn group(&self, pid: RawPid, ledger: &Ledger, parent: Option<&Arc<Cgroup>>) -> Arc<Cgroup> {
        let known = ledger.cgroup_of(pid).or_else(|| Some(Arc::clone(&self.all.get(&pid)?.group)));
        known.unwrap_or_else(|| Arc::clone(parent.unwrap_or_else(|| ledger.root())))
    }

    /// Who is new has its parent's niceness.
    pub fn inherit_nice(&mut self) {
        let new: Vec<(RawPid, RawPid)> = self
            .all
            .iter()
            .filter(|(_, it)| it.nice.is_none())
            .map(|(pid, it)| (*pid, it.ppid))
            .collect();
        for (pid, ppid) in new {
            let nice = self.all.get(&ppid).and_then(|parent| parent.nice);
            if let Some(it) = self.all.get_mut(&pid) {
                it.nice = nice;
            }
        }
    }

    /// Reads the clocks of all and the figures of those that moved. `on_run` is told of new CPU
    /// time, by cgroup. Returns those that are gone, with the time that was charged to them.
    ///
    /// What a group's reaper has collected was used by the group that `reaps` has for it.
    pub fn look(
        &mut self,
        proc: &mut Proc,
        reaps: impl Fn(RawPid) -> Option<Arc<Cgroup>>,
        ran: &mut Vec<(Arc<Cgroup>, Ran)>,
    ) -> Vec<(RawPid, Process)> {
        let mut ended = Vec::new();
        for (&pid, it) in &mut self.all {
            match sys::cpu_clock(pid) {
                Ok(clock) => it.shown = clock,
                Err(_) => ended.push(pid),
            }
        }
        let mut gone = Vec::new();
        self.bury(ended, &mut gone);
        let mut replaced = Vec::new();
        for (&pid, it) in &mut self.all {
            let fresh = it.start == 0;
            it.moved = it.shown != it.clock || fresh;
            if !it.moved && it.owed == 0 {
                continue;
            }
            let stat = proc.stat(pid);
            if let Ok(stat) = &stat
                && !fresh
                && stat.start != it.start
            {
                // Its pid is somebody else's now, who is found like any newcomer.
                replaced.push(pid);
                continue;
            }
            let new = it.runs(it.shown, stat.as_ref().ok().copied(), self.tick);
            match reaps(pid).filter(|_| new.children != [0; 2]) {
                Some(below) => {
                    ran.push((Arc::clone(&it.group), Ran { own: new.own, children: [0; 2] }));
                    ran.push((below, Ran { own: [0; 2], children: new.children }));
                }
                None => ran.push((Arc::clone(&it.group), new)),
            }
            it.via = None;
            if stat.is_ok_and(|stat| stat.is_zombie() && stat.threads > 1) {
                let mut tids = Vec::new();
                let _ = proc.threads(pid, &mut tids);
                it.via = tids.into_iter().find(|tid| *tid != pid);
            }
            match proc.statm(it.via.unwrap_or(pid)) {
                Ok(Statm { resident, shared }) => {
                    (it.resident, it.shared) = (resident * self.page, shared * self.page);
                    it.peak = it.peak.max(it.resident);
                    it.unreadable = false;
                }
                // One that ended meanwhile is found to be gone by the next look.
                Err(_) => it.unreadable = sys::thread_exists_anywhere(pid),
            }
        }
        self.bury(replaced, &mut gone);
        gone
    }
}

impl Process {
    fn runs(&mut self, clock: u64, stat: Option<Stat>, tick: u64) -> Ran {
        let own = clock.saturating_sub(self.clock);
        self.clock = clock.max(self.clock);
        let mut new = Ran::default();
        let before = self.ticks;
        if let Some(stat) = stat {
            self.start = stat.start.max(1);
            self.ppid = stat.ppid;
            self.threads = stat.threads.max(1);
            self.zombie = stat.is_zombie() && stat.threads <= 1;
            self.ticks = stat.own;
            let of = [stat.children.0 * tick, stat.children.1 * tick];
            for ((new, charged), of) in new.children.iter_mut().zip(&mut self.children).zip(of) {
                *new = of.saturating_sub(*charged);
                *charged = of.max(*charged);
            }
            let [user, system] = new.children;
            let paid = self.owed.min(user + system);
            let left = user + system - paid;
            new.children[0] = part(left, user, user + system);
            new.children[1] = left - new.children[0];
            // User and system time are shown in whole ticks each.
            self.owed = (self.owed - paid).min(2 * tick);
        } else {
            self.start = self.start.max(1);
        }
        let ticks = (self.ticks.0.saturating_sub(before.0), self.ticks.1.saturating_sub(before.1));
        let user = match ticks {
            (0, 0) => own,
            (user, system) => part(own, user, user + system),
        };
        new.own = [user, own - user];
        new
    }
}
