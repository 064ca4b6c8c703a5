//! The interface files of a run's cgroup, for whoever comes to the door.
//!
//! The core and its files know everything that cgroup2 knows; a run enforces only some of it. What
//! it cannot enforce it does not show: a file that takes a value and does nothing is worse than
//! none, since programs look at what there is to find out what they can rely on.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use cgrove_core::{Cgroup, Effect, Hierarchy, Task, WriteError};
use cgrove_files::{Caller, Cred, File, Node, OpenFlags, Tasks, Tree};
use nix::errno::Errno;

use super::{CoreErrno, GroupId, Known, Ledger};
use crate::door::CHUNK;
use crate::sys::RawPid;

/// Files of the core that nothing here acts upon.
pub(super) const NOT_ENFORCED: [&str; 17] = [
    "cgroup.type",
    // Nothing here reclaims, and swap is counted with memory.
    "memory.low",
    "memory.min",
    "memory.reclaim",
    "memory.swap.current",
    "memory.swap.events",
    "memory.swap.high",
    "memory.swap.max",
    "memory.swap.peak",
    "cpu.idle",
    "cpu.stat.local",
    "cpu.weight.nice",
    "cpuset.cpus.exclusive",
    "cpuset.cpus.exclusive.effective",
    "cpuset.mems",
    "cpuset.mems.effective",
    "memory.events.local",
];

/// Files that take what to move.
const MOVES_TASKS: [&str; 2] = ["cgroup.procs", "cgroup.threads"];

/// A file that has more to read.
pub(super) struct Reading {
    path: String,
    name: String,
    open: File,
}

impl Ledger {
    /// The names in the directory of a cgroup, those of cgroups with a slash behind, a line each.
    pub fn list(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let cgroup = self.below(path)?;
        let entries = self.tree().readdir(&cgroup, &Cred::root()).map_err(errno)?;
        let mut names = Vec::new();
        for entry in entries {
            if !NOT_ENFORCED.iter().any(|hidden| hidden.as_bytes() == entry.name) {
                names.extend_from_slice(&entry.name);
                names.extend_from_slice(if entry.node.is_dir() { b"/\n" } else { b"\n" });
            }
        }
        Ok(names)
    }

    /// At most [`CHUNK`] bytes of a file. Whoever goes on reading gets more of what he began with: a
    /// list that was made anew would go on in the middle of another pid.
    pub fn get(&mut self, path: &str, file: &str, offset: u64) -> Result<Vec<u8>, Errno> {
        let begun =
            self.reading.take().filter(|it| offset > 0 && it.path == path && it.name == file);
        let reading = match begun {
            Some(begun) => begun,
            None => {
                let open = self.open(path, file, OpenFlags::READ)?;
                Reading { path: path.to_owned(), name: file.to_owned(), open }
            }
        };
        let cred = Cred::root();
        let caller = Caller { cred: &cred, tasks: &Names::of(&self.known) };
        let content = self.tree().read_at(&reading.open, offset, CHUNK, caller, self.now());
        if content.as_ref().is_ok_and(|content| content.len() == CHUNK) {
            self.reading = Some(reading);
        }
        content.map_err(errno)
    }

    /// Writes a file. Returns whether tasks are to be killed for it.
    ///
    /// EOPNOTSUPP for those that move tasks: membership is ancestry here.
    pub fn set(&mut self, path: &str, file: &str, value: &[u8]) -> Result<bool, Errno> {
        if MOVES_TASKS.contains(&file) {
            return Err(Errno::EOPNOTSUPP);
        }
        let controls = file == "cgroup.subtree_control";
        self.fx.set_now(self.now());
        // Whoever lowers a limit does not wait: the next sample brings the usage down.
        let flags = OpenFlags { nonblock: true, ..OpenFlags::WRITE };
        let file = self.open(path, file, flags)?;
        let cred = Cred::root();
        let caller = Caller { cred: &cred, tasks: &Names::of(&self.known) };
        let written = made(&self.tree, &self.hierarchy).write(&file, value, caller, &mut self.fx);
        let done = match written {
            Ok(written) => written.without_help(&mut self.fx).map(drop).map_err(errno),
            Err(WriteError::Refused(refused)) => Err(errno(refused)),
            // The supervisor cannot wait, and whoever asks can ask again.
            Err(WriteError::WouldWait(_)) => Err(Errno::EAGAIN),
        };
        let mut kill = false;
        let mut work = false;
        for effect in self.fx.drain() {
            match effect {
                Effect::Kill(_) => kill = true,
                Effect::Work(_) => work = true,
                Effect::Freeze(id) => self.orders.push((id, true)),
                Effect::Unfreeze(id) => self.orders.push((id, false)),
                _ => {}
            }
        }
        if work {
            self.hierarchy.pump(&mut self.fx);
        }
        self.perform();
        if controls {
            self.refresh();
        }
        done.map(|()| kill)
    }

    pub(super) fn tree(&self) -> &Tree {
        made(&self.tree, &self.hierarchy)
    }

    fn open(&self, path: &str, file: &str, flags: OpenFlags) -> Result<File, Errno> {
        if NOT_ENFORCED.contains(&file) {
            return Err(Errno::ENOENT);
        }
        let cgroup = self.below(path)?;
        let cred = Cred::root();
        match self.tree().lookup(&cgroup, file.as_bytes(), &cred).map_err(errno)? {
            // An own name for a directory, such as `.`, is none for a file.
            node @ Node::File(_) => self.tree().open(&node, flags, &cred).map_err(errno),
            Node::Dir(_) => Err(Errno::EISDIR),
        }
    }

    /// A cgroup by its path below the run's own, which nothing leads out of.
    pub(super) fn below(&self, path: &str) -> Result<Arc<Cgroup>, Errno> {
        let mut at = Arc::clone(&self.group(GroupId::RUN).cgroup);
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                return Err(Errno::ENOENT);
            }
            match self.tree().lookup(&at, name.as_bytes(), &Cred::root()).map_err(errno)? {
                Node::Dir(cgroup) => at = cgroup,
                Node::File(_) => return Err(Errno::ENOTDIR),
            }
        }
        Ok(at)
    }
}

/// Few runs are ever looked into, and each would pay for the tables.
pub(super) fn made<'t>(tree: &'t OnceCell<Tree>, hierarchy: &Hierarchy) -> &'t Tree {
    tree.get_or_init(|| Tree::builder(hierarchy.clone()).build())
}

fn errno(core: CoreErrno) -> Errno {
    Errno::from_raw(core.code())
}

/// Tasks by the pids that the supervisor knows them under, and back.
pub(super) struct Names<'a> {
    known: Option<&'a HashMap<RawPid, Known>>,
    pids: HashMap<u64, RawPid>,
}

impl<'a> Names<'a> {
    fn of(known: &'a HashMap<RawPid, Known>) -> Names<'a> {
        let pids = known.iter().map(|(pid, known)| (known.task.id().0, *pid)).collect();
        Names { known: Some(known), pids }
    }

    /// For files that name no task.
    pub(super) fn nobody() -> Names<'a> {
        Names { known: None, pids: HashMap::new() }
    }
}

impl Tasks for Names<'_> {
    fn find(&self, pid: u32) -> Option<Arc<Task>> {
        let pid = RawPid::try_from(pid).ok()?;
        self.known?.get(&pid).map(|known| Arc::clone(&known.task))
    }

    fn pid(&self, task: &Arc<Task>) -> Option<u32> {
        u32::try_from(*self.pids.get(&task.id().0)?).ok()
    }
}
