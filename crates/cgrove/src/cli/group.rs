//! The commands for groups that last.

use std::time::Duration;

use cgrove_host::options::RunOptions;
use clap::Subcommand;

use super::limits::LimitArgs;
use super::run::{BackendArg, RunArgs, SCREEN};
use super::values::{self, PidsMax};
use crate::group::Group;

#[derive(Subcommand)]
pub(super) enum GroupCommand {
    /// Make a group that lasts, for any number of commands
    Create {
        /// Its name, or a path below a live run or group: NAME or NAME/PATH
        #[arg(value_parser = place)]
        path: Place,
        /// At most N tasks at a time, in all that is in it
        #[arg(long, value_name = "N|max", value_parser = values::pids_max)]
        pids_max: Option<PidsMax>,
        #[command(flatten)]
        limits: LimitArgs,
        /// Write a file of its cgroup first: pids.max=64
        #[arg(long, value_name = "FILE=VALUE", value_parser = values::setting)]
        set: Vec<(String, String)>,
        /// Hold by gate, ptrace or reaper
        #[arg(long, value_enum, default_value_t = BackendArg::Auto, hide_possible_values = true)]
        backend: BackendArg,
    },
    /// Run a command in a live group, in a cgroup of its own below it
    Exec {
        /// The group: NAME or NAME/PATH
        path: String,
        #[command(flatten)]
        run: Box<RunArgs>,
    },
    /// Remove a group
    Rm {
        /// The group: NAME or NAME/PATH
        path: String,
        /// Kill what is in it; otherwise it must be empty
        #[arg(long)]
        kill: bool,
    },
}

/// What `cgrove exec --help` prints: the options are those of `run`.
pub(super) fn exec_screen() -> String {
    let (usage, rest) = SCREEN.split_once("\n\n").unwrap_or(("", SCREEN));
    let (_, rest) = rest.split_once("\n\n").unwrap_or(("", rest));
    let usage = usage.replace("cgrove run", "cgrove exec GROUP");
    format!("{usage}\n\nRun a command in a live group, in a cgroup of its own below it.\n\n{rest}")
}

/// A group to be.
#[derive(Clone)]
pub(super) struct Place {
    /// The group around, if there is one.
    at: Option<String>,
    name: String,
}

fn place(path: &str) -> Result<Place, String> {
    let (at, last) = match path.rsplit_once('/') {
        Some((at, last)) => (Some(at.to_owned()), last),
        None => (None, path),
    };
    Ok(Place { at, name: values::name(last)? })
}

impl GroupCommand {
    pub(super) fn resolve(self) -> Group {
        match self {
            GroupCommand::Create { path, pids_max, limits, set, backend } => {
                let options = RunOptions {
                    command: Vec::new(),
                    named: true,
                    name: path.name,
                    pids_max: pids_max.and_then(|PidsMax(max)| max),
                    set: limits.settings().into_iter().chain(set).collect(),
                    series: false,
                    timeout: None,
                    kill_grace: Duration::ZERO,
                    backend: backend.choice(),
                    require: Vec::new(),
                    keep_descendants: true,
                    die_with: None,
                    keeper: true,
                };
                Group::Create(path.at, Box::new(options))
            }
            GroupCommand::Exec { path, run } => Group::Exec(path, Box::new(run.resolve())),
            GroupCommand::Rm { path, kill } => Group::Rm(path, kill),
        }
    }
}
