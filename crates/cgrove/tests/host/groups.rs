//! Groups in groups: a run inside a run, and groups that last.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use cgrove_host::report::{Class, Reason, Report};
use cgrove_host::sys::kill;
use cgrove_testkit::pty::Terminal;
use cgrove_testkit::watch::{self, Process};

use crate::kit::{self, PATIENCE, Place, Running, exec, fresh_name, fresh_path, kit, run};
use crate::live::{answer, cgrove, refusal};

crate::tests![
    a_run_inside_a_run_is_a_group_of_it,
    an_inner_limit_is_its_own_and_holds_below,
    an_outer_limit_holds_whatever_the_inner_one_is,
    groups_nest_as_deep_as_one_likes,
    a_scrubbed_environment_finds_the_run_around,
    who_is_outside_cannot_claim_to_be_inside,
    who_is_inside_acts_on_his_own_group_only,
    orphans_stay_in_their_group_and_die_with_it,
    a_group_dies_with_its_reaper_and_its_siblings_live,
    the_time_of_a_group_is_exact,
    an_inner_timeout_ends_the_group_alone,
    names_are_taken_once_at_a_time,
    limits_change_while_it_runs,
    what_an_inner_run_leaves_behind_is_named,
    a_required_class_is_asked_of_the_run_around,
    without_a_gate_groups_are_sampled,
    a_group_lasts_until_it_is_removed,
    ten_commands_at_once,
    a_bomb_in_one_command_leaves_the_others_their_forks,
    a_group_that_is_not_empty_is_not_removed,
    a_killed_keeper_leaves_nothing,
    a_command_dies_with_who_asked_for_it,
    a_command_has_what_its_asker_has,
    signals_are_passed_on_to_a_command,
    one_frozen_group_leaves_the_others_running,
    a_frozen_fork_goes_on_after_the_thaw,
    a_command_that_is_brought_in_can_begin_frozen,
    nobody_holds_a_keeper_up["perl"],
    ctrl_c_reaches_the_command["setsid", "stty"],
    who_is_over_its_memory_dies_alone,
    memory_is_charged_to_all_groups_around,
    a_groups_reaper_goes_last_for_memory,
    a_share_of_cpu_time_is_the_groups_own,
];

/// A group that lasts for a test.
pub struct Keeper {
    place: Place,
    pub name: String,
    gone: bool,
}

impl Keeper {
    pub fn new(place: Place, options: &[&str]) -> Keeper {
        let name = fresh_name();
        let mut args = vec!["create", &name];
        args.extend_from_slice(options);
        if place == Place::Traced && !options.contains(&"--backend") && !name.contains('/') {
            args.extend_from_slice(&["--backend", "ptrace"]);
        }
        assert_eq!(answer(place, &args), "");
        Keeper { place, name, gone: false }
    }

    pub fn exec(&self) -> kit::Run {
        exec(self.place, &self.name)
    }

    pub fn pid(&self) -> i32 {
        let title = format!("cg-reaper {}", self.name);
        let is_it = |process: &&Process| process.cmdline.first() == Some(&title);
        watch::marked(&self.name).iter().find(is_it).expect("the keeper").pid
    }

    /// Removes it, and sees that nothing is left.
    pub fn remove(mut self, args: &[&str]) {
        let args: Vec<&str> = ["rm"].into_iter().chain(args.iter().copied()).collect();
        answer(self.place, &[&args[..], &[&self.name]].concat());
        // Its door closes before it has quite ended.
        watch::until("the keeper to end", PATIENCE, || self.left().is_empty().then_some(()));
        self.gone = true;
    }

    pub fn left(&self) -> Vec<Process> {
        let ours = |process: &Process| process.cmdline.join(" ").contains(&self.name);
        watch::processes().into_iter().filter(ours).collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.gone {
            let _ = cgrove(self.place, &["rm", "--kill", &self.name]);
        }
    }
}

/// A script in which `RUN` is `cgrove run` and `CGROVE_BIN` the program.
pub fn fill(script: &str) -> String {
    let cgrove = kit().cgrove.display().to_string();
    script.replace("RUN", &format!("{cgrove} run")).replace("CGROVE_BIN", &cgrove)
}

