//! A run that ends with the process that started it, or with another one.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use cgrove_host::report::{Reason, Report};
use cgrove_testkit::watch;
use nix::unistd::geteuid;

use crate::kit::{Place, Run, exec, fresh_name, fresh_path, run, until};
use crate::live::answer;

crate::tests![
    a_killed_parent_takes_the_run_along,
    a_run_outlives_its_caller_by_default,
    a_parent_that_was_gone_before_the_start_is_told,
    an_ancestor_can_be_named,
    another_process_of_the_same_user_can_be_named,
    a_strangers_process_is_refused[crate::SUPERUSER],
    what_is_no_process_is_refused,
    a_parent_that_ends_late_changes_nothing,
    a_run_in_a_run_ends_with_its_parent,
    a_command_in_a_group_ends_with_its_asker,
];

/// A tree of which a part has left its session.
const TREE: &str = "setsid ACTS sleep MARK & ACTS sleep MARK & echo ready; wait";

/// A shell that has started a run.
struct Started {
    shell: Child,
    mark: String,
    report: std::path::PathBuf,
    out: std::path::PathBuf,
    err: std::path::PathBuf,
}

/// Starts it by `script`, in which `"$@"` is the run.
fn start(it: Run, script: &str) -> Started {
    let (report, out, err) = (fresh_path("report"), fresh_path("out"), fresh_path("err"));
    let it = it.options(&["--json", report.to_str().unwrap()]);
    let command = it.build();
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    let file = |path| fs::File::create(path).expect("a file for the output");
    shell.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let shell = shell.spawn().expect("a shell");
    Started { shell, mark: it.mark, report, out, err }
}

impl Started {
    fn said(&self, line: &str) {
        until(line, || {
            let out = fs::read_to_string(&self.out).unwrap_or_default();
            out.lines().any(|it| it == line).then_some(())
        });
    }

    fn kill(&mut self) {
        self.shell.kill().expect("the shell can be killed");
        self.shell.wait().expect("its status");
    }

    /// Waits for the report, when nobody is left to tell of the end.
    fn report(&self) -> Report {
        let gone = || watch::marked(&self.mark).is_empty().then_some(());
        until("the run to end", gone);
        serde_json::from_str(&fs::read_to_string(&self.report).unwrap()).expect("a report")
    }

    /// The same, for one that ended with its parent.
    fn ended_with_its_parent(&self) {
        let report = self.report();
        assert_eq!((report.reason, report.exit.status), (Reason::ParentEnded, 137), "{report:?}");
        assert!(report.left_behind.killed >= 2, "{report:?}");
        let err = fs::read_to_string(&self.err).unwrap();
        let lines = err.lines().filter(|line| line.starts_with("cgrove: ended with its parent in"));
        assert_eq!(lines.count(), 1, "{err}");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        watch::end_marked(&self.mark);
    }
}

fn a_killed_parent_takes_the_run_along(place: Place) {
    for backend in ["gate", "reaper"] {
        let options = ["--die-with-parent", "--backend", backend];
        let it = run(place).options(&options).script(TREE);
        let mut started = start(it, "\"$@\" & wait");
        started.said("ready");
        started.kill();
        started.ended_with_its_parent();
    }
}

fn a_run_outlives_its_caller_by_default(place: Place) {
    let script = "echo ready; while [ -d /proc/$PPID ] && ! [ -e GO ]; do sleep 0.02; done; exit 3";
    let go = fresh_path("go");
    let it = run(place).script(&script.replace("GO", go.to_str().unwrap()));
    let mut started = start(it, "\"$@\" & wait");
    started.said("ready");
    started.kill();
    // Whatever would end it has been told by now, or comes too late.
    fs::write(&go, "").unwrap();
    assert_eq!(started.report().exit.code, Some(3));
}

/// Has the shell's own pid take the place of PARENT in the run's words.
const FILL: &str = "for word; do shift; \
    [ \"$word\" = --die-with-parent=PARENT ] && word=${word%PARENT}$$; \
    set -- \"$@\" \"$word\"; done";

/// Starts the run, which takes the place of a child of the shell, when the shell has ended. Returns
/// what is said.
fn start_late(place: Place, option: &str) -> String {
    let it = run(place).options(&[option]).script("echo started >&2; : MARK");
    let waits = "while kill -0 $$ 2>/dev/null; do :; done";
    let mut started = start(it, &format!("{FILL}; ({waits}; exec \"$@\") & echo left"));
    started.said("left");
    started.shell.wait().unwrap();
    until("a line", || {
        let err = fs::read_to_string(&started.err).unwrap_or_default();
        (err.ends_with('\n') && watch::marked(&started.mark).is_empty()).then_some(err)
    })
}

