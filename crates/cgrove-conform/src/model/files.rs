//! Steps on files of a tree, as one simulated process does them.
//!
//! The counterpart of `guest/files.rs`: the same open files and watches, but every system call is an
//! operation of [`Tree`]. What a path means before it reaches the tree is the VFS's, so it is here.

use std::collections::BTreeMap;
use std::sync::Arc;

use cgrove_core::controller::memory::{Proactive, ProactiveStep};
use cgrove_core::{Cgroup, CssId, Effects, Errno, Task, Time, WriteError};
use cgrove_files::{Caller, Cred, File, Node, OpenFlags, Rest, Tasks, Tree};

use super::world::World;
use crate::case::{Access, Act, Outcome, Text};
use crate::guest::files::{only, shape, value_of};

/// The longest path, with where the hierarchy is mounted.
const PATH_MAX: usize = 4096;

/// What is open under a name.
#[derive(Debug)]
pub enum Handle {
    /// An interface file.
    File(File),
    /// A directory.
    Dir(Arc<Cgroup>),
}

/// A file that is watched for modification.
#[derive(Debug)]
pub struct Watch {
    node: Node,
    modified: bool,
    /// Its end was told.
    told: bool,
}

/// What a process has open.
#[derive(Debug, Default)]
pub struct Files {
    handles: BTreeMap<String, Handle>,
    watches: BTreeMap<String, Watch>,
}

/// What came of a step on files.
#[derive(Debug)]
pub enum Did {
    /// It is over.
    Said(Outcome),
    /// Written, and memory is to be freed before the writer goes on.
    Rest(Rest),
    /// The kernel would put the caller to sleep: once more when this css is offline.
    Waits(CssId),
}

/// The name of an error, as a step says it.
#[must_use]
pub fn refused(errno: Errno) -> Outcome {
    Outcome::Refused(errno.name().to_owned())
}

fn outcome(result: Result<Outcome, Errno>) -> Did {
    Did::Said(result.unwrap_or_else(refused))
}

/// Whose eyes see which tasks.
struct View<'a> {
    world: &'a World,
    tid: u32,
}

impl Tasks for View<'_> {
    fn find(&self, pid: u32) -> Option<Arc<Task>> {
        let tid = if pid == 0 { self.tid } else { pid };
        self.world.thread(tid).map(|thread| Arc::clone(&thread.task))
    }

    fn pid(&self, task: &Arc<Task>) -> Option<u32> {
        self.world.number(task)
    }
}

/// Everything a step on files happens in.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// The processes.
    pub world: &'a World,
    /// Who does it.
    pub tid: u32,
    /// With which rights.
    pub cred: &'a Cred,
}

/// The path of a step: a cgroup, perhaps with a file in it.
fn path(cgroup: &Text, file: Option<&Text>) -> Result<Vec<u8>, Errno> {
    let mut path = cgroup.known().unwrap_or_default();
    if let Some(file) = file {
        path.push(b'/');
        path.extend(file.known().unwrap_or_default());
    }
    if path.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if crate::guest::files::ROOT.len() + 1 + path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(path)
}

