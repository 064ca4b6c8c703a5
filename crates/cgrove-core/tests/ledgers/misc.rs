use crate::tree::Tree;
use cgrove_core::controller::misc::*;
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;

fn two_levels() -> (Tree, Misc, Arc<MiscCss>, Arc<MiscCss>) {
    let controller = Misc::new(&["res_a", "res_b"]);
    controller.set_capacity("res_a", 10).unwrap();
    let mut t = Tree::with(controller.clone());
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    let css = |cgroup| Misc::css(cgroup).unwrap();
    (t, controller, css(&a), css(&b))
}

#[test]
fn a_resource_without_capacity_is_not_there() {
    let (mut t, controller, a, _) = two_levels();
    assert_eq!(controller.capacity(), [("res_a", 10)]);
    assert_eq!(a.max(), [("res_a", Limit::Max)]);
    assert_eq!((a.current(), a.peak()), (vec![("res_a", 0)], vec![("res_a", 0)]));
    assert_eq!((a.events(), a.events_local()), (vec![("res_a", 0)], vec![("res_a", 0)]));
    assert_eq!(a.set_max("res_b", Limit::N(1)), Err(Errno::EINVAL));
    assert_eq!(a.check_name("res_b"), Ok(()));
    assert_eq!(a.set_max("res_c", Limit::N(1)), Err(Errno::EINVAL));
    assert_eq!(a.check_name("res_c"), Err(Errno::EINVAL));
    assert_eq!(a.try_charge("res_b", 1, &mut t.fx), Err(Errno::EINVAL));
    assert_eq!(controller.set_capacity("res_c", 1), Err(Errno::EINVAL));
    // One that is taken away keeps its lines while there is something in them.
    a.try_charge("res_a", 2, &mut t.fx).unwrap();
    controller.set_capacity("res_a", 0).unwrap();
    assert_eq!((a.current(), a.max()), (vec![("res_a", 2)], vec![]));
    a.uncharge("res_a", 2);
    assert_eq!((a.current(), a.peak()), (vec![], vec![("res_a", 2)]));
}

#[test]
fn limits_may_lie_above_the_capacity_and_below_the_usage() {
    let (mut t, _, a, b) = two_levels();
    assert_eq!(a.set_max("res_a", Limit::N(100)), Ok(()));
    assert_eq!(b.try_charge("res_a", 10, &mut t.fx), Ok(()));
    t.notified();
    assert_eq!(b.try_charge("res_a", 1, &mut t.fx), Err(Errno::EBUSY), "the capacity");
    assert_eq!((a.current()[0].1, b.current()[0].1), (10, 10));
    // Full at the first level that is asked, which holds all of it.
    assert_eq!((b.events_local()[0].1, b.events()[0].1, a.events()[0].1), (1, 1, 1));
    assert_eq!(a.events_local()[0].1, 0);
    assert_eq!(t.notified(), ["3/misc.events.local", "3/misc.events", "2/misc.events"]);

    b.uncharge("res_a", 4);
    assert_eq!(a.set_max("res_a", Limit::N(5)), Ok(()), "below the usage");
    assert_eq!(b.try_charge("res_a", 1, &mut t.fx), Err(Errno::EBUSY));
    assert_eq!((a.events_local()[0].1, a.events()[0].1, b.events()[0].1), (1, 2, 1));
    assert_eq!((a.current()[0].1, b.current()[0].1, b.peak()[0].1), (6, 6, 10));
    assert_eq!(a.set_max("res_a", Limit::N(u64::MAX)), Ok(()));
    assert_eq!(a.max(), [("res_a", Limit::Max)], "the largest number is max");
    assert_eq!(b.try_charge("res_a", 0, &mut t.fx), Ok(()));
    assert_eq!(b.try_charge("res_a", u64::MAX, &mut t.fx), Err(Errno::EBUSY));
    assert_eq!(b.current()[0].1, 6);
}

#[test]
fn the_root_is_charged_and_has_no_events_file() {
    let (mut t, _, a, _) = two_levels();
    let root = Misc::css(t.h.root()).unwrap();
    let other = t.top("other");
    let other = Misc::css(&other).unwrap();
    a.try_charge("res_a", 6, &mut t.fx).unwrap();
    t.notified();
    assert_eq!(other.try_charge("res_a", 5, &mut t.fx), Err(Errno::EBUSY));
    assert_eq!((root.current()[0].1, root.peak()[0].1), (6, 6));
    assert_eq!((other.events()[0].1, a.events()[0].1, root.events_local()[0].1), (0, 0, 1));
    assert_eq!(t.notified(), [""; 0]);
}

#[test]
fn charges_outlive_their_cgroup() {
    let (mut t, _, a, b) = two_levels();
    b.try_charge("res_a", 3, &mut t.fx).unwrap();
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let b_group = t.h.child(&a_group, "b").unwrap();
    assert!(b.file(true).is_some());
    t.rmdir(&b_group);
    assert_eq!(b.set_max("res_a", Limit::Max), Err(Errno::ENODEV));
    assert!(b.file(false).is_none());
    assert_eq!(a.current(), [("res_a", 3)]);
    b.uncharge("res_a", 3);
    assert_eq!(a.current(), [("res_a", 0)]);
}

proptest! {
    /// Each level is the sum of what its subtree holds, within its limit and
    /// the capacity whenever a charge is admitted.
    #[test]
    fn every_level_is_the_sum_of_what_is_below(
        steps in prop::collection::vec((0u8..4, any::<bool>(), 0u64..6), 1..200)
    ) {
        let (mut t, _, a, b) = two_levels();
        let root = Misc::css(t.h.root()).unwrap();
        let mut own = [0u64; 2];
        for (what, below, n) in steps {
            let who = usize::from(below);
            let css = if below { &b } else { &a };
            match what {
                0 | 1 => {
                    let total = own[0] + own[1] + n;
                    let limit = |css: &MiscCss| match css.max()[0].1 {
                        Limit::Max => u64::MAX,
                        Limit::N(n) => n,
                    };
                    let fits = n == 0
                        || total <= 10.min(limit(&a)) && (!below || own[1] + n <= limit(&b));
                    prop_assert_eq!(css.try_charge("res_a", n, &mut t.fx).is_ok(), fits);
                    own[who] += if fits { n } else { 0 };
                }
                2 => {
                    let n = n.min(own[who]);
                    css.uncharge("res_a", n);
                    own[who] -= n;
                }
                _ => css.set_max("res_a", if n == 0 { Limit::Max } else { Limit::N(2 * n) }).unwrap(),
            }
            let shown = [&root, &a, &b].map(|css| css.current()[0].1);
            prop_assert_eq!(shown, [own[0] + own[1], own[0] + own[1], own[1]]);
        }
    }
}
