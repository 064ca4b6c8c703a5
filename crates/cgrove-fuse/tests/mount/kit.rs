//! How the tests run, and how they make sure that nothing of them stays.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::registry::Standard;
use cgrove_core::{Hierarchy, Time};
use cgrove_files::Tree;
use cgrove_fuse::{Empty, Mounted, Options, World, mount};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use tempfile::TempDir;

/// No test takes longer, on the slowest machine. A mutant that hangs need not be waited for that
/// long.
pub const PATIENCE: Duration = Duration::from_secs(if cfg!(cgrove_mutants) { 8 } else { 60 });

/// The plain user of the tests, by a number that has a name everywhere, which fusermount3 asks
/// for; and a group.
pub const USER: u32 = 65534;
pub const GROUP: u32 = 54322;

/// Who mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Root, for everybody.
    Root,
    /// A plain user, for himself.
    User,
    /// The root of a user namespace.
    Namespace,
    /// Nobody: this is the kernel's own cgroup2, to see that a test asks for what Linux does.
    Kernel,
}

impl Place {
    pub const ALL: [Place; 4] = [Place::Root, Place::User, Place::Namespace, Place::Kernel];
    pub const MOUNTS: [Place; 3] = [Place::Root, Place::User, Place::Namespace];

    pub fn name(self) -> &'static str {
        match self {
            Place::Root => "root",
            Place::User => "user",
            Place::Namespace => "namespace",
            Place::Kernel => "kernel",
        }
    }

    pub fn of(name: &str) -> Place {
        Place::ALL.into_iter().find(|place| place.name() == name).expect("a place")
    }

    /// The user and group that the mount belongs to.
    pub fn owner(self) -> (u32, u32) {
        match self {
            Place::Root | Place::Namespace | Place::Kernel => (0, 0),
            Place::User => (geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        }
    }

    fn command(self, words: &[&str]) -> Command {
        let program = &kit().program;
        let mut command = match self {
            Place::Namespace => {
                let mut command = Command::new("unshare");
                command.args(["-Ur", "-m"]).arg(program);
                command
            }
            Place::Root | Place::User | Place::Kernel => Command::new(program),
        };
        command.args(["inside", self.name()]).args(words).env("CGROVE_KIT", &kit().folder);
        command.stdin(Stdio::null());
        command
    }

    /// What is left to do from inside to be there: to become the user.
    pub fn enter(self) {
        if self == Place::User && geteuid().is_root() {
            open_device();
            let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
            setgroups(&[]).expect("groups");
            setresgid(group, group, group).expect("a group");
            setresuid(user, user, user).expect("a user");
            // Else /proc/self is root's.
            nix::sys::prctl::set_dumpable(true).expect("dumpable");
        }
    }
}

/// Where the device is for root alone, as without udev, one for all takes its place, in a mount
/// namespace of this test's.
fn open_device() {
    let device = Path::new("/dev/fuse");
    let Ok(found) = fs::metadata(device) else { return };
    if found.permissions().mode() & 0o006 == 0o006 {
        return;
    }
    let open = kit().folder.join(format!("fuse-{}", std::process::id()));
    let made = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount2(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
        if !has_control() {
            let (kind, flags) = (Some("fusectl"), MsFlags::empty());
            let _ = mount2(kind, "/sys/fs/fuse/connections", kind, flags, None::<&str>);
        }
        mknod(&open, SFlag::S_IFCHR, Mode::empty(), found.rdev())?;
        fs::set_permissions(&open, Permissions::from_mode(0o666)).expect("its mode");
        mount2(Some(&open), device, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    // Where that is not allowed, the probe says what is missing.
    let _ = made();
    let _ = fs::remove_file(&open);
}

/// Whether connections can be cut by writing to a file.
pub fn has_control() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("fusectl"))
}

/// A folder that every user may use, and in it this program.
struct Kit {
    folder: PathBuf,
    program: PathBuf,
}

fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        if let Some(folder) = std::env::var_os("CGROVE_KIT") {
            let folder = PathBuf::from(folder);
            return Kit { program: folder.join("mount"), folder };
        }
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("its mode");
        // A copy, because the folder that cargo builds in may be closed to others.
        let program = folder.join("mount");
        fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("its mode");
        Kit { folder, program }
    })
}

pub fn clean_up() {
    for entry in cgroup2()
        .and_then(|path| fs::read_dir(path).map_err(|e| e.to_string()))
        .into_iter()
        .flatten()
    {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("cgrove-test-"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_cgroups(&entry.path());
        }
    }
    unmount_below(&kit().folder);
    let _ = fs::remove_dir_all(&kit().folder);
}

/// Unmounts what tests have left that were killed with their servers and guards. By force: a thread
/// of theirs may wait for an answer that nobody gives.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(path).starts_with(folder) {
            unmount(Path::new(path));
        }
    }
}

/// This program, to be started again.
pub fn program() -> &'static Path {
    &kit().program
}

