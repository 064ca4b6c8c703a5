//! Watching a run while it lasts: the line of progress on a terminal, and metrics for collectors.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use cgrove_testkit::pty::Terminal;
use cgrove_testkit::watch;

use crate::kit::{PATIENCE, Place, Running, fresh_path, kit, run};
use crate::live::{answer, cgrove, refusal};

crate::tests![
    progress_is_shown_and_taken_away["setsid", "stty"],
    progress_makes_way_for_editors ["setsid", "stty"],
    a_stopped_terminal_holds_nobody_up ["setsid", "stty"],
    progress_goes_when_its_job_stops ["bash", "setsid", "stty"],
    progress_is_not_shown_from_the_background ["bash", "setsid", "stty"],
    progress_needs_a_terminal,
    a_killed_front_leaves_the_terminal_in_order ["setsid", "stty"],
    metrics_are_offered_at_a_socket,
    metrics_are_offered_to_this_machine_alone,
    slow_clients_hold_nobody_up,
    a_run_does_without_its_watcher,
    a_killed_supervisor_leaves_no_watcher,
    a_place_for_metrics_is_found_before_the_start,
];

/// What a terminal shows, row by row.
fn rows(terminal: &Terminal) -> Vec<String> {
    let size = |n| NonZero::new(n).expect("a size");
    let mut screen = vt100::Parser::new(size(24), size(80), 0);
    screen.process(terminal.screen.as_bytes());
    screen.screen().rows(0, 80).map(|row| row.trim_end().to_owned()).collect()
}

/// Ends what has this mark if the test fails: what is on a terminal has no [`Running`] that would.
struct Mark<'a>(&'a str);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            watch::end_marked(self.0);
        }
    }
}

fn gone(mark: &str) {
    watch::until("the run to vanish", PATIENCE, || watch::marked(mark).is_empty().then_some(()));
}

fn progress_is_shown_and_taken_away(place: Place) {
    let script = "seq 30; printf 'half '; read line; echo \"<$line>\"; exit 3; : MARK";
    let it = run(place).options(&["--progress", "--pids-max", "20", "--timeout", "5m"]);
    let it = it.script(script);
    let _guard = Mark(&it.mark);
    let mut command = it.build();
    command.env("TERM", "xterm");
    let mut terminal = Terminal::start(&command).expect("a terminal");
    // Twice: it is kept up to date.
    for _ in 0..2 {
        terminal.expect(" of 20 tasks");
        terminal.expect("\x1b8");
    }
    let shown = rows(&terminal);
    assert!(shown[23].starts_with("cgrove: ") && shown[23].contains("s of 5m00s, "), "{shown:#?}");
    assert!(shown.contains(&"30".to_owned()) && shown.contains(&"half".to_owned()), "{shown:#?}");
    terminal.send("typed\n");
    terminal.expect("cgrove: exited 3");
    terminal.expect("\n");
    let shown = rows(&terminal);
    let at = shown.iter().position(|row| row == "half typed").expect("the output is whole");
    assert_eq!(shown[at + 1], "<typed>", "{shown:#?}");
    assert!(shown[at + 2].starts_with("cgrove: exited 3"), "{shown:#?}");
    assert_eq!(shown.join("\n").matches("cgrove: ").count(), 1, "{shown:#?}");
    assert_eq!(terminal.status(), Some(3));
    gone(&it.mark);
}

/// Who reads single keys has the screen.
fn progress_makes_way_for_editors(place: Place) {
    let script = "read a; stty -icanon; read b; stty icanon; read c; exit 3; : MARK";
    let it = run(place).options(&["--progress", "--pids-max", "20"]).script(script);
    let _guard = Mark(&it.mark);
    let mut command = it.build();
    command.env("TERM", "xterm");
    let mut terminal = Terminal::start(&command).expect("a terminal");
    terminal.expect(" of 20 tasks");
    terminal.send("a\n");
    terminal.expect("\x1b7\x1b[r\x1b8");
    terminal.send("b\n");
    terminal.expect(" of 20 tasks");
    terminal.send("c\n");
    terminal.expect("cgrove: exited 3");
    assert_eq!(terminal.status(), Some(3));
    gone(&it.mark);
}

/// Ctrl-S: the terminal takes nothing, neither a line of progress nor that it be taken away.
fn a_stopped_terminal_holds_nobody_up(place: Place) {
    let it = run(place).options(&["--progress", "--quiet", "--pids-max", "20"]);
    let it = it.script("read a; exit 3; : MARK");
    let _guard = Mark(&it.mark);
    let mut command = it.build();
    command.env("TERM", "xterm");
    let mut terminal = Terminal::start(&command).expect("a terminal");
    terminal.expect(" of 20 tasks");
    terminal.send("\x13a\n");
    gone(&it.mark);
    assert_eq!(terminal.status(), Some(3));
}

