use crate::tree::Tree;
use cgrove_core::controller::rdma::*;
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;

use RdmaResource::{HcaHandle, HcaObject};

fn two_levels() -> (Tree, Rdma, Arc<RdmaCss>, Arc<RdmaCss>) {
    let controller = Rdma::new();
    controller.add_device("mlx4_0");
    controller.add_device("ocrdma1");
    controller.add_device("mlx4_0");
    let mut t = Tree::with(controller.clone());
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    (t, controller, Rdma::css(&a).unwrap(), Rdma::css(&b).unwrap())
}

/// What is said about handles of the first device.
fn handles(css: &RdmaCss) -> RdmaCounts {
    css.lines()[0].1[HcaHandle as usize]
}

#[test]
fn every_device_has_a_line_in_every_cgroup() {
    let (t, controller, a, _) = two_levels();
    assert!(Rdma::css(t.h.root()).is_none());
    let names: Vec<_> = a.lines().into_iter().map(|line| line.0).collect();
    assert_eq!(names, ["mlx4_0", "ocrdma1"]);
    assert_eq!(RdmaResource::ALL.map(RdmaResource::key), ["hca_handle", "hca_object"]);
    let new = handles(&a);
    assert_eq!((new.max, new.current, new.peak), (Limit::Max, 0, 0));
    controller.remove_device("mlx4_0");
    assert_eq!(a.lines().len(), 1);
}

#[test]
fn a_line_of_limits_is_taken_whole_or_not_at_all() {
    let (_t, _, a, _) = two_levels();
    let most = u64::from(i32::MAX as u32);
    assert_eq!(a.set_max("mlx4_0", &[(HcaHandle, Limit::N(2)), (HcaObject, Limit::N(0))]), Ok(()));
    let limits = |css: &RdmaCss| css.lines()[0].1.map(|counts| counts.max);
    assert_eq!(limits(&a), [Limit::N(2), Limit::N(0)]);
    let bad = [(HcaHandle, Limit::N(1)), (HcaObject, Limit::N(most + 1))];
    assert_eq!(a.set_max("mlx4_0", &bad), Err(Errno::EINVAL));
    assert_eq!(a.set_max("none", &bad), Err(Errno::EINVAL), "numbers come first");
    assert_eq!(a.set_max("none", &[]), Err(Errno::ENODEV));
    assert_eq!(limits(&a), [Limit::N(2), Limit::N(0)]);
    assert_eq!(a.set_max("mlx4_0", &[(HcaObject, Limit::N(most))]), Ok(()));
    assert_eq!(limits(&a), [Limit::N(2), Limit::Max], "the largest number is max");
    assert_eq!(a.lines()[1].1.map(|counts| counts.max), [Limit::Max; 2]);
}

#[test]
fn a_refusal_is_an_event_where_it_was_full_and_where_it_was_asked() {
    let (mut t, _, a, b) = two_levels();
    a.set_max("mlx4_0", &[(HcaHandle, Limit::N(1))]).unwrap();
    assert_eq!(b.try_charge("mlx4_0", HcaHandle, &mut t.fx), Ok(()));
    assert_eq!(b.try_charge("mlx4_0", HcaObject, &mut t.fx), Ok(()));
    assert_eq!(b.try_charge("ocrdma1", HcaHandle, &mut t.fx), Ok(()));
    t.notified();
    assert_eq!(b.try_charge("mlx4_0", HcaHandle, &mut t.fx), Err(Errno::EAGAIN));
    let events = |css: &RdmaCss| {
        let c = handles(css);
        [c.events_max, c.events_alloc_fail, c.local_max, c.local_alloc_fail]
    };
    assert_eq!((events(&a), events(&b)), ([1, 1, 1, 0], [0, 1, 0, 1]));
    assert_eq!((handles(&b).current, handles(&b).peak), (1, 1), "no trace in the peak");
    assert_eq!(
        t.notified(),
        // a's two events fall within one interval: the second is held back.
        ["3/rdma.events.local", "2/rdma.events.local", "2/rdma.events", "3/rdma.events"]
    );
    b.uncharge("mlx4_0", HcaHandle);
    assert_eq!((handles(&a).current, handles(&a).peak), (0, 1));
    assert_eq!(b.try_charge("none", HcaHandle, &mut t.fx), Err(Errno::EINVAL));
}

#[test]
fn charges_outlive_their_cgroup() {
    let (mut t, _, a, b) = two_levels();
    b.set_max("mlx4_0", &[(HcaHandle, Limit::N(1))]).unwrap();
    b.try_charge("mlx4_0", HcaHandle, &mut t.fx).unwrap();
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let b_group = t.h.child(&a_group, "b").unwrap();
    t.rmdir(&b_group);
    assert_eq!(b.set_max("mlx4_0", &[(HcaHandle, Limit::N(u64::MAX))]), Err(Errno::ENODEV));
    assert!(b.file(true).is_none() && a.file(true).is_some());
    assert_eq!(b.try_charge("mlx4_0", HcaHandle, &mut t.fx), Ok(()), "bound only from above");
    b.uncharge("mlx4_0", HcaHandle);
    b.uncharge("mlx4_0", HcaHandle);
    assert_eq!(handles(&a).current, 0);
}

proptest! {
    /// Each level is the sum of what its subtree holds, admitted exactly when
    /// every level has room.
    #[test]
    fn every_level_is_the_sum_of_what_is_below(
        steps in prop::collection::vec((0u8..4, any::<bool>(), 0u64..6), 1..150)
    ) {
        let (mut t, _, a, b) = two_levels();
        let mut own = [0u64; 2];
        for (what, below, n) in steps {
            let (who, css) = if below { (1, &b) } else { (0, &a) };
            match what {
                0 | 1 => {
                    let room = |css: &RdmaCss| match handles(css).max {
                        Limit::Max => true,
                        Limit::N(max) => handles(css).current < max,
                    };
                    let fits = room(&a) && (!below || room(&b));
                    let charged = css.try_charge("mlx4_0", HcaHandle, &mut t.fx);
                    prop_assert_eq!(charged.is_ok(), fits);
                    own[who] += u64::from(fits);
                }
                2 if own[who] > 0 => {
                    css.uncharge("mlx4_0", HcaHandle);
                    own[who] -= 1;
                }
                2 => {}
                _ => css.set_max("mlx4_0", &[(HcaHandle, Limit::N(n))]).unwrap(),
            }
            for (css, held) in [(&a, own[0] + own[1]), (&b, own[1])] {
                prop_assert_eq!(handles(css).current, held);
                prop_assert!(handles(css).peak >= held);
            }
        }
    }
}
