//! The core's own files: `cgroup.*`.
//!
//! Which of two refusals comes first is part of the interface: most files read
//! their text before they look at the cgroup, and so do these.

use crate::mutant::{Mutant, broken};
use crate::parse::{kstrtoint, strstrip, words};
use crate::print::{keyed, value};
use crate::table::{FileDef, Place, Reading, Rest, Table, Writing};
use alloc::string::String;
use alloc::sync::Arc;
use cgrove_core::{Cgroup, Effects, Errno, Hierarchy, Opener, Scope, SsMask, Task, WriteError};
use core::str;

/// What a write comes to that leaves nothing to do.
pub(crate) type Done = Result<Option<Rest>, WriteError>;

/// `cgroup_base_files`, but for pressure, which is not built.
pub(crate) fn table() -> Table {
    let files = alloc::vec![
        FileDef::new("cgroup.type").on(Place::NotRoot).read(read_type).write(write_type),
        FileDef::new("cgroup.procs").delegatable().list().read(read_procs).write(write_procs),
        FileDef::new("cgroup.threads").delegatable().list().read(read_threads).write(write_threads),
        FileDef::new("cgroup.controllers").read(read_controllers),
        FileDef::new("cgroup.subtree_control")
            .delegatable()
            .read(read_subtree_control)
            .write(write_subtree_control),
        FileDef::new("cgroup.events").on(Place::NotRoot).notifies().read(read_events),
        FileDef::new("cgroup.max.descendants").read(read_descendants).write(write_descendants),
        FileDef::new("cgroup.max.depth").read(read_depth).write(write_depth),
        FileDef::new("cgroup.stat").read(read_stat),
        FileDef::new("cgroup.stat.local").on(Place::NotRoot).read(read_stat_local),
        FileDef::new("cgroup.freeze").on(Place::NotRoot).read(read_freeze).write(write_freeze),
        FileDef::new("cgroup.kill").on(Place::NotRoot).write(write_kill),
    ];
    Table { owner: None, files }
}

fn read_type(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, cx.hierarchy().cgroup_type(cx.cgroup));
    Ok(())
}

fn write_type(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    if strstrip(cx.text) != b"threaded" {
        return Err(Errno::EINVAL.into());
    }
    cx.tree.make_threaded(cx.cgroup, fx)?;
    Ok(None)
}

fn list(cx: &Reading<'_>, tasks: &[Arc<Task>], out: &mut String) {
    for task in tasks {
        value(out, cx.caller.tasks.pid(task).unwrap_or(0));
    }
}

fn read_procs(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let leaders = cx.hierarchy().procs(cx.cgroup)?;
    list(cx, &leaders, out);
    Ok(())
}

fn read_threads(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let tasks = cx.hierarchy().threads(cx.cgroup);
    list(cx, &tasks, out);
    Ok(())
}

fn write_procs(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    attach(cx, Scope::Process, fx)
}

fn write_threads(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    attach(cx, Scope::Thread, fx)
}

/// Whom the written number means (`cgroup_procs_write_start`).
fn named(cx: &Writing<'_>) -> Result<Arc<Task>, Errno> {
    let pid = kstrtoint(strstrip(cx.text)).ok().and_then(|pid| u32::try_from(pid).ok());
    cx.caller.tasks.find(pid.ok_or(Errno::EINVAL)?).ok_or(Errno::ESRCH)
}

/// `__cgroup_procs_write`. The opener's rights count, the writer's pids do.
fn attach(cx: &Writing<'_>, scope: Scope, fx: &mut Effects) -> Done {
    // Outside of the core's locks; that the cgroup lives was seen before.
    let task = named(cx)?;
    let judged = if broken(Mutant::WriterJudged) { cx.caller.cred } else { cx.opener };
    let may_write = |cgroup: &Cgroup| cx.tree.may_move(cgroup, judged);
    let opener = Opener { may_write: &may_write, namespace: cx.tree.boundary(cx.opener) };
    cx.hierarchy().attach(cx.cgroup, scope, || Ok(task), &opener, fx)?;
    Ok(None)
}

fn print_mask(hierarchy: &Hierarchy, mask: SsMask, out: &mut String) {
    for name in hierarchy.names(mask) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(name);
    }
    if !out.is_empty() {
        out.push('\n');
    }
}

