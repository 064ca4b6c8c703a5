//! The command line: parsed without side effects into what the rest of the program wants.
//!
//! Usage errors exit with 125, not with clap's 2, because every status below 125 belongs to the
//! command; and they are one line with a hint.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use cgrove_host::options::{BackendChoice, Feature, Requirement, RunOptions};
use cgrove_host::report::{Backend, Class};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::live::Live;

/// Names are directory names in a cgroup tree.
const NAME_MAX: usize = 255;
/// The kernel's own bound for pids.max.
const PIDS_MAX_LIMIT: u64 = 4 * 1024 * 1024;

/// What was asked for.
pub enum Command {
    /// `cgrove run`
    Run(Run),
    /// `cgrove doctor`
    Doctor {
        /// As JSON.
        json: bool,
    },
    /// `cgrove tree`, `ls`, `get`, `set`, `freeze`, `thaw`
    Live(Live),
}

/// `cgrove run`, resolved.
pub struct Run {
    /// For the supervisor.
    pub options: RunOptions,
    /// Where the report goes.
    pub json: Option<PathBuf>,
    /// No summary line.
    pub quiet: bool,
    /// Say more.
    pub verbose: bool,
}

/// Nothing to run.
pub enum Stop {
    /// Help or version: print it.
    Text(String),
    /// A mistake, in one line.
    Misuse(String),
}

/// Gives any process tree what a cgroup gives: limits, accounting and a kill that leaves nothing,
/// without root and without a cgroup mount.
#[derive(Parser)]
#[command(name = "cgrove", version)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Run a command tree under limits and account for all of it
    Run(RunArgs),
    /// Say what this place allows and which backend a run would take
    Doctor {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the live runs of this user and their cgroups
    Tree {
        /// Only this run
        name: Option<String>,
    },
    /// List the files of a live run's cgroup, and the cgroups below it (those end in /)
    Ls {
        /// The run's name, and a path below its cgroup: demo or demo/inner
        path: String,
    },
    /// Print an interface file of a live run
    Get {
        /// As for ls
        path: String,
        /// The file, e.g. pids.current
        file: String,
    },
    /// Bring all tasks of a live run to a halt
    Freeze {
        /// As for ls
        path: String,
    },
    /// Let a frozen run go on
    Thaw {
        /// As for ls
        path: String,
    },
    /// Write an interface file of a live run
    Set {
        /// As for ls
        path: String,
        /// The file, e.g. pids.max
        file: String,
        /// What to write
        #[arg(allow_hyphen_values = true)]
        value: OsString,
    },
}

#[derive(Args)]
#[command(after_help = "Exit status: the command's; 128+N if signal N killed it; 124 timed out; \
    125 cgrove failed; 126 not executable; 127 not found.")]
struct RunArgs {
    /// At most N tasks (processes and threads) at a time
    #[arg(long, value_name = "N|max", value_parser = pids_max)]
    pids_max: Option<PidsMax>,

    /// Write an interface file of the run's cgroup before the command starts, e.g. pids.max=64
    #[arg(long, value_name = "FILE=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,

    /// End the whole tree after this long (90, 1.5s, 10m)
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<Duration>,

    /// Time between SIGTERM and SIGKILL on a timeout; 0 kills at once
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    kill_grace: Duration,

    /// The group's name [default: run-PID]
    #[arg(long, value_parser = name)]
    name: Option<String>,

    /// How to hold the tree
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    backend: BackendArg,

    /// Refuse to start unless this holds: a comma list of pids, cpu, kill (each also as =exact or
    /// =sampled) and gate
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = requirement)]
    require: Vec<Requirement>,

    /// Write the report as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// No summary line
    #[arg(long, conflicts_with = "verbose")]
    quiet: bool,

    /// Name the survivors and say why this backend was taken
    #[arg(long)]
    verbose: bool,

    /// The run lasts until the last descendant ends; otherwise what COMMAND leaves behind is killed
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", value_name = "true|false")]
    keep_descendants: bool,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendArg {
    /// The strongest that works here
    Auto,
    /// Every fork asks first (seccomp user notification)
    Gate,
    /// No questions: the tree is looked at now and then
    Reaper,
}

