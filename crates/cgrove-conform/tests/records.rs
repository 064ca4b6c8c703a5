//! The committed cases and transcripts hang together: what was asked is what is answered.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cgrove_conform::case::{Outcome, Step};
use cgrove_conform::record::{self, CaseFile};
use cgrove_conform::transcript::Transcript;

fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> Vec<CaseFile> {
    record::read_folder(&crate_folder().join("cases")).expect("cases are well-formed")
}

fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = fs::read_dir(crate_folder().join("transcripts"))
        .expect("there are transcripts")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    folders
}

fn transcript(folder: &Path, name: &str) -> (String, Transcript) {
    let path = folder.join(format!("{name}.transcript"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parsed = Transcript::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (text, parsed)
}

/// The outcome of a case's last step, on the kernel whose version begins so.
fn last(version: &str, file: &str, case: &str) -> (Step, Outcome) {
    let folder = folders()
        .into_iter()
        .find(|folder| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(version))
        })
        .unwrap_or_else(|| panic!("no transcripts of {version}"));
    let (_, transcript) = transcript(&folder, file);
    let played = transcript.cases.into_iter().find(|played| played.name == case);
    played.expect("the case was played").steps.pop().expect("it has steps")
}

#[test]
fn every_case_has_an_answer_from_every_kernel() {
    let files = cases();
    let steps: usize = files.iter().flat_map(|file| &file.cases).map(|case| case.steps.len()).sum();
    let count: usize = files.iter().map(|file| file.cases.len()).sum();
    assert!(count >= 300, "{count} cases");
    let mut kernels = BTreeSet::new();
    for folder in folders() {
        for file in &files {
            let (_, transcript) = transcript(&folder, &file.name);
            assert_eq!(
                folder.file_name().map(|name| name.to_string_lossy().into_owned()).as_deref(),
                Some(record::version(&transcript.kernel))
            );
            kernels.insert(transcript.kernel.clone());
            let asked: Vec<(&str, Vec<&Step>)> = file
                .cases
                .iter()
                .map(|case| (case.name.as_str(), case.steps.iter().collect()))
                .collect();
            let answered: Vec<(&str, Vec<&Step>)> = transcript
                .cases
                .iter()
                .map(|played| {
                    (played.name.as_str(), played.steps.iter().map(|(step, _)| step).collect())
                })
                .collect();
            assert_eq!(asked, answered, "{} of {}: record again", file.name, folder.display());
        }
    }
    assert!(kernels.len() >= 2, "{kernels:?}");
    println!("cases {count}, steps {steps}, kernels {kernels:?}");
}

#[test]
fn transcripts_survive_reading_and_printing() {
    for folder in folders() {
        for file in cases() {
            let (text, parsed) = transcript(&folder, &file.name);
            assert_eq!(parsed.print(), text, "{} of {}", file.name, folder.display());
        }
    }
}

#[test]
fn no_answer_is_a_fault_of_the_harness() {
    for folder in folders() {
        for file in cases() {
            for played in transcript(&folder, &file.name).1.cases {
                for (step, outcome) in played.steps {
                    assert!(
                        !matches!(outcome, Outcome::Broken(_) | Outcome::Hung),
                        "{}, {}: {step}: {outcome:?}",
                        folder.display(),
                        played.name
                    );
                }
            }
        }
    }
}

#[test]
fn defects_are_listed() {
    let page = fs::read_to_string(crate_folder().join("../../ARCHITECTURE.md"))
        .expect("the page is there");
    let anchors: BTreeSet<String> =
        cases().into_iter().flat_map(|file| file.cases).filter_map(|case| case.defect).collect();
    assert!(!anchors.is_empty());
    for anchor in anchors {
        assert!(page.contains(&format!("| `{anchor}` |")), "{anchor} is not in the table");
    }
}

/// A frozen cgroup that was removed under a task on its way out, and every later freeze of its
/// parent: 7.2 counts the dead cgroup, 6.12 does not.
#[test]
fn the_frozen_counter_is_wrong_in_7_2_and_right_in_6_12() {
    for case in ["frozen-counter-after-rmdir", "frozen-counter-by-racing"] {
        assert_eq!(last("7.2.", "freezer", case).1, Outcome::said("timeout 0"), "{case}");
        assert_eq!(last("6.12.", "freezer", case).1, Outcome::Done, "{case}");
    }
}
