//! What the core should do, said in the plainest way that comes to mind.
//!
//! The core keeps counters, lists and queues in step with one another, and a
//! mistake in one of them would show up only in what it is later derived from.
//! So nothing here is counted as it changes: whenever a number is asked for,
//! the model goes through its cgroups and tasks and counts. It shares nothing
//! with the core but the names of errors, phases and queues.

use cgrove_core::{Errno, Limit, PID_MAX_LIMIT, Phase, Queue};
use std::collections::BTreeSet;
use std::iter::successors;

/// Index of a cgroup in [`Reference::cgroups`]; 0 is the root.
pub type Cg = usize;
/// Index of a task in [`Reference::tasks`].
pub type Tk = usize;
/// Which css of a cgroup: a controller's by number, or its own.
pub type Kind = Option<usize>;

pub const PIDS: usize = 0;
pub const GATE: usize = 1;
/// Every css that a cgroup has.
pub const KINDS: [Kind; 3] = [Some(PIDS), Some(GATE), None];
/// Threads that read.
pub const READERS: usize = 2;

const THROTTLE: u64 = 10_000_000;

/// What an operation asked for, without queue work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    Notify(Cg, &'static str),
    Timer(u64, Cg, &'static str),
    Kill(Tk),
}

/// What the gate, the last controller to be asked, is told to refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    #[default]
    Nothing,
    Alloc,
    Online,
    Fork,
}

impl Refusal {
    /// A number for each, so that no two can be taken for one another.
    pub fn errno(self) -> Errno {
        match self {
            Self::Nothing => unreachable!("nothing is refused"),
            Self::Alloc => Errno::ENOMEM,
            Self::Online => Errno::EINVAL,
            Self::Fork => Errno::EBUSY,
        }
    }
}

/// A file that notifies at once, or else at the end of 10 ms.
#[derive(Debug)]
struct File {
    cgroup: Cg,
    name: &'static str,
    last: Option<u64>,
    owed: bool,
    gone: bool,
}

impl File {
    fn changed(&mut self, now: u64, asked: &mut Vec<Asked>) {
        if self.gone || self.owed {
            return;
        }
        match self.last {
            Some(last) if now < last + THROTTLE => {
                self.owed = true;
                asked.push(Asked::Timer(last + THROTTLE, self.cgroup, self.name));
            }
            _ => {
                self.last = Some(now);
                asked.push(Asked::Notify(self.cgroup, self.name));
            }
        }
    }

    fn timer(&mut self, now: u64, asked: &mut Vec<Asked>) {
        if self.owed && !self.gone {
            self.last = Some(now);
            asked.push(Asked::Notify(self.cgroup, self.name));
        }
        self.owed = false;
    }
}

/// How much of a css there ever was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Born {
    Never,
    /// `css_online` refused: nobody can find it, but it is still to be freed.
    Still,
    Online,
}

#[derive(Debug)]
pub struct CssModel {
    pub born: Born,
    pub phase: Phase,
    pub since: u64,
    /// References that readers hold.
    pub users: usize,
    /// The read sections that were open when it entered its phase.
    waits: BTreeSet<u64>,
}

#[derive(Debug)]
pub struct CgroupModel {
    pub parent: Option<Cg>,
    pub name: String,
    pub removed: bool,
    max_depth: usize,
    max_descendants: usize,
    pub limit: Option<u64>,
    pub peak: usize,
    events: u64,
    events_local: u64,
    forkfail: u64,
    kills: u64,
    /// In the order of [`KINDS`].
    css: [CssModel; 3],
    files: [File; 3],
}

const CGROUP_EVENTS: usize = 0;
const PIDS_EVENTS: usize = 1;
const PIDS_EVENTS_LOCAL: usize = 2;

#[derive(Debug)]
pub struct TaskModel {
    pub cgroup: Cg,
    pub leader: Tk,
    pub exiting: bool,
    pub dead: bool,
    pub reaped: bool,
    pub freed: bool,
    pub killed: bool,
}

