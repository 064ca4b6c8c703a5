//! Where the JSON report goes.
//!
//! The file is opened before the command starts: a path that cannot be written should cost a
//! message, not a finished run without its result.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use cgrove_host::error::HostError;
use cgrove_host::report::Report;

use crate::stream;

/// An open destination.
pub enum Sink {
    /// `-`
    Stdout,
    /// A file.
    File {
        /// As the user wrote it.
        path: String,
        /// Close-on-exec, as std opens everything.
        file: File,
    },
}

impl Sink {
    /// Opens `path`, truncating it; `-` is standard output.
    pub fn open(path: &Path, stdout_closed: bool) -> Result<Sink, HostError> {
        if path == Path::new("-") {
            return if stdout_closed {
                Err(HostError::new(
                    "cannot write the report to standard output",
                    "it is closed",
                    "name a file with --json",
                ))
            } else {
                Ok(Sink::Stdout)
            };
        }
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Sink::File { path: name, file }),
            Err(error) => Err(refused(&name, &error)),
        }
    }

    /// Writes the report and a newline.
    pub fn write(self, report: &Report) -> Result<(), HostError> {
        let mut text = serde_json::to_vec(report)
            .map_err(|e| HostError::new("cannot print the report", e, "please report this bug"))?;
        text.push(b'\n');
        let place = match &self {
            Sink::Stdout => "standard output",
            Sink::File { path, .. } => path,
        };
        stream::write_all(self.as_fd(), &text).map_err(|error| refused(place, &error))
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sink::Stdout => stream::stdout(),
            Sink::File { file, .. } => file.as_fd(),
        }
    }
}

fn refused(place: &str, error: &io::Error) -> HostError {
    HostError::new(
        format_args!("cannot write the report to {place}"),
        error,
        "choose a place with --json that is writable and has room",
    )
}
