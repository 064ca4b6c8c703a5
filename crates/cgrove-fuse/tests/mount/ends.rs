//! How a mount ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use cgrove_fuse::{Empty, Mounted, Options, mount};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};

use crate::kit::{self, Directory, Mount, Place, errno, is_mounted, until_unmounted};

crate::tests!(
    &Place::MOUNTS =>
    it_is_unmounted_when_dropped,
    open_files_are_no_obstacle,
    whoever_unmounts_by_hand_ends_it,
    a_killed_server_leaves_no_mount,
    a_killed_process_group_leaves_no_mount,
    a_killed_server_that_uses_its_own_tree_ends,
    a_server_killed_while_it_mounts_leaves_no_mount,
    a_guard_leaves_the_mounts_of_others_alone,
    a_server_without_a_guard_leaves_one,
    what_cannot_be_mounted_is_said,
    one_over_another;
);

/// `serve DIRECTORY`: mounts, says so, and serves until it is killed or its input ends.
pub fn serve(directory: &str, is_busy: bool) -> ExitCode {
    let options = Options { guard: directory.ends_with("guarded"), ..Options::default() };
    let mounted = mount(Path::new(directory), Empty::new(kit::tree()), options).expect("a mount");
    if is_busy {
        let files = mounted.path().join("cgroup.stat");
        for _ in 0..3 {
            let files = files.clone();
            std::thread::spawn(move || while fs::read(&files).is_ok() {});
        }
    }
    println!("mounted");
    let _ = std::io::stdin().read(&mut [0]);
    drop(mounted);
    ExitCode::SUCCESS
}

struct Server {
    child: Child,
    place: std::path::PathBuf,
    _directory: Directory,
}

impl Server {
    fn new(guarded: bool) -> Server {
        Server::with(guarded, &[])
    }

    fn with(guarded: bool, words: &[&str]) -> Server {
        use std::os::unix::process::CommandExt;
        let directory = kit::directory();
        let place = directory.path().join(if guarded { "guarded" } else { "bare" });
        fs::create_dir(&place).unwrap();
        let mut command = Command::new(kit::program());
        command.arg("serve").arg(&place).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "mounted\n");
        assert!(is_mounted(&place));
        Server { child, place, _directory: directory }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.place) {
            unmount_by_hand(&self.place);
        }
    }
}

fn unmount_by_hand(path: &Path) {
    if umount2(path, MntFlags::MNT_DETACH).is_err() {
        let status = Command::new("fusermount3").args(["-u", "-z"]).arg(path).status().unwrap();
        assert!(status.success());
    }
}

fn taken(mount: &mut Mount) -> Mounted {
    mount.mounted.take().unwrap()
}

fn it_is_unmounted_when_dropped(place: Place) {
    for round in 0..10 {
        let mut mount = Mount::empty(place);
        assert!(is_mounted(mount.directory.path()));
        mount.mkdir("a");
        match round % 2 {
            0 => taken(&mut mount).unmount().unwrap(),
            _ => drop(taken(&mut mount)),
        }
        assert!(!is_mounted(mount.directory.path()));
        assert_eq!(fs::read_dir(mount.directory.path()).unwrap().count(), 0);
    }
    // Guards are waited for, so none is left, not even as a zombie.
    let own = std::process::id().to_string();
    let children =
        fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    assert_eq!(children, "");
}

fn open_files_are_no_obstacle(place: Place) {
    let mut mount = Mount::empty(place);
    mount.mkdir("a");
    let file = File::open(mount.path("a/cgroup.events")).unwrap();
    std::env::set_current_dir(mount.path("a")).unwrap();
    taken(&mut mount).unmount().unwrap();
    assert!(!is_mounted(mount.directory.path()));
    let read = errno(file.read_at(&mut [0; 9], 0));
    match place {
        // Only the helper may unmount, which forces nobody out.
        Place::User => assert_eq!(read, Ok(9)),
        _ => assert!(matches!(read, Err(Errno::ENOTCONN | Errno::ECONNABORTED)), "{read:?}"),
    }
    std::env::set_current_dir("/").unwrap();
}

fn whoever_unmounts_by_hand_ends_it(place: Place) {
    let mut mount = Mount::empty(place);
    let mounted = taken(&mut mount);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mounted.wait());
        unmount_by_hand(mount.directory.path());
        waiting.join().unwrap();
    });
    mounted.unmount().unwrap();
}

fn a_killed_server_leaves_no_mount(_place: Place) {
    for busy in [false, true] {
        let mut server = Server::new(true);
        fs::create_dir(server.place.join("a")).unwrap();
        let open = busy.then(|| File::open(server.place.join("a/cgroup.events")).unwrap());
        kill(server.pid(), Signal::SIGKILL).unwrap();
        server.child.wait().unwrap();
        until_unmounted(&server.place);
        assert_eq!(fs::read_dir(&server.place).unwrap().count(), 0);
        if let Some(open) = open {
            let read = errno(open.read_at(&mut [0], 0));
            assert!(matches!(read, Err(Errno::ENOTCONN | Errno::ECONNABORTED)), "{read:?}");
        }
    }
}

