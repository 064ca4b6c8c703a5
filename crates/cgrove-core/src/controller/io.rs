//! The `io` controller: who may do how much I/O on which device.
//!
//! Everything here is per device: limits on bytes and operations per second
//! (`io.max`), weights (`io.weight`) and what was done (`io.stat`). A device
//! exists once the embedder has added it; a setting for one that does not is
//! ENODEV, and a device that goes takes its lines out of every file.
//!
//! Use is reported and decisions are asked for: [`IoCss::account`] counts an
//! operation at every level, [`IoCss::may_dispatch`] says whether one may go
//! out now or when to ask again. The arithmetic is in `throttle.rs`.
//!
//! Linux makes `memory` come along wherever `io` is on, so that the owner of a
//! page in writeback is known (`depends_on`).

mod throttle;

pub use throttle::THROTTLE_SLICE;

use super::memory::Memory;
use super::pids::Limit;
use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::id::Time;
use crate::sync::lock::Leaf;
use crate::sync::{AtomicBool, Ordering};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use throttle::Bucket;

/// The default `io.weight`.
pub const WEIGHT_DEFAULT: u64 = 100;
/// The smallest and the largest weight.
const WEIGHTS: core::ops::RangeInclusive<u64> = 1..=10_000;

/// A block device by its numbers. Printed as `8:16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What is done to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOp {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A discard. Against limits it is a write of one sector of 512 bytes.
    Discard,
}

/// One of the limits of `io.max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoLimit {
    /// `rbps`: bytes read per second.
    ReadBytes,
    /// `wbps`: bytes written per second.
    WriteBytes,
    /// `riops`: reads per second.
    ReadOps,
    /// `wiops`: writes per second.
    WriteOps,
}

impl IoLimit {
    /// All of them, in the order of `io.max`.
    pub const ALL: [Self; 4] = [Self::ReadBytes, Self::WriteBytes, Self::ReadOps, Self::WriteOps];

    /// The key in `io.max`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadOps => "riops",
            Self::WriteOps => "wiops",
        }
    }

    /// From this number up a limit is none: operations are counted in 32 bits.
    const fn unlimited(self) -> u64 {
        match self {
            Self::ReadBytes | Self::WriteBytes => u64::MAX,
            Self::ReadOps | Self::WriteOps => u32::MAX as u64,
        }
    }
}

/// The line of one device in `io.max`, by [`IoLimit::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoMax([Limit; 4]);

impl IoMax {
    /// One of the limits.
    #[must_use]
    pub const fn get(&self, limit: IoLimit) -> Limit {
        self.0[limit as usize]
    }
}

/// The line of one device in `io.stat`. Linux prints the six figures only if
/// one of those of reads or writes is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStat {
    /// Bytes read.
    pub rbytes: u64,
    /// Bytes written.
    pub wbytes: u64,
    /// Reads.
    pub rios: u64,
    /// Writes.
    pub wios: u64,
    /// Bytes discarded.
    pub dbytes: u64,
    /// Discards.
    pub dios: u64,
}

impl IoStat {
    fn add(&mut self, op: IoOp, bytes: u64, ios: u64) {
        let (total, count) = match op {
            IoOp::Read => (&mut self.rbytes, &mut self.rios),
            IoOp::Write => (&mut self.wbytes, &mut self.wios),
            IoOp::Discard => (&mut self.dbytes, &mut self.dios),
        };
        *total = total.saturating_add(bytes);
        *count = count.saturating_add(ios);
    }
}

/// The devices there are, and whether each divides its time by weight.
type Devices = Leaf<BTreeMap<Device, bool>>;

/// The controller. A clone is a handle on the same devices.
#[derive(Clone, Debug)]
pub struct Io {
    devices: Arc<Devices>,
    alone: bool,
}

impl Default for Io {
    fn default() -> Self {
        Self::new()
    }
}

impl Io {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "io";

    /// With no devices yet.
    #[must_use]
    pub fn new() -> Self {
        Self { devices: Arc::new(Leaf::new(BTreeMap::new())), alone: false }
    }

    /// For a hierarchy that has no `memory` controller to bring along, as in a
    /// Linux built without it.
    #[must_use]
    pub fn without_memory(mut self) -> Self {
        self.alone = true;
        self
    }

    /// A device is there. `weights` says whether its time is divided by weight
    /// (the `enable` of `io.cost.qos`); if not, a weight for it is refused.
    pub fn add_device(&self, device: Device, weights: bool) {
        self.devices.lock().insert(device, weights);
    }

