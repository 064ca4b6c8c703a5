//! Who calls: credentials and tasks, as values.
//!
//! Users and pids are the embedder's. Every operation is told the credentials
//! of its caller; a pid means whatever task the caller's pid namespace says.

use crate::attr::Attrs;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::{Cgroup, Errno, Task};
use core::fmt;

/// The credentials of a caller, or of whoever opened a file.
///
/// The user 0 has every capability and no other user has any.
#[derive(Clone, Debug, Default)]
pub struct Cred {
    /// The user that files are judged by (fsuid).
    pub uid: u32,
    /// The group that files are judged by (fsgid).
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The root of the cgroup namespace; `None` for the initial one, which has
    /// the hierarchy's.
    pub namespace: Option<Arc<Cgroup>>,
}

bitflags::bitflags! {
    /// What somebody wants to do with a file or directory.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u16 {
        /// Look a name up in a directory.
        const EXEC = 1;
        /// Write a file; make or remove a name in a directory.
        const WRITE = 2;
        /// Read a file; list a directory.
        const READ = 4;
    }
}

impl Cred {
    /// The superuser in the initial namespace.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// A user with one group, in the initial namespace.
    #[must_use]
    pub fn user(uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..Self::default() }
    }

    /// Whether it has all capabilities.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether it is in a group.
    #[must_use]
    pub fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether it may do this with what has these attributes
    /// (`generic_permission`).
    ///
    /// # Errors
    /// EACCES.
    pub fn check(&self, attrs: &Attrs, access: Access) -> Result<(), Errno> {
        let class = if self.uid == attrs.uid {
            attrs.mode >> 6
        } else if self.is_in(attrs.gid) {
            attrs.mode >> 3
        } else {
            attrs.mode
        };
        if self.is_root() || access.bits() & !class == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// What the embedder knows of tasks and pids, from where one caller stands.
pub trait Tasks {
    /// The task with this pid in the caller's pid namespace, or the caller's own
    /// for 0.
    fn find(&self, pid: u32) -> Option<Arc<Task>>;

    /// The pid of a task in the caller's pid namespace. One that is not in it
    /// is listed as 0.
    fn pid(&self, task: &Arc<Task>) -> Option<u32>;
}

/// Knows no tasks: for callers that move and list none.
#[derive(Clone, Copy, Debug)]
pub struct NoTasks;

impl Tasks for NoTasks {
    fn find(&self, _pid: u32) -> Option<Arc<Task>> {
        None
    }

    fn pid(&self, _task: &Arc<Task>) -> Option<u32> {
        None
    }
}

/// The caller of a read or a write.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// Whom the files that a write makes belong to.
    pub cred: &'a Cred,
    /// Its view of tasks.
    pub tasks: &'a dyn Tasks,
}

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("cred", self.cred).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_decides_and_root_passes() {
        let attrs = Attrs { mode: 0o074, uid: 5, gid: 6 };
        let group = Cred { groups: alloc::vec![6], ..Cred::user(7, 7) };
        assert_eq!(Cred::user(5, 6).check(&attrs, Access::READ), Err(Errno::EACCES));
        assert_eq!(group.check(&attrs, Access::READ | Access::WRITE), Ok(()));
        assert_eq!(Cred::user(7, 7).check(&attrs, Access::READ), Ok(()));
        assert_eq!(Cred::user(7, 7).check(&attrs, Access::WRITE), Err(Errno::EACCES));
        assert_eq!(Cred::root().check(&attrs, Access::all()), Ok(()));
    }
}
