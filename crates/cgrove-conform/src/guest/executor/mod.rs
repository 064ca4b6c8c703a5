//! Plays cases on the running kernel.
//!
//! What a kernel does late must not show as chance in a transcript. So the executor and all actors
//! share one CPU and the executor is the least of them (`SCHED_IDLE`): whoever was woken, killed or
//! told to exit has run to its end before the executor looks. Cases that need a race say so.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity, sched_yield};
use nix::unistd::Pid;

use super::files::{Files, ROOT, read_file};
use super::{line, proc};
use crate::case::{Act, Case, Outcome, Step, Target, Text};
use crate::sys;

/// How long an actor may take for a step before it counts as blocked.
const PATIENCE: Duration = Duration::from_millis(300);
/// The same for steps that are work.
const WORK: Duration = Duration::from_secs(4);
/// How long a death may take.
const DEATH: Duration = Duration::from_millis(1500);

mod birth;
mod death;
mod tidy;

use tidy::{counts_the_dying, some_are_dying};

/// A task of the case.
struct Task {
    /// Its thread id.
    id: Pid,
    /// Its process id.
    process: Pid,
    /// The leader's name.
    leader: String,
    line: OwnedFd,
    /// The name of the process that made it; the executor if absent.
    parent: Option<String>,
    /// What keeps its exit half-way: a child of the executor inside its pid namespace.
    helper: Option<Pid>,
    /// A request that has not been answered.
    owed: Option<Owed>,
    /// It has been reaped, so its name is free.
    reaped: bool,
}

/// A request that an actor has yet to answer.
struct Owed {
    number: u64,
    child: Option<Newborn>,
}

/// A task that another task is making.
struct Newborn {
    name: String,
    line: OwnedFd,
    thread: bool,
}

/// Why an actor did not answer.
enum Silence {
    Late,
    Gone,
    /// It has not been asked, because an earlier answer has not been taken.
    Owing,
}

/// The kernel as a target.
pub struct Executor {
    files: Files,
    tasks: BTreeMap<String, Task>,
    /// Names of everything that lived in this case, by thread id.
    names: BTreeMap<i32, String>,
    /// Which file each open handle is for.
    opened: BTreeMap<(Option<String>, String), (Text, Text)>,
    next: u64,
    smp: bool,
    mounted: Vec<String>,
    /// Files of the root that were written to.
    root_files: Vec<String>,
    release: String,
}

