//! A controller that knows the rules, and a model of the tasks to judge by.
//!
//! The model is updated *around* the calls into the core so that what it claims
//! holds whatever other threads do meanwhile. A task counts as running from the
//! moment its fork was granted until just before the core is told that it is
//! dead; a reference counts from after it was had until before it is given
//! back; a reader, while its section is surely open. So each assertion is
//! sound, and at worst misses an instant at either end.
//!
//! The model's lock is a plain one that the checker does not see: nothing in
//! here calls into the core while holding it.

use cgrove_core::*;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far a css has come, by the verbs the controller heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    Alloc,
    Online,
    Killed,
    Offline,
    Released,
    Freed,
}

#[derive(Debug)]
struct CssModel {
    parent: Option<CgroupId>,
    heard: Heard,
    /// Tasks charged: granted forks and joins, minus cancelled and reaped.
    charged: i64,
    /// References that somebody holds.
    refs: usize,
    /// Readers inside a section that has a `try_get_online` reference.
    online_readers: usize,
    /// Readers inside the section in which they looked the css up.
    finders: usize,
}

#[derive(Debug)]
struct TaskModel {
    cgroup: CgroupId,
    parent: Option<TaskId>,
    leader: Option<TaskId>,
    /// When the place was asked for, and when it had been granted.
    asked: u64,
    granted: u64,
    /// When it was about to exit.
    exits: u64,
    dead: bool,
    freed: bool,
}

#[derive(Debug)]
struct KillModel {
    top: CgroupId,
    begun: u64,
    ended: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    clock: u64,
    csses: HashMap<CgroupId, CssModel>,
    tasks: HashMap<TaskId, TaskModel>,
    kills: Vec<Option<KillModel>>,
    killed: HashSet<TaskId>,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn is_below(&self, mut cgroup: CgroupId, top: CgroupId) -> bool {
        loop {
            if cgroup == top {
                return true;
            }
            match self.csses[&cgroup].parent {
                Some(parent) => cgroup = parent,
                None => return false,
            }
        }
    }

    fn css(&mut self, cgroup: CgroupId) -> &mut CssModel {
        self.csses.get_mut(&cgroup).expect("a css that was never allocated")
    }

    fn task(&mut self, id: TaskId) -> &mut TaskModel {
        self.tasks.get_mut(&id).expect("a task that was never granted")
    }

    /// The css enters `to`, which must follow `from`.
    fn step(&mut self, cgroup: CgroupId, from: Heard, to: Heard) {
        let css = self.css(cgroup);
        assert_eq!(css.heard, from, "css of cgroup {cgroup} heard {to:?} out of turn");
        css.heard = to;
    }

    fn children(&self, cgroup: CgroupId) -> impl Iterator<Item = (&CgroupId, &CssModel)> {
        self.csses.iter().filter(move |(_, css)| css.parent == Some(cgroup))
    }
}

/// The model. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Model(Arc<Mutex<State>>);

impl Model {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> u64 {
        self.lock().tick()
    }

    /// Whether SIGKILL for the group of `task` has been asked for and seen.
    pub fn is_killed(&self, leader: TaskId) -> bool {
        self.lock().killed.contains(&leader)
    }

    /// A place was granted. From here on the task pins its cgroup's csses.
    pub fn granted(&self, id: TaskId, cgroup: CgroupId, parent: Option<TaskId>, asked: u64) {
        let mut state = self.lock();
        let granted = state.tick();
        let task = TaskModel {
            cgroup,
            parent,
            leader: None,
            asked,
            granted,
            exits: u64::MAX,
            dead: false,
            freed: false,
        };
        assert!(state.tasks.insert(id, task).is_none());
    }

    pub fn published(&self, id: TaskId, leader: TaskId) {
        self.lock().task(id).leader = Some(leader);
    }

    /// About to cancel.
    pub fn cancelled(&self, id: TaskId) {
        self.lock().tasks.remove(&id);
    }

    /// About to exit.
    pub fn exits(&self, id: TaskId) {
        let mut state = self.lock();
        let now = state.tick();
        state.task(id).exits = now;
    }

    /// About to be dead.
    pub fn dead(&self, id: TaskId) {
        self.lock().task(id).dead = true;
    }

    /// About to be freed.
    pub fn freed(&self, id: TaskId) {
        self.lock().task(id).freed = true;
    }

