//! How the behaviour tests run cgrove, and how they make sure that nothing of it stays.
//!
//! Every run carries a mark of its own on its command line. When it is over no process with that
//! mark may exist, which is asserted after every run, whatever the test is about; and if a test
//! fails half-way its processes are ended by that mark.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cgrove_host::report::Report;
use cgrove_host::sys::pidfd_open;
use cgrove_testkit::{acts, watch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

/// No run of these tests takes longer, on the slowest machine. A mutant that hangs need not be
/// waited for that long.
pub const PATIENCE: Duration = Duration::from_secs(if cfg!(cgrove_mutants) { 15 } else { 90 });

/// Where a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As whoever runs the tests.
    Here,
    /// In the jail, as nobody.
    Jail,
    /// In a jail that refuses seccomp(2) as well.
    Deaf,
    /// In one that also refuses ptrace(2).
    Mute,
    /// As whoever runs the tests, where forks ask by ptrace.
    Traced,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::Here => "here",
            Place::Jail => "jail",
            Place::Deaf => "deaf",
            Place::Mute => "mute",
            Place::Traced => "traced",
        }
    }

    /// The name of the backend whose forks ask there.
    pub fn asking(self) -> &'static str {
        if self == Place::Traced { "ptrace" } else { "gate" }
    }

    /// A command in this place.
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let kit = kit();
        let mut command = match self {
            Place::Here | Place::Traced => return Command::new(program),
            Place::Jail | Place::Deaf | Place::Mute => Command::new(&kit.jailer),
        };
        command.arg(super::IN_JAIL);
        if matches!(self, Place::Deaf | Place::Mute) {
            command.arg("--no-seccomp");
        }
        if self == Place::Mute {
            command.arg("--no-ptrace");
        }
        command.arg(program);
        command
    }
}

/// Programs and a folder that every user may read, write and execute.
pub struct Kit {
    folder: TempDir,
    pub cgrove: PathBuf,
    pub acts: PathBuf,
    jailer: PathBuf,
}

pub fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("its mode");
        // Copies, because the folders that cargo builds in may be closed to nobody.
        let copy = |from: &Path, name: &str| {
            let to = folder.path().join(name);
            fs::copy(from, &to).expect("a copy of a program");
            fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("its mode");
            to
        };
        Kit {
            cgrove: copy(Path::new(env!("CARGO_BIN_EXE_cgrove")), "cgrove"),
            jailer: copy(&std::env::current_exe().expect("this program"), "jailer"),
            acts: acts::compile(folder.path()).expect("the helper programs compile"),
            folder,
        }
    })
}

/// The kit is in a static, which is never dropped.
pub fn clean_up() {
    let _ = fs::remove_dir_all(kit().folder.path());
}

/// `command` as the last words of another command line.
pub fn behind(words: &[&str], command: &Command) -> Command {
    let mut behind = Command::new(words[0]);
    behind.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    behind
}

/// A path in the kit's folder that nobody has used.
pub fn fresh_path(kind: &str) -> PathBuf {
    kit().folder.path().join(fresh(kind))
}

