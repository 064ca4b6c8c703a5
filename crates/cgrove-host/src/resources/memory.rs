//! Memory of whole trees, held by looking.
//!
//! **Problem.** Without a cgroup of the kernel nobody refuses a page. What is left is to look, and
//! to act when too much is there. To look exactly (PSS, by a walk over page tables) is dear; to sum
//! up what is cheap (RSS) counts shared pages many times, and would kill ten children that share
//! their parent's memory.
//!
//! **Mechanism.** Each group has an upper *bound* of its usage that costs nearly nothing to keep: of
//! the last exact measurement, what was shared then, and for each process what it had alone plus
//! all that it has got since. While the bound is below every limit nothing is over, and the time
//! until the next look is what the fastest conceivable growth needs for the room that is left. When
//! the bound passes a limit, those that run are *halted*, and everyone is measured *exactly*. What
//! is found then is charged to the core, and decides:
//!
//! * over `memory.max`: the kernel's OOM rules choose whom to kill (`oom.rs`); the halt lasts until
//!   he is gone;
//! * over `memory.high`, and grown: the halt lasts as long as the core says the kernel would hold the
//!   charger;
//! * else everybody goes on, from the new measurement.
//!
//! So no figure that may be wrong ever kills. Where nobody can be halted, or measured, the same is
//! done with what there is, and the label says so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::controller::memory::{Memory as Controller, MemoryCss, MemoryEvent};
use cgrove_core::controller::page_counter::PAGE_SIZE;
use cgrove_core::{Cgroup, CgroupId, Limit};

use super::processes::{Anchor, Processes};
use super::{Around, oom};
use crate::journal::{What, cut};
use crate::kill;
use crate::mutant::{self, Mutant};
use crate::report::{Measure, OomKill, nanos};
use crate::sys::RawPid;

/// The most memory that one CPU fills in a second, faults and all.
const FASTEST: u64 = 2 << 30;
/// The shortest time between two looks.
const FLOOR: Duration = Duration::from_millis(1);
/// The longest, with a limit and without.
const CEILING: Duration = Duration::from_secs(1);
/// Of a limit, what a tree that stood still may pass it by before that is seen: one part in …
const TOLERANCE: u64 = 10;
/// Growth that counts as such.
const GROWTH: u64 = 64 * 1024;
/// How long a halt is waited for before measuring without.
const HALT_PATIENCE: Duration = Duration::from_millis(20);
/// How long a victim may take to end.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);
/// When nobody could be killed, when to look again.
const HELPLESS: Duration = Duration::from_millis(200);
/// The inverse of the share of a core that looking at a calm tree may take.
const CALM_SHARE: u32 = 130;
/// The inverse of the share of a core that exact measurements may take: at a limit, and for a peak.
const MEASURE_SHARE: [u32; 2] = [3, 200];
/// Kills that are listed one by one.
const MAX_LISTED: usize = 64;

/// What a level with limits goes through.
#[derive(Debug)]
enum Stage {
    /// Those that run are coming to a halt, to be measured.
    Halting { since: Instant },
    /// Victims were killed and are not gone.
    Dying { since: Instant, victims: Vec<RawPid> },
    /// Over high: held until then.
    Delayed { until: Instant },
}

/// What is known of one level between looks.
#[derive(Debug, Default)]
struct Watch {
    stage: Option<Stage>,
    /// Usage when it was last measured.
    measured: u64,
    /// It was over high then.
    over_high: bool,
    /// Not to be measured again before.
    rests: Option<Instant>,
    bound_before: u64,
}

/// A cgroup with the controller on, that tasks are in or below.
struct Level {
    cgroup: Arc<Cgroup>,
    css: Arc<MemoryCss>,
    bound: u64,
}

/// What is charged to a cgroup for the tasks right in it.
#[derive(Debug)]
struct Charge {
    css: Arc<MemoryCss>,
    pages: u64,
    /// What was shared at the last exact measurement, and by whom is not known.
    sticky: u64,
}

