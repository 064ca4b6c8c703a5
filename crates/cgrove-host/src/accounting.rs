//! CPU time of a whole tree, exited children and daemons included.
//!
//! **Exact.** wait4(2) hands the reaper, with every process it collects, the CPU time of that
//! process and of all that was waited for below it. Everything in the tree ends up below the
//! reaper, so the sum misses nothing, with one exception: the children of a process that ignores
//! SIGCHLD are thrown away by the kernel, their time with them.
//!
//! **Sampled.** From the moment that can happen, samples of `/proc` are added up. Counted exactly,
//! "collected + still running" can only grow; when it shrinks between two samples, the difference
//! is time that was thrown away. A walk over `/proc` that was not complete may have missed a process
//! that moved, so what such a sample lacks is taken for lost only as far as the next lacks it too. What a thrown-away process used after the last sample is lost,
//! which is why the class is then *sampled*.

use crate::report::{Class, Cpu, nanos};
use crate::scan::Census;
use crate::sys::{self, CpuTime, Waited};

/// The running sum.
#[derive(Debug, Default)]
pub struct Accounting {
    collected: CpuTime,
    lost: Nanos,
    /// Collected + running + lost at the last sample.
    last_total: Nanos,
    /// What the last sample lacked, if it was not complete.
    doubtful: Nanos,
    /// Why the figure is not exact.
    note: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Nanos {
    user: u64,
    system: u64,
}

impl Accounting {
    /// A process was collected.
    pub fn collected(&mut self, waited: &Waited) {
        self.collected = self.collected.plus(waited.cpu);
    }

    /// From now on time may be thrown away; the first reason is kept.
    pub fn degrade(&mut self, why: impl Into<String>) {
        self.note.get_or_insert_with(|| why.into());
    }

    /// Whether samples are needed.
    pub fn is_sampled(&self) -> bool {
        self.note.is_some()
    }

    /// Takes a sample.
    pub fn sample(&mut self, census: &Census) {
        let ns_per_tick = 1_000_000_000 / sys::clock_ticks_per_second();
        let (mut user, mut system) = (0u64, 0u64);
        for stat in census.tasks.iter().filter_map(|seen| seen.stat) {
            user = user.saturating_add(stat.own.0).saturating_add(stat.children.0);
            system = system.saturating_add(stat.own.1).saturating_add(stat.children.1);
        }
        let running = Nanos {
            user: user.saturating_mul(ns_per_tick),
            system: system.saturating_mul(ns_per_tick),
        };
        self.settle(running, census.complete);
    }

    /// The figure, once nothing runs any more.
    pub fn finish(&mut self) -> Cpu {
        if self.is_sampled() {
            self.settle(Nanos::default(), true);
        }
        Cpu {
            user_ns: nanos(self.collected.user).saturating_add(self.lost.user),
            system_ns: nanos(self.collected.system).saturating_add(self.lost.system),
            class: if self.is_sampled() { Class::Sampled } else { Class::Exact },
            note: self.note.clone(),
            periods: None,
            throttled_periods: None,
            throttled_ns: None,
            limit_class: None,
        }
    }

    fn settle(&mut self, running: Nanos, complete: bool) {
        let settle =
            |collected: u64, running: u64, lost: &mut u64, last: &mut u64, doubt: &mut u64| {
                let total = collected.saturating_add(running).saturating_add(*lost);
                let missing = last.saturating_sub(total);
                let believed = if complete { missing } else { missing.min(*doubt) };
                *lost = lost.saturating_add(believed);
                *doubt = missing - believed;
                *last = total.max(*last);
            };
        let Accounting { collected, lost, last_total: last, doubtful: doubt, .. } = self;
        settle(
            nanos(collected.user),
            running.user,
            &mut lost.user,
            &mut last.user,
            &mut doubt.user,
        );
        settle(
            nanos(collected.system),
            running.system,
            &mut lost.system,
            &mut last.system,
            &mut doubt.system,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Stat;
    use crate::scan::Seen;
    use std::time::Duration;

    fn census(ticks: &[u64]) -> Census {
        let tasks = ticks
            .iter()
            .zip(1..)
            .map(|(&user, tid)| {
                let stat = Stat {
                    state: b'S',
                    ppid: 1,
                    own: (user, 0),
                    children: (0, 0),
                    threads: 1,
                    start: 0,
                };
                Seen { tid, tgid: tid, zombie: false, spared: false, stat: Some(stat) }
            })
            .collect();
        Census { tasks, complete: true, hidden: Vec::new() }
    }

    fn waited(user: Duration) -> Waited {
        let cpu = CpuTime { user, system: Duration::ZERO };
        Waited { pid: 1, fate: sys::Fate::Exited(0), cpu, max_rss: 0 }
    }

    #[test]
    fn what_vanishes_uncollected_is_kept() {
        let second = sys::clock_ticks_per_second();
        let mut sum = Accounting::default();
        sum.degrade("SIGCHLD is ignored");
        sum.sample(&census(&[second, 3 * second]));
        // The second process vanished without being collected: 3 s kept.
        sum.sample(&census(&[second]));
        // The first one is collected: nothing is counted twice.
        sum.collected(&waited(Duration::from_secs(1)));
        sum.sample(&census(&[]));
        let cpu = sum.finish();
        assert_eq!((cpu.user_ns, cpu.class), (4_000_000_000, Class::Sampled));
    }

    #[test]
    fn what_one_incomplete_look_missed_is_not_lost() {
        let second = sys::clock_ticks_per_second();
        let glance = |ticks: &[u64]| Census { complete: false, ..census(ticks) };
        let mut sum = Accounting::default();
        sum.degrade("SIGCHLD is ignored");
        sum.sample(&glance(&[second, second]));
        // One moved while the tree was read, and is back.
        sum.sample(&glance(&[second]));
        sum.sample(&glance(&[second, second]));
        // Then it vanishes, and stays away for two looks.
        sum.sample(&glance(&[second]));
        sum.sample(&glance(&[second]));
        sum.collected(&waited(Duration::from_secs(1)));
        assert_eq!(sum.finish().user_ns, 2_000_000_000);
    }

    #[test]
    fn exact_without_a_reason_to_doubt() {
        let mut sum = Accounting::default();
        sum.collected(&waited(Duration::from_millis(7)));
        sum.collected(&waited(Duration::from_millis(5)));
        let cpu = sum.finish();
        assert_eq!((cpu.user_ns, cpu.class, cpu.note), (12_000_000, Class::Exact, None));
    }
}
