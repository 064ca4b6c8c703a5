//! What visitors ask at the door, and how they are served: one at a time, and never so long that
//! those who wait at the gate suffer.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Supervisor;
use crate::door::Request;
use crate::report::Backend;

/// Of an answer that took this long: a census of a large tree, for which a fork may have waited …
const LONG_ANSWER: Duration = Duration::from_millis(1);
/// … the next one is not begun before so many times as long, however many ask.
const DOOR_SHARE: u32 = 5;

impl Supervisor<'_> {
    pub(super) fn on_door(&mut self) {
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

    pub(super) fn answer(&self, result: Result<Vec<u8>, Errno>) {
        if let Ok(door) = &self.door {
            door.answer(result);
        }
    }

    /// Freezes or thaws a cgroup; `None`: [`Supervisor::freeze`] answers when it is reached.
    pub(super) fn serve_freeze(
        &mut self,
        path: &str,
        freeze: bool,
    ) -> Option<Result<Vec<u8>, Errno>> {
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

    pub(super) fn undo_freeze(&mut self, path: &str) {
        let _ = self.ledger.freeze(path, false);
        self.freeze();
    }

    pub(super) fn serve(&mut self, request: &Request) -> Result<Vec<u8>, Errno> {
        // What is told is to be true now, and not when somebody last asked; but what goes on is of
        // the moment when it began.
        match self.backend {
            _ if request.goes_on() => {}
            Backend::Gate => drop(self.ledger.reconcile(&mut self.scanner)),
            Backend::Reaper => self.sample(),
        }
        self.freeze();
        match request {
            Request::List { path } => self.ledger.list(path),
            Request::Freeze { .. } => Err(Errno::EINVAL),
            Request::Snapshot { offset } => self.ledger.snapshot(self.backend, *offset),
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
}
