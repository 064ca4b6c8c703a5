//! A run whose group is a cgroup of the kernel's: the `kernel` backend.
//!
//! The command enters the cgroup before it executes anything, so all that it starts is born there.
//! The supervisor stays outside, and stays the reaper: who comes to an end, and that the tree dies
//! with its guards, is as for every backend. What changes is who holds what:
//!
//! * a limit whose file the cgroup has is written there and nowhere else. The ledger never hears of
//!   it, and so neither looks nor kills for it;
//! * any other limit is held by cgrove as ever, behind the gate where that can be had; the report
//!   says which, and why. There is no gate where nothing is left for it, for it costs every fork;
//! * groups in the run are cgrove's own: held by the gate if there is one, else by looking, and
//!   labelled so;
//! * kill, freeze, CPU time and the figures come from the cgroup's files.
//!
//! It is chosen without being asked for only where the cgroup that we are in is not the root: what
//! is switched on there is everybody's. See [`crate::kernel`] for how a place is found and cleared.

mod figures;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, getpid};

use super::{Phase, Supervisor};
use crate::door::CHUNK;
use crate::error::HostError;
use crate::freezer::{Frozen, Loose, Why};
use crate::journal::What;
use crate::kernel::{Group, KernelError, Leaf, Place};
use crate::launch::Caller;
use crate::mutant::{self, Mutant};
use crate::options::{BackendChoice, Feature, Requirement, RunOptions};
use crate::report::{Backend, Class};

/// Controllers whose figures a report has, switched on where that disturbs nobody.
const FIGURES: [&str; 3] = ["cpu", "memory", "pids"];
/// How long whoever asked for a freeze waits for it. Less than the door's own.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the cgroup may take to be empty once no child is left.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// How many tasks an answer to a freeze names.
const MAX_NAMED: usize = 64;

/// The run's cgroup.
#[derive(Debug)]
pub(crate) struct InKernel {
    pub(crate) group: Group,
    leaf: Option<Leaf>,
    /// The controllers that the cgroup has.
    pub(crate) controllers: Vec<String>,
    /// A limit is left to cgrove.
    limits_left: bool,
    /// Why it has not all that were wanted.
    refused: Option<KernelError>,
    place: Place,
    /// Who may take it away: not a fork.
    owner: Pid,
    /// Until when somebody waits for a freeze to be reached, and the file that tells.
    freezing: Option<(Instant, File)>,
    pub(crate) froze: Option<Class>,
    /// `memory.events`, for whoever wants to be told of crossings, and how many there were.
    crossings: Option<(File, u64)>,
    /// cgrove killed the command itself.
    pub(crate) killed_command: bool,
    /// Somebody was left in it.
    pub(crate) stuck: Option<Errno>,
    removed: bool,
}

impl InKernel {
    /// Makes the run's cgroup and writes its limits, if the run is to have one; `None` otherwise.
    pub(super) fn begin(
        options: &RunOptions,
        caller: &Caller,
    ) -> Result<Option<InKernel>, HostError> {
        let forced = options.backend == BackendChoice::Only(Backend::Kernel);
        let required = options.require.iter().find(|it| wants_kernel(it));
        let others =
            |it: &Requirement| matches!(it, Requirement::Backend(of) if *of != Backend::Kernel);
        if !forced && (options.backend != BackendChoice::Auto || options.require.iter().any(others))
        {
            return Ok(None);
        }
        let refused = |why: &dyn std::fmt::Display| {
            let what = match required {
                Some(required) => format!("--require {required} is not met"),
                None => "--backend kernel is not possible".to_owned(),
            };
            HostError::new(
                what,
                why,
                "start it in a cgroup of its own (`systemd-run --user --scope -p Delegate=yes \
                 cgrove run …`), or let cgrove choose",
            )
        };
        if options.keeper {
            let why = "a group that lasts is not held by the kernel yet (EOPNOTSUPP)";
            return if forced || required.is_some() { Err(refused(&why)) } else { Ok(None) };
        }
        let place = match Place::find() {
            Ok(place) if place.is_root() && !forced => {
                let why = format_args!(
                    "{} is the root of the hierarchy, which is everybody's (EPERM)",
                    place.dir().display()
                )
                .to_string();
                return required.map_or(Ok(None), |_| Err(refused(&why)));
            }
            Ok(place) => place,
            Err(error) if forced || required.is_some() => return Err(refused(&error)),
            Err(_) => return Ok(None),
        };
        let made = place.cleared().and_then(|place| InKernel::make(place, options, caller));
        let mut it = match made {
            Ok(it) => it,
            Err(error) if forced || required.is_some() => return Err(refused(&error)),
            Err(_) => return Ok(None),
        };
        if let Some(unmet) = it.unmet(options, Backend::Gate, caller.sigchld_ignored) {
            let missing = "this kernel or this cgroup has no such controller (ENODEV)".to_owned();
            let why = it.refused.as_ref().map_or(missing, ToString::to_string);
            return Err(HostError::new(
                format_args!("--require {unmet} is not met"),
                why,
                "drop the requirement, or run `cgrove doctor` to see what this place allows",
            ));
        }
        it.set_limits(options)?;
        Ok(Some(it))
    }