impl Scene<'_> {
    fn caller(&self) -> (View<'_>, Time) {
        (View { world: self.world, tid: self.tid }, self.world.now)
    }

    /// What a path leads to.
    ///
    /// # Errors
    /// As the VFS has them.
    pub fn walk(&self, cgroup: &Text, file: Option<&Text>) -> Result<Node, Errno> {
        self.tree.walk(&path(cgroup, file)?, self.cred)
    }

    /// The directory that the last name of a path is in, and that name.
    fn parent(&self, cgroup: &Text, file: Option<&Text>) -> Result<(Arc<Cgroup>, Vec<u8>), Errno> {
        let path = path(cgroup, file)?;
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let path = &path[..end];
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        match self.tree.walk(above, self.cred)? {
            Node::Dir(dir) => Ok((dir, name.to_vec())),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn read_all(&self, file: &File) -> Result<String, Errno> {
        let (view, now) = self.caller();
        let caller = Caller { cred: self.cred, tasks: &view };
        let mut out = Vec::new();
        loop {
            let piece = self.tree.read(file, 4096, caller, now)?;
            if piece.is_empty() {
                return Ok(String::from_utf8_lossy(&out).into_owned());
            }
            out.extend_from_slice(&piece);
        }
    }

    /// Opens, reads everything and closes.
    ///
    /// # Errors
    /// That of open or read.
    pub fn read_file(&self, cgroup: &Text, file: &Text) -> Result<String, Errno> {
        match self.walk(cgroup, Some(file))? {
            Node::Dir(_) => Err(Errno::EISDIR),
            node => self.read_all(&self.tree.open(&node, OpenFlags::READ, self.cred)?),
        }
    }

    fn write(&self, file: &File, text: &Text, fx: &mut Effects) -> Did {
        let bytes = text.known().unwrap_or_default();
        let (view, _) = self.caller();
        let caller = Caller { cred: self.cred, tasks: &view };
        match self.tree.write(file, &bytes, caller, fx) {
            Err(WriteError::WouldWait(draining)) => Did::Waits(draining.css.id()),
            Err(WriteError::Refused(errno)) => Did::Said(refused(errno)),
            Ok(written) => match written.rest {
                Some(Rest::Reclaim(reclaim)) => outcome(in_vain(reclaim).map(|()| Outcome::Done)),
                Some(rest @ Rest::Shrink(_)) => Did::Rest(rest),
                _ if written.len == bytes.len() => Did::Said(Outcome::Done),
                _ => Did::Said(Outcome::said(format!("short {}", written.len))),
            },
        }
    }
}

/// Nothing can be reclaimed here: there is no swap, and no page without a process.
fn in_vain(mut reclaim: Proactive) -> Result<(), Errno> {
    let mut reclaimed = None;
    loop {
        reclaimed = match reclaim.next(reclaimed) {
            ProactiveStep::Done => return Ok(()),
            ProactiveStep::Reclaim(_) => Some(0),
            ProactiveStep::Failed(errno) => return Err(errno),
        };
    }
}

impl Files {
    /// The directory open under a name.
    #[must_use]
    pub fn directory(&self, name: &str) -> Option<&Arc<Cgroup>> {
        match self.handles.get(name) {
            Some(Handle::Dir(dir)) => Some(dir),
            _ => None,
        }
    }

    /// Closes everything.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.watches.clear();
    }

    /// The content of a file of a cgroup changed, or was written to.
    pub fn modified(&mut self, same: impl Fn(&Node) -> bool) {
        for watch in self.watches.values_mut() {
            if watch.node.is_live() && same(&watch.node) {
                watch.modified = true;
            }
        }
    }

    /// Does a step if it is one on files. Polling and waiting take time and are the caller's.
    pub fn perform(&mut self, scene: Scene<'_>, act: &Act, fx: &mut Effects) -> Option<Did> {
        let Scene { tree, cred, .. } = scene;
        let done = |result: Result<(), Errno>| outcome(result.map(|()| Outcome::Done));
        Some(match act {
            Act::Mkdir { path } => done(scene.parent(path, None).and_then(|(dir, name)| {
                if name.is_empty() {
                    return Err(Errno::EEXIST);
                }
                tree.mkdir(&dir, &name, 0o755, cred, fx).map(drop)
            })),
            Act::Rmdir { path, .. } => done(scene.parent(path, None).and_then(|(dir, name)| {
                match name.as_slice() {
                    // The root is where something is mounted.
                    b"" => Err(Errno::EBUSY),
                    name => tree.rmdir(&dir, name, cred, fx),
                }
            })),
            Act::Rename { from, to } => done(scene.parent(from, None).and_then(|(dir, name)| {
                scene.parent(to, None)?;
                tree.rename(&dir, &name, cred)
            })),
            Act::List { path, prefix } => outcome(list(scene, path, prefix.as_ref())),
            Act::Stat { path, file } => outcome(scene.walk(path, file.as_ref()).map(|node| {
                let stat = tree.stat(&node);
                Outcome::said(format!(
                    "mode {:03o} uid {} gid {} links {}",
                    stat.attrs.mode, stat.attrs.uid, stat.attrs.gid, stat.links
                ))
            })),
            Act::Chown { path, file, uid } => done(
                scene
                    .walk(path, file.as_ref())
                    .and_then(|node| tree.chown(&node, Some(*uid), Some(*uid), cred)),
            ),
            Act::Chmod { path, file, mode } => done(
                scene
                    .walk(path, file.as_ref())
                    .and_then(|node| tree.chmod(&node, (mode & 0o7777) as u16, cred)),
            ),
            Act::Create { path, file } => done(
                scene
                    .parent(path, Some(file))
                    .and_then(|(dir, name)| tree.create(&dir, &name, cred)),
            ),
            Act::Unlink { path, file } => done(
                scene
                    .parent(path, Some(file))
                    .and_then(|(dir, name)| tree.unlink(&dir, &name, cred)),
            ),
            Act::Write { path, file, text } => match open(scene, path, file, Access::Write) {
                Err(errno) => Did::Said(refused(errno)),
                Ok(Handle::Dir(_)) => Did::Said(refused(Errno::EISDIR)),
                Ok(Handle::File(file)) => scene.write(&file, text, fx),
            },
            Act::Read { path, file, keys } => {
                outcome(scene.read_file(path, file).map(|text| Outcome::Text(only(&text, keys))))
            }
            Act::Shape { path, file } => {
                outcome(scene.read_file(path, file).map(|text| Outcome::Text(shape(&text))))
            }
            Act::Compare { path, file, key, relation, value } => {
                outcome(scene.read_file(path, file).map(|text| {
                    let found =
                        value_of(&text, key.as_ref()).and_then(|found| found.parse::<i64>().ok());
                    Outcome::said(match found {
                        Some(found) if relation.holds(found, *value) => "yes",
                        Some(_) => "no",
                        None => "no number",
                    })
                }))
            }
            Act::Open { path, file, access, handle } => {
                let opened = open(scene, path, file, *access);
                outcome(opened.map(|open| self.keep(handle, open)))
            }
            Act::OpenDir { path, handle } => outcome(match scene.walk(path, None) {
                Ok(Node::Dir(dir)) => match readable(scene, &dir) {
                    Ok(()) => Ok(self.keep(handle, Handle::Dir(dir))),
                    Err(errno) => Err(errno),
                },
                Ok(Node::File(_)) => Err(Errno::ENOTDIR),
                Err(errno) => Err(errno),
            }),
            Act::ReadHandle { handle } => match self.handles.get(handle) {
                None => missing(handle),
                Some(Handle::Dir(_)) => Did::Said(refused(Errno::EISDIR)),
                Some(Handle::File(file)) => outcome(scene.read_all(file).map(Outcome::Text)),
            },
            Act::WriteHandle { handle, text } => match self.handles.get(handle) {
                None => missing(handle),
                Some(Handle::Dir(_)) => Did::Said(refused(Errno::EBADF)),
                Some(Handle::File(file)) => scene.write(file, text, fx),
            },
            Act::Seek { handle, offset } => match self.handles.get(handle) {
                None => missing(handle),
                Some(Handle::Dir(_)) => Did::Said(Outcome::Done),
                Some(Handle::File(file)) => done(file.seek(*offset).map(drop)),
            },
            Act::Watch { path, file, handle } => outcome(
                scene
                    .walk(path, Some(file))
                    .and_then(|node| {
                        tree.open(&node, OpenFlags::READ, cred)?;
                        Ok(node)
                    })
                    .map(|node| {
                        let watch = Watch { node, modified: false, told: false };
                        self.watches.insert(handle.clone(), watch);
                        Outcome::Done
                    }),
            ),
            Act::Close { handle } => {
                match (self.handles.remove(handle), self.watches.remove(handle)) {
                    (None, None) => missing(handle),
                    _ => Did::Said(Outcome::Done),
                }
            }
            _ => return None,
        })
    }

    /// Which file an act is about to write to.
    #[must_use]
    pub fn written(&self, scene: Scene<'_>, act: &Act) -> Option<Node> {
        match act {
            Act::Write { path, file, .. } => scene.walk(path, Some(file)).ok(),
            Act::WriteHandle { handle, .. } => match self.handles.get(handle)? {
                Handle::File(file) => Some(Node::File(file.node().clone())),
                Handle::Dir(_) => None,
            },
            _ => None,
        }
    }

    /// Whether an open file has an exceptional condition.
    #[must_use]
    pub fn poll(&self, handle: &str) -> Option<bool> {
        Some(match self.handles.get(handle)? {
            Handle::File(file) => file.poll().priority,
            Handle::Dir(_) => false,
        })
    }

    /// What a watch has seen, in the words of the step.
    pub fn watched(&mut self, handle: &str) -> Option<String> {
        let watch = self.watches.get_mut(handle)?;
        let mut words = Vec::new();
        if std::mem::take(&mut watch.modified) {
            words.push("modify");
        }
        if !watch.node.is_live() && !std::mem::replace(&mut watch.told, true) {
            words.push("gone");
        }
        Some(if words.is_empty() { "quiet".to_owned() } else { words.join(" ") })
    }

    fn keep(&mut self, name: &str, handle: Handle) -> Outcome {
        self.handles.insert(name.to_owned(), handle);
        Outcome::Done
    }
}

