//! `cgrove mount --record`: what a mount was asked, played again on the core, is answered alike; and
//! an answer that was altered is found.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use cgrove_conform::reported::{Compared, compare, on_core};
use cgrove_conform::transcript::Transcript;

use crate::MOUNTING;
use crate::kit::{PATIENCE, Place};
use crate::mounting::{Mounting, Shell, assert_refusal};

crate::tests!(
    record_of_a_tree_agrees_with_the_core[MOUNTING],
    record_of_processes_agrees_with_the_core[MOUNTING],
    record_that_cannot_be_kept_is_refused[MOUNTING],
);

/// A tree whose record is in `record`; `None` where nothing can be mounted.
fn recorded(place: Place, options: &[&str]) -> Option<Mounting> {
    let mount = Mounting::new(place);
    let all = ["--daemon", "--pid-file", "pid", "--record", "record"];
    let output = mount.output(&[options, &all].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    if place != Place::Here {
        assert_refusal(&said);
        return None;
    }
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    Some(mount)
}

fn played(record: &str) -> Compared {
    let transcript = Transcript::parse(record).unwrap_or_else(|e| panic!("{e}:\n{record}"));
    compare(&transcript, &on_core(&transcript).unwrap())
}

/// Ends the mount, and plays its record.
fn agrees(mount: &Mounting) -> String {
    mount.end();
    let record = fs::read_to_string(mount.folder.join("record")).unwrap();
    let compared = played(&record);
    let differences: Vec<String> = compared.differences.iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{}\n{record}", differences.join("\n"));
    assert!(compared.steps > 10, "{record}");
    record
}

fn record_of_a_tree_agrees_with_the_core(place: Place) {
    let Some(mount) = recorded(place, &[]) else { return };
    let tree = mount.tree();
    fs::create_dir(tree.join("a")).unwrap();
    fs::create_dir(tree.join("a/two words")).unwrap();
    mount.write("cgroup.subtree_control", "+pids +memory\n");
    mount.read("cgroup.controllers");
    mount.read("cgroup.subtree_control");
    mount.write("a/pids.max", "20\n");
    assert_eq!(mount.read("a/pids.max"), "20\n");
    fs::write(tree.join("a/pids.max"), "twenty").unwrap_err();
    fs::write(tree.join("a/cgroup.max.depth"), "\"1\"\t$").unwrap_err();
    fs::write(tree.join("a/cgroup.procs"), "77").unwrap_err();
    fs::write(tree.join("a/cgroup.procs"), "0").unwrap_err();
    mount.read("a/cgroup.events");
    mount.read("a/cgroup.stat");
    mount.read("a/cgroup.procs");
    mount.read("a/memory.current");
    fs::remove_dir(tree.join("a")).unwrap_err();
    fs::set_permissions(tree.join("a/pids.max"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(tree.join("a/cgroup.procs"), Some(1000), Some(1000)).unwrap();
    }
    // One byte at a time is the same text.
    let file = fs::File::open(tree.join("a/pids.max")).unwrap();
    let mut byte = [0];
    while nix::unistd::read(&file, &mut byte) == Ok(1) {}
    let gone = fs::OpenOptions::new().write(true).open(tree.join("a/two words/cgroup.type"));
    fs::remove_dir(tree.join("a/two words")).unwrap();
    nix::unistd::write(gone.unwrap(), b"threaded").unwrap_err();
    fs::remove_dir(tree.join("a")).unwrap();

    let record = agrees(&mount);
    for line in [
        "  mkdir \"a/two words\"",
        "  write . cgroup.subtree_control \"+pids +memory\\n\"",
        "  write a cgroup.procs 4194304\n    = ESRCH",
        "  rmdir a\n    = EBUSY",
        "  chmod a pids.max 600",
        "  # read a memory.current (| 0): not played, it is the machine's",
        "  # write \"a/two words\" cgroup.type threaded (= ENODEV): not played, it was removed",
    ] {
        assert!(record.contains(line), "{line} is missing:\n{record}");
    }
    assert_eq!(record.matches("  read a pids.max\n    | 20").count(), 2, "{record}");
    // Whatever answer is altered, it is found.
    for (answer, other) in
        [("    = EBUSY", "    = EPERM"), ("    | 20", "    | 21"), ("    = ESRCH", "    = ok")]
    {
        let wrong = record.replacen(answer, other, 1);
        assert_ne!(wrong, record);
        let differences = played(&wrong).differences;
        assert_eq!(differences.len(), 1, "{differences:?}");
    }
}

fn record_of_processes_agrees_with_the_core(place: Place) {
    let Some(mount) = recorded(place, &["--adopt"]) else { return };
    let tree = mount.tree();
    fs::create_dir(tree.join("a")).unwrap();
    fs::create_dir(tree.join("b")).unwrap();
    let mut shell = Shell::new();
    mount.write("a/cgroup.procs", &format!("{}\n", shell.pid()));
    let (one, two) = (shell.start("exec sleep 1000"), shell.start("exec sleep 1000"));
    cgrove_testkit::watch::until("both to be seen", PATIENCE, || {
        (mount.read("a/cgroup.procs").lines().count() == 3).then_some(())
    });
    mount.read("a/cgroup.events");
    fs::remove_dir(tree.join("a")).unwrap_err();
    mount.write("b/cgroup.procs", &two.to_string());
    mount.read("b/cgroup.procs");
    mount.read("b/cgroup.events");
    // One ends by itself, and others are killed.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(two), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    cgrove_testkit::watch::until("its end to be seen", PATIENCE, || {
        mount.read("b/cgroup.procs").is_empty().then_some(())
    });
    mount.read("b/cgroup.events");
    fs::remove_dir(tree.join("b")).unwrap();
    mount.write("a/cgroup.kill", "1");
    shell.child.wait().unwrap();
    cgrove_testkit::watch::until("all to end", PATIENCE, || {
        mount.read("a/cgroup.procs").is_empty().then_some(())
    });
    assert_eq!(mount.read("a/cgroup.events"), "populated 0\nfrozen 0\n");
    fs::write(tree.join("a/cgroup.procs"), one.to_string()).unwrap_err();
    fs::remove_dir(tree.join("a")).unwrap();

    let record = agrees(&mount);
    for line in [
        "  spawn p1\n    = ok\n  write a cgroup.procs \"$p1\\n\"\n    = ok",
        "  spawn p2 in a",
        "    | $p1\n    | $p2\n    | $p3",
        "  exit p",
        "  write a cgroup.kill 1",
        "  await p1",
    ] {
        assert!(record.contains(line), "{line} is missing:\n{record}");
    }
    let wrong = record.replacen("    | populated 0", "    | populated 1", 1);
    assert_eq!(played(&wrong).differences.len(), 1);
}

fn record_that_cannot_be_kept_is_refused(place: Place) {
    let mount = Mounting::new(place);
    let output = mount.output(&["--record", "nowhere/record"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.starts_with("cgrove: cannot write nowhere/record: "), "{said}");
    assert_eq!(said.matches('\n').count(), 1, "{said}");
}
