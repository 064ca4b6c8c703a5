//! Plays cases on the core: tasks by name, each with a queue of what it was asked to do.
//!
//! Mirrors the kernel's executor. A task that is halted, or sleeps in a write, does not answer; the
//! step is `blocked`, and done when the task goes on. After every step the world is brought to rest:
//! effects performed, work pumped, whoever can go on gone on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cgrove_core::{CssId, Time};
use cgrove_files::{MountOptions, Tree};

use super::files::Files;
use super::machine::build;
use super::memory::Hoards;
use super::world::{INIT, Life, World};
use crate::case::{Act, Case, Outcome, Step, Target, Text};
use crate::guest::executor::{file_name, is_root};

/// A task of the case.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) tid: u32,
    pub(super) pid: u32,
    /// The leader's name.
    pub(super) leader: String,
    /// The name of the process that made it; the first process if absent.
    pub(super) parent: Option<String>,
    /// Its death is held half-way.
    pub(super) holdable: bool,
    pub(super) reaped: bool,
    pub(super) files: Files,
    pub(super) queue: VecDeque<Request>,
    /// The first request of the queue has been begun and sleeps until this css is offline.
    pub(super) sleeping: Option<CssId>,
    /// Over `memory.high`, and not let go on.
    pub(super) throttled: bool,
    pub(super) owed: Option<Owed>,
}

/// The answer to a request that took its time.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub(super) answer: Option<Outcome>,
    pub(super) child: Option<Newborn>,
}

/// A task that another has made and not yet told of.
#[derive(Clone, Debug)]
pub(super) struct Newborn {
    pub(super) name: String,
    pub(super) tid: u32,
    pub(super) pid: u32,
    pub(super) leader: String,
    pub(super) parent: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Do(Step),
    /// Make a process or thread of this name.
    Make(Step, String),
    Reap(u32),
    Exit,
    ExitThread,
    /// Done, but halted before it could say so.
    Answer(Outcome, Option<Newborn>),
    /// Of no interest any more, but it was sent.
    Nothing,
}

/// The core, with the world it lives in.
pub struct CoreTarget {
    pub(super) world: World,
    pub(super) tree: Arc<Tree>,
    pub(super) tasks: BTreeMap<String, Named>,
    /// Names of everything that lived in this case, by thread id.
    pub(super) names: BTreeMap<u32, String>,
    pub(super) files: Files,
    pub(super) hoards: Hoards,
    /// Which file each open handle is for.
    pub(super) opened: BTreeMap<(Option<String>, String), (Text, Text)>,
    /// Made by the request that is being carried out.
    pub(super) newborn: Option<Newborn>,
}

impl Default for CoreTarget {
    fn default() -> Self {
        Self::new(MountOptions::default())
    }
}

/// What a step takes, give or take: a thousandth of a second or less.
const STEP: Duration = Duration::from_micros(200);

impl CoreTarget {
    /// An empty tree.
    #[must_use]
    pub fn new(options: MountOptions) -> Self {
        let now = Time(1_000_000_000);
        let hierarchy = build(options, now);
        let tree = Tree::builder(hierarchy.clone()).options(options).build();
        Self {
            world: World::new(hierarchy, now),
            tree: Arc::new(tree),
            tasks: BTreeMap::new(),
            names: BTreeMap::new(),
            files: Files::default(),
            hoards: Hoards::default(),
            opened: BTreeMap::new(),
            newborn: None,
        }
    }

    pub(super) fn id(&self, name: &str) -> Option<i64> {
        self.tasks.get(name).map(|task| i64::from(task.tid))
    }

    pub(super) fn life(&self, name: &str) -> Option<Life> {
        Some(self.world.thread(self.tasks.get(name)?.tid)?.life)
    }

    /// Whether a task is neither gone nor a zombie.
    pub(super) fn lives(&self, name: &str) -> bool {
        matches!(self.life(name), Some(Life::Live | Life::Parked))
    }

    pub(super) fn no_task(name: &str) -> Outcome {
        Outcome::broken(format!("no task {name}"))
    }

