//! Commands that others bring into a run, and groups that stay.
//!
//! The command of `cgrove exec` is to be of the run, so a process of the run forks it: a small group
//! reaper, which the supervisor forks for each. See `exec.rs` for what that does, and for the asker.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::getpid;

use super::members::{Answer, Member};
use super::{Phase, Supervisor, check_spare_descriptors};
use crate::door::{Busy, Entered, Entry, Refused};
use crate::exec::{self, Brought};
use crate::gate::Gate;
use crate::ledger::GroupId;
use crate::nested::Hold;
use crate::report::Backend;
use crate::sys::{self, ForkSide, RawPid};
use crate::wire::{self, FromCommand};

/// A command that has not executed yet, and the group it is for.
#[derive(Debug)]
pub(super) struct Launching {
    pub(super) socket: OwnedFd,
    group: GroupId,
    /// Nothing more will come.
    pub(super) done: bool,
}

/// Who waits for a group to be gone.
#[derive(Debug)]
pub(super) struct Mourner {
    pub(super) group: GroupId,
    /// Its closing is the news.
    _link: OwnedFd,
}

fn told(made: Result<Entered, (Option<String>, Errno)>) -> Result<Vec<u8>, Errno> {
    let made = made.map_err(|(file, errno)| Refused { file, errno: errno as i32 });
    serde_json::to_vec(&made).map_err(|_| Errno::EPERM)
}

