//! Memory and CPU of a run: looked at when due, charged to the core, and held within limits.
//!
//! One *look* reads the clock of every process and the figures of those that ran
//! (`resources/processes.rs`). What it finds is charged to the core, which knows the limits and does
//! their arithmetic; `resources/memory.rs` and `resources/cpu.rs` decide who has to halt and when to
//! look again. Halts are declared, not scripted: after each look a process is held if memory or
//! bandwidth of any cgroup that it is in wants it so, and is let go if none does.

mod affinity;
mod cpu;
mod memory;
mod oom;
mod processes;
mod weight;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::controller::cpu::{BandwidthStat, Cpu as CpuController};
use cgrove_core::controller::cpuset::Cpuset;
use cgrove_core::controller::memory::{Memory as MemoryController, MemoryEvent};
use cgrove_core::{Cgroup, Limit, Pids};
use serde::{Deserialize, Serialize};

use crate::freezer::{Freezer, Loose};
use crate::journal::What;
use crate::ledger::Ledger;
use crate::mutant::{self, Mutant};
use crate::report::{Class, CpuMax, Limits, Memory as MemoryReport, OomKill};
use crate::scan::{Census, Scanner};
use crate::series::{Point, Recorder, Series, SeriesLimits};
use crate::sys::{self, RawPid, Waited};
use affinity::Affinity;
pub(crate) use affinity::cpus_of;
use cpu::Cpu;
use memory::Memory;
use processes::Processes;
use weight::Weight;

/// Between looks at a tree without limits that is busy, and the inverse of the share of a core that
/// they may take.
const UNLIMITED: Duration = Duration::from_millis(100);
const UNLIMITED_SHARE: u32 = 400;

/// What a look needs of the supervisor.
pub(crate) struct Around<'a> {
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) scanner: &'a mut Scanner,
    pub(crate) freezer: &'a mut Freezer,
    pub(crate) started: Instant,
    /// How long a look takes, lately.
    cost: Duration,
    /// What happened, and the cgroup's path.
    events: Vec<(String, What)>,
}

impl<'a> Around<'a> {
    pub(crate) fn new(
        ledger: &'a mut Ledger,
        scanner: &'a mut Scanner,
        freezer: &'a mut Freezer,
        started: Instant,
    ) -> Around<'a> {
        Around { ledger, scanner, freezer, started, cost: Duration::ZERO, events: Vec::new() }
    }

    fn event(&mut self, cgroup: &Arc<Cgroup>, what: What) {
        self.events.push((cgroup.path(), what));
    }
}

/// The limits on memory and CPU, at the end of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) memory: MemoryReport,
    pub(crate) memory_max: Option<u64>,
    pub(crate) memory_high: Option<u64>,
    pub(crate) cpu_max: Option<CpuMax>,
    pub(crate) cpu_weight: Option<u64>,
    pub(crate) cpus: Option<String>,
    pub(crate) bandwidth: BandwidthStat,
    pub(crate) cpu_limited: bool,
    pub(crate) series: Option<Series>,
    /// The first process whose memory could only be estimated.
    pub(crate) unmeasured: Option<RawPid>,
    /// The first process whose memory was not counted.
    pub(crate) unseen: Option<RawPid>,
    pub(crate) helpless: bool,
    pub(crate) weight_refused: bool,
    pub(crate) not_held: Option<Loose>,
}

/// What the report of a group in a run has of the limits on memory and CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfGroup {
    /// Its memory.
    pub memory: MemoryReport,
    /// Its limits at the end.
    pub limits: Limits,
    /// Periods, those of them in which it had to wait, and for how long; if it ever had a limit.
    pub bandwidth: Option<(u64, u64, u64)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Resources {
    processes: Processes,
    memory: Memory,
    cpu: Cpu,
    affinity: Affinity,
    weight: Weight,
    recorder: Recorder,
    news: Vec<(String, What)>,
    due: Option<Instant>,
    cost: Duration,
    /// The most memory that this process had when it forked the command, which inherits the figure.
    inherited_rss: u64,
}