    /// A device is gone. One that comes later under the same numbers finds the
    /// settings of the old one, unless the cgroup has gone meanwhile.
    pub fn remove_device(&self, device: Device) {
        self.devices.lock().remove(&device);
    }

    /// The state behind the files of a cgroup. On the root only `io.stat`
    /// exists; `None` where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<IoCss>> {
        lookup::own(cgroup, Self::NAME)
    }

    /// The state that tasks of a cgroup do I/O on: its own or that of the
    /// nearest cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<IoCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

/// `io` on one cgroup.
#[derive(Debug)]
pub struct IoCss {
    parent: Option<Arc<IoCss>>,
    devices: Arc<Devices>,
    state: Leaf<State>,
    /// The files are gone from their directory.
    killed: AtomicBool,
}

#[derive(Debug)]
struct State {
    weight: u64,
    devices: BTreeMap<Device, PerDevice>,
}

/// One device as one cgroup uses it.
#[derive(Clone, Copy, Debug, Default)]
struct PerDevice {
    stat: IoStat,
    weight: Option<u64>,
    /// By [`IoLimit`].
    limits: [Option<Bucket>; 4],
}

impl IoCss {
    /// `io.max`: the devices with a limit.
    #[must_use]
    pub fn max(&self) -> Vec<(Device, IoMax)> {
        self.lines(|per| {
            let limits = per.limits.map(|bucket| bucket.map_or(Limit::Max, |b| Limit::N(b.rate())));
            per.limits.iter().any(Option::is_some).then_some(IoMax(limits))
        })
    }

    /// What a write of a line for `device` meets before its limits or weight
    /// are looked at.
    ///
    /// # Errors
    /// ENODEV if there is no such device, or the cgroup is removed.
    pub fn check_device(&self, device: Device) -> Result<(), Errno> {
        self.check()?;
        if !self.devices.lock().contains_key(&device) {
            return Err(Errno::ENODEV);
        }
        Ok(())
    }

    /// Writes a line of `io.max`: all of the limits or none. Limits that are
    /// not named stay; of one that is named twice the last counts. Numbers of
    /// operations above 32 bits mean no limit.
    ///
    /// # Errors
    /// As [`check_device`](Self::check_device), then ERANGE for a limit of 0.
    pub fn set_max(&self, device: Device, limits: &[(IoLimit, Limit)]) -> Result<(), Errno> {
        self.check_device(device)?;
        if limits.iter().any(|&(_, limit)| limit == Limit::N(0)) {
            return Err(Errno::ERANGE);
        }
        let mut state = self.state.lock();
        let per = state.devices.entry(device).or_default();
        for &(which, limit) in limits {
            let bucket = &mut per.limits[which as usize];
            *bucket = match limit {
                Limit::N(rate) if rate < which.unlimited() => {
                    // What was sent under the old limit counts on.
                    Some(bucket.take().unwrap_or_default().with_rate(rate))
                }
                Limit::N(_) | Limit::Max => None,
            };
        }
        Ok(())
    }

    /// The `default` line of `io.weight`.
    #[must_use]
    pub fn default_weight(&self) -> u64 {
        self.state.lock().weight
    }

    /// Writes the `default` of `io.weight`.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; EINVAL outside of 1 to 10000.
    pub fn set_default_weight(&self, weight: u64) -> Result<(), Errno> {
        self.check()?;
        if !WEIGHTS.contains(&weight) {
            return Err(Errno::EINVAL);
        }
        self.state.lock().weight = weight;
        Ok(())
    }

    /// `io.weight` below its first line: the devices with a weight of their own.
    #[must_use]
    pub fn weights(&self) -> Vec<(Device, u64)> {
        self.lines(|per| per.weight)
    }

    /// Writes a device's line of `io.weight`; `None` is `default`.
    ///
    /// # Errors
    /// As [`check_device`](Self::check_device), then EOPNOTSUPP if the device
    /// does not go by weight, then EINVAL outside of 1 to 10000.
    pub fn set_weight(&self, device: Device, weight: Option<u64>) -> Result<(), Errno> {
        self.check_device(device)?;
        if self.devices.lock().get(&device) != Some(&true) {
            return Err(Errno::EOPNOTSUPP);
        }
        if weight.is_some_and(|weight| !WEIGHTS.contains(&weight)) {
            return Err(Errno::EINVAL);
        }
        self.state.lock().devices.entry(device).or_default().weight = weight;
        Ok(())
    }

