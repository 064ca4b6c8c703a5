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
    mount_takes_processes_in[MOUNTING],
    mount_tells_of_an_end_that_nobody_asks_about[MOUNTING],
    mount_kills_the_children_of_the_killed[MOUNTING],
    mount_shows_no_file_that_does_nothing[MOUNTING],
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
pub struct Mounting {
    place: Place,
    pub folder: PathBuf,
}

impl Mounting {
    pub fn new(place: Place) -> Mounting {
        use std::os::unix::fs::PermissionsExt;
        let folder = fresh_path("mount");
        fs::create_dir_all(folder.join("tree")).expect("a folder");
        for path in [folder.clone(), folder.join("tree")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("its mode");
        }
        Mounting { place, folder }
    }

    pub fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = self.place.command(&kit().cgrove);
        command.arg("mount").args(options).arg(self.tree()).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn output(&self, options: &[&str]) -> Output {
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

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it lives");
    }

    pub fn until_gone(&self) {
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
pub fn assert_refusal(said: &str) {
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

/// A tree that takes processes in, with a cgroup `a`; `None` where nothing can be mounted.
pub fn adopting(place: Place) -> Option<Mounting> {
    let mount = Mounting::new(place);
    let output = mount.output(&["--adopt", "--daemon", "--pid-file", "pid"]);
    if place != Place::Here {
        assert_refusal(&String::from_utf8(output.stderr).unwrap());
        return None;
    }
    assert_eq!(output.status.code(), Some(0));
    fs::create_dir(mount.tree().join("a")).unwrap();
    Some(mount)
}

impl Mounting {
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.tree().join(file)).unwrap()
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.tree().join(file), text).unwrap_or_else(|e| panic!("{file}: {e}"));
    }

    pub fn end(&self) {
        self.signal(Signal::SIGTERM);
        self.until_gone();
    }
}

/// A shell that does what it is told; killed when dropped, with what it says it has started.
pub struct Shell {
    pub child: Child,
    pub stdout: BufReader<std::process::ChildStdout>,
    /// Those to be killed with it.
    pub started: Vec<i32>,
}

impl Shell {
    pub fn new() -> Shell {
        let mut command = Command::new("sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Shell { child, stdout, started: Vec::new() }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Starts a process in the background; its pid.
    pub fn start(&mut self, command: &str) -> i32 {
        self.say(&format!("{command} >/dev/null & echo $!"));
        let pid = self.line().parse().unwrap();
        self.started.push(pid);
        pid
    }

    pub fn say(&mut self, command: &str) {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}").unwrap();
    }

    /// The next that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for pid in self.started.drain(..).filter(|pid| watch::process(*pid).is_some()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn pids(text: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    pids.sort_unstable();
    pids
}

fn mount_takes_processes_in(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.write("a/cgroup.procs", &shell.pid().to_string());
    assert_eq!(pids(&mount.read("a/cgroup.procs")), [shell.pid()]);
    assert_eq!(mount.read("a/cgroup.events"), "populated 1\nfrozen 0\n");
    // Born after that, and so in it.
    let (one, two) = (shell.start("sleep 1000"), shell.start("sleep 1000"));
    let mut all = vec![shell.pid(), one, two];
    all.sort_unstable();
    assert_eq!(pids(&mount.read("a/cgroup.procs")), all);
    assert_eq!(
        fs::remove_dir(mount.tree().join("a")).unwrap_err().raw_os_error(),
        Some(libc::EBUSY)
    );
    fs::create_dir(mount.tree().join("b")).unwrap();
    mount.write("b/cgroup.procs", &two.to_string());
    assert_eq!(pids(&mount.read("b/cgroup.procs")), [two]);

    mount.write("a/cgroup.kill", "1");
    shell.child.wait().unwrap();
    until("the sleeper to end", PATIENCE, || {
        watch::process(one).is_none_or(|p| p.state == 'Z').then_some(())
    });
    assert!(watch::process(two).is_some_and(|process| process.state != 'Z'), "it is in another");
    // Whoever has seen them end finds nobody, and may remove it.
    assert_eq!(mount.read("a/cgroup.procs"), "");
    assert_eq!(mount.read("a/cgroup.events"), "populated 0\nfrozen 0\n");
    fs::remove_dir(mount.tree().join("a")).unwrap();
    let none = fs::write(mount.tree().join("b/cgroup.procs"), one.to_string());
    assert_eq!(none.unwrap_err().raw_os_error(), Some(libc::ESRCH));

    // This very process, with all of its threads, by the number that means oneself.
    mount.write("b/cgroup.procs", "0");
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(pids(&mount.read("b/cgroup.procs")).contains(&own));
    let threads = pids(&mount.read("b/cgroup.threads"));
    assert!(threads.contains(&nix::unistd::gettid().as_raw()) && threads.len() > 2, "{threads:?}");
    mount.write("cgroup.procs", &own.to_string());
    mount.end();
}

fn mount_tells_of_an_end_that_nobody_asks_about(place: Place) {
    use std::io::Read;
    use std::os::fd::AsFd;
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.write("a/cgroup.procs", &shell.pid().to_string());
    let mut events = fs::File::open(mount.tree().join("a/cgroup.events")).unwrap();
    let mut text = String::new();
    events.read_to_string(&mut text).unwrap();
    assert_eq!(text, "populated 1\nfrozen 0\n");
    shell.child.kill().unwrap();
    shell.child.wait().unwrap();
    let mut fds = [nix::poll::PollFd::new(events.as_fd(), nix::poll::PollFlags::POLLPRI)];
    let patience = nix::poll::PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(nix::poll::poll(&mut fds, patience), Ok(1));
    assert_eq!(mount.read("a/cgroup.events"), "populated 0\nfrozen 0\n");
    mount.end();
}

/// Not one that has never been seen is left, as long as its parents live long enough to be.
fn mount_kills_the_children_of_the_killed(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let mut shell = Shell::new();
    mount.write("a/cgroup.procs", &shell.pid().to_string());
    for _ in 0..20 {
        shell.start("sh -c 'sleep 1000 & sleep 1000 & wait'");
    }
    let full = || (mount.read("a/cgroup.procs").lines().count() == 61).then_some(());
    until("all to be seen", PATIENCE, full);
    let all = pids(&mount.read("a/cgroup.procs"));
    mount.write("a/cgroup.kill", "1");
    shell.child.wait().unwrap();
    let ended = |pid: &i32| watch::process(*pid).is_none_or(|process| process.state == 'Z');
    until("all to end", PATIENCE, || all.iter().all(ended).then_some(()));
    until("it to be empty", PATIENCE, || mount.read("a/cgroup.procs").is_empty().then_some(()));
    fs::remove_dir(mount.tree().join("a")).unwrap();
    mount.end();
}

fn mount_shows_no_file_that_does_nothing(place: Place) {
    let Some(mount) = adopting(place) else { return };
    let entries = fs::read_dir(mount.tree().join("a")).unwrap();
    let names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.contains(&"cgroup.kill".to_owned()), "{names:?}");
    for hidden in ["cpu.stat", "pids.max"] {
        assert!(!names.contains(&hidden.to_owned()), "{hidden}");
        let error = fs::read(mount.tree().join("a").join(hidden)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{hidden}");
    }
    assert_eq!(mount.read("cgroup.controllers"), "pids\n");
    mount.end();
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
