//! Random sequences over everything that changes where tasks are and what they
//! are charged to, and the rules that hold whatever came before.
//!
//! Controllers that come and go, moves, threaded cgroups, the freezer, forks in
//! flight and tasks on their way out meet one another in more ways than anybody
//! thinks of. `tests/proptest.rs` predicts every single answer for a smaller
//! surface; here each step is taken for what it is, and afterwards the rules
//! are checked on what the core says:
//!
//! * no task is where none may be, and a process is in one domain;
//! * a cgroup has the csses that its parent's masks promise, and shows those
//!   that were asked for;
//! * every task and every fork in flight is charged once, to the css in force;
//!   one on its way out stays charged to the css it left with;
//! * a move takes everyone who is not on his way out, or nobody;
//! * populated and frozen are what the tasks make them;
//! * in the end everything can be taken apart, and nothing is left.
//!
//! `CGROVE_SEED` and `CGROVE_CASES` choose other sequences, and more of them.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use support::{Everywhere, Refusals};

type Charged = Arc<Mutex<HashMap<CssId, i64>>>;

/// Counts the tasks charged to each css of its own.
struct Count {
    name: &'static str,
    threaded: bool,
    needs: &'static [&'static str],
    refusals: Refusals,
    charged: Charged,
}

impl Count {
    fn add(&self, css: &Css, by: i64) {
        assert!(by < 0 || !css.is_dying(), "I9: {} charged to a dying css", self.name);
        let mut charged = self.charged.lock().unwrap();
        let count = charged.entry(css.id()).or_default();
        *count += by;
        assert!(*count >= 0, "{} uncharged twice", self.name);
    }
}

impl Controller for Count {
    fn name(&self) -> &'static str {
        self.name
    }
    fn hooks(&self) -> Hooks {
        Hooks::all()
    }
    fn threaded(&self) -> bool {
        self.threaded
    }
    fn depends_on(&self) -> &'static [&'static str] {
        self.needs
    }
    fn css_alloc(&self, _new: NewCss<'_>) -> Result<CssState, Errno> {
        Ok(Arc::new(()))
    }
    fn css_online(&self, _css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.refusals.online()
    }
    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        assert!(!css.is_populated(), "I1: css_offline of a populated css");
    }
    fn can_attach(&self, tasks: &TaskSet<'_>, _fx: &mut Effects) -> Result<(), Errno> {
        assert!(tasks.len() > 0);
        self.refusals.attach()
    }
    fn attach(&self, _task: TaskId, to: &Css, from: Option<&Css>, _fx: &mut Effects) {
        self.add(to, 1);
        if let Some(from) = from {
            self.add(from, -1);
        }
    }
    fn move_forks(&self, n: usize, to: &Css, from: &Css, _fx: &mut Effects) {
        self.add(to, n as i64);
        self.add(from, -(n as i64));
    }
    fn can_fork(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.add(css, 1);
        Ok(())
    }
    fn cancel_fork(&self, css: &Css) {
        self.add(css, -1);
    }
    fn release(&self, _task: TaskId, css: &Css) {
        self.add(css, -1);
    }
}

const NAMES: [&str; 4] = ["cpu", "pids", "memory", "io"];
const THREADED: [bool; 4] = [true, true, false, false];
/// `perf`, which is implicit, has the number after them.
const ALL: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(u8, u8),
    Remove(u8),
    Control { at: u8, on: u8, off: u8, refuse: bool },
    Threaded(u8),
    Attach { task: u8, to: u8, thread: bool, refuse: bool },
    Place { at: u8, by: Option<u8> },
    Publish { place: u8, thread_of: Option<u8> },
    Cancel(u8),
    Adopt { at: u8, thread_of: Option<u8> },
    Next(u8, bool),
    Freeze(u8, bool),
    Stop(u8),
    Resume(u8, bool),
    Kill(u8),
    Bind(bool),
    Pump,
}

