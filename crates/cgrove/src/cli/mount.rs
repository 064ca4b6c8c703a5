//! The command that shows a tree as a file system. `cgrove help mounting` has what does not fit an
//! option.

use std::path::PathBuf;

use clap::Args;

use super::fault::{self, Spec};
use crate::mount::Mount;

#[derive(Args)]
pub(super) struct MountArgs {
    /// Where: a directory, whose content is hidden meanwhile
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Return once it is mounted; serve it in the background
    #[arg(long)]
    daemon: bool,
    /// Keep the pid of the server in a file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Take in any process that is written to cgroup.procs
    #[arg(long)]
    adopt: bool,
    /// Let other users in
    #[arg(long)]
    allow_other: bool,
    /// Fail on purpose: see `cgrove help mounting`
    #[arg(long = "fault", value_name = "SPEC", value_parser = fault::spec)]
    faults: Vec<Spec>,
    /// Keep what is asked and answered, to play it again
    #[arg(long, value_name = "FILE", conflicts_with = "faults")]
    record: Option<PathBuf>,
}

impl MountArgs {
    pub(super) fn resolve(self) -> Mount {
        let MountArgs { directory, daemon, pid_file, adopt, allow_other, faults, record } = self;
        Mount { directory, daemon, pid_file, allow_other, adopt, faults, record }
    }
}
