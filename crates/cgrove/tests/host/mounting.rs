//! `cgrove mount`: the command around the file system, which `cgrove-fuse` tests by itself.
//!
//! In the jail nothing can be mounted, and that is what it says.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use cgrove_testkit::watch::{self, until};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::MOUNTING;
use crate::kit::{PATIENCE, Place, fresh_path, kit};

crate::tests!(
    mount_serves_until_a_signal_comes[MOUNTING],
    mount_serves_in_the_background[MOUNTING],
    mount_leaves_nothing_when_it_is_killed[MOUNTING],
    mount_ends_when_somebody_unmounts[MOUNTING],
    mount_says_what_is_wrong,
);

/// Whether this place lets this user mount.
pub fn is_possible() -> bool {
    let mount = Mounting::new(Place::Here);
    let output = mount.output(&["--daemon", "--pid-file", "pid"]);
    let possible = output.status.success();
    if possible {
        mount.signal(Signal::SIGTERM);
        mount.until_gone();
    }
    possible
}

/// A directory to mount at, in a folder for the pid. Whatever is mounted there goes with it.
struct Mounting {
    place: Place,
    folder: PathBuf,
}

impl Mounting {
    fn new(place: Place) -> Mounting {
        use std::os::unix::fs::PermissionsExt;
        let folder = fresh_path("mount");
        fs::create_dir_all(folder.join("tree")).expect("a folder");
        for path in [folder.clone(), folder.join("tree")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("its mode");
        }
        Mounting { place, folder }
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = self.place.command(&kit().cgrove);
        command.arg("mount").args(options).arg(self.tree()).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, options: &[&str]) -> Output {
        self.command(options).output().expect("it is started")
    }

    /// In the foreground, once it says that it is mounted; `None` if it refuses as in a jail.
    fn start(&self) -> Option<Child> {
        let mut child = self.command(&[]).spawn().expect("it is started");
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        stderr.read_line(&mut said).expect("a line");
        if self.place != Place::Here {
            assert_refusal(&said);
            assert_eq!(child.wait().expect("it ends").code(), Some(125));
            return None;
        }
        assert!(said.contains("unmounts it"), "{said}");
        assert!(is_mounted(&self.tree()));
        child.stderr = Some(stderr.into_inner());
        Some(child)
    }

    fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.folder.join("pid")).expect("a pid file");
        Pid::from_raw(text.trim_end().parse().expect("a pid"))
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it lives");
    }

    fn until_gone(&self) {
        until("the mount to go", PATIENCE, || (!is_mounted(&self.tree())).then_some(()));
        let word = self.tree().display().to_string();
        let ours = || watch::processes().into_iter().filter(|it| it.cmdline.contains(&word));
        until("the server to end", PATIENCE, || ours().next().is_none().then_some(()));
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        if is_mounted(&self.tree()) && umount2(&self.tree(), MntFlags::MNT_DETACH).is_err() {
            let mut helper = Command::new("fusermount3");
            let _ = helper.args(["-u", "-q", "-z", "--"]).arg(self.tree()).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// What was refused, why, and what to do, on one line.
fn assert_refusal(said: &str) {
    assert!(said.starts_with("cgrove: cannot mount at "), "{said}");
    assert_eq!(said.matches('\n').count(), 1, "{said}");
    assert!(said.contains("; "), "{said}");
}

fn mount_serves_until_a_signal_comes(place: Place) {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mount = Mounting::new(place);
        let Some(mut child) = mount.start() else { return };
        fs::create_dir(mount.tree().join("a")).unwrap();
        let events = fs::read_to_string(mount.tree().join("a/cgroup.events")).unwrap();
        assert_eq!(events, "populated 0\nfrozen 0\n");
        // Not even a file that is in use holds it up.
        let _open = fs::File::open(mount.tree().join("a/cgroup.procs")).unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        assert!(!is_mounted(&mount.tree()));
        mount.until_gone();
    }
}

fn mount_serves_in_the_background(place: Place) {
    let mount = Mounting::new(place);
    let output = mount.output(&["--daemon", "--pid-file", "pid"]);
    let said = String::from_utf8(output.stderr).unwrap();
    if place != Place::Here {
        assert_refusal(&said);
        return assert_eq!(output.status.code(), Some(125));
    }
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
    // Mounted when it returns, by somebody who holds no stream of ours.
    fs::create_dir(mount.tree().join("a")).unwrap();
    mount.signal(Signal::SIGTERM);
    mount.until_gone();
    assert!(!mount.folder.join("pid").exists());
}

fn mount_leaves_nothing_when_it_is_killed(place: Place) {
    let mount = Mounting::new(place);
    let output = mount.output(&["--daemon", "--pid-file", "pid"]);
    if place != Place::Here {
        return assert_refusal(&String::from_utf8(output.stderr).unwrap());
    }
    assert_eq!(output.status.code(), Some(0));
    mount.signal(Signal::SIGKILL);
    mount.until_gone();
}

fn mount_ends_when_somebody_unmounts(place: Place) {
    let mount = Mounting::new(place);
    let Some(mut child) = mount.start() else { return };
    if umount2(&mount.tree(), MntFlags::empty()).is_err() {
        let mut helper = Command::new("fusermount3");
        assert!(helper.arg("-u").arg(mount.tree()).status().unwrap().success());
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    mount.until_gone();
}

fn mount_says_what_is_wrong(place: Place) {
    let mount = Mounting::new(place);
    fs::remove_dir(mount.tree()).unwrap();
    let refusal = |options: &[&str]| {
        let output = mount.output(options);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_refusal(&said);
        assert_eq!(output.status.code(), Some(125), "{said}");
        said
    };
    assert!(refusal(&[]).contains("ENOENT"));
    assert!(refusal(&["--daemon"]).contains("ENOENT"));
    fs::write(mount.tree(), "").unwrap();
    assert!(refusal(&[]).contains("ENOTDIR"));
    assert!(refusal(&["--daemon"]).contains("ENOTDIR"));
}
