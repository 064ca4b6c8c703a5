//! Those that are not at a halt: who, why, and how that is found out.

use std::fmt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::procfs::Proc;
use crate::report::Class;
use crate::sys::RawPid;

/// Why a task is not at a halt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Somebody else traces it.
    TracedBy {
        /// The tracer's process.
        tracer: RawPid,
        /// Its name, as ps(1) prints the command line.
        name: String,
    },
    /// `ptrace` was refused.
    Refused {
        /// The errno's name.
        errno: String,
        /// `/proc/sys/kernel/yama/ptrace_scope`, where it forbids it.
        yama: Option<u8>,
    },
    /// It sleeps uninterruptibly, and stops when that is over.
    Sleeps,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::TracedBy { tracer, name } => write!(f, "is traced by process {tracer} ({name})"),
            Why::Refused { errno, yama: Some(scope) } => {
                write!(f, "may not be traced ({errno}, kernel.yama.ptrace_scope is {scope})")
            }
            Why::Refused { errno, yama: None } => write!(
                f,
                "may not be traced ({errno}: another user's, undumpable, or ptrace is forbidden \
                 here)"
            ),
            Why::Sleeps => f.write_str("sleeps uninterruptibly and stops afterwards"),
        }
    }
}

/// A task that is not at a halt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loose {
    /// The thread.
    pub tid: RawPid,
    /// Its process.
    pub pid: RawPid,
    /// Its command line.
    pub name: String,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Loose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tid != self.pid {
            write!(f, "thread {} of ", self.tid)?;
        }
        write!(f, "process {} ({}) {}", self.pid, self.name, self.why)
    }
}

/// What became of a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// `exact`: every task is at a halt. `sampled`: all but the loose.
    pub class: Class,
    /// The first of those that are not.
    pub loose: Vec<Loose>,
    /// How many there are.
    pub count: usize,
    /// Nobody could be frozen, and so the freeze was taken back.
    pub undone: bool,
    /// Somebody thawed it before it was reached.
    pub thawed: bool,
}

pub(super) fn name_of(pid: RawPid, proc: &mut Proc) -> String {
    let mut name = proc.command_line(pid).join(" ");
    if let Some((end, _)) = name.char_indices().nth(80) {
        name.truncate(end);
    }
    name
}

pub(super) fn refusal(tid: RawPid, errno: Errno, proc: &mut Proc) -> Why {
    if let Some(tracer) = proc.tracer(tid) {
        return Why::TracedBy { tracer, name: name_of(tracer, proc) };
    }
    let scope = proc.file("sys/kernel/yama/ptrace_scope").ok();
    let scope = scope.and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    // Scope 1 leaves a parent its descendants.
    Why::Refused { errno: format!("{errno:?}"), yama: scope.filter(|&scope: &u8| scope > 1) }
}

/// Whether a task sleeps until the child that it made with vfork goes its own way.
pub fn is_in_vfork(proc: &mut Proc, tid: RawPid) -> bool {
    if proc.thread_stat(tid).map_or(true, |stat| stat.state != b'D') {
        return false;
    }
    let Some((number, first)) = proc.sleeps_in(tid) else { return false };
    let vfork = libc::CLONE_VFORK as u64;
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_vfork {
        return true;
    }
    match number {
        libc::SYS_clone => first & vfork != 0,
        libc::SYS_clone3 => first_word(tid, first).is_some_and(|flags| flags & vfork != 0),
        _ => false,
    }
}

/// The first word of a structure in a task's memory: `flags`, in `struct clone_args`.
fn first_word(tid: RawPid, address: u64) -> Option<u64> {
    use nix::sys::uio::{RemoteIoVec, process_vm_readv};
    let mut bytes = [0; 8];
    let base = usize::try_from(address).ok()?;
    let got = process_vm_readv(
        nix::unistd::Pid::from_raw(tid),
        &mut [std::io::IoSliceMut::new(&mut bytes)],
        &[RemoteIoVec { base, len: 8 }],
    );
    (got == Ok(8)).then_some(u64::from_ne_bytes(bytes))
}
