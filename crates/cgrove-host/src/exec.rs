//! A command that is brought into a live run from outside: `cgrove exec NAME -- COMMAND`.
//!
//! **Problem.** What belongs to a run descends from its supervisor. A command that somebody types in
//! another shell descends from that shell, and nothing changes whose child it is.
//!
//! **Mechanism.** The process that was typed, the *asker*, sends its directory and its standard
//! streams to the door, and the supervisor forks a small *reaper* for a new group, which forks the
//! command. Arguments, environment and the like the asker tells the reaper itself, over the socket
//! that the answer came on: however much it is and however long it takes, no supervisor waits for
//! it. The command has a gate of its own, whose listener goes to the supervisor.
//!
//! ```text
//! shell ─ cgrove exec ─ ─ ─ socket: plan, signals ─ ─ ▶ ┐ ◀─ ─ report, status
//! keeper: cg-reaper NAME ── fork ── cg-group NAME/CHILD ┴─ fork ── COMMAND
//! ```
//!
//! The asker passes its signals on, the reaper sends the report. If the asker ends, the reaper kills
//! the group; if the reaper ends, the supervisor does; if the supervisor ends, so closes the link,
//! and the reaper kills the group.
//!
//! What the command does not have is the asker's session: no controlling terminal and no job
//! control. It is in a session of its own; what the terminal sends is passed on to its process
//! group, except for the stops of job control.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, fchdir, getpgrp, getpid, getppid, setsid};
use serde::{Deserialize, Serialize};

use crate::door::{self, Entered, Entry, Request};
use crate::error::HostError;
use crate::filter::{self, Ask, Whom};
use crate::follow;
use crate::inherited;
use crate::launch::{self, Caller, Handed, Launch};
use crate::nested::{self, Asker, Begun, Hold, Reaper};
use crate::options::{BackendChoice, RunOptions};
use crate::report::Backend;
use crate::sys;
use crate::title;
use crate::wire::{self, ToFront};

/// A plan may be as large as what execve(2) takes.
const MAX_PLAN: usize = 16 * 1024 * 1024;

/// All that the command is to have of its asker, but for descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    command: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
    umask: u32,
    /// Resource, soft and hard limit.
    limits: Vec<(u32, u64, u64)>,
    nice: i32,
    no_new_privs: bool,
    /// Which standard streams were closed.
    closed: [bool; 3],
    /// Numbers of blocked signals.
    blocked: Vec<i32>,
    sigchld_ignored: bool,
    timeout: Option<Duration>,
    kill_grace: Duration,
    keep_descendants: bool,
    name: String,
    held: bool,
}

/// The descriptors of the asker, as numbers: they are others' to close in the supervisor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Brought {
    socket: RawFd,
    folder: RawFd,
    streams: [RawFd; 3],
    /// A pidfd of the process that the command ends with.
    parent: Option<RawFd>,
}

impl Brought {
    /// From what came along with the request.
    pub(crate) fn from(fds: &[RawFd]) -> Option<Brought> {
        let (&[socket, folder, a, b, c], more) = fds.split_first_chunk()?;
        let parent = match *more {
            [] => None,
            [parent] => Some(parent),
            _ => return None,
        };
        Some(Brought { socket, folder, streams: [a, b, c], parent })
    }
}

/// The asker's side: has the supervisor of `path` make a group for the command. Returns the socket
/// to its reaper.
pub(crate) fn ask(
    path: &str,
    options: &RunOptions,
    caller: &Caller,
    closed: [bool; 3],
) -> Result<(Entered, OwnedFd), HostError> {
    let path = path.trim_matches('/');
    let (run, at) = path.split_once('/').unwrap_or((path, ""));
    let advice = "`cgrove tree` shows the groups of this user";
    let refused =
        |why: &str| HostError::new(format_args!("cannot run a command in {path}"), why, advice);
    let setup = |e| HostError::call("cannot run a command in a group", e);
    let (ours, theirs) = wire::pair().map_err(setup)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(".", flags, Mode::empty())
        .map_err(|e| HostError::call("cannot open the current directory", e))?;
    let [a, b, c] = sys::standard_streams();
    let entry = Entry { name: options.name.clone(), files: options.files() };
    let request = Request::Exec { at: at.to_owned(), entry };
    let mut brought = vec![folder.as_fd(), a, b, c];
    brought.extend(caller.handed.parent.iter().map(|fd| fd.as_fd()));
    let (answer, _) = door::ask_over(run, &request, ours.as_fd(), theirs, &brought)?;
    let entered = nested::made(answer, options, &refused)?;
    if let Some(error) = nested::check(options, &entered, caller) {
        // Its reaper sees the socket close, and ends.
        return Err(error);
    }
    for follower in &caller.handed.followers {
        follow::redirect(follower.as_fd(), &entered.full)?;
    }
    send_plan(ours.as_fd(), &plan(options, caller, closed))
        .map_err(|errno| refused(&format!("{} ({errno:?})", errno.desc())))?;
    Ok((entered, ours))
}

