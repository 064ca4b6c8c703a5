//! A budget that several commands share.

use std::ffi::OsStr;
use std::process::Stdio;

use cgrove_host::live;

use super::{Command, Error, Events, Supervisor};
use crate::Snapshot;

/// Limits of a group to be created.
#[derive(Debug)]
pub struct GroupBuilder {
    supervisor: Supervisor,
    name: String,
    options: Vec<String>,
}

/// A live group. One that was [created](GroupBuilder::create) ends, with everything in it, when it
/// is dropped; see [`Group::leave`].
#[derive(Debug)]
pub struct Group {
    supervisor: Supervisor,
    name: String,
    owned: bool,
}

impl GroupBuilder {
    pub(super) fn new(supervisor: Supervisor, name: &str) -> GroupBuilder {
        GroupBuilder { supervisor, name: name.to_owned(), options: Vec::new() }
    }

    /// At most this many tasks of all commands together (`pids.max`).
    #[must_use]
    pub fn pids_max(self, tasks: u64) -> GroupBuilder {
        self.option("--pids-max", &tasks.to_string())
    }

    /// At most so many bytes of memory together (`memory.max`).
    #[must_use]
    pub fn memory_max(self, bytes: u64) -> GroupBuilder {
        self.option("--memory-max", &bytes.to_string())
    }

    /// Above so many bytes together (`memory.high`), whoever still grows is slowed down.
    #[must_use]
    pub fn memory_high(self, bytes: u64) -> GroupBuilder {
        self.option("--memory-high", &bytes.to_string())
    }

    /// At most so much CPU time together (`cpu.max`): 1.5 is one CPU and a half.
    #[must_use]
    pub fn cpu_max(self, cpus: f64) -> GroupBuilder {
        self.option("--cpu-max", &format!("{}%", cpus * 100.0))
    }

    /// Any option of `cgrove create`, with its value.
    #[must_use]
    pub fn option(mut self, option: &str, value: &str) -> GroupBuilder {
        self.options.push(format!("{option}={value}"));
        self
    }

    /// Creates it. Should this process be killed before it can [drop](Group) it, its commands end
    /// with this process, and the empty group stays until `cgrove rm`.
    ///
    /// # Errors
    /// [`Error::Refused`]: among others if there is one of that name (EEXIST).
    pub fn create(self) -> Result<Group, Error> {
        let mut command = self.supervisor.start("create");
        command.args(&self.options).arg(&self.name);
        finish(command)?;
        Ok(Group { supervisor: self.supervisor, name: self.name, owned: true })
    }
}

impl Group {
    pub(super) fn opened(supervisor: Supervisor, name: &str) -> Group {
        Group { supervisor, name: name.to_owned(), owned: false }
    }

    /// Its name, and the path below it if it is a group within a group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command within it, in a child cgroup of its own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(self.supervisor.start("exec"), Some(self.name.clone()), program.as_ref())
    }

    /// Reads an interface file, e.g. `memory.current` (`cgroup-v2.rst`).
    ///
    /// # Errors
    /// [`Error::Refused`] with the errno that the kernel would give.
    pub fn get(&self, file: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&live::get(&self.name, file)?).into_owned())
    }

    /// Writes an interface file, e.g. `memory.max`.
    ///
    /// # Errors
    /// As [`Group::get`].
    pub fn set(&self, file: &str, value: &str) -> Result<(), Error> {
        Ok(live::set(&self.name, file, value.as_bytes().to_vec())?)
    }

    /// Brings every task in it to a halt, and returns when they have.
    ///
    /// # Errors
    /// [`Error::Refused`], with the first task that runs on.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(live::set_frozen(&self.name, true)?)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(live::set_frozen(&self.name, false)?)
    }

    /// Kills everything in it (`cgroup.kill`); the group stays.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn kill(&self) -> Result<(), Error> {
        self.set("cgroup.kill", "1")
    }

    /// It and all cgroups below at one moment.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(live::snapshot(self.name.split('/').next().unwrap_or_default())?)
    }

    /// What happens in it and below from now on, until it is removed.
    ///
    /// # Errors
    /// [`Error::Refused`]: ENOENT if there is none; EAGAIN if too many follow it.
    pub fn events(&self) -> Result<Events, Error> {
        Events::follow(&self.name)
    }

    /// Removes it, which must be empty.
    ///
    /// # Errors
    /// [`Error::Refused`]: EBUSY with what is in it. The group goes on then, without this handle.
    pub fn remove(mut self) -> Result<(), Error> {
        self.owned = false;
        self.rm(&[])
    }

    /// Lets the group live on without this handle; `cgrove rm` ends it.
    pub fn leave(mut self) {
        self.owned = false;
    }

    fn rm(&self, options: &[&str]) -> Result<(), Error> {
        let mut command = self.supervisor.bare("rm");
        command.args(options).arg(&self.name);
        finish(command)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.owned {
            let _ = self.rm(&["--kill"]);
        }
    }
}

/// Runs a `cgrove` that is over soon.
fn finish(mut command: std::process::Command) -> Result<(), Error> {
    let io = Error::io;
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io("cannot start cgrove"))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        use std::io::Read;
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).map_err(io("cannot read what cgrove says"))?;
        said = String::from_utf8_lossy(&bytes).into_owned();
    }
    // A host that collects all children has its status; what it says is enough.
    let failed = child.wait().map_or(!said.is_empty(), |status| !status.success());
    if !failed {
        return Ok(());
    }
    let line = said.lines().rev().find_map(|line| line.strip_prefix("cgrove: "));
    Err(Error::Refused(line.unwrap_or("cgrove failed without a word").to_owned()))
}
