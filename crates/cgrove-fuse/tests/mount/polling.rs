//! Who waits for a change is told, and a write that would sleep is not made to.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::kit::{Mount, PATIENCE, Place, hierarchy};
use crate::lively::Lively;

crate::tests!(
    &Place::ALL => a_file_that_was_not_read_has_something_to_say;
    &Place::MOUNTS =>
    pollers_are_told_of_the_first_task_and_of_the_last,
    epoll_is_told_too,
    a_burst_is_told_at_its_end,
    pollers_are_told_when_the_file_goes,
    a_thousand_wait_for_one_file,
    orders_reach_the_world,
    a_write_that_would_sleep_is_refused;
);

const URGENT: PollFlags = PollFlags::POLLPRI.union(PollFlags::POLLERR);

fn look(file: &File, patience: impl Into<PollTimeout>) -> PollFlags {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
    poll(&mut fds, patience).expect("poll");
    fds[0].revents().expect("known flags")
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

fn patience() -> PollTimeout {
    PollTimeout::try_from(PATIENCE).expect("a time")
}

fn a_file_that_was_not_read_has_something_to_say(place: Place) {
    let mount = Mount::empty(place);
    mount.mkdir("a");
    let mut events = File::open(mount.path("a/cgroup.events")).unwrap();
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::all())];
    poll(&mut fds, PollTimeout::ZERO).unwrap();
    let said = fds[0].revents().unwrap();
    assert!(said.contains(URGENT | PollFlags::POLLIN | PollFlags::POLLOUT), "{said:?}");
    assert_eq!(read(&mut events), "populated 0\nfrozen 0\n");
    assert_eq!(look(&events, PollTimeout::ZERO), PollFlags::empty());
    // Each open file for itself.
    let other = File::open(mount.path("a/cgroup.events")).unwrap();
    assert_eq!(look(&other, PollTimeout::ZERO), URGENT);
    assert_eq!(look(&events, PollTimeout::ZERO), PollFlags::empty());
}

fn pollers_are_told_of_the_first_task_and_of_the_last(place: Place) {
    let world = Lively::new(hierarchy(), &[70]);
    let mount = Mount::of(Arc::clone(&world), place);
    mount.mkdir("a");
    let mut events = File::open(mount.path("a/cgroup.events")).unwrap();
    read(&mut events);
    assert_eq!(look(&events, PollTimeout::ZERO), PollFlags::empty());
    let path = mount.path("a/cgroup.procs");
    let writer = std::thread::spawn(move || fs::write(path, "70").unwrap());
    assert_eq!(look(&events, patience()), URGENT);
    writer.join().unwrap();
    assert_eq!(read(&mut events), "populated 1\nfrozen 0\n");
    assert_eq!(look(&events, PollTimeout::ZERO), PollFlags::empty());
    // By itself, without any request.
    std::thread::scope(|scope| {
        scope.spawn(|| world.end(70, true));
        assert_eq!(look(&events, patience()), URGENT);
    });
    assert_eq!(read(&mut events), "populated 0\nfrozen 0\n");
}

fn epoll_is_told_too(place: Place) {
    let world = Lively::new(hierarchy(), &[70]);
    let mount = Mount::of(Arc::clone(&world), place);
    mount.mkdir("a");
    let mut events = File::open(mount.path("a/cgroup.events")).unwrap();
    read(&mut events);
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    epoll.add(&events, EpollEvent::new(EpollFlags::EPOLLPRI, 7)).unwrap();
    let mut told = [EpollEvent::empty()];
    assert_eq!(epoll.wait(&mut told, EpollTimeout::ZERO), Ok(0));
    mount.write("a/cgroup.procs", "70").unwrap();
    let patience = EpollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(epoll.wait(&mut told, patience), Ok(1));
    assert!(told[0].events().contains(EpollFlags::EPOLLPRI | EpollFlags::EPOLLERR));
    assert_eq!(read(&mut events), "populated 1\nfrozen 0\n");
    assert_eq!(epoll.wait(&mut told, EpollTimeout::ZERO), Ok(0));
    world.end(70, true);
    assert_eq!(epoll.wait(&mut told, patience), Ok(1));
}

