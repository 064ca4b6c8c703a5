//! Who is in the tree, by names of the record's own.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use cgrove_core::{Cgroup, Hierarchy, Task};
use cgrove_files::Tree;

use super::{Access, path};
use crate::hooks;
use crate::mutant::{Mutant, broken};

struct Member {
    name: String,
    /// The path of its cgroup.
    at: String,
    /// It is being killed, which in a case is done at once.
    doomed: bool,
}

/// Processes by the number of their leaders' tasks, which never comes back.
#[derive(Default)]
pub(super) struct Members {
    known: BTreeMap<u64, Member>,
    named: usize,
}

/// The leaders in a tree, with their cgroups.
fn leaders(tree: &Tree) -> BTreeMap<u64, (Arc<Task>, Arc<Cgroup>)> {
    fn walk(
        hierarchy: &Hierarchy,
        cgroup: &Arc<Cgroup>,
        found: &mut BTreeMap<u64, (Arc<Task>, Arc<Cgroup>)>,
    ) {
        let leaders = hierarchy.threads(cgroup).into_iter().filter(|task| task.is_leader());
        found.extend(leaders.map(|task| (task.id().0, (task, Arc::clone(cgroup)))));
        for child in hierarchy.children(cgroup) {
            walk(hierarchy, &child, found);
        }
    }
    let mut found = BTreeMap::new();
    walk(tree.hierarchy(), tree.hierarchy().root(), &mut found);
    found
}

impl Members {
    fn fresh(&mut self) -> String {
        self.named += 1;
        format!("p{}", self.named)
    }

    /// The steps by which those that are known become those that are there. All are `ok`.
    pub(super) fn settle(&mut self, tree: &Tree) -> Vec<String> {
        let there = leaders(tree);
        let mut steps = Vec::new();
        self.known.retain(|id, member| {
            let stays = there.contains_key(id);
            if !stays && !broken(Mutant::EndsUnrecorded) {
                let verb = if member.doomed { "await" } else { "exit" };
                steps.push(format!("{verb} {}", member.name));
            }
            stays
        });
        for (id, (_, cgroup)) in &there {
            let at = hooks::path(cgroup, None);
            if let Some(member) = self.known.get_mut(id) {
                member.at = at;
                continue;
            }
            let name = self.fresh();
            steps.push(match path(cgroup, None).as_str() {
                "." => format!("spawn {name}"),
                path => format!("spawn {name} in {path}"),
            });
            self.known.insert(*id, Member { name, at, doomed: false });
        }
        steps
    }

    /// The name of a process, and the step that makes it if it has just been taken in.
    pub(super) fn name(&mut self, id: u64) -> (String, Option<String>) {
        let fresh = format!("p{}", self.named + 1);
        match self.known.entry(id) {
            Entry::Occupied(known) => (known.get().name.clone(), None),
            Entry::Vacant(new) => {
                self.named += 1;
                new.insert(Member { name: fresh.clone(), at: "/".into(), doomed: false });
                let step = format!("spawn {fresh}");
                (fresh, Some(step))
            }
        }
    }

    /// Somebody was moved: where all are now.
    pub(super) fn arrive(&mut self, tree: &Tree) {
        for (id, (_, cgroup)) in leaders(tree) {
            if let Some(member) = self.known.get_mut(&id) {
                member.at = hooks::path(&cgroup, None);
            }
        }
    }

    /// All in this cgroup and below are being killed.
    pub(super) fn doom(&mut self, cgroup: &str) {
        let below = format!("{}/", cgroup.trim_end_matches('/'));
        for member in self.known.values_mut() {
            member.doomed |= member.at == cgroup || member.at.starts_with(&below);
        }
    }

    /// Somebody is dying, or has come or gone since they were last settled.
    pub(super) fn in_motion(&self, tree: &Tree) -> bool {
        self.known.values().any(|member| member.doomed)
            || !leaders(tree).keys().eq(self.known.keys())
    }

    /// A list of pids as a case has it: by name, in the names' order. `None` if one has no name.
    pub(super) fn named(&self, by: &Access<'_>, text: &str) -> Option<String> {
        let names: BTreeMap<u32, &str> = leaders(by.tree)
            .iter()
            .filter_map(|(id, (task, _))| {
                Some((by.tasks.pid(task)?, self.known.get(id)?.name.as_str()))
            })
            .collect();
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.push(format!("${}\n", names.get(&line.parse().ok()?)?));
        }
        lines.sort();
        Some(lines.concat())
    }
}
