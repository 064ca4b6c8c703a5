//! The task limit: never passed, never refused too early, and said with where and how often.

use cgrove_host::report::{Class, Reason};
use cgrove_testkit::watch;

use crate::kit::{Place, behind, run};

crate::tests![
    a_fork_bomb_never_passes_the_limit,
    a_bomb_of_short_lives_never_passes_the_limit,
    a_tree_that_moves_never_passes_the_limit,
    the_limit_can_be_filled_to_the_last_place,
    one_task_is_a_limit_too,
    the_dead_do_not_raise_the_peak,
    two_thousand_threads,
    threads_are_not_asked_without_a_limit,
    a_bomb_without_a_bound_dies_in_one_pass,
    the_classic_bomb_ends_with_its_command["bash"],
    the_classic_bomb_is_held_for_as_long_as_it_lasts["bash"],
    without_a_gate_the_newest_go,
    a_slow_fork_keeps_its_place,
    what_proc_hides_keeps_its_places[crate::PID_NAMESPACE],
];

fn a_fork_bomb_never_passes_the_limit(place: Place) {
    let options = ["--pids-max", "50", "--timeout", "1500ms", "--kill-grace", "0"];
    let running = run(place).options(&options).acts("bomb", 0).start();
    let supervisor = running.supervisor();
    // Nobody in this bomb ends before all do, so a walk through /proc cannot count anyone twice.
    let mut most = 0;
    while watch::process(running.pid()).is_some_and(|front| front.state != 'Z') {
        let tasks = watch::below(supervisor).iter().map(|process| process.threads.max(1)).sum();
        most = most.max(tasks);
        assert!(most <= 50, "{most} tasks under a limit of 50");
    }
    let ended = running.end();
    let report = ended.report();
    assert!(most > 25, "the bomb did not grow: {most}");
    // EAGAIN, as from the kernel's own controller.
    assert!(ended.out.lines().any(|line| line == "refused 11"), "{ended:?}");
    assert!(ended.out.lines().all(|line| line == "refused 11"), "{ended:?}");
    assert_eq!((ended.status, report.reason), (124, Reason::Timeout));
    assert_eq!((report.tasks.peak, report.tasks.class), (Some(50), Class::Exact));
    assert_eq!(report.forks.count, Some(49));
    let refused = report.forks.refused.unwrap();
    let hits = report.pids_max.hits.unwrap();
    assert!(hits >= 50 && refused >= hits, "{report:?}");
    assert_eq!(report.pids_max.place, Some(format!("/{}", report.name)));
    // The command was killed by the timeout; 49 others with it.
    assert_eq!(report.left_behind.killed, 49);
}

fn a_bomb_of_short_lives_never_passes_the_limit(place: Place) {
    let ended = run(place).options(&["--pids-max", "8"]).acts("churn", 3000).end();
    let report = ended.report();
    assert_eq!((ended.status, ended.number("forks")), (0, 3000));
    // Counted from inside, by the tasks themselves.
    assert!(ended.number("most") <= 8, "{ended:?}");
    assert!(report.tasks.peak.unwrap() <= 8, "{report:?}");
    assert_eq!(report.forks.count, Some(3000));
    assert_eq!(report.forks.refused, Some(ended.number("refused")), "{ended:?}");
    assert_eq!(report.pids_max.hits, report.forks.refused);
}

/// Parents end while their children are counted, so that a walk over `/proc` can miss some.
fn a_tree_that_moves_never_passes_the_limit(place: Place) {
    let ended = run(place).options(&["--pids-max", "12"]).acts("relay", 3000).end();
    let report = ended.report();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(ended.number("forks") >= 3000, "{ended:?}");
    assert!(ended.number("most") <= 12, "{ended:?}");
    assert!(report.tasks.peak.unwrap() <= 12, "{report:?}");
    assert!(ended.number("refused") > 0, "the limit was not tried: {ended:?}");
}

/// The ledger may not undercount, and at the limit it may not overcount either: a place that
/// somebody gave up is there for the very next fork.
fn the_limit_can_be_filled_to_the_last_place(place: Place) {
    let ended = run(place).options(&["--pids-max", "40"]).acts("fill", 300).end();
    let report = ended.report();
    assert_eq!(ended.number("children"), 39, "{ended:?}");
    assert_eq!(ended.number("errno"), 11, "{ended:?}");
    assert_eq!(ended.number("refused-too-early"), 0, "{ended:?}");
    assert_eq!((report.tasks.peak, report.tasks.class), (Some(40), Class::Exact));
    assert_eq!((report.forks.count, report.forks.refused), (Some(339), Some(1)));
}

fn one_task_is_a_limit_too(place: Place) {
    let ended = run(place).options(&["--pids-max", "1"]).script("true MARK | true").end();
    let report = ended.report();
    assert_ne!(ended.status, 0);
    assert_eq!(report.reason, Reason::PidsMax, "{report:?}");
    assert_eq!(report.forks.count, Some(0));
    // exec needs no place.
    let ended = run(place).options(&["--pids-max", "1"]).script("exec ACTS exit MARK 4").end();
    assert_eq!((ended.status, ended.report().reason), (4, Reason::Exited));
}

/// A child that was seen, and has ended since, is not there when the next one is born.
fn the_dead_do_not_raise_the_peak(place: Place) {
    // The sleeps are long enough to be looked at.
    let script = "sleep 0.15; ACTS exit MARK 0; sleep 0.15; ACTS exit MARK 0; ACTS exit MARK 0";
    let ended = run(place).options(&["--pids-max", "20"]).script(script).end();
    let tasks = ended.report().tasks;
    assert_eq!(tasks.peak, Some(2), "{tasks:?}");
}