const PROMPT: &str = "ready> ";

fn interactive_shell(place: Place) -> Terminal {
    let mut bash = place.command("bash");
    bash.args(["--norc", "--noprofile", "--noediting", "-i"]);
    bash.env("PS1", PROMPT).env("TERM", "xterm").env("HISTFILE", "");
    let mut terminal = Terminal::start(&bash).expect("a terminal");
    terminal.expect(PROMPT);
    terminal
}

fn progress_goes_when_its_job_stops(place: Place) {
    let mark = run(place).mark;
    let _guard = Mark(&mark);
    let mut terminal = interactive_shell(place);
    let cgrove = kit().cgrove.display();
    terminal.send(&format!(
        "{cgrove} run --progress --pids-max 20 --name {mark} -- bash -c 'read x; exit 8' {mark}\n"
    ));
    terminal.expect(" of 20 tasks");
    terminal.send("\x1a");
    terminal.expect("Stopped");
    terminal.expect(PROMPT);
    // It is another process that takes it away, and the shell may be faster.
    while rows(&terminal).iter().any(|row| row.contains("of 20 tasks")) {
        terminal.expect("\x1b");
    }
    terminal.send("fg\n");
    terminal.expect(" of 20 tasks");
    terminal.send("x\n");
    terminal.expect("cgrove: exited 8");
    terminal.expect(PROMPT);
    terminal.send("exit 0\n");
    assert_eq!(terminal.status(), Some(0));
    let shown = rows(&terminal);
    assert!(!shown.iter().any(|row| row.contains("of 20 tasks")), "{shown:#?}");
    gone(&mark);
}

/// Whoever writes to the terminal from the background is stopped (`tostop`), or writes into what
/// another is doing.
fn progress_is_not_shown_from_the_background(place: Place) {
    let mark = run(place).mark;
    let _guard = Mark(&mark);
    let mut terminal = interactive_shell(place);
    let cgrove = kit().cgrove.display();
    // Longer than it takes to be shown.
    terminal.send(&format!(
        "stty tostop; {cgrove} run --progress --name {mark} -- bash -c 'sleep 3.5; exit 8' {mark} &\n"
    ));
    terminal.expect(PROMPT);
    terminal.send("wait %1; echo status $?\n");
    terminal.expect("status 8\r\n");
    assert!(!terminal.screen.contains('\x1b'), "{:?}", terminal.screen);
    terminal.expect(PROMPT);
    terminal.send("exit 0\n");
    assert_eq!(terminal.status(), Some(0));
    gone(&mark);
}

fn progress_needs_a_terminal(place: Place) {
    let running = run(place).options(&["--progress"]).script("sleep 2.5; : MARK").start();
    let ended = running.end();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert!(
        ended.err.starts_with("cgrove: exited 0") && ended.err.lines().count() == 1,
        "{ended:?}"
    );
}

/// Under a shell that takes the terminal back, and one that does not care.
fn a_killed_front_leaves_the_terminal_in_order(place: Place) {
    for shell in ["set -m; ", ""] {
        let it = run(place).options(&["--progress", "--pids-max", "20"]).acts("load", 0);
        let _guard = Mark(&it.mark);
        let mut sh = place.command("sh");
        let script = format!("{shell}\"$@\"; echo status $?; read line; exit 7");
        sh.args(["-c", &script, "sh"]).env("TERM", "xterm");
        let built = it.build();
        let at = built.get_args().position(|word| word == "run").expect("a run");
        sh.arg(&kit().cgrove).args(built.get_args().skip(at));
        let mut terminal = Terminal::start(&sh).expect("a terminal");
        terminal.expect(" of 20 tasks");
        terminal.expect("\x1b8");
        let name = kit().cgrove.to_str().expect("a plain path");
        let front = watch::marked(&it.mark);
        let front = front.iter().find(|p| p.cmdline[0] == name).expect("the front").pid;
        cgrove_host::sys::kill(front, libc::SIGKILL).expect("the front can be killed");
        // All but the shell.
        let is_shell = |p: &watch::Process| p.cmdline.contains(&script);
        watch::until("the run to vanish", PATIENCE, || {
            watch::marked(&it.mark).iter().all(is_shell).then_some(())
        });
        terminal.send("done\n");
        assert_eq!(terminal.status(), Some(7));
        terminal.drain();
        let shown = rows(&terminal);
        assert!(!shown.iter().any(|row| row.contains("of 20 tasks")), "{shown:#?}");
        // The region that scrolls is the whole screen again.
        assert!(terminal.screen.contains("\x1b[r"), "{:?}", terminal.screen);
    }
}

