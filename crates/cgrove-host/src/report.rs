//! What a run tells its caller at the end, version 1.
//!
//! The same object is the summary line for people and the JSON for programs. A figure that is not
//! known is `null`, never a made-up zero, and every figure says how far it can be trusted.
//! Durations are in nanoseconds unless the name says otherwise.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::series::Series;

/// The version of this object; raised when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// How many survivors are listed one by one.
pub const MAX_LISTED: usize = 64;

/// How far a figure or a limit can be trusted, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Not known at all.
    Unknown,
    /// Looked at now and then: what happens in between goes unseen.
    Sampled,
    /// Every event counted.
    Exact,
    /// The kernel's own cgroup.
    Kernel,
}

impl Class {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Unknown => "unknown",
            Class::Sampled => "sampled",
            Class::Exact => "exact",
            Class::Kernel => "kernel",
        }
    }
}

/// How the tree is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Reaper and seccomp user notification: every fork asks first.
    Gate,
    /// Reaper and ptrace: every fork asks first, and nobody inside can trace.
    Ptrace,
    /// Reaper alone: forks are noticed afterwards.
    Reaper,
    /// Reaper, and a cgroup of the kernel's around the tree.
    Kernel,
}

impl Backend {
    /// Every one, the strongest first.
    pub const ALL: [Backend; 4] =
        [Backend::Kernel, Backend::Gate, Backend::Ptrace, Backend::Reaper];

    /// Whether every fork asks first.
    pub fn asks(self) -> bool {
        match self {
            Backend::Gate | Backend::Ptrace => true,
            Backend::Reaper | Backend::Kernel => false,
        }
    }

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Gate => "gate",
            Backend::Ptrace => "ptrace",
            Backend::Reaper => "reaper",
            Backend::Kernel => "kernel",
        }
    }
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// By itself, with a code.
    Exited,
    /// By a signal that cgrove did not send on its own account.
    Signaled,
    /// It failed after the task limit had refused it forks, or had it killed
    /// where forks cannot be refused: the likely cause, see [`PidsMax`].
    PidsMax,
    /// It was killed for memory, see [`Memory`].
    MemoryMax,
    /// The timeout.
    Timeout,
    /// The process that the run was to end with had ended.
    ParentEnded,
    /// It never started.
    ExecFailed,
    /// The supervisor was killed, and the tree with it.
    SupervisorKilled,
}

/// A run's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// [`VERSION`].
    #[cfg_attr(feature = "schema", schemars(extend("const" = VERSION)))]
    pub version: u32,
    /// The group's name.
    pub name: String,
    /// The command and its arguments; bytes that are not UTF-8 replaced.
    pub command: Vec<String>,
    /// The command's pid.
    pub pid: Option<i32>,
    /// The backend that held the tree; not known if the supervisor was killed.
    pub backend: Option<Backend>,
    /// Why it was this one.
    pub backend_reason: String,
    /// How the command ended, in numbers.
    pub exit: Exit,
    /// How the command ended, in a word.
    pub reason: Reason,
    /// Why it never started: the name of execve(2)'s errno.
    pub exec_error: Option<String>,
    /// What was asked for.
    pub limits: Limits,
    /// What the task limit did.
    pub pids_max: PidsMax,
    /// Wall-clock time of the whole run.
    pub wall_ns: u64,
    /// CPU time of the whole tree, daemons and exited children included.
    pub cpu: Cpu,
    /// Memory of the whole tree.
    #[serde(default)]
    pub memory: Memory,
    /// Tasks: threads and processes, the command included.
    pub tasks: Tasks,
    /// Forks.
    pub forks: Forks,
    /// What the command left running.
    pub left_behind: LeftBehind,
    /// How well the limits held.
    pub classes: Classes,
    /// What the reader should know before trusting the figures.
    pub warnings: Vec<String>,
    /// Curves, events and processes over time, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
}

/// The command's end in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exit {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// What cgrove exits with.
    pub status: i32,
}

/// What was asked for, or set last.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Limits {
    /// Tasks; `null` is no limit.
    pub pids_max: Option<u64>,
    /// Bytes of memory; `null` is no limit.
    #[serde(default)]
    pub memory_max: Option<u64>,
    /// Bytes of memory, to be throttled above; `null` is no limit.
    #[serde(default)]
    pub memory_high: Option<u64>,
    /// CPU time per period; `null` is no limit.
    #[serde(default)]
    pub cpu_max: Option<CpuMax>,
    /// The CPUs, as a list like `0-2,5`; `null` is all.
    #[serde(default)]
    pub cpus: Option<String>,
    /// The weight among siblings; `null` is the default, 100.
    #[serde(default)]
    pub cpu_weight: Option<u64>,
    /// Milliseconds; `null` is no timeout.
    pub timeout_ms: Option<u64>,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub kill_grace_ms: u64,
}

