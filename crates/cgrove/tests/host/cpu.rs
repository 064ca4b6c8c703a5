//! Limits on CPU time, by halts that nobody sees, and CPUs that nobody leaves.
//!
//! What is tested holds on a machine that is busy with other things: a tree can always get less than
//! its quota. How exactly it gets all of it is in the benchmarks.

use std::fs;
use std::process::Command;

use cgrove_host::report::{Class, CpuMax};
use cgrove_testkit::watch;

use crate::kit::{Place, Running, run};
use crate::live::{answer, cgrove};

crate::tests![
    a_quota_holds_for_whatever_runs,
    periods_are_counted,
    parents_see_no_halt,
    a_halt_is_no_freeze,
    a_freeze_outlives_a_halt,
    quotas_change_while_running,
    requirements_are_checked,
    time_of_a_killed_thread_is_counted_once,
    time_of_those_who_end_is_taken_once,
    nobody_leaves_his_cpus["taskset"],
    cpus_change_while_running,
    cpus_that_are_not_there_are_refused,
    a_weight_becomes_niceness,
];

fn busy(place: Place, options: &[&str], script: &str) -> (u64, cgrove_host::report::Report) {
    let ended = run(place).options(options).script(script).end();
    let report = ended.report();
    (report.cpu.user_ns + report.cpu.system_ns, report)
}

const LOOP: &str = "while :; do :; done";

fn a_quota_holds_for_whatever_runs(place: Place) {
    let four = format!("for i in 1 2 3 4; do ({LOOP}; : MARK) & done; wait");
    let scripts = [
        format!("{LOOP}; : MARK"),
        four,
        "while :; do ACTS burn MARK 3; done".to_owned(),
        "ACTS burn-threads MARK 4".to_owned(),
    ];
    for script in scripts {
        for backend in ["gate", "reaper"] {
            let options =
                ["--cpu-max", "30%", "--timeout", "1s", "--kill-grace", "0", "--backend", backend];
            let (used, report) = busy(place, &options, &script);
            // Every period its quota, the last one too, and what a machine that lets the supervisor
            // wait makes of the end.
            let periods = report.wall_ns / 100_000_000 + 1;
            let most = periods * 30_000_000 + 250_000_000;
            assert!(used <= most, "{backend} {script}: {used} of {most}: {report:?}");
            assert_eq!(report.cpu.limit_class, Some(Class::Sampled));
            let max = CpuMax { quota_us: 30_000, period_us: 100_000 };
            assert_eq!(report.limits.cpu_max, Some(max));
        }
    }
}

fn periods_are_counted(place: Place) {
    let options = ["--cpu-max", "5000/20000", "--timeout", "1s", "--kill-grace", "0"];
    let (_, report) = busy(place, &options, &format!("{LOOP}; : MARK"));
    let (cpu, wall) = (report.cpu, report.wall_ns);
    let (periods, throttled) = (cpu.periods.unwrap(), cpu.throttled_periods.unwrap());
    assert!(periods <= wall / 20_000_000 + 1 && throttled <= periods, "{cpu:?}");
    assert!(throttled >= 2, "{cpu:?}");
    assert!((1..=wall).contains(&cpu.throttled_ns.unwrap()), "{cpu:?}");
    // Nobody who uses less ever waits.
    let (_, report) = busy(place, &["--cpu-max", "90%"], "ACTS burn MARK 20; sleep 0.3");
    assert_eq!(report.cpu.throttled_periods, Some(0), "{report:?}");
    let (_, report) = busy(place, &[], ": MARK");
    assert_eq!((report.cpu.periods, report.cpu.limit_class), (None, None));
}

/// A tree that runs, and has to wait most of the time.
fn throttled(place: Place, command: &[&str]) -> Running {
    let running = run(place).options(&["--cpu-max", "2000/100000"]).command(command).start();
    running.until("a period to wait in", || {
        let stat = cgrove(place, &["get", &running.mark, "cpu.stat"]);
        let text = String::from_utf8(stat.stdout).expect("text");
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled "))?;
        (count.parse::<u64>().ok()? > 1).then_some(())
    });
    running
}

/// Somebody is halted.
fn halted(running: &Running) -> Option<()> {
    watch::below(running.supervisor()).iter().any(|it| it.state == 't').then_some(())
}