fn plan(options: &RunOptions, caller: &Caller, closed: [bool; 3]) -> Plan {
    let environment = std::env::vars_os().filter(|(key, _)| key != "CGROVE");
    let word = |(mut key, value): (OsString, OsString)| {
        key.push("=");
        key.push(value);
        key.into_vec()
    };
    let mask = umask(Mode::empty());
    umask(mask);
    let all = Signal::iterator().filter(|signal| caller.mask.contains(*signal));
    Plan {
        command: options.command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        environment: environment.map(word).collect(),
        umask: mask.bits(),
        limits: sys::resource_limits(),
        nice: sys::niceness(),
        no_new_privs: sys::has_no_new_privs(),
        closed,
        blocked: all.map(|signal| signal as i32).collect(),
        sigchld_ignored: caller.sigchld_ignored,
        timeout: options.timeout,
        kill_grace: options.kill_grace,
        keep_descendants: options.keep_descendants,
        name: options.name.clone(),
        held: options.set.iter().any(|(file, _)| file == "cgroup.freeze"),
    }
}

fn send_plan(to: BorrowedFd<'_>, plan: &Plan) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(plan).map_err(|_| Errno::EINVAL)?;
    if bytes.len() > MAX_PLAN {
        return Err(Errno::E2BIG);
    }
    wire::send_all(to, &bytes)
}

/// The reaper's side: takes the plan and runs the command to its end, in a process that the
/// supervisor has just forked for it. Never returns.
pub(crate) fn reap(hold: Hold, brought: Brought, report: OwnedFd, supervisor: Pid) -> ! {
    sys::set_name(c"cg-group");
    // Stopped when the supervisor dies, it could not see the link close.
    let _ = sys::parent_death_signal(libc::SIGCONT);
    if getppid() != supervisor || sys::become_subreaper().is_err() {
        sys::exit_now(125);
    }
    // In this process they are nobody else's.
    let socket = sys::own(brought.socket);
    let folder = sys::own(brought.folder);
    let streams = brought.streams.map(sys::own);
    let parent = brought.parent.map(sys::own).map(Arc::new);
    let handed = Handed { parent, followers: Vec::new() };
    let mut kept = vec![hold.link.as_fd(), socket.as_fd(), folder.as_fd(), report.as_fd()];
    kept.extend(streams.iter().map(AsFd::as_fd));
    kept.extend(handed.fds());
    // The listeners above all: whoever holds one keeps forks waiting for an answer.
    inherited::let_go(&kept);
    let _ = setsid();
    let _ = title::set(&format!("cg-group {}", hold.entered.full));
    let failed = match take_plan(&hold, socket.as_fd()) {
        Ok(Some(plan)) => run(hold, plan, handed, &socket, &folder, &streams, &report),
        Ok(None) => sys::exit_now(0),
        Err(errno) => HostError::call("cannot take the command over", errno),
    };
    let _ = ToFront::Failed(failed.to_string()).send(socket.as_fd());
    sys::exit_now(125)
}

