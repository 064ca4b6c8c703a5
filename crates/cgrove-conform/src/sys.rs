//! The system calls that no safe wrapper has. All unsafe code of the crate is here.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// What a child of [`clone_process`] sees, and what its parent sees.
pub enum Forked {
    /// In the child.
    Child,
    /// In the parent: the child's id.
    Parent(Pid),
}

/// Where and how a child is made.
#[derive(Clone, Copy, Default)]
pub struct CloneOptions<'fd> {
    /// Directory of the cgroup it is born in (`CLONE_INTO_CGROUP`).
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// It is the first process of a pid namespace of its own (`CLONE_NEWPID`).
    pub new_pid_namespace: bool,
}

/// Of `linux/sched.h`; the libc crate's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone_args` of `linux/sched.h`, version 2, the first with a cgroup.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `fork(2)` by way of `clone3(2)`, for what only the latter can say.
///
/// The C library's handlers do not run, so the caller must be sure that no other thread of its
/// process holds the allocator: the executor has one thread only, and an actor's other threads wait
/// for requests while one of them works, since the executor sends one request at a time.
///
/// # Errors
///
/// As for clone3(2).
pub fn clone_process(options: CloneOptions<'_>) -> Result<Forked, Errno> {
    let mut args = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if options.new_pid_namespace {
        args.flags |= libc::CLONE_NEWPID as u64;
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child runs on a copy of
    // everything, from here. `args` is a valid clone_args of the size given, and its cgroup fd is
    // borrowed for the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match Errno::result(pid)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid as i32))),
    }
}

/// Ends the calling thread and nothing else, even if it is the leader of its process.
pub fn exit_thread() -> ! {
    loop {
        // SAFETY: exit(2) has no memory arguments and does not return. What the thread owned leaks,
        // and the C library thinks that it lives on: the callers have no more use for either.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Closes every open file with a number of `first` or more.
pub fn close_from(first: RawFd) {
    // SAFETY: called in a fresh child that goes on to use the one descriptor below `first` that it
    // was made for; nothing else there owns a descriptor that it would still use.
    unsafe { libc::syscall(libc::SYS_close_range, first as u32, u32::MAX, 0) };
}

/// Takes over a descriptor that came by number: from a parent through exec, or in a message.
///
/// # Errors
///
/// EBADF if it is not open.
pub fn take_fd(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_GETFD takes no memory.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and the callers name descriptors that were made for them alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that stands for a process; readable once all its threads are dead.
///
/// # Errors
///
/// ESRCH if there is no such process.
pub fn pidfd_open(process: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory arguments.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel made it for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sets the scheduling policy of the calling thread: `SCHED_IDLE` lets every other task go first.
///
/// # Errors
///
/// As for sched_setscheduler(2).
pub fn set_idle_policy(idle: bool) -> Result<(), Errno> {
    let policy = if idle { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` is valid for the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const param) })?;
    Ok(())
}

/// Waits for signals, for ever.
pub fn pause() -> ! {
    loop {
        // SAFETY: no memory arguments.
        unsafe { libc::pause() };
    }
}

/// Makes `number` stand for what `fd` stands for, to be closed on exec. Both may be the same.
///
/// # Errors
///
/// As for dup3(2).
pub fn dup_onto(fd: &OwnedFd, number: RawFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() != number {
        // SAFETY: no memory arguments. Whatever `number` stood for belongs to a thread that is about
        // to end in an exec, or to the parent of a fresh child.
        Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) })?;
    }
    take_fd(number)
}
