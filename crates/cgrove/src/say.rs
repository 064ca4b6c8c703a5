//! What cgrove says in its own name.
//!
//! Standard error belongs to the command as much as to us, so a message is one line, written in
//! one piece, and a stream that cannot take it is no reason to fail.

use std::fmt::Display;

use cgrove_host::FAILED;

use crate::stream;

/// One line on standard error, `cgrove: ` in front. Line breaks and other control characters, which
/// a hostile command line may hold, are made visible.
pub fn line(text: &dyn Display) {
    let mut line = String::new();
    for c in text.to_string().chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    let line = format!("cgrove: {line}\n");
    let _ = stream::write_all(stream::stderr(), line.as_bytes());
}

/// An error of cgrove itself; returns its exit status.
pub fn failed(error: &dyn Display) -> i32 {
    line(error);
    FAILED
}

/// Text that was asked for, on standard output; returns the exit status.
pub fn out(text: &str) -> i32 {
    bytes(text.as_bytes())
}

/// The same for what need not be text.
pub fn bytes(bytes: &[u8]) -> i32 {
    match stream::write_all(stream::stdout(), bytes) {
        Ok(()) => 0,
        Err(error) => {
            failed(&format_args!("cannot write to standard output: {error}; check where it leads"))
        }
    }
}
