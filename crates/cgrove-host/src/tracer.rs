//! Forks that ask by ptrace, where a place has no seccomp user notification.
//!
//! **Problem.** A listener needs seccomp(2), and only one can be had: an old kernel, a filter that
//! refuses the call, or a listener that is there already leave no gate. Without one a task limit is
//! what sampling can make of it.
//!
//! **Mechanism.** The same filter sends the same calls to a tracer instead (`SECCOMP_RET_TRACE`), and
//! prctl(2) installs it where seccomp(2) is refused. The supervisor seizes the command before that,
//! and the kernel hands every new task on to it (`PTRACE_O_TRACEFORK` and its like), so no task is
//! ever without. A task that asks stands in a ptrace-stop until it is answered; a refused call is
//! skipped, with the errno as its result. A call with CLONE_UNTRACED loses that flag. With no tracer
//! left the calls fail with ENOSYS, and `PTRACE_O_EXITKILL` ends everyone anyway.
//!
//! Between questions tasks run as if nobody traced them: signals, group-stops and execs are passed on
//! as they come. What it costs: a debugger inside finds everybody traced already (EPERM), and each
//! fork takes three stops more than at the gate.
//!
//! Freezes and halts are the freezer's, which finds everyone seized and need only interrupt. A task
//! that asks already stands.

use std::collections::{HashMap, HashSet};

use nix::errno::Errno;

use crate::filter;
use crate::gate::Asked;
use crate::ledger::GroupId;
use crate::mutant::{self, Mutant};
use crate::sys::{self, RawPid, TraceStop};

/// Of every task that is traced for its forks.
pub(crate) const OPTIONS: i32 = libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
struct Call {
    asked: Asked,
    /// What its first argument has to become before it may run, and whether it is a 32-bit call.
    argument: Option<(u64, bool)>,
}

/// The tasks that are traced for their forks.
#[derive(Debug, Default)]
pub(crate) struct Tracer {
    all: HashSet<RawPid>,
    /// Those that stand and wait for an answer.
    asking: HashMap<RawPid, Call>,
    /// Those that a signal has stopped.
    stopped: HashSet<RawPid>,
    /// Those that were let fork, and have not told of a child.
    forking: HashMap<RawPid, GroupId>,
}

impl Tracer {
    pub fn knows(&self, tid: RawPid) -> bool {
        self.all.contains(&tid)
    }

    pub fn took(&mut self, tid: RawPid) {
        self.all.insert(tid);
    }

    pub fn lost(&mut self, tid: RawPid) {
        self.all.remove(&tid);
        self.asking.remove(&tid);
        self.forking.remove(&tid);
        self.stopped.remove(&tid);
    }

    /// Everyone who is traced.
    pub fn everyone(&self) -> impl Iterator<Item = RawPid> + '_ {
        self.all.iter().copied()
    }

    /// Everyone whom a signal has stopped.
    pub fn stopped(&self) -> impl Iterator<Item = RawPid> + '_ {
        self.stopped.iter().copied()
    }

    /// The group of the latest fork of a task that asks again, if that came to nothing. Signals interrupt more
    /// than usual: to a tracee even those are told that it ignores.
    pub fn failed(&mut self, tid: RawPid) -> Option<GroupId> {
        self.forking.remove(&tid).filter(|_| !mutant::is(Mutant::FailedForks))
    }

    /// A task was let fork, in this group.
    pub fn forks(&mut self, tid: RawPid, group: GroupId) {
        self.forking.insert(tid, group);
    }

    /// Whether it stands and waits for an answer.
    pub fn is_asking(&self, tid: RawPid) -> bool {
        self.asking.contains_key(&tid)
    }

    /// Everyone who waits for an answer.
    pub fn askers(&self) -> impl Iterator<Item = (RawPid, Asked)> + '_ {
        self.asking.iter().map(|(tid, call)| (*tid, call.asked))
    }

    /// What a stop says about the task, whatever is to become of it. Returns the id that a thread had
    /// before an execve gave it its leader's.
    pub fn stood(&mut self, tid: RawPid, stop: TraceStop) -> Option<RawPid> {
        self.took(tid);
        if is_group_stop(stop) {
            self.stopped.insert(tid);
        } else {
            // One that is interrupted says so again.
            self.stopped.remove(&tid);
        }
        match stop.event {
            libc::PTRACE_EVENT_SECCOMP => {
                // What cannot be read was killed.
                if let Ok((arch, nr, args)) = sys::ptrace_asked(tid) {
                    let asked = Asked::of(arch, nr, &args);
                    let argument = filter::traced(arch, nr, &args);
                    self.asking.insert(tid, Call { asked, argument });
                }
                None
            }
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.forking.remove(&tid);
                None
            }
            libc::PTRACE_EVENT_EXEC => {
                let former = sys::ptrace_message(tid).ok()?;
                let former = RawPid::try_from(former).ok().filter(|former| *former != tid)?;
                self.lost(former);
                Some(former)
            }
            _ => None,
        }
    }

    /// Lets a call run. `false`: the task was killed, and the call did not run.
    pub fn allow(&mut self, tid: RawPid) -> bool {
        let Some(call) = self.asking.remove(&tid) else { return false };
        let changed = match call.argument {
            Some((value, compat)) if !mutant::is(Mutant::UntracedChild) => {
                sys::ptrace_set_argument(tid, compat, value)
            }
            _ => Ok(()),
        };
        changed.and_then(|()| sys::ptrace_cont(tid, 0)).is_ok()
    }

    /// Has a call return without running: 0, or an errno.
    pub fn answer(&mut self, tid: RawPid, result: Result<(), Errno>) {
        if self.asking.remove(&tid).is_some() {
            let value = result.map_or_else(|errno| -i64::from(errno as i32), |()| 0);
            // A task that is killed meanwhile wants no answer.
            let _ = sys::ptrace_answer(tid, value).and_then(|()| sys::ptrace_cont(tid, 0));
        }
    }

    /// Lets a task go on that stands for another reason. `false`: it was killed.
    pub fn go_on(&self, tid: RawPid, stop: TraceStop) -> bool {
        match stop.event {
            libc::PTRACE_EVENT_STOP if stop.signal != libc::SIGTRAP => {
                sys::ptrace_listen(tid).is_ok()
            }
            0 => sys::ptrace_cont(tid, stop.signal).is_ok(),
            _ => sys::ptrace_cont(tid, 0).is_ok(),
        }
    }
}

/// Whether a stop is that of its whole process, by a stop signal.
pub(crate) fn is_group_stop(stop: TraceStop) -> bool {
    stop.event == libc::PTRACE_EVENT_STOP && stop.signal != libc::SIGTRAP
}
