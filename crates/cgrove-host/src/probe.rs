//! What this place allows, found by trying.
//!
//! Kernel version and configuration say little: a container's filter, a security module or another
//! listener decide. So the filter is installed for real, in a child that then forks through it,
//! and what comes back is reported as found. A run does not probe; it tries and falls back.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getpid;
use serde::Serialize;

use crate::filter;
use crate::gate::{self, Asked, Gate};
use crate::kernel;
use crate::options::Feature;
use crate::procfs::Proc;
use crate::report::{Backend, Class};
use crate::sys::{self, ForkSide};
use crate::wire::{self, FromCommand};

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
    /// What a run would use.
    pub backend: Backend,
    /// Why.
    pub backend_reason: String,
    /// What each feature would give with it.
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
    /// `pids`, `cpu` or `kill`.
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
    let delegated = kernel::Place::find().ok().filter(|place| !place.is_root());
    let obstacle = delegated.as_ref().and_then(|place| place.may_enable(me).err());
    let holds = |controller: &str| {
        delegated.as_ref().is_some_and(|place| {
            let has = |list: Vec<String>| list.iter().any(|it| it == controller);
            has(place.enabled()) || (obstacle.is_none() && has(place.controllers()))
        })
    };
    let beside = if gate.works { Backend::Gate } else { Backend::Reaper };
    let backend = if delegated.is_some() { Backend::Kernel } else { beside };
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
        backend_reason: match (&delegated, &gate.error) {
            (Some(place), _) => {
                let dir = place.dir().display();
                let but = obstacle.as_ref().map_or(String::new(), |why| format!(", but {why}"));
                format!("{dir} is delegated to us{but}")
            }
            (None, None) => "seccomp user notification works here".to_owned(),
            (None, Some(error)) => error.clone(),
        },
        classes: Feature::ALL
            .iter()
            .map(|&(name, feature)| FeatureClass {
                feature: name,
                class: match feature {
                    Feature::Pids if !holds("pids") => feature.class(beside, sigchld_ignored),
                    Feature::Memory if !holds("memory") => feature.class(beside, sigchld_ignored),
                    Feature::CpuMax if !holds("cpu") => feature.class(beside, sigchld_ignored),
                    _ => feature.class(backend, sigchld_ignored),
                },
            })
            .collect(),
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
    let program = filter::program(filter::Ask { threads: true, affinity: true })
        .ok_or_else(|| gate::why_not(Errno::EOPNOTSUPP))?;
    let (ours, theirs) = wire::pair().map_err(|e| words("no socket pair", e))?;
    let child = match sys::fork().map_err(|e| words("cannot fork", e))? {
        ForkSide::Child => {
            drop(ours);
            let message = match gate::install(Some(&program)) {
                Ok(listener) => FromCommand::Listener(listener),
                Err(errno) => FromCommand::NoGate(errno),
            };
            if message.send(theirs.as_fd()).is_err() {
                sys::exit_now(1);
            }
            drop(message);
            let status = match sys::fork() {
                Ok(ForkSide::Child) => 0,
                Ok(ForkSide::Parent(pid)) => i32::from(sys::wait_for_end(pid).is_err()),
                Err(_) => 2,
            };
            sys::exit_now(status)
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

/// Takes the listener and lets one fork through. Returns whether wake-ups can be synchronous.
fn answer_one(socket: BorrowedFd<'_>) -> Result<bool, String> {
    let wait = |fd: BorrowedFd<'_>| match poll(
        &mut [PollFd::new(fd, PollFlags::POLLIN)],
        PollTimeout::from(PATIENCE_MS),
    ) {
        Ok(n) if n > 0 => Ok(()),
        _ => Err("the probing child does not answer".to_owned()),
    };
    wait(socket)?;
    let listener = match FromCommand::receive(socket) {
        Ok(Some(FromCommand::Listener(listener))) => listener,
        Ok(Some(FromCommand::NoGate(errno))) | Err(errno) => return Err(gate::why_not(errno)),
        Ok(_) => return Err("the probing child died".to_owned()),
    };
    let sync = sys::notif_sync_wake_up(listener.as_fd()).is_ok();
    let gate = Gate::new(listener);
    wait(gate.as_fd())?;
    match gate.receive() {
        Ok(Some(Asked::Fork { id, .. })) if gate.allow(id) => Ok(sync),
        Ok(_) => Err("the fork did not ask".to_owned()),
        Err(errno) => Err(gate::why_not(errno)),
    }
}
