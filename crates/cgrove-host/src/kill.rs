//! Killing a tree until nothing of it is left.
//!
//! A process found by a scan can be gone a moment later, and its pid can be somebody else's. So a
//! signal goes through a pidfd, and only after the process behind it proved to be the one that was
//! seen (same start time). A kill is finished when the reaper has no children left, and not
//! before: every process of the tree becomes the reaper's child at the latest when its parent
//! dies, so ECHILD from wait4 means that nothing is left. Each end of a child can bring orphans,
//! so the tree is scanned again after each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::report::{MAX_LISTED, Survivor};
use crate::scan::{Census, Scanner, Seen};
use crate::sys::{self, RawPid};

/// Kills everything below the calling process, round by round.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Killed, and not known to have ended; with the start time that names each for good.
    dying: HashMap<RawPid, Option<u64>>,
    /// Processes killed, except the command itself.
    killed: u64,
    listed: Vec<Survivor>,
    /// Rounds that found someone to kill.
    passes: u64,
}

impl Sweep {
    /// One pass over the tree: kills what has not been killed yet, and remembers all but
    /// `command` as survivors.
    pub fn round(&mut self, scanner: &mut Scanner, command: Option<RawPid>) {
        let census = scanner.glance();
        self.forget_the_gone(&census);
        let mut found = false;
        for seen in census.live_processes() {
            if self.dying.contains_key(&seen.tid) {
                continue;
            }
            if Some(seen.tid) != command && self.listed.len() < MAX_LISTED {
                let cmdline = scanner.proc.command_line(seen.tid);
                self.listed.push(Survivor { pid: seen.tid, cmdline });
            }
            if signal(scanner, seen, libc::SIGKILL).is_ok() {
                found = true;
                self.dying.insert(seen.tid, start(seen));
                self.killed += u64::from(Some(seen.tid) != command);
            } else {
                self.listed.pop_if(|last| last.pid == seen.tid);
            }
        }
        self.passes += u64::from(found);
    }

    /// The reaper backend's way to hold a task limit: kills the newest processes `among`
    /// all until `excess` tasks are gone. They are no survivors of the command. Returns how many it killed.
    pub fn newest(
        &mut self,
        scanner: &mut Scanner,
        census: &Census,
        excess: u64,
        among: impl Fn(RawPid) -> bool,
    ) -> u64 {
        self.forget_the_gone(census);
        let mut newest: Vec<&Seen> =
            census.live_processes().filter(|seen| among(seen.tid)).collect();
        newest.sort_by_key(|seen| std::cmp::Reverse((seen.stat.map(|stat| stat.start), seen.tid)));
        let (mut freed, mut killed) = (0, 0);
        for seen in newest {
            if freed >= excess {
                break;
            }
            if let Entry::Vacant(free) = self.dying.entry(seen.tid) {
                if signal(scanner, seen, libc::SIGKILL).is_err() {
                    continue;
                }
                free.insert(start(seen));
                killed += 1;
            }
            // Also the room that an earlier look has made already.
            freed += seen.stat.map_or(1, |stat| stat.threads.max(1));
        }
        killed
    }

    /// Those that a census does not show, or shows as somebody else.
    fn forget_the_gone(&mut self, census: &Census) {
        let still = |seen: &Seen, was: Option<u64>| !seen.zombie && start(seen) == was;
        self.dying.retain(|pid, was| census.get(*pid).is_some_and(|seen| still(seen, *was)));
    }

    /// A killed process was collected. Returns whether that was the last one in flight, so that
    /// another round is due.
    pub fn collected(&mut self, pid: RawPid) -> bool {
        self.dying.remove(&pid);
        self.dying.is_empty()
    }

    /// How many rounds found someone to kill.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// How many were killed, and the first of them.
    pub fn survivors(&self) -> (u64, &[Survivor]) {
        (self.killed, &self.listed)
    }
}

/// Kills one process, and never another that has its pid now.
pub(crate) fn one(scanner: &mut Scanner, pid: RawPid, start: u64) -> Result<(), Errno> {
    let stat = scanner.proc.stat(pid)?;
    if stat.start != start {
        return Err(Errno::ESRCH);
    }
    let seen = Seen { tid: pid, tgid: pid, zombie: false, spared: false, stat: Some(stat) };
    signal(scanner, &seen, libc::SIGKILL)
}

fn start(seen: &Seen) -> Option<u64> {
    seen.stat.map(|stat| stat.start)
}

/// Sends a signal to every live process of a census.
pub fn signal_all(scanner: &mut Scanner, census: &Census, number: i32) {
    for seen in census.live_processes() {
        // Whoever is gone needs no signal.
        let _ = signal(scanner, seen, number);
        if seen.stat.is_some_and(|stat| stat.state == b'T') {
            // A stopped process would not notice until it is continued.
            let _ = signal(scanner, seen, libc::SIGCONT);
        }
    }
}

/// Signals the process that was seen, and never another that has its pid now.
pub(crate) fn signal(scanner: &mut Scanner, seen: &Seen, number: i32) -> Result<(), Errno> {
    match sys::pidfd_open(seen.tid) {
        Ok(pidfd) => {
            if let Some(was) = seen.stat {
                let now = scanner.proc.stat(seen.tid)?;
                if now.start != was.start {
                    return Err(Errno::ESRCH);
                }
            }
            sys::pidfd_send_signal(pidfd.as_fd(), number)
        }
        Err(Errno::ESRCH) => Err(Errno::ESRCH),
        // No pidfds here, or no descriptor left. Better a signal by number than none.
        Err(_) if scanner.contains(seen.tid) => sys::kill(seen.tid, number),
        Err(errno) => Err(errno),
    }
}
