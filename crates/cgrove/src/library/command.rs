//! A command to be run, as [`std::process::Command`] has it, with limits.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::Error;
use super::events::Prepared;
use super::running::{Output, Running};

/// A command with its limits. Streams, environment and directory are inherited unless set.
#[derive(Debug)]
pub struct Command {
    /// `cgrove run`, and later its options and the command.
    inner: std::process::Command,
    /// `exec` wants the group before the command.
    group: Option<String>,
    name: Option<String>,
    words: Vec<std::ffi::OsString>,
    outlives_caller: bool,
    events: bool,
}

impl Command {
    pub(super) fn new(
        inner: std::process::Command,
        group: Option<String>,
        program: &OsStr,
    ) -> Command {
        let words = vec![program.to_owned()];
        Command { inner, group, name: None, words, outlives_caller: false, events: false }
    }

    /// An argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Command {
        self.words.push(arg.as_ref().to_owned());
        self
    }

    /// Arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable of the command's environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        self.inner.env(key, value);
        self
    }

    /// Takes a variable out of the command's environment.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Command {
        self.inner.env_remove(key);
        self
    }

    /// The command's directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Command {
        self.inner.current_dir(dir);
        self
    }

    /// Where its standard input comes from.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Command {
        self.inner.stdin(stdin);
        self
    }

    /// Where its standard output goes.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Command {
        self.inner.stdout(stdout);
        self
    }

    /// Where its standard error goes.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Command {
        self.inner.stderr(stderr);
        self
    }

    /// The name of the run's cgroup; otherwise `run-PID`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Command {
        self.name = Some(name.to_owned());
        self.option("--name", name)
    }

    /// At most this many tasks, processes and threads; a fork beyond fails with EAGAIN
    /// (`pids.max`).
    #[must_use]
    pub fn pids_max(self, tasks: u64) -> Command {
        self.option("--pids-max", &tasks.to_string())
    }

    /// At most so many bytes of memory (`memory.max`): over it, the OOM rules choose whom to kill.
    #[must_use]
    pub fn memory_max(self, bytes: u64) -> Command {
        self.option("--memory-max", &bytes.to_string())
    }

    /// Above so many bytes (`memory.high`), whoever still grows is slowed down.
    #[must_use]
    pub fn memory_high(self, bytes: u64) -> Command {
        self.option("--memory-high", &bytes.to_string())
    }

    /// At most so much CPU time (`cpu.max`): 1.5 is one CPU and a half.
    #[must_use]
    pub fn cpu_max(self, cpus: f64) -> Command {
        self.option("--cpu-max", &format!("{}%", cpus * 100.0))
    }

    /// The tree is ended after this long: SIGTERM first, then SIGKILL.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Command {
        self.option("--timeout", &format!("{}us", timeout.as_micros()))
    }

    /// Time between SIGTERM and SIGKILL on a timeout; zero kills at once.
    #[must_use]
    pub fn kill_grace(self, grace: Duration) -> Command {
        self.option("--kill-grace", &format!("{}us", grace.as_micros()))
    }

    /// The run lasts until the last descendant ends. Otherwise what the command leaves behind is
    /// killed when it ends.
    #[must_use]
    pub fn keep_descendants(mut self) -> Command {
        self.inner.arg("--keep-descendants");
        self
    }

    /// Whether the run goes on when this process has ended; only a detached one can. By default it
    /// does not: everything in it is killed, even if this process was ended by SIGKILL.
    #[must_use]
    pub fn outlives_caller(mut self, outlives: bool) -> Command {
        self.outlives_caller = outlives;
        self
    }

    /// What happens in the run is told as it happens: see [`Running::events`].
    #[must_use]
    pub fn events(mut self) -> Command {
        self.events = true;
        self
    }

    /// Writes an interface file of the cgroup before the command starts, e.g. `pids.max`.
    #[must_use]
    pub fn set(self, file: &str, value: &str) -> Command {
        self.option("--set", &format!("{file}={value}"))
    }

    /// Nothing of cgrove's own on standard error at the end.
    #[must_use]
    pub fn quiet(mut self) -> Command {
        self.inner.arg("--quiet");
        self
    }

    /// Any option of `cgrove run`, with its value.
    #[must_use]
    pub fn option(mut self, option: &str, value: &str) -> Command {
        // One word, so that a value may begin with a dash.
        self.inner.arg(format!("{option}={value}"));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Io`]: no process could be had. What cgrove itself refuses comes with
    /// [`Running::wait`].
    pub fn spawn(mut self) -> Result<Running, Error> {
        let report = tempfile::NamedTempFile::new().map_err(Error::io("a place for the report"))?;
        self.inner.arg("--json").arg(report.path());
        if !self.outlives_caller {
            // Named, it is this process even if it ends before cgrove could ask for its parent.
            self.inner.arg(format!("--die-with-parent={}", std::process::id()));
        }
        let events = self.events.then(Prepared::new).transpose()?;
        if let Some(events) = &events {
            self.inner.arg("--events").arg(&events.path);
        }
        if let Some(group) = &self.group {
            self.inner.arg(group);
        }
        self.inner.arg("--").args(&self.words);
        let name = |pid| {
            let own = self.name.unwrap_or_else(|| format!("run-{pid}"));
            self.group.map_or(own.clone(), |group| format!("{group}/{own}"))
        };
        Running::start(self.inner, name, report, events)
    }

    /// Runs it to its end and collects what it wrote.
    ///
    /// # Errors
    /// As [`Command::spawn`] and [`Running::wait`].
    pub fn output(mut self) -> Result<Output, Error> {
        self.inner.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The summary would be among what the command wrote.
        self.inner.arg("--quiet");
        self.spawn()?.output()
    }
}
