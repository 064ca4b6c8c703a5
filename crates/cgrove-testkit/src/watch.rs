//! `/proc` as a third party sees it.
//!
//! Not the project's own reader: what checks it must not share its mistakes. Slower, simpler, and
//! with no idea of groups: it knows marks on command lines, parents, and numbers of threads.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// R, S, D, T, Z, …
    pub state: char,
    /// Its threads.
    pub threads: usize,
    /// Its command line; empty for zombies and kernel threads.
    pub cmdline: Vec<String>,
}

/// Everything that `/proc` shows now.
#[must_use]
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// One process, if it exists.
#[must_use]
pub fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = cmdline.strip_suffix(b"\0").unwrap_or(&cmdline);
    Some(Process {
        pid,
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        cmdline: match words {
            [] => Vec::new(),
            _ => words.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into()).collect(),
        },
    })
}

/// Processes with this word on their command line; the supervisor has it behind a blank.
#[must_use]
pub fn marked(mark: &str) -> Vec<Process> {
    let has = |word: &String| word.split(' ').any(|part| part == mark);
    processes().into_iter().filter(|process| process.cmdline.iter().any(has)).collect()
}

/// The processes below `root`, by their chains of parents.
#[must_use]
pub fn below(root: i32) -> Vec<Process> {
    let all = processes();
    let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
    for process in &all {
        children.entry(process.ppid).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut todo = vec![root];
    let mut seen = HashSet::new();
    while let Some(at) = todo.pop() {
        for process in children.get(&at).into_iter().flatten() {
            if seen.insert(process.pid) {
                found.push((*process).clone());
                todo.push(process.pid);
            }
        }
    }
    found
}

/// Looks until `done` says so, at most `patience`. `/proc` has no events to wait for, so this is
/// the one place that looks again and again.
///
/// # Panics
/// When the patience is over; `what` says what was waited for.
pub fn until<T>(what: &str, patience: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < end, "waited {patience:?} for {what}");
        let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(2u8));
    }
}

/// Ends every process with this mark, which the caller put there, however fast they fork: what is
/// stopped forks no more, so all are stopped before any is killed.
///
/// # Panics
/// If some are left after many rounds.
pub fn end_marked(mark: &str) {
    let signal = |signal| {
        let found: Vec<_> =
            marked(mark).into_iter().filter(|process| process.state != 'Z').collect();
        for process in &found {
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        found
    };
    for _ in 0..100 {
        for _ in 0..1000 {
            if signal(Signal::SIGSTOP).iter().all(|process| process.state == 'T') {
                break;
            }
        }
        if signal(Signal::SIGKILL).is_empty() {
            return;
        }
    }
    panic!("processes marked {mark} cannot be ended");
}
