//! What happens in a run, told as it happens: one line of JSON each, to whoever follows.
//!
//! **Problem.** The supervisor answers forks; it may wait for nobody. Whoever follows may be slow, be
//! stopped, or never read at all.
//!
//! **Mechanism.** A follower is a socket of packets, each one line, which is written to without
//! waiting. What finds no room is dropped and counted, and the count is told, as `lost`, before the
//! next line that finds some. Room for the last words is set aside, so that `lost` and `ended` reach
//! also those who were far behind. What comes often, such as a refused fork of a bomb, is told at
//! most ten times a second for each group, with how often it was: a follower costs little even then.

mod what;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};

use crate::mutant::{self, Mutant};
use crate::report::nanos;

pub use self::what::{Happening, VERSION, What};
pub(crate) use self::what::{cut, cut_text};

/// Between two lines of one kind that comes often, for one group.
const SPACING: Duration = Duration::from_millis(100);
/// The most followers of a run.
const MAX_FOLLOWERS: usize = 64;
/// What a follower may have waiting unread, in bytes as SO_SNDBUF counts (socket(7)), and how much
/// more for the last words.
const ROOM: usize = 64 * 1024;
const LAST_ROOM: usize = 32 * 1024;
/// What of one kind, for one group, was told last, and what has come since.
#[derive(Debug)]
struct Often {
    told: Instant,
    since: Option<What>,
}

/// Everybody who follows a run.
#[derive(Debug)]
pub(crate) struct Journal {
    started: Instant,
    followers: Vec<Follower>,
    often: HashMap<(String, &'static str), Often>,
}

#[derive(Debug)]
struct Follower {
    socket: OwnedFd,
    /// The cgroup that is followed, and those below.
    at: String,
    lost: u64,
}

impl Journal {
    pub(crate) fn new(started: Instant) -> Journal {
        Journal { started, followers: Vec::new(), often: HashMap::new() }
    }

    /// From now on this socket of packets is told what happens at `at` and below. EAGAIN: so many
    /// follow already.
    pub(crate) fn add(&mut self, socket: OwnedFd, at: String) -> Result<(), Errno> {
        if self.followers.len() >= MAX_FOLLOWERS {
            return Err(Errno::EAGAIN);
        }
        // The kernel counts twice what it is told (socket(7)); refused, it is as it was.
        let _ = setsockopt(&socket, sockopt::SndBuf, &ROOM);
        self.followers.push(Follower { socket, at, lost: 0 });
        Ok(())
    }

    /// Whether there is anybody to tell.
    pub(crate) fn is_followed(&self) -> bool {
        !self.followers.is_empty()
    }

    /// Something happened.
    pub(crate) fn tell(&mut self, group: &str, mut what: What) {
        if !self.is_followed() {
            return;
        }
        if what.count().is_some() {
            let now = Instant::now();
            let key = (group.to_owned(), what.kind());
            if let Some(often) = self.often.get_mut(&key)
                && (often.since.is_some() || now < often.told + SPACING)
            {
                let before = often.since.as_mut().and_then(|it| it.count().map(|count| *count));
                if let Some(count) = what.count() {
                    *count += before.unwrap_or(0);
                }
                often.since = Some(what);
                return;
            }
            self.often.insert(key, Often { told: now, since: None });
        } else {
            // What came before is told before.
            self.tell_waiting(|_| true);
        }
        let last = matches!(what, What::Ended { .. } | What::GroupRemoved);
        self.send(group, what, last);
        if last {
            self.often.retain(|(of, _), _| of != group);
        }
    }

    /// When something is to be told that has come too often.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.often.values().filter(|often| often.since.is_some());
        waiting.map(|often| often.told + SPACING).min()
    }

    /// Tells it.
    pub(crate) fn on_time(&mut self) {
        let now = Instant::now();
        self.tell_waiting(|often| often.told + SPACING <= now);
    }

    fn tell_waiting(&mut self, which: impl Fn(&Often) -> bool) {
        let now = Instant::now();
        let mut due = Vec::new();
        for ((group, _), often) in &mut self.often {
            if often.since.is_some() && which(often) {
                due.extend(often.since.take().map(|what| (group.clone(), what)));
                often.told = now;
            }
        }
        due.into_iter().for_each(|(group, what)| self.send(&group, what, false));
    }

    /// The group is gone, and with it who follows it.
    pub(crate) fn end(&mut self, group: &str) {
        self.followers.retain(|follower| follower.at != group);
    }

