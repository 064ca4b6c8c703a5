//! What a case is: steps as data, and what came back from each.
//!
//! Linux and cgrove can only be compared if both are asked the very same thing, and if an answer
//! holds nothing that differs from run to run. So a step names tasks and open files by names of the
//! case's own, an outcome never shows a process id, and everything that one target can do and
//! another cannot hides behind [`Target`]. Nothing here knows of a kernel, a file system or a
//! process; [`crate::lang`] reads and prints the text form.

use std::fmt;

/// A sequence of steps that starts from an empty tree.
///
/// Every case may assume that the hierarchy has no cgroup but the root, that no controller is on in
/// the root's `cgroup.subtree_control`, and that the target's own first task is all there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// Unique within its file.
    pub name: String,
    /// What it shows, in words.
    pub about: Vec<String>,
    /// Where Linux is wrong on purpose: an anchor of the list of known kernel defects.
    pub defect: Option<String>,
    /// What it needs of its target.
    pub options: Options,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// What a case needs of its target beyond the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Let tasks run on several CPUs at once: only for cases that need a real race.
    pub smp: bool,
    /// Mount options of the hierarchy, such as `nsdelegate`.
    pub mount: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The task that does it; the target's own first task if absent.
    pub by: Option<String>,
    /// The user id (and group id) it is done with, for permission checks and ownership.
    pub uid: Option<u32>,
    /// What is done.
    pub act: Act,
}

/// A run of bytes in a step, for paths, file names and what is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<Piece>);

/// A part of a [`Text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// The bytes, so many times.
    Repeat(Vec<u8>, usize),
    /// The decimal id of a task, as the interface files show it.
    Task(String),
}

impl Text {
    /// Plain text without task ids.
    #[must_use]
    pub fn plain(text: impl Into<Vec<u8>>) -> Self {
        Self(vec![Piece::Bytes(text.into())])
    }

    /// The bytes, with `id` asked for the id of each task named. `Err` names a task unknown to it.
    ///
    /// # Errors
    ///
    /// The name of the first task for which `id` has no answer.
    pub fn bytes(&self, mut id: impl FnMut(&str) -> Option<i64>) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::Repeat(bytes, times) => {
                    for _ in 0..*times {
                        out.extend_from_slice(bytes);
                    }
                }
                Piece::Task(name) => match id(name) {
                    Some(id) => out.extend_from_slice(id.to_string().as_bytes()),
                    None => return Err(name.clone()),
                },
            }
        }
        Ok(out)
    }

    /// The text with each task's name replaced by its id.
    ///
    /// # Errors
    ///
    /// As for [`Text::bytes`].
    pub fn resolved(&self, mut id: impl FnMut(&str) -> Option<i64>) -> Result<Self, String> {
        let mut out = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            out.push(match piece {
                Piece::Task(name) => {
                    let id = id(name).ok_or_else(|| name.clone())?;
                    Piece::Bytes(id.to_string().into_bytes())
                }
                other => other.clone(),
            });
        }
        Ok(Self(out))
    }

    /// The bytes if no task is named.
    #[must_use]
    pub fn known(&self) -> Option<Vec<u8>> {
        self.bytes(|_| None).ok()
    }
}

/// Where a new task is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the cgroup with this path.
    Path(Text),
    /// In the cgroup whose directory (or whatever else) is open under this handle.
    Handle(String),
}

/// How a spawned task gets to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Born there (`CLONE_INTO_CGROUP`).
    Clone,
    /// Born in the root, then moved by a write to `cgroup.procs`.
    Procs,
}

/// What a handle is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    Both,
}

/// How `compare` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Relation {
    /// Whether `left` stands in this relation to `right`.
    #[must_use]
    pub const fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// Signals that a case may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL
    Kill,
    /// SIGTERM, with its default action
    Term,
    /// SIGSTOP
    Stop,
    /// SIGCONT
    Cont,
}

