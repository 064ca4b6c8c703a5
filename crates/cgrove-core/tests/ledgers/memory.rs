use crate::tree::Tree;
use cgrove_core::controller::io::Io;
use cgrove_core::controller::memory::*;
use cgrove_core::controller::page_counter::{PAGE_SIZE, PAGES_MAX};
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn memory(cgroup: &Arc<Cgroup>) -> Arc<MemoryCss> {
    Memory::css(cgroup).unwrap()
}

fn pages(n: u64) -> Limit {
    Limit::N(n * PAGE_SIZE)
}

/// Root, `a` (id 2), `a/b` (id 3).
fn two_levels(controller: Memory) -> (Tree, Arc<MemoryCss>, Arc<MemoryCss>) {
    let mut t = Tree::with(controller);
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    (t, memory(&a), memory(&b))
}

#[test]
fn defaults_are_those_of_a_new_cgroup() {
    let (t, a, _) = two_levels(Memory::new());
    assert!(Memory::css(t.h.root()).is_none(), "the root has none of these files");
    assert!(Memory::effective(t.h.root()).is_some(), "but it is charged");
    assert_eq!((a.min(), a.low()), (Limit::N(0), Limit::N(0)));
    assert_eq!([a.high(), a.max(), a.swap_high(), a.swap_max()], [Limit::Max; 4]);
    assert_eq!((a.current(), a.swap_current(), a.oom_group()), (0, 0, false));
    assert_eq!(a.open_peak(Resource::Memory).read(), 0);
}

#[test]
fn amounts_are_rounded_down_to_pages_and_capped_at_max() {
    let (_t, a, _) = two_levels(Memory::new());
    let written = Limit::N(3 * PAGE_SIZE + 1);
    a.set_min(written).unwrap();
    a.set_low(written).unwrap();
    drop(a.set_high(written).unwrap());
    drop(a.set_max(written).unwrap());
    a.set_swap_high(written).unwrap();
    a.set_swap_max(written).unwrap();
    let read = [a.min(), a.low(), a.high(), a.max(), a.swap_high(), a.swap_max()];
    assert_eq!(read, [pages(3); 6]);
    a.set_min(Limit::Max).unwrap();
    a.set_low(Limit::N(u64::MAX)).unwrap();
    drop(a.set_max(Limit::N(PAGES_MAX * PAGE_SIZE)).unwrap());
    drop(a.set_high(Limit::N(1)).unwrap());
    assert_eq!([a.min(), a.low(), a.max()], [Limit::Max; 3]);
    assert_eq!(a.high(), Limit::N(0));
}

#[test]
fn oom_group_is_a_bool() {
    let (_t, a, _) = two_levels(Memory::new());
    assert_eq!(a.set_oom_group(1), Ok(()));
    assert_eq!([2, -1].map(|n| a.set_oom_group(n)), [Err(Errno::EINVAL); 2]);
    assert!(a.oom_group());
    assert_eq!(a.set_oom_group(0), Ok(()));
    assert!(!a.oom_group());
}

#[test]
fn a_charge_counts_at_every_level_and_is_refused_at_any() {
    let (mut t, a, b) = two_levels(Memory::new());
    drop(a.set_max(pages(10)).unwrap());
    assert_eq!(b.try_charge(10, &mut t.fx), Ok(Charged { over_high: false }));
    assert_eq!((a.current(), b.current()), (10 * PAGE_SIZE, 10 * PAGE_SIZE));
    t.notified();
    assert_eq!(b.try_charge(1, &mut t.fx), Err(Errno::ENOMEM));
    assert_eq!((a.current(), b.current()), (10 * PAGE_SIZE, 10 * PAGE_SIZE));
    assert_eq!((a.events(MemoryEvent::Max), b.events(MemoryEvent::Max)), (1, 0));
    assert_eq!(a.events_local(MemoryEvent::Max), 1, "counted where the limit is");
    assert_eq!(t.notified(), ["2/memory.events.local", "2/memory.events"]);
    let root = Memory::effective(t.h.root()).unwrap();
    assert_eq!(root.current(), 10 * PAGE_SIZE);

    let _ = b.charge(1, &mut t.fx);
    assert_eq!(a.current(), 11 * PAGE_SIZE, "forced");
    assert_eq!(a.events(MemoryEvent::Max), 2, "not unseen");
    b.uncharge(11);
    assert_eq!([a.current(), b.current(), root.current()], [0; 3]);
}