fn a_burst_is_told_at_its_end(place: Place) {
    let world = Lively::new(hierarchy(), &[70]);
    let mount = Mount::of(Arc::clone(&world), place);
    mount.mkdir("a");
    let mut events = File::open(mount.path("a/cgroup.events")).unwrap();
    read(&mut events);
    for round in 0..20 {
        mount.write("a/cgroup.procs", "70").unwrap();
        read(&mut events);
        // Held back so soon after the first, and told at the end of that time.
        mount.write("cgroup.procs", "70").unwrap();
        assert_eq!(look(&events, patience()), URGENT, "round {round}");
        assert_eq!(read(&mut events), "populated 0\nfrozen 0\n");
    }
}

fn pollers_are_told_when_the_file_goes(place: Place) {
    let mount = Mount::empty(place);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    mount.mkdir("a");
    let told_of = |name: &str, what: &(dyn Fn() + Sync)| {
        let mut file = File::open(mount.path(name)).unwrap();
        read(&mut file);
        assert_eq!(look(&file, PollTimeout::ZERO), PollFlags::empty(), "{name}");
        std::thread::scope(|scope| {
            scope.spawn(what);
            assert_eq!(look(&file, patience()), URGENT, "{name}");
        });
        assert_eq!(file.read_at(&mut [0], 0).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    };
    told_of("a/pids.events", &|| mount.write("cgroup.subtree_control", "-pids").unwrap());
    told_of("a/cgroup.events", &|| fs::remove_dir(mount.path("a")).unwrap());
}

fn a_thousand_wait_for_one_file(place: Place) {
    let world = Lively::new(hierarchy(), &[70]);
    let mount = Mount::of(Arc::clone(&world), place);
    mount.mkdir("a");
    let count = match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= 1100 => 1000,
        _ => 200,
    };
    let open = || {
        let mut file = File::open(mount.path("a/cgroup.events")).unwrap();
        read(&mut file);
        file
    };
    let files: Vec<File> = (0..count).map(|_| open()).collect();
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    for file in &files {
        epoll.add(file, EpollEvent::new(EpollFlags::EPOLLPRI | EpollFlags::EPOLLET, 0)).unwrap();
    }
    mount.write("a/cgroup.procs", "70").unwrap();
    let mut told = vec![EpollEvent::empty(); count];
    let (mut sum, end) = (0, Instant::now() + PATIENCE);
    while sum < count {
        assert!(Instant::now() < end, "{sum} of {count} were told");
        sum +=
            epoll.wait(&mut told, EpollTimeout::try_from(Duration::from_secs(1)).unwrap()).unwrap();
    }
    assert_eq!(sum, count, "each once");
}

fn orders_reach_the_world(place: Place) {
    let world = Lively::new(hierarchy(), &[70, 71, 72]);
    let mount = Mount::of(Arc::clone(&world), place);
    mount.mkdir("a");
    mount.write("a/cgroup.procs", "70").unwrap();
    mount.write("a/cgroup.procs", "72").unwrap();
    mount.write("a/cgroup.kill", "1").unwrap();
    let mut killed = world.killed.lock().unwrap().clone();
    killed.sort_unstable();
    assert_eq!(killed, [70, 72]);
    assert_eq!(fs::remove_dir(mount.path("a")).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    world.end(70, true);
    world.end(72, true);
    fs::remove_dir(mount.path("a")).unwrap();
}

fn a_write_that_would_sleep_is_refused(place: Place) {
    let world = Lively::new(hierarchy(), &[70]);
    let mount = Mount::of(Arc::clone(&world), place);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    mount.mkdir("a");
    mount.write("a/cgroup.procs", "70").unwrap();
    // Hidden and not gone: it holds the css that is switched off.
    world.end(70, false);
    mount.write("cgroup.subtree_control", "-pids").unwrap();
    let started = Instant::now();
    assert_eq!(mount.write("cgroup.subtree_control", "+pids"), Err(Errno::EBUSY));
    assert!(started.elapsed() < PATIENCE / 2);
    assert!(OpenOptions::new().read(true).open(mount.path("a/cgroup.procs")).is_ok());
    world.end_rest(70);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    assert_eq!(mount.read("a/pids.max"), "max\n");
    // Without tasks there is only work to do, and it is done within the write.
    for _ in 0..50 {
        mount.write("cgroup.subtree_control", "-pids").unwrap();
        mount.write("cgroup.subtree_control", "+pids").unwrap();
    }
}
