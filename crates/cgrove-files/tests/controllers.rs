//! What each controller's files take and show, as Linux 7.2 does.

mod support;

use cgrove_core::controller::hugetlb::{HugeCharge, HugePageSize, Hugetlb};
use cgrove_core::controller::io::{Device, IoOp};
use cgrove_core::controller::memory::Memory;
use cgrove_core::controller::memory::{MemoryEvent, MemoryFile};
use cgrove_core::controller::misc::Misc;
use cgrove_core::controller::rdma::{Rdma, RdmaResource};
use cgrove_core::{Errno, EventFile, Pids};
use cgrove_files::{Caller, Cred, Figure, Figures, NoTasks, OpenFlags, Rest, Tree};
use std::sync::Arc;
use support::World;

/// A cgroup `a` with these controllers.
fn world(controllers: &str) -> World {
    let mut w = World::new();
    w.write("cgroup.subtree_control", controllers).unwrap();
    w.mkdir("a").unwrap();
    w
}

/// Writes each text and compares what came of it: the errno, or what the file
/// then reads.
#[track_caller]
fn check(w: &mut World, file: &str, steps: &[(&str, Result<&str, Errno>)]) {
    let path = format!("a/{file}");
    for (text, expected) in steps {
        let before = w.get(&path);
        let came = w.write(&path, text).map(|()| w.get(&path));
        assert_eq!(came, expected.map(String::from), "{file} <- {text:?}");
        if came.is_err() {
            assert_eq!(w.get(&path), before, "{file} <- {text:?} was refused");
        }
    }
}

use Errno::{EINVAL, ENODEV, EOPNOTSUPP, ERANGE};

#[test]
fn pids() {
    let mut w = world("+pids");
    check(
        &mut w,
        "pids.max",
        &[
            ("", Ok("max")),
            ("7", Ok("7")),
            (" 0x10 \n", Ok("16")),
            ("0", Ok("0")),
            ("4194304", Ok("4194304")),
            ("4194305", Err(EINVAL)),
            ("-1", Err(EINVAL)),
            ("x", Err(EINVAL)),
            ("\n", Err(EINVAL)),
            ("9223372036854775808", Err(ERANGE)),
            ("max\n", Ok("max")),
            ("maxx", Err(EINVAL)),
        ],
    );
    assert_eq!(w.get("a/pids.events"), "max 0");
    assert_eq!(w.get("a/pids.events.local"), "max 0");
    assert_eq!(w.get("a/pids.peak"), "0");
    assert_eq!(w.read("pids.max"), Err(Errno::ENOENT), "not on the root");
}

#[test]
fn cpu() {
    let mut w = world("+cpu");
    check(
        &mut w,
        "cpu.weight",
        &[
            ("", Ok("100")),
            ("0x10", Ok("16")),
            ("10000\n", Ok("10000")),
            ("0", Err(ERANGE)),
            ("10001", Err(ERANGE)),
            ("18446744073709551616", Err(ERANGE)),
            (" 55\n", Err(EINVAL)),
            ("-1", Err(EINVAL)),
            ("default", Err(EINVAL)),
        ],
    );
    check(
        &mut w,
        "cpu.weight.nice",
        &[("-20", Ok("-20")), ("20", Err(ERANGE)), ("-21", Err(ERANGE)), ("x", Err(EINVAL))],
    );
    assert_eq!(w.get("a/cpu.weight"), "8668");
    check(
        &mut w,
        "cpu.max",
        &[
            ("50000", Ok("50000 100000")),
            ("  10000   20000  \n", Ok("10000 20000")),
            ("max max", Ok("max 20000")),
            ("10000 x", Ok("10000 20000")),
            ("5000 30000 40000", Ok("5000 30000")),
            ("5000x", Ok("5000 30000")),
            ("999 100000", Err(EINVAL)),
            ("1000 999", Err(EINVAL)),
            ("-1", Err(EINVAL)),
            ("x", Err(EINVAL)),
            ("\n", Err(EINVAL)),
            ("18446744073709551615", Ok("max 30000")),
            ("18446744073709551616", Ok("max 30000")),
        ],
    );
    check(&mut w, "cpu.max", &[("20000 100000", Ok("20000 100000"))]);
    check(
        &mut w,
        "cpu.max.burst",
        &[("20000", Ok("20000")), ("20001", Err(EINVAL)), ("-1", Err(EINVAL)), (" 1", Err(EINVAL))],
    );
    check(&mut w, "cpu.idle", &[("2", Err(EINVAL)), ("-1", Err(EINVAL)), ("1", Ok("1"))]);
    check(&mut w, "cpu.weight", &[("100", Err(EINVAL)), ("0", Err(ERANGE))]);
    let stat = w.get("a/cpu.stat");
    let keys: Vec<_> = stat.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        keys,
        [
            "usage_usec",
            "user_usec",
            "system_usec",
            "nice_usec",
            "nr_periods",
            "nr_throttled",
            "throttled_usec",
            "nr_bursts",
            "burst_usec"
        ]
    );
    assert_eq!(w.get("a/cpu.stat.local"), "throttled_usec 0");
    w.mkdir("a/b").unwrap();
    assert_eq!(w.read("a/b/cpu.stat.local").unwrap(), "");
}

