//! The process that a run ends with: `--die-with-parent`.
//!
//! **Problem.** A run outlives whoever started it, unless that one takes care: a shell that is killed
//! ends nobody. Whoever is killed with SIGKILL cannot take care, so the run has to look. Linux's own
//! way, PR_SET_PDEATHSIG, looks at the thread that forked, is lost in a setuid exec, and tells of the
//! real parent alone, not of the service two processes above.
//!
//! **Mechanism.** The front opens a pidfd (pidfd_open(2), Linux 5.3) before there is anybody to hold,
//! and hands it down; whoever holds the tree, a supervisor or a group's reaper, has it among its
//! events and kills everything when it turns readable, which it does when the last thread is gone. A
//! pidfd cannot come to mean another process. A pid can: so what is checked of the process is checked
//! after the pidfd was opened, and counts only if the process still lives after that.
//!
//! A parent that was gone before this process could ask for it cannot be told from the one that
//! adopted its orphans. So a parent that is process 1 is refused, unless it is named; who cannot be
//! sure to live so long names itself (`--die-with-parent=$$`), as the library does.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getpid, getppid, getuid};

use crate::error::HostError;
use crate::procfs::Proc;
use crate::sys::{self, RawPid};

/// Whom a run ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DieWith {
    /// The process that started cgrove.
    Starter,
    /// This one, from which cgrove must descend, or which must be of the same user.
    Process(RawPid),
}

/// Opens it, for whoever holds the tree. ESRCH: it has ended, or cannot be known. EPERM: it is
/// neither above this process nor of its user.
pub(crate) fn open(which: DieWith) -> Result<OwnedFd, HostError> {
    match which {
        DieWith::Starter => starter(),
        DieWith::Process(pid) => named(pid),
    }
}

fn starter() -> Result<OwnedFd, HostError> {
    let refused =
        |why: &str| HostError::new("--die-with-parent is not possible", why, "name it with =PID");
    let parent = getppid();
    match parent.as_raw() {
        0 => return Err(refused("the parent is outside of this pid namespace (ESRCH)")),
        1 => return Err(refused("the parent is process 1, which may have adopted us (ESRCH)")),
        _ => {}
    }
    let fd = pidfd_of(parent.as_raw())?;
    // Else it ended meanwhile, and the number may be another's.
    if getppid() != parent {
        return Err(cannot(parent.as_raw(), Errno::ESRCH));
    }
    Ok(fd)
}

fn named(pid: RawPid) -> Result<OwnedFd, HostError> {
    let fd = pidfd_of(pid)?;
    let mut proc = Proc::open().map_err(|errno| cannot(pid, errno))?;
    let me = getpid().as_raw();
    let above = pid == getppid().as_raw() || proc.is_above(pid, me);
    let ours = proc.uids(pid).is_some_and(|(real, _)| real == getuid().as_raw());
    if has_ended(&fd) {
        return Err(cannot(pid, Errno::ESRCH));
    }
    if pid == me || !(above || ours) {
        return Err(cannot(pid, Errno::EPERM));
    }
    Ok(fd)
}

fn pidfd_of(pid: RawPid) -> Result<OwnedFd, HostError> {
    sys::pidfd_open(pid).map_err(|errno| match errno {
        // A filter says so, not the kernel.
        Errno::ENOSYS | Errno::EPERM => HostError::new(
            "--die-with-parent is not possible",
            format_args!("pidfd_open(2) is not to be had here ({errno:?}); it came with Linux 5.3"),
            "leave the option out",
        ),
        other => cannot(pid, other),
    })
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

fn cannot(pid: RawPid, errno: Errno) -> HostError {
    let (why, advice) = match errno {
        Errno::ESRCH => ("it has ended", "nothing was started"),
        Errno::EPERM => (
            "it is neither above this process nor another of this user",
            "name an ancestor or a process of one's own",
        ),
        other => (other.desc(), "name a process, not a thread, that lives"),
    };
    HostError::new(
        format_args!("cannot end with process {pid}"),
        format_args!("{why} ({errno:?})"),
        advice,
    )
}
