//! How a case's tasks end: told to, killed, held half-way, reaped.

use std::time::Duration;

use nix::sys::signal::{Signal as Sig, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};

use super::super::files::refused;
use super::super::{actor, line, proc};
use super::{DEATH, Executor, PATIENCE, Task, answered};
use crate::case::{Act, Outcome, Signal, Step};

impl Executor {
    /// Waits until a process is dead, or parked half-way if it is one that can be held.
    pub(super) fn death(&self, task: &Task, bound: Duration) -> Outcome {
        if let Some(helper) = task.helper {
            return Outcome::said(if proc::wait_dead(helper, bound) {
                "exiting"
            } else {
                "pending"
            });
        }
        let dead = proc::wait_dead(task.process, bound);
        self.settle();
        if dead { Outcome::Done } else { Outcome::said("pending") }
    }

    pub(super) fn exit(&mut self, name: &str, step: &Step) -> Outcome {
        let Some(leader) = self.tasks.get(name).map(|task| task.leader.clone()) else {
            return Outcome::broken(format!("no task {name}"));
        };
        let whole = matches!(step.act, Act::Exit { .. });
        // A dead leader cannot end its process; any of its threads can.
        let teller = if whole && self.threads(&leader).next().is_some() && !self.lives(name) {
            self.threads(&leader).find(|thread| self.lives(thread)).map(str::to_owned)
        } else {
            Some(name.to_owned())
        };
        let Some(teller) = teller else {
            return Outcome::said("gone");
        };
        let Some(task) = self.tasks.get(&teller) else {
            return Outcome::broken("no task");
        };
        let number = self.next;
        self.next += 1;
        if line::send(&task.line, &format!("{number} {step}"), None).is_err() {
            return Outcome::said("gone");
        }
        if whole {
            let outcome = self.tasks.get(&leader).map(|task| self.death(task, PATIENCE));
            return outcome.unwrap_or(Outcome::Done);
        }
        let gone = proc::wait_state(task.process, task.id, PATIENCE, |state| {
            matches!(state, None | Some('Z' | 'X'))
        });
        self.settle();
        if gone { Outcome::Done } else { Outcome::Blocked }
    }

    pub(super) fn kill(&mut self, name: &str, signal: Signal, nowait: bool) -> Outcome {
        let Some(task) = self.tasks.get(name) else {
            return Outcome::broken(format!("no task {name}"));
        };
        let number = match signal {
            Signal::Kill => Sig::SIGKILL,
            Signal::Term => Sig::SIGTERM,
            Signal::Stop => Sig::SIGSTOP,
            Signal::Cont => Sig::SIGCONT,
        };
        if let Err(errno) = kill(task.process, number) {
            return refused(errno);
        }
        if nowait {
            return Outcome::Done;
        }
        let state = |bound, good: fn(Option<char>) -> bool| {
            if proc::wait_state(task.process, task.id, bound, good) {
                Outcome::Done
            } else {
                Outcome::said("pending")
            }
        };
        match signal {
            Signal::Kill => self.death(task, DEATH),
            Signal::Term => self.death(task, PATIENCE),
            Signal::Stop => state(PATIENCE, |s| !matches!(s, Some('R' | 'S' | 'D'))),
            Signal::Cont => state(PATIENCE, |s| s != Some('T')),
        }
    }

    pub(super) fn finish_exit(&mut self, name: &str) -> Outcome {
        let Some(task) = self.tasks.get_mut(name) else {
            return Outcome::broken(format!("no task {name}"));
        };
        let Some(helper) = task.helper else {
            return Outcome::broken(format!("{name} is not holdable"));
        };
        if !matches!(waitpid(helper, Some(WaitPidFlag::WNOHANG)), Ok(status) if status.pid().is_some())
        {
            return Outcome::said("not exiting");
        }
        task.helper = None;
        self.tasks.get(name).map_or(Outcome::Done, |task| self.death(task, DEATH))
    }

    pub(super) fn reap(&mut self, name: &str) -> Outcome {
        let Some(task) = self.tasks.get(name) else {
            return Outcome::broken(format!("no task {name}"));
        };
        let pid = task.process;
        let parent = task.parent.clone().filter(|parent| self.lives(parent));
        let outcome = match parent {
            Some(parent) => answered(self.ask(&parent, &format!("reap-id {pid}"), None, PATIENCE)),
            None => actor::reap(pid),
        };
        self.settle();
        let over = matches!(&outcome, Outcome::Said(word) if word != "not dead");
        if let (true, Some(task)) = (over, self.tasks.get_mut(name)) {
            task.reaped = true;
        }
        outcome
    }
}
