//! Bad input: one clear line, status 125, and the command never starts.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cgrove_host::report::{Backend, Class};

use crate::kit::{Place, behind, fresh_path, kit, run};

crate::tests![
    misuse_is_one_line_and_125,
    a_place_without_seccomp_falls_back,
    requirements_fail_closed,
    a_report_that_cannot_be_written,
    a_full_disk_under_the_report,
    closed_standard_streams,
    a_reader_that_went_away,
    a_directory_that_is_gone_or_closed,
    too_few_descriptors,
    help_and_version,
    shells_complete["bash"],
    manual_pages["man"],
    a_proc_of_another_namespace_is_refused[crate::PID_NAMESPACE],
    a_slow_reader_of_a_stream_that_does_not_block["perl"],
    a_hostile_name_cannot_write_to_the_terminal,
];

fn misuse_is_one_line_and_125(place: Place) {
    for args in [
        &["run"][..],
        &["run", "--pids-max", "many", "--", "true"],
        &["run", "--pids-max", "-1", "--", "true"],
        &["run", "--timeout", "never", "--", "true"],
        &["run", "--kill-grace", "2 weekz", "--", "true"],
        &["run", "--name", "a/b", "--", "true"],
        &["run", "--backend", "kernel9", "--", "true"],
        &["run", "--require", "luck", "--", "true"],
        &["run", "--no-such-option", "--", "true"],
        &["walk", "--", "true"],
        &[],
    ] {
        let output = place.command(&kit().cgrove).args(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.starts_with("cgrove: "), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

fn a_place_without_seccomp_falls_back(_: Place) {
    let fallback = |place, backend, pids| {
        let ended = run(place).acts("leave", 3).end();
        let report = ended.report();
        assert_eq!((ended.status, report.left_behind.killed), (0, 3), "{ended:?}");
        assert_eq!(report.backend, Some(backend));
        assert!(report.backend_reason.contains("forbids seccomp"), "{report:?}");
        assert_eq!(report.classes.pids, pids);
    };
    fallback(Place::Deaf, Backend::Ptrace, Class::Exact);
    fallback(Place::Mute, Backend::Reaper, Class::Sampled);
    let fails = |place, options, why| {
        let ended = run(place).options(options).command(&["sh", "-c", "echo ran", "MARK"]).end();
        assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
        assert!(ended.only_line().contains(why), "{ended:?}");
    };
    fails(Place::Deaf, &["--backend", "gate"], "forbids seccomp");
    fails(Place::Deaf, &["--require", "gate"], "forbids seccomp");
    fails(Place::Mute, &["--require", "pids=exact"], "forbids ptrace");
    fails(Place::Mute, &["--backend", "ptrace"], "forbids ptrace");
}

fn requirements_fail_closed(place: Place) {
    let required = format!("pids=exact,cpu=exact,kill,{}", place.asking());
    let met = run(place).options(&["--require", &required]).acts("exit", 0);
    assert_eq!(met.end().status, 0);
    for (options, what) in [
        (&["--backend", "reaper", "--require", "pids=exact"][..], "pids=exact"),
        (&["--backend", "reaper", "--require", "gate"], place.asking()),
        (&["--require", "pids=kernel"], "pids=kernel"),
    ] {
        let ended = run(place).options(options).command(&["echo", "MARK"]).end();
        assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
        assert!(ended.only_line().contains(what), "{ended:?}");
    }
}

fn a_report_that_cannot_be_written(place: Place) {
    let options = ["--json", "/no/such/folder/report.json"];
    let ended = run(place).options(&options).command(&["echo", "MARK"]).end();
    assert_eq!((ended.status, ended.out.as_str()), (125, ""), "the command ran: {ended:?}");
    assert!(ended.only_line().contains("/no/such/folder/report.json"), "{ended:?}");
}

fn a_full_disk_under_the_report(place: Place) {
    let ended = run(place).options(&["--quiet", "--json", "/dev/full"]).acts("leave", 2).end();
    assert_eq!(ended.status, 125, "{ended:?}");
    assert!(ended.only_line().contains("No space left"), "{ended:?}");
    // The summary is not lost with it.
    let ended = run(place).options(&["--json", "/dev/full"]).acts("exit", 3).end();
    assert!(ended.err.contains("exited 3 in"), "{ended:?}");
}

/// What the caller closed stays closed for the command, and no file of ours takes its place.
fn closed_standard_streams(place: Place) {
    for (which, want) in [("<&-", "fd 1\nfd 2\n"), ("2>&-", "fd 0\nfd 1\n")] {
        let mut it = run(place).acts("inherited", 0);
        let ended = it.behind_shell(&format!("exec \"$@\" {which}")).end();
        assert_eq!(ended.status, 0, "{which}: {ended:?}");
        assert!(ended.out.starts_with(want), "{which}: {ended:?}");
    }
    let mut it = run(place).script("echo lost; exit 5; : MARK");
    let ended = it.behind_shell("exec \"$@\" >&- 2>&- <&-").end();
    assert_eq!((ended.status, ended.report().exit.code), (5, Some(5)), "{ended:?}");
    let mut it = run(place).options(&["--json", "-"]).acts("exit", 0);
    let ended = it.behind_shell("exec \"$@\" >&-").end();
    assert_eq!(ended.status, 125, "{ended:?}");
    assert!(ended.only_line().contains("closed"), "{ended:?}");
}

fn a_reader_that_went_away(place: Place) {
    // SIGPIPE is the command's to die of, as without cgrove.
    let mut it = run(place).command(&["yes", "MARK"]);
    let ended = it.behind_shell("\"$@\" | head -n 1; exit 0").end();
    assert_eq!(ended.report().exit.signal, Some(13), "{ended:?}");
    // A report that nobody reads is an error, not a death. The command ends after the reader.
    let mut it = run(place).options(&["--json", "-"]).script("cat >/dev/null; : MARK");
    let script = "{ sleep 0.3 | \"$@\"; echo status $? >&2; } | exec 0<&-";
    let ended = it.behind_shell(script).end();
    assert!(ended.err.ends_with("status 125\n") && ended.err.contains("Broken pipe"), "{ended:?}");
}

fn a_directory_that_is_gone_or_closed(place: Place) {
    let folder = fresh_path("gone");
    fs::create_dir(&folder).unwrap();
    let mut it = run(place).acts("exit", 6);
    let script = format!("cd {0} && rmdir {0} && exec \"$@\"", folder.display());
    let ended = it.behind_shell(&script).end();
    assert_eq!(ended.status, 6, "{ended:?}");
    let closed = fresh_path("closed");
    fs::create_dir(&closed).unwrap();
    let mut it = run(place).acts("exit", 6);
    let mut command = it.build();
    command.current_dir(&closed);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
    let ended = it.start_as(&mut command).end();
    assert_eq!(ended.status, 6, "{ended:?}");
}

fn too_few_descriptors(place: Place) {
    for limit in 3..24 {
        let mut it = run(place).options(&["--pids-max", "9"]).acts("exit", 6);
        let ended = it.behind_shell(&format!("ulimit -n {limit}; exec \"$@\"")).end();
        if ended.status == 6 {
            assert!(limit > 6, "hard to believe");
            return;
        }
        // So few that the loader cannot open a library: not ours to report.
        if ended.err.contains("cannot open shared object") || ended.err.contains("in the jail") {
            continue;
        }
        assert_eq!(ended.status, 125, "{limit} descriptors: {ended:?}");
        assert!(ended.only_line().contains("ulimit -n"), "{limit} descriptors: {ended:?}");
    }
    panic!("24 descriptors are not enough");
}

fn help_and_version(place: Place) {
    for args in [&["--help"][..], &["run", "--help"], &["doctor", "--help"], &["--version"]] {
        let output = place.command(&kit().cgrove).args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
    // Text that was asked for and cannot be printed is an error.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = place.command(&kit().cgrove).arg("--help").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}

fn shells_complete(place: Place) {
    let script = "eval \"$(\"$0\" completions bash)\"; COMP_WORDS=(cgrove run --pids); COMP_CWORD=2; \
        _cgrove cgrove --pids run; echo \"${COMPREPLY[@]}\"";
    let mut bash = place.command(Path::new("bash"));
    let output = bash.args(["-c", script]).arg(&kit().cgrove).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--pids-max\n", "{output:?}");
}

fn manual_pages(place: Place) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut man = place.command(&kit().cgrove);
    let output = man.arg("man").arg(dir.path().join("man1")).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let shown = Command::new("man")
        .args(["--warnings", "-l"])
        .arg(dir.path().join("man1/cgrove-run.1"))
        .env("MANWIDTH", "80")
        .output()
        .unwrap();
    assert_eq!((shown.status.code(), shown.stderr.len()), (Some(0), 0), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("--pids-max"), "{shown:?}");
    // One that cannot be written is refused in a line.
    let mut man = place.command(&kit().cgrove);
    let output = man.args(["man", "/proc/no"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the manual"));
}

/// The pids that such a `/proc` shows are those of other processes.
fn a_proc_of_another_namespace_is_refused(place: Place) {
    let mut it = run(place).script("echo never; : MARK");
    let mut command = behind(&["unshare", "-pf"], &it.build());
    let ended = it.start_as(&mut command).end();
    assert_eq!((ended.status, ended.out.as_str()), (125, ""), "{ended:?}");
    assert!(ended.only_line().contains("another pid namespace"), "{ended:?}");
}

/// With O_NONBLOCK a full pipe is an error to whoever does not wait for it.
fn a_slow_reader_of_a_stream_that_does_not_block(place: Place) {
    // More than a pipe holds: survivors are listed with command lines, be it the helper's or still
    // that of the shell that was about to become one.
    let long = "0".repeat(3900);
    let script = format!("for i in $(seq 40); do ACTS sleep MARK {long} & done; exit 0");
    let mut it = run(place).options(&["--json", "-"]).script(&script);
    let perl = r#"
        use Fcntl; pipe(my $r, my $w);
        if (!(my $pid = fork)) {
            open(STDOUT, ">&", $w); close $r; close $w;
            fcntl(STDOUT, F_SETFL, O_NONBLOCK | O_WRONLY);
            exec @ARGV;
        }
        close $w; wait_until_full($r);
        print while <$r>; wait; exit($? >> 8);
        sub wait_until_full {
            my ($r, $n) = (shift, pack "i", 0);
            while (unpack("i", $n) < 65536) {
                ioctl($r, 0x541B, $n); last if unpack("i", $n) >= 65536;
                select undef, undef, undef, 0.01;
            }
        }"#;
    let mut reader = place.command("perl");
    let built = it.build();
    let at = built.get_args().position(|word| word == "run").expect("a run");
    reader.args(["-e", perl]).arg(&kit().cgrove).args(built.get_args().skip(at));
    let ended = it.start_as(&mut reader).end();
    assert_eq!(ended.status, 0, "{}", ended.err);
    let report: cgrove_host::report::Report = serde_json::from_str(&ended.out).expect("all of it");
    assert_eq!(report.left_behind.killed, 40);
}

fn a_hostile_name_cannot_write_to_the_terminal(place: Place) {
    let ended = run(place).command(&["/no\x1b]0;owned\x07such\ncommand", "MARK"]).end();
    assert_eq!(ended.status, 127);
    let line = ended.only_line();
    assert!(line.contains(r"/no\u{1b}]0;owned\u{7}such\ncommand"), "{line:?}");
    assert!(!ended.err.trim_end().contains(|c: char| c.is_control()), "{ended:?}");
}
