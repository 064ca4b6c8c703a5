//! The first process of the virtual machine: mounts what is needed, then plays what it is sent.

use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use super::executor::Executor;
use super::files::ROOT;
use crate::case::{Target, play};
use crate::wire::{self, Mode, PORT, Reply, Request};

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
    let mut executor = Executor::new()?;
    say(&mut to, &Reply::Hello(executor.name()), true)?;
    loop {
        match wire::receive_request(&mut from)? {
            Request::Quit => return Ok(()),
            Request::Play(case, mode) => {
                let each = mode == Mode::Each;
                say(&mut to, &Reply::Begin(case.name.clone()), each)?;
                let mut sent = Ok(());
                let over = play(&mut executor, &case, |_, _, outcome| {
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
