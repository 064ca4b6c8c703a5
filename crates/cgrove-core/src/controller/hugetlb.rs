//! The `hugetlb` controller: huge pages, in use and reserved.
//!
//! For every size of huge page the machine has there are two counters. One is
//! charged when a page is faulted in, the other when it is reserved by
//! `mmap(2)`, where a refusal can still be told to the program instead of
//! killing it. Each has a limit of its own.
//!
//! Amounts in files are bytes. A limit is rounded down to whole huge pages and
//! may not be set below what is charged (EBUSY), since there is no way to take
//! huge pages back.
//!
//! A refusal is counted at the css that charged, whichever level was full, and
//! at those above (`hugetlb_event`).
//!
//! When a css goes offline its pages count as its parent's; in a ledger that is
//! hierarchical they do already, so the css only gives up its limits.

use super::event_files::EventFiles;
use super::page_counter::{PAGE_SIZE, PAGES_MAX, PageCounter, limit_to_pages, pages_to_limit};
use super::pids::Limit;
use super::{Controller, CssState, Hooks, NewCss, lookup};
use crate::cgroup::Cgroup;
use crate::chain::drop_upwards;
use crate::css::Css;
use crate::effect::Effects;
use crate::errno::Errno;
use crate::event::EventFile;
use crate::sync::lock::Leaf;
use crate::sync::{AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;

const EVENTS: usize = 0;
const EVENTS_LOCAL: usize = 1;

/// A size of huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HugePageSize(&'static Known);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Known {
    bytes: u64,
    label: &'static str,
    files: [&'static str; 2],
}

/// File names are made here once: event files have theirs for as long as the
/// program runs.
macro_rules! known {
    ($($bytes:expr => $label:literal),+ $(,)?) => {
        const KNOWN: &[Known] = &[$(Known {
            bytes: $bytes,
            label: $label,
            files: [
                concat!("hugetlb.", $label, ".events"),
                concat!("hugetlb.", $label, ".events.local"),
            ],
        }),+];
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

known! {
    16 * KIB => "16KB",
    32 * KIB => "32KB",
    64 * KIB => "64KB",
    128 * KIB => "128KB",
    256 * KIB => "256KB",
    512 * KIB => "512KB",
    MIB => "1MB",
    2 * MIB => "2MB",
    4 * MIB => "4MB",
    8 * MIB => "8MB",
    16 * MIB => "16MB",
    32 * MIB => "32MB",
    64 * MIB => "64MB",
    128 * MIB => "128MB",
    256 * MIB => "256MB",
    512 * MIB => "512MB",
    GIB => "1GB",
    2 * GIB => "2GB",
    4 * GIB => "4GB",
    8 * GIB => "8GB",
    16 * GIB => "16GB",
}

impl HugePageSize {
    /// 2 MiB, the usual one.
    pub const MB2: Self = Self(&KNOWN[7]);
    /// 1 GiB.
    pub const GB1: Self = Self(&KNOWN[16]);

    /// A size in bytes; `None` if no machine has it: those are the powers of
    /// two from 16 KiB to 16 GiB.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        KNOWN.iter().find(|known| known.bytes == bytes).map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.bytes
    }

    /// The part of the file names between `hugetlb.` and the rest: `2MB`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.0.label
    }

    /// In pages of [`PAGE_SIZE`].
    const fn pages(self) -> u64 {
        self.0.bytes / PAGE_SIZE
    }

    /// What reads as `max`: the most pages there can be, in whole huge ones.
    const fn unlimited(self) -> u64 {
        PAGES_MAX - PAGES_MAX % self.pages()
    }
}

/// Which of the two counters of a size is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HugeCharge {
    /// Pages in use: `max` and `current`.
    Fault,
    /// Pages reserved: `rsvd.max` and `rsvd.current`.
    Reservation,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Hugetlb {
    sizes: Box<[HugePageSize]>,
}

impl Hugetlb {
    /// Its name, as in `cgroup.controllers`.
    pub const NAME: &'static str = "hugetlb";

    /// For a machine with huge pages of these sizes.
    #[must_use]
    pub fn new(sizes: &[HugePageSize]) -> Self {
        Self { sizes: sizes.into() }
    }

    /// The sizes there are.
    #[must_use]
    pub fn sizes(&self) -> &[HugePageSize] {
        &self.sizes
    }

    /// The state behind the files of a cgroup. `None` for the root, which has
    /// no such files, and where the controller is not on.
    #[must_use]
    pub fn css(cgroup: &Cgroup) -> Option<Arc<HugetlbCss>> {
        lookup::own::<HugetlbCss>(cgroup, Self::NAME).filter(|css| css.parent.is_some())
    }

    /// The state that tasks of a cgroup charge: its own or that of the nearest
    /// cgroup above with the controller on, the root in the end.
    #[must_use]
    pub fn effective(cgroup: &Cgroup) -> Option<Arc<HugetlbCss>> {
        lookup::effective(cgroup, Self::NAME)
    }
}

/// `hugetlb` on one cgroup.
#[derive(Debug)]
pub struct HugetlbCss {
    parent: Option<Arc<HugetlbCss>>,
    /// One per size of the machine, in its order.
    sizes: Box<[PerSize]>,
}

#[derive(Debug)]
struct PerSize {
    size: HugePageSize,
    fault: PageCounter,
    reservation: PageCounter,
    /// Refusals of charges here or below.
    events: AtomicU64,
    /// Refusals of charges at this very css.
    events_local: AtomicU64,
    files: EventFiles<2>,
    /// Held while a limit is set, which may be taken back.
    setting: Leaf<()>,
}

impl PerSize {
    fn counter(&self, charge: HugeCharge) -> &PageCounter {
        match charge {
            HugeCharge::Fault => &self.fault,
            HugeCharge::Reservation => &self.reservation,
        }
    }
}

impl HugetlbCss {
    /// The sizes there are.
    pub fn sizes(&self) -> impl Iterator<Item = HugePageSize> + '_ {
        self.sizes.iter().map(|per| per.size)
    }

    /// `current` or `rsvd.current`, in bytes; 0 for a size that is not there,
    /// here and below.
    #[must_use]
    pub fn current(&self, size: HugePageSize, charge: HugeCharge) -> u64 {
        self.of(size).map_or(0, |(_, per)| per.counter(charge).usage() * PAGE_SIZE)
    }

    /// `max` or `rsvd.max`, in bytes.
    #[must_use]
    pub fn max(&self, size: HugePageSize, charge: HugeCharge) -> Limit {
        self.of(size).map_or(Limit::N(0), |(_, per)| {
            pages_to_limit(per.counter(charge).max(), size.unlimited())
        })
    }

    /// Writes `max` or `rsvd.max`, in bytes.
    ///
    /// # Errors
    /// ENODEV on a removed cgroup; EINVAL for a size that is not there; EBUSY
    /// if more is charged already.
    pub fn set_max(&self, size: HugePageSize, charge: HugeCharge, max: Limit) -> Result<(), Errno> {
        let (_, per) = self.of(size).ok_or(Errno::EINVAL)?;
        per.files.check()?;
        let pages = limit_to_pages(max);
        let _one_setter = per.setting.lock();
        per.counter(charge).set_max_unless_above(pages - pages % size.pages())
    }

    /// `max` in `events`: charges of this cgroup or those below that failed.
    #[must_use]
    pub fn events(&self, size: HugePageSize) -> u64 {
        self.of(size).map_or(0, |(_, per)| per.events.load(Ordering::Relaxed))
    }

    /// `max` in `events.local`: charges of this very cgroup that failed.
    #[must_use]
    pub fn events_local(&self, size: HugePageSize) -> u64 {
        self.of(size).map_or(0, |(_, per)| per.events_local.load(Ordering::Relaxed))
    }

    /// `events` or `events.local` of a size, for those who match them against
    /// effects; `None` once the files are gone.
    #[must_use]
    pub fn file(&self, size: HugePageSize, local: bool) -> Option<Arc<EventFile>> {
        self.of(size)?.1.files.file(if local { EVENTS_LOCAL } else { EVENTS })
    }

    /// Charges `n` huge pages at every level, or none.
    ///
    /// # Errors
    /// EINVAL for a size that is not there; ENOMEM at a limit, with an event
    /// at this css.
    pub fn try_charge(
        &self,
        size: HugePageSize,
        charge: HugeCharge,
        n: u64,
        fx: &mut Effects,
    ) -> Result<(), Errno> {
        let (index, _) = self.of(size).ok_or(Errno::EINVAL)?;
        let counters = self.levels().map(|css| css.sizes[index].counter(charge));
        let pages = n.saturating_mul(size.pages());
        PageCounter::try_charge(counters, pages).map_err(|_| {
            self.refused(index, fx);
            Errno::ENOMEM
        })
    }

    /// Takes them off again.
    pub fn uncharge(&self, size: HugePageSize, charge: HugeCharge, n: u64) {
        if let Some((index, _)) = self.of(size) {
            let counters = self.levels().map(|css| css.sizes[index].counter(charge));
            PageCounter::uncharge(counters, n.saturating_mul(size.pages()));
        }
    }

    fn refused(&self, index: usize, fx: &mut Effects) {
        let own = &self.sizes[index];
        own.events_local.fetch_add(1, Ordering::Relaxed);
        if self.parent.is_some() {
            own.files.changed(EVENTS_LOCAL, fx);
        }
        for css in self.levels().filter(|css| css.parent.is_some()) {
            let per = &css.sizes[index];
            per.events.fetch_add(1, Ordering::Relaxed);
            per.files.changed(EVENTS, fx);
        }
    }

    fn of(&self, size: HugePageSize) -> Option<(usize, &PerSize)> {
        self.sizes.iter().enumerate().find(|(_, per)| per.size == size)
    }

    fn levels(&self) -> impl Iterator<Item = &Self> + Clone {
        core::iter::successors(Some(self), |css| css.parent.as_deref())
    }
}

