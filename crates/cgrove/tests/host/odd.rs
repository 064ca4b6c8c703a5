//! Every way to make a task, and ways to confuse whoever counts them.

use crate::kit::{Place, run};

crate::tests![
    vfork_and_posix_spawn,
    clone3_falls_back_to_clone,
    pids_that_come_back[crate::SMALL_PID_MAX],
    a_thread_that_execs,
    a_deep_tree,
    the_end_of_a_child_does_not_interrupt_a_fork,
    a_pipeline_of_a_plain_shell,
];

fn vfork_and_posix_spawn(place: Place) {
    for what in ["vfork", "spawn"] {
        let ended = run(place).options(&["--pids-max", "2"]).acts(what, 50).end();
        let report = ended.report();
        assert_eq!((ended.status, report.forks.refused), (0, Some(0)), "{what}: {ended:?}");
        assert_eq!((report.forks.count, report.tasks.peak), (Some(50), Some(2)), "{what}");
    }
}

/// ENOSYS for whatever flags, as in Docker; what follows goes through the gate.
fn clone3_falls_back_to_clone(place: Place) {
    let ended = run(place).options(&["--pids-max", "2"]).acts("clone3", 0).end();
    assert_eq!(ended.out, "clone3 errno 38\nodd -1 errno 38\n", "{ended:?}");
    assert_eq!(ended.report().forks.count, Some(1));
}

/// A pid that names another process than a moment ago must not keep a place, nor lose one.
fn pids_that_come_back(place: Place) {
    let ended = run(place).options(&["--pids-max", "2"]).acts("pid-reuse", 0).end();
    let report = ended.report();
    assert_eq!((ended.status, report.forks.refused), (0, Some(0)), "{ended:?}");
    assert_eq!(report.forks.count, Some(ended.number("after") + 1));
    assert_eq!(report.tasks.peak, Some(2));
}

/// The thread takes over the process's pid, and its own id and all other threads vanish.
fn a_thread_that_execs(place: Place) {
    let source = r#"
        #include <pthread.h>
        #include <unistd.h>
        static void *sleeper(void *a) { pause(); return a; }
        static void *go(void *argv) { execv(((char **)argv)[0], argv); return 0; }
        int main(int argc, char **argv) {
            pthread_t t;
            (void)argc;
            for (int i = 0; i < 5; i++) pthread_create(&t, 0, sleeper, 0);
            pthread_create(&t, 0, go, argv + 1);
            pause();
        }"#;
    let folder = crate::kit::fresh_path("exec");
    std::fs::create_dir(&folder).unwrap();
    let program =
        cgrove_testkit::acts::compile_source(&folder, "texec", source, &["-pthread"]).unwrap();
    let program = program.to_str().unwrap();
    // After the exec there is one task, so that "fill" finds six places.
    let ended = run(place)
        .options(&["--pids-max", "7"])
        .command(&[program, "ACTS", "fill", "MARK", "20"])
        .end();
    assert_eq!((ended.status, ended.number("children")), (0, 6), "{ended:?}");
    assert_eq!(ended.number("refused-too-early"), 0, "{ended:?}");
}

fn a_deep_tree(place: Place) {
    let script = "f() { if [ $1 -gt 0 ]; then (f $(($1-1))); else ACTS leave MARK 1; fi; }; f 60";
    let ended = run(place).script(script).end();
    let report = ended.report();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(report.left_behind.killed, 1);
    assert_eq!(report.forks.count, Some(62), "{report:?}");
}

/// fork(2) knows no EINTR, and nobody who calls it does.
fn the_end_of_a_child_does_not_interrupt_a_fork(place: Place) {
    let ended = run(place).options(&["--pids-max", "20"]).acts("eintr", 4000).end();
    assert_eq!((ended.status, ended.out.as_str()), (0, "interrupted 0\n"), "{ended:?}");
}

/// dash forks the second part while the first one ends.
fn a_pipeline_of_a_plain_shell(place: Place) {
    let script =
        "i=0; while [ $i -lt 200 ]; do echo $i | grep -c . || exit 9; i=$((i+1)); done; : MARK";
    let ended = run(place).script(script).end();
    assert_eq!((ended.status, ended.err.contains("Cannot fork")), (0, false), "{}", ended.err);
    assert_eq!(ended.out.lines().filter(|line| *line == "1").count(), 200);
}