    fn make(place: Place, options: &RunOptions, caller: &Caller) -> Result<InKernel, KernelError> {
        let (leaf, refused) = enable(&place, options, caller);
        let made = Group::make(&place);
        let group = match made {
            Ok(group) => group,
            Err(error) => {
                let _ = leaf.map(|leaf| leaf.undo());
                return Err(error);
            }
        };
        let controllers = group.controllers();
        let mut it = InKernel {
            controllers,
            limits_left: false,
            group,
            leaf,
            refused,
            place,
            owner: getpid(),
            freezing: None,
            froze: None,
            crossings: None,
            killed_command: false,
            stuck: None,
            removed: false,
        };
        let left = |(file, _): &(String, String)| !it.holds(file) && !file.starts_with("cgroup.");
        it.limits_left = options.files().iter().any(left);
        Ok(it)
    }

    fn set_limits(&mut self, options: &RunOptions) -> Result<(), HostError> {
        for (file, value) in options.files() {
            if self.holds(&file) && !mutant::is(Mutant::KernelUntold) {
                self.group
                    .write(&file, &value)
                    .map_err(|errno| HostError::cannot_set(&file, &value, errno))?;
            }
        }
        Ok(())
    }

    /// Whether an interface file of the run is the kernel's.
    pub(crate) fn holds(&self, file: &str) -> bool {
        let controller = file.split('.').next().unwrap_or_default();
        let own = matches!(file, "cgroup.freeze" | "cgroup.events" | "cpu.stat");
        (own || self.controllers.iter().any(|it| it == controller)) && self.group.has(file)
    }

    /// Whether something is left for cgrove, which holds it best behind the gate: a limit that was
    /// asked for, or one on tasks, which groups in the run may ask for.
    pub(crate) fn wants_gate(&self, options: &RunOptions, sigchld_ignored: bool) -> bool {
        self.limits_left
            || !self.gives(Feature::Pids)
            || self.unmet(options, Backend::Reaper, sigchld_ignored).is_some()
    }

    /// The first requirement that is met neither by the kernel nor by `other` beside it.
    pub(crate) fn unmet(
        &self,
        options: &RunOptions,
        other: Backend,
        sigchld_ignored: bool,
    ) -> Option<Requirement> {
        options.require.iter().copied().find(|requirement| match *requirement {
            Requirement::Backend(wanted) => wanted != Backend::Kernel,
            Requirement::Feature(feature, class) => {
                let own = if self.gives(feature) { Class::Kernel } else { Class::Unknown };
                own.max(feature.class(other, sigchld_ignored)) < class
            }
        })
    }

    /// Whether the kernel holds it.
    pub(crate) fn gives(&self, feature: Feature) -> bool {
        match feature {
            Feature::Pids => self.holds("pids.max"),
            Feature::Memory => self.holds("memory.max"),
            Feature::CpuMax => self.holds("cpu.max"),
            Feature::Cpu => self.holds("cpu.stat"),
            Feature::Kill => self.group.kills_at_once(),
        }
    }

    /// Why the run is held so, in words.
    pub(crate) fn reason(&self) -> String {
        let held = match self.controllers.as_slice() {
            [] => "no controller".to_owned(),
            some => some.join(", "),
        };
        let dir = self.place.dir().display();
        let ours = if self.place.is_root() { "asked for, in" } else { "delegated to us:" };
        let why = self.refused.as_ref().map_or(String::new(), |why| format!("; {why}"));
        format!("{ours} {dir}, which holds {held}{why}")
    }

