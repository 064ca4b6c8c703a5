//! What happens in a run, told as it happens; and that no reader holds anybody up.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use cgrove_host::journal::{Happening, What};
use cgrove_host::report::Reason;
use cgrove_testkit::watch;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};

use crate::kit::{Place, Running, exec, fresh_name, fresh_path, kit, run};
use crate::live::{answer, cgrove, refusal};

crate::tests![
    each_event_of_a_run_is_told_in_order,
    limits_on_memory_are_told["perl"],
    throttling_and_a_timeout_are_told,
    what_does_not_start_is_told,
    refused_forks_are_counted,
    events_go_to_standard_output_and_to_nobody,
    who_reads_late_is_told_what_was_lost,
    a_pipe_that_nobody_reads_holds_nobody_up,
    a_group_is_followed_from_outside_to_its_end,
    a_killed_follower_is_no_loss,
    runs_in_runs_tell_their_own_events,
    who_is_inside_follows_what_is_below_it,
    a_foreign_user_is_refused[crate::SUPERUSER],
    a_killed_front_leaves_no_scribe,
    a_killed_supervisor_cuts_the_stream_off,
];

fn parse(text: &str) -> Vec<Happening> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

/// Options that have events written to a new file, and that file.
fn to_file() -> (String, PathBuf) {
    let file = fresh_path("events");
    // For whoever runs in the jail.
    (format!("--events={}", file.display()), file)
}

fn kinds(events: &[Happening]) -> Vec<&'static str> {
    events.iter().map(|it| it.what.kind()).collect()
}

/// Whether these kinds come in this order, with others between.
fn come_in_order(events: &[Happening], order: &[&str]) {
    let mut left = events.iter().map(|it| it.what.kind());
    for kind in order {
        assert!(left.any(|it| it == *kind), "no {kind} in its place: {:?}", kinds(events));
    }
}

fn each_event_of_a_run_is_told_in_order(place: Place) {
    for backend in ["gate", "reaper"] {
        let (option, file) = to_file();
        let cgrove = kit().cgrove.display();
        let script = format!(
            "{cgrove} set $CGROVE pids.max 30; \
             [ {backend} = reaper ] || {cgrove} run --quiet --name inner -- sh -c 'exit 3'; \
             echo ready; read line; exit 4"
        );
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let it = run(place).options(&[&option, "--pids-max", "20", "--backend", backend]);
        let running = it.script(&format!("{script}; : MARK")).stdin(theirs).start();
        running.said("ready");
        let name = running.mark.clone();
        answer(place, &["freeze", &name]);
        answer(place, &["thaw", &name]);
        drop(ours);
        let ended = running.end();
        assert_eq!(ended.status, 4, "{ended:?}");
        let events = parse(&fs::read_to_string(&file).unwrap());
        let nested = ["group-made", "started", "exec", "ended", "group-removed"];
        let mut order = vec!["started", "exec", "set"];
        order.extend(nested.iter().filter(|_| backend == "gate"));
        order.extend(["freeze", "thaw", "ended"]);
        assert_eq!(kinds(&events), order, "{events:?}");
        let (mine, inner) = (format!("/{name}"), format!("/{name}/inner"));
        for (at, it) in events.iter().enumerate() {
            let group = if backend == "gate" && (3..8).contains(&at) { &inner } else { &mine };
            assert_eq!((&it.group, it.version), (group, 1), "{it:?}");
        }
        assert!(events.is_sorted_by_key(|it| it.at_ms), "{events:?}");
        assert!(matches!(&events[0].what, What::Started { pid, command }
            if Some(*pid) == ended.report().pid && command[0] == "sh"));
        let set = What::Set { file: "pids.max".to_owned(), value: "30".to_owned() };
        assert_eq!(events[2].what, set);
        let last = &events.last().unwrap().what;
        assert_eq!(*last, What::Ended { code: Some(4), signal: None });
        if backend == "gate" {
            assert_eq!(events[6].what, What::Ended { code: Some(3), signal: None });
        }
    }
}

