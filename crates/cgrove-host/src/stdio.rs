//! Standard streams that the caller closed.
//!
//! With descriptor 2 closed, the next file opened becomes "standard error" and receives error
//! messages: a socket, or the JSON file. So closed streams are filled with `/dev/null` first,
//! close-on-exec, and the command still finds them closed.

use std::os::fd::{AsRawFd, IntoRawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;

use crate::error::HostError;
use crate::sys::standard_streams;

/// Fills descriptors 0 to 2. Returns which of them were closed.
pub fn fill_closed() -> Result<[bool; 3], HostError> {
    let closed = standard_streams().map(|fd| fcntl(fd, FcntlArg::F_GETFD).is_err());
    for (fd, _) in standard_streams().iter().zip(closed).filter(|(_, closed)| *closed) {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| HostError::call("cannot open /dev/null for a closed stream", e))?;
        // The lowest free descriptor is the one that was found closed; it stays open for good.
        debug_assert_eq!(null.as_raw_fd(), fd.as_raw_fd());
        let _ = null.into_raw_fd();
    }
    Ok(closed)
}
