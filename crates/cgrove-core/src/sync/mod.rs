//! The one place that picks where atomics and locks come from.
//!
//! A model checker can only judge the code that users run if that code is
//! written against names the checker may replace. Everything in this crate
//! takes its atomics, fences and mutexes from here: `core`/`std` in a normal
//! build, loom under `--cfg loom` (weak memory, exhaustive), shuttle under
//! `--cfg shuttle` (interleavings, randomised, long runs), and the `spin`
//! crate where there is no `std`.

pub(crate) mod barrier;
pub(crate) mod grace;
pub(crate) mod killref;
pub(crate) mod lock;
pub(crate) mod mutant;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};

pub(crate) use core::sync::atomic::Ordering;

/// Checks a rule of the protocol that no embedder can break from outside.
///
/// Linux marks the same places with WARN_ON. A violation is a defect of this
/// crate, so builds that look for defects stop here; a release build goes on,
/// since a wrong counter is better than a dead process.
macro_rules! invariant {
    ($cond:expr, $($why:tt)+) => {
        if cfg!(any(debug_assertions, loom, shuttle)) {
            assert!($cond, $($why)+);
        }
    };
}
pub(crate) use invariant;
