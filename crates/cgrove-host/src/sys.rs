//! The system calls that no safe wrapper covers.
//!
//! Everything else in this crate is safe Rust: this is the one file where unsafe code is allowed,
//! so that a reviewer who worries about memory has one file to read. Each function is a thin,
//! total wrapper: it returns the kernel's errno and decides nothing.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_int, c_long, c_ulong};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::SigSet;

use crate::mutant::{self, Mutant};

/// One instruction of classic BPF, as seccomp takes it.
pub use libc::sock_filter as BpfInsn;

/// A process or thread id as the kernel prints it. Zero and negative values never name one task.
pub type RawPid = i32;

/// Which side of a [`fork`] the caller is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForkSide {
    /// The parent, with the child's pid.
    Parent(RawPid),
    /// The child.
    Child,
}

/// fork(2). The caller must be single-threaded, or its other threads must sit in a system call and
/// hold no lock: then the child may do anything the parent may.
pub fn fork() -> Result<ForkSide, Errno> {
    // SAFETY: fork has no memory preconditions. The one thread this crate starts, the door's porter,
    // waits for the answer to a request whenever its supervisor forks, so no lock can be held by a
    // thread that does not exist in the child.
    match Errno::result(unsafe { libc::fork() })? {
        0 => Ok(ForkSide::Child),
        pid => Ok(ForkSide::Parent(pid)),
    }
}

/// _exit(2): ends the process without running destructors or flushing anything twice.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: no preconditions; does not return.
    unsafe { libc::_exit(status) }
}

/// User and system CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Time in user mode.
    pub user: Duration,
    /// Time in the kernel.
    pub system: Duration,
}

impl CpuTime {
    /// The sum, never wrapping.
    pub fn plus(self, other: CpuTime) -> CpuTime {
        CpuTime {
            user: self.user.saturating_add(other.user),
            system: self.system.saturating_add(other.system),
        }
    }
}

/// What became of a child, as wait4(2) encodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It ended with this status (0..=255).
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// This signal stopped it (only with [`WaitFor::Changes`]).
    Stopped(i32),
    /// SIGCONT continued it (only with [`WaitFor::Changes`]).
    Continued,
}

/// One answer of [`wait_child`].
#[derive(Debug, Clone, Copy)]
pub struct Waited {
    /// The child.
    pub pid: RawPid,
    /// What happened to it.
    pub fate: Fate,
    /// Its own CPU time and that of every descendant that was waited for below it. Only
    /// meaningful when it ended.
    pub cpu: CpuTime,
    /// The most memory that one process among these had at once, in KiB; 0 is not known.
    pub max_rss: u64,
}

/// Which changes of a child [`wait_child`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// Ends only.
    End,
    /// Ends, stops and continues.
    Changes,
}

/// wait4(2) for any child, without blocking. `Ok(None)`: there are children, nothing happened.
/// `Err(ECHILD)`: there are none. Children of any clone flavour count (`__WALL`).
pub fn wait_child(what: WaitFor) -> Result<Option<Waited>, Errno> {
    let mut flags = libc::WNOHANG | libc::__WALL;
    if what == WaitFor::Changes {
        flags |= libc::WUNTRACED | libc::WCONTINUED;
    }
    wait4(-1, flags)
}

