//! Threads that move tasks, switch controllers and freeze, against births and
//! deaths, in legal order.
//!
//! Says nothing about single answers: whatever happens at once, the books must
//! balance at every moment (a controller checks that) and at the end.

use crate::world::Choice;
use cgrove_core::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Counts the tasks charged to each css. Its lock is one that the checker does
/// not see.
#[derive(Default)]
pub struct Tally {
    implicit: bool,
    charged: Mutex<HashMap<CssId, i64>>,
}

impl Tally {
    fn add(&self, css: &Css, by: i64) {
        assert!(by < 0 || !css.is_dying(), "I9: charged to a dying css");
        let mut charged = self.charged.lock().unwrap();
        let count = charged.entry(css.id()).or_default();
        *count += by;
        assert!(*count >= 0, "uncharged where it was not charged");
    }
}

impl Controller for Tally {
    fn name(&self) -> &'static str {
        if self.implicit { "perf" } else { "cpu" }
    }
    fn hooks(&self) -> Hooks {
        Hooks::all()
    }
    fn threaded(&self) -> bool {
        true
    }
    fn implicit(&self) -> bool {
        self.implicit
    }
    fn css_alloc(&self, _new: NewCss<'_>) -> Result<CssState, Errno> {
        Ok(Arc::new(()))
    }
    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        assert!(!css.is_populated(), "I1: css_offline of a populated css");
    }
    fn attach(&self, _task: TaskId, to: &Css, from: Option<&Css>, _fx: &mut Effects) {
        self.add(to, 1);
        if let Some(from) = from {
            self.add(from, -1);
        }
    }
    fn move_forks(&self, n: usize, to: &Css, from: &Css, _fx: &mut Effects) {
        self.add(to, n as i64);
        self.add(from, -(n as i64));
    }
    fn can_fork(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.add(css, 1);
        Ok(())
    }
    fn cancel_fork(&self, css: &Css) {
        self.add(css, -1);
    }
    fn release(&self, _task: TaskId, css: &Css) {
        self.add(css, -1);
    }
}

enum Token {
    Live(Arc<Task>),
    Dead(Arc<Task>, Arc<AtomicU8>),
    Reap(Arc<Task>, Arc<AtomicU8>),
    Free(Arc<Task>),
    Place(Fork, Option<Arc<Task>>),
}

pub struct Traffic {
    h: Hierarchy,
    /// Where processes may be, and where threads of the first one's.
    homes: [Arc<Cgroup>; 3],
    threaded: [Arc<Cgroup>; 2],
    tokens: Mutex<Vec<Token>>,
    next: AtomicU64,
}

impl Traffic {
    pub fn new(mutant: Option<Mutant>) -> Self {
        let h = Hierarchy::builder()
            .controller(Arc::new(Tally::default()))
            .controller(Arc::new(Pids::new()))
            .controller(Arc::new(Tally { implicit: true, ..Tally::default() }))
            .mutant(mutant)
            .build(Time(0));
        let mut fx = Effects::at(Time(0));
        let mut create = |at: &Arc<Cgroup>, name| h.create(at, name, &mut fx).unwrap();
        let homes = ["r", "a", "b"].map(|name| create(h.root(), name));
        let threaded = ["t", "u"].map(|name| create(&homes[0], name));
        for cgroup in &threaded {
            h.make_threaded(cgroup, &mut fx).unwrap();
        }
        let new = Self { h, homes, threaded, tokens: Mutex::default(), next: AtomicU64::new(1) };
        for home in &new.homes {
            let place = new.h.fork(ForkFrom::Cgroup(home), &mut fx).unwrap();
            new.give(Token::Place(place, None));
        }
        let mut choice = Choice(0);
        while let Some(place) = new.take(&mut choice, |it| matches!(it, Token::Place(..))) {
            new.step(place);
        }
        new
    }

    fn give(&self, token: Token) {
        self.tokens.lock().unwrap().push(token);
    }

    fn take(&self, choice: &mut Choice, wanted: impl Fn(&Token) -> bool) -> Option<Token> {
        let mut tokens = self.tokens.lock().unwrap();
        let fitting: Vec<_> = (0..tokens.len()).filter(|&at| wanted(&tokens[at])).collect();
        (!fitting.is_empty()).then(|| tokens.swap_remove(fitting[choice.below(fitting.len())]))
    }

    /// A live task, which another thread may take through its end meanwhile.
    fn glance(&self, choice: &mut Choice) -> Option<Arc<Task>> {
        let token = self.take(choice, |it| matches!(it, Token::Live(_)))?;
        let Token::Live(task) = &token else { return None };
        let task = task.clone();
        self.give(token);
        Some(task)
    }

    fn step(&self, token: Token) {
        let fx = &mut Effects::at(Time(0));
        match token {
            Token::Live(task) => {
                self.h.exit(&task, fx).unwrap();
                let done = Arc::new(AtomicU8::new(0));
                self.give(Token::Dead(task.clone(), done.clone()));
                self.give(Token::Reap(task, done));
            }
            Token::Dead(task, done) => {
                self.h.dead(&task, fx).unwrap();
                self.half_done(task, &done);
            }
            Token::Reap(task, done) => {
                self.h.reap(&task, fx).unwrap();
                self.half_done(task, &done);
            }
            Token::Free(task) => self.h.free(&task, fx).unwrap(),
            Token::Place(place, sibling) => {
                let id = TaskId(self.next.fetch_add(1, Ordering::Relaxed));
                let how = sibling.as_ref().map_or(Membership::Process, Membership::ThreadOf);
                self.give(Token::Live(place.publish(id, how, fx)));
            }
        }
    }

