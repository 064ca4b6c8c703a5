//! The mount beside the kernel's own cgroup2: the same system calls, drawn at random, on both.
//!
//! What is compared is what came of each call, down to the errno, as root and as another user (by
//! the user that files are judged by, setfsuid(2)). A sequence has a number: with `CGROVE_SEED=N`
//! that one is played, with `CGROVE_CASES=N` so many.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::kit::{Directory, Mount, Place, USER, errno};

crate::tests!(&[Place::Kernel] => calls_have_the_same_outcome;);

const SEQUENCES: u64 = 60;
const CALLS: usize = 250;

/// Files that both have. Not `cgroup.stat`, which has a line for each controller.
const FILES: [&str; 11] = [
    "cgroup.type",
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.controllers",
    "cgroup.subtree_control",
    "cgroup.events",
    "cgroup.max.descendants",
    "cgroup.max.depth",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.nonsense",
];

/// No number that is a process: what is written is written to the kernel's, too.
const TEXTS: [&str; 16] = [
    "max",
    "0",
    "1",
    "5",
    "-1",
    " 7 \n",
    "x",
    "+nonsense",
    "-nonsense",
    "threaded",
    "domain",
    "99999999999999999999",
    "0x3",
    "\n",
    "1 2",
    "3\0junk",
];

#[derive(Clone, Debug)]
enum Call {
    Mkdir(String, u32),
    Rmdir(String),
    Stat(String),
    List(String),
    ReadWhole(String),
    WriteWhole(String, &'static str),
    Open(usize, String, i32),
    Read(usize, usize),
    ReadAt(usize, usize, u64),
    WriteTo(usize, &'static str, Option<u64>),
    SeekTo(usize, SeekFrom),
    SetLen(usize, u64),
    StatOpen(usize),
    Poll(usize),
    Close(usize),
    Rename(String, String),
    Unlink(String),
    Link(String, String),
    Symlink(String),
    Fifo(String),
    Truncate(String, i64),
    Chmod(String, u32),
    Chown(String, Option<u32>, Option<u32>),
}

struct Side {
    base: PathBuf,
    open: Vec<Option<File>>,
}

const HANDLES: usize = 4;

fn draw(rng: &mut fastrand::Rng) -> Call {
    let dir = |rng: &mut fastrand::Rng| {
        let depth = rng.usize(0..4);
        let names: Vec<&str> = (0..depth).map(|_| ["a", "b"][rng.usize(0..2)]).collect();
        names.join("/")
    };
    let path = |rng: &mut fastrand::Rng| {
        let mut path = dir(rng);
        if rng.u8(0..3) > 0 {
            path = format!("{path}/{}", FILES[rng.usize(0..FILES.len())]);
        }
        path.trim_start_matches('/').to_owned()
    };
    let text = |path: &str, rng: &mut fastrand::Rng| {
        let text = TEXTS[rng.usize(0..TEXTS.len())];
        let moves = path.ends_with("procs") || path.ends_with("threads");
        let is_number =
            text.trim_start_matches([' ', '0']).starts_with(|c: char| c.is_ascii_digit());
        if (moves && (is_number || text.starts_with('0'))) || text.is_empty() { "x" } else { text }
    };
    let handle = rng.usize(0..HANDLES);
    let mode =
        |rng: &mut fastrand::Rng| [0o755, 0o777, 0o700, 0o1777, 0o2755, 0o644, 0][rng.usize(0..7)];
    match rng.u8(0..40) {
        0..8 => Call::Mkdir(dir(rng), mode(rng)),
        8..10 => Call::Rmdir(path(rng)),
        10..12 => Call::Stat(path(rng)),
        12 => Call::List(path(rng)),
        13..15 => Call::ReadWhole(path(rng)),
        15..19 => {
            let path = path(rng);
            let text = text(&path, rng);
            Call::WriteWhole(path, text)
        }
        19..23 => {
            let access = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR][rng.usize(0..3)];
            let extra = [
                0,
                0,
                0,
                libc::O_TRUNC,
                libc::O_APPEND,
                libc::O_DIRECTORY,
                libc::O_CREAT,
                libc::O_CREAT | libc::O_EXCL,
                libc::O_NOFOLLOW | libc::O_NONBLOCK,
            ];
            Call::Open(handle, path(rng), access | extra[rng.usize(0..extra.len())])
        }
        23 => Call::Read(handle, rng.usize(1..40)),
        24 => Call::ReadAt(handle, rng.usize(1..40), rng.u64(0..30)),
        // Through a handle, whose file nobody knows here: never a number.
        25 => {
            let texts = ["max", "x", "-1", "+nonsense", "threaded", "\n"];
            Call::WriteTo(handle, texts[rng.usize(0..texts.len())], None)
        }
        26 => Call::WriteTo(handle, "x", Some(rng.u64(0..30))),
        27 => {
            let to = [SeekFrom::Start(rng.u64(0..20)), SeekFrom::Current(-3), SeekFrom::End(0)];
            Call::SeekTo(handle, to[rng.usize(0..3)])
        }
        28 => Call::SetLen(handle, rng.u64(0..2) * 100),
        29 => Call::StatOpen(handle),
        30 => Call::Poll(handle),
        31 => Call::Close(handle),
        32 => Call::Rename(path(rng), path(rng)),
        33 => Call::Unlink(path(rng)),
        34 => Call::Link(path(rng), path(rng)),
        35 => Call::Symlink(path(rng)),
        36 => Call::Fifo(path(rng)),
        37 => Call::Truncate(path(rng), rng.i64(-1..2)),
        38 => Call::Chmod(path(rng), mode(rng)),
        _ => {
            let id =
                |rng: &mut fastrand::Rng| [None, Some(0), Some(USER), Some(7)][rng.usize(0..4)];
            Call::Chown(path(rng), id(rng), id(rng))
        }
    }
}

fn attributes(found: fs::Metadata) -> String {
    format!("{:o} {} {} {} {}", found.mode(), found.uid(), found.gid(), found.nlink(), found.len())
}

fn said<T: Debug>(result: std::io::Result<T>) -> String {
    match errno(result) {
        Ok(value) => format!("{value:?}"),
        Err(errno) => format!("{errno:?}"),
    }
}

impl Side {
    fn new(base: PathBuf) -> Side {
        Side { base, open: (0..HANDLES).map(|_| None).collect() }
    }

