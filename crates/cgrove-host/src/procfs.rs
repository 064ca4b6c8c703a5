//! Reading `/proc` cheaply.
//!
//! A supervisor reads thousands of small `/proc` files while the tree it watches is running, so
//! each read is one openat, read, close on a path relative to one `/proc` descriptor, into one
//! buffer that is reused for ever. The parsers take bytes, never trust them, and know that a
//! process may name itself `) R 1 (`.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::read;

use crate::sys::{RawPid, getdents};

/// What the kernel prints into at a time.
const PAGE: usize = 4096;

/// What `/proc/PID/stat` says of a task (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// One letter: R, S, D, T, t, Z, X, I.
    pub state: u8,
    /// The parent process, 0 if it lies outside this pid namespace.
    pub ppid: RawPid,
    /// CPU time of the process itself, in clock ticks: user, system.
    pub own: (u64, u64),
    /// CPU time of its waited-for children, in clock ticks: user, system.
    pub children: (u64, u64),
    /// Threads not yet released, a dead leader included.
    pub threads: u64,
    /// Start time in clock ticks since boot: with the pid, it names one process.
    pub start: u64,
}

impl Stat {
    /// Ended, but not waited for.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// Parses the file's content.
    pub fn parse(text: &[u8]) -> Option<Stat> {
        // The name in parentheses may hold anything; what follows the last one cannot.
        let end = text.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let ppid = fields.next()?.parse().ok()?;
        let mut fields = fields.skip(9).map(|f| f.parse::<i64>().unwrap_or(0).max(0) as u64);
        let own = (fields.next()?, fields.next()?);
        let children = (fields.next()?, fields.next()?);
        let threads = fields.nth(2)?;
        let start = fields.nth(1)?;
        Some(Stat { state, ppid, own, children, threads, start })
    }
}

/// What `/proc/PID/statm` says of a process's memory, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statm {
    /// All that is mapped and present (RSS).
    pub resident: u64,
    /// The part of it that is file or shared memory.
    pub shared: u64,
}

/// What `/proc/PID/smaps_rollup` says of a process's memory, in bytes (proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rollup {
    /// As in [`Statm`].
    pub resident: u64,
    /// Its own pages, and of those that it shares with others its share; with what is swapped out.
    pub proportional: u64,
    /// The pages that nobody else maps, and its own swap.
    pub private: u64,
}

impl Rollup {
    /// Parses the file's content.
    pub fn parse(text: &[u8]) -> Rollup {
        let mut it = Rollup::default();
        for line in text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim().strip_suffix(" kB").and_then(|kib| kib.trim().parse().ok());
            let bytes = value.map_or(0, |kib: u64| kib.saturating_mul(1024));
            match key {
                "Rss" => it.resident = bytes,
                "Pss" | "SwapPss" => it.proportional = it.proportional.saturating_add(bytes),
                "Private_Clean" | "Private_Dirty" => it.private = it.private.saturating_add(bytes),
                _ => {}
            }
        }
        it
    }
}

/// An open `/proc` with its buffers.
pub struct Proc {
    dir: OwnedFd,
    path: String,
    buf: Vec<u8>,
    dents: Vec<u8>,
}

impl Proc {
    /// Opens `/proc`.
    pub fn open() -> Result<Proc, Errno> {
        let dir =
            open("/proc", OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Proc { dir, path: String::with_capacity(64), buf: vec![0; PAGE], dents: Vec::new() })
    }

    /// The pid that this `/proc` has for the calling process; `None` if it does not know it.
    pub fn own_pid(&self) -> Option<RawPid> {
        readlinkat(&self.dir, "self").ok()?.to_str()?.parse().ok()
    }

    /// Whether descriptor `fd` of `tid` may lead to a pid namespace; yes if nobody can tell.
    pub fn may_be_pid_namespace(&self, tid: RawPid, fd: i32) -> bool {
        let link = readlinkat(&self.dir, format!("{tid}/fd/{fd}").as_str());
        !link.is_ok_and(|to| !to.as_encoded_bytes().starts_with(b"pid:"))
    }

