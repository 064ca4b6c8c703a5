//! Between the core's freezer and the one that stops tasks: who is to halt, and who has.

use cgrove_core::TaskId;
use nix::errno::Errno;
use std::collections::HashMap;

use super::{GroupId, Ledger};
use crate::scan::Scanner;
use crate::sys::RawPid;

impl Ledger {
    /// Writes `cgroup.freeze` of a cgroup below the run's own.
    pub fn freeze(&mut self, path: &str, freeze: bool) -> Result<(), Errno> {
        self.set(path, "cgroup.freeze", if freeze { b"1" } else { b"0" }).map(drop)
    }

    /// Whether the whole run is to be frozen.
    pub fn is_freezing(&self) -> bool {
        self.hierarchy.freeze(&self.group(GroupId::RUN).cgroup)
    }

    /// Whether any group is to be frozen.
    pub(crate) fn freezes_some(&self) -> bool {
        self.ids().any(|id| self.group(id).cgroup.freezing())
    }

    /// Whether a known task is to be frozen.
    pub(crate) fn is_to_freeze(&self, tid: RawPid) -> Option<bool> {
        self.known.get(&tid).map(|known| self.group(known.group).cgroup.freezing())
    }

    /// The same of one that nobody may know yet.
    pub(crate) fn is_asker_frozen(&self, tid: RawPid, scanner: &mut Scanner) -> bool {
        if !self.is_nested() || !self.freezes_some() {
            return false;
        }
        self.is_to_freeze(tid).unwrap_or_else(|| {
            let group = self.group_of(tid, scanner).ok().flatten();
            group.is_some_and(|id| self.group(id).cgroup.freezing())
        })
    }

    /// Thaws every group.
    pub(crate) fn thaw_all(&mut self) {
        for id in self.ids().collect::<Vec<_>>() {
            if self.hierarchy.freeze(&self.group(id).cgroup) {
                let _ = self.freeze(&self.path_below(id), false);
            }
        }
    }

    /// Takes what the core wants done: who is to freeze (`true`) or to thaw, oldest first. A task
    /// that is gone has nothing to be told.
    pub(crate) fn orders(&mut self) -> Vec<(RawPid, bool)> {
        if self.orders.is_empty() {
            return Vec::new();
        }
        let pids: HashMap<TaskId, RawPid> =
            self.known.iter().map(|(tid, known)| (known.task.id(), *tid)).collect();
        let named = |(id, freeze)| Some((*pids.get(&id)?, freeze));
        self.orders.drain(..).filter_map(named).collect()
    }

    /// Every thread id that is known, of a task that is to be frozen.
    pub(crate) fn tids_to_freeze(&self) -> impl Iterator<Item = RawPid> + '_ {
        let freezing = |id: GroupId| self.group(id).cgroup.freezing();
        self.known.iter().filter(move |(_, known)| freezing(known.group)).map(|(tid, _)| *tid)
    }

    /// The task has come to a halt.
    pub(crate) fn halted(&mut self, tid: RawPid) {
        if let Some(known) = self.known.get(&tid) {
            self.hierarchy.enter_frozen(&known.task, &mut self.fx);
            self.perform();
        }
    }

    /// The task runs again.
    pub(crate) fn runs(&mut self, tid: RawPid) {
        if let Some(known) = self.known.get(&tid) {
            self.hierarchy.leave_frozen(&known.task, false, &mut self.fx);
            self.perform();
        }
    }
}
