//! What can happen in a run, and how it is written.

use serde::{Deserialize, Serialize};

use crate::report::Bytes;
use crate::sys::RawPid;

/// The version of a line; raised when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// The most bytes told of a command line or a value.
const MAX_TEXT: usize = 512;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Happening {
    /// [`VERSION`].
    #[cfg_attr(feature = "schema", schemars(extend("const" = VERSION)))]
    pub version: u32,
    /// Milliseconds since the start of the run, for a run in a run that of the one around.
    pub at_ms: u64,
    /// The same on the wall clock: milliseconds since 1970.
    pub time_ms: u64,
    /// The cgroup's path: `/demo/inner`.
    pub group: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A command was forked.
    Started {
        /// Its pid.
        pid: RawPid,
        /// What it is to execute; cut if it is long.
        command: Vec<String>,
    },
    /// The command was executed.
    Exec,
    /// It could not be.
    ExecFailed {
        /// The name of execve(2)'s errno.
        error: String,
    },
    /// Forks were refused, or without a gate processes killed, at the group's task limit.
    #[serde(rename = "pids.max")]
    PidsMax {
        /// How many since this was told last.
        count: u64,
    },
    /// Memory of the group went over its `memory.high`.
    #[serde(rename = "memory.high")]
    MemoryHigh {
        /// How often since this was told last.
        count: u64,
        /// What it uses.
        usage_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Memory of the group was found over its `memory.max`.
    #[serde(rename = "memory.max")]
    MemoryMax {
        /// What it uses.
        usage_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A process was killed for memory; the group is the one whose limit was passed.
    OomKill {
        /// Its pid.
        pid: RawPid,
        /// Its command line; cut if it is long.
        cmdline: Vec<String>,
        /// What it used.
        bytes: u64,
        /// What the group used.
        usage_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The group has to wait: its quota of `cpu.max` is used up.
    Throttle {
        /// How often since this was told last.
        count: u64,
    },
    /// A freeze was asked for.
    Freeze,
    /// A thaw was asked for.
    Thaw,
    /// A file was written.
    Set {
        /// Which.
        file: String,
        /// What; cut if it is long.
        value: String,
    },
    /// The group is new.
    GroupMade,
    /// The group is gone.
    GroupRemoved,
    /// The time is over.
    Timeout,
    /// The process has ended that the run is to end with.
    ParentEnded,
    /// Everything that is left of the group is killed.
    Kill,
    /// The command is over, and nobody of its group is left.
    Ended {
        /// The command's exit code, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// Whoever follows was too slow for some lines.
    Lost {
        /// For how many.
        count: u64,
    },
}

impl What {
    /// The word for it, as in the series.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Started { .. } => "started",
            What::Exec => "exec",
            What::ExecFailed { .. } => "exec-failed",
            What::PidsMax { .. } => "pids.max",
            What::MemoryHigh { .. } => "memory.high",
            What::MemoryMax { .. } => "memory.max",
            What::OomKill { .. } => "oom-kill",
            What::Throttle { .. } => "throttle",
            What::Freeze => "freeze",
            What::Thaw => "thaw",
            What::Set { .. } => "set",
            What::GroupMade => "group-made",
            What::GroupRemoved => "group-removed",
            What::Timeout => "timeout",
            What::ParentEnded => "parent-ended",
            What::Kill => "kill",
            What::Ended { .. } => "ended",
            What::Lost { .. } => "lost",
        }
    }

    /// The rest, in a line for people.
    pub fn detail(&self) -> String {
        match self {
            What::Started { pid, command } => format!("process {pid}: {}", command.join(" ")),
            What::ExecFailed { error } => error.clone(),
            What::PidsMax { count: 1 } => "a fork was refused".to_owned(),
            What::PidsMax { count } => format!("{count} forks were refused"),
            What::MemoryHigh { usage_bytes, limit_bytes, .. } => {
                format!("{usage_bytes} bytes, high is {limit_bytes}")
            }
            What::MemoryMax { usage_bytes, limit_bytes } => {
                format!("{} of {}", Bytes(*usage_bytes), Bytes(*limit_bytes))
            }
            What::OomKill { pid, cmdline, bytes, .. } => {
                format!("process {pid} ({}) of {}", cmdline.join(" "), Bytes(*bytes))
            }
            What::Throttle { .. } => "the quota of cpu.max is used up".to_owned(),
            What::Freeze | What::Thaw => "asked for from outside".to_owned(),
            What::Set { file, value } => format!("{file}={value}"),
            What::Timeout => "--timeout is over".to_owned(),
            What::ParentEnded => "the process that the run ends with has ended".to_owned(),
            What::Kill => "everything that is left".to_owned(),
            What::Ended { code: Some(code), .. } => format!("exited {code}"),
            What::Ended { signal: Some(signal), .. } => {
                format!("killed by {}", crate::report::signal_name(*signal))
            }
            What::Lost { count } => format!("{count} events, for want of a reader"),
            What::Exec | What::GroupMade | What::GroupRemoved | What::Ended { .. } => String::new(),
        }
    }

    /// Whether the series has it too.
    pub(crate) fn is_of_series(&self) -> bool {
        !matches!(
            self,
            What::Started { .. }
                | What::Exec
                | What::ExecFailed { .. }
                | What::GroupMade
                | What::GroupRemoved
                | What::Ended { .. }
                | What::Lost { .. }
        )
    }

    /// Whether the reaper of a group may say so of it.
    pub(crate) fn is_a_reapers(&self) -> bool {
        matches!(
            self,
            What::Started { .. }
                | What::Exec
                | What::ExecFailed { .. }
                | What::Timeout
                | What::ParentEnded
        )
    }

    pub(super) fn count(&mut self) -> Option<&mut u64> {
        match self {
            What::PidsMax { count } | What::MemoryHigh { count, .. } | What::Throttle { count } => {
                Some(count)
            }
            _ => None,
        }
    }
}

/// A command line as it is told.
pub(crate) fn cut(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut left = MAX_TEXT;
    let mut cut = Vec::new();
    for mut word in words {
        if word.len() > left {
            shorten(&mut word, left);
            cut.extend(Some(word).filter(|word| !word.is_empty()));
            break;
        }
        left -= word.len();
        cut.push(word);
    }
    cut
}

/// A value as it is told.
pub(crate) fn cut_text(text: &str) -> String {
    let mut text = text.trim_end().to_owned();
    shorten(&mut text, MAX_TEXT);
    text
}

fn shorten(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut() {
        let words = cut(["é".repeat(200), "é".repeat(100), "z".to_owned()]);
        assert_eq!((words.len(), words[1].len()), (2, 112));
        assert_eq!(cut_text(&"é".repeat(300)).len(), MAX_TEXT);
    }
}