    /// What to wait for besides everything else.
    pub(super) fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let freezing = self.freezing.iter().map(|(_, events)| events.as_fd());
        freezing.chain(self.crossings.iter().map(|(events, _)| events.as_fd())).collect()
    }

    /// When to stop waiting for it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.freezing.as_ref().map(|(until, _)| *until)
    }

    /// Kills everyone in it, in the kernel where it can.
    pub(super) fn kill(&self) {
        if !mutant::is(Mutant::KernelSpares) {
            let _ = self.group.kill();
        }
    }

    /// A file that is the kernel's, without the end of its last line.
    pub(super) fn whole(&self, file: &str) -> Option<String> {
        let text = self.holds(file).then(|| self.group.read(file).ok()).flatten()?;
        Some(text.trim_end().to_owned())
    }

    /// At most [`CHUNK`] bytes of a file.
    fn piece(&self, file: &str, offset: u64) -> Result<Vec<u8>, Errno> {
        let text = self.group.read(file)?.into_bytes();
        let begin = usize::try_from(offset).map_or(text.len(), |at| at.min(text.len()));
        Ok(text[begin..text.len().min(begin + CHUNK)].to_vec())
    }

    /// Kills what no wait found: somebody may have moved a stranger in. Then figures stand still.
    pub(crate) fn settle(&mut self) {
        self.kill();
        self.stuck = self.group.wait_empty(LAST_WAIT).err();
    }

    /// Takes the cgroup away, and puts the place back as it was.
    fn remove(&mut self) {
        if self.removed || getpid() != self.owner {
            return;
        }
        self.removed = true;
        let _ = self.group.remove();
        if let Some(leaf) = self.leaf.take() {
            let _ = leaf.undo();
        }
    }
}

impl Drop for InKernel {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A file that cgrove could not write in the kernel's place.
pub(super) fn cannot_set(
    kernel: Option<&InKernel>,
    file: &str,
    value: &str,
    errno: Errno,
) -> HostError {
    match kernel.and_then(|kernel| kernel.refused.as_ref()) {
        Some(why) if errno == Errno::ENOENT => HostError::new(
            format_args!("cannot set {file} to {value}"),
            format_args!("cgrove has no such file (ENOENT), nor has the kernel here: {why}"),
            "see cgroup-v2.rst for files and values",
        ),
        _ => HostError::cannot_set(file, value, errno),
    }
}

fn wants_kernel(requirement: &Requirement) -> bool {
    matches!(
        requirement,
        Requirement::Backend(Backend::Kernel) | Requirement::Feature(_, Class::Kernel)
    )
}

/// Switches on what the run needs and what the report tells, as far as the place allows.
fn enable(
    place: &Place,
    options: &RunOptions,
    caller: &Caller,
) -> (Option<Leaf>, Option<KernelError>) {
    let mut wanted: Vec<String> = FIGURES.map(str::to_owned).to_vec();
    for (file, _) in options.files() {
        let controller = file.split('.').next().unwrap_or_default();
        if controller != "cgroup" && !wanted.iter().any(|it| it == controller) {
            wanted.push(controller.to_owned());
        }
    }
    let (there, on) = (place.controllers(), place.enabled());
    let missing: Vec<&str> =
        wanted.iter().filter(|it| !there.contains(it)).map(String::as_str).collect();
    let missing = (!missing.is_empty()).then(|| {
        let what = format!("{} has no controller {}", place.dir().display(), missing.join(", "));
        KernelError::new(what, Errno::ENODEV)
    });
    wanted.retain(|it| there.contains(it) && !on.contains(it));
    if wanted.is_empty() {
        return (None, missing);
    }
    match Leaf::step_aside(place, &wanted, caller.front.as_raw()) {
        Ok(leaf) => (Some(leaf), missing),
        Err(error) => (None, Some(error)),
    }
}

impl Supervisor<'_> {
    pub(super) fn kernel_due(&self) -> Option<Instant> {
        self.kernel.as_ref().and_then(InKernel::due)
    }

    /// The command exists, and what is opened from here on stays open.
    pub(super) fn watch_kernel(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        if kernel.holds("memory.high") {
            let events = File::open(kernel.group.dir().join("memory.events"));
            kernel.crossings = events.ok().map(|events| (events, 0));
        }
        self.tell_kernel_crossings();
    }

    /// A file of the cgroup has changed, or whoever waits for that has waited for long enough.
    pub(super) fn on_kernel(&mut self) {
        self.tell_kernel_crossings();
        let Some(kernel) = &mut self.kernel else { return };
        let Some((until, _)) = &kernel.freezing else { return };
        let late = *until <= Instant::now();
        let wanted = kernel.group.number("cgroup.freeze", None) == Some(1);
        let reached = kernel.group.number("cgroup.events", Some("frozen")) == Some(1);
        if let Some((_, events)) = &kernel.freezing {
            // Or it tells of the same change for ever.
            acknowledge(events);
        }
        if !(reached || late || !wanted) {
            return;
        }
        kernel.freezing = None;
        let class = if reached { Class::Kernel } else { Class::Sampled };
        if wanted {
            kernel.froze = Some(kernel.froze.map_or(class, |it| it.min(class)));
        }
        let loose = if reached { Vec::new() } else { self.asleep() };
        let count = if reached { 0 } else { loose.len().max(1) };
        let frozen = Frozen { class, loose, count, undone: false, thawed: !wanted };
        self.answer((serde_json::to_vec(&frozen).map_err(|_| Errno::EPERM), None));
    }

