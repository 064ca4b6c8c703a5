//! A run inside a run: the reaper of a group in somebody else's supervisor.
//!
//! Only one seccomp listener is possible for a task, and two supervisors would count the same tasks
//! twice. So an inner `cgrove run` makes no supervisor of its own. It asks the outer one for a group
//! below its own and is the group's *reaper*: a child subreaper that forks the command, collects
//! everything below, and so has exact CPU times. Forks ask the outer supervisor, which charges them
//! to the inner group and to all above; the reaper's own fork of the command counts for the group,
//! and the reaper itself for the group around.
//!
//! What an outer run does in three processes (front, supervisor, command) is two here: the reaper
//! does what the caller expects of the command it typed, and the end of the group.
//!
//! If the reaper dies its link closes, and the supervisor kills the group. If the supervisor dies
//! the link closes too: the reaper kills its group, as the outer front does with everything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::getpid;

use crate::accounting::Accounting;
use crate::conclude;
use crate::door::{self, Entered, Entry, Left, Refused, Request};
use crate::error::HostError;
use crate::journal::{What, cut};
use crate::kill::{self, Sweep};
use crate::launch::{self, Caller, Launch};
use crate::options::{BackendChoice, Requirement, RunOptions};
use crate::report::{Backend, Report};
use crate::scan::{Identity, Scanner};
use crate::shell::Shell;
use crate::sys::{self, Fate, RawPid, WaitFor};
use crate::wire::{FromCommand, ToFront, ToSupervisor};

/// While killing, the tree is looked at again at least this often, in case a death went unseen.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// As the sender of a signal: the terminal, which means the command's whole process group.
pub(crate) const TERMINAL: RawPid = -1;

/// A group that the calling process reaps.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The outer run's name.
    pub(crate) run: String,
    pub(crate) entered: Entered,
    /// Closes when the supervisor is gone.
    pub(crate) link: OwnedFd,
}

impl Hold {
    /// Asks the run that the calling process is in for a group.
    pub(crate) fn enter(run: &str, options: &RunOptions) -> Result<Hold, HostError> {
        let advice = "`--backend reaper` runs it without the run around, and unlimited by it";
        let refused = |why: &str| {
            HostError::new(format_args!("cannot start a run inside run {run}"), why, advice)
        };
        let entry = Entry { name: options.name.clone(), files: options.files() };
        let (answer, link) = door::ask_for(run, &Request::Enter(entry))
            .map_err(|error| refused(&error.to_string()))?;
        let entered = made(answer, options, &refused)?;
        let link = link.ok_or_else(|| refused(STRANGE))?;
        Ok(Hold { run: run.to_owned(), entered, link })
    }

    fn ask(&self, request: &Request) -> Result<Vec<u8>, Errno> {
        door::ask(&self.run, request).unwrap_or(Err(Errno::ECONNREFUSED))
    }

    fn path(&self) -> String {
        self.entered.path.clone()
    }
}

const STRANGE: &str = "its answer makes no sense (EBADMSG)";

/// The group that an answer tells of.
pub(crate) fn made(
    answer: Result<Vec<u8>, Errno>,
    options: &RunOptions,
    refused: &dyn Fn(&str) -> HostError,
) -> Result<Entered, HostError> {
    let text = answer.map_err(|errno| refused(&words(errno, options)))?;
    let made = serde_json::from_slice::<Result<Entered, Refused>>(&text);
    match made.map_err(|_| refused(STRANGE))? {
        Ok(entered) => Ok(entered),
        Err(Refused { file: Some(file), errno }) => {
            let value = options.files().into_iter().find(|(of, _)| *of == file);
            let value = value.map_or_else(String::new, |(_, value)| value);
            Err(HostError::cannot_set(&file, &value, Errno::from_raw(errno)))
        }
        Err(Refused { file: None, errno }) => Err(refused(&words(Errno::from_raw(errno), options))),
    }
}

fn words(errno: Errno, options: &RunOptions) -> String {
    match errno {
        Errno::EEXIST => format!("there is a group called {} already (EEXIST)", options.name),
        Errno::EXDEV => "this process is not of that run (EXDEV)".to_owned(),
        Errno::EACCES => "this process is of another run (EACCES)".to_owned(),
        Errno::ESRCH => "it is ending (ESRCH)".to_owned(),
        Errno::EAGAIN => "its task limit is reached, or it has too many groups (EAGAIN)".to_owned(),
        Errno::ENOENT => "there is no such group (ENOENT)".to_owned(),
        other => format!("{} ({other:?})", other.desc()),
    }
}

/// How long a supervisor that is ending may take to be gone, in milliseconds.
const LAST_NEWS_MS: u16 = 1000;

/// How far the group has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running { timeout: Option<Instant> },
    Terminating { until: Option<Instant> },
    Killing { again: Instant },
    Over,
}

