//! The command line: parsed without side effects into what the rest of the program wants.
//!
//! Usage errors exit with 125, not with clap's 2, because every status below 125 belongs to the
//! command; and they are one line with a hint. One file below this one per group of commands.

pub mod fault;
mod group;
mod limits;
mod live;
mod manual;
mod mount;
mod run;
mod topics;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::run::Run;
use crate::group::Group;
use crate::live::Live;
use crate::mount::Mount;
use crate::top::Top;

/// What was asked for.
pub enum Command {
    /// `cgrove run`
    Run(Box<Run>),
    /// `cgrove create`, `exec`, `rm`
    Group(Group),
    /// `cgrove doctor`
    Doctor {
        /// As JSON.
        json: bool,
        /// Without measuring.
        quick: bool,
    },
    /// What a measurement of the doctor runs.
    DoctorLoad {
        /// Its kind.
        what: String,
        /// How much of it.
        amount: u64,
    },
    /// `cgrove tree`, `ls`, `get`, `set`, `metrics`, `freeze`, `thaw`
    Live(Live),
    /// `cgrove top`
    Top(Top),
    /// `cgrove events`
    Events {
        /// The run, and the path of a group in it.
        path: String,
        /// As JSON.
        json: bool,
    },
    /// `cgrove mount`
    Mount(Mount),
    /// `cgrove man DIR`
    Manual {
        /// Where the pages go.
        dir: PathBuf,
        /// Names and contents.
        pages: Vec<(String, Vec<u8>)>,
    },
}

/// Nothing to run.
pub enum Stop {
    /// Help or version: print it.
    Text(String),
    /// A mistake, in one line.
    Misuse(String),
}

/// Gives any process tree what a cgroup gives, without root or a cgroup mount
#[derive(Parser)]
#[command(
    name = "cgrove",
    version,
    disable_help_subcommand = true,
    help_template = "{about}\nUsage: {usage}\n\n{subcommands}{after-help}",
    after_help = "More: `cgrove COMMAND --help`; `cgrove help TOPIC`: limits, backends, report,\n\
        watching, files, groups, mounting, environment, exit-status; `--version`."
)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Run a command tree under limits and account for all of it
    Run(Box<run::RunArgs>),
    #[command(flatten)]
    Group(group::GroupCommand),
    /// Say what this place allows and which backend a run would take
    Doctor {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Measure nothing, which takes some seconds
        #[arg(long)]
        quick: bool,
    },
    /// Watch the live runs, their cgroups and processes
    Top {
        /// Only this run
        name: Option<String>,
        /// Print one picture as text, with all processes
        #[arg(long)]
        once: bool,
    },
    /// Tell what happens in a live run or group, until it ends
    Events {
        /// The run's name, and a path below its cgroup: demo or demo/inner
        path: String,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Live(live::LiveCommand),
    /// Show a cgroup2 tree as a file system, to try programs on
    Mount(mount::MountArgs),
    /// Explain a topic or all options of a command
    Help {
        /// A topic or a command; without one, what there is
        topic: Option<String>,
    },
    /// Print the completions for a shell, to be loaded by it
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page cgrove(1), or write all to a directory
    Man {
        /// The directory
        dir: Option<PathBuf>,
    },
}

/// Parses the arguments, the program's name first.
pub fn parse(args: Vec<OsString>) -> Result<Command, Stop> {
    if let Some(load) = doctor_load(&args) {
        return Ok(load);
    }
    let short = Cli::command()
        .mut_subcommand("run", |run| run.override_help(run::SCREEN))
        .mut_subcommand("exec", |exec| exec.override_help(group::exec_screen()));
    let cli = short
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(stop)?;
    Ok(match cli.command {
        Sub::Run(args) => Command::Run(Box::new(args.resolve())),
        Sub::Doctor { json, quick } => Command::Doctor { json, quick },
        Sub::Group(command) => Command::Group(command.resolve()),
        Sub::Live(command) => Command::Live(command.resolve()),
        Sub::Events { path, json } => Command::Events { path, json },
        Sub::Mount(args) => Command::Mount(args.resolve()),
        Sub::Top { name, once } => Command::Top(Top { name, once }),
        Sub::Help { topic } => return Err(topics::help(topic.as_deref())),
        Sub::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cgrove", &mut script);
            return Err(Stop::Text(String::from_utf8_lossy(&script).into_owned()));
        }
        Sub::Man { dir: None } => return Err(Stop::Text(manual::first())),
        Sub::Man { dir: Some(dir) } => Command::Manual { dir, pages: manual::pages() },
    })
}

