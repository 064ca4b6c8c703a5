//! What the behaviour tests share: a short way to say "a task is here".
#![allow(dead_code, reason = "each test file uses its own part")]

use cgrove_core::*;
use std::sync::Arc;
use std::sync::Mutex;

#[path = "../common/everywhere.rs"]
mod everywhere;
pub use everywhere::Everywhere;

/// A hierarchy with `pids` everywhere and a clock that tests move by hand.
pub struct World {
    pub h: Hierarchy,
    pub fx: Effects,
    next: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(Hierarchy::builder().controller(Arc::new(Everywhere(Pids::new()))))
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

    pub fn retire(&mut self, task: &Arc<Task>) {
        self.h.retire(task, &mut self.fx).unwrap();
    }

    /// The steps that are left to a task that has begun to exit.
    pub fn retire_rest(&mut self, task: &Arc<Task>) {
        self.dead(task);
        self.reap(task);
        self.free(task);
    }

    /// A fork in flight.
    pub fn place(&mut self, from: ForkFrom<'_>) -> Result<Fork, Errno> {
        self.h.fork(from, &mut self.fx)
    }

    pub fn publish(&mut self, place: Fork, how: Membership<'_>) -> Arc<Task> {
        let id = self.id();
        place.publish(id, how, &mut self.fx)
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

/// The ids of tasks, sorted.
pub fn ids(tasks: Vec<Arc<Task>>) -> Vec<TaskId> {
    let mut ids: Vec<_> = tasks.iter().map(|task| task.id()).collect();
    ids.sort();
    ids
}

/// A [`World`] with controllers that are to be switched on: `cpu` and `pids`
/// are threaded, `memory` and `io` are not, and `io` needs `memory`. All but
/// `pids` write down what they are asked.
pub struct Tree {
    world: World,
    log: Arc<Mutex<Vec<String>>>,
    pub io: Refusals,
}

impl std::ops::Deref for Tree {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

impl std::ops::DerefMut for Tree {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Tree {
    pub fn new() -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let io = Refusals::default();
        let recorder = |name, domain| Recorder {
            name,
            log: log.clone(),
            switched: true,
            domain,
            ..Recorder::default()
        };
        let needy =
            Recorder { depends_on: &["memory"], refusals: io.clone(), ..recorder("io", true) };
        let builder = Hierarchy::builder()
            .controller(Arc::new(recorder("cpu", false)))
            .controller(Arc::new(recorder("memory", true)))
            .controller(Arc::new(Pids::new()))
            .controller(Arc::new(needy));
        let mut new = Self { world: World::with(builder), log: log.clone(), io: io.clone() };
        new.log();
        new
    }

    pub fn with(builder: Builder) -> Self {
        let (log, io) = (Arc::default(), Refusals::default());
        Self { world: World::with(builder), log, io }
    }

    /// What was written down since the last call.
    pub fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    pub fn root(&self) -> Arc<Cgroup> {
        self.h.root().clone()
    }

    /// Writes `cgroup.subtree_control`. Nothing may have to drain.
    pub fn write(&mut self, text: &str, cgroup: &Arc<Cgroup>) -> Result<(), Errno> {
        self.try_write(text, cgroup).map_err(|why| why.errno().expect("nothing is dying here"))
    }

    /// Likewise of the root.
    pub fn on_root(&mut self, text: &str) -> Result<(), Errno> {
        let root = self.root();
        self.write(text, &root)
    }

    pub fn try_write(&mut self, text: &str, cgroup: &Arc<Cgroup>) -> Result<(), WriteError> {
        let (mut on, mut off) = (SsMask::NONE, SsMask::NONE);
        for word in text.split_whitespace() {
            let bit = self.h.mask(&[&word[1..]]).unwrap();
            match &word[..1] {
                "+" => on |= bit,
                _ => off |= bit,
            }
        }
        let world = &mut self.world;
        world.h.write_subtree_control(cgroup, on, off, &mut world.fx)
    }

    pub fn controllers(&self, cgroup: &Cgroup) -> Vec<&'static str> {
        self.h.names(self.h.controllers(cgroup)).collect()
    }

    pub fn control(&self, cgroup: &Cgroup) -> Vec<&'static str> {
        self.h.names(self.h.subtree_control(cgroup)).collect()
    }

    pub fn pids(&self, cgroup: &Cgroup) -> u64 {
        Pids::css(cgroup).expect("pids is on").current()
    }

    /// Writes a task to `cgroup.procs`, as one who may do everything.
    pub fn move_process(&mut self, task: &Arc<Task>, to: &Arc<Cgroup>) -> Result<(), Errno> {
        let world = &mut self.world;
        let who = || Ok(task.clone());
        world.h.attach(to, Scope::Process, who, &Opener::ROOT, &mut world.fx)
    }

    /// Writes a task to `cgroup.threads`, likewise.
    pub fn move_thread(&mut self, task: &Arc<Task>, to: &Arc<Cgroup>) -> Result<(), Errno> {
        let world = &mut self.world;
        let who = || Ok(task.clone());
        world.h.attach(to, Scope::Thread, who, &Opener::ROOT, &mut world.fx)
    }

    pub fn make_threaded(&mut self, cgroup: &Arc<Cgroup>) -> Result<(), Errno> {
        let world = &mut self.world;
        let made = world.h.make_threaded(cgroup, &mut world.fx);
        made.map_err(|why| why.errno().expect("nothing is dying here"))
    }
}

/// A controller that writes down what is asked of it.
#[derive(Default)]
pub struct Recorder {
    pub name: &'static str,
    pub log: Arc<Mutex<Vec<String>>>,
    pub refuse_online: bool,
    pub refuse_fork: Option<Errno>,
    /// Not everywhere, but where it is switched on.
    pub switched: bool,
    /// Not for threads.
    pub domain: bool,
    pub depends_on: &'static [&'static str],
    pub refusals: Refusals,
}

