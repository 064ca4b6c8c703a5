//! Errors as the user reads them.
//!
//! A message that only says what failed leaves the user with a search engine. Every error here
//! says what was refused, why, and what to do, on one line.

use std::fmt::Display;

use nix::errno::Errno;

/// Something cgrove itself could not do; the command line prints it and exits with 125.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(String);

impl HostError {
    /// An error from its three parts: what was refused or failed, why (an errno in words, or the
    /// rule that was broken), and what the user can do about it.
    pub fn new(what: impl Display, why: impl Display, advice: impl Display) -> HostError {
        HostError(format!("{what}: {why}; {advice}"))
    }

    /// An interface file that could not be written before the start.
    pub(crate) fn cannot_set(file: &str, value: &str, errno: Errno) -> HostError {
        HostError::new(
            format_args!("cannot set {file} to {value}"),
            format_args!("{} ({errno:?})", errno.desc()),
            "see cgroup-v2.rst for its values; what is not enforced here has no files",
        )
    }

    /// An error that another process of the run put into words.
    pub(crate) fn passed_on(text: &str) -> HostError {
        HostError(text.to_owned())
    }

    /// A refused system call, with the advice that fits its errno.
    pub fn call(what: impl Display, errno: Errno) -> HostError {
        let advice = match errno {
            Errno::EMFILE => "raise `ulimit -n` (cgrove needs about 16 descriptors)",
            Errno::ENFILE => "the machine has no file descriptors left; close some programs",
            Errno::EAGAIN => "the process limit of this user or container is reached; raise it",
            Errno::ENOMEM => "free some memory and try again",
            _ => "run `cgrove doctor` to see what this place allows",
        };
        HostError::new(what, errno.desc(), advice)
    }
}
