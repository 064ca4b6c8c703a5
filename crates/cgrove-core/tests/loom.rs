//! The teardown protocol under every interleaving and every weak-memory
//! outcome that loom can produce: all of them where a test says no bound, all
//! with that many preemptions where it names one.
//!
//! The code under test is the shipped one. Each test runs once as it is, and
//! once per mutant that it must catch; a mutant that survives fails the test.
//!
//!     RUSTFLAGS="--cfg loom" cargo test -p cgrove-core --release --test loom

#![cfg(loom)]

#[path = "common/everywhere.rs"]
mod everywhere;
#[path = "common/mutants.rs"]
mod mutants;

use cgrove_core::*;
use everywhere::Everywhere;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what the core asked of it. Plain atomics, so loom does not branch on
/// the bookkeeping.
#[derive(Default)]
struct Probe {
    /// Not everywhere, but where it is switched on.
    switched: bool,
    offline: AtomicUsize,
    freed: AtomicUsize,
}

impl Controller for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }
    fn threaded(&self) -> bool {
        true
    }
    fn implicit(&self) -> bool {
        !self.switched
    }
    fn css_alloc(&self, _new: NewCss<'_>) -> Result<CssState, Errno> {
        Ok(Arc::new(()))
    }
    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        assert!(!css.is_populated(), "css_offline under a populated css");
        self.offline.fetch_add(1, Ordering::Relaxed);
    }
    fn css_free(&self, _css: &Css) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

fn explore(mutant: Option<Mutant>, bound: Option<usize>, model: fn(Option<Mutant>)) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = 20_000;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model(mutant);
    });
    println!("{} executions explored", seen.load(Ordering::Relaxed));
}

/// Passes as shipped, within `bound` preemptions (`None`: all there are), and
/// fails with each of `wrong`.
fn check(test: &str, bound: Option<usize>, model: fn(Option<Mutant>), wrong: &[Mutant]) {
    if let Some(mutant) = mutants::chosen(wrong) {
        return explore(Some(mutant), bound, model);
    }
    explore(None, bound, model);
    mutants::catch(test, wrong);
}

fn fx() -> Effects {
    Effects::at(Time(0))
}

fn build(mutant: Option<Mutant>) -> (Hierarchy, Arc<Probe>) {
    let probe = Arc::new(Probe::default());
    let h = Hierarchy::builder().controller(probe.clone()).mutant(mutant).build(Time(0));
    (h, probe)
}

/// A tree with a live cgroup `a` where the probe is switched on.
fn switched(mutant: Option<Mutant>) -> (Hierarchy, Arc<Probe>, Arc<Cgroup>) {
    let probe = Arc::new(Probe { switched: true, ..Probe::default() });
    let h = Hierarchy::builder().controller(probe.clone()).mutant(mutant).build(Time(0));
    let cgroup = h.create(h.root(), "a", &mut fx()).unwrap();
    switch(&h, true).unwrap();
    (h, probe, cgroup)
}

fn switch(h: &Hierarchy, on: bool) -> Result<(), WriteError> {
    let probe = SsMask::of(0);
    let (on, off) = if on { (probe, SsMask::NONE) } else { (SsMask::NONE, probe) };
    h.write_subtree_control(h.root(), on, off, &mut fx())
}

fn hidden_task(h: &Hierarchy, cgroup: &Arc<Cgroup>, id: u64) -> Arc<Task> {
    let mut fx = fx();
    let fork = h.fork(ForkFrom::Cgroup(cgroup), &mut fx).unwrap();
    let task = fork.publish(TaskId(id), Membership::Process, &mut fx);
    h.exit(&task, &mut fx).unwrap();
    task
}

fn bury(h: &Hierarchy, task: &Arc<Task>) {
    let mut fx = fx();
    h.reap(task, &mut fx).unwrap();
    h.free(task, &mut fx).unwrap();
}

