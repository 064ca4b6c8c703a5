//! From the state of a finished run to its report.

use std::ffi::OsString;

use crate::kill::Sweep;
use crate::launch::exec_status;
use crate::options::{Feature, RunOptions};
use crate::report::{
    Backend, Class, Classes, Cpu, Exit, Forks, LeftBehind, Limits, MAX_LISTED, PidsMax, Reason,
    Report, Survivor, Tasks, VERSION, nanos,
};
use crate::supervisor::Supervisor;
use crate::sys::{CpuTime, Fate};

/// The exit status for a timeout, as timeout(1) has it.
pub const TIMED_OUT: i32 = 124;
/// The exit status when cgrove itself failed.
pub const FAILED: i32 = 125;

/// The report of a run that the supervisor saw to its end.
pub(crate) fn report(mut run: Supervisor<'_>) -> Report {
    let (mut reason, exit) = exit(&run);
    let gated = run.backend == Backend::Gate;
    let (killed, processes) = run.sweep.survivors();
    let processes: Vec<Survivor> = processes.to_vec();
    let (hits, place) = run.ledger.hits();
    let hits = if gated { hits } else { run.refused };
    if hits > 0 && exit.status != 0 && matches!(reason, Reason::Exited | Reason::Signaled) {
        reason = Reason::PidsMax;
    }
    let (peak, at_most) = run.ledger.peak();
    let every_task_asks = gated && run.options.limits_tasks();
    let class = if gated { Class::Exact } else { Class::Sampled };
    let mut warnings = Vec::new();
    if !gated {
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
    let sigchld_ignored = run.caller.sigchld_ignored;
    let pids = Feature::Pids.class(run.backend, sigchld_ignored);
    let kill = Feature::Kill.class(run.backend, sigchld_ignored);
    Report {
        pid: Some(run.command),
        backend: Some(run.backend),
        backend_reason: std::mem::take(&mut run.backend_reason),
        exit,
        reason,
        exec_error: run.exec_error.map(|errno| format!("{errno:?}")),
        limits: Limits { pids_max: run.ledger.limit(), ..limits(run.options) },
        pids_max: PidsMax { hits: Some(hits), place: (hits > 0).then_some(place) },
        wall_ns: nanos(run.started.elapsed()),
        cpu: run.accounting.finish(),
        tasks: Tasks {
            peak: Some(peak),
            at_most: every_task_asks.then_some(at_most),
            class: if every_task_asks && peak == at_most { Class::Exact } else { Class::Sampled },
        },
        forks: Forks {
            count: Some(if gated { run.ledger.forks() } else { run.sampler.processes_found() }),
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
    }
}

fn exit(run: &Supervisor<'_>) -> (Reason, Exit) {
    let (code, signal, natural) = match run.fate {
        Some(Fate::Exited(code)) => (Some(code), None, code),
        Some(Fate::Signaled(signal)) => (None, Some(signal), 128 + signal),
        _ => (None, None, FAILED),
    };
    if let Some(errno) = run.exec_error {
        let exit = Exit { code: None, signal: None, status: exec_status(errno) };
        return (Reason::ExecFailed, exit);
    }
    if run.timed_out {
        return (Reason::Timeout, Exit { code, signal, status: TIMED_OUT });
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
        timeout_ms: options.timeout.map(millis),
        kill_grace_ms: millis(options.kill_grace),
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
        cpu: Cpu { user_ns: 0, system_ns: 0, class: Class::Unknown, note: None },
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
