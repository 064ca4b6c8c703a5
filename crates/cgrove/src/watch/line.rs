//! A line of text at the foot of a terminal that others write to.
//!
//! The command owns the terminal and says nothing before it writes. A line in the flow of its output
//! would be overwritten in parts, and would itself hide half a prompt. So the line has a row of its
//! own, the last: the rows above become the region that scrolls (DECSTBM), and the cursor is put
//! back to where the command left it (DECSC, DECRC). Taking the line away gives the row back.
//!
//! Nothing is drawn from the background, nor while a program has the terminal in raw mode, which is
//! what editors, pagers and whoever reads single keys do: the screen is theirs, and scrolls whole
//! again as soon as that is seen. It is written to the terminal through an open file of our own that does not wait: a terminal that takes nothing
//! (Ctrl-S) is left alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use cgrove_host::mutant::{self, Mutant};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::{getpgrp, tcgetpgrp, write};

use crate::{stream, sys};

/// Below this there is no room for a row of our own.
const MIN_ROWS: u16 = 4;
const MIN_COLUMNS: u16 = 20;
/// The whole screen scrolls.
const FULL_REGION: &[u8] = b"\x1b7\x1b[r\x1b8";
/// How long a stopped terminal is waited for at the end.
const PATIENCE: Duration = Duration::from_millis(500);

pub struct Line {
    terminal: OwnedFd,
    /// On the screen, at this row.
    shown: Option<u16>,
    /// What the terminal did not take of the last text.
    rest: Vec<u8>,
}

