//! Pages charged at every level of a hierarchy, against a limit per level.
//!
//! Charging adds first and compares afterwards, at each level from the css up
//! to the root; a level that is over takes everything back. Two chargers that
//! race for the last page may thus both be refused for an instant, but never
//! both be admitted (`page_counter_try_charge`).
//!
//! A counter does not know the one above it: whoever owns the counters hands
//! in the levels, nearest first.

use super::pids::Limit;
use crate::errno::Errno;
use crate::sync::{AtomicU64, Ordering, barrier, invariant};

/// Bytes in a page. Every figure in bytes is a multiple of it.
pub const PAGE_SIZE: u64 = 4096;

/// The number of pages that stands for `max` (`PAGE_COUNTER_MAX` on 64 bits).
pub const PAGES_MAX: u64 = i64::MAX as u64 / PAGE_SIZE;

/// The pages that a limit in bytes allows: rounded down, and anything from
/// [`PAGES_MAX`] up is no limit (`page_counter_memparse`).
pub(crate) fn limit_to_pages(bytes: Limit) -> u64 {
    match bytes {
        Limit::Max => PAGES_MAX,
        Limit::N(bytes) => (bytes / PAGE_SIZE).min(PAGES_MAX),
    }
}

/// The limit in bytes that is read back, given the number that reads `max`.
pub(crate) fn pages_to_limit(pages: u64, max: u64) -> Limit {
    if pages == max { Limit::Max } else { Limit::N(pages * PAGE_SIZE) }
}

/// Pages charged to one level.
#[derive(Debug)]
pub(crate) struct PageCounter {
    usage: AtomicU64,
    max: AtomicU64,
    /// The highest usage there has been.
    peak: AtomicU64,
    /// The highest usage since somebody last reset it, never above `peak`.
    local_peak: AtomicU64,
    /// Off in the known-wrong variants that the model must catch.
    #[cfg(all(test, loom))]
    fences: bool,
}

impl PageCounter {
    pub(crate) fn new(max: u64) -> Self {
        Self {
            #[cfg(all(test, loom))]
            fences: true,
            usage: AtomicU64::new(0),
            max: AtomicU64::new(max),
            peak: AtomicU64::new(0),
            local_peak: AtomicU64::new(0),
        }
    }

    pub(crate) fn usage(&self) -> u64 {
        self.usage.load(Ordering::Relaxed)
    }

    pub(crate) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn local_peak(&self) -> u64 {
        self.local_peak.load(Ordering::Relaxed)
    }

    /// Starts a new local peak at today's usage. Returns that, and the old peak.
    pub(crate) fn reset_local_peak(&self) -> (u64, u64) {
        let usage = self.usage();
        (usage, self.local_peak.swap(usage, Ordering::Relaxed))
    }

    /// How much more fits below the limit of this level.
    pub(crate) fn margin(&self) -> u64 {
        self.max().saturating_sub(self.usage())
    }

    /// Sets the limit, be the usage above it or not; returns the usage that
    /// is to be brought down to it.
    pub(crate) fn set_max(&self, max: u64) -> u64 {
        self.max.store(max, Ordering::Relaxed);
        // Pairs with the fence in `try_charge`, which adds to the usage and
        // then loads the limit: either that charge sees the new limit, or the
        // usage loaded here has the charge in it.
        self.fence();
        self.usage()
    }

    #[inline]
    fn fence(&self) {
        #[cfg(all(test, loom))]
        if !self.fences {
            return;
        }
        barrier::store_then_load();
    }

