//! `cgroup.subtree_control`: what it switches, refuses, hides and moves.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::{Arc, Mutex, Weak};
use support::{Recorder, Tree};

#[test]
fn nothing_is_on_below_the_root_until_it_is_switched_on() {
    let mut t = Tree::new();
    let a = t.top("a");
    assert_eq!(t.controllers(t.h.root()), ["cpu", "memory", "pids", "io"]);
    assert_eq!(t.control(t.h.root()), [""; 0]);
    assert_eq!(t.controllers(&a), [""; 0]);
    assert!(a.css("pids").is_none());
    t.on_root("+pids +memory").unwrap();
    assert_eq!(t.control(t.h.root()), ["memory", "pids"], "in the order of registration");
    assert_eq!(t.controllers(&a), ["memory", "pids"]);
    assert!(a.css("pids").unwrap().is_visible());
    assert_eq!(t.control(&a), [""; 0], "a child inherits nothing");
    // A new cgroup has what its parent has on, from the start.
    let b = t.top("b");
    assert!(b.css("memory").is_some() && b.css("cpu").is_none());
    t.on_root("-memory").unwrap();
    assert_eq!(t.controllers(&b), ["pids"]);
    t.pump();
    assert!(b.css("memory").is_none());
}

#[test]
fn refusals_have_linuxs_numbers_and_order() {
    let mut t = Tree::new();
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    assert_eq!(t.h.mask(&["pids", "nope"]), Err(Errno::EINVAL), "no controller's name");
    assert_eq!(t.write("+pids", &a), Err(Errno::ENOENT), "not available here");
    assert_eq!(t.write("-pids", &a), Ok(()), "off already, and nobody looks further");
    t.on_root("+pids +memory +cpu").unwrap();
    t.write("+pids", &a).unwrap();
    assert_eq!(t.write("+pids", &a), Ok(()), "on already");
    assert_eq!(t.on_root("-pids"), Err(Errno::EBUSY), "a child has it on");
    // By controller, in their order, and the first refusal wins: cpu is before
    // pids, memory before io.
    assert_eq!(t.write("+io -pids", &a), Err(Errno::ENOENT));
    assert_eq!(t.on_root("-pids +cpu"), Err(Errno::EBUSY));
    assert_eq!(t.write("+io -memory", &a), Err(Errno::ENOENT), "memory was not on: skipped");
    // All or nothing: the good half of a bad write has not happened.
    assert_eq!(t.write("+memory +io", &a), Err(Errno::ENOENT));
    assert_eq!(t.control(&a), ["pids"]);
    t.rmdir(&b).unwrap();
    t.write("-pids", &a).unwrap();
    t.rmdir(&a).unwrap();
    assert_eq!(t.write("+pids", &a), Err(Errno::ENODEV));
    assert_eq!(t.write("", &a), Err(Errno::ENODEV));
}

#[test]
fn a_domain_controller_needs_a_cgroup_without_tasks() {
    let mut t = Tree::new();
    t.on_root("+cpu +memory +pids").unwrap();
    let a = t.top("a");
    let task = t.spawn(&a);
    assert_eq!(t.write("+memory", &a), Err(Errno::EBUSY));
    assert_eq!(t.write("+memory +cpu", &a), Err(Errno::EBUSY), "one domain controller is enough");
    // A threaded one is welcome, with tasks there: the rule is not for it.
    assert_eq!(t.write("+pids", &a), Ok(()));
    assert_eq!(t.h.cgroup_type(&a), CgroupType::DomainThreaded);
    assert_eq!(t.write("+memory", &a), Err(Errno::EOPNOTSUPP), "it is a thread root now");
    t.write("-pids", &a).unwrap();
    // Tasks on their way out still count, and so does a fork in flight.
    t.exit(&task);
    assert!(t.h.threads(&a).is_empty());
    assert_eq!(t.write("+memory", &a), Err(Errno::EBUSY));
    t.dead(&task);
    let place = t.place(ForkFrom::Cgroup(&a)).unwrap();
    assert_eq!(t.write("+memory", &a), Err(Errno::EBUSY));
    drop(place);
    assert_eq!(t.write("+memory", &a), Ok(()));
    // And from now on no task may come.
    assert_eq!(t.place(ForkFrom::Cgroup(&a)).unwrap_err(), Errno::EBUSY);
    // The root is exempt from all of it.
    let root = t.root();
    t.spawn(&root);
    assert_eq!(t.write("+io", &root), Ok(()));
}

