//! Who may move what: the rules of delegation, on credentials passed in.
//!
//! A part of the tree is given away by giving away its files. Whoever moves a
//! task must be able to write `cgroup.procs` of the nearest cgroup that source
//! and destination are both below, so a delegatee moves tasks within its part
//! and neither in nor out (`cgroup-v2.rst`, "Delegation Containment"). It is
//! judged by the credentials of whoever *opened* the file: a descriptor handed
//! to a privileged program gives nobody its privileges.
//!
//! Users, modes and namespaces are the embedder's; the core asks.

use crate::cgroup::Cgroup;
use crate::errno::Errno;
use crate::sync::mutant::{Mutant, broken};
use alloc::sync::Arc;
use core::fmt;

/// The one who opened the file that is written, or who forks into a cgroup.
#[derive(Clone, Copy)]
pub struct Opener<'a> {
    /// Whether the opener may write `cgroup.procs` of this cgroup, and if not
    /// why: EACCES. Called with the tree locked; it must not call back.
    pub may_write: &'a dyn Fn(&Cgroup) -> Result<(), Errno>,
    /// The root of the opener's cgroup namespace where such namespaces are
    /// boundaries of delegation (mount option `nsdelegate`); else `None`.
    pub namespace: Option<&'a Arc<Cgroup>>,
}

impl Opener<'_> {
    /// One who may do everything.
    pub const ROOT: Opener<'static> = Opener { may_write: &|_| Ok(()), namespace: None };

    /// `cgroup_procs_write_permission`.
    pub(crate) fn may_move(&self, from: &Cgroup, to: &Cgroup) -> Result<(), Errno> {
        let common = nearest_above_both(from, to);
        let common = if broken(Mutant::CommonAncestorIgnored) { to } else { common };
        (self.may_write)(common)?;
        match self.namespace {
            Some(root) if !from.is_within(root) || !to.is_within(root) => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }
}

/// The root is above any two, so this ends; in as many steps as they are deep.
fn nearest_above_both<'a>(mut one: &'a Cgroup, mut other: &'a Cgroup) -> &'a Cgroup {
    while !core::ptr::eq(one, other) {
        let deeper = if one.level < other.level { &mut other } else { &mut one };
        match &deeper.parent {
            Some(parent) => *deeper = parent,
            None => break,
        }
    }
    one
}

impl fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}