/// What the task limit did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PidsMax {
    /// How often it was hit.
    pub hits: Option<u64>,
    /// The group whose limit it was, if it was hit.
    #[serde(rename = "where")]
    pub place: Option<String>,
}

/// CPU time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cpu {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// How far to trust it.
    pub class: Class,
    /// Why it is not exact.
    pub note: Option<String>,
    /// Periods of `cpu.max` that ended while the group was in use; `null` if it was never set.
    #[serde(default)]
    pub periods: Option<u64>,
    /// Those of them in which it had to wait.
    #[serde(default)]
    pub throttled_periods: Option<u64>,
    /// How long it waited.
    #[serde(default)]
    pub throttled_ns: Option<u64>,
    /// How well the limit held; `null` without one.
    #[serde(default)]
    pub limit_class: Option<Class>,
}

impl Limits {
    /// With another's limits on memory and CPU.
    pub(crate) fn with(self, other: &Limits) -> Limits {
        Limits {
            pids_max: self.pids_max,
            timeout_ms: self.timeout_ms,
            kill_grace_ms: self.kill_grace_ms,
            ..other.clone()
        }
    }
}

/// A quota of CPU time per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CpuMax {
    /// Microseconds of CPU time, of all CPUs together …
    pub quota_us: u64,
    /// … in so many.
    pub period_us: u64,
}

/// How memory was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Each shared page once, by parts (PSS), with swap.
    Pss,
    /// Resident pages (RSS), shared ones estimated.
    Rss,
    /// The kernel's own count.
    Kernel,
}

/// Memory of the whole tree.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// The most that was in use at one time, as far as it was seen.
    pub peak_bytes: Option<u64>,
    /// How that was measured.
    pub measure: Option<Measure>,
    /// How far to trust it, and how well the limits held.
    pub class: Class,
    /// How often usage was found to have gone over `memory.max`.
    pub max_hits: Option<u64>,
    /// How often it was found to have grown over `memory.high`.
    pub high_hits: Option<u64>,
    /// By how much `memory.max` was passed, at most; `null` if it never was.
    pub overshoot_bytes: Option<u64>,
    /// Processes killed for memory.
    pub oom_kill_count: Option<u64>,
    /// The first of them.
    pub oom_kills: Vec<OomKill>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            peak_bytes: None,
            measure: None,
            class: Class::Unknown,
            max_hits: None,
            high_hits: None,
            overshoot_bytes: None,
            oom_kill_count: None,
            oom_kills: Vec::new(),
        }
    }
}

/// A process that was killed for memory.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OomKill {
    /// Its pid.
    pub pid: i32,
    /// Its command line.
    pub cmdline: Vec<String>,
    /// What it used.
    pub bytes: u64,
    /// The cgroup that it was in.
    pub group: String,
    /// What the group used whose limit was passed.
    pub usage_bytes: u64,
    /// That limit.
    pub limit_bytes: u64,
    /// When, in milliseconds since the start.
    pub at_ms: u64,
}

/// Tasks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tasks {
    /// The most that were seen at one time.
    pub peak: Option<u64>,
    /// There were never more than this: the most places taken at one time, those of forks whose
    /// child nobody had seen yet included. Not known where tasks are made without asking.
    pub at_most: Option<u64>,
    /// How far to trust it: a `sampled` peak was seen, and more may have gone unseen.
    pub class: Class,
}

/// Forks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Forks {
    /// Forks let through. Threads count while a task limit is set.
    pub count: Option<u64>,
    /// Forks refused.
    pub refused: Option<u64>,
    /// How far to trust it.
    pub class: Class,
}

/// Survivors of the command that cgrove killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeftBehind {
    /// How many processes.
    pub killed: u64,
    /// The first of them.
    pub processes: Vec<Survivor>,
    /// Looks at the tree that found someone to kill. Behind a closed gate one, and one more for a
    /// fork that was in flight.
    pub passes: u64,
    /// There were more than are listed.
    pub truncated: bool,
    /// How far to trust it.
    pub class: Class,
}