fn report_in(path: &Path) -> Report {
    let text = fs::read_to_string(path).expect("a report");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A command that forks again and again, with two tasks at a time.
fn forks_freely(keeper: &Keeper) {
    let script = "i=0; while [ $i -lt 200 ]; do /bin/true || exit 9; i=$((i+1)); done; : MARK";
    let ended = keeper.exec().script(script).end();
    assert_eq!(ended.status, 0, "{ended:?}");
    let forks = ended.report().forks;
    assert_eq!((forks.count, forks.refused), (Some(200), Some(0)), "{ended:?}");
}

/// The process whose command line has these words, one after the other.
fn process_with(words: &[&str]) -> Process {
    let has = |process: &&Process| process.cmdline.windows(words.len()).any(|it| it == words);
    watch::until(&format!("{words:?}"), PATIENCE, || watch::processes().iter().find(has).cloned())
}

fn a_run_inside_a_run_is_a_group_of_it(place: Place) {
    let inner = fresh_path("inner");
    let script = fill(&format!(
        "RUN --name in --pids-max 9 --quiet --json {} -- sh -c 'echo $CGROVE; \
         CGROVE_BIN get $CGROVE pids.max; CGROVE_BIN get $CGROVE cgroup.procs | grep -cx $$; \
         CGROVE_BIN tree | grep ^in; exit 5'; echo $?; CGROVE_BIN ls $CGROVE | grep -c in/; : MARK",
        inner.display()
    ));
    let it = run(place).options(&["--pids-max", "20"]).script(&script);
    let name = it.mark.clone();
    let ended = it.end();
    let tree = "in  3 of 9 tasks\n";
    assert_eq!(ended.out, format!("{name}/in\n9\n1\n{tree}5\n0\n"), "{ended:?}");
    let report = report_in(&inner);
    assert_eq!(report.name, format!("{name}/in"));
    assert_eq!((report.exit.status, report.reason), (5, Reason::Exited));
    assert_eq!(report.limits.pids_max, Some(9));
    assert!(report.forks.count.is_some_and(|forks| forks >= 4), "{report:?}");
    assert_eq!((report.forks.refused, report.cpu.class), (Some(0), Class::Exact));
    // The inner run, its command and what that ran.
    let outer = ended.report();
    assert!(outer.tasks.peak.unwrap() >= 3 && outer.forks.count > report.forks.count, "{outer:?}");
}

fn an_inner_limit_is_its_own_and_holds_below(place: Place) {
    let inner = fresh_path("inner");
    let script = fill(&format!(
        "RUN --name in --pids-max 8 --json {} -- ACTS churn MARK 1500; ACTS churn MARK 50",
        inner.display()
    ));
    let it = run(place).options(&["--pids-max", "60"]).script(&script);
    let name = it.mark.clone();
    let ended = it.end();
    assert!(ended.number("most") <= 8, "{ended:?}");
    let report = report_in(&inner);
    assert!(report.tasks.peak.unwrap() <= 8, "{report:?}");
    assert_eq!((report.forks.count, report.reason), (Some(1501), Reason::Exited), "{report:?}");
    assert_eq!(report.pids_max.place, Some(format!("/{name}/in")));
    assert!(ended.err.contains(&format!("task limit of /{name}/in hit")), "{ended:?}");
    // What is beside it forks on.
    let last = ended.out.lines().last().unwrap();
    assert!(last.starts_with("forks 50 refused 0 "), "{ended:?}");
}

fn an_outer_limit_holds_whatever_the_inner_one_is(place: Place) {
    let inner = fresh_path("inner");
    let script = fill(&format!(
        "RUN --name in --pids-max 500 --timeout 1s --kill-grace 0 --json {} -- ACTS bomb MARK 0; :",
        inner.display()
    ));
    let it = run(place).options(&["--pids-max", "12"]).script(&script);
    let name = it.mark.clone();
    let ended = it.end();
    // The shell and the inner run are not of the inner group.
    let report = report_in(&inner);
    assert_eq!((report.tasks.peak, report.exit.status), (Some(10), 124), "{report:?}");
    assert_eq!(report.pids_max.place, Some(format!("/{name}")));
    assert!(ended.err.contains(&format!("task limit of /{name} hit")), "{ended:?}");
    assert_eq!(ended.report().tasks.peak, Some(12), "{ended:?}");
}

fn groups_nest_as_deep_as_one_likes(place: Place) {
    let script = fill(
        "RUN --quiet --name a --pids-max 20 -- RUN --quiet --name b -- RUN --quiet --name c \
         --pids-max 5 -- sh -c 'echo $CGROVE; CGROVE_BIN get $CGROVE pids.max; \
         CGROVE_BIN get $CGROVE pids.current'; : MARK",
    );
    let it = run(place).options(&["--pids-max", "30"]).script(&script);
    let name = it.mark.clone();
    let ended = it.end();
    assert_eq!(ended.out, format!("{name}/a/b/c\n5\n2\n"), "{ended:?}");
}

fn a_scrubbed_environment_finds_the_run_around(place: Place) {
    let folder = fresh_path("runtime");
    fs::create_dir(&folder).unwrap();
    let script = fill(
        "env -i RUN --quiet --name in -- sh -c 'echo $CGROVE; CGROVE_BIN get $CGROVE \
        pids.max'; : MARK",
    );
    for runtime in [false, true] {
        let it = run(place).options(&["--pids-max", "20", "--set", "pids.max=19"]).script(&script);
        let name = it.mark.clone();
        let mut command = it.build();
        if runtime && place == Place::Here {
            // The doors are elsewhere then, and nobody says where.
            command.env("XDG_RUNTIME_DIR", &folder);
        }
        let output = command.output().expect("cgrove runs");
        let out = String::from_utf8_lossy(&output.stdout);
        assert_eq!(out, format!("{name}/in\nmax\n"), "{output:?}");
    }
}

fn who_is_outside_cannot_claim_to_be_inside(place: Place) {
    let running = run(place).acts("load", 4).start();
    running.said("ready");
    let inside = |claim: &str| {
        let mut command = place.command(&kit().cgrove);
        command.args(["run", "--quiet", "--", "echo", "in"]).env("CGROVE", claim);
        command.output().expect("cgrove answers")
    };
    let line = refusal(&inside(&running.mark));
    assert!(line.contains("EXDEV") && line.contains("--backend reaper"), "{line}");
    let line = refusal(&inside("no-such-run"));
    assert!(line.contains("ENOENT"), "{line}");
    let mut alone = place.command(&kit().cgrove);
    alone.args(["run", "--quiet", "--backend", "reaper", "--", "echo", "alone"]);
    let output = alone.env("CGROVE", "no-such-run").output().unwrap();
    assert_eq!(output.stdout, b"alone\n", "{output:?}");
    running.signal(libc::SIGKILL);
    running.vanish();
}

fn who_is_inside_acts_on_his_own_group_only(place: Place) {
    let other = run(place).options(&["--pids-max", "77"]).acts("load", 4).start();
    other.said("ready");
    let script = fill(&format!(
        "RUN --quiet --name in --pids-max 9 -- sh -c 'O=${{CGROVE%/in}}; \
         for what in \"get $O pids.max\" \"set $O pids.max max\" \"freeze $O\" \"ls $O/beside\" \
             \"set $O/beside cgroup.kill 1\" \"exec $O -- true\" \"create $O/new\" \
             \"rm --kill $O/beside\" \"get {0} pids.max\" \"set {0} cgroup.kill 1\"; do \
         CGROVE_BIN $what 2>&1 | grep -o \"(E[A-Z]*)\"; done; \
         CGROVE_BIN set $CGROVE pids.max 8; CGROVE_BIN get $CGROVE pids.max; \
         CGROVE_BIN create $CGROVE/below; CGROVE_BIN ls $CGROVE | grep below'; : MARK",
        other.mark
    ));
    let beside = "CGROVE_BIN create $CGROVE/beside; ";
    let it = run(place).options(&["--pids-max", "30"]).script(&(fill(beside) + &script));
    let ended = it.end();
    let refused = "(EACCES)\n".repeat(10);
    assert_eq!(ended.out, format!("{refused}8\nbelow/\n"), "{ended:?}");
    assert_eq!(answer(place, &["get", &other.mark, "pids.max"]), "77\n");
    other.signal(libc::SIGKILL);
    other.vanish();
}

/// Starts a run with the group `in`, in which a daemon of its own session and environment is left.
fn with_daemon(place: Place) -> (Running, i32, i32) {
    let script = fill(
        "RUN --quiet --name in-MARK --keep-descendants -- sh -c 'ACTS daemon MARK 1; ACTS daemon MARK 1; \
         echo there' & ACTS sleep MARK & wait",
    );
    let running = run(place).options(&["--pids-max", "20"]).script(&script).start();
    running.said("there");
    let reaper = process_with(&["--name", &format!("in-{}", running.mark)]);
    let mine =
        |process: &Process| process.ppid == reaper.pid && process.cmdline.contains(&running.mark);
    // Orphans of the group are children of its reaper.
    let daemon = watch::until("the daemons", PATIENCE, || {
        let all: Vec<Process> = watch::processes().into_iter().filter(mine).collect();
        (all.len() == 2).then(|| all[0].pid)
    });
    (running, reaper.pid, daemon)
}

fn orphans_stay_in_their_group_and_die_with_it(place: Place) {
    let (running, reaper, daemon) = with_daemon(place);
    let group = format!("{0}/in-{0}", running.mark);
    let procs = answer(place, &["get", &group, "cgroup.procs"]);
    assert!(procs.lines().any(|pid| pid == daemon.to_string()), "{daemon}: {procs}");
    assert_eq!(answer(place, &["get", &group, "pids.current"]), "2\n");
    kill(reaper, libc::SIGKILL).unwrap();
    running.until("the orphans to end", || {
        watch::processes()
            .iter()
            .all(|p| !p.cmdline.iter().any(|w| w == "daemon") || !p.cmdline.contains(&running.mark))
            .then_some(())
    });
    running.until("the group to be removed", || {
        (!answer(place, &["ls", &running.mark]).contains("in-")).then_some(())
    });
    assert_eq!(answer(place, &["get", &running.mark, "pids.current"]), "2\n");
    running.signal(libc::SIGKILL);
    running.vanish();
}

fn a_group_dies_with_its_reaper_and_its_siblings_live(place: Place) {
    for round in 0..6 {
        let script = fill(
            "RUN --quiet --name a-MARK -- ACTS load MARK 6 & \
             RUN --quiet --name b-MARK -- ACTS load MARK 6 & wait",
        );
        let running = run(place).options(&["--pids-max", "300"]).script(&script).start();
        running.until("both", || {
            (running.out().lines().filter(|line| *line == "ready").count() == 2).then_some(())
        });
        let reaper = |name: &str| process_with(&["--name", &format!("{name}-{}", running.mark)]);
        let (a, b) = (reaper("a"), reaper("b"));
        // A fork or two later.
        for _ in 0..round * 400 {
            std::hint::spin_loop();
        }
        kill(a.pid, libc::SIGKILL).unwrap();
        running.until("the group to be removed", || {
            (!answer(place, &["ls", &running.mark]).contains("a-")).then_some(())
        });
        // Nobody of it is left: the daemons of the other have its reaper as parent.
        let supervisor = running.supervisor();
        let strays: Vec<Process> = watch::below(supervisor)
            .into_iter()
            .filter(|p| p.ppid == supervisor && p.cmdline.iter().any(|word| word == "sleep"))
            .collect();
        assert!(strays.is_empty(), "{strays:?}");
        assert!(watch::below(b.pid).len() > 1, "the sibling does not live");
        running.signal(libc::SIGKILL);
        running.vanish();
    }
}

fn the_time_of_a_group_is_exact(place: Place) {
    let (burnt, idle) = (fresh_path("burnt"), fresh_path("idle"));
    let script = fill(&format!(
        "RUN --quiet --name a --keep-descendants --timeout 20s --json {} -- sh -c '\
         ACTS burn MARK 150; ACTS burn MARK 150 & wait' & \
         RUN --quiet --name b --json {} -- ACTS exit MARK 0; wait",
        burnt.display(),
        idle.display()
    ));
    let ended = run(place).options(&["--pids-max", "20"]).script(&script).end();
    let (a, b) = (report_in(&burnt).cpu, report_in(&idle).cpu);
    assert_eq!((a.class, b.class), (Class::Exact, Class::Exact));
    let ms = |cpu: &cgrove_host::report::Cpu| (cpu.user_ns + cpu.system_ns) / 1_000_000;
    assert!(ms(&a) >= 300 && ms(&b) < 150, "{a:?} {b:?}");
    assert!(ms(&ended.report().cpu) >= ms(&a) + ms(&b), "{ended:?}");
}

fn an_inner_timeout_ends_the_group_alone(place: Place) {
    let inner = fresh_path("inner");
    let script = fill(&format!(
        "RUN --name in --timeout 300ms --kill-grace 0 --json {} -- ACTS load MARK 8; echo $?; \
         CGROVE_BIN ls $CGROVE | grep -c in/; ACTS churn MARK 20",
        inner.display()
    ));
    let ended = run(place).options(&["--pids-max", "200"]).script(&script).end();
    assert!(ended.out.contains("124\n0\nforks 20 refused 0"), "{ended:?}");
    let report = report_in(&inner);
    assert_eq!((report.reason, report.exit.status), (Reason::Timeout, 124));
    assert!(report.left_behind.killed > 0 && report.classes.kill == Class::Exact, "{report:?}");
}

fn names_are_taken_once_at_a_time(place: Place) {
    let script = fill(
        "RUN --quiet --name x -- sh -c 'RUN --name x -- echo below; \
            CGROVE=${CGROVE%/x} env -u CGROVE true; echo held; read go' <&3 & \
         while ! CGROVE_BIN ls $CGROVE | grep -qx x/; do :; done; \
         RUN --name x -- echo never; echo $?; echo go >&3; wait; \
         RUN --quiet --name x -- echo again; : MARK",
    );
    let fifo = fresh_path("fifo");
    let script = format!("mkfifo {0}; exec 3<>{0}; {script}", fifo.display());
    let ended = run(place).options(&["--pids-max", "40"]).script(&script).end();
    assert!(ended.out.contains("125\n") && ended.out.ends_with("again\n"), "{ended:?}");
    assert!(ended.out.contains("below\n") && !ended.out.contains("never"), "{ended:?}");
    assert!(ended.err.contains("EEXIST"), "{ended:?}");
}

fn limits_change_while_it_runs(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "40"]);
    let it = keeper.exec().options(&["--pids-max", "30"]);
    let inner = format!("{}/{}", keeper.name, it.mark);
    let running = it.acts("load", 8).start();
    running.said("ready");
    answer(place, &["set", &inner, "pids.max", "3"]);
    // It is over its limit now, and refused all the time.
    let hits = || {
        let text = answer(place, &["get", &inner, "pids.events"]);
        text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    running.until("refusals", || (hits() > 3).then_some(()));
    forks_freely(&keeper);
    answer(place, &["set", &keeper.name, "pids.max", "1"]);
    let refused = keeper.exec().acts("exit", 0).end();
    assert!(refused.only_line().contains("EAGAIN"), "{refused:?}");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status, 128 + libc::SIGTERM);
    keeper.remove(&[]);
}

