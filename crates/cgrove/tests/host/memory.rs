//! Limits on memory that nobody enforces but by looking.

use std::io::Write as _;

use cgrove_host::report::{Class, Measure, Reason};
use nix::unistd::pipe;

use crate::kit::{Place, exec, run};
use crate::live::{answer, cgrove};

crate::tests![
    whoever_is_over_is_killed_and_named,
    a_killed_child_is_named_too,
    shared_memory_is_counted_once,
    the_largest_goes,
    oom_score_adj_decides,
    a_group_goes_together,
    over_high_is_slowed_down_and_lives,
    an_alarm_of_a_group_acts_from_outside_of_it,
    limits_change_while_running,
    whoever_may_not_be_traced_is_held_all_the_same[crate::UNTRACED],
    the_peak_is_always_told,
    a_series_is_kept_when_asked_for,
];

const MIB: u64 = 1 << 20;

fn whoever_is_over_is_killed_and_named(place: Place) {
    for backend in ["gate", "reaper"] {
        let options = ["--memory-max", "100M", "--backend", backend];
        let it = run(place).options(&options).acts("grow", 4000);
        let ended = it.end();
        let report = ended.report();
        assert_eq!((ended.status, report.reason), (137, Reason::MemoryMax), "{ended:?}");
        assert_eq!((report.exit.signal, ended.out.as_str()), (Some(9), ""), "{ended:?}");
        let memory = &report.memory;
        assert_eq!(report.limits.memory_max, Some(100 * MIB));
        let [kill] = &memory.oom_kills[..] else { panic!("{memory:?}") };
        assert_eq!(Some(kill.pid), report.pid);
        assert_eq!((kill.cmdline[1].as_str(), kill.limit_bytes), ("grow", 100 * MIB));
        assert!(kill.bytes > 90 * MIB && kill.usage_bytes > 100 * MIB, "{kill:?}");
        assert_eq!(memory.overshoot_bytes, Some(kill.usage_bytes - kill.limit_bytes));
        assert!(memory.peak_bytes >= Some(kill.usage_bytes), "{memory:?}");
        assert_eq!((memory.class, memory.measure), (Class::Sampled, Some(Measure::Pss)));
        assert_eq!((memory.max_hits, memory.oom_kill_count), (Some(1), Some(1)), "{memory:?}");
        let line = ended.only_line();
        assert!(line.starts_with("cgrove: killed for memory in "), "{line}");
        assert!(line.contains(&format!("killed process {} (acts, ", kill.pid)), "{line}");
    }
}

fn a_killed_child_is_named_too(place: Place) {
    let ended = run(place).options(&["--memory-max", "150M"]).acts("spread", 30).end();
    let report = ended.report();
    // The command saw its child die and ended by itself.
    assert_eq!((ended.status, ended.out.as_str()), (0, "killed 9\n"), "{ended:?}");
    assert_eq!(report.reason, Reason::Exited);
    let kill = &report.memory.oom_kills[0];
    assert_ne!(Some(kill.pid), report.pid);
    assert!(ended.only_line().contains(&format!("killed process {}", kill.pid)), "{ended:?}");
}

/// Eleven times 100 MiB, all of it the same.
fn shared_memory_is_counted_once(place: Place) {
    for act in ["share", "share-file"] {
        let running = run(place).options(&["--memory-max", "200M"]).acts(act, 100).start();
        running.said("shared 100");
        let get = |file: &str| answer(place, &["get", &running.mark, file]);
        for _ in 0..5 {
            let current: u64 = get("memory.current").trim().parse().expect("a number");
            assert!((99 * MIB..150 * MIB).contains(&current), "{act}: {current}");
            assert!(get("memory.events").contains("\noom_kill 0\n"), "{act}");
        }
        running.signal(libc::SIGTERM);
        let ended = running.end();
        let memory = ended.report().memory;
        assert_eq!((memory.max_hits, memory.oom_kill_count), (Some(0), Some(0)), "{act}");
        assert!(memory.peak_bytes < Some(200 * MIB), "{act}: {memory:?}");
    }
}

