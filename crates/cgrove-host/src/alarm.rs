//! `--on-high`: a command of the user's that is run when a group goes over its `memory.high`.
//!
//! The front runs it, as a child of its own and outside of the group: it is under no limit of the
//! run and can act on it. Nobody waits for it. While one runs, and for a second after it was started,
//! no other is: a group that swings around its limit must not start a thousand of them. Its output
//! goes to standard error, for standard output may be the report's.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys::{self, RawPid};

const REST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Alarm {
    command: Option<OsString>,
    last: Option<Instant>,
    running: Option<RawPid>,
}

impl Alarm {
    pub(crate) fn new(command: Option<&OsStr>) -> Alarm {
        Alarm { command: command.map(OsStr::to_owned), last: None, running: None }
    }

    /// A group went over.
    pub(crate) fn over_high(&mut self, group: &str, usage: u64, limit: u64) {
        let Some(text) = &self.command else { return };
        if self.running.is_some() || self.last.is_some_and(|last| last.elapsed() < REST) {
            return;
        }
        let [_, _, stderr] = sys::standard_streams();
        let output = |()| stderr.as_fd().try_clone_to_owned().map_or(Stdio::null(), Stdio::from);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(text).stdin(Stdio::null());
        command.stdout(output(())).stderr(output(()));
        command.env("CGROVE_EVENT", "memory.high").env("CGROVE_GROUP", group);
        command.env("CGROVE_USAGE", usage.to_string()).env("CGROVE_LIMIT", limit.to_string());
        self.last = Some(Instant::now());
        // Without a shell, or a process to be had, there is no alarm; the run goes on all the same.
        if let Ok(child) = command.spawn() {
            self.running = RawPid::try_from(child.id()).ok();
        }
    }

    /// Whether a child that ended was one of these.
    pub(crate) fn ended(&mut self, pid: RawPid) -> bool {
        if self.running == Some(pid) {
            self.running = None;
            return true;
        }
        false
    }
}