#[test]
fn enabling_on_populated_children_charges_their_tasks() {
    let mut t = Tree::new();
    let a = t.top("a");
    let b = t.top("b");
    let tasks: Vec<_> = (0..3).map(|_| t.spawn(&a)).collect();
    t.thread(&tasks[0]);
    t.spawn(&b);
    t.on_root("+pids").unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (4, 1), "threads are counted, not processes");
    // Off and on again: who is there is counted, whatever was counted before.
    t.on_root("-pids").unwrap();
    t.pump();
    assert_eq!(t.h.stat(t.h.root()).subsys[2].dying, 0);
    t.spawn(&a);
    t.on_root("+pids").unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (5, 1));
    for task in &tasks {
        t.retire(task);
    }
    assert_eq!(t.pids(&a), 2);
}

#[test]
fn a_fork_in_flight_keeps_its_charge_through_changes() {
    let mut t = Tree::new();
    let a = t.top("a");
    let parent = t.spawn(&a);
    let kept = t.place(ForkFrom::Task(&parent)).unwrap();
    let cancelled = t.place(ForkFrom::Cgroup(&a)).unwrap();
    let dropped = t.place(ForkFrom::Task(&parent)).unwrap();
    t.on_root("+pids").unwrap();
    assert_eq!(t.pids(&a), 4, "three children to be are charged where they will be");
    drop(dropped);
    assert_eq!(t.pids(&a), 3);
    t.on_root("-pids").unwrap();
    t.pump();
    t.on_root("+pids").unwrap();
    assert_eq!(t.pids(&a), 3);
    cancelled.cancel(&mut t.fx);
    let child = t.publish(kept, Membership::Process);
    assert_eq!(t.pids(&a), 2);
    t.retire(&child);
    t.retire(&parent);
    assert_eq!(t.pids(&a), 0);
    assert_eq!(t.rmdir(&a), Ok(()));
    assert_eq!(t.pump(), 0);
    let stat = t.h.stat(t.h.root());
    assert_eq!((stat.nr_dying_descendants, stat.subsys[2].dying), (0, 0));
}

#[test]
fn a_css_that_is_switched_off_takes_its_tasks_charges_to_the_one_above() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    t.write("+pids", &a).unwrap();
    let b = t.mkdir(&a, "b");
    let css = b.css("pids").unwrap();
    let task = t.spawn(&b);
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 1));
    t.write("-pids", &a).unwrap();
    assert_eq!(t.pids(&a), 1, "nothing changes for those above");
    assert!(!css.is_populated() && a.css("pids").unwrap().is_populated());
    t.pump();
    assert_eq!(t.h.lifecycle(&CssRef::Of(css)).phase, Phase::Freed);
    // The set of a cgroup without the css counts at the nearest one above.
    t.exit(&task);
    t.dead(&task);
    assert!(!a.css("pids").unwrap().is_populated());
}

#[test]
fn a_controller_that_is_only_depended_upon_has_no_files() {
    let mut t = Tree::new();
    let a = t.top("a");
    t.log();
    t.on_root("+io").unwrap();
    assert_eq!(t.controllers(&a), ["io"]);
    let memory = a.css("memory").expect("io needs it");
    assert!(!memory.is_visible() && a.css("io").unwrap().is_visible());
    assert_eq!(
        t.log(),
        ["memory alloc 2", "memory online 2", "io alloc 2", "io online 2", "memory reset 2"]
    );
    // Asked for, it is the same css that shows its files.
    t.on_root("+memory").unwrap();
    assert!(memory.is_visible() && a.css("memory").unwrap().id() == memory.id());
    assert_eq!(t.log(), [""; 0]);
    // Not asked for any more, it is hidden, and reset with every pass.
    t.on_root("-memory").unwrap();
    assert!(!memory.is_visible() && memory.is_online() && !memory.is_dying());
    assert_eq!(t.log(), ["memory reset 2"]);
    t.on_root("+cpu").unwrap();
    assert_eq!(t.log(), ["cpu alloc 2", "cpu online 2", "memory reset 2"]);
    // With the last that needs it, it goes.
    t.on_root("-io").unwrap();
    assert!(memory.is_dying());
    assert_eq!(t.log(), ["memory killed 2", "io killed 2"]);
}

