//! Linux's cgroup v2 core as a library.
//!
//! A [`Hierarchy`] is a tree of [`Cgroup`]s; each carries a css of every
//! [`Controller`] that is switched on there; tasks join, fork, move, freeze,
//! exit and are reaped; cgroups are removed and controllers switched off while
//! their last tasks are still on the way out, and every css is taken apart in
//! the order that Linux 7.2 does it. The crate does no I/O, starts no
//! threads, reads no clock, has no statics and no unsafe code: it is told what
//! happens and answers with state and [`Effects`].
//!
//! ```
//! use cgrove_core::{
//!     Effects, Errno, ForkFrom, Hierarchy, Limit, Membership, Pids, SsMask, TaskId, Time,
//! };
//! use std::sync::Arc;
//!
//! let h = Hierarchy::builder().controller(Arc::new(Pids::new())).build(Time(0));
//! let mut fx = Effects::at(Time(0));
//! h.write_subtree_control(h.root(), h.mask(&["pids"])?, SsMask::NONE, &mut fx)?;
//! let job = h.create(h.root(), "job", &mut fx)?;
//! let pids = Pids::css(&job).expect("the controller was switched on at the root");
//! pids.set_max(Limit::N(1))?;
//!
//! let first = h.fork(ForkFrom::Cgroup(&job), &mut fx)?.publish(TaskId(1), Membership::Process, &mut fx);
//! assert_eq!(h.fork(ForkFrom::Task(&first), &mut fx).unwrap_err(), Errno::EAGAIN);
//! assert_eq!(h.remove(&job, &mut fx), Err(Errno::EBUSY));
//!
//! h.exit(&first, &mut fx)?;          // hidden from now on …
//! h.remove(&job, &mut fx)?;          // … so the cgroup can go,
//! assert!(job.populated());          // but its csses wait for the last switch
//! h.dead(&first, &mut fx)?;
//! h.reap(&first, &mut fx)?;
//! h.free(&first, &mut fx)?;
//! assert_eq!(h.pump(&mut fx), 0);
//! assert_eq!(h.stat(h.root()).nr_dying_descendants, 0);
//! # for effect in fx.drain() { drop(effect) }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(not(any(feature = "std", test, loom, shuttle)), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(not(any(feature = "std", feature = "spin", loom, shuttle)))]
compile_error!("cgrove-core needs locks: enable the feature `std` or `spin`");

mod cgroup;
mod chain;
mod control;
pub mod controller;
mod create;
mod css;
mod css_set;
mod delegate;
mod drain;
mod effect;
mod errno;
mod event;
mod exec;
mod exit;
mod fork;
mod freezer;
mod hierarchy;
mod id;
mod iter;
mod kill;
mod lifecycle;
mod mask;
mod migrate;
mod populated;
mod rebind;
mod stat;
mod sync;
mod task;
mod teardown;
mod threaded;

pub use cgroup::Cgroup;
pub use controller::pids::{Limit, PID_MAX_LIMIT, Pids, PidsCss};
pub use controller::{Controller, CssState, Hooks, NewCss};
pub use create::NAME_MAX;
pub use css::{Css, CssRef, Phase};
pub use delegate::Opener;
pub use drain::{Draining, WriteError};
pub use effect::{Effect, Effects, Queue};
pub use errno::Errno;
pub use event::{EventFile, NOTIFY_INTERVAL};
pub use fork::{Fork, ForkFrom};
pub use freezer::Events;
pub use hierarchy::{Builder, Hierarchy};
pub use id::{CgroupId, CssId, TaskId, Time};
pub use lifecycle::Lifecycle;
pub use mask::SsMask;
pub use migrate::{Move, Scope, TaskSet};
pub use stat::{Stat, SubsysStat};
pub use sync::grace::{ReadSection, Reader};
pub use task::{Membership, Stage, Task};
pub use threaded::CgroupType;

#[cfg(any(loom, shuttle, test))]
#[doc(hidden)]
pub use sync::mutant::Mutant;
