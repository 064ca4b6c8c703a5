//! Several users of one mount, which root has made for all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use nix::errno::Errno;

use crate::act::{USER, Who};
use crate::kit::{self, Mount, Place, hierarchy};
use crate::lively::Lively;

crate::tests!(
    &[Place::Root, Place::Kernel] =>
    strangers_may_read_and_not_change,
    a_delegated_cgroup_is_used_by_its_owner,
    supplementary_groups_count,
    a_group_can_have_less_than_others,
    sticky_directories_protect,
    whoever_opened_a_file_is_judged,
    only_owners_change_modes;
    &[Place::Root] => moving_tasks_needs_the_openers_rights, files_that_a_write_makes_are_the_writers;
);

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn strangers_may_read_and_not_change(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    let max = mount.path("a/cgroup.max.depth");
    assert_eq!(USER.does(&["read", text(&max)]), "max\n");
    assert_eq!(USER.does(&["list", text(&a)]), "ok");
    assert_eq!(USER.does(&["write", text(&max), "1"]), "EACCES");
    assert_eq!(USER.does(&["truncate", text(&max)]), "EACCES");
    assert_eq!(USER.does(&["open-truncated", text(&max)]), "EACCES");
    assert_eq!(USER.does(&["mkdir", text(&mount.path("a/b")), "777"]), "EACCES");
    assert_eq!(USER.does(&["rmdir", text(&a)]), "EACCES");
    assert_eq!(USER.does(&["access", "4", text(&max)]), "ok");
    assert_eq!(USER.does(&["access", "2", text(&max)]), "EACCES");
    assert_eq!(USER.does(&["access", "1", text(&max)]), "EACCES");
    fs::set_permissions(&a, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(USER.does(&["read", text(&max)]), "EACCES");
    assert_eq!(USER.does(&["stat", text(&max)]), "EACCES");
    assert_eq!(USER.does(&["list", text(&a)]), "EACCES");
    assert_eq!(USER.does(&["stat", text(&a)]), "ok");
    fs::set_permissions(&a, Permissions::from_mode(0o711)).unwrap();
    assert_eq!(USER.does(&["read", text(&max)]), "max\n");
    assert_eq!(USER.does(&["list", text(&a)]), "EACCES");
    let root = Who { uid: 0, gid: 0, groups: &[] };
    fs::set_permissions(&a, Permissions::from_mode(0o000)).unwrap();
    assert_eq!(root.does(&["read", text(&max)]), "max\n");
    assert_eq!(root.does(&["access", "6", text(&max)]), "ok");
    assert_eq!(root.does(&["access", "1", text(&max)]), "EACCES", "nobody may execute it");
}

fn a_delegated_cgroup_is_used_by_its_owner(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(a.join(name), Some(USER.uid), Some(USER.gid)).unwrap();
    }
    assert_eq!(USER.does(&["write", text(&a.join("cgroup.max.depth")), "1"]), "EACCES", "not his");
    assert_eq!(USER.does(&["write", text(&a.join("cgroup.subtree_control")), ""]), "ok");
    assert_eq!(USER.does(&["mkdir", text(&a.join("b")), "755"]), "ok");
    let made = fs::metadata(a.join("b")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode()), (USER.uid, USER.gid, 0o40755));
    assert_eq!(fs::metadata(a.join("b/cgroup.max.depth")).unwrap().uid(), USER.uid);
    assert_eq!(USER.does(&["write", text(&a.join("b/cgroup.max.depth")), "7"]), "ok");
    assert_eq!(mount.read("a/b/cgroup.max.depth"), "7\n");
    assert_eq!(USER.does(&["rmdir", text(&a.join("b"))]), "ok");
}

