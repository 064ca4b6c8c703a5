//! Threaded mode: cgroups that tell the threads of one process apart.
//!
//! A resource like memory belongs to a process, so a process must be in one
//! cgroup to be accounted to; CPU time can be given out thread by thread. A
//! threaded cgroup therefore joins the *domain* of its parent: the domain is
//! where the process is accounted as a whole, the threaded cgroups below it
//! spread its threads (`cgroup-v2.rst`, "Threads").
//!
//! Whether a cgroup can be the root of a threaded subtree, and whether it may
//! hold tasks at all, follows from its place: the predicates below are those of
//! `cgroup.c` under the same names. "Has tasks" counts the hidden ones and the
//! places of forks in flight: both can do work yet.

use crate::cgroup::Cgroup;
use crate::css::CssRef;
use crate::drain::WriteError;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::sync::Ordering;
use crate::sync::lock::{SetGuard, TreeGuard};
use crate::sync::mutant::{Mutant, broken};
use alloc::sync::Arc;
use core::fmt;

/// What `cgroup.type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CgroupType {
    /// An ordinary cgroup.
    Domain,
    /// The domain of threaded cgroups below it, or of its own tasks under
    /// threaded controllers.
    DomainThreaded,
    /// Below a threaded subtree without being part of it: holds no tasks.
    DomainInvalid,
    /// Part of a threaded subtree.
    Threaded,
}

impl fmt::Display for CgroupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Domain => "domain",
            Self::DomainThreaded => "domain threaded",
            Self::DomainInvalid => "domain invalid",
            Self::Threaded => "threaded",
        })
    }
}

impl Hierarchy {
    /// Reads `cgroup.type`. The root has no such file; it reads as a domain.
    #[must_use]
    pub fn cgroup_type(&self, cgroup: &Cgroup) -> CgroupType {
        let (tree, set) = (self.inner.tree_lock.lock(), self.inner.set_lock.lock());
        if cgroup.is_threaded(&tree) {
            CgroupType::Threaded
        } else if !self.inner.is_valid_domain(cgroup, &tree, &set) {
            CgroupType::DomainInvalid
        } else if self.inner.is_thread_root(cgroup, &tree, &set) {
            CgroupType::DomainThreaded
        } else {
            CgroupType::Domain
        }
    }

    /// Writes `threaded` to `cgroup.type`: the cgroup joins its parent's domain.
    /// There is no way back, and nothing else can be written.
    ///
    /// # Errors
    /// [`WriteError::WouldWait`] for a dying css here or below; else, in order:
    /// * ENOENT: the cgroup has been removed, or is the root, which has no such
    ///   file;
    /// * EOPNOTSUPP: a task is here or below, or a domain controller is on in
    ///   `cgroup.subtree_control`; or the parent's domain is not valid, or has
    ///   domain controllers on or populated domain children;
    /// * what a controller refused with.
    pub fn make_threaded(&self, cgroup: &Arc<Cgroup>, fx: &mut Effects) -> Result<(), WriteError> {
        let inner = &*self.inner;
        let tree = &mut inner.tree_lock.lock();
        let Some(parent) = cgroup.parent.as_ref().filter(|_| !cgroup.is_dead()) else {
            return Err(Errno::ENOENT.into());
        };
        inner.drain(cgroup, tree)?;
        if cgroup.is_threaded(tree) {
            return Ok(());
        }
        let domain = Arc::clone(parent.domain(tree));
        inner.may_be_threaded(cgroup, &domain, tree)?;

        let mut change = inner.begin(cgroup, tree);
        for below in change.subtree() {
            if Arc::ptr_eq(below, cgroup) || below.is_threaded(tree) {
                below.tree.get_mut(tree).domain = Some(Arc::clone(&domain));
            }
        }
        inner.apply(&mut change, tree, fx);
        if change.succeeded() {
            parent.tree.get_mut(tree).nr_threaded_children += 1;
        }
        Ok(inner.finalize(change, tree, fx)?)
    }
}

