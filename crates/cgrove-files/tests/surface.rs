//! Names, modes, owners, open files: what the VFS and kernfs add to cgroup2.

mod support;

use cgrove_core::{Errno, WriteError};
use cgrove_files::{Caller, Cred, NoTasks, Node, OpenFlags, XattrMode};
use support::{PAGE, World};

#[test]
fn names_are_taken_as_linux_takes_them() {
    let mut w = World::new();
    for name in ["a b", "tab\there", "...", "memory.max", "gr\u{fc}n"] {
        assert_eq!(w.mkdir(name), Ok(()), "{name}");
    }
    assert_eq!(w.mkdir("new\nline"), Err(Errno::EINVAL));
    assert_eq!(w.mkdir("nul\0"), Err(Errno::EINVAL));
    for taken in [".", "..", "a b", "cgroup.procs", "memory.stat."] {
        let is = if taken == "memory.stat." { Ok(()) } else { Err(Errno::EEXIST) };
        assert_eq!(w.mkdir(taken), is, "{taken}");
    }
    assert_eq!(w.mkdir(&"x".repeat(255)), Ok(()));
    assert_eq!(w.mkdir(&"y".repeat(256)), Ok(()), "kernfs has no limit of its own");
    assert_eq!(w.mkdir(&"z".repeat(4095)), Ok(()));
    assert_eq!(w.mkdir(&"z".repeat(4096)), Err(Errno::ENAMETOOLONG));
    assert_eq!(w.mkdir(""), Err(Errno::ENOENT));
    assert_eq!(w.mkdir("no/b"), Err(Errno::ENOENT));
    assert_eq!(w.mkdir("cgroup.procs/b"), Err(Errno::ENOTDIR));

    let root = w.dir("");
    let bytes = b"\xff\xfe";
    w.tree.mkdir(&root, bytes, 0o755, &Cred::root(), &mut w.fx).unwrap();
    let listed = w.tree.readdir(&root, &Cred::root()).unwrap();
    assert!(listed.iter().any(|entry| entry.name == bytes && entry.node.is_dir()));
    assert!(w.tree.walk(bytes, &Cred::root()).is_ok());
    let same = w.tree.mkdir(&root, bytes, 0o755, &Cred::root(), &mut w.fx);
    assert_eq!(same.unwrap_err(), Errno::EEXIST);
}

#[test]
fn what_cannot_be_removed_made_or_renamed() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    assert_eq!(w.rmdir("a/cgroup.procs"), Err(Errno::ENOTDIR));
    assert_eq!(w.rmdir("a/."), Err(Errno::EINVAL));
    assert_eq!(w.rmdir("a/.."), Err(Errno::ENOTEMPTY));
    assert_eq!(w.rmdir("b"), Err(Errno::ENOENT));
    let (a, root, user) = (w.dir("a"), Cred::root(), Cred::user(1000, 1000));
    assert_eq!(w.tree.create(&a, b"notes", &root), Err(Errno::EACCES));
    assert_eq!(w.tree.create(&a, b"cgroup.procs", &root), Err(Errno::EEXIST));
    assert_eq!(w.tree.unlink(&a, b"cgroup.procs", &root), Err(Errno::EPERM));
    assert_eq!(w.tree.unlink(&a, b"cgroup.procs", &user), Err(Errno::EACCES));
    assert_eq!(w.tree.unlink(&w.dir(""), b"a", &root), Err(Errno::EISDIR));
    assert_eq!(w.tree.rename(&w.dir(""), b"a", &root), Err(Errno::EPERM));
    assert_eq!(w.open("a", OpenFlags::READ).unwrap_err(), Errno::EISDIR);
}