fn what_an_inner_run_leaves_behind_is_named(place: Place) {
    let inner = fresh_path("inner");
    let script = fill(&format!(
        "RUN --json {} --name in -- sh -c 'setsid ACTS sleep MARK & ACTS daemon MARK 1'; \
         CGROVE_BIN get $CGROVE pids.current",
        inner.display()
    ));
    let ended = run(place).options(&["--pids-max", "20"]).script(&script).end();
    let report = report_in(&inner);
    assert_eq!((report.left_behind.killed, report.left_behind.class), (2, Class::Exact));
    assert!(report.left_behind.processes.iter().any(|p| p.cmdline.iter().any(|w| w == "daemon")));
    assert_eq!(ended.out, "2\n", "the shell and the one that asks: {ended:?}");
}

fn a_required_class_is_asked_of_the_run_around(place: Place) {
    let script = fill("RUN --quiet --require pids=exact -- echo in; echo $?; : MARK");
    let ended = run(place).options(&["--pids-max", "20"]).script(&script).end();
    assert_eq!(ended.out, "in\n0\n", "{ended:?}");
    // Threads do not ask there.
    let ended = run(place).script(&script).end();
    assert!(ended.out == "125\n" && ended.err.contains("threads do not ask"), "{ended:?}");
    let inner = fresh_path("inner");
    let script =
        fill(&format!("RUN --quiet --pids-max 9 --json {} -- true; : MARK", inner.display()));
    run(place).script(&script).end();
    let report = report_in(&inner);
    assert_eq!(report.classes.pids, Class::Sampled);
    assert!(report.warnings.iter().any(|w| w.contains("threads did not ask")), "{report:?}");
}

