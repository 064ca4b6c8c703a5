//! What a run tells its caller at the end, version 1.
//!
//! The same object is the summary line for people and the JSON for programs. A figure that is not
//! known is `null`, never a made-up zero, and every figure says how far it can be trusted.
//! Durations are in nanoseconds unless the name says otherwise.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of this object; raised when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// How many survivors are listed one by one.
pub const MAX_LISTED: usize = 64;

/// How far a figure or a limit can be trusted, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Reaper and seccomp user notification: every fork asks first.
    Gate,
    /// Reaper alone: forks are noticed afterwards.
    Reaper,
}

impl Backend {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Gate => "gate",
            Backend::Reaper => "reaper",
        }
    }
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// By itself, with a code.
    Exited,
    /// By a signal that cgrove did not send on its own account.
    Signaled,
    /// It failed after the task limit had refused it forks, or had it killed
    /// where forks cannot be refused: the likely cause, see [`PidsMax`].
    PidsMax,
    /// The timeout.
    Timeout,
    /// It never started.
    ExecFailed,
    /// The supervisor was killed, and the tree with it.
    SupervisorKilled,
}

/// A run's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
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
}

/// The command's end in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// What cgrove exits with.
    pub status: i32,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Limits {
    /// Tasks; `null` is no limit.
    pub pids_max: Option<u64>,
    /// Milliseconds; `null` is no timeout.
    pub timeout_ms: Option<u64>,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub kill_grace_ms: u64,
}

/// What the task limit did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PidsMax {
    /// How often it was hit.
    pub hits: Option<u64>,
    /// The group whose limit it was, if it was hit.
    #[serde(rename = "where")]
    pub place: Option<String>,
}

/// CPU time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cpu {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// How far to trust it.
    pub class: Class,
    /// Why it is not exact.
    pub note: Option<String>,
}

/// Tasks.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
pub struct Survivor {
    /// Its pid.
    pub pid: i32,
    /// Its command line.
    pub cmdline: Vec<String>,
}

/// How well the limits held.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
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
            (Reason::ExecFailed, ..) => f.write_str("did not start")?,
            (Reason::SupervisorKilled, ..) => f.write_str("supervisor killed")?,
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
        if report.left_behind.killed > 0 {
            write!(f, ", killed {} left behind", report.left_behind.killed)?;
        }
        Ok(())
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
