//! What happens, told to the series and to whoever follows.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::members::Answer;
use super::{Supervisor, check_spare_descriptors};
use crate::journal::{Journal, What, cut};
use crate::ledger::GroupId;
use crate::report::Report;
use crate::sys::RawPid;
use crate::wire;

impl Supervisor<'_> {
    /// Whether anybody wants to know what happens.
    pub(super) fn is_watched(&self) -> bool {
        self.options.series || self.journal.is_followed()
    }

    /// Something happened to a group.
    pub(super) fn happened_to(&mut self, id: GroupId, what: What) {
        if self.is_watched() {
            let group = self.ledger.cgroup(id).path();
            self.happened(&group, what);
        }
    }

    /// Something happened to the whole run.
    pub(super) fn happened_to_run(&mut self, what: What) {
        self.happened_to(GroupId::RUN, what);
    }

    fn happened(&mut self, group: &str, what: What) {
        self.tell_found();
        if what.is_of_series() {
            self.resources.note(group, &what);
        }
        self.journal.tell(group, what);
    }

    /// Whether a freeze of the group was asked for.
    pub(super) fn is_asked_to_freeze(&mut self, path: &str) -> bool {
        self.ledger.get(path, "cgroup.freeze", 0).is_ok_and(|text| text.starts_with(b"1"))
    }

    /// A fork was refused, by the limit of whoever is full.
    pub(super) fn fork_refused(&mut self) {
        if self.is_watched() {
            let id = self.ledger.refuser();
            self.happened_to(id, What::PidsMax { count: 1 });
        }
    }

    pub(super) fn command_started(&mut self) {
        let words = self.options.command.iter().map(|word| word.to_string_lossy().into_owned());
        let what = What::Started { pid: self.command, command: cut(words) };
        self.happened_to_run(what);
    }

    /// The command is as far as its exec, or failed to.
    pub(super) fn command_executed(&mut self) {
        let what = match self.exec_error {
            None => What::Exec,
            Some(errno) => What::ExecFailed { error: format!("{errno:?}") },
        };
        self.happened_to_run(what);
    }

    /// What looks at memory and CPU have found.
    fn tell_found(&mut self) {
        for (group, what) in self.resources.news() {
            self.journal.tell(&group, what);
        }
    }

    /// Passes on what was noticed elsewhere, and what has waited.
    pub(super) fn tell_news(&mut self) {
        self.tell_found();
        for (group, made) in self.ledger.news() {
            if made {
                self.journal.tell(&group, What::GroupMade);
            } else {
                self.journal.tell(&group, What::GroupRemoved);
                self.journal.end(&group);
            }
        }
        self.journal.on_time();
    }

    /// The last words.
    pub(super) fn tell_end(&mut self) -> impl FnOnce(&Report) + use<> {
        self.tell_news();
        let group = self.ledger.root().path();
        let keeper = self.options.keeper;
        let mut journal = std::mem::replace(&mut self.journal, Journal::new(self.started));
        move |report| {
            let (code, signal) = (report.exit.code, report.exit.signal);
            journal.tell(
                &group,
                if keeper { What::GroupRemoved } else { What::Ended { code, signal } },
            );
        }
    }

    /// Whoever asks gets a socket on which this group's events come.
    pub(super) fn follow(&mut self, path: &str, pid: RawPid) -> Answer {
        match self.try_follow(path, pid) {
            Ok(socket) => (Ok(Vec::new()), Some(socket)),
            Err(errno) => (Err(errno), None),
        }
    }

    fn try_follow(&mut self, path: &str, pid: RawPid) -> Result<OwnedFd, Errno> {
        let from = self.group_of_visitor(pid)?;
        let id = self.reachable(path, from)?;
        check_spare_descriptors(self.signals.as_fd())?;
        let (ours, theirs) = wire::pair()?;
        self.journal.add(ours, self.ledger.cgroup(id).path())?;
        Ok(theirs)
    }

    /// The reaper of a group tells what it did or saw.
    pub(super) fn told_by_reaper(
        &mut self,
        path: &str,
        what: &[What],
        pid: RawPid,
    ) -> Result<Vec<u8>, Errno> {
        let id = self.own_group(path, pid)?;
        if !what.iter().all(What::is_a_reapers) {
            return Err(Errno::EINVAL);
        }
        for what in what {
            self.happened_to(id, what.clone());
        }
        Ok(Vec::new())
    }
}
