//! CPU time of groups: who used it, how much is left, and who has to wait.
//!
//! **Accounting.** What a live process used is on its clock, to the nanosecond. What it used before
//! it ended is in the times of whoever waited for it, in ticks, and in what the reaper collects. So
//! when a process is gone, whoever waited for it *owes* what was charged on its account: the same
//! time is about to appear there, and is not charged twice (`resources/processes.rs`).
//!
//! **Bandwidth.** The core's arithmetic says how much of a quota is left. Divided by the CPUs that
//! those who run can be on, that is how long nothing needs to be looked at. When it is used up, the
//! processes that run are halted until the core lets the group go on. What was used meanwhile is a
//! debt there, so that errors of the prediction do not add up. The time that a look finds was used
//! since the look before, and the core takes it from the periods that lie between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cgrove_core::controller::cpu::{Cpu as Controller, CpuCss, CpuTimes};
use cgrove_core::{Cgroup, Time};

use super::Around;
use super::processes::{Process, Processes, Ran};
use crate::journal::What;
use crate::mutant::{self, Mutant};
use crate::sys::CpuTime;

/// The shortest time between two looks.
const FLOOR: Duration = Duration::from_micros(250);
/// While a group waits, how often to look for those that woke up.
const NEWCOMERS: Duration = Duration::from_millis(5);
/// The inverse of the share of a core that looking may take, at those who run and at those who do
/// not.
const COST_FACTOR: [u32; 2] = [20, 130];
/// Time that is found after this long is taken to have been used within it.
const FOUND_WITHIN: Duration = Duration::from_secs(1);

/// CPU time of a run.
#[derive(Debug)]
pub(super) struct Cpu {
    /// Used since the last look, by those that the reaper collected meanwhile.
    used: Vec<(Arc<CpuCss>, Duration)>,
    /// When the last look was.
    looked: Time,
    cpus: u64,
    /// A quota is set somewhere.
    limited: bool,
    /// Ever was.
    pub was_limited: bool,
}

/// The cgroup and those above it that have the controller, nearest first.
fn levels_of(cgroup: &Arc<Cgroup>) -> impl Iterator<Item = (&Arc<Cgroup>, Arc<CpuCss>)> {
    std::iter::successors(Some(cgroup), |cgroup| cgroup.parent())
        .filter_map(|cgroup| Some((cgroup, Controller::css(cgroup)?)))
}

impl Cpu {
    pub fn new(cpus: usize) -> Cpu {
        Cpu {
            used: Vec::new(),
            looked: Time(0),
            cpus: u64::try_from(cpus).unwrap_or(1).max(1),
            limited: false,
            was_limited: false,
        }
    }

    /// The reaper collected a process, which the table knew as `known`; on its account
    /// `charged` was charged already.
    pub fn reaped(
        &mut self,
        total: CpuTime,
        known: Option<&Process>,
        charged: u64,
        around: &mut Around<'_>,
    ) {
        let of = |time: Duration| crate::report::nanos(time);
        let (user, system) = (of(total.user), of(total.system));
        let group = match known {
            Some(process) => Arc::clone(&process.group),
            None => Arc::clone(around.ledger.root()),
        };
        let new = (user + system).saturating_sub(charged);
        let user = part(new, user, user + system);
        self.charge(&group, [user, new - user]);
    }

    fn charge(&mut self, group: &Arc<Cgroup>, time: [u64; 2]) {
        let [user, system] = time;
        if user + system == 0 {
            return;
        }
        group.charge_cpu(CpuTimes { user, system, nice: 0 });
        if let Some(css) = Controller::effective(group) {
            self.used.push((css, Duration::from_nanos(user + system)));
        }
    }

    /// Charges what a look found.
    pub fn ran(&mut self, ran: &[(Arc<Cgroup>, Ran)], around: &mut Around<'_>) {
        for (group, Ran { own, children }) in ran {
            self.charge(group, [own[0] + children[0], own[1] + children[1]]);
        }
        let now = around.ledger.time();
        let within = u64::try_from(FOUND_WITHIN.as_nanos()).unwrap_or(u64::MAX);
        let since = self.looked.max(Time(now.0.saturating_sub(within)));
        self.looked = now;
        // Who is to stop is asked of the css itself.
        drop(CpuCss::run_all(self.used.drain(..), since, now));
    }

    /// Lets go on whose period is over, and says when to look again.
    pub fn step(&mut self, processes: &Processes, around: &mut Around<'_>) -> Option<Instant> {
        let now = around.ledger.time();
        let mut levels: Vec<(Arc<Cgroup>, Arc<CpuCss>, u64, bool)> = Vec::new();
        for (_, process) in processes.iter() {
            for (cgroup, css) in levels_of(&process.group) {
                let at = match levels.iter().position(|(known, ..)| Arc::ptr_eq(known, cgroup)) {
                    Some(at) => at,
                    None => {
                        levels.push((Arc::clone(cgroup), css, 0, false));
                        levels.len() - 1
                    }
                };
                if let Some((_, _, running, waiting)) = levels.get_mut(at) {
                    *running += if process.moved { process.threads } else { 0 };
                    *waiting |= !process.held && !process.zombie;
                }
            }
        }
        self.limited = false;
        let mut due: Option<Instant> = None;
        let begun = Instant::now();
        for (cgroup, css, running, waiting) in levels {
            let Some(_) = css.left() else { continue };
            self.limited = true;
            let _ = css.tick(now);
            let left = css.left().unwrap_or(Duration::MAX);
            let period = css.next_tick().map(|time| instant(time, around.started));
            let at = if css.is_throttled() {
                around.event(&cgroup, What::Throttle { count: 1 });
                let newcomers =
                    waiting.then(|| begun + NEWCOMERS.max(around.cost * COST_FACTOR[0]));
                period.into_iter().chain(newcomers).min().unwrap_or(begun + NEWCOMERS)
            } else {
                let parallel = u32::try_from(running.clamp(1, self.cpus)).unwrap_or(1);
                let cost = around.cost * COST_FACTOR[usize::from(running == 0)];
                let used_up = begun + (left / parallel).max(FLOOR).max(cost);
                period.into_iter().chain([used_up]).min().unwrap_or(used_up)
            };
            due = Some(due.map_or(at, |due| due.min(at)));
        }
        self.was_limited |= self.limited;
        due
    }

    /// Whether this process is not to run, for its group has used up its time.
    pub fn holds(&self, group: &Arc<Cgroup>) -> bool {
        self.limited
            && !mutant::is(Mutant::NeverThrottled)
            && Controller::effective(group).is_some_and(|css| css.must_stop())
    }
}

fn instant(time: Time, started: Instant) -> Instant {
    started + Duration::from_nanos(time.0)
}

/// `time` in the proportion of `of` to `all`.
pub(super) fn part(time: u64, of: u64, all: u64) -> u64 {
    if all == 0 {
        return 0;
    }
    let part = u128::from(time) * u128::from(of) / u128::from(all);
    u64::try_from(part).unwrap_or(time).min(time)
}
