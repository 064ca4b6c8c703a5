//! The messages between the processes of a run.
//!
//! Three processes talk over two sequenced-packet sockets: the front and the supervisor, and the
//! supervisor and the command before it execs. A packet is whole or absent, and the end of the
//! stream means that the other side is gone, which is itself a message. Nothing from the network
//! or from the command after exec ever gets here.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    recvmsg, send, sendmsg, shutdown, socketpair,
};

use crate::sys::RawPid;

/// A report is sent in packets of at most this many bytes: far below the smallest socket buffer.
const CHUNK: usize = 32 * 1024;

/// Until the other side has room.
const WAIT: MsgFlags = MsgFlags::empty();

/// From the supervisor to the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToFront {
    /// The command was stopped.
    Stopped {
        /// By this signal.
        signal: i32,
        /// Its pid.
        command: RawPid,
    },
    /// A piece of the report, as JSON.
    Report(Vec<u8>),
    /// That was all of it.
    Done,
    /// cgrove itself failed, in words for the user.
    Failed(String),
}

/// From the front to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToSupervisor {
    /// Pass this signal on, unless this sender belongs to the tree.
    Signal {
        /// Signal number.
        signal: i32,
        /// Who sent it, 0 if unknown.
        sender: RawPid,
    },
}

/// From the command, before exec.
#[derive(Debug)]
pub enum FromCommand {
    /// The filter is in; here is its listener.
    Listener(OwnedFd),
    /// No filter: the errno. The command goes on without if it may.
    NoGate(Errno),
    /// It waits to be traced, and for the word that it is or is not.
    TraceMe(RawPid),
    /// The filter is in that asks the tracer.
    Traced,
    /// No such filter: the errno. It goes on without if it may.
    NoTrace(Errno),
    /// exec failed.
    ExecFailed(Errno),
    /// It ends without having tried: what it is to ask could not be had, or not be handed over.
    GaveUp(Errno),
}

/// A connected pair, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends any number of bytes, in pieces.
pub(crate) fn send_all(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    bytes.chunks(CHUNK).try_for_each(|chunk| packet(to, b'P', chunk, WAIT))?;
    packet(to, b'E', &[], WAIT)
}

/// Hands a descriptor over.
pub(crate) fn hand_over(to: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let iov = [IoSlice::new(b"F")];
    sendmsg::<()>(to.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// What came of [`send_all`].
pub(crate) enum Piece {
    /// There is more.
    More,
    /// That was all.
    Last,
    /// The other side is gone.
    End,
}

/// Takes the next piece. E2BIG: it is more than `max` by now.
pub(crate) fn take_piece(
    from: BorrowedFd<'_>,
    to: &mut Vec<u8>,
    max: usize,
) -> Result<Piece, Errno> {
    let mut buf = vec![0; CHUNK + 1];
    let Some((kind, body, _)) = receive(from, &mut buf)? else { return Ok(Piece::End) };
    if to.len() + body.len() > max {
        return Err(Errno::E2BIG);
    }
    to.extend_from_slice(body);
    Ok(if kind == b'P' { Piece::More } else { Piece::Last })
}

/// A pair to tell by whether the other side lives. The first end takes nothing in: what is sent to
/// it fails with EPIPE. So nothing, a descriptor that is slow to let go of in particular, can ever
/// lie there.
pub(crate) fn link() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = pair()?;
    shutdown(ours.as_raw_fd(), Shutdown::Read)?;
    Ok((ours, theirs))
}

impl ToFront {
    /// Sends it; EPIPE when the front is gone.
    pub fn send(&self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            // A front that is stopped itself reads nothing. Rather than wait for it with the whole
            // tree waiting at the gate, leave a stop out: it has many others to read first.
            ToFront::Stopped { signal, command } => {
                match packet(to, b'S', &pair_of(*signal, *command), MsgFlags::MSG_DONTWAIT) {
                    Err(Errno::EAGAIN) => Ok(()),
                    other => other,
                }
            }
            ToFront::Report(json) => {
                json.chunks(CHUNK).try_for_each(|chunk| packet(to, b'R', chunk, WAIT))
            }
            ToFront::Done => packet(to, b'D', &[], WAIT),
            ToFront::Failed(text) => {
                let bytes = text.as_bytes();
                packet(to, b'F', &bytes[..bytes.len().min(CHUNK)], WAIT)
            }
        }
    }

    /// Receives one; `None` at the end of the stream.
    pub fn receive(from: BorrowedFd<'_>) -> Result<Option<ToFront>, Errno> {
        let mut buf = vec![0; CHUNK + 1];
        let Some((kind, body, _)) = receive(from, &mut buf)? else {
            return Ok(None);
        };
        Ok(Some(match kind {
            b'S' => ToFront::Stopped { signal: int(body, 0), command: int(body, 4) },
            b'R' => ToFront::Report(body.to_vec()),
            b'D' => ToFront::Done,
            _ => ToFront::Failed(String::from_utf8_lossy(body).into_owned()),
        }))
    }
}

