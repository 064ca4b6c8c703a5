//! What is open: files, directories, and who waits for which file.
//!
//! poll(2) is asked anew whenever somebody is told of a change, so of each open file at most the
//! last request to be told is kept, and it is used up by telling. It is put down *before* the file
//! is asked whether it has something to say: a change between the two is told, and not lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cgrove_core::{Cgroup, CgroupId, Errno};
use cgrove_files::{Cred, File, Node, NodeId, Tree};
use fuser::{FileType, PollNotifier};

use crate::inodes::Ino;
use crate::mutant::{Mutant, broken};

/// A line of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Where a reader that has had it goes on.
    pub(crate) cookie: u64,
    pub(crate) number: u64,
    pub(crate) kind: FileType,
    pub(crate) name: Vec<u8>,
}

/// Where the files of a directory begin, behind the two names that every one has.
const FILES: u64 = 3;
/// Where its cgroups begin.
const DIRECTORIES: u64 = 1 << 20;

/// An open directory.
///
/// Places in it are those of the names and not of the list: files by their place in the tables,
/// cgroups by the order in which they were made. So whatever comes and goes, a reader that goes on
/// sees all that stays once. The list is made when a reader begins, so that a large directory is
/// not listed anew for each page of it.
pub(crate) struct Directory {
    pub(crate) cgroup: Arc<Cgroup>,
    list: Mutex<Option<Arc<Vec<Line>>>>,
}

impl Directory {
    /// All lines, and how many of them a reader at a place has had.
    ///
    /// # Errors
    /// ENOENT if it has been removed.
    pub(crate) fn lines(
        &self,
        tree: &Tree,
        place: u64,
        hides: impl Fn(&str) -> bool,
    ) -> Result<(Arc<Vec<Line>>, usize), Errno> {
        let mut list = lock(&self.list);
        let lines = match &*list {
            Some(lines) if place != 0 && !broken(Mutant::PlacesByPosition) => Arc::clone(lines),
            _ => Arc::clone(list.insert(Arc::new(self.list(tree, hides)?))),
        };
        let had = lines.partition_point(|line| line.cookie <= place);
        Ok((lines, had))
    }

    fn list(&self, tree: &Tree, hides: impl Fn(&str) -> bool) -> Result<Vec<Line>, Errno> {
        // It was opened by who may read it, and that is when Linux asks.
        let mut entries = tree.readdir(&self.cgroup, &Cred::root())?;
        entries.retain(|entry| match &entry.node {
            Node::File(file) => !hides(file.name()),
            Node::Dir(_) => true,
        });
        let line = |cookie, node: &Node, name: Vec<u8>| Line {
            cookie,
            number: Ino::of(node.id()).number,
            kind: if node.is_dir() { FileType::Directory } else { FileType::RegularFile },
            name,
        };
        let parent = self.cgroup.parent().unwrap_or(&self.cgroup);
        let mut lines = vec![
            line(1, &Node::Dir(Arc::clone(&self.cgroup)), b".".into()),
            line(2, &Node::Dir(Arc::clone(parent)), b"..".into()),
        ];
        lines.extend(entries.into_iter().map(|entry| {
            let cookie = match entry.node.id() {
                NodeId::Core(_, index) | NodeId::Css(_, _, index) => FILES + index as u64,
                NodeId::Dir(cgroup) => DIRECTORIES + cgroup.0,
            };
            line(cookie, &entry.node, entry.name)
        }));
        lines.sort_unstable_by_key(|line| line.cookie);
        if broken(Mutant::PlacesByPosition) {
            lines.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            lines.iter_mut().zip(1..).for_each(|(line, nth)| line.cookie = nth);
        }
        Ok(lines)
    }
}

struct Waiting {
    open: Arc<File>,
    notifier: PollNotifier,
}

/// All that is open.
#[derive(Default)]
pub(crate) struct Handles {
    next: AtomicU64,
    files: Mutex<HashMap<u64, Arc<File>>>,
    directories: Mutex<HashMap<u64, Arc<Directory>>>,
    /// By cgroup and handle.
    waiting: Mutex<HashMap<CgroupId, HashMap<u64, Waiting>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handles {
    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn open(&self, file: File) -> u64 {
        let handle = self.next();
        lock(&self.files).insert(handle, Arc::new(file));
        handle
    }

    pub(crate) fn file(&self, handle: u64) -> Option<Arc<File>> {
        lock(&self.files).get(&handle).cloned()
    }

    pub(crate) fn close(&self, handle: u64) {
        let file = lock(&self.files).remove(&handle);
        let Some(file) = file else { return };
        let mut waiting = lock(&self.waiting);
        let cgroup = file.node().cgroup().id();
        if let Some(of_cgroup) = waiting.get_mut(&cgroup) {
            of_cgroup.remove(&handle);
            if of_cgroup.is_empty() {
                waiting.remove(&cgroup);
            }
        }
    }

    pub(crate) fn open_directory(&self, cgroup: Arc<Cgroup>) -> u64 {
        let handle = self.next();
        let directory = Directory { cgroup, list: Mutex::default() };
        lock(&self.directories).insert(handle, Arc::new(directory));
        handle
    }

    pub(crate) fn directory(&self, handle: u64) -> Option<Arc<Directory>> {
        lock(&self.directories).get(&handle).cloned()
    }

    pub(crate) fn close_directory(&self, handle: u64) {
        let directory = lock(&self.directories).remove(&handle);
        drop(directory);
    }

    /// Somebody waits for a change of an open file.
    pub(crate) fn wait(&self, handle: u64, open: &Arc<File>, notifier: PollNotifier) {
        let waiting = Waiting { open: Arc::clone(open), notifier };
        let cgroup = open.node().cgroup().id();
        lock(&self.waiting).entry(cgroup).or_default().insert(handle, waiting);
    }

    /// The content of a file changed.
    pub(crate) fn changed(&self, cgroup: CgroupId, name: &str) {
        self.wake(Some(cgroup), |file| file.node().name() == name);
    }

    /// Files were taken away: of one cgroup, or of any.
    pub(crate) fn taken_away(&self, cgroup: Option<CgroupId>) {
        if !broken(Mutant::GoneUntold) {
            self.wake(cgroup, |file| !file.node().is_live());
        }
    }

    fn wake(&self, cgroup: Option<CgroupId>, which: impl Fn(&File) -> bool) {
        let mut woken = Vec::new();
        let mut waiting = lock(&self.waiting);
        let mut take = |of_cgroup: &mut HashMap<u64, Waiting>| {
            woken.extend(of_cgroup.extract_if(|_, waiting| which(&waiting.open)));
        };
        match cgroup {
            Some(cgroup) => {
                if let Some(of_cgroup) = waiting.get_mut(&cgroup) {
                    take(of_cgroup);
                    if of_cgroup.is_empty() {
                        waiting.remove(&cgroup);
                    }
                }
            }
            None => waiting.retain(|_, of_cgroup| {
                take(of_cgroup);
                !of_cgroup.is_empty()
            }),
        }
        drop(waiting);
        for (_, waiting) in woken {
            // The file may have been closed meanwhile: then there is nobody to tell.
            let _ = waiting.notifier.notify();
        }
    }
}