impl Drop for HugetlbCss {
    fn drop(&mut self) {
        drop_upwards(self.parent.take(), |css| css.parent.take());
    }
}

impl Controller for Hugetlb {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn hooks(&self) -> Hooks {
        Hooks::empty()
    }

    fn css_alloc(&self, new: NewCss<'_>) -> Result<CssState, Errno> {
        let parent = new.parent_state::<HugetlbCss>()?;
        let per_size = |size: &HugePageSize| PerSize {
            size: *size,
            fault: PageCounter::new(size.unlimited()),
            reservation: PageCounter::new(size.unlimited()),
            events: AtomicU64::new(0),
            events_local: AtomicU64::new(0),
            files: EventFiles::new(new.cgroup, size.0.files),
            setting: Leaf::new(()),
        };
        Ok(Arc::new(HugetlbCss { parent, sizes: self.sizes.iter().map(per_size).collect() }))
    }

    fn css_killed(&self, css: &Css, _fx: &mut Effects) {
        if let Some(hugetlb) = css.state::<HugetlbCss>() {
            hugetlb.sizes.iter().for_each(|per| per.files.remove());
        }
    }

    fn css_offline(&self, css: &Css, _fx: &mut Effects) {
        if let Some(hugetlb) = css.state::<HugetlbCss>() {
            for per in &hugetlb.sizes {
                per.fault.set_max(per.size.unlimited());
                per.reservation.set_max(per.size.unlimited());
            }
        }
    }
}
