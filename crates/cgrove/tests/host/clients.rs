//! Clients of cgroups against a mount that fails on purpose: what `--fault` does, and that the
//! examples of `docs/MOUNT.md` are right. Those run as they stand there.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::MOUNTING;
use crate::kit::{PATIENCE, Place};
use crate::mounting::{Mounting, Shell, assert_refusal};

crate::tests!(
    faults_strike_before_the_tree_is_asked[MOUNTING],
    faults_of_every_kind[MOUNTING],
    faults_make_an_end_come_late[MOUNTING],
    faults_that_make_no_sense_are_refused,
    example_in_shell_is_patient[MOUNTING],
    example_in_python_is_patient[MOUNTING, "python3"],
);

/// A tree with these options; `None` where nothing can be mounted.
fn mounted(place: Place, options: &[&str]) -> Option<Mounting> {
    let mount = Mounting::new(place);
    let output = mount.output(&[options, &["--daemon", "--pid-file", "pid"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    if place != Place::Here {
        assert_refusal(&said);
        return None;
    }
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    Some(mount)
}

fn errno<T>(answer: io::Result<T>) -> Option<i32> {
    answer.err().and_then(|error| error.raw_os_error())
}

fn faults_strike_before_the_tree_is_asked(place: Place) {
    let faults = ["--fault", "rmdir:EBUSY:3", "--fault", "write@*/pids.max:EIO:1"];
    let Some(mount) = mounted(place, &faults) else { return };
    let a = mount.tree().join("a");
    fs::create_dir(&a).unwrap();
    for _ in 0..3 {
        assert_eq!(errno(fs::remove_dir(&a)), Some(libc::EBUSY));
        assert!(a.join("cgroup.procs").exists());
    }
    mount.write("cgroup.subtree_control", "+pids");
    assert_eq!(errno(fs::write(a.join("pids.max"), "7")), Some(libc::EIO));
    assert_eq!(mount.read("a/pids.max"), "max\n");
    mount.write("a/pids.max", "7");
    assert_eq!(mount.read("a/pids.max"), "7\n");
    fs::remove_dir(&a).unwrap();
    mount.end();
}

fn faults_of_every_kind(place: Place) {
    let specs = [
        "lookup@hidden:EACCES",
        "open@a/cgroup.type:EMFILE",
        "read@*/cgroup.stat:EINTR:1",
        "write@*/cgroup.procs:EPERM",
        "mkdir@no-*:ENOSPC",
    ];
    let options: Vec<&str> = specs.iter().flat_map(|spec| ["--fault", *spec]).collect();
    let Some(mount) = mounted(place, &options) else { return };
    let tree = mount.tree();
    fs::create_dir(tree.join("a")).unwrap();
    assert_eq!(errno(fs::metadata(tree.join("hidden"))), Some(libc::EACCES));
    assert_eq!(errno(fs::metadata(tree.join("a/hidden"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::File::open(tree.join("a/cgroup.type"))), Some(libc::EMFILE));
    // By the system call itself: a library would try again.
    let stat = fs::File::open(tree.join("a/cgroup.stat")).unwrap();
    let mut room = [0; 64];
    assert_eq!(nix::unistd::read(&stat, &mut room), Err(nix::errno::Errno::EINTR));
    assert!(nix::unistd::read(&stat, &mut room).is_ok_and(|len| len > 0));
    assert_eq!(errno(fs::write(tree.join("cgroup.procs"), "1")), Some(libc::EPERM));
    assert_eq!(errno(fs::write(tree.join("a/cgroup.procs"), "1")), Some(libc::EPERM));
    assert_eq!(errno(fs::create_dir(tree.join("no-room"))), Some(libc::ENOSPC));
    assert!(!tree.join("no-room").exists());
    fs::remove_dir(tree.join("a")).unwrap();
    mount.end();
}

fn faults_make_an_end_come_late(place: Place) {
    const DELAY: Duration = Duration::from_millis(700);
    let Some(mount) = mounted(place, &["--adopt", "--fault", "populated:700ms"]) else { return };
    fs::create_dir(mount.tree().join("a")).unwrap();
    let mut shell = Shell::new();
    mount.write("a/cgroup.procs", &shell.pid().to_string());
    let mut events = fs::File::open(mount.tree().join("a/cgroup.events")).unwrap();
    let mut text = String::new();
    events.read_to_string(&mut text).unwrap();
    assert_eq!(text, "populated 1\nfrozen 0\n");

    let begin = Instant::now();
    shell.child.kill().unwrap();
    shell.child.wait().unwrap();
    assert_eq!(mount.read("a/cgroup.procs"), "");
    let seen = mount.read("a/cgroup.events");
    if begin.elapsed() < DELAY {
        assert_eq!(seen, "populated 1\nfrozen 0\n");
    }
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
    assert_eq!(poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1));
    assert!(begin.elapsed() >= DELAY, "told after {:?}", begin.elapsed());
    assert_eq!(mount.read("a/cgroup.events"), "populated 0\nfrozen 0\n");

    // In another life of the same cgroup likewise.
    let mut shell = Shell::new();
    mount.write("a/cgroup.procs", &shell.pid().to_string());
    assert_eq!(mount.read("a/cgroup.events"), "populated 1\nfrozen 0\n");
    let begin = Instant::now();
    shell.child.kill().unwrap();
    shell.child.wait().unwrap();
    while mount.read("a/cgroup.events") != "populated 0\nfrozen 0\n" {
        assert!(begin.elapsed() < PATIENCE);
    }
    assert!(begin.elapsed() >= DELAY, "shown after {:?}", begin.elapsed());
    fs::remove_dir(mount.tree().join("a")).unwrap();
    mount.end();
}

fn faults_that_make_no_sense_are_refused(place: Place) {
    let mount = Mounting::new(place);
    for (specs, word) in [
        (&["rmdir:EBUZY"][..], "EBUZY"),
        (&["chown:EIO"], "chown"),
        (&["rmdir"], "OP[@GLOB]:ERRNO[:COUNT]"),
        (&["populated:1s", "populated:2s"], "twice"),
    ] {
        let options: Vec<&str> = specs.iter().flat_map(|spec| ["--fault", *spec]).collect();
        let output = mount.output(&options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.starts_with("cgrove: ") && said.contains(word), "{said}");
        assert_eq!(said.matches('\n').count(), 1, "{said}");
    }
}

/// The example in this language, as the document has it.
fn example(language: &str) -> String {
    let document = include_str!("../../../../docs/MOUNT.md");
    let (_, behind) = document.split_once(&format!("```{language}\n")).expect("an example");
    behind.split_once("```").expect("its end").0.to_owned()
}

/// Runs an example, on a cgroup that is busy three times, on one that stays busy, and on one that
/// is another's.
fn is_patient(place: Place, language: &str, interpreter: &str) {
    let faults = ["rmdir@a:EBUSY:3", "rmdir@b:EBUSY", "rmdir@c:EACCES"];
    let options: Vec<&str> = faults.iter().flat_map(|spec| ["--fault", *spec]).collect();
    let Some(mount) = mounted(place, &options) else { return };
    let program = mount.folder.join("remove");
    fs::write(&program, example(language)).unwrap();
    for name in ["a", "b", "c"] {
        fs::create_dir(mount.tree().join(name)).unwrap();
    }
    let remove = |name: &str| {
        let mut command = Command::new(interpreter);
        let output = command.arg(&program).arg(mount.tree().join(name)).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(remove("a"), (true, String::new()));
    assert!(!mount.tree().join("a").exists());
    assert_eq!(remove("a"), (true, String::new()), "it is gone, which is what was wanted");
    let (done, said) = remove("b");
    assert!(!done && said.contains("busy"), "{said}");
    let (done, said) = remove("c");
    assert!(!done && said.contains("denied"), "{said}");
    mount.end();
}

fn example_in_shell_is_patient(place: Place) {
    is_patient(place, "sh", "sh");
}

fn example_in_python_is_patient(place: Place) {
    is_patient(place, "python", "python3");
}
