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

mod asked;
mod cpus;
mod ending;
mod exec;
pub(crate) mod in_kernel;
mod limits;
mod members;
mod telling;
mod traced;
mod visitors;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::Shutdown;
use nix::unistd::{getpid, setsid};

use crate::accounting::Accounting;
use crate::door::Door;
use crate::error::HostError;
use crate::events::{self, Event, Sources};
use crate::filter::{self, Whom};
use crate::freezer::Freezer;
use crate::gate::{self, Gate};
use crate::inherited;
use crate::journal::{Journal, What};
use crate::kill::{self, Sweep};
use crate::ladder::Ladder;
use crate::launch::{self, Caller, Launch};
use crate::ledger::{GroupId, Ledger};
use crate::mutant::{self, Mutant};
use crate::options::RunOptions;
use crate::report::Backend;
use crate::resources::Resources;
use crate::sampler::Sampler;
use crate::scan::Scanner;
use crate::sys::{self, Fate, RawPid};
use crate::title;
use crate::wire::{FromCommand, ToFront, ToSupervisor};

use self::asked::Asker;
use self::exec::{Launching, Mourner};
use self::in_kernel::InKernel;
use self::members::Member;

/// Descriptors that must be free for reading `/proc`, taking the listener in and opening the door.
const SPARE_FDS: usize = 4 + 4;

/// Longer than any run, and not too long for the kernel's timers.
const LONGEST_WAIT: Duration = Duration::from_secs(1 << 30);

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
    pub(crate) parent_ended: bool,
    pub(crate) refused: u64,
    pub(crate) ledger: Ledger,
    pub(crate) accounting: Accounting,
    pub(crate) sweep: Sweep,
    pub(crate) sampler: Sampler,
    pub(crate) freezer: Freezer,
    pub(crate) resources: Resources,
    /// Who entered a pid namespace that may not be of the tree.
    pub(crate) entered: Option<RawPid>,
    /// A task limit was set after the start, so that threads do not ask.
    pub(crate) late_limit: bool,
    phase: Phase,
    scanner: Scanner,
    signals: SignalFd,
    front: Option<OwnedFd>,
    /// Of the command, until it has executed, or failed to.
    launch: Option<OwnedFd>,
    gates: Vec<Gate>,
    /// Forks of frozen groups that are not answered.
    held: Vec<Asker>,
    /// Why there is no gate, if it was tried.
    no_gate: Option<Errno>,
    /// Commands that want to be traced, but a freeze has them; with the group of one that is brought
    /// in.
    to_trace: Vec<(RawPid, Option<GroupId>)>,
    /// Somebody asks by ptrace and has not been heard.
    asked_meanwhile: bool,
    /// Nobody who asks by ptrace is let through any more.
    shut: bool,
    /// Reapers of nested groups.
    members: Vec<Member>,
    /// Commands that were brought in and have not executed yet.
    launching: Vec<Launching>,
    /// Who waits for groups to be gone.
    mourners: Vec<Mourner>,
    /// When everything began to be killed.
    killing_since: Option<Instant>,
    /// When to look at groups that are being killed, and after how long the time after.
    doomed_due: Option<(Instant, Duration)>,
    /// Why nobody can come in from outside, if so.
    pub(crate) door: Result<Door, Errno>,
    /// The kernel's cgroup that the command is in.
    pub(crate) kernel: Option<InKernel>,
    /// Until when nobody is let in, so that others get their turn.
    door_rests: Option<Instant>,
    journal: Journal,
    failure: Option<HostError>,
}

