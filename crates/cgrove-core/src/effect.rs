//! What an operation wants done to the world, as values.
//!
//! The core changes its own state and nothing else. What has to happen outside
//! (wake whoever polls a file, send a signal, run queued work) is pushed on a
//! list that the caller performs once every lock is released. A refused
//! operation can have effects too (a fork refused at `pids.max` notifies
//! `pids.events`), which is why the list is an argument and not a part of the
//! result.

use crate::event::EventFile;
use crate::id::{CssId, TaskId, Time};
use alloc::sync::Arc;
use smallvec::SmallVec;

/// One thing to do outside.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Effect {
    /// The file's content changed: wake its pollers (POLLPRI) and watchers.
    Notify(Arc<EventFile>),
    /// Call [`Hierarchy::timer`](crate::Hierarchy::timer) with the file at `at`.
    Timer {
        /// When, on the clock that the operations are given.
        at: Time,
        /// What to pass back.
        file: Arc<EventFile>,
    },
    /// Send SIGKILL to the process of this task.
    Kill(TaskId),
    /// Bring this task to a halt, and say so with
    /// [`Hierarchy::enter_frozen`](crate::Hierarchy::enter_frozen) once it has.
    Freeze(TaskId),
    /// Let this task run again, and say so with
    /// [`Hierarchy::leave_frozen`](crate::Hierarchy::leave_frozen).
    Unfreeze(TaskId),
    /// A css that a write would have waited for is offline: try again. See
    /// [`Draining`](crate::Draining).
    Offline(CssId),
    /// There is queued work: call [`Hierarchy::pump`](crate::Hierarchy::pump).
    Work(Queue),
}

/// The work queues. Three, as in Linux: with one, a release can wait behind a
/// free that waits for an offline (commit 79f919a89c9d).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Deferred kills and `css_offline`.
    Offline,
    /// Counts that reached zero: `css_released`.
    Release,
    /// What nobody can reach any more: `css_free`.
    Free,
}

impl Queue {
    /// All of them, in the order in which one css passes through them.
    pub const ALL: [Self; 3] = [Self::Offline, Self::Release, Self::Free];
}

/// The effects of operations that happen at one moment.
///
/// ```
/// use cgrove_core::{Effects, Hierarchy, Time};
/// let mut fx = Effects::at(Time(0));
/// let h = Hierarchy::builder().build(Time(0));
/// let cgroup = h.create(h.root(), "a", &mut fx)?;
/// h.remove(&cgroup, &mut fx)?;
/// h.pump(&mut fx);
/// for effect in fx.drain() {
///     println!("{effect:?}");
/// }
/// # Ok::<(), cgrove_core::Errno>(())
/// ```
#[derive(Debug)]
#[must_use = "effects must be performed after the operation"]
pub struct Effects {
    now: Time,
    list: SmallVec<[Effect; 4]>,
}

impl Effects {
    /// An empty list for operations that happen `now`.
    pub fn at(now: Time) -> Self {
        Self { now, list: SmallVec::new() }
    }

    /// The moment the operations happen.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Moves on to a later moment, keeping what is still to be done.
    pub fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// Adds one. Controllers use it too.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Takes everything, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.list.drain(..)
    }

    /// What is on the list now.
    #[must_use]
    pub fn as_slice(&self) -> &[Effect] {
        &self.list
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
