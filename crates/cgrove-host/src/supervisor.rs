//! The supervisor: one process per run that holds the tree.
//!
//! It is the reaper (every orphan of the tree becomes its child), the fork gate's listener and the
//! keeper of the ledger, in one event loop, which is one thread; only the door has another. Sources
//! become events, an event changes the state, and what follows from the state is done at once;
//! nothing here sleeps. It lives in a session of its own, with every signal blocked, so that nothing
//! a terminal or a `kill` of the caller's group does can hit it, and so that it is not to the command
//! what a shell is: a parent in the same session and another process group could continue the
//! group, and the kernel would stop it for a Ctrl-Z that nobody can answer (setpgid(2), "orphaned
//! process group").
//!
//! A run goes through phases: running, asked to end (timeout), being killed, over. It is over
//! when wait4 says ECHILD: every process of the tree is a descendant, and an orphan is a child, so
//! no children means that nothing is left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getpid, getppid, setsid};

use crate::accounting::Accounting;
use crate::conclude;
use crate::door::{Door, Request};
use crate::error::HostError;
use crate::events::{self, Event, Sources};
use crate::filter::{self, Namespace};
use crate::freezer::Freezer;
use crate::gate::{self, Asked, Gate};
use crate::inherited;
use crate::kill::{self, Sweep};
use crate::launch::{self, Caller, Launch};
use crate::ledger::Ledger;
use crate::mutant::{self, Mutant};
use crate::options::{BackendChoice, Feature, RunOptions};
use crate::report::Backend;
use crate::sampler::Sampler;
use crate::scan::Scanner;
use crate::sigaction::{self, Verdict};
use crate::sys::{self, Fate, RawPid};
use crate::title;
use crate::wire::{FromCommand, ToFront, ToSupervisor};

/// While killing, the tree is looked at again at least this often, in case a death went unseen.
const KILL_AGAIN: Duration = Duration::from_millis(50);
/// Descriptors that must be free for reading `/proc`, taking the listener in and opening the door.
const SPARE_FDS: usize = 4 + 4;

/// Of an answer that took this long: a census of a large tree, for which a fork may have waited …
const LONG_ANSWER: Duration = Duration::from_millis(1);
/// … the next one is not begun before so many times as long, however many ask.
const DOOR_SHARE: u32 = 5;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The command runs.
    Running {
        /// When it has run long enough; never, also if that is beyond what the clock can count.
        timeout: Option<Instant>,
    },
    /// SIGTERM was sent to everyone.
    Terminating {
        /// When SIGKILL follows; never, as above.
        until: Option<Instant>,
    },
    /// The gate is closed and everything found is killed.
    Killing {
        /// When to look again.
        again: Instant,
    },
    /// Nothing is left.
    Over,
}

/// The state of a run. `conclude.rs` turns it into the report.
pub(crate) struct Supervisor<'a> {
    pub(crate) options: &'a RunOptions,
    pub(crate) caller: &'a Caller,
    pub(crate) started: Instant,
    pub(crate) command: RawPid,
    pub(crate) backend: Backend,
    pub(crate) backend_reason: String,
    pub(crate) fate: Option<Fate>,
    pub(crate) exec_error: Option<Errno>,
    pub(crate) timed_out: bool,
    pub(crate) refused: u64,
    pub(crate) ledger: Ledger,
    pub(crate) accounting: Accounting,
    pub(crate) sweep: Sweep,
    pub(crate) sampler: Sampler,
    pub(crate) freezer: Freezer,
    /// Who entered a pid namespace that may not be of the tree.
    pub(crate) entered: Option<RawPid>,
    /// A task limit was set after the start, so that threads do not ask.
    pub(crate) late_limit: bool,
    phase: Phase,
    scanner: Scanner,
    signals: SignalFd,
    front: Option<OwnedFd>,
    launch: Option<OwnedFd>,
    gate: Option<Gate>,
    /// Why nobody can come in from outside, if so.
    pub(crate) door: Result<Door, Errno>,
    /// Until when nobody is let in, so that others get their turn.
    door_rests: Option<Instant>,
    failure: Option<HostError>,
}

