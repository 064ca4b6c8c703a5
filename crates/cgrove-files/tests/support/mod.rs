//! A tree with all controllers, tasks by number, and paths as a shell has them.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod entry;

use cgrove_core::controller::hugetlb::HugePageSize;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::registry::Standard;
use cgrove_core::{
    Cgroup, Effect, Effects, Errno, ForkFrom, Membership, Task, TaskId, Time, WriteError,
};
use cgrove_files::{Caller, Cred, File, MountOptions, Node, OpenFlags, Tasks, Tree};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A page.
pub const PAGE: usize = 4096;

/// Pids are task ids.
#[derive(Default)]
pub struct Pids {
    pub tasks: BTreeMap<u32, Arc<Task>>,
    /// Whose number 0 is.
    pub own: u32,
}

impl Tasks for Pids {
    fn find(&self, pid: u32) -> Option<Arc<Task>> {
        self.tasks.get(if pid == 0 { &self.own } else { &pid }).cloned()
    }
    fn pid(&self, task: &Arc<Task>) -> Option<u32> {
        u32::try_from(task.id().0).ok()
    }
}

pub struct World {
    pub tree: Tree,
    pub standard: Standard,
    pub pids: Pids,
    pub fx: Effects,
    pub root: Cred,
    /// Names of event files, as their notifications came.
    pub notified: Vec<String>,
}

impl World {
    pub fn new() -> Self {
        Self::with("")
    }

    pub fn with(options: &str) -> Self {
        let options = MountOptions::parse(options).unwrap();
        let mut standard = Standard::new(IdMask::first(2), IdMask::first(1), &[HugePageSize::MB2]);
        options.apply(&mut standard);
        let hierarchy = standard.registry().builder().build(Time(0));
        let tree = Tree::builder(hierarchy).options(options).build();
        let fx = Effects::at(Time(0));
        let mut world = Self {
            tree,
            standard,
            pids: Pids::default(),
            fx,
            root: Cred::root(),
            notified: Vec::new(),
        };
        world.spawn("", 1);
        world.pids.own = 1;
        world
    }

    pub fn node(&self, path: &str) -> Result<Node, Errno> {
        self.tree.walk(path.as_bytes(), &self.root)
    }

    pub fn dir(&self, path: &str) -> Arc<Cgroup> {
        Arc::clone(self.node(path).unwrap().cgroup())
    }

    fn split(path: &str) -> (&str, &str) {
        path.rsplit_once('/').unwrap_or(("", path))
    }

    pub fn mkdir_as(&mut self, cred: &Cred, path: &str) -> Result<(), Errno> {
        let (dir, name) = Self::split(path);
        let dir = match self.tree.walk(dir.as_bytes(), cred)? {
            Node::Dir(dir) => dir,
            Node::File(_) => return Err(Errno::ENOTDIR),
        };
        self.tree.mkdir(&dir, name.as_bytes(), 0o755, cred, &mut self.fx)?;
        self.settle();
        Ok(())
    }

    pub fn mkdir(&mut self, path: &str) -> Result<(), Errno> {
        self.mkdir_as(&Cred::root(), path)
    }

    pub fn rmdir_as(&mut self, cred: &Cred, path: &str) -> Result<(), Errno> {
        let (dir, name) = Self::split(path);
        let dir = Arc::clone(self.tree.walk(dir.as_bytes(), cred)?.cgroup());
        self.tree.rmdir(&dir, name.as_bytes(), cred, &mut self.fx)?;
        self.settle();
        Ok(())
    }

    pub fn rmdir(&mut self, path: &str) -> Result<(), Errno> {
        self.rmdir_as(&Cred::root(), path)
    }

    pub fn open_as(&self, cred: &Cred, path: &str, flags: OpenFlags) -> Result<File, Errno> {
        self.tree.open(&self.tree.walk(path.as_bytes(), cred)?, flags, cred)
    }

    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<File, Errno> {
        self.open_as(&self.root, path, flags)
    }

    /// Writes to an open file; `None` if it would wait.
    pub fn write_file(&mut self, cred: &Cred, file: &File, text: &[u8]) -> Result<(), Errno> {
        let caller = Caller { cred, tasks: &self.pids };
        let result = match self.tree.write(file, text, caller, &mut self.fx) {
            Ok(written) => {
                written.without_help(&mut self.fx).map(|len| assert_eq!(len, text.len()))
            }
            Err(WriteError::Refused(errno)) => Err(errno),
            Err(WriteError::WouldWait(draining)) => panic!("would wait for {draining:?}"),
        };
        self.settle();
        result
    }

    pub fn write_as(&mut self, cred: &Cred, path: &str, text: &str) -> Result<(), Errno> {
        let file = self.open_as(cred, path, OpenFlags::WRITE)?;
        self.write_file(cred, &file, text.as_bytes())
    }

    pub fn write(&mut self, path: &str, text: &str) -> Result<(), Errno> {
        self.write_as(&Cred::root(), path, text)
    }

    pub fn read_file(&self, file: &File) -> Result<String, Errno> {
        let caller = Caller { cred: &self.root, tasks: &self.pids };
        let bytes = self.tree.read(file, 1 << 16, caller, self.fx.now())?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    pub fn read(&self, path: &str) -> Result<String, Errno> {
        self.read_file(&self.open(path, OpenFlags::READ)?)
    }

    /// The content without its last newline.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        self.read(path).unwrap().trim_end_matches('\n').into()
    }

    pub fn spawn(&mut self, path: &str, pid: u32) -> Arc<Task> {
        let cgroup = self.dir(path);
        let fork = self.tree.hierarchy().fork(ForkFrom::Cgroup(&cgroup), &mut self.fx).unwrap();
        let task = fork.publish(TaskId(pid.into()), Membership::Process, &mut self.fx);
        self.pids.tasks.insert(pid, Arc::clone(&task));
        self.settle();
        task
    }

    pub fn thread(&mut self, of: &Arc<Task>, pid: u32) -> Arc<Task> {
        let fork = self.tree.hierarchy().fork(ForkFrom::Task(of), &mut self.fx).unwrap();
        let task = fork.publish(TaskId(pid.into()), Membership::ThreadOf(of), &mut self.fx);
        self.pids.tasks.insert(pid, Arc::clone(&task));
        self.settle();
        task
    }

    /// Exits, switches out, and is reaped and freed.
    pub fn end(&mut self, task: &Arc<Task>) {
        let h = self.tree.hierarchy();
        h.exit(task, &mut self.fx).unwrap();
        h.dead(task, &mut self.fx).unwrap();
        h.reap(task, &mut self.fx).unwrap();
        h.free(task, &mut self.fx).unwrap();
        self.pids.tasks.retain(|_, other| !Arc::ptr_eq(other, task));
        self.settle();
    }

    /// Time passes, and what is to be done is done.
    pub fn settle(&mut self) {
        self.fx.set_now(Time(self.fx.now().0 + 1_000_000_000));
        loop {
            self.tree.hierarchy().pump(&mut self.fx);
            let effects: Vec<Effect> = self.fx.drain().collect();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Notify(file) => {
                        self.tree.notify(&file);
                        self.notified.push(file.name().into());
                    }
                    Effect::Timer { file, .. } => self.tree.hierarchy().timer(&file, &mut self.fx),
                    _ => {}
                }
            }
        }
    }
}