impl Executor {
    /// The executor of this process, which must be the first and have one thread.
    ///
    /// # Errors
    ///
    /// What the kernel refuses to such a process.
    pub fn new() -> Result<Self, Errno> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let this = Self {
            files: Files::default(),
            tasks: BTreeMap::new(),
            names: BTreeMap::new(),
            opened: BTreeMap::new(),
            next: 1,
            smp: false,
            mounted: Vec::new(),
            root_files: Vec::new(),
            release: release.trim().to_owned(),
        };
        pin(true)?;
        sys::set_idle_policy(true)?;
        Ok(this)
    }

    fn id(&self, name: &str) -> Option<i64> {
        self.tasks.get(name).map(|task| i64::from(task.id.as_raw()))
    }

    /// Sends a request and waits for its reply.
    fn ask(
        &mut self,
        name: &str,
        request: &str,
        fd: Option<&OwnedFd>,
        bound: Duration,
    ) -> Result<Outcome, Silence> {
        let number = self.next;
        self.next += 1;
        let task = self.tasks.get_mut(name).ok_or(Silence::Gone)?;
        if task.owed.is_some() {
            return Err(Silence::Owing);
        }
        line::send(&task.line, &format!("{number} {request}"), fd).map_err(|_| Silence::Gone)?;
        let reply = wait_reply(&task.line, number, bound);
        if matches!(reply, Err(Silence::Late)) {
            task.owed = Some(Owed { number, child: None });
        }
        reply
    }

    fn asked(&mut self, name: &str, step: &Step, bound: Duration) -> Outcome {
        if !self.tasks.contains_key(name) {
            return Outcome::broken(format!("no task {name}"));
        }
        answered(self.ask(name, &step.to_string(), None, bound))
    }

    /// Lets whatever became ready run first.
    fn settle(&self) {
        if self.smp {
            // On the other CPU, what is to happen may be nothing: no event ends that wait.
            std::thread::sleep(Duration::from_millis(2));
        } else {
            for _ in 0..3 {
                // Yielding is a hint: there is nothing to do if it fails.
                let _ = sched_yield();
            }
        }
    }

    fn add(
        &mut self,
        name: &str,
        id: Pid,
        process: Pid,
        leader: &str,
        line: OwnedFd,
        parent: Option<String>,
    ) {
        self.names.insert(id.as_raw(), name.to_owned());
        self.tasks.insert(
            name.to_owned(),
            Task {
                id,
                process,
                leader: leader.to_owned(),
                line,
                parent,
                helper: None,
                owed: None,
                reaped: false,
            },
        );
    }

    fn threads<'a>(&'a self, leader: &'a str) -> impl Iterator<Item = &'a str> {
        self.tasks
            .iter()
            .filter(move |(name, task)| task.leader == leader && *name != leader)
            .map(|(name, _)| name.as_str())
    }

    fn lives(&self, name: &str) -> bool {
        self.tasks.get(name).is_some_and(|task| {
            !matches!(proc::state(task.process, task.id), None | Some('Z' | 'X'))
        })
    }

    fn answer(&mut self, name: &str) -> Outcome {
        let Some(task) = self.tasks.get_mut(name) else {
            return Outcome::broken(format!("no task {name}"));
        };
        let Some(owed) = task.owed.take() else {
            return Outcome::said("nothing owed");
        };
        match wait_reply(&task.line, owed.number, DEATH) {
            Ok(outcome) => match owed.child {
                Some(child) => self.born(name, child, outcome),
                None => outcome,
            },
            Err(Silence::Late) => {
                task.owed = Some(owed);
                Outcome::Blocked
            }
            Err(Silence::Gone | Silence::Owing) => Outcome::said("gone"),
        }
    }

    /// A step on files, by whoever is to do it.
    fn on_files(&mut self, step: &Step) -> Outcome {
        let act = match step.act.resolved(|name| self.id(name)) {
            Ok(act) => act,
            Err(name) => return Outcome::broken(format!("no task {name}")),
        };
        match &act {
            Act::Open { path, file, handle, .. } => {
                self.opened.insert((step.by.clone(), handle.clone()), (path.clone(), file.clone()));
            }
            Act::Write { path, file, .. } if is_root(path) => {
                self.root_files.extend(file_name(file))
            }
            Act::WriteHandle { handle, .. } => {
                if let Some((path, file)) = self.opened.get(&(step.by.clone(), handle.clone()))
                    && is_root(path)
                {
                    self.root_files.extend(file_name(file));
                }
            }
            _ => {}
        }
        let outcome = match &step.by {
            None => match self.files.perform(step.uid, &act) {
                Some(outcome) => outcome,
                None => return Outcome::broken(format!("cannot {act}")),
            },
            Some(task) => {
                let bound = match act {
                    Act::WaitFor { .. } | Act::WaitPoll { .. } => WORK,
                    _ => PATIENCE,
                };
                let request = Step { by: None, uid: step.uid, act: act.clone() };
                self.asked(task, &request, bound)
            }
        };
        self.named(step, &act, outcome)
    }

    /// Replaces ids in what a list of members shows, and brings it in order.
    fn named(&self, step: &Step, act: &Act, outcome: Outcome) -> Outcome {
        let key;
        let (path, file) = match act {
            Act::Read { path, file, .. } => (path, file),
            Act::ReadHandle { handle } => {
                key = (step.by.clone(), handle.clone());
                match self.opened.get(&key) {
                    Some((path, file)) => (path, file),
                    None => return outcome,
                }
            }
            _ => return outcome,
        };
        let lists = matches!(file_name(file).as_deref(), Some("cgroup.procs" | "cgroup.threads"));
        let Outcome::Text(text) = &outcome else {
            return outcome;
        };
        if !lists {
            return outcome;
        }
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| {
                let id: i32 = line.parse().ok()?;
                match (id, self.names.get(&id)) {
                    (1, _) => Some("init\n".to_owned()),
                    (_, Some(name)) => Some(format!("${name}\n")),
                    // The kernel's own threads, and what holds an exit.
                    _ if is_root(path) => None,
                    (0, _) => Some("0\n".to_owned()),
                    _ => Some("other\n".to_owned()),
                }
            })
            .collect();
        lines.sort();
        Outcome::Text(lines.concat())
    }
}

impl Target for Executor {
    fn name(&self) -> String {
        self.release.clone()
    }

