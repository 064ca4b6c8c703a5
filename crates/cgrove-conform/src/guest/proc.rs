//! What `/proc` says of a task: the executor may not trust its own idea of one.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::sys;

/// The state letter of a task, or `None` if there is no such task.
#[must_use]
pub fn state(process: Pid, task: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/task/{task}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too.
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// The path in the unified hierarchy's line of a task's `cgroup` file.
#[must_use]
pub fn cgroup(process: Pid, task: Pid) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{task}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Waits until all threads of a process are dead. `false` if that takes longer than the bound.
#[must_use]
pub fn wait_dead(process: Pid, bound: Duration) -> bool {
    let Ok(pidfd) = sys::pidfd_open(process) else {
        return true;
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::ZERO);
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
}

/// Waits until a task's state satisfies a condition. `false` if that takes longer than the bound.
#[must_use]
pub fn wait_state(
    process: Pid,
    task: Pid,
    bound: Duration,
    good: impl Fn(Option<char>) -> bool,
) -> bool {
    let end = Instant::now() + bound;
    loop {
        if good(state(process, task)) {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        // /proc tells of no change by poll(2).
        std::thread::sleep(Duration::from_micros(200));
    }
}
