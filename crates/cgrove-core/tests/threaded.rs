//! Threaded mode: types, who may join a domain, and threads that part.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::CgroupType::{Domain, DomainInvalid, DomainThreaded, Threaded};
use cgrove_core::*;
use std::sync::Arc;
use support::{Tree, ids};

/// A domain `r` with a threaded child `t`.
fn domain() -> (Tree, Arc<Cgroup>, Arc<Cgroup>) {
    let mut t = Tree::new();
    t.on_root("+cpu +pids +memory").unwrap();
    let r = t.top("r");
    let child = t.mkdir(&r, "t");
    t.make_threaded(&child).unwrap();
    (t, r, child)
}

#[test]
fn types_follow_from_the_place() {
    let (mut t, r, child) = domain();
    let kind = |t: &Tree, at: &Arc<Cgroup>| t.h.cgroup_type(at);
    assert_eq!((kind(&t, &r), kind(&t, &child)), (DomainThreaded, Threaded));
    let sibling = t.mkdir(&r, "s");
    let below = t.mkdir(&child, "u");
    assert_eq!((kind(&t, &sibling), kind(&t, &below)), (DomainInvalid, DomainInvalid));
    // An invalid domain can still join, in either place.
    t.make_threaded(&sibling).unwrap();
    t.make_threaded(&below).unwrap();
    assert_eq!((kind(&t, &sibling), kind(&t, &below)), (Threaded, Threaded));
    assert_eq!(t.make_threaded(&below), Ok(()), "no change is no error");
    // With its threaded children gone the domain is an ordinary one.
    for cgroup in [&below, &child, &sibling] {
        assert_eq!(kind(&t, &r), DomainThreaded);
        t.rmdir(cgroup).unwrap();
    }
    assert_eq!(kind(&t, &r), Domain);
    let names = [Domain, DomainThreaded, DomainInvalid, Threaded].map(|kind| kind.to_string());
    assert_eq!(names, ["domain", "domain threaded", "domain invalid", "threaded"]);
}

#[test]
fn tasks_and_domain_controllers_keep_a_cgroup_from_joining() {
    let mut t = Tree::new();
    t.on_root("+cpu +pids +memory").unwrap();
    let root = t.root();
    assert_eq!(t.make_threaded(&root), Err(Errno::ENOENT), "the root has no such file");
    let r = t.top("r");
    let a = t.mkdir(&r, "a");
    // Tasks in the subtree, those on their way out and those not yet born.
    let task = t.spawn(&a);
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP));
    t.exit(&task);
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP));
    t.dead(&task);
    let place = t.place(ForkFrom::Cgroup(&a)).unwrap();
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP));
    drop(place);
    // A domain controller of its own, or of its parent's.
    t.write("+memory", &r).unwrap();
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP), "the parent gives out memory");
    t.write("+memory", &a).unwrap();
    assert_eq!(t.make_threaded(&r), Err(Errno::EOPNOTSUPP), "it gives out memory itself");
    t.write("-memory", &a).unwrap();
    t.write("-memory", &r).unwrap();
    t.pump();
    // A populated domain beside it, even one that is removed already.
    let b = t.mkdir(&r, "b");
    let task = t.spawn(&b);
    t.exit(&task);
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP));
    t.rmdir(&b).unwrap();
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP), "its task has not left");
    t.dead(&task);
    assert_eq!(t.make_threaded(&a), Ok(()));
    t.rmdir(&a).unwrap();
    assert_eq!(t.make_threaded(&a), Err(Errno::ENOENT));
}

#[test]
fn a_threaded_cgroup_has_threaded_controllers_only() {
    let mut t = Tree::new();
    t.on_root("+cpu +pids +memory").unwrap();
    let a = t.top("a");
    let memory = a.css("memory").unwrap();
    assert_eq!(t.controllers(&a), ["cpu", "memory", "pids"]);
    t.make_threaded(&a).unwrap();
    assert_eq!(t.controllers(&a), ["cpu", "pids"]);
    assert!(memory.is_dying() && !a.css("cpu").unwrap().is_dying());
    t.pump();
    assert!(a.css("memory").is_none());
    assert_eq!(t.write("+memory", &a), Err(Errno::ENOENT));
    // With tasks inside: the rule against internal processes is not for threads.
    let task = t.spawn(&a);
    t.write("+cpu +pids", &a).unwrap();
    let b = t.mkdir(&a, "b");
    t.make_threaded(&b).unwrap();
    assert_eq!(t.controllers(&b), ["cpu", "pids"]);
    t.move_thread(&task, &b).unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 1));
}

