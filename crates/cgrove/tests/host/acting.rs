//! `cgrove mount --adopt`: what the files of a mounted tree do to the real processes in it.

use std::fs;
use std::io::BufReader;
use std::process::{Command, Stdio};

use cgrove_testkit::watch::{self, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kit::{PATIENCE, Place, kit};
use crate::mounting::{Mounting, Shell, adopting, pids};
use crate::{MOUNTING, TRACING};

crate::tests!(
    a_frozen_tree_halts_and_goes_on[MOUNTING, TRACING],
    who_freezes_himself_is_answered_first[MOUNTING, TRACING],
    requests_of_the_frozen_hold_nobody_up[MOUNTING, TRACING],
    newcomers_are_frozen_too[MOUNTING, TRACING],
    who_moves_is_frozen_or_goes_on[MOUNTING, TRACING],
    a_stopped_job_stays_stopped_in_a_mounted_tree[MOUNTING, TRACING],
    the_frozen_can_be_killed[MOUNTING, TRACING],
    a_parent_in_vfork_counts_as_halted[MOUNTING, TRACING],
    who_is_traced_keeps_frozen_0[MOUNTING, TRACING],
    threads_that_execute_hold_nobody_up[MOUNTING, TRACING],
    everyone_goes_on_when_the_server_ends[MOUNTING, TRACING],
    who_is_born_over_the_limit_is_killed[MOUNTING],
    a_lower_limit_kills_nobody_who_is_there[MOUNTING],
    a_thread_over_the_limit_takes_its_process_along[MOUNTING],
);

const FROZEN: &str = "populated 1\nfrozen 1\n";
const THAWED: &str = "populated 1\nfrozen 0\n";

impl Mounting {
    /// Freezes a cgroup, and waits until it says that it is.
    fn freeze(&self, cgroup: &str) {
        self.write(&format!("{cgroup}/cgroup.freeze"), "1");
        let events = format!("{cgroup}/cgroup.events");
        until("it to be frozen", PATIENCE, || (self.read(&events) == FROZEN).then_some(()));
    }

    fn thaw(&self, cgroup: &str) {
        self.write(&format!("{cgroup}/cgroup.freeze"), "0");
        assert_eq!(self.read(&format!("{cgroup}/cgroup.freeze")), "0\n");
    }

    fn take_in(&self, pid: i32) {
        self.write("a/cgroup.procs", &pid.to_string());
    }
}

impl Shell {
    /// Says something if it runs.
    fn answers(&mut self) {
        self.say("echo here");
        assert_eq!(self.line(), "here");
    }
}

fn state(pid: i32) -> char {
    watch::process(pid).map_or('-', |process| process.state)
}

/// That of a thread, and its tracer.
fn thread(pid: i32, tid: i32) -> Option<(char, i32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    Some((field("State:")?.trim().chars().next()?, field("TracerPid:")?.trim().parse().ok()?))
}

fn until_runs(pid: i32) {
    let runs = || thread(pid, pid).filter(|(state, tracer)| *state != 't' && *tracer == 0);
    until("it to run", PATIENCE, || runs().map(drop));
}

fn a_frozen_tree_halts_and_goes_on(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    let busy = shell.start("while :; do :; done");
    let idle = shell.start("sleep 1000");
    fs::create_dir(mount.tree().join("a/below")).unwrap();
    mount.write("a/below/cgroup.procs", &idle.to_string());
    for _ in 0..5 {
        assert_eq!(mount.read("a/cgroup.events"), THAWED);
        mount.freeze("a");
        assert_eq!(mount.read("a/below/cgroup.events"), FROZEN);
        for pid in [shell.pid(), busy, idle] {
            assert_eq!(state(pid), 't', "{pid}");
        }
        shell.say("echo here");
        mount.thaw("a");
        assert_eq!(shell.line(), "here");
        for pid in [shell.pid(), busy, idle] {
            until_runs(pid);
        }
    }
    assert!(mount.read("a/cgroup.stat.local").starts_with("frozen_usec "));
    let root = fs::read(mount.tree().join("cgroup.freeze")).unwrap_err();
    assert_eq!(root.raw_os_error(), Some(libc::ENOENT));
    mount.end();
}

fn who_freezes_himself_is_answered_first(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    let file = mount.tree().join("a/cgroup.freeze");
    for _ in 0..20 {
        // `echo` is the shell's own, and writes once.
        shell.say(&format!("echo 1 >{}; echo $?", file.display()));
        let frozen = || (mount.read("a/cgroup.events") == FROZEN).then_some(());
        until("it to be frozen", PATIENCE, frozen);
        assert_eq!(state(shell.pid()), 't');
        mount.thaw("a");
        assert_eq!(shell.line(), "0");
    }
    mount.end();
}

/// Processes that never stop asking are frozen again and again, by one of them too; who is not frozen
/// is always served.
fn requests_of_the_frozen_hold_nobody_up(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let tree = mount.tree().display().to_string();
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    for _ in 0..3 {
        shell.start(&format!("while :; do read line <{tree}/a/cgroup.procs; done"));
        shell.start(&format!("while :; do echo 1 >{tree}/a/cgroup.freeze; done"));
        shell.start(&format!("while :; do read line <{tree}/a/cgroup.events; done"));
    }
    for round in 0..20 {
        let frozen = || (mount.read("a/cgroup.events") == FROZEN).then_some(());
        until("it to be frozen", PATIENCE, frozen);
        let all = pids(&mount.read("a/cgroup.procs"));
        assert_eq!(all.len(), 10);
        for pid in all {
            assert_eq!(state(pid), 't', "{pid} in round {round}");
        }
        fs::create_dir(mount.tree().join("a/new")).unwrap();
        fs::remove_dir(mount.tree().join("a/new")).unwrap();
        // Somebody freezes it again at once.
        mount.write("a/cgroup.freeze", "0");
    }
    mount.write("a/cgroup.kill", "1");
    shell.child.wait().unwrap();
    mount.end();
}

/// Shells that fork without end: nobody runs when it is said that all have halted.
fn newcomers_are_frozen_too(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    for _ in 0..3 {
        shell.start("while :; do (:) & (:); wait; done");
    }
    for round in 0..20 {
        mount.freeze("a");
        let all = watch::below(shell.pid());
        assert!(all.len() >= 3, "{all:?}");
        for process in all {
            assert!(matches!(process.state, 't' | 'Z'), "{process:?} in round {round}");
        }
        mount.thaw("a");
        shell.answers();
    }
    mount.write("a/cgroup.kill", "1");
    shell.child.wait().unwrap();
    mount.end();
}

fn who_moves_is_frozen_or_goes_on(place: Place) {
    let Some(mount) = adopting(place) else { return };
    fs::create_dir(mount.tree().join("b")).unwrap();
    let mut shell = Shell::new();
    let sleeper = shell.start("sleep 1000");
    mount.write("a/cgroup.freeze", "1");
    assert_eq!(mount.read("a/cgroup.events"), "populated 0\nfrozen 1\n");
    mount.take_in(sleeper);
    until("it to be frozen", PATIENCE, || (mount.read("a/cgroup.events") == FROZEN).then_some(()));
    assert_eq!(state(sleeper), 't');
    mount.write("b/cgroup.procs", &sleeper.to_string());
    until_runs(sleeper);
    assert_eq!(mount.read("b/cgroup.events"), THAWED);
    mount.end();
}

/// Its parent is told nothing, neither of the freeze nor of the thaw.
fn a_stopped_job_stays_stopped_in_a_mounted_tree(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    let job = shell.start("sleep 1000");
    let own = Pid::from_raw(shell.pid());
    kill(Pid::from_raw(job), Signal::SIGSTOP).unwrap();
    kill(own, Signal::SIGSTOP).unwrap();
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
    assert_eq!(waitpid(own, Some(flags)), Ok(WaitStatus::Stopped(own, Signal::SIGSTOP)));
    until("it to stop", PATIENCE, || (state(job) == 'T').then_some(()));
    mount.freeze("a");
    assert_eq!((state(job), state(shell.pid())), ('t', 't'));
    mount.thaw("a");
    until("them to be let go", PATIENCE, || {
        (state(job) == 'T' && state(shell.pid()) == 'T').then_some(())
    });
    let news = waitpid(own, Some(flags | WaitPidFlag::WNOHANG));
    assert_eq!(news, Ok(WaitStatus::StillAlive));
    // Continued while it is frozen, it runs after that.
    mount.freeze("a");
    kill(own, Signal::SIGCONT).unwrap();
    mount.thaw("a");
    shell.answers();
    assert_eq!(state(job), 'T');
    mount.end();
}

fn the_frozen_can_be_killed(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    let sleeper = shell.start("sleep 1000");
    mount.freeze("a");
    kill(Pid::from_raw(sleeper), Signal::SIGKILL).unwrap();
    until("it to end", PATIENCE, || matches!(state(sleeper), 'Z' | '-').then_some(()));
    assert_eq!(mount.read("a/cgroup.events"), FROZEN);
    mount.write("a/cgroup.kill", "1");
    // Its parent, this one, is told though another was its tracer.
    shell.child.wait().unwrap();
    until("it to be empty", PATIENCE, || mount.read("a/cgroup.procs").is_empty().then_some(()));
    fs::remove_dir(mount.tree().join("a")).unwrap();
    mount.end();
}

/// A helper program, and what it said first.
struct Act {
    shell: Shell,
    said: Vec<i32>,
}

impl Act {
    fn new(what: &str, lines: usize) -> Act {
        let mut command = Command::new(&kit().acts);
        command.args([what, "mounted", "0"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut shell = Shell { child, stdout, started: Vec::new() };
        let mut said = Vec::new();
        for _ in 0..lines {
            said.push(shell.line().split(' ').next_back().unwrap().parse().unwrap());
        }
        shell.started.clone_from(&said);
        Act { shell, said }
    }
}

fn a_parent_in_vfork_counts_as_halted(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut act = Act::new("vfork-wait", 2);
    let (parent, child) = (act.said[0], act.said[1]);
    mount.take_in(parent);
    mount.take_in(child);
    for _ in 0..3 {
        until("the parent to wait", PATIENCE, || (state(parent) == 'D').then_some(()));
        mount.freeze("a");
        assert_eq!((state(parent), state(child)), ('D', 't'));
        mount.thaw("a");
        until_runs(child);
    }
    kill(Pid::from_raw(child), Signal::SIGUSR1).unwrap();
    assert_eq!(act.shell.line(), "back 0");
    assert_eq!(act.shell.child.wait().unwrap().code(), Some(0));
    mount.end();
}

fn who_is_traced_keeps_frozen_0(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut act = Act::new("traced", 1);
    let (tracer, tracee) = (act.shell.pid(), act.said[0]);
    mount.take_in(tracer);
    mount.take_in(tracee);
    mount.write("a/cgroup.freeze", "1");
    until("the tracer to halt", PATIENCE, || (state(tracer) == 't').then_some(()));
    assert_eq!(thread(tracee, tracee).map(|it| it.1), Some(tracer));
    for _ in 0..50 {
        assert_eq!(mount.read("a/cgroup.events"), THAWED);
    }
    // Without its tracer it is no exception any more. It ends when its input does, which a wait closes.
    let input = act.shell.child.stdin.take();
    kill(Pid::from_raw(tracer), Signal::SIGKILL).unwrap();
    act.shell.child.wait().unwrap();
    until("it to be frozen", PATIENCE, || (mount.read("a/cgroup.events") == FROZEN).then_some(()));
    assert_eq!(state(tracee), 't');
    mount.thaw("a");
    until_runs(tracee);
    drop(input);
    mount.end();
}

/// An execve ends the other threads and takes the leader's place, and seizing waits for it.
fn threads_that_execute_hold_nobody_up(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let act = Act::new("exec-threads", 0);
    let pid = act.shell.pid();
    mount.take_in(pid);
    for round in 0..30 {
        mount.freeze("a");
        let tids = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let tids = tids.map(|tid| tid.unwrap().file_name().to_str().unwrap().parse().unwrap());
        for tid in tids {
            let now = thread(pid, tid).map(|it| it.0);
            assert!(matches!(now, Some('t' | 'Z')), "{tid} of {pid} in round {round}: {now:?}");
        }
        mount.thaw("a");
    }
    mount.freeze("a");
    mount.end();
    until_runs(pid);
}

fn everyone_goes_on_when_the_server_ends(place: Place) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let Some(mount) = adopting(place) else { return };
        let mut shell = Shell::new();
        mount.take_in(shell.pid());
        let sleeper = shell.start("sleep 1000");
        mount.freeze("a");
        assert_eq!(state(sleeper), 't');
        mount.signal(signal);
        mount.until_gone();
        shell.answers();
        until_runs(sleeper);
    }
}

fn has_ended(pid: i32) -> bool {
    matches!(state(pid), 'Z' | '-')
}

impl Mounting {
    fn limit(&self, max: &str) {
        self.write("cgroup.subtree_control", "+pids");
        self.write("a/pids.max", max);
    }

    fn until_current_is(&self, count: usize) {
        let text = format!("{count}\n");
        until("the count", PATIENCE, || (self.read("a/pids.current") == text).then_some(()));
    }

    /// How often a limit was hit.
    fn hits(&self) -> u64 {
        self.read("a/pids.events").trim_end().strip_prefix("max ").unwrap().parse().unwrap()
    }
}

/// The newest, however many come between two looks.
fn who_is_born_over_the_limit_is_killed(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let root = fs::read(mount.tree().join("pids.max")).unwrap_err();
    assert_eq!(root.raw_os_error(), Some(libc::ENOENT));
    mount.limit("4");
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    assert_eq!(mount.read("a/pids.current"), "1\n");
    assert_eq!(mount.hits(), 0);
    let all: Vec<i32> = (0..8).map(|_| shell.start("sleep 1000")).collect();
    until("the last to end", PATIENCE, || all[3..].iter().all(|it| has_ended(*it)).then_some(()));
    mount.until_current_is(4);
    assert_eq!(mount.hits(), 5);
    assert!(all[..3].iter().all(|pid| !has_ended(*pid)), "{all:?}");
    // There is room again.
    kill(Pid::from_raw(all[0]), Signal::SIGKILL).unwrap();
    mount.until_current_is(3);
    let one = shell.start("sleep 1000");
    mount.until_current_is(4);
    assert!(!has_ended(one));
    mount.write("a/pids.max", "max");
    let more: Vec<i32> = (0..8).map(|_| shell.start("sleep 1000")).collect();
    mount.until_current_is(12);
    assert!(more.iter().all(|pid| !has_ended(*pid)), "{more:?}");
    mount.end();
}

fn a_lower_limit_kills_nobody_who_is_there(place: Place) {
    let Some(mount) = adopting(place) else { return };
    mount.limit("max");
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    let sleepers = [shell.start("sleep 1000"), shell.start("sleep 1000")];
    mount.until_current_is(3);
    mount.write("a/pids.max", "1");
    let late = shell.start("sleep 1000");
    until("it to end", PATIENCE, || has_ended(late).then_some(()));
    mount.until_current_is(3);
    assert!(sleepers.iter().all(|pid| !has_ended(*pid)));
    assert_eq!(mount.hits(), 1);
    mount.end();
}

fn a_thread_over_the_limit_takes_its_process_along(place: Place) {
    let Some(mount) = adopting(place) else { return };
    mount.limit("2");
    let mut shell = Shell::new();
    mount.take_in(shell.pid());
    let acts = kit().acts.display();
    let many = shell.start(&format!("{acts} exec-threads mounted 0"));
    until("it to end", PATIENCE, || has_ended(many).then_some(()));
    mount.until_current_is(1);
    assert!(!has_ended(shell.pid()));
    mount.end();
}
