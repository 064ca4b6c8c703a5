//! Sequences from a seed: cases that nobody thought of.
//!
//! A step drawn blindly is mostly refused, so the core plays along and the next step is drawn from
//! what there is: cgroups that live, tasks that can be moved, processes to reap. A sequence depends on
//! the seed, its number and the core, never on what a kernel says.
//!
//! What Linux leaves to chance is not asked for: numbers that differ from run to run, what is late by
//! a grace period, anything that needs a race. Nor what is known to differ ([`taints`]).

use cgrove_core::{Cgroup, Hierarchy};
use fastrand::Rng;
use std::sync::Arc;

use super::values;
use crate::case::{
    Access, Act, Case, Options, Outcome, Piece, Place, Signal, Step, Target, Text, Via,
};
use crate::model::target::CoreTarget;
use crate::model::world::Life;

/// Names of cgroups. Few, so that sequences meet again what they have made.
const CGROUPS: [&str; 3] = ["a", "b", "c"];
/// Names of tasks.
const TASKS: [&str; 6] = ["p", "q", "r", "s", "t", "u"];
/// The task that writes what may sleep.
const WRITER: &str = "w";
/// How deep trees get.
const DEPTH: usize = 3;
/// The user of delegation.
const USER: u32 = 1000;

/// What a sequence is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theme {
    Tree,
    Control,
    Threaded,
    Migrate,
    Teardown,
    Freezer,
    Limits,
    Delegation,
    Everything,
}

const THEMES: [Theme; 9] = [
    Theme::Tree,
    Theme::Control,
    Theme::Threaded,
    Theme::Migrate,
    Theme::Teardown,
    Theme::Freezer,
    Theme::Limits,
    Theme::Delegation,
    Theme::Everything,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Mkdir,
    Rmdir,
    Control,
    Type,
    Procs,
    Threads,
    MoveSelf,
    Spawn,
    Thread,
    Exec,
    Exit,
    ExitThread,
    FinishExit,
    Kill,
    StopCont,
    Reap,
    Freeze,
    KillFile,
    Limit,
    TreeLimit,
    Junk,
    Read,
    List,
    Look,
    Own,
    AsUser,
    Unshare,
    Handle,
    Drain,
}

impl Theme {
    /// How often each deed is drawn.
    fn weights(self) -> Vec<(Deed, u32)> {
        use Deed::*;
        let mut weights = vec![
            (Mkdir, 8),
            (Rmdir, 4),
            (Control, 4),
            (Spawn, 4),
            (Exit, 2),
            (Reap, 2),
            (Procs, 2),
            (Read, 5),
            (List, 1),
            (Look, 2),
            (Junk, 1),
        ];
        weights.extend(match self {
            Self::Tree => vec![(Mkdir, 8), (Rmdir, 8), (TreeLimit, 6), (List, 2), (Handle, 3)],
            Self::Control => vec![(Control, 14), (Mkdir, 4), (Limit, 2), (Procs, 2), (Type, 1)],
            Self::Threaded => vec![
                (Type, 8),
                (Threads, 6),
                (Thread, 6),
                (Control, 4),
                (ExitThread, 2),
                (MoveSelf, 2),
                (Exec, 3),
                (KillFile, 1),
            ],
            Self::Migrate => {
                vec![(Procs, 8), (Spawn, 4), (MoveSelf, 4), (Thread, 2), (Control, 4), (Limit, 2)]
            }
            Self::Teardown => vec![
                (Spawn, 6),
                (Exit, 5),
                (FinishExit, 4),
                (Rmdir, 5),
                (Control, 6),
                (Kill, 3),
                (Reap, 2),
                (ExitThread, 1),
                (Thread, 2),
                (Drain, 16),
            ],
            Self::Freezer => vec![
                (Freeze, 12),
                (Spawn, 3),
                (Procs, 4),
                (Kill, 2),
                (StopCont, 3),
                (KillFile, 2),
                (Thread, 2),
                (FinishExit, 1),
            ],
            Self::Limits => vec![(Limit, 30), (Control, 8), (Mkdir, 4), (Junk, 8)],
            Self::Delegation => vec![
                (Own, 10),
                (AsUser, 14),
                (Unshare, 2),
                (Procs, 4),
                (Control, 3),
                (Handle, 3),
                (MoveSelf, 2),
            ],
            Self::Everything => vec![
                (Type, 3),
                (Threads, 2),
                (Thread, 3),
                (MoveSelf, 2),
                (ExitThread, 1),
                (FinishExit, 2),
                (Kill, 2),
                (StopCont, 1),
                (Freeze, 4),
                (KillFile, 2),
                (Limit, 4),
                (TreeLimit, 2),
                (Junk, 2),
                (Own, 1),
                (AsUser, 2),
                (Handle, 2),
                (Exec, 2),
            ],
        });
        weights
    }