#[test]
fn a_domain_controller_is_refused_in_a_threaded_subtree() {
    let (mut t, r, child) = domain();
    assert_eq!(t.write("+memory", &r), Err(Errno::EOPNOTSUPP), "a thread root");
    t.write("+cpu", &r).unwrap();
    assert_eq!(t.write("+memory", &child), Err(Errno::ENOENT));
    let invalid = t.mkdir(&r, "i");
    assert_eq!(t.write("+cpu", &invalid), Err(Errno::EOPNOTSUPP), "an invalid domain");
    assert_eq!(t.write("+memory", &invalid), Err(Errno::ENOENT), "which is asked first");
}

#[test]
fn threads_part_within_their_domain_and_the_process_stays_in_it() {
    let (mut t, r, one) = domain();
    let two = t.mkdir(&r, "two");
    t.make_threaded(&two).unwrap();
    t.write("+pids", &r).unwrap();
    let leader = t.spawn(&r);
    let thread = t.thread(&leader);
    t.move_thread(&thread, &one).unwrap();
    assert_eq!((t.pids(&r), t.pids(&one), t.pids(&two)), (2, 1, 0));
    assert_eq!(ids(t.h.threads(&one)), [thread.id()]);
    t.move_thread(&leader, &two).unwrap();
    assert_eq!(ids(t.h.procs(&r).unwrap()), [leader.id()], "listed at the domain");
    assert_eq!(ids(t.h.threads(&r)), []);
    assert_eq!(t.h.procs(&two).unwrap_err(), Errno::EOPNOTSUPP);
    // A thread's child and a process's are born where the forker is.
    let born = t.thread(&thread);
    assert_eq!(born.cgroup().unwrap().id(), one.id());
    let place = t.place(ForkFrom::Task(&born)).unwrap();
    let process = t.publish(place, Membership::Process);
    assert_eq!(process.cgroup().unwrap().id(), one.id());
    assert_eq!(ids(t.h.procs(&r).unwrap()), [leader.id(), process.id()]);
    // Out of the domain goes the whole process or nobody.
    let other = t.top("other");
    assert_eq!(t.move_thread(&thread, &other), Err(Errno::EOPNOTSUPP));
    t.move_process(&thread, &other).unwrap();
    assert_eq!(ids(t.h.threads(&other)), [leader.id(), thread.id(), born.id()]);
    // And into a threaded cgroup too: writing its cgroup.procs is legal.
    t.move_process(&leader, &two).unwrap();
    assert_eq!((t.pids(&one), t.pids(&two)), (1, 3));
}

#[test]
fn a_process_is_listed_at_its_domain_when_its_leaders_cgroup_is_gone() {
    let (mut t, r, one) = domain();
    let leader = t.spawn(&r);
    let thread = t.thread(&leader);
    t.move_thread(&leader, &one).unwrap();
    t.exit(&leader);
    t.dead(&leader);
    t.rmdir(&one).unwrap();
    assert_eq!(ids(t.h.procs(&r).unwrap()), [leader.id()]);
    t.exit(&thread);
    assert_eq!(ids(t.h.procs(&r).unwrap()), []);
}

#[test]
fn tasks_with_threaded_controllers_make_a_domain_of_their_cgroup() {
    let mut t = Tree::new();
    t.on_root("+cpu +pids").unwrap();
    let a = t.top("a");
    t.write("+pids", &a).unwrap();
    let b = t.mkdir(&a, "b");
    assert_eq!(t.h.cgroup_type(&a), Domain);
    let place = t.place(ForkFrom::Cgroup(&a)).unwrap();
    assert_eq!((t.h.cgroup_type(&a), t.h.cgroup_type(&b)), (DomainThreaded, DomainInvalid));
    assert_eq!(t.place(ForkFrom::Cgroup(&b)).unwrap_err(), Errno::EOPNOTSUPP);
    drop(place);
    assert_eq!((t.h.cgroup_type(&a), t.h.cgroup_type(&b)), (Domain, Domain));
    // The other way round: with tasks in the child the parent can have none.
    let task = t.spawn(&b);
    assert_eq!(t.place(ForkFrom::Cgroup(&a)).unwrap_err(), Errno::EBUSY);
    assert_eq!(t.move_process(&task, &a), Err(Errno::EBUSY));
    t.retire(&task);
    t.spawn(&a);
}

