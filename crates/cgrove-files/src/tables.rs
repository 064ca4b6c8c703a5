//! The tables of this crate, one file per owner.

use crate::table::Table;
use crate::{core_files, cpu, cpuset, hugetlb, io, memory, misc, pids, rdma};
use alloc::vec::Vec;
use cgrove_core::Hierarchy;
use cgrove_core::PidsCss;
use cgrove_core::controller::cpu::CpuCss;
use cgrove_core::controller::cpuset::CpusetCss;
use cgrove_core::controller::hugetlb::HugetlbCss;
use cgrove_core::controller::io::IoCss;
use cgrove_core::controller::memory::MemoryCss;
use cgrove_core::controller::misc::MiscCss;
use cgrove_core::controller::rdma::RdmaCss;

/// The core's files, and those of each controller that the hierarchy has, if it
/// is the one of `cgrove-core` and not another of its name.
pub(crate) fn of(hierarchy: &Hierarchy) -> Vec<Table> {
    let mut all = alloc::vec![core_files::table(), cpu::stat_table()];
    if has::<CpusetCss>(hierarchy, "cpuset") {
        all.push(cpuset::table());
    }
    if has::<CpuCss>(hierarchy, "cpu") {
        all.push(cpu::table());
    }
    if has::<IoCss>(hierarchy, "io") {
        all.push(io::table());
    }
    if has::<MemoryCss>(hierarchy, "memory") {
        all.push(memory::table());
    }
    let root = hierarchy.root().css("hugetlb");
    if let Some(hugetlb) = root.as_ref().and_then(|css| css.state::<HugetlbCss>()) {
        all.push(hugetlb::table(hugetlb));
    }
    if has::<PidsCss>(hierarchy, "pids") {
        all.push(pids::table());
    }
    if has::<RdmaCss>(hierarchy, "rdma") {
        all.push(rdma::table());
    }
    if has::<MiscCss>(hierarchy, "misc") {
        all.push(misc::table());
    }
    all
}

fn has<T: Send + Sync + 'static>(hierarchy: &Hierarchy, controller: &str) -> bool {
    hierarchy.root().css(controller).is_some_and(|css| css.state::<T>().is_some())
}
