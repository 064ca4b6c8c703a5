//! Numbers, words and lists as the kernel reads them.
//!
//! A file's handler is given what was written up to the first NUL, and picks
//! one of a handful of parsers that differ in what they let pass: `kstrtoull`
//! and its kin want a whole number and allow one newline, `memparse` stops at
//! the first thing it does not know, `sscanf` skips blanks and ignores the
//! rest. What a file accepts follows from which one it uses, down to the
//! errno, so they are all here and each under its kernel name.
//!
//! Blanks are those of the kernel's table of characters, in which 0xa0 is one.

use crate::mutant::{Mutant, broken};
use alloc::vec::Vec;
use cgrove_core::controller::id_mask::IdMask;
use cgrove_core::{Errno, Limit};

/// `isspace` of `lib/ctype.c`.
#[must_use]
pub const fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

/// What a handler sees of the bytes that were written: up to the first NUL.
#[must_use]
pub fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

/// Without the blanks in front (`skip_spaces`).
#[must_use]
pub fn skip_spaces(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_space(**byte)).count();
    &text[blanks..]
}

/// Without the blanks at both ends (`strstrip`).
#[must_use]
pub fn strstrip(text: &[u8]) -> &[u8] {
    let text = skip_spaces(text);
    let end = text.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    &text[..end]
}

/// A run of digits, and what is behind it.
struct Digits<'a> {
    value: u64,
    /// How many digits there were.
    len: usize,
    overflow: bool,
    rest: &'a [u8],
}

/// `_parse_integer_fixup_radix` for base 0: `0x` before a hexadecimal digit is
/// 16, any other `0` in front is 8, all else 10.
fn radix(text: &[u8]) -> (u64, &[u8]) {
    match text {
        _ if broken(Mutant::DecimalOnly) => (10, text),
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (16, &text[2..]),
        [b'0', ..] => (8, text),
        _ => (10, text),
    }
}

/// `_parse_integer`: a value that does not fit reads as the largest.
fn digits(text: &[u8], base: u64) -> Digits<'_> {
    let (mut value, mut len, mut overflow) = (0u64, 0, false);
    for byte in text {
        let digit = match byte {
            b'0'..=b'9' => u64::from(byte - b'0'),
            b'a'..=b'f' => u64::from(byte - b'a') + 10,
            b'A'..=b'F' => u64::from(byte - b'A') + 10,
            _ => break,
        };
        if digit >= base {
            break;
        }
        len += 1;
        value = value.checked_mul(base).and_then(|v| v.checked_add(digit)).unwrap_or_else(|| {
            overflow = true;
            u64::MAX
        });
    }
    Digits { value, len, overflow, rest: &text[len..] }
}

/// `_kstrtoull`: digits, one newline if any, and the end.
fn whole(text: &[u8]) -> Result<u64, Errno> {
    let (base, text) = radix(text);
    let number = digits(text, base);
    if number.overflow {
        return Err(Errno::ERANGE);
    }
    match (number.len, number.rest) {
        (1.., _) if broken(Mutant::JunkOverlooked) => Ok(number.value),
        (1.., b"" | b"\n") => Ok(number.value),
        _ => Err(Errno::EINVAL),
    }
}

/// An unsigned number (`kstrtoull`, base 0): a `+` may stand in front.
///
/// # Errors
/// ERANGE beyond 64 bits, whatever follows; EINVAL for all that is no number.
pub fn kstrtoull(text: &[u8]) -> Result<u64, Errno> {
    whole(text.strip_prefix(b"+").unwrap_or(text))
}

/// A signed number (`kstrtoll`, base 0).
///
/// # Errors
/// As [`kstrtoull`].
pub fn kstrtoll(text: &[u8]) -> Result<i64, Errno> {
    if let Some(magnitude) = text.strip_prefix(b"-") {
        return 0i64.checked_sub_unsigned(whole(magnitude)?).ok_or(Errno::ERANGE);
    }
    i64::try_from(kstrtoull(text)?).map_err(|_| Errno::ERANGE)
}

/// A signed number of 32 bits (`kstrtoint`, base 0).
///
/// # Errors
/// As [`kstrtoull`].
pub fn kstrtoint(text: &[u8]) -> Result<i32, Errno> {
    i32::try_from(kstrtoll(text)?).map_err(|_| Errno::ERANGE)
}

