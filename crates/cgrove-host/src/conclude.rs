//! From the state of a finished run to its report.

use std::ffi::OsString;

use nix::errno::Errno;

use crate::door::Left;
use crate::kill::Sweep;
use crate::launch::exec_status;
use crate::ledger::GroupId;
use crate::nested::Reaper;
use crate::options::{Feature, RunOptions};
use crate::report::{
    Class, Classes, Cpu, Exit, Forks, LeftBehind, Limits, MAX_LISTED, Memory, PidsMax, Reason,
    Report, Survivor, Tasks, VERSION, nanos,
};
use crate::resources::Figures as Used;
use crate::supervisor::Supervisor;
use crate::sys::{CpuTime, Fate};

/// The exit status for a timeout, as timeout(1) has it.
pub const TIMED_OUT: i32 = 124;
/// The exit status when cgrove itself failed.
pub const FAILED: i32 = 125;
/// The exit status of a run that ended with its parent: as if SIGKILL had been sent to it.
pub const PARENT_ENDED: i32 = 128 + libc::SIGKILL;

/// The report of a run that the supervisor saw to its end.
pub(crate) fn report(mut run: Supervisor<'_>, used: Used) -> Report {
    let (mut reason, exit) = exit(&run, &used);
    let gated = run.backend.asks();
    let (killed, processes) = run.sweep.survivors();
    let processes: Vec<Survivor> = processes.to_vec();
    let figures = run.ledger.figures(GroupId::RUN);
    let (hits, place) = figures.hits;
    let hits = if gated || !figures.explains { hits } else { run.refused };
    if hits > 0
        && figures.explains
        && exit.status != 0
        && matches!(reason, Reason::Exited | Reason::Signaled)
    {
        reason = Reason::PidsMax;
    }
    let (peak, at_most) = figures.peak;
    let every_task_asks = gated && run.options.limits_tasks();
    let class = if gated { Class::Exact } else { Class::Sampled };
    let mut warnings = Vec::new();
    if !gated && run.kernel.is_none() {
        warnings.push(format!("no fork gate: {}", run.backend_reason));
        if hits > 0 {
            warnings
                .push(format!("--pids-max was exceeded and {hits} processes were killed for it"));
        }
    }
    if let Err(errno) = run.door {
        warnings.push(format!(
            "nobody could look in from outside, or not to the end: {} ({errno:?})",
            errno.desc()
        ));
    }
    if run.late_limit {
        warnings.push(
            "the task limit was set after the start: threads did not ask, and were counted late"
                .to_owned(),
        );
    }
    if let Some(loose) = run.freezer.held().1 {
        warnings.push(format!("not frozen with the others: {loose}"));
    }
    if let Some(pid) = run.entered {
        warnings.push(format!(
            "process {pid} entered a pid namespace that was there before: what it orphaned there \
             belongs to that namespace's init"
        ));
    }
    if let Some(pid) = run.ledger.hidden() {
        warnings.push(format!(
            "/proc hides process {pid}, which made itself undumpable: until it ends, its ended \
             children keep their places"
        ));
    }
    warnings.extend(about_limits(&used));
    let sigchld_ignored = run.caller.sigchld_ignored;
    let pids = Feature::Pids.class(run.backend, sigchld_ignored);
    let kill = Feature::Kill.class(run.backend, sigchld_ignored);
    let mut report = Report {
        pid: Some(run.command),
        backend: Some(run.backend),
        backend_reason: std::mem::take(&mut run.backend_reason),
        exit,
        reason,
        exec_error: run.exec_error.map(|errno| format!("{errno:?}")),
        limits: Limits {
            pids_max: figures.limit,
            memory_max: used.memory_max,
            memory_high: used.memory_high,
            cpu_max: used.cpu_max,
            cpus: used.cpus,
            cpu_weight: used.cpu_weight,
            ..limits(run.options)
        },
        pids_max: PidsMax { hits: Some(hits), place: place.filter(|_| hits > 0) },
        wall_ns: nanos(run.started.elapsed()),
        cpu: Cpu {
            periods: used.cpu_limited.then_some(used.bandwidth.nr_periods),
            throttled_periods: used.cpu_limited.then_some(used.bandwidth.nr_throttled),
            throttled_ns: used
                .cpu_limited
                .then(|| used.bandwidth.throttled_usec.saturating_mul(1000)),
            limit_class: used.cpu_limited.then_some(if used.not_held.is_some() {
                Class::Unknown
            } else {
                Class::Sampled
            }),
            ..run.accounting.finish()
        },
        memory: used.memory,
        series: used.series,
        tasks: Tasks {
            peak: Some(peak),
            at_most: every_task_asks.then_some(at_most),
            class: if every_task_asks && peak == at_most { Class::Exact } else { Class::Sampled },
        },
        forks: Forks {
            count: Some(if gated { figures.forks } else { run.sampler.processes_found() }),
            refused: Some(if gated { run.refused } else { 0 }),
            class,
        },
        left_behind: LeftBehind {
            killed,
            passes: run.sweep.passes(),
            truncated: killed > processes.len() as u64,
            processes,
            class,
        },
        classes: Classes {
            pids: if run.late_limit { pids.min(Class::Sampled) } else { pids },
            kill: if run.entered.is_some() { kill.min(Class::Sampled) } else { kill },
            freeze: run.freezer.held().0,
        },
        warnings,
        ..blank(run.options)
    };
    if let Some(kernel) = &run.kernel {
        kernel.tell(&mut report);
    }
    report
}

