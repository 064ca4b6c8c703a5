//! How well the limits on memory and CPU hold, and what it costs to look.
//!
//! The workloads are C programs, compiled here. The figures are those of the report, except the cost
//! of looking, which is the supervisor's own CPU time as /proc has it.
//!
//!     cargo bench -p cgrove --bench limits [-- FILTER …]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::Value;

const CGROVE: &str = env!("CARGO_BIN_EXE_cgrove");

const WORKLOADS: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* So many MiB in a second, page by page, without end; 0 is as fast as it goes. */
static int grow(double rate) {
    size_t step = 256 * 1024;
    double begun = now();
    for (size_t all = 0; all < (size_t)4 << 30; all += step) {
        char *at = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t i = 0; i < step; i += 4096) at[i] = 1;
        while (rate > 0 && now() - begun < all / (rate * 1048576)) {}
    }
    return 0;
}

static void *burn(void *arg) {
    for (volatile int i = 0;; i++) {}
    return arg;
}

int main(int argc, char **argv) {
    const char *what = argv[1];
    long n = argc > 2 ? atol(argv[2]) : 0;
    if (!strcmp(what, "grow")) return grow(n);
    if (!strcmp(what, "idle")) {
        for (long i = 0; i < n; i++) if (!fork()) for (;;) pause();
        puts("ready");
        fflush(stdout);
        for (;;) pause();
    }
    if (!strcmp(what, "burn")) {
        for (long i = 1; i < n; i++) if (!fork()) burn(NULL);
        burn(NULL);
    }
    if (!strcmp(what, "threads")) {
        for (long i = 1; i < n; i++) { pthread_t t; pthread_create(&t, NULL, burn, NULL); }
        burn(NULL);
    }
    if (!strcmp(what, "short")) for (;;) {
        if (!fork()) { double until = now() + n / 1e3; while (now() < until) {} _exit(0); }
        wait(NULL);
    }
    return 64;
}
"#;

type Bench = (&'static str, fn(&Path));

const BENCHES: [Bench; 6] = [
    ("overshoot", overshoot),
    ("idle", idle),
    ("cpu-max", cpu_max),
    ("burst", burst),
    ("many", many),
    ("halts", halts),
];

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let folder = std::env::temp_dir().join(format!("cgrove-limits-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let program = compile(&folder);
    for (name, bench) in BENCHES {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            bench(&program);
        }
    }
    let _ = fs::remove_dir_all(&folder);
    ExitCode::SUCCESS
}

fn compile(folder: &Path) -> PathBuf {
    let (source, program) = (folder.join("limits.c"), folder.join("limits"));
    fs::write(&source, WORKLOADS).expect("the source");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-pthread", "-o"]).args([&program, &source]);
    assert!(cc.status().expect("a C compiler").success());
    program
}

fn report(program: &Path, options: &[&str], workload: &[&str]) -> Value {
    let mut command = Command::new(CGROVE);
    command.args(["run", "--quiet", "--json", "-"]).args(options).arg("--");
    command.arg(program).args(workload).stdin(Stdio::null());
    let output = command.output().expect("cgrove runs");
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn overshoot(program: &Path) {
    for rate in ["1024", "0"] {
        for cap in ["200M", "1G"] {
            let mut worst = Vec::new();
            for _ in 0..7 {
                let report = report(program, &["--memory-max", cap], &["grow", rate]);
                let memory = &report["memory"];
                let over = memory["overshoot_bytes"].as_u64().expect("an overshoot") as f64;
                let limit = report["limits"]["memory_max"].as_u64().expect("a limit") as f64;
                worst.push(over / limit * 100.0);
            }
            worst.sort_by(f64::total_cmp);
            let how = if rate == "0" { "as fast as it goes" } else { "1 GiB/s" };
            println!(
                "overshoot of {cap}, {how}: median {:.1} %, worst {:.1} %",
                worst[3], worst[6]
            );
        }
    }
}

/// CPU time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn supervisor_of(front: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{front}/task/{front}/children"));
    children.unwrap_or_default().trim().parse().expect("a supervisor")
}

fn idle(program: &Path) {
    for options in
        [&[][..], &["--memory-max", "200M"], &["--memory-max", "8G"], &["--cpu-max", "50%"]]
    {
        let mut command = Command::new(CGROVE);
        command.args(["run", "--quiet"]).args(options).arg("--").arg(program);
        command.args(["idle", "1000"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("cgrove runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        let supervisor = supervisor_of(child.id());
        std::thread::sleep(Duration::from_secs(2));
        let before = ticks(supervisor);
        std::thread::sleep(Duration::from_secs(10));
        let share = (ticks(supervisor) - before) as f64 / 10.0;
        println!("1,000 idle processes, {options:?}: {share:.1} % of a core");
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let _ = child.wait();
    }
}

fn used(report: &Value) -> f64 {
    let of = |name: &str| report["cpu"][name].as_u64().unwrap_or(0) as f64 / 1e9;
    of("user_ns") + of("system_ns")
}

fn cpu_max(program: &Path) {
    for workload in [&["burn", "1"], &["burn", "4"], &["threads", "4"], &["short", "3"]] {
        let options = ["--cpu-max", "50%", "--timeout", "10s", "--kill-grace", "0"];
        let report = report(program, &options, workload);
        println!("50 % for 10 s, {workload:?}: {:.3} s, bar 5.0 ± 0.1", used(&report));
    }
}

/// What one period can take too much.
fn burst(program: &Path) {
    let options = ["--cpu-max", "20%", "--timeout", "250ms", "--kill-grace", "0"];
    for workload in [&["burn", "1"], &["burn", "4"]] {
        let report = report(program, &options, workload);
        println!("20 % for 250 ms, {workload:?}: {:.1} ms of 60", used(&report) * 1e3);
    }
}

/// Few that run among many that do not.
fn many(program: &Path) {
    let script = format!("{0} idle 1000 >/dev/null & {0} burn 2", program.display());
    let options = ["--cpu-max", "50%", "--timeout", "5s", "--kill-grace", "0"];
    let report = report(Path::new("/bin/sh"), &options, &["-c", &script]);
    println!("50 % for 5 s, 2 busy of 1,002: {:.3} s", used(&report));
}

/// A halt is short.
fn halts(program: &Path) {
    let options = ["--cpu-max", "50000/100000", "--timeout", "5s", "--kill-grace", "0"];
    let report = report(program, &options, &["burn", "2"]);
    let cpu = &report["cpu"];
    println!(
        "waited {} ms in {} of {} periods",
        cpu["throttled_ns"].as_u64().unwrap_or(0) / 1_000_000,
        cpu["throttled_periods"],
        cpu["periods"]
    );
}
