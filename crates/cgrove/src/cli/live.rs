//! The commands that look into live runs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Subcommand;

use crate::live::Live;

#[derive(Subcommand)]
pub(super) enum LiveCommand {
    /// Show the live runs of this user and their cgroups
    Tree {
        /// Only this run
        name: Option<String>,
    },
    /// List the files of a live run's cgroup, and the cgroups below it
    Ls {
        /// The run's name, and a path below its cgroup: demo or demo/inner
        path: String,
    },
    /// Print an interface file of a live run
    Get {
        /// As for ls
        path: String,
        /// The file, e.g. pids.current
        file: String,
    },
    /// Write an interface file of a live run
    Set {
        /// As for ls
        path: String,
        /// The file, e.g. pids.max
        file: String,
        /// What to write
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
    /// Print the figures of live runs as OpenMetrics
    Metrics {
        /// Only this run
        name: Option<String>,
    },
    /// Bring all tasks of a live run to a halt
    Freeze {
        /// As for ls
        path: String,
    },
    /// Let a frozen run go on
    Thaw {
        /// As for ls
        path: String,
    },
}

impl LiveCommand {
    pub(super) fn resolve(self) -> Live {
        match self {
            LiveCommand::Tree { name } => Live::Tree(name),
            LiveCommand::Ls { path } => Live::Ls(path),
            LiveCommand::Get { path, file } => Live::Get(path, file),
            LiveCommand::Set { path, file, value } => Live::Set(path, file, value.into_vec()),
            LiveCommand::Metrics { name } => Live::Metrics(name),
            LiveCommand::Freeze { path } => Live::Freeze(path, true),
            LiveCommand::Thaw { path } => Live::Freeze(path, false),
        }
    }
}
