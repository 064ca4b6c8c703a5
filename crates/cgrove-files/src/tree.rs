//! The tree as its users see it: all that a front end needs.
//!
//! A mount, a socket server and a test ask the same questions; the answers,
//! down to the errno and which of two errors comes first, are those of the VFS,
//! kernfs and cgroup2 together. Every operation is told who asks, and what has
//! to be done outside comes back as [`Effects`].

use crate::attr::{self, Attrs, Batch, DIR_MODE, Key, Store};
use crate::cred::{Access, Caller, Cred};
use crate::figures::Figures;
use crate::lock::Lock;
use crate::node::{Entry, FileNode, Node, Stat};
use crate::open::{File, OpenFlags, Opens};
use crate::options::MountOptions;
use crate::table::{FileDef, Place, Table, Written};
use crate::xattr::{self, XattrMode};
use crate::{name, tables};
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use cgrove_core::{
    Cgroup, Effects, Errno, EventFile, Hierarchy, NAME_MAX, SsMask, Time, WriteError,
};

/// The mode of the root directory.
const ROOT_MODE: u16 = 0o555;

/// Puts a tree together.
#[derive(Debug)]
pub struct TreeBuilder {
    hierarchy: Hierarchy,
    options: MountOptions,
    figures: Option<Arc<dyn Figures>>,
    tables: Vec<Table>,
}

impl TreeBuilder {
    /// Options of the mount. Those of controllers must have been
    /// [applied](MountOptions::apply) before the hierarchy was built.
    #[must_use]
    pub fn options(mut self, options: MountOptions) -> Self {
        self.options = options;
        self
    }

    /// Who provides the files that only an embedder can.
    #[must_use]
    pub fn figures(mut self, figures: Arc<dyn Figures>) -> Self {
        self.figures = Some(figures);
        self
    }

    /// Files of a controller of the embedder's own.
    #[must_use]
    pub fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    /// Makes the tree: the core's files, those of the controllers of
    /// `cgrove-core` that the hierarchy has, and what was added.
    ///
    /// # Panics
    /// If two files have one name: a fault of the embedder and not of any
    /// input.
    #[must_use]
    pub fn build(self) -> Tree {
        let mut all = tables::of(&self.hierarchy);
        all.extend(self.figures.as_deref().map(crate::figures::table));
        all.extend(self.tables);
        let mut entries = Vec::new();
        let mut by_name = BTreeMap::new();
        for table in all {
            for def in table.files {
                let index = entries.len();
                let old = by_name.insert(def.name.clone(), index);
                assert!(old.is_none(), "two files named {}", def.name);
                entries.push(Arc::new(Entry { def, owner: table.owner, index }));
            }
        }
        let procs = by_name.get("cgroup.procs").copied();
        Tree {
            hierarchy: self.hierarchy,
            procs: procs.unwrap_or_default(),
            entries,
            by_name,
            options: self.options,
            figures: self.figures,
            store: Store::default(),
            opens: Opens::default(),
            changes: Lock::new(()),
        }
    }
}

/// A cgroup2 tree.
#[derive(Debug)]
pub struct Tree {
    hierarchy: Hierarchy,
    entries: Vec<Arc<Entry>>,
    by_name: BTreeMap<Cow<'static, str>, usize>,
    /// Which of them is `cgroup.procs`.
    procs: usize,
    options: MountOptions,
    figures: Option<Arc<dyn Figures>>,
    store: Store,
    opens: Opens,
    /// One change at a time of which files there are, so that they get the
    /// owner of the change that made them.
    changes: Lock<()>,
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// What it leads to.
    pub node: Node,
}

impl Tree {
    /// Starts a tree over a hierarchy. Cgroups may also be made, changed and
    /// removed there directly: they and their files then belong to the
    /// superuser, and whoever removes one says so with [`forget`](Self::forget).
    #[must_use]
    pub fn builder(hierarchy: Hierarchy) -> TreeBuilder {
        TreeBuilder {
            hierarchy,
            options: MountOptions::default(),
            figures: None,
            tables: Vec::new(),
        }
    }