fn limits_on_memory_are_told(place: Place) {
    let (option, file) = to_file();
    let options = [&option, "--memory-max", "80M", "--memory-high", "30M"];
    let hungry = "my @a; push @a, 'x' x (4 << 20) while 1; # MARK";
    let ended = run(place).options(&options).command(&["perl", "-e", hungry]).end();
    let report = ended.report();
    assert_eq!(report.reason, Reason::MemoryMax, "{ended:?}");
    let events = parse(&fs::read_to_string(&file).unwrap());
    come_in_order(&events, &["exec", "memory.high", "memory.max", "oom-kill", "ended"]);
    let victim = events.iter().find_map(|it| match &it.what {
        What::OomKill { pid, cmdline, limit_bytes, .. } => Some((*pid, cmdline, *limit_bytes)),
        _ => None,
    });
    let (pid, cmdline, limit) = victim.unwrap();
    assert_eq!((Some(pid), limit), (report.pid, 80 << 20));
    assert_eq!(cmdline[0], "perl");
    let last = &events.last().unwrap().what;
    assert_eq!(*last, What::Ended { code: None, signal: Some(9) });
}

fn throttling_and_a_timeout_are_told(place: Place) {
    let (option, file) = to_file();
    let options = [&option, "--cpu-max", "10%", "--timeout", "1s", "--kill-grace", "0"];
    let ended = run(place).options(&options).acts("burn", 60_000).end();
    assert_eq!(ended.report().reason, Reason::Timeout, "{ended:?}");
    let events = parse(&fs::read_to_string(&file).unwrap());
    come_in_order(&events, &["exec", "throttle", "timeout", "kill", "ended"]);
    // At most ten a second.
    let throttled = events.iter().filter(|it| it.what.kind() == "throttle").count();
    assert!(throttled <= 12, "{events:?}");
}

fn what_does_not_start_is_told(place: Place) {
    let (option, file) = to_file();
    let ended = run(place).options(&[&option]).command(&["/no/such/program", "MARK"]).end();
    assert_eq!(ended.status, 127);
    let events = parse(&fs::read_to_string(&file).unwrap());
    come_in_order(&events, &["started", "exec-failed", "ended"]);
    assert_eq!(events[1].what, What::ExecFailed { error: "ENOENT".to_owned() });
    let ended = run(place).options(&["--events", "/no/such/folder/x"]).script(": MARK").end();
    assert_eq!(ended.status, 125);
    let line = ended.only_line();
    assert!(line.contains("cannot write events to /no/such") && line.contains("ENOENT"), "{line}");
}

fn refused_forks_are_counted(place: Place) {
    let (option, file) = to_file();
    let options = [&option, "--pids-max", "5", "--timeout", "1s", "--kill-grace", "0"];
    let bomb = "f() { f & f & wait; }; while :; do f; done 2>/dev/null; : MARK";
    let ended = run(place).options(&options).command(&["bash", "-c", bomb]).end();
    let events = parse(&fs::read_to_string(&file).unwrap());
    let counts = events.iter().filter_map(|it| match it.what {
        What::PidsMax { count } => Some(count),
        _ => None,
    });
    let (lines, all) = counts.fold((0, 0), |(lines, all), count| (lines + 1, all + count));
    assert!(lines > 0 && lines <= 12, "{lines} of {all}: {ended:?}");
    assert_eq!(Some(all), ended.report().pids_max.hits, "{ended:?}");
}

fn events_go_to_standard_output_and_to_nobody(place: Place) {
    let it = run(place).options(&["--events", "-"]).script("echo between >/dev/null; : MARK");
    let ended = it.end();
    let events = parse(&ended.out);
    assert_eq!(kinds(&events), ["started", "exec", "ended"], "{ended:?}");
    // What is full, and what is closed.
    let it = run(place).options(&["--events", "/dev/full"]).acts("exit", 6);
    assert_eq!(it.end().status, 6);
    let ended = run(place).options(&["--events", "-"]).acts("exit", 6).behind_shell("\"$@\" >&-");
    assert_eq!(ended.end().status, 125);
}