#[test]
fn memory_limits() {
    let mut w = world("+memory");
    for file in ["memory.min", "memory.low", "memory.high", "memory.swap.high", "memory.swap.max"] {
        let none = if file.ends_with("min") || file.ends_with("low") { "0" } else { "max" };
        check(
            &mut w,
            file,
            &[
                ("", Ok(none)),
                ("10000", Ok("8192")),
                ("1.5M", Err(EINVAL)),
                ("\n", Ok("0")),
                (" max \n", Ok("max")),
            ],
        );
    }
    check(
        &mut w,
        "memory.max",
        &[
            ("64K", Ok("65536")),
            ("0x10k", Ok("16384")),
            ("2g", Ok("2147483648")),
            ("4095", Ok("0")),
            ("1KB", Err(EINVAL)),
            ("1 K", Err(EINVAL)),
            ("-1", Err(EINVAL)),
            ("MAX", Err(EINVAL)),
            ("9223372036854775807", Ok("max")),
            ("99999999999999999999999", Ok("max")),
            ("16E", Ok("max")),
        ],
    );
    check(
        &mut w,
        "memory.oom.group",
        &[
            ("1", Ok("1")),
            (" 0x0\n", Ok("0")),
            ("2", Err(EINVAL)),
            ("-1", Err(EINVAL)),
            ("x", Err(EINVAL)),
            ("2147483648", Err(ERANGE)),
        ],
    );
    assert_eq!(w.get("a/memory.swap.events"), "high 0\nmax 0\nfail 0");
    assert_eq!(
        w.get("a/memory.events.local"),
        "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\nsock_throttled 0"
    );
    assert_eq!(w.read("a/memory.reclaim"), Err(EINVAL));
    for (text, came) in [
        ("", Ok(())),
        ("0", Ok(())),
        ("1M", Err(Errno::EAGAIN)),
        (" 1M swappiness=200  swappiness=max ", Err(Errno::EAGAIN)),
        ("x", Err(EINVAL)),
        ("\n", Err(EINVAL)),
        ("1M swappiness=201", Err(EINVAL)),
        ("1M swappiness=-1", Err(EINVAL)),
        ("1M swappiness=", Err(EINVAL)),
        ("1M nonsense=1", Err(EINVAL)),
        ("1M\tswappiness=1", Err(Errno::EAGAIN)),
    ] {
        assert_eq!(w.write("a/memory.reclaim", text), came, "{text:?}");
    }
    assert_eq!(w.write("memory.reclaim", "1"), Ok(()), "less than a page; the root has it too");
}

#[test]
fn memory_that_has_to_be_freed_is_the_embedders() {
    let mut w = world("+memory");
    let css = Memory::css(&w.dir("a")).unwrap();
    let _ = css.try_charge(10, &mut w.fx).unwrap();
    let max = w.open("a/memory.max", OpenFlags::WRITE).unwrap();
    let nonblock = OpenFlags { nonblock: true, ..OpenFlags::WRITE };
    let relaxed = w.open("a/memory.max", nonblock).unwrap();
    let cred = Cred::root();
    let caller = Caller { cred: &cred, tasks: &NoTasks };
    let written = w.tree.write(&relaxed, b"4096", caller, &mut w.fx).unwrap();
    assert!(written.rest.is_none());
    let written = w.tree.write(&max, b"8192", caller, &mut w.fx).unwrap();
    assert!(matches!(written.rest, Some(Rest::Shrink(_))));
    written.without_help(&mut w.fx).unwrap();
    assert_eq!(w.get("a/memory.max"), "8192", "the limit holds all the same");
    assert!(w.get("a/memory.events").contains("oom 1\noom_kill 0"));

    let peak = w.open("a/memory.peak", OpenFlags::BOTH).unwrap();
    css.uncharge(5);
    assert_eq!(w.read_file(&peak).unwrap(), "40960\n");
    w.write_file(&cred, &peak, b"anything").unwrap();
    peak.seek(0).unwrap();
    assert_eq!(w.read_file(&peak).unwrap(), "20480\n");
    assert_eq!(w.get("a/memory.peak"), "40960", "of those who did not write");
}

