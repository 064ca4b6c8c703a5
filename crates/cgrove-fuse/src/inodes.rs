//! Inode numbers, and which nodes the kernel knows.
//!
//! A number is computed from what tells a node from all others, so it stays the same for as long as
//! the node is there, whether the kernel has forgotten it meanwhile or not, and a list can name the
//! numbers of files that nobody has looked up. A directory's is the id of its cgroup, as in Linux;
//! the root's is 1, as FUSE wants it.
//!
//! What does not fit the 64 bits becomes the *generation*: a number that comes back for another
//! node has another one, and the kernel takes the old inode for stale.
//!
//! The kernel counts how often it was told of a node, and says when it forgets some of that. A node
//! is kept while the count is not zero, so that those who have it open, or are in it, still find it
//! when its name is gone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cgrove_files::{Node, NodeId, Tree};

use crate::mutant::{Mutant, broken};

/// Bits for the place of a file among all that a cgroup can have.
const INDEX: u32 = 10;
/// Bits for how often a css has shown its files.
const SHOWS: u32 = 18;
/// Bits for the id of a css, or of a cgroup.
const CSS: u32 = 61 - INDEX - SHOWS;
const CGROUP: u32 = 61 - INDEX;
/// What kind of node it is.
const CORE_FILE: u64 = 1 << 61;
const CSS_FILE: u64 = 1 << 62;

/// A number and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ino {
    pub(crate) number: u64,
    pub(crate) generation: u64,
}

impl Ino {
    pub(crate) fn of(id: NodeId) -> Self {
        let low = |value: u64, bits: u32| value & ((1 << bits) - 1);
        match id {
            NodeId::Dir(cgroup) => Self { number: low(cgroup.0, 61), generation: cgroup.0 >> 61 },
            NodeId::Core(cgroup, index) => Self {
                number: CORE_FILE | low(cgroup.0, CGROUP) << INDEX | low(index as u64, INDEX),
                generation: cgroup.0 >> CGROUP,
            },
            NodeId::Css(css, _, index) if broken(Mutant::NumbersReused) => {
                Self { number: CSS_FILE | css.0 << (INDEX + SHOWS) | index as u64, generation: 0 }
            }
            NodeId::Css(css, shows, index) => Self {
                number: CSS_FILE
                    | low(css.0, CSS) << (INDEX + SHOWS)
                    | low(shows.into(), SHOWS) << INDEX
                    | low(index as u64, INDEX),
                generation: (css.0 >> CSS) << (32 - SHOWS) | u64::from(shows >> SHOWS),
            },
        }
    }
}

/// Whether every file of a tree can have a number of its own.
pub(crate) fn suffice_for(tree: &Tree) -> bool {
    tree.defs().count() <= 1 << INDEX
}

struct Known {
    node: Node,
    generation: u64,
    told: u64,
}

/// The nodes that the kernel knows, by number.
pub(crate) struct Inodes {
    root: Node,
    known: Mutex<HashMap<u64, Known>>,
}

impl Inodes {
    pub(crate) fn new(root: Node) -> Self {
        Self { root, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of a number; none if the kernel was never told, which it does not ask about.
    pub(crate) fn get(&self, number: u64) -> Option<Node> {
        if number == fuser::INodeNo::ROOT.0 {
            return Some(self.root.clone());
        }
        self.lock().get(&number).map(|known| known.node.clone())
    }

    /// The kernel is about to be told of a node.
    pub(crate) fn tell(&self, node: &Node) -> Ino {
        let ino = Ino::of(node.id());
        if ino.number == fuser::INodeNo::ROOT.0 {
            return ino;
        }
        match self.lock().entry(ino.number) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if known.generation != ino.generation {
                    // The count stays: what the kernel forgets of the old one it forgets here.
                    (known.node, known.generation) = (node.clone(), ino.generation);
                }
                known.told += 1;
            }
            Entry::Vacant(new) => {
                new.insert(Known { node: node.clone(), generation: ino.generation, told: 1 });
            }
        }
        ino
    }

    /// The kernel has forgotten that it was told so many times.
    pub(crate) fn forget(&self, number: u64, times: u64) {
        // Dropped after the lock: it can be the last that holds a long chain of parents.
        let mut gone = None;
        let mut all = self.lock();
        if let Entry::Occupied(mut known) = all.entry(number) {
            known.get_mut().told = known.get().told.saturating_sub(times);
            if known.get().told == 0 {
                gone = Some(known.remove());
            }
        }
        drop(all);
        drop(gone);
    }

    /// How many nodes the kernel knows, but for the root.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use cgrove_core::{CgroupId, CssId, Effects, Hierarchy, Time};
    use cgrove_files::Cred;

    use super::*;

    #[test]
    fn different_nodes_have_different_numbers_or_generations() {
        let mut seen = HashSet::new();
        let ids = [1, 2, 3, 1 << 33, 1 << 51, 1 << 61, u64::MAX];
        for id in ids {
            assert!(seen.insert(pair(NodeId::Dir(CgroupId(id)))), "{id}");
            for index in [0, 1, 1023] {
                assert!(seen.insert(pair(NodeId::Core(CgroupId(id), index))), "{id} {index}");
                for shows in [0, 1, 1 << 18, u32::MAX] {
                    let node = NodeId::Css(CssId(id), shows, index);
                    assert!(seen.insert(pair(node)), "{node:?}");
                }
            }
        }
        assert_eq!(Ino::of(NodeId::Dir(CgroupId(1))), Ino { number: 1, generation: 0 });
    }

    fn pair(id: NodeId) -> (u64, u64) {
        let ino = Ino::of(id);
        (ino.number, ino.generation)
    }

    #[test]
    fn a_node_is_kept_until_it_is_forgotten_as_often_as_it_was_told() {
        let tree = Tree::builder(Hierarchy::builder().build(Time(0))).build();
        let mut fx = Effects::at(Time(0));
        let root = tree.root();
        tree.mkdir(root.cgroup(), b"a", 0o755, &Cred::root(), &mut fx).unwrap();
        let dir = tree.walk(b"a", &Cred::root()).unwrap();
        let file = tree.walk(b"a/cgroup.procs", &Cred::root()).unwrap();
        let inodes = Inodes::new(root.clone());
        let number = inodes.tell(&file).number;
        assert_eq!(inodes.tell(&file).number, number);
        inodes.tell(&dir);
        inodes.tell(&root);
        assert_eq!(inodes.len(), 2);
        tree.rmdir(root.cgroup(), b"a", &Cred::root(), &mut fx).unwrap();
        assert!(!inodes.get(number).unwrap().is_live());
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_some());
        inodes.forget(number, 1);
        assert!(inodes.get(number).is_none());
        inodes.forget(number, 7);
        inodes.forget(1, 9);
        assert!(inodes.get(1).is_some());
        assert_eq!(inodes.len(), 1);
    }
}
