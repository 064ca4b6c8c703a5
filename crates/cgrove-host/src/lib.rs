//! Real process trees under the cgroup core, without root and without a cgroup mount.
//!
//! A run is three processes. The *front* is what the user started; the *supervisor* is its fork and
//! the reaper of everything below; the *command* is what was asked for. Membership is ancestry,
//! which nothing escapes: an orphan becomes the supervisor's child. Where the place allows it, a
//! seccomp filter makes every fork ask the supervisor first, so that a task limit is exact and a
//! kill is race-free.
//!
//! ```text
//! caller's group   front ──────── socket ─────────┐
//! own group        └─ supervisor: event loop ─────┤ signalfd, timers
//! caller's group      └─ command ── seccomp ──────┘ listener
//!                        └─ …
//! ```
//!
//! The modules, from the kernel upwards: [`sys`] and [`procfs`] (raw calls, `/proc`), [`filter`] and
//! [`gate`] (forks that ask), [`scan`] (who is there), [`ledger`] (who is charged), [`accounting`],
//! [`kill`], then [`supervisor`], [`launch`] and [`front`] (the processes), with [`options`] going
//! in and [`report`] coming out. [`probe`] says what a place allows.
#![deny(unsafe_code)]

pub mod accounting;
mod conclude;
pub mod door;
pub mod error;
mod events;
mod exec;
pub mod filter;
pub mod follow;
pub mod freezer;
pub mod front;
pub mod gate;
pub mod inherited;
pub mod journal;
pub mod keeper;
pub mod kernel;
pub mod kill;
mod ladder;
pub mod launch;
pub mod ledger;
pub mod live;
#[doc(hidden)]
pub mod mutant;
mod nested;
pub mod options;
pub mod parent;
pub mod probe;
pub mod procfs;
pub mod report;
mod resources;
mod sampler;
pub mod scan;
#[cfg(feature = "schema")]
pub mod schema;
pub mod series;
mod shell;
mod sigaction;
pub mod snapshot;
pub mod stdio;
pub mod supervisor;
pub mod sys;
pub mod title;
mod tracer;
pub mod wire;

pub use conclude::{FAILED, TIMED_OUT};
