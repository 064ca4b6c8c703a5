//! The kernel's own cgroup v2, where a part of it is ours: the files of the `kernel` backend.
//!
//! **Problem.** A directory in a cgroup2 mount may be writable and still not be ours to change. The
//! hierarchy's root is everybody's. Controllers can be handed to children only by a cgroup without
//! processes of its own ("no internal processes", `cgroup_vet_subtree_control_enable`), and ours
//! has at least us. Whatever is made there stays when its maker is killed.
//!
//! **Mechanism.** A [`Place`] is the cgroup that this process is in, found in `/proc` and tried:
//! writable, of type domain, and with this process in it. A run's [`Group`] is a child of it. If
//! every process in the place is ours, they are moved into another child, a [`Leaf`], so that the
//! place can enable controllers, and are moved back at the end. Names of both say who made them
//! (pid namespace, pid, start time), and a leaf's name also what is to be switched off again:
//! whoever comes later can take away what a dead one left, by [`clear`].
//!
//! Nothing here decides what a run does with it; that is `supervisor/in_kernel.rs`.

mod group;
mod leaf;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, getpid};

pub use group::Group;
pub use leaf::Leaf;

use crate::procfs::Proc;
use crate::sys::{self, RawPid};

/// What a run's directory is called, before who made it.
const RUN: &str = "cgrove-run-";
/// What a leaf is called, before who made it.
const OWN: &str = "cgrove-own-";
/// How long what a dead supervisor left may take to die.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Why the kernel's cgroup cannot be used, or not for this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {} ({errno:?})", errno.desc())]
pub struct KernelError {
    /// What was refused.
    pub what: String,
    /// The kernel's word, or what the kernel would have said.
    pub errno: Errno,
}

impl KernelError {
    pub(crate) fn new(what: impl Into<String>, errno: Errno) -> KernelError {
        KernelError { what: what.into(), errno }
    }
}

/// The cgroup that this process is in, as a place for groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
    is_root: bool,
}

impl Place {
    /// Finds the cgroup of the calling process and sees whether groups can be made in it.
    ///
    /// ENODEV: no cgroup2 is mounted, or our cgroup cannot be reached from here. EACCES, EROFS: its
    /// directory, `cgroup.procs` or `cgroup.subtree_control` is not writable. EOPNOTSUPP: it is
    /// threaded (`cgroup_procs_write_permission`, cgroup-v2.rst "Delegation" and "Threads").
    pub fn find() -> Result<Place, KernelError> {
        let read = |path: &str| {
            fs::read_to_string(path)
                .map_err(|e| KernelError::new(format!("cannot read {path}"), of(&e)))
        };
        let own = read("/proc/self/cgroup")?;
        let mounts = read("/proc/self/mountinfo")?;
        let own = own_path(&own)
            .ok_or_else(|| KernelError::new("this process is in no cgroup2", Errno::ENODEV))?;
        let me = getpid().as_raw();
        let found = directories(&mounts, own)
            .into_iter()
            // What is mounted there may be something else's, or hidden by another mount.
            .find(|dir| processes(dir).is_ok_and(|pids| pids.contains(&me)) || is_threaded(dir));
        let dir = found.ok_or_else(|| {
            let what = if mounts.lines().any(|line| line.contains(" - cgroup2 ")) {
                format!("the cgroup {own} of this process is under no cgroup2 mount")
            } else {
                "no cgroup2 is mounted here".to_owned()
            };
            KernelError::new(what, Errno::ENODEV)
        })?;
        if is_threaded(&dir) {
            return Err(KernelError::new(
                format!("{} is threaded", dir.display()),
                Errno::EOPNOTSUPP,
            ));
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            let path = dir.join(file);
            access(&path, AccessFlags::W_OK).map_err(|errno| {
                KernelError::new(format!("{} is not writable", dir.join(file).display()), errno)
            })?;
        }
        // The root alone has no such file (cgroup-v2.rst, "exists on non-root cgroups").
        let is_root = !dir.join("cgroup.events").exists();
        Ok(Place { dir, is_root })
    }