impl Resources {
    pub(crate) fn new(series: bool, started: Instant) -> Resources {
        let cpus = sys::cpus_of(0).map_or(1, |cpus| cpus.len());
        Resources {
            processes: Processes::new(),
            memory: Memory::new(cpus),
            cpu: Cpu::new(cpus),
            affinity: Affinity::default(),
            weight: Weight::default(),
            recorder: Recorder::new(series, started),
            news: Vec::new(),
            due: None,
            cost: Duration::ZERO,
            inherited_rss: sys::own_max_rss(),
        }
    }

    /// When to call [`Resources::step`].
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something changed that a look may find.
    pub(crate) fn poke(&mut self) {
        self.due = Some(Instant::now());
    }

    /// The first process, or one that was found without a census.
    pub(crate) fn add(&mut self, pid: RawPid, ledger: &Ledger) {
        self.processes.add(pid, Arc::clone(ledger.root()));
    }

    /// The gate let this thread fork.
    pub(crate) fn forked(&mut self, tid: RawPid) {
        self.processes.forked(tid);
    }

    /// Somebody looked at the whole tree.
    pub(crate) fn census(&mut self, census: &Census, ledger: &Ledger) {
        self.processes.take_in(census, ledger);
    }

    /// Whether everyone asks before he changes his CPUs.
    pub(crate) fn affinity_asks(&mut self, asks: bool) {
        self.affinity.asks = asks;
    }

    /// The reaper collected a process.
    pub(crate) fn reaped(&mut self, waited: &Waited, mut around: Around<'_>) {
        let (known, charged) = self.processes.collected(waited.pid);
        self.recorder.ended(waited.pid);
        if known.as_ref().is_some_and(|it| it.held) {
            around.freezer.release(waited.pid, &mut around.scanner.proc);
        }
        self.cpu.reaped(waited.cpu, known.as_ref(), charged, &mut around);
        let most = waited.max_rss.saturating_mul(1024);
        if most > self.inherited_rss {
            self.memory.had(most);
        }
        if self.memory.awaits_death(waited.pid) {
            self.poke();
        }
    }

    /// Looks if it is time, or if a halt that was waited for has come about.
    pub(crate) fn step(&mut self, around: Around<'_>) {
        let halted = self.memory.awaits_halt() && around.freezer.all_held();
        if halted || self.due.is_some_and(|due| due <= Instant::now()) {
            self.look(around);
        }
    }

    /// Measures everybody exactly, for somebody who asks.
    pub(crate) fn measure(&mut self, around: Around<'_>) {
        let Around { ledger, scanner, freezer, started, .. } = around;
        self.look(Around::new(ledger, scanner, freezer, started));
        let mut around = Around::new(ledger, scanner, freezer, started);
        self.memory.exactly(&mut self.processes, &mut around);
    }

    /// Brings every figure up to date.
    pub(crate) fn look(&mut self, mut around: Around<'_>) {
        let begun = Instant::now();
        around.cost = self.cost;
        self.processes.discover(around.scanner, around.ledger);
        let mut ran = Vec::new();
        let gone = {
            let ledger = &*around.ledger;
            let reaps = |pid| ledger.reaped_by(pid).map(Arc::clone);
            self.processes.look(&mut around.scanner.proc, reaps, &mut ran)
        };
        for (pid, process) in &gone {
            if process.held {
                around.freezer.release(*pid, &mut around.scanner.proc);
            }
        }
        self.record(&gone, &mut around);
        self.cpu.ran(&ran, &mut around);
        let memory_due = self.memory.step(&mut self.processes, &mut around);
        let cpu_due = self.cpu.step(&self.processes, &mut around);
        // What looking takes; to measure and to halt have bounds of their own.
        let took = begun.elapsed().saturating_sub(std::mem::take(&mut self.memory.spent));
        self.cost = if self.cost.is_zero() { took } else { (self.cost * 3 + took) / 4 };
        self.hold(&mut around);
        for (group, what) in around.events.drain(..) {
            self.note(&group, &what);
            self.news.push((group, what));
        }
        let affinity_due = self.affinity.step(&self.processes, &mut around);
        self.weight.step(&mut self.processes, &mut around);
        let now = Instant::now();
        let busy = (!ran.is_empty() || self.processes.expects())
            .then(|| now + UNLIMITED.max(self.cost * UNLIMITED_SHARE));
        let due = [cpu_due, affinity_due, self.recorder.due(), busy].into_iter().flatten();
        self.due = due.chain([memory_due]).min();
    }

