//! What a css is waiting for, and since when.
//!
//! A dying css can linger for hours behind one zombie or one forgotten
//! reference, and Linux offers no way to ask which. Here every css answers.

use crate::css::{Css, CssRef, Phase, WeakCss};
use crate::css_set::CssSet;
use crate::hierarchy::{Hierarchy, Inner};
use crate::id::{CssId, TaskId, Time};
use crate::sync::lock::{SetGuard, TreeGuard};
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
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
        self.inner.lifecycle(css, &self.inner.tree_lock.lock(), &self.inner.set_lock.lock())
    }

    /// The csses of a cgroup that are not offline, *self* first.
    #[must_use]
    pub fn csses(&self, cgroup: &Arc<crate::Cgroup>) -> Vec<CssRef> {
        let own = core::iter::once(CssRef::SelfOf(Arc::clone(cgroup)));
        own.chain(cgroup.csses().map(CssRef::Of)).collect()
    }

    /// A css among the children that a lifecycle named, to follow the chain.
    #[must_use]
    pub fn child_css(&self, css: &Css, id: CssId) -> Option<CssRef> {
        let tree = self.inner.tree_lock.lock();
        css.tree.get(&tree).children.get(&id)?.upgrade()
    }
}

impl Inner {
    pub(crate) fn lifecycle(
        &self,
        css: &CssRef,
        tree: &TreeGuard<'_>,
        set: &SetGuard<'_>,
    ) -> Lifecycle {
        let below = |top: &CssRef| {
            let mut found = alloc::vec![top.clone()];
            let mut next = 0;
            while let Some(at) = found.get(next) {
                let children: Vec<_> =
                    at.tree.get(tree).children.values().filter_map(WeakCss::upgrade).collect();
                found.extend(children);
                next += 1;
            }
            found
        };
        // A cgroup without a css of its own pins the nearest one above, so the
        // tasks are to be looked for in all cgroups below.
        let pinned: BTreeSet<CssId> = below(css).iter().map(|css| css.id).collect();
        let pins = |cset: &CssSet| match &css.ss {
            Some(ss) => pinned.contains(&cset.csses[ss.ssid].id),
            None => true,
        };
        let (mut tasks, mut unfreed) = (Vec::new(), Vec::new());
        for at in below(&CssRef::SelfOf(Arc::clone(css.cgroup()))) {
            for cset in at.cgroup().csets(set).filter(|cset| pins(cset)) {
                let list = cset.list.lock();
                tasks.extend(list.tasks.iter().map(|task| task.id));
                unfreed.extend(list.unfreed.iter().map(|task| task.id));
            }
        }
        tasks.sort_unstable();
        unfreed.sort_unstable();
        let state = css.tree.get(tree);
        Lifecycle {
            phase: state.phase,
            since: state.since,
            tasks,
            unfreed,
            references: css.refs.count(),
            children: state.children.keys().copied().collect(),
        }
    }
}
