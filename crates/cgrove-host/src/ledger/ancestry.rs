//! Whose a task is, when all that is seen of it is where it is.
//!
//! **Membership is ancestry, level by level.** Each nested group has a *reaper*, a child subreaper
//! that is not of the group itself: everything below it is, and an orphan of the group becomes the
//! reaper's child. So a newcomer belongs to the group of the reaper, or to the group of the known
//! task, that comes first on its way up; and a fork is charged to the group of whoever asks, or, if
//! a reaper asks, to the reaper's group.
//!
//! **When a reaper is gone** its group is *lost*: it is killed, and its orphans go up to the next
//! reaper. Those with a name are told from others by their names. One without a name whose way up
//! ends right at that next reaper was forked by somebody who is gone: by a member of the group
//! around, or of a lost group below. A child that nobody has seen has a charge in its group, so it
//! can be a lost group's only while that group holds charges without names; then it is taken for
//! the lost group's, and killed with it. That can hit an orphan of the group around, forked in the
//! same moment, and never leaves one of the lost group alive. Whether a reaper is alive is asked
//! after the census whose newcomers are placed: nobody in it was orphaned by a later death.
//!
//! Where forks do not ask there are no charges to tell by, and every newcomer at that place counts
//! as the lost group's until it is gone.

use nix::errno::Errno;

use super::Ledger;
use super::groups::GroupId;
use crate::mutant::{self, Mutant};
use crate::scan::{Census, Identity, Scanner, Seen};
use crate::sys::{self, RawPid};

/// How often the way up from a process is tried.
const MAX_WALKS: usize = 16;
/// Parents are finitely many, but the chain can change while it is read.
const MAX_DEPTH: usize = 4096;

/// What is first met on the way up from a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is a group's reaper itself.
    Reaper(GroupId),
    /// It, or somebody above, is known, and of this group.
    Known(GroupId),
    /// A reaper, of this group.
    Reaped(GroupId),
    /// Nobody of the tree.
    Outside,
}

impl Ledger {
    /// Whether `pid` is a group's reaper, and of which.
    pub fn reaps(&self, pid: RawPid) -> Option<GroupId> {
        self.reapers.get(&pid).copied()
    }

    /// The group that a fork by thread `tid` counts for.
    ///
    /// Whoever is unknown, with nobody known between it and a reaper, may be an orphan of a group
    /// whose reaper has just died. It is placed first: its child would be charged elsewhere, and
    /// then nothing would tell that it is the lost group's.
    pub(super) fn find_asker(&mut self, tid: RawPid, scanner: &mut Scanner) -> GroupId {
        if !self.is_nested() || mutant::is(Mutant::ChargedToRun) {
            return GroupId::RUN;
        }
        let mut found = self.way_up(tid, scanner);
        if let Ok(Way::Reaped(_)) = found {
            self.reconcile(scanner);
            found = self.way_up(tid, scanner);
        }
        match found {
            Ok(Way::Known(id) | Way::Reaper(id)) => id,
            Ok(Way::Reaped(id)) => {
                let lost = self.orphanages(true).into_iter().find(|(_, next)| *next == id);
                lost.map_or(id, |(lost, _)| lost)
            }
            Ok(Way::Outside) | Err(_) => GroupId::RUN,
        }
    }

    /// The group of a process of the tree, a reaper's own for a reaper; `None` if it is not of the
    /// tree. What nobody knows yet belongs to the first known on the way up.
    ///
    /// ESRCH: the process is gone, or its way up cannot be followed.
    pub fn group_of(&self, tid: RawPid, scanner: &mut Scanner) -> Result<Option<GroupId>, Errno> {
        Ok(match self.way_up(tid, scanner)? {
            Way::Known(id) | Way::Reaper(id) | Way::Reaped(id) => Some(id),
            Way::Outside => None,
        })
    }

    fn way_up(&self, tid: RawPid, scanner: &mut Scanner) -> Result<Way, Errno> {
        // Whoever dies on the way up breaks a walk, and is not on the next one.
        (0..MAX_WALKS).find_map(|_| self.walk_up(tid, scanner)).ok_or(Errno::ESRCH)
    }

