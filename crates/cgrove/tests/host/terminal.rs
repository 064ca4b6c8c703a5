//! On a terminal nothing is different: job control, Ctrl-C, Ctrl-Z, the window's size.

use std::process::Command;

use cgrove_testkit::pty::Terminal;
use cgrove_testkit::watch;

use crate::kit::{PATIENCE, Place, kit, run};

crate::tests![
    a_shell_inside_controls_its_jobs ["bash", "setsid", "stty"],
    cgrove_is_a_job_like_any_other ["bash", "setsid", "stty"],
    the_window_size_reaches_the_command ["bash", "setsid", "stty"],
    the_terminal_is_given_back ["bash", "setsid", "stty"],
    a_stop_that_nobody_could_end_is_none ["setsid", "stty"],
    the_terminal_stays_with_a_shell_that_took_it [ "bash", "setsid", "stty"],
    a_closed_window_ends_the_run ["bash", "setsid", "stty"],
];

const PROMPT: &str = "ready> ";

fn shell(command: &mut Command) -> Terminal {
    command.env("PS1", PROMPT).env("TERM", "dumb").env("HISTFILE", "");
    let mut terminal = Terminal::start(command).expect("a terminal");
    terminal.expect(PROMPT);
    terminal
}

fn interactive_shell(place: Place) -> Terminal {
    let mut bash = place.command("bash");
    bash.args(["--norc", "--noprofile", "--noediting", "-i"]);
    shell(&mut bash)
}

/// `cgrove run …` as a user would type it.
fn line(mark: &str, command: &str) -> String {
    let (cgrove, acts) = (kit().cgrove.display(), kit().acts.display().to_string());
    let command = command.replace("ACTS", &acts).replace("MARK", mark);
    format!("{cgrove} run --name {mark} -- {command}\n")
}

fn gone(mark: &str) {
    watch::until("the run to vanish", PATIENCE, || watch::marked(mark).is_empty().then_some(()));
}

fn a_shell_inside_controls_its_jobs(place: Place) {
    let it = run(place).options(&["--pids-max", "20"]).command(&[
        "bash",
        "--norc",
        "--noprofile",
        "--noediting",
        "-i",
    ]);
    let mut terminal = shell(&mut it.build());
    let acts = kit().acts.display();
    terminal.send(&format!("{acts} stubborn {}\n", it.mark));
    terminal.expect("ready\r\n");
    // Deaf to Ctrl-Z; a plain sleep is not.
    terminal.send("\x1c\x03");
    // The keys take effect when they are shown, not when they are typed.
    terminal.expect("^C");
    let deaf = watch::marked(&it.mark);
    let deaf = deaf.iter().find(|p| p.cmdline.iter().any(|w| w == "stubborn")).expect("it runs");
    let _ = cgrove_host::sys::kill(deaf.pid, libc::SIGKILL);
    terminal.expect("Killed");
    terminal.expect(PROMPT);
    terminal.send("sleep 1000\n");
    terminal.expect("sleep 1000\r\n");
    sleeping(terminal.pid(), "sleep");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.send("jobs; fg\n");
    terminal.expect("sleep 1000");
    terminal.expect("\r\nsleep 1000");
    // Continued only after it was given the terminal.
    sleeping(terminal.pid(), "sleep");
    terminal.send("\x03");
    terminal.expect(PROMPT);
    terminal.send("exit 9\n");
    assert_eq!(terminal.status(), Some(9));
    gone(&it.mark);
}

/// Waits until a program whose command line begins like this below `root` sleeps, so that keys reach it.
fn sleeping(root: i32, command: &str) {
    let sleeps = || {
        let found = watch::below(root);
        let it = found.iter().find(|p| p.cmdline.join(" ").starts_with(command))?;
        (it.state == 'S').then_some(())
    };
    watch::until("a sleeping program", PATIENCE, sleeps);
}

fn cgrove_is_a_job_like_any_other(place: Place) {
    let mark = run(place).mark;
    let mut terminal = interactive_shell(place);
    // Ctrl-C ends it.
    terminal.send(&line(&mark, "ACTS sleep MARK"));
    let runs = || watch::marked(&mark).iter().any(|p| p.cmdline[1] == "sleep").then_some(());
    watch::until("the command", PATIENCE, runs);
    terminal.send("\x03");
    terminal.expect(PROMPT);
    terminal.send("echo status $?\n");
    terminal.expect("status 130\r\n");
    gone(&mark);
    // Ctrl-Z stops both, fg continues both.
    terminal.expect(PROMPT);
    terminal.send(&line(&mark, "bash -c 'read line; echo \"<$line>\"; exit 8' MARK"));
    let reads = || watch::marked(&mark).iter().any(|p| p.cmdline[0] == "bash").then_some(());
    watch::until("the command", PATIENCE, reads);
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect(PROMPT);
    terminal.send("fg\n");
    terminal.expect("run --name");
    sleeping(terminal.pid(), "bash -c");
    terminal.send("typed after\n");
    terminal.expect("<typed after>");
    terminal.expect(PROMPT);
    terminal.send("echo status $?\n");
    terminal.expect("status 8\r\n");
    gone(&mark);
    // In the background it may not read: it is stopped until it is in front again.
    terminal.expect(PROMPT);
    terminal.send(&line(&mark, "cat").replace('\n', " &\n"));
    terminal.expect(PROMPT);
    let stopped = || watch::marked(&mark).iter().any(|front| front.state == 'T').then_some(());
    watch::until("cgrove to stop", PATIENCE, stopped);
    terminal.send("jobs\n");
    terminal.expect("Stopped");
    terminal.expect(PROMPT);
    terminal.send("fg\n");
    terminal.expect("run --name");
    sleeping(terminal.pid(), "cat");
    terminal.send("hello\n");
    terminal.expect("hello\r\nhello\r\n");
    terminal.send("\x04");
    terminal.expect(PROMPT);
    terminal.send("exit 0\n");
    assert_eq!(terminal.status(), Some(0));
    gone(&mark);
}

