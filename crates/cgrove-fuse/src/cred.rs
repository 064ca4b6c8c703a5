//! Who asks.
//!
//! The kernel says with each request the user and group that files are judged by, and which thread
//! it is. It does not say the supplementary groups; they are in the thread's `/proc/TID/status`, for
//! as long as it waits for our answer. Reading that costs more than most requests, so it is done
//! only where a group can make a difference.

use std::fs;

use cgrove_files::{Attrs, Cred};

use crate::mutant::{Mutant, broken};

/// Whoever made a request of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The user that files are judged by, as the server's user namespace has it.
    pub uid: u32,
    /// Likewise the group.
    pub gid: u32,
    /// The thread, as the server's pid namespace has it; 0 if it has none there.
    pub tid: u32,
}

impl Requester {
    pub(crate) fn of(request: &fuser::Request) -> Self {
        Self { uid: request.uid(), gid: request.gid(), tid: request.pid() }
    }

    /// Its credentials, without supplementary groups.
    #[must_use]
    pub fn user(self) -> Cred {
        Cred::user(self.uid, self.gid)
    }

    /// Its credentials. Where `/proc` does not show the thread (`hidepid`, another pid namespace)
    /// it counts as in no supplementary group.
    #[must_use]
    pub fn cred(self) -> Cred {
        Cred { groups: self.groups(), ..self.user() }
    }

    /// The process that the thread is of, if `/proc` shows it.
    #[must_use]
    pub fn process(self) -> Option<u32> {
        field(&self.status()?, b"Tgid:").next()
    }

    /// Whether its supplementary groups can decide what it may do with what has these attributes:
    /// they never do for the superuser and the owner, nor where group and others have the same.
    pub(crate) fn groups_matter(self, attrs: &Attrs) -> bool {
        let same = (attrs.mode >> 3) & 0o7 == attrs.mode & 0o7;
        self.uid != 0 && self.uid != attrs.uid && self.gid != attrs.gid && !same
    }

    fn groups(self) -> Vec<u32> {
        if self.uid == 0 || broken(Mutant::GroupsIgnored) {
            return Vec::new();
        }
        self.status().map(|status| field(&status, b"Groups:").collect()).unwrap_or_default()
    }

    fn status(self) -> Option<Vec<u8>> {
        if self.tid == 0 {
            return None;
        }
        fs::read(format!("/proc/{}/status", self.tid)).ok()
    }
}

/// The numbers in a line of `status`. A name cannot forge one: line breaks in it are escaped.
fn field<'a>(status: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
    status
        .split(|byte| *byte == b'\n')
        .find_map(move |line| line.strip_prefix(name))
        .unwrap_or_default()
        .split(|byte| byte.is_ascii_whitespace())
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_status() {
        let status = b"Name:\tGroups:\\n7\nTgid:\t31\nPid:\t32\nGroups:\t4 27 1000 \nNStgid:\t31\n";
        assert_eq!(field(status, b"Groups:").collect::<Vec<_>>(), [4, 27, 1000]);
        assert_eq!(field(status, b"Tgid:").next(), Some(31));
        assert_eq!(field(b"Groups:\t\n", b"Groups:").count(), 0);
        assert_eq!(field(b"", b"Groups:").count(), 0);
    }

    #[test]
    fn groups_are_asked_for_only_where_they_decide() {
        let user = Requester { uid: 5, gid: 5, tid: 1 };
        let attrs = |mode, uid, gid| Attrs { mode, uid, gid };
        assert!(!user.groups_matter(&attrs(0o755, 0, 0)));
        assert!(user.groups_matter(&attrs(0o754, 0, 0)));
        assert!(!user.groups_matter(&attrs(0o754, 5, 0)));
        assert!(!user.groups_matter(&attrs(0o754, 0, 5)));
        assert!(!Requester { uid: 0, ..user }.groups_matter(&attrs(0o700, 1, 1)));
    }
}
