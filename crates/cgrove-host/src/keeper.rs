//! A group that lasts: a supervisor without a command.
//!
//! `cgrove create` forks it, waits until its door answers and ends. What is left is a process in a
//! session of its own, without a terminal, its streams at `/dev/null`, its folder `/`; commands come
//! into it by `exec.rs`. It ends when it is removed. If it is killed, so closes each link: the
//! group reapers kill their groups, and no fork is answered any more.

use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, chdir};
use std::os::fd::AsFd;

use crate::door::outer;
use crate::error::HostError;
use crate::launch::{Caller, Handed};
use crate::options::{BackendChoice, RunOptions};
use crate::probe;
use crate::report::Backend;
use crate::supervisor::supervise;
use crate::sys::{self, ForkSide};
use crate::wire::{self, ToFront};

/// Makes a group that lasts. The calling process must be single-threaded.
pub fn create(options: &RunOptions) -> Result<(), HostError> {
    let started = Instant::now();
    if let Some(run) = outer::find() {
        return Err(HostError::new(
            format_args!("cannot create group {}", options.name),
            format_args!("this is inside run {run}, and it would end with that (EXDEV)"),
            format_args!("make a group of that run: `cgrove create {run}/{}`", options.name),
        ));
    }
    let setup = |e| HostError::call("cannot create a group", e);
    let (ours, theirs) = wire::pair().map_err(setup)?;
    match sys::fork().map_err(|e| HostError::call("cannot fork", e))? {
        ForkSide::Child => {
            drop(ours);
            become_keeper(options.clone(), theirs, started)
        }
        ForkSide::Parent(_) => {}
    }
    drop(theirs);
    match ToFront::receive(ours.as_fd()) {
        Ok(Some(ToFront::Done)) => Ok(()),
        Ok(Some(ToFront::Failed(text))) => Err(HostError::passed_on(&text)),
        _ => Err(HostError::new(
            "cannot create a group",
            "its keeper was killed",
            "see what sends SIGKILL here",
        )),
    }
}

fn become_keeper(mut options: RunOptions, socket: std::os::fd::OwnedFd, started: Instant) -> ! {
    let _ = sys::block_all_signals();
    let _ = chdir("/");
    // Every command takes some; what they get themselves is their askers'.
    sys::raise_descriptor_limit();
    sys::set_signal_ignored(libc::SIGCHLD, false);
    if options.backend == BackendChoice::Auto {
        // Every command is to have the same, so it is settled once.
        // The kernel's cgroup is a run's alone, so far.
        let mut rungs = Backend::ALL.into_iter().filter(|rung| *rung != Backend::Kernel);
        let backend = rungs.find(|rung| probe::try_rung(*rung).is_ok());
        options.backend = BackendChoice::Only(backend.unwrap_or(Backend::Reaper));
    }
    let caller = Caller {
        // Nobody is, and nobody's parent has this pid.
        front: Pid::from_raw(-1),
        group: Pid::from_raw(-1),
        mask: SigSet::empty(),
        sigchld_ignored: false,
        handed: Handed::default(),
    };
    supervise(&options, &caller, socket, started)
}

/// `create` of a group below another one.
pub fn make(path: &str, options: &RunOptions) -> Result<(), HostError> {
    use crate::door::{self, Entry, Request};
    use crate::nested;
    let refused = |why: &str| {
        HostError::new(
            format_args!("cannot create group {path}/{}", options.name),
            why,
            "`cgrove tree` shows what there is",
        )
    };
    let (run, at) = path.split_once('/').unwrap_or((path, ""));
    let entry = Entry { name: options.name.clone(), files: options.files() };
    let answer = door::ask(run, &Request::Make { at: at.to_owned(), entry })?;
    nested::made(answer, options, &refused).map(drop)
}

/// Removes a group, with all that is in it if `kill`. Returns when it is gone.
pub fn remove(path: &str, kill: bool) -> Result<(), HostError> {
    use crate::door::{self, Busy, Request};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let path = path.trim_matches('/');
    let refused =
        |why: &str, advice: &str| HostError::new(format_args!("cannot remove {path}"), why, advice);
    let (run, below) = path.split_once('/').unwrap_or((path, ""));
    let request = Request::Remove { path: below.to_owned(), kill };
    let (answer, link) = door::ask_for(run, &request)?;
    let text = answer.map_err(|errno| match errno {
        Errno::EOPNOTSUPP => refused(
            "it is a run, which ends with its command (EOPNOTSUPP)",
            "`cgrove set` its cgroup.kill to 1",
        ),
        Errno::EACCES => refused(
            "this process is inside a group, and acts below that only (EACCES)",
            "do it from outside",
        ),
        other => {
            refused(&format!("{} ({other:?})", other.desc()), "`cgrove tree` shows what there is")
        }
    })?;
    let strange = |_| refused("its answer makes no sense (EBADMSG)", "use one version of cgrove");
    if let Err(busy) = serde_json::from_slice::<Result<(), Busy>>(&text).map_err(strange)? {
        let mut held = Vec::new();
        if let Some((pid, command)) = &busy.first {
            let tasks = if busy.tasks == 1 { "task" } else { "tasks" };
            held.push(format!("{} {tasks}, process {pid} ({command}) among them", busy.tasks));
        }
        if !busy.groups.is_empty() {
            held.push(format!("below it: {}", busy.groups.join(", ")));
        }
        let why = format!("it is not empty (EBUSY): {}", held.join("; "));
        return Err(refused(&why, "`cgrove rm --kill` kills what is in it"));
    }
    if let Some(link) = link {
        // Closes when the group is gone, and with the whole supervisor.
        let mut fds = [PollFd::new(link.as_fd(), PollFlags::empty())];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    }
    Ok(())
}
