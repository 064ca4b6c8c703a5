//! A running machine: cases go in, outcomes come out, and whatever hangs is ended.
//!
//! The guest bounds what it can, but a kernel that sleeps where it should not cannot be bounded from
//! inside. So the host waits for every line with a limit. A machine that exceeds it is killed; the
//! case is then played again step by step on a new one, to learn which step it was.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;

use super::VmError;
use crate::case::{Case, Outcome};
use crate::sys;
use crate::wire::{self, Mode, PORT, Ran, Reply, Request};

/// How long the kernel may take to come up. Emulation is slow, and the host may be busy.
const BOOT: Duration = Duration::from_secs(180);
/// How long QEMU may take to begin, in milliseconds.
const CONNECT: u16 = 30_000;
/// How long any one line may take: longer than the guest's own longest wait.
const LINE: Duration = Duration::from_secs(15);
/// How many cases may be under way: enough to keep the guest busy, little enough to fit a socket's
/// buffer, since both sides would otherwise wait for each other.
const WINDOW: usize = 16;

/// What boots.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The CPUs take turns in one thread of the host. Side by side, one now and then runs an
    /// instruction that the other has half patched (static keys), and the kernel dies of it: "Oops:
    /// int3". Slower, and for machines that are not simply booted anew.
    pub in_turns: bool,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was played to its end.
    Played,
    /// The machine stopped answering; the last outcome is `Hung`.
    Hung,
    /// The machine could not go on after it, or not begin it.
    Broken(String),
}

/// A machine that is up.
pub struct Machine {
    child: Child,
    from: BufReader<UnixStream>,
    to: UnixStream,
    release: String,
    folder: tempfile::TempDir,
}

impl Machine {
    /// Boots.
    ///
    /// # Errors
    ///
    /// If there is no QEMU, or the kernel does not come up in time.
    pub fn boot(setup: &Setup) -> Result<Self, VmError> {
        let folder = tempfile::tempdir().map_err(VmError::io("a temporary folder"))?;
        let socket = folder.path().join("port");
        let console = folder.path().join("console");
        let listener = UnixListener::bind(&socket).map_err(VmError::io(&socket))?;
        let said = File::create(folder.path().join("qemu")).map_err(VmError::io(folder.path()))?;
        // Killed, we could not end it, and it would run for ever. This process has one thread, so
        // the parent that PR_SET_PDEATHSIG looks at lives as long as we do.
        let accelerator = if setup.in_turns { "tcg,thread=single" } else { "tcg,thread=multi" };
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", accelerator, "-m", "512", "-smp", "2"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-monitor",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(&setup.kernel)
            .arg("-initrd")
            .arg(&setup.initramfs)
            .args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"])
            .args(["-chardev", &format!("file,id=console,path={}", console.display())])
            .args(["-serial", "chardev:console"])
            .args(["-chardev", &format!("socket,id=port,path={}", socket.display())])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", &format!("virtserialport,chardev=port,name={PORT}")])
            .stdin(Stdio::null())
            .stdout(said.try_clone().map_err(VmError::io(folder.path()))?)
            .stderr(said)
            .spawn()
            .map_err(|e| VmError::Program {
                program: "setpriv (Debian's package util-linux)".into(),
                what: e.to_string(),
            })?;
        let stream = match accept(&listener, &mut child) {
            Ok(stream) => stream,
            Err(e) => {
                let what = fs::read_to_string(folder.path().join("qemu")).unwrap_or_default();
                end(&mut child);
                return Err(VmError::Program {
                    program: "qemu-system-x86_64 (Debian's package qemu-system-x86)".into(),
                    what: format!("{e} {}", what.trim()),
                });
            }
        };
        let to = stream.try_clone().map_err(VmError::io(&socket))?;
        let mut machine =
            Self { child, from: BufReader::new(stream), to, release: String::new(), folder };
        match machine.reply(BOOT) {
            Ok(Reply::Hello(release)) => machine.release = release,
            Ok(other) => return Err(machine.lost(format!("instead of a greeting came {other:?}"))),
            Err(e) => return Err(machine.lost(format!("it does not come up: {e}"))),
        }
        Ok(machine)
    }

    /// The kernel's release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// What the kernel has said on its console.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read(self.folder.path().join("console"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// An error that takes the console to a place where it stays.
    pub(crate) fn lost(&self, what: String) -> VmError {
        let kept =
            std::env::temp_dir().join(format!("cgrove-oracle-console-{}", std::process::id()));
        let _ = fs::write(&kept, self.console());
        VmError::Machine { what, console: kept }
    }

