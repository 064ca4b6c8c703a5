//! A run under way.
//!
//! A host may ignore SIGCHLD or collect every child in a handler of its own. So the end of a run is
//! known by a pidfd, not by `waitpid`, whose answer may have gone elsewhere; how it ended is in the
//! report, and the child is collected only if nobody else has done that.

use std::future::Future;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use cgrove_host::FAILED;
use cgrove_host::{live, sys};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::events::Prepared;
use super::{Error, Events};
use crate::Report;

/// A run under way. Dropping it kills the whole tree; see [`Running::detach`].
///
/// As a descriptor ([`AsFd`]) it is readable once the run is over, so any event loop can wait.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Readable once it is over.
    over: Arc<OwnedFd>,
    /// The run's name, and the path of its cgroup below that.
    name: String,
    report: Option<NamedTempFile>,
    events: Option<Events>,
    kill_on_drop: bool,
}

/// What a command wrote, and its report.
#[derive(Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended, and what it used.
    pub report: Report,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Running {
    pub(super) fn start(
        mut command: std::process::Command,
        name: impl FnOnce(u32) -> String,
        report: NamedTempFile,
        events: Option<Prepared>,
    ) -> Result<Running, Error> {
        let mut child = command.spawn().map_err(Error::io("cannot start cgrove"))?;
        let opened = match sys::pidfd_open(child.id().cast_signed()) {
            // It is over, and was collected by somebody else: something that is always readable.
            Err(Errno::ESRCH) => EventFd::from_value(1).map(OwnedFd::from),
            other => other,
        };
        match opened {
            Ok(over) => {
                let name = name(child.id());
                let over = Arc::new(over);
                let mut running = Running {
                    child,
                    over,
                    name,
                    report: Some(report),
                    events: None,
                    kill_on_drop: true,
                };
                // Should that fail, the run is dropped, and so ended.
                running.events = events.map(|events| events.of(&running.over)).transpose()?;
                Ok(running)
            }
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::Io { what: "cannot watch cgrove", source: errno.into() })
            }
        }
    }

    /// The pid of the process that stands for the run; signals sent to it reach the command.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The command's standard input, if it was piped; taken once.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The command's standard output, if it was piped; taken once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// The command's standard error, if it was piped; taken once.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// What happens in the run, from its first event on, if it was [asked
    /// for](crate::Command::events); taken once.
    pub fn events(&mut self) -> Option<Events> {
        self.events.take()
    }

    /// Sends a signal to the command.
    ///
    /// # Errors
    /// [`Error::Io`]: ESRCH if it is over, EINVAL for a number that is no signal.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        send(&self.over, signal)
            .map_err(|errno| Error::Io { what: "cannot send a signal", source: errno.into() })
    }

    /// Kills the whole tree, at once (`cgroup.kill`). [`Running::wait`] has the report.
    ///
    /// # Errors
    /// As [`Running::signal`].
    pub fn kill(&self) -> Result<(), Error> {
        let written = live::set(&self.name, "cgroup.kill", b"1".to_vec());
        // Whoever has no door, or not yet, is killed with its supervisor; the report is lost.
        written.or_else(|_| self.signal(Signal::SIGKILL as i32))
    }

    /// The run's name and the path of its cgroup, as `cgrove tree` has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the run is over, which [`Running::wait`] then tells without waiting.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over_within(Duration::ZERO)
    }

    /// Waits for the end of the run, its whole tree.
    ///
    /// # Errors
    /// [`Error::Refused`]: cgrove itself could not run it; [`Error::NoReport`]: cgrove was killed.
    pub fn wait(mut self) -> Result<Report, Error> {
        self.over_within(Duration::MAX);
        self.conclude(Vec::new())
    }

    /// Waits for the end of the run, at most so long. `None`: it goes on.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub fn wait_timeout(&mut self, time: Duration) -> Option<Result<Report, Error>> {
        self.over_within(time).then(|| self.conclude(Vec::new()))
    }

    /// A future for any executor: a thread waits, and wakes it.
    pub fn wait_async(self) -> impl Future<Output = Result<Report, Error>> + Send {
        let over = Arc::clone(&self.over);
        Waiting { running: Some(self), over, done: false, shared: Arc::default() }
    }

    /// Waits for the end of the run and collects what it wrote to pipes.
    ///
    /// # Errors
    /// As [`Running::wait`], and if a pipe cannot be read.
    pub fn output(mut self) -> Result<Output, Error> {
        drop(self.stdin());
        let (out, err) = (self.stdout(), self.stderr());
        let failed = || Error::io("cannot read what the command wrote");
        // Both at once: a command that fills one must not wait for the other to be read.
        let reader = thread::Builder::new()
            .name("cgrove-stderr".to_owned())
            .spawn(move || all_of(err))
            .map_err(Error::io("cannot start a thread"))?;
        let stdout = all_of(out).map_err(failed())?;
        let stderr = reader.join().unwrap_or_else(|_| Ok(Vec::new())).map_err(failed())?;
        self.over_within(Duration::MAX);
        let report = self.conclude(stderr.clone())?;
        Ok(Output { report, stdout, stderr })
    }

    /// Lets the run go on without this handle. Its report is lost. It ends with this process all the
    /// same, unless it [outlives](crate::Command::outlives_caller) it.
    pub fn detach(mut self) {
        self.kill_on_drop = false;
    }

    fn over_within(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // Rounded up: to wake before the time is to wake once more for nothing.
            let ms = left.map_or(-1, |left| left.as_micros().div_ceil(1000).min(1 << 30) as i32);
            let mut fds = [PollFd::new(self.over.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::try_from(ms).unwrap_or(PollTimeout::NONE)) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return false,
                Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => {
                    if until.is_some_and(|until| until <= Instant::now()) {
                        return false;
                    }
                }
                // It cannot be waited for: nothing is known, and nothing is claimed.
                Err(_) => return false,
                Ok(_) => return true,
            }
        }
    }

    /// The report of a run that is over. `said`: on standard error, as far as it is known.
    fn conclude(&mut self, said: Vec<u8>) -> Result<Report, Error> {
        self.kill_on_drop = false;
        // Collected here, unless somebody else was faster.
        let status = self.child.wait().ok().and_then(|status| status.code());
        let text = match &mut self.report {
            Some(file) => {
                let mut text = Vec::new();
                let read = file.reopen().and_then(|mut file| file.read_to_end(&mut text));
                read.map_err(Error::io("cannot read the report"))?;
                text
            }
            None => Vec::new(),
        };
        if let Ok(report) = serde_json::from_slice(&text) {
            return Ok(report);
        }
        let mut said = said;
        if let Some(mut stderr) = self.stderr() {
            // The end of the pipe may be held by what was detached: only what is there.
            let _ = said_last(&mut stderr, &mut said);
        }
        let text = String::from_utf8_lossy(&said);
        let line = text.lines().rev().find_map(|line| line.strip_prefix("cgrove: "));
        match (line, status) {
            (Some(line), Some(FAILED)) => Err(Error::Refused(line.to_owned())),
            (line, status) => Err(Error::NoReport(match (line, status) {
                (Some(line), _) => line.to_owned(),
                (None, Some(status)) => {
                    format!("it exited {status}, and what it said went to standard error")
                }
                (None, None) => "it was killed".to_owned(),
            })),
        }
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.over.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.kill_on_drop {
            // The front's death is the tree's: its supervisor kills everything.
            let _ = send(&self.over, Signal::SIGKILL as i32);
            let _ = self.child.wait();
        }
    }
}

