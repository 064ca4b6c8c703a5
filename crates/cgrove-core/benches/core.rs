//! What the core's operations cost, one by one.
//!
//!     cargo bench -p cgrove-core
//!
//! Times are per operation. The bars: create and remove through free with three
//! controllers 2 µs; fork, exit and reap in a populated group 250 ns; a
//! contended `try_get`/`put` at least five times as fast as a contended `Arc`;
//! an idle cgroup with three controllers 2 KiB; a populated flip linear in the
//! depth it climbs, and flat when it stops early.

use cgrove_core::*;
use divan::{Bencher, black_box};
use std::sync::{Arc, Barrier};
use std::time::Instant;

fn main() {
    print_memory();
    print_contention();
    divan::main();
}

fn fx() -> Effects {
    Effects::at(Time(0))
}

/// A hierarchy with controllers that are on for the children of the root.
fn with(controllers: usize) -> Hierarchy {
    let pids = || Arc::new(Pids::new());
    let builder = (0..controllers).fold(Hierarchy::builder(), |b, _| b.controller(pids()));
    let h = builder.build(Time(0));
    enable(&h, h.root());
    h
}

fn enable(h: &Hierarchy, cgroup: &Arc<Cgroup>) {
    let all = h.controllers(cgroup);
    h.write_subtree_control(cgroup, all, SsMask::NONE, &mut fx()).unwrap();
}

fn three() -> Hierarchy {
    with(3)
}

/// Resident memory per idle cgroup, over enough of them to drown the rest.
fn print_memory() {
    const MANY: usize = 100_000;
    let h = three();
    let parents: Vec<_> =
        (0..100).map(|i| h.create(h.root(), &format!("p{i}"), &mut fx()).unwrap()).collect();
    parents.iter().for_each(|parent| enable(&h, parent));
    let before = resident();
    let kept: Vec<_> = (0..MANY)
        .map(|i| h.create(&parents[i % parents.len()], &format!("job-{i}"), &mut fx()).unwrap())
        .collect();
    println!("memory per idle cgroup, 3 controllers: {} bytes", (resident() - before) / kept.len());
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[divan::bench]
fn create_remove_free_3_controllers(bencher: Bencher) {
    let h = three();
    bencher.bench_local(|| {
        let mut fx = fx();
        let cgroup = h.create(h.root(), "job", &mut fx).unwrap();
        h.remove(&cgroup, &mut fx).unwrap();
        drop(cgroup);
        assert_eq!(h.pump(&mut fx), 0);
        fx
    });
}

fn populated() -> (Hierarchy, Arc<Task>) {
    let h = with(1);
    let mut fx = fx();
    let cgroup = h.create(h.root(), "job", &mut fx).unwrap();
    Pids::css(&cgroup).unwrap().set_max(Limit::N(1000)).unwrap();
    let fork = h.fork(ForkFrom::Cgroup(&cgroup), &mut fx).unwrap();
    let parent = fork.publish(TaskId(1), Membership::Process, &mut fx);
    (h, parent)
}

fn live_and_die(h: &Hierarchy, parent: &Arc<Task>) {
    let mut fx = fx();
    let fork = h.fork(ForkFrom::Task(parent), &mut fx).unwrap();
    let child = fork.publish(TaskId(2), Membership::Process, &mut fx);
    h.exit(&child, &mut fx).unwrap();
    h.dead(&child, &mut fx).unwrap();
    h.reap(&child, &mut fx).unwrap();
    h.free(&child, &mut fx).unwrap();
    let _ = black_box(fx);
}

#[divan::bench(sample_size = 1000)]
fn fork_exit_reap_in_a_populated_group(bencher: Bencher) {
    let (h, parent) = populated();
    bencher.bench_local(|| live_and_die(&h, &parent));
}

#[divan::bench(threads = 2, sample_size = 1000)]
fn fork_exit_reap_contended(bencher: Bencher) {
    let (h, parent) = populated();
    bencher.bench(|| live_and_die(&h, &parent));
}

#[divan::bench(args = [1, 8, 16, 32, 64], sample_size = 100)]
fn populated_flip_at_depth(bencher: Bencher, depth: usize) {
    let (h, leaf, _) = chain(depth);
    bencher.bench_local(|| flip(&h, &leaf));
}

#[divan::bench(args = [1, 8, 16, 32, 64], sample_size = 100)]
fn populated_flip_that_stops_at_once(bencher: Bencher, depth: usize) {
    let (h, leaf, above) = chain(depth);
    let mut fx = fx();
    let fork = h.fork(ForkFrom::Cgroup(&above), &mut fx).unwrap();
    let _keeper = fork.publish(TaskId(1), Membership::Process, &mut fx);
    bencher.bench_local(|| flip(&h, &leaf));
}

fn chain(depth: usize) -> (Hierarchy, Arc<Cgroup>, Arc<Cgroup>) {
    let h = Hierarchy::builder().build(Time(0));
    let mut above = h.root().clone();
    let mut leaf = above.clone();
    for _ in 0..depth {
        above = leaf.clone();
        leaf = h.create(&leaf, "d", &mut fx()).unwrap();
    }
    (h, leaf, above)
}

fn flip(h: &Hierarchy, leaf: &Arc<Cgroup>) {
    let mut fx = fx();
    let fork = h.fork(ForkFrom::Cgroup(leaf), &mut fx).unwrap();
    let task = fork.publish(TaskId(2), Membership::Process, &mut fx);
    h.retire(&task, &mut fx).unwrap();
    let _ = black_box(fx);
}

/// Two threads on one count, in turn with two threads on one `Arc`: nanoseconds
/// per get and put, and how many times faster the css is.
fn print_contention() {
    let h = with(1);
    let cgroup = h.create(h.root(), "job", &mut fx()).unwrap();
    let css = CssRef::Of(cgroup.css("pids").unwrap());
    let arc = Arc::new(0u64);
    let mut rounds: Vec<(f64, f64)> = (0..21)
        .map(|_| {
            let counted = two_threads(|| {
                let reader = h.register_reader();
                let mut fx = fx();
                let (h, css) = (h.clone(), css.clone());
                move || {
                    assert!(css.try_get_online(&reader));
                    h.put(&css, &reader, &mut fx);
                }
            });
            let shared = two_threads(|| {
                let arc = arc.clone();
                // Shared, not cloned per thread: the count is what contends.
                move || drop(black_box(Arc::clone(&arc)))
            });
            (counted, shared)
        })
        .collect();
    rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (css, arc) = rounds[rounds.len() / 2];
    println!(
        "2 threads: css try_get+put {css:.1} ns, Arc clone+drop {arc:.1} ns, x{:.1}",
        arc / css
    );
}

fn two_threads<F: FnMut()>(make: impl Fn() -> F + Sync) -> f64 {
    const TIMES: u32 = 1_000_000;
    let start = Barrier::new(2);
    let run = || {
        let mut op = make();
        start.wait();
        let began = Instant::now();
        for _ in 0..TIMES {
            op();
        }
        began.elapsed().as_nanos() as f64 / f64::from(TIMES)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        let mine = run();
        f64::midpoint(mine, other.join().unwrap())
    })
}
