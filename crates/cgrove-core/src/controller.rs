//! The contract between the core and a controller.
//!
//! A controller is an open set behind one object-safe trait with the verbs of
//! Linux's `struct cgroup_subsys`. The core decides when each verb runs; the
//! table says which locks it holds then, so a controller may only take locks
//! of its own inside them.
//!
//! | verb | when | lock held | may refuse |
//! |---|---|---|---|
//! | `css_alloc` | a css is made; no parent for the root | tree | yes |
//! | `css_online` | after linking, before anyone can find it | tree | yes: freed, never offlined |
//! | `css_killed` | first step of the kill, before DYING | tree | no |
//! | `css_offline` | subtree drained, children offline, readers gone | tree | no |
//! | `css_released` | no reference left | tree | no |
//! | `css_free` | nobody can reach it | none | no |
//! | `css_reset` | after a write to a control file, on every css without files | tree | no |
//! | `bind` | the hierarchy gets the controller, or gives it up | tree | no |
//! | `can_attach` | tasks are about to move and a css changes for one of them | tree | yes: nobody moves |
//! | `cancel_attach` | a later controller refused | tree | no |
//! | `attach` | a task is linked without a fork, or has moved to another css | tree | no |
//! | `move_forks` | places of forks in flight move with their cgroup | tree, set, the sets' | no |
//! | `can_fork` | before the child exists | the forker's, or tree | yes: the fork fails with it |
//! | `cancel_fork` | a later controller, or the fork itself, failed | as `can_fork`, or set, the set's | no |
//! | `fork` | after the child is linked | the set's | no |
//! | `exit` | the task stops being live; still linked | none | no |
//! | `release` | the task is reaped | the task's | no |
//!
//! In Linux forks and moves exclude each other by one lock that both hold from
//! their first verb to their last. Here the locks named above do it, one task
//! and one css_set at a time: a css that a verb is called with is the one its
//! task is charged to.

use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::id::{CgroupId, TaskId};
use crate::migrate::TaskSet;
use alloc::sync::Arc;
use core::any::Any;

pub mod cpu;
pub mod cpuset;
mod event_files;
pub mod hugetlb;
pub mod id_mask;
pub mod io;
mod lookup;
pub mod memory;
pub mod misc;
pub mod page_counter;
pub mod pids;
pub mod rdma;
pub mod registry;

bitflags::bitflags! {
    /// Which per-task verbs a controller has. The fork and exit paths call
    /// only these, so a controller that ignores tasks costs them nothing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Hooks: u8 {
        /// `can_fork`, `cancel_fork` and `fork`.
        const FORK = 1;
        /// `exit`.
        const EXIT = 2;
        /// `release`.
        const RELEASE = 4;
        /// `can_attach`, `cancel_attach` and `attach`.
        const ATTACH = 8;
    }
}

/// A controller's own state on one css.
pub type CssState = Arc<dyn Any + Send + Sync>;

/// The css that a controller is asked to make its state for.
#[derive(Debug)]
pub struct NewCss<'a> {
    /// The cgroup it will belong to.
    pub cgroup: CgroupId,
    /// The css above it; `None` for the root of the hierarchy.
    pub parent: Option<&'a Css>,
}

impl NewCss<'_> {
    /// What this controller keeps for the css above.
    ///
    /// # Errors
    /// EINVAL if that is of another type, which is a fault of the controller.
    pub fn parent_state<T: Send + Sync + 'static>(&self) -> Result<Option<Arc<T>>, Errno> {
        self.parent.map(|css| css.state_arc().ok_or(Errno::EINVAL)).transpose()
    }
}

