//! Random operations on several threads, in thousands of random schedules.
//!
//! Protects the teardown protocol as a whole, where loom protects its hard
//! spots: creation, removal, fork in two steps, every step of a task's death,
//! `cgroup.kill`, readers and queue pumps run against each other over a small
//! tree. A checking controller and a model of the tasks (`common/checker.rs`)
//! assert the invariants:
//!
//! * I1: no `css_offline` above a task that has not switched out for good;
//! * I2: a child goes offline before its parent;
//! * I3: every dying css is finished, once: offline, released, freed;
//! * I4: removal waits for nobody: no test here pumps or steps a task to make
//!   `remove` return, and a wait would show as a deadlock;
//! * I5: removal succeeds once no task is visible and no child left (checked
//!   when the threads are done; `tests/proptest.rs` checks it at every step);
//! * I6: one css per cgroup and controller;
//! * I7: dying counters are up when `remove` returns, all are zero at the end;
//! * I8: no `css_offline` under a reader that has an online reference;
//! * I9: a dying css gains no population.
//!
//! A second model (`common/traffic.rs`) moves processes and threads, switches
//! controllers and freezes against births and deaths. Its controller checks I9
//! and that whatever was charged is uncharged where it was; the end checks the
//! rest, I10 by what the counts of the freezer decide.
//!
//! Each wrong protocol listed in [`MUTANTS`] must be caught as well. Those that
//! leave out a fence are not among them: shuttle is sequentially consistent and
//! cannot see a fence. `tests/loom.rs` can, and it also catches the kill that
//! does not pin its css, for which a whole death must fit between two steps.
//!
//!     RUSTFLAGS="--cfg shuttle" cargo test -p cgrove-core --release --test shuttle
//!
//! `CGROVE_SEED` chooses the schedules and `CGROVE_SCHEDULES` how many there
//! are (the default number also ends after [`PATIENCE`]). A failure prints the
//! values that replay it; the outcome depends on nothing else.

#![cfg(shuttle)]

#[path = "common/checker.rs"]
mod checker;
#[path = "common/everywhere.rs"]
mod everywhere;
#[path = "common/mutants.rs"]
mod mutants;
#[path = "common/traffic.rs"]
mod traffic;
#[path = "common/world.rs"]
mod world;

use cgrove_core::*;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use traffic::Traffic;
use world::{Choice, World};

const SEED: u64 = 0x0c62_0fe5;
const SCHEDULES: u64 = 100_000;
/// A run whose number of schedules was not asked for ends after this time.
const PATIENCE: Duration = Duration::from_secs(40);
/// Schedules that share a seed, and so are replayed together.
const BATCH: u64 = 100;
const THREADS: usize = 3;
const OPERATIONS: usize = 16;

/// One execution: a tree with tasks at every stage, threads that work on it,
/// and the end of everything.
fn model(mutant: Option<Mutant>, seed: u64) {
    let mut choice = Choice(seed);
    let world = Arc::new(World::new(mutant));
    let root = world.h.root().clone();
    let reader = world.h.register_reader();
    world.create(&root, "a");
    let top = world.h.child(&root, "a").unwrap();
    world.create(&top, "a");
    world.create(&top, "b");
    for cgroup in world.cgroups.lock().unwrap().clone() {
        if let Some((fork, id)) = world.fork_from_cgroup(&cgroup) {
            world.publish(fork, id, Membership::Process);
        }
    }
    for _ in 0..choice.below(7) {
        let token = world.take(&mut choice, |_| true).unwrap();
        world.step(token, &mut choice, &reader);
    }
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let world = world.clone();
            let mut choice = Choice(choice.next());
            thread::spawn(move || {
                let reader = world.h.register_reader();
                for _ in 0..OPERATIONS {
                    world.operate(&mut choice, &reader);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    world.finish(&mut choice);
}

/// The same over moves, switches and frost.
fn traffic(mutant: Option<Mutant>, seed: u64) {
    let mut choice = Choice(seed);
    let traffic = Arc::new(Traffic::new(mutant));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let traffic = traffic.clone();
            let mut choice = Choice(choice.next());
            thread::spawn(move || {
                for _ in 0..OPERATIONS {
                    traffic.operate(&mut choice);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    traffic.finish(&mut choice);
}

type Model = fn(Option<Mutant>, u64);

/// All schedules of one seed: a random walk or, for odd seeds, PCT.
fn batch(model: Model, mutant: Option<Mutant>, seed: u64, schedules: u64) {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config.stack_size = 0x4_0000;
    let count = AtomicU64::new(0);
    let execution = move || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        model(mutant, seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(number));
    };
    if seed.is_multiple_of(2) {
        let scheduler = RandomScheduler::new_from_seed(seed, schedules as usize);
        Runner::new(scheduler, config).run(execution);
    } else {
        let scheduler = PctScheduler::new_from_seed(seed, 4, schedules as usize);
        Runner::new(scheduler, config).run(execution);
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

fn explore(model: Model, mutant: Option<Mutant>) {
    let first = number("CGROVE_SEED").unwrap_or(SEED);
    let asked = number("CGROVE_SCHEDULES");
    let wanted = asked.unwrap_or(SCHEDULES);
    println!("seed {first}, {wanted} schedules");
    let started = Instant::now();
    let mut done = 0;
    while done < wanted && (asked.is_some() || started.elapsed() < PATIENCE) {
        let seed = first.wrapping_add(done / BATCH);
        let now = BATCH.min(wanted - done);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| batch(model, mutant, seed, now))) {
            eprintln!("replay with CGROVE_SEED={seed} CGROVE_SCHEDULES={now}");
            resume_unwind(panic);
        }
        done += now;
    }
    println!("{done} schedules in {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn random_operations_keep_the_invariants() {
    explore(model, None);
}

/// The wrong protocols that random interleavings show.
const MUTANTS: [Mutant; 6] = [
    Mutant::ParentFirst,
    Mutant::KillTwice,
    Mutant::WalkerTestsRef,
    Mutant::ForkIgnoresKill,
    Mutant::KillBumpsOnce,
    Mutant::NoGrace,
];

#[test]
fn mutants_are_caught() {
    match mutants::chosen(&MUTANTS) {
        Some(mutant) => explore(model, Some(mutant)),
        None => mutants::catch("mutants_are_caught", &MUTANTS),
    }
}

#[test]
fn random_moves_and_switches_keep_the_books() {
    explore(traffic, None);
}

/// What moves and is not held still, or not looked for where it went.
const UNSETTLED: [Mutant; 4] = [
    Mutant::PublishIgnoresMove,
    Mutant::ThreadIgnoresMove,
    Mutant::ExitIgnoresMove,
    Mutant::DrainTestsRef,
];

#[test]
fn mutants_of_moves_are_caught() {
    match mutants::chosen(&UNSETTLED) {
        Some(mutant) => explore(traffic, Some(mutant)),
        None => mutants::catch("mutants_of_moves_are_caught", &UNSETTLED),
    }
}
