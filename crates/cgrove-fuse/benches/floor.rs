//! The mount beside the *floor*: a file system that does nothing, served in the same way.
//!
//!     cargo bench -p cgrove-fuse --bench floor
//!
//! What a request costs is mostly the way to another process and back, which the kernel charges
//! for any FUSE file system. The floor answers each request with constants, as fast as fuser
//! allows: what the mount takes more is ours. Both sides take turns, round by round, and the
//! medians of the rounds are printed with their ratio. Needs the right to mount.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cgrove_core::{Hierarchy, Pids, Time};
use cgrove_files::Tree;
use cgrove_fuse::{Empty, Options, mount};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

const ROUNDS: usize = 31;
/// Operations in a round.
const TIMES: u32 = 400;

fn main() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [ours, floor] = [folders[0].path(), folders[1].path()];
    let hierarchy = Hierarchy::builder().controller(Arc::new(Pids::new())).build(Time(0));
    let world = Empty::new(Tree::builder(hierarchy).build());
    let mounted = match mount(ours, world, Options::default()) {
        Ok(mounted) => mounted,
        Err(error) => return println!("nothing is measured: {error}"),
    };
    let mut config = Config::default();
    // As ours is: the kernel then asks for attributes before it judges.
    config.mount_options.push(MountOption::DefaultPermissions);
    let nothing = match fuser::spawn_mount(Nothing::default(), floor, &config) {
        Ok(nothing) => nothing,
        Err(error) => return println!("nothing is measured: the floor: {error}"),
    };
    // In the floor it is always there.
    fs::create_dir(ours.join("a")).unwrap();
    println!("{:<44}{:>10}{:>10}{:>8}", "operation", "cgrove", "floor", "ratio");
    compare("stat", ours, floor, |side| {
        let path = side.join("a/cgroup.events");
        move || assert!(fs::metadata(&path).is_ok())
    });
    compare("read of an open file", ours, floor, |side| {
        let file = File::open(side.join("a/cgroup.events")).unwrap();
        move || {
            file.read_at(&mut [0; 256], 0).unwrap();
        }
    });
    compare("open, read, close", ours, floor, |side| {
        let path = side.join("a/cgroup.events");
        move || {
            File::open(&path).unwrap().read_at(&mut [0; 256], 0).unwrap();
        }
    });
    compare("write to an open file", ours, floor, |side| {
        let file = OpenOptions::new().write(true).open(side.join("a/cgroup.max.depth")).unwrap();
        move || {
            file.write_at(b"17", 0).unwrap();
        }
    });
    compare("open, write, close", ours, floor, |side| {
        let path = side.join("a/cgroup.max.depth");
        move || {
            OpenOptions::new().write(true).open(&path).unwrap().write_at(b"17", 0).unwrap();
        }
    });
    compare("mkdir + rmdir", ours, floor, |side| {
        let path = side.join("a/b");
        move || {
            fs::create_dir(&path).unwrap();
            fs::remove_dir(&path).unwrap();
        }
    });
    mounted.unmount().unwrap();
    nothing.umount_and_join().unwrap();
}

/// Times what `prepare` makes for each side, in turns.
fn compare<Op: FnMut()>(name: &str, ours: &Path, floor: &Path, prepare: impl Fn(&Path) -> Op) {
    let mut sides = [prepare(ours), prepare(floor)];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            // Neither is always the one that comes after the other.
            let side = (round + turn) % 2;
            let start = Instant::now();
            for _ in 0..TIMES {
                sides[side]();
            }
            times[side].push(start.elapsed() / TIMES);
        }
    }
    let [ours, floor] = times.map(median);
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    println!("{name:<44}{:>10}{:>10}{ratio:>8.2}", micros(ours), micros(floor));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}

/// A file system of constants: names with a point are files, others are directories. One directory
/// can be made, or else the kernel would not let it be removed.
#[derive(Default)]
struct Nothing {
    made: AtomicBool,
}

const FILE: INodeNo = INodeNo(2);
const DIRECTORY: INodeNo = INodeNo(3);
const MADE: INodeNo = INodeNo(4);
const CONTENT: &[u8] = b"populated 0\nfrozen 0\n";

fn attr(ino: INodeNo) -> FileAttr {
    let is_file = ino == FILE;
    FileAttr {
        ino,
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: if is_file { FileType::RegularFile } else { FileType::Directory },
        perm: if is_file { 0o644 } else { 0o755 },
        nlink: if is_file { 1 } else { 2 },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Nothing {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = match name.as_encoded_bytes() {
            b"b" if !self.made.load(Ordering::Relaxed) => return reply.error(Errno::ENOENT),
            b"b" => MADE,
            name if name.contains(&b'.') => FILE,
            _ => DIRECTORY,
        };
        reply.entry(&Duration::ZERO, &attr(ino), Generation(0));
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&Duration::ZERO, &attr(ino));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(1), flags);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(CONTENT);
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn mkdir(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.made.store(true, Ordering::Relaxed);
        reply.entry(&Duration::ZERO, &attr(MADE), Generation(0));
    }

    fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        self.made.store(false, Ordering::Relaxed);
        reply.ok();
    }
}
