//! The tree beside the kernel's own cgroup2, operation by operation.
//!
//!     cargo bench -p cgrove-files --bench kernel
//!
//! Ours is what a front end would call: names looked up, credentials checked,
//! text parsed and printed. What a mount adds on top, a system call above all,
//! is in the kernel's column alone.
//!
//! Both sides take turns, round by round, and the medians of the rounds are
//! printed with their ratio: what one machine does at one time can be compared,
//! and nothing else. The kernel's side needs a cgroup2 mount in which this user
//! may make directories; where there is none, its column says so. It makes one
//! directory of its own, moves only processes that it started, and takes both
//! away again. The goal is 20 times the kernel's rate for mkdir+rmdir and for a
//! move.

use cgrove_core::controller::pids::Pids;
use cgrove_core::*;
use cgrove_files::{Caller, Cred, File, Node, OpenFlags, Tasks, Tree};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;

fn main() {
    let kernel = Kernel::find();
    if let Err(why) = &kernel {
        println!("the kernel's column is empty: {why}");
    }
    let mut kernel = kernel.ok();
    println!("{:<44}{:>12}{:>12}{:>8}", "operation", "cgrove", "kernel", "ratio");
    mkdir_rmdir(kernel.as_mut());
    move_process(kernel.as_mut());
    read_procs(kernel.as_mut());
    read_events(kernel.as_mut());
    drop(kernel);
    switch_on_and_off();
    freeze_and_kill();
    a_million();
}

fn fx() -> Effects {
    Effects::at(Time(0))
}

fn pids() -> Hierarchy {
    Hierarchy::builder().controller(Arc::new(Pids::new())).build(Time(0))
}

/// A tree without controllers, and who is in it.
struct Ours {
    tree: Tree,
    cred: Cred,
    tasks: Processes,
}

#[derive(Default)]
struct Processes(RefCell<HashMap<u32, Arc<Task>>>);

impl Tasks for Processes {
    fn find(&self, pid: u32) -> Option<Arc<Task>> {
        self.0.borrow().get(&pid).cloned()
    }

    fn pid(&self, task: &Arc<Task>) -> Option<u32> {
        u32::try_from(task.id().0).ok()
    }
}

impl Ours {
    fn new() -> Self {
        let tree = Tree::builder(Hierarchy::builder().build(Time(0))).build();
        Self { tree, cred: Cred::root(), tasks: Processes::default() }
    }

    fn mkdir(&self, name: &str) -> Arc<Cgroup> {
        let root = self.tree.hierarchy().root();
        self.tree.mkdir(root, name.as_bytes(), 0o755, &self.cred, &mut fx()).unwrap()
    }

    fn spawn(&self, cgroup: &Arc<Cgroup>, pid: u32) {
        let h = self.tree.hierarchy();
        let task = h.adopt(cgroup, TaskId(u64::from(pid)), Membership::Process, &mut fx()).unwrap();
        self.tasks.0.borrow_mut().insert(pid, task);
    }

    fn open(&self, path: &str, flags: OpenFlags) -> File {
        let node: Node = self.tree.walk(path.as_bytes(), &self.cred).unwrap();
        self.tree.open(&node, flags, &self.cred).unwrap()
    }

    fn caller(&self) -> Caller<'_> {
        Caller { cred: &self.cred, tasks: &self.tasks }
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let file = self.open(path, OpenFlags::READ);
        self.tree.read(&file, 1 << 20, self.caller(), Time(0)).unwrap()
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.open(path, OpenFlags::WRITE);
        let mut fx = fx();
        let written = self.tree.write(&file, text.as_bytes(), self.caller(), &mut fx).unwrap();
        written.without_help(&mut fx).unwrap();
        let _ = black_box(fx);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long one of `times` calls takes.
fn each(times: u32, mut op: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..times).for_each(|_| op());
    start.elapsed() / times
}

/// One row: rounds of both sides in turn.
fn row(what: &str, mut core: impl FnMut() -> Duration, kernel: Option<impl FnMut() -> Duration>) {
    let mut both = (Vec::new(), Vec::new());
    let mut kernel = kernel;
    for _ in 0..ROUNDS {
        both.0.push(core());
        both.1.extend(kernel.as_mut().map(|kernel| kernel()));
    }
    let ours = median(both.0);
    let mut line = format!("{what:<44}{:>12}", format!("{ours:.2?}"));
    if !both.1.is_empty() {
        let theirs = median(both.1);
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        let _ = write!(line, "{:>12}{:>8}", format!("{theirs:.2?}"), format!("x{ratio:.0}"));
    }
    println!("{line}");
}

