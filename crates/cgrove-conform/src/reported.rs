//! Transcripts that somebody sends: the record of a mount (`cgrove mount --record FILE`), played
//! again on the core or on a kernel.
//!
//! Nothing is explained here. Whether a difference is a fault of the core, of the kernel or of the
//! record is for whoever plays it to say.

use std::fmt;

use crate::case::{Case, Outcome, Step, play};
use crate::model::target::CoreTarget;
use crate::replay::Known;
use crate::transcript::{Transcript, print_outcome};

/// A step to which the target gave another answer than the record has.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The case.
    pub case: String,
    /// The number of the step, from 1.
    pub number: usize,
    /// The step.
    pub step: Step,
    /// What the record says; nothing if the record ends before.
    pub recorded: Outcome,
    /// What the target said; nothing if it broke before.
    pub now: Option<Outcome>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} step {}: {}", self.case, self.number, self.step)?;
        writeln!(f, "    recorded {}", print_outcome(&self.recorded).join("\n             "))?;
        match &self.now {
            Some(now) => write!(f, "    now      {}", print_outcome(now).join("\n             ")),
            None => write!(f, "    now      nothing: the case went no further"),
        }
    }
}

/// What playing a record came to.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Steps compared.
    pub steps: usize,
    /// Those that were answered otherwise.
    pub differences: Vec<Difference>,
}

/// The cases of a transcript, to be played again.
#[must_use]
pub fn cases(transcript: &Transcript) -> Vec<Case> {
    let case = |played: &crate::transcript::Played| Case {
        name: played.name.clone(),
        steps: played.steps.iter().map(|(step, _)| step.clone()).collect(),
        ..Case::default()
    };
    transcript.cases.iter().map(case).collect()
}

/// What the core says to the cases of a transcript.
///
/// # Errors
/// What [`play`] says.
pub fn on_core(transcript: &Transcript) -> Result<Vec<Vec<Outcome>>, String> {
    let on_core = |case: &Case| {
        let mut outcomes = Vec::new();
        play(&mut CoreTarget::default(), case, |_, _, outcome| outcomes.push(outcome))?;
        Ok(outcomes)
    };
    cases(transcript).iter().map(on_core).collect()
}

/// Holds what was answered now against what was recorded.
#[must_use]
pub fn compare(transcript: &Transcript, now: &[Vec<Outcome>]) -> Compared {
    let mut compared = Compared::default();
    let known = Known::default();
    for (index, played) in transcript.cases.iter().enumerate() {
        let now = now.get(index).map(Vec::as_slice).unwrap_or_default();
        for (number, (step, recorded)) in played.steps.iter().enumerate() {
            compared.steps += 1;
            let now = now.get(number);
            // What a target cannot do is a difference too: the record would not be worth much.
            if now.is_some_and(|now| known.agree(step, recorded, now) == Some(true)) {
                continue;
            }
            compared.differences.push(Difference {
                case: played.name.clone(),
                number: number + 1,
                step: step.clone(),
                recorded: recorded.clone(),
                now: now.cloned(),
            });
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "kernel cgrove-mount 0.1.0

case recorded
  # this mount has no controllers: what names them is left out
  mkdir a
    = ok
  spawn p1
    = ok
  write a cgroup.procs \"$p1\\n\"
    = ok
  # read a cpu.stat (| usage_usec 0): not played, it is the machine's
  read a cgroup.procs
    | $p1
  rmdir a
    = EBUSY
  exit p1
    = ok
  rmdir a
    = ok
";

    fn differences(record: &str) -> Vec<String> {
        let transcript = Transcript::parse(record).expect("it is well-formed");
        let compared = compare(&transcript, &on_core(&transcript).expect("it is played"));
        assert_eq!(compared.steps, 7);
        compared.differences.iter().map(Difference::to_string).collect()
    }

    #[test]
    fn a_right_record_agrees_and_a_wrong_one_does_not() {
        assert_eq!(differences(RECORD), [""; 0]);
        let wrong = differences(&RECORD.replace("= EBUSY", "= EPERM"));
        assert_eq!(wrong, ["recorded step 5: rmdir a\n    recorded = EPERM\n    now      = EBUSY"]);
    }
}
