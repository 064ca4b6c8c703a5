//! Owners, modes and extended attributes of directories and files.
//!
//! Nearly every node has the attributes it was made with by the superuser, so
//! only what differs is kept, as kernfs does: for each cgroup who made it, and
//! for each file or directory what has been changed since.
//!
//! A file belongs to whoever made it appear, and not to the directory's owner:
//! the maker of a cgroup owns its core files and those of the controllers that
//! were on, the writer of the parent's `cgroup.subtree_control` those that come
//! later. Otherwise whoever was given a directory could raise its own limits.
//!
//! Files that go and come back are new ones, so what is kept of a controller's
//! files is kept by css and by how often it has shown them
//! ([`Css::shows`](cgrove_core::Css::shows)).

use crate::cred::{Access, Cred};
use crate::lock::Lock;
use crate::xattr::Xattrs;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use cgrove_core::{CgroupId, CssId, Errno};

/// The set-user-id bit.
const S_ISUID: u16 = 0o4000;
/// The set-group-id bit: what is made in such a directory has its group.
const S_ISGID: u16 = 0o2000;
/// The sticky bit: only owners remove.
const S_ISVTX: u16 = 0o1000;

/// Owner and mode of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// Permission bits, `07777` at most.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The files of one owner in one directory: the core's, or those of a css for
/// as long as it shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Batch {
    Core,
    Css(CssId, u32),
}

impl Batch {
    /// Above all others.
    pub(crate) const LAST: Self = Self::Css(CssId(u64::MAX), u32::MAX);
}

/// What attributes are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Dir,
    /// By index in the table of the tree.
    File(Batch, usize),
}

#[derive(Debug, Default)]
struct Changed {
    attrs: Option<Attrs>,
    xattrs: Option<Box<Xattrs>>,
}

/// What is kept of one cgroup.
#[derive(Debug, Default)]
struct Directory {
    /// Who owns the files of a batch, where that is not 0:0.
    owners: BTreeMap<Batch, (u32, u32)>,
    changed: BTreeMap<Key, Changed>,
}

/// What is kept of all.
#[derive(Debug, Default)]
pub(crate) struct Store(Lock<BTreeMap<CgroupId, Directory>>);

impl Store {
    /// What a node has, given the mode it was made with.
    pub(crate) fn get(&self, cgroup: CgroupId, key: Key, mode: u16) -> Attrs {
        let store = self.0.lock();
        let Some(directory) = store.get(&cgroup) else {
            return Attrs { mode, uid: 0, gid: 0 };
        };
        directory.get(key, mode)
    }

    /// A cgroup was made: its directory and core files belong to `cred`, but
    /// for a set-group-id parent, whose group they get (`kernfs_new_node`).
    pub(crate) fn made(&self, cgroup: CgroupId, mode: u16, cred: &Cred, parent: &Attrs) {
        let inherits = parent.mode & S_ISGID != 0;
        let gid = if inherits { parent.gid } else { cred.gid };
        let mode = if inherits { mode | S_ISGID } else { mode };
        if (mode, cred.uid, gid) == (DIR_MODE, 0, 0) {
            return;
        }
        let mut store = self.0.lock();
        let directory = store.entry(cgroup).or_default();
        let attrs = Some(Attrs { mode, uid: cred.uid, gid });
        directory.changed.entry(Key::Dir).or_default().attrs = attrs;
        directory.own(Batch::Core, (cred.uid, gid));
    }

    /// The files of a batch were made by `cred`.
    pub(crate) fn shown(&self, cgroup: CgroupId, batch: Batch, cred: &Cred, dir: &Attrs) {
        let gid = if dir.mode & S_ISGID != 0 { dir.gid } else { cred.gid };
        if (cred.uid, gid) != (0, 0) {
            self.0.lock().entry(cgroup).or_default().own(batch, (cred.uid, gid));
        }
    }

    /// Forgets all batches of csses that `keep` does not want.
    pub(crate) fn retain(&self, cgroup: CgroupId, keep: impl Fn(Batch) -> bool) {
        let mut store = self.0.lock();
        let Some(directory) = store.get_mut(&cgroup) else { return };
        directory.owners.retain(|batch, _| keep(*batch));
        directory.changed.retain(|key, _| match key {
            Key::Dir => true,
            Key::File(batch, _) => keep(*batch),
        });
        if directory.owners.is_empty() && directory.changed.is_empty() {
            store.remove(&cgroup);
        }
    }

    /// Whether anything is kept of a cgroup.
    pub(crate) fn has(&self, cgroup: CgroupId) -> bool {
        self.0.lock().contains_key(&cgroup)
    }

    /// The cgroup was removed.
    pub(crate) fn forget(&self, cgroup: CgroupId) {
        self.0.lock().remove(&cgroup);
    }

