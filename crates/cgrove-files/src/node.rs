//! What a name leads to: a directory or a file.

use crate::attr::{Attrs, Batch, Key};
use crate::table::FileDef;
use alloc::sync::Arc;
use cgrove_core::{Cgroup, CgroupId, Css, CssId};
use core::fmt;

/// A file of a tree's tables.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) def: FileDef,
    /// The controller that has to show it.
    pub(crate) owner: Option<&'static str>,
    /// Its place among all.
    pub(crate) index: usize,
}

/// A directory or a file. It stays what it is when the name is taken away or
/// given to another.
#[derive(Clone, Debug)]
pub enum Node {
    /// A cgroup's directory.
    Dir(Arc<Cgroup>),
    /// An interface file.
    File(FileNode),
}

/// One interface file of one cgroup.
#[derive(Clone)]
pub struct FileNode {
    cgroup: Arc<Cgroup>,
    entry: Arc<Entry>,
    /// The css that shows it, and which of its showings this is.
    css: Option<(Arc<Css>, u32)>,
}

/// What tells a node from every other of its tree, those that are gone included:
/// a file that is taken away and comes back is another one. Files have a place
/// among [`Tree::defs`](crate::Tree::defs), the same in every cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeId {
    /// A cgroup's directory.
    Dir(CgroupId),
    /// A file of the core.
    Core(CgroupId, usize),
    /// A controller's file, in one of the times that its css has shown its files.
    Css(CssId, u32, usize),
}

impl Node {
    /// The cgroup whose directory this is or is in.
    #[must_use]
    pub fn cgroup(&self) -> &Arc<Cgroup> {
        match self {
            Self::Dir(cgroup) => cgroup,
            Self::File(file) => &file.cgroup,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Self::Dir(_))
    }

    /// What tells it from every other node of its tree.
    #[must_use]
    pub fn id(&self) -> NodeId {
        match self {
            Self::Dir(cgroup) => NodeId::Dir(cgroup.id()),
            Self::File(file) => match file.batch() {
                Batch::Core => NodeId::Core(file.cgroup.id(), file.entry.index),
                Batch::Css(css, shows) => NodeId::Css(css, shows, file.entry.index),
            },
        }
    }

    /// Whether its name still leads to it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self {
            Self::Dir(cgroup) => !cgroup.is_dead(),
            Self::File(file) => file.is_live(),
        }
    }

    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Dir(_) => Key::Dir,
            Self::File(file) => Key::File(file.batch(), file.entry.index),
        }
    }
}

impl FileNode {
    /// The file in the directory of `cgroup`, if it has it now.
    pub(crate) fn find(cgroup: &Arc<Cgroup>, entry: &Arc<Entry>) -> Option<Self> {
        let css = match entry.owner {
            None => None,
            Some(owner) => {
                let css = cgroup.css(owner).filter(|css| css.is_visible())?;
                let shows = css.shows();
                Some((css, shows))
            }
        };
        let there = entry.def.place.includes(cgroup) && !cgroup.is_dead();
        there.then(|| Self { cgroup: Arc::clone(cgroup), entry: Arc::clone(entry), css })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.def.name
    }

    /// Whose file it is.
    #[must_use]
    pub fn cgroup(&self) -> &Arc<Cgroup> {
        &self.cgroup
    }

    /// How it is defined.
    #[must_use]
    pub fn def(&self) -> &FileDef {
        &self.entry.def
    }

    /// Whether it is still there: the cgroup lives and the controller has not
    /// taken it away.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let shown = |(css, shows): &(Arc<Css>, u32)| css.is_visible() && css.shows() == *shows;
        !self.cgroup.is_dead() && self.css.as_ref().is_none_or(shown)
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(crate) fn batch(&self) -> Batch {
        self.css.as_ref().map_or(Batch::Core, |(css, shows)| Batch::Css(css.id(), *shows))
    }
}

impl fmt::Debug for FileNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cgroup.path().trim_end_matches('/'), self.name())
    }
}

/// What `stat(2)` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Owner and mode.
    pub attrs: Attrs,
    /// Links: for a directory 2 and one for each below. Files have no size.
    pub links: usize,
}
