//! What tasks ask at the gate, and how they are answered.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;

use super::Supervisor;
use crate::error::HostError;
use crate::filter::Namespace;
use crate::gate::{Asked, Gate, Question};
use crate::mutant::{self, Mutant};
use crate::options::Feature;
use crate::sigaction::{self, Verdict};
use crate::sys::RawPid;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) tid: RawPid,
    pub(super) via: Via,
}

/// Where it waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Via {
    /// At a gate.
    Gate {
        /// Which: a gate keeps its descriptor.
        listener: RawFd,
        /// Names the question there.
        id: u64,
    },
    /// In a ptrace-stop.
    Stop,
}

impl Supervisor<'_> {
    pub(super) fn on_gate(&mut self, at: usize) {
        let Some(gate) = self.gates.get(at) else { return };
        let listener = gate.as_fd().as_raw_fd();
        match gate.receive() {
            Ok(Some(Question { id, tid, asked })) => {
                self.on_asked(Asker { via: Via::Gate { listener, id }, tid }, asked);
            }
            Ok(None) => {}
            Err(errno) => self.fail(HostError::call("cannot read from the fork gate", errno)),
        }
    }

    pub(super) fn on_asked(&mut self, asker: Asker, asked: Asked) {
        let tid = asker.tid;
        match asked {
            Asked::Fork { as_init } => {
                if as_init {
                    self.pid_namespace_made(tid);
                }
                self.on_fork(asker);
            }
            Asked::PidNamespace(Namespace::New) => {
                self.allow(asker);
                self.pid_namespace_made(tid);
            }
            Asked::PidNamespace(Namespace::Existing { unsure }) => {
                if unsure.is_some_and(|fd| !self.scanner.proc.may_be_pid_namespace(tid, fd)) {
                    self.allow(asker);
                } else if self.options.insists_on(Feature::Kill) {
                    self.refuse(asker, Errno::EPERM);
                } else {
                    self.allow(asker);
                    self.entered.get_or_insert(tid);
                    self.pid_namespace_made(tid);
                }
            }
            Asked::ChildAction { address, layout } => {
                let verdict = sigaction::examine(&self.scanner.proc, tid, address, layout);
                let mut ignored = false;
                // Else it was another's memory that we looked into.
                if self.still_waits(asker) {
                    match verdict {
                        Verdict::Interrupts(restart) if !mutant::is(Mutant::ForkInterrupted) => {
                            restart.set();
                        }
                        Verdict::Discards if !mutant::is(Mutant::ActionUnseen) => {
                            ignored = true;
                        }
                        _ => {}
                    }
                }
                self.allow(asker);
                if ignored {
                    self.may_lose_time(
                        tid,
                        format!("process {tid} ignored SIGCHLD: its children's time may be lost"),
                    );
                }
            }
            Asked::Affinity { target, len, address } => {
                self.on_affinity(asker, target, len, address);
            }
            Asked::Other => {
                self.allow(asker);
            }
        }
    }

    fn gate(&self, listener: RawFd) -> Option<&Gate> {
        self.gates.iter().find(|gate| gate.as_fd().as_raw_fd() == listener)
    }

    /// Lets the call run. `false`: the asker no longer waits and the call did not run.
    pub(super) fn allow(&mut self, asker: Asker) -> bool {
        match asker.via {
            Via::Gate { listener, id } => self.gate(listener).is_some_and(|gate| gate.allow(id)),
            Via::Stop => self.freezer.tracer.as_mut().is_some_and(|it| it.allow(asker.tid)),
        }
    }

    /// What was asked for has been done: the call returns 0 and does nothing.
    pub(super) fn done(&mut self, asker: Asker) {
        match asker.via {
            Via::Gate { listener, id } => {
                let _ = self.gate(listener).map(|gate| gate.done(id));
            }
            Via::Stop => self.answer_stop(asker.tid, Ok(())),
        }
    }

    /// Fails the call. Whether that arrives makes no difference.
    pub(super) fn refuse(&mut self, asker: Asker, errno: Errno) {
        match asker.via {
            Via::Gate { listener, id } => {
                let _ = self.gate(listener).map(|gate| gate.refuse(id, errno));
            }
            Via::Stop => self.answer_stop(asker.tid, Err(errno)),
        }
    }

    /// Whether the asker still waits: what was read from its memory until now was its own.
    pub(super) fn still_waits(&self, asker: Asker) -> bool {
        match asker.via {
            Via::Gate { listener, id } => {
                self.gate(listener).is_some_and(|gate| gate.still_waiting(id))
            }
            // Only a kill can take it out of there, with all of its memory.
            Via::Stop => true,
        }
    }

    /// Whether nothing passes any more where it asks.
    fn is_closed(&self, asker: Asker) -> bool {
        match asker.via {
            Via::Gate { listener, .. } => self.gate(listener).is_none_or(Gate::is_closed),
            Via::Stop => self.shut,
        }
    }

    /// When the init of a pid namespace ends, the kernel ends the others and counts their time
    /// nowhere (pid_namespaces(7)).
    pub(super) fn pid_namespace_made(&mut self, tid: RawPid) {
        if mutant::is(Mutant::NamespaceUnseen) {
            return;
        }
        self.may_lose_time(
            tid,
            format!(
                "process {tid} put its children into a pid namespace: time of those that end with \
                 the namespace may be lost"
            ),
        );
    }

    /// Below `tid`, the kernel may throw CPU time away from now on.
    fn may_lose_time(&mut self, tid: RawPid, why: String) {
        self.doubt_time(tid, &why);
        if !self.accounting.is_sampled() {
            self.accounting.degrade(why);
            self.sampler.arm_soon();
        }
    }

    /// A member of a frozen group asks while others run on. It waits inside the kernel and cannot
    /// stop there; so it is sent on its way, to ask again after the thaw.
    pub(super) fn hold_frozen(&mut self, asker: Asker) -> bool {
        let tid = asker.tid;
        if matches!(asker.via, Via::Stop) {
            // Looked at before.
            return false;
        }
        if !self.ledger.is_asker_frozen(tid, &mut self.scanner) || mutant::is(Mutant::FrozenForks) {
            return false;
        }
        if !self.ledger.knows(tid) {
            self.ledger.reconcile(&mut self.scanner);
        }
        self.held.push(asker);
        true
    }

    /// Looks after those that are held: whoever is seized is put off, whoever was thawed is asked.
    pub(super) fn on_held(&mut self) {
        for asker in std::mem::take(&mut self.held) {
            if !self.still_waits(asker) {
                continue;
            }
            let Via::Gate { listener, id } = asker.via else { continue };
            if !self.ledger.is_asker_frozen(asker.tid, &mut self.scanner) {
                self.on_fork(asker);
            } else if self.freezer.awaits(asker.tid) {
                let _ = self.gate(listener).map(|gate| gate.put_off(id));
            } else {
                // Somebody else traces it, say: it waits for the thaw.
                self.held.push(asker);
            }
        }
    }

    pub(super) fn on_fork(&mut self, asker: Asker) {
        let tid = asker.tid;
        if self.hold_frozen(asker) {
            return;
        }
        if !self.ledger.fits(tid, &mut self.scanner) {
            // The limit counts the dead until they are collected, so collect.
            self.reap();
        }
        if self.is_closed(asker) {
            self.refused += 1;
            self.refuse(asker, Errno::EAGAIN);
            return;
        }
        if mutant::is(Mutant::UnchargedFork) {
            self.allow(asker);
            return;
        }
        match self.ledger.charge(tid, &mut self.scanner) {
            Ok(fork) => {
                // Dropping the charge of a call that did not run undoes it.
                if self.allow(asker) {
                    let group = self.ledger.forked(tid, fork);
                    if let (Via::Stop, Some(tracer)) = (asker.via, &mut self.freezer.tracer) {
                        tracer.forks(tid, group);
                    }
                    self.sampler.forked();
                    self.resources.forked(tid);
                }
            }
            Err(errno) => {
                self.refused += 1;
                self.refuse(asker, Errno::from_raw(errno.code()));
                self.fork_refused();
            }
        }
    }
}
