//! Command trees under cgroup semantics, from a program: limits, accounting, freeze, and a kill
//! that leaves nothing. No root, no cgroup mount, no container.
//!
//! **Why the work is done by another process.** A supervisor reaps orphans, holds a listener that
//! every fork waits for, and blocks signals. In a program that has threads, an async runtime and
//! children of its own, a library that did so would take over SIGCHLD, `waitpid` and fork. So this
//! library starts the command `cgrove`, which is the supervisor, and talks to it. It installs no
//! signal handler, makes no thread unless asked to wait asynchronously, and does not mind a host
//! that ignores SIGCHLD or waits for every child itself.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! let supervisor = cgrove::Supervisor::new()?;
//! let output = supervisor
//!     .command("make")
//!     .arg("-j8")
//!     .pids_max(64)
//!     .timeout(Duration::from_secs(600))
//!     .output()?;
//! println!("{}", output.report.summary());
//! assert!(output.report.exit.code == Some(0), "{}", String::from_utf8_lossy(&output.stderr));
//! # Ok::<(), cgrove::Error>(())
//! ```
//!
//! A [`Group`] is a budget that several commands share; each is a child cgroup with limits of its
//! own:
//!
//! ```no_run
//! # let supervisor = cgrove::Supervisor::new()?;
//! let session = supervisor.group("session").memory_max(8 << 30).create()?;
//! let first = session.command("python3").arg("a.py").memory_max(1 << 30).spawn()?;
//! let second = session.command("python3").arg("b.py").memory_max(1 << 30).spawn()?;
//! for run in [first, second] {
//!     println!("{:?}", run.wait()?.reason);
//! }
//! session.remove()?;
//! # Ok::<(), cgrove::Error>(())
//! ```
//!
//! Whatever is dropped is ended: a [`Running`] with its whole tree, a [`Group`] that was created
//! with everything in it. [`Running::detach`] and [`Group::leave`] let them be. A run ends with the
//! process that started it, however that ends, unless [`Command::outlives_caller`] says otherwise.
#![forbid(unsafe_code)]

mod library;

pub use cgrove_host::journal::{Happening, What};
pub use cgrove_host::report::{self, Report};
pub use cgrove_host::snapshot::{self, Snapshot};

pub use self::library::{
    Command, Error, Events, Group, GroupBuilder, Output, Running, Supervisor, SupervisorBuilder,
};
