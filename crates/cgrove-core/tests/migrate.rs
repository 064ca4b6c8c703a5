//! Moving processes and threads: who moves, who may, and what others see of it.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::Arc;
use support::{Tree, ids};

const MS: u64 = 1_000_000;

fn two() -> (Tree, Arc<Cgroup>, Arc<Cgroup>) {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let (a, b) = (t.top("a"), t.top("b"));
    (t, a, b)
}

#[test]
fn a_process_moves_with_all_its_threads_whichever_is_named() {
    let (mut t, a, b) = two();
    let leader = t.spawn(&a);
    let threads = [t.thread(&leader), t.thread(&leader)];
    let other = t.spawn(&a);
    t.move_process(&threads[1], &b).unwrap();
    assert_eq!(ids(t.h.procs(&b).unwrap()), [leader.id()]);
    assert_eq!(ids(t.h.threads(&b)), [leader.id(), threads[0].id(), threads[1].id()]);
    assert_eq!(ids(t.h.threads(&a)), [other.id()]);
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 3));
    t.move_process(&leader, &b).unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 3), "where it is already");
    let root = t.root();
    t.move_process(&leader, &root).unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 0), "the root is not charged");
    assert_eq!(t.rmdir(&b), Ok(()));
}

#[test]
fn moving_the_only_task_between_siblings_tells_nobody_above() {
    let mut t = Tree::new();
    let p = t.top("p");
    let (a, b) = (t.mkdir(&p, "a"), t.mkdir(&p, "b"));
    let task = t.spawn(&a);
    t.fx.set_now(Time(100 * MS));
    t.notified();
    t.move_process(&task, &b).unwrap();
    let changed = [format!("{}/cgroup.events", b.id()), format!("{}/cgroup.events", a.id())];
    assert_eq!(t.notified(), changed, "the destination first");
    assert!(p.populated() && b.populated() && !a.populated());
}

/// A count kept per task instead of per set drifts here: the parent's task and
/// the child's both populate the parent, in two ways.
#[test]
fn populated_does_not_drift_when_the_child_empties_before_the_parent() {
    let mut t = Tree::new();
    let p = t.top("p");
    let a = t.mkdir(&p, "a");
    let g = t.mkdir(&a, "g");
    let (in_a, in_g) = (t.spawn(&a), t.spawn(&g));
    t.retire(&in_g);
    assert!(p.populated() && a.populated() && !g.populated());
    t.retire(&in_a);
    assert!(!p.populated() && !a.populated());
    for cgroup in [&g, &a, &p] {
        assert_eq!(t.rmdir(cgroup), Ok(()));
    }
}

#[test]
fn tasks_on_their_way_out_stay_behind_in_silence() {
    let (mut t, a, b) = two();
    // A zombie: success, and nothing happens.
    let zombie = t.spawn(&a);
    t.exit(&zombie);
    assert_eq!(t.move_process(&zombie, &b), Ok(()));
    t.dead(&zombie);
    assert_eq!(t.move_process(&zombie, &b), Ok(()));
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 0));
    assert_eq!(zombie.cgroup().unwrap().id(), a.id());
    t.reap(&zombie);
    t.free(&zombie);
    assert_eq!(t.move_process(&zombie, &b), Err(Errno::ESRCH));

    // A dead leader with a live thread: the thread moves and the leader does not.
    let leader = t.spawn(&a);
    let thread = t.thread(&leader);
    t.exit(&leader);
    t.dead(&leader);
    t.move_process(&thread, &b).unwrap();
    assert_eq!(ids(t.h.procs(&a).unwrap()), [leader.id()], "the pid is still listed here");
    assert_eq!(ids(t.h.procs(&b).unwrap()), []);
    assert_eq!((ids(t.h.threads(&a)), ids(t.h.threads(&b))), (vec![], vec![thread.id()]));
    assert!(!a.populated());
    assert_eq!(t.rmdir(&a), Ok(()));
    // A new thread of the process is born where the process is.
    let place = t.place(ForkFrom::Task(&thread)).unwrap();
    let born = t.publish(place, Membership::ThreadOf(&leader));
    assert_eq!(born.cgroup().unwrap().id(), b.id());
}

