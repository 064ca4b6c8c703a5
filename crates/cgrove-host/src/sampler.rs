//! When to look at the tree without being asked.
//!
//! Looking costs time that belongs to the user, so it is bounded by its own measured cost: at most
//! one part in a hundred of a core, and one in four hundred behind the gate, where the ledger knows
//! most of it anyway. There is something to see only after forks then, so an idle tree is not looked
//! at; where threads pass unseen, the looks get rarer while nothing changes. Without the gate
//! looking is all there is.

use std::time::{Duration, Instant};

const AFTER_FORK: Duration = Duration::from_millis(50);
const WITHOUT_GATE: Duration = Duration::from_millis(10);
const RAREST: Duration = Duration::from_secs(1);
/// The inverse of the share of a core that looking may take, without the gate and behind it.
const COST_FACTOR: [u32; 2] = [100, 400];

/// Decides when the next sample is due.
#[derive(Debug, Default)]
pub struct Sampler {
    due: Option<Instant>,
    interval: Duration,
    forks_since: bool,
    tasks_before: usize,
    found: u64,
}

impl Sampler {
    /// When the next sample is due, if ever.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The gate let a fork through.
    pub fn forked(&mut self) {
        self.forks_since = true;
        if self.due.is_none() || self.interval > AFTER_FORK {
            self.interval = AFTER_FORK;
            self.due = Some(Instant::now() + AFTER_FORK);
        }
    }

    /// Something has to be looked at from now on.
    pub fn arm_soon(&mut self) {
        self.interval = WITHOUT_GATE;
        self.due = Some(Instant::now() + WITHOUT_GATE);
    }

    /// Processes that a sample saw for the first time.
    pub fn found(&mut self, new: u64) {
        self.found += new;
    }

    /// All of them.
    pub fn processes_found(&self) -> u64 {
        self.found
    }

    /// A sample that began at `begun` and saw `tasks` is done: plans the next. `always`: there is
    /// something to see even without forks. `threads_unseen`: threads do not ask.
    pub fn done(&mut self, begun: Instant, tasks: usize, always: bool, threads_unseen: bool) {
        let now = Instant::now();
        let floor = (now - begun) * COST_FACTOR[usize::from(!always)];
        let changed = self.forks_since || tasks != self.tasks_before;
        self.forks_since = false;
        self.tasks_before = tasks;
        let next = if always {
            Some(WITHOUT_GATE)
        } else if changed {
            Some(AFTER_FORK)
        } else if threads_unseen {
            Some((self.interval * 2).min(RAREST))
        } else {
            None
        };
        self.due = next.map(|interval| {
            self.interval = interval.max(floor);
            now + self.interval
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_gated_tree_is_left_alone() {
        let mut sampler = Sampler::default();
        assert_eq!(sampler.due(), None);
        sampler.forked();
        let due = sampler.due().unwrap();
        sampler.forked();
        assert_eq!(sampler.due(), Some(due), "a busy tree does not push the sample away");
        sampler.done(Instant::now(), 2, false, false);
        assert!(sampler.due().is_some(), "forks since");
        sampler.done(Instant::now(), 2, false, false);
        assert_eq!(sampler.due(), None);
    }

    #[test]
    fn unseen_threads_are_looked_for_ever_more_rarely() {
        let mut sampler = Sampler::default();
        sampler.forked();
        sampler.done(Instant::now(), 2, false, true);
        for _ in 0..20 {
            sampler.done(Instant::now(), 2, false, true);
        }
        let left = sampler.due().unwrap() - Instant::now();
        assert!(left > RAREST / 2 && left <= RAREST, "{left:?}");
    }
}
