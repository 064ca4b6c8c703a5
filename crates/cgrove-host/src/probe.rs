//! What this place allows, found by trying.
//!
//! Kernel version and configuration say little: a container's filter, a security module or another
//! listener decide. So the filter is installed for real, in a child that then forks through it,
//! and what comes back is reported as found. A run does not probe; it tries and falls back.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::getpid;
use serde::Serialize;

use crate::filter::{self, Whom};
use crate::gate::{self, Asked, Gate, Question};
use crate::kernel;
use crate::launch;
use crate::options::Feature;
use crate::procfs::Proc;
use crate::report::{Backend, Class};
use crate::sys::{self, ForkSide, RawPid};
use crate::tracer::{self, Tracer};
use crate::wire::{self, FromCommand};

/// As much as a filter can ask.
const EVERYTHING: filter::Ask = filter::Ask { threads: true, affinity: true };
/// How long the probing child may take.
const PATIENCE_MS: u16 = 2000;

/// Everything the doctor knows.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// The kernel's release.
    pub kernel: String,
    /// The fork gate, tried for real.
    pub gate: GateProbe,
    /// The process already lives under this many seccomp filters; `null` if the kernel hides it.
    pub seccomp_filters: Option<u64>,
    /// no_new_privs is set already.
    pub no_new_privs: bool,
    /// CAP_SYS_ADMIN: filters need no no_new_privs, so setuid programs keep working.
    pub cap_sys_admin: bool,
    /// Yama's `ptrace_scope`; `null` without Yama.
    pub ptrace_scope: Option<u32>,
    /// PR_SET_CHILD_SUBREAPER works.
    pub subreaper: bool,
    /// `/proc/PID/task/TID/children` exists (CONFIG_PROC_CHILDREN).
    pub proc_children: bool,
    /// How `/proc` is mounted, if it hides other users' processes.
    pub hidepid: Option<String>,
    /// pidfd_open works.
    pub pidfd: bool,
    /// The kernel's own cgroup.
    pub cgroup2: Cgroup2,
    /// Every backend, the strongest first.
    pub rungs: Vec<Rung>,
    /// What a run would use.
    pub backend: Backend,
    /// Why.
    pub backend_reason: String,
    /// What each feature would give with it.
    pub classes: Vec<FeatureClass>,
}

/// A backend, tried for real.
#[derive(Debug, Clone, Serialize)]
pub struct Rung {
    /// Which.
    pub backend: Backend,
    /// It can be had here.
    pub works: bool,
    /// Why, or why not.
    pub reason: String,
    /// What each feature would give with it; nothing if it cannot be had.
    pub classes: Vec<FeatureClass>,
}

/// The fork gate.
#[derive(Debug, Clone, Serialize)]
pub struct GateProbe {
    /// A fork asked, was allowed and happened.
    pub works: bool,
    /// Why not.
    pub error: Option<String>,
    /// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6).
    pub sync_wake_up: bool,
    /// The kernel knows SECCOMP_RET_USER_NOTIF.
    pub action_available: bool,
}

/// The kernel's cgroup v2, for the backend `kernel`.
#[derive(Debug, Clone, Serialize)]
pub struct Cgroup2 {
    /// Where it is mounted.
    pub mount: Option<String>,
    /// This process's own cgroup directory lets us make children.
    pub writable: bool,
}

/// One feature and its class.
#[derive(Debug, Clone, Serialize)]
pub struct FeatureClass {
    /// `pids`, `cpu`, `kill`, `memory` or `cpu-max`.
    pub feature: &'static str,
    /// Its class.
    pub class: Class,
}

