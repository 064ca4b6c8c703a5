//! What `cgrove run` costs, as a ratio to the bare command.
//!
//! A slow machine, a busy neighbour or a change of clock speed moves absolute figures by more than
//! cgrove does. So the bare and the wrapped command take turns, round by round, and the medians of
//! both are compared. The workloads are small C programs, compiled here, that time their own loop:
//! what they print leaves starting and ending out.
//!
//! What a kernel charges for the means that cgrove uses differs from machine to machine. So the
//! same loops also run under the *floor*: for system calls, a filter of one instruction; for forks
//! and threads, a listener that lets everything through and does nothing else. A ratio is above its
//! bar only if it is above the floor's too.
//!
//!     cargo bench -p cgrove --bench run [-- FILTER …] [--rounds N]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const CGROVE: &str = env!("CARGO_BIN_EXE_cgrove");

const WORKLOADS: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, unsigned long long)
#endif
#ifndef SYS_fork
#define SYS_fork (-1)
#define SYS_vfork (-1)
#endif

static int filter(struct sock_filter *code, int length, unsigned long flags) {
    struct sock_fprog program = { length, code };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW | flags,
                   &program);
}

/* The cheapest filter there is. */
static void floor_of_calls(void) {
    struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
    if (filter(allow, 1, 0)) { perror("seccomp"); exit(1); }
}

/* The cheapest gate there is: its keeper shares descriptors with the workload until it has them. */
static void floor_of_forks(void) {
    struct sock_filter ask[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)SYS_fork, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)SYS_vfork, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 2, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 38),
    };
    volatile int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *shared = -1;
    long keeper = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (keeper < 0) { perror("clone"); exit(1); }
    if (keeper > 0) {
        /* WAIT_KILLABLE_RECV */
        int listener = filter(ask, 8, SECCOMP_FILTER_FLAG_NEW_LISTENER | 1UL << 5);
        if (listener < 0) { perror("seccomp"); exit(1); }
        *shared = listener;
        while (*shared != -2) sched_yield();
        close(listener);
        return;
    }
    while (*shared < 0) sched_yield();
    int listener = *shared;
    if (unshare(CLONE_FILES)) _exit(1);
    prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0);
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1UL);
    *shared = -2;
    for (;;) {
        struct pollfd ready = { listener, POLLIN, 0 };
        poll(&ready, 1, -1);
        if (!(ready.revents & POLLIN)) _exit(0);
        struct seccomp_notif asked;
        memset(&asked, 0, sizeof asked);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked)) continue;
        struct seccomp_notif_resp answer = { asked.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE };
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static void *nothing(void *arg) { return arg; }

static void child(char *const *argv) {
    pid_t pid = fork();
    if (pid < 0) { perror("fork"); exit(1); }
    if (pid == 0) {
        if (argv) execv(argv[0], argv);
        _exit(argv != NULL);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0) { perror("wait"); exit(1); }
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) return 2;
    if (argc == 4) {
        if (!strcmp(argv[3], "calls")) floor_of_calls();
        else floor_of_forks();
    }
    const char *what = argv[1];
    long n = atol(argv[2]);
    char *const tru[] = { "/bin/true", NULL };
    int zero = open("/dev/zero", O_RDONLY);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < n; i++) {
        if (!strcmp(what, "fork+exec")) child(tru);
        else if (!strcmp(what, "fork+wait")) child(NULL);
        else if (!strcmp(what, "thread")) {
            pthread_t t;
            if (pthread_create(&t, NULL, nothing, NULL)) { perror("thread"); return 1; }
            pthread_join(t, NULL);
        } else if (!strcmp(what, "wait")) { if (fork() == 0) for (;;) pause(); }
        else if (!strcmp(what, "getpid")) syscall(SYS_getpid);
        else if (!strcmp(what, "read")) { char c; if (read(zero, &c, 1) != 1) return 1; }
        else if (!strcmp(what, "stat")) { struct stat s; if (stat("/", &s)) return 1; }
        else return 2;
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%lld\n", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec);
    return 0;
}
"#;

/// A figure and the bar it must stay below.
struct Case {
    name: &'static str,
    workload: &'static str,
    loops: u32,
    options: &'static [&'static str],
    /// The floor to compare with; none where the workload does not use its means.
    floor: Option<&'static str>,
    bar: f64,
}

const LIMIT: &[&str] = &["--pids-max", "1000"];