    fn walk_up(&self, tid: RawPid, scanner: &mut Scanner) -> Option<Way> {
        let mut at = tid;
        for _ in 0..MAX_DEPTH {
            if let Some(&id) = self.reapers.get(&at) {
                return Some(if at == tid { Way::Reaper(id) } else { Way::Reaped(id) });
            }
            if let Some(known) = self.known.get(&at) {
                let reaps = self.reapers.get(&known.tgid).copied();
                return Some(Way::Known(reaps.unwrap_or(known.group)));
            }
            if at == scanner.root() {
                return Some(if at == tid { Way::Outside } else { Way::Reaped(GroupId::RUN) });
            }
            match scanner.proc.stat(at) {
                Ok(stat) if stat.ppid > 0 => at = stat.ppid,
                Ok(_) => return Some(Way::Outside),
                Err(_) => return None,
            }
        }
        None
    }

    /// Finds out which reapers are gone. To be called after the census whose newcomers it is for,
    /// and [`Ledger::forget_reapers`] with what it returns when they are placed: until then the
    /// census may show children of theirs.
    pub(super) fn look_for_reapers(&mut self, scanner: &mut Scanner) -> Vec<GroupId> {
        let gone = |&(pid, start): &Identity, scanner: &mut Scanner| match scanner.proc.stat(pid) {
            Ok(stat) => stat.start != start || stat.is_zombie() && stat.threads <= 1,
            Err(_) => sys::kill(pid, 0) == Err(Errno::ESRCH),
        };
        let mut without = Vec::new();
        for id in self.ids().collect::<Vec<_>>() {
            let group = self.group(id);
            let (reaper, former) = (group.reaper, group.former);
            if reaper.or(former).is_some_and(|reaper| gone(&reaper, scanner)) {
                if reaper.is_some() {
                    self.lose(id);
                }
                without.push(id);
            }
        }
        without
    }

    /// These groups' reapers have no children any more, and others may have their pids.
    pub(super) fn forget_reapers(&mut self, without: Vec<GroupId>) {
        for id in without {
            if let Some((pid, _)) = self.group_mut(id).former.take() {
                self.reapers.remove(&pid);
            }
        }
    }

    /// Lost groups that may have children nobody has seen, each with the group to whose reaper
    /// its orphans have gone. `asks`: every fork has a charge to be told by.
    pub(super) fn orphanages(&self, asks: bool) -> Vec<(GroupId, GroupId)> {
        let lost = |id: &GroupId| {
            let group = self.group(*id);
            let unseen = !group.nameless.is_empty() || !group.blind.is_empty();
            group.is_lost() && (unseen || !asks)
        };
        let next = |id: GroupId| {
            let reaped = |&above: &GroupId| self.group(above).reaper.is_some();
            let above = self.chain(id).skip(1).filter(|_| !self.group(id).apart);
            above.into_iter().find(reaped).unwrap_or(GroupId::RUN)
        };
        self.ids().filter(lost).map(|id| (id, next(id))).collect()
    }

    /// Where a newcomer of a census belongs.
    pub(super) fn place(
        &self,
        seen: &Seen,
        census: &Census,
        orphanages: &[(GroupId, GroupId)],
        scanner: &mut Scanner,
    ) -> GroupId {
        let mut at = seen.tgid;
        for _ in 0..MAX_DEPTH {
            let listed = census.get(at).and_then(|seen| seen.stat);
            let Some(stat) = listed.or_else(|| scanner.proc.stat(at).ok()) else { break };
            let above = stat.ppid;
            let reaped = match self.reapers.get(&above) {
                Some(&id) => Some(id),
                None if above == scanner.root() => Some(GroupId::RUN),
                None => None,
            };
            if let Some(id) = reaped {
                // Nobody on the way up is known: it may be an orphan of a lost group.
                let lost = orphanages.iter().find(|(_, next)| *next == id);
                return lost.map_or(id, |(lost, _)| *lost);
            }
            if let Some(known) = self.known.get(&above) {
                return known.group;
            }
            if above <= 0 {
                break;
            }
            at = above;
        }
        GroupId::RUN
    }
}