/// A directory in the machine's cgroup2 tree.
struct Kernel {
    dir: PathBuf,
    sleepers: Vec<Child>,
}

impl Kernel {
    fn find() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
        let mount = mounts
            .lines()
            .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .and_then(|line| line.split(' ').nth(1))
            .ok_or("no cgroup2 is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let dir = Path::new(mount).join(own).join(format!("cgrove-bench-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Self { dir, sleepers: Vec::new() })
    }

    fn mkdir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).expect("a directory in a directory of ours");
        dir
    }

    fn sleeper(&mut self, dir: &Path) -> u32 {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
        let pid = child.id();
        self.sleepers.push(child);
        fs::write(dir.join("cgroup.procs"), pid.to_string()).expect("a process of ours is moved");
        pid
    }

    /// Ends the sleepers; a directory is empty only a moment after its last process was reaped.
    fn empty(&mut self, dirs: &[PathBuf]) {
        for mut child in self.sleepers.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in dirs {
            while fs::remove_dir(dir).is_err() {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.empty(&[]);
        let _ = fs::remove_dir(&self.dir);
    }
}

fn mkdir_rmdir(kernel: Option<&mut Kernel>) {
    let it = Ours::new();
    let h = it.tree.hierarchy();
    let ours = || {
        each(2000, || {
            drop(it.mkdir("job"));
            let mut fx = fx();
            it.tree.rmdir(h.root(), b"job", &it.cred, &mut fx).unwrap();
            h.pump(&mut fx);
        })
    };
    let theirs = kernel.map(|kernel| {
        let dir = kernel.dir.join("job");
        move || {
            each(300, || {
                fs::create_dir(&dir).unwrap();
                fs::remove_dir(&dir).unwrap();
            })
        }
    });
    row("mkdir+rmdir", ours, theirs);
}

fn move_process(kernel: Option<&mut Kernel>) {
    let it = Ours::new();
    it.spawn(&it.mkdir("a"), 1234);
    it.mkdir("b");
    let mut turn = 0;
    let ours = || {
        each(2000, || {
            turn ^= 1;
            it.write(["a/cgroup.procs", "b/cgroup.procs"][turn], "1234");
        })
    };
    let Some(kernel) = kernel else {
        row("move a process", ours, None::<fn() -> Duration>);
        return;
    };
    let dirs = ["a", "b"].map(|name| kernel.mkdir(name));
    let pid = kernel.sleeper(&dirs[0]).to_string();
    let mut turn = 0;
    let theirs = || {
        each(100, || {
            turn ^= 1;
            fs::write(dirs[turn].join("cgroup.procs"), &pid).unwrap();
        })
    };
    row("move a process", ours, Some(theirs));
    kernel.empty(&dirs);
}

fn read_procs(kernel: Option<&mut Kernel>) {
    const MEMBERS: u32 = 1000;
    let it = Ours::new();
    let cgroup = it.mkdir("a");
    (0..MEMBERS).for_each(|n| it.spawn(&cgroup, 10_000 + n));
    let ours = || each(50, || drop(black_box(it.read("a/cgroup.procs"))));
    let what = "read cgroup.procs of 1,000 processes";
    let Some(kernel) = kernel else {
        row(what, ours, None::<fn() -> Duration>);
        return;
    };
    let dirs = [kernel.mkdir("a")];
    for _ in 0..MEMBERS {
        kernel.sleeper(&dirs[0]);
    }
    let theirs = || each(20, || drop(black_box(fs::read(dirs[0].join("cgroup.procs")).unwrap())));
    row(what, ours, Some(theirs));
    kernel.empty(&dirs);
}

fn read_events(kernel: Option<&mut Kernel>) {
    let it = Ours::new();
    it.mkdir("a");
    let ours = || each(2000, || drop(black_box(it.read("a/cgroup.events"))));
    let Some(kernel) = kernel else {
        row("read cgroup.events", ours, None::<fn() -> Duration>);
        return;
    };
    let dirs = [kernel.mkdir("a")];
    let theirs = || each(300, || drop(black_box(fs::read(dirs[0].join("cgroup.events")).unwrap())));
    row("read cgroup.events", ours, Some(theirs));
    kernel.empty(&dirs);
}

/// `+pids` and `-pids` over 1,000 children that hold 10,000 tasks.
fn switch_on_and_off() {
    let h = pids();
    let mut fx = fx();
    let mask = h.mask(&["pids"]).unwrap();
    h.write_subtree_control(h.root(), mask, SsMask::NONE, &mut fx).unwrap();
    let top = h.create(h.root(), "top", &mut fx).unwrap();
    let mut id = 0;
    for n in 0..1000 {
        let child = h.create(&top, &format!("c{n}"), &mut fx).unwrap();
        for _ in 0..10 {
            id += 1;
            h.adopt(&child, TaskId(id), Membership::Process, &mut fx).unwrap();
        }
    }
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut fx = Effects::at(Time(0));
        let start = Instant::now();
        h.write_subtree_control(&top, mask, SsMask::NONE, &mut fx).unwrap();
        on.push(start.elapsed());
        let start = Instant::now();
        h.write_subtree_control(&top, SsMask::NONE, mask, &mut fx).unwrap();
        h.pump(&mut fx);
        off.push(start.elapsed());
    }
    row(
        "+pids, 1,000 children, 10,000 tasks (core)",
        || median(on.clone()),
        None::<fn() -> Duration>,
    );
    row("-pids, the same (core)", || median(off.clone()), None::<fn() -> Duration>);
}

