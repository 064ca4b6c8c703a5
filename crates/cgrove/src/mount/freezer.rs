//! Bringing the tasks of a mounted tree to a halt, and letting them go on.
//!
//! **Problem.** A tracer is a thread, and only that one may let its tracees go. The threads that
//! answer requests are others, and may wait for nobody: whoever writes `cgroup.freeze` can be one of
//! those who are to halt.
//!
//! **Mechanism.** As in a run (`cgrove_host::freezer`): `PTRACE_SEIZE` and `PTRACE_INTERRUPT` to
//! halt, `PTRACE_DETACH` to go on, nothing in between, all by one thread. Others name a task to it
//! through a channel that has no bound, and never wait. What is wanted of that task the thread asks
//! the core when it comes to it, so orders that overtake each other do no harm.
//!
//! A task inside a request to this mount halts when it is answered, as a task in any system call
//! does. So the server, which waits for no task, is in nobody's way and nobody is in its.
//!
//! The core is told of those that halted after one more look for newcomers: a child that was born
//! before its parent stood is known by then, and is to halt as well before `frozen` reads 1.
//!
//! Counted as halted are parents in vfork(2), who sleep until a frozen child goes on, and leaders that
//! have ended before their threads. Whoever cannot be seized (another tracer, no right to) is *loose*:
//! it runs, `frozen` reads 0, and it is tried again every now and then.
//!
//! SIGKILL ends who is halted. Ends of tracees are told to their tracer first, and to their parents
//! when it has taken them. When this process dies, the kernel lets everyone go.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cgrove_core::Task;
use cgrove_host::freezer::is_in_vfork;
use cgrove_host::mutant::{self, Mutant};
use cgrove_host::procfs::Proc;
use cgrove_host::sys::{self, Peeked, RawPid, TraceStop};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::gettid;

use super::adopted::Shared;

/// Between two looks at those that have not halted, at first and at most. A look finds what gives no
/// event: a parent that has come to sleep in vfork.
const LOOK: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(100)];
/// From this pause on, a look also finds tracees that an execve has put in another's place.
const LOOK_CLOSER: Duration = Duration::from_millis(4);
/// The core is told of those that have halted when all have, or after this.
const TOGETHER: Duration = Duration::from_millis(10);

/// A task that may have to halt or to go on.
pub(super) struct Subject {
    pub(super) tid: RawPid,
    /// Its process, and when that started.
    pub(super) pid: RawPid,
    pub(super) start: u64,
    pub(super) task: Arc<Task>,
}

enum Order {
    Look(Subject),
    End,
}

/// The thread, for others. Dropped, it lets everyone go.
pub(super) struct Freezer {
    orders: Sender<Order>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// What [`Freezer::start`] needs blocked in every thread: the tracer's alone.
pub(super) const BLOCKED: [Signal; 2] = [Signal::SIGCHLD, Signal::SIGALRM];

impl Freezer {
    /// Starts the thread. [`BLOCKED`] has to be blocked in all.
    pub(super) fn start(shared: Weak<Shared>) -> io::Result<Freezer> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        // Ignored, it would not be sent, and ends would tell nobody.
        sys::set_signal_ignored(libc::SIGCHLD, false);
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGCHLD);
        let stops = SignalFd::with_flags(&stops, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let proc = Proc::open()?;
        let (orders, ordered) = channel();
        let mut tracer = Tracer {
            proc,
            shared,
            orders: ordered,
            wake: Arc::clone(&wake),
            stops,
            tasks: HashMap::new(),
            look: None,
            untold: None,
            ended: false,
        };
        let thread = thread::Builder::new().name("cgrove-freezer".into());
        let thread = Some(thread.spawn(move || tracer.serve())?);
        Ok(Freezer { orders, wake, thread })
    }

    /// Has the thread look what is wanted of a task.
    pub(super) fn look(&self, subject: Subject) {
        self.order(Order::Look(subject));
    }

