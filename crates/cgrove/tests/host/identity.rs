//! Nobody leaves the group, and everybody's time is counted.

use cgrove_host::report::{Class, Reason};

use cgrove_testkit::watch;

use crate::kit::{PATIENCE, Place, run};

crate::tests![
    a_daemon_with_an_empty_environment,
    a_sibling_made_by_clone_parent,
    a_program_that_never_waits,
    a_program_that_adopts_orphans,
    time_of_exited_children_is_counted,
    a_child_that_would_not_be_traced,
    a_run_inside_a_run,
    time_lost_with_a_pid_namespace_is_told["unshare"],
    who_enters_a_pid_namespace_is_told[crate::PID_NAMESPACE, "nsenter"],
];

const MS: u64 = 1_000_000;

fn a_daemon_with_an_empty_environment(place: Place) {
    let report = run(place).acts("daemon", 300).end().report();
    assert_eq!((report.exit.status, report.reason), (0, Reason::Exited));
    assert_eq!(report.left_behind.killed, 1);
    assert_eq!(report.left_behind.processes[0].cmdline[1], "daemon");
    assert_eq!(report.cpu.class, Class::Exact);
    let cpu = (report.cpu.user_ns + report.cpu.system_ns) / MS;
    assert!((300..2000).contains(&cpu), "the daemon used 300 ms, counted: {cpu}");
}

fn a_sibling_made_by_clone_parent(place: Place) {
    let ended = run(place).options(&["--pids-max", "2"]).acts("clone-parent", 150).end();
    let report = ended.report();
    // The parent cannot wait for it: ECHILD. The supervisor did.
    assert_eq!(ended.out, "wait errno 10\n");
    assert_eq!((report.forks.count, report.forks.refused), (Some(1), Some(0)));
    let cpu = (report.cpu.user_ns + report.cpu.system_ns) / MS;
    assert!((150..2000).contains(&cpu), "the sibling used 150 ms, counted: {cpu}");
}

/// The kernel throws such children's time away. It is sampled, and labelled so.
fn a_program_that_never_waits(place: Place) {
    let report = run(place).acts("ignore-sigchld", 500).end().report();
    assert_eq!(report.cpu.class, Class::Sampled);
    assert!(report.cpu.note.as_ref().is_some_and(|note| note.contains("SIGCHLD")), "{report:?}");
    let cpu = (report.cpu.user_ns + report.cpu.system_ns) / MS;
    // What it used after the last sample is lost, and samples are rare on a busy machine.
    assert!((100..2000).contains(&cpu), "the child used 500 ms, counted: {cpu}");
}

fn a_program_that_adopts_orphans(place: Place) {
    let ended = run(place).acts("subreaper", 0).end();
    assert_eq!(ended.out, "orphan is mine\n");
    assert_eq!(ended.report().left_behind.killed, 1);
}

fn time_of_exited_children_is_counted(place: Place) {
    let script = "for i in 1 2 3; do (ACTS burn MARK 100) & done; wait; ACTS burn MARK 100";
    let report = run(place).script(script).end().report();
    let cpu = (report.cpu.user_ns + report.cpu.system_ns) / MS;
    assert!((400..3000).contains(&cpu), "four times 100 ms, counted: {cpu}");
    assert_eq!(report.cpu.class, Class::Exact);
}

/// An inner run is a group of the outer one (see `groups.rs`), unless it is to be on its own. Only one
/// listener per task is possible, so it has none then. Both count, and the outer one holds what the
/// inner one starts.
fn a_run_inside_a_run(place: Place) {
    let cgrove = crate::kit::kit().cgrove.display().to_string();
    let inner = format!("{cgrove} run --backend reaper --json - -- ACTS daemon MARK 50");
    let ended = run(place).options(&["--pids-max", "20"]).script(&inner).end();
    let outer = ended.report();
    let inner: serde_json::Value = serde_json::from_str(&ended.out).expect("the inner report");
    assert_eq!((ended.status, outer.left_behind.killed), (0, 0), "{ended:?}");
    assert_eq!(inner["backend"], "reaper");
    assert_eq!(inner["left_behind"]["killed"], 1);
    assert!(outer.forks.count.unwrap() >= 4, "front, supervisor, command, daemon: {outer:?}");

    let strict = format!("{cgrove} run --require {} -- true MARK", place.asking());
    let ended = run(place).script(&strict).end();
    assert_eq!(ended.status, 0, "{ended:?}");

    // The outer kill reaches into the inner group.
    let inner = format!("{cgrove} run -- ACTS leave MARK 5 & sleep 0.2; ACTS sleep MARK");
    let options = ["--timeout", "600ms", "--kill-grace", "0"];
    let ended = run(place).options(&options).script(&inner).end();
    assert_eq!(ended.status, 124);
}

/// Whose child asks nobody could never fork, and would not be counted.
fn a_child_that_would_not_be_traced(place: Place) {
    let ended = run(place).options(&["--pids-max", "9"]).acts("clone-untraced", 0).end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "forked 1\n"), "{ended:?}");
    assert_eq!(ended.report().forks.count, Some(2));
}

/// The kernel throws away the time of those that it ends with the init of their namespace.
fn time_lost_with_a_pid_namespace_is_told(place: Place) {
    let script = "unshare -pf sh -c 'ACTS burn MARK 50 & sleep 0.1' && echo made";
    let ended = run(place).script(script).end();
    let cpu = ended.report().cpu;
    if ended.out == "made\n" {
        assert!(cpu.note.is_some_and(|note| note.contains("pid namespace")), "{ended:?}");
        assert_eq!(cpu.class, Class::Sampled);
    } else {
        // Not allowed here, and so nothing was lost.
        assert_eq!(cpu.class, Class::Exact, "{ended:?}");
    }
}

/// What is orphaned in a namespace from outside falls to that one's init, not to us.
fn who_enters_a_pid_namespace_is_told(place: Place) {
    let mut init = std::process::Command::new("unshare");
    let mut init = init.args(["-pf", "--kill-child", "sleep", "1000"]).spawn().expect("unshare");
    let outer = i32::try_from(init.id()).expect("a pid");
    let inner = watch::until("the namespace's init", PATIENCE, || {
        watch::below(outer).into_iter().find(|p| p.cmdline[0] == "sleep")
    });
    let enter = format!("nsenter -t {} -p true && echo entered; : MARK", inner.pid);
    let told = run(place).script(&enter).end();
    let refused = run(place).options(&["--require", "kill=exact"]).script(&enter).end();
    let _ = init.kill();
    let _ = init.wait();
    let report = told.report();
    let entered = told.out == "entered\n";
    assert_eq!(report.classes.kill, if entered { Class::Sampled } else { Class::Exact });
    assert_eq!(report.warnings.iter().any(|w| w.contains("entered a pid namespace")), entered);
    assert_eq!(entered, place != Place::Jail, "{told:?}");
    assert_eq!((refused.out.as_str(), refused.report().classes.kill), ("", Class::Exact));
}
