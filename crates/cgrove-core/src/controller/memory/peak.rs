//! `memory.peak` as one open file sees it.
//!
//! The peak of a css is for all readers; whoever wants the peak of a phase of
//! its own writes to its open file and from then on reads the highest usage
//! since, while readers that never wrote still see the all-time peak. The css
//! keeps one *local* peak that each such write starts anew, and each file that
//! has written keeps a floor of its own.
//!
//! A reset by one file must not lower what another reads: before the local peak
//! starts anew, what it had reached is raised into the floors of the others.
//! Linux 7.2 raises them to the usage at that moment only (`peak_write`), and so
//! forgets their peaks.

use super::{MemoryCss, Resource};
use crate::controller::page_counter::PAGE_SIZE;
use crate::errno::Errno;
use crate::sync::lock::Leaf;
use crate::sync::{AtomicU64, Ordering};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// A floor of a file that has never been written to.
const UNSET: u64 = u64::MAX;

/// The floors of the open files of one css that have been written to.
#[derive(Debug)]
pub(super) struct Watchers(Leaf<Vec<Weak<AtomicU64>>>);

impl Watchers {
    pub(super) fn new() -> Self {
        Self(Leaf::new(Vec::new()))
    }
}

/// An open `memory.peak` or `memory.swap.peak`.
#[derive(Debug)]
pub struct Peak {
    css: Arc<MemoryCss>,
    resource: Resource,
    /// In pages; written under the watchers' lock.
    floor: Arc<AtomicU64>,
}

impl Peak {
    pub(super) fn new(css: &Arc<MemoryCss>, resource: Resource) -> Self {
        Self { css: Arc::clone(css), resource, floor: Arc::new(AtomicU64::new(UNSET)) }
    }

    /// Reads the file: the highest usage since the last [`reset`](Self::reset)
    /// through this file, or since creation, in bytes.
    #[must_use]
    pub fn read(&self) -> u64 {
        let counter = self.css.counter(self.resource);
        let pages = match self.floor.load(Ordering::Relaxed) {
            UNSET => counter.peak(),
            // A charge between the two steps of a reset shows in the usage alone.
            floor => floor.max(counter.local_peak()).max(counter.usage()),
        };
        pages * PAGE_SIZE
    }

    /// Writes to the file, whatever the text: the peak starts anew at the
    /// current usage, for this open file.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup.
    pub fn reset(&self) -> Result<(), Errno> {
        self.css.files.check()?;
        let watchers = match self.resource {
            Resource::Memory => &self.css.memory_peaks,
            Resource::Swap => &self.css.swap_peaks,
        };
        let mut watchers = watchers.0.lock();
        let (usage, reached) = self.css.counter(self.resource).reset_local_peak();
        watchers.retain(|watcher| {
            let Some(floor) = watcher.upgrade() else { return false };
            floor.fetch_max(reached, Ordering::Relaxed);
            true
        });
        if self.floor.swap(usage, Ordering::Relaxed) == UNSET {
            watchers.push(Arc::downgrade(&self.floor));
        }
        Ok(())
    }
}
