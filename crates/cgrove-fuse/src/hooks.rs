//! What stands between the requests and the tree, for those who test clients.
//!
//! A mount without it has an empty pointer here and asks nobody anything.

use std::time::Duration;

use cgrove_core::Cgroup;
use cgrove_files::Tree;
use nix::errno::Errno;

use crate::fault::{self, Fault, Op};
use crate::late::Late;
use crate::record::Recorder;

/// What a mount does otherwise than the tree; by default nothing.
#[derive(Debug, Default)]
pub struct Hooks {
    /// Requests that are refused on purpose. Of several that match, the first that has some left.
    pub faults: Vec<Fault>,
    /// `cgroup.events` says `populated 1` for so long after the last task has gone, and only then
    /// is the change told. It counts from when the mount learns that the task has gone; only cgroups
    /// made through the mount are late.
    pub populated: Option<Duration>,
    /// Keeps a record of what is asked and answered. Refusals on purpose are not the tree's answers,
    /// and are not in it.
    pub record: Option<Recorder>,
}

/// The same at work.
pub(crate) struct Armed {
    faults: Vec<Fault>,
    pub(crate) late: Option<Late>,
    pub(crate) record: Option<Recorder>,
}

impl Hooks {
    /// Nothing, if there is nothing to do.
    pub(crate) fn arm(self, tree: &Tree) -> Option<Box<Armed>> {
        let Hooks { faults, populated, record } = self;
        if faults.is_empty() && populated.is_none() && record.is_none() {
            return None;
        }
        if let Some(record) = &record {
            record.attach(tree);
        }
        Some(Box::new(Armed { faults, late: populated.map(Late::new), record }))
    }
}

impl Armed {
    /// Whether a request on a cgroup, or on a name in it, is refused.
    pub(crate) fn strikes(&self, op: Op, cgroup: &Cgroup, name: Option<&str>) -> Option<Errno> {
        if self.faults.is_empty() {
            return None;
        }
        fault::first(&self.faults, op, &path(cgroup, name))
    }
}

/// The path of a cgroup, or of a name in it, from the root of the tree. It stays when the cgroup is
/// gone.
pub(crate) fn path(cgroup: &Cgroup, name: Option<&str>) -> String {
    let path = cgroup.path();
    let path = if cgroup.is_dead() { path.trim_end_matches(" (deleted)") } else { &path };
    match name {
        None => path.to_owned(),
        Some(name) => format!("{}/{name}", path.trim_end_matches('/')),
    }
}
