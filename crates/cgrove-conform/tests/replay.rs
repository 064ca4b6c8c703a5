//! The core and its files against every committed transcript.

use std::io::Write;

use cgrove_conform::replay::{replay, versions};

#[test]
fn the_core_answers_as_linux_did() {
    let versions = versions().expect("there are transcripts");
    assert!(versions.len() >= 2, "a newest kernel and an older one: {versions:?}");
    let mut faults = 0;
    for version in versions {
        let done = replay(&version).unwrap_or_else(|e| panic!("{e}"));
        for difference in &done.unexplained {
            eprintln!("{difference}");
        }
        for stale in &done.stale {
            eprintln!("{stale}");
        }
        // Not by the macro: the counts are to be seen when all is well too.
        let _ = writeln!(std::io::stderr(), "{done}");
        assert!(done.cases >= 300 && done.steps >= 3000, "the transcripts have shrunk");
        faults += done.unexplained.len() + done.stale.len();
    }
    assert_eq!(faults, 0, "see above");
}
