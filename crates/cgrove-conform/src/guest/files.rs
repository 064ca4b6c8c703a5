//! Steps on directories and files of the hierarchy, as any process does them.
//!
//! The executor and every actor has one of these, so that a step can be done by the task that a
//! case wants: with its open files, its cgroup namespace and its credentials.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, Whence, lseek, read, setfsgid, setfsuid, write};

use crate::case::{Access, Act, Outcome, Text};

/// Where the hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// How long what settles late is waited for.
const SETTLES: Duration = Duration::from_millis(1500);

/// How late a notification may be, in milliseconds: three times the kernel's interval.
const MOMENT: u8 = 30;

/// A process's view of the hierarchy.
#[derive(Default)]
pub struct Files {
    handles: BTreeMap<String, OwnedFd>,
    watches: BTreeMap<String, Inotify>,
}

/// The name of an error.
#[must_use]
pub fn refused(errno: Errno) -> Outcome {
    Outcome::Refused(format!("{errno:?}"))
}

fn outcome(result: Result<Outcome, Errno>) -> Outcome {
    result.unwrap_or_else(refused)
}

fn done(result: std::io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(e) => e
            .raw_os_error()
            .map_or_else(|| Outcome::broken(&e), |code| refused(Errno::from_raw(code))),
    }
}

/// The path of a cgroup or file. Text is free of task names by now.
pub(super) fn path(cgroup: &Text, file: Option<&Text>) -> PathBuf {
    let mut out = PathBuf::from(ROOT);
    for text in std::iter::once(cgroup).chain(file) {
        let bytes = text.known().unwrap_or_default();
        // Not `push`: an absolute path would replace the root.
        let mut joined = out.into_os_string().into_encoded_bytes();
        joined.push(b'/');
        joined.extend_from_slice(&bytes);
        out = PathBuf::from(std::ffi::OsStr::from_bytes(&joined));
    }
    out
}

/// Credentials for file permission checks, until dropped.
struct As;

impl As {
    fn new(uid: Option<u32>) -> Option<Self> {
        uid.map(|uid| {
            setfsgid(Gid::from_raw(uid));
            setfsuid(Uid::from_raw(uid));
            Self
        })
    }
}

impl Drop for As {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
    }
}

impl Files {
    /// The directory open under a name.
    #[must_use]
    pub fn handle(&self, name: &str) -> Option<&OwnedFd> {
        self.handles.get(name)
    }

    /// Closes everything.
    pub fn clear(&mut self) {
        self.handles.clear();
        self.watches.clear();
    }

