//! `cgrove run` on a kernel with controllers: that the `kernel` backend holds what it says.
//!
//! A hierarchy with controllers is what no container and few machines of developers hand out, so the
//! static binary is run in the virtual machine. Each check is a few command lines, and what their
//! reports have to say; after each, nothing of the run may be left in the hierarchy.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use cgrove_host::report::{Backend, Class, Measure, Reason, Report};

use crate::guest::files::ROOT;
use crate::guest::tool::ARGUMENT;
use crate::vm::VmError;
use crate::vm::image;
use crate::vm::machine::{Machine, Setup};
use crate::wire::Ran;

/// Where reports go: anybody may write there.
const REPORTS: &str = "/tmp";
const REPORT: &str = "/tmp/report.json";
/// How long one command line may take. Emulation is slow, and the host may be busy.
const BOUND: Duration = Duration::from_secs(120);
/// What a place can have; the controllers that the kernel backend switches on are among them.
const CONTROLLERS: &str = "+cpu +cpuset +memory +pids";

/// What is not as it should be, in words.
type Checked = Result<(), String>;
type Check = fn(&mut Guest) -> Checked;

/// The checks, in the order of the chapters of the backend's promises.
const CHECKS: [(&str, Check); 19] = [
    ("limits are written to the kernel's files", limits_are_written),
    ("a kill for memory is told", a_kill_for_memory_is_told),
    ("the task limit refuses", the_task_limit_refuses),
    ("cpu.max holds", cpu_max_holds),
    ("what is left behind is killed", what_is_left_behind_is_killed),
    ("files are the kernel's from inside, too", files_are_the_kernels),
    ("every class can be required", every_class_can_be_required),
    ("a killed supervisor leaves nothing", a_killed_supervisor_leaves_nothing),
    ("a killed front leaves nothing", a_killed_front_leaves_nothing),
    ("what two killed guards leave is cleared by the next", the_next_clears),
    ("a run in a run is held by looking", a_run_in_a_run_is_held),
    ("somebody else's processes are not moved", strangers_are_not_moved),
    ("somebody else's cgroups keep what they have", other_cgroups_keep_theirs),
    ("a place may belong to nobody", nobody_has_a_place),
    ("a container's namespace is a place", a_namespace_is_a_place),
    ("going over memory.high is told", over_high_is_told),
    ("the root is not taken unasked", the_root_is_not_taken),
    ("the root's controllers are used if asked", the_root_is_used_if_asked),
    ("the root's controllers are not changed", the_root_is_not_changed),
];

/// The machine, and how to speak to it.
struct Guest {
    machine: Machine,
}

/// A place for a run: a cgroup below the root.
const PLACE: &str = "/sys/fs/cgroup/place";

/// Runs every check and prints a line for each. Returns whether all held.
///
/// # Errors
///
/// If there is no machine, or no more.
pub fn run(kernel: &Path, cgrove: &Path) -> Result<bool, VmError> {
    let folder = tempfile::tempdir().map_err(VmError::io("a temporary folder"))?;
    let setup = Setup {
        kernel: kernel.to_owned(),
        initramfs: folder.path().join("initramfs"),
        in_turns: true,
    };
    image::write(&image::build_init()?, &[("cgrove", cgrove)], &setup.initramfs)?;
    let mut guest = Guest { machine: Machine::boot(&setup)? };
    guest.settle().map_err(|what| guest.machine.lost(what))?;
    let mut good = 0;
    for (name, check) in CHECKS {
        let begun = Instant::now();
        let said = guest.prepare().and_then(|()| check(&mut guest)).and_then(|()| guest.tidy());
        let took = begun.elapsed().as_secs_f64();
        match said {
            Ok(()) => {
                good += 1;
                println!("ok      {name} ({took:.1} s)");
            }
            Err(why) => {
                println!("FAILED  {name} ({took:.1} s): {why}");
                guest.abandon();
            }
        }
    }
    let release = guest.machine.release().to_owned();
    println!("checks {}, held {good}, kernel {release}", CHECKS.len());
    guest.machine.quit();
    Ok(good == CHECKS.len())
}

impl Guest {
    fn run(&mut self, words: &[&str]) -> Result<Ran, String> {
        self.machine.run(words, BOUND).map_err(|e| e.to_string())
    }

