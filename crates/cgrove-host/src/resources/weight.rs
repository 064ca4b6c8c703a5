//! `cpu.weight`, as far as niceness can carry it.
//!
//! The scheduler gives a task of nice n a share that falls by a fifth with each step, and a weight of
//! 100 is nice 0. So a group's weight becomes the niceness that comes closest, added up over the
//! levels, and added to what its tasks have of their own. That is not what a cgroup gives: a group of
//! ten tasks gets ten times the share of one, and where the kernel groups tasks by session
//! (`sched_autogroup_enabled`) niceness counts within a session only. To lower niceness takes
//! CAP_SYS_NICE or RLIMIT_NICE.

use std::sync::Arc;

use cgrove_core::Cgroup;
use cgrove_core::controller::cpu::Cpu as Controller;

use super::Around;
use super::processes::Processes;
use crate::sys;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Weight {
    /// A weight was set somewhere.
    on: bool,
    /// Somebody's niceness could not be changed.
    pub refused: bool,
}

/// The niceness that a group adds.
fn nice(cgroup: &Arc<Cgroup>) -> i32 {
    let levels = std::iter::successors(Some(cgroup), |cgroup| cgroup.parent());
    let nice = levels.filter_map(|cgroup| Controller::css(cgroup)).map(|css| css.weight_nice());
    i32::try_from(nice.sum::<i64>()).unwrap_or(0).clamp(-20, 19)
}

impl Weight {
    pub fn step(&mut self, processes: &mut Processes, around: &mut Around<'_>) {
        if !self.on {
            self.on = processes.iter().any(|(_, it)| nice(&it.group) != 0);
            if !self.on {
                return;
            }
        }
        processes.inherit_nice();
        let mut tids = Vec::new();
        for (pid, it) in processes.iter_mut().filter(|(_, it)| !it.zombie) {
            let wanted = nice(&it.group);
            let more = wanted - it.nice.unwrap_or(0);
            if more == 0 {
                it.nice = Some(wanted);
                continue;
            }
            tids.clear();
            if around.scanner.proc.threads(pid, &mut tids).is_err() {
                tids.push(pid);
            }
            for &tid in &tids {
                let Ok(own) = sys::nice_of(tid) else { continue };
                let new = own.saturating_add(more).clamp(-20, 19);
                let gone = nix::errno::Errno::ESRCH;
                self.refused |= sys::set_nice_of(tid, new).is_err_and(|errno| errno != gone);
            }
            it.nice = Some(wanted);
        }
    }
}
