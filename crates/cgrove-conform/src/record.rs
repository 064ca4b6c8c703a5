//! Recording: every case file of the crate, played on a kernel, becomes a transcript.

use std::fs;
use std::path::{Path, PathBuf};

use crate::case::{Case, Outcome};
use crate::lang;
use crate::transcript::{Played, Transcript};
use crate::vm::machine::{Lab, Verdict};

/// A file of cases.
#[derive(Clone, Debug)]
pub struct CaseFile {
    /// Its name without the ending.
    pub name: String,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// Reads one file of cases.
///
/// # Errors
///
/// Says which file and line.
pub fn read_file(path: &Path) -> Result<CaseFile, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let cases = lang::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(CaseFile { name, cases })
}

/// Reads all files of cases of a folder, by name.
///
/// # Errors
///
/// Says which file and line.
pub fn read_folder(folder: &Path) -> Result<Vec<CaseFile>, String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "case"))
        .collect();
    paths.sort();
    paths.iter().map(|path| read_file(path)).collect()
}

/// What a recording came to.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Cases played.
    pub cases: usize,
    /// Steps played.
    pub steps: usize,
    /// Cases that hung or broke the machine, and why.
    pub trouble: Vec<String>,
}

/// Plays all cases of some files and gives the transcripts in the files' order.
///
/// # Errors
///
/// If there is no machine any more.
pub fn record(
    lab: &mut Lab,
    files: &[CaseFile],
) -> Result<(Vec<Transcript>, Recorded), crate::vm::VmError> {
    let mut recorded = Recorded::default();
    let mut played: Vec<Played> = Vec::new();
    let all = files.iter().flat_map(|file| &file.cases);
    lab.play(all, |case, mut outcomes, verdict| {
        recorded.cases += 1;
        recorded.steps += outcomes.len();
        match verdict {
            Verdict::Played => {}
            Verdict::Hung => recorded.trouble.push(format!("{}: hung", case.name)),
            Verdict::Broken(why) => {
                recorded.trouble.push(format!("{}: {why}", case.name));
                if outcomes.len() < case.steps.len() {
                    outcomes.push(Outcome::Broken(why));
                }
            }
        }
        for (step, outcome) in case.steps.iter().zip(&outcomes) {
            if let Outcome::Broken(why) = outcome {
                recorded.trouble.push(format!("{}: {step}: {why}", case.name));
            }
        }
        played.push(Played::new(case, outcomes));
    })?;
    let mut rest = played.into_iter();
    let transcripts = files
        .iter()
        .map(|file| Transcript {
            kernel: lab.release().to_owned(),
            cases: rest.by_ref().take(file.cases.len()).collect(),
        })
        .collect();
    Ok((transcripts, recorded))
}

/// The name of a release's folder: its version without what a distribution adds.
#[must_use]
pub fn version(release: &str) -> &str {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
    &release[..end]
}
