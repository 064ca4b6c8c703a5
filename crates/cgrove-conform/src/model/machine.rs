//! The machine that the core stands in for: the one that the transcripts were recorded on.

use std::sync::Arc;

use cgrove_core::controller::hugetlb::HugePageSize;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::registry::Standard;
use cgrove_core::{Controller, CssState, Errno, Hierarchy, Hooks, NewCss, Time};
use cgrove_files::MountOptions;

/// Linux's implicit controller: it is everywhere, cannot be switched and has no files. It is not
/// cgrove's, but what it does to others is seen in `cgroup.stat`.
struct PerfEvent;

impl Controller for PerfEvent {
    fn name(&self) -> &'static str {
        "perf_event"
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn threaded(&self) -> bool {
        true
    }

    fn implicit(&self) -> bool {
        true
    }

    fn css_alloc(&self, _new: NewCss<'_>) -> Result<CssState, Errno> {
        Ok(Arc::new(()))
    }
}

/// The machine that the transcripts were recorded on: two CPUs, one node, huge pages of 2 MiB. In
/// Linux's order.
pub(super) fn build(options: MountOptions, now: Time) -> Hierarchy {
    let mut with = Standard::new(IdMask::first(2), IdMask::first(1), &[HugePageSize::MB2]);
    options.apply(&mut with);
    Hierarchy::builder()
        .controller(Arc::new(with.cpuset))
        .controller(Arc::new(with.cpu))
        .controller(Arc::new(with.io))
        .controller(Arc::new(with.memory))
        .controller(Arc::new(PerfEvent))
        .controller(Arc::new(with.hugetlb))
        .controller(Arc::new(with.pids))
        .controller(Arc::new(with.rdma))
        .controller(Arc::new(with.misc))
        .build(now)
}
