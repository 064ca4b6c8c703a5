//! Tasks take turns: each does what it was asked to when it can, and the rest waits.

use std::sync::Arc;
use std::time::Duration;

use cgrove_core::controller::cpu::{Cpu, CpuTimes};
use cgrove_files::{Cred, Node, Rest};

use super::files::{Did, Files, Scene, refused};
use super::memory::Allocated;
use super::target::{CoreTarget, Owed, Request};
use super::world::{Ended, INIT, Life};
use crate::case::{Act, Outcome, Step, Text};

/// The steps in which CPU time is used.
const TICK: Duration = Duration::from_millis(1);
/// How long `poll` and `watched` wait for a notification that may be late.
const MOMENT: Duration = Duration::from_millis(30);
/// How long what does not come is waited for.
const WAIT: Duration = Duration::from_millis(1500);

impl CoreTarget {
    /// Asks a task and waits for its answer.
    pub(super) fn ask(&mut self, name: &str, request: Request) -> Outcome {
        let life = self.life(name);
        let Some(task) = self.tasks.get_mut(name) else { return Self::no_task(name) };
        if task.owed.is_some() {
            return Outcome::said("owing");
        }
        if life != Some(Life::Live) {
            return Outcome::said("gone");
        }
        task.queue.push_back(request);
        task.owed = Some(Owed::default());
        self.rest();
        let gone = self.life(name) != Some(Life::Live);
        let Some(task) = self.tasks.get_mut(name) else { return Outcome::said("gone") };
        match task.owed.take() {
            Some(Owed { answer: Some(outcome), child }) => {
                self.born(child);
                outcome
            }
            _ if gone => Outcome::said("gone"),
            owed => {
                task.owed = owed;
                self.world.pass(Duration::from_millis(300));
                Outcome::Blocked
            }
        }
    }

    /// Brings everything to rest.
    pub(super) fn rest(&mut self) {
        loop {
            self.world.settle();
            self.hoards.collect(&self.world);
            self.hear(&mut Files::default());
            for task in self.tasks.values_mut() {
                if self.world.thread(task.tid).is_none_or(|it| it.life != Life::Live) {
                    task.queue.clear();
                    task.files.clear();
                    task.sleeping = None;
                }
            }
            let busy = self.tasks.iter().filter(|(_, task)| !task.queue.is_empty());
            let busy: Vec<String> = busy.map(|(name, _)| name.clone()).collect();
            let mut went = false;
            for name in busy {
                went |= self.go_on(&name);
            }
            if !went {
                return;
            }
        }
    }

    /// Passes notifications on to who has the files open or watches them; `aside` are files that are
    /// taken out of their place at the moment.
    fn hear(&mut self, aside: &mut Files) {
        self.world.settle();
        for file in self.world.notifications() {
            self.tree.notify(&file);
            self.modified(aside, |node| {
                matches!(node, Node::File(it) if it.name() == file.name())
                    && node.cgroup().id() == file.cgroup()
            });
        }
    }

    fn modified(&mut self, aside: &mut Files, same: impl Fn(&Node) -> bool + Copy) {
        aside.modified(same);
        self.files.modified(same);
        for task in self.tasks.values_mut() {
            task.files.modified(same);
        }
    }