/// wait4(2) for one child, blocking until it ends.
pub fn wait_for_end(pid: RawPid) -> Result<Option<Waited>, Errno> {
    loop {
        match wait4(pid, libc::__WALL) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn wait4(pid: RawPid, flags: c_int) -> Result<Option<Waited>, Errno> {
    let mut status: c_int = 0;
    // SAFETY: rusage is plain old data for which all zeroes is a valid value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: both pointers are to live, writable locals of the types wait4 expects.
    let got = Errno::result(unsafe { libc::wait4(pid, &mut status, flags, &mut usage) })?;
    if got == 0 {
        return Ok(None);
    }
    let fate = if libc::WIFEXITED(status) {
        Fate::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSTOPPED(status) {
        Fate::Stopped(libc::WSTOPSIG(status))
    } else if libc::WIFCONTINUED(status) {
        Fate::Continued
    } else {
        Fate::Signaled(libc::WTERMSIG(status))
    };
    let duration = |t: libc::timeval| {
        Duration::new(
            u64::try_from(t.tv_sec).unwrap_or(0),
            u32::try_from(t.tv_usec).unwrap_or(0).min(999_999) * 1000,
        )
    };
    Ok(Some(Waited {
        pid: got,
        fate,
        cpu: CpuTime { user: duration(usage.ru_utime), system: duration(usage.ru_stime) },
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }))
}

fn prctl(option: c_int, arg: c_ulong) -> Result<c_int, Errno> {
    // SAFETY: only called with options that take integers; the unused arguments must be zero.
    Errno::result(unsafe { libc::prctl(option, arg, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) })
}

/// PR_SET_CHILD_SUBREAPER: orphans below this process become its children (prctl(2)).
pub fn become_subreaper() -> Result<(), Errno> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(drop)
}

/// PR_SET_PDEATHSIG: this signal for this process when the thread that forked it ends.
pub fn parent_death_signal(signal: i32) -> Result<(), Errno> {
    prctl(libc::PR_SET_PDEATHSIG, signal as c_ulong).map(drop)
}

/// PR_SET_NO_NEW_PRIVS: exec no longer grants privileges, below this process for good.
pub fn no_new_privs() -> Result<(), Errno> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// PR_GET_NO_NEW_PRIVS.
pub fn has_no_new_privs() -> bool {
    prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == Ok(1)
}

/// PR_SET_NAME: the name in `/proc/PID/comm`, cut to 15 bytes.
pub fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME reads at most 16 bytes up to the NUL of a valid C string.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Installs a seccomp filter on the calling thread. `flags` are SECCOMP_FILTER_FLAG_*; with
/// NEW_LISTENER the listener comes back (always close-on-exec).
///
/// Errors of seccomp(2): EACCES without CAP_SYS_ADMIN and no_new_privs, EINVAL for a flag this
/// kernel lacks, EBUSY when a listener exists already, ENOSYS or EPERM from an outer filter.
pub fn seccomp_install(program: &[BpfInsn], flags: c_ulong) -> Result<Option<OwnedFd>, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `prog` describes a live slice, which the kernel copies and does not write.
    let got = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER as c_ulong,
            flags,
            &raw const prog,
        )
    };
    let got = Errno::result(got)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = RawFd::try_from(got).map_err(|_| Errno::EBADF)?;
    // SAFETY: with NEW_LISTENER a success is a new descriptor that nothing else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Installs a seccomp filter on the calling thread by prctl(2), which places allow that refuse
/// seccomp(2). It knows no flags, and so no listener.
///
/// Errors: EACCES without CAP_SYS_ADMIN and no_new_privs, EINVAL without filters in the kernel.
pub(crate) fn seccomp_install_by_prctl(program: &[BpfInsn]) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `prog` describes a live slice, which the kernel copies and does not write.
    let got = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER as c_ulong,
            &raw const prog,
            0 as c_ulong,
            0 as c_ulong,
        )
    };
    Errno::result(got).map(drop)
}

/// Whether the kernel knows a seccomp return action (SECCOMP_GET_ACTION_AVAIL).
pub fn seccomp_action_available(action: u32) -> bool {
    // SAFETY: the kernel reads four bytes from a live local.
    let got = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL as c_ulong,
            0 as c_ulong,
            &raw const action,
        )
    };
    got == 0
}

/// A received notification: what a task asked of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// The kernel's name for this request.
    pub id: u64,
    /// The thread that asks.
    pub tid: RawPid,
    /// The call's number, in its architecture's numbering.
    pub nr: i32,
    /// AUDIT_ARCH_* of the call.
    pub arch: u32,
    /// The call's arguments.
    pub args: [u64; 6],
}

