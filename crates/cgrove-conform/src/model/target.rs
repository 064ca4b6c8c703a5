//! Plays cases on the core: tasks by name, each with a queue of what it was asked to do.
//!
//! Mirrors the kernel's executor. A task that is halted, or sleeps in a write, does not answer; the
//! step is `blocked`, and done when the task goes on. After every step the world is brought to rest:
//! effects performed, work pumped, whoever can go on gone on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cgrove_core::controller::cpu::{Cpu, CpuTimes};
use cgrove_core::controller::hugetlb::HugePageSize;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::registry::Standard;
use cgrove_core::{Controller, CssId, CssState, Errno, Hierarchy, Hooks, NewCss, Opener, Time};
use cgrove_files::{Cred, MountOptions, Node, Rest, Tree};

use super::files::{Did, Files, Scene, refused};
use super::memory::{Allocated, Hoards};
use super::world::{Ended, INIT, Life, Reaped, World};
use crate::case::{Act, Case, Outcome, Place, Signal, Step, Target, Text, Via};
use crate::guest::executor::{file_name, is_root};

/// What a step takes, give or take: a thousandth of a second or less.
const STEP: Duration = Duration::from_micros(200);
/// The steps in which CPU time is used.
const TICK: Duration = Duration::from_millis(1);
/// How long `poll` and `watched` wait for a notification that may be late.
const MOMENT: Duration = Duration::from_millis(30);
/// How long what does not come is waited for.
const WAIT: Duration = Duration::from_millis(1500);

/// A task of the case.
#[derive(Debug)]
struct Named {
    tid: u32,
    pid: u32,
    /// The leader's name.
    leader: String,
    /// The name of the process that made it; the first process if absent.
    parent: Option<String>,
    /// Its death is held half-way.
    holdable: bool,
    reaped: bool,
    files: Files,
    queue: VecDeque<Request>,
    /// The first request of the queue has been begun and sleeps until this css is offline.
    sleeping: Option<CssId>,
    /// Over `memory.high`, and not let go on.
    throttled: bool,
    owed: Option<Owed>,
}

/// The answer to a request that took its time.
#[derive(Debug, Default)]
struct Owed {
    answer: Option<Outcome>,
    child: Option<Newborn>,
}

/// A task that another has made and not yet told of.
#[derive(Clone, Debug)]
struct Newborn {
    name: String,
    tid: u32,
    pid: u32,
    leader: String,
    parent: Option<String>,
}

#[derive(Clone, Debug)]
enum Request {
    Do(Step),
    /// Make a process or thread of this name.
    Make(Step, String),
    Reap(u32),
    Exit,
    ExitThread,
    /// Done, but halted before it could say so.
    Answer(Outcome, Option<Newborn>),
    /// Of no interest any more, but it was sent.
    Nothing,
}

/// The core, with the world it lives in.
pub struct CoreTarget {
    world: World,
    tree: Arc<Tree>,
    tasks: BTreeMap<String, Named>,
    /// Names of everything that lived in this case, by thread id.
    names: BTreeMap<u32, String>,
    files: Files,
    hoards: Hoards,
    /// Which file each open handle is for.
    opened: BTreeMap<(Option<String>, String), (Text, Text)>,
    /// Made by the request that is being carried out.
    newborn: Option<Newborn>,
}

impl Default for CoreTarget {
    fn default() -> Self {
        Self::new(MountOptions::default())
    }
}

/// Linux's implicit controller: it is everywhere, cannot be switched and has no files. It is not
/// cgrove's, but what it does to others is seen in `cgroup.stat`.
struct PerfEvent;

impl Controller for PerfEvent {
    fn name(&self) -> &'static str {
        "perf_event"
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn threaded(&self) -> bool {
        true
    }

    fn implicit(&self) -> bool {
        true
    }

    fn css_alloc(&self, _new: NewCss<'_>) -> Result<CssState, Errno> {
        Ok(Arc::new(()))
    }
}

/// The machine that the transcripts were recorded on: two CPUs, one node, huge pages of 2 MiB. In
/// Linux's order.
fn build(options: MountOptions, now: Time) -> Hierarchy {
    let mut with = Standard::new(IdMask::first(2), IdMask::first(1), &[HugePageSize::MB2]);
    options.apply(&mut with);
    Hierarchy::builder()
        .controller(Arc::new(with.cpuset))
        .controller(Arc::new(with.cpu))
        .controller(Arc::new(with.io))
        .controller(Arc::new(with.memory))
        .controller(Arc::new(PerfEvent))
        .controller(Arc::new(with.hugetlb))
        .controller(Arc::new(with.pids))
        .controller(Arc::new(with.rdma))
        .controller(Arc::new(with.misc))
        .build(now)
}

