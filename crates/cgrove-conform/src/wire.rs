//! What host and guest say to each other over the virtual machine's serial port.
//!
//! The host sends `case LENGTH MODE\n` and that many bytes of case language (one case), `run WORD…\n`
//! with a command line, or `quit\n`.
//! The guest sends lines: `hello RELEASE`, then per case `begin NAME`, an `outcome TEXT` per step
//! and `end`, or `broken WHY` instead of `end` when it cannot go on. In mode `each` every line is
//! sent at once, so that the host knows which step hangs; in mode `batch` a case's lines go together.

use std::io::{self, BufRead, Read, Write};

use crate::case::{Case, Outcome};
use crate::lang;
use crate::transcript::{parse_outcome, print_outcome};

/// The name of the port, by which the guest finds it.
pub const PORT: &str = "cgrove";

/// When outcomes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each as it comes.
    Each,
    /// All of a case at its end.
    Batch,
}

/// What the host asks for.
#[derive(Debug)]
pub enum Request {
    /// Play this case.
    Play(Box<Case>, Mode),
    /// Run this command line to its end.
    Run(Vec<String>),
    /// Power off.
    Quit,
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is up; its kernel's release.
    Hello(String),
    /// It begins this case.
    Begin(String),
    /// A step's outcome.
    Outcome(Outcome),
    /// The case is over and cleaned up.
    End,
    /// A command line is over.
    Ran(Ran),
    /// It cannot go on.
    Broken(String),
}

/// What came of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status, or 128 and the signal.
    pub status: i32,
    /// What it printed.
    pub out: String,
    /// What it said on standard error.
    pub err: String,
}

/// Text as one word that is never empty.
fn word(text: &str) -> String {
    format!("={}", lang::escape(text).replace(' ', "\\x20"))
}

fn unword(word: &str) -> Result<String, String> {
    lang::unescape(word.strip_prefix('=').ok_or("not a word")?)
}

/// Prints a case as the guest reads it: the same language, on its own.
#[must_use]
pub fn print_case(case: &Case) -> String {
    let mut out = format!("case {}\n", case.name);
    if case.options.smp {
        out.push_str("option smp\n");
    }
    for name in &case.options.mount {
        out.push_str(&format!("option mount {name}\n"));
    }
    for step in &case.steps {
        out.push_str(&format!("{step}\n"));
    }
    out
}

/// Sends a request.
///
/// # Errors
///
/// Those of the stream.
pub fn send_request(to: &mut impl Write, request: &Request) -> io::Result<()> {
    match request {
        Request::Play(case, mode) => {
            let text = print_case(case);
            let mode = match mode {
                Mode::Each => "each",
                Mode::Batch => "batch",
            };
            to.write_all(format!("case {} {mode}\n{text}", text.len()).as_bytes())?;
        }
        Request::Run(words) => {
            let words: Vec<String> = words.iter().map(|it| word(it)).collect();
            to.write_all(format!("run {}\n", words.join(" ")).as_bytes())?;
        }
        Request::Quit => to.write_all(b"quit\n")?,
    }
    to.flush()
}

fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// Waits for a request.
///
/// # Errors
///
/// Those of the stream, and what is malformed.
pub fn receive_request(from: &mut impl BufRead) -> io::Result<Request> {
    let mut head = String::new();
    if from.read_line(&mut head)? == 0 {
        return Ok(Request::Quit);
    }
    let words: Vec<&str> = head.split_whitespace().collect();
    let (length, mode) = match words.as_slice() {
        ["quit"] => return Ok(Request::Quit),
        ["run", words @ ..] => {
            let words: Result<Vec<String>, String> = words.iter().map(|it| unword(it)).collect();
            return words.map(Request::Run).map_err(malformed);
        }
        ["case", length, "each"] => (length, Mode::Each),
        ["case", length, "batch"] => (length, Mode::Batch),
        _ => return Err(malformed(head)),
    };
    let length: u64 = length.parse().map_err(malformed)?;
    let mut text = String::new();
    from.take(length).read_to_string(&mut text)?;
    let mut cases = lang::parse(&text).map_err(malformed)?;
    match (cases.pop(), cases.is_empty()) {
        (Some(case), true) => Ok(Request::Play(Box::new(case), mode)),
        _ => Err(malformed("not one case")),
    }
}

/// The line of a reply.
#[must_use]
pub fn print_reply(reply: &Reply) -> String {
    match reply {
        Reply::Hello(release) => format!("hello {release}\n"),
        Reply::Begin(name) => format!("begin {name}\n"),
        Reply::Outcome(outcome) => {
            format!("outcome {}\n", lang::escape(&print_outcome(outcome).join("\n")))
        }
        Reply::End => "end\n".into(),
        Reply::Ran(Ran { status, out, err }) => {
            format!("ran {status} {} {}\n", word(out), word(err))
        }
        Reply::Broken(why) => format!("broken {}\n", lang::escape(why)),
    }
}

/// Reads a reply's line.
///
/// # Errors
///
/// What is malformed.
pub fn parse_reply(line: &str) -> Result<Reply, String> {
    let line = line.trim_end_matches('\n');
    let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
    Ok(match head {
        "hello" => Reply::Hello(rest.to_owned()),
        "begin" => Reply::Begin(rest.to_owned()),
        "outcome" => {
            let text = lang::unescape(rest)?;
            Reply::Outcome(parse_outcome(&text.split('\n').collect::<Vec<_>>())?)
        }
        "end" => Reply::End,
        "ran" => match rest.split(' ').collect::<Vec<_>>().as_slice() {
            [status, out, err] => Reply::Ran(Ran {
                status: status.parse().map_err(|_| format!("not a status: {status}"))?,
                out: unword(out)?,
                err: unword(err)?,
            }),
            _ => return Err(format!("not a reply: {line}")),
        },
        "broken" => Reply::Broken(lang::unescape(rest)?),
        _ => return Err(format!("not a reply: {line}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_arrives_as_it_was_sent() {
        let text = "case a\noption smp\noption mount nsdelegate\nmkdir a\nby p as 7 write a f \"x\\n$p\"\n";
        let case = lang::parse(text).expect("good").remove(0);
        let mut bytes = Vec::new();
        send_request(&mut bytes, &Request::Play(Box::new(case.clone()), Mode::Batch))
            .expect("a vector takes all");
        match receive_request(&mut bytes.as_slice()).expect("well-formed") {
            Request::Play(got, Mode::Batch) => assert_eq!(*got, case),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_line_and_what_came_of_it_arrive_as_sent() {
        let words = ["/init", "", "a b", "\n=\\"].map(str::to_owned).to_vec();
        let mut bytes = Vec::new();
        send_request(&mut bytes, &Request::Run(words.clone())).expect("a vector takes all");
        match receive_request(&mut bytes.as_slice()).expect("well-formed") {
            Request::Run(got) => assert_eq!(got, words),
            other => panic!("{other:?}"),
        }
        let ran = Reply::Ran(Ran { status: 137, out: String::new(), err: "a b\n".into() });
        assert_eq!(parse_reply(&print_reply(&ran)), Ok(ran));
    }

    #[test]
    fn a_reply_is_one_line() {
        let reply = Reply::Outcome(Outcome::Text("a\nb\\\n".into()));
        let line = print_reply(&reply);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(parse_reply(&line), Ok(reply));
    }
}