    /// The weight that counts for a device.
    #[must_use]
    pub fn weight(&self, device: Device) -> u64 {
        let state = self.state.lock();
        let own = state.devices.get(&device).and_then(|per| per.weight);
        own.unwrap_or(state.weight)
    }

    /// `io.stat`: the devices that were used or set up here or below.
    #[must_use]
    pub fn stat(&self) -> Vec<(Device, IoStat)> {
        self.lines(|per| Some(per.stat))
    }

    /// Tasks on this css did `ios` operations of `bytes` in all. Counted at
    /// every level.
    pub fn account(&self, device: Device, op: IoOp, bytes: u64, ios: u64) {
        for css in self.levels() {
            css.state.lock().devices.entry(device).or_default().stat.add(op, bytes, ios);
        }
    }

    /// Whether one operation of `bytes` may go out now, as far as the limits
    /// of this css and those above go. If so it is charged to them; counting
    /// it is [`account`](Self::account)'s.
    ///
    /// # Errors
    /// When to ask again. Nothing is charged.
    pub fn may_dispatch(
        &self,
        device: Device,
        op: IoOp,
        bytes: u64,
        now: Time,
    ) -> Result<(), Time> {
        let (costs, bytes) = match op {
            IoOp::Read => ([IoLimit::ReadBytes, IoLimit::ReadOps], bytes),
            IoOp::Write => ([IoLimit::WriteBytes, IoLimit::WriteOps], bytes),
            IoOp::Discard => ([IoLimit::WriteBytes, IoLimit::WriteOps], 512),
        };
        let costs = [(costs[0], bytes), (costs[1], 1)];
        for (depth, css) in self.levels().enumerate() {
            if let Err(at) = css.take(device, costs, now) {
                self.levels().take(depth).for_each(|css| css.give_back(device, costs));
                return Err(at);
            }
        }
        Ok(())
    }

    fn take(&self, device: Device, costs: [(IoLimit, u64); 2], now: Time) -> Result<(), Time> {
        let mut state = self.state.lock();
        let Some(per) = state.devices.get_mut(&device) else { return Ok(()) };
        let due = costs
            .iter()
            .filter_map(|&(limit, _)| per.limits[limit as usize].as_mut()?.due(now))
            .max();
        if let Some(at) = due {
            return Err(at);
        }
        for (limit, n) in costs {
            if let Some(bucket) = &mut per.limits[limit as usize] {
                bucket.take(n, now);
            }
        }
        Ok(())
    }

    fn give_back(&self, device: Device, costs: [(IoLimit, u64); 2]) {
        let mut state = self.state.lock();
        let Some(per) = state.devices.get_mut(&device) else { return };
        for (limit, n) in costs {
            if let Some(bucket) = &mut per.limits[limit as usize] {
                bucket.give_back(n);
            }
        }
    }

    /// What `line` finds to say about each device that is there, by number.
    fn lines<T>(&self, line: impl Fn(&PerDevice) -> Option<T>) -> Vec<(Device, T)> {
        let mut lines: Vec<_> = {
            let state = self.state.lock();
            state.devices.iter().filter_map(|(device, per)| Some((*device, line(per)?))).collect()
        };
        let devices = self.devices.lock();
        lines.retain(|(device, _)| devices.contains_key(device));
        lines
    }

    fn levels(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
    }

    fn check(&self) -> Result<(), Errno> {
        if self.killed.load(Ordering::Relaxed) { Err(Errno::ENODEV) } else { Ok(()) }
    }
}

impl Drop for IoCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Io {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn depends_on(&self) -> &'static [&'static str] {
        if self.alone { &[] } else { &[Memory::NAME] }
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<IoCss>()?;
        Ok(Arc::new(IoCss {
            parent,
            devices: Arc::clone(&self.devices),
            state: Leaf::new(State { weight: WEIGHT_DEFAULT, devices: BTreeMap::new() }),
            killed: AtomicBool::new(false),
        }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(io) = css.state::<IoCss>() {
            io.killed.store(true, Ordering::Relaxed);
        }
    }

    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        if let Some(io) = css.state::<IoCss>() {
            // What is still sent for the dead is bound by those above only.
            io.state.lock().devices.values_mut().for_each(|per| per.limits = [None; 4]);
        }
    }
}
