//! What is not asked: where Linux is known to be wrong, or cgrove differs on purpose.

use std::sync::Arc;

use cgrove_core::{Cgroup, Hierarchy};

use crate::case::{Act, Step, Text};
use crate::model::target::CoreTarget;
use crate::model::world::Life;

/// Whether a step, done now, leads to where Linux is known to be wrong, or cgrove to differ on
/// purpose; the reasons are in `docs/CONFORMANCE.md`.
#[must_use]
pub fn taints(target: &CoreTarget, step: &Step) -> bool {
    let root = target.tree().hierarchy().root();
    match &step.act {
        // frozen-counter: a cgroup that is to be frozen is removed under a hidden task.
        Act::Rmdir { path, .. } => find(root, target.tree().hierarchy(), path)
            .is_some_and(|cgroup| cgroup.freezing() && cgroup.populated()),
        Act::Write { file, .. } if is(file, "cgroup.kill") => any_dead_leader(target),
        Act::Write { path, file, .. } | Act::Read { path, file, .. }
            if is(file, "cgroup.events") =>
        {
            // frozen-early: Linux looks at its tasks or at those below, not at both.
            let hierarchy = target.tree().hierarchy();
            find(root, hierarchy, path).is_some_and(|cgroup| {
                cgroup.freezing() && !cgroup.frozen() && !hierarchy.children(&cgroup).is_empty()
            })
        }
        _ => false,
    }
}

/// Whether a file has this name.
pub(super) fn is(file: &Text, name: &str) -> bool {
    file.known().as_deref() == Some(name.as_bytes())
}

/// kill-dead-leader: a process whose leader is dead and which lives on in a thread.
fn any_dead_leader(target: &CoreTarget) -> bool {
    let world = target.world();
    world.threads().any(|(tid, thread)| {
        tid == thread.pid && thread.life == Life::Dead && !world.is_over(thread.pid)
    })
}

/// The cgroup with this path.
pub(super) fn find(root: &Arc<Cgroup>, hierarchy: &Hierarchy, path: &Text) -> Option<Arc<Cgroup>> {
    let path = String::from_utf8(path.known()?).ok()?;
    let mut at = Arc::clone(root);
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        at = hierarchy.child(&at, name)?;
    }
    Some(at)
}

/// All cgroups below one, parents first.
pub(super) fn below(hierarchy: &Hierarchy, cgroup: &Arc<Cgroup>) -> Vec<Arc<Cgroup>> {
    let mut all = hierarchy.children(cgroup);
    let mut next = 0;
    while let Some(at) = all.get(next).cloned() {
        all.extend(hierarchy.children(&at));
        next += 1;
    }
    all
}
