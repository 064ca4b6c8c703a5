//! What the shell that started a command expects of it, for a process that stands in its place.
//!
//! It takes the command's signals, stops when the command does, so that the shell notices, and
//! leaves the terminal in order. What the terminal sends to the foreground group reaches the command
//! without our help.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::siginfo;
use nix::unistd::{Pid, getpid, getsid, tcgetpgrp, tcsetpgrp};

use crate::mutant::{self, Mutant};
use crate::procfs::Proc;
use crate::sys::{self, RawPid};

/// In `si_code`: sent by the kernel.
const SI_KERNEL: i32 = 0x80;

/// The calling process, as its shell sees it.
#[derive(Debug)]
pub(crate) struct Shell {
    session_leader: bool,
    /// Only ever continues us; 0 if there is none.
    supervisor: RawPid,
    /// The command is in another session: what the terminal sends does not reach it by itself.
    apart: bool,
}

impl Shell {
    /// For a process with this supervisor, or 0.
    pub(crate) fn new(supervisor: RawPid) -> Shell {
        let session_leader = getsid(None).is_ok_and(|sid| sid == getpid());
        Shell { session_leader, supervisor, apart: false }
    }

    /// For a process whose command is in another session.
    pub(crate) fn apart() -> Shell {
        Shell { apart: true, ..Shell::new(0) }
    }

    /// Whether a signal came from the terminal, and is for the command's whole process group.
    pub(crate) fn is_the_terminals(&self, info: &siginfo) -> bool {
        self.apart && info.ssi_code == SI_KERNEL
    }

    /// Whether the command should get a signal that came to us. What the kernel sends goes to the
    /// whole foreground group, except the hangup, which goes to a session leader alone, and the
    /// alarm that was set before cgrove was executed, which a fork does not inherit.
    pub(crate) fn concerns_command(&self, signal: i32, info: &siginfo) -> bool {
        if info.ssi_code == SI_KERNEL {
            return match signal {
                // Job control ends at the session's edge.
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => false,
                _ if self.apart => true,
                libc::SIGHUP => self.session_leader,
                libc::SIGALRM => true,
                _ => false,
            };
        }
        // SIGPIPE from a write of our own, and the like; the supervisor only ever continues us.
        let sender = i64::from(info.ssi_pid);
        sender != i64::from(std::process::id()) && sender != i64::from(self.supervisor)
    }

    /// The command was stopped by the terminal: stop the same way, so that the shell notices, and
    /// return when continued. `false`: the command is to be continued at once. A session leader has
    /// no shell above it that could continue anything.
    #[must_use]
    pub(crate) fn stop(&self, signal: i32, command: RawPid) -> bool {
        if self.session_leader {
            return false;
        }
        let Ok(signal) = Signal::try_from(signal) else { return true };
        let mut only = SigSet::empty();
        only.add(signal);
        sys::set_signal_ignored(signal as i32, false);
        let me = getpid().as_raw();
        // Blocked, and so only pending. Whatever ends the command's stop makes the supervisor
        // send SIGCONT, which takes a pending stop away: from here on none can come too early.
        let _ = sys::kill(me, signal as i32);
        // The news may have waited here while we were stopped ourselves.
        if !is_stopped(command) {
            let _ = sys::kill(me, libc::SIGCONT);
            return true;
        }
        // Unblocking delivers it: we stop here.
        let _ = only.thread_swap_mask(SigmaskHow::SIG_UNBLOCK);
        let _ = only.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        true
    }
}

/// Whether the process is stopped now; yes also if `/proc` does not say. One that is traced for its
/// forks does not look different from one in any other ptrace-stop, which the supervisor ends.
fn is_stopped(pid: RawPid) -> bool {
    let stat = Proc::open().and_then(|mut proc| proc.stat(pid));
    stat.map_or_else(|errno| errno != Errno::ENOENT, |stat| matches!(stat.state, b'T' | b't'))
}

/// The terminal whose foreground was the caller's group.
pub(crate) struct Terminal {
    group: Pid,
    pub(crate) stream: BorrowedFd<'static>,
}

impl Terminal {
    /// Finds the terminal among the standard streams, if `group` is in its foreground.
    pub(crate) fn held_by(group: Pid) -> Option<Terminal> {
        sys::standard_streams()
            .into_iter()
            .find(|stream| tcgetpgrp(stream) == Ok(group))
            .map(|stream| Terminal { group, stream })
    }

    /// A command that died in a group of its own leaves the terminal to a dead group.
    pub(crate) fn give_back(&self) {
        // Not if the shell took it back, as it does from a job that was sent to the background.
        let abandoned = |now: Pid| {
            mutant::is(Mutant::TerminalTaken)
                || now != self.group && sys::kill(-now.as_raw(), 0) == Err(Errno::ESRCH)
        };
        if tcgetpgrp(self.stream).is_ok_and(abandoned) {
            // SIGTTOU is blocked, so this is allowed from the background.
            let _ = tcsetpgrp(self.stream, self.group);
        }
    }
}
