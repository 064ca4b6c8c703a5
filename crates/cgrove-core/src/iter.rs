//! Listings: which tasks a reader of `cgroup.procs` or `cgroup.threads` sees.
//!
//! The two differ on purpose, as in Linux. `threads` shows every task but the
//! hidden ones. `procs` shows leaders, and among them those that are dead while
//! threads of theirs live on, because the process still exists under that pid.

use crate::cgroup::Cgroup;
use crate::errno::Errno;
use crate::hierarchy::Hierarchy;
use crate::task::Task;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Hierarchy {
    /// The tasks of `cgroup` itself, unsorted (`cgroup.threads`).
    #[must_use]
    pub fn threads(&self, cgroup: &Cgroup) -> Vec<Arc<Task>> {
        let set = self.inner.set_lock.lock();
        let mut tasks = Vec::new();
        for cset in cgroup.csets(&set) {
            tasks.extend(cset.list.lock().visible().cloned());
        }
        tasks
    }

    /// The process leaders of `cgroup` itself and of the threaded cgroups whose
    /// domain it is, unsorted (`cgroup.procs`).
    ///
    /// # Errors
    /// EOPNOTSUPP on a threaded cgroup: a process belongs to its domain.
    pub fn procs(&self, cgroup: &Cgroup) -> Result<Vec<Arc<Task>>, Errno> {
        let tree = self.inner.tree_lock.lock();
        if cgroup.is_threaded(&tree) {
            return Err(Errno::EOPNOTSUPP);
        }
        let set = self.inner.set_lock.lock();
        let mut leaders = Vec::new();
        for cset in cgroup.domain_csets(&set) {
            let list = cset.list.lock();
            leaders.extend(list.visible().filter(|task| task.is_leader()).cloned());
            leaders.extend(list.dead_leaders().cloned());
        }
        Ok(leaders)
    }

    /// How many live children `cgroup` has.
    #[must_use]
    pub fn nr_children(&self, cgroup: &Cgroup) -> usize {
        cgroup.tree.get(&self.inner.tree_lock.lock()).children.len()
    }

    /// The live children of `cgroup`, by name.
    #[must_use]
    pub fn children(&self, cgroup: &Cgroup) -> Vec<Arc<Cgroup>> {
        let tree = self.inner.tree_lock.lock();
        cgroup.tree.get(&tree).children.values().cloned().collect()
    }
}
