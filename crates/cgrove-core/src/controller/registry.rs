//! Which controllers a hierarchy has, in Linux's order.
//!
//! The order of controllers is visible: it is that of `cgroup.controllers`,
//! and the one in which they are asked about a fork or a move, so that the
//! first to refuse decides the error. Linux's is fixed when it is built. Here
//! an embedder takes what it can enforce, leaves out the rest (a controller
//! that is listed and does nothing deceives whoever relies on it) and adds
//! controllers of its own behind Linux's.

use super::Controller;
use super::cpu::Cpu;
use super::cpuset::Cpuset;
use super::hugetlb::{HugePageSize, Hugetlb};
use super::id_mask::IdMask;
use super::io::Io;
use super::memory::Memory;
use super::misc::Misc;
use super::pids::Pids;
use super::rdma::Rdma;
use crate::hierarchy::{Builder, Hierarchy};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

/// The names of the controllers of this crate, in Linux's order.
pub const LINUX_ORDER: [&str; 8] = [
    Cpuset::NAME,
    Cpu::NAME,
    Io::NAME,
    Memory::NAME,
    Hugetlb::NAME,
    "pids",
    Rdma::NAME,
    Misc::NAME,
];

/// One of each controller of this crate. The fields stay usable as handles
/// after the hierarchy is built, to add devices and the like; replace them
/// before for other options.
#[derive(Clone, Debug)]
pub struct Standard {
    /// CPUs and memory nodes.
    pub cpuset: Cpuset,
    /// CPU time.
    pub cpu: Cpu,
    /// Block devices; none yet.
    pub io: Io,
    /// Memory and swap.
    pub memory: Memory,
    /// Huge pages.
    pub hugetlb: Hugetlb,
    /// Tasks.
    pub pids: Pids,
    /// RDMA devices; none yet.
    pub rdma: Rdma,
    /// Other resources; none.
    pub misc: Misc,
}

impl Standard {
    /// For a machine with these CPUs, memory nodes and sizes of huge pages.
    #[must_use]
    pub fn new(cpus: IdMask, mems: IdMask, huge_pages: &[HugePageSize]) -> Self {
        Self {
            cpuset: Cpuset::new(cpus, mems),
            cpu: Cpu,
            io: Io::new(),
            memory: Memory::new(),
            hugetlb: Hugetlb::new(huge_pages),
            pids: Pids::new(),
            rdma: Rdma::new(),
            misc: Misc::new(&[]),
        }
    }

    /// All of them.
    #[must_use]
    pub fn registry(&self) -> Registry {
        Registry::new()
            .with(self.cpuset.clone())
            .with(self.cpu)
            .with(self.io.clone())
            .with(self.memory)
            .with(self.hugetlb.clone())
            .with(self.pids)
            .with(self.rdma.clone())
            .with(self.misc.clone())
    }
}

/// Controllers for a hierarchy to be.
///
/// ```
/// use cgrove_core::controller::id_mask::IdMask;
/// use cgrove_core::controller::registry::Standard;
/// use cgrove_core::Time;
///
/// let standard = Standard::new(IdMask::first(4), IdMask::first(1), &[]);
/// let registry = standard.registry().without("rdma").without("misc").without("hugetlb");
/// assert_eq!(registry.names(), ["cpuset", "cpu", "io", "memory", "pids"]);
/// let hierarchy = registry.builder().build(Time(0));
/// # drop(hierarchy);
/// ```
#[derive(Default)]
pub struct Registry {
    controllers: Vec<Arc<dyn Controller>>,
    /// The `io` among them, if it is this crate's.
    io: Option<Io>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Registry {
    /// With no controllers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a controller: one of Linux's names in Linux's place, any other
    /// behind all that are there. It takes the place of one of its name.
    #[must_use]
    pub fn with<C: Controller>(mut self, controller: C) -> Self {
        let name = controller.name();
        if name == Io::NAME {
            self.io = (&controller as &dyn Any).downcast_ref::<Io>().cloned();
        }
        let rank = |name| LINUX_ORDER.iter().position(|known| *known == name);
        let controller: Arc<dyn Controller> = Arc::new(controller);
        if let Some(old) = self.controllers.iter_mut().find(|old| old.name() == name) {
            *old = controller;
            return self;
        }
        let end = self.controllers.len();
        let at = rank(name).map_or(end, |new| {
            // Those that Linux does not know rank behind all it knows.
            let behind = |c: &Arc<dyn Controller>| rank(c.name()).is_none_or(|old| old > new);
            self.controllers.iter().position(behind).unwrap_or(end)
        });
        self.controllers.insert(at, controller);
        self
    }

    /// Leaves the controller of a name out, if it is there.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.controllers.retain(|controller| controller.name() != name);
        if name == Io::NAME {
            self.io = None;
        }
        self
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.controllers.iter().map(|controller| controller.name()).collect()
    }

