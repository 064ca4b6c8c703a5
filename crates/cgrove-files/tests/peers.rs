//! Mistakes that other implementations of cgroup v2 have made, one test each.
//! The core rules behind them are tested there; here it is what a user of the
//! tree would see.

mod support;

use cgrove_core::controller::cpu::CpuTimes;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::controller::registry::Standard;
use cgrove_core::{Errno, Time};
use cgrove_files::{Cred, OpenFlags, Tree};
use support::World;

/// Tasks in A and in A/G counted A twice in its parent; when G's went first,
/// the parent stayed populated for ever.
#[test]
fn a_cgroup_is_counted_once_however_many_tasks_are_below() {
    for first_below in [true, false] {
        let mut w = World::new();
        for path in ["x", "x/a", "x/a/g"] {
            w.mkdir(path).unwrap();
        }
        let (p, q) = (w.spawn("x/a", 10), w.spawn("x/a/g", 11));
        let (first, second) = if first_below { (q, p) } else { (p, q) };
        w.end(&first);
        assert_eq!(w.get("x/cgroup.events"), "populated 1\nfrozen 0");
        w.end(&second);
        assert_eq!(w.get("x/cgroup.events"), "populated 0\nfrozen 0");
        for path in ["x/a/g", "x/a", "x"] {
            w.rmdir(path).unwrap();
        }
    }
}

/// Moving the only task from one child to another fired events above.
#[test]
fn a_move_within_notifies_nobody_above() {
    let mut w = World::new();
    for path in ["x", "x/a", "x/b"] {
        w.mkdir(path).unwrap();
    }
    w.spawn("x/a", 10);
    let above = w.open("x/cgroup.events", OpenFlags::READ).unwrap();
    let from = w.open("x/a/cgroup.events", OpenFlags::READ).unwrap();
    let to = w.open("x/b/cgroup.events", OpenFlags::READ).unwrap();
    for file in [&above, &from, &to] {
        assert!(file.poll().priority, "never read");
        w.read_file(file).unwrap();
        assert!(!file.poll().priority);
    }
    w.write("x/b/cgroup.procs", "10").unwrap();
    assert_eq!([&above, &from, &to].map(|file| file.poll().priority), [false, true, true]);
    to.seek(0).unwrap();
    assert_eq!(w.read_file(&to).unwrap(), "populated 1\nfrozen 0\n");
    assert!(!to.poll().priority);
}

/// Switching a controller on over a populated child never attached its tasks;
/// processes were counted, not threads; switching off threw the counts away.
#[test]
fn tasks_are_charged_to_a_controller_that_comes_later() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let p = w.spawn("a", 10);
    w.thread(&p, 11);
    w.spawn("a", 12);
    w.write("cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.get("a/pids.current"), "3");
    w.write("cgroup.subtree_control", "-pids").unwrap();
    assert_eq!(w.read("a/pids.current"), Err(Errno::ENOENT));
    w.write("cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.get("a/pids.current"), "3");
}

/// `cpu.stat` went back when a child was removed or the controller switched
/// off.
#[test]
fn used_time_never_goes_back() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "+cpu").unwrap();
    w.mkdir("a").unwrap();
    w.mkdir("a/b").unwrap();
    w.dir("a/b").charge_cpu(CpuTimes { user: 5_000_000, system: 3_000_000, nice: 0 });
    let used = "usage_usec 8000\nuser_usec 5000\nsystem_usec 3000\nnice_usec 0";
    assert_eq!(w.get("a/b/cpu.stat"), used);
    w.rmdir("a/b").unwrap();
    assert!(w.get("a/cpu.stat").starts_with(used));
    w.write("cgroup.subtree_control", "-cpu").unwrap();
    assert_eq!(w.get("a/cpu.stat"), used);
    w.write("cgroup.subtree_control", "+cpu").unwrap();
    assert!(w.get("a/cpu.stat").starts_with(used));
    assert!(w.get("cpu.stat").starts_with(used));
}

/// A write to a read-only file, a negative depth, `0x1` for `1`.
#[test]
fn errnos_are_linuxs() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    assert_eq!(w.write("a/cgroup.events", "x"), Err(Errno::EINVAL));
    assert_eq!(w.write("a/cgroup.events", ""), Ok(()));
    assert_eq!(w.write("a/cgroup.max.depth", "-1"), Err(Errno::ERANGE));
    assert_eq!(w.write("a/cgroup.kill", "0x1"), Ok(()));
    assert_eq!(w.write("a/cgroup.kill", "2"), Err(Errno::ERANGE));
}

/// `-x +x` in one write ended off.
#[test]
fn the_last_mention_of_a_controller_wins() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "-pids +pids").unwrap();
    assert_eq!(w.get("cgroup.subtree_control"), "pids");
    w.write("cgroup.subtree_control", "+pids -pids").unwrap();
    assert_eq!(w.get("cgroup.subtree_control"), "");
}

