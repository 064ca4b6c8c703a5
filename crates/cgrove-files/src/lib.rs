//! The files of a cgroup2 tree, over [`cgrove_core`].
//!
//! A [`Tree`] is all that a front end needs, be it a mount, a server or a test:
//! look up, list, open, read, write, poll, make and remove, own and mark, each
//! with the caller's credentials and with the errno that Linux 7.2 gives. Each
//! interface file is defined once, in the table of its owner.
//!
//! ```
//! use cgrove_core::controller::id_mask::IdMask;
//! use cgrove_core::controller::registry::Standard;
//! use cgrove_core::{Effects, Errno, Time};
//! use cgrove_files::{Caller, Cred, NoTasks, Node, OpenFlags, Tree};
//!
//! let standard = Standard::new(IdMask::first(2), IdMask::first(1), &[]);
//! let hierarchy = standard.registry().builder().build(Time(0));
//! let tree = Tree::builder(hierarchy).build();
//! let root = Cred::root();
//! let caller = Caller { cred: &root, tasks: &NoTasks };
//! let mut fx = Effects::at(Time(0));
//!
//! let control = tree.walk(b"cgroup.subtree_control", &root)?;
//! let control = tree.open(&control, OpenFlags::WRITE, &root)?;
//! tree.write(&control, b"+pids\n", caller, &mut fx)?.without_help(&mut fx)?;
//! tree.mkdir(tree.root().cgroup(), b"job", 0o755, &root, &mut fx)?;
//!
//! let max = tree.walk(b"job/pids.max", &root)?;
//! assert_eq!(tree.stat(&max).attrs.mode, 0o644);
//! let nobody = Cred::user(65534, 65534);
//! assert_eq!(tree.open(&max, OpenFlags::WRITE, &nobody).unwrap_err(), Errno::EACCES);
//! let max = tree.open(&max, OpenFlags::BOTH, &root)?;
//! assert_eq!(tree.write(&max, b"-1", caller, &mut fx).unwrap_err().errno(), Some(Errno::EINVAL));
//! tree.write(&max, b"0x10", caller, &mut fx)?.without_help(&mut fx)?;
//! assert_eq!(tree.read_at(&max, 0, 4096, caller, Time(0))?, b"16\n");
//! # for effect in fx.drain() { drop(effect) }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is not here
//!
//! Pressure (`*.pressure`, `cgroup.pressure`), zswap, `cpu.uclamp.*`, cpuset
//! partitions, `io.cost.*`, `io.latency`, `io.prio.class` are not built. Their
//! files do not exist, so that nobody takes a stored value for an enforced one.
//! A controller that the hierarchy lacks has no files; `memory.stat` and
//! `memory.numa_stat` exist where the embedder [provides](Figures) them.
//!
//! `.` and `..`, symbolic links and the umask are the front end's, as far as
//! [`Tree::walk`] does not take them.

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod attr;
mod core_files;
mod cpu;
mod cpuset;
mod cred;
mod figures;
mod hugetlb;
mod io;
mod lock;
mod memory;
mod misc;
mod mutant;
pub mod name;
mod node;
mod open;
mod options;
pub mod parse;
mod pids;
mod print;
mod rdma;
mod table;
mod tables;
mod tree;
mod xattr;

pub use attr::Attrs;
pub use cred::{Access, Caller, Cred, NoTasks, Tasks};
pub use figures::{Figure, Figures};
pub use node::{FileNode, Node, NodeId, Stat};
pub use open::{File, OpenFlags, OpenState, Poll};
pub use options::MountOptions;
pub use table::{FileDef, Place, Read, Reading, Rest, Table, Write, Writing, Written};
pub use tree::{DirEntry, Tree, TreeBuilder};
pub use xattr::XattrMode;
