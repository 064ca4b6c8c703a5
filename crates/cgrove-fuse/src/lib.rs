//! A cgroup2 tree as a mounted file system, by FUSE and without libfuse.
//!
//! Programs that look for cgroups look for files. [`mount()`] shows a
//! [`Tree`](cgrove_files::Tree) to them as a real file system, with the modes, owners and errnos
//! that the tree gives, which are those of Linux.
//!
//! ```no_run
//! use cgrove_core::{Hierarchy, Pids, Time};
//! use cgrove_files::Tree;
//! use cgrove_fuse::{Empty, Options, mount};
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! let hierarchy = Hierarchy::builder().controller(Arc::new(Pids::new())).build(Time(0));
//! let world = Empty::new(Tree::builder(hierarchy).build());
//! let mounted = mount(Path::new("/tmp/tree"), world, Options::default())?;
//! std::fs::create_dir("/tmp/tree/job")?;
//! mounted.unmount()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Who owns the tree, and the tasks in it, is a [`World`]; [`Empty`] has none.
//!
//! # Who may mount
//!
//! Root, or whoever is root in a user namespace and has a mount namespace of it, by mount(2);
//! anybody else through `fusermount3`, if that is installed. The place needs `/dev/fuse`.
//!
//! # What nobody has to wait for
//!
//! A process whose request to a user-space file server is not answered can be neither killed nor
//! frozen. So the server holds no reply, ever: a write for which Linux would put the writer to sleep
//! is tried a few times, with the tree's queued work done in between, and then refused with EBUSY.
//!
//! # When the server dies
//!
//! What is left of a FUSE mount whose server is killed answers everything with ENOTCONN and stays
//! until somebody unmounts it. So a small process stands by, the *guard*, and unmounts it; it is
//! told at a proper end, and leaves. See [`Options::guard`].
//!
//! A program that uses its own mount needs the guard even to end when it is killed: a thread of it
//! may wait for an answer that no other is left to give. The guard ends that wait by force, for
//! root, and by `/sys/fs/fuse/connections`, where a plain user finds that; before Linux 6.9 it does
//! not learn of it.
//!
//! # What differs from cgroup2
//!
//! * `statfs` says FUSE_SUPER_MAGIC: only the kernel's own file system can say
//!   CGROUP2_SUPER_MAGIC. Programs that ask (systemd, runc) take it for no cgroup2.
//! * inotify sees only what is done through the mount. Changes of `cgroup.events` and its like are
//!   told to poll(2) and epoll(7), as POLLPRI and POLLERR, and not to inotify. Removing a cgroup
//!   or taking its files away also wakes those who poll them.
//! * Times of all files are that of the mount; utimes(2) is judged and then forgotten.
//! * The kernel answers some by itself: no bytes written to a file that is gone are a success, one
//!   may go elsewhere in it (lseek), and pwrite to a file open for reading only is EBADF, not ESPIPE.
//! * `name_to_handle_at` is not supported, so a cgroup's id is to be had as inode number only.
//! * To the tree the superuser of the mount has every capability and nobody else has any.

#![deny(unsafe_code)]

mod cred;
mod events;
mod fault;
mod guard;
mod handles;
mod hooks;
mod inodes;
mod late;
mod mounted;
mod mutant;
mod record;
mod server;
mod sys;
mod world;

pub use cred::Requester;
pub use events::Events;
pub use fault::{Fault, Op};
pub use hooks::Hooks;
pub use mounted::{MountError, Mounted, Options, mount, mount_with};
pub use record::Recorder;
pub use world::{Empty, World};
