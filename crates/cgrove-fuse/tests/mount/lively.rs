//! A world with tasks that are names only: what is done to them is written down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use cgrove_core::{Effect, Effects, Hierarchy, Membership, Task, TaskId, Time};
use cgrove_files::{File, Tasks, Tree};
use cgrove_fuse::{Events, Requester, World};

/// Tasks by pid, all in the root at first.
pub struct Lively {
    tree: Tree,
    start: Instant,
    tasks: Mutex<HashMap<u32, Arc<Task>>>,
    events: OnceLock<Events>,
    /// Kills, and who wrote a pid.
    pub killed: Mutex<Vec<u64>>,
    pub writers: Mutex<Vec<(Requester, u32)>>,
}

impl Lively {
    pub fn new(hierarchy: Hierarchy, pids: &[u32]) -> Arc<Self> {
        let mut fx = Effects::at(Time(0));
        let adopt = |pid: &u32| {
            let id = TaskId(u64::from(*pid));
            let root = hierarchy.root();
            let task = hierarchy.adopt(root, id, Membership::Process, &mut fx).expect("a task");
            (*pid, task)
        };
        let tasks = pids.iter().map(adopt).collect();
        for effect in fx.drain() {
            drop(effect);
        }
        Arc::new(Self {
            tree: Tree::builder(hierarchy).build(),
            start: Instant::now(),
            tasks: Mutex::new(tasks),
            events: OnceLock::new(),
            killed: Mutex::default(),
            writers: Mutex::default(),
        })
    }

    fn task(&self, pid: u32) -> Option<Arc<Task>> {
        self.tasks.lock().expect("no panic").get(&pid).cloned()
    }

    /// A task ends by itself: all of it, or only until it waits to be reaped.
    pub fn end(&self, pid: u32, reaped: bool) {
        let task = self.task(pid).expect("it lives");
        let mut fx = Effects::at(self.now());
        let hierarchy = self.tree.hierarchy();
        if reaped {
            hierarchy.retire(&task, &mut fx).expect("it ends");
        } else {
            hierarchy.exit(&task, &mut fx).expect("it exits");
        }
        self.events.get().expect("it is mounted").perform(&mut fx);
    }
}

impl Lively {
    /// What was left of one that waited is reaped.
    pub fn end_rest(&self, pid: u32) {
        let task = self.task(pid).expect("it is known");
        let mut fx = Effects::at(self.now());
        let hierarchy = self.tree.hierarchy();
        hierarchy.dead(&task, &mut fx).expect("it is dead");
        hierarchy.reap(&task, &mut fx).expect("it is reaped");
        hierarchy.free(&task, &mut fx).expect("it is freed");
        self.events.get().expect("it is mounted").perform(&mut fx);
    }
}

struct View<'a>(&'a Lively);

impl Tasks for View<'_> {
    fn find(&self, pid: u32) -> Option<Arc<Task>> {
        self.0.task(pid)
    }

    fn pid(&self, task: &Arc<Task>) -> Option<u32> {
        u32::try_from(task.id().0).ok()
    }
}

impl World for Lively {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn now(&self) -> Time {
        Time(0).after(self.start.elapsed())
    }

    fn mounted(&self, events: Events) {
        self.events.set(events).expect("it is mounted once");
    }

    fn reader<'w>(&'w self, _who: Requester, _file: &File) -> Box<dyn Tasks + 'w> {
        Box::new(View(self))
    }

    fn writer<'w>(&'w self, who: Requester, file: &File, _text: &[u8]) -> Box<dyn Tasks + 'w> {
        self.writers.lock().expect("no panic").push((who, file.opener().uid));
        Box::new(View(self))
    }

    fn perform(&self, effect: Effect, _fx: &mut Effects) {
        if let Effect::Kill(task) = effect {
            self.killed.lock().expect("no panic").push(task.0);
        }
    }
}