/// A resource controller. The module's table says when each verb runs.
pub trait Controller: Send + Sync + 'static {
    /// Its name, as in `cgroup.controllers`.
    fn name(&self) -> &'static str;

    /// The per-task verbs it has.
    fn hooks(&self) -> Hooks;

    /// Whether it can tell the threads of a process apart: only then may
    /// threads of one process be in different cgroups with it
    /// (`cgroup-v2.rst`, "Threads").
    fn threaded(&self) -> bool {
        false
    }

    /// Whether every cgroup has a css of it, unasked. Such a controller is
    /// listed nowhere and must be [`threaded`](Self::threaded)
    /// (`implicit_on_dfl`; `perf_event` in Linux).
    fn implicit(&self) -> bool {
        false
    }

    /// Controllers that are switched on with it, by name. One that was not asked
    /// for itself has no files there (`depends_on`; `memory` for `io` in Linux).
    /// Names that the hierarchy has no controller for are skipped.
    fn depends_on(&self) -> &'static [&'static str] {
        &[]
    }

    /// Makes the state of a new css.
    ///
    /// # Errors
    /// Any number; the creation fails with it.
    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno>;

    /// The css is linked and about to be published.
    ///
    /// # Errors
    /// Any number; the creation fails with it and the css is freed without
    /// `css_offline`.
    fn css_online(&self, css: &Css, fx: &mut Effects) -> Result<(), Errno> {
        let _ = (css, fx);
        Ok(())
    }

    /// The css is about to be marked DYING; its files go next.
    fn css_killed(&self, css: &Css, fx: &mut Effects) {
        let _ = (css, fx);
    }

    /// No task in the css's subtree can do any more work.
    fn css_offline(&self, css: &Css, fx: &mut Effects) {
        let _ = (css, fx);
    }

    /// The last reference is gone.
    fn css_released(&self, css: &Css) {
        let _ = css;
    }

    /// Nobody can reach the css any more.
    fn css_free(&self, css: &Css) {
        let _ = css;
    }

    /// The css has no files, or has them no longer, but stays because others
    /// depend on it: it must not control anything. Runs again and again.
    fn css_reset(&self, css: &Css, fx: &mut Effects) {
        let _ = (css, fx);
    }

    /// The controller was given up by the hierarchy, or is back. Its root css
    /// stays the same; no other is left.
    fn bind(&self, root: &Css, bound: bool, fx: &mut Effects) {
        let _ = (root, bound, fx);
    }

    /// May these tasks move? They are all that move, those included for which
    /// the css of this controller does not change.
    ///
    /// # Errors
    /// Any number; the move fails with it and nobody has moved.
    fn can_attach(&self, tasks: &TaskSet<'_>, fx: &mut Effects) -> Result<(), Errno> {
        let _ = (tasks, fx);
        Ok(())
    }

    /// Undoes a `can_attach` that succeeded.
    fn cancel_attach(&self, tasks: &TaskSet<'_>, fx: &mut Effects) {
        let _ = (tasks, fx);
    }

    /// `n` forks that were admitted on `from` will be published or cancelled on
    /// `to`. A controller that charges in `can_fork` moves the charge, whatever
    /// its limit.
    fn move_forks(&self, n: usize, to: &Css, from: &Css, fx: &mut Effects) {
        let _ = (n, to, from, fx);
    }

    /// A task that was not forked here joins `to`, or has moved there from
    /// `from`. The latter follows a `can_attach`, so a controller that charges
    /// there charges only who comes from nowhere here.
    fn attach(&self, task: TaskId, to: &Css, from: Option<&Css>, fx: &mut Effects) {
        let _ = (task, to, from, fx);
    }

    /// May a task be born on `css`?
    ///
    /// # Errors
    /// Any number; the fork fails with it.
    fn can_fork(&self, css: &Css, fx: &mut Effects) -> Result<(), Errno> {
        let _ = (css, fx);
        Ok(())
    }

    /// Undoes a `can_fork` that succeeded.
    fn cancel_fork(&self, css: &Css) {
        let _ = css;
    }

    /// The child is linked.
    fn fork(&self, task: TaskId, css: &Css, fx: &mut Effects) {
        let _ = (task, css, fx);
    }

    /// The task has begun to exit.
    fn exit(&self, task: TaskId, css: &Css, fx: &mut Effects) {
        let _ = (task, css, fx);
    }

    /// The task has been reaped.
    fn release(&self, task: TaskId, css: &Css) {
        let _ = (task, css);
    }
}
