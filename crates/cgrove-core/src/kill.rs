//! `cgroup.kill`: end every process of a subtree, those being born included.
//!
//! The killer bumps the cgroup's sequence number and then reads the task lists,
//! each under its lock, marking the processes it finds. A fork takes the same
//! lock twice: to sample the number and test its parent's mark, and to link its
//! child, after which it compares the number.
//!
//! * Killer before both: the parent is marked and the fork is refused.
//! * Killer between: the number sampled is the old one, and the second lock
//!   shows the new one, so the fork asks for its child's death itself.
//! * Killer after both: the child is in the list.
//!
//! A flag instead of a number would be cleared too early or too late (a Linux
//! defect until January 2025).

use crate::cgroup::Cgroup;
use crate::effect::{Effect, Effects};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::sync::Ordering;
use crate::task::Stage;
use alloc::sync::Arc;

impl Hierarchy {
    /// Asks for SIGKILL to every process of `cgroup` and of the live cgroups
    /// below it. Does not wait for them to die.
    ///
    /// # Errors
    /// ENOENT on a removed cgroup.
    pub fn kill(&self, cgroup: &Arc<Cgroup>, fx: &mut Effects) -> Result<(), Errno> {
        let tree = self.inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENOENT);
        }
        for below in Inner::live_preorder(cgroup, &tree) {
            let set = self.inner.set_lock.lock();
            below.kill_seq.fetch_add(1, Ordering::AcqRel);
            for cset in below.csets(&set) {
                let list = cset.list.lock();
                for task in list.visible().chain(&list.dying) {
                    let leader = task.leader();
                    // Once per process: a second kill has nothing to add.
                    if task.group_live() > 0 && leader.advance(Stage::KILLED, Stage::empty()) {
                        fx.push(Effect::Kill(leader.id));
                    }
                }
            }
        }
        Ok(())
    }
}
