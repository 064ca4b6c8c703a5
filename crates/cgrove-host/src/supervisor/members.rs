//! The groups of other reapers in this run: how they begin, and how they end.
//!
//! A reaper holds a *link*, a socket of which the supervisor has the other end. Nothing is ever
//! said on it: that it closes says that the reaper is gone, or has executed another program, and
//! the supervisor kills the group. The link is the supervisor's own make and takes no message, so
//! that nobody can put a descriptor into it that is slow to be let go of. What a reaper has to say
//! it says at the door, where the kernel vouches for who it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{Phase, Supervisor, check_spare_descriptors};
use crate::door::outer;
use crate::door::{Entered, Entry, Left, Refused};
use crate::journal::What;
use crate::kill;
use crate::ledger::GroupId;
use crate::mutant::{self, Mutant};
use crate::report::Backend;
use crate::sys::{self, RawPid};
use crate::wire;

/// Between two looks at groups that are being killed, at first and at most: nobody tells us when
/// somebody else's children die.
const KILL_AGAIN: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];
/// Looks at a group whose reaper says that it is empty.
const LAST_LOOKS: usize = 4;

/// What one answers at the door: an answer, and a descriptor with it.
pub(super) type Answer = (Result<Vec<u8>, Errno>, Option<OwnedFd>);

/// A group's reaper.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) group: GroupId,
    link: OwnedFd,
    reaper: Option<OwnedFd>,
    /// Why CPU time of the group is not exact.
    pub(super) note: Option<String>,
    /// A task limit was set though its threads do not ask.
    pub(super) late_limit: bool,
}

impl Member {
    pub(super) fn new(
        group: GroupId,
        link: OwnedFd,
        reaper: Option<OwnedFd>,
        late_limit: bool,
    ) -> Member {
        Member { group, link, reaper, note: None, late_limit }
    }

    pub(super) fn sources(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [Some(self.link.as_fd()), self.reaper.as_ref().map(AsFd::as_fd)]
    }
}