    /// Lets a task do what it was asked to, if it can. True if it did.
    pub(super) fn go_on(&mut self, name: &str) -> bool {
        let Some(task) = self.tasks.get_mut(name) else { return false };
        let (tid, was_sleeping) = (task.tid, task.sleeping.is_some());
        let can = match task.sleeping {
            Some(css) => self.world.is_offline(css),
            None => self.world.runs(tid),
        };
        if task.throttled || !can {
            return false;
        }
        let Some(request) = task.queue.front().cloned() else { return false };
        let outcome = match request {
            Request::Nothing => Some(None),
            Request::Answer(outcome, child) => {
                self.newborn = child;
                Some(Some(outcome))
            }
            Request::Exit => {
                let pid = task.pid;
                task.queue.clear();
                self.world.end(pid, Ended::Exited);
                return true;
            }
            Request::ExitThread => {
                task.queue.clear();
                self.world.end_thread(tid);
                return true;
            }
            Request::Reap(pid) => {
                let parent = task.pid;
                Some(Some(self.wait_child(parent, pid)))
            }
            Request::Make(step, child) => Some(Some(self.make(name, tid, &step, &child))),
            Request::Do(step) => {
                let mut files = std::mem::take(&mut task.files);
                let outcome = self.act(Some(name), tid, &mut files, &step);
                if let Some(task) = self.tasks.get_mut(name) {
                    task.files = files;
                }
                outcome.map(Some)
            }
        };
        let Some(task) = self.tasks.get_mut(name) else { return true };
        match outcome {
            None if task.throttled => false,
            // It has noted what it waits for.
            None => {
                self.world.set_asleep(tid, true);
                true
            }
            Some(answer) => {
                task.sleeping = None;
                if was_sleeping {
                    self.world.set_asleep(tid, false);
                }
                // What it has done may end or halt itself.
                self.world.settle();
                let child = self.newborn.take();
                let Some(task) = self.tasks.get_mut(name) else { return true };
                let runs = self.world.runs(task.tid);
                match answer {
                    Some(answer) if !runs => {
                        if let Some(front) = task.queue.front_mut() {
                            *front = Request::Answer(answer, child);
                        }
                        return true;
                    }
                    answer => {
                        task.queue.pop_front();
                        if let (Some(owed), Some(answer)) = (&mut task.owed, answer) {
                            owed.answer = Some(answer);
                            owed.child = child;
                        }
                    }
                }
                true
            }
        }
    }

    pub(super) fn cred(&self, tid: u32, uid: Option<u32>) -> Cred {
        let namespace = self.world.thread(tid).and_then(|thread| thread.namespace.clone());
        let id = uid.unwrap_or(0);
        Cred { namespace, ..Cred::user(id, id) }
    }

    /// Something a task does by itself. `None` if it does not come back from it for now.
    pub(super) fn act(
        &mut self,
        name: Option<&str>,
        tid: u32,
        files: &mut Files,
        step: &Step,
    ) -> Option<Outcome> {
        let pid = self.world.thread(tid).map_or(tid, |thread| thread.pid);
        match &step.act {
            Act::Responds { .. } => return Some(Outcome::said("yes")),
            Act::Unshare { .. } => {
                self.world.unshare(tid);
                return Some(Outcome::Done);
            }
            Act::Alloc { bytes, .. } => {
                let done = self.hoards.allocate(&mut self.world, pid, *bytes);
                if done == Allocated::Throttled
                    && let Some(task) = name.and_then(|name| self.tasks.get_mut(name))
                {
                    task.throttled = true;
                    return None;
                }
                return Some(Outcome::Done);
            }
            Act::Free { .. } => {
                self.hoards.free(pid);
                return Some(Outcome::Done);
            }
            Act::Burn { milliseconds, .. } => {
                self.burn(tid, *milliseconds);
                return Some(Outcome::Done);
            }
            Act::Exec { .. } => {
                files.clear();
                let done = self.world.exec(tid);
                // The caller has the leader's number now.
                if let (Ok(()), Some(task)) = (done, name.and_then(|name| self.tasks.get_mut(name)))
                {
                    task.tid = pid;
                }
                return Some(done.map_or_else(refused, |()| Outcome::Done));
            }
            Act::Poll { handle } | Act::WaitPoll { handle } => {
                let long = matches!(step.act, Act::WaitPoll { .. });
                return Some(self.poll(files, handle, if long { WAIT } else { MOMENT }));
            }
            Act::Watched { handle } => {
                self.world.pass(MOMENT);
                self.hear(files);
                return Some(match files.watched(handle) {
                    Some(words) => Outcome::said(words),
                    None => Outcome::broken(format!("no watch {handle}")),
                });
            }
            Act::WaitFor { path, file, key, value } => {
                return Some(self.wait_for(tid, step, path, file, key.as_ref(), value));
            }
            _ => {}
        }
        let cred = self.cred(tid, step.uid);
        let mut fx = self.world.effects();
        let tree = Arc::clone(&self.tree);
        let scene = Scene { tree: &tree, world: &self.world, tid, cred: &cred };
        let written = files.written(scene, &step.act);
        let did = files.perform(scene, &step.act, &mut fx);
        self.world.take(fx);
        match did {
            None => Some(Outcome::broken(format!("cannot {}", step.act))),
            Some(Did::Waits(css)) => {
                if let Some(task) = name.and_then(|name| self.tasks.get_mut(name)) {
                    task.sleeping = Some(css);
                }
                None
            }
            Some(Did::Rest(rest)) => {
                if let Rest::Shrink(shrink) = rest {
                    self.hoards.shrink(&mut self.world, shrink);
                }
                Some(Outcome::Done)
            }
            Some(Did::Said(outcome)) => {
                if let (Outcome::Done, Some(node)) = (&outcome, written) {
                    self.modified(files, |other| same_file(&node, other));
                }
                Some(outcome)
            }
        }
    }