/// SECCOMP_IOCTL_NOTIF_RECV. Blocks when nothing is pending, so wait for readability first;
/// ENOENT means that the asker was killed or interrupted in between.
pub fn notif_recv(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // SAFETY: plain old data; the kernel insists that the struct be zeroed.
    let mut raw: libc::seccomp_notif = unsafe { mem::zeroed() };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw)?;
    Ok(Notification {
        id: raw.id,
        tid: RawPid::try_from(raw.pid).unwrap_or(0),
        nr: raw.data.nr,
        arch: raw.data.arch,
        args: raw.data.args,
    })
}

/// The supervisor's answer to a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Let the kernel run the call.
    Continue,
    /// Fail it with this errno.
    Refuse(Errno),
    /// Run it again when the task comes back from what awaits it (ERESTARTNOINTR).
    Restart,
    /// Let it return 0 without running.
    Done,
}

/// Of the kernel alone, and in no header: the call begins anew on the way back to user mode, after
/// stops and signals. Without any of those pending a program would see it.
const ERESTARTNOINTR: i32 = 513;

/// SECCOMP_IOCTL_NOTIF_SEND. ENOENT: the asker no longer waits, and the call did not run.
pub fn notif_send(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> Result<(), Errno> {
    let mut raw = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: match answer {
            Answer::Continue | Answer::Done => 0,
            Answer::Refuse(errno) => -(errno as i32),
            Answer::Restart => -ERESTARTNOINTR,
        },
        flags: match answer {
            Answer::Continue => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Refuse(_) | Answer::Restart | Answer::Done => 0,
        },
    };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut raw)
}

/// SECCOMP_IOCTL_NOTIF_ID_VALID: whether the asker still waits, so that what was read from its
/// memory was its own.
pub fn notif_id_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    let mut id = id;
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id).is_ok()
}

/// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6): asker and supervisor take turns on one CPU,
/// which halves the round trip. EINVAL on older kernels.
pub fn notif_sync_wake_up(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let fd = listener.as_raw_fd();
    // SAFETY: this ioctl takes its argument by value.
    let got = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1 as c_ulong) };
    Errno::result(got).map(drop)
}

fn ioctl<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, arg: *mut T) -> Result<(), Errno> {
    // SAFETY: every caller passes a pointer to a live local of the type that `request` encodes.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request, arg) }).map(drop)
}

/// pidfd_open(2): a handle that cannot come to mean another process.
pub fn pidfd_open(pid: RawPid) -> Result<OwnedFd, Errno> {
    // SAFETY: integers only.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as c_long, 0 as c_long) };
    let fd = RawFd::try_from(Errno::result(got)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: a success is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    // SAFETY: a null siginfo asks for the one kill(2) would send.
    let got = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd() as c_long,
            signal as c_long,
            ptr::null::<libc::siginfo_t>(),
            0 as c_long,
        )
    };
    Errno::result(got).map(drop)
}

/// kill(2) with a raw signal number, real-time signals included; 0 only asks.
pub fn kill(pid: RawPid, signal: i32) -> Result<(), Errno> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Whether the thread `tid` of process `tgid` still exists (zombies do): tgkill(2) with signal 0.
pub fn thread_exists(tgid: RawPid, tid: RawPid) -> bool {
    // SAFETY: integers only.
    let got =
        unsafe { libc::syscall(libc::SYS_tgkill, tgid as c_long, tid as c_long, 0 as c_long) };
    Errno::result(got) != Err(Errno::ESRCH)
}

/// Whether any thread has this id: kill(2) with signal 0 finds threads by their own ids too.
pub fn thread_exists_anywhere(tid: RawPid) -> bool {
    kill(tid, 0) != Err(Errno::ESRCH)
}

/// Whether a signal's disposition is SIG_IGN.
pub fn signal_is_ignored(signal: i32) -> bool {
    // SAFETY: plain old data; all zeroes is valid.
    let mut old: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a null new action only asks; `old` is live and writable.
    let got = unsafe { libc::sigaction(signal, ptr::null(), &mut old) };
    got == 0 && old.sa_sigaction == libc::SIG_IGN
}