/// `max`, or a number: an Option of its own would tell clap that the option is optional.
#[derive(Clone, Copy)]
struct PidsMax(Option<u64>);

/// Parses the arguments, the program's name first.
pub fn parse(args: Vec<OsString>) -> Result<Command, Stop> {
    let cli = Cli::try_parse_from(args).map_err(stop)?;
    Ok(match cli.command {
        Sub::Doctor { json } => Command::Doctor { json },
        Sub::Tree { name } => Command::Live(Live::Tree(name)),
        Sub::Ls { path } => Command::Live(Live::Ls(path)),
        Sub::Get { path, file } => Command::Live(Live::Get(path, file)),
        Sub::Freeze { path } => Command::Live(Live::Freeze(path, true)),
        Sub::Thaw { path } => Command::Live(Live::Freeze(path, false)),
        Sub::Set { path, file, value } => Command::Live(Live::Set(path, file, value.into_vec())),
        Sub::Run(args) => Command::Run(Run {
            options: RunOptions {
                command: args.command,
                named: args.name.is_some(),
                name: args.name.unwrap_or_else(|| format!("run-{}", std::process::id())),
                pids_max: args.pids_max.and_then(|PidsMax(max)| max),
                set: args.set,
                timeout: args.timeout,
                kill_grace: args.kill_grace,
                backend: match args.backend {
                    BackendArg::Auto => BackendChoice::Auto,
                    BackendArg::Gate => BackendChoice::Only(Backend::Gate),
                    BackendArg::Reaper => BackendChoice::Only(Backend::Reaper),
                },
                require: args.require,
                keep_descendants: args.keep_descendants,
            },
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
        }),
    })
}

/// clap's message boiled down to one line. Help that was asked for is no error.
fn stop(error: clap::Error) -> Stop {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Stop::Text(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            return Stop::Misuse(
                "no subcommand: there are run, tree, ls, get, set, freeze, thaw and doctor; see `cgrove --help`"
                    .into(),
            );
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = text.split("\n\n").next().unwrap_or_default();
            if missing.contains("COMMAND") {
                return Stop::Misuse(
                    "no command to run: it comes after the options; see `cgrove run --help`".into(),
                );
            }
        }
        ErrorKind::InvalidSubcommand => {
            let word = text.split('\'').nth(1).unwrap_or_default();
            return Stop::Misuse(format!("there is no subcommand {word}; see `cgrove --help`"));
        }
        _ => {}
    }
    // The first paragraph says what is wrong; usage and tips follow after an empty line.
    let problem = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = problem.split_whitespace().collect();
    let problem = words.join(" ");
    let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
    // The usage line names the subcommand that was meant.
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: cgrove "));
    let meant = usage.and_then(|usage| usage.split_whitespace().next());
    let meant = meant.filter(|word| word.chars().all(|c| c.is_ascii_lowercase())).unwrap_or("run");
    Stop::Misuse(format!("{problem}; see `cgrove {meant} --help`"))
}

fn pids_max(text: &str) -> Result<PidsMax, String> {
    if text == "max" {
        return Ok(PidsMax(None));
    }
    match text.parse::<u64>() {
        Ok(n) if n <= PIDS_MAX_LIMIT => Ok(PidsMax(Some(n))),
        _ => Err(format!("not a number from 0 to {PIDS_MAX_LIMIT}, nor `max`")),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((file, value)) if !file.is_empty() => Ok((file.to_owned(), value.to_owned())),
        _ => Err("write it as FILE=VALUE, e.g. pids.max=64".to_owned()),
    }
}

/// A duration with units, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .map_err(|_| "not a number of seconds that makes sense".to_owned());
    }
    humantime::parse_duration(text).map_err(|error| format!("{error} (write 90, 1m30s or 500ms)"))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(time) if time.is_zero() => Err("a timeout of 0 leaves no time to run".to_owned()),
        other => other,
    }
}

