//! Finding every task of a tree, when the tree will not hold still.
//!
//! **Problem.** Membership is ancestry: whatever the command started is a descendant of the
//! reaper, and stays one because the reaper is a child subreaper. But `/proc` is read one process
//! at a time. A task is missed when its parent dies after the new parent's list was read: it moved
//! up the tree behind the reader's back. To count too few would let the ledger give a fork away.
//!
//! **Mechanism.** A task only ever moves *up*, and only when a parent dies. So a pass is believed
//! when it leaves no death unexplained. Pass B is *complete* if, compared with the pass A before:
//!
//! 1. everything A saw, B saw too;
//! 2. nothing that B listed had vanished when B came to look at it, thread or process;
//! 3. nothing was a zombie in B that was not a zombie in A.
//!
//! Why that suffices while the gate answers nobody (no task is born between the start of A and the
//! end of B, except from forks allowed earlier, whose charges the ledger still holds): suppose a
//! task T alive throughout B is missed. At B's start it has a parent p, and p dies during B. If p
//! is in B's list, it was visited alive (T would be listed), vanished (rule 2) or a new zombie
//! (rule 3). If p is in A, rule 1 puts it in B. So p is missed by both passes, and the argument
//! repeats for p, up to a child of the root. But the root's list is read first, and the root (the
//! caller) reaps nobody meanwhile, so a child of the root is always seen.
//!
//! A process that `/proc` hides can be seen to exist and not be looked into. A census is complete
//! all the same, and says whom it could not look into: a child of such a process is never known to
//! be gone.
//!
//! If the tree churns too much for that, the census is marked incomplete: good for finding tasks, no
//! proof that one is gone.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use crate::error::HostError;
use crate::mutant::{self, Mutant};
use crate::procfs::{Proc, Stat};
use crate::sys::{self, RawPid};

/// How many passes may be made before an incomplete census has to do.
const MAX_PASSES: usize = 6;

/// A task that a pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its thread id.
    pub tid: RawPid,
    /// Its process; equal to `tid` for a leader.
    pub tgid: RawPid,
    /// The whole process has ended and waits to be reaped.
    pub zombie: bool,
    /// It holds a group and is of none: see [`Scanner::spare`].
    pub spared: bool,
    /// What `/proc/TGID/stat` said; only on leaders, and not if this place hides it.
    pub stat: Option<Stat>,
}

impl Seen {
    /// Whether this is the task that stands for its process.
    pub fn is_leader(&self) -> bool {
        self.tid == self.tgid
    }
}

/// The tasks of the tree, by thread id.
#[derive(Debug, Default)]
pub struct Census {
    /// Sorted by `tid`, without duplicates. The root is not part of it.
    pub tasks: Vec<Seen>,
    /// Nothing can be missing (see the module's argument), except threads and children of the
    /// `hidden`.
    pub complete: bool,
    /// Processes that exist and of which this place shows nothing: under `hidepid`, another user's,
    /// or one of our own that made itself undumpable (proc(5), prctl(2)). Ascending.
    pub hidden: Vec<RawPid>,
}

impl Census {
    /// The task with this thread id.
    pub fn get(&self, tid: RawPid) -> Option<&Seen> {
        let at = self.tasks.binary_search_by_key(&tid, |seen| seen.tid).ok()?;
        self.tasks.get(at)
    }

    /// All but the spared.
    pub fn members(&self) -> impl Iterator<Item = &Seen> {
        self.tasks.iter().filter(|seen| !seen.spared)
    }

    /// The processes that have not ended.
    pub fn live_processes(&self) -> impl Iterator<Item = &Seen> {
        self.members().filter(|seen| seen.is_leader() && !seen.zombie)
    }
}

/// One process for good: its pid and its start time.
pub type Identity = (RawPid, u64);

/// Reads the tree below one process.
pub struct Scanner {
    /// The open `/proc`, for the caller's own look-ups too.
    pub proc: Proc,
    root: RawPid,
    /// Below the root, but not of the tree, nor is what is below them.
    without: Vec<Identity>,
    spared: Vec<RawPid>,
    children_files: bool,
    queue: Vec<RawPid>,
    tids: Vec<RawPid>,
}

