//! A freezer where everybody is traced all the time, for his forks (`tracer.rs`).
//!
//! Every stop and every end of the tree comes by here. Who stands because the freezer asked him to is
//! the freezer's; who asks is kept until somebody answers; all others go on as they were, with the
//! signal that they were about to take, or stay stopped by it.

use nix::errno::Errno;
use nix::unistd::getpid;

use super::{Freezer, Standing, StoppedCommand};
use crate::gate::Asked;
use crate::procfs::Proc;
use crate::sys::{self, RawPid, TraceStop};
use crate::tracer::{self, Tracer};

impl Freezer {
    /// Seizes a task for its forks' sake: it and all that come from it ask by ptrace from now on.
    ///
    /// Errors as of PTRACE_SEIZE; EBUSY: a freeze or a halt has it, until it goes on.
    pub(crate) fn trace(&mut self, tid: RawPid) -> Result<(), Errno> {
        if self.tracer.is_some() && self.is_tracee(tid) {
            // It was seized with all that is needed.
            return Ok(());
        }
        if self.tasks.contains_key(&tid) {
            return Err(Errno::EBUSY);
        }
        sys::ptrace_seize(tid, tracer::OPTIONS, &sys::Impatient::begin())?;
        self.tracer.get_or_insert_default().took(tid);
        Ok(())
    }

    /// Undoes [`Freezer::trace`] of the only one.
    pub(crate) fn untrace(&mut self, tid: RawPid) {
        self.tracer = None;
        if sys::ptrace_interrupt(tid).is_ok() {
            self.leave(tid);
        }
    }

    /// Those that ask, and that neither a freeze nor a halt has.
    pub(crate) fn askers(&self) -> Vec<(RawPid, Asked)> {
        let askers = self.tracer.iter().flat_map(Tracer::askers);
        askers.filter(|(tid, _)| !self.tasks.contains_key(tid)).collect()
    }

    pub(super) fn is_traced(&self, tid: RawPid, proc: &mut Proc) -> bool {
        self.tracer.as_ref().is_some_and(|tracer| tracer.knows(tid))
            || proc.tracer(tid) == Some(getpid().as_raw())
    }

    /// A traced task stands that nobody has asked to.
    pub(super) fn passes(&mut self, tid: RawPid, stop: TraceStop, command: RawPid) {
        self.stood(tid, stop);
        let Some(tracer) = &self.tracer else { return };
        if tid == command && tracer::is_group_stop(stop) {
            if self.stopped_command == StoppedCommand::No {
                self.stopped_command = StoppedCommand::Untold(stop.signal);
            }
        } else if tid == command {
            self.stopped_command = StoppedCommand::No;
        }
        if !tracer.is_asking(tid) {
            tracer.go_on(tid, stop);
        }
    }

    pub(super) fn stood(&mut self, tid: RawPid, stop: TraceStop) {
        let Some(tracer) = &mut self.tracer else { return };
        if let Some(former) = tracer.stood(tid, stop) {
            self.tasks.remove(&former);
            self.ordered.remove(&former);
            self.held.remove(&former);
            self.awaited.retain(|tid| *tid != former);
            self.settled = false;
        }
    }

    /// The same where everyone stays traced. Who has not come to his stop yet will pass it.
    pub(super) fn let_pass(&mut self, tid: RawPid) {
        let (standing, tracer) = (self.tasks.remove(&tid), self.tracer.as_ref());
        let (Some(Standing::Stopped { signal, job }), Some(tracer)) = (standing, tracer) else {
            return;
        };
        if tracer.is_asking(tid) {
            return;
        }
        let event = if job { libc::PTRACE_EVENT_STOP } else { 0 };
        tracer.go_on(tid, TraceStop { signal, event });
        if job && tid == self.command && self.stopped_command == StoppedCommand::No {
            self.stopped_command = StoppedCommand::Untold(libc::SIGSTOP);
            self.news = true;
        }
    }
}
