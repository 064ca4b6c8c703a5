//! A live run from outside: `cgrove tree`, `ls`, `get`, `set`, `freeze` and `thaw`.
//!
//! A path begins with a run's name and goes on below its cgroup: `demo`, `demo/inner`. What is read
//! and written are the cgroup's interface files, as below a cgroup mount.

use cgrove_host::door::{self, CHUNK, Request};
use cgrove_host::error::HostError;
use cgrove_host::freezer::Frozen;
use cgrove_host::report::Class;
use cgrove_host::snapshot::Snapshot;
use nix::errno::Errno;

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

/// A run's name and the path below its cgroup.
fn parts(path: &str) -> (&str, String) {
    let (name, below) =
        path.trim_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    (name, below.to_owned())
}

fn list(path: &str) -> Result<Vec<String>, HostError> {
    let (name, below) = parts(path);
    let names = door::ask(name, &Request::List { path: below })?
        .map_err(|errno| refused("list", path, "", errno))?;
    Ok(String::from_utf8_lossy(&names).lines().map(str::to_owned).collect())
}

fn get(path: &str, file: &str) -> Result<Vec<u8>, HostError> {
    let (name, below) = parts(path);
    let mut content = Vec::new();
    loop {
        let (path_below, file_name) = (below.clone(), file.to_owned());
        let offset = content.len() as u64;
        let request = Request::Get { path: path_below, file: file_name, offset };
        let chunk = door::ask(name, &request)?.map_err(|e| refused("read", path, file, e))?;
        content.extend_from_slice(&chunk);
        if chunk.len() < CHUNK {
            return Ok(content);
        }
    }
}

/// All cgroups of a run at one moment.
pub fn snapshot(name: &str) -> Result<Snapshot, HostError> {
    let mut text = Vec::new();
    loop {
        let offset = text.len() as u64;
        let chunk = door::ask(name, &Request::Snapshot { offset })?
            .map_err(|errno| refused("look at", name, "", errno))?;
        text.extend_from_slice(&chunk);
        if chunk.len() < CHUNK {
            return serde_json::from_slice(&text).map_err(|_| {
                HostError::new(
                    format_args!("cannot look at {name}"),
                    "its answer makes no sense (EBADMSG)",
                    "use one version of cgrove for both",
                )
            });
        }
    }
}

/// Writes a file.
pub fn set(path: &str, file: &str, value: Vec<u8>) -> Result<(), HostError> {
    let (name, below) = parts(path);
    let request = Request::Set { path: below, file: file.to_owned(), value };
    door::ask(name, &request)?.map(drop).map_err(|errno| refused("write", path, file, errno))
}

/// Returns when the freeze is reached, or says who is not at a halt.
pub fn set_frozen(path: &str, freeze: bool) -> Result<(), HostError> {
    let (name, below) = parts(path);
    let verb = if freeze { "freeze" } else { "thaw" };
    let answer = door::ask(name, &Request::Freeze { path: below, freeze })?
        .map_err(|errno| refused(verb, path, "", errno))?;
    if !freeze {
        return Ok(());
    }
    let strange = |_| {
        HostError::new(
            format_args!("cannot freeze {path}"),
            "its answer makes no sense (EBADMSG)",
            "use one version of cgrove for both",
        )
    };
    let frozen: Frozen = serde_json::from_slice(&answer).map_err(strange)?;
    if frozen.thawed {
        return Err(HostError::new(
            format_args!("{path} is not frozen"),
            "it was thawed meanwhile (ECANCELED)",
            "freeze it again",
        ));
    }
    let Some(first) = frozen.loose.first() else {
        if frozen.class >= Class::Exact {
            return Ok(());
        }
        return Err(HostError::new(
            format_args!("{path} may not be all frozen"),
            "not all of its tasks could be seen (EAGAIN)",
            "`cgrove get` its cgroup.events until frozen is 1, or thaw it",
        ));
    };
    let more = match frozen.count - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Err(if frozen.undone {
        HostError::new(
            format_args!("cannot freeze {path}"),
            format_args!("{first}{more}"),
            "nothing was frozen; it takes the right to trace the run's processes",
        )
    } else {
        HostError::new(
            format_args!("not all of {path} is frozen [{}]", frozen.class.name()),
            format_args!("{first}{more}"),
            "the rest is; `cgrove thaw` lets it go on",
        )
    })
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

fn refused(verb: &str, path: &str, file: &str, errno: Errno) -> HostError {
    let advice = match errno {
        Errno::ENOENT => {
            "`cgrove ls` shows what there is; a controller that is not enforced has no files"
        }
        Errno::EINVAL | Errno::ERANGE | Errno::E2BIG => {
            "write a value that the file takes, see cgroup-v2.rst"
        }
        Errno::EACCES => "a process inside a group acts on that and what is below it only",
        Errno::EPERM => "the file's mode and owner forbid it",
        Errno::ENODEV => "the cgroup was removed",
        Errno::EBUSY => "tasks, children or their controllers are in the way",
        Errno::EOPNOTSUPP => "this run cannot do that, see the README",
        _ => "see cgroup-v2.rst for what the file allows",
    };
    let of = if file.is_empty() { String::new() } else { format!("{file} of ") };
    let why = format_args!("{} ({errno:?})", errno.desc()).to_string();
    HostError::new(format_args!("cannot {verb} {of}{path}"), why, advice)
}