    /// Stops those who are to stop and lets go on those who may.
    fn hold(&mut self, around: &mut Around<'_>) {
        if mutant::is(Mutant::HaltShown) {
            let held = |group| self.memory.holds(group) || self.cpu.holds(group);
            let any = self.processes.iter().any(|(_, it)| held(&it.group));
            let _ = around.ledger.freeze("", any);
            return;
        }
        let (mut stop, mut go) = (Vec::new(), Vec::new());
        let mut verdicts: HashMap<_, bool> = HashMap::new();
        for (pid, it) in self.processes.iter_mut() {
            let wanted = *verdicts
                .entry(it.group.id())
                .or_insert_with(|| self.memory.holds(&it.group) || self.cpu.holds(&it.group));
            if wanted && it.moved && !it.zombie {
                it.held = true;
                stop.push(pid);
            } else if !wanted && it.held {
                it.held = false;
                go.push(pid);
            }
        }
        around.freezer.hold(&stop, &mut around.scanner.proc);
        for pid in go {
            around.freezer.release(pid, &mut around.scanner.proc);
        }
    }

    /// For the series.
    fn record(&mut self, gone: &[(RawPid, processes::Process)], around: &mut Around<'_>) {
        if self.recorder.due().is_none() {
            return;
        }
        for (pid, it) in self.processes.iter().filter(|(_, it)| it.moved) {
            let words = self.recorder.wants(pid).then(|| around.scanner.proc.command_line(pid));
            self.recorder.process(pid, it.ppid, || it.group.path(), it.clock, it.peak, words);
        }
        for (pid, _) in gone {
            self.recorder.ended(*pid);
        }
        self.points(false, around);
    }

    fn points(&mut self, last: bool, around: &mut Around<'_>) {
        let mut groups: Vec<Arc<Cgroup>> = vec![Arc::clone(around.ledger.root())];
        for (_, it) in self.processes.iter() {
            for cgroup in std::iter::successors(Some(&it.group), |cgroup| cgroup.parent()) {
                let known = groups.iter().any(|known| Arc::ptr_eq(known, cgroup));
                if !known && cgroup.parent().is_some() {
                    groups.push(Arc::clone(cgroup));
                }
            }
        }
        let of = |cgroup: Arc<Cgroup>| {
            let cpu = cgroup.cpu_times();
            let point = Point {
                memory: MemoryController::css(&cgroup).map(|css| css.current()),
                cpu_ns: cpu.user.saturating_add(cpu.system),
                tasks: Pids::css(&cgroup).map_or(0, |css| css.current()),
            };
            (cgroup.path(), point)
        };
        self.recorder.points(last, groups.into_iter().map(of));
    }

    /// Something for the series that was not found by a look.
    pub(crate) fn note(&mut self, group: &str, what: &What) {
        if self.recorder.due().is_some() {
            self.recorder.event(group.to_owned(), what.kind(), what.detail());
        }
    }

    /// What looks have found since the last call, by the cgroup's path.
    pub(crate) fn news(&mut self) -> Vec<(String, What)> {
        std::mem::take(&mut self.news)
    }

