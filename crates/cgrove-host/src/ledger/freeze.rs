//! Between the core's freezer and the one that stops tasks: who is to halt, and who has.

use cgrove_core::TaskId;
use nix::errno::Errno;
use std::collections::HashMap;

use super::{GroupId, Ledger};
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

    /// Every thread id that is known.
    pub(crate) fn tids(&self) -> impl Iterator<Item = RawPid> + '_ {
        self.known.keys().copied()
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
