//! The system calls that no safe wrapper covers: all unsafe code of this crate.
//!
//! The guard's life after the fork is here too, because of what it may not do: the process was
//! copied in the middle of whatever its other threads did, so it calls the kernel and nothing else,
//! no allocator above all.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io::IoSliceMut;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

use crate::mutant::{Mutant, broken};

/// A mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MountId {
    /// Never another mount's, where the kernel has such numbers (Linux 6.8). Else it is the number
    /// in `mountinfo`, which comes back once the mount is gone.
    pub(crate) id: u64,
    /// Its device's number, major in the upper half, which comes back likewise.
    pub(crate) device: u64,
}

/// The number of a mount that never comes back (libc has no name for it yet).
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// The mount that a path leads to. A FUSE server is not asked, so this does not wait for one that is
/// dead or slow.
pub(crate) fn mount_at(path: &CStr) -> Result<MountId, Errno> {
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `path` is a C string, and statx(2) writes at most one `statx` to `found`.
    let done =
        unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, found.as_mut_ptr()) };
    if done < 0 {
        return Err(Errno::last());
    }
    // SAFETY: every bit pattern is a `statx`, and the bytes were zeroed.
    let found = unsafe { found.assume_init() };
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    let id = if broken(Mutant::GuardByDevice) { device } else { found.stx_mnt_id };
    Ok(MountId { id, device })
}

/// Whether a text matches a pattern of fnmatch(3), in which `*` matches `/` too.
pub(crate) fn matches(pattern: &CStr, text: &CStr) -> bool {
    // SAFETY: both are C strings, which fnmatch(3) only reads.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}

/// The descriptor that comes with a message; `None` if the other side hangs up instead.
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0];
    let mut room = nix::cmsg_space!(c_int);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let [descriptor, ..] = descriptors[..]
        {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            // There is room for one, so no other can have come along.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    Ok(None)
}

/// PIDFD_THREAD (libc has no name for it yet).
const PIDFD_THREAD: c_int = libc::O_EXCL;

/// A descriptor that is readable once a thread of this process has ended; before Linux 6.9, once the
/// whole process has; before 5.3 there is none.
pub(crate) fn thread_pidfd(tid: Pid) -> Result<Option<OwnedFd>, Errno> {
    let open = |id: c_int, flags: c_int| {
        // SAFETY: pidfd_open(2) touches no memory.
        Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })
    };
    let opened = match open(tid.as_raw(), PIDFD_THREAD) {
        Ok(opened) if !broken(Mutant::GuardOfProcess) => Ok(opened),
        Err(errno) if errno != Errno::EINVAL => Err(errno),
        _ => open(Pid::this().as_raw(), 0),
    };
    let opened = match opened {
        Err(Errno::ENOSYS) => return Ok(None),
        opened => c_int::try_from(opened?).map_err(|_| Errno::EBADF)?,
    };
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(opened) }))
}

/// What the guard has to know, made before it is forked.
pub(crate) struct Plan {
    pub(crate) path: CString,
    /// The mount that this was in.
    pub(crate) before: MountId,
    /// The program that unmounts for who may not, and its arguments, its own name first.
    pub(crate) helper: Option<(CString, Vec<CString>)>,
    /// For a known-wrong variant: it stays in the group of the server.
    pub(crate) stays: bool,
}

/// Said to the guard instead of a mount's number: its work is done.
pub(crate) const DISMISSED: u64 = u64::MAX;

/// Forks the guard; returns its pid. `orders` and `server` are the descriptors that it keeps.
///
/// The child does not announce its end with SIGCHLD, and is waited for by nobody who does not ask
/// for it (`__WALL`): whose process this is need not know of it.
pub(crate) fn fork_guard(
    plan: &Plan,
    orders: BorrowedFd<'_>,
    server: Option<BorrowedFd<'_>>,
) -> Result<c_int, Errno> {
    let mut args: Vec<*const c_char> = Vec::new();
    if let Some((_, words)) = &plan.helper {
        args.extend(words.iter().map(|word| word.as_ptr()));
    }
    args.push(ptr::null());
    let none: c_long = 0;
    // SAFETY: clone(2) without flags and without a stack is fork(2). The child calls `guard`, which
    // never returns and does nothing but system calls on memory that was made before.
    match unsafe { libc::syscall(libc::SYS_clone, none, none, none, none, none) } {
        0 => guard(plan, &args, orders.as_raw_fd(), server.map_or(-1, |fd| fd.as_raw_fd())),
        pid => c_int::try_from(Errno::result(pid)?).map_err(|_| Errno::EINVAL),
    }
}

