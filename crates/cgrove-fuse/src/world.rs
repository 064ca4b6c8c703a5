//! What the server needs from whoever owns the tree.
//!
//! The tree knows rules and text. Time, processes and signals are somebody else's: a simulation's,
//! or those of the machine. This is the line between the two.

use std::sync::Arc;
use std::time::Instant;

use cgrove_core::{Effect, Effects, Errno, Time};
use cgrove_files::{Cred, File, NoTasks, Tasks, Tree, Written};

use crate::cred::Requester;
use crate::events::Events;

/// The owner of a mounted tree. Its methods are called from the server's thread and the clock's, and
/// requesters wait for them: none may wait for another process.
pub trait World: Send + Sync + 'static {
    /// The tree.
    fn tree(&self) -> &Tree;

    /// Now, on the clock that the hierarchy was built with.
    fn now(&self) -> Time;

    /// Whether files of a name are not to be found, because nothing here acts upon them: a file that
    /// takes a value and does nothing deceives whoever relies on it.
    fn hides(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Somebody is about to ask what depends on which tasks there are: to read or write a file, or
    /// to remove a cgroup. A world that learns of births and deaths by looking may look.
    fn look(&self) {}

    /// The mount is about to show the tree. Whatever happens to it by itself later, when a task
    /// ends say, has effects too; those are performed with `events`.
    fn mounted(&self, events: Events) {
        drop(events);
    }

    /// The credentials of a requester, with supplementary groups if they are needed.
    fn cred(&self, who: Requester, groups: bool) -> Cred {
        if groups { who.cred() } else { who.user() }
    }

    /// The tasks as somebody sees them who reads `file`.
    fn reader<'w>(&'w self, who: Requester, file: &File) -> Box<dyn Tasks + 'w>;

    /// The tasks as somebody sees them who writes `text` to `file`. It was opened by
    /// [`File::opener`], whose rights decide. A world over real processes may take a process in
    /// when it is [asked for](Tasks::find); the requester's own thread is `who.tid`.
    fn writer<'w>(&'w self, who: Requester, file: &File, text: &[u8]) -> Box<dyn Tasks + 'w>;

    /// Does what an operation wants done to a task: [`Effect::Kill`], [`Effect::Freeze`] or
    /// [`Effect::Unfreeze`]. What that leads to in the hierarchy goes to `fx`.
    fn perform(&self, effect: Effect, fx: &mut Effects);

    /// Finishes a write that wants something of the owner of memory, CPUs and tasks. It may not
    /// take long.
    ///
    /// # Errors
    /// What the writer is told.
    fn finish(&self, written: Written, fx: &mut Effects) -> Result<usize, Errno> {
        written.without_help(fx)
    }
}

/// So that whoever mounts a world can go on using it.
impl<W: World> World for Arc<W> {
    fn tree(&self) -> &Tree {
        W::tree(self)
    }

    fn now(&self) -> Time {
        W::now(self)
    }

    fn hides(&self, name: &str) -> bool {
        W::hides(self, name)
    }

    fn look(&self) {
        W::look(self);
    }

    fn mounted(&self, events: Events) {
        W::mounted(self, events);
    }

    fn cred(&self, who: Requester, groups: bool) -> Cred {
        W::cred(self, who, groups)
    }

    fn reader<'w>(&'w self, who: Requester, file: &File) -> Box<dyn Tasks + 'w> {
        W::reader(self, who, file)
    }

    fn writer<'w>(&'w self, who: Requester, file: &File, text: &[u8]) -> Box<dyn Tasks + 'w> {
        W::writer(self, who, file, text)
    }

    fn perform(&self, effect: Effect, fx: &mut Effects) {
        W::perform(self, effect, fx);
    }

    fn finish(&self, written: Written, fx: &mut Effects) -> Result<usize, Errno> {
        W::finish(self, written, fx)
    }
}

/// A world without processes: cgroups can be made, delegated, configured and removed, and nobody
/// is in them. Any pid is no such process (ESRCH).
#[derive(Debug)]
pub struct Empty {
    tree: Tree,
    start: Instant,
}

impl Empty {
    /// Around a tree whose hierarchy was built at [`Time`] 0.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self { tree, start: Instant::now() }
    }
}

impl World for Empty {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn now(&self) -> Time {
        Time(0).after(self.start.elapsed())
    }

    fn reader<'w>(&'w self, _who: Requester, _file: &File) -> Box<dyn Tasks + 'w> {
        Box::new(NoTasks)
    }

    fn writer<'w>(&'w self, _who: Requester, _file: &File, _text: &[u8]) -> Box<dyn Tasks + 'w> {
        Box::new(NoTasks)
    }

    fn perform(&self, _effect: Effect, _fx: &mut Effects) {}
}