fn a_parent_that_was_gone_before_the_start_is_told(place: Place) {
    // By its number, whoever adopts.
    let err = start_late(place, "--die-with-parent=PARENT");
    assert!(err.contains("it has ended (ESRCH)") && err.lines().count() == 1, "{err}");
    // Without one, if process 1 does.
    let mut orphan = Command::new("sh");
    orphan.args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
    let pid = String::from_utf8(orphan.output().unwrap().stdout).unwrap();
    let pid = pid.trim().parse().unwrap();
    let adopted = watch::process(pid).map(|it| it.ppid);
    cgrove_host::sys::kill(pid, libc::SIGKILL).unwrap();
    if adopted == Some(1) {
        let err = start_late(place, "--die-with-parent");
        assert!(err.contains("process 1, which may have adopted us (ESRCH)"), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
}

fn an_ancestor_can_be_named(place: Place) {
    // The shell is two processes above.
    let it = run(place).options(&["--die-with-parent=PARENT"]).script(TREE);
    let script = format!("{FILL}; (\"$@\" & wait) & wait");
    let mut started = start(it, &script);
    started.said("ready");
    started.kill();
    started.ended_with_its_parent();
}

/// A process that is no ancestor of anybody.
fn somebody(place: Place) -> Child {
    let mut command = place.command("sleep");
    command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Should this test die, so does it.
    command.process_group(0);
    command.spawn().expect("a process")
}

fn another_process_of_the_same_user_can_be_named(place: Place) {
    let mut other = somebody(place);
    // It is its user's once it is in its place.
    until("it to be there", || {
        let line = fs::read(format!("/proc/{}/cmdline", other.id())).ok()?;
        line.starts_with(b"sleep").then_some(())
    });
    let option = format!("--die-with-parent={}", other.id());
    let it = run(place).options(&[&option]).script(TREE);
    let started = start(it, "\"$@\" & wait");
    started.said("ready");
    other.kill().unwrap();
    other.wait().unwrap();
    started.ended_with_its_parent();
}

fn a_strangers_process_is_refused(place: Place) {
    assert!(geteuid().is_root());
    let mut other = somebody(if place == Place::Here { Place::Jail } else { Place::Here });
    until("it to be there", || {
        let line = fs::read(format!("/proc/{}/cmdline", other.id())).ok()?;
        line.starts_with(b"sleep").then_some(())
    });
    let option = format!("--die-with-parent={}", other.id());
    let ended = run(place).options(&[&option]).script("echo started; : MARK").end();
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
    assert!(ended.only_line().contains("of this user (EPERM)"), "{ended:?}");
}

fn what_is_no_process_is_refused(place: Place) {
    // Beyond what the kernel gives out.
    let ended = run(place).options(&["--die-with-parent=4194305"]).script(": MARK").end();
    assert_eq!(ended.status, 125, "{ended:?}");
    assert!(ended.only_line().contains("(ESRCH)"), "{ended:?}");
}

fn a_parent_that_ends_late_changes_nothing(place: Place) {
    let ended = run(place).options(&["--die-with-parent"]).acts("exit", 7).end();
    assert_eq!((ended.status, ended.report().reason), (7, Reason::Exited));
}

fn a_run_in_a_run_ends_with_its_parent(place: Place) {
    let inner = fresh_path("inner");
    let cgrove = crate::kit::kit().cgrove.display();
    let script = format!(
        "sh -c '{cgrove} run --die-with-parent --name inner --json {} -- sh -c \"{TREE}\" & wait' & \
         while ! {cgrove} get $CGROVE/inner pids.current 2>/dev/null | grep -q '^3'; do :; done; \
         kill -9 $!; wait",
        inner.display(),
    );
    let it = run(place).options(&["--keep-descendants"]).script(&script);
    let ended = it.end();
    assert!(ended.err.contains("ended with its parent"), "{ended:?}");
    let report: Report = serde_json::from_str(&fs::read_to_string(&inner).unwrap()).unwrap();
    assert_eq!((report.reason, report.exit.status), (Reason::ParentEnded, 137), "{report:?}");
}

fn a_command_in_a_group_ends_with_its_asker(place: Place) {
    let name = fresh_name();
    answer(place, &["create", &name]);
    let it = exec(place, &name).options(&["--die-with-parent"]).script(TREE);
    let mut started = start(it, "\"$@\" & wait");
    started.said("ready");
    started.kill();
    started.ended_with_its_parent();
    answer(place, &["rm", &name]);
}
