//! `rdma.*`: a line per device.

use crate::core_files::Done;
use crate::parse::{match_int, split_word, strstrip, words};
use crate::table::{FileDef, Place, Reading, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::controller::rdma::{Rdma, RdmaCounts, RdmaCss, RdmaResource};
use cgrove_core::{Cgroup, Effects, Errno, Limit};
use core::fmt::Write;
use core::str;

pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("rdma.max").on(Place::NotRoot).read(read_max).write(write_max),
        FileDef::new("rdma.current").on(Place::NotRoot).read(read_current),
        FileDef::new("rdma.peak").on(Place::NotRoot).read(read_peak),
        FileDef::new("rdma.events").on(Place::NotRoot).notifies().read(read_events),
        FileDef::new("rdma.events.local").on(Place::NotRoot).notifies().read(read_events_local),
    ];
    Table { owner: Some(Rdma::NAME), files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<RdmaCss>, Errno> {
    Rdma::css(cgroup).ok_or(Errno::ENODEV)
}

/// `max` stands for the largest number, in every file (`S32_MAX`).
fn print_counts(
    cx: &Reading<'_>,
    out: &mut String,
    count: fn(&RdmaCounts) -> Limit,
) -> Result<(), Errno> {
    const MAX: u64 = i32::MAX as u64;
    for (device, counts) in css(cx.cgroup)?.lines() {
        let _ = write!(out, "{device} ");
        for (resource, counts) in RdmaResource::ALL.iter().zip(&counts) {
            let count = match count(counts) {
                Limit::N(MAX) => Limit::Max,
                count => count,
            };
            // With a blank behind the last one too.
            let _ = write!(out, "{}={count} ", resource.key());
        }
        out.push('\n');
    }
    Ok(())
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_counts(cx, out, |counts| counts.max)
}

fn read_current(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_counts(cx, out, |counts| Limit::N(counts.current))
}

fn read_peak(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_counts(cx, out, |counts| Limit::N(counts.peak))
}

fn print_events(
    cx: &Reading<'_>,
    out: &mut String,
    counts_of: fn(&RdmaCounts) -> (u64, u64),
) -> Result<(), Errno> {
    for (device, counts) in css(cx.cgroup)?.lines() {
        out.push_str(&device);
        for (resource, counts) in RdmaResource::ALL.iter().zip(&counts) {
            let (max, alloc_fail) = counts_of(counts);
            let key = resource.key();
            let _ = write!(out, " {key}.max={max} {key}.alloc_fail={alloc_fail}");
        }
        out.push('\n');
    }
    Ok(())
}

fn read_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_events(cx, out, |counts| (counts.events_max, counts.events_alloc_fail))
}

fn read_events_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_events(cx, out, |counts| (counts.local_max, counts.local_alloc_fail))
}

/// `KEY=NUMBER|max`.
fn limit(token: &[u8]) -> Result<(RdmaResource, Limit), Errno> {
    for resource in RdmaResource::ALL {
        let value = token.strip_prefix(resource.key().as_bytes());
        match value.and_then(|value| value.strip_prefix(b"=")) {
            Some(b"max") => return Ok((resource, Limit::Max)),
            Some(number) => {
                let number = u64::try_from(match_int(number)?).map_err(|_| Errno::EINVAL)?;
                return Ok((resource, Limit::N(number)));
            }
            None => {}
        }
    }
    Err(Errno::EINVAL)
}

/// `DEVICE KEY=NUMBER|max …`. All tokens are read before the device is looked
/// for.
fn write_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    let (device, tokens) = split_word(strstrip(cx.text));
    let tokens = words(tokens.unwrap_or_default(), b" \t\n");
    let limits = tokens.map(limit).collect::<Result<Vec<_>, _>>()?;
    // A name that is no text is the name of no device.
    css.set_max(str::from_utf8(device).map_err(|_| Errno::ENODEV)?, &limits)?;
    Ok(None)
}
