//! What a run says about itself: its status, its line and its report.

use std::time::Duration;

use cgrove_host::report::{Backend, Class, Reason};

use crate::UNTRACED;
use crate::kit::{Place, run};

crate::tests![
    the_status_passes_through,
    a_command_that_cannot_start,
    a_timeout_is_124_and_gives_time_to_clean_up,
    a_stubborn_tree_is_killed_after_the_grace,
    a_stopped_tree_is_ended_by_its_timeout,
    the_grace_is_for_descendants_too,
    times_beyond_the_clock_never_come,
    quiet_says_nothing_and_verbose_says_why,
    the_report_goes_to_standard_output,
    the_report_has_the_documented_fields,
    left_behind_is_killed_counted_and_named,
    keeping_descendants_waits_for_the_last,
    doctor_agrees_with_a_run[UNTRACED],
    doctor_measures_what_works[UNTRACED],
];

fn the_status_passes_through(place: Place) {
    for status in [0, 1, 42, 124, 125, 255] {
        let ended = run(place).acts("exit", status).end();
        let report = ended.report();
        assert_eq!(ended.status as u64, status, "{ended:?}");
        assert_eq!(report.exit.code.map(|code| code as u64), Some(status));
        assert_eq!(report.reason, Reason::Exited);
    }
    for signal in [6, 9, 11, 15] {
        let ended = run(place).acts("die", signal).end();
        let report = ended.report();
        assert_eq!(ended.status as u64, 128 + signal, "{ended:?}");
        assert_eq!(report.exit.signal.map(|s| s as u64), Some(signal));
        assert_eq!((report.exit.code, report.reason), (None, Reason::Signaled));
    }
}

fn a_command_that_cannot_start(place: Place) {
    let ended = run(place).command(&["/no/such/program", "MARK"]).end();
    assert_eq!((ended.status, ended.report().reason), (127, Reason::ExecFailed));
    assert!(ended.only_line().contains("/no/such/program: not found"), "{ended:?}");
    let ended = run(place).command(&["/etc/passwd", "MARK"]).end();
    assert_eq!((ended.status, ended.report().reason), (126, Reason::ExecFailed));
    assert_eq!(ended.report().exec_error.as_deref(), Some("EACCES"));
    assert!(ended.only_line().contains("/etc/passwd: not permitted (EACCES)"), "{ended:?}");
}

fn a_timeout_is_124_and_gives_time_to_clean_up(place: Place) {
    let ended = run(place).options(&["--timeout", "300ms"]).acts("signals", 0).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (124, Reason::Timeout));
    // It was asked first, and its own answer is in the report.
    assert!(ended.out.ends_with("got 15\n"), "{ended:?}");
    assert_eq!(report.exit.code, Some(3));
    assert!(ended.only_line().starts_with("cgrove: timed out in 0."), "{ended:?}");
}

fn a_stubborn_tree_is_killed_after_the_grace(place: Place) {
    let options = ["--timeout", "200ms", "--kill-grace", "200ms"];
    let ended = run(place).options(&options).acts("stubborn", 0).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (124, Reason::Timeout));
    assert_eq!(report.exit.signal, Some(9));
    assert!(report.wall_ns >= 400_000_000, "killed before its grace was over: {ended:?}");
    // Without grace there is no SIGTERM.
    let options = ["--timeout", "200ms", "--kill-grace", "0"];
    let ended = run(place).options(&options).acts("signals", 0).end();
    assert_eq!((ended.status, ended.out.as_str()), (124, "ready\n"));
}

fn a_stopped_tree_is_ended_by_its_timeout(place: Place) {
    let options = ["--timeout", "300ms", "--kill-grace", "20s"];
    let running = run(place).options(&options).script("ACTS sleep MARK & wait").start();
    let report = running.end().report();
    assert_eq!(report.reason, Reason::Timeout);
    let running =
        run(place).options(&options).script("ACTS sleep MARK & kill -STOP $!; wait").start();
    let report = running.end().report();
    assert_eq!(report.reason, Reason::Timeout);
    let wall = Duration::from_nanos(report.wall_ns);
    assert!(wall < Duration::from_secs(15), "it waited for a stopped process: {wall:?}");
}

fn quiet_says_nothing_and_verbose_says_why(place: Place) {
    let ended = run(place).options(&["--quiet"]).acts("leave", 1).end();
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    let ended = run(place).options(&["--verbose"]).acts("leave", 2).end();
    let backend = format!("cgrove: backend {}: ", place.asking());
    assert!(ended.err.contains(&backend), "{ended:?}");
    let named = ended.err.lines().filter(|line| line.contains("left behind: "));
    assert_eq!(named.filter(|line| line.contains("acts leave")).count(), 2, "{ended:?}");
}

fn the_report_goes_to_standard_output(place: Place) {
    let ended = run(place).options(&["--json", "-"]).command(&["echo", "hello", "MARK"]).end();
    let (first, json) = ended.out.split_once('\n').expect("two lines");
    assert!(first.starts_with("hello"), "{ended:?}");
    let json: serde_json::Value = serde_json::from_str(json).expect("one JSON object");
    assert_eq!(json["version"], 1);
    assert_eq!(json["command"][1], "hello");
}

/// The grace is everyone's: a shell dies of SIGTERM at once, the program it waits for cleans up.
fn the_grace_is_for_descendants_too(place: Place) {
    let options = ["--timeout", "300ms", "--kill-grace", "20s"];
    let script = "sh -c 'trap \"sleep 0.5; echo cleaned; exit 0\" TERM; \
        while :; do sleep 0.02; done' & wait; : MARK";
    let ended = run(place).options(&options).script(script).end();
    assert_eq!((ended.status, ended.out.as_str()), (124, "cleaned\n"), "{ended:?}");
}

