//! Which real processes are in a mounted tree: those that were taken in, and their children since.
//!
//! Nobody asks before a fork here, so births and deaths are learned by looking at `/proc`: whoever
//! was born of a known thread is in the cgroup that this is in. That is *sampled*: a child whose
//! parent ends before anybody looks has another parent then, and is not found.
//!
//! Once a process is to be killed it is *doomed*, and so is every child that is found of it later.

use std::collections::HashMap;
use std::sync::Arc;

use cgrove_core::{Effect, Effects, Errno, ForkFrom, Hierarchy, Membership, Stage, Task, TaskId};
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
        let mut threads = Vec::new();
        let mut children = Vec::new();
        while let Some(pid) = todo.pop() {
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
                    if self.born(hierarchy, (pid, tid), child, fx) {
                        todo.push(child);
                    }
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
                Err(_) => leader
                    .cgroup()
                    .ok_or(Errno::ESRCH)
                    .and_then(|cgroup| hierarchy.adopt(&cgroup, id, membership, fx)),
            };
            if let Ok(task) = born {
                self.names.insert(id.0, (tid, pid));
                process.threads.insert(tid, task);
            }
        }
    }

    /// A child of a thread was seen. True if it was not known.
    fn born(
        &mut self,
        hierarchy: &Hierarchy,
        (parent, forker): (RawPid, RawPid),
        pid: RawPid,
        fx: &mut Effects,
    ) -> bool {
        let Ok(stat) = self.proc.stat(pid) else { return false };
        match self.processes.get(&pid) {
            Some(known) if known.start == stat.start => return false,
            Some(_) => self.gone(hierarchy, pid, fx),
            None => {}
        }
        if stat.is_zombie() {
            return false;
        }
        let Some(process) = self.processes.get(&parent) else { return false };
        let leader = process.threads.get(&parent);
        let Some(task) = process.threads.get(&forker).or(leader).cloned() else { return false };
        let killed = leader.is_some_and(|leader| leader.stage().contains(Stage::KILLED));
        let doomed = process.doomed || killed;
        let id = self.fresh();
        let born = match hierarchy.fork(ForkFrom::Task(&task), fx) {
            Ok(fork) => Some(fork.publish(id, Membership::Process, fx)),
            // The core lets a process that was killed not fork. This one has, before it died.
            Err(_) => task
                .cgroup()
                .and_then(|cgroup| hierarchy.adopt(&cgroup, id, Membership::Process, fx).ok()),
        };
        let Some(born) = born else { return false };
        self.know(pid, stat.start, born, doomed);
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
