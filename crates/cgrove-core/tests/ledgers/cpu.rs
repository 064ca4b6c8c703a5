use crate::tree::Tree;
use cgrove_core::controller::cpu::*;
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn cpu(cgroup: &Arc<Cgroup>) -> Arc<CpuCss> {
    Cpu::css(cgroup).unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at(n: u64) -> Time {
    Time(0).after(ms(n))
}

fn two_levels() -> (Tree, Arc<CpuCss>, Arc<CpuCss>) {
    let mut t = Tree::with(Cpu);
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    (t, cpu(&a), cpu(&b))
}

#[test]
fn defaults_are_those_of_a_new_cgroup() {
    let (t, a, _) = two_levels();
    assert!(Cpu::css(t.h.root()).is_none());
    assert_eq!((a.weight(), a.weight_nice(), a.idle()), (100, 0, false));
    assert_eq!((a.max(), a.max_burst()), ((Limit::Max, 100_000), 0));
    assert_eq!(a.stat(), BandwidthStat::default());
}

#[test]
fn every_weight_is_read_back_as_written() {
    let (_t, a, _) = two_levels();
    for weight in 1..=10_000 {
        assert_eq!(a.set_weight(weight), Ok(()));
        assert_eq!(a.weight(), weight);
    }
    assert_eq!([0, 10_001, u64::MAX].map(|w| a.set_weight(w)), [Err(Errno::ERANGE); 3]);
    assert_eq!(a.weight(), 10_000);
}

#[test]
fn nice_values_are_weights_and_weights_the_closest_nice_value() {
    let (_t, a, _) = two_levels();
    for nice in -20..=19 {
        assert_eq!(a.set_weight_nice(nice), Ok(()));
        assert_eq!(a.weight_nice(), nice);
    }
    let refused = [-21, 20, i64::MIN, i64::MAX].map(|nice| a.set_weight_nice(nice));
    assert_eq!(refused, [Err(Errno::ERANGE); 4]);
    let weights = [-20, -1, 0, 1, 19].map(|nice| {
        a.set_weight_nice(nice).unwrap();
        a.weight()
    });
    assert_eq!(weights, [8668, 125, 100, 80, 1]);
    let nices = [1, 2, 99, 112, 113, 10_000].map(|weight| {
        a.set_weight(weight).unwrap();
        a.weight_nice()
    });
    assert_eq!(nices, [19, 18, 0, 0, -1, -20]);
}

#[test]
fn an_idle_group_has_the_least_weight_and_takes_no_other() {
    let (_t, a, _) = two_levels();
    a.set_weight(500).unwrap();
    assert_eq!([2, -1].map(|idle| a.set_idle(idle)), [Err(Errno::EINVAL); 2]);
    assert_eq!(a.set_idle(1), Ok(()));
    assert_eq!((a.idle(), a.weight(), a.weight_nice()), (true, 1, 19));
    assert_eq!((a.set_weight(7), a.set_weight_nice(3)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    assert_eq!(a.set_weight(0), Err(Errno::ERANGE), "the range comes first");
    assert_eq!(a.set_idle(0), Ok(()));
    assert_eq!(a.weight(), 100, "the old weight is forgotten");
    a.set_weight(7).unwrap();
    assert_eq!((a.set_idle(0), a.weight()), (Ok(()), 7), "no change, no reset");
}

#[test]
fn quota_period_and_burst_are_checked_together() {
    let (_t, a, _) = two_levels();
    let max = |quota, period| a.set_max(quota, period, at(0)).map(drop);
    assert_eq!(max(Limit::N(50_000), None), Ok(()));
    assert_eq!(a.max(), (Limit::N(50_000), 100_000));
    assert_eq!(a.set_max_burst(50_000, at(0)), Ok(Change::None));
    assert_eq!(a.set_max_burst(50_001, at(0)), Err(Errno::EINVAL));
    assert_eq!(max(Limit::N(40_000), None), Err(Errno::EINVAL), "below the burst");
    assert_eq!(max(Limit::N(60_000), Some(999)), Err(Errno::EINVAL));
    assert_eq!(a.max(), (Limit::N(50_000), 100_000), "all or nothing");
    assert_eq!(max(Limit::Max, Some(10_000)), Ok(()));
    assert_eq!((a.max(), a.max_burst()), ((Limit::Max, 10_000), 50_000));
}

#[test]
fn a_limit_above_stops_those_below() {
    let (_t, a, b) = two_levels();
    let _ = a.set_max(Limit::N(30_000), None, at(0)).unwrap();
    let _ = b.set_max(Limit::N(20_000), None, at(0)).unwrap();
    assert!(a.run(ms(15), at(20), at(20)).is_empty());
    let stopped: Vec<_> =
        b.run(ms(16), at(40), at(40)).iter().map(|(css, c)| (css.cgroup(), *c)).collect();
    assert_eq!(stopped, [(a.cgroup(), Change::Throttled)]);
    assert!(b.must_stop() && !b.is_throttled());
    let stopped: Vec<_> =
        b.run(ms(4), at(45), at(45)).iter().map(|(css, c)| (css.cgroup(), *c)).collect();
    assert_eq!(stopped, [(b.cgroup(), Change::Throttled)], "ran on a little");
    assert_eq!((a.next_tick(), b.next_tick()), (Some(at(100)), Some(at(100))));
    assert_eq!((a.tick(at(100)), b.tick(at(100))), (Change::Unthrottled, Change::Unthrottled));
    assert!(!b.must_stop());
    assert_eq!((a.stat().throttled_usec, b.stat().throttled_usec), (60_000, 55_000));
}

#[test]
fn a_removed_cgroup_takes_no_settings() {
    let (mut t, a, b) = two_levels();
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let b_group = t.h.child(&a_group, "b").unwrap();
    t.rmdir(&b_group);
    let refused = Err(Errno::ENODEV);
    assert_eq!([b.set_weight(0), b.set_weight_nice(99), b.set_idle(7)], [refused; 3]);
    assert_eq!(b.set_max(Limit::N(0), None, at(0)), Err(Errno::ENODEV));
    assert_eq!(b.set_max_burst(1, at(0)), Err(Errno::ENODEV));
    // Its last tasks still use up what is above.
    let _ = a.set_max(Limit::N(10_000), None, at(0)).unwrap();
    assert_eq!(b.run(ms(10), at(10), at(10)).len(), 1);
    assert!(Arc::ptr_eq(&Cpu::effective(&b_group).unwrap(), &a));
}

proptest! {
    /// Whatever runs, over any number of periods a group gets no more than its
    /// quota for each, its burst once, and what one report was too late.
    #[test]
    fn a_throttled_group_that_stops_keeps_to_its_quota(
        quota in 1u64..150, burst in 0u64..50, runs in prop::collection::vec((1u64..40, 0u64..60), 1..200)
    ) {
        let (_t, a, _) = two_levels();
        let _ = a.set_max(Limit::N(quota * 1000), None, at(0)).unwrap();
        let _ = a.set_max_burst(burst.min(quota) * 1000, at(0)).unwrap();
        let (mut now, mut used, mut before) = (0u64, 0u64, BandwidthStat::default());
        for (run, pause) in runs {
            now += pause;
            let _ = a.tick(at(now));
            if a.is_throttled() {
                continue;
            }
            now += run;
            let _ = a.run(ms(run), at(now), at(now));
            used += run;
            let stat = a.stat();
            prop_assert!(stat.nr_periods >= before.nr_periods);
            prop_assert!(stat.nr_throttled <= stat.nr_periods);
            prop_assert!(stat.throttled_usec >= before.throttled_usec);
            before = stat;
            // Two refills came with the two writes at the start.
            let periods = now / 100 + 2;
            prop_assert!(used <= periods * quota + burst + 40, "{} ms used by {}", used, now);
        }
    }

    /// Usage of a cgroup never decreases and is what it and those below, gone
    /// or not, have reported.
    #[test]
    fn usage_is_the_sum_of_what_was_reported(
        runs in prop::collection::vec((0usize..3, 0u64..5_000, 0u64..5_000, 0u64..5_000), 1..100)
    ) {
        let usage = [CpuUsage::new(), CpuUsage::new(), CpuUsage::new()];
        let mut sums = [(0u64, 0u64); 3];
        let mut shown = 0;
        for (depth, user, system, nice) in runs {
            CpuUsage::charge(usage[..=depth].iter().rev(), CpuTimes { user, system, nice });
            for sum in &mut sums[..=depth] {
                *sum = (sum.0 + user, sum.1 + system);
            }
            for (usage, sum) in usage.iter().zip(sums) {
                let times = usage.read();
                prop_assert_eq!((times.user, times.system), sum);
                prop_assert!(times.nice <= times.user);
            }
            prop_assert!(usage[0].read().usage_usec() >= shown);
            shown = usage[0].read().usage_usec();
        }
    }
}
