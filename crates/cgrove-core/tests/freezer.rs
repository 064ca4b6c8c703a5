//! The freezer: what is asked of tasks, and when a cgroup reads as frozen.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::Arc;
use std::time::Duration;
use support::Tree;

const MS: u64 = 1_000_000;

struct Cold {
    t: Tree,
    now: u64,
}

impl Cold {
    fn new() -> Self {
        Self { t: Tree::new(), now: 1000 }
    }

    /// Time passes, so that no notification is held back.
    fn tick(&mut self) {
        self.now += 100;
        self.t.fx.set_now(Time(self.now * MS));
        self.t.fx.drain().for_each(drop);
    }

    fn freeze(&mut self, cgroup: &Arc<Cgroup>, on: bool) -> Result<(), Errno> {
        self.tick();
        let t = &mut *self.t;
        t.h.set_freeze(cgroup, on, &mut t.fx)
    }

    fn enter(&mut self, task: &Arc<Task>) {
        let t = &mut *self.t;
        t.h.enter_frozen(task, &mut t.fx);
    }

    fn leave(&mut self, task: &Arc<Task>, always: bool) {
        let t = &mut *self.t;
        t.h.leave_frozen(task, always, &mut t.fx);
    }

    /// What is asked for since the last call, in a word each.
    fn asked(&mut self) -> Vec<String> {
        let text = |effect| match effect {
            Effect::Freeze(task) => Some(format!("freeze {task}")),
            Effect::Unfreeze(task) => Some(format!("unfreeze {task}")),
            Effect::Notify(file) => Some(format!("{} changed", file.cgroup())),
            _ => None,
        };
        self.t.fx.drain().filter_map(text).collect()
    }
}

fn frozen<const N: usize>(cgroups: [&Arc<Cgroup>; N]) -> [bool; N] {
    cgroups.map(|cgroup| cgroup.frozen())
}

#[test]
fn a_cgroup_is_frozen_once_every_task_has_stopped() {
    let mut c = Cold::new();
    let a = c.t.top("a");
    let (one, two) = (c.t.spawn(&a), c.t.spawn(&a));
    c.freeze(&a, true).unwrap();
    assert_eq!(c.asked(), [format!("freeze {}", one.id()), format!("freeze {}", two.id())]);
    assert!(a.freezing() && !a.frozen() && c.t.h.freeze(&a));
    c.enter(&one);
    c.enter(&one);
    assert!(!a.frozen(), "told twice of the same task");
    c.enter(&two);
    assert_eq!(c.asked(), ["2 changed"]);
    assert_eq!(c.t.h.events(&a), Events { populated: true, frozen: true });
    c.freeze(&a, true).unwrap();
    assert_eq!(c.asked(), [""; 0], "asked for what was asked for before");

    c.freeze(&a, false).unwrap();
    assert!(!a.frozen() && !a.freezing(), "at once, whatever the tasks do");
    let unfreeze = [&one, &two].map(|task| format!("unfreeze {}", task.id()));
    assert_eq!(c.asked(), [&unfreeze[..], &["2 changed".into()]].concat());
    c.leave(&one, false);
    c.leave(&two, false);
    assert_eq!(c.asked(), [""; 0]);
    // Tasks that were let go can stop for another reason; nobody froze them.
    c.enter(&one);
    c.enter(&two);
    assert!(!a.frozen());
    c.freeze(&a, true).unwrap();
    assert!(a.frozen(), "stopped is as good as frozen");
}

#[test]
fn an_empty_subtree_is_frozen_at_once_and_a_new_cgroup_in_it_too() {
    let mut c = Cold::new();
    let a = c.t.top("a");
    let b = c.t.mkdir(&a, "b");
    c.freeze(&a, true).unwrap();
    assert_eq!(frozen([&a, &b]), [true, true]);
    assert_eq!((c.t.h.freeze(&a), c.t.h.freeze(&b)), (true, false), "asked for above");
    let d = c.t.mkdir(&b, "d");
    assert_eq!(frozen([&a, &b, &d]), [true; 3]);
    let task = c.t.spawn(&d);
    c.tick();
    let born = c.t.spawn(&d);
    assert_eq!(c.asked(), [format!("freeze {}", born.id())], "a birth does not thaw");
    assert_eq!(frozen([&a, &b, &d]), [true; 3]);
    c.enter(&task);
    c.enter(&born);
    assert_eq!(frozen([&a, &b, &d]), [true; 3]);
}

