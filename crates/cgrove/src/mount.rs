//! `cgrove mount`: a cgroup2 tree as a file system, served until a signal ends it.
//!
//! In the background it is a fork of this process, made before there is any thread. The parent
//! waits until the child says that the tree is mounted, or why not, so its exit status can be relied
//! on.

mod adopted;
mod freezer;
mod kin;

use std::fs;
use std::io::{PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use cgrove_core::Time;
use cgrove_core::controller::hugetlb::HugePageSize;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::registry::Standard;
use cgrove_files::Tree;
use cgrove_fuse::{Empty, Mounted, Options, Recorder};
use cgrove_host::FAILED;
use cgrove_host::sys::{self, ForkSide};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use self::adopted::Adopted;
use crate::cli::fault::{self, Spec};
use crate::say;

/// What to mount, and how.
pub struct Mount {
    /// Where.
    pub directory: PathBuf,
    /// In the background.
    pub daemon: bool,
    /// Where the server's pid is kept.
    pub pid_file: Option<PathBuf>,
    /// For all users.
    pub allow_other: bool,
    /// With real processes in it.
    pub adopt: bool,
    /// What fails on purpose.
    pub faults: Vec<Spec>,
    /// Where what is asked and answered is kept.
    pub record: Option<PathBuf>,
}

/// What the background process says when the tree is mounted. Anything else is an error, in words.
const MOUNTED: &str = "\0";

/// Performs it; returns the exit status.
pub fn mount(what: &Mount) -> i32 {
    let done = if what.daemon { in_background(what) } else { in_foreground(what) };
    match done {
        Ok(()) => 0,
        Err(text) => say::failed(&text),
    }
}

fn in_foreground(what: &Mount) -> Result<(), String> {
    let server = Server::start(what)?;
    let path = server.mounted.path().display();
    say::line(&format_args!("a cgroup tree is at {path}; Ctrl-C or SIGTERM unmounts it"));
    server.serve()
}

fn in_background(what: &Mount) -> Result<(), String> {
    let cannot = |what: &str, why: &dyn std::fmt::Display| {
        format!("cannot {what}: {why}; see `ulimit -a` for what is used up")
    };
    // The child's directory is `/`.
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| format!("cannot find {}: {error}; name it from `/`", path.display()))
    };
    let what = Mount {
        directory: absolute(&what.directory)?,
        pid_file: what.pid_file.as_deref().map(absolute).transpose()?,
        faults: what.faults.clone(),
        record: what.record.as_deref().map(absolute).transpose()?,
        ..*what
    };
    let (mut hears, says) = pipe().map_err(|error| cannot("make a pipe", &error))?;
    match sys::fork().map_err(|errno| cannot("fork", &errno.desc()))? {
        ForkSide::Child => {
            drop(hears);
            sys::exit_now(be_server(&what, says))
        }
        ForkSide::Parent(_) => drop(says),
    }
    let mut said = String::new();
    let heard = hears.read_to_string(&mut said);
    match (heard, said.as_str()) {
        (Ok(_), MOUNTED) => Ok(()),
        (Ok(_), text) if !text.is_empty() => Err(text.to_owned()),
        _ => Err("cannot mount: the server was killed; see what sends SIGKILL here".into()),
    }
}

/// The life of the background process; returns its exit status.
fn be_server(what: &Mount, mut says: PipeWriter) -> i32 {
    let served = leave_the_caller()
        .map_err(|errno| {
            format!("cannot go to the background: {}; try without --daemon", errno.desc())
        })
        .and_then(|()| Server::start(what));
    let server = match served {
        Ok(server) => server,
        Err(text) => {
            let _ = says.write_all(text.as_bytes());
            return FAILED;
        }
    };
    // If the caller was killed meanwhile, nobody waits for it.
    let _ = says.write_all(MOUNTED.as_bytes());
    drop(says);
    match server.serve() {
        Ok(()) => 0,
        Err(_) => FAILED,
    }
}

/// A session of its own, and nothing of the caller's kept: not its directory, not its streams.
fn leave_the_caller() -> Result<(), Errno> {
    setsid()?;
    chdir("/")?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)
}

/// A mounted tree, and the signals that end it.
struct Server {
    mounted: Mounted,
    /// Its processes, if it has any.
    adopted: Option<Adopted>,
    signals: SignalFd,
    /// Removed at the end.
    pid_file: Option<PathBuf>,
}

impl Server {
    fn start(what: &Mount) -> Result<Server, String> {
        let failed = |errno: Errno| format!("cannot mount: {}; see `ulimit -a`", errno.desc());
        // Before there are threads, which inherit it: signals are taken from the descriptor alone.
        let mut ends = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            // Under nohup, or in a shell's background, one of them is no reason to end.
            if !sys::signal_is_ignored(signal as i32) {
                ends.add(signal);
            }
        }
        ends.thread_block().map_err(failed)?;
        let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).map_err(failed)?;
        let options = Options { allow_other: what.allow_other, guard: true };
        let mut hooks = fault::hooks(&what.faults)?;
        hooks.record = what.record.as_deref().map(record).transpose()?;
        let mut adopted = None;
        let mounted = if what.adopt {
            SigSet::from_iter(freezer::BLOCKED).thread_block().map_err(failed)?;
            let world = Adopted::new()
                .map_err(|errno| format!("cannot read /proc: {}; mount it", errno.desc()))?;
            adopted = Some(world.clone());
            cgrove_fuse::mount_with(&what.directory, world, options, hooks)
        } else {
            let world = Empty::new(tree());
            cgrove_fuse::mount_with(&what.directory, world, options, hooks)
        };
        let mounted = mounted.map_err(|error| error.to_string())?;
        let mut server = Server { mounted, adopted, signals, pid_file: None };
        if let Some(file) = &what.pid_file {
            fs::write(file, format!("{}\n", std::process::id())).map_err(|error| {
                let file = file.display();
                format!("cannot write {file}: {error}; name a file in a writable directory")
            })?;
            server.pid_file = Some(file.clone());
        }
        Ok(server)
    }

    /// Serves until a signal comes, or somebody unmounts it.
    fn serve(self) -> Result<(), String> {
        let mut either = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.mounted.as_fd(), PollFlags::POLLIN),
        ];
        while poll(&mut either, PollTimeout::NONE) == Err(Errno::EINTR) {}
        if let Some(file) = &self.pid_file {
            let _ = fs::remove_file(file);
        }
        let path = self.mounted.path().to_owned();
        let unmounted = self.mounted.unmount();
        // When nobody can freeze them again.
        if let Some(adopted) = &self.adopted {
            adopted.let_everyone_go();
        }
        unmounted.map_err(|error| {
            format!("cannot unmount {}: {error}; take away what is mounted over it", path.display())
        })
    }
}

/// A record, in a file.
fn record(file: &Path) -> Result<Recorder, String> {
    fs::File::create(file).and_then(Recorder::new).map_err(|error| {
        let file = file.display();
        format!("cannot write {file}: {error}; name a file in a writable directory")
    })
}

/// Every controller of the kernel, with the CPUs of this machine. As nobody is in it, none has to be
/// held to anything.
fn tree() -> Tree {
    let cpus = thread::available_parallelism()
        .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    let standard = Standard::new(IdMask::first(cpus), IdMask::first(1), &[HugePageSize::MB2]);
    Tree::builder(standard.registry().builder().build(Time(0))).build()
}
