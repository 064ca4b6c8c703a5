//! `cpu.*`, and `cpu.stat` and `cpu.stat.local`, which are there with the
//! controller off.
//!
//! Not built: `cpu.uclamp.*`. `cpu.stat.local` knows of no throttling by groups
//! above and reads 0.

use crate::core_files::Done;
use crate::parse::{kstrtoll, kstrtoull, scan_u64, scan_word};
use crate::print::{keyed, value};
use crate::table::{FileDef, Place, Reading, Rest, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use cgrove_core::controller::cpu::{BandwidthStat, Change, Cpu, CpuCss};
use cgrove_core::{Cgroup, CssRef, Effects, Errno, Hierarchy, Limit, Phase};

pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("cpu.weight").on(Place::NotRoot).read(read_weight).write(write_weight),
        FileDef::new("cpu.weight.nice").on(Place::NotRoot).read(read_nice).write(write_nice),
        FileDef::new("cpu.idle").on(Place::NotRoot).read(read_idle).write(write_idle),
        FileDef::new("cpu.max").on(Place::NotRoot).read(read_max).write(write_max),
        FileDef::new("cpu.max.burst").on(Place::NotRoot).read(read_burst).write(write_burst),
    ];
    Table { owner: Some(Cpu::NAME), files }
}

pub(crate) fn stat_table() -> Table {
    let files = alloc::vec![
        FileDef::new("cpu.stat").read(read_stat),
        FileDef::new("cpu.stat.local").read(read_stat_local),
    ];
    Table { owner: None, files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<CpuCss>, Errno> {
    Cpu::css(cgroup).ok_or(Errno::ENODEV)
}

fn read_weight(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.weight());
    Ok(())
}

fn write_weight(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    css(cx.cgroup)?.set_weight(kstrtoull(cx.text)?)?;
    Ok(None)
}

fn read_nice(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.weight_nice());
    Ok(())
}

fn write_nice(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    css(cx.cgroup)?.set_weight_nice(kstrtoll(cx.text)?)?;
    Ok(None)
}

fn read_idle(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, u8::from(css(cx.cgroup)?.idle()));
    Ok(())
}

fn write_idle(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    css(cx.cgroup)?.set_idle(kstrtoll(cx.text)?)?;
    Ok(None)
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let (quota, period) = css(cx.cgroup)?.max();
    keyed(out, quota, period);
    Ok(())
}

fn changed(css: Arc<CpuCss>, change: Change) -> Option<Rest> {
    (change != Change::None).then(|| Rest::Bandwidth(css, change))
}

/// `%20s %llu`: whatever is behind the numbers is ignored, and so is a period
/// that is none (`cpu_period_quota_parse`).
fn write_max(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    let mut text = cx.text;
    let mut quota = scan_word(&mut text, 20).ok_or(Errno::EINVAL)?;
    let period = scan_u64(&mut text);
    let is_max = quota == b"max";
    let quota = match scan_u64(&mut quota) {
        Some(usec) => Limit::N(usec),
        None if is_max => Limit::Max,
        None => return Err(Errno::EINVAL.into()),
    };
    let css = css(cx.cgroup)?;
    // What stands for no limit can be written as a number too (RUNTIME_INF).
    let quota = if quota == Limit::N(u64::MAX) { Limit::Max } else { quota };
    let change = css.set_max(quota, period, fx.now())?;
    Ok(changed(css, change))
}

fn read_burst(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.max_burst());
    Ok(())
}

fn write_burst(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    let burst = kstrtoull(cx.text)?;
    let css = css(cx.cgroup)?;
    let change = css.set_max_burst(burst, fx.now())?;
    Ok(changed(css, change))
}

/// The figures of the controller, as long as it can be referred to: one that
/// is switched off and waits for its last tasks still shows them.
fn bandwidth(hierarchy: &Hierarchy, cgroup: &Cgroup) -> Option<BandwidthStat> {
    let css = cgroup.css(Cpu::NAME)?;
    let state = css.state_arc::<CpuCss>()?;
    let css = CssRef::Of(css);
    if css.is_dying() && hierarchy.lifecycle(&css).phase > Phase::Dying {
        return None;
    }
    Some(if cgroup.parent().is_none() { BandwidthStat::default() } else { state.stat() })
}

fn read_stat(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let used = cx.cgroup.cpu_times();
    keyed(out, "usage_usec", used.usage_usec());
    keyed(out, "user_usec", used.user_usec());
    keyed(out, "system_usec", used.system_usec());
    keyed(out, "nice_usec", used.nice_usec());
    if let Some(stat) = bandwidth(cx.hierarchy(), cx.cgroup) {
        keyed(out, "nr_periods", stat.nr_periods);
        keyed(out, "nr_throttled", stat.nr_throttled);
        keyed(out, "throttled_usec", stat.throttled_usec);
        keyed(out, "nr_bursts", stat.nr_bursts);
        keyed(out, "burst_usec", stat.burst_usec);
    }
    Ok(())
}

fn read_stat_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    if bandwidth(cx.hierarchy(), cx.cgroup).is_some() {
        keyed(out, "throttled_usec", 0);
    }
    Ok(())
}