fn all_of(from: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What a pipe holds now, without waiting for more.
fn said_last(from: &mut ChildStderr, to: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = [0; 4096];
    loop {
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 {
            return Ok(());
        }
        match from.read(&mut piece)? {
            0 => return Ok(()),
            got => to.extend_from_slice(&piece[..got]),
        }
    }
}

fn send(over: &OwnedFd, signal: i32) -> Result<(), Errno> {
    match sys::pidfd_send_signal(over.as_fd(), signal) {
        // No pidfd: it was over from the start.
        Err(Errno::EBADF) => Err(Errno::ESRCH),
        other => other,
    }
}

/// A run that is waited for by a thread of its own. Dropped before it is done, it kills the tree, as
/// the handle would.
struct Waiting {
    running: Option<Running>,
    over: Arc<OwnedFd>,
    done: bool,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    result: Option<Result<Report, Error>>,
    waker: Option<Waker>,
}

impl Future for Waiting {
    type Output = Result<Report, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(running) = self.running.take() {
            let shared = Arc::clone(&self.shared);
            let waits = thread::Builder::new().name("cgrove-wait".to_owned());
            let started = waits.spawn(move || {
                let result = running.wait();
                let waker = {
                    let Ok(mut shared) = shared.lock() else { return };
                    shared.result = Some(result);
                    shared.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            });
            if let Err(source) = started {
                return Poll::Ready(Err(Error::Io { what: "cannot start a thread", source }));
            }
        }
        let Ok(mut shared) = self.shared.lock() else {
            return Poll::Ready(Err(Error::NoReport("its thread panicked".to_owned())));
        };
        let result = shared.result.take();
        if result.is_none() {
            shared.waker = Some(context.waker().clone());
        }
        drop(shared);
        match result {
            Some(result) => {
                self.done = true;
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done && self.running.is_none() {
            // The thread sees the end, and collects it.
            let _ = send(&self.over, Signal::SIGKILL as i32);
        }
    }
}
