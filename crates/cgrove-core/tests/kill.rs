//! `cgroup.kill`: whom it reaches, and where it is refused.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::Arc;
use support::Tree;

fn kill(t: &mut Tree, cgroup: &Arc<Cgroup>) -> Result<Vec<TaskId>, Errno> {
    let t = &mut **t;
    t.fx.drain().for_each(drop);
    t.h.kill(cgroup, &mut t.fx)?;
    let killed = |effect| match effect {
        Effect::Kill(task) => Some(task),
        _ => None,
    };
    let mut tasks: Vec<_> = t.fx.drain().filter_map(killed).collect();
    tasks.sort();
    Ok(tasks)
}

#[test]
fn a_threaded_cgroup_has_no_processes_to_kill_and_its_domain_has() {
    let mut t = Tree::new();
    let r = t.top("r");
    let threaded = t.mkdir(&r, "t");
    t.make_threaded(&threaded).unwrap();
    let leader = t.spawn(&threaded);
    let apart = t.spawn(&r);
    let thread = t.thread(&apart);
    t.move_thread(&thread, &threaded).unwrap();
    assert_eq!(kill(&mut t, &threaded), Err(Errno::EOPNOTSUPP));
    assert_eq!(kill(&mut t, &r), Ok(vec![leader.id(), apart.id()]));
    t.retire(&leader);
    t.retire(&thread);
    t.retire(&apart);
    t.rmdir(&threaded).unwrap();
    assert_eq!(kill(&mut t, &threaded), Err(Errno::ENOENT), "dead before threaded");
}

#[test]
fn a_process_of_which_only_a_thread_is_there_dies_whole() {
    let mut t = Tree::new();
    let a = t.top("a");
    let leader = t.spawn(&a);
    let thread = t.thread(&leader);
    t.exit(&leader);
    t.dead(&leader);
    assert_eq!(kill(&mut t, &a), Ok(vec![leader.id()]), "a dead leader stands for its thread");
    assert_eq!(kill(&mut t, &a), Ok(vec![]), "killed once");
    t.exit(&thread);
    let other = t.spawn(&a);
    t.exit(&other);
    assert_eq!(kill(&mut t, &a), Ok(vec![]), "on its way out already");
}

#[test]
fn the_root_and_removed_cgroups() {
    let mut t = Tree::new();
    let a = t.top("a");
    let task = t.spawn(&a);
    let root = t.root();
    assert_eq!(kill(&mut t, &root), Ok(vec![task.id()]), "the core has it; the root has no file");
    t.exit(&task);
    t.rmdir(&a).unwrap();
    assert_eq!(kill(&mut t, &a), Err(Errno::ENOENT));
}

#[test]
fn a_fork_in_flight_that_moves_sets_does_not_escape() {
    let mut t = Tree::new();
    let a = t.top("a");
    let parent = t.spawn(&a);
    let place = t.place(ForkFrom::Task(&parent)).unwrap();
    t.on_root("+pids").unwrap();
    assert_eq!(kill(&mut t, &a), Ok(vec![parent.id()]));
    t.on_root("-pids").unwrap();
    let child = t.publish(place, Membership::Process);
    assert!(child.stage().contains(Stage::KILLED));
}

#[test]
fn a_thread_that_follows_its_process_is_not_killed_for_where_it_was() {
    let mut t = Tree::new();
    let (a, b) = (t.top("a"), t.top("b"));
    let leader = t.spawn(&a);
    let place = t.place(ForkFrom::Task(&leader)).unwrap();
    t.move_process(&leader, &b).unwrap();
    assert_eq!(kill(&mut t, &a), Ok(vec![]), "nobody is there");
    let thread = t.publish(place, Membership::ThreadOf(&leader));
    assert_eq!(thread.cgroup().unwrap().id(), b.id());
    assert!(!leader.stage().contains(Stage::KILLED));
}

#[test]
fn a_frozen_process_is_killed_too() {
    let mut t = Tree::new();
    let a = t.top("a");
    let task = t.spawn(&a);
    let w = &mut *t;
    w.h.set_freeze(&a, true, &mut w.fx).unwrap();
    w.h.enter_frozen(&task, &mut w.fx);
    assert_eq!(kill(&mut t, &a), Ok(vec![task.id()]));
    t.retire(&task);
    assert!(a.frozen() && !a.populated());
}
