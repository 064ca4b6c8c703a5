//! The groups of a run: what each is charged, how it begins and when it is gone.
//!
//! Groups are cgroups of the core. Beside what the core keeps, a group has the charges of forks
//! whose child nobody has seen, and a reaper; `ancestry.rs` tells who belongs to it.

use std::sync::Arc;

use cgrove_core::{Cgroup, Fork, Limit, Pids, PidsCss, SsMask};
use cgrove_files::Cred;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{CoreErrno, Ledger};
use crate::mutant::{self, Mutant};
use crate::scan::{Census, Identity, Seen};
use crate::sys::{self, RawPid};

/// Groups that a run may have at a time. Each takes descriptors of the supervisor.
pub const MAX_GROUPS: usize = 1024;
/// As long as `--name` may be.
const MAX_NAME: usize = 255;

/// One group of the run, while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupId(pub(super) usize);

impl GroupId {
    /// The run's own.
    pub const RUN: GroupId = GroupId(0);
}

/// How a group stands to new forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// They are let through.
    Open,
    /// They are refused: its reaper kills what is left.
    Closed,
    /// They are refused, and the supervisor kills what is left.
    Killed,
    /// As before, and its reaper is gone.
    Lost,
}

pub(super) struct Group {
    pub(super) cgroup: Arc<Cgroup>,
    /// From the root of the hierarchy; stays when the cgroup is gone.
    pub(super) path: String,
    /// Where its tasks are charged: its own, or that of a cgroup above if `pids` is off here.
    pub(super) pids: Arc<PidsCss>,
    pub(super) above: Option<GroupId>,
    pub(super) standing: Standing,
    /// Everybody below this process, and not the process itself, is of the group.
    pub(super) reaper: Option<Identity>,
    /// Who was its reaper, while it may have children yet.
    pub(super) former: Option<Identity>,
    /// The reaper is the supervisor's child, wherever the group is: so its orphans are.
    pub(super) apart: bool,
    /// Charges of forks whose child has no name yet.
    pub(super) nameless: Vec<Fork>,
    /// Charges of forks whose child may never be seen, below one of the `hidden`.
    pub(super) blind: Vec<Fork>,
    /// The place of a command whose fork does not ask.
    expected: Option<Fork>,
    /// Known tasks, of this very group.
    pub(super) tasks: u64,
    /// Most tasks known to have existed at once, here and below.
    pub(super) peak_seen: u64,
    pub(super) forks: u64,
    pub(super) refused: u64,
    /// Forks that this group's own limit refused.
    hits: u64,
}

impl Group {
    pub(super) fn new(
        cgroup: Arc<Cgroup>,
        pids: Arc<PidsCss>,
        above: Option<GroupId>,
        reaper: Option<Identity>,
    ) -> Group {
        Group {
            path: cgroup.path(),
            cgroup,
            pids,
            above,
            standing: Standing::Open,
            reaper,
            former: None,
            apart: false,
            nameless: Vec::new(),
            blind: Vec::new(),
            expected: None,
            tasks: 0,
            peak_seen: 0,
            forks: 0,
            refused: 0,
            hits: 0,
        }
    }

    fn is_full(&self) -> bool {
        matches!(self.pids.max(), Limit::N(max) if self.pids.current() >= max)
    }

    /// A charge for a newcomer.
    pub(super) fn take_place(&mut self) -> Option<Fork> {
        self.expected.take().or_else(|| self.nameless.pop()).or_else(|| self.blind.pop())
    }

    pub(super) fn is_lost(&self) -> bool {
        self.standing == Standing::Lost && !mutant::is(Mutant::LostSpared)
    }
}

/// What a group's report has from the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The limit; `None` is `max`.
    pub limit: Option<u64>,
    /// Most tasks seen at once, and the most that there can have been.
    pub peak: (u64, u64),
    /// Forks let through.
    pub forks: u64,
    /// Forks refused.
    pub refused: u64,
    /// How often a limit was hit by forks of this group, and the cgroup path of the limit.
    pub hits: (u64, Option<String>),
    /// That limit was the group's own or one above, and so may be why its command failed.
    pub explains: bool,
}

impl Ledger {
    pub(super) fn group(&self, id: GroupId) -> &Group {
        // An id outlives its group in no place: see `remove`.
        self.groups[id.0].as_ref().unwrap_or_else(|| unreachable!("a group that was removed"))
    }

    pub(super) fn group_mut(&mut self, id: GroupId) -> &mut Group {
        self.groups[id.0].as_mut().unwrap_or_else(|| unreachable!("a group that was removed"))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        (0..self.groups.len()).filter(|&at| self.groups[at].is_some()).map(GroupId)
    }

    /// Whether there are groups below the run's own.
    pub(super) fn is_nested(&self) -> bool {
        self.nested > 0
    }

