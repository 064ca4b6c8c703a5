//! `hugetlb.SIZE.*`, for each size of huge pages there is.

use crate::core_files::Done;
use crate::parse::{bytes_or_max, strstrip};
use crate::print::{keyed, value};
use crate::table::{FileDef, Place, Read, Reading, Table, Write, Writing};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::controller::hugetlb::{HugeCharge, HugePageSize, Hugetlb, HugetlbCss};
use cgrove_core::{Cgroup, Effects, Errno};

/// Names behind the size, in the order of `hugetlb_dfl_tmpl`.
const FILES: [(&str, Read, Option<Write>); 7] = [
    ("max", read_max, Some(write_max)),
    ("rsvd.max", read_reserved_max, Some(write_reserved_max)),
    ("current", read_current, None),
    ("rsvd.current", read_reserved, None),
    ("events", read_events, None),
    ("events.local", read_events_local, None),
    ("numa_stat", read_numa_stat, None),
];

/// The tag of a file is which of the sizes it is about.
pub(crate) fn table(root: &HugetlbCss) -> Table {
    let mut files = Vec::new();
    for (index, size) in root.sizes().enumerate() {
        for (name, read, write) in FILES {
            let mut def = FileDef::new("").on(Place::NotRoot).read(read).tag(index);
            def.name = format!("hugetlb.{}.{name}", size.label()).into();
            def.write = write;
            def.notifies = name.starts_with("events");
            files.push(def);
        }
    }
    Table { owner: Some(Hugetlb::NAME), files }
}

fn css(cgroup: &Cgroup, tag: usize) -> Result<(Arc<HugetlbCss>, HugePageSize), Errno> {
    let css = Hugetlb::css(cgroup).ok_or(Errno::ENODEV)?;
    let size = css.sizes().nth(tag).ok_or(Errno::ENODEV)?;
    Ok((css, size))
}

fn print_max(cx: &Reading<'_>, charge: HugeCharge, out: &mut String) -> Result<(), Errno> {
    let (css, size) = css(cx.cgroup, cx.tag)?;
    value(out, css.max(size, charge));
    Ok(())
}

fn set_max(cx: &Writing<'_>, charge: HugeCharge) -> Done {
    let limit = bytes_or_max(strstrip(cx.text))?;
    let (css, size) = css(cx.cgroup, cx.tag)?;
    css.set_max(size, charge, limit)?;
    Ok(None)
}

fn print_current(cx: &Reading<'_>, charge: HugeCharge, out: &mut String) -> Result<(), Errno> {
    let (css, size) = css(cx.cgroup, cx.tag)?;
    value(out, css.current(size, charge));
    Ok(())
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_max(cx, HugeCharge::Fault, out)
}

fn read_reserved_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_max(cx, HugeCharge::Reservation, out)
}

fn write_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    set_max(cx, HugeCharge::Fault)
}

fn write_reserved_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    set_max(cx, HugeCharge::Reservation)
}

fn read_current(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_current(cx, HugeCharge::Fault, out)
}

fn read_reserved(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_current(cx, HugeCharge::Reservation, out)
}

fn read_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let (css, size) = css(cx.cgroup, cx.tag)?;
    keyed(out, "max", css.events(size));
    Ok(())
}

fn read_events_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let (css, size) = css(cx.cgroup, cx.tag)?;
    keyed(out, "max", css.events_local(size));
    Ok(())
}

/// All pages are said to be on node 0: the ledger knows of no others.
fn read_numa_stat(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let (css, size) = css(cx.cgroup, cx.tag)?;
    let bytes = css.current(size, HugeCharge::Fault);
    value(out, format_args!("total={bytes} N0={bytes}"));
    Ok(())
}