fn name(text: &str) -> Result<String, String> {
    let bad = match text {
        "" => "a name cannot be empty",
        "." | ".." => "that is not a name",
        _ if text.contains('/') => "a name has no slash",
        _ if text.contains('\n') => "a name has no line break",
        _ if text.chars().any(char::is_control) => "a name has no control characters",
        _ if text.len() > NAME_MAX => "a name has at most 255 bytes",
        _ => return Ok(text.to_owned()),
    };
    Err(bad.to_owned())
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let (name, class) = match text.split_once('=') {
        Some((name, class)) => (name, Some(class)),
        None => (text, None),
    };
    for backend in [Backend::Gate, Backend::Reaper] {
        if name == backend.name() && class.is_none() {
            return Ok(Requirement::Backend(backend));
        }
    }
    let feature = Feature::ALL.iter().find(|(known, _)| *known == name).map(|(_, f)| *f);
    let Some(feature) = feature else {
        return Err("known are pids, cpu, kill and gate".to_owned());
    };
    let class = match class {
        None => Class::Sampled,
        Some(wanted) => [Class::Sampled, Class::Exact, Class::Kernel]
            .into_iter()
            .find(|class| class.name() == wanted)
            .ok_or_else(|| "a class is sampled, exact or kernel".to_owned())?,
    };
    Ok(Requirement::Feature(feature, class))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Run, String> {
        let args = ["cgrove", "run"].iter().chain(args).map(OsString::from).collect();
        match parse(args) {
            Ok(Command::Run(run)) => Ok(run),
            Ok(_) => Err("another command".to_owned()),
            Err(Stop::Text(text) | Stop::Misuse(text)) => Err(text),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let with = run(&["--quiet", "--", "ls", "--json", "x"]).unwrap();
        let without = run(&["--quiet", "ls", "--json", "x"]).unwrap();
        assert_eq!(with.options.command, ["ls", "--json", "x"]);
        assert_eq!(with.options.command, without.options.command);
        assert!(without.json.is_none());
    }

    #[test]
    fn values() {
        let all = run(&[
            "--pids-max",
            "64",
            "--timeout",
            "1.5",
            "--kill-grace",
            "0",
            "--require",
            "pids=exact,gate",
            "--keep-descendants",
            "--json",
            "-",
            "true",
        ])
        .unwrap();
        assert_eq!(all.options.pids_max, Some(64));
        assert_eq!(all.options.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(all.options.kill_grace, Duration::ZERO);
        assert_eq!(all.options.require.len(), 2);
        assert!(all.options.keep_descendants);
        let plain = run(&["--pids-max", "max", "--keep-descendants=false", "true"]).unwrap();
        assert_eq!(plain.options.pids_max, None);
        assert!(!plain.options.keep_descendants);
    }

    #[test]
    fn mistakes_are_one_line_with_a_hint() {
        let long = "x".repeat(256);
        for args in [
            &["--pids-max", "-1", "true"][..],
            &["--pids-max", "4194305", "true"],
            &["--timeout", "0", "true"],
            &["--timeout", "0ms", "true"],
            &["--timeout", "soon", "true"],
            &["--timeout", "-3", "true"],
            &["--timeout", "nan", "true"],
            &["--name", "a/b", "true"],
            &["--name", "a\nb", "true"],
            &["--name", "..", "true"],
            &["--name", "", "true"],
            &["--name", &long, "true"],
            &["--require", "luck=exact", "true"],
            &["--require", "pids=certain", "true"],
            &["--backend", "magic", "true"],
            &["--bogus", "true"],
            &["--quiet", "--verbose", "true"],
            &[],
            &["--"],
        ] {
            let line = run(args).err().unwrap_or_else(|| panic!("{args:?} was accepted"));
            assert!(!line.contains('\n'), "{line:?}");
            assert!(line.ends_with("`cgrove run --help`"), "{line:?}");
        }
    }
}