#[test]
fn cpusets() {
    let mut w = world("+cpuset");
    check(
        &mut w,
        "cpuset.cpus",
        &[
            ("", Ok("")),
            ("1", Ok("1")),
            ("0,,1", Ok("0-1")),
            ("0-1:1/2", Ok("0")),
            ("all", Ok("0-1")),
            ("0 1", Ok("0-1")),
            ("0-7", Err(ERANGE)),
            ("1-0", Err(EINVAL)),
            ("0-", Err(EINVAL)),
            ("99999", Err(ERANGE)),
            ("99999,x", Err(ERANGE)),
            ("4294967296", Err(Errno::EOVERFLOW)),
            ("\n", Ok("")),
        ],
    );
    check(
        &mut w,
        "cpuset.mems",
        &[("0", Ok("0")), ("1", Err(EINVAL)), ("99999", Err(ERANGE)), ("x", Err(EINVAL))],
    );
    assert_eq!(w.read("a/cpuset.cpus").unwrap(), "\n");
    assert_eq!(w.get("a/cpuset.cpus.effective"), "0-1");
    assert_eq!(w.get("cpuset.mems.effective"), "0");
    w.mkdir("b").unwrap();
    w.write("b/cpuset.cpus.exclusive", "1").unwrap();
    check(&mut w, "cpuset.cpus.exclusive", &[("1", Err(EINVAL)), ("0", Ok("0"))]);
    assert_eq!(w.write("a/cpuset.cpus.effective", "0"), Err(EINVAL));
}

#[test]
fn io() {
    let mut w = world("+io");
    let (plain, weighted) = (Device { major: 8, minor: 16 }, Device { major: 8, minor: 32 });
    w.standard.io.add_device(plain, false);
    w.standard.io.add_device(weighted, true);
    check(
        &mut w,
        "io.max",
        &[
            ("", Ok("")),
            ("\n", Err(EINVAL)),
            ("8:16", Err(EINVAL)),
            ("8 rbps=1", Err(EINVAL)),
            ("x:y rbps=1", Err(EINVAL)),
            ("9:9 nonsense", Err(ENODEV)),
            ("8:16 ", Ok("")),
            ("8:16 nonsense", Err(EINVAL)),
            ("8:16 rbps=1 wbps=x", Err(EINVAL)),
            ("8:16 rbps=0", Err(ERANGE)),
            ("8:16 key=0", Err(ERANGE)),
            ("8:16 key=1", Err(EINVAL)),
            ("8:16 rbps=1048576 wiops=120x", Ok("8:16 rbps=1048576 wbps=max riops=max wiops=120")),
            ("8:16 rbps=max", Ok("8:16 rbps=max wbps=max riops=max wiops=120")),
            ("8:16\twiops=max", Ok("")),
            // The minor number has 20 bits, and what is above is major.
            ("0:8388624 wbps=5", Ok("8:16 rbps=max wbps=5 riops=max wiops=max")),
        ],
    );
    check(
        &mut w,
        "io.weight",
        &[
            ("200", Ok("default 200")),
            ("default 300", Ok("default 300")),
            ("4294967396", Ok("default 100")),
            ("0", Err(EINVAL)),
            ("10001", Err(EINVAL)),
            ("default x", Err(EINVAL)),
            ("\n", Err(EINVAL)),
            ("9:9 100", Err(ENODEV)),
            ("8:16 100", Err(EOPNOTSUPP)),
            ("8:16 x", Err(EOPNOTSUPP)),
            ("8:32 x", Err(EINVAL)),
            ("8:32 50", Ok("default 100\n8:32 50")),
            ("8:32 default", Ok("default 100")),
        ],
    );
    let css = cgrove_core::controller::io::Io::css(&w.dir("a")).unwrap();
    css.account(plain, IoOp::Write, 4096, 1);
    css.account(weighted, IoOp::Discard, 512, 1);
    assert_eq!(
        w.read("a/io.stat").unwrap(),
        "8:16 rbytes=0 wbytes=4096 rios=0 wios=1 dbytes=0 dios=0\n8:32 \n"
    );
}

