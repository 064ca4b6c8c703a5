//! What was asked of a mount and answered, as a case that can be played again.
//!
//! Somebody whose program finds a difference between this tree and the kernel's has to be able to show
//! it. The record is a transcript of `cgrove-conform`: steps in its language, each with what came
//! back, which that plays on the core or on a kernel. Processes become tasks that a case makes; what
//! the language has no step for, or what no other machine would answer alike, is a comment line.
//!
//! Who is in the tree is taken from the tree itself, before each step: whoever has come since the
//! last step is spawned, whoever has gone exits. What depends on that is not written as a step
//! while it changes.

mod members;
mod text;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cgrove_core::Cgroup;
use cgrove_files::{File, Node, OpenFlags, Tasks, Tree};
use nix::errno::Errno;
use nix::unistd::geteuid;

use self::members::Members;
use self::text::{lines, word};
use crate::cred::Requester;
use crate::hooks;

/// Files of which another machine, or another moment, has another content.
const OF_THE_MACHINE: [&str; 14] = [
    "cpu.stat",
    "cpu.stat.local",
    "cpuset.cpus.effective",
    "cpuset.mems.effective",
    "io.stat",
    "memory.current",
    "memory.peak",
    "memory.stat",
    "memory.numa_stat",
    "memory.swap.current",
    "memory.swap.peak",
    "hugetlb.2MB.numa_stat",
    "pids.current",
    "pids.peak",
];
/// Files whose content depends on who is in the tree.
const OF_MEMBERS: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.events"];
/// A number that no process can have, as `PID_MAX_LIMIT` is one more than the last.
const NOBODY: &str = "4194304";
/// The mode of a cgroup made by a step.
const USUAL: u16 = 0o755;

/// Keeps a record of what a mount is asked. What cannot be written any more is left out, and a mount
/// goes on without its record.
pub struct Recorder(Mutex<State>);

struct State {
    /// `None` after a failure: what follows would not fit what is there.
    out: Option<Box<dyn Write + Send>>,
    /// Whose steps are those of the case's own first task: the superuser of the mount.
    owner: u32,
    /// There are controllers.
    controllers: bool,
    members: Members,
    partial: Option<Partial>,
    handles: usize,
}

/// A file that has been read in part.
struct Partial {
    handle: u64,
    step: String,
    text: Vec<u8>,
}

/// An answer: nothing, or an error.
pub(crate) type Told = Result<(), i32>;

