//! The core and the reference model side by side, driven as one.
//!
//! A sequence of operations says nothing about the core unless somebody knows
//! what each of them should have done. Here every operation goes to both; its
//! result and its effects must be the same. `compare.rs` asks for the rest.
//!
//! Nothing here panics on a difference: it is returned as a text, so that the
//! sequence can be shortened.

use crate::compare::{agree, demand};
use crate::everywhere::Everywhere;
use crate::gate::Gate;
use crate::reference::*;
use cgrove_core::*;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

/// Where a case stops growing: small trees meet every rule and compare fast.
const MOST_CGROUPS: usize = 12;
const MOST_TASKS: usize = 16;
const MOST_FORKS: usize = 4;
const MOST_USERS: usize = 4;

/// Names to create, chosen by number; the rest of the numbers are good ones.
const BAD_NAMES: [&str; 6] = ["", ".", "..", "a/b", "a\nb", "/"];
const GOOD_NAMES: [&str; 3] = ["a", "b", "c"];

/// A cgroup, task or other thing by a number, whatever there is: see
/// [`Pair::cgroup`] and [`Pair::task`]. Zero, which shrinking aims at, is the
/// oldest one that lives.
pub type Pick = u8;

/// One step of a sequence.
#[derive(Clone, Debug)]
pub enum Op {
    Create {
        parent: Pick,
        name: u8,
        refuse: Refusal,
    },
    MaxDepth {
        at: Pick,
        max: usize,
    },
    MaxDescendants {
        at: Pick,
        max: usize,
    },
    PidsMax {
        at: Pick,
        limit: Limit,
    },
    ForkInto {
        at: Pick,
        refuse: Refusal,
    },
    ForkBy {
        task: Pick,
        refuse: Refusal,
    },
    Publish {
        fork: Pick,
        thread_of: Option<Pick>,
    },
    Cancel {
        fork: Pick,
        dropping: bool,
    },
    Adopt {
        at: Pick,
        thread_of: Option<Pick>,
    },
    /// The task's next step, whichever it is.
    Next {
        task: Pick,
        reap_first: bool,
    },
    /// The leader of a task's group exits and dies before the task does.
    LeaderDies {
        task: Pick,
    },
    /// A step that may not be the next one.
    Step {
        task: Pick,
        step: Step,
    },
    Kill {
        at: Pick,
    },
    /// Kills the cgroup that a task is or was in.
    KillAround {
        task: Pick,
    },
    Remove {
        at: Pick,
    },
    Get {
        at: Pick,
        kind: Kind,
        reader: usize,
        online: bool,
    },
    Put {
        user: Pick,
        reader: usize,
    },
    Open {
        reader: usize,
    },
    Close {
        reader: usize,
    },
    Pump,
    PumpQueue(Queue),
    /// The clock moves; timers that came due fire, or fire late.
    Advance {
        millis: u64,
        late: bool,
    },
    /// A timer that nobody asked for.
    Timer {
        at: Pick,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Exit,
    Dead,
    Reap,
    Free,
    Retire,
}

/// What was seen of a css in the step before.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub populated: bool,
    /// The read sections that were open when it was first seen dying.
    pub readers: Option<BTreeSet<u64>>,
}

/// The core's handles of one cgroup.
pub struct Handles {
    pub cgroup: Arc<Cgroup>,
    /// In the order of [`KINDS`]; none for a css that never came online.
    pub css: [Option<CssRef>; 3],
    pub pids: Option<Arc<PidsCss>>,
    pub seen: [Seen; 3],
}

struct User {
    cgroup: Cg,
    kind: Kind,
    css: CssRef,
}

/// A hierarchy and its readers, which outlive the sections they open.
pub struct Core {
    pub h: Hierarchy,
    readers: [Reader; READERS],
    pub gate: Arc<Gate>,
    local_events: bool,
}

impl Core {
    /// `build` makes the hierarchy of a builder that has its controllers.
    pub fn new(local_events: bool, build: impl FnOnce(Builder) -> Hierarchy) -> Self {
        let pids = if local_events { Pids::with_local_events() } else { Pids::new() };
        let gate = Arc::new(Gate::default());
        let h = build(
            Hierarchy::builder().controller(Arc::new(Everywhere(pids))).controller(gate.clone()),
        );
        let readers = std::array::from_fn(|_| h.register_reader());
        Self { h, readers, gate, local_events }
    }
}