#[test]
fn misc() {
    let mut w = World::new();
    w.standard.misc = Misc::new(&["res_a", "res_b"]);
    w.standard.misc.set_capacity("res_a", 10).unwrap();
    let hierarchy = w.standard.registry().builder().build(w.fx.now());
    w.tree = Tree::builder(hierarchy).build();
    w.write("cgroup.subtree_control", "+misc").unwrap();
    w.mkdir("a").unwrap();
    assert_eq!(w.get("misc.capacity"), "res_a 10");
    check(
        &mut w,
        "misc.max",
        &[
            ("", Ok("res_a max")),
            ("res_a 5", Ok("res_a 5")),
            ("res_a  6", Err(EINVAL)),
            (" res_a 0x10\n", Ok("res_a 16")),
            ("res_a -1", Err(EINVAL)),
            ("res_a 18446744073709551616", Err(ERANGE)),
            ("res_a", Err(EINVAL)),
            ("res_b 99999999999999999999", Err(ERANGE)),
            ("res_b 1", Err(EINVAL)),
            ("nonsense 99999999999999999999", Err(EINVAL)),
            ("\n", Err(EINVAL)),
            ("res_a 2", Ok("res_a 2")),
        ],
    );
    let css = Misc::css(&w.dir("a")).unwrap();
    css.try_charge("res_a", 1, &mut w.fx).unwrap();
    assert_eq!(css.try_charge("res_a", 2, &mut w.fx), Err(Errno::EBUSY));
    assert_eq!(w.get("a/misc.current"), "res_a 1");
    assert_eq!(w.get("misc.peak"), "res_a 1");
    assert_eq!(w.get("a/misc.events"), "res_a.max 1");
    assert_eq!(w.get("a/misc.events.local"), "res_a.max 1");
}

#[test]
fn rdma() {
    let mut w = world("+rdma");
    assert_eq!(w.write("a/rdma.max", "\n"), Err(ENODEV));
    w.standard.rdma.add_device("mlx4_0");
    check(
        &mut w,
        "rdma.max",
        &[
            ("", Ok("mlx4_0 hca_handle=max hca_object=max ")),
            ("mlx4_0", Ok("mlx4_0 hca_handle=max hca_object=max ")),
            ("mlx4_0 hca_handle=2 hca_object=0x10", Ok("mlx4_0 hca_handle=2 hca_object=16 ")),
            ("mlx4_0 hca_handle=max", Ok("mlx4_0 hca_handle=max hca_object=16 ")),
            ("mlx4_0\thca_handle=1", Err(ENODEV)),
            ("mlx4_0 \t hca_handle=1\n", Ok("mlx4_0 hca_handle=1 hca_object=16 ")),
            ("mlx4_0 hca_object=2147483647", Ok("mlx4_0 hca_handle=1 hca_object=max ")),
            ("mlx4_0 hca_handle=-1", Err(EINVAL)),
            ("mlx4_0 hca_handle=2147483648", Err(EINVAL)),
            ("mlx4_0 nonsense=1", Err(EINVAL)),
            ("other nonsense=1", Err(EINVAL)),
            ("other hca_handle=1", Err(ENODEV)),
            (" ", Err(ENODEV)),
        ],
    );
    let css = Rdma::css(&w.dir("a")).unwrap();
    css.try_charge("mlx4_0", RdmaResource::HcaHandle, &mut w.fx).unwrap();
    css.try_charge("mlx4_0", RdmaResource::HcaHandle, &mut w.fx).unwrap_err();
    assert_eq!(w.read("a/rdma.current").unwrap(), "mlx4_0 hca_handle=1 hca_object=0 \n");
    assert_eq!(w.read("a/rdma.peak").unwrap(), "mlx4_0 hca_handle=1 hca_object=0 \n");
    let events = "mlx4_0 hca_handle.max=1 hca_handle.alloc_fail=1 hca_object.max=0 \
                  hca_object.alloc_fail=0\n";
    assert_eq!(w.read("a/rdma.events").unwrap(), events);
}

