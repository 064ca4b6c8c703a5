//! Random comparison: thousands of sequences on a kernel and on the core, step by step.
//!
//! `generate` draws them from a seed. A disagreement is played again, to be sure of it, then made
//! as small as it gets and printed as a case that can be kept.

mod as_others;
mod bounds;
mod generate;
mod on_cgroups;
mod on_tasks;
mod themes;
mod values;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::case::{Case, Outcome, Target, play};
use crate::model::target::CoreTarget;
use crate::replay::Known;
use crate::transcript::print_outcome;
use crate::vm::VmError;
use crate::vm::machine::{Lab, Verdict};
use crate::wire::print_case;

pub use bounds::taints;
pub use generate::sequence;

/// How many sequences are drawn before they are played.
const CHUNK: u64 = 256;
/// How often a disagreement is played again, and must come back each time, before it counts.
const AGAIN: usize = 3;
/// How long the search for a smaller case may take.
const SHRINK: Duration = Duration::from_secs(120);
/// How many disagreements are made small. One fault shows in many sequences.
const WORTHWHILE: usize = 12;

/// What a comparison came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sequences compared.
    pub sequences: u64,
    /// Steps compared.
    pub steps: u64,
    /// Sequences that kernel and core answered differently whenever they were asked.
    pub disagreements: u64,
    /// Sequences that were answered differently and then alike: chance in the kernel.
    pub unsteady: u64,
}

/// Where two targets part.
#[derive(Clone, Debug)]
struct Parting {
    /// The step, from 0; past the last one if it is the cleaning up.
    index: usize,
    kernel: Outcome,
    ours: Outcome,
}

fn on_core(case: &Case) -> Result<Vec<Outcome>, String> {
    let mut ours = Vec::new();
    play(&mut CoreTarget::default(), case, |_, _, outcome| ours.push(outcome))?;
    Ok(ours)
}

fn compare(
    case: &Case,
    kernel: &[Outcome],
    verdict: &Verdict,
    known: &Known,
) -> Result<Option<Parting>, String> {
    let ours = on_core(case)?;
    for (index, step) in case.steps.iter().enumerate() {
        let (Some(kernel), Some(ours)) = (kernel.get(index), ours.get(index)) else { break };
        let broken = |outcome: &Outcome| matches!(outcome, Outcome::Broken(_));
        let same = match (broken(kernel), broken(ours)) {
            (true, true) => true,
            (false, false) => known.agree(step, kernel, ours) != Some(false),
            _ => false,
        };
        if !same {
            return Ok(Some(Parting { index, kernel: kernel.clone(), ours: ours.clone() }));
        }
    }
    Ok(match verdict {
        Verdict::Broken(why) => Some(Parting {
            index: case.steps.len(),
            kernel: Outcome::broken(why),
            ours: Outcome::Done,
        }),
        Verdict::Played | Verdict::Hung => None,
    })
}

/// Plays one case on the kernel and compares.
fn ask(lab: &mut Lab, case: &Case, known: &Known) -> Result<Option<Parting>, String> {
    let mut parting = Ok(None);
    lab.play([case], |case, outcomes, verdict| parting = compare(case, &outcomes, &verdict, known))
        .map_err(|e: VmError| e.to_string())?;
    parting
}

/// Whether a case asks for what is known to differ, or may hang the kernel's first process.
fn is_out_of_bounds(case: &Case) -> bool {
    let mut target = CoreTarget::default();
    if target.begin_case(case).is_err() {
        return true;
    }
    case.steps
        .iter()
        .any(|step| taints(&target, step) || matches!(target.step(step), Outcome::Hung))
}

/// Leaves out steps as long as kernel and core still part.
fn shrink(lab: &mut Lab, case: &Case, known: &Known) -> Result<Case, String> {
    let until = Instant::now() + SHRINK;
    let mut best = case.clone();
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 && Instant::now() < until {
        let mut at = 0;
        let mut smaller = false;
        while at < best.steps.len() && Instant::now() < until {
            let mut candidate = best.clone();
            candidate.steps.drain(at..(at + size).min(best.steps.len()));
            if !is_out_of_bounds(&candidate)
                && let Some(parting) = ask(lab, &candidate, known)?
            {
                // What comes after does not matter.
                candidate.steps.truncate(parting.index + 1);
                best = candidate;
                smaller = true;
            } else {
                at += size;
            }
        }
        if !smaller {
            size /= 2;
        }
    }
    Ok(best)
}