impl CoreTarget {
    /// An empty tree.
    #[must_use]
    pub fn new(options: MountOptions) -> Self {
        let now = Time(1_000_000_000);
        let hierarchy = build(options, now);
        let tree = Tree::builder(hierarchy.clone()).options(options).build();
        Self {
            world: World::new(hierarchy, now),
            tree: Arc::new(tree),
            tasks: BTreeMap::new(),
            names: BTreeMap::new(),
            files: Files::default(),
            hoards: Hoards::default(),
            opened: BTreeMap::new(),
            newborn: None,
        }
    }

    /// The processes.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The names of the case's tasks that have not been reaped, and their thread ids.
    pub fn task_names(&self) -> impl Iterator<Item = (&str, u32)> {
        let named = self.tasks.iter().filter(|(_, task)| !task.reaped);
        named.map(|(name, task)| (name.as_str(), task.tid))
    }

    /// Whether a task has a step to finish before it can do another.
    #[must_use]
    pub fn owes(&self, name: &str) -> bool {
        self.tasks.get(name).is_some_and(|task| task.owed.is_some() || !task.queue.is_empty())
    }

    /// Whether a task does at once what it is asked to.
    #[must_use]
    pub fn answers(&self, name: &str) -> bool {
        !self.owes(name) && self.tasks.get(name).is_some_and(|task| self.world.runs(task.tid))
    }

    /// Whether the death of a task's process is held half-way.
    #[must_use]
    pub fn is_holdable(&self, name: &str) -> bool {
        self.tasks.get(name).is_some_and(|task| task.holdable)
    }

    /// Whether no thread of a task's process has a step to finish.
    #[must_use]
    pub fn all_quiet(&self, name: &str) -> bool {
        let Some(pid) = self.tasks.get(name).map(|task| task.pid) else { return false };
        self.tasks.iter().all(|(other, task)| task.pid != pid || !self.owes(other))
    }

    /// Whether a task has done what it was asked and was `blocked` over.
    #[must_use]
    pub fn answer_is_ready(&self, name: &str) -> bool {
        let owed = self.tasks.get(name).and_then(|task| task.owed.as_ref());
        owed.is_some_and(|owed| owed.answer.is_some())
    }

    /// Whether whoever would have to reap a task is there to do it.
    #[must_use]
    pub fn parent_answers(&self, name: &str) -> bool {
        let parent = self.tasks.get(name).and_then(|task| task.parent.as_deref());
        parent.is_none_or(|parent| !self.lives(parent) || self.answers(parent))
    }

    /// The names of all files that a cgroup may have.
    #[must_use]
    pub fn file_names(&self) -> Vec<String> {
        self.tree.defs().map(|(_, def)| def.name.to_string()).collect()
    }

