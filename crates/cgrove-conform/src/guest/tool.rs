//! What a virtual machine without a shell has instead of one: small programs by name, for the runs
//! of [`crate::backend`]. Each is `init` again, started as `/init tool NAME ARGUMENT…`.
//!
//! `in DIR`, `as-nobody`, `in-namespace`, `with NAME=VALUE` and `beside` end in another command line, so they can be put
//! together. As `/bin/sh` it splits a line at blanks, and that is all.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};

use super::files::ROOT;

/// The first argument of this program when it is to be one of these.
pub const ARGUMENT: &str = "tool";

const NOBODY: u32 = 65534;
/// Files of a cgroup that its new owner gets (cgroup-v2.rst, "Delegation").
const DELEGATED: [&str; 4] = ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
const MIB: usize = 1 << 20;
/// Longer than any run: who sleeps so long is to be killed.
const LONG: Duration = Duration::from_secs(600);

/// Runs one; returns the exit status.
#[must_use]
pub fn main(args: &[String]) -> u8 {
    match run(args) {
        Ok(status) => status,
        Err(what) => {
            eprintln!("tool {}: {what}", args.join(" "));
            99
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn run(args: &[String]) -> Result<u8, String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["mkdir", path] => fs::create_dir(path).map_err(text)?,
        ["rmdir", path] => fs::remove_dir(path).map_err(text)?,
        ["rm", path] => fs::remove_file(path).map_err(text)?,
        ["open-to-all", path] => {
            fs::create_dir_all(path).map_err(text)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).map_err(text)?;
        }
        ["write", path, value] => fs::write(path, value).map_err(text)?,
        ["cat", path] => print!("{}", fs::read_to_string(path).map_err(text)?),
        ["list", path] => list(path)?,
        ["delegate", path] => delegate(Path::new(path))?,
        ["in", dir, ..] => {
            let procs = Path::new(dir).join("cgroup.procs");
            fs::write(&procs, "0").map_err(|e| format!("{}: {e}", procs.display()))?;
            return Err(become_command(&words[2..]));
        }
        ["as-nobody", ..] => {
            setgroups(&[]).map_err(text)?;
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            setresgid(group, group, group).map_err(text)?;
            setresuid(user, user, user).map_err(text)?;
            return Err(become_command(&words[1..]));
        }
        ["in-namespace", ..] => {
            own_namespace()?;
            return Err(become_command(&words[1..]));
        }
        ["-c", line] => {
            return Err(become_command(&line.split_whitespace().collect::<Vec<_>>()));
        }
        ["link", from, to] => std::os::unix::fs::symlink(to, from).map_err(text)?,
        ["alarm"] => alarm(),
        ["beside", dir, ..] => return beside(Path::new(dir), &words[2..]),
        ["own", files @ ..] => own(files)?,
        ["eat", mib] => drop(eat(mib.parse().map_err(text)?)),
        ["hold", mib] => {
            let _kept = eat(mib.parse().map_err(text)?);
            std::thread::sleep(LONG);
        }
        ["forks", count] => forks(count.parse().map_err(text)?),
        ["burn", ms] => burn(Duration::from_millis(ms.parse().map_err(text)?)),
        ["sleep", ms] => std::thread::sleep(Duration::from_millis(ms.parse().map_err(text)?)),
        ["leave", count] => leave(count.parse().map_err(text)?)?,
        ["with", setting, ..] => return Err(become_command_with(setting, &words[2..])),
        ["kill-both"] => {
            let supervisor = getppid();
            let front = parent_of(supervisor).ok_or("no front")?;
            // By a child, which does not die with the supervisor as this process does.
            itself(&["kill-two", &front.to_string(), &supervisor.to_string()])?;
            std::thread::sleep(LONG);
        }
        ["kill-two", front, supervisor] => {
            let both = [front, supervisor].map(|pid| pid.parse().map(Pid::from_raw));
            let [front, supervisor] = both.map(|pid: Result<Pid, _>| pid.map_err(text));
            let (front, supervisor) = (front?, supervisor?);
            // Stopped, the front can do nothing about the supervisor's end, which comes first because
            // that of the front would continue it.
            kill(front, Signal::SIGSTOP).map_err(text)?;
            kill(supervisor, Signal::SIGKILL).map_err(text)?;
            kill(front, Signal::SIGKILL).map_err(text)?;
            std::thread::sleep(LONG);
        }
        ["kill-supervisor"] => doom(getppid())?,
        ["kill-front"] => doom(parent_of(getppid()).ok_or("no front")?)?,
        ["exit", status] => return status.parse().map_err(text),
        _ => return Err("no such tool".into()),
    }
    Ok(0)
}