/// A number of bytes with a suffix of `KMGTPE` if any (`memparse`), and what is
/// behind it. No digits are 0; what does not fit is the largest number.
#[must_use]
pub fn memparse(text: &[u8]) -> (u64, &[u8]) {
    let (base, behind) = radix(text);
    let number = digits(behind, base);
    let suffix = number.rest.first().map(u8::to_ascii_uppercase);
    let power = match suffix.and_then(|suffix| b"KMGTPE".iter().position(|s| *s == suffix)) {
        Some(index) if number.len > 0 => 10 * (index + 1),
        _ => return (number.value, number.rest),
    };
    let scaled = number.value.saturating_mul(1 << power);
    (scaled, &number.rest[1..])
}

/// `max` or a number of bytes (`page_counter_memparse`), blanks cut by the
/// caller. Blanks alone are 0.
///
/// # Errors
/// EINVAL for what is behind the number.
pub fn bytes_or_max(text: &[u8]) -> Result<Limit, Errno> {
    if text == b"max" {
        return Ok(Limit::Max);
    }
    match memparse(text) {
        (bytes, b"") => Ok(Limit::N(bytes)),
        _ => Err(Errno::EINVAL),
    }
}

/// `%llu` of `sscanf`: blanks, then decimal digits; the rest is left in `text`.
/// `None` if there are no digits, and nothing but blanks is taken then.
pub fn scan_u64(text: &mut &[u8]) -> Option<u64> {
    *text = skip_spaces(text);
    let number = digits(text, 10);
    if number.len == 0 {
        return None;
    }
    *text = number.rest;
    Some(number.value)
}

/// `%u` of `sscanf`: as [`scan_u64`], cut to 32 bits.
pub fn scan_u32(text: &mut &[u8]) -> Option<u32> {
    scan_u64(text).map(|number| (number & u64::from(u32::MAX)) as u32)
}

/// `%Ns` of `sscanf`: blanks, then at most `width` bytes up to the next blank.
/// Empty where only blanks are left, `None` where nothing is.
pub fn scan_word<'a>(text: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    if text.is_empty() {
        return None;
    }
    let from = skip_spaces(text);
    let len = from.iter().take(width).take_while(|byte| !is_space(**byte)).count();
    let (word, rest) = from.split_at(len);
    *text = rest;
    Some(word)
}

/// `%d` of `match_token` with `match_int`: a sign, a number of any base, the
/// end.
///
/// # Errors
/// EINVAL for anything else and beyond 32 bits.
pub fn match_int(text: &[u8]) -> Result<i32, Errno> {
    /// What `match_int` copies, its NUL included.
    const BUFFER: usize = 24;
    let (negative, magnitude) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (base, behind) = radix(magnitude);
    let number = digits(behind, base);
    // A sign alone is 0 there, and what does not fit wraps.
    if number.len == 0 && !negative || !number.rest.is_empty() || text.len() >= BUFFER {
        return Err(Errno::EINVAL);
    }
    let value = number.value.cast_signed();
    i32::try_from(if negative { value.wrapping_neg() } else { value }).map_err(|_| Errno::EINVAL)
}

/// The words of a list (`strsep` with empty ones skipped).
pub fn words<'a>(text: &'a [u8], separators: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    text.split(move |byte| separators.contains(byte)).filter(|word| !word.is_empty())
}