#[test]
fn descendants_that_are_threaded_change_to_the_new_domain() {
    let mut t = Tree::new();
    let r = t.top("r");
    let a = t.mkdir(&r, "a");
    let b = t.mkdir(&a, "b");
    t.make_threaded(&b).unwrap();
    assert_eq!((t.h.cgroup_type(&a), t.h.cgroup_type(&r)), (DomainThreaded, Domain));
    t.make_threaded(&a).unwrap();
    let types = [&r, &a, &b].map(|at| t.h.cgroup_type(at));
    assert_eq!(types, [DomainThreaded, Threaded, Threaded]);
    let leader = t.spawn(&b);
    assert_eq!(ids(t.h.procs(&r).unwrap()), [leader.id()]);
    let thread = t.thread(&leader);
    assert_eq!(t.move_thread(&thread, &r), Ok(()), "one domain");
}

#[test]
fn a_thread_that_executes_is_the_process_from_then_on_and_stays_where_it_is() {
    let (mut t, r, one) = domain();
    t.write("+pids", &r).unwrap();
    let leader = t.spawn(&r);
    let (thread, other) = (t.thread(&leader), t.thread(&leader));
    t.move_thread(&thread, &one).unwrap();
    let exec = |t: &mut Tree, task: &Arc<Task>| {
        let w = &mut **t;
        w.h.exec(task, &mut w.fx)
    };
    assert_eq!(exec(&mut t, &thread).unwrap_err(), Errno::EBUSY, "the others live");
    for task in [&leader, &other] {
        t.retire(task);
    }
    let process = exec(&mut t, &thread).unwrap();
    assert!(process.is_leader() && process.id() == thread.id());
    assert_eq!(ids(t.h.procs(&r).unwrap()), [process.id()]);
    assert_eq!(ids(t.h.threads(&one)), [process.id()]);
    assert_eq!((t.pids(&r), t.pids(&one)), (1, 1));
    assert!(Arc::ptr_eq(&exec(&mut t, &process).unwrap(), &process), "it leads already");
    assert_eq!(exec(&mut t, &thread).unwrap_err(), Errno::ESRCH, "the old handle is freed");
    assert_eq!(t.h.exit(&thread, &mut Effects::at(Time(0))), Err(Errno::ESRCH));
    // It has threads and children, moves and dies as any.
    let born = t.thread(&process);
    t.move_process(&born, &r).unwrap();
    assert_eq!(ids(t.h.threads(&r)), [process.id(), born.id()]);
    t.retire(&born);
    t.retire(&process);
    assert_eq!((t.pids(&r), r.populated()), (0, false));
    t.rmdir(&one).unwrap();
    t.rmdir(&r).unwrap();
    assert_eq!(t.pump(), 0);
    assert_eq!(t.h.stat(t.h.root()).nr_dying_descendants, 0);
}

/// In Linux no move gets between the start of a fork and its end.
#[test]
fn a_thread_in_flight_goes_where_its_process_has_been_moved_meanwhile() {
    let mut t = Tree::new();
    t.on_root("+pids").unwrap();
    let d = t.top("d");
    t.write("+pids", &d).unwrap();
    let (a, b) = (t.mkdir(&d, "a"), t.mkdir(&d, "b"));
    t.make_threaded(&a).unwrap();
    t.make_threaded(&b).unwrap();
    let leader = t.spawn(&a);
    let other = t.thread(&leader);
    let (thread, process) =
        (t.place(ForkFrom::Task(&other)).unwrap(), t.place(ForkFrom::Task(&leader)).unwrap());
    let opener = Opener::ROOT;
    let into = ForkFrom::Into { forker: &leader, cgroup: &a, scope: Scope::Thread, opener };
    let named = t.place(into).unwrap();
    // A move that is refused, or of one thread alone, takes none of them along.
    let alone = t.place(ForkFrom::Task(&other)).unwrap();
    t.move_thread(&other, &d).unwrap();
    let left = t.publish(alone, Membership::ThreadOf(&other));
    assert_eq!(left.cgroup().unwrap().id(), a.id());

    t.move_process(&leader, &b).unwrap();
    assert_eq!((t.pids(&a), t.pids(&b)), (3, 3));
    let thread = t.publish(thread, Membership::ThreadOf(&other));
    let named = t.publish(named, Membership::ThreadOf(&leader));
    let process = t.publish(process, Membership::Process);
    let mut there = [&leader, &other, &left, &thread, &named].map(|task| task.id());
    there.sort();
    assert_eq!(ids(t.h.threads(&b)), there);
    assert_eq!(ids(t.h.threads(&a)), [process.id()], "another process by then");
    assert_eq!((t.pids(&a), t.pids(&b)), (1, 5));

    // Who forks after the move is born beside its parent, wherever that is.
    t.move_thread(&other, &a).unwrap();
    let beside = t.thread(&other);
    assert_eq!(beside.cgroup().unwrap().id(), a.id());
}

