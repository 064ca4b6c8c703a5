//! What the fuzzers call, with any bytes: `fuzz/` under cargo-fuzz, and
//! `tests/bytes.rs` with seeded ones.

use super::World;
use cgrove_core::{
    CgroupType, Errno, ForkFrom, Limit, Membership, Stage, Task, TaskId, WriteError,
};
use cgrove_files::{Caller, Cred, File, Node, OpenFlags, XattrMode, name, parse};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Every parser takes any bytes, and what it takes of them adds up.
pub fn parsers(data: &[u8]) {
    let is_suffix = |rest: &[u8]| assert!(data.ends_with(rest));
    let text = parse::c_string(data);
    assert!(!text.contains(&0) && data.starts_with(text));
    let stripped = parse::strstrip(text);
    assert_eq!(parse::strstrip(stripped), stripped);
    assert!(stripped.first().is_none_or(|byte| !parse::is_space(*byte)));

    let unsigned = parse::kstrtoull(data);
    let signed = parse::kstrtoll(data);
    match (unsigned, signed) {
        (Ok(number), signed) => {
            assert_eq!(signed, i64::try_from(number).map_err(|_| Errno::ERANGE));
        }
        (Err(_), Ok(number)) => assert!(number <= 0 && data.starts_with(b"-")),
        (Err(errno), Err(other)) => {
            assert!([Errno::EINVAL, Errno::ERANGE].contains(&errno));
            assert!([Errno::EINVAL, Errno::ERANGE].contains(&other));
        }
    }
    if let Ok(number) = parse::kstrtoint(data) {
        assert_eq!(signed, Ok(number.into()));
    }
    if let Ok(number) = unsigned {
        let (bytes, rest) = parse::memparse(data.strip_prefix(b"+").unwrap_or(data));
        assert!(bytes == number && (rest.is_empty() || rest == b"\n"));
    }
    is_suffix(parse::memparse(data).1);
    match parse::bytes_or_max(data) {
        Ok(Limit::Max) => assert_eq!(data, b"max"),
        Ok(Limit::N(_)) => {}
        Err(errno) => assert_eq!(errno, Errno::EINVAL),
    }
    let mut rest = data;
    while parse::scan_word(&mut rest, 7).is_some_and(|word| !word.is_empty()) {
        is_suffix(rest);
        let before = rest;
        if parse::scan_u64(&mut rest).is_some() {
            assert!(rest.len() < before.len());
        }
        is_suffix(rest);
    }
    let _ = parse::match_int(data);
    for bits in [1, 2, 64, 1024] {
        if let Ok(ids) = parse::id_list(data, bits) {
            assert!(ids.last() < Some(bits));
            let printed = ids.to_string();
            assert_eq!(parse::id_list(printed.as_bytes(), bits), Ok(ids), "{printed}");
        }
    }
    assert_eq!(name::from_text(&name::to_text(data)), data);
    if let Ok(utf8) = std::str::from_utf8(data)
        && utf8.chars().all(|c| c < '\u{f0000}')
    {
        assert_eq!(name::to_text(data), utf8, "text is kept as it is");
    }
}

/// Takes numbers and texts from bytes until they run out.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = self.below(12).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len())].clone())
    }
}

/// What is worth writing to a file, sometimes.
fn texts(file: &str) -> &'static [&'static str] {
    match file {
        "cgroup.subtree_control" => &[
            "+pids",
            "-pids",
            "+cpu",
            "-cpu",
            "+memory",
            "-memory",
            "+io",
            "-io",
            "+cpuset +pids",
            "-cpuset -pids +memory",
            "+hugetlb +rdma +misc",
            "-hugetlb -rdma -misc",
            "+nonsense",
            "+pids +cpu +cpuset +memory +io",
            "-pids -cpu -cpuset -memory -io",
            "-pids +pids",
        ],
        "cgroup.type" => &["threaded", "threaded", "domain", ""],
        "cgroup.procs" | "cgroup.threads" => {
            &["0", "1", "10", "11", "12", "13", "14", "15", "16", "99", "-1", "x"]
        }
        _ => &[
            "max",
            "0",
            "1",
            "2",
            "-1",
            "5",
            "0x10",
            "100",
            "65536",
            "4K",
            "1M swappiness=1",
            "max 50000",
            "20000",
            "0-1",
            "all",
            "8:16 rbps=1",
            "8:16 1 ",
            "default 50",
            "mlx4_0 hca_handle=1",
            "\n",
            "",
            " 1\n",
            "18446744073709551616",
            "x",
        ],
    }
}

