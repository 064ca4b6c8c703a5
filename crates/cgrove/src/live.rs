//! A live run from outside: `cgrove tree`, `ls`, `get`, `set`, `freeze` and `thaw`.
//!
//! What is asked at the door is `cgrove_host::live`'s; this is what is printed.

use cgrove_host::door::{self, Request};
use cgrove_host::error::HostError;
pub use cgrove_host::live::{get, list, set, set_frozen, snapshot};
use cgrove_host::snapshot::Snapshot;

use crate::{say, watch};

/// One of these commands.
pub enum Live {
    /// The runs of this user, or one of them, with their cgroups.
    Tree(Option<String>),
    /// What a cgroup's directory holds.
    Ls(String),
    /// Reads a file.
    Get(String, String),
    /// The figures of all runs or one, for a collector.
    Metrics(Option<String>),
    /// Freezes (`true`) or thaws a cgroup.
    Freeze(String, bool),
    /// Writes a file.
    Set(String, String, Vec<u8>),
}

/// Performs it; returns the exit status.
pub fn live(what: Live) -> i32 {
    let done = match what {
        Live::Tree(None) => door::runs().map(|names| {
            // A run may end while the others are looked at.
            names.iter().filter_map(|name| tree(name).ok()).collect::<String>().into_bytes()
        }),
        Live::Tree(Some(name)) => tree(&name).map(String::into_bytes),
        Live::Ls(path) => list(&path).map(|names| {
            names.iter().flat_map(|name| [name.as_str(), "\n"]).collect::<String>().into_bytes()
        }),
        Live::Get(path, file) => get(&path, &file),
        Live::Metrics(None) => door::runs()
            .map(|names| metrics(names.iter().filter_map(|name| snapshot(name).ok()).collect())),
        Live::Metrics(Some(name)) => snapshot(&name).map(|run| metrics(vec![run])),
        Live::Freeze(path, freeze) => set_frozen(&path, freeze).map(|()| Vec::new()),
        Live::Set(path, file, value) => set(&path, &file, value).map(|()| Vec::new()),
    };
    match done {
        Ok(text) => say::bytes(&text),
        Err(error) => say::failed(&error),
    }
}

fn metrics(runs: Vec<Snapshot>) -> Vec<u8> {
    watch::openmetrics(&runs.iter().collect::<Vec<_>>()).into_bytes()
}

/// A run with its cgroups, one a line: the name, and how many tasks of how many there may be.
fn tree(name: &str) -> Result<String, HostError> {
    let mut text = String::new();
    // Whoever is inside sees no more than is below its own group.
    let own = door::ask(name, &Request::Where)?.unwrap_or_default();
    let top = match String::from_utf8(own) {
        Ok(own) if !own.is_empty() => own,
        _ => name.to_owned(),
    };
    let mut todo = vec![(top, 0)];
    while let Some((path, depth)) = todo.pop() {
        let names = match list(&path) {
            Ok(names) => names,
            Err(error) if depth == 0 => return Err(error),
            // Removed meanwhile.
            Err(_) => continue,
        };
        let number = |file: &str| {
            let text = get(&path, file).ok()?;
            Some(String::from_utf8_lossy(&text).trim_end().to_owned())
        };
        let own = path.rsplit('/').next().unwrap_or_default();
        let indent = 2 * depth;
        text.push_str(&format!("{:indent$}{own}", ""));
        if let (Some(current), Some(max)) = (number("pids.current"), number("pids.max")) {
            text.push_str(&format!("  {current} of {max} tasks"));
        }
        text.push('\n');
        let below = names.iter().filter_map(|name| name.strip_suffix('/')).rev();
        todo.extend(below.map(|name| (format!("{path}/{name}"), depth + 1)));
    }
    Ok(text)
}
