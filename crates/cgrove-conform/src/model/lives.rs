//! Birth and death of tasks, and what the steps about them say.

use std::collections::VecDeque;
use std::sync::Arc;

use cgrove_core::{Errno, Opener};
use cgrove_files::{Cred, Node};

use super::files::{Files, Scene, refused};
use super::target::{CoreTarget, Named, Newborn, Request};
use super::world::{Ended, INIT, Life, Reaped};
use crate::case::{Act, Outcome, Place, Signal, Step, Text, Via};

impl CoreTarget {
    pub(super) fn vacant(&self, name: &str) -> Result<(), Outcome> {
        match self.tasks.get(name) {
            Some(task) if !task.reaped && (task.tid == task.pid || self.lives(name)) => {
                Err(Outcome::broken(format!("there is a task {name}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        tid: u32,
        pid: u32,
        leader: &str,
        parent: Option<String>,
    ) {
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
    pub(super) fn born(&mut self, child: Option<Newborn>) {
        if let Some(child) = child {
            self.add(&child.name, child.tid, child.pid, &child.leader, child.parent);
        }
    }

    /// Forks with the rights of a user into a place.
    pub(super) fn fork(
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
    pub(super) fn make(&mut self, maker: &str, tid: u32, step: &Step, name: &str) -> Outcome {
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

    pub(super) fn spawn(&mut self, step: &Step) -> Outcome {
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

    pub(super) fn wait_child(&mut self, parent: u32, pid: u32) -> Outcome {
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
    pub(super) fn death(&mut self, name: &str) -> Outcome {
        self.rest();
        let Some(task) = self.tasks.get(name) else { return Self::no_task(name) };
        let over = self.world.is_over(task.pid);
        if task.holdable {
            let begun = over || self.world.is_parked(task.pid);
            return Outcome::said(if begun { "exiting" } else { "pending" });
        }
        if over { Outcome::Done } else { Outcome::said("pending") }
    }

    pub(super) fn exit(&mut self, name: &str, whole: bool) -> Outcome {
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

    pub(super) fn kill(&mut self, name: &str, signal: Signal, nowait: bool) -> Outcome {
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

    pub(super) fn finish_exit(&mut self, name: &str) -> Outcome {
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

    pub(super) fn reap(&mut self, name: &str) -> Outcome {
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

    pub(super) fn state(&self, name: &str) -> &'static str {
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

    pub(super) fn exec(&mut self, name: &str, step: &Step) -> Outcome {
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
}
