//! The order of a css's death, step by step, with everything that can hold it.

#![cfg(not(any(loom, shuttle)))]

mod support;

use cgrove_core::*;
use std::sync::{Arc, Mutex};
use support::{Recorder, World};

fn recorded() -> (World, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder { name: "c", log: log.clone(), ..Recorder::default() };
    (World::with(Hierarchy::builder().controller(Arc::new(recorder))), log)
}

fn ends(log: &Arc<Mutex<Vec<String>>>) -> Vec<String> {
    let mut log = log.lock().unwrap();
    let kept = log.drain(..).filter(|line| {
        ["offline", "released", "free"].iter().any(|verb| line.split(' ').nth(1) == Some(verb))
    });
    kept.collect()
}

#[test]
fn offline_waits_for_the_last_switch_and_free_for_the_last_reference() {
    let (mut w, log) = recorded();
    let a = w.top("a");
    let task = w.spawn(&a);
    w.exit(&task);
    w.rmdir(&a).unwrap();
    assert_eq!(w.pump(), 0);
    assert_eq!(ends(&log), [""; 0]);
    let life = w.lifecycle(&a, "c").expect("published until it is offline");
    assert_eq!((life.phase, &life.tasks[..]), (Phase::Dying, &[task.id()][..]));

    // Reaping may come before the last switch; it changes nothing here.
    w.reap(&task);
    w.pump();
    assert_eq!(ends(&log), [""; 0]);
    let css = CssRef::Of(a.css("c").unwrap());
    w.fx.set_now(Time(7));
    w.dead(&task);
    w.pump();
    assert_eq!(ends(&log), ["c offline 2"]);
    assert!(a.css("c").is_none());
    let life = w.h.lifecycle(&css);
    assert_eq!((life.phase, life.since, life.references), (Phase::Offline, Time(7), 1));
    // Which is the task's, and here is its name.
    assert_eq!((&life.tasks[..], &life.unfreed[..]), (&[][..], &[task.id()][..]));
    w.free(&task);
    w.pump();
    assert_eq!(ends(&log), ["c released 2", "c free 2"]);
    assert_eq!(w.h.lifecycle(&css).phase, Phase::Freed);
}

#[test]
fn a_dying_parent_waits_for_its_dying_child() {
    let (mut w, log) = recorded();
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    let task = w.spawn(&b);
    w.exit(&task);
    w.rmdir(&b).unwrap();
    w.rmdir(&a).unwrap();
    w.pump();
    assert_eq!(ends(&log), [""; 0], "the parent is populated through its child");
    w.dead(&task);
    w.pump();
    assert_eq!(ends(&log), ["c offline 3", "c offline 2"]);
    w.reap(&task);
    w.free(&task);
    w.pump();
    let ended = ends(&log);
    assert_eq!(ended.len(), 4);
    assert_eq!(ended.last().unwrap(), "c free 2", "the parent outlives the child");
    assert_eq!(w.h.stat(w.h.root()).nr_dying_descendants, 0);
}

#[test]
fn a_reader_holds_offline_back_and_online_references_end_with_the_kill() {
    let (mut w, log) = recorded();
    let a = w.top("a");
    let reader = w.h.register_reader();
    let section = w.h.read(&reader);
    let css = a.css("c").unwrap();
    assert!(css.try_get_online(&reader));
    w.rmdir(&a).unwrap();
    assert!(css.is_dying());
    assert!(!css.try_get_online(&reader), "unpopulated, so the kill came at once");
    assert!(css.try_get(&reader), "but the reference taken before still counts");
    let css = CssRef::Of(css);
    w.h.put(&css, &reader, &mut w.fx);
    assert_eq!(w.h.pump(&mut w.fx), 1, "css_offline waits for the section");
    assert_eq!(ends(&log), [""; 0]);
    drop(section);
    assert_eq!(w.h.pump(&mut w.fx), 0);
    assert_eq!(ends(&log), ["c offline 2"]);
    assert_eq!(w.h.lifecycle(&css).references, 1);
    w.h.put(&css, &reader, &mut w.fx);
    w.pump();
    assert_eq!(ends(&log), ["c released 2", "c free 2"]);
}

#[test]
fn in_the_deferral_window_a_reference_can_still_be_had_from_a_dying_css() {
    let (mut w, _log) = recorded();
    let a = w.top("a");
    let task = w.spawn(&a);
    w.exit(&task);
    w.rmdir(&a).unwrap();
    let reader = w.h.register_reader();
    let css = a.css("c").unwrap();
    assert!(css.is_dying() && css.is_online());
    assert!(css.try_get_online(&reader), "Linux grants it too: ask is_dying");
    w.h.put(&CssRef::Of(css), &reader, &mut w.fx);
}

#[test]
fn a_wide_tree_is_removed_without_a_trace() {
    let (mut w, log) = recorded();
    let a = w.top("a");
    let leaves: Vec<_> = (0..50).map(|i| w.mkdir(&a, &i.to_string())).collect();
    let tasks: Vec<_> = leaves.iter().map(|leaf| w.spawn(leaf)).collect();
    for (task, leaf) in tasks.iter().zip(&leaves) {
        w.exit(task);
        w.rmdir(leaf).unwrap();
    }
    w.rmdir(&a).unwrap();
    assert_eq!(w.h.stat(w.h.root()).nr_dying_descendants, 51);
    for task in tasks.iter().rev() {
        w.dead(task);
        w.reap(task);
        w.free(task);
        w.pump();
    }
    let ended = ends(&log);
    assert_eq!(ended.iter().filter(|line| line.contains("free")).count(), 51);
    assert_eq!(w.h.stat(w.h.root()).nr_dying_descendants, 0);
    assert_eq!(w.h.stat(w.h.root()).subsys[0], SubsysStat { name: "c", live: 1, dying: 0 });
}

#[test]
fn a_dropped_hierarchy_frees_its_live_tree() {
    let probe = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder { name: "c", log: probe.clone(), ..Recorder::default() };
    let mut w = World::with(Hierarchy::builder().controller(Arc::new(recorder)));
    let a = w.top("a");
    let b = w.mkdir(&a, "b");
    let task = w.spawn(&b);
    w.exit(&task);
    w.rmdir(&b).unwrap();
    w.spawn(&a);
    let weak = (Arc::downgrade(&a), Arc::downgrade(&b));
    drop((a, b, task, w));
    assert!(weak.0.upgrade().is_none() && weak.1.upgrade().is_none(), "a cycle was left");
    assert_eq!(Arc::strong_count(&probe), 1, "the controller is gone too");
}

/// Each cgroup holds its parent. Let go from the top, the last one takes all
/// the others with it, one inside the other, and the stack overflows.
#[test]
fn a_deep_tree_is_dropped_in_little_stack() {
    let mut w = World::new();
    let top = w.top("top");
    let weak = Arc::downgrade(&top);
    let mut at = top;
    for _ in 0..2_000 {
        at = w.mkdir(&at, "a");
    }
    drop(at);
    let dropper = std::thread::Builder::new().stack_size(0x1_0000);
    dropper.spawn(move || drop(w)).unwrap().join().unwrap();
    assert!(weak.upgrade().is_none());
}
