//! Bringing the tasks of a live run to a halt, and letting them go on as if nothing had been.
//!
//! **Problem.** SIGSTOP is not a freezer: parents are told, job control is confused, whoever gets
//! SIGCONT runs. And a tracer that is attached all the time costs every task something and leaves
//! gdb, strace and LeakSanitizer no place.
//!
//! **Mechanism.** `PTRACE_SEIZE` and `PTRACE_INTERRUPT` (ptrace(2)) when a task is to freeze,
//! `PTRACE_DETACH` when it is to thaw, and nothing in between. The kernel does the rest:
//!
//! * the stop is told to the tracer alone, so no parent sees it;
//! * a task that was stopped by a signal is so again after the detach, unless SIGCONT came
//!   meanwhile, and its parent is not told twice;
//! * signals stay pending in a ptrace-stop; SIGKILL ends it;
//! * a call that sleeps is interrupted and begins anew, as for the kernel's own freezer;
//! * a tracer that dies lets everyone go.
//!
//! A freeze is *reached* when every task found has halted and one more pass over the tree, begun
//! after that, shows nobody else (`Scanner::nobody_but`). Forks that were let through before the
//! freeze are caught by that pass; new ones are not answered, and ask again after the thaw.
//!
//! Three kinds of task do not simply stop:
//!
//! * A parent in vfork(2) sleeps where no signal wakes it until its child, frozen too, goes on. It
//!   counts as halted (as in Linux, `wait_for_vfork_done`): it stops before it does anything.
//! * A task in another uninterruptible sleep stops when that is over. Nothing here waits for it;
//!   whoever asked is told its name after `PATIENCE`.
//! * A task that somebody else traces, or that may not be traced, is *loose*: it runs on, and the
//!   answer, `frozen 0` and the report say so. It cannot fork through the gate meanwhile.
//!
//! A tracee that has not stopped yet cannot be let go: it is *leaving* then, and detached from the
//! moment it stops. While there are tracees, waiting for any child also finds their stops and
//! ends, which `Freezer::wait_any` tells apart from those of the supervisor's children.
//!
//! Seizing a task waits while it is in execve(2) (`cred_guard_mutex`), and an execve of one thread
//! waits until the tracer of the others has taken their ends: a program with threads could hold the
//! supervisor for good, and so could a file server that is frozen itself. So a SEIZE that takes
//! long is given up (`sys::Impatient`) and tried *again* later.
//!
//! Where forks ask by ptrace (`tracer.rs`) everyone is seized already, and stays so: a freeze only
//! interrupts, and a thaw only lets go on.
//!
//! Besides the core's freezes there are *halts* (`halt.rs`), by which limits hold: the same stops, of
//! single processes, that no file tells of. A task goes on when neither wants it stopped.
//!
//! Known edge: between SEIZE and the stop an execve(2) of a setuid program gains no rights if the
//! supervisor has none to trace it (`LSM_UNSAFE_PTRACE`).

mod halt;
mod loose;
mod passing;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::getpid;

pub use loose::{Frozen, Loose, Why, is_in_vfork};
use loose::{name_of, refusal};

use crate::ledger::Ledger;
use crate::mutant::{self, Mutant};
use crate::procfs::Proc;
use crate::report::Class;
use crate::sampler::Sampler;
use crate::scan::Scanner;
use crate::sys::{self, Continued, Fate, Peeked, RawPid, TraceStop, Waited};
use crate::tracer::{self, Tracer};

/// How long whoever asked waits for tasks in an uninterruptible sleep. Less than the door's own.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at those that have not stopped, at first and at most. A look finds what gives
/// no event: a parent that has come to sleep in vfork.
const LOOK: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];
/// From this pause on, a look also finds tracees that an execve has put in another's place.
const LOOK_CLOSER: Duration = Duration::from_millis(4);
/// How often a task is tried to which we seem to have no right: one that ends or is in execve
/// looks so for a moment.
const MAX_TRIES: u32 = 7;
/// Passes in one step over a tree that gets no quieter.
const MAX_ROUNDS: usize = 8;
/// How many tasks an answer names.
const MAX_NAMED: usize = 64;