/// Core and model. What has the same index in both is the same thing.
pub struct Pair<'c> {
    pub core: &'c Core,
    pub model: Reference,
    pub cgroups: Vec<Handles>,
    pub tasks: Vec<Arc<Task>>,
    forks: Vec<Fork>,
    users: Vec<User>,
    sections: [Vec<ReadSection<'c>>; READERS],
    timers: Vec<(u64, Arc<EventFile>)>,
    /// Whether an effect told of work since the last pump.
    told: bool,
    /// How much work the last pump left.
    waiting: usize,
}

pub type Check = Result<(), String>;

impl<'c> Pair<'c> {
    pub fn new(core: &'c Core) -> Self {
        let root = core.h.root().clone();
        let mut new = Self {
            core,
            model: Reference::new(core.local_events),
            cgroups: vec![],
            tasks: vec![],
            forks: vec![],
            users: vec![],
            sections: Default::default(),
            timers: vec![],
            told: false,
            waiting: 0,
        };
        new.enrol(root);
        new
    }

    /// Keeps handles of a cgroup whose csses are still published.
    fn enrol(&mut self, cgroup: Arc<Cgroup>) {
        let css = KINDS.map(|kind| match kind {
            Some(ssid) => cgroup.css(["pids", "gate"][ssid]).map(CssRef::Of),
            None => Some(CssRef::SelfOf(cgroup.clone())),
        });
        let pids = Pids::css(&cgroup);
        self.cgroups.push(Handles { cgroup, css, pids, seen: Default::default() });
    }

    pub fn find(&self, id: CgroupId) -> Cg {
        self.cgroups.iter().position(|it| it.cgroup.id() == id).expect("a cgroup we know")
    }

    /// Runs an operation on both; `core` gives what it returned.
    fn both<T>(
        &mut self,
        core: impl FnOnce(&mut Self, &mut Effects) -> T,
        model: impl FnOnce(&mut Reference, &mut Vec<Asked>) -> T,
    ) -> Check
    where
        T: PartialEq + std::fmt::Debug,
    {
        let mut fx = Effects::at(Time(self.model.now));
        let got = core(self, &mut fx);
        let mut expected = Vec::new();
        let want = model(&mut self.model, &mut expected);
        agree!(got, want, "result");
        let mut asked = Vec::new();
        for effect in fx.drain() {
            match effect {
                Effect::Notify(file) => {
                    asked.push(Asked::Notify(self.find(file.cgroup()), file.name()));
                }
                Effect::Timer { at, file } => {
                    asked.push(Asked::Timer(at.0, self.find(file.cgroup()), file.name()));
                    self.timers.push((at.0, file));
                }
                Effect::Kill(task) => asked.push(Asked::Kill(task.0 as Tk)),
                Effect::Work(_) => self.told = true,
                other => return Err(format!("an unknown effect: {other:?}")),
            }
        }
        // In no particular order: nobody may depend on it.
        asked.sort();
        expected.sort();
        agree!(asked, expected, "effects");
        Ok(())
    }

    /// Mostly a live cgroup, at times any.
    fn cgroup(&self, pick: Pick) -> Cg {
        let live = |at: &Cg| pick % 4 == 3 || !self.model.cgroups[*at].removed;
        let some: Vec<_> = (0..self.cgroups.len()).filter(live).collect();
        some[usize::from(pick / 4) % some.len()]
    }

    /// Mostly a task that is not freed, at times any.
    fn task(&self, pick: Pick) -> Option<Tk> {
        let there = |at: &Tk| pick % 4 == 3 || !self.model.tasks[*at].freed;
        choose(pick / 4, (0..self.tasks.len()).filter(there))
    }

    /// A task that can have another thread.
    fn group(&self, pick: Option<Pick>) -> Option<Tk> {
        choose(pick?, (0..self.tasks.len()).filter(|&at| self.model.group_live(at) > 0))
    }

