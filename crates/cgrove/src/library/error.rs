//! What can go wrong before there is a report.

use std::io;
use std::path::PathBuf;

/// A run that could not be had, or a file that could not be read or written. That a command failed
/// is no error: the [report](crate::Report) says so.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The command `cgrove` is in none of these places.
    NotFound(Vec<PathBuf>),
    /// cgrove refused: what, why (with the errno's name) and what to do, in one line.
    Refused(String),
    /// A system call of this process failed.
    Io {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
    /// cgrove ended without a report, with what it said last.
    NoReport(String),
}

impl Error {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NotFound(places) => {
                let places: Vec<String> =
                    places.iter().map(|it| it.display().to_string()).collect();
                write!(
                    f,
                    "cannot find the command cgrove: it is not in {}; install it there, set \
                     CGROVE_BIN, or name it with SupervisorBuilder::binary",
                    places.join(", ")
                )
            }
            Error::Refused(line) => f.write_str(line),
            Error::Io { what, source } => write!(f, "{what}: {source}"),
            Error::NoReport(said) => write!(f, "cgrove ended without a report: {said}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<cgrove_host::error::HostError> for Error {
    fn from(error: cgrove_host::error::HostError) -> Error {
        Error::Refused(error.to_string())
    }
}
