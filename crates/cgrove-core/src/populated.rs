//! The populated walk: who must hear that the last task left.
//!
//! Each css, *self* included, counts the populated css_sets that pin it and
//! its populated children. When a set flips, its leaf csses change by one, and
//! the change climbs only while it flips the level it is at: a busy tree costs
//! one step, an emptied path costs its length.
//!
//! Two parties depend on a flip: whoever watches `populated` in
//! `cgroup.events`, and the teardown of a dying css, whose second half starts
//! with the flip to empty. The latter is a race with the killer; the fence
//! here is one half of the pair in `sync/barrier.rs`.

use crate::css::{CssRef, Flags};
use crate::css_set::CssSet;
use crate::effect::Effects;
use crate::hierarchy::Inner;
use crate::sync::lock::SetGuard;
use crate::sync::mutant::Mutant;
use crate::sync::{AtomicUsize, Ordering, barrier, invariant};
use alloc::sync::Arc;

impl Inner {
    /// A set's first task came or its last task left.
    pub(crate) fn update_populated(
        &self,
        cset: &CssSet,
        populated: bool,
        set: &SetGuard<'_>,
        fx: &mut Effects,
    ) {
        self.walk(&CssRef::SelfOf(Arc::clone(&cset.cgroup)), populated, set, fx);
        for css in &cset.csses {
            self.walk(css, populated, set, fx);
        }
    }

    fn walk(&self, leaf: &CssRef, populated: bool, _set: &SetGuard<'_>, fx: &mut Effects) {
        let mut css = leaf;
        let mut counter = &css.nr_populated_csets;
        loop {
            let was = css.is_populated();
            step(counter, populated);
            if css.is_populated() == was {
                break;
            }
            if !self.mutation.is(Mutant::NoWalkerFence) {
                // Pairs with the fence in `teardown::kill_sync`: either this
                // load sees DYING and the kill is queued here, or the killer
                // sees the counter stored above and finishes the kill itself.
                barrier::store_then_load();
            }
            let dying = if self.mutation.is(Mutant::WalkerTestsRef) {
                css.refs.is_killed()
            } else {
                css.has(Flags::DYING)
            };
            if was && dying {
                self.queue_kill_finish(css, fx);
            }
            if let CssRef::SelfOf(cgroup) = css {
                cgroup.events.changed(fx);
            }
            match &css.parent {
                Some(parent) => css = parent,
                None => break,
            }
            counter = &css.nr_populated_children;
        }
    }
}

/// The set lock makes the load and the store one step.
fn step(counter: &AtomicUsize, up: bool) {
    let old = counter.load(Ordering::Relaxed);
    invariant!(up || old > 0, "populated counter below zero");
    counter.store(if up { old + 1 } else { old - 1 }, Ordering::Relaxed);
}
