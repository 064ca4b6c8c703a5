//! The command `cgrove`: `run` a command tree under limits, `doctor` to see what a place allows.
//!
//! `main` is the C one: Rust's runtime would set SIGPIPE to "ignore", which the command would
//! inherit, and would open `/dev/null` on closed standard streams so that they look open to it.
#![cfg_attr(not(test), no_main)]
// The test harness brings a `main` of its own, so nothing calls ours there.
#![cfg_attr(test, allow(dead_code))]
#![deny(unsafe_code)]

mod alarm;
mod beside;
mod cli;
mod doctor;
mod events;
mod group;
mod json;
mod live;
mod manual;
mod mount;
mod page;
mod run;
mod say;
mod stream;
mod sys;
mod top;
mod watch;

use std::ffi::OsString;

use cgrove_host::FAILED;

/// The program, given its arguments; returns the exit status.
fn cgrove(args: Vec<OsString>) -> i32 {
    let closed = match cgrove_host::stdio::fill_closed() {
        Ok(closed) => closed,
        Err(error) => return say::failed(&error),
    };
    match cli::parse(args) {
        Ok(cli::Command::Run(run)) => run::run(&run, closed[1]),
        Ok(cli::Command::Doctor { json, quick }) => doctor::doctor(json, quick),
        Ok(cli::Command::DoctorLoad { what, amount }) => doctor::measure::load(&what, amount),
        Ok(cli::Command::Group(what)) => group::group(what, closed),
        Ok(cli::Command::Events { path, json }) => events::follow(&path, json),
        Ok(cli::Command::Live(what)) => live::live(what),
        Ok(cli::Command::Mount(what)) => mount::mount(&what),
        Ok(cli::Command::Top(what)) => top::top(&what),
        Ok(cli::Command::Manual { dir, pages }) => manual::write(&dir, &pages),
        Err(cli::Stop::Text(text)) => say::out(&text),
        Err(cli::Stop::Misuse(line)) => {
            say::line(&line);
            FAILED
        }
    }
}