/// What a [`Recorder`] refuses from now on.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<(Option<Errno>, Option<Errno>)>>);

impl Refusals {
    pub fn refuse_online(&self, errno: Option<Errno>) {
        self.0.lock().unwrap().0 = errno;
    }

    pub fn online(&self) -> Result<(), Errno> {
        self.0.lock().unwrap().0.map_or(Ok(()), Err)
    }

    pub fn attach(&self) -> Result<(), Errno> {
        self.0.lock().unwrap().1.map_or(Ok(()), Err)
    }

    pub fn refuse_attach(&self, errno: Option<Errno>) {
        self.0.lock().unwrap().1 = errno;
    }
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
    fn threaded(&self) -> bool {
        !self.domain
    }
    fn implicit(&self) -> bool {
        !self.switched
    }
    fn depends_on(&self) -> &'static [&'static str] {
        self.depends_on
    }
    fn css_reset(&self, css: &Css, _fx: &mut Effects) {
        self.note("reset", cgroup_of(css));
    }
    fn bind(&self, _root: &Css, bound: bool, _fx: &mut Effects) {
        self.note("bind", bound);
    }
    fn can_attach(&self, tasks: &TaskSet<'_>, _fx: &mut Effects) -> Result<(), Errno> {
        tasks.iter().for_each(|it| self.note("can_attach", it.task));
        self.refusals.attach()
    }
    fn cancel_attach(&self, tasks: &TaskSet<'_>, _fx: &mut Effects) {
        tasks.iter().for_each(|it| self.note("cancel_attach", it.task));
    }
    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        self.note("alloc", new.cgroup);
        Ok(Arc::new(new.cgroup))
    }
    fn css_online(&self, css: &Css, _fx: &mut Effects) -> Result<(), Errno> {
        self.note("online", cgroup_of(css));
        if self.refuse_online {
            return Err(Errno::ENOMEM);
        }
        self.refusals.online()
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
