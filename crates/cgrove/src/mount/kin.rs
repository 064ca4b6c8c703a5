//! Which real processes are in a mounted tree: those that were taken in, and their children since.
//!
//! Nobody asks before a fork here, so births and deaths are learned by looking at `/proc`: whoever
//! was born of a known thread is in the cgroup that this is in. That is *sampled*: a child whose
//! parent ends before anybody looks has another parent then, and is not found.
//!
//! Once a process is to be killed it is *doomed*, and so is every child that is found of it later.
//!
//! A fork that the core refuses (`pids.max`) has happened. So who was born of it is taken in whatever
//! the limit, and is doomed: of a thread, its process. The births of one look are judged in the order of
//! their start times, so that the newest are those too many.

use std::collections::HashMap;
use std::sync::Arc;

use cgrove_core::{Effect, Effects, Errno, ForkFrom, Hierarchy, Membership, Stage, Task, TaskId};
use cgrove_host::mutant::{self, Mutant};
use cgrove_host::procfs::Proc;
use cgrove_host::sys::{RawPid, pidfd_open, pidfd_send_signal};

use super::freezer::Subject;

/// A process, by its threads, the leader among them.
struct Process {
    /// With the pid, it names one process.
    start: u64,
    threads: HashMap<RawPid, Arc<Task>>,
    doomed: bool,
}

/// A child that was seen for the first time.
#[derive(Clone, Copy)]
struct Birth {
    pid: RawPid,
    start: u64,
    /// The process and the thread that it is of.
    parent: RawPid,
    forker: RawPid,
}

/// Whether a fork was refused for there being too many.
fn is_limit(errno: Errno) -> bool {
    errno == Errno::EAGAIN && !mutant::is(Mutant::AdoptedSpared)
}

/// All that is known.
pub(super) struct Kin {
    proc: Proc,
    processes: HashMap<RawPid, Process>,
    /// Thread and process of each task.
    names: HashMap<u64, (RawPid, RawPid)>,
    next: u64,
}

