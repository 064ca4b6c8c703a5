//! Many sources, one stream of events.
//!
//! poll(2), not epoll: a task that waits at the gate wakes the supervisor on its own CPU and hands
//! it the rest of its time slice (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), and of the two only poll
//! passes that hint through. On a machine with idle CPUs, waking one of them for every fork costs
//! several times the work that is to be done there.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// Where an event came from. The numbers are places in the lists of [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks at a gate.
    Asked(usize),
    /// Nobody is left who could ask at a gate.
    GateDeserted(usize),
    /// SIGCHLD.
    Child,
    /// The front sent something or is gone.
    Front,
    /// A command reports from before its exec.
    Launch(usize),
    /// Somebody outside asks about the run.
    Door,
    /// The process that the run ends with has ended.
    Parent,
    /// A group's reaper is gone, or its link is.
    Link(usize),
    /// A file of the kernel's cgroup has changed.
    Kernel,
}

/// The descriptors to wait on; `None` is skipped.
pub struct Sources<'a> {
    /// The gates' listeners.
    pub gates: Vec<BorrowedFd<'a>>,
    /// SIGCHLD.
    pub signals: BorrowedFd<'a>,
    /// The front's socket.
    pub front: Option<BorrowedFd<'a>>,
    /// The sockets of commands that have not executed yet.
    pub launches: Vec<BorrowedFd<'a>>,
    /// The door's socket.
    pub door: Option<BorrowedFd<'a>>,
    /// Ends of links, of which nothing is ever read, and pidfds of reapers.
    pub links: Vec<[Option<BorrowedFd<'a>>; 2]>,
    /// A pidfd of the process that the run ends with.
    pub parent: Option<BorrowedFd<'a>>,
    /// Files of events in the kernel's cgroup.
    pub kernel: Vec<BorrowedFd<'a>>,
}

/// Waits until something happens or the time, counted in nanoseconds, is up. What was found comes in the order in which to
/// handle it; what is removed from a list meanwhile must not move the others.
pub fn wait(sources: &Sources<'_>, timeout: Option<Duration>) -> Result<Vec<Event>, Errno> {
    let mut fds = Vec::with_capacity(8);
    let mut from = Vec::with_capacity(8);
    let mut add = |fd, flags, event| {
        fds.push(PollFd::new(fd, flags));
        from.push(event);
    };
    for (at, gate) in sources.gates.iter().enumerate() {
        add(*gate, PollFlags::POLLIN, Event::Asked(at));
    }
    add(sources.signals, PollFlags::POLLIN, Event::Child);
    if let Some(front) = sources.front {
        add(front, PollFlags::POLLIN, Event::Front);
    }
    for (at, launch) in sources.launches.iter().enumerate() {
        add(*launch, PollFlags::POLLIN, Event::Launch(at));
    }
    if let Some(door) = sources.door {
        add(door, PollFlags::POLLIN, Event::Door);
    }
    if let Some(parent) = sources.parent {
        add(parent, PollFlags::POLLIN, Event::Parent);
    }
    for (at, [link, reaper]) in sources.links.iter().enumerate() {
        if let Some(link) = link {
            // Its end is told without being asked for.
            add(*link, PollFlags::empty(), Event::Link(at));
        }
        if let Some(reaper) = reaper {
            add(*reaper, PollFlags::POLLIN, Event::Link(at));
        }
    }
    for events in &sources.kernel {
        add(*events, PollFlags::POLLPRI, Event::Kernel);
    }
    match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
        Ok(0) | Err(Errno::EINTR) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let found = fds.iter().zip(from).filter_map(|(fd, event)| {
        let flags = fd.revents().unwrap_or(PollFlags::all());
        match event {
            _ if flags.is_empty() => None,
            Event::Asked(at) if !flags.contains(PollFlags::POLLIN) => Some(Event::GateDeserted(at)),
            event => Some(event),
        }
    });
    Ok(found.collect())
}
