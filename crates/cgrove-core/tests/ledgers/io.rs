use crate::tree::Tree;
use cgrove_core::controller::io::*;
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;

const SDA: Device = Device { major: 8, minor: 0 };
const SDB: Device = Device { major: 8, minor: 16 };
const NONE: Device = Device { major: 9, minor: 9 };

fn io(cgroup: &Arc<Cgroup>) -> Arc<IoCss> {
    Io::css(cgroup).unwrap()
}

/// `8:0` goes by weight, `8:16` does not.
fn two_levels() -> (Tree, Io, Arc<IoCss>, Arc<IoCss>) {
    let controller = Io::new().without_memory();
    controller.add_device(SDA, true);
    controller.add_device(SDB, false);
    let mut t = Tree::with(controller.clone());
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    (t, controller, io(&a), io(&b))
}

fn limits(css: &IoCss) -> Vec<(Device, [Limit; 4])> {
    css.max().iter().map(|(device, max)| (*device, IoLimit::ALL.map(|l| max.get(l)))).collect()
}

#[test]
fn a_new_cgroup_has_no_lines_but_the_default_weight() {
    let (t, _, a, _) = two_levels();
    assert_eq!((a.max(), a.stat(), a.weights()), (vec![], vec![], vec![]));
    assert_eq!(a.default_weight(), 100);
    assert_eq!(io(t.h.root()).stat(), [], "io.stat is on the root too");
    assert_eq!(SDB.to_string(), "8:16");
    assert_eq!(IoLimit::ALL.map(IoLimit::key), ["rbps", "wbps", "riops", "wiops"]);
}

#[test]
fn a_line_of_limits_is_taken_whole_or_not_at_all() {
    let (_t, _, a, _) = two_levels();
    use IoLimit::*;
    assert_eq!(a.set_max(SDB, &[(ReadBytes, Limit::N(1024)), (WriteOps, Limit::N(7))]), Ok(()));
    assert_eq!(limits(&a), [(SDB, [Limit::N(1024), Limit::Max, Limit::Max, Limit::N(7)])]);
    let zero = [(ReadBytes, Limit::N(5)), (WriteBytes, Limit::N(0))];
    assert_eq!(a.set_max(SDB, &zero), Err(Errno::ERANGE));
    assert_eq!(a.set_max(NONE, &zero), Err(Errno::ENODEV), "the device comes first");
    assert_eq!(limits(&a), [(SDB, [Limit::N(1024), Limit::Max, Limit::Max, Limit::N(7)])]);
    let twice = [(ReadBytes, Limit::N(1)), (ReadBytes, Limit::N(2))];
    assert_eq!(a.set_max(SDB, &twice), Ok(()));
    assert_eq!(limits(&a)[0].1[0], Limit::N(2));
    let (most, more) = (u64::from(u32::MAX) - 1, u64::from(u32::MAX));
    a.set_max(SDB, &[(ReadOps, Limit::N(most)), (WriteOps, Limit::N(more))]).unwrap();
    a.set_max(SDB, &[(ReadBytes, Limit::N(u64::MAX)), (WriteBytes, Limit::N(more))]).unwrap();
    assert_eq!(limits(&a)[0].1, [Limit::Max, Limit::N(more), Limit::N(most), Limit::Max]);
    a.set_max(SDB, &[(ReadOps, Limit::Max), (WriteBytes, Limit::Max)]).unwrap();
    assert_eq!(limits(&a), [], "a line without limits is not there");
}

#[test]
fn weights_are_per_cgroup_and_per_device_that_goes_by_them() {
    let (_t, _, a, _) = two_levels();
    assert_eq!([0, 10_001].map(|w| a.set_default_weight(w)), [Err(Errno::EINVAL); 2]);
    assert_eq!([1, 10_000, 50].map(|w| a.set_default_weight(w)), [Ok(()); 3]);
    assert_eq!(a.set_weight(SDA, Some(200)), Ok(()));
    assert_eq!(a.set_weight(SDA, Some(0)), Err(Errno::EINVAL));
    assert_eq!(a.set_weight(SDB, Some(0)), Err(Errno::EOPNOTSUPP), "before the value");
    assert_eq!(a.set_weight(NONE, Some(0)), Err(Errno::ENODEV));
    assert_eq!((a.default_weight(), a.weights()), (50, vec![(SDA, 200)]));
    assert_eq!((a.weight(SDA), a.weight(SDB)), (200, 50));
    assert_eq!(a.set_weight(SDA, None), Ok(()));
    assert_eq!((a.weights(), a.weight(SDA)), (vec![], 50));
}

