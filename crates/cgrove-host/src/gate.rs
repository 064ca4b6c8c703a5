//! The fork gate: the listening end of the filter.
//!
//! Every fork in the tree waits here until it is answered. The one rule is that an answer either
//! reached the asker or did not: a signal can withdraw a notification (without
//! WAIT_KILLABLE_RECV), a kill always can, and then the call did not run, so its charge must be
//! undone. Closing the gate refuses everything from then on, which makes a kill race-free: nothing
//! new can appear between finding a process and killing it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::{
    SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
};
use nix::errno::Errno;

use crate::filter::{self, ActionLayout, Namespace, Request};
use crate::sys::{self, Answer, BpfInsn, RawPid};

/// A question from the tree.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Names it, at the gate where it was asked.
    pub id: u64,
    /// Who asks.
    pub tid: RawPid,
    /// What.
    pub asked: Asked,
}

/// What a task asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It wants to make a task.
    Fork {
        /// That will be the init of a new pid namespace.
        as_init: bool,
    },
    /// Its children are to be born into another pid namespace.
    PidNamespace(Namespace),
    /// It sets what happens on SIGCHLD, to the action at `address` in its memory.
    ChildAction {
        /// Where its `struct sigaction` lies.
        address: u64,
        /// How to read that.
        layout: ActionLayout,
    },
    /// It chooses CPUs.
    Affinity {
        /// For whom: a thread id in the asker's pid namespace; 0 is itself.
        target: RawPid,
        /// The bytes of the mask …
        len: u64,
        /// … in its memory.
        address: u64,
    },
    /// Something this version does not ask about.
    Other,
}

impl Asked {
    /// What a call asks that the filter did not let through.
    pub fn of(arch: u32, nr: i32, args: &[u64; 6]) -> Asked {
        match filter::classify(arch, nr, args) {
            Request::Fork { flags } => {
                Asked::Fork { as_init: flags & libc::CLONE_NEWPID as u64 != 0 }
            }
            Request::PidNamespace(which) => Asked::PidNamespace(which),
            Request::ChildAction(layout) => Asked::ChildAction { address: args[1], layout },
            Request::Affinity => Asked::Affinity {
                target: args[0] as RawPid,
                len: args[1] & 0xffff_ffff,
                address: args[2],
            },
            Request::Other => Asked::Other,
        }
    }
}

/// The supervisor's end of the filter.
#[derive(Debug)]
pub struct Gate {
    listener: OwnedFd,
    /// Nothing passes any more.
    closed: bool,
}

impl Gate {
    /// Takes over a listener.
    pub fn new(listener: OwnedFd) -> Gate {
        // Only a matter of speed, and only on Linux 6.6 and newer.
        let _ = sys::notif_sync_wake_up(listener.as_fd());
        Gate { listener, closed: false }
    }

    /// From now on everything is refused.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next question; call it when the listener is readable. `None`: the asker went away.
    pub fn receive(&self) -> Result<Option<Question>, Errno> {
        let question = match sys::notif_recv(self.listener.as_fd()) {
            Ok(question) => question,
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let asked = Asked::of(question.arch, question.nr, &question.args);
        Ok(Some(Question { id: question.id, tid: question.tid, asked }))
    }

    /// Lets the call run. `false`: the asker no longer waits and the call did not run.
    pub fn allow(&self, id: u64) -> bool {
        sys::notif_send(self.listener.as_fd(), id, Answer::Continue).is_ok()
    }

    /// The supervisor has done what was asked: the call returns 0 and does nothing.
    pub fn done(&self, id: u64) {
        let _ = sys::notif_send(self.listener.as_fd(), id, Answer::Done);
    }

    /// Fails the call. Whether that arrives makes no difference.
    pub fn refuse(&self, id: u64, errno: Errno) {
        let _ = sys::notif_send(self.listener.as_fd(), id, Answer::Refuse(errno));
    }

    /// Lets the asker ask again once it has taken the stop that awaits it: as if the call had been
    /// interrupted. Only for a task with a stop pending, or the answer would be seen.
    pub(crate) fn put_off(&self, id: u64) {
        let _ = sys::notif_send(self.listener.as_fd(), id, Answer::Restart);
    }

    /// Whether the asker still waits: what was read from its memory until now was its own.
    pub fn still_waiting(&self, id: u64) -> bool {
        sys::notif_id_valid(self.listener.as_fd(), id)
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Installs the gate's filter on the calling process, which is about to exec, and returns its
/// listener. Tries the best flags first and sets no_new_privs only if the kernel insists, so that
/// a privileged caller keeps its setuid programs.
///
/// Errors as of [`sys::seccomp_install`].
pub fn install(program: &[BpfInsn]) -> Result<OwnedFd, Errno> {
    let base = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // The second before Linux 5.19.
    let flags = [base | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, base];
    try_flags(&flags, |flags| sys::seccomp_install(program, flags))?.ok_or(Errno::EBADF)
}

/// The same for a filter that asks the tracer: by prctl(2) where seccomp(2) is refused.
pub(crate) fn install_for_tracer(program: &[BpfInsn]) -> Result<(), Errno> {
    let by_seccomp = try_flags(&[SECCOMP_FILTER_FLAG_SPEC_ALLOW, 0], |flags| {
        sys::seccomp_install(program, flags).map(drop)
    });
    match by_seccomp {
        Ok(()) => Ok(()),
        // Not what this system call can do is the matter, but that it is made.
        Err(_) => try_flags(&[0], |_| sys::seccomp_install_by_prctl(program)),
    }
}

/// Tries flags, the best first, and sets no_new_privs if the kernel insists.
fn try_flags<T>(
    flags: &[libc::c_ulong],
    install: impl Fn(libc::c_ulong) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut last = Errno::EINVAL;
    for flags in flags {
        let mut got = install(*flags);
        if matches!(got, Err(Errno::EACCES)) && !sys::has_no_new_privs() {
            sys::no_new_privs()?;
            got = install(*flags);
        }
        match got {
            Err(Errno::EINVAL) => last = Errno::EINVAL,
            other => return other,
        }
    }
    Err(last)
}

/// Why the gate cannot be had, in words.
pub fn why_not(errno: Errno) -> String {
    let words = match errno {
        Errno::EBUSY => "a seccomp listener exists already, as inside another `cgrove run`",
        Errno::ENOSYS => "the kernel or an outer filter has no seccomp",
        Errno::EPERM | Errno::EACCES => "this place forbids seccomp filters",
        Errno::EINVAL => "the kernel has no seccomp user notification (Linux 5.0)",
        Errno::EOPNOTSUPP => "cgrove does not know this architecture's system calls",
        Errno::EMFILE => "no file descriptor was left for the listener",
        other => other.desc(),
    };
    format!("{words} ({errno:?})")
}

/// Why forks cannot ask by ptrace, in words.
pub(crate) fn why_not_traced(errno: Errno) -> String {
    let words = match errno {
        Errno::EPERM | Errno::EACCES => "this place forbids ptrace",
        Errno::ENOSYS => "an outer filter refuses ptrace",
        Errno::EOPNOTSUPP => "cgrove cannot answer by ptrace on this architecture",
        other => other.desc(),
    };
    format!("{words} ({errno:?})")
}
