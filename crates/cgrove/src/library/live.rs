//! A live run's files, asked for at its door.

use cgrove_host::door::{self, CHUNK, Request};
use nix::errno::Errno;

use super::Error;
use crate::Snapshot;

/// `NAME/PATH` as the run's name and the path below its cgroup.
fn parts(path: &str) -> (&str, &str) {
    let path = path.trim_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

pub(super) fn ask(name: &str, request: &Request, what: &str) -> Result<Vec<u8>, Error> {
    let refused = |errno: Errno| {
        let why = errno.desc();
        Error::Refused(format!(
            "cannot {what} of {name}: {why} ({errno:?}); see `cgrove help files`"
        ))
    };
    door::ask(name, request)?.map_err(refused)
}

pub(super) fn get(path: &str, file: &str) -> Result<String, Error> {
    let (name, below) = parts(path);
    let content = whole(|offset| {
        let request = Request::Get { path: below.to_owned(), file: file.to_owned(), offset };
        ask(name, &request, &format!("read {file}"))
    })?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

pub(super) fn set(path: &str, file: &str, value: Vec<u8>) -> Result<(), Error> {
    let (name, below) = parts(path);
    let request = Request::Set { path: below.to_owned(), file: file.to_owned(), value };
    ask(name, &request, &format!("write {file}")).map(drop)
}

pub(super) fn freeze(path: &str, freeze: bool) -> Result<(), Error> {
    let (name, below) = parts(path);
    let what = if freeze { "freeze all" } else { "thaw all" };
    let answer = ask(name, &Request::Freeze { path: below.to_owned(), freeze }, what)?;
    if !freeze {
        return Ok(());
    }
    let frozen: cgrove_host::freezer::Frozen = serde_json::from_slice(&answer)
        .map_err(|error| Error::NoReport(format!("of the freeze: {error}")))?;
    match frozen.loose.first() {
        Some(loose) => Err(Error::Refused(format!("not all of {path} is frozen: {loose}"))),
        None if frozen.thawed => Err(Error::Refused(format!("{path} was thawed meanwhile"))),
        None => Ok(()),
    }
}

pub(super) fn snapshot(name: &str) -> Result<Snapshot, Error> {
    let text = whole(|offset| ask(name, &Request::Snapshot { offset }, "look at all"))?;
    serde_json::from_slice(&text).map_err(|error| Error::NoReport(format!("of {name}: {error}")))
}

fn whole(mut piece: impl FnMut(u64) -> Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    loop {
        let chunk = piece(content.len() as u64)?;
        content.extend_from_slice(&chunk);
        if chunk.len() < CHUNK {
            return Ok(content);
        }
    }
}