    /// `/proc/TID/mem`, to read and to write: the memory, whoever has the id later (proc(5)).
    pub fn memory(&self, tid: RawPid) -> Result<File, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        openat(&self.dir, format!("{tid}/mem").as_str(), flags, Mode::empty()).map(File::from)
    }

    /// `/proc/PID/stat`: of the whole process (its CPU time, its leader's state).
    pub fn stat(&mut self, pid: RawPid) -> Result<Stat, Errno> {
        self.set_path(format_args!("{pid}/stat"));
        let text = self.read()?;
        Stat::parse(text).ok_or(Errno::EINVAL)
    }

    /// `/proc/TID/task/TID/stat`: of one thread alone. `tid` need not be a leader.
    pub fn thread_stat(&mut self, tid: RawPid) -> Result<Stat, Errno> {
        self.set_path(format_args!("{tid}/task/{tid}/stat"));
        let text = self.read()?;
        Stat::parse(text).ok_or(Errno::EINVAL)
    }

    /// `/proc/PID/statm`: cheap, for the kernel keeps these counts. All 0 once it has ended.
    pub fn statm(&mut self, pid: RawPid) -> Result<Statm, Errno> {
        self.set_path(format_args!("{pid}/statm"));
        let text = std::str::from_utf8(self.read()?).map_err(|_| Errno::EINVAL)?;
        let mut words = text.split_ascii_whitespace().skip(1).map(|word| word.parse().ok());
        let mut next = || words.next().flatten().ok_or(Errno::EINVAL);
        Ok(Statm { resident: next()?, shared: next()? })
    }

    /// `/proc/PID/smaps_rollup`: exact, at the price of a walk over the page tables. For whoever may
    /// trace it. ESRCH: it has no memory any more.
    pub fn rollup(&mut self, pid: RawPid) -> Result<Rollup, Errno> {
        self.set_path(format_args!("{pid}/smaps_rollup"));
        Ok(Rollup::parse(self.read()?))
    }

    /// What the kernel's OOM killer weighs, in bytes: resident, swapped out and page tables
    /// (proc_pid_status(5)).
    pub fn oom_weight(&mut self, pid: RawPid) -> Result<u64, Errno> {
        self.set_path(format_args!("{pid}/status"));
        let text = std::str::from_utf8(self.read()?).map_err(|_| Errno::EINVAL)?;
        let kib = |line: &str| {
            let (key, value) = line.split_once(':')?;
            let counts = matches!(key, "VmRSS" | "VmSwap" | "VmPTE");
            counts.then(|| value.trim().strip_suffix(" kB")?.trim().parse().ok())?
        };
        Ok(text.lines().filter_map(kib).map(|kib: u64| kib.saturating_mul(1024)).sum())
    }

    /// `/proc/PID/oom_score_adj`.
    pub fn oom_score_adj(&mut self, pid: RawPid) -> Result<i64, Errno> {
        self.set_path(format_args!("{pid}/oom_score_adj"));
        let text = std::str::from_utf8(self.read()?).map_err(|_| Errno::EINVAL)?;
        text.trim().parse().map_err(|_| Errno::EINVAL)
    }

    /// Who traces `tid`, if somebody does and can be seen (`TracerPid`, proc_pid_status(5)).
    pub fn tracer(&mut self, tid: RawPid) -> Option<RawPid> {
        self.set_path(format_args!("{tid}/status"));
        let text = self.read().ok()?;
        let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"TracerPid:"))?;
        std::str::from_utf8(line).ok()?.trim().parse().ok().filter(|&pid| pid != 0)
    }

    /// The process that thread `tid` belongs to.
    pub fn process_of(&mut self, tid: RawPid) -> Option<RawPid> {
        self.set_path(format_args!("{tid}/status"));
        let text = self.read().ok()?;
        let line = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
        std::str::from_utf8(line).ok()?.trim().parse().ok()
    }

    /// The real and the effective user of `tid`.
    pub fn uids(&mut self, tid: RawPid) -> Option<(u32, u32)> {
        self.set_path(format_args!("{tid}/status"));
        let text = std::str::from_utf8(self.read().ok()?).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let mut words = line.split_ascii_whitespace().map(|word| word.parse().ok());
        Some((words.next()??, words.next()??))
    }

    /// Whether `tid` certainly is in the pid namespace of this `/proc`.
    pub fn same_pid_namespace(&self, tid: RawPid) -> bool {
        let of = |who: &str| readlinkat(&self.dir, format!("{who}/ns/pid").as_str());
        match (of("self"), of(&tid.to_string())) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            _ => false,
        }
    }

    /// Whether the caller has the right to trace `tid`: the kernel asks the same for this file.
    pub fn may_trace(&mut self, tid: RawPid) -> bool {
        self.set_path(format_args!("{tid}/task/{tid}/syscall"));
        self.read().is_ok()
    }

    /// The system call that `tid` sleeps in: its number and first argument
    /// (proc_pid_syscall(5)). Only for whoever may trace it, and not if it runs.
    pub fn sleeps_in(&mut self, tid: RawPid) -> Option<(i64, u64)> {
        self.set_path(format_args!("{tid}/task/{tid}/syscall"));
        let text = std::str::from_utf8(self.read().ok()?).ok()?;
        let mut words = text.split_ascii_whitespace();
        let number = words.next()?.parse().ok()?;
        let first = words.next()?.strip_prefix("0x")?;
        Some((number, u64::from_str_radix(first, 16).ok()?))
    }

    /// Appends the children that thread `tid` of `pid` forked or inherited, zombies included
    /// (CONFIG_PROC_CHILDREN). ENOENT: the thread is gone, or the kernel has no such file.
    pub fn children(
        &mut self,
        pid: RawPid,
        tid: RawPid,
        to: &mut Vec<RawPid>,
    ) -> Result<(), Errno> {
        self.set_path(format_args!("{pid}/task/{tid}/children"));
        let text = self.read()?;
        to.extend(
            text.split(u8::is_ascii_whitespace)
                .filter_map(|word| std::str::from_utf8(word).ok()?.parse::<RawPid>().ok()),
        );
        Ok(())
    }

    /// Appends the thread ids of `pid`, in the kernel's order: the leader first.
    pub fn threads(&mut self, pid: RawPid, to: &mut Vec<RawPid>) -> Result<(), Errno> {
        self.set_path(format_args!("{pid}/task"));
        let dir = openat(&self.dir, self.path.as_str(), DIRECTORY, Mode::empty())?;
        self.numbers(dir.as_fd(), to)
    }

    /// Appends every process id that this `/proc` shows.
    pub fn processes(&mut self, to: &mut Vec<RawPid>) -> Result<(), Errno> {
        let dir = openat(&self.dir, ".", DIRECTORY, Mode::empty())?;
        self.numbers(dir.as_fd(), to)
    }

    /// `/proc/PID/cmdline` as words; for a process without one, its name in brackets as ps(1)
    /// prints it. At most 4 KiB of it.
    pub fn command_line(&mut self, pid: RawPid) -> Vec<String> {
        self.set_path(format_args!("{pid}/cmdline"));
        if let Ok(text) = self.read_some()
            && !text.is_empty()
        {
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            return text
                .split(|&b| b == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
        }
        self.set_path(format_args!("{pid}/comm"));
        match self.read_some() {
            Ok(name) => vec![format!("[{}]", String::from_utf8_lossy(name.trim_ascii_end()))],
            Err(_) => Vec::new(),
        }
    }

    /// `/proc/PID/comm`.
    pub fn name(&mut self, pid: RawPid) -> Result<&[u8], Errno> {
        self.set_path(format_args!("{pid}/comm"));
        self.read_some().map(<[u8]>::trim_ascii_end)
    }

    /// Whether process `above` is `pid` or an ancestor of it.
    pub fn is_above(&mut self, above: RawPid, pid: RawPid) -> bool {
        let mut at = pid;
        for _ in 0..4096 {
            if at == above {
                return true;
            }
            match self.stat(at) {
                Ok(stat) if stat.ppid > 0 => at = stat.ppid,
                _ => return false,
            }
        }
        false
    }

    /// A whole file below `/proc`, for the doctor.
    pub fn file(&mut self, path: &str) -> Result<&[u8], Errno> {
        self.set_path(format_args!("{path}"));
        self.read()
    }

    fn set_path(&mut self, args: std::fmt::Arguments<'_>) {
        self.path.clear();
        // Writing to a String cannot fail.
        let _ = self.path.write_fmt(args);
    }

    fn open_path(&self) -> Result<OwnedFd, Errno> {
        openat(&self.dir, self.path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// The whole file at `self.path`. A short read ends it: `/proc` files here are generated a
    /// page at a time, so only a full buffer or a `children` list can have more to come.
    fn read(&mut self) -> Result<&[u8], Errno> {
        let fd = self.open_path()?;
        let mut len = 0;
        loop {
            // Room for a whole page: a read that is short for want of room looks like the last.
            if self.buf.len() - len < PAGE {
                self.buf.resize(self.buf.len() + PAGE, 0);
            }
            let got = read(&fd, &mut self.buf[len..])?;
            len += got;
            // Every record of these files is far shorter than 512 bytes, so a chunk with that
            // much room left was the last one.
            if got == 0 || got + 512 < PAGE {
                return Ok(&self.buf[..len]);
            }
        }
    }

    /// What one read gives.
    fn read_some(&mut self) -> Result<&[u8], Errno> {
        let fd = self.open_path()?;
        let got = read(&fd, &mut self.buf)?;
        Ok(&self.buf[..got])
    }

    fn numbers(&mut self, dir: BorrowedFd<'_>, to: &mut Vec<RawPid>) -> Result<(), Errno> {
        if self.dents.is_empty() {
            self.dents.resize(16 * 1024, 0);
        }
        loop {
            let got = getdents(dir, &mut self.dents)?;
            if got == 0 {
                return Ok(());
            }
            names(&self.dents[..got], to);
        }
    }
}

impl AsFd for Proc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The numeric names among getdents64(2) records: a u64 inode, a u64 offset, a u16 record length,
/// a u8 type, then the name.
fn names(mut records: &[u8], to: &mut Vec<RawPid>) {
    const NAME: usize = 19;
    while records.len() > NAME {
        let len = usize::from(u16::from_ne_bytes([records[16], records[17]]));
        if len <= NAME || len > records.len() {
            return;
        }
        let (record, rest) = records.split_at(len);
        let name = record[NAME..].split(|&b| b == 0).next().unwrap_or(&[]);
        if let Some(number) = std::str::from_utf8(name).ok().and_then(|n| n.parse().ok()) {
            to.push(number);
        }
        records = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_a_hostile_name() {
        let line = b"42 (a) R 1 (b) S 7 1 1 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 3 0 999 1 2\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: b'S',
                ppid: 7,
                own: (10, 20),
                children: (30, 40),
                threads: 3,
                start: 999
            }
        );
    }

    #[test]
    fn stat_refuses_nonsense() {
        for text in [&b""[..], b"1", b"1 (x", b"1 (x)", b"1 (x) S", b"1 (x) S 2 3", b"\xff)\xff"] {
            assert_eq!(Stat::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_rollup_is_read_by_its_names() {
        let text = b"55d0-7fff ---p 00000000 00:00 0   [rollup]\nRss:   1200 kB\nPss:    600 kB\n\
            Pss_Dirty:  90 kB\nShared_Clean:  800 kB\nPrivate_Clean:  100 kB\n\
            Private_Dirty:   300 kB\nSwap:    8 kB\nSwapPss:    4 kB\n";
        let rollup = Rollup { resident: 1200 << 10, proportional: 604 << 10, private: 400 << 10 };
        assert_eq!(Rollup::parse(text), rollup);
        assert_eq!(Rollup::parse(b"Rss: lots\n\xff\nPss"), Rollup::default());
    }

    /// A list of children that filled the buffer almost was cut in the middle of a number.
    #[test]
    fn long_files_are_read_whole() {
        let path = "/proc/kallsyms";
        let Ok(whole) = std::fs::read(path) else { return };
        let mut proc = Proc::open().unwrap();
        assert!(proc.file("kallsyms").unwrap() == whole);
    }

    #[test]
    fn reads_itself() {
        let mut proc = Proc::open().unwrap();
        let me = std::process::id() as RawPid;
        let stat = proc.stat(me).unwrap();
        assert!(stat.threads >= 1 && !stat.is_zombie());
        let mut tids = Vec::new();
        proc.threads(me, &mut tids).unwrap();
        assert_eq!(tids[0], me);
        let mut pids = Vec::new();
        proc.processes(&mut pids).unwrap();
        assert!(pids.contains(&me));
        assert!(!proc.command_line(me).is_empty());
        assert_eq!(proc.stat(0), Err(Errno::ENOENT));
    }
}