/// Runs the supervisor in the calling process, which was forked for it, and ends it.
pub fn supervise(options: &RunOptions, caller: &Caller, front: OwnedFd, started: Instant) -> ! {
    let failure = match Supervisor::start(options, caller, front.as_fd(), started) {
        Ok(mut supervisor) => {
            if options.keeper {
                // Whoever made it has nothing to wait for any more.
                let _ = ToFront::Done.send(front.as_fd());
                let _ = nix::sys::socket::shutdown(front.as_raw_fd(), Shutdown::Both);
                supervisor.front = None;
            }
            supervisor.run();
            if let Ok(door) = &supervisor.door {
                // Whoever removed or killed it waits for the answer.
                door.see_out();
            }
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

        let kernel = InKernel::begin(options, caller)?;
        let ladder = Ladder::new(options, caller.sigchld_ignored, kernel.as_ref());
        ladder.check()?;
        let program =
            |rung, whom| ladder.has(rung).then(|| filter::program(options.asks(), whom)).flatten();
        let gate = program(Backend::Gate, Whom::Listener);
        let trace = program(Backend::Ptrace, Whom::Tracer);
        if gate.is_none() && trace.is_none() && !ladder.has(Backend::Reaper) {
            return Err(ladder.nothing_holds(&gate::why_not(Errno::EOPNOTSUPP)));
        }

        let setup = |e| HostError::call("cannot set up the supervisor", e);
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(setup)?;
        let scanner = Scanner::open(getpid().as_raw())?;
        let held = |file: &str| kernel.as_ref().is_some_and(|kernel| kernel.holds(file));
        let pids_max = options.pids_max.filter(|_| !held("pids.max"));
        let mut ledger = Ledger::new(&options.name, pids_max, started).map_err(|e| {
            HostError::new("cannot set up the group", e.name(), "check --name and --pids-max")
        })?;
        for (file, value) in options.set.iter().filter(|(file, _)| !held(file)) {
            ledger
                .set("", file, value.as_bytes())
                .map_err(|errno| in_kernel::cannot_set(kernel.as_ref(), file, value, errno))?;
        }
        let front_copy = front.try_clone_to_owned().map_err(|_| setup(Errno::EMFILE))?;
        check_spare_descriptors(front).map_err(setup)?;

        let door = Door::open(&options.name);
        if options.keeper
            && let Err(errno) = &door
        {
            return Err(HostError::new(
                format_args!("cannot create group {}", options.name),
                match errno {
                    Errno::EEXIST => "there is one already (EEXIST)".to_owned(),
                    other => format!("it can have no door: {} ({other:?})", other.desc()),
                },
                "choose another name; `cgrove tree` shows what there is",
            ));
        }
        if options.named && matches!(door, Err(Errno::EEXIST)) {
            return Err(HostError::new(
                format_args!("cannot start a run called {}", options.name),
                "there is one already (EEXIST)",
                "choose another --name; `cgrove tree` shows what runs",
            ));
        }
        let argv = launch::argv(&options.command)?;
        let cpus = ledger.chosen_cpus(GroupId::RUN);
        let environment = launch::environment(&options.name);
        let procs = kernel.as_ref().map(|kernel| kernel.group.procs());
        let launch = Launch {
            environment: &environment,
            argv: &argv,
            caller,
            gate: gate.as_deref(),
            trace: trace.as_deref(),
            ask_or_nothing: !ladder.has(Backend::Reaper),
            held: ledger.is_freezing(),
            gatekeeper: None,
            own_session: false,
            cpus: cpus.as_deref(),
            cgroup: procs.as_deref(),
        };
        // A keeper has none, and no process has this pid.
        let mut command = 0;
        let mut socket = None;
        if !options.keeper {
            let (pid, report) = launch::start(&launch)?;
            (command, socket) = (pid, Some(report));
        }
        // Not before the command exists: it stays in the caller's session. Cannot fail, for a fork
        // of the front leads no process group.
        if mutant::is(Mutant::SameSession) {
            let _ = nix::unistd::setpgid(getpid(), getpid());
        } else {
            let _ = setsid();
        }
        // What the command was handed is its own to close: a reader waits for the last holder.
        let mut kept = vec![front.as_fd(), front_copy.as_fd(), signals.as_fd(), scanner.as_fd()];
        kept.extend(socket.as_ref().map(AsFd::as_fd));
        kept.extend(door.iter().flat_map(Door::fds));
        kept.extend(caller.handed.fds());
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
            parent_ended: false,
            refused: 0,
            ledger,
            accounting: Accounting::default(),
            sweep: Sweep::default(),
            sampler: Sampler::default(),
            freezer: Freezer::default(),
            resources: Resources::new(options.series, started),
            entered: None,
            late_limit: false,
            phase: Phase::Running { timeout: options.timeout.and_then(|t| started.checked_add(t)) },
            scanner,
            signals,
            front: Some(front_copy),
            launch: socket,
            gates: Vec::new(),
            held: Vec::new(),
            no_gate: None,
            to_trace: Vec::new(),
            asked_meanwhile: false,
            shut: false,
            members: Vec::new(),
            launching: Vec::new(),
            mourners: Vec::new(),
            killing_since: None,
            doomed_due: None,
            door,
            kernel,
            door_rests: None,
            journal: Journal::new(started),
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
        if !self.options.keeper {
            if self.ledger.adopt(self.command).is_err() {
                return Err(setup(Errno::EINVAL));
            }
            self.resources.add(self.command, &self.ledger);
        }
        for follower in &self.caller.handed.followers {
            let ours = follower.try_clone().map_err(|_| setup(Errno::EMFILE))?;
            self.journal.add(ours, self.ledger.root().path()).map_err(setup)?;
        }
        self.command_started();
        if let Some(socket) = self.launch.as_ref().filter(|_| self.ledger.is_freezing()) {
            // Seized and interrupted, it does not come as far as its exec.
            self.freezer.step(&mut self.ledger, &mut self.scanner, None);
            launch::let_start(socket.as_fd());
        }
        if self.caller.sigchld_ignored {
            self.accounting.degrade("the caller ignores SIGCHLD, and so may the command");
        }
        self.watch_kernel();
        let ladder = self.ladder();
        if ladder.has(Backend::Gate)
            && filter::program(filter::Ask::default(), Whom::Listener).is_none()
        {
            self.without_gate(gate::why_not(Errno::EOPNOTSUPP));
        } else if !ladder.has(Backend::Gate) && ladder.has(Backend::Ptrace) {
            self.backend = Backend::Ptrace;
            self.backend_reason = "asked for by --backend ptrace".to_owned();
        } else if !ladder.has(Backend::Gate) {
            self.without_gate(match &self.kernel {
                Some(_) => "the kernel holds the limits of the run around".to_owned(),
                None => "asked for by --backend reaper".to_owned(),
            });
        }
        if self.options.keeper {
            return Ok(());
        }
        if !self.options.limits_tasks() {
            // Threads do not ask then.
            self.sampler.forked();
        }
        Ok(())
    }

    fn run(&mut self) {
        while self.phase != Phase::Over {
            self.hold_limits();
            self.freeze();
            self.on_held();
            self.on_askers();
            // What is not taken stays asked, and can be frozen asking.
            let answers = !self.is_frozen() || mutant::is(Mutant::FrozenForks);
            let sources = Sources {
                gates: self.gates.iter().filter(|_| answers).map(AsFd::as_fd).collect(),
                signals: self.signals.as_fd(),
                front: self.front.as_ref().map(AsFd::as_fd),
                launches: self
                    .launch
                    .iter()
                    .chain(self.launching.iter().map(|launching| &launching.socket))
                    .map(AsFd::as_fd)
                    .collect(),
                door: self
                    .door
                    .as_ref()
                    .ok()
                    .filter(|_| self.door_rests.is_none())
                    .map(AsFd::as_fd),
                links: self.members.iter().map(Member::sources).collect(),
                parent: self.parent(),
                kernel: self.kernel.as_ref().map(InKernel::sources).unwrap_or_default(),
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
            let launches = usize::from(self.launch.is_some());
            let linked = |at: &usize| self.members.get(*at).map(|member| member.group);
            let links = ready.iter().filter_map(|event| match event {
                Event::Link(at) => linked(at),
                _ => None,
            });
            // By their ids: others can come and go while events are handled.
            let links: Vec<GroupId> = links.collect();
            let mut deserted = None;
            for event in ready {
                match event {
                    Event::Asked(at) => self.on_gate(at),
                    Event::GateDeserted(at) => deserted = Some(at),
                    Event::Child => self.on_child(),
                    Event::Front => self.on_front(),
                    Event::Launch(at) if at < launches => self.on_launch(),
                    Event::Launch(at) => self.on_launching(at - launches),
                    Event::Door => self.on_door(),
                    Event::Parent => self.on_parent(),
                    Event::Link(_) => {}
                    Event::Kernel => self.on_kernel(),
                }
            }
            self.launching.retain(|launching| !launching.done);
            // One at a time: the next wait tells of the others.
            if let Some(at) = deserted.filter(|at| *at < self.gates.len()) {
                self.gates.remove(at);
            }
            links.into_iter().for_each(|id| self.on_link(id));
            self.on_time();
            self.tell_news();
        }
    }

    /// Until the next thing that is due.
    fn wait_time(&self) -> Option<Duration> {
        if self.asked_meanwhile {
            return Some(Duration::ZERO);
        }
        let phase = match self.phase {
            Phase::Running { timeout } => timeout,
            Phase::Terminating { until } => until,
            Phase::Killing { again } => Some(again),
            Phase::Over => None,
        };
        let others = self.sampler.due().into_iter().chain(self.door_rests);
        let others = others.chain(self.freezer.due()).chain(self.journal.due());
        let others = others.chain(self.doomed_due.map(|(due, _)| due));
        let others = others.chain(self.limits_due());
        let others = others.chain(self.kernel_due());
        let due = phase.into_iter().chain(others).min()?;
        Some(due.saturating_duration_since(Instant::now()).min(LONGEST_WAIT))
    }

    fn on_time(&mut self) {
        if self.door_rests.is_some_and(|until| until <= Instant::now()) {
            self.door_rests = None;
        }
        if self.kernel_due().is_some_and(|due| due <= Instant::now()) {
            self.on_kernel();
        }
        if self.doomed_due.is_some_and(|(due, _)| due <= Instant::now()) {
            self.kill_doomed();
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

    /// Whether nobody is to go on, and so no fork to be answered.
    fn is_frozen(&self) -> bool {
        !matches!(self.phase, Phase::Killing { .. }) && self.ledger.is_freezing()
    }

    /// Carries out what the core wants frozen and thawed. Who is killed needs neither.
    fn freeze(&mut self) {
        if matches!(self.phase, Phase::Killing { .. } | Phase::Over) {
            if self.freezer.give_up() {
                self.answer((Err(Errno::ESRCH), None));
            }
            return;
        }
        let sampler = (self.backend == Backend::Reaper).then_some(&mut self.sampler);
        self.freezer.step(&mut self.ledger, &mut self.scanner, sampler);
        if let Some(answer) = self.freezer.take_answer() {
            self.answer((Ok(answer), None));
        }
        if self.freezer.has_news() {
            self.reap();
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

    /// Whether the command has not executed yet.
    fn is_launching(&self) -> bool {
        self.launch.is_some()
    }

    fn on_launch(&mut self) {
        let Some(socket) = &self.launch else { return };
        match FromCommand::receive(socket.as_fd()) {
            Ok(Some(FromCommand::Listener(listener))) => {
                self.gates.push(Gate::new(listener));
                if self.options.asks().affinity {
                    self.resources.affinity_asks(true);
                }
            }
            Ok(Some(FromCommand::NoGate(errno))) => {
                self.no_gate = Some(errno);
                // Else it tries the next rung.
                if !self.ladder().has(Backend::Ptrace)
                    || filter::program(filter::Ask::default(), Whom::Tracer).is_none()
                {
                    self.nobody_asks(gate::why_not(errno));
                }
            }
            Ok(Some(FromCommand::TraceMe(pid))) => self.trace(pid, None),
            Ok(Some(FromCommand::Traced)) => self.with_tracer(),
            Ok(Some(FromCommand::NoTrace(errno))) => {
                self.freezer.untrace(self.command);
                self.nobody_asks(gate::why_not(errno));
            }
            Ok(Some(FromCommand::ExecFailed(errno))) => self.exec_error = Some(errno),
            // It comes after what it gives up for, if that is the gate.
            Ok(Some(FromCommand::GaveUp(errno))) => {
                if let Some(kernel) = &self.kernel {
                    let procs = kernel.group.procs();
                    let what = format!("the command cannot enter {}", procs.display());
                    self.fail(HostError::call(what, errno));
                }
            }
            Ok(None) => {
                self.launch = None;
                self.command_executed();
                // From here on its memory is its own.
                self.resources.poke();
            }
            Err(errno) => {
                self.launch = None;
                self.fail(HostError::call("cannot take the fork gate over", errno));
            }
        }
    }

    /// A look at the tree because its time has come, not because someone asked.
    fn sample(&mut self) {
        let begun = Instant::now();
        let census = match self.backend {
            Backend::Gate | Backend::Ptrace => self.ledger.reconcile(&mut self.scanner),
            Backend::Reaper | Backend::Kernel => {
                let census = self.scanner.glance();
                let new = self.ledger.follow(&census, &mut self.scanner);
                self.sampler.found(new);
                census
            }
        };
        self.resources.census(&census, &self.ledger);
        if self.accounting.is_sampled() {
            self.accounting.sample(&census);
        }
        if self.backend == Backend::Reaper {
            for (id, excess) in self.ledger.excess() {
                let Supervisor { ledger, sweep, scanner, .. } = self;
                let killed =
                    sweep.newest(scanner, &census, excess, |pid| ledger.is_member(pid, id));
                ledger.killed_for(id, killed);
                self.refused += killed;
                if killed > 0 {
                    self.happened_to(id, What::PidsMax { count: killed });
                }
            }
        }
        let always = self.backend == Backend::Reaper || self.accounting.is_sampled();
        let threads_unseen = !self.options.limits_tasks();
        self.sampler.done(begun, census.tasks.len(), always, threads_unseen);
    }
}

/// Fails with EMFILE now rather than in the middle of the run.
fn check_spare_descriptors(any: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut spare = Vec::with_capacity(SPARE_FDS);
    for _ in 0..SPARE_FDS {
        spare.push(any.try_clone_to_owned().map_err(|_| Errno::EMFILE)?);
    }
    Ok(())
}
