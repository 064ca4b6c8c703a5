//! Waiting until the csses that are switched off are gone.
//!
//! A css that dies on a live cgroup keeps its slot until it is offline, and
//! tasks on their way out can hold it there for as long as they like. Whoever
//! writes a control file over such a cgroup must not find the dying css and
//! take it for a live one; Linux puts the writer to sleep, uninterruptibly,
//! and if the writer is the one who has to reap those tasks, for ever.
//!
//! Nothing sleeps here. The write is not carried out and says which css it
//! would have waited for and what that css waits for ([`Draining`]); when it is
//! offline there is an [`Effect::Offline`](crate::Effect::Offline), and the
//! embedder tries again, or has given up meanwhile, or set itself a deadline.
//!
//! The question is whether a css is DYING, not whether its reference count is
//! being killed: between the two lies the time in which its last tasks leave.

use crate::cgroup::Cgroup;
use crate::css::{Css, CssRef};
use crate::errno::Errno;
use crate::hierarchy::Inner;
use crate::lifecycle::Lifecycle;
use crate::sync::lock::TreeGuard;
use crate::sync::mutant::Mutant;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

/// A css that has to be offline before a write can be carried out.
#[derive(Clone, Debug)]
pub struct Draining {
    /// The css. An [`Effect::Offline`](crate::Effect::Offline) with its id says
    /// that it no longer stands in the way; another one may.
    pub css: CssRef,
    /// What it waits for: its `tasks` before it can be killed, then children
    /// and read sections before it can go offline. Where it names none of them
    /// there is only work to pump.
    pub lifecycle: Lifecycle,
}

/// Why a write to a control file was not carried out.
#[derive(Clone, Debug)]
pub enum WriteError {
    /// It was refused.
    Refused(Errno),
    /// Linux would put the writer to sleep. Nothing has changed.
    WouldWait(Box<Draining>),
}

impl WriteError {
    /// The refusal, if it is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(errno) => Some(*errno),
            Self::WouldWait(_) => None,
        }
    }

    /// The css to wait for, if there is one.
    #[must_use]
    pub fn draining(&self) -> Option<&Draining> {
        match self {
            Self::Refused(_) => None,
            Self::WouldWait(draining) => Some(draining),
        }
    }
}

impl From<Errno> for WriteError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(errno) => errno.fmt(f),
            Self::WouldWait(draining) => write!(
                f,
                "{} of {} is still being switched off; {} tasks are on their way out",
                draining.css.controller().unwrap_or("self"),
                draining.css.cgroup().path(),
                draining.lifecycle.tasks.len()
            ),
        }
    }
}

impl core::error::Error for WriteError {}

impl Inner {
    /// Refuses while a live cgroup, `top` or below it, has a css that is being
    /// switched off (`cgroup_lock_and_drain_offline`). Children first, as the
    /// parents wait for them.
    pub(crate) fn drain(
        &self,
        top: &Arc<Cgroup>,
        tree: &mut TreeGuard<'_>,
    ) -> Result<(), WriteError> {
        let stays = |css: &Css| {
            if self.mutation.is(Mutant::DrainTestsRef) {
                css.refs.is_killed()
            } else {
                css.is_dying()
            }
        };
        let subtree = Self::live_preorder(top, tree);
        let found = subtree.iter().rev().find_map(|cgroup| cgroup.csses().find(|css| stays(css)));
        let Some(css) = found else { return Ok(()) };
        css.tree.get_mut(tree).awaited = true;
        let css = CssRef::Of(css);
        let lifecycle = self.lifecycle(&css, tree, &self.set_lock.lock());
        Err(WriteError::WouldWait(Box::new(Draining { css, lifecycle })))
    }
}