impl Recorder {
    /// Writes to `out`, step by step.
    ///
    /// # Errors
    /// Those of writing.
    pub fn new(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        writeln!(out, "kernel cgrove-mount {}\n\ncase recorded", env!("CARGO_PKG_VERSION"))?;
        out.flush()?;
        Ok(Self(Mutex::new(State {
            out: Some(Box::new(out)),
            owner: geteuid().as_raw(),
            controllers: true,
            members: Members::default(),
            partial: None,
            handles: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree that it is about.
    pub(crate) fn attach(&self, tree: &Tree) {
        let mut state = self.lock();
        state.controllers = tree.defs().any(|(owner, _)| owner.is_some());
        if !state.controllers {
            state.comment("this mount has no controllers: what names them is left out");
        }
    }

    /// Something is about to be asked, after the world has looked who is there.
    pub(crate) fn before(&self, tree: &Tree) {
        self.lock().settle(tree);
    }

    /// A cgroup was to be made.
    pub(crate) fn mkdir(&self, who: Requester, dir: &Cgroup, name: &str, mode: u16, answer: Told) {
        let mut state = self.lock();
        let (by, path) = (state.user(who.uid), path(dir, Some(name)));
        state.step(&format!("{by}mkdir {path}"), &told(answer));
        if answer.is_ok() && mode != USUAL {
            state.step(&format!("{by}chmod {path} {mode:o}"), &told(answer));
        }
    }

    /// A cgroup was to be removed.
    pub(crate) fn rmdir(
        &self,
        who: Requester,
        tree: &Tree,
        dir: &Cgroup,
        name: &str,
        answer: Told,
    ) {
        let mut state = self.lock();
        if answer.is_ok() {
            // Whoever was the last in it has gone before.
            state.settle(tree);
        }
        let step = format!("{}rmdir {}", state.user(who.uid), path(dir, Some(name)));
        if answer.is_err() && state.in_motion(tree) {
            return state.leave(&step, &told(answer), "somebody was on the way out");
        }
        state.step(&step, &told(answer));
    }

    /// A mode was to be changed.
    pub(crate) fn chmod(&self, who: Requester, node: &Node, mode: u16, answer: Told) {
        let mut state = self.lock();
        let step = format!("{}chmod {} {mode:o}", state.user(who.uid), place(node));
        state.about(node, &step, answer);
    }

    /// An owner was to be changed.
    pub(crate) fn chown(
        &self,
        who: Requester,
        node: &Node,
        uid: Option<u32>,
        gid: Option<u32>,
        answer: Told,
    ) {
        let mut state = self.lock();
        let by = state.user(who.uid);
        match (uid, gid) {
            (Some(uid), Some(gid)) if uid == gid => {
                state.about(node, &format!("{by}chown {} {uid}", place(node)), answer);
            }
            _ => {
                let step = format!("{by}chown {} {uid:?} {gid:?}", place(node));
                state.leave(&step, &told(answer), "a step gives user and group the same number");
            }
        }
    }

    /// A file could not be opened.
    pub(crate) fn open_refused(&self, who: Requester, node: &Node, flags: OpenFlags, errno: i32) {
        let mut state = self.lock();
        state.handles += 1;
        let access = match (flags.read, flags.write) {
            (true, true) => "rw",
            (false, true) => "w",
            _ => "r",
        };
        let (by, handle) = (state.user(who.uid), state.handles);
        let step = format!("{by}open {} {access} as h{handle}", place(node));
        state.about(node, &step, Err(errno));
    }

    /// A file was read from `offset` on, `size` bytes at most.
    pub(crate) fn read(&self, by: Access<'_>, offset: u64, size: u32, answer: Result<&[u8], i32>) {
        let mut state = self.lock();
        let text = match answer {
            Ok(text) => text,
            Err(errno) => {
                let step = state.reading(&by);
                return state.about(&Node::File(by.file.node().clone()), &step, Err(errno));
            }
        };
        let mut whole = match state.partial.take() {
            Some(partial) if partial.handle == by.handle && partial.text.len() as u64 == offset => {
                partial
            }
            other => {
                state.partial = other;
                if offset != 0 {
                    return;
                }
                state.give_up();
                Partial { handle: by.handle, step: state.reading(&by), text: Vec::new() }
            }
        };
        whole.text.extend_from_slice(text);
        if text.len() == size as usize {
            state.partial = Some(whole);
            return;
        }
        state.has_read(&by, &whole.step, &whole.text);
    }

    /// A file was written to. `slept` if Linux would have let the writer sleep.
    pub(crate) fn write(&self, by: Access<'_>, data: &[u8], slept: bool, answer: Told) {
        let mut state = self.lock();
        let file = by.file.node();
        let (user, at) = (state.user(by.who.uid), place(&Node::File(file.clone())));
        let plain = format!("{user}write {at} {}", word(data));
        let said = told(answer);
        if by.file.opener().uid != by.who.uid {
            return state.leave(&plain, &said, "another user had opened the file");
        }
        if slept {
            return state.leave(&plain, &said, "Linux lets the writer sleep");
        }
        if file.name() == "cgroup.subtree_control" && !state.controllers {
            return state.leave(&plain, &said, "this mount has no controllers");
        }
        if matches!(file.name(), "cgroup.procs" | "cgroup.threads") && file.is_live() {
            return state.moved(&by, &user, &at, data, answer);
        }
        state.about(&Node::File(file.clone()), &plain, answer);
        if file.name() == "cgroup.kill" && answer.is_ok() {
            state.members.doom(&hooks::path(file.cgroup(), None));
        }
    }
}

/// Who reads or writes which open file, and the tasks as he sees them.
pub(crate) struct Access<'a> {
    pub(crate) who: Requester,
    pub(crate) handle: u64,
    pub(crate) file: &'a File,
    pub(crate) tasks: &'a dyn Tasks,
    pub(crate) tree: &'a Tree,
}

impl State {
    fn lines(&mut self, lines: &[String]) {
        let Some(out) = &mut self.out else { return };
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            self.out = None;
        }
    }

    /// A step, and the lines of its outcome.
    fn step(&mut self, step: &str, outcome: &[String]) {
        self.give_up();
        let outcome = outcome.iter().map(|line| format!("    {line}"));
        let all: Vec<String> = std::iter::once(format!("  {step}")).chain(outcome).collect();
        self.lines(&all);
    }

    fn comment(&mut self, text: &str) {
        self.lines(&[format!("  # {text}")]);
    }

    /// A step that cannot be compared.
    fn leave(&mut self, step: &str, outcome: &[String], why: &str) {
        self.give_up();
        self.comment(&format!("{step} ({}): not played, {why}", outcome.join(" ")));
    }

    /// What was read in part only is no answer to a step.
    fn give_up(&mut self) {
        if let Some(Partial { step, text, .. }) = self.partial.take() {
            self.comment(&format!("{step}: not played, only {} bytes were read", text.len()));
        }
    }

    /// On whose behalf a step is.
    fn user(&self, uid: u32) -> String {
        if uid == self.owner { String::new() } else { format!("as {uid} ") }
    }

    /// A step about a file or directory that may be gone, so that a path does not lead to it.
    fn about(&mut self, node: &Node, step: &str, answer: Told) {
        if node.is_live() {
            self.step(step, &told(answer));
        } else {
            self.leave(step, &told(answer), "it was removed while it was open");
        }
    }

    /// Who has come and gone since.
    fn settle(&mut self, tree: &Tree) {
        for step in self.members.settle(tree) {
            self.step(&step, &told(Ok(())));
        }
    }

    /// Somebody is dying, or has come or gone since the step began.
    fn in_motion(&self, tree: &Tree) -> bool {
        self.members.in_motion(tree)
    }

    fn reading(&self, by: &Access<'_>) -> String {
        // Linux asks when it is opened.
        let user = self.user(by.file.opener().uid);
        let keys = if by.file.node().name() == "cgroup.stat" { " nr_descendants" } else { "" };
        format!("{user}read {}{keys}", place(&Node::File(by.file.node().clone())))
    }

    /// A file has been read to its end.
    fn has_read(&mut self, by: &Access<'_>, step: &str, text: &[u8]) {
        let node = by.file.node();
        let name = node.name();
        let text = String::from_utf8_lossy(text).into_owned();
        if OF_THE_MACHINE.contains(&name) {
            return self.leave(step, &lines(&text), "it is the machine's");
        }
        if name == "cgroup.controllers" && !self.controllers {
            return self.leave(step, &lines(&text), "this mount has no controllers");
        }
        if OF_MEMBERS.contains(&name) && self.in_motion(by.tree) {
            return self.leave(step, &lines(&text), "somebody was on the way in or out");
        }
        let text = match name {
            "cgroup.procs" | "cgroup.threads" if node.cgroup().parent().is_none() => {
                return self.leave(step, &lines(&text), "the root has a first task in a case");
            }
            "cgroup.procs" | "cgroup.threads" => match self.members.named(by, &text) {
                Some(text) => text,
                None => {
                    return self.leave(step, &lines(&text), "threads have no name in a record");
                }
            },
            "cgroup.stat" => {
                text.split_inclusive('\n').filter(|l| l.starts_with("nr_descendants ")).collect()
            }
            _ => text,
        };
        self.step(step, &lines(&text));
    }

    /// Somebody was to be moved.
    fn moved(&mut self, by: &Access<'_>, user: &str, at: &str, data: &[u8], answer: Told) {
        let plain = format!("{user}write {at} {}", word(data));
        let (said, text) = (told(answer), String::from_utf8_lossy(data));
        let number = text.trim();
        let pid = (number == "0" || !number.starts_with('0')).then(|| number.parse::<u32>().ok());
        let Some(pid) = pid.flatten() else {
            if answer.is_ok() {
                return self.leave(&plain, &said, "it is no decimal number");
            }
            return self.step(&plain, &said);
        };
        let unknown = [Errno::ESRCH, Errno::ENODEV, Errno::EINVAL];
        let known = answer.err().is_none_or(|errno| !unknown.contains(&Errno::from_raw(errno)));
        let Some(task) = known.then(|| by.tasks.find(pid)).flatten() else {
            if pid == 0 {
                return self.leave(&plain, &said, "the writer is not in the tree");
            }
            let nobody = text.replacen(number, NOBODY, 1);
            self.comment(&format!("{NOBODY} stands for {pid}, as no process can have it"));
            return self.step(&format!("{user}write {at} {}", word(nobody.as_bytes())), &said);
        };
        if !task.is_leader() {
            return self.leave(&plain, &said, "threads have no name in a record");
        }
        let (name, born) = self.members.name(task.id().0);
        if let Some(step) = born {
            self.step(&step, &told(Ok(())));
        }
        let step = if pid == 0 {
            format!("by {name} {plain}")
        } else {
            let named = word(data).replacen(number, &format!("${name}"), 1);
            format!("{user}write {at} {named}")
        };
        self.step(&step, &said);
        self.members.arrive(by.tree);
    }
}

/// The path of a cgroup as a case has it.
fn path(cgroup: &Cgroup, name: Option<&str>) -> String {
    match hooks::path(cgroup, name).trim_start_matches('/') {
        "" => ".".to_owned(),
        path => word(path.as_bytes()),
    }
}

/// Cgroup and file, as a step has them.
fn place(node: &Node) -> String {
    match node {
        Node::Dir(cgroup) => path(cgroup, None),
        Node::File(file) => format!("{} {}", path(file.cgroup(), None), file.name()),
    }
}

/// The lines of an outcome without a text.
fn told(answer: Told) -> Vec<String> {
    match answer {
        Ok(()) => vec!["= ok".into()],
        Err(errno) => vec![format!("= {:?}", Errno::from_raw(errno))],
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}