/// Not the one whose growth was too much.
fn the_largest_goes(place: Place) {
    let ended = run(place).options(&["--memory-max", "200M"]).acts("choose", 0).end();
    assert_eq!(ended.out, "killed 1\nsignal 9\n", "{ended:?}");
    assert_eq!(ended.report().memory.oom_kill_count, Some(1), "{ended:?}");
}

fn oom_score_adj_decides(place: Place) {
    let ended = run(place).options(&["--memory-max", "200M"]).acts("choose", 900).end();
    assert_eq!(ended.out, "killed 0\nsignal 9\n", "{ended:?}");
    // Only with CAP_SYS_RESOURCE, and root of a container may be without.
    let mut probe = place.command("sh");
    let probe = probe.args(["-c", "echo -1000 2>/dev/null >/proc/self/oom_score_adj"]);
    if probe.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
        let words = ["ACTS", "choose", "MARK", "-1000"];
        let ended = run(place).options(&["--memory-max", "200M"]).command(&words).end();
        assert_eq!(ended.out, "killed 2\nsignal 9\n", "{ended:?}");
    }
}

fn a_group_goes_together(place: Place) {
    let options = ["--memory-max", "200M", "--set", "memory.oom.group=1"];
    let ended = run(place).options(&options).acts("choose", 0).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (137, Reason::MemoryMax), "{ended:?}");
    assert_eq!(ended.out, "", "{ended:?}");
    assert_eq!(report.memory.oom_kill_count, Some(4), "{report:?}");
}

fn over_high_is_slowed_down_and_lives(place: Place) {
    let path = crate::kit::fresh_path("alarm");
    let alarm = format!("echo $CGROVE_EVENT $CGROVE_LIMIT >>{}", path.display());
    let options = ["--memory-high", "50M", "--on-high", &alarm];
    let running = run(place).options(&options).acts("grow", 600).start();
    let get = |file: &str| answer(place, &["get", &running.mark, file]);
    running.until("three hits", || {
        // Not there in the first moment.
        let events = cgrove(place, &["get", &running.mark, "memory.events"]);
        let events = String::from_utf8(events.stdout).expect("text");
        let high = events.lines().find_map(|line| line.strip_prefix("high "))?;
        (high.parse::<u64>().ok()? >= 3).then_some(())
    });
    // Held, and nobody can see it.
    assert_eq!(get("cgroup.events"), "populated 1\nfrozen 0\n");
    assert_eq!(get("cgroup.freeze"), "0\n");
    assert_eq!(running.out(), "");
    answer(place, &["set", &running.mark, "memory.high", "max"]);
    let ended = running.end();
    let report = ended.report();
    assert_eq!((ended.status, ended.out.as_str()), (0, "grown 600\n"), "{ended:?}");
    assert_eq!(report.memory.oom_kill_count, Some(0));
    assert!(report.memory.high_hits >= Some(3), "{report:?}");
    crate::kit::until("the alarm", || {
        let line = format!("memory.high {}", 50 * MIB);
        (std::fs::read_to_string(&path).ok()?.lines().next()? == line).then_some(())
    });
}

fn an_alarm_of_a_group_acts_from_outside_of_it(place: Place) {
    let cgrove_bin = crate::kit::kit().cgrove.display();
    let acts = crate::kit::kit().acts.display();
    let outer = crate::kit::fresh_name();
    answer(place, &["create", &outer]);
    for brought_in in [false, true] {
        let path = crate::kit::fresh_path("alarm");
        let alarm = format!(
            "{{ echo $CGROVE_EVENT $CGROVE_LIMIT $CGROVE_GROUP $$; \
             {cgrove_bin} get $CGROVE_GROUP cgroup.procs; }} >{}; \
             {cgrove_bin} set $CGROVE_GROUP memory.high max",
            path.display()
        );
        let options = ["--memory-high", "50M", "--on-high", &alarm];
        let (ended, group) = if brought_in {
            let it = exec(place, &outer).options(&options).acts("grow", 600);
            let group = format!("/{outer}/{}", it.mark);
            (it.end(), group)
        } else {
            let words = format!("--memory-high 50M --on-high '{alarm}' -- {acts} grow MARK 600");
            let script = format!("{cgrove_bin} run --quiet --name inner {words}; exit $?");
            let it = run(place).script(&script);
            let group = format!("/{}/inner", it.mark);
            (it.end(), group)
        };
        assert_eq!((ended.status, ended.out.as_str()), (0, "grown 600\n"), "{ended:?}");
        // Nobody waits for an alarm.
        let text = crate::kit::until("the alarm", || {
            let text = std::fs::read_to_string(&path).ok()?;
            (text.split_whitespace().count() > 4).then_some(text)
        });
        let words: Vec<&str> = text.split_whitespace().collect();
        let limit = (50 * MIB).to_string();
        assert_eq!(words[..3], ["memory.high", &limit, &group], "{text}");
        let (alarm, members) = (words[3], &words[4..]);
        assert!(!members.is_empty() && !members.contains(&alarm), "{text}");
    }
    answer(place, &["rm", &outer]);
}