/// One survivor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Survivor {
    /// Its pid.
    pub pid: i32,
    /// Its command line.
    pub cmdline: Vec<String>,
}

/// How well the limits held.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Classes {
    /// The task limit.
    pub pids: Class,
    /// The kill.
    pub kill: Class,
    /// Freezes: `sampled` if a task ran on during one. `null` if there was none.
    #[serde(default)]
    pub freeze: Option<Class>,
}

impl Report {
    /// The line for people, without `cgrove: `.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

/// Displays a report as one line.
pub struct Summary<'a>(&'a Report);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        match (report.reason, report.exit.code, report.exit.signal) {
            (Reason::Timeout, ..) => f.write_str("timed out")?,
            (Reason::ParentEnded, ..) => f.write_str("ended with its parent")?,
            (Reason::ExecFailed, ..) => f.write_str("did not start")?,
            (Reason::SupervisorKilled, ..) => f.write_str("supervisor killed")?,
            (Reason::MemoryMax, ..) => f.write_str("killed for memory")?,
            (_, Some(code), _) => write!(f, "exited {code}")?,
            (_, _, Some(signal)) => write!(f, "killed by {}", signal_name(signal))?,
            _ => f.write_str("ended")?,
        }
        write!(
            f,
            " in {}, cpu {} user {} sys{}",
            Seconds(report.wall_ns),
            Seconds(report.cpu.user_ns),
            Seconds(report.cpu.system_ns),
            if report.cpu.class < Class::Exact { " (sampled)" } else { "" },
        )?;
        let count = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
        write!(f, ", peak {}", count(report.tasks.peak))?;
        match report.tasks.at_most {
            Some(most) if Some(most) != report.tasks.peak => write!(f, " to {most}")?,
            _ => {}
        }
        write!(
            f,
            " {}, {} {}, {} refused [{}]",
            if report.tasks.peak == Some(1) { "task" } else { "tasks" },
            count(report.forks.count),
            if report.forks.count == Some(1) { "fork" } else { "forks" },
            count(report.forks.refused),
            report.backend.map_or("?", Backend::name),
        )?;
        if let (Some(hits @ 1..), Some(place)) = (report.pids_max.hits, &report.pids_max.place) {
            let times = if hits == 1 { "once" } else { "times" };
            let count = if hits == 1 { String::new() } else { format!("{hits} ") };
            write!(f, ", task limit of {place} hit {count}{times}")?;
        }
        if let Some(peak) = report.memory.peak_bytes {
            write!(f, ", memory peak {}", Bytes(peak))?;
        }
        if let Some(kill) = report.memory.oom_kills.first() {
            let name = kill.cmdline.first().map_or("?", String::as_str);
            let name = name.rsplit('/').next().unwrap_or(name);
            write!(
                f,
                ", killed process {} ({name}, {}) for memory: {} used {} of {}",
                kill.pid,
                Bytes(kill.bytes),
                kill.group,
                Bytes(kill.usage_bytes),
                Bytes(kill.limit_bytes)
            )?;
            if let Some(count @ 2..) = report.memory.oom_kill_count {
                write!(f, ", and {} more", count - 1)?;
            }
        } else if let Some(count @ 1..) = report.memory.oom_kill_count {
            let processes = if count == 1 { "process" } else { "processes" };
            write!(f, ", the kernel killed {count} {processes} for memory")?;
            if let Some(limit) = report.limits.memory_max {
                write!(f, ": limit {}", Bytes(limit))?;
            }
        }
        if let Some(periods @ 1..) = report.cpu.throttled_periods {
            let all = report.cpu.periods.unwrap_or(periods);
            write!(f, ", waited for cpu.max in {periods} of {all} periods")?;
        }
        if report.left_behind.killed > 0 {
            write!(f, ", killed {} left behind", report.left_behind.killed)?;
        }
        Ok(())
    }
}

/// With a unit and three digits.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let (mut value, mut unit) = (self.0 as f64 / 1024.0, 0);
        while value >= 999.5 && unit < UNITS.len() - 1 {
            value /= 1024.0;
            unit += 1;
        }
        let digits = if value >= 99.95 { 0 } else { 1 };
        write!(f, "{value:.digits$} {}", UNITS[unit])
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// `SIGKILL`, or `signal 35` for one without a name.
pub fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned())
}

/// A duration in nanoseconds, saturating.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
