//! What unmounts when the server is killed.
//!
//! A process of its own, forked before anything is mounted, because after SIGKILL nobody else is
//! left. It holds two descriptors: one end of a pipe, by which it is told what the mount is and that
//! it is no longer needed, and a pidfd of the thread that serves. When that is gone, or the pipe closes
//! untold, it unmounts by umount2(2), and by `fusermount3 -u` where it may not.
//!
//! A pidfd of the thread and not of the process, because a process that uses its own mount does not end
//! when it is killed: one thread waits for an answer, without hearing any signal, and nobody is left
//! to give it. Unmounting by force ends the wait.
//!
//! It unmounts only what the server had mounted, by the number of the mount; one that somebody has put
//! over it or in its place stays. It is in a session of its own and blocks all signals.

use std::ffi::{CString, OsStr};
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::mutant::{Mutant, broken};
use crate::sys::{self, DISMISSED, MountId, Plan};

/// The guard of one mount. Dropped, it does its work and ends; so it does if the server is killed.
#[derive(Debug)]
pub(crate) struct Guard {
    /// `None` once it is left to itself.
    orders: Option<PipeWriter>,
    pid: Pid,
}

impl Guard {
    /// Forks it, for a mount to be made at `path` and served as long as thread `server` lives, with
    /// the program that unmounts for plain users.
    ///
    /// # Errors
    /// Those of pipes and forks.
    pub(crate) fn new(path: &CString, helper: Option<&Path>, server: Pid) -> Result<Self, Errno> {
        let raw = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let word = |word: &OsStr| CString::new(word.as_bytes()).map_err(|_| Errno::EINVAL);
        let helper = match helper {
            None => None,
            Some(helper) => {
                let options = ["-u", "-q", "-z", "--"].map(OsStr::new);
                let mut words = vec![word(helper.as_os_str())?];
                for option in options {
                    words.push(word(option)?);
                }
                words.push(path.clone());
                Some((word(helper.as_os_str())?, words))
            }
        };
        let plan = Plan {
            path: path.clone(),
            before: sys::mount_at(path)?,
            helper,
            stays: broken(Mutant::GuardInGroup),
        };
        let (theirs, orders) = pipe().map_err(raw)?;
        let server = sys::thread_pidfd(server)?;
        let (mut ready, starting) = pipe().map_err(raw)?;
        let pid = sys::fork_guard(&plan, theirs.as_fd(), server.as_ref().map(AsFd::as_fd))?;
        drop(starting);
        let guard = Self { orders: Some(orders), pid: Pid::from_raw(pid) };
        // Until it has left our process group, what kills that kills it too. Then it closes all
        // that it does not need, this among it; so does its end.
        let _ = ready.read(&mut [0]);
        Ok(guard)
    }

    /// Says what was mounted.
    pub(crate) fn watch(&mut self, mount: MountId) {
        self.order(mount.id);
    }

    /// Its pipe, for a helper to hold: as long as that runs, it is not too late for a mount.
    pub(crate) fn pipe(&self) -> std::io::Result<Option<PipeWriter>> {
        self.orders.as_ref().map(PipeWriter::try_clone).transpose()
    }

    /// Nothing is mounted any more.
    pub(crate) fn dismiss(mut self) {
        self.order(DISMISSED);
    }

    fn order(&mut self, order: u64) {
        if let Some(orders) = &mut self.orders {
            // If it was killed there is nobody to tell, and nothing to do about it.
            let _ = orders.write_all(&order.to_ne_bytes());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.orders.take());
        while waitpid(self.pid, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
    }
}