#[test]
fn a_controller_works_without_one_it_depends_on_that_is_not_to_be_had() {
    let io =
        Recorder { name: "io", switched: true, depends_on: &["memory"], ..Recorder::default() };
    let mut t = Tree::with(Hierarchy::builder().controller(Arc::new(io)));
    let a = t.top("a");
    t.on_root("+io").unwrap();
    assert!(a.css("io").is_some_and(|css| css.is_visible()));
    assert_eq!(t.controllers(&a), ["io"]);
}

#[test]
fn a_failed_write_leaves_everything_as_it_was_but_the_traces_of_trying() {
    for online in [true, false] {
        let mut t = Tree::new();
        let a = t.top("a");
        let b = t.top("b");
        let task = t.spawn(&a);
        t.on_root("+pids").unwrap();
        t.log();
        if online {
            t.io.refuse_online(Some(Errno::ENOMEM));
        } else {
            t.io.refuse_attach(Some(Errno::EINVAL));
        }
        let errno = if online { Errno::ENOMEM } else { Errno::EINVAL };
        assert_eq!(t.on_root("+io +cpu -pids"), Err(errno));
        assert_eq!(t.control(t.h.root()), ["pids"]);
        assert!(a.css("pids").is_some_and(|css| css.is_visible() && !css.is_dying()));
        assert_eq!((t.pids(&a), t.pids(&b)), (1, 0));
        // What was made on the way dies as anything does.
        let dying = t.h.stat(t.h.root()).subsys.iter().map(|it| it.dying).collect::<Vec<_>>();
        assert_eq!(dying, if online { [1, 1, 0, 0] } else { [2, 2, 0, 2] });
        t.pump();
        assert!(a.css("cpu").is_none() && a.css("io").is_none());
        assert!(t.h.stat(t.h.root()).subsys.iter().all(|it| it.dying == 0));
        // And nobody was moved for good.
        t.io.refuse_online(None);
        t.io.refuse_attach(None);
        assert_eq!(t.on_root("+io +cpu -pids"), Ok(()));
        assert_eq!(t.control(t.h.root()), ["cpu", "io"]);
        t.retire(&task);
        t.rmdir(&a).unwrap();
        t.rmdir(&b).unwrap();
        assert_eq!(t.pump(), 0);
        assert_eq!(t.h.stat(t.h.root()).nr_dying_descendants, 0);
    }
}

#[test]
fn controllers_that_granted_a_move_are_told_when_a_later_one_refuses() {
    let mut t = Tree::new();
    let a = t.top("a");
    let task = t.spawn(&a);
    t.io.refuse_attach(Some(Errno::EINVAL));
    t.log();
    assert_eq!(t.on_root("+cpu +io"), Err(Errno::EINVAL));
    let asked: Vec<_> = t.log().into_iter().filter(|line| line.contains("attach")).collect();
    let id = task.id();
    assert_eq!(
        asked,
        [
            format!("cpu can_attach {id}"),
            format!("memory can_attach {id}"),
            format!("io can_attach {id}"),
            format!("cpu cancel_attach {id}"),
            format!("memory cancel_attach {id}"),
        ]
    );
    t.io.refuse_attach(None);
    t.pump();
    t.log();
    t.on_root("+cpu").unwrap();
    let asked: Vec<_> = t.log().into_iter().filter(|line| line.contains("attach")).collect();
    assert_eq!(asked, [format!("cpu can_attach {id}"), format!("cpu attach {id}")]);
}

#[test]
fn an_implicit_controller_is_everywhere_and_listed_nowhere() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let perf = Recorder { name: "perf_event", log, ..Recorder::default() };
    let mut t = Tree::with(Hierarchy::builder().controller(Arc::new(perf)));
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    assert!(b.css("perf_event").is_some_and(|css| css.is_visible()));
    assert_eq!(t.controllers(t.h.root()), [""; 0]);
    assert_eq!(t.on_root("+perf_event"), Err(Errno::ENOENT));
    assert_eq!(t.on_root("-perf_event"), Ok(()), "it is not on");
    let stat = t.h.stat(t.h.root());
    assert_eq!((stat.subsys[0].live, stat.subsys[0].dying), (3, 0), "but it is counted");
}