    /// A tool that must succeed; what it printed.
    fn tool(&mut self, words: &[&str]) -> Result<String, String> {
        let words: Vec<&str> = ["/init", ARGUMENT].iter().chain(words).copied().collect();
        let ran = self.run(&words)?;
        if ran.status == 0 { Ok(ran.out) } else { Err(format!("{words:?}: {ran:?}")) }
    }

    fn settle(&mut self) -> Checked {
        self.tool(&["write", &in_root("cgroup.subtree_control"), CONTROLLERS])?;
        self.tool(&["open-to-all", REPORTS])?;
        self.tool(&["open-to-all", "/bin"])?;
        self.tool(&["link", "/bin/sh", "/init"]).map(drop)
    }

    fn prepare(&mut self) -> Checked {
        self.tool(&["mkdir", PLACE]).map(drop)
    }

    /// Nothing is left, and the place is as it was.
    fn tidy(&mut self) -> Checked {
        same("what is left in the place", self.tool(&["list", PLACE])?, "")?;
        let on = self.tool(&["cat", &format!("{PLACE}/cgroup.subtree_control")])?;
        same("the place's controllers", on.trim(), "")?;
        self.tool(&["rmdir", PLACE])?;
        same("what is left in the root", self.tool(&["list", ROOT])?, "")
    }

    /// After a failure, for those that come next.
    fn abandon(&mut self) {
        let _ = self.tool(&["write", &format!("{PLACE}/cgroup.kill"), "1"]);
        let below = self.tool(&["list", PLACE]).unwrap_or_default();
        for name in below.lines() {
            let _ = self.tool(&["rmdir", &format!("{PLACE}/{name}")]);
        }
        let _ = self.tool(&["rmdir", PLACE]);
    }

    /// `cgrove run` in a cgroup, or behind other tools.
    fn cgrove(
        &mut self,
        before: &[&str],
        options: &[&str],
        command: &[&str],
    ) -> Result<(Ran, Option<Report>), String> {
        let _ = self.tool(&["rm", REPORT]);
        let mut words = vec![];
        for word in before {
            if ["in", "beside", "as-nobody", "in-namespace"].contains(word) {
                words.extend(["/init", ARGUMENT]);
            }
            words.push(*word);
        }
        // A known-wrong variant of the host layer, for a binary that has them.
        let mutant = std::env::var("CGROVE_MUTANT").map(|name| format!("CGROVE_MUTANT={name}"));
        if let Ok(mutant) = &mutant {
            words.extend(["/init", ARGUMENT, "with", mutant]);
        }
        words.extend(["/cgrove", "run", "--json", REPORT]);
        words.extend(options);
        words.push("--");
        if !command.first().is_some_and(|first| first.starts_with('/')) {
            words.extend(["/init", ARGUMENT]);
        }
        words.extend(command);
        let ran = self.run(&words)?;
        // Without a report there is no file.
        let json = self.tool(&["cat", REPORT]).unwrap_or_default();
        Ok((ran, serde_json::from_str(&json).ok()))
    }

    /// The same in the place, with a report.
    fn in_place(&mut self, options: &[&str], command: &[&str]) -> Result<(Ran, Report), String> {
        let (ran, report) = self.cgrove(&["in", PLACE], options, command)?;
        let report = report.ok_or_else(|| format!("no report: {ran:?}"))?;
        same("the backend", report.backend, Some(Backend::Kernel))?;
        Ok((ran, report))
    }
}

fn in_root(file: &str) -> String {
    format!("{ROOT}/{file}")
}

fn same<T: PartialEq<U> + Debug, U: Debug>(what: &str, found: T, wanted: U) -> Checked {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?}, and not {wanted:?}")) }
}

fn holds(what: &str, it: bool, of: &impl Debug) -> Checked {
    if it { Ok(()) } else { Err(format!("{what}: {of:?}")) }
}