#[test]
fn events_climb_unless_the_mount_says_local() {
    let (mut t, a, b) = two_levels(Memory::new());
    b.event(MemoryEvent::OomKill, &mut t.fx);
    assert_eq!((a.events(MemoryEvent::OomKill), b.events(MemoryEvent::OomKill)), (1, 1));
    assert_eq!(
        (a.events_local(MemoryEvent::OomKill), b.events_local(MemoryEvent::OomKill)),
        (0, 1)
    );
    assert_eq!(t.notified(), ["3/memory.events.local", "3/memory.events", "2/memory.events"]);
    b.event(MemoryEvent::SwapFail, &mut t.fx);
    assert_eq!(t.notified(), ["3/memory.swap.events", "2/memory.swap.events"]);

    let (mut t, a, b) = two_levels(Memory::new().with_local_events());
    b.event(MemoryEvent::OomKill, &mut t.fx);
    assert_eq!((a.events(MemoryEvent::OomKill), b.events(MemoryEvent::OomKill)), (0, 1));
    assert_eq!(t.notified(), ["3/memory.events.local", "3/memory.events"]);
}

#[test]
fn the_keys_of_the_events_files_are_linuxs() {
    assert_eq!(
        MemoryEvent::MEMORY.map(MemoryEvent::key),
        ["low", "high", "max", "oom", "oom_kill", "oom_group_kill", "sock_throttled"]
    );
    assert_eq!(MemoryEvent::SWAP.map(MemoryEvent::key), ["high", "max", "fail"]);
}

/// Runs a charge with an embedder that reclaims `reclaim` pages of `victim`
/// per wish and kills once, freeing `kill` pages. Says what was asked.
fn run(
    t: &mut Tree,
    mut charging: Charging,
    victim: &MemoryCss,
    (reclaim, mut kill): (u64, Option<u64>),
) -> (Vec<&'static str>, Result<Charged, Errno>) {
    let mut asked = Vec::new();
    let mut report = Report::Start;
    loop {
        report = match charging.next(report, &mut t.fx) {
            ChargeStep::Charged(charged) => return (asked, Ok(charged)),
            ChargeStep::Refused(errno) => return (asked, Err(errno)),
            ChargeStep::Reclaim(_) => {
                asked.push("reclaim");
                victim.uncharge(reclaim);
                Report::Reclaimed(reclaim)
            }
            ChargeStep::Oom { .. } => {
                asked.push("oom");
                let pages = kill.take();
                victim.uncharge(pages.unwrap_or(0));
                Report::Killed(pages.is_some())
            }
        };
    }
}

#[test]
fn a_charge_reclaims_before_it_fails() {
    let (mut t, a, b) = two_levels(Memory::new());
    drop(a.set_max(pages(10)).unwrap());
    let _ = b.charge(10, &mut t.fx);
    let (asked, charged) = run(&mut t, b.charging(2, Effort::NoRetry), &b, (2, None));
    assert_eq!((asked, charged.is_ok()), (vec!["reclaim"], true));
    assert_eq!(a.events(MemoryEvent::Max), 1);
    let (asked, refused) = run(&mut t, b.charging(2, Effort::NoRetry), &b, (1, None));
    assert_eq!((asked, refused), (vec!["reclaim"], Err(Errno::ENOMEM)));
    assert_eq!(b.current(), 9 * PAGE_SIZE, "reclaimed, not charged");

    let _ = b.charge(1, &mut t.fx);
    let (asked, refused) = run(&mut t, b.charging(1, Effort::MayFail), &b, (0, Some(5)));
    assert_eq!((asked.len(), refused), (17, Err(Errno::ENOMEM)), "sixteen retries, no kill");
    let (asked, refused) = run(&mut t, b.charging(1, Effort::Atomic), &b, (5, Some(5)));
    assert_eq!((asked.len(), refused), (0, Err(Errno::ENOMEM)));
    assert_eq!(a.events(MemoryEvent::Max), 1 + 1 + 17, "an atomic charge counts none");
}

