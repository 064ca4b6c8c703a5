//! What an interface file is, as one value.
//!
//! A file is defined once, in the table of its owner: the core or a
//! controller. Its mode follows from what can be done with it, so the two
//! cannot disagree (`cgroup_file_mode`).

use crate::cred::{Caller, Cred};
use crate::open::OpenState;
use crate::tree::Tree;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::controller::cpu::{Change, CpuCss};
use cgrove_core::controller::cpuset::CpusetCss;
use cgrove_core::controller::memory::{Proactive, ProactiveStep, Report, Shrink, ShrinkStep};
use cgrove_core::controller::page_counter::PAGE_SIZE;
use cgrove_core::{Cgroup, Effects, Errno, Hierarchy, Time, WriteError};
use core::fmt;

/// Which cgroups have a file, if its owner is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All.
    Everywhere,
    /// All but the root.
    NotRoot,
    /// The root.
    RootOnly,
}

impl Place {
    pub(crate) fn includes(self, cgroup: &Cgroup) -> bool {
        match self {
            Self::Everywhere => true,
            Self::NotRoot => cgroup.parent().is_some(),
            Self::RootOnly => cgroup.parent().is_none(),
        }
    }
}

/// Prints a file's content.
pub type Read = fn(&mut Reading<'_>, &mut String) -> Result<(), Errno>;

/// Carries out what was written to a file.
pub type Write = fn(&mut Writing<'_>, &mut Effects) -> Result<Option<Rest>, WriteError>;

/// An interface file.
#[derive(Clone)]
pub struct FileDef {
    /// Its name, the owner's prefix included.
    pub name: Cow<'static, str>,
    /// Which cgroups have it.
    pub place: Place,
    /// Writable at the root of a cgroup namespace from inside it, where such
    /// namespaces are boundaries of delegation (`CFTYPE_NS_DELEGATABLE`).
    pub delegatable: bool,
    /// Its pollers are told of changes: there is an
    /// [`EventFile`](cgrove_core::EventFile) of its name.
    pub notifies: bool,
    /// It is a list that is shown line by line. Who has read an empty one was shown nothing, and
    /// polls as before (`kernfs_seq_show`).
    pub is_list: bool,
    /// The longest write, in bytes; E2BIG above.
    pub max_write: usize,
    /// How it is read; EINVAL if it is not.
    pub read: Option<Read>,
    /// How it is written; EINVAL if it is not.
    pub write: Option<Write>,
    /// Told to `read` and `write`, for files that share them.
    pub tag: usize,
}

impl FileDef {
    /// A file that all cgroups have and that can be neither read nor written.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            place: Place::Everywhere,
            delegatable: false,
            notifies: false,
            is_list: false,
            max_write: PAGE_SIZE as usize,
            read: None,
            write: None,
            tag: 0,
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn on(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Writable by who has been delegated the cgroup.
    #[must_use]
    pub const fn delegatable(mut self) -> Self {
        self.delegatable = true;
        self
    }

    /// Tells its pollers of changes.
    #[must_use]
    pub const fn notifies(mut self) -> Self {
        self.notifies = true;
        self
    }

    /// Is a list, shown line by line.
    #[must_use]
    pub const fn list(mut self) -> Self {
        self.is_list = true;
        self
    }

    /// Can be read.
    #[must_use]
    pub const fn read(mut self, read: Read) -> Self {
        self.read = Some(read);
        self
    }

    /// Can be written.
    #[must_use]
    pub const fn write(mut self, write: Write) -> Self {
        self.write = Some(write);
        self
    }

    /// Takes so many bytes at once, and not a page.
    #[must_use]
    pub const fn max_write(mut self, bytes: usize) -> Self {
        self.max_write = bytes;
        self
    }

    /// One of those that share a handler.
    #[must_use]
    pub const fn tag(mut self, tag: usize) -> Self {
        self.tag = tag;
        self
    }

    /// The mode it is made with.
    #[must_use]
    pub const fn mode(&self) -> u16 {
        let read = if self.read.is_some() { 0o444 } else { 0 };
        let write = if self.write.is_some() { 0o200 } else { 0 };
        read | write
    }
}

impl fmt::Debug for FileDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDef")
            .field("name", &self.name)
            .field("mode", &format_args!("{:o}", self.mode()))
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// The files of one owner.
#[derive(Clone, Debug)]
pub struct Table {
    /// The controller whose css has to show its files; `None` for files that
    /// depend on none.
    pub owner: Option<&'static str>,
    /// Its files, in the order in which they are listed.
    pub files: Vec<FileDef>,
}

/// What a reader of a file is told.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Whose file it is.
    pub cgroup: &'a Arc<Cgroup>,
    /// Who reads.
    pub caller: Caller<'a>,
    /// When.
    pub now: Time,
    /// [`FileDef::tag`].
    pub tag: usize,
    /// What the open file holds.
    pub open: &'a mut OpenState,
}

impl Reading<'_> {
    /// The hierarchy of the tree.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        self.tree.hierarchy()
    }
}