    /// Whether there are tasks. Without them every limit can be tried.
    fn has_tasks(self) -> bool {
        self != Self::Limits
    }
}

struct Generator {
    rng: Rng,
    target: CoreTarget,
    theme: Theme,
    steps: Vec<Step>,
    /// Cgroups that were removed.
    removed: Vec<String>,
    /// Some exit may be held half-way, so whatever may sleep is done by the writer.
    held: bool,
    handles: usize,
    nsdelegate: bool,
}

/// The sequence of this number.
#[must_use]
pub fn sequence(seed: u64, number: u64) -> Case {
    // Far apart, so that neighbouring numbers have nothing in common.
    let mixed =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mut rng = Rng::with_seed(mixed);
    let theme = THEMES[rng.usize(..THEMES.len())];
    let nsdelegate = theme == Theme::Delegation && rng.u32(..3) == 0;
    let mount = if nsdelegate { vec!["nsdelegate".to_owned()] } else { Vec::new() };
    let mut case = Case {
        name: format!("random-{seed}-{number}"),
        options: Options { smp: false, mount },
        ..Case::default()
    };
    let mut target = CoreTarget::default();
    if target.begin_case(&case).is_err() {
        return case;
    }
    let mut generator = Generator {
        rng,
        target,
        theme,
        steps: Vec::new(),
        removed: Vec::new(),
        held: false,
        handles: 0,
        nsdelegate,
    };
    generator.run();
    case.steps = generator.steps;
    case
}

/// Whether a step, done now, leads to where Linux is known to be wrong, or cgrove to differ on
/// purpose; the reasons are in `docs/CONFORMANCE.md`.
#[must_use]
pub fn taints(target: &CoreTarget, step: &Step) -> bool {
    let root = target.tree().hierarchy().root();
    match &step.act {
        // frozen-counter: a cgroup that is to be frozen is removed under a hidden task.
        Act::Rmdir { path, .. } => find(root, target.tree().hierarchy(), path)
            .is_some_and(|cgroup| cgroup.freezing() && cgroup.populated()),
        Act::Write { file, .. } if is(file, "cgroup.kill") => any_dead_leader(target),
        Act::Write { path, file, .. } | Act::Read { path, file, .. }
            if is(file, "cgroup.events") =>
        {
            // frozen-early: read as frozen while one below is not.
            let hierarchy = target.tree().hierarchy();
            find(root, hierarchy, path).is_some_and(|cgroup| {
                cgroup.freezing() && below(hierarchy, &cgroup).iter().any(|it| !it.frozen())
            })
        }
        _ => false,
    }
}

fn is(file: &Text, name: &str) -> bool {
    file.known().as_deref() == Some(name.as_bytes())
}

/// kill-dead-leader: a process whose leader is dead and which lives on in a thread.
fn any_dead_leader(target: &CoreTarget) -> bool {
    let world = target.world();
    world.threads().any(|(tid, thread)| {
        tid == thread.pid && thread.life == Life::Dead && !world.is_over(thread.pid)
    })
}

