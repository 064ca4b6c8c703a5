//! What tasks ask at the gate, and how they are answered.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

use super::Supervisor;
use crate::error::HostError;
use crate::filter::Namespace;
use crate::gate::{Asked, Gate};
use crate::mutant::{self, Mutant};
use crate::options::Feature;
use crate::report::Backend;
use crate::sigaction::{self, Verdict};
use crate::sys::RawPid;

impl Supervisor<'_> {
    pub(super) fn without_gate(&mut self, reason: String) {
        self.backend = Backend::Reaper;
        self.backend_reason = reason;
        self.accounting.degrade("without the gate, nobody tells when a program ignores SIGCHLD");
        self.sampler.arm_soon();
    }

    pub(super) fn on_gate(&mut self, at: usize) {
        let Some(gate) = self.gates.get(at) else { return };
        match gate.receive() {
            Ok(Some(Asked::Fork { id, tid, as_init })) => {
                if as_init {
                    self.pid_namespace_made(tid);
                }
                self.on_fork(at, id, tid);
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
                let mut ignored = false;
                // Else it was another's memory that we looked into.
                if gate.still_waiting(id) {
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
                gate.allow(id);
                if ignored {
                    self.may_lose_time(
                        tid,
                        format!("process {tid} ignored SIGCHLD: its children's time may be lost"),
                    );
                }
            }
            Ok(Some(Asked::Affinity { id, tid, target, len, address })) => {
                self.on_affinity(at, id, tid, target, len, address);
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
    pub(super) fn hold_frozen(&mut self, at: usize, id: u64, tid: RawPid) -> bool {
        if !self.ledger.is_asker_frozen(tid, &mut self.scanner) || mutant::is(Mutant::FrozenForks) {
            return false;
        }
        if !self.ledger.knows(tid) {
            self.ledger.reconcile(&mut self.scanner);
        }
        if let Some(gate) = self.gates.get(at) {
            self.held.push((gate.as_fd().as_raw_fd(), id, tid));
        }
        true
    }

    /// Looks after those that are held: whoever is seized is put off, whoever was thawed is asked.
    pub(super) fn on_held(&mut self) {
        for (listener, id, tid) in std::mem::take(&mut self.held) {
            let same = |gate: &Gate| gate.as_fd().as_raw_fd() == listener;
            let Some(at) = self.gates.iter().position(same) else { continue };
            if !self.gates[at].still_waiting(id) {
                continue;
            }
            if !self.ledger.is_asker_frozen(tid, &mut self.scanner) {
                self.on_fork(at, id, tid);
            } else if self.freezer.awaits(tid) {
                self.gates[at].put_off(id);
            } else {
                // Somebody else traces it, say: it waits for the thaw.
                self.held.push((listener, id, tid));
            }
        }
    }

    pub(super) fn on_fork(&mut self, at: usize, id: u64, tid: RawPid) {
        if self.hold_frozen(at, id, tid) {
            return;
        }
        if !self.ledger.fits(tid, &mut self.scanner) {
            // The limit counts the dead until they are collected, so collect.
            self.reap();
        }
        let Some(gate) = self.gates.get(at) else { return };
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
                    self.resources.forked(tid);
                }
            }
            Err(errno) => {
                self.refused += 1;
                gate.refuse(id, Errno::from_raw(errno.code()));
                self.fork_refused();
            }
        }
    }
}