impl Scanner {
    /// A scanner for the descendants of `root`, which must be the calling process.
    ///
    /// Refused if there is no `/proc`, or if it is another pid namespace's: its pids mean other
    /// processes to us (pid_namespaces(7), "/proc and PID namespaces").
    pub fn open(root: RawPid) -> Result<Scanner, HostError> {
        let mut proc = Proc::open().map_err(|e| HostError::call("cannot read /proc", e))?;
        if proc.own_pid() != Some(root) {
            return Err(HostError::new(
                "cannot use /proc",
                "it shows another pid namespace than this one (ESRCH)",
                "mount this one's first: mount -t proc proc /proc",
            ));
        }
        let children_files = proc.children(root, root, &mut Vec::new()).is_ok();
        Ok(Scanner {
            proc,
            root,
            without: Vec::new(),
            spared: Vec::new(),
            children_files,
            queue: Vec::new(),
            tids: Vec::new(),
        })
    }

    /// Leaves these children of the root out, with all that is below them.
    #[must_use]
    pub fn without(mut self, kin: &[Identity]) -> Scanner {
        self.without = kin.to_vec();
        self
    }

    /// The process that the scan starts from.
    pub fn root(&self) -> RawPid {
        self.root
    }

    /// Marks this child of the root in every census from now on: part of the machinery, while
    /// what is below it is of the tree. `false` takes the mark away.
    pub fn spare(&mut self, pid: RawPid, spare: bool) {
        self.spared.retain(|known| *known != pid);
        if spare {
            self.spared.push(pid);
        }
    }

    /// Whether it has that mark.
    pub fn is_spared(&self, pid: RawPid) -> bool {
        self.spared.contains(&pid)
    }