#[test]
fn a_charge_kills_when_nothing_can_be_reclaimed() {
    let (mut t, a, b) = two_levels(Memory::new());
    drop(a.set_max(pages(10)).unwrap());
    let _ = b.charge(10, &mut t.fx);
    let (asked, charged) = run(&mut t, b.charging(1, Effort::Normal), &b, (0, Some(5)));
    assert!(charged.is_ok());
    assert_eq!((asked.len(), asked.last()), (18, Some(&"oom")));
    assert_eq!((a.events(MemoryEvent::Oom), b.events(MemoryEvent::Oom)), (1, 0));
    assert_eq!(b.current(), 6 * PAGE_SIZE);

    let _ = b.charge(4, &mut t.fx);
    let (_, refused) = run(&mut t, b.charging(1, Effort::Normal), &b, (0, None));
    assert_eq!(refused, Err(Errno::ENOMEM), "nobody to kill");
    let (_, charged) = run(&mut t, b.charging(1, Effort::NoFail), &b, (0, None));
    assert!(charged.is_ok());
    assert_eq!(b.current(), 11 * PAGE_SIZE, "over the limit rather than failed");
    assert_eq!(a.events(MemoryEvent::Oom), 3);

    // Nine pages are a costly order: never worth a kill.
    let (asked, refused) = run(&mut t, b.charging(9, Effort::Normal), &b, (0, Some(11)));
    assert_eq!((asked.len(), asked.contains(&"oom")), (17, false));
    assert_eq!(refused, Err(Errno::ENOMEM));
}

#[test]
fn over_high_a_charge_succeeds_and_the_charger_pays() {
    let (mut t, a, b) = two_levels(Memory::new());
    drop(a.set_high(pages(100)).unwrap());
    assert_eq!(b.try_charge(100, &mut t.fx), Ok(Charged { over_high: false }));
    assert_eq!(b.try_charge(10, &mut t.fx), Ok(Charged { over_high: true }));
    let wishes = b.reclaim_high(10, &mut t.fx);
    assert_eq!(wishes.len(), 1);
    assert!(Arc::ptr_eq(&wishes[0].from, &a));
    assert_eq!((a.events(MemoryEvent::High), b.events(MemoryEvent::High)), (1, 0));
    assert_eq!(b.throttle_high(64, &mut t.fx), Duration::from_nanos(639_992_675));
    assert_eq!(b.throttle_high(1, &mut t.fx), Duration::ZERO, "10 ms and less are waived");
    assert_eq!(b.throttle_high(6400, &mut t.fx), Duration::from_secs(2), "clamped");
    b.uncharge(10);
    assert_eq!(b.throttle_high(64, &mut t.fx), Duration::ZERO);
    assert!(b.reclaim_high(10, &mut t.fx).is_empty());
}

#[test]
fn a_lowered_max_reclaims_then_kills_and_stops_when_rewritten() {
    let (mut t, a, _) = two_levels(Memory::new());
    let _ = a.charge(10, &mut t.fx);
    let mut shrink = a.set_max(pages(4)).unwrap();
    let ShrinkStep::Reclaim(wish) = shrink.next(Report::Start, &mut t.fx) else { panic!() };
    assert_eq!(wish.pages, 6);
    a.uncharge(2);
    let ShrinkStep::Reclaim(wish) = shrink.next(Report::Reclaimed(2), &mut t.fx) else { panic!() };
    assert_eq!(wish.pages, 4);
    for _ in 0..15 {
        let step = shrink.next(Report::Reclaimed(0), &mut t.fx);
        assert!(matches!(step, ShrinkStep::Reclaim(_)), "{step:?}");
    }
    let step = shrink.next(Report::Reclaimed(0), &mut t.fx);
    assert!(matches!(step, ShrinkStep::Oom { .. }), "{step:?}");
    assert_eq!((a.events(MemoryEvent::Oom), a.events(MemoryEvent::Max)), (1, 0));
    a.uncharge(4);
    let step = shrink.next(Report::Killed(true), &mut t.fx);
    assert!(matches!(step, ShrinkStep::Done), "{step:?}");

    let mut shrink = a.set_max(pages(1)).unwrap();
    drop(a.set_max(pages(2)).unwrap());
    let step = shrink.next(Report::Start, &mut t.fx);
    assert!(matches!(step, ShrinkStep::Done), "another write took over: {step:?}");
}

#[test]
fn a_lowered_high_never_kills() {
    let (mut t, a, _) = two_levels(Memory::new());
    let _ = a.charge(10, &mut t.fx);
    let mut shrink = a.set_high(pages(4)).unwrap();
    let mut report = Report::Start;
    let mut wishes = 0;
    while let ShrinkStep::Reclaim(_) = shrink.next(report, &mut t.fx) {
        wishes += 1;
        report = Report::Reclaimed(0);
    }
    assert_eq!(wishes, 17);
    assert_eq!((a.events(MemoryEvent::High), a.events(MemoryEvent::Oom)), (0, 0));
}