/// A fifo that everybody may write to.
fn fifo() -> PathBuf {
    let path = fresh_path("fifo");
    mkfifo(&path, Mode::from_bits_truncate(0o666)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    path
}

/// One that hardly holds anything, with its reader.
fn small_fifo() -> (PathBuf, File) {
    let path = fifo();
    let reader = open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
    let reader = File::from(reader.unwrap());
    fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (path, reader)
}

/// More than there is room for.
const MANY: u64 = 300;

/// Writes a file so often, says so and waits for its input to end.
fn busy() -> String {
    let cgrove = kit().cgrove.display();
    format!(
        "i=0; while [ $i -lt {MANY} ]; do {cgrove} set $CGROVE pids.max 5$i; i=$((i + 1)); done; \
         echo done; read line; : MARK; exit 7"
    )
}

fn who_reads_late_is_told_what_was_lost(place: Place) {
    let (path, mut reader) = small_fifo();
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let option = format!("--events={}", path.display());
    let it = run(place).options(&[&option, "--pids-max", "50"]).script(&busy());
    let running = it.stdin(theirs).start();
    running.said("done");
    drop(ours);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(running.end().status, 7);
    let events = parse(&text);
    let lost: u64 = events.iter().map(|it| lost(&it.what)).sum();
    let told = events.iter().filter(|it| it.what.kind() == "set").count() as u64;
    assert!(lost > 0, "{events:?}");
    assert_eq!(told + lost, MANY, "{events:?}");
    come_in_order(&events, &["started", "exec", "set", "lost", "ended"]);
}

fn lost(what: &What) -> u64 {
    if let What::Lost { count } = what { *count } else { 0 }
}

fn a_pipe_that_nobody_reads_holds_nobody_up(place: Place) {
    // Nobody has it open; somebody has, and does not read.
    let nobody = fifo();
    let (path, reader) = small_fifo();
    for (path, script) in [(&nobody, "exit 7; : MARK".to_owned()), (&path, busy())] {
        let option = format!("--events={}", path.display());
        let it = run(place).options(&[&option, "--pids-max", "50"]).script(&script);
        let ended = it.end();
        assert_eq!((ended.status, ended.report().reason), (7, Reason::Exited), "{ended:?}");
    }
    drop(reader);
}

/// `cgrove events`, and what it prints.
fn follow(place: Place, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = place.command(&kit().cgrove);
    command.arg("events").args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("cgrove starts");
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn a_group_is_followed_from_outside_to_its_end(place: Place) {
    let name = fresh_name();
    answer(place, &["create", &name]);
    let (mut child, mut out) = follow(place, &[&name, "--json"]);
    first_line(place, &name, &mut out);
    let ended = exec(place, &name).acts("exit", 5).end();
    assert_eq!(ended.status, 5);
    answer(place, &["rm", "--kill", &name]);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    let events = parse(&text);
    let order = ["group-made", "started", "exec", "ended", "group-removed", "group-removed"];
    come_in_order(&events, &order);
    assert_eq!(events.last().unwrap().group, format!("/{name}"));
    let gone = cgrove(place, &["events", &name]);
    assert!(refusal(&gone).contains("ENOENT"), "{gone:?}");
}

/// A run that waits for its input to end, and somebody who follows it.
fn followed(place: Place) -> (Running, std::os::fd::OwnedFd) {
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let running = run(place).script("echo ready; read line; exit 3; : MARK").stdin(theirs).start();
    running.said("ready");
    (running, ours)
}

/// Has the run tell something until the follower has printed a line.
fn first_line(place: Place, name: &str, out: &mut impl BufRead) -> String {
    let told = std::sync::atomic::AtomicBool::new(false);
    let mut line = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                answer(place, &["set", name, "pids.max", "9"]);
            }
        });
        out.read_line(&mut line).unwrap();
        told.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    line
}

