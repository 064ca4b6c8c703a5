//! Many callers at once: a front end serves each from a thread of its own.

mod support;

use cgrove_core::{Effects, Errno, Time};
use cgrove_files::{Caller, Cred, NoTasks, Node, OpenFlags, Tree};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use support::{Pids, World};

/// Makes, removes, lists, reads and gives away what the others work on too.
/// Each call either succeeds or is refused for what another has just done; no
/// two wait for each other.
fn work(tree: &Tree, pids: &Pids, cred: &Cred, turn: usize) {
    let mut fx = Effects::at(Time(0));
    let root = Arc::clone(tree.root().cgroup());
    let names = [b"a", b"b", b"c"];
    let name = names[turn % names.len()];
    let caller = Caller { cred, tasks: pids };
    let write = |path: &[u8], text: &[u8], fx: &mut Effects| {
        let file = tree.open(&tree.walk(path, cred)?, OpenFlags::WRITE, cred)?;
        match tree.write(&file, text, caller, fx) {
            Ok(written) => written.without_help(fx).map(drop),
            Err(error) => Err(error.errno().unwrap_or(Errno::EAGAIN)),
        }
    };
    let path = |file: &str| [name.as_slice(), b"/", file.as_bytes()].concat();
    let result = match turn % 9 {
        0 | 1 => tree.mkdir(&root, name, 0o755, cred, &mut fx).map(drop),
        2 => tree.rmdir(&root, name, cred, &mut fx),
        3 => write(b"cgroup.subtree_control", b"+pids +memory", &mut fx),
        4 => write(b"cgroup.subtree_control", b"-pids", &mut fx),
        5 => write(&path("cgroup.procs"), b"1", &mut fx),
        6 => write(b"cgroup.procs", b"1", &mut fx),
        7 => tree.walk(&path("cgroup.procs"), cred).and_then(|node| {
            tree.chown(&node, Some(1000), None, cred)?;
            let _ = tree.stat(&node);
            Ok(())
        }),
        _ => tree.readdir(&root, cred).and_then(|entries| {
            for entry in entries {
                if let Node::File(_) = &entry.node {
                    let file = tree.open(&entry.node, OpenFlags::READ, cred)?;
                    let _ = tree.read(&file, 4096, caller, Time(0));
                }
            }
            Ok(())
        }),
    };
    let known = [
        Errno::EEXIST,
        Errno::ENOENT,
        Errno::EBUSY,
        Errno::ENODEV,
        Errno::EAGAIN,
        Errno::EINVAL,
        Errno::EACCES,
        Errno::EPERM,
    ];
    if let Err(errno) = result {
        assert!(known.contains(&errno), "{errno}");
    }
    tree.hierarchy().pump(&mut fx);
    fx.drain().for_each(drop);
}

#[test]
fn callers_do_not_get_in_each_others_way() {
    let World { tree, pids, .. } = World::new();
    let turns = AtomicUsize::new(0);
    thread::scope(|scope| {
        for uid in [0, 0, 0, 1000] {
            let (tree, pids, turns) = (&tree, &pids, &turns);
            scope.spawn(move || {
                let cred = Cred::user(uid, uid);
                loop {
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    if turn >= 4_000 {
                        break;
                    }
                    // Out of step with one another, in an order of its own each.
                    work(tree, pids, &cred, turn * 7 + turn / 9);
                }
            });
        }
    });
    let cred = Cred::root();
    let caller = Caller { cred: &cred, tasks: &NoTasks };
    let mut fx = Effects::at(Time(0));
    let procs = tree.open(&tree.walk(b"cgroup.procs", &cred).unwrap(), OpenFlags::WRITE, &cred);
    assert_eq!(
        tree.write(&procs.unwrap(), b"1", caller, &mut fx).unwrap_err().errno(),
        Some(Errno::ESRCH)
    );
}