/// The rule against processes in inner cgroups was applied to threaded
/// controllers too, and looked at before who and whether one may.
#[test]
fn inner_processes_are_for_threaded_controllers_and_judged_last() {
    let mut w = World::new();
    w.write("cgroup.subtree_control", "+pids +memory").unwrap();
    w.mkdir("a").unwrap();
    w.spawn("a", 10);
    w.write("a/cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.get("a/cgroup.type"), "domain threaded");
    assert_eq!(w.write("a/cgroup.subtree_control", "+memory"), Err(Errno::EOPNOTSUPP));

    w.mkdir("b").unwrap();
    w.write("b/cgroup.subtree_control", "+memory").unwrap();
    let user = Cred::user(1000, 1000);
    let procs = w.node("b/cgroup.procs").unwrap();
    w.tree.chown(&procs, Some(1000), None, &Cred::root()).unwrap();
    assert_eq!(w.write_as(&user, "b/cgroup.procs", "99"), Err(Errno::ESRCH));
    assert_eq!(w.write_as(&user, "b/cgroup.procs", "10"), Err(Errno::EACCES));
    assert_eq!(w.write("b/cgroup.procs", "10"), Err(Errno::EBUSY));
}

/// Controllers' files belonged to the directory's owner, who could so raise
/// its own limits.
#[test]
fn files_of_a_controller_belong_to_who_switched_it_on() {
    let mut w = World::new();
    let user = Cred::user(1000, 1000);
    w.mkdir("a").unwrap();
    for path in ["a", "a/cgroup.subtree_control"] {
        let node = w.node(path).unwrap();
        w.tree.chown(&node, Some(1000), Some(1000), &Cred::root()).unwrap();
    }
    w.write("cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.write_as(&user, "a/pids.max", "5"), Err(Errno::EACCES));
    w.mkdir_as(&user, "a/b").unwrap();
    w.write_as(&user, "a/cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.write_as(&user, "a/b/pids.max", "5"), Ok(()));
    assert_eq!(w.get("a/b/pids.max"), "5");
}

/// `exit` told the parent before it left the cgroup: kill, wait, rmdir gave
/// EBUSY.
#[test]
fn a_cgroup_can_go_once_its_last_process_is_waited_for() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let p = w.spawn("a", 10);
    assert_eq!(w.rmdir("a"), Err(Errno::EBUSY));
    w.tree.hierarchy().exit(&p, &mut w.fx).unwrap();
    assert_eq!(w.get("a/cgroup.procs"), "");
    assert_eq!(w.rmdir("a"), Ok(()), "before it has switched out or been reaped");
}

/// Several controllers in one write were switched one by one, and an error left
/// it half done.
#[test]
fn a_control_write_is_all_or_nothing() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    assert_eq!(w.write("cgroup.subtree_control", "+pids +nonsense"), Err(Errno::EINVAL));
    assert_eq!(w.get("cgroup.subtree_control"), "");
    w.write("cgroup.subtree_control", "+pids +cpu").unwrap();
    assert_eq!(w.write("a/cgroup.subtree_control", "+pids +memory"), Err(Errno::ENOENT));
    assert_eq!(w.get("a/cgroup.subtree_control"), "");
}

/// rmdir over children gave ENOTEMPTY, an unknown controller ENOENT, switching
/// off what a child uses EINVAL.
#[test]
fn refusals_of_rmdir_and_control_have_their_own_errnos() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    w.mkdir("a/b").unwrap();
    assert_eq!(w.rmdir("a"), Err(Errno::EBUSY));
    assert_eq!(w.write("cgroup.subtree_control", "+nonsense"), Err(Errno::EINVAL));
    assert_eq!(w.write("a/cgroup.subtree_control", "+pids"), Err(Errno::ENOENT));
    w.write("cgroup.subtree_control", "+pids").unwrap();
    w.write("a/cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(w.write("cgroup.subtree_control", "-pids"), Err(Errno::EBUSY));
}

/// A removed cgroup still took tasks.
#[test]
fn a_removed_cgroup_takes_nobody() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    let procs = w.open("a/cgroup.procs", OpenFlags::BOTH).unwrap();
    w.rmdir("a").unwrap();
    assert_eq!(w.write_file(&Cred::root(), &procs, b"1"), Err(Errno::ENODEV));
    assert_eq!(w.read_file(&procs), Err(Errno::ENODEV));
    assert_eq!(w.get("cgroup.procs"), "1");
}

/// Nobody was told when `cgroup.events` changed, and systemd waited for ever.
#[test]
fn events_are_told() {
    let mut w = World::new();
    w.mkdir("a").unwrap();
    w.notified.clear();
    let p = w.spawn("a", 10);
    assert_eq!(w.notified, ["cgroup.events"]);
    w.end(&p);
    assert_eq!(w.notified, ["cgroup.events"; 2]);
}

/// Controllers were listed, with files, that enforced nothing.
#[test]
fn what_is_left_out_is_not_there() {
    let standard = Standard::new(IdMask::first(1), IdMask::first(1), &[]);
    let registry = standard.registry().without("memory").without("cpu").without("hugetlb");
    let tree = Tree::builder(registry.builder().build(Time(0))).build();
    assert!(tree.defs().all(|(_, def)| !def.name.starts_with("memory.")));
    let cpu: Vec<_> = tree.defs().filter(|(_, def)| def.name.starts_with("cpu.")).collect();
    assert_eq!(cpu.len(), 2, "cpu.stat and cpu.stat.local need no controller");
    let root = Cred::root();
    assert_eq!(tree.walk(b"memory.reclaim", &root).unwrap_err(), Errno::ENOENT);
    assert!(tree.walk(b"io.stat", &root).is_ok());
    assert_eq!(tree.walk(b"cpu.pressure", &root).unwrap_err(), Errno::ENOENT);
}