#[test]
fn a_request_to_reclaim_is_met_or_fails_with_eagain() {
    let (_t, a, _) = two_levels(Memory::new());
    let mut request = a.reclaim(8 * PAGE_SIZE, Swappiness::Default).unwrap();
    let ProactiveStep::Reclaim(wish) = request.next(None) else { panic!() };
    assert_eq!(wish.pages, 2, "a quarter of the rest");
    assert!(matches!(request.next(Some(5)), ProactiveStep::Reclaim(_)));
    for _ in 0..16 {
        assert!(matches!(request.next(Some(0)), ProactiveStep::Reclaim(_)));
    }
    assert!(matches!(request.next(Some(0)), ProactiveStep::Failed(Errno::EAGAIN)));

    let mut request = a.reclaim(PAGE_SIZE - 1, Swappiness::Default).unwrap();
    assert!(matches!(request.next(None), ProactiveStep::Done), "less than a page");
    assert_eq!(Swappiness::from_number(200), Ok(Swappiness::N(200)));
    assert_eq!([-1, 201].map(Swappiness::from_number), [Err(Errno::EINVAL); 2]);
}

#[test]
fn swap_has_limits_of_its_own() {
    let (mut t, a, b) = two_levels(Memory::new());
    a.set_swap_max(pages(2)).unwrap();
    assert_eq!(b.try_charge_swap(2, &mut t.fx), Ok(()));
    assert_eq!(b.swap_room(), 0);
    assert_eq!(b.try_charge_swap(1, &mut t.fx), Err(Errno::ENOMEM));
    assert_eq!((a.swap_current(), b.swap_current()), (2 * PAGE_SIZE, 2 * PAGE_SIZE));
    // At the charger, not at the level that was full: so does Linux.
    for event in [MemoryEvent::SwapMax, MemoryEvent::SwapFail] {
        assert_eq!((b.events_local(event), a.events_local(event), a.events(event)), (1, 0, 1));
    }
    a.set_swap_high(pages(1)).unwrap();
    assert_eq!(b.try_charge(1, &mut t.fx), Ok(Charged { over_high: true }));
    assert_eq!(b.throttle_high(64, &mut t.fx), Duration::from_secs(2));
    assert_eq!((a.events(MemoryEvent::SwapHigh), b.events(MemoryEvent::SwapHigh)), (1, 0));
    b.uncharge_swap(2);
    assert_eq!((a.swap_current(), b.swap_room()), (0, 2));
}

#[test]
fn each_open_file_has_a_peak_of_its_own_once_written_to() {
    let (mut t, a, b) = two_levels(Memory::new());
    let _ = b.charge(10, &mut t.fx);
    b.uncharge(8);
    let (all, mine) = (a.open_peak(Resource::Memory), a.open_peak(Resource::Memory));
    assert_eq!((all.read(), mine.read()), (10 * PAGE_SIZE, 10 * PAGE_SIZE));
    mine.reset().unwrap();
    assert_eq!((all.read(), mine.read()), (10 * PAGE_SIZE, 2 * PAGE_SIZE));
    let _ = b.charge(3, &mut t.fx);
    b.uncharge(1);
    assert_eq!((all.read(), mine.read()), (10 * PAGE_SIZE, 5 * PAGE_SIZE));
    assert_eq!(b.open_peak(Resource::Memory).read(), 10 * PAGE_SIZE);

    // Another file's reset is no business of this one's. (Linux 7.2 forgets
    // what this one had seen, and both would read 4 pages.)
    let other = a.open_peak(Resource::Memory);
    other.reset().unwrap();
    assert_eq!((other.read(), mine.read()), (4 * PAGE_SIZE, 5 * PAGE_SIZE));
    let _ = b.charge(2, &mut t.fx);
    b.uncharge(2);
    assert_eq!((other.read(), mine.read()), (6 * PAGE_SIZE, 6 * PAGE_SIZE));
    assert_eq!(a.open_peak(Resource::Swap).read(), 0);
}

