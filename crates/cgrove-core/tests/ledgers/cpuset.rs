use crate::tree::Tree;
use cgrove_core::controller::cpuset::*;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::*;
use proptest::prelude::*;
use std::sync::Arc;

fn cpuset(cgroup: &Arc<Cgroup>) -> Arc<CpusetCss> {
    Cpuset::css(cgroup).unwrap()
}

fn mask(ids: impl IntoIterator<Item = u32>) -> IdMask {
    ids.into_iter().collect()
}

fn none() -> IdMask {
    IdMask::new()
}

fn whose(concerned: &[Arc<CpusetCss>]) -> Vec<u64> {
    concerned.iter().map(|css| css.cgroup().0).collect()
}

/// Eight CPUs and two nodes: `a` (id 2), `a/b` (id 3), `c` (id 4).
fn three() -> (Tree, Cpuset, [Arc<CpusetCss>; 3]) {
    let controller = Cpuset::new(IdMask::first(8), IdMask::first(2));
    let mut t = Tree::with(controller.clone());
    let a = t.top("a");
    let b = t.mkdir(&a, "b");
    let c = t.top("c");
    (t, controller, [&a, &b, &c].map(cpuset))
}

#[test]
fn a_new_cgroup_asks_for_nothing_and_has_what_its_parent_has() {
    let (mut t, _, [a, b, _]) = three();
    let root = cpuset(t.h.root());
    assert_eq!(
        (root.effective_cpus().to_string(), root.effective_mems().to_string()),
        ("0-7".into(), "0-1".into())
    );
    for css in [&a, &b] {
        assert_eq!((css.cpus(), css.mems(), css.exclusive_cpus()), (none(), none(), none()));
        assert_eq!(css.effective_cpus(), IdMask::first(8));
        assert_eq!(
            (css.effective_mems(), css.effective_exclusive_cpus()),
            (IdMask::first(2), none())
        );
    }
    let _ = a.set_cpus(mask([1, 2])).unwrap();
    let a_group = t.h.child(t.h.root(), "a").unwrap();
    let d = cpuset(&t.mkdir(&a_group, "d"));
    assert_eq!(d.effective_cpus(), mask([1, 2]), "inherited, not asked for");
}

#[test]
fn what_is_asked_for_is_granted_as_far_as_the_parent_has_it() {
    let (_t, _, [a, b, c]) = three();
    assert_eq!(whose(&b.set_cpus(mask(0..4)).unwrap()), [3]);
    assert_eq!(whose(&a.set_cpus(mask(2..6)).unwrap()), [2, 3], "from the top down");
    assert_eq!(b.effective_cpus(), mask([2, 3]));
    assert_eq!(b.cpus(), mask(0..4), "the request stands");
    assert_eq!(whose(&a.set_cpus(mask([6, 7])).unwrap()), [2, 3]);
    assert_eq!(b.effective_cpus(), mask([6, 7]), "none of the request left: all the parent has");
    assert_eq!(whose(&b.set_cpus(mask([7])).unwrap()), [3]);
    assert_eq!(whose(&b.set_cpus(mask([7, 0])).unwrap()), [0u64; 0], "nothing changes for tasks");
    assert_eq!(whose(&a.set_cpus(none()).unwrap()), [2, 3]);
    assert_eq!((a.effective_cpus(), b.effective_cpus()), (mask(0..8), mask([7, 0])));
    assert_eq!(c.effective_cpus(), mask(0..8), "a sibling is not concerned");
    assert_eq!(whose(&a.set_mems(mask([1])).unwrap()), [2, 3]);
    assert_eq!((b.mems(), b.effective_mems()), (none(), mask([1])));
}

#[test]
fn only_what_the_machine_can_never_have_is_refused() {
    let (_t, controller, [a, ..]) = three();
    assert_eq!(a.nr_cpu_ids(), 8);
    assert_eq!(a.set_cpus(mask([7, 8])).map(drop), Err(Errno::ERANGE));
    assert_eq!(a.set_exclusive_cpus(mask([8])), Err(Errno::ERANGE));
    assert_eq!(a.set_mems(mask([2])).map(drop), Err(Errno::EINVAL));
    assert_eq!(a.set_mems(mask([MAX_NODES - 1])).map(drop), Err(Errno::EINVAL));
    assert_eq!(a.set_mems(mask([MAX_NODES])).map(drop), Err(Errno::ERANGE));
    let _ = controller.set_online(&IdMask::first(2), &IdMask::first(1));
    assert_eq!(whose(&a.set_cpus(mask([1, 7])).unwrap()), [2, 3], "7 is away, not impossible");
    assert_eq!(a.effective_cpus(), mask([1]));

    let mut t = Tree::with(Cpuset::new(mask([0, 2]), mask([0])));
    let holes = cpuset(&t.top("holes"));
    assert_eq!(holes.set_cpus(mask([1])).map(drop), Err(Errno::EINVAL));
    assert_eq!(holes.set_exclusive_cpus(mask([1])), Err(Errno::EINVAL));
    assert_eq!(holes.set_cpus(mask([3])).map(drop), Err(Errno::ERANGE));
}

#[test]
fn cpus_come_and_go() {
    let (t, controller, [a, b, _]) = three();
    let _ = a.set_cpus(mask([0, 1])).unwrap();
    let _ = b.set_cpus(mask([1])).unwrap();
    let concerned = controller.set_online(&mask([0, 2, 99]), &IdMask::first(2));
    assert_eq!(whose(&concerned), [1, 2, 4, 3]);
    assert_eq!(cpuset(t.h.root()).effective_cpus(), mask([0, 2]), "99 is none of its CPUs");
    assert_eq!((a.effective_cpus(), b.effective_cpus()), (mask([0]), mask([0])));
    assert_eq!(whose(&controller.set_online(&IdMask::first(8), &IdMask::first(2))), [1, 2, 4, 3]);
    assert_eq!(b.effective_cpus(), mask([1]), "the request was kept");
}

