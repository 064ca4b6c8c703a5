//! What there is to see now: the runs' answers, and what `/proc` says of their processes.

use std::time::Instant;

use cgrove_host::door;
use cgrove_host::error::HostError;
use cgrove_host::procfs::Proc;
use cgrove_host::snapshot::Snapshot;
use nix::unistd::{SysconfVar, sysconf};

use crate::live;

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    pub at: Instant,
    /// Each with the run's own cgroup first, and everyone after its parent.
    pub runs: Vec<Vec<GroupSample>>,
    /// Why a run is missing.
    pub trouble: Option<String>,
}

/// A cgroup. Figures are those of all below it too, as in its files.
#[derive(Debug, Clone, Default)]
pub struct GroupSample {
    /// With the run's name: `demo/inner`.
    pub path: String,
    pub tasks: Option<u64>,
    pub tasks_max: Option<u64>,
    /// `memory.current`.
    pub memory: Option<u64>,
    pub memory_max: Option<u64>,
    /// `usage_usec` of `cpu.stat`.
    pub cpu_us: Option<u64>,
    /// CPUs' worth that `cpu.max` allows.
    pub cpus_max: Option<f64>,
    pub frozen: bool,
    /// How often a task was refused.
    pub refused: u64,
    /// How many were killed for memory.
    pub oom_kills: u64,
    /// Its own.
    pub processes: Vec<ProcessSample>,
}

/// A process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessSample {
    pub pid: i32,
    /// With the pid, one process for good.
    pub start: u64,
    pub command: String,
    pub state: char,
    pub threads: u64,
    /// Its own.
    pub cpu_us: u64,
    pub rss: u64,
}

/// Takes samples.
pub struct Watcher {
    only: Option<String>,
    proc: Proc,
    us_per_tick: u64,
    page: u64,
}

impl Watcher {
    pub fn new(only: Option<String>) -> Result<Watcher, HostError> {
        let proc = Proc::open().map_err(|errno| {
            HostError::new(
                "cannot read /proc",
                format_args!("{} ({errno:?})", errno.desc()),
                "mount it where this runs",
            )
        })?;
        let number = |of, usual| match sysconf(of) {
            Ok(Some(number)) => u64::try_from(number).unwrap_or(usual).max(1),
            _ => usual,
        };
        let us_per_tick = 1_000_000 / number(SysconfVar::CLK_TCK, 100);
        Ok(Watcher { only, proc, us_per_tick, page: number(SysconfVar::PAGE_SIZE, 4096) })
    }

    pub fn look(&mut self) -> Sample {
        let (names, mut trouble) = match (&self.only, door::runs()) {
            (Some(name), _) => (vec![name.clone()], None),
            (None, Ok(names)) => (names, None),
            (None, Err(error)) => (Vec::new(), Some(error.to_string())),
        };
        let mut runs = Vec::new();
        for name in names {
            match live::snapshot(&name) {
                Ok(snapshot) => runs.push(self.groups(&snapshot)),
                // It may have ended since it was listed: that is no trouble.
                Err(error) if door::runs().is_ok_and(|names| names.contains(&name)) => {
                    trouble = Some(error.to_string());
                }
                Err(_) => {}
            }
        }
        Sample { at: Instant::now(), runs, trouble }
    }

    fn groups(&mut self, snapshot: &Snapshot) -> Vec<GroupSample> {
        snapshot
            .groups
            .iter()
            .map(|group| {
                let slash = if group.path.is_empty() { "" } else { "/" };
                GroupSample {
                    path: format!("{}{slash}{}", snapshot.name, group.path),
                    tasks: group.number("pids.current"),
                    tasks_max: group.number("pids.max"),
                    memory: group.number("memory.current"),
                    memory_max: group.number("memory.max"),
                    cpu_us: group.field("cpu.stat", "usage_usec"),
                    cpus_max: group.cpus(),
                    frozen: group.field("cgroup.events", "frozen") == Some(1),
                    refused: group.field("pids.events", "max").unwrap_or(0),
                    oom_kills: group.field("memory.events", "oom_kill").unwrap_or(0),
                    processes: group.pids.iter().filter_map(|&pid| self.process(pid)).collect(),
                }
            })
            .collect()
    }

    fn process(&mut self, pid: i32) -> Option<ProcessSample> {
        let stat = self.proc.stat(pid).ok()?;
        let command = self.proc.command_line(pid).join(" ");
        let resident = self.proc.file(&format!("{pid}/statm")).ok().and_then(|text| {
            std::str::from_utf8(text).ok()?.split(' ').nth(1)?.parse::<u64>().ok()
        });
        Some(ProcessSample {
            pid,
            start: stat.start,
            command,
            state: char::from(stat.state),
            threads: stat.threads,
            cpu_us: (stat.own.0 + stat.own.1) * self.us_per_tick,
            rss: resident.unwrap_or(0) * self.page,
        })
    }
}
