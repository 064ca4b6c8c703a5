//! A run at one moment, for whoever watches: its cgroups with what their files say, and who is in
//! them. One question at the door instead of one for every file of every cgroup.
//!
//! Who the processes are, `/proc` tells the watcher as well as it would tell the supervisor, and
//! that has other things to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::Backend;

/// The files that are in it, where a cgroup has them.
pub const FILES: [&str; 17] = [
    "cgroup.events",
    "cpu.max",
    "cpu.stat",
    "cpu.weight",
    "cpuset.cpus.effective",
    "io.stat",
    "memory.current",
    "memory.events",
    "memory.high",
    "memory.max",
    "memory.peak",
    "memory.swap.current",
    "pids.current",
    "pids.events",
    "pids.max",
    "pids.peak",
    "cgroup.freeze",
];
/// Cgroups of one run that are told about.
pub const MAX_GROUPS: usize = 4096;
/// Processes of one run that are told about.
pub const MAX_PROCESSES: usize = 65_536;

/// A run at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The run's name.
    pub name: String,
    /// How it is held.
    pub backend: Backend,
    /// How long it has run, in nanoseconds.
    pub wall_ns: u64,
    /// The run's own cgroup first, and everyone after its parent.
    pub groups: Vec<Group>,
    /// There are more cgroups or processes than are told about.
    pub truncated: bool,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Below the run's own, which is empty: `inner/most`.
    pub path: String,
    /// What those of [`FILES`] say that there are.
    pub files: BTreeMap<String, String>,
    /// Its own processes, not those of cgroups below; as the supervisor's pid namespace has them.
    pub pids: Vec<i32>,
}

impl Group {
    /// What a file with one number says; `max` is none.
    pub fn number(&self, file: &str) -> Option<u64> {
        self.files.get(file)?.trim().parse().ok()
    }

    /// The number behind a key in a file of such pairs.
    pub fn field(&self, file: &str, key: &str) -> Option<u64> {
        let pairs = self.files.get(file)?.lines().filter_map(|line| line.split_once(' '));
        pairs.filter(|(is, _)| *is == key).find_map(|(_, value)| value.trim().parse().ok())
    }

    /// How many CPUs `cpu.max` is worth; `max` is none.
    pub fn cpus(&self) -> Option<f64> {
        let (quota, period) = self.files.get("cpu.max")?.trim().split_once(' ')?;
        let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
        (period > 0.0).then_some(quota / period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_files() {
        let files = [
            ("pids.current", "5"),
            ("pids.max", "max"),
            ("memory.events", "oom 3\noom_kill 4"),
            ("cpu.max", "150000 100000"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let mut group = Group { path: String::new(), files, pids: Vec::new() };
        assert_eq!((group.number("pids.current"), group.number("pids.max")), (Some(5), None));
        assert_eq!(group.field("memory.events", "oom"), Some(3));
        assert_eq!(group.field("memory.events", "oom_kill"), Some(4));
        assert_eq!(group.field("cpu.stat", "usage_usec"), None);
        assert_eq!(group.cpus(), Some(1.5));
        for text in ["max 100000", "", "1 0"] {
            group.files.insert("cpu.max".to_owned(), text.to_owned());
            assert_eq!(group.cpus(), None, "{text}");
        }
    }
}