/// Sets a signal's disposition to SIG_IGN or, with `false`, to SIG_DFL.
pub fn set_signal_ignored(signal: i32, ignored: bool) {
    // SAFETY: plain old data; all zeroes is valid, and neither disposition runs code of ours.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: `action` is live; a null old action is allowed.
    let _ = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
}

/// Descriptors 0, 1 and 2.
pub fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: cgrove opens whatever of these is closed before anything else and never closes
    // them; a closed one would only make the caller's call fail with EBADF.
    [0, 1, 2].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes ownership of a descriptor that the kernel has just handed over, as with SCM_RIGHTS.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass descriptors fresh from recvmsg(2), or of a process that was forked
    // and never touches the owner it has copied: nothing else owns them.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor from 3 up that is not in `kept`, which is sorted (close_range(2)).
/// Those descriptors must not be used any more: an owner of one may neither read, write nor close
/// it.
pub(crate) fn close_all_but(kept: &[RawFd]) {
    if !close_ranges_but(kept) {
        // Before Linux 5.9, or behind a filter that does not know the call.
        let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
        let open = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let open: Vec<RawFd> = open.collect();
        for fd in open.into_iter().filter(|fd| *fd >= 3 && !kept.contains(fd)) {
            // SAFETY: integers only. That nobody uses what is closed is the caller's promise.
            unsafe { libc::close(fd) };
        }
    }
}

/// `false`: there is no such call.
fn close_ranges_but(kept: &[RawFd]) -> bool {
    let mut from: RawFd = 3;
    let ends = kept.iter().map(|fd| fd - 1).chain([RawFd::MAX]);
    for to in ends {
        if from <= to {
            // SAFETY: integers only. That nobody uses what is closed is the caller's promise.
            let got = unsafe {
                libc::syscall(libc::SYS_close_range, from as c_long, to as c_long, 0 as c_long)
            };
            if got != 0 {
                return false;
            }
        }
        from = from.max(to.saturating_add(2));
    }
    true
}

/// dup2(2): makes one of the standard streams refer to what `fd` does.
pub(crate) fn replace_stream(stream: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: integers only; the callers pass one of descriptors 0 to 2, which nobody owns.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), stream.as_raw_fd()) }).map(drop)
}

/// Every resource limit of this process: number, soft, hard (getrlimit(2)).
pub(crate) fn resource_limits() -> Vec<(u32, u64, u64)> {
    let mut limits = Vec::new();
    for resource in 0..RESOURCES {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is live and writable.
        if unsafe { libc::getrlimit(resource as _, &mut limit) } == 0 {
            limits.push((resource, limit.rlim_cur, limit.rlim_max));
        }
    }
    limits
}

/// Linux numbers them without gaps.
const RESOURCES: u32 = 16;

/// Sets resource limits as far as that is allowed: one that may not be raised stays as high as it
/// is.
pub(crate) fn set_resource_limits(limits: &[(u32, u64, u64)]) {
    let own = resource_limits();
    for &(resource, soft, hard) in limits {
        let set = |soft, hard| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: `limit` is live.
            unsafe { libc::setrlimit(resource as _, &limit) == 0 }
        };
        let highest = own.iter().find(|(of, ..)| *of == resource).map_or(0, |(.., hard)| *hard);
        if !set(soft, hard) {
            set(soft.min(highest), highest);
        }
    }
}

/// Allows this process as many descriptors as it may have.
pub(crate) fn raise_descriptor_limit() {
    let own = resource_limits().into_iter();
    let own = own.filter(|(resource, ..)| *resource == libc::RLIMIT_NOFILE);
    let raised: Vec<(u32, u64, u64)> = own.map(|(it, _, hard)| (it, hard, hard)).collect();
    set_resource_limits(&raised);
}