const CASES: &[Case] = &[
    Case {
        name: "fork+exec",
        workload: "fork+exec",
        loops: 300,
        options: &[],
        floor: Some("forks"),
        bar: 1.05,
    },
    Case {
        name: "fork+exec, limit",
        workload: "fork+exec",
        loops: 300,
        options: LIMIT,
        floor: Some("forks"),
        bar: 1.05,
    },
    Case {
        name: "fork+wait",
        workload: "fork+wait",
        loops: 2000,
        options: &[],
        floor: Some("forks"),
        bar: 1.2,
    },
    Case {
        name: "fork+wait, limit",
        workload: "fork+wait",
        loops: 2000,
        options: LIMIT,
        floor: Some("forks"),
        bar: 1.2,
    },
    Case { name: "thread", workload: "thread", loops: 8000, options: &[], floor: None, bar: 1.1 },
    Case {
        name: "thread, limit",
        workload: "thread",
        loops: 8000,
        options: LIMIT,
        floor: Some("forks"),
        bar: 1.8,
    },
    Case {
        name: "getpid",
        workload: "getpid",
        loops: 1_500_000,
        options: &[],
        floor: Some("calls"),
        bar: 1.05,
    },
    Case {
        name: "read",
        workload: "read",
        loops: 800_000,
        options: &[],
        floor: Some("calls"),
        bar: 1.05,
    },
    Case {
        name: "stat",
        workload: "stat",
        loops: 300_000,
        options: &[],
        floor: Some("calls"),
        bar: 1.05,
    },
];

/// How far two medians of equal runs lie apart on a busy machine.
const FLOOR_NOISE: f64 = 1.03;
/// `true` may cost this much more.
const START_BAR: Duration = Duration::from_millis(2);
/// Processes that are frozen at once, and how long that may take.
const FROZEN: u32 = 1000;
const FREEZE_BAR: Duration = Duration::from_millis(60);
/// The supervisor's memory, in KiB.
const MEMORY_BAR: u64 = 8 * 1024;

fn main() -> ExitCode {
    let (filters, rounds) = arguments();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => return give_up(&format!("no temporary folder: {error}")),
    };
    let program = match compile(folder.path()) {
        Ok(program) => program,
        Err(error) => return give_up(&error),
    };
    let mut missed = 0;
    let columns = ["bare", "cgrove", "ratio", "floor", "bar"];
    let [bare, ours, ratio, floor, bar] = columns;
    println!("{:<20}{bare:>12}{ours:>12}{ratio:>9}{floor:>9}{bar:>9}", "");
    if wanted("true") {
        missed += u32::from(!start(rounds * 20));
    }
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        missed += u32::from(!compare(case, &program, rounds));
    }
    if wanted("freeze") {
        missed += u32::from(!freeze(&program, rounds));
    }
    if wanted("memory") {
        missed += u32::from(!memory(&program));
    }
    if missed > 0 {
        println!("{missed} above their bars");
    }
    ExitCode::from(u8::from(missed > 0))
}

fn give_up(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(2)
}

/// Filters and the number of rounds; cargo's own `--bench` is ignored.
fn arguments() -> (Vec<String>, usize) {
    let mut filters = Vec::new();
    let mut rounds = 11;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rounds" => {
                rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(rounds).max(1);
            }
            _ if arg.starts_with('-') => {}
            _ => filters.push(arg),
        }
    }
    (filters, rounds)
}

fn compile(folder: &Path) -> Result<PathBuf, String> {
    let source = folder.join("work.c");
    let program = folder.join("work");
    fs::write(&source, WORKLOADS).map_err(|e| format!("cannot write {}: {e}", source.display()))?;
    let status = Command::new("cc")
        .args(["-O2", "-pthread", "-o"])
        .args([&program, &source])
        .status()
        .map_err(|e| format!("no C compiler (cc): {e}"))?;
    if status.success() { Ok(program) } else { Err(format!("cc failed: {status}")) }
}

fn wrapped(options: &[&str], program: &Path) -> Command {
    let mut command = Command::new(CGROVE);
    command.args(["run", "--quiet"]).args(options).arg("--").arg(program);
    command
}

/// The time the workload itself took.
fn timed(mut command: Command, case: &Case, floor: Option<&str>) -> Duration {
    command.arg(case.workload).arg(case.loops.to_string()).args(floor);
    let output = command.output();
    let output = output.expect("the workload starts");
    assert!(output.status.success(), "{}: {output:?}", case.name);
    let nanos = String::from_utf8_lossy(&output.stdout).trim().parse();
    Duration::from_nanos(nanos.expect("the workload prints its time"))
}