/// One that waits for stops is told of none, though there are some.
fn parents_see_no_halt(place: Place) {
    let running = throttled(place, &["ACTS", "watch-child", "MARK", "300"]);
    running.until("a halt", || halted(&running));
    let ended = running.end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "stops 0\n"), "{ended:?}");
    assert!(ended.report().cpu.throttled_periods > Some(10), "{ended:?}");
}

fn a_halt_is_no_freeze(place: Place) {
    let running = throttled(place, &["sh", "-c", "while :; do :; done; : MARK"]);
    let get = |file: &str| answer(place, &["get", &running.mark, file]);
    for _ in 0..20 {
        assert_eq!(get("cgroup.events"), "populated 1\nfrozen 0\n");
        assert_eq!(get("cgroup.freeze"), "0\n");
    }
    running.signal(libc::SIGTERM);
    let ended = running.end();
    assert_eq!(ended.report().classes.freeze, None, "{ended:?}");
}

fn a_freeze_outlives_a_halt(place: Place) {
    let running = throttled(place, &["sh", "-c", "while :; do :; done; : MARK"]);
    let get = |file: &str| answer(place, &["get", &running.mark, file]);
    let usec = || {
        let text = get("cpu.stat");
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        line.expect("usage_usec").parse::<u64>().expect("a number")
    };
    for _ in 0..5 {
        answer(place, &["freeze", &running.mark]);
        assert_eq!(get("cgroup.events"), "populated 1\nfrozen 1\n");
        let before = usec();
        // The quota is lifted, and with it the halt.
        answer(place, &["set", &running.mark, "cpu.max", "max"]);
        assert_eq!(get("cgroup.events"), "populated 1\nfrozen 1\n");
        assert_eq!(usec(), before, "the frozen run");
        answer(place, &["thaw", &running.mark]);
        running.until("time to be used", || (usec() > before).then_some(()));
        // And the other way round: the halt outlives the freeze.
        answer(place, &["set", &running.mark, "cpu.max", "1000 1000000"]);
        running.until("the quota to be used up", || halted(&running));
        answer(place, &["freeze", &running.mark]);
        answer(place, &["thaw", &running.mark]);
        assert_eq!(get("cgroup.events"), "populated 1\nfrozen 0\n");
        answer(place, &["set", &running.mark, "cpu.max", "2000 100000"]);
    }
    running.signal(libc::SIGTERM);
    running.end();
}

fn quotas_change_while_running(place: Place) {
    let running = throttled(place, &["ACTS", "burn", "MARK", "400"]);
    assert_eq!(answer(place, &["get", &running.mark, "cpu.max"]), "2000 100000\n");
    // At this rate it would take 20 s.
    answer(place, &["set", &running.mark, "cpu.max", "max 100000"]);
    let ended = running.end();
    assert_eq!(ended.status, 0);
    assert!(ended.report().cpu.throttled_periods > Some(0), "{ended:?}");
    assert_eq!(ended.report().limits.cpu_max, None);
}

fn requirements_are_checked(place: Place) {
    let good = run(place).options(&["--require", "memory=sampled,cpu-max"]).acts("exit", 0).end();
    assert_eq!(good.status, 0, "{good:?}");
    for class in ["memory=exact", "cpu-max=kernel"] {
        let ended = run(place).options(&["--require", class]).acts("exit", 0).end();
        assert_eq!(ended.status, 125, "{ended:?}");
        assert!(ended.only_line().contains(class), "{ended:?}");
    }
}

/// To the tracer a thread's end comes with the time of its whole process.
fn time_of_a_killed_thread_is_counted_once(place: Place) {
    let options = ["--cpu-max", "20%", "--timeout", "700ms", "--kill-grace", "0"];
    let ended = run(place).options(&options).acts("burn-threads", 8).end();
    let cpu = ended.report().cpu;
    assert_eq!(cpu.class, Class::Exact);
    // Nine tasks, and so nine times as much.
    assert!(cpu.user_ns + cpu.system_ns < 600_000_000, "{cpu:?}");
}