impl Line {
    /// The terminal of standard error, if it is one, ours, and knows more than to print.
    pub fn find() -> Option<Line> {
        // Fails for all but the controlling terminal, which `/dev/tty` then is.
        tcgetpgrp(stream::stderr()).ok()?;
        let kind = std::env::var("TERM").unwrap_or_default();
        if kind.is_empty() || kind == "dumb" {
            return None;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let terminal = open("/dev/tty", flags, Mode::empty()).ok()?;
        Some(Line { terminal, shown: None, rest: Vec::new() })
    }

    /// Whether the terminal is ours to write to now.
    pub fn may_show(&self) -> bool {
        self.in_front() && !self.is_raw()
    }

    fn in_front(&self) -> bool {
        tcgetpgrp(&self.terminal) == Ok(getpgrp()) || mutant::is(Mutant::ProgressFromBehind)
    }

    fn is_raw(&self) -> bool {
        let raw = |it: Termios| !it.local_flags.contains(LocalFlags::ICANON);
        tcgetattr(&self.terminal).is_ok_and(raw)
    }

    /// Makes way for a program that has taken the screen. What was on the row is its to draw over.
    pub fn make_way(&mut self) {
        if self.is_shown() && self.in_front() && self.is_raw() && self.put(FULL_REGION) {
            self.shown = None;
        }
    }

    pub fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Draws as many of the items as fit.
    pub fn show(&mut self, items: &[String]) {
        if !self.may_show() {
            return;
        }
        let size = sys::window_size(self.terminal.as_fd());
        let Some((rows, columns)) = size.filter(|(r, c)| *r >= MIN_ROWS && *c >= MIN_COLUMNS)
        else {
            return;
        };
        if self.put(&drawing(items, rows, columns)) {
            self.shown = Some(rows);
        }
    }

    /// Takes it off the screen, from the background too: a shell whose job was killed has its
    /// terminal back at once, and the row is still missing. SIGTTOU is blocked.
    pub fn put_away(&mut self) {
        let Some(row) = self.shown else { return };
        // What was cut off last is drawn over, unless it was cut within a sequence.
        let erasure = erasure(sys::window_size(self.terminal.as_fd()).map_or(row, |size| size.0));
        let until = Instant::now() + PATIENCE;
        while !self.put(&erasure) || !self.rest.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLOUT)];
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if !matches!(poll(&mut fds, left), Ok(1..) | Err(Errno::EINTR)) {
                break;
            }
        }
        self.shown = None;
    }

    /// Writes what the terminal takes at once. Whether `bytes` are on their way.
    fn put(&mut self, bytes: &[u8]) -> bool {
        let rest = std::mem::take(&mut self.rest);
        for (part, new) in [(rest.as_slice(), false), (bytes, true)] {
            if part.is_empty() {
                continue;
            }
            let written = write(&self.terminal, part).unwrap_or(0);
            if written < part.len() {
                if written > 0 || !new {
                    self.rest = part[written..].to_vec();
                }
                return new && written > 0;
            }
        }
        true
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

/// What draws the items on the last of so many rows.
fn drawing(items: &[String], rows: u16, columns: u16) -> Vec<u8> {
    let mut text = String::from("cgrove: ");
    for (n, item) in items.iter().enumerate() {
        let comma = if n > 0 { ", " } else { "" };
        // The last column stays free: a terminal that stands behind it wraps.
        if text.len() + comma.len() + item.len() >= usize::from(columns) {
            break;
        }
        text.push_str(comma);
        text.push_str(item);
    }
    // Down and up again: afterwards the cursor is not on the last row. VT goes down in its column,
    // where a line feed would be made into a return as well.
    let above = rows - 1;
    format!("\x0b\x1bM\x1b7\x1b[1;{above}r\x1b[{rows};1H\x1b[0m{text}\x1b[K\x1b8").into_bytes()
}

fn erasure(row: u16) -> Vec<u8> {
    format!("\x1b7\x1b[r\x1b[{row};1H\x1b[0m\x1b[2K\x1b8").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<String> {
        ["12s of 1m00s", "5 of 64 tasks", "cpu 99%"].map(str::to_owned).to_vec()
    }

    fn terminal(rows: u16, columns: u16) -> vt100::Parser {
        let size = |n| std::num::NonZero::new(n).unwrap();
        vt100::Parser::new(size(rows), size(columns), 100)
    }

    fn rows(screen: &vt100::Screen) -> Vec<String> {
        screen.rows(0, screen.size().1.get()).map(|row| row.trim_end().to_owned()).collect()
    }

    /// Half a prompt, lines beyond the height of the screen, a terminal that was reset meanwhile:
    /// the command's output is as it would be without the line.
    #[test]
    fn output_and_line_do_not_mix() {
        let mut terminal = terminal(6, 40);
        terminal.process(b"one\r\ntwo\r\nName? ");
        terminal.process(&drawing(&items(), 6, 40));
        terminal.process(b"me\r\n");
        let line = "cgrove: 12s of 1m00s, 5 of 64 tasks";
        assert_eq!(rows(terminal.screen()), ["one", "two", "Name? me", "", "", line]);
        for n in 0..9 {
            terminal.process(format!("line {n}\r\n").as_bytes());
            terminal.process(&drawing(&items(), 6, 40));
            if n == 4 {
                terminal.process(b"\x1b7\x1b[r\x1b8");
            }
        }
        assert_eq!(rows(terminal.screen()), ["line 6", "line 7", "line 8", "", "", line]);
        terminal.process(b"half");
        terminal.process(&erasure(6));
        terminal.process(b" and half\r\nlast\r\nmore\r\nx\r\ny\r\n");
        assert_eq!(rows(terminal.screen()), ["half and half", "last", "more", "x", "y", ""]);
    }

    /// A full screen, with the cursor on the row that becomes the line's.
    #[test]
    fn room_is_made_on_a_full_screen() {
        let mut terminal = terminal(4, 40);
        terminal.process(b"a\r\nb\r\nc\r\nd: ");
        terminal.process(&drawing(&items(), 4, 40));
        terminal.process(b"e");
        let line = "cgrove: 12s of 1m00s, 5 of 64 tasks";
        assert_eq!(rows(terminal.screen()), ["b", "c", "d: e", line]);
        terminal.process(&erasure(4));
        assert_eq!(rows(terminal.screen()), ["b", "c", "d: e", ""]);
    }

    #[test]
    fn a_narrow_terminal_gets_whole_items() {
        let text = |columns| {
            let mut terminal = terminal(4, columns);
            terminal.process(&drawing(&items(), 4, columns));
            rows(terminal.screen())[3].clone()
        };
        assert_eq!(text(80), "cgrove: 12s of 1m00s, 5 of 64 tasks, cpu 99%");
        assert_eq!(text(45), "cgrove: 12s of 1m00s, 5 of 64 tasks, cpu 99%");
        assert_eq!(text(44), "cgrove: 12s of 1m00s, 5 of 64 tasks");
        assert_eq!(text(20), "cgrove:");
    }
}