/// Where a run says that it offers metrics.
fn address(running: &Running) -> String {
    let said = || {
        let err = running.err();
        let line = err.split_inclusive('\n').find(|line| line.ends_with('\n'))?;
        Some(line.trim_end().strip_prefix("cgrove: metrics at ")?.to_owned())
    };
    running.until("an address", said)
}

enum Client {
    Unix(UnixStream),
    Tcp(TcpStream),
}

fn connect(address: &str) -> Client {
    let patience = Some(PATIENCE);
    match address.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path).expect("it listens");
            stream.set_read_timeout(patience).expect("a timeout");
            Client::Unix(stream)
        }
        None => {
            let at = address.strip_prefix("http://").and_then(|at| at.strip_suffix("/metrics"));
            let stream = TcpStream::connect(at.expect("an address")).expect("it listens");
            stream.set_read_timeout(patience).expect("a timeout");
            Client::Tcp(stream)
        }
    }
}

impl Client {
    fn say(&mut self, text: &str) {
        match self {
            Client::Unix(it) => it.write_all(text.as_bytes()),
            Client::Tcp(it) => it.write_all(text.as_bytes()),
        }
        .expect("it takes a request");
    }

    fn rest(mut self) -> String {
        let mut text = String::new();
        match &mut self {
            Client::Unix(it) => it.read_to_string(&mut text),
            Client::Tcp(it) => it.read_to_string(&mut text),
        }
        .expect("it answers");
        text
    }
}

/// Head and body of an answer.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut client = connect(address);
    client.say(request);
    let text = client.rest();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    (head.to_owned(), body.to_owned())
}

const GET: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// The page, once the run has a door.
fn page(address: &str) -> String {
    watch::until("metrics", PATIENCE, || {
        let (head, body) = ask(address, GET);
        head.starts_with("HTTP/1.1 200 ").then(|| {
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
            assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
            body
        })
    })
}