#[test]
fn parents_are_frozen_after_their_children_and_thaw_with_any() {
    let mut c = Cold::new();
    let a = c.t.top("a");
    let (b, d) = (c.t.mkdir(&a, "b"), c.t.mkdir(&a, "d"));
    let (in_a, in_b, in_d) = (c.t.spawn(&a), c.t.spawn(&b), c.t.spawn(&d));
    c.freeze(&a, true).unwrap();
    c.enter(&in_a);
    assert_eq!(frozen([&a, &b, &d]), [false; 3], "its own tasks are not all");
    c.enter(&in_b);
    assert_eq!(frozen([&a, &b, &d]), [false, true, false]);
    c.enter(&in_d);
    assert_eq!(frozen([&a, &b, &d]), [true, true, true]);
    c.tick();
    // A tracer lets one go, and it is frozen again.
    c.leave(&in_b, false);
    assert_eq!(c.asked(), [format!("freeze {}", in_b.id())]);
    assert_eq!(frozen([&a, &b, &d]), [true, true, true], "no flicker");
    c.leave(&in_b, true);
    assert_eq!(frozen([&a, &b, &d]), [false, false, true]);
    assert_eq!(c.asked(), [format!("{} changed", b.id()), format!("{} changed", a.id())]);
    c.enter(&in_b);
    assert_eq!(frozen([&a, &b, &d]), [true, true, true]);
}

#[test]
fn a_child_cannot_thaw_what_its_parent_freezes_but_is_told() {
    let mut c = Cold::new();
    let a = c.t.top("a");
    let b = c.t.mkdir(&a, "b");
    c.freeze(&b, true).unwrap();
    assert_eq!(frozen([&a, &b]), [false, true]);
    c.freeze(&a, true).unwrap();
    assert_eq!(frozen([&a, &b]), [true, true]);
    assert_eq!(c.asked(), ["2 changed"], "nothing changes for the child");
    c.freeze(&b, false).unwrap();
    assert_eq!((c.t.h.freeze(&b), b.freezing(), b.frozen()), (false, true, true));
    assert_eq!(c.asked(), ["3 changed"], "nobody is to wait for what will not come");
    c.freeze(&b, true).unwrap();
    c.freeze(&a, false).unwrap();
    assert_eq!(frozen([&a, &b]), [false, true], "the child asked for it itself");
    let root = c.t.root();
    assert_eq!(c.freeze(&root, true), Err(Errno::ENOENT));
    c.t.rmdir(&b).unwrap();
    assert_eq!(c.freeze(&b, false), Err(Errno::ENOENT));
}

#[test]
fn a_task_that_moves_takes_on_the_state_of_where_it_is() {
    let mut c = Cold::new();
    let (cold, warm) = (c.t.top("cold"), c.t.top("warm"));
    let task = c.t.spawn(&warm);
    c.freeze(&cold, true).unwrap();
    assert!(cold.frozen());
    c.tick();
    c.t.move_process(&task, &cold).unwrap();
    assert!(!cold.frozen());
    assert!(c.asked().contains(&format!("freeze {}", task.id())));
    c.enter(&task);
    assert!(cold.frozen());
    c.tick();
    c.t.move_process(&task, &warm).unwrap();
    assert_eq!(frozen([&cold, &warm]), [true, false]);
    assert!(c.asked().contains(&format!("unfreeze {}", task.id())));
    c.leave(&task, false);
    // From one that is frozen to another, it stays so.
    let colder = c.t.top("colder");
    c.freeze(&colder, true).unwrap();
    c.enter(&task);
    c.t.move_process(&task, &cold).unwrap();
    assert_eq!(frozen([&cold, &colder]), [true, true]);
    c.t.move_process(&task, &colder).unwrap();
    assert_eq!(frozen([&cold, &colder]), [true, true]);
    c.freeze(&colder, false).unwrap();
    assert_eq!(frozen([&cold, &colder]), [true, false]);
}

#[test]
fn who_is_killed_while_frozen_leaves_first_and_who_dies_is_not_missed() {
    let mut c = Cold::new();
    let a = c.t.top("a");
    let (one, two) = (c.t.spawn(&a), c.t.spawn(&a));
    c.freeze(&a, true).unwrap();
    c.enter(&one);
    c.enter(&two);
    c.tick();
    c.t.exit(&one);
    assert!(!a.frozen(), "it runs to its end");
    assert_eq!(c.asked(), ["2 changed"]);
    c.enter(&one);
    assert!(!a.frozen(), "and does not stop any more");
    c.t.dead(&one);
    assert!(a.frozen(), "the one that is left has stopped");
    c.t.exit(&two);
    c.t.dead(&two);
    assert!(a.frozen(), "nobody is left who runs");
}

