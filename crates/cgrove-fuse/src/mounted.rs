//! Mounting and unmounting.
//!
//! fuser can mount, too. It is done here because a plain user may be refused `/dev/fuse` itself and
//! yet have `fusermount3`, which opens it for him; because a refusal is to be told by its errno; and
//! because the guard has to know the mount before anybody can use it.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, Read, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use cgrove_files::{Cred, Tree};
use fuser::{Config, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getegid, geteuid, gettid};

use crate::events::Shared;
use crate::guard::Guard;
use crate::hooks::Hooks;
use crate::inodes;
use crate::server::Server;
use crate::sys::{self, MountId};
use crate::world::World;

const DEVICE: &str = "/dev/fuse";
/// What the mount calls itself: its source, and behind `fuse.` its type.
const NAME: &str = "cgrove";
/// The program that mounts for plain users, and where it is if not on the PATH.
const HELPER: &str = "fusermount3";
const HELPER_PLACES: &str = "/usr/bin:/bin:/usr/local/bin";
/// How long, in milliseconds, the threads of an unmounted tree are waited for. They go on only while
/// somebody has it: open files, where the helper unmounts, or a copy in another mount namespace.
const PATIENCE: u16 = 1000;
/// How to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Other users may use it too. Plain users may ask for that only if `/etc/fuse.conf` says
    /// `user_allow_other`.
    pub allow_other: bool,
    /// A small process stands by that unmounts if this one is killed. It is a fork of this
    /// process, and shares its memory copy-on-write.
    pub guard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_other: false, guard: true }
    }
}

/// Why nothing was mounted. The text is for the user: what was refused, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}; {advice}")]
pub struct MountError {
    what: String,
    why: String,
    advice: &'static str,
    errno: Option<Errno>,
}

impl MountError {
    /// The errno behind it, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.errno.map(|errno| errno as i32)
    }
}

/// A mounted tree. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted {
    place: Place,
    /// Taken by whoever sees the end of the mount first.
    guard: Arc<Mutex<Option<Guard>>>,
    /// Closes when the session ends.
    ended: PipeReader,
    session: Option<JoinHandle<()>>,
    /// Nothing is left to be done.
    down: bool,
}

/// Shows the tree of a world at a directory. What was there is hidden meanwhile.
///
/// As a plain user, the root of the tree and its files become this user's, and the root's mode 755.
///
/// # Errors
/// What the place refuses, in words for the user.
pub fn mount<W: World>(
    directory: &Path,
    world: W,
    options: Options,
) -> Result<Mounted, MountError> {
    mount_with(directory, world, options, Hooks::default())
}

/// Likewise, with what the mount is to do otherwise than the tree.
///
/// # Errors
/// As for [`mount`].
pub fn mount_with<W: World>(
    directory: &Path,
    world: W,
    options: Options,
    hooks: Hooks,
) -> Result<Mounted, MountError> {
    let what = format!("cannot mount at {}", directory.display());
    let failed = |errno: Errno, advice| MountError {
        what: what.clone(),
        why: format!("{} ({errno:?})", errno.desc()),
        advice,
        errno: Some(errno),
    };
    let system = |error: io::Error| failed(raw(&error), "see `ulimit -a` for what is used up");
    if !inodes::suffice_for(world.tree()) {
        return Err(failed(Errno::EOVERFLOW, "leave some controllers out"));
    }
    let path = directory.canonicalize().map_err(|error| match raw(&error) {
        Errno::ENOTCONN => failed(Errno::ENOTCONN, DEAD),
        errno => failed(errno, "name a directory that exists"),
    })?;
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(failed(Errno::ENOTDIR, "name a directory")),
        Err(error) if raw(&error) == Errno::ENOTCONN => return Err(failed(Errno::ENOTCONN, DEAD)),
        Err(error) => return Err(failed(raw(&error), "name a directory that you may read")),
    }
    let no_zero = |_| failed(Errno::EINVAL, "name a directory that exists");
    let name = CString::new(path.as_os_str().as_bytes()).map_err(no_zero)?;
    let helper = find_helper();
    if !geteuid().is_root() {
        own(world.tree());
    }
    let shared = Shared::new(world, hooks).map_err(system)?;
    let (reader, writer) = pipe().map_err(system)?;
    let (server, work, serving) = stand_by().map_err(system)?;

    let mut guard = None;
    if options.guard {
        let made = Guard::new(&name, helper.as_deref(), server);
        guard = Some(made.map_err(|errno| failed(errno, "see `ulimit -a` for what is used up"))?);
    }
    let connection = match connect(&path, options, helper.as_deref(), guard.as_ref()) {
        Ok(connection) => connection,
        Err((why, advice, errno)) => {
            if let Some(guard) = guard {
                guard.dismiss();
            }
            return Err(MountError { what, why, advice, errno });
        }
    };
    // If somebody was so quick as to unmount it again, there is nothing to watch.
    let id = sys::mount_at(&name).ok();
    if let (Some(guard), Some(id)) = (&mut guard, id) {
        guard.watch(id);
    }
    // From here on, whoever fails unmounts.
    let mut mounted = Mounted {
        place: Place { path, name, id, helper },
        guard: Arc::new(Mutex::new(guard)),
        ended: reader,
        session: None,
        down: false,
    };
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    // One thread: most requests take the tree a microsecond, and threads that take turns make each
    // requester wait for a wake-up on another CPU, which takes ten.
    let config = Config::default();
    let session = Session::from_fd(Server::new(shared), connection, acl, config).map_err(system)?;
    let (place, guard) = (mounted.place.clone(), Arc::clone(&mounted.guard));
    let serve = move || {
        // Whatever it ends with, it has ended: the kernel has told all who waited.
        let _ = session.run();
        // Mounted still, if the connection was cut otherwise.
        let _ = place.unmount();
        dismiss(&guard);
        drop(writer);
    };
    // It waits for nothing else.
    let _ = work.send(Box::new(serve));
    mounted.session = Some(serving);
    Ok(mounted)
}

