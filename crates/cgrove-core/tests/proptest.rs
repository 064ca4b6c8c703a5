//! Random sequences of operations, against a model that only counts.
//!
//! The behaviour tests try each rule where its author thought of it. Here the
//! rules meet one another: thousands of sequences of legal, refused and
//! ill-timed operations run against the core and against the reference model
//! (`common/reference.rs`), and after every single step everything the core can
//! be asked must be what the model says (`common/compare.rs` asks). The
//! invariants I1 to I9 of teardown, I5 in particular, are checked at every step
//! on what the core says; I10 is about the freezer, which is not built. At the
//! end of a sequence either everything is taken apart and must be gone, or the
//! hierarchy is dropped as it is and must leave nothing behind.
//!
//! One thread, so order is the only thing that varies; `tests/shuttle.rs` and
//! `tests/loom.rs` vary the interleaving.
//!
//! Which wrong protocols this catches is tested under `--cfg shuttle`, because
//! only the checkers' builds have mutants. Shuttle schedules nothing there: each
//! case is one execution of one thread.
//!
//!     cargo test -p cgrove-core --test proptest
//!     RUSTFLAGS="--cfg shuttle" cargo test -p cgrove-core --release --test proptest
//!
//! `CGROVE_SEED` and `CGROVE_CASES` choose other sequences, and more of them.
//! A failure prints both, the shortest sequence that still fails, and why.

#![cfg(not(loom))]

#[path = "common/compare.rs"]
mod compare;
#[path = "common/everywhere.rs"]
mod everywhere;
#[path = "common/gate.rs"]
mod gate;
#[cfg(shuttle)]
#[path = "common/mutants.rs"]
mod mutants;
#[path = "common/pair.rs"]
mod pair;
#[path = "common/reference.rs"]
mod reference;

use cgrove_core::*;
use pair::{Core, Op, Pair, Step};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use reference::{KINDS, READERS, Refusal};
use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Instant;

const SEED: u64 = 0x0c62_0fe5;
const LONGEST: usize = 64;

/// One sequence and the world it runs in.
#[derive(Clone, Debug)]
struct Case {
    local_events: bool,
    /// Take everything apart at the end, rather than drop it as it is.
    finish: bool,
    ops: Vec<Op>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local_events, finish, ops } = self;
        writeln!(f, "local_events: {local_events}, finish: {finish}")?;
        ops.iter().enumerate().try_for_each(|(number, op)| writeln!(f, "{number:>4}  {op:?}"))
    }
}

