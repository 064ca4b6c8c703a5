//! Where requests meet the hooks of the mount, if it has any.

use std::ffi::OsStr;
use std::sync::Arc;

use cgrove_core::Cgroup;
use cgrove_files::{File, Node};
use fuser::{Errno, INodeNo};

use super::{Answer, Server};
use crate::fault::Op;
use crate::record::Recorder;
use crate::world::World;

impl<W: World> Server<W> {
    /// Refuses what is to be refused on purpose: a request about a name in a directory.
    pub(super) fn spare_name(&self, op: Op, parent: INodeNo, name: &OsStr) -> Answer<()> {
        if self.shared.hooks.is_none() {
            return Ok(());
        }
        // If there is no such directory, the answer to the request says so.
        let Ok(cgroup) = self.directory(parent) else { return Ok(()) };
        self.spare(op, &cgroup, Some(&name.to_string_lossy()))
    }

    /// Likewise, about a file or directory.
    pub(super) fn spare_node(&self, op: Op, node: &Node) -> Answer<()> {
        match node {
            Node::Dir(cgroup) => self.spare(op, cgroup, None),
            Node::File(file) => self.spare(op, file.cgroup(), Some(file.name())),
        }
    }

    /// Likewise, about an open file.
    pub(super) fn spare_file(&self, op: Op, file: &File) -> Answer<()> {
        self.spare(op, file.node().cgroup(), Some(file.node().name()))
    }

    fn spare(&self, op: Op, cgroup: &Cgroup, name: Option<&str>) -> Answer<()> {
        match self.shared.hooks.as_ref().and_then(|hooks| hooks.strikes(op, cgroup, name)) {
            Some(errno) => Err(Errno::from_i32(errno as i32)),
            None => Ok(()),
        }
    }

    /// What a reader of a file gets, who asked from `offset` on.
    pub(super) fn altered(&self, file: &File, offset: u64, mut text: Vec<u8>) -> Vec<u8> {
        if let Some(late) = self.shared.late() {
            let (node, now) = (file.node(), self.shared.world.now());
            late.alter(node.name(), node.cgroup().id(), offset, &mut text, now);
        }
        text
    }

    /// What keeps the record, if there is one, when something is about to be asked of the tree.
    pub(super) fn recorder(&self) -> Option<&Recorder> {
        let record = self.shared.hooks.as_ref()?.record.as_ref()?;
        record.before(self.tree());
        Some(record)
    }

    /// A cgroup was made.
    pub(super) fn made(&self, cgroup: &Arc<Cgroup>) {
        if let Some(late) = self.shared.late() {
            late.made(cgroup);
        }
    }

    /// A cgroup was removed.
    pub(super) fn removed(&self, cgroup: &Cgroup) {
        if let Some(late) = self.shared.late() {
            late.removed(cgroup.id());
        }
    }
}