    fn begin_case(&mut self, case: &Case) -> Result<(), String> {
        if self.smp != case.options.smp {
            self.smp = case.options.smp;
            pin(!self.smp).map_err(|e| e.to_string())?;
        }
        self.remount(&case.options.mount)?;
        if case.steps.iter().any(|step| counts_the_dying(&step.act)) {
            // What earlier cases have left is not this one's.
            let stat = Path::new(ROOT).join("cgroup.stat");
            let end = Instant::now() + DEATH;
            while Instant::now() < end && read_file(&stat).is_ok_and(|text| some_are_dying(&text)) {
                // The kernel does not notify readers of cgroup.stat.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match &step.act {
            Act::Spawn { task, place, via, holdable } => {
                self.spawn(step, task, place.as_ref(), *via, *holdable)
            }
            Act::Thread { task, of } => self.thread(task, of),
            Act::Exec { task } => self.exec(task),
            Act::Exit { task } | Act::ExitThread { task } => self.exit(task, step),
            Act::FinishExit { task } => self.finish_exit(task),
            Act::Kill { task, signal, nowait } => self.kill(task, *signal, *nowait),
            Act::Await { task } => match self.tasks.get(task) {
                Some(task) => self.death(task, DEATH),
                None => Outcome::broken(format!("no task {task}")),
            },
            Act::Reap { task } => self.reap(task),
            Act::State { task } => match self.tasks.get(task) {
                Some(task) => Outcome::said(match proc::state(task.process, task.id) {
                    None | Some('X') => "gone",
                    Some('Z') => "zombie",
                    Some('T' | 't') => "stopped",
                    Some(_) => "alive",
                }),
                None => Outcome::broken(format!("no task {task}")),
            },
            Act::Cgroup { task } => match self.tasks.get(task) {
                Some(task) => Outcome::said(
                    proc::cgroup(task.process, task.id).unwrap_or_else(|| "gone".into()),
                ),
                None => Outcome::broken(format!("no task {task}")),
            },
            Act::Responds { task } => match self.asked(task, step, PATIENCE) {
                Outcome::Blocked => {
                    if let Some(task) = self.tasks.get_mut(task) {
                        // Nobody will want this answer: the next step may be asked.
                        task.owed = None;
                    }
                    Outcome::said("no")
                }
                // It was blocked before; it answers if what it owes has come.
                Outcome::Said(word) if word == "owing" => {
                    let ready =
                        self.tasks.get(task).is_some_and(|task| readable(&task.line, PATIENCE));
                    Outcome::said(if ready { "yes" } else { "no" })
                }
                other => other,
            },
            Act::Unshare { task } | Act::Free { task } => self.asked(task, step, PATIENCE),
            Act::Alloc { task, .. } | Act::Burn { task, .. } => self.asked(task, step, WORK),
            Act::Answer { task } => self.answer(task),
            _ => self.on_files(step),
        }
    }

    fn end_case(&mut self) -> Result<(), String> {
        self.clean()
    }
}

fn answered(reply: Result<Outcome, Silence>) -> Outcome {
    match reply {
        Ok(outcome) => outcome,
        Err(Silence::Late) => Outcome::Blocked,
        Err(Silence::Gone) => Outcome::said("gone"),
        Err(Silence::Owing) => Outcome::said("owing"),
    }
}

/// Whether a message comes within a bound.
fn readable(line: &OwnedFd, bound: Duration) -> bool {
    let mut fds = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::ZERO);
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
}

fn wait_reply(line: &OwnedFd, number: u64, bound: Duration) -> Result<Outcome, Silence> {
    let end = Instant::now() + bound;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(0) => return Err(Silence::Late),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return Err(Silence::Gone),
        }
        match line::receive(line) {
            Ok(Some((text, _))) => {
                if let Some((found, outcome)) = line::read_reply(&text)
                    && found == number
                {
                    return Ok(outcome);
                }
            }
            Ok(None) | Err(_) => return Err(Silence::Gone),
        }
    }
}

/// Keeps this process, and all that it makes, on the first CPU; or lets it go.
fn pin(one: bool) -> Result<(), Errno> {
    let mut cpus = CpuSet::new();
    for cpu in 0..if one { 1 } else { 2 } {
        cpus.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

pub(crate) fn file_name(file: &Text) -> Option<String> {
    file.known().and_then(|bytes| String::from_utf8(bytes).ok())
}

pub(crate) fn is_root(path: &Text) -> bool {
    path.known().as_deref() == Some(b".")
}