fn read_controllers(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let h = cx.hierarchy();
    print_mask(h, h.controllers(cx.cgroup), out);
    Ok(())
}

fn read_subtree_control(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let h = cx.hierarchy();
    print_mask(h, h.subtree_control(cx.cgroup), out);
    Ok(())
}

/// `+NAME` and `-NAME` between blanks. The last mention of a name counts.
fn write_subtree_control(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    let (mut enable, mut disable) = (SsMask::NONE, SsMask::NONE);
    for token in words(strstrip(cx.text), b" ") {
        let (sign, name) = token.split_at(1);
        let name = str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
        let named = SsMask::of(cx.hierarchy().ssid(name).ok_or(Errno::EINVAL)?);
        if broken(Mutant::FirstMentionCounts) && (enable | disable).intersects(named) {
            continue;
        }
        match sign {
            b"+" => (enable, disable) = (enable | named, disable - named),
            b"-" => (enable, disable) = (enable - named, disable | named),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    cx.tree.write_subtree_control(cx.cgroup, enable, disable, cx.caller.cred, fx)?;
    Ok(None)
}

fn read_events(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let events = cx.hierarchy().events(cx.cgroup);
    keyed(out, "populated", u8::from(events.populated));
    keyed(out, "frozen", u8::from(events.frozen));
    Ok(())
}

/// From here up a number of cgroups is no limit (`INT_MAX`).
const NO_LIMIT: usize = i32::MAX as usize;

fn print_limit(limit: usize, out: &mut String) {
    if limit >= NO_LIMIT { value(out, "max") } else { value(out, limit) }
}

fn parse_limit(text: &[u8]) -> Result<usize, Errno> {
    match strstrip(text) {
        b"max" => Ok(usize::MAX),
        number => match usize::try_from(kstrtoint(number)?).map_err(|_| Errno::ERANGE)? {
            NO_LIMIT => Ok(usize::MAX),
            limit => Ok(limit),
        },
    }
}

fn read_descendants(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_limit(cx.hierarchy().max_descendants(cx.cgroup), out);
    Ok(())
}

fn write_descendants(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    cx.hierarchy().set_max_descendants(cx.cgroup, parse_limit(cx.text)?)?;
    Ok(None)
}

fn read_depth(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    print_limit(cx.hierarchy().max_depth(cx.cgroup), out);
    Ok(())
}

fn write_depth(cx: &mut Writing<'_>, _fx: &mut Effects) -> Done {
    cx.hierarchy().set_max_depth(cx.cgroup, parse_limit(cx.text)?)?;
    Ok(None)
}

fn read_stat(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let stat = cx.hierarchy().stat(cx.cgroup);
    keyed(out, "nr_descendants", stat.nr_descendants);
    for ss in &stat.subsys {
        keyed(out, format_args!("nr_subsys_{}", ss.name), ss.live);
    }
    keyed(out, "nr_dying_descendants", stat.nr_dying_descendants);
    for ss in &stat.subsys {
        keyed(out, format_args!("nr_dying_subsys_{}", ss.name), ss.dying);
    }
    Ok(())
}

fn read_stat_local(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    let frozen = cx.hierarchy().frozen_time(cx.cgroup, cx.now);
    keyed(out, "frozen_usec", frozen.as_micros());
    Ok(())
}

fn read_freeze(cx: &mut Reading<'_>, out: &mut String) -> Result<(), Errno> {
    value(out, u8::from(cx.hierarchy().freeze(cx.cgroup)));
    Ok(())
}

fn write_freeze(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    let freeze = match kstrtoint(strstrip(cx.text))? {
        0 => false,
        1 => true,
        _ => return Err(Errno::ERANGE.into()),
    };
    cx.hierarchy().set_freeze(cx.cgroup, freeze, fx)?;
    Ok(None)
}

fn write_kill(cx: &mut Writing<'_>, fx: &mut Effects) -> Done {
    if kstrtoint(strstrip(cx.text))? != 1 {
        return Err(Errno::ERANGE.into());
    }
    cx.hierarchy().kill(cx.cgroup, fx)?;
    Ok(None)
}