    pub fn kill_begins(&self, top: CgroupId) -> usize {
        let mut state = self.lock();
        let begun = state.tick();
        state.kills.push(Some(KillModel { top, begun, ended: None }));
        state.kills.len() - 1
    }

    pub fn kill_ended(&self, kill: usize, done: bool) {
        let mut state = self.lock();
        let now = state.tick();
        match &mut state.kills[kill] {
            Some(kill) if done => kill.ended = Some(now),
            kill => *kill = None,
        }
    }

    /// A SIGKILL was asked for. Once per process is enough.
    pub fn kill_seen(&self, leader: TaskId) {
        assert!(self.lock().killed.insert(leader), "task {leader} is killed a second time");
    }

    /// Whether any kill of a cgroup at or above this task's has begun.
    pub fn could_be_killed(&self, id: TaskId) -> bool {
        let state = self.lock();
        // A thread elsewhere in the group can have been the one that was met.
        let leader = state.tasks[&id].leader;
        state.tasks.values().filter(|task| task.leader == leader).any(|task| {
            state.kills.iter().flatten().any(|kill| state.is_below(task.cgroup, kill.top))
        })
    }

    pub fn found(&self, cgroup: CgroupId) {
        self.lock().css(cgroup).finders += 1;
    }

    pub fn lost_sight(&self, cgroup: CgroupId) {
        self.lock().css(cgroup).finders -= 1;
    }

    pub fn reads_online(&self, cgroup: CgroupId) {
        let mut state = self.lock();
        let css = state.css(cgroup);
        assert!(css.heard < Heard::Offline, "I8: try_get_online after css_offline");
        css.online_readers += 1;
    }

    pub fn stops_reading(&self, cgroup: CgroupId) {
        self.lock().css(cgroup).online_readers -= 1;
    }

    pub fn got(&self, cgroup: CgroupId) {
        let mut state = self.lock();
        let css = state.css(cgroup);
        assert!(css.heard < Heard::Released, "a reference on a released css");
        css.refs += 1;
    }

    /// About to put.
    pub fn puts(&self, cgroup: CgroupId) {
        self.lock().css(cgroup).refs -= 1;
    }

    /// After everything was taken apart: each css went all the way, once, and
    /// nobody escaped a kill.
    pub fn assert_all_gone(&self, root: CgroupId) {
        let state = self.lock();
        for (id, css) in &state.csses {
            let want = if *id == root { Heard::Online } else { Heard::Freed };
            assert_eq!(css.heard, want, "I3: css of cgroup {id} came only so far");
            assert_eq!(css.charged, 0, "I7: css of cgroup {id} still has charges");
            assert_eq!((css.refs, css.online_readers, css.finders), (0, 0, 0), "harness");
        }
        for kill in state.kills.iter().flatten() {
            let ended = kill.ended.expect("harness: a kill that has not ended");
            for (id, task) in &state.tasks {
                let leader = task.leader.expect("harness: a fork neither published nor cancelled");
                if task.exits < ended || !state.is_below(task.cgroup, kill.top) {
                    continue;
                }
                let was_there = task.granted < kill.begun;
                // Its parent was there all along: granted before the kill came
                // to the parent, or refused.
                let parent = task.parent.and_then(|parent| state.tasks.get(&parent));
                let of_one_there = task.asked < ended
                    && parent.is_some_and(|parent| {
                        parent.granted < kill.begun
                            && parent.exits > ended
                            && state.is_below(parent.cgroup, kill.top)
                    });
                if was_there || of_one_there {
                    assert!(state.killed.contains(&leader), "task {id} escaped a kill");
                }
            }
        }
    }
}

/// The controller. Every verb checks what the core promises about it.
pub struct Checker {
    pub model: Model,
}

/// What the controller keeps on a css.
struct CheckCss {
    cgroup: CgroupId,
}

/// Its name.
pub const CHECKER: &str = "checker";

fn cgroup_of(css: &Css) -> CgroupId {
    css.state::<CheckCss>().expect("a css of this controller").cgroup
}

impl Checker {
    /// A css that tasks may be born on or join: not dying (I9).
    fn joins(&self, css: &Css, what: &str) {
        let mut state = self.model.lock();
        let css = state.css(cgroup_of(css));
        assert_eq!(css.heard, Heard::Online, "I9: {what} on a dying css");
        css.charged += 1;
    }

