//! The supervisor's command line, as `ps` and `pkill -f` see it.
//!
//! **Problem.** The supervisor is a fork of the front and would share its command line. Then
//! `pkill -9 -f cgrove` kills both guards of the tree at one blow, and nobody is left to kill the
//! rest.
//!
//! **Mechanism.** The kernel reads a process's command line from the process's own memory, between
//! two addresses that `/proc/self/stat` tells. Writing there through `/proc/self/mem` changes what
//! others read. The front's arguments were parsed before the fork, so nobody needs the old bytes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Replaces the calling process's command line, cut to the room that the old one has.
///
/// Errors: what `/proc` refuses with; the command line is then as it was.
pub fn set(title: &str) -> io::Result<()> {
    let Some((start, end)) = argument_area(&fs::read("/proc/self/stat")?) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let room = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
    let Some(text_room) = room.checked_sub(1) else { return Ok(()) };
    let mut bytes: Vec<u8> = title.bytes().take(text_room).collect();
    bytes.resize(room, 0);
    File::options().write(true).open("/proc/self/mem")?.write_all_at(&bytes, start)
}

/// Fields 48 and 49 of proc_pid_stat(5), `arg_start` and `arg_end`.
fn argument_area(stat: &[u8]) -> Option<(u64, u64)> {
    let after_name = stat.rsplit(|byte| *byte == b')').next()?;
    let mut fields = str::from_utf8(after_name).ok()?.split_ascii_whitespace().skip(48 - 3);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_read_behind_a_name_with_parentheses() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) b) (c)) S {}\n", fields.join(" "));
        assert_eq!(argument_area(stat.as_bytes()), Some((48, 49)));
        assert_eq!(argument_area(b"7 (x) S 1 2"), None);
    }
}
