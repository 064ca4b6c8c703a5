//! What a css is waiting for, and since when.
//!
//! A dying css can linger for hours behind one zombie or one forgotten
//! reference, and Linux offers no way to ask which. Here every css answers.

use crate::css::{Css, CssRef, Phase};
use crate::hierarchy::Hierarchy;
use crate::id::{CssId, TaskId, Time};
use alloc::vec::Vec;

/// Where a css stands and what keeps it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// The phase it is in.
    pub phase: Phase,
    /// When it entered it.
    pub since: Time,
    /// Tasks in its subtree that are not dead: before [`Phase::Killed`] they
    /// delay the kill.
    pub tasks: Vec<TaskId>,
    /// Tasks in its subtree that are dead and not freed, zombies above all:
    /// they delay the release.
    pub unfreed: Vec<TaskId>,
    /// References held, the base reference included.
    pub references: u64,
    /// Child csses that are not released.
    pub children: Vec<CssId>,
}

impl Hierarchy {
    /// The lifecycle of a css.
    #[must_use]
    pub fn lifecycle(&self, css: &CssRef) -> Lifecycle {
        let tree = self.inner.tree_lock.lock();
        let set = self.inner.set_lock.lock();
        let (mut tasks, mut unfreed) = (Vec::new(), Vec::new());
        let mut todo = alloc::vec![css.clone()];
        while let Some(at) = todo.pop() {
            todo.extend(at.tree.get(&tree).children.values().filter_map(|css| css.upgrade()));
            for cset in at.cgroup().csets(&set) {
                if at.ss.is_none() || cset.csses.iter().any(|pinned| pinned.id == at.id) {
                    let list = cset.list.lock();
                    tasks.extend(list.tasks.iter().map(|task| task.id));
                    unfreed.extend(list.unfreed.iter().map(|task| task.id));
                }
            }
        }
        for list in [&mut tasks, &mut unfreed] {
            list.sort_unstable();
            list.dedup();
        }
        let state = css.tree.get(&tree);
        Lifecycle {
            phase: state.phase,
            since: state.since,
            tasks,
            unfreed,
            references: css.refs.count(),
            children: state.children.keys().copied().collect(),
        }
    }

    /// The csses of a cgroup that are not offline, *self* first.
    #[must_use]
    pub fn csses(&self, cgroup: &alloc::sync::Arc<crate::Cgroup>) -> Vec<CssRef> {
        let own = core::iter::once(CssRef::SelfOf(alloc::sync::Arc::clone(cgroup)));
        own.chain(cgroup.csses().map(CssRef::Of)).collect()
    }

    /// A css among the children that a lifecycle named, to follow the chain.
    #[must_use]
    pub fn child_css(&self, css: &Css, id: CssId) -> Option<CssRef> {
        let tree = self.inner.tree_lock.lock();
        css.tree.get(&tree).children.get(&id)?.upgrade()
    }
}