/// The memory of a run.
#[derive(Debug)]
pub(super) struct Memory {
    charges: HashMap<CgroupId, Charge>,
    watches: HashMap<CgroupId, Watch>,
    cpus: u64,
    /// Bounds grew since the look before.
    pub grew: bool,
    /// The next exact measurement for a peak's sake.
    peak_due: Option<Instant>,
    peak: u64,
    /// All but little of what was charged last rests on exact measurements.
    anchored: bool,
    /// Time that went into exact measurements since it was asked for last.
    pub spent: Duration,
    pub measure: Option<Measure>,
    pub kills: Vec<OomKill>,
    pub kill_count: u64,
    pub overshoot: Option<u64>,
    /// The first process that could not be measured exactly.
    pub unmeasured: Option<RawPid>,
    /// The first process of which `/proc` shows nothing at all.
    pub unseen: Option<RawPid>,
    /// Somebody was to be killed and nobody could be.
    pub helpless: bool,
}

fn bytes(limit: Limit) -> Option<u64> {
    match limit {
        Limit::N(bytes) => Some(bytes),
        Limit::Max => None,
    }
}

/// The cgroup and those above it that have the controller, nearest first.
fn levels_of(cgroup: &Arc<Cgroup>) -> impl Iterator<Item = (&Arc<Cgroup>, Arc<MemoryCss>)> {
    std::iter::successors(Some(cgroup), |cgroup| cgroup.parent())
        .filter_map(|cgroup| Some((cgroup, Controller::css(cgroup)?)))
}

/// Whether `cgroup` is `above` or below it.
pub(super) fn is_below(cgroup: &Arc<Cgroup>, above: &Arc<Cgroup>) -> bool {
    std::iter::successors(Some(cgroup), |cgroup| cgroup.parent()).any(|it| Arc::ptr_eq(it, above))
}

impl Memory {
    pub fn new(cpus: usize) -> Memory {
        Memory {
            charges: HashMap::new(),
            watches: HashMap::new(),
            cpus: u64::try_from(cpus).unwrap_or(1).max(1),
            grew: false,
            peak_due: None,
            peak: 0,
            anchored: false,
            spent: Duration::ZERO,
            measure: None,
            kills: Vec::new(),
            kill_count: 0,
            overshoot: None,
            unmeasured: None,
            unseen: None,
            helpless: false,
        }
    }

    /// The peak of the whole run.
    pub fn peak(&self) -> Option<u64> {
        (self.peak > 0).then_some(self.peak)
    }

    /// A process that was collected had this much at once.
    pub fn had(&mut self, resident: u64) {
        // More than shared libraries make of it: nobody looked in time.
        if resident > self.peak + (self.peak / 20).max(4 << 20) {
            self.peak = resident;
            self.measure = Some(Measure::Rss);
        }
    }

    /// Whether a limit is set anywhere.
    fn is_limited(css: &MemoryCss) -> bool {
        css.max() != Limit::Max || css.high() != Limit::Max
    }

    /// Acts on what the last look saw. Returns when to look again.
    pub fn step(&mut self, processes: &mut Processes, around: &mut Around<'_>) -> Instant {
        let levels = self.levels(processes);
        if self.unseen.is_none() {
            self.unseen = processes.iter().find(|(_, it)| it.unreadable).map(|(pid, _)| pid);
        }
        self.grew = false;
        for level in &levels {
            let watch = self.watches.entry(level.cgroup.id()).or_default();
            self.grew |= level.bound > watch.bound_before + GROWTH;
            watch.bound_before = level.bound;
        }
        let mut over = HashSet::new();
        for level in &levels {
            if self.step_level(level, processes, around) {
                over.insert(level.cgroup.id());
            }
        }
        self.charge_estimates(&over, processes, around);
        self.settle_peak(processes, around);
        let live: HashSet<CgroupId> = levels.iter().map(|level| level.cgroup.id()).collect();
        self.watches.retain(|id, _| live.contains(id));
        self.plan(&levels, around)
    }