/// getpriority(2) of this process.
pub(crate) fn niceness() -> i32 {
    // SAFETY: integers only. For the calling process it cannot fail.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// setpriority(2) of this process, if that is allowed.
pub(crate) fn set_niceness(nice: i32) {
    // SAFETY: integers only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Whether a descriptor is a socket of the kind that [`crate::wire`] makes.
pub(crate) fn is_packet_socket(fd: BorrowedFd<'_>) -> bool {
    use nix::sys::socket::{AddressFamily, SockType, getsockopt, sockopt};
    let kind = getsockopt(&fd, sockopt::SockType);
    let family = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(fd.as_raw_fd());
    use nix::sys::socket::SockaddrLike;
    kind == Ok(SockType::SeqPacket)
        && family.is_ok_and(|name| name.family() == Some(AddressFamily::Unix))
}

/// Blocks every signal that can be blocked and returns the mask in force before.
pub fn block_all_signals() -> Result<SigSet, Errno> {
    SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)
}

/// execvpe(3): returns only the error. `argv` must not be empty.
pub fn exec(argv: &[&CStr], environment: &[CString]) -> Errno {
    let Some(file) = argv.first() else {
        return Errno::EINVAL;
    };
    let result: Result<Infallible, Errno> = nix::unistd::execvpe(file, argv, environment);
    match result {
        Err(errno) => errno,
        Ok(never) => match never {},
    }
}

/// getdents64(2) into `buf`; 0 at the end of the directory.
pub fn getdents(dir: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
    let got = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_raw_fd() as c_long,
            buf.as_mut_ptr(),
            buf.len() as c_long,
        )
    };
    Errno::result(got).map(|n| usize::try_from(n).unwrap_or(0))
}

/// The clock ticks per second that `/proc/PID/stat` counts CPU time in.
pub fn clock_ticks_per_second() -> u64 {
    // SAFETY: no preconditions.
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(hz).ok().filter(|&hz| hz > 0).unwrap_or(100)
}

/// The CPU time that a process has used, all its threads and those that have ended included, in
/// nanoseconds. A zombie's can be read, and no permission is needed. EINVAL: there is no such process.
pub(crate) fn cpu_clock(pid: RawPid) -> Result<u64, Errno> {
    // As clock_getcpuclockid(3) makes it: CPUCLOCK_SCHED of a process.
    let clock = nix::time::ClockId::from_raw((!pid << 3) | 2);
    let time = nix::time::clock_gettime(clock)?;
    let (seconds, nanos) = (time.tv_sec(), time.tv_nsec());
    Ok(u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanos).unwrap_or(0))
}

/// The CPUs that a thread may run on, ascending; 0 is the calling one.
pub(crate) fn cpus_of(tid: RawPid) -> Result<Vec<u32>, Errno> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(tid))?;
    let set = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    Ok((0..nix::sched::CpuSet::count()).filter(set).filter_map(|cpu| cpu.try_into().ok()).collect())
}

/// Lets a thread run on these CPUs alone; 0 is the calling one.
pub(crate) fn set_cpus_of(tid: RawPid, cpus: impl Iterator<Item = u32>) -> Result<(), Errno> {
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus {
        // What lies beyond the set's size no task here may run on.
        let _ = usize::try_from(cpu).map(|cpu| set.set(cpu));
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(tid), &set)
}

/// The nice value of a thread.
pub(crate) fn nice_of(tid: RawPid) -> Result<i32, Errno> {
    let id = libc::id_t::try_from(tid).map_err(|_| Errno::EINVAL)?;
    // The library's wrapper can return -1 as a value: errno tells.
    Errno::clear();
    // SAFETY: integers only.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, id) };
    match (nice, Errno::last()) {
        (-1, errno) if errno != Errno::UnknownErrno => Err(errno),
        (nice, _) => Ok(nice),
    }
}

/// Sets the nice value of a thread. EACCES: it would be lowered, without the right to.
pub(crate) fn set_nice_of(tid: RawPid, nice: i32) -> Result<(), Errno> {
    let id = libc::id_t::try_from(tid).map_err(|_| Errno::EINVAL)?;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, id, nice) }).map(drop)
}

