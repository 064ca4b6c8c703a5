//! `pids.*`.

use crate::core_files::Done;
use crate::parse::{kstrtoll, strstrip};
use crate::print::{keyed, value};
use crate::table::{FileDef, Place, Reading, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use cgrove_core::{Cgroup, Effects, Errno, Limit, Pids, PidsCss};

pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("pids.max").on(Place::NotRoot).read(read_max).write(write_max),
        FileDef::new("pids.current").on(Place::NotRoot).read(read_current),
        FileDef::new("pids.peak").on(Place::NotRoot).read(read_peak),
        FileDef::new("pids.events").on(Place::NotRoot).notifies().read(read_events),
        FileDef::new("pids.events.local").on(Place::NotRoot).notifies().read(read_events_local),
    ];
    Table { owner: Some("pids"), files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<PidsCss>, Errno> {
    Pids::css(cgroup).ok_or(Errno::ENODEV)
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.max());
    Ok(())
}

/// A negative number and one above the largest are EINVAL, where most limits
/// say ERANGE.
fn write_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let limit = match strstrip(cx.text) {
        b"max" => Limit::Max,
        number => Limit::N(u64::try_from(kstrtoll(number)?).map_err(|_| Errno::EINVAL)?),
    };
    css(cx.cgroup)?.set_max(limit)?;
    Ok(None)
}

fn read_current(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.current());
    Ok(())
}

fn read_peak(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.peak());
    Ok(())
}

fn read_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    keyed(out, "max", css(cx.cgroup)?.events());
    Ok(())
}

fn read_events_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    keyed(out, "max", css(cx.cgroup)?.events_local());
    Ok(())
}
