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
