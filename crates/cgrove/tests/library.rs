//! The library from a program's side: real runs of the real command.

use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use cgrove::report::Reason;
use cgrove::{Error, Happening, Running, Supervisor, What};
use cgrove_testkit::watch;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const PATIENCE: Duration = Duration::from_secs(30);

fn supervisor() -> Supervisor {
    Supervisor::builder().binary(env!("CARGO_BIN_EXE_cgrove")).build().unwrap()
}

fn example(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_cgrove")).parent().unwrap();
    let program = folder.join("examples").join(name);
    assert!(program.exists(), "`cargo build --examples` makes {}", program.display());
    program
}

/// A run with a daemon in it, and the daemon's pid.
fn with_daemon() -> (Running, i32) {
    let script = "setsid sleep 1000 & echo $!; wait";
    let command = supervisor().command("sh").args(["-c", script]).quiet();
    let mut run = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout().unwrap()).read_line(&mut line).unwrap();
    (run, line.trim().parse().unwrap())
}

fn vanishes(pid: i32) {
    let path = format!("/proc/{pid}");
    watch::until("the daemon to die", PATIENCE, || (!Path::new(&path).exists()).then_some(()));
}

#[test]
fn output_and_report_come_together() {
    let script = "echo out; echo err >&2; sleep 1000 & exit 3";
    let output = supervisor().command("sh").args(["-c", script]).pids_max(9).output().unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let report = output.report;
    assert_eq!(
        (report.exit.code, report.reason, report.limits.pids_max),
        (Some(3), Reason::Exited, Some(9))
    );
    assert_eq!(report.left_behind.killed, 1);
}

#[test]
fn limits_are_those_of_the_command_line() {
    let hungry = "my @a; push @a, 'x' x (8 << 20) while 1";
    let command = supervisor().command("perl").args(["-e", hungry]).memory_max(60 << 20);
    let command = command.memory_high(1 << 40).cpu_max(1.5).timeout(PATIENCE);
    let report = command.output().unwrap().report;
    assert_eq!((report.reason, report.exit.status), (Reason::MemoryMax, 137), "{report:?}");
    let limits = report.limits;
    assert_eq!((limits.memory_max, limits.memory_high), (Some(60 << 20), Some(1 << 40)));
    assert_eq!(limits.cpu_max.map(|it| (it.quota_us, it.period_us)), Some((150_000, 100_000)));
    assert_eq!(limits.timeout_ms, Some(30_000));
}

#[test]
fn settings_reach_the_command() {
    let command = supervisor().command("sh").args(["-c", "pwd; echo $A$B; cat"]);
    let mut run = command
        .current_dir("/")
        .env("A", "1")
        .env("B", "2")
        .env_remove("B")
        .name("of-the-library")
        .quiet()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(run.name(), "of-the-library");
    std::io::Write::write_all(&mut run.stdin().unwrap(), b"typed").unwrap();
    let output = run.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/\n1\ntyped");
    assert_eq!(output.report.name, "of-the-library");
}

#[test]
fn whoever_drops_a_run_ends_it() {
    let (run, daemon) = with_daemon();
    drop(run);
    vanishes(daemon);
}

/// When this program is started again to be a host that is killed: starts a run, says the pid of a
/// daemon in it and waits.
#[test]
fn as_a_host() {
    let Ok(outlives) = std::env::var("CGROVE_TEST_OUTLIVES") else { return };
    let script = "setsid sleep 1000 & echo daemon $!; wait";
    let command = supervisor().command("sh").args(["-c", script]).quiet();
    let run = command.stderr(Stdio::null()).outlives_caller(outlives == "yes").spawn().unwrap();
    run.wait().unwrap();
}

#[test]
fn a_run_ends_with_the_program_unless_it_outlives_it() {
    for outlives in ["no", "yes"] {
        let mut host = std::process::Command::new(std::env::current_exe().unwrap());
        host.args(["--exact", "as_a_host", "--nocapture"]).env("CGROVE_TEST_OUTLIVES", outlives);
        let mut host = host.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(host.stdout.take().unwrap()).lines();
        let daemon = |line: String| line.split_once("daemon ")?.1.parse::<i32>().ok();
        let daemon = lines.map_while(Result::ok).find_map(daemon).unwrap();
        host.kill().unwrap();
        host.wait().unwrap();
        if outlives == "yes" {
            let supervisor = watch::process(daemon).expect("it lives").ppid;
            assert!(watch::process(supervisor).is_some_and(|it| it.state != 'Z'));
            cgrove_host::sys::kill(supervisor, libc::SIGKILL).unwrap();
        }
        vanishes(daemon);
    }
}