fn metrics_are_offered_at_a_socket(place: Place) {
    for option in ["--metrics".to_owned(), format!("--metrics={}", fresh_path("metrics").display())]
    {
        let it = run(place).options(&[&option, "--pids-max", "20"]);
        let running = it.script("ACTS sleep MARK & ACTS sleep MARK & echo ready; wait").start();
        running.said("ready");
        let at = address(&running);
        let path = at.strip_prefix("unix:").expect("a socket");
        assert_eq!(fs::metadata(path).expect("its file").mode() & 0o777, 0o600);
        let text = page(&at);
        let name = &running.mark;
        let labels = format!("{{run=\"{name}\",cgroup=\"/{name}\"}}");
        for line in [
            format!("cgrove_tasks{labels} 3"),
            format!("cgrove_processes{labels} 3"),
            format!("cgrove_tasks_limit{labels} 20"),
            format!("cgrove_fork_refusals_total{labels} 0"),
            format!("cgrove_frozen{labels} 0"),
        ] {
            assert!(text.lines().any(|is| is == line), "{line} in {text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let (head, body) = ask(&at, "HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head} {body}");
        assert!(ask(&at, "GET /else HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 404 "));
        // The same without a server.
        let printed = answer(place, &["metrics", name]);
        assert!(printed.contains(&format!("cgrove_tasks{labels} 3\n")), "{printed}");
        running.signal(libc::SIGTERM);
        let path = path.to_owned();
        let ended = running.end();
        assert_eq!(ended.status, 128 + libc::SIGTERM, "{ended:?}");
        assert!(!fs::exists(&path).expect("a folder"), "{path} is still there");
    }
}

fn metrics_are_offered_to_this_machine_alone(place: Place) {
    let running = run(place).options(&["--metrics=0"]).acts("load", 0).start();
    running.said("ready");
    let at = address(&running);
    assert!(at.starts_with("http://127.0.0.1:"), "{at}");
    assert!(page(&at).contains("cgrove_tasks{"));
    running.signal(libc::SIGKILL);
    running.vanish();
    for (at, why) in [("0.0.0.0:0", "other machines"), ("example.org:1", "127.0.0.1:PORT")] {
        let option = format!("--metrics={at}");
        let refused = cgrove(place, &["run", &option, "--", "echo", "never"]);
        assert!(refusal(&refused).contains(why) && refused.stdout.is_empty(), "{refused:?}");
    }
}

/// Half a question, none at all, and answers that nobody takes: others are answered meanwhile, the
/// run ends when it is over, and nobody is left connected.
fn slow_clients_hold_nobody_up(place: Place) {
    for option in ["--metrics", "--metrics=0"] {
        let it = run(place).options(&[option]).stdin(std::process::Stdio::null());
        let running = it.script("ACTS sleep MARK & echo ready; wait").start();
        running.said("ready");
        let at = address(&running);
        let mut slow: Vec<Client> = (0..100).map(|_| connect(&at)).collect();
        for client in slow.iter_mut().rev().take(20) {
            client.say("GET /met");
        }
        for _ in 0..3 {
            assert!(page(&at).contains("cgrove_tasks{"));
        }
        running.signal(libc::SIGTERM);
        let ended = running.end();
        assert_eq!(ended.status, 128 + libc::SIGTERM, "{ended:?}");
        for mut client in slow {
            // The end, or a reset; no timeout.
            let mut buf = [0; 16];
            let got = match &mut client {
                Client::Unix(it) => it.read(&mut buf),
                Client::Tcp(it) => it.read(&mut buf),
            };
            let late = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
            assert!(!got.is_err_and(|error| late.contains(&error.kind())), "still connected");
        }
    }
}

fn a_run_does_without_its_watcher(place: Place) {
    let running = run(place).options(&["--metrics"]).acts("load", 0).start();
    running.said("ready");
    let at = address(&running);
    let path = at.strip_prefix("unix:").expect("a socket").to_owned();
    let found = watch::below(running.pid());
    let watcher = found.iter().find(|p| p.cmdline.iter().any(|w| w.starts_with("cg-watch ")));
    let watcher = watcher.expect("a watcher").pid;
    // Stopped, it cannot take its leave, and is not waited for.
    cgrove_host::sys::kill(watcher, libc::SIGSTOP).expect("it can be stopped");
    let name = running.mark.clone();
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status, 128 + libc::SIGTERM);
    // Its socket lies there still, and is in nobody's way.
    assert!(fs::exists(&path).expect("a folder"));
    let mut again = place.command(&kit().cgrove);
    let again: &mut Command =
        again.args(["run", "--name", &name, "--quiet", "--metrics", "--", "echo", "again"]);
    let again = again.output().expect("cgrove answers");
    assert_eq!(again.stdout, b"again\n", "{again:?}");
    assert!(!fs::exists(&path).expect("a folder"));
}

/// The front kills what the supervisor held, and not the watcher, which it ends like any other time.
fn a_killed_supervisor_leaves_no_watcher(place: Place) {
    let running = run(place).options(&["--metrics"]).acts("load", 0).start();
    running.said("ready");
    let at = address(&running);
    assert!(page(&at).contains("cgrove_tasks{"));
    let found = watch::below(running.pid());
    let reaper = |p: &&watch::Process| p.cmdline.iter().any(|w| w.starts_with("cg-reaper "));
    let supervisor = found.iter().find(reaper).expect("a supervisor").pid;
    cgrove_host::sys::kill(supervisor, libc::SIGKILL).expect("it can be killed");
    let ended = running.end();
    assert_eq!(ended.status, 125, "{ended:?}");
    let path = at.strip_prefix("unix:").expect("a socket");
    assert!(!fs::exists(path).expect("a folder"));
}

fn a_place_for_metrics_is_found_before_the_start(place: Place) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let file = fresh_path("file");
    fs::write(&file, "mine").expect("a file");
    let long = format!("/tmp/{}", "n".repeat(200));
    for (at, why) in [
        (port.to_string(), "in use"),
        (file.display().to_string(), "no socket"),
        ("/nonexistent/folder/socket".to_owned(), "No such file"),
        (long, "too long"),
    ] {
        let option = format!("--metrics={at}");
        let refused = cgrove(place, &["run", &option, "--", "echo", "never"]);
        assert!(refusal(&refused).contains(why) && refused.stdout.is_empty(), "{refused:?}");
    }
    assert_eq!(fs::read(&file).expect("it is still there"), b"mine");
    // Two of a name are told apart before the second has begun.
    let running = run(place).options(&["--metrics"]).acts("load", 0).start();
    running.said("ready");
    let second = ["run", "--name", &running.mark, "--metrics", "--", "echo", "never"];
    assert!(refusal(&cgrove(place, &second)).contains("in use"));
    let at = address(&running);
    assert!(page(&at).contains("cgrove_tasks{"));
    running.signal(libc::SIGKILL);
    running.vanish();
}
