//! A live run from outside and from inside: its files can be read and written by name.

use std::process::{Command, Output};

use cgrove_host::report::Class;

use cgrove_testkit::watch;

use crate::kit::{Place, kit, run};

crate::tests![
    a_run_is_looked_into_and_changed,
    a_command_reads_its_own_limits,
    a_long_list_of_children_is_read_whole,
    files_are_set_before_the_start,
    what_is_refused_says_why,
    a_name_is_taken_once,
    a_killed_run_leaves_no_door,
    a_limit_that_comes_late_is_told,
    cgroup_kill_ends_the_run,
    nobody_at_the_door_holds_a_run_up["perl"],
    what_is_sent_along_holds_nobody_up,
    the_longest_names_are_names_too,
];

pub fn cgrove(place: Place, args: &[&str]) -> Output {
    place.command(&kit().cgrove).args(args).output().expect("cgrove answers")
}

/// What such a command prints; it must succeed.
pub fn answer(place: Place, args: &[&str]) -> String {
    let output = cgrove(place, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The one line with which it refuses.
pub fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "{output:?}");
    text
}

fn a_run_is_looked_into_and_changed(place: Place) {
    for backend in ["gate", "reaper"] {
        let it = run(place).options(&["--set", "pids.max=50", "--backend", backend]);
        let script = "ACTS sleep MARK & ACTS sleep MARK & echo ready; wait";
        let running = it.script(script).start();
        running.said("ready");
        let name = running.mark.clone();
        let get = |file: &str| answer(place, &["get", &name, file]);
        assert_eq!(get("pids.max"), "50\n");
        assert_eq!(get("pids.current"), "3\n");
        let pids: Vec<i32> = get("cgroup.procs").lines().map(|pid| pid.parse().unwrap()).collect();
        let mut there: Vec<i32> = watch::marked(&name).iter().map(|p| p.pid).collect();
        there.retain(|pid| *pid != running.pid() && *pid != running.supervisor());
        assert!(
            pids.len() == 3 && pids.iter().all(|pid| there.contains(pid)),
            "{pids:?} {there:?}"
        );
        answer(place, &["set", &name, "pids.max", "10"]);
        assert_eq!(get("pids.max"), "10\n");
        let names = answer(place, &["ls", &name]);
        for file in ["cgroup.procs", "cgroup.events", "pids.max", "pids.current"] {
            assert!(names.lines().any(|name| name == file), "no {file} in {names}");
        }
        let tree = answer(place, &["tree"]);
        let line = tree.lines().find(|line| line.starts_with(&format!("{name} ")));
        assert!(line.is_some_and(|line| line.ends_with(" of 10 tasks")), "{tree}");
        running.signal(libc::SIGKILL);
        running.vanish();
    }
}

fn a_command_reads_its_own_limits(place: Place) {
    let cgrove = kit().cgrove.display();
    let script = format!(
        "{cgrove} get \"$CGROVE\" pids.max; {cgrove} set $CGROVE pids.max 7; \
        {cgrove} get $CGROVE pids.max; echo \"name $CGROVE\"; : MARK"
    );
    let it = run(place).options(&["--pids-max", "20"]).script(&script);
    let name = it.mark.clone();
    let ended = it.end();
    assert_eq!(ended.out, format!("20\n7\nname {name}\n"), "{ended:?}");
}

fn files_are_set_before_the_start(place: Place) {
    let options = ["--set", "pids.max=0x10", "--set", "cgroup.max.depth=3"];
    let cgrove = kit().cgrove.display();
    let script =
        format!("{cgrove} get $CGROVE pids.max; {cgrove} get $CGROVE cgroup.max.depth; : MARK");
    let ended = run(place).options(&options).script(&script).end();
    assert_eq!(ended.out, "16\n3\n", "{ended:?}");
    assert_eq!(ended.report().limits.pids_max, Some(16));
    for (setting, why) in [
        ("pids.max=many", "EINVAL"),
        ("pids.nonsense=1", "ENOENT"),
        ("memory.low=2G", "ENOENT"),
        ("cgroup.events=1", "EINVAL"),
    ] {
        let ended = run(place).options(&["--set", setting]).script("echo never; : MARK").end();
        assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
        assert!(ended.only_line().contains(why), "{setting}: {ended:?}");
    }
}

fn what_is_refused_says_why(place: Place) {
    let running = run(place).options(&["--pids-max", "20"]).acts("load", 0).start();
    running.said("ready");
    let name = running.mark.as_str();
    for (args, why) in [
        (&["get", name, "pids.nonsense"][..], "ENOENT"),
        (&["get", name, "../x"], "ENOENT"),
        (&["get", name, ""], "ENOENT"),
        (&["get", &format!("{name}/nowhere"), "pids.max"], "ENOENT"),
        (&["set", name, "pids.max", "-1"], "EINVAL"),
        (&["set", name, "pids.max", &"9".repeat(5000)], "E2BIG"),
        (&["set", name, "pids.current", "1"], "EINVAL"),
        (&["set", name, "cgroup.freeze", "2"], "ERANGE"),
        (&["freeze", "no-such-run"], "ENOENT"),
        (&["thaw", &format!("{name}/nowhere")], "ENOENT"),
        (&["get", "no-such-run", "pids.max"], "ENOENT"),
        (&["ls", "no-such-run"], "ENOENT"),
        (&["tree", "no-such-run"], "ENOENT"),
    ] {
        let line = refusal(&cgrove(place, args));
        assert!(line.contains(why), "{args:?}: {line}");
    }
    assert_eq!(answer(place, &["get", name, "pids.max"]), "20\n");
    running.signal(libc::SIGKILL);
    running.vanish();
}

