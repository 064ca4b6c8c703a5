//! `cgroup.subtree_control`: which controllers the children of a cgroup have.
//!
//! One write can switch several controllers on and others off, in a cgroup
//! whose descendants hold tasks, and happens as a whole or not at all. So it is
//! a transaction over the live subtree (`cgroup_apply_control`,
//! `cgroup_finalize_control`):
//!
//! 1. **begin** keeps what there is to go back to;
//! 2. the caller edits the masks;
//! 3. **apply** goes down the tree: *propagate* what each cgroup may have,
//!    *enable* what it lacks, *move* its tasks to css_sets with the new csses;
//! 4. **finalize** goes up: after a failure the masks are restored first; then
//!    what a mask no longer has is *disabled*, through the teardown protocol,
//!    and what only other controllers need is *hidden*.
//!
//! Tasks on their way out do not move. A css that is switched off can stay
//! populated by them, and dies when they are gone, as it does after rmdir.
//!
//! Two masks per cgroup: `subtree_control` is what was asked for and is
//! *visible* in the children; `subtree_ss_mask` adds the implicit controllers
//! and those depended upon, which are *present* without files.

use crate::cgroup::Cgroup;
use crate::controller::Controller;
use crate::css::{CssRef, Flags};
use crate::drain::WriteError;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::hierarchy::{Hierarchy, Inner};
use crate::mask::SsMask;
use crate::migrate::Who;
use crate::sync::invariant;
use crate::sync::lock::TreeGuard;
use crate::sync::mutant::{Mutant, broken};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What the controllers of a hierarchy say of themselves, as sets.
#[derive(Debug)]
pub(crate) struct Traits {
    pub(crate) threaded: SsMask,
    pub(crate) implicit: SsMask,
    depends_on: Box<[SsMask]>,
    /// Every cgroup is what only Linux's root is, `cgroup_is_mixable`.
    pub(crate) mixable: bool,
}

impl Traits {
    pub(crate) fn of(controllers: &[Arc<dyn Controller>]) -> Self {
        assert!(controllers.len() <= SsMask::CAPACITY, "too many controllers");
        let those = |is: fn(&dyn Controller) -> bool| -> SsMask {
            (0..controllers.len()).filter(|&ssid| is(&*controllers[ssid])).collect()
        };
        // One that the embedder left out is one that cannot be had.
        let named = |name: &&str| controllers.iter().position(|other| other.name() == *name);
        let new = Self {
            threaded: those(|controller| controller.threaded()),
            implicit: those(|controller| controller.implicit()),
            depends_on: controllers
                .iter()
                .map(|controller| controller.depends_on().iter().filter_map(named).collect())
                .collect(),
            mixable: false,
        };
        assert!((new.implicit - new.threaded).is_empty(), "an implicit controller is threaded");
        new
    }

    /// `cgroup_calc_subtree_ss_mask`.
    fn closure(&self, asked: SsMask, available: SsMask) -> SsMask {
        let mut mask = asked | self.implicit;
        loop {
            let needed = mask.iter().fold(mask, |sum, ssid| sum | self.depends_on[ssid]);
            let next = needed & available;
            if next == mask {
                return mask;
            }
            mask = next;
        }
    }
}

impl Hierarchy {
    /// The number of a controller, by name.
    #[must_use]
    pub fn ssid(&self, name: &str) -> Option<usize> {
        self.inner.controllers.iter().position(|controller| controller.name() == name)
    }

    /// The set of the controllers with these names.
    ///
    /// # Errors
    /// EINVAL for a name that no controller has. A writer of
    /// `cgroup.subtree_control` gets it before anything else is looked at; the
    /// name of an implicit controller is a good one, and refused later.
    pub fn mask(&self, names: &[&str]) -> Result<SsMask, Errno> {
        names.iter().map(|name| self.ssid(name).ok_or(Errno::EINVAL)).collect()
    }

    /// The names of the controllers in a set, in their order.
    pub fn names(&self, mask: SsMask) -> impl Iterator<Item = &'static str> + '_ {
        let controllers = self.inner.controllers.iter().enumerate();
        controllers.filter(move |(ssid, _)| mask.contains(*ssid)).map(|(_, it)| it.name())
    }