fn assert_all_gone(h: &Hierarchy, probe: &Probe, csses: usize) {
    assert_eq!(h.pump(&mut fx()), 0);
    assert_eq!(probe.offline.load(Ordering::Relaxed), csses, "a dying css never went offline");
    assert_eq!(probe.freed.load(Ordering::Relaxed), csses, "a dying css was never freed");
    let stat = h.stat(h.root());
    assert_eq!((stat.nr_dying_descendants, stat.subsys[0].dying), (0, 0));
}

#[test]
fn last_task_dies_against_remove() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe) = build(mutant);
        let cgroup = h.create(h.root(), "a", &mut fx()).unwrap();
        let task = hidden_task(&h, &cgroup, 1);
        let walker = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || h.dead(&task, &mut fx()).unwrap())
        };
        h.remove(&cgroup, &mut fx()).unwrap();
        walker.join().unwrap();
        bury(&h, &task);
        assert_all_gone(&h, &probe, 1);
    }
    check(
        "last_task_dies_against_remove",
        None,
        model,
        &[Mutant::NoKillerFence, Mutant::NoWalkerFence, Mutant::WalkerTestsRef, Mutant::KillTwice],
    );
}

/// The same protocol on a cgroup that lives on: here no lock that both sides
/// take comes to the help of the fences, as one does in rmdir.
#[test]
fn last_task_dies_against_switching_off() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe, cgroup) = switched(mutant);
        let task = hidden_task(&h, &cgroup, 1);
        let walker = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || h.dead(&task, &mut fx()).unwrap())
        };
        switch(&h, false).unwrap();
        walker.join().unwrap();
        bury(&h, &task);
        assert_all_gone(&h, &probe, 1);
        assert!(cgroup.css("probe").is_none() && !cgroup.is_dead());
    }
    check(
        "last_task_dies_against_switching_off",
        None,
        model,
        &[Mutant::NoKillerFence, Mutant::NoWalkerFence, Mutant::WalkerTestsRef, Mutant::KillTwice],
    );
}

/// Switched on again, the controller must not find the css that is dying: it
/// would be taken for a live one and vanish under its new users.
#[test]
fn switching_on_again_waits_until_the_dying_css_is_gone() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe, cgroup) = switched(mutant);
        let task = hidden_task(&h, &cgroup, 1);
        switch(&h, false).unwrap();
        let other = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || {
                h.dead(&task, &mut fx()).unwrap();
                h.pump_queue(Queue::Offline, &mut fx());
            })
        };
        let written = switch(&h, true);
        if written.is_ok() {
            let css = cgroup.css("probe").expect("switched on");
            assert!(!css.is_dying(), "a dying css was taken for a live one");
        }
        other.join().unwrap();
        bury(&h, &task);
        h.pump(&mut fx());
        if let Err(why) = written {
            assert!(why.draining().is_some());
            switch(&h, true).unwrap();
        }
        let css = cgroup.css("probe").expect("switched on, and it stays");
        assert!(css.is_online() && !css.is_dying());
        switch(&h, false).unwrap();
        assert_all_gone(&h, &probe, 2);
    }
    check(
        "switching_on_again_waits_until_the_dying_css_is_gone",
        Some(4),
        model,
        &[Mutant::DrainTestsRef],
    );
}

/// A child that is born while its cgroup changes controllers ends up in the set
/// that the change leaves behind for no one, or is moved there.
#[test]
fn a_birth_against_switching_off() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe, cgroup) = switched(mutant);
        let mut setup = fx();
        let fork = h.fork(ForkFrom::Cgroup(&cgroup), &mut setup).unwrap();
        let other = {
            let h = h.clone();
            loom::thread::spawn(move || {
                let mut fx = fx();
                let task = fork.publish(TaskId(1), Membership::Process, &mut fx);
                h.exit(&task, &mut fx).unwrap();
                task
            })
        };
        switch(&h, false).unwrap();
        let task = other.join().unwrap();
        h.dead(&task, &mut fx()).unwrap();
        bury(&h, &task);
        assert_all_gone(&h, &probe, 1);
        h.remove(&cgroup, &mut fx()).unwrap();
        assert_eq!(h.pump(&mut fx()), 0);
        assert_eq!(h.stat(h.root()).nr_dying_descendants, 0);
    }
    check("a_birth_against_switching_off", Some(4), model, &[Mutant::PublishIgnoresMove]);
}