    fn reply(&mut self, bound: Duration) -> Result<Reply, String> {
        self.from.get_ref().set_read_timeout(Some(bound)).map_err(|e| e.to_string())?;
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) => Err("the machine is gone".into()),
            Ok(_) => wire::parse_reply(&line),
            Err(e) => Err(e.to_string()),
        }
    }

    fn send(&mut self, request: &Request) -> std::io::Result<()> {
        wire::send_request(&mut self.to, request)
    }

    /// Runs a command line in it to its end, within a bound.
    ///
    /// # Errors
    ///
    /// If the machine is gone or does not answer.
    pub fn run(&mut self, words: &[&str], bound: Duration) -> Result<Ran, VmError> {
        let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
        let said = words.join(" ");
        self.send(&Request::Run(words)).map_err(VmError::io("the machine's port"))?;
        match self.reply(bound) {
            Ok(Reply::Ran(ran)) => Ok(ran),
            Ok(other) => Err(self.lost(format!("after {said} came {other:?}"))),
            Err(e) => {
                // Or its answer would be taken for that of the next.
                end(&mut self.child);
                Err(self.lost(format!("{said} does not end: {e}")))
            }
        }
    }

    /// Powers off in order, within a bound.
    pub fn quit(mut self) {
        let _ = self.send(&Request::Quit);
        // Whatever is left to be said, up to the end of the stream, which is that of QEMU.
        while self.reply(Duration::from_secs(5)).is_ok() {}
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // Both fail only if it is over already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for QEMU to connect, or to end without having done so.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream, String> {
    let ended =
        sys::pidfd_open(Pid::from_raw(child.id().cast_signed())).map_err(|e| e.to_string())?;
    let mut either = [
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        PollFd::new(ended.as_fd(), PollFlags::POLLIN),
    ];
    let ready = loop {
        match poll(&mut either, CONNECT) {
            Err(Errno::EINTR) => {}
            ready => break ready.map_err(|e| e.to_string())?,
        }
    };
    if ready == 0 {
        return Err("does not connect".into());
    }
    if either[0].any() == Some(true) {
        return listener.accept().map(|(stream, _)| stream).map_err(|e| e.to_string());
    }
    child.wait().map_err(|e| e.to_string()).and_then(|status| Err(status.to_string()))
}

/// A machine that is booted again whenever a case has broken it.
pub struct Lab {
    setup: Setup,
    machine: Option<Machine>,
    release: String,
    /// How often a machine was booted.
    pub boots: usize,
    _folder: tempfile::TempDir,
}

impl Lab {
    /// Builds the init around a kernel and boots.
    ///
    /// # Errors
    ///
    /// What cannot be built or booted.
    pub fn open(kernel: &Path) -> Result<Self, VmError> {
        let folder = tempfile::tempdir().map_err(VmError::io("a temporary folder"))?;
        let setup = Setup {
            kernel: kernel.to_owned(),
            initramfs: folder.path().join("initramfs"),
            in_turns: false,
        };
        super::image::write(&super::image::build_init()?, &[], &setup.initramfs)?;
        let mut lab =
            Self { setup, machine: None, release: String::new(), boots: 0, _folder: folder };
        lab.machine()?;
        Ok(lab)
    }

    /// The kernel's release.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    fn machine(&mut self) -> Result<&mut Machine, VmError> {
        let machine = match self.machine.take() {
            Some(machine) => machine,
            None => {
                let machine = Machine::boot(&self.setup)?;
                self.boots += 1;
                machine.release.clone_into(&mut self.release);
                machine
            }
        };
        Ok(self.machine.insert(machine))
    }

    /// Plays cases in order and hands what came of each to `seen`.
    ///
    /// # Errors
    ///
    /// If no machine can be had any more.
    pub fn play<'a>(
        &mut self,
        cases: impl IntoIterator<Item = &'a Case>,
        mut seen: impl FnMut(&'a Case, Vec<Outcome>, Verdict),
    ) -> Result<(), VmError> {
        let mut left = cases.into_iter();
        let mut flying: VecDeque<&'a Case> = VecDeque::new();
        let mut again: VecDeque<&'a Case> = VecDeque::new();
        loop {
            let mut failed = false;
            while flying.len() < WINDOW && !failed {
                let Some(case) = again.pop_front().or_else(|| left.next()) else {
                    break;
                };
                let request = Request::Play(Box::new(case.clone()), Mode::Batch);
                failed = self.machine()?.send(&request).is_err();
                flying.push_back(case);
            }
            let Some(case) = flying.pop_front() else {
                if failed {
                    self.machine = None;
                    continue;
                }
                return Ok(());
            };
            let (mut outcomes, mut verdict) = self.collect()?;
            if verdict == Verdict::Hung {
                // Once more on a fresh machine, with every outcome sent at once.
                self.machine = None;
                let request = Request::Play(Box::new(case.clone()), Mode::Each);
                let _ = self.machine()?.send(&request);
                (outcomes, verdict) = self.collect()?;
                if verdict == Verdict::Hung && outcomes.len() < case.steps.len() {
                    outcomes.push(Outcome::Hung);
                }
                if verdict == Verdict::Hung {
                    self.machine = None;
                }
                again_first(&mut again, &mut flying);
            } else if matches!(verdict, Verdict::Broken(_)) {
                self.machine = None;
                again_first(&mut again, &mut flying);
            }
            seen(case, outcomes, verdict);
        }
    }

    /// The outcomes of the case that is under way.
    fn collect(&mut self) -> Result<(Vec<Outcome>, Verdict), VmError> {
        let machine = self.machine()?;
        let mut outcomes = Vec::new();
        loop {
            match machine.reply(LINE) {
                Ok(Reply::Begin(_)) => {}
                Ok(Reply::Outcome(outcome)) => outcomes.push(outcome),
                Ok(Reply::End) => return Ok((outcomes, Verdict::Played)),
                Ok(Reply::Broken(why)) => return Ok((outcomes, Verdict::Broken(why))),
                Ok(Reply::Hello(_) | Reply::Ran(_)) => {
                    return Err(machine.lost("it began anew".into()));
                }
                Err(_) => return Ok((outcomes, Verdict::Hung)),
            }
        }
    }
}

/// Puts what was under way before what already waits to be played again: order is kept.
fn again_first<'a>(again: &mut VecDeque<&'a Case>, flying: &mut VecDeque<&'a Case>) {
    for case in flying.drain(..).rev() {
        again.push_front(case);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(machine) = self.machine.take() {
            machine.quit();
        }
    }
}