fn find(root: &Arc<Cgroup>, hierarchy: &Hierarchy, path: &Text) -> Option<Arc<Cgroup>> {
    let path = String::from_utf8(path.known()?).ok()?;
    let mut at = Arc::clone(root);
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        at = hierarchy.child(&at, name)?;
    }
    Some(at)
}

fn below(hierarchy: &Hierarchy, cgroup: &Arc<Cgroup>) -> Vec<Arc<Cgroup>> {
    let mut all = hierarchy.children(cgroup);
    let mut next = 0;
    while let Some(at) = all.get(next).cloned() {
        all.extend(hierarchy.children(&at));
        next += 1;
    }
    all
}

fn step(act: Act) -> Step {
    Step { by: None, uid: None, act }
}

fn write(path: &str, file: &str, text: impl Into<Text>) -> Act {
    Act::Write { path: Text::plain(path), file: Text::plain(file), text: text.into() }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::plain(text)
    }
}

impl Generator {
    fn run(&mut self) {
        let length = 10 + self.rng.usize(..11);
        let weights = self.theme.weights();
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        // Something to begin with.
        let first = 1 + self.rng.usize(..2);
        for _ in 0..first {
            self.mkdir();
        }
        if self.theme == Theme::Teardown || self.rng.u32(..3) > 0 {
            let names = self.controllers();
            self.control(".", &names);
        }
        let mut tries = 0;
        while self.steps.len() < length && tries < 4 * length {
            tries += 1;
            let mut draw = self.rng.u32(..total);
            let deed = weights.iter().find(|(_, weight)| {
                let hit = draw < *weight;
                draw = draw.wrapping_sub(*weight);
                hit
            });
            if let Some((deed, _)) = deed {
                self.deed(*deed);
            }
        }
        self.audit();
    }

    /// Does a step on the core and keeps it, unless it is one not to ask.
    fn emit(&mut self, step: Step) -> Option<Outcome> {
        if taints(&self.target, &step) {
            return None;
        }
        let outcome = self.target.step(&step);
        self.steps.push(step);
        Some(outcome)
    }

