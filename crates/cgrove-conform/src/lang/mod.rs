//! The text form of cases, so that cases are data that anybody can write, read and send.
//!
//! A file is a list of lines; indentation and blank lines mean nothing, `#` starts a comment.
//!
//! ```text
//! case rmdir-busy
//!   about A cgroup with a task cannot be removed.
//!   mkdir a
//!   spawn p in a
//!   rmdir a
//! ```
//!
//! | line | meaning |
//! |---|---|
//! | `case NAME` | a new case begins |
//! | `about WORDS` | what it shows |
//! | `defect ANCHOR` | Linux is known to be wrong here |
//! | `option smp`, `option mount NAME` | see [`crate::case::Options`] |
//! | `repeat N` … `end` | the steps between, N times |
//! | anything else | a step |
//!
//! A step is a verb and its arguments, after an optional `by TASK` (who does it) and `as UID` (with
//! whose permissions). The verbs:
//!
//! ```text
//! mkdir PATH                        rmdir PATH [retry]            rename PATH PATH
//! list PATH [PREFIX]                stat PATH [FILE]              create PATH FILE
//! chown PATH [FILE] UID             chmod PATH [FILE] OCTAL       unlink PATH FILE
//! write PATH FILE TEXT              read PATH FILE [KEY…]         shape PATH FILE
//! compare PATH FILE [KEY] RELATION NUMBER                         wait-for PATH FILE [KEY] VALUE
//! open PATH FILE r|w|rw as H        opendir PATH as H             close H
//! read-handle H                     write-handle H TEXT           seek H OFFSET
//! poll H                            wait-poll H
//! watch PATH FILE as H              watched H
//! spawn TASK [in PATH|in @H] [via procs] [holdable]               thread TASK of TASK
//! exec TASK    exit TASK            exit-thread TASK              finish-exit TASK
//! kill TASK KILL|TERM|STOP|CONT [nowait]                          await TASK
//! reap TASK    state TASK           responds TASK                 cgroup TASK
//! unshare TASK                      answer TASK
//! alloc TASK BYTES                  free TASK                     burn TASK MILLISECONDS
//! ```
//!
//! Whatever may sleep in the kernel until something else happens (a write of `cgroup.subtree_control`
//! or `cgroup.type` above a css that waits for a task held half-way) is to be done `by` a task, which
//! is then `blocked` until `answer`. Done by the target's own first task it would hang the target.
//!
//! Words are bare (`cgroup.procs`, `+pids`) or quoted with the escapes `\n \t \0 \xNN \\ \" \$`.
//! `$name` stands for the id of a task, bare or quoted. A quoted string may be repeated, `"x"*4096`,
//! and quoted strings that touch are one word: `"x"*4096"\n"`.

mod parse;
mod print;
mod word;

pub use parse::{ParseError, parse, parse_step};
pub use word::{escape, unescape};
