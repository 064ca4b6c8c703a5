//! `cgrove run` from outside: real processes, real signals, real terminals.
//!
//! Each test runs in two places, as whoever runs the tests and in a jail as poor as a container
//! gives (`cgrove_testkit::jail`), as nobody. What the machine lacks makes a test ignored, with the
//! reason behind its name.
//!
//!     cargo test -p cgrove --test host -- NAME

mod faults;
mod identity;
mod inputs;
mod kit;
mod limits;
mod odd;
mod outcome;
mod signals;
mod terminal;
mod tools;

use std::process::{Command, ExitCode, Stdio};

use kit::Place;
use libtest_mimic::{Arguments, Trial};

/// The first argument of this program when it is to be the jail.
pub const IN_JAIL: &str = "in-jail";

/// A test: its name, what it needs, and what it does.
pub struct Test {
    name: &'static str,
    /// Programs it needs.
    tools: &'static [&'static str],
    body: fn(Place),
}

/// Lists the tests of a module, with the programs that they need.
macro_rules! tests {
    ($($name:ident $([$($tool:literal),+])?),+ $(,)?) => {
        pub const TESTS: &[crate::Test] = &[
            $(crate::Test {
                name: stringify!($name),
                tools: &[$($($tool),+)?],
                body: $name,
            }),+
        ];
    };
}
use tests;

const MODULES: [(&str, &[Test]); 9] = [
    ("faults", faults::TESTS),
    ("identity", identity::TESTS),
    ("inputs", inputs::TESTS),
    ("limits", limits::TESTS),
    ("odd", odd::TESTS),
    ("outcome", outcome::TESTS),
    ("signals", signals::TESTS),
    ("terminal", terminal::TESTS),
    ("tools", tools::TESTS),
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == IN_JAIL) {
        let rest: Vec<_> = args.collect();
        std::process::exit(cgrove_testkit::jail::main(&rest));
    }
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (module, tests) in MODULES {
        for place in [Place::Here, Place::Jail] {
            trials.extend(tests.iter().map(|test| trial(module, test, place)));
        }
    }
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    kit::kit();
    let conclusion = libtest_mimic::run(&arguments, trials);
    kit::clean_up();
    conclusion.exit_code()
}

fn trial(module: &str, test: &Test, place: Place) -> Trial {
    let body = test.body;
    let name = format!("{}::{module}::{}", place.name(), test.name);
    let trial = Trial::test(name, move || {
        body(place);
        Ok(())
    });
    match test.tools.iter().find(|tool| !exists(tool)) {
        Some(tool) => trial.with_kind(format!("no {tool} here")).with_ignored_flag(true),
        None => trial,
    }
}

/// Whether a program can be started by its name.
fn exists(tool: &str) -> bool {
    let quiet = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    quiet(Command::new(tool).arg("--version"))
}