    /// The names of the files that a cgroup has.
    #[must_use]
    pub fn files_of(&self, path: &str) -> Vec<String> {
        let root = Cred::root();
        let Ok(Node::Dir(dir)) = self.tree.walk(path.as_bytes(), &root) else {
            return Vec::new();
        };
        let entries = self.tree.readdir(&dir, &root).unwrap_or_default();
        let files = entries.into_iter().filter(|entry| !entry.node.is_dir());
        files.map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    /// What a line of a cgroup's `cgroup.stat` says.
    #[must_use]
    pub fn stat_of(&self, path: &str, key: &str) -> Option<String> {
        let cred = Cred::root();
        let scene = Scene { tree: &self.tree, world: &self.world, tid: INIT, cred: &cred };
        let text = scene.read_file(&Text::plain(path), &Text::plain("cgroup.stat")).ok()?;
        crate::guest::files::value_of(&text, Some(&Text::plain(key)))
    }

    fn id(&self, name: &str) -> Option<i64> {
        self.tasks.get(name).map(|task| i64::from(task.tid))
    }

    fn life(&self, name: &str) -> Option<Life> {
        Some(self.world.thread(self.tasks.get(name)?.tid)?.life)
    }

    /// Whether a task is neither gone nor a zombie.
    fn lives(&self, name: &str) -> bool {
        matches!(self.life(name), Some(Life::Live | Life::Parked))
    }

    fn no_task(name: &str) -> Outcome {
        Outcome::broken(format!("no task {name}"))
    }

    /// Asks a task and waits for its answer.
    fn ask(&mut self, name: &str, request: Request) -> Outcome {
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
    fn rest(&mut self) {
        loop {
            self.world.settle();
            self.hoards.collect(&self.world);
            self.hear();
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

    /// Passes notifications on to who has the files open or watches them.
    fn hear(&mut self) {
        for file in self.world.notifications() {
            self.tree.notify(&file);
            let same = |node: &Node| {
                matches!(node, Node::File(it) if it.name() == file.name())
                    && node.cgroup().id() == file.cgroup()
            };
            self.files.modified(same);
            for task in self.tasks.values_mut() {
                task.files.modified(same);
            }
        }
    }

    /// Lets a task do what it was asked to, if it can. True if it did.
    fn go_on(&mut self, name: &str) -> bool {
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

    fn cred(&self, tid: u32, uid: Option<u32>) -> Cred {
        let namespace = self.world.thread(tid).and_then(|thread| thread.namespace.clone());
        let id = uid.unwrap_or(0);
        Cred { namespace, ..Cred::user(id, id) }
    }

    /// Something a task does by itself. `None` if it does not come back from it for now.
    fn act(
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
                self.hear_with(files);
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
                    let same = |other: &Node| same_file(&node, other);
                    files.modified(same);
                    self.files.modified(same);
                    for task in self.tasks.values_mut() {
                        task.files.modified(same);
                    }
                }
                Some(outcome)
            }
        }
    }

    /// Runs for so long, with pauses where a quota is used up.
    fn burn(&mut self, tid: u32, milliseconds: u64) {
        let Some(at) = self.world.thread(tid).and_then(|thread| thread.task.cgroup()) else {
            return;
        };
        let levels = || std::iter::successors(Some(&at), |cgroup| cgroup.parent());
        for _ in 0..milliseconds {
            self.world.pass(TICK);
            at.charge_cpu(CpuTimes { user: TICK.as_nanos() as u64, system: 0, nice: 0 });
            let Some(css) = Cpu::effective(&at) else { continue };
            let _ = css.run(TICK, self.world.now);
            while css.must_stop() {
                self.world.pass(TICK);
                for css in levels().filter_map(|cgroup| Cpu::css(cgroup)) {
                    let _ = css.tick(self.world.now);
                }
            }
        }
    }

    /// As [`hear`](Self::hear), for files that are taken out of their place at the moment.
    fn hear_with(&mut self, files: &mut Files) {
        self.world.settle();
        for file in self.world.notifications() {
            self.tree.notify(&file);
            let same = |node: &Node| {
                matches!(node, Node::File(it) if it.name() == file.name())
                    && node.cgroup().id() == file.cgroup()
            };
            files.modified(same);
            self.files.modified(same);
            for task in self.tasks.values_mut() {
                task.files.modified(same);
            }
        }
    }

    fn poll(&mut self, files: &mut Files, handle: &str, bound: Duration) -> Outcome {
        self.hear_with(files);
        let Some(now) = files.poll(handle) else {
            return Outcome::broken(format!("no handle {handle}"));
        };
        if !now {
            self.world.pass(bound);
            self.hear_with(files);
        }
        Outcome::said(if files.poll(handle) == Some(true) { "pri err" } else { "quiet" })
    }

    fn wait_for(
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

    fn vacant(&self, name: &str) -> Result<(), Outcome> {
        match self.tasks.get(name) {
            Some(task) if !task.reaped && (task.tid == task.pid || self.lives(name)) => {
                Err(Outcome::broken(format!("there is a task {name}")))
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, name: &str, tid: u32, pid: u32, leader: &str, parent: Option<String>) {
        self.names.insert(tid, name.to_owned());
        self.tasks.insert(
            name.to_owned(),
            Named {
                tid,
                pid,
                leader: leader.to_owned(),
                parent,
                holdable: false,
                reaped: false,
                files: Files::default(),
                queue: VecDeque::new(),
                sleeping: None,
                throttled: false,
                owed: None,
            },
        );
    }

    /// Takes up a task of which its maker has told.
    fn born(&mut self, child: Option<Newborn>) {
        if let Some(child) = child {
            self.add(&child.name, child.tid, child.pid, &child.leader, child.parent);
        }
    }

    /// Forks with the rights of a user into a place.
    fn fork(
        &mut self,
        maker: u32,
        files: &Files,
        uid: Option<u32>,
        place: Option<&Place>,
        holdable: bool,
    ) -> Result<u32, Errno> {
        let tree = Arc::clone(&self.tree);
        let root = Cred::root();
        let scene = Scene { tree: &tree, world: &self.world, tid: maker, cred: &root };
        let cgroup = match place {
            None => None,
            Some(Place::Path(path)) => match scene.walk(path, None)? {
                Node::Dir(dir) => Some(dir),
                Node::File(_) => return Err(Errno::ENOTDIR),
            },
            Some(Place::Handle(name)) => {
                let dir = files.directory(name).ok_or(Errno::EBADF)?;
                // Looked up by its descriptor before anything else is judged.
                if dir.is_dead() {
                    return Err(Errno::ENOENT);
                }
                Some(Arc::clone(dir))
            }
        };
        let cred = self.cred(maker, uid);
        let may_write = |cgroup: &cgrove_core::Cgroup| tree.may_move(cgroup, &cred);
        let namespace = cred.namespace.as_ref().filter(|_| tree.options().nsdelegate);
        let opener = Opener { may_write: &may_write, namespace };
        self.world.fork(maker, cgroup.as_ref().map(|cgroup| (cgroup, opener)), holdable)
    }

    /// A task makes another one.
    fn make(&mut self, maker: &str, tid: u32, step: &Step, name: &str) -> Outcome {
        let Some(leader) = self.tasks.get(maker).map(|task| task.leader.clone()) else {
            return Outcome::said("gone");
        };
        match &step.act {
            Act::Spawn { place, .. } => {
                let files = self.tasks.get_mut(maker).map(|task| std::mem::take(&mut task.files));
                let files = files.unwrap_or_default();
                let born = self.fork(tid, &files, step.uid, place.as_ref(), false);
                if let Some(task) = self.tasks.get_mut(maker) {
                    task.files = files;
                }
                match born {
                    Ok(pid) => {
                        self.newborn = Some(Newborn {
                            name: name.to_owned(),
                            tid: pid,
                            pid,
                            leader: name.to_owned(),
                            parent: Some(leader),
                        });
                    }
                    Err(errno) => return refused(errno),
                }
            }
            _ => match self.world.start_thread(tid) {
                Ok(born) => {
                    let pid = self.world.thread(tid).map_or(tid, |thread| thread.pid);
                    let name = name.to_owned();
                    self.newborn = Some(Newborn { name, tid: born, pid, leader, parent: None });
                }
                Err(errno) => return refused(errno),
            },
        }
        Outcome::Done
    }

    fn spawn(&mut self, step: &Step) -> Outcome {
        let Act::Spawn { task: name, place, via, holdable } = &step.act else {
            return Outcome::broken("no spawn");
        };
        if let Err(taken) = self.vacant(name) {
            return taken;
        }
        if let Some(parent) = &step.by {
            if *via == Via::Procs || *holdable {
                return Outcome::broken("only the first task can do this");
            }
            return self.ask(parent, Request::Make(step.clone(), name.clone()));
        }
        let born = if *via == Via::Procs { None } else { place.as_ref() };
        let files = std::mem::take(&mut self.files);
        let pid = self.fork(INIT, &files, step.uid, born, *holdable);
        self.files = files;
        let pid = match pid {
            Ok(pid) => pid,
            Err(errno) => return refused(errno),
        };
        self.add(name, pid, pid, name, None);
        if let Some(task) = self.tasks.get_mut(name) {
            task.holdable = *holdable;
        }
        if let (Via::Procs, Some(Place::Path(path))) = (via, place) {
            let act = Act::Write {
                path: path.clone(),
                file: Text::plain("cgroup.procs"),
                text: Text::plain(pid.to_string()),
            };
            let moved = self.by_init(&Step { by: None, uid: step.uid, act });
            if moved != Outcome::Done {
                self.world.end(pid, Ended::Killed(Signal::Kill));
                self.world.finish_exit(pid);
                self.world.reap(INIT, pid);
                self.tasks.remove(name);
                return moved;
            }
        }
        Outcome::Done
    }

    /// The first process does something itself.
    fn by_init(&mut self, step: &Step) -> Outcome {
        let mut files = std::mem::take(&mut self.files);
        let outcome = self.act(None, INIT, &mut files, step);
        self.files = files;
        outcome.unwrap_or(Outcome::Hung)
    }

    fn wait_child(&mut self, parent: u32, pid: u32) -> Outcome {
        match self.world.reap(parent, pid) {
            Reaped::NoChild => Outcome::Refused("ECHILD".into()),
            Reaped::NotDead => Outcome::said("not dead"),
            Reaped::Done(Ended::Exited) => Outcome::said("exited 0"),
            Reaped::Done(Ended::Killed(signal)) => Outcome::said(match signal {
                Signal::Kill => "killed SIGKILL",
                Signal::Term => "killed SIGTERM",
                Signal::Stop => "killed SIGSTOP",
                Signal::Cont => "killed SIGCONT",
            }),
        }
    }

    /// Whether a process has died, or has come as far as it can.
    fn death(&mut self, name: &str) -> Outcome {
        self.rest();
        let Some(task) = self.tasks.get(name) else { return Self::no_task(name) };
        let over = self.world.is_over(task.pid);
        if task.holdable {
            let begun = over || self.world.is_parked(task.pid);
            return Outcome::said(if begun { "exiting" } else { "pending" });
        }
        if over { Outcome::Done } else { Outcome::said("pending") }
    }

    fn exit(&mut self, name: &str, whole: bool) -> Outcome {
        let Some(leader) = self.tasks.get(name).map(|task| task.leader.clone()) else {
            return Self::no_task(name);
        };
        let threads: Vec<String> = self
            .tasks
            .iter()
            .filter(|(other, task)| task.leader == leader && **other != leader)
            .map(|(other, _)| other.clone())
            .collect();
        // A dead leader cannot end its process; any of its threads can.
        let teller = if whole && !threads.is_empty() && !self.lives(name) {
            threads.into_iter().find(|thread| self.lives(thread))
        } else {
            Some(name.to_owned())
        };
        let Some(teller) = teller else { return Outcome::said("gone") };
        if self.life(&teller) != Some(Life::Live) {
            return Outcome::said("gone");
        }
        if let Some(task) = self.tasks.get_mut(&teller) {
            task.queue.push_back(if whole { Request::Exit } else { Request::ExitThread });
        }
        if whole {
            return self.death(&leader);
        }
        self.rest();
        if self.lives(&teller) { Outcome::Blocked } else { Outcome::Done }
    }

    fn kill(&mut self, name: &str, signal: Signal, nowait: bool) -> Outcome {
        let Some(task) = self.tasks.get(name) else { return Self::no_task(name) };
        let pid = task.pid;
        if let Err(errno) = self.world.signal(pid, signal) {
            return refused(errno);
        }
        self.rest();
        if nowait {
            return Outcome::Done;
        }
        let state = self.state(name);
        let good = match signal {
            Signal::Kill | Signal::Term => return self.death(name),
            Signal::Stop => state != "alive",
            Signal::Cont => state != "stopped",
        };
        if good { Outcome::Done } else { Outcome::said("pending") }
    }

    fn finish_exit(&mut self, name: &str) -> Outcome {
        let Some(task) = self.tasks.get_mut(name) else { return Self::no_task(name) };
        if !task.holdable {
            return Outcome::broken(format!("{name} is not holdable"));
        }
        let pid = task.pid;
        if !self.world.is_parked(pid) {
            return Outcome::said("not exiting");
        }
        task.holdable = false;
        self.world.finish_exit(pid);
        self.death(name)
    }

    fn reap(&mut self, name: &str) -> Outcome {
        let Some(task) = self.tasks.get(name) else { return Self::no_task(name) };
        let pid = task.pid;
        let parent = task.parent.clone().filter(|parent| self.lives(parent));
        let outcome = match parent {
            Some(parent) => self.ask(&parent, Request::Reap(pid)),
            None => self.wait_child(INIT, pid),
        };
        let over = matches!(&outcome, Outcome::Said(word) if word != "not dead");
        if let (true, Some(task)) = (over, self.tasks.get_mut(name)) {
            task.reaped = true;
        }
        outcome
    }

    fn state(&self, name: &str) -> &'static str {
        match self.life(name) {
            None => "gone",
            Some(Life::Dead) => "zombie",
            Some(Life::Parked) => "alive",
            Some(Life::Live) => {
                let stopped = self
                    .tasks
                    .get(name)
                    .is_some_and(|task| self.world.is_stopped(task.pid) && task.sleeping.is_none());
                if stopped { "stopped" } else { "alive" }
            }
        }
    }

    fn responds(&mut self, name: &str, step: &Step) -> Outcome {
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

    fn exec(&mut self, name: &str, step: &Step) -> Outcome {
        let outcome = self.ask(name, Request::Do(step.clone()));
        if outcome == Outcome::Done
            && let Some(mut task) = self.tasks.remove(name)
        {
            let (leader, pid) = (task.leader.clone(), task.pid);
            self.tasks.retain(|_, other| other.pid != pid || other.tid == pid);
            task.tid = pid;
            if let Some(old) = self.tasks.remove(&leader) {
                task.parent = old.parent;
                task.holdable = old.holdable;
            }
            self.names.insert(pid, leader.clone());
            self.tasks.insert(leader, task);
        }
        outcome
    }

    fn answer(&mut self, name: &str) -> Outcome {
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

    /// A step on files, by whoever is to do it.
    fn on_files(&mut self, step: &Step) -> Outcome {
        let act = match step.act.resolved(|name| self.id(name)) {
            Ok(act) => act,
            Err(name) => return Self::no_task(&name),
        };
        if let Act::Open { path, file, handle, .. } = &act {
            self.opened.insert((step.by.clone(), handle.clone()), (path.clone(), file.clone()));
        }
        let request = Step { by: None, uid: step.uid, act: act.clone() };
        let outcome = match &step.by {
            None => self.by_init(&request),
            Some(task) => self.ask(task, Request::Do(request)),
        };
        self.named(step, &act, outcome)
    }

    /// Replaces ids in what a list of members shows, and brings it in order.
    fn named(&self, step: &Step, act: &Act, outcome: Outcome) -> Outcome {
        let (path, file) = match act {
            Act::Read { path, file, .. } => (path, file),
            Act::ReadHandle { handle } => {
                match self.opened.get(&(step.by.clone(), handle.clone())) {
                    Some((path, file)) => (path, file),
                    None => return outcome,
                }
            }
            _ => return outcome,
        };
        let lists = matches!(file_name(file).as_deref(), Some("cgroup.procs" | "cgroup.threads"));
        let text = match &outcome {
            Outcome::Text(text) if lists => text,
            _ => return outcome,
        };
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| {
                let id: u32 = line.parse().ok()?;
                match (id, self.names.get(&id)) {
                    (INIT, _) => Some("init\n".to_owned()),
                    (_, Some(name)) => Some(format!("${name}\n")),
                    _ if is_root(path) => None,
                    (0, _) => Some("0\n".to_owned()),
                    _ => Some("other\n".to_owned()),
                }
            })
            .collect();
        lines.sort();
        Outcome::Text(lines.concat())
    }

    fn do_step(&mut self, step: &Step) -> Outcome {
        match &step.act {
            Act::Spawn { .. } => self.spawn(step),
            Act::Thread { task, of } => match self.vacant(task) {
                Ok(()) => self.ask(of, Request::Make(step.clone(), task.clone())),
                Err(taken) => taken,
            },
            Act::Exec { task } => self.exec(task, step),
            Act::Exit { task } => self.exit(task, true),
            Act::ExitThread { task } => self.exit(task, false),
            Act::FinishExit { task } => self.finish_exit(task),
            Act::Kill { task, signal, nowait } => self.kill(task, *signal, *nowait),
            Act::Await { task } => self.death(task),
            Act::Reap { task } => self.reap(task),
            Act::State { task } if self.tasks.contains_key(task) => Outcome::said(self.state(task)),
            Act::Cgroup { task } => match self.tasks.get(task) {
                Some(task) => {
                    let cgroup =
                        self.world.thread(task.tid).and_then(|thread| thread.task.cgroup());
                    Outcome::said(cgroup.map_or_else(|| "gone".into(), |at| at.path()))
                }
                None => Self::no_task(task),
            },
            Act::Responds { task } => self.responds(task, step),
            Act::Unshare { task }
            | Act::Free { task }
            | Act::Alloc { task, .. }
            | Act::Burn { task, .. } => self.ask(task, Request::Do(step.clone())),
            Act::Answer { task } => self.answer(task),
            Act::State { task } => Self::no_task(task),
            _ => self.on_files(step),
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

impl Target for CoreTarget {
    fn name(&self) -> String {
        concat!("cgrove ", env!("CARGO_PKG_VERSION")).to_owned()
    }

    fn begin_case(&mut self, case: &Case) -> Result<(), String> {
        let options = case.options.mount.join(",");
        let options = MountOptions::parse(&options).map_err(|e| format!("{options}: {e}"))?;
        *self = Self::new(options);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Outcome {
        self.world.pass(STEP);
        self.rest();
        let outcome = self.do_step(step);
        self.rest();
        outcome
    }

    fn end_case(&mut self) -> Result<(), String> {
        Ok(())
    }
}
