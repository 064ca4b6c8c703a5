//! `--on-high`: a command of the user's that is run when a group goes over its `memory.high`.
//!
//! A process beside the run follows its events and starts the command, so that it is outside of the
//! group whose memory it is about, under none of that one's limits, and can act on it; of a run in a
//! run it is in the group around. Nobody waits for it. While one runs, and for a second after it was
//! started, no other is: a group that swings around its limit must not start a thousand of them. Its
//! output goes to standard error, for standard output may be the report's.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cgrove_host::error::HostError;
use cgrove_host::follow::Stream;
use cgrove_host::journal::{Happening, What};
use cgrove_host::{inherited, sys, title};

use crate::beside::{self, Beside, Side};
use crate::stream;

/// Between two of them.
const REST: Duration = Duration::from_secs(1);
/// It only has to see the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The front's handle on it.
pub struct Alarm(Beside);

impl Alarm {
    /// Starts it, for the run of this name. To be called while the process has one thread.
    pub fn start(command: &OsStr, run: &str) -> Result<Alarm, HostError> {
        match beside::fork().map_err(|errno| HostError::call("cannot set up --on-high", errno))? {
            Side::Front(beside) => Ok(Alarm(beside)),
            Side::Beside(socket) => {
                watch(socket, command, run);
                sys::exit_now(0)
            }
        }
    }

    /// No more alarms. One that runs is not waited for.
    pub fn end(self) {
        self.0.end(PATIENCE);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Its whole life.
fn watch(socket: OwnedFd, command: &OsStr, run: &str) {
    sys::set_name(c"cg-alarm");
    inherited::let_go(&[socket.as_fd(), stream::stderr()]);
    let _ = title::set(&format!("cg-alarm {run}"));
    let mut lines = Stream::new(socket);
    let mut last: Option<(Instant, Option<Child>)> = None;
    while let Ok(Some(line)) = lines.line() {
        let Ok(Happening { group, what, .. }) = serde_json::from_slice(line) else { continue };
        let What::MemoryHigh { usage_bytes, limit_bytes, .. } = what else { continue };
        let rests = last.as_mut().is_some_and(|(started, child)| {
            let runs = child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            runs || started.elapsed() < REST
        });
        if !rests {
            // Without a shell, or a process to be had, there is no alarm; the run goes on all the same.
            let child = ring(command, &group, usage_bytes, limit_bytes).ok();
            last = Some((Instant::now(), child));
        }
    }
}

fn ring(text: &OsStr, group: &str, usage: u64, limit: u64) -> std::io::Result<Child> {
    let output = || stream::stderr().try_clone_to_owned().map_or(Stdio::null(), Stdio::from);
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(text).stdin(Stdio::null()).stdout(output()).stderr(output());
    command.env("CGROVE_EVENT", "memory.high").env("CGROVE_GROUP", group);
    command.env("CGROVE_USAGE", usage.to_string()).env("CGROVE_LIMIT", limit.to_string());
    command.spawn()
}