/// Runs the supervisor in the calling process, which was forked for it, and ends it.
pub fn supervise(options: &RunOptions, caller: &Caller, front: OwnedFd, started: Instant) -> ! {
    let failure = match Supervisor::start(options, caller, front.as_fd(), started) {
        Ok(mut supervisor) => {
            supervisor.run();
            supervisor.finish()
        }
        Err(error) => Err(error),
    };
    // A front that is gone wants no report; the tree is dead either way.
    let _ = match failure {
        Ok(report) => match serde_json::to_vec(&report) {
            Ok(json) => ToFront::Report(json)
                .send(front.as_fd())
                .and_then(|()| ToFront::Done.send(front.as_fd())),
            Err(error) => ToFront::Failed(error.to_string()).send(front.as_fd()),
        },
        Err(error) => ToFront::Failed(error.to_string()).send(front.as_fd()),
    };
    sys::exit_now(0);
}

impl<'a> Supervisor<'a> {
    fn start(
        options: &'a RunOptions,
        caller: &'a Caller,
        front: BorrowedFd<'_>,
        started: Instant,
    ) -> Result<Supervisor<'a>, HostError> {
        sys::set_name(c"cg-reaper");
        // Stopped when its front dies, it could not see the socket close. Whoever dies before this
        // line has no tree yet.
        let _ = sys::parent_death_signal(libc::SIGCONT);
        sys::become_subreaper().map_err(|e| HostError::call("cannot become a subreaper", e))?;

        let argv = launch::argv(&options.command)?;
        let wants_gate = options.backend != BackendChoice::Only(Backend::Reaper);
        let program = if wants_gate { filter::program(options.limits_tasks()) } else { None };
        let gate_or_nothing = options.needs_gate(caller.sigchld_ignored);
        if program.is_none() && gate_or_nothing {
            return Err(no_gate(options, caller, Errno::EOPNOTSUPP));
        }
        // With the gate, could what is required be had at all?
        if let Some(unmet) = options.unmet(
            if program.is_some() { Backend::Gate } else { Backend::Reaper },
            caller.sigchld_ignored,
        ) {
            return Err(HostError::new(
                format!("--require {unmet} is not met"),
                "no backend gives it here",
                "run `cgrove doctor` to see what each backend gives",
            ));
        }

        let setup = |e| HostError::call("cannot set up the supervisor", e);
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(setup)?;
        let scanner = Scanner::open(getpid().as_raw())?;
        let mut ledger = Ledger::new(&options.name, options.pids_max, started).map_err(|e| {
            HostError::new("cannot set up the group", e.name(), "check --name and --pids-max")
        })?;
        for (file, value) in &options.set {
            ledger.set("", file, value.as_bytes()).map_err(|errno| {
                HostError::new(
                    format_args!("cannot set {file} to {value}"),
                    format_args!("{} ({errno:?})", errno.desc()),
                    "see cgroup-v2.rst for its values; what is not enforced here has no files",
                )
            })?;
        }
        let front_copy = front.try_clone_to_owned().map_err(|_| setup(Errno::EMFILE))?;
        check_spare_descriptors(front).map_err(setup)?;

