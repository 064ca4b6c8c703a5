//! The mount from outside, by real system calls.
//!
//! Each test is a process of its own, in one or more places: as root, who mounts by himself and for
//! all users (`root`), as a plain user through fusermount3 (`user`), as root of a user namespace
//! (`namespace`). Most also run without any of this in the kernel's own cgroup2 (`kernel`): what they
//! ask for is what Linux does. What the machine lacks makes a test ignored, with the reason
//! behind its name. A test that hangs is killed, and its mount goes with it.
//!
//!     cargo test -p cgrove-fuse --test mount -- NAME

mod act;
mod beside;
mod ends;
mod files;
mod kit;
mod lively;
mod odd;
mod others;
mod polling;

use std::process::ExitCode;

use kit::Place;
use libtest_mimic::{Arguments, Trial};

/// A test: its name, where it makes sense, and what it does there.
pub struct Test {
    name: &'static str,
    places: &'static [Place],
    body: fn(Place),
}

/// Lists the tests of a module, by their places.
macro_rules! tests {
    ($($places:expr => $($name:ident),+;)+) => {
        pub const TESTS: &[crate::Test] = &[
            $($(crate::Test { name: stringify!($name), places: $places, body: $name }),+),+
        ];
    };
}
use tests;

const MODULES: &[(&str, &[Test])] = &[
    ("beside", beside::TESTS),
    ("ends", ends::TESTS),
    ("files", files::TESTS),
    ("odd", odd::TESTS),
    ("others", others::TESTS),
    ("polling", polling::TESTS),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["act", ref act @ ..] => return act::main(act),
        ["serve", directory] => return ends::serve(directory, false),
        ["serve", directory, "busy"] => return ends::serve(directory, true),
        ["inside", place, name] => {
            let place = Place::of(place);
            place.enter();
            if name == "probe" {
                return kit::probe(place);
            }
            let (module, name) = name.split_once("::").expect("a test's name");
            let (_, tests) = MODULES.iter().find(|(known, _)| *known == module).expect("a module");
            let test = tests.iter().find(|test| test.name == name).expect("a test");
            (test.body)(place);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let arguments = Arguments::from_args();
    let lacks = Place::ALL.map(|place| (place, kit::lack(place)));
    let mut trials = Vec::new();
    for (place, lack) in &lacks {
        for (module, tests) in MODULES {
            for test in tests.iter().filter(|test| test.places.contains(place)) {
                let (place, inner) = (*place, format!("{module}::{}", test.name));
                let name = format!("{}::{inner}", place.name());
                let trial = Trial::test(name, move || Ok(kit::run_inside(place, &inner)?));
                trials.push(match lack {
                    Some(why) => trial.with_kind(why.clone()).with_ignored_flag(true),
                    None => trial,
                });
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    kit::clean_up();
    conclusion.exit_code()
}