    fn half_done(&self, task: Arc<Task>, done: &AtomicU8) {
        if done.fetch_add(1, Ordering::Relaxed) == 1 {
            self.give(Token::Free(task));
        }
    }

    pub fn operate(&self, choice: &mut Choice) {
        let (h, fx) = (&self.h, &mut Effects::at(Time(0)));
        let home = &self.homes[choice.below(3)];
        match choice.below(100) {
            0..18 => {
                // Held while it forks: it does not exit, but it may move.
                let live = |it: &Token| matches!(it, Token::Live(_));
                let Some(Token::Live(parent)) = self.take(choice, live) else { return };
                match h.fork(ForkFrom::Task(&parent), fx) {
                    Ok(place) => {
                        let sibling = (choice.below(2) == 0).then(|| parent.clone());
                        self.give(Token::Place(place, sibling));
                    }
                    Err(errno) => assert_eq!(errno, Errno::ESRCH),
                }
                self.give(Token::Live(parent));
            }
            18..48 => {
                if let Some(token) = self.take(choice, |_| true) {
                    match token {
                        Token::Place(place, _) if choice.below(3) == 0 => place.cancel(fx),
                        token => self.step(token),
                    }
                }
            }
            48..66 => {
                let Some(task) = self.glance(choice) else { return };
                let thread = choice.below(3) == 0;
                let to = if thread { &self.threaded[choice.below(2)] } else { home };
                let scope = if thread { Scope::Thread } else { Scope::Process };
                let moved = h.attach(to, scope, || Ok(task.clone()), &Opener::ROOT, fx);
                // Out of its domain, or not there any more.
                let fits = moved.is_ok()
                    || moved == Err(Errno::ESRCH)
                    || thread && moved == Err(Errno::EOPNOTSUPP);
                assert!(fits, "{moved:?}");
            }
            66..78 => {
                let one = SsMask::of(choice.below(2));
                let at = if choice.below(3) == 0 { &self.homes[0] } else { h.root() };
                let (on, off) =
                    if choice.below(2) == 0 { (one, SsMask::NONE) } else { (SsMask::NONE, one) };
                if let Err(WriteError::Refused(errno)) = h.write_subtree_control(at, on, off, fx) {
                    assert!(matches!(errno, Errno::ENOENT | Errno::EBUSY), "{errno}");
                }
            }
            78..84 => h.set_freeze(home, choice.below(2) == 0, fx).unwrap(),
            84..90 => {
                let Some(task) = self.glance(choice) else { return };
                if choice.below(2) == 0 {
                    h.enter_frozen(&task, fx);
                } else {
                    h.leave_frozen(&task, choice.below(2) == 0, fx);
                }
            }
            _ => drop(h.pump(fx)),
        }
    }

    /// Every process is in one domain, which is a home.
    fn processes(&self) {
        let mut seen = HashMap::new();
        for token in &*self.tokens.lock().unwrap() {
            let Token::Live(task) = token else { continue };
            let at = task.cgroup().expect("a live task is somewhere");
            let home = if at.level() > 1 { at.parent().unwrap().id() } else { at.id() };
            let first = *seen.entry(task.leader().id()).or_insert(home);
            assert_eq!(first, home, "a process in two domains");
        }
    }

    /// Takes everything apart and finds nothing left.
    pub fn finish(&self, choice: &mut Choice) {
        let (h, fx) = (&self.h, &mut Effects::at(Time(0)));
        while let Some(place) = self.take(choice, |it| matches!(it, Token::Place(..))) {
            self.step(place);
        }
        self.processes();
        while let Some(token) = self.take(choice, |_| true) {
            self.step(token);
        }
        h.pump(fx);
        for cgroup in self.threaded.iter().chain(&self.homes) {
            assert!(!cgroup.populated(), "I7: populated by nobody");
            assert!(h.threads(cgroup).is_empty());
            if let Some(pids) = Pids::css(cgroup) {
                assert_eq!(pids.current(), 0, "I7: pids.current of an empty cgroup");
            }
        }
        for home in &self.homes {
            h.set_freeze(home, true, fx).unwrap();
            assert!(home.frozen(), "nobody is there to wait for");
            h.set_freeze(home, false, fx).unwrap();
            assert!(!home.frozen());
        }
        for cgroup in self.threaded.iter().chain(&self.homes) {
            assert_eq!(h.remove(cgroup, fx), Ok(()), "I5");
        }
        assert_eq!(h.pump(fx), 0);
        let stat = h.stat(h.root());
        assert_eq!((stat.nr_descendants, stat.nr_dying_descendants), (0, 0), "I7: {stat:?}");
        assert!(stat.subsys.iter().all(|it| (it.live, it.dying) == (1, 0)), "I7: {stat:?}");
    }
}
