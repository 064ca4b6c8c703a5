//! Many sources, one stream of events.
//!
//! poll(2), not epoll: a task that waits at the gate wakes the supervisor on its own CPU and hands
//! it the rest of its time slice (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), and of the two only poll
//! passes that hint through. On a machine with idle CPUs, waking one of them for every fork costs
//! several times the work that is to be done there.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where an event came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks at the gate.
    Asked,
    /// Nobody is left who could ask at the gate.
    GateDeserted,
    /// SIGCHLD.
    Child,
    /// The front sent something or is gone.
    Front,
    /// The command reports from before its exec.
    Launch,
    /// Somebody outside asks about the run.
    Door,
}

/// The descriptors to wait on; `None` is skipped.
pub struct Sources<'a> {
    /// The gate's listener.
    pub gate: Option<BorrowedFd<'a>>,
    /// SIGCHLD.
    pub signals: BorrowedFd<'a>,
    /// The front's socket.
    pub front: Option<BorrowedFd<'a>>,
    /// The command's socket.
    pub launch: Option<BorrowedFd<'a>>,
    /// The door's socket.
    pub door: Option<BorrowedFd<'a>>,
}

/// What one wait found, in the order in which to handle it.
pub type Ready = [Option<Event>; 5];

/// Waits until something happens or the time is up.
pub fn wait<'a>(sources: &Sources<'a>, timeout: PollTimeout) -> Result<Ready, Errno> {
    // A missing source stands for another that is there anyway, and is ignored below.
    let entry = |fd: Option<BorrowedFd<'a>>| match fd {
        Some(fd) => (fd, PollFlags::POLLIN),
        None => (sources.signals, PollFlags::empty()),
    };
    let (gate, front) = (entry(sources.gate), entry(sources.front));
    let (launch, door) = (entry(sources.launch), entry(sources.door));
    let mut fds = [
        PollFd::new(gate.0, gate.1),
        PollFd::new(sources.signals, PollFlags::POLLIN),
        PollFd::new(front.0, front.1),
        PollFd::new(launch.0, launch.1),
        PollFd::new(door.0, door.1),
    ];
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => return Ok([None; 5]),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let [gate, signals, front, launch, door] =
        fds.map(|fd| fd.revents().unwrap_or(PollFlags::all()));
    let event = |revents: PollFlags, event| (!revents.is_empty()).then_some(event);
    let gate = if gate.contains(PollFlags::POLLIN) {
        Some(Event::Asked)
    } else {
        event(gate, Event::GateDeserted)
    };
    Ok([
        gate,
        event(signals, Event::Child),
        event(front, Event::Front),
        event(launch, Event::Launch),
        event(door, Event::Door),
    ])
}
