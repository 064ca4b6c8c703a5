//! Tasks: stages, listings, populated and its notifications, kill.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use support::{World, ids};

const MS: u64 = 1_000_000;

#[test]
fn stages_are_taken_once_and_in_order() {
    let mut w = World::new();
    let a = w.top("a");
    let task = w.spawn(&a);
    assert_eq!(w.h.dead(&task, &mut w.fx), Err(Errno::ESRCH));
    assert_eq!(w.h.reap(&task, &mut w.fx), Err(Errno::ESRCH));
    w.exit(&task);
    assert_eq!(w.h.exit(&task, &mut w.fx), Err(Errno::ESRCH));
    assert_eq!(w.h.free(&task, &mut w.fx), Err(Errno::ESRCH));
    w.reap(&task);
    assert_eq!(w.h.free(&task, &mut w.fx), Err(Errno::ESRCH), "reaped, but still to switch out");
    w.dead(&task);
    assert_eq!(w.h.dead(&task, &mut w.fx), Err(Errno::ESRCH));
    w.free(&task);
    assert_eq!(w.h.free(&task, &mut w.fx), Err(Errno::ESRCH));
    assert!(task.cgroup().is_none());
    assert_eq!(w.h.fork(ForkFrom::Task(&task), &mut w.fx).unwrap_err(), Errno::ESRCH);
}

#[test]
fn procs_and_threads_differ_for_a_dead_leader() {
    let mut w = World::new();
    let a = w.top("a");
    let leader = w.spawn(&a);
    let thread = w.thread(&leader);
    assert_eq!(ids(w.h.procs(&a).unwrap()), [leader.id()]);
    assert_eq!(ids(w.h.threads(&a)), [leader.id(), thread.id()]);
    w.exit(&leader);
    w.dead(&leader);
    assert_eq!(ids(w.h.procs(&a).unwrap()), [leader.id()], "the process exists under this id");
    assert_eq!(ids(w.h.threads(&a)), [thread.id()]);
    w.exit(&thread);
    assert_eq!(ids(w.h.procs(&a).unwrap()), [], "its last thread is exiting");
    assert_eq!(ids(w.h.threads(&a)), []);
    assert!(a.populated());
    w.dead(&thread);
    assert!(!a.populated());
}

#[test]
fn populated_is_notified_on_a_flip_and_nowhere_else() {
    let mut w = World::new();
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    w.notified();
    w.fx.set_now(Time(100 * MS));
    let one = w.spawn(&b);
    assert_eq!(w.notified(), ["3/cgroup.events", "2/cgroup.events", "1/cgroup.events"]);
    w.fx.set_now(Time(200 * MS));
    let two = w.spawn(&b);
    let three = w.spawn(&a);
    w.exit(&one);
    w.dead(&one);
    assert_eq!(w.notified(), [""; 0], "nothing flipped");
    w.exit(&two);
    w.dead(&two);
    assert_eq!(w.notified(), ["3/cgroup.events"], "a still has a task of its own");
    w.exit(&three);
    w.dead(&three);
    assert_eq!(w.notified(), ["2/cgroup.events", "1/cgroup.events"]);
}

#[test]
fn a_storm_of_flips_wakes_watchers_once_and_once_more_at_the_end() {
    let mut w = World::new();
    let a = w.top("a");
    w.notified();
    w.fx.set_now(Time(100 * MS));
    for _ in 0..1000 {
        let task = w.spawn(&a);
        w.h.retire(&task, &mut w.fx).unwrap();
    }
    let mut timers = Vec::new();
    let mut notified = 0;
    for effect in w.fx.drain() {
        match effect {
            Effect::Notify(_) => notified += 1,
            Effect::Timer { at, file } => timers.push((at, file)),
            _ => {}
        }
    }
    assert_eq!((notified, timers.len()), (2, 2), "a and the root");
    for (at, file) in timers {
        assert_eq!(at, Time(110 * MS));
        w.fx.set_now(at);
        w.h.timer(&file, &mut w.fx);
    }
    assert_eq!(w.notified().len(), 2);
}

#[test]
fn a_removed_cgroup_notifies_nobody_but_its_ancestors_still_do() {
    let mut w = World::new();
    let a = w.top("a");
    let task = w.spawn(&a);
    w.exit(&task);
    w.rmdir(&a).unwrap();
    w.notified();
    w.fx.set_now(Time(100 * MS));
    w.dead(&task);
    assert_eq!(w.notified(), ["1/cgroup.events"]);
}

#[test]
fn kill_reaches_every_process_below_once_and_forks_in_flight() {
    let mut w = World::new();
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    let other = w.top("other");
    let bystander = w.spawn(&other);
    let one = w.spawn(&a);
    let thread = w.thread(&one);
    let two = w.spawn(&b);
    let place = w.h.fork(ForkFrom::Task(&two), &mut w.fx).unwrap();
    let kills = |w: &mut World| {
        let mut ids: Vec<_> =
            w.fx.drain()
                .filter_map(|effect| if let Effect::Kill(id) = effect { Some(id) } else { None })
                .collect();
        ids.sort();
        ids
    };
    kills(&mut w);
    w.h.kill(&a, &mut w.fx).unwrap();
    assert_eq!(kills(&mut w), [one.id(), two.id()], "a process once, not per thread");
    let id = w.id();
    let child = place.publish(id, Membership::Process, &mut w.fx);
    assert_eq!(kills(&mut w), [child.id()]);
    assert_eq!(w.h.fork(ForkFrom::Task(&thread), &mut w.fx).unwrap_err(), Errno::ESRCH);
    w.h.kill(&a, &mut w.fx).unwrap();
    assert_eq!(kills(&mut w), [], "once per process");
    // Born killed: it may not fork itself out of the kill.
    assert_eq!(w.h.fork(ForkFrom::Task(&child), &mut w.fx).unwrap_err(), Errno::ESRCH);
    assert!(w.h.fork(ForkFrom::Task(&bystander), &mut w.fx).is_ok());
}
