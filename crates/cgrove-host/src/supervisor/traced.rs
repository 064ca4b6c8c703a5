//! A run whose forks ask by ptrace, and how it comes to that (see `tracer.rs`).

use std::collections::HashSet;
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::Supervisor;
use super::asked::{Asker, Via};
use crate::gate;
use crate::ladder::Ladder;
use crate::launch;
use crate::ledger::GroupId;
use crate::mutant::{self, Mutant};
use crate::report::Backend;
use crate::sys::RawPid;

impl Supervisor<'_> {
    pub(super) fn ladder(&self) -> Ladder<'_> {
        Ladder::new(self.options, self.caller.sigchld_ignored, self.kernel.as_ref())
    }

    /// A command waits to be traced: the run's, or that which is brought into a group.
    pub(super) fn trace(&mut self, pid: RawPid, group: Option<GroupId>) {
        let traced = self.freezer.trace(pid);
        if traced == Err(Errno::EBUSY) {
            // It stands, and goes nowhere before the thaw.
            self.to_trace.push((pid, group));
            return;
        }
        let socket = match group {
            None => self.launch.as_ref(),
            Some(group) => self.launching_of(group),
        };
        if let Some(socket) = socket {
            launch::answer_traced(socket.as_fd(), traced.is_ok());
        }
        match (traced, group) {
            (Ok(()), _) => {}
            (Err(errno), None) => self.not_traced(errno),
            // Its forks would not be counted.
            (Err(_), Some(group)) => self.lose_launching(group),
        }
    }

    pub(super) fn with_tracer(&mut self) {
        self.backend = Backend::Ptrace;
        if let Some(errno) = self.no_gate {
            self.backend_reason = format!("no gate: {}", gate::why_not(errno));
        }
    }

    pub(super) fn not_traced(&mut self, errno: Errno) {
        let mut why = gate::why_not_traced(errno);
        if let Some(errno) = self.no_gate {
            why = format!("{}; {why}", gate::why_not(errno));
        }
        self.nobody_asks(why);
    }

    /// Nobody can be asked about forks.
    pub(super) fn nobody_asks(&mut self, why: String) {
        if self.ladder().has(Backend::Reaper) {
            self.without_gate(why);
        } else {
            let error = self.ladder().nothing_holds(&why);
            self.fail(error);
        }
    }

    pub(super) fn without_gate(&mut self, reason: String) {
        self.backend = Backend::Reaper;
        self.backend_reason = reason;
        self.accounting.degrade("without the gate, nobody tells when a program ignores SIGCHLD");
        self.sampler.arm_soon();
    }

    /// Answers those that ask, but for who is to be frozen: he stands already, and is asked again
    /// after the thaw.
    pub(super) fn on_askers(&mut self) {
        for (pid, group) in std::mem::take(&mut self.to_trace) {
            self.trace(pid, group);
        }
        let (mut frozen, mut news) = (HashSet::new(), false);
        for (tid, asked) in self.freezer.askers() {
            let waits = !self.shut
                && (self.is_frozen() || self.ledger.is_asker_frozen(tid, &mut self.scanner));
            if waits && !mutant::is(Mutant::FrozenForks) {
                if !self.ledger.knows(tid) {
                    self.ledger.reconcile(&mut self.scanner);
                    news = true;
                }
                frozen.insert(tid);
                continue;
            }
            let tracer = self.freezer.tracer.as_mut();
            if let Some(group) = tracer.and_then(|tracer| tracer.failed(tid)) {
                self.ledger.failed(tid, group);
            }
            self.on_asked(Asker { tid, via: Via::Stop }, asked);
        }
        if news {
            self.freeze();
        }
        // To answer one can mean to collect who has ended, and to find others who ask. They are next,
        // but not before everything else that waits.
        let next = |(tid, _): &(RawPid, _)| !frozen.contains(tid);
        self.asked_meanwhile = self.freezer.askers().iter().any(next);
    }

    pub(super) fn answer_stop(&mut self, tid: RawPid, result: Result<(), Errno>) {
        if let Some(tracer) = &mut self.freezer.tracer {
            tracer.answer(tid, result);
        }
    }
}