/// Looks around. The calling process must be single-threaded.
pub fn look() -> Place {
    let sigchld_ignored = sys::signal_is_ignored(libc::SIGCHLD);
    // As a run does, or the probing child could not be waited for.
    sys::set_signal_ignored(libc::SIGCHLD, false);
    let gate = probe_gate();
    let mut proc = Proc::open().ok();
    let mut read = |path: &str| -> Option<String> {
        let text = proc.as_mut()?.file(path).ok()?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let status = read("self/status").unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let effective = field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let mounts = read("self/mounts").unwrap_or_default();
    let me = getpid().as_raw();
    let place = kernel::Place::find();
    let obstacle = place.as_ref().ok().and_then(|place| place.may_enable(me).err());
    let holds = |controller: &str| {
        place.as_ref().is_ok_and(|place| {
            let has = |list: Vec<String>| list.iter().any(|it| it == controller);
            has(place.enabled()) || (obstacle.is_none() && has(place.controllers()))
        })
    };
    let tried = |backend| match (backend, &gate.error) {
        (Backend::Gate, None) => Ok("seccomp user notification works here".to_owned()),
        (Backend::Gate, Some(error)) => Err(error.clone()),
        (Backend::Kernel, _) => try_rung(backend).map(|()| {
            let dir = place.as_ref().map(|place| place.dir().display().to_string());
            let but = obstacle.as_ref().map_or(String::new(), |why| format!(", but {why}"));
            format!("{} is delegated to us{but}", dir.unwrap_or_default())
        }),
        (Backend::Ptrace, _) => try_rung(backend).map(|()| "a tracer works here".to_owned()),
        (Backend::Reaper, _) => Ok("needs nothing".to_owned()),
    };
    let mut rungs: Vec<Rung> = Vec::new();
    // From the weakest, for what the kernel has no controller for is held by the next.
    for backend in Backend::ALL.into_iter().rev() {
        let tried = tried(backend);
        let works = tried.is_ok();
        let reason = tried.unwrap_or_else(|why| why);
        let beside = rungs.iter().rfind(|rung: &&Rung| rung.works).map(|rung| rung.backend);
        let class = |feature: Feature| {
            let controller = match feature {
                Feature::Pids => "pids",
                Feature::Memory => "memory",
                Feature::CpuMax => "cpu",
                Feature::Cpu | Feature::Kill => "",
            };
            let lacks = !controller.is_empty() && !holds(controller);
            let of = if backend == Backend::Kernel && lacks { beside } else { Some(backend) };
            feature.class(of.unwrap_or(Backend::Reaper), sigchld_ignored)
        };
        let classes = Feature::ALL.iter().filter(|_| works);
        let classes = classes.map(|&(feature, it)| FeatureClass { feature, class: class(it) });
        rungs.push(Rung { backend, works, reason, classes: classes.collect() });
    }
    rungs.reverse();
    let taken = rungs.iter().find(|rung| rung.works);
    let backend = taken.map_or(Backend::Reaper, |rung| rung.backend);
    let classes = taken.map(|rung| rung.classes.clone()).unwrap_or_default();
    let backend_reason = match (backend, &gate.error) {
        (Backend::Reaper, Some(error)) => error.clone(),
        _ => taken.map(|rung| rung.reason.clone()).unwrap_or_default(),
    };
    Place {
        kernel: read("sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        seccomp_filters: field("Seccomp_filters").and_then(|n| n.parse().ok()),
        no_new_privs: sys::has_no_new_privs(),
        cap_sys_admin: effective >> 21 & 1 == 1,
        ptrace_scope: read("sys/kernel/yama/ptrace_scope").and_then(|n| n.trim().parse().ok()),
        subreaper: sys::become_subreaper().is_ok(),
        proc_children: read(&format!("{me}/task/{me}/children")).is_some(),
        hidepid: option_of(&mounts, "/proc", "hidepid="),
        pidfd: sys::pidfd_open(me).is_ok(),
        cgroup2: cgroup2(&mounts, &read("self/cgroup").unwrap_or_default()),
        backend,
        backend_reason,
        classes,
        rungs,
        gate,
    }
}

/// A mount option of the file system at `place`, with its value.
fn option_of(mounts: &str, place: &str, option: &str) -> Option<String> {
    let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(place))?;
    let found = line.split(' ').nth(3)?.split(',').find(|o| o.starts_with(option))?;
    (!matches!(found, "hidepid=0" | "hidepid=off")).then(|| found.to_owned())
}

fn cgroup2(mounts: &str, own: &str) -> Cgroup2 {
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .and_then(|line| line.split(' ').nth(1))
        .map(str::to_owned);
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    let writable = match (&mount, path) {
        (Some(mount), Some(path)) => {
            use nix::unistd::{AccessFlags, access};
            let own = format!("{mount}{path}");
            access(own.as_str(), AccessFlags::W_OK).is_ok()
                && access(format!("{own}/cgroup.procs").as_str(), AccessFlags::W_OK).is_ok()
        }
        _ => false,
    };
    Cgroup2 { mount, writable }
}

/// Installs the filter in a child, lets it fork once and sees what happens.
fn probe_gate() -> GateProbe {
    let action_available = sys::seccomp_action_available(libc::SECCOMP_RET_USER_NOTIF);
    let mut probe = GateProbe { works: false, error: None, sync_wake_up: false, action_available };
    match try_gate() {
        Ok(sync_wake_up) => {
            probe.works = true;
            probe.sync_wake_up = sync_wake_up;
        }
        Err(error) => probe.error = Some(error),
    }
    probe
}

pub(crate) fn try_gate() -> Result<bool, String> {
    let words = |what: &str, errno: Errno| format!("{what}: {}", errno.desc());
    let program = filter::program(EVERYTHING, Whom::Listener)
        .ok_or_else(|| gate::why_not(Errno::EOPNOTSUPP))?;
    let (ours, theirs) = wire::pair().map_err(|e| words("no socket pair", e))?;
    let child = match sys::fork().map_err(|e| words("cannot fork", e))? {
        ForkSide::Child => {
            drop(ours);
            let message = match gate::install(&program) {
                Ok(listener) => FromCommand::Listener(listener),
                Err(errno) => FromCommand::NoGate(errno),
            };
            if message.send(theirs.as_fd()).is_err() {
                sys::exit_now(1);
            }
            drop(message);
            fork_once()
        }
        ForkSide::Parent(pid) => pid,
    };
    drop(theirs);
    let answered = answer_one(ours.as_fd());
    if answered.is_err() {
        let _ = sys::kill(child, libc::SIGKILL);
    }
    let fate = sys::wait_for_end(child);
    match (answered, fate) {
        (Err(error), _) => Err(error),
        (Ok(sync), Ok(Some(waited))) if waited.fate == sys::Fate::Exited(0) => Ok(sync),
        (Ok(_), _) => Err("a fork that was let through did not happen".to_owned()),
    }
}

/// The end of a probing child: it succeeds if its fork does.
fn fork_once() -> ! {
    let status = match sys::fork() {
        Ok(ForkSide::Child) => 0,
        Ok(ForkSide::Parent(pid)) => i32::from(sys::wait_for_end(pid).is_err()),
        Err(_) => 2,
    };
    sys::exit_now(status)
}

/// Takes the listener and lets one fork through. Returns whether wake-ups can be synchronous.
fn answer_one(socket: BorrowedFd<'_>) -> Result<bool, String> {
    patient(socket)?;
    let listener = match FromCommand::receive(socket) {
        Ok(Some(FromCommand::Listener(listener))) => listener,
        Ok(Some(FromCommand::NoGate(errno))) | Err(errno) => return Err(gate::why_not(errno)),
        Ok(_) => return Err("the probing child died".to_owned()),
    };
    let sync = sys::notif_sync_wake_up(listener.as_fd()).is_ok();
    let gate = Gate::new(listener);
    patient(gate.as_fd())?;
    match gate.receive() {
        Ok(Some(Question { id, asked: Asked::Fork { .. }, .. })) if gate.allow(id) => Ok(sync),
        Ok(_) => Err("the fork did not ask".to_owned()),
        Err(errno) => Err(gate::why_not(errno)),
    }
}

/// Whether a backend can be had here, and if not why. The calling process must be single-threaded.
pub(crate) fn try_rung(rung: Backend) -> Result<(), String> {
    match rung {
        Backend::Gate => try_gate().map(drop),
        Backend::Ptrace => try_trace(),
        Backend::Reaper => Ok(()),
        Backend::Kernel => match kernel::Place::find() {
            Ok(place) if place.is_root() => Err(format!(
                "{} is the root of the hierarchy, and nobody's to use unasked",
                place.dir().display()
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Traces a child, lets it install the filter and fork once through it, and sees what happens.
fn try_trace() -> Result<(), String> {
    let words = |what: &str, errno: Errno| format!("{what}: {}", errno.desc());
    let program = filter::program(EVERYTHING, Whom::Tracer)
        .ok_or_else(|| gate::why_not_traced(Errno::EOPNOTSUPP))?;
    let (ours, theirs) = wire::pair().map_err(|e| words("no socket pair", e))?;
    let child = match sys::fork().map_err(|e| words("cannot fork", e))? {
        ForkSide::Child => {
            drop(ours);
            let mut held = false;
            if launch::be_traced(&program, theirs.as_fd(), &mut held).is_err() {
                sys::exit_now(1);
            }
            fork_once()
        }
        ForkSide::Parent(pid) => pid,
    };
    drop(theirs);
    let mut tracer = Tracer::default();
    let traced = follow(child, ours.as_fd(), &mut tracer);
    // Whoever is there still. Others that this process had as children before are not its business.
    let left = tracer.everyone().chain([child]).collect::<HashSet<_>>();
    for pid in &left {
        let _ = sys::kill(*pid, libc::SIGKILL);
    }
    for pid in &left {
        let _ = sys::wait_for_end(*pid);
    }
    traced
}

/// Lets a child that wants to be traced fork once.
fn follow(child: RawPid, socket: BorrowedFd<'_>, tracer: &mut Tracer) -> Result<(), String> {
    let until = Instant::now() + Duration::from_millis(PATIENCE_MS.into());
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let how = SigmaskHow::SIG_BLOCK;
    let before = mask.thread_swap_mask(how).map_err(|e| e.desc().to_owned())?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags).map_err(|e| e.desc().to_owned())?;
    let followed = follow_until(child, socket, &signals, until, tracer);
    let _ = before.thread_set_mask();
    followed
}

fn follow_until(
    child: RawPid,
    socket: BorrowedFd<'_>,
    signals: &SignalFd,
    until: Instant,
    tracer: &mut Tracer,
) -> Result<(), String> {
    let died = || "the probing child died".to_owned();
    let next = || match FromCommand::receive(socket) {
        Ok(Some(message)) => Ok(message),
        Ok(None) | Err(_) => Err(died()),
    };
    patient(socket)?;
    let FromCommand::TraceMe(_) = next()? else { return Err(died()) };
    let seized = sys::ptrace_seize(child, tracer::OPTIONS, &sys::Impatient::begin());
    launch::answer_traced(socket, seized.is_ok());
    seized.map_err(gate::why_not_traced)?;
    patient(socket)?;
    match next()? {
        FromCommand::Traced => {}
        FromCommand::NoTrace(errno) => {
            return Err(format!("this place forbids filters ({errno:?})"));
        }
        _ => return Err(died()),
    }
    let mut forks = 0;
    loop {
        match sys::peek_any() {
            Ok(None) if Instant::now() < until => {
                // Taken first: what comes after it is found by the next look.
                let _ = patient(signals.as_fd());
                while let Ok(Some(_)) = signals.read_signal() {}
            }
            Ok(None) => return Err("the probing child does not answer".to_owned()),
            Err(_) => return Err(died()),
            Ok(Some((tid, sys::Peeked::Stopped))) => {
                let Ok(Some(stop)) = sys::wait_trace_stop(tid) else { continue };
                tracer.stood(tid, stop);
                if tracer.is_asking(tid) {
                    forks += u32::from(tracer.allow(tid));
                } else {
                    tracer.go_on(tid, stop);
                }
            }
            Ok(Some((pid, sys::Peeked::Ended))) => {
                let fate = sys::wait_for(pid).ok().flatten().map(|waited| waited.fate);
                tracer.lost(pid);
                if pid == child {
                    return match fate {
                        Some(sys::Fate::Exited(0)) if forks == 1 => Ok(()),
                        _ => Err("a fork that was let through did not happen".to_owned()),
                    };
                }
            }
        }
    }
}

fn patient(socket: BorrowedFd<'_>) -> Result<(), String> {
    let patience = PollTimeout::from(PATIENCE_MS);
    match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], patience) {
        Ok(n) if n > 0 => Ok(()),
        _ => Err("the probing child does not answer".to_owned()),
    }
}
