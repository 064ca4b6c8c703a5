//! The core against what kernels have answered: every committed transcript, step by step.
//!
//! A difference is either a fault or explained. Explanations are data (`differences/*.list`, one file
//! per kernel), name the very step, and must stay true: one that no longer occurs is a fault too. So
//! the lists can only shrink or be argued about.
//!
//! ```text
//! not-built memory.pressure memory.zswap.max
//! defect frozen-counter A dead cgroup counts as frozen.
//!   freezer/frozen-counter-after-rmdir 11
//! on-purpose kill-dead-leader A process whose leader is dead can be killed.
//!   kill/zombie-leader 5 7
//! ```
//!
//! `not-built` names files that cgrove leaves out. Where a kernel lists them, they are not expected;
//! a step on one is not compared, provided that ours says ENOENT.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::case::{Act, Case, Outcome, Step, Text, play};
use crate::model::target::CoreTarget;
use crate::record::{CaseFile, read_folder};
use crate::transcript::{Transcript, print_outcome};

/// Why a difference is none to worry about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Linux is wrong, and says so itself or can be shown to be.
    Defect,
    /// cgrove does otherwise, for a reason.
    OnPurpose,
    /// Linux of this version did otherwise than the one we follow.
    Older,
    /// What the step needs is not built.
    NotBuilt,
}

/// A reason and where it applies.
#[derive(Clone, Debug)]
pub struct Reason {
    /// What kind of reason.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// In words.
    pub words: String,
}

/// The explanations for one kernel.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Files that are not built.
    pub not_built: BTreeSet<String>,
    /// The reasons, in the list's order.
    pub reasons: Vec<Reason>,
    /// Which reason explains which step: `(file/case, number from 1)`.
    places: BTreeMap<(String, usize), usize>,
}

/// A step to which the core gave another answer.
#[derive(Clone, Debug)]
pub struct Difference {
    /// `file/case`.
    pub case: String,
    /// The number of the step, from 1.
    pub number: usize,
    /// The step.
    pub step: Step,
    /// What the kernel said.
    pub kernel: Outcome,
    /// What the core said.
    pub ours: Outcome,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} step {}: {}", self.case, self.number, self.step)?;
        writeln!(f, "    kernel {}", print_outcome(&self.kernel).join("\n           "))?;
        write!(f, "    cgrove {}", print_outcome(&self.ours).join("\n           "))
    }
}

/// What replaying the transcripts of one kernel came to.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// The kernel's release.
    pub kernel: String,
    /// Cases played.
    pub cases: usize,
    /// Steps compared.
    pub steps: usize,
    /// Steps that are not comparable: a file that is not built, or a target that cannot do it.
    pub skipped: usize,
    /// Differences that a reason explains, with its index.
    pub explained: Vec<(usize, Difference)>,
    /// Those that none explains.
    pub unexplained: Vec<Difference>,
    /// Explanations of what does not occur, and other faults of the lists.
    pub stale: Vec<String>,
}

impl std::fmt::Display for Replayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "kernel {}: cases {}, steps {}, on what is not built {}, explained {}, unexplained {}",
            self.kernel,
            self.cases,
            self.steps,
            self.skipped,
            self.explained.len(),
            self.unexplained.len()
        )
    }
}