fn become_command(words: &[&str]) -> String {
    match words {
        [program, args @ ..] => Command::new(program).args(args).exec().to_string(),
        [] => "no command".into(),
    }
}

/// As [`become_command`], with a variable in its environment.
fn become_command_with(setting: &str, words: &[&str]) -> String {
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    match words {
        [program, args @ ..] => {
            Command::new(program).args(args).env(name, value).exec().to_string()
        }
        [] => "no command".into(),
    }
}

/// What a container has: its cgroup is the root of what it sees, and mounted as such.
fn own_namespace() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS).map_err(text)?;
    umount(ROOT).map_err(text)?;
    mount(Some("cgroup2"), ROOT, Some("cgroup2"), MsFlags::empty(), None::<&str>).map_err(text)
}

/// Says what `--on-high` tells.
fn alarm() {
    let told = |name| std::env::var(name).unwrap_or_default();
    let [event, usage, limit] = ["CGROVE_EVENT", "CGROVE_USAGE", "CGROVE_LIMIT"].map(told);
    eprintln!("alarm {event} {limit} {}", usage.parse::<u64>().is_ok_and(|usage| usage > 0));
}

/// The folders below, sorted.
fn list(path: &str) -> Result<(), String> {
    let entries = fs::read_dir(path).map_err(text)?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    let mut names: Vec<_> = folders.map(|entry| entry.file_name()).collect();
    names.sort();
    names.iter().for_each(|name| println!("{}", name.display()));
    Ok(())
}

fn delegate(dir: &Path) -> Result<(), String> {
    DELEGATED
        .iter()
        .try_for_each(|file| chown(dir.join(file), Some(NOBODY), Some(NOBODY)).map_err(text))
}

/// Without streams: who reads them to their end would wait for what is left behind.
fn itself(args: &[&str]) -> Result<Child, String> {
    let mut command = Command::new("/init");
    command.arg(ARGUMENT).args(args).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(text)
}

/// Runs a command with a process of somebody else's in a cgroup for as long as it takes.
fn beside(dir: &Path, words: &[&str]) -> Result<u8, String> {
    let mut stranger = itself(&["sleep", "600000"])?;
    fs::write(dir.join("cgroup.procs"), stranger.id().to_string()).map_err(text)?;
    let [program, args @ ..] = words else { return Err("no command".into()) };
    let status = Command::new(program).args(args).status().map_err(text);
    let _ = stranger.kill();
    let _ = stranger.wait();
    let status = status?;
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(status).map_err(text)
}

/// What files of the cgroup say in which this process is.
fn own(files: &[&str]) -> Result<(), String> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").map_err(text)?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).ok_or("no cgroup")?;
    for file in files {
        let content = fs::read_to_string(Path::new(ROOT).join(path).join(file)).map_err(text)?;
        println!("{file} {}", content.trim());
    }
    Ok(())
}

/// Takes memory, one MiB after the other, and keeps it.
fn eat(mib: usize) -> Vec<Vec<u8>> {
    let mut kept = Vec::new();
    for _ in 0..mib {
        kept.push(std::hint::black_box(vec![1u8; MIB]));
    }
    println!("ate {}", kept.len());
    kept
}

/// Starts processes that last until all have been tried, and says how many there came to be.
fn forks(count: usize) {
    let made: Vec<Result<Child, String>> =
        (0..count).map(|_| itself(&["sleep", "600000"])).collect();
    let refused = made.iter().filter_map(|it| it.as_ref().err()).next().cloned();
    println!("forked {} {}", made.iter().flatten().count(), refused.unwrap_or_default());
    for mut child in made.into_iter().flatten() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn burn(wall: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < wall {
        std::hint::spin_loop();
    }
}

fn leave(count: usize) -> Result<(), String> {
    for _ in 0..count {
        // They are not waited for, and outlive this process.
        drop(itself(&["sleep", "600000"])?);
    }
    Ok(())
}

/// Kills a process, and waits for what follows from it.
fn doom(pid: Pid) -> Result<(), String> {
    let _child = itself(&["sleep", "600000"])?;
    kill(pid, Signal::SIGKILL).map_err(text)?;
    loop {
        nix::unistd::pause();
    }
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().map(Pid::from_raw)
}
