//! The `kernel` backend in a cgroup that is handed to it, without controllers: who is in it, what
//! ends it, and that nothing is left. That limits hold takes a hierarchy with controllers, and is
//! tried in a virtual machine (`cgrove-conform kernel-backend`).

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgrove_host::kernel::Place as Cgroup;
use cgrove_host::report::{Backend, Class, Reason};
use cgrove_testkit::watch;

use crate::kit::{Ended, Place, Run, Running, behind, exec, fresh_name, run, until};
use crate::live::{answer, cgrove, refusal};

crate::tests![
    all_of_the_tree_is_in_it_and_nothing_is_left[crate::OWN_CGROUP],
    what_the_kernel_does_not_hold_cgrove_does[crate::OWN_CGROUP],
    the_front_is_killed[crate::OWN_CGROUP],
    the_supervisor_is_killed[crate::OWN_CGROUP],
    either_is_killed_at_any_moment[crate::OWN_CGROUP],
    the_next_run_clears_what_two_dead_ones_left[crate::OWN_CGROUP],
    who_was_moved_in_is_killed_too[crate::OWN_CGROUP],
    frozen_by_the_kernel[crate::OWN_CGROUP],
    frozen_from_the_start[crate::OWN_CGROUP],
    a_timeout_lets_the_frozen_clean_up[crate::OWN_CGROUP],
    groups_in_it_are_held_by_cgrove[crate::OWN_CGROUP],
    what_is_required_of_it_is_refused[crate::OWN_CGROUP],
    it_is_not_taken_where_it_is_not_ours,
];

const NOBODY: u32 = 65534;

/// A cgroup of a test's own, beside this process.
struct Own {
    dir: PathBuf,
    place: Place,
}

impl Own {
    /// One that belongs to whoever runs in `place`.
    fn new(place: Place) -> Own {
        let here = Cgroup::find().expect("a cgroup that groups can be made in");
        let dir = here.dir().join(fresh_name());
        fs::create_dir(&dir).expect("a cgroup");
        if place != Place::Here {
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                chown(dir.join(file), Some(NOBODY), Some(NOBODY)).expect("a cgroup for nobody");
            }
        }
        Own { dir, place }
    }

    fn run(&self) -> Run {
        run(self.place)
    }

    /// Starts a run from inside: the process enters, and then becomes what it is to be.
    fn start(&self, mut run: Run) -> Running {
        let command = run.build();
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.dir.display());
        run.start_as(&mut behind(&["sh", "-c", &enter, "sh"], &command))
    }

    fn end(&self, run: Run) -> Ended {
        let ended = self.start(run).end();
        assert_eq!(self.below(), Vec::<PathBuf>::new(), "{ended:?}");
        ended
    }

    fn below(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).expect("the cgroup").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    fn group(&self) -> PathBuf {
        let below = self.below();
        assert_eq!(below.len(), 1, "{below:?}");
        below[0].clone()
    }

    fn is_empty_again(&self) {
        until("the run's cgroup to go", || self.below().is_empty().then_some(()));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = fs::write(self.dir.join("cgroup.kill"), "1");
        for below in self.below() {
            let _ = fs::remove_dir(below);
        }
        // A supervisor that is ending is in there until it has ended.
        let gone = || fs::remove_dir(&self.dir).ok();
        if std::thread::panicking() {
            let _ = gone();
        } else {
            until("the test's own cgroup to go", gone);
        }
    }
}

fn all_of_the_tree_is_in_it_and_nothing_is_left(place: Place) {
    let own = Own::new(place);
    let script = "grep ^0: /proc/self/cgroup; ACTS leave MARK 30; ACTS daemon MARK 1; exit 4";
    let ended = own.end(own.run().script(script));
    let report = ended.report();
    assert_eq!((ended.status, report.backend), (4, Some(Backend::Kernel)), "{ended:?}");
    assert!(ended.out.contains("/cgrove-run-"), "{ended:?}");
    assert!(ended.only_line().contains("[kernel]"), "{ended:?}");
    assert!(report.left_behind.killed >= 31, "{ended:?}");
    assert_eq!(
        (report.cpu.class, report.classes.kill, report.classes.freeze),
        (Class::Kernel, Class::Kernel, None)
    );
    assert!(report.cpu.user_ns + report.cpu.system_ns > 0, "{ended:?}");
    assert_eq!(report.warnings, Vec::<String>::new());
}