#[test]
fn hugetlb() {
    let mut w = world("+hugetlb");
    for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
        check(
            &mut w,
            file,
            &[
                ("", Ok("max")),
                ("3M", Ok("2097152")),
                ("1", Ok("0")),
                ("x", Err(EINVAL)),
                ("-1", Err(EINVAL)),
                ("\n", Ok("0")),
                ("max", Ok("max")),
            ],
        );
    }
    let css = Hugetlb::css(&w.dir("a")).unwrap();
    css.try_charge(HugePageSize::MB2, HugeCharge::Fault, 1, &mut w.fx).unwrap();
    assert_eq!(w.get("a/hugetlb.2MB.current"), "2097152");
    assert_eq!(w.get("a/hugetlb.2MB.rsvd.current"), "0");
    assert_eq!(w.get("a/hugetlb.2MB.numa_stat"), "total=2097152 N0=2097152");
    check(&mut w, "hugetlb.2MB.max", &[("0", Err(Errno::EBUSY))]);
    assert_eq!(w.get("a/hugetlb.2MB.events"), "max 0");
}

/// A file that notifies has the name under which the core does so.
#[test]
fn event_files_are_where_the_core_looks_for_them() {
    let mut w = world("+memory +pids +hugetlb +rdma +misc");
    let a = w.dir("a");
    let (memory, misc) = (Memory::css(&a).unwrap(), Misc::css(&a).unwrap());
    let (pids, rdma) = (Pids::css(&a).unwrap(), Rdma::css(&a).unwrap());
    let huge = Hugetlb::css(&a).unwrap();
    let files: Vec<Arc<EventFile>> = [
        memory.file(MemoryFile::Events),
        memory.file(MemoryFile::EventsLocal),
        memory.file(MemoryFile::SwapEvents),
        misc.file(false),
        misc.file(true),
        rdma.file(false),
        rdma.file(true),
        huge.file(HugePageSize::MB2, false),
        huge.file(HugePageSize::MB2, true),
    ]
    .into_iter()
    .flatten()
    .chain([Arc::clone(a.events_file())])
    .collect();
    assert_eq!(files.len(), 10);
    for event_file in &files {
        let file = w.open(&format!("a/{}", event_file.name()), OpenFlags::READ).unwrap();
        w.read_file(&file).unwrap();
        assert!(!file.poll().priority);
        assert!(w.tree.notify(event_file), "{}", event_file.name());
        assert!(file.poll().priority, "{}", event_file.name());
    }
    // Those of pids are made by a refused fork.
    pids.set_max(cgrove_core::Limit::N(0)).unwrap();
    let file = w.open("a/pids.events", OpenFlags::READ).unwrap();
    w.read_file(&file).unwrap();
    let from = cgrove_core::ForkFrom::Cgroup(&a);
    assert!(w.tree.hierarchy().fork(from, &mut w.fx).is_err());
    w.settle();
    assert!(file.poll().priority);
    w.notified.retain(|name| name.starts_with("pids."));
    assert_eq!(w.notified, ["pids.events.local", "pids.events"]);
    let all = w.tree.defs().filter(|(_, def)| def.notifies).count();
    assert_eq!(all, files.len() + 2);
    memory.event(MemoryEvent::Low, &mut w.fx);
    w.settle();
    assert!(w.notified.ends_with(&["memory.events.local".into(), "memory.events".into()]));
}

struct Zeros;

impl Figures for Zeros {
    fn has(&self, figure: Figure) -> bool {
        figure == Figure::MemoryStat
    }
    fn print(
        &self,
        figure: Figure,
        cgroup: &cgrove_core::Cgroup,
        out: &mut String,
    ) -> Result<(), Errno> {
        assert_eq!(figure, Figure::MemoryStat);
        out.push_str(&format!("anon {}\n", cgroup.level()));
        Ok(())
    }
}

#[test]
fn an_embedder_provides_what_only_it_knows() {
    let mut w = World::new();
    let hierarchy = w.standard.registry().builder().build(w.fx.now());
    w.tree = Tree::builder(hierarchy).figures(Arc::new(Zeros)).build();
    w.mkdir("a").unwrap();
    assert_eq!(w.get("memory.stat"), "anon 0");
    assert_eq!(w.read("a/memory.stat"), Err(Errno::ENOENT), "memory is off");
    w.write("cgroup.subtree_control", "+memory").unwrap();
    assert_eq!(w.get("a/memory.stat"), "anon 1");
    assert_eq!(w.read("a/memory.numa_stat"), Err(Errno::ENOENT), "nobody provides it");
}
