//! Words of a line: how junk bytes, long runs and task ids are written so that a line stays a line.

use std::fmt;

use crate::case::{Piece, Text};

/// Repeats beyond this are a mistake in a case rather than a test: the kernel takes a page at most.
const LONGEST: usize = 1 << 20;

/// Splits a line into words.
pub(super) fn words(line: &str) -> Result<Vec<Text>, String> {
    let mut chars = line.char_indices().peekable();
    let mut out = Vec::new();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None => return Ok(out),
            Some((_, '#')) => return Ok(out),
            Some(_) => out.push(word(&mut chars)?),
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::CharIndices<'a>>;

fn word(chars: &mut Chars<'_>) -> Result<Text, String> {
    let mut pieces = Vec::new();
    while let Some(&(_, c)) = chars.peek() {
        if c.is_whitespace() {
            break;
        }
        if c == '"' {
            chars.next();
            let mut inside = quoted(chars)?;
            if chars.next_if(|(_, c)| *c == '*').is_some() {
                let times = number(chars)?;
                let [Piece::Bytes(bytes)] = inside.as_slice() else {
                    return Err("only plain bytes can be repeated".into());
                };
                if bytes.len().saturating_mul(times) > LONGEST {
                    return Err(format!("longer than {LONGEST} bytes"));
                }
                inside = vec![Piece::Repeat(bytes.clone(), times)];
            }
            pieces.append(&mut inside);
        } else if c == '$' {
            chars.next();
            pieces.push(Piece::Task(name(chars)?));
        } else {
            chars.next();
            push_char(&mut pieces, c);
        }
    }
    Ok(Text(pieces))
}

fn quoted(chars: &mut Chars<'_>) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    loop {
        let (_, c) = chars.next().ok_or("a quoted string does not end")?;
        match c {
            '"' => {
                if pieces.is_empty() {
                    pieces.push(Piece::Bytes(Vec::new()));
                }
                return Ok(pieces);
            }
            '$' => pieces.push(Piece::Task(name(chars)?)),
            '\\' => {
                let byte = escaped(chars)?;
                push_byte(&mut pieces, byte);
            }
            c => push_char(&mut pieces, c),
        }
    }
}

fn escaped(chars: &mut Chars<'_>) -> Result<u8, String> {
    let (_, c) = chars.next().ok_or("a backslash at the end")?;
    Ok(match c {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        '0' => 0,
        '\\' | '"' | '$' => c as u8,
        'x' => {
            let mut digit = || {
                chars
                    .next()
                    .and_then(|(_, c)| c.to_digit(16))
                    .ok_or("\\x needs two hexadecimal digits")
            };
            let high = digit()?;
            let low = digit()?;
            u8::try_from(high * 16 + low).map_err(|e| e.to_string())?
        }
        other => return Err(format!("unknown escape \\{other}")),
    })
}

fn name(chars: &mut Chars<'_>) -> Result<String, String> {
    let mut out = String::new();
    while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '_') {
        out.push(c);
    }
    if out.is_empty() {
        return Err("$ needs the name of a task".into());
    }
    Ok(out)
}

fn number(chars: &mut Chars<'_>) -> Result<usize, String> {
    let mut out = String::new();
    while let Some((_, c)) = chars.next_if(|(_, c)| c.is_ascii_digit()) {
        out.push(c);
    }
    out.parse().map_err(|_| "* needs a number".into())
}

fn push_byte(pieces: &mut Vec<Piece>, byte: u8) {
    if let Some(Piece::Bytes(bytes)) = pieces.last_mut() {
        bytes.push(byte);
    } else {
        pieces.push(Piece::Bytes(vec![byte]));
    }
}

fn push_char(pieces: &mut Vec<Piece>, c: char) {
    let mut buffer = [0; 4];
    for byte in c.encode_utf8(&mut buffer).bytes() {
        push_byte(pieces, byte);
    }
}

/// Bytes that may stand in a bare word.
fn bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./+:=,@<>%*".contains(&byte)
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [Piece::Bytes(bytes)] if !bytes.is_empty() && bytes.iter().all(|b| bare(*b)) => {
                return f.write_str(&String::from_utf8_lossy(bytes));
            }
            [Piece::Task(name)] => return write!(f, "${name}"),
            _ => {}
        }
        let mut open = false;
        for piece in &self.0 {
            match piece {
                Piece::Repeat(bytes, times) => {
                    if open {
                        f.write_str("\"")?;
                    }
                    write!(f, "\"{}\"*{times}", Quoted(bytes))?;
                    open = false;
                }
                inside => {
                    if !open {
                        f.write_str("\"")?;
                    }
                    open = true;
                    match inside {
                        Piece::Task(name) => write!(f, "${name}")?,
                        Piece::Bytes(bytes) | Piece::Repeat(bytes, _) => {
                            write!(f, "{}", Quoted(bytes))?
                        }
                    }
                }
            }
        }
        if open {
            f.write_str("\"")
        } else if self.0.is_empty() {
            f.write_str("\"\"")
        } else {
            Ok(())
        }
    }
}

struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\n' => f.write_str("\\n")?,
                b'\t' => f.write_str("\\t")?,
                0 => f.write_str("\\x00")?,
                b'"' | b'\\' | b'$' => write!(f, "\\{}", byte as char)?,
                b' '..=b'~' => write!(f, "{}", byte as char)?,
                other => write!(f, "\\x{other:02x}")?,
            }
        }
        Ok(())
    }
}

/// One line out of many: newlines, backslashes, unprintable bytes and a space at the end escaped.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(byte as char),
            other => out.push_str(&format!("\\x{other:02x}")),
        }
    }
    if out.ends_with(' ') {
        out.pop();
        out.push_str("\\x20");
    }
    out
}

/// The reverse of [`escape`].
///
/// # Errors
///
/// What is malformed.
pub fn unescape(text: &str) -> Result<String, String> {
    let mut chars = text.char_indices().peekable();
    let mut out = Vec::new();
    while let Some((_, c)) = chars.next() {
        if c == '\\' {
            out.push(escaped(&mut chars)?);
        } else {
            let mut buffer = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        }
    }
    String::from_utf8(out).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Text {
        let mut words = words(line).expect("a good line");
        assert_eq!(words.len(), 1, "{line}");
        words.remove(0)
    }

    #[test]
    fn bytes_of_every_kind_survive_printing() {
        for line in [
            "cgroup.procs",
            "+pids",
            "$p",
            r#""""#,
            r#""+pids -cpu\n""#,
            r#""x"*4097"\n""#,
            r#""\x00\xff\"\\\$""#,
            r#""a $p b""#,
        ] {
            let text = one(line);
            assert_eq!(text.to_string(), line);
            assert_eq!(one(&text.to_string()), text);
        }
    }

    #[test]
    fn repeats_and_ids_are_filled_in() {
        let bytes = one(r#""ab"*3"$p.""#).bytes(|name| (name == "p").then_some(17));
        assert_eq!(bytes, Ok(b"ababab17.".to_vec()));
        assert_eq!(one("$q").bytes(|_| None), Err("q".to_owned()));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for line in
            [r#""open"#, r#""\q""#, r#""\x1""#, "$", r#""x"*"#, r#""$p"*2"#, r#""x"*1048577"#]
        {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn one_line_and_back() {
        let text = "a\nb\\c\t\"d\" $p \u{1}é\n ";
        assert_eq!(unescape(&escape(text)).as_deref(), Ok(text));
        assert!(!escape(text).contains('\n'));
    }
}
