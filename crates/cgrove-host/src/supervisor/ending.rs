//! How a run comes to its end: by itself, by its timeout, by a kill.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::getppid;

use super::{Phase, Supervisor};
use crate::conclude;
use crate::error::HostError;
use crate::gate::Gate;
use crate::journal::What;
use crate::kill;
use crate::mutant::{self, Mutant};
use crate::report::Backend;
use crate::sys::{self, Fate};
use crate::wire::ToFront;

/// While killing, the tree is looked at again at least this often, in case a death went unseen.
const KILL_AGAIN: Duration = Duration::from_millis(50);
/// How long group reapers have to report when everything is being killed.
const REAPERS_TIME: Duration = Duration::from_secs(1);

impl Supervisor<'_> {
    pub(super) fn time_out(&mut self, now: Instant) {
        self.timed_out = true;
        self.happened_to_run(What::Timeout);
        self.continue_front();
        if self.options.kill_grace.is_zero() {
            self.kill();
            return;
        }
        self.phase = Phase::Terminating { until: now.checked_add(self.options.kill_grace) };
        if mutant::is(Mutant::NoWarning) {
            return;
        }
        self.thaw_in_kernel();
        let census = self.scanner.census();
        kill::signal_all(&mut self.scanner, &census, libc::SIGTERM);
        for tid in self.freezer.stopped_jobs() {
            let _ = sys::kill(tid, libc::SIGCONT);
        }
        if self.ledger.freezes_some() {
            // Or nobody could clean up. The signal is what everyone finds on waking.
            self.ledger.thaw_all();
            self.freeze();
        }
    }

    /// The process that the run ends with, until it has ended or everything is being killed.
    pub(super) fn parent(&self) -> Option<BorrowedFd<'_>> {
        let goes_on = matches!(self.phase, Phase::Running { .. } | Phase::Terminating { .. });
        self.caller.handed.parent.as_ref().filter(|_| goes_on).map(|fd| fd.as_fd())
    }

    pub(super) fn on_parent(&mut self) {
        if self.parent().is_none() || mutant::is(Mutant::ParentForgotten) {
            return;
        }
        self.parent_ended = true;
        self.happened_to_run(What::ParentEnded);
        self.kill();
    }

    /// The front stops when the command does, so that a shell notices. Whatever else ends the stop
    /// ends the front's.
    pub(super) fn continue_front(&self) {
        self.signal_front(libc::SIGCONT);
    }

    pub(super) fn signal_front(&self, signal: i32) {
        // As long as it is our parent its pid is its own.
        if getppid() == self.caller.front {
            let _ = sys::kill(self.caller.front.as_raw(), signal);
        }
    }

    /// Closes the gate and kills what there is; on_child and on_time come back until the end.
    pub(super) fn kill(&mut self) {
        if self.phase == Phase::Over && !mutant::is(Mutant::EndForgotten) {
            // Nobody is left, and so nobody whose end would wake us again.
            return;
        }
        let open = self.gates.iter().any(|gate| !gate.is_closed())
            || (self.backend == Backend::Ptrace && !self.shut);
        if open && !mutant::is(Mutant::OpenGate) {
            self.shut = true;
            self.gates.iter_mut().for_each(Gate::close);
            self.ledger.kill();
        }
        if !matches!(self.phase, Phase::Killing { .. }) {
            if !self.options.keeper || self.ledger.current() > 0 {
                self.happened_to_run(What::Kill);
            }
            self.continue_front();
        }
        // Whoever the core wants dead is among those the sweep finds.
        let before = self.sweep.survivors().0;
        self.sweep.round(&mut self.scanner, Some(self.command));
        self.kill_in_kernel();
        let now = Instant::now();
        let again = if self.sweep.survivors().0 > before && self.backend == Backend::Reaper {
            // Without a gate they may have forked meanwhile.
            now
        } else {
            now + KILL_AGAIN
        };
        if !matches!(self.phase, Phase::Killing { .. }) {
            self.killing_since = Some(now);
        }
        self.phase = Phase::Killing { again };
        // Group reapers see their groups to the end. One that hangs on its asker does not.
        if self.reapers_had_time() {
            for pid in self.scanner.spared() {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
    }

    pub(super) fn reapers_had_time(&self) -> bool {
        self.killing_since.is_some_and(|since| since.elapsed() >= REAPERS_TIME)
    }

    pub(super) fn fail(&mut self, error: HostError) {
        self.failure.get_or_insert(error);
        self.kill();
    }

    pub(super) fn on_child(&mut self) {
        // Only a wake-up: wait4 knows what happened.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap();
        self.on_askers();
    }

    /// Collects what has ended.
    pub(super) fn reap(&mut self) {
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
                    self.collected(&waited);
                    self.ledger.reaped(waited.pid);
                    if self.scanner.is_spared(waited.pid) {
                        self.scanner.spare(waited.pid, false);
                        self.forget_members();
                        // Whoever is left of its group is to be killed.
                        self.doomed_due.get_or_insert((Instant::now(), Duration::ZERO));
                    }
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
            while self.is_launching() {
                self.on_launch();
            }
        }
        let stays = self.options.keeper && !matches!(self.phase, Phase::Killing { .. });
        if none_left && !stays {
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

    /// The last resort when the event loop itself is broken.
    pub(super) fn drain_blocking(&mut self) {
        while let Ok(Some(waited)) = sys::wait_for_end(-1) {
            self.accounting.collected(&waited);
            self.sweep.round(&mut self.scanner, Some(self.command));
        }
    }

    pub(super) fn finish(mut self) -> Result<crate::report::Report, HostError> {
        let tell_end = self.tell_end();
        let figures = self.limit_figures();
        self.ledger.close();
        if let Some(kernel) = &mut self.kernel {
            kernel.settle();
        }
        match self.failure.take() {
            Some(error) => Err(error),
            None => {
                let report = conclude::report(self, figures);
                tell_end(&report);
                Ok(report)
            }
        }
    }
}