    /// Reads `cgroup.controllers`: what may be switched on for the children.
    #[must_use]
    pub fn controllers(&self, cgroup: &Cgroup) -> SsMask {
        self.inner.control(cgroup, &self.inner.tree_lock.lock())
    }

    /// Reads `cgroup.subtree_control`.
    #[must_use]
    pub fn subtree_control(&self, cgroup: &Cgroup) -> SsMask {
        cgroup.tree.get(&self.inner.tree_lock.lock()).subtree_control
    }

    /// Writes `cgroup.subtree_control`: switches controllers on and off for the
    /// children of `cgroup`. A controller in both sets is switched on; the last
    /// mention of a name in what a user wrote is the one to pass.
    ///
    /// # Errors
    /// Nothing has changed then but that csses made on the way may be dying.
    /// [`WriteError::WouldWait`] for a dying css here or below; else, in order:
    /// * ENODEV: the cgroup has been removed;
    /// * by controller, in their order: ENOENT to switch on what is not in
    ///   `cgroup.controllers`, EBUSY to switch off what a child has on for its
    ///   own children;
    /// * EOPNOTSUPP: switching on where no tasks may be, or a domain controller
    ///   in a threaded subtree;
    /// * EBUSY: switching on where tasks are, those on their way out and forks
    ///   in flight included, unless all are threaded controllers and the cgroup
    ///   is or can become the root of a threaded subtree;
    /// * what a controller refused with, a css or a task.
    pub fn write_subtree_control(
        &self,
        cgroup: &Arc<Cgroup>,
        enable: SsMask,
        disable: SsMask,
        fx: &mut Effects,
    ) -> Result<(), WriteError> {
        self.write_subtree_control_unless(cgroup, enable, disable, &|_, _| false, fx)
    }

    /// As [`write_subtree_control`](Self::write_subtree_control), for an embedder
    /// whose controllers have files in the directories of cgroups:
    /// `is_file(controller, name)` says which. It is asked with the tree locked
    /// and must not call back.
    ///
    /// # Errors
    /// The same, and EEXIST where a cgroup below a child has the name of a file
    /// that would appear beside it: before any task has moved.
    pub fn write_subtree_control_unless(
        &self,
        cgroup: &Arc<Cgroup>,
        enable: SsMask,
        disable: SsMask,
        is_file: &dyn Fn(&str, &str) -> bool,
        fx: &mut Effects,
    ) -> Result<(), WriteError> {
        let inner = &*self.inner;
        let tree = &mut inner.tree_lock.lock();
        if cgroup.is_dead() {
            return Err(Errno::ENODEV.into());
        }
        inner.drain(cgroup, tree)?;
        let (enable, disable) = inner.vet_masks(cgroup, enable, disable, tree)?;
        if (enable | disable).is_empty() {
            return Ok(());
        }
        inner.vet_enable(cgroup, enable, tree)?;
        let mut change = inner.begin(cgroup, tree);
        let own = cgroup.tree.get_mut(tree);
        own.subtree_control = (own.subtree_control | enable) - disable;
        inner.apply_unless(&mut change, is_file, tree, fx);
        Ok(inner.finalize(change, tree, fx)?)
    }
}

/// A change of masks that is being carried out.
#[must_use]
pub(crate) struct Change {
    /// The live subtree, parents first, and what to go back to.
    before: Vec<(SsMask, SsMask, Option<Arc<Cgroup>>)>,
    subtree: Vec<Arc<Cgroup>>,
    result: Result<(), Errno>,
}

impl Change {
    pub(crate) fn subtree(&self) -> &[Arc<Cgroup>] {
        &self.subtree
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.result.is_ok()
    }
}

impl Inner {
    /// What `cgroup.controllers` says (`cgroup_control`).
    pub(crate) fn control(&self, cgroup: &Cgroup, tree: &TreeGuard<'_>) -> SsMask {
        match &cgroup.parent {
            Some(parent) => self.possible(cgroup, parent.tree.get(tree).subtree_control, tree),
            None => self.binding.get(tree).bound - self.traits.implicit,
        }
    }

