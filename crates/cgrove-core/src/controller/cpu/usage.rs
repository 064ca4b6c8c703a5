//! CPU time used: what `cpu.stat` shows first, on every cgroup.
//!
//! These figures belong to the cgroup and not to the `cpu` controller: they
//! are there with the controller off and survive its being switched off and on.
//! Time is added to a cgroup and to all above it when it is reported, so what
//! an ancestor shows stays when the descendant is removed and never decreases.

use crate::sync::{AtomicU64, Ordering};

/// CPU time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In user mode, niced time included.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// The part of `user` that ran at a positive nice value.
    pub nice: u64,
}

impl CpuTimes {
    /// `usage_usec`.
    #[must_use]
    pub const fn usage_usec(self) -> u64 {
        self.user.saturating_add(self.system) / 1000
    }

    /// `user_usec`.
    #[must_use]
    pub const fn user_usec(self) -> u64 {
        self.user / 1000
    }

    /// `system_usec`.
    #[must_use]
    pub const fn system_usec(self) -> u64 {
        self.system / 1000
    }

    /// `nice_usec`.
    #[must_use]
    pub const fn nice_usec(self) -> u64 {
        self.nice / 1000
    }
}

/// The time used by a cgroup and those below it, removed ones included.
#[derive(Debug)]
pub struct CpuUsage {
    user: AtomicU64,
    system: AtomicU64,
    nice: AtomicU64,
}

impl Default for CpuUsage {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuUsage {
    /// Nothing used yet.
    #[must_use]
    pub fn new() -> Self {
        Self { user: AtomicU64::new(0), system: AtomicU64::new(0), nice: AtomicU64::new(0) }
    }

    /// Adds the time that a task has used to its cgroup and to all above:
    /// `levels`, nearest first. More nice than user time counts as all nice.
    pub fn charge<'a>(levels: impl Iterator<Item = &'a Self>, used: CpuTimes) {
        for usage in levels {
            // User before nice, and read the other way round, so that a
            // reader never sees more nice time than user time.
            usage.user.fetch_add(used.user, Ordering::Release);
            usage.system.fetch_add(used.system, Ordering::Relaxed);
            usage.nice.fetch_add(used.nice.min(used.user), Ordering::Release);
        }
    }

    /// What has been used so far.
    #[must_use]
    pub fn read(&self) -> CpuTimes {
        let nice = self.nice.load(Ordering::Acquire);
        let user = self.user.load(Ordering::Acquire);
        CpuTimes { user, system: self.system.load(Ordering::Relaxed), nice }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn time_is_added_at_every_level_and_shown_in_microseconds() {
        let levels = [CpuUsage::new(), CpuUsage::default()];
        let used = CpuTimes { user: 1_999, system: 1_002, nice: 5_000 };
        CpuUsage::charge(levels.iter(), used);
        CpuUsage::charge(levels[1..].iter(), used);
        let [own, above] = levels.each_ref().map(CpuUsage::read);
        assert_eq!(own, CpuTimes { user: 1_999, system: 1_002, nice: 1_999 });
        assert_eq!((own.usage_usec(), own.user_usec(), own.system_usec()), (3, 1, 1));
        assert_eq!(own.nice_usec(), 1);
        assert_eq!(above, CpuTimes { user: 3_998, system: 2_004, nice: 3_998 });
    }
}