    /// The levels with their bounds, deepest first.
    fn levels(&self, processes: &Processes) -> Vec<Level> {
        let mut direct: HashMap<CgroupId, (Arc<Cgroup>, u64)> = HashMap::new();
        for (_, process) in processes.iter() {
            let entry = direct
                .entry(process.group.id())
                .or_insert_with(|| (Arc::clone(&process.group), self.sticky(&process.group)));
            entry.1 = entry.1.saturating_add(process.bound());
        }
        let mut levels: Vec<Level> = Vec::new();
        for (cgroup, bound) in direct.values() {
            for (cgroup, css) in levels_of(cgroup) {
                match levels.iter_mut().find(|level| Arc::ptr_eq(&level.cgroup, cgroup)) {
                    Some(level) => level.bound = level.bound.saturating_add(*bound),
                    None => {
                        levels.push(Level { cgroup: Arc::clone(cgroup), css, bound: *bound });
                    }
                }
            }
        }
        levels.sort_by_key(|level| std::cmp::Reverse(level.cgroup.level()));
        levels
    }

    fn sticky(&self, cgroup: &Cgroup) -> u64 {
        self.charges.get(&cgroup.id()).map_or(0, |charge| charge.sticky)
    }

    /// Where the bound of a level calls for a measurement.
    fn trigger(&self, level: &Level) -> Option<u64> {
        let high = bytes(level.css.high()).map(|high| {
            let watch = self.watches.get(&level.cgroup.id());
            // Over it already: then at each growth.
            let since = watch.filter(|it| it.over_high).map_or(0, |it| it.measured + GROWTH);
            high.max(since)
        });
        high.into_iter().chain(bytes(level.css.max())).min()
    }