type Work = Box<dyn FnOnce() + Send>;

/// Starts the thread that is to serve, before there is anything to serve: the guard has to know it.
/// It ends at once if it is given nothing to do.
fn stand_by() -> io::Result<(Pid, Sender<Work>, JoinHandle<()>)> {
    let (work, given) = channel::<Work>();
    let (names, named) = channel();
    let wait = move || {
        let _ = names.send(gettid());
        if let Ok(work) = given.recv() {
            work();
        }
    };
    let serving = thread::Builder::new().name("cgrove-mount".into()).spawn(wait)?;
    let tid = named.recv().map_err(io::Error::other)?;
    Ok((tid, work, serving))
}

fn dismiss(guard: &Mutex<Option<Guard>>) {
    let guard = guard.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(guard) = guard {
        guard.dismiss();
    }
}

const DEAD: &str = "its server was killed; unmount it first, with `umount` or `fusermount3 -u`";

fn raw(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Gives the root of a tree to this user, as a cgroup is delegated in Linux. The root directory's
/// mode is for a superuser, whom it does not stop.
fn own(tree: &Tree) {
    let root = tree.root();
    let (uid, gid) = (Some(geteuid().as_raw()), Some(getegid().as_raw()));
    let files = tree.readdir(root.cgroup(), &Cred::root()).unwrap_or_default();
    // The superuser may, and the root of a tree is always there.
    let _ = tree.chmod(&root, 0o755, &Cred::root());
    for node in std::iter::once(root).chain(files.into_iter().map(|entry| entry.node)) {
        let _ = tree.chown(&node, uid, gid, &Cred::root());
    }
}

fn find_helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(std::env::split_paths(HELPER_PLACES))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(HELPER))
        .find(|program| program.is_file())
}

type Refused = (String, &'static str, Option<Errno>);

/// Mounts, by ourselves or by the helper; the connection to the kernel.
fn connect(
    path: &Path,
    options: Options,
    helper: Option<&Path>,
    guard: Option<&Guard>,
) -> Result<OwnedFd, Refused> {
    let device = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(device) => Some(OwnedFd::from(device)),
        Err(error) => match raw(&error) {
            Errno::EACCES | Errno::EPERM => None,
            errno @ (Errno::ENOENT | Errno::ENXIO | Errno::ENODEV) => {
                let why = format!("there is no {DEVICE} here ({errno:?})");
                return Err((why, "load the module fuse, or hand the device in", Some(errno)));
            }
            errno => {
                let why = format!("cannot open {DEVICE}: {} ({errno:?})", errno.desc());
                return Err((why, "see what limits this process", Some(errno)));
            }
        },
    };
    if let Some(device) = device {
        match mount_ourselves(path, &device, options) {
            Ok(()) => return Ok(device),
            Err(Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => {
                let why = format!("mount: {} ({errno:?})", errno.desc());
                return Err((why, "see the kernel's log", Some(errno)));
            }
        }
    }
    let Some(helper) = helper else {
        let why = "not permitted, and there is no fusermount3 (EPERM)".to_owned();
        return Err((
            why,
            "install fuse3, or be root (of a user namespace, say)",
            Some(Errno::EPERM),
        ));
    };
    mount_by_helper(path, helper, options, guard)
}

fn mount_ourselves(path: &Path, device: &OwnedFd, options: Options) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid(),
        getegid()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = format!("fuse.{NAME}");
    mount2(Some(NAME), path, Some(kind.as_str()), flags, Some(data.as_str()))
}

