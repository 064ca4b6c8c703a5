//! A process beside a run, forked off the front before the run begins.
//!
//! What may be slow for others' sake, a terminal that was stopped or a pipe that nobody reads, is done
//! in one of these, so that the run never waits. The front treats it like any child that it had before
//! it was cgrove. Its end of a socket between them closes when the front is gone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cgrove_host::sys::{self, ForkSide, RawPid};
use cgrove_host::wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigmaskHow;
use nix::sys::socket::{Shutdown, shutdown};

/// The front's handle on it.
pub struct Beside {
    socket: OwnedFd,
    pid: RawPid,
}

/// Which of the two a process is.
pub enum Side {
    /// The front.
    Front(Beside),
    /// The new one, with its end of the socket. All its signals are blocked.
    Beside(OwnedFd),
}

/// Forks one. To be called while the process has one thread.
pub fn fork() -> Result<Side, Errno> {
    let (ours, theirs) = wire::pair()?;
    // From its first moment on no signal ends it.
    let mask = sys::block_all_signals()?;
    let forked = sys::fork();
    if forked != Ok(ForkSide::Child) {
        let _ = mask.thread_swap_mask(SigmaskHow::SIG_SETMASK);
    }
    Ok(match forked? {
        ForkSide::Child => Side::Beside(theirs),
        ForkSide::Parent(pid) => Side::Front(Beside { socket: ours, pid }),
    })
}

impl Beside {
    /// Tells it that the run is over, and waits for its end; at most so long, then it is killed.
    pub fn end(self, patience: Duration) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, left) {
                Err(Errno::EINTR) => {}
                // It holds its end of the socket as long as it lives, and so its pid is its own.
                Ok(0) => {
                    let _ = sys::kill(self.pid, libc::SIGKILL);
                    break;
                }
                _ => break,
            }
        }
        let _ = sys::wait_for_end(self.pid);
    }
}

impl AsFd for Beside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