    /// Returns whether the level is over a limit as far as anyone can tell.
    fn step_level(
        &mut self,
        level: &Level,
        processes: &mut Processes,
        around: &mut Around<'_>,
    ) -> bool {
        let now = Instant::now();
        let id = level.cgroup.id();
        let Some(trigger) = self.trigger(level) else {
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.stage = None;
                watch.over_high = false;
            }
            return false;
        };
        let over = level.bound > trigger;
        let watch = self.watches.entry(id).or_default();
        match &watch.stage {
            None => {
                if !over {
                    return false;
                }
                if watch.rests.is_none_or(|until| until <= now) {
                    watch.stage = Some(Stage::Halting { since: now });
                }
                true
            }
            Some(Stage::Halting { since }) => {
                if around.freezer.all_held() || since.elapsed() >= HALT_PATIENCE {
                    watch.stage = None;
                    self.decide(level, processes, around);
                }
                true
            }
            Some(Stage::Dying { since, victims }) => {
                let alive = |pid: &RawPid| {
                    processes.get(*pid).is_some_and(|it| !it.zombie && it.resident > 0)
                };
                if since.elapsed() >= DEATH_PATIENCE || !victims.iter().any(alive) {
                    // Still held, to be measured once more.
                    watch.stage = Some(Stage::Halting { since: now });
                }
                true
            }
            Some(Stage::Delayed { until }) => {
                if *until <= now {
                    watch.stage = None;
                }
                true
            }
        }
    }

    /// Everyone has halted: measures, charges, and draws the consequences.
    fn decide(&mut self, level: &Level, processes: &mut Processes, around: &mut Around<'_>) {
        let begun = Instant::now();
        let before = level.css.current();
        let rash = mutant::is(Mutant::KilledUnmeasured);
        let usage = if rash {
            self.charge(level, processes, around, true);
            level.bound
        } else {
            self.measure(level, processes, around);
            self.charge(level, processes, around, false);
            level.css.current()
        };
        let took = begun.elapsed();
        let watch = self.watches.entry(level.cgroup.id()).or_default();
        let last = std::mem::replace(&mut watch.measured, usage);
        watch.rests = Some(Instant::now() + took * MEASURE_SHARE[0]);
        watch.bound_before = usage;
        if let Some(max) = bytes(level.css.max()).filter(|max| usage > *max) {
            self.overshoot = self.overshoot.max(Some(usage - max));
            self.kill(level, usage, max, processes, around);
            return;
        }
        let Some(high) = bytes(level.css.high()) else { return };
        if usage <= high {
            watch.over_high = false;
            return;
        }
        let crossed = !std::mem::replace(&mut watch.over_high, true);
        let grown = usage.saturating_sub(if crossed { before.min(high) } else { last });
        if crossed {
            let what = What::MemoryHigh { count: 1, usage_bytes: usage, limit_bytes: high };
            around.event(&level.cgroup, what);
        }
        if grown == 0 {
            return;
        }
        let pages = grown.div_ceil(PAGE_SIZE);
        let css = Arc::clone(&level.css);
        let delay = around.ledger.report(|fx| {
            css.event(MemoryEvent::High, fx);
            css.throttle_high(pages, fx)
        });
        if !delay.is_zero() {
            let watch = self.watches.entry(level.cgroup.id()).or_default();
            watch.stage = Some(Stage::Delayed { until: Instant::now() + delay });
        }
    }

    /// Over `memory.max`: kills by the kernel's rules.
    fn kill(
        &mut self,
        level: &Level,
        usage: u64,
        max: u64,
        processes: &mut Processes,
        around: &mut Around<'_>,
    ) {
        let domain = Arc::clone(&level.css);
        around.ledger.report(|fx| domain.event(MemoryEvent::Oom, fx));
        around.event(&level.cgroup, What::MemoryMax { usage_bytes: usage, limit_bytes: max });
        let victims = oom::victims(&level.cgroup, &domain, max, processes, around);
        let mut dying = Vec::new();
        let mut named: Vec<(RawPid, u64, Vec<String>)> = Vec::new();
        for pid in victims {
            let Some(process) = processes.get(pid) else { continue };
            named.push((pid, process.start, around.scanner.proc.command_line(pid)));
        }
        // At once, and the oldest first: a parent that waits is to see no child die.
        named.sort_by_key(|(pid, start, _)| (*start, *pid));
        named.retain(|(pid, start, _)| kill::one(around.scanner, *pid, *start).is_ok());
        for (pid, _, cmdline) in named {
            let Some(process) = processes.get(pid) else { continue };
            if let Some(css) = Controller::effective(&process.group) {
                around.ledger.report(|fx| css.event(MemoryEvent::OomKill, fx));
            }
            let bytes = process.anchor.map_or(process.resident, |anchor| anchor.proportional);
            let group = process.group.path();
            let what = What::OomKill {
                pid,
                cmdline: cut(cmdline.iter().cloned()),
                bytes,
                usage_bytes: usage,
                limit_bytes: max,
            };
            around.event(&level.cgroup, what);
            self.kill_count += 1;
            if self.kills.len() < MAX_LISTED {
                self.kills.push(OomKill {
                    pid,
                    cmdline,
                    bytes,
                    group,
                    usage_bytes: usage,
                    limit_bytes: max,
                    at_ms: nanos(around.started.elapsed()) / 1_000_000,
                });
            }
            dying.push(pid);
        }
        let now = Instant::now();
        let watch = self.watches.entry(level.cgroup.id()).or_default();
        if dying.is_empty() {
            self.helpless = true;
            watch.rests = Some(now + HELPLESS);
        } else {
            watch.stage = Some(Stage::Dying { since: now, victims: dying });
            watch.rests = None;
        }
    }

    /// Measures every process of a level exactly.
    fn measure(&mut self, level: &Level, processes: &mut Processes, around: &mut Around<'_>) {
        let begun = Instant::now();
        let mut sticky: HashMap<CgroupId, (Arc<Cgroup>, u64)> = HashMap::new();
        for (pid, it) in processes.iter_mut() {
            if !is_below(&it.group, &level.cgroup) {
                continue;
            }
            let at = it.via.unwrap_or(pid);
            let shared = sticky.entry(it.group.id()).or_insert_with(|| (Arc::clone(&it.group), 0));
            match around.scanner.proc.rollup(at) {
                Ok(found) => {
                    it.resident = found.resident;
                    it.peak = it.peak.max(found.resident);
                    let anchor = Anchor {
                        proportional: found.proportional,
                        private: found.private,
                        resident: found.resident,
                    };
                    shared.1 += anchor.proportional.saturating_sub(anchor.private);
                    it.anchor = Some(anchor);
                }
                Err(nix::errno::Errno::ESRCH | nix::errno::Errno::ENOENT) => {
                    (it.resident, it.shared) = (0, 0);
                    it.anchor = None;
                }
                Err(_) => {
                    it.anchor = None;
                    if let Ok(statm) = around.scanner.proc.statm(at) {
                        it.resident = statm.resident * crate::sys::page_size();
                    }
                    self.unmeasured.get_or_insert(pid);
                }
            }
        }
        for (id, (group, shared)) in sticky {
            if let Some(charge) = charge_of(&mut self.charges, id, &group) {
                charge.sticky = shared;
            }
        }
        self.spent += begun.elapsed();
    }

    /// Charges the groups of a level what was found there.
    fn charge(
        &mut self,
        level: &Level,
        processes: &Processes,
        around: &mut Around<'_>,
        rash: bool,
    ) {
        let usage = self.usage(processes, rash);
        self.uncharge_the_empty(&usage, around);
        for (id, (group, usage)) in usage {
            if is_below(&group, &level.cgroup)
                && let Some(charge) = charge_of(&mut self.charges, id, &group)
            {
                charge.set(usage, around);
            }
        }
    }

    /// The likely usage of each group, of the tasks right in it.
    fn usage(&self, processes: &Processes, rash: bool) -> HashMap<CgroupId, (Arc<Cgroup>, u64)> {
        #[derive(Default)]
        struct Sum {
            known: u64,
            new: u64,
            shared: u64,
            bound: u64,
        }
        let mut sums: HashMap<CgroupId, (Arc<Cgroup>, Sum)> = HashMap::new();
        for (_, it) in processes.iter() {
            let sum = sums
                .entry(it.group.id())
                .or_insert_with(|| (Arc::clone(&it.group), Sum::default()));
            let sum = &mut sum.1;
            sum.bound += it.bound();
            match it.estimate() {
                Some(estimate) => sum.known += estimate,
                None if it.unreadable => sum.known += it.resident,
                // Programs share their libraries, mostly: once for all of them.
                None => {
                    sum.new += it.resident.saturating_sub(it.shared);
                    sum.shared = sum.shared.max(it.shared);
                }
            }
        }
        sums.into_iter()
            .map(|(id, (group, sum))| {
                let bound = sum.bound + self.sticky(&group);
                let likely = sum.known + sum.new + sum.shared;
                (id, (group, if rash { bound } else { likely.min(bound) }))
            })
            .collect()
    }

    /// A group without processes has no memory: or one whose last was killed for it would be killed for
    /// once more, with whoever is left around.
    fn uncharge_the_empty(
        &mut self,
        usage: &HashMap<CgroupId, (Arc<Cgroup>, u64)>,
        around: &mut Around<'_>,
    ) {
        for (id, charge) in &mut self.charges {
            if !usage.contains_key(id) {
                charge.sticky = 0;
                charge.set(0, around);
            }
        }
        self.charges.retain(|id, _| usage.contains_key(id));
    }

    /// Charges estimates to the groups that are not over a limit, or are about to be measured.
    fn charge_estimates(
        &mut self,
        over: &HashSet<CgroupId>,
        processes: &Processes,
        around: &mut Around<'_>,
    ) {
        let usage = self.usage(processes, false);
        let all: u64 = processes.iter().map(|(_, it)| it.resident).sum();
        let new = processes.iter().filter(|(_, it)| it.anchor.is_none()).map(|(_, it)| it.resident);
        self.anchored = new.sum::<u64>() <= all / 20;
        self.uncharge_the_empty(&usage, around);
        for (id, (group, usage)) in &usage {
            let held = levels_of(group).any(|(cgroup, _)| over.contains(&cgroup.id()));
            if !held && let Some(charge) = charge_of(&mut self.charges, *id, group) {
                charge.set(*usage, around);
            }
        }
    }

    /// A new peak is worth an exact look, if there is time for one.
    fn settle_peak(&mut self, processes: &mut Processes, around: &mut Around<'_>) {
        let root = Arc::clone(around.ledger.root());
        let Some(css) = Controller::css(&root) else { return };
        let now = Instant::now();
        let busy = self.watches.values().any(|watch| watch.stage.is_some());
        let small = css.current() <= self.peak + self.peak / 50 + GROWTH;
        if small || busy || self.peak_due.is_some_and(|due| due > now) {
            if css.current() > self.peak {
                self.peak = css.current();
                let sound = self.anchored && self.unmeasured.is_none();
                self.measure = Some(if sound { Measure::Pss } else { Measure::Rss });
            }
            return;
        }
        self.exactly(processes, around);
        self.peak_due = Some(Instant::now() + now.elapsed() * MEASURE_SHARE[1]);
    }

    /// Measures and charges the whole run, for those who want to know.
    pub fn exactly(&mut self, processes: &mut Processes, around: &mut Around<'_>) {
        let root = Arc::clone(around.ledger.root());
        let Some(css) = Controller::css(&root) else { return };
        if self.watches.values().any(|watch| watch.stage.is_some()) {
            return;
        }
        let level = Level { cgroup: root, css, bound: 0 };
        let unmeasured = self.unmeasured.is_some();
        self.measure(&level, processes, around);
        self.charge(&level, processes, around, false);
        if level.css.current() > self.peak {
            self.peak = level.css.current();
            let rss = !unmeasured && self.unmeasured.is_some();
            self.measure = Some(if rss { Measure::Rss } else { Measure::Pss });
        }
    }

    /// Whether this process is not to run, for memory's sake.
    pub fn holds(&self, group: &Arc<Cgroup>) -> bool {
        levels_of(group).any(|(cgroup, _)| {
            self.watches.get(&cgroup.id()).is_some_and(|watch| watch.stage.is_some())
        })
    }

    /// Whether a halt is waited for.
    pub fn awaits_halt(&self) -> bool {
        let halting = |it: &Watch| matches!(it.stage, Some(Stage::Halting { .. }));
        self.watches.values().any(halting)
    }

    /// Whether this process was killed and is waited for.
    pub fn awaits_death(&self, pid: RawPid) -> bool {
        let waits = |it: &Watch| matches!(&it.stage, Some(Stage::Dying { victims, .. }) if victims.contains(&pid));
        self.watches.values().any(waits)
    }

    fn plan(&self, levels: &[Level], around: &Around<'_>) -> Instant {
        let now = Instant::now();
        let rate = FASTEST * self.cpus;
        let time = |bytes: u64| {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let mut next = now + CEILING;
        for level in levels.iter().filter(|level| Self::is_limited(&level.css)) {
            let Some(trigger) = self.trigger(level) else { continue };
            let watch = self.watches.get(&level.cgroup.id());
            let at = match watch.and_then(|watch| watch.stage.as_ref()) {
                Some(Stage::Delayed { until }) => *until,
                Some(_) => now + FLOOR,
                None if level.bound > trigger => {
                    watch.and_then(|watch| watch.rests).map_or(now, |until| until.max(now + FLOOR))
                }
                None => {
                    let quiet = time(trigger / TOLERANCE).max(FLOOR);
                    let floor = if self.grew { FLOOR } else { quiet };
                    now + time(trigger - level.bound).max(floor)
                }
            };
            next = next.min(at);
        }
        let share = if self.grew { 8 } else { CALM_SHARE };
        if self.watches.values().any(|watch| watch.stage.is_some()) {
            next
        } else {
            next.max(now + around.cost * share)
        }
    }

    /// The run is over: nothing is charged any more.
    pub fn finish(&mut self, around: &mut Around<'_>) {
        for charge in self.charges.values_mut() {
            charge.set(0, around);
        }
        self.watches.clear();
    }
}

/// What a group's tasks are charged to; `None` if nowhere.
fn charge_of<'a>(
    charges: &'a mut HashMap<CgroupId, Charge>,
    id: CgroupId,
    group: &Arc<Cgroup>,
) -> Option<&'a mut Charge> {
    use std::collections::hash_map::Entry;
    match charges.entry(id) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(free) => {
            let css = Controller::effective(group)?;
            Some(free.insert(Charge { css, pages: 0, sticky: 0 }))
        }
    }
}

impl Charge {
    fn set(&mut self, bytes: u64, around: &mut Around<'_>) {
        let pages = bytes.div_ceil(PAGE_SIZE);
        let css = Arc::clone(&self.css);
        if pages > self.pages {
            let more = pages - self.pages;
            // Counts `max` if it passes one. Over high is dealt with where it was measured.
            let _ = around.ledger.report(|fx| css.charge(more, fx));
        } else if pages < self.pages {
            css.uncharge(self.pages - pages);
        }
        self.pages = pages;
    }
}