/// What a writer of a file is told.
#[derive(Debug)]
pub struct Writing<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Whose file it is.
    pub cgroup: &'a Arc<Cgroup>,
    /// What was written, up to the first NUL.
    pub text: &'a [u8],
    /// Who writes.
    pub caller: Caller<'a>,
    /// Who opened the file.
    pub opener: &'a Cred,
    /// The file was opened with O_NONBLOCK.
    pub nonblock: bool,
    /// [`FileDef::tag`].
    pub tag: usize,
    /// What the open file holds.
    pub open: &'a mut OpenState,
}

impl Writing<'_> {
    /// The hierarchy of the tree.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        self.tree.hierarchy()
    }
}

/// What is left to do after a write, by the embedder: it has the memory, the
/// CPUs and the tasks.
#[derive(Debug)]
pub enum Rest {
    /// `memory.max` or `memory.high` was lowered. Linux does not return before
    /// the usage is down or nothing helps any more; the write has succeeded.
    Shrink(Shrink),
    /// `memory.reclaim`. The write's result is not known before it is done.
    Reclaim(Proactive),
    /// The tasks of these cpusets have other CPUs or nodes now.
    Cpus(Vec<Arc<CpusetCss>>),
    /// A group may go on, or has to stop, after a change of its quota.
    Bandwidth(Arc<CpuCss>, Change),
}

/// A write that was carried out.
#[derive(Debug)]
#[must_use = "the rest of the write is the embedder's"]
pub struct Written {
    /// How many bytes: all.
    pub len: usize,
    /// What is left to do.
    pub rest: Option<Rest>,
}

impl Written {
    /// Finishes the write for an embedder that frees no memory on request and
    /// lets tasks be.
    ///
    /// # Errors
    /// EAGAIN for `memory.reclaim`, unless it asked for nothing.
    pub fn without_help(self, fx: &mut Effects) -> Result<usize, Errno> {
        match self.rest {
            Some(Rest::Shrink(mut shrink)) => {
                let mut report = Report::Start;
                loop {
                    report = match shrink.next(report, fx) {
                        ShrinkStep::Done => break,
                        ShrinkStep::Reclaim(_) => Report::Reclaimed(0),
                        ShrinkStep::Oom { .. } => Report::Killed(false),
                    };
                }
            }
            Some(Rest::Reclaim(mut reclaim)) => {
                let mut reclaimed = None;
                loop {
                    reclaimed = match reclaim.next(reclaimed) {
                        ProactiveStep::Done => break,
                        ProactiveStep::Reclaim(_) => Some(0),
                        ProactiveStep::Failed(errno) => return Err(errno),
                    };
                }
            }
            Some(Rest::Cpus(_) | Rest::Bandwidth(..)) | None => {}
        }
        Ok(self.len)
    }
}
