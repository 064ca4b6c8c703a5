//! What a backend costs in this place, and how well its limits hold: short runs of this very program,
//! beside the same without cgrove.
//!
//! A machine that is busy shows in the figures; medians and turns keep that small. Whatever cannot be
//! measured, for a run that is refused say, is left out.

use std::ffi::OsString;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgrove_host::report::{Backend, Report};
use serde::Serialize;

/// The limit on memory, in MiB.
pub const MEMORY_MIB: u64 = 64;
/// The limit on CPU time, in percent of one CPU.
pub const CPU_PERCENT: u64 = 20;
/// The limit on tasks.
pub const TASKS: u64 = 8;
/// Commands executed for one figure, and how often that is taken.
const FORKS: u64 = 100;
const TURNS: usize = 5;
/// How long CPU time is used: two periods and a half.
const BURN: Duration = Duration::from_millis(250);

/// The figures of one backend; none that could not be had.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Which.
    pub backend: Backend,
    /// How much longer a command takes that does nothing, in milliseconds.
    pub start_ms: Option<f64>,
    /// fork, exec and wait, beside the same without cgrove.
    pub fork_ratio: Option<f64>,
    /// By how much an allocation as fast as can be passes a limit, in percent of that.
    pub memory_over_percent: Option<f64>,
    /// The same for CPU time of two loops.
    pub cpu_over_percent: Option<f64>,
    /// The most tasks at once under a limit of [`TASKS`].
    pub tasks_peak: Option<u64>,
}

/// What this program does when it is the load of a measurement: the words after `doctor-load`.
pub fn load(what: &str, amount: u64) -> i32 {
    match what {
        "exit" => 0,
        "forks" => {
            let begun = Instant::now();
            for _ in 0..amount {
                if itself(&["exit".into(), "0".into()]).status().is_err() {
                    return 1;
                }
            }
            crate::say::out(&format!("{}\n", begun.elapsed().as_nanos()))
        }
        "grow" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            for _ in 0..amount {
                // Written to, or the kernel would give no pages.
                all.push(black_box(vec![1; 1 << 20]));
            }
            black_box(&all);
            0
        }
        "burn" => {
            let until = Instant::now() + Duration::from_millis(amount);
            let other = std::thread::spawn(move || while Instant::now() < until {});
            while Instant::now() < until {}
            i32::from(other.join().is_err())
        }
        "crowd" => {
            let some: Vec<_> = (0..amount)
                .filter_map(|_| itself(&["burn".into(), "100".into()]).spawn().ok())
                .collect();
            some.into_iter().for_each(|mut it| drop(it.wait()));
            0
        }
        _ => 2,
    }
}

/// Measures one backend.
pub fn measure(backend: Backend) -> Measured {
    let (mut bare, mut held) = (Vec::new(), Vec::new());
    let (mut bare_forks, mut held_forks) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        bare.extend(timed(itself(&["exit".into(), "0".into()])));
        held.extend(timed(run(backend, &[], &["exit", "0"])));
        let forks = ["forks".into(), FORKS.to_string().into()];
        bare_forks.extend(printed(itself(&forks)));
        held_forks.extend(printed(run(backend, &[], &["forks", &FORKS.to_string()])));
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        (all.len() == TURNS).then(|| all[TURNS / 2])
    };
    let start = median(held).zip(median(bare));
    let forks = median(held_forks).zip(median(bare_forks));
    let memory = format!("{MEMORY_MIB}M");
    let memory = report(run(backend, &["--memory-max", &memory], &["grow", "512"]));
    let cpu = format!("{CPU_PERCENT}%");
    let cpu = report(run(backend, &["--cpu-max", &cpu], &["burn", &BURN.as_millis().to_string()]));
    let tasks = TASKS.to_string();
    let tasks = report(run(backend, &["--pids-max", &tasks], &["crowd", "40"]));
    Measured {
        backend,
        start_ms: start.map(|(held, bare)| (held - bare) / 1e6),
        fork_ratio: forks.map(|(held, bare)| held / bare),
        memory_over_percent: memory.and_then(|report| {
            let limit = (MEMORY_MIB << 20) as f64;
            // The kernel tells no overshoot: it lets none happen.
            let over = report.memory.overshoot_bytes.unwrap_or(0) as f64;
            (report.memory.oom_kill_count? > 0).then_some(over / limit * 100.0)
        }),
        cpu_over_percent: cpu.map(|report| {
            let used = (report.cpu.user_ns + report.cpu.system_ns) as f64;
            let periods = report.wall_ns.div_ceil(100_000_000);
            let quota = (periods * CPU_PERCENT * 1_000_000) as f64;
            (used - quota).max(0.0) / quota * 100.0
        }),
        tasks_peak: tasks.and_then(|report| report.tasks.peak),
    }
}

/// This program, as a load.
fn itself(words: &[OsString]) -> Command {
    let mut command = Command::new(program());
    command.arg("doctor-load").args(words).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A load in a run.
fn run(backend: Backend, options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(["run", "--quiet", "--backend", backend.name()]).args(options);
    if !options.is_empty() {
        command.args(["--json", "-"]);
    }
    command.arg("--").arg(program()).arg("doctor-load").args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn program() -> OsString {
    // A link that holds even when the file is replaced, for this process and its children alike.
    std::env::current_exe().map_or_else(|_| "/proc/self/exe".into(), Into::into)
}

/// How long a command that must succeed takes, in nanoseconds.
fn timed(mut command: Command) -> Option<f64> {
    let begun = Instant::now();
    let status = command.status().ok()?;
    status.success().then(|| begun.elapsed().as_nanos() as f64)
}

/// The number that a command prints.
fn printed(mut command: Command) -> Option<f64> {
    let output = command.stdout(Stdio::piped()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// What a run reports.
fn report(mut command: Command) -> Option<Report> {
    let output = command.stdout(Stdio::piped()).output().ok()?;
    serde_json::from_slice(&output.stdout).ok()
}