fn a_killed_follower_is_no_loss(place: Place) {
    let (running, input) = followed(place);
    let name = running.mark.clone();
    let (mut child, mut out) = follow(place, &[&name]);
    let line = first_line(place, &name, &mut out);
    assert!(line.contains(&format!("s /{name} set pids.max=9")), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut other, mut out) = follow(place, &[&name]);
    first_line(place, &name, &mut out);
    drop(input);
    // Before the run is seen to leave nothing: its name is in the follower's command line.
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(other.wait().unwrap().success());
    assert_eq!(running.end().status, 3);
    assert!(rest.ends_with(&format!(" /{name} ended exited 3\n")), "{rest}");
}

fn runs_in_runs_tell_their_own_events(place: Place) {
    let file = fresh_path("inner");
    let cgrove = kit().cgrove.display();
    let script = format!(
        "{cgrove} run --quiet --name other -- true; \
         {cgrove} run --quiet --name inner --events {} -- sh -c 'exit 6'; : MARK",
        file.display()
    );
    let it = run(place).script(&script);
    let name = it.mark.clone();
    let ended = it.end();
    let events = parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(kinds(&events), ["started", "exec", "ended", "group-removed"], "{ended:?}");
    assert!(events.iter().all(|it| it.group == format!("/{name}/inner")), "{events:?}");
    // And those that are brought in.
    let name = fresh_name();
    answer(place, &["create", &name]);
    let (option, file) = to_file();
    let it = exec(place, &name).options(&[&option]).acts("exit", 5);
    assert_eq!(it.end().status, 5);
    let events = parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(kinds(&events), ["started", "exec", "ended", "group-removed"], "{events:?}");
    answer(place, &["rm", &name]);
}

fn who_is_inside_follows_what_is_below_it(place: Place) {
    let cgrove = kit().cgrove.display();
    let script = format!(
        "{cgrove} run --quiet --name inner -- {cgrove} events ${{CGROVE}}; \
         {cgrove} run --quiet --name inner -- sh -c '{cgrove} events $CGROVE & kill $!; wait'; \
         : MARK"
    );
    let ended = run(place).script(&script).end();
    let lines: Vec<&str> = ended.err.lines().filter(|line| line.contains("EACCES")).collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
}

fn a_foreign_user_is_refused(place: Place) {
    let other = if place == Place::Here { Place::Jail } else { Place::Here };
    let (running, input) = followed(place);
    let name = running.mark.clone();
    let output = cgrove(other, &["events", &name]);
    if other == Place::Jail {
        // Not even where the door is can be looked at.
        assert!(refusal(&output).contains("no such run (ENOENT)"), "{output:?}");
        let look = other.command("ls").arg("/tmp/cgrove-0").output().unwrap();
        assert!(!look.status.success() || look.stdout.is_empty(), "{look:?}");
    } else {
        // Root has doors of its own; nobody's are elsewhere.
        assert!(refusal(&output).contains("no such run (ENOENT)"), "{output:?}");
    }
    drop(input);
    assert_eq!(running.end().status, 3);
}

fn a_killed_supervisor_cuts_the_stream_off(place: Place) {
    let (option, file) = to_file();
    let it = run(place).options(&[&option]).script("ACTS sleep MARK & echo ready; wait");
    let running = it.start();
    running.said("ready");
    let supervisor = running.until("the supervisor", || {
        let below = watch::below(running.pid());
        let it =
            below.iter().find(|it| it.cmdline.iter().any(|word| word.contains("cg-reaper")))?;
        Some(it.pid)
    });
    cgrove_host::sys::kill(supervisor, libc::SIGKILL).unwrap();
    let ended = running.end();
    assert_eq!((ended.status, ended.report().reason), (125, Reason::SupervisorKilled));
    let events = parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(kinds(&events), ["started", "exec"], "{ended:?}");
}

fn a_killed_front_leaves_no_scribe(place: Place) {
    let (path, reader) = small_fifo();
    let option = format!("--events={}", path.display());
    let it = run(place).options(&[&option, "--pids-max", "50"]).script(&busy());
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let running = it.stdin(theirs).start();
    running.said("done");
    // The scribe is stuck now.
    running.signal(libc::SIGKILL);
    running.vanish();
    drop((ours, reader));
}