    /// Does a step if it is one on files.
    pub fn perform(&mut self, uid: Option<u32>, act: &Act) -> Option<Outcome> {
        let _as = As::new(uid);
        Some(match act {
            Act::Mkdir { path: p } => done(fs::create_dir(path(p, None))),
            Act::Rmdir { path: p, retry } => rmdir(&path(p, None), *retry),
            Act::Rename { from, to } => done(fs::rename(path(from, None), path(to, None))),
            Act::List { path: p, prefix } => list(&path(p, None), prefix.as_ref()),
            Act::Stat { path: p, file } => stat(&path(p, file.as_ref())),
            Act::Chown { path: p, file, uid } => {
                done(std::os::unix::fs::lchown(path(p, file.as_ref()), Some(*uid), Some(*uid)))
            }
            Act::Chmod { path: p, file, mode } => {
                done(fs::set_permissions(path(p, file.as_ref()), fs::Permissions::from_mode(*mode)))
            }
            Act::Create { path: p, file } => outcome(
                open(
                    &path(p, Some(file)),
                    OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC,
                    Mode::from_bits_truncate(0o644),
                )
                .map(|_| Outcome::Done),
            ),
            Act::Unlink { path: p, file } => done(fs::remove_file(path(p, Some(file)))),
            Act::Write { path: p, file, text } => outcome(write_once(&path(p, Some(file)), text)),
            Act::Read { path: p, file, keys } => outcome(
                read_file(&path(p, Some(file))).map(|text| Outcome::Text(only(&text, keys))),
            ),
            Act::Shape { path: p, file } => {
                outcome(read_file(&path(p, Some(file))).map(|text| Outcome::Text(shape(&text))))
            }
            Act::Compare { path: p, file, key, relation, value } => {
                match read_file(&path(p, Some(file))) {
                    Err(errno) => refused(errno),
                    Ok(text) => match value_of(&text, key.as_ref())
                        .and_then(|v| v.parse::<i64>().ok())
                    {
                        Some(found) => {
                            Outcome::said(if relation.holds(found, *value) { "yes" } else { "no" })
                        }
                        None => Outcome::said("no number"),
                    },
                }
            }
            Act::WaitFor { path: p, file, key, value } => {
                wait_for(&path(p, Some(file)), key.as_ref(), value)
            }
            Act::Open { path: p, file, access, handle } => {
                self.open(&path(p, Some(file)), *access, handle)
            }
            Act::OpenDir { path: p, handle } => {
                let opened = open(
                    &path(p, None),
                    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                    Mode::empty(),
                );
                self.keep(handle, opened)
            }
            Act::ReadHandle { handle } => self.with(handle, |fd| read_all(fd).map(Outcome::Text)),
            Act::WriteHandle { handle, text } => self.with(handle, |fd| write_text(fd, text)),
            Act::Seek { handle, offset } => {
                let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
                self.with(handle, |fd| lseek(fd, offset, Whence::SeekSet).map(|_| Outcome::Done))
            }
            Act::Poll { handle } => self.with(handle, |fd| poll_now(fd, PollTimeout::from(MOMENT))),
            Act::Watch { path: p, file, handle } => {
                let made = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).and_then(
                    |watch| {
                        let wanted = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE_SELF;
                        watch.add_watch(&path(p, Some(file)), wanted)?;
                        Ok(watch)
                    },
                );
                outcome(made.map(|watch| {
                    self.watches.insert(handle.clone(), watch);
                    Outcome::Done
                }))
            }
            Act::Watched { handle } => match self.watches.get(handle) {
                Some(watch) => outcome(watched(watch)),
                None => Outcome::broken(format!("no watch {handle}")),
            },
            Act::WaitPoll { handle } => {
                self.with(handle, |fd| poll_now(fd, PollTimeout::from(1500u16)))
            }
            Act::Close { handle } => {
                match (self.handles.remove(handle), self.watches.remove(handle)) {
                    (Some(_), _) | (_, Some(_)) => Outcome::Done,
                    _ => Outcome::broken(format!("no handle {handle}")),
                }
            }
            _ => return None,
        })
    }

    fn open(&mut self, at: &Path, access: Access, handle: &str) -> Outcome {
        let access = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_WRONLY,
            Access::Both => OFlag::O_RDWR,
        };
        let opened = open(at, access | OFlag::O_CLOEXEC, Mode::empty());
        self.keep(handle, opened)
    }

    fn keep(&mut self, handle: &str, opened: Result<OwnedFd, Errno>) -> Outcome {
        outcome(opened.map(|fd| {
            self.handles.insert(handle.to_owned(), fd);
            Outcome::Done
        }))
    }

    fn with(&self, handle: &str, act: impl FnOnce(&OwnedFd) -> Result<Outcome, Errno>) -> Outcome {
        match self.handles.get(handle) {
            Some(fd) => outcome(act(fd)),
            None => Outcome::broken(format!("no handle {handle}")),
        }
    }
}

fn rmdir(at: &Path, retry: bool) -> Outcome {
    let end = Instant::now() + SETTLES;
    loop {
        let outcome = done(fs::remove_dir(at));
        if !retry || outcome != refused(Errno::EBUSY) || Instant::now() > end {
            return outcome;
        }
    }
}

fn list(at: &Path, prefix: Option<&Text>) -> Outcome {
    let prefix = prefix.and_then(Text::known).unwrap_or_default();
    let entries = match fs::read_dir(at) {
        Ok(entries) => entries,
        Err(e) => return done(Err(e)),
    };
    let mut lines = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.as_bytes().starts_with(&prefix) {
            continue;
        }
        // Gone between the listing and the look: as if it had not been listed.
        let Ok(meta) = entry.metadata() else { continue };
        let slash = if meta.is_dir() { "/" } else { "" };
        lines.push(format!("{}{slash} {:03o}\n", name.to_string_lossy(), meta.mode() & 0o7777));
    }
    lines.sort();
    Outcome::Text(lines.concat())
}

fn stat(at: &Path) -> Outcome {
    match fs::symlink_metadata(at) {
        Ok(meta) => Outcome::said(format!(
            "mode {:03o} uid {} gid {} links {}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.nlink()
        )),
        Err(e) => done(Err(e)),
    }
}