    /// What a group's own report is to have.
    pub(crate) fn of_group(&self, cgroup: &Arc<Cgroup>, ledger: &Ledger) -> OfGroup {
        let n = |limit: Limit| match limit {
            Limit::N(n) => Some(n),
            Limit::Max => None,
        };
        let mut of = OfGroup::default();
        let path = cgroup.path();
        if let Some(css) = MemoryController::css(cgroup) {
            (of.limits.memory_max, of.limits.memory_high) = (n(css.max()), n(css.high()));
            of.memory.max_hits = Some(css.events(MemoryEvent::Max));
            of.memory.high_hits = Some(css.events(MemoryEvent::High));
            of.memory.oom_kill_count = Some(css.events(MemoryEvent::OomKill));
            of.memory.peak_bytes =
                ledger.whole(cgroup, "memory.peak").and_then(|text| text.parse().ok());
            of.memory.measure = self.memory.measure;
            of.memory.class = if of.memory.peak_bytes.is_some() && self.memory.unseen.is_none() {
                Class::Sampled
            } else {
                Class::Unknown
            };
            let within = |kill: &&OomKill| {
                kill.group
                    .strip_prefix(&path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            of.memory.oom_kills = self.memory.kills.iter().filter(within).cloned().collect();
            let over = |kill: &OomKill| kill.usage_bytes.checked_sub(of.limits.memory_max?);
            of.memory.overshoot_bytes = of.memory.oom_kills.iter().filter_map(over).max();
        }
        if let Some(css) = CpuController::css(cgroup) {
            let (quota, period_us) = css.max();
            of.limits.cpu_max = n(quota).map(|quota_us| CpuMax { quota_us, period_us });
            of.limits.cpu_weight = Some(css.weight()).filter(|weight| *weight != 100);
            let stat = css.stat();
            let limited = of.limits.cpu_max.is_some() || stat.nr_periods > 0;
            let waited = stat.throttled_usec.saturating_mul(1000);
            of.bandwidth = limited.then_some((stat.nr_periods, stat.nr_throttled, waited));
        }
        of.limits.cpus = Cpuset::css(cgroup)
            .map(|css| css.cpus())
            .filter(|cpus| !cpus.is_empty())
            .map(|cpus| cpus.to_string());
        of
    }

    /// The run is over: everything for the report.
    pub(crate) fn finish(mut self, mut around: Around<'_>) -> Figures {
        let root = Arc::clone(around.ledger.root());
        self.points(true, &mut around);
        self.memory.finish(&mut around);
        let n = |limit: Limit| match limit {
            Limit::N(n) => Some(n),
            Limit::Max => None,
        };
        let mut figures = Figures {
            series: self.recorder.finish(|path| (root.path() == path).then(|| limits(&root))),
            cpu_limited: self.cpu.was_limited,
            unmeasured: self.memory.unmeasured,
            unseen: self.memory.unseen,
            helpless: self.memory.helpless,
            weight_refused: self.weight.refused,
            not_held: around.freezer.not_held().cloned(),
            ..Figures::default()
        };
        if let Some(css) = MemoryController::css(&root) {
            (figures.memory_max, figures.memory_high) = (n(css.max()), n(css.high()));
            figures.memory.max_hits = Some(css.events(MemoryEvent::Max));
            figures.memory.high_hits = Some(css.events(MemoryEvent::High));
        }
        figures.memory.peak_bytes = self.memory.peak();
        figures.memory.measure = self.memory.measure;
        figures.memory.class = if self.memory.peak().is_some() && self.memory.unseen.is_none() {
            Class::Sampled
        } else {
            Class::Unknown
        };
        figures.memory.overshoot_bytes = self.memory.overshoot;
        figures.memory.oom_kills = self.memory.kills;
        figures.memory.oom_kill_count = Some(self.memory.kill_count);
        if let Some(css) = CpuController::css(&root) {
            let (quota, period_us) = css.max();
            figures.cpu_max = n(quota).map(|quota_us| CpuMax { quota_us, period_us });
            figures.cpu_weight = Some(css.weight()).filter(|weight| *weight != 100);
            figures.bandwidth = css.stat();
        }
        figures.cpus = Cpuset::css(&root)
            .map(|css| css.cpus())
            .filter(|cpus| !cpus.is_empty())
            .map(|cpus| cpus.to_string());
        figures
    }
}

fn limits(cgroup: &Cgroup) -> SeriesLimits {
    let n = |limit: Limit| match limit {
        Limit::N(n) => Some(n),
        Limit::Max => None,
    };
    let memory = MemoryController::css(cgroup);
    let cpu = CpuController::css(cgroup).map(|css| css.max());
    SeriesLimits {
        memory_max: memory.as_ref().and_then(|css| n(css.max())),
        memory_high: memory.as_ref().and_then(|css| n(css.high())),
        cpu_max_percent: cpu
            .and_then(|(quota, period)| Some(n(quota)? as f64 * 100.0 / period as f64)),
        pids_max: Pids::css(cgroup).and_then(|css| n(css.max())),
    }
}
