//! Faults on purpose, for those who test clients of cgroups.
//!
//! What a client does when rmdir(2) says EBUSY three times is never seen on a healthy machine. A
//! [`Fault`] makes it happen: the request is refused before the tree is asked, so nothing has
//! changed. Only what reaches the server can be refused: the kernel looks names up before it asks
//! for more, so an rmdir(2) of what is not there is ENOENT whatever the faults.

use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use crate::mutant::{Mutant, broken};
use crate::sys;

/// The requests that can be refused on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A name is looked up, which the kernel does with every part of a path, every time.
    Lookup,
    /// A file is opened.
    Open,
    /// An open file is read.
    Read,
    /// An open file is written to.
    Write,
    /// A cgroup is made.
    Mkdir,
    /// A cgroup is removed.
    Rmdir,
}

/// Which requests are refused, how, and how often.
#[derive(Debug)]
pub struct Fault {
    op: Op,
    glob: Option<CString>,
    errno: Errno,
    left: Option<AtomicU64>,
}

impl Fault {
    /// Refuses requests of one kind: all, or the next `times`.
    #[must_use]
    pub fn new(op: Op, errno: Errno, times: Option<u64>) -> Self {
        Self { op, glob: None, errno, left: times.map(AtomicU64::new) }
    }

    /// Only those whose path matches a pattern of fnmatch(3), where `*` matches `/` too. Paths begin
    /// with `/`, the root of the tree; a pattern that begins with neither `/` nor `*` gets one.
    ///
    /// # Errors
    /// EINVAL if the pattern has a zero byte.
    pub fn at(self, glob: &str) -> Result<Self, Errno> {
        let slash = if glob.starts_with(['/', '*']) { "" } else { "/" };
        let glob = CString::new(format!("{slash}{glob}")).map_err(|_| Errno::EINVAL)?;
        Ok(Self { glob: Some(glob), ..self })
    }

    /// The errno for this request, if it is one of its. It counts then.
    fn strikes(&self, op: Op, path: &CString) -> Option<Errno> {
        if op != self.op || self.glob.as_ref().is_some_and(|glob| !sys::matches(glob, path)) {
            return None;
        }
        if let Some(left) = &self.left
            && !broken(Mutant::FaultForever)
        {
            let one_less = |left: u64| left.checked_sub(1);
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
        }
        Some(self.errno)
    }
}

/// The first of the faults that strikes.
pub(crate) fn first(faults: &[Fault], op: Op, path: &str) -> Option<Errno> {
    // Names in the tree have no zero bytes.
    let path = CString::new(path).ok()?;
    faults.iter().find_map(|fault| fault.strikes(op, &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_so_often_and_then_no_more() {
        let faults = [Fault::new(Op::Rmdir, Errno::EBUSY, Some(2))];
        assert_eq!(first(&faults, Op::Mkdir, "/a"), None);
        assert_eq!(first(&faults, Op::Rmdir, "/a"), Some(Errno::EBUSY));
        assert_eq!(first(&faults, Op::Rmdir, "/b"), Some(Errno::EBUSY));
        assert_eq!(first(&faults, Op::Rmdir, "/a"), None);
    }

    #[test]
    fn a_pattern_is_of_the_whole_path_and_may_leave_the_slash_out() {
        for (glob, path, struck) in [
            ("*/cgroup.procs", "/cgroup.procs", true),
            ("*/cgroup.procs", "/a/b/cgroup.procs", true),
            ("*/cgroup.procs", "/a/cgroup.procs.x", false),
            ("a", "/a", true),
            ("/a", "/a", true),
            ("a", "/b/a", false),
            ("a?[0-9]", "/ax7", true),
        ] {
            let fault = Fault::new(Op::Write, Errno::ESRCH, None).at(glob).unwrap();
            assert_eq!(first(&[fault], Op::Write, path).is_some(), struck, "{glob} {path}");
        }
    }

    #[test]
    fn the_first_that_is_left_decides() {
        let faults =
            [Fault::new(Op::Open, Errno::EIO, Some(1)), Fault::new(Op::Open, Errno::EMFILE, None)];
        let said: Vec<_> = (0..3).filter_map(|_| first(&faults, Op::Open, "/x")).collect();
        assert_eq!(said, [Errno::EIO, Errno::EMFILE, Errno::EMFILE]);
    }
}
