//! Giving controllers up and taking them back.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::{Arc, Mutex};
use support::{Everywhere, Recorder, Tree};

/// `perf_event`, implicit, beside `pids`, which is to be switched on.
fn perf() -> (Tree, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let perf = Recorder { name: "perf_event", log: log.clone(), ..Recorder::default() };
    let builder = Hierarchy::builder().controller(Arc::new(perf)).controller(Arc::new(Pids::new()));
    (Tree::with(builder), log)
}

fn unbind(t: &mut Tree, names: &[&str]) -> Result<(), WriteError> {
    let t = &mut **t;
    let mask = t.h.mask(names).unwrap();
    t.h.unbind(mask, &mut t.fx)
}

fn bind(t: &mut Tree, names: &[&str]) -> Result<(), WriteError> {
    let t = &mut **t;
    let mask = t.h.mask(names).unwrap();
    t.h.bind(mask, &mut t.fx)
}

/// Linux 7.2 as first released moved nobody here, and the csses of the implicit
/// controller stayed populated, dying for ever.
#[test]
fn tasks_leave_an_implicit_controller_before_its_csses_die() {
    let (mut t, log) = perf();
    let a = t.top("a");
    let task = t.spawn(&a);
    let css = a.css("perf_event").unwrap();
    assert!(css.is_populated());
    log.lock().unwrap().clear();
    unbind(&mut t, &["perf_event"]).unwrap();
    assert!(!css.is_populated() && css.is_dying());
    let id = task.id();
    let said = [
        format!("perf_event can_attach {id}"),
        format!("perf_event attach {id}"),
        format!("perf_event killed {}", a.id()),
        "perf_event bind false".into(),
    ];
    assert_eq!(*log.lock().unwrap(), said);
    t.pump();
    assert!(a.css("perf_event").is_none());
    assert_eq!(t.h.lifecycle(&CssRef::Of(css)).phase, Phase::Freed);
    // It is in no statistics, and new cgroups have none of it.
    assert_eq!(t.h.stat(t.h.root()).subsys.iter().map(|it| it.name).collect::<Vec<_>>(), ["pids"]);
    assert!(t.top("b").css("perf_event").is_none());
    t.retire(&task);

    log.lock().unwrap().clear();
    let there = t.spawn(&a);
    bind(&mut t, &["perf_event"]).unwrap();
    assert!(a.css("perf_event").is_some_and(|css| css.is_populated() && css.is_visible()));
    assert_eq!(log.lock().unwrap().last().unwrap(), "perf_event bind true");
    t.retire(&there);
    assert_eq!(bind(&mut t, &["perf_event"]).map_err(|_| ()), Ok(()), "had already");
}

#[test]
fn tasks_on_their_way_out_defer_the_end_and_no_more() {
    let (mut t, _log) = perf();
    let a = t.top("a");
    let hidden = t.spawn(&a);
    t.exit(&hidden);
    let css = a.css("perf_event").unwrap();
    unbind(&mut t, &["perf_event"]).unwrap();
    t.pump();
    assert!(css.is_dying() && css.is_populated());
    let why = bind(&mut t, &["perf_event"]).unwrap_err();
    assert_eq!(why.draining().unwrap().lifecycle.tasks, [hidden.id()]);
    assert!(t.h.bound().iter().eq([1]));
    t.retire_rest(&hidden);
    t.pump();
    bind(&mut t, &["perf_event"]).unwrap();
}

#[test]
fn a_controller_in_use_is_not_given_up() {
    let (mut t, _log) = perf();
    t.on_root("+pids").unwrap();
    let a = t.top("a");
    let errno = |result: Result<(), WriteError>| result.map_err(|why| why.errno());
    assert_eq!(errno(unbind(&mut t, &["pids"])), Err(Some(Errno::EBUSY)));
    t.on_root("-pids").unwrap();
    t.pump();
    assert_eq!(errno(unbind(&mut t, &["pids"])), Ok(()));
    assert_eq!(t.controllers(t.h.root()), [""; 0]);
    assert_eq!(t.on_root("+pids"), Err(Errno::ENOENT), "not to be had");
    bind(&mut t, &["pids"]).unwrap();
    t.on_root("+pids").unwrap();
    // A css of a removed cgroup is one too, until it is released.
    let task = t.spawn(&a);
    t.exit(&task);
    t.rmdir(&a).unwrap();
    t.on_root("-pids").unwrap();
    assert_eq!(errno(unbind(&mut t, &["pids"])), Err(Some(Errno::EBUSY)));
    t.dead(&task);
    t.pump();
    assert_eq!(errno(unbind(&mut t, &["pids"])), Err(Some(Errno::EBUSY)), "held by the zombie");
    t.reap(&task);
    t.free(&task);
    t.pump();
    assert_eq!(errno(unbind(&mut t, &["pids"])), Ok(()));
}

#[test]
fn what_is_charged_follows_through_both_ways() {
    let builder = Hierarchy::builder().controller(Arc::new(Everywhere(Pids::new())));
    let mut t = Tree::with(builder);
    let a = t.top("a");
    let parent = t.spawn(&a);
    let place = t.place(ForkFrom::Task(&parent)).unwrap();
    assert_eq!(t.pids(&a), 2);
    unbind(&mut t, &["pids"]).unwrap();
    t.pump();
    bind(&mut t, &["pids"]).unwrap();
    assert_eq!(t.pids(&a), 2);
    let child = t.publish(place, Membership::Process);
    t.retire(&child);
    t.retire(&parent);
    assert_eq!(t.pids(&a), 0);
}