/// What the doctor starts to measure a place, which is no command of the user's.
fn doctor_load(args: &[OsString]) -> Option<Command> {
    let [_, load, what, amount] = args else { return None };
    let amount = amount.to_str()?.parse().ok()?;
    (load == "doctor-load")
        .then(|| Command::DoctorLoad { what: what.to_string_lossy().into(), amount })
}

/// The names of all commands, but for the one that explains them.
fn commands() -> String {
    let names: Vec<String> = Cli::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .map(|command| command.get_name().to_owned())
        .collect();
    match names.split_last() {
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// clap's message boiled down to one line. Help that was asked for is no error.
fn stop(error: clap::Error) -> Stop {
    let text = error.render().to_string();
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        Some(ContextValue::Strings(words)) => words.first().cloned(),
        _ => None,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return Stop::Text(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            return Stop::Misuse(format!(
                "no subcommand: there are {}; see `cgrove --help`",
                commands()
            ));
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
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let similar = context(ContextKind::SuggestedSubcommand)
                .map_or_else(String::new, |similar| format!(", but there is {similar}"));
            return Stop::Misuse(format!(
                "there is no subcommand {word}{similar}; see `cgrove --help`, or use `cgrove run -- \
                 {word}` to run a program of that name"
            ));
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
    match context(ContextKind::SuggestedArg) {
        Some(similar) => {
            Stop::Misuse(format!("{problem}, but there is {similar}; see `cgrove {meant} --help`"))
        }
        None => Stop::Misuse(format!("{problem}; see `cgrove {meant} --help`")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn run(args: &[&str]) -> Result<Run, String> {
        let args = ["cgrove", "run"].iter().chain(args).map(OsString::from).collect();
        match parse(args) {
            Ok(Command::Run(run)) => Ok(*run),
            Ok(_) => Err("another command".to_owned()),
            Err(Stop::Text(text) | Stop::Misuse(text)) => Err(text),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// Help that has to be scrolled is not read.
    #[test]
    fn help_fits_a_screen() {
        let text = |args: &[&str]| match parse(args.iter().map(OsString::from).collect()) {
            Err(Stop::Text(text)) => text,
            _ => panic!("{args:?} is no help"),
        };
        let names: Vec<String> =
            Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        let mut pages = vec![text(&["cgrove", "--help"])];
        pages.extend(names.iter().map(|name| text(&["cgrove", name, "--help"])));
        for page in &pages {
            assert!(page.lines().count() <= 24, "{} lines:\n{page}", page.lines().count());
            assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        }
        for command in ["run", "exec"] {
            let screen = text(&["cgrove", command, "--help"]);
            let full = text(&["cgrove", "help", command]);
            let cli = Cli::command();
            let it = cli.find_subcommand(command).unwrap();
            for option in it.get_opts().filter_map(clap::Arg::get_long) {
                for page in [&screen, &full] {
                    assert!(page.contains(&format!("--{option}")), "{option} is missing:\n{page}");
                }
            }
        }
        for name in &names {
            assert!(pages[0].contains(name), "{name}");
        }
    }

    #[test]
    fn mistakes_that_many_make_get_a_hint() {
        let said = |args: &[&str]| match parse(args.iter().map(OsString::from).collect()) {
            Err(Stop::Misuse(line)) => line,
            _ => panic!("{args:?} is no mistake"),
        };
        assert!(said(&["cgrove", "make", "-j2"]).contains("`cgrove run -- make`"));
        assert!(said(&["cgrove", "threeze", "x"]).contains("there is freeze"));
        assert!(said(&["cgrove", "run", "--pid-max", "3", "ls"]).contains("there is --pids-max"));
        assert!(said(&["cgrove", "help", "luck"]).contains("limits"));
    }

    #[test]
    fn manual_pages_name_every_option() {
        let pages = manual::pages();
        assert_eq!(pages[0].0, "cgrove.1");
        let run = pages.iter().find(|(name, _)| name == "cgrove-run.1").unwrap();
        let text = String::from_utf8(run.1.clone()).unwrap();
        for option in ["pids\\-max", "kill\\-grace", "keep\\-descendants"] {
            assert!(text.contains(option), "{option}: {text}");
        }
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
            &["--die-with-parent=0", "true"],
            &["--die-with-parent=me", "true"],
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