#[test]
fn refusals_come_in_linuxs_order() {
    let mut t = Tree::new();
    t.on_root("+pids +memory +cpu").unwrap();
    let (a, b) = (t.top("a"), t.top("b"));
    let task = t.spawn(&a);
    let gone = t.top("gone");
    t.rmdir(&gone).unwrap();
    let nobody = Opener { may_write: &|_| Err(Errno::EACCES), namespace: Some(&a) };
    let jailed = Opener { namespace: Some(&a), ..Opener::ROOT };
    let at = |t: &mut Tree, to: &Arc<Cgroup>, who: &Arc<Task>, scope, opener: &Opener<'_>| {
        let (h, fx) = (t.h.clone(), &mut t.fx);
        h.attach(to, scope, || Ok(who.clone()), opener, fx)
    };
    // Dead before the number is even looked at.
    let (h, fx) = (t.h.clone(), &mut t.fx);
    let unasked = || panic!("not asked");
    assert_eq!(h.attach(&gone, Scope::Process, unasked, &nobody, fx), Err(Errno::ENODEV));
    let bad = || Err(Errno::EINVAL);
    assert_eq!(h.attach(&b, Scope::Process, bad, &nobody, fx), Err(Errno::EINVAL));
    // Bound before rights, rights before namespaces, both before the place.
    let bound = t.spawn(&a);
    bound.bind();
    assert_eq!(at(&mut t, &b, &bound, Scope::Process, &nobody), Err(Errno::EINVAL));
    t.write("+memory", &b).unwrap();
    assert_eq!(at(&mut t, &b, &task, Scope::Process, &nobody), Err(Errno::EACCES));
    assert_eq!(at(&mut t, &b, &task, Scope::Process, &jailed), Err(Errno::ENOENT));
    assert_eq!(at(&mut t, &b, &task, Scope::Process, &Opener::ROOT), Err(Errno::EBUSY));
    assert_eq!(at(&mut t, &b, &task, Scope::Thread, &Opener::ROOT), Err(Errno::EBUSY));
    let c = t.top("c");
    assert_eq!(at(&mut t, &c, &task, Scope::Thread, &Opener::ROOT), Err(Errno::EOPNOTSUPP));
    // An invalid domain before the rule against internal processes.
    let root_of_threads = t.top("r");
    let threaded = t.mkdir(&root_of_threads, "t");
    t.make_threaded(&threaded).unwrap();
    let invalid = t.mkdir(&root_of_threads, "i");
    assert_eq!(t.h.cgroup_type(&invalid), CgroupType::DomainInvalid);
    assert_eq!(at(&mut t, &invalid, &task, Scope::Process, &Opener::ROOT), Err(Errno::EOPNOTSUPP));
    // The controllers last.
    let d = t.top("d");
    t.on_root("+io").unwrap();
    t.io.refuse_attach(Some(Errno::ENOMEM));
    assert_eq!(at(&mut t, &d, &task, Scope::Process, &Opener::ROOT), Err(Errno::ENOMEM));
    assert_eq!(task.cgroup().unwrap().id(), a.id());
    assert_eq!((t.pids(&a), t.pids(&d)), (2, 0), "nobody moved");
}

#[test]
fn the_common_ancestor_decides_who_may_move() {
    let mut t = Tree::new();
    let given = t.top("given");
    let (a, b) = (t.mkdir(&given, "a"), t.mkdir(&given, "b"));
    let outside = t.top("outside");
    let task = t.spawn(&a);
    // Owner of `given` and all below.
    let inside = |at: &Cgroup| match at.path().starts_with("/given") {
        true => Ok(()),
        false => Err(Errno::EACCES),
    };
    let owner = Opener { may_write: &inside, namespace: None };
    let (h, fx) = (t.h.clone(), &mut t.fx);
    let who = || Ok(task.clone());
    assert_eq!(h.attach(&b, Scope::Process, who, &owner, fx), Ok(()));
    assert_eq!(h.attach(&given, Scope::Process, who, &owner, fx), Ok(()));
    assert_eq!(h.attach(&outside, Scope::Process, who, &owner, fx), Err(Errno::EACCES), "out");
    h.attach(&outside, Scope::Process, who, &Opener::ROOT, fx).unwrap();
    assert_eq!(h.attach(&a, Scope::Process, who, &owner, fx), Err(Errno::EACCES), "in");
    // The boundary of a namespace holds for those who have every right.
    let jailed = Opener { namespace: Some(&given), ..Opener::ROOT };
    assert_eq!(h.attach(&a, Scope::Process, who, &jailed, fx), Err(Errno::ENOENT));
}