/// Text up to the first blank (` `), and what is behind it if there is one
/// (`strsep`).
#[must_use]
pub fn split_word(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|byte| *byte == b' ') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// A list of numbers below `bits` (`bitmap_parselist`): `0-3,8`, `all`, `N` for
/// the last number, `0-7:1/2` for the first of every two. Blanks separate like
/// commas do, empty parts are skipped, a newline ends it. No text is no numbers.
///
/// # Errors
/// In the order of the text: EINVAL for what is no region, EOVERFLOW for a
/// number beyond 32 bits, ERANGE for one that is not below `bits`.
pub fn id_list(text: &[u8], bits: u32) -> Result<IdMask, Errno> {
    let separates = |byte: u8| is_space(byte) || byte == b',';
    let ends = |rest: &[u8]| rest.first().is_none_or(|byte| separates(*byte));
    let last = bits.wrapping_sub(1);
    let mut mask = Vec::new();
    let mut rest = text;
    loop {
        let skipped = rest.iter().take_while(|byte| separates(**byte)).count();
        rest = &rest[skipped..];
        if rest.is_empty() {
            break;
        }
        let (start, end);
        if rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case(b"all")) {
            (start, end, rest) = (0, last, &rest[3..]);
        } else {
            start = list_number(&mut rest, last)?;
            end = match rest {
                _ if ends(rest) => start,
                [b'-', behind @ ..] => {
                    rest = behind;
                    list_number(&mut rest, last)?
                }
                _ => return Err(Errno::EINVAL),
            };
        }
        let (mut used, mut group) = (end.wrapping_add(1), end.wrapping_add(1));
        let plain = ends(rest);
        if !plain {
            rest = rest.strip_prefix(b":").ok_or(Errno::EINVAL)?;
            used = list_number(&mut rest, last)?;
            rest = rest.strip_prefix(b"/").ok_or(Errno::EINVAL)?;
            group = list_number(&mut rest, last)?;
        }
        if start > end || group == 0 || used > group {
            return Err(Errno::EINVAL);
        }
        if end >= bits {
            return Err(Errno::ERANGE);
        }
        mask.push((start, end, used, group));
        // A newline right behind a region ends the list, one elsewhere is a
        // blank. Nothing need separate a group from the next region.
        if plain && rest.first() == Some(&b'\n') {
            break;
        }
    }
    let ids = mask.into_iter().flat_map(|(start, end, used, group)| {
        (start..=end).filter(move |id| (id - start) % group < used)
    });
    Ok(ids.collect())
}