#[test]
fn exclusive_claims_do_not_overlap_and_starve_no_sibling() {
    let (mut t, _, [a, b, c]) = three();
    assert_eq!(a.set_exclusive_cpus(mask([0, 1])), Ok(()));
    assert_eq!(c.set_exclusive_cpus(mask([1, 2])), Err(Errno::EINVAL));
    assert_eq!(c.set_exclusive_cpus(mask([2, 3])), Ok(()));
    let _ = c.set_cpus(mask([4, 5])).unwrap();
    assert_eq!(a.set_exclusive_cpus(mask([0, 4])), Ok(()), "5 is left to c");
    assert_eq!(a.set_exclusive_cpus(mask([4, 5, 6])), Err(Errno::EINVAL));
    assert_eq!((a.exclusive_cpus(), a.effective_exclusive_cpus()), (mask([0, 4]), mask([0, 4])));
    // Asking for what a sibling claims is not refused.
    assert!(c.set_cpus(mask([0])).is_ok());
    assert_eq!(c.effective_cpus(), mask([0]));
    assert_eq!(a.set_exclusive_cpus(mask([0, 4])), Ok(()), "no change, no check");

    assert_eq!(b.set_exclusive_cpus(mask([4, 7])), Ok(()), "not limited by the parent's");
    assert_eq!(b.effective_exclusive_cpus(), mask([4]), "but granted within it");
    assert_eq!(a.set_exclusive_cpus(none()), Ok(()));
    assert_eq!((a.effective_exclusive_cpus(), b.effective_exclusive_cpus()), (none(), none()));
    assert_eq!(b.effective_cpus(), mask(0..8));

    // One that is gone claims nothing.
    assert_eq!(a.set_exclusive_cpus(mask([2])), Err(Errno::EINVAL));
    let c_group = t.h.child(t.h.root(), "c").unwrap();
    t.rmdir(&c_group);
    assert_eq!(a.set_exclusive_cpus(mask([2])), Ok(()));
}

#[test]
fn a_removed_cgroup_takes_no_settings() {
    let (mut t, _, [_, _, c]) = three();
    let c_group = t.h.child(t.h.root(), "c").unwrap();
    t.rmdir(&c_group);
    assert_eq!(c.set_cpus(mask([99])).map(drop), Err(Errno::ENODEV), "before the value");
    assert_eq!(c.set_mems(none()).map(drop), Err(Errno::ENODEV));
    assert_eq!(c.set_exclusive_cpus(none()), Err(Errno::ENODEV));
}

#[test]
fn nobody_moves_to_where_no_cpu_is() {
    let (mut t, controller, [a, ..]) = three();
    let [from, to] = ["c", "e"].map(|name| match t.h.child(t.h.root(), name) {
        Some(cgroup) => cgroup,
        None => t.top(name),
    });
    let place = t.h.fork(ForkFrom::Cgroup(&from), &mut t.fx).unwrap();
    let task = place.publish(TaskId(1), Membership::Process, &mut t.fx);
    let who = || Ok(Arc::clone(&task));
    t.h.attach(&to, Scope::Process, who, &Opener::ROOT, &mut t.fx).unwrap();
    let _ = controller.set_online(&none(), &none());
    assert_eq!(a.can_attach(), Err(Errno::ENOSPC));
    let refused = t.h.attach(&from, Scope::Process, who, &Opener::ROOT, &mut t.fx);
    assert_eq!(refused, Err(Errno::ENOSPC));
    assert_eq!(t.h.procs(&to).unwrap().len(), 1, "still there");
}

proptest! {
    /// After any writes the effective sets are what the definition gives, and
    /// exactly those cpusets are named whose sets changed.
    #[test]
    fn effective_sets_follow_from_the_requests(
        writes in prop::collection::vec((0usize..4, 0u8..3, 0u32..256), 1..60)
    ) {
        let (_t, controller, [a, b, c]) = three();
        let all = [a, b, c];
        let effective = |css: &Arc<CpusetCss>| (css.effective_cpus(), css.effective_mems());
        let mut online = IdMask::first(8);
        for (who, what, bits) in writes {
            let ids = mask((0..8).filter(|bit| bits & 1 << bit != 0));
            let before = all.each_ref().map(effective);
            let concerned = match (all.get(who), what) {
                (None, _) => {
                    online = ids;
                    controller.set_online(&online, &IdMask::first(2))
                }
                (Some(css), 0) => css.set_cpus(ids).unwrap(),
                (Some(css), 1) => css.set_mems(ids.and(&IdMask::first(2))).unwrap(),
                (Some(css), _) => {
                    let _ = css.set_exclusive_cpus(ids);
                    Vec::new()
                }
            };
            let granted = |asked: IdMask, had: &IdMask| match asked.and(had) {
                none if none.is_empty() => had.clone(),
                some => some,
            };
            let [a, b, c] = &all;
            for (css, above) in [(a, &online), (b, &a.effective_cpus()), (c, &online)] {
                prop_assert_eq!(css.effective_cpus(), granted(css.cpus(), above));
            }
            prop_assert_eq!(b.effective_mems(), granted(b.mems(), &a.effective_mems()));
            prop_assert!(!a.exclusive_cpus().intersects(&c.exclusive_cpus()));
            prop_assert!(b.effective_exclusive_cpus().is_subset(&a.effective_exclusive_cpus()));
            for (css, before) in all.iter().zip(before) {
                let named = concerned.iter().any(|other| Arc::ptr_eq(other, css));
                prop_assert_eq!(named, before != effective(css));
            }
        }
    }
}