fn fresh(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A `cgrove run` to be.
pub struct Run {
    pub place: Place,
    verb: Vec<OsString>,
    pub mark: String,
    /// Where a file given to `--json` goes.
    report: PathBuf,
    options: Vec<OsString>,
    command: Vec<OsString>,
    stdin: Option<Stdio>,
}

/// `cgrove run` without options.
pub fn run(place: Place) -> Run {
    Run {
        place,
        verb: vec!["run".into()],
        mark: fresh("mark"),
        report: fresh_path("report"),
        options: Vec::new(),
        command: Vec::new(),
        stdin: None,
    }
}

/// `cgrove exec` in a group, without options.
pub fn exec(place: Place, group: &str) -> Run {
    Run { verb: vec!["exec".into(), group.into()], ..run(place) }
}

/// A name that nobody has used.
pub fn fresh_name() -> String {
    fresh("group")
}

impl Run {
    /// Where forks ask by ptrace, that is taken for the gate.
    pub fn options(mut self, options: &[&str]) -> Run {
        let traced = self.place == Place::Traced;
        let here =
            |option: &&str| if traced && *option == "gate" { "ptrace" } else { option }.into();
        self.options.extend(options.iter().map(here));
        self
    }

    /// One of the helper programs.
    pub fn acts(mut self, what: &str, argument: u64) -> Run {
        self.command = vec![kit().acts.clone().into(), what.into(), self.mark.clone().into()];
        self.command.push(argument.to_string().into());
        self
    }

    /// Any command. `ACTS` and `MARK` in it stand for the helper programs and the run's mark.
    pub fn command(mut self, words: &[&str]) -> Run {
        let acts = kit().acts.to_str().expect("a plain path");
        let fill = |word: &&str| word.replace("ACTS", acts).replace("MARK", &self.mark).into();
        self.command = words.iter().map(fill).collect();
        self
    }

    /// A shell script, filled like [`Run::command`].
    pub fn script(self, text: &str) -> Run {
        self.command(&["sh", "-c", text])
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Run {
        self.stdin = Some(stdin.into());
        self
    }

    /// The command line, for those who start it themselves.
    pub fn build(&self) -> Command {
        self.words(self.place.command(&kit().cgrove))
    }

    /// A shell in the run's place, which runs `script` with the command line as `"$@"`.
    pub fn behind_shell(&mut self, script: &str) -> Running {
        let mut shell = self.place.command("sh");
        shell.args(["-c", script, "sh"]).arg(&kit().cgrove);
        let mut shell = self.words(shell);
        self.start_as(&mut shell)
    }

    fn words(&self, mut command: Command) -> Command {
        command.args(&self.verb).args(["--name", &self.mark]);
        let chosen = self.options.iter().any(|option| option == "--backend");
        if self.place == Place::Traced && self.verb == ["run"] && !chosen {
            command.args(["--backend", "ptrace"]);
        }
        if !self.options.iter().any(|option| option == "--json") {
            command.arg("--json").arg(&self.report);
        }
        command.args(&self.options).arg("--").args(&self.command);
        command
    }

    pub fn start(mut self) -> Running {
        let mut command = self.build();
        self.start_as(&mut command)
    }

    /// Starts `command`, which leads to the run, in place of [`Run::build`]'s.
    pub fn start_as(&mut self, command: &mut Command) -> Running {
        let (out, err) = (fresh_path("out"), fresh_path("err"));
        let file = |path: &Path| File::create(path).expect("a file for the output");
        command.stdin(self.stdin.take().unwrap_or_else(Stdio::null));
        command.stdout(file(&out)).stderr(file(&err));
        let child = command.spawn().expect("cgrove starts");
        let (mark, report) = (self.mark.clone(), self.report.clone());
        Running { child, mark, report, out, err, over: false }
    }

    /// Runs it to its end.
    pub fn end(self) -> Ended {
        self.start().end()
    }
}

/// A run under way.
pub struct Running {
    child: Child,
    pub mark: String,
    report: PathBuf,
    out: PathBuf,
    err: PathBuf,
    /// It was seen to leave nothing.
    over: bool,
}

impl Running {
    /// The front's pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    pub fn signal(&self, signal: i32) {
        cgrove_host::sys::kill(self.pid(), signal).expect("the front can be signalled");
    }

    /// The supervisor's pid: the front's only child.
    pub fn supervisor(&self) -> i32 {
        self.until("the supervisor", || {
            Some(watch::below(self.pid()).iter().find(|p| p.ppid == self.pid())?.pid)
        })
    }

    /// What the command has printed so far.
    pub fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What was said on standard error so far.
    pub fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Waits for a line of the command's output.
    pub fn said(&self, line: &str) {
        let what = format!("{line:?} on standard output");
        self.until(&what, || self.out().lines().any(|l| l == line).then_some(()));
    }

    pub fn until<T>(&self, what: &str, done: impl FnMut() -> Option<T>) -> T {
        watch::until(what, PATIENCE, done)
    }

    /// Waits for the end, and makes sure that nothing with the run's mark is left.
    pub fn end(mut self) -> Ended {
        let pidfd = pidfd_open(self.pid()).expect("a handle on the front");
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).expect("a timeout");
        assert_eq!(poll(&mut fds, patience), Ok(1), "{} does not end", self.mark);
        let status = self.child.wait().expect("the front's status");
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let ended = Ended {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            out: text(&self.out),
            err: text(&self.err),
            json: fs::read_to_string(&self.report).ok().filter(|json| !json.is_empty()),
        };
        let left = watch::marked(&self.mark);
        assert!(left.is_empty(), "left running: {left:?}\n{ended:?}");
        self.over = true;
        ended
    }

    /// Waits until nothing with the mark is left, for runs whose front was killed.
    pub fn vanish(mut self) {
        let _ = self.child.wait();
        let mark = self.mark.clone();
        let what = format!("{mark} to vanish");
        self.until(&what, || watch::marked(&mark).is_empty().then_some(()));
        self.over = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // The test failed: end what it started. The supervisor ends the tree without its front;
        // the mark finds what a broken one leaves.
        let _ = self.child.kill();
        let _ = self.child.wait();
        watch::end_marked(&self.mark);
    }
}

/// Waits for something that is no run's.
pub fn until<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    watch::until(what, PATIENCE, done)
}

/// A run that is over.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub out: String,
    pub err: String,
    pub json: Option<String>,
}

impl Ended {
    pub fn report(&self) -> Report {
        let json = self.json.as_ref().unwrap_or_else(|| panic!("no report: {self:?}"));
        serde_json::from_str(json).expect("a report")
    }

    /// What cgrove said in its own name: exactly one line.
    pub fn only_line(&self) -> &str {
        let lines: Vec<_> = self.err.lines().filter(|line| line.starts_with("cgrove: ")).collect();
        assert_eq!(lines.len(), 1, "{self:?}");
        lines[0]
    }

    /// The number behind `word` on standard output.
    pub fn number(&self, word: &str) -> u64 {
        let mut words = self.out.split_whitespace();
        words.find(|w| *w == word).unwrap_or_else(|| panic!("no {word} in {self:?}"));
        words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{word}: {self:?}"))
    }
}
