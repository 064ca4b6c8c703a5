//! What the behaviour tests share: a short way to say "a task is here".
#![allow(dead_code, reason = "each test file uses its own part")]

use cgrove_core::*;
use std::sync::Arc;
use std::sync::Mutex;

/// A hierarchy with `pids` and a clock that tests move by hand.
pub struct World {
    pub h: Hierarchy,
    pub fx: Effects,
    next: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(Hierarchy::builder().controller(Arc::new(Pids::new())))
    }

    pub fn with(builder: Builder) -> Self {
        Self { h: builder.build(Time(0)), fx: Effects::at(Time(0)), next: 1 }
    }

    pub fn mkdir(&mut self, parent: &Arc<Cgroup>, name: &str) -> Arc<Cgroup> {
        self.h.create(parent, name, &mut self.fx).unwrap()
    }

    pub fn top(&mut self, name: &str) -> Arc<Cgroup> {
        let root = self.h.root().clone();
        self.mkdir(&root, name)
    }

    pub fn rmdir(&mut self, cgroup: &Arc<Cgroup>) -> Result<(), Errno> {
        self.h.remove(cgroup, &mut self.fx)
    }

    pub fn id(&mut self) -> TaskId {
        self.next += 1;
        TaskId(self.next)
    }

    /// A process in `cgroup`.
    pub fn spawn(&mut self, cgroup: &Arc<Cgroup>) -> Arc<Task> {
        self.fork(ForkFrom::Cgroup(cgroup), Membership::Process).unwrap()
    }

    pub fn fork(&mut self, from: ForkFrom<'_>, how: Membership<'_>) -> Result<Arc<Task>, Errno> {
        let id = self.id();
        Ok(self.h.fork(from, &mut self.fx)?.publish(id, how, &mut self.fx))
    }

    pub fn thread(&mut self, of: &Arc<Task>) -> Arc<Task> {
        self.fork(ForkFrom::Task(of), Membership::ThreadOf(of)).unwrap()
    }

    pub fn exit(&mut self, task: &Arc<Task>) {
        self.h.exit(task, &mut self.fx).unwrap();
    }

    pub fn dead(&mut self, task: &Arc<Task>) {
        self.h.dead(task, &mut self.fx).unwrap();
    }

    pub fn reap(&mut self, task: &Arc<Task>) {
        self.h.reap(task, &mut self.fx).unwrap();
    }

    pub fn free(&mut self, task: &Arc<Task>) {
        self.h.free(task, &mut self.fx).unwrap();
    }

    pub fn pump(&mut self) -> usize {
        self.h.pump(&mut self.fx)
    }

    /// Names of the files notified since the last call, as `path/file`.
    pub fn notified(&mut self) -> Vec<String> {
        self.fx
            .drain()
            .filter_map(|effect| match effect {
                Effect::Notify(file) => Some(format!("{}/{}", file.cgroup(), file.name())),
                _ => None,
            })
            .collect()
    }

    pub fn lifecycle(&self, cgroup: &Arc<Cgroup>, controller: &str) -> Option<Lifecycle> {
        cgroup.css(controller).map(|css| self.h.lifecycle(&CssRef::Of(css)))
    }
}

/// A controller that writes down what is asked of it.
#[derive(Default)]
pub struct Recorder {
    pub name: &'static str,
    pub log: Arc<Mutex<Vec<String>>>,
    pub refuse_online: bool,
    pub refuse_fork: Option<Errno>,
}

impl Recorder {
    fn note(&self, verb: &str, id: impl std::fmt::Display) {
        self.log.lock().unwrap().push(format!("{} {verb} {id}", self.name));
    }
}

impl Controller for Recorder {
    fn name(&self) -> &'static str {
        self.name
    }
    fn hooks(&self) -> Hooks {
        Hooks::all()
    }
    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        self.note("alloc", new.cgroup);
        Ok(Arc::new(new.cgroup))
    }
    fn css_online(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.note("online", cgroup_of(css));
        if self.refuse_online { Err(Errno::ENOMEM) } else { Ok(()) }
    }
    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        assert!(!css.is_dying(), "css_killed comes before DYING");
        self.note("killed", cgroup_of(css));
    }
    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        assert!(css.is_dying() && css.is_online());
        self.note("offline", cgroup_of(css));
    }
    fn css_released(&self, css: &Css) {
        self.note("released", cgroup_of(css));
    }
    fn css_free(&self, css: &Css) {
        self.note("free", cgroup_of(css));
    }
    fn attach(&self, task: TaskId, _to: &Css, _from: Option<&Css>, _fx: &mut Effects) {
        self.note("attach", task);
    }
    fn can_fork(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.note("can_fork", cgroup_of(css));
        self.refuse_fork.map_or(Ok(()), Err)
    }
    fn cancel_fork(&self, css: &Css) {
        self.note("cancel_fork", cgroup_of(css));
    }
    fn fork(&self, task: TaskId, _css: &Css, _fx: &mut Effects) {
        self.note("fork", task);
    }
    fn exit(&self, task: TaskId, _css: &Css, _fx: &mut Effects) {
        self.note("exit", task);
    }
    fn release(&self, task: TaskId, _css: &Css) {
        self.note("release", task);
    }
}

fn cgroup_of(css: &Css) -> CgroupId {
    *css.state::<CgroupId>().unwrap()
}