/// The last CPU that the tests have.
fn last_cpu() -> u32 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = list.expect("a list").trim().rsplit([',', '-']).next().expect("a CPU");
    last.parse().expect("a number")
}

/// What was taken from a quota while a process ran is not taken again when its parent waits for it,
/// nor when the parent itself has ended meanwhile.
fn time_of_those_who_end_is_taken_once(place: Place) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // More than there is, and less than twice as much.
    let quota = format!("{}%", cpus * 140);
    let chain = "sh -c 'sh -c \"ACTS burn MARK 90; :\"; :'";
    let some = format!("(for i in $(seq 15); do {chain}; done) & ");
    let script = format!("{} wait", some.repeat(cpus));
    let (used, report) = busy(place, &["--cpu-max", &quota], &script);
    assert!(used >= 14 * 90_000_000, "{report:?}");
    // Where two periods meet, a moment can be taken for the wrong one.
    assert!(report.cpu.throttled_ns < Some(report.wall_ns / 20), "{report:?}");
}

/// Nor his children, nor his threads.
fn nobody_leaves_his_cpus(place: Place) {
    let last = last_cpu();
    let list = last.to_string();
    let script = "taskset -c 0-9999 ACTS cpus MARK; (ACTS cpus MARK); ACTS cpus-thread MARK; \
        taskset -c 0 ACTS cpus MARK 2>/dev/null || echo refused";
    let ended = run(place).options(&["--cpus", &list]).script(script).end();
    let cpus = format!("cpus {last}\n");
    let zero = if last == 0 { cpus.clone() } else { "refused\n".to_owned() };
    assert_eq!(ended.out, format!("{cpus}{cpus}{cpus}{zero}"), "{ended:?}");
    assert_eq!(ended.report().limits.cpus, Some(list.clone()));
    if last == 0 {
        return;
    }
    // Where nobody asks, they are put back.
    let options = ["--cpus", &list, "--backend", "reaper"];
    let script = "taskset -cp 0 $$ >/dev/null; until [ \"$(ACTS cpus MARK)\" = \"cpus LAST\" ]; \
        do :; done; echo back";
    let ended = run(place).options(&options).script(&script.replace("LAST", &list)).end();
    assert_eq!(ended.out, "back\n", "{ended:?}");
}

fn cpus_change_while_running(place: Place) {
    let last = last_cpu();
    let running = run(place).script("ACTS sleep MARK & echo ready; wait").start();
    running.said("ready");
    let allowed = || {
        let all = watch::below(running.supervisor());
        let of = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some(list.trim().to_owned())
        };
        all.iter().filter_map(|it| of(it.pid)).collect::<Vec<_>>()
    };
    let before = allowed();
    assert_eq!(before.len(), 2);
    answer(place, &["set", &running.mark, "cpuset.cpus", &last.to_string()]);
    let pinned = vec![last.to_string(); 2];
    running.until("both to be moved", || (allowed() == pinned).then_some(()));
    let effective = answer(place, &["get", &running.mark, "cpuset.cpus.effective"]);
    assert_eq!(effective, format!("{last}\n"));
    answer(place, &["set", &running.mark, "cpuset.cpus", "\n"]);
    running.until("both to be let go", || (allowed() == before).then_some(()));
    running.signal(libc::SIGTERM);
    running.end();
}

fn cpus_that_are_not_there_are_refused(place: Place) {
    for list in ["99999", "0-99999"] {
        let ended = run(place).options(&["--cpus", list]).acts("exit", 0).end();
        assert_eq!(ended.status, 125, "{ended:?}");
        assert!(ended.only_line().contains("cpuset.cpus"), "{ended:?}");
    }
}

fn a_weight_becomes_niceness(place: Place) {
    let own = Command::new("nice").output().expect("nice").stdout;
    let own: i32 = String::from_utf8_lossy(&own).trim().parse().expect("a number");
    let nice = |more: i32| (own + more).min(19);
    let script = format!("until [ $(nice) = {} ]; do sleep 0.01; done; nice -n 2 nice", nice(3));
    let ended = run(place).options(&["--cpu-weight", "50"]).script(&script).end();
    assert_eq!(ended.out, format!("{}\n", nice(5)), "{ended:?}");
    assert_eq!(ended.report().limits.cpu_weight, Some(50));
}
