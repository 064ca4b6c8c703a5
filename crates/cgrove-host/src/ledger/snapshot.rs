//! What a watcher is told: see [`crate::snapshot`].

use std::collections::HashMap;
use std::sync::Arc;

use cgrove_core::{Cgroup, CgroupId};
use cgrove_files::{Caller, Cred, Node, OpenFlags};
use nix::errno::Errno;

use super::files::{NOT_ENFORCED, Names};
use super::{GroupId, Ledger};
use crate::door::CHUNK;
use crate::report::{Backend, nanos};
use crate::snapshot::{FILES, Group, MAX_GROUPS, MAX_PROCESSES, Snapshot};

impl Ledger {
    /// At most [`CHUNK`] bytes of a snapshot in JSON. At offset 0 it is taken; whoever goes on
    /// reading gets more of that one. It is of the group `top` and those below. What is known `outside`
    /// of the run's own files, that goes.
    pub fn snapshot(
        &mut self,
        backend: Backend,
        top: GroupId,
        offset: u64,
        outside: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<u8>, Errno> {
        let text = match self.snapshot.take().filter(|(of, _)| offset > 0 && *of == top) {
            Some((_, taken)) => taken,
            None => serde_json::to_vec(&self.take_snapshot(backend, top, outside))
                .map_err(|_| Errno::ENOMEM)?,
        };
        let begin = usize::try_from(offset).map_or(text.len(), |at| at.min(text.len()));
        let end = text.len().min(begin + CHUNK);
        let chunk = text[begin..end].to_vec();
        if end < text.len() {
            self.snapshot = Some((top, text));
        }
        Ok(chunk)
    }

    fn take_snapshot(
        &self,
        backend: Backend,
        top: GroupId,
        outside: &dyn Fn(&str) -> Option<String>,
    ) -> Snapshot {
        let mut pids: HashMap<CgroupId, Vec<i32>> = HashMap::new();
        let leaders = self.known.iter().filter(|(tid, known)| known.tgid == **tid);
        for (pid, known) in leaders.take(MAX_PROCESSES) {
            if let Some(cgroup) = known.task.cgroup() {
                pids.entry(cgroup.id()).or_default().push(*pid);
            }
        }
        let mut groups = Vec::new();
        let mut todo = vec![(Arc::clone(&self.group(top).cgroup), self.path_below(top))];
        while let Some((cgroup, path)) = todo.pop() {
            if groups.len() == MAX_GROUPS {
                todo.push((cgroup, path));
                break;
            }
            let mut children = self.hierarchy.children(&cgroup);
            // The last is taken first.
            children.sort_by(|a, b| b.name().cmp(a.name()));
            todo.extend(children.into_iter().map(|child| {
                let slash = if path.is_empty() { "" } else { "/" };
                let below = format!("{path}{slash}{}", child.name());
                (child, below)
            }));
            let mut pids = pids.remove(&cgroup.id()).unwrap_or_default();
            pids.sort_unstable();
            let is_run = Arc::ptr_eq(&cgroup, &self.group(GroupId::RUN).cgroup);
            let files = FILES.iter().filter_map(|file| {
                let theirs = is_run.then(|| outside(file)).flatten();
                Some(((*file).to_owned(), theirs.or_else(|| self.whole(&cgroup, file))?))
            });
            groups.push(Group { files: files.collect(), path, pids });
        }
        Snapshot {
            name: self.group(GroupId::RUN).cgroup.name().to_owned(),
            backend,
            wall_ns: nanos(self.started.elapsed()),
            truncated: !todo.is_empty() || self.known.len() > MAX_PROCESSES,
            groups,
        }
    }

    /// A short file, if the cgroup has it.
    pub(crate) fn whole(&self, cgroup: &Arc<Cgroup>, file: &str) -> Option<String> {
        if NOT_ENFORCED.contains(&file) {
            return None;
        }
        let cred = Cred::root();
        let node = self.tree().lookup(cgroup, file.as_bytes(), &cred).ok()?;
        let Node::File(_) = node else { return None };
        let open = self.tree().open(&node, OpenFlags::READ, &cred).ok()?;
        // None of them lists tasks.
        let caller = Caller { cred: &cred, tasks: &Names::nobody() };
        let text = self.tree().read_at(&open, 0, CHUNK, caller, self.now()).ok()?;
        Some(String::from_utf8_lossy(&text).trim_end().to_owned())
    }
}
