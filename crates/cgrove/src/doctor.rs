//! `cgrove doctor`: what this place allows, in words or as JSON.

use std::fmt::Write;

use cgrove_host::probe::{self, Place};

use crate::say;

/// Looks around and prints what it found; returns the exit status.
pub fn doctor(json: bool) -> i32 {
    let place = probe::look();
    if !json {
        return say::out(&words(&place));
    }
    match serde_json::to_string(&place) {
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
    for item in &place.classes {
        let _ = writeln!(text, "  {:<6}{}", item.feature, item.class.name());
    }
    text
}