fn op() -> impl Strategy<Value = Op> {
    let n = any::<u8>;
    let rarely = || prop::bool::weighted(0.1);
    let maybe = || prop_oneof![1 => Just(None), 1 => any::<u8>().prop_map(Some)];
    prop_oneof![
        6 => (n(), n()).prop_map(|(at, name)| Op::Create(at, name)),
        5 => n().prop_map(Op::Remove),
        12 => (n(), 0..16u8, 0..16u8, rarely())
            .prop_map(|(at, on, off, refuse)| Op::Control { at, on, off, refuse }),
        4 => n().prop_map(Op::Threaded),
        14 => (n(), n(), any::<bool>(), rarely())
            .prop_map(|(task, to, thread, refuse)| Op::Attach { task, to, thread, refuse }),
        8 => (n(), maybe()).prop_map(|(at, by)| Op::Place { at, by }),
        8 => (n(), maybe()).prop_map(|(place, thread_of)| Op::Publish { place, thread_of }),
        2 => n().prop_map(Op::Cancel),
        2 => (n(), maybe()).prop_map(|(at, thread_of)| Op::Adopt { at, thread_of }),
        14 => (n(), any::<bool>()).prop_map(|(task, reap)| Op::Next(task, reap)),
        5 => (n(), any::<bool>()).prop_map(|(at, on)| Op::Freeze(at, on)),
        6 => n().prop_map(Op::Stop),
        3 => (n(), any::<bool>()).prop_map(|(task, always)| Op::Resume(task, always)),
        1 => n().prop_map(Op::Kill),
        2 => any::<bool>().prop_map(Op::Bind),
        8 => Just(Op::Pump),
    ]
}

struct Entry {
    task: Arc<Task>,
    /// What it is charged to once it does not move any more, by controller; of
    /// pids, all levels.
    left_with: Option<[Vec<CssId>; ALL]>,
}

struct Whole {
    h: Hierarchy,
    fx: Effects,
    refusals: Refusals,
    /// By controller; `pids` keeps its own.
    charged: [Option<Charged>; ALL],
    cgroups: Vec<Arc<Cgroup>>,
    tasks: Vec<Entry>,
    places: Vec<Fork>,
    /// Born where everybody is to be frozen, and not frozen yet.
    newborn: HashSet<TaskId>,
    perf: bool,
    next: u64,
}

type Check = Result<(), String>;

macro_rules! demand {
    ($cond:expr, $($why:tt)+) => {
        if !$cond {
            return Err(format!($($why)+));
        }
    };
}

fn pick<T>(from: &[T], n: u8) -> Option<&T> {
    (!from.is_empty()).then(|| &from[usize::from(n) % from.len()])
}

fn exiting(task: &Task) -> bool {
    task.stage().contains(Stage::EXITING)
}

impl Whole {
    fn new() -> Self {
        let refusals = Refusals::default();
        let charged: [_; ALL] = std::array::from_fn(|at| (at != 1).then(Arc::default));
        let count = |at: usize, name, needs| Count {
            name,
            threaded: at >= 4 || THREADED[at],
            needs,
            refusals: if at == 3 { refusals.clone() } else { Refusals::default() },
            charged: Arc::clone(charged[at].as_ref().unwrap()),
        };
        let h = Hierarchy::builder()
            .controller(Arc::new(count(0, "cpu", &[])))
            .controller(Arc::new(Pids::new()))
            .controller(Arc::new(count(2, "memory", &[])))
            .controller(Arc::new(count(3, "io", &["memory"])))
            .controller(Arc::new(Everywhere(count(4, "perf", &[]))))
            .build(Time(0));
        let cgroups = vec![h.root().clone()];
        let fx = Effects::at(Time(0));
        Self {
            h,
            fx,
            refusals,
            charged,
            cgroups,
            tasks: vec![],
            places: vec![],
            newborn: HashSet::new(),
            perf: true,
            next: 0,
        }
    }

