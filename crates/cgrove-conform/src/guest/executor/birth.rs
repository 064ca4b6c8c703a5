//! How a case's tasks come to be: spawned by the executor, forked by each other, as threads, by exec.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::super::files::refused;
use super::super::{actor, line};
use super::{Executor, Newborn, PATIENCE, answered};
use crate::case::{Act, Outcome, Place, Step, Text, Via};
use crate::sys::{self, CloneOptions, Forked};

impl Executor {
    /// Whether a new task may have this name.
    pub(super) fn vacant(&self, name: &str) -> Result<(), Outcome> {
        match self.tasks.get(name) {
            Some(task) if !task.reaped && (task.id == task.process || self.lives(name)) => {
                Err(Outcome::broken(format!("there is a task {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Has a task make another one.
    pub(super) fn made_by(
        &mut self,
        maker: &str,
        request: &str,
        name: &str,
        thread: bool,
    ) -> Outcome {
        if !self.tasks.contains_key(maker) {
            return Outcome::broken(format!("no task {maker}"));
        }
        let (line, theirs) = match line::pair() {
            Ok(ends) => ends,
            Err(errno) => return Outcome::broken(errno),
        };
        let child = Newborn { name: name.to_owned(), line, thread };
        let outcome = answered(self.ask(maker, request, Some(&theirs), PATIENCE));
        if outcome == Outcome::Blocked {
            if let Some(owed) = self.tasks.get_mut(maker).and_then(|task| task.owed.as_mut()) {
                owed.child = Some(child);
            }
            return outcome;
        }
        self.born(maker, child, outcome)
    }

    /// Takes up a task of which its maker has told the id.
    pub(super) fn born(&mut self, maker: &str, child: Newborn, told: Outcome) -> Outcome {
        let Outcome::Said(word) = &told else {
            return told;
        };
        let (Some(id), Some(maker)) = (
            word.strip_prefix("id ").and_then(|id| id.parse().ok()).map(Pid::from_raw),
            self.tasks.get(maker),
        ) else {
            return told;
        };
        let leader = maker.leader.clone();
        if child.thread {
            let process = maker.process;
            self.add(&child.name, id, process, &leader, child.line, None);
        } else {
            self.add(&child.name, id, id, &child.name, child.line, Some(leader));
        }
        Outcome::Done
    }

    pub(super) fn spawn(
        &mut self,
        step: &Step,
        name: &str,
        place: Option<&Place>,
        via: Via,
        holdable: bool,
    ) -> Outcome {
        if let Err(taken) = self.vacant(name) {
            return taken;
        }
        if let Some(parent) = &step.by {
            if via == Via::Procs || holdable {
                return Outcome::broken("only the first task can do this");
            }
            let request = Step { by: None, ..step.clone() }.to_string();
            return self.made_by(parent, &request, name, false);
        }
        let (ours, theirs) = match line::pair() {
            Ok(ends) => ends,
            Err(errno) => return Outcome::broken(errno),
        };
        let born = if via == Via::Procs { None } else { place };
        let pid = match actor::spawn(&self.files, step.uid, born, holdable, theirs) {
            Ok(pid) => pid,
            Err(errno) => return refused(errno),
        };
        self.add(name, pid, pid, name, ours, None);
        if holdable && let Err(errno) = self.hold(name, pid) {
            return Outcome::broken(format!("cannot hold: {errno}"));
        }
        if let (Via::Procs, Some(Place::Path(path))) = (via, place) {
            let act = Act::Write {
                path: path.clone(),
                file: Text::plain("cgroup.procs"),
                text: Text::plain(pid.to_string()),
            };
            let moved = self.files.perform(step.uid, &act).unwrap_or(Outcome::Done);
            if moved != Outcome::Done {
                // It never was where it should have been: as if it had not been made.
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
                self.tasks.remove(name);
                return moved;
            }
        }
        Outcome::Done
    }

    /// Puts a process of ours into the pid namespace of `pid`, so that the exit of the latter waits
    /// for us to reap the former.
    pub(super) fn hold(&mut self, name: &str, pid: Pid) -> Result<(), Errno> {
        let own = open_namespace(Pid::this())?;
        let theirs = open_namespace(pid)?;
        setns(&theirs, CloneFlags::CLONE_NEWPID)?;
        let forked = sys::clone_process(CloneOptions::default());
        if let Ok(Forked::Child) = forked {
            sys::close_from(3);
            sys::pause();
        }
        setns(&own, CloneFlags::CLONE_NEWPID)?;
        if let (Forked::Parent(helper), Some(task)) = (forked?, self.tasks.get_mut(name)) {
            task.helper = Some(helper);
        }
        Ok(())
    }

    pub(super) fn thread(&mut self, name: &str, of: &str) -> Outcome {
        match self.vacant(name) {
            Ok(()) => self.made_by(of, &format!("thread {name} of {of}"), name, true),
            Err(taken) => taken,
        }
    }

    pub(super) fn exec(&mut self, name: &str) -> Outcome {
        let outcome =
            answered(self.ask(name, &format!("exec {name}"), None, Duration::from_secs(2)));
        if outcome == Outcome::Done
            && let Some(mut task) = self.tasks.remove(name)
        {
            // The caller is the only thread left, and has the leader's id now.
            let leader = task.leader.clone();
            let process = task.process;
            self.tasks.retain(|_, other| {
                other.process != process || other.leader != leader || other.id == process
            });
            task.id = process;
            if let Some(old) = self.tasks.remove(&leader) {
                task.parent = old.parent;
                task.helper = old.helper;
            }
            self.names.insert(process.as_raw(), leader.clone());
            self.tasks.insert(leader, task);
        }
        outcome
    }
}

fn open_namespace(pid: Pid) -> Result<OwnedFd, Errno> {
    fs::File::open(format!("/proc/{pid}/ns/pid"))
        .map(OwnedFd::from)
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
}