#[test]
fn a_refused_move_undoes_what_was_granted() {
    let mut t = Tree::new();
    t.on_root("+cpu +io +pids").unwrap();
    let (a, b) = (t.top("a"), t.top("b"));
    let leader = t.spawn(&a);
    let thread = t.thread(&leader);
    t.io.refuse_attach(Some(Errno::ENOMEM));
    t.log();
    assert_eq!(t.move_process(&leader, &b), Err(Errno::ENOMEM));
    let tasks = [leader.id(), thread.id()];
    let lines = ["cpu can", "memory can", "io can", "cpu cancel", "memory cancel"];
    let expected: Vec<_> = lines
        .iter()
        .flat_map(|verb| tasks.iter().map(move |id| format!("{verb}_attach {id}")))
        .collect();
    assert_eq!(t.log(), expected);
    assert_eq!((t.pids(&a), t.pids(&b)), (2, 0));
    assert!(!b.populated());
    // Whoever was held for the move runs on.
    t.place(ForkFrom::Task(&thread)).unwrap().cancel(&mut t.fx);
    t.exit(&thread);
}

#[test]
fn a_fork_in_flight_stays_and_a_thread_in_flight_follows_its_process() {
    let (mut t, a, b) = two();
    let leader = t.spawn(&a);
    let child = t.place(ForkFrom::Task(&leader)).unwrap();
    let thread = t.place(ForkFrom::Task(&leader)).unwrap();
    t.move_process(&leader, &b).unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (2, 1));
    let child = t.publish(child, Membership::Process);
    let thread = t.publish(thread, Membership::ThreadOf(&leader));
    assert_eq!(child.cgroup().unwrap().id(), a.id());
    assert_eq!(thread.cgroup().unwrap().id(), b.id(), "a process is in one domain");
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 2));
    for task in [&child, &thread, &leader] {
        t.retire(task);
    }
    assert_eq!((t.pids(&a), t.pids(&b)), (0, 0));
    let elsewhere = t.spawn(&a);
    let id = t.id();
    let (h, fx) = (t.h.clone(), &mut t.fx);
    let stray = h.adopt(&b, id, Membership::ThreadOf(&elsewhere), fx);
    assert_eq!(stray.unwrap_err(), Errno::EOPNOTSUPP);
}

#[test]
fn moving_in_is_not_bounded_by_pids_max() {
    let (mut t, a, b) = two();
    Pids::css(&b).unwrap().set_max(Limit::N(1)).unwrap();
    let leader = t.spawn(&a);
    t.thread(&leader);
    t.move_process(&leader, &b).unwrap();
    let pids = Pids::css(&b).unwrap();
    assert_eq!((pids.current(), pids.peak(), pids.events()), (2, 2, 0));
    assert_eq!(t.place(ForkFrom::Task(&leader)).unwrap_err(), Errno::EAGAIN);
}

#[test]
fn clone_into_a_cgroup_asks_for_the_right_to_it_first() {
    let mut t = Tree::new();
    t.on_root("+memory +pids").unwrap();
    let (a, b, gone) = (t.top("a"), t.top("b"), t.top("gone"));
    t.rmdir(&gone).unwrap();
    let forker = t.spawn(&a);
    fn into<'a>(
        forker: &'a Arc<Task>,
        cgroup: &'a Arc<Cgroup>,
        scope: Scope,
        opener: Opener<'a>,
    ) -> ForkFrom<'a> {
        ForkFrom::Into { forker, cgroup, scope, opener }
    }
    let asked = std::sync::Mutex::new(Vec::new());
    let refuse = |at: &Cgroup| {
        asked.lock().unwrap().push(at.path());
        if asked.lock().unwrap().len() == 2 { Err(Errno::EACCES) } else { Ok(()) }
    };
    let opener = Opener { may_write: &refuse, namespace: None };
    let root = Opener::ROOT;
    let process = Scope::Process;
    assert_eq!(t.place(into(&forker, &gone, process, opener)).unwrap_err(), Errno::ENODEV);
    assert_eq!(t.place(into(&forker, &b, process, opener)).unwrap_err(), Errno::EACCES);
    assert_eq!(*asked.lock().unwrap(), ["/b", "/"], "the target, then the common ancestor");
    let jailed = Opener { namespace: Some(&a), ..root };
    assert_eq!(t.place(into(&forker, &b, process, jailed)).unwrap_err(), Errno::ENOENT);
    assert_eq!(t.place(into(&forker, &b, Scope::Thread, root)).unwrap_err(), Errno::EOPNOTSUPP);
    let place = t.place(into(&forker, &b, process, root)).unwrap();
    let child = t.publish(place, Membership::Process);
    assert_eq!((child.cgroup().unwrap().id(), t.pids(&b)), (b.id(), 1));
    t.retire(&child);
    t.write("+memory", &b).unwrap();
    assert_eq!(t.place(into(&forker, &b, process, root)).unwrap_err(), Errno::EBUSY);
    t.exit(&forker);
    assert_eq!(t.place(into(&forker, &b, process, root)).unwrap_err(), Errno::ESRCH);
}