/// A thread of its own waits for the server's threads, which are dead, and hears no signal.
fn a_killed_server_that_uses_its_own_tree_ends(place: Place) {
    // A plain user can end such a wait only by a file, and nobody learns of it in time without the
    // other.
    if (place == Place::User && !kit::has_control()) || !has_thread_pidfds() {
        return;
    }
    for _ in 0..20 {
        let mut server = Server::with(true, &["busy"]);
        kill(server.pid(), Signal::SIGKILL).unwrap();
        assert!(kit::wait(&mut server.child).is_some(), "it does not end");
        until_unmounted(&server.place);
    }
}

/// Linux 6.9 and newer.
fn has_thread_pidfds() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(|word| word.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(9))
}

fn a_killed_process_group_leaves_no_mount(_place: Place) {
    let mut server = Server::new(true);
    killpg(server.pid(), Signal::SIGKILL).unwrap();
    server.child.wait().unwrap();
    until_unmounted(&server.place);
}

fn a_server_killed_while_it_mounts_leaves_no_mount(_place: Place) {
    let directory = kit::directory();
    let tree = directory.path().join("guarded");
    fs::create_dir(&tree).unwrap();
    let word = tree.to_str().unwrap();
    let mut mounted = 0;
    for round in 0..40_u32 {
        let mut command = Command::new(kit::program());
        command.args(["serve", word]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.stderr(Stdio::null()).spawn().unwrap();
        // From before it has begun until after it is done.
        std::thread::sleep(Duration::from_micros(200 * u64::from(round)));
        server.kill().unwrap();
        server.wait().unwrap();
        mounted += u32::from(is_mounted(&tree));
        // Whoever could still mount or unmount has the place on its command line.
        until_alone(&tree);
        // One that has just become another program has no command line for a moment.
        until_unmounted(&tree);
    }
    eprintln!("mounted when it was killed: {mounted} times");
}

/// Whether there is a process, dead ones apart, with this word on its command line.
fn running(word: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
    })
}

fn a_guard_leaves_the_mounts_of_others_alone(place: Place) {
    let options = Options::default();
    // One in its place, which has the device that the former one had.
    let mut server = Server::new(true);
    // It does not notice, so neither does its guard.
    kill(server.pid(), Signal::SIGSTOP).unwrap();
    unmount_by_hand(&server.place);
    let other = mount(&server.place, Empty::new(kit::tree()), options).unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    until_alone(&server.place);
    assert!(fs::metadata(server.place.join("cgroup.procs")).is_ok());
    other.unmount().unwrap();
    if place == Place::User {
        // fusermount3 lets nobody mount over a mount.
        return;
    }
    // One over it.
    let mut server = Server::new(true);
    let other = mount(&server.place, Empty::new(kit::tree()), options).unwrap();
    fs::create_dir(server.place.join("mine")).unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    until_alone(&server.place);
    assert!(fs::metadata(server.place.join("mine/cgroup.procs")).is_ok());
    other.unmount().unwrap();
    unmount_by_hand(&server.place);
}

/// Waits until no process has this place on its command line.
fn until_alone(place: &Path) {
    let end = Instant::now() + kit::PATIENCE;
    while running(place.to_str().unwrap()) {
        assert!(Instant::now() < end, "somebody is still there");
        let _ = poll(&mut [], PollTimeout::from(2_u8));
    }
}

fn a_server_without_a_guard_leaves_one(_place: Place) {
    let mut server = Server::new(false);
    kill(server.pid(), Signal::SIGKILL).unwrap();
    server.child.wait().unwrap();
    assert!(is_mounted(&server.place));
    assert_eq!(errno(fs::read_dir(&server.place)).err(), Some(Errno::ENOTCONN));
    // And that is what the next one says.
    let error = mount(&server.place, Empty::new(kit::tree()), Options::default()).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOTCONN));
    assert!(error.to_string().contains("unmount it first"), "{error}");
    unmount_by_hand(&server.place);
}

fn what_cannot_be_mounted_is_said(place: Place) {
    let directory = kit::directory();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refusal = |path: &Path| {
        let error = mount(path, Empty::new(kit::tree()), Options::default()).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n') && text.starts_with("cannot mount at "), "{text}");
        assert_eq!(text.matches("; ").count(), 1, "{text}");
        error.errno()
    };
    assert_eq!(refusal(&file), Some(libc::ENOTDIR));
    assert_eq!(refusal(&directory.path().join("none")), Some(libc::ENOENT));
    if place == Place::User && !geteuid().is_root() {
        assert_eq!(refusal(Path::new("/")), Some(libc::EPERM));
    }
    let own = std::process::id().to_string();
    let children =
        fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    assert_eq!(children, "", "a guard of a failed mount leaves");
}

fn one_over_another(place: Place) {
    let mut lower = Mount::empty(place);
    lower.mkdir("lower");
    let path = lower.directory.path().to_owned();
    let options = Options { allow_other: false, guard: true };
    let upper = mount(&path, Empty::new(kit::tree()), options);
    let upper = match (upper, place) {
        (Ok(upper), _) => upper,
        // fusermount3 wants a writable place.
        (Err(error), Place::User) => return assert_eq!(error.errno(), Some(libc::EPERM)),
        (Err(error), _) => panic!("{error}"),
    };
    assert!(fs::metadata(path.join("lower")).is_err());
    let lower = taken(&mut lower);
    // It is below, so it cannot go yet; nor does it take the upper one away.
    upper.unmount().unwrap();
    assert!(fs::metadata(path.join("lower")).is_ok());
    lower.unmount().unwrap();
    assert!(!is_mounted(&path));
}