/// The guard: waits for an order or for the end of the server, and unmounts.
///
/// `server` may be -1, for a kernel without pidfds: then the pipe alone tells.
fn guard(plan: &Plan, args: &[*const c_char], orders: c_int, server: c_int) -> ! {
    // SAFETY: system calls on descriptors of this process and on memory that outlives them; see the
    // module's text for why nothing else is called. None of the results can be used to do better.
    unsafe {
        // What ends the server's process group, session or terminal does not end the guard.
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::memset(all.as_mut_ptr().cast(), 0xff, mem::size_of::<libc::sigset_t>());
        libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut());
        if !plan.stays {
            libc::setsid();
        }
        libc::prctl(libc::PR_SET_NAME, c"cgrove-guard".as_ptr());
        libc::chdir(c"/".as_ptr());
        // It holds nothing of the server's: not what it serves, not whom it writes to. No descriptor
        // is made for that, as there may be none left.
        let (low, high) = (orders.min(server), orders.max(server));
        close_from(0, low - 1);
        close_from(low + 1, high - 1);
        close_from(high + 1, c_int::MAX);
        let said = await_end(orders, server);
        let now = mount_at(&plan.path);
        let ours = match said {
            Some(id) => now.is_ok_and(|now| now.id == id),
            // It ended while it mounted. What has appeared there is ours if nobody serves it.
            None => {
                let mut status = MaybeUninit::<libc::stat>::zeroed();
                now.is_ok_and(|now| now != plan.before)
                    && libc::stat(plan.path.as_ptr(), status.as_mut_ptr()) < 0
                    && Errno::last() == Errno::ENOTCONN
            }
        };
        if ours
            && libc::umount2(plan.path.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) < 0
            && let Some((helper, _)) = &plan.helper
        {
            // It unmounts, and cuts nobody off who waits.
            abort(now.map_or(0, |now| now.device));
            // The helper gets the streams and signals that programs expect.
            libc::close(orders);
            while (0..2).contains(&libc::open(c"/dev/null".as_ptr(), libc::O_RDWR)) {}
            let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigprocmask(libc::SIG_SETMASK, none.as_mut_ptr(), ptr::null_mut());
            let nothing: [*const c_char; 1] = [ptr::null()];
            libc::execve(helper.as_ptr(), args.as_ptr(), nothing.as_ptr());
        }
        libc::_exit(0)
    }
}

/// Cuts a connection by the file that the user who mounted it may write, where that file system is
/// mounted (fuse.rst, "Control filesystem").
fn abort(device: u64) {
    let [before, after] = [&b"/sys/fs/fuse/connections/"[..], &b"/abort\0"[..]];
    let mut path = [0_u8; 64];
    let mut len = before.len();
    path[..len].copy_from_slice(before);
    // The name is the device's minor number (its major is 0), in decimal.
    let minor = device & 0xffff_ffff;
    let mut unit = 1;
    while minor / unit >= 10 {
        unit *= 10;
    }
    while unit > 0 {
        path[len] = b'0' + (minor / unit % 10) as u8;
        len += 1;
        unit /= 10;
    }
    path[len..len + after.len()].copy_from_slice(after);
    // SAFETY: `path` ends with a NUL, and write(2) reads one byte of a constant.
    unsafe {
        let file = libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, b"1".as_ptr().cast(), 1);
            libc::close(file);
        }
    }
}

/// Closes the descriptors from one to another.
fn close_from(first: c_int, last: c_int) {
    if first > last || last < 0 {
        return;
    }
    // SAFETY: integers only, and nothing in this process uses them any more.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first.max(0), last, 0) == 0 {
            return;
        }
        // Linux 5.8 and older.
        let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr());
        let above = c_int::try_from(limit.assume_init().rlim_cur).unwrap_or(1 << 20).min(1 << 20);
        for fd in first.max(0)..=last.min(above) {
            libc::close(fd);
        }
    }
}

/// How long a helper that was mounting when the server was killed may go on, in milliseconds.
const HELPER_PATIENCE: c_int = 10_000;

/// Waits until the server is gone; the mount that it had said it serves. Ends the guard if it is
/// dismissed.
fn await_end(orders: c_int, server: c_int) -> Option<u64> {
    let mut id = None;
    let mut is_gone = false;
    loop {
        let of = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut both = [of(orders), of(if is_gone { -1 } else { server })];
        let patience = if is_gone { HELPER_PATIENCE } else { -1 };
        // SAFETY: `both` holds two entries.
        let ready = unsafe { libc::poll(both.as_mut_ptr(), 2, patience) };
        if ready < 0 {
            continue;
        }
        if both[0].revents != 0 {
            let mut order = [0_u8; mem::size_of::<u64>()];
            // SAFETY: read(2) writes at most the length of `order` to it.
            let got = unsafe { libc::read(orders, order.as_mut_ptr().cast(), order.len()) };
            match (usize::try_from(got), u64::from_ne_bytes(order)) {
                // SAFETY: no preconditions; does not return.
                (Ok(8), DISMISSED) => unsafe { libc::_exit(0) },
                (Ok(8), said) => id = Some(said),
                // Nobody has the other end any more.
                _ => return id,
            }
        } else if id.is_some() || is_gone {
            return id;
        } else {
            // It was killed while it mounted. A helper has the other end of the pipe, too, and
            // until it closes that it may mount yet.
            is_gone = true;
        }
    }
}
