//! What `memory.min` and `memory.low` are worth at a given moment.
//!
//! A cgroup may claim protection, but its ancestors decide how much there is
//! to have. If siblings together claim and use more than their parent's
//! effective protection, each gets its part by what it claims *and uses*, so
//! that nothing is reserved for the idle. If they claim less, each has what it
//! claims, and with the mount option `memory_recursiveprot` the rest is shared
//! out by unprotected use. Below the css that is being reclaimed from, the
//! first level has exactly what it claims, and the css itself nothing
//! (`page_counter_calculate_protection`).
//!
//! To know what siblings use of their claims without visiting them, each css
//! keeps `min(usage, claim)` and its parent the sum of it over the children.

use super::MemoryCss;
use crate::controller::page_counter::PAGE_SIZE;
use crate::sync::{AtomicU64, Ordering};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Effective protection, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Never to be reclaimed.
    pub min: u64,
    /// To be reclaimed only if nothing else is left.
    pub low: u64,
}

/// The claims of a css and what is used of them, in pages.
#[derive(Debug)]
pub(super) struct Settings {
    min: Claim,
    low: Claim,
}

#[derive(Debug)]
struct Claim {
    claimed: AtomicU64,
    /// `min(usage, claimed)` when it was last looked at.
    used: AtomicU64,
    /// The sum of the children's `used`. Wraps while two updates cross.
    children_used: AtomicU64,
}

impl Claim {
    fn new() -> Self {
        Self {
            claimed: AtomicU64::new(0),
            used: AtomicU64::new(0),
            children_used: AtomicU64::new(0),
        }
    }

    fn update(&self, usage: u64, parent: &Self) {
        let used = usage.min(self.claimed.load(Ordering::Relaxed));
        if used != self.used.load(Ordering::Relaxed) {
            let old = self.used.swap(used, Ordering::Relaxed);
            parent.children_used.fetch_add(used.wrapping_sub(old), Ordering::Relaxed);
        }
    }
}

impl Settings {
    pub(super) fn new() -> Self {
        Self { min: Claim::new(), low: Claim::new() }
    }

    pub(super) fn min(&self) -> u64 {
        self.min.claimed.load(Ordering::Relaxed)
    }

    pub(super) fn low(&self) -> u64 {
        self.low.claimed.load(Ordering::Relaxed)
    }

    pub(super) fn set_min(&self, pages: u64) {
        self.min.claimed.store(pages, Ordering::Relaxed);
    }

    pub(super) fn set_low(&self, pages: u64) {
        self.low.claimed.store(pages, Ordering::Relaxed);
    }
}

impl MemoryCss {
    /// Brings the sums up to date after a change of usage or claim.
    pub(super) fn propagate_protection(&self) {
        for css in self.levels() {
            let Some(parent) = &css.parent else { return };
            let usage = css.memory.usage();
            css.protected.min.update(usage, &parent.protected.min);
            css.protected.low.update(usage, &parent.protected.low);
        }
    }

    /// What is protected of this css when memory is reclaimed from the subtree
    /// of `target`. Nothing if it is `target` itself, the root, or outside.
    #[must_use]
    pub fn protection(self: &Arc<Self>, target: &Arc<Self>) -> Protection {
        let path: Vec<_> =
            self.levels().take_while(|css| !core::ptr::eq(*css, &**target)).collect();
        if self.levels().nth(path.len()).is_none() {
            return Protection::default();
        }
        let recursive = self.options.recursive_protection;
        let mut pages = None;
        for css in path.into_iter().rev() {
            let usage = css.memory.usage();
            let claims = (css.protected.min(), css.protected.low());
            pages = Some(match (pages, &css.parent) {
                (Some((min, low)), Some(parent)) => {
                    let parent_usage = parent.memory.usage();
                    let siblings = |claim: &Claim| claim.children_used.load(Ordering::Relaxed);
                    let share = |claimed, afforded, siblings| Share {
                        usage,
                        claimed,
                        parent_usage,
                        afforded,
                        siblings,
                        recursive,
                    };
                    (
                        share(claims.0, min, siblings(&parent.protected.min)).effective(),
                        share(claims.1, low, siblings(&parent.protected.low)).effective(),
                    )
                }
                // The first level below the target has what it claims.
                _ => claims,
            });
        }
        let (min, low) = pages.unwrap_or((0, 0));
        Protection { min: min.saturating_mul(PAGE_SIZE), low: low.saturating_mul(PAGE_SIZE) }
    }
}

/// One css's part of what its parent affords, all in pages.
#[derive(Clone, Copy, Debug)]
struct Share {
    usage: u64,
    claimed: u64,
    parent_usage: u64,
    /// The parent's effective protection.
    afforded: u64,
    /// What all children of the parent use of their claims.
    siblings: u64,
    recursive: bool,
}

impl Share {
    fn effective(self) -> u64 {
        let part = |of: u64, mine: u64, all: u64| {
            u64::try_from(u128::from(of) * u128::from(mine) / u128::from(all)).unwrap_or(u64::MAX)
        };
        let protected = self.usage.min(self.claimed);
        if self.siblings > self.afforded {
            return part(self.afforded, protected, self.siblings);
        }
        // The figures are not read at one moment, so each side is checked.
        let floating = self.afforded > self.siblings
            && self.parent_usage > self.siblings
            && self.usage > protected;
        if !self.recursive || !floating {
            return protected;
        }
        protected
            + part(
                self.afforded - self.siblings,
                self.usage - protected,
                self.parent_usage - self.siblings,
            )
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn share(usage: u64, claimed: u64, afforded: u64, siblings: u64, recursive: bool) -> u64 {
        Share { usage, claimed, parent_usage: 100, afforded, siblings, recursive }.effective()
    }

    #[test]
    fn claims_within_what_the_parent_affords_are_met_as_far_as_used() {
        assert_eq!(share(30, 50, 80, 60, false), 30);
        assert_eq!(share(60, 50, 80, 60, false), 50);
    }

    #[test]
    fn too_many_claims_share_by_what_they_use() {
        assert_eq!(share(60, 60, 40, 80, false), 30);
        assert_eq!(share(20, 60, 40, 80, true), 10);
    }

    #[test]
    fn unclaimed_protection_floats_only_if_recursive() {
        assert_eq!(share(50, 0, 40, 0, false), 0);
        assert_eq!(share(50, 0, 40, 0, true), 20);
        assert_eq!(share(50, 10, 50, 20, true), 10 + 30 * 40 / 80);
    }
}
