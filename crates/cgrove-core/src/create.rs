//! Making a cgroup (`cgroup_mkdir`).
//!
//! Everything that can refuse does so before anybody can see the cgroup, or is
//! undone by the ordinary destroy path: a css that came online goes through
//! the whole teardown, one whose `css_online` refused is freed without ever
//! having been offline.

use crate::cgroup::Cgroup;
use crate::controller::NewCss;
use crate::css::{Css, CssRef, Flags, SsBinding};
use crate::effect::{Effects, Queue};
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::sync::invariant;
use crate::sync::lock::TreeGuard;
use crate::sync::mutant::{Mutant, broken};
use crate::teardown::Work;
use alloc::sync::Arc;

/// The longest name, in bytes: what fits into a path. Linux has no narrower
/// limit here: on 7.2 a name of 256 bytes and more is as good as any.
pub const NAME_MAX: usize = 4095;

impl Hierarchy {
    /// Makes a cgroup below `parent`, with a css of every controller that is
    /// switched on there. If the parent is to be frozen, so is the new cgroup.
    ///
    /// # Errors
    /// * ENAMETOOLONG, ENOENT, EEXIST: the name is over [`NAME_MAX`] bytes, is
    ///   empty or holds a `/`, or is taken (`.` and `..` always are);
    /// * EINVAL: the name holds a newline, which would break `/proc/PID/cgroup`;
    /// * ENODEV: the parent has been removed;
    /// * EAGAIN: an ancestor's `max.depth` or `max.descendants` is reached;
    ///   dying cgroups do not count;
    /// * what a controller's `css_alloc` or `css_online` refused with.
    pub fn create(
        &self,
        parent: &Arc<Cgroup>,
        name: &str,
        fx: &mut Effects,
    ) -> Result<Arc<Cgroup>, Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if name.is_empty() || name.contains('/') {
            return Err(Errno::ENOENT);
        }
        if matches!(name, "." | "..") {
            return Err(Errno::EEXIST);
        }
        let inner = &*self.inner;
        let mut tree = inner.tree_lock.lock();
        if parent.tree.get(&tree).children.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if name.contains('\n') {
            return Err(Errno::EINVAL);
        }
        if parent.is_dead() {
            return Err(Errno::ENODEV);
        }
        check_limits(parent, &tree)?;

        let cgroup = inner.link_cgroup(parent, name, fx, &mut tree);
        inner.propagate(core::slice::from_ref(&cgroup), &mut tree);
        if let Err(errno) = inner.enable(&cgroup, &|_, _| false, &mut tree, fx) {
            inner.destroy_locked(&cgroup, &mut tree, fx);
            return Err(errno);
        }
        Ok(cgroup)
    }

    /// The live child of `parent` named `name`.
    #[must_use]
    pub fn child(&self, parent: &Cgroup, name: &str) -> Option<Arc<Cgroup>> {
        let tree = self.inner.tree_lock.lock();
        parent.tree.get(&tree).children.get(name).cloned()
    }

    /// Writes `cgroup.max.depth`; `usize::MAX` is `max`. Holds for creations
    /// from now on.
    ///
    /// # Errors
    /// ENOENT on a removed cgroup.
    pub fn set_max_depth(&self, cgroup: &Cgroup, max: usize) -> Result<(), Errno> {
        let mut tree = self.inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENOENT);
        }
        cgroup.tree.get_mut(&mut tree).max_depth = max;
        Ok(())
    }

    /// Reads `cgroup.max.depth`; `usize::MAX` is `max`.
    #[must_use]
    pub fn max_depth(&self, cgroup: &Cgroup) -> usize {
        cgroup.tree.get(&self.inner.tree_lock.lock()).max_depth
    }

    /// Reads `cgroup.max.descendants`; `usize::MAX` is `max`.
    #[must_use]
    pub fn max_descendants(&self, cgroup: &Cgroup) -> usize {
        cgroup.tree.get(&self.inner.tree_lock.lock()).max_descendants
    }

    /// Writes `cgroup.max.descendants`; `usize::MAX` is `max`. Holds for
    /// creations from now on.
    ///
    /// # Errors
    /// ENOENT on a removed cgroup.
    pub fn set_max_descendants(&self, cgroup: &Cgroup, max: usize) -> Result<(), Errno> {
        let mut tree = self.inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENOENT);
        }
        cgroup.tree.get_mut(&mut tree).max_descendants = max;
        Ok(())
    }
}

