//! `io.*`: per device, by its numbers.
//!
//! Not built: `io.cost.*`, `io.latency`, `io.prio.class`.

use crate::core_files::Done;
use crate::parse::{is_space, scan_u32, scan_u64, scan_word, skip_spaces};
use crate::print::{keyed, nested};
use crate::table::{FileDef, Place, Reading, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::controller::io::{Device, Io, IoCss, IoLimit, IoStat};
use cgrove_core::{Cgroup, Effects, Errno, Limit};
use core::fmt::Write;

pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("io.stat").read(read_stat),
        FileDef::new("io.max").on(Place::NotRoot).read(read_max).write(write_max),
        FileDef::new("io.weight").on(Place::NotRoot).read(read_weight).write(write_weight),
    ];
    Table { owner: Some(Io::NAME), files }
}

fn css(cgroup: &Cgroup) -> Result<Arc<IoCss>, Errno> {
    Io::css(cgroup).ok_or(Errno::ENODEV)
}

/// A device that did nothing has its number and a blank (`blkcg_print_one_stat`).
fn read_stat(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    for (device, stat) in css(cx.cgroup)?.stat() {
        let _ = write!(out, "{device} ");
        let IoStat { rbytes, wbytes, rios, wios, dbytes, dios } = stat;
        if rbytes != 0 || wbytes != 0 || rios != 0 || wios != 0 {
            let _ = write!(
                out,
                "rbytes={rbytes} wbytes={wbytes} rios={rios} wios={wios} dbytes={dbytes} dios={dios}"
            );
        }
        out.push('\n');
    }
    Ok(())
}

fn read_max(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    for (device, max) in css(cx.cgroup)?.max() {
        let _ = write!(out, "{device}");
        IoLimit::ALL.iter().for_each(|limit| nested(out, limit.key(), max.get(*limit)));
        out.push('\n');
    }
    Ok(())
}

/// `MAJ:MIN`, a blank, and the rest (`blkg_conf_open_bdev`), without asking
/// whether there is such a device.
fn device(text: &[u8]) -> Result<(Device, &[u8]), Errno> {
    let mut rest = text;
    let major = scan_u32(&mut rest).ok_or(Errno::EINVAL)?;
    rest = rest.strip_prefix(b":").ok_or(Errno::EINVAL)?;
    let minor = scan_u32(&mut rest).ok_or(Errno::EINVAL)?;
    if !rest.first().is_some_and(|byte| is_space(*byte)) {
        return Err(Errno::EINVAL);
    }
    // As `MKDEV` packs them: 20 bits for the minor number.
    let packed = major << 20 | minor;
    let device = Device { major: packed >> 20, minor: packed & 0xf_ffff };
    Ok((device, skip_spaces(rest)))
}

/// `KEY=NUMBER|max`.
fn limit(token: &[u8]) -> Result<(IoLimit, Limit), Errno> {
    let split = token.iter().position(|byte| *byte == b'=').ok_or(Errno::EINVAL)?;
    let (key, mut number) = (&token[..split], &token[split + 1..]);
    let limit = match scan_u64(&mut number) {
        Some(0) => return Err(Errno::ERANGE),
        Some(rate) => Limit::N(rate),
        None if &token[split + 1..] == b"max" => Limit::Max,
        None => return Err(Errno::EINVAL),
    };
    let of = IoLimit::ALL.into_iter().find(|of| of.key().as_bytes() == key);
    Ok((of.ok_or(Errno::EINVAL)?, limit))
}

/// `MAJ:MIN KEY=NUMBER …`. The device comes first: a token is not looked at for
/// one that is not there.
fn write_max(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    let (device, mut rest) = device(cx.text)?;
    css.check_device(device)?;
    let mut limits = Vec::new();
    while let Some(token) = scan_word(&mut rest, 26).filter(|token| !token.is_empty()) {
        limits.push(limit(token)?);
    }
    css.set_max(device, &limits)?;
    Ok(None)
}

fn read_weight(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let css = css(cx.cgroup)?;
    keyed(out, "default", css.default_weight());
    css.weights().iter().for_each(|(device, weight)| keyed(out, device, weight));
    Ok(())
}

/// `default NUMBER`, a number, or `MAJ:MIN NUMBER|default`.
fn write_weight(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    let css = css(cx.cgroup)?;
    if !cx.text.contains(&b':') {
        let mut rest = cx.text.strip_prefix(b"default").unwrap_or(cx.text);
        let weight = scan_u32(&mut rest).ok_or(Errno::EINVAL)?;
        css.set_default_weight(weight.into())?;
        return Ok(None);
    }
    let (device, mut rest) = device(cx.text)?;
    css.check_device(device)?;
    let weight = if rest.starts_with(b"default") {
        None
    } else {
        // A weight that is none is refused as one that is out of bounds, after
        // the device was asked whether it goes by weight.
        Some(scan_u32(&mut rest).unwrap_or(0).into())
    };
    css.set_weight(device, weight)?;
    Ok(None)
}