fn freeze_and_kill() {
    let h = pids();
    let mut fx = fx();
    let cgroup = h.create(h.root(), "a", &mut fx).unwrap();
    let tasks: Vec<_> = (1..=1000)
        .map(|id| h.adopt(&cgroup, TaskId(id), Membership::Process, &mut fx).unwrap())
        .collect();
    let freeze = || {
        each(10, || {
            for frozen in [true, false] {
                let mut fx = Effects::at(Time(0));
                h.set_freeze(&cgroup, frozen, &mut fx).unwrap();
                for task in &tasks {
                    if frozen {
                        h.enter_frozen(task, &mut fx);
                    } else {
                        h.leave_frozen(task, false, &mut fx);
                    }
                }
                let _ = black_box(fx);
            }
        })
    };
    row("freeze and thaw 1,000 tasks (core)", freeze, None::<fn() -> Duration>);
    let kill = || {
        each(10, || {
            let mut fx = Effects::at(Time(0));
            h.kill(&cgroup, &mut fx).unwrap();
            let _ = black_box(fx);
        })
    };
    row("kill 1,000 tasks (core)", kill, None::<fn() -> Duration>);
}

/// Cost must stay linear: ten times the cgroups, ten times the time.
fn a_million() {
    for many in [100_000usize, 1_000_000] {
        let h = Hierarchy::builder().build(Time(0));
        let mut fx = fx();
        let start = Instant::now();
        let tops: Vec<_> =
            (0..1000).map(|n| h.create(h.root(), &format!("t{n}"), &mut fx).unwrap()).collect();
        let mut all = Vec::with_capacity(many);
        for n in 0..many {
            all.push(h.create(&tops[n % 1000], &format!("c{n}"), &mut fx).unwrap());
            let _ = fx.drain().count();
        }
        let made = start.elapsed();
        let start = Instant::now();
        let mut seen = 0;
        let mut todo = vec![h.root().clone()];
        while let Some(cgroup) = todo.pop() {
            seen += 1;
            todo.extend(h.children(&cgroup));
        }
        assert_eq!(seen, many + 1001);
        let walked = start.elapsed();
        let start = Instant::now();
        while let Some(cgroup) = all.pop() {
            h.remove(&cgroup, &mut fx).unwrap();
            drop(cgroup);
            h.pump(&mut fx);
            let _ = fx.drain().count();
        }
        let removed = start.elapsed();
        let per = |time: Duration| format!("{:.2?}", time / u32::try_from(many).unwrap());
        println!(
            "{many} cgroups, each: made {}, walked {}, removed {}",
            per(made),
            per(walked),
            per(removed)
        );
    }
}