#[test]
fn a_fresh_cgroup_has_these_files() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let list = |path: &str| {
        let entries = w.tree.readdir(&w.dir(path), &Cred::root()).unwrap();
        let mut lines: Vec<String> = entries
            .iter()
            .filter(|entry| !entry.node.is_dir())
            .map(|entry| {
                let mode = w.tree.stat(&entry.node).attrs.mode;
                format!("{} {mode:o}", String::from_utf8_lossy(&entry.name))
            })
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(
        list("a"),
        [
            "cgroup.controllers 444",
            "cgroup.events 444",
            "cgroup.freeze 644",
            "cgroup.kill 200",
            "cgroup.max.depth 644",
            "cgroup.max.descendants 644",
            "cgroup.procs 644",
            "cgroup.stat 444",
            "cgroup.stat.local 444",
            "cgroup.subtree_control 644",
            "cgroup.threads 644",
            "cgroup.type 644",
            "cpu.stat 444",
            "cpu.stat.local 444",
        ]
    );
    assert_eq!(
        list(""),
        [
            "cgroup.controllers 444",
            "cgroup.max.depth 644",
            "cgroup.max.descendants 644",
            "cgroup.procs 644",
            "cgroup.stat 444",
            "cgroup.subtree_control 644",
            "cgroup.threads 644",
            "cpu.stat 444",
            "cpu.stat.local 444",
            "cpuset.cpus.effective 444",
            "cpuset.mems.effective 444",
            "io.stat 444",
            "memory.reclaim 200",
            "misc.capacity 444",
            "misc.current 444",
            "misc.peak 444",
        ]
    );
    let stat = w.tree.stat(&w.node("").unwrap());
    assert_eq!((stat.attrs.mode, stat.links), (0o555, 3));
    assert_eq!(w.tree.stat(&w.node("a").unwrap()).attrs.mode, 0o755);
}

#[test]
fn writes_have_bounds_and_may_be_empty() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "+cpuset").unwrap();
    w.mkdir("a").unwrap();
    assert_eq!(w.write("a/cgroup.procs", &"x".repeat(PAGE)), Err(Errno::EINVAL));
    assert_eq!(w.write("a/cgroup.procs", &"x".repeat(PAGE + 1)), Err(Errno::E2BIG));
    assert_eq!(w.write("a/cgroup.stat", &"x".repeat(PAGE + 1)), Err(Errno::E2BIG));
    assert_eq!(w.write("a/cpuset.cpus", &"0,".repeat(PAGE)), Ok(()));
    assert_eq!(w.write("a/cpuset.cpus", &" ".repeat(100 + 6 * 8192)), Ok(()));
    assert_eq!(w.write("a/cpuset.cpus", &" ".repeat(101 + 6 * 8192)), Err(Errno::E2BIG));
    let names: Vec<_> = w.tree.defs().map(|(_, def)| def.name.to_string()).collect();
    for name in names {
        let path = format!("a/{name}");
        match w.write(&path, "") {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => panic!("{name}: {errno}"),
        }
    }
}

#[test]
fn a_file_opened_one_way_does_not_go_the_other() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let f = w.open("a/cgroup.freeze", OpenFlags::READ).unwrap();
    assert_eq!(w.write_file(&Cred::root(), &f, b"1"), Err(Errno::EBADF));
    let f = w.open("a/cgroup.freeze", OpenFlags::WRITE).unwrap();
    assert_eq!(w.read_file(&f), Err(Errno::EBADF));
    let f = w.open("a/cgroup.kill", OpenFlags::READ).unwrap();
    assert_eq!(w.read_file(&f), Err(Errno::EINVAL), "root may open what cannot be read");
    let user = Cred::user(1000, 1000);
    let open = |path, flags| w.open_as(&user, path, flags).map(drop);
    assert_eq!(open("a/cgroup.kill", OpenFlags::READ), Err(Errno::EACCES));
    assert_eq!(open("a/cgroup.events", OpenFlags::WRITE), Err(Errno::EACCES));
    assert_eq!(open("a/cgroup.events", OpenFlags::READ), Ok(()));
}

#[test]
fn reading_goes_on_where_it_was_and_starts_anew_elsewhere() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let f = w.open("a/cgroup.events", OpenFlags::READ).unwrap();
    let caller = Caller { cred: &Cred::root(), tasks: &NoTasks };
    let now = w.fx.now();
    assert_eq!(w.tree.read(&f, 10, caller, now).unwrap(), b"populated ");
    let p = w.spawn("a", 10);
    assert_eq!(w.read_file(&f).unwrap(), "0\nfrozen 0\n", "of what was made at the first read");
    assert_eq!(w.read_file(&f).unwrap(), "");
    f.seek(10).unwrap();
    assert_eq!(w.read_file(&f).unwrap(), "1\nfrozen 0\n");
    w.end(&p);
    assert_eq!(w.tree.read_at(&f, 0, 11, caller, now).unwrap(), b"populated 0");
    f.seek(1000).unwrap();
    assert_eq!(w.read_file(&f).unwrap(), "");

    let f = w.open("a/cgroup.max.depth", OpenFlags::BOTH).unwrap();
    for text in [b"4".as_slice(), b"5"] {
        w.write_file(&Cred::root(), &f, text).unwrap();
    }
    assert_eq!(w.get("a/cgroup.max.depth"), "5", "the place does not matter");
    assert_eq!(f.position(), 2);
    assert_eq!(w.read_file(&f).unwrap(), "");
}

