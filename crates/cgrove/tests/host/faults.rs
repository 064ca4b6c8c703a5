//! Whatever is killed, the tree dies, and no report claims what nobody knows.

use std::time::{Duration, Instant};

use cgrove_host::report::{Class, Reason};
use cgrove_testkit::watch;

use crate::kit::{PATIENCE, Place, run};

crate::tests![
    the_front_is_killed,
    the_supervisor_is_killed,
    the_supervisor_is_stopped,
    either_is_killed_at_any_moment,
    the_group_of_the_front_is_killed,
    the_front_and_the_command_die_together,
    killing_a_large_tree_leaves_nothing,
    earlier_children_of_the_front_are_spared,
];

const KILL: i32 = libc::SIGKILL;

fn the_front_is_killed(place: Place) {
    for backend in ["gate", "reaper"] {
        let running = run(place).options(&["--backend", backend]).acts("load", 0).start();
        running.said("ready");
        running.signal(KILL);
        running.vanish();
    }
}

fn the_supervisor_is_killed(place: Place) {
    for backend in ["gate", "reaper"] {
        let running = run(place).options(&["--backend", backend]).acts("load", 0).start();
        running.said("ready");
        cgrove_host::sys::kill(running.supervisor(), KILL).unwrap();
        let ended = running.end();
        let report = ended.report();
        assert_eq!((ended.status, report.reason), (125, Reason::SupervisorKilled));
        assert_eq!((report.backend, report.exit.code, report.forks.count), (None, None, None));
        assert_eq!((report.cpu.class, report.classes.kill), (Class::Sampled, Class::Unknown));
        assert!(ended.err.contains("cgrove: the supervisor was killed"), "{ended:?}");
    }
}

/// A stopped supervisor would hold every fork for ever; the front continues it.
fn the_supervisor_is_stopped(place: Place) {
    let running = run(place).acts("signals", 0).start();
    running.said("ready");
    cgrove_host::sys::kill(running.supervisor(), libc::SIGSTOP).unwrap();
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status, 3);
}

fn either_is_killed_at_any_moment(place: Place) {
    // Moments spread over the start and the first forks. The place makes the seed.
    let mut random = 0x9e37_79b9_u64 ^ place as u64;
    for round in 0..40 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let moment = Duration::from_micros(random >> 32 & 0x3fff);
        let running = run(place).options(&["--pids-max", "60"]).acts("load", 0).start();
        let began = Instant::now();
        // The passing of time is the fault injected here: there is no event to wait for.
        while began.elapsed() < moment {
            std::hint::spin_loop();
        }
        if round % 2 == 0 {
            running.signal(KILL);
            running.vanish();
            continue;
        }
        let child = watch::below(running.pid()).into_iter().find(|p| p.ppid == running.pid());
        match child {
            Some(supervisor) => {
                cgrove_host::sys::kill(supervisor.pid, KILL).unwrap();
                assert_eq!(running.end().status, 125);
            }
            None => {
                running.signal(KILL);
                running.vanish();
            }
        }
    }
}

/// What Ctrl-\ of a test runner or a container's stop does: the whole process group at once.
fn the_group_of_the_front_is_killed(place: Place) {
    let mut it = run(place).acts("load", 0);
    let mut command = it.build();
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let running = it.start_as(&mut command);
    running.said("ready");
    cgrove_host::sys::kill(-running.pid(), KILL).unwrap();
    running.vanish();
}

fn killing_a_large_tree_leaves_nothing(place: Place) {
    for options in [&["--backend", "gate"][..], &["--backend", "reaper"]] {
        let script = "ACTS leave MARK 300; ACTS daemon MARK 1; ACTS threads MARK 200 & exit 4";
        let ended = run(place).options(options).script(script).end();
        assert_eq!(ended.status, 4, "{ended:?}");
        assert!(ended.report().left_behind.killed >= 301, "{ended:?}");
    }
}

/// The supervisor hears of both at once, and must not wait for an end that it has seen.
fn the_front_and_the_command_die_together(place: Place) {
    for _ in 0..30 {
        let running = run(place).acts("signals", 0).start();
        running.said("ready");
        let supervisor = running.supervisor();
        let command = watch::below(supervisor).first().expect("the command").pid;
        // Stopped, so that it finds both when it goes on.
        let signal = |pid, signal| cgrove_host::sys::kill(pid, signal).unwrap();
        signal(running.pid(), libc::SIGSTOP);
        signal(supervisor, libc::SIGSTOP);
        signal(command, KILL);
        signal(running.pid(), KILL);
        watch::until("both to end", PATIENCE, || {
            let ended = |pid| watch::process(pid).is_none_or(|it| it.state == 'Z');
            (ended(running.pid()) && ended(command)).then_some(())
        });
        signal(supervisor, libc::SIGCONT);
        running.vanish();
    }
}

/// `sh -c 'helper & exec cgrove run …'`: the helper is a child of the front, not of the run.
fn earlier_children_of_the_front_are_spared(place: Place) {
    let mut it = run(place).acts("load", 0);
    let running = it.behind_shell("sleep 1000 & echo helper $!; exec \"$@\"");
    running.said("ready");
    let helper = running.out().split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
    let helper: i32 = helper.expect("the helper's pid");
    let all = watch::below(running.pid());
    let supervisor = all.iter().find(|p| p.ppid == running.pid() && p.pid != helper);
    cgrove_host::sys::kill(supervisor.expect("the supervisor").pid, KILL).unwrap();
    let ended = running.end();
    let spared = cgrove_host::sys::kill(helper, KILL);
    assert_eq!((ended.status, spared), (125, Ok(())), "{ended:?}");
}
