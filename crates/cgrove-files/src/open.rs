//! An open file: who opened it, where it stands, what it has seen.
//!
//! Reading is that of `seq_file`: the content is made at the first read and
//! handed out in pieces from there on, and made anew when the reader goes to
//! another place. So a reader that goes on where it was never sees half of one
//! content and half of another.
//!
//! Each open file remembers the last event of which it has seen the outcome.
//! [`Poll::priority`] says whether there was one since, and is on for a file
//! that was never read (`kernfs_generic_poll`).

use crate::attr::Batch;
use crate::cred::{Caller, Cred};
use crate::lock::Lock;
use crate::node::FileNode;
use crate::parse::c_string;
use crate::table::{Reading, Writing, Written};
use crate::tree::Tree;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use cgrove_core::controller::memory::Peak;
use cgrove_core::{CgroupId, Effects, Errno, Time, WriteError};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// O_NONBLOCK: a write does not wait for memory to be freed.
    pub nonblock: bool,
}

impl OpenFlags {
    /// O_RDONLY.
    pub const READ: Self = Self { read: true, write: false, nonblock: false };
    /// O_WRONLY.
    pub const WRITE: Self = Self { read: false, write: true, nonblock: false };
    /// O_RDWR.
    pub const BOTH: Self = Self { read: true, write: true, nonblock: false };
}

/// What files of some kinds keep per open file.
#[derive(Debug, Default)]
pub struct OpenState {
    /// `memory.peak` and `memory.swap.peak`.
    pub peak: Option<Peak>,
}

/// What `poll(2)` says. A file can always be read and written, as far as that
/// goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// POLLPRI and POLLERR: the content changed since it was read, was never
    /// read, or is gone.
    pub priority: bool,
}

/// The events of one file, for as long as somebody has it open.
#[derive(Debug)]
struct Events(AtomicU64);

/// The files that are open and notify, by cgroup, index and batch.
#[derive(Debug, Default)]
pub(crate) struct Opens(Lock<Open>);

#[derive(Debug, Default)]
struct Open {
    events: BTreeMap<(CgroupId, usize, Batch), Weak<Events>>,
    /// When there are more than this, those that nobody holds are dropped.
    sweep_above: usize,
}

impl Opens {
    fn open(&self, key: (CgroupId, usize, Batch)) -> Arc<Events> {
        let mut open = self.0.lock();
        if let Some(events) = open.events.get(&key).and_then(Weak::upgrade) {
            return events;
        }
        if open.events.len() > open.sweep_above {
            open.events.retain(|_, events| events.strong_count() > 0);
            open.sweep_above = 2 * open.events.len() + 16;
        }
        let events = Arc::new(Events(AtomicU64::new(1)));
        open.events.insert(key, Arc::downgrade(&events));
        events
    }

    /// The content of a file changed. True if somebody has it open.
    pub(crate) fn notify(&self, cgroup: CgroupId, index: usize) -> bool {
        let open = self.0.lock();
        let all = (cgroup, index, Batch::Core)..=(cgroup, index, Batch::LAST);
        let mut heard = false;
        for events in open.events.range(all).filter_map(|(_, events)| events.upgrade()) {
            events.0.fetch_add(1, Ordering::Release);
            heard = true;
        }
        heard
    }
}

/// An open file. Operations on one file come one after the other.
pub struct File {
    node: FileNode,
    flags: OpenFlags,
    opener: Cred,
    /// `None` for a file that never notifies.
    events: Option<Arc<Events>>,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where reads and writes that name no place are.
    position: u64,
    /// What was made, and how much of it has been handed out.
    content: Vec<u8>,
    handed_out: usize,
    /// Whether it was made.
    shown: bool,
    /// Where a reader that goes on will read.
    read_position: u64,
    /// The last event that the content was made after.
    seen: u64,
    open: OpenState,
}

/// Of a file that never notifies.
const NO_EVENTS: u64 = 1;

impl File {
    pub(crate) fn open(
        tree: &Tree,
        node: FileNode,
        flags: OpenFlags,
        cred: &Cred,
    ) -> Result<Self, Errno> {
        if !node.is_live() {
            return Err(Errno::ENODEV);
        }
        let entry = node.entry();
        let key = (node.cgroup().id(), entry.index, node.batch());
        let events = entry.def.notifies.then(|| tree.opens().open(key));
        Ok(Self { node, flags, opener: cred.clone(), events, state: Lock::default() })
    }

    /// Which file it is.
    #[must_use]
    pub fn node(&self) -> &FileNode {
        &self.node
    }

    /// Who opened it.
    #[must_use]
    pub fn opener(&self) -> &Cred {
        &self.opener
    }