#[test]
fn the_largest_group_below_the_full_limit_dies_with_the_victim() {
    let mut t = Tree::with(Memory::new());
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    let c = t.mkdir(&b, "c");
    let [a, b, c] = [&a, &b, &c].map(memory);
    let other = t.top("other");
    assert!(c.oom_group_of(&a).is_none());
    c.set_oom_group(1).unwrap();
    b.set_oom_group(1).unwrap();
    assert!(Arc::ptr_eq(&c.oom_group_of(&a).unwrap(), &b));
    assert!(Arc::ptr_eq(&c.oom_group_of(&c).unwrap(), &c), "not above the domain");
    assert!(c.oom_group_of(&memory(&other)).is_none(), "moved away meanwhile");
    let root = Memory::effective(t.h.root()).unwrap();
    assert!(Arc::ptr_eq(&c.oom_group_of(&root).unwrap(), &b));
    assert!(root.oom_group_of(&root).is_none());
}

#[test]
fn protection_is_shared_out_from_the_target_down() {
    let (mut t, a, b) = two_levels(Memory::new());
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let c = memory(&t.mkdir(&a_group, "c"));
    let root = Memory::effective(t.h.root()).unwrap();
    a.set_low(pages(40)).unwrap();
    b.set_low(pages(60)).unwrap();
    c.set_low(pages(60)).unwrap();
    let _ = b.charge(60, &mut t.fx);
    let _ = c.charge(20, &mut t.fx);
    let low = |css: &Arc<MemoryCss>, target| css.protection(target).low / PAGE_SIZE;
    assert_eq!((low(&a, &root), low(&b, &root), low(&c, &root)), (40, 30, 10));
    assert_eq!((low(&a, &a), low(&b, &a), low(&c, &a)), (0, 60, 60), "claims, below the target");
    assert_eq!((low(&root, &root), low(&a, &b)), (0, 0));
    // The claim of one that is gone is the others' again.
    c.uncharge(20);
    assert_eq!(low(&b, &root), 40);
}

#[test]
fn recursive_protection_reaches_those_who_claim_nothing() {
    let (mut t, a, b) = two_levels(Memory::new().with_recursive_protection());
    let root = Memory::effective(t.h.root()).unwrap();
    a.set_min(pages(40)).unwrap();
    let _ = b.charge(50, &mut t.fx);
    let _ = a.charge(50, &mut t.fx);
    assert_eq!(b.protection(&root), Protection { min: 20 * PAGE_SIZE, low: 0 });

    let (mut t, a, b) = two_levels(Memory::new());
    let root = Memory::effective(t.h.root()).unwrap();
    a.set_min(pages(40)).unwrap();
    let _ = b.charge(50, &mut t.fx);
    assert_eq!(b.protection(&root), Protection::default());
}

#[test]
fn charges_outlive_their_cgroup_and_bind_only_those_above() {
    let (mut t, a, b) = two_levels(Memory::new());
    let root = Memory::effective(t.h.root()).unwrap();
    a.set_min(pages(5)).unwrap();
    b.set_min(pages(5)).unwrap();
    drop(b.set_max(pages(10)).unwrap());
    let _ = b.charge(10, &mut t.fx);
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let b_group = t.h.child(&a_group, "b").unwrap();
    t.notified();
    t.rmdir(&b_group);
    assert_eq!(a.current(), 10 * PAGE_SIZE, "still there");
    assert!(Arc::ptr_eq(&b.home(), &a));
    assert!(Arc::ptr_eq(&a.home(), &a));
    assert_eq!(b.try_charge(1, &mut t.fx), Ok(Charged { over_high: false }), "its limit is gone");
    assert_eq!(b.set_min(Limit::N(0)), Err(Errno::ENODEV));
    assert_eq!(b.set_max(Limit::Max).map(drop), Err(Errno::ENODEV));
    assert_eq!(b.set_oom_group(7), Err(Errno::ENODEV), "before the value is looked at");
    b.event(MemoryEvent::OomKill, &mut t.fx);
    assert_eq!(t.notified(), ["2/memory.events"], "no file of its own any more");
    // Filed under the css above, or still under the dead one: all the same.
    a.uncharge(6);
    b.uncharge(5);
    assert_eq!((a.current(), root.current()), (0, 0));
    // Its claim on protection ended with it.
    let c = memory(&t.mkdir(&a_group, "c"));
    c.set_min(pages(5)).unwrap();
    let _ = c.charge(5, &mut t.fx);
    assert_eq!(c.protection(&root).min, 5 * PAGE_SIZE);
}

