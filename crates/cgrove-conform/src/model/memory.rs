//! The memory of simulated processes: charged page by page, killed for when there is too much.
//!
//! Nothing can be reclaimed in this world (no swap, no page cache), so a limit that is hit kills at
//! once, whoever has most. Charges stay where they were made, as in Linux.

use std::collections::BTreeMap;
use std::sync::Arc;

use cgrove_core::Cgroup;
use cgrove_core::controller::memory::{
    ChargeStep, Effort, Memory, MemoryCss, MemoryEvent, Report, Shrink, ShrinkStep,
};
use cgrove_core::controller::page_counter::PAGE_SIZE;

use super::world::{Ended, World};
use crate::case::Signal;

/// How many pages are charged at a time: few enough that a kill is thought worth it.
const BATCH: u64 = 8;

/// How an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocated {
    /// Charged.
    Done,
    /// Charged up to here; the process is over `memory.high` and is kept from going on.
    Throttled,
    /// The process was killed over it.
    Killed,
}

/// Who has charged what.
#[derive(Debug, Default)]
pub struct Hoards {
    by_process: BTreeMap<u32, Vec<(Arc<MemoryCss>, u64)>>,
}

impl Hoards {
    /// A process uses so many bytes more.
    pub fn allocate(&mut self, world: &mut World, pid: u32, bytes: u64) -> Allocated {
        let Some(css) = effective(world, pid) else { return Allocated::Done };
        let mut left = bytes.div_ceil(PAGE_SIZE);
        while left > 0 {
            let pages = BATCH.min(left);
            let mut charging = css.charging(pages, Effort::Normal);
            let mut report = Report::Start;
            let charged = loop {
                let mut fx = world.effects();
                let step = charging.next(report, &mut fx);
                world.take(fx);
                report = match step {
                    ChargeStep::Charged(charged) => break Some(charged),
                    ChargeStep::Reclaim(_) => Report::Reclaimed(0),
                    ChargeStep::Oom { domain } => Report::Killed(self.kill(world, &domain)),
                    ChargeStep::Refused(_) => break None,
                };
                self.collect(world);
                if world.is_over(pid) {
                    return Allocated::Killed;
                }
            };
            let Some(charged) = charged else { return Allocated::Killed };
            left -= pages;
            self.by_process.entry(pid).or_default().push((Arc::clone(&css), pages));
            if charged.over_high {
                let mut fx = world.effects();
                let _ = css.reclaim_high(pages, &mut fx);
                let delay = css.throttle_high(pages, &mut fx);
                world.take(fx);
                if !delay.is_zero() {
                    return Allocated::Throttled;
                }
            }
        }
        Allocated::Done
    }

    /// A process gives all back.
    pub fn free(&mut self, pid: u32) {
        for (css, pages) in self.by_process.remove(&pid).unwrap_or_default() {
            css.uncharge(pages);
        }
    }

    /// Whoever is over has no memory.
    pub fn collect(&mut self, world: &World) {
        let over: Vec<u32> =
            self.by_process.keys().copied().filter(|pid| world.is_over(*pid)).collect();
        for pid in over {
            self.free(pid);
        }
    }

    /// The rest of a write that lowered a limit.
    pub fn shrink(&mut self, world: &mut World, mut shrink: Shrink) {
        let mut report = Report::Start;
        loop {
            let mut fx = world.effects();
            let step = shrink.next(report, &mut fx);
            world.take(fx);
            report = match step {
                ShrinkStep::Done => return,
                ShrinkStep::Reclaim(_) => Report::Reclaimed(0),
                ShrinkStep::Oom { domain } => Report::Killed(self.kill(world, &domain)),
            };
            self.collect(world);
        }
    }

    /// Kills the process below a css that has most, and its group with it.
    fn kill(&mut self, world: &mut World, domain: &Arc<MemoryCss>) -> bool {
        let most = |(pid, hoard): (&u32, &Vec<(Arc<MemoryCss>, u64)>)| {
            let total: u64 = hoard.iter().map(|(_, pages)| pages).sum();
            (total, *pid)
        };
        let below = |(pid, _): &(&u32, &Vec<(Arc<MemoryCss>, u64)>)| {
            !world.is_over(**pid) && is_below(world, **pid, domain)
        };
        let Some((_, victim)) = self.by_process.iter().filter(below).map(most).max() else {
            return false;
        };
        let Some(home) = effective(world, victim) else { return false };
        let group = home.oom_group_of(domain);
        let mut dead = vec![victim];
        if let Some(group) = &group {
            let mut fx = world.effects();
            group.event(MemoryEvent::OomGroupKill, &mut fx);
            world.take(fx);
            // The victim is of the group, and counted once more as such.
            let all =
                world.threads().filter(|(tid, thread)| *tid == thread.pid).map(|(tid, _)| tid);
            dead.extend(all.filter(|pid| is_below(world, *pid, group)));
        }
        let homes: Vec<_> = dead.iter().map(|pid| effective(world, *pid)).collect();
        for (pid, home) in dead.into_iter().zip(homes) {
            let mut fx = world.effects();
            if let Some(home) = home {
                home.event(MemoryEvent::OomKill, &mut fx);
            }
            world.take(fx);
            world.end(pid, Ended::Killed(Signal::Kill));
        }
        true
    }
}

fn cgroup(world: &World, pid: u32) -> Option<Arc<Cgroup>> {
    world.thread(pid)?.task.cgroup()
}

fn effective(world: &World, pid: u32) -> Option<Arc<MemoryCss>> {
    Memory::effective(&*cgroup(world, pid)?)
}

fn is_below(world: &World, pid: u32, css: &Arc<MemoryCss>) -> bool {
    let mut at = cgroup(world, pid);
    while let Some(cgroup) = at {
        if Memory::css(&cgroup).is_some_and(|own| Arc::ptr_eq(&own, css)) {
            return true;
        }
        at = cgroup.parent().cloned();
    }
    false
}
