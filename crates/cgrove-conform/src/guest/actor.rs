//! A task of a case: it waits for a step, does it, answers, and waits again.
//!
//! Being asked rather than acting by itself is what makes cases repeatable, and not answering is how
//! a frozen task shows. What an actor opens, forks or allocates is its own, as with any program.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Pid, Uid, gettid, setfsgid, setfsuid};

use super::files::{Files, refused};
use super::line;
use crate::case::{Act, Outcome, Place, Text};
use crate::sys::{self, CloneOptions, Forked};

/// The number under which an actor's process finds its line.
pub const LINE: i32 = 3;

/// The argument that makes the program an actor after an exec.
pub const ARGUMENT: &str = "actor";

/// Stack of a further thread: deep enough for a step, small under a tight memory limit.
const STACK: usize = 256 << 10;

/// Serves the line in a fresh child. Everything else that was open is closed.
pub fn run_child(line: OwnedFd) -> ! {
    let _ = sys::set_idle_policy(false);
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    let Ok(line) = sys::dup_onto(&line, LINE) else { std::process::exit(1) };
    sys::close_from(LINE + 1);
    run(line)
}

/// Serves the line as the first thread of a process.
pub fn run(line: OwnedFd) -> ! {
    match Actor::new(line).serve() {
        End::Process => std::process::exit(0),
        End::Thread => sys::exit_thread(),
    }
}

/// After an exec: answers the request that led to it, then serves.
pub fn run_after_exec(number: u64) -> ! {
    match sys::take_fd(LINE) {
        Ok(line) => {
            let _ = line::send(&line, &line::reply(number, &Outcome::Done), None);
            run(line)
        }
        Err(_) => std::process::exit(1),
    }
}

enum End {
    Process,
    Thread,
}

struct Actor {
    line: OwnedFd,
    files: Files,
    hoard: Vec<Vec<u8>>,
}

impl Actor {
    fn new(line: OwnedFd) -> Self {
        Self { line, files: Files::default(), hoard: Vec::new() }
    }

    fn serve(mut self) -> End {
        loop {
            let (text, fd) = match line::receive(&self.line) {
                Ok(Some(message)) => message,
                Err(Errno::EINTR) => continue,
                Ok(None) | Err(_) => return End::Process,
            };
            let Some((number, request)) = text.split_once(' ') else {
                return End::Process;
            };
            let number = number.parse().unwrap_or(0);
            let outcome = if let Some(pid) = request.strip_prefix("reap-id ") {
                pid.parse().map_or_else(Outcome::broken, |pid| reap(Pid::from_raw(pid)))
            } else {
                match crate::lang::parse_step(request) {
                    Err(e) => Outcome::Broken(e),
                    Ok(step) => match step.act {
                        Act::Exit { .. } => return End::Process,
                        Act::ExitThread { .. } => return End::Thread,
                        act => self.act(number, step.uid, &act, fd),
                    },
                }
            };
            if line::send(&self.line, &line::reply(number, &outcome), None).is_err() {
                return End::Process;
            }
        }
    }

    fn act(&mut self, number: u64, uid: Option<u32>, act: &Act, fd: Option<OwnedFd>) -> Outcome {
        if let Some(outcome) = self.files.perform(uid, act) {
            return outcome;
        }
        match act {
            Act::Spawn { place, .. } => match fd {
                Some(fd) => {
                    spawn(&self.files, uid, place.as_ref(), false, fd).map_or_else(refused, id)
                }
                None => Outcome::broken("no line for the child"),
            },
            Act::Thread { .. } => match fd {
                Some(fd) => start_thread(fd),
                None => Outcome::broken("no line for the thread"),
            },
            Act::Exec { .. } => self.exec(number),
            Act::Responds { .. } => Outcome::said("yes"),
            Act::Unshare { .. } => {
                unshare(CloneFlags::CLONE_NEWCGROUP).map_or_else(refused, |()| Outcome::Done)
            }
            Act::Alloc { bytes, .. } => {
                // Written to, page by page, so that it is really used.
                let mut block = vec![0u8; usize::try_from(*bytes).unwrap_or(0)];
                for page in block.chunks_mut(4096) {
                    page[0] = 1;
                }
                self.hoard.push(std::hint::black_box(block));
                Outcome::Done
            }
            Act::Free { .. } => {
                self.hoard.clear();
                Outcome::Done
            }
            Act::Burn { milliseconds, .. } => burn(*milliseconds),
            other => Outcome::broken(format!("an actor cannot {other}")),
        }
    }

    fn exec(&self, number: u64) -> Outcome {
        let result = sys::dup_onto(&self.line, LINE)
            .and_then(|line| {
                fcntl(line.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
                // The number lives on in the new program.
                std::mem::forget(line);
                Ok(())
            })
            .map_err(std::io::Error::from);
        let error = match result {
            Ok(()) => Command::new("/init").arg(ARGUMENT).arg(number.to_string()).exec(),
            Err(error) => error,
        };
        refused(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }
}

/// Makes a child that serves `line`.
///
/// # Errors
///
/// Those of clone3(2), and of opening the cgroup's directory.
pub fn spawn(
    files: &Files,
    uid: Option<u32>,
    place: Option<&Place>,
    new_pid_namespace: bool,
    line: OwnedFd,
) -> Result<Pid, Errno> {
    let opened;
    let cgroup = match place {
        None => None,
        Some(Place::Path(path)) => {
            opened = open_directory(path)?;
            Some(opened.as_fd())
        }
        Some(Place::Handle(name)) => Some(files.handle(name).ok_or(Errno::EBADF)?.as_fd()),
    };
    if let Some(uid) = uid {
        setfsgid(Gid::from_raw(uid));
        setfsuid(Uid::from_raw(uid));
    }
    let forked = sys::clone_process(CloneOptions { cgroup, new_pid_namespace });
    match forked {
        Ok(Forked::Child) => run_child(line),
        forked => {
            setfsuid(Uid::from_raw(0));
            setfsgid(Gid::from_raw(0));
            forked.map(|forked| match forked {
                Forked::Parent(pid) => pid,
                Forked::Child => unreachable!("taken above"),
            })
        }
    }
}

fn open_directory(path: &Text) -> Result<OwnedFd, Errno> {
    open(
        &super::files::path(path, None),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

/// How the id of a new task is told.
fn id(pid: Pid) -> Outcome {
    Outcome::said(format!("id {pid}"))
}

fn start_thread(line: OwnedFd) -> Outcome {
    let (tell, told) = mpsc::channel();
    let started = thread::Builder::new().stack_size(STACK).spawn(move || {
        let _ = tell.send(gettid());
        match Actor::new(line).serve() {
            End::Process => std::process::exit(0),
            End::Thread => {}
        }
    });
    match started {
        Ok(_) => told.recv().map_or_else(Outcome::broken, id),
        Err(e) => refused(Errno::from_raw(e.raw_os_error().unwrap_or(0))),
    }
}

/// Reaps a child of the caller if it is dead.
pub fn reap(pid: Pid) -> Outcome {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Outcome::said(format!("exited {code}")),
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Outcome::said(format!("killed {}", signal.as_str()))
        }
        Ok(_) => Outcome::said("not dead"),
        Err(errno) => refused(errno),
    }
}

fn burn(milliseconds: u64) -> Outcome {
    let used = || {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map(|t| t.tv_sec() as u64 * 1000 + t.tv_nsec() as u64 / 1_000_000)
            .unwrap_or(u64::MAX)
    };
    let end = used().saturating_add(milliseconds);
    while used() < end {
        std::hint::spin_loop();
    }
    Outcome::Done
}