fn what_the_kernel_does_not_hold_cgrove_does(place: Place) {
    let own = Own::new(place);
    if Cgroup::find().is_ok_and(|here| here.enabled().iter().any(|it| it == "pids")) {
        // Then it does.
        return;
    }
    let script = "for i in 1 2 3 4 5 6 7 8; do ACTS sleep MARK & done; exit 3";
    let options = ["--pids-max", "5", "--require", "pids=exact,kill=kernel,cpu=kernel"];
    let ended = own.end(own.run().options(&options).script(script));
    let report = ended.report();
    assert_eq!(report.backend, Some(Backend::Kernel), "{ended:?}");
    assert_eq!((report.classes.pids, report.limits.pids_max), (Class::Exact, Some(5)));
    assert!(report.forks.refused > Some(0), "{ended:?}");
    assert!(report.warnings[0].contains("ENODEV"), "{ended:?}");
}

fn the_front_is_killed(place: Place) {
    let own = Own::new(place);
    let running = own.start(own.run().acts("load", 0));
    running.said("ready");
    running.signal(libc::SIGKILL);
    running.vanish();
    own.is_empty_again();
}

fn the_supervisor_is_killed(place: Place) {
    let own = Own::new(place);
    let running = own.start(own.run().acts("load", 0));
    running.said("ready");
    cgrove_host::sys::kill(running.supervisor(), libc::SIGKILL).unwrap();
    let ended = running.end();
    assert_eq!((ended.status, ended.report().reason), (125, Reason::SupervisorKilled));
    own.is_empty_again();
}

fn either_is_killed_at_any_moment(place: Place) {
    let own = Own::new(place);
    // Moments spread over the start and the first forks. The place makes the seed.
    let mut random = 0x2545_f491_u64 ^ place as u64;
    for round in 0..24 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let moment = Duration::from_micros(random >> 32 & 0x3fff);
        let running = own.start(own.run().acts("load", 0));
        let began = Instant::now();
        // The passing of time is the fault injected here: there is no event to wait for.
        while began.elapsed() < moment {
            std::hint::spin_loop();
        }
        let below = watch::below(running.pid());
        let supervisor = below.iter().find(|it| it.ppid == running.pid());
        match supervisor.filter(|_| round % 2 == 1) {
            Some(supervisor) => {
                cgrove_host::sys::kill(supervisor.pid, libc::SIGKILL).unwrap();
                assert_eq!(running.end().status, 125);
            }
            None => {
                running.signal(libc::SIGKILL);
                running.vanish();
            }
        }
        own.is_empty_again();
    }
}

/// Nobody guards the tree then, but the cgroup says whose it is.
fn the_next_run_clears_what_two_dead_ones_left(place: Place) {
    let own = Own::new(place);
    let running = own.start(own.run().script("ACTS leave MARK 5; echo ready; ACTS sleep MARK"));
    running.said("ready");
    let supervisor = running.supervisor();
    let both = [running.pid(), supervisor];
    for signal in [libc::SIGSTOP, libc::SIGKILL] {
        both.iter().for_each(|pid| cgrove_host::sys::kill(*pid, signal).unwrap());
    }
    until("both to end", || {
        let ended = |pid| watch::process(pid).is_none_or(|it| it.state == 'Z');
        both.iter().all(|pid| ended(*pid)).then_some(())
    });
    let left = own.group();
    let again = own.run();
    // Before anybody has collected them, perhaps.
    let script = again.script("ACTS leave MARK 1");
    assert_eq!(own.start(script).end().status, 0);
    running.vanish();
    assert!(!left.exists());
}

fn who_was_moved_in_is_killed_too(place: Place) {
    let own = Own::new(place);
    let running = own.start(own.run().acts("signals", 0));
    running.said("ready");
    let mut stranger = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    fs::write(own.group().join("cgroup.procs"), stranger.id().to_string()).unwrap();
    running.signal(libc::SIGTERM);
    let ended = running.end();
    let fate = stranger.try_wait().unwrap();
    let _ = stranger.kill();
    let _ = stranger.wait();
    assert!(fate.is_some(), "the stranger lives: {ended:?}");
    own.is_empty_again();
}

fn frozen_by_the_kernel(place: Place) {
    let own = Own::new(place);
    let running = own.start(own.run().acts("load", 0));
    running.said("ready");
    let name = running.mark.clone();
    let get = |file: &str| answer(place, &["get", &name, file]);
    for _ in 0..3 {
        assert_eq!(answer(place, &["freeze", &name]), "");
        assert_eq!(get("cgroup.events"), "populated 1\nfrozen 1\n");
        let kernels = fs::read_to_string(own.group().join("cgroup.events")).unwrap();
        assert!(kernels.contains("frozen 1"), "{kernels}");
        assert_eq!(answer(place, &["thaw", &name]), "");
        assert_eq!(get("cgroup.freeze"), "0\n");
    }
    assert_eq!(answer(place, &["freeze", &name]), "");
    running.signal(libc::SIGKILL);
    running.vanish();
    own.is_empty_again();
}

