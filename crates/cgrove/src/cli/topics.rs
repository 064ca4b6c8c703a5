//! `cgrove help TOPIC`: what does not fit beside an option. The manual page has the same texts.

use clap::CommandFactory;

use super::{Cli, Stop};

/// A text on one subject, in paragraphs; lines that begin with two spaces stay as they are.
pub(super) struct Topic {
    pub(super) name: &'static str,
    /// For the list of topics.
    pub(super) about: &'static str,
    pub(super) text: &'static str,
}

pub(super) const TOPICS: [Topic; 9] = [
    Topic {
        name: "limits",
        about: "what can be limited, and how well the limits hold",
        text: "\
--pids-max N bounds the tasks, threads too, of the whole tree. A fork beyond
fails with EAGAIN; nobody is killed for it. What has ended counts until its
parent has collected it. `cgrove set NAME pids.max 20` changes it meanwhile.

--memory-max SIZE holds memory by looking: no more often than the room that is
left calls for, and with all that run brought to a halt and measured exactly
before anyone is killed. Whom it hits, the kernel's OOM rules say. Over
--memory-high whoever grows is slowed down instead. --cpu-max halts the tree
when its time in a period is used up. Nobody inside can see a halt.

--timeout ends the tree: SIGTERM to everyone, SIGKILL after --kill-grace.
--die-with-parent kills it when whoever started cgrove has ended, killed or not.

When the command ends, whatever it has left running is killed at once, unless
--keep-descendants is given. Neither a session, nor a process group, a double
fork or an empty environment gets a process out.

How well a limit holds depends on the place; see `cgrove help backends`. With
--require pids=exact,kill=exact a run starts only where it holds exactly.
",
    },
    Topic {
        name: "backends",
        about: "how a tree is held, and what that is good for",
        text: "\
kernel  a cgroup of the kernel's own, where the one that cgrove is started in is
        delegated to it (writable, and not the root): limits, kill, freeze and
        figures are the kernel's, as far as it can enable the controllers, for
        which nobody else's process may be in that cgroup. The rest is held as
        by the others.
gate    every fork asks first (a seccomp filter with user notification, Linux
        5.0; Docker's default profile allows it). Task limit, kill and CPU time
        are exact.
ptrace  the same where there is no user notification: forks stop for a tracer.
        Nobody inside can be traced by anybody else, so no gdb and no strace.
reaper  needs nothing. Forks are noticed afterwards: the newest tasks are killed
        when there are too many. Sampled.

The strongest that works is taken; --backend forces one. `cgrove doctor` says
what this place allows. Every figure is labelled:

kernel  by the kernel's own cgroup
exact   every event is counted, nothing gets past
sampled looked at now and then; what happens in between goes unseen
",
    },
    Topic {
        name: "report",
        about: "what a run says at its end, and in JSON",
        text: "\
The last line says how the command ended, the CPU time of the whole tree, the
most tasks at one time, forks and refusals, what was left behind. --verbose
names those; --quiet drops the line.

--json FILE writes all of it as one JSON object, whose `version` is raised when
a field changes its meaning or goes away. A figure that is not known is null.
Its fields are described in docs/REPORT.md.

`reason` is one of exited, signaled, timeout, pids-max, memory-max, exec-failed,
parent-ended and supervisor-killed.
",
    },
    Topic {
        name: "watching",
        about: "seeing a run while it lasts",
        text: "\
--progress keeps a line at the foot of the terminal, once the run has lasted two
seconds: time, tasks, memory, CPU and refusals, beside their limits. It has a
row of its own, so output and prompts stay whole. Nothing is shown without a
terminal (or with TERM=dumb), from the background, or while an editor or the
like has the screen. If its process was killed, `reset` mends the screen.

--metrics offers the same figures, per cgroup, as OpenMetrics over HTTP:
  --metrics            a socket named after the run; its path is printed
  --metrics=PATH       a socket at this path
  --metrics=PORT       http://127.0.0.1:PORT/metrics; 0 takes any port
A socket can be used by its owner alone, a port by all users of this machine.
`curl --unix-socket PATH http://run/metrics` reads it.

--events FILE writes what happens, one JSON object a line.
cgrove events NAME     tells what happens in a run or group until it ends
cgrove metrics [NAME]  prints them for runs that began without --metrics
cgrove top [NAME]      shows all runs, their cgroups and processes, live
",
    },
    Topic {
        name: "files",
        about: "the interface files of a live run",
        text: "\
A live run has the interface files of a cgroup (see the kernel's cgroup-v2.rst),
for the same user, from any terminal:

  cgrove tree                        the runs, their cgroups and tasks
  cgrove ls NAME                     the files of one
  cgrove get NAME pids.current       read one
  cgrove set NAME pids.max 20        write one
  cgrove freeze NAME, thaw NAME      bring all to a halt, let them go on

What a run does not enforce has no file. --set FILE=VALUE writes one before the
command starts. The socket is in $XDG_RUNTIME_DIR/cgrove, else /tmp/cgrove-UID.
",
    },
    Topic {
        name: "groups",
        about: "runs inside runs, and groups for many commands",
        text: "\
`cgrove run` inside a run makes a group below the one it is in, whose limits
hold as well. It is gone when its command is, and with everything in it.

  cgrove create NAME --pids-max 100  make a group that lasts
  cgrove create NAME/PART            a part of it, or of a run
  cgrove exec NAME [OPTIONS] -- CMD  run a command in it, with limits of its own
  cgrove rm NAME                     remove it; --kill with what is in it

Any number of commands can be in a group, from any shell of the same user. A
command of exec has the streams, directory, environment, limits and signals of
who typed it, but not his session: no job control and no controlling terminal.

A process inside acts on its own group and those below only.
",
    },
    Topic {
        name: "mounting",
        about: "a cgroup tree as a file system",
        text: "\
`cgrove mount DIR` shows a cgroup2 tree at a directory, for programs that are to
be tried where there is none for them. Nobody is in it: no pid is a process.

/dev/fuse must be there. Root, also of a user namespace (unshare -Urm), mounts
by himself; others need fusermount3. --allow-other lets other users in. Served
until SIGTERM, SIGINT, SIGHUP or an unmount, it is unmounted even if cgrove is
killed. What would sleep in Linux fails with EBUSY.

  cgrove mount --daemon --pid-file pid DIR && ... ; kill $(cat pid)

With --adopt a pid written to cgroup.procs takes that process in: it and what is
born of it since is listed, counted as populated, halted by cgroup.freeze, and
killed by cgroup.kill. It is found by looking: a child whose parent ends before
the next look is missed. Freezing takes the right to trace: who may not be, or
is traced already, runs on, and frozen stays 0. All go on when cgrove ends. Who
is born over pids.max is killed at the next look; a thread, with its process.

To test clients, let requests fail (--fault SPEC, any number of times). To show
a difference from Linux, keep what is asked and answered (--record FILE).

  rmdir:EBUSY:3               the next three; also lookup, open, read, write and
                              mkdir, and any error of errno(3)
  write@*/cgroup.procs:ESRCH  those on paths that match, always
  populated:500ms             cgroup.events says `populated 1` so much longer
",
    },
    Topic {
        name: "environment",
        about: "variables that cgrove reads and sets",
        text: "\
CGROVE           set for the command: the path of its group, so that
                 `cgrove get \"$CGROVE\" pids.max` tells it its own limit
XDG_RUNTIME_DIR  where the sockets of live runs are; both sides must agree
",
    },
    Topic {
        name: "exit-status",
        about: "what cgrove exits with",
        text: "\
the command's   it exited by itself
128+N           signal N killed it; 137 also: it ended with its parent
124             it timed out
125             cgrove itself failed, or refused: one line says why
126             the command cannot be executed
127             the command was not found
",
    },
];

pub(super) fn help(topic: Option<&str>) -> Stop {
    let Some(name) = topic else {
        return Stop::Text(list("Topics of `cgrove help`, which also takes a command:\n"));
    };
    if let Some(topic) = TOPICS.iter().find(|topic| topic.name == name) {
        return Stop::Text(topic.text.to_owned());
    }
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut(name) {
        // As defined: what the command's own --help prints may be shorter.
        Some(command) => Stop::Text(command.clone().render_long_help().to_string()),
        None => {
            let names: Vec<&str> = TOPICS.iter().map(|topic| topic.name).collect();
            Stop::Misuse(format!(
                "there is no help on {name}; topics are {} and every command",
                names.join(", ")
            ))
        }
    }
}

fn list(head: &str) -> String {
    let mut text = head.to_owned();
    for topic in &TOPICS {
        text.push_str(&format!("  {:<12} {}\n", topic.name, topic.about));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_fits_a_terminal() {
        for topic in &TOPICS {
            assert!(matches!(help(Some(topic.name)), Stop::Text(text) if text == topic.text));
            for line in topic.text.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", topic.name);
            }
            assert!(topic.text.lines().count() <= 24, "{}", topic.name);
        }
        assert!(matches!(help(Some("luck")), Stop::Misuse(line) if line.contains("limits")));
    }
}
