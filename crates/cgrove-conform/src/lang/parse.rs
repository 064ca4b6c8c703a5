//! From text to cases.

use thiserror::Error;

use super::word::words;
use crate::case::{Access, Act, Case, Piece, Place, Relation, Signal, Step, Text, Via};

/// A line that is no case language, by its number.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Reads all cases of a file.
///
/// # Errors
///
/// The first line that makes no sense, or a name used twice.
pub fn parse(text: &str) -> Result<Vec<Case>, ParseError> {
    let mut cases: Vec<Case> = Vec::new();
    let mut repeat: Option<(usize, usize)> = None;
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        last = index + 1;
        let fail = |what: String| ParseError { line: index + 1, what };
        let line = line.trim();
        let (head, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if head.is_empty() || head.starts_with('#') {
            continue;
        }
        if head == "case" {
            if repeat.is_some() {
                return Err(fail("repeat has no end".into()));
            }
            if rest.is_empty() || rest.contains(char::is_whitespace) {
                return Err(fail("a case needs a name of one word".into()));
            }
            if cases.iter().any(|c| c.name == rest) {
                return Err(fail(format!("there is a case {rest} already")));
            }
            cases.push(Case { name: rest.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().ok_or_else(|| fail("a step before the first case".into()))?;
        match head {
            "about" => case.about.push(rest.to_owned()),
            "defect" => case.defect = Some(rest.to_owned()),
            "option" => option(case, rest).map_err(fail)?,
            "repeat" if repeat.is_none() => {
                let times = rest.parse().map_err(|_| fail("repeat needs a number".into()))?;
                repeat = Some((case.steps.len(), times));
            }
            "repeat" => return Err(fail("repeat inside repeat".into())),
            "end" => {
                let (from, times) =
                    repeat.take().ok_or_else(|| fail("end without repeat".into()))?;
                let block = case.steps.split_off(from);
                for _ in 0..times {
                    case.steps.extend(block.iter().cloned());
                }
            }
            _ => case.steps.push(parse_step(line).map_err(fail)?),
        }
    }
    if repeat.is_some() {
        return Err(ParseError { line: last, what: "repeat has no end".into() });
    }
    Ok(cases)
}

fn option(case: &mut Case, rest: &str) -> Result<(), String> {
    match rest.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["smp"] => case.options.smp = true,
        ["mount", name] => case.options.mount.push((*name).to_owned()),
        _ => return Err(format!("unknown option {rest}")),
    }
    Ok(())
}

/// Reads one step.
///
/// # Errors
///
/// What is wrong with the line.
pub fn parse_step(line: &str) -> Result<Step, String> {
    let mut words = Words { list: words(line)?, next: 0 };
    let mut by = None;
    let mut uid = None;
    loop {
        let verb = words.bare("a verb")?;
        match verb.as_str() {
            "by" => by = Some(words.task()?),
            "as" => uid = Some(words.number()?),
            verb => {
                let act = act(verb, &mut words)?;
                words.finished()?;
                return Ok(Step { by, uid, act });
            }
        }
    }
}

struct Words {
    list: Vec<Text>,
    next: usize,
}

impl Words {
    fn left(&self) -> usize {
        self.list.len() - self.next
    }

    fn text(&mut self) -> Result<Text, String> {
        let text = self.list.get(self.next).ok_or("more words are needed")?;
        self.next += 1;
        Ok(text.clone())
    }

    /// A word with nothing special in it.
    fn bare(&mut self, what: &str) -> Result<String, String> {
        let text = self.list.get(self.next).ok_or_else(|| format!("{what} is missing"))?;
        self.next += 1;
        match text.0.as_slice() {
            [Piece::Bytes(bytes)] => String::from_utf8(bytes.clone()).map_err(|e| e.to_string()),
            _ => Err(format!("{text} is not {what}")),
        }
    }

    /// The name of a task or handle.
    fn task(&mut self) -> Result<String, String> {
        let name = self.bare("a name")?;
        let good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if good { Ok(name) } else { Err(format!("{name} is not a name")) }
    }

    fn number<N: std::str::FromStr>(&mut self) -> Result<N, String> {
        let word = self.bare("a number")?;
        word.parse().map_err(|_| format!("{word} is not a number"))
    }

    /// Whether the next word is this one, which is then taken.
    fn take(&mut self, word: &str) -> bool {
        let found =
            self.list.get(self.next).and_then(Text::known).as_deref() == Some(word.as_bytes());
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.take(word) { Ok(()) } else { Err(format!("`{word}` is missing")) }
    }

    fn optional(&mut self, present: bool) -> Result<Option<Text>, String> {
        if present { self.text().map(Some) } else { Ok(None) }
    }

    fn finished(&self) -> Result<(), String> {
        match self.list.get(self.next) {
            None => Ok(()),
            Some(text) => Err(format!("{text} is too much")),
        }
    }
}

fn act(verb: &str, w: &mut Words) -> Result<Act, String> {
    Ok(match verb {
        "mkdir" => Act::Mkdir { path: w.text()? },
        "rmdir" => Act::Rmdir { path: w.text()?, retry: w.take("retry") },
        "rename" => Act::Rename { from: w.text()?, to: w.text()? },
        "list" => Act::List { path: w.text()?, prefix: w.optional(w.left() > 0)? },
        "stat" => Act::Stat { path: w.text()?, file: w.optional(w.left() > 0)? },
        "chown" => {
            Act::Chown { path: w.text()?, file: w.optional(w.left() > 1)?, uid: w.number()? }
        }
        "chmod" => Act::Chmod {
            path: w.text()?,
            file: w.optional(w.left() > 1)?,
            mode: {
                let word = w.bare("a mode")?;
                u32::from_str_radix(&word, 8)
                    .map_err(|_| format!("{word} is not an octal number"))?
            },
        },
        "create" => Act::Create { path: w.text()?, file: w.text()? },
        "unlink" => Act::Unlink { path: w.text()?, file: w.text()? },
        "write" => Act::Write { path: w.text()?, file: w.text()?, text: w.text()? },
        "read" => {
            let (path, file) = (w.text()?, w.text()?);
            let mut keys = Vec::new();
            while w.left() > 0 {
                keys.push(w.text()?);
            }
            Act::Read { path, file, keys }
        }
        "shape" => Act::Shape { path: w.text()?, file: w.text()? },
        "compare" => Act::Compare {
            path: w.text()?,
            file: w.text()?,
            key: w.optional(w.left() > 2)?,
            relation: match w.bare("a relation")?.as_str() {
                "=" => Relation::Equal,
                "<" => Relation::Less,
                "<=" => Relation::LessOrEqual,
                ">" => Relation::Greater,
                ">=" => Relation::GreaterOrEqual,
                other => return Err(format!("{other} is not a relation")),
            },
            value: w.number()?,
        },
        "wait-for" => Act::WaitFor {
            path: w.text()?,
            file: w.text()?,
            key: w.optional(w.left() > 1)?,
            value: w.text()?,
        },
        "open" => Act::Open {
            path: w.text()?,
            file: w.text()?,
            access: match w.bare("r, w or rw")?.as_str() {
                "r" => Access::Read,
                "w" => Access::Write,
                "rw" => Access::Both,
                other => return Err(format!("{other} is none of r, w, rw")),
            },
            handle: {
                w.expect("as")?;
                w.task()?
            },
        },
        "opendir" => Act::OpenDir {
            path: w.text()?,
            handle: {
                w.expect("as")?;
                w.task()?
            },
        },
        "read-handle" => Act::ReadHandle { handle: w.task()? },
        "write-handle" => Act::WriteHandle { handle: w.task()?, text: w.text()? },
        "seek" => Act::Seek { handle: w.task()?, offset: w.number()? },
        "poll" => Act::Poll { handle: w.task()? },
        "wait-poll" => Act::WaitPoll { handle: w.task()? },
        "watch" => Act::Watch {
            path: w.text()?,
            file: w.text()?,
            handle: {
                w.expect("as")?;
                w.task()?
            },
        },
        "watched" => Act::Watched { handle: w.task()? },
        "close" => Act::Close { handle: w.task()? },
        "spawn" => spawn(w)?,
        "thread" => Act::Thread {
            task: w.task()?,
            of: {
                w.expect("of")?;
                w.task()?
            },
        },
        "exec" => Act::Exec { task: w.task()? },
        "exit" => Act::Exit { task: w.task()? },
        "exit-thread" => Act::ExitThread { task: w.task()? },
        "finish-exit" => Act::FinishExit { task: w.task()? },
        "kill" => Act::Kill {
            task: w.task()?,
            signal: match w.bare("a signal")?.as_str() {
                "KILL" => Signal::Kill,
                "TERM" => Signal::Term,
                "STOP" => Signal::Stop,
                "CONT" => Signal::Cont,
                other => return Err(format!("{other} is none of KILL, TERM, STOP, CONT")),
            },
            nowait: w.take("nowait"),
        },
        "await" => Act::Await { task: w.task()? },
        "reap" => Act::Reap { task: w.task()? },
        "state" => Act::State { task: w.task()? },
        "responds" => Act::Responds { task: w.task()? },
        "cgroup" => Act::Cgroup { task: w.task()? },
        "unshare" => Act::Unshare { task: w.task()? },
        "alloc" => Act::Alloc { task: w.task()?, bytes: w.number()? },
        "free" => Act::Free { task: w.task()? },
        "burn" => Act::Burn { task: w.task()?, milliseconds: w.number()? },
        "answer" => Act::Answer { task: w.task()? },
        other => return Err(format!("unknown verb {other}")),
    })
}

fn spawn(w: &mut Words) -> Result<Act, String> {
    let task = w.task()?;
    let place = if w.take("in") {
        let text = w.text()?;
        let handle = match text.0.as_slice() {
            [Piece::Bytes(bytes)] => bytes.strip_prefix(b"@").map(<[u8]>::to_vec),
            _ => None,
        };
        Some(match handle {
            Some(name) => Place::Handle(String::from_utf8(name).map_err(|e| e.to_string())?),
            None => Place::Path(text),
        })
    } else {
        None
    };
    let via = if w.take("via") {
        w.expect("procs")?;
        Via::Procs
    } else {
        Via::Clone
    };
    if via == Via::Procs && !matches!(place, Some(Place::Path(_))) {
        return Err("`via procs` needs a path".into());
    }
    Ok(Act::Spawn { task, place, via, holdable: w.take("holdable") })
}