#[test]
fn files_of_a_removed_cgroup_or_controller_are_gone_for_good() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "+pids").unwrap();
    w.mkdir("a").unwrap();
    let f = w.open("a/pids.max", OpenFlags::BOTH).unwrap();
    assert_eq!(w.read_file(&f).unwrap(), "max\n");
    w.write("cgroup.subtree_control", "-pids").unwrap();
    w.write("cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.write_file(&Cred::root(), &f, b"3"), Err(Errno::ENODEV));
    assert_eq!(w.write_file(&Cred::root(), &f, b""), Err(Errno::ENODEV));
    assert_eq!(f.seek(0), Err(Errno::ENODEV));
    assert_eq!(w.read_file(&f), Err(Errno::ENODEV));
    assert!(f.poll().priority);
    assert_eq!(w.get("a/pids.max"), "max");

    let dir = w.dir("a");
    w.rmdir("a").unwrap();
    w.mkdir("a").unwrap();
    let root = Cred::root();
    assert_eq!(w.tree.lookup(&dir, b"cgroup.procs", &root).unwrap_err(), Errno::ENOENT);
    let made = w.tree.mkdir(&dir, b"b", 0o755, &root, &mut w.fx);
    assert_eq!(made.unwrap_err(), Errno::ENOENT);
}

/// A css that stays for another controller's sake hides its files and shows new
/// ones later.
#[test]
fn a_file_that_was_hidden_is_not_the_one_that_is_shown_again() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "+io +memory").unwrap();
    w.mkdir("a").unwrap();
    let node = w.node("a/memory.max").unwrap();
    w.tree.chown(&node, Some(1000), None, &Cred::root()).unwrap();
    let f = w.tree.open(&node, OpenFlags::BOTH, &Cred::root()).unwrap();
    w.write("cgroup.subtree_control", "-memory").unwrap();
    assert_eq!(w.read("a/memory.max"), Err(Errno::ENOENT));
    w.write("cgroup.subtree_control", "+memory").unwrap();
    assert_eq!(w.read_file(&f), Err(Errno::ENODEV));
    assert_eq!(w.get("a/memory.max"), "max");
    assert_eq!(w.tree.stat(&w.node("a/memory.max").unwrap()).attrs.uid, 0);
}

#[test]
fn text_ends_at_a_nul() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    assert_eq!(w.write("a/cgroup.max.depth", "8\0junk"), Ok(()));
    assert_eq!(w.get("a/cgroup.max.depth"), "8");
    assert_eq!(w.write("a/cgroup.max.depth", "\x009"), Err(Errno::EINVAL));
    assert_eq!(w.write("cgroup.subtree_control", "+pids\0-pids"), Ok(()));
    assert_eq!(w.get("cgroup.subtree_control"), "pids");
}

#[test]
fn owners_and_modes_decide() {
    let mut w = World::new();
    let user = Cred::user(1000, 1000);
    w.mkdir("a").unwrap();
    assert_eq!(w.mkdir_as(&user, "a/b"), Err(Errno::EACCES));
    assert_eq!(w.mkdir_as(&user, "a"), Err(Errno::EEXIST), "looked up first");
    assert_eq!(w.rmdir_as(&user, "a"), Err(Errno::EACCES));
    assert_eq!(w.rmdir_as(&user, "b"), Err(Errno::ENOENT));
    let a = w.node("a").unwrap();
    w.tree.chown(&a, Some(1000), Some(1000), &Cred::root()).unwrap();
    w.mkdir_as(&user, "a/b").unwrap();
    let made = w.tree.stat(&w.node("a/b/cgroup.max.depth").unwrap()).attrs;
    assert_eq!((made.uid, made.gid, made.mode), (1000, 1000, 0o644));
    assert_eq!(w.write_as(&user, "a/b/cgroup.max.depth", "3"), Ok(()));
    assert_eq!(w.write_as(&user, "a/cgroup.max.depth", "3"), Err(Errno::EACCES));

    assert_eq!(w.tree.chmod(&a, 0o700, &Cred::user(1, 1)), Err(Errno::EPERM));
    w.tree.chmod(&a, 0o700, &user).unwrap();
    let other = Cred::user(1, 1);
    assert_eq!(w.open_as(&other, "a/cgroup.procs", OpenFlags::READ).unwrap_err(), Errno::EACCES);
    assert_eq!(w.tree.readdir(a.cgroup(), &other).unwrap_err(), Errno::EACCES);
    assert_eq!(w.tree.chown(&a, Some(1), None, &user), Err(Errno::EPERM));
    assert_eq!(w.tree.chown(&a, None, Some(7), &user), Err(Errno::EPERM));
    let grouped = Cred { groups: vec![7], ..user.clone() };
    assert_eq!(w.tree.chown(&a, None, Some(7), &grouped), Ok(()));

    // In a set-group-id directory what is made has its group.
    w.tree.chmod(&a, 0o2775, &Cred::root()).unwrap();
    w.mkdir("a/c").unwrap();
    let made = w.tree.stat(&w.node("a/c").unwrap()).attrs;
    assert_eq!((made.uid, made.gid, made.mode), (0, 7, 0o2755));
    assert_eq!(w.tree.stat(&w.node("a/c/cgroup.procs").unwrap()).attrs.gid, 7);
    // In a sticky one only owners remove.
    w.tree.chmod(&a, 0o1777, &Cred::root()).unwrap();
    assert_eq!(w.rmdir_as(&other, "a/c"), Err(Errno::EPERM));
    assert_eq!(w.rmdir_as(&user, "a/c"), Ok(()), "the directory's owner");
}