impl Supervisor<'_> {
    fn is_going_on(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. })
    }

    pub(super) fn exec(&mut self, at: &str, entry: &Entry, pid: RawPid, fds: &[RawFd]) -> Answer {
        let made = self.try_exec(at, entry, pid, fds);
        (told(made.map(|id| self.entered(id))), None)
    }

    fn try_exec(
        &mut self,
        at: &str,
        entry: &Entry,
        pid: RawPid,
        fds: &[RawFd],
    ) -> Result<GroupId, (Option<String>, Errno)> {
        let refused = |errno| (None, errno);
        let brought = Brought::from(fds).ok_or(refused(Errno::EBADF))?;
        if !self.is_going_on() {
            return Err(refused(Errno::ESRCH));
        }
        let from = self.group_of_visitor(pid).map_err(refused)?;
        let above = self.reachable(at, from).map_err(refused)?;
        check_spare_descriptors(self.signals.as_fd()).map_err(refused)?;
        let (link, theirs) = wire::link().map_err(refused)?;
        let (socket, report) = wire::pair().map_err(refused)?;
        let id = self.ledger.create(above, &entry.name, None, &entry.files)?;
        // Its reaper's fork does not ask, so its place is taken here.
        if let Err(errno) = self.ledger.expect(id) {
            let _ = self.ledger.remove(id);
            return Err(refused(Errno::from_raw(errno.code())));
        }
        let entered = self.entered(id);
        let supervisor = getpid();
        let reaper = match sys::fork() {
            Ok(ForkSide::Parent(pid)) => pid,
            Ok(ForkSide::Child) => {
                // Whoever is brought in is to be killed with the others.
                if let Some(kernel) = &self.kernel
                    && kernel.group.write("cgroup.procs", "0").is_err()
                {
                    sys::exit_now(125);
                }
                let hold = Hold { run: self.options.name.clone(), entered, link: theirs };
                exec::reap(hold, brought, report, supervisor)
            }
            Err(errno) => {
                let _ = self.ledger.remove(id);
                return Err(refused(errno));
            }
        };
        let start = self.scanner.proc.stat(reaper).map_or(0, |stat| stat.start);
        self.scanner.spare(reaper, true);
        self.ledger.set_reaper(id, (reaper, start));
        self.launching.push(Launching { socket, group: id, done: false });
        let late_limit = self.limits_tasks(&entry.files) && !self.threads_ask();
        self.members.push(Member::new(id, link, sys::pidfd_open(reaper).ok(), late_limit));
        Ok(id)
    }

    /// The command of `exec` reports from before its exec.
    pub(super) fn on_launching(&mut self, at: usize) {
        let Some(launching) = self.launching.get(at) else { return };
        let (group, received) = (launching.group, FromCommand::receive(launching.socket.as_fd()));
        match received {
            Ok(Some(FromCommand::Listener(listener))) => {
                let mut gate = Gate::new(listener);
                if !self.is_going_on() {
                    gate.close();
                }
                self.gates.push(gate);
                return;
            }
            // Its reaper is told why it did not execute.
            Ok(Some(FromCommand::ExecFailed(_) | FromCommand::GaveUp(_) | FromCommand::Traced)) => {
                return;
            }
            Ok(Some(FromCommand::TraceMe(pid))) => {
                self.trace(pid, Some(group));
                return;
            }
            Ok(Some(FromCommand::NoGate(_))) if self.backend == Backend::Reaper => return,
            Ok(None) => {
                // It executes: nobody asked for its fork, so nobody else looks for it.
                if let Some(reaper) = self.ledger.reaper_of(group) {
                    self.resources.forked(reaper);
                    self.resources.poke();
                }
                self.sampler.forked();
            }
            Ok(Some(FromCommand::NoGate(_) | FromCommand::NoTrace(_))) | Err(_) => {
                self.lose_launching(group);
            }
        }
        self.launching[at].done = true;
    }

    /// Where a command is heard that is brought into this group, and has not executed yet.
    pub(super) fn launching_of(&self, group: GroupId) -> Option<&OwnedFd> {
        let of = |it: &&Launching| it.group == group && !it.done;
        self.launching.iter().find(of).map(|it| &it.socket)
    }

    /// The forks of a command would not be counted.
    pub(super) fn lose_launching(&mut self, group: GroupId) {
        if self.ledger.exists(group) {
            self.kill_group(group, false);
        }
    }

    /// Whether a group's threads ask: those of a command of `exec` always do.
    pub(super) fn gates_threads(&self) -> bool {
        self.backend.asks()
    }

    pub(super) fn make(&mut self, at: &str, entry: &Entry, pid: RawPid) -> Result<Vec<u8>, Errno> {
        let refused = |errno| (None, errno);
        let made = self
            .group_of_visitor(pid)
            .and_then(|from| self.reachable(at, from))
            .map_err(refused)
            .and_then(|above| self.ledger.create(above, &entry.name, None, &entry.files));
        self.freeze();
        told(made.map(|id| self.entered(id)))
    }

    pub(super) fn remove(&mut self, path: &str, kill: bool, pid: RawPid) -> Answer {
        match self.try_remove(path, kill, pid) {
            Ok((done, link)) => (serde_json::to_vec(&done).map_err(|_| Errno::EPERM), link),
            Err(errno) => (Err(errno), None),
        }
    }

    fn try_remove(
        &mut self,
        path: &str,
        kill: bool,
        pid: RawPid,
    ) -> Result<(Result<(), Busy>, Option<OwnedFd>), Errno> {
        let from = self.group_of_visitor(pid)?;
        let id = self.reachable(path, from)?;
        if id == GroupId::RUN && !self.options.keeper {
            // It goes with its command.
            return Err(Errno::EOPNOTSUPP);
        }
        let (ours, theirs) = wire::link()?;
        let busy = Busy {
            tasks: self.ledger.tasks_within(id),
            first: self
                .ledger
                .somebody(id)
                .map(|pid| (pid, self.scanner.proc.command_line(pid).join(" "))),
            groups: self.ledger.names_below(id),
        };
        if !kill && (busy.tasks > 0 || !busy.groups.is_empty() || self.ledger.has_reaper(id)) {
            return Ok((Err(busy), None));
        }
        self.mourners.push(Mourner { group: id, _link: ours });
        if id == GroupId::RUN {
            self.kill();
            self.reap();
        } else if kill {
            self.kill_group(id, true);
        } else {
            self.ledger.remove(id)?;
        }
        self.forget_members();
        Ok((Ok(()), Some(theirs)))
    }
}