    /// Changes owner and mode.
    pub(crate) fn change(
        &self,
        cgroup: CgroupId,
        key: Key,
        mode: u16,
        change: impl FnOnce(&mut Attrs) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut store = self.0.lock();
        let mut attrs = match store.get(&cgroup) {
            Some(directory) => directory.get(key, mode),
            None => Attrs { mode, uid: 0, gid: 0 },
        };
        let old = attrs;
        change(&mut attrs)?;
        if attrs != old {
            let directory = store.entry(cgroup).or_default();
            directory.changed.entry(key).or_default().attrs = Some(attrs);
        }
        Ok(())
    }

    /// Looks at the extended attributes of a node; `None` if it has none.
    pub(crate) fn xattrs<T>(
        &self,
        cgroup: CgroupId,
        key: Key,
        look: impl FnOnce(Option<&Xattrs>) -> T,
    ) -> T {
        let store = self.0.lock();
        let changed = store.get(&cgroup).and_then(|directory| directory.changed.get(&key));
        look(changed.and_then(|changed| changed.xattrs.as_deref()))
    }

    /// Changes the extended attributes of a node.
    pub(crate) fn change_xattrs(
        &self,
        cgroup: CgroupId,
        key: Key,
        change: impl FnOnce(&mut Xattrs) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut store = self.0.lock();
        let held = store.get_mut(&cgroup).and_then(|directory| directory.changed.get_mut(&key));
        if let Some(xattrs) = held.and_then(|changed| changed.xattrs.as_deref_mut()) {
            return change(xattrs);
        }
        let mut xattrs = Xattrs::default();
        change(&mut xattrs)?;
        let directory = store.entry(cgroup).or_default();
        directory.changed.entry(key).or_default().xattrs = Some(Box::new(xattrs));
        Ok(())
    }

    /// How many cgroups something is kept of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// The mode of a directory, as `mkdir(1)` with the usual umask asks for it.
pub(crate) const DIR_MODE: u16 = 0o755;

impl Directory {
    fn get(&self, key: Key, mode: u16) -> Attrs {
        if let Some(attrs) = self.changed.get(&key).and_then(|changed| changed.attrs) {
            return attrs;
        }
        let owner = match key {
            Key::Dir => None,
            Key::File(batch, _) => self.owners.get(&batch),
        };
        let (uid, gid) = owner.copied().unwrap_or((0, 0));
        Attrs { mode, uid, gid }
    }

    fn own(&mut self, batch: Batch, owner: (u32, u32)) {
        if owner != (0, 0) {
            self.owners.insert(batch, owner);
        }
    }
}

/// Changes a mode (`chmod(2)`).
pub(crate) fn chmod(attrs: &mut Attrs, mode: u16, cred: &Cred) -> Result<(), Errno> {
    if !cred.is_root() && cred.uid != attrs.uid {
        return Err(Errno::EPERM);
    }
    let keeps_group = cred.is_root() || cred.is_in(attrs.gid);
    attrs.mode = if keeps_group { mode & 0o7777 } else { mode & 0o7777 & !S_ISGID };
    Ok(())
}

/// Changes owner and group (`chown(2)`); `None` leaves one as it is.
pub(crate) fn chown(
    attrs: &mut Attrs,
    uid: Option<u32>,
    gid: Option<u32>,
    is_dir: bool,
    cred: &Cred,
) -> Result<(), Errno> {
    let is_owner = cred.uid == attrs.uid;
    let may_uid = uid.is_none_or(|uid| is_owner && uid == attrs.uid);
    let may_gid = gid.is_none_or(|gid| is_owner && (gid == attrs.gid || cred.is_in(gid)));
    let may = cred.is_root() || (may_uid && may_gid);
    if !may {
        return Err(Errno::EPERM);
    }
    attrs.uid = uid.unwrap_or(attrs.uid);
    attrs.gid = gid.unwrap_or(attrs.gid);
    if !is_dir {
        // A program must not run with the rights of an owner it did not have.
        attrs.mode &= !S_ISUID;
        if attrs.mode & 0o010 != 0 {
            attrs.mode &= !S_ISGID;
        }
    }
    Ok(())
}

/// Whether `cred` may remove from a directory what has the attributes `victim`
/// (`may_delete`).
pub(crate) fn may_delete(dir: &Attrs, victim: &Attrs, cred: &Cred) -> Result<(), Errno> {
    cred.check(dir, Access::WRITE | Access::EXEC)?;
    let sticky = dir.mode & S_ISVTX != 0;
    if sticky && !cred.is_root() && cred.uid != victim.uid && cred.uid != dir.uid {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Whether `cred` may write extended attributes of the `user.` kind.
pub(crate) fn is_sticky(attrs: &Attrs) -> bool {
    attrs.mode & S_ISVTX != 0
}
