//! HTTP for whoever collects metrics: one page, and nobody can hold it up.
//!
//! Clients may connect and say nothing, send a byte a minute, or never read. Each has a deadline and
//! bounded buffers; when there are too many at once the oldest that has not finished its question
//! makes room. All are served by one loop that never waits for any of them. An answer is a look at
//! the whole run, so all who ask at the same time get the same.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cgrove_host::door;
use cgrove_host::error::HostError;
use cgrove_host::mutant::{self, Mutant};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{Mode, umask};

use super::address::Address;
use super::asker::Answer;
use super::openmetrics::{CONTENT_TYPE, text};

/// Who has not asked, or not taken its answer, within this time is left without.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at a time.
const MAX_CLIENTS: usize = 64;
/// Of a request.
const MAX_REQUEST: usize = 8 * 1024;
/// After a connection that could not be taken in, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

trait Connection: Read + Write + AsFd {}
impl<T: Read + Write + AsFd> Connection for T {}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Listener::Unix(it) => {
                let stream = it.accept()?.0;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
            Listener::Tcp(it) => {
                let stream = it.accept()?.0;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
        })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(it) => it.as_fd(),
            Listener::Tcp(it) => it.as_fd(),
        }
    }
}

/// A socket's file, to be taken away.
struct Place {
    /// Its folder, by which it is found whatever its path has become.
    folder: OwnedFd,
    name: String,
    inode: u64,
}

impl Place {
    fn path(folder: &OwnedFd, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
    }
}

/// How far a client has come.
enum Stage {
    /// What it has said.
    Asking(Vec<u8>),
    /// It waits for an answer, with a body or (HEAD) without.
    Waiting { body: bool },
    /// What it has not taken yet.
    Taking(Vec<u8>),
    /// It has everything, and may still have more to say.
    Leaving,
}

struct Client {
    connection: Box<dyn Connection>,
    stage: Stage,
    until: Instant,
}

pub struct Server {
    listener: Listener,
    place: Option<Place>,
    shown: String,
    clients: Vec<Client>,
    /// No connections are taken in before.
    pause: Option<Instant>,
}

impl Server {
    /// Opens the address for the run `name`.
    pub fn open(at: &Address, name: &str) -> Result<Server, HostError> {
        let (listener, place, shown) = match at {
            Address::Loopback(at) => {
                let failed = |error| {
                    HostError::new(
                        format_args!("cannot offer metrics at {at}"),
                        error,
                        "choose another port for --metrics; 0 takes any",
                    )
                };
                let listener = TcpListener::bind(at).map_err(failed)?;
                let at = listener.local_addr().map_err(failed)?;
                (Listener::Tcp(listener), None, format!("http://{at}/metrics"))
            }
            Address::Beside => {
                let (path, folder) = door::side_folder("metrics")?;
                let path = path.join(name);
                let (listener, place) = bind(folder, name).map_err(|e| refused(&path, e))?;
                (Listener::Unix(listener), Some(place), format!("unix:{}", path.display()))
            }
            Address::Path(path) => {
                let refused = |error| refused(path, error);
                let parent = match path.parent() {
                    Some(parent) if parent.as_os_str().is_empty() => ".".as_ref(),
                    Some(parent) => parent,
                    None => return Err(refused(ErrorKind::InvalidInput.into())),
                };
                let name = path.file_name().and_then(|name| name.to_str());
                let name = name.ok_or_else(|| refused(ErrorKind::InvalidInput.into()))?;
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let folder = open(parent, flags, Mode::empty()).map_err(|e| refused(e.into()))?;
                let (listener, place) = bind(folder, name).map_err(refused)?;
                (Listener::Unix(listener), Some(place), format!("unix:{}", path.display()))
            }
        };
        let nonblocking = match &listener {
            Listener::Unix(it) => it.set_nonblocking(true),
            Listener::Tcp(it) => it.set_nonblocking(true),
        };
        nonblocking.map_err(|error| {
            HostError::new("cannot offer metrics", error, "please report this bug")
        })?;
        Ok(Server { listener, place, shown, clients: Vec::new(), pause: None })
    }

