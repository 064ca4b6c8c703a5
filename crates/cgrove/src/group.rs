//! Groups that last: `cgrove create`, `exec` and `rm`.

use cgrove_host::keeper;
use cgrove_host::options::RunOptions;

use crate::cli::Run;
use crate::{run, say};

/// One of these commands.
pub enum Group {
    /// Makes a group, below that one if there is one.
    Create(Option<String>, Box<RunOptions>),
    /// Runs a command in a group.
    Exec(String, Box<Run>),
    /// Removes a group, with what is in it or only if it is empty.
    Rm(String, bool),
}

/// Performs it; returns the exit status.
pub fn group(what: Group, closed: [bool; 3]) -> i32 {
    let done = match what {
        Group::Create(None, options) => keeper::create(&options),
        Group::Create(Some(at), options) => keeper::make(at.trim_matches('/'), &options),
        Group::Exec(path, what) => return run::exec(&path, &what, closed),
        Group::Rm(path, kill) => keeper::remove(&path, kill),
    };
    match done {
        Ok(()) => 0,
        Err(error) => say::failed(&error),
    }
}
