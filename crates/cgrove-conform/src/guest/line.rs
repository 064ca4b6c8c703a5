//! The line between the executor and an actor: a socket that keeps messages apart.
//!
//! A request is a number, a space and a step; a reply is the request's number, a space and an
//! outcome. The number matters because an actor may be frozen: its late reply must not be taken for
//! the reply to a later request. A request that makes a task carries the new task's end of its line.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, setsockopt, socketpair, sockopt,
};

use crate::case::Outcome;
use crate::sys;
use crate::transcript::{parse_outcome, print_outcome};

/// Longest message: a step that writes a megabyte, escaped.
const LONGEST: usize = 5 << 20;

/// The two ends of a new line: the executor's and the actor's.
///
/// # Errors
///
/// As for socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let ends = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // Best effort: only very long writes need it.
    let _ = setsockopt(&ends.0, sockopt::SndBuf, &LONGEST);
    Ok(ends)
}

/// Sends a message, and perhaps a descriptor with it.
///
/// # Errors
///
/// EPIPE if the other end is gone.
pub fn send(line: &OwnedFd, text: &str, fd: Option<&OwnedFd>) -> Result<(), Errno> {
    let fds: Vec<RawFd> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        line.as_raw_fd(),
        &[IoSlice::new(text.as_bytes())],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Waits for a message. `None` if the other end is gone.
///
/// # Errors
///
/// As for recvmsg(2); EBADMSG for what is no text.
pub fn receive(line: &OwnedFd) -> Result<Option<(String, Option<OwnedFd>)>, Errno> {
    let mut size = [0u8; 1];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    let length = nix::sys::socket::recv(line.as_raw_fd(), &mut size, flags)?;
    if length == 0 {
        return Ok(None);
    }
    let mut buffer = vec![0; length];
    let mut space = nix::cmsg_space!(RawFd);
    let (bytes, fd) = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            line.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut fd = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for raw in fds {
                    fd = Some(sys::take_fd(raw)?);
                }
            }
        }
        (message.bytes, fd)
    };
    buffer.truncate(bytes);
    let text = String::from_utf8(buffer).map_err(|_| Errno::EBADMSG)?;
    Ok(Some((text, fd)))
}

/// The text of a reply.
#[must_use]
pub fn reply(number: u64, outcome: &Outcome) -> String {
    format!("{number} {}", print_outcome(outcome).join("\n"))
}

/// Reads a reply.
#[must_use]
pub fn read_reply(text: &str) -> Option<(u64, Outcome)> {
    let (number, rest) = text.split_once(' ')?;
    let lines: Vec<&str> = rest.split('\n').collect();
    Some((number.parse().ok()?, parse_outcome(&lines).ok()?))
}
