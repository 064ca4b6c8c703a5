//! The door of a live run: a socket through which its files are read and written from outside.
//!
//! A run has no mount, so others of the same user come in here: `cgrove get`, `set`, `ls`, `tree`.
//! The supervisor's event loop has a tree that waits for its answers, so nobody at the door may ever
//! hold it up. There are no connections: a request is one datagram, which carries the socket that
//! its answer goes to; what cannot be taken at once is dropped, and the asker sees the end.
//!
//! Whoever may send a socket may send any other descriptor, and to let go of one can take as long as
//! its maker likes: a TCP socket lingers (SO_LINGER in socket(7)), a file of a FUSE server is
//! flushed. Even a message that is thrown away unread lets go of what it carries. So messages are
//! received, and descriptors closed, by a thread of the door's own, the *porter*, which starts when
//! somebody knocks for the first time. Should it be held up nobody else gets in, and that is all.
//!
//! The socket lies in a folder that only its owner can enter and has mode 0600; the kernel vouches
//! for the asker's uid with every datagram (unix(7), SCM_CREDENTIALS), and it must be the owner's or
//! root's.

pub(crate) mod outer;

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{IoSlice, IoSliceMut};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    UnixCredentials, bind, connect, recv, recvmsg, send, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fstat, fstatat, umask};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::error::HostError;
use crate::journal::What;
use crate::ledger::Figures;
use crate::report::{Backend, Class};
use crate::resources::OfGroup;
use crate::sys::{self, RawPid};
use crate::wire;

/// A request has to fit one datagram.
const MAX_REQUEST: usize = 64 * 1024;
/// As many descriptors as a message can bring (SCM_MAX_FD in unix(7)): with room for all of them
/// none is left where it could not be closed.
const MAX_FDS: usize = 253;
/// At most this much of a file is answered at a time; the asker comes back for more.
pub const CHUNK: usize = 64 * 1024;
/// How long an asker waits: the supervisor answers within microseconds, unless it was stopped.
const PATIENCE_MS: u16 = 5000;
/// How long the end of a supervisor waits for its last answer to be sent.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// In no run's name (a cgroup's has no line break), and in that of a socket which is not open yet.
const FRESH: char = '\n';

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
    /// Freezes or thaws a cgroup; the answer to a freeze comes when it is reached, and is a
    /// [`Frozen`](crate::freezer::Frozen) in JSON.
    Freeze {
        /// The cgroup.
        path: String,
        /// Or thaw.
        freeze: bool,
    },
    /// All cgroups of the run at once, a [`Snapshot`](crate::snapshot::Snapshot) in JSON, from this
    /// byte on.
    Snapshot {
        /// Where to start.
        offset: u64,
    },
    /// In which group the asker is: its name with the run's, or nothing if it is of no group here.
    Where,
    /// The asker, a process of the run, becomes the reaper of a new group below its own. The answer
    /// is an [`Entered`] in JSON, and brings the link.
    Enter(Entry),
    /// Runs a command in a new group: see `exec.rs`. Brings the asker's directory and its
    /// streams; the answer is as for [`Request::Enter`].
    Exec {
        /// The group around.
        at: String,
        /// The new one.
        entry: Entry,
    },
    /// Makes a group that stays, without a reaper or tasks of its own.
    Make {
        /// The group around.
        at: String,
        /// The new one. The answer is as for [`Request::Enter`].
        entry: Entry,
    },
    /// Removes a group: at once if it is empty, else by killing what is in it. The answer is a
    /// `Result` with [`Busy`] in JSON, and brings a link that closes when the group is gone.
    Remove {
        /// The group.
        path: String,
        /// Whether to kill.
        kill: bool,
    },
    /// Refuses the forks of a group from now on: its reaper kills what is left.
    Shut {
        /// The group.
        path: String,
    },
    /// The group is empty, as its reaper knows: removes it. The answer is a [`Left`] in JSON.
    Leave {
        /// The group.
        path: String,
        /// The exit code of its command, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// What the group's reaper saw or did, for whoever follows.
    Tell {
        /// The group.
        path: String,
        /// In this order.
        what: Vec<What>,
    },
    /// What happens from now on in a group and those below. The answer is empty, and brings a socket
    /// of packets, each of which is a [`Happening`](crate::journal::Happening) in JSON.
    Follow {
        /// The group.
        path: String,
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

impl Request {
    /// Whether it asks for more of something.
    pub(crate) fn goes_on(&self) -> bool {
        match self {
            Request::Get { offset, .. } | Request::Snapshot { offset } => *offset > 0,
            _ => false,
        }
    }
}

/// A group to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Interface files to write before anybody is in it, in this order.
    pub files: Vec<(String, String)>,
}

/// A group that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Its path below the run's cgroup.
    pub path: String,
    /// The same with the run's name: as users write it.
    pub full: String,
    /// What holds the tree.
    pub backend: Backend,
    /// Why it is this one.
    pub backend_reason: String,
    /// Threads ask at the gate too.
    pub threads_ask: bool,
    /// The CPUs that its tasks may use, if those were chosen.
    pub cpus: Option<Vec<u32>>,
}

