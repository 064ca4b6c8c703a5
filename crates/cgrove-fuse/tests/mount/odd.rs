//! Clients that die, hurry, or ask for nonsense.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::kit::{Mount, Place, errno};

crate::tests!(
    &Place::ALL => many_threads_at_once, ten_thousand_files_are_open;
    &Place::MOUNTS => nonsense_is_refused_and_survived, clients_are_killed_at_any_moment;
);

fn nonsense_is_refused_and_survived(place: Place) {
    let mount = Mount::empty(place);
    mount.write("cgroup.subtree_control", "+pids +cpuset +memory +io +cpu").unwrap();
    mount.mkdir("a");
    let names = mount.names("a");
    let texts: [&[u8]; 9] = [
        b"\0",
        b"\n",
        b"\xff\xfe\xfd",
        b"-1",
        b"99999999999999999999999",
        b"+",
        b"max max max",
        &[b'9'; 4000],
        b"a b c d e f g h i j k l m n o p",
    ];
    for name in names.iter().filter(|name| *name != "cgroup.kill") {
        let path = mount.path("a").join(name);
        let Ok(file) = OpenOptions::new().write(true).open(&path) else { continue };
        for text in texts {
            let _ = file.write_at(text, 0);
            let _ = file.write_at(text, 1 << 40);
        }
    }
    for name in names.iter().filter(|name| !mount.path("a").join(name).is_dir()) {
        let Ok(mut file) = File::open(mount.path("a").join(name)) else { continue };
        for offset in [0, 1, 4095, 4096, 1 << 31, (1 << 62) - 1] {
            let _ = file.read_at(&mut [0; 3], offset);
        }
        assert_eq!(errno(file.seek(SeekFrom::Current(-1))).err(), Some(Errno::EINVAL));
    }
    let file = File::open(mount.path("a/pids.max")).unwrap();
    assert_eq!(nix::unistd::isatty(&file), Ok(false));
    assert!(mount.read("a/cgroup.events").starts_with("populated 0"));
}

fn clients_are_killed_at_any_moment(place: Place) {
    let mount = Mount::empty(place);
    mount.write("cgroup.subtree_control", "+pids").unwrap();
    mount.mkdir("a");
    let script = "while :; do mkdir $$ 2>/dev/null; echo 5 >a/pids.max; cat a/* */cgroup.procs; \
                  ls -la; rmdir $$; done >/dev/null 2>&1";
    for round in 0..12_u32 {
        let mut clients: Vec<_> = (0..3)
            .map(|_| {
                let mut client = Command::new("sh");
                client.args(["-c", script]).current_dir(mount.path("")).stdin(Stdio::null());
                client.spawn().unwrap()
            })
            .collect();
        // Not for them to get anywhere, but for them to be elsewhere each time.
        let _ = nix::poll::poll(
            &mut [],
            nix::poll::PollTimeout::from(u8::try_from(7 + round * 5).unwrap()),
        );
        for client in &mut clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
        assert_eq!(mount.read("a/cgroup.procs"), "");
        mount.write("a/pids.max", "6").unwrap();
    }
    // What a killed shell has left running ends by itself; what it has made is still there.
    let end = std::time::Instant::now() + crate::kit::PATIENCE;
    for name in mount.names("").iter().filter(|name| name.parse::<u32>().is_ok()) {
        while fs::remove_dir(mount.path(name)).is_ok() {
            assert!(std::time::Instant::now() < end);
        }
    }
    mount.write("a/pids.max", "7").unwrap();
    assert_eq!(mount.read("a/pids.max"), "7\n");
}

fn ten_thousand_files_are_open(place: Place) {
    let mount = Mount::empty(place);
    mount.mkdir("a");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(10_100), hard).unwrap();
    let count = usize::try_from(hard.min(10_100)).unwrap() - 100;
    let open = |n: usize| {
        let name = if n.is_multiple_of(2) { "a/cgroup.events" } else { "cgroup.stat" };
        File::open(mount.path(name)).unwrap()
    };
    let files: Vec<File> = (0..count).map(open).collect();
    let first = |file: &File| {
        let mut start = [0; 4];
        file.read_at(&mut start, 0).map(|_| start)
    };
    for file in &files {
        first(file).unwrap();
    }
    fs::remove_dir(mount.path("a")).unwrap();
    assert_eq!(errno(first(&files[0])), Err(Errno::ENODEV));
    assert_eq!(first(&files[1]).unwrap(), *b"nr_d");
    drop(files);
    assert!(mount.read("cgroup.stat").starts_with("nr_descendants 0\n"));
}

fn many_threads_at_once(place: Place) {
    let mount = Mount::empty(place);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let mount = &mount;
            scope.spawn(move || {
                for n in 0..100 {
                    let name = format!("t{thread}-{n}");
                    mount.mkdir(&name);
                    mount.write(&format!("{name}/cgroup.max.depth"), &n.to_string()).unwrap();
                    assert_eq!(mount.read(&format!("{name}/cgroup.max.depth")), format!("{n}\n"));
                    assert!(mount.names("").contains(&name));
                    fs::remove_dir(mount.path(&name)).unwrap();
                }
            });
        }
    });
    assert!(mount.read("cgroup.stat").starts_with("nr_descendants 0\n"));
}