    /// The group and those above it, the run's own last.
    pub(super) fn chain(&self, id: GroupId) -> impl Iterator<Item = GroupId> + '_ {
        std::iter::successors(Some(id), |&id| self.group(id).above)
    }

    /// Whether `id` is `top` or below it.
    pub fn is_within(&self, id: GroupId, top: GroupId) -> bool {
        self.chain(id).any(|above| above == top)
    }

    pub(super) fn within(&self, top: GroupId) -> Vec<GroupId> {
        self.ids().filter(|&id| self.is_within(id, top)).collect()
    }

    /// Whether the group still exists.
    pub fn exists(&self, id: GroupId) -> bool {
        self.groups.get(id.0).is_some_and(Option::is_some)
    }

    /// Known tasks in the group and below.
    pub fn tasks_within(&self, top: GroupId) -> u64 {
        if top == GroupId::RUN {
            return self.known.len() as u64;
        }
        self.within(top).into_iter().map(|id| self.group(id).tasks).sum()
    }

    /// The group's path below the run's own.
    pub fn path_below(&self, id: GroupId) -> String {
        let run = self.group(GroupId::RUN).path.len();
        self.group(id).path.get(run..).unwrap_or_default().trim_start_matches('/').to_owned()
    }

    /// The group's path with the run's name: as users write it.
    pub fn full_name(&self, id: GroupId) -> String {
        self.group(id).path.trim_start_matches('/').to_owned()
    }

    /// The group at a path below the run's own.
    pub fn group_at(&self, path: &str) -> Result<GroupId, Errno> {
        let cgroup = self.below(path)?;
        self.ids().find(|&id| Arc::ptr_eq(&self.group(id).cgroup, &cgroup)).ok_or(Errno::ENOENT)
    }

    /// Makes a group below `above` and writes its files. Everybody below the process `reaper` will
    /// be of it. All controllers that are on for `above` are switched on for it.
    ///
    /// Errors: EEXIST: the name is taken; EINVAL, ENAMETOOLONG: it is none; EAGAIN: there are too
    /// many groups, here or as `cgroup.max.*` allow; ESRCH: `above` is being killed. With the file
    /// in question: what writing it was refused with.
    pub fn create(
        &mut self,
        above: GroupId,
        name: &str,
        reaper: Option<Identity>,
        files: &[(String, String)],
    ) -> Result<GroupId, (Option<String>, Errno)> {
        let refused = |errno| (None, errno);
        self.fx.set_now(self.now());
        if name.len() > MAX_NAME {
            return Err(refused(Errno::ENAMETOOLONG));
        }
        if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
            return Err(refused(Errno::EINVAL));
        }
        if self.chain(above).any(|id| self.group(id).standing > Standing::Open) {
            return Err(refused(Errno::ESRCH));
        }
        if self.nested >= MAX_GROUPS {
            return Err(refused(Errno::EAGAIN));
        }
        let parent = Arc::clone(&self.group(above).cgroup);
        let core = |errno: CoreErrno| (None, Errno::from_raw(errno.code()));
        let enable = self.hierarchy.controllers(&parent);
        // Nothing that was on is ever switched off by us, so nothing dies that it would wait for.
        self.hierarchy
            .write_subtree_control(&parent, enable, SsMask::NONE, &mut self.fx)
            .map_err(|error| core(error.errno().unwrap_or(CoreErrno::EAGAIN)))?;
        let tree = super::files::made(&self.tree, &self.hierarchy);
        let made = tree.mkdir(&parent, name.as_bytes(), 0o755, &Cred::root(), &mut self.fx);
        self.refresh();
        self.perform();
        let cgroup = made.map_err(core)?;
        let pids = Pids::css(&cgroup).unwrap_or_else(|| Arc::clone(&self.group(above).pids));
        let group = Group::new(cgroup, pids, Some(above), reaper);
        let free = self.groups.iter().position(Option::is_none);
        let at = free.unwrap_or(self.groups.len());
        if free.is_none() {
            self.groups.push(None);
        }
        self.groups[at] = Some(group);
        self.nested += 1;
        let id = GroupId(at);
        for (file, value) in files {
            if let Err(errno) = self.set(&self.path_below(id), file, value.as_bytes()) {
                let _ = self.remove(id);
                // Nobody has seen it.
                self.news.pop();
                return Err((Some(file.clone()), errno));
            }
        }
        self.news.push((self.group(id).path.clone(), true));
        if let Some((pid, _)) = reaper {
            self.reapers.insert(pid, id);
        }
        Ok(id)
    }

    /// Which csses charges go to, after a change of `cgroup.subtree_control`.
    pub(super) fn refresh(&mut self) {
        for id in self.ids().collect::<Vec<_>>() {
            let own = self.chain(id).find_map(|above| Pids::css(&self.group(above).cgroup));
            if let Some(pids) = own {
                self.group_mut(id).pids = pids;
            }
        }
    }

    /// Takes a place for a command whose fork will not ask.
    pub fn expect(&mut self, id: GroupId) -> Result<(), CoreErrno> {
        self.fx.set_now(self.now());
        let place = self.take_charge(id);
        self.perform();
        self.group_mut(id).expected = Some(place?);
        Ok(())
    }

    /// Charges one task to a group; a refusal is noted where it belongs.
    pub(super) fn take_charge(&mut self, id: GroupId) -> Result<Fork, CoreErrno> {
        let cgroup = Arc::clone(&self.group(id).cgroup);
        let fork = self.hierarchy.fork(cgrove_core::ForkFrom::Cgroup(&cgroup), &mut self.fx);
        if fork.is_err() {
            let full = self.chain(id).find(|&above| self.group(above).is_full());
            if let Some(full) = full {
                self.group_mut(full).hits += 1;
            }
            self.count_refusal(id);
        }
        fork
    }

    pub(super) fn note_kills(&mut self, id: GroupId, killed: u64) {
        self.group_mut(id).hits += killed;
        for above in self.chain(id).collect::<Vec<_>>() {
            self.group_mut(above).refused += killed;
        }
    }

    pub(super) fn count_refusal(&mut self, id: GroupId) {
        for above in self.chain(id).collect::<Vec<_>>() {
            self.group_mut(above).refused += 1;
        }
    }

    /// Groups that were made (`true`) and removed since the last call, by path.
    pub(crate) fn news(&mut self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.news)
    }

    /// Whose limit the fork hit that was refused last, or its own group if it was no limit.
    pub(crate) fn refuser(&self) -> GroupId {
        let (_, group) = self.asking;
        if !self.exists(group) {
            return GroupId::RUN;
        }
        self.full_level(group).unwrap_or(group)
    }

    /// The lowest group at or above `id` whose own limit is reached.
    pub(super) fn full_level(&self, id: GroupId) -> Option<GroupId> {
        self.chain(id).find(|&above| self.group(above).is_full())
    }

    /// Whether forks of the group's members are refused whatever the limits are.
    pub(super) fn is_shut(&self, id: GroupId) -> bool {
        self.chain(id).any(|above| self.group(above).standing > Standing::Open)
    }

    /// Refuses forks of the group from now on; its reaper kills what is left.
    pub fn shut(&mut self, id: GroupId) {
        let group = self.group_mut(id);
        group.standing = group.standing.max(Standing::Closed);
    }

    /// As [`Ledger::shut`], and [`Ledger::doomed`] names who is to be killed. A group without a
    /// reaper has no tasks of its own; it stays for new ones unless it is to be removed.
    pub fn doom(&mut self, id: GroupId, remove: bool) {
        self.fx.set_now(self.now());
        for below in self.within(id) {
            let group = self.group_mut(below);
            if remove || group.reaper.is_some() {
                group.standing = group.standing.max(Standing::Killed);
            }
        }
        let cgroup = Arc::clone(&self.group(id).cgroup);
        let _ = self.hierarchy.kill(&cgroup, &mut self.fx);
        self.perform();
    }

    /// The group's reaper is gone: it is killed, orphans included.
    pub fn lose(&mut self, id: GroupId) {
        let group = self.group_mut(id);
        // Its link closes before its children have gone to another, and they are the group's still.
        group.former = group.reaper.take().or(group.former);
        self.doom(id, true);
        self.group_mut(id).standing = Standing::Lost;
    }

    /// Whether somebody of a group that is killed may be left.
    pub fn has_doomed(&self) -> bool {
        self.is_nested() && self.ids().any(|id| self.group(id).standing >= Standing::Killed)
    }

    /// Those of a census that belong to groups that are killed.
    pub fn doomed<'c>(&self, census: &'c Census) -> Vec<&'c Seen> {
        let doomed = |seen: &&Seen| {
            self.known.get(&seen.tid).is_some_and(|known| {
                let killed = |above| {
                    let group = self.group(above);
                    group.standing == Standing::Killed || group.is_lost()
                };
                self.chain(known.group).any(killed)
            })
        };
        census.live_processes().filter(doomed).collect()
    }

    /// Lost groups, and those killed without a reaper, of which nobody is left: removes them and
    /// returns the ids that are free now. `census` has just been reconciled with.
    pub fn bury(&mut self, census: &Census, gated: bool) -> Vec<GroupId> {
        let mut gone = Vec::new();
        let over = |ledger: &Ledger, id: GroupId| {
            let group = ledger.group(id);
            group.standing >= Standing::Killed
                && group.reaper.is_none()
                && ledger.tasks_within(id) == 0
                && ledger.within(id).into_iter().all(|id| {
                    let group = ledger.group(id);
                    let unfinished = ledger.unproven.values().any(|fork| fork.group == id);
                    group.nameless.is_empty() && group.blind.is_empty() && !unfinished
                })
        };
        if gated && !census.complete {
            return gone;
        }
        loop {
            let next = self.ids().find(|&id| id != GroupId::RUN && over(self, id));
            let Some(id) = next else { break };
            gone.extend(self.within(id));
            if self.remove(id).is_err() {
                break;
            }
        }
        gone
    }

    /// Removes a group and the empty ones below it. EBUSY while there are tasks, or places for
    /// them.
    pub fn remove(&mut self, id: GroupId) -> Result<(), Errno> {
        if id == GroupId::RUN || self.tasks_within(id) > 0 {
            return Err(Errno::EBUSY);
        }
        self.fx.set_now(self.now());
        // Children come after their parents only by chance: the deepest first.
        let mut all = self.within(id);
        all.sort_by_key(|&id| std::cmp::Reverse(self.chain(id).count()));
        for id in all {
            let Some(mut group) = self.groups[id.0].take() else { continue };
            let places = group.nameless.drain(..).chain(group.blind.drain(..));
            for fork in places.chain(group.expected.take()) {
                fork.cancel(&mut self.fx);
            }
            self.unproven.retain(|_, unproven| unproven.group != id);
            self.reapers.retain(|_, of| *of != id);
            let removed = self.hierarchy.remove(&group.cgroup, &mut self.fx);
            debug_assert_eq!(removed, Ok(()));
            if let Some(tree) = self.tree.get() {
                tree.forget(&group.cgroup);
            }
            self.nested -= 1;
            self.news.push((group.path, false));
        }
        self.perform();
        Ok(())
    }

    /// The figures of a group for its report.
    pub fn figures(&self, id: GroupId) -> Figures {
        let group = self.group(id);
        let above = self.chain(id).map(|above| (self.group(above).hits, above));
        let below = self.within(id).into_iter().map(|below| (self.group(below).hits, below));
        // A limit here or above explains a failure; one further below explains its own group's.
        let most = |of: &mut dyn Iterator<Item = (u64, GroupId)>| {
            of.filter(|(hits, _)| *hits > 0).max_by_key(|(hits, _)| *hits)
        };
        let own = if group.refused > 0 { most(&mut above.into_iter()) } else { None };
        let place = own.or_else(|| most(&mut below.into_iter()));
        let hits = place.map_or(0, |(hits, _)| hits.min(group.refused));
        Figures {
            // The run's own is asked for when its cgroup is gone.
            limit: match group.pids.max() {
                Limit::N(max) if id == GroupId::RUN || Pids::css(&group.cgroup).is_some() => {
                    Some(max)
                }
                _ => None,
            },
            peak: (group.peak_seen, group.pids.peak().max(group.peak_seen)),
            forks: group.forks,
            refused: group.refused,
            hits: (hits, place.map(|(_, id)| self.group(id).path.clone())),
            explains: own.is_some(),
        }
    }

    /// Everybody below this child of the supervisor is of the group from now on.
    pub fn set_reaper(&mut self, id: GroupId, reaper: Identity) {
        let group = self.group_mut(id);
        group.reaper = Some(reaper);
        group.apart = true;
        self.reapers.insert(reaper.0, id);
    }

    /// Who reaps the group.
    pub fn reaper_of(&self, id: GroupId) -> Option<RawPid> {
        self.groups.get(id.0)?.as_ref()?.reaper.map(|(pid, _)| pid)
    }

    /// Whether somebody reaps the group.
    pub fn has_reaper(&self, id: GroupId) -> bool {
        self.group(id).reaper.is_some()
    }

    /// The names of the groups right below.
    pub fn names_below(&self, id: GroupId) -> Vec<String> {
        let below = self.ids().filter(|&below| self.group(below).above == Some(id));
        below.map(|below| self.group(below).cgroup.name().to_owned()).collect()
    }

    /// One process of the group or of those below.
    pub fn somebody(&self, id: GroupId) -> Option<RawPid> {
        let member = |known: &super::Known| self.is_within(known.group, id);
        self.known.values().filter(|known| member(known)).map(|known| known.tgid).min()
    }

    /// Forgets those of a group that do not exist any more.
    pub fn forget_the_gone(&mut self, id: GroupId) {
        let gone = self.known.iter().filter(|(tid, known)| {
            self.is_within(known.group, id) && !sys::thread_exists(known.tgid, **tid)
        });
        let gone: Vec<RawPid> = gone.map(|(tid, _)| *tid).collect();
        gone.into_iter().for_each(|tid| self.forget(tid));
        self.perform();
    }
}