    /// The address for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Its descriptors as long as there are no clients.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.listener.as_fd()];
        fds.extend(self.place.as_ref().map(|place| place.folder.as_fd()));
        fds
    }

    /// Takes the socket's file away, unless it is somebody else's by now.
    pub fn close(&self) {
        if let Some(place) = &self.place {
            let path = Place::path(&place.folder, &place.name);
            if fs::symlink_metadata(&path).is_ok_and(|it| it.ino() == place.inode) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// What to wait for, in the order that [`Server::serve`] takes them in.
    pub fn waits_for(&self) -> Vec<PollFd<'_>> {
        let listens = if self.pause.is_none() { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![PollFd::new(self.listener.as_fd(), listens)];
        fds.extend(self.clients.iter().map(|client| {
            let flags = match client.stage {
                Stage::Taking(_) => PollFlags::POLLOUT,
                // A hangup comes unasked.
                Stage::Waiting { .. } => PollFlags::empty(),
                Stage::Asking(_) | Stage::Leaving => PollFlags::POLLIN,
            };
            PollFd::new(client.connection.as_fd(), flags)
        }));
        fds
    }

    /// When somebody's patience is over.
    pub fn due(&self) -> Option<Instant> {
        self.clients.iter().map(|client| client.until).chain(self.pause).min()
    }

    /// Serves who is ready. Whether somebody waits for an answer.
    pub fn serve(&mut self, ready: &[bool]) -> bool {
        let now = Instant::now();
        self.pause = self.pause.filter(|until| *until > now);
        let mut ready = ready.iter();
        let knocks = ready.next() == Some(&true);
        self.clients.retain_mut(|client| {
            let ready = ready.next() == Some(&true);
            (!ready || client.step(now)) && client.until > now
        });
        let in_turn = mutant::is(Mutant::ClientsInTurn);
        if knocks && (self.clients.is_empty() || !in_turn) {
            self.take_in(now);
        }
        self.clients.iter().any(|client| matches!(client.stage, Stage::Waiting { .. }))
    }

    fn take_in(&mut self, now: Instant) {
        // Bounded, so that those who are in get their turn.
        let at_once = if mutant::is(Mutant::ClientsInTurn) { 1 } else { MAX_CLIENTS };
        for _ in 0..at_once {
            match self.listener.accept() {
                Ok(connection) => {
                    if self.clients.len() >= MAX_CLIENTS {
                        let asking = |client: &Client| matches!(client.stage, Stage::Asking(_));
                        let oldest = self.clients.iter().position(asking).unwrap_or(0);
                        self.clients.remove(oldest);
                    }
                    let stage = Stage::Asking(Vec::new());
                    let mut client = Client { connection, stage, until: now + PATIENCE };
                    // Mostly the question is there already.
                    if client.step(now) {
                        self.clients.push(client);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.pause = Some(now + PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// Answers all who wait.
    pub fn answer(&mut self, answer: &Answer) {
        let (status, kind, page) = match &answer.snapshot {
            Ok(snapshot) => ("200 OK", CONTENT_TYPE, text(&[snapshot])),
            Err(why) => ("503 Service Unavailable", PLAIN, format!("{why}\n")),
        };
        let now = Instant::now();
        self.clients.retain_mut(|client| match client.stage {
            Stage::Waiting { body } => {
                client.say(response(status, kind, &page, body, ""), now);
                client.step(now)
            }
            _ => true,
        });
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Client {
    fn say(&mut self, bytes: Vec<u8>, now: Instant) {
        self.stage = Stage::Taking(bytes);
        self.until = now + PATIENCE;
    }

    /// Goes on as far as it can be gone without waiting. Whether the client stays.
    fn step(&mut self, now: Instant) -> bool {
        loop {
            match &mut self.stage {
                Stage::Asking(said) => {
                    let mut buf = [0; 2048];
                    match self.connection.read(&mut buf) {
                        Ok(0) => return false,
                        Ok(got) => said.extend_from_slice(&buf[..got]),
                        Err(error) => return waits(&error),
                    }
                    match verdict(said) {
                        Verdict::Incomplete => {}
                        Verdict::Page { body } => {
                            self.stage = Stage::Waiting { body };
                            return true;
                        }
                        Verdict::Refused(response) => self.say(response, now),
                    }
                }
                // It became ready, which means that it is gone.
                Stage::Waiting { .. } => return false,
                Stage::Taking(bytes) => match self.connection.write(bytes) {
                    Ok(0) => return false,
                    Ok(taken) if taken < bytes.len() => drop(bytes.drain(..taken)),
                    Ok(_) => self.stage = Stage::Leaving,
                    Err(error) => return waits(&error),
                },
                // To close with something unread would take the answer away from it.
                Stage::Leaving => {
                    match nix::sys::socket::shutdown(
                        self.connection.as_fd().as_raw_fd(),
                        nix::sys::socket::Shutdown::Write,
                    ) {
                        Ok(()) => {}
                        Err(_) => return false,
                    }
                    match self.connection.read(&mut [0; 2048]) {
                        Ok(0) => return false,
                        Ok(_) => {}
                        Err(error) => return waits(&error),
                    }
                }
            }
        }
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

enum Verdict {
    Incomplete,
    Page { body: bool },
    Refused(Vec<u8>),
}

/// What to make of a request.
fn verdict(said: &[u8]) -> Verdict {
    let refused = |status: &str, page: &str, more: &str| {
        Verdict::Refused(response(status, PLAIN, page, true, more))
    };
    let ends =
        said.windows(4).any(|it| it == b"\r\n\r\n") || said.windows(2).any(|it| it == b"\n\n");
    if !ends {
        return if said.len() > MAX_REQUEST {
            refused("431 Request Header Fields Too Large", "too long\n", "")
        } else {
            Verdict::Incomplete
        };
    }
    let line = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[method, target, version] = words.as_slice() else {
        return refused("400 Bad Request", "this is HTTP: GET /metrics\n", "");
    };
    if !version.starts_with("HTTP/1.") {
        return refused("505 HTTP Version Not Supported", "HTTP/1.1, please\n", "");
    }
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        ("GET", "/metrics" | "/") => Verdict::Page { body: true },
        ("HEAD", "/metrics" | "/") => Verdict::Page { body: false },
        ("GET" | "HEAD", _) => refused("404 Not Found", "there is /metrics\n", ""),
        _ => refused("405 Method Not Allowed", "only GET\n", "Allow: GET, HEAD\r\n"),
    }
}

fn response(status: &str, kind: &str, page: &str, body: bool, more: &str) -> Vec<u8> {
    let length = page.len();
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{more}\r\n"
    )
    .into_bytes();
    if body {
        bytes.extend_from_slice(page.as_bytes());
    }
    bytes
}

/// A socket of mode 0600, in the place of one that nobody listens at any more.
fn bind(folder: OwnedFd, name: &str) -> io::Result<(UnixListener, Place)> {
    let path = Place::path(&folder, name);
    if let Ok(there) = fs::symlink_metadata(&path) {
        if !there.file_type().is_socket() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        match UnixStream::connect(&path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
            _ => return Err(ErrorKind::AddrInUse.into()),
        }
    }
    // The file has this mode from its first moment.
    let mask = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(&path);
    umask(mask);
    let listener = bound?;
    let inode = fs::symlink_metadata(&path)?.ino();
    Ok((listener, Place { folder, name: name.to_owned(), inode }))
}

fn refused(path: &std::path::Path, error: io::Error) -> HostError {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "somebody listens there; choose another --name or --metrics=PATH",
        ErrorKind::AlreadyExists => "there is a file that is no socket; choose another path",
        ErrorKind::InvalidInput => "the name is too long or no text; give --metrics=PATH",
        _ => "choose a path for --metrics in a folder that is writable",
    };
    HostError::new(format_args!("cannot offer metrics at {}", path.display()), error, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged_by_their_first_line() {
        let status = |said: &[u8]| match verdict(said) {
            Verdict::Incomplete => "more".to_owned(),
            Verdict::Page { body } => format!("page {body}"),
            Verdict::Refused(response) => String::from_utf8(response[9..12].to_vec()).unwrap(),
        };
        for (said, wanted) in [
            (&b""[..], "more"),
            (b"GET /metrics HTTP/1.1\r\n", "more"),
            (b"GET /metrics HTTP/1.1\r\n\r\n", "page true"),
            (b"GET /metrics?x=1 HTTP/1.0\n\n", "page true"),
            (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "page false"),
            (b"GET /other HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"GET /metrics HTTP/2\r\n\r\n", "505"),
            (b"\xff\x00\r\n\r\n", "400"),
            (b"\r\n\r\n", "400"),
        ] {
            assert_eq!(status(said), wanted, "{:?}", String::from_utf8_lossy(said));
        }
        assert_eq!(status(&vec![b'x'; MAX_REQUEST + 1]), "431");
    }
}
