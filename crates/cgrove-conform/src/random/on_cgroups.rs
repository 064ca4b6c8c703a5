//! What a sequence does to cgroups: making, switching, limiting, reading.

use std::sync::Arc;

use cgrove_core::Cgroup;

use super::bounds::is;
use super::generate::*;
use super::themes::Theme;
use super::values;
use crate::case::{Act, Outcome, Step, Text, Via};
use crate::model::world::Life;

impl Generator {
    pub(super) fn mkdir(&mut self) {
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

    pub(super) fn rmdir(&mut self) {
        let Some(path) = self.below_root() else { return };
        let act = Act::Rmdir { path: Text::plain(path.as_str()), retry: false };
        if self.emit(step(act)) == Some(Outcome::Done) {
            self.removed.push(path);
        }
    }

    pub(super) fn controllers(&mut self) -> String {
        let mut words = Vec::new();
        for _ in 0..1 + self.rng.usize(..3) {
            words.push(format!("+{}", self.controller()));
        }
        words.join(" ")
    }

    pub(super) fn controller(&mut self) -> &'static str {
        const NAMES: [&str; 12] = [
            "pids", "pids", "pids", "memory", "memory", "cpu", "cpu", "cpuset", "io", "hugetlb",
            "misc", "rdma",
        ];
        NAMES[self.rng.usize(..NAMES.len())]
    }

    pub(super) fn tokens(&mut self) -> String {
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

    /// Of what can be switched there, mostly.
    pub(super) fn apt_tokens(&mut self, path: &str) -> String {
        let Some(cgroup) = self.at(path) else { return self.tokens() };
        let hierarchy = self.hierarchy();
        let (available, on) = (hierarchy.controllers(&cgroup), hierarchy.subtree_control(&cgroup));
        let off: Vec<&str> = hierarchy.names(available - on).collect();
        let on: Vec<&str> = hierarchy.names(on).collect();
        let mut words = Vec::new();
        for _ in 0..1 + self.rng.usize(..2) {
            let (sign, from) = if self.rng.u32(..5) < 3 { ('+', &off) } else { ('-', &on) };
            let name = self.pick(from).copied().unwrap_or_else(|| self.controller());
            words.push(format!("{sign}{name}"));
        }
        words.join(" ")
    }

    /// A tight limit on tasks, or a look at what has come of one.
    pub(super) fn pids(&mut self) {
        let all = self.cgroups();
        let limited: Vec<String> = all
            .into_iter()
            .filter(|path| self.target.files_of(path).iter().any(|file| file == "pids.max"))
            .collect();
        let Some(path) = self.pick(&limited).cloned() else { return };
        match self.rng.u32(..4) {
            0 => self.read(&path, "pids.current"),
            1 => {
                const FILES: [&str; 3] = ["pids.events", "pids.events.local", "pids.peak"];
                let file = FILES[self.rng.usize(..FILES.len())];
                self.read(&path, file);
            }
            _ => {
                const TEXTS: [&str; 6] = ["0", "1", "2", "2", "3", "max"];
                let text = TEXTS[self.rng.usize(..TEXTS.len())];
                self.emit(step(write(&path, "pids.max", text)));
            }
        }
    }

    /// As many cgroups as there are, or one more; and then one more.
    pub(super) fn tight(&mut self) {
        let path = self.cgroup();
        let Some(cgroup) = self.at(&path) else { return };
        let live = self.hierarchy().stat(&cgroup).nr_descendants;
        let text = (live + self.rng.usize(..2)).to_string();
        self.emit(step(write(&path, "cgroup.max.descendants", text.as_str())));
        let there = self.hierarchy().children(&cgroup);
        let free: Vec<&str> =
            CGROUPS.into_iter().filter(|name| there.iter().all(|it| it.name() != *name)).collect();
        let Some(name) = self.pick(&free).copied() else { return };
        let below = if path == "." { name.to_owned() } else { format!("{path}/{name}") };
        self.emit(step(Act::Mkdir { path: Text::plain(below) }));
    }

    pub(super) fn control(&mut self, path: &str, tokens: &str) {
        self.sleeping_write(write(path, "cgroup.subtree_control", tokens));
    }

    /// A write that may sleep: by the writer if anybody's exit may be held.
    pub(super) fn sleeping_write(&mut self, act: Act) {
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
    pub(super) fn collect_answer(&mut self) {
        if self.target.answer_is_ready(WRITER) {
            self.emit(step(Act::Answer { task: WRITER.into() }));
        }
    }

    /// Switches off what a hidden task holds, and writes once more above it, which sleeps.
    pub(super) fn drain(&mut self) {
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

    /// A file that the cgroup has, most of the time.
    pub(super) fn file_of(&mut self, path: &str) -> String {
        let files = if self.chance(12) {
            self.target.file_names()
        } else {
            let all = self.target.file_names();
            let there = self.target.files_of(path);
            all.into_iter().filter(|file| there.contains(file)).collect()
        };
        self.pick(&files).cloned().unwrap_or_else(|| "cgroup.procs".to_owned())
    }

    pub(super) fn read(&mut self, path: &str, file: &str) {
        let keys = match file {
            // The others settle late.
            "cgroup.stat" => vec![Text::plain("nr_descendants")],
            _ if !values::can_be_compared(file) => return,
            _ => Vec::new(),
        };
        self.emit(step(Act::Read { path: Text::plain(path), file: Text::plain(file), keys }));
    }
}