    /// Which csses a cgroup is to have (`cgroup_ss_mask`).
    pub(crate) fn ss_mask(&self, cgroup: &Cgroup, tree: &TreeGuard<'_>) -> SsMask {
        match &cgroup.parent {
            Some(parent) => self.possible(cgroup, parent.tree.get(tree).subtree_ss_mask, tree),
            None => self.binding.get(tree).bound,
        }
    }

    /// A threaded cgroup has threaded controllers only.
    fn possible(&self, cgroup: &Cgroup, mask: SsMask, tree: &TreeGuard<'_>) -> SsMask {
        if cgroup.is_threaded(tree) { mask & self.traits.threaded } else { mask }
    }

    /// `css_visible`.
    fn visible(&self, cgroup: &Cgroup, ssid: usize, tree: &TreeGuard<'_>) -> bool {
        self.control(cgroup, tree).contains(ssid)
            || self.traits.implicit.contains(ssid) && self.ss_mask(cgroup, tree).contains(ssid)
    }

    /// Leaves out what is as asked, and refuses what cannot be.
    fn vet_masks(
        &self,
        cgroup: &Cgroup,
        enable: SsMask,
        disable: SsMask,
        tree: &TreeGuard<'_>,
    ) -> Result<(SsMask, SsMask), Errno> {
        let it = cgroup.tree.get(tree);
        let (enable, disable) =
            (enable - it.subtree_control, (disable - enable) & it.subtree_control);
        let available = self.control(cgroup, tree);
        for ssid in (enable | disable).iter() {
            if enable.contains(ssid) {
                if !available.contains(ssid) && !broken(Mutant::EnableUnavailable) {
                    return Err(Errno::ENOENT);
                }
            } else if it
                .children
                .values()
                .any(|child| child.tree.get(tree).subtree_control.contains(ssid))
                && !broken(Mutant::DisableInUse)
            {
                return Err(Errno::EBUSY);
            }
        }
        Ok((enable, disable))
    }