    fn perform(&mut self, call: &Call) -> String {
        let at = |path: &str| self.base.join(path);
        let nixed = |result: nix::Result<()>| said(result.map_err(std::io::Error::from));
        if let Some(handle) = call.handle() {
            let Some(file) = &mut self.open[handle] else { return "not open".into() };
            return match call {
                Call::Read(_, size) => {
                    let mut piece = vec![0; *size];
                    said(file.read(&mut piece).map(|len| piece[..len].to_vec()))
                }
                Call::ReadAt(_, size, offset) => {
                    let mut piece = vec![0; *size];
                    said(file.read_at(&mut piece, *offset).map(|len| piece[..len].to_vec()))
                }
                Call::WriteTo(_, text, None) => said(file.write(text.as_bytes())),
                Call::WriteTo(_, text, Some(offset)) => {
                    said(file.write_at(text.as_bytes(), *offset))
                }
                Call::SeekTo(_, to) => said(file.seek(*to)),
                Call::SetLen(_, len) => said(file.set_len(*len)),
                Call::StatOpen(_) => said(file.metadata().map(attributes)),
                Call::Poll(_) => {
                    let mut fds = [PollFd::new(file.as_fd(), PollFlags::all())];
                    let ready = poll(&mut fds, PollTimeout::ZERO);
                    format!("{ready:?} {:?}", fds[0].revents())
                }
                _ => {
                    self.open[handle] = None;
                    "closed".into()
                }
            };
        }
        match call {
            Call::Mkdir(path, mode) => {
                let mode = Mode::from_bits_truncate(*mode);
                nixed(nix::unistd::mkdir(&at(path), mode))
            }
            Call::Rmdir(path) if path.is_empty() => "not tried".into(),
            Call::Rmdir(path) => said(fs::remove_dir(at(path))),
            Call::Stat(path) => said(fs::metadata(at(path)).map(attributes)),
            Call::List(path) => said(fs::read_dir(at(path)).map(|entries| {
                let mut names: Vec<String> = entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .filter(|name| !name.contains('.') || FILES.contains(&name.as_str()))
                    .collect();
                names.sort();
                names
            })),
            Call::ReadWhole(path) => said(fs::read_to_string(at(path))),
            Call::WriteWhole(path, text) => {
                let opened = OpenOptions::new().write(true).open(at(path));
                said(opened.and_then(|mut file| file.write(text.as_bytes())))
            }
            Call::Open(handle, path, flags) => {
                // The access is in the flags, too, and must not be said twice.
                let access = flags & libc::O_ACCMODE;
                let mut options = OpenOptions::new();
                options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
                let opened = options.custom_flags(flags & !libc::O_ACCMODE).open(at(path));
                let (file, said) = match errno(opened) {
                    Ok(file) => (Some(file), "opened".to_owned()),
                    Err(errno) => (None, format!("{errno:?}")),
                };
                self.open[*handle] = file;
                said
            }
            Call::Rename(from, to) => said(fs::rename(at(from), at(to))),
            Call::Unlink(path) => said(fs::remove_file(at(path))),
            Call::Link(from, to) => said(fs::hard_link(at(from), at(to))),
            Call::Symlink(path) => said(std::os::unix::fs::symlink("x", at(path))),
            Call::Fifo(path) => nixed(mknod(&at(path), SFlag::S_IFIFO, Mode::S_IRWXU, 0)),
            Call::Truncate(path, len) => nixed(nix::unistd::truncate(&at(path), *len)),
            Call::Chmod(path, mode) => {
                said(fs::set_permissions(at(path), Permissions::from_mode(*mode)))
            }
            Call::Chown(path, uid, gid) => said(chown(at(path), *uid, *gid)),
            _ => "no such call".into(),
        }
    }
}

impl Call {
    /// The open file that it is about.
    fn handle(&self) -> Option<usize> {
        match self {
            Call::Read(handle, _)
            | Call::ReadAt(handle, ..)
            | Call::WriteTo(handle, ..)
            | Call::SeekTo(handle, _)
            | Call::SetLen(handle, _)
            | Call::StatOpen(handle)
            | Call::Poll(handle)
            | Call::Close(handle) => Some(*handle),
            _ => None,
        }
    }
}

fn become_user(id: u32) {
    // The group first: it is the superuser who may change both.
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
}

fn calls_have_the_same_outcome(_place: Place) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("CGROVE_SEED");
    let count = number("CGROVE_CASES").unwrap_or(if seed.is_some() { 1 } else { SEQUENCES });
    let seed = seed.unwrap_or(0);
    let seeds = seed..seed + count;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let mut faults = 0;
    for seed in seeds {
        let kernel = Directory::of_the_kernel();
        let mount = Mount::empty(Place::Root);
        let mut sides = [Side::new(mount.mkdir("base")), Side::new(kernel.path().to_owned())];
        let mut rng = fastrand::Rng::with_seed(seed);
        for nth in 0..CALLS {
            let call = draw(&mut rng);
            let user = if rng.u8(0..4) == 0 { USER } else { 0 };
            become_user(user);
            let [ours, theirs] = [0, 1].map(|side| sides[side].perform(&call));
            become_user(0);
            if ours != theirs && !known(&call, &ours, &theirs) {
                eprintln!(
                    "seed {seed} call {nth} by {user}: {call:?}: {ours}, and Linux: {theirs}"
                );
                faults += 1;
                // What comes after has another start.
                break;
            }
        }
        drop(sides);
        tidy(&mount.path("base"));
    }
    assert_eq!(faults, 0, "see above");
}

/// What the kernel's FUSE answers by itself, and otherwise than kernfs.
fn known(call: &Call, ours: &str, theirs: &str) -> bool {
    match call {
        // kernfs takes pwrite from who cannot write (seq_open).
        Call::WriteTo(_, _, Some(_)) => (ours, theirs) == ("EBADF", "ESPIPE"),
        // It is not asked when somebody goes elsewhere in a file that is gone.
        Call::SeekTo(..) => theirs == "ENODEV",
        _ => false,
    }
}

fn tidy(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            tidy(&entry.path());
        }
    }
    let _ = fs::remove_dir(base);
}
