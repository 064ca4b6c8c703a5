//! The front: the process that the user started.
//!
//! It stays in the caller's process group and does what the caller expects of the command it
//! typed: takes its signals and passes them on, stops and continues with it, keeps the terminal in
//! order and returns its status. The work is done by the supervisor, a fork of it. Should the
//! supervisor be killed, its whole tree becomes the front's (which is a subreaper for that reason),
//! and the front kills it.
//!
//! Signals are blocked here for good and read from a descriptor, so that their sender is known:
//! what the terminal sends to the foreground group reaches the command without our help.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{getpgrp, getpid};

use crate::conclude;
use crate::door::{self, outer};
use crate::error::HostError;
use crate::exec;
use crate::follow;
use crate::inherited;
use crate::keeper;
use crate::kernel;
use crate::kill::Sweep;
use crate::launch::{self, Caller, Handed, Launch};
use crate::mutant::{self, Mutant};
use crate::nested::{self, Asker, Begun, Hold, Reaper, TERMINAL};
use crate::options::{BackendChoice, RunOptions};
use crate::report::{Backend, Report, nanos};
use crate::scan::{Identity, Scanner};
use crate::shell::{Shell, Terminal};
use crate::supervisor::supervise;
use crate::sys::{self, CpuTime, Fate, ForkSide, RawPid, WaitFor, Waited};
use crate::wire::{self, ToFront, ToSupervisor};

/// While cleaning up after a supervisor, look again at least this often.
const KILL_AGAIN: u8 = 50;