const NAMES: [&str; 7] = ["a", "b", "pids.max", "cgroup.procs", "..", "x\ny", "\u{10fe80}"];

const MOST: usize = 6;

struct Session {
    w: World,
    /// By pid, those that are not freed.
    tasks: BTreeMap<u32, Arc<Task>>,
    next_pid: u32,
    files: Vec<File>,
    creds: [Cred; 2],
}

/// Any sequence of calls on a tree: none panics, a refused one changes nothing
/// that can be read, and in the end everything can be taken apart.
pub fn surface(data: &[u8]) {
    let mut input = Input(data);
    let options = ["", "nsdelegate", "memory_localevents,pids_localevents"];
    let w = World::with(options[input.below(options.len())]);
    w.standard.io.add_device(cgrove_core::controller::io::Device { major: 8, minor: 16 }, true);
    w.standard.rdma.add_device("mlx4_0");
    let tasks = w.pids.tasks.clone();
    let creds = [Cred::root(), Cred::user(1000, 1000)];
    let mut session = Session { w, tasks, next_pid: 10, files: Vec::new(), creds };
    let mut seen = session.snapshot();
    while !input.0.is_empty() {
        let refused = session.step(&mut input);
        if let Some(what) = refused {
            let now = session.snapshot();
            assert_eq!(now, seen, "a refusal changed something: {what}");
        }
        session.w.settle();
        session.check();
        seen = session.snapshot();
    }
    session.take_apart();
}

impl Session {
    fn dirs(&self) -> Vec<String> {
        let mut dirs = vec![String::new()];
        let mut at = 0;
        while let Some(path) = dirs.get(at).cloned() {
            let dir = self.dir(&path);
            for child in self.w.tree.hierarchy().children(&dir) {
                dirs.push(format!("{path}/{}", child.name()));
            }
            at += 1;
        }
        dirs
    }

    /// The bytes of a path of the core's.
    fn dir(&self, path: &str) -> Arc<cgrove_core::Cgroup> {
        let node = self.w.tree.walk(&name::from_text(path), &self.creds[0]);
        Arc::clone(node.unwrap().cgroup())
    }

    /// All that can be read, but for counters of failures and of the dying.
    fn snapshot(&self) -> String {
        let (root, mut all) = (&self.creds[0], String::new());
        let caller = Caller { cred: root, tasks: &self.w.pids };
        for path in self.dirs() {
            let dir = self.dir(&path);
            let stat = self.w.tree.stat(&Node::Dir(Arc::clone(&dir)));
            writeln!(all, "{path:?} {stat:?}").unwrap();
            for entry in self.w.tree.readdir(&dir, root).unwrap() {
                let stat = self.w.tree.stat(&entry.node);
                let marks = self.w.tree.listxattr(&entry.node, root);
                writeln!(all, "{} {stat:?} {marks:?}", entry.name.escape_ascii()).unwrap();
                if entry.node.is_dir() || entry.name == b"cgroup.stat" {
                    continue;
                }
                let file = self.w.tree.open(&entry.node, OpenFlags::READ, root).unwrap();
                match self.w.tree.read_at(&file, 0, 1 << 16, caller, self.w.fx.now()) {
                    Ok(content) => writeln!(all, "{}", content.escape_ascii()).unwrap(),
                    Err(errno) => writeln!(all, "{errno}").unwrap(),
                }
            }
        }
        all
    }

