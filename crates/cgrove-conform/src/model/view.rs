//! What a case has brought about so far, for whoever draws the next step.

use cgrove_files::{Cred, Node, Tree};

use super::files::Scene;
use super::target::CoreTarget;
use super::world::{INIT, World};
use crate::case::Text;

impl CoreTarget {
    /// The processes.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The names of the case's tasks that have not been reaped, and their thread ids.
    pub fn task_names(&self) -> impl Iterator<Item = (&str, u32)> {
        let named = self.tasks.iter().filter(|(_, task)| !task.reaped);
        named.map(|(name, task)| (name.as_str(), task.tid))
    }

    /// Whether a task has a step to finish before it can do another.
    #[must_use]
    pub fn owes(&self, name: &str) -> bool {
        self.tasks.get(name).is_some_and(|task| task.owed.is_some() || !task.queue.is_empty())
    }

    /// Whether a task does at once what it is asked to.
    #[must_use]
    pub fn answers(&self, name: &str) -> bool {
        !self.owes(name) && self.tasks.get(name).is_some_and(|task| self.world.runs(task.tid))
    }

    /// Whether the death of a task's process is held half-way.
    #[must_use]
    pub fn is_holdable(&self, name: &str) -> bool {
        self.tasks.get(name).is_some_and(|task| task.holdable)
    }

    /// Whether no thread of a task's process has a step to finish.
    #[must_use]
    pub fn all_quiet(&self, name: &str) -> bool {
        let Some(pid) = self.tasks.get(name).map(|task| task.pid) else { return false };
        self.tasks.iter().all(|(other, task)| task.pid != pid || !self.owes(other))
    }

    /// Whether a task has done what it was asked and was `blocked` over.
    #[must_use]
    pub fn answer_is_ready(&self, name: &str) -> bool {
        let owed = self.tasks.get(name).and_then(|task| task.owed.as_ref());
        owed.is_some_and(|owed| owed.answer.is_some())
    }

    /// Whether whoever would have to reap a task is there to do it.
    #[must_use]
    pub fn parent_answers(&self, name: &str) -> bool {
        let parent = self.tasks.get(name).and_then(|task| task.parent.as_deref());
        parent.is_none_or(|parent| !self.lives(parent) || self.answers(parent))
    }

    /// The names of all files that a cgroup may have.
    #[must_use]
    pub fn file_names(&self) -> Vec<String> {
        self.tree.defs().map(|(_, def)| def.name.to_string()).collect()
    }

    /// The names of the files that a cgroup has.
    #[must_use]
    pub fn files_of(&self, path: &str) -> Vec<String> {
        let root = Cred::root();
        let Ok(Node::Dir(dir)) = self.tree.walk(path.as_bytes(), &root) else {
            return Vec::new();
        };
        let entries = self.tree.readdir(&dir, &root).unwrap_or_default();
        let files = entries.into_iter().filter(|entry| !entry.node.is_dir());
        files.map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    /// What a line of a cgroup's `cgroup.stat` says.
    #[must_use]
    pub fn stat_of(&self, path: &str, key: &str) -> Option<String> {
        let cred = Cred::root();
        let scene = Scene { tree: &self.tree, world: &self.world, tid: INIT, cred: &cred };
        let text = scene.read_file(&Text::plain(path), &Text::plain("cgroup.stat")).ok()?;
        crate::guest::files::value_of(&text, Some(&Text::plain(key)))
    }
}