fn refusal(of: Refusal) -> impl Strategy<Value = Refusal> {
    prop_oneof![8 => Just(Refusal::Nothing), 1 => Just(of)]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = any::<u8>;
    let maybe = || prop_oneof![1 => Just(None), 1 => any::<u8>().prop_map(Some)];
    let bound = || prop_oneof![1 => Just(usize::MAX), 3 => 0..6usize];
    let limit = prop_oneof![
        2 => Just(Limit::Max),
        6 => (0..6u64).prop_map(Limit::N),
        1 => (PID_MAX_LIMIT - 1..PID_MAX_LIMIT + 2).prop_map(Limit::N),
    ];
    let gate = prop_oneof![
        10 => Just(Refusal::Nothing),
        1 => Just(Refusal::Alloc),
        1 => Just(Refusal::Online),
    ];
    let step =
        prop::sample::select(&[Step::Exit, Step::Dead, Step::Reap, Step::Free, Step::Retire]);
    prop_oneof![
        10 => (pick(), prop_oneof![1 => 0..9u8, 6 => 9..12u8], gate)
            .prop_map(|(parent, name, refuse)| Op::Create { parent, name, refuse }),
        1 => (pick(), bound()).prop_map(|(at, max)| Op::MaxDepth { at, max }),
        1 => (pick(), bound()).prop_map(|(at, max)| Op::MaxDescendants { at, max }),
        3 => (pick(), limit).prop_map(|(at, limit)| Op::PidsMax { at, limit }),
        8 => (pick(), refusal(Refusal::Fork))
            .prop_map(|(at, refuse)| Op::ForkInto { at, refuse }),
        6 => (pick(), refusal(Refusal::Fork))
            .prop_map(|(task, refuse)| Op::ForkBy { task, refuse }),
        14 => (pick(), maybe()).prop_map(|(fork, thread_of)| Op::Publish { fork, thread_of }),
        2 => (pick(), any::<bool>()).prop_map(|(fork, dropping)| Op::Cancel { fork, dropping }),
        4 => (pick(), maybe()).prop_map(|(at, thread_of)| Op::Adopt { at, thread_of }),
        25 => (pick(), any::<bool>()).prop_map(|(task, reap_first)| Op::Next { task, reap_first }),
        5 => pick().prop_map(|task| Op::LeaderDies { task }),
        4 => (pick(), step).prop_map(|(task, step)| Op::Step { task, step }),
        2 => pick().prop_map(|at| Op::Kill { at }),
        4 => pick().prop_map(|task| Op::KillAround { task }),
        14 => pick().prop_map(|at| Op::Remove { at }),
        5 => (pick(), prop::sample::select(&KINDS), 0..READERS, any::<bool>())
            .prop_map(|(at, kind, reader, online)| Op::Get { at, kind, reader, online }),
        4 => (pick(), 0..READERS).prop_map(|(user, reader)| Op::Put { user, reader }),
        3 => (0..READERS).prop_map(|reader| Op::Open { reader }),
        4 => (0..READERS).prop_map(|reader| Op::Close { reader }),
        6 => Just(Op::Pump),
        6 => prop::sample::select(&Queue::ALL).prop_map(Op::PumpQueue),
        4 => (prop_oneof![0..25u64, Just(10)], any::<bool>()).prop_map(|(millis, late)| Op::Advance { millis, late }),
        1 => pick().prop_map(|at| Op::Timer { at }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    (any::<bool>(), any::<bool>(), vec(op(), 1..=LONGEST))
        .prop_map(|(local_events, finish, ops)| Case { local_events, finish, ops })
}

fn run(case: &Case, build: impl FnOnce(Builder) -> Hierarchy) -> Result<(), String> {
    // A core that panicked half-way through may not survive being dropped.
    let core = ManuallyDrop::new(Core::new(case.local_events, build));
    let mut pair = ManuallyDrop::new(Pair::new(&core));
    for (number, op) in case.ops.iter().enumerate() {
        let done = pair.operate(op).and_then(|()| pair.compare());
        done.map_err(|why| format!("step {number}, {op:?}: {why}"))?;
    }
    let pair = ManuallyDrop::into_inner(pair);
    if case.finish {
        pair.finish().map_err(|why| format!("at the end: {why}"))?;
        drop(ManuallyDrop::into_inner(core));
        return Ok(());
    }
    let memory = pair.forget();
    drop(ManuallyDrop::into_inner(core));
    match memory.iter().position(|cgroup| cgroup.upgrade().is_some()) {
        Some(at) => Err(format!("a dropped hierarchy leaves cgroup {at} in memory")),
        None => Ok(()),
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}

/// Looks for a sequence that `run` refuses, and makes it short.
fn search(cases: u32, run: impl Fn(&Case) -> Result<(), String>) -> Result<(), (String, Case)> {
    let seed = number("CGROVE_SEED").unwrap_or(SEED);
    let cases = number("CGROVE_CASES").map_or(cases, |cases| cases as u32);
    println!("seed {seed}, {cases} cases");
    let started = Instant::now();
    // Seeds replay a failure, so none is written into the tree.
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let bytes: Vec<_> = seed.to_le_bytes().repeat(4);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let found = TestRunner::new_with_rng(config, rng)
        .run(&case(), |case| run(&case).map_err(TestCaseError::fail));
    println!("{:.1} s", started.elapsed().as_secs_f64());
    match found {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, case)) => {
            let replay = format!("{why}\nreplay with CGROVE_SEED={seed} CGROVE_CASES={cases}");
            Err((replay, case))
        }
        Err(TestError::Abort(why)) => panic!("no sequence was found to try: {why}"),
    }
}

#[cfg(not(shuttle))]
#[test]
fn the_core_does_what_the_model_says() {
    if let Err((why, case)) = search(4_000, |case| run(case, |builder| builder.build(Time(0)))) {
        panic!("{why}\n{case}");
    }
}

#[cfg(shuttle)]
mod wrong {
    use super::*;
    use shuttle::scheduler::RandomScheduler;
    use shuttle::{Config, FailurePersistence, Runner};
    use std::sync::{Arc, Mutex};

    /// The wrong protocols that show in the order of one thread's operations.
    /// Missing are those that need two threads at once, and the kill that skips
    /// a shard: nothing is contended here, so no count has shards.
    const MUTANTS: [Mutant; 5] = [
        Mutant::WalkerTestsRef,
        Mutant::NoQueuePin,
        Mutant::ForkIgnoresKill,
        Mutant::ParentFirst,
        Mutant::NoGrace,
    ];

    /// One case as one execution: the core's locks work nowhere else.
    fn execute(case: &Case, mutant: Option<Mutant>) -> Result<(), String> {
        let mut config = Config::new();
        config.failure_persistence = FailurePersistence::None;
        config.silence_warnings = true;
        config.stack_size = 0x10_0000;
        let (case, outcome) = (case.clone(), Arc::new(Mutex::new(Ok(()))));
        let said = outcome.clone();
        Runner::new(RandomScheduler::new_from_seed(0, 1), config).run(move || {
            let result = run(&case, |builder| builder.mutant(mutant).build(Time(0)));
            *said.lock().unwrap() = result;
        });
        Arc::into_inner(outcome).expect("the execution is over").into_inner().unwrap()
    }

    fn explore(mutant: Option<Mutant>) {
        if let Err((why, case)) = search(2_000, |case| execute(case, mutant)) {
            panic!("{why}\n{case}");
        }
    }

    /// What the mutants fail at must not be the way they are run.
    #[test]
    fn the_core_itself_passes_here_too() {
        explore(None);
    }

    #[test]
    fn mutants_are_caught() {
        match mutants::chosen(&MUTANTS) {
            Some(mutant) => explore(Some(mutant)),
            None => mutants::catch("wrong::mutants_are_caught", &MUTANTS),
        }
    }
}
