//! A cgroup of the kernel's that a run is in: its files, its end.
//!
//! Its end is known from `cgroup.events` alone. A process that was reaped is out of its cgroup by
//! then on most kernels, on others a moment later (`cgroup_task_dead`), and somebody may have moved a
//! process in that is no child of ours. So whoever removes it waits for `populated 0`.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{KernelError, Maker, Place, RUN, of, processes, words, write};
use crate::sys;

/// Before Linux 5.14 there is no `cgroup.kill`: signals, so many rounds long.
const SIGNAL_ROUNDS: usize = 64;

/// A cgroup.
#[derive(Debug)]
pub struct Group {
    dir: PathBuf,
}

impl Group {
    /// Makes a group in a place, for the calling process.
    ///
    /// Errors of mkdir(2) in a cgroup: EACCES, EAGAIN (`cgroup.max.descendants` or `.depth`), ENOMEM.
    pub fn make(place: &Place) -> Result<Group, KernelError> {
        let maker = Maker::me()
            .map_err(|errno| KernelError::new("cannot read this process's own /proc", errno))?;
        let dir = place.dir().join(format!("{RUN}{maker}"));
        fs::create_dir(&dir)
            .map_err(|e| KernelError::new(format!("cannot make {}", dir.display()), of(&e)))?;
        Ok(Group { dir })
    }

    /// One that is there.
    pub(super) fn found(dir: PathBuf) -> Group {
        Group { dir }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that takes the pids of who is to be in it.
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// The controllers that it has.
    pub fn controllers(&self) -> Vec<String> {
        words(&self.dir, "cgroup.controllers")
    }

    /// Whether it has a file.
    pub fn has(&self, file: &str) -> bool {
        !file.contains('/') && self.dir.join(file).is_file()
    }

    /// The names of its files.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_file()));
        files.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Reads a file.
    pub fn read(&self, file: &str) -> Result<String, Errno> {
        fs::read_to_string(self.dir.join(file)).map_err(|e| of(&e))
    }

    /// Writes a file; the kernel's errno is what the controller says.
    pub fn write(&self, file: &str, value: &str) -> Result<(), Errno> {
        write(&self.dir, file, value)
    }

    /// A number: the one of a file, or the one behind `key` in a file of keys.
    pub fn number(&self, file: &str, key: Option<&str>) -> Option<u64> {
        let text = self.read(file).ok()?;
        match key {
            None => text.trim().parse().ok(),
            Some(key) => text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
                .and_then(|number| number.trim().parse().ok()),
        }
    }

    /// Whether there is a live process in it or below.
    pub fn is_populated(&self) -> Result<bool, Errno> {
        self.read("cgroup.events").map(|text| text.lines().any(|line| line == "populated 1"))
    }

    /// The file that tells of changes of `populated` and `frozen`, for poll(2) with POLLPRI; it tells
    /// again after it was read anew.
    pub fn events(&self) -> Result<File, Errno> {
        File::open(self.dir.join("cgroup.events")).map_err(|e| of(&e))
    }

    /// Kills everyone in it and below: by `cgroup.kill`, which no fork escapes; before Linux 5.14 by
    /// signals, round by round.
    pub fn kill(&self) -> Result<(), Errno> {
        match self.write("cgroup.kill", "1") {
            Err(Errno::ENOENT) => {}
            done => return done,
        }
        for _ in 0..SIGNAL_ROUNDS {
            let pids = processes(&self.dir)?;
            let mut found = false;
            for pid in pids.into_iter().filter(|pid| *pid > 0) {
                found |= sys::kill(pid, libc::SIGKILL).is_ok();
            }
            if !found || !self.is_populated()? {
                break;
            }
        }
        Ok(())
    }

    /// Whether a kill is the kernel's own.
    pub fn kills_at_once(&self) -> bool {
        self.has("cgroup.kill")
    }

    /// Waits until nobody is left in it. ETIMEDOUT: somebody is.
    pub fn wait_empty(&self, within: Duration) -> Result<(), Errno> {
        use std::os::unix::fs::FileExt;
        let events = self.events()?;
        let until = Instant::now() + within;
        loop {
            let mut text = [0; 128];
            let len = events.read_at(&mut text, 0).map_err(|e| of(&e))?;
            if text[..len].split(|byte| *byte == b'\n').any(|line| line == b"populated 0") {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Removes it, and what was made in it, from below. EBUSY: somebody is in there.
    pub fn remove(&self) -> Result<(), Errno> {
        remove(&self.dir)
    }
}

/// Children first: what a command with rights made in its own cgroup is empty, too, by now.
fn remove(dir: &Path) -> Result<(), Errno> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if of(&error) == Errno::ENOENT => Ok(()),
        Err(error) => Err(of(&error)),
    }
}
