//! Everything the core can be asked, against what the model says, and the rules
//! of teardown.
//!
//! A rule that only the model checked would fall with a mistake in the model, so
//! [`Pair::compare`] ends with the invariants on what the *core* says.

use crate::pair::{Check, Pair};
use crate::reference::*;
use cgrove_core::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Demands that core and model say the same.
macro_rules! agree {
    ($core:expr, $model:expr, $($what:tt)+) => {{
        let (core, model) = (&$core, &$model);
        if core != model {
            let what = format!($($what)+);
            return Err(format!("{what}: the core says {core:?}, the model {model:?}"));
        }
    }};
}

macro_rules! demand {
    ($cond:expr, $($why:tt)+) => {
        if !$cond {
            return Err(format!($($why)+));
        }
    };
}
pub(crate) use {agree, demand};

impl Pair<'_> {
    pub fn css(&self, at: Cg, kind: Kind) -> Option<&CssRef> {
        self.cgroups[at].css[kind.unwrap_or(2)].as_ref()
    }

    pub fn phase(&self, css: &CssRef) -> Phase {
        self.core.h.lifecycle(css).phase
    }

    /// Compares everything that can be asked, and checks the rules.
    pub fn compare(&mut self) -> Check {
        for at in 0..self.cgroups.len() {
            self.compare_cgroup(at)?;
            self.compare_pids(at)?;
            self.compare_gate(at)?;
            for kind in KINDS {
                self.compare_css(at, kind)?;
            }
        }
        for (at, task) in self.tasks.iter().enumerate() {
            let it = &self.model.tasks[at];
            let stage = [
                (Stage::EXITING, it.exiting),
                (Stage::DEAD, it.dead),
                (Stage::REAPED, it.reaped),
                (Stage::FREED, it.freed),
                (Stage::KILLED, it.killed),
            ];
            let stage = stage.iter().filter(|(_, taken)| *taken).map(|(stage, _)| *stage);
            agree!(task.stage(), stage.fold(Stage::empty(), Stage::union), "stage of task {at}");
            let cgroup = task.cgroup().map(|cgroup| self.find(cgroup.id()));
            agree!(cgroup, (!it.freed).then_some(it.cgroup), "cgroup of task {at}");
        }
        self.rules()
    }

    fn compare_cgroup(&self, at: Cg) -> Check {
        let (h, model) = (&self.core.h, &self.model);
        let cgroup = &self.cgroups[at].cgroup;
        let ids = |tasks: Vec<Arc<Task>>| {
            let listed = tasks.len();
            let set: BTreeSet<Tk> = tasks.iter().map(|task| task.id().0 as Tk).collect();
            (set.len() == listed).then_some(set)
        };
        agree!(cgroup.is_dead(), model.cgroups[at].removed, "whether {at} is dead");
        agree!(cgroup.path(), model.path(at), "path of {at}");
        agree!(cgroup.populated(), model.populated(at), "populated of {at}");
        agree!(ids(h.threads(cgroup)), Some(model.threads(at)), "cgroup.threads of {at}");
        agree!(ids(h.procs(cgroup).unwrap()), Some(model.procs(at)), "cgroup.procs of {at}");
        let children: BTreeSet<_> =
            h.children(cgroup).iter().map(|child| self.find(child.id())).collect();
        agree!(children, model.children(at).collect::<BTreeSet<_>>(), "children of {at}");
        for &child in &children {
            let name = &model.cgroups[child].name;
            let found = h.child(cgroup, name).map(|found| self.find(found.id()));
            agree!(found, Some(child), "{name:?} in {at}");
        }
        let names = ["pids", "gate"];
        let subsys = [PIDS, GATE].map(|ssid| SubsysStat {
            name: names[ssid],
            live: model.nr_subsys(at, ssid),
            dying: model.nr_dying_subsys(at, ssid),
        });
        let stat = Stat {
            nr_descendants: model.nr_descendants(at),
            nr_dying_descendants: model.nr_dying_descendants(at),
            subsys: subsys.into(),
        };
        agree!(h.stat(cgroup), stat, "cgroup.stat of {at}");
        Ok(())
    }

    fn compare_pids(&self, at: Cg) -> Check {
        let model = &self.model;
        let Some(pids) = &self.cgroups[at].pids else { return Ok(()) };
        agree!(pids.current() as usize, model.pids_current(at), "pids.current of {at}");
        agree!(pids.peak() as usize, model.cgroups[at].peak, "pids.peak of {at}");
        let limit = model.cgroups[at].limit.map_or(Limit::Max, Limit::N);
        agree!(pids.max(), limit, "pids.max of {at}");
        let events = (pids.events(), pids.events_local());
        agree!(events, model.pids_events(at), "pids.events, pids.events.local of {at}");
        for more in [0, 1, 3] {
            agree!(pids.fits(more), model.fits(at, more), "whether {more} more fit in {at}");
        }
        Ok(())
    }

    fn compare_gate(&self, at: Cg) -> Check {
        let model = &self.model;
        let css = model.css(at, Some(GATE));
        let gate = self.core.gate.css(self.cgroups[at].cgroup.id());
        agree!(gate.is_some(), css.born != Born::Never, "whether {at} has a gate");
        let Some(gate) = gate else { return Ok(()) };
        let online = css.born == Born::Online;
        let verbs = [
            // The root's csses are online without being asked.
            (online && at != 0, "online"),
            (online && css.phase >= Phase::Dying, "killed"),
            (online && css.phase >= Phase::Offline, "offline"),
            (online && css.phase >= Phase::Released, "released"),
            (css.phase >= Phase::Freed, "free"),
        ];
        let verbs: Vec<_> = verbs.iter().filter(|(said, _)| *said).map(|(_, verb)| *verb).collect();
        agree!(*gate.heard.lock().unwrap(), verbs, "what the gate of {at} heard");
        let charged = gate.charged.load(Ordering::Relaxed);
        agree!(charged, model.gate_charged(at), "tasks charged to the gate of {at}");
        let exits = gate.exits.load(Ordering::Relaxed);
        agree!(exits, model.gate_exits(at), "exits at the gate of {at}");
        Ok(())
    }

    fn compare_css(&self, at: Cg, kind: Kind) -> Check {
        let (h, model) = (&self.core.h, &self.model);
        let want = model.css(at, kind);
        let published = kind.map(|ssid| self.cgroups[at].cgroup.css(["pids", "gate"][ssid]));
        if let Some(published) = published {
            let found = want.born == Born::Online && want.phase < Phase::Offline;
            agree!(published.is_some(), found, "whether {at} has css {kind:?}");
        }
        let Some(css) = self.css(at, kind) else {
            demand!(want.born != Born::Online, "a css {kind:?} is missing in {at}");
            return Ok(());
        };
        let child = |at: Cg| self.css(at, kind).expect("it came online").id();
        let expected = Lifecycle {
            phase: want.phase,
            since: Time(want.since),
            tasks: model.waited_for(at).into_iter().map(|task| TaskId(task as u64)).collect(),
            unfreed: model.unfreed(at).into_iter().map(|task| TaskId(task as u64)).collect(),
            references: model.references(at, kind) as u64,
            children: model.css_children(at, kind).map(child).collect(),
        };
        agree!(h.lifecycle(css), expected, "lifecycle of css {kind:?} of {at}");
        agree!(css.is_populated(), model.populated(at), "populated of css {kind:?} of {at}");
        let dying = kind.is_some() && want.phase >= Phase::Dying;
        agree!(css.is_dying(), dying, "whether css {kind:?} of {at} is dying");
        let online = match kind {
            Some(_) => want.phase < Phase::Offline,
            None => want.phase == Phase::Online,
        };
        agree!(css.is_online(), online, "whether css {kind:?} of {at} is online");
        Ok(())
    }

    /// The rules of teardown, by what the core alone says.
    fn rules(&mut self) -> Check {
        let sections = self.model.open_sections();
        let phases: Vec<[Option<Phase>; 3]> = (self.cgroups.iter())
            .map(|it| it.css.each_ref().map(|css| css.as_ref().map(|css| self.phase(css))))
            .collect();
        let undead: BTreeSet<Cg> = (self.tasks.iter())
            .filter(|task| !task.stage().contains(Stage::DEAD))
            .filter_map(|task| Some(self.find(task.cgroup()?.id())))
            .collect();
        for at in 0..self.cgroups.len() {
            let above: Vec<_> = std::iter::successors(Some(at), |&at| {
                self.cgroups[at].cgroup.parent().map(|parent| self.find(parent.id()))
            })
            .collect();
            for kind in [PIDS, GATE] {
                let past = |at: Cg| phases[at][kind] >= Some(Phase::Offline);
                for &top in &above {
                    demand!(
                        !(undead.contains(&at) && past(top)),
                        "I1: css_offline in {top}, but a task of {at} has not switched out"
                    );
                }
                if let [_, parent, ..] = above[..] {
                    let ended = past(at) || phases[at][kind].is_none();
                    demand!(ended || !past(parent), "I2: {parent} went offline before {at}");
                }
            }
            self.rules_of(at, &phases, &sections)?;
        }
        Ok(())
    }

    fn rules_of(
        &mut self,
        at: Cg,
        phases: &[[Option<Phase>; 3]],
        sections: &BTreeSet<u64>,
    ) -> Check {
        let core = self.core;
        let it = &mut self.cgroups[at];
        let published: Vec<_> = core.h.csses(&it.cgroup).iter().map(|css| css.id()).collect();
        let own: Vec<_> = it.css.iter().flatten().map(|css| css.id()).collect();
        let slots: BTreeSet<_> = published.iter().collect();
        demand!(slots.len() == published.len(), "I6: a css twice in {at}");
        demand!(published.iter().all(|id| own.contains(id)), "I6: a second css in a slot of {at}");
        for (kind, css) in it.css.iter().enumerate() {
            let Some(css) = css else { continue };
            let (seen, populated) = (&mut it.seen[kind], css.is_populated());
            let phase = phases[at][kind];
            if css.is_dying() {
                demand!(
                    seen.readers.is_none() || seen.populated || !populated,
                    "I9: dying css {kind} of {at} gained population"
                );
                let readers = seen.readers.get_or_insert_with(|| sections.clone());
                demand!(
                    phase < Some(Phase::Offline) || readers.is_disjoint(sections),
                    "I8: css {kind} of {at} went offline under a reader"
                );
            }
            seen.populated = populated;
        }
        let stat = core.h.stat(&self.cgroups[at].cgroup);
        for (kind, subsys) in stat.subsys.iter().enumerate() {
            let dying = (0..self.cgroups.len())
                .filter(|&below| self.model.within(below, at))
                .filter_map(|below| phases[below][kind])
                .filter(|&phase| Phase::Dying <= phase && phase < Phase::Released);
            agree!(subsys.dying, dying.count(), "I7: dying csses {kind} at and below {at}");
        }
        Ok(())
    }
}
