//! Two lock ranks as types: what a lock protects cannot be reached without it.
//!
//! Linux protects a cgroup with `cgroup_mutex` (topology, controller masks,
//! css flags) and `css_set_lock` (task membership, populated counters), and
//! says in comments which field belongs to which. Here the comment is a type:
//! a [`Ranked`] cell opens only for the guard of its rank, so a forgotten lock
//! does not compile.
//!
//! Order: [`Tree`] → group → [`Set`] → leaves. *Group* is one mutex per process
//! (its threads, and whether it moves). The leaves are the other mutexes that
//! this file hands out ([`Leaf`]): one per task (which css_set it is in), one per
//! css_set (its task list), and those inside which nothing is taken: per cgroup
//! (its published csses), work queue, event file, reader list and reference
//! count. A leaf of a later kind in that list may be taken inside an earlier one.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use qcell::{QCell, QCellOwner, QCellOwnerID};

#[cfg(loom)]
use loom::sync as imp;
#[cfg(shuttle)]
use shuttle::sync as imp;
#[cfg(all(feature = "std", not(any(loom, shuttle))))]
use std::sync as imp;

#[cfg(any(feature = "std", loom, shuttle))]
type RawMutex<T> = imp::Mutex<T>;
#[cfg(any(feature = "std", loom, shuttle))]
type RawGuard<'a, T> = imp::MutexGuard<'a, T>;
#[cfg(not(any(feature = "std", loom, shuttle)))]
type RawMutex<T> = spin::Mutex<T>;
#[cfg(not(any(feature = "std", loom, shuttle)))]
type RawGuard<'a, T> = spin::MutexGuard<'a, T>;

/// A mutex of no rank: short, and nothing of a higher rank inside it.
pub(crate) struct Leaf<T>(RawMutex<T>);

impl<T> Leaf<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RawMutex::new(value))
    }

    /// A panic under the lock does not poison it: the panic that matters is
    /// the one already on its way up, and every critical section here leaves
    /// its data whole at each step.
    #[inline]
    pub(crate) fn lock(&self) -> LeafGuard<'_, T> {
        #[cfg(any(feature = "std", loom, shuttle))]
        let guard = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        #[cfg(not(any(feature = "std", loom, shuttle)))]
        let guard = self.0.lock();
        LeafGuard(guard)
    }

    /// Without locking, for one whom nobody else can know.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        #[cfg(any(feature = "std", loom, shuttle))]
        let value = self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        #[cfg(not(any(feature = "std", loom, shuttle)))]
        let value = self.0.get_mut();
        value
    }
}

impl<T> fmt::Debug for Leaf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}

pub(crate) struct LeafGuard<'a, T>(RawGuard<'a, T>);

impl<T> Deref for LeafGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for LeafGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Rank of topology, masks, css flags and phases (Linux: `cgroup_mutex`).
#[derive(Debug)]
pub(crate) enum Tree {}

/// Rank of css_sets and populated counters (Linux: `css_set_lock`).
#[derive(Debug)]
pub(crate) enum Set {}

/// The lock of one rank.
pub(crate) struct RankLock<R> {
    owner: Leaf<QCellOwner>,
    id: QCellOwnerID,
    rank: PhantomData<fn() -> R>,
}

impl<R> RankLock<R> {
    pub(crate) fn new() -> Self {
        let owner = QCellOwner::new();
        let id = owner.id();
        Self { owner: Leaf::new(owner), id, rank: PhantomData }
    }

    /// A cell only this lock's guard can open.
    pub(crate) fn cell<T>(&self, value: T) -> Ranked<R, T> {
        Ranked { cell: self.id.cell(value), rank: PhantomData }
    }

    #[inline]
    pub(crate) fn lock(&self) -> RankGuard<'_, R> {
        RankGuard { owner: self.owner.lock(), rank: PhantomData }
    }
}

impl<R> fmt::Debug for RankLock<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RankLock")
    }
}

pub(crate) struct RankGuard<'a, R> {
    owner: LeafGuard<'a, QCellOwner>,
    rank: PhantomData<fn() -> R>,
}

/// Proof that the tree lock is held.
pub(crate) type TreeGuard<'a> = RankGuard<'a, Tree>;
/// Proof that the set lock is held.
pub(crate) type SetGuard<'a> = RankGuard<'a, Set>;

/// A value that the lock of rank `R` protects.
pub(crate) struct Ranked<R, T> {
    cell: QCell<T>,
    rank: PhantomData<fn() -> R>,
}

impl<R, T> Ranked<R, T> {
    #[inline]
    pub(crate) fn get<'a>(&'a self, guard: &'a RankGuard<'_, R>) -> &'a T {
        self.cell.ro(&guard.owner)
    }

    #[inline]
    pub(crate) fn get_mut<'a>(&'a self, guard: &'a mut RankGuard<'_, R>) -> &'a mut T {
        self.cell.rw(&mut guard.owner)
    }
}

impl<R, T> fmt::Debug for Ranked<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ranked")
    }
}
