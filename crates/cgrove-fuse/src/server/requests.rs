//! One method for each kind of request: who asks, what the tree says, the reply.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use cgrove_core::Errno as CoreErrno;
use cgrove_files::{Access, Caller, Cred, Node, XattrMode};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::{Answer, By, NOT_CACHED, PAGE, Server, said, told};
use crate::cred::Requester;
use crate::fault::Op;
use crate::world::World;

/// The longest write that is handed over in one piece. No file takes that much, so what is longer
/// is refused by its first piece.
const MAX_WRITE: u32 = 64 << 10;

/// Access as access(2) asks for it.
fn access(mask: AccessFlags) -> Access {
    let mut access = Access::empty();
    access.set(Access::READ, mask.contains(AccessFlags::R_OK));
    access.set(Access::WRITE, mask.contains(AccessFlags::W_OK));
    access.set(Access::EXEC, mask.contains(AccessFlags::X_OK));
    access
}

fn empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// An extended attribute, or its size if there is room for nothing.
fn xattr(reply: ReplyXattr, room: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Err(errno) => reply.error(errno),
        Ok(value) if room == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

/// Permission bits of a mode.
fn bits(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

impl<W: World> Filesystem for Server<W> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.set_max_write(MAX_WRITE);
        // A write clears no set-user-id bit here, as in kernfs; chown does, and the tree sees to it.
        let wanted = [InitFlags::FUSE_HANDLE_KILLPRIV, InitFlags::FUSE_PARALLEL_DIROPS];
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let spared = self.spare_name(Op::Lookup, parent, name);
        let found = spared.and_then(|()| self.find(request, parent, name));
        self.entry(reply, found);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, times: u64) {
        self.shared.inodes.forget(ino.0, times);
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.node(ino) {
            Ok(node) => reply.attr(&NOT_CACHED, &self.attr(&node, ino.0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = || {
            let node = self.node(ino)?;
            let tree = self.tree();
            let may_write = |cred: &Cred| told(cred.check(&tree.stat(&node).attrs, Access::WRITE));
            let cred = self.cred(request);
            if size.is_some() {
                // Taken and without any effect, as by kernfs. With an open file the right to write
                // was asked for when it was opened.
                if handle.is_none() {
                    may_write(&cred)?;
                }
            } else if atime.is_some() || mtime.is_some() {
                let now = |time: &Option<TimeOrNow>| matches!(time, None | Some(TimeOrNow::Now));
                if !cred.is_root() && cred.uid != tree.stat(&node).attrs.uid {
                    if !(now(&atime) && now(&mtime)) {
                        return Err(Errno::EPERM);
                    }
                    may_write(&cred)?;
                }
            }
            // First who may be refused: nothing has changed then.
            let record = (mode.or(uid).or(gid)).and_then(|_| self.recorder());
            let who = Requester::of(request);
            if uid.is_some() || gid.is_some() {
                let changed = told(tree.chown(&node, uid, gid, &cred));
                if let Some(record) = record {
                    record.chown(who, &node, uid, gid, said(&changed));
                }
                changed?;
            }
            if let Some(mode) = mode {
                let changed = told(tree.chmod(&node, bits(mode), &cred));
                if let Some(record) = record {
                    record.chmod(who, &node, bits(mode), said(&changed));
                }
                changed?;
            }
            Ok(node)
        };
        match change() {
            Ok(node) => reply.attr(&NOT_CACHED, &self.attr(&node, ino.0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, _ino: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.no_such_kind(request, parent));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        // The kernel has taken the umask off.
        if let Err(errno) = self.spare_name(Op::Mkdir, parent, name) {
            return reply.error(errno);
        }
        let record = self.recorder();
        let mut fx = self.shared.effects();
        let made = (|| {
            let node = self.node(parent)?;
            let Node::Dir(dir) = &node else { return Err(Errno::ENOTDIR) };
            let cred = self.cred_for(request, &[&node]);
            told(self.tree().mkdir(dir, name.as_bytes(), bits(mode), &cred, &mut fx))
        })();
        if let Ok(cgroup) = &made {
            self.made(cgroup);
        }
        if let (Some(record), Ok(dir)) = (record, self.directory(parent)) {
            let (who, name) = (Requester::of(request), name.to_string_lossy());
            record.mkdir(who, &dir, &name, bits(mode), said(&made));
        }
        self.shared.perform(&mut fx);
        self.entry(reply, made.map(Node::Dir));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let unlink = || {
            let dir = self.directory(parent)?;
            told(self.tree().unlink(&dir, name.as_bytes(), &self.cred(request)))
        };
        empty(reply, unlink());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if let Err(errno) = self.spare_name(Op::Rmdir, parent, name) {
            return reply.error(errno);
        }
        self.shared.world.look();
        let record = self.recorder();
        let mut fx = self.shared.effects();
        let removed = (|| {
            let node = self.node(parent)?;
            let Node::Dir(dir) = &node else { return Err(Errno::ENOTDIR) };
            let cred = self.cred_for(request, &[&node]);
            let victim = self.tree().lookup(dir, name.as_bytes(), &cred);
            told(self.tree().rmdir(dir, name.as_bytes(), &cred, &mut fx))?;
            Ok(victim)
        })();
        self.shared.perform(&mut fx);
        if let (Some(record), Ok(dir)) = (record, self.directory(parent)) {
            let (who, name) = (Requester::of(request), name.to_string_lossy());
            record.rmdir(who, self.tree(), &dir, &name, said(&removed));
        }
        let removed = removed.map(|victim| {
            if let Ok(victim) = victim {
                self.removed(victim.cgroup());
                self.shared.handles.taken_away(Some(victim.cgroup().id()));
            }
        });
        empty(reply, removed);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(self.no_such_kind(request, parent));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let dir = self.directory(parent)?;
            match self.tree().rename(&dir, name.as_bytes(), &self.cred(request)) {
                // kernfs knows no flags, and says so first.
                Err(CoreErrno::EPERM) if !flags.is_empty() => Err(Errno::EINVAL),
                answer => told(answer),
            }
        };
        empty(reply, rename());
    }

    fn link(
        &self,
        request: &Request,
        _ino: INodeNo,
        parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(self.no_such_kind(request, parent));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = flags.acc_mode();
        let flags = cgrove_files::OpenFlags {
            read: access != OpenAccMode::O_WRONLY,
            write: access != OpenAccMode::O_RDONLY,
            nonblock: flags.0 & libc::O_NONBLOCK != 0,
        };
        let open = || {
            let node = self.node(ino)?;
            self.spare_node(Op::Open, &node)?;
            let record = self.recorder();
            // Whoever may write is judged by these credentials then, and by other files too.
            let cred =
                if flags.write { self.cred(request) } else { self.cred_for(request, &[&node]) };
            let opened = told(self.tree().open(&node, flags, &cred));
            if let (Some(record), Err(errno)) = (record, &opened) {
                record.open_refused(Requester::of(request), &node, flags, errno.code());
            }
            opened
        };
        match open() {
            Ok(file) => {
                let handle = self.shared.handles.open(file);
                let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(handle), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            let file = self.shared.handles.file(handle.0).ok_or(Errno::EBADF)?;
            self.spare_file(Op::Read, &file)?;
            let who = Requester::of(request);
            let world = &self.shared.world;
            let cred = world.cred(who, false);
            world.look();
            let record = self.recorder();
            let tasks = world.reader(who, &file);
            let caller = Caller { cred: &cred, tasks: &*tasks };
            let read = self.tree().read_at(&file, offset, size as usize, caller, world.now());
            let read = told(read).map(|text| self.altered(&file, offset, text));
            if let Some(record) = record {
                let by =
                    By { who, handle: handle.0, file: &file, tasks: &*tasks, tree: self.tree() };
                let text = read.as_ref().map(Vec::as_slice).map_err(|errno| errno.code());
                record.read(by, offset, size, text);
            }
            read
        };
        match read() {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_to(request, handle, data) {
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel takes it for a success and does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.handles.close(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let open = || {
            let node = self.node(ino)?;
            let cred = self.cred_for(request, &[&node]);
            told(cred.check(&self.tree().stat(&node).attrs, Access::READ))?;
            self.directory(ino)
        };
        match open() {
            Ok(cgroup) => {
                let handle = self.shared.handles.open_directory(cgroup);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        place: u64,
        mut reply: ReplyDirectory,
    ) {
        let lines = || {
            let directory = self.shared.handles.directory(handle.0).ok_or(Errno::EBADF)?;
            told(directory.lines(self.tree(), place, |name| self.shared.world.hides(name)))
        };
        match lines() {
            Ok((lines, had)) => {
                for line in &lines[had..] {
                    let name = OsStr::from_bytes(&line.name);
                    if reply.add(INodeNo(line.number), line.cookie, line.kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.shared.handles.close_directory(handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        // kernfs cannot do it to a directory.
        reply.error(Errno::EINVAL);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, PAGE, 255, PAGE);
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        let set = || {
            let node = self.node(ino)?;
            let cred = self.cred_for(request, &[&node]);
            told(self.tree().setxattr(&node, name.as_bytes(), value, mode, &cred))
        };
        empty(reply, set());
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        let get = || {
            let node = self.node(ino)?;
            let cred = self.cred_for(request, &[&node]);
            told(self.tree().getxattr(&node, name.as_bytes(), &cred))
        };
        xattr(reply, room, get());
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        let list = || {
            let node = self.node(ino)?;
            let names = self
                .tree()
                .listxattr(&node, &self.shared.world.cred(Requester::of(request), false));
            Ok(names.into_iter().flat_map(|name| name.into_iter().chain([0])).collect())
        };
        xattr(reply, room, list());
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            let node = self.node(ino)?;
            let cred = self.cred_for(request, &[&node]);
            told(self.tree().removexattr(&node, name.as_bytes(), &cred))
        };
        empty(reply, remove());
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let check = || {
            let node = self.node(ino)?;
            let attrs = self.tree().stat(&node).attrs;
            // Not even the superuser executes what nobody may.
            if mask.contains(AccessFlags::X_OK) && !node.is_dir() && attrs.mode & 0o111 == 0 {
                return Err(Errno::EACCES);
            }
            told(self.cred_for(request, &[&node]).check(&attrs, access(mask)))
        };
        empty(reply, check());
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let refusal = self.node(parent).and_then(|node| {
            let Node::Dir(dir) = &node else { return Err(Errno::ENOTDIR) };
            let cred = self.cred_for(request, &[&node]);
            told(self.tree().create(dir, name.as_bytes(), &cred))
        });
        reply.error(refusal.err().unwrap_or(Errno::EACCES));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _room: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let Some(file) = self.shared.handles.file(handle.0) else {
            return reply.error(Errno::EBADF);
        };
        if flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
            self.shared.handles.wait(handle.0, &file, notifier);
        }
        let mut events = PollEvents::POLLIN
            | PollEvents::POLLRDNORM
            | PollEvents::POLLOUT
            | PollEvents::POLLWRNORM;
        if file.poll().priority {
            events |= PollEvents::POLLERR | PollEvents::POLLPRI;
        }
        reply.poll(events);
    }
}
