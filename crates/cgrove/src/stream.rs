//! Writing to streams that others set up.
//!
//! A caller with an event loop hands down pipes with O_NONBLOCK set, on which a write fails as soon
//! as the reader is slow. The flag belongs to the open file, which the caller and the command share,
//! so it is not ours to clear: wait for room instead.

use std::io;
use std::os::fd::BorrowedFd;

use cgrove_host::sys::standard_streams;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

/// Standard output.
pub fn stdout() -> BorrowedFd<'static> {
    standard_streams()[1]
}

/// Standard error.
pub fn stderr() -> BorrowedFd<'static> {
    standard_streams()[2]
}

/// Writes all of it, however long the reader takes.
pub fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                // An error shows in the next write.
                let _ = poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