    fn leaves(&self, css: &Css, before: Heard, what: &str) {
        let mut state = self.model.lock();
        let css = state.css(cgroup_of(css));
        assert!(css.heard < before, "{what} on a css that is {:?}", css.heard);
        css.charged -= 1;
        assert!(css.charged >= 0, "I7: {what} of a charge that was not made");
    }
}

impl Controller for Checker {
    fn name(&self) -> &'static str {
        CHECKER
    }

    fn hooks(&self) -> Hooks {
        Hooks::all()
    }

    fn threaded(&self) -> bool {
        true
    }

    fn implicit(&self) -> bool {
        true
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent.map(cgroup_of);
        let mut state = self.model.lock();
        if let Some(parent) = parent {
            assert_eq!(state.css(parent).heard, Heard::Online, "a css below a dying one");
        }
        let css = CssModel {
            parent,
            // The root's css is never told that it is online.
            heard: if parent.is_some() { Heard::Alloc } else { Heard::Online },
            charged: 0,
            refs: 0,
            online_readers: 0,
            finders: 0,
        };
        assert!(state.csses.insert(new.cgroup, css).is_none(), "I6: a second css in one slot");
        Ok(Arc::new(CheckCss { cgroup: new.cgroup }))
    }

    fn css_online(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.model.lock().step(cgroup_of(css), Heard::Alloc, Heard::Online);
        Ok(())
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        assert!(!css.is_dying(), "css_killed comes before DYING");
        self.model.lock().step(cgroup_of(css), Heard::Online, Heard::Killed);
    }

    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        assert!(css.is_dying(), "css_offline of a css that is not dying");
        assert!(!css.is_populated(), "I1: css_offline of a populated css");
        let cgroup = cgroup_of(css);
        let mut state = self.model.lock();
        let online = state.css(cgroup).online_readers;
        assert_eq!(online, 0, "I8: css_offline under a reader");
        for (id, task) in &state.tasks {
            let runs = !task.dead && state.is_below(task.cgroup, cgroup);
            assert!(
                !runs,
                "I1: css_offline of cgroup {cgroup}, but task {id} has not switched out"
            );
        }
        for (id, child) in state.children(cgroup) {
            assert!(child.heard >= Heard::Offline, "I2: css_offline before that of child {id}");
        }
        state.step(cgroup, Heard::Killed, Heard::Offline);
    }

    fn css_released(&self, css: &Css) {
        let cgroup = cgroup_of(css);
        let mut state = self.model.lock();
        state.step(cgroup, Heard::Offline, Heard::Released);
        assert_eq!(state.css(cgroup).refs, 0, "css_released under a reference");
        for (id, task) in &state.tasks {
            assert!(
                task.freed || task.cgroup != cgroup,
                "css_released, but task {id} is not freed"
            );
        }
        for (id, child) in state.children(cgroup) {
            assert_eq!(child.heard, Heard::Freed, "css_released before child {id} was freed");
        }
    }

    fn css_free(&self, css: &Css) {
        let mut state = self.model.lock();
        state.step(cgroup_of(css), Heard::Released, Heard::Freed);
        assert_eq!(state.css(cgroup_of(css)).finders, 0, "css_free under a reader");
    }

    fn attach(&self, _task: TaskId, to: &Css, from: Option<&Css>, _fx: &mut Effects) {
        assert!(from.is_none(), "nothing moves tasks yet");
        self.joins(to, "attach");
    }

    fn can_fork(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.joins(css, "can_fork");
        Ok(())
    }

    fn cancel_fork(&self, css: &Css) {
        self.leaves(css, Heard::Killed, "cancel_fork");
    }

    fn fork(&self, _task: TaskId, css: &Css, _fx: &mut Effects) {
        let heard = self.model.lock().css(cgroup_of(css)).heard;
        assert_eq!(heard, Heard::Online, "I9: fork on a dying css");
    }

    fn exit(&self, _task: TaskId, css: &Css, _fx: &mut Effects) {
        let heard = self.model.lock().css(cgroup_of(css)).heard;
        assert!(heard < Heard::Offline, "exit on a css that is {heard:?}");
    }

    fn release(&self, _task: TaskId, css: &Css) {
        self.leaves(css, Heard::Released, "release");
    }
}