/// The report of a group of another run, from its reaper and from the supervisor that it leaves.
pub(crate) fn nested(mut run: Reaper<'_>, left: Option<Left>) -> Report {
    let (mut reason, mut exit) =
        exit_of(run.fate, run.exec_error, why(run.timed_out, run.parent_ended));
    let entered = run.hold.entered.clone();
    let gated = entered.backend.asks();
    let known = if gated { Class::Exact } else { Class::Sampled };
    let mut warnings = Vec::new();
    let nothing = Exit { code: None, signal: None, status: FAILED };
    if let Some(errno) = run.gave_up {
        // A supervisor that is gone does not take the gate over; else it could not be had.
        let gone = matches!(errno, Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN);
        reason = if gone { Reason::SupervisorKilled } else { Reason::ExecFailed };
        exit = nothing;
        warnings.push(format!("the command was not started: {} ({errno:?})", errno.desc()));
    } else if run.is_alone() {
        (reason, exit) = (Reason::SupervisorKilled, Exit { status: FAILED, ..exit });
        warnings.push("the run around was killed, and this one with it".to_owned());
    } else if left.is_none() {
        warnings.push("the run around did not tell its figures of this one".to_owned());
    }
    if !gated {
        warnings.push(format!("no fork gate: {}", entered.backend_reason));
    }
    let (killed, processes) = run.sweep.survivors();
    let processes: Vec<Survivor> = processes.to_vec();
    if let Some(note) = left.as_ref().and_then(|left| left.cpu_note.clone()) {
        run.accounting.degrade(note);
    } else if !gated {
        run.accounting.degrade("without the gate, nobody tells when a program ignores SIGCHLD");
    }
    let late = left.as_ref().is_some_and(|left| left.late_limit);
    if late {
        warnings.push(
            "the run around began without a task limit: threads did not ask, and were counted late"
                .to_owned(),
        );
    }
    let figures = left.as_ref().map(|left| &left.figures);
    let hits = figures.map(|figures| figures.hits.0);
    if figures.is_some_and(|figures| figures.explains && figures.hits.0 > 0)
        && exit.status != 0
        && matches!(reason, Reason::Exited | Reason::Signaled)
    {
        reason = Reason::PidsMax;
    }
    let used = left.as_ref().map(|left| left.used.clone()).unwrap_or_default();
    let killed_for_memory = used.memory.oom_kills.iter().any(|kill| kill.pid == run.command);
    if killed_for_memory && reason == Reason::Signaled && exit.signal == Some(libc::SIGKILL) {
        reason = Reason::MemoryMax;
    }
    let every_task_asks = gated && entered.threads_ask;
    // The command itself existed, whoever looked.
    let peak = figures.map(|figures| (figures.peak.0.max(1), figures.peak.1.max(1)));
    let exact_peak = peak.is_some_and(|(seen, at_most)| seen == at_most) && every_task_asks;
    let known_if = |it: bool| if it { known } else { Class::Unknown };
    let ignored = run.caller.sigchld_ignored;
    let class = |feature: Feature| feature.class(entered.backend, ignored);
    Report {
        name: entered.full,
        pid: Some(run.command),
        backend: Some(entered.backend),
        backend_reason: entered.backend_reason,
        exit,
        reason,
        exec_error: run.exec_error.or(run.gave_up).map(|errno| format!("{errno:?}")),
        limits: Limits {
            pids_max: figures.map_or(run.options.pids_max, |figures| figures.limit),
            ..limits(run.options).with(&used.limits)
        },
        pids_max: PidsMax { hits, place: figures.and_then(|figures| figures.hits.1.clone()) },
        wall_ns: nanos(run.started.elapsed()),
        cpu: Cpu {
            periods: used.bandwidth.map(|(periods, ..)| periods),
            throttled_periods: used.bandwidth.map(|(_, throttled, _)| throttled),
            throttled_ns: used.bandwidth.map(|(.., ns)| ns),
            limit_class: used.bandwidth.map(|_| Class::Sampled),
            ..run.accounting.finish()
        },
        memory: used.memory,
        tasks: Tasks {
            peak: peak.map(|(seen, _)| seen),
            at_most: peak.filter(|_| every_task_asks).map(|(_, at_most)| at_most),
            class: match peak {
                None => Class::Unknown,
                Some(_) if exact_peak => Class::Exact,
                Some(_) => Class::Sampled,
            },
        },
        forks: Forks {
            count: figures.filter(|_| gated).map(|figures| figures.forks),
            refused: figures.map(|figures| if gated { figures.refused } else { 0 }),
            class: known_if(figures.is_some()),
        },
        left_behind: LeftBehind {
            killed,
            passes: run.sweep.passes(),
            truncated: killed > processes.len() as u64,
            processes,
            class: known_if(!run.is_alone()),
        },
        classes: Classes {
            pids: match class(Feature::Pids) {
                strong if late => strong.min(Class::Sampled),
                strong => strong,
            },
            kill: class(Feature::Kill),
            freeze: left.as_ref().and_then(|left| left.freeze),
        },
        warnings,
        ..blank(run.options)
    }
}

