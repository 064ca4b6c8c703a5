//! The command's last steps before exec.
//!
//! The child of the supervisor, forked while that is still in the caller's process group, turns
//! itself back into what the caller would have started, with the caller's signal mask and
//! dispositions. Then it installs the
//! gate's filter on itself, hands the listener up and execs. Whether exec happened is told by the
//! socket: it is close-on-exec, so its end without a word means success.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, geteuid, getpid, getppid};

use crate::error::HostError;
use crate::gate;
use crate::kernel;
use crate::options::RunOptions;
use crate::parent;
use crate::sys::{self, BpfInsn, ForkSide, RawPid};
use crate::wire::{self, FromCommand};

/// What the caller handed to cgrove and the command must get back.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The front's pid.
    pub front: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its signal mask.
    pub mask: SigSet,
    /// It ignores SIGCHLD, which exec hands down.
    pub sigchld_ignored: bool,
    /// For whoever holds the tree.
    pub handed: Handed,
}

/// Descriptors that the front opens and hands to whoever holds the tree.
#[derive(Debug, Clone, Default)]
pub struct Handed {
    /// A pidfd of the process that the run ends with.
    pub parent: Option<Arc<OwnedFd>>,
    /// Sockets of packets for those who follow the run from its first event on.
    pub followers: Vec<Arc<OwnedFd>>,
}

impl Handed {
    /// What the options ask for.
    pub(crate) fn open(
        options: &RunOptions,
        followers: &[BorrowedFd<'_>],
    ) -> Result<Handed, HostError> {
        let parent = options.die_with.map(parent::open).transpose()?.map(Arc::new);
        let followers = followers.iter().map(|fd| fd.try_clone_to_owned().map(Arc::new));
        let followers = followers.collect::<Result<_, _>>();
        let followers =
            followers.map_err(|_| HostError::call("cannot tell events", Errno::EMFILE))?;
        Ok(Handed { parent, followers })
    }

    /// All of them.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.parent.iter().chain(&self.followers).map(|fd| fd.as_fd())
    }
}

/// What to start and how.
pub struct Launch<'a> {
    /// Command and arguments.
    pub argv: &'a [CString],
    /// `NAME=value` strings, see [`environment`].
    pub environment: &'a [CString],
    /// What to restore.
    pub caller: &'a Caller,
    /// The filter that asks a listener; `None`: not to be tried.
    pub gate: Option<&'a [BpfInsn]>,
    /// The filter that asks a tracer, if the other cannot be had; `None`: not to be tried.
    pub trace: Option<&'a [BpfInsn]>,
    /// Do not run the command if its forks ask nobody.
    pub ask_or_nothing: bool,
    /// Wait for [`let_start`] before the exec.
    pub held: bool,
    /// Where the listener goes, if not where the rest is reported.
    pub gatekeeper: Option<BorrowedFd<'a>>,
    /// Begin a session.
    pub own_session: bool,
    /// The CPUs that it may use; `None` leaves them as they are.
    pub cpus: Option<&'a [u32]>,
    /// The `cgroup.procs` of the kernel's cgroup that it is to be in.
    pub cgroup: Option<&'a Path>,
}

/// Words to a command that has not executed yet.
const START: u8 = b'g';
const TRACED: u8 = b't';
const UNTRACED: u8 = b'n';

/// The exit status of a command that cannot be executed, as in every shell.
pub fn exec_status(errno: Errno) -> i32 {
    if errno == Errno::ENOENT { 127 } else { 126 }
}

/// The command line as exec wants it. A NUL inside an argument cannot come from a shell, but can
/// from a program.
pub fn argv(command: &[OsString]) -> Result<Vec<CString>, HostError> {
    command
        .iter()
        .map(|word| {
            CString::new(word.clone().into_vec()).map_err(|_| {
                HostError::new(
                    "cannot run the command",
                    "an argument contains a NUL byte",
                    "remove it",
                )
            })
        })
        .collect()
}

/// The caller's environment, with the run's name in `CGROVE`: with it what runs inside can look at
/// its own limits.
pub fn environment(name: &str) -> Vec<CString> {
    let ours = [(OsString::from("CGROVE"), OsString::from(name))];
    let theirs = std::env::vars_os().filter(|(key, _)| key != "CGROVE");
    let word = |(mut key, value): (OsString, OsString)| {
        key.push("=");
        key.push(value);
        // There is no NUL in an environment, nor in a name.
        CString::new(key.into_vec()).ok()
    };
    theirs.chain(ours).filter_map(word).collect()
}

/// Forks the command. Returns its pid and the socket on which it reports.
pub fn start(launch: &Launch<'_>) -> Result<(RawPid, OwnedFd), HostError> {
    let parent = getpid();
    let (ours, theirs) =
        wire::pair().map_err(|e| HostError::call("cannot create a socket pair", e))?;
    match sys::fork().map_err(|e| HostError::call("cannot fork the command", e))? {
        ForkSide::Parent(pid) => Ok((pid, ours)),
        ForkSide::Child => {
            drop(ours);
            become_command(launch, parent, theirs)
        }
    }
}