    /// Those that stop later.
    fn asleep(&mut self) -> Vec<Loose> {
        let census = self.scanner.glance();
        let asleep = |seen: &&crate::scan::Seen| seen.stat.is_some_and(|stat| stat.state == b'D');
        let tasks: Vec<_> = census.members().filter(asleep).map(|it| (it.tid, it.tgid)).collect();
        let proc = &mut self.scanner.proc;
        let of = |(tid, pid)| {
            let name = proc.command_line(pid).join(" ");
            Loose { tid, pid, name, why: Why::Sleeps }
        };
        tasks.into_iter().take(MAX_NAMED).map(of).collect()
    }

    fn tell_kernel_crossings(&mut self) {
        let Some(kernel) = &mut self.kernel else { return };
        let Some((events, seen)) = &mut kernel.crossings else { return };
        acknowledge(events);
        let high = kernel.group.number("memory.events", Some("high")).unwrap_or(0);
        let before = std::mem::replace(seen, high);
        if high <= before {
            return;
        }
        let usage = kernel.group.number("memory.current", None).unwrap_or(0);
        let limit = kernel.group.number("memory.high", None).unwrap_or(u64::MAX);
        self.happened_to_run(What::MemoryHigh {
            count: high - before,
            usage_bytes: usage,
            limit_bytes: limit,
        });
    }

    /// Freezes or thaws the run in the kernel; `None`: [`Supervisor::on_kernel`] answers.
    pub(super) fn freeze_in_kernel(&mut self, freeze: bool) -> Option<Result<Vec<u8>, Errno>> {
        self.happened_to_run(if freeze { What::Freeze } else { What::Thaw });
        let kernel = self.kernel.as_mut()?;
        let begun = kernel.group.events().and_then(|events| {
            // What it says before is not news.
            acknowledge(&events);
            kernel.group.write("cgroup.freeze", if freeze { "1" } else { "0" })?;
            Ok(events)
        });
        match begun {
            Err(errno) => Some(Err(errno)),
            Ok(_) if !freeze => Some(Ok(Vec::new())),
            Ok(events) => {
                kernel.freezing = Some((Instant::now() + PATIENCE, events));
                // It may be reached already, and then nothing more is told.
                self.on_kernel();
                None
            }
        }
    }

    /// Lets everyone go on, so that all can clean up.
    pub(super) fn thaw_in_kernel(&mut self) {
        if let Some(kernel) = &self.kernel {
            let _ = kernel.group.write("cgroup.freeze", "0");
        }
    }

    /// Part of a kill: closes the door behind what the sweep has found.
    pub(super) fn kill_in_kernel(&mut self) {
        let alone = self.members.is_empty() || self.reapers_had_time();
        let command_lives = self.fate.is_none();
        let Some(kernel) = &mut self.kernel else { return };
        kernel.killed_command |= command_lives;
        if matches!(self.phase, Phase::Killing { .. }) && alone {
            kernel.kill();
        }
    }

    /// What a visitor reads, if the file is the kernel's.
    pub(super) fn read_in_kernel(&self, file: &str, offset: u64) -> Option<Result<Vec<u8>, Errno>> {
        let kernel = self.kernel.as_ref().filter(|kernel| kernel.holds(file))?;
        Some(kernel.piece(file, offset))
    }

    /// What a visitor writes, if the file is the kernel's.
    pub(super) fn write_in_kernel(
        &mut self,
        file: &str,
        value: &[u8],
    ) -> Option<Result<(), Errno>> {
        let kernel = self.kernel.as_ref().filter(|kernel| kernel.holds(file))?;
        let value = std::str::from_utf8(value).map_err(|_| Errno::EINVAL);
        Some(value.and_then(|value| kernel.group.write(file, value)))
    }

    /// Names that a visitor finds besides those of the ledger.
    pub(super) fn list_in_kernel(&self, names: &mut Vec<u8>) {
        let Some(kernel) = &self.kernel else { return };
        let mut more = kernel.group.files();
        more.sort();
        let known = String::from_utf8_lossy(names).into_owned();
        for name in more {
            if kernel.holds(&name) && !known.lines().any(|it| it == name) {
                names.extend_from_slice(name.as_bytes());
                names.push(b'\n');
            }
        }
    }
}

/// Reads a file of events from the beginning, so that poll(2) tells of the next change.
fn acknowledge(events: &File) {
    use std::os::unix::fs::FileExt;
    let _ = events.read_at(&mut [0; 256], 0);
}