/// What the command is like to whoever asked for it.
pub(crate) enum Asker {
    /// This process was started in its place, and gets its signals.
    Shell(Shell),
    /// Another process, which passes its own on and closes the socket when it ends.
    Remote(OwnedFd),
    /// It is gone.
    Nobody,
}

/// What the calling process has when it becomes a reaper.
pub(crate) struct Begun {
    pub(crate) asker: Asker,
    /// Reads all signals; all are blocked.
    pub(crate) signals: SignalFd,
    /// Children from before, which are not of the group.
    pub(crate) kin: Vec<Identity>,
    pub(crate) started: Instant,
}

/// The state of a group at its reaper. `conclude.rs` turns it into the report.
pub(crate) struct Reaper<'a> {
    pub(crate) options: &'a RunOptions,
    pub(crate) caller: &'a Caller,
    pub(crate) started: Instant,
    pub(crate) hold: Hold,
    pub(crate) command: RawPid,
    pub(crate) fate: Option<Fate>,
    pub(crate) exec_error: Option<Errno>,
    /// The command was never tried: what it exited with is not its own.
    pub(crate) gave_up: Option<Errno>,
    pub(crate) timed_out: bool,
    pub(crate) parent_ended: bool,
    pub(crate) accounting: Accounting,
    pub(crate) sweep: Sweep,
    asker: Asker,
    phase: Phase,
    scanner: Scanner,
    signals: SignalFd,
    launch: Option<OwnedFd>,
    /// Children of this process from before: not of the group.
    kin: Vec<Identity>,
    shut: bool,
    /// The supervisor is gone.
    alone: bool,
}

/// Whether what is required holds in the run around.
pub(crate) fn check(options: &RunOptions, entered: &Entered, caller: &Caller) -> Option<HostError> {
    let unmet = options.unmet(entered.backend, caller.sigchld_ignored);
    let unmet = unmet.or_else(|| {
        let weak = options.insists_on(crate::options::Feature::Pids) && !entered.threads_ask;
        let pids = |it: &&Requirement| {
            matches!(it, Requirement::Feature(crate::options::Feature::Pids, _))
        };
        options.require.iter().find(pids).copied().filter(|_| weak)
    });
    if let Some(unmet) = unmet {
        let why = if unmet_for_threads(options, entered, caller) {
            "threads do not ask in the run around, which began without a task limit"
        } else {
            "the run around does not give it"
        };
        return Some(HostError::new(
            format_args!("--require {unmet} is not met"),
            why,
            "start the outer run with --pids-max, or drop the requirement",
        ));
    }
    if options.backend == BackendChoice::Only(Backend::Kernel) {
        return Some(HostError::new(
            "--backend kernel is not possible",
            "a run inside a run is a group of that one, which cgrove holds itself (EOPNOTSUPP)",
            "drop it, or start this run outside",
        ));
    }
    let BackendChoice::Only(only) = options.backend else { return None };
    (only != entered.backend).then(|| {
        HostError::new(
            format_args!("--backend {} is not possible", only.name()),
            format_args!(
                "the run around has {} ({})",
                entered.backend.name(),
                entered.backend_reason
            ),
            "drop it, or run `cgrove doctor` to see what this place allows",
        )
    })
}

fn unmet_for_threads(options: &RunOptions, entered: &Entered, caller: &Caller) -> bool {
    options.unmet(entered.backend, caller.sigchld_ignored).is_none()
}

