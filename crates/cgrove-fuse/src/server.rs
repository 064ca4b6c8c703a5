//! The requests of the kernel, answered by the tree.
//!
//! The kernel's part of FUSE keeps nothing: no name and no attribute (each is good for no time at
//! all), and it reads and writes directly. It does judge, by the attributes that it asks for each
//! time (`default_permissions`), as it does for any file system: so of two reasons for a refusal the
//! first is the one that Linux gives, and capabilities count. The tree judges as well, with the
//! requester's credentials; that is what counts for what the kernel does not know, the opener's
//! rights above all.
//!
//! Every request is answered before its method returns. The methods are in `requests.rs`; here is
//! what they share.

mod hooked;
mod requests;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cgrove_core::{Cgroup, Errno as CoreErrno, WriteError};
use cgrove_files::{Access, Caller, Cred, Node, Tree};
use fuser::{Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, ReplyEntry, Request};

use crate::cred::Requester;
use crate::events::Shared;
use crate::fault::Op;
use crate::inodes::Ino;
use crate::record::Access as By;
use crate::world::World;

/// Nothing is cached.
const NOT_CACHED: Duration = Duration::ZERO;
/// How often a write is tried for which Linux would let the writer sleep.
const TRIES: usize = 8;
/// The size of a page, of which kernfs speaks.
const PAGE: u32 = 4096;

type Answer<T> = Result<T, Errno>;

fn told<T>(answer: Result<T, CoreErrno>) -> Answer<T> {
    answer.map_err(|errno| Errno::from_i32(errno.code()))
}

/// An answer without what comes with it.
fn said<T>(answer: &Answer<T>) -> Result<(), i32> {
    answer.as_ref().map(|_| ()).map_err(|errno| errno.code())
}

/// The file system.
pub(crate) struct Server<W> {
    shared: Arc<Shared<W>>,
    /// The time of everything in it.
    since: SystemTime,
}

impl<W: World> Server<W> {
    pub(crate) fn new(shared: Arc<Shared<W>>) -> Self {
        Self { shared, since: SystemTime::now() }
    }

    fn tree(&self) -> &Tree {
        self.shared.world.tree()
    }

    fn node(&self, ino: INodeNo) -> Answer<Node> {
        self.shared.inodes.get(ino.0).ok_or(Errno::ESTALE)
    }

    fn directory(&self, ino: INodeNo) -> Answer<Arc<Cgroup>> {
        match self.node(ino)? {
            Node::Dir(cgroup) => Ok(cgroup),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    /// The requester's credentials, with groups.
    fn cred(&self, request: &Request) -> Cred {
        self.shared.world.cred(Requester::of(request), true)
    }

    /// Likewise, for questions that only the attributes of these nodes decide.
    fn cred_for(&self, request: &Request, nodes: &[&Node]) -> Cred {
        let who = Requester::of(request);
        let groups = nodes.iter().any(|node| who.groups_matter(&self.tree().stat(node).attrs));
        self.shared.world.cred(who, groups)
    }

    /// What a name in a directory leads to.
    fn find(&self, request: &Request, parent: INodeNo, name: &OsStr) -> Answer<Node> {
        let node = self.node(parent)?;
        let Node::Dir(dir) = &node else { return Err(Errno::ENOTDIR) };
        let cred = self.cred_for(request, &[&node]);
        let found = told(self.tree().lookup(dir, name.as_bytes(), &cred))?;
        match &found {
            Node::File(file) if self.shared.world.hides(file.name()) => Err(Errno::ENOENT),
            _ => Ok(found),
        }
    }

    /// What stat(2) says. The inode number is also the name by which the kernel asks.
    fn attr(&self, node: &Node, number: u64) -> FileAttr {
        let stat = self.tree().stat(node);
        FileAttr {
            ino: INodeNo(number),
            size: 0,
            blocks: 0,
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: if stat.is_dir { FileType::Directory } else { FileType::RegularFile },
            perm: stat.attrs.mode,
            nlink: u32::try_from(stat.links).unwrap_or(u32::MAX),
            uid: stat.attrs.uid,
            gid: stat.attrs.gid,
            rdev: 0,
            blksize: PAGE,
            flags: 0,
        }
    }

    /// Tells the kernel of a node.
    fn entry(&self, reply: ReplyEntry, answer: Answer<Node>) {
        match answer {
            Ok(node) => {
                let Ino { number, generation } = self.shared.inodes.tell(&node);
                reply.entry(&NOT_CACHED, &self.attr(&node, number), Generation(generation));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// What a requester gets who wants to make a file that this file system cannot have.
    fn no_such_kind(&self, request: &Request, parent: INodeNo) -> Errno {
        let refusal = || {
            let node = self.node(parent)?;
            let cred = self.cred_for(request, &[&node]);
            told(cred.check(&self.tree().stat(&node).attrs, Access::WRITE | Access::EXEC))
        };
        match refusal() {
            Ok(()) => Errno::EPERM,
            Err(errno) => errno,
        }
    }

    fn write_to(&self, request: &Request, handle: FileHandle, data: &[u8]) -> Answer<u32> {
        let file = self.shared.handles.file(handle.0).ok_or(Errno::EBADF)?;
        self.spare_file(Op::Write, &file)?;
        let who = Requester::of(request);
        let (world, tree) = (&self.shared.world, self.tree());
        let cred = world.cred(who, false);
        world.look();
        let tasks = world.writer(who, &file, data);
        let record = self.recorder();
        let mut fx = self.shared.effects();
        let (mut answer, mut slept) = (Err(Errno::EBUSY), true);
        for _ in 0..TRIES {
            fx.set_now(world.now());
            match tree.write(&file, data, Caller { cred: &cred, tasks: &*tasks }, &mut fx) {
                Ok(written) => answer = told(world.finish(written, &mut fx)),
                Err(WriteError::Refused(errno)) => answer = told(Err(errno)),
                Err(WriteError::WouldWait(_)) => {
                    self.shared.perform(&mut fx);
                    continue;
                }
            }
            slept = false;
            break;
        }
        self.shared.perform(&mut fx);
        if let Some(record) = record {
            let by = By { who, handle: handle.0, file: &file, tasks: &*tasks, tree };
            record.write(by, data, slept, said(&answer));
        }
        if file.node().name() == "cgroup.subtree_control" {
            self.shared.handles.taken_away(None);
        }
        answer.map(|len| u32::try_from(len).unwrap_or(u32::MAX))
    }
}