/// Has `fusermount3` mount, which hands the connection over on a socket. That is its standard
/// input, so no descriptor has to be made inheritable while other threads fork.
fn mount_by_helper(
    path: &Path,
    helper: &Path,
    options: Options,
    guard: Option<&Guard>,
) -> Result<OwnedFd, Refused> {
    let system = |error: io::Error| {
        let why = format!("cannot run {}: {error}", helper.display());
        (why, "see `ulimit -a` for what is used up", Some(raw(&error)))
    };
    let (ours, theirs) = UnixStream::pair().map_err(system)?;
    let mut words =
        format!("rw,nosuid,nodev,noexec,default_permissions,fsname={NAME},subtype={NAME}");
    if options.allow_other {
        words.push_str(",allow_other");
    }
    // It says nothing there, and holds it as long as it runs.
    let pipe = guard.map_or(Ok(None), Guard::pipe).map_err(system)?;
    let stdout = pipe.map_or_else(Stdio::null, Stdio::from);
    let mut child = Command::new(helper)
        .args(["-o", words.as_str(), "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(system)?;
    // The command keeps no copy of the other end, so a helper that ends is noticed.
    let received = sys::receive_descriptor(ours.as_fd());
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = child.wait();
    match received {
        Ok(Some(connection)) => Ok(connection),
        _ => {
            let said = said.lines().next().unwrap_or("fusermount3 was killed").trim();
            let advice = if said.contains("allow_other") {
                "add user_allow_other to /etc/fuse.conf, or leave --allow-other out"
            } else {
                "mount at a directory of your own, or be root (of a user namespace, say)"
            };
            Err((format!("not permitted: {said}"), advice, Some(Errno::EPERM)))
        }
    }
}

/// Where it is mounted.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    name: CString,
    id: Option<MountId>,
    helper: Option<PathBuf>,
}

impl Place {
    /// Unmounts. Who still uses the tree gets ENOTCONN, or, where only the helper may unmount,
    /// keeps what is open.
    fn unmount(&self) -> Result<(), Errno> {
        let Some(id) = self.id else { return Ok(()) };
        if sys::mount_at(&self.name) != Ok(id) {
            return if is_covered(id) { Err(Errno::EBUSY) } else { Ok(()) };
        }
        match umount2(&self.path, MntFlags::empty()) {
            Err(Errno::EBUSY) => umount2(&self.path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH),
            Err(errno @ (Errno::EPERM | Errno::EACCES)) => {
                let helper = self.helper.as_deref().ok_or(errno)?;
                self.unmount_by(helper).then_some(()).ok_or(errno)
            }
            done => done,
        }
    }

    fn unmount_by(&self, helper: &Path) -> bool {
        let mut command = Command::new(helper);
        command.args(["-u", "-q", "-z", "--"]).arg(&self.path);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// Whether something is mounted still that is not found at its place: another mount is over it.
fn is_covered(mount: MountId) -> bool {
    let device = format!("{}:{}", mount.device >> 32, mount.device & 0xffff_ffff);
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let third = |line: &[u8]| line.split(|byte| *byte == b' ').nth(2) == Some(device.as_bytes());
    mounts.split(|byte| *byte == b'\n').any(third)
}

impl Mounted {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Waits until somebody unmounts it. [`AsFd`] gives what becomes readable then, for a loop.
    pub fn wait(&self) {
        self.has_ended(PollTimeout::NONE);
    }

    fn has_ended(&self, patience: impl Into<PollTimeout> + Copy) -> bool {
        loop {
            let mut fds = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, patience) {
                Err(Errno::EINTR) => {}
                ready => return ready.is_ok_and(|ready| ready > 0),
            }
        }
    }

    /// Unmounts it. Files that are still open in it answer with ENOTCONN from then on; only if the
    /// mount was made by `fusermount3` are they served until they are closed, or this process ends.
    ///
    /// # Errors
    /// EBUSY if another mount is over it, and what the kernel refuses. It is then unmounted when
    /// this process ends, if it has a guard.
    pub fn unmount(mut self) -> io::Result<()> {
        Ok(self.take_down()?)
    }

    fn take_down(&mut self) -> Result<(), Errno> {
        if self.down {
            return Ok(());
        }
        // Without a session it has failed to begin, and cannot have ended.
        if self.session.is_none() || !self.has_ended(PollTimeout::ZERO) {
            self.place.unmount()?;
        }
        self.down = true;
        dismiss(&self.guard);
        if let Some(session) = self.session.take()
            && self.has_ended(PATIENCE)
        {
            // A panic in it has ended it too.
            let _ = session.join();
        }
        Ok(())
    }
}

impl AsFd for Mounted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // If it cannot be unmounted now, the guard does it.
        let _ = self.take_down();
    }
}