fn without_a_gate_groups_are_sampled(place: Place) {
    let inner = fresh_path("inner");
    let script = fill(&format!(
        "RUN --quiet --name in --pids-max 10 --json {} -- sh -c '\
         i=0; while [ $i -lt 30 ]; do ACTS sleep MARK & i=$((i+1)); done; sleep 1; exit 3'; \
         echo $?; ACTS exit MARK 0",
        inner.display()
    ));
    let ended = run(place).options(&["--backend", "reaper"]).script(&script).end();
    let report = report_in(&inner);
    assert_eq!(report.classes.pids, Class::Sampled);
    assert!(report.pids_max.hits.unwrap() >= 15, "{report:?} {ended:?}");
    assert!(report.pids_max.place.unwrap().ends_with("/in"));
    if place == Place::Jail {
        // Where nothing else is possible a group that lasts does without, too.
        let keeper = Keeper::new(Place::Mute, &["--pids-max", "5"]);
        let ended = keeper.exec().script("echo $CGROVE; exit 6; : MARK").end();
        assert_eq!(ended.status, 6, "{ended:?}");
        assert_eq!(ended.report().classes.pids, Class::Sampled);
        keeper.remove(&[]);
    }
}

fn a_group_lasts_until_it_is_removed(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "20", "--set", "cgroup.max.depth=4"]);
    let name = keeper.name.clone();
    assert!(refusal(&cgrove(place, &["create", &name])).contains("EEXIST"));
    assert_eq!(answer(place, &["tree", &name]), format!("{name}  0 of 20 tasks\n"));
    assert_eq!(answer(place, &["get", &name, "cgroup.max.depth"]), "4\n");
    // No terminal, no open files, no folder of the caller's.
    let pid = keeper.pid();
    let link = |what: &str| fs::read_link(format!("/proc/{pid}/{what}")).ok();
    if let Some(folder) = link("cwd") {
        assert_eq!(folder, Path::new("/"));
        for stream in 0..3 {
            assert_eq!(link(&format!("fd/{stream}")).unwrap(), Path::new("/dev/null"));
        }
    }
    answer(place, &["create", &format!("{name}/part"), "--pids-max", "4"]);
    let mut it = exec(place, &format!("{name}/part")).script("echo $CGROVE; exit 7; : MARK");
    let mark = it.mark.clone();
    it.place = place;
    let ended = it.end();
    assert_eq!((ended.status, ended.out), (7, format!("{name}/part/{mark}\n")));
    assert_eq!(
        answer(place, &["tree", &name]),
        format!("{name}  0 of 20 tasks\n  part  0 of 4 tasks\n")
    );
    assert!(refusal(&cgrove(place, &["rm", &name])).contains("part"));
    answer(place, &["rm", &format!("{name}/part")]);
    let missing = cgrove(place, &["exec", &name, "--", "no-such-program"]);
    // For nobody, a folder of PATH that is closed to him hides that there is none.
    assert!(matches!(missing.status.code(), Some(126 | 127)), "{missing:?}");
    keeper.remove(&[]);
    assert!(refusal(&cgrove(place, &["exec", &name, "--", "true"])).contains("ENOENT"));
    assert!(refusal(&cgrove(place, &["rm", &name])).contains("ENOENT"));
}