fn limits_are_written(guest: &mut Guest) -> Checked {
    let options = [
        "--pids-max=20",
        "--memory-max=64M",
        "--memory-high=48M",
        "--cpu-max=150%",
        "--cpu-weight=50",
        "--cpus=1",
        "--set=memory.swap.max=0",
    ];
    let files = [
        "pids.max",
        "memory.max",
        "memory.high",
        "cpu.max",
        "cpu.weight",
        "cpuset.cpus",
        "memory.swap.max",
    ];
    let command: Vec<&str> = ["own"].into_iter().chain(files).collect();
    let (ran, report) = guest.in_place(&options, &command)?;
    let wanted = "pids.max 20\nmemory.max 67108864\nmemory.high 50331648\ncpu.max 150000 100000\n\
                  cpu.weight 50\ncpuset.cpus 1\nmemory.swap.max 0\n";
    same("the files", (ran.status, ran.out.as_str()), (0, wanted))?;
    let limits = &report.limits;
    let numbers = (limits.pids_max, limits.memory_max, limits.memory_high, limits.cpu_weight);
    same("limits", numbers, (Some(20), Some(64 << 20), Some(48 << 20), Some(50)))?;
    same("CPUs", limits.cpus.as_deref(), Some("1"))?;
    same(
        "the quota",
        limits.cpu_max.map(|it| (it.quota_us, it.period_us)),
        Some((150_000, 100_000)),
    )?;
    same("warnings", report.warnings, Vec::<String>::new())
}

fn a_kill_for_memory_is_told(guest: &mut Guest) -> Checked {
    let (ran, report) = guest.in_place(&["--memory-max=64M"], &["eat", "256"])?;
    same("the status", (ran.status, report.reason), (137, Reason::MemoryMax))?;
    let memory = &report.memory;
    same(
        "how well it held",
        (memory.class, memory.measure),
        (Class::Kernel, Some(Measure::Kernel)),
    )?;
    same("kills", memory.oom_kill_count, Some(1))?;
    let peak = memory.peak_bytes.unwrap_or(0);
    holds("the peak", (32 << 20..=64 << 20).contains(&peak), memory)?;
    holds("the limit was hit", memory.max_hits > Some(0), memory)?;
    holds("it is said", ran.err.contains("killed for memory in"), &ran.err)?;
    holds("it is said", ran.err.contains("the kernel killed 1 process for memory"), &ran.err)
}

fn the_task_limit_refuses(guest: &mut Guest) -> Checked {
    let (ran, report) = guest.in_place(&["--pids-max=8"], &["forks", "20"])?;
    holds(
        "7 forks and EAGAIN",
        ran.out.starts_with("forked 7 ") && ran.out.contains("os error 11"),
        &ran,
    )?;
    same("how well it held", report.classes.pids, Class::Kernel)?;
    same("hits", (report.pids_max.hits, report.forks.refused), (Some(13), Some(13)))?;
    same("the peak", (report.tasks.peak, report.tasks.class), (Some(8), Class::Kernel))
}

fn cpu_max_holds(guest: &mut Guest) -> Checked {
    let (_, report) = guest.in_place(&["--cpu-max=20%"], &["burn", "5000"])?;
    let cpu = &report.cpu;
    same("classes", (cpu.class, cpu.limit_class), (Class::Kernel, Some(Class::Kernel)))?;
    // Up to a fifth; the start counts for it as well.
    let used = cpu.user_ns + cpu.system_ns;
    holds("the time used", used <= report.wall_ns / 4, &(used, report.wall_ns))?;
    holds("it waited", cpu.throttled_periods > Some(10), cpu)?;
    holds("it waited", cpu.throttled_ns > Some(1_000_000_000), cpu)
}

fn what_is_left_behind_is_killed(guest: &mut Guest) -> Checked {
    let (ran, report) = guest.in_place(&[], &["leave", "40"])?;
    same("the status", ran.status, 0)?;
    same("how well it was killed", report.classes.kill, Class::Kernel)?;
    same("how many", report.left_behind.killed, 40)
}

fn files_are_the_kernels(guest: &mut Guest) -> Checked {
    let options = ["--name=look", "--memory-max=64M", "--pids-max=30"];
    let get = |file| ["/cgrove", "get", "look", file];
    let (ran, _) = guest.in_place(&options, &get("memory.max"))?;
    same("memory.max", ran.out.as_str(), "67108864\n")?;
    let (ran, _) = guest.in_place(&options, &get("memory.stat"))?;
    holds("memory.stat", ran.out.starts_with("anon "), &ran)?;
    let (_, report) = guest.in_place(&options, &["/cgrove", "set", "look", "pids.max", "25"])?;
    same("what was set", report.limits.pids_max, Some(25))?;
    let (ran, _) = guest.in_place(&options, &["/cgrove", "set", "look", "pids.max", "x"])?;
    holds("EINVAL", ran.status == 125 && ran.err.contains("EINVAL"), &ran)?;
    let (ran, none) = guest.cgrove(&["in", PLACE], &["--set=memory.max=x"], &["exit", "0"])?;
    holds("EINVAL", ran.status == 125 && ran.err.contains("EINVAL") && none.is_none(), &ran)
}