#[test]
fn a_file_carries_the_rights_of_who_opened_it() {
    let mut w = World::new();
    let user = Cred::user(1000, 1000);
    for path in ["a", "a/b", "a/c"] {
        w.mkdir(path).unwrap();
    }
    w.spawn("a/b", 10);
    for path in ["a/b/cgroup.procs", "a/c/cgroup.procs"] {
        w.tree.chown(&w.node(path).unwrap(), Some(1000), None, &Cred::root()).unwrap();
    }
    let theirs = w.open_as(&user, "a/c/cgroup.procs", OpenFlags::WRITE).unwrap();
    let ours = w.open("a/c/cgroup.procs", OpenFlags::WRITE).unwrap();
    assert_eq!(w.write_file(&Cred::root(), &theirs, b"10"), Err(Errno::EACCES));
    assert_eq!(w.write_file(&user, &ours, b"10"), Ok(()));
    assert_eq!(w.get("a/c/cgroup.procs"), "10");
    w.tree.chown(&w.node("a/cgroup.procs").unwrap(), Some(1000), None, &Cred::root()).unwrap();
    let theirs = w.open_as(&user, "a/b/cgroup.procs", OpenFlags::WRITE).unwrap();
    assert_eq!(w.write_file(&Cred::root(), &theirs, b"10"), Ok(()));
}

#[test]
fn a_namespace_is_a_wall_where_it_is_asked_for() {
    for walls in [true, false] {
        let mut w = World::with(if walls { "nsdelegate" } else { "" });
        for path in ["a", "a/b", "d"] {
            w.mkdir(path).unwrap();
        }
        w.spawn("a", 10);
        let inside = Cred { namespace: Some(w.dir("a")), ..Cred::root() };
        let refused = |errno| if walls { Err(errno) } else { Ok(()) };
        assert_eq!(w.write_as(&inside, "d/cgroup.procs", "10"), refused(Errno::ENOENT));
        w.write("a/cgroup.procs", "10").unwrap();
        assert_eq!(w.write_as(&inside, "a/b/cgroup.procs", "10"), Ok(()));
        assert_eq!(w.write_as(&inside, "a/cgroup.max.depth", "5"), refused(Errno::EPERM));
        assert_eq!(
            w.write_as(&inside, "a/cgroup.max.depth", "x"),
            match walls {
                true => Err(Errno::EPERM),
                false => Err(Errno::EINVAL),
            }
        );
        assert_eq!(w.write_as(&inside, "a/cgroup.max.depth", ""), Ok(()));
        assert_eq!(w.write_as(&inside, "a/cgroup.subtree_control", ""), Ok(()));
        assert_eq!(w.write_as(&inside, "a/b/cgroup.max.depth", "5"), Ok(()));
        assert_eq!(w.write_as(&inside, "cgroup.max.depth", "5"), Ok(()));
    }
}

