//! Frozen, nothing of a run moves, and nobody in it can tell afterwards.

use std::fs;
use std::io::Write as _;

use cgrove_host::report::Class;
use cgrove_host::sys::kill;
use cgrove_testkit::watch;

use crate::UNTRACED;
use crate::kit::{Place, Running, run};
use crate::live::{answer, cgrove, refusal};

crate::tests![
    a_restless_tree_halts_and_goes_on,
    parents_see_nothing,
    a_stopped_job_stays_stopped,
    a_stopped_command_and_its_front_stay_stopped,
    what_continues_a_job_waits_for_the_thaw,
    signals_wait_for_the_thaw,
    sigkill_does_not_wait,
    a_timeout_lets_the_frozen_clean_up,
    a_timeout_without_grace_kills_the_frozen,
    a_killed_supervisor_lets_go[UNTRACED],
    who_is_traced_is_named_and_cannot_fork[UNTRACED],
    who_may_not_be_traced_is_an_error,
    a_parent_in_vfork_is_no_obstacle,
    an_execve_of_one_thread_holds_nobody_up,
    frozen_from_the_start,
];

/// One thread, from outside.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
struct Thread {
    tid: i32,
    state: char,
    tracer: i32,
}

/// All threads below the supervisor but those that have ended.
fn threads(supervisor: i32) -> Vec<Thread> {
    let below = watch::below(supervisor);
    let tids = below.iter().flat_map(|process| {
        let entries = fs::read_dir(format!("/proc/{}/task", process.pid)).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
    });
    tids.filter_map(thread).filter(|thread| !"ZX".contains(thread.state)).collect()
}

fn thread(tid: i32) -> Option<Thread> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
    let state = field("State:")?.chars().next()?;
    Some(Thread { tid, state, tracer: field("TracerPid:")?.parse().ok()? })
}

fn state(pid: i32) -> Option<char> {
    Some(watch::process(pid)?.state)
}

/// The number behind `word` on the command's output so far, once there is one.
fn number(running: &Running, word: &str) -> i32 {
    running.until(word, || {
        let out = running.out();
        // A line that is whole.
        let lines = out.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        lines.filter_map(|line| line.strip_prefix(word)?.trim().parse().ok()).next()
    })
}

/// Where forks ask by ptrace, the supervisor stays the tracer.
fn untraced(running: &Running, place: Place, pid: i32) {
    if place == Place::Traced {
        return;
    }
    running.until("the tracer to go", || (thread(pid)?.tracer == 0).then_some(()));
}

/// Whether a task is stopped by a signal. One that is traced looks as any tracee that halts.
fn is_stopped(place: Place, state: char) -> bool {
    state == 'T' || (place == Place::Traced && state == 't')
}

struct Frozen<'a>(&'a Running, Place);

impl Frozen<'_> {
    fn freeze(&self) {
        assert_eq!(answer(self.1, &["freeze", &self.0.mark]), "");
        assert_eq!(self.get("cgroup.events"), "populated 1\nfrozen 1\n");
        assert_eq!(self.get("cgroup.freeze"), "1\n");
    }

    fn thaw(&self) {
        assert_eq!(answer(self.1, &["thaw", &self.0.mark]), "");
    }

    fn get(&self, file: &str) -> String {
        answer(self.1, &["get", &self.0.mark, file])
    }
}

fn a_restless_tree_halts_and_goes_on(place: Place) {
    for backend in ["gate", "reaper"] {
        let running = run(place).options(&["--backend", backend]).acts("load", 40).start();
        running.said("ready");
        let supervisor = running.supervisor();
        let it = Frozen(&running, place);
        let usec = || {
            let text = it.get("cgroup.stat.local");
            let line = text.lines().find_map(|line| line.strip_prefix("frozen_usec "));
            line.expect("frozen_usec").parse::<u64>().expect("a number")
        };
        assert_eq!(usec(), 0);
        for _ in 0..8 {
            it.freeze();
            let all = threads(supervisor);
            let halted = |thread: &Thread| thread.state == 't' && thread.tracer == supervisor;
            assert!(!all.is_empty() && all.iter().all(halted), "{backend}: {all:?}");
            let (before, after) = (usec(), usec());
            assert!(0 < before && before < after, "{before} {after}");
            assert_eq!(threads(supervisor), all);
            it.thaw();
            let total = usec();
            assert!(after <= total && total == usec());
            running.until("everyone to be let go", || {
                let let_go = |thread: &Thread| match place {
                    Place::Traced => thread.state != 't',
                    _ => thread.tracer == 0,
                };
                threads(supervisor).iter().all(let_go).then_some(())
            });
            assert_eq!(it.get("cgroup.events"), "populated 1\nfrozen 0\n");
        }
        it.freeze();
        // Frozen or not, the tree goes with its front.
        running.signal(libc::SIGKILL);
        running.vanish();
    }
}

