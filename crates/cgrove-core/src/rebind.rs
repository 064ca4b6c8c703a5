//! Giving a controller up, and taking it back.
//!
//! An embedder can have more than one hierarchy, and a controller works for one
//! of them (in Linux: mounting it as version 1 takes it from the version 2
//! tree). Giving one up is switching it off everywhere at once, the implicit
//! ones included, which nobody ever switched on.
//!
//! The tasks go to the root css first, by telling the look-up that wherever a
//! css of this controller still is, it does not count; only then are the csses
//! killed. Linux 7.2 as first released looked at the masks alone, found the old
//! css for an implicit controller, moved nobody, and the csses stayed populated
//! for ever.

use crate::css::Flags;
use crate::drain::WriteError;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::mask::SsMask;
use crate::sync::lock::TreeGuard;

impl Hierarchy {
    /// The controllers that the hierarchy has for itself.
    #[must_use]
    pub fn bound(&self) -> SsMask {
        self.inner.binding.get(&self.inner.tree_lock.lock()).bound
    }

    /// Gives controllers up (`rebind_subsystems`). Afterwards every task is on
    /// their root css, they are in no listing, and what csses were left are
    /// dying. [`Controller::bind`](crate::Controller::bind) is told of each.
    ///
    /// # Errors
    /// [`WriteError::WouldWait`] for a dying css anywhere on a live cgroup; EBUSY
    /// if one that is not implicit has a css below the root, a dying one
    /// included; nothing has changed then.
    pub fn unbind(&self, mask: SsMask, fx: &mut Effects) -> Result<(), WriteError> {
        let inner = &*self.inner;
        let tree = &mut inner.tree_lock.lock();
        let leaving = mask & inner.binding.get(tree).bound;
        inner.drain(&inner.root, tree)?;
        if (leaving - inner.traits.implicit).iter().any(|ssid| inner.has_csses(ssid, tree)) {
            return Err(Errno::EBUSY.into());
        }
        let mut change = inner.begin(&inner.root, tree);
        let binding = inner.binding.get_mut(tree);
        binding.bound -= leaving;
        binding.leaving = leaving;
        inner.apply(&mut change, tree, fx);
        inner.binding.get_mut(tree).leaving = SsMask::NONE;
        if !change.succeeded() {
            // A controller that stays refused to have its tasks moved, though
            // nothing changes for it.
            inner.binding.get_mut(tree).bound |= leaving;
        }
        inner.finalize(change, tree, fx)?;
        inner.tell_bound(leaving, false, fx);
        Ok(())
    }

    /// Takes controllers back. They are switched on nowhere but at the root, the
    /// implicit ones everywhere.
    ///
    /// # Errors
    /// [`WriteError::WouldWait`] for a dying css anywhere on a live cgroup; what a
    /// controller refused with. Nothing has changed then but that csses made on
    /// the way may be dying.
    pub fn bind(&self, mask: SsMask, fx: &mut Effects) -> Result<(), WriteError> {
        let inner = &*self.inner;
        let tree = &mut inner.tree_lock.lock();
        inner.drain(&inner.root, tree)?;
        let there = SsMask::first(inner.controllers.len());
        let coming = (mask & there) - inner.binding.get(tree).bound;
        let mut change = inner.begin(&inner.root, tree);
        inner.binding.get_mut(tree).bound |= coming;
        inner.apply(&mut change, tree, fx);
        if !change.succeeded() {
            inner.binding.get_mut(tree).bound -= coming;
        }
        inner.finalize(change, tree, fx)?;
        inner.tell_bound(coming, true, fx);
        Ok(())
    }
}

impl Inner {
    /// Whether a controller has a css below the root that is not released.
    fn has_csses(&self, ssid: usize, tree: &TreeGuard<'_>) -> bool {
        let root = self.root.subsys.lock()[ssid].clone();
        root.is_some_and(|root| !root.tree.get(tree).children.is_empty())
    }

    fn tell_bound(&self, mask: SsMask, bound: bool, fx: &mut Effects) {
        for ssid in mask.iter() {
            let root = self.root.subsys.lock()[ssid].clone();
            let Some(root) = root else { continue };
            if bound {
                root.set(Flags::VISIBLE);
            } else {
                root.clear(Flags::VISIBLE);
            }
            self.controllers[ssid].bind(&root, bound, fx);
        }
    }
}
