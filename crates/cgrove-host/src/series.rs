//! What a run looked like over time: curves per group, events, processes.
//!
//! Kept when asked for, and bounded however long the run lasts: a curve that is full is halved by
//! merging its points two by two, and from then on takes half as many.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::report::nanos;
use crate::sys::RawPid;

/// Points of one group.
pub const MAX_POINTS: usize = 1024;
/// Events.
pub const MAX_EVENTS: usize = 1024;
/// Processes.
pub const MAX_PROCESSES: usize = 4096;

/// Between two points at first.
const SPACING: Duration = Duration::from_millis(10);
/// Kinds of events that are kept at most once a second.
const FREQUENT: [&str; 3] = ["throttle", "pids.max", "memory.high"];
/// The most bytes kept of a command line.
const MAX_CMDLINE: usize = 512;

/// Everything over time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Series {
    /// The curves, by group.
    pub groups: Vec<GroupSeries>,
    /// What happened, in order.
    pub events: Vec<SeriesEvent>,
    /// Who was seen.
    pub processes: Vec<ProcessSeries>,
    /// There were more events or processes than are kept.
    pub truncated: bool,
}

/// The limits of a group at the end; `null` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeriesLimits {
    /// Bytes.
    pub memory_max: Option<u64>,
    /// Bytes.
    pub memory_high: Option<u64>,
    /// Of one CPU.
    pub cpu_max_percent: Option<f64>,
    /// Tasks.
    pub pids_max: Option<u64>,
}

/// The curves of one group. All arrays have the same length.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GroupSeries {
    /// The cgroup's path.
    pub path: String,
    /// Its limits.
    pub limits: SeriesLimits,
    /// Milliseconds since the start.
    pub t_ms: Vec<u64>,
    /// Memory in use; the most, where points were merged.
    pub memory_bytes: Vec<Option<u64>>,
    /// CPU time used until then.
    pub cpu_ns: Vec<u64>,
    /// Tasks; the most, where points were merged.
    pub tasks: Vec<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeriesEvent {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// The cgroup's path.
    pub group: String,
    /// What, in a word.
    pub kind: String,
    /// What exactly, in a line.
    pub detail: String,
}

/// A process that was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessSeries {
    /// Its pid.
    pub pid: i32,
    /// Its parent when it was first seen; 0 if that is not known.
    pub ppid: i32,
    /// The cgroup's path.
    pub group: String,
    /// Its command line.
    pub cmdline: Vec<String>,
    /// When it was first seen.
    pub started_ms: u64,
    /// When it was seen to be gone; `null` if it was there at the end.
    pub ended_ms: Option<u64>,
    /// CPU time of its own, as far as it was seen.
    pub cpu_ns: u64,
    /// The most memory that it was seen to have (RSS).
    pub peak_bytes: u64,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub memory: Option<u64>,
    pub cpu_ns: u64,
    pub tasks: u64,
}

/// Keeps the series of a run under way.
#[derive(Debug)]
pub(crate) struct Recorder {
    on: bool,
    started: Instant,
    series: Series,
    spacing: Duration,
    due: Instant,
    /// Where in the list the latest process with a pid is.
    live: HashMap<RawPid, usize>,
}

impl Recorder {
    pub(crate) fn new(on: bool, started: Instant) -> Recorder {
        let series = Series::default();
        Recorder { on, started, series, spacing: SPACING, due: started, live: HashMap::new() }
    }

    /// When the next points are due; never, if nobody asked for a series.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.on.then_some(self.due)
    }

    fn now_ms(&self) -> u64 {
        nanos(self.started.elapsed()) / 1_000_000
    }

    /// Takes a point of every group, if one is due. `last`: whether due or not.
    pub(crate) fn points(&mut self, last: bool, groups: impl IntoIterator<Item = (String, Point)>) {
        let now = Instant::now();
        if !self.on || (now < self.due && !last) {
            return;
        }
        let at = self.now_ms();
        let mut full = false;
        for (path, point) in groups {
            let group = match self.series.groups.iter_mut().position(|group| group.path == path) {
                Some(index) => &mut self.series.groups[index],
                None => {
                    self.series.groups.push(GroupSeries { path, ..GroupSeries::default() });
                    let index = self.series.groups.len() - 1;
                    &mut self.series.groups[index]
                }
            };
            group.push(at, point);
            full |= group.t_ms.len() >= MAX_POINTS;
        }
        if full {
            self.series.groups.iter_mut().for_each(GroupSeries::halve);
            self.spacing *= 2;
        }
        self.due = now + self.spacing;
    }

    /// Something happened.
    pub(crate) fn event(&mut self, group: String, kind: &str, detail: String) {
        if !self.on {
            return;
        }
        let at_ms = self.now_ms();
        if FREQUENT.contains(&kind) {
            let same = |it: &&SeriesEvent| it.kind == kind && it.group == group;
            let last = self.series.events.iter().rev().find(same);
            if last.is_some_and(|it| at_ms < it.at_ms + 1000) {
                return;
            }
        }
        if self.series.events.len() >= MAX_EVENTS {
            self.series.truncated = true;
            return;
        }
        self.series.events.push(SeriesEvent { at_ms, group, kind: kind.to_owned(), detail });
    }

    /// Whether this process's command line is to be read.
    pub(crate) fn wants(&self, pid: RawPid) -> bool {
        self.on && (self.live.contains_key(&pid) || self.series.processes.len() < MAX_PROCESSES)
    }

    /// A process was looked at.
    pub(crate) fn process(
        &mut self,
        pid: RawPid,
        ppid: RawPid,
        group: impl FnOnce() -> String,
        cpu_ns: u64,
        peak_bytes: u64,
        cmdline: Option<Vec<String>>,
    ) {
        if !self.on {
            return;
        }
        let index = match self.live.get(&pid) {
            Some(&index) => index,
            None if self.series.processes.len() >= MAX_PROCESSES => {
                self.series.truncated = true;
                return;
            }
            None => {
                self.series.processes.push(ProcessSeries {
                    pid,
                    ppid,
                    group: group(),
                    cmdline: Vec::new(),
                    started_ms: self.now_ms(),
                    ended_ms: None,
                    cpu_ns: 0,
                    peak_bytes: 0,
                });
                self.live.insert(pid, self.series.processes.len() - 1);
                self.series.processes.len() - 1
            }
        };
        let Some(it) = self.series.processes.get_mut(index) else { return };
        it.cpu_ns = it.cpu_ns.max(cpu_ns);
        it.peak_bytes = it.peak_bytes.max(peak_bytes);
        // A process that ends has none any more, and is named in brackets.
        let nameless = |words: &[String]| words.first().is_none_or(|word| word.starts_with('['));
        if let Some(words) = cmdline.filter(|words| it.cmdline.is_empty() || !nameless(words)) {
            it.cmdline = cut(words);
        }
    }

    /// A process is gone.
    pub(crate) fn ended(&mut self, pid: RawPid) {
        if let Some(index) = self.live.remove(&pid) {
            let now = self.now_ms();
            if let Some(it) = self.series.processes.get_mut(index) {
                it.ended_ms = Some(now);
            }
        }
    }

    /// All of it, with the limits of each group.
    pub(crate) fn finish(
        mut self,
        limits: impl Fn(&str) -> Option<SeriesLimits>,
    ) -> Option<Series> {
        for group in &mut self.series.groups {
            group.limits = limits(&group.path).unwrap_or_default();
        }
        self.on.then_some(self.series)
    }
}