fn frozen_from_the_start(place: Place) {
    let own = Own::new(place);
    let it = own.run().options(&["--set", "cgroup.freeze=1"]);
    let running = own.start(it.script("echo ran; exit 7"));
    let name = running.mark.clone();
    let frozen = || {
        let output = cgrove(place, &["get", &name, "cgroup.events"]);
        String::from_utf8_lossy(&output.stdout).contains("frozen 1").then_some(())
    };
    running.until("the run to be frozen", frozen);
    assert_eq!(running.out(), "");
    answer(place, &["thaw", &name]);
    let ended = running.end();
    assert_eq!((ended.status, ended.out.as_str()), (7, "ran\n"));
}

fn a_timeout_lets_the_frozen_clean_up(place: Place) {
    let own = Own::new(place);
    let options = ["--timeout", "1s", "--kill-grace", "60s"];
    let script =
        "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do ACTS sleep MARK 1; done";
    let running = own.start(own.run().options(&options).script(script));
    running.said("ready");
    // Too late is as good: then it has cleaned up already.
    let _ = cgrove(place, &["freeze", &running.mark]);
    let ended = running.end();
    assert_eq!(ended.status, 124, "{ended:?}");
    assert!(ended.out.contains("cleaned"), "{ended:?}");
}

fn groups_in_it_are_held_by_cgrove(place: Place) {
    let own = Own::new(place);
    let script = "grep ^0: /proc/self/cgroup; CGROVE_BIN run --quiet --name in -- sh -c \
                  'grep ^0: /proc/self/cgroup; exit 5'; echo inner $?; \
                  CGROVE_BIN run --backend kernel -- true; echo forced $?; \
                  echo ready; ACTS sleep MARK";
    let script = script.replace("CGROVE_BIN", crate::kit::kit().cgrove.to_str().unwrap());
    let running = own.start(own.run().script(&script));
    running.said("ready");
    assert!(running.err().contains("EOPNOTSUPP"), "{}", running.err());
    let out = running.out();
    let cgroups: Vec<&str> = out.lines().filter(|line| line.starts_with("0:")).collect();
    assert_eq!((cgroups.len(), cgroups[0]), (2, cgroups[1]), "{out}");
    assert!(out.contains("inner 5\nforced 125\n"), "{out}");
    // Who is brought in is in it as well.
    let brought = exec(place, &running.mark).command(&["grep", "^0:", "/proc/self/cgroup"]).end();
    assert_eq!((brought.status, brought.out.trim()), (0, cgroups[0]), "{brought:?}");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status, 143);
    own.is_empty_again();
}

fn what_is_required_of_it_is_refused(place: Place) {
    let own = Own::new(place);
    if Cgroup::find().is_ok_and(|here| here.enabled().iter().any(|it| it == "memory")) {
        // Then it is given.
        return;
    }
    let options = ["--require", "memory=kernel"];
    let ended = own.end(own.run().options(&options).command(&["echo", "ran"]));
    assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
    let line = ended.only_line();
    assert!(line.contains("--require memory=kernel is not met: "), "{line}");
    assert!(line.contains("has no controller") && line.contains("(ENODEV)"), "{line}");
    let ended = own.end(own.run().options(&["--set", "io.weight=50"]).command(&["true"]));
    assert_eq!(ended.status, 125, "{ended:?}");
    let line = ended.only_line();
    assert!(line.contains("cannot set io.weight to 50") && line.contains("(ENODEV)"), "{line}");
    let ended = own.end(own.run().options(&["--require", "gate"]).command(&["true"]));
    assert_eq!(ended.report().backend, Some(Backend::Gate));
}

/// Nobody may write where the tests run; root may, but the root cgroup is everybody's.
fn it_is_not_taken_where_it_is_not_ours(place: Place) {
    let found = Cgroup::find();
    if place == Place::Here && found.as_ref().is_ok_and(|here| !here.is_root()) {
        // It is ours.
        return;
    }
    let ended = run(place).command(&["true"]).end();
    assert_ne!(ended.report().backend, Some(Backend::Kernel));
    let ended = run(place).options(&["--require", "kernel"]).command(&["true"]).end();
    assert_eq!(ended.status, 125, "{ended:?}");
    let line = ended.only_line();
    assert!(line.contains("--require kernel is not met: "), "{line}");
    let errnos = ["(EACCES)", "(EPERM)", "(EROFS)", "(ENODEV)"];
    assert!(errnos.iter().any(|errno| line.contains(errno)), "{line}");
    let kept = refusal(&cgrove(place, &["create", &fresh_name(), "--backend", "kernel"]));
    assert!(kept.contains("--backend kernel is not possible: "), "{kept}");
    assert!(kept.contains("(EOPNOTSUPP)"), "{kept}");
}
