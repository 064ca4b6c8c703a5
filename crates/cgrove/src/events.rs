//! What happens in a run, as lines: `cgrove run --events FILE` and `cgrove events NAME`.
//!
//! Whoever reads a pipe may stop reading it. A supervisor must never wait for that, and a flag that
//! made writes return at once would be the command's too, which has the same pipe. So a process
//! beside the run, the *scribe*, does the writing and may be stuck in it; the supervisor's socket to
//! it is where lines are dropped and counted when it does not keep up.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use cgrove_host::error::HostError;
use cgrove_host::follow::Stream;
use cgrove_host::journal::{Happening, What};
use cgrove_host::{inherited, sys, title};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{getpid, getppid};

use crate::beside::{self, Beside, Side};
use crate::{say, stream};

/// How long the last lines may take to be written when the run is over.
const PATIENCE: Duration = Duration::from_secs(1);

/// The front's handle on its scribe.
pub struct Scribe(Beside);

/// Where lines go.
enum Place {
    Stdout,
    File(File),
    /// A fifo that nobody reads yet.
    Fifo(OsString),
}

impl Scribe {
    /// Starts it, for the run of this name. To be called while the process has one thread.
    pub fn start(path: &Path, run: &str, stdout_closed: bool) -> Result<Scribe, HostError> {
        let place = open(path, stdout_closed)?;
        let front = getpid();
        match beside::fork().map_err(|errno| HostError::call("cannot set up --events", errno))? {
            Side::Front(beside) => Ok(Scribe(beside)),
            Side::Beside(socket) => {
                // It may be stuck in a write when the front is killed, and is not to stay.
                let _ = sys::parent_death_signal(libc::SIGKILL);
                if getppid() == front {
                    write_down(socket, place, run);
                }
                sys::exit_now(0)
            }
        }
    }

    /// Has the last lines written, as far as they are read.
    pub fn end(self) {
        self.0.end(PATIENCE);
    }
}

impl AsFd for Scribe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(path: &Path, stdout_closed: bool) -> Result<Place, HostError> {
    let refused = |why: &dyn std::fmt::Display| {
        HostError::new(
            format_args!("cannot write events to {}", path.display()),
            why,
            "choose a place with --events that is writable",
        )
    };
    if path == Path::new("-") {
        return if stdout_closed {
            Err(refused(&"standard output is closed"))
        } else {
            Ok(Place::Stdout)
        };
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    match options.write(true).create(true).truncate(true).custom_flags(flags).open(path) {
        Ok(file) => {
            // The flag was for the opening of a fifo. It is this file's alone.
            fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))
                .map_err(|errno| refused(&named(&errno.into())))?;
            Ok(Place::File(file))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_fifo(path) => {
            Ok(Place::Fifo(path.as_os_str().to_owned()))
        }
        Err(error) => Err(refused(&named(&error))),
    }
}

/// An error with the name of its errno.
fn named(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) => format!("{} ({errno:?})", errno.desc()),
        None => error.to_string(),
    }
}

fn is_fifo(path: &Path) -> bool {
    path.metadata().is_ok_and(|it| it.file_type().is_fifo())
}

/// The scribe's whole life.
fn write_down(socket: OwnedFd, place: Place, run: &str) {
    sys::set_name(c"cg-scribe");
    let mut kept = vec![socket.as_fd()];
    kept.extend(match &place {
        Place::Stdout => Some(stream::stdout()),
        Place::File(file) => Some(file.as_fd()),
        Place::Fifo(_) => None,
    });
    // The command's pipes end without us.
    inherited::let_go(&kept);
    let _ = title::set(&format!("cg-scribe {run}"));
    let opened;
    let to = match &place {
        Place::Stdout => stream::stdout(),
        Place::File(file) => file.as_fd(),
        Place::Fifo(path) => {
            let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
            opened = file;
            opened.as_fd()
        }
    };
    let mut lines = Stream::new(socket);
    while let Ok(Some(line)) = lines.line() {
        if stream::write_all(to, line).is_err() {
            // Nobody reads any more. The supervisor sees the socket close.
            return;
        }
    }
}

/// `cgrove events`: returns the exit status.
pub fn follow(path: &str, json: bool) -> i32 {
    let mut lines = match Stream::open(path) {
        Ok(lines) => lines,
        Err(error) => return say::failed(&error),
    };
    loop {
        let line = match lines.line() {
            Ok(Some(line)) => line,
            Ok(None) => return 0,
            Err(errno) => return say::failed(&HostError::call("cannot follow", errno)),
        };
        let written = if json {
            stream::write_all(stream::stdout(), line)
        } else {
            match serde_json::from_slice(line) {
                Ok(it) => stream::write_all(stream::stdout(), in_words(&it).as_bytes()),
                // Of a newer program.
                Err(_) => Ok(()),
            }
        };
        match written {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => return 0,
            Err(error) => {
                let why = named(&error);
                let error = HostError::new("cannot print events", why, "make room for them");
                return say::failed(&error);
            }
        }
    }
}

/// A line for people.
fn in_words(it: &Happening) -> String {
    let times = match it.what {
        What::MemoryHigh { count: count @ 2.., .. } | What::Throttle { count: count @ 2.. } => {
            format!(" ({count} times)")
        }
        _ => String::new(),
    };
    let seconds = Duration::from_millis(it.at_ms).as_secs_f64();
    let line =
        format!("{seconds:>10.3}s {} {} {}{times}", it.group, it.what.kind(), it.what.detail());
    // What others have put into their command lines is not for the terminal.
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = line.trim_end().chars().map(plain).collect();
    line.push('\n');
    line
}