fn times_beyond_the_clock_never_come(place: Place) {
    let long = "500000000000years";
    let ended = run(place).options(&["--timeout", long]).acts("exit", 4).end();
    assert_eq!(ended.status, 4, "{ended:?}");
    let options = ["--timeout", "2s", "--kill-grace", long];
    let script = "trap 'sleep 0.2; exit 3' TERM; echo; while :; do sleep 0.02; done; : MARK";
    let ended = run(place).options(&options).script(script).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (124, Reason::Timeout), "{ended:?}");
    assert_eq!(report.exit.code, Some(3), "{ended:?}");
}

/// docs/REPORT.md and the report name the same fields, both ways.
fn the_report_has_the_documented_fields(place: Place) {
    let ended = run(place).options(&["--pids-max", "9"]).acts("leave", 1).end();
    let json: serde_json::Value = serde_json::from_str(&ended.json.unwrap()).unwrap();
    let mut fields = Vec::new();
    leaves("", &json, &mut fields);
    fields.sort();
    let text = include_str!("../../../../docs/REPORT.md");
    let (text, _) = text.split_once("## The events").expect("what comes behind");
    let rows =
        text.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 4);
    let mut documented: Vec<String> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split(','))
        .map(|name| name.trim().trim_matches('`').to_owned())
        .collect();
    documented.sort();
    assert_eq!(fields, documented);
}

/// Paths of everything that is not an object.
fn leaves(path: &str, value: &serde_json::Value, to: &mut Vec<String>) {
    match value.as_object() {
        Some(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{name}"), value, to);
            }
        }
        None => to.push(path.to_owned()),
    }
}

fn left_behind_is_killed_counted_and_named(place: Place) {
    let ended = run(place).acts("leave", 100).end();
    let left = ended.report().left_behind;
    assert_eq!((left.killed, left.processes.len(), left.truncated), (100, 64, true));
    assert_eq!(left.class, Class::Exact);
    for process in &left.processes {
        assert_eq!(process.cmdline[1], "leave", "{process:?}");
    }
    assert!(ended.only_line().ends_with("killed 100 left behind"), "{ended:?}");
}

fn keeping_descendants_waits_for_the_last(place: Place) {
    let script = "(sleep 0.3; echo last; exit 7) & exit 5";
    let ended = run(place).options(&["--keep-descendants"]).script(script).end();
    let report = ended.report();
    assert_eq!((ended.status, ended.out.as_str()), (5, "last\n"));
    assert_eq!(report.left_behind.killed, 0);
    // They are still under the limits.
    let options = ["--keep-descendants", "--timeout", "300ms", "--kill-grace", "0"];
    let ended = run(place).options(&options).acts("leave", 3).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (124, Reason::Timeout));
    assert_eq!(report.left_behind.killed, 3);
}

fn doctor_agrees_with_a_run(place: Place) {
    let doctor = |args: &[&str]| {
        let mut command = place.command(&crate::kit::kit().cgrove);
        command.arg("doctor").args(args).output().expect("the doctor answers")
    };
    let output = doctor(&["--json", "--quick"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let report = run(place).acts("exit", 0).end().report();
    assert_eq!(found["backend"], report.backend.map(Backend::name).unwrap());
    assert_eq!(found["backend_reason"], report.backend_reason);
    if place == Place::Jail {
        assert_eq!(found["no_new_privs"], true);
        assert_eq!(found["cap_sys_admin"], false);
        assert!(found["seccomp_filters"].as_u64().is_none_or(|n| n >= 2), "{found}");
    }
    let mut deaf = place.command("env");
    deaf.arg("--ignore-signal=CHLD").arg(&crate::kit::kit().cgrove);
    let deaf =
        deaf.args(["doctor", "--json", "--quick"]).output().expect("the doctor answers").stdout;
    let deaf: serde_json::Value = serde_json::from_slice(&deaf).expect("JSON");
    assert_eq!((&deaf["gate"], &deaf["backend"]), (&found["gate"], &found["backend"]));
    let cpu = deaf["classes"].as_array().unwrap().iter().find(|class| class["feature"] == "cpu");
    assert_eq!(cpu.unwrap()["class"], "sampled");
    let words = String::from_utf8(doctor(&["--quick"]).stdout).unwrap();
    for row in ["fork gate", "ptrace scope", "subreaper", "kernel cgroup2", "children", "takes the"]
    {
        assert!(words.contains(row), "no {row} in {words}");
    }
}

fn doctor_measures_what_works(place: Place) {
    let mut doctor = place.command(&crate::kit::kit().cgrove);
    let found = doctor.args(["doctor", "--json"]).output().expect("the doctor answers").stdout;
    let found: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
    let list = |what: &str| found[what].as_array().unwrap_or_else(|| panic!("{found}")).clone();
    let names = ["kernel", "gate", "ptrace", "reaper"];
    assert!(list("rungs").iter().map(|rung| &rung["backend"]).eq(names), "{found}");
    let works = list("rungs").into_iter().filter(|rung| rung["works"] == true);
    let works: Vec<_> = works.map(|rung| rung["backend"].clone()).collect();
    let measured = list("measured");
    assert!(measured.iter().map(|it| &it["backend"]).eq(&works), "{found}");
    for it in measured {
        for figure in ["start_ms", "fork_ratio", "memory_over_percent", "cpu_over_percent"] {
            assert!(it[figure].is_f64(), "{figure}: {it}");
        }
        let peak = it["tasks_peak"].as_u64().expect("a peak");
        assert!(it["backend"] == "reaper" || (1..=8).contains(&peak), "{it}");
    }
}
