//! A hierarchy that several threads work on at random, in legal order.
//!
//! What may be done next is a pool of [`Token`]s. Taking one out of the pool is
//! the right to take that step, so the steps of one task keep their order
//! whichever threads take them, and a task held by a thread does not exit.

use crate::checker::{CHECKER, Checker, Model};
use crate::everywhere::Everywhere;
use cgrove_core::*;
use shuttle::thread;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The deepest level that [`World::create`] goes to.
const DEPTH: usize = 3;

/// A source of choices that is the same for the same seed.
pub struct Choice(pub u64);

impl Choice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A right to one next step. Whoever takes it from the pool may take the step.
pub enum Token {
    Live(Arc<Task>),
    /// Two of these per exited task, in any order or at once: dead, and reap.
    Dead(Arc<Task>, Arc<AtomicU8>),
    Reap(Arc<Task>, Arc<AtomicU8>),
    Free(Arc<Task>),
    Forking(Fork, TaskId),
    Held(CssRef),
}

pub struct World {
    pub h: Hierarchy,
    model: Model,
    pub cgroups: Mutex<Vec<Arc<Cgroup>>>,
    pids: Mutex<Vec<Arc<PidsCss>>>,
    tokens: Mutex<Vec<Token>>,
    /// Queues that an effect told of and that may not be empty.
    told: [AtomicBool; 3],
    next: AtomicU64,
}

impl World {
    pub fn new(mutant: Option<Mutant>) -> Self {
        let model = Model::default();
        let h = Hierarchy::builder()
            .controller(Arc::new(Checker { model: model.clone() }))
            .controller(Arc::new(Everywhere(Pids::new())))
            .mutant(mutant)
            .build(Time(0));
        let cgroups = Mutex::new(vec![h.root().clone()]);
        Self {
            h,
            model,
            cgroups,
            pids: Mutex::default(),
            tokens: Mutex::default(),
            told: Default::default(),
            next: AtomicU64::new(1),
        }
    }

    fn perform(&self, fx: &mut Effects) {
        for effect in fx.drain() {
            match effect {
                Effect::Kill(task) => self.model.kill_seen(task),
                Effect::Work(queue) => self.told[queue as usize].store(true, Ordering::Relaxed),
                _ => {}
            }
        }
    }

    /// Runs an operation and does what it asks for.
    fn run<T>(&self, operation: impl FnOnce(&mut Effects) -> T) -> T {
        let mut fx = Effects::at(Time(0));
        let result = operation(&mut fx);
        self.perform(&mut fx);
        result
    }