fn ten_commands_at_once(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "200"]);
    let start = |i: i32| {
        let script = format!("ACTS daemon MARK 1; ACTS churn MARK 100; exit {i}");
        keeper.exec().options(&["--pids-max", "9"]).script(&script).start()
    };
    let running: Vec<Running> = (0..10).map(start).collect();
    for (i, running) in (0..).zip(running) {
        let ended = running.end();
        let report = ended.report();
        assert_eq!(ended.status, i, "{ended:?}");
        assert!(report.tasks.peak.unwrap() <= 9 && report.left_behind.killed == 1, "{report:?}");
        assert!(report.forks.count.unwrap() >= 103, "{report:?}");
        assert_eq!((report.cpu.class, report.classes.pids), (Class::Exact, Class::Exact));
    }
    keeper.remove(&[]);
}

fn a_bomb_in_one_command_leaves_the_others_their_forks(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "60"]);
    let options = ["--pids-max", "20", "--timeout", "2s", "--kill-grace", "0"];
    let bomb = keeper.exec().options(&options).acts("bomb", 0).start();
    bomb.said("refused 11");
    forks_freely(&keeper);
    let ended = bomb.end();
    let report = ended.report();
    assert_eq!((report.tasks.peak, report.tasks.class), (Some(20), Class::Exact), "{report:?}");
    assert_eq!(report.reason, Reason::Timeout);
    // And the group's own limit holds for all together.
    let whole = keeper.exec().options(&options[2..]).acts("bomb", 0).end().report();
    assert_eq!(whole.tasks.peak, Some(60), "{whole:?}");
    assert_eq!(whole.pids_max.place, Some(format!("/{}", keeper.name)));
    keeper.remove(&[]);
}