/// Whether a cgroup can be the root of a threaded subtree is not asked of its
/// children again once it is: none of them can have come to have tasks.
#[test]
fn domain_children_of_a_thread_root_have_no_way_to_get_tasks() {
    let mut t = Tree::new();
    let d = t.top("d");
    let (a, b, domain) = (t.mkdir(&d, "a"), t.mkdir(&d, "b"), t.mkdir(&d, "domain"));
    let (below, part) = (t.mkdir(&domain, "below"), t.mkdir(&domain, "part"));
    t.make_threaded(&part).unwrap();
    let place = t.place(ForkFrom::Cgroup(&part)).unwrap();
    assert_eq!(t.make_threaded(&a), Err(Errno::EOPNOTSUPP), "a fork into it is in flight");
    place.cancel(&mut t.fx);
    t.make_threaded(&a).unwrap();

    let task = t.spawn(&d);
    let opener = Opener::ROOT;
    for to in [&domain, &below, &part] {
        let into = ForkFrom::Into { forker: &task, cgroup: to, scope: Scope::Process, opener };
        assert_eq!(t.place(into).unwrap_err(), Errno::EOPNOTSUPP);
        assert_eq!(t.place(ForkFrom::Cgroup(to)).unwrap_err(), Errno::EOPNOTSUPP);
        assert_eq!(t.move_process(&task, to), Err(Errno::EOPNOTSUPP));
        let (id, w) = (t.id(), &mut *t);
        let adopted = w.h.adopt(to, id, Membership::Process, &mut w.fx);
        assert_eq!(adopted.unwrap_err(), Errno::EOPNOTSUPP);
    }
    assert_eq!(t.make_threaded(&below), Err(Errno::EOPNOTSUPP));
    t.make_threaded(&b).unwrap();

    // No threaded child, no root: from here on they are asked again.
    t.rmdir(&a).unwrap();
    t.rmdir(&b).unwrap();
    t.spawn(&domain);
    let c = t.mkdir(&d, "c");
    assert_eq!(t.make_threaded(&c), Err(Errno::EOPNOTSUPP));
}

/// What only the root may be in Linux, every cgroup is if the embedder wants it so: with tasks,
/// with controllers on for its children, and with children that have tasks.
#[test]
fn an_embedder_can_let_tasks_stay_beside_children() {
    let controllers = || Hierarchy::builder().controller(Arc::new(Pids::new()));
    for mixable in [false, true] {
        let builder = if mixable { controllers().internal_tasks() } else { controllers() };
        let mut t = Tree::with(builder);
        t.on_root("+pids").unwrap();
        let r = t.top("r");
        let own = t.spawn(&r);
        let child = t.mkdir(&r, "c");
        t.write("+pids", &r).unwrap();
        let place = t.place(ForkFrom::Cgroup(&child));
        if !mixable {
            assert!(place.is_err(), "the child of a threaded domain holds no processes");
            continue;
        }
        let below = t.publish(place.unwrap(), Membership::Process);
        let beside = t.spawn(&r);
        assert_eq!((t.pids(&r), t.pids(&child)), (3, 1));
        assert_eq!(t.h.cgroup_type(&child), Domain);
        for task in [own, below, beside] {
            t.retire(&task);
        }
        t.rmdir(&child).unwrap();
        t.rmdir(&r).unwrap();
    }
}
