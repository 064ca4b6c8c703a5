//! What the limits on memory and CPU need of the ledger: which controllers there are, who belongs
//! to which cgroup, and a way to report to the core what was used.

use std::sync::Arc;

use cgrove_core::controller::cpu::Cpu;
use cgrove_core::controller::cpuset::Cpuset;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::memory::Memory;
use cgrove_core::controller::registry::Registry;
use cgrove_core::{Cgroup, Effects, Hierarchy, Pids, Time};

use super::{GroupId, Ledger};
use crate::sys::{self, RawPid};

/// The controllers of a run, on in every cgroup that has limits.
pub(crate) const CONTROLLERS: [&str; 4] = ["cpuset", "cpu", "memory", "pids"];

/// A hierarchy with these controllers, for the CPUs that this process may use. Groups limit and
/// count; tasks stay in theirs when it gets groups below it.
pub(super) fn hierarchy() -> Hierarchy {
    let mut cpus = IdMask::default();
    for cpu in sys::cpus_of(0).unwrap_or_else(|_| vec![0]) {
        cpus.insert(cpu);
    }
    Registry::new()
        .with(Cpuset::new(cpus, IdMask::first(1)))
        .with(Cpu)
        .with(Memory::new())
        .with(Pids::new())
        .builder()
        .internal_tasks()
        .build(Time(0))
}

impl Ledger {
    /// The run's own cgroup.
    pub(crate) fn root(&self) -> &Arc<Cgroup> {
        &self.group(GroupId::RUN).cgroup
    }

    /// A group's cgroup.
    pub(crate) fn cgroup(&self, id: GroupId) -> &Arc<Cgroup> {
        &self.group(id).cgroup
    }

    /// The cgroup whose reaper this process is.
    pub(crate) fn reaped_by(&self, pid: RawPid) -> Option<&Arc<Cgroup>> {
        self.reapers.get(&pid).map(|id| &self.group(*id).cgroup)
    }

    /// The cgroup that a task which is known belongs to.
    pub(crate) fn cgroup_of(&self, tid: RawPid) -> Option<Arc<Cgroup>> {
        self.known.get(&tid)?.task.cgroup()
    }

    /// The CPUs that a group's tasks may use, if that was limited there or above.
    pub(crate) fn chosen_cpus(&self, id: GroupId) -> Option<Vec<u32>> {
        crate::resources::cpus_of(&self.group(id).cgroup).map(|cpus| cpus.iter().collect())
    }

    /// Reports to the core, and performs what follows.
    pub(crate) fn report<T>(&mut self, what: impl FnOnce(&mut Effects) -> T) -> T {
        self.fx.set_now(self.now());
        let result = what(&mut self.fx);
        self.perform();
        result
    }

    /// The core's clock.
    pub(crate) fn time(&self) -> Time {
        self.now()
    }
}