fn limits_change_while_running(place: Place) {
    let (theirs, ours) = pipe().expect("a pipe");
    let running = run(place).acts("grow-by", 60).stdin(theirs).start();
    let mut ours = std::fs::File::from(ours);
    running.said("grown 0");
    let set = |file: &str, value: &str| answer(place, &["set", &running.mark, file, value]);
    let get = |file: &str| answer(place, &["get", &running.mark, file]);
    assert_eq!(get("memory.max"), "max\n");
    set("memory.max", "100M");
    writeln!(ours).expect("a line");
    running.said("grown 60");
    assert!(get("memory.events").contains("\noom_kill 0\n"));
    set("memory.max", "200M");
    writeln!(ours).expect("a line");
    running.said("grown 120");
    assert!(get("memory.events").contains("\noom_kill 0\n"));
    // Below what it has.
    set("memory.max", "80M");
    let ended = running.end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (137, Reason::MemoryMax), "{ended:?}");
    assert_eq!(report.limits.memory_max, Some(80 * MIB));
}

/// It hides its memory from us, unless we are root.
fn whoever_may_not_be_traced_is_held_all_the_same(place: Place) {
    let ended = run(place).options(&["--memory-max", "100M"]).acts("grow-undumpable", 4000).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (137, Reason::MemoryMax), "{ended:?}");
    let told = report.warnings.iter().any(|warning| warning.contains("could not be measured"));
    let root = place == Place::Here && nix::unistd::geteuid().is_root();
    assert_eq!(told, !root, "{report:?}");
}

fn the_peak_is_always_told(place: Place) {
    let ended = run(place).acts("grow", 150).end();
    let memory = ended.report().memory;
    assert!(memory.peak_bytes >= Some(140 * MIB), "{memory:?}");
    assert!(memory.peak_bytes < Some(180 * MIB), "{memory:?}");
    assert_eq!((memory.class, memory.max_hits), (Class::Sampled, Some(0)));
    // However short.
    let memory = run(place).acts("exit", 0).end().report().memory;
    assert!(memory.peak_bytes < Some(60 * MIB), "{memory:?}");
}

fn a_series_is_kept_when_asked_for(place: Place) {
    let options = ["--series", "--memory-max", "200M", "--pids-max", "9"];
    let ended = run(place).options(&options).acts("choose", 0).end();
    let series = ended.report().series.expect("a series");
    let [group] = &series.groups[..] else { panic!("{series:?}") };
    assert_eq!((group.limits.memory_max, group.limits.pids_max), (Some(200 * MIB), Some(9)));
    let lengths = [group.memory_bytes.len(), group.cpu_ns.len(), group.tasks.len()];
    assert_eq!(lengths, [group.t_ms.len(); 3]);
    assert!(group.cpu_ns.is_sorted() && group.t_ms.is_sorted());
    let kinds: Vec<&str> = series.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["memory.max", "oom-kill", "kill"], "{series:?}");
    let killed = &ended.report().memory.oom_kills[0];
    let it = series.processes.iter().find(|it| it.pid == killed.pid).expect("the killed one");
    assert_eq!(it.cmdline[1], "choose");
    assert!(it.peak_bytes > 90 * MIB && it.started_ms <= killed.at_ms, "{it:?}");
    assert!(run(place).acts("exit", 0).end().report().series.is_none());
}
