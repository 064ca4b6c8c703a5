//! exec by a thread: the process goes on in it.
//!
//! When a thread that does not lead its process calls `execve`, every other
//! thread ends and the caller takes the leader's place and pid (`de_thread`). It
//! stays in the css_set that it was in, which in a threaded subtree need not be
//! the leader's. For the core the caller becomes the leader of a process of one.

use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::Hierarchy;
use crate::sync::Ordering;
use crate::task::{Membership, Stage, Task};
use alloc::sync::Arc;

impl Hierarchy {
    /// The task has called `execve` and the other threads of its process have
    /// begun to exit, the leader included. Returns the task as the leader that it
    /// is now, under the same id and with the same charges; the handle passed in
    /// is freed, unless it led the process already and is the one returned.
    ///
    /// # Errors
    /// ESRCH if it has begun to exit; EBUSY while another thread has not.
    pub fn exec(&self, task: &Arc<Task>, fx: &mut Effects) -> Result<Arc<Task>, Errno> {
        let _ = fx;
        // Nobody moves, so the task holds still but for its own end.
        let _tree = self.inner.tree_lock.lock();
        let mut at = task.cset.lock();
        let Some(cset) = at.as_ref().filter(|_| !task.is(Stage::EXITING)) else {
            return Err(Errno::ESRCH);
        };
        if task.group_live() > 1 {
            return Err(Errno::EBUSY);
        }
        if task.is_leader() {
            return Ok(Arc::clone(task));
        }
        let old = task.leader();
        let new = Task::new(task.id, Membership::Process, Arc::clone(cset));
        new.mark(Stage::KILLED, old.is(Stage::KILLED));
        new.mark(Stage::BOUND, task.is(Stage::BOUND));
        new.mark(Stage::FROZEN, task.is(Stage::FROZEN));
        {
            let mut list = cset.list.lock();
            list.take(task);
            list.link(Arc::clone(&new));
            // Under the list's lock: a reader of the list sees one of the two.
            task.mark(Stage::EXITING | Stage::DEAD | Stage::REAPED | Stage::FREED, true);
            task.mark(Stage::FROZEN, false);
            old.live.fetch_sub(1, Ordering::AcqRel);
        }
        // Its reference on the set is the new handle's now.
        *at = None;
        drop(at);
        task.leave_group();
        Ok(new)
    }
}
