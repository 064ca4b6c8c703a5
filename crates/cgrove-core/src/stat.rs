//! `cgroup.stat`: how many cgroups and csses live and die below.

use crate::cgroup::Cgroup;
use crate::css::Css;
use crate::hierarchy::Hierarchy;
use crate::sync::Ordering;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The content of `cgroup.stat`. Counters are read one by one without a lock,
/// as in Linux, so this is not a consistent snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Live cgroups below.
    pub nr_descendants: usize,
    /// Removed cgroups below that something still refers to.
    pub nr_dying_descendants: usize,
    /// Per controller that the hierarchy has for itself, in controller order.
    pub subsys: Vec<SubsysStat>,
}

/// One controller's lines in `cgroup.stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubsysStat {
    /// The controller.
    pub name: &'static str,
    /// `nr_subsys_NAME`: live csses here and below; 0 where there is none here.
    /// One that is being switched off on a live cgroup is still here.
    pub live: usize,
    /// `nr_dying_subsys_NAME`: dying csses here and below.
    pub dying: usize,
}

impl Hierarchy {
    /// Reads `cgroup.stat`.
    #[must_use]
    pub fn stat(&self, cgroup: &Cgroup) -> Stat {
        // A root css has files as long as its controller is bound.
        let root = |css: &Option<Arc<Css>>| css.as_ref().is_some_and(|css| css.is_visible());
        let bound: Vec<bool> = self.inner.root.subsys.lock().iter().map(root).collect();
        let published = cgroup.subsys.lock();
        let controllers = self.inner.controllers.iter().enumerate();
        let subsys =
            controllers.filter(|(ssid, _)| bound[*ssid]).map(|(ssid, controller)| SubsysStat {
                name: controller.name(),
                live: published[ssid]
                    .as_ref()
                    .map_or(0, |css| css.nr_descendants.load(Ordering::Relaxed) + 1),
                dying: cgroup.nr_dying_subsys[ssid].load(Ordering::Relaxed),
            });
        Stat {
            nr_descendants: cgroup.nr_descendants.load(Ordering::Relaxed),
            nr_dying_descendants: cgroup.nr_dying_descendants.load(Ordering::Relaxed),
            subsys: subsys.collect(),
        }
    }
}
