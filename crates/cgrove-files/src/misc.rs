//! `misc.*`: a line per resource.

use crate::core_files::Done;
use crate::parse::{kstrtoull, split_word, strstrip};
use crate::print::keyed;
use crate::table::{FileDef, Place, Reading, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use cgrove_core::controller::misc::{Misc, MiscCss};
use cgrove_core::{Cgroup, Effects, Errno, Limit};
use core::str;

pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("misc.max").on(Place::NotRoot).read(read_max).write(write_max),
        FileDef::new("misc.current").read(read_current),
        FileDef::new("misc.peak").read(read_peak),
        FileDef::new("misc.capacity").on(Place::RootOnly).read(read_capacity),
        FileDef::new("misc.events").on(Place::NotRoot).notifies().read(read_events),
        FileDef::new("misc.events.local").on(Place::NotRoot).notifies().read(read_events_local),
    ];
    Table { owner: Some(Misc::NAME), files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<MiscCss>, Errno> {
    Misc::css(cgroup).ok_or(Errno::ENODEV)
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    css(cx.cgroup)?.max().iter().for_each(|(name, max)| keyed(out, name, max));
    Ok(())
}

/// `NAME NUMBER|max`. The name is judged before the number, and the number
/// before whether the resource is there.
fn write_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    let (name, number) = split_word(strstrip(cx.text));
    let number = number.ok_or(Errno::EINVAL)?;
    let name = str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
    css.check_name(name)?;
    let max = match number {
        b"max" => Limit::Max,
        number => Limit::N(kstrtoull(number)?),
    };
    css.set_max(name, max)?;
    Ok(None)
}

fn read_current(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    css(cx.cgroup)?.current().iter().for_each(|(name, usage)| keyed(out, name, usage));
    Ok(())
}

fn read_peak(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    css(cx.cgroup)?.peak().iter().for_each(|(name, peak)| keyed(out, name, peak));
    Ok(())
}

fn read_capacity(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    css(cx.cgroup)?.capacity().iter().for_each(|(name, most)| keyed(out, name, most));
    Ok(())
}

fn read_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    for (name, count) in css(cx.cgroup)?.events() {
        keyed(out, format_args!("{name}.max"), count);
    }
    Ok(())
}

fn read_events_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    for (name, count) in css(cx.cgroup)?.events_local() {
        keyed(out, format_args!("{name}.max"), count);
    }
    Ok(())
}