/// What a step does. Paths are relative to the root of the hierarchy, `.` is the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Create a cgroup.
    Mkdir {
        /// The new cgroup.
        path: Text,
    },
    /// Remove a cgroup.
    Rmdir {
        /// The cgroup.
        path: Text,
        /// Again and again while it says EBUSY, within a bound.
        retry: bool,
    },
    /// Rename a cgroup.
    Rename {
        /// Its path.
        from: Text,
        /// The new path.
        to: Text,
    },
    /// The names and modes of what a cgroup's directory shows, sorted.
    List {
        /// The cgroup.
        path: Text,
        /// Only names that begin so.
        prefix: Option<Text>,
    },
    /// Mode and owner of a directory or file.
    Stat {
        /// The cgroup.
        path: Text,
        /// The file, or the directory itself.
        file: Option<Text>,
    },
    /// Change an owner.
    Chown {
        /// The cgroup.
        path: Text,
        /// The file, or the directory itself.
        file: Option<Text>,
        /// The new user id, and the group id of the same number.
        uid: u32,
    },
    /// Change a mode.
    Chmod {
        /// The cgroup.
        path: Text,
        /// The file, or the directory itself.
        file: Option<Text>,
        /// The new mode.
        mode: u32,
    },
    /// Try to create a file.
    Create {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
    },
    /// Try to remove a file.
    Unlink {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
    },
    /// Open, write once, close.
    Write {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
        /// What is written.
        text: Text,
    },
    /// Open, read everything, close.
    Read {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
        /// Only lines whose first word is one of these; all lines if empty.
        keys: Vec<Text>,
    },
    /// As `Read`, with every number replaced by `N`.
    Shape {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
    },
    /// Whether a number in a file stands in a relation to another.
    Compare {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
        /// The line's first word; the whole file if absent.
        key: Option<Text>,
        /// The relation.
        relation: Relation,
        /// The number on its right.
        value: i64,
    },
    /// Wait, within a bound, until a file shows a value: for what settles late.
    WaitFor {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
        /// The line's first word; the whole file if absent.
        key: Option<Text>,
        /// The rest of that line.
        value: Text,
    },
    /// Open a file and keep it open.
    Open {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
        /// What for.
        access: Access,
        /// The name it is kept under.
        handle: String,
    },
    /// Open a cgroup's directory and keep it open.
    OpenDir {
        /// The cgroup.
        path: Text,
        /// The name it is kept under.
        handle: String,
    },
    /// Read all from where an open file stands.
    ReadHandle {
        /// Its name.
        handle: String,
    },
    /// Write once to an open file.
    WriteHandle {
        /// Its name.
        handle: String,
        /// What is written.
        text: Text,
    },
    /// Set the place an open file stands at.
    Seek {
        /// Its name.
        handle: String,
        /// Bytes from the beginning.
        offset: u64,
    },
    /// Whether an open file has an exceptional condition pending, or gets one within a moment
    /// (notifications may be late by a timer tick).
    Poll {
        /// Its name.
        handle: String,
    },
    /// As `Poll`, but waits for the condition within a bound.
    WaitPoll {
        /// Its name.
        handle: String,
    },
    /// Watch a file for modification, as inotify(7) does.
    Watch {
        /// The cgroup.
        path: Text,
        /// The file.
        file: Text,
        /// The name the watch is kept under.
        handle: String,
    },
    /// What a watch has seen since it was last asked: `modify`, `gone` (with or without), `quiet`.
    Watched {
        /// Its name.
        handle: String,
    },
    /// Close an open file or a watch.
    Close {
        /// Its name.
        handle: String,
    },
    /// Make a process, a child of whoever does the step.
    Spawn {
        /// Its name.
        task: String,
        /// Where it is to be; where its parent is, if absent.
        place: Option<Place>,
        /// How it gets there.
        via: Via,
        /// Its exit stays half-way, hidden but not gone, until `finish-exit`.
        holdable: bool,
    },
    /// Make a thread in the process of whoever is named.
    Thread {
        /// Its name.
        task: String,
        /// A thread of the process; it makes the new one.
        of: String,
    },
    /// Exec a new program; other threads of the process end, and the caller takes the leader's id.
    Exec {
        /// The thread that does it.
        task: String,
    },
    /// End the whole process. It stays a zombie until it is reaped.
    Exit {
        /// Its leader.
        task: String,
    },
    /// End one thread only.
    ExitThread {
        /// The thread.
        task: String,
    },
    /// Let a holdable process that is on its way out finish.
    FinishExit {
        /// The process.
        task: String,
    },
    /// Send a signal and wait, within a bound, for what it does.
    Kill {
        /// The process.
        task: String,
        /// The signal.
        signal: Signal,
        /// Do not wait.
        nowait: bool,
    },
    /// Wait, within a bound, until a process is dead though perhaps not reaped.
    Await {
        /// The process.
        task: String,
    },
    /// Reap a dead process, by whoever is its parent.
    Reap {
        /// The process.
        task: String,
    },
    /// `alive`, `stopped`, `zombie` or `gone`.
    State {
        /// The task.
        task: String,
    },
    /// Whether a task does what it is asked to: not while it is frozen or stopped.
    Responds {
        /// The task.
        task: String,
    },
    /// The path of the task's cgroup, as `/proc/PID/cgroup` shows it.
    Cgroup {
        /// The task.
        task: String,
    },
    /// Give the process a cgroup namespace rooted where it is.
    Unshare {
        /// The process.
        task: String,
    },
    /// Use so much more memory.
    Alloc {
        /// The process.
        task: String,
        /// How much.
        bytes: u64,
    },
    /// Give back what `Alloc` took.
    Free {
        /// The process.
        task: String,
    },
    /// Use so much CPU time.
    Burn {
        /// The process.
        task: String,
        /// Milliseconds of CPU time.
        milliseconds: u64,
    },
    /// The outcome, waited for within a bound, of a step by this task that was `blocked`.
    Answer {
        /// The task.
        task: String,
    },
}