fn parents_see_nothing(place: Place) {
    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let it = Frozen(&running, place);
    for _ in 0..3 {
        it.freeze();
        assert_eq!(state(child), Some('t'));
        // Its parent is the supervisor, which would stop the front for a stop of its own.
        assert_ne!(state(running.pid()), Some('T'));
        it.thaw();
        untraced(&running, place, child);
    }
    kill(child, libc::SIGTERM).unwrap();
    let ended = running.end();
    assert_eq!(ended.out, format!("ready {child}\nkilled 15\n"), "{ended:?}");
    let report = ended.report();
    assert_eq!(report.classes.freeze, Some(Class::Exact));
}

fn a_stopped_job_stays_stopped(place: Place) {
    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let it = Frozen(&running, place);
    kill(child, libc::SIGTSTP).unwrap();
    running.said("stopped 20");
    for _ in 0..3 {
        it.freeze();
        it.thaw();
        untraced(&running, place, child);
        running.until("the stop to be back", || is_stopped(place, state(child)?).then_some(()));
    }
    kill(child, libc::SIGCONT).unwrap();
    running.said("continued 0");
    kill(child, libc::SIGTERM).unwrap();
    let out = running.end().out;
    assert_eq!(out, format!("ready {child}\nstopped 20\ncontinued 0\nkilled 15\n"));
}

fn a_stopped_command_and_its_front_stay_stopped(place: Place) {
    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let command = watch::process(child).expect("the child").ppid;
    let it = Frozen(&running, place);
    let both = |state: char| {
        let what = format!("command and front to be {state}");
        running.until(&what, || {
            let (command, front) =
                (watch::process(command)?.state, watch::process(running.pid())?.state);
            let stopped = [is_stopped(place, command), front == 'T'];
            stopped.iter().all(|it| *it == (state == 'T')).then_some(())
        });
    };
    kill(command, libc::SIGSTOP).unwrap();
    both('T');
    it.freeze();
    assert_eq!(state(command), Some('t'));
    assert_eq!(state(running.pid()), Some('T'));
    it.thaw();
    both('T');
    kill(command, libc::SIGCONT).unwrap();
    both('S');
    // Stopped while it is frozen: it stops when it is thawed, and so does the front.
    it.freeze();
    kill(command, libc::SIGSTOP).unwrap();
    assert_eq!(it.get("cgroup.events"), "populated 1\nfrozen 1\n");
    assert_ne!(state(running.pid()), Some('T'));
    it.thaw();
    both('T');
    kill(command, libc::SIGCONT).unwrap();
    both('S');
    kill(child, libc::SIGTERM).unwrap();
    let ended = running.end();
    assert_eq!((ended.status, ended.out), (0, format!("ready {child}\nkilled 15\n")));
}

fn what_continues_a_job_waits_for_the_thaw(place: Place) {
    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let it = Frozen(&running, place);
    kill(child, libc::SIGSTOP).unwrap();
    running.said("stopped 19");
    it.freeze();
    kill(child, libc::SIGCONT).unwrap();
    assert_eq!(state(child), Some('t'));
    assert_eq!(it.get("cgroup.events"), "populated 1\nfrozen 1\n");
    it.thaw();
    running.said("continued 0");
    untraced(&running, place, child);
    assert_ne!(state(child), Some('T'));
    kill(child, libc::SIGTERM).unwrap();
    running.said("killed 15");
    running.end();
}

