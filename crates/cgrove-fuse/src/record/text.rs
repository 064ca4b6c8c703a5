//! Words and texts as the case language has them (`cgrove-conform`, `lang/word.rs`, `transcript.rs`),
//! which reads them back.

/// A word: bare where that is possible.
pub(super) fn word(bytes: &[u8]) -> String {
    let bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./+:=,@<>%*".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(bare) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'"' | b'\\' | b'$' => out.extend(['\\', byte as char]),
            b' '..=b'~' => out.push(byte as char),
            other => out.push_str(&format!("\\x{other:02x}")),
        }
    }
    out.push('"');
    out
}

/// The lines of an outcome that is a text.
pub(super) fn lines(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["= empty".into()];
    }
    let body = text.strip_suffix('\n');
    let mut lines: Vec<String> = body
        .unwrap_or(text)
        .split('\n')
        .map(|line| format!("| {}", escape(line)).trim_end().to_owned())
        .collect();
    if let (None, Some(last)) = (body, lines.last_mut()) {
        last.replace_range(..1, "~");
    }
    lines
}

fn escape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for &byte in line.as_bytes() {
        match byte {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bare_or_quoted() {
        assert_eq!(word(b"cgroup.procs"), "cgroup.procs");
        assert_eq!(word(b"+pids -cpu\n"), "\"+pids -cpu\\n\"");
        assert_eq!(word(b""), "\"\"");
        assert_eq!(word(b"$a\"\\\xff"), "\"\\$a\\\"\\\\\\xff\"");
    }

    #[test]
    fn texts_are_lines() {
        assert_eq!(lines(""), ["= empty"]);
        assert_eq!(lines("a 1\n\nb \n"), ["| a 1", "|", "| b\\x20"]);
        assert_eq!(lines("max"), ["~ max"]);
    }
}
