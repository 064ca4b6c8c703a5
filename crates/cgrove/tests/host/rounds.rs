//! Anybody is killed, at any moment, while everybody forks: nothing is left, who is not of it lives,
//! and no report claims what did not happen.
//!
//! `CGROVE_ROUNDS` says how many rounds there are, in each place; `checks/faults` asks for many.

use std::time::{Duration, Instant};

use cgrove_host::report::{Reason, Report};
use cgrove_host::sys::kill;
use cgrove_testkit::watch;

use crate::groups::{Keeper, fill};
use crate::kit::{self, PATIENCE, Place, run};

crate::tests![anybody_is_killed_at_any_moment];

const KILL: i32 = libc::SIGKILL;
const USUALLY: u64 = 18;

#[derive(Debug, Clone, Copy)]
enum Victim {
    /// The process that was started as `cgrove run`.
    Front,
    /// Its supervisor.
    Supervisor,
    /// The front of a run in it.
    Inner,
    /// The process that was started as `cgrove exec`.
    Client,
    /// The reaper of its group.
    Reaper,
    /// The supervisor of a group that lasts.
    Keeper,
}

const VICTIMS: [Victim; 6] = [
    Victim::Front,
    Victim::Supervisor,
    Victim::Inner,
    Victim::Client,
    Victim::Reaper,
    Victim::Keeper,
];

fn anybody_is_killed_at_any_moment(place: Place) {
    let rounds = std::env::var("CGROVE_ROUNDS").ok().map(|n| n.parse().expect("a number"));
    let mut random = u64::from(std::process::id()) << 1 | place as u64;
    for (round, victim) in (0..rounds.unwrap_or(USUALLY)).zip(VICTIMS.into_iter().cycle()) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        let moment = Duration::from_micros(random >> 32 & 0x7fff);
        // What a failure is reported with.
        let what = format!("round {round}: {victim:?} killed after {moment:?}");
        println!("{what}");
        match victim {
            Victim::Front | Victim::Supervisor | Victim::Inner => {
                of_a_run(place, victim, moment, &what)
            }
            Victim::Client | Victim::Reaper | Victim::Keeper => {
                of_a_group(place, victim, moment, &what)
            }
        }
    }
}

/// The passing of time is the fault injected here: there is no event to wait for.
fn pass(moment: Duration) {
    let began = Instant::now();
    while began.elapsed() < moment {
        std::hint::spin_loop();
    }
}

/// Of a run whose supervisor may have been killed.
fn honest(json: Option<&str>, what: &str) {
    let Some(json) = json else { return };
    let report: Report =
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{what}: {e}: {json}"));
    let killed = matches!(report.reason, Reason::SupervisorKilled | Reason::Signaled);
    assert!(killed, "{what}: the command does not end by itself: {json}");
    if report.reason == Reason::SupervisorKilled {
        assert_eq!((report.exit.status, report.exit.code), (125, None), "{what}: {json}");
    }
}

/// Processes that have the word for themselves: the script that starts them has it within.
fn with(word: &str) -> Vec<watch::Process> {
    let all = watch::processes().into_iter();
    all.filter(|it| it.cmdline.iter().any(|own| own == word)).collect()
}

fn of_a_run(place: Place, victim: Victim, moment: Duration, what: &str) {
    let script = fill("RUN --quiet --name inner -- ACTS load MARKinner 0 & ACTS load MARK 0");
    let running = run(place).options(&["--pids-max", "90"]).script(&script).start();
    let inside = format!("{}inner", running.mark);
    pass(moment);
    let below = watch::below(running.pid());
    let supervisor = below.iter().find(|it| it.ppid == running.pid());
    let front_of_inner = |it: &&watch::Process| {
        it.cmdline.get(1).is_some_and(|word| word == "run")
            && it.cmdline.iter().any(|w| w == "inner")
    };
    let inner = below.iter().find(front_of_inner);
    match (victim, supervisor, inner) {
        (Victim::Supervisor, Some(supervisor), _) => {
            kill(supervisor.pid, KILL).expect(what);
            let ended = running.end();
            assert_eq!(ended.status, 125, "{what}: {ended:?}");
            honest(ended.json.as_deref(), what);
        }
        (Victim::Inner, _, Some(inner)) => {
            // It may have become the command's parent just now, or not yet be a reaper.
            let _ = kill(inner.pid, KILL);
            watch::until(&format!("{what}: the inner run to vanish"), PATIENCE, || {
                with(&inside).is_empty().then_some(())
            });
            assert!(!watch::marked(&running.mark).is_empty(), "{what}: the outer run lives");
            running.signal(KILL);
            running.vanish();
        }
        // The front; also where it is too early for the others.
        _ => {
            running.signal(KILL);
            running.vanish();
        }
    }
    watch::until(&format!("{what}: everything to vanish"), PATIENCE, || {
        with(&inside).is_empty().then_some(())
    });
}

fn of_a_group(place: Place, victim: Victim, moment: Duration, what: &str) {
    let keeper = Keeper::new(place, &["--pids-max", "90"]);
    let sibling = keeper.exec().script("echo ready; sleep 1000; : MARK").start();
    sibling.said("ready");
    let running = keeper.exec().acts("load", 0).start();
    pass(moment);
    let title = format!("cg-group {}/{}", keeper.name, running.mark);
    let reaper = watch::processes().into_iter().find(|it| it.cmdline.first() == Some(&title));
    match (victim, reaper) {
        (Victim::Keeper, _) => {
            kill(keeper.pid(), KILL).expect(what);
            for it in [running, sibling] {
                let ended = it.end();
                assert_eq!(ended.status, 125, "{what}: {ended:?}");
                honest(ended.json.as_deref(), what);
            }
            kit::until(&format!("{what}: the reapers to end"), || {
                keeper.left().is_empty().then_some(())
            });
            return;
        }
        (Victim::Reaper, Some(reaper)) => {
            kill(reaper.pid, KILL).expect(what);
            // Whoever asked for the command learns of it as early as the keeper, which kills the rest.
            kit::until(&format!("{what}: the group to be killed"), || {
                let left = watch::marked(&running.mark);
                left.iter().all(|it| it.pid == running.pid()).then_some(())
            });
            let ended = running.end();
            assert_eq!(ended.status, 125, "{what}: {ended:?}");
            honest(ended.json.as_deref(), what);
        }
        _ => {
            running.signal(KILL);
            running.vanish();
        }
    }
    assert_eq!(sibling.out(), "ready\n", "{what}");
    sibling.signal(libc::SIGTERM);
    let ended = sibling.end();
    assert_eq!(ended.report().exit.signal, Some(libc::SIGTERM), "{what}: {ended:?}");
    keeper.remove(&["--kill"]);
}