/// The kill sequence number of the target is the one that counts. Linux before
/// 7.2.13 sampled the parent's and killed the child for nothing.
#[test]
fn a_child_is_not_killed_for_what_its_target_went_through_before() {
    let (mut t, a, b) = two();
    let forker = t.spawn(&a);
    let h = t.h.clone();
    h.kill(&b, &mut t.fx).unwrap();
    t.fx.drain().for_each(drop);
    let opener = Opener::ROOT;
    let from = ForkFrom::Into { forker: &forker, cgroup: &b, scope: Scope::Process, opener };
    let place = t.place(from).unwrap();
    let child = t.publish(place, Membership::Process);
    assert!(!child.stage().contains(Stage::KILLED));
    let place = t.place(from).unwrap();
    h.kill(&b, &mut t.fx).unwrap();
    let child = t.publish(place, Membership::Process);
    assert!(child.stage().contains(Stage::KILLED), "but for what it meets while it is born");
}

/// Forks, exits, moves and switches all at once: the books balance.
#[test]
fn nothing_is_lost_when_everything_happens_at_once() {
    let (mut t, a, b) = two();
    let h = t.h.clone();
    let next = std::sync::atomic::AtomicU64::new(1000);
    let leaders = [t.spawn(&a), t.spawn(&b)];
    std::thread::scope(|scope| {
        for leader in &leaders {
            let (h, next) = (h.clone(), &next);
            scope.spawn(move || {
                let mut fx = Effects::at(Time(0));
                for round in 0..3000 {
                    let id = TaskId(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                    let how = match round % 2 {
                        0 => Membership::Process,
                        _ => Membership::ThreadOf(leader),
                    };
                    let place = h.fork(ForkFrom::Task(leader), &mut fx).unwrap();
                    if round % 7 == 0 {
                        place.cancel(&mut fx);
                    } else {
                        let child = place.publish(id, how, &mut fx);
                        h.retire(&child, &mut fx).unwrap();
                    }
                    fx.drain().for_each(drop);
                }
            });
        }
        let pids = h.mask(&["pids"]).unwrap();
        let mut fx = Effects::at(Time(0));
        for round in 0..1500 {
            let to = [&a, &b][round % 2];
            let who = || Ok(leaders[round / 2 % 2].clone());
            h.attach(to, Scope::Process, who, &Opener::ROOT, &mut fx).unwrap();
            let (on, off) = [(SsMask::NONE, pids), (pids, SsMask::NONE)][round % 2];
            while let Err(why) = h.write_subtree_control(h.root(), on, off, &mut fx) {
                assert!(why.draining().is_some(), "{why}");
                h.pump(&mut fx);
            }
            h.pump(&mut fx);
            fx.drain().for_each(drop);
        }
    });
    t.on_root("+pids").unwrap();
    assert_eq!(t.pids(&a) + t.pids(&b), 2);
    for leader in &leaders {
        t.retire(leader);
    }
    assert_eq!((t.pids(&a), t.pids(&b)), (0, 0));
    assert!(!t.h.root().populated());
    assert_eq!((t.rmdir(&a), t.rmdir(&b)), (Ok(()), Ok(())));
    assert_eq!(t.pump(), 0);
    let stat = t.h.stat(t.h.root());
    assert_eq!((stat.nr_dying_descendants, stat.subsys[2].dying), (0, 0));
}

#[test]
fn the_opener_must_be_able_to_write_to_the_nearest_cgroup_above_both() {
    let mut t = Tree::new();
    let (a, b) = (t.top("a"), t.top("b"));
    let (aa, ab) = (t.mkdir(&a, "a"), t.mkdir(&a, "b"));
    let aaa = t.mkdir(&aa, "a");
    let root = t.root();
    let cases = [
        (&aaa, &aaa, &aaa),
        (&aaa, &aa, &aa),
        (&a, &aaa, &a),
        (&aaa, &ab, &a),
        (&ab, &aaa, &a),
        (&aaa, &b, &root),
        (&b, &root, &root),
    ];
    for (from, to, above) in cases {
        let task = t.spawn(from);
        let asked = std::cell::Cell::new(None);
        let may_write = |cgroup: &Cgroup| {
            assert_eq!(asked.replace(Some(cgroup.id())), None, "asked once");
            Ok(())
        };
        let opener = Opener { may_write: &may_write, namespace: None };
        let w = &mut *t;
        w.h.attach(to, Scope::Process, || Ok(task.clone()), &opener, &mut w.fx).unwrap();
        assert_eq!(asked.get(), Some(above.id()), "from {from:?} to {to:?}");
        t.retire(&task);
    }
}
