//! Files that tell their watchers when they change, at a bounded rate.
//!
//! A burst of short-lived tasks flips `populated` thousands of times a second
//! and each flip would wake every watcher. Linux lets one notification through
//! per 10 ms and file and, if anything was held back, one more at the end of
//! that time, so the last word is always heard.

use crate::effect::{Effect, Effects};
use crate::id::{CgroupId, Time};
use crate::sync::lock::Leaf;
use alloc::sync::Arc;
use core::time::Duration;

/// The least time between two notifications of one file
/// (`CGROUP_FILE_NOTIFY_MIN_INTV`).
pub const NOTIFY_INTERVAL: Duration = Duration::from_millis(10);

/// A file with watchers: `cgroup.events`, `pids.events`, …
#[derive(Debug)]
pub struct EventFile {
    cgroup: CgroupId,
    name: &'static str,
    throttle: Leaf<Throttle>,
}

#[derive(Debug, Default)]
struct Throttle {
    last: Option<Time>,
    trailing: bool,
    removed: bool,
}

impl EventFile {
    /// A file named `name` in `cgroup`, never notified yet.
    #[must_use]
    pub fn new(cgroup: CgroupId, name: &'static str) -> Arc<Self> {
        Arc::new(Self { cgroup, name, throttle: Leaf::new(Throttle::default()) })
    }

    /// The cgroup whose directory holds the file.
    #[must_use]
    pub fn cgroup(&self) -> CgroupId {
        self.cgroup
    }

    /// The file's name in that directory.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The content changed.
    pub fn changed(self: &Arc<Self>, fx: &mut Effects) {
        let now = fx.now();
        let mut throttle = self.throttle.lock();
        if throttle.removed || throttle.trailing {
            return;
        }
        match throttle.last {
            Some(last) if now.since(last) < NOTIFY_INTERVAL => {
                throttle.trailing = true;
                let at = last.after(NOTIFY_INTERVAL);
                drop(throttle);
                fx.push(Effect::Timer { at, file: Arc::clone(self) });
            }
            _ => {
                throttle.last = Some(now);
                drop(throttle);
                fx.push(Effect::Notify(Arc::clone(self)));
            }
        }
    }

    /// The timer asked for by [`Effect::Timer`] fired.
    pub(crate) fn timer(self: &Arc<Self>, fx: &mut Effects) {
        let mut throttle = self.throttle.lock();
        if !throttle.trailing {
            return;
        }
        throttle.trailing = false;
        if throttle.removed {
            return;
        }
        throttle.last = Some(fx.now());
        drop(throttle);
        fx.push(Effect::Notify(Arc::clone(self)));
    }

    /// The file is gone from its directory; it notifies nobody from now on.
    pub fn remove(&self) {
        self.throttle.lock().removed = true;
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const MS: u64 = 1_000_000;

    fn run(steps: &[(u64, bool)]) -> Vec<&'static str> {
        let file = EventFile::new(CgroupId(1), "cgroup.events");
        let mut seen = Vec::new();
        for &(ms, is_timer) in steps {
            let mut fx = Effects::at(Time(ms * MS));
            if is_timer {
                file.timer(&mut fx)
            } else {
                file.changed(&mut fx)
            }
            match fx.as_slice() {
                [] => seen.push("-"),
                [Effect::Notify(_)] => seen.push("notify"),
                [Effect::Timer { at, .. }] => {
                    assert_eq!(at.0, 10 * MS + 100 * MS);
                    seen.push("timer");
                }
                other => panic!("{other:?}"),
            }
        }
        seen
    }

    #[test]
    fn a_burst_gives_one_at_once_and_one_at_the_end() {
        let seen = run(&[(100, false), (101, false), (105, false), (110, true), (115, true)]);
        assert_eq!(seen, ["notify", "timer", "-", "notify", "-"]);
    }

    #[test]
    fn a_lone_change_is_not_followed_by_another_notification() {
        assert_eq!(run(&[(100, false), (110, false), (120, false)]), ["notify"; 3]);
    }

    #[test]
    fn a_removed_file_is_silent_even_to_its_timer() {
        let file = EventFile::new(CgroupId(1), "cgroup.events");
        let mut fx = Effects::at(Time(0));
        file.changed(&mut fx);
        file.changed(&mut fx);
        file.remove();
        let mut late = Effects::at(Time(10 * MS));
        file.timer(&mut late);
        file.changed(&mut late);
        assert!(late.is_empty());
    }
}
