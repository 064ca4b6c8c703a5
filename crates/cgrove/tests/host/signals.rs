//! Transparency: the command gets what the caller would have given it.

use std::fs::File;
use std::io::Write;
use std::process::Stdio;

use crate::kit::{Place, fresh_path, kit, run};

crate::tests![
    signals_are_forwarded,
    nothing_of_cgrove_is_inherited,
    ignored_and_blocked_signals_are_handed_down,
    directory_environment_and_arguments_stay,
    streams_pass_through,
    a_stopped_front_holds_nobody_up,
    a_stop_that_is_over_does_not_hold_cgrove,
    signals_reach_what_the_command_left,
    a_stopped_command_stops_cgrove,
    an_alarm_set_before_reaches_the_command["perl"],
    pipes_end_when_the_command_closes_them,
];

fn signals_are_forwarded(place: Place) {
    let running = run(place).acts("signals", 0).start();
    running.said("ready");
    for signal in [1, 2, 3, 10, 12, 34, 40, 64] {
        running.signal(signal);
        running.said(&format!("got {signal}"));
    }
    running.signal(15);
    let ended = running.end();
    assert_eq!(ended.status, 3, "{ended:?}");
    assert!(ended.out.ends_with("got 15\n"), "{ended:?}");
}

fn nothing_of_cgrove_is_inherited(place: Place) {
    let bare = place.command(&kit().acts).args(["inherited", "m"]).stdin(Stdio::null()).output();
    let bare = String::from_utf8(bare.unwrap().stdout).unwrap();
    let ours = run(place).acts("inherited", 0).end();
    assert_eq!(ours.out, bare);
    let reaper = run(place).options(&["--backend", "reaper"]).acts("inherited", 0).end();
    assert_eq!(reaper.out, bare);
}

fn ignored_and_blocked_signals_are_handed_down(place: Place) {
    let inner = run(place).acts("inherited", 0);
    let mut words = vec![inner.build().get_program().to_owned()];
    words.extend(inner.build().get_args().map(ToOwned::to_owned));
    let mut env = std::process::Command::new("env");
    // Whoever runs the tests may have ignored some himself.
    env.arg("--default-signal");
    env.args(["--ignore-signal=USR1,CHLD", "--block-signal=HUP,RTMAX"]).args(&words);
    let mut inner = inner;
    let ended = inner.start_as(&mut env).end();
    let signal = |line: &&str| line.starts_with("ignored") || line.starts_with("blocked");
    let said: Vec<_> = ended.out.lines().filter(signal).collect();
    assert_eq!(said, ["blocked 1", "ignored 10", "ignored 17", "blocked 64"], "{ended:?}");
}

fn directory_environment_and_arguments_stay(place: Place) {
    let folder = fresh_path("a folder with spaces");
    std::fs::create_dir(&folder).unwrap();
    let mut it = run(place).script("pwd; echo \"$COLOUR\"; printf '[%s]' \"$@\"; : MARK");
    let mut command = it.build();
    command.args(["sh", "one two", "", "--json"]);
    command.current_dir(&folder).env("COLOUR", "a b\tc");
    let ended = it.start_as(&mut command).end();
    let want = format!("{}\na b\tc\n[one two][][--json]", folder.display());
    assert_eq!(ended.out, want);
}

fn streams_pass_through(place: Place) {
    let path = fresh_path("input");
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    File::create(&path).unwrap().write_all(&data).unwrap();
    let ended = run(place)
        .stdin(File::open(&path).unwrap())
        .script("cksum; echo complaint >&2; : MARK")
        .end();
    let bare = std::process::Command::new("cksum").stdin(File::open(&path).unwrap()).output();
    assert_eq!(ended.out.as_bytes(), bare.unwrap().stdout);
    assert!(ended.err.starts_with("complaint\n"), "{ended:?}");
}

/// A front that is stopped alone must not hold the tree up, however often that changes its state.
fn a_stopped_front_holds_nobody_up(place: Place) {
    let script = "echo ready; (while kill -CONT $$; do :; done) & i=0; \
        while [ $i -lt 2000 ]; do kill -STOP $$; i=$((i+1)); done; \
        kill $!; echo done; exit 5; : MARK";
    let running = run(place).script(script).start();
    running.said("ready");
    running.signal(libc::SIGSTOP);
    running.said("done");
    assert_eq!(running.end().status, 5);
}

/// Whoever continues the command, or ends it, continues cgrove.
fn a_stop_that_is_over_does_not_hold_cgrove(place: Place) {
    let script = "(sleep 0.2; kill -CONT $$) & kill -STOP $$; echo back; : MARK";
    let ended = run(place).script(script).end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "back\n"), "{ended:?}");
    let options = ["--timeout", "300ms", "--kill-grace", "0"];
    let ended = run(place).options(&options).script("kill -STOP $$; : MARK").end();
    assert_eq!(ended.status, 124, "{ended:?}");
}

fn signals_reach_what_the_command_left(place: Place) {
    let running = run(place).options(&["--keep-descendants"]).script("ACTS signals MARK &").start();
    running.said("ready");
    running.signal(libc::SIGTERM);
    let ended = running.end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "ready\ngot 15\n"), "{ended:?}");
}

/// A stop without a terminal, as a script's supervisor may send it.
fn a_stopped_command_stops_cgrove(place: Place) {
    let running = run(place).script("kill -STOP $$; exit 6; : MARK").start();
    let stopped = || {
        let front = cgrove_testkit::watch::process(running.pid())?;
        (front.state == 'T').then_some(())
    };
    running.until("the front to stop", stopped);
    running.signal(18);
    assert_eq!(running.end().status, 6);
}

/// `perl -e 'alarm …; exec …'` is a timeout that many use: the alarm outlives exec, not fork.
fn an_alarm_set_before_reaches_the_command(place: Place) {
    let mut it = run(place).script("trap 'exit 6' ALRM; while :; do sleep 0.05; done; : MARK");
    let mut perl = place.command("perl");
    perl.args(["-e", "alarm 1; exec @ARGV"]);
    let built = it.build();
    let at = built.get_args().position(|word| word == "run").expect("a run");
    perl.arg(&crate::kit::kit().cgrove).args(built.get_args().skip(at));
    assert_eq!(it.start_as(&mut perl).end().status, 6);
}

/// A reader waits for the last holder of a pipe, and cgrove must not be one.
fn pipes_end_when_the_command_closes_them(place: Place) {
    let go = crate::kit::fresh_path("go");
    let go = go.display();
    let script = format!("exec 3>&- >&-; until [ -e {go} ]; do sleep 0.02; done; : MARK");
    let mut it = run(place).script(&script);
    let reader = format!("\"$@\" 3>&1 | {{ cat; echo over > {go}; }}");
    assert_eq!(it.behind_shell(&reader).end().status, 0);
}