/// A process moves while a thread of it is being born: they end up together.
#[test]
fn a_thread_is_born_against_a_move_of_its_process() {
    fn model(mutant: Option<Mutant>) {
        let (h, _probe) = build(mutant);
        let [a, b] = ["a", "b"].map(|name| h.create(h.root(), name, &mut fx()).unwrap());
        let mut setup = fx();
        let fork = h.fork(ForkFrom::Cgroup(&a), &mut setup).unwrap();
        let leader = fork.publish(TaskId(1), Membership::Process, &mut setup);
        let place = h.fork(ForkFrom::Task(&leader), &mut setup).unwrap();
        let born = {
            let leader = leader.clone();
            loom::thread::spawn(move || {
                place.publish(TaskId(2), Membership::ThreadOf(&leader), &mut fx())
            })
        };
        let who = || Ok(leader.clone());
        h.attach(&b, Scope::Process, who, &Opener::ROOT, &mut fx()).unwrap();
        let thread = born.join().unwrap();
        assert_eq!(leader.cgroup().unwrap().id(), b.id());
        assert_eq!(thread.cgroup().unwrap().id(), b.id(), "a process in two domains");
        assert!(b.populated() && !a.populated());
        h.remove(&a, &mut fx()).unwrap();
    }
    check(
        "a_thread_is_born_against_a_move_of_its_process",
        Some(4),
        model,
        &[Mutant::ThreadIgnoresMove],
    );
}

/// Likewise within one domain, where nothing but the number of moves tells a fork
/// that began before the move from one that began after.
#[test]
fn a_thread_forks_against_a_move_of_its_process_within_its_domain() {
    fn model(mutant: Option<Mutant>) {
        let (h, _probe) = build(mutant);
        let [a, b] = ["a", "b"].map(|name| {
            let cgroup = h.create(h.root(), name, &mut fx()).unwrap();
            h.make_threaded(&cgroup, &mut fx()).unwrap();
            cgroup
        });
        let mut setup = fx();
        let fork = h.fork(ForkFrom::Cgroup(&a), &mut setup).unwrap();
        let leader = fork.publish(TaskId(1), Membership::Process, &mut setup);
        let forking = {
            let (h, leader) = (h.clone(), leader.clone());
            loom::thread::spawn(move || {
                let place = h.fork(ForkFrom::Task(&leader), &mut fx()).unwrap();
                place.publish(TaskId(2), Membership::ThreadOf(&leader), &mut fx())
            })
        };
        let who = || Ok(leader.clone());
        h.attach(&b, Scope::Process, who, &Opener::ROOT, &mut fx()).unwrap();
        let thread = forking.join().unwrap();
        assert_eq!(thread.cgroup().unwrap().id(), b.id(), "left behind");
        h.remove(&a, &mut fx()).unwrap();
    }
    check(
        "a_thread_forks_against_a_move_of_its_process_within_its_domain",
        Some(3),
        model,
        &[Mutant::ThreadIgnoresMove, Mutant::MoveCountedEarly],
    );
}

/// A task that moves does not exit half-way: what the controllers were asked
/// about is what moves.
#[test]
fn an_exit_against_a_move() {
    fn model(mutant: Option<Mutant>) {
        let h = Hierarchy::builder()
            .controller(Arc::new(Everywhere(Pids::new())))
            .mutant(mutant)
            .build(Time(0));
        let [a, b] = ["a", "b"].map(|name| h.create(h.root(), name, &mut fx()).unwrap());
        let mut setup = fx();
        let fork = h.fork(ForkFrom::Cgroup(&a), &mut setup).unwrap();
        let task = fork.publish(TaskId(1), Membership::Process, &mut setup);
        let other = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || {
                h.exit(&task, &mut fx()).unwrap();
                h.reap(&task, &mut fx()).unwrap();
            })
        };
        let who = || Ok(task.clone());
        h.attach(&b, Scope::Process, who, &Opener::ROOT, &mut fx()).unwrap();
        other.join().unwrap();
        let charged = [&a, &b].map(|at| Pids::css(at).unwrap().current());
        assert_eq!(charged, [0, 0], "charged to where it is not");
    }
    check("an_exit_against_a_move", Some(4), model, &[Mutant::ExitIgnoresMove]);
}