    /// The same, without what dead supervisors left in it ([`clear`]). This process may have been in
    /// the leaf of one, and is in the cgroup above then.
    ///
    /// Errors as of [`Place::find`].
    pub fn cleared(self) -> Result<Place, KernelError> {
        clear_in(&self.dir);
        let name = self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match self.dir.parent() {
            Some(above) if name.starts_with(OWN) => {
                clear_in(above);
                Place::find()
            }
            _ => Ok(self),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// It is the root of the hierarchy, and so everybody's.
    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// The controllers that it could hand to children.
    pub fn controllers(&self) -> Vec<String> {
        words(&self.dir, "cgroup.controllers")
    }

    /// The controllers that its children have.
    pub fn enabled(&self) -> Vec<String> {
        words(&self.dir, "cgroup.subtree_control")
    }
}

/// The v2 line of `/proc/self/cgroup`.
fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where a cgroup can be found, in the order of the mounts (`/proc/self/mountinfo`, proc(5)).
fn directories(mountinfo: &str, own: &str) -> Vec<PathBuf> {
    let of = |line: &str| {
        let (mount, rest) = line.split_once(" - ")?;
        if rest.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (unescaped(fields.next()?), unescaped(fields.next()?));
        // Outside of our cgroup namespace: `/..`.
        if own.starts_with("/..") || root.starts_with("/..") {
            return None;
        }
        let below = Path::new(own).strip_prefix(&root).ok()?;
        // Joined with nothing, a path would end in a slash.
        Some(Path::new(&at).join(below).components().collect())
    };
    mountinfo.lines().filter_map(of).collect()
}

/// Blanks and the like are in octal there: `\040`.
fn unescaped(field: &str) -> String {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let octal = behind.get(..3).and_then(|it| std::str::from_utf8(it).ok());
        match octal.and_then(|it| u8::from_str_radix(it, 8).ok()).filter(|_| byte == b'\\') {
            Some(value) => {
                out.push(value);
                rest = &behind[3..];
            }
            None => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_threaded(dir: &Path) -> bool {
    let kind = fs::read_to_string(dir.join("cgroup.type")).unwrap_or_default();
    !matches!(kind.trim(), "" | "domain" | "domain threaded")
}

fn words(dir: &Path, file: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Moves the calling process into the cgroup of this `cgroup.procs`.
pub(crate) fn enter(procs: &Path) -> Result<(), Errno> {
    write(procs, "", "0")
}

/// The processes in a cgroup; those of other pid namespaces are 0.
fn processes(dir: &Path) -> Result<Vec<RawPid>, Errno> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).map_err(|e| of(&e))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Writes an interface file in one call, as the kernel wants it.
fn write(dir: &Path, file: &str, value: &str) -> Result<(), Errno> {
    let path = if file.is_empty() { dir.to_owned() } else { dir.join(file) };
    let mut open = OpenOptions::new().write(true).open(path).map_err(|e| of(&e))?;
    open.write_all(value.as_bytes()).map_err(|e| of(&e))
}

fn of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Who made a directory: a process, named for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Maker {
    pid_namespace: u64,
    pid: RawPid,
    start: u64,
}

impl Maker {
    fn me() -> Result<Maker, Errno> {
        let pid = getpid().as_raw();
        let start = Proc::open()?.stat(pid)?.start;
        Ok(Maker { pid_namespace: pid_namespace()?, pid, start })
    }

    fn parse(text: &str) -> Option<Maker> {
        let mut parts = text.splitn(4, '-');
        let pid_namespace = parts.next()?.parse().ok()?;
        let pid = parts.next()?.parse().ok()?;
        Some(Maker { pid_namespace, pid, start: parts.next()?.parse().ok()? })
    }

    /// Certainly gone: of this pid namespace, and nobody has the pid, or somebody younger, or what has
    /// ended and was not collected.
    fn is_gone(self) -> bool {
        if pid_namespace() != Ok(self.pid_namespace) {
            return false;
        }
        if sys::kill(self.pid, 0) == Err(Errno::ESRCH) {
            return true;
        }
        let now = Proc::open().and_then(|mut proc| proc.stat(self.pid));
        now.is_ok_and(|now| now.start != self.start || now.is_zombie())
    }
}

impl std::fmt::Display for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.pid_namespace, self.pid, self.start)
    }
}

fn pid_namespace() -> Result<u64, Errno> {
    use std::os::linux::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").map(|it| it.st_ino()).map_err(|e| of(&e))
}

/// Takes away what supervisors left that are dead, in the cgroup of the calling process: kills what
/// is left in their groups, and undoes their leaves. What cannot be had is left.
pub fn clear() {
    if let Ok(place) = Place::find() {
        let _ = place.cleared();
    }
}

fn clear_in(dir: &Path) {
    use std::os::linux::fs::MetadataExt;
    let me = nix::unistd::geteuid().as_raw();
    let mut leaves = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let (is_run, maker) = match (name.strip_prefix(RUN), name.strip_prefix(OWN)) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        let owned = entry.metadata().is_ok_and(|it| it.is_dir() && it.st_uid() == me);
        if !owned || !Maker::parse(maker).is_some_and(Maker::is_gone) {
            continue;
        }
        if is_run {
            let group = Group::found(entry.path());
            let _ = group.kill();
            let _ = group.wait_empty(LEFT_BEHIND);
            let _ = group.remove();
        } else {
            leaves.extend(Leaf::found(entry.path()));
        }
    }
    // Not before the groups: controllers that somebody has are not switched off.
    for leaf in leaves {
        let _ = leaf.undo();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
25 24 0:23 / /sys/fs/cgroup/pids rw shared:1 - cgroup cgroup rw,pids
26 24 0:24 / /sys/fs/cgroup/uni\\040fied rw shared:2 - cgroup2 cgroup2 rw
27 24 0:24 /user/of /mnt rw - cgroup2 cgroup2 rw
28 24 0:24 /.. /out rw - cgroup2 cgroup2 rw
";

    #[test]
    fn a_cgroup_is_found_below_each_mount_that_has_it() {
        let found = directories(MOUNTS, "/user/of/mine");
        let wanted = ["/sys/fs/cgroup/uni fied/user/of/mine", "/mnt/mine"];
        assert_eq!(found, wanted.map(PathBuf::from));
        assert_eq!(directories(MOUNTS, "/user").len(), 1);
        assert_eq!(directories(MOUNTS, "/../outside"), Vec::<PathBuf>::new());
        assert_eq!(own_path("4:memory:/a\n0::/b c\n"), Some("/b c"));
    }

    #[test]
    fn a_maker_is_recognised_and_a_dead_one_is_told_from_a_younger() {
        let me = Maker::me().unwrap();
        assert_eq!(Maker::parse(&me.to_string()), Some(me));
        assert_eq!(Maker::parse(&format!("{me}-cpu+memory")), Some(me));
        assert_eq!(Maker::parse("1-2"), None);
        assert!(!me.is_gone());
        assert!(Maker { start: me.start + 1, ..me }.is_gone());
        // Of another pid namespace nothing is known.
        assert!(!Maker { pid_namespace: 1, start: 1, ..me }.is_gone());
    }
}