/// What the reader should know of the limits on memory and CPU.
fn about_limits(used: &Used) -> Vec<String> {
    let limited = used.memory_max.is_some() || used.memory_high.is_some();
    let mut warnings = Vec::new();
    if let Some(pid) = used.unmeasured.filter(|_| limited) {
        warnings.push(format!(
            "memory of process {pid} could not be measured exactly (undumpable, another user's, or \
             hidden by /proc): its resident pages were counted in full"
        ));
    }
    if let Some(pid) = used.unseen {
        warnings.push(format!("memory of process {pid} is hidden by /proc, and was not counted"));
    }
    if used.helpless {
        warnings.push(
            "memory.max was exceeded, and there was nobody who may be killed for it \
             (oom_score_adj -1000)"
                .to_owned(),
        );
    }
    if used.weight_refused {
        warnings.push(
            "cpu.weight could not be carried by niceness for everyone: to lower it takes \
             CAP_SYS_NICE or RLIMIT_NICE"
                .to_owned(),
        );
    }
    if let Some(loose) = &used.not_held {
        warnings.push(format!("could not be halted for a limit: {loose}"));
    }
    warnings
}

fn exit(run: &Supervisor<'_>, used: &Used) -> (Reason, Exit) {
    let (reason, exit) = exit_of(run.fate, run.exec_error, why(run.timed_out, run.parent_ended));
    let killed = used.memory.oom_kills.iter().any(|kill| kill.pid == run.command);
    let by_us = reason == Reason::Signaled && exit.signal == Some(libc::SIGKILL) && killed;
    (if by_us { Reason::MemoryMax } else { reason }, exit)
}

