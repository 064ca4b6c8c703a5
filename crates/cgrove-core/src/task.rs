//! A task: one thread of the embedder's, and how much of its death is behind it.
//!
//! Linux takes a task apart in steps that other parts of the system can see
//! between, and most cgroup teardown bugs lived in those gaps:
//!
//! * **exiting**: it will not return to user space. Once its whole group is
//!   past this point it is hidden from `cgroup.procs`, but it still runs
//!   kernel code and still populates its cgroup;
//! * **dead**: it has switched out for the last time and is unlinked;
//! * **reaped**: its parent has collected it, charges end. May come before dead;
//! * **freed**: nothing refers to it; its css_set reference is dropped.
//!
//! # A task that moves holds still
//!
//! In Linux a lock that all forks and exits read keeps a task from forking and
//! exiting while it moves to another css_set. Here the mover, who holds the tree
//! lock, marks each task under the task's own lock ([`Stage::MOVING`]); a task
//! that wants to fork or exit finds the mark under the same lock and waits for
//! the mover by taking the tree lock once. Who does not move meets no lock that
//! others share.

use crate::css_set::CssSet;
use crate::id::TaskId;
use crate::sync::lock::Leaf;
use crate::sync::mutant::{Mutant, broken};
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

bitflags::bitflags! {
    /// The steps of a task's end that have been taken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Stage: u32 {
        /// Will not run user code again (PF_EXITING, past `signal->live`).
        const EXITING = 1;
        /// Switched out for the last time and unlinked.
        const DEAD = 2;
        /// Collected by its parent.
        const REAPED = 4;
        /// Gone; no operation on it succeeds.
        const FREED = 8;
        /// SIGKILL has been asked for. Not a step, but as final: a task that
        /// carries it forks no more.
        const KILLED = 16;
        /// Frozen, or stopped, which is the same to the freezer.
        const FROZEN = 32;
        /// Not to be moved, like a kernel thread bound to its CPU.
        const BOUND = 64;
        /// About to move to another css_set. Set under the tree lock and the
        /// task's, cleared under the tree lock when the controllers know.
        const MOVING = 128;
    }
}

/// A task known to the hierarchy. The embedder keeps the pointer and reports
/// the task's steps with it.
pub struct Task {
    pub(crate) id: TaskId,
    /// `None` for a group's leader.
    leader: Option<Arc<Task>>,
    /// In a leader: tasks of the group that are not exiting (`signal->live`).
    pub(crate) live: AtomicUsize,
    stage: AtomicU32,
    /// Which set the task is in. Its lock is outside the set's list lock.
    pub(crate) cset: Leaf<Option<Arc<CssSet>>>,
    /// Index in the set's list of tasks or of unfreed ones; under their lock.
    pub(crate) slot: AtomicUsize,
    /// In a leader: how often its process was moved as a whole. Written by the
    /// mover while the tasks hold still, read by those who fork under their own
    /// lock: a fork learns whether it began before the move or after.
    pub(crate) moves: AtomicU64,
    /// In a leader. Its lock is outside the set lock.
    pub(crate) group: Leaf<Group>,
    /// Index among the group's threads, under the leader's `group`.
    group_slot: AtomicUsize,
}

/// The threads of a process.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// All but the leader that are not freed.
    threads: Vec<Weak<Task>>,
    /// The process is moving: a thread born now waits for the mover, who has
    /// the list already.
    pub(crate) moving: bool,
}

/// What kind of task a new one is.
#[derive(Clone, Copy, Debug)]
pub enum Membership<'a> {
    /// A process of its own: the leader of a new thread group.
    Process,
    /// A thread in the group that this task belongs to.
    ThreadOf(&'a Arc<Task>),
}