impl<'a> Reaper<'a> {
    /// Forks the command into the group.
    pub(crate) fn start(
        hold: Hold,
        options: &'a RunOptions,
        caller: &'a Caller,
        launch: &Launch<'_>,
        begun: Begun,
    ) -> Result<Reaper<'a>, HostError> {
        let Begun { asker, signals, kin, started } = begun;
        let scanner = Scanner::open(getpid().as_raw())?.without(&kin);
        let (command, socket) = launch::start(launch)?;
        if launch.held {
            // Whoever is told of at the door is known, and so frozen; it is not as far as its exec.
            let _ = hold.ask(&Request::Where);
            launch::let_start(socket.as_fd());
        }
        let mut accounting = Accounting::default();
        if caller.sigchld_ignored {
            accounting.degrade("the caller ignores SIGCHLD, and so may the command");
        }
        Ok(Reaper {
            options,
            caller,
            started,
            hold,
            command,
            fate: None,
            exec_error: None,
            gave_up: None,
            timed_out: false,
            parent_ended: false,
            accounting,
            sweep: Sweep::default(),
            asker,
            phase: Phase::Running { timeout: options.timeout.and_then(|t| started.checked_add(t)) },
            scanner,
            signals,
            launch: Some(socket),
            kin,
            shut: false,
            alone: false,
        })
    }

    /// The descriptors that are needed until the end.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.hold.link.as_fd(), self.signals.as_fd(), self.scanner.as_fd()];
        fds.extend(self.launch.as_ref().map(AsFd::as_fd));
        fds.extend(self.caller.handed.fds());
        if let Asker::Remote(socket) = &self.asker {
            fds.push(socket.as_fd());
        }
        fds
    }

    /// Until nobody is left of the group; then its report.
    pub(crate) fn run(mut self) -> Report {
        while self.phase != Phase::Over {
            self.wait();
        }
        let left = if self.alone { None } else { self.leave() };
        if left.is_none() && !self.alone {
            // A supervisor that traces takes the tree along before its descriptors are closed.
            let mut link = [PollFd::new(self.hold.link.as_fd(), PollFlags::POLLIN)];
            self.alone = poll(&mut link, PollTimeout::from(LAST_NEWS_MS)).is_ok_and(|n| n > 0);
        }
        conclude::nested(self, left)
    }

    fn leave(&self) -> Option<Left> {
        let failed = self.exec_error.is_some() || self.gave_up.is_some();
        // A census that the outer tree spoils can be taken again.
        for _ in 0..20 {
            let (code, signal) = match self.fate {
                Some(Fate::Exited(code)) if !failed => (Some(code), None),
                Some(Fate::Signaled(signal)) if !failed => (None, Some(signal)),
                _ => (None, None),
            };
            match self.hold.ask(&Request::Leave { path: self.hold.path(), code, signal }) {
                Ok(text) => return serde_json::from_slice(&text).ok(),
                Err(Errno::EBUSY) => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn wait(&mut self) {
        let launch = self.launch.as_ref().map(AsFd::as_fd);
        let remote = match &self.asker {
            Asker::Remote(socket) => Some(socket.as_fd()),
            Asker::Shell(_) | Asker::Nobody => None,
        };
        let link = (!self.alone).then(|| self.hold.link.as_fd());
        let parent = self.parent();
        let signals = self.signals.as_fd();
        // A missing source stands for another, and is ignored below.
        let mut fds = [Some(signals), launch, remote, link, parent].map(|fd| match fd {
            Some(fd) => PollFd::new(fd, PollFlags::POLLIN),
            None => PollFd::new(signals, PollFlags::empty()),
        });
        let ready = match poll(&mut fds, self.wait_time()) {
            Ok(_) => fds.map(|fd| fd.any().unwrap_or(true)),
            Err(Errno::EINTR) => return,
            // Without a wait there are still the children.
            Err(_) => [true, false, false, false, false],
        };
        let [signals, launch, remote, link, parent] = ready;
        if launch && self.launch.is_some() {
            self.on_launch();
        }
        if signals {
            self.on_signals();
        }
        if remote && matches!(self.asker, Asker::Remote(_)) {
            self.on_remote();
        }
        if link && !self.alone {
            self.alone = true;
            self.kill();
        }
        if parent && self.parent().is_some() {
            self.parent_ended = true;
            self.happened(vec![What::ParentEnded]);
            self.kill();
        }
        self.on_time();
    }

    /// As [`Supervisor::parent`](crate::supervisor::Supervisor).
    fn parent(&self) -> Option<BorrowedFd<'_>> {
        let goes_on = matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. });
        self.caller.handed.parent.as_ref().filter(|_| goes_on).map(|fd| fd.as_fd())
    }

    fn wait_time(&self) -> PollTimeout {
        let due = match self.phase {
            Phase::Running { timeout } => timeout,
            Phase::Terminating { until } => until,
            Phase::Killing { again } => Some(again),
            Phase::Over => None,
        };
        let Some(due) = due else { return PollTimeout::NONE };
        let left = due.saturating_duration_since(Instant::now());
        let ms = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
        PollTimeout::try_from(ms).unwrap_or(PollTimeout::ZERO)
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Running { timeout } if timeout.is_some_and(|due| due <= now) => {
                self.time_out(now)
            }
            Phase::Terminating { until } if until.is_some_and(|due| due <= now) => self.kill(),
            Phase::Killing { again } if again <= now => {
                self.reap();
                self.kill();
            }
            _ => {}
        }
    }

    fn time_out(&mut self, now: Instant) {
        self.timed_out = true;
        self.happened(vec![What::Timeout]);
        if self.options.kill_grace.is_zero() {
            self.kill();
            return;
        }
        self.phase = Phase::Terminating { until: now.checked_add(self.options.kill_grace) };
        let census = self.scanner.census();
        kill::signal_all(&mut self.scanner, &census, libc::SIGTERM);
        // Or nobody could clean up. What is frozen from above stays so.
        let _ = self.hold.ask(&Request::Freeze { path: self.hold.path(), freeze: false });
    }

    /// Has the supervisor refuse the group's forks, and kills what there is.
    fn kill(&mut self) {
        if self.phase == Phase::Over {
            return;
        }
        if !self.shut && !self.alone {
            self.shut = true;
            // Should it be refused, the rounds go on until nobody is left.
            let _ = self.hold.ask(&Request::Shut { path: self.hold.path() });
        }
        self.sweep.round(&mut self.scanner, Some(self.command));
        self.phase = Phase::Killing { again: Instant::now() + KILL_AGAIN };
    }

    fn on_launch(&mut self) {
        let Some(socket) = &self.launch else { return };
        match FromCommand::receive(socket.as_fd()) {
            Ok(Some(FromCommand::ExecFailed(errno))) => self.exec_error = Some(errno),
            Ok(Some(FromCommand::GaveUp(errno))) => self.gave_up = Some(errno),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                self.launch = None;
                let words = self.options.command.iter();
                let words = words.map(|word| word.to_string_lossy().into_owned());
                let started = What::Started { pid: self.command, command: cut(words) };
                let what = match self.exec_error.or(self.gave_up) {
                    None => What::Exec,
                    Some(errno) => What::ExecFailed { error: format!("{errno:?}") },
                };
                self.happened(vec![started, what]);
            }
        }
    }

    /// For whoever follows.
    fn happened(&self, what: Vec<What>) {
        if !self.alone {
            let _ = self.hold.ask(&Request::Tell { path: self.hold.path(), what });
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            if signal == libc::SIGCHLD {
                self.reap();
                continue;
            }
            let sender = RawPid::try_from(info.ssi_pid).unwrap_or(0);
            match &self.asker {
                Asker::Shell(shell) if shell.concerns_command(signal, &info) => {
                    self.pass_on(signal, sender);
                }
                _ => {}
            }
        }
    }

    fn on_remote(&mut self) {
        let Asker::Remote(socket) = &self.asker else { return };
        match ToSupervisor::receive(socket.as_fd()) {
            Ok(Some(ToSupervisor::Signal { signal, sender })) => self.pass_on(signal, sender),
            Ok(None) | Err(_) => {
                // Nobody waits for the command any more.
                self.asker = Asker::Nobody;
                self.kill();
            }
        }
    }

    fn pass_on(&mut self, signal: i32, sender: RawPid) {
        if sender > 0 && self.scanner.contains(sender) {
            return;
        }
        if self.fate.is_none() {
            let group = sender == TERMINAL;
            let to = if group { -self.command } else { self.command };
            let _ = sys::kill(to, signal);
        } else {
            let census = self.scanner.glance();
            kill::signal_all(&mut self.scanner, &census, signal);
        }
    }

    fn reap(&mut self) {
        let mut look_again = false;
        let none_left = loop {
            let waited = match sys::wait_child(WaitFor::Changes) {
                Ok(Some(waited)) => waited,
                Ok(None) => break !self.kin.is_empty() && self.is_empty(),
                Err(Errno::EINTR) => continue,
                Err(_) => break true,
            };
            match waited.fate {
                Fate::Exited(_) | Fate::Signaled(_) => {
                    if self.kin.iter().any(|(pid, _)| *pid == waited.pid) {
                        self.kin.retain(|(pid, _)| *pid != waited.pid);
                        continue;
                    }
                    self.accounting.collected(&waited);
                    look_again |= self.sweep.collected(waited.pid);
                    if waited.pid == self.command {
                        self.fate = Some(waited.fate);
                    }
                }
                Fate::Stopped(signal) if waited.pid == self.command => match &self.asker {
                    Asker::Shell(shell) => {
                        if !shell.stop(signal, self.command) {
                            let _ = sys::kill(self.command, libc::SIGCONT);
                        }
                    }
                    Asker::Remote(socket) => {
                        let stopped = ToFront::Stopped { signal, command: self.command };
                        let _ = stopped.send(socket.as_fd());
                    }
                    Asker::Nobody => {}
                },
                Fate::Stopped(_) | Fate::Continued => {}
            }
        };
        while self.fate.is_some() && self.launch.is_some() {
            self.on_launch();
        }
        if none_left {
            self.phase = Phase::Over;
        } else if matches!(self.phase, Phase::Killing { .. }) {
            if look_again {
                self.kill();
            }
        } else if self.fate.is_some()
            && !self.options.keep_descendants
            && matches!(self.phase, Phase::Running { .. })
        {
            self.kill();
        }
    }

    /// With children that are not of the group, `wait4` cannot tell.
    fn is_empty(&mut self) -> bool {
        if self.fate.is_none() {
            return false;
        }
        let census = self.scanner.census();
        census.complete && census.tasks.is_empty()
    }

    /// Whether the supervisor went away before the group did.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }
}