impl Act {
    /// All texts in it, in which task names may stand.
    pub fn texts_mut(&mut self) -> Vec<&mut Text> {
        match self {
            Self::Mkdir { path } | Self::Rmdir { path, .. } | Self::OpenDir { path, .. } => {
                vec![path]
            }
            Self::Rename { from, to } => vec![from, to],
            Self::List { path, prefix: extra }
            | Self::Stat { path, file: extra }
            | Self::Chown { path, file: extra, .. }
            | Self::Chmod { path, file: extra, .. } => std::iter::once(path).chain(extra).collect(),
            Self::Create { path, file }
            | Self::Unlink { path, file }
            | Self::Shape { path, file }
            | Self::Open { path, file, .. }
            | Self::Watch { path, file, .. } => vec![path, file],
            Self::Write { path, file, text } => vec![path, file, text],
            Self::Read { path, file, keys } => [path, file].into_iter().chain(keys).collect(),
            Self::Compare { path, file, key, .. } => [path, file].into_iter().chain(key).collect(),
            Self::WaitFor { path, file, key, value } => {
                [path, file, value].into_iter().chain(key).collect()
            }
            Self::WriteHandle { text, .. } => vec![text],
            Self::Spawn { place: Some(Place::Path(path)), .. } => vec![path],
            _ => Vec::new(),
        }
    }

    /// The same with every task's name replaced by its id.
    ///
    /// # Errors
    ///
    /// The name of the first task for which `id` has no answer.
    pub fn resolved(&self, mut id: impl FnMut(&str) -> Option<i64>) -> Result<Self, String> {
        let mut act = self.clone();
        for text in act.texts_mut() {
            *text = text.resolved(&mut id)?;
        }
        Ok(act)
    }
}

/// What came back from a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; there is nothing more to say.
    Done,
    /// It was refused with the error of this name (`EBUSY`).
    Refused(String),
    /// A word or two of the step's own vocabulary, such as `alive` or `timeout`.
    Said(String),
    /// What a file or a listing held. Task ids are replaced by `$name`.
    Text(String),
    /// The task that was to do it has not come back; see [`Act::Answer`].
    Blocked,
    /// The whole target stopped answering.
    Hung,
    /// The step makes no sense, or this target cannot do it: nothing to compare.
    Broken(String),
}

impl Outcome {
    /// A word of the step's own vocabulary.
    #[must_use]
    pub fn said(word: impl Into<String>) -> Self {
        Self::Said(word.into())
    }

    /// A fault of the case or the target.
    #[must_use]
    pub fn broken(why: impl fmt::Display) -> Self {
        Self::Broken(why.to_string())
    }
}

/// Something that can play cases: a kernel, the core, a mount.
pub trait Target {
    /// What it is, with its version.
    fn name(&self) -> String;

    /// Make ready: an empty tree with no controller on in the root.
    ///
    /// # Errors
    ///
    /// Why the case cannot be played.
    fn begin_case(&mut self, case: &Case) -> Result<(), String>;

    /// Do one step. What settles late is settled when this returns, unless the step says otherwise.
    fn step(&mut self, step: &Step) -> Outcome;

    /// Clean up whatever the case has left.
    ///
    /// # Errors
    ///
    /// What could not be cleaned up: the target is of no more use.
    fn end_case(&mut self) -> Result<(), String>;
}

/// Plays a case on a target and hands each outcome to `seen` as it comes.
///
/// # Errors
///
/// What [`Target::begin_case`] or [`Target::end_case`] said.
pub fn play(
    target: &mut dyn Target,
    case: &Case,
    mut seen: impl FnMut(usize, &Step, Outcome),
) -> Result<(), String> {
    target.begin_case(case)?;
    for (index, step) in case.steps.iter().enumerate() {
        let outcome = target.step(step);
        seen(index, step, outcome);
    }
    target.end_case()
}