    fn event(&self) -> u64 {
        self.events.as_ref().map_or(NO_EVENTS, |events| events.0.load(Ordering::Acquire))
    }

    fn make(
        &self,
        state: &mut State,
        tree: &Tree,
        caller: Caller<'_>,
        now: Time,
    ) -> Result<(), Errno> {
        let def = &self.node.entry().def;
        // Before the content: an event that comes between is seen again.
        let event = self.event();
        if !def.is_list {
            // Also by whoever is then refused.
            state.seen = event;
        }
        let read = def.read.ok_or(Errno::EINVAL)?;
        let (cgroup, open) = (self.node.cgroup(), &mut state.open);
        let mut text = String::new();
        read(&mut Reading { tree, cgroup, caller, now, tag: def.tag, open }, &mut text)?;
        if def.is_list && !text.is_empty() {
            state.seen = event;
        }
        state.content = text.into_bytes();
        state.shown = true;
        Ok(())
    }

    fn read_locked(
        &self,
        state: &mut State,
        tree: &Tree,
        offset: u64,
        size: usize,
        caller: Caller<'_>,
        now: Time,
    ) -> Result<Vec<u8>, Errno> {
        if !self.flags.read {
            return Err(Errno::EBADF);
        }
        if size == 0 {
            return Ok(Vec::new());
        }
        if offset == 0 || offset != state.read_position {
            state.content = Vec::new();
            state.handed_out = 0;
            state.shown = false;
            state.read_position = 0;
        }
        if !state.shown {
            if !self.node.is_live() {
                return Err(Errno::ENODEV);
            }
            self.make(state, tree, caller, now)?;
            state.handed_out =
                usize::try_from(offset).unwrap_or(usize::MAX).min(state.content.len());
        } else if state.handed_out == state.content.len() && !self.node.is_live() {
            return Err(Errno::ENODEV);
        }
        let rest = &state.content[state.handed_out..];
        let piece: Vec<u8> = rest[..size.min(rest.len())].into();
        state.handed_out += piece.len();
        state.read_position = offset.saturating_add(piece.len() as u64);
        Ok(piece)
    }

    pub(crate) fn read_at(
        &self,
        tree: &Tree,
        offset: u64,
        size: usize,
        caller: Caller<'_>,
        now: Time,
    ) -> Result<Vec<u8>, Errno> {
        self.read_locked(&mut self.state.lock(), tree, offset, size, caller, now)
    }

    pub(crate) fn read(
        &self,
        tree: &Tree,
        size: usize,
        caller: Caller<'_>,
        now: Time,
    ) -> Result<Vec<u8>, Errno> {
        let mut state = self.state.lock();
        let offset = state.position;
        let piece = self.read_locked(&mut state, tree, offset, size, caller, now)?;
        state.position = offset.saturating_add(piece.len() as u64);
        Ok(piece)
    }

    pub(crate) fn write(
        &self,
        tree: &Tree,
        bytes: &[u8],
        caller: Caller<'_>,
        fx: &mut Effects,
    ) -> Result<Written, WriteError> {
        let def = &self.node.entry().def;
        if !self.flags.write {
            return Err(Errno::EBADF.into());
        }
        if bytes.len() > def.max_write {
            return Err(Errno::E2BIG.into());
        }
        let mut state = self.state.lock();
        if !self.node.is_live() {
            return Err(Errno::ENODEV.into());
        }
        if bytes.is_empty() {
            return Ok(Written { len: 0, rest: None });
        }
        let cgroup = self.node.cgroup();
        if !def.delegatable && tree.is_delegation_boundary(&self.opener, cgroup) {
            return Err(Errno::EPERM.into());
        }
        let write = def.write.ok_or(Errno::EINVAL)?;
        let mut writing = Writing {
            tree,
            cgroup,
            text: c_string(bytes),
            caller,
            opener: &self.opener,
            nonblock: self.flags.nonblock,
            tag: def.tag,
            open: &mut state.open,
        };
        let rest = write(&mut writing, fx)?;
        state.position = state.position.saturating_add(bytes.len() as u64);
        Ok(Written { len: bytes.len(), rest })
    }

    /// Goes to a place, counted from the start (`lseek` with SEEK_SET).
    ///
    /// # Errors
    /// ENODEV once the file is gone.
    pub fn seek(&self, position: u64) -> Result<u64, Errno> {
        if !self.node.is_live() {
            return Err(Errno::ENODEV);
        }
        self.state.lock().position = position;
        Ok(position)
    }

    /// Where the next read that names no place begins.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.state.lock().position
    }

    /// Whether the content changed since this file read it.
    #[must_use]
    pub fn poll(&self) -> Poll {
        Poll { priority: !self.node.is_live() || self.state.lock().seen != self.event() }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("node", &self.node)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}
