//! Finding the run that the calling process is in.
//!
//! `CGROVE` in the environment says it. A program that starts others with an environment of its own
//! takes that away, and with it perhaps the variable that says where the doors are; what it cannot
//! take away is the ancestry. A supervisor above is known by the name of its process, and its
//! command line tells the run's, as far as there was room for it; the door then vouches for both,
//! since it asks the kernel who knocks.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use nix::unistd::getpid;

use super::{Request, ask, folder_path_with, runs_in};
use crate::procfs::Proc;
use crate::sys::RawPid;

/// As `comm` has it.
pub(crate) const SUPERVISOR: &[u8] = b"cg-reaper";

/// The name of the run that this process is in, if it is in one.
pub(crate) fn find() -> Option<String> {
    let named = std::env::var_os("CGROVE").filter(|name| !name.is_empty());
    if let Some(named) = named.and_then(|name| name.into_string().ok()) {
        // Whatever is below: the door knows which group asks.
        return named.split('/').next().map(str::to_owned);
    }
    let supervisor = above()?;
    let mut proc = Proc::open().ok()?;
    let title = proc.command_line(supervisor).join(" ");
    let name = title.split_once(' ').map(|(_, name)| name.to_owned());
    let is_it = |name: &String| {
        ask(name, &Request::Where).is_ok_and(|answer| answer.is_ok_and(|at| !at.is_empty()))
    };
    name.filter(is_it).or_else(|| {
        let folder = folder_of(supervisor)?;
        runs_in(&folder).ok()?.into_iter().find(is_it)
    })
}

/// The nearest supervisor among the ancestors of this process.
pub(crate) fn above() -> Option<RawPid> {
    nearest_supervisor(&mut Proc::open().ok()?, getpid().as_raw())
}

/// The nearest supervisor among the ancestors of a process.
pub(crate) fn nearest_supervisor(proc: &mut Proc, of: RawPid) -> Option<RawPid> {
    let mut at = of;
    for _ in 0..4096 {
        at = proc.stat(at).ok()?.ppid;
        if at <= 1 {
            return None;
        }
        if proc.name(at).is_ok_and(|name| name == SUPERVISOR) {
            return Some(at);
        }
    }
    None
}

/// Where the supervisor above this process has its door.
pub(crate) fn folder_of_supervisor() -> Option<PathBuf> {
    folder_of(above()?)
}

fn folder_of(supervisor: RawPid) -> Option<PathBuf> {
    let environment = std::fs::read(format!("/proc/{supervisor}/environ")).ok()?;
    let key = OsString::from("XDG_RUNTIME_DIR=");
    let mut words = environment.split(|&byte| byte == 0);
    let value = words.find_map(|word| word.strip_prefix(key.as_bytes()));
    Some(folder_path_with(value.map(|value| OsString::from_vec(value.to_vec()))))
}