    pub fn operate(&mut self, op: &Op) -> Check {
        match *op {
            Op::Create { parent, name, refuse } => self.create(self.cgroup(parent), name, refuse),
            Op::MaxDepth { at, max } => {
                let at = self.cgroup(at);
                self.both(
                    |this, _| this.core.h.set_max_depth(&this.cgroups[at].cgroup, max),
                    |model, _| model.set_max_depth(at, max),
                )
            }
            Op::MaxDescendants { at, max } => {
                let at = self.cgroup(at);
                self.both(
                    |this, _| this.core.h.set_max_descendants(&this.cgroups[at].cgroup, max),
                    |model, _| model.set_max_descendants(at, max),
                )
            }
            Op::PidsMax { at, limit } => {
                let at = self.cgroup(at);
                let Some(pids) = self.cgroups[at].pids.clone() else { return Ok(()) };
                self.both(|_, _| pids.set_max(limit), |model, _| model.set_limit(at, limit))
            }
            Op::ForkInto { at, refuse } => self.fork_into(self.cgroup(at), refuse),
            Op::ForkBy { task, refuse } => match self.task(task) {
                Some(task) => self.fork_by(task, refuse),
                None => Ok(()),
            },
            Op::Publish { fork, thread_of } => match choose(fork, 0..self.forks.len()) {
                Some(fork) => self.publish(fork, self.group(thread_of)),
                None => Ok(()),
            },
            Op::Cancel { fork, dropping } => match choose(fork, 0..self.forks.len()) {
                Some(fork) => self.cancel(fork, dropping),
                None => Ok(()),
            },
            Op::Adopt { at, thread_of } => self.adopt(self.cgroup(at), self.group(thread_of)),
            Op::Next { task, reap_first } => match self.task(task) {
                Some(task) => self.next(task, reap_first),
                None => Ok(()),
            },
            Op::LeaderDies { task } => match self.group(Some(task)) {
                Some(task) => self.leader_dies(task),
                None => Ok(()),
            },
            Op::Step { task, step } => match self.task(task) {
                Some(task) => self.step(task, step),
                None => Ok(()),
            },
            Op::Kill { at } => self.kill(self.cgroup(at)),
            Op::KillAround { task } => match self.task(task) {
                Some(task) => self.kill(self.model.tasks[task].cgroup),
                None => Ok(()),
            },
            Op::Remove { at } => self.remove(self.cgroup(at)),
            Op::Get { at, kind, reader, online } => self.get(self.cgroup(at), kind, reader, online),
            Op::Put { user, reader } => match choose(user, 0..self.users.len()) {
                Some(user) => self.put(user, reader),
                None => Ok(()),
            },
            Op::Open { reader } => {
                let section = self.core.h.read(&self.core.readers[reader]);
                self.sections[reader].push(section);
                self.model.open(reader);
                Ok(())
            }
            Op::Close { reader } => {
                if self.sections[reader].pop().is_some() {
                    self.model.close(reader);
                }
                Ok(())
            }
            Op::Pump => self.pump(),
            Op::PumpQueue(queue) => self.both(
                |this, fx| this.core.h.pump_queue(queue, fx),
                |model, _| model.pump_queue(queue),
            ),
            Op::Advance { millis, late } => self.advance(millis, late),
            Op::Timer { at } => {
                let at = self.cgroup(at);
                self.both(
                    |this, fx| this.core.h.timer(this.cgroups[at].cgroup.events_file(), fx),
                    |model, asked| model.timer(at, "cgroup.events", asked),
                )
            }
        }
    }

    fn create(&mut self, parent: Cg, name: u8, refuse: Refusal) -> Check {
        if self.cgroups.len() == MOST_CGROUPS {
            return Ok(());
        }
        let long = "x".repeat(4094 + usize::from(name % 3));
        let name = match usize::from(name) {
            0..6 => BAD_NAMES[usize::from(name)],
            6..9 => &long,
            good => GOOD_NAMES[good % GOOD_NAMES.len()],
        };
        self.core.gate.refuse(refuse);
        let mut made = None;
        let top = self.cgroups[parent].cgroup.clone();
        let done = self.both(
            |this, fx| {
                let known = this.self_children(parent);
                match this.core.h.create(&top, name, fx) {
                    Ok(cgroup) => {
                        made = Some(cgroup);
                        Ok(this.cgroups.len())
                    }
                    Err(errno) => {
                        // What a refusing controller left is to be found as a
                        // child that was not there before.
                        let left = this.self_children(parent).difference(&known).next().copied();
                        let above = &this.cgroups[parent].cgroup;
                        let above = CssRef::SelfOf(above.clone());
                        let left = left.and_then(|id| this.core.h.child_css(&above, id));
                        made = left.map(|css| css.cgroup().clone());
                        Err((errno, made.as_ref().map(|_| this.cgroups.len())))
                    }
                }
            },
            |model, _| model.create(parent, name, refuse),
        );
        self.core.gate.refuse(Refusal::Nothing);
        if let Some(cgroup) = made {
            self.enrol(cgroup);
        }
        done
    }

    fn self_children(&self, cgroup: Cg) -> BTreeSet<CssId> {
        let own = CssRef::SelfOf(self.cgroups[cgroup].cgroup.clone());
        self.core.h.lifecycle(&own).children.into_iter().collect()
    }

    fn fork_into(&mut self, at: Cg, refuse: Refusal) -> Check {
        let cgroup = self.cgroups[at].cgroup.clone();
        self.fork(ForkFrom::Cgroup(&cgroup), Ok(at), refuse)
    }