impl Kin {
    pub(super) fn new(proc: Proc) -> Kin {
        Kin { proc, processes: HashMap::new(), names: HashMap::new(), next: 1 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// The real user of a thread's process.
    pub(super) fn user(&mut self, tid: RawPid) -> Option<u32> {
        self.proc.uids(tid).map(|(real, _)| real)
    }

    pub(super) fn pid(&self, task: &Task) -> Option<RawPid> {
        self.names.get(&task.id().0).map(|(tid, _)| *tid)
    }

    /// A task, for whoever halts it.
    pub(super) fn subject(&self, task: TaskId) -> Option<Subject> {
        let (tid, pid) = self.names.get(&task.0).copied()?;
        let process = self.processes.get(&pid)?;
        let task = Arc::clone(process.threads.get(&tid)?);
        Some(Subject { tid, pid, start: process.start, task })
    }

    /// The task of a thread. If its process is not known it is taken in, into the root.
    pub(super) fn find(
        &mut self,
        hierarchy: &Hierarchy,
        tid: RawPid,
        fx: &mut Effects,
    ) -> Option<Arc<Task>> {
        let pid = self.proc.process_of(tid)?;
        self.look(hierarchy, fx);
        if !self.processes.contains_key(&pid) {
            let start = self.started(pid)?;
            let root = hierarchy.root();
            let id = self.fresh();
            let leader = hierarchy.adopt(root, id, Membership::Process, fx).ok()?;
            self.know(pid, start, leader, false);
            // Its threads and children are found as those of any other.
            self.look(hierarchy, fx);
        }
        self.processes.get(&pid)?.threads.get(&tid).cloned()
    }

    fn fresh(&mut self) -> TaskId {
        self.next += 1;
        TaskId(self.next)
    }

    fn know(&mut self, pid: RawPid, start: u64, leader: Arc<Task>, doomed: bool) {
        self.names.insert(leader.id().0, (pid, pid));
        let threads = HashMap::from([(pid, leader)]);
        self.processes.insert(pid, Process { start, threads, doomed });
    }

    /// Looks who was born and who is gone.
    pub(super) fn look(&mut self, hierarchy: &Hierarchy, fx: &mut Effects) {
        let mut todo: Vec<RawPid> = self.processes.keys().copied().collect();
        while !todo.is_empty() {
            let mut births = Vec::new();
            self.look_at(hierarchy, std::mem::take(&mut todo), &mut births, fx);
            births.sort_unstable_by_key(|birth| (birth.start, birth.pid));
            for birth in births {
                if self.born(hierarchy, birth, fx) {
                    todo.push(birth.pid);
                }
            }
        }
    }

    /// Forgets those of these processes that are gone, and finds the children of the others.
    fn look_at(
        &mut self,
        hierarchy: &Hierarchy,
        processes: Vec<RawPid>,
        births: &mut Vec<Birth>,
        fx: &mut Effects,
    ) {
        let mut threads = Vec::new();
        let mut children = Vec::new();
        for pid in processes {
            let Some(start) = self.processes.get(&pid).map(|process| process.start) else {
                continue;
            };
            if self.started(pid) != Some(start) {
                self.gone(hierarchy, pid, fx);
                continue;
            }
            threads.clear();
            if self.proc.threads(pid, &mut threads).is_err() {
                // Gone meanwhile: the next look finds that.
                continue;
            }
            self.look_at_threads(hierarchy, pid, &threads, fx);
            for &tid in &threads {
                children.clear();
                if self.proc.children(pid, tid, &mut children).is_err() {
                    continue;
                }
                for &child in &children {
                    let Ok(stat) = self.proc.stat(child) else { continue };
                    let known = self.processes.get(&child);
                    if stat.is_zombie() || known.is_some_and(|known| known.start == stat.start) {
                        continue;
                    }
                    births.push(Birth { pid: child, start: stat.start, parent: pid, forker: tid });
                }
            }
        }
    }

    /// When a process started that has not ended.
    fn started(&mut self, pid: RawPid) -> Option<u64> {
        let mut once = || {
            let stat = self.proc.stat(pid).ok()?;
            (!stat.is_zombie() || stat.threads > 1).then_some(stat.start)
        };
        // Whoever reads while a thread's execve takes its leader's place can be told of the leader
        // that was.
        once().or_else(&mut once)
    }

    fn look_at_threads(
        &mut self,
        hierarchy: &Hierarchy,
        pid: RawPid,
        now: &[RawPid],
        fx: &mut Effects,
    ) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        // A leader stays for as long as its process.
        let ended = |tid: &RawPid| *tid != pid && !now.contains(tid);
        for (_, task) in process.threads.extract_if(|tid, _| ended(tid)) {
            self.names.remove(&task.id().0);
            let _ = hierarchy.retire(&task, fx);
        }
        let Some(leader) = process.threads.get(&pid).cloned() else { return };
        for &tid in now {
            if process.threads.contains_key(&tid) {
                continue;
            }
            self.next += 1;
            let (id, membership) = (TaskId(self.next), Membership::ThreadOf(&leader));
            // Where its process is; nobody refuses one that exists.
            let born = match hierarchy.fork(ForkFrom::Task(&leader), fx) {
                Ok(fork) => Ok(fork.publish(id, membership, fx)),
                Err(errno) => {
                    if is_limit(errno) {
                        fx.push(Effect::Kill(leader.id()));
                    }
                    let cgroup = leader.cgroup().ok_or(Errno::ESRCH);
                    cgroup.and_then(|cgroup| hierarchy.adopt(&cgroup, id, membership, fx))
                }
            };
            if let Ok(task) = born {
                self.names.insert(id.0, (tid, pid));
                process.threads.insert(tid, task);
            }
        }
    }

    /// A child that was not known is taken in. False if it could not be.
    fn born(&mut self, hierarchy: &Hierarchy, birth: Birth, fx: &mut Effects) -> bool {
        let Birth { pid, start, parent, forker } = birth;
        match self.processes.get(&pid) {
            Some(known) if known.start == start => return false,
            // A former one of this pid.
            Some(_) => self.gone(hierarchy, pid, fx),
            None => {}
        }
        let Some(process) = self.processes.get(&parent) else { return false };
        let leader = process.threads.get(&parent);
        let Some(task) = process.threads.get(&forker).or(leader).cloned() else { return false };
        let killed = leader.is_some_and(|leader| leader.stage().contains(Stage::KILLED));
        let mut doomed = process.doomed || killed;
        let id = self.fresh();
        let born = match hierarchy.fork(ForkFrom::Task(&task), fx) {
            Ok(fork) => Some(fork.publish(id, Membership::Process, fx)),
            // The core lets a process not fork that was killed, or is at a limit. This one has.
            Err(errno) => {
                doomed |= is_limit(errno);
                task.cgroup()
                    .and_then(|cgroup| hierarchy.adopt(&cgroup, id, Membership::Process, fx).ok())
            }
        };
        let Some(born) = born else { return false };
        self.know(pid, start, born, doomed);
        if doomed {
            fx.push(Effect::Kill(id));
        }
        true
    }

    fn gone(&mut self, hierarchy: &Hierarchy, pid: RawPid, fx: &mut Effects) {
        let Some(mut process) = self.processes.remove(&pid) else { return };
        // Threads first, as their leader counts them.
        let leader = process.threads.remove(&pid);
        for task in process.threads.into_values().chain(leader) {
            self.names.remove(&task.id().0);
            let _ = hierarchy.retire(&task, fx);
        }
    }

    /// Kills the process of a task.
    pub(super) fn kill(&mut self, task: TaskId) {
        let Some((_, pid)) = self.names.get(&task.0).copied() else { return };
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.doomed = true;
        // The pidfd first: what the start time is compared of cannot be another one then.
        let Ok(pidfd) = pidfd_open(pid) else { return };
        if self.proc.stat(pid).is_ok_and(|stat| stat.start == process.start) {
            let _ = pidfd_send_signal(&pidfd, libc::SIGKILL);
        }
    }
}