/// The most memory that this process ever had, in bytes.
pub(crate) fn own_max_rss() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let kib = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss());
    u64::try_from(kib).unwrap_or(0).saturating_mul(1024)
}

/// The bytes in a page.
pub(crate) fn page_size() -> u64 {
    // SAFETY: no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|&size| size > 0).unwrap_or(4096)
}

/// PTRACE_SEIZE: the calling thread becomes the tracer of `tid`, which notices nothing. `options`
/// are PTRACE_O_*.
///
/// EPERM: somebody else traces it, or this one may not (credentials, `dumpable`, Yama, a filter);
/// ESRCH: there is no such thread; EINTR: it was in execve(2) for too long.
pub fn ptrace_seize(tid: RawPid, options: c_int, _: &Impatient) -> Result<(), Errno> {
    // SAFETY: integers only: SEIZE takes no address, and options as data.
    let got = unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid, 0 as c_long, c_long::from(options)) };
    Errno::result(got).map(drop)
}

/// While it lives, a PTRACE_SEIZE that waits is given up with EINTR.
///
/// The kernel lets a signal interrupt that wait, and then begins the call anew without telling
/// (ERESTARTNOINTR). So a timer's handler looks whether it came out of that very call, which the
/// thread is about to make again, and steps over it. On other architectures nothing is given up.
pub struct Impatient {
    before: SigSet,
}

/// After how many microseconds.
const IMPATIENCE: libc::suseconds_t = 10_000;

impl Impatient {
    /// SIGALRM and ITIMER_REAL are this one's; every other thread blocks SIGALRM.
    #[must_use]
    pub fn begin() -> Impatient {
        // SAFETY: plain old data; all zeroes is valid.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = step_over as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: `action` is live, and its handler touches nothing but its arguments.
        unsafe { libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) };
        if !mutant::is(Mutant::SeizeWaits) {
            set_timer(IMPATIENCE);
        }
        let mut alarm = SigSet::empty();
        alarm.add(nix::sys::signal::Signal::SIGALRM);
        let how = nix::sys::signal::SigmaskHow::SIG_UNBLOCK;
        let before = alarm.thread_swap_mask(how).unwrap_or_else(|_| SigSet::all());
        Impatient { before }
    }
}

impl Drop for Impatient {
    fn drop(&mut self) {
        set_timer(0);
        let _ = self.before.thread_set_mask();
        // Takes one that is pending away too.
        set_signal_ignored(libc::SIGALRM, true);
    }
}

/// Again and again, until it is set to 0.
fn set_timer(microseconds: libc::suseconds_t) {
    let period = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: period, it_value: period };
    // SAFETY: `timer` is live; a null old value is allowed.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) };
}

extern "C" fn step_over(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes the interrupted thread's context, which is this
    // handler's to change. Its program counter points to code that was about to run, and so can be
    // read as far as one instruction goes.
    unsafe {
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        #[cfg(target_arch = "x86_64")]
        {
            const SYSCALL: [u8; 2] = [0x0f, 0x05];
            let gregs = &mut machine.gregs;
            let at = gregs[libc::REG_RIP as usize] as *const [u8; 2];
            if gregs[libc::REG_RAX as usize] == libc::SYS_ptrace
                && gregs[libc::REG_RDI as usize] == i64::from(libc::PTRACE_SEIZE)
                && at.read_unaligned() == SYSCALL
            {
                gregs[libc::REG_RIP as usize] += SYSCALL.len() as i64;
                gregs[libc::REG_RAX as usize] = -i64::from(libc::EINTR);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            const SVC: u32 = 0xd400_0001;
            if machine.regs[8] == libc::SYS_ptrace as u64
                && machine.regs[0] == u64::from(libc::PTRACE_SEIZE.unsigned_abs())
                && (machine.pc as *const u32).read_unaligned() == SVC
            {
                machine.pc += 4;
                machine.regs[0] = (-i64::from(libc::EINTR)) as u64;
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = machine;
    }
}

/// PTRACE_INTERRUPT: the seized thread is to stop as soon as it is about to run in user mode.
pub fn ptrace_interrupt(tid: RawPid) -> Result<(), Errno> {
    // SAFETY: integers only, as above.
    let got = unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0 as c_long, 0 as c_long) };
    Errno::result(got).map(drop)
}

/// PTRACE_DETACH: the thread, in a ptrace-stop, goes on, and takes `signal` first if that is not
/// 0. ESRCH: it is not in a ptrace-stop, or was killed.
pub fn ptrace_detach(tid: RawPid, signal: i32) -> Result<(), Errno> {
    // SAFETY: integers only, as above.
    let got = unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0 as c_long, c_long::from(signal)) };
    Errno::result(got).map(drop)
}

