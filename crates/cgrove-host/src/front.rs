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
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpgrp, getpid, getsid, tcgetpgrp, tcsetpgrp};

use crate::conclude;
use crate::error::HostError;
use crate::kill::Sweep;
use crate::launch::Caller;
use crate::mutant::{self, Mutant};
use crate::options::RunOptions;
use crate::procfs::Proc;
use crate::report::{Report, nanos};
use crate::scan::Scanner;
use crate::supervisor::supervise;
use crate::sys::{self, CpuTime, Fate, ForkSide, RawPid, WaitFor, Waited};
use crate::wire::{self, ToFront, ToSupervisor};

/// While cleaning up after a supervisor, look again at least this often.
const KILL_AGAIN: u8 = 50;

/// Runs the command to its end and reports. The calling process must be single-threaded; its
/// signals stay blocked afterwards.
pub fn run(options: &RunOptions) -> Result<Report, HostError> {
    let started = Instant::now();
    let setup = |e| HostError::call("cannot set up the run", e);
    if !mutant::is(Mutant::NoSecondReaper) {
        sys::become_subreaper().map_err(setup)?;
    }
    let caller = Caller {
        group: getpgrp(),
        mask: sys::block_all_signals().map_err(setup)?,
        sigchld_ignored: sys::signal_is_ignored(libc::SIGCHLD),
    };
    if caller.sigchld_ignored {
        // With SIG_IGN nobody could be waited for.
        sys::set_signal_ignored(libc::SIGCHLD, false);
    }
    let terminal = Terminal::held_by(caller.group);
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
        supervisor,
        report: Vec::new(),
        outcome: None,
        cpu: CpuTime::default(),
        session_leader: getsid(None).is_ok_and(|sid| sid == getpid()),
    };
    front.serve();
    let result = front.conclude(options, started);
    if let Some(terminal) = terminal {
        terminal.give_back();
    }
    result
}

/// Whether the process is stopped now; yes also if `/proc` does not say.
fn is_stopped(pid: RawPid) -> bool {
    let stat = Proc::open().and_then(|mut proc| proc.stat(pid));
    stat.map_or_else(|errno| errno != Errno::ENOENT, |stat| stat.state == b'T')
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
    supervisor: RawPid,
    report: Vec<u8>,
    outcome: Option<Outcome>,
    cpu: CpuTime,
    session_leader: bool,
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
            // Only if it still is: the news may have waited here while we were stopped ourselves.
            Ok(Some(ToFront::Stopped { signal, command })) if is_stopped(command) => {
                self.stop(signal);
            }
            Ok(Some(ToFront::Stopped { .. })) => {}
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
                signal if self.concerns_command(signal, &info) => self.forward(signal, &info),
                _ => {}
            }
        }
    }

    /// Whether the command should get a signal that came to us. What the kernel sends goes to the
    /// whole foreground group, except the hangup, which goes to a session leader alone.
    fn concerns_command(&self, signal: i32, info: &siginfo) -> bool {
        const SI_KERNEL: i32 = 0x80;
        if info.ssi_code == SI_KERNEL {
            return signal == libc::SIGHUP && self.session_leader;
        }
        // SIGPIPE from a write of our own, and the like; the supervisor only ever continues us.
        let sender = i64::from(info.ssi_pid);
        sender != i64::from(std::process::id()) && sender != i64::from(self.supervisor)
    }

    fn forward(&self, signal: i32, info: &siginfo) {
        let sender = RawPid::try_from(info.ssi_pid).unwrap_or(0);
        // A supervisor that is gone is noticed on the socket.
        let _ = ToSupervisor::Signal { signal, sender }.send(self.socket.as_fd());
    }

    /// The supervisor is never to stay stopped, whoever stopped it.
    fn on_child(&mut self) {
        while let Ok(Some(waited)) = sys::wait_child(WaitFor::Changes) {
            match waited.fate {
                Fate::Stopped(_)
                    if waited.pid == self.supervisor && !mutant::is(Mutant::StaysStopped) =>
                {
                    let _ = sys::kill(self.supervisor, libc::SIGCONT);
                }
                Fate::Exited(_) | Fate::Signaled(_) => self.collected(&waited),
                _ => {}
            }
        }
    }

    fn collected(&mut self, waited: &Waited) {
        self.cpu = self.cpu.plus(waited.cpu);
    }

    /// The command was stopped: stop the same way, so that the shell notices, and return when
    /// continued. A session leader has no shell above it that could continue anything.
    fn stop(&self, signal: i32) {
        let by_terminal = matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
        if by_terminal && self.session_leader {
            let _ =
                ToSupervisor::Signal { signal: libc::SIGCONT, sender: 0 }.send(self.socket.as_fd());
            return;
        }
        let mut only = SigSet::empty();
        if let Ok(signal) = Signal::try_from(signal)
            && signal != Signal::SIGSTOP
        {
            sys::set_signal_ignored(signal as i32, false);
            only.add(signal);
        }
        let _ = sys::kill(getpid().as_raw(), signal);
        // Unblocking delivers it: we stop here.
        let _ = only.thread_swap_mask(SigmaskHow::SIG_UNBLOCK);
        let _ = only.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    }

    fn conclude(mut self, options: &RunOptions, started: Instant) -> Result<Report, HostError> {
        match self.outcome.take() {
            Some(Outcome::Report) => {
                let _ = sys::wait_for_end(self.supervisor);
                serde_json::from_slice(&self.report).map_err(|e| {
                    HostError::new("the report got lost", e.to_string(), "please report this bug")
                })
            }
            Some(Outcome::Failed(text)) => {
                let _ = sys::wait_for_end(self.supervisor);
                Err(HostError::passed_on(&text))
            }
            Some(Outcome::SupervisorGone) | None => Ok(self.clean_up(options, started)),
        }
    }

    /// The supervisor was killed: everything below it is now below us. Kill it all.
    fn clean_up(&mut self, options: &RunOptions, started: Instant) -> Report {
        let mut sweep = Sweep::default();
        let mut scanner = Scanner::open(getpid().as_raw());
        // If it closed its socket but still lives, it is of no use any more.
        let _ = sys::kill(self.supervisor, libc::SIGKILL);
        'killing: loop {
            match &mut scanner {
                Ok(scanner) => sweep.round(scanner, Some(self.supervisor)),
                Err(_) => scanner = Scanner::open(getpid().as_raw()),
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
        }
        conclude::degraded(options, nanos(started.elapsed()), self.cpu, &sweep)
    }
}

/// The terminal whose foreground was the caller's group.
struct Terminal {
    group: Pid,
    stream: BorrowedFd<'static>,
}

impl Terminal {
    /// Finds the terminal among the standard streams, if `group` is in its foreground.
    fn held_by(group: Pid) -> Option<Terminal> {
        sys::standard_streams()
            .into_iter()
            .find(|stream| tcgetpgrp(stream) == Ok(group))
            .map(|stream| Terminal { group, stream })
    }

    /// A command that died in a group of its own leaves the terminal to a dead group.
    fn give_back(&self) {
        // Not if the shell took it back, as it does from a job that was sent to the background.
        let abandoned =
            |now: Pid| now != self.group && sys::kill(-now.as_raw(), 0) == Err(Errno::ESRCH);
        if tcgetpgrp(self.stream).is_ok_and(abandoned) {
            // SIGTTOU is blocked, so this is allowed from the background.
            let _ = tcsetpgrp(self.stream, self.group);
        }
    }
}