/// Opens, writes once and closes.
fn write_once(at: &Path, text: &Text) -> Result<Outcome, Errno> {
    let fd = open(at, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write_text(&fd, text)
}

fn write_text(fd: &OwnedFd, text: &Text) -> Result<Outcome, Errno> {
    let bytes = text.known().unwrap_or_default();
    let written = write(fd, &bytes)?;
    Ok(if written == bytes.len() {
        Outcome::Done
    } else {
        Outcome::said(format!("short {written}"))
    })
}

/// Opens, reads everything and closes.
///
/// # Errors
///
/// That of open or read.
pub fn read_file(at: &Path) -> Result<String, Errno> {
    let fd = open(at, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    read_all(&fd)
}

fn read_all(fd: &OwnedFd) -> Result<String, Errno> {
    let mut out = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match read(fd, &mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&out).into_owned()),
            n => out.extend_from_slice(&buffer[..n]),
        }
    }
}

fn poll_now(fd: &OwnedFd, timeout: PollTimeout) -> Result<Outcome, Errno> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLPRI)];
    poll(&mut fds, timeout)?;
    let found = fds[0].revents().unwrap_or(PollFlags::empty());
    let mut words = Vec::new();
    for (flag, word) in [(PollFlags::POLLPRI, "pri"), (PollFlags::POLLERR, "err")] {
        if found.contains(flag) {
            words.push(word);
        }
    }
    Ok(Outcome::said(if words.is_empty() { "quiet".to_owned() } else { words.join(" ") }))
}

fn watched(watch: &Inotify) -> Result<Outcome, Errno> {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, MOMENT)?;
    let events = match watch.read_events() {
        Err(Errno::EAGAIN) => Vec::new(),
        other => other?,
    };
    let saw = |flag| events.iter().any(|event| event.mask.contains(flag));
    let mut words = Vec::new();
    if saw(AddWatchFlags::IN_MODIFY) {
        words.push("modify");
    }
    if saw(AddWatchFlags::IN_DELETE_SELF) || saw(AddWatchFlags::IN_IGNORED) {
        words.push("gone");
    }
    Ok(Outcome::said(if words.is_empty() { "quiet".to_owned() } else { words.join(" ") }))
}

pub(crate) fn only(text: &str, keys: &[Text]) -> String {
    if keys.is_empty() {
        return text.to_owned();
    }
    let keys: Vec<Vec<u8>> = keys.iter().filter_map(Text::known).collect();
    text.split_inclusive('\n')
        .filter(|line| {
            let first = line.split_whitespace().next().unwrap_or("");
            keys.iter().any(|key| key == first.as_bytes())
        })
        .collect()
}

/// The text with each number's digits replaced, if the number is a value and not part of a name.
pub(crate) fn shape(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut inside = false;
    for c in text.chars() {
        let starts = c.is_ascii_digit() && !before.is_alphanumeric() && before != '_';
        if starts || inside && (c.is_ascii_digit() || c == '.') {
            if !inside {
                out.push('N');
            }
            inside = true;
        } else {
            inside = false;
            out.push(c);
        }
        before = c;
    }
    out
}

/// What stands after a key, or the whole text without its last newline.
pub(crate) fn value_of(text: &str, key: Option<&Text>) -> Option<String> {
    match key {
        None => Some(text.trim_end_matches('\n').to_owned()),
        Some(key) => {
            let key = key.known()?;
            text.lines()
                .find_map(|line| line.as_bytes().strip_prefix(key.as_slice())?.strip_prefix(b" "))
                .map(|rest| String::from_utf8_lossy(rest).into_owned())
        }
    }
}

fn wait_for(at: &Path, key: Option<&Text>, value: &Text) -> Outcome {
    let wanted = value.known().unwrap_or_default();
    let end = Instant::now() + SETTLES;
    loop {
        let text = match read_file(at) {
            Ok(text) => text,
            Err(errno) => return refused(errno),
        };
        let found = value_of(&text, key);
        if found.as_ref().is_some_and(|found| found.as_bytes() == wanted) {
            return Outcome::Done;
        }
        if Instant::now() > end {
            return Outcome::said(format!("timeout {}", found.unwrap_or_else(|| "nothing".into())));
        }
        // Most files that are waited for have no events; those that have are tested for them apart.
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_values_are_masked_and_names_are_kept() {
        assert_eq!(
            shape("usage_usec 123\nsome avg10=0.00 total=7\n2097152kB max\n"),
            "usage_usec N\nsome avg10=N total=N\nNkB max\n"
        );
    }

    #[test]
    fn a_value_is_found_by_its_key() {
        let text = "populated 1\nfrozen 0\n";
        assert_eq!(value_of(text, Some(&Text::plain("frozen"))).as_deref(), Some("0"));
        assert_eq!(value_of(text, Some(&Text::plain("froze"))), None);
        assert_eq!(value_of("max\n", None).as_deref(), Some("max"));
    }
}
