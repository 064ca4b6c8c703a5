//! mkdir and rmdir: every refusal with its number, and what is visible at once.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::{Arc, Mutex};
use support::{Recorder, World};

#[test]
fn names_are_refused_as_linux_refuses_them() {
    let mut w = World::new();
    let root = w.h.root().clone();
    let mut mkdir = |name: &str| w.h.create(&root, name, &mut w.fx).map(|c| c.path());
    assert_eq!(mkdir("a"), Ok("/a".into()));
    assert_eq!(mkdir("a"), Err(Errno::EEXIST));
    assert_eq!(mkdir("."), Err(Errno::EEXIST));
    assert_eq!(mkdir(".."), Err(Errno::EEXIST));
    assert_eq!(mkdir(""), Err(Errno::ENOENT));
    assert_eq!(mkdir("b/c"), Err(Errno::ENOENT));
    assert_eq!(mkdir("b\nc"), Err(Errno::EINVAL));
    assert_eq!(mkdir(&"x".repeat(4096)), Err(Errno::ENAMETOOLONG));
    assert!(mkdir(&"x".repeat(4095)).is_ok());
}

#[test]
fn depth_and_descendants_are_limited_at_every_level() {
    let mut w = World::new();
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    w.h.set_max_depth(&a, 1).unwrap();
    assert_eq!(w.h.create(&b, "c", &mut w.fx).unwrap_err(), Errno::EAGAIN, "a is two above c");
    w.h.set_max_depth(&a, 2).unwrap();
    let c = w.mkdir(&b, "c");

    w.h.set_max_descendants(&a, 2).unwrap();
    assert_eq!(w.h.create(&b, "d", &mut w.fx).unwrap_err(), Errno::EAGAIN);
    // Limits hold for creations only, and a dying cgroup makes room at once.
    let task = w.spawn(&c);
    w.exit(&task);
    w.rmdir(&c).unwrap();
    assert_eq!(w.h.stat(&a).nr_dying_descendants, 1);
    w.mkdir(&b, "d");
    let root = w.h.root().clone();
    w.h.set_max_descendants(&root, 0).unwrap();
    assert_eq!(w.h.create(&root, "z", &mut w.fx).unwrap_err(), Errno::EAGAIN, "the root too");
    w.h.set_max_descendants(&root, usize::MAX).unwrap();
    w.h.set_max_depth(&root, 0).unwrap();
    assert_eq!(w.h.create(&root, "z", &mut w.fx).unwrap_err(), Errno::EAGAIN);
}

#[test]
fn a_dead_cgroup_answers_each_operation_with_its_own_number() {
    let mut w = World::new();
    let a = w.top("a");
    w.rmdir(&a).unwrap();
    assert_eq!(w.h.create(&a, "b", &mut w.fx).unwrap_err(), Errno::ENODEV);
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&a), &mut w.fx).unwrap_err(), Errno::ENODEV);
    assert_eq!(
        w.h.adopt(&a, TaskId(9), Membership::Process, &mut w.fx).unwrap_err(),
        Errno::ENODEV
    );
    assert_eq!(w.h.set_max_depth(&a, 1), Err(Errno::ENOENT));
    assert_eq!(w.h.set_max_descendants(&a, 1), Err(Errno::ENOENT));
    assert_eq!(w.h.kill(&a, &mut w.fx), Err(Errno::ENOENT));
    assert_eq!(w.rmdir(&a), Ok(()), "a second rmdir is no error");
    assert_eq!(a.path(), "/a (deleted)");
}

