//! Waiting for a css that is being switched off: who waits, for whom, and what
//! ends it.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use support::Tree;

/// What a write waits for: the css, its cgroup and its tasks.
fn waits(result: Result<(), WriteError>) -> Option<(CssId, CgroupId, Vec<TaskId>)> {
    let why = result.err()?;
    let draining = why.draining()?;
    let css = &draining.css;
    Some((css.id(), css.cgroup().id(), draining.lifecycle.tasks.clone()))
}

#[test]
fn switching_on_again_waits_for_the_tasks_of_the_dying_css_by_name() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let (root, a) = (t.root(), t.top("a"));
    let old = a.css("pids").unwrap();
    let (hidden, stays) = (t.spawn(&a), t.spawn(&a));
    t.exit(&hidden);
    t.on_root("-pids").unwrap();
    assert!(old.is_dying() && old.is_populated() && !old.is_visible());
    assert_eq!(t.pump(), 0);
    t.fx.drain().for_each(drop);
    // The task that stays has moved on; the one on its way out has not.
    let on = waits(t.try_write("+pids", &root)).unwrap();
    assert_eq!(on, (old.id(), a.id(), vec![hidden.id()]));
    // Whatever is written, and nothing at all.
    for text in ["+pids", "-cpu", ""] {
        assert!(waits(t.try_write(text, &root)).is_some(), "{text:?}");
    }
    // Not so where the dying css is not below.
    let b = t.top("b");
    assert_eq!(t.write("-cpu", &b), Ok(()));

    // Reaping does not end it, dying does.
    t.reap(&hidden);
    t.pump();
    assert!(waits(t.try_write("+pids", &root)).is_some());
    t.dead(&hidden);
    let (.., tasks) = waits(t.try_write("+pids", &root)).unwrap();
    assert_eq!(tasks, [], "nobody is to be waited for but the queue");
    t.fx.drain().for_each(drop);
    t.pump();
    let told = |effect: Effect| matches!(effect, Effect::Offline(css) if css == old.id());
    assert_eq!(t.fx.drain().filter(|effect| told(effect.clone())).count(), 1);
    // Offline is enough: the old css may still be held by the zombie.
    assert_eq!(t.on_root("+pids"), Ok(()));
    let new = a.css("pids").unwrap();
    assert!(new.id() != old.id() && !new.is_dying());
    assert_eq!(t.pids(&a), 1, "the one that stays, and not the zombie");
    assert_eq!(stays.cgroup().unwrap().id(), a.id());
    t.free(&hidden);
    t.pump();
    assert_eq!(t.h.stat(&root).subsys[2], SubsysStat { name: "pids", live: 3, dying: 0 });
}

#[test]
fn nobody_who_does_not_wait_is_told() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    t.top("a");
    t.on_root("-pids").unwrap();
    t.pump();
    assert!(!t.fx.drain().any(|effect| matches!(effect, Effect::Offline(_))));
}

#[test]
fn removed_cgroups_do_not_block_but_hold_up_those_above() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    t.write("+pids", &a).unwrap();
    let b = t.mkdir(&a, "b");
    let hidden = t.spawn(&b);
    t.exit(&hidden);
    t.rmdir(&b).unwrap();
    assert_eq!(t.write("-pids", &a), Ok(()), "a removed cgroup's css is nobody's business");
    t.on_root("-pids").unwrap();
    let root = t.root();
    let (_, at, tasks) = waits(t.try_write("+pids", &root)).unwrap();
    assert_eq!((at, tasks), (a.id(), vec![hidden.id()]), "through its child");
    t.dead(&hidden);
    t.pump();
    assert_eq!(t.on_root("+pids"), Ok(()));
    assert_eq!(t.pids(&a), 0);
}

#[test]
fn a_cgroup_below_without_a_css_of_its_own_holds_the_one_above() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    let hidden = t.spawn(&b);
    t.exit(&hidden);
    t.on_root("-pids").unwrap();
    let root = t.root();
    let (_, at, tasks) = waits(t.try_write("+pids", &root)).unwrap();
    assert_eq!((at, tasks), (a.id(), vec![hidden.id()]));
    t.retire_rest(&hidden);
    t.pump();
    assert_eq!(t.on_root("+pids"), Ok(()));
}

#[test]
fn rmdir_of_a_cgroup_whose_css_is_dying_counts_it_once() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let hidden = t.spawn(&a);
    t.exit(&hidden);
    t.on_root("-pids").unwrap();
    let dying = |t: &Tree| t.h.stat(t.h.root()).subsys[2].dying;
    assert_eq!(dying(&t), 1);
    assert_eq!(t.rmdir(&a), Ok(()), "never waits");
    assert_eq!(dying(&t), 1);
    let root = t.root();
    assert_eq!(t.on_root("+pids"), Ok(()), "nor blocks anyone");
    t.retire_rest(&hidden);
    t.pump();
    let stat = t.h.stat(&root);
    assert_eq!((stat.nr_dying_descendants, stat.subsys[2].dying), (0, 0));
}

#[test]
fn becoming_threaded_drains_too_and_switching_something_else_off_as_well() {
    let mut t = Tree::new();
    t.on_root("+pids +cpu").unwrap();
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    t.write("+cpu", &a).unwrap();
    let hidden = t.spawn(&b);
    t.exit(&hidden);
    t.write("-cpu", &a).unwrap();
    let w = &mut *t;
    let made = w.h.make_threaded(&b, &mut w.fx);
    assert_eq!(waits(made).unwrap().2, [hidden.id()]);
    let root = t.root();
    assert_eq!(waits(t.try_write("-pids", &root)).unwrap().2, [hidden.id()]);
    assert!(t.control(&root).contains(&"pids"), "nothing has changed");
    t.retire_rest(&hidden);
    t.pump();
    assert_eq!(t.make_threaded(&b), Ok(()));
}

#[test]
fn the_wait_explains_itself() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let hidden = t.spawn(&a);
    t.exit(&hidden);
    t.on_root("-pids").unwrap();
    let root = t.root();
    let why = t.try_write("+pids", &root).unwrap_err();
    assert_eq!(
        why.to_string(),
        "pids of /a is still being switched off; 1 tasks are on their way out"
    );
    assert_eq!(why.draining().unwrap().lifecycle.phase, Phase::Dying);
    t.rmdir(&a).unwrap();
    assert_eq!(t.try_write("+pids", &a).unwrap_err().to_string(), "ENODEV");
}