/// A case with where kernel and core part, as text that can be kept.
fn show(case: &Case, parting: &Parting) -> String {
    let mut out = print_case(case);
    let step = case.steps.get(parting.index).map_or("cleaning up".to_owned(), ToString::to_string);
    let _ = writeln!(out, "# step {}: {step}", parting.index + 1);
    for (who, outcome) in [("kernel", &parting.kernel), ("cgrove", &parting.ours)] {
        for line in print_outcome(outcome) {
            let _ = writeln!(out, "#   {who} {line}");
        }
    }
    out
}

/// Compares so many sequences of a seed; `say` is told of each disagreement.
///
/// # Errors
/// If there is no machine any more.
pub fn run(
    lab: &mut Lab,
    known: &Known,
    seed: u64,
    sequences: u64,
    mut say: impl FnMut(&str),
) -> Result<Totals, String> {
    let mut totals = Totals::default();
    let mut next = 0;
    while next < sequences {
        let end = (next + CHUNK).min(sequences);
        let cases: Vec<Case> = (next..end).map(|number| sequence(seed, number)).collect();
        next = end;
        let mut parted = Vec::new();
        let mut fault = None;
        lab.play(&cases, |case, outcomes, verdict| {
            totals.sequences += 1;
            totals.steps += outcomes.len() as u64;
            match compare(case, &outcomes, &verdict, known) {
                Ok(None) => {}
                Ok(Some(parting)) => parted.push((case, parting)),
                Err(e) => fault = Some(e),
            }
        })
        .map_err(|e| e.to_string())?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        for (case, first) in parted {
            let mut again = None;
            for _ in 0..AGAIN {
                again = ask(lab, case, known)?;
                if again.is_none() {
                    break;
                }
            }
            if again.is_none() {
                totals.unsteady += 1;
                say(&format!("# not again:\n{}", show(case, &first)));
                continue;
            }
            totals.disagreements += 1;
            if totals.disagreements > WORTHWHILE as u64 {
                continue;
            }
            let small = shrink(lab, case, known)?;
            match ask(lab, &small, known)? {
                Some(parting) => say(&show(&small, &parting)),
                None => say(&show(case, &first)),
            }
        }
        if next.is_multiple_of(16 * CHUNK) {
            say(&format!("# {next} of {sequences}"));
        }
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_depends_on_its_number_alone() {
        for number in 0..40 {
            assert_eq!(sequence(7, number), sequence(7, number));
        }
        assert_ne!(sequence(7, 1).steps, sequence(8, 1).steps);
    }

    #[test]
    fn sequences_are_of_some_length_and_stay_in_bounds() {
        let mut steps = 0;
        for number in 0..300 {
            let case = sequence(1, number);
            assert!(!is_out_of_bounds(&case), "{}", print_case(&case));
            steps += case.steps.len();
        }
        assert!(steps >= 300 * 20, "{steps} steps in 300 sequences");
    }

    #[test]
    fn sequences_reach_every_kind_of_step_and_most_are_not_refused() {
        let mut seen = std::collections::BTreeSet::new();
        let (mut refused, mut all) = (0, 0);
        for number in 0..1500 {
            let case = sequence(3, number);
            for (step, outcome) in case.steps.iter().zip(on_core(&case).expect("it can be played"))
            {
                seen.insert(step.act.to_string().split(' ').next().unwrap_or_default().to_owned());
                refused += usize::from(matches!(outcome, Outcome::Refused(_)));
                assert!(!matches!(outcome, Outcome::Hung), "{}", print_case(&case));
                all += 1;
            }
        }
        for kind in [
            "mkdir",
            "rmdir",
            "write",
            "read",
            "list",
            "spawn",
            "thread",
            "exit",
            "exit-thread",
            "finish-exit",
            "kill",
            "reap",
            "state",
            "cgroup",
            "responds",
            "exec",
            "chown",
            "chmod",
            "unshare",
            "open",
            "read-handle",
            "answer",
            "wait-for",
        ] {
            assert!(seen.contains(kind), "no sequence has {kind}: {seen:?}");
        }
        assert!(refused * 2 < all, "{refused} of {all} refused");
    }
}