    /// Everyone who has it.
    pub fn spared(&self) -> impl Iterator<Item = RawPid> + '_ {
        self.spared.iter().copied()
    }

    /// The processes right below the root.
    pub fn children(&mut self) -> Vec<Identity> {
        let (root, mut found) = (self.root, Vec::new());
        for seen in self.glance().tasks {
            if let Some(stat) = seen.stat
                && stat.ppid == root
            {
                found.push((seen.tid, stat.start));
            }
        }
        found
    }

    /// Appends the children of the root: what the tree orphaned is there at the latest.
    pub(crate) fn orphans(&mut self, to: &mut Vec<RawPid>) {
        let _ = self.proc.children(self.root, self.root, to);
    }

    /// Whether the kernel lists children (CONFIG_PROC_CHILDREN).
    pub fn has_children_files(&self) -> bool {
        self.children_files
    }

    /// One pass: cheap, and no proof of anything.
    pub fn glance(&mut self) -> Census {
        let pass = self.pass();
        Census { tasks: pass.tasks, complete: false, hidden: pass.hidden }
    }

    /// Passes until one is complete; after a few, the last one, marked incomplete.
    pub fn census(&mut self) -> Census {
        let mut before = self.pass();
        if mutant::is(Mutant::OnePass) {
            return Census { tasks: before.tasks, complete: true, hidden: before.hidden };
        }
        for _ in 1..MAX_PASSES {
            let pass = self.pass();
            if pass.confirms(&before) {
                return Census { tasks: pass.tasks, complete: true, hidden: pass.hidden };
            }
            before = pass;
        }
        Census { tasks: before.tasks, complete: false, hidden: before.hidden }
    }

    /// One pass over a tree that stands still: whether it shows all those that were told of and
    /// nobody else. `halts` says of a task `Some(true)`: it has come to a halt; `Some(false)`: it
    /// is told of, and does not matter; `None`: unknown.
    ///
    /// Where groups beside it run on, `Some(false)` is for their tasks, and what follows holds for
    /// the group's reaper in place of the root: as long as it lives it cannot be missed with those
    /// below it who are seen.
    ///
    /// One pass is enough. A task that it misses has a parent when the pass begins. If the pass
    /// saw that parent alive, it read of the child then; so the parent died first, or is missed
    /// itself, and so on up to a child of the root, which cannot be missed. Whoever is seen has
    /// halted and cannot die but by SIGKILL, and then is a zombie, or vanished, or is missing here.
    pub(crate) fn nobody_but(
        &mut self,
        mut halts: impl FnMut(&Seen) -> Option<bool>,
        halted: usize,
    ) -> bool {
        let pass = self.pass();
        let mut seen = 0;
        for task in &pass.tasks {
            if task.spared {
                continue;
            }
            match halts(task) {
                Some(halts) => seen += usize::from(halts && !task.zombie),
                None => return false,
            }
        }
        !pass.broken && seen == halted
    }

    /// Whether `pid` descends from the root, by its chain of parents.
    pub fn contains(&mut self, pid: RawPid) -> bool {
        self.leads_to_root(pid, &[])
    }

    /// Whether a walk would find `pid`, with these `hidden` in the tree.
    pub fn finds(&mut self, pid: RawPid, hidden: &[RawPid]) -> bool {
        self.proc.stat(pid).is_ok() && self.leads_to_root(pid, hidden)
    }

    fn leads_to_root(&mut self, pid: RawPid, hidden: &[RawPid]) -> bool {
        let mut at = pid;
        // Parents are finitely many, but the chain can change while it is read.
        for _ in 0..4096 {
            if at == self.root {
                return pid != self.root;
            }
            if hidden.contains(&at) {
                return true;
            }
            match self.proc.stat(at) {
                Ok(stat) if stat.ppid > 0 => at = stat.ppid,
                _ => return false,
            }
        }
        false
    }

    fn pass(&mut self) -> Pass {
        let mut pass = Pass::default();
        if self.children_files {
            self.walk_children(&mut pass);
        } else {
            self.walk_parents(&mut pass);
        }
        sort(&mut pass.tasks);
        pass.hidden.sort_unstable();
        pass
    }

    fn walk_children(&mut self, pass: &mut Pass) {
        let mut queue = std::mem::take(&mut self.queue);
        queue.clear();
        if self.proc.children(self.root, self.root, &mut queue).is_err() {
            pass.broken = true;
        }
        let (mut next, mut hidden) = (0, 0);
        loop {
            while let Some(&pid) = queue.get(next) {
                next += 1;
                self.visit(pid, None, Some(&mut queue), pass);
            }
            if pass.hidden.len() == hidden {
                break;
            }
            hidden = pass.hidden.len();
            self.below_the_hidden(&mut queue, pass);
        }
        self.queue = queue;
    }

    /// A process that does not tell its children is still named by them, if they can be seen.
    fn below_the_hidden(&mut self, queue: &mut Vec<RawPid>, pass: &mut Pass) {
        let mut pids = Vec::new();
        if self.proc.processes(&mut pids).is_err() {
            pass.broken = true;
        }
        for pid in pids {
            if let Ok(stat) = self.proc.stat(pid)
                && pass.hidden.contains(&stat.ppid)
                && !queue.contains(&pid)
            {
                queue.push(pid);
            }
        }
    }

    /// Without children files: every process's parent, then the closure from the root. A parent
    /// that the listing lacks vanished while it was read, which breaks the pass.
    fn walk_parents(&mut self, pass: &mut Pass) {
        let mut pids = Vec::new();
        if self.proc.processes(&mut pids).is_err() {
            pass.broken = true;
        }
        let mut stats: HashMap<RawPid, Stat> = HashMap::with_capacity(pids.len());
        let mut below: HashMap<RawPid, Vec<RawPid>> = HashMap::new();
        for pid in pids {
            if let Ok(stat) = self.proc.stat(pid) {
                stats.insert(pid, stat);
                below.entry(stat.ppid).or_default().push(pid);
            }
        }
        pass.broken |= below.keys().any(|ppid| *ppid != 0 && !stats.contains_key(ppid));
        let mut queue = below.remove(&self.root).unwrap_or_default();
        while let Some(pid) = queue.pop() {
            let stat = stats.get(&pid).copied();
            if stat.is_some_and(|stat| self.without.contains(&(pid, stat.start))) {
                continue;
            }
            self.visit(pid, stat, None, pass);
            queue.extend(below.remove(&pid).unwrap_or_default());
        }
    }

    /// Looks at one process: its state, its threads and, into `children`, its children.
    fn visit(
        &mut self,
        pid: RawPid,
        known: Option<Stat>,
        mut children: Option<&mut Vec<RawPid>>,
        pass: &mut Pass,
    ) {
        let stat = match known.map_or_else(|| self.proc.stat(pid), Ok) {
            Ok(stat) => stat,
            Err(_) => {
                // Gone, or hidden from us (hidepid, no descriptor left). Something hidden is
                // alive as far as anyone here can tell.
                if sys::kill(pid, 0) == Err(Errno::ESRCH) {
                    pass.broken = true;
                } else {
                    pass.hidden.push(pid);
                    pass.tasks.push(Seen {
                        tid: pid,
                        tgid: pid,
                        zombie: false,
                        spared: false,
                        stat: None,
                    });
                }
                return;
            }
        };
        if self.without.contains(&(pid, stat.start)) {
            return;
        }
        let zombie = stat.is_zombie() && stat.threads <= 1;
        let spared = !self.spared.is_empty() && self.spared.contains(&pid);
        pass.tasks.push(Seen { tid: pid, tgid: pid, zombie, spared, stat: Some(stat) });
        if zombie {
            return;
        }
        let mut tids = std::mem::take(&mut self.tids);
        tids.clear();
        if stat.threads <= 1 {
            tids.push(pid);
        } else if self.proc.threads(pid, &mut tids).is_err() {
            pass.broken = true;
        }
        for &tid in &tids {
            if tid != pid {
                pass.tasks.push(Seen { tid, tgid: pid, zombie: false, spared, stat: None });
            }
            if let Some(queue) = children.as_deref_mut()
                && self.proc.children(pid, tid, queue).is_err()
            {
                pass.broken = true;
            }
        }
        self.tids = tids;
    }
}