impl Task {
    pub(crate) fn new(id: TaskId, membership: Membership<'_>, cset: Arc<CssSet>) -> Arc<Self> {
        let leader = match membership {
            Membership::Process => None,
            Membership::ThreadOf(task) => Some(Arc::clone(Self::leader(task))),
        };
        if let Some(leader) = &leader {
            leader.live.fetch_add(1, Ordering::Relaxed);
        }
        Arc::new(Self {
            id,
            live: AtomicUsize::new(usize::from(leader.is_none())),
            leader,
            stage: AtomicU32::new(0),
            cset: Leaf::new(Some(cset)),
            slot: AtomicUsize::new(usize::MAX),
            moves: AtomicU64::new(0),
            group: Leaf::new(Group::default()),
            group_slot: AtomicUsize::new(usize::MAX),
        })
    }

    /// The name the embedder gave it.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The leader of its thread group, itself if it leads one.
    #[must_use]
    pub fn leader(self: &Arc<Self>) -> &Arc<Self> {
        self.leader.as_ref().unwrap_or(self)
    }

    /// Whether it leads its thread group.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader.is_none()
    }

    /// The steps of its end that have been taken.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage::from_bits_retain(self.stage.load(Ordering::Acquire)) - Stage::MOVING
    }

    /// Binds it to where it is: whoever wants to move it gets EINVAL
    /// (`PF_NO_SETAFFINITY`, `no_cgroup_migration`).
    pub fn bind(&self) {
        self.mark(Stage::BOUND, true);
    }

    pub(crate) fn is(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) & stage.bits() != 0
    }

    pub(crate) fn mark(&self, stage: Stage, on: bool) {
        if on {
            self.stage.fetch_or(stage.bits(), Ordering::AcqRel);
        } else {
            self.stage.fetch_and(!stage.bits(), Ordering::AcqRel);
        }
    }

    /// The cgroup it is in; `None` once it is freed.
    #[must_use]
    pub fn cgroup(&self) -> Option<Arc<crate::Cgroup>> {
        self.cset.lock().as_ref().map(|cset| Arc::clone(&cset.cgroup))
    }

    /// Of a leader.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    pub(crate) fn group_live(&self) -> usize {
        self.leader.as_deref().unwrap_or(self).live.load(Ordering::Acquire)
    }

    /// Exiting in a group that is past its end: in no listing.
    pub(crate) fn is_hidden(&self) -> bool {
        self.stage().contains(Stage::EXITING)
            && self.group_live() == 0
            && !broken(Mutant::HiddenListed)
    }

    /// Every task of the group that can be moved to somewhere, the leader first.
    pub(crate) fn members(self: &Arc<Self>, group: &Group) -> Vec<Arc<Self>> {
        let leader = core::iter::once(Arc::clone(self));
        leader.chain(group.threads.iter().filter_map(Weak::upgrade)).collect()
    }

    /// Joins its group; `group` is its leader's.
    pub(crate) fn join_group(self: &Arc<Self>, group: &mut Group) {
        self.group_slot.store(group.threads.len(), Ordering::Relaxed);
        group.threads.push(Arc::downgrade(self));
    }

    /// Leaves its group, for good.
    pub(crate) fn leave_group(&self) {
        let Some(leader) = &self.leader else { return };
        let threads = &mut leader.group.lock().threads;
        let slot = self.group_slot.load(Ordering::Relaxed);
        if slot < threads.len() {
            threads.swap_remove(slot);
            if let Some(moved) = threads.get(slot).and_then(Weak::upgrade) {
                moved.group_slot.store(slot, Ordering::Relaxed);
            }
        }
    }

    /// Takes one step if `needs` are behind it and it is not. True if taken.
    pub(crate) fn advance(&self, step: Stage, needs: Stage) -> bool {
        let mut now = self.stage.load(Ordering::Relaxed);
        loop {
            let stage = Stage::from_bits_retain(now);
            if stage.contains(step) || !stage.contains(needs) {
                return false;
            }
            match self.stage.compare_exchange_weak(
                now,
                now | step.bits(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => now = seen,
            }
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}
