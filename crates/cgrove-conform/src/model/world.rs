//! Simulated processes around the core: what a kernel's scheduler, signals and reaping do to it.
//!
//! The core is told what happens to tasks and answers with effects; somebody has to have tasks. Here
//! they are records. A thread runs, is halted (by the freezer or a stop signal), sleeps where nothing
//! can wake it, is parked half-way through its exit, or is dead; a process is stopped, killed, a
//! zombie, an orphan. Nothing takes time: [`World::settle`] performs effects and pumps until nothing
//! is left to do, so what it shows is what a kernel shows once it has come to rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cgrove_core::{
    Cgroup, CssId, Effect, Effects, Errno, EventFile, Fork, ForkFrom, Hierarchy, Membership,
    Opener, Scope, Task, TaskId, Time,
};

use crate::case::Signal;

/// The first process: it makes the others and inherits the orphans.
pub const INIT: u32 = 1;

/// A kernel thread, which nobody may move.
pub const KTHREADD: u32 = 2;

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Exited,
    /// By this signal.
    Killed(Signal),
}

/// How a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It has not begun to exit.
    Live,
    /// Past the point where it is hidden, and held before its last switch.
    Parked,
    /// It has switched out for the last time.
    Dead,
}

/// What a wait for a child came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// It is collected.
    Done(Ended),
    /// It is not dead.
    NotDead,
    /// It is no child of the caller.
    NoChild,
}

/// One thread.
#[derive(Debug)]
pub struct Thread {
    /// The process it belongs to.
    pub pid: u32,
    /// The core's handle.
    pub task: Arc<Task>,
    /// How far its end has come.
    pub life: Life,
    /// The root of its cgroup namespace.
    pub namespace: Option<Arc<Cgroup>>,
    /// The freezer has asked it to halt.
    ordered: bool,
    /// The core was told that it has halted.
    halted: bool,
    /// In a sleep that no signal ends.
    asleep: bool,
}

#[derive(Debug, Default)]
struct Process {
    /// Those that are not gone; the leader has the process's number.
    threads: Vec<u32>,
    parent: u32,
    /// Its last thread parks instead of dying.
    holdable: bool,
    stopped: bool,
    /// A stop or SIGTERM that nobody could take yet.
    stop_pending: bool,
    term_pending: bool,
    fate: Option<Ended>,
}

/// A hierarchy and those who live in it.
#[derive(Debug)]
pub struct World {
    /// The hierarchy.
    pub hierarchy: Hierarchy,
    /// The clock that all operations are given.
    pub now: Time,
    threads: BTreeMap<u32, Thread>,
    processes: BTreeMap<u32, Process>,
    /// By the core's id, which is never used again, who bears it now.
    bearers: BTreeMap<TaskId, u32>,
    next: u32,
    todo: VecDeque<Effect>,
    timers: Vec<(Time, Arc<EventFile>)>,
    notified: Vec<Arc<EventFile>>,
    /// Csses that somebody waited for and that are offline.
    offline: BTreeSet<CssId>,
}

impl World {
    /// A hierarchy with the first process and a kernel thread in its root.
    ///
    /// # Panics
    /// If the root does not take them in.
    #[must_use]
    pub fn new(hierarchy: Hierarchy, now: Time) -> Self {
        let mut this = Self {
            hierarchy,
            now,
            threads: BTreeMap::new(),
            processes: BTreeMap::new(),
            bearers: BTreeMap::new(),
            next: 100,
            todo: VecDeque::new(),
            timers: Vec::new(),
            notified: Vec::new(),
            offline: BTreeSet::new(),
        };
        for pid in [INIT, KTHREADD] {
            let root = Arc::clone(this.hierarchy.root());
            let id = TaskId(u64::from(pid));
            let mut fx = this.effects();
            match this.hierarchy.adopt(&root, id, Membership::Process, &mut fx) {
                Ok(task) => this.add(pid, pid, task, None),
                Err(errno) => panic!("the root takes in no task: {errno}"),
            }
            this.take(fx);
            this.processes.insert(pid, Process { threads: vec![pid], ..Process::default() });
        }
        this.threads[&KTHREADD].task.bind();
        this
    }

    /// A list for an operation that happens now; hand it to [`take`](Self::take).
    pub fn effects(&self) -> Effects {
        Effects::at(self.now)
    }

    /// Takes over what an operation wants done.
    pub fn take(&mut self, mut fx: Effects) {
        self.todo.extend(fx.drain());
    }

    /// A thread that is not gone.
    #[must_use]
    pub fn thread(&self, tid: u32) -> Option<&Thread> {
        self.threads.get(&tid)
    }

