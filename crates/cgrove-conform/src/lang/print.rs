//! From cases back to text, in one canonical form: transcripts are compared as text.

use std::fmt;

use crate::case::{Access, Act, Place, Relation, Signal, Step, Text, Via};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = &self.by {
            write!(f, "by {task} ")?;
        }
        if let Some(uid) = self.uid {
            write!(f, "as {uid} ")?;
        }
        self.act.fmt(f)
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        })
    }
}

/// A word that may be absent, with the space before it.
struct Maybe<'a>(&'a Option<Text>);

impl fmt::Display for Maybe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, " {text}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mkdir { path } => write!(f, "mkdir {path}"),
            Self::Rmdir { path, retry } => {
                write!(f, "rmdir {path}{}", if *retry { " retry" } else { "" })
            }
            Self::Rename { from, to } => write!(f, "rename {from} {to}"),
            Self::List { path, prefix } => write!(f, "list {path}{}", Maybe(prefix)),
            Self::Stat { path, file } => write!(f, "stat {path}{}", Maybe(file)),
            Self::Chown { path, file, uid } => write!(f, "chown {path}{} {uid}", Maybe(file)),
            Self::Chmod { path, file, mode } => write!(f, "chmod {path}{} {mode:o}", Maybe(file)),
            Self::Create { path, file } => write!(f, "create {path} {file}"),
            Self::Unlink { path, file } => write!(f, "unlink {path} {file}"),
            Self::Write { path, file, text } => write!(f, "write {path} {file} {text}"),
            Self::Read { path, file, keys } => {
                write!(f, "read {path} {file}")?;
                keys.iter().try_for_each(|key| write!(f, " {key}"))
            }
            Self::Shape { path, file } => write!(f, "shape {path} {file}"),
            Self::Compare { path, file, key, relation, value } => {
                write!(f, "compare {path} {file}{} {relation} {value}", Maybe(key))
            }
            Self::WaitFor { path, file, key, value } => {
                write!(f, "wait-for {path} {file}{} {value}", Maybe(key))
            }
            Self::Open { path, file, access, handle } => {
                let access = match access {
                    Access::Read => "r",
                    Access::Write => "w",
                    Access::Both => "rw",
                };
                write!(f, "open {path} {file} {access} as {handle}")
            }
            Self::OpenDir { path, handle } => write!(f, "opendir {path} as {handle}"),
            Self::ReadHandle { handle } => write!(f, "read-handle {handle}"),
            Self::WriteHandle { handle, text } => write!(f, "write-handle {handle} {text}"),
            Self::Seek { handle, offset } => write!(f, "seek {handle} {offset}"),
            Self::Poll { handle } => write!(f, "poll {handle}"),
            Self::WaitPoll { handle } => write!(f, "wait-poll {handle}"),
            Self::Watch { path, file, handle } => write!(f, "watch {path} {file} as {handle}"),
            Self::Watched { handle } => write!(f, "watched {handle}"),
            Self::Close { handle } => write!(f, "close {handle}"),
            Self::Spawn { task, place, via, holdable } => {
                write!(f, "spawn {task}")?;
                match place {
                    Some(Place::Path(path)) => write!(f, " in {path}")?,
                    Some(Place::Handle(handle)) => write!(f, " in @{handle}")?,
                    None => {}
                }
                if *via == Via::Procs {
                    f.write_str(" via procs")?;
                }
                if *holdable {
                    f.write_str(" holdable")?;
                }
                Ok(())
            }
            Self::Thread { task, of } => write!(f, "thread {task} of {of}"),
            Self::Exec { task } => write!(f, "exec {task}"),
            Self::Exit { task } => write!(f, "exit {task}"),
            Self::ExitThread { task } => write!(f, "exit-thread {task}"),
            Self::FinishExit { task } => write!(f, "finish-exit {task}"),
            Self::Kill { task, signal, nowait } => {
                let signal = match signal {
                    Signal::Kill => "KILL",
                    Signal::Term => "TERM",
                    Signal::Stop => "STOP",
                    Signal::Cont => "CONT",
                };
                write!(f, "kill {task} {signal}{}", if *nowait { " nowait" } else { "" })
            }
            Self::Await { task } => write!(f, "await {task}"),
            Self::Reap { task } => write!(f, "reap {task}"),
            Self::State { task } => write!(f, "state {task}"),
            Self::Responds { task } => write!(f, "responds {task}"),
            Self::Cgroup { task } => write!(f, "cgroup {task}"),
            Self::Unshare { task } => write!(f, "unshare {task}"),
            Self::Alloc { task, bytes } => write!(f, "alloc {task} {bytes}"),
            Self::Free { task } => write!(f, "free {task}"),
            Self::Burn { task, milliseconds } => write!(f, "burn {task} {milliseconds}"),
            Self::Answer { task } => write!(f, "answer {task}"),
        }
    }
}