    /// Hands the controllers to a hierarchy. This crate's `io` does without
    /// `memory` where that is left out.
    #[must_use]
    pub fn builder(mut self) -> Builder {
        if !self.names().contains(&Memory::NAME)
            && let Some(io) = self.io.take()
        {
            self = self.with(io.without_memory());
        }
        self.controllers.into_iter().fold(Hierarchy::builder(), Builder::controller)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::controller::{CssState, Hooks, NewCss};
    use crate::errno::Errno;
    use crate::id::Time;

    struct Own(&'static str);

    impl Controller for Own {
        fn name(&self) -> &'static str {
            self.0
        }
        fn hooks(&self) -> Hooks {
            Hooks::empty()
        }
        fn css_alloc(&self, _new: NewCss<'_>) -> Result<CssState, Errno> {
            Ok(Arc::new(()))
        }
    }

    fn standard() -> Standard {
        Standard::new(IdMask::first(2), IdMask::first(1), &[HugePageSize::MB2])
    }

    #[test]
    fn the_standard_set_is_in_linuxs_order_however_it_is_put_together() {
        assert_eq!(standard().registry().names(), LINUX_ORDER);
        assert_eq!(Registry::new().names(), [""; 0]);
        let registry = Registry::new()
            .with(Own("first"))
            .with(Misc::new(&[]))
            .with(Own("second"))
            .with(Memory::new())
            .with(Cpu);
        assert_eq!(registry.names(), ["cpu", "memory", "misc", "first", "second"]);
        let registry = registry.with(Own("misc")).with(Own("first")).without("cpu").without("none");
        assert_eq!(registry.names(), ["memory", "misc", "first", "second"]);
    }

    #[test]
    fn the_hierarchy_has_them_in_that_order() {
        let h = standard().registry().with(Own("mine")).builder().build(Time(0));
        let names: Vec<_> = h.names(h.bound()).collect();
        assert_eq!(names[..8], LINUX_ORDER);
        assert_eq!(names[8..], ["mine"]);
    }

    #[test]
    fn io_brings_memory_along_only_where_there_is_one() {
        let without = standard().registry().without("memory").builder().build(Time(0));
        assert!(without.names(without.bound()).all(|name| name != "memory"));
        let replaced = standard().registry().with(Own("io")).without("memory").builder();
        let replaced = replaced.build(Time(0));
        assert_eq!(replaced.names(replaced.bound()).count(), 7);
    }

    #[test]
    fn threaded_are_those_that_are_in_linux() {
        let registry = standard().registry();
        let threaded = registry.controllers.iter().filter(|c| c.threaded());
        assert_eq!(threaded.map(|c| c.name()).collect::<Vec<_>>(), ["cpuset", "cpu", "pids"]);
        assert!(registry.controllers.iter().all(|c| !c.implicit()));
        let needy = registry.controllers.iter().filter(|c| !c.depends_on().is_empty());
        assert_eq!(needy.map(|c| c.name()).collect::<Vec<_>>(), ["io"]);
    }
}