impl Cgroup {
    /// `cgroup_is_threaded`.
    pub(crate) fn is_threaded(&self, tree: &TreeGuard<'_>) -> bool {
        self.tree.get(tree).domain.is_some()
    }

    /// The cgroup itself or, if it is threaded, its domain (`dom_cgrp`).
    pub(crate) fn domain<'a>(self: &'a Arc<Self>, tree: &'a TreeGuard<'_>) -> &'a Arc<Self> {
        self.tree.get(tree).domain.as_ref().unwrap_or(self)
    }

    /// Whether tasks are in the cgroup itself (`cgroup_has_tasks`).
    pub(crate) fn has_tasks(&self, set: &SetGuard<'_>) -> bool {
        self.self_css.nr_populated_csets.load(Ordering::Relaxed) != 0
            || self.csets(set).any(|cset| cset.list.lock().reserved > 0)
    }

    /// Whether tasks are in the cgroup or below.
    fn is_occupied(self: &Arc<Self>, tree: &TreeGuard<'_>, set: &SetGuard<'_>) -> bool {
        self.populated()
            || Inner::live_preorder(self, tree).iter().any(|below| below.has_tasks(set))
    }
}

impl Inner {
    fn may_be_threaded(
        &self,
        cgroup: &Arc<Cgroup>,
        domain: &Arc<Cgroup>,
        tree: &TreeGuard<'_>,
    ) -> Result<(), Errno> {
        let set = &self.set_lock.lock();
        let own = cgroup.tree.get(tree).subtree_control - self.traits.threaded;
        let may = !cgroup.is_occupied(tree, set)
            && own.is_empty()
            && self.is_valid_domain(domain, tree, set)
            && self.can_be_thread_root(domain, tree, set);
        if may { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    /// `cgroup_can_be_thread_root`. The root always can (`cgroup_is_mixable`).
    pub(crate) fn can_be_thread_root(
        &self,
        cgroup: &Cgroup,
        tree: &TreeGuard<'_>,
        set: &SetGuard<'_>,
    ) -> bool {
        if cgroup.parent.is_none() {
            return true;
        }
        let it = cgroup.tree.get(tree);
        if it.domain.is_some() || !(it.subtree_control - self.traits.threaded).is_empty() {
            return false;
        }
        if it.nr_threaded_children > 0 {
            // It is one, since none of its domain children had tasks, and they
            // are invalid as long as it is: no need to look at each again.
            return true;
        }
        // Removed children that tasks have not left count too.
        let children = cgroup.self_css.tree.get(tree).children.values();
        !children.filter_map(|child| child.upgrade()).any(|child| match &child {
            CssRef::SelfOf(child) => !child.is_threaded(tree) && child.is_occupied(tree, set),
            CssRef::Of(_) => false,
        })
    }

    /// `cgroup_is_thread_root`.
    pub(crate) fn is_thread_root(
        &self,
        cgroup: &Cgroup,
        tree: &TreeGuard<'_>,
        set: &SetGuard<'_>,
    ) -> bool {
        let it = cgroup.tree.get(tree);
        it.domain.is_none()
            && (it.nr_threaded_children > 0
                || !self.traits.mixable
                    && it.subtree_control.intersects(self.traits.threaded)
                    && cgroup.has_tasks(set))
    }

    /// `cgroup_is_valid_domain`.
    pub(crate) fn is_valid_domain(
        &self,
        cgroup: &Cgroup,
        tree: &TreeGuard<'_>,
        set: &SetGuard<'_>,
    ) -> bool {
        if cgroup.is_threaded(tree) {
            return false;
        }
        let mut above = cgroup.ancestors();
        broken(Mutant::InvalidDomainIgnored)
            || above.all(|above| {
                let thread_root = above.parent.is_some() && self.is_thread_root(above, tree, set);
                !thread_root && !above.is_threaded(tree)
            })
    }
}