impl ToSupervisor {
    /// Sends it.
    pub fn send(&self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        let ToSupervisor::Signal { signal, sender } = self;
        packet(to, b'K', &pair_of(*signal, *sender), WAIT)
    }

    /// Receives one; `None` at the end of the stream.
    pub fn receive(from: BorrowedFd<'_>) -> Result<Option<ToSupervisor>, Errno> {
        let mut buf = [0; 64];
        Ok(receive(from, &mut buf)?.map(|(_, body, _)| ToSupervisor::Signal {
            signal: int(body, 0),
            sender: int(body, 4),
        }))
    }
}

impl FromCommand {
    /// Sends it.
    pub fn send(&self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            FromCommand::Listener(fd) => {
                let fds = [fd.as_raw_fd()];
                let iov = [IoSlice::new(b"L")];
                let rights = [ControlMessage::ScmRights(&fds)];
                sendmsg::<()>(to.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
            }
            FromCommand::NoGate(errno) => packet(to, b'N', &(*errno as i32).to_ne_bytes(), WAIT),
            FromCommand::TraceMe(pid) => packet(to, b'T', &pid.to_ne_bytes(), WAIT),
            FromCommand::Traced => packet(to, b'Y', &[], WAIT),
            FromCommand::NoTrace(errno) => packet(to, b'U', &(*errno as i32).to_ne_bytes(), WAIT),
            FromCommand::ExecFailed(errno) => {
                packet(to, b'X', &(*errno as i32).to_ne_bytes(), WAIT)
            }
            FromCommand::GaveUp(errno) => packet(to, b'G', &(*errno as i32).to_ne_bytes(), WAIT),
        }
    }

    /// Receives one; `None` when the command has executed or died. EMFILE when the listener
    /// could not be taken in.
    pub fn receive(from: BorrowedFd<'_>) -> Result<Option<FromCommand>, Errno> {
        let mut buf = [0; 64];
        let Some((kind, body, fd)) = receive(from, &mut buf)? else {
            return Ok(None);
        };
        let errno = || Errno::from_raw(int(body, 0));
        Ok(Some(match kind {
            b'L' => FromCommand::Listener(fd.ok_or(Errno::EMFILE)?),
            b'N' => FromCommand::NoGate(errno()),
            b'G' => FromCommand::GaveUp(errno()),
            b'T' => FromCommand::TraceMe(int(body, 0)),
            b'Y' => FromCommand::Traced,
            b'U' => FromCommand::NoTrace(errno()),
            _ => FromCommand::ExecFailed(errno()),
        }))
    }
}

fn pair_of(first: i32, second: i32) -> [u8; 8] {
    let mut body = [0; 8];
    body[..4].copy_from_slice(&first.to_ne_bytes());
    body[4..].copy_from_slice(&second.to_ne_bytes());
    body
}

fn int(body: &[u8], at: usize) -> i32 {
    body.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes)
}

fn packet(to: BorrowedFd<'_>, kind: u8, body: &[u8], flags: MsgFlags) -> Result<(), Errno> {
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(kind);
    bytes.extend_from_slice(body);
    loop {
        match send(to.as_raw_fd(), &bytes, flags | MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// A packet: its kind, its body and the descriptor that came with it.
type Packet<'a> = (u8, &'a [u8], Option<OwnedFd>);

/// The next packet; `None` at the end.
fn receive<'a>(from: BorrowedFd<'_>, buf: &'a mut [u8]) -> Result<Option<Packet<'a>>, Errno> {
    let (got, taken) = match take(from, buf) {
        // The other side died with packets of ours unread.
        Err(Errno::ECONNRESET) => return Ok(None),
        other => other?,
    };
    match buf.get(..got) {
        Some([kind, body @ ..]) => Ok(Some((*kind, body, taken))),
        _ => Ok(None),
    }
}

/// The next message, and the descriptor that came with it.
pub(crate) fn take(
    from: BorrowedFd<'_>,
    buf: &mut [u8],
) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut taken = None;
    let mut iov = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(from.as_raw_fd(), &mut iov, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    if let Ok(messages) = message.cmsgs() {
        for item in messages {
            if let ControlMessageOwned::ScmRights(fds) = item {
                for fd in fds {
                    taken = Some(crate::sys::own(fd));
                }
            }
        }
    }
    Ok((message.bytes, taken))
}