    fn fork_by(&mut self, task: Tk, refuse: Refusal) -> Check {
        let at = self.model.forker(task);
        let parent = self.tasks[task].clone();
        self.fork(ForkFrom::Task(&parent), at, refuse)
    }

    fn fork(&mut self, from: ForkFrom<'_>, at: Result<Cg, Errno>, refuse: Refusal) -> Check {
        if self.forks.len() == MOST_FORKS {
            return Ok(());
        }
        self.core.gate.refuse(refuse);
        let done = self.both(
            |this, fx| this.core.h.fork(from, fx).map(|fork| this.forks.push(fork)),
            |model, asked| model.fork(at?, refuse, asked),
        );
        self.core.gate.refuse(Refusal::Nothing);
        done
    }

    fn publish(&mut self, fork: usize, thread_of: Option<Tk>) -> Check {
        if self.tasks.len() == MOST_TASKS {
            return self.cancel(fork, false);
        }
        let fork_at = fork;
        let fork = self.forks.remove(fork_at);
        self.both(
            |this, fx| {
                let id = TaskId(this.tasks.len() as u64);
                let task = match thread_of {
                    Some(at) => fork.publish(id, Membership::ThreadOf(&this.tasks[at]), fx),
                    None => fork.publish(id, Membership::Process, fx),
                };
                this.tasks.push(task);
                this.tasks.len() - 1
            },
            |model, asked| model.publish(fork_at, thread_of, asked),
        )
    }

    fn cancel(&mut self, fork: usize, dropping: bool) -> Check {
        let place = self.forks.remove(fork);
        self.both(
            |_, fx| if dropping { drop(place) } else { place.cancel(fx) },
            |model, _| model.cancel(fork),
        )
    }

    fn adopt(&mut self, at: Cg, thread_of: Option<Tk>) -> Check {
        if self.tasks.len() == MOST_TASKS {
            return Ok(());
        }
        self.both(
            |this, fx| {
                let id = TaskId(this.tasks.len() as u64);
                let membership = match thread_of {
                    Some(at) => Membership::ThreadOf(&this.tasks[at]),
                    None => Membership::Process,
                };
                let task = this.core.h.adopt(&this.cgroups[at].cgroup, id, membership, fx)?;
                this.tasks.push(task);
                Ok(this.tasks.len() - 1)
            },
            |model, asked| model.adopt(at, thread_of, asked),
        )
    }

    fn next(&mut self, task: Tk, reap_first: bool) -> Check {
        let it = &self.model.tasks[task];
        let step = match (it.exiting, it.dead, it.reaped) {
            (false, ..) => Step::Exit,
            (_, true, true) => Step::Free,
            (_, true, false) => Step::Reap,
            (_, false, true) => Step::Dead,
            (_, false, false) if reap_first => Step::Reap,
            (_, false, false) => Step::Dead,
        };
        self.step(task, step)
    }

    fn leader_dies(&mut self, task: Tk) -> Check {
        let leader = self.model.tasks[task].leader;
        if leader == task || self.model.tasks[leader].dead {
            return Ok(());
        }
        if !self.model.tasks[leader].exiting {
            self.step(leader, Step::Exit)?;
        }
        self.step(leader, Step::Dead)
    }

    fn step(&mut self, at: Tk, step: Step) -> Check {
        let task = self.tasks[at].clone();
        self.both(
            |this, fx| match step {
                Step::Exit => this.core.h.exit(&task, fx),
                Step::Dead => this.core.h.dead(&task, fx),
                Step::Reap => this.core.h.reap(&task, fx),
                Step::Free => this.core.h.free(&task, fx),
                Step::Retire => this.core.h.retire(&task, fx),
            },
            |model, asked| match step {
                Step::Exit => model.exit(at),
                Step::Dead => model.dead(at, asked),
                Step::Reap => model.reap(at),
                Step::Free => model.free(at),
                Step::Retire => model.retire(at, asked),
            },
        )
    }

    fn kill(&mut self, at: Cg) -> Check {
        self.both(
            |this, fx| this.core.h.kill(&this.cgroups[at].cgroup, fx),
            |model, asked| model.kill(at, asked),
        )
    }