/// Lets a held command start, or freeze: whatever is to stop it must be under way.
pub fn let_start(socket: BorrowedFd<'_>) {
    say(socket, START);
}

/// Answers a command that wants to be traced.
pub(crate) fn answer_traced(socket: BorrowedFd<'_>, traced: bool) {
    say(socket, if traced { TRACED } else { UNTRACED });
}

fn say(socket: BorrowedFd<'_>, word: u8) {
    // Fails if the command is dead.
    let _ = nix::unistd::write(socket, &[word]);
}

/// A setuid program started by somebody without rights could not be killed by him. The gate comes
/// with no_new_privs for such a caller; without it the kill needs it all the same.
fn stay_killable() {
    if !geteuid().is_root() {
        // Fails on no kernel that has it, and Linux has had it since 3.5.
        let _ = sys::no_new_privs();
    }
}

/// Has the supervisor trace this process, and then its forks ask it. `held`: it has not said yet that
/// the command may start.
pub(crate) fn be_traced(
    program: &[BpfInsn],
    to: BorrowedFd<'_>,
    held: &mut bool,
) -> Result<(), Errno> {
    FromCommand::TraceMe(getpid().as_raw()).send(to)?;
    loop {
        match word(to) {
            Some(START) => *held = false,
            Some(TRACED) => break,
            Some(_) => return Err(Errno::EPERM),
            None => return Err(Errno::EPIPE),
        }
    }
    let installed = gate::install_for_tracer(program);
    match installed {
        Ok(()) => FromCommand::Traced.send(to),
        Err(errno) => FromCommand::NoTrace(errno).send(to),
    }?;
    installed
}

/// The next word of the supervisor, or of who else waits for this process.
fn word(from: BorrowedFd<'_>) -> Option<u8> {
    let mut word = [0];
    loop {
        match nix::unistd::read(from, &mut word) {
            Err(Errno::EINTR) => {}
            Ok(1) => return Some(word[0]),
            Ok(_) | Err(_) => return None,
        }
    }
}

fn become_command(launch: &Launch<'_>, parent: Pid, report: OwnedFd) -> ! {
    let _ = sys::parent_death_signal(libc::SIGKILL);
    if getppid() != parent {
        sys::exit_now(125);
    }
    // Before anything that could fork: whoever is born later is born in there.
    if let Some(procs) = launch.cgroup
        && let Err(errno) = kernel::enter(procs)
    {
        let _ = FromCommand::GaveUp(errno).send(report.as_fd());
        sys::exit_now(125);
    }
    if launch.own_session {
        // Cannot fail: a child that has just been forked leads no group.
        let _ = nix::unistd::setsid();
    }
    if let Some(cpus) = launch.cpus {
        // What lies within the caller's own cannot be refused.
        let _ = sys::set_cpus_of(0, cpus.iter().copied());
    }
    // Without the listener in the supervisor's hands every fork would fail: give up.
    let to = launch.gatekeeper.unwrap_or(report.as_fd());
    let give_up = |errno| -> ! {
        let _ = FromCommand::GaveUp(errno).send(report.as_fd());
        sys::exit_now(125)
    };
    let mut held = launch.held;
    let mut refusal = None;
    let mut asks = false;
    if let Some(program) = launch.gate {
        let installed = match gate::install(program) {
            Ok(listener) => FromCommand::Listener(listener),
            Err(errno) => FromCommand::NoGate(errno),
        };
        match installed {
            FromCommand::NoGate(errno) => refusal = Some(errno),
            _ => asks = true,
        }
        if let Err(errno) = installed.send(to) {
            give_up(errno);
        }
    }
    if let Some(program) = launch.trace.filter(|_| !asks) {
        match be_traced(program, to, &mut held) {
            Ok(()) => asks = true,
            Err(errno) => refusal = Some(errno),
        }
    }
    if !asks {
        if launch.ask_or_nothing {
            give_up(refusal.unwrap_or(Errno::EOPNOTSUPP));
        }
        stay_killable();
    }
    if launch.caller.sigchld_ignored {
        sys::set_signal_ignored(libc::SIGCHLD, true);
    }
    if held {
        // The end of the stream is as good: the supervisor is dead, and so are we.
        let _ = word(report.as_fd());
    }
    let _ = launch.caller.mask.thread_set_mask();
    let argv: Vec<&CStr> = launch.argv.iter().map(CString::as_c_str).collect();
    let errno = sys::exec(&argv, launch.environment);
    let _ = FromCommand::ExecFailed(errno).send(report.as_fd());
    sys::exit_now(exec_status(errno))
}