    fn id(&self) -> TaskId {
        TaskId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn any_cgroup(&self, choice: &mut Choice) -> Arc<Cgroup> {
        let cgroups = self.cgroups.lock().unwrap();
        cgroups[choice.below(cgroups.len())].clone()
    }

    fn give(&self, token: Token) {
        self.tokens.lock().unwrap().push(token);
    }

    pub fn take(&self, choice: &mut Choice, wanted: impl Fn(&Token) -> bool) -> Option<Token> {
        let mut tokens = self.tokens.lock().unwrap();
        let fitting: Vec<_> = (0..tokens.len()).filter(|&at| wanted(&tokens[at])).collect();
        match fitting.len() {
            0 => None,
            n => Some(tokens.swap_remove(fitting[choice.below(n)])),
        }
    }

    pub fn create(&self, parent: &Arc<Cgroup>, name: &str) {
        if parent.level() == DEPTH {
            return;
        }
        match self.run(|fx| self.h.create(parent, name, fx)) {
            Ok(cgroup) => {
                // Gone if another thread was quick to remove it.
                let pids = Pids::css(&cgroup);
                assert!(pids.is_some() || cgroup.is_dead(), "created without a css");
                self.pids.lock().unwrap().extend(pids);
                self.cgroups.lock().unwrap().push(cgroup);
            }
            Err(Errno::ENODEV) => assert!(parent.is_dead()),
            Err(errno) => assert_eq!(errno, Errno::EEXIST),
        }
    }

    fn remove(&self, cgroup: &Arc<Cgroup>) -> Result<(), Errno> {
        let result = self.run(|fx| self.h.remove(cgroup, fx));
        match result {
            Ok(()) => {
                assert!(cgroup.is_dead(), "removed but not dead");
                let parent = cgroup.parent().expect("the root stays");
                let heir = self.h.child(parent, cgroup.name());
                assert!(heir.is_none_or(|heir| heir.id() != cgroup.id()), "removed but listed");
            }
            Err(errno) => assert_eq!(errno, Errno::EBUSY),
        }
        result
    }

    /// Removes under a reference on a css, which keeps the counters up (I7).
    fn remove_held(&self, cgroup: &Arc<Cgroup>, reader: &Reader) {
        let css = {
            let _section = self.h.read(reader);
            cgroup.css(CHECKER).filter(|css| css.try_get(reader))
        };
        let Some(css) = css else { return };
        self.model.got(cgroup.id());
        if self.remove(cgroup).is_ok() {
            let mut at = Some(cgroup);
            while let Some(cgroup) = at {
                let stat = self.h.stat(cgroup);
                assert!(stat.subsys[0].dying > 0, "I7: a dying css is not counted");
                at = cgroup.parent();
                if let Some(parent) = at {
                    let dying = self.h.stat(parent).nr_dying_descendants;
                    assert!(dying > 0, "I7: a dying cgroup is not counted");
                }
            }
        }
        self.give(Token::Held(CssRef::Of(css)));
    }

    pub fn fork_from_cgroup(&self, cgroup: &Arc<Cgroup>) -> Option<(Fork, TaskId)> {
        let asked = self.model.now();
        match self.run(|fx| self.h.fork(ForkFrom::Cgroup(cgroup), fx)) {
            Ok(fork) => {
                let id = self.id();
                self.model.granted(id, cgroup.id(), None, asked);
                Some((fork, id))
            }
            Err(Errno::ENODEV) => {
                assert!(cgroup.is_dead());
                None
            }
            Err(errno) => {
                assert_eq!(errno, Errno::EAGAIN);
                None
            }
        }
    }

    /// `parent` is held by the caller, so it does not exit meanwhile.
    fn fork_from_task(&self, parent: &Arc<Task>) -> Option<(Fork, TaskId)> {
        let asked = self.model.now();
        let was_killed = self.model.is_killed(parent.leader().id());
        match self.run(|fx| self.h.fork(ForkFrom::Task(parent), fx)) {
            Ok(fork) => {
                assert!(!was_killed, "a killed task forks");
                let id = self.id();
                let cgroup = fork.cgroup().expect("not published").id();
                self.model.granted(id, cgroup, Some(parent.id()), asked);
                Some((fork, id))
            }
            Err(Errno::ESRCH) => {
                assert!(self.model.could_be_killed(parent.id()), "ESRCH for a live task");
                None
            }
            Err(errno) => {
                assert_eq!(errno, Errno::EAGAIN);
                None
            }
        }
    }

    pub fn publish(&self, fork: Fork, id: TaskId, membership: Membership<'_>) {
        let leader = match membership {
            Membership::Process => id,
            Membership::ThreadOf(task) => task.leader().id(),
        };
        let task = self.run(|fx| fork.publish(id, membership, fx));
        self.model.published(id, leader);
        self.give(Token::Live(task));
    }

    fn cancel(&self, fork: Fork, id: TaskId, dropping: bool) {
        self.model.cancelled(id);
        if dropping {
            drop(fork);
        } else {
            self.run(|fx| fork.cancel(fx));
        }
    }

    fn adopt(&self, cgroup: &Arc<Cgroup>, membership: Membership<'_>) {
        let (id, asked) = (self.id(), self.model.now());
        match self.run(|fx| self.h.adopt(cgroup, id, membership, fx)) {
            Ok(task) => {
                self.model.granted(id, cgroup.id(), None, asked);
                self.model.published(id, task.leader().id());
                self.give(Token::Live(task));
            }
            Err(Errno::ENODEV) => assert!(cgroup.is_dead()),
            // The rest of the process may be elsewhere by then.
            Err(errno) => {
                assert_eq!(errno, Errno::EOPNOTSUPP);
                assert!(matches!(membership, Membership::ThreadOf(_)));
            }
        }
    }

    fn kill(&self, cgroup: &Arc<Cgroup>) {
        let kill = self.model.kill_begins(cgroup.id());
        let result = self.run(|fx| self.h.kill(cgroup, fx));
        self.model.kill_ended(kill, result.is_ok());
        if let Err(errno) = result {
            assert_eq!((errno, cgroup.is_dead()), (Errno::ENOENT, true));
        }
    }

    /// Takes the next step of what a token stands for.
    pub fn step(&self, token: Token, choice: &mut Choice, reader: &Reader) {
        match token {
            Token::Live(task) => {
                self.model.exits(task.id());
                self.run(|fx| self.h.exit(&task, fx)).unwrap();
                let done = Arc::new(AtomicU8::new(0));
                self.give(Token::Dead(task.clone(), done.clone()));
                self.give(Token::Reap(task, done));
            }
            Token::Dead(task, done) => {
                self.model.dead(task.id());
                self.run(|fx| self.h.dead(&task, fx)).unwrap();
                self.half_done(task, &done);
            }
            Token::Reap(task, done) => {
                self.run(|fx| self.h.reap(&task, fx)).unwrap();
                self.half_done(task, &done);
            }
            Token::Free(task) => {
                self.model.freed(task.id());
                self.run(|fx| self.h.free(&task, fx)).unwrap();
                assert!(task.cgroup().is_none());
            }
            Token::Forking(fork, id) => match choice.below(6) {
                0 => self.cancel(fork, id, false),
                1 => self.cancel(fork, id, true),
                _ => self.publish(fork, id, Membership::Process),
            },
            Token::Held(css) => {
                self.model.puts(css.cgroup().id());
                self.run(|fx| self.h.put(&css, reader, fx));
            }
        }
    }

    fn half_done(&self, task: Arc<Task>, done: &AtomicU8) {
        if done.fetch_add(1, Ordering::Relaxed) == 1 {
            self.give(Token::Free(task));
        }
    }

    fn read(&self, cgroup: &Arc<Cgroup>, choice: &mut Choice, reader: &Reader) {
        let _section = self.h.read(reader);
        let Some(css) = cgroup.css(CHECKER) else { return };
        let id = cgroup.id();
        self.model.found(id);
        if choice.one_in(3) {
            if css.try_get(reader) {
                self.model.got(id);
                self.give(Token::Held(CssRef::Of(css)));
            }
        } else if css.try_get_online(reader) {
            self.model.got(id);
            self.model.reads_online(id);
            for _ in 0..choice.below(4) {
                thread::yield_now();
            }
            assert!(css.is_online(), "I8: offline under a reader");
            self.model.stops_reading(id);
            if choice.one_in(2) {
                self.give(Token::Held(CssRef::Of(css)));
            } else {
                self.model.puts(id);
                self.run(|fx| self.h.put(&CssRef::Of(css), reader, fx));
            }
        }
        self.model.lost_sight(id);
    }

    fn look(&self, cgroup: &Arc<Cgroup>) {
        let stat = self.h.stat(cgroup);
        // The counters are read one by one while others change them, but none
        // of them ever passes below zero, where it would be huge.
        assert!(stat.nr_descendants < 1 << 32, "{stat:?}");
        assert!(stat.nr_dying_descendants < 1 << 32, "{stat:?}");
        assert!(stat.subsys.iter().all(|it| it.live.max(it.dying) < 1 << 32), "{stat:?}");
        for task in self.h.threads(cgroup).iter().chain(&self.h.procs(cgroup).unwrap()) {
            assert!(task.cgroup().is_none_or(|at| at.id() == cgroup.id()));
        }
        for css in self.h.csses(cgroup) {
            let lifecycle = self.h.lifecycle(&css);
            assert!(lifecycle.references < 1 << 32, "{lifecycle:?}");
        }
    }

    fn pump_queue(&self, queue: Queue) -> bool {
        if queue == Queue::Release {
            // What is on the other two may have to wait for readers, and then
            // is not told of again.
            self.told[queue as usize].store(false, Ordering::Relaxed);
        }
        self.run(|fx| self.h.pump_queue(queue, fx))
    }

    pub fn operate(&self, choice: &mut Choice, reader: &Reader) {
        let cgroup = self.any_cgroup(choice);
        let live = |token: &Token| matches!(token, Token::Live(_));
        match choice.below(100) {
            0..9 => self.create(&cgroup, ["a", "b"][choice.below(2)]),
            9..25 => drop(self.remove(&cgroup)),
            25..29 => self.remove_held(&cgroup, reader),
            29..33 => {
                let fork = self.fork_from_cgroup(&cgroup);
                self.tokens.lock().unwrap().extend(fork.map(|(fork, id)| Token::Forking(fork, id)));
            }
            33..43 => {
                let Some(Token::Live(parent)) = self.take(choice, live) else { return };
                if let Some((fork, id)) = self.fork_from_task(&parent) {
                    if choice.one_in(3) {
                        self.publish(fork, id, Membership::ThreadOf(&parent));
                    } else {
                        self.give(Token::Forking(fork, id));
                    }
                }
                self.give(Token::Live(parent));
            }
            43..46 => {
                if choice.one_in(2) {
                    self.adopt(&cgroup, Membership::Process);
                } else if let Some(Token::Live(other)) = self.take(choice, live) {
                    self.adopt(&cgroup, Membership::ThreadOf(&other));
                    self.give(Token::Live(other));
                }
            }
            46..50 => self.kill(&cgroup),
            50..76 => {
                if let Some(token) = self.take(choice, |_| true) {
                    self.step(token, choice, reader);
                }
            }
            76..84 => {
                self.pump_queue(Queue::ALL[choice.below(3)]);
            }
            84..86 => {
                self.run(|fx| self.h.pump(fx));
            }
            86..94 => self.read(&cgroup, choice, reader),
            94..97 => {
                if let Some(pids) = Pids::css(&cgroup) {
                    let limit = Limit::N(choice.below(6) as u64);
                    let set = pids.set_max(if choice.one_in(2) { Limit::Max } else { limit });
                    assert!(set.is_ok() || set == Err(Errno::ENODEV) && cgroup.is_dead());
                }
            }
            _ => self.look(&cgroup),
        }
    }

    /// Takes everything apart and finds nothing left.
    pub fn finish(&self, choice: &mut Choice) {
        let reader = self.h.register_reader();
        while let Some(token) = self.take(choice, |_| true) {
            self.step(token, choice, &reader);
            match choice.below(4) {
                0 => drop(self.remove(&self.any_cgroup(choice))),
                1 => drop(self.pump_queue(Queue::ALL[choice.below(3)])),
                _ => {}
            }
        }
        let mut cgroups = self.cgroups.lock().unwrap().split_off(1);
        cgroups.sort_by_key(|cgroup| std::cmp::Reverse(cgroup.level()));
        for cgroup in &cgroups {
            assert_eq!(self.remove(cgroup), Ok(()), "I5: {cgroup:?}");
        }
        // As an embedder does: only what an effect told of.
        loop {
            let mut ran = false;
            for queue in Queue::ALL {
                if self.told[queue as usize].load(Ordering::Relaxed) {
                    ran |= self.pump_queue(queue);
                }
            }
            if !ran {
                break;
            }
        }
        for queue in Queue::ALL {
            assert!(!self.pump_queue(queue), "I3: nobody was told of work on {queue:?}");
        }
        assert_eq!(self.run(|fx| self.h.pump(fx)), 0, "I3: work waits for readers that left");
        self.model.assert_all_gone(self.h.root().id());
        let stat = self.h.stat(self.h.root());
        assert_eq!((stat.nr_descendants, stat.nr_dying_descendants), (0, 0), "I7: {stat:?}");
        for subsys in &stat.subsys {
            assert_eq!((subsys.live, subsys.dying), (1, 0), "I7: {stat:?}");
        }
        assert!(!self.h.root().populated(), "I7: the root is populated by nobody");
        for cgroup in &cgroups {
            let lifecycle = self.h.lifecycle(&CssRef::SelfOf(cgroup.clone()));
            assert_eq!((lifecycle.phase, lifecycle.references), (Phase::Freed, 0), "{cgroup:?}");
        }
        for pids in &*self.pids.lock().unwrap() {
            assert_eq!(pids.current(), 0, "I7: pids.current of a freed css");
        }
    }
}