/// Why there are no tests in a place, if so.
pub fn lack(place: Place) -> Option<String> {
    if matches!(place, Place::Root | Place::Kernel) && !geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let mut command = place.command(&["probe"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(said.lines().last().unwrap_or("mounting fails").to_owned())
        }
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Tries a mount; says what is in the way.
pub fn probe(place: Place) -> ExitCode {
    if place == Place::Kernel {
        let made = cgroup2().and_then(|path| {
            let path = path.join(format!("cgrove-probe-{}", std::process::id()));
            fs::create_dir(&path).and_then(|()| fs::remove_dir(&path)).map_err(|e| e.to_string())
        });
        return match made {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("no cgroup2 of our own: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let directory = directory();
    let options = Options { allow_other: place == Place::Root, guard: true };
    match mount(directory.path(), Empty::new(tree()), options) {
        Ok(mounted) => {
            mounted.unmount().expect("it is unmounted");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Every directory is another one, and its name no reason.
            let why = error.to_string().split_once(": ").expect("a reason").1.to_owned();
            eprintln!("{}", why.split(';').next().unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

/// Runs a test in its process, for a bounded time.
pub fn run_inside(place: Place, name: &str) -> Result<(), String> {
    let folder = kit().folder.join(format!("{}-{}", place.name(), name.replace("::", "-")));
    fs::create_dir(&folder)
        .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o777)))
        .map_err(|error| error.to_string())?;
    let mut command = place.command(&[name]);
    command.env("CGROVE_FOLDER", &folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let said = [
        collect(child.stdout.take().expect("a pipe")),
        collect(child.stderr.take().expect("a pipe")),
    ];
    let status = wait(&mut child);
    if status.is_none() {
        // All of its group: a client that it has started may hang in its server.
        let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        unmount_below(&folder);
        let _ = child.wait();
    }
    let said = said.map(|thread| thread.join().unwrap_or_default()).concat();
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}\n{said}")),
        None => Err(format!("took longer than {PATIENCE:?}\n{said}")),
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut said = Vec::new();
        let _ = pipe.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    })
}

/// Waits for a child, for a bounded time.
pub fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it is a child") {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        let _ = poll(&mut [], PollTimeout::from(5_u8));
    }
}

/// A directory to mount at, or one of the kernel's cgroup2. Whatever is mounted there when it is
/// dropped goes.
pub struct Directory {
    path: PathBuf,
    folder: Option<TempDir>,
}

pub fn directory() -> Directory {
    let folder = std::env::var_os("CGROVE_FOLDER").map_or(kit().folder.clone(), PathBuf::from);
    let folder = tempfile::tempdir_in(folder).expect("a directory");
    Directory { path: folder.path().to_owned(), folder: Some(folder) }
}

/// Where the kernel has its own.
fn cgroup2() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|words| words.get(2) == Some(&"cgroup2"));
    found.map(|words| PathBuf::from(words[1])).ok_or("it is not mounted".to_owned())
}

impl Directory {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Two below where it is mounted, as what is one below may have controllers.
    pub fn of_the_kernel() -> Directory {
        let name = format!("cgrove-test-{}", std::process::id());
        let path = cgroup2().expect("a mount").join(name).join("base");
        fs::create_dir_all(&path).expect("a cgroup of our own");
        Directory { path, folder: None }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let Some(directory) = self.folder.take() else {
            return remove_cgroups(self.path.parent().expect("ours"));
        };
        if is_mounted(&self.path) {
            unmount(&self.path);
        }
        let _ = directory.close();
    }
}

fn unmount(path: &Path) {
    if umount2(path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).is_err() {
        let mut helper = Command::new("fusermount3");
        let _ = helper.args(["-u", "-q", "-z", "--"]).arg(path).status();
    }
}

fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Waits until nothing is mounted there any more.
pub fn until_unmounted(path: &Path) {
    let end = Instant::now() + PATIENCE;
    let table = File::open("/proc/self/mountinfo").expect("/proc is mounted");
    while is_mounted(path) {
        assert!(Instant::now() < end, "{} is still mounted", path.display());
        // The table says when it changes.
        let mut fds = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
        let _ = poll(&mut fds, PollTimeout::from(200_u8));
    }
}

/// A tree with every controller.
pub fn tree() -> Tree {
    Tree::builder(hierarchy()).build()
}

pub fn hierarchy() -> Hierarchy {
    let standard = Standard::new(IdMask::first(4), IdMask::first(1), &[]);
    standard.registry().builder().build(Time(0))
}

/// A mounted tree.
pub struct Mount {
    // Unmounted first.
    pub mounted: Option<Mounted>,
    pub directory: Directory,
}

impl Mount {
    pub fn of(world: impl World, place: Place) -> Mount {
        let directory = directory();
        let options = Options { allow_other: place == Place::Root, guard: true };
        let mounted = mount(directory.path(), world, options).expect("it is mounted");
        Mount { mounted: Some(mounted), directory }
    }

    pub fn empty(place: Place) -> Mount {
        if place == Place::Kernel {
            return Mount { mounted: None, directory: Directory::of_the_kernel() };
        }
        Mount::of(Empty::new(tree()), place)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn mkdir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a cgroup is made");
        path
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn write(&self, name: &str, text: &str) -> Result<(), Errno> {
        use std::io::Write;
        let mut file = errno(File::options().write(true).open(self.path(name)))?;
        let len = errno(file.write(text.as_bytes()))?;
        assert_eq!(len, text.len());
        Ok(())
    }

    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).expect("it is listed");
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.expect("an entry").file_name().to_string_lossy().into_owned()
        };
        entries.map(name).collect()
    }
}

/// What went wrong, by its number.
pub fn errno<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_raw(error.raw_os_error().expect("an errno")))
}