/// Runs the command to its end and reports. The calling process must be single-threaded; its
/// signals stay blocked afterwards. Of its descriptors only those `in_use` are left: the others are
/// the command's, and closed here (a standard stream leads to `/dev/null` then). What happens is told
/// to `followers`, sockets of packets; they may bring another one, to be read on from there.
pub fn run(
    options: &RunOptions,
    followers: &[BorrowedFd<'_>],
    in_use: &[BorrowedFd<'_>],
) -> Result<Report, HostError> {
    let started = Instant::now();
    let setup = |e| HostError::call("cannot set up the run", e);
    if !mutant::is(Mutant::NoSecondReaper) {
        sys::become_subreaper().map_err(setup)?;
    }
    let caller = Caller {
        front: getpid(),
        group: getpgrp(),
        mask: sys::block_all_signals().map_err(setup)?,
        sigchld_ignored: sys::signal_is_ignored(libc::SIGCHLD),
        handed: Handed::open(options, followers)?,
    };
    if caller.sigchld_ignored {
        // With SIG_IGN nobody could be waited for.
        sys::set_signal_ignored(libc::SIGCHLD, false);
    }
    let terminal = Terminal::held_by(caller.group);
    let kin = children_so_far();
    if options.backend != BackendChoice::Only(Backend::Reaper)
        && let Some(outer) = outer::find()
    {
        return run_inside(&outer, options, &caller, terminal, kin, in_use, started);
    }
    let (ours, theirs) = wire::pair().map_err(setup)?;
    let supervisor = match sys::fork().map_err(|e| HostError::call("cannot fork", e))? {
        ForkSide::Child => {
            drop(ours);
            supervise(options, &caller, theirs, started)
        }
        ForkSide::Parent(pid) => pid,
    };
    drop(theirs);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    // On failure the socket closes, which ends the supervisor and its tree.
    let signals = SignalFd::with_flags(&SigSet::all(), flags).map_err(setup)?;
    let mut front = Front {
        socket: ours,
        signals,
        supervisor: Some(supervisor),
        report: Vec::new(),
        outcome: None,
        cpu: CpuTime::default(),
        shell: Shell::new(supervisor),
        kin,
    };
    let mut kept = vec![front.socket.as_fd(), front.signals.as_fd()];
    kept.extend(caller.handed.fds());
    kept.extend(terminal.as_ref().map(|terminal| terminal.stream));
    kept.extend_from_slice(in_use);
    inherited::let_go(&kept);
    front.serve();
    let result = front.conclude(options, started);
    if let Some(terminal) = terminal {
        terminal.give_back();
    }
    result
}

/// The same as a group of the run around.
fn run_inside(
    outer: &str,
    options: &RunOptions,
    caller: &Caller,
    terminal: Option<Terminal>,
    kin: Vec<Identity>,
    in_use: &[BorrowedFd<'_>],
    started: Instant,
) -> Result<Report, HostError> {
    let argv = launch::argv(&options.command)?;
    let hold = Hold::enter(outer, options)?;
    if let Some(error) = nested::check(options, &hold.entered, caller) {
        return Err(error);
    }
    for follower in &caller.handed.followers {
        follow::redirect(follower.as_fd(), &hold.entered.full)?;
    }
    let environment = launch::environment(&hold.entered.full);
    let cpus = hold.entered.cpus.clone();
    let launch = Launch {
        environment: &environment,
        argv: &argv,
        caller,
        // The run around has one already.
        gate: None,
        trace: None,
        ask_or_nothing: false,
        held: options.set.iter().any(|(file, _)| file == "cgroup.freeze"),
        gatekeeper: None,
        own_session: false,
        cpus: cpus.as_deref(),
        // The command is born where this process is.
        cgroup: None,
    };
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::all(), flags)
        .map_err(|e| HostError::call("cannot set up the run", e))?;
    let shell = Asker::Shell(Shell::new(0));
    let begun = Begun { asker: shell, signals, kin, started };
    let reaper = Reaper::start(hold, options, caller, &launch, begun)?;
    let mut kept = reaper.fds();
    kept.extend(terminal.as_ref().map(|terminal| terminal.stream));
    kept.extend_from_slice(in_use);
    inherited::let_go(&kept);
    let report = reaper.run();
    if let Some(terminal) = terminal {
        terminal.give_back();
    }
    Ok(report)
}

/// Runs a command in a group of another run, as [`run`] does in one of its own. `closed`: which
/// standard streams were.
pub fn exec(
    path: &str,
    options: &RunOptions,
    closed: [bool; 3],
    followers: &[BorrowedFd<'_>],
    in_use: &[BorrowedFd<'_>],
) -> Result<Report, HostError> {
    let started = Instant::now();
    let setup = |e| HostError::call("cannot set up the run", e);
    let caller = Caller {
        front: getpid(),
        group: getpgrp(),
        mask: sys::block_all_signals().map_err(setup)?,
        sigchld_ignored: sys::signal_is_ignored(libc::SIGCHLD),
        handed: Handed::open(options, followers)?,
    };
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::all(), flags).map_err(setup)?;
    let (entered, socket) = exec::ask(path, options, &caller, closed)?;
    let mut front = Front {
        socket,
        signals,
        supervisor: None,
        report: Vec::new(),
        outcome: None,
        cpu: CpuTime::default(),
        shell: Shell::apart(),
        kin: Vec::new(),
    };
    let mut kept = vec![front.socket.as_fd(), front.signals.as_fd()];
    kept.extend(caller.handed.fds());
    kept.extend_from_slice(in_use);
    inherited::let_go(&kept);
    front.serve();
    if matches!(front.outcome, Some(Outcome::SupervisorGone)) {
        // Its reaper was killed. If the supervisor lives it is killing the group: not before that is
        // done is the command over.
        let _ = keeper::remove(&entered.full, true);
    }
    front.conclude(options, started)
}

/// The children that this process has already: `sh -c 'helper & exec cgrove run …'`.
fn children_so_far() -> Vec<Identity> {
    let any = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if waitid(Id::All, any) == Err(Errno::ECHILD) || mutant::is(Mutant::KinKilled) {
        return Vec::new();
    }
    Scanner::open(getpid().as_raw()).map(|mut scanner| scanner.children()).unwrap_or_default()
}

/// How the conversation with the supervisor ended.
enum Outcome {
    Report,
    Failed(String),
    SupervisorGone,
}

struct Front {
    socket: OwnedFd,
    signals: SignalFd,
    /// The child that holds the tree; in `exec` it is no child of ours.
    supervisor: Option<RawPid>,
    report: Vec<u8>,
    outcome: Option<Outcome>,
    cpu: CpuTime,
    shell: Shell,
    /// Children of this process from before it was cgrove.
    kin: Vec<Identity>,
}

impl Front {
    fn serve(&mut self) {
        while self.outcome.is_none() {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
                && errno != Errno::EINTR
            {
                self.outcome = Some(Outcome::Failed(errno.desc().to_owned()));
                return;
            }
            let [socket, signals] = fds.map(|fd| fd.any().unwrap_or(false));
            // Signals first: one that came before the end still belongs to the command.
            if signals {
                self.on_signals();
            }
            if socket {
                self.on_message();
            }
        }
    }

    fn on_message(&mut self) {
        match ToFront::receive(self.socket.as_fd()) {
            Ok(Some(ToFront::Stopped { signal, command })) => {
                if !self.shell.stop(signal, command) {
                    let go_on = ToSupervisor::Signal { signal: libc::SIGCONT, sender: 0 };
                    let _ = go_on.send(self.socket.as_fd());
                }
            }
            Ok(Some(ToFront::Report(chunk))) => self.report.extend_from_slice(&chunk),
            Ok(Some(ToFront::Done)) => self.outcome = Some(Outcome::Report),
            Ok(Some(ToFront::Failed(text))) => self.outcome = Some(Outcome::Failed(text)),
            Ok(None) | Err(_) => self.outcome = Some(Outcome::SupervisorGone),
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).unwrap_or(0) {
                libc::SIGCHLD => self.on_child(),
                signal if self.shell.concerns_command(signal, &info) => self.forward(signal, &info),
                _ => {}
            }
        }
    }

    fn forward(&self, signal: i32, info: &siginfo) {
        let sender = if self.shell.is_the_terminals(info) {
            TERMINAL
        } else {
            RawPid::try_from(info.ssi_pid).unwrap_or(0)
        };
        // A supervisor that is gone is noticed on the socket.
        let _ = ToSupervisor::Signal { signal, sender }.send(self.socket.as_fd());
    }

    /// The supervisor is never to stay stopped, whoever stopped it.
    fn on_child(&mut self) {
        let Some(supervisor) = self.supervisor else { return };
        while let Ok(Some(waited)) = sys::wait_child(WaitFor::Changes) {
            match waited.fate {
                Fate::Stopped(_)
                    if waited.pid == supervisor && !mutant::is(Mutant::StaysStopped) =>
                {
                    let _ = sys::kill(supervisor, libc::SIGCONT);
                }
                Fate::Exited(_) | Fate::Signaled(_) => self.collected(&waited),
                _ => {}
            }
        }
    }

    fn collected(&mut self, waited: &Waited) {
        self.cpu = self.cpu.plus(waited.cpu);
    }

    fn conclude(mut self, options: &RunOptions, started: Instant) -> Result<Report, HostError> {
        match self.outcome.take() {
            Some(Outcome::Report) => {
                self.dismiss();
                serde_json::from_slice(&self.report).map_err(|e| {
                    HostError::new("the report got lost", e.to_string(), "please report this bug")
                })
            }
            Some(Outcome::Failed(text)) => {
                self.dismiss();
                Err(HostError::passed_on(&text))
            }
            Some(Outcome::SupervisorGone) | None => Ok(self.clean_up(options, started)),
        }
    }

    /// Collects a supervisor that has had its last word: its tree is gone, and it may be stopped.
    fn dismiss(&self) {
        if let Some(supervisor) = self.supervisor {
            let _ = sys::kill(supervisor, libc::SIGKILL);
            let _ = sys::wait_for_end(supervisor);
        }
    }

    /// The supervisor was killed: everything below it is now below us. Kill it all, except the
    /// children that this process had before it became cgrove.
    fn clean_up(&mut self, options: &RunOptions, started: Instant) -> Report {
        let mut sweep = Sweep::default();
        let Some(supervisor) = self.supervisor else {
            // Its reaper is not ours, and what it held is its supervisor's to kill.
            return conclude::degraded(options, nanos(started.elapsed()), self.cpu, &sweep);
        };
        let kin = std::mem::take(&mut self.kin);
        let open = || Scanner::open(getpid().as_raw()).map(|scanner| scanner.without(&kin));
        let mut scanner = open();
        // If it closed its socket but still lives, it is of no use any more.
        let _ = sys::kill(supervisor, libc::SIGKILL);
        'killing: loop {
            match &mut scanner {
                Ok(scanner) => sweep.round(scanner, Some(supervisor)),
                Err(_) => scanner = open(),
            }
            let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(KILL_AGAIN));
            while let Ok(Some(_)) = self.signals.read_signal() {}
            loop {
                match sys::wait_child(WaitFor::End) {
                    Ok(Some(waited)) => {
                        self.collected(&waited);
                        sweep.collected(waited.pid);
                    }
                    Ok(None) => break,
                    Err(Errno::EINTR) => {}
                    Err(_) => break 'killing,
                }
            }
            if !kin.is_empty()
                && let Ok(scanner) = &mut scanner
            {
                let census = scanner.census();
                if census.complete && census.tasks.is_empty() {
                    break;
                }
            }
        }
        door::remove(&options.name);
        kernel::clear();
        conclude::degraded(options, nanos(started.elapsed()), self.cpu, &sweep)
    }
}