#[test]
fn rmdir_is_busy_for_visible_tasks_children_and_forks_in_flight_only() {
    let mut w = World::new();
    let root = w.h.root().clone();
    assert_eq!(w.rmdir(&root), Err(Errno::EBUSY));
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    assert_eq!(w.rmdir(&a), Err(Errno::EBUSY));
    w.rmdir(&b).unwrap();

    let place = w.h.fork(ForkFrom::Cgroup(&a), &mut w.fx).unwrap();
    assert_eq!(w.rmdir(&a), Err(Errno::EBUSY), "a child is about to be there");
    drop(place);

    let leader = w.spawn(&a);
    let thread = w.thread(&leader);
    w.exit(&leader);
    assert_eq!(w.rmdir(&a), Err(Errno::EBUSY), "an exiting leader with a live thread shows");
    w.exit(&thread);
    assert!(w.h.threads(&a).is_empty());
    assert_eq!(w.rmdir(&a), Ok(()), "hidden tasks do not block");
    assert!(a.populated(), "and still populate");
}

#[test]
fn the_name_and_the_counters_change_before_rmdir_returns() {
    let mut w = World::new();
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    let task = w.spawn(&b);
    w.exit(&task);
    w.rmdir(&b).unwrap();
    let stat = w.h.stat(&a);
    assert_eq!((stat.nr_descendants, stat.nr_dying_descendants), (0, 1));
    assert_eq!((stat.subsys[0].live, stat.subsys[0].dying), (1, 1));
    assert!(a.populated(), "the hidden task still counts for the ancestors");
    let again = w.mkdir(&a, "b");
    assert_ne!(again.id(), b.id());
    assert!(!again.populated());
    assert_eq!(Pids::css(&again).unwrap().current(), 0, "nothing is inherited");

    w.dead(&task);
    assert!(!a.populated());
    w.pump();
    assert_eq!(w.h.stat(&a).subsys[0].dying, 1, "the zombie still holds the css");
    w.reap(&task);
    w.free(&task);
    w.pump();
    let stat = w.h.stat(&a);
    assert_eq!((stat.nr_descendants, stat.nr_dying_descendants), (1, 0));
    assert_eq!((stat.subsys[0].live, stat.subsys[0].dying), (2, 0));
}

#[test]
fn a_refused_css_online_undoes_the_creation_and_is_never_offlined() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let one = Recorder { name: "one", log: log.clone(), ..Recorder::default() };
    let two =
        Recorder { name: "two", log: log.clone(), refuse_online: true, ..Recorder::default() };
    let mut w =
        World::with(Hierarchy::builder().controller(Arc::new(one)).controller(Arc::new(two)));
    log.lock().unwrap().clear();
    let root = w.h.root().clone();
    assert_eq!(w.h.create(&root, "a", &mut w.fx).unwrap_err(), Errno::ENOMEM);
    assert!(w.h.child(&root, "a").is_none());
    assert_eq!(w.h.stat(&root).nr_descendants, 0);
    assert_eq!(w.pump(), 0);
    let log = log.lock().unwrap();
    assert_eq!(
        *log,
        [
            "one alloc 2",
            "one online 2",
            "two alloc 2",
            "two online 2",
            "one killed 2",
            "one offline 2",
            "one released 2",
            "two free 2",
            "one free 2",
        ]
    );
    let stat = w.h.stat(&root);
    assert_eq!((stat.nr_dying_descendants, stat.subsys[0].dying, stat.subsys[1].dying), (0, 0, 0));
}

#[test]
fn controllers_are_asked_in_order_and_undone_in_reverse() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let names = [("one", None), ("two", None), ("three", Some(Errno::ENOMEM))];
    let builder = names.into_iter().fold(Hierarchy::builder(), |builder, (name, refuse_fork)| {
        builder.controller(Arc::new(Recorder {
            name,
            log: log.clone(),
            refuse_fork,
            ..Recorder::default()
        }))
    });
    let mut w = World::with(builder);
    let a = w.top("a");
    log.lock().unwrap().clear();
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&a), &mut w.fx).unwrap_err(), Errno::ENOMEM);
    let expected = [
        "one can_fork 2",
        "two can_fork 2",
        "three can_fork 2",
        "two cancel_fork 2",
        "one cancel_fork 2",
    ];
    assert_eq!(*log.lock().unwrap(), expected);
    assert_eq!(w.rmdir(&a), Ok(()), "no place is left behind");
}
