//! Names of directories: any bytes in the tree, text in the core.
//!
//! Linux takes every byte but `/`, NUL and newline in a cgroup's name. The
//! core's names are text, so a byte that is no UTF-8 is written as one of 128
//! private characters; the bytes of such a character, should somebody use one,
//! are written that way too. So every name has one text, and another name has
//! another.

use alloc::string::String;
use alloc::vec::Vec;
use cgrove_core::{Errno, NAME_MAX};

/// What a byte is added to: the characters of bytes 0x80 to 0xff.
const PRIVATE: u32 = 0x0010_fe00;

fn private(byte: u8) -> char {
    char::from_u32(PRIVATE + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn byte(private: char) -> Option<u8> {
    u8::try_from(u32::from(private).checked_sub(PRIVATE)?).ok().filter(|byte| *byte >= 0x80)
}

/// The text for a name.
#[must_use]
pub fn to_text(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    let mut bytes = [0; 4];
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match byte(c) {
                None => text.push(c),
                Some(_) => {
                    text.extend(c.encode_utf8(&mut bytes).bytes().map(private));
                }
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| private(*byte)));
    }
    text
}

/// The name behind a text, or behind a path of such texts.
#[must_use]
pub fn from_text(text: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = [0; 4];
    for c in text.chars() {
        match byte(c) {
            Some(byte) => name.push(byte),
            None => name.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes()),
        }
    }
    name
}

/// What a single name meets before anything is looked up. `.` and `..` are for
/// the caller.
///
/// # Errors
/// ENOENT if it is empty or has a `/`, EINVAL if it has a NUL, ENAMETOOLONG if
/// no path can hold it.
pub(crate) fn check(name: &[u8]) -> Result<(), Errno> {
    if name.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if name.is_empty() || name.contains(&b'/') { Err(Errno::ENOENT) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_text() {
        let names: [&[u8]; 6] =
            [b"plain", b"\xff\xfe", "gr\u{fc}n".as_bytes(), b"a\xc3", b"\xc3(", b"\xed\xa0\x80"];
        for name in names {
            assert_eq!(from_text(&to_text(name)), name, "{}", name.escape_ascii());
        }
        let one = to_text(b"\xff");
        let other = to_text(one.as_bytes());
        assert_ne!(one, other, "the character that stands for a byte is not that byte");
        assert_eq!(from_text(&other), one.as_bytes());
    }
}