/// What a group's supervisor knows of it in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The ledger's figures.
    pub figures: Figures,
    /// Why CPU time is not exact, if so.
    pub cpu_note: Option<String>,
    /// How well freezes of the run held, if there were any.
    pub freeze: Option<Class>,
    /// A limit was set though threads do not ask.
    pub late_limit: bool,
    /// What it used, and its limits on memory and CPU.
    pub used: OfGroup,
}

/// A refusal to make a group: which file of it could not be written, if it was one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The file.
    pub file: Option<String>,
    /// The errno's number.
    pub errno: i32,
}

/// What keeps a group from being removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// How many tasks there are.
    pub tasks: u64,
    /// The first of them, with its command line.
    pub first: Option<(RawPid, String)>,
    /// The groups below, by name.
    pub groups: Vec<String>,
}

/// What comes back: text, or an errno's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub Result<Vec<u8>, i32>);

/// Who asks for what.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) request: Request,
    /// The asker's process as this pid namespace has it, vouched for by the kernel; 0 for one that
    /// cannot be seen from here.
    pub(crate) pid: RawPid,
    /// What came along: the socket for the answer first. The porter holds them until the answer is
    /// there; a fork made meanwhile has them too.
    pub(crate) fds: Vec<RawFd>,
}

/// What the asker gets: an answer, and a descriptor of ours with it.
type Answer = (Result<Vec<u8>, Errno>, Option<OwnedFd>);

/// A visit, and where its answer goes.
struct Knock {
    visit: Visit,
    /// The socket for the answer first.
    fds: Vec<OwnedFd>,
}

/// The run's side.
#[derive(Debug)]
pub(crate) struct Door {
    /// Never closed: what waits there unread would be let go of by whoever closes it. The end of
    /// the process does it, which waits for nobody.
    socket: ManuallyDrop<OwnedFd>,
    folder: OwnedFd,
    file: String,
    /// Which file that is, should another take its name.
    inode: Option<u64>,
    porter: Option<Porter>,
}

/// The supervisor's end of the porter. One request is under way at a time.
#[derive(Debug)]
struct Porter {
    /// A byte comes for each request; the end when the porter is gone.
    wake: OwnedFd,
    asked: Receiver<Visit>,
    answers: SyncSender<Answer>,
    /// Comes when an answer was sent.
    sent: Receiver<()>,
}

