//! Known-wrong protocols, each in a process of its own.
//!
//! A protocol broken half-way through may panic while it unwinds, which ends
//! the process. So a test that must catch mutants starts its own binary again,
//! once per mutant, and expects that to fail.

use cgrove_core::Mutant;
use std::process::Command;

/// Names the mutant that a child process runs with.
const CHOICE: &str = "CGROVE_MUTANT";

/// In such a child: the mutant that it is to run with, one of `mutants`.
pub fn chosen(mutants: &[Mutant]) -> Option<Mutant> {
    let name = std::env::var(CHOICE).ok()?;
    let mutant = mutants.iter().find(|mutant| format!("{mutant:?}") == name);
    Some(*mutant.expect("a mutant of this test"))
}

/// Runs `test`, by its full name, with each mutant, and says why it failed.
pub fn catch(test: &str, mutants: &[Mutant]) {
    for mutant in mutants {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHOICE, format!("{mutant:?}"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(!child.status.success(), "mutant {mutant:?} was not caught");
        // Where a failure is shrunk there are many panics, and the last is that of
        // the shortest; but one while unwinding only says that there was another.
        let panics = said.split("panicked at").skip(1).filter_map(|text| text.lines().nth(1));
        let why = panics.filter(|why| !why.contains("destructor")).last();
        let why = why.expect("a panic says why");
        println!("mutant {mutant:?}: caught: {why}");
    }
}
