//! A css: one controller's state on one cgroup, and the thing that dies.
//!
//! Every cgroup embeds one css of its own, *self*, with no controller; it
//! counts the references on the cgroup and carries the cgroup's place in the
//! populated walk. Controllers add one css each. Both kinds have the same
//! counters and the same parent chain, so one walk serves all.
//!
//! # The life of a controller css
//!
//! [`Phase`] names the stations. `teardown.rs` moves a css from one to the
//! next; this file only holds the state and what each field's writer must own.

use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::controller::{Controller, CssState};
use crate::id::{CssId, Time};
use crate::sync::grace::{Reader, Ticket};
use crate::sync::killref::KillRef;
use crate::sync::lock::{RankLock, Ranked, Tree};
use crate::sync::{AtomicU32, AtomicUsize, Ordering};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::fmt;
use core::ops::Deref;

bitflags::bitflags! {
    /// Written under the tree lock, read anywhere.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Flags: u32 {
        /// `css_online` succeeded and `css_offline` has not run. On *self*:
        /// the cgroup has not been removed.
        const ONLINE = 1;
        /// The synchronous half of the kill has run. Never set on *self*.
        const DYING = 2;
        /// No reference is left.
        const RELEASED = 4;
        /// Its interface files exist. A css that only another controller needs
        /// has none.
        const VISIBLE = 8;
    }
}

/// How far a css has come. Each phase but the first is entered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// In use.
    Online,
    /// Switched off, its files gone; tasks in its subtree may still be on
    /// their way out, so its reference count is not killed yet.
    Dying,
    /// The reference count is killed: no new online reference. Waits for its
    /// children to go offline and for readers to leave.
    Killed,
    /// `css_offline` has run. Waits for the last reference.
    Offline,
    /// No reference is left. Waits for readers to leave.
    Released,
    /// `css_free` has run.
    Freed,
}

/// What the tree lock protects in a css.
#[derive(Debug)]
pub(crate) struct CssTree {
    pub(crate) phase: Phase,
    pub(crate) since: Time,
    /// 1 for the css itself while online, plus 1 per online child. Zero means
    /// "may go offline".
    pub(crate) online_cnt: usize,
    /// Set by `kill_finish`: `css_offline` runs once this period has passed.
    pub(crate) offline_after: Option<Ticket>,
    /// Every child that is not released, for those who ask what a css waits for.
    pub(crate) children: BTreeMap<CssId, WeakCss>,
    /// Somebody waits for it to go offline and is to be told.
    pub(crate) awaited: bool,
}

/// One controller on one cgroup, or a cgroup's *self*.
pub struct Css {
    pub(crate) id: CssId,
    /// `None` for *self*.
    pub(crate) ss: Option<SsBinding>,
    pub(crate) parent: Option<CssRef>,
    pub(crate) refs: KillRef,
    flags: AtomicU32,
    /// How often its files have been made. Written under the tree lock.
    shows: AtomicU32,
    /// Populated css_sets whose effective css this is. Written under the set
    /// lock; read by the killer with the fence of `barrier.rs`.
    pub(crate) nr_populated_csets: AtomicUsize,
    /// Child csses that are populated, dying ones included. Likewise.
    pub(crate) nr_populated_children: AtomicUsize,
    /// Live descendant csses. Written under the tree lock; read by `stat`.
    pub(crate) nr_descendants: AtomicUsize,
    pub(crate) tree: Ranked<Tree, CssTree>,
}

/// Which controller a css belongs to, and the cgroup it keeps alive.
pub(crate) struct SsBinding {
    pub(crate) ssid: usize,
    pub(crate) controller: Arc<dyn Controller>,
    pub(crate) state: CssState,
    /// A cycle until the css goes offline and leaves the cgroup's slot.
    pub(crate) cgroup: Arc<Cgroup>,
}

impl Css {
    pub(crate) fn new(
        tree: &RankLock<Tree>,
        id: CssId,
        ss: Option<SsBinding>,
        parent: Option<CssRef>,
        now: Time,
    ) -> Self {
        Self {
            id,
            ss,
            parent,
            refs: KillRef::new(),
            flags: AtomicU32::new(0),
            shows: AtomicU32::new(0),
            nr_populated_csets: AtomicUsize::new(0),
            nr_populated_children: AtomicUsize::new(0),
            nr_descendants: AtomicUsize::new(0),
            tree: tree.cell(CssTree {
                phase: Phase::Online,
                since: now,
                online_cnt: 0,
                offline_after: None,
                children: BTreeMap::new(),
                awaited: false,
            }),
        }
    }

    /// Its name among all csses of the hierarchy.
    #[must_use]
    pub fn id(&self) -> CssId {
        self.id
    }