impl Door {
    /// Opens the door of the run `name`. EEXIST: a run of that name lives. Other errnos: this place
    /// has no folder for it.
    pub(crate) fn open(name: &str) -> Result<Door, Errno> {
        let folder = folder(true)?;
        let file = name.to_owned();
        if lives(&folder, &file) {
            return Err(Errno::EEXIST);
        }
        let socket = datagram()?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        // Under a name of its own first, so that nobody finds it half made.
        let fresh = format!("{FRESH}{}", std::process::id());
        let at = UnixAddr::new(in_folder(&folder, &fresh).as_str())?;
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
        // Of two that begin at the same time one gets the name. What lies there and does not live
        // is what a run that was killed left behind.
        let link = linkat(&folder, fresh.as_str(), &folder, file.as_str(), AtFlags::empty());
        let named = match link {
            Err(Errno::EEXIST) if lives(&folder, &file) => Err(Errno::EEXIST),
            Err(Errno::ENAMETOOLONG) => Err(Errno::ENAMETOOLONG),
            Err(_) => renameat(&folder, fresh.as_str(), &folder, file.as_str()),
            Ok(()) => Ok(()),
        };
        let _ = unlinkat(&folder, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
        named?;
        let inode = inode(&folder, &file);
        Ok(Door { socket: ManuallyDrop::new(socket), folder, file, inode, porter: None })
    }

    /// The next request, if there is one; it has to be [answered](Door::answer). On an error nobody
    /// comes in any more.
    pub(crate) fn knock(&mut self) -> Result<Option<Visit>, Errno> {
        let Some(porter) = &self.porter else {
            self.porter = Some(Porter::hire(&self.socket)?);
            return Ok(None);
        };
        match recv(porter.wake.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(Errno::EPIPE),
            Ok(_) => Ok(porter.asked.try_recv().ok()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Answers the last request; `pass` goes with the answer.
    pub(crate) fn answer(&self, result: Result<Vec<u8>, Errno>, pass: Option<OwnedFd>) {
        if let Some(porter) = &self.porter {
            // There is room: the porter takes an answer before it asks again.
            while porter.sent.try_recv().is_ok() {}
            let _ = porter.answers.try_send((result, pass));
        }
    }

    /// Waits until the last answer was sent, before the process ends: not for long, since whatever
    /// holds the porter up is others' doing.
    pub(crate) fn see_out(&self) {
        if let Some(porter) = &self.porter {
            let _ = porter.sent.recv_timeout(LAST_WORDS);
        }
    }

    /// Both descriptors.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.folder.as_fd()]
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if inode(&self.folder, &self.file) == self.inode {
            let _ = unlinkat(&self.folder, self.file.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// To wait on.
impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.porter.as_ref().map_or(self.socket.as_fd(), |porter| porter.wake.as_fd())
    }
}

impl Porter {
    fn hire(socket: &OwnedFd) -> Result<Porter, Errno> {
        let out_of_them = |_| Errno::EMFILE;
        let socket = ManuallyDrop::new(socket.try_clone().map_err(out_of_them)?);
        let (wake, ring) = wire::pair()?;
        let (ask, asked) = sync_channel(1);
        let (answers, answered) = sync_channel(1);
        let (send, sent) = sync_channel(1);
        // Every signal is blocked here, and so in the thread.
        std::thread::Builder::new()
            .name("cg-porter".to_owned())
            .spawn(move || attend(&socket, &ring, &ask, &answered, &send))
            .map_err(|_| Errno::EAGAIN)?;
        Ok(Porter { wake, asked, answers, sent })
    }
}

/// The porter's work. It ends when it is of no use any more.
fn attend(
    socket: &OwnedFd,
    ring: &OwnedFd,
    ask: &SyncSender<Visit>,
    answered: &Receiver<Answer>,
    sent: &SyncSender<()>,
) {
    let mut buf = vec![0; MAX_REQUEST];
    loop {
        let (visit, fds) = match receive(socket, &mut buf) {
            Ok(Some(Knock { visit, fds })) => (visit, fds),
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        if ask.send(visit).is_err() || send(ring.as_raw_fd(), b"?", MsgFlags::MSG_NOSIGNAL).is_err()
        {
            return;
        }
        let Ok((result, pass)) = answered.recv() else { return };
        if let Some(reply) = fds.first() {
            answer(reply, result, pass.as_ref());
        }
        let _ = sent.try_send(());
    }
}

/// Waits for a message; `None` if it is none that gets an answer. ENOBUFS: it came with descriptors
/// that could not be taken in, for want of numbers, some of which are ours now and cannot be told
/// apart. Once is enough.
fn receive(socket: &OwnedFd, buf: &mut [u8]) -> Result<Option<Knock>, Errno> {
    let mut space = nix::cmsg_space!(UnixCredentials, [RawFd; MAX_FDS]);
    let (mut who, mut brought) = (None, Vec::new());
    let len = {
        let mut iov = [IoSliceMut::new(buf)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
        for item in message.cmsgs()? {
            match item {
                ControlMessageOwned::ScmCredentials(it) => who = Some(it),
                ControlMessageOwned::ScmRights(fds) => {
                    // All of them are ours now, to be closed by this thread.
                    brought.extend(fds.into_iter().map(sys::own));
                }
                _ => {}
            }
        }
        message.bytes
    };
    // Whoever may signal the run's processes may change its files.
    let who = who.filter(|who| who.uid() == 0 || who.uid() == geteuid().as_raw());
    let request = buf.get(..len).and_then(|it| serde_json::from_slice(it).ok());
    let fds: Vec<RawFd> = brought.iter().map(AsRawFd::as_raw_fd).collect();
    let visit = request.zip(who).filter(|_| !brought.is_empty());
    let visit = visit.map(|(request, who)| Visit { request, pid: who.pid(), fds });
    Ok(visit.map(|visit| Knock { visit, fds: brought }))
}

/// Answers; an asker that does not take it at once is left without.
fn answer(to: &OwnedFd, result: Result<Vec<u8>, Errno>, pass: Option<&OwnedFd>) {
    if let Ok(bytes) = serde_json::to_vec(&Reply(result.map_err(|errno| errno as i32))) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let fds: Vec<RawFd> = pass.map(AsRawFd::as_raw_fd).into_iter().collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let _ = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&bytes)], rights, flags, None);
    }
}

/// Removes the door that a supervisor which was killed could not take away.
pub(crate) fn remove(name: &str) {
    if let Ok(folder) = folder(false)
        && !lives(&folder, name)
    {
        let _ = unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// The names of this user's live runs, sorted.
pub fn runs() -> Result<Vec<String>, HostError> {
    runs_in(&folder_path())
}

fn runs_in(path: &Path) -> Result<Vec<String>, HostError> {
    let entries = match std::fs::read_dir(path) {
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
    let folder = folder_at(path, false).map_err(|errno| no_folder(path, errno))?;
    let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let named = files.filter(|file| !file.contains(FRESH));
    let mut live: Vec<String> = named.filter(|name| lives(&folder, name)).collect();
    live.sort();
    Ok(live)
}

/// Asks the run `name`. The outer error says that nobody answers; the inner one is the answer.
pub fn ask(name: &str, request: &Request) -> Result<Result<Vec<u8>, Errno>, HostError> {
    ask_for(name, request).map(|(answer, _)| answer)
}

/// An answer, with the descriptor that came with it.
pub(crate) type Given = (Result<Vec<u8>, Errno>, Option<OwnedFd>);

/// As [`ask`], for answers that bring a descriptor.
pub(crate) fn ask_for(name: &str, request: &Request) -> Result<Given, HostError> {
    let (ours, theirs) = wire::pair().map_err(|e| HostError::call("cannot ask", e))?;
    ask_over(name, request, ours.as_fd(), theirs, &[])
}

/// As [`ask_for`], over this pair, whose other end is handed over with the descriptors `more`.
pub(crate) fn ask_over(
    name: &str,
    request: &Request,
    ours: BorrowedFd<'_>,
    theirs: OwnedFd,
    more: &[BorrowedFd<'_>],
) -> Result<Given, HostError> {
    let nobody = |why: &str| {
        HostError::new(
            format_args!("cannot ask run {name}"),
            why,
            "`cgrove tree` lists the runs of this user",
        )
    };
    let socket = reach_anywhere(name).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ECONNREFUSED => nobody("there is no such run (ENOENT)"),
        other => nobody(&format!("{} ({other:?})", other.desc())),
    })?;
    let failed = |errno: Errno| nobody(&format!("{} ({errno:?})", errno.desc()));
    let bytes = serde_json::to_vec(request).map_err(|_| failed(Errno::EINVAL))?;
    if bytes.len() > MAX_REQUEST {
        return Ok((Err(Errno::E2BIG), None));
    }
    // The queue may be full, and its reader stopped.
    let patience = TimeVal::milliseconds(PATIENCE_MS.into());
    setsockopt(&socket, sockopt::SendTimeout, &patience).map_err(failed)?;
    let fds: Vec<RawFd> =
        std::iter::once(theirs.as_raw_fd()).chain(more.iter().map(AsRawFd::as_raw_fd)).collect();
    let iov = [IoSlice::new(&bytes)];
    let rights = [ControlMessage::ScmRights(&fds)];
    let late = || nobody("it does not answer (ETIMEDOUT)");
    sendmsg::<()>(socket.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None)
        .map_err(|errno| if errno == Errno::EAGAIN { late() } else { failed(errno) })?;
    drop(theirs);
    let mut fds = [PollFd::new(ours, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE_MS)) {
        Ok(0) => return Err(late()),
        Ok(_) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let mut buf = vec![0; 8 * CHUNK];
    let (len, given) = wire::take(ours, &mut buf).map_err(failed)?;
    match serde_json::from_slice::<Reply>(&buf[..len]) {
        Ok(Reply(result)) => Ok((result.map_err(Errno::from_raw), given)),
        Err(_) => Err(nobody("it gave no answer (ECONNRESET)")),
    }
}

/// A socket that is connected to the run's: in this process's folder, or else in that of the
/// supervisor above it, which may have had another environment.
fn reach_anywhere(name: &str) -> Result<OwnedFd, Errno> {
    let here = folder(false).and_then(|folder| reach(&folder, name));
    match here {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => {
            let other = outer::folder_of_supervisor().ok_or(Errno::ENOENT)?;
            reach(&folder_at(&other, false)?, name)
        }
        other => other,
    }
}

fn no_folder(path: &Path, errno: Errno) -> HostError {
    HostError::new(
        format_args!("cannot use {}", path.display()),
        format_args!("{} ({errno:?})", errno.desc()),
        "it must be a folder of this user with mode 0700",
    )
}

fn folder_path() -> PathBuf {
    folder_path_with(std::env::var_os("XDG_RUNTIME_DIR"))
}

/// `$XDG_RUNTIME_DIR/cgrove` if that is a folder of this user, else `/tmp/cgrove-UID`.
fn folder_path_with(runtime: Option<OsString>) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let uid = geteuid().as_raw();
    let runtime = runtime.map(PathBuf::from);
    let ours = |path: &Path| {
        path.is_absolute() && path.metadata().is_ok_and(|it| it.is_dir() && it.uid() == uid)
    };
    match runtime.filter(|path| ours(path)) {
        Some(path) => path.join("cgrove"),
        None => PathBuf::from(format!("/tmp/cgrove-{uid}")),
    }
}

/// A folder beside that of the doors, made as that one is, for other sockets named after runs.
pub fn side_folder(kind: &str) -> Result<(PathBuf, OwnedFd), HostError> {
    let mut path = folder_path().into_os_string();
    path.push(format!("-{kind}"));
    let path = PathBuf::from(path);
    let folder = folder_at(&path, true).map_err(|errno| no_folder(&path, errno))?;
    Ok((path, folder))
}

fn folder(make: bool) -> Result<OwnedFd, Errno> {
    folder_at(&folder_path(), make)
}

/// Opens a folder, which must be this user's alone: in `/tmp` anybody could have made it.
fn folder_at(path: &Path, make: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let folder = match open(path, flags, Mode::empty()) {
        Err(Errno::ENOENT) if make => {
            // Somebody else may have made it meanwhile; opening it decides.
            let _ = DirBuilder::new().mode(0o700).create(path);
            open(path, flags, Mode::empty())?
        }
        other => other?,
    };
    let stat = fstat(&folder)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(Errno::EACCES);
    }
    Ok(folder)
}

/// A file by the folder's descriptor, because an address is shorter than paths may be.
fn in_folder(folder: &OwnedFd, file: &str) -> String {
    format!("/proc/self/fd/{}/{file}", folder.as_raw_fd())
}

/// A socket that is connected to the one behind this file. It is reached through a descriptor of its
/// own: a name of 255 bytes is longer than an address.
fn reach(folder: &OwnedFd, file: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = openat(folder, file, flags, Mode::empty())?;
    let at = UnixAddr::new(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str())?;
    let socket = datagram()?;
    connect(socket.as_raw_fd(), &at)?;
    Ok(socket)
}

/// The number of the file of this name.
fn inode(folder: &OwnedFd, file: &str) -> Option<u64> {
    Some(fstatat(folder, file, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?.st_ino)
}

fn datagram() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

/// Whether somebody listens behind this file.
fn lives(folder: &OwnedFd, file: &str) -> bool {
    reach(folder, file).is_ok()
}
