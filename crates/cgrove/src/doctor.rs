//! `cgrove doctor`: what this place allows, in words or as JSON.

use std::fmt::Write;

use cgrove_host::options::Feature;
use cgrove_host::probe::{self, Place};

use serde::Serialize;

use crate::say;
use measure::Measured;

pub mod measure;

/// What is printed as JSON.
#[derive(Serialize)]
struct Findings<'a> {
    #[serde(flatten)]
    place: &'a Place,
    /// By backend; empty if nothing was to be measured.
    measured: &'a [Measured],
}

/// Looks around, measures unless it is to be `quick`, and prints what it found; returns the exit
/// status.
pub fn doctor(json: bool, quick: bool) -> i32 {
    let place = probe::look();
    let rungs = place.rungs.iter().filter(|rung| rung.works && !quick);
    let measured: Vec<Measured> = rungs.map(|rung| measure::measure(rung.backend)).collect();
    if !json {
        return say::out(&(words(&place) + &table(&place) + &figures(&measured)));
    }
    match serde_json::to_string(&Findings { place: &place, measured: &measured }) {
        Ok(text) => say::out(&(text + "\n")),
        Err(error) => {
            say::failed(&format_args!("cannot print the findings: {error}; please report this bug"))
        }
    }
}

fn words(place: &Place) -> String {
    let yes = |b: bool| if b { "yes" } else { "no" };
    let mut text = String::new();
    let mut row = |what: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what:<34}{value}");
    };
    row("kernel", &place.kernel);
    row(
        "fork gate (seccomp notification)",
        &match &place.gate.error {
            None => "works (tried in a child)".to_owned(),
            Some(error) => format!("no: {error}"),
        },
    );
    row("  synchronous wake-ups", yes(place.gate.sync_wake_up));
    row("  known to the kernel", yes(place.gate.action_available));
    row(
        "seccomp filters here already",
        &place.seccomp_filters.map_or_else(|| "unknown".to_owned(), |n| n.to_string()),
    );
    row("no_new_privs set already", yes(place.no_new_privs));
    row("CAP_SYS_ADMIN", yes(place.cap_sys_admin));
    row(
        "ptrace scope",
        &match place.ptrace_scope {
            None => "unrestricted (no Yama)".to_owned(),
            Some(0) => "0 (own processes)".to_owned(),
            Some(1) => "1 (descendants)".to_owned(),
            Some(2) => "2 (administrators)".to_owned(),
            Some(n) => format!("{n} (nobody)"),
        },
    );
    row("child subreaper", yes(place.subreaper));
    row("/proc/PID/task/TID/children", yes(place.proc_children));
    row("/proc hides processes", place.hidepid.as_deref().unwrap_or("no"));
    row("pidfd", yes(place.pidfd));
    row(
        "kernel cgroup2",
        &match (&place.cgroup2.mount, place.cgroup2.writable) {
            (None, _) => "not mounted".to_owned(),
            (Some(mount), true) => format!("writable at {mount}"),
            (Some(mount), false) => format!("at {mount}, not delegated to us"),
        },
    );
    let _ = writeln!(
        text,
        "\n`cgrove run` takes the backend {}: {}.",
        place.backend.name(),
        place.backend_reason
    );
    text
}

/// What each backend gives here, and why some cannot be had.
fn table(place: &Place) -> String {
    let mut text = format!("\n{:<9}{:<7}", "backend", "here");
    for (feature, _) in Feature::ALL {
        let _ = write!(text, "{feature:<9}");
    }
    text = text.trim_end().to_owned() + "\n";
    for rung in &place.rungs {
        let here = match rung.works {
            true if rung.backend == place.backend => "taken",
            true => "yes",
            false => "no",
        };
        let mut line = format!("{:<9}{here:<7}", rung.backend.name());
        for (feature, _) in Feature::ALL {
            let class = rung.classes.iter().find(|item| item.feature == feature);
            let _ = write!(line, "{:<9}", class.map_or("-", |item| item.class.name()));
        }
        text += &(line.trim_end().to_owned() + "\n");
    }
    for rung in place.rungs.iter().filter(|rung| !rung.works) {
        let _ = writeln!(text, "no {}: {}", rung.backend.name(), rung.reason);
    }
    text
}

/// What it costs here, and by how much limits are passed.
fn figures(measured: &[Measured]) -> String {
    if measured.is_empty() {
        return String::new();
    }
    let memory = format!("{} MiB of memory", measure::MEMORY_MIB);
    let cpu = format!("{} % of a CPU", measure::CPU_PERCENT);
    let mut text = format!(
        "\n{:<9}{:<10}{:<12}{memory:<17}{cpu:<15}{} tasks\n",
        "measured",
        "start",
        "fork, exec",
        measure::TASKS,
    );
    let or = |it: Option<String>| it.unwrap_or_else(|| "?".to_owned());
    for it in measured {
        let _ = writeln!(
            text,
            "{:<9}{:<10}{:<12}{:<17}{:<15}{}",
            it.backend.name(),
            or(it.start_ms.map(|ms| format!("{ms:+.1} ms"))),
            or(it.fork_ratio.map(|ratio| format!("x{ratio:.2}"))),
            or(it.memory_over_percent.map(|over| format!("{over:+.0} %"))),
            or(it.cpu_over_percent.map(|over| format!("{over:+.0} %"))),
            or(it.tasks_peak.map(|peak| format!("{peak} at once"))),
        );
    }
    text + "(start and fork beside the bare command; the others: by how much the limit was passed)\n"
}