#[test]
fn csses_are_counted_by_controller() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    t.write("+pids", &a).unwrap();
    let b = t.mkdir(&a, "b");
    t.mkdir(&b, "c");
    let pids = |t: &Tree, at: &Arc<Cgroup>| {
        let stat = t.h.stat(at);
        assert_eq!(stat.subsys[2].name, "pids");
        (stat.nr_descendants, stat.subsys[2].live, stat.subsys[2].dying)
    };
    assert_eq!(pids(&t, &t.root()), (3, 3, 0));
    assert_eq!(pids(&t, &b), (1, 1, 0), "c has none");
    let task = t.spawn(&b);
    t.exit(&task);
    t.write("-pids", &a).unwrap();
    // Until it is offline, a css that is switched off is counted as both.
    assert_eq!(pids(&t, &b), (1, 1, 1));
    assert_eq!(pids(&t, &a), (2, 1, 1));
    assert_eq!(pids(&t, &t.root()), (3, 2, 1));
    t.dead(&task);
    t.pump();
    assert_eq!(pids(&t, &b), (1, 0, 1), "offline, but the zombie holds it");
    t.reap(&task);
    t.free(&task);
    t.pump();
    assert_eq!(pids(&t, &t.root()), (3, 2, 0));
}

#[test]
fn a_removed_css_takes_no_writes() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let pids = Pids::css(&a).unwrap();
    t.on_root("-pids").unwrap();
    assert_eq!(pids.set_max(Limit::N(1)), Err(Errno::ENODEV));
    assert_eq!(pids.set_max(Limit::N(PID_MAX_LIMIT + 1)), Err(Errno::ENODEV), "before all else");
    assert_eq!(pids.max(), Limit::Max);
}

/// A cgroup may be called what a controller's file is, until the file is to be
/// there.
#[test]
fn a_file_that_would_have_a_cgroups_name_keeps_its_controller_off() {
    let mut t = Tree::new();
    let a = t.top("a");
    let b = t.mkdir(&a, "memory.max");
    let root = t.h.root().clone();
    let on = t.h.mask(&["pids", "memory"]).unwrap();
    let is_file = |controller: &str, name: &str| (controller, name) == ("memory", "memory.max");
    let write = |t: &mut Tree| {
        let (h, none) = (t.h.clone(), SsMask::NONE);
        let written = h.write_subtree_control_unless(&root, on, none, &is_file, &mut t.fx);
        written.map_err(|error| error.errno())
    };
    assert_eq!(write(&mut t), Err(Some(Errno::EEXIST)));
    assert_eq!(t.control(&root), [""; 0]);
    t.pump();
    assert!(a.css("pids").is_none(), "the one that could have been is taken down again");
    t.rmdir(&b).unwrap();
    let first = write(&mut t);
    assert_eq!(first, Ok(()));
    let shows = a.css("memory").unwrap().shows();
    assert_eq!(write(&mut t), Ok(()), "on already");
    assert_eq!(a.css("memory").unwrap().shows(), shows);
}

/// Each toggle leaves a set behind, and a zombie holds the one it died in.
#[test]
fn a_zombie_holds_no_css_that_came_after_its_own() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let (zombie, _live) = (t.spawn(&a), t.spawn(&a));
    t.exit(&zombie);
    t.dead(&zombie);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(Arc::downgrade(&Pids::css(&a).unwrap()));
        toggle_pids(&mut t);
    }
    t.pump();
    let held = |seen: &[Weak<PidsCss>]| seen.iter().filter_map(Weak::upgrade).count();
    assert_eq!((held(&seen[..1]), held(&seen[1..])), (1, 0));
    t.reap(&zombie);
    t.free(&zombie);
    t.pump();
    assert_eq!(held(&seen), 0);
}

/// A set says where its fork in flight went, so one that is held holds all that
/// came after it. They are not dropped by a recursion.
#[test]
fn the_way_of_a_fork_that_moved_often_is_dropped_on_a_small_stack() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let (zombie, parent) = (t.spawn(&a), t.spawn(&a));
    let place = t.place(ForkFrom::Task(&parent)).unwrap();
    t.exit(&zombie);
    t.dead(&zombie);
    (0..2_000).for_each(|_| toggle_pids(&mut t));
    place.cancel(&mut t.fx);
    assert_eq!(t.pids(&a), 1);
    t.reap(&zombie);
    let (h, small) = (t.h.clone(), std::thread::Builder::new().stack_size(128 << 10));
    let free = move || h.free(&zombie, &mut Effects::at(Time(0)));
    assert_eq!(small.spawn(free).unwrap().join().unwrap(), Ok(()));
}

fn toggle_pids(t: &mut Tree) {
    t.on_root("-pids").unwrap();
    t.pump();
    t.on_root("+pids").unwrap();
    t.fx.drain().for_each(drop);
}