fn a_group_that_is_not_empty_is_not_removed(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let running = keeper.exec().acts("load", 5).start();
    running.said("ready");
    let line = refusal(&cgrove(place, &["rm", &keeper.name]));
    assert!(line.contains("EBUSY") && line.contains(&running.mark), "{line}");
    let inner = format!("{}/{}", keeper.name, running.mark);
    assert!(refusal(&cgrove(place, &["rm", &inner])).contains("EBUSY"));
    answer(place, &["rm", "--kill", &inner]);
    assert_eq!(running.end().status, 128 + libc::SIGKILL);
    assert!(!answer(place, &["ls", &keeper.name]).contains('/'));
    // `cgroup.kill` leaves the group as it is.
    let running = keeper.exec().acts("load", 5).start();
    running.said("ready");
    answer(place, &["set", &keeper.name, "cgroup.kill", "1"]);
    assert_eq!(running.end().status, 128 + libc::SIGKILL);
    forks_freely(&keeper);
    let running = keeper.exec().acts("load", 5).start();
    running.said("ready");
    keeper.remove(&["--kill"]);
    assert_eq!(running.end().status, 128 + libc::SIGKILL);
}

fn a_killed_keeper_leaves_nothing(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "300"]);
    let running: Vec<Running> = (0..3).map(|_| keeper.exec().acts("load", 6).start()).collect();
    running.iter().for_each(|it| it.said("ready"));
    kill(keeper.pid(), libc::SIGKILL).unwrap();
    for it in running {
        let ended = it.end();
        assert_eq!((ended.status, ended.report().reason), (125, Reason::SupervisorKilled));
    }
    watch::until("the reapers to end", PATIENCE, || keeper.left().is_empty().then_some(()));
    // The name is free.
    answer(place, &["create", &keeper.name]);
    keeper.remove(&[]);
}

fn a_command_dies_with_who_asked_for_it(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let (one, other) = (keeper.exec().acts("load", 5), keeper.exec().acts("load", 5));
    let (one, other) = (one.start(), other.start());
    one.said("ready");
    other.said("ready");
    one.signal(libc::SIGKILL);
    one.vanish();
    // So does one whose reaper is killed.
    let title = format!("{}/{}", keeper.name, other.mark);
    let reaper = process_with(&[&format!("cg-group {title}")]).pid;
    kill(reaper, libc::SIGKILL).unwrap();
    assert_eq!(other.end().status, 125);
    watch::until("the groups to be removed", PATIENCE, || {
        (!answer(place, &["ls", &keeper.name]).contains('/')).then_some(())
    });
    keeper.remove(&[]);
}

fn a_command_has_what_its_asker_has(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let script = "pwd; umask; ulimit -n; echo $WORD; nice; cat; echo err >&2; : MARK";
    let input = fresh_path("input");
    fs::write(&input, "typed\n").unwrap();
    let mut it = keeper.exec().script(script);
    it = it.stdin(fs::File::open(&input).unwrap());
    let shell = "cd /usr; umask 027; ulimit -n 77; export WORD='two words'; exec nice -n 3 \"$@\"";
    let ended = it.behind_shell(shell).end();
    let own = Command::new("nice").output().expect("nice answers").stdout;
    let own: i32 = String::from_utf8_lossy(&own).trim().parse().expect("a number");
    let nice = (own + 3).min(19);
    assert_eq!(ended.out, format!("/usr\n0027\n77\ntwo words\n{nice}\ntyped\n"), "{ended:?}");
    assert!(ended.err.starts_with("err\n"), "{ended:?}");
    // What is closed stays closed, and large environments arrive.
    let script = "test -e /proc/self/fd/0 && echo open; echo ${#BIG}; : MARK";
    let shell = "BIG=$(head -c 100000 /dev/zero | tr '\\0' x); export BIG; exec \"$@\" <&-";
    let ended = keeper.exec().script(script).behind_shell(shell).end();
    assert_eq!(ended.out, "100000\n", "{ended:?}");
    keeper.remove(&[]);
}

fn signals_are_passed_on_to_a_command(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let running = keeper.exec().acts("signals", 0).start();
    running.said("ready");
    for signal in [libc::SIGUSR1, libc::SIGHUP, libc::SIGRTMIN() + 3] {
        running.signal(signal);
        running.said(&format!("got {signal}"));
    }
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status, 3);
    keeper.remove(&[]);
}

