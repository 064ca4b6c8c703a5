//! The door of a live run: a socket through which its files are read and written from outside.
//!
//! A run has no mount, so others of the same user come in here: `cgrove get`, `set`, `ls`, `tree`.
//! The supervisor has one thread and a tree that waits for its answers, so nobody at the door may
//! ever hold it up. There are no connections: a request is one datagram, which carries the socket
//! that its answer goes to; what cannot be taken at once is dropped, and the asker sees the end.
//!
//! The socket lies in a folder that only its owner can enter and has mode 0600; the kernel vouches
//! for the asker's uid with every datagram (unix(7), SCM_CREDENTIALS), and it must be the owner's or
//! root's.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, renameat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, bind, connect, recv, recvmsg, send, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use serde::{Deserialize, Serialize};

use crate::error::HostError;
use crate::sys;
use crate::wire;

/// A request has to fit one datagram.
const MAX_REQUEST: usize = 64 * 1024;
/// At most this much of a file is answered at a time; the asker comes back for more.
pub const CHUNK: usize = 64 * 1024;
/// How long an asker waits: the supervisor answers within microseconds, unless it was stopped.
const PATIENCE_MS: u16 = 5000;
/// How a run's socket is called behind its name.
const SUFFIX: &str = ".run";

/// What somebody outside wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The names in a cgroup's directory: cgroups end in a slash.
    List {
        /// Below the run's own cgroup; empty is that one.
        path: String,
    },
    /// A file's content, from this byte on.
    Get {
        /// The cgroup.
        path: String,
        /// The interface file.
        file: String,
        /// Where to start.
        offset: u64,
    },
    /// Writes a file.
    Set {
        /// The cgroup.
        path: String,
        /// The interface file.
        file: String,
        /// As write(2) would get it.
        value: Vec<u8>,
    },
}

/// What comes back: text, or an errno's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub Result<Vec<u8>, i32>);

/// A request at the door.
pub(crate) struct Knock {
    pub(crate) request: Request,
    reply: OwnedFd,
}

impl Knock {
    /// Answers; an asker that does not take it at once is left without.
    pub(crate) fn answer(self, result: Result<Vec<u8>, Errno>) {
        let reply = Reply(result.map_err(|errno| errno as i32));
        if let Ok(bytes) = serde_json::to_vec(&reply) {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let _ = send(self.reply.as_raw_fd(), &bytes, flags);
        }
    }
}

/// The run's side.
#[derive(Debug)]
pub(crate) struct Door {
    socket: OwnedFd,
    folder: OwnedFd,
    file: String,
}