/// A cgroup that is to be frozen is removed while its last task leaves. Whoever
/// comes first, it must not count for the cgroups above any more.
#[test]
fn a_removed_cgroup_does_not_turn_frozen() {
    fn model(mutant: Option<Mutant>) {
        let (h, _probe) = build(mutant);
        let above = h.create(h.root(), "a", &mut fx()).unwrap();
        let cgroup = h.create(&above, "b", &mut fx()).unwrap();
        let task = hidden_task(&h, &cgroup, 1);
        h.set_freeze(&cgroup, true, &mut fx()).unwrap();
        let walker = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || h.dead(&task, &mut fx()).unwrap())
        };
        h.remove(&cgroup, &mut fx()).unwrap();
        walker.join().unwrap();
        h.set_freeze(&above, true, &mut fx()).unwrap();
        assert!(above.frozen(), "its ancestors wait for it for ever");
        bury(&h, &task);
    }
    check("a_removed_cgroup_does_not_turn_frozen", Some(4), model, &[Mutant::DeadFreezes]);
}

#[test]
fn two_last_tasks_of_two_css_sets() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe) = build(mutant);
        let top = h.create(h.root(), "top", &mut fx()).unwrap();
        let tasks: Vec<_> = ["a", "b"]
            .iter()
            .zip(1..)
            .map(|(name, id)| {
                let leaf = h.create(&top, name, &mut fx()).unwrap();
                let task = hidden_task(&h, &leaf, id);
                h.remove(&leaf, &mut fx()).unwrap();
                task
            })
            .collect();
        let walkers: Vec<_> = tasks
            .iter()
            .map(|task| {
                let (h, task) = (h.clone(), task.clone());
                loom::thread::spawn(move || h.dead(&task, &mut fx()).unwrap())
            })
            .collect();
        h.remove(&top, &mut fx()).unwrap();
        for walker in walkers {
            walker.join().unwrap();
        }
        for task in &tasks {
            bury(&h, task);
        }
        assert_all_gone(&h, &probe, 3);
    }
    check(
        "two_last_tasks_of_two_css_sets",
        Some(5),
        model,
        &[Mutant::NoKillerFence, Mutant::NoWalkerFence, Mutant::WalkerTestsRef],
    );
}

#[test]
fn kill_finish_from_both_sides() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe) = build(mutant);
        let cgroup = h.create(h.root(), "a", &mut fx()).unwrap();
        let task = hidden_task(&h, &cgroup, 1);
        let other = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || {
                h.dead(&task, &mut fx()).unwrap();
                bury(&h, &task);
                h.pump_queue(Queue::Offline, &mut fx());
            })
        };
        h.remove(&cgroup, &mut fx()).unwrap();
        h.pump_queue(Queue::Offline, &mut fx());
        h.pump_queue(Queue::Release, &mut fx());
        other.join().unwrap();
        assert_all_gone(&h, &probe, 1);
    }
    check("kill_finish_from_both_sides", Some(4), model, &[Mutant::NoQueuePin, Mutant::KillTwice]);
}