        let door = Door::open(&options.name);
        if options.named && matches!(door, Err(Errno::EEXIST)) {
            return Err(HostError::new(
                format_args!("cannot start a run called {}", options.name),
                "there is one already (EEXIST)",
                "choose another --name; `cgrove tree` shows what runs",
            ));
        }
        let environment = launch::environment(&options.name);
        let environment = environment.as_slice();
        let launch = Launch {
            environment,
            argv: &argv,
            caller,
            gate: program.as_deref(),
            gate_or_nothing,
            held: ledger.is_freezing(),
        };
        let (command, socket) = launch::start(&launch)?;
        // Not before the command exists: it stays in the caller's session. Cannot fail, for a fork
        // of the front leads no process group.
        if mutant::is(Mutant::SameSession) {
            let _ = nix::unistd::setpgid(getpid(), getpid());
        } else {
            let _ = setsid();
        }
        // What the command was handed is its own to close: a reader waits for the last holder.
        let mut kept = vec![
            front.as_fd(),
            front_copy.as_fd(),
            signals.as_fd(),
            scanner.as_fd(),
            socket.as_fd(),
        ];
        kept.extend(door.iter().flat_map(Door::fds));
        inherited::let_go(&kept);
        // Not before the command is on its way; a refusal costs nothing but the disguise.
        let _ = title::set(&format!("cg-reaper {}", options.name));
        let mut supervisor = Supervisor {
            options,
            caller,
            started,
            command,
            backend: Backend::Gate,
            backend_reason: "seccomp user notification works here".to_owned(),
            fate: None,
            exec_error: None,
            timed_out: false,
            refused: 0,
            ledger,
            accounting: Accounting::default(),
            sweep: Sweep::default(),
            sampler: Sampler::default(),
            freezer: Freezer::default(),
            entered: None,
            late_limit: false,
            phase: Phase::Running { timeout: options.timeout.and_then(|t| started.checked_add(t)) },
            scanner,
            signals,
            front: Some(front_copy),
            launch: Some(socket),
            gate: None,
            door,
            door_rests: None,
            failure: None,
        };
        if let Err(error) = supervisor.watch() {
            supervisor.fail(error);
        }
        Ok(supervisor)
    }

    /// What is left to set up once the command exists: from here on a failure must kill it.
    fn watch(&mut self) -> Result<(), HostError> {
        let setup = |e| HostError::call("cannot set up the supervisor", e);
        if self.ledger.adopt(self.command).is_err() {
            return Err(setup(Errno::EINVAL));
        }
        if let Some(socket) = self.launch.as_ref().filter(|_| self.ledger.is_freezing()) {
            // Seized and interrupted, it does not come as far as its exec.
            self.freezer.step(&mut self.ledger, &mut self.scanner, None);
            launch::let_start(socket.as_fd());
        }
        if self.caller.sigchld_ignored {
            self.accounting.degrade("the caller ignores SIGCHLD, and so may the command");
        }
        if self.options.backend == BackendChoice::Only(Backend::Reaper) {
            self.without_gate("asked for by --backend reaper".to_owned());
        } else if filter::program(false).is_none() {
            self.without_gate(gate::why_not(Errno::EOPNOTSUPP));
        }
        if !self.options.limits_tasks() {
            // Threads do not ask then.
            self.sampler.forked();
        }
        Ok(())
    }

    fn run(&mut self) {
        while self.phase != Phase::Over {
            self.freeze();
            // What is not taken stays asked, and can be frozen asking.
            let answers = !self.is_frozen() || mutant::is(Mutant::FrozenForks);
            let sources = Sources {
                gate: self.gate.as_ref().filter(|_| answers).map(AsFd::as_fd),
                signals: self.signals.as_fd(),
                front: self.front.as_ref().map(AsFd::as_fd),
                launch: self.launch.as_ref().map(AsFd::as_fd),
                door: self
                    .door
                    .as_ref()
                    .ok()
                    .filter(|_| self.door_rests.is_none())
                    .map(AsFd::as_fd),
            };
            let ready = match events::wait(&sources, self.wait_time()) {
                Ok(ready) => ready,
                Err(errno) => {
                    self.fail(HostError::call("cannot wait for events", errno));
                    // Nothing left to wait on but the children themselves.
                    self.drain_blocking();
                    return;
                }
            };
            for event in ready.into_iter().flatten() {
                match event {
                    Event::Asked => self.on_gate(),
                    Event::GateDeserted => self.gate = None,
                    Event::Child => self.on_child(),
                    Event::Front => self.on_front(),
                    Event::Launch => self.on_launch(),
                    Event::Door => self.on_door(),
                }
            }
            self.on_time();
        }
    }

    /// Until the next thing that is due, rounded up so that it is due on waking.
    fn wait_time(&self) -> PollTimeout {
        let phase = match self.phase {
            Phase::Running { timeout } => timeout,
            Phase::Terminating { until } => until,
            Phase::Killing { again } => Some(again),
            Phase::Over => None,
        };
        let others = self.sampler.due().into_iter().chain(self.door_rests);
        let others = others.chain(self.freezer.due());
        let Some(due) = phase.into_iter().chain(others).min() else {
            return PollTimeout::NONE;
        };
        let left = due.saturating_duration_since(Instant::now());
        let ms = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128);
        PollTimeout::try_from(ms).unwrap_or(PollTimeout::ZERO)
    }

    fn on_time(&mut self) {
        if self.door_rests.is_some_and(|until| until <= Instant::now()) {
            self.door_rests = None;
        }
        let phase_due = match self.phase {
            Phase::Running { timeout } => timeout,
            Phase::Terminating { until } => until,
            Phase::Killing { again } => Some(again),
            Phase::Over => return,
        };
        if phase_due.is_none() && self.sampler.due().is_none() {
            return;
        }
        let now = Instant::now();
        if phase_due.is_some_and(|due| due <= now) {
            match self.phase {
                Phase::Running { .. } => self.time_out(now),
                Phase::Terminating { .. } => self.kill(),
                Phase::Killing { .. } => {
                    // In case a SIGCHLD was lost: wait4 alone knows whether anyone is left.
                    if !mutant::is(Mutant::EndForgotten) {
                        self.reap();
                    }
                    self.kill();
                }
                Phase::Over => {}
            }
        }
        if self.sampler.due().is_some_and(|due| due <= now) {
            self.sample();
        }
    }

    fn time_out(&mut self, now: Instant) {
        self.timed_out = true;
        self.continue_front();
        if self.options.kill_grace.is_zero() {
            self.kill();
            return;
        }
        self.phase = Phase::Terminating { until: now.checked_add(self.options.kill_grace) };
        if mutant::is(Mutant::NoWarning) {
            return;
        }
        let census = self.scanner.census();
        kill::signal_all(&mut self.scanner, &census, libc::SIGTERM);
        if self.ledger.is_freezing() {
            // Or nobody could clean up. The signal is what everyone finds on waking.
            for tid in self.freezer.stopped_jobs() {
                let _ = sys::kill(tid, libc::SIGCONT);
            }
            let _ = self.ledger.freeze("", false);
            self.freeze();
        }
    }

    /// Whether nobody is to go on, and so no fork to be answered.
    fn is_frozen(&self) -> bool {
        !matches!(self.phase, Phase::Killing { .. }) && self.ledger.is_freezing()
    }

    /// Carries out what the core wants frozen and thawed. Who is killed needs neither.
    fn freeze(&mut self) {
        if matches!(self.phase, Phase::Killing { .. } | Phase::Over) {
            if self.freezer.give_up() {
                self.answer(Err(Errno::ESRCH));
            }
            return;
        }
        let sampler = (self.backend == Backend::Reaper).then_some(&mut self.sampler);
        self.freezer.step(&mut self.ledger, &mut self.scanner, sampler);
        if let Some(answer) = self.freezer.take_answer() {
            self.answer(Ok(answer));
        }
        if self.freezer.has_news() {
            self.reap();
        }
    }

    /// The front stops when the command does, so that a shell notices. Whatever else ends the stop
    /// ends the front's.
    fn continue_front(&self) {
        self.signal_front(libc::SIGCONT);
    }

    fn signal_front(&self, signal: i32) {
        // As long as it is our parent its pid is its own.
        if getppid() == self.caller.front {
            let _ = sys::kill(self.caller.front.as_raw(), signal);
        }
    }

    /// Closes the gate and kills what there is; on_child and on_time come back until the end.
    fn kill(&mut self) {
        if self.phase == Phase::Over && !mutant::is(Mutant::EndForgotten) {
            // Nobody is left, and so nobody whose end would wake us again.
            return;
        }
        if let Some(gate) = &mut self.gate
            && !gate.is_closed()
            && !mutant::is(Mutant::OpenGate)
        {
            gate.close();
            self.ledger.kill();
        }
        if !matches!(self.phase, Phase::Killing { .. }) {
            self.continue_front();
        }
        // Whoever the core wants dead is among those the sweep finds.
        let before = self.sweep.survivors().0;
        self.sweep.round(&mut self.scanner, Some(self.command));
        let now = Instant::now();
        let again = if self.sweep.survivors().0 > before && self.backend == Backend::Reaper {
            // Without a gate they may have forked meanwhile.
            now
        } else {
            now + KILL_AGAIN
        };
        self.phase = Phase::Killing { again };
    }

    fn fail(&mut self, error: HostError) {
        self.failure.get_or_insert(error);
        self.kill();
    }

    fn on_child(&mut self) {
        // Only a wake-up: wait4 knows what happened.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap();
    }

    /// Collects what has ended.
    fn reap(&mut self) {
        let mut look_again = false;
        let none_left = loop {
            let waited = match self.freezer.wait_any(&mut self.scanner.proc, self.command) {
                Ok(Some(waited)) => waited,
                Ok(None) => break false,
                Err(Errno::EINTR) => continue,
                Err(_) => break true,
            };
            match waited.fate {
                Fate::Exited(_) | Fate::Signaled(_) => {
                    self.accounting.collected(&waited);
                    self.ledger.reaped(waited.pid);
                    look_again |= self.sweep.collected(waited.pid);
                    if waited.pid == self.command {
                        self.fate = Some(waited.fate);
                        self.continue_front();
                    }
                }
                // In one thread with continue_front, and so in the right order.
                Fate::Stopped(libc::SIGSTOP) if waited.pid == self.command => {
                    self.signal_front(libc::SIGSTOP);
                }
                Fate::Stopped(signal) if waited.pid == self.command => {
                    if let Some(front) = &self.front {
                        let _ =
                            ToFront::Stopped { signal, command: self.command }.send(front.as_fd());
                    }
                }
                Fate::Continued if waited.pid == self.command => self.continue_front(),
                Fate::Stopped(_) | Fate::Continued => {}
            }
        };
        if self.fate.is_some() {
            // The command can end before its report was read; it can send no more.
            while self.launch.is_some() {
                self.on_launch();
            }
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
            // After SIGTERM everyone has the grace, not the command alone.
            self.kill();
        }
    }

    fn on_front(&mut self) {
        let Some(front) = &self.front else { return };
        match ToSupervisor::receive(front.as_fd()) {
            Ok(Some(ToSupervisor::Signal { signal, sender })) => {
                let from_inside =
                    sender > 0 && (self.ledger.knows(sender) || self.scanner.contains(sender));
                if from_inside {
                    return;
                }
                if self.fate.is_none() {
                    let _ = sys::kill(self.command, signal);
                } else {
                    // With the command gone, what it left is all there is to pass it on to.
                    let census = self.scanner.glance();
                    kill::signal_all(&mut self.scanner, &census, signal);
                }
            }
            Ok(None) | Err(_) => {
                // The front is gone: the whole tree goes with it.
                self.front = None;
                if mutant::is(Mutant::FrontIgnored) {
                    return;
                }
                self.kill();
            }
        }
    }

    fn on_launch(&mut self) {
        let Some(socket) = &self.launch else { return };
        match FromCommand::receive(socket.as_fd()) {
            Ok(Some(FromCommand::Listener(listener))) => {
                self.gate = Some(Gate::new(listener));
            }
            Ok(Some(FromCommand::NoGate(errno))) => {
                if self.options.needs_gate(self.caller.sigchld_ignored) {
                    self.fail(no_gate(self.options, self.caller, errno));
                } else {
                    self.without_gate(gate::why_not(errno));
                }
            }
            Ok(Some(FromCommand::ExecFailed(errno))) => self.exec_error = Some(errno),
            Ok(None) => {
                self.launch = None;
            }
            Err(errno) => {
                self.launch = None;
                self.fail(HostError::call("cannot take the fork gate over", errno));
            }
        }
    }

    fn on_door(&mut self) {
        // One at a time: whoever waits at the gate comes first.
        let Ok(door) = &mut self.door else { return };
        match door.knock() {
            Ok(None) => {}
            Ok(Some(request)) => {
                if let Request::Freeze { path, freeze } = &request {
                    // No rest after it: whoever may freeze may keep forks waiting.
                    if let Some(result) = self.serve_freeze(path, *freeze) {
                        self.answer(result);
                    }
                    return;
                }
                let begun = Instant::now();
                let result = self.serve(&request);
                let took = begun.elapsed();
                if took >= LONG_ANSWER {
                    self.door_rests = begun.checked_add(took * DOOR_SHARE);
                }
                self.answer(result);
            }
            Err(errno) => self.door = Err(errno),
        }
    }

    fn answer(&self, result: Result<Vec<u8>, Errno>) {
        if let Ok(door) = &self.door {
            door.answer(result);
        }
    }

    /// Freezes or thaws a cgroup; `None`: [`Supervisor::freeze`] answers when it is reached.
    fn serve_freeze(&mut self, path: &str, freeze: bool) -> Option<Result<Vec<u8>, Errno>> {
        if let Err(errno) = self.ledger.freeze(path, freeze) {
            return Some(Err(errno));
        }
        self.freeze();
        if !freeze {
            return Some(Ok(Vec::new()));
        }
        if let Some(refused) = self.freezer.refused_all(&mut self.scanner.proc) {
            self.undo_freeze(path);
            return Some(serde_json::to_vec(&refused).map_err(|_| Errno::EPERM));
        }
        self.freezer.ask(&mut self.scanner.proc)
    }

    fn undo_freeze(&mut self, path: &str) {
        let _ = self.ledger.freeze(path, false);
        self.freeze();
    }

    fn serve(&mut self, request: &Request) -> Result<Vec<u8>, Errno> {
        // What is told is to be true now, and not when somebody last asked.
        match self.backend {
            Backend::Gate => drop(self.ledger.reconcile(&mut self.scanner)),
            Backend::Reaper => self.sample(),
        }
        self.freeze();
        match request {
            Request::List { path } => self.ledger.list(path),
            Request::Freeze { .. } => Err(Errno::EINVAL),
            Request::Get { path, file, offset } => self.ledger.get(path, file, *offset),
            Request::Set { path, file, value } => {
                let killed = self.ledger.set(path, file, value)?;
                if file == "pids.max" && !self.options.limits_tasks() {
                    self.late_limit = true;
                }
                if killed {
                    self.kill();
                }
                self.freeze();
                if file == "cgroup.freeze"
                    && self.freezer.refused_all(&mut self.scanner.proc).is_some()
                {
                    self.undo_freeze(path);
                    return Err(Errno::EPERM);
                }
                Ok(Vec::new())
            }
        }
    }

    fn without_gate(&mut self, reason: String) {
        self.backend = Backend::Reaper;
        self.backend_reason = reason;
        self.accounting.degrade("without the gate, nobody tells when a program ignores SIGCHLD");
        self.sampler.arm_soon();
    }

    fn on_gate(&mut self) {
        let Some(gate) = &self.gate else { return };
        match gate.receive() {
            Ok(Some(Asked::Fork { id, tid, as_init })) => {
                if as_init {
                    self.pid_namespace_made(tid);
                }
                self.on_fork(id, tid);
            }
            Ok(Some(Asked::PidNamespace { id, tid, which: Namespace::New })) => {
                gate.allow(id);
                self.pid_namespace_made(tid);
            }
            Ok(Some(Asked::PidNamespace { id, tid, which: Namespace::Existing { unsure } })) => {
                if unsure.is_some_and(|fd| !self.scanner.proc.may_be_pid_namespace(tid, fd)) {
                    gate.allow(id);
                } else if self.options.insists_on(Feature::Kill) {
                    gate.refuse(id, Errno::EPERM);
                } else {
                    gate.allow(id);
                    self.entered.get_or_insert(tid);
                    self.pid_namespace_made(tid);
                }
            }
            Ok(Some(Asked::ChildAction { id, tid, address, layout })) => {
                let verdict = sigaction::examine(&self.scanner.proc, tid, address, layout);
                // Else it was another's memory that we looked into.
                if gate.still_waiting(id) {
                    match verdict {
                        Verdict::Interrupts(restart) if !mutant::is(Mutant::ForkInterrupted) => {
                            restart.set();
                        }
                        Verdict::Discards
                            if !self.accounting.is_sampled()
                                && !mutant::is(Mutant::ActionUnseen) =>
                        {
                            self.accounting.degrade(format!(
                                "process {tid} ignored SIGCHLD: its children's time may be lost"
                            ));
                            self.sampler.arm_soon();
                        }
                        _ => {}
                    }
                }
                gate.allow(id);
            }
            Ok(Some(Asked::Other { id })) => {
                gate.allow(id);
            }
            Ok(None) => {}
            Err(errno) => self.fail(HostError::call("cannot read from the fork gate", errno)),
        }
    }

    /// When the init of a pid namespace ends, the kernel ends the others and counts their time
    /// nowhere (pid_namespaces(7)).
    fn pid_namespace_made(&mut self, tid: RawPid) {
        if mutant::is(Mutant::NamespaceUnseen) || self.accounting.is_sampled() {
            return;
        }
        self.accounting.degrade(format!(
            "process {tid} put its children into a pid namespace: time of those that end with the \
             namespace may be lost"
        ));
        self.sampler.arm_soon();
    }

    fn on_fork(&mut self, id: u64, tid: RawPid) {
        if !self.ledger.fits() {
            // The limit counts the dead until they are collected, so collect.
            self.reap();
        }
        let Some(gate) = &self.gate else { return };
        if gate.is_closed() {
            self.refused += 1;
            gate.refuse(id, Errno::EAGAIN);
            return;
        }
        if mutant::is(Mutant::UnchargedFork) {
            gate.allow(id);
            return;
        }
        match self.ledger.charge(tid, &mut self.scanner) {
            Ok(fork) => {
                // Dropping the charge of a call that did not run undoes it.
                if gate.allow(id) {
                    self.ledger.forked(tid, fork);
                    self.sampler.forked();
                }
            }
            Err(errno) => {
                self.refused += 1;
                gate.refuse(id, Errno::from_raw(errno.code()));
            }
        }
    }

    /// A look at the tree because its time has come, not because someone asked.
    fn sample(&mut self) {
        let begun = Instant::now();
        let census = match self.backend {
            Backend::Gate => self.ledger.reconcile(&mut self.scanner),
            Backend::Reaper => {
                let census = self.scanner.glance();
                let new = self.ledger.follow(&census);
                self.sampler.found(new);
                census
            }
        };
        if self.accounting.is_sampled() {
            self.accounting.sample(&census);
        }
        if self.backend == Backend::Reaper && self.ledger.excess() > 0 {
            let excess = self.ledger.excess();
            self.refused += self.sweep.newest(&mut self.scanner, &census, excess);
        }
        let always = self.backend == Backend::Reaper || self.accounting.is_sampled();
        let threads_unseen = !self.options.limits_tasks();
        self.sampler.done(begun, census.tasks.len(), always, threads_unseen);
    }

    /// The last resort when the event loop itself is broken.
    fn drain_blocking(&mut self) {
        while let Ok(Some(waited)) = sys::wait_for_end(-1) {
            self.accounting.collected(&waited);
            self.sweep.round(&mut self.scanner, Some(self.command));
        }
    }

    fn finish(mut self) -> Result<crate::report::Report, HostError> {
        self.ledger.close();
        match self.failure.take() {
            Some(error) => Err(error),
            None => Ok(conclude::report(self)),
        }
    }
}

fn no_gate(options: &RunOptions, caller: &Caller, errno: Errno) -> HostError {
    let what = match options.unmet(Backend::Reaper, caller.sigchld_ignored) {
        Some(unmet) => format!("--require {unmet} is not met"),
        None => "--backend gate is not possible".to_owned(),
    };
    HostError::new(
        what,
        gate::why_not(errno),
        "drop the requirement, or run `cgrove doctor` to see what this place allows",
    )
}

/// Fails with EMFILE now rather than in the middle of the run.
fn check_spare_descriptors(any: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut spare = Vec::with_capacity(SPARE_FDS);
    for _ in 0..SPARE_FDS {
        spare.push(any.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
    }
    Ok(())
}