impl Door {
    /// Opens the door of the run `name`. EEXIST: a run of that name lives. Other errnos: this place
    /// has no folder for it.
    pub(crate) fn open(name: &str) -> Result<Door, Errno> {
        let folder = folder(true)?;
        let file = format!("{name}{SUFFIX}");
        if lives(&folder, &file) {
            return Err(Errno::EEXIST);
        }
        let socket = datagram()?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        // Under a name of its own first, so that nobody finds it half made.
        let fresh = format!("{}.new", std::process::id());
        let at = address(&folder, &fresh)?;
        // bind(2) makes the file with this mask: 0600.
        let mask = umask(Mode::from_bits_truncate(0o177));
        let mut bound = bind(socket.as_raw_fd(), &at);
        if bound == Err(Errno::EADDRINUSE) {
            // Left by one that was killed right here and had our pid.
            let _ = unlinkat(&folder, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
            bound = bind(socket.as_raw_fd(), &at);
        }
        umask(mask);
        bound?;
        // Over what a run that was killed left behind.
        renameat(&folder, fresh.as_str(), &folder, file.as_str())?;
        Ok(Door { socket, folder, file })
    }

    /// The next request, if one waits. Whoever has no right to ask gets no answer.
    pub(crate) fn knock(&self) -> Option<Knock> {
        let mut buf = vec![0; MAX_REQUEST];
        let mut space = nix::cmsg_space!(UnixCredentials, [RawFd; 1]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let (mut uid, mut reply) = (None, None);
        let len = {
            let mut iov = [IoSliceMut::new(&mut buf)];
            let fd = self.socket.as_raw_fd();
            let message = recvmsg::<UnixAddr>(fd, &mut iov, Some(&mut space), flags).ok()?;
            for item in message.cmsgs().ok()? {
                match item {
                    ControlMessageOwned::ScmCredentials(who) => uid = Some(who.uid()),
                    ControlMessageOwned::ScmRights(fds) => {
                        // All of them are ours now, and closed but for one.
                        for fd in fds {
                            reply = Some(sys::own(fd));
                        }
                    }
                    _ => {}
                }
            }
            message.bytes
        };
        // Whoever may signal the run's processes may change its files.
        uid.filter(|&uid| uid == 0 || uid == geteuid().as_raw())?;
        let request = serde_json::from_slice(buf.get(..len)?).ok()?;
        Some(Knock { request, reply: reply? })
    }

    /// Both descriptors.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.folder.as_fd()]
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = unlinkat(&self.folder, self.file.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Removes the door that a supervisor which was killed could not take away.
pub(crate) fn remove(name: &str) {
    let file = format!("{name}{SUFFIX}");
    if let Ok(folder) = folder(false)
        && !lives(&folder, &file)
    {
        let _ = unlinkat(&folder, file.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// The names of this user's live runs, sorted.
pub fn runs() -> Result<Vec<String>, HostError> {
    let path = folder_path();
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(HostError::new(
                format_args!("cannot list {}", path.display()),
                error,
                "check the folder's owner and mode",
            ));
        }
    };
    let folder = folder(false).map_err(no_folder)?;
    let name = |file: &OsStr| Some(file.to_str()?.strip_suffix(SUFFIX)?.to_owned());
    let files = entries.filter_map(|entry| name(&entry.ok()?.file_name()));
    let mut live: Vec<String> =
        files.filter(|name| lives(&folder, &format!("{name}{SUFFIX}"))).collect();
    live.sort();
    Ok(live)
}

/// Asks the run `name`. The outer error says that nobody answers; the inner one is the answer.
pub fn ask(name: &str, request: &Request) -> Result<Result<Vec<u8>, Errno>, HostError> {
    let nobody = |why: &str| {
        HostError::new(
            format_args!("cannot ask run {name}"),
            why,
            "`cgrove tree` lists the runs of this user",
        )
    };
    let socket = folder(false)
        .and_then(|folder| address(&folder, &format!("{name}{SUFFIX}")).map(|at| (folder, at)))
        .and_then(|(_folder, at)| {
            let socket = datagram()?;
            connect(socket.as_raw_fd(), &at)?;
            Ok(socket)
        })
        .map_err(|errno| match errno {
            Errno::ENOENT | Errno::ECONNREFUSED => nobody("there is no such run (ENOENT)"),
            other => nobody(&format!("{} ({other:?})", other.desc())),
        })?;
    let failed = |errno: Errno| nobody(&format!("{} ({errno:?})", errno.desc()));
    let (ours, theirs) = wire::pair().map_err(failed)?;
    let bytes = serde_json::to_vec(request).map_err(|_| failed(Errno::EINVAL))?;
    if bytes.len() > MAX_REQUEST {
        return Ok(Err(Errno::E2BIG));
    }
    let fds = [theirs.as_raw_fd()];
    let iov = [IoSlice::new(&bytes)];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .map_err(failed)?;
    drop(theirs);
    let mut fds = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
        Ok(0) => return Err(nobody("it does not answer (ETIMEDOUT)")),
        Ok(_) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let mut buf = vec![0; 8 * CHUNK];
    let len = recv(ours.as_raw_fd(), &mut buf, MsgFlags::empty()).map_err(failed)?;
    match serde_json::from_slice::<Reply>(&buf[..len]) {
        Ok(Reply(result)) => Ok(result.map_err(Errno::from_raw)),
        Err(_) => Err(nobody("it gave no answer (ECONNRESET)")),
    }
}

fn no_folder(errno: Errno) -> HostError {
    HostError::new(
        format_args!("cannot use {}", folder_path().display()),
        format_args!("{} ({errno:?})", errno.desc()),
        "it must be a folder of this user with mode 0700",
    )
}

/// `$XDG_RUNTIME_DIR/cgrove` if that is a folder of this user, else `/tmp/cgrove-UID`.
fn folder_path() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let uid = geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let ours = |path: &Path| {
        path.is_absolute() && path.metadata().is_ok_and(|it| it.is_dir() && it.uid() == uid)
    };
    match runtime.filter(|path| ours(path)) {
        Some(path) => path.join("cgrove"),
        None => PathBuf::from(format!("/tmp/cgrove-{uid}")),
    }
}

/// Opens the folder, which must be this user's alone: in `/tmp` anybody could have made it.
fn folder(make: bool) -> Result<OwnedFd, Errno> {
    let path = folder_path();
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let folder = match open(&path, flags, Mode::empty()) {
        Err(Errno::ENOENT) if make => {
            // Somebody else may have made it meanwhile; opening it decides.
            let _ = DirBuilder::new().mode(0o700).create(&path);
            open(&path, flags, Mode::empty())?
        }
        other => other?,
    };
    let stat = fstat(&folder)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(Errno::EACCES);
    }
    Ok(folder)
}

/// Through the folder's descriptor, because an address is shorter than paths may be.
fn address(folder: &OwnedFd, file: &str) -> Result<UnixAddr, Errno> {
    UnixAddr::new(format!("/proc/self/fd/{}/{file}", folder.as_raw_fd()).as_str())
}

fn datagram() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

/// Whether somebody listens behind this file.
fn lives(folder: &OwnedFd, file: &str) -> bool {
    let Ok(at) = address(folder, file) else { return false };
    datagram().and_then(|socket| connect(socket.as_raw_fd(), &at)).is_ok()
}