    /// Lets everyone go, and waits until that is done.
    pub(super) fn end(mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        // Nobody is there any more: everyone runs.
        let _ = self.orders.send(order);
        let _ = self.wake.write(1);
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.order(Order::End);
    }
}

/// Where a task is that is to halt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// To be seized: it could not be at once.
    Again,
    /// Seized and interrupted.
    Coming,
    /// As before, and let go as soon as it stops.
    Leaving,
    /// In a ptrace-stop, about to take this signal if it is not 0.
    Stopped(i32),
    /// Asleep in vfork, and stopped when it wakes.
    Parked,
    /// A leader that has ended before its threads.
    Dead,
}

impl Standing {
    fn is_halted(self) -> bool {
        matches!(self, Standing::Stopped(_) | Standing::Parked | Standing::Dead)
    }
}

struct Halt {
    subject: Subject,
    standing: Standing,
    /// The core knows that it has halted.
    told: bool,
}

/// The thread's own.
struct Tracer {
    proc: Proc,
    shared: Weak<Shared>,
    orders: Receiver<Order>,
    wake: Arc<EventFd>,
    stops: SignalFd,
    tasks: HashMap<RawPid, Halt>,
    /// When to look again without an event, and after how long the time after.
    look: Option<(Instant, Duration)>,
    /// Since when there may have been a task that halted and the core does not know.
    untold: Option<Instant>,
    ended: bool,
}

