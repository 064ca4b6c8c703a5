//! How faults of a mount are written: `OP[@GLOB]:ERRNO[:COUNT]`, or `populated:DELAY`.

use std::time::Duration;

use cgrove_fuse::{Fault, Hooks, Op};
use nix::errno::Errno;

use super::values;

/// One fault, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Requests that are refused.
    Refuse {
        /// Which.
        op: Op,
        /// On which paths; all if absent.
        glob: Option<String>,
        /// With what.
        errno: Errno,
        /// How many; all if absent.
        times: Option<u64>,
    },
    /// `populated 0` comes so late.
    Populated(Duration),
}

const OPS: [(&str, Op); 6] = [
    ("lookup", Op::Lookup),
    ("open", Op::Open),
    ("read", Op::Read),
    ("write", Op::Write),
    ("mkdir", Op::Mkdir),
    ("rmdir", Op::Rmdir),
];
/// Linux's last number of an error that a program can see.
const LAST_ERRNO: i32 = 133;

/// Reads one.
pub(super) fn spec(text: &str) -> Result<Spec, String> {
    let form = "write it as OP[@GLOB]:ERRNO[:COUNT], e.g. rmdir:EBUSY:3, or as populated:DELAY";
    if let Some(delay) = text.strip_prefix("populated:") {
        return match values::duration(delay)? {
            Duration::ZERO => Err("a delay of 0 is none: leave it out, or write 500ms".into()),
            delay => Ok(Spec::Populated(delay)),
        };
    }
    // The pattern may have colons in it, as the names of cgroups may.
    let (head, last) = text.rsplit_once(':').ok_or(form)?;
    let (head, errno, times) = if last.starts_with(|c: char| c.is_ascii_digit()) {
        let times = last.parse().ok().filter(|times| *times > 0);
        let times = times.ok_or_else(|| format!("{last} is no count: write 1 or more"))?;
        let (head, errno) = head.rsplit_once(':').ok_or(form)?;
        (head, errno, Some(times))
    } else {
        (head, last, None)
    };
    let errno = (1..=LAST_ERRNO)
        .map(Errno::from_raw)
        .find(|known| *known != Errno::UnknownErrno && format!("{known:?}") == errno)
        .ok_or_else(|| format!("`{errno}` is no error: name one of errno(3), e.g. EBUSY"))?;
    let (name, glob) = match head.split_once('@') {
        Some((_, "")) => return Err("no pattern behind @: leave @ out to mean all paths".into()),
        Some((name, glob)) if balanced(glob) => (name, Some(glob.to_owned())),
        Some((_, glob)) => {
            return Err(format!("the pattern {glob} matches nothing: close its [, or write \\["));
        }
        None => (head, None),
    };
    let op = OPS.iter().find(|(known, _)| *known == name).map(|(_, op)| *op).ok_or_else(|| {
        let known: Vec<&str> = OPS.iter().map(|(name, _)| *name).collect();
        format!("there is no fault of `{name}`: use {} or populated", known.join(", "))
    })?;
    Ok(Spec::Refuse { op, glob, errno, times })
}

/// Whether every bracket that is opened is closed. fnmatch(3) takes one that is not for itself, in
/// some C libraries, and matches nothing in others.
fn balanced(glob: &str) -> bool {
    let mut chars = glob.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next().is_none() => return false,
            '[' => {
                // A bracket that comes first is a member.
                let rest = chars.as_str();
                let rest = rest.strip_prefix(['!', '^']).unwrap_or(rest);
                let rest = rest.strip_prefix(']').unwrap_or(rest);
                match rest.split_once(']') {
                    Some((_, behind)) => chars = behind.chars(),
                    None => return false,
                }
            }
            _ => {}
        }
    }
    true
}

/// What the mount is to do.
///
/// # Errors
/// Two specs that contradict each other, in words.
pub fn hooks(specs: &[Spec]) -> Result<Hooks, String> {
    let mut hooks = Hooks::default();
    for spec in specs {
        match spec {
            Spec::Refuse { op, glob, errno, times } => {
                let fault = Fault::new(*op, *errno, *times);
                let fault = match glob {
                    None => fault,
                    Some(glob) => fault.at(glob).map_err(|_| {
                        "a pattern of --fault has a zero byte; leave it out".to_owned()
                    })?,
                };
                hooks.faults.push(fault);
            }
            Spec::Populated(delay) => {
                if hooks.populated.replace(*delay).is_some() {
                    let what = "--fault populated: was given twice";
                    return Err(format!("{what}: a mount has one delay; leave one out"));
                }
            }
        }
    }
    Ok(hooks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(
        op: Op,
        glob: Option<&str>,
        errno: Errno,
        times: Option<u64>,
    ) -> Result<Spec, String> {
        Ok(Spec::Refuse { op, glob: glob.map(str::to_owned), errno, times })
    }

    #[test]
    fn what_makes_sense() {
        assert_eq!(spec("rmdir:EBUSY:3"), refuse(Op::Rmdir, None, Errno::EBUSY, Some(3)));
        assert_eq!(
            spec("write@*/cgroup.procs:ESRCH"),
            refuse(Op::Write, Some("*/cgroup.procs"), Errno::ESRCH, None)
        );
        // A name with colons and one with @, as systemd has them.
        assert_eq!(
            spec("open@a:b/user@1.service:EIO:2"),
            refuse(Op::Open, Some("a:b/user@1.service"), Errno::EIO, Some(2))
        );
        assert_eq!(
            spec("mkdir@[]a]*:ENOSPC"),
            refuse(Op::Mkdir, Some("[]a]*"), Errno::ENOSPC, None)
        );
        assert_eq!(spec("populated:500ms"), Ok(Spec::Populated(Duration::from_millis(500))));
        assert_eq!(spec("populated:2"), Ok(Spec::Populated(Duration::from_secs(2))));
    }

    #[test]
    fn what_makes_none_is_refused_and_says_what_to_do() {
        for (text, said) in [
            ("", "OP[@GLOB]:ERRNO"),
            ("rmdir", "OP[@GLOB]:ERRNO"),
            ("rmdir:3", "OP[@GLOB]:ERRNO"),
            ("rmdir:EBUSY:0", "no count"),
            ("rmdir:EBUSY:99999999999999999999", "no count"),
            ("rmdir:EBUSY:", "no error"),
            ("rmdir:EBUZY", "no error"),
            ("rmdir:UnknownErrno", "no error"),
            ("chmod:EIO", "no fault of `chmod`"),
            ("rmdir@:EBUSY", "behind @"),
            ("rmdir@a[b:EBUSY", "close its ["),
            ("rmdir@a\\:EBUSY", "close its ["),
            ("populated:soon", "500ms"),
            ("populated:0", "500ms"),
            ("populated", "OP[@GLOB]:ERRNO"),
        ] {
            let refused = spec(text).expect_err(text);
            assert!(refused.contains(said), "{text}: {refused}");
            assert!(!refused.contains('\n'), "{refused}");
        }
        let delay = Spec::Populated(Duration::from_secs(1));
        assert!(hooks(std::slice::from_ref(&delay)).is_ok());
        assert!(hooks(&[delay.clone(), delay]).is_err());
    }
}
