//! Which `cgrove` is used, and what every run of it must hold.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Command, Error, Group, GroupBuilder};

/// Starts runs and groups. Cheap to clone; it holds nothing but settings.
#[derive(Debug, Clone)]
pub struct Supervisor {
    binary: PathBuf,
    options: Vec<String>,
}

/// Settings for a [`Supervisor`].
#[derive(Debug, Clone, Default)]
pub struct SupervisorBuilder {
    binary: Option<PathBuf>,
    options: Vec<String>,
}

impl SupervisorBuilder {
    /// The command `cgrove`. Otherwise it is `$CGROVE_BIN`, or the first in `PATH`.
    #[must_use]
    pub fn binary(mut self, path: impl AsRef<Path>) -> Self {
        self.binary = Some(path.as_ref().to_owned());
        self
    }

    /// How trees are held: `gate`, `reaper`, … as for `cgrove run --backend`.
    #[must_use]
    pub fn backend(mut self, backend: &str) -> Self {
        self.options.extend(["--backend".to_owned(), backend.to_owned()]);
        self
    }

    /// What must hold before a command may start, e.g. `pids=exact,kill=exact`. A run that cannot
    /// have it is [refused](Error::Refused).
    #[must_use]
    pub fn require(mut self, requirements: &str) -> Self {
        self.options.extend(["--require".to_owned(), requirements.to_owned()]);
        self
    }

    /// Looks for the command.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn build(self) -> Result<Supervisor, Error> {
        let binary = match self.binary.or_else(|| env::var_os("CGROVE_BIN").map(PathBuf::from)) {
            Some(path) if path.is_file() => path,
            Some(path) => return Err(Error::NotFound(vec![path])),
            None => {
                let path = env::var_os("PATH").unwrap_or_default();
                let places: Vec<PathBuf> =
                    env::split_paths(&path).map(|folder| folder.join("cgrove")).collect();
                match places.iter().find(|place| place.is_file()) {
                    Some(place) => place.clone(),
                    None => return Err(Error::NotFound(places)),
                }
            }
        };
        Ok(Supervisor { binary, options: self.options })
    }
}

impl Supervisor {
    /// With the command `cgrove` that `$CGROVE_BIN` names, or the first in `PATH`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn new() -> Result<Supervisor, Error> {
        Supervisor::builder().build()
    }

    /// With settings.
    #[must_use]
    pub fn builder() -> SupervisorBuilder {
        SupervisorBuilder::default()
    }

    /// A command, with a tree of its own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(self.start("run"), None, program.as_ref())
    }

    /// A group to be created, that several commands share.
    pub fn group(&self, name: &str) -> GroupBuilder {
        GroupBuilder::new(self.clone(), name)
    }

    /// A group, or a run, that somebody else has created. Dropping it changes nothing.
    pub fn open(&self, name: &str) -> Group {
        Group::opened(self.clone(), name)
    }

    /// `cgrove VERB`, with what every run must hold.
    pub(super) fn start(&self, verb: &str) -> std::process::Command {
        let mut command = self.bare(verb);
        command.args(&self.options);
        command
    }

    /// `cgrove VERB` alone.
    pub(super) fn bare(&self, verb: &str) -> std::process::Command {
        let mut command = std::process::Command::new(&self.binary);
        command.arg(verb);
        command
    }
}