    /// Runs for so long, with pauses where a quota is used up.
    pub(super) fn burn(&mut self, tid: u32, milliseconds: u64) {
        let Some(at) = self.world.thread(tid).and_then(|thread| thread.task.cgroup()) else {
            return;
        };
        let levels = || std::iter::successors(Some(&at), |cgroup| cgroup.parent());
        for _ in 0..milliseconds {
            self.world.pass(TICK);
            at.charge_cpu(CpuTimes { user: TICK.as_nanos() as u64, system: 0, nice: 0 });
            let Some(css) = Cpu::effective(&at) else { continue };
            let _ = css.run(TICK, self.world.now, self.world.now);
            while css.must_stop() {
                self.world.pass(TICK);
                for css in levels().filter_map(|cgroup| Cpu::css(cgroup)) {
                    let _ = css.tick(self.world.now);
                }
            }
        }
    }

    pub(super) fn poll(&mut self, files: &mut Files, handle: &str, bound: Duration) -> Outcome {
        self.hear(files);
        let Some(now) = files.poll(handle) else {
            return Outcome::broken(format!("no handle {handle}"));
        };
        if !now {
            self.world.pass(bound);
            self.hear(files);
        }
        Outcome::said(if files.poll(handle) == Some(true) { "pri err" } else { "quiet" })
    }

    pub(super) fn wait_for(
        &mut self,
        tid: u32,
        step: &Step,
        path: &Text,
        file: &Text,
        key: Option<&Text>,
        value: &Text,
    ) -> Outcome {
        let wanted = value.known().unwrap_or_default();
        let cred = self.cred(tid, step.uid);
        for last in [false, true] {
            let scene = Scene { tree: &self.tree, world: &self.world, tid, cred: &cred };
            let text = match scene.read_file(path, file) {
                Ok(text) => text,
                Err(errno) => return refused(errno),
            };
            let found = crate::guest::files::value_of(&text, key);
            if found.as_ref().is_some_and(|found| found.as_bytes() == wanted) {
                return Outcome::Done;
            }
            if last {
                let found = found.unwrap_or_else(|| "nothing".into());
                return Outcome::said(format!("timeout {found}"));
            }
            self.world.pass(WAIT);
        }
        unreachable!("the second round is the last")
    }

    /// The first process does something itself.
    pub(super) fn by_init(&mut self, step: &Step) -> Outcome {
        let mut files = std::mem::take(&mut self.files);
        let outcome = self.act(None, INIT, &mut files, step);
        self.files = files;
        outcome.unwrap_or(Outcome::Hung)
    }

    pub(super) fn responds(&mut self, name: &str, step: &Step) -> Outcome {
        match self.ask(name, Request::Do(step.clone())) {
            Outcome::Blocked => {
                if let Some(task) = self.tasks.get_mut(name) {
                    task.owed = None;
                    if let Some(last) = task.queue.back_mut() {
                        *last = Request::Nothing;
                    }
                }
                Outcome::said("no")
            }
            Outcome::Said(word) if word == "owing" => {
                let gone = self.life(name) != Some(Life::Live);
                let ready = self
                    .tasks
                    .get(name)
                    .and_then(|task| task.owed.as_ref())
                    .is_some_and(|owed| gone || owed.answer.is_some());
                Outcome::said(if ready { "yes" } else { "no" })
            }
            other => other,
        }
    }

    pub(super) fn answer(&mut self, name: &str) -> Outcome {
        let gone = self.life(name) != Some(Life::Live);
        let Some(task) = self.tasks.get_mut(name) else { return Self::no_task(name) };
        match task.owed.take() {
            None => Outcome::said("nothing owed"),
            Some(Owed { answer: Some(outcome), child }) => {
                self.born(child);
                outcome
            }
            Some(_) if gone => Outcome::said("gone"),
            owed => {
                task.owed = owed;
                self.world.pass(WAIT);
                Outcome::Blocked
            }
        }
    }
}

fn same_file(one: &Node, other: &Node) -> bool {
    match (one, other) {
        (Node::File(one), Node::File(other)) => {
            one.name() == other.name() && one.cgroup().id() == other.cgroup().id()
        }
        _ => false,
    }
}
