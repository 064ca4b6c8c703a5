//! `cgrove run`: the report out of a run, and its words for the user.

use std::os::fd::{AsFd, BorrowedFd};

use cgrove_host::FAILED;
use cgrove_host::error::HostError;
use cgrove_host::front;
use cgrove_host::report::{Backend, Reason, Report};

use crate::alarm::Alarm;
use crate::cli::Run;
use crate::events::Scribe;
use crate::json::Sink;
use crate::page::Page;
use crate::watch::Watcher;
use crate::{say, stream};

/// Runs the command; returns what to exit with.
pub fn run(run: &Run, stdout_closed: bool) -> i32 {
    perform(run, stdout_closed, |followers, in_use| front::run(&run.options, followers, in_use))
}

/// Runs the command in a group that is there; returns what to exit with.
pub fn exec(path: &str, run: &Run, closed: [bool; 3]) -> i32 {
    perform(run, closed[1], |followers, in_use| {
        front::exec(path, &run.options, closed, followers, in_use)
    })
}

fn perform(
    run: &Run,
    stdout_closed: bool,
    start: impl FnOnce(&[BorrowedFd<'_>], &[BorrowedFd<'_>]) -> Result<Report, HostError>,
) -> i32 {
    let sink = match run.json.as_deref().map(|path| Sink::open(path, stdout_closed)).transpose() {
        Ok(sink) => sink,
        Err(error) => return say::failed(&error),
    };
    let page = match run.report.as_deref().map(Page::prepare).transpose() {
        Ok(page) => page,
        Err(error) => return say::failed(&error),
    };
    let watcher = match Watcher::start(run) {
        Ok(watcher) => watcher,
        Err(error) => return say::failed(&error),
    };
    let name = &run.options.name;
    let scribe = run.events.as_deref().map(|path| Scribe::start(path, name, stdout_closed));
    let scribe = match scribe.transpose() {
        Ok(scribe) => scribe,
        Err(error) => {
            watcher.into_iter().for_each(Watcher::end);
            return say::failed(&error);
        }
    };
    let alarm = run.on_high.as_deref().map(|command| Alarm::start(command, name));
    let alarm = match alarm.transpose() {
        Ok(alarm) => alarm,
        Err(error) => {
            watcher.into_iter().for_each(Watcher::end);
            scribe.into_iter().for_each(Scribe::end);
            return say::failed(&error);
        }
    };
    let followers = scribe.as_ref().map(AsFd::as_fd).into_iter();
    let followers: Vec<_> = followers.chain(alarm.as_ref().map(AsFd::as_fd)).collect();
    let mut in_use = vec![stream::stderr()];
    in_use.extend_from_slice(&followers);
    in_use.extend(sink.as_ref().map(AsFd::as_fd));
    in_use.extend(watcher.as_ref().map(AsFd::as_fd));
    let outcome = start(&followers, &in_use);
    scribe.into_iter().for_each(Scribe::end);
    alarm.into_iter().for_each(Alarm::end);
    if let Some(watcher) = watcher {
        watcher.end();
    }
    let mut report = match outcome {
        Ok(report) => report,
        Err(error) => return say::failed(&error),
    };
    tell(run, &report);
    let written = page.map_or(Ok(()), |page| page.write(&report));
    if !run.series {
        report.series = None;
    }
    let written = sink.map_or(Ok(()), |sink| sink.write(&report)).and(written);
    match written {
        Err(error) => say::failed(&error),
        Ok(()) => report.exit.status,
    }
}

fn tell(run: &Run, report: &Report) {
    match report.reason {
        Reason::ExecFailed => {
            let errno = report.exec_error.as_deref().unwrap_or("unknown error");
            let why = match errno {
                "ENOENT" => "not found (ENOENT); check its name, PATH and its interpreter",
                "E2BIG" => "arguments and environment are too long (E2BIG); pass less",
                "EACCES" => {
                    "not permitted (EACCES); check its permissions and those of its folders"
                }
                _ => "not executable; check its permissions and format",
            };
            let command = report.command.first().map_or("", String::as_str);
            let more = if why.contains(errno) { String::new() } else { format!(" ({errno})") };
            say::line(&format_args!("cannot run {command}: {why}{more}"));
            return;
        }
        Reason::SupervisorKilled => say::line(
            &"the supervisor was killed: everything it held was killed too; the command's own \
              status is lost, see what sends SIGKILL here",
        ),
        _ => {}
    }
    if run.verbose {
        say::line(&format_args!(
            "backend {}: {}",
            report.backend.map_or("unknown", Backend::name),
            report.backend_reason
        ));
        for survivor in &report.left_behind.processes {
            say::line(&format_args!(
                "left behind: {} {}",
                survivor.pid,
                survivor.cmdline.join(" ")
            ));
        }
        if report.left_behind.truncated {
            let more = report.left_behind.killed - report.left_behind.processes.len() as u64;
            say::line(&format_args!("left behind: {more} more"));
        }
    }
    if !run.quiet {
        say::line(&report.summary());
    }
    debug_assert!(report.reason != Reason::SupervisorKilled || report.exit.status == FAILED);
}
