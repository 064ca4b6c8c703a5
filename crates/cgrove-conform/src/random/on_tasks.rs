//! What a sequence does to tasks: birth, moves, signals, death.

use super::generate::*;
use super::themes::Theme;
use crate::case::{Act, Piece, Place, Signal, Step, Text, Via};
use crate::model::world::Life;

impl Generator {
    pub(super) fn migrate(&mut self, file: &str) {
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

    pub(super) fn free_name(&mut self) -> Option<String> {
        let used: Vec<String> = self.target.task_names().map(|(name, _)| name.to_owned()).collect();
        let free: Vec<&str> =
            TASKS.into_iter().filter(|name| !used.iter().any(|it| it == name)).collect();
        self.pick(&free).map(|name| (*name).to_owned())
    }

    pub(super) fn spawn(&mut self) {
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

    pub(super) fn thread(&mut self) {
        let Some(task) = self.free_name() else { return };
        if let Some(of) = self.actor().filter(|_| self.theme.has_tasks()) {
            self.emit(step(Act::Thread { task, of }));
        }
    }

    pub(super) fn actor_or_holdable(&mut self) -> Option<String> {
        self.task(|target, name, tid| target.world().runs(tid) && !target.owes(name))
    }

    pub(super) fn finish_exit(&mut self) {
        let parked = self
            .task(|target, name, tid| target.is_holdable(name) && target.world().is_parked(tid));
        if let Some(task) = parked {
            self.emit(step(Act::FinishExit { task }));
            self.collect_answer();
        }
    }

    pub(super) fn stop_or_continue(&mut self) {
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

    pub(super) fn reap(&mut self) {
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

    pub(super) fn look(&mut self) {
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
}
