//! What a target answered, as text that can be committed, compared and replayed.
//!
//! ```text
//! kernel 7.2.13+deb14-cloud-amd64
//!
//! case rmdir-busy
//!   mkdir a
//!     = ok
//!   read a cgroup.events
//!     | populated 1
//!     | frozen 0
//!   rmdir a
//!     = EBUSY
//! ```
//!
//! `=` is followed by `ok`, an errno's name or a word, `|` by a line of text, `!` by what the target
//! could not do. `~` is `|` for a last line without a newline, and `= empty` is an empty text. A line
//! that begins with `#`, after two spaces or none, is a comment.

use std::fmt::Write as _;

use crate::case::{Case, Outcome, Step};
use crate::lang;

/// All that one target answered to the cases of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Release of the kernel.
    pub kernel: String,
    /// The cases, in the file's order.
    pub cases: Vec<Played>,
}

/// A case with what came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// The case's name.
    pub name: String,
    /// Each step and its outcome. Shorter than the case if the target broke.
    pub steps: Vec<(Step, Outcome)>,
}

impl Played {
    /// Puts a case and its outcomes side by side.
    #[must_use]
    pub fn new(case: &Case, outcomes: Vec<Outcome>) -> Self {
        Self { name: case.name.clone(), steps: case.steps.iter().cloned().zip(outcomes).collect() }
    }
}

impl Transcript {
    /// The text form.
    #[must_use]
    pub fn print(&self) -> String {
        let mut out = format!("kernel {}\n", self.kernel);
        for case in &self.cases {
            let _ = write!(out, "\ncase {}\n", case.name);
            for (step, outcome) in &case.steps {
                let _ = writeln!(out, "  {step}");
                for line in print_outcome(outcome) {
                    let _ = writeln!(out, "    {line}");
                }
            }
        }
        out
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// The number of the line that makes no sense, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        let mut open: Option<(Step, Vec<&str>)> = None;
        for (index, line) in text.lines().enumerate() {
            let at = |what: String| format!("line {}: {what}", index + 1);
            if let Some(outcome) = line.strip_prefix("    ") {
                let (_, lines) =
                    open.as_mut().ok_or_else(|| at("an outcome without a step".into()))?;
                lines.push(outcome);
                continue;
            }
            close(&mut out, open.take()).map_err(at)?;
            if line.trim_start().starts_with('#') {
                continue;
            }
            if let Some(step) = line.strip_prefix("  ") {
                open = Some((lang::parse_step(step).map_err(at)?, Vec::new()));
            } else if let Some(name) = line.strip_prefix("case ") {
                out.cases.push(Played { name: name.to_owned(), steps: Vec::new() });
            } else if let Some(kernel) = line.strip_prefix("kernel ") {
                kernel.clone_into(&mut out.kernel);
            } else if !line.is_empty() {
                return Err(at("neither case, step nor outcome".into()));
            }
        }
        close(&mut out, open).map_err(|what| format!("at the end: {what}"))?;
        Ok(out)
    }
}

fn close(out: &mut Transcript, open: Option<(Step, Vec<&str>)>) -> Result<(), String> {
    if let Some((step, lines)) = open {
        let outcome = parse_outcome(&lines)?;
        let case = out.cases.last_mut().ok_or("a step before the first case")?;
        case.steps.push((step, outcome));
    }
    Ok(())
}

/// The lines of an outcome.
#[must_use]
pub fn print_outcome(outcome: &Outcome) -> Vec<String> {
    match outcome {
        Outcome::Done => vec!["= ok".into()],
        Outcome::Refused(name) => vec![format!("= {name}")],
        Outcome::Said(word) => vec![format!("= {}", lang::escape(word))],
        Outcome::Blocked => vec!["= blocked".into()],
        Outcome::Hung => vec!["= hung".into()],
        Outcome::Broken(why) => vec![format!("! {}", lang::escape(why))],
        Outcome::Text(text) if text.is_empty() => vec!["= empty".into()],
        Outcome::Text(text) => {
            let whole = text.ends_with('\n');
            let body = text.strip_suffix('\n').unwrap_or(text);
            let mut lines: Vec<String> = body
                .split('\n')
                .map(|line| format!("| {}", lang::escape(line)).trim_end().to_owned())
                .collect();
            if let (false, Some(last)) = (whole, lines.last_mut()) {
                last.replace_range(..1, "~");
            }
            lines
        }
    }
}

/// Reads what [`print_outcome`] wrote.
///
/// # Errors
///
/// What is malformed.
pub fn parse_outcome(lines: &[&str]) -> Result<Outcome, String> {
    let first = *lines.first().ok_or("a step without an outcome")?;
    if let Some(word) = first.strip_prefix("= ") {
        if lines.len() > 1 {
            return Err("more than one outcome".into());
        }
        return Ok(match word {
            "ok" => Outcome::Done,
            "empty" => Outcome::Text(String::new()),
            "blocked" => Outcome::Blocked,
            "hung" => Outcome::Hung,
            word if word.starts_with('E') => Outcome::Refused(word.to_owned()),
            word => Outcome::Said(lang::unescape(word)?),
        });
    }
    if let Some(why) = first.strip_prefix("! ") {
        return Ok(Outcome::Broken(lang::unescape(why)?));
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let (line, end) = match (line.strip_prefix('|'), line.strip_prefix('~')) {
            (Some(line), _) => (line, "\n"),
            (_, Some(line)) if index + 1 == lines.len() => (line, ""),
            _ => return Err("lines of text begin with |".into()),
        };
        text.push_str(&lang::unescape(line.strip_prefix(' ').unwrap_or(line))?);
        text.push_str(end);
    }
    Ok(Outcome::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_printing() {
        for outcome in [
            Outcome::Done,
            Outcome::Refused("EBUSY".into()),
            Outcome::said("timeout populated 1"),
            Outcome::Blocked,
            Outcome::Hung,
            Outcome::broken("no task\nq"),
            Outcome::Text(String::new()),
            Outcome::Text("\n".into()),
            Outcome::Text("a \n\n  b\\c\n".into()),
            Outcome::Text("max".into()),
        ] {
            let lines = print_outcome(&outcome);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            assert_eq!(parse_outcome(&lines), Ok(outcome), "{lines:?}");
        }
    }
}