    /// Sets the limit unless the usage is above it. One setter at a time.
    ///
    /// # Errors
    /// EBUSY if it is (`page_counter_set_max`). The old limit stands.
    pub(crate) fn set_max_unless_above(&self, max: u64) -> Result<(), Errno> {
        if self.usage() > max {
            return Err(Errno::EBUSY);
        }
        let old = self.max();
        // Charges that were admitted under the old limit meanwhile.
        if self.set_max(max) > max && max < old {
            self.max.store(old, Ordering::Relaxed);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    fn raise_peak(&self, usage: u64) {
        if self.local_peak.fetch_max(usage, Ordering::Relaxed) < usage {
            self.peak.fetch_max(usage, Ordering::Relaxed);
        }
    }

    fn cancel(&self, pages: u64) {
        let old = self.usage.fetch_sub(pages, Ordering::Relaxed);
        invariant!(old >= pages, "more pages uncharged than charged");
        if old < pages {
            self.usage.store(0, Ordering::Relaxed);
        }
    }

    /// Charges every level, or none and says how many levels up the full one is.
    pub(crate) fn try_charge<'a, I>(levels: I, pages: u64) -> Result<(), usize>
    where
        I: Iterator<Item = &'a Self> + Clone,
    {
        if pages > PAGES_MAX {
            return Err(0);
        }
        for (depth, counter) in levels.clone().enumerate() {
            let now = counter.usage.fetch_add(pages, Ordering::Relaxed) + pages;
            // Pairs with the fence in `set_max`.
            counter.fence();
            if now > counter.max() {
                levels.take(depth + 1).for_each(|undo| undo.cancel(pages));
                return Err(depth);
            }
            counter.raise_peak(now);
        }
        Ok(())
    }

    /// Charges every level whatever the limits are.
    pub(crate) fn charge<'a>(levels: impl Iterator<Item = &'a Self>, pages: u64) {
        for counter in levels {
            let now = counter.usage.fetch_add(pages, Ordering::Relaxed) + pages;
            counter.raise_peak(now);
        }
    }

    /// Takes pages off every level.
    pub(crate) fn uncharge<'a>(levels: impl Iterator<Item = &'a Self>, pages: u64) {
        levels.for_each(|counter| counter.cancel(pages));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn limits_in_bytes_are_rounded_down_and_capped() {
        assert_eq!(limit_to_pages(Limit::N(4095)), 0);
        assert_eq!(limit_to_pages(Limit::N(8191)), 1);
        assert_eq!(limit_to_pages(Limit::N(u64::MAX)), PAGES_MAX);
        assert_eq!(limit_to_pages(Limit::N(i64::MAX as u64)), PAGES_MAX);
        assert_eq!(limit_to_pages(Limit::N(PAGES_MAX * PAGE_SIZE - 1)), PAGES_MAX - 1);
        assert_eq!(limit_to_pages(Limit::Max), PAGES_MAX);
        assert_eq!(pages_to_limit(PAGES_MAX, PAGES_MAX), Limit::Max);
        assert_eq!(pages_to_limit(2, PAGES_MAX), Limit::N(8192));
    }

    #[test]
    fn a_refusal_takes_back_what_it_added_and_keeps_the_peaks_below_it() {
        let levels = [PageCounter::new(10), PageCounter::new(3), PageCounter::new(10)];
        assert_eq!(PageCounter::try_charge(levels.iter(), 3), Ok(()));
        assert_eq!(PageCounter::try_charge(levels.iter(), 1), Err(1));
        assert_eq!(levels.each_ref().map(PageCounter::usage), [3, 3, 3]);
        // Raised level by level before the refusal, as in Linux.
        assert_eq!(levels.each_ref().map(PageCounter::peak), [4, 3, 3]);
        PageCounter::charge(levels.iter(), 2);
        assert_eq!(levels.each_ref().map(PageCounter::usage), [5, 5, 5]);
        assert_eq!(levels.each_ref().map(PageCounter::margin), [5, 0, 5]);
        PageCounter::uncharge(levels.iter(), 5);
        assert_eq!(levels.each_ref().map(PageCounter::usage), [0, 0, 0]);
        assert_eq!(PageCounter::try_charge(levels.iter(), u64::MAX), Err(0));
    }

    #[test]
    fn a_limit_below_the_usage_is_set_or_refused_as_asked() {
        let counter = PageCounter::new(10);
        PageCounter::charge([&counter].into_iter(), 5);
        assert_eq!(counter.set_max_unless_above(4), Err(Errno::EBUSY));
        assert_eq!(counter.max(), 10);
        assert_eq!(counter.set_max_unless_above(5), Ok(()));
        assert_eq!(counter.set_max(4), 5);
        assert_eq!(counter.max(), 4);
    }
}

/// The pair of fences under every weak-memory outcome.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use alloc::sync::Arc;

    /// One charge of a page races with a limit of 0 that is refused if there
    /// is a charge: not both can succeed.
    fn race(fences: bool) {
        loom::model(move || {
            let mut counter = PageCounter::new(1);
            counter.fences = fences;
            let counter = Arc::new(counter);
            let charger = {
                let counter = Arc::clone(&counter);
                loom::thread::spawn(move || PageCounter::try_charge([&*counter].into_iter(), 1))
            };
            let set = counter.set_max_unless_above(0);
            let charged = charger.join().unwrap();
            assert!(charged.is_err() || set.is_err(), "a page above the limit");
            assert_eq!(counter.usage(), u64::from(charged.is_ok()));
        });
    }

    #[test]
    fn no_charge_slips_past_a_limit() {
        race(true);
    }

    #[test]
    #[should_panic(expected = "a page above the limit")]
    fn without_the_fences_one_does() {
        race(false);
    }
}