/// A fork that is prepared and neither published nor cancelled.
#[derive(Clone, Copy, Debug)]
struct ForkModel {
    cgroup: Cg,
    kills: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct ReaderModel {
    depth: usize,
    section: u64,
}

#[derive(Debug)]
pub struct Reference {
    pub now: u64,
    local_events: bool,
    pub cgroups: Vec<CgroupModel>,
    pub tasks: Vec<TaskModel>,
    forks: Vec<ForkModel>,
    readers: [ReaderModel; READERS],
    sections: u64,
}

impl Reference {
    pub fn new(local_events: bool) -> Self {
        let mut new = Self {
            now: 0,
            local_events,
            cgroups: vec![],
            tasks: vec![],
            forks: vec![],
            readers: Default::default(),
            sections: 0,
        };
        new.add(None, "", Born::Online, Born::Online);
        new
    }

    fn add(&mut self, parent: Option<Cg>, name: &str, pids: Born, gate: Born) -> Cg {
        let cgroup = self.cgroups.len();
        let css = [pids, gate, Born::Online].map(|born| CssModel {
            born,
            phase: Phase::Online,
            since: self.now,
            users: 0,
            // A css that came online waits for nobody yet.
            waits: if born == Born::Still { self.open_sections() } else { BTreeSet::new() },
        });
        let files = ["cgroup.events", "pids.events", "pids.events.local"].map(|name| File {
            cgroup,
            name,
            last: None,
            owed: false,
            gone: false,
        });
        self.cgroups.push(CgroupModel {
            parent,
            name: name.into(),
            removed: false,
            max_depth: usize::MAX,
            max_descendants: usize::MAX,
            limit: None,
            peak: 0,
            events: 0,
            events_local: 0,
            forkfail: 0,
            kills: 0,
            css,
            files,
        });
        cgroup
    }

    // The tree.

    /// From a cgroup to the root, both included.
    fn up(&self, cgroup: Cg) -> impl Iterator<Item = Cg> {
        successors(Some(cgroup), |&at| self.cgroups[at].parent)
    }

    /// Whether `cgroup` is `top` or below it.
    pub fn within(&self, cgroup: Cg, top: Cg) -> bool {
        self.up(cgroup).any(|at| at == top)
    }

    fn all(&self) -> std::ops::Range<Cg> {
        0..self.cgroups.len()
    }

    pub fn children(&self, cgroup: Cg) -> impl Iterator<Item = Cg> {
        self.all()
            .filter(move |&at| self.cgroups[at].parent == Some(cgroup) && !self.cgroups[at].removed)
    }

    pub fn path(&self, cgroup: Cg) -> String {
        let mut names: Vec<_> = self.up(cgroup).map(|at| self.cgroups[at].name.as_str()).collect();
        names.pop();
        names.reverse();
        let deleted = if self.cgroups[cgroup].removed { " (deleted)" } else { "" };
        format!("/{}{deleted}", names.join("/"))
    }

    // Tasks.

    pub fn group_live(&self, task: Tk) -> usize {
        let leader = self.tasks[task].leader;
        self.tasks.iter().filter(|task| task.leader == leader && !task.exiting).count()
    }

    fn tasks_where(&self, is: impl Fn(Tk, &TaskModel) -> bool) -> BTreeSet<Tk> {
        (0..self.tasks.len()).filter(|&at| is(at, &self.tasks[at])).collect()
    }

    /// `cgroup.threads`: not those exiting in a group past its end.
    pub fn threads(&self, cgroup: Cg) -> BTreeSet<Tk> {
        self.tasks_where(|at, task| {
            let hidden = || task.exiting && self.group_live(at) == 0;
            task.cgroup == cgroup && !task.dead && !hidden()
        })
    }

    /// `cgroup.procs`: leaders, dead ones too while their group lives.
    pub fn procs(&self, cgroup: Cg) -> BTreeSet<Tk> {
        self.tasks_where(|at, task| {
            task.cgroup == cgroup && task.leader == at && !task.freed && self.group_live(at) > 0
        })
    }

    pub fn populated(&self, cgroup: Cg) -> bool {
        self.tasks.iter().any(|task| !task.dead && self.within(task.cgroup, cgroup))
    }

