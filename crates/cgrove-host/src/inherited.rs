//! Descriptors that the caller handed down, and that are the command's.
//!
//! Whoever waits for the end of a pipe waits for its last holder. A program that is told "close
//! descriptor 3 when you are ready", or that closes its standard output and goes on, would be
//! waited for in vain if cgrove's own processes held a copy. So each of them lets go of what it
//! does not need itself, once the command has its own.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::mutant::{self, Mutant};
use crate::sys;

/// Closes everything but `kept`; a standard stream that is not kept becomes `/dev/null`, so that
/// no file opened later takes its place. Nothing else may be in use: a Rust value that owns
/// another descriptor must never be touched or dropped again.
pub fn let_go(kept: &[BorrowedFd<'_>]) {
    if mutant::is(Mutant::PipesHeld) {
        return;
    }
    let mut numbers: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    sys::close_all_but(&numbers);
    let given_up = |stream: &BorrowedFd<'_>| !numbers.contains(&stream.as_raw_fd());
    let mut given_up = sys::standard_streams().into_iter().filter(given_up).peekable();
    if given_up.peek().is_none() {
        return;
    }
    // Without `/dev/null` holding on is the lesser evil.
    if let Ok(null) = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) {
        for stream in given_up {
            let _ = sys::replace_stream(stream, null.as_fd());
        }
    }
}