    /// The hierarchy under it.
    #[must_use]
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// Its options.
    #[must_use]
    pub fn options(&self) -> MountOptions {
        self.options
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Node {
        Node::Dir(Arc::clone(self.hierarchy.root()))
    }

    /// Every file that a cgroup can have, and the controller that must show it.
    pub fn defs(&self) -> impl Iterator<Item = (Option<&'static str>, &FileDef)> {
        self.entries.iter().map(|entry| (entry.owner, &entry.def))
    }

    pub(crate) fn figures(&self) -> Option<&dyn Figures> {
        self.figures.as_deref()
    }

    pub(crate) fn opens(&self) -> &Opens {
        &self.opens
    }

    /// Whether writes by the opener to files of `cgroup` cross a boundary of
    /// delegation: it is the root of the opener's namespace.
    pub(crate) fn is_delegation_boundary(&self, opener: &Cred, cgroup: &Arc<Cgroup>) -> bool {
        self.boundary(opener).is_some_and(|root| Arc::ptr_eq(root, cgroup))
    }

    /// The root of the opener's namespace, where that is a boundary.
    pub(crate) fn boundary<'a>(&self, opener: &'a Cred) -> Option<&'a Arc<Cgroup>> {
        opener.namespace.as_ref().filter(|_| self.options.nsdelegate)
    }

    /// Whether the opener may write `cgroup.procs` of a cgroup, as moving a task
    /// out of it or into it needs: for [`Opener`](cgrove_core::Opener), which the
    /// core asks with its locks held.
    ///
    /// # Errors
    /// EACCES.
    pub fn may_move(&self, cgroup: &Cgroup, opener: &Cred) -> Result<(), Errno> {
        let procs = &self.entries[self.procs];
        let key = Key::File(Batch::Core, procs.index);
        opener.check(&self.store.get(cgroup.id(), key, procs.def.mode()), Access::WRITE)
    }

    fn attrs_of(&self, node: &Node) -> Attrs {
        let mode = match node {
            Node::Dir(cgroup) => dir_mode(cgroup),
            Node::File(file) => file.def().mode(),
        };
        self.store.get(node.cgroup().id(), node.key(), mode)
    }

    fn dir_attrs(&self, cgroup: &Cgroup) -> Attrs {
        self.store.get(cgroup.id(), Key::Dir, dir_mode(cgroup))
    }

    /// What a name in a directory leads to; not for `.` and `..`.
    fn find(&self, dir: &Arc<Cgroup>, wanted: &[u8]) -> Option<Node> {
        if dir.is_dead() {
            return None;
        }
        let file = core::str::from_utf8(wanted).ok().and_then(|text| self.by_name.get(text));
        if let Some(file) = file.and_then(|index| FileNode::find(dir, &self.entries[*index])) {
            return Some(Node::File(file));
        }
        self.hierarchy.child(dir, &name::to_text(wanted)).map(Node::Dir)
    }

    /// Looks a name up in a directory.
    ///
    /// # Errors
    /// EINVAL, ENAMETOOLONG for a bad name; EACCES if `cred` may not search the
    /// directory; ENOENT.
    pub fn lookup(&self, dir: &Arc<Cgroup>, name: &[u8], cred: &Cred) -> Result<Node, Errno> {
        name::check(name)?;
        cred.check(&self.dir_attrs(dir), Access::EXEC)?;
        match name {
            b"." => Ok(Node::Dir(Arc::clone(dir))),
            b".." => Ok(Node::Dir(Arc::clone(dir.parent().unwrap_or(dir)))),
            _ => self.find(dir, name).ok_or(Errno::ENOENT),
        }
    }

    /// Follows a path from the root. Slashes at the ends and doubled ones do
    /// not matter; `..` stays within the tree.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup), and ENOTDIR if a part but the last is a
    /// file.
    pub fn walk(&self, path: &[u8], cred: &Cred) -> Result<Node, Errno> {
        if path.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut node = self.root();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let Node::Dir(dir) = &node else { return Err(Errno::ENOTDIR) };
            node = self.lookup(dir, part, cred)?;
        }
        match &node {
            Node::File(_) if path.ends_with(b"/") => Err(Errno::ENOTDIR),
            _ => Ok(node),
        }
    }

    /// Lists a directory: its files, then the cgroups below by name.
    ///
    /// # Errors
    /// EACCES if `cred` may not read it; ENOENT if it has been removed.
    pub fn readdir(&self, dir: &Arc<Cgroup>, cred: &Cred) -> Result<Vec<DirEntry>, Errno> {
        cred.check(&self.dir_attrs(dir), Access::READ)?;
        if dir.is_dead() {
            return Err(Errno::ENOENT);
        }
        let file = |entry: &Arc<Entry>| {
            let node = Node::File(FileNode::find(dir, entry)?);
            Some(DirEntry { name: entry.def.name.as_bytes().into(), node })
        };
        let below = self
            .hierarchy
            .children(dir)
            .into_iter()
            .map(|child| DirEntry { name: name::from_text(child.name()), node: Node::Dir(child) });
        Ok(self.entries.iter().filter_map(file).chain(below).collect())
    }

    /// Owner, mode and links.
    #[must_use]
    pub fn stat(&self, node: &Node) -> Stat {
        let links = match node {
            Node::Dir(cgroup) => 2 + self.hierarchy.nr_children(cgroup),
            Node::File(_) => 1,
        };
        Stat { is_dir: node.is_dir(), attrs: self.attrs_of(node), links }
    }

    /// Makes a cgroup, with the caller as owner of its directory and files.
    /// Of `mode`, permissions and the sticky bit count; the umask is the
    /// front end's.
    ///
    /// # Errors
    /// EEXIST for `.`, `..` and what is there; EACCES if `cred` may not search
    /// or write the directory; then those of
    /// [`Hierarchy::create`].
    pub fn mkdir(
        &self,
        dir: &Arc<Cgroup>,
        name: &[u8],
        mode: u16,
        cred: &Cred,
        fx: &mut Effects,
    ) -> Result<Arc<Cgroup>, Errno> {
        name::check(name)?;
        if matches!(name, b"." | b"..") {
            return Err(Errno::EEXIST);
        }
        let parent = self.dir_attrs(dir);
        cred.check(&parent, Access::EXEC)?;
        if dir.is_dead() {
            return Err(Errno::ENOENT);
        }
        if self.find(dir, name).is_some() {
            return Err(Errno::EEXIST);
        }
        cred.check(&parent, Access::WRITE)?;
        let _one = self.changes.lock();
        let made = self.hierarchy.create(dir, &name::to_text(name), fx)?;
        self.store.made(made.id(), mode & 0o1777, cred, &parent);
        if self.store.has(made.id()) {
            let attrs = self.dir_attrs(&made);
            for batch in self.batches(&made) {
                self.store.shown(made.id(), batch, cred, &attrs);
            }
        }
        Ok(made)
    }

    /// Removes a cgroup.
    ///
    /// # Errors
    /// EINVAL for `.`, ENOTEMPTY for `..`; ENOENT; EACCES, or EPERM in a sticky
    /// directory, if `cred` may not; ENOTDIR for a file; EBUSY while tasks or
    /// cgroups are in it.
    pub fn rmdir(
        &self,
        dir: &Arc<Cgroup>,
        name: &[u8],
        cred: &Cred,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        match name {
            b"." => return Err(Errno::EINVAL),
            b".." => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let node = self.lookup(dir, name, cred)?;
        attr::may_delete(&self.dir_attrs(dir), &self.attrs_of(&node), cred)?;
        let Node::Dir(cgroup) = node else { return Err(Errno::ENOTDIR) };
        self.hierarchy.remove(&cgroup, fx)?;
        self.store.forget(cgroup.id());
        Ok(())
    }

    /// A cgroup was removed past the tree: what is kept of its owners and marks
    /// is of no use any more.
    pub fn forget(&self, cgroup: &Cgroup) {
        if cgroup.is_dead() {
            self.store.forget(cgroup.id());
        }
    }

    /// Refuses to make a file (`open` with O_CREAT and O_EXCL).
    ///
    /// # Errors
    /// Always: EEXIST for what is there, else EACCES; a front end gives EPERM
    /// for `mknod`, `link` and `symlink`.
    pub fn create(&self, dir: &Arc<Cgroup>, name: &[u8], cred: &Cred) -> Result<(), Errno> {
        match self.lookup(dir, name, cred) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Err(Errno::EACCES),
            Err(errno) => Err(errno),
        }
    }

    /// Refuses to remove a file.
    ///
    /// # Errors
    /// Always: ENOENT; EACCES if `cred` may not write the directory; EISDIR for
    /// a cgroup; else EPERM.
    pub fn unlink(&self, dir: &Arc<Cgroup>, name: &[u8], cred: &Cred) -> Result<(), Errno> {
        let node = self.lookup(dir, name, cred)?;
        attr::may_delete(&self.dir_attrs(dir), &self.attrs_of(&node), cred)?;
        if node.is_dir() { Err(Errno::EISDIR) } else { Err(Errno::EPERM) }
    }

    /// Refuses to rename anything: a cgroup has one name for life.
    ///
    /// # Errors
    /// Always: as [`unlink`](Self::unlink), EPERM for a cgroup too.
    pub fn rename(&self, dir: &Arc<Cgroup>, name: &[u8], cred: &Cred) -> Result<(), Errno> {
        let node = self.lookup(dir, name, cred)?;
        attr::may_delete(&self.dir_attrs(dir), &self.attrs_of(&node), cred)?;
        Err(Errno::EPERM)
    }

    /// Opens a file. `cred` is kept as the opener's.
    ///
    /// # Errors
    /// EACCES; EISDIR for a directory; ENODEV for a file that is gone.
    pub fn open(&self, node: &Node, flags: OpenFlags, cred: &Cred) -> Result<File, Errno> {
        let Node::File(file) = node else { return Err(Errno::EISDIR) };
        let mut access = Access::empty();
        access.set(Access::READ, flags.read);
        access.set(Access::WRITE, flags.write);
        cred.check(&self.attrs_of(node), access)?;
        File::open(self, file.clone(), flags, cred)
    }

    /// Reads at a place, at most `size` bytes. None are the end.
    ///
    /// # Errors
    /// EBADF if not opened for reading; ENODEV once the file is gone; EINVAL for
    /// a file that cannot be read; EOPNOTSUPP for `cgroup.procs` of a threaded
    /// cgroup.
    pub fn read_at(
        &self,
        file: &File,
        offset: u64,
        size: usize,
        caller: Caller<'_>,
        now: Time,
    ) -> Result<Vec<u8>, Errno> {
        file.read_at(self, offset, size, caller, now)
    }

    /// Reads where the file stands, and moves on.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn read(
        &self,
        file: &File,
        size: usize,
        caller: Caller<'_>,
        now: Time,
    ) -> Result<Vec<u8>, Errno> {
        file.read(self, size, caller, now)
    }

    /// Writes. Wherever the file stands, the bytes are one whole request.
    ///
    /// # Errors
    /// Nothing has changed then but what the core's operation says.
    /// [`WriteError::WouldWait`] where Linux would put the writer to sleep: write
    /// again after the [`Effect::Offline`](cgrove_core::Effect::Offline), or give
    /// up. Else, in order:
    /// * EBADF: not opened for writing;
    /// * E2BIG: longer than a page, or what the file takes;
    /// * ENODEV: the file is gone;
    /// * EPERM: a boundary of delegation;
    /// * EINVAL: the file cannot be written;
    /// * what the file says of the text.
    ///
    /// No bytes at all are taken by every file that is there.
    pub fn write(
        &self,
        file: &File,
        bytes: &[u8],
        caller: Caller<'_>,
        fx: &mut Effects,
    ) -> Result<Written, WriteError> {
        file.write(self, bytes, caller, fx)
    }

    /// Performs an [`Effect::Notify`](cgrove_core::Effect::Notify) as far as open
    /// files go: those of this file have something to read. True if there is
    /// one, whose pollers are to be woken.
    pub fn notify(&self, file: &EventFile) -> bool {
        let index = self.by_name.get(file.name());
        index.is_some_and(|index| self.opens.notify(file.cgroup(), *index))
    }

    /// Changes a mode.
    ///
    /// # Errors
    /// EPERM unless `cred` is the owner or the superuser.
    pub fn chmod(&self, node: &Node, mode: u16, cred: &Cred) -> Result<(), Errno> {
        self.change(node, |attrs| attr::chmod(attrs, mode, cred))
    }

    /// Changes owner and group; `None` leaves one as it is.
    ///
    /// # Errors
    /// EPERM unless `cred` is the superuser, or the owner and gives it to a group
    /// that it is in.
    pub fn chown(
        &self,
        node: &Node,
        uid: Option<u32>,
        gid: Option<u32>,
        cred: &Cred,
    ) -> Result<(), Errno> {
        self.change(node, |attrs| attr::chown(attrs, uid, gid, node.is_dir(), cred))
    }

    fn change(
        &self,
        node: &Node,
        change: impl FnOnce(&mut Attrs) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mode = match node {
            Node::Dir(cgroup) => dir_mode(cgroup),
            Node::File(file) => file.def().mode(),
        };
        if !node.is_live() {
            // Nobody can find it any more: judged, and not kept.
            return change(&mut self.attrs_of(node));
        }
        self.store.change(node.cgroup().id(), node.key(), mode, change)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// In order: ERANGE for a bad name, E2BIG for a value over 64 KiB, EPERM or
    /// EACCES, EOPNOTSUPP for a kind that there is not, ENOSPC for too many,
    /// EEXIST or ENODATA as `mode` asks.
    pub fn setxattr(
        &self,
        node: &Node,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        cred: &Cred,
    ) -> Result<(), Errno> {
        xattr::check_name(name)?;
        xattr::may_write(name, value, &self.attrs_of(node), node.is_dir(), cred)?;
        if !node.is_live() {
            return Ok(());
        }
        self.store
            .change_xattrs(node.cgroup().id(), node.key(), |xattrs| xattrs.set(name, value, mode))
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// ERANGE, EACCES, EOPNOTSUPP as [`setxattr`](Self::setxattr); ENODATA.
    pub fn getxattr(&self, node: &Node, name: &[u8], cred: &Cred) -> Result<Vec<u8>, Errno> {
        xattr::check_name(name)?;
        xattr::may_read(name, &self.attrs_of(node), cred)?;
        let value = |xattrs: Option<&xattr::Xattrs>| xattrs.and_then(|xattrs| xattrs.get(name));
        self.store.xattrs(node.cgroup().id(), node.key(), value).ok_or(Errno::ENODATA)
    }

    /// The names of the extended attributes that `cred` may know of.
    #[must_use]
    pub fn listxattr(&self, node: &Node, cred: &Cred) -> Vec<Vec<u8>> {
        let names = |xattrs: Option<&xattr::Xattrs>| xattrs.map(|xattrs| xattrs.names(cred));
        self.store.xattrs(node.cgroup().id(), node.key(), names).unwrap_or_default()
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As [`setxattr`](Self::setxattr); ENODATA.
    pub fn removexattr(&self, node: &Node, name: &[u8], cred: &Cred) -> Result<(), Errno> {
        xattr::check_name(name)?;
        xattr::may_write(name, b"", &self.attrs_of(node), node.is_dir(), cred)?;
        self.store.change_xattrs(node.cgroup().id(), node.key(), |xattrs| xattrs.remove(name))
    }

    /// The batches of controllers' files that a cgroup shows.
    fn batches(&self, cgroup: &Arc<Cgroup>) -> Vec<Batch> {
        let csses =
            self.hierarchy.names(self.hierarchy.bound()).filter_map(|name| cgroup.css(name));
        let shown = csses.filter(|css| css.is_visible());
        shown.map(|css| Batch::Css(css.id(), css.shows())).collect()
    }

    /// Writes `cgroup.subtree_control`: the files that appear below belong to
    /// the writer.
    pub(crate) fn write_subtree_control(
        &self,
        cgroup: &Arc<Cgroup>,
        enable: SsMask,
        disable: SsMask,
        cred: &Cred,
        fx: &mut Effects,
    ) -> Result<(), WriteError> {
        let h = &self.hierarchy;
        let _one = self.changes.lock();
        let before = h.subtree_control(cgroup);
        // A cgroup can have the name of a file that is not there yet.
        let is_file = |controller: &str, name: &str| {
            let entry = self.by_name.get(name).map(|index| &self.entries[*index]);
            entry.is_some_and(|entry| {
                entry.owner == Some(controller) && entry.def.place != Place::RootOnly
            })
        };
        let written = h.write_subtree_control_unless(cgroup, enable, disable, &is_file, fx);
        let after = h.subtree_control(cgroup);
        if before != after {
            let new: Vec<&str> = h.names(after - before).collect();
            for child in h.children(cgroup) {
                let attrs = self.dir_attrs(&child);
                for css in new.iter().filter_map(|name| child.css(name)) {
                    let batch = Batch::Css(css.id(), css.shows());
                    self.store.shown(child.id(), batch, cred, &attrs);
                }
                self.tidy(&child);
            }
        }
        written
    }

    /// Writes `threaded` to `cgroup.type`.
    pub(crate) fn make_threaded(
        &self,
        cgroup: &Arc<Cgroup>,
        fx: &mut Effects,
    ) -> Result<(), WriteError> {
        let _one = self.changes.lock();
        self.hierarchy.make_threaded(cgroup, fx)?;
        self.tidy(cgroup);
        Ok(())
    }

    /// Forgets what was kept of files that are gone.
    fn tidy(&self, cgroup: &Arc<Cgroup>) {
        if self.store.has(cgroup.id()) {
            let live = self.batches(cgroup);
            self.store.retain(cgroup.id(), |batch| batch == Batch::Core || live.contains(&batch));
        }
    }

    /// How many cgroups have attributes that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.store.len()
    }
}

fn dir_mode(cgroup: &Cgroup) -> u16 {
    if cgroup.parent().is_none() { ROOT_MODE } else { DIR_MODE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cred::NoTasks;
    use cgrove_core::Pids;

    #[test]
    fn what_is_kept_goes_with_the_files() -> Result<(), WriteError> {
        let hierarchy = Hierarchy::builder().controller(Arc::new(Pids::new())).build(Time(0));
        let tree = Tree::builder(hierarchy).build();
        let (root, user) = (Cred::root(), Cred::user(1000, 1000));
        let caller = Caller { cred: &root, tasks: &NoTasks };
        let mut fx = Effects::at(Time(0));
        let top = Arc::clone(tree.root().cgroup());
        tree.mkdir(&top, b"a", 0o755, &root, &mut fx)?;
        assert_eq!(tree.kept(), 0, "nothing for what the superuser makes");

        let node = tree.walk(b"cgroup.subtree_control", &root)?;
        let control = tree.open(&node, OpenFlags::WRITE, &root)?;
        let _ = tree.write(&control, b"+pids", caller, &mut fx)?;
        let max = tree.walk(b"a/pids.max", &root)?;
        tree.chown(&max, Some(1000), None, &root)?;
        assert_eq!(tree.kept(), 1);
        let _ = tree.write(&control, b"-pids", caller, &mut fx)?;
        assert_eq!(tree.kept(), 0);
        tree.chown(&max, Some(1000), None, &root)?;
        assert_eq!(tree.kept(), 0, "nor of a file that is gone");

        tree.chown(&tree.walk(b"a", &root)?, Some(1000), None, &root)?;
        tree.mkdir(&tree.walk(b"a", &root)?.cgroup().clone(), b"b", 0o755, &user, &mut fx)?;
        assert_eq!(tree.kept(), 2);
        tree.rmdir(&tree.walk(b"a", &root)?.cgroup().clone(), b"b", &user, &mut fx)?;
        let a = tree.walk(b"a", &root)?.cgroup().clone();
        tree.forget(&a);
        assert_eq!(tree.kept(), 1, "it is still there");
        tree.hierarchy().remove(&a, &mut fx)?;
        tree.forget(&a);
        assert_eq!(tree.kept(), 0);
        Ok(())
    }
}