#[test]
fn marks_are_kept_by_node() {
    let mut w = World::new();
    let (root, user) = (Cred::root(), Cred::user(1000, 1000));
    w.mkdir("a").unwrap();
    let (dir, file) = (w.node("a").unwrap(), w.node("a/cgroup.procs").unwrap());
    let set = |w: &World, node: &Node, name: &str, cred: &Cred| {
        w.tree.setxattr(node, name.as_bytes(), b"1", XattrMode::Any, cred)
    };
    assert_eq!(set(&w, &dir, "trusted.delegate", &root), Ok(()));
    assert_eq!(set(&w, &dir, "user.delegate", &root), Ok(()));
    assert_eq!(set(&w, &dir, "user.delegate", &user), Err(Errno::EACCES));
    assert_eq!(set(&w, &file, "other", &root), Err(Errno::EOPNOTSUPP));
    assert_eq!(w.tree.getxattr(&file, b"user.delegate", &root), Err(Errno::ENODATA));
    assert_eq!(w.tree.getxattr(&dir, b"user.delegate", &user), Ok(b"1".to_vec()));
    assert_eq!(w.tree.listxattr(&dir, &user), [b"user.delegate".to_vec()]);
    assert_eq!(w.tree.listxattr(&dir, &root).len(), 2);
    assert_eq!(w.tree.removexattr(&dir, b"user.delegate", &root), Ok(()));
    assert_eq!(w.tree.removexattr(&dir, b"user.delegate", &root), Err(Errno::ENODATA));
    w.rmdir("a").unwrap();
    w.mkdir("a").unwrap();
    assert!(w.tree.listxattr(&w.node("a").unwrap(), &root).is_empty());
}

/// A write that Linux would sleep in says so, and can be made again.
#[test]
fn a_write_that_would_wait_says_for_what() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "+pids").unwrap();
    w.mkdir("a").unwrap();
    let p = w.spawn("a", 10);
    w.tree.hierarchy().exit(&p, &mut w.fx).unwrap();
    w.write("cgroup.subtree_control", "-pids").unwrap();
    let control = w.open("cgroup.subtree_control", OpenFlags::WRITE).unwrap();
    let (cred, pids) = (Cred::root(), &w.pids);
    let caller = Caller { cred: &cred, tasks: pids };
    match w.tree.write(&control, b"+pids", caller, &mut w.fx) {
        Err(WriteError::WouldWait(draining)) => {
            assert_eq!(draining.lifecycle.tasks, [p.id()]);
            assert_eq!(draining.css.controller(), Some("pids"));
        }
        other => panic!("{other:?}"),
    }
    w.tree.hierarchy().dead(&p, &mut w.fx).unwrap();
    w.settle();
    assert_eq!(w.write_file(&Cred::root(), &control, b"+pids"), Ok(()));
    assert_eq!(w.get("a/pids.max"), "max");
}

/// A cgroup can have the name of a file that is not there yet; then the file
/// cannot come.
#[test]
fn a_file_does_not_take_a_cgroups_name() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    w.mkdir("a/pids.max").unwrap();
    assert_eq!(w.write("cgroup.subtree_control", "+pids +cpu"), Err(Errno::EEXIST));
    assert_eq!(w.get("cgroup.subtree_control"), "");
    w.rmdir("a/pids.max").unwrap();
    w.write("cgroup.subtree_control", "+pids +cpu").unwrap();
    assert_eq!(w.mkdir("a/pids.max"), Err(Errno::EEXIST));
}

/// Two events since the last read are one; opening again starts afresh.
#[test]
fn each_open_file_has_seen_its_own_events() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let first = w.open("a/cgroup.events", OpenFlags::READ).unwrap();
    w.read_file(&first).unwrap();
    let p = w.spawn("a", 10);
    let second = w.open("a/cgroup.events", OpenFlags::READ).unwrap();
    w.read_file(&second).unwrap();
    assert!(first.poll().priority && !second.poll().priority);
    w.end(&p);
    assert!(first.poll().priority && second.poll().priority);
    first.seek(0).unwrap();
    w.read_file(&first).unwrap();
    assert!(!first.poll().priority && second.poll().priority);
    let plain = w.open("a/cgroup.type", OpenFlags::READ).unwrap();
    assert!(plain.poll().priority);
    w.read_file(&plain).unwrap();
    assert!(!plain.poll().priority);
    // Whoever is refused has seen it; whoever has read an empty list has seen none of it.
    let kill = w.open("a/cgroup.kill", OpenFlags::BOTH).unwrap();
    w.read_file(&kill).unwrap_err();
    assert!(!kill.poll().priority);
    let procs = w.open("a/cgroup.procs", OpenFlags::READ).unwrap();
    assert_eq!(w.read_file(&procs).unwrap(), "");
    assert!(procs.poll().priority);
    w.spawn("a", 11);
    procs.seek(0).unwrap();
    w.read_file(&procs).unwrap();
    assert!(!procs.poll().priority);
}