#[test]
fn what_is_done_counts_at_every_level() {
    let (t, controller, a, b) = two_levels();
    b.account(SDA, IoOp::Read, 4096, 1);
    b.account(SDA, IoOp::Write, 8192, 2);
    a.account(SDA, IoOp::Discard, 512, 1);
    let stat = IoStat { rbytes: 4096, rios: 1, wbytes: 8192, wios: 2, ..IoStat::default() };
    assert_eq!(b.stat(), [(SDA, stat)]);
    let stat = IoStat { dbytes: 512, dios: 1, ..stat };
    assert_eq!((a.stat(), io(t.h.root()).stat()), (vec![(SDA, stat)], vec![(SDA, stat)]));
    controller.remove_device(SDA);
    assert_eq!(a.stat(), [], "gone with its device");
}

#[test]
fn an_operation_goes_when_every_level_lets_it() {
    let (_t, _, a, b) = two_levels();
    let ms = |n: u64| Time(n * 1_000_000);
    a.set_max(SDA, &[(IoLimit::WriteOps, Limit::N(10))]).unwrap();
    b.set_max(SDA, &[(IoLimit::WriteBytes, Limit::N(1_000_000))]).unwrap();
    assert_eq!(b.may_dispatch(SDA, IoOp::Write, 200_000, ms(1_000)), Ok(()));
    assert_eq!(b.may_dispatch(SDA, IoOp::Read, u64::MAX, ms(1_000)), Ok(()), "reads are free");
    assert_eq!(b.may_dispatch(SDB, IoOp::Write, u64::MAX, ms(1_000)), Ok(()));
    // 200 ms of b's bytes are taken, 100 ms of a's operations.
    assert_eq!(b.may_dispatch(SDA, IoOp::Write, 1, ms(1_000)), Err(ms(1_100)));
    assert_eq!(a.may_dispatch(SDA, IoOp::Discard, u64::MAX, ms(1_000)), Ok(()));
    assert_eq!(b.may_dispatch(SDA, IoOp::Write, 1, ms(1_099)), Err(ms(1_100)));
    assert_eq!(b.may_dispatch(SDA, IoOp::Write, 1, ms(1_100)), Ok(()));
    // Refused above, so what was taken below is given back.
    assert_eq!(b.may_dispatch(SDA, IoOp::Write, 500_000, ms(1_150)), Err(ms(1_200)));
    a.set_max(SDA, &[(IoLimit::WriteOps, Limit::Max)]).unwrap();
    assert_eq!(b.may_dispatch(SDA, IoOp::Write, 1, ms(1_150)), Ok(()));
}

#[test]
fn a_removed_cgroup_takes_no_settings_and_holds_nobody_up() {
    let (mut t, _, a, b) = two_levels();
    b.set_max(SDA, &[(IoLimit::ReadOps, Limit::N(1))]).unwrap();
    b.may_dispatch(SDA, IoOp::Read, 1, Time(0)).unwrap();
    assert!(b.may_dispatch(SDA, IoOp::Read, 1, Time(0)).is_err());
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let b_group = t.h.child(&a_group, "b").unwrap();
    t.rmdir(&b_group);
    assert_eq!(b.may_dispatch(SDA, IoOp::Read, 1, Time(0)), Ok(()));
    assert_eq!(b.set_max(SDA, &[]), Err(Errno::ENODEV));
    assert_eq!(b.set_default_weight(0), Err(Errno::ENODEV));
    assert_eq!(b.set_weight(SDA, None), Err(Errno::ENODEV));
    b.account(SDA, IoOp::Read, 1, 1);
    assert_eq!(a.stat()[0].1.rios, 1);
}

proptest! {
    /// Figures of a cgroup are its own and those of its children, and a stream
    /// that asks for leave keeps to the rate, a slice and one operation.
    #[test]
    fn sums_add_up_and_rates_are_kept(
        rate in 1_000u64..1_000_000,
        ops in prop::collection::vec((any::<bool>(), 1u64..20_000, 0u64..50), 1..200)
    ) {
        let (_t, _, a, b) = two_levels();
        a.set_max(SDA, &[(IoLimit::ReadBytes, Limit::N(rate))]).unwrap();
        let (mut own, mut now, mut sent, mut largest) = ([0u64; 2], 0u64, 0u64, 0u64);
        for (below, bytes, pause) in ops {
            now += pause * 1_000_000;
            let css = if below { &b } else { &a };
            if let Err(at) = css.may_dispatch(SDA, IoOp::Read, bytes, Time(now)) {
                prop_assert!(at.0 > now);
                now = at.0;
                prop_assert_eq!(css.may_dispatch(SDA, IoOp::Read, bytes, at), Ok(()));
            }
            css.account(SDA, IoOp::Read, bytes, 1);
            own[usize::from(below)] += bytes;
            sent += bytes;
            largest = largest.max(bytes);
            let allowed = u128::from(rate) * u128::from(now + 100_000_000) / 1_000_000_000;
            prop_assert!(u128::from(sent) <= allowed + u128::from(largest) + 200);
        }
        let read = |css: &IoCss| css.stat().first().map_or(0, |line| line.1.rbytes);
        prop_assert_eq!((read(&a), read(&b)), (own[0] + own[1], own[1]));
    }
}
