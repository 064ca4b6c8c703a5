//! Following a run from its events: the reader's side of `journal.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::door::{self, Request};
use crate::error::HostError;
use crate::wire;

/// No line is longer.
const MAX_LINE: usize = 64 * 1024;

/// Lines that come as packets of a socket, which is readable when there is one, or at the end.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    buf: Vec<u8>,
}

impl Stream {
    /// What comes over this socket. Should a descriptor come over it, it is read on from there.
    pub fn new(socket: OwnedFd) -> Stream {
        Stream { socket, buf: vec![0; MAX_LINE] }
    }

    /// What happens from now on in the live run or group `NAME/PATH`, until that ends.
    ///
    /// Refused: ENOENT: there is none; EACCES: this process is inside of another one; EAGAIN: too
    /// many follow.
    pub fn open(path: &str) -> Result<Stream, HostError> {
        let path = path.trim_matches('/');
        let (name, below) = path.split_once('/').unwrap_or((path, ""));
        let (answer, socket) = door::ask_for(name, &Request::Follow { path: below.to_owned() })?;
        let refused = |errno: Errno, advice: &str| {
            let why = format!("{} ({errno:?})", errno.desc());
            HostError::new(format_args!("cannot follow {path}"), why, advice)
        };
        answer.map_err(|errno| {
            let advice = match errno {
                Errno::EACCES => "a process inside a group follows that and what is below it only",
                Errno::EAGAIN => "too many follow already; end some",
                _ => "`cgrove tree` shows what there is",
            };
            refused(errno, advice)
        })?;
        let socket =
            socket.ok_or_else(|| refused(Errno::EBADMSG, "use one version of cgrove for both"))?;
        Ok(Stream::new(socket))
    }

    /// The next line, with its line break; waits for it. `None` at the end.
    pub fn line(&mut self) -> Result<Option<&[u8]>, Errno> {
        loop {
            let (len, switch) = match wire::take(self.socket.as_fd(), &mut self.buf) {
                Err(Errno::ECONNRESET) => (0, None),
                other => other?,
            };
            match switch {
                Some(socket) => self.socket = socket,
                None if len == 0 => return Ok(None),
                None => return Ok(Some(&self.buf[..len])),
            }
        }
    }

    /// The socket.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Has whoever reads at the other end of `reader` follow the group `path`, from now on.
pub(crate) fn redirect(reader: BorrowedFd<'_>, path: &str) -> Result<(), HostError> {
    let socket = Stream::open(path)?.into_socket();
    wire::hand_over(reader, socket.as_fd())
        .map_err(|errno| HostError::call("cannot hand the events over", errno))
}