fn cut(mut words: Vec<String>) -> Vec<String> {
    let mut left = MAX_CMDLINE;
    words.retain_mut(|word| {
        if word.len() > left {
            let end = (0..=left).rev().find(|&end| word.is_char_boundary(end)).unwrap_or(0);
            word.truncate(end);
            left = 0;
            return end > 0;
        }
        left -= word.len();
        true
    });
    words
}

impl GroupSeries {
    fn push(&mut self, at: u64, point: Point) {
        self.t_ms.push(at);
        self.memory_bytes.push(point.memory);
        self.cpu_ns.push(point.cpu_ns);
        self.tasks.push(point.tasks);
    }

    fn halve(&mut self) {
        self.t_ms = self.t_ms.chunks(2).filter_map(|pair| pair.last().copied()).collect();
        let most = |pair: &[Option<u64>]| pair.iter().copied().max().flatten();
        self.memory_bytes = self.memory_bytes.chunks(2).map(most).collect();
        self.cpu_ns = self.cpu_ns.chunks(2).filter_map(|pair| pair.last().copied()).collect();
        self.tasks = self.tasks.chunks(2).filter_map(|pair| pair.iter().max().copied()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Recorder {
        Recorder::new(true, Instant::now())
    }

    #[test]
    fn a_full_curve_is_halved_and_keeps_its_highest_points() {
        let mut it = recorder();
        for n in 0..5000u64 {
            let memory = (n == 777).then_some(1 << 30).or(Some(n));
            let point = Point { memory, cpu_ns: n, tasks: n % 7 };
            it.points(true, [("/a".to_owned(), point)]);
        }
        let series = it.finish(|_| None).unwrap();
        let group = &series.groups[0];
        assert!(group.t_ms.len() < MAX_POINTS && group.t_ms.len() >= MAX_POINTS / 2);
        let lengths = [group.memory_bytes.len(), group.cpu_ns.len(), group.tasks.len()];
        assert_eq!(lengths, [group.t_ms.len(); 3]);
        assert_eq!(group.memory_bytes.iter().max(), Some(&Some(1 << 30)));
        assert_eq!(group.cpu_ns.last(), Some(&4999));
        assert!(group.cpu_ns.is_sorted() && group.t_ms.is_sorted());
    }

    #[test]
    fn everything_has_an_end() {
        let mut it = recorder();
        for pid in 1..=i32::try_from(MAX_PROCESSES).unwrap() + 1 {
            let words = vec!["x".repeat(400), "é".repeat(400), "z".into()];
            it.process(pid, 0, || "/a".into(), 1, 2, Some(words));
        }
        for _ in 0..=MAX_EVENTS {
            it.event("/a".into(), "set", String::new());
        }
        it.ended(3);
        let series = it.finish(|_| None).unwrap();
        assert!(series.truncated);
        assert_eq!((series.processes.len(), series.events.len()), (MAX_PROCESSES, MAX_EVENTS));
        assert!(series.processes[2].ended_ms.is_some());
        let bytes: usize = series.processes[0].cmdline.iter().map(String::len).sum();
        assert!(bytes <= MAX_CMDLINE && bytes > 400, "{bytes}");
    }

    #[test]
    fn nothing_is_kept_that_nobody_asked_for() {
        let mut it = Recorder::new(false, Instant::now());
        it.event("/a".into(), "set", String::new());
        it.points(true, [("/a".to_owned(), Point { memory: None, cpu_ns: 0, tasks: 0 })]);
        assert!(it.due().is_none() && it.finish(|_| None).is_none());
    }
}