fn compare(case: &Case, program: &Path, rounds: usize) -> bool {
    let (mut bare, mut ours, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(timed(Command::new(program), case, None));
        ours.push(timed(wrapped(case.options, program), case, None));
        if case.floor.is_some() {
            floor.push(timed(Command::new(program), case, case.floor));
        }
    }
    let (bare, ours) = (median(bare) / case.loops, median(ours) / case.loops);
    let ratio = |time: Duration| time.as_secs_f64() / bare.as_secs_f64().max(1e-12);
    let floor = case.floor.map(|_| ratio(median(floor) / case.loops));
    let good = ratio(ours) <= case.bar.max(floor.unwrap_or(0.0) * FLOOR_NOISE);
    println!(
        "{:<20}{:>12}{:>12}{:>9.3}{:>9}{:>9.2}{}",
        case.name,
        format!("{bare:.1?}"),
        format!("{ours:.1?}"),
        ratio(ours),
        floor.map_or_else(String::new, |floor| format!("{floor:.3}")),
        case.bar,
        if good { "" } else { "  above" }
    );
    good
}

fn start(rounds: usize) -> bool {
    let once = |mut command: Command| {
        let begun = Instant::now();
        let status = command.status().expect("true starts");
        assert!(status.success());
        begun.elapsed()
    };
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(once(Command::new("true")));
        ours.push(once(wrapped(&[], Path::new("true"))));
    }
    let (bare, ours) = (median(bare), median(ours));
    let more = ours.saturating_sub(bare);
    let good = more <= START_BAR;
    println!(
        "{:<20}{:>12}{:>12}{:>9}{:>9}{:>9}{}",
        "true",
        format!("{bare:.1?}"),
        format!("{ours:.1?}"),
        format!("+{:.2}ms", more.as_secs_f64() * 1e3),
        "",
        "+2ms",
        if good { "" } else { "  above" }
    );
    good
}

/// From the start of `cgrove freeze` to its end, and of `cgrove thaw`, with processes that sleep.
fn freeze(program: &Path, rounds: usize) -> bool {
    let name = format!("freeze-bench-{}", std::process::id());
    let script = format!("{} wait {FROZEN} && read line", program.display());
    let mut child = Command::new(CGROVE)
        .args(["run", "--quiet", "--name", &name, "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cgrove starts");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("the workload prints");
    let once = |what: &str| {
        let begun = Instant::now();
        let status = Command::new(CGROVE).args([what, &name]).status();
        assert!(status.expect("cgrove starts").success(), "{what}");
        begun.elapsed()
    };
    let (freezes, thaws) = (0..rounds).map(|_| (once("freeze"), once("thaw"))).unzip();
    drop(child.stdin.take());
    let _ = child.wait();
    let (freeze, thaw) = (median(freezes), median(thaws));
    let good = freeze <= FREEZE_BAR;
    println!(
        "{:<20}{:>12}{:>12}{:>9}{:>9}{:>9}{}",
        format!("freeze {FROZEN}"),
        "",
        format!("{freeze:.1?}"),
        "",
        "",
        format!("{FREEZE_BAR:?}"),
        if good { "" } else { "  above" }
    );
    println!("{:<20}{:>12}{:>12}", format!("thaw {FROZEN}"), "", format!("{thaw:.1?}"));
    good
}

/// The supervisor's peak resident memory after a load of forks under a limit.
fn memory(program: &Path) -> bool {
    let script = format!("{} fork+wait 3000 && read line", program.display());
    let mut child = Command::new(CGROVE)
        .args(["run", "--quiet", "--pids-max", "1000", "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cgrove starts");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
    // The workload prints its time when the load is over, and then waits for a line.
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("the workload prints");
    let pid = child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let supervisor = children.unwrap_or_default().trim().to_owned();
    let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap_or_default();
    drop(child.stdin.take());
    let _ = child.wait();
    let peak: Option<u64> = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    let Some(kib) = peak else {
        println!("{:<20}not measured: no /proc/{pid}/task/{pid}/children here", "memory");
        return true;
    };
    let good = kib <= MEMORY_BAR;
    println!(
        "{:<20}{:>12}{:>12}{:>9}{:>9}{:>9}{}",
        "supervisor memory",
        "",
        format!("{kib} KiB"),
        "",
        "",
        "8192",
        if good { "" } else { "  above" }
    );
    good
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
