//! What visitors ask at the door, and how they are served: one at a time, and never so long that
//! those who wait at the gate suffer.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Supervisor;
use super::members::Answer;
use crate::door::{Request, Visit};
use crate::journal::What;
use crate::ledger::GroupId;
use crate::report::Backend;
use crate::sys::RawPid;

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
            Ok(Some(Visit { request, pid, fds })) => {
                if let Request::Freeze { path, freeze } = &request {
                    // No rest after it: whoever may freeze may keep forks waiting.
                    if let Some(result) = self.serve_freeze(path, *freeze, pid) {
                        self.answer((result, None));
                    }
                    return;
                }
                if let Request::Tell { path, what } = &request {
                    // Nothing is asked, so nobody has to be counted for it.
                    let result = self.told_by_reaper(path, what, pid);
                    self.answer((result, None));
                    return;
                }
                let begun = Instant::now();
                let answer = self.serve(&request, pid, &fds);
                let took = begun.elapsed();
                if took >= LONG_ANSWER {
                    self.door_rests = begun.checked_add(took * DOOR_SHARE);
                }
                self.answer(answer);
            }
            Err(errno) => self.door = Err(errno),
        }
    }

    pub(super) fn answer(&self, (result, pass): Answer) {
        if let Ok(door) = &self.door {
            door.answer(result, pass);
        }
    }

    /// Freezes or thaws a cgroup; `None`: [`Supervisor::freeze`] answers when it is reached.
    pub(super) fn serve_freeze(
        &mut self,
        path: &str,
        freeze: bool,
        pid: RawPid,
    ) -> Option<Result<Vec<u8>, Errno>> {
        let may = self.group_of_visitor(pid).and_then(|from| self.reachable(path, from));
        if self.kernel.is_some() && may == Ok(GroupId::RUN) {
            return self.freeze_in_kernel(freeze);
        }
        let before = self.is_watched().then(|| self.is_asked_to_freeze(path));
        let id = match may.and_then(|id| self.ledger.freeze(path, freeze).map(|()| id)) {
            Ok(id) => id,
            Err(errno) => return Some(Err(errno)),
        };
        if before.is_some_and(|before| before != freeze) {
            self.happened_to(id, if freeze { What::Freeze } else { What::Thaw });
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

    pub(super) fn serve(&mut self, request: &Request, pid: RawPid, fds: &[RawFd]) -> Answer {
        // What is told is to be true now, and not when somebody last asked; but what goes on is of
        // the moment when it began.
        match self.backend {
            _ if request.goes_on() => {}
            Backend::Gate | Backend::Ptrace => drop(self.ledger.reconcile(&mut self.scanner)),
            Backend::Reaper | Backend::Kernel => self.sample(),
        }
        self.look_for(request);
        self.freeze();
        match request {
            Request::Enter(entry) => self.enter(entry, pid),
            Request::Exec { at, entry } => self.exec(at, entry, pid, fds),
            Request::Remove { path, kill } => self.remove(path, *kill, pid),
            Request::Follow { path } => self.follow(path, pid),
            other => (self.tell(other, pid), None),
        }
    }

    fn tell(&mut self, request: &Request, pid: RawPid) -> Result<Vec<u8>, Errno> {
        let from = self.group_of_visitor(pid)?;
        match request {
            Request::Where => {
                Ok(from.map_or_else(Vec::new, |id| self.ledger.full_name(id).into_bytes()))
            }
            Request::List { path } => {
                let id = self.reachable(path, from)?;
                let mut names = self.ledger.list(path)?;
                if id == GroupId::RUN {
                    self.list_in_kernel(&mut names);
                }
                Ok(names)
            }
            Request::Freeze { .. }
            | Request::Enter(_)
            | Request::Exec { .. }
            | Request::Follow { .. }
            | Request::Tell { .. }
            | Request::Remove { .. } => Err(Errno::EINVAL),
            Request::Make { at, entry } => self.make(at, entry, pid),
            Request::Snapshot { offset } => {
                let top = from.unwrap_or(GroupId::RUN);
                let kernel = self.kernel.as_ref();
                let backend = if kernel.is_some() { Backend::Kernel } else { self.backend };
                let outside = |file: &str| kernel.and_then(|kernel| kernel.whole(file));
                self.ledger.snapshot(backend, top, *offset, &outside)
            }
            Request::Get { path, file, offset } => {
                let id = self.reachable(path, from)?;
                let theirs = (id == GroupId::RUN).then(|| self.read_in_kernel(file, *offset));
                theirs.flatten().unwrap_or_else(|| self.ledger.get(path, file, *offset))
            }
            Request::Shut { path } => {
                let id = self.own_group(path, pid)?;
                self.ledger.shut(id);
                Ok(Vec::new())
            }
            Request::Leave { path, code, signal } => {
                let id = self.own_group(path, pid)?;
                self.leave(id, What::Ended { code: *code, signal: *signal })
            }
            Request::Set { path, file, value } => {
                let id = self.reachable(path, from)?;
                if id == GroupId::RUN
                    && let Some(written) = self.write_in_kernel(file, value)
                {
                    written?;
                    self.limit_set(id, file, value);
                    return Ok(Vec::new());
                }
                let killed = self.ledger.set(path, file, value)?;
                self.limit_set(id, file, value);
                if file == "pids.max" && !self.threads_ask() {
                    self.late_limit |= id == GroupId::RUN;
                    let member = self.members.iter_mut().find(|member| member.group == id);
                    member.into_iter().for_each(|member| member.late_limit = true);
                }
                if killed {
                    self.kill_group(id, false);
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