    /// What holds whatever came before.
    fn check(&self) {
        let h = self.w.tree.hierarchy();
        for path in self.dirs() {
            let cgroup = self.dir(&path);
            let kind = h.cgroup_type(&cgroup);
            let threads = h.threads(&cgroup);
            if !threads.is_empty() {
                assert!(cgroup.populated());
                assert_ne!(kind, CgroupType::DomainInvalid, "{path} holds tasks");
            }
            let below = h.children(&cgroup).iter().any(|child| child.populated());
            assert!(!below || cgroup.populated(), "{path}");
            let (available, on) = (h.controllers(&cgroup), h.subtree_control(&cgroup));
            assert!((on - available).is_empty(), "{path} passes on what it has not");
            for ssid in on.iter() {
                let name = h.names(cgrove_core::SsMask::of(ssid)).next().unwrap();
                for child in h.children(&cgroup) {
                    let shown = child.css(name).is_some_and(|css| css.is_visible());
                    let threaded = h.cgroup_type(&child) == CgroupType::Threaded;
                    assert!(shown || threaded, "{path} passes {name} on");
                }
            }
            let stat = h.stat(&cgroup);
            let count: usize =
                h.children(&cgroup).iter().map(|c| 1 + h.stat(c).nr_descendants).sum();
            assert_eq!(stat.nr_descendants, count);
        }
    }

    /// One call; what was refused, if it was.
    fn step(&mut self, input: &mut Input<'_>) -> Option<String> {
        let cred = self.creds[usize::from(input.below(8) == 7)].clone();
        let dirs = self.dirs();
        let path = input.one_of(&dirs).unwrap_or_default();
        let dir = self.dir(&path);
        let caller_pids = &self.w.pids;
        let caller = Caller { cred: &cred, tasks: caller_pids };
        let tree = &self.w.tree;
        let entries = tree.readdir(&dir, &self.creds[0]).unwrap();
        let node = input.one_of(&entries).map_or_else(|| tree.root(), |entry| entry.node);
        let fx = &mut self.w.fx;
        let told = |what: &str, result: Result<(), Errno>| {
            result.err().map(|errno| format!("{what} in {path:?}: {errno}"))
        };
        match input.below(18) {
            0 | 16 if dirs.len() < MOST => {
                let named = input.one_of(&NAMES).unwrap_or_default().as_bytes();
                let name = if input.below(4) == 0 { input.bytes() } else { named };
                let mode = [0o755, 0o700, 0o777][input.below(3)];
                told("mkdir", tree.mkdir(&dir, name, mode, &cred, fx).map(drop))
            }
            1 => {
                let name = match &node {
                    Node::Dir(cgroup) => name::from_text(cgroup.name()),
                    Node::File(file) => file.name().as_bytes().into(),
                };
                told("rmdir", tree.rmdir(&dir, &name, &cred, fx))
            }
            op @ (2..=6 | 17) => {
                let file = match op {
                    2 | 3 | 17 => "cgroup.subtree_control",
                    4 => ["cgroup.procs", "cgroup.threads", "cgroup.type"][input.below(3)],
                    _ => "",
                };
                let node = tree.lookup(&dir, file.as_bytes(), &self.creds[0]).unwrap_or(node);
                let file = match tree.open(&node, OpenFlags::WRITE, &cred) {
                    Ok(file) => file,
                    Err(errno) => return told("open", Err(errno)),
                };
                let known = input.one_of(texts(file.node().name())).unwrap_or_default();
                let text = if input.below(6) == 0 { input.bytes() } else { known.as_bytes() };
                let what = format!("{:?} <- {}", file.node(), text.escape_ascii());
                match tree.write(&file, text, caller, fx) {
                    Ok(written) => told(&what, written.without_help(fx).map(drop)),
                    Err(WriteError::Refused(errno)) => told(&what, Err(errno)),
                    Err(WriteError::WouldWait(_)) => Some(format!("{what}: would wait")),
                }
            }
            7 if self.files.len() < MOST => {
                let flags = [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::BOTH];
                match tree.open(&node, flags[input.below(3)], &cred) {
                    Ok(file) => {
                        self.files.push(file);
                        None
                    }
                    Err(errno) => told("open", Err(errno)),
                }
            }
            8 if !self.files.is_empty() => {
                let at = input.below(self.files.len());
                let file = &self.files[at];
                match input.below(5) {
                    0 => told("seek", file.seek(input.byte().into()).map(drop)),
                    1 => {
                        let size = input.below(64);
                        told("read", tree.read(file, size, caller, fx.now()).map(drop))
                    }
                    2 => {
                        let _ = file.poll();
                        None
                    }
                    3 => {
                        let text = input.one_of(texts(file.node().name())).unwrap_or_default();
                        match tree.write(file, text.as_bytes(), caller, fx) {
                            Ok(written) => told("write", written.without_help(fx).map(drop)),
                            Err(WriteError::Refused(errno)) => told("write", Err(errno)),
                            Err(WriteError::WouldWait(_)) => Some("would wait".into()),
                        }
                    }
                    _ => {
                        self.files.swap_remove(at);
                        None
                    }
                }
            }
            9 => told("chmod", tree.chmod(&node, u16::from(input.byte()) << 2, &cred)),
            10 => {
                let id = [None, Some(0), Some(1000)];
                told("chown", tree.chown(&node, id[input.below(3)], id[input.below(3)], &cred))
            }
            11 => {
                let name = input.one_of(&["user.a", "trusted.b", "other", "user."]).unwrap_or("");
                let mode = [XattrMode::Any, XattrMode::Create, XattrMode::Replace];
                if input.below(3) == 0 {
                    return told("removexattr", tree.removexattr(&node, name.as_bytes(), &cred));
                }
                let (value, mode) = (input.bytes(), mode[input.below(3)]);
                told("setxattr", tree.setxattr(&node, name.as_bytes(), value, mode, &cred))
            }
            12..=13 if self.tasks.len() < MOST => {
                let h = tree.hierarchy();
                let tasks: Vec<_> = self.tasks.values().cloned().collect();
                let by = input.one_of(&tasks).filter(|_| input.below(2) == 0);
                let from = by.as_ref().map_or(ForkFrom::Cgroup(&dir), ForkFrom::Task);
                // A refused fork is counted as one.
                if let Ok(fork) = h.fork(from, fx) {
                    let pid = self.next_pid;
                    self.next_pid += 1;
                    let of = by.as_ref().filter(|_| input.below(2) == 0);
                    let membership = of.map_or(Membership::Process, Membership::ThreadOf);
                    let task = fork.publish(TaskId(pid.into()), membership, fx);
                    self.tasks.insert(pid, Arc::clone(&task));
                    self.w.pids.tasks.insert(pid, task);
                }
                None
            }
            _ => {
                let tasks: Vec<_> = self.tasks.keys().copied().collect();
                if let Some(pid) = input.one_of(&tasks) {
                    let steps = 1 + input.below(4);
                    (0..steps).for_each(|_| self.end_a_bit(pid));
                }
                None
            }
        }
    }

