//! What happens in a run, as an iterator that can also be polled.
//!
//! From a run of one's own the lines come through a fifo in a folder of its own, which cgrove opens by
//! name: the command inherits nothing. A run that never comes so far has no end of file either, so
//! its end is waited for as well; an epoll(7) instance makes one descriptor of both.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use cgrove_host::follow::Stream;
use cgrove_host::journal::Happening;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::Error;

/// What happens in a run or a group, until it ends: see [`Command::events`](crate::Command::events)
/// and [`Group::events`](crate::Group::events).
///
/// As an iterator it waits. For an event loop it is a descriptor ([`AsFd`]) that becomes readable when
/// [`Events::poll_next`], which had nothing before, has something. Nobody waits for whoever reads this: what is not read in
/// time is lost, and [`What::Lost`](crate::What::Lost) says how much.
#[derive(Debug)]
pub struct Events {
    source: Source,
    lines: VecDeque<Happening>,
    ended: bool,
}

#[derive(Debug)]
enum Source {
    /// From a door.
    Packets(Stream),
    Fifo(Fifo),
}

/// The reader of a fifo that a run has been told to write to.
#[derive(Debug)]
struct Fifo {
    reader: File,
    /// What has come of a line that is not complete.
    rest: Vec<u8>,
    /// Readable when the run is over.
    over: Arc<OwnedFd>,
    /// Readable when one of both is.
    either: Epoll,
    _folder: TempDir,
}

/// A fifo before its run has started.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) path: PathBuf,
    reader: File,
    folder: TempDir,
}

impl Prepared {
    pub(super) fn new() -> Result<Prepared, Error> {
        let what = "a place for the events";
        let folder = tempfile::tempdir().map_err(Error::io(what))?;
        let path = folder.path().join("events");
        let failed = |errno: Errno| Error::Io { what, source: errno.into() };
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        // It is there before its writer, who would not wait for it.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let reader = File::from(open(&path, flags, Mode::empty()).map_err(failed)?);
        Ok(Prepared { path, reader, folder })
    }

    /// With the descriptor that is readable when the run is over.
    pub(super) fn of(self, over: &Arc<OwnedFd>) -> Result<Events, Error> {
        let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).and_then(|either| {
            either.add(&self.reader, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            either.add(over, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
            Ok(either)
        });
        let either = either
            .map_err(|errno| Error::Io { what: "cannot wait for events", source: errno.into() })?;
        let over = Arc::clone(over);
        let fifo =
            Fifo { reader: self.reader, rest: Vec::new(), over, either, _folder: self.folder };
        Ok(Events::from(Source::Fifo(fifo)))
    }
}

impl Events {
    fn from(source: Source) -> Events {
        Events { source, lines: VecDeque::new(), ended: false }
    }

    pub(super) fn follow(path: &str) -> Result<Events, Error> {
        Ok(Events::from(Source::Packets(Stream::open(path)?)))
    }

    /// The next one, without waiting. `Ready(None)`: the run is over. Nobody is woken: wait for the
    /// descriptor to be readable.
    ///
    /// # Errors
    /// [`Error::Io`]: it cannot be read. There is no more then.
    pub fn poll_next(&mut self) -> Poll<Option<Result<Happening, Error>>> {
        self.next_within(PollTimeout::ZERO)
    }

    fn next_within(&mut self, time: PollTimeout) -> Poll<Option<Result<Happening, Error>>> {
        loop {
            if let Some(event) = self.lines.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let taken = match &mut self.source {
                Source::Packets(stream) => take_packet(stream, time, &mut self.lines),
                Source::Fifo(fifo) => fifo.take(time, &mut self.lines),
            };
            match taken {
                Ok(Taken::Some) | Err(Errno::EINTR) => {}
                Ok(Taken::Nothing) => return Poll::Pending,
                Ok(Taken::End) => self.ended = true,
                Err(errno) => {
                    self.ended = true;
                    let what = "cannot read events";
                    return Poll::Ready(Some(Err(Error::Io { what, source: errno.into() })));
                }
            }
        }
    }
}

/// What an attempt to take lines came to.
enum Taken {
    /// There may be some.
    Some,
    /// There was none within the time.
    Nothing,
    End,
}

fn take_packet(
    stream: &mut Stream,
    time: PollTimeout,
    to: &mut VecDeque<Happening>,
) -> Result<Taken, Errno> {
    if poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], time)? == 0 {
        return Ok(Taken::Nothing);
    }
    let Some(line) = stream.line()? else { return Ok(Taken::End) };
    parse(line, to);
    Ok(Taken::Some)
}

/// Of a newer program there may be lines that this one does not know.
fn parse(line: &[u8], to: &mut VecDeque<Happening>) {
    to.extend(serde_json::from_slice::<Happening>(line).ok());
}

impl Fifo {
    fn take(&mut self, time: PollTimeout, to: &mut VecDeque<Happening>) -> Result<Taken, Errno> {
        let mut fds = [
            PollFd::new(self.reader.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.over.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, time)? == 0 {
            return Ok(Taken::Nothing);
        }
        // A fifo without a writer hangs up only if it had one.
        let ready = fds[0].any().unwrap_or(true);
        // The writer is gone before the run is, and its last lines are there.
        if !ready && poll(&mut fds[..1], PollTimeout::ZERO)? == 0 {
            return Ok(Taken::End);
        }
        let mut piece = [0; 16 * 1024];
        match self.reader.read(&mut piece) {
            Ok(0) => Ok(Taken::End),
            Ok(got) => {
                self.rest.extend_from_slice(&piece[..got]);
                let complete = self.rest.iter().rposition(|byte| *byte == b'\n');
                let complete = complete.map_or(0, |at| at + 1);
                let lines: Vec<u8> = self.rest.drain(..complete).collect();
                lines.split(|byte| *byte == b'\n').for_each(|line| parse(line, to));
                Ok(Taken::Some)
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => Ok(Taken::Some),
                Some(errno) => Err(errno),
                None => Err(Errno::EIO),
            },
        }
    }
}

/// Waits for the next one; `None`: the run is over.
impl Iterator for Events {
    type Item = Result<Happening, Error>;

    fn next(&mut self) -> Option<Result<Happening, Error>> {
        loop {
            if let Poll::Ready(event) = self.next_within(PollTimeout::NONE) {
                return event;
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Packets(stream) => stream.as_fd(),
            Source::Fifo(fifo) => fifo.either.0.as_fd(),
        }
    }
}
