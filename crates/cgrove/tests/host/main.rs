//! `cgrove run` from outside: real processes, real signals, real terminals.
//!
//! Each test runs in two places, as whoever runs the tests and in a jail as poor as a container
//! gives (`cgrove_testkit::jail`), as nobody; and those that have to do with forks in a third, where
//! they ask by ptrace. What the machine lacks makes a test ignored, with the
//! reason behind its name.
//!
//!     cargo test -p cgrove --test host -- NAME

mod clients;
mod cpu;
mod events;
mod faults;
mod freeze;
mod groups;
mod identity;
mod inputs;
mod kernel;
mod kit;
mod limits;
mod live;
mod memory;
mod mounting;
mod odd;
mod outcome;
mod parent;
mod python;
mod recording;
mod rounds;
mod seeing;
mod signals;
mod terminal;
mod tools;
mod watching;

use std::process::{Command, ExitCode, Stdio};

use kit::Place;
use libtest_mimic::{Arguments, Trial};

/// The first argument of this program when it is to be the jail.
pub const IN_JAIL: &str = "in-jail";

/// A test: its name, what it needs, and what it does.
pub struct Test {
    name: &'static str,
    /// What it needs: programs, and the two below.
    needs: &'static [&'static str],
    body: fn(Place),
}

/// A compiler that links the leak sanitizer.
pub const LEAK_SANITIZER: &str = "leak sanitizer";
/// Few enough pids for all of them to be used up in a test.
pub const SMALL_PID_MAX: &str = "small pid_max";

/// The rights of root: some processes are to be another user's.
pub const SUPERUSER: &str = "superuser";
/// A cgroup2 mount in which this process may make cgroups, and hand them to others.
pub const OWN_CGROUP: &str = "cgroup2 that groups can be made in";

/// The right to make a pid namespace, and a mount namespace with a `/proc` for it.
pub const PID_NAMESPACE: &str = "right to make a pid namespace";

/// A tree that nobody traces: not to be had where forks ask by ptrace.
pub const UNTRACED: &str = "untraced tree";
/// `/dev/fuse`, and the right to mount it or `fusermount3`.
pub const MOUNTING: &str = "right to mount";

/// Lists the tests of a module, with what they need.
macro_rules! tests {
    ($($name:ident $([$($need:expr),+])?),+ $(,)?) => {
        pub const TESTS: &[crate::Test] = &[
            $(crate::Test {
                name: stringify!($name),
                needs: &[$($($need),+)?],
                body: $name,
            }),+
        ];
    };
}
use tests;

const MODULES: &[(&str, &[Test])] = &[
    ("clients", clients::TESTS),
    ("cpu", cpu::TESTS),
    ("events", events::TESTS),
    ("faults", faults::TESTS),
    ("freeze", freeze::TESTS),
    ("groups", groups::TESTS),
    ("identity", identity::TESTS),
    ("inputs", inputs::TESTS),
    ("kernel", kernel::TESTS),
    ("limits", limits::TESTS),
    ("live", live::TESTS),
    ("memory", memory::TESTS),
    ("mounting", mounting::TESTS),
    ("odd", odd::TESTS),
    ("outcome", outcome::TESTS),
    ("parent", parent::TESTS),
    ("python", python::TESTS),
    ("recording", recording::TESTS),
    ("rounds", rounds::TESTS),
    ("seeing", seeing::TESTS),
    ("signals", signals::TESTS),
    ("terminal", terminal::TESTS),
    ("tools", tools::TESTS),
    ("watching", watching::TESTS),
];

/// Modules that have nothing to do with how forks ask.
const OF_ITS_OWN: &[&str] = &[
    "clients",
    "events",
    "inputs",
    "kernel",
    "live",
    "mounting",
    "parent",
    "python",
    "recording",
    "seeing",
    "tools",
    "watching",
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
        for place in [Place::Here, Place::Jail, Place::Traced] {
            let there = |test: &&Test| {
                place != Place::Traced
                    || (!OF_ITS_OWN.contains(module) && !test.needs.contains(&UNTRACED))
            };
            trials.extend(tests.iter().filter(there).map(|test| trial(module, test, place)));
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
    match test.needs.iter().find(|need| !is_here(need)) {
        Some(need) => trial.with_kind(format!("no {need} here")).with_ignored_flag(true),
        None => trial,
    }
}

fn is_here(need: &str) -> bool {
    match need {
        UNTRACED => true,
        LEAK_SANITIZER => {
            let Ok(folder) = tempfile::tempdir() else { return false };
            let source = "int main(void) { return 0; }";
            let flags = ["-fsanitize=leak"];
            cgrove_testkit::acts::compile_source(folder.path(), "probe", source, &flags).is_ok()
        }
        SMALL_PID_MAX => std::fs::read_to_string("/proc/sys/kernel/pid_max")
            .is_ok_and(|text| text.trim().parse().is_ok_and(|max: u32| max <= 70_000)),
        SUPERUSER => nix::unistd::geteuid().is_root(),
        OWN_CGROUP => {
            nix::unistd::geteuid().is_root() && cgrove_host::kernel::Place::find().is_ok()
        }
        PID_NAMESPACE => {
            let script = "mount -t proc proc /proc";
            let mut command = Command::new("unshare");
            command.args(["-mpf", "sh", "-c", script]).stdin(Stdio::null());
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        }
        MOUNTING => mounting::is_possible(),
        tool => {
            let mut command = Command::new(tool);
            command.arg("--version").stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        }
    }
}