    /// `cgroup_vet_subtree_control_enable`.
    fn vet_enable(
        &self,
        cgroup: &Arc<Cgroup>,
        enable: SsMask,
        tree: &TreeGuard<'_>,
    ) -> Result<(), Errno> {
        if enable.is_empty() {
            return Ok(());
        }
        let set = &self.set_lock.lock();
        if !self.is_valid_domain(cgroup.domain(tree), tree, set) {
            return Err(Errno::EOPNOTSUPP);
        }
        if cgroup.parent.is_none() || self.traits.mixable {
            return Ok(());
        }
        if (enable - self.traits.threaded).is_empty() {
            if self.can_be_thread_root(cgroup, tree, set) || cgroup.is_threaded(tree) {
                return Ok(());
            }
        } else if self.is_thread_root(cgroup, tree, set) || cgroup.is_threaded(tree) {
            return Err(Errno::EOPNOTSUPP);
        }
        let busy = cgroup.has_tasks(set) && !broken(Mutant::InternalTasks);
        if busy { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Keeps what there is in the live subtree (`cgroup_save_control`).
    pub(crate) fn begin(&self, top: &Arc<Cgroup>, tree: &TreeGuard<'_>) -> Change {
        let subtree = Self::live_preorder(top, tree);
        let before = subtree.iter().map(|cgroup| {
            let it = cgroup.tree.get(tree);
            (it.subtree_control, it.subtree_ss_mask, it.domain.clone())
        });
        Change { before: before.collect(), subtree, result: Ok(()) }
    }

    /// Makes the subtree what its masks now say (`cgroup_apply_control`).
    pub(crate) fn apply(&self, change: &mut Change, tree: &mut TreeGuard<'_>, fx: &mut Effects) {
        self.apply_unless(change, &|_, _| false, tree, fx);
    }

    fn apply_unless(
        &self,
        change: &mut Change,
        is_file: &dyn Fn(&str, &str) -> bool,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) {
        self.propagate(&change.subtree, tree);
        change.result = (change.subtree.iter())
            .try_for_each(|cgroup| self.enable(cgroup, is_file, tree, fx))
            .and_then(|()| self.update_csses(&change.subtree[1..], tree, fx));
    }

    /// Settles the change or goes back, and takes down what is not to be
    /// (`cgroup_finalize_control`).
    pub(crate) fn finalize(
        &self,
        change: Change,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let Change { before, subtree, result } = change;
        if result.is_err() {
            for (cgroup, (control, mask, domain)) in subtree.iter().zip(before) {
                let it = cgroup.tree.get_mut(tree);
                (it.subtree_control, it.subtree_ss_mask, it.domain) = (control, mask, domain);
            }
            self.propagate(&subtree, tree);
        }
        for cgroup in subtree.iter().rev() {
            self.disable(cgroup, tree, fx);
        }
        result
    }

    /// `cgroup_propagate_control`.
    pub(crate) fn propagate(&self, subtree: &[Arc<Cgroup>], tree: &mut TreeGuard<'_>) {
        for cgroup in subtree {
            let asked = cgroup.tree.get(tree).subtree_control & self.control(cgroup, tree);
            let present = self.traits.closure(asked, self.ss_mask(cgroup, tree));
            let it = cgroup.tree.get_mut(tree);
            (it.subtree_control, it.subtree_ss_mask) = (asked, present);
        }
    }

    /// Makes the csses that a cgroup lacks, and shows those that are to be seen
    /// (`cgroup_apply_control_enable`). Files that appear must not be called what
    /// a cgroup beside them is (`css_populate_dir`).
    pub(crate) fn enable(
        &self,
        cgroup: &Arc<Cgroup>,
        is_file: &dyn Fn(&str, &str) -> bool,
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        for ssid in self.ss_mask(cgroup, tree).iter() {
            let published = cgroup.subsys.lock()[ssid].clone();
            let css = match published {
                Some(css) => css,
                None => self.css_create(cgroup, ssid, tree, fx)?,
            };
            invariant!(!css.is_dying(), "enabling a css that is dying: it was not drained");
            if self.visible(cgroup, ssid, tree) && !css.has(Flags::VISIBLE) {
                let controller = self.controllers[ssid].name();
                if cgroup.tree.get(tree).children.keys().any(|name| is_file(controller, name)) {
                    return Err(Errno::EEXIST);
                }
                css.set(Flags::VISIBLE);
            }
        }
        Ok(())
    }

    /// `cgroup_apply_control_disable`.
    fn disable(&self, cgroup: &Arc<Cgroup>, tree: &mut TreeGuard<'_>, fx: &mut Effects) {
        for css in cgroup.csses() {
            let Some(ss) = &css.ss else { continue };
            invariant!(!css.is_dying(), "disabling a css that is dying: it was not drained");
            let unwanted = !self.ss_mask(cgroup, tree).contains(ss.ssid);
            if unwanted && css.parent.is_some() {
                // On a live cgroup, by the protocol of rmdir and with its fence:
                // the last task may be leaving right now.
                let css = CssRef::Of(Arc::clone(&css));
                self.kill_sync(&css, tree, fx);
                self.finish_if_drained(&css, tree, fx);
            } else if css.parent.is_some() && !self.visible(cgroup, ss.ssid, tree) {
                css.clear(Flags::VISIBLE);
                ss.controller.css_reset(&css, fx);
            }
        }
    }

    /// Moves every task below the top to the css_set that fits the masks
    /// (`cgroup_update_dfl_csses`).
    fn update_csses(
        &self,
        below: &[Arc<Cgroup>],
        tree: &mut TreeGuard<'_>,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let sources = {
            let set = self.set_lock.lock();
            let of = |cgroup: &Arc<Cgroup>| {
                let csets: Vec<_> = cgroup.csets(&set).collect();
                let to = Arc::clone(cgroup);
                csets.into_iter().map(move |cset| (cset, Arc::clone(&to)))
            };
            below.iter().flat_map(of).collect::<Vec<_>>()
        };
        if sources.is_empty() { Ok(()) } else { self.migrate(sources, Who::Everyone, tree, fx) }
    }
}
