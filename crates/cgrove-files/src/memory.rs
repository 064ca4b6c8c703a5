//! `memory.*`, swap included.
//!
//! Not built: zswap. `memory.stat` and `memory.numa_stat` are the embedder's:
//! see `figures.rs`.

use crate::core_files::Done;
use crate::parse::{bytes_or_max, kstrtoint, match_int, memparse, strstrip, words};
use crate::print::{keyed, value};
use crate::table::{FileDef, Place, Reading, Rest, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use cgrove_core::controller::memory::{Memory, MemoryCss, MemoryEvent, Resource, Swappiness};
use cgrove_core::{Cgroup, Effects, Errno};

pub(crate) fn table() -> Table {
    const fn limit(name: &'static str) -> FileDef {
        FileDef::new(name).on(Place::NotRoot)
    }
    let (memory, swap) = (Resource::Memory as usize, Resource::Swap as usize);
    let files = alloc::vec![
        limit("memory.current").read(read_current).tag(memory),
        limit("memory.peak").read(read_peak).write(write_peak).tag(memory),
        limit("memory.min").read(read_min).write(write_min),
        limit("memory.low").read(read_low).write(write_low),
        limit("memory.high").read(read_high).write(write_high),
        limit("memory.max").read(read_max).write(write_max),
        limit("memory.events").notifies().read(read_events),
        limit("memory.events.local").notifies().read(read_events_local),
        limit("memory.oom.group").delegatable().read(read_oom_group).write(write_oom_group),
        FileDef::new("memory.reclaim").delegatable().write(write_reclaim),
        limit("memory.swap.current").read(read_current).tag(swap),
        limit("memory.swap.high").read(read_swap_high).write(write_swap_high),
        limit("memory.swap.max").read(read_swap_max).write(write_swap_max),
        limit("memory.swap.peak").read(read_peak).write(write_peak).tag(swap),
        limit("memory.swap.events").notifies().read(read_swap_events),
    ];
    Table { owner: Some(Memory::NAME), files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<MemoryCss>, Errno> {
    Memory::css(cgroup).ok_or(Errno::ENODEV)
}

fn resource(tag: usize) -> Resource {
    if tag == Resource::Swap as usize { Resource::Swap } else { Resource::Memory }
}

fn read_current(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let css = css(cx.cgroup)?;
    match resource(cx.tag) {
        Resource::Memory => value(out, css.current()),
        Resource::Swap => value(out, css.swap_current()),
    }
    Ok(())
}

fn read_peak(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let css = css(cx.cgroup)?;
    let peak = cx.open.peak.get_or_insert_with(|| css.open_peak(resource(cx.tag)));
    value(out, peak.read());
    Ok(())
}

/// Any text will do.
fn write_peak(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    cx.open.peak.get_or_insert_with(|| css.open_peak(resource(cx.tag))).reset()?;
    Ok(None)
}

macro_rules! limit {
    ($read:ident $write:ident, $get:ident $set:ident) => {
        fn $read(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
            value(out, css(cx.cgroup)?.$get());
            Ok(())
        }

        fn $write(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
            let limit = bytes_or_max(strstrip(cx.text))?;
            css(cx.cgroup)?.$set(limit)?;
            Ok(None)
        }
    };
}

limit!(read_min write_min, min set_min);
limit!(read_low write_low, low set_low);
limit!(read_swap_high write_swap_high, swap_high set_swap_high);
limit!(read_swap_max write_swap_max, swap_max set_swap_max);

fn read_high(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.high());
    Ok(())
}

fn write_high(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let limit = bytes_or_max(strstrip(cx.text))?;
    let shrink = css(cx.cgroup)?.set_high(limit)?;
    Ok((!cx.nonblock).then_some(Rest::Shrink(shrink)))
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, css(cx.cgroup)?.max());
    Ok(())
}

fn write_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let limit = bytes_or_max(strstrip(cx.text))?;
    let shrink = css(cx.cgroup)?.set_max(limit)?;
    Ok((!cx.nonblock).then_some(Rest::Shrink(shrink)))
}

fn read_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let css = css(cx.cgroup)?;
    MemoryEvent::MEMORY.iter().for_each(|event| keyed(out, event.key(), css.events(*event)));
    Ok(())
}

fn read_events_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let css = css(cx.cgroup)?;
    MemoryEvent::MEMORY.iter().for_each(|event| keyed(out, event.key(), css.events_local(*event)));
    Ok(())
}

fn read_swap_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let css = css(cx.cgroup)?;
    MemoryEvent::SWAP.iter().for_each(|event| keyed(out, event.key(), css.events(*event)));
    Ok(())
}

fn read_oom_group(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, u8::from(css(cx.cgroup)?.oom_group()));
    Ok(())
}

fn write_oom_group(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let group = kstrtoint(strstrip(cx.text))?;
    css(cx.cgroup)?.set_oom_group(group.into())?;
    Ok(None)
}

/// `BYTES [swappiness=N|max]` (`user_proactive_reclaim`). The root has the file
/// too.
fn write_reclaim(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let text = strstrip(cx.text);
    let (bytes, options) = memparse(text);
    if options.len() == text.len() {
        return Err(Errno::EINVAL.into());
    }
    let mut swappiness = Swappiness::Default;
    for option in words(strstrip(options), b" ") {
        swappiness = match option.strip_prefix(b"swappiness=") {
            Some(b"max") => Swappiness::AnonOnly,
            Some(number) => Swappiness::from_number(match_int(number)?.into())?,
            None => return Err(Errno::EINVAL.into()),
        };
    }
    let css = Memory::effective(cx.cgroup).ok_or(Errno::ENODEV)?;
    Ok(Some(Rest::Reclaim(css.reclaim(bytes, swappiness)?)))
}
