//! Which CPUs tasks may use, and that it stays so.
//!
//! Affinity is inherited, so that whoever is started below is where his parent was; but every task
//! may change its own. Where changes are asked for at the gate, the supervisor makes the call itself,
//! within the group's CPUs. Elsewhere, and when the CPUs of a group change, whoever lies outside is
//! put back at the next look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::controller::cpuset::Cpuset;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::{Cgroup, CgroupId};

use super::Around;
use super::processes::Processes;
use crate::mutant::{self, Mutant};
use crate::sys::{self, RawPid};

/// Between looks for those that left, where nobody asks.
const LOOK: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    /// Every change is asked for.
    pub asks: bool,
    /// The CPUs of each group at the last look.
    before: HashMap<CgroupId, IdMask>,
}

/// The CPUs that tasks of a cgroup may use, if that was limited.
pub(crate) fn cpus_of(cgroup: &Arc<Cgroup>) -> Option<IdMask> {
    let limited = std::iter::successors(Some(cgroup), |cgroup| cgroup.parent())
        .any(|cgroup| Cpuset::css(cgroup).is_some_and(|css| !css.cpus().is_empty()));
    let cpus = Cpuset::effective(cgroup)?.effective_cpus();
    limited.then_some(cpus)
}

impl Affinity {
    /// Puts back who is outside. Returns when to look again.
    pub fn step(&mut self, processes: &Processes, around: &mut Around<'_>) -> Option<Instant> {
        let mut now: HashMap<CgroupId, (Option<IdMask>, bool)> = HashMap::new();
        for (_, it) in processes.iter() {
            now.entry(it.group.id()).or_insert_with(|| {
                let cpus = cpus_of(&it.group);
                let changed = self.before.get(&it.group.id()) != cpus.as_ref();
                (cpus, changed)
            });
        }
        let limited = now.values().any(|(cpus, _)| cpus.is_some());
        if !limited && self.before.is_empty() {
            return None;
        }
        let mut tids = Vec::new();
        let mut busy = false;
        for (pid, it) in processes.iter() {
            let Some((cpus, changed)) = now.get(&it.group.id()) else { continue };
            busy |= it.moved;
            let look = *changed || (it.moved && !self.asks);
            if !look || it.zombie || mutant::is(Mutant::AffinityLost) {
                continue;
            }
            let before = self.before.get(&it.group.id());
            let all = || Cpuset::effective(&it.group).map(|css| css.effective_cpus());
            let Some(allowed) = cpus.clone().or_else(all) else { continue };
            tids.clear();
            if around.scanner.proc.threads(pid, &mut tids).is_err() {
                tids.push(pid);
            }
            for &tid in &tids {
                put_back(tid, &allowed, before.filter(|_| *changed));
            }
        }
        let keep = |(id, (cpus, _)): (CgroupId, (Option<IdMask>, bool))| Some((id, cpus?));
        self.before = now.into_iter().filter_map(keep).collect();
        (limited && !self.asks && busy).then(|| Instant::now() + LOOK.max(around.cost * 100))
    }
}

/// Restricts a thread to `allowed`. One that had all the CPUs of `before` gets all that there are
/// now; one that chose some of them keeps those that are left.
fn put_back(tid: RawPid, allowed: &IdMask, before: Option<&IdMask>) {
    let Ok(list) = sys::cpus_of(tid) else { return };
    let mut has = IdMask::default();
    for cpu in list {
        has.insert(cpu);
    }
    let chosen = before.is_none_or(|before| has != *before);
    let new = if chosen { has.and(allowed) } else { allowed.clone() };
    let new = if new.is_empty() { allowed.clone() } else { new };
    if new != has {
        // Refused if it is another user's: the label says `sampled`, not `exact`.
        let _ = sys::set_cpus_of(tid, new.iter());
    }
}
