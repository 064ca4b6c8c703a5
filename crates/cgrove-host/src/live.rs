//! A live run from outside, at its door: what `cgrove ls`, `get`, `set`, `freeze` and the library do.
//!
//! A path begins with a run's name and goes on below its cgroup: `demo`, `demo/inner`. What is read
//! and written are the cgroup's interface files, as below a cgroup mount.

use nix::errno::Errno;

use crate::door::{self, CHUNK, Request};
use crate::error::HostError;
use crate::freezer::Frozen;
use crate::report::Class;
use crate::snapshot::Snapshot;

/// A run's name and the path below its cgroup.
fn parts(path: &str) -> (&str, String) {
    let (name, below) =
        path.trim_matches('/').split_once('/').unwrap_or((path.trim_matches('/'), ""));
    (name, below.to_owned())
}

/// The names in a cgroup's directory: cgroups end in a slash.
pub fn list(path: &str) -> Result<Vec<String>, HostError> {
    let (name, below) = parts(path);
    let names = door::ask(name, &Request::List { path: below })?
        .map_err(|errno| refused("list", path, "", errno))?;
    Ok(String::from_utf8_lossy(&names).lines().map(str::to_owned).collect())
}

/// A file's content.
pub fn get(path: &str, file: &str) -> Result<Vec<u8>, HostError> {
    let (name, below) = parts(path);
    whole(|offset| {
        let request = Request::Get { path: below.clone(), file: file.to_owned(), offset };
        door::ask(name, &request)?.map_err(|errno| refused("read", path, file, errno))
    })
}

/// All cgroups of a run at one moment.
pub fn snapshot(name: &str) -> Result<Snapshot, HostError> {
    let text = whole(|offset| {
        door::ask(name, &Request::Snapshot { offset })?
            .map_err(|errno| refused("look at", name, "", errno))
    })?;
    serde_json::from_slice(&text).map_err(|_| {
        HostError::new(
            format_args!("cannot look at {name}"),
            "its answer makes no sense (EBADMSG)",
            "use one version of cgrove for both",
        )
    })
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

/// What is answered piece by piece.
fn whole(mut piece: impl FnMut(u64) -> Result<Vec<u8>, HostError>) -> Result<Vec<u8>, HostError> {
    let mut content = Vec::new();
    loop {
        let chunk = piece(content.len() as u64)?;
        content.extend_from_slice(&chunk);
        if chunk.len() < CHUNK {
            return Ok(content);
        }
    }
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