/// `None` if nobody wants it any more.
fn take_plan(hold: &Hold, socket: BorrowedFd<'_>) -> Result<Option<Plan>, Errno> {
    if !sys::is_packet_socket(socket) {
        return Err(Errno::ENOTSOCK);
    }
    let mut bytes = Vec::new();
    loop {
        let mut fds = [
            PollFd::new(socket, PollFlags::POLLIN),
            PollFd::new(hold.link.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if fds[1].any().unwrap_or(true) {
            return Ok(None);
        }
        match wire::take_piece(socket, &mut bytes, MAX_PLAN)? {
            wire::Piece::More => {}
            wire::Piece::Last => break,
            wire::Piece::End => return Ok(None),
        }
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|_| Errno::EBADMSG)
}

fn run(
    hold: Hold,
    plan: Plan,
    handed: Handed,
    socket: &OwnedFd,
    folder: &OwnedFd,
    streams: &[OwnedFd; 3],
    gatekeeper: &OwnedFd,
) -> HostError {
    let started = Instant::now();
    let call = |what: &'static str| move |errno: Errno| HostError::call(what, errno);
    let mut mask = SigSet::empty();
    for signal in plan.blocked.iter().filter_map(|number| Signal::try_from(*number).ok()) {
        mask.add(signal);
    }
    let caller = Caller {
        front: getpid(),
        group: getpgrp(),
        mask,
        sigchld_ignored: plan.sigchld_ignored,
        handed,
    };
    let backend = hold.entered.backend;
    let ask = Ask { threads: true, affinity: hold.entered.cpus.is_some() };
    let program = |rung, whom| (backend == rung).then(|| filter::program(ask, whom)).flatten();
    let gate = program(Backend::Gate, Whom::Listener);
    let trace = program(Backend::Ptrace, Whom::Tracer);
    let options = RunOptions {
        command: plan.command.into_iter().map(OsString::from_vec).collect(),
        name: plan.name,
        named: true,
        pids_max: None,
        set: Vec::new(),
        series: false,
        timeout: plan.timeout,
        kill_grace: plan.kill_grace,
        backend: BackendChoice::Only(hold.entered.backend),
        require: Vec::new(),
        keep_descendants: plan.keep_descendants,
        die_with: None,
        keeper: false,
    };
    let prepared = (|| {
        fchdir(folder).map_err(call("cannot enter the current directory"))?;
        for (stream, theirs) in sys::standard_streams().into_iter().zip(streams) {
            sys::replace_stream(stream, theirs.as_fd()).map_err(call("cannot take a stream"))?;
        }
        for (stream, closed) in sys::standard_streams().into_iter().zip(plan.closed) {
            if closed {
                let flags = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
                fcntl(stream, flags).map_err(call("cannot close a stream"))?;
            }
        }
        umask(Mode::from_bits_truncate(plan.umask));
        // What is refused was raised by the asker beyond what is ours to give.
        sys::set_resource_limits(&plan.limits);
        sys::set_niceness(plan.nice);
        if plan.no_new_privs {
            let _ = sys::no_new_privs();
        }
        let argv = launch::argv(&options.command)?;
        let ours = format!("CGROVE={}", hold.entered.full).into_bytes();
        let words = plan.environment.iter().cloned().chain([ours]);
        let environment: Vec<CString> = words.filter_map(|word| CString::new(word).ok()).collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals =
            SignalFd::with_flags(&SigSet::all(), flags).map_err(call("cannot set up the group"))?;
        let cpus = hold.entered.cpus.clone();
        let launch = Launch {
            environment: &environment,
            argv: &argv,
            caller: &caller,
            gate: gate.as_deref(),
            trace: trace.as_deref(),
            ask_or_nothing: backend.asks(),
            held: plan.held,
            gatekeeper: Some(gatekeeper.as_fd()),
            own_session: true,
            cpus: cpus.as_deref(),
            // The command is born where this process is.
            cgroup: None,
        };
        let remote = socket
            .try_clone()
            .map_err(|_| HostError::call("cannot set up the group", Errno::EMFILE))?;
        let begun = Begun { asker: Asker::Remote(remote), signals, kin: Vec::new(), started };
        Reaper::start(hold, &options, &caller, &launch, begun)
    })();
    let reaper = match prepared {
        Ok(reaper) => reaper,
        Err(error) => return error,
    };
    let mut kept = reaper.fds();
    kept.push(socket.as_fd());
    inherited::let_go(&kept);
    let report = reaper.run();
    match serde_json::to_vec(&report) {
        Ok(json) => {
            let _ = ToFront::Report(json)
                .send(socket.as_fd())
                .and_then(|()| ToFront::Done.send(socket.as_fd()));
            sys::exit_now(0)
        }
        Err(error) => HostError::new("cannot report", error, "please report this bug"),
    }
}