/// Where a task is that was asked to freeze.
#[derive(Debug)]
enum Standing {
    /// To be seized: it could not be at once.
    Again {
        /// How often it was refused.
        tries: u32,
    },
    /// Seized and interrupted.
    Coming,
    /// As before, and let go as soon as it stops.
    Leaving,
    /// In a ptrace-stop.
    Stopped {
        /// What it was about to take.
        signal: i32,
        /// It was stopped already, by a stop signal.
        job: bool,
    },
    /// Asleep in vfork, and stopped when it wakes.
    Parked,
    /// A leader that has ended before its threads.
    Dead,
    /// Runs on.
    Loose(Why),
}

/// What is known of a command that is traced and stopped by a signal.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum StoppedCommand {
    /// It is not.
    #[default]
    No,
    /// By this one, which is to be told.
    Untold(i32),
    /// And that was told.
    Told,
}

/// The tracer's side of a run.
#[derive(Debug, Default)]
pub(crate) struct Freezer {
    tasks: HashMap<RawPid, Standing>,
    /// Everyone is traced, for his forks.
    pub(crate) tracer: Option<Tracer>,
    /// The command, and whether it was stopped while its parent traced it, who so is not told.
    command: RawPid,
    stopped_command: StoppedCommand,
    /// Those of them that the core wants frozen.
    ordered: HashSet<RawPid>,
    /// Those of them that a halt holds, with the process of each.
    held: HashMap<RawPid, RawPid>,
    /// The first task that a halt could not stop.
    unheld: Option<Loose>,
    /// Those that are coming or leaving, the first to be expected first.
    awaited: Vec<RawPid>,
    /// The freeze is reached, and the core knows.
    settled: bool,
    /// The run, or a group of it, is to be frozen, whoever is known of it.
    on: bool,
    /// A task could be seized: one that cannot be is an exception.
    able: bool,
    /// When to look again without an event, and after how long the time after.
    look: Option<(Instant, Duration)>,
    /// Somebody waits for the freeze to be reached, until then. One at a time, as the door has it.
    waiting: Option<Instant>,
    /// What he is to be told.
    answer: Option<Vec<u8>>,
    /// A task that its process's stop had stopped was let go.
    news: bool,
    /// For the report: how well freezes held, and the first task that did not.
    class: Option<Class>,
    first_loose: Option<Loose>,
}

impl Freezer {
    /// How well freezes held, if there were any, and the first task that ran on.
    pub(crate) fn held(&self) -> (Option<Class>, Option<&Loose>) {
        (self.class, self.first_loose.as_ref())
    }