    /// Its controller's name; `None` for *self*.
    #[must_use]
    pub fn controller(&self) -> Option<&'static str> {
        self.ss.as_ref().map(|ss| ss.controller.name())
    }

    /// The controller's state, if it is a `T`.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.ss.as_ref()?.state.downcast_ref()
    }

    /// The controller's state as a shared pointer, if it is a `T`.
    #[must_use]
    pub fn state_arc<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.ss.as_ref()?.state).downcast().ok()
    }

    /// Whether the css is being torn down. The question to ask before using a
    /// css that was looked up: a reference can still be had while it is dying
    /// and its tasks drain (`css_is_dying`).
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.has(Flags::DYING)
    }

    /// Whether `css_online` succeeded and `css_offline` has not run.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.has(Flags::ONLINE)
    }

    /// Whether its interface files exist: the controller was asked for, here or
    /// by being implicit, and is not being switched off (`css_visible`).
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.has(Flags::VISIBLE) && !self.is_dying()
    }

    /// How often its interface files have been made: the files of another count
    /// are other files, though of the same names.
    #[must_use]
    pub fn shows(&self) -> u32 {
        self.shows.load(Ordering::Relaxed)
    }

    /// Whether any task that is not dead pins this css or one below it.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        // Two loads: a dying css only loses population, and one that is not
        // dying has no one who would act on a torn answer.
        self.nr_populated_csets.load(Ordering::Relaxed) != 0
            || self.nr_populated_children.load(Ordering::Relaxed) != 0
    }

    /// Takes a reference unless the css's count has been killed.
    /// Fails for good by the time `css_offline` runs (`css_tryget_online`).
    #[must_use]
    #[inline]
    pub fn try_get_online(&self, reader: &Reader) -> bool {
        self.refs.try_get_online(reader)
    }

    /// Takes a reference unless there is none left (`css_tryget`).
    #[must_use]
    #[inline]
    pub fn try_get(&self, reader: &Reader) -> bool {
        self.refs.try_get(reader)
    }

    /// Another reference for one who already holds one (`css_get`).
    pub(crate) fn get(&self) {
        self.refs.get();
    }

    #[inline]
    pub(crate) fn has(&self, flag: Flags) -> bool {
        self.flags.load(Ordering::Relaxed) & flag.bits() != 0
    }

    /// Tree lock held by the caller.
    pub(crate) fn set(&self, flag: Flags) {
        if flag.contains(Flags::VISIBLE) && !self.has(Flags::VISIBLE) {
            self.shows.fetch_add(1, Ordering::Relaxed);
        }
        self.flags.fetch_or(flag.bits(), Ordering::Relaxed);
    }

    /// Tree lock held by the caller.
    pub(crate) fn clear(&self, flag: Flags) {
        self.flags.fetch_and(!flag.bits(), Ordering::Relaxed);
    }

    /// The csses above this one, nearest first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &CssRef> {
        core::iter::successors(self.parent.as_ref(), |css| css.parent.as_ref())
    }
}

impl Css {
    /// Takes the css above out of one that is being dropped. For a controller's
    /// css it is returned; a *self* css gives up its cgroup's parent, whom the
    /// cgroup holds too.
    pub(crate) fn take_parent(&mut self) -> Option<Arc<Self>> {
        match self.parent.take()? {
            CssRef::Of(parent) => Some(parent),
            CssRef::SelfOf(_) => None,
        }
    }
}

impl Drop for Css {
    fn drop(&mut self) {
        drop_upwards(self.take_parent(), Self::take_parent);
    }
}

impl fmt::Debug for Css {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Css")
            .field("id", &self.id)
            .field("controller", &self.controller().unwrap_or("self"))
            .field("flags", &Flags::from_bits_retain(self.flags.load(Ordering::Relaxed)))
            .finish_non_exhaustive()
    }
}

/// A shared pointer to a css of either kind. It keeps the memory, not the
/// count: see [`Css::try_get`].
#[derive(Clone)]
pub enum CssRef {
    /// The *self* css, which lives inside its cgroup.
    SelfOf(Arc<Cgroup>),
    /// A controller's css.
    Of(Arc<Css>),
}

impl CssRef {
    pub(crate) fn downgrade(&self) -> WeakCss {
        match self {
            Self::SelfOf(cgroup) => WeakCss::SelfOf(Arc::downgrade(cgroup)),
            Self::Of(css) => WeakCss::Of(Arc::downgrade(css)),
        }
    }

    /// The cgroup that the css belongs to.
    #[must_use]
    pub fn cgroup(&self) -> &Arc<Cgroup> {
        match self {
            Self::SelfOf(cgroup) => cgroup,
            // A css without a binding is a *self*, and those are `SelfOf`.
            Self::Of(css) => match &css.ss {
                Some(ss) => &ss.cgroup,
                None => unreachable!("a self css outside its cgroup"),
            },
        }
    }
}

impl Deref for CssRef {
    type Target = Css;
    #[inline]
    fn deref(&self) -> &Css {
        match self {
            Self::SelfOf(cgroup) => &cgroup.self_css,
            Self::Of(css) => css,
        }
    }
}

impl fmt::Debug for CssRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A [`CssRef`] that does not keep the memory.
#[derive(Clone, Debug)]
pub(crate) enum WeakCss {
    SelfOf(Weak<Cgroup>),
    Of(Weak<Css>),
}

impl WeakCss {
    pub(crate) fn upgrade(&self) -> Option<CssRef> {
        match self {
            Self::SelfOf(cgroup) => cgroup.upgrade().map(CssRef::SelfOf),
            Self::Of(css) => css.upgrade().map(CssRef::Of),
        }
    }
}