    /// Threads that are not gone, by number.
    pub fn threads(&self) -> impl Iterator<Item = (u32, &Thread)> {
        self.threads.iter().map(|(tid, thread)| (*tid, thread))
    }

    /// The number of a task of the core.
    #[must_use]
    pub fn number(&self, task: &Task) -> Option<u32> {
        self.bearers.get(&task.id()).copied()
    }

    /// Whether a thread would do now what it is asked to.
    #[must_use]
    pub fn runs(&self, tid: u32) -> bool {
        self.threads.get(&tid).is_some_and(|thread| {
            thread.life == Life::Live && !thread.asleep && !self.must_halt(thread)
        })
    }

    /// Whether all of a process is dead, reaped or not.
    #[must_use]
    pub fn is_over(&self, pid: u32) -> bool {
        self.processes
            .get(&pid)
            .is_none_or(|it| it.threads.iter().all(|tid| self.threads[tid].life == Life::Dead))
    }

    /// Whether a process is held half-way through its exit.
    #[must_use]
    pub fn is_parked(&self, pid: u32) -> bool {
        self.processes
            .get(&pid)
            .is_some_and(|it| it.threads.iter().any(|tid| self.threads[tid].life == Life::Parked))
    }

    /// Whether a process is stopped by a signal.
    #[must_use]
    pub fn is_stopped(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|it| it.stopped)
    }

    /// Whether a css that somebody has waited for is offline.
    #[must_use]
    pub fn is_offline(&self, css: CssId) -> bool {
        self.offline.contains(&css)
    }

    /// Takes the notifications that have come since the last call.
    pub fn notifications(&mut self) -> Vec<Arc<EventFile>> {
        std::mem::take(&mut self.notified)
    }

    /// Makes a process: beside its parent, or in a cgroup with the parent's rights.
    ///
    /// # Errors
    /// Those of [`Hierarchy::fork`].
    pub fn fork(
        &mut self,
        parent: u32,
        into: Option<(&Arc<Cgroup>, Opener<'_>)>,
        holdable: bool,
    ) -> Result<u32, Errno> {
        let maker = self.threads.get(&parent).ok_or(Errno::ESRCH)?;
        let (namespace, of) = (maker.namespace.clone(), maker.pid);
        let from = match into {
            None => ForkFrom::Task(&maker.task),
            Some((cgroup, opener)) => {
                ForkFrom::Into { forker: &maker.task, cgroup, scope: Scope::Process, opener }
            }
        };
        let mut fx = self.effects();
        let fork = self.hierarchy.fork(from, &mut fx);
        let born = fork.map(|fork: Fork| {
            let pid = self.number_next();
            let task = fork.publish(TaskId(u64::from(pid)), Membership::Process, &mut fx);
            self.add(pid, pid, task, namespace);
            let process =
                Process { threads: vec![pid], parent: of, holdable, ..Process::default() };
            self.processes.insert(pid, process);
            pid
        });
        self.take(fx);
        born
    }

    /// Makes a thread beside another of its process.
    ///
    /// # Errors
    /// Those of [`Hierarchy::fork`].
    pub fn start_thread(&mut self, beside: u32) -> Result<u32, Errno> {
        let maker = self.threads.get(&beside).ok_or(Errno::ESRCH)?;
        let (namespace, pid, sibling) =
            (maker.namespace.clone(), maker.pid, Arc::clone(&maker.task));
        let mut fx = self.effects();
        let fork = self.hierarchy.fork(ForkFrom::Task(&sibling), &mut fx);
        let born = fork.map(|fork| {
            let tid = self.number_next();
            let id = TaskId(u64::from(tid));
            let task = fork.publish(id, Membership::ThreadOf(&sibling), &mut fx);
            self.add(tid, pid, task, namespace);
            if let Some(process) = self.processes.get_mut(&pid) {
                process.threads.push(tid);
            }
            tid
        });
        self.take(fx);
        born
    }

    /// A thread executes a program: its process goes on in it, under the leader's number.
    ///
    /// # Errors
    /// Those of [`Hierarchy::exec`].
    pub fn exec(&mut self, tid: u32) -> Result<(), Errno> {
        let pid = self.threads.get(&tid).ok_or(Errno::ESRCH)?.pid;
        let others = self.live_threads(pid).into_iter().filter(|it| *it != tid).collect::<Vec<_>>();
        self.begin_exits(&others);
        for other in &others {
            self.finish_exit_of(*other);
        }
        let old = Arc::clone(&self.threads[&tid].task);
        let mut fx = self.effects();
        let new = self.hierarchy.exec(&old, &mut fx);
        self.take(fx);
        let new = new?;
        if tid != pid {
            self.collect(pid);
            if let Some(mut thread) = self.threads.remove(&tid) {
                thread.task = new;
                self.bearers.insert(thread.task.id(), pid);
                self.threads.insert(pid, thread);
            }
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads = vec![pid];
        }
        Ok(())
    }

    /// A whole process ends, as far as it can: threads in a sleep that nothing ends come later.
    pub fn end(&mut self, pid: u32, how: Ended) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.fate.get_or_insert(how);
        let going = self.live_threads(pid);
        let going: Vec<u32> = going.into_iter().filter(|tid| !self.threads[tid].asleep).collect();
        self.begin_exits(&going);
        for tid in going {
            self.finish_exit_of(tid);
        }
        self.orphan(pid);
    }

    /// One thread ends.
    pub fn end_thread(&mut self, tid: u32) {
        let Some(pid) = self.threads.get(&tid).map(|thread| thread.pid) else { return };
        if self.live_threads(pid) == [tid] {
            return self.end(pid, Ended::Exited);
        }
        self.begin_exits(&[tid]);
        self.finish_exit_of(tid);
    }

    /// Lets a parked process switch out for the last time. False if none is parked.
    pub fn finish_exit(&mut self, pid: u32) -> bool {
        let Some(process) = self.processes.get_mut(&pid) else { return false };
        process.holdable = false;
        let parked: Vec<u32> = process.threads.clone();
        let mut any = false;
        for tid in parked {
            if self.threads[&tid].life == Life::Parked {
                self.switch_out(tid);
                any = true;
            }
        }
        self.orphan(pid);
        any
    }

    /// A thread begins or ends a sleep that no signal ends.
    pub fn set_asleep(&mut self, tid: u32, asleep: bool) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        thread.asleep = asleep;
        let pid = thread.pid;
        match self.processes.get(&pid).and_then(|it| it.fate) {
            Some(how) if !asleep => self.end(pid, how),
            _ => self.adjust(tid),
        }
    }

    /// Sends a signal from outside the process.
    ///
    /// # Errors
    /// ESRCH if there is no such process.
    pub fn signal(&mut self, pid: u32, signal: Signal) -> Result<(), Errno> {
        let halted = self.live_threads(pid).iter().all(|tid| {
            let thread = &self.threads[tid];
            thread.ordered || thread.asleep
        });
        let process = self.processes.get_mut(&pid).ok_or(Errno::ESRCH)?;
        if pid == INIT || pid == KTHREADD {
            return Ok(());
        }
        match signal {
            Signal::Kill => self.end(pid, Ended::Killed(signal)),
            // The first process of a pid namespace ignores what it has no handler for.
            Signal::Term if process.holdable => {}
            Signal::Term if process.stopped => process.term_pending = true,
            Signal::Term => self.end(pid, Ended::Killed(signal)),
            // Whoever is frozen takes no signal that does not kill.
            Signal::Stop if halted => process.stop_pending = true,
            Signal::Stop => {
                process.stopped = true;
                self.adjust_all(pid);
            }
            Signal::Cont => {
                process.stopped = false;
                process.stop_pending = false;
                if std::mem::take(&mut process.term_pending) {
                    self.end(pid, Ended::Killed(Signal::Term));
                } else {
                    self.adjust_all(pid);
                }
            }
        }
        Ok(())
    }

    /// A process waits for a child.
    pub fn reap(&mut self, parent: u32, pid: u32) -> Reaped {
        let Some(process) = self.processes.get(&pid).filter(|it| it.parent == parent) else {
            return Reaped::NoChild;
        };
        if !self.is_over(pid) {
            return Reaped::NotDead;
        }
        let how = process.fate.unwrap_or(Ended::Exited);
        self.collect(pid);
        self.processes.remove(&pid);
        Reaped::Done(how)
    }

    /// Gives a thread a cgroup namespace whose root is where it is.
    pub fn unshare(&mut self, tid: u32) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.namespace = thread.task.cgroup();
        }
    }

    /// Performs effects and pumps until nothing is left. Timers wait for [`pass`](Self::pass).
    pub fn settle(&mut self) {
        loop {
            while let Some(effect) = self.todo.pop_front() {
                self.perform(effect);
            }
            let mut fx = self.effects();
            let done = self.hierarchy.pump(&mut fx);
            self.take(fx);
            if done == 0 && self.todo.is_empty() {
                return;
            }
        }
    }

    /// Time passes, and timers fire.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        let now = self.now;
        let (due, later) = self.timers.drain(..).partition(|(at, _)| *at <= now);
        self.timers = later;
        let due: Vec<(Time, Arc<EventFile>)> = due;
        for (_, file) in due {
            let mut fx = self.effects();
            self.hierarchy.timer(&file, &mut fx);
            self.take(fx);
        }
        self.settle();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Notify(file) => self.notified.push(file),
            Effect::Timer { at, file } => self.timers.push((at, file)),
            Effect::Kill(id) => {
                let pid = self.bearers.get(&id).and_then(|tid| self.threads.get(tid));
                if let Some(pid) = pid.map(|thread| thread.pid).filter(|pid| *pid > KTHREADD) {
                    self.end(pid, Ended::Killed(Signal::Kill));
                }
            }
            Effect::Freeze(id) => self.order(id, true),
            Effect::Unfreeze(id) => self.order(id, false),
            Effect::Offline(css) => {
                self.offline.insert(css);
            }
            // Pumping is what `settle` does.
            _ => {}
        }
    }

    fn order(&mut self, id: TaskId, freeze: bool) {
        let Some(&tid) = self.bearers.get(&id) else { return };
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        thread.ordered = freeze;
        let pid = thread.pid;
        if let Some(process) = self.processes.get_mut(&pid)
            && !freeze
            && std::mem::take(&mut process.stop_pending)
        {
            process.stopped = true;
            return self.adjust_all(pid);
        }
        self.adjust(tid);
    }

    fn must_halt(&self, thread: &Thread) -> bool {
        thread.ordered || self.is_stopped(thread.pid)
    }

    fn adjust_all(&mut self, pid: u32) {
        for tid in self.live_threads(pid) {
            self.adjust(tid);
        }
    }

    /// Tells the core when a thread halts, and when it no longer does.
    fn adjust(&mut self, tid: u32) {
        let Some(thread) = self.threads.get(&tid).filter(|it| it.life == Life::Live) else {
            return;
        };
        let halts = self.must_halt(thread) && !thread.asleep;
        if halts == thread.halted {
            return;
        }
        let task = Arc::clone(&thread.task);
        let mut fx = self.effects();
        if halts {
            self.hierarchy.enter_frozen(&task, &mut fx);
        } else {
            self.hierarchy.leave_frozen(&task, false, &mut fx);
        }
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.halted = halts;
        }
        self.take(fx);
    }

    fn live_threads(&self, pid: u32) -> Vec<u32> {
        let all = self.processes.get(&pid).map(|it| it.threads.as_slice()).unwrap_or_default();
        all.iter().copied().filter(|tid| self.threads[tid].life == Life::Live).collect()
    }

    /// All of them first: a group that ends is past its end before any of it is gone.
    fn begin_exits(&mut self, tids: &[u32]) {
        for tid in tids {
            let task = Arc::clone(&self.threads[tid].task);
            let mut fx = self.effects();
            // Fails only for one that has begun before.
            let _ = self.hierarchy.exit(&task, &mut fx);
            self.take(fx);
            if let Some(thread) = self.threads.get_mut(tid) {
                thread.life = Life::Parked;
                thread.halted = false;
            }
        }
    }

    /// Switches a thread out unless it is the last one of a process that is to be held.
    fn finish_exit_of(&mut self, tid: u32) {
        let pid = self.threads[&tid].pid;
        let process = &self.processes[&pid];
        let last = process
            .threads
            .iter()
            .all(|other| *other == tid || self.threads[other].life == Life::Dead);
        if !(process.holdable && last) {
            self.switch_out(tid);
        }
    }

    fn switch_out(&mut self, tid: u32) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        thread.life = Life::Dead;
        let (task, pid) = (Arc::clone(&thread.task), thread.pid);
        let mut fx = self.effects();
        let _ = self.hierarchy.dead(&task, &mut fx);
        self.take(fx);
        if tid != pid {
            // Nobody waits for a thread.
            self.collect(tid);
            if let Some(process) = self.processes.get_mut(&pid) {
                process.threads.retain(|other| *other != tid);
            }
        }
    }

    fn collect(&mut self, tid: u32) {
        let Some(thread) = self.threads.remove(&tid) else { return };
        self.bearers.remove(&thread.task.id());
        let mut fx = self.effects();
        let _ = self.hierarchy.reap(&thread.task, &mut fx);
        let _ = self.hierarchy.free(&thread.task, &mut fx);
        self.take(fx);
    }

    /// The children of a process that is over become those of the first process.
    fn orphan(&mut self, pid: u32) {
        if self.is_over(pid) {
            for child in self.processes.values_mut().filter(|it| it.parent == pid) {
                child.parent = INIT;
            }
        }
    }

    fn add(&mut self, tid: u32, pid: u32, task: Arc<Task>, namespace: Option<Arc<Cgroup>>) {
        self.bearers.insert(task.id(), tid);
        let life = Life::Live;
        let thread =
            Thread { pid, task, life, namespace, ordered: false, halted: false, asleep: false };
        self.threads.insert(tid, thread);
    }

    fn number_next(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}
