//! Making room for controllers: our own processes step aside into a leaf.
//!
//! A cgroup with processes cannot enable controllers for its children, and the place has at least
//! this process in it. If everyone in it is ours, all move into a child, the place enables what it
//! can, and the run's group is the leaf's sibling. Somebody else's processes are never moved: where
//! there are any, the limits are held by cgrove itself.
//!
//! The leaf's name says what was enabled, so that anybody can undo it: switch that off, move
//! everyone back (the order matters: the place takes no processes while it has controllers on), and
//! remove the leaf.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::getpid;

use super::{KernelError, Maker, OWN, Place, processes, write};
use crate::procfs::Proc;
use crate::sys::RawPid;

/// Processes that fork while they are moved are found in the next round.
const ROUNDS: usize = 8;

/// The front and all that descends from it, and this process, whose front may be dead by now.
fn is_ours(proc: &mut Proc, front: RawPid, pid: RawPid) -> bool {
    pid == getpid().as_raw() || (pid != 0 && proc.is_above(front, pid))
}

/// The names of the cgroups in one.
fn children(dir: &Path) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir())).map(|it| it.file_name())
}

/// A child of a place for our own processes.
#[derive(Debug)]
pub struct Leaf {
    place: PathBuf,
    dir: PathBuf,
    controllers: Vec<String>,
}

impl Place {
    /// Whether controllers may be switched on here for a run of `front`'s.
    ///
    /// EPERM: it is the root. EBUSY: it has processes of others, or cgroups, which would get the
    /// controllers as well, and lose them at the end.
    pub fn may_enable(&self, front: RawPid) -> Result<(), KernelError> {
        let at = self.dir().display();
        let refused = |what: String, errno| Err(KernelError::new(what, errno));
        if self.is_root() {
            let what = "is the root of the hierarchy, and its controllers everybody's";
            return refused(format!("{at} {what}"), Errno::EPERM);
        }
        let cannot = |errno| KernelError::new(format!("cannot look at who is in {at}"), errno);
        let mut proc = Proc::open().map_err(cannot)?;
        let pids = processes(self.dir()).map_err(cannot)?;
        match pids.into_iter().find(|pid| !is_ours(&mut proc, front, *pid)) {
            Some(0) => {
                let what = format!("{at} has processes of another pid namespace");
                return refused(what, Errno::EBUSY);
            }
            Some(pid) => {
                let name = proc.name(pid).map(String::from_utf8_lossy).unwrap_or_default();
                let name = name.escape_debug();
                let what = format!("{at} has processes of others in it, such as {pid} ({name})");
                return refused(what, Errno::EBUSY);
            }
            None => {}
        }
        match children(self.dir()).next() {
            None => Ok(()),
            Some(child) => {
                let child = child.to_string_lossy();
                let child = child.escape_debug();
                refused(format!("{at} has other cgroups in it, such as {child}"), Errno::EBUSY)
            }
        }
    }
}

impl Leaf {
    /// Enables controllers in a place whose processes all descend from `front`, or are it.
    ///
    /// Errors as of [`Place::may_enable`], else what the kernel said of the first controller; those
    /// that it took are on if any was taken.
    pub fn step_aside(
        place: &Place,
        controllers: &[String],
        front: RawPid,
    ) -> Result<Leaf, KernelError> {
        place.may_enable(front)?;
        let at = place.dir().display();
        let cannot = |what: &str, errno| KernelError::new(format!("cannot {what} {at}"), errno);
        let mut proc = Proc::open().map_err(|errno| cannot("look at who is in", errno))?;
        let maker = Maker::me().map_err(|errno| cannot("look at who is in", errno))?;
        let dir = place.dir().join(format!("{OWN}{maker}-{}", controllers.join("+")));
        fs::create_dir(&dir).map_err(|e| cannot("make a cgroup in", super::of(&e)))?;
        let leaf = Leaf { place: place.dir().to_owned(), dir, controllers: controllers.to_vec() };
        let enabled = leaf.enter(front, &mut proc).and_then(|()| leaf.enable());
        match enabled {
            Ok(()) => Ok(leaf),
            Err(error) => {
                let _ = leaf.undo();
                Err(error)
            }
        }
    }

    fn enter(&self, front: RawPid, proc: &mut Proc) -> Result<(), KernelError> {
        let cannot = |errno| {
            KernelError::new(format!("cannot move processes into {}", self.dir.display()), errno)
        };
        for _ in 0..ROUNDS {
            let pids = processes(&self.place).map_err(cannot)?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                if !is_ours(proc, front, pid) {
                    // It came after the first look, or lost its parent since.
                    return Err(cannot(Errno::EBUSY));
                }
                match write(&self.dir, "cgroup.procs", &pid.to_string()) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(cannot(errno)),
                }
            }
        }
        Err(cannot(Errno::EBUSY))
    }

    /// One by one: one that is refused must not take the others with it.
    fn enable(&self) -> Result<(), KernelError> {
        let mut refused = None;
        let mut some = false;
        for controller in &self.controllers {
            match write(&self.place, "cgroup.subtree_control", &format!("+{controller}")) {
                Ok(()) => some = true,
                Err(errno) => {
                    let what = format!("cannot enable {controller} in {}", self.place.display());
                    refused.get_or_insert(KernelError::new(what, errno));
                }
            }
        }
        match refused {
            Some(error) if !some => Err(error),
            _ => Ok(()),
        }
    }

    /// One that is there; `None` if its name says nothing.
    pub(super) fn found(dir: PathBuf) -> Option<Leaf> {
        let name = dir.file_name()?.to_str()?.strip_prefix(OWN)?;
        let controllers = name.splitn(4, '-').nth(3)?;
        let controllers = controllers.split('+').filter(|it| !it.is_empty());
        let controllers = controllers.map(str::to_owned).collect();
        Some(Leaf { place: dir.parent()?.to_owned(), dir, controllers })
    }

    /// Puts everything back as it was. EBUSY: somebody else has groups in the place by now, which would
    /// lose their controllers.
    pub fn undo(&self) -> Result<(), Errno> {
        if self.has_siblings() {
            return Err(Errno::EBUSY);
        }
        for controller in &self.controllers {
            let _ = write(&self.place, "cgroup.subtree_control", &format!("-{controller}"));
        }
        for _ in 0..ROUNDS {
            let pids = processes(&self.dir)?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                match write(&self.place, "cgroup.procs", &pid.to_string()) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        fs::remove_dir(&self.dir).map_err(|e| super::of(&e))
    }

    fn has_siblings(&self) -> bool {
        children(&self.place).any(|name| Some(&*name) != self.dir.file_name())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
