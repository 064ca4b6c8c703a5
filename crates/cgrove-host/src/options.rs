//! What a run is asked to do, independent of how the command line spells it.

use std::ffi::OsString;
use std::time::Duration;

use crate::filter::Ask;
use crate::parent::DieWith;
use crate::report::{Backend, Class};

/// Which backend the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// The strongest one this place allows.
    #[default]
    Auto,
    /// This one, or no run at all.
    Only(Backend),
}

/// Something a user can insist on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// This backend.
    Backend(Backend),
    /// This feature, at this class or a stronger one.
    Feature(Feature, Class),
}

/// What has a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The task limit.
    Pids,
    /// CPU accounting.
    Cpu,
    /// Killing the whole tree.
    Kill,
    /// Limits on memory.
    Memory,
    /// The limit on CPU time.
    CpuMax,
}

impl Feature {
    /// Every feature with the name users give it.
    pub const ALL: [(&'static str, Feature); 5] = [
        ("pids", Feature::Pids),
        ("cpu", Feature::Cpu),
        ("kill", Feature::Kill),
        ("memory", Feature::Memory),
        ("cpu-max", Feature::CpuMax),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Feature::ALL.iter().find(|(_, f)| *f == self).map_or("?", |(name, _)| name)
    }

    /// The class a backend gives it. A caller that ignores SIGCHLD hands that on to the command,
    /// whose children's CPU time the kernel may then throw away.
    pub fn class(self, backend: Backend, sigchld_ignored: bool) -> Class {
        match (self, backend) {
            // What its controllers hold; a run asks its own cgroup.
            (_, Backend::Kernel) => Class::Kernel,
            // By looking, and by halts.
            (Feature::Memory | Feature::CpuMax, _) => Class::Sampled,
            (Feature::Cpu, _) if sigchld_ignored => Class::Sampled,
            (_, Backend::Gate | Backend::Ptrace) => Class::Exact,
            (_, Backend::Reaper) => Class::Sampled,
        }
    }
}

/// A run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// The group's name.
    pub name: String,
    /// The user chose that name, and will call the run by it.
    pub named: bool,
    /// At most this many tasks at a time; `None` is `max`.
    pub pids_max: Option<u64>,
    /// Interface files to write before the command starts, in this order.
    pub set: Vec<(String, String)>,
    /// Keep curves, events and processes over time for the report.
    pub series: bool,
    /// How long the command may run.
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// Which backend.
    pub backend: BackendChoice,
    /// What must hold before the command may start.
    pub require: Vec<Requirement>,
    /// The run lasts until the last descendant ends.
    pub keep_descendants: bool,
    /// The run ends with this process.
    pub die_with: Option<DieWith>,
    /// There is no command: the run is a group that lasts until it is removed.
    pub keeper: bool,
}

impl RunOptions {
    /// Whether a task limit is asked for, so that threads have to ask at the gate too.
    pub fn limits_tasks(&self) -> bool {
        self.keeper
            || self.pids_max.is_some()
            || self.set.iter().any(|(file, _)| file == "pids.max")
    }

    /// The interface files to write before the command starts, in this order.
    pub fn files(&self) -> Vec<(String, String)> {
        let limit = self.pids_max.map(|max| ("pids.max".to_owned(), max.to_string()));
        limit.into_iter().chain(self.set.iter().cloned()).collect()
    }

    /// Whether CPUs are chosen, so that who changes his own has to ask at the gate.
    pub fn limits_cpus(&self) -> bool {
        self.set.iter().any(|(file, value)| file == "cpuset.cpus" && !value.trim().is_empty())
    }

    /// What has to be asked at the gate besides forks.
    pub fn asks(&self) -> Ask {
        Ask { threads: self.limits_tasks(), affinity: self.limits_cpus() }
    }

    /// Whether this feature is required to be better than sampled.
    pub fn insists_on(&self, feature: Feature) -> bool {
        let strong = |&it: &Requirement| matches!(it, Requirement::Feature(of, class) if of == feature && class > Class::Sampled);
        self.require.iter().any(strong)
    }

    /// The first requirement that `backend` does not meet.
    pub fn unmet(&self, backend: Backend, sigchld_ignored: bool) -> Option<Requirement> {
        self.require.iter().copied().find(|requirement| match *requirement {
            Requirement::Backend(wanted) => wanted != backend,
            Requirement::Feature(feature, class) => feature.class(backend, sigchld_ignored) < class,
        })
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Requirement::Backend(backend) => f.write_str(backend.name()),
            Requirement::Feature(feature, class) => {
                write!(f, "{}={}", feature.name(), class.name())
            }
        }
    }
}