/// `cgroup_check_hierarchy_limits`: from the new parent to the root.
fn check_limits(parent: &Cgroup, tree: &TreeGuard<'_>) -> Result<(), Errno> {
    for (distance, cgroup) in parent.ancestors_and_self().enumerate() {
        let limits = cgroup.tree.get(tree);
        let mut live = cgroup.nr_descendants.load(crate::sync::Ordering::Relaxed);
        if broken(Mutant::DyingCounts) {
            live += cgroup.nr_dying_descendants.load(crate::sync::Ordering::Relaxed);
        }
        if live >= limits.max_descendants || distance >= limits.max_depth {
            return Err(Errno::EAGAIN);
        }
    }
    Ok(())
}

impl Inner {
    fn link_cgroup(
        &self,
        parent: &Arc<Cgroup>,
        name: &str,
        fx: &Effects,
        tree: &mut TreeGuard<'_>,
    ) -> Arc<Cgroup> {
        let cgroup = Arc::new(Cgroup::raw(
            self.locks(),
            self.next_cgroup_id(),
            name,
            Some(parent),
            self.controllers.len(),
            self.next_css_id(),
            fx.now(),
        ));
        cgroup.self_css.set(Flags::ONLINE);
        parent.self_css.get();
        let self_ref = CssRef::SelfOf(Arc::clone(&cgroup));
        parent.self_css.tree.get_mut(tree).children.insert(self_ref.id, self_ref.downgrade());
        let e_freeze = parent.tree.get(tree).e_freeze;
        {
            let set = &mut self.set_lock.lock();
            for ancestor in cgroup.ancestors() {
                Cgroup::bump(&ancestor.nr_descendants, 1);
            }
            if e_freeze {
                self.freezer_born(&cgroup, set, fx.now());
            }
        }
        cgroup.tree.get_mut(tree).e_freeze = e_freeze;
        parent.tree.get_mut(tree).children.insert(cgroup.name.clone(), Arc::clone(&cgroup));
        cgroup
    }

    /// Makes and publishes one css (`css_create`).
    pub(crate) fn css_create(
        &self,
        cgroup: &Arc<Cgroup>,
        ssid: usize,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) -> Result<Arc<Css>, Errno> {
        let controller = &self.controllers[ssid];
        let parent = match &cgroup.parent {
            Some(above) => self.effective_css(above, ssid, tree),
            None => unreachable!("the root's csses are made with the hierarchy"),
        };
        let state = controller.css_alloc(NewCss { cgroup: cgroup.id, parent: Some(&parent) })?;
        let binding = SsBinding {
            ssid,
            controller: Arc::clone(controller),
            state,
            cgroup: Arc::clone(cgroup),
        };
        parent.get();
        cgroup.self_css.get();
        let css = Arc::new(Css::new(
            &self.tree_lock,
            self.next_css_id(),
            Some(binding),
            Some(parent.clone()),
            fx.now(),
        ));
        let css_ref = CssRef::Of(Arc::clone(&css));
        parent.tree.get_mut(tree).children.insert(css.id, css_ref.downgrade());

        if let Err(errno) = controller.css_online(&css, fx) {
            parent.tree.get_mut(tree).children.remove(&css.id);
            let after = self.grace.start();
            self.queue(Queue::Free, Work::Free { css: css_ref, after }, fx);
            return Err(errno);
        }
        css.set(Flags::ONLINE);
        css.tree.get_mut(tree).online_cnt = 1;
        parent.tree.get_mut(tree).online_cnt += 1;
        for above in css.ancestors() {
            Cgroup::bump(&above.nr_descendants, 1);
        }
        let old = cgroup.subsys.lock()[ssid].replace(Arc::clone(&css));
        invariant!(old.is_none(), "a second css in one slot");
        Ok(css)
    }
}