fn missing(handle: &str) -> Did {
    Did::Said(Outcome::broken(format!("no handle {handle}")))
}

fn open(scene: Scene<'_>, cgroup: &Text, file: &Text, access: Access) -> Result<Handle, Errno> {
    let node = scene.walk(cgroup, Some(file))?;
    let flags = match access {
        Access::Read => OpenFlags::READ,
        Access::Write => OpenFlags::WRITE,
        Access::Both => OpenFlags::BOTH,
    };
    match node {
        Node::Dir(dir) if access == Access::Read => {
            readable(scene, &dir)?;
            Ok(Handle::Dir(dir))
        }
        Node::Dir(_) => Err(Errno::EISDIR),
        node => scene.tree.open(&node, flags, scene.cred).map(Handle::File),
    }
}

/// Whether a directory may be opened.
fn readable(scene: Scene<'_>, dir: &Arc<Cgroup>) -> Result<(), Errno> {
    scene.tree.readdir(dir, scene.cred).map(drop)
}

fn list(scene: Scene<'_>, path: &Text, prefix: Option<&Text>) -> Result<Outcome, Errno> {
    let prefix = prefix.and_then(Text::known).unwrap_or_default();
    let Node::Dir(dir) = scene.walk(path, None)? else { return Err(Errno::ENOTDIR) };
    let mut lines = Vec::new();
    for entry in scene.tree.readdir(&dir, scene.cred)? {
        // Listed but not to be looked at, for who may not search the directory.
        let seen = scene.tree.lookup(&dir, &entry.name, scene.cred).is_ok();
        if seen && entry.name.starts_with(&prefix) {
            let stat = scene.tree.stat(&entry.node);
            let slash = if stat.is_dir { "/" } else { "" };
            let name = String::from_utf8_lossy(&entry.name);
            lines.push(format!("{name}{slash} {:03o}\n", stat.attrs.mode));
        }
    }
    lines.sort();
    Ok(Outcome::Text(lines.concat()))
}
