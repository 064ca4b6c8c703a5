//! Asking a run how it is, without waiting for the answer.
//!
//! [`live::snapshot`] waits, for seconds if the supervisor was stopped. A thread does that, and who
//! asked goes on. An answer costs the supervisor a look at the whole tree, so the next question
//! keeps a distance that grows with what the last one took.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use cgrove_host::error::HostError;
use cgrove_host::snapshot::Snapshot;
use cgrove_host::wire;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::live;

/// Between two questions that nobody waits for: so many times what an answer takes.
const IDLE_SHARE: u32 = 100;
/// Between two that somebody waits for …
const SHARE: u32 = 10;
/// … and at least this.
const DISTANCE: Duration = Duration::from_millis(100);

/// What a run answered.
pub struct Answer {
    /// Or why there is none.
    pub snapshot: Result<Snapshot, String>,
    took: Duration,
    came: Instant,
}

pub struct Asker {
    ask: SyncSender<()>,
    answers: Receiver<Answer>,
    /// A byte comes with every answer.
    bell: OwnedFd,
    busy: bool,
    last: Option<Answer>,
}

impl Asker {
    pub fn new(name: &str) -> io::Result<Asker> {
        let (ask, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let (bell, rope) = wire::pair()?;
        let name = name.to_owned();
        std::thread::Builder::new().name("cg-asker".to_owned()).spawn(move || {
            while asked.recv().is_ok() {
                let begun = Instant::now();
                let snapshot = look(&name).map_err(|error| error.to_string());
                let came = Instant::now();
                let told = answer.send(Answer { snapshot, took: came - begun, came });
                if told.is_err() || send(rope.as_raw_fd(), b"!", MsgFlags::MSG_NOSIGNAL).is_err() {
                    return;
                }
            }
        })?;
        Ok(Asker { ask, answers, bell, busy: false, last: None })
    }

    /// Asks, unless that is under way.
    pub fn ask(&mut self) {
        self.busy = self.busy || self.ask.try_send(()).is_ok();
    }

    /// Whether the last answer was cheap enough to ask again without need.
    pub fn may_ask(&self, now: Instant) -> bool {
        !self.busy && self.last.as_ref().is_none_or(|it| now >= it.came + it.took * IDLE_SHARE)
    }

    /// The last answer, if it is too early to ask again.
    pub fn fresh(&self) -> Option<&Answer> {
        let last = self.last.as_ref().filter(|_| !self.busy)?;
        (last.came.elapsed() < DISTANCE.max(last.took * SHARE)).then_some(last)
    }

    /// An answer that has come.
    pub fn take(&mut self) -> Option<&Answer> {
        let _ = recv(self.bell.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
        self.last = Some(self.answers.try_recv().ok()?);
        self.busy = false;
        self.last.as_ref()
    }
}

/// The run of this name; inside another run, the group of this name there, which has no door of its
/// own.
fn look(name: &str) -> Result<Snapshot, HostError> {
    live::snapshot(name).or_else(|error| {
        let around = std::env::var("CGROVE").map_err(|_| error.clone())?;
        let (run, below) = around.split_once('/').unwrap_or((&around, ""));
        let slash = if below.is_empty() { "" } else { "/" };
        narrowed(live::snapshot(run)?, &format!("{below}{slash}{name}")).ok_or(error)
    })
}

/// Only the group at `path` and those below it.
fn narrowed(mut snapshot: Snapshot, path: &str) -> Option<Snapshot> {
    let below = format!("{path}/");
    snapshot.groups.retain(|group| group.path == path || group.path.starts_with(&below));
    (!snapshot.groups.is_empty()).then_some(snapshot)
}

/// To wait on.
impl AsFd for Asker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::figures::tests::snapshot;

    #[test]
    fn a_group_in_a_run_is_told_of_with_its_own() {
        let mut run = snapshot(1, &[("pids.current", "3")]);
        for path in ["a", "a/b", "ab", "a/b/c", "d"] {
            let mut group = run.groups[0].clone();
            group.path = path.to_owned();
            run.groups.push(group);
        }
        let paths = |path| {
            let found = narrowed(run.clone(), path)?.groups;
            Some(found.into_iter().map(|group| group.path).collect::<Vec<_>>())
        };
        assert_eq!(paths("a").unwrap(), ["a", "a/b", "a/b/c"]);
        assert_eq!(paths("a/b").unwrap(), ["a/b", "a/b/c"]);
        assert_eq!(paths("e"), None);
    }
}