    fn send(&mut self, group: &str, what: What, last: bool) {
        let at_ms = nanos(self.started.elapsed()) / 1_000_000;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let line = |group: &str, what: What| {
            let group = group.to_owned();
            let it = Happening { version: VERSION, at_ms, time_ms, group, what };
            let mut line = serde_json::to_vec(&it).unwrap_or_default();
            line.push(b'\n');
            line
        };
        let told = line(group, what);
        self.followers.retain_mut(|follower| {
            if !is_within(group, &follower.at) {
                return true;
            }
            if last && follower.at == group {
                let _ = setsockopt(&follower.socket, sockopt::SndBuf, &(ROOM + LAST_ROOM));
            }
            follower.take(&told, |at, what| line(at, what))
        });
    }
}

impl Follower {
    /// Sends a line, or counts it as lost. Whether the other side is there.
    fn take(&mut self, told: &[u8], line: impl Fn(&str, What) -> Vec<u8>) -> bool {
        if self.lost > 0 {
            match self.send(&line(&self.at, What::Lost { count: self.lost })) {
                Ok(true) => self.lost = 0,
                Ok(false) => {
                    self.lost += 1;
                    return true;
                }
                Err(_) => return false,
            }
        }
        match self.send(told) {
            Ok(sent) => {
                self.lost += u64::from(!sent);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether there was room.
    fn send(&self, line: &[u8]) -> Result<bool, Errno> {
        let waits = mutant::is(Mutant::FollowersAwaited);
        let room = if waits { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
        let flags = room | MsgFlags::MSG_NOSIGNAL;
        loop {
            match send(self.socket.as_raw_fd(), line, flags) {
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn is_within(group: &str, top: &str) -> bool {
    group.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::wire;

    fn followed() -> (Journal, OwnedFd) {
        let mut journal = Journal::new(Instant::now());
        let (ours, theirs) = wire::pair().unwrap();
        journal.add(ours, "/a".to_owned()).unwrap();
        (journal, theirs)
    }

    fn next(from: &OwnedFd) -> Option<What> {
        let mut buf = vec![0; 1 << 16];
        let (len, _) = wire::take(from.as_fd(), &mut buf).unwrap();
        (len > 0).then(|| serde_json::from_slice::<Happening>(&buf[..len]).unwrap().what)
    }

    #[test]
    fn who_never_reads_is_told_how_much_was_lost_and_how_it_ended() {
        let (mut journal, theirs) = followed();
        let set = |n: u32| What::Set { file: "pids.max".to_owned(), value: n.to_string() };
        const ALL: u32 = 10_000;
        (0..ALL).for_each(|n| journal.tell("/a/b", set(n)));
        journal.tell("/a", What::Ended { code: Some(3), signal: None });
        drop(journal);
        let mut got = Vec::new();
        while let Some(what) = next(&theirs) {
            got.push(what);
        }
        let [first @ .., lost, last] = &got[..] else { panic!("{got:?}") };
        assert!(first.iter().zip(0..).all(|(what, n)| *what == set(n)), "{got:?}");
        assert!(first.len() > 50, "{}", first.len());
        assert_eq!(*lost, What::Lost { count: u64::from(ALL) - first.len() as u64 });
        assert_eq!(*last, What::Ended { code: Some(3), signal: None });
    }

    #[test]
    fn what_comes_often_is_counted() {
        let (mut journal, theirs) = followed();
        (0..1000).for_each(|_| journal.tell("/a", What::PidsMax { count: 1 }));
        assert!(journal.due().is_some());
        journal.tell("/a", What::Kill);
        drop(journal);
        let mut told = 0;
        let mut lines = 0;
        while let Some(what) = next(&theirs) {
            match what {
                What::PidsMax { count } => (told, lines) = (told + count, lines + 1),
                other => assert_eq!((other, told), (What::Kill, 1000)),
            }
        }
        assert!((2..100).contains(&lines), "{lines}");
    }

    #[test]
    fn others_are_not_told_and_who_is_gone_is_forgotten() {
        let (mut journal, theirs) = followed();
        for group in ["/ab", "/", "/b/a"] {
            journal.tell(group, What::Freeze);
        }
        journal.tell("/a", What::Thaw);
        assert_eq!(next(&theirs), Some(What::Thaw));
        drop(theirs);
        journal.tell("/a", What::Thaw);
        assert!(!journal.is_followed());
    }
}