fn files_that_a_write_makes_are_the_writers(place: Place) {
    let mount = Mount::empty(place);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    let a = mount.mkdir("a");
    for name in ["", "cgroup.procs", "cgroup.subtree_control"] {
        chown(a.join(name), Some(USER.uid), Some(USER.gid)).unwrap();
    }
    assert_eq!(USER.does(&["write", text(&a.join("pids.max")), "1"]), "EACCES", "it is not his");
    assert_eq!(USER.does(&["write", text(&a.join("cgroup.subtree_control")), "+pids"]), "ok");
    assert_eq!(USER.does(&["mkdir", text(&a.join("c")), "755"]), "ok");
    assert_eq!(fs::metadata(a.join("c/pids.max")).unwrap().uid(), USER.uid);
    assert_eq!(USER.does(&["write", text(&a.join("c/pids.max")), "7"]), "ok");
    assert_eq!(mount.read("a/c/pids.max"), "7\n");
    mount.write("a/cgroup.subtree_control", "-pids").unwrap();
    mount.write("a/cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(fs::metadata(a.join("c/pids.max")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(a.join("c/cgroup.procs")).unwrap().uid(), USER.uid);
}

fn supplementary_groups_count(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    chown(&a, None, Some(kit::GROUP)).unwrap();
    fs::set_permissions(&a, Permissions::from_mode(0o770)).unwrap();
    let member = Who { groups: &[7, kit::GROUP], ..USER };
    let procs = a.join("cgroup.procs");
    assert_eq!(USER.does(&["read", text(&procs)]), "EACCES");
    assert_eq!(USER.does(&["list", text(&a)]), "EACCES");
    assert_eq!(USER.does(&["mkdir", text(&a.join("b")), "755"]), "EACCES");
    assert_eq!(member.does(&["read", text(&procs)]), "");
    assert_eq!(member.does(&["list", text(&a)]), "ok");
    assert_eq!(member.does(&["access", "7", text(&a)]), "ok");
    assert_eq!(member.does(&["mkdir", text(&a.join("b")), "755"]), "ok");
    assert_eq!(member.does(&["rmdir", text(&a.join("b"))]), "ok");
    chown(&procs, None, Some(kit::GROUP)).unwrap();
    fs::set_permissions(&procs, Permissions::from_mode(0o664)).unwrap();
    assert_eq!(member.does(&["write", text(&procs), "x"]), "EINVAL");
    // A primary group without any supplementary one does as well.
    let primary = Who { gid: kit::GROUP, ..USER };
    assert_eq!(primary.does(&["write", text(&procs), "x"]), "EINVAL");
    let giver = Who { groups: &[kit::GROUP], ..USER };
    assert_eq!(member.does(&["mkdir", text(&a.join("c")), "755"]), "ok");
    assert_eq!(giver.does(&["chgrp", text(&a.join("c")), &kit::GROUP.to_string()]), "ok");
    assert_eq!(giver.does(&["chgrp", text(&a.join("c")), "1"]), "EPERM");
    assert_eq!(giver.does(&["chown", text(&a.join("c")), "1"]), "EPERM");
}

fn a_group_can_have_less_than_others(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    chown(&a, None, Some(kit::GROUP)).unwrap();
    fs::set_permissions(&a, Permissions::from_mode(0o705)).unwrap();
    let member = Who { groups: &[kit::GROUP], ..USER };
    assert_eq!(USER.does(&["list", text(&a)]), "ok");
    assert_eq!(member.does(&["list", text(&a)]), "EACCES");
    assert_eq!(member.does(&["read", text(&a.join("cgroup.procs"))]), "EACCES");
}

fn sticky_directories_protect(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    fs::set_permissions(&a, Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(USER.does(&["mkdir", text(&a.join("b")), "755"]), "ok");
    let other = Who { uid: 4, gid: 4, groups: &[] };
    assert_eq!(other.does(&["rmdir", text(&a.join("b"))]), "EPERM");
    assert_eq!(USER.does(&["rmdir", text(&a.join("b"))]), "ok");
}

fn whoever_opened_a_file_is_judged(place: Place) {
    let mount = Mount::empty(place);
    mount.mkdir("a");
    let max = mount.path("a/cgroup.max.depth");
    let open = || Stdio::from(OpenOptions::new().read(true).write(true).open(&max).unwrap());
    assert_eq!(USER.does(&["write", text(&max), "3"]), "EACCES");
    assert_eq!(USER.does_with(&["write-stdin", "3"], open()), "ok");
    assert_eq!(USER.does_with(&["read-stdin"], open()), "3\n");
    fs::set_permissions(mount.path("a"), Permissions::from_mode(0o000)).unwrap();
    assert_eq!(USER.does_with(&["read-stdin"], open()), "3\n");
    // Open for reading only, whoever he is.
    let read = Stdio::from(File::open(&max).unwrap());
    let root = Who { uid: 0, gid: 0, groups: &[] };
    assert_eq!(root.does_with(&["write-stdin", "3"], read), "EBADF");
}

fn moving_tasks_needs_the_openers_rights(place: Place) {
    let world = Lively::new(hierarchy(), &[70, 71]);
    let mount = Mount::of(std::sync::Arc::clone(&world), place);
    for name in ["a", "b"] {
        let dir = mount.mkdir(name);
        for file in ["", "cgroup.procs"] {
            chown(dir.join(file), Some(USER.uid), Some(USER.gid)).unwrap();
        }
    }
    let (a, b) = (mount.path("a/cgroup.procs"), mount.path("b/cgroup.procs"));
    mount.write("a/cgroup.procs", "70").unwrap();
    assert_eq!(mount.read("a/cgroup.procs"), "70\n");
    assert_eq!(mount.read("cgroup.procs"), "71\n");
    // From a to b leads through the root, whose file is not the user's.
    assert_eq!(USER.does(&["write", text(&b), "70"]), "EACCES");
    // Who opens counts, not who writes: root's file does it for the user, the user's not for root.
    let file = Stdio::from(OpenOptions::new().write(true).open(&b).unwrap());
    assert_eq!(USER.does_with(&["write-stdin", "70"], file), "ok");
    assert_eq!(mount.read("b/cgroup.procs"), "70\n");
    chown(mount.path("cgroup.procs"), Some(USER.uid), None).unwrap();
    assert_eq!(USER.does(&["write", text(&a), "70"]), "ok");
    assert_eq!(mount.read("a/cgroup.procs"), "70\n");
    assert_eq!(mount.write("a/cgroup.procs", "72"), Err(Errno::ESRCH));
    let seen = world.writers.lock().unwrap().clone();
    let openers: Vec<u32> = seen.iter().map(|(_, opener)| *opener).collect();
    assert_eq!(openers, [0, USER.uid, 0, USER.uid, 0]);
    let writers: Vec<u32> = seen.iter().map(|(who, _)| who.uid).collect();
    assert_eq!(writers, [0, USER.uid, USER.uid, USER.uid, 0]);
    // Whoever writes is a thread, of a process that the world can learn.
    let thread = std::thread::spawn({
        let path = mount.path("b/cgroup.procs");
        move || (nix::unistd::gettid(), fs::write(path, "70").is_ok())
    });
    let (tid, written) = thread.join().unwrap();
    assert!(written);
    let (who, _) = *world.writers.lock().unwrap().last().unwrap();
    assert_eq!(who.tid, tid.as_raw().cast_unsigned());
    assert_ne!(who.tid, std::process::id());
}

fn only_owners_change_modes(place: Place) {
    let mount = Mount::empty(place);
    let a = mount.mkdir("a");
    assert_eq!(USER.does(&["chmod", text(&a), "777"]), "EPERM");
    assert_eq!(USER.does(&["chown", text(&a), &USER.uid.to_string()]), "EPERM");
    assert_eq!(USER.does(&["touch", text(&a)]), "EPERM");
    assert_eq!(USER.does(&["touch-now", text(&a)]), "EACCES");
    fs::set_permissions(&a, Permissions::from_mode(0o757)).unwrap();
    assert_eq!(USER.does(&["touch", text(&a)]), "EPERM");
    assert_eq!(USER.does(&["touch-now", text(&a)]), "ok");
    chown(&a, Some(USER.uid), None).unwrap();
    assert_eq!(USER.does(&["chmod", text(&a), "700"]), "ok");
    assert_eq!(USER.does(&["touch", text(&a)]), "ok");
    assert_eq!(fs::metadata(&a).unwrap().mode(), 0o40700);
}