    fn remove(&mut self, at: Cg) -> Check {
        let cgroup = self.cgroups[at].cgroup.clone();
        let h = &self.core.h;
        let place = |fork: &Fork| fork.cgroup().is_some_and(|at| at.id() == cgroup.id());
        let free = h.threads(&cgroup).is_empty()
            && h.children(&cgroup).is_empty()
            && !self.forks.iter().any(place)
            && cgroup.parent().is_some();
        let may = free || cgroup.is_dead();
        self.both(|this, fx| this.core.h.remove(&cgroup, fx), |model, _| model.remove(at))?;
        demand!(may == cgroup.is_dead(), "I5: removal of {cgroup:?}, where nothing shows: {may}");
        Ok(())
    }

    fn get(&mut self, at: Cg, kind: Kind, reader: usize, online: bool) -> Check {
        let Some(css) = self.css(at, kind).cloned() else { return Ok(()) };
        if self.users.len() == MOST_USERS {
            return Ok(());
        }
        self.both(
            |this, _| {
                let reader = &this.core.readers[reader];
                let got = if online { css.try_get_online(reader) } else { css.try_get(reader) };
                if got {
                    this.users.push(User { cgroup: at, kind, css });
                }
                got
            },
            |model, _| model.get(at, kind, online),
        )
    }

    fn put(&mut self, user: usize, reader: usize) -> Check {
        let User { cgroup, kind, css } = self.users.swap_remove(user);
        self.both(
            |this, fx| this.core.h.put(&css, &this.core.readers[reader], fx),
            |model, _| model.put(cgroup, kind),
        )
    }

    /// As an embedder does: only if told of work, or left with some (I3).
    fn pump(&mut self) -> Check {
        self.both(
            |this, fx| {
                if this.told || this.waiting > 0 {
                    this.waiting = this.core.h.pump(fx);
                }
                this.waiting
            },
            |model, _| model.pump(),
        )?;
        self.told = false;
        for (at, handles) in self.cgroups.iter().enumerate() {
            for css in handles.css.iter().flatten() {
                let stuck = !css.is_populated() && self.phase(css) == Phase::Dying;
                demand!(!stuck, "I3: {css:?} of cgroup {at} is drained and not killed");
            }
        }
        Ok(())
    }

    fn advance(&mut self, millis: u64, late: bool) -> Check {
        self.model.now += millis * 1_000_000;
        let now = self.model.now;
        if late {
            return Ok(());
        }
        self.timers.sort_by_key(|&(at, _)| at);
        let due = self.timers.partition_point(|&(at, _)| at <= now);
        for (_, file) in self.timers.drain(..due).collect::<Vec<_>>() {
            let at = self.find(file.cgroup());
            self.both(
                |this, fx| this.core.h.timer(&file, fx),
                |model, asked| model.timer(at, file.name(), asked),
            )?;
        }
        Ok(())
    }

    // The end.

    /// Takes everything apart, finds nothing left, and everything forgotten.
    pub fn finish(mut self) -> Check {
        for reader in 0..READERS {
            while self.sections[reader].pop().is_some() {
                self.model.close(reader);
            }
        }
        while !self.users.is_empty() {
            self.put(0, 0)?;
        }
        while !self.forks.is_empty() {
            self.cancel(0, true)?;
        }
        for task in 0..self.tasks.len() {
            while !self.model.tasks[task].freed {
                self.next(task, task % 2 == 0)?;
            }
        }
        // A parent comes before its children in the list.
        for at in (1..self.cgroups.len()).rev() {
            self.remove(at)?;
            demand!(self.cgroups[at].cgroup.is_dead(), "I5: {at} is empty and stays");
        }
        self.pump()?;
        self.compare()?;
        agree!(self.waiting, 0, "work that waits for nobody");
        for (at, handles) in self.cgroups.iter().enumerate().skip(1) {
            for css in handles.css.iter().flatten() {
                let life = self.core.h.lifecycle(css);
                let end = (life.phase, life.references);
                agree!(end, (Phase::Freed, 0), "I3: end of {css:?} in {at}");
            }
        }
        let stat = self.core.h.stat(self.core.h.root());
        let left = (stat.nr_descendants, stat.nr_dying_descendants);
        agree!(left, (0, 0), "I7: what is left below the root");
        let memory = self.forget();
        demand!(
            memory[1..].iter().all(|cgroup| cgroup.upgrade().is_none()),
            "a freed cgroup is still in memory"
        );
        Ok(())
    }

    /// Gives all handles up.
    pub fn forget(self) -> Vec<Weak<Cgroup>> {
        self.cgroups.iter().map(|it| Arc::downgrade(&it.cgroup)).collect()
    }
}

fn choose(pick: Pick, from: impl Iterator<Item = usize>) -> Option<usize> {
    let some: Vec<_> = from.collect();
    (!some.is_empty()).then(|| some[usize::from(pick) % some.len()])
}
