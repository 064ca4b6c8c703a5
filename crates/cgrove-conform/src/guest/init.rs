//! The first process of the virtual machine: mounts what is needed, then plays what it is sent.

use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use super::executor::Executor;
use super::files::ROOT;
use crate::case::play;
use crate::wire::{self, Mode, PORT, Ran, Reply, Request};

/// Runs until the host says `quit` or goes away, then powers off.
pub fn main() {
    if let Err(e) = serve() {
        // The console is all that is left.
        eprintln!("init: {e}");
    }
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn serve() -> io::Result<()> {
    for (kind, at) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("cgroup2", ROOT)]
    {
        // The kernel may have mounted it itself.
        let _ = fs::create_dir_all(at);
        match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(e) => return Err(io::Error::other(format!("mount {kind}: {e}"))),
        }
    }
    let port = OpenOptions::new().read(true).write(true).open(find_port()?)?;
    let mut from = BufReader::new(port.try_clone()?);
    let mut to = BufWriter::with_capacity(1 << 16, port);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(&mut to, &Reply::Hello(release.trim().to_owned()), true)?;
    // Not before there is a case: it leaves this process one CPU, and little of that.
    let mut executor = None;
    loop {
        match wire::receive_request(&mut from)? {
            Request::Quit => return Ok(()),
            Request::Run(words) => say(&mut to, &Reply::Ran(run(&words)), true)?,
            Request::Play(case, mode) => {
                let each = mode == Mode::Each;
                say(&mut to, &Reply::Begin(case.name.clone()), each)?;
                let mut sent = Ok(());
                let executor = match &mut executor {
                    Some(executor) => executor,
                    none => none.insert(Executor::new()?),
                };
                let over = play(executor, &case, |_, _, outcome| {
                    if sent.is_ok() {
                        sent = say(&mut to, &Reply::Outcome(outcome), each);
                    }
                });
                sent?;
                let last = match over {
                    Ok(()) => Reply::End,
                    Err(why) => Reply::Broken(why),
                };
                say(&mut to, &last, true)?;
            }
        }
    }
}

/// Runs a command line to its end.
fn run(words: &[String]) -> Ran {
    let failed = |what: String| Ran { status: 127, out: String::new(), err: what };
    let Some((program, args)) = words.split_first() else { return failed("no command".into()) };
    match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Err(error) => failed(format!("{program}: {error}")),
        Ok(output) => Ran {
            status: output
                .status
                .code()
                .unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default()),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
    }
}

fn say(to: &mut impl Write, reply: &Reply, now: bool) -> io::Result<()> {
    to.write_all(wire::print_reply(reply).as_bytes())?;
    if now { to.flush() } else { Ok(()) }
}

/// The device of the port that has our name. It may come a little after us.
fn find_port() -> io::Result<PathBuf> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") {
            for port in ports.flatten() {
                let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
                if name.trim() == PORT {
                    return Ok(PathBuf::from("/dev").join(port.file_name()));
                }
            }
        }
        // sysfs has no event for a new device, and there is no udev to hear of it from.
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(io::Error::other("no port"))
}