    /// Does something, then tells the watchers of every cgroup that flipped.
    fn flipping(&mut self, asked: &mut Vec<Asked>, change: impl FnOnce(&mut Self)) {
        let before: Vec<_> = self.all().map(|at| self.populated(at)).collect();
        change(self);
        for at in self.all() {
            if self.populated(at) != before[at] {
                self.cgroups[at].files[CGROUP_EVENTS].changed(self.now, asked);
            }
        }
    }

    pub fn timer(&mut self, cgroup: Cg, name: &str, asked: &mut Vec<Asked>) {
        let now = self.now;
        let mut files = self.cgroups[cgroup].files.iter_mut();
        files.find(|file| file.name == name).unwrap().timer(now, asked);
    }

    // Pids.

    /// Tasks from birth to reaping, those being born included.
    fn charged(&self) -> impl Iterator<Item = Cg> {
        let tasks = self.tasks.iter().filter(|task| !task.reaped).map(|task| task.cgroup);
        tasks.chain(self.forks.iter().map(|fork| fork.cgroup))
    }

    pub fn pids_current(&self, cgroup: Cg) -> usize {
        self.charged().filter(|&at| self.within(at, cgroup)).count()
    }

    /// The cgroups that a task is charged to: the root is not among them.
    fn pids_levels(&self, cgroup: Cg) -> Vec<Cg> {
        self.up(cgroup).filter(|&at| at != 0).collect()
    }

    pub fn fits(&self, cgroup: Cg, more: u64) -> bool {
        self.pids_levels(cgroup).into_iter().all(|at| {
            self.cgroups[at].limit.is_none_or(|max| self.pids_current(at) as u64 + more <= max)
        })
    }

    fn try_charge(&mut self, cgroup: Cg, asked: &mut Vec<Asked>) -> Result<(), Errno> {
        for at in self.pids_levels(cgroup) {
            let with = self.pids_current(at) + 1;
            if self.cgroups[at].limit.is_some_and(|max| with as u64 > max) {
                self.refused(cgroup, at, asked);
                return Err(Errno::EAGAIN);
            }
            self.cgroups[at].peak = self.cgroups[at].peak.max(with);
        }
        Ok(())
    }

    fn refused(&mut self, forker: Cg, full: Cg, asked: &mut Vec<Asked>) {
        let now = self.now;
        self.cgroups[forker].forkfail += 1;
        if self.local_events {
            self.cgroups[forker].files[PIDS_EVENTS].changed(now, asked);
            self.cgroups[forker].files[PIDS_EVENTS_LOCAL].changed(now, asked);
            return;
        }
        self.cgroups[full].events_local += 1;
        self.cgroups[full].files[PIDS_EVENTS_LOCAL].changed(now, asked);
        for at in self.pids_levels(full) {
            self.cgroups[at].events += 1;
            self.cgroups[at].files[PIDS_EVENTS].changed(now, asked);
        }
    }

    /// `pids.events` and `pids.events.local`.
    pub fn pids_events(&self, cgroup: Cg) -> (u64, u64) {
        let at = &self.cgroups[cgroup];
        if self.local_events { (at.forkfail, at.forkfail) } else { (at.events, at.events_local) }
    }

    pub fn set_limit(&mut self, cgroup: Cg, limit: Limit) -> Result<(), Errno> {
        if self.cgroups[cgroup].removed {
            return Err(Errno::ENODEV);
        }
        self.cgroups[cgroup].limit = match limit {
            Limit::Max => None,
            Limit::N(n) if n > PID_MAX_LIMIT => return Err(Errno::EINVAL),
            Limit::N(n) => Some(n),
        };
        Ok(())
    }

    // The gate: it counts what it was asked, in this very cgroup.

    pub fn gate_charged(&self, cgroup: Cg) -> usize {
        self.charged().filter(|&at| at == cgroup).count()
    }

    pub fn gate_exits(&self, cgroup: Cg) -> usize {
        self.tasks.iter().filter(|task| task.cgroup == cgroup && task.exiting).count()
    }

    // Creation and removal.