    /// When [`Freezer::step`] is due though nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at)
    }

    /// Carries out what the ledger's core wants frozen and thawed, and tells it what was reached.
    /// `sampler`: forks do not ask.
    pub(crate) fn step(
        &mut self,
        ledger: &mut Ledger,
        scanner: &mut Scanner,
        mut sampler: Option<&mut Sampler>,
    ) {
        for _ in 0..MAX_ROUNDS {
            let freeze = self.carry_out(ledger, scanner);
            self.on = ledger.freezes_some();
            if self.on && !ledger.is_freezing() {
                self.let_strays_go(ledger, &mut scanner.proc);
            }
            if self.tasks.is_empty() && !self.on {
                self.ordered.clear();
                self.held.clear();
                self.look = None;
                self.settled = false;
                self.dismiss(&mut scanner.proc);
                return;
            }
            self.collect(&mut scanner.proc);
            if !self.wanted() {
                self.settled = false;
                // Who is only held gives an event when it stops.
                let uncertain = |it: &Standing| matches!(it, Standing::Again { .. });
                if self.awaited.is_empty() && !self.tasks.values().any(uncertain) {
                    self.look = None;
                } else {
                    self.look_again();
                }
                self.dismiss(&mut scanner.proc);
                return;
            }
            if self.settled && !freeze {
                return;
            }
            self.settled = false;
            let coming = |it: &Standing| matches!(it, Standing::Coming | Standing::Again { .. });
            if self.tasks.values().any(coming) {
                self.look_again();
                self.lose_patience(&mut scanner.proc);
                return;
            }
            // Who ended, or made an execve, the core still counts.
            let known = ledger.tids_to_freeze().all(|tid| self.tasks.contains_key(&tid));
            if known && self.is_everyone(ledger, scanner) || mutant::is(Mutant::NewcomersMissed) {
                self.reached(ledger, &mut scanner.proc);
                return;
            }
            // Names and orders for those who are new, and no more for those who are gone.
            match &mut sampler {
                None => drop(ledger.reconcile(scanner)),
                Some(sampler) => {
                    let census = scanner.glance();
                    sampler.found(ledger.follow(&census, scanner));
                }
            }
            // A tracee is kept until its end is taken: a glance can miss it, and forget nothing.
            let traced = |it: &Standing| {
                !matches!(it, Standing::Dead | Standing::Loose(_) | Standing::Again { .. })
            };
            self.tasks.retain(|tid, it| traced(it) || ledger.knows(*tid));
            self.ordered.retain(|tid| self.tasks.contains_key(tid));
            if self.on {
                // Known before, and gone, and there again: after an execve of another thread.
                let missing = ledger.tids_to_freeze().filter(|tid| !self.tasks.contains_key(tid));
                for tid in missing.collect::<Vec<_>>() {
                    self.ordered.insert(tid);
                    self.seize(tid, &mut scanner.proc, &sys::Impatient::begin());
                }
            }
        }
        // The loose fork faster than one can look.
        self.look_again();
        self.lose_patience(&mut scanner.proc);
    }

    /// The run is killed, which needs no thaw. Returns whether somebody waits for an answer.
    pub(crate) fn give_up(&mut self) -> bool {
        self.look = None;
        self.answer = None;
        self.waiting.take().is_some()
    }

    /// Whether a child may have stopped without a SIGCHLD of its own: while it was traced by its
    /// parent, its stop was told to the tracer.
    pub(crate) fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Answers whoever asked for a freeze, now or by [`Freezer::take_answer`] when it is reached.
    pub(crate) fn ask(&mut self, proc: &mut Proc) -> Option<Result<Vec<u8>, Errno>> {
        if self.settled || !self.wanted() {
            return Some(Ok(self.answer(proc)));
        }
        self.waiting = Some(Instant::now() + PATIENCE);
        None
    }

    /// What whoever waits is to be told, once it is known.
    pub(crate) fn take_answer(&mut self) -> Option<Vec<u8>> {
        self.answer.take()
    }

    /// If all that was asked to freeze was refused to us: whom, and why.
    pub(crate) fn refused_all(&self, proc: &mut Proc) -> Option<Frozen> {
        let refused = |it: &Standing| matches!(it, Standing::Loose(Why::Refused { .. }));
        let dead = |it: &Standing| matches!(it, Standing::Dead | Standing::Leaving);
        let all = self.frozen().all(|(_, it)| refused(it) || dead(it));
        if !all || !self.frozen().any(|(_, it)| refused(it)) {
            return None;
        }
        Some(Frozen { undone: true, ..self.now(proc) })
    }

    /// Those that a signal has stopped and that are in a ptrace-stop, which is all that shows.
    pub(crate) fn stopped_jobs(&self) -> impl Iterator<Item = RawPid> + '_ {
        let job = |it: &Standing| matches!(it, Standing::Stopped { job: true, .. });
        let frozen = self.tasks.iter().filter(move |(_, it)| job(it)).map(|(tid, _)| *tid);
        frozen.chain(self.tracer.iter().flat_map(Tracer::stopped))
    }

    /// Where those are whom the core wants frozen.
    fn frozen(&self) -> impl Iterator<Item = (RawPid, &Standing)> {
        self.tasks.iter().filter(|(tid, _)| self.ordered.contains(tid)).map(|(tid, it)| (*tid, it))
    }

    /// As [`sys::wait_child`], with the stops and ends of tracees kept apart: those are no news of
    /// children, and a tracee's end goes to its real parent once the tracer has taken it.
    pub(crate) fn wait_any(
        &mut self,
        proc: &mut Proc,
        command: RawPid,
    ) -> Result<Option<Waited>, Errno> {
        let traced = self.tracer.is_some();
        if !traced && (self.tasks.is_empty() || mutant::is(Mutant::TraceesConfused)) {
            return sys::wait_child(sys::WaitFor::Changes);
        }
        loop {
            self.command = command;
            if let StoppedCommand::Untold(signal) = self.stopped_command {
                self.stopped_command = StoppedCommand::Told;
                return Ok(Some(change(command, Fate::Stopped(signal))));
            }
            let Some((pid, what)) = sys::peek_any()? else {
                // Not asked for with the others: it would take the news from a tracee's parent.
                match sys::take_continued(command) {
                    None => return Ok(None),
                    Some(Continued::Stopped(stop)) => {
                        if self.is_tracee(command) {
                            self.stopped(command, stop, proc);
                        } else {
                            self.passes(command, stop, command);
                        }
                        continue;
                    }
                    Some(Continued::Taken) => {}
                }
                self.stopped_command = StoppedCommand::No;
                return Ok(Some(change(command, Fate::Continued)));
            };
            let tracee = self.is_tracee(pid);
            match what {
                Peeked::Stopped if tracee => {
                    // There are more, mostly, and one tid costs less than any.
                    self.collect(proc);
                    if let Ok(Some(stop)) = sys::wait_trace_stop(pid) {
                        self.stopped(pid, stop, proc);
                    }
                }
                Peeked::Ended if tracee || traced => {
                    let parent = proc.stat(pid).map_or(0, |stat| stat.ppid);
                    // Of a thread the kernel tells what its whole process used.
                    let thread = proc.process_of(pid).is_some_and(|leader| leader != pid);
                    let Some(waited) = sys::wait_for(pid)? else { continue };
                    self.tasks.remove(&pid);
                    if let Some(tracer) = &mut self.tracer {
                        tracer.lost(pid);
                    }
                    if thread && !mutant::is(Mutant::ThreadsCounted) {
                        continue;
                    }
                    // An orphan meanwhile, if both are gone now.
                    let ours = parent == getpid().as_raw()
                        || (proc.stat(pid).is_err()
                            && proc.stat(parent).map_or(true, |stat| stat.is_zombie()));
                    if ours || mutant::is(Mutant::EndsMistaken) {
                        return Ok(Some(waited));
                    }
                }
                Peeked::Stopped if traced && self.is_traced(pid, proc) => {
                    if let Ok(Some(stop)) = sys::wait_trace_stop(pid) {
                        self.passes(pid, stop, command);
                    }
                }
                // As after an execve, with the id that its leader had.
                Peeked::Stopped if proc.tracer(pid) == Some(getpid().as_raw()) => {
                    let it = if self.on {
                        self.ordered.insert(pid);
                        Standing::Coming
                    } else {
                        Standing::Leaving
                    };
                    self.tasks.insert(pid, it);
                    self.awaited.push(pid);
                    self.settled = false;
                }
                Peeked::Stopped | Peeked::Ended => {
                    if let Some(waited) = sys::wait_for(pid)? {
                        return Ok(Some(waited));
                    }
                }
            }
        }
    }

    /// Whether a freeze or a halt has this task.
    fn is_tracee(&self, tid: RawPid) -> bool {
        let runs = |it: &Standing| matches!(it, Standing::Loose(_) | Standing::Again { .. });
        self.tasks.get(&tid).is_some_and(|it| !runs(it))
    }

    /// Whether a task is seized and stops as soon as it leaves the kernel.
    pub(crate) fn awaits(&self, tid: RawPid) -> bool {
        matches!(self.tasks.get(&tid), Some(Standing::Coming))
    }

    /// A tracee that has another's id after an execve may be of a group that runs on.
    fn let_strays_go(&mut self, ledger: &Ledger, proc: &mut Proc) {
        let stray = |tid: &RawPid| ledger.is_to_freeze(*tid) == Some(false);
        // Those that only a halt holds are no strays.
        let frozen = self.frozen().filter(|(_, it)| !matches!(it, Standing::Leaving));
        let strays: Vec<RawPid> = frozen.map(|(tid, _)| tid).filter(stray).collect();
        for tid in strays {
            self.ordered.remove(&tid);
            if !self.held.contains_key(&tid) {
                self.let_go(tid, proc);
            }
        }
    }

    /// Whether anybody is meant to be frozen.
    fn wanted(&self) -> bool {
        self.on || self.frozen().any(|(_, it)| !matches!(it, Standing::Leaving))
    }

    /// Seizes and lets go as the core orders. Returns whether anyone was to freeze.
    fn carry_out(&mut self, ledger: &mut Ledger, scanner: &mut Scanner) -> bool {
        let mut any = false;
        let orders = ledger.orders();
        let again = self.due_again(&mut scanner.proc);
        if orders.is_empty() && again.is_empty() {
            return false;
        }
        let impatient = sys::Impatient::begin();
        for tid in again {
            self.seize(tid, &mut scanner.proc, &impatient);
        }
        for (tid, freeze) in orders {
            if freeze {
                any = true;
                self.ordered.insert(tid);
                self.seize(tid, &mut scanner.proc, &impatient);
            } else {
                self.ordered.remove(&tid);
                if !self.held.contains_key(&tid) {
                    self.let_go(tid, &mut scanner.proc);
                }
                ledger.runs(tid);
            }
        }
        if any {
            self.look = None;
        }
        any
    }

    /// Whom to seize once more when a look is due.
    fn due_again(&mut self, proc: &mut Proc) -> Vec<RawPid> {
        let Some((_, pause)) = self.look.filter(|(at, _)| *at <= Instant::now()) else {
            return Vec::new();
        };
        let closer = pause >= LOOK_CLOSER;
        let me = getpid().as_raw();
        let mut again = Vec::new();
        self.tasks.retain(|&tid, it| match it {
            Standing::Again { .. } => {
                again.push(tid);
                true
            }
            // The thread that made an execve has the leader's id now, and is not what we seized.
            Standing::Coming if closer && proc.tracer(tid) != Some(me) => {
                again.push(tid);
                false
            }
            Standing::Leaving if closer => proc.tracer(tid) == Some(me),
            _ => true,
        });
        self.awaited.retain(|tid| self.tasks.contains_key(tid));
        again
    }

    fn seize(&mut self, tid: RawPid, proc: &mut Proc, impatient: &sys::Impatient) {
        let mut before = 0;
        match self.tasks.get_mut(&tid) {
            Some(Standing::Leaving) => {
                // Still awaited, and still to stop.
                self.tasks.insert(tid, Standing::Coming);
                return;
            }
            Some(Standing::Again { tries }) => before = *tries,
            Some(Standing::Loose(_)) | None => {}
            Some(_) => return,
        }
        let (mut seize, mut options) = (true, 0);
        if let Some(tracer) = &self.tracer {
            if tracer.is_asking(tid) {
                self.able = true;
                self.tasks.insert(tid, Standing::Stopped { signal: 0, job: false });
                return;
            }
            (seize, options) = (!tracer.knows(tid), tracer::OPTIONS);
        }
        // Nothing may come between the two: until the second the task runs, and is traced.
        let seized = if seize { sys::ptrace_seize(tid, options, impatient) } else { Ok(()) };
        let seized = seized.and_then(|()| sys::ptrace_interrupt(tid));
        let standing = match seized {
            Ok(()) => {
                self.able = true;
                self.awaited.push(tid);
                Standing::Coming
            }
            Err(Errno::EINTR) => Standing::Again { tries: before },
            Err(errno) => match proc.thread_stat(tid) {
                Ok(stat) if stat.is_zombie() => Standing::Dead,
                // Gone, as the next census will tell.
                Err(_) if !sys::thread_exists_anywhere(tid) => {
                    self.tasks.remove(&tid);
                    return;
                }
                _ => match refusal(tid, errno, proc) {
                    // It has taken the place of another tracee.
                    Why::TracedBy { tracer, .. } if tracer == getpid().as_raw() => {
                        let _ = sys::ptrace_interrupt(tid);
                        self.awaited.push(tid);
                        self.tasks.insert(tid, Standing::Coming);
                        self.collect(proc);
                        return;
                    }
                    Why::Refused { .. } if self.may_come_right(tid, before, proc) => {
                        Standing::Again { tries: before + 1 }
                    }
                    why => Standing::Loose(why),
                },
            },
        };
        self.tasks.insert(tid, standing);
    }

    /// Whether a refusal can be one that passes: one with the right to trace the task, where tracing
    /// works, certainly is.
    fn may_come_right(&self, tid: RawPid, tries: u32, proc: &mut Proc) -> bool {
        let right = proc.may_trace(tid);
        (self.able && right) || (tries < MAX_TRIES && (self.able || right))
    }

    fn let_go(&mut self, tid: RawPid, proc: &mut Proc) {
        if self.tracer.is_some() {
            self.let_pass(tid);
            return;
        }
        match self.tasks.remove(&tid) {
            Some(Standing::Stopped { signal, job }) => {
                self.news |= job;
                if job && mutant::is(Mutant::JobContinued) {
                    let _ = sys::kill(tid, libc::SIGCONT);
                }
                if sys::ptrace_detach(tid, signal).is_err() {
                    // Killed: there is an end to come.
                    self.leave(tid);
                }
            }
            Some(Standing::Coming | Standing::Leaving | Standing::Parked) => self.leave(tid),
            Some(Standing::Again { .. }) if proc.tracer(tid) == Some(getpid().as_raw()) => {
                self.leave(tid);
            }
            Some(Standing::Dead | Standing::Loose(_) | Standing::Again { .. }) | None => {}
        }
    }

    fn leave(&mut self, tid: RawPid) {
        if mutant::is(Mutant::LeavingForgotten) {
            return;
        }
        self.tasks.insert(tid, Standing::Leaving);
        if !self.awaited.contains(&tid) {
            self.awaited.push(tid);
        }
    }

    /// Takes the stops of those that are awaited.
    fn collect(&mut self, proc: &mut Proc) {
        let closer = self.look.is_some_and(|(_, pause)| pause >= LOOK_CLOSER);
        let mut awaited = std::mem::take(&mut self.awaited);
        awaited.retain(|&tid| {
            match self.tasks.get(&tid) {
                Some(Standing::Coming | Standing::Leaving | Standing::Parked) => {}
                _ => return false,
            }
            match sys::wait_trace_stop(tid) {
                Ok(Some(stop)) => {
                    self.stopped(tid, stop, proc);
                    false
                }
                Ok(None) => {
                    if matches!(self.tasks.get(&tid), Some(Standing::Coming))
                        && is_in_vfork(proc, tid)
                    {
                        self.tasks.insert(tid, Standing::Parked);
                        return true;
                    }
                    // A stop is told once, and this one was, of the id that it had before an execve.
                    let stands = closer
                        && proc.thread_stat(tid).is_ok_and(|stat| stat.state == b't')
                        && proc.tracer(tid) == Some(getpid().as_raw());
                    if stands {
                        let signal = libc::SIGTRAP;
                        let stop = TraceStop { signal, event: libc::PTRACE_EVENT_STOP };
                        self.stopped(tid, stop, proc);
                    }
                    !stands
                }
                // Gone, or no tracee of ours any more.
                Err(_) => {
                    self.tasks.remove(&tid);
                    false
                }
            }
        });
        awaited.append(&mut self.awaited);
        self.awaited = awaited;
    }

    fn stopped(&mut self, tid: RawPid, stop: TraceStop, proc: &mut Proc) {
        self.stood(tid, stop);
        // Without an event it is about to take a signal. With one it takes none; a signal named
        // there is the one that stopped its process.
        let signal = if stop.event == 0 { stop.signal } else { 0 };
        let job = stop.event == libc::PTRACE_EVENT_STOP && stop.signal != libc::SIGTRAP;
        match self.tasks.insert(tid, Standing::Stopped { signal, job }) {
            Some(Standing::Leaving) => self.let_go(tid, proc),
            // Told again: what it was about to take still is.
            Some(Standing::Stopped { signal: before, .. }) if signal == 0 => {
                self.tasks.insert(tid, Standing::Stopped { signal: before, job });
            }
            _ => {}
        }
    }

    /// Whether a pass that begins when all have halted sees them all and nobody else.
    /// Forgets those that are not what they were: an execve of another thread ends a leader that is
    /// stopped, and takes its thread id.
    fn is_everyone(&mut self, ledger: &Ledger, scanner: &mut Scanner) -> bool {
        let stays = |it: &Standing| matches!(it, Standing::Stopped { .. } | Standing::Parked);
        let halted = self.tasks.values().filter(|it| stays(it)).count();
        let (mut others, mut with_threads) = (Vec::new(), Vec::new());
        let everyone = scanner.nobody_but(
            |seen| {
                let Some(it) = self.tasks.get(&seen.tid) else {
                    // Of a group that runs on.
                    return (ledger.is_to_freeze(seen.tid) == Some(false)).then_some(false);
                };
                if seen.stat.is_some_and(|stat| stat.threads > 1) {
                    with_threads.push(seen.tid);
                }
                let is = |state: u8| seen.stat.is_none_or(|stat| stat.state == state);
                match it {
                    Standing::Stopped { .. } if !is(b't') => others.push(seen.tid),
                    Standing::Dead if !is(b'Z') && !is(b'X') => others.push(seen.tid),
                    Standing::Parked if !is(b'D') && !is(b't') => others.push(seen.tid),
                    _ => return Some(stays(it)),
                }
                None
            },
            halted,
        );
        // Its state was read before its threads were: one that was not listed any more, being the
        // leader by then, is not stopped.
        for tid in with_threads {
            let stops = matches!(self.tasks.get(&tid), Some(Standing::Stopped { .. }));
            if stops && !scanner.proc.thread_stat(tid).is_ok_and(|stat| stat.state == b't') {
                others.push(tid);
            }
        }
        for tid in &others {
            self.tasks.remove(tid);
        }
        everyone && others.is_empty()
    }

    fn reached(&mut self, ledger: &mut Ledger, proc: &mut Proc) {
        for (tid, it) in self.frozen() {
            if matches!(it, Standing::Stopped { .. } | Standing::Parked | Standing::Dead) {
                ledger.halted(tid);
            }
        }
        self.settled = true;
        // A tracee that leaves gives an event, but one that is parked may not.
        self.look = None;
        let now = self.now(proc);
        self.class = Some(self.class.map_or(now.class, |before| before.min(now.class)));
        if self.first_loose.is_none() {
            self.first_loose = now.loose.first().cloned();
        }
        self.dismiss(proc);
    }

    fn look_again(&mut self) {
        if self.awaited.is_empty() && self.waiting.is_none() && self.settled {
            self.look = None;
            return;
        }
        let now = Instant::now();
        let pause = match self.look {
            Some((at, _)) if at > now => return,
            Some((_, pause)) => (pause * 2).min(LOOK[1]),
            None => LOOK[0],
        };
        self.look = Some((now + pause, pause));
    }

    /// Answers who has waited long enough.
    fn lose_patience(&mut self, proc: &mut Proc) {
        if self.waiting.is_some_and(|until| until <= Instant::now()) {
            self.class = Some(Class::Sampled);
            self.dismiss(proc);
        }
    }

    /// Answers who waits.
    fn dismiss(&mut self, proc: &mut Proc) {
        if self.waiting.take().is_some() {
            self.answer = Some(self.answer(proc));
        }
    }

    fn answer(&self, proc: &mut Proc) -> Vec<u8> {
        serde_json::to_vec(&self.now(proc)).unwrap_or_default()
    }

    fn now(&self, proc: &mut Proc) -> Frozen {
        let mut loose: Vec<(RawPid, Why)> = Vec::new();
        for (tid, it) in self.frozen() {
            match it {
                Standing::Loose(why) => loose.push((tid, why.clone())),
                Standing::Coming | Standing::Again { .. } => loose.push((tid, Why::Sleeps)),
                _ => {}
            }
        }
        loose.sort_by_key(|(tid, _)| *tid);
        let count = loose.len();
        let mut named = Vec::new();
        for (tid, why) in loose.into_iter().take(MAX_NAMED) {
            let pid = proc.process_of(tid).unwrap_or(tid);
            named.push(Loose { tid, pid, name: name_of(pid, proc), why });
        }
        let thawed = !self.wanted();
        let exact = count == 0 && self.settled;
        let class = if exact { Class::Exact } else { Class::Sampled };
        Frozen { class, loose: named, count, undone: false, thawed }
    }
}

fn change(pid: RawPid, fate: Fate) -> Waited {
    Waited { pid, fate, cpu: sys::CpuTime::default(), max_rss: 0 }
}
