//! Halts: stopping single processes for the sake of a limit, where no file shows it.
//!
//! A bandwidth that is used up, and memory that is to be measured while it does not grow, both stop
//! a process for a few milliseconds. To the core it keeps running: `cgroup.freeze` and
//! `cgroup.events` are the user's. A halt and a freeze can hold the same task, begin and end in any
//! order, and only when neither holds it does it go on.
//!
//! A halt is asked for and comes about when it does: nothing here waits. Who asks looks again
//! whether the process still uses CPU time, and if so asks once more, which finds threads that are
//! new.

use super::{Freezer, Loose, Standing, name_of};
use crate::procfs::Proc;
use crate::sys::{self, RawPid};

impl Freezer {
    /// Stops these processes, with all the threads that they have now.
    pub(crate) fn hold(&mut self, pids: &[RawPid], proc: &mut Proc) {
        if pids.is_empty() {
            return;
        }
        let impatient = sys::Impatient::begin();
        let mut tids = Vec::new();
        for &pid in pids {
            tids.clear();
            if proc.threads(pid, &mut tids).is_err() {
                tids.push(pid);
            }
            for &tid in &tids {
                self.held.insert(tid, pid);
                self.seize(tid, proc, &impatient);
                match self.tasks.get(&tid) {
                    None => drop(self.held.remove(&tid)),
                    Some(Standing::Loose(why)) if self.unheld.is_none() => {
                        let (why, name) = (why.clone(), name_of(pid, proc));
                        self.unheld = Some(Loose { tid, pid, name, why });
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// Ends the halt of a process. A task that is frozen too stays so.
    pub(crate) fn release(&mut self, pid: RawPid, proc: &mut Proc) {
        let of_it = |(tid, of): (&RawPid, &RawPid)| (*of == pid).then_some(*tid);
        let tids: Vec<RawPid> = self.held.iter().filter_map(of_it).collect();
        for tid in tids {
            self.held.remove(&tid);
            if !self.ordered.contains(&tid) {
                self.let_go(tid, proc);
            }
        }
    }

    /// Whether every task that is held has come to its stop, or never will.
    pub(crate) fn all_held(&self) -> bool {
        let on_its_way = |tid: &RawPid| {
            matches!(
                self.tasks.get(tid),
                Some(Standing::Coming | Standing::Leaving | Standing::Again { .. })
            )
        };
        !self.held.keys().any(on_its_way)
    }

    /// The first task that a halt could not stop.
    pub(crate) fn not_held(&self) -> Option<&Loose> {
        self.unheld.as_ref()
    }
}
