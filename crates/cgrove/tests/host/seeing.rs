//! What can be seen of live runs: `cgrove top`.

use std::process::Command;

use cgrove_testkit::pty::Terminal;
use cgrove_testkit::watch;

use crate::kit::{PATIENCE, Place, Running, fresh_path, kit, run};

crate::tests![
    top_acts_on_a_run["setsid", "stty"],
    top_gives_the_terminal_back["setsid", "stty"],
    one_picture_needs_no_terminal,
    a_run_becomes_a_page,
];

const LEAVE: &str = "\x1b[?1049l";

fn waiting(place: Place) -> Running {
    let running = run(place).script("echo ready; sleep 1000; : MARK").start();
    running.said("ready");
    running
}

fn top(place: Place, name: &str) -> Command {
    let mut command = place.command(&kit().cgrove);
    command.args(["top", name]).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    command
}

fn top_acts_on_a_run(place: Place) {
    let running = waiting(place);
    let mut terminal = Terminal::start(&top(place, &running.mark)).expect("a terminal");
    terminal.expect(&running.mark);
    let file = |what: &str, wanted: &str| {
        watch::until(what, PATIENCE, || {
            let mut get = place.command(&kit().cgrove);
            let got = get.args(["get", &running.mark, "cgroup.events"]).output().unwrap();
            String::from_utf8_lossy(&got.stdout).contains(wanted).then_some(())
        });
    };
    terminal.send("f");
    terminal.expect("frozen");
    file("the freeze", "frozen 1");
    terminal.send("f");
    file("the thaw", "frozen 0");
    // A kill that is not confirmed is none.
    terminal.send("xn");
    terminal.send("x");
    terminal.expect("kill");
    file("the run to live", "populated 1");
    terminal.send("y");
    watch::until("the run to end", PATIENCE, || {
        let mut tree = place.command(&kit().cgrove);
        let got = tree.args(["tree", &running.mark]).output().unwrap();
        (!got.status.success()).then_some(())
    });
    terminal.send("q");
    terminal.expect(LEAVE);
    assert_eq!(terminal.status(), Some(0));
    assert_eq!(running.end().status, 137);
}

fn top_gives_the_terminal_back(place: Place) {
    let running = waiting(place);
    let mut terminal = Terminal::start(&top(place, &running.mark)).expect("a terminal");
    terminal.expect(&running.mark);
    let shown = |it: &watch::Process| it.cmdline.iter().any(|word| word == "top");
    // The first on the terminal becomes it, unless it had to fork to lead a session.
    let below = watch::below(terminal.pid()).into_iter().find(shown);
    let top = below.map_or(terminal.pid(), |it| it.pid);
    cgrove_host::sys::kill(top, libc::SIGTERM).unwrap();
    terminal.expect(LEAVE);
    assert_eq!(terminal.status(), Some(0));
    running.signal(libc::SIGTERM);
    running.vanish();
}

fn one_picture_needs_no_terminal(place: Place) {
    let running = waiting(place);
    let mut once = top(place, &running.mark);
    let picture = once.arg("--once").output().unwrap();
    let text = String::from_utf8_lossy(&picture.stdout);
    assert_eq!(picture.status.code(), Some(0), "{picture:?}");
    for part in [running.mark.as_str(), "sleep 1000", "TASKS"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Live, it says what it lacks.
    let refused = top(place, &running.mark).output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--once"), "{refused:?}");
    running.signal(libc::SIGTERM);
    running.vanish();
}

fn a_run_becomes_a_page(place: Place) {
    let page = fresh_path("page");
    let path = page.to_str().expect("a path").to_owned();
    let script = "ACTS grow MARK 30; sleep 0.3; echo '<script>'; : MARK";
    let options = ["--report", &path, "--memory-max", "500M"];
    let ended = run(place).options(&options).script(script).end();
    // The curves are the page's alone unless asked for.
    assert!(ended.status == 0 && ended.report().series.is_none(), "{ended:?}");
    let text = std::fs::read_to_string(&page).expect("the page");
    for part in ["<svg", "Memory", "memory.max 500", "sleep 0.3", "exited 0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("<script"), "{text}");
    // What cannot be written is refused before anything runs.
    let ended =
        run(place).options(&["--report", "/proc/no.html"]).script("echo never; : MARK").end();
    assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
    assert!(ended.only_line().contains("--report"), "{ended:?}");
}