/// A file that a command writes to again and again, and its length.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |it| it.len())
}

fn one_frozen_group_leaves_the_others_running(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "60"]);
    let (cold, warm) = (fresh_path("cold"), fresh_path("warm"));
    let busy = |path: &Path| {
        let script = "while :; do (echo x; /bin/true) >> FILE; done; : MARK";
        let it = keeper.exec().script(&script.replace("FILE", &path.display().to_string()));
        let running = it.start();
        running.until("a first line", || (length(path) > 0).then_some(()));
        running
    };
    let (one, other) = (busy(&cold), busy(&warm));
    let inner = format!("{}/{}", keeper.name, one.mark);
    let beside = format!("{}/{}", keeper.name, other.mark);
    for _ in 0..3 {
        answer(place, &["freeze", &inner]);
        assert!(answer(place, &["get", &inner, "cgroup.events"]).contains("frozen 1"));
        assert!(answer(place, &["get", &beside, "cgroup.events"]).contains("frozen 0"));
        let (before, then) = (length(&cold), length(&warm));
        other.until("the other to go on", || (length(&warm) > then + 40).then_some(()));
        assert_eq!(length(&cold), before, "somebody ran on");
        answer(place, &["thaw", &inner]);
        one.until("it to go on", || (length(&cold) > before).then_some(()));
    }
    // A kill does not wait for the thaw.
    answer(place, &["freeze", &inner]);
    answer(place, &["rm", "--kill", &inner]);
    let ended = one.end();
    assert_eq!((ended.status, ended.report().classes.freeze), (137, Some(Class::Exact)));
    other.signal(libc::SIGTERM);
    other.end();
    keeper.remove(&[]);
}

/// Forks that were asked for while the group froze are neither lost nor refused.
fn a_command_that_is_brought_in_can_begin_frozen(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let options = ["--set", "cgroup.freeze=1"];
    let running = keeper.exec().options(&options).script("ACTS exit MARK 0; echo ran").start();
    let path = format!("{}/{}", keeper.name, running.mark);
    running.until("it to be frozen", || {
        let events = cgrove(place, &["get", &path, "cgroup.events"]);
        (events.stdout == b"populated 1\nfrozen 1\n").then_some(())
    });
    assert_eq!(running.out(), "");
    answer(place, &["thaw", &path]);
    let ended = running.end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "ran\n"), "{ended:?}");
    assert_eq!(ended.report().forks.count, Some(1), "{ended:?}");
    keeper.remove(&[]);
}

fn a_frozen_fork_goes_on_after_the_thaw(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "60"]);
    let script = "i=0; while [ $i -lt 400 ]; do /bin/true || exit 9; i=$((i+1)); \
        [ $i = 20 ] && echo begun; done; echo all $i; : MARK";
    let running = keeper.exec().script(script).start();
    running.said("begun");
    let inner = format!("{}/{}", keeper.name, running.mark);
    for _ in 0..10 {
        let (frozen, thawed) =
            (cgrove(place, &["freeze", &inner]), cgrove(place, &["thaw", &inner]));
        if !frozen.status.success() || !thawed.status.success() {
            break;
        }
    }
    let ended = running.end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "begun\nall 400\n"), "{ended:?}");
    assert_eq!(ended.report().forks.refused, Some(0), "{ended:?}");
    keeper.remove(&[]);
}