fn every_class_can_be_required(guest: &mut Guest) -> Checked {
    let required =
        "--require=kernel,pids=kernel,memory=kernel,cpu-max=kernel,cpu=kernel,kill=kernel";
    let (ran, _) = guest.in_place(&[required], &["exit", "3"])?;
    same("the status", ran.status, 3)
}

fn a_killed_supervisor_leaves_nothing(guest: &mut Guest) -> Checked {
    let (ran, report) =
        guest.cgrove(&["in", PLACE], &["--memory-max=64M"], &["kill-supervisor"])?;
    let reason = report.map(|report| report.reason);
    same("the status", (ran.status, reason), (125, Some(Reason::SupervisorKilled)))
}

fn a_killed_front_leaves_nothing(guest: &mut Guest) -> Checked {
    let (ran, _) = guest.cgrove(&["in", PLACE], &["--memory-max=64M"], &["kill-front"])?;
    same("the status", ran.status, 137)?;
    // Its supervisor is not ours to wait for.
    let until = Instant::now() + BOUND;
    while Instant::now() < until && !guest.tool(&["list", PLACE])?.is_empty() {}
    Ok(())
}

fn the_next_clears(guest: &mut Guest) -> Checked {
    let (ran, _) = guest.cgrove(&["in", PLACE], &["--memory-max=64M"], &["kill-both"])?;
    same("the status", ran.status, 137)?;
    let left = guest.tool(&["list", PLACE])?;
    let leaf = left.lines().find(|name| name.starts_with("cgrove-own-")).unwrap_or_default();
    holds(
        "a leaf and a group",
        left.lines().count() == 2 && leaf.ends_with("-cpu+memory+pids"),
        &left,
    )?;
    // Nobody can enter the place itself: it has controllers switched on.
    let leaf = format!("{PLACE}/{leaf}");
    let options = ["--memory-max=64M", "--require=memory=kernel"];
    let (ran, report) = guest.cgrove(&["in", &leaf], &options, &["eat", "256"])?;
    let report = report.ok_or_else(|| format!("no report: {ran:?}"))?;
    same("the status", (ran.status, report.reason), (137, Reason::MemoryMax))
}

fn a_run_in_a_run_is_held(guest: &mut Guest) -> Checked {
    let inner = ["/cgrove", "run", "--quiet", "--json=/tmp/inner.json", "--memory-max=64M"];
    let command: Vec<&str> =
        inner.into_iter().chain(["--", "/init", ARGUMENT, "hold", "200"]).collect();
    let (ran, report) = guest.in_place(&["--memory-max=300M"], &command)?;
    same("the status", (ran.status, report.memory.oom_kill_count), (137, Some(0)))?;
    let inner = guest.tool(&["cat", "/tmp/inner.json"])?;
    let inner: Report = serde_json::from_str(&inner).map_err(|e| format!("{e}: {ran:?}"))?;
    same("the reason", inner.reason, Reason::MemoryMax)?;
    same("how well it held", inner.memory.class, Class::Sampled)?;
    let options = ["--pids-max=30"];
    let inner = ["/cgrove", "run", "--quiet", "--require=pids=exact", "--", "/init", "exit"];
    let (ran, _) = guest.in_place(&options, &inner)?;
    holds("the refusal", ran.status == 125 && ran.err.contains("pids=exact is not met"), &ran)
}

fn strangers_are_not_moved(guest: &mut Guest) -> Checked {
    let beside = ["beside", PLACE, "in", PLACE];
    let (ran, report) = guest.cgrove(&beside, &["--memory-max=64M"], &["eat", "256"])?;
    let report = report.ok_or_else(|| format!("no report: {ran:?}"))?;
    same("the backend", report.backend, Some(Backend::Kernel))?;
    same("the status", (ran.status, report.reason), (137, Reason::MemoryMax))?;
    same("how well it held", report.memory.class, Class::Sampled)?;
    same("how well it was killed", report.classes.kill, Class::Kernel)?;
    let warned = report.warnings.iter().any(|it| it.contains("has processes of others in it"));
    holds("the reason", warned, &report.warnings)?;
    let required = ["--memory-max=64M", "--require=memory=kernel"];
    let (ran, report) = guest.cgrove(&beside, &required, &["eat", "256"])?;
    holds("no report", report.is_none(), &report)?;
    holds("EBUSY", ran.status == 125 && ran.err.contains("(EBUSY)"), &ran)?;
    same("one line", ran.err.lines().count(), 1)
}