impl AsFd for Scanner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }
}

/// What one walk over the tree saw.
#[derive(Debug, Default)]
struct Pass {
    tasks: Vec<Seen>,
    /// Something that was listed was gone when it was looked at.
    broken: bool,
    /// Exist, but this place hides them, so that their children cannot be listed.
    hidden: Vec<RawPid>,
}

impl Pass {
    /// The three rules of the module's argument. What became hidden in between was not looked
    /// into by one of the passes.
    fn confirms(&self, before: &Pass) -> bool {
        if self.broken || self.hidden != before.hidden {
            return false;
        }
        // Both are sorted: walk them side by side.
        let mut old = before.tasks.iter().peekable();
        for new in &self.tasks {
            match old.peek() {
                Some(was) if was.tid < new.tid => return false,
                Some(was) if was.tid == new.tid => {
                    if new.zombie && !was.zombie {
                        return false;
                    }
                    old.next();
                }
                _ if new.zombie => return false,
                _ => {}
            }
        }
        old.next().is_none()
    }
}

/// Sorts by thread id and keeps the first of several sightings.
fn sort(tasks: &mut Vec<Seen>) {
    tasks.sort_by_key(|seen| seen.tid);
    tasks.dedup_by_key(|seen| seen.tid);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(tasks: &[(RawPid, bool)]) -> Pass {
        let tasks = tasks
            .iter()
            .map(|&(tid, zombie)| Seen { tid, tgid: tid, zombie, spared: false, stat: None })
            .collect();
        Pass { tasks, ..Pass::default() }
    }

    #[test]
    fn a_pass_confirms_only_without_an_unexplained_death() {
        let a = pass(&[(1, false), (2, false), (3, true)]);
        assert!(pass(&[(1, false), (2, false), (3, true)]).confirms(&a));
        assert!(pass(&[(1, false), (2, false), (3, true), (4, false)]).confirms(&a));
        // rule 1: 2 is gone
        assert!(!pass(&[(1, false), (3, true)]).confirms(&a));
        assert!(!pass(&[(1, false), (2, false)]).confirms(&a));
        // rule 3: 2 died, or a new task is dead already
        assert!(!pass(&[(1, false), (2, true), (3, true)]).confirms(&a));
        assert!(!pass(&[(1, false), (2, false), (3, true), (4, true)]).confirms(&a));
        // rule 2
        let broken = Pass { broken: true, ..pass(&[(1, false), (2, false), (3, true)]) };
        assert!(!broken.confirms(&a));
    }

    #[test]
    fn both_walks_find_a_child() {
        use std::process::{Command, Stdio};
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id() as RawPid;
        // The test harness has threads, so its children are not its main thread's: read them by
        // parent, and by list from the thread that forked.
        let mut scanner = Scanner::open(std::process::id() as RawPid).unwrap();
        scanner.children_files = false;
        assert!(scanner.census().get(pid).is_some());
        assert!(scanner.contains(pid));
        assert!(!scanner.contains(1));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