impl Known {
    /// Reads a list.
    ///
    /// # Errors
    /// The number of the line that makes no sense, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut known = Self::default();
        for (index, line) in text.lines().enumerate() {
            let at = |what: &str| format!("line {}: {what}: {line}", index + 1);
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["not-built", names @ ..] => {
                    known.not_built.extend(names.iter().map(|name| (*name).to_owned()));
                }
                [case, numbers @ ..] if line.starts_with(' ') => {
                    let reason =
                        known.reasons.len().checked_sub(1).ok_or_else(|| at("no reason"))?;
                    if numbers.is_empty() {
                        return Err(at("no step"));
                    }
                    for number in numbers {
                        let number = number.parse().map_err(|_| at("no number"))?;
                        let old = known.places.insert(((*case).to_owned(), number), reason);
                        if old.is_some() {
                            return Err(at("listed twice"));
                        }
                    }
                }
                [kind, name, words @ ..] => {
                    let kind = match *kind {
                        "defect" => Kind::Defect,
                        "on-purpose" => Kind::OnPurpose,
                        "older" => Kind::Older,
                        "lacks" => Kind::NotBuilt,
                        _ => return Err(at("no kind of reason")),
                    };
                    let name = (*name).to_owned();
                    known.reasons.push(Reason { kind, name, words: words.join(" ") });
                }
                _ => return Err(at("neither a reason nor a place")),
            }
        }
        Ok(known)
    }

    fn is_not_built(&self, file: &Text) -> bool {
        file.known()
            .and_then(|name| String::from_utf8(name).ok())
            .is_some_and(|name| self.not_built.contains(&name))
    }

    /// Whether a step is on a file that is not built.
    #[must_use]
    pub fn is_beyond(&self, step: &Step) -> bool {
        let mut step = step.clone();
        let names: Vec<Text> = step.act.texts_mut().into_iter().map(|text| text.clone()).collect();
        names.get(1).is_some_and(|file| self.is_not_built(file))
            && !matches!(step.act, Act::List { .. })
    }

    /// What a kernel said, as far as it can be expected of cgrove.
    #[must_use]
    pub fn expected(&self, step: &Step, outcome: &Outcome) -> Outcome {
        match (&step.act, outcome) {
            (Act::List { .. }, Outcome::Text(text)) => {
                let built = |line: &&str| {
                    line.split(' ').next().is_none_or(|name| !self.not_built.contains(name))
                };
                Outcome::Text(text.split_inclusive('\n').filter(built).collect())
            }
            _ => outcome.clone(),
        }
    }

    /// Whether two outcomes are the same. `None` if they cannot be compared.
    #[must_use]
    pub fn agree(&self, step: &Step, kernel: &Outcome, ours: &Outcome) -> Option<bool> {
        if matches!(kernel, Outcome::Broken(_)) || matches!(ours, Outcome::Broken(_)) {
            return (kernel == ours).then_some(true).or(None);
        }
        if self.is_beyond(step) && *ours == Outcome::Refused("ENOENT".into()) {
            return None;
        }
        Some(self.expected(step, kernel) == *ours)
    }
}

/// Where the crate's data is.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The versions there are transcripts of, newest first.
///
/// # Errors
/// If the folder cannot be read.
pub fn versions() -> Result<Vec<String>, String> {
    let at = folder("transcripts");
    let mut found: Vec<String> = fs::read_dir(&at)
        .map_err(|e| format!("{}: {e}", at.display()))?
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let key = |name: &String| -> Vec<u32> { name.split('.').flat_map(str::parse).collect() };
    found.sort_by_key(|name| std::cmp::Reverse(key(name)));
    Ok(found)
}