#[test]
fn a_kill_leaves_a_full_report() {
    let (mut run, daemon) = with_daemon();
    assert!(run.wait_timeout(Duration::from_millis(1)).is_none() && !run.is_over());
    run.kill().unwrap();
    let report = run.wait_timeout(PATIENCE).expect("it ends").unwrap();
    assert_eq!((report.reason, report.exit.signal), (Reason::Signaled, Some(9)));
    vanishes(daemon);
    assert!(matches!(run.signal(15), Err(Error::Io { .. })));
}

#[test]
fn a_signal_reaches_the_command() {
    let script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done";
    let command = supervisor().command("sh").args(["-c", script]).quiet();
    let mut run = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(run.stdout().unwrap());
    out.read_line(&mut String::new()).unwrap();
    run.signal(libc::SIGUSR1).unwrap();
    assert_eq!(run.wait().unwrap().exit.code, Some(7));
}

#[test]
fn refusals_are_told_in_cgroves_own_words() {
    let refused = supervisor().command("true").option("--pids-max", "many").output();
    assert!(
        matches!(&refused, Err(Error::Refused(line)) if line.contains("--pids-max")),
        "{refused:?}"
    );
    let nowhere = Supervisor::builder().binary("/no/cgrove").build();
    assert!(matches!(nowhere, Err(Error::NotFound(places)) if places == [Path::new("/no/cgrove")]));
    let gone = supervisor().open("never-was").get("pids.current");
    assert!(matches!(&gone, Err(Error::Refused(line)) if line.contains("no such run")), "{gone:?}");
    // That a command cannot be started is the command's failure, not ours.
    let missing = supervisor().command("/no/such/command").output().unwrap();
    assert_eq!((missing.report.reason, missing.report.exit.status), (Reason::ExecFailed, 127));
}

fn kinds(events: impl IntoIterator<Item = Result<Happening, Error>>) -> Vec<&'static str> {
    events.into_iter().map(|event| event.unwrap().what.kind()).collect()
}

#[test]
fn events_of_a_run_come_from_its_first_to_its_last() {
    let mut run =
        supervisor().command("sh").args(["-c", "exit 4"]).quiet().events().spawn().unwrap();
    let events = run.events().unwrap();
    assert!(run.events().is_none());
    assert_eq!(kinds(events), ["started", "exec", "ended"]);
    assert_eq!(run.wait().unwrap().exit.code, Some(4));
}

/// One that is polled, and one of a run that never comes so far.
#[test]
fn events_can_be_waited_for_by_a_descriptor() {
    let command = supervisor().command("sh").args(["-c", "read x; exit 4"]).quiet().events();
    let mut run = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut events = run.events().unwrap();
    let mut told = Vec::new();
    loop {
        match events.poll_next() {
            Poll::Ready(Some(event)) => {
                told.push(event);
                continue;
            }
            Poll::Ready(None) => break,
            Poll::Pending if told.len() == 2 => drop(run.stdin()),
            Poll::Pending => {}
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1), "{told:?}");
    }
    assert_eq!(kinds(told), ["started", "exec", "ended"]);
    let command = supervisor().command("true").option("--pids-max", "many").events();
    let mut refused = command.stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(refused.events().unwrap().count(), 0);
    assert!(refused.wait().is_err());
}

#[test]
fn events_of_a_group_end_with_it() {
    let group = supervisor().group(&named("told")).create().unwrap();
    let events = group.events().unwrap();
    group.set("pids.max", "5").unwrap();
    assert_eq!(group.command("true").output().unwrap().report.exit.code, Some(0));
    group.remove().unwrap();
    let events: Vec<Happening> = events.map(Result::unwrap).collect();
    assert_eq!(events[0].what, What::Set { file: "pids.max".to_owned(), value: "5".to_owned() });
    let kinds: Vec<&str> = events[1..].iter().map(|it| it.what.kind()).collect();
    let run = ["group-made", "started", "exec", "ended", "group-removed"];
    assert_eq!(kinds, [&run[..], &["group-removed"]].concat(), "{events:?}");
}

/// As a host's executor would be, in a few lines.
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn any_executor_can_wait() {
    let run = supervisor().command("sh").args(["-c", "exit 4"]).quiet().spawn();
    assert_eq!(block_on(run.unwrap().wait_async()).unwrap().exit.code, Some(4));
}