fn signals_wait_for_the_thaw(place: Place) {
    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let it = Frozen(&running, place);
    it.freeze();
    kill(child, libc::SIGUSR1).unwrap();
    for _ in 0..3 {
        kill(child, libc::SIGRTMIN()).unwrap();
    }
    let pending = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let pending = pending.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap().trim();
    let expected = (1_u64 << (libc::SIGUSR1 - 1)) | (1 << (libc::SIGRTMIN() - 1));
    assert_eq!(u64::from_str_radix(pending, 16), Ok(expected));
    assert_eq!(running.out(), format!("ready {child}\n"));
    it.thaw();
    let got = |what| running.out().lines().filter(|line| *line == what).count();
    running.until("four signals", || (got("got 10") == 1 && got("got 100") == 3).then_some(()));
    it.freeze();
    kill(child, libc::SIGTERM).unwrap();
    assert_eq!(state(child), Some('t'));
    it.thaw();
    assert!(running.end().out.ends_with("killed 15\n"));
}

fn sigkill_does_not_wait(place: Place) {
    let running = run(place).acts("family", 400).start();
    let child = number(&running, "ready");
    let it = Frozen(&running, place);
    it.freeze();
    kill(child, libc::SIGKILL).unwrap();
    running.until("the end", || state(child).is_none_or(|state| state == 'Z').then_some(()));
    // Whoever waits for it is frozen.
    assert_eq!(it.get("cgroup.events"), "populated 1\nfrozen 1\n");
    assert_eq!(running.out(), format!("ready {child}\n"));
    it.thaw();
    running.said("killed 9");
    let report = running.end().report();
    // Collected by the tracer and by the parent, and counted once.
    let ms = (report.cpu.user_ns + report.cpu.system_ns) / 1_000_000;
    assert!((400..700).contains(&ms), "{ms} ms");
    assert_eq!(report.cpu.class, Class::Exact);

    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let command = watch::process(child).expect("the child").ppid;
    Frozen(&running, place).freeze();
    kill(command, libc::SIGKILL).unwrap();
    assert_eq!(running.end().status, 137);
}

fn a_timeout_lets_the_frozen_clean_up(place: Place) {
    let script = "trap 'echo cleaned; exit 3' TERM; echo ready; ACTS sleep MARK & wait";
    let options = ["--timeout", "2s", "--kill-grace", "60s"];
    let running = run(place).options(&options).script(script).start();
    running.said("ready");
    Frozen(&running, place).freeze();
    let ended = running.end();
    assert_eq!((ended.status, ended.out.as_str()), (124, "ready\ncleaned\n"), "{ended:?}");
}

fn a_timeout_without_grace_kills_the_frozen(place: Place) {
    let options = ["--timeout", "2s", "--kill-grace", "0"];
    let running = run(place).options(&options).acts("load", 40).start();
    running.said("ready");
    Frozen(&running, place).freeze();
    let ended = running.end();
    assert_eq!(ended.status, 124, "{ended:?}");
}

fn a_killed_supervisor_lets_go(place: Place) {
    let running = run(place).acts("family", 0).start();
    let child = number(&running, "ready");
    let supervisor = running.supervisor();
    Frozen(&running, place).freeze();
    // The front would kill them at once.
    running.signal(libc::SIGSTOP);
    running.until("the front to stop", || (state(running.pid())? == 'T').then_some(()));
    kill(supervisor, libc::SIGKILL).unwrap();
    untraced(&running, place, child);
    running.until("it to run", || (state(child)? == 'S').then_some(()));
    running.signal(libc::SIGCONT);
    assert_eq!(running.end().status, 125);
}