    fn hierarchy(&self) -> &Hierarchy {
        self.target.tree().hierarchy()
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(..one_in) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.rng.usize(..from.len())]) }
    }

    /// The paths of all cgroups, the root's first.
    fn cgroups(&self) -> Vec<String> {
        let mut paths: Vec<String> = below(self.hierarchy(), self.hierarchy().root())
            .iter()
            .map(|cgroup| cgroup.path().trim_start_matches('/').to_owned())
            .collect();
        paths.sort();
        paths.insert(0, ".".to_owned());
        paths
    }

    /// A cgroup, now and then one that is not there.
    fn cgroup(&mut self) -> String {
        if self.chance(30) {
            let removed = self.removed.clone();
            if let Some(path) = self.pick(&removed) {
                return path.clone();
            }
        }
        let all = self.cgroups();
        // The root is one of many, and less often meant.
        if all.len() > 1 && !self.chance(6) {
            return all[1 + self.rng.usize(..all.len() - 1)].clone();
        }
        ".".to_owned()
    }

    fn below_root(&mut self) -> Option<String> {
        let all = self.cgroups();
        self.pick(&all[1..]).cloned()
    }

    /// Tasks of the case, but the writer, of which something holds.
    fn tasks(&self, good: impl Fn(&CoreTarget, &str, u32) -> bool) -> Vec<String> {
        self.target
            .task_names()
            .filter(|(name, tid)| *name != WRITER && good(&self.target, name, *tid))
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    fn task(&mut self, good: impl Fn(&CoreTarget, &str, u32) -> bool) -> Option<String> {
        let tasks = self.tasks(good);
        self.pick(&tasks).cloned()
    }

    /// One that does what it is asked; now and then one that cannot.
    fn actor(&mut self) -> Option<String> {
        let rarely = self.chance(40);
        self.task(move |target, name, tid| {
            let live = target.world().thread(tid).is_some_and(|it| it.life == Life::Live);
            live && !target.is_holdable(name)
                && !target.owes(name)
                && (rarely || target.world().runs(tid))
        })
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Mkdir => self.mkdir(),
            Deed::Rmdir => self.rmdir(),
            Deed::Control => {
                let path = self.cgroup();
                let tokens = self.tokens();
                self.control(&path, &tokens);
            }
            Deed::Type => {
                let path = self.cgroup();
                let text = if self.chance(12) { "domain" } else { "threaded" };
                self.sleeping_write(write(&path, "cgroup.type", text));
            }
            Deed::Procs => self.migrate("cgroup.procs"),
            Deed::Threads => self.migrate("cgroup.threads"),
            Deed::MoveSelf => {
                if let Some(task) = self.actor() {
                    let path = self.cgroup();
                    let file = if self.rng.bool() { "cgroup.procs" } else { "cgroup.threads" };
                    let act = write(&path, file, "0");
                    self.emit(Step { by: Some(task), uid: None, act });
                }
            }
            Deed::Spawn => self.spawn(),
            Deed::Thread => self.thread(),
            Deed::Exec => {
                let thread = self.task(|target, name, tid| {
                    target.world().runs(tid)
                        && !target.owes(name)
                        && target.world().thread(tid).is_some_and(|it| it.pid != tid)
                        && target.all_quiet(name)
                });
                if let Some(task) = thread {
                    self.emit(step(Act::Exec { task }));
                }
            }
            Deed::Exit => {
                let task = self.actor_or_holdable();
                if let Some(task) = task {
                    self.emit(step(Act::Exit { task }));
                }
            }
            Deed::ExitThread => {
                let task = self.actor();
                if let Some(task) = task {
                    self.emit(step(Act::ExitThread { task }));
                }
            }
            Deed::FinishExit => {
                let parked = self.task(|target, name, tid| {
                    target.is_holdable(name) && target.world().is_parked(tid)
                });
                if let Some(task) = parked {
                    self.emit(step(Act::FinishExit { task }));
                    self.collect_answer();
                }
            }
            Deed::Kill => {
                let task = self.task(|target, _, tid| {
                    target.world().thread(tid).is_some_and(|it| it.life == Life::Live)
                });
                if let Some(task) = task {
                    let kill = !self.chance(4);
                    let signal = if kill { Signal::Kill } else { Signal::Term };
                    // Whoever ignores or cannot take it makes the kernel wait in vain.
                    let quick =
                        kill || self.target.answers(&task) && !self.target.is_holdable(&task);
                    if quick {
                        self.emit(step(Act::Kill { task, signal, nowait: false }));
                    }
                }
            }
            Deed::StopCont => self.stop_or_continue(),
            Deed::Reap => self.reap(),
            Deed::Freeze => {
                let path = self.cgroup();
                let value = self.rng.u32(..40);
                let text = match value {
                    0 => "2",
                    1 => "x",
                    2 => "-1",
                    3..20 => "0",
                    _ => "1",
                };
                self.emit(step(write(&path, "cgroup.freeze", text)));
            }
            Deed::KillFile => {
                let path = self.cgroup();
                let text = if self.chance(10) { "0" } else { "1" };
                let leads = |target: &CoreTarget, _: &str, tid: u32| {
                    target.world().thread(tid).is_some_and(|it| it.pid == tid)
                        && !target.world().is_over(tid)
                };
                let before = self.tasks(leads);
                self.emit(step(write(&path, "cgroup.kill", text)));
                let after = self.tasks(leads);
                // A write does not wait for those it kills; whoever looks next must.
                for task in before.into_iter().filter(|task| !after.contains(task)) {
                    self.emit(step(Act::Await { task }));
                }
            }
            Deed::Limit => {
                let path = self.cgroup();
                let (file, text) = values::limit(&mut self.rng, self.theme.has_tasks());
                self.emit(step(write(&path, file, text.as_str())));
                if self.rng.bool() {
                    self.read(&path, file);
                }
            }
            Deed::TreeLimit => {
                let path = self.cgroup();
                let file =
                    if self.rng.bool() { "cgroup.max.depth" } else { "cgroup.max.descendants" };
                let text = values::small(&mut self.rng);
                self.emit(step(write(&path, file, text.as_str())));
            }
            Deed::Junk => {
                let path = self.cgroup();
                let files = self.target.file_names();
                let Some(file) = self.pick(&files).cloned() else { return };
                let text = values::junk(&mut self.rng);
                if values::is_harmless(&file, &text, self.theme.has_tasks()) {
                    let act = write(&path, &file, Text::plain(text));
                    self.sleeping_write(act);
                }
            }
            Deed::Read => {
                let path = self.cgroup();
                let file = self.file_of(&path);
                self.read(&path, &file);
            }
            Deed::List => {
                let path = self.cgroup();
                self.emit(step(Act::List { path: Text::plain(path), prefix: None }));
            }
            Deed::Look => self.look(),
            Deed::Own => self.own(),
            Deed::AsUser => self.as_user(),
            Deed::Unshare => {
                if self.nsdelegate
                    && let Some(task) = self.actor()
                {
                    self.emit(step(Act::Unshare { task }));
                }
            }
            Deed::Handle => self.handle(),
            Deed::Drain => self.drain(),
        }
    }

    fn mkdir(&mut self) {
        let parent = self.cgroup();
        if parent.matches('/').count() + 1 >= DEPTH {
            return;
        }
        let name = match self.rng.u32(..60) {
            0 => "x\ny".to_owned(),
            1 => "cgroup.procs".to_owned(),
            2 => "..".to_owned(),
            3 => ".".to_owned(),
            4 if self.theme == Theme::Tree => "pids.max".to_owned(),
            _ => CGROUPS[self.rng.usize(..CGROUPS.len())].to_owned(),
        };
        let path = if parent == "." { name } else { format!("{parent}/{name}") };
        self.emit(step(Act::Mkdir { path: Text::plain(path) }));
    }

    fn rmdir(&mut self) {
        let Some(path) = self.below_root() else { return };
        let act = Act::Rmdir { path: Text::plain(path.as_str()), retry: false };
        if self.emit(step(act)) == Some(Outcome::Done) {
            self.removed.push(path);
        }
    }

    fn controllers(&mut self) -> String {
        let mut words = Vec::new();
        for _ in 0..1 + self.rng.usize(..3) {
            words.push(format!("+{}", self.controller()));
        }
        words.join(" ")
    }

    fn controller(&mut self) -> &'static str {
        const NAMES: [&str; 12] = [
            "pids", "pids", "pids", "memory", "memory", "cpu", "cpu", "cpuset", "io", "hugetlb",
            "misc", "rdma",
        ];
        NAMES[self.rng.usize(..NAMES.len())]
    }

    fn tokens(&mut self) -> String {
        if self.chance(25) {
            return ["", " ", "pids", "+", "+nothing", "+perf_event", "+pids,-cpu", "+pids\n+cpu"]
                [self.rng.usize(..8)]
            .to_owned();
        }
        let mut words = Vec::new();
        for _ in 0..1 + self.rng.usize(..3) {
            let sign = if self.rng.u32(..5) < 3 { '+' } else { '-' };
            words.push(format!("{sign}{}", self.controller()));
        }
        words.join(" ")
    }

    fn control(&mut self, path: &str, tokens: &str) {
        self.sleeping_write(write(path, "cgroup.subtree_control", tokens));
    }

    /// A write that may sleep: by the writer if anybody's exit may be held.
    fn sleeping_write(&mut self, act: Act) {
        let may_sleep = matches!(&act, Act::Write { file, .. }
            if is(file, "cgroup.subtree_control") || is(file, "cgroup.type"));
        if !may_sleep || !self.held {
            self.emit(step(act));
            return;
        }
        if !self.target.task_names().any(|(name, _)| name == WRITER) {
            self.emit(step(Act::Spawn {
                task: WRITER.into(),
                place: None,
                via: Via::Clone,
                holdable: false,
            }));
        }
        self.collect_answer();
        if !self.target.owes(WRITER) {
            self.emit(Step { by: Some(WRITER.into()), uid: None, act });
        }
    }

    /// Takes the writer's late answer once there is one.
    fn collect_answer(&mut self) {
        if self.target.answer_is_ready(WRITER) {
            self.emit(step(Act::Answer { task: WRITER.into() }));
        }
    }

    /// Switches off what a hidden task holds, and writes once more above it, which sleeps.
    fn drain(&mut self) {
        let world = self.target.world();
        let parked = world.threads().filter(|(_, thread)| thread.life == Life::Parked);
        let above: Vec<Arc<Cgroup>> = parked
            .filter_map(|(_, thread)| thread.task.cgroup())
            .filter(|at| !at.is_dead())
            .filter_map(|at| at.parent().cloned())
            .filter(|above| !self.hierarchy().subtree_control(above).is_empty())
            .collect();
        let Some(above) = self.pick(&above).cloned() else { return };
        let path = match above.path().trim_start_matches('/') {
            "" => ".".to_owned(),
            path => path.to_owned(),
        };
        let on = self.hierarchy().subtree_control(&above);
        let on: Vec<&'static str> = self.hierarchy().names(on).collect();
        let Some(name) = self.pick(&on).copied() else { return };
        self.control(&path, &format!("-{name}"));
        let name = if self.rng.bool() { name } else { self.controller() };
        self.control(&path, &format!("+{name}"));
    }

    fn migrate(&mut self, file: &str) {
        let task = self.task(|_, _, _| true);
        let path = self.cgroup();
        let text = match task {
            Some(task) if !self.chance(25) => Text(vec![Piece::Task(task)]),
            _ => {
                const ODD: [&str; 7] = ["x", "-1", "4194304", "2", "", "1 1", "99999999999"];
                Text::plain(ODD[self.rng.usize(..ODD.len())])
            }
        };
        self.emit(step(Act::Write { path: Text::plain(path), file: Text::plain(file), text }));
    }

    fn free_name(&mut self) -> Option<String> {
        let used: Vec<String> = self.target.task_names().map(|(name, _)| name.to_owned()).collect();
        let free: Vec<&str> =
            TASKS.into_iter().filter(|name| !used.iter().any(|it| it == name)).collect();
        self.pick(&free).map(|name| (*name).to_owned())
    }

    fn spawn(&mut self) {
        if !self.theme.has_tasks() {
            return;
        }
        let Some(task) = self.free_name() else { return };
        let below = if self.chance(8) { None } else { self.below_root() };
        let path = below.unwrap_or_else(|| self.cgroup());
        let place = Some(Place::Path(Text::plain(path)));
        let hold_one_in = match self.theme {
            Theme::Teardown => 2,
            Theme::Freezer => 8,
            Theme::Delegation => 1000,
            _ => 12,
        };
        let holdable = self.chance(hold_one_in);
        let maker = if !holdable && self.chance(4) { self.actor() } else { None };
        let act = match &maker {
            Some(_) => {
                let place = if self.rng.bool() { place } else { None };
                Act::Spawn { task, place, via: Via::Clone, holdable: false }
            }
            None => {
                let via = if !holdable && self.chance(4) { Via::Procs } else { Via::Clone };
                Act::Spawn { task, place, via, holdable }
            }
        };
        self.held |= holdable;
        self.emit(Step { by: maker, uid: None, act });
    }

    fn thread(&mut self) {
        let Some(task) = self.free_name() else { return };
        if let Some(of) = self.actor().filter(|_| self.theme.has_tasks()) {
            self.emit(step(Act::Thread { task, of }));
        }
    }

    fn actor_or_holdable(&mut self) -> Option<String> {
        self.task(|target, name, tid| target.world().runs(tid) && !target.owes(name))
    }

    fn stop_or_continue(&mut self) {
        let stopped = self.task(|target, _, tid| {
            let world = target.world();
            world.thread(tid).is_some_and(|it| it.life == Life::Live && world.is_stopped(it.pid))
        });
        if let Some(task) = stopped {
            self.emit(step(Act::Kill { task, signal: Signal::Cont, nowait: false }));
        } else if let Some(task) = self.task(|target, _, tid| target.world().runs(tid)) {
            self.emit(step(Act::Kill { task, signal: Signal::Stop, nowait: false }));
        }
    }

    fn reap(&mut self) {
        let rarely = self.chance(10);
        let task = self.task(move |target, name, tid| {
            let world = target.world();
            let leads = world.thread(tid).is_some_and(|it| it.pid == tid);
            leads && (rarely || world.is_over(tid)) && target.parent_answers(name)
        });
        if let Some(task) = task {
            self.emit(step(Act::Reap { task }));
        }
    }

    /// A file that the cgroup has, most of the time.
    fn file_of(&mut self, path: &str) -> String {
        let files = if self.chance(12) {
            self.target.file_names()
        } else {
            let all = self.target.file_names();
            let there = self.target.files_of(path);
            all.into_iter().filter(|file| there.contains(file)).collect()
        };
        self.pick(&files).cloned().unwrap_or_else(|| "cgroup.procs".to_owned())
    }

    fn read(&mut self, path: &str, file: &str) {
        let keys = match file {
            // The others settle late.
            "cgroup.stat" => vec![Text::plain("nr_descendants")],
            _ if !values::can_be_compared(file) => return,
            _ => Vec::new(),
        };
        self.emit(step(Act::Read { path: Text::plain(path), file: Text::plain(file), keys }));
    }

    fn look(&mut self) {
        let Some(task) = self.task(|_, _, _| true) else { return };
        let act = match self.rng.u32(..6) {
            0..3 => Act::Cgroup { task },
            3 | 4 => Act::State { task },
            _ => {
                // Waited for in vain if it cannot: seldom.
                let rarely = self.chance(8);
                let runs = self.target.answers(&task);
                if !runs && !rarely {
                    return;
                }
                Act::Responds { task }
            }
        };
        self.emit(step(act));
    }

    fn own(&mut self) {
        let Some(path) = self.below_root() else { return };
        const FILES: [&str; 4] =
            ["cgroup.procs", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
        let uid = if self.chance(6) { 0 } else { USER };
        let file = match self.rng.u32(..5) {
            0 | 1 => None,
            _ => Some(Text::plain(FILES[self.rng.usize(..FILES.len())])),
        };
        let path = Text::plain(path);
        let act = if self.chance(8) {
            const MODES: [u32; 5] = [0o700, 0o755, 0o777, 0o666, 0o400];
            let mode = MODES[self.rng.usize(..MODES.len())];
            Act::Chmod { path, file, mode }
        } else {
            Act::Chown { path, file, uid }
        };
        self.emit(step(act));
    }

    fn as_user(&mut self) {
        let path = self.cgroup();
        let by = if self.chance(3) { self.actor() } else { None };
        let act = match self.rng.u32(..9) {
            0 | 1 => {
                let name = CGROUPS[self.rng.usize(..CGROUPS.len())];
                let path = if path == "." { name.to_owned() } else { format!("{path}/{name}") };
                if path.matches('/').count() >= DEPTH {
                    return;
                }
                Act::Mkdir { path: Text::plain(path) }
            }
            2 => Act::Rmdir { path: Text::plain(path), retry: false },
            3 if !self.held => {
                let tokens = self.tokens();
                write(&path, "cgroup.subtree_control", tokens.as_str())
            }
            4 => write(&path, "pids.max", "10"),
            5 => {
                let file = self.file_of(&path);
                if !values::can_be_compared(&file) || file == "cgroup.stat" {
                    return;
                }
                Act::Read { path: Text::plain(path), file: Text::plain(file), keys: Vec::new() }
            }
            6 => write(&path, "cgroup.freeze", if self.rng.bool() { "1" } else { "0" }),
            _ => {
                let Some(task) = self.task(|_, _, _| true) else { return };
                let text = Text(vec![Piece::Task(task)]);
                let file = if self.chance(4) { "cgroup.threads" } else { "cgroup.procs" };
                Act::Write { path: Text::plain(path), file: Text::plain(file), text }
            }
        };
        let uid = if self.chance(5) { None } else { Some(USER) };
        self.emit(Step { by, uid, act });
    }

    fn handle(&mut self) {
        if self.handles > 0 && !self.chance(3) {
            let handle = format!("h{}", self.rng.usize(..self.handles));
            let act = match self.rng.u32(..6) {
                0 => Act::Close { handle },
                1 => Act::Seek { handle, offset: 0 },
                2 if self.rng.bool() => {
                    Act::WriteHandle { handle, text: Text::plain(values::small(&mut self.rng)) }
                }
                _ => Act::ReadHandle { handle },
            };
            self.emit(step(act));
            return;
        }
        let path = self.cgroup();
        // Files of which neither a read nor a small number does harm.
        const FILES: [&str; 5] =
            ["cgroup.procs", "cgroup.max.depth", "cgroup.type", "pids.max", "cgroup.controllers"];
        let file = FILES[self.rng.usize(..FILES.len())];
        let access = [Access::Read, Access::Both, Access::Write][self.rng.usize(..3)];
        // A number is a process there.
        let access = if file == "cgroup.procs" { Access::Read } else { access };
        let handle = format!("h{}", self.handles);
        self.handles += 1;
        self.emit(step(Act::Open {
            path: Text::plain(path),
            file: Text::plain(file),
            access,
            handle,
        }));
    }

    /// Looks at what has come of it all.
    fn audit(&mut self) {
        const FILES: [&str; 9] = [
            "cgroup.type",
            "cgroup.controllers",
            "cgroup.subtree_control",
            "cgroup.events",
            "cgroup.threads",
            "cgroup.procs",
            "pids.current",
            "pids.events",
            "cgroup.stat",
        ];
        for _ in 0..6 {
            let path = self.cgroup();
            let file = FILES[self.rng.usize(..FILES.len())];
            self.read(&path, file);
        }
        let tasks = self.tasks(|_, _, _| true);
        if let Some(task) = self.pick(&tasks).cloned() {
            self.emit(step(Act::Cgroup { task }));
        }
        if self.chance(16) {
            self.count_the_dying();
        }
    }

    /// What settles late is waited for, to be what it is here. Memory keeps what it is charged to.
    fn count_the_dying(&mut self) {
        let mentions = |step: &Step| {
            let text = step.to_string();
            ["memory", "io"].iter().any(|name| text.contains(&format!("+{name}")))
        };
        if self.steps.iter().any(mentions) {
            return;
        }
        let path = self.cgroup();
        let key =
            ["nr_dying_descendants", "nr_dying_subsys_pids", "nr_subsys_pids"][self.rng.usize(..3)];
        if let Some(value) = self.target.stat_of(&path, key) {
            self.emit(step(Act::WaitFor {
                path: Text::plain(path),
                file: Text::plain("cgroup.stat"),
                key: Some(Text::plain(key)),
                value: Text::plain(value),
            }));
        }
    }
}
