//! CPU time of a whole tree, exited children and daemons included.
//!
//! **Exact.** wait4(2) hands the reaper, with every process it collects, the CPU time of that
//! process and of all that was waited for below it. Everything in the tree ends up below the
//! reaper, so the sum misses nothing, with one exception: the children of a process that ignores
//! SIGCHLD are thrown away by the kernel, their time with them.
//!
//! **Sampled.** From the moment that can happen, samples of `/proc` are added up. Counted exactly,
//! "collected + still running" can only grow; when it shrinks between two samples, the difference
//! is time that was thrown away. What a thrown-away process used after the last sample is lost,
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
        self.settle(Nanos {
            user: user.saturating_mul(ns_per_tick),
            system: system.saturating_mul(ns_per_tick),
        });
    }

    /// The figure, once nothing runs any more.
    pub fn finish(&mut self) -> Cpu {
        if self.is_sampled() {
            self.settle(Nanos::default());
        }
        Cpu {
            user_ns: nanos(self.collected.user).saturating_add(self.lost.user),
            system_ns: nanos(self.collected.system).saturating_add(self.lost.system),
            class: if self.is_sampled() { Class::Sampled } else { Class::Exact },
            note: self.note.clone(),
        }
    }

    fn settle(&mut self, running: Nanos) {
        let settle = |collected: u64, running: u64, lost: &mut u64, last: &mut u64| {
            let total = collected.saturating_add(running).saturating_add(*lost);
            *lost = lost.saturating_add(last.saturating_sub(total));
            *last = total.max(*last);
        };
        let Accounting { collected, lost, last_total, .. } = self;
        settle(nanos(collected.user), running.user, &mut lost.user, &mut last_total.user);
        settle(nanos(collected.system), running.system, &mut lost.system, &mut last_total.system);
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
                Seen { tid, tgid: tid, zombie: false, stat: Some(stat) }
            })
            .collect();
        Census { tasks, complete: true }
    }

    fn waited(user: Duration) -> Waited {
        let cpu = CpuTime { user, system: Duration::ZERO };
        Waited { pid: 1, fate: sys::Fate::Exited(0), cpu }
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
    fn exact_without_a_reason_to_doubt() {
        let mut sum = Accounting::default();
        sum.collected(&waited(Duration::from_millis(7)));
        sum.collected(&waited(Duration::from_millis(5)));
        let cpu = sum.finish();
        assert_eq!((cpu.user_ns, cpu.class, cpu.note), (12_000_000, Class::Exact, None));
    }
}
