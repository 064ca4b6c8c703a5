//! What the values of options mean. A refusal says what would have been right.

use std::time::Duration;

use cgrove_host::options::{Feature, Requirement};
use cgrove_host::parent::DieWith;
use cgrove_host::report::{Backend, Class};

/// Names are directory names in a cgroup tree.
const NAME_MAX: usize = 255;
/// The kernel's own bound for pids.max.
const PIDS_MAX_LIMIT: u64 = 4 * 1024 * 1024;

/// `max`, or a number: an Option of its own would tell clap that the option is optional.
#[derive(Clone, Copy)]
pub(super) struct PidsMax(pub(super) Option<u64>);

pub(super) fn pids_max(text: &str) -> Result<PidsMax, String> {
    if text == "max" {
        return Ok(PidsMax(None));
    }
    match text.parse::<u64>() {
        Ok(n) if n <= PIDS_MAX_LIMIT => Ok(PidsMax(Some(n))),
        _ => Err(format!("not a number from 0 to {PIDS_MAX_LIMIT}, nor `max`")),
    }
}

/// `starter`, which is what the option alone means, or a pid.
pub(super) fn die_with(text: &str) -> Result<DieWith, String> {
    match text.parse() {
        Ok(pid) if pid > 0 => Ok(DieWith::Process(pid)),
        _ if text == "starter" => Ok(DieWith::Starter),
        _ => Err("not a pid; without one it is the process that starts cgrove".to_owned()),
    }
}

pub(super) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((file, value)) if !file.is_empty() => Ok((file.to_owned(), value.to_owned())),
        _ => Err("write it as FILE=VALUE, e.g. pids.max=64".to_owned()),
    }
}

/// A duration with units, or a plain number of seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .map_err(|_| "not a number of seconds that makes sense".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error} (write 90, 1m30s or 500ms)"))
}

pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(time) if time.is_zero() => Err("a timeout of 0 leaves no time to run".to_owned()),
        other => other,
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    let bad = match text {
        "" => "a name cannot be empty",
        "." | ".." => "that is not a name",
        _ if text.contains('/') => "a name has no slash",
        _ if text.contains('\n') => "a name has no line break",
        _ if text.chars().any(char::is_control) => "a name has no control characters",
        _ if text.len() > NAME_MAX => "a name has at most 255 bytes",
        _ => return Ok(text.to_owned()),
    };
    Err(bad.to_owned())
}

pub(super) fn requirement(text: &str) -> Result<Requirement, String> {
    let (name, class) = match text.split_once('=') {
        Some((name, class)) => (name, Some(class)),
        None => (text, None),
    };
    for backend in [Backend::Kernel, Backend::Gate, Backend::Ptrace, Backend::Reaper] {
        if name == backend.name() && class.is_none() {
            return Ok(Requirement::Backend(backend));
        }
    }
    let feature = Feature::ALL.iter().find(|(known, _)| *known == name).map(|(_, f)| *f);
    let Some(feature) = feature else {
        let known = "known are pids, cpu, kill, memory, cpu-max, kernel, gate, ptrace and reaper";
        return Err(known.to_owned());
    };
    let class = match class {
        None => Class::Sampled,
        Some(wanted) => [Class::Sampled, Class::Exact, Class::Kernel]
            .into_iter()
            .find(|class| class.name() == wanted)
            .ok_or_else(|| "a class is sampled, exact or kernel".to_owned())?,
    };
    Ok(Requirement::Feature(feature, class))
}