    /// The next step of a task's end.
    fn end_a_bit(&mut self, pid: u32) {
        let Some(task) = self.tasks.get(&pid).cloned() else { return };
        let (h, fx) = (self.w.tree.hierarchy(), &mut self.w.fx);
        let stage = task.stage();
        // Out of turn is refused, and tried again when it is its turn.
        let _ = if !stage.contains(Stage::EXITING) {
            h.exit(&task, fx)
        } else if !stage.contains(Stage::DEAD) {
            h.dead(&task, fx)
        } else if !stage.contains(Stage::REAPED) {
            h.reap(&task, fx)
        } else {
            h.free(&task, fx)
        };
        if task.stage().contains(Stage::REAPED) {
            self.w.pids.tasks.remove(&pid);
        }
        if task.stage().contains(Stage::FREED) {
            self.tasks.remove(&pid);
        }
    }

    fn take_apart(mut self) {
        for _ in 0..8 {
            for pid in self.tasks.keys().copied().collect::<Vec<_>>() {
                self.end_a_bit(pid);
            }
        }
        assert!(self.tasks.is_empty(), "tasks that do not end: {:?}", self.tasks);
        self.w.settle();
        for path in self.dirs().iter().skip(1).rev() {
            let (above, name) = path.rsplit_once('/').unwrap();
            let dir = self.dir(above);
            let removed =
                self.w.tree.rmdir(&dir, &name::from_text(name), &self.creds[0], &mut self.w.fx);
            assert_eq!(removed, Ok(()), "{path}");
        }
        self.w.settle();
        let h = self.w.tree.hierarchy();
        let stat = h.stat(h.root());
        assert_eq!((stat.nr_descendants, stat.nr_dying_descendants), (0, 0));
        for ss in stat.subsys {
            assert_eq!((ss.live, ss.dying), (1, 0), "{}", ss.name);
        }
    }
}