fn the_window_size_reaches_the_command(place: Place) {
    let script = "trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.05; done; : MARK";
    let it = run(place).command(&["bash", "-c", script]);
    let mut terminal = Terminal::start(&it.build()).expect("a terminal");
    terminal.expect("24 80\r\n");
    let device = terminal.device().to_owned();
    let resized = Command::new("stty").args(["-F", &device, "rows", "33"]).status();
    assert!(resized.expect("stty runs").success());
    terminal.expect("33 80\r\n");
    assert_eq!(terminal.status(), Some(0));
    gone(&it.mark);
}

/// A shell that died in a group of its own leaves the terminal to nobody; the caller gets it back.
fn the_terminal_is_given_back(place: Place) {
    let mark = run(place).mark;
    let mut terminal = interactive_shell(place);
    let inner = "bash --norc --noprofile --noediting -ic 'set -m; ACTS sleep MARK; true'";
    terminal.send(&line(&mark, inner));
    let sleeper = watch::until("the inner job", PATIENCE, || {
        watch::marked(&mark).into_iter().find(|p| p.cmdline[1] == "sleep")
    });
    let shell = sleeper.ppid;
    let _ = cgrove_host::sys::kill(shell, libc::SIGKILL);
    terminal.expect("killed by SIGKILL");
    terminal.expect(PROMPT);
    terminal.send("cat\n");
    terminal.expect("cat\r\n");
    terminal.send("hello\n");
    terminal.expect("hello\r\nhello\r\n");
    terminal.send("\x04");
    terminal.expect(PROMPT);
    terminal.send("exit 5\n");
    assert_eq!(terminal.status(), Some(5));
    gone(&mark);
}

/// Without a shell that does job control the kernel ignores Ctrl-Z: the process group is orphaned.
/// cgrove's processes must not make it look cared for.
fn a_stop_that_nobody_could_end_is_none(place: Place) {
    let it = run(place).script("echo ready; read line; echo \"<$line>\"; exit 4; : MARK");
    // Two commands, or the shell would make room for the first.
    let mut shell = place.command("sh");
    shell.args(["-c", "\"$@\"; echo status $?", "sh"]);
    let built = it.build();
    shell.arg(kit().cgrove.clone());
    let at = built.get_args().position(|word| word == "run").expect("a run");
    shell.args(built.get_args().skip(at));
    let mut terminal = Terminal::start(&shell).expect("a terminal");
    terminal.expect("ready");
    terminal.send("\x1a");
    terminal.expect("^Z");
    terminal.send("typed\n");
    terminal.expect("<typed>");
    terminal.expect("status 4");
    assert_eq!(terminal.status(), Some(0));
    gone(&it.mark);
}

fn the_terminal_stays_with_a_shell_that_took_it(place: Place) {
    let mark = run(place).mark;
    let mut terminal = interactive_shell(place);
    terminal.send(&line(&mark, "ACTS sleep MARK"));
    let sleeper = watch::until("the command", PATIENCE, || {
        watch::marked(&mark).into_iter().find(|p| p.cmdline[1] == "sleep")
    });
    sleeping(terminal.pid(), &sleeper.cmdline.join(" "));
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect(PROMPT);
    terminal.send("bg\n");
    terminal.expect(PROMPT);
    let runs = || watch::marked(&mark).iter().all(|p| p.state != 'T').then_some(());
    watch::until("the job to go on", PATIENCE, runs);
    let _ = cgrove_host::sys::kill(sleeper.pid, libc::SIGKILL);
    gone(&mark);
    // A shell that lost its terminal is stopped, or reads an error and ends.
    terminal.send("echo still $((40 + 2))\n");
    terminal.expect("still 42\r\n");
    terminal.send("exit 5\n");
    assert_eq!(terminal.status(), Some(5));
}

fn a_closed_window_ends_the_run(place: Place) {
    // In front of the terminal, and as the session itself.
    let mark = run(place).mark;
    let mut terminal = interactive_shell(place);
    terminal.send(&line(&mark, "ACTS sleep MARK"));
    let runs = || watch::marked(&mark).iter().any(|p| p.cmdline[1] == "sleep").then_some(());
    watch::until("the command", PATIENCE, runs);
    terminal.hang_up();
    gone(&mark);
    let it = run(place).script("echo ready; exec ACTS sleep MARK");
    let mut terminal = Terminal::start(&it.build()).expect("a terminal");
    terminal.expect("ready");
    terminal.hang_up();
    gone(&it.mark);
}
