//! The fence both sides of a store-then-load pair stand on.

use super::{Ordering, fence};

/// Orders an earlier store before a later load, against a peer doing the same.
///
/// Two callers, each the other's partner:
///
/// * the **killer** (`teardown::kill_sync`, for rmdir and for a controller that
///   is switched off on a live cgroup) stores DYING, calls this, then loads the
///   populated counters;
/// * the **walker** (`populated::walk`) stores a populated counter, calls
///   this, then loads DYING.
///
/// What each may conclude: of the two loads at least one sees the other side's
/// store. So the killer finds the css unpopulated and finishes the kill
/// itself, or the walker finds it dying and queues the kill, or both do, which
/// is harmless because `kill_finish` acts once. Without either call both loads
/// may see the old value and the css would never die.
///
/// A second pair of the same shape: `pids` makes its event files on the first
/// refusal and then asks whether its css was killed; the kill says so and then
/// looks for the files. At least one of them silences the files.
///
/// An explicit fence and not `SeqCst` accesses: the model checker that guards
/// this pair models fences exactly and SeqCst accesses only roughly.
#[inline]
pub(crate) fn store_then_load() {
    fence(Ordering::SeqCst);
}