impl Tracer {
    fn serve(&mut self) {
        loop {
            let _ = self.wake.read();
            while let Ok(Some(_)) = self.stops.read_signal() {}
            let Some(shared) = self.shared.upgrade() else { break };
            self.listen(&shared);
            self.take();
            if self.look.is_some_and(|(at, _)| at <= Instant::now()) {
                self.look_closely();
            }
            self.tell(&shared);
            drop(shared);
            if self.ended {
                break;
            }
            self.wait();
        }
        self.let_everyone_go();
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let unsettled = |it: &Halt| {
            matches!(it.standing, Standing::Again | Standing::Coming | Standing::Leaving)
        };
        if !self.tasks.values().any(unsettled) {
            self.look = None;
        } else if self.look.is_none() {
            self.look = Some((now + LOOK[0], LOOK[0]));
        }
        let look = self.look.map(|(at, _)| at);
        let due = look.into_iter().chain(self.untold.map(|since| since + TOGETHER)).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Up, since a wait that ends too early would end again at once.
            let pause = due.saturating_duration_since(now) + Duration::from_micros(999);
            PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX)
        });
        let mut either = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stops.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut either, timeout);
    }

    fn listen(&mut self, shared: &Shared) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Look(subject) => self.ordered(subject, shared),
                Order::End => self.ended = true,
            }
        }
    }

    fn ordered(&mut self, subject: Subject, shared: &Shared) {
        let wanted = subject.task.cgroup().is_some_and(|cgroup| cgroup.freezing());
        let tid = subject.tid;
        match self.tasks.get_mut(&tid) {
            Some(halt) if wanted => {
                halt.subject = subject;
                if halt.standing == Standing::Leaving {
                    // Still to stop.
                    halt.standing = Standing::Coming;
                }
            }
            Some(halt) => {
                if std::mem::take(&mut halt.told) {
                    shared.with(|_, fx| shared.hierarchy().leave_frozen(&subject.task, true, fx));
                }
                self.let_go(tid);
            }
            None if wanted => {
                // As soon as somebody is new.
                self.look = None;
                let standing = Standing::Again;
                self.tasks.insert(tid, Halt { subject, standing, told: false });
                self.seize(tid, &sys::Impatient::begin());
            }
            None => {}
        }
    }

    fn seize(&mut self, tid: RawPid, impatient: &sys::Impatient) {
        let Some(halt) = self.tasks.get_mut(&tid) else { return };
        if mutant::is(Mutant::AdoptedRuns) {
            halt.standing = Standing::Dead;
            self.untold.get_or_insert_with(Instant::now);
            return;
        }
        // Nothing may come between the two: until the second the task runs, and is traced.
        let seized = sys::ptrace_seize(tid, 0, impatient).and_then(|()| sys::ptrace_interrupt(tid));
        match seized {
            // The id of one that is traced is nobody else's.
            Ok(()) if is_still(&halt.subject, &mut self.proc) => halt.standing = Standing::Coming,
            Ok(()) => halt.standing = Standing::Leaving,
            Err(Errno::EINTR) => {}
            Err(_) => match self.proc.thread_stat(tid) {
                Ok(stat) if stat.is_zombie() => {
                    halt.standing = Standing::Dead;
                    self.untold.get_or_insert_with(Instant::now);
                }
                Err(_) if !sys::thread_exists_anywhere(tid) => {
                    let pid = halt.subject.pid;
                    self.tasks.remove(&tid);
                    self.doubt(pid);
                }
                // It has taken the place of another tracee, by an execve.
                _ if self.proc.tracer(tid) == Some(gettid().as_raw()) => {
                    let _ = sys::ptrace_interrupt(tid);
                    halt.standing = Standing::Coming;
                }
                _ => {}
            },
        }
    }

    fn let_go(&mut self, tid: RawPid) {
        let Some(halt) = self.tasks.get_mut(&tid) else { return };
        match halt.standing {
            // If that fails it was killed: there is an end to come.
            Standing::Stopped(signal) if sys::ptrace_detach(tid, signal).is_err() => {
                halt.standing = Standing::Leaving;
            }
            Standing::Coming | Standing::Parked | Standing::Leaving => {
                halt.standing = Standing::Leaving;
            }
            Standing::Stopped(_) | Standing::Dead | Standing::Again => {
                self.tasks.remove(&tid);
            }
        }
    }

    /// At the end. Those that have not stopped yet the kernel lets go.
    fn let_everyone_go(&mut self) {
        self.take();
        for tid in self.tasks.keys().copied().collect::<Vec<_>>() {
            self.let_go(tid);
        }
    }

    /// Takes the stops and ends of tracees.
    fn take(&mut self) {
        while let Ok(Some((tid, what))) = sys::peek_own() {
            match what {
                Peeked::Stopped => {
                    // None: it was killed meanwhile.
                    if let Ok(Some(stop)) = sys::wait_trace_stop(tid) {
                        self.stopped(tid, stop);
                    }
                }
                Peeked::Ended => {
                    let _ = sys::wait_for(tid);
                    if let Some(ended) = self.tasks.remove(&tid) {
                        self.doubt(ended.subject.pid);
                    }
                }
            }
        }
    }

    fn stopped(&mut self, tid: RawPid, stop: TraceStop) {
        // Without an event it is about to take a signal. With one it takes none; a signal named there
        // is the one that stopped its process.
        let signal = if stop.event == 0 { stop.signal } else { 0 };
        let Some(halt) = self.tasks.get_mut(&tid) else {
            // By an execve it has the id of one that we forgot.
            let _ = sys::ptrace_detach(tid, signal);
            return;
        };
        let leaving = halt.standing == Standing::Leaving;
        halt.standing = match halt.standing {
            // Told again: what it was about to take still is.
            Standing::Stopped(before) if signal == 0 => Standing::Stopped(before),
            _ => Standing::Stopped(signal),
        };
        if leaving {
            self.let_go(tid);
        } else if !halt.told {
            self.untold.get_or_insert_with(Instant::now);
        }
    }

    /// A thread of this process is gone. If by an execve, its leader is not what was seized.
    fn doubt(&mut self, pid: RawPid) {
        let me = gettid().as_raw();
        self.untold.get_or_insert_with(Instant::now);
        let mut again = false;
        self.tasks.retain(|tid, halt| {
            if halt.subject.pid != pid {
                return true;
            }
            let state = self.proc.thread_stat(*tid).map_or(b'X', |stat| stat.state);
            match halt.standing {
                Standing::Dead if halt.subject.task.cgroup().is_none() => return false,
                Standing::Dead if !matches!(state, b'Z' | b'X') => {
                    halt.standing = Standing::Again;
                    again = true;
                }
                Standing::Stopped(_) if self.proc.tracer(*tid) != Some(me) => {
                    halt.standing = Standing::Again;
                    again = true;
                }
                // Seized by the id that it had, and about to stop.
                Standing::Stopped(_) if state != b't' => halt.standing = Standing::Coming,
                _ => {}
            }
            true
        });
        if again {
            // Before it makes threads again, one of which makes the next execve.
            self.look = Some((Instant::now(), LOOK[0]));
        }
    }

    /// Looks at those of whom no event tells.
    fn look_closely(&mut self) {
        let pause = self.look.map_or(LOOK[0], |(_, pause)| pause);
        let closer = pause >= LOOK_CLOSER;
        let me = gettid().as_raw();
        let mut impatient = None;
        for tid in self.tasks.keys().copied().collect::<Vec<_>>() {
            let Some(halt) = self.tasks.get_mut(&tid) else { continue };
            match halt.standing {
                Standing::Again => {
                    self.seize(tid, impatient.get_or_insert_with(sys::Impatient::begin));
                }
                Standing::Coming if is_in_vfork(&mut self.proc, tid) => {
                    halt.standing = Standing::Parked;
                    self.untold.get_or_insert_with(Instant::now);
                }
                Standing::Coming | Standing::Leaving if closer => {
                    let pid = halt.subject.pid;
                    if self.proc.tracer(tid) != Some(me) {
                        if halt.standing == Standing::Coming {
                            halt.standing = Standing::Again;
                        } else {
                            self.tasks.remove(&tid);
                        }
                        self.doubt(pid);
                    } else if self.proc.thread_stat(tid).is_ok_and(|stat| stat.state == b't') {
                        // A stop is told once, and this one was, of the id before an execve.
                        let told = sys::wait_trace_stop(tid).ok().flatten();
                        let stop =
                            TraceStop { signal: libc::SIGTRAP, event: libc::PTRACE_EVENT_STOP };
                        self.stopped(tid, told.unwrap_or(stop));
                    }
                }
                _ => {}
            }
        }
        let pause = (pause * 2).min(LOOK[1]);
        self.look = Some((Instant::now() + pause, pause));
    }

    /// Tells the core who has halted, and who has not though it was told so.
    ///
    /// Of a process all are told of together: one thread that is still to come can make an execve, and
    /// take the place of a leader that has halted.
    fn tell(&mut self, shared: &Shared) {
        for halt in self.tasks.values_mut().filter(|it| it.told && !it.standing.is_halted()) {
            halt.told = false;
            shared.with(|_, fx| shared.hierarchy().leave_frozen(&halt.subject.task, true, fx));
        }
        let Some(since) = self.untold else { return };
        let coming = |it: &Halt| it.standing == Standing::Coming;
        if self.tasks.values().any(coming) && since.elapsed() < TOGETHER {
            return;
        }
        // Newcomers are known, and not halted, before their parents and siblings are told of.
        shared.look();
        self.listen(shared);
        self.untold = None;
        let unsettled = self.tasks.values().filter(|it| !it.standing.is_halted());
        let unsettled: HashSet<RawPid> = unsettled.map(|it| it.subject.pid).collect();
        let settled = |it: &Halt| it.standing.is_halted() && !unsettled.contains(&it.subject.pid);
        for halt in self.tasks.values_mut().filter(|it| !it.told && settled(it)) {
            halt.told = true;
            shared.with(|_, fx| shared.hierarchy().enter_frozen(&halt.subject.task, fx));
        }
    }
}

/// Whether a thread is the one that was meant, and not a later one with its id.
fn is_still(subject: &Subject, proc: &mut Proc) -> bool {
    proc.process_of(subject.tid) == Some(subject.pid)
        && proc.stat(subject.pid).is_ok_and(|stat| stat.start == subject.start)
}