fn a_name_is_taken_once(place: Place) {
    let running = run(place).acts("load", 0).start();
    running.said("ready");
    let mut second = place.command(&kit().cgrove);
    let second = second.args(["run", "--name", &running.mark, "--", "echo", "never"]).output();
    let second = second.expect("cgrove answers");
    assert!(refusal(&second).contains("EEXIST"), "{second:?}");
    assert!(second.stdout.is_empty());
    running.signal(libc::SIGKILL);
    running.vanish();
}

fn a_killed_run_leaves_no_door(place: Place) {
    let running = run(place).acts("load", 0).start();
    running.said("ready");
    let name = running.mark.clone();
    cgrove_host::sys::kill(running.supervisor(), libc::SIGKILL).unwrap();
    assert_eq!(running.end().status, 125);
    assert!(!answer(place, &["tree"]).contains(&name));
    // The name is free.
    let mut again = place.command(&kit().cgrove);
    let again: &mut Command = again.args(["run", "--name", &name, "--quiet", "--", "echo", "free"]);
    assert_eq!(again.output().expect("cgrove answers").stdout, b"free\n");
}

fn a_limit_that_comes_late_is_told(place: Place) {
    let cgrove = kit().cgrove.display();
    let script = format!("{cgrove} set $CGROVE pids.max 5; : MARK");
    let report = run(place).script(&script).end().report();
    assert_eq!((report.limits.pids_max, report.classes.pids), (Some(5), Class::Sampled));
    assert!(report.warnings.iter().any(|w| w.contains("after the start")), "{report:?}");
}

fn cgroup_kill_ends_the_run(place: Place) {
    let running = run(place).acts("load", 0).start();
    running.said("ready");
    answer(place, &["set", &running.mark, "cgroup.kill", "1"]);
    let ended = running.end();
    assert_eq!(ended.status, 128 + libc::SIGKILL, "{ended:?}");
}

/// Junk, requests without a way to answer, and askers that never take their answer.
fn nobody_at_the_door_holds_a_run_up(place: Place) {
    // As the run's own user: from inside.
    let cgrove = kit().cgrove.display();
    let perl = r#"use Socket; use IO::Socket::UNIX;
        my ($door) = glob(($ENV{XDG_RUNTIME_DIR} // "") . "/cgrove/$ENV{CGROVE}");
        $door = "/tmp/cgrove-$</$ENV{CGROVE}" unless -S $door;
        socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die;
        my $sent = 0;
        for my $junk ("", "x", "{}", "\xff" x 9000, "[" x 30000, "{\"Get\":{\"path\":\"\"}}") {
            $sent++ if defined send($s, $junk, 0, sockaddr_un($door));
        }
        print "sent $sent\n";"#;
    let script = format!("perl -e '{perl}'; {cgrove} get $CGROVE pids.max; : MARK");
    let ended = run(place).options(&["--pids-max", "20"]).script(&script).end();
    assert_eq!(ended.out, "sent 6\n20\n", "{ended:?}");
}

/// A supervisor that received or dropped a lingering socket would sit in its close, and the fork
/// that `linger` tries next would wait for it, as would the time limit. One that took in what a
/// message brings would sooner or later have no descriptor left for `/proc`.
fn what_is_sent_along_holds_nobody_up(place: Place) {
    for (act, said) in [("linger", "forked at once\n"), ("hand-over", "few\n")] {
        let ended = run(place).options(&["--pids-max", "20"]).acts(act, 0).end();
        assert_eq!((ended.status, ended.out.as_str()), (0, said), "{act}: {ended:?}");
    }
}

/// An address of a socket takes 107 bytes, a file's name 255.
fn the_longest_names_are_names_too(place: Place) {
    let name = &format!("{}\u{e9}", "n".repeat(253));
    let mut first = place.command(&kit().cgrove);
    let cgrove = kit().cgrove.display();
    let script = format!(
        "{cgrove} get $CGROVE pids.max; {cgrove} tree $CGROVE; {cgrove} tree; \
        {cgrove} run --backend reaper --name $CGROVE -- echo never"
    );
    first.args(["run", "--quiet", "--pids-max", "30", "--name", name, "--", "sh", "-c", &script]);
    let output = first.output().expect("cgrove answers");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(&format!("30\n{name}  ")), "{output:?}");
    assert_eq!(said.lines().filter(|line| line.starts_with(name)).count(), 2, "{output:?}");
    assert!(refusal(&output).contains("EEXIST"), "{output:?}");
}

/// `/proc` hands a long list out page by page, and not in whole pages.
fn a_long_list_of_children_is_read_whole(place: Place) {
    let script = "for i in $(seq 1200); do ACTS sleep MARK & done; echo ready; wait";
    let running = run(place).options(&["--pids-max", "3000"]).script(script).start();
    running.said("ready");
    let get = |file: &str| answer(place, &["get", &running.mark, file]);
    assert_eq!(get("cgroup.procs").lines().count(), 1201);
    assert_eq!(get("pids.current"), "1201\n");
    running.signal(libc::SIGKILL);
    running.vanish();
}