/// Requests with too few descriptors, askers that go away or never say what to run.
fn nobody_holds_a_keeper_up(place: Place) {
    let keeper = Keeper::new(place, &["--pids-max", "20"]);
    let perl = r#"use Socket; use IO::Socket::UNIX;
        my ($door) = glob(($ENV{XDG_RUNTIME_DIR} // "") . "/cgrove/$ARGV[0]");
        $door = "/tmp/cgrove-$</$ARGV[0]" unless -S $door;
        socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die;
        for my $junk ('{"Exec":{"at":"","entry":{"name":"x","files":[]}}}', '{"Enter":{}}',
                '{"Remove":{"path":"","kill":true}}', '{"Leave":{"path":""}}') {
            send($s, $junk, 0, sockaddr_un($door)) or die;
        }"#;
    let mut command = place.command("perl");
    command.args(["-e", perl, &keeper.name]).stdin(Stdio::null());
    assert!(command.status().expect("perl runs").success());
    // Stopped between the request and the plan, it keeps nobody else waiting.
    let stopped: Vec<Running> = (0..5)
        .map(|_| {
            let running = keeper.exec().acts("sleep", 0).start();
            let _ = kill(running.pid(), libc::SIGSTOP);
            running
        })
        .collect();
    forks_freely(&keeper);
    for running in stopped {
        running.signal(libc::SIGKILL);
        running.vanish();
    }
    watch::until("the groups to be removed", PATIENCE, || {
        (!answer(place, &["ls", &keeper.name]).contains('/')).then_some(())
    });
    keeper.remove(&[]);
}

fn ctrl_c_reaches_the_command(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let program = kit().cgrove.display().to_string();
    // Brought into a group, and inside a run: in either the whole group of the command has it.
    let script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 1; done; : MARK";
    let mut commands: Vec<Command> = Vec::new();
    let mut brought = place.command(&program);
    brought.args(["exec", &keeper.name, "--quiet", "--", "sh", "-c", script]);
    commands.push(brought);
    let mut nested = place.command(&program);
    nested.args(["run", "--quiet", "--", &program, "run", "--quiet", "--", "sh", "-c", script]);
    commands.push(nested);
    for mut command in commands {
        let mut terminal = Terminal::start(command.env("TERM", "dumb")).expect("a terminal");
        terminal.expect("ready\r\n");
        terminal.send("\x03");
        terminal.expect("caught");
        assert_eq!(terminal.status(), Some(4));
    }
    keeper.remove(&[]);
}

const MIB: u64 = 1 << 20;

fn who_is_over_its_memory_dies_alone(place: Place) {
    let keeper = Keeper::new(place, &["--memory-max", "400M"]);
    let sibling = keeper.exec().script("ACTS grow MARK 40; echo ready; sleep 1000; : MARK");
    let sibling = sibling.start();
    sibling.said("ready");
    let ended = keeper.exec().options(&["--memory-max", "100M"]).acts("grow", 4000).end();
    let report = ended.report();
    assert_eq!((ended.status, report.reason), (137, Reason::MemoryMax), "{ended:?}");
    assert_eq!(report.limits.memory_max, Some(100 * MIB));
    assert_eq!(report.memory.class, Class::Sampled, "{ended:?}");
    let [killed] = &report.memory.oom_kills[..] else { panic!("{ended:?}") };
    assert_eq!(
        (killed.group.as_str(), killed.limit_bytes),
        (&*format!("/{}", report.name), 100 * MIB)
    );
    assert!(report.memory.peak_bytes.unwrap() > 100 * MIB, "{ended:?}");
    sibling.signal(libc::SIGTERM);
    let ended = sibling.end();
    assert_eq!(ended.report().exit.signal, Some(libc::SIGTERM), "{ended:?}");
    assert_eq!(ended.report().exit.signal, Some(libc::SIGTERM), "{ended:?}");
    assert_eq!(ended.report().memory.oom_kill_count, Some(0), "{ended:?}");
    let events = answer(place, &["get", &keeper.name, "memory.events"]);
    assert!(events.contains("oom_kill 1\n"), "{events}");
    keeper.remove(&[]);
}

fn memory_is_charged_to_all_groups_around(place: Place) {
    let path = fresh_path("inner");
    let script = format!(
        "RUN --name inner --json {} -- ACTS grow MARK 4000; echo inner $?; : MARK",
        path.display()
    );
    let ended = run(place).options(&["--memory-max", "100M"]).script(&fill(&script)).end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "inner 137\n"), "{ended:?}");
    let (inner, outer) = (report_in(&path), ended.report());
    assert_eq!((inner.reason, inner.limits.memory_max), (Reason::MemoryMax, None), "{inner:?}");
    let [killed] = &outer.memory.oom_kills[..] else { panic!("{ended:?}") };
    assert_eq!(
        (killed.group.as_str(), killed.limit_bytes),
        (&*format!("/{}", inner.name), 100 * MIB)
    );
    assert_eq!(inner.memory.oom_kills[0].pid, killed.pid);
}

/// The kernel would take it first: everything else of its group is killed with it.
fn a_groups_reaper_goes_last_for_memory(place: Place) {
    let path = fresh_path("inner");
    let adj = "/proc/self/oom_score_adj";
    let script = format!(
        "sh -c 'echo 1000 >{adj}; exec RUN --name inner --json {} -- \
         sh -c \"echo 0 >{adj}; exec ACTS grow MARK 4000\"'; echo inner $?; : MARK",
        path.display()
    );
    let ended = run(place).options(&["--memory-max", "100M"]).script(&fill(&script)).end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "inner 137\n"), "{ended:?}");
    assert_eq!(report_in(&path).reason, Reason::MemoryMax);
    assert_eq!(ended.report().memory.oom_kill_count, Some(1));
}

fn a_share_of_cpu_time_is_the_groups_own(place: Place) {
    let keeper = Keeper::new(place, &[]);
    let options = ["--cpu-max", "20%", "--timeout", "1s", "--kill-grace", "0"];
    let ended = keeper.exec().options(&options).script("while :; do :; done; : MARK").end();
    let report = ended.report();
    assert_eq!(report.reason, Reason::Timeout, "{ended:?}");
    // A fifth of eleven periods, and what a slow machine needs to notice.
    let used = (report.cpu.user_ns + report.cpu.system_ns) / 1_000_000;
    assert!(used < 450, "{used} ms: {ended:?}");
    assert!(report.cpu.throttled_periods.unwrap() > 3, "{ended:?}");
    let cpu = report.limits.cpu_max.unwrap();
    assert_eq!((cpu.quota_us, cpu.period_us), (20_000, 100_000));
    keeper.remove(&[]);
}