/// PTRACE_CONT: the thread, in a ptrace-stop, goes on, and takes `signal` first if that is not 0.
/// ESRCH: it is not in a ptrace-stop, or was killed.
pub(crate) fn ptrace_cont(tid: RawPid, signal: i32) -> Result<(), Errno> {
    // SAFETY: integers only, as above.
    let got = unsafe { libc::ptrace(libc::PTRACE_CONT, tid, 0 as c_long, c_long::from(signal)) };
    Errno::result(got).map(drop)
}

/// PTRACE_LISTEN: the thread, in a group-stop, stays stopped, and SIGCONT is told. ESRCH as above.
pub(crate) fn ptrace_listen(tid: RawPid) -> Result<(), Errno> {
    // SAFETY: integers only, as above.
    let got = unsafe { libc::ptrace(libc::PTRACE_LISTEN, tid, 0 as c_long, 0 as c_long) };
    Errno::result(got).map(drop)
}

/// The system call that a filter sent to the tracer: its architecture (AUDIT_ARCH_*), number and
/// arguments. PTRACE_GET_SYSCALL_INFO (Linux 5.3); EINVAL if that is not where the thread stands,
/// EIO before that version.
pub(crate) fn ptrace_asked(tid: RawPid) -> Result<(u32, i32, [u64; 6]), Errno> {
    // SAFETY: plain old data for which all zeroes is valid.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to `info`, which is live.
    let got =
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size as c_long, &raw mut info) };
    Errno::result(got)?;
    if info.op != libc::PTRACE_SYSCALL_INFO_SECCOMP {
        return Err(Errno::EINVAL);
    }
    // SAFETY: with this `op` the kernel filled that member in.
    let call = unsafe { info.u.seccomp };
    Ok((info.arch, call.nr as i32, call.args))
}

/// PTRACE_GETEVENTMSG: what the latest event of a stopped tracee says, an id mostly.
pub(crate) fn ptrace_message(tid: RawPid) -> Result<u64, Errno> {
    nix::sys::ptrace::getevent(nix::unistd::Pid::from_raw(tid))
        .map(|message| u64::try_from(message).unwrap_or(0))
}

/// Keeps the system call from running that a filter sent to the tracer: it returns `value`, an errno
/// if negative. EOPNOTSUPP: not known how, on this architecture.
pub(crate) fn ptrace_answer(tid: RawPid, value: i64) -> Result<(), Errno> {
    #[cfg(target_arch = "x86_64")]
    {
        let pid = nix::unistd::Pid::from_raw(tid);
        let mut regs = nix::sys::ptrace::getregs(pid)?;
        // A number that no call has: the kernel skips it, and leaves the result alone.
        regs.orig_rax = u64::MAX;
        regs.rax = value as u64;
        nix::sys::ptrace::setregs(pid, regs)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (tid, value);
        Err(Errno::EOPNOTSUPP)
    }
}

/// Changes the first argument of the system call that a filter sent to the tracer. `compat`: of a
/// 32-bit call.
pub(crate) fn ptrace_set_argument(tid: RawPid, compat: bool, value: u64) -> Result<(), Errno> {
    #[cfg(target_arch = "x86_64")]
    {
        let pid = nix::unistd::Pid::from_raw(tid);
        let mut regs = nix::sys::ptrace::getregs(pid)?;
        *if compat { &mut regs.rbx } else { &mut regs.rdi } = value;
        nix::sys::ptrace::setregs(pid, regs)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (tid, compat, value);
        Err(Errno::EOPNOTSUPP)
    }
}

