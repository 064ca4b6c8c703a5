//! Whom to kill when memory is over its limit: the kernel's choice (`oom_badness`,
//! `mem_cgroup_get_oom_group`).

use std::sync::Arc;

use cgrove_core::Cgroup;
use cgrove_core::controller::memory::{Memory as Controller, MemoryCss};
use cgrove_core::controller::page_counter::PAGE_SIZE;

use super::Around;
use super::memory::is_below;
use super::processes::{Process, Processes};
use crate::mutant::{self, Mutant};
use crate::sys::RawPid;

/// `oom_score_adj` of whoever is never to be killed.
const NEVER: i64 = -1000;

/// Pages and `oom_score_adj`, as the kernel adds them up; `None` is never chosen. `total`: the pages
/// that the group may have.
fn badness(weight: u64, adj: i64, total: u64) -> Option<i128> {
    (adj > NEVER).then(|| i128::from(weight) + i128::from(adj) * i128::from(total) / 1000)
}

/// Those to be killed, for a limit of `max` bytes that `domain` has passed: one, or with
/// `memory.oom.group` a whole cgroup. Nobody if all that are left are never to be.
pub(super) fn victims(
    level: &Arc<Cgroup>,
    domain: &Arc<MemoryCss>,
    max: u64,
    processes: &Processes,
    around: &mut Around<'_>,
) -> Vec<RawPid> {
    let candidates: Vec<(RawPid, &Process)> = processes
        .iter()
        .filter(|(_, it)| !it.zombie && it.resident > 0 && is_below(&it.group, level))
        .collect();
    let mut worst: Option<((bool, i128, RawPid), &Process)> = None;
    for &(pid, it) in &candidates {
        let at = it.via.unwrap_or(pid);
        let weight = around.scanner.proc.oom_weight(at).unwrap_or(it.resident) / PAGE_SIZE;
        let adj = around.scanner.proc.oom_score_adj(at).unwrap_or(0);
        let Some(points) = badness(weight, adj, max / PAGE_SIZE) else { continue };
        // With its reaper a group dies whole, which nobody asked for: that one goes last. Of two the
        // younger, whoever is listed first.
        let spared = around.ledger.reaps(pid).is_some() && !mutant::is(Mutant::ReaperChosen);
        let rank = (!spared, points, pid);
        if worst.is_none_or(|(most, _)| rank > most) {
            worst = Some((rank, it));
        }
    }
    let Some(((_, _, pid), victim)) = worst else { return Vec::new() };
    let group = Controller::effective(&victim.group).and_then(|css| css.oom_group_of(domain));
    let Some(group) = group else { return vec![pid] };
    let of_group = |it: &Process| {
        std::iter::successors(Some(&it.group), |cgroup| cgroup.parent())
            .any(|cgroup| Controller::css(cgroup).is_some_and(|css| Arc::ptr_eq(&css, &group)))
    };
    around.ledger.report(|fx| {
        group.event(cgrove_core::controller::memory::MemoryEvent::OomGroupKill, fx);
    });
    let mut all = Vec::new();
    for (pid, it) in candidates {
        let at = it.via.unwrap_or(pid);
        if of_group(it) && around.scanner.proc.oom_score_adj(at).unwrap_or(0) > NEVER {
            all.push(pid);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_pages_and_a_share_of_the_limit() {
        assert_eq!(badness(100, 0, 1000), Some(100));
        assert_eq!(badness(100, 500, 1000), Some(600));
        assert_eq!(badness(100, -500, 1000), Some(-400));
        assert_eq!(badness(100, -999, 1000), Some(-899));
        assert_eq!(badness(u64::MAX, -1000, 1000), None);
    }
}