    /// A refusal by the gate leaves a cgroup behind that is being taken apart;
    /// the error names it then.
    pub fn create(
        &mut self,
        parent: Cg,
        name: &str,
        refuse: Refusal,
    ) -> Result<Cg, (Errno, Option<Cg>)> {
        if let Err(errno) = self.may_create(parent, name) {
            return Err((errno, None));
        }
        let gate = match refuse {
            Refusal::Nothing | Refusal::Fork => Born::Online,
            Refusal::Online => Born::Still,
            Refusal::Alloc => Born::Never,
        };
        let cgroup = self.add(Some(parent), name, Born::Online, gate);
        if gate == Born::Online {
            return Ok(cgroup);
        }
        self.destroy(cgroup);
        Err((refuse.errno(), Some(cgroup)))
    }

    fn may_create(&self, parent: Cg, name: &str) -> Result<(), Errno> {
        if name.len() > 4095 {
            return Err(Errno::ENAMETOOLONG);
        }
        if name.is_empty() || name.contains('/') {
            return Err(Errno::ENOENT);
        }
        let taken = self.children(parent).any(|at| self.cgroups[at].name == name);
        if name == "." || name == ".." || taken {
            return Err(Errno::EEXIST);
        }
        if name.contains('\n') {
            return Err(Errno::EINVAL);
        }
        if self.cgroups[parent].removed {
            return Err(Errno::ENODEV);
        }
        for (distance, at) in self.up(parent).enumerate() {
            let limits = &self.cgroups[at];
            if self.nr_descendants(at) >= limits.max_descendants || distance >= limits.max_depth {
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    pub fn set_max_depth(&mut self, cgroup: Cg, max: usize) -> Result<(), Errno> {
        let at = &mut self.cgroups[cgroup];
        at.max_depth = if at.removed { return Err(Errno::ENOENT) } else { max };
        Ok(())
    }

    pub fn set_max_descendants(&mut self, cgroup: Cg, max: usize) -> Result<(), Errno> {
        let at = &mut self.cgroups[cgroup];
        at.max_descendants = if at.removed { return Err(Errno::ENOENT) } else { max };
        Ok(())
    }

    pub fn remove(&mut self, cgroup: Cg) -> Result<(), Errno> {
        if self.cgroups[cgroup].removed {
            return Ok(());
        }
        let forks = self.forks.iter().any(|fork| fork.cgroup == cgroup);
        let child = self.children(cgroup).next().is_some();
        if cgroup == 0 || forks || child || !self.threads(cgroup).is_empty() {
            return Err(Errno::EBUSY);
        }
        self.destroy(cgroup);
        Ok(())
    }

    fn destroy(&mut self, cgroup: Cg) {
        let drained = !self.populated(cgroup);
        self.cgroups[cgroup].removed = true;
        for file in &mut self.cgroups[cgroup].files {
            file.gone = true;
        }
        for kind in KINDS {
            if self.css(cgroup, kind).born == Born::Online {
                let killed = kind.is_none() || drained;
                self.enter(cgroup, kind, if killed { Phase::Killed } else { Phase::Dying });
            }
        }
    }

    // Readers.

    pub fn open(&mut self, reader: usize) {
        if self.readers[reader].depth == 0 {
            self.sections += 1;
            self.readers[reader].section = self.sections;
        }
        self.readers[reader].depth += 1;
    }

    pub fn close(&mut self, reader: usize) {
        self.readers[reader].depth -= 1;
    }

    /// The sections open now, by numbers that are never used again.
    pub fn open_sections(&self) -> BTreeSet<u64> {
        let open = self.readers.iter().filter(|reader| reader.depth > 0);
        open.map(|reader| reader.section).collect()
    }

    /// `try_get` and, where asked for, `try_get_online`.
    pub fn get(&mut self, cgroup: Cg, kind: Kind, online: bool) -> bool {
        let killed = self.css(cgroup, kind).phase >= Phase::Killed;
        let got = self.references(cgroup, kind) > 0 && !(online && killed);
        self.css_mut(cgroup, kind).users += usize::from(got);
        got
    }

    pub fn put(&mut self, cgroup: Cg, kind: Kind) {
        self.css_mut(cgroup, kind).users -= 1;
    }

    // Teardown.

    pub fn css(&self, cgroup: Cg, kind: Kind) -> &CssModel {
        &self.cgroups[cgroup].css[kind.unwrap_or(2)]
    }

    fn css_mut(&mut self, cgroup: Cg, kind: Kind) -> &mut CssModel {
        &mut self.cgroups[cgroup].css[kind.unwrap_or(2)]
    }

    fn enter(&mut self, cgroup: Cg, kind: Kind, phase: Phase) {
        let (now, waits) = (self.now, self.open_sections());
        let css = self.css_mut(cgroup, kind);
        css.phase = phase;
        css.since = now;
        css.waits = waits;
    }

    /// Cgroups right below this one that ever had a css of this kind.
    fn css_below(&self, cgroup: Cg, kind: Kind) -> impl Iterator<Item = Cg> {
        self.all().filter(move |&at| {
            self.cgroups[at].parent == Some(cgroup) && self.css(at, kind).born != Born::Never
        })
    }

    /// Those whose css this one lists as a child.
    pub fn css_children(&self, cgroup: Cg, kind: Kind) -> impl Iterator<Item = Cg> {
        self.css_below(cgroup, kind).filter(move |&at| {
            let css = self.css(at, kind);
            css.born == Born::Online && css.phase < Phase::Released
        })
    }

    /// References on a css that came online: its own until it is killed, that
    /// of the work queued to finish its kill or to take it offline, its users',
    /// one for the tasks and forks of its cgroup, and those of what is below.
    pub fn references(&self, cgroup: Cg, kind: Kind) -> usize {
        let css = self.css(cgroup, kind);
        let is_self = kind.is_none();
        let base = css.phase < Phase::Killed;
        let work = match css.phase {
            Phase::Dying => !self.populated(cgroup),
            Phase::Killed => !is_self,
            _ => false,
        };
        let tasks = self.tasks.iter().any(|task| task.cgroup == cgroup && !task.freed)
            || self.forks.iter().any(|fork| fork.cgroup == cgroup);
        let held_by = |at: Cg, kind| {
            self.css(at, kind).born != Born::Never && self.css(at, kind).phase < Phase::Freed
        };
        let below = self.css_below(cgroup, kind).filter(|&at| held_by(at, kind)).count();
        // The root outlives its csses, so they need not hold it.
        let of_cgroup = match is_self && cgroup != 0 {
            true => [PIDS, GATE].iter().filter(|&&own| held_by(cgroup, Some(own))).count(),
            false => 0,
        };
        usize::from(base) + usize::from(work) + usize::from(tasks) + css.users + below + of_cgroup
    }

    fn children_offline(&self, cgroup: Cg, kind: Kind) -> bool {
        self.css_children(cgroup, kind).all(|at| self.css(at, kind).phase >= Phase::Offline)
    }

    /// The work on one css that a queue holds, done. True if there was any.
    fn step(&mut self, queue: Queue, cgroup: Cg, kind: Kind) -> bool {
        let css = self.css(cgroup, kind);
        let readers_left = css.waits.is_disjoint(&self.open_sections());
        let next = match (queue, css.phase, css.born) {
            (_, _, Born::Never) => return false,
            (Queue::Free, Phase::Online, Born::Still) if readers_left => Phase::Freed,
            (_, _, Born::Still) => return false,
            (Queue::Offline, Phase::Dying, _) if !self.populated(cgroup) => Phase::Killed,
            (Queue::Offline, Phase::Killed, _)
                if kind.is_some() && readers_left && self.children_offline(cgroup, kind) =>
            {
                Phase::Offline
            }
            (Queue::Release, Phase::Killed, _)
                if kind.is_none() && self.references(cgroup, kind) == 0 =>
            {
                Phase::Released
            }
            (Queue::Release, Phase::Offline, _) if self.references(cgroup, kind) == 0 => {
                Phase::Released
            }
            (Queue::Free, Phase::Released, _) if readers_left => Phase::Freed,
            _ => return false,
        };
        self.enter(cgroup, kind, next);
        true
    }

    /// Does what there is to do on one queue. True if anything was.
    pub fn pump_queue(&mut self, queue: Queue) -> bool {
        let mut ran = false;
        while self.round(queue) {
            ran = true;
        }
        ran
    }

    fn round(&mut self, queue: Queue) -> bool {
        let mut ran = false;
        for at in self.all() {
            for kind in KINDS {
                ran |= self.step(queue, at, kind);
            }
        }
        ran
    }

    /// Runs all queues; returns how much work waits for readers.
    pub fn pump(&mut self) -> usize {
        while Queue::ALL.map(|queue| self.pump_queue(queue)).contains(&true) {}
        let waits = |&(at, kind): &(Cg, Kind)| match (self.css(at, kind).phase, kind) {
            (Phase::Online, _) => self.css(at, kind).born == Born::Still,
            (Phase::Killed, Some(_)) => self.children_offline(at, kind),
            (Phase::Released, _) => true,
            _ => false,
        };
        self.all().flat_map(|at| KINDS.map(|kind| (at, kind))).filter(waits).count()
    }

    /// Tasks that a css at this cgroup names as those that delay its kill.
    pub fn waited_for(&self, cgroup: Cg) -> BTreeSet<Tk> {
        self.tasks_where(|_, task| !task.dead && self.within(task.cgroup, cgroup))
    }

    /// Those that delay its release.
    pub fn unfreed(&self, cgroup: Cg) -> BTreeSet<Tk> {
        let holds = |task: &TaskModel| task.dead && !task.freed;
        self.tasks_where(|_, task| holds(task) && self.within(task.cgroup, cgroup))
    }

    // cgroup.stat.

    pub fn nr_descendants(&self, cgroup: Cg) -> usize {
        let live = |at: &Cg| *at != cgroup && !self.cgroups[*at].removed;
        self.all().filter(live).filter(|&at| self.within(at, cgroup)).count()
    }

    pub fn nr_dying_descendants(&self, cgroup: Cg) -> usize {
        let dying = |at: &Cg| *at != cgroup && self.is_dying(*at, None);
        self.all().filter(dying).filter(|&at| self.within(at, cgroup)).count()
    }

    pub fn nr_subsys(&self, cgroup: Cg, kind: usize) -> usize {
        let css = self.css(cgroup, Some(kind));
        let published = css.born == Born::Online && css.phase < Phase::Offline;
        if published { 1 + self.nr_descendants(cgroup) } else { 0 }
    }

    pub fn nr_dying_subsys(&self, cgroup: Cg, kind: usize) -> usize {
        let dying = self.all().filter(|&at| self.is_dying(at, Some(kind)));
        dying.filter(|&at| self.within(at, cgroup)).count()
    }

    fn is_dying(&self, cgroup: Cg, kind: Kind) -> bool {
        let css = self.css(cgroup, kind);
        let dying = Phase::Dying <= css.phase && css.phase < Phase::Released;
        css.born == Born::Online && dying
    }

    // Birth and death.

    /// The cgroup a fork by this task would be in.
    pub fn forker(&self, task: Tk) -> Result<Cg, Errno> {
        let it = &self.tasks[task];
        let refuse = it.exiting || self.tasks[it.leader].killed;
        if refuse { Err(Errno::ESRCH) } else { Ok(it.cgroup) }
    }

    pub fn fork(
        &mut self,
        cgroup: Cg,
        refuse: Refusal,
        asked: &mut Vec<Asked>,
    ) -> Result<(), Errno> {
        if self.cgroups[cgroup].removed {
            return Err(Errno::ENODEV);
        }
        self.try_charge(cgroup, asked)?;
        if refuse == Refusal::Fork {
            return Err(refuse.errno());
        }
        self.forks.push(ForkModel { cgroup, kills: self.cgroups[cgroup].kills });
        Ok(())
    }

    pub fn cancel(&mut self, fork: usize) {
        self.forks.remove(fork);
    }

    /// Where the tasks of a process are that can be moved. All are in one place,
    /// as nothing here moves them.
    fn process(&self, of: Tk) -> Option<Cg> {
        let leader = self.tasks[of].leader;
        let lives = |task: &&TaskModel| task.leader == leader && !task.exiting;
        self.tasks.iter().find(lives).map(|task| task.cgroup)
    }

    pub fn publish(&mut self, fork: usize, sibling: Option<Tk>, asked: &mut Vec<Asked>) -> Tk {
        let ForkModel { cgroup, kills } = self.forks[fork];
        let leader = sibling.map(|at| self.tasks[at].leader);
        let process = sibling.and_then(|at| self.process(at)).unwrap_or(cgroup);
        if process != cgroup {
            // The thread follows, charged there before it is uncharged here.
            for at in self.pids_levels(process) {
                self.cgroups[at].peak = self.cgroups[at].peak.max(self.pids_current(at) + 1);
            }
        }
        self.forks.remove(fork);
        let task = self.join(process, leader, asked);
        if process == cgroup && self.cgroups[cgroup].kills != kills {
            self.kill_process(task, asked);
        }
        task
    }

    pub fn adopt(
        &mut self,
        cgroup: Cg,
        sibling: Option<Tk>,
        asked: &mut Vec<Asked>,
    ) -> Result<Tk, Errno> {
        if self.cgroups[cgroup].removed {
            return Err(Errno::ENODEV);
        }
        if sibling.and_then(|at| self.process(at)).is_some_and(|at| at != cgroup) {
            return Err(Errno::EOPNOTSUPP);
        }
        let leader = sibling.map(|at| self.tasks[at].leader);
        let task = self.join(cgroup, leader, asked);
        for at in self.pids_levels(cgroup) {
            self.cgroups[at].peak = self.cgroups[at].peak.max(self.pids_current(at));
        }
        Ok(task)
    }

    fn join(&mut self, cgroup: Cg, leader: Option<Tk>, asked: &mut Vec<Asked>) -> Tk {
        let id = self.tasks.len();
        let task = TaskModel {
            cgroup,
            leader: leader.unwrap_or(id),
            exiting: false,
            dead: false,
            reaped: false,
            freed: false,
            killed: false,
        };
        self.flipping(asked, |this| this.tasks.push(task));
        id
    }

    pub fn exit(&mut self, task: Tk) -> Result<(), Errno> {
        let it = &mut self.tasks[task];
        if it.exiting {
            return Err(Errno::ESRCH);
        }
        it.exiting = true;
        Ok(())
    }

    pub fn dead(&mut self, task: Tk, asked: &mut Vec<Asked>) -> Result<(), Errno> {
        if !self.tasks[task].exiting || self.tasks[task].dead {
            return Err(Errno::ESRCH);
        }
        self.flipping(asked, |this| this.tasks[task].dead = true);
        Ok(())
    }

    pub fn reap(&mut self, task: Tk) -> Result<(), Errno> {
        let it = &mut self.tasks[task];
        if !it.exiting || it.reaped {
            return Err(Errno::ESRCH);
        }
        it.reaped = true;
        Ok(())
    }

    pub fn free(&mut self, task: Tk) -> Result<(), Errno> {
        let it = &mut self.tasks[task];
        if !it.dead || !it.reaped || it.freed {
            return Err(Errno::ESRCH);
        }
        it.freed = true;
        Ok(())
    }

    pub fn retire(&mut self, task: Tk, asked: &mut Vec<Asked>) -> Result<(), Errno> {
        self.exit(task)?;
        self.dead(task, asked)?;
        self.reap(task)?;
        self.free(task)
    }

    pub fn kill(&mut self, cgroup: Cg, asked: &mut Vec<Asked>) -> Result<(), Errno> {
        if self.cgroups[cgroup].removed {
            return Err(Errno::ENOENT);
        }
        for at in self.all() {
            if self.cgroups[at].removed || !self.within(at, cgroup) {
                continue;
            }
            self.cgroups[at].kills += 1;
            for task in self.threads(at).union(&self.procs(at)) {
                self.kill_process(*task, asked);
            }
        }
        Ok(())
    }

    /// Once per process.
    fn kill_process(&mut self, task: Tk, asked: &mut Vec<Asked>) {
        let leader = self.tasks[task].leader;
        if !std::mem::replace(&mut self.tasks[leader].killed, true) {
            asked.push(Asked::Kill(leader));
        }
    }
}