#[test]
fn frozen_time_runs_from_the_request_and_adds_up() {
    let mut c = Cold::new();
    let a = c.t.top("a");
    let b = c.t.mkdir(&a, "b");
    let time = |c: &Cold, at: &Arc<Cgroup>| c.t.h.frozen_time(at, c.t.fx.now());
    assert_eq!(time(&c, &a), Duration::ZERO);
    let task = c.t.spawn(&b);
    c.freeze(&a, true).unwrap();
    c.tick();
    assert_eq!(time(&c, &b), Duration::from_millis(100), "though its task still runs");
    c.freeze(&a, false).unwrap();
    c.tick();
    assert_eq!(
        (time(&c, &a), time(&c, &b)),
        (Duration::from_millis(200), Duration::from_millis(200))
    );
    c.freeze(&b, true).unwrap();
    c.tick();
    assert_eq!(
        (time(&c, &a), time(&c, &b)),
        (Duration::from_millis(200), Duration::from_millis(300))
    );
    let late = c.t.mkdir(&b, "late");
    c.tick();
    assert_eq!(time(&c, &late), Duration::from_millis(100), "from its birth");
    drop(task);
}

/// Freeze a leaf, kill its task, remove the leaf while the task is hidden and
/// has not switched out. In Linux 7.2 and 7.3 the dead leaf then turns frozen
/// and is counted for its ancestors, which no longer count it as a descendant,
/// and they never read as frozen again.
#[test]
fn a_dead_cgroup_never_counts() {
    let mut c = Cold::new();
    let top = c.t.top("top");
    let f = c.t.mkdir(&top, "f");
    for round in 0..5 {
        let z = c.t.mkdir(&f, &format!("z{round}"));
        let task = c.t.spawn(&z);
        c.freeze(&z, true).unwrap();
        c.enter(&task);
        c.t.exit(&task);
        c.t.rmdir(&z).unwrap();
        c.t.dead(&task);
        assert_eq!(c.t.h.stat(&f).nr_descendants, 0);
    }
    c.freeze(&top, true).unwrap();
    assert_eq!(frozen([&top, &f]), [true, true]);
    c.freeze(&top, false).unwrap();
    assert_eq!(frozen([&top, &f]), [false, false]);
}

/// The other side of it: the ancestors wait for a leaf, and it is removed.
#[test]
fn ancestors_do_not_wait_for_what_is_removed() {
    let mut c = Cold::new();
    let top = c.t.top("top");
    let f = c.t.mkdir(&top, "f");
    let z = c.t.mkdir(&f, "z");
    let task = c.t.spawn(&z);
    c.freeze(&top, true).unwrap();
    c.t.exit(&task);
    assert_eq!(frozen([&top, &f, &z]), [false, false, false]);
    c.tick();
    c.t.rmdir(&z).unwrap();
    assert_eq!(frozen([&top, &f]), [true, true]);
    assert_eq!(c.asked(), [format!("{} changed", f.id()), format!("{} changed", top.id())]);
    c.t.dead(&task);
    assert_eq!(frozen([&top, &f, &z]), [true, true, false]);
    // A frozen one takes its count along.
    let y = c.t.mkdir(&f, "y");
    let busy = c.t.spawn(&f);
    assert!(y.frozen());
    c.t.rmdir(&y).unwrap();
    c.t.exit(&busy);
    c.t.dead(&busy);
    assert_eq!(frozen([&top, &f]), [true, true]);
}

/// A newborn freezes before it does anything; who is taken in runs already.
#[test]
fn a_running_task_taken_in_thaws_the_cgroup_until_it_has_stopped() {
    let mut cold = Cold::new();
    let p = cold.t.top("p");
    let a = cold.t.mkdir(&p, "a");
    cold.freeze(&p, true).unwrap();
    assert_eq!(frozen([&p, &a]), [true; 2]);
    cold.tick();
    let (id, t) = (cold.t.id(), &mut *cold.t);
    let task = t.h.adopt(&a, id, Membership::Process, &mut t.fx).unwrap();
    assert_eq!(frozen([&p, &a]), [false; 2]);
    let asked = cold.asked();
    for what in [format!("freeze {id}"), format!("{} changed", a.id())] {
        assert!(asked.contains(&what), "{what} is not in {asked:?}");
    }
    cold.enter(&task);
    assert_eq!(frozen([&p, &a]), [true; 2]);
}