fn two_thousand_threads(place: Place) {
    let ended = run(place).options(&["--pids-max", "2001"]).acts("threads", 2000).end();
    let report = ended.report();
    assert_eq!((ended.status, ended.number("threads")), (0, 2000), "{ended:?}");
    assert_eq!(report.tasks.at_most, Some(2001), "{report:?}");
    assert!(report.tasks.peak.unwrap() <= 2001, "{report:?}");
    assert_eq!((report.forks.count, report.forks.refused), (Some(2000), Some(0)));
    // One place less, and the last thread is refused.
    let ended = run(place).options(&["--pids-max", "2000"]).acts("threads", 2000).end();
    assert_eq!((ended.number("threads"), ended.number("errno")), (1999, 11), "{ended:?}");
    assert_eq!(ended.report().tasks.peak, Some(2000));
}

fn threads_are_not_asked_without_a_limit(place: Place) {
    let ended = run(place).acts("threads", 500).end();
    let report = ended.report();
    assert_eq!(ended.number("threads"), 500);
    assert_eq!(report.forks.count, Some(0), "threads are not forks then");
    assert_eq!(report.tasks.class, Class::Sampled);
}

/// Closing the gate first is what ends this one: by walking /proc alone nobody catches up with it.
fn a_bomb_without_a_bound_dies_in_one_pass(place: Place) {
    let options = ["--pids-max", "3000", "--timeout", "300ms", "--kill-grace", "0"];
    // Somebody asks while the others are being killed, if not in every run.
    for _ in 0..6 {
        let ended = run(place).options(&options).acts("bomb", 0).end();
        let report = ended.report();
        assert_eq!((ended.status, report.reason), (124, Reason::Timeout));
        // Nobody in it ends by itself, so what was forked was there to be killed; only a fork that
        // was let through and whose caller the kill reached first did not happen. The busier the
        // machine, the more of them wait for a CPU.
        let (forks, killed) = (report.forks.count.unwrap(), report.left_behind.killed);
        assert!(killed <= forks && killed >= forks / 2, "{report:?}");
        // A second look finds the child of a fork that was let through just before.
        assert!(report.left_behind.passes <= 2, "{report:?}");
        if report.forks.refused.unwrap() > report.pids_max.hits.unwrap() {
            return;
        }
    }
    panic!("a closed gate refused nobody");
}

const CLASSIC: &str = ":(){ :|:& };:";

fn the_classic_bomb_ends_with_its_command(place: Place) {
    let options = ["--pids-max", "20", "--timeout", "10s"];
    let ended = run(place).options(&options).command(&["bash", "-c", CLASSIC, "MARK"]).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (0, Reason::Exited), "{ended:?}");
    assert!(report.forks.refused.is_some() && report.tasks.peak.unwrap() <= 20, "{report:?}");
}

fn the_classic_bomb_is_held_for_as_long_as_it_lasts(place: Place) {
    let options =
        ["--pids-max", "20", "--timeout", "1s", "--kill-grace", "0", "--keep-descendants"];
    let ended = run(place).options(&options).command(&["bash", "-c", CLASSIC, "MARK"]).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (124, Reason::Timeout), "{ended:?}");
    assert!(report.forks.refused.unwrap() > 0, "{report:?}");
    assert!(report.tasks.peak.unwrap() <= 20, "{report:?}");
    assert!(report.left_behind.killed > 0, "{report:?}");
}

/// Without the gate the limit is sampled: passed for a moment, then enforced on the newest.
fn without_a_gate_the_newest_go(place: Place) {
    let options =
        ["--backend", "reaper", "--pids-max", "30", "--timeout", "1s", "--kill-grace", "0"];
    let ended = run(place).options(&options).acts("leave", 200).end();
    let report = ended.report();
    assert_eq!(report.classes.pids, Class::Sampled);
    // The newest is the last sleep, so the shell goes on at once.
    let script = "i=0; while [ $i -lt 60 ]; do ACTS sleep MARK & i=$((i+1)); done; sleep 9";
    let ended = run(place).options(&options[..4]).script(script).end();
    let report = ended.report();
    assert!(report.pids_max.hits.unwrap() >= 30, "{ended:?}");
    assert!(report.left_behind.killed <= 31, "the killed are counted twice: {ended:?}");
    assert!(report.warnings.iter().any(|w| w.contains("--pids-max was exceeded")), "{report:?}");
    assert_eq!(report.forks.class, Class::Sampled);
}

/// A fork that takes long in the kernel is not finished because its caller has used CPU time.
fn a_slow_fork_keeps_its_place(place: Place) {
    let ended = run(place).options(&["--pids-max", "3"]).acts("slow-fork", 3).end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "both 0\n"), "{ended:?}");
}

/// Under `hidepid` an undumpable process, such as a key agent, cannot be looked into.
fn what_proc_hides_keeps_its_places(place: Place) {
    let mut it = run(place).options(&["--pids-max", "10"]).acts("hide", 50);
    let script = "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"";
    let mut command = behind(&["unshare", "-mpf", "sh", "-c", script, "sh"], &it.build());
    let ended = it.start_as(&mut command).end();
    let report = ended.report();
    assert_eq!((ended.status, ended.number("refused")), (0, 0), "{ended:?}");
    let alive = ended.number("alive");
    // Nobody hides from root. From others, forks before the first look may keep places for good.
    let hidden = report.warnings.iter().any(|warning| warning.contains("/proc hides"));
    assert_eq!(hidden, place == Place::Jail || !nix::unistd::geteuid().is_root(), "{report:?}");
    assert!(alive <= 10 && alive >= if hidden { 7 } else { 10 }, "{ended:?}");
}