    /// A step on files, by whoever is to do it.
    fn on_files(&mut self, step: &Step) -> Outcome {
        let act = match step.act.resolved(|name| self.id(name)) {
            Ok(act) => act,
            Err(name) => return Self::no_task(&name),
        };
        if let Act::Open { path, file, handle, .. } = &act {
            self.opened.insert((step.by.clone(), handle.clone()), (path.clone(), file.clone()));
        }
        let request = Step { by: None, uid: step.uid, act: act.clone() };
        let outcome = match &step.by {
            None => self.by_init(&request),
            Some(task) => self.ask(task, Request::Do(request)),
        };
        self.named(step, &act, outcome)
    }

    /// Replaces ids in what a list of members shows, and brings it in order.
    fn named(&self, step: &Step, act: &Act, outcome: Outcome) -> Outcome {
        let (path, file) = match act {
            Act::Read { path, file, .. } => (path, file),
            Act::ReadHandle { handle } => {
                match self.opened.get(&(step.by.clone(), handle.clone())) {
                    Some((path, file)) => (path, file),
                    None => return outcome,
                }
            }
            _ => return outcome,
        };
        let lists = matches!(file_name(file).as_deref(), Some("cgroup.procs" | "cgroup.threads"));
        let text = match &outcome {
            Outcome::Text(text) if lists => text,
            _ => return outcome,
        };
        let mut lines: Vec<String> = text
            .lines()
            .filter_map(|line| {
                let id: u32 = line.parse().ok()?;
                match (id, self.names.get(&id)) {
                    (INIT, _) => Some("init\n".to_owned()),
                    (_, Some(name)) => Some(format!("${name}\n")),
                    _ if is_root(path) => None,
                    (0, _) => Some("0\n".to_owned()),
                    _ => Some("other\n".to_owned()),
                }
            })
            .collect();
        lines.sort();
        Outcome::Text(lines.concat())
    }

    fn do_step(&mut self, step: &Step) -> Outcome {
        match &step.act {
            Act::Spawn { .. } => self.spawn(step),
            Act::Thread { task, of } => match self.vacant(task) {
                Ok(()) => self.ask(of, Request::Make(step.clone(), task.clone())),
                Err(taken) => taken,
            },
            Act::Exec { task } => self.exec(task, step),
            Act::Exit { task } => self.exit(task, true),
            Act::ExitThread { task } => self.exit(task, false),
            Act::FinishExit { task } => self.finish_exit(task),
            Act::Kill { task, signal, nowait } => self.kill(task, *signal, *nowait),
            Act::Await { task } => self.death(task),
            Act::Reap { task } => self.reap(task),
            Act::State { task } if self.tasks.contains_key(task) => Outcome::said(self.state(task)),
            Act::Cgroup { task } => match self.tasks.get(task) {
                Some(task) => {
                    let cgroup =
                        self.world.thread(task.tid).and_then(|thread| thread.task.cgroup());
                    Outcome::said(cgroup.map_or_else(|| "gone".into(), |at| at.path()))
                }
                None => Self::no_task(task),
            },
            Act::Responds { task } => self.responds(task, step),
            Act::Unshare { task }
            | Act::Free { task }
            | Act::Alloc { task, .. }
            | Act::Burn { task, .. } => self.ask(task, Request::Do(step.clone())),
            Act::Answer { task } => self.answer(task),
            Act::State { task } => Self::no_task(task),
            _ => self.on_files(step),
        }
    }
}

impl Target for CoreTarget {
    fn name(&self) -> String {
        concat!("cgrove ", env!("CARGO_PKG_VERSION")).to_owned()
    }

    fn begin_case(&mut self, case: &Case) -> Result<(), String> {
        let options = case.options.mount.join(",");
        let options = MountOptions::parse(&options).map_err(|e| format!("{options}: {e}"))?;
        *self = Self::new(options);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Outcome {
        self.world.pass(STEP);
        self.rest();
        let outcome = self.do_step(step);
        self.rest();
        outcome
    }

    fn end_case(&mut self) -> Result<(), String> {
        Ok(())
    }
}
