use crate::tree::Tree;
use cgrove_core::controller::hugetlb::*;
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;

use HugeCharge::{Fault, Reservation};
const MB2: HugePageSize = HugePageSize::MB2;

fn two_levels() -> (Tree, Arc<HugetlbCss>, Arc<HugetlbCss>) {
    let mut t = Tree::with(Hugetlb::new(&[MB2, HugePageSize::GB1]));
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    (t, Hugetlb::css(&a).unwrap(), Hugetlb::css(&b).unwrap())
}

fn pages(n: u64) -> Limit {
    Limit::N(n * MB2.bytes())
}

#[test]
fn sizes_are_named_as_linux_names_them() {
    let labels = [MB2, HugePageSize::GB1].map(HugePageSize::label);
    assert_eq!(labels, ["2MB", "1GB"]);
    assert_eq!([MB2, HugePageSize::GB1].map(HugePageSize::bytes), [1 << 21, 1 << 30]);
    let made = [1 << 16, 1 << 25, 1 << 34].map(|bytes| HugePageSize::new(bytes).unwrap().label());
    assert_eq!(made, ["64KB", "32MB", "16GB"]);
    assert_eq!([0, 4096, 3 << 20, 1 << 35].map(HugePageSize::new), [None; 4]);
    let (t, a, _) = two_levels();
    assert!(Hugetlb::css(t.h.root()).is_none());
    assert_eq!(a.sizes().collect::<Vec<_>>(), [MB2, HugePageSize::GB1]);
    let files = [false, true].map(|local| a.file(MB2, local).unwrap().name());
    assert_eq!(files, ["hugetlb.2MB.events", "hugetlb.2MB.events.local"]);
}

#[test]
fn limits_are_rounded_down_to_huge_pages() {
    let (_t, a, _) = two_levels();
    for charge in [Fault, Reservation] {
        assert_eq!((a.max(MB2, charge), a.current(MB2, charge)), (Limit::Max, 0));
        assert_eq!(a.set_max(MB2, charge, Limit::N(3 * MB2.bytes() - 1)), Ok(()));
        assert_eq!(a.max(MB2, charge), pages(2));
        assert_eq!(a.max(HugePageSize::GB1, charge), Limit::Max);
        assert_eq!(a.set_max(HugePageSize::GB1, charge, Limit::N((1 << 30) - 1)), Ok(()));
        assert_eq!(a.max(HugePageSize::GB1, charge), Limit::N(0));
        assert_eq!(a.set_max(MB2, charge, Limit::N(u64::MAX)), Ok(()));
        assert_eq!(a.max(MB2, charge), Limit::Max);
    }
    let other = HugePageSize::new(1 << 16).unwrap();
    assert_eq!(a.set_max(other, Fault, Limit::Max), Err(Errno::EINVAL));
}

#[test]
fn a_refusal_counts_at_the_charger() {
    let (mut t, a, b) = two_levels();
    a.set_max(MB2, Fault, pages(3)).unwrap();
    assert_eq!(b.try_charge(MB2, Fault, 3, &mut t.fx), Ok(()));
    assert_eq!(b.try_charge(MB2, Reservation, 100, &mut t.fx), Ok(()), "another counter");
    t.notified();
    assert_eq!(b.try_charge(MB2, Fault, 1, &mut t.fx), Err(Errno::ENOMEM));
    assert_eq!([&a, &b].map(|css| css.current(MB2, Fault)), [3 * MB2.bytes(); 2]);
    assert_eq!([&a, &b].map(|css| css.events(MB2)), [1, 1], "though a's limit was hit");
    assert_eq!([&a, &b].map(|css| css.events_local(MB2)), [0, 1]);
    assert_eq!(
        t.notified(),
        ["3/hugetlb.2MB.events.local", "3/hugetlb.2MB.events", "2/hugetlb.2MB.events"]
    );
    assert_eq!(a.events(HugePageSize::GB1), 0);
    assert_eq!(a.set_max(MB2, Fault, pages(2)), Err(Errno::EBUSY), "no taking back");
    assert_eq!(a.max(MB2, Fault), pages(3));
    b.uncharge(MB2, Fault, 1);
    assert_eq!(a.set_max(MB2, Fault, pages(2)), Ok(()));
    let other = HugePageSize::new(1 << 16).unwrap();
    assert_eq!(b.try_charge(other, Fault, 1, &mut t.fx), Err(Errno::EINVAL));
    assert_eq!(b.try_charge(MB2, Fault, u64::MAX, &mut t.fx), Err(Errno::ENOMEM));
}

#[test]
fn pages_outlive_their_cgroup() {
    let (mut t, a, b) = two_levels();
    b.set_max(MB2, Fault, pages(2)).unwrap();
    b.try_charge(MB2, Fault, 2, &mut t.fx).unwrap();
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let b_group = t.h.child(&a_group, "b").unwrap();
    t.rmdir(&b_group);
    assert_eq!(a.current(MB2, Fault), 2 * MB2.bytes());
    assert_eq!(b.set_max(MB2, Fault, pages(0)), Err(Errno::ENODEV));
    assert!(b.file(MB2, false).is_none());
    assert_eq!(b.try_charge(MB2, Fault, 1, &mut t.fx), Ok(()), "bound only from above");
    b.uncharge(MB2, Fault, 3);
    assert_eq!(a.current(MB2, Fault), 0);
}

proptest! {
    /// Each level is the sum of what its subtree holds, and within its limit.
    #[test]
    fn every_level_is_the_sum_of_what_is_below(
        steps in prop::collection::vec((0u8..4, any::<bool>(), 0u64..6), 1..150)
    ) {
        let (mut t, a, b) = two_levels();
        let mut own = [0u64; 2];
        for (what, below, n) in steps {
            let (who, css) = if below { (1, &b) } else { (0, &a) };
            match what {
                0 | 1 => {
                    let charged = css.try_charge(MB2, Fault, n, &mut t.fx).is_ok();
                    own[who] += if charged { n } else { 0 };
                }
                2 => {
                    let n = n.min(own[who]);
                    css.uncharge(MB2, Fault, n);
                    own[who] -= n;
                }
                _ => {
                    let held = if below { own[1] } else { own[0] + own[1] };
                    let refused = css.set_max(MB2, Fault, pages(2 * n)).is_err();
                    prop_assert_eq!(refused, held > 2 * n);
                }
            }
            for (css, held) in [(&a, own[0] + own[1]), (&b, own[1])] {
                prop_assert_eq!(css.current(MB2, Fault), held * MB2.bytes());
                if let Limit::N(max) = css.max(MB2, Fault) {
                    prop_assert!(held * MB2.bytes() <= max);
                }
            }
        }
    }
}
