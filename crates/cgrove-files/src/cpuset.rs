//! `cpuset.*`, without partitions: `cpuset.cpus.partition` and
//! `cpuset.cpus.isolated` are not built.

use crate::core_files::Done;
use crate::parse::{id_list, strstrip};
use crate::print::value;
use crate::table::{FileDef, Place, Reading, Rest, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::controller::cpuset::{Cpuset, CpusetCss, MAX_NODES};
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::{Cgroup, Effects, Errno};

/// Writes of CPUs are bounded by the most CPUs a kernel is built for
/// (`NR_CPUS`; 8192 in Debian's) and not by a page.
const MAX_CPUS_WRITE: usize = 100 + 6 * 8192;
/// Likewise for nodes (`MAX_NUMNODES`).
const MAX_NODES_WRITE: usize = 100 + 6 * MAX_NODES as usize;

pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("cpuset.cpus")
            .on(Place::NotRoot)
            .max_write(MAX_CPUS_WRITE)
            .read(read_cpus)
            .write(write_cpus),
        FileDef::new("cpuset.mems")
            .on(Place::NotRoot)
            .max_write(MAX_NODES_WRITE)
            .read(read_mems)
            .write(write_mems),
        FileDef::new("cpuset.cpus.effective").read(read_effective_cpus),
        FileDef::new("cpuset.mems.effective").read(read_effective_mems),
        FileDef::new("cpuset.cpus.exclusive")
            .on(Place::NotRoot)
            .max_write(MAX_CPUS_WRITE)
            .read(read_exclusive)
            .write(write_exclusive),
        FileDef::new("cpuset.cpus.exclusive.effective")
            .on(Place::NotRoot)
            .read(read_effective_exclusive),
    ];
    Table { owner: Some(Cpuset::NAME), files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<CpusetCss>, Errno> {
    Cpuset::css(cgroup).ok_or(Errno::ENODEV)
}

fn read(cx: &Reading<'_>, out: &mut String, which: fn(&CpusetCss) -> IdMask) -> Result<(), Errno> {
    value(out, which(&*css(cx.cgroup)?));
    Ok(())
}

fn read_cpus(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    read(cx, out, CpusetCss::cpus)
}

fn read_mems(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    read(cx, out, CpusetCss::mems)
}

fn read_effective_cpus(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    read(cx, out, CpusetCss::effective_cpus)
}

fn read_effective_mems(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    read(cx, out, CpusetCss::effective_mems)
}

fn read_exclusive(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    read(cx, out, CpusetCss::exclusive_cpus)
}

fn read_effective_exclusive(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    read(cx, out, CpusetCss::effective_exclusive_cpus)
}

fn concerned(cpusets: Vec<Arc<CpusetCss>>) -> Option<Rest> {
    (!cpusets.is_empty()).then_some(Rest::Cpus(cpusets))
}

fn write_cpus(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    let cpus = id_list(strstrip(cx.text), css.nr_cpu_ids())?;
    Ok(concerned(css.set_cpus(cpus)?))
}

fn write_mems(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    let mems = id_list(strstrip(cx.text), MAX_NODES)?;
    Ok(concerned(css.set_mems(mems)?))
}

fn write_exclusive(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    let cpus = id_list(strstrip(cx.text), css.nr_cpu_ids())?;
    css.set_exclusive_cpus(cpus)?;
    Ok(None)
}