#[test]
fn a_future_that_is_dropped_ends_its_run() {
    let (run, daemon) = with_daemon();
    let mut future = Box::pin(run.wait_async());
    let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    drop(future);
    vanishes(daemon);
}

/// A host that ignores SIGCHLD: the kernel collects its children, and `waitpid` knows none.
#[test]
fn a_host_need_not_collect_children() {
    let script = "trap '' CHLD; exec \"$0\" sh -c 'echo fine; exit 5'";
    let mut host = std::process::Command::new("sh");
    let host = host.args(["-c", script]).arg(example("agent_tool"));
    let output = host.env("CGROVE_BIN", env!("CARGO_BIN_EXE_cgrove")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("exited with status 5") && text.contains("fine"), "{output:?}");
}

#[test]
fn the_ci_step_streams_and_fails_on_leaks() {
    let mut step = std::process::Command::new(example("ci_step"));
    step.args(["sh", "-c", "echo one; sleep 1000 >/dev/null & echo two"]);
    step.env("CGROVE_BIN", env!("CARGO_BIN_EXE_cgrove"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = step.spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("one") && text.contains("left 1 process"), "{text}");
}

fn named(what: &str) -> String {
    format!("library-{what}-{}", std::process::id())
}

#[test]
fn a_group_is_a_budget_for_several_commands() {
    let group = supervisor().group(&named("budget")).pids_max(6).create().unwrap();
    let twice = supervisor().group(group.name()).create();
    assert!(matches!(&twice, Err(Error::Refused(line)) if line.contains("EEXIST")), "{twice:?}");
    let script = "echo ready; read x; exit 3";
    let start = || {
        let command = group.command("sh").args(["-c", script]).quiet();
        let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(run.stdout().unwrap());
        out.read_line(&mut String::new()).unwrap();
        run
    };
    let runs: Vec<Running> = (0..3).map(|_| start()).collect();
    assert_eq!(group.get("pids.current").unwrap(), "3\n");
    let paths: Vec<String> =
        group.snapshot().unwrap().groups.into_iter().map(|it| it.path).collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    // One of them wants more than is left for all.
    let greedy = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait";
    let output = group.command("sh").args(["-c", greedy]).timeout(PATIENCE).output().unwrap();
    assert_eq!(output.report.pids_max.place.as_deref(), Some(&*format!("/{}", group.name())));
    // A limit that is changed holds for all of them.
    group.set("pids.max", "3").unwrap();
    let refused = group.command("true").output();
    assert!(
        matches!(&refused, Err(Error::Refused(line)) if line.contains("EAGAIN")),
        "{refused:?}"
    );
    // It is not removed from under them.
    let name = group.name().to_owned();
    let busy = group.remove();
    assert!(matches!(&busy, Err(Error::Refused(line)) if line.contains("EBUSY")), "{busy:?}");
    for mut run in runs {
        drop(run.stdin());
        assert_eq!(run.wait().unwrap().exit.code, Some(3));
    }
    supervisor().open(&name).remove().unwrap();
}

#[test]
fn whoever_drops_a_group_ends_it() {
    let group = supervisor().group(&named("dropped")).create().unwrap();
    let script = "setsid sleep 1000 & echo $!; wait";
    let command = group.command("sh").args(["-c", script]).quiet().stdout(Stdio::piped());
    let mut run = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(run.stdout().unwrap()).read_line(&mut line).unwrap();
    group.freeze().unwrap();
    assert!(group.get("cgroup.events").unwrap().contains("frozen 1"));
    group.thaw().unwrap();
    drop(group);
    vanishes(line.trim().parse().unwrap());
    run.wait_timeout(PATIENCE).expect("its run ends").ok();
}

#[test]
fn the_test_runner_tells_what_is_left() {
    let mut runner = std::process::Command::new(example("test_runner"));
    // Not before it is a sleep: until then it is the shell that forked it.
    let waits = "until [ \"$(head -c 5 /proc/$!/cmdline)\" = sleep ]; do :; done";
    runner.args(["true", &format!("sleep 1000 & {waits}; echo left"), "exit 3"]);
    let output = runner.env("CGROVE_BIN", env!("CARGO_BIN_EXE_cgrove")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("left running: sleep 1000") && text.contains("   3  exit 3"), "{text}");
}