    fn name(at: usize) -> &'static str {
        NAMES.get(at).unwrap_or(&"perf")
    }

    fn mask(bits: u8) -> SsMask {
        (0..4).filter(|bit| bits & (1 << bit) != 0).collect()
    }

    fn id(&mut self) -> TaskId {
        self.next += 1;
        TaskId(self.next)
    }

    /// The css in force for tasks of a cgroup.
    fn effective(at: &Arc<Cgroup>, controller: usize) -> Arc<Css> {
        let mut at = at;
        loop {
            let own = at.css(Self::name(controller)).filter(|css| !css.is_dying());
            match (own, at.parent()) {
                (Some(css), _) => return css,
                (None, Some(parent)) => at = parent,
                (None, None) => panic!("the root has no css"),
            }
        }
    }

    /// A css and those above it, without the root's.
    fn levels(at: &Arc<Cgroup>, controller: usize) -> Vec<CssId> {
        let up = std::iter::successors(Some(at), |at| at.parent());
        up.filter(|at| at.parent().is_some())
            .filter_map(|at| at.css(Self::name(controller)).filter(|css| !css.is_dying()))
            .map(|css| css.id())
            .collect()
    }

    fn operate(&mut self, op: Op) -> Check {
        let h = self.h.clone();
        match op {
            Op::Create(at, name) if self.cgroups.len() < 14 => {
                let parent = pick(&self.cgroups, at).unwrap().clone();
                let name = ["a", "b", "c"][usize::from(name) % 3];
                self.cgroups.extend(h.create(&parent, name, &mut self.fx));
            }
            Op::Remove(at) => {
                let cgroup = pick(&self.cgroups, at).unwrap().clone();
                let free = cgroup.parent().is_some()
                    && h.threads(&cgroup).is_empty()
                    && h.children(&cgroup).is_empty()
                    && !self.places.iter().any(|it| it.cgroup().unwrap().id() == cgroup.id());
                let removed = h.remove(&cgroup, &mut self.fx);
                demand!(removed.is_ok() == (free || cgroup.is_dead()), "I5: {removed:?}");
            }
            Op::Control { at, on, off, refuse } => {
                let cgroup = pick(&self.cgroups, at).unwrap().clone();
                self.refusals.refuse_online((refuse && on % 2 == 0).then_some(Errno::ENOMEM));
                self.refusals.refuse_attach((refuse && on % 2 == 1).then_some(Errno::ENOMEM));
                let before = self.control();
                let (on, off) = (Self::mask(on), Self::mask(off));
                let written = h.write_subtree_control(&cgroup, on, off, &mut self.fx);
                let now = h.subtree_control(&cgroup);
                match written {
                    Ok(()) => {
                        demand!((on - now).is_empty(), "switched on, but not on");
                        demand!(!now.intersects(off - on), "switched off, but on");
                    }
                    Err(_) => demand!(self.control() == before, "a refusal changed a mask"),
                }
                self.refusals.refuse_online(None);
                self.refusals.refuse_attach(None);
            }
            Op::Threaded(at) => {
                let cgroup = pick(&self.cgroups, at).unwrap().clone();
                if h.make_threaded(&cgroup, &mut self.fx).is_ok() {
                    demand!(h.cgroup_type(&cgroup) == CgroupType::Threaded, "not threaded");
                }
            }
            Op::Attach { task, to, thread, refuse } => {
                let Some(entry) = pick(&self.tasks, task) else { return Ok(()) };
                let (task, to) = (entry.task.clone(), pick(&self.cgroups, to).unwrap().clone());
                self.refusals.refuse_attach(refuse.then_some(Errno::ENOMEM));
                self.attach(&task, &to, if thread { Scope::Thread } else { Scope::Process })?;
                self.refusals.refuse_attach(None);
            }
            Op::Place { at, by } if self.places.len() < 4 => {
                let at = pick(&self.cgroups, at).unwrap().clone();
                let by = by.and_then(|by| pick(&self.tasks, by)).map(|it| it.task.clone());
                let from = match &by {
                    Some(task) => ForkFrom::Task(task),
                    None => ForkFrom::Cgroup(&at),
                };
                self.places.extend(h.fork(from, &mut self.fx));
            }
            Op::Publish { place, thread_of } if !self.places.is_empty() => {
                let at = usize::from(place) % self.places.len();
                let place = self.places.swap_remove(at);
                let sibling = self.sibling(thread_of);
                let how = sibling.as_ref().map_or(Membership::Process, Membership::ThreadOf);
                let id = self.id();
                let task = place.publish(id, how, &mut self.fx);
                self.born(task);
            }
            Op::Cancel(place) if !self.places.is_empty() => {
                let at = usize::from(place) % self.places.len();
                self.places.swap_remove(at).cancel(&mut self.fx);
            }
            Op::Adopt { at, thread_of } => {
                let at = pick(&self.cgroups, at).unwrap().clone();
                let sibling = self.sibling(thread_of);
                let how = sibling.as_ref().map_or(Membership::Process, Membership::ThreadOf);
                let id = self.id();
                if let Ok(task) = h.adopt(&at, id, how, &mut self.fx) {
                    self.born(task);
                }
            }
            Op::Next(task, reap) if !self.tasks.is_empty() => {
                let at = usize::from(task) % self.tasks.len();
                self.next(at, reap);
            }
            Op::Freeze(at, on) => {
                let _ = h.set_freeze(pick(&self.cgroups, at).unwrap(), on, &mut self.fx);
            }
            Op::Stop(task) => {
                if let Some(it) = pick(&self.tasks, task) {
                    h.enter_frozen(&it.task, &mut self.fx);
                    if it.task.stage().contains(Stage::FROZEN) {
                        self.newborn.remove(&it.task.id());
                    }
                }
            }
            Op::Resume(task, always) => {
                if let Some(it) = pick(&self.tasks, task) {
                    h.leave_frozen(&it.task, always, &mut self.fx);
                }
            }
            Op::Kill(at) => {
                let _ = h.kill(pick(&self.cgroups, at).unwrap(), &mut self.fx);
            }
            Op::Bind(on) => {
                let perf = SsMask::of(4);
                let done = match on {
                    true => h.bind(perf, &mut self.fx),
                    false => h.unbind(perf, &mut self.fx),
                };
                if done.is_ok() {
                    self.perf = on;
                }
            }
            Op::Pump => {
                demand!(h.pump(&mut self.fx) == 0, "work waits for readers that are not there");
            }
            _ => {}
        }
        Ok(())
    }

    fn control(&self) -> Vec<SsMask> {
        self.cgroups.iter().map(|at| self.h.subtree_control(at)).collect()
    }

    /// A task whose process can have another thread.
    fn sibling(&self, thread_of: Option<u8>) -> Option<Arc<Task>> {
        let live: Vec<_> = self.tasks.iter().filter(|it| !exiting(&it.task)).collect();
        pick(&live, thread_of?).map(|it| it.task.clone())
    }

    fn born(&mut self, task: Arc<Task>) {
        if task.cgroup().unwrap().freezing() {
            self.newborn.insert(task.id());
        }
        self.tasks.push(Entry { task, left_with: None });
    }

    fn attach(&mut self, task: &Arc<Task>, to: &Arc<Cgroup>, scope: Scope) -> Check {
        let before: Vec<_> = self.tasks.iter().map(|it| it.task.cgroup()).collect();
        let who = || Ok(task.clone());
        let moved = self.h.attach(to, scope, who, &Opener::ROOT, &mut self.fx);
        for (it, before) in self.tasks.iter().zip(before) {
            let meant = match scope {
                Scope::Process => Arc::ptr_eq(it.task.leader(), task.leader()),
                Scope::Thread => Arc::ptr_eq(&it.task, task),
            };
            let (Some(before), Some(now)) = (before, it.task.cgroup()) else { continue };
            let moves = moved.is_ok() && meant && !exiting(&it.task);
            let expected = if moves { to } else { &before };
            demand!(now.id() == expected.id(), "task {} is in {now:?}", it.task.id());
        }
        Ok(())
    }

    fn next(&mut self, at: usize, reap: bool) {
        let task = self.tasks[at].task.clone();
        let stage = task.stage();
        let (h, fx) = (&self.h, &mut self.fx);
        if !stage.contains(Stage::EXITING) {
            let cgroup = task.cgroup().unwrap();
            h.exit(&task, fx).unwrap();
            self.tasks[at].left_with = Some(std::array::from_fn(|controller| match controller {
                1 => Self::levels(&cgroup, 1),
                other => vec![Self::effective(&cgroup, other).id()],
            }));
        } else if !stage.contains(Stage::REAPED) && (reap || stage.contains(Stage::DEAD)) {
            h.reap(&task, fx).unwrap();
        } else if !stage.contains(Stage::DEAD) {
            h.dead(&task, fx).unwrap();
            self.newborn.remove(&task.id());
        } else if !stage.contains(Stage::FREED) {
            h.free(&task, fx).unwrap();
        }
    }

    // The rules.

    fn rules(&self) -> Check {
        for at in &self.cgroups {
            self.masks(at)?;
            self.places_and_types(at)?;
            self.states(at)?;
        }
        self.processes()?;
        self.charges()
    }

    fn live(&self) -> impl Iterator<Item = (&Arc<Task>, Arc<Cgroup>)> {
        let live = self.tasks.iter().filter(|it| !exiting(&it.task));
        live.map(|it| (&it.task, it.task.cgroup().expect("a live task is somewhere")))
    }

    fn masks(&self, at: &Arc<Cgroup>) -> Check {
        let threaded = self.h.cgroup_type(at) == CgroupType::Threaded;
        let own = self.h.controllers(at);
        if let Some(parent) = at.parent() {
            let given = self.h.subtree_control(parent);
            let may = |&ssid: &usize| given.contains(ssid) && (!threaded || THREADED[ssid]);
            let fits = at.is_dead() || own == (0..4).filter(may).collect();
            demand!(fits, "cgroup.controllers of {at:?}: {own:?}");
            for ssid in 0..ALL {
                let css = at.css(Self::name(ssid)).filter(|css| !css.is_dying());
                let shown = own.contains(ssid) || ssid == 4 && self.perf;
                let there = shown || ssid == 2 && own.contains(3);
                let name = Self::name(ssid);
                demand!(css.is_some() == (there && !at.is_dead()), "css {name} of {at:?}");
                let visible = css.is_some_and(|css| css.is_visible());
                demand!(visible == (shown && !at.is_dead()), "files of {name} in {at:?}");
            }
        }
        let on = self.h.subtree_control(at);
        let fits = at.is_dead() || (on - own).is_empty();
        demand!(fits, "{at:?} gives out what it has not: {on:?}");
        Ok(())
    }

    fn places_and_types(&self, at: &Arc<Cgroup>) -> Check {
        let kind = self.h.cgroup_type(at);
        let here = self.live().any(|(_, cgroup)| cgroup.id() == at.id())
            || self.places.iter().any(|it| it.cgroup().unwrap().id() == at.id());
        if here && at.parent().is_some() {
            demand!(!at.is_dead(), "a task in dead {at:?}");
            demand!(kind != CgroupType::DomainInvalid, "a task in invalid {at:?}");
            let on = self.h.subtree_control(at);
            let domain = on.iter().any(|ssid| !THREADED[ssid]);
            demand!(!domain, "an internal process in {at:?}, which gives out {on:?}");
        }
        demand!(self.h.procs(at).is_err() == (kind == CgroupType::Threaded), "procs of {at:?}");
        Ok(())
    }

    fn states(&self, at: &Arc<Cgroup>) -> Check {
        let within = |cgroup: &Arc<Cgroup>| {
            std::iter::successors(Some(cgroup), |it| it.parent()).any(|it| it.id() == at.id())
        };
        let (mut linked, mut listed) = (vec![], 0);
        for it in &self.tasks {
            let Some(cgroup) = it.task.cgroup() else { continue };
            if !it.task.stage().contains(Stage::DEAD) && within(&cgroup) {
                linked.push((&it.task, cgroup.clone()));
                let group = |other: &&Entry| Arc::ptr_eq(other.task.leader(), it.task.leader());
                let lives = self.tasks.iter().filter(group).any(|other| !exiting(&other.task));
                listed += usize::from(cgroup.id() == at.id() && (lives || !exiting(&it.task)));
            }
        }
        demand!(at.populated() != linked.is_empty(), "populated of {at:?}");
        demand!(self.h.threads(at).len() == listed, "cgroup.threads of {at:?}");
        if at.is_dead() {
            return Ok(());
        }
        let below: Vec<_> = self.cgroups.iter().filter(|it| !it.is_dead() && within(it)).collect();
        let stat = self.h.stat(at);
        demand!(stat.nr_descendants == below.len() - 1, "nr_descendants of {at:?}");
        // A task on its way out of a dead cgroup does not count for the freezer.
        let mut counted = linked.iter().filter(|(_, cgroup)| !cgroup.is_dead());
        let all = at.freezing() && counted.all(|(task, _)| task.stage().contains(Stage::FROZEN));
        let newborn = linked.iter().any(|(task, _)| self.newborn.contains(&task.id()));
        demand!(!all || at.frozen(), "{at:?} waits for nobody and is not frozen");
        demand!(all || newborn || !at.frozen(), "{at:?} is frozen, but tasks are not");
        Ok(())
    }

    fn processes(&self) -> Check {
        let domain = |at: &Arc<Cgroup>| {
            let mut up = std::iter::successors(Some(at), |it| it.parent());
            up.find(|it| self.h.cgroup_type(it) != CgroupType::Threaded).unwrap().id()
        };
        let mut seen = HashMap::new();
        for (task, cgroup) in self.live() {
            let here = domain(&cgroup);
            let first = *seen.entry(task.leader().id()).or_insert(here);
            demand!(first == here, "process {} is in two domains", task.leader().id());
        }
        Ok(())
    }

    fn charges(&self) -> Check {
        let mut expected: [HashMap<CssId, i64>; ALL] = Default::default();
        let mut charge = |at: &Arc<Cgroup>| {
            for (controller, expected) in expected.iter_mut().enumerate() {
                let levels = match controller {
                    1 => Self::levels(at, 1),
                    other => vec![Self::effective(at, other).id()],
                };
                levels.into_iter().for_each(|css| *expected.entry(css).or_default() += 1);
            }
        };
        self.live().for_each(|(_, cgroup)| charge(&cgroup));
        self.places.iter().for_each(|it| charge(it.cgroup().unwrap()));
        for it in &self.tasks {
            let Some(left_with) = &it.left_with else { continue };
            if it.task.stage().contains(Stage::REAPED) {
                continue;
            }
            for (controller, csses) in left_with.iter().enumerate() {
                csses.iter().for_each(|css| *expected[controller].entry(*css).or_default() += 1);
            }
        }
        for (controller, expected) in expected.iter().enumerate() {
            let name = Self::name(controller);
            let Some(charged) = &self.charged[controller] else { continue };
            for (css, count) in &*charged.lock().unwrap() {
                let want = expected.get(css).copied().unwrap_or(0);
                demand!(*count == want, "{name}: css {css} has {count} tasks, and not {want}");
            }
        }
        for at in &self.cgroups {
            let Some(css) = at.css("pids") else { continue };
            let Some(pids) = Pids::css(at) else { continue };
            let want = expected[1].get(&css.id()).copied().unwrap_or(0);
            let count = pids.current();
            demand!(count as i64 == want, "pids.current of {at:?} is {count}, and not {want}");
        }
        Ok(())
    }

    /// Takes everything apart.
    fn finish(mut self) -> Check {
        while let Some(place) = self.places.pop() {
            drop(place);
        }
        for at in 0..self.tasks.len() {
            while !self.tasks[at].task.stage().contains(Stage::FREED) {
                self.next(at, at % 2 == 0);
            }
        }
        self.h.pump(&mut self.fx);
        self.rules()?;
        for cgroup in self.cgroups.iter().skip(1).rev() {
            demand!(self.h.remove(cgroup, &mut self.fx).is_ok(), "I5: {cgroup:?} is empty");
        }
        demand!(self.h.pump(&mut self.fx) == 0, "work is left");
        let stat = self.h.stat(self.h.root());
        demand!((stat.nr_descendants, stat.nr_dying_descendants) == (0, 0), "left: {stat:?}");
        demand!(stat.subsys.iter().all(|it| it.dying == 0 && it.live == 1), "left: {stat:?}");
        let weak: Vec<_> = self.cgroups.iter().skip(1).map(Arc::downgrade).collect();
        drop(self);
        demand!(weak.iter().all(|it| it.upgrade().is_none()), "a freed cgroup is in memory");
        Ok(())
    }
}

fn run(ops: &[Op]) -> Check {
    let mut whole = Whole::new();
    for (number, &op) in ops.iter().enumerate() {
        let done = whole.operate(op).and_then(|()| whole.rules());
        whole.fx.drain().for_each(drop);
        done.map_err(|why| format!("step {number}, {op:?}: {why}"))?;
    }
    whole.finish().map_err(|why| format!("at the end: {why}"))
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

#[test]
fn the_rules_hold_whatever_came_before() {
    let seed = number("CGROVE_SEED").unwrap_or(0x0c62_0fe5);
    let cases = number("CGROVE_CASES").unwrap_or(1_500) as u32;
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
    let found = TestRunner::new_with_rng(config, rng)
        .run(&vec(op(), 1..=60), |ops| run(&ops).map_err(TestCaseError::fail));
    if let Err(TestError::Fail(why, ops)) = found {
        panic!("{why}\nreplay with CGROVE_SEED={seed} CGROVE_CASES={cases}\n{ops:#?}");
    }
    assert!(found.is_ok(), "no sequence was found to try");
}
