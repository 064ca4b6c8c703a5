//! Watching a run while it lasts: `--progress` and `--metrics`.
//!
//! Neither may ever cost the run anything, and both have to do with others that are slow: a
//! terminal that was stopped with Ctrl-S, clients that do not read, a supervisor that was stopped.
//! So they are a process beside the run (`beside.rs`). All it needs it asks for at the run's door, and
//! the door rests when it is asked too much. Whatever becomes of it, the run goes on.
//!
//! It ends with the front: a socket between them closes. Should the front be killed, it is still
//! there to put the terminal in order.

mod address;
mod asker;
mod figures;
mod line;
mod openmetrics;
mod server;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cgrove_host::error::HostError;
use cgrove_host::mutant::{self, Mutant};
use cgrove_host::sys;
use cgrove_host::{inherited, title};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use self::address::{Address, parse as parse_address};
use self::asker::Asker;
use self::figures::Meter;
use self::line::Line;
pub use self::openmetrics::text as openmetrics;
use self::server::Server;
use crate::beside::{self, Beside, Side};
use crate::cli::Run;
use crate::say;

/// Shorter runs show no progress.
const SHORT: Duration = Duration::from_secs(2);
/// Between two updates.
const UPDATE: Duration = Duration::from_secs(1);
/// How long the front waits for the watcher to put the terminal in order.
const PATIENCE: Duration = Duration::from_secs(1);

/// The front's handle on its watcher.
pub struct Watcher(Beside);

impl Watcher {
    /// Starts what the options ask for; `None` if that is nothing, or nobody would see it. To be
    /// called while the process has one thread.
    pub fn start(run: &Run) -> Result<Option<Watcher>, HostError> {
        let server = run.metrics.as_ref().map(|at| Server::open(at, &run.options.name));
        let server = server.transpose()?;
        let line = if run.progress { Line::find() } else { None };
        if server.is_none() && line.is_none() {
            return Ok(None);
        }
        if let Some(server) = server.as_ref().filter(|_| !run.quiet) {
            say::line(&format_args!("metrics at {}", server.shown()));
        }
        match beside::fork() {
            Ok(Side::Beside(theirs)) => watch(run, theirs, server, line),
            Ok(Side::Front(beside)) => Ok(Some(Watcher(beside))),
            Err(errno) => {
                server.iter().for_each(Server::close);
                Err(HostError::call("cannot set up --progress and --metrics", errno))
            }
        }
    }

    /// Ends it, and has the terminal back as it was.
    pub fn end(self) {
        self.0.end(PATIENCE);
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The watcher's whole life.
fn watch(run: &Run, front: OwnedFd, server: Option<Server>, line: Option<Line>) -> ! {
    let started = Instant::now();
    sys::set_name(c"cg-watch");
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::all(), flags);
    // The command's pipes end without us.
    if let Ok(signals) = signals {
        let mut kept = vec![front.as_fd(), signals.as_fd()];
        kept.extend(server.iter().flat_map(Server::fds));
        kept.extend(line.as_ref().map(AsFd::as_fd));
        inherited::let_go(&kept);
        let _ = title::set(&format!("cg-watch {}", run.options.name));
        let Ok(asker) = Asker::new(&run.options.name) else {
            server.iter().for_each(Server::close);
            sys::exit_now(0);
        };
        let progress = line.map(|line| {
            let due = started + SHORT;
            Progress { line, meter: Meter::default(), due, asked: false }
        });
        Watch { run, started, front, signals, asker, server, progress }.serve();
    }
    sys::exit_now(0)
}

struct Progress {
    line: Line,
    meter: Meter,
    /// The next update.
    due: Instant,
    /// It waits for an answer.
    asked: bool,
}

struct Watch<'a> {
    run: &'a Run,
    started: Instant,
    front: OwnedFd,
    signals: SignalFd,
    asker: Asker,
    server: Option<Server>,
    progress: Option<Progress>,
}

impl Watch<'_> {
    fn serve(mut self) {
        loop {
            let now = Instant::now();
            self.update(now);
            let due = self.progress.iter().map(|progress| progress.due);
            let due = due.chain(self.server.as_ref().and_then(Server::due)).min();
            let left = due.map_or(PollTimeout::NONE, |due| {
                let ms = due.saturating_duration_since(now).as_nanos().div_ceil(1_000_000);
                PollTimeout::try_from(ms.min(60_000)).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = vec![
                PollFd::new(self.front.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.asker.as_fd(), PollFlags::POLLIN),
            ];
            let own = fds.len();
            fds.extend(self.server.iter().flat_map(Server::waits_for));
            match poll(&mut fds, left) {
                Err(Errno::EINTR) => continue,
                Err(_) => break,
                Ok(_) => {}
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            drop(fds);
            if ready[0] && !mutant::is(Mutant::WatcherStays) {
                break;
            }
            if ready[1] {
                self.on_signals();
            }
            // Before anybody who was ready leaves.
            if let Some(server) = &mut self.server
                && server.serve(&ready[own..])
            {
                match self.asker.fresh() {
                    Some(answer) => server.answer(answer),
                    None => self.asker.ask(),
                }
            }
            if ready[2] {
                self.on_answer();
            }
        }
        if let Some(progress) = &mut self.progress {
            progress.line.put_away();
        }
        if let Some(server) = &self.server {
            server.close();
        }
    }

    /// Shows how far the run has come, once a second.
    fn update(&mut self, now: Instant) {
        let Some(progress) = self.progress.as_mut().filter(|progress| progress.due <= now) else {
            return;
        };
        progress.due = now + UPDATE;
        if !progress.line.may_show() {
            progress.line.make_way();
            return;
        }
        // Drawn when the answer is there; at the latest with the next update.
        if !progress.asked && self.asker.may_ask(now) {
            progress.asked = true;
            self.asker.ask();
        } else {
            self.draw();
        }
    }

    fn draw(&mut self) {
        let elapsed = self.started.elapsed();
        if let Some(progress) = &mut self.progress {
            progress.line.show(&progress.meter.items(elapsed, self.run.options.timeout));
        }
    }

    fn on_answer(&mut self) {
        let Some(answer) = self.asker.take() else { return };
        if let Some(server) = &mut self.server {
            server.answer(answer);
        }
        if let Some(progress) = &mut self.progress {
            progress.meter.read(answer.snapshot.as_ref().ok());
            if std::mem::take(&mut progress.asked) {
                self.draw();
            }
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Some(progress) = &mut self.progress else { continue };
            match i32::try_from(info.ssi_signo).unwrap_or(0) {
                // Whoever stops gives the terminal to a shell, which is to find it in order.
                libc::SIGTSTP => {
                    progress.line.put_away();
                    progress.due = Instant::now() + UPDATE;
                }
                libc::SIGWINCH if progress.line.is_shown() => progress.due = Instant::now(),
                _ => {}
            }
        }
    }
}