/// Reads the list for one kernel.
///
/// # Errors
/// Says which file and line.
pub fn known(version: &str) -> Result<Known, String> {
    let path = folder("differences").join(format!("{version}.list"));
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Known::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads the list for a release: its own, else that of the newest there is.
///
/// # Errors
/// As for [`known`].
pub fn known_of(release: &str) -> Result<Known, String> {
    let version = crate::record::version(release);
    if folder("differences").join(format!("{version}.list")).exists() {
        return known(version);
    }
    known(versions()?.first().ok_or("no transcripts")?)
}

/// Replays all transcripts of one version against the core.
///
/// # Errors
/// What cannot be read.
pub fn replay(version: &str) -> Result<Replayed, String> {
    let files = read_folder(&folder("cases"))?;
    let known = known(version)?;
    let mut out = Replayed::default();
    let mut met = BTreeSet::new();
    for file in &files {
        let path = folder("transcripts").join(version).join(format!("{}.transcript", file.name));
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let transcript =
            Transcript::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        out.kernel.clone_from(&transcript.kernel);
        replay_file(file, &transcript, &known, &mut out, &mut met)?;
    }
    for (place, reason) in &known.places {
        if !met.contains(place) {
            let reason = &known.reasons[*reason].name;
            out.stale.push(format!("{} step {}: {reason} is no longer seen", place.0, place.1));
        }
    }
    Ok(out)
}

fn replay_file(
    file: &CaseFile,
    transcript: &Transcript,
    known: &Known,
    out: &mut Replayed,
    met: &mut BTreeSet<(String, usize)>,
) -> Result<(), String> {
    let mut recorded: BTreeMap<&str, _> =
        transcript.cases.iter().map(|played| (played.name.as_str(), played)).collect();
    for case in &file.cases {
        let name = format!("{}/{}", file.name, case.name);
        let Some(played) = recorded.remove(case.name.as_str()) else {
            out.stale.push(format!("{name} is in no transcript"));
            continue;
        };
        let steps: Vec<Step> = played.steps.iter().map(|(step, _)| step.clone()).collect();
        if steps[..] != case.steps[..steps.len().min(case.steps.len())] {
            out.stale.push(format!("{name} has changed since it was recorded"));
            continue;
        }
        out.cases += 1;
        for (index, (step, (kernel, ours))) in
            steps.iter().zip(play_beside(case, played.steps.iter().map(|(_, o)| o))?).enumerate()
        {
            match known.agree(step, kernel, &ours) {
                None => out.skipped += 1,
                Some(true) => out.steps += 1,
                Some(false) => {
                    out.steps += 1;
                    let number = index + 1;
                    let difference = Difference {
                        case: name.clone(),
                        number,
                        step: step.clone(),
                        kernel: kernel.clone(),
                        ours,
                    };
                    let place = (name.clone(), number);
                    match known.places.get(&place) {
                        Some(reason) => out.explained.push((*reason, difference)),
                        None => out.unexplained.push(difference),
                    }
                    met.insert(place);
                }
            }
        }
    }
    for name in recorded.keys() {
        out.stale.push(format!("{}/{name} is in no file of cases", file.name));
    }
    Ok(())
}

fn play_beside<'a>(
    case: &Case,
    kernel: impl Iterator<Item = &'a Outcome>,
) -> Result<Vec<(&'a Outcome, Outcome)>, String> {
    let mut ours = Vec::new();
    play(&mut CoreTarget::default(), case, |_, _, outcome| ours.push(outcome))?;
    Ok(kernel.zip(ours).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lang::parse_step;

    const LIST: &str = "# words
not-built memory.pressure cgroup.pressure
defect frozen-counter The dead count.
  freezer/a 3 5
older early 6.12 does it early.
  freezer/b 1
";

    #[test]
    fn a_list_names_the_very_steps() {
        let known = Known::parse(LIST).expect("it is well-formed");
        assert_eq!(known.reasons.len(), 2);
        assert_eq!(known.reasons[0].kind, Kind::Defect);
        assert_eq!(known.reasons[1].words, "6.12 does it early.");
        assert_eq!(known.places.get(&("freezer/a".into(), 5)), Some(&0));
        assert_eq!(known.places.get(&("freezer/a".into(), 4)), None);
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        for bad in [
            "  freezer/a 3",
            "defect x y\n  freezer/a",
            "defect x y\n  freezer/a three",
            "defect x y\n  freezer/a 3\n  freezer/a 3",
            "excuse x y",
            "defect",
        ] {
            assert!(Known::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_built_is_neither_listed_nor_compared() {
        let known = Known::parse(LIST).expect("it is well-formed");
        let agree = |step: &str, kernel: Outcome, ours: Outcome| {
            known.agree(&parse_step(step).expect("a step"), &kernel, &ours)
        };
        let text = |text: &str| Outcome::Text(text.into());
        let enoent = || Outcome::Refused("ENOENT".into());
        let listed = text("cgroup.pressure 644\ncgroup.procs 644\n");
        assert_eq!(agree("list a", listed.clone(), text("cgroup.procs 644\n")), Some(true));
        assert_eq!(agree("list a", listed.clone(), listed), Some(false));
        assert_eq!(agree("read a memory.pressure", text("some\n"), enoent()), None);
        assert_eq!(agree("read a memory.pressure", text("some\n"), text("")), Some(false));
        assert_eq!(agree("read a memory.max", text("max\n"), enoent()), Some(false));
        assert_eq!(agree("read a cgroup.events", text("a \n"), text("a\n")), Some(false));
        assert_eq!(agree("mkdir a", Outcome::Done, Outcome::broken("cannot")), None);
    }
}