fn other_cgroups_keep_theirs(guest: &mut Guest) -> Checked {
    let other = format!("{PLACE}/other");
    guest.tool(&["mkdir", &other])?;
    let (_, report) = guest.in_place(&["--memory-max=64M"], &["exit", "0"])?;
    same("how well it held", report.memory.class, Class::Sampled)?;
    let warned = report.warnings.iter().any(|it| it.contains("has other cgroups in it"));
    holds("the reason", warned, &report.warnings)?;
    same("what is in the place", guest.tool(&["list", PLACE])?, "other\n")?;
    guest.tool(&["rmdir", &other]).map(drop)
}

fn nobody_has_a_place(guest: &mut Guest) -> Checked {
    guest.tool(&["delegate", PLACE])?;
    let before = ["in", PLACE, "as-nobody"];
    let options = ["--memory-max=64M", "--require=memory=kernel"];
    let (ran, report) = guest.cgrove(&before, &options, &["eat", "256"])?;
    let report = report.ok_or_else(|| format!("no report: {ran:?}"))?;
    same("the status", (ran.status, report.reason), (137, Reason::MemoryMax))?;
    same("how well it held", report.memory.class, Class::Kernel)
}

fn a_namespace_is_a_place(guest: &mut Guest) -> Checked {
    let before = ["in", PLACE, "in-namespace"];
    let options = ["--memory-max=64M", "--pids-max=9", "--require=memory=kernel,pids=kernel"];
    let (ran, report) = guest.cgrove(&before, &options, &["eat", "256"])?;
    let report = report.ok_or_else(|| format!("no report: {ran:?}"))?;
    let found = (report.backend, report.memory.class, report.reason);
    same("the report", found, (Some(Backend::Kernel), Class::Kernel, Reason::MemoryMax))?;
    same("the status", ran.status, 137)
}

fn over_high_is_told(guest: &mut Guest) -> Checked {
    let options = ["--memory-high=32M", "--on-high=/init tool alarm"];
    // Little more: what is over is paid for with sleep, by its square.
    let (ran, report) = guest.in_place(&options, &["eat", "33"])?;
    same("the command", (ran.status, ran.out.as_str()), (0, "ate 33\n"))?;
    holds("it was counted", report.memory.high_hits > Some(0), &report.memory)?;
    holds("it was told", ran.err.contains("alarm memory.high 33554432 true"), &ran)
}

fn the_root_is_not_taken(guest: &mut Guest) -> Checked {
    let (_, report) = guest.cgrove(&[], &["--pids-max=8"], &["exit", "0"])?;
    same("the backend", report.and_then(|it| it.backend), Some(Backend::Gate))?;
    let (ran, _) = guest.cgrove(&[], &["--require=memory=kernel"], &["exit", "0"])?;
    holds("EPERM", ran.status == 125 && ran.err.contains("(EPERM)"), &ran)
}

fn the_root_is_used_if_asked(guest: &mut Guest) -> Checked {
    let options = ["--backend=kernel", "--memory-max=64M"];
    let (ran, report) = guest.cgrove(&[], &options, &["eat", "256"])?;
    let found = report.map(|it| (it.backend, it.memory.class, it.reason));
    same("the report", found, Some((Some(Backend::Kernel), Class::Kernel, Reason::MemoryMax)))?;
    same("the status", ran.status, 137)
}

fn the_root_is_not_changed(guest: &mut Guest) -> Checked {
    let control = in_root("cgroup.subtree_control");
    guest.tool(&["write", &control, "-memory"])?;
    let before = guest.tool(&["cat", &control])?;
    let options = ["--backend=kernel", "--memory-max=64M", "--require=memory=kernel"];
    let (ran, _) = guest.cgrove(&[], &options, &["exit", "0"])?;
    holds("EPERM", ran.status == 125 && ran.err.contains("(EPERM)"), &ran)?;
    let (ran, report) = guest.cgrove(&[], &options[..2], &["eat", "256"])?;
    let found = report.map(|it| (it.backend, it.memory.class));
    same("the report", found, Some((Some(Backend::Kernel), Class::Sampled)))?;
    same("the status", ran.status, 137)?;
    same("the root's controllers", guest.tool(&["cat", &control])?, before)
}