#[test]
fn a_css_that_io_keeps_has_no_limits_and_no_files_but_its_counts() {
    let builder = Hierarchy::builder().controller(Arc::new(Io::new()));
    let mut t = Tree::of(builder.controller(Arc::new(Memory::new())));
    let group = t.top("a");
    let a = memory(&group);
    drop(a.set_max(pages(1)).unwrap());
    drop(a.set_high(pages(1)).unwrap());
    a.set_swap_max(pages(1)).unwrap();
    a.set_swap_high(pages(1)).unwrap();
    a.set_min(pages(1)).unwrap();
    a.set_low(pages(1)).unwrap();
    a.set_oom_group(1).unwrap();
    let _ = a.charge(2, &mut t.fx);
    let file = a.file(MemoryFile::Events).unwrap();
    t.notified();

    let (root, off) = (t.h.root().clone(), t.h.mask(&["memory"]).unwrap());
    t.h.write_subtree_control(&root, SsMask::NONE, off, &mut t.fx).unwrap();
    assert!(Memory::css(&group).is_none(), "no files");
    assert!(Arc::ptr_eq(&Memory::effective(&group).unwrap(), &a), "but charged");
    assert_eq!([a.max(), a.high(), a.swap_max(), a.swap_high()], [Limit::Max; 4]);
    assert_eq!([a.min(), a.low()], [Limit::N(0); 2]);
    assert_eq!((a.current(), a.oom_group()), (2 * PAGE_SIZE, true));
    file.changed(&mut t.fx);
    assert_eq!(t.notified(), [""; 0]);

    t.h.write_subtree_control(&root, off, SsMask::NONE, &mut t.fx).unwrap();
    assert!(Arc::ptr_eq(&memory(&group), &a));
    a.event(MemoryEvent::Oom, &mut t.fx);
    assert_eq!(t.notified(), ["2/memory.events.local", "2/memory.events"]);
}

proptest! {
    /// Whatever is charged, refused, forced, taken off and limited: each
    /// level holds the sum of what its subtree holds, protection sums
    /// included, and never more than its limit unless forced.
    #[test]
    fn every_level_is_the_sum_of_what_is_below(
        steps in prop::collection::vec((0u8..6, 0usize..4, 0u64..20), 1..200)
    ) {
        let mut t = Tree::with(Memory::new());
        let a = t.top("a");
        let b = t.mkdir(&a, "b");
        let c = t.mkdir(&b, "c");
        let d = t.mkdir(&a, "d");
        let css = [&a, &b, &c, &d].map(memory);
        let above: [&[usize]; 4] = [&[0], &[1, 0], &[2, 1, 0], &[3, 0]];
        let root = Memory::effective(t.h.root()).unwrap();
        let mut own = [0u64; 4];
        for (what, who, n) in steps {
            let held = |level: usize| -> u64 {
                (0..4).filter(|&i| above[i].contains(&level)).map(|i| own[i]).sum()
            };
            match what {
                0 | 1 => {
                    let fits = above[who].iter().all(|&level| match css[level].max() {
                        Limit::Max => true,
                        Limit::N(bytes) => held(level) + n <= bytes / PAGE_SIZE,
                    });
                    let charged = css[who].try_charge(n, &mut t.fx);
                    prop_assert_eq!(charged.is_ok(), fits);
                    own[who] += if fits { n } else { 0 };
                }
                2 => {
                    let _ = css[who].charge(n, &mut t.fx);
                    own[who] += n;
                }
                3 => {
                    let n = n.min(own[who]);
                    css[who].uncharge(n);
                    own[who] -= n;
                }
                4 => drop(css[who].set_max(if n == 0 { Limit::Max } else { pages(5 * n) }).unwrap()),
                _ => css[who].set_low(pages(n)).unwrap(),
            }
            let held = |level: usize| -> u64 {
                (0..4).filter(|&i| above[i].contains(&level)).map(|i| own[i]).sum()
            };
            for level in 0..4 {
                prop_assert_eq!(css[level].current(), held(level) * PAGE_SIZE);
                let peak = css[level].open_peak(Resource::Memory).read();
                prop_assert!(peak >= css[level].current());
                // Never more than is used, nor than the parent affords.
                let low = css[level].protection(&root).low;
                if level != 0 {
                    prop_assert!(low <= css[level].current());
                    let parent = above[level][1];
                    prop_assert!(low <= css[parent].protection(&root).low);
                }
            }
            prop_assert_eq!(root.current(), own.iter().sum::<u64>() * PAGE_SIZE);
        }
    }
}
