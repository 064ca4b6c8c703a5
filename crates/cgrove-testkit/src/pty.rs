//! A terminal with somebody typing.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;

/// A program on a terminal of its own, which is its controlling terminal.
pub struct Terminal {
    master: PtyMaster,
    device: String,
    child: Child,
    /// Everything it has shown.
    pub screen: String,
    /// What [`Terminal::expect`] has not looked past.
    seen: usize,
}

/// How long an expected text may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Terminal {
    /// Starts `command`, on a terminal of 24 rows and 80 columns.
    ///
    /// # Errors
    /// What the system refuses with; `setsid` of util-linux makes the session.
    pub fn start(program: &Command) -> io::Result<Terminal> {
        // Close-on-exec from the first moment: a copy in a program that another test starts would
        // keep the terminal from ever hanging up.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let device = ptsname_r(&master)?;
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let slave: OwnedFd = open(device.as_str(), flags, Mode::empty())?;
        let sized =
            Command::new("stty").args(["-F", &device, "rows", "24", "cols", "80"]).status()?;
        assert!(sized.success(), "stty cannot size {device}");
        let stdio = || slave.try_clone().map(Stdio::from);
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let child = command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?).spawn()?;
        Ok(Terminal { master, device, child, screen: String::new(), seen: 0 })
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until `text` is shown, after what was waited for before.
    ///
    /// # Panics
    /// If it does not come in time.
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
            assert_eq!(ready, Ok(1), "no {text:?} on the screen:\n{}", self.screen);
            let mut bytes = [0; 4096];
            let got = self.master.read(&mut bytes).expect("the terminal shows");
            self.screen.push_str(&String::from_utf8_lossy(&bytes[..got]));
        }
    }

    /// Takes in what is left to be shown, once every program has ended.
    pub fn drain(&mut self) {
        let mut bytes = [0; 4096];
        // The end is an error (EIO) on a terminal.
        while let Ok(got @ 1..) = self.master.read(&mut bytes) {
            self.screen.push_str(&String::from_utf8_lossy(&bytes[..got]));
        }
    }

    /// The device that programs on the terminal see.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Takes the terminal away, as a closed window does: the session hangs up.
    ///
    /// # Panics
    /// If the program cannot be waited for.
    pub fn hang_up(self) {
        let Terminal { master, mut child, .. } = self;
        drop(master);
        child.wait().expect("the program ends");
    }

    /// Waits for the program to end.
    ///
    /// # Panics
    /// If it cannot be waited for.
    #[must_use]
    pub fn status(&mut self) -> Option<i32> {
        self.child.wait().expect("the program ends").code()
    }

    /// The pid of the session's leader's parent, from which everything on the terminal descends.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }
}
