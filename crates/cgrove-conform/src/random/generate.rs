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

use super::bounds::{below, find, taints};
use super::themes::{Deed, THEMES, Theme};
use super::values;
use crate::case::{Act, Case, Options, Outcome, Signal, Step, Target, Text};
use crate::model::target::CoreTarget;
use crate::model::world::Life;

/// Names of cgroups. Few, so that sequences meet again what they have made.
pub(super) const CGROUPS: [&str; 3] = ["a", "b", "c"];
/// Names of tasks.
pub(super) const TASKS: [&str; 6] = ["p", "q", "r", "s", "t", "u"];
/// The task that writes what may sleep.
pub(super) const WRITER: &str = "w";
/// How deep trees get.
pub(super) const DEPTH: usize = 3;
/// The user of delegation.
pub(super) const USER: u32 = 1000;

/// Draws one sequence.
pub(super) struct Generator {
    pub(super) rng: Rng,
    pub(super) target: CoreTarget,
    pub(super) theme: Theme,
    pub(super) steps: Vec<Step>,
    /// Cgroups that were removed.
    pub(super) removed: Vec<String>,
    /// Cgroups of which the user has got something.
    pub(super) given: Vec<String>,
    /// Some exit may be held half-way, so whatever may sleep is done by the writer.
    pub(super) held: bool,
    pub(super) handles: usize,
    /// Those of [`handle`](Self::handle).
    pub(super) open: Vec<String>,
    pub(super) nsdelegate: bool,
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
        given: Vec::new(),
        held: false,
        handles: 0,
        open: Vec::new(),
        nsdelegate,
    };
    generator.run();
    case.steps = generator.steps;
    case
}

pub(super) fn step(act: Act) -> Step {
    Step { by: None, uid: None, act }
}

pub(super) fn write(path: &str, file: &str, text: impl Into<Text>) -> Act {
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
        if self.theme == Theme::Pids {
            self.control(".", "+pids");
            if self.rng.bool()
                && let Some(path) = self.below_root()
            {
                self.control(&path, "+pids");
                self.mkdir();
            }
        } else if self.theme == Theme::Teardown || self.rng.u32(..3) > 0 {
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
    pub(super) fn emit(&mut self, step: Step) -> Option<Outcome> {
        if taints(&self.target, &step) {
            return None;
        }
        let outcome = self.target.step(&step);
        self.steps.push(step);
        Some(outcome)
    }

    pub(super) fn hierarchy(&self) -> &Hierarchy {
        self.target.tree().hierarchy()
    }

    pub(super) fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(..one_in) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { Some(&from[self.rng.usize(..from.len())]) }
    }

    /// The paths of all cgroups, the root's first.
    pub(super) fn cgroups(&self) -> Vec<String> {
        let mut paths: Vec<String> = below(self.hierarchy(), self.hierarchy().root())
            .iter()
            .map(|cgroup| cgroup.path().trim_start_matches('/').to_owned())
            .collect();
        paths.sort();
        paths.insert(0, ".".to_owned());
        paths
    }

    /// A cgroup, now and then one that is not there.
    pub(super) fn cgroup(&mut self) -> String {
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

    pub(super) fn below_root(&mut self) -> Option<String> {
        let all = self.cgroups();
        self.pick(&all[1..]).cloned()
    }

    /// Tasks of the case, but the writer, of which something holds.
    pub(super) fn tasks(&self, good: impl Fn(&CoreTarget, &str, u32) -> bool) -> Vec<String> {
        self.target
            .task_names()
            .filter(|(name, tid)| *name != WRITER && good(&self.target, name, *tid))
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    pub(super) fn task(&mut self, good: impl Fn(&CoreTarget, &str, u32) -> bool) -> Option<String> {
        let tasks = self.tasks(good);
        self.pick(&tasks).cloned()
    }

    /// One that does what it is asked; now and then one that cannot.
    pub(super) fn actor(&mut self) -> Option<String> {
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
                let tokens = if self.chance(4) { self.tokens() } else { self.apt_tokens(&path) };
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
            Deed::FinishExit => self.finish_exit(),
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
                    let thread = target.world().thread(tid);
                    thread.is_some_and(|it| it.pid == tid && it.life == Life::Live)
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
            Deed::Pids => self.pids(),
            Deed::Tight => self.tight(),
            Deed::Delegate => self.delegate(),
            Deed::PassHandle => self.pass_handle(),
        }
    }

    pub(super) fn at(&self, path: &str) -> Option<Arc<Cgroup>> {
        find(self.hierarchy().root(), self.hierarchy(), &Text::plain(path))
    }

    /// Looks at what has come of it all.
    fn audit(&mut self) {
        // Mostly, what somebody sleeps for comes.
        for _ in 0..self.rng.usize(..4) {
            if self.target.owes(WRITER) {
                self.finish_exit();
            }
        }
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