#[test]
fn a_reader_is_never_under_css_offline() {
    fn model(mutant: Option<Mutant>) {
        let (h, probe) = build(mutant);
        let cgroup = h.create(h.root(), "a", &mut fx()).unwrap();
        let remover = {
            let (h, cgroup) = (h.clone(), cgroup.clone());
            loom::thread::spawn(move || {
                h.remove(&cgroup, &mut fx()).unwrap();
                h.pump_queue(Queue::Offline, &mut fx());
            })
        };
        let reader = h.register_reader();
        {
            let _section = h.read(&reader);
            if let Some(css) = cgroup.css("probe")
                && css.try_get_online(&reader)
            {
                assert_eq!(probe.offline.load(Ordering::Relaxed), 0, "offline under a reader");
                loom::thread::yield_now();
                assert_eq!(probe.offline.load(Ordering::Relaxed), 0, "offline under a reader");
                h.put(&CssRef::Of(css), &reader, &mut fx());
            }
        }
        remover.join().unwrap();
        assert_all_gone(&h, &probe, 1);
    }
    check("a_reader_is_never_under_css_offline", None, model, &[Mutant::NoGrace]);
}

#[test]
fn a_fork_in_flight_does_not_escape_a_kill() {
    fn model(mutant: Option<Mutant>) {
        let (h, _probe) = build(mutant);
        let cgroup = h.create(h.root(), "a", &mut fx()).unwrap();
        let mut setup = fx();
        let fork = h.fork(ForkFrom::Cgroup(&cgroup), &mut setup).unwrap();
        let parent = fork.publish(TaskId(1), Membership::Process, &mut setup);
        let killer = {
            let (h, cgroup) = (h.clone(), cgroup.clone());
            loom::thread::spawn(move || {
                let mut fx = fx();
                h.kill(&cgroup, &mut fx).unwrap();
                kills(fx)
            })
        };
        let mut fx = fx();
        let child = h
            .fork(ForkFrom::Task(&parent), &mut fx)
            .map(|fork| fork.publish(TaskId(2), Membership::Process, &mut fx));
        let mut killed = kills(fx);
        killed.extend(killer.join().unwrap());
        assert!(killed.contains(&TaskId(1)));
        match child {
            Ok(_) => assert!(killed.contains(&TaskId(2)), "the child escaped"),
            Err(errno) => assert_eq!(errno, Errno::ESRCH),
        }
    }
    check(
        "a_fork_in_flight_does_not_escape_a_kill",
        None,
        model,
        &[Mutant::ForkIgnoresKill, Mutant::KillBumpsOnce],
    );
}

/// The parent reaps on one CPU while the task switches out on another, and
/// whichever comes second frees. A task once read as dead by then, but was
/// still to be unlinked: freed under that, it populated its cgroup for ever.
#[test]
fn whoever_takes_the_second_of_the_last_steps_may_free() {
    fn model(mutant: Option<Mutant>) {
        let probe = Arc::new(Probe::default());
        let h = Hierarchy::builder()
            .controller(probe.clone())
            .controller(Arc::new(Everywhere(Pids::new())))
            .mutant(mutant)
            .build(Time(0));
        let cgroup = h.create(h.root(), "a", &mut fx()).unwrap();
        let pids = Pids::css(&cgroup).unwrap();
        let task = hidden_task(&h, &cgroup, 1);
        let reaper = {
            let (h, task) = (h.clone(), task.clone());
            loom::thread::spawn(move || {
                h.reap(&task, &mut fx()).unwrap();
                h.free(&task, &mut fx()).is_ok()
            })
        };
        h.dead(&task, &mut fx()).unwrap();
        let freed = h.free(&task, &mut fx()).is_ok();
        assert!(freed != reaper.join().unwrap(), "freed once, and by somebody");
        assert!(!cgroup.populated(), "a freed task is still linked");
        assert_eq!(pids.current(), 0, "a freed task is still charged");
        h.remove(&cgroup, &mut fx()).unwrap();
        assert_all_gone(&h, &probe, 1);
    }
    check(
        "whoever_takes_the_second_of_the_last_steps_may_free",
        None,
        model,
        &[Mutant::DeadBeforeUnlink],
    );
}

fn kills(mut fx: Effects) -> Vec<TaskId> {
    fx.drain()
        .filter_map(|effect| match effect {
            Effect::Kill(task) => Some(task),
            _ => None,
        })
        .collect()
}