fn who_is_traced_is_named_and_cannot_fork(place: Place) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let running = run(place).options(&["--backend", "gate"]).acts("traced", 0);
    let running = running.stdin(reader).start();
    let tracee = number(&running, "tracee");
    let tracer = thread(tracee).expect("the tracee").tracer;
    let it = Frozen(&running, place);
    let line = refusal(&cgrove(place, &["freeze", &running.mark]));
    assert!(line.contains(&format!("process {tracee} (")), "{line}");
    assert!(line.contains(&format!(") is traced by process {tracer} (")), "{line}");
    assert!(line.contains(" is frozen [sampled]: "), "{line}");
    assert_eq!(it.get("cgroup.events"), "populated 1\nfrozen 0\n");
    assert_eq!(it.get("cgroup.freeze"), "1\n");
    assert_eq!(state(tracer), Some('t'));
    // It runs on, and may ask for a fork, but not have one.
    writer.write_all(b"x").expect("it reads");
    let asks = || {
        let text = fs::read_to_string(format!("/proc/{tracee}/syscall")).unwrap_or_default();
        text.starts_with(&format!("{} ", libc::SYS_clone)).then_some(())
    };
    running.until("it to ask for a fork", asks);
    for _ in 0..3 {
        assert_eq!(it.get("cgroup.freeze"), "1\n");
    }
    assert_eq!(asks(), Some(()), "it got its fork");
    it.thaw();
    running.said("forked 1");
    assert_eq!(thread(tracee).expect("the tracee").tracer, tracer);
    untraced(&running, place, tracer);
    kill(tracee, libc::SIGKILL).unwrap();
    let report = running.end().report();
    assert_eq!(report.classes.freeze, Some(Class::Sampled));
    let told = format!("process {tracee} (");
    assert!(report.warnings.iter().any(|warning| warning.contains(&told)), "{report:?}");
}

fn who_may_not_be_traced_is_an_error(place: Place) {
    let running = run(place).acts("undumpable", 0).start();
    running.said("ready 0");
    let it = Frozen(&running, place);
    let root = place == Place::Here && nix::unistd::geteuid().is_root();
    if root || place == Place::Traced {
        // With CAP_SYS_PTRACE everyone may be, and who is stays so.
        it.freeze();
        it.thaw();
    } else {
        let line = refusal(&cgrove(place, &["freeze", &running.mark]));
        assert!(line.contains("cannot freeze") && line.contains("may not be traced"), "{line}");
        assert!(line.contains("EPERM") && line.contains("nothing was frozen"), "{line}");
        let set = cgrove(place, &["set", &running.mark, "cgroup.freeze", "1"]);
        assert!(refusal(&set).contains("EPERM"), "{set:?}");
        assert_eq!(it.get("cgroup.freeze"), "0\n");
        assert_eq!(it.get("cgroup.events"), "populated 1\nfrozen 0\n");
    }
    running.signal(libc::SIGKILL);
    running.vanish();
}

fn a_parent_in_vfork_is_no_obstacle(place: Place) {
    let running = run(place).acts("vfork-wait", 0).start();
    let (parent, child) = (number(&running, "parent"), number(&running, "child"));
    running.until("the parent to wait", || (state(parent)? == 'D').then_some(()));
    let it = Frozen(&running, place);
    for _ in 0..3 {
        it.freeze();
        assert_eq!((state(parent), state(child)), (Some('D'), Some('t')));
        it.thaw();
        untraced(&running, place, child);
    }
    kill(child, libc::SIGUSR1).unwrap();
    running.said("back 0");
    assert_eq!(running.end().status, 0);
}

/// An execve waits for the ends of the other threads to be taken, by a tracer that waits for the
/// execve to be over: the supervisor hung for good after a few rounds.
fn an_execve_of_one_thread_holds_nobody_up(place: Place) {
    let running = run(place).acts("exec-threads", 0).start();
    let supervisor = running.supervisor();
    running.until("threads", || (threads(supervisor).len() > 1).then_some(()));
    let it = Frozen(&running, place);
    for _ in 0..60 {
        it.freeze();
        let all = threads(supervisor);
        assert!(!all.is_empty() && all.iter().all(|thread| thread.state == 't'), "{all:?}");
        it.thaw();
    }
    running.signal(libc::SIGKILL);
    running.vanish();
}

fn frozen_from_the_start(place: Place) {
    let options = ["--set", "cgroup.freeze=1"];
    let running = run(place).options(&options).command(&["echo", "MARK"]).start();
    let it = Frozen(&running, place);
    running.until("the door", || {
        let events = cgrove(place, &["get", &running.mark, "cgroup.events"]);
        (events.stdout == b"populated 1\nfrozen 1\n").then_some(())
    });
    assert_eq!(running.out(), "");
    it.thaw();
    let ended = running.end();
    assert_eq!((ended.status, ended.out.trim()), (0, ended.report().name.as_str()));
}