impl Supervisor<'_> {
    /// The group that a visitor is in, a reaper's own for a reaper; `None` for one from outside.
    ///
    /// ESRCH: it is gone, and nobody can tell. EACCES: it is of another run, and has no business in
    /// this one.
    pub(super) fn group_of_visitor(&mut self, pid: RawPid) -> Result<Option<GroupId>, Errno> {
        if pid == 0 {
            // Of a pid namespace that is not below ours, and so nobody's of this tree.
            return Ok(None);
        }
        if let Some(id) = self.ledger.group_of(pid, &mut self.scanner)? {
            return Ok(Some(id));
        }
        // Another run's process is to act on its own run only. Runs around ours contain us.
        let me = nix::unistd::getpid().as_raw();
        let others = outer::nearest_supervisor(&mut self.scanner.proc, pid);
        if others.is_some_and(|other| !self.scanner.proc.is_above(other, me)) {
            return Err(Errno::EACCES);
        }
        Ok(None)
    }

    /// The group at a path, if this visitor may act on it.
    pub(super) fn reachable(&self, path: &str, from: Option<GroupId>) -> Result<GroupId, Errno> {
        let id = self.ledger.group_at(path)?;
        if from.is_some_and(|from| !self.ledger.is_within(id, from))
            && !mutant::is(Mutant::MembershipUnchecked)
        {
            return Err(Errno::EACCES);
        }
        Ok(id)
    }

    pub(super) fn enter(&mut self, entry: &Entry, pid: RawPid) -> Answer {
        let refused = |file: Option<String>, errno: Errno| {
            let no: Result<Entered, Refused> = Err(Refused { file, errno: errno as i32 });
            (serde_json::to_vec(&no).map_err(|_| errno), None)
        };
        match self.try_enter(entry, pid) {
            Ok((entered, link)) => {
                let yes: Result<Entered, Refused> = Ok(entered);
                (serde_json::to_vec(&yes).map_err(|_| Errno::EPERM), Some(link))
            }
            Err((file, errno)) => refused(file, errno),
        }
    }

    fn try_enter(
        &mut self,
        entry: &Entry,
        pid: RawPid,
    ) -> Result<(Entered, OwnedFd), (Option<String>, Errno)> {
        let refused = |errno| (None, errno);
        if !matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. }) {
            return Err(refused(Errno::ESRCH));
        }
        let above = self.group_of_visitor(pid).map_err(refused)?;
        let above = above.ok_or(refused(Errno::EXDEV))?;
        if self.ledger.reaps(pid).is_some() {
            return Err(refused(Errno::EBUSY));
        }
        let start = self.scanner.proc.stat(pid).map_err(refused)?.start;
        check_spare_descriptors(self.signals.as_fd()).map_err(refused)?;
        let (link, theirs) = wire::link().map_err(refused)?;
        let reaper = sys::pidfd_open(pid).ok();
        let id = self.ledger.create(above, &entry.name, Some((pid, start)), &entry.files)?;
        let late_limit = self.limits_tasks(&entry.files) && !self.threads_ask();
        self.members.push(Member::new(id, link, reaper, late_limit));
        Ok((self.entered(id), theirs))
    }

    pub(super) fn limits_tasks(&self, files: &[(String, String)]) -> bool {
        files.iter().any(|(file, _)| file == "pids.max")
    }

    /// Whether threads ask at the gate.
    pub(super) fn threads_ask(&self) -> bool {
        self.options.limits_tasks() && self.gates_threads()
    }

    pub(super) fn entered(&self, id: GroupId) -> Entered {
        Entered {
            path: self.ledger.path_below(id),
            full: self.ledger.full_name(id),
            backend: self.backend,
            backend_reason: self.backend_reason.clone(),
            threads_ask: self.threads_ask(),
            cpus: self.ledger.chosen_cpus(id),
        }
    }

    /// The group at a path whose reaper this visitor is.
    pub(super) fn own_group(&self, path: &str, pid: RawPid) -> Result<GroupId, Errno> {
        let id = self.ledger.group_at(path)?;
        if self.ledger.reaps(pid) == Some(id) { Ok(id) } else { Err(Errno::EACCES) }
    }

    /// The group's reaper says that nobody is left. It is to be believed as far as a complete
    /// census agrees.
    pub(super) fn leave(&mut self, id: GroupId, ended: What) -> Result<Vec<u8>, Errno> {
        self.ledger.shut(id);
        for _ in 0..LAST_LOOKS {
            let complete = match self.backend {
                Backend::Gate | Backend::Ptrace => {
                    self.ledger.reconcile(&mut self.scanner).complete
                }
                Backend::Reaper | Backend::Kernel => {
                    self.sample();
                    true
                }
            };
            if !self.ledger.exists(id) {
                return Err(Errno::ESRCH);
            }
            self.ledger.forget_the_gone(id);
            if complete && self.ledger.tasks_within(id) == 0 {
                return self.take_leave(id, ended);
            }
        }
        // Somebody is there, or may be: the link will close and end the matter.
        Err(Errno::EBUSY)
    }

    fn take_leave(&mut self, id: GroupId, ended: What) -> Result<Vec<u8>, Errno> {
        let member = self.members.iter().position(|member| member.group == id);
        let member = member.map(|at| self.members.remove(at));
        // Who was collected below its reaper is not known here otherwise.
        self.look_at_limits();
        self.tell_news();
        self.happened_to(id, ended);
        let left = Left {
            figures: self.ledger.figures(id),
            cpu_note: member.as_ref().and_then(|member| member.note.clone()),
            freeze: self.freezer.held().0,
            late_limit: member.is_some_and(|member| member.late_limit),
            used: self.resources.of_group(self.ledger.cgroup(id), &self.ledger),
        };
        self.ledger.remove(id)?;
        self.forget_members();
        serde_json::to_vec(&left).map_err(|_| Errno::EPERM)
    }

    /// A reaper is gone, or its link is.
    pub(super) fn on_link(&mut self, id: GroupId) {
        self.members.retain(|member| member.group != id);
        if self.ledger.exists(id) {
            self.ledger.lose(id);
            self.kill_doomed();
        }
    }

    /// Kills a group, for as long as somebody of it is left.
    pub(super) fn kill_group(&mut self, id: GroupId, remove: bool) {
        // A group that lasts stays when what is in it is killed.
        if id == GroupId::RUN && (remove || !self.options.keeper) {
            self.kill();
            return;
        }
        self.happened_to(id, What::Kill);
        self.ledger.doom(id, remove);
        self.kill_doomed();
    }

    /// One round over the groups that are being killed.
    pub(super) fn kill_doomed(&mut self) {
        if !self.ledger.has_doomed()
            || !matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. })
        {
            self.doomed_due = None;
            return;
        }
        let gated = self.backend.asks();
        let census = if gated {
            self.ledger.reconcile(&mut self.scanner)
        } else {
            let census = self.scanner.glance();
            self.sampler.found(self.ledger.follow(&census, &mut self.scanner));
            census
        };
        for seen in self.ledger.doomed(&census) {
            let _ = kill::signal(&mut self.scanner, seen, libc::SIGKILL);
        }
        self.ledger.bury(&census, gated);
        self.forget_members();
        if !self.ledger.has_doomed() {
            self.doomed_due = None;
            return;
        }
        let pause =
            self.doomed_due.map_or(KILL_AGAIN[0], |(_, pause)| (pause * 2).min(KILL_AGAIN[1]));
        self.doomed_due = Some((Instant::now() + pause, pause));
    }

    pub(super) fn forget_members(&mut self) {
        self.members.retain(|member| self.ledger.exists(member.group));
        self.mourners.retain(|mourner| self.ledger.exists(mourner.group));
    }

    /// CPU time that is counted for whoever `tid` belongs to may be thrown away from now on.
    pub(super) fn doubt_time(&mut self, tid: RawPid, why: &str) {
        let group = self.ledger.group_of(tid, &mut self.scanner).ok().flatten();
        for member in &mut self.members {
            if group.is_some_and(|group| self.ledger.is_within(group, member.group)) {
                member.note.get_or_insert_with(|| why.to_owned());
            }
        }
    }
}
