//! The `pids` controller: what is charged, when, and what a refusal leaves.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::Arc;
use support::{Everywhere, World};

fn pids(cgroup: &Arc<Cgroup>) -> Arc<PidsCss> {
    Pids::css(cgroup).unwrap()
}

#[test]
fn charges_run_from_birth_to_reaping_at_every_level_but_the_root() {
    let mut w = World::new();
    assert!(Pids::css(w.h.root()).is_none());
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    let place = w.h.fork(ForkFrom::Cgroup(&b), &mut w.fx).unwrap();
    assert_eq!((pids(&a).current(), pids(&b).current()), (1, 1), "before the child exists");
    drop(place);
    assert_eq!((pids(&a).current(), pids(&b).current()), (0, 0));
    let task = w.spawn(&b);
    let thread = w.thread(&task);
    assert_eq!(pids(&a).current(), 2, "threads count");
    w.exit(&thread);
    w.dead(&thread);
    assert_eq!(pids(&a).current(), 2, "a zombie counts");
    w.reap(&thread);
    assert_eq!((pids(&a).current(), pids(&b).peak()), (1, 2));
}

#[test]
fn a_fork_is_refused_at_the_limit_of_any_level_and_undone_exactly() {
    let mut w = World::new();
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    let c = w.mkdir(&b, "c");
    pids(&a).set_max(Limit::N(2)).unwrap();
    w.spawn(&a);
    w.spawn(&c);
    w.notified();
    w.fx.set_now(Time(1_000_000_000));
    assert!(!pids(&c).fits(1));
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&c), &mut w.fx).unwrap_err(), Errno::EAGAIN);
    assert_eq!([&a, &b, &c].map(|g| pids(g).current()), [2, 1, 1]);
    assert_eq!([&a, &b, &c].map(|g| pids(g).events()), [1, 0, 0], "counted where the limit is");
    assert_eq!([&a, &b, &c].map(|g| pids(g).events_local()), [1, 0, 0]);
    assert_eq!(w.notified(), ["2/pids.events.local", "2/pids.events"]);
    // Raised level by level before the refusal further up, as in Linux.
    assert_eq!([&a, &b, &c].map(|g| pids(g).peak()), [2, 2, 2]);

    pids(&b).set_max(Limit::N(1)).unwrap();
    pids(&a).set_max(Limit::Max).unwrap();
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&c), &mut w.fx).unwrap_err(), Errno::EAGAIN);
    assert_eq!([&a, &b, &c].map(|g| pids(g).events()), [2, 1, 0], "and above it");
    assert_eq!([&a, &b, &c].map(|g| pids(g).events_local()), [1, 1, 0]);
}

#[test]
fn with_local_events_the_forker_counts() {
    let mut w = World::with(
        Hierarchy::builder().controller(Arc::new(Everywhere(Pids::with_local_events()))),
    );
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    pids(&a).set_max(Limit::N(0)).unwrap();
    w.notified();
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&b), &mut w.fx).unwrap_err(), Errno::EAGAIN);
    assert_eq!((pids(&a).events(), pids(&a).events_local()), (0, 0));
    assert_eq!((pids(&b).events(), pids(&b).events_local()), (1, 1));
    assert_eq!(w.notified(), ["3/pids.events.local", "3/pids.events"]);
}

#[test]
fn the_count_may_lie_above_the_limit() {
    let mut w = World::new();
    let a = w.top("a");
    for _ in 0..3 {
        w.spawn(&a);
    }
    pids(&a).set_max(Limit::N(1)).unwrap();
    assert_eq!(pids(&a).current(), 3);
    let id = w.id();
    w.h.adopt(&a, id, Membership::Process, &mut w.fx).unwrap();
    assert_eq!((pids(&a).current(), pids(&a).peak(), pids(&a).events()), (4, 4, 0));
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&a), &mut w.fx).unwrap_err(), Errno::EAGAIN);
    assert_eq!(pids(&a).current(), 4);
}

#[test]
fn limits_are_taken_up_to_the_kernels_and_zero_is_one() {
    let mut w = World::new();
    let a = w.top("a");
    assert_eq!(pids(&a).max(), Limit::Max);
    assert_eq!(pids(&a).max().to_string(), "max");
    assert_eq!(pids(&a).set_max(Limit::N(PID_MAX_LIMIT)), Ok(()));
    assert_eq!(pids(&a).set_max(Limit::N(PID_MAX_LIMIT + 1)), Err(Errno::EINVAL));
    assert_eq!(pids(&a).max(), Limit::N(PID_MAX_LIMIT));
    w.spawn(&a);
    assert!(pids(&a).fits(PID_MAX_LIMIT - 1) && !pids(&a).fits(u64::MAX), "one is there");
    assert_eq!(pids(&a).set_max(Limit::N(0)), Ok(()));
    assert_eq!(w.h.fork(ForkFrom::Cgroup(&a), &mut w.fx).unwrap_err(), Errno::EAGAIN);
}
