//! `cgroup.kill`: end every process of a subtree, those being born included.
//!
//! The killer bumps the cgroup's sequence number to odd, reads the task lists,
//! each under its lock, marking the processes it finds, and bumps it to even
//! again. A fork takes a list's lock twice: to sample the number and test its
//! parent's mark, and to link its child, after which it compares the number.
//! Where the killer had the list
//!
//! * before both: the parent is marked and the fork is refused;
//! * between, and the sample was odd or has changed: the fork asks for its
//!   child's death itself. It has: an even sample older than the killer's first
//!   bump differs from what the second lock shows;
//! * after both: the child is in the list.
//!
//! One bump before the lists is not enough: a fork that samples after the bump
//! and before the list is read has an unmarked parent and an equal number.
//! A flag instead of a number would be cleared too early or too late (a Linux
//! defect until January 2025).

use crate::cgroup::Cgroup;
use crate::effect::{Effect, Effects};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::sync::Ordering;
use crate::sync::mutant::{Mutant, broken};
use crate::task::Stage;
use alloc::sync::Arc;

impl Hierarchy {
    /// Asks for SIGKILL to every process of `cgroup` and of the live cgroups
    /// below it. Does not wait for them to die.
    ///
    /// # Errors
    /// ENOENT on a removed cgroup; EOPNOTSUPP on a threaded one, which has parts
    /// of processes.
    pub fn kill(&self, cgroup: &Arc<Cgroup>, fx: &mut Effects) -> Result<(), Errno> {
        let tree = self.inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENOENT);
        }
        if cgroup.is_threaded(&tree) {
            return Err(Errno::EOPNOTSUPP);
        }
        let depth = if broken(Mutant::KillStaysHere) { 1 } else { usize::MAX };
        for below in Inner::live_preorder(cgroup, &tree).into_iter().take(depth) {
            let set = self.inner.set_lock.lock();
            let bump = if self.inner.mutation.is(Mutant::KillBumpsOnce) { 2 } else { 1 };
            below.kill_seq.fetch_add(bump, Ordering::AcqRel);
            for cset in below.csets(&set) {
                let list = cset.list.lock();
                for task in list.visible().chain(list.dead_leaders()) {
                    let leader = task.leader();
                    // Once per process: a second kill has nothing to add.
                    if task.group_live() > 0 && leader.advance(Stage::KILLED, Stage::empty()) {
                        fx.push(Effect::Kill(leader.id));
                    }
                }
            }
            below.kill_seq.fetch_add(2 - bump, Ordering::AcqRel);
        }
        Ok(())
    }
}