/// A ptrace-stop: what the tracer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceStop {
    /// SIGTRAP, or the signal of a group-stop or of a delivery.
    pub signal: i32,
    /// PTRACE_EVENT_*; 0 for the delivery of a signal.
    pub event: i32,
}

impl TraceStop {
    fn of(status: c_int) -> TraceStop {
        TraceStop { signal: status & 0xff, event: status >> 8 }
    }
}

/// What a look at children and tracees found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked {
    /// It ended.
    Ended,
    /// It stopped, as a child or as a tracee.
    Stopped,
}

/// waitid(2) for one tracee's next ptrace-stop, without blocking, and without taking an end. One
/// tid is found at once, while a wait for any tracee looks at all of them. ECHILD: not traced.
pub fn wait_trace_stop(tid: RawPid) -> Result<Option<TraceStop>, Errno> {
    let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
    Ok(waitid(libc::P_PID, tid, options)?.map(|info| TraceStop::of(info.status)))
}

/// waitid(2) for any child or tracee, without blocking and without taking anything.
pub(crate) fn peek_any() -> Result<Option<(RawPid, Peeked)>, Errno> {
    peek(0)
}

/// The same of those whose parent or tracer is the calling thread: what other threads wait for is not
/// seen. ECHILD: it has none.
pub fn peek_own() -> Result<Option<(RawPid, Peeked)>, Errno> {
    peek(libc::__WNOTHREAD)
}

fn peek(more: c_int) -> Result<Option<(RawPid, Peeked)>, Errno> {
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::WNOHANG | libc::__WALL;
    let options = options | more;
    Ok(waitid(libc::P_ALL, 0, options)?.map(|info| {
        let stopped = matches!(info.code, libc::CLD_STOPPED | libc::CLD_TRAPPED);
        (info.pid, if stopped { Peeked::Stopped } else { Peeked::Ended })
    }))
}

/// What [`take_continued`] took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continued {
    /// That.
    Taken,
    /// A ptrace-stop came in between.
    Stopped(TraceStop),
}

/// Takes the news that `child` was continued, if there is any: without looking at other children.
///
/// Whatever a wait asks for, the kernel has it take the stop of a tracee too (`wait_task_stopped`),
/// which would be told to nobody then. So it looks first; a stop that comes after that is handed on.
pub(crate) fn take_continued(child: RawPid) -> Option<Continued> {
    let options = libc::WCONTINUED | libc::WNOHANG | libc::__WALL;
    let look = |options| waitid(libc::P_PID, child, options).ok().flatten();
    look(options | libc::WNOWAIT).filter(|info| info.code == libc::CLD_CONTINUED)?;
    let taken = look(options)?;
    Some(match taken.code {
        libc::CLD_CONTINUED => Continued::Taken,
        _ => Continued::Stopped(TraceStop::of(taken.status)),
    })
}

/// wait4(2) for this child or tracee, without blocking.
pub fn wait_for(pid: RawPid) -> Result<Option<Waited>, Errno> {
    wait4(pid, libc::WNOHANG | libc::WUNTRACED | libc::__WALL)
}

struct WaitInfo {
    pid: RawPid,
    code: c_int,
    status: c_int,
}

fn waitid(which: libc::idtype_t, pid: RawPid, options: c_int) -> Result<Option<WaitInfo>, Errno> {
    let id = libc::id_t::try_from(pid).map_err(|_| Errno::EINVAL)?;
    // SAFETY: plain old data for which all zeroes is valid; it reads as "nothing happened".
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is live and writable.
    Errno::result(unsafe { libc::waitid(which, id, &mut info, options) })?;
    // SAFETY: waitid fills in the fields of a SIGCHLD, or leaves zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(WaitInfo { pid, code: info.si_code, status }))
}