/// What ended the command, if cgrove did for a reason of its own.
fn why(timed_out: bool, parent_ended: bool) -> Option<(Reason, i32)> {
    match (timed_out, parent_ended) {
        (true, _) => Some((Reason::Timeout, TIMED_OUT)),
        (_, true) => Some((Reason::ParentEnded, PARENT_ENDED)),
        _ => None,
    }
}

fn exit_of(
    fate: Option<Fate>,
    exec_error: Option<Errno>,
    why: Option<(Reason, i32)>,
) -> (Reason, Exit) {
    let (code, signal, natural) = match fate {
        Some(Fate::Exited(code)) => (Some(code), None, code),
        Some(Fate::Signaled(signal)) => (None, Some(signal), 128 + signal),
        _ => (None, None, FAILED),
    };
    if let Some(errno) = exec_error {
        let exit = Exit { code: None, signal: None, status: exec_status(errno) };
        return (Reason::ExecFailed, exit);
    }
    if let Some((reason, status)) = why {
        return (reason, Exit { code, signal, status });
    }
    let reason = if signal.is_some() { Reason::Signaled } else { Reason::Exited };
    (reason, Exit { code, signal, status: natural })
}

/// What is still known when the supervisor itself was killed: nothing is made up.
pub(crate) fn degraded(options: &RunOptions, wall_ns: u64, cpu: CpuTime, sweep: &Sweep) -> Report {
    let (killed, processes) = sweep.survivors();
    Report {
        wall_ns,
        cpu: Cpu {
            user_ns: nanos(cpu.user),
            system_ns: nanos(cpu.system),
            class: Class::Sampled,
            note: Some("the supervisor was killed; its own time is included".to_owned()),
            ..no_cpu()
        },
        left_behind: LeftBehind {
            killed,
            passes: sweep.passes(),
            processes: processes.iter().take(MAX_LISTED).cloned().collect(),
            truncated: killed > processes.len() as u64,
            class: Class::Sampled,
        },
        warnings: vec![
            "the supervisor was killed: the tree was killed too, and the command's status, the \
             peak and the number of forks are unknown"
                .to_owned(),
        ],
        ..blank(options)
    }
}

fn limits(options: &RunOptions) -> Limits {
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Limits {
        pids_max: options.pids_max,
        memory_max: None,
        memory_high: None,
        cpu_max: None,
        cpus: None,
        cpu_weight: None,
        timeout_ms: options.timeout.map(millis),
        kill_grace_ms: millis(options.kill_grace),
    }
}

fn no_cpu() -> Cpu {
    Cpu {
        user_ns: 0,
        system_ns: 0,
        class: Class::Unknown,
        note: None,
        periods: None,
        throttled_periods: None,
        throttled_ns: None,
        limit_class: None,
    }
}

/// A report in which nothing is known but what was asked.
fn blank(options: &RunOptions) -> Report {
    let lossy = |word: &OsString| word.to_string_lossy().into_owned();
    Report {
        version: VERSION,
        name: options.name.clone(),
        command: options.command.iter().map(lossy).collect(),
        pid: None,
        backend: None,
        backend_reason: "the supervisor was killed".to_owned(),
        exit: Exit { code: None, signal: None, status: FAILED },
        reason: Reason::SupervisorKilled,
        exec_error: None,
        limits: limits(options),
        pids_max: PidsMax { hits: None, place: None },
        wall_ns: 0,
        cpu: no_cpu(),
        memory: Memory::default(),
        series: None,
        tasks: Tasks { peak: None, at_most: None, class: Class::Unknown },
        forks: Forks { count: None, refused: None, class: Class::Unknown },
        left_behind: LeftBehind {
            killed: 0,
            passes: 0,
            processes: Vec::new(),
            truncated: false,
            class: Class::Unknown,
        },
        classes: Classes { pids: Class::Unknown, kill: Class::Unknown, freeze: None },
        warnings: Vec::new(),
    }
}