/// `bitmap_getnum`.
fn list_number(text: &mut &[u8], last: u32) -> Result<u32, Errno> {
    if let Some(rest) = text.strip_prefix(b"N") {
        *text = rest;
        return Ok(last);
    }
    let number = digits(text, 10);
    if number.len == 0 {
        return Err(Errno::EINVAL);
    }
    *text = number.rest;
    u32::try_from(number.value).map_err(|_| Errno::EOVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn numbers_are_read_as_kstrto_reads_them() {
        let good: [(&[u8], u64); 9] = [
            (b"0", 0),
            (b"00", 0),
            (b"7\n", 7),
            (b"+7", 7),
            (b"010", 8),
            (b"0x1F", 31),
            (b"0X1f", 31),
            (b"18446744073709551615", u64::MAX),
            (b"0xffffffffffffffff", u64::MAX),
        ];
        for (text, value) in good {
            assert_eq!(kstrtoull(text), Ok(value), "{}", text.escape_ascii());
        }
        let bad: [&[u8]; 17] = [
            b"", b"\n", b"+", b"-", b"-1", b"++1", b"+-1", b" 1", b"1 ", b"1\n\n", b"1x", b"0x",
            b"0xg", b"08", b"0b1", b"1.5", b"\x80",
        ];
        for text in bad {
            assert_eq!(kstrtoull(text), Err(Errno::EINVAL), "{}", text.escape_ascii());
        }
        assert_eq!(kstrtoull(b"18446744073709551616"), Err(Errno::ERANGE));
        assert_eq!(kstrtoull(b"18446744073709551616x"), Err(Errno::ERANGE), "before the rest");
    }

    #[test]
    fn signed_numbers_end_at_their_own_bounds() {
        assert_eq!(kstrtoll(b"-0"), Ok(0));
        assert_eq!(kstrtoll(b"-0x10"), Ok(-16));
        assert_eq!(kstrtoll(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(kstrtoll(b"-9223372036854775809"), Err(Errno::ERANGE));
        assert_eq!(kstrtoll(b"9223372036854775808"), Err(Errno::ERANGE));
        assert_eq!(kstrtoll(b"-+5"), Err(Errno::EINVAL));
        assert_eq!(kstrtoll(b"--5"), Err(Errno::EINVAL));
        assert_eq!(kstrtoint(b"2147483647"), Ok(i32::MAX));
        assert_eq!(kstrtoint(b"2147483648"), Err(Errno::ERANGE));
        assert_eq!(kstrtoint(b"-2147483648"), Ok(i32::MIN));
        assert_eq!(kstrtoint(b"-2147483649"), Err(Errno::ERANGE));
    }

    #[test]
    fn bytes_have_suffixes_and_saturate() {
        for (text, value, rest) in [
            (b"1K".as_slice(), 1024, b"".as_slice()),
            (b"0x10k", 16384, b""),
            (b"3M ", 3 << 20, b" "),
            (b"2g", 2 << 30, b""),
            (b"1T", 1 << 40, b""),
            (b"1P", 1 << 50, b""),
            (b"1E", 1 << 60, b""),
            (b"16E", u64::MAX, b""),
            (b"1KB", 1024, b"B"),
            (b"K", 0, b"K"),
            (b"-1", 0, b"-1"),
            (b"99999999999999999999999", u64::MAX, b""),
        ] {
            assert_eq!(memparse(text), (value, rest), "{}", text.escape_ascii());
        }
        assert_eq!(bytes_or_max(b""), Ok(Limit::N(0)));
        assert_eq!(bytes_or_max(b"max"), Ok(Limit::Max));
        for bad in [b"maxx".as_slice(), b"MAX", b"-1", b"x", b"1 K", b"1.5M"] {
            assert_eq!(bytes_or_max(bad), Err(Errno::EINVAL), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn scanning_skips_blanks_and_leaves_the_rest() {
        let mut text = b" \t12x".as_slice();
        assert_eq!((scan_u64(&mut text), text), (Some(12), b"x".as_slice()));
        assert_eq!((scan_u64(&mut text), text), (None, b"x".as_slice()));
        let mut text = b"4294967396".as_slice();
        assert_eq!(scan_u32(&mut text), Some(100), "cut to 32 bits");
        let mut text = b"  abcdef gh  ".as_slice();
        assert_eq!(scan_word(&mut text, 4), Some(b"abcd".as_slice()));
        assert_eq!(scan_word(&mut text, 4), Some(b"ef".as_slice()));
        assert_eq!(scan_word(&mut text, 4), Some(b"gh".as_slice()));
        assert_eq!(scan_word(&mut text, 4), Some(b"".as_slice()), "blanks alone");
        assert_eq!(scan_word(&mut text, 4), None);
    }

    #[test]
    fn options_take_numbers_of_32_bits() {
        assert_eq!(match_int(b"0x10"), Ok(16));
        assert_eq!(match_int(b"-5"), Ok(-5));
        assert_eq!(match_int(b"-"), Ok(0));
        assert_eq!(match_int(b"99999999999999999999"), Ok(-1));
        for bad in [b"".as_slice(), b"+5", b"5x", b"2147483648"] {
            assert_eq!(match_int(bad), Err(Errno::EINVAL), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn lists_of_numbers() {
        for (text, list) in [
            (b"".as_slice(), ""),
            (b"\n", ""),
            (b"0-1", "0-1"),
            (b"0,,1", "0-1"),
            (b"0 1", "0-1"),
            (b" ,3, 1-2", "1-3"),
            (b"all", "0-7"),
            (b"ALL", "0-7"),
            (b"N", "7"),
            (b"2-N", "2-7"),
            (b"0-7:1/2", "0,2,4,6"),
            (b"1-6:2/3", "1-2,4-5"),
            (b"0-3:0/2", ""),
            (b"0\n7", "0"),
            (b"0 \n7", "0,7"),
            (b"0-1:1/2\n7", "0,7"),
        ] {
            let read = id_list(text, 8).map(|mask| mask.to_string());
            assert_eq!(read, Ok(list.into()), "{}", text.escape_ascii());
        }
        for (text, errno) in [
            (b"x".as_slice(), Errno::EINVAL),
            (b"1-0", Errno::EINVAL),
            (b"-1", Errno::EINVAL),
            (b"0-", Errno::EINVAL),
            (b"0x1", Errno::EINVAL),
            (b"0-3:2", Errno::EINVAL),
            (b"0-3:1/0", Errno::EINVAL),
            (b"0-3:3/2", Errno::EINVAL),
            (b"8", Errno::ERANGE),
            (b"99,x", Errno::ERANGE),
            (b"x,99", Errno::EINVAL),
            (b"4294967295", Errno::EINVAL),
            (b"4294967294", Errno::ERANGE),
            (b"4294967296", Errno::EOVERFLOW),
        ] {
            assert_eq!(id_list(text, 8).unwrap_err(), errno, "{}", text.escape_ascii());
        }
    }
}
